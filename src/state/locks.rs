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

/// Who may wait for whom: the lesser rank for the greater, and for no other. The older transaction has the lesser rank; of two attempts at one transaction
/// (they are of the same age) the later one, since the earlier one is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(Age, Reverse<Attempt>);

impl Rank {
    /// Greater than any other: everybody may wait for it.
    const LEAVING: Rank =
        Rank(Age { began_ms: u64::MAX, gateway: NodeId(u16::MAX), sequence: u64::MAX }, Reverse(Attempt::FIRST));

    pub fn new(age: Age, id: TransactionId) -> Rank {
        Rank(age, Reverse(id.attempt))
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

    /// Whether anybody holds the key in a way that another cannot share.
    pub fn conflict(&self, key: &Key, exclusive: bool) -> bool {
        match self.0.get(key) {
            None => false,
            Some(Lock::Exclusive(..)) => true,
            Some(Lock::Shared(_)) => exclusive,
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

    /// Takes a lock if it is free, or can be shared. `false`: it cannot be had, or `id` has it already.
    pub fn try_take(&mut self, key: &Key, exclusive: bool, id: TransactionId, age: Age) -> bool {
        let rank = Rank::new(age, id);
        match self.0.entry(key.clone()) {
            Entry::Vacant(free) => {
                free.insert(if exclusive { Lock::Exclusive(id, rank) } else { Lock::Shared(BTreeMap::from([(id, rank)])) });
                true
            }
            Entry::Occupied(mut held) => match held.get_mut() {
                Lock::Shared(holders) if !exclusive => holders.insert(id, rank).is_none(),
                _ => false,
            },
        }
    }

    /// Takes a lock that is free, or can be shared.
    pub fn take(&mut self, key: &Key, exclusive: bool, id: TransactionId, age: Age) {
        assert!(self.try_take(key, exclusive, id, age), "a lock is taken only when it is free");
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

    /// Who has the key for itself.
    pub fn exclusive_holder(&self, key: &Key) -> Option<TransactionId> {
        match self.0.get(key) {
            Some(Lock::Exclusive(id, _)) => Some(*id),
            _ => None,
        }
    }

    /// The first key at or after `from`, with this prefix, that somebody has for itself.
    pub fn exclusive_in(&self, from: &Key, prefix: &Key) -> Option<(Key, TransactionId)> {
        let within = self.0.range(from.clone()..).take_while(|(key, _)| key.starts_with(prefix));
        within.filter_map(|(key, lock)| if let Lock::Exclusive(id, _) = lock { Some((key.clone(), *id)) } else { None }).next()
    }

    /// Every lock: key, whether it is exclusive, holder.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, bool, TransactionId)> {
        self.0.iter().flat_map(|(key, lock)| {
            let holders: Vec<(&Key, bool, TransactionId)> = match lock {
                Lock::Exclusive(id, _) => vec![(key, true, *id)],
                Lock::Shared(holders) => holders.keys().map(|id| (key, false, *id)).collect(),
            };
            holders
        })
    }

    pub fn check(&self) {
        let empty = |lock: &Lock| matches!(lock, Lock::Shared(holders) if holders.is_empty());
        assert!(!self.0.values().any(empty), "a lock has a holder");
    }
}
