//! The machine loses power: what is not synced may be lost, torn, persisted out of order.
//!
//! Matters when something unsynced was lost or torn, so that the node's next epoch reads other bytes.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::plan::draws::{style, target};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "power loss",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::PowerLoss { target: target(plan, dice), style: style(dice) }),
    begin,
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::PowerLoss { style, .. } = *kind else { return };
    if world.counters.strikes(Kind::PowerLoss) {
        world.crash(strike.node(), Some(style), strike.for_ms, Some(Kind::PowerLoss));
    }
}
