//! Rot that reads find: it is repaired from other members, and what none of them has is told and not served.

use super::*;
use crate::msg::peer::PeerMessage;

impl Cluster {
    /// Of nodes without a cache: every read is one of the disk.
    fn that_reads() -> Cluster {
        let mut cluster = Cluster { cache_size: 0, segment_size: 64 * 1024, ..Cluster::empty() };
        cluster.limits.checkpoint_bytes = 20_000;
        cluster.limits.repairs = 4;
        (1..=3).for_each(|n| cluster.boot(n, 3));
        cluster.run(5_000);
        cluster
    }

    /// A bit of this value flips wherever it stands in the node's log; again, and it is whole.
    fn flip(&mut self, n: u16, value: &str) {
        let mut found = 0;
        for file in self.disks.get_mut(&NodeId(n)).expect("it ran").0.values_mut() {
            let places: Vec<usize> = (0..file.len().saturating_sub(value.len()))
                .filter(|at| file[*at] | 1 == value.as_bytes()[0] | 1 && file[at + 1..].starts_with(&value.as_bytes()[1..]))
                .collect();
            found += places.len();
            places.into_iter().for_each(|at| file[at] ^= 1);
        }
        assert!(found > 0, "{value} is in the log of node {n}");
    }

    fn total(&self, name: &str) -> u64 {
        self.nodes.keys().map(|id| self.counter(id.0, name)).sum()
    }

    fn read(&mut self, key: &str) -> ResponseBody {
        self.call(1, alone(Operation::read(key.to_string())))
    }
}

fn value(n: usize) -> String {
    format!("the value of key {n:03}, and no other")
}

const CORRUPT: ResponseBody = ResponseBody::Rejected(Rejection::Corrupt);

#[test]
fn a_value_that_has_rotted_is_fetched_from_another_member_and_written_anew() {
    let mut cluster = Cluster::that_reads();
    (0..30).for_each(|n| _ = cluster.put(1, &format!("k{n}"), &value(n)));
    cluster.run(500);
    for n in 0..30 {
        // Of each value, one copy is left.
        let whole = 1 + n as u16 % 3;
        (1..=3).filter(|node| *node != whole).for_each(|node| cluster.flip(node, &value(n)));
    }
    for n in 0..30 {
        assert_eq!(cluster.get(1, &format!("k{n}")).expect("present"), value(n).as_bytes(), "k{n}");
    }
    cluster.run(1_000);
    let repaired = cluster.total("values_repaired");
    assert!((20..=60).contains(&repaired), "{repaired}: the leader's copy, and that of a follower that was asked");
    assert_eq!((cluster.total("values_to_repair"), cluster.total("values_lost")), (0, 0));
    let found = cluster.rot.len();
    // Increments and pages need values, too.
    let scan = Scan { prefix: "k".into(), from: Key::default(), limit: 100, consistency: Consistency::Strong };
    let ResponseBody::Scanned(page) = cluster.call(1, RequestBody::Scan(scan)) else { panic!("a page") };
    assert_eq!(page.items.len(), 30);
    assert_eq!(cluster.rot.len(), found, "nothing is rotten any more");
    (0..30).for_each(|n| assert_eq!(cluster.get(2, &format!("k{n}")).expect("present"), value(n).as_bytes()));
    assert_eq!(cluster.rot.len(), found);
}

#[test]
fn a_page_and_an_increment_wait_for_the_values_that_they_need() {
    let mut cluster = Cluster::that_reads();
    (0..3).for_each(|n| _ = cluster.put(1, &format!("k{n}"), &value(n)));
    cluster.put(1, "n", "4711081500");
    for node in 1..=3 {
        // No two of one key.
        cluster.flip(node, &value(node as usize - 1));
    }
    for node in 1..=3 {
        cluster.flip(node, "4711081500");
        let added = cluster.call(1, alone(Operation::increment("n", 1)));
        assert!(matches!(added, ResponseBody::Written { .. }), "{added:?}");
        cluster.put(1, "n", "4711081500");
    }
    let scan = Scan { prefix: "k".into(), from: Key::default(), limit: 100, consistency: Consistency::Strong };
    let ResponseBody::Scanned(page) = cluster.call(1, RequestBody::Scan(scan)) else { panic!("a page") };
    for (n, item) in page.items.iter().enumerate() {
        assert_eq!(item.value, value(n).as_bytes());
    }
    assert_eq!(page.items.len(), 3);
    assert!(!cluster.rot.is_empty());
}

#[test]
fn what_no_member_has_is_told_by_key_and_neither_served_nor_dropped() {
    let mut cluster = Cluster::that_reads();
    cluster.put(1, "a", &value(1));
    cluster.put(1, "b", &value(2));
    cluster.run(500);
    for node in 1..=3 {
        cluster.flip(node, &value(1));
        cluster.flip(node, &value(2));
    }
    assert_eq!(cluster.read("a"), CORRUPT);
    assert_eq!(cluster.read("b"), CORRUPT);
    cluster.run(1_000);
    let mut lost = std::mem::take(&mut cluster.lost);
    lost.sort();
    let all: Vec<(NodeId, Key)> = (1..=3).flat_map(|n| [(NodeId(n), "a".into()), (NodeId(n), "b".into())]).collect();
    assert_eq!(lost, all, "each node finds it out, and says it once");
    assert_eq!(cluster.total("values_lost"), 6);
    assert_eq!(cluster.read("a"), CORRUPT);
    assert_eq!(cluster.lost, []);
    // A disk comes back.
    cluster.flip(2, &value(1));
    cluster.run(130_000);
    assert_eq!(cluster.get(3, "a").expect("present"), value(1).as_bytes());
    cluster.put(1, "b", "new");
    cluster.run(65_000);
    assert_eq!((cluster.total("values_to_repair"), cluster.total("values_lost")), (0, 0));
    assert_eq!(cluster.get(3, "b").expect("present"), "new");
}

#[test]
fn a_read_waits_a_second_for_a_repair_and_the_repair_goes_on() {
    let is_fetch: fn(&PeerMessage) -> bool = |message| matches!(message, PeerMessage::Fetch(..));
    let is_fetched: fn(&PeerMessage) -> bool = |message| matches!(message, PeerMessage::Fetched(..));
    for loses in [is_fetch, is_fetched] {
        let mut cluster = Cluster::that_reads();
        let keys = ["a", "b", "c", "d"];
        for (key, n) in keys.iter().zip(0..) {
            cluster.put(1, key, &value(n));
            (1..=2).for_each(|node| cluster.flip(node, &value(n)));
        }
        cluster.loses = Some(loses);
        let mut waits = Vec::new();
        for key in keys {
            let before = cluster.now;
            if cluster.read(key) == CORRUPT {
                waits.push(cluster.now.since(before).as_millis());
            }
        }
        assert!(!waits.is_empty() && waits.iter().all(|waited| (1_000..1_100).contains(waited)), "{waits:?}");
        assert!(cluster.total("values_to_repair") > 0);
        cluster.loses = None;
        cluster.run(10_000);
        assert_eq!(cluster.total("values_to_repair"), 0);
        let found = cluster.rot.len();
        for (key, n) in keys.iter().zip(0..) {
            assert_eq!(cluster.get(2, key).expect("present"), value(n).as_bytes());
        }
        assert_eq!(cluster.rot.len(), found, "what nobody waits for any more is repaired all the same");
    }
}

#[test]
fn so_many_values_are_repaired_at_a_time_and_a_write_ends_a_repair() {
    let mut cluster = Cluster::that_reads();
    (0..12).for_each(|n| _ = cluster.put(1, &format!("k{n}"), &value(n)));
    cluster.run(500);
    for n in 0..12 {
        (1..=3).for_each(|node| cluster.flip(node, &value(n)));
        assert_eq!(cluster.read(&format!("k{n}")), CORRUPT);
    }
    assert!((1..=3).all(|node| cluster.counter(node, "values_to_repair") <= 4));
    (0..12).for_each(|n| _ = cluster.put(1, &format!("k{n}"), "new"));
    cluster.run(65_000);
    assert_eq!(cluster.total("values_to_repair"), 0);
}

/// It is answered, and nothing is written.
#[test]
fn on_a_full_disk_a_value_that_has_rotted_is_answered_all_the_same() {
    let mut cluster = Cluster::that_reads();
    cluster.put(1, "a", &value(1));
    (1..=3).for_each(|n| cluster.disks.get_mut(&NodeId(n)).expect("there").1 = true);
    let large = "x".repeat(10_000);
    for n in 0.. {
        assert!(n < 100, "the disks do not fill");
        if cluster.call(1, put(&format!("fill{n}"), &large, Condition::None)) == ResponseBody::Rejected(Rejection::DiskFull) {
            break;
        }
    }
    let leader = cluster.nodes.iter().find(|(_, node)| node.status(cluster.now).groups_led > 0).map(|(id, _)| id.0);
    assert!(leader.is_some());
    (1..=2).for_each(|node| cluster.flip(node, &value(1)));
    for _ in 0..2 {
        assert_eq!(cluster.get(1, "a").expect("present"), value(1).as_bytes());
    }
    assert_eq!(cluster.total("values_repaired"), 0);
}
