//! Checkpoints, from the log that grows to the start that replays little of it.

use super::*;

impl Cluster {
    /// Of small segments, in which a checkpoint is due soon.
    fn with_checkpoints() -> Cluster {
        let mut cluster = Cluster { segment_size: 16 * 1024, ..Cluster::empty() };
        (cluster.limits.checkpoint_bytes, cluster.limits.leaf_bytes) = (20_000, 1_000);
        (1..=3).for_each(|n| cluster.boot(n, 3));
        cluster.run(5_000);
        cluster
    }

    /// Writes these keys, and says what each has then.
    pub(super) fn write_all(&mut self, via: u16, round: u32, keys: u32) {
        for first in (0..keys).step_by(50) {
            for key in first..(first + 50).min(keys) {
                self.ask(via, put(&format!("k{key}"), &format!("{round} of {key}, {:100}", ""), Condition::None));
            }
            self.run(50);
        }
        let all = std::mem::take(&mut self.answers);
        assert!(all.values().all(|answer| matches!(answer, ResponseBody::Written { .. })), "{all:?}");
    }

    pub(super) fn has(&mut self, via: u16, round: u32, keys: u32) {
        for key in 0..keys {
            let value = self.get(via, &format!("k{key}")).expect("it was written");
            assert!(value.starts_with(format!("{round} of {key},").as_bytes()), "k{key}: {value:?}");
        }
    }

    pub(super) fn to_replay(&self, n: u16) -> u64 {
        self.status(n).log_bytes_to_replay
    }

    fn held_back(&self, n: u16) -> u64 {
        self.nodes[&NodeId(n)].health(self.now).replay_held_back
    }
}

#[test]
fn a_start_replays_little_of_a_long_log_and_what_is_written_again_is_not_written_for_ever() {
    let mut cluster = Cluster::with_checkpoints();
    (0..20).for_each(|round| cluster.write_all(1, round, 200));
    for n in 1..=3 {
        let (written, left) = (cluster.status(n).log_bytes_written, cluster.to_replay(n));
        assert!(written > 1_000_000 && left < 200_000, "node {n}: {left} of {written} bytes");
        assert_eq!(cluster.held_back(n), 0);
    }
    for n in 1..=3 {
        cluster.kill(n);
    }
    for n in 1..=3 {
        let recovered = crate::wal::recover(cluster.disks.get_mut(&NodeId(n)).expect("there"), NodeId(n)).expect("sound");
        assert!(recovered.start > SegmentId(20) && recovered.replayed < 300_000, "node {n}: {recovered:?}");
        cluster.boot(n, 3);
    }
    cluster.run(5_000);
    cluster.has(2, 19, 200);
    cluster.write_all(3, 20, 200);
    cluster.has(1, 20, 200);
}

#[test]
fn a_member_that_is_away_holds_checkpoints_back_and_is_fed_all_that_it_lacks() {
    let mut cluster = Cluster::with_checkpoints();
    (0..5).for_each(|round| cluster.write_all(1, round, 200));
    let before = cluster.to_replay(1);
    cluster.kill(3);
    cluster.run(2_000);
    (5..20).for_each(|round| cluster.write_all(1, round, 200));
    assert!(cluster.to_replay(1) > before + 500_000, "{} bytes, {before} before", cluster.to_replay(1));
    assert!(cluster.held_back(1) > 500_000 && cluster.held_back(2) > 500_000, "and it is told");
    cluster.boot(3, 3);
    cluster.run(5_000);
    (20..23).for_each(|round| cluster.write_all(1, round, 200));
    for n in 1..=3 {
        assert!(cluster.to_replay(n) < 250_000, "node {n}: {} bytes", cluster.to_replay(n));
        assert_eq!(cluster.held_back(n), 0);
    }
    // The one that was away can stand for the others.
    cluster.kill(1);
    cluster.kill(2);
    cluster.boot(2, 3);
    cluster.run(5_000);
    cluster.has(3, 22, 200);
}

/// What is acknowledged before it is synced may be lost, and is not let go of.
#[test]
fn under_relaxed_syncing_a_start_replays_all() {
    let mut cluster = Cluster { segment_size: 16 * 1024, wal_sync_interval: Duration::from_millis(20), ..Cluster::empty() };
    (cluster.limits.checkpoint_bytes, cluster.limits.leaf_bytes) = (20_000, 1_000);
    (1..=3).for_each(|n| cluster.boot(n, 3));
    cluster.run(5_000);
    (0..5).for_each(|round| cluster.write_all(1, round, 200));
    assert_eq!(cluster.to_replay(1), cluster.status(1).log_bytes_used);
    assert!(cluster.held_back(1) > 0);
}
