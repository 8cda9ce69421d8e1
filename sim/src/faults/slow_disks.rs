//! Each sync of every node takes so much longer.
//!
//! Matters when syncs took longer, and clients were told meanwhile that what they asked for is written.

use super::{Behaviour, FaultKind, Stands, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::Plan;
use crate::plan::draws::{self, settled};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "slow disks",
    add: Some(add),
    begin,
    end: |world, _, _| apply(world),
    disk: |trouble, kind| {
        if let FaultKind::SlowDisks { sync_ms } = *kind {
            trouble.slow_ms = trouble.slow_ms.max(sync_ms);
        }
    },
    stands: Some(Stands {
        draw: |_, dice| FaultKind::SlowDisks { sync_ms: sync_ms(dice) },
        counted: Kind::StandingAllSlow,
        cause: Some(Kind::SlowDisks),
    }),
    ..Behaviour::NOTHING
};

/// A disk under load, up to one that is about to fail.
fn sync_ms(dice: &mut Dice) -> u64 {
    dice.spread(80, 2_000)
}

/// In one plan in twelve, of those that can bear it, all syncs are slow for most of the time, and clients wait for them; in some
/// from before the cluster has formed.
fn add(plan: &mut Plan, dice: &mut Dice) {
    // What peers have heard, and what vouches for a log's end, is behind by as much as syncs take.
    let knows =
        |kind: &FaultKind| matches!(kind, FaultKind::Wipe { .. } | FaultKind::OldDirectory { .. } | FaultKind::RotTail { .. });
    let relaxed = plan.nodes.iter().any(|node| node.wal_sync_ms > 0);
    if relaxed || plan.calm_from_ms.is_some() || plan.faults.iter().any(|fault| knows(&fault.kind)) || !dice.chance(80) {
        return;
    }
    let sync_ms = sync_ms(dice);
    let at_ms = if dice.chance(300) { 0 } else { settled(plan) };
    plan.faults_ms += 10 * sync_ms;
    plan.workload.timeout_ms = plan.workload.timeout_ms.max(6 * sync_ms as u32);
    let for_ms = plan.faults_ms - at_ms;
    draws::add(plan, at_ms, for_ms, FaultKind::SlowDisks { sync_ms });
}

fn begin(world: &mut World, _: &FaultKind, _: Strike) {
    world.counters.fired(Kind::SlowDisks);
    apply(world);
}

fn apply(world: &mut World) {
    world.faults.all_slow = world.is_active(|kind| matches!(kind, FaultKind::SlowDisks { .. }));
    (0..world.machines.len()).for_each(|number| world.apply_disk_trouble(number));
}
