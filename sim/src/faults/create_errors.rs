//! Segments cannot be made, for another reason than want of room: that is [`full`](super::full).
//!
//! Matters when the node halted for the error.

use super::{Behaviour, FaultKind};
use crate::dice::Dice;
use crate::plan::draws::{settled, target};
use crate::plan::{Fault, Plan, Target, Trigger};

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "errors of creates",
    aimed: true,
    add: Some(|plan, dice| when_segments_are_made(plan, dice, |target| FaultKind::CreateErrors { target })),
    begin: |world, _, strike| world.apply_disk_trouble(strike.node()),
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, _| trouble.create_errors = true,
    ..Behaviour::NOTHING
};

/// One plan in twelve: while a node makes its first segment, or a later one. Small segments are soon full.
pub fn when_segments_are_made(plan: &mut Plan, dice: &mut Dice, kind: fn(Target) -> FaultKind) {
    if plan.calm_from_ms.is_some() || !dice.chance(80) {
        return;
    }
    let at_ms = if dice.chance(400) { dice.below(400) } else { dice.between(settled(plan), plan.faults_ms) };
    plan.nodes.iter_mut().for_each(|node| node.segment_kib = 64);
    let (when, kind) = (Some(Trigger::Creates), kind(if dice.chance(500) { Target::There } else { target(plan, dice) }));
    plan.faults.push(Fault { at_ms, for_ms: dice.spread(1, 1_000), when, nth: 0, kind });
}
