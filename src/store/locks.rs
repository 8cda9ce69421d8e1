//! Locks of transactions on keys: shared for what is checked or read, exclusive for what is written, all until the decision.
//!
//! The table stands at the *head* of the leader's log: a lock is there from when its entry is proposed. It is volatile; a new leader makes it anew from the
//! participant records in what it has applied. Single-key operations hold no locks, they only wait for them.

use crate::msg::transaction::{Age, TransactionId};
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Debug, Default, Clone)]
pub struct Locks(BTreeMap<Bytes, Lock>);

#[derive(Debug, Clone)]
enum Lock {
    Exclusive(TransactionId, Age),
    Shared(BTreeMap<TransactionId, Age>),
}

impl Locks {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether anybody holds the key in a way that another cannot share.
    pub fn conflict(&self, key: &[u8], exclusive: bool) -> bool {
        match self.0.get(key) {
            None => false,
            Some(Lock::Exclusive(..)) => true,
            Some(Lock::Shared(_)) => exclusive,
        }
    }

    /// Whether any holder of the key is older than, or as old as, `age`.
    pub fn held_by_older(&self, key: &[u8], age: Age) -> bool {
        match self.0.get(key) {
            None => false,
            Some(Lock::Exclusive(_, holder)) => *holder <= age,
            Some(Lock::Shared(holders)) => holders.values().any(|holder| *holder <= age),
        }
    }

    /// Takes a lock that is free, or can be shared.
    pub fn take(&mut self, key: &Bytes, exclusive: bool, id: TransactionId, age: Age) {
        assert!(!self.conflict(key, exclusive), "a lock is taken only when it is free");
        if exclusive {
            self.0.insert(key.clone(), Lock::Exclusive(id, age));
        } else if let Lock::Shared(holders) = self.0.entry(key.clone()).or_insert_with(|| Lock::Shared(BTreeMap::new())) {
            holders.insert(id, age);
        }
    }

    /// Gives back what `id` holds on the key.
    pub fn release(&mut self, key: &[u8], id: TransactionId) {
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
    pub fn exclusive_holder(&self, key: &[u8]) -> Option<TransactionId> {
        match self.0.get(key) {
            Some(Lock::Exclusive(id, _)) => Some(*id),
            _ => None,
        }
    }

    /// The first key at or after `from`, with this prefix, that somebody has for itself.
    pub fn exclusive_in(&self, from: &Bytes, prefix: &[u8]) -> Option<(Bytes, TransactionId)> {
        let within = self.0.range(from.clone()..).take_while(|(key, _)| key.starts_with(prefix));
        within.filter_map(|(key, lock)| if let Lock::Exclusive(id, _) = lock { Some((key.clone(), *id)) } else { None }).next()
    }

    /// Every lock: key, whether it is exclusive, holder.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, bool, TransactionId)> {
        self.0.iter().flat_map(|(key, lock)| {
            let holders: Vec<(&Bytes, bool, TransactionId)> = match lock {
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
