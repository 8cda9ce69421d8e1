//! Several items at one instant, over all partitions.
//!
//! Each group reads its items at one instant of its own; with more than one group, all are then asked whether those items are still as they were read, and whether any transaction is
//! prepared to write one. Every read was before every validation, so if all say yes, the items were all like that at the instant in between (the validation phase of optimistic
//! concurrency control; Kung and Robinson, "On optimistic methods for concurrency control", 1981). After [`TRIES`] that failed, or when a group finds one or another of its items about to be
//! written again and again, the items are read by a transaction, which locks them: writers cannot starve it.

use super::{Caller, Gateway, Out};
use crate::actor::{Context, Outbox};
use crate::base::limits::TRANSACTION_SIZE_MAX;
use crate::base::{ConnId, GroupId, Time};
use crate::msg::client::{Condition, Rejection, ResponseBody};
use crate::msg::codec::Blob;
use crate::msg::peer::{Outcome, Task};
use crate::msg::transaction::{ItemResult, Seen, Transaction, TransactionAction, TransactionItem};
use std::collections::BTreeMap;

/// How often items are read and validated before they are locked.
const TRIES: u32 = 3;

#[derive(Debug)]
pub struct Many {
    conn: ConnId,
    id: u64,
    keys: Vec<Blob>,
    /// The places of each group's keys in `keys`.
    groups: BTreeMap<GroupId, Vec<usize>>,
    results: Vec<ItemResult>,
    phase: Phase,
    /// Answers that are awaited.
    awaited: usize,
    /// A validation of this try has failed, or a group could not read its items.
    changed: bool,
    tries: u32,
    deadline: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Reading,
    Validating,
    Transacting,
}

impl Gateway {
    pub(super) fn begin_many(
        &mut self,
        cx: &mut Context<'_>,
        conn: ConnId,
        id: u64,
        keys: Vec<Blob>,
        deadline: Time,
        out: &mut Outbox<Out>,
    ) {
        let mut groups: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            groups.entry(self.placement.group_of(&key.0)).or_default().push(place);
        }
        self.next_id += 1;
        let number = self.next_id;
        let results = vec![ItemResult::default(); keys.len()];
        let many =
            Many { conn, id, keys, groups, results, phase: Phase::Reading, awaited: 0, changed: false, tries: 0, deadline };
        self.manys.insert(number, many);
        self.read_all(cx, number, out);
    }

    fn read_all(&mut self, cx: &mut Context<'_>, number: u64, out: &mut Outbox<Out>) {
        self.ask_all(
            cx,
            number,
            Phase::Reading,
            |many, places| Task::ReadMany(places.iter().map(|place| many.keys[*place].clone()).collect()),
            out,
        );
    }

    fn validate_all(&mut self, cx: &mut Context<'_>, number: u64, out: &mut Outbox<Out>) {
        let seen = |many: &Many, place: &usize| Seen { key: many.keys[*place].0.clone(), version: many.results[*place].version };
        self.ask_all(
            cx,
            number,
            Phase::Validating,
            |many, places| Task::Validate(places.iter().map(|place| seen(many, place)).collect()),
            out,
        );
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
        let Some(many) = self.manys.get_mut(&number) else { return };
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
        let Some(many) = self.manys.get_mut(&number) else { return };
        many.phase = Phase::Transacting;
        many.awaited = 1;
        let deadline = many.deadline;
        let item =
            |key: &Blob| TransactionItem { key: key.0.clone(), action: TransactionAction::Read, condition: Condition::None };
        let transaction = Transaction { items: many.keys.iter().map(item).collect(), token: None };
        let home = self.placement.group_of(&many.keys[0].0);
        let age = self.age(cx);
        self.call(cx, Caller::Many(number, home), home, Task::Transact { age, transaction }, deadline, out);
    }

    pub(super) fn on_many(&mut self, cx: &mut Context<'_>, number: u64, group: GroupId, outcome: Outcome, out: &mut Outbox<Out>) {
        let Some(many) = self.manys.get_mut(&number) else { return };
        many.awaited -= 1;
        match outcome {
            Outcome::Answer(ResponseBody::Values(items))
                if many.phase == Phase::Reading && items.len() == many.groups[&group].len() =>
            {
                for (place, item) in many.groups[&group].iter().zip(items) {
                    many.results[*place] = item;
                }
            }
            Outcome::Answer(ResponseBody::Transacted(items))
                if many.phase == Phase::Transacting && items.len() == many.keys.len() =>
            {
                many.results = items
            }
            // To a read: its items were never free at one instant.
            Outcome::Valid(valid) if many.phase == Phase::Validating || (many.phase == Phase::Reading && !valid) => {
                many.changed |= !valid;
            }
            Outcome::Answer(body @ ResponseBody::Rejected(_)) => return self.finish_many(number, body, out),
            // It read, and wrote nothing: nothing is unknown of it.
            _ => return self.finish_many(number, ResponseBody::Rejected(Rejection::DeadlineExceeded), out),
        }
        if many.awaited > 0 {
            return;
        }
        let size: usize = many.results.iter().map(|item| item.value.as_ref().map_or(0, bytes::Bytes::len)).sum();
        if size > TRANSACTION_SIZE_MAX {
            return self.finish_many(number, ResponseBody::Rejected(Rejection::TooLarge), out);
        }
        match many.phase {
            Phase::Reading if many.changed => self.transact_all(cx, number, out),
            Phase::Reading if many.groups.len() > 1 => self.validate_all(cx, number, out),
            Phase::Validating if many.changed => {
                many.changed = false;
                many.tries += 1;
                if many.tries < TRIES { self.read_all(cx, number, out) } else { self.transact_all(cx, number, out) }
            }
            Phase::Reading | Phase::Validating | Phase::Transacting => {
                let values = ResponseBody::Values(std::mem::take(&mut many.results));
                self.finish_many(number, values, out);
            }
        }
    }

    /// Answers the client. What other groups still say goes nowhere.
    fn finish_many(&mut self, number: u64, body: ResponseBody, out: &mut Outbox<Out>) {
        if let Some(many) = self.manys.remove(&number) {
            self.reply(Caller::Client(many.conn, many.id), None, body, out);
        }
    }
}
