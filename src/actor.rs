//! The one interface: what an actor is, what it is given, and where it puts what it wants done.
//!
//! Every actor is a state machine. It never touches a socket, a file, a clock or an entropy source, and it never calls a
//! sibling: what it wants of one is a message in its outbox, which the node routes; what it may *read* of one is a view in its
//! [`Context`].

use crate::base::cache::ValueCache;
use crate::base::limits::{Limits, RELAY_LINKS_MAX};
use crate::base::random::Random;
use crate::base::{Duration, Epoch, GroupId, Index, NodeId, PartitionId, Time, Token};
use crate::msg::log::FactSummary;
use crate::msg::peer::{Detour, DiskHealth, Known, Promise};
use crate::state::State;
use std::collections::VecDeque;

pub trait Actor {
    type In;
    type Out;

    /// One transition. Runs to completion: no I/O, no clock, no entropy but the context's, no call into a sibling.
    fn handle(&mut self, cx: &mut Context<'_>, input: Self::In, out: &mut Outbox<Self::Out>);

    /// When this actor next wants to be woken, and why. O(1). A stale wake-up is harmless.
    fn deadline(&self) -> Option<(Time, TimerKind)>;

    /// Asserts every invariant that is this actor's own. The simulator calls it after every round in one seed of ten, and now and
    /// then in the others; the fuzzers after every step.
    fn check(&self);
}

/// What an actor is given with every input.
#[derive(Debug)]
pub struct Context<'a> {
    /// Sampled after the event was taken from its queue.
    pub now: Time,
    pub me: NodeId,
    /// The node's present epoch.
    pub epoch: Epoch,
    /// This node's own seeded stream.
    pub random: &'a mut Random,
    /// Which peers this node supports, and which support it.
    pub liveness: &'a LivenessView,
    /// What is on its way to peers, over all groups.
    pub flow: &'a FlowView,
    /// The node's one cache of values.
    pub cache: &'a mut ValueCache,
    /// Milliseconds since 1970, by the cluster's shared clock ([`crate::base::SharedClock`]): data, never an input to safety.
    pub wall_clock_ms: u64,
    /// What this node's log still takes.
    pub room: Room,
    /// Of the group in question, a quorum of the replicas has room on its disks, as far as is known here.
    pub quorum_has_room: bool,
    /// How long a sync of the node's log takes, as of late.
    pub sync: Duration,
    pub limits: &'a Limits,
    /// What the log of the group in question has come to, for its coordinator; of other actors, nothing.
    pub state: &'a State,
}

#[cfg(test)]
impl<'a> Context<'a> {
    /// For the test of one actor: node 1 in epoch 1, a millisecond after its boot, with all the room there can be.
    pub fn of_test(random: &'a mut Random, liveness: &'a LivenessView, cache: &'a mut ValueCache) -> Context<'a> {
        Context {
            now: Time::from_millis(1),
            me: NodeId(1),
            epoch: Epoch(1),
            random,
            liveness,
            flow: FlowView::empty(),
            cache,
            wall_clock_ms: 0,
            room: Room::AMPLE,
            quorum_has_room: true,
            sync: Duration::ZERO,
            limits: &Limits::DEFAULT,
            state: State::empty(),
        }
    }
}

/// What a log still takes. While the disk has no room for a next segment, the end of the last segment is a reserve. It is given
/// up step by step, so that a vote never finds that a put took the last byte:
///
/// ```text
/// | ... whatever comes ... | what leaders had begun | what frees or ends | votes, epochs, marks, a leader's first entry |
///                          ^ full                   ^ 1/2                ^ 1/4 of the reserve                         ^ end of the segment
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes left in the last segment.
    left: u64,
    /// Of those, the bytes that are kept back.
    reserve: u64,
}

impl Room {
    /// The disk is not full.
    pub const AMPLE: Room = Room { left: u64::MAX, reserve: 0 };

    pub fn new(left: u64, reserve: u64) -> Room {
        Room { left, reserve }
    }

    /// Whether a leader begins nothing that needs room.
    pub fn is_full(self) -> bool {
        self.left < self.reserve
    }

    /// Whether entries of this many bytes may be logged, that a leader has begun somewhere.
    pub fn takes(self, bytes: u64) -> bool {
        !self.is_full() || self.left >= self.reserve / 2 + bytes
    }

    /// Whether what makes room may be logged: copies of what is still asked for, so that the rest can go.
    pub fn takes_copies(self) -> bool {
        !self.is_full() || self.left >= self.reserve / 8
    }

    /// Bytes that copies may take.
    pub fn for_copies(self) -> u64 {
        self.left.saturating_sub(self.reserve / 8)
    }

    /// Whether what needs no lasting room, deletes and the ends of transactions, may be logged in so many bytes.
    pub fn takes_ending(self, bytes: u64) -> bool {
        !self.is_full() || self.left >= self.reserve / 4 + bytes
    }
}

/// Why an actor wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// When a heartbeat is due, or support given or received lapses.
    Liveness,
    /// When the formation of the cluster should be attempted again.
    Formation,
    /// When a group without a leader should campaign, an append be repeated, or a leader without support step down.
    Replica(GroupId),
    /// When a group has campaigned for long enough, and another waits for its turn.
    Campaign,
    /// When a client's deadline passes, or a request should be routed again.
    Gateway,
    /// When the log should sync (relaxed), seal an idle tail, or retry to allocate a segment.
    Log,
    /// When a piece of a snapshot is to be sent, or sent again, or values for it to be read.
    Snapshot,
    /// When a member is to be asked for a value, or a read has waited long enough for one.
    Repair,
    /// When the next values are to be read that nobody has asked for.
    Scrub,
    /// When a stop has waited long enough for its leaderships to be taken over.
    Stop,
}

/// What an actor wants done, in order.
#[derive(Debug)]
pub struct Outbox<T>(VecDeque<T>);

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Outbox(VecDeque::new())
    }
}

impl<T> Outbox<T> {
    pub fn push(&mut self, item: T) {
        self.0.push_back(item);
    }

    pub fn pop(&mut self) -> Option<T> {
        self.0.pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the failure detector knows, as the other actors may read it. Written by `liveness` alone.
///
/// Both directions of a pair are kept: what this node promised the peer, and what the peer promised this node. The first ends
/// later than the second, by the clocks' drift bound and the time the message took.
///
/// The state of disks is here too. It decides which node should lead, and at what pace a follower is fed; it is never an input to
/// safety.
///
/// Besides, for routing alone: which nodes are reached, and through which others. A link is whole if it works in both directions.
/// That takes no second opinion: a node that has the peer's support has sent it something and was answered, within D.
#[derive(Debug, Default, Clone)]
pub struct LivenessView {
    peers: Vec<PeerLiveness>,
    /// This node's own, as its heartbeats tell it.
    pub own_disk: DiskHealth,
    /// The peer may be dead, and the others know it a little later.
    detour_patience: Duration,
}

/// One pair, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLiveness {
    pub node: NodeId,
    /// The peer's highest epoch seen.
    pub epoch: Epoch,
    /// What this node has promised the peer, and until when (this node's clock).
    pub given: Option<(Promise, Time)>,
    /// What the peer has promised this node, and until when (this node's clock, already shortened by the drift bound).
    pub received: Option<(Promise, Time)>,
    /// As its last heartbeat told it.
    pub disk: DiskHealth,
    /// The latest end of any promise received from the peer, lapsed ones included.
    pub answered_until: Time,
    /// When the latest heartbeat was sent that the peer has answered.
    pub answered: Time,
    /// It has restarted, and neither votes nor stands for election before then.
    pub votes_from: Time,
    /// The link to the peer is said to be down; believed until then.
    pub down_until: Time,
    /// The members that the peer's own links do not reach, as it last said.
    pub detours: Vec<Detour>,
    /// The epochs in which it knows members that this node's own links do not reach, as it last said.
    pub epochs: Vec<Known>,
}

impl PeerLiveness {
    fn new(node: NodeId) -> PeerLiveness {
        PeerLiveness {
            node,
            epoch: Epoch::ZERO,
            given: None,
            received: None,
            answered_until: Time::ZERO,
            answered: Time::ZERO,
            votes_from: Time::ZERO,
            down_until: Time::ZERO,
            detours: Vec::new(),
            epochs: Vec::new(),
            disk: DiskHealth::default(),
        }
    }

    /// Whether the link to the peer works in both directions.
    fn is_reached(&self, now: Time) -> bool {
        self.down_until <= now && self.received.is_some_and(|(_, until)| now < until)
    }

    /// Over how many links the peer would take a message to `node`, as it last said.
    fn links_to(&self, node: NodeId, now: Time) -> Option<u8> {
        self.given.filter(|(_, until)| now < *until)?;
        match self.detours.iter().find(|detour| detour.node == node) {
            None => Some(1),
            Some(detour) => (detour.links > 0).then_some(detour.links),
        }
    }
}

impl LivenessView {
    /// Of a node that knows no peer.
    pub const EMPTY: LivenessView = LivenessView {
        peers: Vec::new(),
        own_disk: DiskHealth { full: false, unfit: false, sync_ms: 0 },
        detour_patience: Duration::ZERO,
    };

    /// Of a node that knows no peer yet. `detour_patience`: how much longer than a peer's own promise this node waits before it
    /// believes others that they reach that peer.
    pub fn new(detour_patience: Duration) -> LivenessView {
        LivenessView { detour_patience, ..LivenessView::EMPTY }
    }

    /// What is known of a peer's disk; of one that was never heard, nothing bad.
    pub fn disk_of(&self, peer: NodeId) -> DiskHealth {
        self.peer(peer).map(|p| p.disk).unwrap_or_default()
    }

    /// The promise by which this node supports `peer` at `now`.
    pub fn supporting(&self, peer: NodeId, now: Time) -> Option<Promise> {
        self.peer(peer).and_then(|p| p.given).filter(|(_, until)| now < *until).map(|(promise, _)| promise)
    }

    /// The promise by which `peer` supports this node beyond `now`, and its end.
    pub fn supported_by(&self, peer: NodeId, now: Time) -> Option<(Promise, Time)> {
        self.peer(peer).and_then(|p| p.received).filter(|(_, until)| now < *until)
    }

    /// Whether the peer, as far as this node has seen it restart, may vote and stand for election.
    pub fn votes(&self, peer: NodeId, now: Time) -> bool {
        self.peer(peer).is_none_or(|p| p.votes_from <= now)
    }

    /// Whether the peer has answered a heartbeat that was sent at `time` or later.
    pub fn has_answered_since(&self, peer: NodeId, time: Time) -> bool {
        self.peer(peer).is_some_and(|p| p.answered >= time)
    }

    /// The highest epoch of `peer` seen; zero if none was.
    pub fn epoch_of(&self, peer: NodeId) -> Epoch {
        self.peer(peer).map_or(Epoch::ZERO, |p| p.epoch)
    }

    /// The same, or a higher epoch as told by a peer that reaches `peer` while this node does not. For what is sent a detour,
    /// never for safety: it may be wrong, and is forgotten with the next heartbeat that says nothing of it.
    pub fn epoch_told_of(&self, peer: NodeId) -> Epoch {
        let told =
            self.peers.iter().flat_map(|teller| &teller.epochs).filter(|known| known.node == peer).map(|known| known.epoch);
        told.chain([self.epoch_of(peer)]).max().unwrap_or_default()
    }

    /// Where to send what is for `node`, and over how many links it then goes: to the node itself if its link works, else to the
    /// peer that says it reaches the node over the fewest links. What peers say is a round of heartbeats old for every link. So a
    /// way may be taken for a moment that is none any more, but never one of more than [`RELAY_LINKS_MAX`] links.
    ///
    /// No peer reaches a node that died, but its last promises to others end a little later than that to this node. Until that is
    /// over there is no way, so that what could wait for the next leader is not sent after the last.
    pub fn way_to(&self, node: NodeId, now: Time) -> Option<(NodeId, u8)> {
        let destination = self.peer(node)?;
        if destination.is_reached(now) {
            return Some((node, 1));
        }
        if now < destination.answered_until + self.detour_patience {
            return None;
        }
        let reached = self.peers.iter().filter(|peer| peer.node != node && peer.is_reached(now));
        let ways = reached.filter_map(|peer| Some((peer.node, peer.links_to(node, now)?.checked_add(1)?)));
        ways.filter(|(_, links)| *links <= RELAY_LINKS_MAX).min_by_key(|(peer, links)| (*links, *peer))
    }

    /// What this node says to `peer` of the members that its own links do not reach. A way that leads through the peer is none
    /// for it.
    pub fn detours_for(&self, peer: NodeId, now: Time) -> Vec<Detour> {
        let unreached = self.peers.iter().filter(|other| other.node != peer && !other.is_reached(now));
        let links = |node| self.way_to(node, now).filter(|(next, _)| *next != peer).map_or(0, |(_, links)| links);
        unreached.map(|other| Detour { node: other.node, links: links(other.node) }).collect()
    }

    /// What this node can say to `peer` of the epochs of the members that the peer's links do not reach.
    pub fn epochs_for(&self, peer: NodeId, now: Time) -> Vec<Known> {
        let unreached = self.peer(peer).into_iter().flat_map(|entry| &entry.detours).filter_map(|detour| self.peer(detour.node));
        unreached.filter(|other| other.is_reached(now)).map(|other| Known { node: other.node, epoch: other.epoch }).collect()
    }

    pub fn peer(&self, peer: NodeId) -> Option<&PeerLiveness> {
        self.peers.binary_search_by_key(&peer, |p| p.node).ok().map(|at| &self.peers[at])
    }

    pub fn peers(&self) -> &[PeerLiveness] {
        &self.peers
    }

    /// The entry for `peer`, made if there is none. For `liveness`.
    pub fn entry(&mut self, peer: NodeId) -> &mut PeerLiveness {
        let at = match self.peers.binary_search_by_key(&peer, |p| p.node) {
            Ok(at) => at,
            Err(at) => {
                self.peers.insert(at, PeerLiveness::new(peer));
                at
            }
        };
        &mut self.peers[at]
    }
}

/// What of a peer's budget bytes of appends count against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// Entries in memory: what the peer needs now, to be counted on.
    Recent,
    /// Entries read back from the log for a peer that lags. Their share is small, so that new entries never wait for old ones.
    CatchUp,
}

/// What is on its way from this node to its peers, and what of the log is in memory, summed over all groups. Written by the node
/// alone.
#[derive(Debug, Default, Clone)]
pub struct FlowView {
    pub(crate) peers: Vec<PeerFlow>,
    /// The group whose turn it is to take what others wait for as well.
    pub(crate) turn: Option<GroupId>,
    /// Bytes of entries in memory.
    pub(crate) entry_bytes: usize,
    pub(crate) limits: Limits,
}

/// What one group has out for one peer, as its replica says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outstanding {
    pub node: NodeId,
    /// Bytes of appends not acknowledged, and of entries being read back; and of these, what counts as catching up.
    pub bytes: usize,
    pub catch_up: usize,
    /// It has more to send, and found this share spent.
    pub lacks: Option<Share>,
}

/// One peer's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerFlow {
    pub node: NodeId,
    /// Bytes of appends that are not acknowledged or are being read back; and of these, what counts as catching up.
    pub bytes: usize,
    pub catch_up: usize,
    /// Groups that wait for their turn, by share.
    pub waiting: [usize; 2],
}

impl FlowView {
    /// Of a node that sends nothing.
    pub fn empty() -> &'static FlowView {
        static EMPTY: FlowView = FlowView { peers: Vec::new(), turn: None, entry_bytes: 0, limits: Limits::DEFAULT };
        &EMPTY
    }

    /// Whether `group` may send more to `peer`. `taken`: bytes that it has taken of this budget since this view was written.
    pub fn may_take(&self, group: GroupId, peer: NodeId, share: Share, taken: usize) -> bool {
        let Some(flow) = self.peers.iter().find(|flow| flow.node == peer) else { return true };
        flow.has_room(&self.limits, share, taken) && (flow.waiting[share as usize] == 0 || self.turn == Some(group))
    }

    /// Bytes of recent entries that a group may keep for followers that lag.
    pub fn recent_bytes_max(&self) -> usize {
        if self.entry_bytes > self.limits.node_recent_bytes { 0 } else { self.limits.recent_entry_bytes }
    }
}

impl PeerFlow {
    /// Whether there is room, had `taken` more bytes been taken.
    pub fn has_room(&self, limits: &Limits, share: Share, taken: usize) -> bool {
        self.bytes + taken < limits.peer_bytes_in_flight
            && (share == Share::Recent || self.catch_up + taken < limits.peer_catch_up_bytes)
    }
}

/// Which nodes hold which partition. Computed by `ring` from the membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    partitions: Vec<Vec<NodeId>>,
}

impl Placement {
    /// From the replicas of each partition, the preferred leader first.
    pub fn new(partitions: Vec<Vec<NodeId>>) -> Placement {
        Placement { partitions }
    }

    pub fn partition_count(&self) -> u32 {
        self.partitions.len() as u32
    }

    /// The replicas of `group`, preferred leader first. Empty for a group that is no partition.
    pub fn replicas(&self, group: GroupId) -> &[NodeId] {
        group.partition().and_then(|p| self.partitions.get(p.0 as usize)).map_or(&[], Vec::as_slice)
    }

    /// The group of a key, or of a transaction's home.
    pub fn group_of(&self, token: Token) -> GroupId {
        token.partition(self.partition_count()).group()
    }

    /// Every group that is a partition.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.partition_count()).map(|p| PartitionId(p).group())
    }
}

/// The caller that asked a group to do something, and gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A request of this node's own gateway, by its number there.
    Gateway(u64),
    /// A peer's gateway, in this epoch of the peer, by its sequence.
    Peer(NodeId, Epoch, u64),
}

/// An entry that has been committed, as handed from consensus to the state it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub index: Index,
    pub fact: FactSummary,
}
