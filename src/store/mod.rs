//! The evaluation of operations against the state of one partition ([`crate::state`]), which this actor alone changes, as entries
//! commit.
//!
//! # Evaluation
//!
//! The leader evaluates every operation once, against the *head* of its log: what is applied, plus the writes in flight before
//! it. What it proposes is the outcome ([`Fact`]). So operations on one key pipeline without waiting for each other's commit: if
//! an earlier entry is lost with the leadership, all later ones are lost too. An answer that depends on the log at index i is
//! given once i is committed.
//!
//! An operation that needs a value which is on the disk, or a lock that a transaction holds, waits in its key's queue
//! ([`queues`](self)), holding nothing; later writers of the key queue behind it. When its turn has come and the value is there
//! it is evaluated in one step, if its deadline has not passed. Reads do not queue: they see what is applied, and wait only while
//! a transaction is prepared to write what they ask for (`read.rs`).
//!
//! `queues.rs`: which waiter waits for which. `participant.rs`: what a group does for a transaction, as participant and as home.
//!
//! # What an answer waits for
//!
//! | answer | waits for |
//! |---|---|
//! | a write was done | the commit of its entry; with `all`, every voter's durable copy |
//! | a condition failed | the commit of what it was held against, *and* proof that this node led at evaluation or after |
//! | a read | proof that this node led when the read came or after; then the end of every transaction that is prepared to write it |
//! | a vote for a transaction | the commit of the prepare; a vote against it, what a failed condition waits for |
//! | a decision's acknowledgement | the commit of the participant's own entry of it |
//! | an eventual read | nothing |
//!
//! The proof (a lease, or a quorum round begun after the question) is the replica's business: `Out::Confirm`, `In::Confirmed`.
//!
//! # States
//!
//! Following (applies, serves eventual reads, turns the rest away) <-> leading (from `Led` to `Deposed`). What is in progress
//! when the leadership ends is answered: what was proposed is unknown, all else was certainly not begun.

mod evaluate;
mod participant;
mod queues;
mod read;

use crate::actor::{Actor, Committed, Context, Origin, Outbox, TimerKind};
use crate::base::{GroupId, Index, Key, Place, Sometimes, Term, Time, Version};
use crate::msg::client::{Doubt, ResponseBody};
use crate::msg::log::{Fact, FactSummary, ValuePlace};
use crate::msg::operation::{Acknowledge, Operation, Rejection, Single};
use crate::msg::peer::{Outcome, Task};
use crate::msg::transaction::{Decision, Ending, FailureReason, Preparation, TransactionId, Vote};
use crate::state::{LockMode, Locks, State};
use bytes::Bytes;
use evaluate::{Current, Evaluated, evaluate};
use participant::{Attended, Held, Preparing, Resolving};
use queues::{Intent, Pins, Queues};
use read::{Blocked, Gathering, Waiting};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug)]
pub enum In {
    /// Do this for `origin`, before the deadline; as leader in this term, if one is named.
    Task {
        origin: Origin,
        task: Task,
        term: Option<Term>,
        deadline: Time,
    },
    /// An entry was committed.
    Apply(Committed),
    /// This node leads; the next entry has this index.
    Led(Term, Index),
    Deposed,
    Paused(bool),
    /// Propose an entry that says nothing, if anything may be begun.
    Mark,
    /// The read or check with this tag may be answered: this node led when it was asked for, or after.
    Confirmed(u64),
    /// A value that was asked for, or why there is none.
    Value(u64, Result<Bytes, Rejection>),
    /// Every voter has everything up to here, durably.
    AllMatched(Index),
    /// From this group's coordinator: evaluate the home's own items, and lock them until [`In::Decide`] or [`In::Release`].
    Hold(Preparation, Time),
    /// The transaction is given up: its home's locks are free.
    Release(TransactionId),
    /// Log the decision.
    Decide(Decision),
    /// Log that these transactions are over, and these tokens.
    End(Ending),
    /// What the home of a prepared transaction says of it; `None`: ask again.
    Inquired(TransactionId, Option<bool>),
    Timer,
}

#[derive(Debug)]
pub enum Out {
    Propose {
        index: Index,
        term: Term,
        fact: Fact,
    },
    Confirm(u64),
    ReadValue(u64, ValuePlace),
    Answer(Origin, Outcome),
    /// Not every voter has acknowledged the entry in time: answer which have not.
    AnswerLacking(Origin, Index),
    WatchAll(Index),
    /// This node leads, and all of earlier terms is applied.
    Ready(Term),
    /// What came of [`In::Hold`]. The node's own coordinator need not wait for the commit: its decision comes later in the same
    /// log.
    Held(TransactionId, Vote),
    /// A decision could not be logged: this leader begins nothing any more. It never will be.
    NotDecided(TransactionId),
    /// A decision was committed, on every replica.
    Decided(Index, Decision),
    /// Transactions are over, and tokens, on every replica.
    Ended(Ending),
    /// Ask the transaction's home what was decided.
    Inquire(TransactionId),
}

#[derive(Debug)]
pub struct Store {
    group: GroupId,
    /// What the log has come to.
    state: State,
    leading: Option<Leading>,
    /// Transactions that are prepared and not resolved, with what is volatile of them.
    attended: BTreeMap<TransactionId, Attended>,
    /// Reads that wait for a prepared transaction, and the keys they wait for.
    blocked: BTreeMap<(Key, u64), Blocked>,
    /// When blocked reads give up, and prepared transactions are asked for.
    blocked_deadlines: BTreeSet<(Time, u64)>,
    inquiries: BTreeSet<(Time, TransactionId)>,
    /// Questions put to the replica (`Confirm`), by tag.
    confirming: BTreeMap<u64, Confirming>,
    /// Values asked for (`ReadValue`), by tag.
    waiting: BTreeMap<u64, Waiting>,
    /// Scans whose values are being read, by tag.
    gathering: BTreeMap<u64, Gathering>,
    next_tag: u64,
}

#[derive(Debug)]
struct Leading {
    term: Term,
    /// The index of the next proposal.
    next: Index,
    /// The leadership is being handed over: nothing new is begun.
    paused: bool,
    /// The first entry of the term. Until it is applied, the log holds entries of earlier terms that `head` knows nothing of: no
    /// write is evaluated.
    ready_at: Index,
    /// Writes that came before that.
    early: VecDeque<Parked>,
    /// What the entries in flight make of their keys.
    head: BTreeMap<Key, Head>,
    /// Answers of entries in flight, in order of index.
    pending: VecDeque<Pending>,
    /// Bytes of keys and values in flight.
    size: usize,
    /// Committed writes that wait for every voter, in order of index.
    awaiting_all: VecDeque<Pending>,
    /// The earliest deadline of `awaiting_all`, or an earlier time.
    awaiting_until: Time,
    /// Failed conditions, and the like, whose leadership is proven, by the entry they wait for.
    depending: BTreeMap<(Index, u64), Conclusion>,
    locks: Locks,
    queues: Queues,
    /// Waiters that are transactions.
    claims: BTreeMap<TransactionId, u64>,
    /// What this group's coordinator has locked here. Volatile: if it is lost, so is the only coordinator that could have
    /// decided.
    held: BTreeMap<TransactionId, Held>,
    /// Prepares in flight.
    preparing: BTreeMap<TransactionId, Preparing>,
    /// Resolutions in flight.
    resolving: BTreeMap<TransactionId, Resolving>,
    /// What was voted for transactions that are prepared and not resolved, for a coordinator that asks again.
    votes: BTreeMap<TransactionId, Vote>,
}

/// Why nothing is proposed now.
#[derive(Debug)]
enum NoRoom {
    /// This node has none: it was certainly not begun, and another leader will have.
    Here,
    Anywhere(Rejection),
}

#[derive(Debug)]
struct Head {
    version: Version,
    value: Option<Bytes>,
}

#[derive(Debug)]
struct Pending {
    index: Index,
    /// Which caller is told what once it is committed. A transaction's steps are answered where they are applied.
    reply: Option<(Origin, ResponseBody)>,
    acknowledge: Acknowledge,
    deadline: Time,
    size: usize,
}

/// A single write that is not evaluated yet.
#[derive(Debug)]
struct Parked {
    origin: Origin,
    operation: Operation,
    acknowledge: Acknowledge,
    deadline: Time,
}

/// What is to be done once it is certain that this node led.
#[derive(Debug)]
enum Confirming {
    Read {
        origin: Origin,
        task: Task,
        deadline: Time,
    },
    /// Nothing was written; what is told rests on the entry at `depends`.
    Check {
        conclusion: Conclusion,
        depends: Index,
    },
}

/// Which caller is told what when nothing was written.
#[derive(Debug)]
enum Conclusion {
    Answer(Origin, Outcome),
    /// A vote for this group's own coordinator.
    Held(TransactionId, Vote),
}

impl Store {
    /// Of a replica whose log has come to this state by now.
    pub fn new(group: GroupId, state: State, now: Time) -> Store {
        let attended = state.outcomes().prepared().keys().map(|id| (*id, Attended::since(now))).collect();
        Store {
            group,
            state,
            leading: None,
            attended,
            blocked: BTreeMap::new(),
            blocked_deadlines: BTreeSet::new(),
            inquiries: BTreeSet::new(),
            confirming: BTreeMap::new(),
            waiting: BTreeMap::new(),
            gathering: BTreeMap::new(),
            next_tag: 0,
        }
    }

    /// What the log has come to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The state that a follower has been sent takes the place of its own.
    pub fn install(&mut self, state: State, now: Time) {
        assert!(self.leading.is_none(), "a leader has the group's state");
        self.attended = state.outcomes().prepared().keys().map(|id| (*id, Attended::since(now))).collect();
        self.state = state;
    }

    /// Drops what is left of items up to the delete floor from a leaf of the index.
    pub fn forget_deleted(&mut self, fence: &[u8]) {
        self.state.forget_deleted(fence);
    }

    /// There is a copy of that leaf in the log, as it is now.
    pub fn copied(&mut self, fence: &[u8], place: Place) {
        self.state.copied(fence, place);
    }

    /// The log has a copy of a value: the item's value is there from now on, if it has lain at `from`.
    pub fn relocate(&mut self, key: &Key, from: Place, to: Place) -> bool {
        self.state.relocate(key, from, to)
    }

    /// Whether nothing is in progress, no lock is held and no transaction waits for its decision.
    pub fn is_idle(&self) -> bool {
        let at_rest = |l: &Leading| {
            l.early.is_empty()
                && l.pending.is_empty()
                && l.head.is_empty()
                && l.awaiting_all.is_empty()
                && l.depending.is_empty()
                && l.queues.is_empty()
                && l.locks.is_empty()
                && l.held.is_empty()
        };
        self.leading.as_ref().is_none_or(at_rest)
            && self.state.outcomes().prepared().is_empty()
            && self.state.decisions().is_empty()
            && self.blocked.is_empty()
            && self.confirming.is_empty()
            && self.waiting.is_empty()
            && self.gathering.is_empty()
    }

    fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    fn on_task(
        &mut self,
        cx: &mut Context<'_>,
        origin: Origin,
        task: Task,
        term: Option<Term>,
        deadline: Time,
        out: &mut Outbox<Out>,
    ) {
        if task.is_eventual() {
            self.read(cx, origin, &task, out);
            return;
        }
        let leads = self.leading.as_ref().is_some_and(|l| !l.paused && term.is_none_or(|term| term == l.term));
        if !leads {
            Sometimes::TaskWhileHandedOver.when(self.leading.as_ref().is_some_and(|l| l.paused));
            Sometimes::TaskForEarlierTerm.when(self.leading.as_ref().is_some_and(|l| term.is_some_and(|term| term < l.term)));
            out.push(Out::Answer(origin, Outcome::NotLeader { leader: None }));
            return;
        }
        match task {
            Task::Operation(single) if single.is_write() => {
                let Single { operation, acknowledge, .. } = single;
                self.on_write(cx, Parked { origin, operation, acknowledge, deadline }, out);
            }
            Task::Prepare(preparation) => self.on_prepare(cx, origin, preparation, deadline, out),
            Task::Resolve { id, commit } => self.on_resolve(cx, origin, id, commit, out),
            Task::Transact { .. } | Task::Inquire(_) => {
                reject(origin, Rejection::Invalid("this is for the coordinator".into()), out);
            }
            _ if self.confirming.len() + self.waiting.len() + self.blocked.len() >= cx.limits.reads_per_group => {
                reject(origin, Rejection::Overloaded, out);
            }
            read => {
                let tag = self.tag();
                self.confirming.insert(tag, Confirming::Read { origin, task: read, deadline });
                out.push(Out::Confirm(tag));
            }
        }
    }

    fn on_write(&mut self, cx: &mut Context<'_>, write: Parked, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        if leading.ready_at > self.state.applied() {
            if leading.early.len() >= cx.limits.parked_per_group {
                reject(write.origin, Rejection::Overloaded, out);
            } else {
                Sometimes::WriteBeforeFirstCommit.reached();
                leading.early.push_back(write);
            }
            return;
        }
        let key = &write.operation.key;
        let write = if leading.queues.has(key) || leading.locks.conflict(key, LockMode::Exclusive) {
            Sometimes::WriteWaitsForLock.reached();
            write
        } else {
            match self.evaluate(cx, write, &Pins::new(), out) {
                None => return,
                Some(write) => write,
            }
        };
        let (deadline, keys) = (write.deadline, vec![(write.operation.key.clone(), LockMode::Exclusive)]);
        self.wait_in_queues(cx, Intent::Write(Box::new(write)), keys, deadline, out);
    }

    /// The item at the head of the log, and the entry in flight that made it so; `pins` are values that were read for this.
    fn current(&self, cx: &mut Context<'_>, key: &Key, pins: &Pins) -> (Current, Index) {
        let leading = self.leading.as_ref().expect("operations are evaluated by a leader");
        match leading.head.get(key) {
            Some(head) => (
                Current { version: head.version, present: head.value.is_some(), value: head.value.clone() },
                Index(head.version.0),
            ),
            None => {
                let item = self.state.item(key);
                let known = item.value.and_then(|place| pins.get(&place.place).cloned().or_else(|| cx.cache.get(place.place)));
                (Current { version: item.version, present: item.value.is_some(), value: known }, Index::ZERO)
            }
        }
    }

    /// Evaluates a write at the head of the log. Gives it back if it lacks the item's value.
    fn evaluate(&mut self, cx: &mut Context<'_>, write: Parked, pins: &Pins, out: &mut Outbox<Out>) -> Option<Parked> {
        let (current, depends) = self.current(cx, &write.operation.key, pins);
        let refusal = match evaluate(&write.operation, &current) {
            Evaluated::NeedsValue => return Some(write),
            Evaluated::Write { value, number } => {
                self.propose(cx, value, number, write, out);
                return None;
            }
            Evaluated::Refused(FailureReason::Condition { version, present }) => {
                ResponseBody::ConditionFailed { version, present }
            }
            Evaluated::Refused(FailureReason::NotANumber) => ResponseBody::Rejected(Rejection::NotANumber),
            Evaluated::Keep | Evaluated::Refused(FailureReason::Conflict) => {
                unreachable!("a write without locks writes or is refused")
            }
        };
        self.conclude(Conclusion::Answer(write.origin, Outcome::Answer(refusal)), depends, out);
        None
    }

    /// Tells that nothing was written, once it is certain that this node led and what that rests on is committed.
    fn conclude(&mut self, conclusion: Conclusion, depends: Index, out: &mut Outbox<Out>) {
        Sometimes::RefusalRestsOnUncommitted.when(depends > self.state.applied());
        let tag = self.tag();
        self.confirming.insert(tag, Confirming::Check { conclusion, depends });
        out.push(Out::Confirm(tag));
    }

    /// Whether there is room for another proposal of this size, in bytes of keys and values. `values`: it brings new values, and
    /// so needs lasting room.
    ///
    /// While this node's disk is full, but a quorum has room, its leadership is about to move there: the caller is turned away,
    /// to be routed again. Where no quorum has room, deletes may still have some of the reserve: else the state could not be
    /// left.
    fn room(&self, cx: &Context<'_>, size: usize, values: bool) -> Result<(), NoRoom> {
        let leading = self.leading.as_ref().expect("only a leader proposes");
        if cx.quorum_has_room {
            if cx.room.is_full() {
                Sometimes::FullLeaderTurnsAway.reached();
                return Err(NoRoom::Here);
            }
        } else if values || !cx.room.takes_ending(size as u64) {
            Sometimes::QuorumWithoutRoom.reached();
            return Err(NoRoom::Anywhere(Rejection::DiskFull));
        } else {
            Sometimes::DeleteTakesReserve.when(cx.room.is_full());
        }
        if leading.pending.len() + leading.awaiting_all.len() >= cx.limits.uncommitted_entries
            || (leading.size > 0 && leading.size + size > cx.limits.uncommitted_bytes)
        {
            return Err(NoRoom::Anywhere(Rejection::Overloaded));
        }
        Ok(())
    }

    /// Proposes the next entry, of this many bytes of keys and values.
    fn append(
        &mut self,
        fact: Fact,
        size: usize,
        deadline: Time,
        reply: Option<(Origin, ResponseBody)>,
        acknowledge: Acknowledge,
        out: &mut Outbox<Out>,
    ) {
        let leading = self.leading.as_mut().expect("only a leader proposes");
        let index = leading.next;
        assert!(index > self.state.applied(), "what is proposed is not applied yet");
        leading.next = index.next();
        leading.size += size;
        leading.pending.push_back(Pending { index, reply, acknowledge, deadline, size });
        out.push(Out::Propose { index, term: leading.term, fact });
    }

    fn propose(&mut self, cx: &Context<'_>, value: Option<Bytes>, number: Option<i64>, write: Parked, out: &mut Outbox<Out>) {
        let Parked { origin, operation: Operation { key, .. }, acknowledge, deadline } = write;
        let leading = self.leading.as_mut().expect("writes are proposed by a leader");
        if leading.paused {
            // It was parked when the leadership began to be handed over: certainly not begun.
            Sometimes::WaiterEvaluatedWhileHandedOver.reached();
            out.push(Out::Answer(origin, Outcome::NotLeader { leader: None }));
            return;
        }
        let version = Version(leading.next.0);
        let size = key.size() + value.as_ref().map_or(0, Bytes::len);
        match self.room(cx, size, value.is_some()) {
            Ok(()) => {}
            Err(NoRoom::Here) => {
                out.push(Out::Answer(origin, Outcome::NotLeader { leader: None }));
                return;
            }
            Err(NoRoom::Anywhere(why)) => {
                reject(origin, why, out);
                return;
            }
        }
        if let Some(leading) = &mut self.leading {
            leading.head.insert(key.clone(), Head { version, value: value.clone() });
        }
        let reply = Some((origin, ResponseBody::Written { version, number }));
        self.append(Fact::Write { key, value }, size, deadline, reply, acknowledge, out);
    }

    fn on_apply(&mut self, cx: &mut Context<'_>, committed: Committed, out: &mut Outbox<Out>) {
        let Committed { index, fact } = committed;
        let resolved = match &fact {
            FactSummary::Transaction(step) => self.keys_resolved_by(step),
            _ => Vec::new(),
        };
        self.state.apply(index, &fact, &mut |old| cx.cache.remove(old.place));
        match &fact {
            FactSummary::Noop | FactSummary::Configuration(_) => {}
            FactSummary::Write { key, value } => self.after_write(cx, index, key, *value),
            FactSummary::Transaction(step) => self.after_step(cx, index, step, &resolved, out),
        }
        self.answer_committed(out);
        if let Some(leading) = self.leading.as_mut().filter(|l| l.ready_at == self.state.applied()) {
            let (term, early) = (leading.term, std::mem::take(&mut leading.early));
            Sometimes::LeaderBeginsWithPrepared.when(!self.state.outcomes().prepared().is_empty());
            self.lock_prepared(cx.now);
            out.push(Out::Ready(term));
            for write in early {
                self.on_write(cx, write, out);
            }
        }
    }

    /// Puts what the head knows of a key that was written into the cache.
    fn after_write(&mut self, cx: &mut Context<'_>, entry: Index, key: &Key, value: Option<ValuePlace>) {
        if let Some(leading) = &mut self.leading
            && leading.head.get(key).is_some_and(|head| head.version.0 == entry.0)
            && let (Some(place), Some(value)) = (value, leading.head.remove(key).and_then(|head| head.value))
        {
            cx.cache.insert(place.place, &value);
        }
    }

    fn answer_committed(&mut self, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        while let Some(pending) = leading.pending.pop_front_if(|pending| pending.index <= self.state.applied()) {
            leading.size -= pending.size;
            match pending.acknowledge {
                Acknowledge::Quorum => {
                    assert_eq!(pending.index, self.state.applied(), "an entry's answer leaves when that entry is applied");
                    if let Some((origin, answer)) = pending.reply {
                        out.push(Out::Answer(origin, Outcome::Answer(answer)));
                    }
                }
                Acknowledge::All => {
                    out.push(Out::WatchAll(pending.index));
                    leading.awaiting_until = leading.awaiting_until.min(pending.deadline);
                    leading.awaiting_all.push_back(pending);
                }
            }
        }
        while let Some(entry) = leading.depending.first_entry() {
            if entry.key().0 > self.state.applied() {
                break;
            }
            entry.remove().tell(out);
        }
    }

    fn on_confirmed(&mut self, cx: &mut Context<'_>, tag: u64, out: &mut Outbox<Out>) {
        match self.confirming.remove(&tag) {
            Some(Confirming::Read { origin, task, deadline }) => self.read_unlocked(cx, origin, task, deadline, 0, out),
            Some(Confirming::Check { conclusion, depends }) => match &mut self.leading {
                Some(leading) if depends > self.state.applied() => {
                    Sometimes::RefusalWaitsForCommit.reached();
                    leading.depending.insert((depends, tag), conclusion);
                }
                _ => conclusion.tell(out),
            },
            None => {}
        }
    }

    fn on_all_matched(&mut self, index: Index, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        while let Some(pending) = leading.awaiting_all.pop_front_if(|pending| pending.index <= index) {
            assert!(pending.index <= self.state.applied(), "what every voter has is answered once it is committed");
            if let Some((origin, answer)) = pending.reply {
                out.push(Out::Answer(origin, Outcome::Answer(answer)));
            }
        }
    }

    fn on_deposed(&mut self, out: &mut Outbox<Out>) {
        let Some(mut leading) = self.leading.take() else { return };
        Sometimes::DeposedWithWrites.when(!leading.pending.is_empty());
        Sometimes::DeposedBeforeAllHaveIt.when(!leading.awaiting_all.is_empty());
        Sometimes::DeposedWithWaiters.when(!leading.queues.is_empty());
        Sometimes::DeposedBeforeFirstCommit.when(leading.ready_at > self.state.applied());
        Sometimes::DeposedWhileReadsWait.when(!self.confirming.is_empty());
        Sometimes::DeposedHoldingLocks.when(!leading.held.is_empty());
        Sometimes::DeposedWithPrepareInFlight.when(!leading.preparing.is_empty());
        for (origin, _) in leading.pending.into_iter().chain(leading.awaiting_all).filter_map(|pending| pending.reply) {
            let doubt = ResponseBody::Unknown(Doubt::LeadershipLost);
            out.push(Out::Answer(origin, Outcome::Answer(doubt)));
        }
        let conclusions = std::mem::take(&mut self.confirming).into_values().filter_map(|waiting| match waiting {
            Confirming::Read { origin, .. } => Some(origin),
            Confirming::Check { conclusion, .. } => conclusion.origin(),
        });
        let queued = leading.queues.take_all().filter_map(|waiter| match waiter.intent {
            Intent::Write(write) => Some(write.origin),
            Intent::Claim(claim) => claim.asker,
        });
        let mut turned_away: Vec<Origin> =
            leading.early.into_iter().map(|write| write.origin).chain(queued).chain(conclusions).collect();
        turned_away.extend(leading.depending.into_values().filter_map(|conclusion| conclusion.origin()));
        turned_away.extend(leading.preparing.into_values().filter_map(|preparing| preparing.asker));
        turned_away.extend(leading.resolving.into_values().flat_map(|resolving| resolving.askers));
        turned_away.extend(std::mem::take(&mut self.blocked).into_values().map(|blocked| blocked.origin));
        self.blocked_deadlines.clear();
        self.forget_inquiries();
        for origin in turned_away {
            out.push(Out::Answer(origin, Outcome::NotLeader { leader: None }));
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        self.on_late_acknowledgements(cx.now, out);
        while let Some((_, ticket)) =
            self.leading.as_ref().and_then(|l| l.queues.first_deadline()).filter(|(at, _)| *at <= cx.now)
        {
            Sometimes::WaiterTooLate.reached();
            self.dismiss(cx, ticket, &Rejection::DeadlineExceeded, out);
        }
        self.on_blocked_too_long(cx.now, out);
        self.inquire(cx.now, out);
    }

    fn on_late_acknowledgements(&mut self, now: Time, out: &mut Outbox<Out>) {
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.awaiting_until <= now) else { return };
        leading.awaiting_all.retain(|pending| {
            let late = pending.deadline <= now;
            Sometimes::NotAllHaveItInTime.when(late);
            if let Some((origin, _)) = pending.reply.as_ref().filter(|_| late) {
                out.push(Out::AnswerLacking(*origin, pending.index));
            }
            !late
        });
        leading.awaiting_until = leading.awaiting_all.iter().map(|pending| pending.deadline).min().unwrap_or(Time::NEVER);
    }
}

// What is asserted of waiting: each waiter's wake-up is named.
impl Store {
    /// Every caller that this group will answer.
    pub fn callers(&self) -> BTreeSet<Origin> {
        let mut callers: BTreeSet<Origin> = self.readers().collect();
        callers.extend(self.confirming.values().filter_map(|confirming| match confirming {
            Confirming::Read { origin, .. } => Some(*origin),
            Confirming::Check { conclusion, .. } => conclusion.origin(),
        }));
        let Some(leading) = &self.leading else { return callers };
        callers.extend(leading.early.iter().map(|write| write.origin));
        let proposed = leading.pending.iter().chain(&leading.awaiting_all);
        callers.extend(proposed.filter_map(|pending| Some(pending.reply.as_ref()?.0)));
        callers.extend(leading.depending.values().filter_map(Conclusion::origin));
        callers.extend(leading.queues.callers());
        callers.extend(leading.preparing.values().filter_map(|preparing| preparing.asker));
        callers.extend(leading.resolving.values().flat_map(|resolving| &resolving.askers));
        callers
    }

    /// The questions that the replica has to answer.
    pub fn unconfirmed(&self) -> impl Iterator<Item = u64> {
        self.confirming.keys().copied()
    }

    fn check_waiting(&self) {
        let Some(leading) = &self.leading else { return };
        assert!(
            leading.early.is_empty() || leading.ready_at > self.state.applied(),
            "early writes wait for the term's first entry"
        );
        assert!(
            leading.depending.keys().all(|(index, _)| *index > self.state.applied()),
            "what is applied is waited for no more"
        );
        assert!(
            leading.awaiting_all.iter().all(|pending| leading.awaiting_until <= pending.deadline),
            "which voters lack an entry is said in time"
        );
        let mut reading = BTreeMap::new();
        for waiting in self.waiting.values() {
            if let Waiting::Parked { ticket, .. } = waiting {
                *reading.entry(*ticket).or_default() += 1;
            }
        }
        leading.queues.check_wakes(&leading.locks, &reading);
        self.check_reads();
    }
}

impl Conclusion {
    fn tell(self, out: &mut Outbox<Out>) {
        out.push(match self {
            Conclusion::Answer(origin, outcome) => Out::Answer(origin, outcome),
            Conclusion::Held(id, vote) => Out::Held(id, vote),
        });
    }

    fn origin(&self) -> Option<Origin> {
        match self {
            Conclusion::Answer(origin, _) => Some(*origin),
            Conclusion::Held(..) => None,
        }
    }
}

fn reject(origin: Origin, rejection: Rejection, out: &mut Outbox<Out>) {
    out.push(Out::Answer(origin, Outcome::Answer(ResponseBody::Rejected(rejection))));
}

impl Actor for Store {
    type In = In;
    type Out = Out;

    fn handle(&mut self, cx: &mut Context<'_>, input: In, out: &mut Outbox<Out>) {
        match input {
            In::Task { origin, task, term, deadline } => self.on_task(cx, origin, task, term, deadline, out),
            In::Apply(committed) => self.on_apply(cx, committed, out),
            In::Led(term, next) => {
                self.leading = Some(Leading {
                    term,
                    next,
                    paused: false,
                    ready_at: next.previous(),
                    early: VecDeque::new(),
                    head: BTreeMap::new(),
                    pending: VecDeque::new(),
                    size: 0,
                    awaiting_all: VecDeque::new(),
                    awaiting_until: Time::NEVER,
                    depending: BTreeMap::new(),
                    locks: Locks::default(),
                    queues: Queues::default(),
                    claims: BTreeMap::new(),
                    held: BTreeMap::new(),
                    preparing: BTreeMap::new(),
                    resolving: BTreeMap::new(),
                    votes: BTreeMap::new(),
                });
            }
            In::Deposed => self.on_deposed(out),
            In::Paused(paused) => {
                if let Some(leading) = &mut self.leading {
                    leading.paused = paused;
                }
            }
            In::Mark => {
                let begins = self.leading.as_ref().is_some_and(|leading| !leading.paused);
                if begins && self.room(cx, 0, false).is_ok() {
                    self.append(Fact::Noop, 0, Time::NEVER, None, Acknowledge::Quorum, out);
                }
            }
            In::Confirmed(tag) => self.on_confirmed(cx, tag, out),
            In::Value(tag, value) => self.on_value(cx, tag, value, out),
            In::AllMatched(index) => self.on_all_matched(index, out),
            In::Hold(preparation, deadline) => self.on_hold(cx, preparation, deadline, out),
            In::Release(id) => self.on_release(cx, id, out),
            In::Decide(decision) => self.on_decide(cx, decision, out),
            In::End(ending) => self.on_end(ending, out),
            In::Inquired(id, decision) => self.on_inquired(cx.now, id, decision, out),
            In::Timer => self.on_timer(cx, out),
        }
    }

    fn deadline(&self) -> Option<(Time, TimerKind)> {
        let leading = self.leading.as_ref()?;
        let lacking = (!leading.awaiting_all.is_empty()).then_some(leading.awaiting_until);
        let waiter = leading.queues.first_deadline().map(|(at, _)| at);
        let blocked = self.blocked_deadlines.first().map(|(at, _)| *at);
        let inquiry = self.inquiries.first().map(|(at, _)| *at);
        let at = [lacking, waiter, blocked, inquiry].into_iter().flatten().min()?;
        Some((at, TimerKind::Replica(self.group)))
    }

    fn check(&self) {
        self.state.check();
        self.check_participant();
        self.check_waiting();
        match &self.leading {
            Some(leading) => {
                assert!(leading.pending.iter().is_sorted_by_key(|p| p.index), "answers are in order");
                assert!(
                    leading.pending.iter().all(|p| p.index > self.state.applied() && p.index < leading.next),
                    "answers wait for entries in flight"
                );
                assert_eq!(leading.size, leading.pending.iter().map(|p| p.size).sum::<usize>(), "bytes in flight are counted");
                assert!(
                    leading.head.values().all(|head| head.version.0 > self.state.applied().0),
                    "the head is ahead of what is applied"
                );
                leading.queues.check();
                leading.locks.check();
            }
            None => assert!(self.blocked.is_empty() && self.confirming.is_empty(), "only a leader keeps callers waiting"),
        }
    }
}
