//! Messages come twice.
//!
//! Matters when the copy arrives and is handled: it holds a message of a group, or reaches a later epoch. In the same epoch a
//! forward is refused as a repeat.

use super::{Behaviour, FaultKind, Strike};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "duplication",
    draw: Some(|_, dice| FaultKind::Duplication { permille: dice.spread(20, 500) as u32, delay_ms: dice.spread(1, 3_000) }),
    network,
    ..Behaviour::NOTHING
};

fn network(world: &mut World, kind: &FaultKind, _: Strike) {
    let FaultKind::Duplication { permille, delay_ms } = *kind else { return };
    world.network.duplicate(permille, delay_ms);
}
