//! The process ends; the page cache lives.
//!
//! Matters when a client learns that its connection broke, and had a request in progress; when a group that the node led has
//! another leadership; or when the node's next epoch lacks entries that were on their way to the disk.

use super::{Behaviour, FaultKind, Stands, Strike};
use crate::counters::Kind;
use crate::plan::Target;
use crate::plan::draws::{node, target};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "crash",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::Crash { target: target(plan, dice) }),
    begin,
    stands: Some(Stands {
        draw: |plan, dice| FaultKind::Crash { target: Target::Node(node(plan, dice)) },
        counted: Kind::StandingDead,
        cause: None,
    }),
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, _: &FaultKind, strike: Strike) {
    let number = strike.node();
    if world.machines[number].node.is_none() {
        return;
    }
    if world.counters.strikes(Kind::Crash) {
        world.crash(number, None, strike.for_ms, Some(Kind::Crash));
    }
}
