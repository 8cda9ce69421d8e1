//! Who leads when syncs are relaxed, and transfers fail.

use super::*;

fn leads(cluster: &Cluster, n: u16) -> u32 {
    cluster.nodes[&NodeId(n)].status(cluster.now).groups_led
}

/// Writes to every partition through a node, one every few milliseconds. The longest that any took, in milliseconds.
fn write_for(cluster: &mut Cluster, n: u16, millis: u64) -> u64 {
    let mut under_way: Vec<(u64, Time)> = Vec::new();
    let mut longest = Duration::ZERO;
    for passed in 0..millis {
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

/// The one whom a stopping node asks to take over never hears of it: the others are told that nobody leads, and the node does not stand again itself.
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

/// Pre-votes do not wait for the disk, and a vote urges its sync: with relaxed syncing nobody waits for the next interval.
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
