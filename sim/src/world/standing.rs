//! Living with a fault that lasts: a dead node, a cut link, a node that lives and is badly connected, a sick disk, or disks that
//! are slow everywhere.
//!
//! When the other faults are over, the standing one stays. First everything that a majority can serve must be done within bounded
//! time, as in the healing. Then, once leaderships have settled, every partition is asked for a write, a read and a part in a
//! transaction *through every living node* that can reach the others. Each request must succeed the first time: a deadline would
//! hide a request that waits for what never comes. Where every sync is slow, the time that all of this may take follows from how
//! long a sync takes, and from nothing else. After that the fault ends, and all heals.

use super::budget::Budget;
use super::machine::Machine;
use super::{MS, World};
use crate::WorldTime;
use crate::counters::Kind;
use crate::plan::Standing;
use crate::recovery::{Step, Took};
use crate::workload;
use ringseed::base::{NodeId, PartitionId};
use std::collections::BTreeSet;

/// Longer than any run.
pub(super) const FOR_MS: u64 = 10_000_000;

/// How many syncs, one after the other, an errand may wait for on its own account: a transaction is prepared, decided and
/// resolved where others are, each behind the batch that is under way.
const ERRAND_SYNCS: u64 = 10;
/// The same for nodes to boot, and for every group to have a leader that has committed something, some campaigns being in vain.
const ELECTION_SYNCS: u64 = 40;

#[derive(Debug)]
pub(super) struct Phase {
    began: WorldTime,
    deadline: WorldTime,
    budget: Budget,
    /// From now on each request must succeed the first time.
    strict: bool,
    /// All errands were done once.
    served: bool,
    /// How often the fault had mattered when the phase began.
    mattered: u64,
}

impl World {
    /// The fault's position among the faults.
    fn standing_fault(&self) -> usize {
        self.plan.faults.len() - 1
    }

    pub(super) fn stand(&mut self) {
        let Some(standing) = self.plan.standing.clone() else { return };
        self.timeline.note(self.now, || format!("== the faults end, but for {}", standing.kind.name()));
        let acts = self.standing_acts();
        for machine in &mut self.machines {
            machine.stays_down |= acts && standing.kills(machine.id.0);
        }
        let budget = self.budget();
        self.end_all_faults(Some(self.standing_fault()));
        for number in 0..self.machines.len() {
            if self.machines[number].stays_down && self.machines[number].node.is_some() {
                self.crash(number, None, FOR_MS, None);
            }
        }
        self.start_what_is_down();
        self.workload.allow_for(self.errand_syncs() * self.standing_sync_ms());
        // What was asked before, and lost, keeps its client from errands until its deadline (seed 22493).
        let under_way = self.workload.still_waits_for(self.now);
        let errands = self.errands(&self.served_partitions());
        self.workload.audit(errands);
        self.clients_go_on();
        let (began, deadline) = (self.now, self.now + under_way + self.standing_span(budget));
        let mattered = self.standing_kind().map_or(0, |(_, cause)| cause.map_or(0, |cause| self.counters.get(cause).mattered));
        self.standing = Some(Phase { began, deadline, budget, strict: false, mattered, served: false });
    }

    /// Whether the standing fault does what it is for.
    pub(super) fn standing_acts(&self) -> bool {
        self.standing_kind().is_none_or(|(kind, _)| self.counters.acts(kind))
    }

    /// How the standing fault is counted; and the kind of fault that tells whether it mattered, unless it always does.
    fn standing_kind(&self) -> Option<(Kind, Option<Kind>)> {
        let stands = self.plan.standing.as_ref()?.kind.behaviour().stands.as_ref()?;
        Some((stands.counted, stands.cause))
    }

    /// Partitions with a replica that hears a majority of their replicas, itself included.
    fn served_partitions(&self) -> Vec<u32> {
        let Some(standing) = &self.plan.standing else { return Vec::new() };
        let alive = |node: &NodeId| !standing.kills(node.0) && !standing.cuts_off(node.0);
        let all: BTreeSet<NodeId> = self.machines.iter().map(|machine| machine.id).collect();
        let served = |partition: &u32| {
            let members = self.watch.members(PartitionId(*partition).group()).unwrap_or(&all);
            members.iter().filter(|leader| alive(leader)).any(|leader| {
                let heard =
                    members.iter().filter(|node| *node == leader || alive(node) && standing.joins(leader.0, node.0)).count();
                heard * 2 > members.len()
            })
        };
        (0..self.plan.cluster.partitions).filter(served).collect()
    }

    pub(super) fn look_at_standing(&mut self) {
        let Some(phase) = &self.standing else { return };
        let (began, deadline, strict) = (phase.began, phase.deadline, phase.strict);
        let took = (self.now - began) / MS;
        if let Some(failed) = self.workload.failed_errand.take() {
            return self.liveness(format!("with a lasting fault, {took} ms after all others: {failed}"));
        }
        let (left, example) = self.workload.errands_left();
        if left > 0 {
            if self.now > deadline {
                let example = example.unwrap_or_default();
                self.liveness(format!(
                    "{left} errands are not done {took} ms after all faults but a lasting one, among them {example}"
                ));
            }
        } else if !strict {
            self.note_served(began, deadline);
            if self.now >= began + self.settled_after() {
                self.ask_of_all();
            }
        } else if let Some(what) = self.unfit_leader() {
            if self.now > deadline {
                self.liveness(format!("{took} ms after all faults but a lasting one, {what}"));
            }
        } else {
            self.timeline.note(self.now, || "== all is served while the fault stands".to_owned());
            self.standing_ends();
        }
    }

    /// A node with a sick disk, that knows of it and leads all the same.
    fn unfit_leader(&mut self) -> Option<String> {
        let number = usize::from(self.plan.standing.as_ref()?.unfit()?) - 1;
        let machine = self.machines.get_mut(number)?;
        let (now, node) = (machine.clock.read(self.now), machine.node.as_mut()?);
        let status = node.status(now);
        let unfit = status.disk_full || status.counters.iter().any(|(name, count)| name == "unfit" && *count > 0);
        (unfit && status.groups_led > 0).then(|| format!("{:?}, which is unfit, leads {} groups", machine.id, status.groups_led))
    }

    /// When leaderships have moved to where they will stay: a leader that is not the preferred one keeps a leadership for eight
    /// times D at most.
    fn settled_after(&self) -> u64 {
        (2_000 + 10 * u64::from(self.plan.cluster.support_ms) + ELECTION_SYNCS * self.standing_sync_ms()) * MS
    }

    /// By how much the syncs of all nodes take longer, in milliseconds.
    fn standing_sync_ms(&self) -> u64 {
        self.plan.standing.as_ref().map_or(0, Standing::slows_all_ms)
    }

    /// How many syncs an errand may wait for, those of the same transaction through every other node included: they want the same
    /// locks.
    fn errand_syncs(&self) -> u64 {
        ERRAND_SYNCS * self.machines.len() as u64
    }

    /// How long it may take until all errands are done, each repeated: an election, an errand or two that no node answers, and
    /// one errand after the other. With slow syncs all of that waits for them.
    fn standing_span(&self, budget: Budget) -> u64 {
        let errands = self.workload.errands_in_a_row() as u64;
        let in_vain = 2 * self.workload.patience();
        let syncs = (ELECTION_SYNCS + self.errand_syncs() * errands) * self.standing_sync_ms() * MS;
        budget.led + in_vain + errands * budget.work + syncs
    }

    fn note_served(&mut self, began: WorldTime, deadline: WorldTime) {
        let Some(phase) = self.standing.as_mut().filter(|phase| !phase.served) else { return };
        phase.served = true;
        self.recovery.push(Took { step: Step::Stands, ms: (self.now - began) / MS, budget_ms: (deadline - began) / MS });
    }

    /// Asks everything through every living node.
    fn ask_of_all(&mut self) {
        let partitions = self.served_partitions();
        let bodies = workload::transactions::partition_errands(&partitions, self.plan.cluster.partitions);
        let is_out = |machine: &Machine| {
            machine.stays_down || self.plan.standing.as_ref().is_some_and(|standing| standing.cuts_off(machine.id.0))
        };
        let living: Vec<usize> = (0..self.machines.len()).filter(|&number| !is_out(&self.machines[number])).collect();
        self.workload.audit_through(&living, &bodies);
        self.close_dead_connections();
        self.clients_go_on();
        let Some(budget) = self.standing.as_ref().map(|phase| phase.budget) else { return };
        // A node that has just become unfit has a while to hand over.
        let deadline = self.now + self.standing_span(budget) + self.settled_after();
        if let Some(phase) = &mut self.standing {
            (phase.strict, phase.deadline) = (true, deadline);
        }
    }

    fn standing_ends(&mut self) {
        let Some(phase) = self.standing.take() else { return };
        if let Some((kind, cause)) = self.standing_kind() {
            self.counters.fired(kind);
            let down = self.machines.iter().any(|machine| machine.stays_down && machine.node.is_none());
            if cause.map_or(down, |cause| self.counters.get(cause).mattered > phase.mattered) {
                self.counters.mattered(kind);
            }
        }
        for machine in &mut self.machines {
            machine.stays_down = false;
        }
        self.heal();
    }
}
