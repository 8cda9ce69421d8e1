//! The log actor: one write-ahead log per node, for all its groups.
//!
//! **What for.** Everything that a node must remember goes through here: entries, votes, terms, epochs, the cluster's formation.
//! A record is written once and stays where it is; the groups' indexes point at the values in it (Bitcask, Sheehy and Smith 2010;
//! WiscKey, Lu and others 2016, section 3). Group commit as in DeWitt and others 1984, section 5.2: one batch in flight, one
//! filling.
//!
//! **States.** A record is *appended* (it has its LSN and its place), *written* (the write was answered) and *durable* (a sync
//! begun after that was answered), in this order. Each is a prefix of the one before: `durable <= written <= last`. A batch is
//! *sealed* when a later batch, or the [`witness`](self) of the log's end, says that it was durable. After a failed write or sync
//! the log is *halted*: it acknowledges nothing any more, and retries nothing.
//!
//! **What must be durable before what.**
//! 1. A segment's name and its zeros, before anything is written into it.
//! 2. All of a segment, before the header of the next one, which names its end.
//! 3. A batch, before the next batch is written (strict). In relaxed syncing only a batch with an epoch, a hard state, a
//!    formation or a clean end in it; the others say in their header how far the log was durable.
//! 4. What recovery believed of the last epoch and no batch has sealed, before the first batch of this epoch: it is written once
//!    more as it is, and synced. (After a failed sync the page cache may show what the medium never got.)
//! 5. A batch, before the witness that names it is written.
//! 6. A manifest, before the header that names it: what that names, copies and roots, stands before it.
//! 7. A manifest, before the file of a segment goes that it does not name.
//!
//! **Left out on purpose**: of the log before the last checkpoint a boot reads the headers of segments alone: what rots there is
//! noticed when it is read.
//!
//! - `format`: the bytes; `FORMAT.md` beside this file has the tables and the arguments.
//! - `batch`: a batch being filled. - `log`: the actor. - `segments`: files made ahead, and used again. - [`sweep`]: values in a segment that is emptied. - `reads`: values and entries read back.
//! - `recover`: from the disk to a [`Recovered`], through a `window`. - `tail`: where a walk stands, and the check of a batch. - `replay`: what the records come to. - [`restore`]
//!   (`salvage.rs`): the same, past damage. - `checkpoint`: what a replay begins with. - `evidence`: telling a torn tail from damage. - `witness`:
//!   evidence in another file. - [`walk`]: all of a log, past what is bad in it, for who looks at it.

mod batch;
mod checkpoint;
mod error;
mod evidence;
mod format;
mod log;
mod reads;
mod recover;
mod replay;
mod salvage;
mod segments;
pub mod sweep;
mod tail;
#[cfg(test)]
mod test_disk;
#[cfg(test)]
mod tests;
pub mod walk;
mod window;
mod witness;

pub use error::{Bad, RecoverError};
pub use log::{Log, LogCounters};
pub use recover::{recover, recover_from_start};
pub use salvage::{restore, restore_what_is_left};
pub use tail::{Tail, Torn};

use crate::base::{DirectoryId, Duration, Epoch, GroupId, Index, IoId, Lsn, NodeId, Place, SegmentId, Sometimes, Term};
use crate::msg::cluster::{Formation, PeerMark};
use crate::msg::configuration::Configuration;
use crate::msg::disk::{DiskOp, DiskResult};
use crate::msg::log::{Entry, EntrySummary, HardState, LogBase, Manifest, Placed, Root, ValuePlace};
use crate::state::State;
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub struct LogOptions {
    pub me: NodeId,
    /// The data directory's id: written into every segment. When the directory had one already, recovery says it, and it wins.
    pub directory: DirectoryId,
    /// Bytes of one segment's file; taken as at least 8 KiB and at most 1 GiB.
    pub segment_size: u32,
    /// Zero: acknowledge only what is synced. Above: acknowledge what is written, sync at this interval.
    pub sync_interval: Duration,
    /// How long the log is idle before its last batch is sealed.
    pub seal_after: Duration,
    /// [`Limits::batch_bytes`](crate::base::limits::Limits::batch_bytes).
    pub batch_bytes: usize,
}

/// What is written to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The first record of an epoch. `forgot`: the log before it was damaged; what no [`Record::Stands`] behind it speaks of may
    /// lack anything.
    Epoch {
        epoch: Epoch,
        forgot: bool,
    },
    /// The group's log ends with this entry. Not `whole`: it may have had more, and votes, that are forgotten. `is_last`: of the
    /// groups of which this is said behind an epoch that forgot; the node has no others.
    Stands {
        group: GroupId,
        last: LogBase,
        whole: bool,
        is_last: bool,
    },
    Formation(Formation),
    PeerMark(NodeId, PeerMark),
    HardState(GroupId, HardState),
    /// An entry, with the group's commit index as known when it was appended.
    Entry(GroupId, Entry, Index),
    /// Nothing that was acknowledged is missing: the last record of a clean end. Behind [`Record::CaughtUp`], if the epoch began
    /// with something missing.
    Clean,
    /// Nothing is missing any more of what was when this epoch began. If syncing is relaxed, what this epoch acknowledges may be
    /// missing at its end all the same: so it says less than [`Record::Clean`].
    CaughtUp,
    /// A copy of the leaf with this fence.
    Leaf {
        group: GroupId,
        fence: Bytes,
        page: Bytes,
    },
    /// A copy of what a group's state holds beside its leaves, or of a part of it.
    Parts(GroupId, Bytes),
    /// The group's state has been copied.
    Root(GroupId, Root),
    /// Every group's root is durable.
    Manifest(Manifest),
    /// A piece of a group's state, from its leader.
    Piece {
        group: GroupId,
        /// The last entry that the state has applied.
        base: LogBase,
        /// Names the snapshot.
        snapshot: u64,
        /// Which piece it is, from 0.
        number: u64,
        /// With it the replica has all of the state: it takes the place of what it had, and the log begins at the base.
        is_last: bool,
        /// The group's log has the state's last entry: what stands behind that stays.
        joins: bool,
        parts: Bytes,
        values: Bytes,
    },
    /// Values of a group's items, which lie here from now on.
    Moved {
        group: GroupId,
        parts: Bytes,
        values: Bytes,
    },
}

/// The group that a read is for.
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
    /// Read an entry back and verify it. Whether it is the index and term that was meant is for the reader to compare.
    ReadEntry(ReadFor, Place),
    /// Read some bytes of the log as they are; whether they are right is for the reader to find out ([`sweep`]).
    ReadBlock(Place),
    /// Nothing is in this segment that is still asked for, and the manifest that says so is durable: the file may go.
    Free(SegmentId),
    Disk(IoId, DiskResult),
    /// The end of a round of steps: cut a batch.
    Flush,
    Timer,
}

#[derive(Debug)]
pub enum Out {
    Placed(Placed),
    /// Where a record lies that is a part of a checkpoint, or of a snapshot.
    Copied(Place),
    /// What may be acknowledged now, and what is durable. `entries`: the last entry of each group among what became
    /// acknowledgeable with this.
    Progress {
        acknowledgeable: Lsn,
        durable: Lsn,
        entries: Vec<(GroupId, Index, Term)>,
    },
    Value(ReadFor, Result<Bytes, ReadError>),
    Entry(ReadFor, Result<Entry, ReadError>),
    /// `None`: the disk cannot read them.
    Block(Place, Option<Bytes>),
    Disk(IoId, DiskOp),
    /// Writing or syncing failed: what is on the disk is not known any more. The node must halt.
    Halt(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// The bytes fail their checksum, or the disk cannot read them.
    Corrupt { place: Place, why: String },
    /// Too many reads wait for the disk already.
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
    pub peer_marks: BTreeMap<NodeId, PeerMark>,
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Whether the last epoch was cleanly ended, or always acknowledged after syncing (and itself began so).
    pub lossless: bool,
    /// What was cut off at the end of the log.
    pub torn: Option<Torn>,
    /// The log was damaged since its last epoch began, or an epoch that found so has not said all of it.
    pub forgot: bool,
    /// Groups of which nothing was found may have had entries, and votes.
    pub amnesiac: bool,
    /// Where the log is damaged, of what was read.
    pub damage: Vec<Bad>,
    /// The segment that the replay began with, and bytes of batches that were replayed.
    pub start: SegmentId,
    pub replayed: u64,
    pub tail: Tail,
}

impl Recovered {
    /// The last record that was recovered; zero if there is none.
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.tail.next_lsn.0 - 1)
    }

    /// The machine has been up since that epoch began, and no write or sync failed since. If the last epoch that wrote anything
    /// was not before it, all that was *written* was read, synced or not: the page cache outlives the process. So nothing can be
    /// missing but what was missing when that last epoch began. Returns whether that is so.
    pub fn on_a_machine_up_since(&mut self, since: Option<Epoch>) -> bool {
        let all_read = since.is_some_and(|since| self.epoch >= since);
        if all_read {
            Sometimes::LossForgivenOnSameMachine.when(self.tail.lossy && !self.tail.began_lossy);
            self.tail.lossy &= self.tail.began_lossy;
            self.lossless = !self.tail.lossy;
        }
        all_read
    }
}

#[derive(Debug, Default)]
pub struct RecoveredGroup {
    /// An epoch began with nothing of it: the checkpoint's copy is void.
    pub is_blank: bool,
    /// What it acknowledged, and how it voted, may be forgotten.
    pub amnesiac: bool,
    /// The last one written; its commit index is the highest that any record of the group knew.
    pub state: HardState,
    /// The group's state as it was copied last; what is committed behind it is among the entries. `None`: there was no copy.
    pub copy: Option<State>,
    /// Where the copy is, and in which segments its pieces are, with how many bytes.
    pub root: Option<(Place, BTreeMap<SegmentId, u64>)>,
    /// Where the log begins: at the base of the copy.
    pub base: LogBase,
    /// The configuration there; `None`: the group's first.
    pub configuration: Option<Box<Configuration>>,
    /// In order of index, without holes, from the base on.
    pub entries: Vec<EntrySummary>,
    /// Pieces of a state that are not all of it.
    pub installing: Option<Box<Installing>>,
    /// The state is made of pieces that begin in this segment, and there is no copy of it yet.
    pub pieces_from: Option<SegmentId>,
}

/// A state that comes in pieces.
#[derive(Debug)]
pub struct Installing {
    /// The last entry that it has applied.
    pub base: LogBase,
    /// Names the snapshot.
    pub snapshot: u64,
    /// The piece that comes next.
    pub wanted: u64,
    /// The segment that holds the first piece.
    pub from: SegmentId,
    /// What the pieces so far come to.
    pub state: State,
    /// Of their parts ([`State::digest`]).
    pub digest: u64,
}

impl RecoveredGroup {
    /// The state is whole: it takes the place of what there was.
    fn install(&mut self, installed: Installing) {
        let base = installed.base;
        let known = base.index.0.checked_sub(self.base.index.0 + 1).and_then(|at| self.entries.get(at as usize));
        if known.is_some_and(|entry| entry.term == base.term) {
            self.entries.drain(..(base.index.0 - self.base.index.0) as usize);
        } else {
            self.entries.clear();
        }
        self.state.commit = self.state.commit.max(base.index);
        self.configuration = installed.state.configuration().cloned().map(Box::new);
        (self.base, self.copy, self.root) = (base, Some(installed.state), None);
        self.pieces_from = Some(installed.from);
    }

    pub fn last_index(&self) -> Index {
        Index(self.base.index.0 + self.entries.len() as u64)
    }

    /// Drops what stands behind this entry, if the log has it.
    fn truncate_to(&mut self, last: LogBase) -> bool {
        let Some(kept) = last.index.0.checked_sub(self.base.index.0).map(|kept| kept as usize) else { return false };
        let term = match kept {
            0 => Some(self.base.term),
            _ => self.entries.get(kept - 1).map(|entry| entry.term),
        };
        let held = term == Some(last.term);
        if held {
            self.entries.truncate(kept);
            self.state.commit = self.state.commit.min(last.index);
        }
        held
    }

    /// The last entry.
    pub fn last(&self) -> LogBase {
        self.entries.last().map_or(self.base, |entry| LogBase { index: entry.index, term: entry.term })
    }

    /// What is known to be committed of the entries.
    pub fn committed(&self) -> &[EntrySummary] {
        let commit = self.state.commit.min(self.last_index()).max(self.base.index);
        &self.entries[..(commit.0 - self.base.index.0) as usize]
    }

    /// What all that is known to be committed has come to, in leaves of at most so many bytes.
    pub fn fold(&mut self, leaf_bytes: usize) -> State {
        let mut state = self.copy.take().unwrap_or_default();
        state.set_leaf_bytes(leaf_bytes);
        let copied = state.applied();
        for entry in self.committed().iter().filter(|entry| entry.index > copied) {
            state.apply(entry.index, &entry.fact, &mut |_| {});
        }
        state
    }
}
