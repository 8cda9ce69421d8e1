//! The process ends, and a step of each boot fails: the sync of the log, its listing, or some reads.
//!
//! Matters when recovery met the error, and no node began.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::draws::{self, settled, target};
use crate::plan::{BootStep, Plan};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "errors at boot",
    add: Some(add),
    begin,
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, kind| {
        if let FaultKind::BootErrors { step, .. } = *kind {
            trouble.boot = Some(step);
        }
    },
    ..Behaviour::NOTHING
};

/// One plan in twelve.
fn add(plan: &mut Plan, dice: &mut Dice) {
    if plan.calm_from_ms.is_some() || !dice.chance(80) {
        return;
    }
    let step = *dice.pick(&[BootStep::Sync, BootStep::List, BootStep::Read]);
    let kind = FaultKind::BootErrors { target: target(plan, dice), step };
    let at_ms = dice.between(settled(plan), plan.faults_ms);
    draws::add(plan, at_ms, dice.spread(50, 2_000), kind);
}

/// How an error of this step is counted.
pub fn counted(step: BootStep) -> Kind {
    match step {
        BootStep::Sync => Kind::BootSyncError,
        BootStep::List => Kind::BootListError,
        BootStep::Read => Kind::BootReadError,
    }
}

fn begin(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::BootErrors { step, .. } = *kind else { return };
    if world.counters.acts(counted(step)) {
        world.apply_disk_trouble(strike.node());
        world.crash(strike.node(), None, 10, None);
    }
}
