//! No segment can be made.
//!
//! Matters when a segment, or the witness, was not made that the node had asked for.

use super::{Behaviour, FaultKind, Stands};
use crate::counters::Kind;
use crate::plan::Target;
use crate::plan::draws::{node, target};

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "full disk",
    draw: Some(|plan, dice| FaultKind::Full { target: target(plan, dice) }),
    begin: |world, _, strike| world.apply_disk_trouble(strike.node()),
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, _| trouble.full = true,
    stands: Some(Stands {
        draw: |plan, dice| FaultKind::Full { target: Target::Node(node(plan, dice)) },
        counted: Kind::StandingFull,
        cause: Some(Kind::Full),
    }),
    ..Behaviour::NOTHING
};
