//! The state of one partition: an ordered index from key to version and place, and the evaluation of operations against it.
//!
//! # Evaluation
//!
//! The leader evaluates every operation once, against the *head* of its log: what is applied, plus the writes in flight before it. What it proposes is
//! the outcome ([`Fact`]). So operations on one key pipeline without waiting for each other's commit: if an earlier entry is lost with the leadership,
//! all later ones are lost too. An answer that depends on the log at index i is given once i is committed.
//!
//! An operation that needs a value which is on the disk *parks* at the head of its key's queue, holding nothing else; later writers of the key queue behind it. When the
//! value is there it is evaluated in one step, if its deadline has not passed. Reads never queue: they see what is applied.
//!
//! # What an answer waits for
//!
//! | answer | waits for |
//! |---|---|
//! | a write was done | the commit of its entry; with `all`, every voter's durable copy |
//! | a condition failed | the commit of what it was held against, *and* proof that this node led at evaluation or after |
//! | a read | proof that this node led when the read came or after; then it is made from what is applied |
//! | an eventual read | nothing |
//!
//! The proof (a lease, or a quorum round begun after the question) is the replica's business: `Out::Confirm`, `In::Confirmed`.
//!
//! # States
//!
//! Following (applies, serves eventual reads, turns the rest away) <-> leading (from `Led` to `Deposed`). What is in progress when the leadership ends is answered: what was proposed is
//! unknown, all else was certainly not begun.
//!
//! Left out for now: locks and the participant records of transactions (they belong in `locks.rs` and `participant.rs` here), and the delete floor that will let
//! tombstones go: until then a deleted key keeps its version for ever, so that no version is used twice.

mod evaluate;
mod read;

use crate::actor::{Actor, Committed, Context, Origin, Outbox, TimerKind};
use crate::base::limits::{PARKED_PER_GROUP_MAX, READS_PER_GROUP_MAX, UNCOMMITTED_BYTES_MAX, UNCOMMITTED_ENTRIES_MAX};
use crate::base::{GroupId, Index, Term, Time, Version};
use crate::msg::client::{Acknowledge, Action, Doubt, Operation, Rejection, ResponseBody};
use crate::msg::log::{Fact, FactSummary, ValuePlace};
use crate::msg::peer::{Outcome, Task};
use bytes::Bytes;
use evaluate::{Current, Verdict};
use read::{Gathering, Waiting};
use std::collections::{BTreeMap, VecDeque};

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
    /// The read or check with this tag may be answered: this node led when it was asked for, or after.
    Confirmed(u64),
    /// A value that was asked for, or why there is none.
    Value(u64, Result<Bytes, Rejection>),
    /// Every voter has everything up to here, durably.
    AllMatched(Index),
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
}

/// Is given key, version and value checksum (`None`: deleted) of an item.
pub type Visit<'a> = dyn FnMut(&[u8], u64, Option<u32>) + 'a;

#[derive(Debug)]
pub struct Store {
    group: GroupId,
    index: BTreeMap<Box<[u8]>, Item>,
    /// Items that are present.
    count: u64,
    /// Everything up to here is in `index`. Never decreases.
    applied: Index,
    leading: Option<Leading>,
    /// Writes that wait for a value, or behind one that does, by key.
    parked: BTreeMap<Bytes, Queue>,
    parked_count: usize,
    /// Questions put to the replica (`Confirm`), by tag.
    confirming: BTreeMap<u64, Confirming>,
    /// Values asked for (`ReadValue`), by tag.
    waiting: BTreeMap<u64, Waiting>,
    /// Scans whose values are being read, by tag.
    gathering: BTreeMap<u64, Gathering>,
    next_tag: u64,
}

/// An item, or what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    version: Version,
    /// `None`: deleted.
    value: Option<ValuePlace>,
}

#[derive(Debug)]
struct Leading {
    term: Term,
    /// The index of the next proposal.
    next: Index,
    /// The leadership is being handed over: nothing new is begun.
    paused: bool,
    /// The first entry of the term. Until it is applied, the log holds entries of earlier terms that `head` knows nothing of: no write is evaluated.
    ready_at: Index,
    /// Writes that came before that.
    early: VecDeque<(Bytes, Parked)>,
    /// What the entries in flight make of their keys.
    head: BTreeMap<Bytes, Head>,
    /// Answers of entries in flight, in order of index.
    pending: VecDeque<Pending>,
    /// Bytes of keys and values in flight.
    size: usize,
    /// Committed writes that wait for every voter, in order of index.
    awaiting_all: VecDeque<Pending>,
    /// The earliest deadline of `awaiting_all`, or an earlier time.
    awaiting_until: Time,
    /// Failed conditions, and the like, whose leadership is proven, by the entry they wait for.
    depending: BTreeMap<(Index, u64), (Origin, ResponseBody)>,
}

#[derive(Debug)]
struct Head {
    version: Version,
    value: Option<Bytes>,
}

#[derive(Debug)]
struct Pending {
    index: Index,
    origin: Origin,
    answer: ResponseBody,
    acknowledge: Acknowledge,
    deadline: Time,
    size: usize,
}

/// Writers of one key, and the read they wait for. A value read for an earlier queue of the same key is not theirs: the item may have
/// been written by another leader since.
#[derive(Debug)]
struct Queue {
    tag: u64,
    writes: VecDeque<Parked>,
}

#[derive(Debug)]
struct Parked {
    origin: Origin,
    action: Action,
    deadline: Time,
}

/// What is to be done once it is certain that this node led.
#[derive(Debug)]
enum Confirming {
    Read {
        origin: Origin,
        task: Task,
    },
    /// Nothing was written; the answer rests on the entry at `depends`.
    Check {
        origin: Origin,
        answer: ResponseBody,
        depends: Index,
    },
}

impl Store {
    pub fn new(group: GroupId) -> Store {
        Store {
            group,
            index: BTreeMap::new(),
            count: 0,
            applied: Index::ZERO,
            leading: None,
            parked: BTreeMap::new(),
            parked_count: 0,
            confirming: BTreeMap::new(),
            waiting: BTreeMap::new(),
            gathering: BTreeMap::new(),
            next_tag: 0,
        }
    }

    /// Applies an entry that recovery found committed.
    pub fn restore(&mut self, index: Index, fact: &FactSummary) {
        assert_eq!(index, self.applied.next(), "entries are applied in order");
        self.applied = index;
        if let FactSummary::Write { key, value } = fact {
            self.put(key, Item { version: Version(index.0), value: *value });
        }
    }

    /// Items that are present.
    pub fn item_count(&self) -> u64 {
        self.count
    }

    /// Whether nothing is in progress.
    pub fn is_idle(&self) -> bool {
        let at_rest = |l: &Leading| {
            l.early.is_empty() && l.pending.is_empty() && l.head.is_empty() && l.awaiting_all.is_empty() && l.depending.is_empty()
        };
        self.leading.as_ref().is_none_or(at_rest)
            && self.parked.is_empty()
            && self.confirming.is_empty()
            && self.waiting.is_empty()
            && self.gathering.is_empty()
    }

    /// Calls `visit` with key, version and value checksum of everything applied, in key order.
    pub fn visit_applied(&self, visit: &mut Visit<'_>) {
        for (key, item) in &self.index {
            visit(key, item.version.0, item.value.map(|v| v.checksum));
        }
    }

    fn put(&mut self, key: &[u8], item: Item) -> Option<Item> {
        self.count += u64::from(item.value.is_some());
        let old = match self.index.get_mut(key) {
            Some(slot) => Some(std::mem::replace(slot, item)),
            None => self.index.insert(key.into(), item),
        };
        self.count -= u64::from(old.is_some_and(|old| old.value.is_some()));
        old
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
            out.push(Out::Answer(origin, Outcome::NotLeader { leader: None }));
            return;
        }
        match task {
            Task::Operation(Operation { key, action }) if action.is_write() => {
                self.on_write(cx, key, Parked { origin, action, deadline }, out);
            }
            _ if self.confirming.len() + self.waiting.len() >= READS_PER_GROUP_MAX => reject(origin, Rejection::Overloaded, out),
            read => {
                let tag = self.tag();
                self.confirming.insert(tag, Confirming::Read { origin, task: read });
                out.push(Out::Confirm(tag));
            }
        }
    }

    fn on_write(&mut self, cx: &mut Context<'_>, key: Bytes, write: Parked, out: &mut Outbox<Out>) {
        if let Some(leading) = self.leading.as_mut().filter(|l| l.ready_at > self.applied) {
            if leading.early.len() >= PARKED_PER_GROUP_MAX {
                reject(write.origin, Rejection::Overloaded, out);
            } else {
                leading.early.push_back((key, write));
            }
            return;
        }
        if let Some(queue) = self.parked.get_mut(&key) {
            if self.parked_count >= PARKED_PER_GROUP_MAX {
                reject(write.origin, Rejection::Overloaded, out);
            } else {
                self.parked_count += 1;
                queue.writes.push_back(write);
            }
            return;
        }
        if let Some(write) = self.evaluate(cx, &key, write, None, out) {
            self.park(key, write, out);
        }
    }

    /// Puts the write at the head of its key's queue, and asks for the value.
    fn park(&mut self, key: Bytes, write: Parked, out: &mut Outbox<Out>) {
        let place = self.index.get(&*key).and_then(|item| item.value).expect("only what has a value on the disk parks");
        if self.parked_count >= PARKED_PER_GROUP_MAX {
            reject(write.origin, Rejection::Overloaded, out);
            return;
        }
        let tag = self.tag();
        self.waiting.insert(tag, Waiting::Parked { key: key.clone() });
        self.parked_count += 1;
        self.parked.insert(key, Queue { tag, writes: VecDeque::from([write]) });
        out.push(Out::ReadValue(tag, place));
    }

    /// The value that the writers of `key` wait for has come, or cannot be had.
    fn unpark(&mut self, cx: &mut Context<'_>, tag: u64, key: &Bytes, value: &Result<Bytes, Rejection>, out: &mut Outbox<Out>) {
        if self.parked.get(key).is_none_or(|queue| queue.tag != tag) {
            return;
        }
        let queue = self.parked.remove(key).map(|queue| queue.writes).unwrap_or_default();
        self.parked_count -= queue.len();
        for write in queue {
            if write.deadline <= cx.now {
                reject(write.origin, Rejection::DeadlineExceeded, out);
                continue;
            }
            let origin = write.origin;
            if self.evaluate(cx, key, write, value.as_ref().ok(), out).is_some() {
                // Only a value that could not be read is still lacking.
                reject(origin, value.clone().err().unwrap_or(Rejection::Overloaded), out);
            }
        }
    }

    /// Evaluates a write at the head of the log. Gives it back if it lacks the item's value; `pinned` is that value, if it was read.
    fn evaluate(
        &mut self,
        cx: &mut Context<'_>,
        key: &Bytes,
        write: Parked,
        pinned: Option<&Bytes>,
        out: &mut Outbox<Out>,
    ) -> Option<Parked> {
        let leading = self.leading.as_ref().expect("writes are evaluated by a leader");
        let (current, depends) = match leading.head.get(key) {
            Some(head) => (
                Current { version: head.version, present: head.value.is_some(), value: head.value.clone() },
                Index(head.version.0),
            ),
            None => {
                let item = self.index.get(&**key).copied().unwrap_or(Item { version: Version::ZERO, value: None });
                let known = item.value.and_then(|place| pinned.cloned().or_else(|| cx.cache.get(place.place)));
                (Current { version: item.version, present: item.value.is_some(), value: known }, Index::ZERO)
            }
        };
        match evaluate::evaluate(&write.action, &current) {
            Verdict::NeedsValue => return Some(write),
            Verdict::Write { value, number } => self.propose(cx, key, value, number, write, out),
            Verdict::Answer(answer) => {
                let tag = self.tag();
                self.confirming.insert(tag, Confirming::Check { origin: write.origin, answer, depends });
                out.push(Out::Confirm(tag));
            }
        }
        None
    }

    fn propose(
        &mut self,
        cx: &Context<'_>,
        key: &Bytes,
        value: Option<Bytes>,
        number: Option<i64>,
        write: Parked,
        out: &mut Outbox<Out>,
    ) {
        let leading = self.leading.as_mut().expect("writes are proposed by a leader");
        let size = key.len() + value.as_ref().map_or(0, Bytes::len);
        if leading.paused {
            // It was parked when the leadership began to be handed over: certainly not begun.
            out.push(Out::Answer(write.origin, Outcome::NotLeader { leader: None }));
            return;
        }
        if cx.disk_full {
            reject(write.origin, Rejection::DiskFull, out);
            return;
        }
        if leading.pending.len() + leading.awaiting_all.len() >= UNCOMMITTED_ENTRIES_MAX
            || leading.size + size > UNCOMMITTED_BYTES_MAX
        {
            reject(write.origin, Rejection::Overloaded, out);
            return;
        }
        let index = leading.next;
        leading.next = index.next();
        leading.size += size;
        let version = Version(index.0);
        leading.head.insert(key.clone(), Head { version, value: value.clone() });
        leading.pending.push_back(Pending {
            index,
            origin: write.origin,
            answer: ResponseBody::Written { version, number },
            acknowledge: write.action.acknowledge(),
            deadline: write.deadline,
            size,
        });
        out.push(Out::Propose { index, term: leading.term, fact: Fact::Write { key: key.clone(), value } });
    }

    fn on_apply(&mut self, cx: &mut Context<'_>, committed: Committed, out: &mut Outbox<Out>) {
        assert_eq!(committed.index, self.applied.next(), "entries are applied in order");
        self.applied = committed.index;
        if let FactSummary::Write { key, value } = &committed.fact {
            let version = Version(committed.index.0);
            if let Some(old) = self.put(key, Item { version, value: *value }).and_then(|old| old.value) {
                cx.cache.remove(old.place);
            }
            if let Some(leading) = &mut self.leading {
                if leading.head.get(key).is_some_and(|head| head.version == version)
                    && let (Some(place), Some(value)) = (value, leading.head.remove(key).and_then(|head| head.value))
                {
                    cx.cache.insert(place.place, &value);
                }
            }
        }
        self.answer_committed(out);
        if let Some(leading) = self.leading.as_mut().filter(|l| l.ready_at == self.applied) {
            for (key, write) in std::mem::take(&mut leading.early) {
                self.on_write(cx, key, write, out);
            }
        }
    }

    fn answer_committed(&mut self, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        while let Some(pending) = leading.pending.pop_front_if(|pending| pending.index <= self.applied) {
            leading.size -= pending.size;
            match pending.acknowledge {
                Acknowledge::Quorum => out.push(Out::Answer(pending.origin, Outcome::Answer(pending.answer))),
                Acknowledge::All => {
                    out.push(Out::WatchAll(pending.index));
                    leading.awaiting_until = leading.awaiting_until.min(pending.deadline);
                    leading.awaiting_all.push_back(pending);
                }
            }
        }
        while let Some(entry) = leading.depending.first_entry() {
            if entry.key().0 > self.applied {
                break;
            }
            let (origin, answer) = entry.remove();
            out.push(Out::Answer(origin, Outcome::Answer(answer)));
        }
    }

    fn on_confirmed(&mut self, cx: &mut Context<'_>, tag: u64, out: &mut Outbox<Out>) {
        match self.confirming.remove(&tag) {
            Some(Confirming::Read { origin, task }) => self.read(cx, origin, &task, out),
            Some(Confirming::Check { origin, answer, depends }) => match &mut self.leading {
                Some(leading) if depends > self.applied => {
                    leading.depending.insert((depends, tag), (origin, answer));
                }
                _ => out.push(Out::Answer(origin, Outcome::Answer(answer))),
            },
            None => {}
        }
    }

    fn on_all_matched(&mut self, index: Index, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        while let Some(pending) = leading.awaiting_all.pop_front_if(|pending| pending.index <= index) {
            out.push(Out::Answer(pending.origin, Outcome::Answer(pending.answer)));
        }
    }

    fn on_deposed(&mut self, out: &mut Outbox<Out>) {
        let Some(leading) = self.leading.take() else { return };
        for pending in leading.pending.into_iter().chain(leading.awaiting_all) {
            let doubt = ResponseBody::Unknown(Doubt::LeadershipLost);
            out.push(Out::Answer(pending.origin, Outcome::Answer(doubt)));
        }
        let parked = std::mem::take(&mut self.parked).into_values().flat_map(|queue| queue.writes).map(|write| write.origin);
        let confirming = std::mem::take(&mut self.confirming).into_values().map(|waiting| match waiting {
            Confirming::Read { origin, .. } | Confirming::Check { origin, .. } => origin,
        });
        self.parked_count = 0;
        let early = leading.early.into_iter().map(|(_, write)| write.origin);
        for origin in early.chain(parked).chain(confirming).chain(leading.depending.into_values().map(|(origin, _)| origin)) {
            out.push(Out::Answer(origin, Outcome::NotLeader { leader: None }));
        }
    }

    fn on_timer(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.awaiting_until <= cx.now) else { return };
        leading.awaiting_all.retain(|pending| {
            let late = pending.deadline <= cx.now;
            if late {
                out.push(Out::AnswerLacking(pending.origin, pending.index));
            }
            !late
        });
        leading.awaiting_until = leading.awaiting_all.iter().map(|pending| pending.deadline).min().unwrap_or(Time::NEVER);
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
                });
            }
            In::Deposed => self.on_deposed(out),
            In::Paused(paused) => {
                if let Some(leading) = &mut self.leading {
                    leading.paused = paused;
                }
            }
            In::Confirmed(tag) => self.on_confirmed(cx, tag, out),
            In::Value(tag, value) => self.on_value(cx, tag, value, out),
            In::AllMatched(index) => self.on_all_matched(index, out),
            In::Timer => self.on_timer(cx, out),
        }
    }

    fn deadline(&self) -> Option<(Time, TimerKind)> {
        let leading = self.leading.as_ref().filter(|leading| !leading.awaiting_all.is_empty())?;
        Some((leading.awaiting_until, TimerKind::Replica(self.group)))
    }

    fn check(&self) {
        assert_eq!(
            self.count,
            self.index.values().filter(|item| item.value.is_some()).count() as u64,
            "present items are counted"
        );
        assert!(self.index.values().all(|item| item.version.0 <= self.applied.0), "no version is later than what is applied");
        assert_eq!(
            self.parked_count,
            self.parked.values().map(|queue| queue.writes.len()).sum::<usize>(),
            "parked writes are counted"
        );
        assert!(self.parked_count <= PARKED_PER_GROUP_MAX, "parked writes are bounded");
        match &self.leading {
            Some(leading) => {
                assert!(leading.pending.iter().is_sorted_by_key(|p| p.index), "answers are in order");
                assert!(
                    leading.pending.iter().all(|p| p.index > self.applied && p.index < leading.next),
                    "answers wait for entries in flight"
                );
                assert_eq!(leading.size, leading.pending.iter().map(|p| p.size).sum::<usize>(), "bytes in flight are counted");
                assert!(
                    leading.head.values().all(|head| head.version.0 > self.applied.0),
                    "the head is ahead of what is applied"
                );
                assert!(leading.pending.len() <= UNCOMMITTED_ENTRIES_MAX, "entries in flight are bounded");
            }
            None => assert!(self.parked.is_empty() && self.confirming.is_empty(), "only a leader keeps callers waiting"),
        }
    }
}
