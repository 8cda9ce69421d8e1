//! At most one leader per group and term (Raft, figure 3: election safety), and at most one holder of a group's lease at an
//! instant.
//!
//! The first breaks everything behind it (P1, P3); the second lets a deposed leader serve stale reads (P1), even where no client
//! happened to ask for one.

use super::Violation;
use ringseed::base::{Epoch, GroupId, NodeId, Term};
use ringseed::node::ReplicaProbe;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Leaders {
    /// Which node led, and in which epoch: a node that restarts does not lead its old term again.
    led: BTreeMap<(GroupId, Term), (NodeId, Epoch)>,
    /// Which node last held the lease, and at which instant that was seen.
    lease: BTreeMap<GroupId, (u64, NodeId)>,
    /// Whether the clocks kept to the bound that leases rest on.
    leases_hold: bool,
}

impl Leaders {
    /// `leases_hold`: whether every clock of the run keeps to the drift bound. Beyond it two may hold a lease, and that is
    /// allowed.
    pub fn new(leases_hold: bool) -> Leaders {
        Leaders { leases_hold, ..Leaders::default() }
    }

    /// What one replica looks like at one instant of the simulated world (in nanoseconds of true time). For leases, feed the
    /// replicas of all nodes at each instant; a node that is down or paused has none.
    ///
    /// # Errors
    /// Another node leads the same term, or holds the lease at the same instant.
    pub fn observe(&mut self, instant: u64, node: NodeId, epoch: Epoch, probe: &ReplicaProbe) -> Result<(), Violation> {
        let group = probe.group;
        if probe.leads {
            let (other, earlier) = *self.led.entry((group, probe.term)).or_insert((node, epoch));
            if (other, earlier) != (node, epoch) {
                return Err(violation(format!(
                    "group {group}, term {}: node {other} (epoch {earlier}) and node {node} (epoch {epoch}) both led",
                    probe.term
                )));
            }
        }
        if probe.has_lease {
            if !probe.leads {
                return Err(violation(format!(
                    "group {group}: node {node} has the lease and does not lead, in term {}",
                    probe.term
                )));
            }
            let last = self.lease.insert(group, (instant, node));
            if let Some((_, other)) = last.filter(|(seen, other)| self.leases_hold && *seen == instant && *other != node) {
                return Err(violation(format!(
                    "group {group}: nodes {other} and {node} hold the lease at once, at {instant} ns"
                )));
            }
        }
        Ok(())
    }
}

fn violation(what: String) -> Violation {
    Violation { promise: "P1", checker: "leaders", what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringseed::base::Index;

    fn probe(term: u64, leads: bool, has_lease: bool) -> ReplicaProbe {
        ReplicaProbe {
            group: GroupId(3),
            term: Term(term),
            leader: None,
            leads,
            has_lease,
            last: Index(0),
            base: Index(0),
            durable: Index(0),
            commit: Index(0),
            applied: Index(0),
            idle: true,
            amnesiac: false,
        }
    }

    #[test]
    fn one_leader_a_term() {
        let mut leaders = Leaders::new(true);
        leaders.observe(1, NodeId(1), Epoch(1), &probe(5, true, true)).unwrap();
        leaders.observe(2, NodeId(1), Epoch(1), &probe(5, true, true)).unwrap();
        leaders.observe(2, NodeId(2), Epoch(1), &probe(5, false, false)).unwrap();
        leaders.observe(3, NodeId(2), Epoch(1), &probe(6, true, false)).unwrap();
        leaders.observe(3, NodeId(1), Epoch(1), &probe(5, true, false)).unwrap();
        leaders.observe(4, NodeId(2), Epoch(1), &probe(5, true, false)).unwrap_err();
        leaders.observe(4, NodeId(1), Epoch(2), &probe(5, true, false)).unwrap_err();
    }

    #[test]
    fn one_lease_at_an_instant() {
        let mut leaders = Leaders::new(true);
        leaders.observe(1, NodeId(1), Epoch(1), &probe(5, true, true)).unwrap();
        leaders.observe(2, NodeId(2), Epoch(1), &probe(6, true, true)).unwrap();
        leaders.observe(2, NodeId(1), Epoch(1), &probe(5, true, true)).unwrap_err();
        leaders.observe(3, NodeId(3), Epoch(1), &probe(5, false, true)).unwrap_err();
        let mut lax = Leaders::new(false);
        lax.observe(2, NodeId(2), Epoch(1), &probe(6, true, true)).unwrap();
        lax.observe(2, NodeId(1), Epoch(1), &probe(5, true, true)).unwrap();
    }
}
