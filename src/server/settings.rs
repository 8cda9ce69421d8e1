//! What a server is started with, as plain data. Where the values come from (file, environment, flags) is not its concern.

use super::config::is_unspecified;
use super::error::StartError;
use crate::base::limits::{NODES_MAX, PARTITIONS_MAX, REPLICATION_FACTOR_MAX};
use crate::base::{Duration, NodeId};
use crate::msg::cluster::{ClusterOptions, Formation};
use std::collections::BTreeMap;
use std::net::SocketAddr;
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
    /// How often a checkpoint is begun at least, if there is enough to copy. Zero: for the bytes logged alone.
    pub snapshot_interval: Duration,
    /// See [`crate::node::NodeOptions::catch_up_rate`].
    pub catch_up_rate: u64,
    /// See [`crate::node::NodeOptions::scrub_interval`].
    pub scrub_interval: Duration,
    /// Bytes of one log segment.
    pub segment_size: u32,
    /// Bytes of values kept in memory.
    pub cache_size: usize,
    /// Connections of clients. One more is told so, and closed.
    pub connections_max: usize,
    /// Servers that this process runs: they share its open files.
    pub servers_in_process: usize,
    /// Start also from what the disk cannot read, and keep copies of what is damaged: see `ringseed server --recover`.
    pub recover: bool,
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
            recover: false,
            cluster: ClusterOptions::default(),
            heartbeat_interval: Duration::from_millis(50),
            wal_sync_interval: Duration::ZERO,
            snapshot_interval: Duration::from_secs(60),
            catch_up_rate: 64 << 20,
            scrub_interval: Duration::from_secs(7 * 24 * 3600),
            segment_size: 64 * 1024 * 1024,
            cache_size: 256 * 1024 * 1024,
            connections_max: 4096,
            servers_in_process: 1,
            stop_timeout: Duration::from_secs(10),
        }
    }
}

impl ServerSettings {
    /// The other initial members and their addresses. Refuses what makes no sense before anything is touched.
    pub(super) fn other_members(&self) -> Result<BTreeMap<NodeId, String>, StartError> {
        let wrong = |why: String| Err(StartError::Peers(why));
        if self.node == NodeId::ZERO {
            return wrong("the node id 0 is not allowed; ids begin at 1".into());
        }
        let mut others = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for (node, address) in &self.peers {
            if *node == NodeId::ZERO {
                return wrong(format!("peers: the node id 0 (at {address}) is not allowed; ids begin at 1"));
            }
            check_address(address).map_err(|why| StartError::Peers(format!("peers: node {node}: {why}")))?;
            if is_unspecified(address) {
                return wrong(format!("peers: node {node}: {address} is no address that can be dialled"));
            }
            if let Some(other) = addresses.insert(address, node) {
                return wrong(format!("peers: nodes {other} and {node} have the same address, {address}"));
            }
            if others.insert(*node, address.clone()).is_some() {
                return wrong(format!("peers: node {node} is listed twice"));
            }
        }
        others.remove(&self.node);
        if others.len() >= NODES_MAX {
            return wrong(format!("peers: {} members; at most {NODES_MAX} are allowed", others.len() + 1));
        }
        self.check_options()?;
        Ok(others)
    }

    /// What others are told to dial. `bound`: where this server listens.
    pub(super) fn advertised(&self, bound: SocketAddr) -> Result<String, StartError> {
        let wrong = |what: &str| {
            let why = format!(
                "{what} is no address that others can dial: set advertise to one that is, such as 10.0.0.1:{}",
                bound.port()
            );
            Err(StartError::Peers(why))
        };
        if let Some(address) = &self.advertise {
            check_address(address).map_err(|why| StartError::Peers(format!("advertise: {why}")))?;
            return if is_unspecified(address) { wrong(&format!("advertise: {address}")) } else { Ok(address.clone()) };
        }
        if !bound.ip().to_canonical().is_unspecified() {
            return Ok(bound.to_string());
        }
        // The others dial what their list of peers says; it is the same as ours.
        match self.peers.iter().find(|(node, _)| *node == self.node) {
            Some((_, address)) => Ok(address.clone()),
            None => wrong(&format!("listen: {}", self.listen)),
        }
    }

    /// What was fixed when the cluster formed cannot be set otherwise. A default that is another is no wish; anything else is
    /// refused.
    pub(super) fn check_formed(&self, formation: &Formation) -> Result<(), StartError> {
        let (ours, formed, default) = (self.cluster, formation.options, ClusterOptions::default());
        let fixed = [
            ("partitions", ours.partitions, formed.partitions, default.partitions),
            (
                "replication_factor",
                ours.replication_factor.into(),
                formed.replication_factor.into(),
                default.replication_factor.into(),
            ),
            ("support_duration (in ms)", ours.support_ms, formed.support_ms, default.support_ms),
            ("clock_drift_max (in ppm)", ours.clock_drift_ppm_max, formed.clock_drift_ppm_max, default.clock_drift_ppm_max),
        ];
        for (name, ours, formed, default) in fixed {
            if ours != formed && ours != default {
                let why = format!(
                    "{name}: {ours} is asked for, but the cluster of this data directory was formed with {formed}, and keeps it for good"
                );
                return Err(StartError::Peers(why));
            }
        }
        match self.peers.iter().find(|(node, _)| !formation.members.iter().any(|member| member.node == *node)) {
            None => Ok(()),
            Some((node, address)) => {
                let members: Vec<String> = formation.members.iter().map(|member| member.node.to_string()).collect();
                Err(StartError::Peers(format!(
                    "peers: node {node} (at {address}) is no member of the cluster of this data directory, whose members are nodes {}",
                    members.join(", ")
                )))
            }
        }
    }

    fn check_options(&self) -> Result<(), StartError> {
        let ClusterOptions { partitions, replication_factor, support_ms, .. } = self.cluster;
        if !partitions.is_power_of_two() || partitions > PARTITIONS_MAX {
            let why = format!("partitions: {partitions} is not a power of two between 1 and {PARTITIONS_MAX}");
            return Err(StartError::Peers(why));
        }
        if !(1..=REPLICATION_FACTOR_MAX).contains(&replication_factor) {
            let why = format!(
                "replication_factor: {replication_factor} is not allowed; from 1 to {REPLICATION_FACTOR_MAX} are, and 3 is usual"
            );
            return Err(StartError::Peers(why));
        }
        let heartbeat_ms = self.heartbeat_interval.as_millis();
        if heartbeat_ms == 0 || heartbeat_ms * 2 > u128::from(support_ms) {
            let why = format!(
                "heartbeat_interval: {heartbeat_ms} ms; it must be above zero and at most half of the time that support holds ({support_ms} ms)"
            );
            return Err(StartError::Peers(why));
        }
        Ok(())
    }
}

fn check_address(address: &str) -> Result<(), String> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => Ok(()),
        _ => Err(format!("`{address}` is not an address; expected host:port, as in 10.0.0.1:7501")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ClusterId, DirectoryId};
    use crate::msg::cluster::Member;

    fn with_peers(peers: &[(u16, &str)]) -> Result<BTreeMap<NodeId, String>, String> {
        let peers = peers.iter().map(|(node, address)| (NodeId(*node), (*address).to_owned())).collect();
        ServerSettings { peers, ..ServerSettings::default() }.other_members().map_err(|error| error.to_string())
    }

    #[test]
    fn this_node_may_be_in_the_list_or_not() {
        assert_eq!(with_peers(&[(1, "a:1"), (2, "b:1")]), with_peers(&[(2, "b:1")]));
        assert_eq!(with_peers(&[]).map(|others| others.len()), Ok(0));
    }

    #[test]
    fn what_was_fixed_when_the_cluster_formed_stays() {
        let member = |node: u16| Member {
            node: NodeId(node),
            directory: DirectoryId(1),
            address: "a:1".into(),
            zone: String::new(),
            weight: 1,
        };
        let options = ClusterOptions { partitions: 128, ..ClusterOptions::default() };
        let formation = Formation { cluster: ClusterId(1), members: vec![member(1), member(2)], options };
        let check = |partitions: u32, peers: &[u16]| {
            let peers = peers.iter().map(|node| (NodeId(*node), "moved:1".to_owned())).collect();
            let cluster = ClusterOptions { partitions, ..ClusterOptions::default() };
            let checked = ServerSettings { peers, cluster, ..ServerSettings::default() }.check_formed(&formation);
            checked.map_err(|error| error.to_string())
        };
        for partitions in [128, ClusterOptions::default().partitions] {
            assert_eq!(check(partitions, &[1, 2]), Ok(()), "nodes may move");
            assert_eq!(check(partitions, &[]), Ok(()));
        }
        assert!(check(256, &[1, 2]).unwrap_err().contains("partitions: 256 is asked for, but"));
        assert!(check(128, &[1, 2, 3]).unwrap_err().contains("node 3 (at moved:1) is no member"));
    }

    #[test]
    fn what_nobody_can_dial_is_never_advertised() {
        let advertised = |listen: &str, advertise: Option<&str>, peers: &[(u16, &str)]| {
            let peers = peers.iter().map(|(node, address)| (NodeId(*node), (*address).to_owned())).collect();
            let settings = ServerSettings {
                listen: listen.into(),
                advertise: advertise.map(Into::into),
                peers,
                ..ServerSettings::default()
            };
            settings.advertised(listen.parse().expect("an address")).map_err(|error| error.to_string())
        };
        assert_eq!(advertised("127.0.0.1:1", None, &[]), Ok("127.0.0.1:1".into()));
        assert_eq!(advertised("0.0.0.0:1", Some("a:1"), &[]), Ok("a:1".into()));
        assert_eq!(advertised("[::]:1", None, &[(1, "b:2"), (2, "c:3")]), Ok("b:2".into()));
        for (listen, advertise) in
            [("0.0.0.0:1", None), ("[::]:1", None), ("127.0.0.1:1", Some("0.0.0.0:1")), ("0.0.0.0:1", Some("[::]:1"))]
        {
            let error = advertised(listen, advertise, &[(2, "c:3")]).expect_err("others cannot dial it");
            assert!(error.contains("set advertise"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (peers, part) in [
            (&[(0, "a:1")][..], "begin at 1"),
            (&[(2, "a")], "node 2: `a` is not an address"),
            (&[(2, "a:0")], "expected host:port"),
            (&[(2, "0.0.0.0:1")], "can be dialled"),
            (&[(2, "a:1"), (2, "b:1")], "listed twice"),
            (&[(2, "a:1"), (3, "a:1")], "same address"),
        ] {
            let error = with_peers(peers).expect_err("makes no sense");
            assert!(error.contains(part), "{error}");
        }
    }
}
