//! Reads of the disk fail.

use super::{Behaviour, FaultKind};
use crate::plan::draws::target;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "read errors",
    draw: Some(|plan, dice| FaultKind::ReadErrors { target: target(plan, dice), permille: dice.spread(10, 600) as u32 }),
    begin: |world, _, strike| world.apply_disk_trouble(strike.node()),
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, kind| {
        if let FaultKind::ReadErrors { permille, .. } = *kind {
            trouble.read_errors_permille = permille;
        }
    },
    ..Behaviour::NOTHING
};
