//! Compaction: disks that stay small whatever is overwritten and deleted, and a full one that is emptied by deleting.

use super::*;
use crate::base::Sometimes;
use crate::msg::operation::Condition;
use crate::wal::walk::{Met, verify};

impl Cluster {
    /// Of small segments, in which a checkpoint is due soon, and little is kept for members that lag.
    pub(super) fn that_compacts(segment_kib: u32) -> Cluster {
        let mut cluster = Cluster { segment_size: segment_kib * 1024, ..Cluster::empty() };
        let limits = &mut cluster.limits;
        (limits.checkpoint_bytes, limits.leaf_bytes, limits.retained_bytes) = (20_000, 1_000, 20_000);
        limits.sweep_block_bytes = 1_000;
        (1..=3).for_each(|n| cluster.boot(n, 3));
        cluster.run(5_000);
        cluster
    }

    fn disk_bytes(&mut self, n: u16) -> u64 {
        self.disks[&NodeId(n)].0.values().map(|file| file.len() as u64).sum()
    }

    /// All bytes of a node's log that are needed are whole.
    fn is_whole(&mut self, n: u16) {
        let mut bad = Vec::new();
        let disk = self.disks.get_mut(&NodeId(n)).expect("there");
        let walked = verify::<DiskError>(disk, &mut |met| {
            if let Met::Bad(what) = met {
                bad.push(what);
            }
            Ok(())
        });
        assert_eq!((walked.expect("listed").0.torn, bad), (None, Vec::new()), "node {n}");
    }
}

#[test]
fn what_is_overwritten_gives_its_room_back() {
    let mut cluster = Cluster::that_compacts(16);
    // Some keys are written once, between others that are written again and again.
    cluster.write_all(2, 0, 400);
    // A set of keys has values of no bytes, which lie nowhere.
    (0..50).for_each(|n| _ = cluster.put(3, &format!("e{n}"), ""));
    (1..40).for_each(|round| cluster.write_all(1, round, 100));
    for n in 1..=3 {
        let (written, bytes) = (cluster.status(n).log_bytes_written, cluster.disk_bytes(n));
        // 400 values of 120 bytes and what goes with them are 80 KB; twice that, and what is kept before a checkpoint, in
        // reserve, and to be used again.
        assert!(written > 1_500_000 && bytes < 600_000, "node {n}: {bytes} of {written} bytes");
        let (freed, moved) = (cluster.counter(n, "segments_freed"), cluster.counter(n, "values_moved"));
        assert!(freed > 20 && moved > 300, "node {n}: {freed} freed, {moved} moved");
        assert!(cluster.counter(n, "segments_recycled") > 20);
        cluster.is_whole(n);
    }
    for n in 1..=3 {
        cluster.kill(n);
        cluster.is_whole(n);
        cluster.boot(n, 3);
    }
    cluster.run(5_000);
    cluster.has(2, 39, 100);
    for key in 100..400 {
        assert!(cluster.get(3, &format!("k{key}")).is_some_and(|value| value.starts_with(b"0 of")), "k{key}");
    }
    (0..50).for_each(|n| assert_eq!(cluster.get(1, &format!("e{n}")).map(|value| value.len()), Some(0), "e{n}"));
    (40..60).for_each(|round| cluster.write_all(3, round, 100));
    (1..=3).for_each(|n| assert!(cluster.disk_bytes(n) < 600_000));
}

#[test]
fn what_is_deleted_gives_its_room_back_though_deletes_are_small() {
    let mut cluster = Cluster::that_compacts(16);
    let large = "x".repeat(4_000);
    for n in 0..200 {
        cluster.put(1, &format!("k{n}"), &large);
    }
    cluster.run(2_000);
    let before = cluster.disk_bytes(1);
    assert!(before > 800_000, "{before} bytes");
    for n in 0..190 {
        let gone = cluster.delete(2, &format!("k{n}"));
        assert!(matches!(gone, ResponseBody::Written { .. }), "{gone:?}");
    }
    cluster.run(5_000);
    for n in 1..=3 {
        let bytes = cluster.disk_bytes(n);
        assert!(bytes < 400_000, "node {n}: {bytes} bytes");
        cluster.is_whole(n);
    }
    for n in 190..200 {
        assert_eq!(cluster.get(3, &format!("k{n}")).map(|value| value.len()), Some(4_000), "k{n}");
    }
}

/// What the values stand in cannot be read from front to end any more, but by their places.
#[test]
fn a_segment_that_cannot_be_swept_is_emptied_by_a_scrub() {
    let mut cluster = Cluster::that_compacts(16);
    cluster.write_all(1, 0, 200);
    // A key rots on node 2, in its record; the value behind it does not.
    let value = b"0 of 110,";
    let files = &mut cluster.disks.get_mut(&NodeId(2)).expect("there").0;
    let found = |file: &Vec<u8>| file.windows(value.len()).position(|bytes| bytes == value);
    let (segment, at) = files.iter().find_map(|(segment, file)| Some((*segment, found(file)?))).expect("it is in the log");
    files.get_mut(&segment).expect("just found")[at - 1] ^= 1;
    (1..30).for_each(|round| cluster.write_all(1, round, 100));
    assert!(cluster.disks[&NodeId(2)].0.contains_key(&segment), "it is stuck");
    let asked = cluster.call(2, RequestBody::Damage(true));
    assert!(matches!(asked, ResponseBody::Damage(_)), "{asked:?}");
    cluster.run(1_000);
    (30..45).for_each(|round| cluster.write_all(1, round, 100));
    assert!(!cluster.disks[&NodeId(2)].0.contains_key(&segment), "it is empty, and gone");
    cluster.has(2, 44, 100);
    for key in 100..200 {
        assert!(cluster.get(2, &format!("k{key}")).is_some_and(|value| value.starts_with(b"0 of")), "k{key}");
    }
}

/// A value is repaired while its group is being copied: leaves that are copied already point at where it has rotted.
#[test]
fn what_was_repaired_is_whole_after_a_boot() {
    let mut cluster = Cluster::that_compacts(16);
    (cluster.limits.checkpoint_percent, cluster.limits.leaf_bytes) = (10, 300);
    (1..=3).for_each(|n| {
        cluster.kill(n);
        cluster.boot(n, 3);
    });
    cluster.run(5_000);
    cluster.write_all(1, 0, 200);
    let group = |key: u32| Key::from(format!("k{key}")).partition(4);
    let rotten: Vec<u32> = (100..150).collect();
    for key in rotten {
        // Nothing is written in its group any more, while checkpoints go on with the others.
        let others: Vec<u32> = (0..100).filter(|other| group(*other) != group(key)).collect();
        for other in others.iter().cycle().take(161 + key as usize) {
            cluster.put(1, &format!("k{other}"), &format!("{key} of {other}, {:100}", ""));
        }
        cluster.flip(2, &format!("0 of {key}, "));
        cluster.damage(2, true);
        cluster.run(12_000);
        cluster.kill(2);
        cluster.boot(2, 3);
        cluster.run(3_000);
        cluster.rot.clear();
        cluster.damage(2, true);
        cluster.run(1_000);
        assert_eq!(cluster.rot, [], "k{key}");
    }
    let reached = crate::base::sometimes::take_reached();
    assert!(reached.iter().any(|(state, count)| *state == Sometimes::ValuesMovedWhileCopied && *count > 0));
}

/// The disks stay full: all room comes from what is deleted.
#[test]
fn a_full_disk_is_emptied_by_deleting() {
    let mut cluster = Cluster::that_compacts(64);
    let large = "x".repeat(1_000);
    for n in 0..400 {
        cluster.put(1, &format!("k{n}"), &large);
    }
    cluster.run(2_000);
    (1..=3).for_each(|n| cluster.disks.get_mut(&NodeId(n)).expect("there").1 = true);
    let mut filled = 400;
    let full = ResponseBody::Rejected(Rejection::DiskFull);
    loop {
        let answer = cluster.call(1, put(&format!("k{filled}"), &large, Condition::None));
        if answer == full {
            break;
        }
        filled += 1;
        assert!(filled < 800, "the disks do not fill: {answer:?}");
    }
    for n in 0..240 {
        let gone = cluster.delete(2, &format!("k{n}"));
        assert!(matches!(gone, ResponseBody::Written { .. }), "k{n}: {gone:?}");
        cluster.run(20);
    }
    cluster.run(20_000);
    for n in 0..160 {
        let again = cluster.call(3, put(&format!("new{n}"), &large, Condition::None));
        assert!(matches!(again, ResponseBody::Written { .. }), "new{n}: {again:?}");
        cluster.run(50);
    }
    (1..=3).for_each(|n| cluster.is_whole(n));
    for n in 240..filled {
        assert_eq!(cluster.get(2, &format!("k{n}")).map(|value| value.len()), Some(1_000), "k{n}");
    }
}
