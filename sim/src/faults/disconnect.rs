//! Clients' connections to the target break.
//!
//! Matters when a client learns that its connection broke, and had a request in progress.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::plan::draws::target;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "disconnection",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::Disconnect { target: target(plan, dice) }),
    begin,
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, _: &FaultKind, strike: Strike) {
    if world.counters.strikes(Kind::ConnectionBreak) {
        world.break_connections(strike.node(), 1, Some(Kind::ConnectionBreak));
    }
}
