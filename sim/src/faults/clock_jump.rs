//! The clock jumps forward.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "clock jump",
    begin,
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::ClockJump { by_ms, .. } = *kind else { return };
    let number = strike.node();
    world.counters.fired(Kind::ClockJump);
    if world.machines[number].node.is_some() {
        world.counters.mattered(Kind::ClockJump);
    }
    world.machines[number].clock.jump(world.now, by_ms);
    world.clock_changed(number);
}
