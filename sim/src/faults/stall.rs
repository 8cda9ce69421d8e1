//! No operation of the disk completes.
//!
//! Matters when an operation waited for longer than a sync takes, and went on.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::plan::draws::target;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "stall",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::Stall { target: target(plan, dice) }),
    begin,
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, _| trouble.stalled = true,
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, _: &FaultKind, strike: Strike) {
    world.counters.fired(Kind::Stall);
    world.apply_disk_trouble(strike.node());
}
