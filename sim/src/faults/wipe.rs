//! Ended, and started again with an empty directory.
//!
//! Matters when the node knows that the cluster refuses it.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::plan::draws::target;
use crate::plan::LossStyle;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "wiped directory",
    draw: Some(|plan, dice| FaultKind::Wipe { target: target(plan, dice) }),
    begin,
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, _: &FaultKind, strike: Strike) {
    let number = strike.node();
    if !world.has_formed(number) || !world.counters.acts(Kind::Wipe) {
        return;
    }
    world.crash(number, Some(LossStyle::Nothing), strike.for_ms, None);
    if world.machines[number].disk.wipe() {
        world.counters.fired(Kind::Wipe);
        world.machines[number].disowned = Some(Kind::Wipe);
    }
}
