//! Points of the transactions' protocol at which a plan can place a fault.
//!
//! All are seen from outside of the node, in what it sends, is sent, and makes durable: the core knows nothing of them. Each
//! counts how often it was passed, and how often a fault was placed there.

use ringseed::msg::log::Fact;
use ringseed::msg::peer::{AppendOutcome, Outcome, PeerMessage, ReplicaMessage, Task};
use ringseed::msg::transaction::{TransactionFact, Vote};
use serde::{Deserialize, Serialize};

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Where in the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Point { $($(#[$doc])* $name,)* }

        impl Point {
            pub const ALL: &[Point] = &[$(Point::$name,)*];

            pub const fn name(self) -> &'static str {
                match self { $(Point::$name => $text,)* }
            }
        }
    };
}

points! {
    /// From a gateway to another node that leads the home.
    TransactLeaves = "transaction leaves the gateway",
    TransactArrives = "transaction arrives at its home",
    PrepareLeaves = "prepare leaves the coordinator",
    PrepareArrives = "prepare arrives at a participant",
    /// An append that holds it.
    PrepareAppended = "prepare leaves in an append",
    /// On any replica.
    PrepareDurable = "prepare is durable",
    PrepareAcknowledged = "prepare is acknowledged by a follower",
    VoteLeaves = "vote leaves the participant",
    VoteArrives = "vote arrives at the coordinator",
    RefusalLeaves = "vote against leaves the participant",
    DecideAppended = "decision leaves in an append",
    DecideDurable = "decision is durable",
    DecideAcknowledged = "decision is acknowledged by a follower",
    AnswerLeaves = "answer leaves for the client",
    ResolveLeaves = "outcome leaves the coordinator",
    ResolveArrives = "outcome arrives at a participant",
    OutcomeAppended = "participant's outcome leaves in an append",
    OutcomeDurable = "participant's outcome is durable",
    OutcomeAcknowledged = "participant's outcome is acknowledged by a follower",
    ResolvedLeaves = "participant's acknowledgement leaves",
    ResolvedArrives = "participant's acknowledgement arrives",
    EndAppended = "end leaves in an append",
    EndDurable = "end is durable",
    InquiryLeaves = "inquiry leaves a participant",
    InquiryArrives = "inquiry arrives at the home",
    ReplyLeaves = "reply to an inquiry leaves the home",
    ReplyArrives = "reply to an inquiry arrives",
}

/// The steps that stand in a log.
const STEPS: [[Option<Point>; 3]; 4] = [
    [Some(Point::PrepareAppended), Some(Point::PrepareDurable), Some(Point::PrepareAcknowledged)],
    [Some(Point::DecideAppended), Some(Point::DecideDurable), Some(Point::DecideAcknowledged)],
    [Some(Point::OutcomeAppended), Some(Point::OutcomeDurable), Some(Point::OutcomeAcknowledged)],
    [Some(Point::EndAppended), Some(Point::EndDurable), None],
];

impl Point {
    /// What an appended step becomes when it is durable, and when that is acknowledged.
    pub fn durable(self) -> Option<Point> {
        STEPS.iter().find(|step| step[0] == Some(self)).and_then(|step| step[1])
    }

    pub fn acknowledged(self) -> Option<Point> {
        STEPS.iter().find(|step| step[1] == Some(self)).and_then(|step| step[2])
    }

    /// Points at which there is a message between nodes to lose, to hold back or to repeat.
    pub const MESSAGES: &[Point] = &[
        Point::TransactLeaves,
        Point::PrepareLeaves,
        Point::PrepareAppended,
        Point::VoteLeaves,
        Point::RefusalLeaves,
        Point::DecideAppended,
        Point::ResolveLeaves,
        Point::OutcomeAppended,
        Point::ResolvedLeaves,
        Point::EndAppended,
        Point::InquiryLeaves,
        Point::ReplyLeaves,
    ];
}

/// The steps in an append.
pub fn appended(message: &PeerMessage) -> impl Iterator<Item = Point> {
    let entries = match message {
        PeerMessage::Replica(_, ReplicaMessage::Append(append)) => &append.entries[..],
        _ => &[],
    };
    entries.iter().filter_map(|entry| {
        let Fact::Transaction(fact) = &entry.fact else { return None };
        Some(match **fact {
            TransactionFact::Prepare { .. } => Point::PrepareAppended,
            TransactionFact::Decide { .. } => Point::DecideAppended,
            TransactionFact::Resolve { .. } => Point::OutcomeAppended,
            TransactionFact::End { .. } => Point::EndAppended,
        })
    })
}

/// The point at which this leaves a node, and that at which it arrives; appends aside.
pub fn spoken(message: &PeerMessage) -> Option<(Point, Option<Point>)> {
    match message {
        PeerMessage::Forward(forward) => match &forward.task {
            Task::Transact { .. } => Some((Point::TransactLeaves, Some(Point::TransactArrives))),
            Task::Prepare(_) => Some((Point::PrepareLeaves, Some(Point::PrepareArrives))),
            Task::Resolve { .. } => Some((Point::ResolveLeaves, Some(Point::ResolveArrives))),
            Task::Inquire(_) => Some((Point::InquiryLeaves, Some(Point::InquiryArrives))),
            _ => None,
        },
        PeerMessage::ForwardReply(reply) => match &reply.outcome {
            Outcome::Voted(Vote::Yes(_)) => Some((Point::VoteLeaves, Some(Point::VoteArrives))),
            Outcome::Voted(_) => Some((Point::RefusalLeaves, None)),
            Outcome::Resolved => Some((Point::ResolvedLeaves, Some(Point::ResolvedArrives))),
            Outcome::Decided(_) => Some((Point::ReplyLeaves, Some(Point::ReplyArrives))),
            _ => None,
        },
        _ => None,
    }
}

/// Whether this acknowledges entries.
pub fn acknowledges(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Replica(_, ReplicaMessage::AppendReply(reply)) if matches!(reply.outcome, AppendOutcome::Matched(_)))
}
