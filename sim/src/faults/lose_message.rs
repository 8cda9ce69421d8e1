//! The message of the point that is waited for is lost, with the envelope that it is in.

use super::Behaviour;

pub const BEHAVIOUR: Behaviour = Behaviour { name: "loss of a message", on_message: true, ..Behaviour::NOTHING };
