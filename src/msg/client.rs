//! What a client asks, and what it is told.
//!
//! A client is told one of three things about an operation (promise P6): it was done; it was *rejected*, and is certainly not
//! applied; or it is *unknown*, and may have been applied. A timeout is never reported as a failure to apply.

use super::operation::{Consistency, Rejection, Single};
use super::transaction::{Failure, ItemResult, Transaction, TransactionReport, validate_keys};
use crate::base::limits::{KEY_SIZE_MAX, SCAN_ITEMS_MAX};
use crate::base::{GroupId, Index, Key, NodeId, Version};
use bytes::Bytes;
use core::fmt;
use minicbor::{Decode, Encode};

/// One request of a client. Answers carry its `id`, in any order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Request {
    /// The client's own number for it, unique among those in progress on the connection.
    #[n(0)]
    pub id: u64,
    /// For how long the cluster may go on trying, in milliseconds. What is not answered then is unknown (a write) or rejected.
    #[n(1)]
    pub timeout_ms: u32,
    #[n(2)]
    pub body: RequestBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum RequestBody {
    /// Answered by the node itself: which nodes are members, and which leads what.
    #[n(0)]
    Ring,
    /// Answered by the node itself: how it is.
    #[n(1)]
    Status,
    #[n(2)]
    Operation(#[n(0)] Single),
    /// A page of items in key order, over all partitions; atomic per partition.
    #[n(3)]
    Scan(#[n(0)] Scan),
    #[n(4)]
    Transact(#[n(0)] Transaction),
    /// Several items as they are at one instant; as many as a transaction may have.
    #[n(5)]
    GetMany(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<Key>,
    ),
    /// Answered by the node itself: the transactions in progress in the groups that it leads.
    #[n(6)]
    Transactions,
    /// Answered by the node itself: what has rotted on its disk. `true`: it begins to look for more at once.
    #[n(7)]
    Damage(#[n(0)] bool),
}

impl RequestBody {
    /// Whether it is within the limits. Client and node both ask this, and nothing else: a request that a client lets through is
    /// refused by no node for its size.
    ///
    /// # Errors
    /// What the client is told. A certain refusal: nothing was done.
    pub fn validate(&self) -> Result<(), Rejection> {
        match self {
            RequestBody::Ring | RequestBody::Status | RequestBody::Transactions | RequestBody::Damage(_) => Ok(()),
            RequestBody::Operation(single) => single.validate(),
            RequestBody::Scan(scan) => scan.validate(),
            RequestBody::Transact(transaction) => transaction.validate(),
            RequestBody::GetMany(keys) => validate_keys(keys),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Scan {
    /// Only keys that begin with this. At most [`crate::base::limits::KEY_SIZE_MAX`] bytes.
    #[n(0)]
    pub prefix: Key,
    /// Only keys at or after this. Empty: from the first. One byte may be added to the longest key, to go on behind it.
    #[n(1)]
    pub from: Key,
    /// At most [`crate::base::limits::SCAN_ITEMS_MAX`] are given, and 0 asks for one.
    #[n(2)]
    pub limit: u32,
    #[n(3)]
    pub consistency: Consistency,
}

impl Scan {
    /// How many items it is given at most.
    pub fn items_max(&self) -> usize {
        (self.limit as usize).clamp(1, SCAN_ITEMS_MAX)
    }

    /// Whether prefix and start are within the limits.
    pub fn validate(&self) -> Result<(), Rejection> {
        match (self.prefix.size(), self.from.size()) {
            (size, _) if size > KEY_SIZE_MAX => Err(Rejection::KeyTooLong(size as u32)),
            (_, size) if size > KEY_SIZE_MAX + 1 => Err(Rejection::KeyTooLong(size as u32)),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Response {
    /// The request's.
    #[n(0)]
    pub id: u64,
    /// The node that the answering node takes for the leader of the key's partition. Send the next request for it there.
    #[n(1)]
    pub leader: Option<NodeId>,
    #[n(2)]
    pub body: ResponseBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum ResponseBody {
    /// A get. `value` is `None` when the item is absent; `version` is then that of its deletion, or the
    /// partition's delete floor, if that is later.
    #[n(0)]
    Value {
        #[n(0)]
        #[cbor(with = "crate::msg::codec::maybe_blob", has_nil)]
        value: Option<Bytes>,
        #[n(1)]
        version: Version,
    },
    /// A write was done, and is durable.
    #[n(1)]
    Written {
        #[n(0)]
        version: Version,
        /// An increment's sum.
        #[n(1)]
        number: Option<i64>,
    },
    /// A conditional write was not done: the condition did not hold. The item's state that it was held against.
    #[n(2)]
    ConditionFailed {
        #[n(0)]
        version: Version,
        #[n(1)]
        present: bool,
    },
    #[n(3)]
    Scanned(#[n(0)] Scanned),
    #[n(4)]
    Rejected(#[n(0)] Rejection),
    #[n(5)]
    Unknown(#[n(0)] Doubt),
    #[n(6)]
    Ring(#[n(0)] RingReport),
    #[n(7)]
    Status(#[n(0)] StatusReport),
    /// A transaction was committed, and is durable. In the order of its items.
    #[n(8)]
    Transacted(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<ItemResult>,
    ),
    /// A transaction was not committed: nothing of it was or will be done. When all reasons are conflicts, a retry may succeed.
    #[n(9)]
    NotCommitted(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<Failure>,
    ),
    /// Items as they were at one instant, in the order of their keys in the request.
    #[n(10)]
    Values(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<ItemResult>,
    ),
    /// The oldest first.
    #[n(11)]
    Transactions(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::long_list")]
        Vec<TransactionReport>,
        /// How many more there are, beyond [`crate::base::limits::TRANSACTIONS_REPORTED_MAX`].
        #[n(1)]
        #[cbor(default)]
        u32,
    ),
    #[n(12)]
    Damage(#[n(0)] DamageReport),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Scanned {
    /// In key order.
    #[n(0)]
    #[cbor(decode_with = "crate::msg::codec::list")]
    pub items: Vec<Item>,
    /// Where the next page begins; `None` when this was the last.
    #[n(1)]
    pub next: Option<Key>,
    /// At which index of each group its part was read: the part shows every write up to it and none after.
    #[n(2)]
    #[cbor(decode_with = "crate::msg::codec::long_list")]
    pub read_at: Vec<(GroupId, Index)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Item {
    #[n(0)]
    pub key: Key,
    #[n(1)]
    #[cbor(with = "crate::msg::codec::blob")]
    pub value: Bytes,
    #[n(2)]
    pub version: Version,
}

/// Why it is not known whether an operation was applied.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum Doubt {
    /// The deadline passed while the write was being replicated.
    #[n(0)]
    DeadlineExceeded,
    /// The leader that took the write lost its leadership before it was committed.
    #[n(1)]
    LeadershipLost,
    /// The connection to the leader was lost with the request in flight.
    #[n(2)]
    ConnectionLost,
    /// Acknowledgement by every replica was asked for. The write is durable on a quorum, but these have not synced it.
    #[n(3)]
    ReplicasAway(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<NodeId>,
    ),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::DeadlineExceeded => {
                write!(f, "the deadline passed while the write was being replicated; it may have been applied")
            }
            Doubt::LeadershipLost => {
                write!(f, "the leader changed while the write was being replicated; it may have been applied")
            }
            Doubt::ConnectionLost => write!(f, "the connection was lost with the request in flight; it may have been applied"),
            Doubt::ReplicasAway(away) => {
                write!(
                    f,
                    "a quorum has the write, but acknowledgement by all was asked for and these nodes did not confirm it in time:"
                )?;
                away.iter().try_for_each(|node| write!(f, " {node}"))
            }
        }
    }
}

/// The ring as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct RingReport {
    #[n(0)]
    pub formation: crate::msg::cluster::Formation,
    /// In order of partition.
    #[n(1)]
    #[cbor(decode_with = "crate::msg::codec::long_list")]
    pub partitions: Vec<PartitionReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct PartitionReport {
    /// Preferred leader first.
    #[n(0)]
    #[cbor(decode_with = "crate::msg::codec::list")]
    pub replicas: Vec<NodeId>,
    /// The node that the answering node takes for the leader.
    #[n(1)]
    pub leader: Option<NodeId>,
}

/// What has rotted on one node's disk, as far as reads have found it in this epoch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct DamageReport {
    #[n(0)]
    pub node: NodeId,
    /// Values that no member of their group could read when they were last asked for; at most
    /// [`crate::base::limits::LOST_REPORTED_MAX`].
    #[n(1)]
    #[cbor(decode_with = "crate::msg::codec::long_list")]
    pub lost: Vec<LostValue>,
    /// Values that are being fetched from other members, and the ones that were.
    #[n(2)]
    pub to_repair: u64,
    #[n(3)]
    pub repaired: u64,
    /// Reads that have found rot.
    #[n(4)]
    pub corrupt_reads: u64,
    #[n(5)]
    pub scrub: ScrubReport,
    /// As in [`StatusReport::epoch`].
    #[n(6)]
    pub epoch: u64,
}

/// A value that no replica can read any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct LostValue {
    #[n(0)]
    pub group: GroupId,
    #[n(1)]
    pub key: Key,
    #[n(2)]
    pub version: Version,
}

/// The last scrub of a node, or the one under way; of this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct ScrubReport {
    /// How many have ended.
    #[n(0)]
    pub passes: u64,
    #[n(1)]
    pub is_under_way: bool,
    /// Values that the node had when it began, those that were read since, and those of them that had rotted.
    #[n(2)]
    pub values: u64,
    #[n(3)]
    pub read: u64,
    #[n(4)]
    pub found: u64,
}

/// One node's state, at one look. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct StatusReport {
    #[n(0)]
    pub node: NodeId,
    /// How the node stands with the cluster.
    #[n(1)]
    pub membership: Membership,
    #[n(2)]
    pub uptime_ms: u64,
    #[n(3)]
    pub epoch: u64,
    /// Groups that this node leads, and groups it has a replica of.
    #[n(4)]
    pub groups_led: u32,
    #[n(5)]
    pub groups: u32,
    #[n(6)]
    pub items: u64,
    /// Bytes of the log's files.
    #[n(7)]
    pub log_bytes_allocated: u64,
    /// Bytes passed to writes of the log in this epoch of the node.
    #[n(8)]
    pub log_bytes_written: u64,
    #[n(9)]
    pub disk_full: bool,
    /// Entries that this node has and has not yet applied, over all groups.
    #[n(10)]
    pub entries_unapplied: u64,
    /// What this node knows of each other member.
    #[n(11)]
    #[cbor(decode_with = "crate::msg::codec::long_list")]
    pub peers: Vec<PeerReport>,
    /// Named counters, in the order of their names: `puts`, `gets`, `elections`, ...
    #[n(12)]
    #[cbor(decode_with = "crate::msg::codec::long_list")]
    pub counters: Vec<(String, u64)>,
    /// CPU time of the node's process so far, in microseconds; 0 when the driver does not say.
    #[n(13)]
    pub cpu_us: u64,
    /// Bytes that the disk lacks for the log's next segment; 0 while there is room. The disk is *full* once the segment before
    /// is, but for a reserve.
    #[n(20)]
    #[cbor(default)]
    pub disk_bytes_needed: u64,
    /// Bytes of the log's files that are in use, by all epochs of the node.
    #[n(21)]
    #[cbor(default)]
    pub log_bytes_used: u64,
    /// Bytes of these that a start would replay, about.
    #[n(22)]
    #[cbor(default)]
    pub log_bytes_to_replay: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Membership {
    /// Waiting for the other initial members.
    #[n(0)]
    Forming,
    /// A member in good standing.
    #[n(1)]
    Member,
    /// Refused by the cluster, and why. It neither votes nor acknowledges.
    #[n(2)]
    Refused(#[n(0)] String),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PeerReport {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub up: bool,
    /// For how long it has been so.
    #[n(2)]
    pub since_ms: u64,
    /// Entries, over the groups that this node leads, that the peer has not acknowledged.
    #[n(3)]
    pub entries_behind: u64,
    /// Phi of the accrual failure detector, in hundredths (Hayashibara et al., 2004).
    #[n(4)]
    pub phi_hundredths: u32,
}
