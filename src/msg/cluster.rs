//! Which nodes are members, and what was fixed when the cluster formed.

use crate::base::{ClusterId, DirectoryId, Epoch, Lsn, NodeId};
use minicbor::{Decode, Encode};

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Member {
    #[n(0)]
    pub node: NodeId,
    /// The data directory that is bound to this node id.
    #[n(1)]
    pub directory: DirectoryId,
    /// Where peers and clients reach it: `host:port`.
    #[n(2)]
    pub address: String,
    /// Replicas are put in distinct zones where zones allow.
    #[n(3)]
    pub zone: String,
    /// Its share of the ring, relative to the others' (default 1).
    #[n(4)]
    pub weight: u16,
}

/// What the cluster is made of, fixed when it forms, and kept in every member's log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Formation {
    #[n(0)]
    pub cluster: ClusterId,
    /// In ascending order of node id.
    #[n(1)]
    #[cbor(decode_with = "crate::msg::codec::long_list")]
    pub members: Vec<Member>,
    #[n(2)]
    pub options: ClusterOptions,
}

/// The settings that every member must agree on. They are fixed when the cluster forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ClusterOptions {
    /// A power of two, at most [`crate::base::limits::PARTITIONS_MAX`].
    #[n(0)]
    pub partitions: u32,
    /// On how many nodes each item is.
    #[n(1)]
    pub replication_factor: u8,
    /// D: for how long a promise of support holds, in milliseconds. Leases and elections rest on it.
    #[n(2)]
    pub support_ms: u32,
    /// How much two clocks may drift apart, in parts per million. Beyond this, strong reads that rest on a lease may be stale.
    #[n(3)]
    pub clock_drift_ppm_max: u32,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions { partitions: 64, replication_factor: 3, support_ms: 400, clock_drift_ppm_max: 20_000 }
    }
}

/// How far a peer's log was seen to be durable, and in which epoch of the peer. The epoch matters: a message of the same epoch
/// which arrives late says less and means nothing; a later epoch that begins below is an old copy of the disk. Both only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Encode, Decode)]
pub struct PeerMark {
    #[n(0)]
    pub epoch: Epoch,
    #[n(1)]
    pub durable: Lsn,
}

impl PeerMark {
    /// What both say.
    pub fn join(self, other: PeerMark) -> PeerMark {
        PeerMark { epoch: self.epoch.max(other.epoch), durable: self.durable.max(other.durable) }
    }
}
