//! Messages from one node to another take longer.
//!
//! Matters when another event reached the node first that would have come after the message, which is no heartbeat.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::Plan;
use crate::plan::draws::pair;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "slow link",
    draw: Some(draw),
    begin: |world, _, _| world.counters.fired(Kind::SlowLink),
    network,
    ..Behaviour::NOTHING
};

fn draw(plan: &Plan, dice: &mut Dice) -> FaultKind {
    let (from, to) = pair(plan, dice);
    FaultKind::SlowLink { from, to, by_ms: dice.spread(5, 800) }
}

fn network(world: &mut World, kind: &FaultKind, _: Strike) {
    let FaultKind::SlowLink { from, to, by_ms } = *kind else { return };
    if let Some((from, to)) = world.link(from, to) {
        world.network.slow(from, to, by_ms);
    }
}
