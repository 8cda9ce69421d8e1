//! Writes fail.
//!
//! Matters when the node halted for the error.

use super::{Behaviour, FaultKind};
use crate::plan::draws::target;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "write errors",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::WriteErrors { target: target(plan, dice) }),
    begin: |world, _, strike| world.apply_disk_trouble(strike.node()),
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, _| trouble.write_errors = true,
    ..Behaviour::NOTHING
};
