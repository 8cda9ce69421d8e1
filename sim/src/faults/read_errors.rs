//! Reads of the disk fail.
//!
//! Matters when a read of a running node was answered with an error.

use super::{Behaviour, FaultKind};
use crate::dice::Dice;
use crate::plan::Plan;
use crate::plan::draws::{self, settled, target};

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "read errors",
    draw: Some(|plan, dice| FaultKind::ReadErrors { target: target(plan, dice), permille: dice.spread(10, 600) as u32 }),
    begin: |world, _, strike| world.apply_disk_trouble(strike.node()),
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, kind| {
        if let FaultKind::ReadErrors { permille, .. } = *kind {
            trouble.read_errors_permille = permille;
        }
    },
    add: Some(add),
    ..Behaviour::NOTHING
};

/// Where values are kept in memory nothing is read: with read errors the caches are small. One plan of twelve has one more.
fn add(plan: &mut Plan, dice: &mut Dice) {
    if plan.calm_from_ms.is_none() && dice.chance(80) {
        let kind = FaultKind::ReadErrors { target: target(plan, dice), permille: dice.spread(100, 600) as u32 };
        let at_ms = dice.between(settled(plan), plan.faults_ms);
        draws::add(plan, at_ms, dice.spread(100, 3_000), kind);
    }
    if plan.faults.iter().any(|fault| matches!(fault.kind, FaultKind::ReadErrors { .. })) {
        plan.nodes.iter_mut().for_each(|node| node.cache_kib = 1);
    }
}
