//! How long each step of a recovery may take: what honest seeds need, and not much more.
//!
//! A budget is a sum of what may have to be waited for, one after the other. So it is small where the plan's own times are small,
//! and there it is a short delay of our own making that shows.

use super::machine::{Machine, SILENT_AFTER};
use super::{MS, World};
use crate::WorldTime;
use crate::counters::Kind;
use crate::plan::{Fault, FaultKind};
use ringseed::base::limits::VALUE_SIZE_MAX;

/// In nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Until every group is led, from the end of the faults on.
    pub led: WorldTime,
    /// For one errand, from its request to its answer.
    pub errand: WorldTime,
    /// For one errand with nothing in its way: messages there and back, and syncs.
    pub work: WorldTime,
    /// Until all is at rest, from the last errand on.
    pub rest: WorldTime,
}

/// How long what was under way has to come to its end, once every group is led: a participant in doubt asks, a prepare that was
/// lost is asked for again.
const QUIET: WorldTime = 1_000 * MS;

impl World {
    /// What is begun from now on may take so long. To be asked while the faults still stand.
    pub(super) fn budget(&self) -> Budget {
        let network = &self.plan.network;
        let trip = (network.latency_us + network.jitter_us) * 1000 + MS;
        let sync = self.slowest_sync();
        let support = u64::from(self.plan.cluster.support_ms) * MS;
        let beat = self.plan.slowest_heartbeat_ms() * MS;
        // What was sent before comes late, and what is sent now comes behind it.
        let on_its_way = self.network.latest_arrival().saturating_sub(self.now);
        // A boot, and a campaign or two: a candidate waits for a tenth of a second, and for the last one's vote.
        let campaign = 300 * MS;
        // A leader's support, or a promise not to vote, has to end first; then the election's timer runs.
        // Where a node bears little, what it does at once elsewhere takes turns.
        let bears_little = self.plan.bears_little();
        let turns = if bears_little { 4 } else { 1 };
        // A follower that was away takes one entry after the other, and the groups wait for each other.
        let one_by_one = if bears_little { 20_000 * MS } else { 0 };
        let led = on_its_way + turns * (2 * campaign + 2 * support + beat + 12 * trip + 8 * sync);
        // An acknowledgement that finds a gate full is asked for after a quarter of D, and then each group's in turn (seed 23339).
        let gates_are_small = self.plan.nodes.iter().any(|node| node.limits.contains_key("gated_messages"));
        let turned_away = if gates_are_small { u64::from(self.plan.cluster.partitions) * support / 3 } else { 0 };
        let work = turns * (20 * trip + 10 * sync) + turned_away;
        let bulk = self.bulk();
        // Its peers have to find the original silent for so long; then it boots, and is made whole.
        let is_outdated = |machine: &Machine| machine.copy.is_some() || machine.disowned == Some(Kind::OldDirectory);
        let starts_over = if self.machines.iter().any(is_outdated) { (SILENT_AFTER + 1) * support + led } else { 0 };
        let rest = led + 1_000 * MS + bulk + one_by_one + starts_over;
        Budget { led, errand: 1_000 * MS + work + bulk, work, rest }
    }

    /// [`QUIET`], and until every node has told how it is.
    pub(super) fn quiet(&self) -> WorldTime {
        let beat = self.plan.slowest_heartbeat_ms() * MS;
        // A disk that was full is asked for more once a second, and then the others have to hear of it.
        let lasts = |fault: &Fault| fault.when.is_some() || fault.at_ms + fault.for_ms + 1_000 >= self.plan.faults_ms;
        let full = self.plan.faults.iter().any(|fault| matches!(fault.kind, FaultKind::Full { .. }) && lasts(fault));
        QUIET.max(3 * beat) + if full { QUIET } else { 0 }
    }

    /// How long all values take over one link, if that is narrow. Most are far smaller than the largest.
    fn bulk(&self) -> WorldTime {
        let workload = &self.plan.workload;
        let largest = if workload.edge_permille > 0 { VALUE_SIZE_MAX as u64 } else { u64::from(workload.value_size_max) };
        match u64::from(self.plan.network.bandwidth_kib) {
            0 => 0,
            bandwidth_kib => self.workload.keys().len() as u64 * largest / 3 * 1_000 / (bandwidth_kib * 1024) * MS,
        }
    }

    /// How long a sync takes where it takes longest, or is believed to.
    fn slowest_sync(&self) -> WorldTime {
        let disk = &self.plan.disk;
        let at_best = (disk.sync_us + disk.write_us + 2 * disk.jitter_us) * 1000;
        let believed = |machine: &Machine| {
            let counters = machine.node.as_ref().map(|node| node.status(machine.clock.read(self.now)).counters);
            counters.iter().flatten().find(|(name, _)| name == "sync_latency_ms").map_or(0, |(_, ms)| *ms)
        };
        let slowest_ms = self.machines.iter().map(|machine| machine.disk.trouble.slow_ms.max(believed(machine))).max();
        // A quarter of the time of a sync that a pause or a stall has kept is believed.
        at_best + (slowest_ms.unwrap_or(0) * MS).max(self.held_up_for() / 4)
    }
}
