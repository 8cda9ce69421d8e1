//! The target is isolated every other `period_ms`.
//!
//! Matters when a message was lost that is no heartbeat.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::plan::draws::target;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "flapping partition",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::Flapping { target: target(plan, dice), period_ms: dice.spread(5, 700) }),
    begin: |world, _, _| world.counters.fired(Kind::Flapping),
    network,
    ..Behaviour::NOTHING
};

fn network(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::Flapping { period_ms, .. } = *kind else { return };
    world.isolate(strike, Kind::Flapping, period_ms.max(1));
}
