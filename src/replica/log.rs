//! One group's log as its replica holds it: where every entry lies, and the facts of the last few.
//!
//! The bytes are in the node's log (`wal`). Here is, for every entry, its term and place; and for a suffix, the *tail*, the facts themselves: always of
//! every entry that is not yet applied, and of as many more as followers that lag a little still need.

use crate::actor::Committed;
use crate::base::{Index, Place, Term, hash};
use crate::msg::codec::{self, Blob};
use crate::msg::log::{Entry, EntrySummary, Fact, FactSummary, Placed, ValuePlace};
use crate::msg::transaction::{Stored, TransactionFact};
use bytes::Bytes;
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub struct GroupLog {
    /// Of every entry, from index 1.
    metas: Vec<Meta>,
    /// Of the entries `last - tail.len() + 1 ..= last`.
    tail: VecDeque<Tail>,
    /// Bytes of the facts in `tail` whose values are in memory.
    tail_size: usize,
}

#[derive(Debug, Clone, Copy)]
struct Meta {
    term: Term,
    /// Default until the log has placed it, which it does before the step ends.
    record: Place,
    /// Over term and fact; for comparing replicas.
    fingerprint: u32,
}

#[derive(Debug)]
enum Tail {
    /// With the value in memory, and where it lies.
    Whole(Fact, Option<ValuePlace>),
    /// As recovery found it: the value is on the disk.
    Summary(FactSummary),
}

impl GroupLog {
    /// From what recovery found; the tail holds the entries after `applied`.
    pub fn recovered(entries: Vec<EntrySummary>, applied: Index) -> GroupLog {
        let mut log = GroupLog::default();
        for entry in entries {
            assert_eq!(entry.index, log.last_index().next(), "recovery leaves no hole");
            let fingerprint = match &entry.fact {
                FactSummary::Noop => fingerprint(entry.term, &[], None),
                FactSummary::Write { key, value } => fingerprint(entry.term, key, value.map(|v| v.checksum)),
                FactSummary::Transaction(fact) => {
                    let stored = fact.map(|value| Stored { length: value.place.length, checksum: value.checksum });
                    fingerprint(entry.term, &codec::encode(&stored), None)
                }
            };
            log.metas.push(Meta { term: entry.term, record: entry.record, fingerprint });
            if entry.index > applied {
                log.tail.push_back(Tail::Summary(entry.fact));
            }
        }
        log
    }

    pub fn last_index(&self) -> Index {
        Index(self.metas.len() as u64)
    }

    /// Bytes of entries whose values are in memory.
    pub fn bytes_in_memory(&self) -> usize {
        self.tail_size
    }

    pub fn last_term(&self) -> Term {
        self.metas.last().map_or(Term::ZERO, |m| m.term)
    }

    /// The term of an entry; zero for index 0; `None` beyond the last.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        match index.0 {
            0 => Some(Term::ZERO),
            at => self.metas.get(at as usize - 1).map(|m| m.term),
        }
    }

    pub fn place_of(&self, index: Index) -> Option<Place> {
        self.metas.get((index.0 as usize).checked_sub(1)?).map(|m| m.record)
    }

    /// Whether the log has said where the entry lies.
    pub fn is_placed(&self, index: Index) -> bool {
        self.place_of(index).is_some_and(|place| place.length > 0)
    }

    pub fn fingerprint_at(&self, index: Index) -> Option<u64> {
        let meta = self.metas.get((index.0 as usize).checked_sub(1)?)?;
        Some(meta.term.0 << 32 | u64::from(meta.fingerprint))
    }

    /// The first index of the run of entries with the term of `index`.
    pub fn first_of_term(&self, index: Index) -> Index {
        let Some(term) = self.term_at(index) else { return index };
        // Terms never decrease along a log.
        Index(self.metas.partition_point(|m| m.term < term) as u64 + 1)
    }

    /// The last index whose term is at most `term`; 0 if there is none.
    pub fn last_at_or_before_term(&self, term: Term) -> Index {
        Index(self.metas.partition_point(|m| m.term <= term) as u64)
    }

    /// Appends the entry after the last. It is placed by [`GroupLog::placed`].
    pub fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last_index().next(), "a log grows by one");
        assert!(entry.term >= self.last_term(), "terms never decrease along a log");
        self.metas.push(Meta { term: entry.term, record: Place::default(), fingerprint: 0 });
        self.tail_size += entry.fact.size();
        self.tail.push_back(Tail::Whole(entry.fact, None));
    }

    /// Removes the entries from `from` on.
    pub fn truncate(&mut self, from: Index) {
        assert!(from.0 >= 1, "there is no entry 0");
        while self.last_index() >= from {
            self.metas.pop();
            if let Some(Tail::Whole(fact, _)) = self.tail.pop_back() {
                self.tail_size -= fact.size();
            }
        }
    }

    /// The log has placed an entry. An entry that was replaced meanwhile is passed over.
    pub fn placed(&mut self, placed: &Placed) {
        let Some(position) = (placed.index.0 as usize).checked_sub(1) else { return };
        let first = self.metas.len() - self.tail.len();
        let Some(meta) = self.metas.get_mut(position).filter(|m| m.term == placed.term) else { return };
        meta.record = placed.record;
        let Some(Tail::Whole(fact, value)) = position.checked_sub(first).and_then(|at| self.tail.get_mut(at)) else { return };
        *value = placed.value;
        meta.fingerprint = match fact {
            Fact::Noop => fingerprint(placed.term, &[], None),
            Fact::Write { key, .. } => fingerprint(placed.term, key, placed.value.map(|v| v.checksum)),
            Fact::Transaction(fact) => fingerprint(placed.term, &codec::encode(&fact.stored()), None),
        };
    }

    /// The entry at `index`, if all of it is in memory.
    pub fn entry(&self, index: Index) -> Option<Entry> {
        let term = self.term_at(index).filter(|_| index.0 > 0)?;
        match self.tail_at(index)? {
            Tail::Whole(fact, _) => Some(Entry { index, term, fact: fact.clone() }),
            Tail::Summary(FactSummary::Noop) => Some(Entry { index, term, fact: Fact::Noop }),
            Tail::Summary(FactSummary::Write { key, value: None }) => {
                Some(Entry { index, term, fact: Fact::Write { key: key.clone(), value: None } })
            }
            Tail::Summary(FactSummary::Transaction(fact)) if fact.writes().iter().all(|write| write.value.is_none()) => {
                let fact = fact.map(|_| Blob(Bytes::new()));
                Some(Entry { index, term, fact: Fact::Transaction(Box::new(fact)) })
            }
            Tail::Summary(_) => None,
        }
    }

    /// What applying the entry at `index` needs.
    pub fn committed(&self, index: Index) -> Committed {
        match self.tail_at(index).expect("what is not applied is in the tail") {
            Tail::Whole(Fact::Noop, _) => Committed { index, fact: FactSummary::Noop },
            Tail::Whole(Fact::Write { key, value }, place) => {
                assert_eq!(value.is_some(), place.is_some(), "a written value has a place");
                Committed { index, fact: FactSummary::Write { key: key.clone(), value: *place } }
            }
            Tail::Whole(Fact::Transaction(fact), place) => {
                Committed { index, fact: FactSummary::Transaction(Box::new(with_places(fact, *place))) }
            }
            Tail::Summary(fact) => Committed { index, fact: fact.clone() },
        }
    }

    fn tail_at(&self, index: Index) -> Option<&Tail> {
        let first = self.metas.len() - self.tail.len();
        (index.0 as usize).checked_sub(1 + first).and_then(|at| self.tail.get(at))
    }

    /// Forgets the facts up to `needless`, which is applied, and more while the tail is larger than `size_max` and applied.
    pub fn trim(&mut self, needless: Index, applied: Index, size_max: usize) {
        assert!(needless <= applied, "what is not applied stays");
        while let Some(front) = self.tail.front() {
            let index = Index((self.metas.len() - self.tail.len()) as u64 + 1);
            if index > applied || (index > needless && self.tail_size <= size_max) {
                break;
            }
            if let Tail::Whole(fact, _) = front {
                self.tail_size -= fact.size();
            }
            self.tail.pop_front();
        }
        if self.tail.is_empty() && self.tail.capacity() > 64 {
            self.tail = VecDeque::new();
        }
    }

    pub fn check(&self) {
        assert!(self.tail.len() <= self.metas.len(), "the tail is a suffix");
        assert!(self.metas.is_sorted_by_key(|m| m.term), "terms never decrease along a log");
        let size: usize = self.tail.iter().map(|t| if let Tail::Whole(fact, _) = t { fact.size() } else { 0 }).sum();
        assert_eq!(size, self.tail_size, "the tail's size is counted");
    }
}

/// A step of a transaction whose values lie one behind the other at `area`.
fn with_places(fact: &TransactionFact<Blob>, area: Option<ValuePlace>) -> TransactionFact<ValuePlace> {
    let mut at = 0;
    fact.map(|value| {
        let area = area.expect("what is applied has been placed").place;
        let length = value.0.len() as u32;
        let place = Place { segment: area.segment, offset: area.offset + at, length };
        at += length;
        ValuePlace { place, checksum: hash::value_checksum(&value.0) }
    })
}

fn fingerprint(term: Term, key: &[u8], value_checksum: Option<u32>) -> u32 {
    let salt = term.0 ^ value_checksum.map_or(1 << 63, |c| u64::from(c) << 8);
    hash::checksum(salt, key) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index: Index(index), term: Term(term), fact: Fact::Noop }
    }

    fn log(terms: &[u64]) -> GroupLog {
        let mut log = GroupLog::default();
        terms.iter().enumerate().for_each(|(at, term)| log.append(entry(at as u64 + 1, *term)));
        log
    }

    #[test]
    fn runs_of_terms_are_found_by_either_end() {
        let log = log(&[1, 1, 2, 2, 2, 5]);
        assert_eq!(log.first_of_term(Index(5)), Index(3));
        assert_eq!(log.first_of_term(Index(6)), Index(6));
        assert_eq!(log.last_at_or_before_term(Term(2)), Index(5));
        assert_eq!(log.last_at_or_before_term(Term(4)), Index(5));
        assert_eq!(log.last_at_or_before_term(Term(0)), Index(0));
        assert_eq!(log.term_at(Index(0)), Some(Term(0)));
        assert_eq!(log.term_at(Index(7)), None);
    }

    #[test]
    fn trimming_keeps_what_is_not_applied() {
        let mut log = log(&[1, 1, 1, 1]);
        log.trim(Index(2), Index(3), usize::MAX);
        assert!(log.entry(Index(2)).is_none() && log.entry(Index(3)).is_some());
        log.truncate(Index(4));
        log.append(entry(4, 3));
        assert_eq!(log.last_term(), Term(3));
        log.check();
    }
}
