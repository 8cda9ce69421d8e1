//! What the target sends (`outward`), or what is sent to it, is lost.
//!
//! Matters when a message was lost that is no heartbeat.

use super::{Behaviour, FaultKind, Stands, Strike};
use crate::counters::Kind;
use crate::plan::Target;
use crate::plan::draws::{node, target};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "one-way partition",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::OneWay { target: target(plan, dice), outward: dice.chance(500) }),
    begin: |world, _, _| world.counters.fired(Kind::OneWay),
    network,
    stands: Some(Stands {
        draw: |plan, dice| FaultKind::OneWay { target: Target::Node(node(plan, dice)), outward: dice.chance(500) },
        counted: Kind::StandingBadlyConnected,
        cause: Some(Kind::OneWay),
    }),
    ..Behaviour::NOTHING
};

fn network(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::OneWay { outward, .. } = *kind else { return };
    let one = strike.node();
    for other in (0..world.machines.len()).filter(|&other| other != one) {
        let (from, to) = if outward { (one, other) } else { (other, one) };
        world.cut(from, to, Kind::OneWay, 0, strike);
    }
}
