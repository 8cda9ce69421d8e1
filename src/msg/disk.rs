//! What the log asks of the disk, and what it is told.
//!
//! A driver executes `Write` and `Sync` one after the other, in the order given, and all that is about files and names in theirs.
//! Between the two rows there is no order: a segment is written to only after the driver has answered that it, and its name, are
//! durable. `Read` may overtake all of them. Segment 0 is no segment but the witness of the log's end (`wal`); it is made,
//! written and synced like a segment. Every operation is answered exactly once, by its [`IoId`](crate::base::IoId), unless the
//! node ends first.

use crate::base::{Place, SegmentId};
use bytes::Bytes;
use core::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOp {
    /// Make the segment's file with `size` bytes of zeros really allocated (written or recycled, not a hole: the first sync of
    /// unwritten extents is slow), and sync the file. Its name is durable only after `SyncDirectory`. If the file exists it is
    /// emptied first.
    Create { segment: SegmentId, size: u32 },
    /// Make the names of all files made so far durable.
    SyncDirectory,
    /// Give the file of `segment`, of which nothing is needed any more, another name: it is the file of `to`, with its old bytes.
    /// The new name is durable only after `SyncDirectory`.
    Recycle { segment: SegmentId, to: SegmentId },
    /// Remove the segment's file, and give its room back.
    Remove { segment: SegmentId },
    /// Write `data` at `offset`. Durable only after a `Sync` of the segment that was begun after this succeeded.
    Write { segment: SegmentId, offset: u32, data: Vec<Bytes> },
    /// fdatasync of the segment.
    Sync { segment: SegmentId },
    /// Read the bytes at `place`.
    Read { place: Place },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskResult {
    Done,
    Data(Bytes),
    Failed(DiskError),
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskError {
    /// No room. Only `Create` may say this without the node halting: segments are allocated in advance.
    Full {
        /// How many bytes more would have been enough; 0 if that is not known.
        lacking: u32,
    },
    /// The disk said no: a write or sync so answered halts the node, a read so answered counts as rot.
    Io(String),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::Full { lacking } => write!(f, "no space left on the disk ({lacking} more bytes are needed)"),
            DiskError::Io(what) => write!(f, "{what}"),
        }
    }
}

impl std::error::Error for DiskError {}

/// The disk as it is before a node runs: what recovery reads. Blocking; the node is not alive yet.
pub trait LogDevice {
    /// The segments there are, in ascending order, each with its size in bytes.
    fn list(&mut self) -> Result<Vec<(SegmentId, u64)>, DiskError>;
    /// Up to `length` bytes of `segment` from `offset`; fewer only at the end of the file.
    fn read(&mut self, segment: SegmentId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError>;
    /// Makes what `read` shows durable, data and names. Recovery calls it before it believes anything: after the crash of
    /// a process, what the page cache shows may never have reached the medium.
    fn sync(&mut self) -> Result<(), DiskError>;
}
