//! The clock jumps forward.
//!
//! Matters when a timer of the node was not due before, and is after.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour { name: "clock jump", begin, ..Behaviour::NOTHING };

fn begin(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::ClockJump { by_ms, .. } = *kind else { return };
    let number = strike.node();
    let acts = world.counters.strikes(Kind::ClockJump) && world.counters.acts(Kind::ClockBeyond);
    let machine = &mut world.machines[number];
    let before = machine.clock.read(world.now);
    machine.clock.jump(world.now, if acts { by_ms } else { 0 });
    let after = machine.clock.read(world.now);
    let deadline = machine.node.as_ref().and_then(|node| node.deadline());
    if deadline.is_some_and(|(at, _)| before < at && at <= after) {
        world.counters.mattered(Kind::ClockJump);
    }
    world.clock_changed(number);
}
