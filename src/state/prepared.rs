//! What the log says of transactions in which this group takes part: prepared, with their locks; resolved, as long as a late
//! message may ask; over, by floors.

use super::{LockMode, Locks};
use crate::base::limits::OPEN_NAMED_MAX;
use crate::base::{GroupId, Key, Version};
use crate::msg::log::ValuePlace;
use crate::msg::transaction::{Age, Attempt, TransactionFact, TransactionId, Write};
use std::collections::{BTreeMap, BTreeSet};

/// A prepared transaction.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub age: Age,
    pub parties: Vec<GroupId>,
    pub shared: Vec<Key>,
    pub writes: Vec<Write<ValuePlace>>,
    /// Of what it writes, once it is committed: the index of its prepare.
    pub version: Version,
}

impl Prepared {
    /// The keys that it locks, and how.
    pub fn keys(&self) -> impl Iterator<Item = (&Key, LockMode)> + Clone {
        let shared = self.shared.iter().map(|key| (key, LockMode::Shared));
        shared.chain(self.writes.iter().map(|write| (&write.key, LockMode::Exclusive)))
    }
}

/// All attempts of a home up to `upto` are over, but for those that are named.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Floor {
    pub(super) upto: Attempt,
    /// At most [`OPEN_NAMED_MAX`].
    pub(super) open: BTreeSet<Attempt>,
}

#[derive(Debug, Clone)]
pub struct Outcomes {
    prepared: BTreeMap<TransactionId, Prepared>,
    /// The versions of what these write.
    versions: BTreeSet<Version>,
    /// What these have locked.
    locks: Locks,
    /// What became of transactions that were prepared here, until their home's floor has passed them.
    pub(super) resolved: BTreeMap<TransactionId, bool>,
    /// By home: which attempts are over.
    pub(super) floors: BTreeMap<GroupId, Floor>,
}

impl Outcomes {
    pub(super) const fn new() -> Outcomes {
        Outcomes {
            prepared: BTreeMap::new(),
            versions: BTreeSet::new(),
            locks: Locks::new(),
            resolved: BTreeMap::new(),
            floors: BTreeMap::new(),
        }
    }

    pub fn prepared(&self) -> &BTreeMap<TransactionId, Prepared> {
        &self.prepared
    }

    /// The earliest version of what is prepared.
    pub(super) fn first_prepared(&self) -> Option<Version> {
        self.versions.first().copied()
    }

    pub fn is_prepared(&self, id: TransactionId) -> bool {
        self.prepared.contains_key(&id)
    }

    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// How many outcomes are remembered.
    pub fn resolved_count(&self) -> usize {
        self.resolved.len()
    }

    /// Whether the attempt has ended here, as far as a late message needs to know.
    pub fn has_ended(&self, id: TransactionId) -> bool {
        self.resolved.contains_key(&id) || self.is_over(id)
    }

    /// Whether the home has said that this attempt is over.
    pub fn is_over(&self, id: TransactionId) -> bool {
        self.floors.get(&id.home).is_some_and(|floor| id.attempt <= floor.upto && !floor.open.contains(&id.attempt))
    }

    /// Whether this floor is higher than the one known of the home.
    pub fn raises(&self, home: GroupId, floor: Attempt) -> bool {
        self.floors.get(&home).is_none_or(|known| floor > known.upto)
    }

    pub(super) fn prepare(&mut self, version: Version, step: &TransactionFact<ValuePlace>) {
        let TransactionFact::Prepare { id, age, floor, parties, shared, writes, open } = step else { return };
        self.raise_floor(id.home, *floor, open);
        if self.prepared.contains_key(id) || self.resolved.contains_key(id) {
            return;
        }
        // Copies: what came are slices of a frame or a batch, and this may wait for long.
        let write = |write: &Write<ValuePlace>| Write { key: write.key.owned(), value: write.value };
        let shared: Vec<Key> = shared.iter().map(Key::owned).collect();
        let writes: Vec<Write<ValuePlace>> = writes.0.iter().map(write).collect();
        // If it does not fit, no leader of ours has logged it.
        self.hold(*id, Prepared { age: *age, parties: parties.clone(), shared, writes, version });
    }

    /// Takes its locks, and keeps it. `false`: it cannot have them, and nothing has changed.
    pub(super) fn hold(&mut self, id: TransactionId, prepared: Prepared) -> bool {
        let locks = &mut self.locks;
        let held = prepared.keys().all(|(key, mode)| locks.try_take(key, mode, id, prepared.age));
        if held {
            self.versions.insert(prepared.version);
            self.prepared.insert(id, prepared);
        } else {
            prepared.keys().for_each(|(key, _)| locks.release(key, id));
        }
        held
    }

    /// Ends what was prepared, and gives it; `None`: nothing was.
    pub(super) fn resolve(&mut self, id: TransactionId, commit: bool) -> Option<Prepared> {
        let prepared = self.prepared.remove(&id)?;
        self.versions.remove(&prepared.version);
        for (key, _) in prepared.keys() {
            self.locks.release(key, id);
        }
        if !self.is_over(id) {
            self.resolved.insert(id, commit);
        }
        Some(prepared)
    }

    /// Forgets what became of attempts that are over. What any prepare said to be over is, in whichever order they are logged.
    fn raise_floor(&mut self, home: GroupId, floor: Attempt, open: &[Attempt]) {
        let known = self.floors.entry(home).or_default();
        if floor < known.upto {
            known.open.retain(|attempt| *attempt > floor || open.contains(attempt));
        } else {
            let still = |attempt: &&Attempt| **attempt <= floor && (**attempt > known.upto || known.open.contains(attempt));
            let open = open.iter().filter(still).take(OPEN_NAMED_MAX).copied().collect();
            *known = Floor { upto: floor, open };
        }
        let range = TransactionId { home, attempt: Attempt::FIRST }..=TransactionId { home, attempt: known.upto };
        let over: Vec<TransactionId> =
            self.resolved.range(range).map(|(id, _)| *id).filter(|id| !known.open.contains(&id.attempt)).collect();
        over.iter().for_each(|id| _ = self.resolved.remove(id));
    }

    pub(super) fn check(&self) {
        self.locks.check();
        let versions: BTreeSet<Version> = self.prepared.values().map(|prepared| prepared.version).collect();
        assert_eq!(self.versions, versions, "the versions of what is prepared are known");
        let locked: usize = self.prepared.values().map(|prepared| prepared.keys().count()).sum();
        assert_eq!(self.locks.iter().count(), locked, "every lock belongs to what is prepared");
        for (id, prepared) in &self.prepared {
            assert!(!self.resolved.contains_key(id), "what is resolved is not prepared any more");
            let has = |write: &Write<ValuePlace>| self.locks.exclusive_holder(&write.key) == Some(*id);
            assert!(prepared.writes.iter().all(has), "no key is locked twice for writing");
        }
        for (id, commit) in &self.resolved {
            assert!(!self.is_over(*id), "what is over is forgotten: {id} {commit}");
        }
    }
}
