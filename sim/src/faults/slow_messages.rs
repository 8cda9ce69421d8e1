//! Messages of one kind, from one node to another, take longer: others, and those sent later, overtake them.
//!
//! Matters when the message, which is no heartbeat, arrives behind one that its sender sent later.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::draws::pair;
use crate::plan::{MessageKind, Plan};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "slow messages",
    draw: Some(draw),
    begin: |world, _, _| world.counters.fired(Kind::SlowMessages),
    network,
    ..Behaviour::NOTHING
};

fn draw(plan: &Plan, dice: &mut Dice) -> FaultKind {
    let (from, to) = pair(plan, dice);
    FaultKind::SlowMessages { from, to, what: *dice.pick(MessageKind::ALL), by_ms: dice.spread(5, 3_000) }
}

fn network(world: &mut World, kind: &FaultKind, _: Strike) {
    let FaultKind::SlowMessages { from, to, what, by_ms } = *kind else { return };
    if let Some((from, to)) = world.link(from, to) {
        world.network.slow_kind(from, to, what, by_ms);
    }
}
