//! Messages are lost.
//!
//! Matters when a message was lost that is no heartbeat.

use super::{Behaviour, FaultKind, Strike};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "loss",
    draw: Some(|_, dice| FaultKind::Loss { permille: dice.spread(10, 500) as u32 }),
    network,
    ..Behaviour::NOTHING
};

fn network(world: &mut World, kind: &FaultKind, _: Strike) {
    let FaultKind::Loss { permille } = *kind else { return };
    world.network.lose(permille);
}
