//! Syncs of the directory fail, after some names were made durable.
//!
//! Matters when the node halted for the error.

use super::create_errors::when_segments_are_made;
use super::{Behaviour, FaultKind};

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "errors of directory syncs",
    aimed: true,
    add: Some(|plan, dice| when_segments_are_made(plan, dice, |target| FaultKind::DirectoryErrors { target })),
    begin: |world, _, strike| world.apply_disk_trouble(strike.node()),
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, _| trouble.directory_errors = true,
    ..Behaviour::NOTHING
};
