//! What a group's log has come to, and nothing else: a pure fold over its committed entries.
//!
//! ```text
//! (boot: entries found committed) --\
//! (live: entries as they commit) ----> State::apply(index, fact) --> items, prepared transactions, outcomes, decisions, tokens
//! (an image, part by part) ---------> State::install(part)
//! ```
//!
//! The same entries give the same state on every replica, however they came and in whichever epoch. So nothing volatile is here:
//! no waiter, no time of this node's clock, no work of a leader. (Times are facts of the log: the ticks by which tokens end.)
//! What dies with a leadership is the business of [`crate::store`] and [`crate::txn`], which read this state; `store` alone
//! changes it.
//!
//! Two replicas that have applied the same index have the same [`State::digest`], though their values lie in different places. An
//! image is all of it, in order and in pieces ([`State::parts`]); the digest is made of the same parts, so that what an image
//! forgets, a digest does not see, and a test compares both.
//!
//! `items.rs`: keys, versions, places; `leaves.rs`: the sorted pages that they are in; `live.rs`: how much of each segment
//! they use. `prepared.rs`: what participants hold until the decision, and what became of it. `locks.rs`: the locks that go with it. `tokens.rs`: idempotency tokens. `image.rs`: parts
//! and digest. `piece.rs`: parts with their values, for another replica.

mod image;
mod items;
mod leaves;
mod live;
mod locks;
mod piece;
mod prepared;
mod tokens;

pub use image::Part;
pub use items::{Item, Items, Visit};
pub use leaves::Page;
pub use live::Live;
pub use locks::{LockMode, Locks, Rank};
pub use piece::{decode_piece, encode_piece, fold_parts, placed, push_part};
pub use prepared::{Outcomes, Prepared};
pub use tokens::Tokens;

use crate::base::limits::{DELETED_KEPT, Limits};
use crate::base::{GroupId, Index, Key, Place, SegmentId, Sometimes, Version};
use crate::msg::codec::Blob;
use crate::msg::configuration::Configuration;
use crate::msg::log::{FactSummary, ValuePlace};
use crate::msg::transaction::{Attempt, TransactionFact, TransactionId};
use std::collections::BTreeMap;
use std::ops::Bound;

/// A clone is the state of one instant: it shares the pages of the index with this one until one of them changes them.
#[derive(Debug, Clone)]
pub struct State {
    /// Everything up to here is in it. Never decreases.
    applied: Index,
    items: Items,
    outcomes: Outcomes,
    /// Of this group as a home: committed, and not known to be over, with the participants to tell.
    decisions: BTreeMap<Attempt, Vec<GroupId>>,
    tokens: Tokens,
    configuration: Option<Box<Configuration>>,
    /// [`DELETED_KEPT`], but for tests.
    deleted_kept: u64,
}

impl Default for State {
    fn default() -> Self {
        State::new()
    }
}

impl State {
    /// Of an empty log.
    pub const fn new() -> State {
        State::in_leaves_of(Limits::DEFAULT.leaf_bytes)
    }

    /// Of an empty log, with an index in leaves of at most so many bytes.
    pub const fn in_leaves_of(leaf_bytes: usize) -> State {
        State {
            applied: Index::ZERO,
            items: Items::new(leaf_bytes),
            outcomes: Outcomes::new(),
            decisions: BTreeMap::new(),
            tokens: Tokens::new(),
            configuration: None,
            deleted_kept: DELETED_KEPT,
        }
    }

    /// Leaves are of at most so many bytes from now on.
    pub fn set_leaf_bytes(&mut self, leaf_bytes: usize) {
        self.items.leaves_mut().set_size_max(leaf_bytes);
    }

    /// What is deleted keeps its version for at least so many entries: on all replicas the same.
    pub fn set_deleted_kept(&mut self, entries: u64) {
        self.deleted_kept = entries;
    }

    /// Bytes that all leaves of the index take.
    pub fn leaf_bytes(&self) -> u64 {
        self.items.leaves().bytes()
    }

    /// The state of a group of which nothing is known.
    pub fn empty() -> &'static State {
        static EMPTY: State = State::new();
        &EMPTY
    }

    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The last that an entry brought; `None`: the group's first is in force.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_deref()
    }

    pub fn items(&self) -> &Items {
        &self.items
    }

    /// The *delete floor*: what was deleted up to this version is as what was never written, and both have this version.
    ///
    /// It rises with what is applied, and nothing else: so all replicas have the same, and none has to be told. Absence has a
    /// later version with every rise, so that a key that was written and deleted between two looks is never taken for one that was
    /// not touched. It stays below what is prepared: that brings items with the versions of their prepares.
    ///
    /// A replay may find a later state than its own, from which a deletion has gone. It brings all writes of the key from then on,
    /// the deletion last; and no prepare from before it, since the key was locked until that was resolved.
    pub fn delete_floor(&self) -> Version {
        let upto = self.applied.0.saturating_sub(self.deleted_kept);
        let upto = self.outcomes.first_prepared().map_or(upto, |first| upto.min(first.0 - 1));
        Version(upto - upto % self.deleted_kept)
    }

    /// The item; or that there is none, and since which version.
    pub fn item(&self, key: &Key) -> Item {
        let floor = self.delete_floor();
        match self.items.get(key).filter(|item| item.is_remembered(floor)) {
            Some(item) => item,
            None => Item { version: floor, value: None },
        }
    }

    /// Drops what is left of items up to the delete floor from the leaf of the index with this fence, which may be joined with those
    /// behind it.
    pub fn forget_deleted(&mut self, fence: &[u8]) {
        let floor = self.delete_floor();
        let forgotten = self.items.forget_deleted(fence, floor);
        Sometimes::DeletedForgotten.when(forgotten > 0);
    }

    /// Calls `visit` with every item, deleted ones above the delete floor too, in key order.
    pub fn visit(&self, visit: &mut Visit<'_>) {
        for (key, item) in self.remembered(Bound::Unbounded) {
            visit(&key, item.version.0, item.value.map(|value| value.checksum));
        }
    }

    /// All items, deleted ones above the delete floor too, from this bound on, in key order.
    fn remembered(&self, from: Bound<&Key>) -> impl Iterator<Item = (Key, Item)> {
        let floor = self.delete_floor();
        self.items.range(from).filter(move |(_, item)| item.is_remembered(floor))
    }

    pub fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    pub fn decisions(&self) -> &BTreeMap<Attempt, Vec<GroupId>> {
        &self.decisions
    }

    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Applies the next committed entry. `replaced` is told of each value that no item has any more.
    pub fn apply(&mut self, index: Index, fact: &FactSummary, replaced: &mut dyn FnMut(ValuePlace)) {
        assert_eq!(index, self.applied.next(), "entries are applied in order");
        self.applied = index;
        let version = Version(index.0);
        match fact {
            FactSummary::Noop => {}
            FactSummary::Configuration(configuration) => self.configuration = Some(configuration.clone()),
            FactSummary::Write { key, value } => self.items.put(key, Item { version, value: *value }, replaced),
            FactSummary::Transaction(step) => self.apply_step(version, step, replaced),
        }
    }

    fn apply_step(&mut self, version: Version, step: &TransactionFact<ValuePlace>, replaced: &mut dyn FnMut(ValuePlace)) {
        match step {
            TransactionFact::Prepare { .. } => self.outcomes.prepare(version, step),
            TransactionFact::Resolve { id, commit } => {
                let Some(prepared) = self.outcomes.resolve(*id, *commit) else { return };
                for write in prepared.writes.iter().filter(|_| *commit) {
                    self.items.put(&write.key, Item { version: prepared.version, value: write.value }, replaced);
                }
            }
            TransactionFact::Decide { id, commit, parties, writes, ended, token } => {
                for write in writes.0.iter().filter(|_| *commit) {
                    self.items.put(&write.key, Item { version, value: write.value }, replaced);
                }
                self.end(ended, &[], false);
                if *commit && !parties.is_empty() {
                    self.decisions.insert(id.attempt, parties.clone());
                }
                if let Some(record) = token {
                    self.tokens.insert(record.clone());
                }
            }
            TransactionFact::End { ended, expired, tick } => self.end(ended, expired, *tick),
        }
    }

    fn end(&mut self, ended: &[TransactionId], expired: &[Blob], tick: bool) {
        ended.iter().for_each(|id| _ = self.decisions.remove(&id.attempt));
        expired.iter().for_each(|token| self.tokens.remove(&token.0));
        if tick {
            self.tokens.tick();
        }
    }

    /// The value of this key lies elsewhere from now on, if it has lain at `from`: the log has a copy of it. Returns whether it had.
    pub fn relocate(&mut self, key: &Key, from: Place, to: Place) -> bool {
        self.items.relocate(key, from, to)
    }

    /// Whether a prepared transaction has a value in this segment.
    pub fn has_prepared_in(&self, segment: SegmentId) -> bool {
        let writes = self.outcomes.prepared().values().flat_map(|prepared| &prepared.writes);
        writes.filter_map(|write| write.value).any(|value| value.place.segment == segment)
    }

    /// Asserts its invariants. Walks everything.
    pub fn check(&self) {
        self.items.check(self.applied);
        self.outcomes.check();
        self.tokens.check();
        assert!(self.decisions.values().all(|parties| !parties.is_empty()), "a decision is kept for those who must know it");
    }
}

#[cfg(test)]
mod tests;
