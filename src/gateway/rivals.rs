//! Transactions that died of a conflict, and which of them is retried when.
//!
//! Each attempt at a transaction costs records in the logs of all groups that take part, whether it dies or not. Of the attempts
//! that want one key, one alone can have it. So with every client that joins, the attempts that die would eat up what the others
//! could do. Therefore *a transaction that died for a key waits, holding nothing, while an older one of this gateway that met a
//! conflict, too, and names this key, is in progress*. When the older one is done, the next is woken. So of the rivals for a key
//! each gateway sends the oldest, and those that come anew.
//!
//! Nothing is stuck: a transaction that others wait for is older, and ends by its own deadline. It may be without a leader
//! meanwhile. So those that wait are retried now and then all the same, after pauses that double up to a second.

use super::{Call, Gateway, Whereabouts};
use crate::actor::Context;
use crate::base::random;
use crate::base::{Duration, Key, Sometimes, Time};
use crate::msg::peer::Task;
use crate::msg::transaction::{Age, Failure, FailureReason, Transaction};
use std::collections::{BTreeMap, BTreeSet};

/// The longest pause of a transaction after its first conflict, and how often that doubles.
pub(super) const CONFLICT_PAUSE_MIN: Duration = Duration::from_millis(1);
const CONFLICT_DOUBLINGS: usize = 5;
/// How often the pause doubles behind an older one, which wakes it when it is done. It begins where the other ends.
const QUEUE_DOUBLINGS: usize = 10;

const UNNAMED: Failure = Failure { item: 0, reason: FailureReason::Conflict };

/// By each key that they name, the older first. Age and number of the call.
#[derive(Debug, Default)]
pub(super) struct Rivals(BTreeMap<Key, BTreeSet<(Age, u64)>>);

impl Rivals {
    fn enter(&mut self, transaction: &Transaction, rival: (Age, u64)) {
        for item in &transaction.items {
            self.0.entry(item.key.clone()).or_default().insert(rival);
        }
    }

    /// Takes a transaction out of all its queues. Returns the first in each of them now.
    fn leave(&mut self, transaction: &Transaction, rival: (Age, u64)) -> BTreeSet<(Age, u64)> {
        let mut next = BTreeSet::new();
        for item in &transaction.items {
            let Some(queue) = self.0.get_mut(&item.key) else { continue };
            let was_first = queue.first() == Some(&rival);
            queue.remove(&rival);
            match queue.first() {
                None => {
                    self.0.remove(&item.key);
                }
                Some(first) if was_first => {
                    next.insert(*first);
                }
                Some(_) => {}
            }
        }
        next
    }

    /// Whether an older transaction names a key that this one died for.
    fn outrank(&self, transaction: &Transaction, failures: &[Failure], rival: (Age, u64)) -> bool {
        let items = failures.iter().filter_map(|failure| transaction.items.get(failure.item as usize));
        items.filter_map(|item| self.0.get(&item.key)?.first()).any(|first| *first < rival)
    }
}

impl Gateway {
    /// The transaction died for an older one: nothing of it is left, and it is retried, as old as it is.
    pub(super) fn on_conflict(&mut self, cx: &mut Context<'_>, id: u64, failures: Vec<Failure>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Task::Transact { age, transaction } = &call.task else { return };
        // A peer that names none has made a mistake.
        let failures = if failures.is_empty() { vec![UNNAMED] } else { failures };
        if call.conflict.is_empty() {
            self.rivals.enter(transaction, (*age, id));
        }
        let behind = self.rivals.outrank(transaction, &failures, (*age, id));
        Sometimes::TransactionBehindRival.when(behind);
        call.conflict = failures;
        let doublings = match behind {
            true => (call.attempts + CONFLICT_DOUBLINGS).min(QUEUE_DOUBLINGS),
            false => call.attempts.min(CONFLICT_DOUBLINGS),
        };
        let longest = (CONFLICT_PAUSE_MIN * (1 << doublings)).as_nanos() as u64;
        self.counters.transactions_retried += 1;
        let pause = Duration::from_nanos(longest / 2 + random::below(cx.random, longest / 2));
        self.recall(id);
        self.wait_for(cx, id, pause);
    }

    /// A call is over: if it had rivals, those that are first now are retried.
    pub(super) fn rival_is_done(&mut self, cx: &mut Context<'_>, id: u64, call: &Call) {
        let Task::Transact { age, transaction } = &call.task else { return };
        if call.conflict.is_empty() {
            return;
        }
        for (age, next) in self.rivals.leave(transaction, (*age, id)) {
            let Some(call) = self.calls.get(&next) else { continue };
            let Task::Transact { transaction, .. } = &call.task else { continue };
            let waits = call.place == Whereabouts::Waiting;
            if waits && !self.rivals.outrank(transaction, &call.conflict, (age, next)) {
                Sometimes::RivalWoken.reached();
                let soon = random::below(cx.random, CONFLICT_PAUSE_MIN.as_nanos() as u64);
                let at: Time = (cx.now + Duration::from_nanos(soon)).min(call.wake);
                self.wake_at(next, at);
            }
        }
    }

    pub(super) fn check_rivals(&self) {
        let named = self.rivals.0.values().map(BTreeSet::len).sum::<usize>();
        let mut expected = 0;
        for (id, call) in self.calls.iter().filter(|(_, call)| !call.conflict.is_empty()) {
            let Task::Transact { age, transaction } = &call.task else { continue };
            expected += transaction.items.len();
            let queues = |key: &Key| self.rivals.0.get(key).is_some_and(|queue| queue.contains(&(*age, *id)));
            assert!(transaction.items.iter().all(|item| queues(&item.key)), "who met a conflict is a rival for all its keys");
        }
        assert_eq!(named, expected, "no rival is over");
    }
}
