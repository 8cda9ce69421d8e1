//! What a group does for a transaction: as a participant it prepares, votes and resolves; as the home it holds its own items
//! until the decision.
//!
//! # A participant
//!
//! ```text
//! (nothing) --Prepare--> queued -> in flight -> prepared --Resolve, or the home's answer--> resolved -> (below the floor)
//!                              \-> No               \--too long without a decision--> Inquire, again and again
//! ```
//!
//! *Prepared* is an entry of the log: locks, and the writes with their values. It outlives any leader. Only the home's decision
//! ends it, and its entry (`Resolve`) must commit before the home is told. A *resolved* transaction is remembered until a later
//! prepare of the same home says that all attempts up to a *floor* are over, but for those that it names. Prepares of what is
//! over are refused. (Without the names one attempt that is stuck would keep the floor down, and everything after it in memory.)
//! So a late copy of a prepare is never taken for a new transaction, and no message of the protocol does harm by coming late,
//! twice, or in another order.
//!
//! The version of a participant's write is the index of its prepare. No other write of the key comes between prepare and
//! resolution, so versions still grow in the order of effect, and the vote can name them.
//!
//! # Stories
//!
//! 1. *A commit that an old leader acknowledged.* Leader A has a prepare in flight and is cut off from its followers, not from
//!    the home. The group elects B; the home's repeated prepare is committed there, B votes, the home commits. The home's
//!    `Resolve` reaches A, from a new leader of the home that still takes A for the leader. A found the prepare in flight and
//!    said "resolved", with nothing of it committed. So the home took every participant for told, and logged the end. When B
//!    asked, the home said that the transaction was unknown: aborted in one group, committed in the others. A leader whose
//!    prepare is in flight acknowledges an abort at once, and never a commit.
//! 2. *An attempt that is over while it is prepared.* The home gives an attempt up; its floor passes it before the abort is
//!    resolved here. What became of it is then not remembered: the floor refuses it already.
//!
//! 3. *A transaction and its own ghost.* An attempt dies for a conflict at one participant; at another its locks are held until
//!    the abort is in that log. The next attempt is as old, and is there first. Taken for a rival that is not younger, the ghost
//!    would kill it, and so on, attempt after attempt, the more surely the more groups take part.
//!
//! 4. *A prepare that was lost.* With relaxed syncing a majority of the group loses power, and with it a prepare that was voted
//!    for; the home has decided to commit. Nothing can be applied here. Told "not prepared here", the home told the group again,
//!    every 50 ms, for ever. Now the leader logs the resolution all the same. Once that is committed in its own term, all that
//!    was committed before the home was told stands before it. If the prepare does not, the leader answers *lost*, and the home
//!    counts it. Without that entry the leader may be one that was replaced, as in the first story: then others have the prepare,
//!    and have to be told. (A lease proves too little: it rests on the speeds of clocks, and only a stale read may come of
//!    those.)
//!
//! # Waiting ends
//!
//! A claim waits for a key only behind a greater [`Rank`]: that of a younger transaction, or of an earlier attempt of its own.
//! Ranks are totally ordered, so no circle closes. (They go by age, then by attempts backwards. Ages that should differ and do
//! not, after a clock was set back, are told apart by the attempts, or one kills the other.) It also waits behind a lesser rank
//! that is *leaving*: a holder whose decision is known here and proposed. Such a holder is decided, so it waits nowhere, and no
//! circle goes through it. An earlier attempt is over as well: its coordinator gave it up, or lost its leadership, before the
//! next was begun. The abort is on its way, and if that is lost the participant asks.
//!
//! # The home
//!
//! The home's own items are evaluated and locked in memory only (*held*). Their writes stand in the entry of the decision, so
//! that home and decision are one record and one round. If this leader loses its leadership first, locks and coordinator are gone
//! together, and no leader can decide the transaction any more ([`crate::txn`] says why that aborts it).

use super::evaluate::{Evaluated, evaluate};
use super::queues::{Claim, Intent, Pins, Waiter};
use super::{Conclusion, Confirming, Head, NoRoom, Out, Store};
use crate::actor::{Context, Origin, Outbox};
use crate::base::limits::{Limits, TRANSACTION_SIZE_MAX};
use crate::base::{Duration, Index, Key, Sometimes, Time, Version};
use crate::msg::codec::Blob;
use crate::msg::log::{Fact, ValuePlace};
use crate::msg::operation::{Acknowledge, Action, Rejection};
use crate::msg::peer::Outcome;
use crate::msg::transaction::{
    Age, Decision, Ending, Failure, FailureReason, ItemResult, Preparation, ResultAt, TokenRecord, TransactionAnswer,
    TransactionFact, TransactionId, TransactionReport, TransactionState, Vote, Write, Writes,
};
use crate::state::LockMode;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// How long a prepared transaction goes without a decision before its home is asked, and between two questions.
const INQUIRE_AFTER: Duration = Duration::from_millis(400);
/// The same, once a reader waits for it.
const INQUIRE_SOON: Duration = Duration::from_millis(50);

/// The home's own part of a transaction whose votes are awaited.
#[derive(Debug)]
pub struct Held {
    age: Age,
    keys: Vec<(Key, LockMode)>,
    writes: Vec<Write<Blob>>,
    /// The positions of `writes` in the transaction.
    positions: Vec<u32>,
}

/// A prepare in flight.
#[derive(Debug)]
pub struct Preparing {
    pub asker: Option<Origin>,
    keys: Vec<(Key, LockMode)>,
    vote: Vote,
    /// For the cache, in the order of the writes.
    values: Vec<Option<Bytes>>,
    /// The home has given it up meanwhile.
    aborted: bool,
}

/// A resolution in flight.
#[derive(Debug, Default)]
pub struct Resolving {
    /// Several leaders of the home may have told the outcome: one after another, each of which waits.
    pub askers: BTreeSet<Origin>,
}

/// A prepared transaction: what is volatile of it.
#[derive(Debug)]
pub struct Attended {
    /// When this node applied it.
    since: Time,
    /// When its home will be asked, while this node leads: as in `inquiries`.
    inquire_at: Option<Time>,
}

impl Attended {
    pub fn since(now: Time) -> Attended {
        Attended { since: now, inquire_at: None }
    }
}

impl Store {
    pub(super) fn on_prepare(
        &mut self,
        cx: &mut Context<'_>,
        origin: Origin,
        preparation: Preparation,
        deadline: Time,
        out: &mut Outbox<Out>,
    ) {
        let id = preparation.id;
        let over = self.state.outcomes().has_ended(id);
        let prepared = self.state.outcomes().is_prepared(id);
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.ready_at <= self.state.applied()) else {
            Sometimes::PrepareBeforeFirstCommit.reached();
            out.push(Out::Answer(origin, Outcome::NotLeader { leader: None }));
            return;
        };
        if prepared {
            Sometimes::PrepareRepeatedWhenPrepared.reached();
            Sometimes::VoteForgottenByNewLeader.when(!leading.votes.contains_key(&id));
            // Only the leader that evaluated it knows what to tell. A coordinator that has heard the vote does not listen any
            // more.
            let vote = leading.votes.get(&id).cloned().unwrap_or(Vote::No(Vec::new()));
            out.push(Out::Answer(origin, Outcome::Voted(vote)));
        } else if over {
            Sometimes::PrepareArrivesAfterOutcome.reached();
            out.push(Out::Answer(origin, Outcome::Voted(Vote::No(Vec::new()))));
        } else if let Some(preparing) = leading.preparing.get_mut(&id) {
            Sometimes::PrepareRepeatedInFlight.reached();
            preparing.asker = Some(origin);
        } else if let Some(ticket) = leading.claims.get(&id) {
            Sometimes::PrepareRepeatedInQueue.reached();
            if let Some(Waiter { intent: Intent::Claim(claim), .. }) = leading.queues.get_mut(*ticket) {
                claim.asker = Some(origin);
            }
        } else {
            self.claim(cx, Claim { preparation, asker: Some(origin) }, deadline, out);
        }
    }

    /// From the coordinator of this group.
    pub(super) fn on_hold(&mut self, cx: &mut Context<'_>, preparation: Preparation, deadline: Time, out: &mut Outbox<Out>) {
        if self.leading.as_ref().is_none_or(|leading| leading.paused) {
            Sometimes::HoldWhileHandedOver.reached();
            out.push(Out::NotDecided(preparation.id));
            return;
        }
        self.claim(cx, Claim { preparation, asker: None }, deadline, out);
    }

    /// Evaluates a transaction's items now, lets it wait, or lets it die. It waits only if it is older than every transaction
    /// that holds, or waits for, a key that it cannot have now (wait-die; Rosenkrantz, Stearns and Lewis, "System level
    /// concurrency control for distributed database systems", 1978). So none waits for an older one, and no circle of waiting can
    /// form. "Older" is by [`Rank`], a total order that holds nodes and attempts apart. The module says why every transaction may
    /// wait for an earlier attempt of its own, and for a holder that is leaving.
    fn claim(&mut self, cx: &mut Context<'_>, claim: Claim, deadline: Time, out: &mut Outbox<Out>) {
        let Some(leading) = &self.leading else { return };
        let rank = claim.rank();
        let mut contended = false;
        let mut conflicts = Vec::new();
        for wanted in &claim.preparation.items {
            let key = &wanted.item.key;
            if !leading.queues.has(key) && !leading.locks.conflict(key, LockMode::of(wanted.item.is_write())) {
                continue;
            }
            contended = true;
            // In a queue the mode does not matter: a waiter ahead may wait for any holder.
            if leading.queues.has_older(key, rank) || leading.locks.held_by_older(key, rank) {
                conflicts.push(Failure { item: wanted.position, reason: FailureReason::Conflict });
            }
        }
        Sometimes::TransactionDies.when(!conflicts.is_empty());
        Sometimes::TransactionWaits.when(contended && conflicts.is_empty());
        if !conflicts.is_empty() {
            claim.vote(Vote::No(conflicts), out);
            return;
        }
        let claim = if contended {
            claim
        } else {
            match self.evaluate_claim(cx, claim, deadline, &Pins::new(), out) {
                None => return,
                Some(claim) => claim,
            }
        };
        let keys = claim.keys();
        self.wait_in_queues(cx, Intent::Claim(Box::new(claim)), keys, deadline, out);
    }

    /// Evaluates all items in one step, at the head of the log, and takes their locks. Gives the claim back if it lacks a value.
    pub(super) fn evaluate_claim(
        &mut self,
        cx: &mut Context<'_>,
        claim: Claim,
        deadline: Time,
        pins: &Pins,
        out: &mut Outbox<Out>,
    ) -> Option<Claim> {
        let leading = self.leading.as_ref()?;
        if leading.paused {
            Sometimes::ClaimWhileHandedOver.reached();
            claim.turn_away(out);
            return None;
        }
        if deadline <= cx.now {
            Sometimes::ClaimTooLate.reached();
            claim.vote(Vote::Rejected(Rejection::DeadlineExceeded), out);
            return None;
        }
        if self.bytes_read(&claim) > TRANSACTION_SIZE_MAX {
            claim.vote(Vote::Rejected(Rejection::TooLarge), out);
            return None;
        }
        let version = Version(leading.next.0);
        let (mut failures, mut results, mut writes, mut positions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut depends = Index::ZERO;
        for wanted in &claim.preparation.items {
            let key = &wanted.item.key;
            let (current, entry) = self.current(cx, key, pins);
            depends = depends.max(entry);
            let result = match evaluate(&wanted.item, &current) {
                Evaluated::NeedsValue => {
                    Sometimes::TransactionLacksValue.reached();
                    return Some(claim);
                }
                Evaluated::Refused(reason) => {
                    failures.push(Failure { item: wanted.position, reason });
                    continue;
                }
                Evaluated::Write { value, number } => {
                    writes.push(Write { key: key.clone(), value: value.map(Blob) });
                    positions.push(wanted.position);
                    ItemResult { version, number, value: None }
                }
                Evaluated::Keep => {
                    let read = wanted.item.action == Action::Read;
                    ItemResult { version: current.version, number: None, value: current.value.filter(|_| read) }
                }
            };
            results.push(ResultAt { position: wanted.position, result });
        }
        if !failures.is_empty() {
            self.conclude(claim.conclusion(Vote::No(failures)), depends, out);
            return None;
        }
        let full = self.state.outcomes().prepared().len() >= cx.limits.prepared_per_group
            || self.remembers_too_much(cx.limits, &claim.preparation);
        let size = claim.preparation.size();
        let values = writes.iter().any(|write| write.value.is_some());
        match if full { Err(NoRoom::Anywhere(Rejection::Overloaded)) } else { self.room(cx, size, values) } {
            Ok(()) => self.lock(claim, Vote::Yes(results), writes, positions, deadline, out),
            Err(NoRoom::Here) => claim.turn_away(out),
            Err(NoRoom::Anywhere(why)) => claim.vote(Vote::Rejected(why), out),
        }
        None
    }

    /// Bytes of values that the claim's reads would answer with.
    fn bytes_read(&self, claim: &Claim) -> usize {
        let Some(leading) = &self.leading else { return 0 };
        let reads = claim.preparation.items.iter().filter(|wanted| wanted.item.action == Action::Read);
        reads
            .map(|wanted| match leading.head.get(&wanted.item.key) {
                Some(head) => head.value.as_ref().map_or(0, Bytes::len),
                None => self
                    .state
                    .items()
                    .get(&wanted.item.key)
                    .and_then(|item| item.value)
                    .map_or(0, |value| value.place.length as usize),
            })
            .sum()
    }

    /// Takes the locks; logs the prepare, or holds the home's part until its decision.
    fn lock(
        &mut self,
        claim: Claim,
        vote: Vote,
        writes: Vec<Write<Blob>>,
        positions: Vec<u32>,
        deadline: Time,
        out: &mut Outbox<Out>,
    ) {
        let Some(leading) = &mut self.leading else { return };
        let keys = claim.keys();
        let Claim { preparation: Preparation { id, age, floor, parties, open, .. }, asker } = claim;
        for (key, mode) in &keys {
            leading.locks.take(key, *mode, id, age);
        }
        if asker.is_none() {
            leading.held.insert(id, Held { age, keys, writes, positions });
            out.push(Out::Held(id, vote));
            return;
        }
        let values = writes.iter().map(|write| write.value.as_ref().map(|value| value.0.clone())).collect();
        let shared = keys.iter().filter(|(_, mode)| *mode == LockMode::Shared).map(|(key, _)| key.clone()).collect();
        leading.preparing.insert(id, Preparing { asker, keys, vote, values, aborted: false });
        let fact = TransactionFact::Prepare { id, age, floor, parties, shared, writes: Writes(writes), open };
        self.append_step(fact, deadline, out);
    }

    fn append_step(&mut self, fact: TransactionFact<Blob>, deadline: Time, out: &mut Outbox<Out>) {
        let size = fact.size();
        self.append(Fact::Transaction(Box::new(fact)), size, deadline, None, Acknowledge::Quorum, out);
    }

    /// Frees keys at the head of the log, and lets the next in their queues go.
    fn unlock(&mut self, cx: &mut Context<'_>, id: TransactionId, keys: &[(Key, LockMode)], out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        for (key, _) in keys {
            leading.locks.release(key, id);
        }
        let next = leading.queues.fronts(keys);
        self.advance(cx, next, out);
    }

    /// The coordinator of this group gives the transaction up.
    pub(super) fn on_release(&mut self, cx: &mut Context<'_>, id: TransactionId, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        if let Some(held) = leading.held.remove(&id) {
            Sometimes::HomesLocksGivenUp.reached();
            self.unlock(cx, id, &held.keys, out);
        } else if let Some(waiter) = leading.claims.remove(&id).and_then(|ticket| leading.queues.leave(ticket)) {
            let next = leading.queues.fronts(&waiter.keys);
            self.advance(cx, next, out);
        }
    }

    pub(super) fn on_decide(&mut self, cx: &mut Context<'_>, decision: Decision, out: &mut Outbox<Out>) {
        let Some(leading) = self.leading.as_mut() else { return };
        let Decision { id, commit, parties, ended, mut token } = decision;
        if leading.paused {
            Sometimes::DecisionWhileHandedOver.reached();
            out.push(Out::NotDecided(id));
            return;
        }
        let held = leading.held.remove(&id).filter(|_| commit);
        let version = Version(leading.next.0);
        let (keys, writes, positions) = held.map_or_else(Default::default, |held| (held.keys, held.writes, held.positions));
        for write in &writes {
            assert_eq!(leading.locks.exclusive_holder(&write.key), Some(id), "a home decides what it has locked");
            leading.head.insert(write.key.clone(), Head { version, value: write.value.as_ref().map(|value| value.0.clone()) });
        }
        if let Some(TokenRecord { answer: TransactionAnswer::Committed(results), .. }) = &mut token {
            positions.iter().for_each(|position| results[*position as usize].version = version);
        }
        let fact = TransactionFact::Decide { id, commit, parties, writes: Writes(writes), ended, token };
        self.append_step(fact, Time::NEVER, out);
        self.unlock(cx, id, &keys, out);
    }

    pub(super) fn on_end(&mut self, ending: Ending, out: &mut Outbox<Out>) {
        if self.leading.as_ref().is_some_and(|leading| !leading.paused) {
            let Ending { ended, expired, tick } = ending;
            self.append_step(TransactionFact::End { ended, expired, tick }, Time::NEVER, out);
        }
    }

    /// The home has decided.
    pub(super) fn on_resolve(
        &mut self,
        cx: &mut Context<'_>,
        origin: Origin,
        id: TransactionId,
        commit: bool,
        out: &mut Outbox<Out>,
    ) {
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.ready_at <= self.state.applied()) else {
            out.push(Out::Answer(origin, Outcome::NotLeader { leader: None }));
            return;
        };
        if self.state.outcomes().is_prepared(id) {
            self.resolve(id, commit, Some(origin), out);
            return;
        }
        if let Some(preparing) = leading.preparing.get_mut(&id).filter(|_| !commit) {
            // Its locks are in the log's future: they are freed as soon as they are there. (If it is committed, a later leader's
            // prepare was: this one is not in the log, and nothing may be acknowledged here.)
            Sometimes::AbortOvertakesPrepare.reached();
            preparing.aborted = true;
            preparing.keys.iter().for_each(|(key, _)| leading.locks.leave(key, id));
        } else if let Some(ticket) = leading.claims.get(&id).copied().filter(|_| !commit) {
            Sometimes::AbortFindsWaiter.reached();
            self.dismiss(cx, ticket, &Rejection::DeadlineExceeded, out);
        } else if commit && !self.state.outcomes().has_ended(id) {
            Sometimes::CommitOfWhatIsNotPrepared.reached();
            match self.is_coming(id) {
                true => out.push(Out::Answer(origin, Outcome::NotLeader { leader: None })),
                // Lost, or this node was replaced and does not know it. Its entry tells: it is committed only if this node leads.
                false => self.resolve(id, true, Some(origin), out),
            }
            return;
        } else {
            Sometimes::OutcomeToldAgain.when(self.state.outcomes().has_ended(id));
            Sometimes::AbortOfWhatNeverCame.when(!commit && !self.state.outcomes().has_ended(id));
        }
        out.push(Out::Answer(origin, Outcome::Resolved));
    }

    /// Whether it may be prepared here soon.
    fn is_coming(&self, id: TransactionId) -> bool {
        let coming = |leading: &super::Leading| leading.preparing.contains_key(&id) || leading.claims.contains_key(&id);
        self.state.outcomes().is_prepared(id) || self.leading.as_ref().is_some_and(coming)
    }

    /// Logs the resolution of a transaction, once. Each of its askers is told when it is applied, and whether there was anything
    /// to resolve.
    fn resolve(&mut self, id: TransactionId, commit: bool, asker: Option<Origin>, out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        if let Some(resolving) = leading.resolving.get_mut(&id) {
            Sometimes::OutcomeToldWhileResolving.reached();
            resolving.askers.extend(asker);
            return;
        }
        leading.resolving.insert(id, Resolving { askers: asker.into_iter().collect() });
        if let Some(prepared) = self.state.outcomes().prepared().get(&id) {
            prepared.keys().for_each(|(key, _)| leading.locks.leave(key, id));
        }
        self.append_step(TransactionFact::Resolve { id, commit }, Time::NEVER, out);
    }

    pub(super) fn on_inquired(&mut self, now: Time, id: TransactionId, decision: Option<bool>, out: &mut Outbox<Out>) {
        let open = self.state.outcomes().is_prepared(id)
            && self.leading.as_ref().is_some_and(|l| !l.paused && l.ready_at <= self.state.applied());
        Sometimes::HomeStillUndecided.when(open && decision.is_none());
        Sometimes::DoubtEndsByAbort.when(open && decision == Some(false));
        Sometimes::DoubtEndsByCommit.when(open && decision == Some(true));
        Sometimes::InquiryAnsweredTooLate.when(!open);
        match decision {
            Some(commit) if open => self.resolve(id, commit, None, out),
            _ if open => self.inquire_at(now + INQUIRE_AFTER, id),
            _ => {}
        }
    }

    /// Asks the homes of the transactions that have waited too long.
    pub(super) fn inquire(&mut self, now: Time, out: &mut Outbox<Out>) {
        while let Some((_, id)) = self.inquiries.first().copied().filter(|(at, _)| *at <= now) {
            out.push(Out::Inquire(id));
            self.inquire_at(now + INQUIRE_AFTER, id);
        }
    }

    fn inquire_at(&mut self, at: Time, id: TransactionId) {
        let Some(attended) = self.attended.get_mut(&id) else { return };
        if let Some(before) = attended.inquire_at.replace(at) {
            self.inquiries.remove(&(before, id));
        }
        self.inquiries.insert((at, id));
    }

    /// A reader waits for it.
    pub(super) fn hurry(&mut self, now: Time, id: TransactionId) {
        let soon = now + INQUIRE_SOON;
        if self.attended.get(&id).and_then(|attended| attended.inquire_at).is_some_and(|at| at > soon) {
            self.inquire_at(soon, id);
        }
    }

    /// All of earlier terms is applied: the locks of what is prepared hold under this leader, too.
    pub(super) fn lock_prepared(&mut self, now: Time) {
        let Some(leading) = &mut self.leading else { return };
        leading.locks = self.state.outcomes().locks().clone();
        let waiting: Vec<TransactionId> = self.attended.keys().copied().collect();
        waiting.into_iter().for_each(|id| self.inquire_at(now + INQUIRE_SOON, id));
    }

    /// This node does not lead any more: the next leader asks.
    pub(super) fn forget_inquiries(&mut self) {
        self.inquiries.clear();
        self.attended.values_mut().for_each(|attended| attended.inquire_at = None);
    }

    /// Whether there is no room to remember another outcome. What says that more is over makes room.
    fn remembers_too_much(&self, limits: &Limits, preparation: &Preparation) -> bool {
        let outcomes = self.state.outcomes();
        outcomes.resolved_count() >= limits.resolved_per_group && !outcomes.raises(preparation.id.home, preparation.floor)
    }

    /// The keys that a step which is about to be applied sets free, and whether they were locked alone.
    pub(super) fn keys_resolved_by(&self, step: &TransactionFact<ValuePlace>) -> Vec<(Key, LockMode)> {
        let TransactionFact::Resolve { id, .. } = step else { return Vec::new() };
        let prepared = self.state.outcomes().prepared().get(id);
        prepared.map_or_else(Vec::new, |prepared| prepared.keys().map(|(key, mode)| (key.clone(), mode)).collect())
    }

    /// A step is applied: does what is volatile of it, and what a leader has to. `resolved`: [`Store::keys_resolved_by`] it.
    pub(super) fn after_step(
        &mut self,
        cx: &mut Context<'_>,
        index: Index,
        step: &TransactionFact<ValuePlace>,
        resolved: &[(Key, LockMode)],
        out: &mut Outbox<Out>,
    ) {
        match step {
            TransactionFact::Prepare { id, writes, .. } => {
                if self.state.outcomes().is_prepared(*id) {
                    self.attended.entry(*id).or_insert(Attended::since(cx.now));
                }
                self.on_prepared(cx, *id, &writes.0, out);
            }
            TransactionFact::Decide { commit, writes, .. } => {
                for write in writes.0.iter().filter(|_| *commit) {
                    self.after_write(cx, index, &write.key, write.value);
                }
                out.push(Out::Decided(index, step.decision().expect("it is one")));
            }
            TransactionFact::Resolve { id, .. } => {
                if let Some(at) = self.attended.remove(id).and_then(|attended| attended.inquire_at) {
                    self.inquiries.remove(&(at, *id));
                }
                self.on_resolved(cx, *id, resolved, out);
            }
            TransactionFact::End { ended, expired, tick } => {
                out.push(Out::Ended(Ending { ended: ended.clone(), expired: expired.clone(), tick: *tick }));
            }
        }
    }

    /// The prepare is committed: the vote may be told.
    fn on_prepared(&mut self, cx: &mut Context<'_>, id: TransactionId, writes: &[Write<ValuePlace>], out: &mut Outbox<Out>) {
        let Some(leading) = &mut self.leading else { return };
        // One of an earlier term: locked when all of them are applied.
        let Some(preparing) = leading.preparing.remove(&id) else { return };
        assert!(self.state.outcomes().is_prepared(id), "a group votes for what it has prepared, locks and all");
        for (write, value) in writes.iter().zip(&preparing.values) {
            if let (Some(place), Some(value)) = (write.value, value) {
                cx.cache.insert(place.place, value);
            }
        }
        if let Some(origin) = preparing.asker {
            out.push(Out::Answer(origin, Outcome::Voted(preparing.vote.clone())));
        }
        leading.votes.insert(id, preparing.vote);
        self.inquire_at(cx.now + INQUIRE_AFTER, id);
        Sometimes::PreparedAfterItsAbort.when(preparing.aborted);
        if preparing.aborted && !self.leading.as_ref().is_some_and(|leading| leading.paused) {
            self.resolve(id, false, None, out);
        }
    }

    /// The resolution is committed: locks are free, readers go on, the home may be told.
    fn on_resolved(&mut self, cx: &mut Context<'_>, id: TransactionId, keys: &[(Key, LockMode)], out: &mut Outbox<Out>) {
        let coming = self.is_coming(id);
        let Some(leading) = &mut self.leading else { return };
        leading.votes.remove(&id);
        for origin in leading.resolving.remove(&id).unwrap_or_default().askers {
            // Whatever was committed before the home was told stands before this entry, and is applied.
            let outcome = match self.state.outcomes().has_ended(id) {
                true => Outcome::Resolved,
                // A late copy of the prepare came meanwhile: the home tells again.
                false if coming => Outcome::NotLeader { leader: None },
                false => Outcome::Lost,
            };
            out.push(Out::Answer(origin, outcome));
        }
        self.unlock(cx, id, keys, out);
        for (key, _) in keys.iter().filter(|(_, mode)| *mode == LockMode::Exclusive) {
            self.unblock(cx, key, out);
        }
    }

    /// What is prepared here, for `ringseed txns`.
    pub fn transactions(&self, now: Time) -> impl Iterator<Item = TransactionReport> {
        let prepared = self.state.outcomes().prepared().iter().zip(self.attended.values());
        prepared.map(move |((id, prepared), attended)| TransactionReport {
            id: *id,
            age_ms: now.since(attended.since).as_millis() as u64,
            group: self.group,
            state: TransactionState::Prepared,
            parties: prepared.parties.clone(),
            locks: (prepared.shared.len() + prepared.writes.len()) as u32,
        })
    }

    /// How many keys the transaction has locked as its home.
    pub fn locks_held(&self, id: TransactionId) -> u32 {
        self.leading.as_ref().and_then(|leading| leading.held.get(&id)).map_or(0, |held| held.keys.len() as u32)
    }

    pub(super) fn check_participant(&self) {
        let prepared = self.state.outcomes().prepared();
        assert!(self.attended.keys().eq(prepared.keys()), "what is prepared is attended to");
        let Some(leading) = self.leading.as_ref().filter(|leading| leading.ready_at <= self.state.applied()) else { return };
        for (key, mode, id) in leading.locks.iter() {
            let has = |keys: &[(Key, LockMode)]| keys.contains(&(key.clone(), mode));
            let live = prepared.get(&id).is_some_and(|prepared| prepared.keys().any(|held| held == (key, mode)))
                || leading.preparing.get(&id).is_some_and(|preparing| has(&preparing.keys))
                || leading.held.get(&id).is_some_and(|held| has(&held.keys));
            assert!(live, "the lock of {id} on {} belongs to a live transaction", key);
        }
        leading.queues.check_order(&leading.locks);
        for (key, mode, id) in self.state.outcomes().locks().iter() {
            let held = leading.locks.iter().any(|lock| lock == (key, mode, id));
            assert!(held, "what is prepared of {} is locked under every leader", key);
        }
        assert!(leading.held.values().all(|held| held.age != Age::default() || held.keys.is_empty()), "what is held has an age");
        assert_eq!(self.inquiries.len(), self.attended.len(), "what is prepared is asked for some day");
        let asked = |(id, attended): (&TransactionId, &Attended)| {
            attended.inquire_at.is_some_and(|at| self.inquiries.contains(&(at, *id)))
        };
        assert!(self.attended.iter().all(asked), "what is prepared is asked for at its time");
        let claims: BTreeMap<TransactionId, u64> =
            leading.queues.claims().map(|(ticket, claim)| (claim.preparation.id, ticket)).collect();
        assert_eq!(leading.claims, claims, "every claim has a waiter");
        // Each of them has an entry of its own among those in flight.
        let logged = leading.preparing.len() + leading.resolving.len();
        assert!(logged <= leading.pending.len(), "what is prepared or resolved here is in flight");
        assert!(leading.resolving.keys().all(|id| !leading.claims.contains_key(id)), "what is resolved does not wait");
    }

    /// What this group's coordinator has asked of it: the transactions whose own items are locked, and those whose items are not
    /// evaluated yet, or whose refusal is being confirmed.
    pub fn held_for_coordinator(&self) -> (BTreeSet<TransactionId>, BTreeSet<TransactionId>) {
        let Some(leading) = &self.leading else { return (BTreeSet::new(), BTreeSet::new()) };
        let waiting = leading.queues.claims().filter(|(_, claim)| claim.asker.is_none()).map(|(_, claim)| claim.preparation.id);
        let confirming = self.confirming.values().filter_map(|confirming| match confirming {
            Confirming::Check { conclusion, .. } => Some(conclusion),
            Confirming::Read { .. } => None,
        });
        let refused = confirming.chain(leading.depending.values()).filter_map(|conclusion| match conclusion {
            Conclusion::Held(id, _) => Some(*id),
            Conclusion::Answer(..) => None,
        });
        (leading.held.keys().copied().collect(), waiting.chain(refused).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::{Actor, Committed, LivenessView};
    use crate::base::cache::ValueCache;
    use crate::base::{GroupId, Term, random};
    use crate::msg::client::ResponseBody;
    use crate::msg::log::FactSummary;
    use crate::msg::operation::Operation;
    use crate::msg::peer::Task;
    use crate::msg::transaction::{Attempt, ItemAt};
    use crate::state::State;
    use crate::store::In;

    fn handle(store: &mut Store, input: In) -> Vec<Out> {
        let (mut random, mut cache) =
            (random::stream(1, "test"), ValueCache::new(1 << 20, &crate::base::limits::Limits::DEFAULT));
        let view = LivenessView::EMPTY;
        let mut cx = Context::of_test(&mut random, &view, &mut cache);
        let mut out = Outbox::default();
        store.handle(&mut cx, input, &mut out);
        store.check();
        std::iter::from_fn(|| out.pop()).collect()
    }

    fn ask(store: &mut Store, sequence: u64, task: Task) -> Vec<Out> {
        let (origin, deadline) = (Origin::Gateway(sequence), Time::from_millis(1_000));
        handle(store, In::Task { origin, task, term: Some(Term(3)), deadline })
    }

    fn leader() -> Store {
        let mut store = Store::new(GroupId(1), State::new(), Time::ZERO);
        handle(&mut store, In::Led(Term(3), Index(2)));
        handle(&mut store, In::Apply(Committed { index: Index(1), fact: FactSummary::Noop }));
        store
    }

    fn prepare(id: TransactionId, keys: &[&'static str]) -> Task {
        let item = |key: &&'static str| Operation::put(*key, "v");
        let items = (0..).zip(keys).map(|(position, key)| ItemAt { position, item: item(key) }).collect();
        let age = Age { began_ms: id.attempt.number, ..Age::default() };
        Task::Prepare(Preparation { id, age, floor: Attempt::default(), parties: vec![GroupId(1)], items, open: Vec::new() })
    }

    fn id(number: u64) -> TransactionId {
        TransactionId { home: GroupId(2), attempt: Attempt { term: Term(1), number } }
    }

    fn resolved(out: &[Out]) -> bool {
        out.iter().any(|out| matches!(out, Out::Answer(_, Outcome::Resolved)))
    }

    #[test]
    fn a_leader_whose_prepare_is_in_flight_acknowledges_an_abort_and_no_commit() {
        let mut store = leader();
        let proposed = ask(&mut store, 1, prepare(id(1), &["a"]));
        assert!(matches!(proposed[..], [Out::Propose { index: Index(2), .. }]), "{proposed:?}");
        assert!(!resolved(&ask(&mut store, 2, Task::Resolve { id: id(1), commit: true })), "nothing of it is committed here");
        assert!(resolved(&ask(&mut store, 3, Task::Resolve { id: id(1), commit: false })));
    }

    #[test]
    fn a_store_is_idle_when_nothing_is_in_flight_and_nothing_is_in_doubt() {
        let mut store = leader();
        assert!(store.is_idle());
        let ghost = proposed(&ask(&mut store, 1, prepare(id(1), &["a"])));
        assert!(!store.is_idle(), "its prepare is in flight");
        commit(&mut store, 2, ghost);
        assert!(!store.is_idle(), "it is prepared");
        let abort = proposed(&ask(&mut store, 2, Task::Resolve { id: id(1), commit: false }));
        assert!(!store.is_idle(), "its end is in flight");
        commit(&mut store, 3, abort);
        assert!(store.is_idle());
    }

    #[test]
    fn a_reader_that_waits_for_what_is_prepared_has_its_home_asked_sooner_but_not_at_once() {
        let mut store = leader();
        let ghost = proposed(&ask(&mut store, 1, prepare(id(1), &["a"])));
        commit(&mut store, 2, ghost);
        let now = Time::from_millis(1);
        assert_eq!(store.deadline().expect("it asks some day").0, now + INQUIRE_AFTER);
        let read = |store: &mut Store, key: &'static str| {
            let asked = ask(store, 2, Task::Operation(Operation::read(key).alone()));
            let confirm = asked.iter().find_map(|out| if let Out::Confirm(tag) = out { Some(*tag) } else { None });
            handle(store, In::Confirmed(confirm.expect("a read is confirmed")))
        };
        assert!(!read(&mut store, "b").is_empty(), "another key");
        assert_eq!(store.deadline().expect("as before").0, now + INQUIRE_AFTER);
        assert!(read(&mut store, "a").is_empty(), "it waits");
        assert_eq!(store.deadline().expect("sooner").0, now + INQUIRE_SOON);
    }

    #[test]
    fn the_locks_of_what_is_prepared_and_of_what_is_held_for_its_home_are_reported() {
        let mut store = leader();
        let items = [Operation::read("a"), Operation::read("b"), Operation::put("c", "v"), Operation::delete("d")];
        let items = (0..).zip(items.into_iter().chain([Operation::put("e", "v")]));
        let items: Vec<ItemAt> = items.map(|(position, item)| ItemAt { position, item }).collect();
        let Task::Prepare(preparation) = prepare(id(1), &[]) else { unreachable!() };
        let ghost = proposed(&ask(&mut store, 1, Task::Prepare(Preparation { items, ..preparation })));
        commit(&mut store, 2, ghost);
        let reports: Vec<TransactionReport> = store.transactions(Time::from_millis(7)).collect();
        assert_eq!(reports.len(), 1);
        assert_eq!((reports[0].id, reports[0].locks, reports[0].age_ms), (id(1), 5, 6));
        // And at a home, until it is given up.
        let home = TransactionId { home: GroupId(1), attempt: Attempt { term: Term(3), number: 1 } };
        let Task::Prepare(preparation) = prepare(home, &["x", "y", "z"]) else { unreachable!() };
        handle(&mut store, In::Hold(preparation, Time::from_millis(1_000)));
        assert_eq!((store.locks_held(home), store.locks_held(id(1))), (3, 0));
        handle(&mut store, In::Release(home));
        assert_eq!(store.locks_held(home), 0);
    }

    #[test]
    fn a_leader_takes_no_more_writes_than_may_be_uncommitted() {
        let mut store = leader();
        let max = Limits::DEFAULT.uncommitted_entries as u64;
        let put = |store: &mut Store, n: u64| ask(store, n, Task::Operation(Operation::put(format!("k{n}"), "v").alone()));
        for n in 1..=max {
            assert!(matches!(put(&mut store, n)[..], [Out::Propose { .. }]), "{n} of {max}");
        }
        let refused = put(&mut store, max + 1);
        let overloaded = Outcome::Answer(ResponseBody::Rejected(Rejection::Overloaded));
        assert!(matches!(&refused[..], [Out::Answer(_, outcome)] if *outcome == overloaded), "{refused:?}");
    }

    #[test]
    fn the_older_waits_and_the_younger_dies() {
        let mut store = leader();
        ask(&mut store, 1, prepare(id(5), &["a", "b"]));
        let younger = ask(&mut store, 2, prepare(id(6), &["b", "c"]));
        assert!(
            matches!(&younger[..], [Out::Answer(_, Outcome::Voted(Vote::No(failures)))] if failures.len() == 1),
            "{younger:?}"
        );
        assert!(ask(&mut store, 3, prepare(id(4), &["b"])).is_empty(), "it waits");
        let behind = ask(&mut store, 4, prepare(id(4), &["b"]));
        assert!(behind.is_empty(), "a repeated prepare is the same one");
        let passing = ask(&mut store, 5, prepare(id(7), &["b"]));
        assert!(matches!(&passing[..], [Out::Answer(_, Outcome::Voted(Vote::No(_)))]), "nobody passes who waits: {passing:?}");
    }

    /// A prepare of this attempt, of this age.
    fn of_age(number: u64, began_ms: u64, keys: &[&'static str]) -> Task {
        let Task::Prepare(preparation) = prepare(id(number), keys) else { unreachable!() };
        Task::Prepare(Preparation { age: Age { began_ms, ..Age::default() }, ..preparation })
    }

    fn dies(out: &[Out]) -> bool {
        matches!(out, [Out::Answer(_, Outcome::Voted(Vote::No(failures)))] if !failures.is_empty())
    }

    /// What the leader has proposed is committed.
    fn commit(store: &mut Store, index: u64, fact: TransactionFact<ValuePlace>) -> Vec<Out> {
        let fact = FactSummary::Transaction(Box::new(fact));
        handle(store, In::Apply(Committed { index: Index(index), fact }))
    }

    fn proposed(out: &[Out]) -> TransactionFact<ValuePlace> {
        let Some(Out::Propose { fact: Fact::Transaction(fact), .. }) = out.first() else {
            panic!("nothing is proposed: {out:?}")
        };
        let place = crate::base::Place { segment: crate::base::SegmentId(1), offset: 0, length: 1 };
        fact.map(|_| ValuePlace { place, checksum: 0 })
    }

    #[test]
    fn a_transaction_waits_for_its_own_ghost_and_an_earlier_attempt_for_no_later_one() {
        let mut store = leader();
        let ghost = proposed(&ask(&mut store, 1, of_age(5, 50, &["a"])));
        assert!(dies(&ask(&mut store, 2, of_age(4, 50, &["a"]))), "an earlier attempt that comes late is over");
        assert!(ask(&mut store, 3, of_age(6, 50, &["a"])).is_empty(), "the next attempt waits");
        assert!(dies(&ask(&mut store, 4, of_age(5 + 2, 60, &["a"]))), "nobody younger does");
        commit(&mut store, 2, ghost);
        let abort = proposed(&ask(&mut store, 5, Task::Resolve { id: id(5), commit: false }));
        let next = commit(&mut store, 3, abort);
        assert!(next.iter().any(|out| matches!(out, Out::Propose { .. })), "it has the key now: {next:?}");
    }

    #[test]
    fn everybody_waits_for_a_holder_that_is_leaving() {
        let mut store = leader();
        let prepare = proposed(&ask(&mut store, 1, of_age(1, 10, &["a"])));
        commit(&mut store, 2, prepare);
        assert!(dies(&ask(&mut store, 2, of_age(2, 20, &["a"]))), "not decided: the younger dies");
        ask(&mut store, 3, Task::Resolve { id: id(1), commit: true });
        assert!(ask(&mut store, 4, of_age(3, 20, &["a"])).is_empty(), "decided: it waits");
        assert!(dies(&ask(&mut store, 5, of_age(4, 30, &["a"]))), "and nobody waits for it who is younger");
    }

    #[test]
    fn every_leader_that_told_an_outcome_is_answered() {
        let mut store = leader();
        let prepare = proposed(&ask(&mut store, 1, prepare(id(1), &["a"])));
        commit(&mut store, 2, prepare);
        let resolve = proposed(&ask(&mut store, 2, Task::Resolve { id: id(1), commit: true }));
        assert!(ask(&mut store, 3, Task::Resolve { id: id(1), commit: true }).is_empty(), "it is logged once");
        assert_eq!(store.callers(), [Origin::Gateway(2), Origin::Gateway(3)].into());
        let answered: Vec<Origin> = commit(&mut store, 3, resolve)
            .iter()
            .filter_map(|out| if let Out::Answer(origin, Outcome::Resolved) = out { Some(*origin) } else { None })
            .collect();
        assert_eq!(answered, [Origin::Gateway(2), Origin::Gateway(3)]);
    }

    /// Prepares and resolves an attempt, at this index and the next.
    fn prepare_and_resolve(store: &mut Store, number: u64, index: u64, floor: u64, open: &[u64]) {
        let Task::Prepare(preparation) = prepare(id(number), &["a"]) else { unreachable!() };
        let attempt = |number: u64| id(number).attempt;
        let open = open.iter().copied().map(attempt).collect();
        let prepare = proposed(&ask(store, 1, Task::Prepare(Preparation { floor: attempt(floor), open, ..preparation })));
        commit(store, index, prepare);
        let resolve = proposed(&ask(store, 2, Task::Resolve { id: id(number), commit: true }));
        commit(store, index + 1, resolve);
    }

    #[test]
    fn what_one_open_attempt_makes_the_group_remember_is_bounded() {
        let mut store = leader();
        prepare_and_resolve(&mut store, 1, 2, 0, &[]);
        for number in 2..500 {
            // The first is open for ever: its home has not heard from another participant.
            prepare_and_resolve(&mut store, number, 2 * number, number - 1, &[1]);
            assert!(store.state.outcomes().resolved_count() <= 2, "{:?}", store.state);
        }
        let is_over = |store: &Store, number| store.state.outcomes().is_over(id(number));
        assert!(!is_over(&store, 1) && is_over(&store, 2) && !is_over(&store, 499));
        // A late copy of what is over is refused; of what is open, known.
        assert!(matches!(&ask(&mut store, 3, prepare(id(7), &["b"]))[..], [Out::Answer(_, Outcome::Voted(Vote::No(_)))]));
        assert!(resolved(&ask(&mut store, 4, Task::Resolve { id: id(1), commit: true })));
        prepare_and_resolve(&mut store, 500, 1_000, 499, &[]);
        assert!(is_over(&store, 1) && store.state.outcomes().resolved_count() == 1);
    }

    #[test]
    fn a_commit_of_what_was_lost_is_answered_once_its_entry_is_committed() {
        let mut store = leader();
        let told = |number| Task::Resolve { id: id(number), commit: true };
        let asked = ask(&mut store, 1, told(1));
        let resolve = proposed(&asked);
        assert!(asked.len() == 1 && ask(&mut store, 2, told(1)).is_empty(), "one entry, and no answer before it is committed");
        let answer = commit(&mut store, 2, resolve);
        assert!(
            matches!(
                answer[..],
                [Out::Answer(Origin::Gateway(1), Outcome::Lost), Out::Answer(Origin::Gateway(2), Outcome::Lost)]
            ),
            "{answer:?}"
        );
        // If a copy of the prepare comes meanwhile, it is not.
        let resolve = proposed(&ask(&mut store, 3, told(1)));
        let prepare = proposed(&ask(&mut store, 4, prepare(id(1), &["a"])));
        let answer = commit(&mut store, 3, resolve);
        assert!(matches!(answer[..], [Out::Answer(_, Outcome::NotLeader { .. })]), "{answer:?}");
        commit(&mut store, 4, prepare);
        let resolve = proposed(&ask(&mut store, 5, told(1)));
        assert!(resolved(&commit(&mut store, 5, resolve)));
        // A leader that is replaced never commits its entry, and never says so.
        ask(&mut store, 6, told(2));
        let deposed = handle(&mut store, In::Deposed);
        assert!(!deposed.iter().any(|out| matches!(out, Out::Answer(_, Outcome::Lost | Outcome::Resolved))), "{deposed:?}");
    }
}
