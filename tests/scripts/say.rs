//! How a script's output reads.

use super::machine::Mail;
use ringseed::base::{Epoch, GroupId, Index, NodeId, Term};
use ringseed::msg::client::ResponseBody;
use ringseed::msg::log::{Entry, Fact};
use ringseed::msg::operation::{Action, Operation};
use ringseed::msg::peer::{AppendOutcome, LeaderHint, Outcome, PeerMessage, ReplicaMessage, Task, VoteReply, VoteRequest};
use ringseed::msg::repair::MemberCopy;
use ringseed::msg::transaction::{TransactionFact, TransactionId, Vote};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// What was said so far under one command block.
#[derive(Debug, Default)]
pub struct Lines {
    lines: Vec<String>,
    /// Only news is kept, no detail.
    pub quiet: bool,
    /// What scripts call their requests, by connection.
    names: Vec<String>,
    /// Epochs by number: a node's first is 1. And the number of each node's last.
    epochs: BTreeMap<Epoch, u64>,
    last_epochs: BTreeMap<NodeId, u64>,
    /// With more than one, lines say which is meant.
    pub partitions: u32,
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

impl Lines {
    /// A node is in this epoch: of this number, or the next.
    pub fn knows_epoch(&mut self, node: NodeId, epoch: Epoch, number: Option<u64>) {
        let last = self.last_epochs.entry(node).or_default();
        *last = number.unwrap_or(*last + 1);
        self.epochs.insert(epoch, *last);
    }

    fn epoch(&self, epoch: Epoch) -> u64 {
        self.epochs.get(&epoch).copied().unwrap_or(0)
    }

    /// What goes behind a line about this group.
    pub fn group(&self, group: GroupId) -> String {
        if self.partitions > 1 { format!(" (partition {group})") } else { String::new() }
    }

    /// A message leaves.
    pub fn message(&mut self, mail: &Mail) {
        let Mail { from, to, message, .. } = mail;
        let (body, of) = match message {
            PeerMessage::Replica(group, message) => (self.replica(message), self.group(*group)),
            PeerMessage::Forward(forward) => {
                let leader = forward
                    .leader
                    .map_or("anybody".into(), |(epoch, term)| format!("the leader of t{term} in epoch {}", self.epoch(epoch)));
                (format!("{} for {leader}: {}", forward.sequence, task(&forward.task)), self.group(forward.group))
            }
            PeerMessage::ForwardReply(reply) => (format!("{}: {}", reply.sequence, outcome(&reply.outcome)), String::new()),
            PeerMessage::Fetch(group, fetch) => (format!("{} of version {}", fetch.key, fetch.version.0), self.group(*group)),
            PeerMessage::Fetched(group, fetched) => {
                let copy = match &fetched.copy {
                    MemberCopy::Whole(_) => "whole",
                    MemberCopy::Rotten => "rotten",
                    MemberCopy::OtherVersion => "another version here",
                };
                (format!("{} of version {}: {copy}", fetched.key, fetched.version.0), self.group(*group))
            }
            message => (format!("{message:?}"), String::new()),
        };
        self.detail(format!("{from}->{to} {} {body}{of}", kind(message)));
    }

    fn replica(&self, message: &ReplicaMessage) -> String {
        match message {
            ReplicaMessage::PreVote(vote) | ReplicaMessage::Vote(vote) => request(vote),
            ReplicaMessage::PreVoteReply(vote) | ReplicaMessage::VoteReply(vote) => reply(vote),
            ReplicaMessage::Append(append) => {
                let entries: Vec<String> = append.entries.iter().map(entry).collect();
                let previous = position(append.previous_index, append.previous_term);
                let (term, commit, round) = (append.term, append.commit, append.round);
                let to = match self.epoch(append.follower) {
                    1 => String::new(),
                    later => format!(", to epoch {later}"),
                };
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
                    format!("accepts under {}.{}.{}", self.epoch(promise.leader), self.epoch(promise.supporter), promise.number)
                });
                format!("t{} {outcome} commit {} round {}, {accepts}", reply.term, reply.commit, reply.round)
            }
            ReplicaMessage::TimeoutNow { term } | ReplicaMessage::Released { term } | ReplicaMessage::ReleasedReply { term } => {
                format!("t{term}")
            }
        }
    }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer(body) => answer(body),
        Outcome::NotLeader { leader } => format!("not begun{}", hint(*leader)),
        Outcome::Voted(Vote::Yes(_)) => "votes yes".into(),
        Outcome::Voted(Vote::No(failures)) => format!("votes no: {failures:?}"),
        Outcome::Voted(Vote::Rejected(why)) => format!("votes no: {why}"),
        Outcome::Resolved => "resolved".into(),
        Outcome::Decided(Some(true)) => "it was committed".into(),
        Outcome::Decided(Some(false)) => "it was aborted".into(),
        Outcome::Decided(None) => "it is open".into(),
        outcome => format!("{outcome:?}"),
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
        ResponseBody::Transacted(results) => {
            let versions: Vec<String> = results.iter().map(|result| result.version.to_string()).collect();
            format!("committed, versions {}", versions.join(", "))
        }
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
            format!("{}={}", key, String::from_utf8_lossy(value))
        }
        Fact::Write { key, value: None } => format!("{} deleted", key),
        Fact::Transaction(fact) => step(fact),
        Fact::Configuration(configuration) => format!("{configuration:?}"),
    };
    format!("{} {fact}", position(entry.index, entry.term))
}

/// A transaction: its home, and its number in the home's term.
fn id(id: &TransactionId) -> String {
    format!("{}.{}.{}", id.home, id.attempt.term, id.attempt.number)
}

fn step<V>(step: &TransactionFact<V>) -> String {
    match step {
        TransactionFact::Prepare { id: of, .. } => format!("prepare {}", id(of)),
        TransactionFact::Decide { id: of, commit, ended, .. } => {
            let ended: Vec<String> = ended.iter().map(id).collect();
            let ended = if ended.is_empty() { String::new() } else { format!(", ended: {}", ended.join(", ")) };
            format!("decide {} {}{ended}", id(of), if *commit { "commit" } else { "abort" })
        }
        TransactionFact::Resolve { id: of, commit } => format!("resolve {} {}", id(of), if *commit { "commit" } else { "abort" }),
        TransactionFact::End { ended, .. } => format!("ended: {}", ended.iter().map(id).collect::<Vec<_>>().join(", ")),
    }
}

fn task(task: &Task) -> String {
    let operation = match task {
        Task::Operation(single) => &single.operation,
        Task::Transact { transaction, .. } => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let item = |item: &Operation| match &item.action {
                Action::Put(value) => format!("{}={}", item.key, text(value)),
                action => format!("{action:?} {}", item.key),
            };
            return format!("transact {}", transaction.items.iter().map(item).collect::<Vec<_>>().join(", "));
        }
        Task::Prepare(preparation) => return format!("prepare {}", id(&preparation.id)),
        Task::Resolve { id: of, commit } => return format!("{} {}", if *commit { "commit" } else { "abort" }, id(of)),
        Task::Inquire(of) => return format!("what became of {}?", id(of)),
        task => return format!("{task:?}"),
    };
    let key = &operation.key;
    match &operation.action {
        Action::Check => format!("check {key}"),
        Action::Read => format!("get {key}"),
        Action::Put(value) => format!("put {key}={}", String::from_utf8_lossy(value)),
        Action::Delete => format!("delete {key}"),
        Action::Increment(by) => format!("increment {key} by {by}"),
    }
}
