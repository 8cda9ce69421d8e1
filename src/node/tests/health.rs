//! What a node says of how it does: each state begins, and ends.

use super::*;
use crate::base::{GroupId, Key};
use crate::msg::client::Membership as Standing;
use crate::msg::peer::Refusal;
use crate::node::health::Health;

impl Cluster {
    fn health(&self, n: u16) -> Health {
        self.nodes[&NodeId(n)].health(self.now)
    }
}

#[test]
fn a_cluster_that_forms_says_whom_it_waits_for_and_who_was_started_otherwise() {
    let mut cluster = Cluster::empty();
    cluster.boot(1, 3);
    cluster.run(500);
    let health = cluster.health(1);
    assert_eq!((health.standing, health.unheard, health.cluster), (Standing::Forming, vec![NodeId(2), NodeId(3)], None));
    cluster.partitions = 8;
    cluster.boot(2, 3);
    cluster.run(500);
    assert_eq!(cluster.health(1).unheard, [NodeId(3)]);
    assert_eq!(cluster.health(1).disagreeing, [(NodeId(2), "partitions 8 (here 4)".to_owned())]);
    assert_eq!(cluster.health(2).disagreeing, [(NodeId(1), "partitions 4 (here 8)".to_owned())], "both say it");
    cluster.boot(3, 3);
    cluster.run(500);
    assert_eq!(cluster.health(2).disagreeing.len(), 1, "nodes 2 and 3 agree");
    assert_eq!(cluster.health(1).disagreeing.len(), 2);

    // Started again, as the others were.
    cluster.kill(1);
    cluster.disks.remove(&NodeId(1));
    cluster.boot(1, 3);
    cluster.run(2_000);
    for n in 1..=3 {
        let health = cluster.health(n);
        assert_eq!((health.standing, health.unheard, health.disagreeing), (Standing::Member, vec![], vec![]));
        assert_eq!((health.members.len(), health.partitions, health.groups_leaderless), (3, 8, 0));
        assert!(health.cluster.is_some());
    }
}

#[test]
fn a_quorum_that_is_lost_and_regained_shows_in_the_count_of_partitions_without_a_leader() {
    let mut cluster = Cluster::new(3);
    let health = cluster.health(1);
    assert_eq!((health.groups, health.groups_leaderless), (4, 0));
    let led: usize = (1..=3).map(|n| cluster.health(n).groups_led).sum();
    assert_eq!(led, 4, "each partition is led by one");
    assert!(health.peers.iter().all(|peer| peer.is_up));
    cluster.kill(2);
    cluster.run(2_000);
    assert_eq!(cluster.health(1).groups_leaderless, 0, "a majority is left");
    cluster.kill(3);
    cluster.run(2_000);
    let health = cluster.health(1);
    assert_eq!((health.groups_leaderless, health.groups_led), (4, 0));
    assert!(health.peers.iter().all(|peer| !peer.is_up && peer.since >= Duration::from_secs(1)));
    cluster.boot(3, 3);
    cluster.run(3_000);
    assert_eq!(cluster.health(1).groups_leaderless, 0);
}

#[test]
fn a_node_that_was_wiped_is_turned_away_and_both_sides_say_so() {
    let mut cluster = Cluster::new(3);
    cluster.kill(2);
    cluster.disks.remove(&NodeId(2));
    cluster.directories.insert(NodeId(2), DirectoryId(99));
    cluster.boot(2, 3);
    cluster.run(1_000);
    assert_eq!(cluster.health(1).turned_away, [], "one that goes on for so short a time may be a late message");
    cluster.run(4_000);
    assert!(matches!(cluster.health(2).standing, Standing::Refused(_)));
    assert_eq!(cluster.health(1).turned_away, [(NodeId(2), Refusal::OtherDirectory { bound: DirectoryId(2) })]);
    cluster.kill(2);
    cluster.run(31_000);
    assert_eq!(cluster.health(1).turned_away, [], "it has ended");
}

#[test]
fn a_disk_that_is_full_says_how_much_it_needs_until_it_has_room() {
    let mut cluster = Cluster::new(1);
    cluster.disks.get_mut(&NodeId(1)).expect("there").1 = true;
    for n in 0..20 {
        cluster.call(1, put(&format!("k{n}"), &"x".repeat(40_000), Condition::None));
    }
    cluster.run(1_500);
    assert_eq!(cluster.health(1).disk_bytes_needed, 1 << 20);
    cluster.disks.get_mut(&NodeId(1)).expect("there").1 = false;
    cluster.run(1_500);
    assert_eq!(cluster.health(1).disk_bytes_needed, 0);
}

/// It may have promised, and acknowledged, what it does not know of.
#[test]
fn a_node_with_an_old_copy_of_its_directory_is_refused_and_then_supports_nobody() {
    let mut cluster = Cluster::new(3);
    let copy = cluster.disks[&NodeId(2)].0.clone();
    (0..50).for_each(|n| _ = cluster.put(1, &format!("k{n}"), "v"));
    cluster.run(2_000);
    cluster.kill(2);
    cluster.disks.get_mut(&NodeId(2)).expect("there").0 = copy;
    cluster.boot(2, 3);
    cluster.run(2_000);
    assert!(matches!(cluster.health(2).standing, Standing::Refused(_)));
    let mut heard = 0;
    for _ in 0..500 {
        cluster.tick();
        while let Some((to, arrival)) = cluster.queue.pop_front() {
            if let Arrival::Net(from, envelope) = &arrival {
                let replies = |message: &PeerMessage| matches!(message, PeerMessage::HeartbeatReply(_));
                assert!(*from != NodeId(2) || !envelope.messages.iter().any(replies), "{envelope:?}");
                let beats = envelope.messages.iter().filter(|message| matches!(message, PeerMessage::Heartbeat(_))).count();
                heard += if to == NodeId(2) { beats } else { 0 };
            }
            cluster.arrive(to, arrival);
        }
    }
    assert!(heard > 0, "it is asked for its support");
}

#[test]
fn rot_is_told_with_its_key_and_place() {
    let mut cluster = Cluster::new(1);
    let keys = 20;
    for n in 0..keys {
        cluster.put(1, &format!("k{n:02}"), &format!("the value of {n:02}"));
    }
    cluster.kill(1);
    cluster.cache_size = 0;
    cluster.boot(1, 1);
    cluster.run(2_000);
    let file = cluster.disks.get_mut(&NodeId(1)).expect("there").0.get_mut(&SegmentId(1)).expect("there");
    let mut places = Vec::new();
    for n in 0..keys {
        let value = format!("the value of {n:02}");
        let at = file.windows(value.len()).position(|bytes| bytes == value.as_bytes()).expect("it is in the log");
        file[at] ^= 1;
        places.push(at as u32);
    }
    let read = |key: &str| alone(Operation::read(key.to_string()));
    for (n, place) in places.iter().enumerate() {
        for _ in 0..2 {
            assert_eq!(cluster.call(1, read(&format!("k{n:02}"))), ResponseBody::Rejected(Rejection::Corrupt));
        }
        let told = std::mem::take(&mut cluster.rot);
        assert!(told.len() == 2 && told.iter().all(|rot| rot.place.offset == *place && rot.place.segment == SegmentId(1)));
        assert!(told.iter().all(|rot| rot.key == Some(Key::from(format!("k{n:02}")))), "{told:?}");
        assert!(told[0].group < GroupId(100) && told[0].why.contains("checksum"), "{told:?}");
    }
    // A page that holds one rotten value says so of that value.
    let scan = Scan { prefix: "k03".into(), from: Key::default(), limit: 1, consistency: Consistency::Strong };
    assert_eq!(cluster.call(1, RequestBody::Scan(scan)), ResponseBody::Rejected(Rejection::Corrupt));
    assert_eq!(cluster.rot[0].place.offset, places[3]);
    let counters = cluster.nodes[&NodeId(1)].status(cluster.now).counters;
    assert!(counters.contains(&("corrupt_reads".to_owned(), 2 * keys as u64 + 1)), "{counters:?}");
}

#[test]
fn a_clock_that_is_behind_the_clusters_says_by_how_much_and_who_told_it() {
    let mut cluster = Cluster::new(2);
    let (right, ahead) = (1_700_000_000_000, 1_700_000_600_000);
    cluster.step(NodeId(1), Event::WallClock(right));
    cluster.step(NodeId(2), Event::WallClock(right));
    cluster.run(500);
    assert!(cluster.health(1).clock_behind < Duration::from_secs(1));
    cluster.step(NodeId(2), Event::WallClock(ahead));
    cluster.run(500);
    let health = cluster.health(1);
    assert!(health.clock_behind > Duration::from_secs(590) && health.clock_told_by == Some(NodeId(2)), "{health:?}");
    assert!(cluster.health(2).clock_behind < Duration::from_secs(1), "it is the one that is ahead");
    // Set right.
    let now = ahead + 1_000;
    cluster.step(NodeId(1), Event::WallClock(now));
    assert!(cluster.health(1).clock_behind < Duration::from_secs(1));
}
