//! Which nodes reach which: links that are cut, and nodes that do not return.

use super::*;
use crate::base::{Epoch, GroupId, Term};
use crate::msg::operation::Operation;
use crate::msg::peer::{Carried, Forward, Relayed, Task};
use crate::msg::transaction::Transaction;

/// Long enough that unreached nodes are known as such, and the leaders have settled.
const SETTLED: u64 = 4_000;

impl Cluster {
    fn cut(&mut self, one: u16, other: u16) {
        self.cuts.extend([(one, other), (other, one)]);
    }

    /// Does everything through every node, and says how long the slowest answer took, in milliseconds.
    fn everything_through_everyone(&mut self) -> u64 {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        let mut slowest = 0;
        for node in nodes {
            for n in 0..8 {
                let began = self.now;
                self.put(node.0, &format!("k{n}"), &format!("through {node}"));
                slowest = slowest.max(self.now.since(began).as_millis() as u64);
                let read = self.get(node.0, &format!("k{n}"));
                assert_eq!(read.as_deref(), Some(format!("through {node}").as_bytes()));
            }
            let began = self.now;
            let items = (0..8).map(|n| Operation::increment(format!("n{n}"), 1)).collect();
            let done = self.call(node.0, RequestBody::Transact(Transaction { items, token: None }));
            assert!(matches!(done, ResponseBody::Transacted(_)), "{done:?}");
            slowest = slowest.max(self.now.since(began).as_millis() as u64);
        }
        slowest
    }

    fn relayed(&self) -> u64 {
        self.nodes.values().map(|node| node.counters.relayed).sum()
    }

    fn elections_won(&self) -> u64 {
        self.nodes.values().flat_map(|node| node.groups.values()).map(|group| group.replica.elections_won).sum()
    }
}

#[test]
fn with_one_link_cut_everything_is_served_through_every_node() {
    let mut cluster = Cluster::new(3);
    cluster.everything_through_everyone();
    assert_eq!(cluster.relayed(), 0, "nothing takes a detour when all is well");
    cluster.cut(1, 3);
    cluster.run(SETTLED);
    let (relayed, elections) = (cluster.relayed(), cluster.elections_won());
    let slowest = cluster.everything_through_everyone();
    assert!(cluster.relayed() > relayed, "what node 1 and node 3 have to say to each other goes through node 2");
    assert!(slowest < 200, "no request waits for a deadline or a long retry: {slowest} ms");
    cluster.run(SETTLED);
    assert_eq!(cluster.elections_won(), elections, "who cannot hear a leader unseats nobody");
}

#[test]
fn a_link_that_works_in_one_direction_is_no_link() {
    for (from, to) in [(1, 3), (3, 1)] {
        let mut cluster = Cluster::new(3);
        cluster.cuts.push((from, to));
        cluster.run(SETTLED);
        let slowest = cluster.everything_through_everyone();
        assert!(slowest < 200 && cluster.relayed() > 0, "{slowest} ms");
    }
}

#[test]
fn a_transaction_that_is_in_flight_when_the_link_is_cut_is_finished_while_it_stays_cut() {
    let mut cluster = Cluster::new(3);
    let items: Vec<Operation> = (0..8).map(|n| Operation::increment(format!("n{n}"), 1)).collect();
    for cut_after in 0..8 {
        cluster.cuts.clear();
        cluster.run(SETTLED);
        for node in 1..=3 {
            cluster.ask(node, RequestBody::Transact(Transaction { items: items.clone(), token: None }));
        }
        cluster.run(cut_after);
        let (one, other) = [(1, 2), (1, 3), (2, 3)][cut_after as usize % 3];
        cluster.cut(one, other);
        cluster.run(SETTLED);
        for node in 1..=3 {
            for n in 0..8 {
                assert!(cluster.get(node, &format!("n{n}")).is_some(), "no key stays locked while the link is cut");
            }
        }
    }
}

#[test]
fn over_several_links_but_not_for_ever() {
    // A chain: each node reaches the next alone.
    let mut cluster = Cluster::new(5);
    cluster.put(1, "k0", "v");
    for (one, other) in [(1, 3), (1, 4), (1, 5), (2, 4), (2, 5), (3, 5)] {
        cluster.cut(one, other);
    }
    cluster.run(SETTLED);
    for one in 1..=5_u16 {
        for other in (1..=5).filter(|other| *other != one) {
            let way = cluster.nodes[&NodeId(one)].liveness.view().way_to(NodeId(other), cluster.now);
            let next = if other > one { one + 1 } else { one - 1 };
            assert_eq!(way, Some((NodeId(next), one.abs_diff(other) as u8)), "from {one} to {other}");
        }
    }
    cluster.kill(5);
    cluster.run(SETTLED);
    for one in 1..=4_u16 {
        assert_eq!(cluster.nodes[&NodeId(one)].liveness.view().way_to(NodeId(5), cluster.now), None, "nobody reaches the dead");
    }
}

/// Node 2 passes a forward on to node 1. Whether that does something with it, and passes it on itself.
fn passed_to_1(cluster: &mut Cluster, relayed: Relayed) -> (bool, bool) {
    let counted = |cluster: &Cluster| {
        let counters = &cluster.nodes[&NodeId(1)].counters;
        (counters.envelopes_dropped, counters.relayed)
    };
    let before = counted(cluster);
    let node = &cluster.nodes[&NodeId(2)];
    let envelope = Envelope {
        cluster: node.membership.cluster(),
        from: NodeId(2),
        directory: node.membership.directory(),
        epoch: node.epoch(),
        messages: vec![PeerMessage::Relayed(Box::new(relayed))],
    };
    cluster.step(NodeId(1), Event::Net(NodeId(2), envelope));
    let after = counted(cluster);
    (after.0 == before.0, after.1 > before.1)
}

fn forward(sequence: u64) -> Carried {
    let (group, leader) = (GroupId(1), Some((Epoch(1), Term(1))));
    Carried::Forward(Forward { sequence, group, leader, remaining_ms: 100, task: Task::ReadMany(Vec::new()) })
}

#[test]
fn nothing_is_passed_back_to_where_it_came_from_nor_over_more_links_than_it_may() {
    // What is for node 4 comes to node 1, which reaches node 4 itself; through node 3 alone; through node 2 alone.
    for (cut, links, passed_on) in [
        (&[][..], 1, true),
        (&[(1, 4), (2, 4)][..], 2, true),
        (&[(1, 4), (2, 4)][..], 1, false),
        (&[(1, 4), (3, 4)][..], 2, false),
    ] {
        let mut cluster = Cluster::empty();
        (1..=4).for_each(|n| cluster.boot(n, 4));
        cluster.run(5_000);
        cut.iter().for_each(|(one, other)| cluster.cut(*one, *other));
        cluster.run(SETTLED);
        let (origin, directory, destination) = (NodeId(2), DirectoryId(2), NodeId(4));
        let epoch = cluster.nodes[&origin].epoch();
        let relayed = Relayed { origin, directory, epoch, destination, links, carried: forward(1_000) };
        assert_eq!(passed_to_1(&mut cluster, relayed), (passed_on, passed_on), "{cut:?} are cut, {links} links are left");
    }
}

#[test]
fn what_is_passed_on_is_checked_as_what_comes_directly() {
    let mut cluster = Cluster::new(3);
    let own = cluster.nodes[&NodeId(3)].epoch();
    let taken = |cluster: &mut Cluster, directory: u128, epoch: Epoch, sequence: u64| {
        let (origin, destination) = (NodeId(3), NodeId(1));
        let directory = DirectoryId(directory);
        passed_to_1(cluster, Relayed { origin, directory, epoch, destination, links: 1, carried: forward(sequence) }).0
    };
    assert!(taken(&mut cluster, 3, own, 1_000));
    assert!(!taken(&mut cluster, 4, own, 1_001), "another directory than the bound one");
    assert!(!taken(&mut cluster, 3, Epoch(own.0 - 1), 1_002), "an earlier epoch than is known");
}

#[test]
fn a_group_has_a_leader_when_a_majority_of_its_own_replicas_returns() {
    let mut cluster = Cluster::new(5);
    let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    keys.iter().for_each(|key| _ = cluster.put(1, key, "v"));
    let replicas = cluster.nodes[&NodeId(1)].placement.replicas(GroupId(1)).to_vec();
    let placement = cluster.nodes[&NodeId(1)].placement.clone();
    (1..=5).for_each(|n| cluster.kill(n));
    let returned = [replicas[0], replicas[2]];
    returned.iter().for_each(|node| cluster.boot(node.0, 5));
    cluster.run(2_000);
    let served: Vec<&String> =
        keys.iter().filter(|key| placement.group_of(crate::base::hash::token(0, key.as_bytes())) == GroupId(1)).collect();
    assert!(!served.is_empty());
    for key in served {
        assert_eq!(cluster.get(returned[0].0, key).as_deref(), Some(&b"v"[..]));
        cluster.put(returned[1].0, key, "w");
    }
}

#[test]
fn a_leader_that_has_restarted_behind_a_cut_link_is_asked_in_its_new_epoch() {
    for restarted in 2..=5 {
        let mut cluster = Cluster::new(5);
        cluster.everything_through_everyone();
        cluster.cut(1, restarted);
        cluster.kill(restarted);
        cluster.boot(restarted, 5);
        cluster.run(SETTLED);
        for n in 0..8 {
            // The first time: a write that names an epoch that is over has to be told unknown.
            cluster.put(1, &format!("k{n}"), "v");
        }
    }
}

#[test]
fn a_cluster_forms_as_soon_as_its_last_member_is_there() {
    for order in [[1, 2, 3], [2, 3, 1], [3, 1, 2]] {
        let mut cluster = Cluster::empty();
        for n in order {
            cluster.boot(n, 3);
            cluster.run(20);
        }
        let formed = cluster.nodes.values().all(|node| node.membership.cluster().is_some());
        assert!(formed, "in order {order:?}: nobody waits for the next round of greetings");
    }
}

#[test]
fn who_leads_is_known_where_there_is_no_replica() {
    let mut cluster = Cluster { partitions: 64, ..Cluster::empty() };
    (1..=5).for_each(|n| cluster.boot(n, 5));
    cluster.run(SETTLED);
    let known = |cluster: &Cluster, node: u16| -> Vec<Option<NodeId>> {
        let ring = cluster.nodes[&NodeId(node)].ring_report().expect("formed");
        ring.partitions.iter().map(|partition| partition.leader).collect()
    };
    let all = known(&cluster, 1);
    assert!(all.iter().all(Option::is_some), "{all:?}");
    assert!((2..=5).all(|node| known(&cluster, node) == all), "all nodes name the same leaders");
    cluster.kill(5);
    cluster.run(SETTLED);
    let all = known(&cluster, 1);
    assert!(all.iter().all(|leader| leader.is_some_and(|leader| leader != NodeId(5))), "{all:?}");
    assert!((2..=4).all(|node| known(&cluster, node) == all));
}
