//! Every message takes longer.
//!
//! Matters when another event reached the node first that would have come after the message, which is no heartbeat.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "delay",
    draw: Some(|_, dice| FaultKind::Delay { by_ms: dice.spread(5, 500) }),
    begin: |world, _, _| world.counters.fired(Kind::Delay),
    network,
    ..Behaviour::NOTHING
};

fn network(world: &mut World, kind: &FaultKind, _: Strike) {
    let FaultKind::Delay { by_ms } = *kind else { return };
    world.network.delay(by_ms);
}
