//! Nodes that start from damaged logs, and are made whole by the others.

use super::*;
use crate::base::GroupId;
use crate::wal::walk::{Content, Met, walk};
use std::collections::BTreeSet;

impl Cluster {
    /// To which an original is silent after so many milliseconds.
    fn that_hears(nodes: u16, original_silent_ms: usize) -> Cluster {
        let mut cluster = Cluster::new(nodes);
        cluster.limits.original_silent_ms = original_silent_ms;
        (1..=nodes).for_each(|n| cluster.kill(n));
        (1..=nodes).for_each(|n| cluster.boot(n, nodes));
        cluster
    }

    /// Groups of the node that may have forgotten something.
    fn forgetful(&mut self, n: u16) -> BTreeSet<GroupId> {
        let now = self.now;
        let replicas = self.nodes.get_mut(&NodeId(n)).expect("it runs").replicas(now);
        replicas.into_iter().filter(|replica| replica.amnesiac).map(|replica| replica.group).collect()
    }

    fn group_of(&self, key: &str) -> GroupId {
        Key::from(key.to_owned()).partition(self.partitions).group()
    }

    /// The last bytes of the node's log that are not zero become so.
    fn cut_end(&mut self, n: u16, bytes: usize) {
        let files = &mut self.disks.get_mut(&NodeId(n)).expect("it ran").0;
        let (_, file) = files.iter_mut().rfind(|(id, file)| id.0 > 0 && file.iter().any(|byte| *byte != 0)).expect("a log");
        let end = file.iter().rposition(|byte| *byte != 0).expect("it is not empty") + 1;
        file[end.saturating_sub(bytes).max(1_024)..end].fill(0);
    }
}

#[test]
fn a_group_that_lost_an_entry_is_made_whole_and_counts_again() {
    let mut cluster = Cluster::new(3);
    for n in 0..40 {
        cluster.put(1, &format!("k{n}"), &format!("value of {n}, "));
    }
    cluster.run(1_000);
    cluster.kill(2);
    cluster.flip(2, "value of 7, ");
    cluster.boot(2, 3);
    let touched = BTreeSet::from([cluster.group_of("k7")]);
    assert_eq!(cluster.forgetful(2), touched, "of the others nothing is missing");
    cluster.run(3_000);
    assert_eq!(cluster.forgetful(2), BTreeSet::new());
    // With it alone beside one more there is a quorum.
    cluster.kill(1);
    cluster.run(5_000);
    for n in 0..40 {
        assert_eq!(cluster.get(3, &format!("k{n}")).as_deref(), Some(format!("value of {n}, ").as_bytes()), "k{n}");
    }
    cluster.put(3, "k7", "new");
}

#[test]
fn a_group_that_waits_for_its_peers_votes_for_none_and_remembers_that_over_checkpoints_and_restarts() {
    for bytes in [600, 20_000] {
        let mut cluster = Cluster::that_compacts(16);
        cluster.write_all(1, 0, 60);
        cluster.run(1_000);
        let log = |cluster: &Cluster, n: u16| cluster.nodes[&NodeId(n)].log.durable_lsn();
        let before = log(&cluster, 2);
        (1..=3).for_each(|n| cluster.kill(n));
        cluster.cut_end(2, bytes);
        cluster.boot(2, 3);
        let all = cluster.forgetful(2);
        assert_eq!(all.len(), 4, "the log's end is missing: that may be of any group");
        assert!(log(&cluster, 2) >= before, "no position is used twice");
        // Node 3 alone beside it gets no leader.
        cluster.boot(3, 3);
        cluster.run(12_000);
        let checkpoints = cluster.counter(2, "checkpoints");
        assert!(checkpoints > 0, "the damage is left behind");
        assert_eq!(cluster.forgetful(2), all);
        assert!(cluster.nodes[&NodeId(3)].health(cluster.now).groups_led == 0, "{bytes}: an election needs all that remember");
        cluster.kill(2);
        cluster.boot(2, 3);
        assert_eq!(cluster.forgetful(2), all, "{bytes}: it remembers that it has forgotten");
        cluster.boot(1, 3);
        cluster.run(8_000);
        assert_eq!(cluster.forgetful(2), BTreeSet::new());
        cluster.has(2, 0, 60);
        cluster.kill(2);
        cluster.boot(2, 3);
        assert_eq!(cluster.forgetful(2), BTreeSet::new(), "{bytes}: that it is whole is remembered, too");
    }
}

/// Should the records of terms and votes rot later, of groups that were whole, what is said of the entries would not tell.
#[test]
fn where_a_group_stands_is_said_with_its_term_and_vote() {
    let mut cluster = Cluster::new(3);
    cluster.put(1, "k", "a value that will rot");
    cluster.run(1_000);
    cluster.kill(2);
    cluster.flip(2, "a value that will rot");
    cluster.boot(2, 3);
    cluster.run(2_000);
    let states: BTreeMap<GroupId, _> =
        cluster.nodes[&NodeId(2)].groups.iter().map(|(id, group)| (*id, group.replica.hard_state())).collect();
    cluster.kill(2);
    let (mut before, mut said) = (None, BTreeMap::new());
    let disk = cluster.disks.get_mut(&NodeId(2)).expect("it ran");
    let walked = walk::<DiskError>(disk, &mut |met| {
        let Met::Record(seen) = met else { return Ok(()) };
        if let Content::Stands { group, .. } = seen.content {
            said.insert(group, before.take());
        }
        before = Some(seen.content);
        Ok(())
    });
    assert_eq!(walked.expect("it is read").bad, 1);
    assert_eq!(said.len(), 4);
    for (id, before) in said {
        let Some(Content::HardState(group, state)) = before else { panic!("{id}: {before:?}") };
        assert_eq!((group, state.term, state.vote), (id, states[&id].term, states[&id].vote));
    }
}

/// Nothing of what it had is left in the checkpoint: it is sent the state.
#[test]
fn a_group_whose_copy_has_rotted_is_sent_its_state() {
    let mut cluster = Cluster::that_compacts(16);
    (0..12).for_each(|round| cluster.write_all(1, round, 60));
    cluster.run(2_000);
    assert!(cluster.counter(2, "checkpoints") > 0);
    cluster.kill(2);
    // Every root of the last checkpoint.
    let mut roots = BTreeMap::new();
    let disk = cluster.disks.get_mut(&NodeId(2)).expect("it ran");
    let _ = walk::<DiskError>(disk, &mut |met| {
        if let Met::Record(seen) = met
            && let Content::Root(group, _) = seen.content
        {
            roots.insert(group, seen.place);
        }
        Ok(())
    });
    assert!(roots.len() > 1);
    for place in roots.values() {
        disk.0.get_mut(&place.segment).expect("it is there")[place.offset as usize + 60] ^= 1;
    }
    cluster.boot(2, 3);
    assert!(cluster.forgetful(2).len() >= roots.len());
    cluster.run(10_000);
    assert_eq!(cluster.forgetful(2), BTreeSet::new());
    cluster.has(2, 11, 60);
    cluster.kill(1);
    cluster.run(5_000);
    cluster.put(3, "k", "v");
}

#[test]
fn an_old_copy_of_a_directory_starts_over_and_is_made_whole() {
    let mut cluster = Cluster::that_hears(3, 3_000);
    cluster.write_all(1, 0, 60);
    cluster.run(1_000);
    let copy = cluster.disks[&NodeId(2)].0.clone();
    cluster.write_all(1, 1, 60);
    cluster.run(2_000);
    let durable = cluster.nodes[&NodeId(2)].log.durable_lsn();
    cluster.kill(2);
    cluster.disks.get_mut(&NodeId(2)).expect("it ran").0 = copy;
    cluster.boot(2, 3);
    cluster.run(1_000);
    assert!(cluster.nodes[&NodeId(2)].membership.is_refused());
    assert!(cluster.starting_over.is_empty(), "the original may live");
    cluster.run(5_000);
    assert_eq!(std::mem::take(&mut cluster.starting_over), BTreeSet::from([NodeId(2)]));
    // It has forgotten what it knew, as often as it starts.
    for _ in 0..2 {
        cluster.kill(2);
        cluster.boot(2, 3);
        assert_eq!(cluster.forgetful(2).len(), cluster.partitions as usize, "something of any group may be missing");
        assert!(cluster.nodes[&NodeId(2)].log.durable_lsn() > durable, "no position is used twice");
    }
    // Which log counts is durable at a peer before it lets that in, whatever else it logs.
    let known = |cluster: &Cluster, n: u16| {
        let mut marks = cluster.nodes[&NodeId(n)].membership.marks();
        marks.find(|(node, _)| *node == NodeId(2)).is_some_and(|(_, mark)| mark.epoch == cluster.nodes[&NodeId(2)].epoch())
    };
    for _ in 0..2_000 {
        cluster.run(1);
        if cluster.nodes[&NodeId(2)].membership.is_welcomed_by(NodeId(1)) {
            break;
        }
    }
    cluster.kill(1);
    cluster.boot(1, 3);
    assert!(known(&cluster, 1));
    cluster.run(5_000);
    assert_eq!(cluster.forgetful(2), BTreeSet::new());
    cluster.kill(2);
    cluster.boot(2, 3);
    assert_eq!(cluster.forgetful(2), BTreeSet::new(), "that it is whole is remembered");
    cluster.run(2_000);
    cluster.kill(1);
    cluster.run(5_000);
    cluster.has(2, 1, 60);
    cluster.put(3, "k", "new");
    assert!(cluster.starting_over.is_empty(), "once");
}

/// Two nodes on copies of one damaged directory must not both find a quorum.
#[test]
fn an_amnesiac_node_starts_only_when_most_of_the_others_let_it_in() {
    let mut cluster = Cluster::new(3);
    cluster.write_all(1, 0, 20);
    cluster.run(1_000);
    [2, 3].into_iter().for_each(|n| cluster.kill(n));
    cluster.cut_end(2, 4_000);
    cluster.boot(2, 3);
    cluster.run(2_000);
    let started = |cluster: &Cluster| {
        let node = &cluster.nodes[&NodeId(2)];
        (node.membership.is_welcomed_by(NodeId(1)), node.groups.values().any(|group| group.replica.has_started()))
    };
    assert_eq!(started(&cluster), (true, false));
    cluster.boot(3, 3);
    cluster.run(5_000);
    assert_eq!(started(&cluster), (true, true));
    assert_eq!(cluster.forgetful(2), BTreeSet::new());
}

/// Nobody could make it whole. The directory stays as it is: the right one may be put back.
#[test]
fn an_old_copy_of_one_of_two_nodes_stays_refused() {
    let mut cluster = Cluster::that_hears(2, 1_000);
    cluster.run(3_000);
    let copy = cluster.disks[&NodeId(2)].0.clone();
    cluster.write_all(1, 0, 20);
    cluster.run(2_000);
    cluster.kill(2);
    let right = std::mem::replace(&mut cluster.disks.get_mut(&NodeId(2)).expect("it ran").0, copy);
    cluster.boot(2, 2);
    cluster.run(5_000);
    assert!(cluster.nodes[&NodeId(2)].membership.is_refused() && cluster.starting_over.is_empty());
    cluster.kill(2);
    cluster.disks.get_mut(&NodeId(2)).expect("it ran").0 = right;
    cluster.seed = 10;
    cluster.boot(2, 2);
    cluster.run(3_000);
    cluster.has(2, 0, 20);
}
