//! The message of the point that is waited for comes again.

use super::Behaviour;

pub const BEHAVIOUR: Behaviour = Behaviour { name: "a message repeated", on_message: true, ..Behaviour::NOTHING };
