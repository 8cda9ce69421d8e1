//! The target is isolated, so that its log falls idle. When the fault ends it crashes, and the log's end rots; unless the log is
//! not idle.
//!
//! Rot of the log matters when the node says at its next boot that the log is damaged; of the witness, when it boots all the
//! same.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::plan::draws::{rot, target};
use crate::plan::{LossStyle, Rot};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "rot of a log's end",
    draw: Some(|plan, dice| FaultKind::RotTail { target: target(plan, dice), rot: rot(dice) }),
    end,
    network: |world, _, strike| world.isolate(strike, Kind::Isolation, 0),
    ..Behaviour::NOTHING
};

/// The node crashes, and the end of its log rots, or what vouches for it: if the log has been idle.
fn end(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::RotTail { rot, .. } = *kind else { return };
    let number = strike.node();
    if world.machines[number].node.is_none() || !world.is_idle(number) || !world.has_formed(number) {
        return;
    }
    world.timeline.note(world.now, || format!("n{}'s log rots: {rot:?}", number + 1));
    let kind = if rot == Rot::Witness { Kind::RotWitness } else { Kind::RotTail };
    if !world.counters.acts(kind) || (kind == Kind::RotTail && !world.may_lose_directory(number)) {
        return;
    }
    let power = world.schedule.chance(500).then_some(LossStyle::Sectors);
    let down_ms = world.schedule.between(20, 300);
    world.crash(number, power, down_ms, None);
    if world.machines[number].disk.rot(rot) {
        world.counters.fired(kind);
        let machine = &mut world.machines[number];
        machine.rotten = Some(rot);
        if rot != Rot::Witness {
            machine.rots();
        }
    }
}
