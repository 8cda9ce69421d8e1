//! Messages come twice.

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
