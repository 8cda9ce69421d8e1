//! The process stands still; its clock does not.
//!
//! Matters when an event was kept waiting that is no heartbeat.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::plan::draws::target;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "pause",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::Pause { target: target(plan, dice) }),
    begin,
    end: |world, _, strike| world.resume(strike.node()),
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, _: &FaultKind, strike: Strike) {
    if !world.counters.strikes(Kind::Pause) {
        return;
    }
    let machine = &mut world.machines[strike.node()];
    machine.pauses += 1;
    machine.kept_waiting = 0;
}
