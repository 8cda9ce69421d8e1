//! Which waiter waits for a key, in which order: single-key writes and transactions that wait for a lock, for a value from the
//! disk, or behind a waiter that does.
//!
//! A waiter stands in the queue of each of its keys. It is evaluated in one step when it is at the front of all of them, no lock
//! is in its way, and every value that it needs is pinned in memory. It holds nothing meanwhile. No later waiter passes it.

use super::evaluate::may_need_value;
use super::read::Waiting;
use super::{Out, Parked, Store, Verdict, reject};
use crate::actor::{Context, Origin, Outbox};
use crate::base::cache::Lent;
use crate::base::limits::PARKED_PER_GROUP_MAX;
use crate::base::{Key, Place, Time};
use crate::msg::client::Rejection;
use crate::msg::log::ValuePlace;
use crate::msg::peer::Outcome;
use crate::msg::transaction::{Preparation, Vote};
use crate::state::{Locks, Rank};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug, Default)]
pub struct Lines {
    waiters: BTreeMap<u64, Waiter>,
    by_key: BTreeMap<Key, VecDeque<u64>>,
    deadlines: BTreeSet<(Time, u64)>,
}

#[derive(Debug)]
pub struct Waiter {
    pub work: Work,
    /// With whether it wants the key for itself.
    pub keys: Vec<(Key, bool)>,
    pub deadline: Time,
    /// Values that were read for it.
    pub pins: Pins,
    /// How many values are on their way.
    pub reading: usize,
    /// For what was read, and is being.
    pub lent: Vec<Lent>,
}

/// Values by their place in the log. A place is written once, so that a pin is never stale. An empty value is never pinned: the cache answers it.
pub type Pins = BTreeMap<Place, Bytes>;

#[derive(Debug)]
pub enum Work {
    Write(Key, Parked),
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
    /// Tells whoever asked, at once.
    pub fn vote(&self, vote: Vote, out: &mut Outbox<Out>) {
        self.verdict(vote).tell(out);
    }

    /// It was certainly not begun: the next leader may.
    pub fn turn_away(&self, out: &mut Outbox<Out>) {
        out.push(match self.asker {
            Some(origin) => Out::Answer(origin, Outcome::NotLeader { leader: None }),
            None => Out::NotDecided(self.preparation.id),
        });
    }

    pub fn verdict(&self, vote: Vote) -> Verdict {
        match self.asker {
            Some(origin) => Verdict::Answer(origin, Outcome::Voted(vote)),
            None => Verdict::Held(self.preparation.id, vote),
        }
    }

    pub fn rank(&self) -> Rank {
        Rank::new(self.preparation.age, self.preparation.id)
    }

    pub fn keys(&self) -> Vec<(Key, bool)> {
        self.preparation.items.iter().map(|placed| (placed.item.key.clone(), placed.item.is_write())).collect()
    }
}

impl Lines {
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Whether anybody waits for the key.
    pub fn has(&self, key: &Key) -> bool {
        self.by_key.contains_key(key)
    }

    /// Whether any transaction that waits for the key is one that `rank` must not wait for.
    pub fn has_older(&self, key: &Key, rank: Rank) -> bool {
        let older = |ticket: &u64| matches!(&self.waiters[ticket].work, Work::Claim(claim) if claim.rank() <= rank);
        self.by_key.get(key).is_some_and(|line| line.iter().any(older))
    }

    /// Puts a waiter at the end of the line of each of its keys.
    pub fn enter(&mut self, ticket: u64, waiter: Waiter) {
        for (key, _) in &waiter.keys {
            self.by_key.entry(key.clone()).or_default().push_back(ticket);
        }
        self.deadlines.insert((waiter.deadline, ticket));
        self.waiters.insert(ticket, waiter);
    }

    /// Puts a waiter that was at the front of all its lines back there.
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

    /// Whether the waiter is at the front of all its lines.
    pub fn is_first(&self, ticket: u64) -> bool {
        let first = |(key, _): &(Key, bool)| self.by_key.get(key).and_then(VecDeque::front) == Some(&ticket);
        self.waiters.get(&ticket).is_some_and(|waiter| waiter.keys.iter().all(first))
    }

    /// Takes a waiter out of its lines.
    pub fn leave(&mut self, ticket: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&ticket)?;
        self.deadlines.remove(&(waiter.deadline, ticket));
        for (key, _) in &waiter.keys {
            if let Some(line) = self.by_key.get_mut(key) {
                line.retain(|other| *other != ticket);
                if line.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        Some(waiter)
    }

    /// Who is at the front of each key's line.
    pub fn fronts(&self, keys: &[(Key, bool)]) -> Vec<u64> {
        keys.iter().filter_map(|(key, _)| self.by_key.get(key)?.front().copied()).collect()
    }

    /// The earliest deadline, and whose.
    pub fn first_deadline(&self) -> Option<(Time, u64)> {
        self.deadlines.first().copied()
    }

    /// Everybody, out of all lines.
    pub fn take_all(&mut self) -> impl Iterator<Item = Waiter> + use<> {
        std::mem::take(self).waiters.into_values()
    }

    /// Nobody waits for an older transaction, neither for a lock nor in a line.
    pub fn check_order(&self, locks: &Locks) {
        for (key, line) in &self.by_key {
            let mut youngest_ahead = None;
            for ticket in line {
                let waiter = &self.waiters[ticket];
                let Work::Claim(claim) = &waiter.work else { continue };
                let rank = claim.rank();
                // One that waits for a value may share a key with an older one: it does not wait for that one.
                let waits = waiter.keys.iter().any(|(wanted, alone)| wanted == key && locks.conflict(key, *alone));
                assert!(!(waits && locks.held_by_older(key, rank)), "a transaction waits for younger ones only");
                assert!(youngest_ahead.is_none_or(|ahead| rank < ahead), "a line is ordered from young to old");
                youngest_ahead = Some(rank);
            }
        }
    }

    pub fn check(&self) {
        assert_eq!(self.waiters.len(), self.deadlines.len(), "every waiter has a deadline");
        for (ticket, waiter) in &self.waiters {
            let stands = |(key, _): &(Key, bool)| self.by_key.get(key).is_some_and(|line| line.contains(ticket));
            assert!(waiter.keys.iter().all(stands), "a waiter stands in all its lines");
        }
        assert!(
            self.by_key.values().flatten().all(|ticket| self.waiters.contains_key(ticket)),
            "nobody stands in a line who is gone"
        );
    }
}

impl Store {
    /// Puts work in the lines of its keys, and evaluates it if its turn has come; turns it away if too many wait.
    pub(super) fn stand_in_line(
        &mut self,
        cx: &mut Context<'_>,
        work: Work,
        keys: Vec<(Key, bool)>,
        deadline: Time,
        out: &mut Outbox<Out>,
    ) {
        let ticket = self.tag();
        let Some(leading) = &mut self.leading else { return };
        if leading.lines.len() >= PARKED_PER_GROUP_MAX {
            turn_away(work, &Rejection::Overloaded, out);
            return;
        }
        if let Work::Claim(claim) = &work {
            leading.claims.insert(claim.preparation.id, ticket);
        }
        leading.lines.enter(ticket, Waiter { work, keys, deadline, pins: Pins::new(), reading: 0, lent: Vec::new() });
        self.advance(cx, vec![ticket], out);
    }

    /// Evaluates those of the waiters, and of whom they stood before, whose turn has come.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>, tickets: Vec<u64>, out: &mut Outbox<Out>) {
        let mut tickets = VecDeque::from(tickets);
        while let Some(ticket) = tickets.pop_front() {
            let Some(leading) = &mut self.leading else { return };
            let free = |waiter: &Waiter| {
                waiter.reading == 0 && waiter.keys.iter().all(|(key, alone)| !leading.locks.conflict(key, *alone))
            };
            if !leading.lines.is_first(ticket) || !leading.lines.get(ticket).is_some_and(free) {
                continue;
            }
            let Some(waiter) = leading.lines.leave(ticket) else { continue };
            let keys = waiter.keys.clone();
            if let Some(waiter) = self.attempt(cx, waiter, out)
                && self.fetch(cx, ticket, waiter, out)
            {
                continue;
            }
            let Some(leading) = &self.leading else { return };
            tickets.extend(leading.lines.fronts(&keys));
        }
    }

    /// Evaluates a waiter whose turn has come; gives it back if it lacks a value.
    fn attempt(&mut self, cx: &mut Context<'_>, waiter: Waiter, out: &mut Outbox<Out>) -> Option<Waiter> {
        let Waiter { work, keys, deadline, pins, lent, .. } = waiter;
        let again = match work {
            work @ Work::Write(..) if deadline <= cx.now => {
                turn_away(work, &Rejection::DeadlineExceeded, out);
                None
            }
            Work::Write(key, write) => self.evaluate(cx, &key, write, &pins, out).map(|write| Work::Write(key, write)),
            Work::Claim(claim) => {
                if let Some(leading) = &mut self.leading {
                    leading.claims.remove(&claim.preparation.id);
                }
                self.evaluate_claim(cx, *claim, deadline, &pins, out).map(|claim| Work::Claim(Box::new(claim)))
            }
        };
        again.map(|work| Waiter { work, keys, deadline, pins, reading: 0, lent })
    }

    /// Puts a waiter that lacks values back to the front of its lines, and asks for them. `false`: too many bytes are being read, and it was turned away.
    fn fetch(&mut self, cx: &Context<'_>, ticket: u64, mut waiter: Waiter, out: &mut Outbox<Out>) -> bool {
        let wanted: Vec<&Key> = match &waiter.work {
            Work::Write(key, _) => vec![key],
            Work::Claim(claim) => {
                let items = claim.preparation.items.iter().map(|placed| &placed.item);
                items.filter(|item| may_need_value(item)).map(|item| &item.key).collect()
            }
        };
        let places: Vec<ValuePlace> = wanted
            .into_iter()
            .filter_map(|key| self.state.items().get(key).and_then(|item| item.value))
            .filter(|value| value.place.length > 0 && !waiter.pins.contains_key(&value.place))
            .collect();
        assert!(!places.is_empty(), "only what has a value on the disk lacks one");
        let Some(lent) = cx.cache.lend(places.iter().map(|value| value.place.length as usize).sum()) else {
            turn_away(waiter.work, &Rejection::Overloaded, out);
            return false;
        };
        waiter.lent.push(lent);
        waiter.reading = places.len();
        for place in places {
            let tag = self.tag();
            self.waiting.insert(tag, Waiting::Parked { ticket, place: place.place });
            out.push(Out::ReadValue(tag, place));
        }
        if let Some(leading) = &mut self.leading {
            if let Work::Claim(claim) = &waiter.work {
                leading.claims.insert(claim.preparation.id, ticket);
            }
            leading.lines.enter_first(ticket, waiter);
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
        let Some(waiter) = leading.lines.get_mut(ticket) else { return };
        match value {
            Ok(value) => {
                waiter.pins.insert(place, value);
                waiter.reading -= 1;
                if waiter.reading == 0 {
                    self.advance(cx, vec![ticket], out);
                }
            }
            Err(rejection) => self.dismiss(cx, ticket, &rejection, out),
        }
    }

    /// Sends a waiter away.
    pub(super) fn dismiss(&mut self, cx: &mut Context<'_>, ticket: u64, why: &Rejection, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        let Some(waiter) = leading.lines.leave(ticket) else { return };
        if let Work::Claim(claim) = &waiter.work {
            leading.claims.remove(&claim.preparation.id);
        }
        let behind = leading.lines.fronts(&waiter.keys);
        turn_away(waiter.work, why, out);
        self.advance(cx, behind, out);
    }
}

/// Tells who waited that nothing was done.
fn turn_away(work: Work, why: &Rejection, out: &mut Outbox<Out>) {
    match work {
        Work::Write(_, write) => reject(write.origin, why.clone(), out),
        Work::Claim(claim) => claim.vote(Vote::Rejected(why.clone()), out),
    }
}
