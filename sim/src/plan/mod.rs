//! What a run does, as plain data: `seed -> plan -> run`.
//!
//! A seed is expanded into a plan before anything runs. So a failing run can be shrunk by taking parts out of its plan, and a
//! saved plan outlives changes to the generator. All times are simulated milliseconds from the start of the run.
//!
//! [`generate`](Plan::generate) draws most plans by *swarm* (Groce et al., 2012: each seed draws which kinds of fault it uses at
//! all, and how hard). It draws one in four from the table of [`scenarios`], which aim at states that chance rarely reaches. Some
//! of those are *steered*: they cast every node in its part, and delay single kinds of message.

mod behind;
mod compacting;
pub(crate) mod draws;
mod generate;
pub mod operations;
mod options;
pub mod scenarios;
mod standing;
mod steered;
pub mod transactions;

pub use crate::faults::FaultKind;
use crate::points::Point;
pub use options::Setting;
use ringseed::actor::Placement;
use ringseed::base::limits::{DELETED_KEPT, Limits, TOKEN_LIFETIME};
use ringseed::base::{ClusterId, DirectoryId, GroupId, NodeId};
use ringseed::msg::cluster::{ClusterOptions, Formation, Member};
use ringseed::msg::peer::{Carried, PeerMessage, ReplicaMessage};
use ringseed::ring::placement;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
pub use transactions::TransactionPlan;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The random streams of the run are drawn from it: network, disks, clients, schedule.
    pub seed: u64,
    /// `swarm`, or the scenario's name.
    pub scenario: String,
    pub cluster: ClusterPlan,
    /// Node `i + 1` is the `i`-th.
    pub nodes: Vec<NodePlan>,
    pub workload: WorkloadPlan,
    /// What the clients ask, one by one, instead of what `workload` would have them draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<operations::Operation>>,
    pub network: NetworkPlan,
    pub disk: DiskPlan,
    /// The fault phase ends here.
    pub faults_ms: u64,
    /// From here until the fault phase ends every link is whole and every node runs: no replica has a reason to campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calm_from_ms: Option<u64>,
    pub ending: Ending,
    pub faults: Vec<Fault>,
    /// Outlasts the other faults. While it stands, whatever has a majority to serve it must be served: see [`Standing`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
}

/// What plans are called: see [`Plan::scenario`].
pub fn scenario_names() -> impl Iterator<Item = &'static str> {
    let tables = scenarios::TABLE.iter().chain(transactions::TABLE);
    std::iter::once("swarm").chain(tables.map(|scenario| scenario.name))
}

/// A lasting partial fault: a part of the cluster is sick for good, the rest is whole. Or all disks are slow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Within the fault phase, so that it finds operations in flight.
    pub at_ms: u64,
    /// Names its nodes by their numbers.
    pub kind: FaultKind,
}

/// What all nodes agree on; see [`ringseed::msg::cluster::ClusterOptions`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterPlan {
    pub partitions: u32,
    pub replication_factor: u8,
    pub support_ms: u32,
    pub clock_drift_ppm_max: u32,
    /// For how many entries of a group deletions are remembered at least: see [`DELETED_KEPT`].
    #[serde(default = "deleted_kept")]
    pub deleted_kept: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodePlan {
    /// When it is first started.
    pub boot_ms: u64,
    pub heartbeat_ms: u64,
    /// 0: acknowledge only what is synced.
    pub wal_sync_ms: u64,
    /// How long a scrub takes; 0: there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub scrub_ms: u32,
    pub segment_kib: u32,
    pub cache_kib: u32,
    pub zone: String,
    /// What its clock shows at boot, and how much faster than the world's it runs.
    pub clock_offset_ms: u64,
    pub clock_ppm: i64,
    /// By how much its wall clock is ahead.
    #[serde(default)]
    pub wall_ahead_ms: u64,
    /// Its share of the data.
    #[serde(default = "one")]
    pub weight: u16,
    /// A member that starts again is given other settings: what the cluster was formed with stands, the rest may change.
    #[serde(default)]
    pub changes_settings: bool,
    /// The most events that are handled before a flush.
    pub steps_max: u32,
    /// Limits that are smaller than a server's, by name: see [`ringseed::base::limits::Limits`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u32>,
}

/// Limits at which a node turns nothing away.
const NOTHING_TURNED_AWAY: [&str; 7] = [
    "leaf_bytes",
    "checkpoint_bytes",
    "checkpoint_percent",
    "garbage_percent",
    "retained_bytes",
    "snapshot_piece_bytes",
    "sweep_block_bytes",
];

impl NodePlan {
    pub fn limits(&self) -> Limits {
        let mut limits = Limits::DEFAULT;
        for (name, limit) in limits.all() {
            *limit = self.limits.get(name).map_or(*limit, |small| *small as usize);
        }
        limits
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadPlan {
    pub clients: u32,
    /// Mean pause of a client between two operations.
    pub think_ms: u64,
    /// How long the cluster may try, and how much longer a client waits.
    pub timeout_ms: u32,
    /// Keys of registers, and of counters.
    pub keys: u32,
    pub counters: u32,
    /// Of a thousand operations, how many go to the first key.
    pub hot_permille: u32,
    pub value_size_max: u32,
    /// Of a thousand operations on registers, how many are of each kind; what is left are plain puts.
    pub get_permille: u32,
    pub eventual_permille: u32,
    pub compare_permille: u32,
    pub delete_permille: u32,
    pub scan_permille: u32,
    /// Of a thousand operations, how many are on counters.
    pub counter_permille: u32,
    /// Of a thousand writes, how many ask for all replicas.
    pub all_permille: u32,
    /// Of a thousand operations, before how many the client goes to another node.
    pub wander_permille: u32,
    /// Of a thousand writes, scans and tokens, how many are at a limit of what is allowed; if any is, two registers have keys of
    /// the shortest and of the longest kind.
    #[serde(default)]
    pub edge_permille: u32,
    /// Whether some keys are of another table, and some have sort keys.
    #[serde(default)]
    pub tables: bool,
    #[serde(default)]
    pub transactions: TransactionPlan,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// A message takes this long ...
    pub latency_us: u64,
    /// ... and up to this much longer.
    pub jitter_us: u64,
    /// All the time, not only during a fault.
    pub loss_permille: u32,
    pub duplication_permille: u32,
    pub reordering_permille: u32,
    /// KiB that each lane of each directed pair of nodes carries in a second; what is sent beyond waits, in order. 0: no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bandwidth_kib: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskPlan {
    pub write_us: u64,
    pub sync_us: u64,
    pub read_us: u64,
    /// Up to this much is added to any of them.
    pub jitter_us: u64,
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Every fault ends, every node runs; all must finish, converge and be readable.
    HealAll,
    /// As above, but one node stays dead.
    HealMajority,
    /// All restart, but for so many that stay dead that of one partition, at least, a bare majority returns.
    HealFew,
    /// Nothing heals; checked for safety alone.
    NeverHeal,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub at_ms: u64,
    /// How long it lasts; for a crash: how long the node stays down.
    pub for_ms: u64,
    /// If set, the fault is armed at `at_ms`, and begins when this happens at the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Trigger>,
    /// If set, at the so-manieth time that it happens; else at one of the first, by chance.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nth: u32,
    pub kind: FaultKind,
}

/// The machine that a fault hits. Leaders and followers are looked up when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Node(u16),
    LeaderOf(u32),
    FollowerOf(u32),
    /// Where the trigger happened.
    There,
}

/// What a node does that a fault may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Trigger {
    /// It sends a vote.
    Votes,
    /// It sends a vote request of its own.
    Campaigns,
    /// It sends the first append of a term.
    Leads,
    /// It sends an acknowledgement of entries.
    Acknowledges,
    /// It tells a client that a write is done.
    Answers,
    /// A write of its log begins.
    Writes,
    /// A sync of its log begins.
    Syncs,
    /// A segment is being made.
    Creates,
    /// Its disk removes a segment's file, or gives it another name.
    Frees,
    /// The first write to a segment is being synced, or was a moment ago.
    UsesNewSegment,
    /// It hands a leadership away.
    Transfers,
    /// It took a leadership over, or a leader released it.
    Releases,
    /// It reports that a leader's entries conflict with its own.
    Conflicts,
    /// It sends a piece of a group's state.
    SendsPiece,
    /// It acknowledges a piece that is not the last.
    TakesPiece,
    /// It acknowledges the last, or has no need of it.
    HasState,
    /// A point of the transactions' protocol.
    Passes(Point),
}

/// What rots of an idle log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rot {
    /// So many bytes before its end become zeros.
    Zeros(u32),
    /// So many bytes before its end become others.
    Bits(u32),
    /// The file that vouches for its end.
    Witness,
}

/// What is done with the log before a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootStep {
    Sync,
    List,
    Read,
}

/// Where synced bytes rot, before the log's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Synced {
    /// In any batch.
    Anywhere,
    /// In both copies of a segment's header.
    Header,
    /// In the first copy of a segment's header.
    HeaderCopy,
    /// In all that a running node has read back last.
    ReadBack,
    /// In so many of a running node's values, which goes on running.
    Values(u16),
}

/// What becomes of bytes that rot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decay {
    /// A bit becomes another.
    Bit,
    /// A sector becomes zeros.
    Zeros,
    /// The file ends there. (A header becomes zeros.)
    End,
}

/// Where a write went that was synced and never came to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stray {
    /// It is lost: what stood there before is there.
    Nowhere,
    /// To where another write begins.
    Elsewhere,
    /// To the same offset of another file.
    OtherFile,
    /// To the place of the next write that is as long, and that one to its place.
    Exchanged,
}

/// What nodes say to each other, as far as a plan can tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageKind {
    Heartbeat,
    HeartbeatReply,
    PreVote,
    Vote,
    VoteReply,
    Append,
    AppendReply,
    Forward,
    /// Transfers, releases, greetings, and replies to pre-votes and forwards.
    Other,
}

impl MessageKind {
    pub const ALL: &[MessageKind] = &[
        MessageKind::Heartbeat,
        MessageKind::HeartbeatReply,
        MessageKind::PreVote,
        MessageKind::Vote,
        MessageKind::VoteReply,
        MessageKind::Append,
        MessageKind::AppendReply,
        MessageKind::Forward,
        MessageKind::Other,
    ];

    pub fn of(message: &PeerMessage) -> MessageKind {
        match message {
            PeerMessage::Heartbeat(_) => MessageKind::Heartbeat,
            PeerMessage::HeartbeatReply(_) => MessageKind::HeartbeatReply,
            PeerMessage::Replica(_, ReplicaMessage::PreVote(_)) => MessageKind::PreVote,
            PeerMessage::Replica(_, ReplicaMessage::Vote(_)) => MessageKind::Vote,
            PeerMessage::Replica(_, ReplicaMessage::VoteReply(_)) => MessageKind::VoteReply,
            PeerMessage::Replica(_, ReplicaMessage::Append(_)) => MessageKind::Append,
            PeerMessage::Replica(_, ReplicaMessage::AppendReply(_)) => MessageKind::AppendReply,
            PeerMessage::Forward(_) => MessageKind::Forward,
            PeerMessage::Relayed(relayed) if matches!(relayed.carried, Carried::Forward(_)) => MessageKind::Forward,
            _ => MessageKind::Other,
        }
    }
}

/// What a power loss leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LossStyle {
    Nothing,
    /// Each sector by chance; or as many as were written before the power went; or all but one.
    Sectors,
    /// The earlier writes, torn in the last of them.
    Prefix,
    /// The later writes.
    Suffix,
    Everything,
}

impl ClusterPlan {
    pub fn options(&self) -> ClusterOptions {
        ClusterOptions {
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            support_ms: self.support_ms,
            clock_drift_ppm_max: self.clock_drift_ppm_max,
        }
    }
}

impl Standing {
    /// Whether the node, from 1, is dead while this stands.
    pub fn kills(&self, node: u16) -> bool {
        matches!(self.kind, FaultKind::Crash { target: Target::Node(dead) } if dead == node)
    }

    /// Whether the node, from 1, lives and cannot be relied on to reach the others, or to be reached, while this stands.
    pub fn cuts_off(&self, node: u16) -> bool {
        matches!(
            self.kind,
            FaultKind::Isolate { target: Target::Node(cut) }
                | FaultKind::OneWay { target: Target::Node(cut), .. }
                | FaultKind::Flapping { target: Target::Node(cut), .. } if cut == node
        )
    }

    /// The node, from 1, that should lead nothing while this stands.
    pub fn unfit(&self) -> Option<u16> {
        match self.kind {
            FaultKind::Full { target: Target::Node(node) } | FaultKind::SlowDisk { target: Target::Node(node), .. } => Some(node),
            _ => None,
        }
    }

    /// By how much the syncs of all nodes take longer while this stands, in milliseconds.
    pub fn slows_all_ms(&self) -> u64 {
        if let FaultKind::SlowDisks { sync_ms } = self.kind { sync_ms } else { 0 }
    }

    /// Whether two nodes, from 1, hear each other while this stands.
    pub fn joins(&self, one: u16, other: u16) -> bool {
        let between = |from: u16, to: u16| (from, to) == (one, other) || (to, from) == (one, other);
        match &self.kind {
            FaultKind::Partial { pairs } => !pairs.iter().any(|&(from, to)| between(from, to)),
            FaultKind::OneWayLink { from, to } => !between(*from, *to),
            _ => true,
        }
    }
}

fn one() -> u16 {
    1
}

fn deleted_kept() -> u64 {
    DELETED_KEPT
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Plan {
    /// The nodes that hold the group, from 1, the preferred leader first: as the nodes will compute it once the cluster has
    /// formed.
    pub fn replicas(&self, group: u32) -> Vec<u16> {
        let member = |(number, node): (usize, &NodePlan)| Member {
            node: NodeId(number as u16 + 1),
            directory: DirectoryId(0),
            address: String::new(),
            zone: node.zone.clone(),
            weight: node.weight,
        };
        let members = self.nodes.iter().enumerate().map(member).collect();
        let placement: Placement =
            placement::compute(&Formation { cluster: ClusterId(0), members, options: self.cluster.options() });
        placement.replicas(GroupId(group)).iter().map(|node| node.0).collect()
    }

    /// Whether some limits of nodes are smaller than a server's: of those at which a node turns something away.
    pub fn bears_little(&self) -> bool {
        self.nodes.iter().flat_map(|node| node.limits.keys()).any(|name| !NOTHING_TURNED_AWAY.contains(&&name[..]))
    }

    /// The longest pause between a node's heartbeats.
    pub fn slowest_heartbeat_ms(&self) -> u64 {
        self.nodes.iter().map(|node| node.heartbeat_ms).max().unwrap_or(0)
    }

    /// For how long a token is kept, at least, if that is shorter than a run: by the world's clock, whatever the nodes' show.
    pub fn token_lifetime_ms(&self) -> Option<u64> {
        let tick = |node: &NodePlan| node.limits.get("token_tick_ms").copied();
        let tick = u64::from(self.nodes.iter().filter_map(tick).min()?);
        // A clock that jumps may cut each tick short.
        let jumps = |fault: &Fault| matches!(fault.kind, FaultKind::ClockJump { .. });
        if self.beyond_drift_bound() || self.faults.iter().any(jumps) {
            return Some(0);
        }
        let ticks = TOKEN_LIFETIME.as_millis() as u64 / Limits::DEFAULT.token_tick_ms as u64;
        Some(ticks * tick * (1_000_000 - u64::from(self.cluster.clock_drift_ppm_max)) / 1_000_000)
    }

    /// Whether two clocks may drift apart by more than the cluster allows for. Then an answer that rests on a lease may be stale.
    pub fn beyond_drift_bound(&self) -> bool {
        let bound = i64::from(self.cluster.clock_drift_ppm_max);
        let mut fastest: Vec<i64> = self.nodes.iter().map(|n| n.clock_ppm).collect();
        let mut slowest = fastest.clone();
        for fault in &self.faults {
            match fault.kind {
                FaultKind::ClockJump { .. } => return true,
                FaultKind::ClockRate { ppm, .. } => {
                    fastest.push(ppm);
                    slowest.push(ppm);
                }
                _ => {}
            }
        }
        let spread = fastest.iter().max().unwrap_or(&0) - slowest.iter().min().unwrap_or(&0);
        spread > bound
    }
}
