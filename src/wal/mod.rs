//! The log actor: one log per node, for all its groups.

use crate::base::{DirectoryId, Duration, Epoch, GroupId, Index, IoId, Lsn, NodeId, Place, Term};
use crate::msg::cluster::Formation;
use crate::msg::disk::{DiskOp, DiskResult};
use crate::msg::log::{Entry, EntrySummary, HardState, Placed, ValuePlace};
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub struct LogOptions {
    pub me: NodeId,
    pub directory: DirectoryId,
    /// Bytes of one segment's file.
    pub segment_size: u32,
    /// Zero: acknowledge only what is synced. Above: acknowledge what is written, sync at this interval.
    pub sync_interval: Duration,
    /// How long the log is idle before its last batch is sealed.
    pub seal_after: Duration,
}

/// What is written to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The first record of a life.
    Epoch(Epoch),
    Formation(Formation),
    /// The highest durable position seen of a peer's log.
    PeerMark(NodeId, Lsn),
    HardState(GroupId, HardState),
    /// An entry, with the group's commit index as known when it was appended.
    Entry(GroupId, Entry, Index),
    /// The clean end of a life: nothing that was acknowledged is missing.
    Clean,
}

/// Whom a read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadFor {
    pub group: GroupId,
    pub tag: u64,
}

#[derive(Debug)]
pub enum In {
    Append(Record),
    /// Read a value back and verify it.
    ReadValue(ReadFor, ValuePlace),
    /// Read an entry back and verify it.
    ReadEntry(ReadFor, Place),
    Disk(IoId, DiskResult),
    /// The end of a round of steps: cut a batch.
    Flush,
    Timer,
}

#[derive(Debug)]
pub enum Out {
    Placed(Placed),
    /// What may be acknowledged now, and what is durable. `entries`: the last entry of each group among what became acknowledgeable with this.
    Progress {
        acknowledgeable: Lsn,
        durable: Lsn,
        entries: Vec<(GroupId, Index, Term)>,
    },
    Value(ReadFor, Result<Bytes, ReadError>),
    Entry(ReadFor, Result<Entry, ReadError>),
    Disk(IoId, DiskOp),
    /// Writing or syncing failed: what is on the disk is not known any more. The node must halt.
    Halt(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// The bytes fail their checksum, or the disk cannot read them.
    Corrupt {
        place: Place,
        why: String,
    },
    Overloaded,
}

/// What recovery found.
#[derive(Debug)]
pub struct Recovered {
    /// Of the segments' headers; `None` when there is no segment: the directory is empty.
    pub directory: Option<DirectoryId>,
    /// The last epoch that was durable; zero if none.
    pub epoch: Epoch,
    pub formation: Option<Formation>,
    pub peer_marks: BTreeMap<NodeId, Lsn>,
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Whether the last life was cleanly ended, or always acknowledged after syncing.
    pub lossless: bool,
    pub tail: Tail,
}

#[derive(Debug, Default)]
pub struct RecoveredGroup {
    pub state: HardState,
    /// In order of index, without holes, from 1.
    pub entries: Vec<EntrySummary>,
}

/// Where the log goes on (private to the log).
#[derive(Debug, Default)]
pub struct Tail {}

#[derive(Debug)]
pub struct Log {}

impl Log {
    pub fn new(_: LogOptions, _: Tail) -> Log {
        Log {}
    }
    pub fn last_lsn(&self) -> Lsn {
        Lsn(0)
    }
    pub fn durable_lsn(&self) -> Lsn {
        Lsn(0)
    }
    pub fn acknowledgeable_lsn(&self) -> Lsn {
        Lsn(0)
    }
    pub fn has_unflushed(&self) -> bool {
        false
    }
    pub fn is_full(&self) -> bool {
        false
    }
    pub fn bytes_allocated(&self) -> u64 {
        0
    }
    pub fn bytes_written(&self) -> u64 {
        0
    }
}
impl crate::actor::Actor for Log {
    type In = In;
    type Out = Out;
    fn handle(&mut self, _: &mut crate::actor::Context<'_>, _: In, _: &mut crate::actor::Outbox<Out>) {}
    fn deadline(&self) -> Option<(crate::base::Time, crate::actor::TimerKind)> {
        None
    }
    fn check(&self) {}
}
