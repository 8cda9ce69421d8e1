//! Rot that reads find: it is repaired from other members, and what none of them has is told and not served.

use super::*;
use crate::base::GroupId;
use crate::msg::client::DamageReport;
use crate::msg::codec::Blob;
use crate::msg::peer::PeerMessage;
use crate::msg::repair::{Fetched, MemberCopy};

impl Cluster {
    /// Of nodes without a cache: every read is one of the disk.
    fn that_reads() -> Cluster {
        Cluster::that_scrubs(Duration::ZERO)
    }

    fn that_scrubs(scrub_interval: Duration) -> Cluster {
        let mut cluster = Cluster { cache_size: 0, segment_size: 64 * 1024, scrub_interval, ..Cluster::empty() };
        cluster.limits.checkpoint_bytes = 20_000;
        cluster.limits.repairs = 4;
        (1..=3).for_each(|n| cluster.boot(n, 3));
        cluster.run(5_000);
        cluster
    }

    /// A bit of this value flips wherever it stands in the node's log; again, and it is whole.
    pub(super) fn flip(&mut self, n: u16, value: &str) {
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

    pub(super) fn damage(&mut self, n: u16, scrub: bool) -> DamageReport {
        match self.call(n, RequestBody::Damage(scrub)) {
            ResponseBody::Damage(report) => report,
            other => panic!("{other:?}"),
        }
    }

    fn leader_of(&self, key: &str) -> (GroupId, u16) {
        let group = Key::from(key.to_owned()).partition(self.partitions).group();
        let leads = |node: &&Node| node.groups.get(&group).is_some_and(|group| group.replica.leads());
        (group, self.nodes.values().find(leads).expect("it is led").options.me.0)
    }

    /// As from this node.
    fn envelope(&self, from: u16, message: PeerMessage) -> Envelope {
        let node = &self.nodes[&NodeId(from)];
        Envelope {
            cluster: node.membership.cluster(),
            from: NodeId(from),
            directory: node.membership.directory(),
            epoch: node.epoch(),
            messages: vec![message],
        }
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
    // A disk comes back, and a key is written.
    cluster.flip(2, &value(1));
    cluster.run(1_000);
    assert_eq!(cluster.get(3, "a").expect("present"), value(1).as_bytes());
    cluster.put(1, "b", "new");
    assert_eq!(cluster.get(3, "b").expect("present"), "new");
    cluster.run(500);
    for node in 1..=3 {
        let report = cluster.damage(node, false);
        assert!(report.lost.iter().all(|lost| lost.key == Key::from("a")), "{report:?}");
    }
    (1..=3).for_each(|node| _ = cluster.damage(node, true));
    cluster.run(1_000);
    assert_eq!((cluster.total("values_to_repair"), cluster.total("values_lost")), (0, 0));
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
    cluster.run(6_000);
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

#[test]
fn a_scrub_finds_what_nobody_reads_and_passes_nothing_over() {
    let interval = Duration::from_secs(4);
    let mut cluster = Cluster::that_scrubs(interval);
    (0..60).for_each(|n| _ = cluster.put(1, &format!("k{n}"), &value(n)));
    (0..1_200).for_each(|n| _ = cluster.delete(1, &format!("gone{n}")));
    cluster.put(1, "empty", "");
    cluster.run(500);
    for n in 0..60 {
        // Of each value, one copy is left; and more have rotted than are repaired at a time.
        let whole = 1 + n as u16 % 3;
        (1..=3).filter(|node| *node != whole).for_each(|node| cluster.flip(node, &value(n)));
    }
    cluster.run(20_000);
    let scrubs: Vec<u64> = (1..=3).map(|n| cluster.damage(n, false).scrub.passes).collect();
    assert!(scrubs.iter().all(|passes| (3..=9).contains(passes)), "{scrubs:?} in 30 s");
    assert_eq!((cluster.total("values_repaired"), cluster.total("values_to_repair")), (120, 0));
    cluster.rot.clear();
    cluster.run(12_000);
    assert_eq!(cluster.rot, [], "each copy is whole");
    for n in 1..=3 {
        let scrub = cluster.damage(n, false).scrub;
        assert!(scrub.values == 61 && scrub.read <= 61 && scrub.found == 0, "{scrub:?}");
    }
}

#[test]
fn a_scrub_that_is_asked_for_is_made_at_once_and_not_again() {
    let mut cluster = Cluster::that_reads();
    (0..60).for_each(|n| _ = cluster.put(1, &format!("k{n}"), &value(n)));
    cluster.run(500);
    let reads = cluster.disk_reads;
    cluster.run(10_000);
    assert_eq!(cluster.disk_reads, reads, "nobody has asked for one");
    cluster.flip(2, &value(7));
    assert!(cluster.damage(2, true).scrub.is_under_way);
    cluster.run(500);
    let scrub = cluster.damage(2, false).scrub;
    assert_eq!((scrub.passes, scrub.is_under_way, scrub.values, scrub.read, scrub.found), (1, false, 60, 60, 1));
    assert_eq!((cluster.counter(2, "values_repaired"), cluster.disk_reads), (1, reads + 61), "a copy of another node was read");
    cluster.run(10_000);
    assert_eq!(cluster.disk_reads, reads + 61);
}

/// It has nothing to read, and is not woken all the time.
#[test]
fn a_node_without_a_partition_does_not_scrub() {
    let mut cluster = Cluster { partitions: 1, scrub_interval: Duration::from_secs(4), ..Cluster::empty() };
    (1..=5).for_each(|n| cluster.boot(n, 5));
    cluster.run(5_000);
    let idle: Vec<u16> = (1..=5).filter(|n| cluster.nodes[&NodeId(*n)].groups.is_empty()).collect();
    assert_eq!(idle.len(), 2);
    for n in idle {
        let (at, why) = cluster.nodes[&NodeId(n)].deadline().expect("heartbeats");
        assert!(at > cluster.now, "{why:?}");
        assert!(!cluster.damage(n, true).scrub.is_under_way);
    }
}

/// More has rotted than is repaired at a time, and the members do not answer for a while.
#[test]
fn one_scrub_is_enough() {
    let mut cluster = Cluster::that_reads();
    (0..60).for_each(|n| _ = cluster.put(1, &format!("k{n}"), &value(n)));
    cluster.run(500);
    (0..60).for_each(|n| cluster.flip(2, &value(n)));
    cluster.loses = Some(|message| matches!(message, PeerMessage::Fetch(..)));
    cluster.damage(2, true);
    cluster.run(5_000);
    cluster.loses = None;
    cluster.run(30_000);
    let report = cluster.damage(2, false);
    assert_eq!((report.repaired, report.to_repair, report.scrub.passes, report.scrub.read), (60, 0, 1, 60), "{report:?}");
}

/// It is no better than rot.
#[test]
fn what_a_member_sends_counts_only_if_it_is_what_the_index_says() {
    let mut cluster = Cluster::that_reads();
    for (n, key) in ["a", "b", "c", "d"].iter().enumerate() {
        let version = cluster.put(1, key, &value(n));
        cluster.run(500);
        let (group, leader) = cluster.leader_of(key);
        cluster.flip(leader, &value(n));
        cluster.loses = Some(|message| matches!(message, PeerMessage::Fetch(..)));
        let id = cluster.ask(leader, alone(Operation::read(key.to_string())));
        cluster.run(10);
        let peer = 1 + leader % 3;
        for wrong in [&value(n + 1)[..], "short"] {
            let copy = MemberCopy::Whole(Blob(Bytes::copy_from_slice(wrong.as_bytes())));
            let fetched = Fetched { key: (*key).into(), version, copy };
            let envelope = cluster.envelope(peer, PeerMessage::Fetched(group, fetched));
            cluster.step(NodeId(leader), Event::Net(NodeId(peer), envelope));
        }
        cluster.run(10);
        assert_eq!(cluster.answers.get(&id), None, "{key} is not served");
        cluster.loses = None;
        cluster.run(1_500);
        let answer = cluster.answers.remove(&id).expect("answered");
        assert!(matches!(&answer, ResponseBody::Value { value: Some(held), .. } if held == value(n).as_bytes()), "{answer:?}");
    }
}
