//! What a server is started with, as plain data. Where the values come from (file, environment, flags) is not its concern.

use crate::base::{Duration, NodeId};
use crate::msg::cluster::ClusterOptions;
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// From 1; unique in the cluster.
    pub node: NodeId,
    /// Where peers and clients are listened for: `host:port`; port 0 takes a free one.
    pub listen: String,
    /// What peers and clients are told to dial; `None`: the address that is listened on.
    pub advertise: Option<String>,
    /// Made if it is not there. Belongs to one process at a time.
    pub data_dir: PathBuf,
    /// The initial members and their addresses (`host:port`). This node may be among them, or not.
    pub peers: Vec<(NodeId, String)>,
    /// Replicas are put in distinct zones where zones allow.
    pub zone: String,
    /// This node's share of the ring, relative to the others'.
    pub weight: u16,
    pub cluster: ClusterOptions,
    pub heartbeat_interval: Duration,
    /// Zero: acknowledge only what is synced. Above: a power loss of a majority may lose this much.
    pub wal_sync_interval: Duration,
    /// Bytes of one log segment.
    pub segment_size: u32,
    /// Bytes of values kept in memory.
    pub cache_size: usize,
    /// Connections of clients. One more is told so, and closed.
    pub connections_max: usize,
    /// For how long a stop may take to hand leaderships away and finish. After it, the server ends as by a crash.
    pub stop_timeout: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            node: NodeId(1),
            listen: "127.0.0.1:7501".into(),
            advertise: None,
            data_dir: PathBuf::from("ringseed-data"),
            peers: Vec::new(),
            zone: String::new(),
            weight: 1,
            cluster: ClusterOptions::default(),
            heartbeat_interval: Duration::from_millis(100),
            wal_sync_interval: Duration::ZERO,
            segment_size: 64 * 1024 * 1024,
            cache_size: 256 * 1024 * 1024,
            connections_max: 4096,
            stop_timeout: Duration::from_secs(10),
        }
    }
}
