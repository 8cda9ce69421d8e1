//! What a leader sends to a follower that does not answer, or answers late.

use super::*;
use crate::msg::peer::ReplicaMessage;

fn entries_in(message: &PeerMessage) -> usize {
    match message {
        PeerMessage::Replica(_, ReplicaMessage::Append(append)) => append.entries.len(),
        _ => 0,
    }
}

fn carries_entries(message: &PeerMessage) -> bool {
    entries_in(message) > 0
}

/// Asks a node for 40 puts and lets no peer answer yet.
fn ask_for_puts(cluster: &mut Cluster) {
    for n in 0..40u32 {
        cluster.ask(1, put(&format!("key{n}"), &"v".repeat(1_000), Condition::None));
    }
}

#[test]
fn a_follower_whose_disk_stalls_is_sent_each_entry_once() {
    let mut cluster = Cluster::new(3);
    cluster.stalled = Some(NodeId(3));
    ask_for_puts(&mut cluster);
    let mut sent = 0;
    for _ in 0..4_000 {
        cluster.tick();
        while let Some((to, arrival)) = cluster.queue.pop_front() {
            if to == NodeId(3)
                && let Arrival::Net(_, envelope) = &arrival
            {
                sent += envelope.messages.iter().map(entries_in).sum::<usize>();
            }
            cluster.arrive(to, arrival);
        }
    }
    assert_eq!(cluster.answers.len(), 40, "two of three are enough");
    // Those of the groups that it leads are not sent to it.
    assert!((20..=45).contains(&sent), "{sent} entries were sent");
    cluster.resume();
    cluster.run(2_000);
    assert_eq!(behind(&mut cluster), 0);
}

#[test]
fn entries_that_were_lost_are_asked_after_and_sent_again() {
    let mut cluster = Cluster::new(3);
    cluster.loses = Some(carries_entries);
    ask_for_puts(&mut cluster);
    cluster.run(1_500);
    assert!(cluster.answers.is_empty(), "nothing is replicated");
    cluster.loses = None;
    cluster.run(2_000);
    assert_eq!(cluster.answers.len(), 40);
    assert_eq!(behind(&mut cluster), 0);
}

/// By how many entries the replicas of all groups differ.
fn behind(cluster: &mut Cluster) -> u64 {
    let now = cluster.now;
    let mut lasts: BTreeMap<crate::base::GroupId, Vec<u64>> = BTreeMap::new();
    for node in cluster.nodes.values_mut() {
        node.replicas(now).into_iter().for_each(|replica| lasts.entry(replica.group).or_default().push(replica.applied.0));
    }
    lasts.values().map(|applied| applied.iter().max().unwrap_or(&0) - applied.iter().min().unwrap_or(&0)).sum()
}
