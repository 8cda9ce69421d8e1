//! The message of the point that is waited for is late, and others overtake it.

use super::Behaviour;

pub const BEHAVIOUR: Behaviour = Behaviour { name: "a message held back", on_message: true, ..Behaviour::NOTHING };
