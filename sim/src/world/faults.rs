//! The plan's faults: when they begin, which machines they hit, what they do, when they end.
//!
//! A fault that lasts is *active*. What active faults do to the network and to a disk is computed anew from all of them whenever
//! one begins or ends, so faults overlap freely. A fault with a trigger is *armed* at its time, and begins when the trigger
//! happens.

use super::{Happening, MS, World};
use crate::WorldTime;
use crate::counters::Kind;
use crate::disk::DiskTrouble;
use crate::plan::{FaultKind, LossStyle, Rot, Target, Trigger};
use crate::points::Point;
use ringseed::base::GroupId;
use ringseed::node::{Event, LinkState};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Faults {
    active: BTreeMap<usize, Active>,
    armed: BTreeSet<usize>,
    /// How often the triggers of faults that wait for a certain time have happened.
    happened: BTreeMap<usize, u32>,
    /// The rate that a fault has set a machine's clock to.
    clock_ppm: BTreeMap<usize, i64>,
    /// The syncs of all nodes are slow now.
    pub(super) all_slow: bool,
    /// One of them took longer since a client was last told that something is written.
    pub(super) slowed: bool,
    over: bool,
}

#[derive(Debug, Clone, Copy)]
struct Active {
    target: Option<usize>,
    since: WorldTime,
}

impl Faults {
    pub(super) fn clock_ppm(&self, machine: usize) -> Option<i64> {
        self.clock_ppm.get(&machine).copied()
    }
}

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
            if fault.when != Some(trigger) || nth == 0 || is_on_message(&fault.kind) != on_message {
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
        self.faults.active.insert(fault, Active { target, since: self.now });
        self.after(for_ms * MS, Happening::FaultEnds(fault));
        if let Some(number) = target {
            self.strike(number, &kind, for_ms);
        } else if let FaultKind::PowerLossOfAll { within_ms, style } = kind {
            self.counters.fired(Kind::PowerLossOfAll);
            for number in 0..self.machines.len() {
                let delay = self.schedule.below(within_ms * MS + 1);
                let down_ms = for_ms + self.schedule.below(100);
                self.after(delay, Happening::Outage(number, style, down_ms));
            }
        } else if let FaultKind::SlowDisks { .. } = kind {
            self.counters.fired(Kind::SlowDisks);
            self.apply_disk_troubles();
        }
        self.count_network(&kind);
        self.apply_network();
    }

    /// What a fault does at once to its target.
    fn strike(&mut self, number: usize, kind: &FaultKind, for_ms: u64) {
        let alive = self.machines[number].node.is_some();
        match *kind {
            FaultKind::Crash { .. } if alive => {
                self.counters.fired(Kind::Crash);
                if self.crash(number, None, for_ms) {
                    self.counters.mattered(Kind::Crash);
                }
            }
            FaultKind::PowerLoss { style, .. } => {
                self.counters.fired(Kind::PowerLoss);
                if self.crash(number, Some(style), for_ms) {
                    self.counters.mattered(Kind::PowerLoss);
                }
            }
            FaultKind::Stop { .. } if alive => {
                self.counters.fired(Kind::Stop);
                let machine = &mut self.machines[number];
                let now = machine.clock.read(self.now);
                if machine.node.as_mut().is_some_and(|node| node.replicas(now).iter().any(|r| r.leads)) {
                    self.counters.mattered(Kind::Stop);
                }
                machine.stopping = true;
                self.put(number, Event::Stop);
            }
            FaultKind::Pause { .. } => {
                self.counters.fired(Kind::Pause);
                self.machines[number].pauses += 1;
                self.machines[number].kept_waiting = 0;
            }
            FaultKind::Wipe { .. } if self.has_formed(number) => {
                self.crash(number, Some(LossStyle::Nothing), for_ms);
                if self.machines[number].disk.wipe() {
                    self.counters.fired(Kind::Wipe);
                    self.machines[number].disowned = Some(Kind::Wipe);
                }
            }
            FaultKind::OldDirectory { .. } if self.has_formed(number) => {
                self.machines[number].copy = Some(self.machines[number].disk.copy());
            }
            FaultKind::ClockRate { ppm, .. } => {
                self.faults.clock_ppm.insert(number, ppm);
                self.machines[number].clock.set_rate(self.now, ppm);
                self.clock_changed(number);
                if !self.beyond_drift_bound {
                    self.counters.fired(Kind::ClockRate);
                    self.counters.mattered(Kind::ClockRate);
                }
            }
            FaultKind::ClockJump { by_ms, .. } => {
                self.counters.fired(Kind::ClockJump);
                if alive {
                    self.counters.mattered(Kind::ClockJump);
                }
                self.machines[number].clock.jump(self.now, by_ms);
                self.clock_changed(number);
            }
            FaultKind::Stall { .. } => {
                self.counters.fired(Kind::Stall);
                self.apply_disk_trouble(number);
            }
            FaultKind::SlowDisk { .. } => {
                self.counters.fired(Kind::SlowDisk);
                self.apply_disk_trouble(number);
            }
            FaultKind::ReadErrors { .. }
            | FaultKind::WriteErrors { .. }
            | FaultKind::SyncErrors { .. }
            | FaultKind::Full { .. } => self.apply_disk_trouble(number),
            FaultKind::Disconnect { .. } => {
                self.counters.fired(Kind::ConnectionBreak);
                if self.break_connections(number, 1) > 0 {
                    self.counters.mattered(Kind::ConnectionBreak);
                }
            }
            _ => {}
        }
    }

    /// The node crashes, and the end of its log rots, or what vouches for it: if the log has been idle.
    fn rot(&mut self, number: usize, rot: Rot) {
        if self.machines[number].node.is_none() || !self.is_idle(number) || !self.has_formed(number) {
            return;
        }
        self.timeline.note(self.now, || format!("n{}'s log rots: {rot:?}", number + 1));
        let power = self.schedule.chance(500).then_some(LossStyle::Sectors);
        let down_ms = self.schedule.between(20, 300);
        self.crash(number, power, down_ms);
        if self.machines[number].disk.rot(rot) {
            self.counters.fired(if rot == Rot::Witness { Kind::RotWitness } else { Kind::RotTail });
            self.machines[number].rotten = Some(rot);
        }
    }

    /// Whether its log has been idle for longer than the witness of its end needs.
    fn is_idle(&self, number: usize) -> bool {
        let machine = &self.machines[number];
        let slow_us = machine.disk.trouble.slow_ms * 1000;
        let sync = self.plan.disk.sync_us + self.plan.disk.write_us + 2 * self.plan.disk.jitter_us + slow_us;
        let wait = 1_500 * MS + 40 * sync * 1000;
        machine.queue.is_empty() && !machine.disk.trouble.stalled && self.now - machine.log_busy_at > wait
    }

    /// Before the cluster has formed a directory may be exchanged: nothing is bound to it.
    fn has_formed(&self, number: usize) -> bool {
        let members = self.machines.iter().filter(|m| m.was_member).count();
        self.machines[number].was_member && members * 2 > self.machines.len()
    }

    pub(super) fn power_loss(&mut self, number: usize, style: LossStyle, down_ms: u64) {
        if self.crash(number, Some(style), down_ms) {
            self.counters.mattered(Kind::PowerLossOfAll);
        }
    }

    pub(super) fn fault_ends(&mut self, fault: usize) {
        let Some(active) = self.faults.active.remove(&fault) else { return };
        let kind = self.plan.faults[fault].kind.clone();
        self.trace.event(self.now, 10, fault, &[], || format!("fault {fault} ends: {kind:?}"));
        if let Some(number) = active.target {
            self.release(number, &kind);
        } else if let FaultKind::SlowDisks { .. } = kind {
            self.apply_disk_troubles();
        }
        self.apply_network();
    }

    fn release(&mut self, number: usize, kind: &FaultKind) {
        match kind {
            FaultKind::Pause { .. } => self.resume(number),
            FaultKind::Stop { .. } if self.machines[number].stopping => {
                self.timeline.note(self.now, || format!("n{} has not stopped in time, and is ended", number + 1));
                self.crash(number, None, 100);
            }
            FaultKind::OldDirectory { .. } => {
                let Some(copy) = self.machines[number].copy.take() else { return };
                self.timeline.note(self.now, || format!("n{} gets its old directory back", number + 1));
                self.counters.fired(Kind::OldDirectory);
                self.crash(number, Some(LossStyle::Everything), 100);
                self.machines[number].disk.put_back(copy);
                self.machines[number].disowned = Some(Kind::OldDirectory);
            }
            FaultKind::RotTail { rot, .. } => self.rot(number, *rot),
            FaultKind::ClockRate { .. } => {
                self.faults.clock_ppm.remove(&number);
                let ppm = self.machines[number].plan.clock_ppm;
                self.machines[number].clock.set_rate(self.now, ppm);
                self.clock_changed(number);
            }
            FaultKind::ReadErrors { .. }
            | FaultKind::WriteErrors { .. }
            | FaultKind::SyncErrors { .. }
            | FaultKind::Stall { .. }
            | FaultKind::SlowDisk { .. }
            | FaultKind::Full { .. } => self.apply_disk_trouble(number),
            _ => {}
        }
    }

    fn resume(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        machine.pauses -= 1;
        if machine.pauses > 0 {
            return;
        }
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

    /// A wake-up that was scheduled by the clock as it was may come too late.
    fn clock_changed(&mut self, number: usize) {
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

    fn apply_disk_troubles(&mut self) {
        let slow = |fault: &usize| matches!(self.plan.faults[*fault].kind, FaultKind::SlowDisks { .. });
        self.faults.all_slow = self.faults.active.keys().any(slow);
        (0..self.machines.len()).for_each(|number| self.apply_disk_trouble(number));
    }

    pub(super) fn apply_disk_trouble(&mut self, number: usize) {
        let mut trouble = DiskTrouble::default();
        for (&fault, active) in &self.faults.active {
            match self.plan.faults[fault].kind {
                FaultKind::SlowDisks { sync_ms } => trouble.slow_ms = trouble.slow_ms.max(sync_ms),
                _ if active.target != Some(number) => {}
                FaultKind::ReadErrors { permille, .. } => trouble.read_errors_permille = permille,
                FaultKind::WriteErrors { .. } => trouble.write_errors = true,
                FaultKind::SyncErrors { .. } => trouble.sync_errors = true,
                FaultKind::Stall { .. } => trouble.stalled = true,
                FaultKind::Full { .. } => trouble.full = true,
                FaultKind::SlowDisk { sync_ms, .. } => trouble.slow_ms = trouble.slow_ms.max(sync_ms),
                _ => {}
            }
        }
        let machine = &mut self.machines[number];
        let stall_ends = machine.disk.trouble.stalled && !trouble.stalled;
        machine.disk.trouble = trouble;
        if stall_ends {
            let boot = machine.boot;
            let waiting: Vec<_> = machine.reads.keys().copied().collect();
            for io in waiting {
                self.after(100_000, Happening::ReadDone(number, boot, io));
            }
            self.start_disk(number);
        }
    }

    fn count_network(&mut self, kind: &FaultKind) {
        let kind = match kind {
            FaultKind::Isolate { .. } => Kind::Isolation,
            FaultKind::Split { .. } => Kind::Split,
            FaultKind::OneWay { .. } | FaultKind::OneWayLink { .. } => Kind::OneWay,
            FaultKind::Partial { .. } => Kind::Partial,
            FaultKind::Flapping { .. } => Kind::Flapping,
            FaultKind::Delay { .. } => Kind::Delay,
            FaultKind::SlowLink { .. } => Kind::SlowLink,
            FaultKind::SlowMessages { .. } => Kind::SlowMessages,
            _ => return,
        };
        self.counters.fired(kind);
    }

    /// Computes the network's state from the faults that are active.
    fn apply_network(&mut self) {
        self.network.clear();
        let machines = self.machines.len();
        let number = |node: u16| usize::from(node).wrapping_sub(1);
        for (&fault, active) in &self.faults.active {
            let network = &mut self.network;
            let since = active.since;
            match &self.plan.faults[fault].kind {
                FaultKind::Isolate { .. } | FaultKind::RotTail { .. } | FaultKind::OneWay { .. } | FaultKind::Flapping { .. } => {
                    let Some(one) = active.target else { continue };
                    let (kind, out, into, period) = match self.plan.faults[fault].kind {
                        FaultKind::OneWay { outward, .. } => (Kind::OneWay, outward, !outward, 0),
                        FaultKind::Flapping { period_ms, .. } => (Kind::Flapping, true, true, period_ms.max(1)),
                        _ => (Kind::Isolation, true, true, 0),
                    };
                    for other in (0..machines).filter(|&other| other != one) {
                        if out {
                            network.cut(one, other, kind, period, since);
                        }
                        if into {
                            network.cut(other, one, kind, period, since);
                        }
                    }
                }
                FaultKind::Split { side } => {
                    let here = |n: usize| side.contains(&(n as u16 + 1));
                    for one in 0..machines {
                        for other in (0..machines).filter(|&other| here(one) != here(other)) {
                            network.cut(one, other, Kind::Split, 0, since);
                        }
                    }
                }
                FaultKind::Partial { pairs } => {
                    for &(one, other) in pairs {
                        let (one, other) = (number(one), number(other));
                        if one < machines && other < machines && one != other {
                            network.cut(one, other, Kind::Partial, 0, since);
                            network.cut(other, one, Kind::Partial, 0, since);
                        }
                    }
                }
                FaultKind::OneWayLink { from, to } if number(*from) < machines && number(*to) < machines => {
                    network.cut(number(*from), number(*to), Kind::OneWay, 0, since);
                }
                FaultKind::SlowLink { from, to, by_ms } if number(*from) < machines && number(*to) < machines => {
                    network.slow(number(*from), number(*to), *by_ms);
                }
                FaultKind::SlowMessages { from, to, what, by_ms } if number(*from) < machines && number(*to) < machines => {
                    network.slow_kind(number(*from), number(*to), *what, *by_ms);
                }
                FaultKind::Loss { permille } => network.lose(*permille),
                FaultKind::Duplication { permille, delay_ms } => network.duplicate(*permille, *delay_ms),
                FaultKind::Reordering { permille, delay_ms } => network.reorder(*permille, *delay_ms),
                FaultKind::Delay { by_ms } => network.delay(*by_ms),
                _ => {}
            }
        }
        self.tell_links();
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

/// Faults that befall one message, not a node.
fn is_on_message(kind: &FaultKind) -> bool {
    matches!(kind, FaultKind::LoseMessage | FaultKind::HoldMessage { .. } | FaultKind::RepeatMessage { .. })
}
