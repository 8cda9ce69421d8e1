//! The one durability gate: what each outgoing message waits for. Nothing else decides this anywhere.
//!
//! | message | waits for |
//! |---|---|
//! | votes, pre-votes, releases and their replies; a candidate's request | all that was logged before it is *durable* |
//! | acknowledgement of an append | all that was logged before it may be *acknowledged* (durable, unless syncing is relaxed) |
//! | greeting, heartbeat and its reply; formation; refusal | this life's epoch is *durable* |
//! | append, `TimeoutNow`, forwards and their replies, farewell; what is relayed | the epoch alone: appends leave before the local sync; an answer was already held until its entry committed |
//!
//! What waits for a *commit* (answers to clients) is held by the store, which is told of commits; the leader's own copy counts when the log says so.

use crate::base::limits::GATED_MESSAGES_MAX;
use crate::base::{Lsn, NodeId};
use crate::msg::peer::{PeerMessage, ReplicaMessage};
use std::collections::VecDeque;

/// What a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// This life's epoch is durable.
    Epoch,
    /// Everything logged so far is durable.
    Durable,
    /// Everything logged so far may be acknowledged.
    Acknowledgeable,
}

/// What `message` waits for.
pub fn waits_for(message: &PeerMessage) -> Wait {
    match message {
        PeerMessage::Greeting(_)
        | PeerMessage::Formed(_)
        | PeerMessage::Refused(..)
        | PeerMessage::Heartbeat(_)
        | PeerMessage::HeartbeatReply(_)
        | PeerMessage::Forward(_)
        | PeerMessage::Farewell(_)
        | PeerMessage::Relayed(_)
        | PeerMessage::Addresses(_)
        | PeerMessage::ForwardReply(_) => Wait::Epoch,
        PeerMessage::Replica(_, message) => match message {
            ReplicaMessage::Append(_) | ReplicaMessage::TimeoutNow { .. } => Wait::Epoch,
            ReplicaMessage::AppendReply(_) => Wait::Acknowledgeable,
            ReplicaMessage::PreVote(_)
            | ReplicaMessage::PreVoteReply(_)
            | ReplicaMessage::Vote(_)
            | ReplicaMessage::VoteReply(_)
            | ReplicaMessage::Released { .. }
            | ReplicaMessage::ReleasedReply { .. } => Wait::Durable,
        },
    }
}

/// Messages that wait, in the order they were made.
#[derive(Debug, Default)]
pub struct Gate {
    durable: VecDeque<(Lsn, NodeId, PeerMessage)>,
    acknowledgeable: VecDeque<(Lsn, NodeId, PeerMessage)>,
}

/// How far the node's log is.
#[derive(Debug, Clone, Copy)]
pub struct Watermarks {
    /// The last record appended.
    pub last: Lsn,
    pub durable: Lsn,
    pub acknowledgeable: Lsn,
    /// The record of this life's epoch.
    pub epoch: Lsn,
}

impl Gate {
    /// Gives the message back if it may leave now; else keeps it, or drops it when too many wait.
    pub fn pass(&mut self, to: NodeId, message: PeerMessage, marks: Watermarks) -> Option<PeerMessage> {
        let (queue, reached, wanted) = match waits_for(&message) {
            Wait::Epoch => (&mut self.durable, marks.durable, marks.epoch),
            Wait::Durable => (&mut self.durable, marks.durable, marks.last),
            Wait::Acknowledgeable => (&mut self.acknowledgeable, marks.acknowledgeable.max(marks.durable), marks.last),
        };
        if reached >= wanted && marks.durable >= marks.epoch {
            return Some(message);
        }
        if queue.len() < GATED_MESSAGES_MAX {
            queue.push_back((wanted, to, message));
        }
        None
    }

    /// The messages that may leave now.
    pub fn release(&mut self, marks: Watermarks) -> Vec<(NodeId, PeerMessage)> {
        let mut released = Vec::new();
        if marks.durable < marks.epoch {
            return released;
        }
        let acknowledgeable = marks.acknowledgeable.max(marks.durable);
        for (queue, reached) in [(&mut self.durable, marks.durable), (&mut self.acknowledgeable, acknowledgeable)] {
            while let Some((_, to, message)) = queue.pop_front_if(|(wanted, ..)| *wanted <= reached) {
                released.push((to, message));
            }
        }
        released
    }

    pub fn is_empty(&self) -> bool {
        self.durable.is_empty() && self.acknowledgeable.is_empty()
    }

    pub fn len(&self) -> usize {
        self.durable.len() + self.acknowledgeable.len()
    }

    /// The oldest is at the front.
    pub fn check(&self) {
        assert!(self.durable.len().max(self.acknowledgeable.len()) <= GATED_MESSAGES_MAX, "what waits is bounded");
        assert!(self.acknowledgeable.iter().is_sorted_by_key(|(wanted, ..)| wanted), "acknowledgements leave in order");
    }
}
