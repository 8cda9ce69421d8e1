//! The one durability gate: what each outgoing message waits for. Nothing else in the program decides this.
//!
//! | message | waits for |
//! |---|---|
//! | votes; a candidate's request | all that was logged before it is *durable* |
//! | acknowledgement of an append, or of a piece of a snapshot | all that was logged before it may be *acknowledged* (durable, unless syncing is relaxed) |
//! | greeting, heartbeat and its reply; formation; refusal | the present epoch is *durable* |
//! | append, piece of a snapshot, `TimeoutNow`, forwards and their replies, farewell; what is relayed | the epoch alone (1) |
//! | a question for a value, and the value | the epoch alone: the value is committed |
//! | pre-votes and their replies | the epoch alone: they promise nothing and change no vote (2) |
//! | releases and their replies | the epoch alone: what they say stays true in the next epoch (3) |
//!
//! 1. Appends leave before the local sync; an answer was already held until its entry committed.
//! 2. A reply may tell of a term that is not durable, or of what this node *would* do, and be forgotten. To adopt a term that no
//!    node remembers is harmless, and the winner of a pre-vote still needs votes.
//! 3. A node that leads no longer does not lead in its next epoch either. A follower that has heard so may forget it: what was
//!    sent to its earlier epoch does not bind the next.
//!
//! One more thing waits, outside: a heartbeat of a peer whose log does not follow what was let in is not heard before the mark of that
//! may be acknowledged (`on_envelope`), so no answer is made that could leave too early.
//!
//! What waits for a *commit* (answers to clients) is held by the store, which is told of commits; the leader's own copy counts
//! when the log says so.

use crate::base::{GroupId, Lsn, NodeId, Sometimes};
use crate::msg::peer::{PeerMessage, ReplicaMessage};
use std::collections::{BTreeMap, VecDeque};

/// What a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The present epoch is durable.
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
        | PeerMessage::Leading(_)
        | PeerMessage::Snapshot(..)
        | PeerMessage::Fetch(..)
        | PeerMessage::Fetched(..)
        | PeerMessage::ForwardReply(_) => Wait::Epoch,
        PeerMessage::SnapshotReply(..) => Wait::Acknowledgeable,
        PeerMessage::Replica(_, message) => match message {
            ReplicaMessage::Append(_)
            | ReplicaMessage::TimeoutNow { .. }
            | ReplicaMessage::PreVote(_)
            | ReplicaMessage::PreVoteReply(_)
            | ReplicaMessage::Released { .. }
            | ReplicaMessage::ReleasedReply { .. } => Wait::Epoch,
            ReplicaMessage::AppendReply(_) => Wait::Acknowledgeable,
            ReplicaMessage::Vote(_) | ReplicaMessage::VoteReply(_) => Wait::Durable,
        },
    }
}

/// Messages that wait.
#[derive(Debug, Default)]
pub struct Gate {
    /// For the epoch, in the order they were made.
    epoch: VecDeque<(Lsn, NodeId, PeerMessage)>,
    /// In the order they were made.
    acknowledgeable: VecDeque<(Lsn, NodeId, PeerMessage)>,
    /// One request and one reply for each group and peer: a newer one says all that an older one did. So they are never too many,
    /// and none is lost.
    votes: BTreeMap<(NodeId, GroupId, bool), (Lsn, PeerMessage)>,
    /// Messages that were dropped because too many waited.
    pub dropped: u64,
}

/// How far the node's log is.
#[derive(Debug, Clone, Copy)]
pub struct Watermarks {
    /// The last record appended.
    pub last: Lsn,
    pub durable: Lsn,
    pub acknowledgeable: Lsn,
    /// The record of the present epoch.
    pub epoch: Lsn,
}

impl Gate {
    /// Gives the message back if it may leave now; else keeps it, or drops it when `waiting_max` wait.
    pub fn pass(&mut self, to: NodeId, message: PeerMessage, marks: Watermarks, waiting_max: usize) -> Option<PeerMessage> {
        let wait = waits_for(&message);
        let (reached, wanted) = match wait {
            Wait::Epoch => (marks.durable, marks.epoch),
            Wait::Durable => (marks.durable, marks.last),
            Wait::Acknowledgeable => (marks.acknowledgeable.max(marks.durable), marks.last),
        };
        if reached >= wanted && marks.durable >= marks.epoch {
            return Some(message);
        }
        Sometimes::MessageWaitsForEpoch.when(marks.durable < marks.epoch);
        let queue = match (wait, &message) {
            (Wait::Durable, PeerMessage::Replica(group, vote)) => {
                let key = (to, *group, matches!(vote, ReplicaMessage::VoteReply(_)));
                let held = self.votes.get(&key).map(|(_, held)| held);
                Sometimes::VoteReplacesWaitingVote.when(held.is_some_and(|held| *held != message));
                Sometimes::VoteWaitsAlready.when(held == Some(&message));
                // The same once more does not wait for more than the first: repeats must not hold it up.
                if self.votes.get(&key).is_none_or(|(_, held)| *held != message) {
                    self.votes.insert(key, (wanted, message));
                }
                return None;
            }
            (Wait::Acknowledgeable, _) => &mut self.acknowledgeable,
            _ => &mut self.epoch,
        };
        if queue.len() < waiting_max {
            Sometimes::AcknowledgementWaits.when(wait == Wait::Acknowledgeable);
            queue.push_back((wanted, to, message));
        } else {
            self.dropped += 1;
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
        for (queue, reached) in [(&mut self.epoch, marks.durable), (&mut self.acknowledgeable, acknowledgeable)] {
            while let Some((_, to, message)) = queue.pop_front_if(|(wanted, ..)| *wanted <= reached) {
                released.push((to, message));
            }
        }
        let votes = self.votes.extract_if(.., |_, (wanted, _)| *wanted <= marks.durable);
        released.extend(votes.map(|((to, ..), (_, vote))| (to, vote)));
        released
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        self.epoch.len() + self.acknowledgeable.len() + self.votes.len()
    }

    /// The oldest is at the front.
    pub fn check(&self) {
        assert!(self.acknowledgeable.iter().is_sorted_by_key(|(wanted, ..)| wanted), "acknowledgements leave in order");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Term;
    use crate::msg::peer::VoteReply;

    const WAITING_MAX: usize = 10;

    fn marks(last: u64, durable: u64) -> Watermarks {
        Watermarks { last: Lsn(last), durable: Lsn(durable), acknowledgeable: Lsn(durable), epoch: Lsn(1) }
    }

    fn vote(group: u32, term: u64) -> PeerMessage {
        let reply = VoteReply { term: Term(term), granted: true, lossy: false };
        PeerMessage::Replica(GroupId(group), ReplicaMessage::VoteReply(reply))
    }

    /// However many groups vote while a sync takes its time, every vote leaves; a repeat does not put it off, and a newer one
    /// takes its place.
    #[test]
    fn no_vote_is_lost_in_the_gate() {
        let mut gate = Gate::default();
        let groups = WAITING_MAX as u32 + 1_000;
        for group in 0..groups {
            assert_eq!(gate.pass(NodeId(2), vote(group, 1), marks(5, 4), WAITING_MAX), None);
        }
        assert_eq!(gate.pass(NodeId(2), vote(0, 1), marks(9, 4), WAITING_MAX), None);
        assert_eq!(gate.pass(NodeId(2), vote(1, 2), marks(9, 4), WAITING_MAX), None);
        let released = gate.release(marks(9, 5));
        assert_eq!(released.len(), groups as usize - 1);
        assert_eq!(gate.release(marks(9, 9)), [(NodeId(2), vote(1, 2))]);
        assert_eq!(gate.dropped, 0);
    }

    #[test]
    fn of_too_many_acknowledgements_that_wait_the_last_are_dropped_and_counted() {
        use crate::base::Index;
        use crate::msg::peer::{AppendOutcome, AppendReply};
        let acknowledgement = |index| {
            let outcome = AppendOutcome::Matched(Index(index));
            let reply = AppendReply::of_test(Term(1), outcome);
            (NodeId(2), PeerMessage::Replica(GroupId(1), ReplicaMessage::AppendReply(reply)))
        };
        let mut gate = Gate::default();
        for index in 0..WAITING_MAX as u64 + 3 {
            let (to, message) = acknowledgement(index);
            assert_eq!(gate.pass(to, message, marks(5, 4), WAITING_MAX), None);
        }
        assert_eq!(gate.dropped, 3);
        assert_eq!(gate.release(marks(5, 5)), (0..WAITING_MAX as u64).map(acknowledgement).collect::<Vec<_>>());
    }

    /// Pre-votes change nothing, and wait for nothing but the epoch.
    #[test]
    fn a_pre_vote_does_not_wait_for_the_disk() {
        let mut gate = Gate::default();
        let reply = VoteReply { term: Term(1), granted: true, lossy: false };
        let pre_vote = PeerMessage::Replica(GroupId(1), ReplicaMessage::PreVoteReply(reply));
        assert_eq!(gate.pass(NodeId(2), pre_vote.clone(), marks(9, 1), WAITING_MAX), Some(pre_vote.clone()));
        assert_eq!(gate.pass(NodeId(2), pre_vote, marks(9, 0), WAITING_MAX), None);
    }
}
