//! The coordinator of transactions: two-phase commit over partitions (Gray, "Notes on data base operating systems", 1978), with
//! every decision in a replicated log. Abort is presumed (Mohan, Lindsay and Obermarck, "Transaction management in the R*
//! distributed database management system", 1986, section 3), and the home is the last agent.
//!
//! # The protocol
//!
//! A transaction's *home* is the group of its token, or of its first key. The leader of the home coordinates; the other groups
//! that its keys are in are *participants* (`store/participant.rs`).
//!
//! ```text
//! client     home's coordinator         home's log                    participants
//!   |  Transact  |                                                        |
//!   |----------->| id; Hold: own items evaluated, locked in memory        |
//!   |            |------------------------- Prepare --------------------->| evaluate, lock, log [Prepare]
//!   |            |<------------------------ Yes, once committed ----------|
//!   |            | Decide ------> [Decide: commit, own writes, parties]   |
//!   |  done      |   committed: the transaction is                        |
//!   |<-----------|------------------------- Resolve --------------------->| log [Resolve]: apply, unlock
//!   |            |<------------------------ Resolved, once committed -----|
//!   |            | [ended: ...] in a later Decide, or an End of its own   | forgotten behind the floor
//! ```
//!
//! Two rounds of replication, one after the other, before the client hears; one record for each participant and round, and one
//! for the home. All keys in one group: no participant, so one record and one round.
//!
//! # Why it is safe
//!
//! Each point is played by a script, `tests/scripts/txn_*.txt`.
//!
//! 1. *An id is begun at most once*: it holds the home's term and a number that the term's only leader counts (`begun_once`).
//! 2. *A decision to commit is the `Decide` entry, and nothing else is*. No node hears of it before it is committed in the home's
//!    log (`decision`).
//! 3. *Abort is presumed, and needs no record.* The coordinator of an id exists only in the leader of the id's term. While it
//!    works on the id it answers "open". When it has given up, it never proposes the decision. A later leader that has applied
//!    the first entry of its own term has all that was and ever will be committed of earlier terms. If no `Decide` is among it,
//!    there will never be one. So the new term's first entry is the abort of everything undecided, and the answer "aborted" is
//!    final whichever node gives it, however late it arrives (`presumed_abort`).
//! 4. *A commit is remembered until every participant has said that its own entry of it is committed* (`ended` is logged after
//!    that). So no participant that is still prepared is told "unknown, so aborted" (`remembered`).
//! 5. *A participant never decides.* It asks (`decision`).
//! 6. *The home's locks may be volatile*: the only leader that could lose them is the only one that could have decided, and loses
//!    that, too. Their writes stand in the decision itself, evaluated under the locks (`home_locks`).
//! 7. *Late copies.* A prepare names a *floor*: all attempts of the home up to it are over, but for those that the prepare names
//!    as open, far below. The participant refuses what is over, and remembers what became of the rest (`late_copies`).
//!
//! # What relaxed syncing may lose
//!
//! A participant whose majority loses power may lose a prepare that it voted for, or its knowledge of a decision; a home may lose
//! a decision that was told. Then a transaction is done in part: what the setting gives up (the last interval). But nothing is
//! stuck. A prepared participant asks, and is told what the home knows. A participant that is told of a commit and has lost its
//! prepare says so, which is counted (`transactions_lost`).
//!
//! # One round instead of two?
//!
//! A parallel commit (Taft et al., "CockroachDB: the resilient geo-distributed SQL database", 2020, section 3.2) would answer
//! after the votes, the decision being implied by them. It was not chosen. With the home as last agent the second round is one
//! record in one group, whose batch and sync are shared with everything else on the node. What one round would save in latency it
//! would add in records: the home would have to log a staging record and the outcome. It would add to recovery as well: a
//! participant that asks would have to query every other and block it from voting.
//!
//! # Tokens
//!
//! With an idempotency token, the answer is part of the decision, a refusal by condition, too; so the same token meets its answer
//! at the same home under any leader. It is kept for [`TOKEN_LIFETIME`], counted in entries of the log (`state/tokens.rs`):
//! clocks that are set do not matter. A client that has its answer, and has asked once only, will not ask again: it releases the
//! token, and an entry that others share ends it. A home that remembers as many as it may takes no new one, since none may go
//! before its time; what comes without a token goes on, and so an interactive transaction is tried without its own.

use crate::actor::{Actor, Context, Origin, Outbox, TimerKind};
use crate::base::cache::Lent;
use crate::base::limits::{Limits, OPEN_NAMED_MAX, TRANSACTION_SIZE_MAX};
use crate::base::{Duration, GroupId, Index, Key, Sometimes, Term, Time, Version};
use crate::msg::client::{Doubt, ResponseBody};
use crate::msg::codec::Blob;
use crate::msg::operation::Rejection;
use crate::msg::peer::{Outcome, Task};
use crate::msg::transaction::{
    Age, Attempt, Decision, Ending, Failure, FailureReason, ItemAt, ItemResult, Preparation, ResultAt, TokenRecord, Transaction,
    TransactionAnswer, TransactionId, TransactionReport, TransactionState, Vote,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

#[cfg(doc)]
use crate::base::limits::TOKEN_LIFETIME;

/// How long ends wait for a decision that takes them along, before they are logged by themselves.
const END_AFTER: Duration = Duration::from_millis(200);
/// The same for what was too much for one entry.
const END_MORE_AFTER: Duration = Duration::from_millis(10);
/// How far below the newest attempt the lowest open one may lie before it is named.
const FLOOR_SPAN: u64 = 1_024;
/// How long a participant that could not be told of a commit is left alone.
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// For how long one request to a participant goes on before it is made anew.
const ASK_FOR: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum In {
    Begin(Begin),
    /// A participant asks what was decided.
    Inquire(Origin, TransactionId),
    /// This node leads the home, and all of earlier terms is applied.
    Ready(Term),
    Deposed,
    Paused(bool),
    /// What came of [`Out::Hold`].
    Held(TransactionId, Vote),
    /// The decision cannot be logged here any more, and never will be.
    NotDecided(TransactionId),
    /// An answer to [`Out::Ask`], by its tag.
    Answer(u64, Outcome),
    /// A decision was committed (on any replica).
    Decided(Index, Decision),
    /// Transactions are over, and tokens (on any replica).
    Ended(Ending),
    Timer,
}

/// A client's transaction.
#[derive(Debug)]
pub struct Begin {
    pub origin: Origin,
    pub age: Age,
    pub transaction: Transaction,
    /// The term that it is meant for, if one is named.
    pub term: Option<Term>,
    pub deadline: Time,
    /// Whether the node has room for another token.
    pub takes_tokens: bool,
}

#[derive(Debug)]
pub enum Out {
    Answer(Origin, Outcome),
    /// For the home's store: evaluate and lock the home's own items, until the deadline at the latest.
    Hold(Preparation, Time),
    /// For the home's store: the transaction is given up.
    Release(TransactionId),
    /// For the home's store: log the decision.
    Decide(Decision),
    /// For the home's store: log the end.
    End(Ending),
    /// For the leader of another group. May be repeated.
    Ask {
        tag: u64,
        group: GroupId,
        task: Task,
        deadline: Time,
    },
}

#[derive(Debug)]
pub struct Coordinator {
    group: GroupId,
    partitions: u32,
    leading: Option<Leading>,
    next_tag: u64,
    pub counters: Counters,
}

/// How often things happened since boot.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counters {
    pub begun: u64,
    pub committed: u64,
    pub conflicts: u64,
    pub aborted: u64,
    /// Commits of which a participant had lost its part.
    pub lost: u64,
}

/// A commit that participants are told of: one of the state's decisions.
#[derive(Debug)]
struct Commit {
    parties: Vec<GroupId>,
    /// The participants that have not said that they know. A new leader asks all again.
    unaware: BTreeSet<GroupId>,
    /// When this leader knew of it.
    since: Time,
}

impl Commit {
    fn new(parties: Vec<GroupId>, since: Time) -> Commit {
        Commit { unaware: parties.iter().copied().collect(), parties, since }
    }
}

#[derive(Debug)]
struct Leading {
    term: Term,
    /// Of the next attempt.
    number: u64,
    paused: bool,
    active: BTreeMap<u64, Active>,
    /// Committed, and not known to be over.
    commits: BTreeMap<Attempt, Commit>,
    /// Tokens of `active`.
    tokens: BTreeSet<Bytes>,
    deadlines: BTreeSet<(Time, u64)>,
    asks: BTreeMap<u64, (Attempt, GroupId, Asked)>,
    /// Known to every participant, not yet logged so.
    ended: Vec<TransactionId>,
    /// Tokens that their clients have released, not yet logged so.
    released: BTreeSet<Bytes>,
    end_at: Option<Time>,
    /// When time has passed for tokens.
    tick_at: Option<Time>,
    /// The participants that could not be told, and when to retry.
    tell_again: Vec<(Attempt, GroupId)>,
    tell_at: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Prepare,
    Commit,
    Abort,
}

/// An attempt at a transaction that is not decided.
#[derive(Debug)]
struct Active {
    origin: Origin,
    age: Age,
    began: Time,
    deadline: Time,
    /// The home's own items, until they are handed to the store.
    own: Vec<ItemAt>,
    own_writes: Vec<u32>,
    /// What each participant is asked to prepare, until it is.
    parties: BTreeMap<GroupId, Vec<ItemAt>>,
    /// Participants whose votes are awaited.
    awaited: BTreeSet<GroupId>,
    results: Vec<ItemResult>,
    /// Leave to hold the values among them.
    lent: Vec<Lent>,
    /// With the transaction's fingerprint.
    token: Option<(Bytes, u64)>,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The home's own items are evaluated.
    Holding,
    /// Participants vote.
    Preparing,
    /// The decision is in flight.
    Deciding,
    /// What the token answers is in flight.
    Refusing(Vec<Failure>),
}

impl Coordinator {
    pub fn new(group: GroupId, partitions: u32) -> Coordinator {
        Coordinator { group, partitions, leading: None, next_tag: 0, counters: Counters::default() }
    }

    /// Whether no transaction is open. What is decided and not over, the state knows.
    pub fn is_idle(&self) -> bool {
        self.leading.as_ref().is_none_or(|leading| leading.active.is_empty())
    }

    /// Every caller that this coordinator will answer.
    pub fn callers(&self) -> impl Iterator<Item = Origin> {
        self.leading.iter().flat_map(|leading| leading.active.values()).map(|active| active.origin)
    }

    /// The attempts whose own items are being evaluated, and those whose own items are locked while participants vote.
    pub fn holding(&self) -> (BTreeSet<TransactionId>, BTreeSet<TransactionId>) {
        let Some(leading) = &self.leading else { return (BTreeSet::new(), BTreeSet::new()) };
        let id = |number: u64| self.id(Attempt { term: leading.term, number });
        let of = |phase: Phase| {
            let those = leading.active.iter().filter(move |(_, active)| active.phase == phase);
            those.map(move |(number, _)| id(*number)).collect()
        };
        (of(Phase::Holding), of(Phase::Preparing))
    }

    /// The questions to other groups, by their tags.
    pub fn asks(&self) -> impl Iterator<Item = u64> {
        self.leading.iter().flat_map(|leading| leading.asks.keys().copied())
    }

    fn id(&self, attempt: Attempt) -> TransactionId {
        TransactionId { home: self.group, attempt }
    }

    fn group_of(&self, key: &Key) -> GroupId {
        key.partition(self.partitions).group()
    }

    fn on_begin(&mut self, cx: &Context<'_>, begin: Begin, out: &mut Outbox<Out>) {
        let Begin { origin, term, ref transaction, takes_tokens, .. } = begin;
        let Some(leading) = self.leading.as_mut().filter(|l| !l.paused && term.is_none_or(|term| term == l.term)) else {
            out.push(Out::Answer(origin, Outcome::NotLeader { leader: None }));
            return;
        };
        let body = if transaction.is_release() {
            if let Some(token) = transaction.token.as_ref().filter(|token| cx.state.tokens().has(token)) {
                leading.released.insert(Bytes::copy_from_slice(token));
                leading.end_at.get_or_insert(cx.now + END_AFTER);
            }
            Some(ResponseBody::Transacted(Vec::new()))
        } else if leading.active.len() + leading.commits.len() >= cx.limits.transactions_per_home {
            Some(ResponseBody::Rejected(Rejection::Overloaded))
        } else if let Some(token) = &transaction.token {
            match cx.state.tokens().answer(token, transaction.fingerprint()) {
                Some(body) => {
                    Sometimes::TokenAnswered.reached();
                    Some(body)
                }
                None if leading.tokens.contains(token) => {
                    Sometimes::TokenInUse.reached();
                    Some(ResponseBody::NotCommitted(vec![Failure { item: 0, reason: FailureReason::Conflict }]))
                }
                None if !takes_tokens || cx.state.tokens().is_full(leading.tokens.len(), cx.limits) => {
                    Some(ResponseBody::Rejected(Rejection::TooManyTokens))
                }
                None => None,
            }
        } else {
            None
        };
        if let Some(body) = body {
            out.push(Out::Answer(origin, Outcome::Answer(body)));
            return;
        }
        self.begin(cx, begin, out);
    }

    fn begin(&mut self, cx: &Context<'_>, begin: Begin, out: &mut Outbox<Out>) {
        let Begin { origin, age, transaction, deadline, .. } = begin;
        let fingerprint = transaction.token.is_some().then(|| transaction.fingerprint());
        let (mut own, mut own_writes) = (Vec::new(), Vec::new());
        let mut parties: BTreeMap<GroupId, Vec<ItemAt>> = BTreeMap::new();
        let results = vec![ItemResult::default(); transaction.items.len()];
        for (position, item) in (0..).zip(transaction.items) {
            let group = self.group_of(&item.key);
            if group == self.group {
                if item.is_write() {
                    own_writes.push(position);
                }
                own.push(ItemAt { position, item });
            } else {
                parties.entry(group).or_default().push(ItemAt { position, item });
            }
        }
        let Some(leading) = &mut self.leading else { return };
        leading.number += 1;
        let number = leading.number;
        let token = transaction.token.zip(fingerprint);
        if let Some((token, _)) = &token {
            leading.tokens.insert(token.clone());
        }
        self.counters.begun += 1;
        leading.deadlines.insert((deadline, number));
        let (awaited, lent) = (BTreeSet::new(), Vec::new());
        let phase = if own.is_empty() { Phase::Preparing } else { Phase::Holding };
        let active =
            Active { origin, age, began: cx.now, deadline, own, own_writes, parties, awaited, results, lent, token, phase };
        leading.active.insert(number, active);
        self.hold(cx, number, out);
    }

    /// Has the home's own items evaluated; without any, goes on to the participants.
    fn hold(&mut self, cx: &Context<'_>, number: u64, out: &mut Outbox<Out>) {
        let (floor, open) = self.floor();
        let Some(leading) = &mut self.leading else { return };
        let Some(active) = leading.active.get_mut(&number) else { return };
        if active.phase == Phase::Preparing {
            self.prepare(cx, number, out);
            return;
        }
        let items = std::mem::take(&mut active.own);
        let id = TransactionId { home: self.group, attempt: Attempt { term: leading.term, number } };
        let preparation = Preparation { id, age: active.age, floor, parties: Vec::new(), items, open };
        out.push(Out::Hold(preparation, active.deadline));
    }

    /// All attempts up to the first are over, but for those named. Those far below the newest are named, lest one that is stuck
    /// keep the floor down: what is above it others remember.
    fn floor(&self) -> (Attempt, Vec<Attempt>) {
        let Some(leading) = &self.leading else { return (Attempt::FIRST, Vec::new()) };
        let term = leading.term;
        let active = || leading.active.keys().map(|number| Attempt { term, number: *number });
        let before = |attempt: Attempt| Attempt { number: attempt.number.saturating_sub(1), ..attempt };
        let far = Attempt { term, number: leading.number.saturating_sub(FLOOR_SPAN) };
        match leading.commits.keys().next().copied().into_iter().chain(active().next()).min() {
            None => return (Attempt { term, number: leading.number }, Vec::new()),
            Some(lowest) if before(lowest) >= far => return (before(lowest), Vec::new()),
            Some(_) => {}
        }
        let decided = leading.commits.keys().copied().take_while(|attempt| *attempt <= far).take(OPEN_NAMED_MAX + 1);
        let active = active().take_while(|attempt| *attempt <= far).take(OPEN_NAMED_MAX + 1);
        let mut open: Vec<Attempt> = decided.chain(active).collect();
        open.sort_unstable();
        if open.len() > OPEN_NAMED_MAX {
            let floor = before(open[OPEN_NAMED_MAX]);
            open.truncate(OPEN_NAMED_MAX);
            return (floor, open);
        }
        (far, open)
    }

    fn on_held(&mut self, cx: &Context<'_>, id: TransactionId, vote: Vote, out: &mut Outbox<Out>) {
        let Some(active) = self.active(id) else {
            // Given up meanwhile.
            Sometimes::HeldAfterGivenUp.reached();
            out.push(Out::Release(id));
            return;
        };
        match vote {
            Vote::Yes(results) => match active.take(cx, results) {
                Ok(()) => {
                    assert_eq!(active.phase, Phase::Holding, "the home's own part is evaluated once");
                    active.phase = Phase::Preparing;
                    self.prepare(cx, id.attempt.number, out);
                }
                Err(why) => self.abort(cx, id, Outcome::Answer(ResponseBody::Rejected(why)), out),
            },
            Vote::No(failures) => self.refuse(cx, id, failures, out),
            Vote::Rejected(why) => self.abort(cx, id, Outcome::Answer(ResponseBody::Rejected(why)), out),
        }
    }

    fn active(&mut self, id: TransactionId) -> Option<&mut Active> {
        let leading = self.leading.as_mut().filter(|leading| leading.term == id.attempt.term)?;
        leading.active.get_mut(&id.attempt.number).filter(|active| matches!(active.phase, Phase::Holding | Phase::Preparing))
    }

    /// Asks every participant to prepare; without any, decides.
    fn prepare(&mut self, cx: &Context<'_>, number: u64, out: &mut Outbox<Out>) {
        let (floor, open) = self.floor();
        let Some(leading) = &mut self.leading else { return };
        let Some(active) = leading.active.get_mut(&number) else { return };
        let attempt = Attempt { term: leading.term, number };
        let id = TransactionId { home: self.group, attempt };
        let parties: Vec<GroupId> = active.parties.keys().copied().collect();
        active.awaited = parties.iter().copied().collect();
        let (age, deadline) = (active.age, active.deadline);
        let items: Vec<Vec<ItemAt>> = active.parties.values_mut().map(std::mem::take).collect();
        for (group, items) in parties.iter().zip(items) {
            let task = Task::Prepare(Preparation { id, age, floor, parties: parties.clone(), items, open: open.clone() });
            self.ask(attempt, *group, Asked::Prepare, task, deadline, out);
        }
        self.decide_if_all_voted(cx, number, out);
    }

    fn decide_if_all_voted(&mut self, cx: &Context<'_>, number: u64, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        let Some(active) = leading.active.get_mut(&number).filter(|active| active.awaited.is_empty()) else { return };
        assert_eq!(active.phase, Phase::Preparing, "an attempt is decided once, when all have voted");
        active.phase = Phase::Deciding;
        let results = &active.results;
        let token = active.token.clone().map(|(token, contents)| TokenRecord {
            token,
            contents,
            answer: TransactionAnswer::Committed(results.clone()),
        });
        let parties = active.parties.keys().copied().collect();
        let id = TransactionId { home: self.group, attempt: Attempt { term: leading.term, number } };
        let ended = first_of(&mut leading.ended, cx.limits);
        if leading.ended.is_empty() && leading.released.is_empty() {
            leading.end_at = None;
        }
        out.push(Out::Decide(Decision { id, commit: true, parties, ended, token }));
    }

    /// Conditions or conflicts stand in the way. A refusal that a retry would not change is kept for the token.
    fn refuse(&mut self, cx: &Context<'_>, id: TransactionId, failures: Vec<Failure>, out: &mut Outbox<Out>) {
        let conflict = failures.is_empty() || failures.iter().any(|failure| failure.reason == FailureReason::Conflict);
        self.counters.conflicts += u64::from(conflict);
        let Some(active) = self.active(id) else { return };
        let Some((token, contents)) = active.token.clone().filter(|_| !conflict) else {
            // An empty list: a participant that cannot say any more why. A retry will tell.
            let failures =
                if failures.is_empty() { vec![Failure { item: 0, reason: FailureReason::Conflict }] } else { failures };
            self.abort(cx, id, Outcome::Answer(ResponseBody::NotCommitted(failures)), out);
            return;
        };
        Sometimes::RefusalKeptForToken.reached();
        active.phase = Phase::Refusing(failures.clone());
        self.release(cx, id, out);
        let answer = TransactionAnswer::NotCommitted(failures);
        let token = Some(TokenRecord { token, contents, answer });
        out.push(Out::Decide(Decision { id, commit: false, parties: Vec::new(), ended: Vec::new(), token }));
    }

    /// Gives an attempt up, and says so. From here on it is aborted, whichever participant asks.
    fn abort(&mut self, cx: &Context<'_>, id: TransactionId, answer: Outcome, out: &mut Outbox<Out>) {
        self.release(cx, id, out);
        self.counters.aborted += 1;
        if let Some(active) = self.remove(id.attempt) {
            out.push(Out::Answer(active.origin, answer));
        }
    }

    /// Tells every group that may hold a lock for the attempt to let go. If the message is lost, the group will ask.
    fn release(&mut self, cx: &Context<'_>, id: TransactionId, out: &mut Outbox<Out>) {
        out.push(Out::Release(id));
        let Some(leading) = &self.leading else { return };
        let Some(active) = leading.active.get(&id.attempt.number) else { return };
        // Until they were asked their items are here.
        let asked = active.parties.iter().filter(|(_, items)| items.is_empty()).map(|(group, _)| *group);
        for group in asked.collect::<Vec<GroupId>>() {
            self.ask(id.attempt, group, Asked::Abort, Task::Resolve { id, commit: false }, cx.now + ASK_FOR, out);
        }
    }

    fn remove(&mut self, attempt: Attempt) -> Option<Active> {
        let leading = self.leading.as_mut().filter(|leading| leading.term == attempt.term)?;
        let active = leading.active.remove(&attempt.number)?;
        leading.deadlines.remove(&(active.deadline, attempt.number));
        if let Some((token, _)) = &active.token {
            leading.tokens.remove(token);
        }
        Some(active)
    }

    fn on_answer(&mut self, cx: &Context<'_>, tag: u64, outcome: Outcome, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        let Some((attempt, group, asked)) = leading.asks.remove(&tag) else { return };
        let id = TransactionId { home: self.group, attempt };
        match (asked, outcome) {
            (Asked::Prepare, outcome) => self.on_voted(cx, id, group, outcome, out),
            (Asked::Commit, Outcome::Resolved) => self.on_aware(cx.now, attempt, group),
            (Asked::Commit, Outcome::Lost) => {
                self.counters.lost += 1;
                self.on_aware(cx.now, attempt, group);
            }
            // Until it says that it knows.
            (Asked::Commit, _) => {
                Sometimes::CommitToldAgain.reached();
                leading.tell_again.push((attempt, group));
                leading.tell_at.get_or_insert(cx.now + TELL_AGAIN_AFTER);
            }
            (Asked::Abort, _) => {}
        }
    }

    fn on_voted(&mut self, cx: &Context<'_>, id: TransactionId, group: GroupId, outcome: Outcome, out: &mut Outbox<Out>) {
        let Some(active) = self.active(id) else {
            Sometimes::VoteAfterEnd.reached();
            return;
        };
        match outcome {
            Outcome::Voted(Vote::Yes(results)) => {
                active.awaited.remove(&group);
                match active.take(cx, results) {
                    Ok(()) => self.decide_if_all_voted(cx, id.attempt.number, out),
                    Err(why) => self.abort(cx, id, Outcome::Answer(ResponseBody::Rejected(why)), out),
                }
            }
            Outcome::Voted(Vote::No(failures)) => self.refuse(cx, id, failures, out),
            Outcome::Voted(Vote::Rejected(why)) | Outcome::Answer(ResponseBody::Rejected(why)) => {
                self.abort(cx, id, Outcome::Answer(ResponseBody::Rejected(why)), out);
            }
            _ => self.abort(cx, id, Outcome::Answer(ResponseBody::Rejected(Rejection::NoLeader)), out),
        }
    }

    /// Tells a participant that the transaction is committed.
    fn tell(&mut self, now: Time, attempt: Attempt, group: GroupId, out: &mut Outbox<Out>) {
        let task = Task::Resolve { id: self.id(attempt), commit: true };
        self.ask(attempt, group, Asked::Commit, task, now + ASK_FOR, out);
    }

    fn ask(&mut self, attempt: Attempt, group: GroupId, asked: Asked, task: Task, deadline: Time, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        self.next_tag += 1;
        leading.asks.insert(self.next_tag, (attempt, group, asked));
        out.push(Out::Ask { tag: self.next_tag, group, task, deadline });
    }

    /// A participant has the decision in its log, committed.
    fn on_aware(&mut self, now: Time, attempt: Attempt, group: GroupId) {
        let commit = self.leading.as_mut().and_then(|leading| leading.commits.get_mut(&attempt));
        let Some(commit) = commit else { return };
        commit.unaware.remove(&group);
        if commit.unaware.is_empty() {
            self.on_all_aware(now, attempt);
        }
    }

    fn on_all_aware(&mut self, now: Time, attempt: Attempt) {
        let id = self.id(attempt);
        if let Some(leading) = &mut self.leading {
            leading.ended.push(id);
            leading.end_at.get_or_insert(now + END_AFTER);
        }
    }

    /// A participant is in doubt. What is neither open nor committed is aborted, for ever (3, above).
    fn on_inquire(&self, origin: Origin, id: TransactionId, out: &mut Outbox<Out>) {
        let outcome = match &self.leading {
            Some(leading) if id.home == self.group && id.attempt.term <= leading.term => {
                let open = id.attempt.term == leading.term && leading.active.contains_key(&id.attempt.number);
                let committed = leading.commits.contains_key(&id.attempt);
                Sometimes::InquiryOfOpen.when(open);
                Sometimes::InquiryOfCommitted.when(committed);
                Sometimes::InquiryAnsweredByPresumption.when(!open && !committed);
                if leading.commits.contains_key(&id.attempt) {
                    Outcome::Decided(Some(true))
                } else {
                    Outcome::Decided(if open { None } else { Some(false) })
                }
            }
            _ => Outcome::NotLeader { leader: None },
        };
        out.push(Out::Answer(origin, outcome));
    }

    fn on_not_decided(&mut self, cx: &Context<'_>, id: TransactionId, out: &mut Outbox<Out>) {
        self.release(cx, id, out);
        if let Some(active) = self.remove(id.attempt) {
            Sometimes::NotDecidedWhileHandedOver.reached();
            out.push(Out::Answer(active.origin, Outcome::NotLeader { leader: None }));
        }
    }

    fn on_ended(&mut self, ended: &[TransactionId]) {
        let Some(leading) = &mut self.leading else { return };
        ended.iter().for_each(|id| _ = leading.commits.remove(&id.attempt));
    }

    fn on_decided(&mut self, cx: &Context<'_>, index: Index, decided: Decision, out: &mut Outbox<Out>) {
        let Decision { id: TransactionId { attempt, .. }, commit, parties, ended, token } = decided;
        self.on_ended(&ended);
        if let Some(leading) = &mut self.leading {
            if commit && !parties.is_empty() {
                leading.commits.insert(attempt, Commit::new(parties.clone(), cx.now));
            }
            if token.is_some() {
                leading.tick_at.get_or_insert(cx.now + cx.limits.token_tick());
            }
        }
        // An earlier term's: its client was told that it is unknown, its participants are told when this leader is ready.
        let Some(active) = self.remove(attempt) else { return };
        assert_eq!(active.phase == Phase::Deciding, commit, "what is committed is what was decided");
        let body = match active.phase {
            Phase::Refusing(failures) => ResponseBody::NotCommitted(failures),
            _ => {
                self.counters.committed += 1;
                let mut results = active.results;
                active.own_writes.iter().for_each(|position| results[*position as usize].version = Version(index.0));
                ResponseBody::Transacted(results)
            }
        };
        out.push(Out::Answer(active.origin, Outcome::Answer(body)));
        parties.into_iter().for_each(|group| self.tell(cx.now, attempt, group, out));
    }

    fn on_ready(&mut self, cx: &Context<'_>, term: Term, out: &mut Outbox<Out>) {
        let commits = cx.state.decisions().iter().map(|(attempt, parties)| (*attempt, Commit::new(parties.clone(), cx.now)));
        let commits: BTreeMap<Attempt, Commit> = commits.collect();
        Sometimes::CommitsTakenOver.when(!commits.is_empty());
        let all: Vec<(Attempt, GroupId)> =
            commits.iter().flat_map(|(attempt, commit)| commit.parties.iter().map(|group| (*attempt, *group))).collect();
        self.leading = Some(Leading {
            term,
            number: 0,
            paused: false,
            active: BTreeMap::new(),
            commits,
            tokens: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            asks: BTreeMap::new(),
            ended: Vec::new(),
            released: BTreeSet::new(),
            end_at: None,
            tick_at: (!cx.state.tokens().is_empty()).then_some(cx.now + cx.limits.token_tick()),
            tell_again: Vec::new(),
            tell_at: None,
        });
        all.into_iter().for_each(|(attempt, group)| self.tell(cx.now, attempt, group, out));
    }

    fn on_deposed(&mut self, out: &mut Outbox<Out>) {
        let Some(leading) = self.leading.take() else { return };
        for active in leading.active.into_values() {
            Sometimes::DeposedUndecided.when(matches!(active.phase, Phase::Holding | Phase::Preparing));
            Sometimes::DeposedWhileDeciding.when(active.phase == Phase::Deciding);
            let outcome = match active.phase {
                // No leader will ever decide it: the client's gateway begins another attempt.
                Phase::Holding | Phase::Preparing => Outcome::NotLeader { leader: None },
                // Of a refusal the token must not answer otherwise later.
                Phase::Deciding | Phase::Refusing(_) => Outcome::Answer(ResponseBody::Unknown(Doubt::LeadershipLost)),
            };
            out.push(Out::Answer(active.origin, outcome));
        }
    }

    fn on_paused(&mut self, now: Time, paused: bool) {
        let Some(leading) = &mut self.leading else { return };
        leading.paused = paused;
        if !paused {
            // Ends that were to be logged while nothing could be.
            Sometimes::EndsHeldBackByTransfer.when(!leading.ended.is_empty());
            leading.ended.clear();
            if !leading.released.is_empty() {
                leading.end_at.get_or_insert(now + END_AFTER);
            }
            let ended: Vec<Attempt> =
                leading.commits.iter().filter(|(_, commit)| commit.unaware.is_empty()).map(|(attempt, _)| *attempt).collect();
            ended.into_iter().for_each(|attempt| self.on_all_aware(now, attempt));
        }
    }

    fn on_timer(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        let (mut late, term) = (Vec::new(), leading.term);
        while let Some((at, number)) = leading.deadlines.first().copied().filter(|(at, _)| *at <= cx.now) {
            leading.deadlines.remove(&(at, number));
            late.push(number);
        }
        for number in late {
            let id = self.id(Attempt { term, number });
            if self.active(id).is_some() {
                Sometimes::TransactionTooLate.reached();
                self.abort(cx, id, Outcome::Answer(ResponseBody::Rejected(Rejection::DeadlineExceeded)), out);
            }
        }
        let Some(leading) = &mut self.leading else { return };
        if leading.tell_at.is_some_and(|at| at <= cx.now) {
            leading.tell_at = None;
            let again = std::mem::take(&mut leading.tell_again);
            again.into_iter().for_each(|(attempt, group)| self.tell(cx.now, attempt, group, out));
        }
        let Some(leading) = self.leading.as_mut().filter(|leading| !leading.paused) else { return };
        let tick = leading.tick_at.is_some_and(|at| at <= cx.now);
        if tick {
            leading.tick_at = (!cx.state.tokens().is_empty()).then_some(cx.now + cx.limits.token_tick());
        }
        if leading.end_at.is_some_and(|at| at <= cx.now) || tick {
            let ended = first_of(&mut leading.ended, cx.limits);
            let mut expired = Vec::new();
            while expired.len() < cx.limits.ended_per_entry
                && let Some(token) = leading.released.pop_first()
            {
                expired.push(Blob(token));
            }
            let more = !leading.ended.is_empty() || !leading.released.is_empty();
            leading.end_at = more.then_some(cx.now + END_MORE_AFTER);
            out.push(Out::End(Ending { ended, expired, tick }));
        }
    }

    /// What is in progress here, for `ringseed txns`: what is locked at the home is for the node to fill in.
    pub fn transactions(&self, now: Time) -> Vec<TransactionReport> {
        let report = |attempt, since, state, parties| TransactionReport {
            id: self.id(attempt),
            age_ms: now.since(since).as_millis() as u64,
            group: self.group,
            state,
            parties,
            locks: 0,
        };
        let decided = self.leading.iter().flat_map(|leading| &leading.commits);
        let decided =
            decided.map(|(attempt, commit)| report(*attempt, commit.since, TransactionState::Committed, commit.parties.clone()));
        let active = self.leading.iter().flat_map(|leading| {
            leading.active.iter().map(|(number, active)| {
                let state = match active.phase {
                    Phase::Holding | Phase::Preparing => TransactionState::Preparing,
                    Phase::Deciding | Phase::Refusing(_) => TransactionState::Deciding,
                };
                report(
                    Attempt { term: leading.term, number: *number },
                    active.began,
                    state,
                    active.parties.keys().copied().collect(),
                )
            })
        });
        decided.chain(active).collect()
    }
}

/// As many as one entry takes.
fn first_of(ended: &mut Vec<TransactionId>, limits: &Limits) -> Vec<TransactionId> {
    let rest = ended.split_off(ended.len().min(limits.ended_per_entry));
    std::mem::replace(ended, rest)
}

impl Active {
    /// Takes what came with a vote. The values that were read are held until the decision: as many as one transaction may read,
    /// and as all of the node may.
    fn take(&mut self, cx: &Context<'_>, taken: Vec<ResultAt>) -> Result<(), Rejection> {
        let read = bytes_read(taken.iter().map(|taken| &taken.result));
        if read > 0 {
            self.lent.push(cx.cache.lend_for_vote(read).ok_or(Rejection::Overloaded)?);
        }
        for ResultAt { position, result } in taken {
            // A position beyond the end is a peer's mistake.
            if let Some(slot) = self.results.get_mut(position as usize) {
                *slot = result;
            }
        }
        if bytes_read(&self.results) > TRANSACTION_SIZE_MAX { Err(Rejection::TooLarge) } else { Ok(()) }
    }
}

/// Bytes of what was read.
fn bytes_read<'a>(results: impl IntoIterator<Item = &'a ItemResult>) -> usize {
    results.into_iter().filter_map(|result| result.value.as_ref()).map(Bytes::len).sum()
}

impl Actor for Coordinator {
    type In = In;
    type Out = Out;

    fn handle(&mut self, cx: &mut Context<'_>, input: In, out: &mut Outbox<Out>) {
        match input {
            In::Begin(begin) => self.on_begin(cx, begin, out),
            In::Inquire(origin, id) => self.on_inquire(origin, id, out),
            In::Ready(term) => self.on_ready(cx, term, out),
            In::Deposed => self.on_deposed(out),
            In::Paused(paused) => self.on_paused(cx.now, paused),
            In::Held(id, vote) => self.on_held(cx, id, vote, out),
            In::NotDecided(id) => self.on_not_decided(cx, id, out),
            In::Answer(tag, outcome) => self.on_answer(cx, tag, outcome, out),
            In::Decided(index, decided) => self.on_decided(cx, index, decided, out),
            In::Ended(ending) => self.on_ended(&ending.ended),
            In::Timer => self.on_timer(cx, out),
        }
    }

    fn deadline(&self) -> Option<(Time, TimerKind)> {
        let leading = self.leading.as_ref()?;
        let deadline = leading.deadlines.first().map(|(at, _)| *at);
        // While the leadership is handed over nothing is logged.
        let logged = [leading.end_at, leading.tick_at].into_iter().flatten().min().filter(|_| !leading.paused);
        [deadline, logged, leading.tell_at].into_iter().flatten().min().map(|at| (at, TimerKind::Replica(self.group)))
    }

    fn check(&self) {
        let Some(leading) = &self.leading else { return };
        for (number, active) in &leading.active {
            let attempt = Attempt { term: leading.term, number: *number };
            assert!(!leading.commits.contains_key(&attempt), "what is decided is not open");
            assert!(*number <= leading.number, "attempts are counted");
            assert!(active.awaited.iter().all(|group| active.parties.contains_key(group)), "only participants are waited for");
            let timed = leading.deadlines.contains(&(active.deadline, *number));
            match active.phase {
                Phase::Holding => assert!(timed, "an attempt that is evaluated has a deadline"),
                Phase::Preparing => {
                    assert!(timed && !active.awaited.is_empty(), "an attempt that waits for votes has a deadline");
                    let asked = |group: &GroupId| leading.asks.values().any(|ask| *ask == (attempt, *group, Asked::Prepare));
                    assert!(active.awaited.iter().all(asked), "each vote that is waited for is being asked for");
                }
                Phase::Deciding => assert!(active.awaited.is_empty(), "a decision has every vote"),
                Phase::Refusing(_) => {}
            }
        }
        assert!(leading.tell_again.is_empty() || leading.tell_at.is_some(), "participants that could not be told are told again");
        let ends = !leading.ended.is_empty() || !leading.released.is_empty();
        assert!(!ends || leading.end_at.is_some() || leading.paused, "ends are logged some day");
        for (attempt, group, asked) in leading.asks.values() {
            let told = leading.commits.get(attempt).is_none_or(|commit| commit.unaware.contains(group));
            assert!(*asked != Asked::Commit || told, "who knows is not told again");
        }
        for (attempt, commit) in &leading.commits {
            assert!(commit.unaware.iter().all(|group| commit.parties.contains(group)), "only participants are told");
            let asked = |group: &GroupId| {
                let asking = leading.asks.values().any(|(a, g, asked)| a == attempt && g == group && *asked == Asked::Commit);
                asking || leading.tell_again.contains(&(*attempt, *group))
            };
            assert!(commit.unaware.iter().all(asked), "who does not know is being told");
        }
    }
}

#[cfg(test)]
mod tests;
