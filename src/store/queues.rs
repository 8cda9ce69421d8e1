//! Which waiter waits for a key, in which order: single-key writes and transactions that wait for a lock, for a value from the
//! disk, or behind a waiter that does.
//!
//! A waiter stands in the queue of each of its keys. It is evaluated in one step when it is at the front of all of them, no lock
//! is in its way, and every value that it needs is pinned in memory. It holds nothing meanwhile. No later waiter passes it.

use super::evaluate::may_need_value;
use super::read::Waiting;
use super::{Conclusion, Out, Parked, Store, reject};
use crate::actor::{Context, Origin, Outbox};
use crate::base::cache::Lent;
use crate::base::{Key, Place, Sometimes, Time};
use crate::msg::log::ValuePlace;
use crate::msg::operation::Rejection;
use crate::msg::peer::Outcome;
use crate::msg::transaction::{Preparation, Vote};
use crate::state::{LockMode, Locks, Rank};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug, Default)]
pub struct Queues {
    waiters: BTreeMap<u64, Waiter>,
    by_key: BTreeMap<Key, VecDeque<u64>>,
    deadlines: BTreeSet<(Time, u64)>,
}

#[derive(Debug)]
pub struct Waiter {
    pub intent: Intent,
    /// The keys that it wants, and how.
    pub keys: Vec<(Key, LockMode)>,
    pub deadline: Time,
    /// Values that were read for it.
    pub pins: Pins,
    /// How many values are on their way.
    pub reading: usize,
    /// For what was read, and is being.
    pub lent: Vec<Lent>,
}

/// Values by their place in the log. A place is written once, so that a pin is never stale. An empty value is never pinned: the
/// cache answers it.
pub type Pins = BTreeMap<Place, Bytes>;

/// What a waiter waits to do.
#[derive(Debug)]
pub enum Intent {
    Write(Box<Parked>),
    Claim(Box<Claim>),
}

/// A transaction that wants its items in this group.
#[derive(Debug)]
pub struct Claim {
    pub preparation: Preparation,
    /// `None`: this group's own coordinator.
    pub asker: Option<Origin>,
}

impl Claim {
    /// Tells the asker at once.
    pub fn vote(&self, vote: Vote, out: &mut Outbox<Out>) {
        self.conclusion(vote).tell(out);
    }

    /// It was certainly not begun: the next leader may.
    pub fn turn_away(&self, out: &mut Outbox<Out>) {
        out.push(match self.asker {
            Some(origin) => Out::Answer(origin, Outcome::NotLeader { leader: None }),
            None => Out::NotDecided(self.preparation.id),
        });
    }

    pub fn conclusion(&self, vote: Vote) -> Conclusion {
        match self.asker {
            Some(origin) => Conclusion::Answer(origin, Outcome::Voted(vote)),
            None => Conclusion::Held(self.preparation.id, vote),
        }
    }

    pub fn rank(&self) -> Rank {
        Rank::new(self.preparation.age, self.preparation.id)
    }

    pub fn keys(&self) -> Vec<(Key, LockMode)> {
        self.preparation.items.iter().map(|wanted| (wanted.item.key.clone(), LockMode::of(wanted.item.is_write()))).collect()
    }
}

impl Queues {
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Whether a waiter waits for the key.
    pub fn has(&self, key: &Key) -> bool {
        self.by_key.contains_key(key)
    }

    /// Whether any transaction that waits for the key is one that `rank` must not wait for.
    pub fn has_older(&self, key: &Key, rank: Rank) -> bool {
        let older = |ticket: &u64| matches!(&self.waiters[ticket].intent, Intent::Claim(claim) if claim.rank() <= rank);
        self.by_key.get(key).is_some_and(|queue| queue.iter().any(older))
    }

    /// Puts a waiter at the end of the queue of each of its keys.
    pub fn enter(&mut self, ticket: u64, waiter: Waiter) {
        for (key, _) in &waiter.keys {
            self.by_key.entry(key.clone()).or_default().push_back(ticket);
        }
        self.deadlines.insert((waiter.deadline, ticket));
        self.waiters.insert(ticket, waiter);
    }

    /// Puts a waiter that was at the front of all its queues back there.
    pub fn enter_first(&mut self, ticket: u64, waiter: Waiter) {
        for (key, _) in &waiter.keys {
            self.by_key.entry(key.clone()).or_default().push_front(ticket);
        }
        self.deadlines.insert((waiter.deadline, ticket));
        self.waiters.insert(ticket, waiter);
    }

    pub fn get(&self, ticket: u64) -> Option<&Waiter> {
        self.waiters.get(&ticket)
    }

    pub fn get_mut(&mut self, ticket: u64) -> Option<&mut Waiter> {
        self.waiters.get_mut(&ticket)
    }

    /// Whether the waiter is at the front of all its queues.
    pub fn is_first(&self, ticket: u64) -> bool {
        let first = |(key, _): &(Key, LockMode)| self.by_key.get(key).and_then(VecDeque::front) == Some(&ticket);
        self.waiters.get(&ticket).is_some_and(|waiter| waiter.keys.iter().all(first))
    }

    /// Takes a waiter out of its queues.
    pub fn leave(&mut self, ticket: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&ticket)?;
        self.deadlines.remove(&(waiter.deadline, ticket));
        for (key, _) in &waiter.keys {
            if let Some(queue) = self.by_key.get_mut(key) {
                queue.retain(|other| *other != ticket);
                if queue.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        Some(waiter)
    }

    /// The waiter at the front of each key's queue.
    pub fn fronts(&self, keys: &[(Key, LockMode)]) -> Vec<u64> {
        keys.iter().filter_map(|(key, _)| self.by_key.get(key)?.front().copied()).collect()
    }

    /// The earliest deadline, and its waiter's ticket.
    pub fn first_deadline(&self) -> Option<(Time, u64)> {
        self.deadlines.first().copied()
    }

    /// All waiters, out of all queues.
    pub fn take_all(&mut self) -> impl Iterator<Item = Waiter> + use<> {
        std::mem::take(self).waiters.into_values()
    }

    /// No transaction waits for an older one, neither for a lock nor in a queue.
    pub fn check_order(&self, locks: &Locks) {
        for (key, queue) in &self.by_key {
            let mut youngest_ahead = None;
            for ticket in queue {
                let waiter = &self.waiters[ticket];
                let Intent::Claim(claim) = &waiter.intent else { continue };
                let rank = claim.rank();
                // A waiter that waits for a value may share a key with an older one: it does not wait for that transaction.
                let waits = waiter.keys.iter().any(|(wanted, mode)| wanted == key && locks.conflict(key, *mode));
                assert!(!(waits && locks.held_by_older(key, rank)), "a transaction waits for younger ones only");
                assert!(youngest_ahead.is_none_or(|ahead| rank < ahead), "a queue is ordered from young to old");
                youngest_ahead = Some(rank);
            }
        }
    }

    /// What every waiter waits for will come. One at the front of all its queues is locked out by a transaction, whose end wakes
    /// it, or its values are being read: `reading` says how many are for a ticket. The others stand behind such a waiter.
    pub fn check_wakes(&self, locks: &Locks, reading: &BTreeMap<u64, usize>) {
        for (ticket, waiter) in &self.waiters {
            assert_eq!(waiter.reading, reading.get(ticket).copied().unwrap_or(0), "what a waiter lacks is being read");
            let locked_out = waiter.keys.iter().any(|(key, mode)| locks.conflict(key, *mode));
            assert!(
                waiter.reading > 0 || locked_out || !self.is_first(*ticket),
                "the front of its queues is locked out, or reading: {waiter:?}"
            );
        }
    }

    /// The callers of all waiters.
    pub fn callers(&self) -> impl Iterator<Item = Origin> {
        self.waiters.values().filter_map(|waiter| match &waiter.intent {
            Intent::Write(write) => Some(write.origin),
            Intent::Claim(claim) => claim.asker,
        })
    }

    /// The transactions that wait, by ticket.
    pub fn claims(&self) -> impl Iterator<Item = (u64, &Claim)> {
        self.waiters.iter().filter_map(|(ticket, waiter)| match &waiter.intent {
            Intent::Claim(claim) => Some((*ticket, &**claim)),
            Intent::Write(_) => None,
        })
    }

    pub fn check(&self) {
        assert_eq!(self.waiters.len(), self.deadlines.len(), "every waiter has a deadline");
        for (ticket, waiter) in &self.waiters {
            assert!(self.deadlines.contains(&(waiter.deadline, *ticket)), "every waiter is dismissed in time");
            let stands = |(key, _): &(Key, LockMode)| self.by_key.get(key).is_some_and(|queue| queue.contains(ticket));
            assert!(waiter.keys.iter().all(stands), "a waiter stands in all its queues");
        }
        assert!(self.by_key.values().flatten().all(|ticket| self.waiters.contains_key(ticket)), "only waiters stand in queues");
    }
}

impl Store {
    /// Puts a waiter in the queues of its keys, and evaluates it if its turn has come; turns it away if too many wait.
    pub(super) fn wait_in_queues(
        &mut self,
        cx: &mut Context<'_>,
        intent: Intent,
        keys: Vec<(Key, LockMode)>,
        deadline: Time,
        out: &mut Outbox<Out>,
    ) {
        let ticket = self.tag();
        let Some(leading) = &mut self.leading else { return };
        if leading.queues.len() >= cx.limits.parked_per_group {
            turn_away(intent, &Rejection::Overloaded, out);
            return;
        }
        if let Intent::Claim(claim) = &intent {
            leading.claims.insert(claim.preparation.id, ticket);
        }
        leading.queues.enter(ticket, Waiter { intent, keys, deadline, pins: Pins::new(), reading: 0, lent: Vec::new() });
        self.advance(cx, vec![ticket], out);
    }

    /// Evaluates the waiters whose turn has come, and those that stood behind them.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>, tickets: Vec<u64>, out: &mut Outbox<Out>) {
        let mut tickets = VecDeque::from(tickets);
        while let Some(ticket) = tickets.pop_front() {
            let Some(leading) = &mut self.leading else { return };
            let free = |waiter: &Waiter| {
                waiter.reading == 0 && waiter.keys.iter().all(|(key, mode)| !leading.locks.conflict(key, *mode))
            };
            if !leading.queues.is_first(ticket) || !leading.queues.get(ticket).is_some_and(free) {
                continue;
            }
            let Some(waiter) = leading.queues.leave(ticket) else { continue };
            let keys = waiter.keys.clone();
            if let Some(waiter) = self.attempt(cx, waiter, out)
                && self.fetch(cx, ticket, waiter, out)
            {
                continue;
            }
            let Some(leading) = &self.leading else { return };
            tickets.extend(leading.queues.fronts(&keys));
        }
    }

    /// Evaluates a waiter whose turn has come; gives it back if it lacks a value.
    fn attempt(&mut self, cx: &mut Context<'_>, waiter: Waiter, out: &mut Outbox<Out>) -> Option<Waiter> {
        let Waiter { intent, keys, deadline, pins, lent, .. } = waiter;
        let again = match intent {
            intent @ Intent::Write(..) if deadline <= cx.now => {
                Sometimes::WriteTooLateInItsTurn.reached();
                turn_away(intent, &Rejection::DeadlineExceeded, out);
                None
            }
            Intent::Write(write) => self.evaluate(cx, *write, &pins, out).map(|write| Intent::Write(Box::new(write))),
            Intent::Claim(claim) => {
                if let Some(leading) = &mut self.leading {
                    leading.claims.remove(&claim.preparation.id);
                }
                self.evaluate_claim(cx, *claim, deadline, &pins, out).map(|claim| Intent::Claim(Box::new(claim)))
            }
        };
        again.map(|intent| Waiter { intent, keys, deadline, pins, reading: 0, lent })
    }

    /// Puts a waiter that lacks values back to the front of its queues, and asks for them. `false`: too many bytes are being
    /// read, and it was turned away.
    fn fetch(&mut self, cx: &Context<'_>, ticket: u64, mut waiter: Waiter, out: &mut Outbox<Out>) -> bool {
        let wanted: Vec<&Key> = match &waiter.intent {
            Intent::Write(write) => vec![&write.operation.key],
            Intent::Claim(claim) => {
                let items = claim.preparation.items.iter().map(|wanted| &wanted.item);
                items.filter(|item| may_need_value(item)).map(|item| &item.key).collect()
            }
        };
        let wanted: Vec<(Key, ValuePlace)> = wanted
            .into_iter()
            .filter_map(|key| Some((key.clone(), self.state.items().get(key)?.value?)))
            .filter(|(_, value)| value.place.length > 0 && !waiter.pins.contains_key(&value.place))
            .collect();
        assert!(!wanted.is_empty(), "only what has a value on the disk lacks one");
        Sometimes::WaiterReadsAgain.when(!waiter.pins.is_empty());
        let Some(lent) = cx.cache.lend(wanted.iter().map(|(_, value)| value.place.length as usize).sum()) else {
            turn_away(waiter.intent, &Rejection::Overloaded, out);
            return false;
        };
        waiter.lent.push(lent);
        waiter.reading = wanted.len();
        for (key, value) in wanted {
            let tag = self.tag();
            self.waiting.insert(tag, Waiting::Parked { ticket, key, value });
            out.push(Out::ReadValue(tag, value));
        }
        if let Some(leading) = &mut self.leading {
            if let Intent::Claim(claim) = &waiter.intent {
                leading.claims.insert(claim.preparation.id, ticket);
            }
            leading.queues.enter_first(ticket, waiter);
        }
        true
    }

    /// A value that a waiter needs has come, or cannot be had.
    pub(super) fn on_pinned(
        &mut self,
        cx: &mut Context<'_>,
        ticket: u64,
        place: Place,
        value: Result<Bytes, Rejection>,
        out: &mut Outbox<Out>,
    ) {
        let Some(leading) = &mut self.leading else { return };
        let Some(waiter) = leading.queues.get_mut(ticket) else { return };
        match value {
            Ok(value) => {
                waiter.pins.insert(place, value);
                waiter.reading -= 1;
                if waiter.reading == 0 {
                    self.advance(cx, vec![ticket], out);
                }
            }
            Err(rejection) => {
                Sometimes::WaitersValueUnreadable.reached();
                self.dismiss(cx, ticket, &rejection, out);
            }
        }
    }

    /// Sends a waiter away.
    pub(super) fn dismiss(&mut self, cx: &mut Context<'_>, ticket: u64, why: &Rejection, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        let Some(waiter) = leading.queues.leave(ticket) else { return };
        if let Intent::Claim(claim) = &waiter.intent {
            leading.claims.remove(&claim.preparation.id);
        }
        let behind = leading.queues.fronts(&waiter.keys);
        turn_away(waiter.intent, why, out);
        self.advance(cx, behind, out);
    }
}

/// Tells the waiter's caller that nothing was done.
fn turn_away(intent: Intent, why: &Rejection, out: &mut Outbox<Out>) {
    match intent {
        Intent::Write(write) => reject(write.origin, why.clone(), out),
        Intent::Claim(claim) => claim.vote(Vote::Rejected(why.clone()), out),
    }
}

#[cfg(test)]
mod tests;
