//! Which node leads when syncs are relaxed, and transfers fail.

use super::*;

fn leads(cluster: &Cluster, n: u16) -> u32 {
    cluster.nodes[&NodeId(n)].status(cluster.now).groups_led
}

/// Writes to every partition through a node, one every few milliseconds. The longest that any took, in milliseconds.
fn write_for(cluster: &mut Cluster, n: u16, millis: u64) -> u64 {
    write_while(cluster, n, millis, |_, _| {})
}

/// The same, while in each millisecond something else is done.
fn write_while(cluster: &mut Cluster, n: u16, millis: u64, mut meanwhile: impl FnMut(&mut Cluster, u64)) -> u64 {
    let mut under_way: Vec<(u64, Time)> = Vec::new();
    let mut longest = Duration::ZERO;
    for passed in 0..millis {
        meanwhile(cluster, passed);
        if passed.is_multiple_of(4) {
            let id = cluster.ask(n, put(&format!("k{}", passed % 64), "v", Condition::None));
            under_way.push((id, cluster.now));
        }
        cluster.run(1);
        under_way.retain(|(id, since)| {
            longest = longest.max(cluster.now.since(*since));
            cluster.answers.remove(id).is_none()
        });
    }
    longest.as_millis() as u64
}

/// The follower that a stopping node asks to take over never hears of it. The others are told that no node leads, and the
/// stopping node does not stand again itself.
#[test]
fn a_stop_that_meets_a_failing_transfer_is_done_soon() {
    let mut cluster = Cluster::new(3);
    cluster.put(1, "a", "1");
    cluster.loses = Some(|message| matches!(message, PeerMessage::Replica(_, ReplicaMessage::TimeoutNow { .. })));
    cluster.step(NodeId(1), Event::Stop);
    cluster.run(600);
    assert_eq!(cluster.stopped, [NodeId(1)]);
    cluster.run(200);
    assert_eq!(leads(&cluster, 2) + leads(&cluster, 3), 4);
}

/// Pre-votes do not wait for the disk, and a vote urges its sync: with relaxed syncing no election waits for the next interval.
#[test]
fn relaxed_syncing_does_not_put_off_an_election() {
    let mut cluster = Cluster::empty();
    cluster.wal_sync_interval = Duration::from_secs(5);
    (1..=3).for_each(|n| cluster.boot(n, 3));
    cluster.run(2_000);
    write_for(&mut cluster, 2, 300);
    cluster.kill(1);
    cluster.run(700);
    let longest = write_for(&mut cluster, 2, 500);
    assert!(longest < 20, "a write took {longest} ms");
}

/// Every other tenth of a second node 1 is isolated. Enough heartbeats pass for its support to last, and nothing that it leads
/// commits for half of the time.
#[test]
fn a_leader_whose_links_come_and_go_is_replaced_until_they_stay() {
    let flap = |cluster: &mut Cluster, passed: u64| {
        if passed.is_multiple_of(100) {
            cluster.cuts.clear();
            if (passed / 100).is_multiple_of(2) {
                cluster.isolate(1, 1..=3);
            }
        }
    };
    let mut cluster = Cluster::new(3);
    let led = leads(&cluster, 1);
    assert!(led > 0);
    // Through itself: what it is asked while it is isolated waits.
    write_while(&mut cluster, 1, 6_000, flap);
    assert_eq!(leads(&cluster, 1), 0, "another does better");
    let longest = write_while(&mut cluster, 2, 20_000, flap);
    assert!(longest < 20, "nothing is handed to a node that comes and goes, and a write took {longest} ms");
    cluster.cuts.clear();
    cluster.run(30_000);
    assert_eq!(leads(&cluster, 1), led, "well again, it leads again");
}

/// The preferred leader is well until it leads; then it is cut off. Each time that a leadership comes back, the next attempt is
/// later.
#[test]
fn a_preferred_leader_that_fails_each_time_is_asked_ever_more_seldom() {
    let mut cluster = Cluster::empty();
    cluster.partitions = 1;
    (1..=3).for_each(|n| cluster.boot(n, 3));
    cluster.run(2_000);
    let preferred = cluster.nodes[&NodeId(1)].placement.replicas(crate::base::GroupId(1))[0].0;
    let mut given = Vec::new();
    let mut cut_until = None;
    let (began, minutes) = (cluster.now, 3);
    for _ in 0..minutes * 60_000 {
        if cut_until.is_some_and(|until| until <= cluster.now) {
            cluster.cuts.clear();
            cut_until = None;
        } else if cut_until.is_none() && leads(&cluster, preferred) > 0 {
            cluster.isolate(preferred, 1..=3);
            cut_until = Some(cluster.now + Duration::from_millis(1_500));
            given.push(cluster.now.since(began).as_millis() as u64);
        }
        cluster.run(1);
    }
    let waits: Vec<u64> = given.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.len() >= 3, "it is tried again: {given:?}");
    assert!(waits.len() <= 8, "and not every few seconds: {given:?}");
    assert!(waits.last() > waits.first(), "{given:?}");
}
