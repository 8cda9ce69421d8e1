//! The one table of settings. Flags, environment variables, file keys, help texts, `ringseed config` and the table in the README
//! all come from it; a setting is added here and nowhere else.

use super::ProcessSettings;
use super::text::{Shape, Value};
use crate::base::limits::{PARTITIONS_MAX, REPLICATION_FACTOR_MAX};
use crate::base::{Duration, NodeId};

/// One setting.
pub struct Setting {
    /// In a file as it stands; as a flag with `-` for `_`; in the environment in capitals behind `RINGSEED_`.
    pub name: &'static str,
    pub shape: Shape,
    pub help: &'static str,
    /// Fixed when the cluster forms: every initial member must have the same.
    pub of_cluster: bool,
    pub(super) get: fn(&ProcessSettings) -> Value,
    pub(super) set: fn(&mut ProcessSettings, Value),
}

impl core::fmt::Debug for Setting {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Setting").field("name", &self.name).field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl Setting {
    /// `--wal-sync-interval`, without the dashes in front.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// `RINGSEED_WAL_SYNC_INTERVAL`.
    pub fn variable(&self) -> String {
        format!("RINGSEED_{}", self.name.to_ascii_uppercase())
    }

    /// The value that holds when no source gives another.
    pub fn default_text(&self) -> String {
        (self.get)(&ProcessSettings::default()).text()
    }
}

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

// A value's kind follows from its setting's shape: a mismatch is a mistake in the table, which the test below would meet.
fn number(value: Value) -> u64 {
    match value {
        Value::Number(number) | Value::Size(number) => number,
        other => unreachable!("a number was expected: {other:?}"),
    }
}
fn duration(value: Value) -> Duration {
    match value {
        Value::Duration(duration) => duration,
        other => unreachable!("a duration was expected: {other:?}"),
    }
}
fn text(value: Value) -> String {
    match value {
        Value::Text(text) => text,
        other => unreachable!("a text was expected: {other:?}"),
    }
}

const fn between(min_ms: u64, max_ms: u64) -> Shape {
    Shape::Duration { min: Duration::from_millis(min_ms), max: Duration::from_millis(max_ms) }
}

const HOUR_MS: u64 = 3_600_000;

/// In the order in which they are shown.
pub static SETTINGS: &[Setting] = &[
    Setting {
        name: "node",
        shape: Shape::Number { min: 1, max: u16::MAX as u64 },
        help: "This node's id, unique in the cluster and never given to another machine",
        of_cluster: false,
        get: |c| Value::Number(u64::from(c.server.node.0)),
        set: |c, v| c.server.node = NodeId(number(v) as u16),
    },
    Setting {
        name: "listen",
        shape: Shape::Address,
        help: "Where peers and clients are listened for; port 0 takes a free one",
        of_cluster: false,
        get: |c| Value::Text(c.server.listen.clone()),
        set: |c, v| c.server.listen = text(v),
    },
    Setting {
        name: "advertise",
        shape: Shape::OptionalAddress,
        help: "What peers and clients are told to dial; nothing: the address listened on",
        of_cluster: false,
        get: |c| Value::Text(c.server.advertise.clone().unwrap_or_default()),
        set: |c, v| c.server.advertise = Some(text(v)).filter(|address| !address.is_empty()),
    },
    Setting {
        name: "data",
        shape: Shape::Path,
        help: "The data directory; made if it is not there; belongs to one process at a time",
        of_cluster: false,
        get: |c| Value::Path(c.server.data_dir.clone()),
        set: |c, v| match v {
            Value::Path(path) => c.server.data_dir = path,
            other => unreachable!("a path was expected: {other:?}"),
        },
    },
    Setting {
        name: "peers",
        shape: Shape::Peers,
        help: "The cluster's initial members and their addresses; in a file also a table or a list. All of them must be started once for the cluster to form, in any order",
        of_cluster: true,
        get: |c| Value::Peers(c.server.peers.clone()),
        set: |c, v| match v {
            Value::Peers(peers) => c.server.peers = peers,
            other => unreachable!("peers were expected: {other:?}"),
        },
    },
    Setting {
        name: "zone",
        shape: Shape::Text,
        help: "Replicas are put in distinct zones where zones allow",
        of_cluster: false,
        get: |c| Value::Text(c.server.zone.clone()),
        set: |c, v| c.server.zone = text(v),
    },
    Setting {
        name: "weight",
        shape: Shape::Number { min: 1, max: 1_000 },
        help: "This node's share of the ring, relative to the others'",
        of_cluster: false,
        get: |c| Value::Number(u64::from(c.server.weight)),
        set: |c, v| c.server.weight = number(v) as u16,
    },
    Setting {
        name: "replication_factor",
        shape: Shape::Number { min: 1, max: REPLICATION_FACTOR_MAX as u64 },
        help: "On how many nodes each item is",
        of_cluster: true,
        get: |c| Value::Number(u64::from(c.server.cluster.replication_factor)),
        set: |c, v| c.server.cluster.replication_factor = number(v) as u8,
    },
    Setting {
        name: "partitions",
        shape: Shape::PowerOfTwo { max: PARTITIONS_MAX as u64 },
        help: "Into how many equal slices the token space is divided",
        of_cluster: true,
        get: |c| Value::Number(u64::from(c.server.cluster.partitions)),
        set: |c, v| c.server.cluster.partitions = number(v) as u32,
    },
    Setting {
        name: "heartbeat_interval",
        shape: between(1, 60_000),
        help: "How often each node tells each other node that it is up",
        of_cluster: false,
        get: |c| Value::Duration(c.server.heartbeat_interval),
        set: |c, v| c.server.heartbeat_interval = duration(v),
    },
    Setting {
        name: "support_duration",
        shape: between(10, 600_000),
        help: "For how long a heartbeat's answer supports a leader; leases and elections rest on it, and a node that dies is replaced as leader after it",
        of_cluster: true,
        get: |c| Value::Duration(Duration::from_millis(u64::from(c.server.cluster.support_ms))),
        set: |c, v| c.server.cluster.support_ms = duration(v).as_millis() as u32,
    },
    Setting {
        name: "clock_drift_max_ppm",
        shape: Shape::Number { min: 0, max: 200_000 },
        help: "How much the speeds of two nodes' clocks may differ, in parts per million; beyond it a strong read may be stale",
        of_cluster: true,
        get: |c| Value::Number(u64::from(c.server.cluster.clock_drift_ppm_max)),
        set: |c, v| c.server.cluster.clock_drift_ppm_max = number(v) as u32,
    },
    Setting {
        name: "wal_sync_interval",
        shape: between(0, 60_000),
        help: "0: a write is acknowledged only after a quorum has synced it. Above: synced this often, and a power loss of a majority of a partition's nodes may lose what was acknowledged since",
        of_cluster: false,
        get: |c| Value::Duration(c.server.wal_sync_interval),
        set: |c, v| c.server.wal_sync_interval = duration(v),
    },
    Setting {
        name: "snapshot_interval",
        shape: between(0, 24 * HOUR_MS),
        help: "How often a checkpoint of the index is begun, so that a start replays less of the log; 0: only once 128 MiB were logged, or as much as the index takes",
        of_cluster: false,
        get: |c| Value::Duration(c.server.snapshot_interval),
        set: |c, v| c.server.snapshot_interval = duration(v),
    },
    Setting {
        name: "catch_up_rate",
        shape: Shape::Size { min: 64 << 10, max: 1 << 40 },
        help: "How many bytes a second a node sends of a partition's state to a node that was away so long that the log it lacks is gone",
        of_cluster: false,
        get: |c| Value::Size(c.server.catch_up_rate),
        set: |c, v| c.server.catch_up_rate = number(v),
    },
    Setting {
        name: "scrub_interval",
        shape: between(0, 365 * 24 * HOUR_MS),
        help: "How often each value is read to find what has rotted, and to fetch it from another node; the reads are spread evenly. 0: only when `ringseed scrub` asks for it",
        of_cluster: false,
        get: |c| Value::Duration(c.server.scrub_interval),
        set: |c, v| c.server.scrub_interval = duration(v),
    },
    Setting {
        name: "segment_size",
        shape: Shape::Size { min: 1 << 20, max: 1 << 30 },
        help: "The size of one file of the log",
        of_cluster: false,
        get: |c| Value::Size(u64::from(c.server.segment_size)),
        set: |c, v| c.server.segment_size = number(v) as u32,
    },
    Setting {
        name: "cache_size",
        shape: Shape::Size { min: 0, max: 1 << 40 },
        help: "How much memory recently used values may take",
        of_cluster: false,
        get: |c| Value::Size(c.server.cache_size as u64),
        set: |c, v| c.server.cache_size = number(v) as usize,
    },
    Setting {
        name: "max_connections",
        shape: Shape::Number { min: 1, max: 1_000_000 },
        help: "How many clients may be connected; one more is told so and turned away. Fewer, with a warning, if the process may not open that many files",
        of_cluster: false,
        get: |c| Value::Number(c.server.connections_max as u64),
        set: |c, v| c.server.connections_max = number(v) as usize,
    },
    Setting {
        name: "stop_timeout",
        shape: between(0, HOUR_MS),
        help: "How long a stop may take to hand leaderships away and finish; then the node ends as by a crash, which is safe",
        of_cluster: false,
        get: |c| Value::Duration(c.server.stop_timeout),
        set: |c, v| c.server.stop_timeout = duration(v),
    },
    Setting {
        name: "log",
        shape: Shape::Text,
        help: "What is logged to standard error: off, error, warn, info, debug, trace, or a filter such as info,ringseed::server=debug",
        of_cluster: false,
        get: |c| Value::Text(c.log.clone()),
        set: |c, v| c.log = text(v),
    },
    Setting {
        name: "log_format",
        shape: Shape::Choice(&["text", "json"]),
        help: "How a line of the log reads: text for people, json for programs",
        of_cluster: false,
        get: |c| Value::Text(c.log_format.clone()),
        set: |c, v| c.log_format = text(v),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_that_its_setting_takes() {
        for setting in SETTINGS {
            let text = setting.default_text();
            let value = setting.shape.parse(&text).unwrap_or_else(|| panic!("{}: {text:?}", setting.name));
            let mut settings = ProcessSettings::default();
            (setting.set)(&mut settings, value.clone());
            assert_eq!((setting.get)(&settings), value, "{}", setting.name);
        }
    }

    #[test]
    fn names_are_unique_and_well_formed() {
        for (at, setting) in SETTINGS.iter().enumerate() {
            assert!(setting.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", setting.name);
            assert!(!setting.help.ends_with('.'), "{}", setting.name);
            assert!(SETTINGS[at + 1..].iter().all(|other| other.name != setting.name), "{}", setting.name);
        }
    }
}
