//! Composes the actors into a node: step, flush, deadline. All that a driver sees.

use crate::actor::TimerKind;
use crate::base::{ConnId, DirectoryId, Duration, Epoch, GroupId, Index, IoId, NodeId, Term, Time};
use crate::msg::client::{Request, Response, StatusReport};
use crate::msg::cluster::ClusterOptions;
use crate::msg::disk::{DiskOp, DiskResult};
use crate::msg::peer::Envelope;
use crate::wal::Recovered;
use bytes::Bytes;

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
    /// Bytes of one log segment.
    pub segment_size: u32,
    /// Bytes of values kept in memory.
    pub cache_size: usize,
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
    /// The node has stopped cleanly: everything acknowledged is durable, nothing is in flight.
    Stopped,
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
    pub commit: Index,
    pub applied: Index,
    /// Nothing is parked, queued, proposed and uncommitted, or waiting for an acknowledgement.
    pub idle: bool,
}

#[derive(Debug)]
pub struct Node {}

impl Node {
    /// A node at the start of a new life, from what its disk holds. `now` is the node's time of boot, usually zero.
    pub fn boot(_options: NodeOptions, _recovered: Recovered, _now: Time) -> Node {
        Node {}
    }

    /// One event. Effects are kept until the next flush.
    pub fn step(&mut self, _now: Time, _event: Event) {}

    /// Cuts one log batch, coalesces what is to be sent to each peer, and hands out all effects. How many steps go into
    /// a flush never changes what is correct.
    pub fn flush(&mut self, _now: Time, _effects: &mut Vec<Effect>) {}

    /// When to send [`Event::Timer`] at the latest, and why.
    pub fn deadline(&self) -> Option<(Time, TimerKind)> {
        None
    }

    /// Asserts every invariant of every actor, and those between them. Walks everything: for the simulator and the fuzzers.
    pub fn check(&self) {}

    /// This life.
    pub fn epoch(&self) -> Epoch {
        Epoch::ZERO
    }

    /// The same report that a client gets.
    pub fn status(&self, _now: Time) -> StatusReport {
        unreachable!()
    }

    /// Every replica, in order of group.
    pub fn replicas(&self, _now: Time) -> Vec<ReplicaProbe> {
        Vec::new()
    }

    /// A checksum over the entry of `group` at `index`, its term included; `None` if this node has none there.
    pub fn entry_fingerprint(&self, _group: GroupId, _index: Index) -> Option<u64> {
        None
    }

    /// Calls `visit` with key, version and value checksum (`None`: deleted) of everything applied in `group`, in key order.
    pub fn visit_applied(&self, _group: GroupId, _visit: &mut dyn FnMut(&Bytes, u64, Option<u32>)) {}
}
