//! A clean stop. If it takes longer than the fault lasts, the process is ended.
//!
//! Matters when the node led something, and came to its end by itself.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::plan::draws::target;
use crate::world::World;
use ringseed::node::Event;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "clean stop",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::Stop { target: target(plan, dice) }),
    begin,
    end,
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, _: &FaultKind, strike: Strike) {
    let number = strike.node();
    let machine = &mut world.machines[number];
    let now = machine.clock.read(world.now);
    let Some(node) = &mut machine.node else { return };
    if !world.counters.strikes(Kind::Stop) {
        return;
    }
    machine.stopping_led = node.replicas(now).iter().any(|replica| replica.leads);
    machine.stopping = true;
    world.put(number, Event::Stop);
}

fn end(world: &mut World, _: &FaultKind, strike: Strike) {
    let number = strike.node();
    if world.machines[number].stopping {
        world.timeline.note(world.now, || format!("n{} has not stopped in time, and is ended", number + 1));
        world.crash(number, None, 100);
    }
}
