//! What one node sends to another is lost; what that one answers arrives.
//!
//! Matters when a message was lost that is no heartbeat.

use super::{Behaviour, FaultKind, Stands, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::Plan;
use crate::plan::draws::pair;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "one-way link",
    begin: |world, _, _| world.counters.fired(Kind::OneWay),
    network,
    stands: Some(Stands { draw, counted: Kind::StandingOneWay, cause: Some(Kind::OneWay) }),
    ..Behaviour::NOTHING
};

pub fn draw(plan: &Plan, dice: &mut Dice) -> FaultKind {
    let (from, to) = pair(plan, dice);
    FaultKind::OneWayLink { from, to }
}

fn network(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::OneWayLink { from, to } = *kind else { return };
    if let Some((from, to)) = world.link(from, to) {
        world.cut(from, to, Kind::OneWay, 0, strike);
    }
}
