//! What everything else is written in: time, identifiers, limits, random streams, bounded queues.
//!
//! Imports nothing of ours. Does no I/O, reads no clock, draws no entropy: `tests/tidy.rs` holds that
//! over the whole core.

pub mod cache;
pub mod hash;
pub mod id;
pub mod key;
pub mod limits;
pub mod random;
pub mod sometimes;
pub mod time;

pub use id::{
    ClusterId, ConnId, DirectoryId, Epoch, GroupId, Index, IoId, Lsn, NodeId, PartitionId, Place, SegmentId, Term, Token, Version,
};
pub use key::Key;
pub use sometimes::Sometimes;
pub use time::{Duration, SharedClock, Time};
