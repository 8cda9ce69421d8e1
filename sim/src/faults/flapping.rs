//! The target is isolated every other `period_ms`.
//!
//! Matters when a message was lost that is no heartbeat.

use super::{Behaviour, FaultKind, Stands, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::draws::{node, target};
use crate::plan::{Plan, Target};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "flapping partition",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::Flapping { target: target(plan, dice), period_ms: dice.spread(5, 700) }),
    begin: |world, _, _| world.counters.fired(Kind::Flapping),
    network,
    stands: Some(Stands { draw: lasting, counted: Kind::StandingBadlyConnected, cause: Some(Kind::Flapping) }),
    ..Behaviour::NOTHING
};

/// Each outage breaks leases: in shorter ones connections do not lose what is sent, as the network here does, they are slow.
fn lasting(plan: &Plan, dice: &mut Dice) -> FaultKind {
    let support_ms = u64::from(plan.cluster.support_ms);
    FaultKind::Flapping { target: Target::Node(node(plan, dice)), period_ms: dice.spread(support_ms, 8 * support_ms) }
}

fn network(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::Flapping { period_ms, .. } = *kind else { return };
    world.isolate(strike, Kind::Flapping, period_ms.max(1));
}
