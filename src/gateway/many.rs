//! Several items at one instant, over all partitions.
//!
//! Items of one group are read there, at one instant. With more groups, each first *measures* its items: versions and lengths,
//! from the index. So what the read costs is known before a value is read. More than one answer may hold is refused; what all
//! such reads at this gateway hold together is bounded, and beyond that they wait in order. Then each group reads its items, if
//! they are still as measured and no transaction is prepared to write one. Every measure was before every read. So if all groups
//! say yes, the items were all like that at the instant in between (the validation phase of optimistic concurrency control; Kung
//! and Robinson, "On optimistic methods for concurrency control", 1981). After [`TRIES`] that failed, or when a group finds its
//! items about to be written again and again, the items are read by a transaction, which locks them: writers cannot starve it.

use super::calls::RETRY_INTERVAL;
use super::{Caller, Gateway, Out};
use crate::actor::{Context, Outbox};
use crate::base::limits::{Limits, TRANSACTION_SIZE_MAX};
use crate::base::{ConnId, GroupId, Key, Sometimes, Time};
use crate::msg::client::ResponseBody;
use crate::msg::operation::{Operation, Rejection};
use crate::msg::peer::{Outcome, Task};
use crate::msg::transaction::{ItemResult, Measure, Seen, Transaction};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How often items are measured and read before they are locked.
const TRIES: u32 = 3;
/// A part that a leader has no room to read is asked for again after a pause that grows with every attempt, up to this many times
/// [`RETRY_INTERVAL`].
const CROWDED_STEPS_MAX: usize = 20;

#[derive(Debug)]
pub struct Many {
    conn: ConnId,
    id: u64,
    keys: Vec<Key>,
    /// The places of each group's keys in `keys`.
    groups: BTreeMap<GroupId, Vec<usize>>,
    results: Vec<ItemResult>,
    phase: Phase,
    /// Answers that are awaited.
    awaited: usize,
    /// An item has changed since it was measured, or a group could not read its items.
    changed: bool,
    tries: u32,
    deadline: Time,
    /// Bytes of values, as measured.
    size: usize,
}

/// Reads of several items, by number.
#[derive(Debug, Default)]
pub struct Manys {
    all: BTreeMap<u64, Many>,
    /// Bytes of the reads whose values are being read.
    size: usize,
    /// Reads that are measured, and wait until others are done. In order.
    queue: VecDeque<u64>,
    /// The deadlines of these.
    deadlines: BTreeSet<(Time, u64)>,
}

impl Manys {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether so many bytes more may be read.
    fn takes(&self, size: usize, limits: &Limits) -> bool {
        self.size == 0 || self.size + size <= limits.gets_of_many_bytes
    }

    /// The earliest deadline of the reads that wait.
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// `parts`: how many calls each has.
    pub(super) fn check_parts(&self, parts: &BTreeMap<u64, usize>) {
        for (number, many) in &self.all {
            let calls = parts.get(number).copied().unwrap_or(0);
            match many.phase {
                Phase::Queued => assert_eq!(calls, 0, "a read that waits for others asks for nothing"),
                _ => assert!(calls > 0 && calls == many.awaited, "each part that a read of several items waits for has a call"),
            }
        }
        let waiting = |(at, number): &(Time, u64)| {
            self.all.get(number).is_some_and(|many| many.phase == Phase::Queued && many.deadline == *at)
        };
        assert!(self.deadlines.iter().all(waiting), "a read that waits for others gives up in time");
    }

    pub fn check(&self) {
        let reading = self.all.values().filter(|many| many.phase == Phase::Reading).map(|many| many.size);
        assert_eq!(self.size, reading.sum::<usize>(), "bytes of what is being read are counted");
        assert!(self.queue.iter().all(|number| self.all[number].phase == Phase::Queued), "the queue holds those that wait");
        assert_eq!(self.queue.len(), self.deadlines.len(), "each that waits has a deadline");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Measuring,
    /// Measured; others are being read.
    Queued,
    Reading,
    Transacting,
}

impl Gateway {
    pub(super) fn begin_many(
        &mut self,
        cx: &mut Context<'_>,
        conn: ConnId,
        id: u64,
        keys: Vec<Key>,
        deadline: Time,
        out: &mut Outbox<Out>,
    ) {
        let mut groups: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            groups.entry(self.placement.group_of(key.token())).or_default().push(place);
        }
        self.next_id += 1;
        let number = self.next_id;
        let results = vec![ItemResult::default(); keys.len()];
        let (phase, size, tries) = (Phase::Measuring, 0, 0);
        let many = Many { conn, id, keys, groups, results, phase, awaited: 0, changed: false, tries, deadline, size };
        let alone = many.groups.len() == 1;
        self.manys.all.insert(number, many);
        if alone {
            self.ask_all(cx, number, Phase::Reading, |many, places| Task::ReadMany(many.keys_at(places)), out);
        } else {
            self.measure_all(cx, number, out);
        }
    }

    fn measure_all(&mut self, cx: &mut Context<'_>, number: u64, out: &mut Outbox<Out>) {
        self.ask_all(cx, number, Phase::Measuring, |many, places| Task::Measure(many.keys_at(places)), out);
    }

    /// Reads what is measured, now or when others are done.
    fn read_measured(&mut self, cx: &mut Context<'_>, number: u64, out: &mut Outbox<Out>) {
        let Some(many) = self.manys.all.get(&number) else { return };
        if many.size > TRANSACTION_SIZE_MAX {
            return self.finish_many(cx, number, ResponseBody::Rejected(Rejection::TooLarge), out);
        }
        let waits = !self.manys.queue.is_empty() || !self.manys.takes(many.size, cx.limits);
        let many = self.manys.all.get_mut(&number).expect("as above");
        if waits {
            Sometimes::ReadOfManyQueued.reached();
            many.phase = Phase::Queued;
            self.manys.queue.push_back(number);
            self.manys.deadlines.insert((many.deadline, number));
            return;
        }
        self.manys.size += many.size;
        let seen = |many: &Many, place: &usize| Seen { key: many.keys[*place].clone(), version: many.results[*place].version };
        let task = |many: &Many, places: &[usize]| Task::ReadSeen(places.iter().map(|place| seen(many, place)).collect());
        self.ask_all(cx, number, Phase::Reading, task, out);
    }

    /// The values of one read are not held any more: the reads that wait for room go on.
    fn give_back(&mut self, cx: &mut Context<'_>, size: usize, out: &mut Outbox<Out>) {
        self.manys.size -= size;
        while let Some(number) = self.manys.queue.pop_front() {
            let many = &self.manys.all[&number];
            if !self.manys.takes(many.size, cx.limits) {
                self.manys.queue.push_front(number);
                return;
            }
            self.manys.deadlines.remove(&(many.deadline, number));
            // Once more alone in the queue's place: the queue is put aside, so that it does not wait behind itself.
            let queue = std::mem::take(&mut self.manys.queue);
            self.read_measured(cx, number, out);
            self.manys.queue = queue;
        }
    }

    /// Reads that have waited for room until their deadline.
    pub(super) fn on_manys_late(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        while let Some((at, number)) = self.manys.deadlines.first().copied().filter(|(at, _)| *at <= cx.now) {
            self.manys.deadlines.remove(&(at, number));
            self.manys.queue.retain(|other| *other != number);
            self.finish_many(cx, number, ResponseBody::Rejected(Rejection::Overloaded), out);
        }
    }

    /// Asks every group for its part.
    fn ask_all(
        &mut self,
        cx: &mut Context<'_>,
        number: u64,
        phase: Phase,
        task: impl Fn(&Many, &[usize]) -> Task,
        out: &mut Outbox<Out>,
    ) {
        let Some(many) = self.manys.all.get_mut(&number) else { return };
        many.phase = phase;
        many.awaited = many.groups.len();
        let deadline = many.deadline;
        let tasks: Vec<(GroupId, Task)> = many.groups.iter().map(|(group, places)| (*group, task(many, places))).collect();
        for (group, task) in tasks {
            self.call(cx, Caller::Many(number, group), group, task, deadline, out);
        }
    }

    /// Reads the items by a transaction.
    fn transact_all(&mut self, cx: &mut Context<'_>, number: u64, out: &mut Outbox<Out>) {
        let Some(many) = self.manys.all.get_mut(&number) else { return };
        Sometimes::ReadOfManyByTransaction.reached();
        many.phase = Phase::Transacting;
        many.awaited = 1;
        (many.changed, many.size) = (false, 0);
        let deadline = many.deadline;
        let item = |key: &Key| Operation::read(key.clone());
        let transaction = Transaction { items: many.keys.iter().map(item).collect(), token: None };
        let home = self.placement.group_of(many.keys[0].token());
        let age = self.age(cx);
        self.call(cx, Caller::Many(number, home), home, Task::Transact { age, transaction }, deadline, out);
    }

    pub(super) fn on_many(&mut self, cx: &mut Context<'_>, number: u64, group: GroupId, outcome: Outcome, out: &mut Outbox<Out>) {
        let Some(many) = self.manys.all.get_mut(&number) else { return };
        many.awaited -= 1;
        match outcome {
            Outcome::Measured(measures) if many.phase == Phase::Measuring && measures.len() == many.groups[&group].len() => {
                many.measured(group, &measures);
            }
            Outcome::Answer(ResponseBody::Values(items)) if many.phase == Phase::Reading && many.asked_for(group, &items) => {
                for (place, item) in many.groups[&group].iter().zip(items) {
                    many.results[*place] = item;
                }
            }
            Outcome::Answer(ResponseBody::Transacted(items))
                if many.phase == Phase::Transacting && items.len() == many.keys.len() =>
            {
                many.results = items
            }
            // Its items were never free at one instant, or they are not as they were measured.
            Outcome::Valid(false) if many.phase != Phase::Transacting => many.changed = true,
            Outcome::Answer(body @ ResponseBody::Rejected(_)) => return self.finish_many(cx, number, body, out),
            // It read, and wrote nothing: nothing is unknown of it.
            _ => {
                return self.finish_many(cx, number, ResponseBody::Rejected(Rejection::DeadlineExceeded), out);
            }
        }
        if many.awaited == 0 {
            self.all_answered(cx, number, out);
        }
    }

    /// Every group has answered: the next phase, or the end.
    fn all_answered(&mut self, cx: &mut Context<'_>, number: u64, out: &mut Outbox<Out>) {
        let Some(many) = self.manys.all.get_mut(&number) else { return };
        match many.phase {
            Phase::Measuring if many.changed => self.transact_all(cx, number, out),
            Phase::Measuring => self.read_measured(cx, number, out),
            Phase::Reading if many.changed => {
                // What was read of the others is not of that instant any more.
                many.results.fill(ItemResult::default());
                (many.changed, many.tries) = (false, many.tries + 1);
                let again = many.tries < TRIES && many.groups.len() > 1;
                let size = std::mem::take(&mut many.size);
                if again {
                    Sometimes::ReadOfManyMeasuredAgain.reached();
                    self.measure_all(cx, number, out)
                } else {
                    self.transact_all(cx, number, out)
                }
                self.give_back(cx, size, out);
            }
            Phase::Queued | Phase::Reading | Phase::Transacting => {
                let size: usize = many.results.iter().map(|item| item.value.as_ref().map_or(0, bytes::Bytes::len)).sum();
                let body = match size > TRANSACTION_SIZE_MAX {
                    true => ResponseBody::Rejected(Rejection::TooLarge),
                    false => ResponseBody::Values(std::mem::take(&mut many.results)),
                };
                self.finish_many(cx, number, body, out);
            }
        }
    }

    /// The node ends: a read that waits for room has no call that would be answered.
    pub(super) fn end_manys(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        self.manys.deadlines.clear();
        for number in std::mem::take(&mut self.manys.queue) {
            self.finish_many(cx, number, ResponseBody::Rejected(Rejection::Stopping), out);
        }
    }

    /// Whether the call asks for a part of what is gathered here.
    pub(super) fn is_part(&self, id: u64) -> bool {
        self.calls.get(&id).is_some_and(|call| matches!(call.caller, Caller::Scan(..) | Caller::Many(..)) && call.is_repeatable())
    }

    /// The leader reads as much as it may: the part is asked for again, less often each time.
    pub(super) fn on_crowded(&mut self, cx: &mut Context<'_>, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        Sometimes::PartAskedAgainForRoom.reached();
        call.crowded = true;
        let pause = RETRY_INTERVAL * call.attempts.min(CROWDED_STEPS_MAX) as u32;
        self.recall(id);
        self.wait_for(cx, id, pause);
    }

    /// Answers the client. What other groups still say goes nowhere.
    fn finish_many(&mut self, cx: &mut Context<'_>, number: u64, body: ResponseBody, out: &mut Outbox<Out>) {
        if let Some(many) = self.manys.all.remove(&number) {
            self.reply(Caller::Client(many.conn, many.id), None, body, out);
            if many.phase == Phase::Reading {
                self.give_back(cx, many.size, out);
            }
        }
    }
}

impl Many {
    fn keys_at(&self, places: &[usize]) -> Vec<Key> {
        places.iter().map(|place| self.keys[*place].clone()).collect()
    }

    fn measured(&mut self, group: GroupId, measures: &[Measure]) {
        for (place, measure) in self.groups[&group].iter().zip(measures) {
            self.results[*place].version = measure.version;
            self.size += measure.length as usize;
        }
    }

    /// Whether these may be the items that were asked for: as they were measured, unless they were all read at once.
    fn asked_for(&self, group: GroupId, items: &[ItemResult]) -> bool {
        let places = &self.groups[&group];
        let as_measured = |(place, item): (&usize, &ItemResult)| self.results[*place].version == item.version;
        places.len() == items.len() && (self.groups.len() == 1 || places.iter().zip(items).all(as_measured))
    }
}
