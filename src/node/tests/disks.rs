//! Disks that are full, or far slower than the others': which nodes lead, what is refused, what it costs.

use super::*;
use crate::msg::client::StatusReport;
use crate::msg::operation::{Condition, Operation};
use crate::msg::transaction::Transaction;

impl Cluster {
    pub(super) fn status(&self, n: u16) -> StatusReport {
        self.nodes[&NodeId(n)].status(self.now)
    }

    pub(super) fn counter(&self, n: u16, name: &str) -> u64 {
        self.status(n).counters.iter().find(|(other, _)| other == name).expect("counted").1
    }

    fn elections(&self) -> u64 {
        (1..=3).map(|n| self.counter(n, "elections_won")).sum()
    }

    /// Writes large values through node 2 until the disks of all these nodes are full, as they say.
    fn fill(&mut self, full: &[u16]) -> Vec<ResponseBody> {
        full.iter().for_each(|n| self.disks.get_mut(&NodeId(*n)).expect("there").1 = true);
        let large = "x".repeat(30_000);
        let mut answers = Vec::new();
        while !full.iter().all(|n| self.status(*n).disk_full) {
            assert!(answers.len() < 200, "the disks do not fill");
            answers.push(self.call(2, put(&format!("fill{}", answers.len()), &large, Condition::None)));
            self.run(5);
        }
        answers
    }

    pub(super) fn delete(&mut self, n: u16, key: &str) -> ResponseBody {
        self.call(n, alone(Operation::delete(key.to_string())))
    }
}

#[test]
fn a_node_with_a_full_disk_leads_nothing_and_costs_its_peers_little() {
    let mut cluster = Cluster::new(3);
    let led = cluster.status(1).groups_led;
    assert!(led > 0);
    let mut answers = cluster.fill(&[1]);
    // Large values for every group that the node cannot take, beside small ones.
    for n in 0..80 {
        let value = if n % 2 == 0 { "x".repeat(20_000) } else { "small".into() };
        answers.push(cluster.call(1 + n % 3, put(&format!("more{n}"), &value, Condition::None)));
    }
    let refused = answers.iter().filter(|answer| !matches!(answer, ResponseBody::Written { .. })).count();
    assert_eq!(refused, 0, "two of three have room");
    assert_eq!((cluster.status(1).groups_led, cluster.counter(1, "unfit")), (0, 1));
    assert!(cluster.status(1).disk_bytes_needed > 0);
    assert!(cluster.status(2).peers.iter().any(|peer| peer.node == NodeId(1) && peer.up));

    // Idle: what it cannot take is not sent to it again and again, and no replica campaigns.
    cluster.run(3_000);
    let elections = cluster.elections();
    cluster.sent_bytes = Some(0);
    cluster.run(10_000);
    let per_second = cluster.sent_bytes.take().expect("counted") / 10;
    assert!(per_second < 60_000, "{per_second} bytes per second");
    assert_eq!(cluster.elections(), elections, "nobody campaigns");
    assert!(cluster.status(2).peers.iter().chain(&cluster.status(3).peers).any(|peer| peer.entries_behind > 0));

    // Room again: it has everything at once, and leads again after a while.
    cluster.disks.get_mut(&NodeId(1)).expect("there").1 = false;
    cluster.run(2_500);
    let behind = |n| cluster.status(n).peers.iter().map(|peer| peer.entries_behind).sum::<u64>();
    assert_eq!(behind(2) + behind(3), 0, "it has caught up");
    cluster.run(10_000);
    assert_eq!((cluster.status(1).groups_led, cluster.counter(1, "unfit")), (led, 0));
}

#[test]
fn a_full_node_that_lacks_nothing_is_given_no_leadership_back() {
    let mut cluster = Cluster::new(3);
    cluster.fill(&[1]);
    cluster.run(3_000);
    let elections = cluster.elections();
    cluster.run(10_000);
    let behind = |n| cluster.status(n).peers.iter().map(|peer| peer.entries_behind).sum::<u64>();
    assert_eq!((behind(2) + behind(3), cluster.status(1).groups_led), (0, 0));
    assert_eq!(cluster.elections(), elections, "it would have to give them away again");
}

#[test]
fn where_all_disks_are_full_puts_are_rejected_and_deletes_and_transactions_that_only_delete_are_not() {
    let mut cluster = Cluster::new(3);
    for n in 0..8 {
        cluster.put(1, &format!("k{n}"), "v");
    }
    let elections = cluster.elections();
    cluster.fill(&[1, 2, 3]);
    cluster.run(2_000);
    let full = ResponseBody::Rejected(Rejection::DiskFull);
    for n in 0..8 {
        assert_eq!(cluster.call(1 + n % 3, put(&format!("k{n}"), "w", Condition::None)), full);
    }
    for n in 0..4 {
        assert!(matches!(cluster.delete(2, &format!("k{n}")), ResponseBody::Written { .. }), "k{n}");
    }
    let item = |n| Operation::delete(format!("k{n}")).only_if(Condition::Present);
    let transaction = Transaction { items: (4..8).map(item).collect(), token: None };
    let done = cluster.call(3, RequestBody::Transact(transaction));
    assert!(matches!(done, ResponseBody::Transacted(_)), "over several groups: {done:?}");
    assert_eq!(cluster.elections(), elections, "nobody is better: nobody moves");
    cluster.run(1_000);
    let now = cluster.now;
    assert!(cluster.nodes.values().all(|node| node.transactions(now).0.is_empty()), "no decision is stuck");
    assert_eq!(cluster.get(1, "k7"), None);
    cluster.disks.values_mut().for_each(|disk| disk.1 = false);
    cluster.run(1_500);
    cluster.put(1, "k0", "again");
}

#[test]
fn a_node_whose_disk_is_far_slower_than_the_others_leads_nothing() {
    let mut cluster = Cluster::new(3);
    let led = cluster.status(1).groups_led;
    cluster.slow_ms.insert(NodeId(1), 300);
    for n in 0..200 {
        cluster.put(1 + n % 3, &format!("k{n}"), "v");
        cluster.run(20);
    }
    assert_eq!((cluster.status(1).groups_led, cluster.counter(1, "unfit")), (0, 1));
    assert!(cluster.counter(1, "sync_latency_ms") >= 200);
    let changes = cluster.elections();
    cluster.run(2_000);
    assert_eq!(cluster.elections(), changes, "nothing goes back and forth");
    cluster.slow_ms.clear();
    for n in 0..400 {
        cluster.put(1 + n % 3, &format!("k{n}"), "w");
        cluster.run(20);
    }
    cluster.run(4_000);
    assert_eq!((cluster.status(1).groups_led, cluster.counter(1, "unfit")), (led, 0));
}

#[test]
fn where_all_disks_are_slow_nobody_moves() {
    let mut cluster = Cluster::new(3);
    let elections = cluster.elections();
    (1..=3).for_each(|n| _ = cluster.slow_ms.insert(NodeId(n), 200));
    for n in 0..20 {
        cluster.put(1 + n % 3, &format!("k{n}"), "v");
    }
    assert_eq!((1..=3).map(|n| cluster.counter(n, "unfit")).sum::<u64>(), 0);
    assert_eq!(cluster.elections(), elections);
}

/// Nodes that log marks of each other's logs would keep each other writing.
#[test]
fn an_idle_cluster_writes_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.put(1, "a", "1");
    cluster.run(10_000);
    let written = |cluster: &Cluster| [1, 2, 3].map(|n| cluster.status(n).log_bytes_written);
    let before = written(&cluster);
    cluster.run(120_000);
    assert_eq!(written(&cluster), before);
}

#[test]
fn the_status_tells_how_much_of_the_log_is_used() {
    let mut cluster = Cluster::new(3);
    let used = |cluster: &Cluster| cluster.status(1).log_bytes_used;
    let (mut last, size) = (used(&cluster), 300 * 1024);
    for n in 0..20 {
        cluster.put(1, &format!("k{n}"), &"v".repeat(size));
        cluster.run(1_000);
        // A segment that cannot take the next value ends early.
        let more = used(&cluster) - last;
        assert!((size as u64..3 * size as u64).contains(&more), "{more} bytes for a value of {size}");
        last += more;
        assert!(last <= cluster.status(1).log_bytes_allocated);
    }
    assert!(cluster.disks[&NodeId(1)].0.len() > 2, "the log has some segments");
}
