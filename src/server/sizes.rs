//! How many bytes a message takes, as it is counted where messages wait.

use crate::msg::peer::{Envelope, PeerMessage};

/// Bytes that an envelope takes; rather too many than too few.
pub fn envelope_size(envelope: &Envelope) -> usize {
    envelope.messages.iter().map(size_estimate).sum()
}

/// Bytes that a message takes, by its payload; rather too many than too few.
fn size_estimate(message: &PeerMessage) -> usize {
    use crate::msg::peer::{Carried, ReplicaMessage};
    /// Covers every field of fixed size.
    const FIXED: usize = 128;
    let payload = match message {
        PeerMessage::Replica(_, ReplicaMessage::Append(append)) => {
            append.entries.iter().map(|entry| entry.fact.size() + FIXED).sum()
        }
        PeerMessage::Forward(forward) => task_size(&forward.task, FIXED),
        PeerMessage::ForwardReply(reply) => outcome_size(&reply.outcome, FIXED),
        PeerMessage::Relayed(relayed) => match &relayed.carried {
            Carried::Forward(forward) => task_size(&forward.task, FIXED) + FIXED,
            Carried::ForwardReply(reply) => outcome_size(&reply.outcome, FIXED) + FIXED,
            Carried::Farewell(_) => 0,
        },
        PeerMessage::Formed(formation) => formation.members.iter().map(|m| m.address.len() + m.zone.len() + FIXED).sum(),
        PeerMessage::Addresses(all) => all.iter().map(|one| one.address.len() + FIXED).sum(),
        PeerMessage::Greeting(greeting) => greeting.address.len() + greeting.zone.len() + greeting.initial.len() * 3,
        _ => 0,
    };
    payload + FIXED
}

fn task_size(task: &crate::msg::peer::Task, fixed: usize) -> usize {
    use crate::msg::peer::Task;
    match task {
        Task::Transact { transaction, .. } => transaction.size() + transaction.items.len() * fixed,
        Task::Prepare(preparation) => preparation.size() + preparation.items.len() * fixed,
        task => task.size() + fixed,
    }
}

fn outcome_size(outcome: &crate::msg::peer::Outcome, fixed: usize) -> usize {
    use crate::msg::peer::Outcome;
    use crate::msg::transaction::Vote;
    match outcome {
        Outcome::Answer(body) => answer_size(body, fixed),
        Outcome::Voted(Vote::Yes(results)) => {
            results.iter().map(|placed| placed.result.value.as_ref().map_or(0, |value| value.len()) + fixed).sum()
        }
        Outcome::Voted(Vote::No(failures)) => failures.len() * fixed,
        _ => 0,
    }
}

fn answer_size(body: &crate::msg::client::ResponseBody, fixed: usize) -> usize {
    use crate::msg::client::ResponseBody;
    match body {
        ResponseBody::Value { value, .. } => value.as_ref().map_or(0, bytes::Bytes::len),
        ResponseBody::Scanned(page) => {
            page.items.iter().map(|item| item.key.size() + item.value.len() + fixed).sum::<usize>() + page.read_at.len() * 16
        }
        ResponseBody::Transacted(items) | ResponseBody::Values(items) => {
            items.iter().map(|item| item.value.as_ref().map_or(0, bytes::Bytes::len) + fixed).sum()
        }
        ResponseBody::NotCommitted(failures) => failures.len() * fixed,
        ResponseBody::Damage(report) => report.lost.iter().map(|lost| lost.key.size() + fixed).sum(),
        ResponseBody::Transactions(reports, _) => reports.iter().map(|report| report.parties.len() * 8 + fixed).sum(),
        _ => 0,
    }
}
