//! No participant says that it has lost its part of a transaction that was committed (P2, P3).
//!
//! Only the power of a majority can take a prepare that was acknowledged, and only where syncing is relaxed. Plans never do both.
//! With strict syncing nothing that was acknowledged is lost. With relaxed syncing the power goes at one node, whose group does
//! without what it lost until it has it back. So in a run, whatever its faults, this answer is never right. The node tests play
//! the power loss of a majority (`src/node/tests/transactions.rs`): there it is the right answer, and all that is lost is the
//! last interval.

use super::Violation;
use ringseed::base::NodeId;
use ringseed::msg::peer::{Carried, Outcome, PeerMessage};

/// Judges what a node says to another.
///
/// # Errors
/// It says that it has lost what it had prepared.
pub fn check_message(from: NodeId, message: &PeerMessage) -> Result<(), Violation> {
    let reply = match message {
        PeerMessage::ForwardReply(reply) => reply,
        PeerMessage::Relayed(relayed) => match &relayed.carried {
            Carried::ForwardReply(reply) => reply,
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    match reply.outcome {
        Outcome::Lost => Err(violation(format!("node {from} is told of a commit, and says that it has lost its part of it"))),
        _ => Ok(()),
    }
}

/// Judges what a node has counted: a home and a participant on one node say nothing that others hear.
///
/// # Errors
/// It was told that a part of a commit is lost.
pub fn check_count(node: NodeId, transactions_lost: u64) -> Result<(), Violation> {
    match transactions_lost {
        0 => Ok(()),
        lost => Err(violation(format!("node {node} counts {lost} commits of which a part is lost"))),
    }
}

fn violation(what: String) -> Violation {
    Violation { promise: "P2", checker: "lost transactions", what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringseed::base::{DirectoryId, Epoch};
    use ringseed::msg::peer::{ForwardReply, Relayed};

    #[test]
    fn what_is_lost_is_noticed_directly_relayed_and_counted() {
        for (outcome, clean) in [(Outcome::Resolved, true), (Outcome::Lost, false)] {
            let reply = ForwardReply { sequence: 1, outcome, epoch: Epoch(1) };
            let relayed = Relayed {
                origin: NodeId(1),
                directory: DirectoryId(1),
                epoch: Epoch(1),
                destination: NodeId(3),
                links: 1,
                carried: Carried::ForwardReply(reply.clone()),
            };
            for message in [PeerMessage::ForwardReply(reply), PeerMessage::Relayed(Box::new(relayed))] {
                assert_eq!(check_message(NodeId(1), &message).is_ok(), clean, "{message:?}");
            }
        }
        assert!(check_count(NodeId(1), 0).is_ok() && check_count(NodeId(1), 1).is_err());
    }
}
