//! What a group's log holds.
//!
//! The log records *facts*, never intentions: the leader has already evaluated conditions and increments against the head
//! of its log, and what is replicated is the outcome. Followers apply facts blindly, so evaluation may change between
//! versions of the program without replicas drifting apart.

use super::cluster::{Formation, PeerMark};
use super::codec::Blob;
use super::configuration::Configuration;
use super::transaction::TransactionFact;
use crate::base::hash::value_checksum;
use crate::base::{Epoch, GroupId, Index, Key, Lsn, NodeId, Place, SegmentId, Term};
use bytes::Bytes;
use minicbor::{Decode, Encode};
use std::collections::BTreeMap;

/// An entry of a group's replicated log (Raft, section 5.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Entry {
    #[n(0)]
    pub index: Index,
    #[n(1)]
    pub term: Term,
    #[n(2)]
    pub fact: Fact,
}

/// What an entry says. New kinds take new numbers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum Fact {
    /// A leader's first entry of its term: committing it commits all before it (Raft, sections 5.4.2 and 8).
    #[n(0)]
    Noop,
    /// `key` has `value` from now on; `None` deletes it. The item's version becomes the entry's index.
    #[n(1)]
    Write {
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::item_key")]
        key: Key,
        #[n(1)]
        #[cbor(with = "crate::msg::codec::maybe_blob", has_nil)]
        value: Option<Bytes>,
    },
    /// A step of a transaction.
    #[n(2)]
    Transaction(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::boxed")]
        Box<TransactionFact<Blob>>,
    ),
    /// The group's configuration from this entry on, committed or not.
    #[n(3)]
    Configuration(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::boxed")]
        Box<Configuration>,
    ),
}

impl Fact {
    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        match self {
            Fact::Noop | Fact::Configuration(_) => 0,
            Fact::Write { key, value } => key.size() + value.as_ref().map_or(0, Bytes::len),
            Fact::Transaction(fact) => fact.size(),
        }
    }

    /// Whether it brings new values. What does not frees something, or ends it: a full disk takes it as long as its reserve
    /// lasts. The decision of a transaction counts as such, values included: it was begun while there was room, and locks wait
    /// for it.
    pub fn needs_room(&self) -> bool {
        match self {
            Fact::Noop | Fact::Configuration(_) => false,
            Fact::Write { value, .. } => value.is_some(),
            Fact::Transaction(fact) => match &**fact {
                TransactionFact::Prepare { writes, .. } => writes.0.iter().any(|write| write.value.is_some()),
                TransactionFact::Decide { .. } | TransactionFact::Resolve { .. } | TransactionFact::End { .. } => false,
            },
        }
    }
}

/// The part of a replica's state that must be durable before a message of its term leaves (Raft, figure 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    pub term: Term,
    /// The node that this replica voted for in `term`.
    pub vote: Option<crate::base::NodeId>,
    /// Known to be committed when this was written. Lazy: it may be lower than what was, never higher.
    pub commit: Index,
}

/// Where a group's log begins: the last entry that it does not hold any more. That entry and all before are committed, and in the
/// group's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogBase {
    pub index: Index,
    pub term: Term,
}

/// What a recovered or remembered entry is, without its value: enough to apply it and to find its bytes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntrySummary {
    pub index: Index,
    pub term: Term,
    pub record: RecordPlace,
    pub fact: FactSummary,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactSummary {
    Noop,
    Write { key: Key, value: Option<ValuePlace> },
    Transaction(Box<TransactionFact<ValuePlace>>),
    Configuration(Box<Configuration>),
}

/// Where one record of the log lies: all of it, header included.
pub type RecordPlace = Place;

/// Where a value lies, and the checksum it must have. Values are read from here and verified before use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ValuePlace {
    #[n(0)]
    pub place: Place,
    /// [`crate::base::hash::value_checksum`] of the value.
    #[n(1)]
    pub checksum: u32,
}

impl ValuePlace {
    /// Whether these bytes are the value.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.place.length as usize && value_checksum(bytes) == self.checksum
    }
}

/// A copy of a group's state, as its replica had it: where the pieces are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// What had been applied when the copy was begun. The state is whole once the entries behind are applied to it.
    pub begin: Index,
    /// Up to here the group's log is not replayed: every member has it, or is sent the group's state if it lacks it.
    pub base: LogBase,
    /// The configuration at the base; `None`: the group's first.
    pub configuration: Option<Box<Configuration>>,
    /// Leaves first, in the order of their keys; then the other parts, in their order.
    pub pieces: Vec<Place>,
}

impl Root {
    /// The segments that its pieces are in, with how many bytes.
    pub fn segments(&self) -> BTreeMap<SegmentId, u64> {
        let mut segments = BTreeMap::new();
        self.pieces.iter().for_each(|piece| *segments.entry(piece.segment).or_default() += u64::from(piece.length));
        segments
    }
}

/// What a boot needs to know of the log before where it begins to replay.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Manifest {
    /// The replay begins with this segment.
    #[n(0)]
    pub start: SegmentId,
    #[n(1)]
    pub epoch: Epoch,
    #[n(2)]
    pub formation: Option<Formation>,
    #[n(3)]
    #[cbor(decode_with = "crate::msg::codec::long_list")]
    pub marks: Vec<(NodeId, PeerMark)>,
    #[n(4)]
    #[cbor(decode_with = "crate::msg::codec::long_list")]
    pub groups: Vec<Rooted>,
    /// The segments before `start` that are needed; the others are gone, or may go. `None`: all are.
    #[n(5)]
    #[cbor(with = "crate::msg::codec::maybe_list", has_nil)]
    pub kept: Option<Vec<SegmentId>>,
}

/// A group's hard state, and where its root is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Rooted {
    #[n(0)]
    pub group: GroupId,
    #[n(1)]
    pub term: Term,
    #[n(2)]
    pub vote: Option<NodeId>,
    #[n(3)]
    pub commit: Index,
    /// `None`: there is none yet; the group's log is replayed from its first entry.
    #[n(4)]
    pub root: Option<Place>,
    /// What the replica acknowledged, and how it voted, may be forgotten.
    #[n(5)]
    #[cbor(default)]
    pub amnesiac: bool,
}

/// The position of an entry in one node's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub group: GroupId,
    pub index: Index,
    pub term: Term,
    pub lsn: Lsn,
    pub record: RecordPlace,
    /// Where the entry's value lies, when it wrote one; a transaction's: where its values follow each other.
    pub value: Option<ValuePlace>,
}
