//! Looking at all nodes, and the second phase of a run: everything must finish, converge and be readable (promise P5).
//!
//! When the faults are over, every node runs again (but for one, in some plans), and the clients go on until every group that has
//! a live majority is led. Then they are quiet for a second, or three heartbeats. Whatever waited must have come to its end by
//! then: a waiter that only its deadline would end is seen by what comes next. Now the clients do errands: each partition must
//! take a write and a strong read, and every key must be read. Each errand must be done *the first time*. At last all replicas
//! must have the same log, applied to the end, and be idle; and hold the same items, key by key, version by version.
//!
//! How long each of these steps may take follows from the plan ([`budget`](super::budget)).

use super::budget::Budget;
use super::machine::Machine;
use super::watch::View;
use super::{Happening, MS, World};
use crate::Verdict;
use crate::WorldTime;
use crate::check::Violation;
use crate::check::agreement::{Agreement, Items};
use crate::check::corruption;
use crate::check::durability::Durability;
use crate::check::scan;
use crate::counters::Kind;
use crate::plan::{Ending, LossStyle};
use crate::recovery::{Step, Took};
use crate::workload;
use ringseed::base::{GroupId, Index, Key, NodeId, PartitionId, Time};
use ringseed::msg::client::{Membership, RequestBody, Scan};
use ringseed::msg::operation::Consistency;
use ringseed::node::ReplicaProbe;
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct Healing {
    /// When the present step began.
    since: WorldTime,
    step: Waiting,
    budget: Budget,
    /// Groups of which a majority lives.
    live: Vec<GroupId>,
}

/// What the healing waits for, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    ForLeaders,
    Quietly,
    ForErrands,
    ForRest,
}

/// All nodes that are up.
fn views(machines: &mut [Machine], now: WorldTime) -> Vec<View<'_>> {
    let mut views = Vec::new();
    for machine in machines {
        if let Some(node) = &mut machine.node {
            let at = machine.clock.read(now);
            let replicas = node.replicas(at);
            views.push(View { id: machine.id, node, at, replicas, disowned: machine.disowned.is_some() });
        }
    }
    views
}

impl World {
    pub(super) fn look(&mut self) {
        let look_at = self.now + self.looks.between(3 * MS, 25 * MS);
        self.at(look_at, Happening::Look);
        let now = self.now;
        self.look_at_amnesia();
        let views = views(&mut self.machines, now);
        if self.looks.chance(100) {
            views.iter().for_each(|view| view.node.check());
        }
        let result = self.watch.look(now, &views, &mut self.looks);
        drop(views);
        if let Err(violation) = result {
            return self.safety(violation);
        }
        if self.looks.chance(150) {
            self.look_at_membership();
        }
        if self.standing.is_some() {
            self.look_at_standing();
        } else if self.healing.is_some() {
            self.look_at_healing();
        }
    }

    /// A client is told that every voter holds this entry: now, of all that can be looked at.
    pub(super) fn all_must_hold(&mut self, group: GroupId, index: Index) {
        let views = views(&mut self.machines, self.now);
        if let Err(violation) = self.watch.held_by_all(group, index, &views) {
            self.safety(violation);
        }
    }

    /// A node whose log was damaged, and which has forgotten nothing any more, is as good as any other.
    fn look_at_amnesia(&mut self) {
        let may_be_whole = |machine: &&mut Machine| machine.was_damaged && !machine.is_whole_again && !machine.has_unread_rot;
        for machine in self.machines.iter_mut().filter(may_be_whole) {
            let Some(node) = &mut machine.node else { continue };
            let replicas = node.replicas(machine.clock.read(self.now));
            if !replicas.is_empty() && replicas.iter().all(|replica| !replica.amnesiac) {
                machine.is_whole_again = true;
                self.timeline.note(self.now, || format!("{:?} is whole again", machine.id));
            }
        }
    }

    /// Which nodes are members; and a directory that was wiped or put back is refused: that is when those faults mattered.
    fn look_at_membership(&mut self) {
        for machine in &mut self.machines {
            let Some(node) = &machine.node else { continue };
            if machine.refused || (machine.was_member && machine.disowned.is_none()) {
                continue;
            }
            let membership = node.status(machine.clock.read(self.now)).membership;
            match (membership, machine.disowned) {
                (Membership::Member, None) => machine.was_member = true,
                (Membership::Refused(why), Some(kind)) => {
                    machine.refused = true;
                    self.counters.mattered(kind);
                    self.timeline.note(self.now, || format!("{:?} knows that it is refused: {why}", machine.id));
                }
                _ => {}
            }
        }
    }

    /// Faults end; what is dead starts again; errands are dealt out.
    pub(super) fn heal(&mut self) {
        self.timeline.note(self.now, || "== the faults end".to_owned());
        let budget = self.budget();
        self.end_all_faults(None);
        // A node that is refused, or whose log was damaged and that is not whole again, is as good as dead: it is the minority.
        let is_weak = |machine: &Machine| machine.is_lost() || machine.has_rotten_values();
        if self.plan.ending == Ending::HealMajority && !self.machines.iter().any(is_weak) {
            let dead = self.looks.below(self.machines.len() as u64) as usize;
            self.machines[dead].stays_down = true;
            self.crash(dead, Some(LossStyle::Nothing), 0, None);
            self.timeline.note(self.now, || format!("n{} stays dead", dead + 1));
        }
        if self.plan.ending == Ending::HealFew {
            self.few_return();
        }
        if self.has_lost_two() {
            self.counters.fired(Kind::SecondLoss);
        }
        self.start_what_is_down();
        self.break_dead_connections();
        let live = self.live_partitions().into_iter().map(|p| PartitionId(p).group()).collect();
        self.healing = Some(Healing { since: self.now, step: Waiting::ForLeaders, budget, live });
    }

    fn has_lost_two(&self) -> bool {
        self.machines.iter().filter(|machine| machine.has_lost_directory()).count() > 1
    }

    /// Every process ends, and none starts again but on the first nodes of some partition that are a majority of its replicas.
    fn few_return(&mut self) {
        let partition = self.looks.below(u64::from(self.plan.cluster.partitions)) as u32;
        let members = self.watch.members(PartitionId(partition).group()).cloned().unwrap_or_default();
        let return_again: Vec<NodeId> = members.iter().copied().take(members.len() / 2 + 1).collect();
        for number in 0..self.machines.len() {
            self.machines[number].stays_down = !return_again.contains(&self.machines[number].id);
            self.crash(number, None, 0, None);
        }
        self.timeline.note(self.now, || format!("all restart, but only {return_again:?} return"));
    }

    /// Every node runs again that does not stay down.
    pub(super) fn start_what_is_down(&mut self) {
        for number in 0..self.machines.len() {
            let machine = &mut self.machines[number];
            machine.pauses = 0;
            if self.beyond_drift_bound {
                machine.plan.clock_ppm = 0;
                machine.clock.set_rate(self.now, 0);
            }
            if machine.node.is_some() {
                self.plan_wake(number);
            } else if !machine.stays_down {
                let (boot, delay) = (machine.boot, self.looks.below(300 * MS));
                self.machines[number].boot_at = Some(self.now + delay);
                self.after(delay, Happening::Boot(number, boot));
            }
        }
    }

    /// A write and a strong read in each of these partitions, and a read of every key that is in one of them.
    pub(super) fn errands(&self, partitions: &[u32]) -> Vec<RequestBody> {
        let all = self.plan.cluster.partitions;
        let mut errands = workload::partition_errands(partitions, all);
        let mut keys = self.workload.keys();
        keys.retain(|key| partitions.contains(&key.partition(all).0));
        errands.extend(workload::transactions::read_errands(&keys));
        errands.extend(keys.into_iter().map(workload::strong_read));
        if partitions.len() as u32 == all {
            for prefix in [Key::default(), Key::new(5, b"", None)] {
                let scan = Scan { prefix, from: Key::default(), limit: 1000, consistency: Consistency::Strong };
                errands.push(RequestBody::Scan(scan));
            }
        }
        errands
    }

    /// Partitions of which a majority of the replicas lives and is in good standing.
    fn live_partitions(&self) -> Vec<u32> {
        let dead: Vec<NodeId> = self.machines.iter().filter(|m| m.is_lost()).map(|m| m.id).collect();
        let live = |partition: &u32| match self.watch.members(PartitionId(*partition).group()) {
            Some(members) => members.iter().filter(|m| !dead.contains(m)).count() * 2 > members.len(),
            None => dead.is_empty(),
        };
        (0..self.plan.cluster.partitions).filter(live).collect()
    }

    fn look_at_healing(&mut self) {
        let healing = self.healing.as_ref().expect("asked for by the caller");
        let (since, budget) = (healing.since, healing.budget);
        match healing.step {
            Waiting::ForLeaders => match self.leaderless() {
                None => {
                    self.workload.audit(Vec::new());
                    self.step_is_done(Step::Led, since, budget.led, Waiting::Quietly);
                }
                Some(what) => self.is_late(since + budget.led, || format!("not every group is led: {what}")),
            },
            Waiting::Quietly if self.now >= since + self.quiet() => self.ask_errands(),
            Waiting::Quietly => {}
            Waiting::ForErrands => self.look_at_errands(),
            Waiting::ForRest => match self.unconverged() {
                None => {
                    self.step_is_done(Step::Rest, since, budget.rest, Waiting::ForRest);
                    match self.disagreement() {
                        Err(violation) => self.safety(violation),
                        Ok(()) => _ = self.verdict.get_or_insert(Verdict::Clean),
                    }
                }
                Some(what) => self.is_late(since + budget.rest, || format!("the replicas do not come to rest: {what}")),
            },
        }
    }

    /// Notes how long a step took, and goes on to the next.
    fn step_is_done(&mut self, step: Step, since: WorldTime, budget: WorldTime, next: Waiting) {
        let took = Took { step, ms: (self.now - since) / MS, budget_ms: budget / MS };
        self.timeline.note(self.now, || format!("== {}: {} ms, of {}", step.name(), took.ms, took.budget_ms));
        self.recovery.push(took);
        if let Some(healing) = &mut self.healing {
            (healing.since, healing.step) = (self.now, next);
        }
    }

    /// Beyond its budget a step fails.
    fn is_late(&mut self, deadline: WorldTime, what: impl Fn() -> String) {
        if self.now > deadline {
            let over = (self.now - deadline) / MS;
            self.liveness(format!("{over} ms later than it should take, {}", what()));
        }
    }

    /// What keeps a live group from serving.
    fn leaderless(&mut self) -> Option<String> {
        if let Some(machine) = self.machines.iter().find(|m| m.node.is_none() && !m.stays_down) {
            return Some(format!("{:?} is not up", machine.id));
        }
        let groups = self.live_replicas();
        for group in &self.healing.as_ref()?.live {
            let replicas = groups.get(group).map_or(&[][..], Vec::as_slice);
            let Some((_, leader)) = replicas.iter().find(|(_, r)| r.has_lease) else {
                return Some(format!("{group:?} has no leader with a lease"));
            };
            let knows = |replica: &ReplicaProbe| (replica.leader, replica.term) == (leader.leader, leader.term);
            let unaware = replicas.iter().find(|(number, replica)| !self.machines[*number].is_lost() && !knows(replica));
            if let Some((number, replica)) = unaware {
                return Some(format!("n{} does not know the leader of {group:?}: {replica:?}, {leader:?}", number + 1));
            }
        }
        None
    }

    /// The clients leave alone what they still wait for, and do errands.
    fn ask_errands(&mut self) {
        self.give_up_all();
        let Some(healing) = &mut self.healing else { return };
        (healing.since, healing.step) = (self.now, Waiting::ForErrands);
        let within_ms = (healing.budget.errand / MS) as u32;
        let live: Vec<u32> = healing.live.iter().filter_map(|group| Some(group.partition()?.0)).collect();
        let errands = self.errands(&live);
        self.workload.audit_once(within_ms, errands);
        self.clients_go_on();
    }

    fn look_at_errands(&mut self) {
        let Some(healing) = &self.healing else { return };
        let budget = healing.budget.errand;
        if let Some(failed) = self.workload.failed_errand.take() {
            return self.liveness(format!(
                "all groups are led, and {} ms later {failed}",
                (self.now - healing.since + self.quiet()) / MS
            ));
        }
        if self.workload.errands_left().0 == 0 {
            if self.has_lost_two() {
                self.counters.mattered(Kind::SecondLoss);
            }
            let slowest = self.workload.slowest_errand;
            self.step_is_done(Step::Errand, self.now - slowest, budget, Waiting::ForRest);
        }
    }

    /// The replicas of each live group, on nodes in good standing.
    fn live_replicas(&mut self) -> BTreeMap<GroupId, Vec<(usize, ReplicaProbe)>> {
        let mut groups: BTreeMap<GroupId, Vec<(usize, ReplicaProbe)>> = BTreeMap::new();
        let Some(healing) = &self.healing else { return groups };
        for (number, machine) in self.machines.iter_mut().enumerate().filter(|(_, m)| !m.is_out()) {
            let Some(node) = &mut machine.node else { continue };
            for replica in node.replicas(machine.clock.read(self.now)) {
                if healing.live.contains(&replica.group) {
                    groups.entry(replica.group).or_default().push((number, replica));
                }
            }
        }
        groups
    }

    /// What has not come to rest yet.
    fn unconverged(&mut self) -> Option<String> {
        if let Some(machine) = self.machines.iter().find(|m| m.node.is_none() && !m.stays_down) {
            return Some(format!("{:?} is not up", machine.id));
        }
        let wiped = |m: &&Machine| m.disowned == Some(Kind::Wipe) && !m.refused && !m.stays_down;
        if let Some(machine) = self.machines.iter().find(wiped) {
            return Some(format!("{:?}, whose directory was wiped, is not refused", machine.id));
        }
        let starts_over = |m: &&Machine| m.disowned == Some(Kind::OldDirectory) && m.refused && !m.stays_down;
        let most_return = self.plan.ending != Ending::HealFew;
        if let Some(machine) = self.machines.iter().find(starts_over).filter(|_| most_return) {
            return Some(format!("{:?}, whose directory is an old copy, has not started over", machine.id));
        }
        let groups = self.live_replicas();
        let healing = self.healing.as_ref()?;
        let all_live = healing.live.len() as u32 == self.plan.cluster.partitions;
        for machine in &self.machines {
            let Some(node) = machine.node.as_ref().filter(|_| all_live && !machine.is_out()) else { continue };
            if let Some(transaction) = node.transactions(machine.clock.read(self.now)).0.first() {
                return Some(format!("{:?} has a transaction in progress: {transaction:?}", machine.id));
            }
        }
        for group in &healing.live {
            let replicas = groups.get(group).map_or(&[][..], Vec::as_slice);
            let leaders: Vec<_> = replicas.iter().filter(|(_, r)| r.leads).collect();
            let [(_, leader)] = leaders[..] else { return Some(format!("{group:?} has {} leaders", leaders.len())) };
            let whole = replicas.len() == usize::from(self.plan.cluster.replication_factor);
            for (number, replica) in replicas {
                let same = replica.last == leader.last && replica.commit == leader.last && replica.applied == leader.last;
                if !same || replica.amnesiac || (whole && !replica.idle) {
                    return Some(format!("n{}: {replica:?}, while the leader's is {leader:?}", number + 1));
                }
            }
        }
        None
    }

    /// All replicas of a group hold the same, and every write that was acknowledged.
    fn disagreement(&mut self) -> Result<(), Violation> {
        self.watch.same_states(&views(&mut self.machines, self.now))?;
        let mut agreement = Agreement::default();
        let groups = self.live_replicas();
        for (&group, replicas) in &groups {
            for (number, _) in replicas {
                let machine = &self.machines[*number];
                let mut items = Items::new();
                let node = machine.node.as_ref().expect("it has replicas");
                if !self.counters.spoils_values() {
                    corruption::check_status(machine.id, &node.status(Time::ZERO))?;
                }
                node.visit_applied(group, &mut |key, version, checksum| {
                    items.insert(key.owned(), (version, checksum));
                });
                agreement.observe(machine.id, group, items)?;
            }
        }
        // With a partition dead there is no node to ask for its keys.
        if groups.len() as u32 == self.plan.cluster.partitions {
            let (partitions, machines) = (self.plan.cluster.partitions, &self.machines);
            let floor = |key: &Key| {
                let group = scan::group_of(key, partitions);
                let (number, _) = groups[&group].first()?;
                machines[*number].node.as_ref()?.delete_floor(group)
            };
            let forgotten = |key: &Key| floor(key).map_or(0, |floor| floor.0);
            Durability::of(&self.workload.history).check(agreement.items().map(|(_, items)| items), forgotten)?;
        }
        Ok(())
    }
}
