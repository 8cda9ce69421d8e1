//! What the target sends, and what is sent to it, is lost.
//!
//! Matters when a message was lost that is no heartbeat.

use super::{Behaviour, FaultKind, Stands};
use crate::counters::Kind;
use crate::plan::Target;
use crate::plan::draws::{node, target};

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "isolation",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::Isolate { target: target(plan, dice) }),
    begin: |world, _, _| world.counters.fired(Kind::Isolation),
    network: |world, _, strike| world.isolate(strike, Kind::Isolation, 0),
    stands: Some(Stands {
        draw: |plan, dice| FaultKind::Isolate { target: Target::Node(node(plan, dice)) },
        counted: Kind::StandingBadlyConnected,
        cause: Some(Kind::Isolation),
    }),
    ..Behaviour::NOTHING
};
