//! Locks of transactions on keys: shared for what is checked or read, exclusive for what is written, all until the decision.
//!
//! There are two such tables. One is replicated state: what is prepared. The other stands at the *head* of a leader's log: a lock
//! is there from when its entry is proposed. That is volatile; a new leader begins with a copy of the first. Single-key
//! operations hold no locks, they only wait for them.
//!
//! A holder has a [`Rank`]. A holder whose decision is known here and on its way into the log is *leaving*: it waits for no other
//! any more, so that every other may wait for it.

use crate::base::{Key, NodeId};
use crate::msg::transaction::{Age, Attempt, TransactionId};
use core::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Which transaction may wait for which: the lesser rank for the greater, and for no other. The older transaction has the lesser
/// rank. Of two attempts at one transaction (they are of the same age) the later has it, since the earlier is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(Age, Reverse<Attempt>);

impl Rank {
    /// Greater than any other: every transaction may wait for it.
    const LEAVING: Rank =
        Rank(Age { began_ms: u64::MAX, gateway: NodeId(u16::MAX), sequence: u64::MAX }, Reverse(Attempt::FIRST));

    pub fn new(age: Age, id: TransactionId) -> Rank {
        Rank(age, Reverse(id.attempt))
    }
}

/// How a transaction wants a key, or has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Others may read it, too.
    Shared,
    /// For itself.
    Exclusive,
}

impl LockMode {
    /// The mode in which a transaction locks a key that it reads or checks, or one that it `writes`.
    pub fn of(writes: bool) -> LockMode {
        if writes { LockMode::Exclusive } else { LockMode::Shared }
    }
}

#[derive(Debug, Default, Clone)]
pub struct Locks(BTreeMap<Key, Lock>);

#[derive(Debug, Clone)]
enum Lock {
    Exclusive(TransactionId, Rank),
    Shared(BTreeMap<TransactionId, Rank>),
}

impl Locks {
    pub(super) const fn new() -> Locks {
        Locks(BTreeMap::new())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a transaction holds the key in a way that another cannot share.
    pub fn conflict(&self, key: &Key, wanted: LockMode) -> bool {
        match self.0.get(key) {
            None => false,
            Some(Lock::Exclusive(..)) => true,
            Some(Lock::Shared(_)) => wanted == LockMode::Exclusive,
        }
    }

    /// Whether any holder of the key is one that `rank` must not wait for.
    pub fn held_by_older(&self, key: &Key, rank: Rank) -> bool {
        match self.0.get(key) {
            None => false,
            Some(Lock::Exclusive(_, holder)) => *holder <= rank,
            Some(Lock::Shared(holders)) => holders.values().any(|holder| *holder <= rank),
        }
    }

    /// What `id` holds on the key will be given back as soon as the log says so, whatever happens elsewhere.
    pub fn leave(&mut self, key: &Key, id: TransactionId) {
        match self.0.get_mut(key) {
            Some(Lock::Exclusive(holder, rank)) if *holder == id => *rank = Rank::LEAVING,
            Some(Lock::Shared(holders)) => {
                holders.entry(id).and_modify(|rank| *rank = Rank::LEAVING);
            }
            _ => {}
        }
    }

    /// Takes a lock if it is free, or can be shared. `false`: it cannot be had, or `id` has it already, and nothing has changed.
    pub fn try_take(&mut self, key: &Key, mode: LockMode, id: TransactionId, age: Age) -> bool {
        let rank = Rank::new(age, id);
        match self.0.entry(key.clone()) {
            Entry::Vacant(free) => {
                free.insert(match mode {
                    LockMode::Exclusive => Lock::Exclusive(id, rank),
                    LockMode::Shared => Lock::Shared(BTreeMap::from([(id, rank)])),
                });
                true
            }
            Entry::Occupied(mut held) => match held.get_mut() {
                Lock::Shared(holders) if mode == LockMode::Shared && !holders.contains_key(&id) => {
                    holders.insert(id, rank).is_none()
                }
                _ => false,
            },
        }
    }

    /// Takes a lock that is free, or can be shared.
    pub fn take(&mut self, key: &Key, mode: LockMode, id: TransactionId, age: Age) {
        assert!(self.try_take(key, mode, id, age), "a lock is taken only when it is free");
    }

    /// Gives back what `id` holds on the key.
    pub fn release(&mut self, key: &Key, id: TransactionId) {
        let free = match self.0.get_mut(key) {
            None => false,
            Some(Lock::Exclusive(holder, _)) => *holder == id,
            Some(Lock::Shared(holders)) => {
                holders.remove(&id);
                holders.is_empty()
            }
        };
        if free {
            self.0.remove(key);
        }
    }

    /// The transaction that has the key for itself.
    pub fn exclusive_holder(&self, key: &Key) -> Option<TransactionId> {
        match self.0.get(key) {
            Some(Lock::Exclusive(id, _)) => Some(*id),
            _ => None,
        }
    }

    /// The first key at or after `from`, with this prefix, that a transaction has for itself.
    pub fn exclusive_in(&self, from: &Key, prefix: &Key) -> Option<(Key, TransactionId)> {
        let within = self.0.range(from.clone()..).take_while(|(key, _)| key.starts_with(prefix));
        within.filter_map(|(key, lock)| if let Lock::Exclusive(id, _) = lock { Some((key.clone(), *id)) } else { None }).next()
    }

    /// Every lock: key, mode, holder.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, LockMode, TransactionId)> {
        self.0.iter().flat_map(|(key, lock)| {
            let holders: Vec<(&Key, LockMode, TransactionId)> = match lock {
                Lock::Exclusive(id, _) => vec![(key, LockMode::Exclusive, *id)],
                Lock::Shared(holders) => holders.keys().map(|id| (key, LockMode::Shared, *id)).collect(),
            };
            holders
        })
    }

    pub fn check(&self) {
        let empty = |lock: &Lock| matches!(lock, Lock::Shared(holders) if holders.is_empty());
        assert!(!self.0.values().any(empty), "a lock has a holder");
    }
}

#[cfg(test)]
mod tests;
