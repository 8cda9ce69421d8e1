//! The plan's faults: when they begin, which machines they hit, what they do, when they end.
//!
//! A fault that lasts is *active*. What active faults do to the network and to a disk is computed anew from all of them whenever
//! one begins or ends, so faults overlap freely. A fault with a trigger is *armed* at its time, and begins when the trigger
//! happens. What each kind does is in [`crate::faults`].

use super::{Happening, MS, World};
use crate::WorldTime;
use crate::counters::Kind;
use crate::disk::DiskTrouble;
use crate::faults::{Strike, boot_error};
use crate::plan::{FaultKind, LossStyle, Target, Trigger};
use crate::points::Point;
use ringseed::base::GroupId;
use ringseed::node::{Event, LinkState};
use std::collections::{BTreeMap, BTreeSet};

/// That a fault of the plan began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Struck {
    /// Its position in the plan. The standing fault is behind the others.
    pub fault: usize,
    pub at: WorldTime,
    /// The node that it struck, or whose message, from 1.
    pub node: Option<u16>,
}

#[derive(Debug, Default)]
pub struct Faults {
    active: BTreeMap<usize, Strike>,
    armed: BTreeSet<usize>,
    /// How often the triggers of faults that wait for a certain time have happened.
    happened: BTreeMap<usize, u32>,
    /// The rate that a fault has set a machine's clock to.
    clock_ppm: BTreeMap<usize, i64>,
    /// The syncs of all nodes are slow now.
    pub all_slow: bool,
    /// One of them took longer since a client was last told that something is written.
    pub(super) slowed: bool,
    over: bool,
}

impl Faults {
    pub(super) fn clock_ppm(&self, machine: usize) -> Option<i64> {
        self.clock_ppm.get(&machine).copied()
    }
}

/// A node stops within its patience of 3 s, by a clock that runs at its own rate, and some syncs.
const STOPS_WITHIN_MS: u64 = 5_000;

impl World {
    pub(super) fn fault_begins(&mut self, fault: usize) {
        if self.faults.over {
            return;
        }
        if self.plan.faults[fault].when.is_some() {
            self.faults.armed.insert(fault);
        } else {
            self.begin(fault, None);
        }
    }

    pub(super) fn fault_triggered(&mut self, fault: usize, machine: usize) {
        if !self.faults.over {
            self.begin(fault, Some(machine));
        }
    }

    /// What the node of `number` just did may be what an armed fault waits for.
    pub(super) fn pull_triggers(&mut self, number: usize) {
        let triggers = std::mem::take(&mut self.triggers);
        for &trigger in &triggers {
            if let Trigger::Passes(point) = trigger {
                self.pass(number, point);
                continue;
            }
            let within = if self.schedule.chance(500) { 0 } else { MS };
            self.disk_trigger(number, trigger, within);
        }
        self.triggers = triggers;
        self.triggers.clear();
    }

    /// As above; the fault begins at some instant of the next `within` nanoseconds.
    pub(super) fn disk_trigger(&mut self, number: usize, trigger: Trigger, within: u64) {
        if let Some(fault) = self.nth_time(Some(number), trigger, false) {
            self.faults.armed.remove(&fault);
            self.count_placed(trigger);
            self.after(0, Happening::FaultTriggered { fault, machine: number });
        }
        let armed = self.faults.armed.iter().copied();
        let mut candidates = armed.filter(|&fault| {
            let fault = &self.plan.faults[fault];
            fault.when == Some(trigger) && fault.nth == 0
        });
        let Some(fault) = candidates.find(|&fault| self.is_target(self.plan.faults[fault].kind.target(), number)) else { return };
        // Not always at the first chance: the second or third finds the node in another state.
        if self.schedule.chance(400) {
            return;
        }
        self.faults.armed.remove(&fault);
        self.count_placed(trigger);
        let delay = self.schedule.below(within + 1);
        self.after(delay, Happening::FaultTriggered { fault, machine: number });
    }

    /// A point of the protocol was passed, now, by the node of `number`.
    pub(super) fn pass(&mut self, number: usize, point: Point) {
        self.counters.passed(point);
        self.disk_trigger(number, Trigger::Passes(point), 0);
    }

    /// Of the armed faults that wait for the nth time of a trigger, counts one up; the first whose time has come.
    fn nth_time(&mut self, number: Option<usize>, trigger: Trigger, on_message: bool) -> Option<usize> {
        let armed: Vec<usize> = self.faults.armed.iter().copied().collect();
        let mut come = None;
        for at in armed {
            let fault = &self.plan.faults[at];
            let nth = if on_message { fault.nth.max(1) } else { fault.nth };
            if fault.when != Some(trigger) || nth == 0 || fault.kind.behaviour().on_message != on_message {
                continue;
            }
            if number.is_some_and(|number| !self.is_target(fault.kind.target(), number)) {
                continue;
            }
            let happened = self.faults.happened.entry(at).or_default();
            *happened += 1;
            if *happened >= nth && come.is_none() {
                come = Some(at);
            }
        }
        come
    }

    /// What becomes of a message that leaves at this point, if a fault waits for it.
    pub(super) fn message_fault(&mut self, number: usize, point: Point) -> Option<FaultKind> {
        let fault = self.nth_time(None, Trigger::Passes(point), true)?;
        self.faults.armed.remove(&fault);
        self.counters.placed(point);
        let kind = self.plan.faults[fault].kind.clone();
        self.timeline.note(self.now, || format!("-- {}: {}, n{}", kind.name(), point.name(), number + 1));
        self.strikes.push(Struck { fault, at: self.now, node: Some(number as u16 + 1) });
        Some(kind)
    }

    fn count_placed(&mut self, trigger: Trigger) {
        if let Trigger::Passes(point) = trigger {
            self.counters.placed(point);
        }
    }

    fn is_target(&self, target: Option<Target>, number: usize) -> bool {
        let leader = |group| self.watch.leader_of(GroupId(group)) == Some(self.machines[number].id);
        match target {
            None | Some(Target::There) => true,
            Some(Target::Node(node)) => usize::from(node) == number + 1,
            Some(Target::LeaderOf(group)) => leader(group),
            Some(Target::FollowerOf(group)) => !leader(group),
        }
    }

    fn resolve(&mut self, target: Target, there: Option<usize>) -> Option<usize> {
        let machines = self.machines.len();
        let number = match target {
            Target::There => there?,
            _ if there.is_some() => there?,
            Target::Node(node) => usize::from(node).wrapping_sub(1),
            Target::LeaderOf(group) => match self.watch.leader_of(GroupId(group)) {
                Some(node) => usize::from(node.0) - 1,
                None => self.schedule.below(machines as u64) as usize,
            },
            Target::FollowerOf(group) => {
                let leader = self.watch.leader_of(GroupId(group)).map_or(0, |node| usize::from(node.0) - 1);
                (leader + 1 + self.schedule.below(machines as u64 - 1) as usize) % machines
            }
        };
        (number < machines).then_some(number)
    }

    fn begin(&mut self, fault: usize, there: Option<usize>) {
        if self.plan.standing.is_some() && fault + 1 == self.plan.faults.len() && !self.standing_acts() {
            return;
        }
        let kind = self.plan.faults[fault].kind.clone();
        let target = match kind.target() {
            Some(target) => match self.resolve(target, there) {
                Some(number) => Some(number),
                None => return,
            },
            None => None,
        };
        let for_ms = self.plan.faults[fault].for_ms;
        self.timeline.note(self.now, || match target {
            Some(number) => format!("-- {} of n{} for {for_ms} ms", kind.name(), number + 1),
            None => format!("-- {} for {for_ms} ms: {kind:?}", kind.name()),
        });
        self.trace.event(self.now, 9, fault, &[], || format!("fault {fault} begins: {kind:?} at {target:?}"));
        self.strikes.push(Struck { fault, at: self.now, node: target.map(|number| number as u16 + 1) });
        let strike = Strike { target, for_ms, since: self.now };
        self.faults.active.insert(fault, strike);
        self.after(for_ms * MS, Happening::FaultEnds(fault));
        (kind.behaviour().begin)(self, &kind, strike);
        self.apply_network();
    }

    /// The power of a machine goes, in so many nanoseconds.
    pub fn outage_after(&mut self, delay: u64, number: usize, style: LossStyle, down_ms: u64) {
        self.after(delay, Happening::Outage(number, style, down_ms));
    }

    /// Whether its log has been idle for longer than the witness of its end needs.
    pub fn is_idle(&self, number: usize) -> bool {
        let machine = &self.machines[number];
        let sync = self.plan.disk.sync_us + self.plan.disk.write_us + 2 * self.plan.disk.jitter_us;
        // What vouches for the log's end is written seldom after a slow sync, even one that is long over.
        let wait = 1_500 * MS + 40 * sync * 1000 + 20 * machine.slowest_ms * MS;
        machine.queue.is_empty() && !machine.disk.trouble.stalled && self.now - machine.log_busy_at > wait
    }

    /// Whether this node's directory may be lost, beside those that are.
    pub fn may_lose_directory(&mut self, number: usize) -> bool {
        let lacks = |machine: &super::Machine| machine.has_lost_directory() || machine.has_rotten_values();
        let others = self.machines.iter().enumerate().filter(|(other, machine)| *other != number && lacks(machine));
        others.count() == 0 || self.counters.acts(Kind::SecondLoss)
    }

    /// Before the cluster has formed a directory may be exchanged: nothing is bound to it.
    pub fn has_formed(&self, number: usize) -> bool {
        let members = self.machines.iter().filter(|m| m.was_member).count();
        self.machines[number].was_member && members * 2 > self.machines.len()
    }

    pub(super) fn power_loss(&mut self, number: usize, style: LossStyle, down_ms: u64) {
        self.crash(number, Some(style), down_ms, Some(Kind::PowerLossOfAll));
    }

    pub(super) fn fault_ends(&mut self, fault: usize) {
        let Some(strike) = self.faults.active.remove(&fault) else { return };
        let kind = self.plan.faults[fault].kind.clone();
        self.trace.event(self.now, 10, fault, &[], || format!("fault {fault} ends: {kind:?}"));
        (kind.behaviour().end)(self, &kind, strike);
        self.apply_network();
    }

    pub fn resume(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        let Some(pauses) = machine.pauses.checked_sub(1) else { return };
        machine.pauses = pauses;
        if pauses > 0 {
            return;
        }
        machine.resumed_at = self.now;
        if machine.kept_waiting > 0 {
            self.counters.mattered(Kind::Pause);
        }
        machine.kept_waiting = 0;
        machine.running = !machine.inbox.is_empty();
        if machine.running {
            let boot = machine.boot;
            self.after(10_000, Happening::Round(number, boot));
        }
    }

    /// Lets a machine's clock run at this rate; `None`: at its own.
    pub fn set_clock_rate(&mut self, number: usize, ppm: Option<i64>) {
        if !self.counters.acts(if self.beyond_drift_bound { Kind::ClockBeyond } else { Kind::ClockRate }) {
            return;
        }
        match ppm {
            Some(ppm) => _ = self.faults.clock_ppm.insert(number, ppm),
            None => _ = self.faults.clock_ppm.remove(&number),
        }
        let machine = &mut self.machines[number];
        machine.clock.set_rate(self.now, ppm.unwrap_or(machine.plan.clock_ppm));
        self.clock_changed(number);
    }

    /// A wake-up that was scheduled by the clock as it was may come too late.
    pub fn clock_changed(&mut self, number: usize) {
        self.machines[number].wake = None;
        self.plan_wake(number);
    }

    /// Ends every fault but the standing one, for good.
    pub(super) fn end_all_faults(&mut self, standing: Option<usize>) {
        self.faults.over = true;
        self.faults.armed.clear();
        let active: Vec<usize> = self.faults.active.keys().copied().filter(|fault| Some(*fault) != standing).collect();
        for fault in active {
            self.fault_ends(fault);
        }
        self.network.heal();
        match standing {
            Some(fault) if !self.faults.active.contains_key(&fault) => self.begin(fault, None),
            Some(_) => self.apply_network(),
            None => {}
        }
    }

    /// For how long a process or a disk that stands still has done so, at most.
    pub(super) fn held_up_for(&self) -> u64 {
        let holds = |fault: usize| matches!(self.plan.faults[fault].kind, FaultKind::Pause { .. } | FaultKind::Stall { .. });
        let active = self.faults.active.iter().filter(|(fault, _)| holds(**fault));
        active.map(|(_, strike)| self.now - strike.since).max().unwrap_or(0)
    }

    /// A stop has not come to its end. It had the time, unless something held up the node or its disk meanwhile.
    pub fn judge_stop(&mut self, number: usize, told: WorldTime) {
        let took = (self.now - told) / MS;
        let holds = |kind: &FaultKind| {
            matches!(
                kind,
                FaultKind::Pause { .. }
                    | FaultKind::Stall { .. }
                    | FaultKind::SlowDisk { .. }
                    | FaultKind::SlowDisks { .. }
                    | FaultKind::ClockRate { .. }
                    | FaultKind::Full { .. }
                    | FaultKind::WriteErrors { .. }
                    | FaultKind::SyncErrors { .. }
            )
        };
        let meanwhile = |struck: &Struck| {
            let fault = &self.plan.faults[struck.fault];
            let here = struck.node.is_none_or(|node| usize::from(node) == number + 1);
            here && holds(&fault.kind) && struck.at + fault.for_ms * MS >= told
        };
        if took >= STOPS_WITHIN_MS && !self.strikes.iter().any(meanwhile) {
            self.liveness(format!("n{} was told to stop {took} ms ago, and has not stopped", number + 1));
        }
    }

    /// Whether a fault of such a kind is active.
    pub fn is_active(&self, of_kind: impl Fn(&FaultKind) -> bool) -> bool {
        self.faults.active.keys().any(|fault| of_kind(&self.plan.faults[*fault].kind))
    }

    /// Computes the state of a machine's disk from the faults that are active.
    pub fn apply_disk_trouble(&mut self, number: usize) {
        let mut trouble = DiskTrouble::default();
        for (&fault, strike) in &self.faults.active {
            if strike.target.is_none_or(|target| target == number) {
                let kind = &self.plan.faults[fault].kind;
                (kind.behaviour().disk)(&mut trouble, kind);
            }
        }
        trouble.stalled &= self.counters.acts(Kind::Stall);
        trouble.boot = trouble.boot.filter(|step| self.counters.acts(boot_error(*step)));
        if !self.counters.acts(if self.faults.all_slow { Kind::SlowDisks } else { Kind::SlowDisk }) {
            trouble.slow_ms = 0;
        }
        let machine = &mut self.machines[number];
        let stall_ends = machine.disk.trouble.stalled && !trouble.stalled;
        machine.disk.trouble = trouble;
        if stall_ends {
            let sync = (self.plan.disk.sync_us + self.plan.disk.jitter_us) * 1000;
            if machine.stalled_since.take().is_some_and(|since| self.now - since > sync) {
                self.counters.mattered(Kind::Stall);
            }
            let boot = machine.boot;
            let waiting: Vec<_> = machine.reads.keys().copied().collect();
            for io in waiting {
                self.after(100_000, Happening::ReadDone(number, boot, io));
            }
            self.start_disk(number);
        }
    }

    /// Computes the network's state from the faults that are active.
    fn apply_network(&mut self) {
        self.network.clear();
        for (fault, strike) in self.faults.active.clone() {
            let kind = self.plan.faults[fault].kind.clone();
            (kind.behaviour().network)(self, &kind, strike);
        }
        self.tell_links();
    }

    /// Cuts what the machine that was struck sends, and what is sent to it.
    pub fn isolate(&mut self, strike: Strike, kind: Kind, period_ms: u64) {
        let one = strike.node();
        for other in (0..self.machines.len()).filter(|&other| other != one) {
            self.cut(one, other, kind, period_ms, strike);
            self.cut(other, one, kind, period_ms, strike);
        }
    }

    /// Cuts what one machine sends to another. `period_ms`: for flapping, else 0.
    pub fn cut(&mut self, from: usize, to: usize, kind: Kind, period_ms: u64, strike: Strike) {
        if self.counters.acts(kind) {
            self.network.cut(from, to, kind, period_ms, strike.since);
        }
    }

    /// The machines of two nodes of the plan, which count from 1, if there are such.
    pub fn link(&self, from: u16, to: u16) -> Option<(usize, usize)> {
        let number = |node: u16| usize::from(node).checked_sub(1).filter(|number| *number < self.machines.len());
        Some((number(from)?, number(to)?))
    }

    /// Nodes notice, mostly, that they cannot reach each other.
    fn tell_links(&mut self) {
        for one in 0..self.machines.len() {
            for other in 0..self.machines.len() {
                if one == other || !self.schedule.chance(300) {
                    continue;
                }
                let cut = self.network.is_cut(one, other, self.now) || self.machines[other].node.is_none();
                let state = if cut { LinkState::Down } else { LinkState::Up };
                let node = self.machines[other].id;
                self.put(one, Event::Link(node, state));
            }
        }
    }
}
