//! Composes the actors into a node: step, flush, deadline. All that a driver sees.
//!
//! ```text
//! Event -> step -> [ router: one flat match, a FIFO drained before step returns ] -> flush -> Effects
//! ```
//!
//! - [`router`](self): `router.rs`: which actor's output is which actor's input;
//! - [`gate`]: the one place that says what an outgoing message waits for;
//! - `relay.rs`: what goes through other nodes where a link is cut;
//! - [`campaigns`](self): `campaigns.rs`: which groups campaign at a time; `syncs.rs`: how long a sync takes;
//! - `checkpoints.rs`: when and how the groups' states are copied into the log, so that a boot replays little of it;
//! - `repairs.rs`: how a value that has rotted comes from another member; `scrub.rs`: how rot is looked for; `compaction.rs`: how room comes back;
//! - `snapshots.rs`: how a group's state is sent to a member that lacks what no log holds any more;
//! - `flow.rs`: what all groups together have on their way to each peer;
//! - `report.rs`: what the node says of itself; [`health`]: what its operator is told.
//!
//! A driver calls `step` any number of times, then `flush` once, and carries out the effects. How many steps go into a flush
//! never changes what is correct.

mod campaigns;
mod checkpoints;
mod compaction;
mod flow;
pub mod gate;
pub mod health;
mod leaderships;
mod relay;
mod repairs;
mod report;
mod router;
mod scrub;
mod snapshots;
mod syncs;
#[cfg(test)]
mod tests;

use crate::actor::{Actor, Placement, TimerKind};
use crate::base::cache::ValueCache;
use crate::base::limits::Limits;
use crate::base::random::{self, Random, Rng};
use crate::base::{
    ConnId, DirectoryId, Duration, Epoch, GroupId, Index, IoId, Lsn, NodeId, Place, SharedClock, Sometimes, Term, Time,
};
use crate::gateway::{self, Gateway};
use crate::liveness::{Liveness, LivenessOptions};
use crate::msg::client::{Request, Response};
use crate::msg::cluster::ClusterOptions;
use crate::msg::configuration::Configuration;
use crate::msg::disk::{DiskOp, DiskResult};
use crate::msg::log::LogBase;
use crate::msg::peer::{Envelope, Lane, PeerMessage};
use crate::replica::log::GroupLog;
use crate::replica::{self, Replica, ReplicaOptions};
use crate::ring::membership::{self, Membership, MembershipOptions};
use crate::ring::placement;
use crate::store::Store;
use crate::txn::Coordinator;
use crate::wal::{self, Log, LogOptions, Record, Recovered, RecoveredGroup};
use campaigns::Campaigns;
use checkpoints::Checkpoints;
use compaction::Compaction;
use flow::{Flow, Noted};
use gate::Gate;
use health::{Leads, Loss, Rot, Vitals};
use repairs::Repairs;
use router::{Outboxes, Work};
use scrub::Scrub;
use snapshots::Snapshots;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use syncs::Syncs;

/// What a node is told when it boots.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    pub me: NodeId,
    /// For a directory that is empty: its id, freshly drawn. A directory that is not empty has its own.
    pub directory: DirectoryId,
    /// Where peers and clients reach this node.
    pub address: String,
    pub zone: String,
    pub weight: u16,
    /// All initial members, this node among them.
    pub initial_members: Vec<NodeId>,
    pub cluster: ClusterOptions,
    pub heartbeat_interval: Duration,
    /// Zero: acknowledge only what is synced.
    pub wal_sync_interval: Duration,
    /// How often a checkpoint is begun at least, if there is enough to copy; zero: for the bytes logged alone.
    pub snapshot_interval: Duration,
    /// Bytes a second of groups' states that are sent to members that lag.
    pub catch_up_rate: u64,
    /// How long a scrub takes, which reads every value; zero: none is made unless asked for.
    pub scrub_interval: Duration,
    /// Bytes of one log segment.
    pub segment_size: u32,
    /// Bytes of values kept in memory.
    pub cache_size: usize,
    pub limits: Limits,
    /// [`DELETED_KEPT`](crate::base::limits::DELETED_KEPT), but for tests: the same on all nodes.
    pub deleted_kept: u64,
    /// Seeds the node's own random stream.
    pub seed: u64,
}

/// What happens to a node.
#[derive(Debug)]
pub enum Event {
    /// An envelope from a peer.
    Net(NodeId, Envelope),
    Client(ConnId, Request),
    /// The connection is gone: answers to it go nowhere.
    ClientClosed(ConnId),
    Disk(IoId, DiskResult),
    /// A hint for routing and the dashboard; never an input to safety.
    Link(NodeId, LinkState),
    /// Milliseconds since 1970, as data.
    WallClock(u64),
    /// A deadline has passed, or may have.
    Timer,
    /// Hand leaderships away, finish, and answer `Stopped`.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    Up,
    Down,
}

/// What a node wants done.
#[derive(Debug)]
pub enum Effect {
    Send(NodeId, Envelope),
    Reply(ConnId, Response),
    Disk(IoId, DiskOp),
    /// A read found rot on the disk: for the operator alone.
    Rot(Rot),
    /// No replica has a value any more: for the operator alone.
    Lost(Loss),
    /// The node has stopped cleanly: everything acknowledged is durable, nothing is in flight.
    Stopped,
    /// The node's directory is an old copy. The driver ends the node, as a crash of the process would, and boots another from the
    /// directory.
    StartOver,
    /// The node must not go on: its disk failed. The driver ends it, saying what and where.
    Halt(Fatal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal(pub String);

/// What one replica looks like from outside: for checkers, never for decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaProbe {
    pub group: GroupId,
    pub term: Term,
    pub leader: Option<NodeId>,
    pub leads: bool,
    /// This node leads and may serve reads by its lease now.
    pub has_lease: bool,
    pub last: Index,
    /// Up to here the group's log is empty.
    pub base: Index,
    /// This node's own copy may be acknowledged up to here.
    pub durable: Index,
    pub commit: Index,
    pub applied: Index,
    /// Nothing is parked, queued, proposed and uncommitted, or waiting for an acknowledgement.
    pub idle: bool,
    /// What it acknowledged, and how it voted, may be forgotten.
    pub amnesiac: bool,
}

/// One partition's replica on this node, and its state.
#[derive(Debug)]
struct Group {
    replica: Replica,
    store: Store,
    coordinator: Coordinator,
    /// When the group's actors are woken, as it is in `timers`: when the first of them wants to be, or earlier.
    timer: Option<Time>,
    /// What was last noted of it.
    noted: Noted,
    leads: Leads,
}

impl Group {
    /// When the first of its actors wants to be woken.
    fn deadline(&self) -> Option<Time> {
        let wanted = [self.replica.deadline(), self.store.deadline(), self.coordinator.deadline()];
        wanted.into_iter().flatten().map(|(at, _)| at).min()
    }
}

/// A node: every actor, and what is on its way between them and out.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    epoch: Epoch,
    booted: Time,
    /// Of the record that makes the present epoch durable: no message leaves the node before.
    epoch_lsn: Lsn,
    /// The last epoch may have lost what it acknowledged, and not all groups have caught up since.
    lossy: bool,
    /// Groups that have not caught up.
    lossy_groups: usize,
    /// The log was damaged: where its groups stand is to be logged with this epoch.
    forgot: bool,
    /// Groups of which recovery found nothing may have had something.
    amnesiac: bool,
    /// The replay met damage: once a checkpoint lets the next begin behind it, it is out of the way.
    was_damaged: bool,
    /// There was an epoch before this one, whose promises may still hold.
    reborn: bool,
    random: Random,
    cache: ValueCache,
    log: Log,
    membership: Membership,
    liveness: Liveness,
    placement: Placement,
    groups: BTreeMap<GroupId, Group>,
    gateway: Gateway,
    /// What recovery found of groups, until the membership says which are ours.
    recovered: BTreeMap<GroupId, RecoveredGroup>,
    /// The groups' timers.
    timers: BTreeSet<(Time, GroupId)>,
    /// What all groups together have on their way.
    flow: Flow,
    /// Leaders with proposals to send at the next flush.
    dirty: BTreeSet<GroupId>,
    work: VecDeque<Work>,
    outboxes: Outboxes,
    gate: Gate,
    campaigns: Campaigns,
    snapshots: Snapshots,
    repairs: Repairs,
    scrub: Scrub,
    checkpoints: Checkpoints,
    compaction: Compaction,
    syncs: Syncs,
    /// The last group whose leadership each peer was told of, or could have been.
    told: BTreeMap<NodeId, GroupId>,
    /// What the next flush sends, by lane first: what must not wait leaves before any bulk.
    outgoing: BTreeMap<(Lane, NodeId), Vec<PeerMessage>>,
    effects: Vec<Effect>,
    /// The record of the formation that is being logged.
    formation_lsn: Option<Lsn>,
    /// The mark about this node itself that is being logged: see [`Effect::StartOver`].
    start_over_lsn: Option<Lsn>,
    /// Peers with a mark that is being logged, before which they are not let in.
    news: BTreeMap<NodeId, Lsn>,
    /// When the marks of peers were last logged.
    marks_at: Time,
    stop: Stop,
    unfinished: Option<health::Unfinished>,
    counters: report::Counters,
    vitals: Vitals,
    clock: SharedClock,
    /// What the tokens of all groups take in memory.
    token_bytes: usize,
}

/// A clean stop, step by step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// Leaderships are being handed over, and requests finished, until then at the latest.
    Draining(Time),
    /// The last record is being made durable.
    Sealing(Lsn),
    Done,
}

/// How long a stop waits for leaderships to be taken over and requests to be finished.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// Marks of peers' logs are logged at most this often, and only along with other records.
const MARKS_INTERVAL: Duration = Duration::from_secs(1);

impl Node {
    /// A node at the start of a new epoch, from what its disk holds. `now` is the node's time of boot, usually zero.
    pub fn boot(mut options: NodeOptions, recovered: Recovered, now: Time) -> Node {
        options.initial_members.sort_unstable();
        options.initial_members.dedup();
        let mut random = random::stream(options.seed, "node");
        let epoch = recovered.epoch.following(random.next_u64());
        let directory = recovered.directory.unwrap_or(options.directory);
        // What the cluster was formed with goes before what this start says.
        let cluster = recovered.formation.as_ref().map_or(options.cluster, |formation| formation.options);
        let membership = Membership::new(
            MembershipOptions {
                directory,
                address: options.address.clone(),
                zone: options.zone.clone(),
                weight: options.weight,
                initial: options.initial_members.clone(),
                cluster,
                greeting_interval: options.heartbeat_interval * 4,
                silent_after: options.limits.original_silent(),
            },
            recovered.formation,
            &recovered.peer_marks,
            now,
        );
        let liveness = Liveness::new(LivenessOptions {
            heartbeat_interval: options.heartbeat_interval,
            support: Duration::from_millis(u64::from(cluster.support_ms)),
            clock_drift_ppm_max: cluster.clock_drift_ppm_max,
        });
        let log_options = LogOptions {
            me: options.me,
            directory,
            segment_size: options.segment_size,
            sync_interval: options.wal_sync_interval,
            seal_after: Duration::from_secs(1),
            batch_bytes: options.limits.batch_bytes,
        };
        options.cluster = cluster;
        let mut node = Node {
            cache: ValueCache::new(options.cache_size, &options.limits),
            flow: Flow::new(options.limits.clone()),
            options,
            epoch,
            booted: now,
            epoch_lsn: Lsn::ZERO,
            lossy: !recovered.lossless,
            lossy_groups: 0,
            forgot: recovered.forgot,
            amnesiac: recovered.amnesiac,
            was_damaged: !recovered.damage.is_empty(),
            reborn: recovered.epoch != Epoch::ZERO || recovered.forgot,
            random,
            log: Log::new(log_options, recovered.tail),
            membership,
            liveness,
            placement: Placement::default(),
            groups: BTreeMap::new(),
            gateway: Gateway::default(),
            recovered: recovered.groups,
            timers: BTreeSet::new(),
            dirty: BTreeSet::new(),
            work: VecDeque::new(),
            outboxes: Outboxes::default(),
            gate: Gate::default(),
            campaigns: Campaigns::default(),
            snapshots: Snapshots::default(),
            repairs: Repairs::default(),
            scrub: Scrub::default(),
            checkpoints: Checkpoints::after_replay_of(recovered.start, recovered.replayed),
            compaction: Compaction::default(),
            syncs: Syncs::default(),
            told: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            effects: Vec::new(),
            formation_lsn: None,
            start_over_lsn: None,
            news: BTreeMap::new(),
            marks_at: now,
            stop: Stop::No,
            unfinished: None,
            counters: report::Counters::default(),
            vitals: Vitals::default(),
            clock: SharedClock::default(),
            token_bytes: 0,
        };
        node.work.push_back(Work::Log(wal::In::Append(Record::Epoch { epoch, forgot: recovered.forgot })));
        node.drain(now);
        node.epoch_lsn = node.log.last_lsn();
        node.liveness.set_durable(node.log.durable_lsn());
        node.liveness.set_previous(recovered.epoch);
        node.work.push_back(Work::Membership(membership::In::Start));
        node.drain(now);
        node
    }

    /// One event. Effects are kept until the next flush.
    pub fn step(&mut self, now: Time, event: Event) {
        match event {
            Event::Net(from, envelope) => self.on_envelope(now, from, envelope),
            Event::Client(conn, request) => self.on_request(now, conn, request),
            Event::ClientClosed(_) => {}
            Event::Disk(io, result) => {
                self.syncs.ended(now, io);
                self.work.push_back(Work::Log(wal::In::Disk(io, result)));
            }
            Event::Link(peer, state) => {
                let up = state == LinkState::Up;
                self.work.push_back(Work::Liveness(crate::liveness::In::Link { peer, up }));
                self.work.push_back(Work::Gateway(gateway::In::Link { peer, up }));
            }
            Event::WallClock(millis) => {
                self.vitals.hear_own_clock(now, millis);
                self.clock.hear(now, millis);
            }
            Event::Timer => self.on_timer(now),
            Event::Stop => self.on_stop(now),
        }
        self.drain(now);
    }

    /// Cuts one log batch, coalesces what is to be sent to each peer in each lane, and hands out all effects. How many steps go
    /// into a flush never changes what is correct.
    pub fn flush(&mut self, now: Time, effects: &mut Vec<Effect>) {
        for group in std::mem::take(&mut self.dirty) {
            self.work.push_back(Work::Replica(group, replica::In::Flush));
        }
        self.drain(now);
        self.give_turns(now);
        self.log_marks(now);
        if self.start_over_lsn.is_none() {
            self.advance_checkpoint(now);
        }
        self.advance_snapshot(now);
        self.advance_repairs(now);
        self.advance_scrub(now);
        let stopped = self.advance_stop(now);
        self.work.push_back(Work::Log(wal::In::Flush));
        self.drain(now);
        let outgoing = std::mem::take(&mut self.outgoing);
        for ((_, to), messages) in outgoing {
            let envelope = Envelope {
                cluster: self.membership.cluster(),
                from: self.options.me,
                directory: self.membership.directory(),
                epoch: self.epoch,
                messages,
            };
            self.effects.push(Effect::Send(to, envelope));
        }
        effects.append(&mut self.effects);
        if stopped {
            effects.push(Effect::Stopped);
        } else if self.stop == Stop::No && self.start_over_lsn.is_some_and(|lsn| self.log.durable_lsn() >= lsn) {
            effects.push(Effect::StartOver);
        }
    }

    /// Groups that waited for a peer's budget send, as far as there is room again.
    fn give_turns(&mut self, now: Time) {
        while let Some((id, node, share)) = self.flow.next_turn() {
            if let Some(group) = self.groups.get_mut(&id) {
                Sometimes::GroupGetsTurnToSend.reached();
                group.noted.leaves(node, share);
                self.work.push_back(Work::Replica(id, replica::In::Flush));
                self.drain(now);
            }
        }
        self.flow.end_turns();
    }

    /// The block of a segment that is being read for a compaction.
    pub fn block_read(&self) -> Option<Place> {
        self.compaction.asked()
    }

    /// When to send [`Event::Timer`] at the latest, and why.
    pub fn deadline(&self) -> Option<(Time, TimerKind)> {
        let group = self.timers.first().map(|(at, group)| (*at, TimerKind::Replica(*group)));
        let stop = match self.stop {
            Stop::Draining(until) => Some((until, TimerKind::Stop)),
            _ => None,
        };
        let turn = self.campaigns.deadline().map(|at| (at, TimerKind::Campaign));
        let actors = [
            self.liveness.deadline(),
            self.membership.deadline(),
            self.gateway.deadline(),
            self.log.deadline(),
            group,
            stop,
            turn,
            self.snapshots.deadline().map(|at| (at, TimerKind::Snapshot)),
            self.repairs.deadline().map(|at| (at, TimerKind::Repair)),
            self.scrub.deadline().map(|at| (at, TimerKind::Scrub)),
        ];
        actors.into_iter().flatten().min()
    }

    fn on_timer(&mut self, now: Time) {
        let due = |deadline: Option<(Time, TimerKind)>| deadline.is_some_and(|(at, _)| at <= now);
        if due(self.liveness.deadline()) {
            self.liveness.set_durable(self.log.durable_lsn());
            self.liveness.set_disk(self.log.room().is_full(), self.log.sync_latency(now));
            self.work.push_back(Work::Liveness(crate::liveness::In::Timer));
        }
        if due(self.membership.deadline()) {
            self.work.push_back(Work::Membership(membership::In::Timer));
        }
        if due(self.gateway.deadline()) {
            self.work.push_back(Work::Gateway(gateway::In::Timer));
        }
        if due(self.log.deadline()) {
            self.work.push_back(Work::Log(wal::In::Timer));
        }
        self.grant_turns(now);
        while let Some((at, group)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, group));
            if let Some(group) = self.groups.get_mut(&group) {
                group.timer = None;
            }
            self.work.push_back(Work::Replica(group, replica::In::Timer));
            self.work.push_back(Work::Store(group, crate::store::In::Timer));
            self.work.push_back(Work::Coordinator(group, crate::txn::In::Timer));
        }
    }

    /// The cluster has formed, durably here: make a replica of every partition that is placed here.
    fn join(&mut self, formation: &crate::msg::cluster::Formation) {
        self.placement = placement::compute(formation);
        self.options.cluster = formation.options;
        let support = Duration::from_millis(u64::from(formation.options.support_ms));
        let no_vote_until = if self.reborn { self.booted + support } else { Time::ZERO };
        let mut recovered = std::mem::take(&mut self.recovered);
        for id in self.placement.groups() {
            let voters = self.placement.replicas(id).to_vec();
            if !voters.contains(&self.options.me) {
                continue;
            }
            let nothing = || RecoveredGroup { amnesiac: self.amnesiac, ..RecoveredGroup::default() };
            let mut found = recovered.remove(&id).unwrap_or_else(nothing);
            self.checkpoints.adopt(id, &found);
            self.snapshots.adopt(id, found.installing.take(), &self.options);
            let mut state = found.fold(self.options.limits.leaf_bytes);
            state.set_deleted_kept(self.options.deleted_kept);
            self.token_bytes += state.tokens().size();
            let first = found.configuration.map_or_else(|| Configuration::of(voters), |configuration| *configuration);
            let log = GroupLog::recovered(found.base, first, found.entries, state.applied());
            let store = Store::new(id, state, self.booted);
            let coordinator = Coordinator::new(id, self.placement.partition_count());
            let synced = self.options.wal_sync_interval.is_zero();
            let options =
                ReplicaOptions { group: id, support, no_vote_until, lossy: self.lossy, amnesiac: found.amnesiac, synced };
            let replica = Replica::new(options, found.state, log);
            let leads = self.vitals.add(&replica);
            let group = Group { replica, store, coordinator, timer: None, noted: Noted::default(), leads };
            self.groups.insert(id, group);
        }
        if self.was_damaged {
            self.checkpoints.want();
        }
        if self.forgot {
            let last = self.groups.keys().next_back().copied();
            let stands: Vec<_> = self.groups.keys().flat_map(|id| self.stands(*id, Some(*id) == last)).collect();
            self.work.extend(stands.into_iter().map(|record| Work::Log(wal::In::Append(record))));
        }
        self.keep_reserve(self.copy_bytes());
        self.start_scrub(self.booted);
        if self.lossy {
            self.lossy_groups = self.groups.len();
            self.note_caught_up();
        }
        let peers = formation.members.iter().map(|m| m.node).filter(|node| *node != self.options.me).collect();
        self.work.push_back(Work::Gateway(gateway::In::Joined(self.placement.clone())));
        self.work.push_back(Work::Liveness(crate::liveness::In::Start(peers)));
    }

    /// Where the group's log ends, and whether the group is whole. Its term and vote are said again: should their own records rot,
    /// nothing of the entries would tell.
    fn stands(&self, group: GroupId, is_last: bool) -> [Record; 2] {
        let replica = &self.groups[&group].replica;
        let last = LogBase { index: replica.log().last_index(), term: replica.log().last_term() };
        let stands = Record::Stands { group, last, whole: !replica.is_amnesiac(), is_last };
        [Record::HardState(group, replica.hard_state()), stands]
    }

    /// Once no group lacks anything that an earlier epoch acknowledged, the log says so: were only this process to end now, the
    /// next epoch would begin whole.
    fn note_caught_up(&mut self) {
        if self.lossy && self.lossy_groups == 0 {
            Sometimes::LossyNodeCaughtUp.reached();
            self.lossy = false;
            self.work.push_back(Work::Log(wal::In::Append(Record::CaughtUp)));
        }
    }

    /// Logs how far peers' logs are known to be durable, along with other records: not alone, or two idle nodes would keep each
    /// other writing. (Which log it is that counts for a peer is logged at once: see `on_envelope`.)
    fn log_marks(&mut self, now: Time) {
        if self.log.has_unflushed() && now.since(self.marks_at) >= MARKS_INTERVAL {
            self.log_grown_marks(now);
        }
    }

    fn log_grown_marks(&mut self, now: Time) {
        self.marks_at = now;
        for (node, mark) in self.membership.take_grown_marks() {
            self.run_log(now, wal::In::Append(Record::PeerMark(node, mark)));
        }
    }

    /// Whether the record of the present epoch is durable, and with it that something was forgotten.
    pub fn has_durable_epoch(&self) -> bool {
        self.log.durable_lsn() >= self.epoch_lsn
    }

    /// The directory is an old copy, and most of the others find the original silent. What it lacks must come from a quorum of
    /// each group without this node: with fewer, it is left as it is.
    fn start_over(&mut self, now: Time) {
        let Some(mark) = self.membership.outdated().filter(|_| self.start_over_lsn.is_none()) else { return };
        let me = self.options.me;
        let has_peers =
            |group: &Group| group.replica.configuration().has_quorum(|node| node != me && self.membership.consents(now, node));
        if self.stop == Stop::No && self.groups.values().all(has_peers) {
            Sometimes::OldCopyStartsOver.reached();
            self.run_log(now, wal::In::Append(Record::PeerMark(me, mark)));
            self.start_over_lsn = Some(self.log.last_lsn());
        }
    }

    fn on_stop(&mut self, now: Time) {
        if self.stop == Stop::No {
            self.stop = Stop::Draining(now + STOP_PATIENCE);
            for group in self.groups.keys() {
                self.work.push_back(Work::Replica(*group, replica::In::Stop));
            }
            self.work.push_back(Work::Gateway(gateway::In::Stop));
        }
    }

    /// A stop goes on: handed over -> last record -> durable -> stopped. `true`: it just has.
    fn advance_stop(&mut self, now: Time) -> bool {
        match self.stop {
            Stop::Draining(until) => {
                let shared = |group: &&Group| group.replica.leads() && group.replica.configuration().voters().len() > 1;
                let leads = self.groups.values().any(|group| shared(&group));
                // What peers have forwarded is in the stores alone.
                let busy = || !self.gateway.is_idle() || self.groups.values().any(|g| g.replica.leads() && !g.store.is_idle());
                if now < until && (leads || busy()) {
                    return false;
                }
                if now >= until {
                    Sometimes::StopLosesPatience.reached();
                    let leaderships = self.groups.values().filter(shared).count();
                    self.unfinished = Some(health::Unfinished { leaderships, requests: self.gateway.requests_in_progress() });
                }
                Sometimes::StopWhileLossy.when(self.lossy);
                // It says that nothing acknowledged is missing: not true of a node that still has to catch up.
                if !self.lossy {
                    // The next epoch is to know the peers' last ones: those that restarted since would have to wait.
                    self.log_grown_marks(now);
                    self.run_log(now, wal::In::Append(Record::Clean));
                }
                self.stop = Stop::Sealing(self.log.last_lsn());
                false
            }
            Stop::Sealing(lsn) if self.log.durable_lsn() >= lsn && self.log.is_witnessed(now, lsn) => {
                self.stop = Stop::Done;
                let peers = self.members().into_iter().filter(|node| *node != self.options.me).collect();
                self.work.push_back(Work::Gateway(gateway::In::End(peers)));
                self.drain(now);
                true
            }
            _ => false,
        }
    }
}
