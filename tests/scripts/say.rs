//! How a script's output reads.

use super::member::Logged;
use ringseed::base::{Epoch, Index, NodeId, Term};
use ringseed::msg::client::{Action, ResponseBody};
use ringseed::msg::log::{Entry, Fact};
use ringseed::msg::peer::{AppendOutcome, LeaderHint, Outcome, PeerMessage, ReplicaMessage, Task, VoteReply, VoteRequest};
use std::fmt::Debug;

/// What was said so far under one command block.
#[derive(Debug, Default)]
pub struct Lines {
    lines: Vec<String>,
    /// Only news is kept, no detail.
    pub quiet: bool,
    /// What scripts call their requests, by connection.
    names: Vec<String>,
}

impl Lines {
    /// Who leads, and what clients are told.
    pub fn news(&mut self, line: String) {
        self.lines.push(line);
    }

    pub fn detail(&mut self, line: String) {
        if !self.quiet {
            self.lines.push(line);
        }
    }

    pub fn take(&mut self) -> String {
        let lines = std::mem::take(&mut self.lines);
        if lines.is_empty() { "nothing\n".into() } else { lines.join("\n") + "\n" }
    }

    /// A connection of its own for the request of this name.
    pub fn connect(&mut self, name: &str) -> u64 {
        self.names.push(name.into());
        self.names.len() as u64 - 1
    }

    pub fn name(&self, connection: u64) -> &str {
        &self.names[connection as usize]
    }
}

/// The first word of a message, as selectors name it.
pub fn kind(message: &PeerMessage) -> String {
    let of = |what: &dyn Debug| format!("{what:?}").chars().take_while(|c| c.is_alphanumeric()).collect();
    match message {
        PeerMessage::Replica(_, message) => of(message),
        message => of(message),
    }
}

pub fn message(from: NodeId, to: NodeId, message: &PeerMessage) -> String {
    let body = match message {
        PeerMessage::Replica(_, message) => match message {
            ReplicaMessage::PreVote(vote) | ReplicaMessage::Vote(vote) => request(vote),
            ReplicaMessage::PreVoteReply(vote) | ReplicaMessage::VoteReply(vote) => reply(vote),
            ReplicaMessage::Append(append) => {
                let entries: Vec<String> = append.entries.iter().map(entry).collect();
                let previous = position(append.previous_index, append.previous_term);
                let (term, commit, round) = (append.term, append.commit, append.round);
                // Members begin in epoch 1.
                let later = append.follower != Epoch(1);
                let to = if later { format!(", to epoch {}", append.follower) } else { String::new() };
                format!("t{term} after {previous} [{}] commit {commit} round {round}{to}", entries.join(", "))
            }
            ReplicaMessage::AppendReply(reply) => {
                let outcome = match reply.outcome {
                    AppendOutcome::Matched(index) => format!("matched {index}"),
                    AppendOutcome::Conflict { index, term, previous } => {
                        format!("conflict at {previous}: try {}", position(index, term))
                    }
                    AppendOutcome::StaleTerm => "stale".into(),
                    AppendOutcome::Full { matched } => format!("full, matched up to {matched}"),
                };
                let accepts = reply.acceptance.map_or("accepts nobody".into(), |promise| {
                    format!("accepts under {}.{}.{}", promise.leader, promise.supporter, promise.number)
                });
                format!("t{} {outcome} commit {} round {}, {accepts}", reply.term, reply.commit, reply.round)
            }
            ReplicaMessage::TimeoutNow { term } | ReplicaMessage::Released { term } | ReplicaMessage::ReleasedReply { term } => {
                format!("t{term}")
            }
        },
        PeerMessage::Forward(forward) => {
            let leader =
                forward.leader.map_or("anybody".into(), |(epoch, term)| format!("the leader of t{term} in epoch {epoch}"));
            format!("{} for {leader}: {}", forward.sequence, task(&forward.task))
        }
        PeerMessage::ForwardReply(reply) => match &reply.outcome {
            Outcome::Answer(body) => format!("{}: {}", reply.sequence, answer(body)),
            Outcome::NotLeader { leader } => format!("{}: not begun{}", reply.sequence, hint(*leader)),
            outcome => format!("{}: {outcome:?}", reply.sequence),
        },
        message => format!("{message:?}"),
    };
    format!("{from}->{to} {} {body}", kind(message))
}

pub fn record(record: &Logged) -> String {
    match record {
        Logged::State(state) => {
            format!("term {} vote {}", state.term, state.vote.map_or("nobody".into(), |node| node.to_string()))
        }
        Logged::Entry(logged, _) => entry(logged),
    }
}

pub fn answer(body: &ResponseBody) -> String {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    match body {
        ResponseBody::Value { value, version } => {
            format!("{} version {version}", value.as_ref().map_or("absent".into(), |value| text(value)))
        }
        ResponseBody::Written { version, number } => {
            format!("written, version {version}{}", number.map_or(String::new(), |number| format!(", sum {number}")))
        }
        ResponseBody::ConditionFailed { version, present } => {
            format!("condition failed, {} version {version}", if *present { "present" } else { "absent" })
        }
        ResponseBody::Rejected(why) => format!("rejected: {why}"),
        ResponseBody::Unknown(why) => format!("unknown: {why}"),
        body => format!("{body:?}"),
    }
}

pub fn hint(leader: Option<LeaderHint>) -> String {
    leader.map_or(String::new(), |hint| format!(", {} leads in term {}", hint.node, hint.term))
}

fn request(vote: &VoteRequest) -> String {
    let released = vote.released.map_or(String::new(), |r| format!(", {} released t{}", r.leader, r.term));
    format!("t{} log ends at {}{released}", vote.term, position(vote.last_index, vote.last_term))
}

fn reply(vote: &VoteReply) -> String {
    let lossy = if vote.lossy { ", lossy" } else { "" };
    format!("t{} {}{lossy}", vote.term, if vote.granted { "yes" } else { "no" })
}

/// Index and term.
fn position(index: Index, term: Term) -> String {
    format!("{index}/{term}")
}

fn entry(entry: &Entry) -> String {
    let fact = match &entry.fact {
        Fact::Noop => "noop".into(),
        Fact::Write { key, value: Some(value) } => {
            format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value))
        }
        Fact::Write { key, value: None } => format!("{} deleted", String::from_utf8_lossy(key)),
        Fact::Transaction(step) => format!("{step:?}"),
        Fact::Configuration(configuration) => format!("{configuration:?}"),
    };
    format!("{} {fact}", position(entry.index, entry.term))
}

fn task(task: &Task) -> String {
    let Task::Operation(operation) = task else { return format!("{task:?}") };
    let key = String::from_utf8_lossy(&operation.key);
    match &operation.action {
        Action::Get { .. } => format!("get {key}"),
        Action::Put { value, .. } => format!("put {key}={}", String::from_utf8_lossy(value)),
        Action::Delete { .. } => format!("delete {key}"),
        Action::Increment { by, .. } => format!("increment {key} by {by}"),
    }
}
