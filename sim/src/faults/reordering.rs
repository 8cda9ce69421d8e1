//! Messages overtake each other.
//!
//! Matters when the message, which is no heartbeat, arrives behind one that its sender sent later.

use super::{Behaviour, FaultKind, Strike};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "reordering",
    draw: Some(|_, dice| FaultKind::Reordering { permille: dice.spread(20, 700) as u32, delay_ms: dice.spread(1, 200) }),
    network,
    ..Behaviour::NOTHING
};

fn network(world: &mut World, kind: &FaultKind, _: Strike) {
    let FaultKind::Reordering { permille, delay_ms } = *kind else { return };
    world.network.reorder(permille, delay_ms);
}
