//! A copy of the directory is taken when the fault begins and put back, under a crash, when it ends.
//!
//! Matters when the node knows that the cluster refuses it. It starts over then.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::plan::LossStyle;
use crate::plan::draws::target;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "old directory",
    draw: Some(|plan, dice| FaultKind::OldDirectory { target: target(plan, dice) }),
    begin,
    end,
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, _: &FaultKind, strike: Strike) {
    let number = strike.node();
    // What was emptied is another directory, and no copy of it is the node's.
    if world.has_formed(number) && world.machines[number].disowned != Some(Kind::Wipe) {
        world.machines[number].copy = Some(world.machines[number].disk.copy());
    }
}

fn end(world: &mut World, _: &FaultKind, strike: Strike) {
    let number = strike.node();
    let Some(copy) = world.machines[number].copy.take() else { return };
    world.timeline.note(world.now, || format!("n{} gets its old directory back", number + 1));
    if !world.may_lose_directory(number) || !world.counters.strikes(Kind::OldDirectory) {
        return;
    }
    world.crash(number, Some(LossStyle::Everything), 100, None);
    world.machines[number].disk.put_back(copy);
    (world.machines[number].disowned, world.machines[number].refused) = (Some(Kind::OldDirectory), false);
}
