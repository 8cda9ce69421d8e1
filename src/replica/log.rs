//! One group's log as its replica holds it: where every entry lies, and the facts of the last few.
//!
//! The bytes are in the node's log (`wal`). Here is, for every entry, its term and place; and for a suffix, the *tail*, the facts
//! themselves: always of every entry that is not yet applied, and of as many more as followers that lag a little still need.

use crate::actor::Committed;
use crate::base::{Index, Key, Place, SegmentId, Term, hash};
use crate::msg::codec::{self, Blob};
use crate::msg::configuration::Configuration;
use crate::msg::log::{Entry, EntrySummary, Fact, FactSummary, LogBase, Placed, ValuePlace};
use crate::msg::transaction::{Stored, TransactionFact};
use bytes::Bytes;
use std::collections::VecDeque;

#[derive(Debug)]
pub struct GroupLog {
    /// Up to here there are no entries any more.
    base: LogBase,
    /// Of every entry behind the base.
    metas: Vec<Meta>,
    /// The configuration at the base, and those that entries brought, each from its entry on. The last is in force.
    configurations: Vec<(Index, Configuration)>,
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
    /// A log without entries behind `base`, where this configuration is in force.
    pub fn new(base: LogBase, configuration: Configuration) -> GroupLog {
        let configurations = vec![(base.index, configuration)];
        GroupLog { base, metas: Vec::new(), configurations, tail: VecDeque::new(), tail_size: 0 }
    }

    /// From what recovery found; the tail holds the entries after `applied`.
    pub fn recovered(base: LogBase, configuration: Configuration, entries: Vec<EntrySummary>, applied: Index) -> GroupLog {
        let mut log = GroupLog::new(base, configuration);
        for entry in entries {
            assert_eq!(entry.index, log.last_index().next(), "recovery leaves no hole");
            let fingerprint = match &entry.fact {
                FactSummary::Noop => fingerprint(entry.term, &[], None),
                FactSummary::Configuration(configuration) => {
                    log.configurations.push((entry.index, (**configuration).clone()));
                    fingerprint(entry.term, &codec::encode(&**configuration), None)
                }
                FactSummary::Write { key, value } => fingerprint_of_write(entry.term, key, value.map(|v| v.checksum)),
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

    /// The last entry that is not held any more: it and all before are committed, and in the group's state.
    pub fn base(&self) -> LogBase {
        self.base
    }

    /// The configuration in force: the last that was appended, committed or not.
    pub fn configuration(&self) -> &Configuration {
        &self.configurations.last().expect("the base has one").1
    }

    /// The entry that brought the configuration in force; the base's index if it was there.
    pub fn configured_at(&self) -> Index {
        self.configurations.last().expect("the base has one").0
    }

    pub fn last_index(&self) -> Index {
        Index(self.base.index.0 + self.metas.len() as u64)
    }

    /// Where in `metas` the entry is; `None` for one up to the base.
    fn position(&self, index: Index) -> Option<usize> {
        index.0.checked_sub(self.base.index.0 + 1).map(|position| position as usize)
    }

    /// The entry of which the meta is at this position.
    fn index_at(&self, position: usize) -> Index {
        Index(self.base.index.0 + 1 + position as u64)
    }

    /// Bytes of entries whose values are in memory.
    pub fn bytes_in_memory(&self) -> usize {
        self.tail_size
    }

    pub fn last_term(&self) -> Term {
        self.metas.last().map_or(self.base.term, |m| m.term)
    }

    /// The term of an entry, or of the base; `None` before the base and beyond the last.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        match self.position(index) {
            None => (index == self.base.index).then_some(self.base.term),
            Some(position) => self.metas.get(position).map(|m| m.term),
        }
    }

    /// Whether this log and one with that entry agree up to there: it is here, or was, being committed.
    pub fn agrees(&self, index: Index, term: Term) -> bool {
        index < self.base.index || self.term_at(index) == Some(term)
    }

    pub fn place_of(&self, index: Index) -> Option<Place> {
        self.metas.get(self.position(index)?).map(|m| m.record)
    }

    /// The last entry that lies in an earlier segment than this; the base if there is none.
    pub fn last_before_segment(&self, segment: SegmentId) -> Index {
        // Entries are replaced by later ones: segments never decrease along a log.
        self.index_at(self.metas.partition_point(|meta| meta.record.segment < segment)).previous()
    }

    /// Whether the log has said where the entry lies.
    pub fn is_placed(&self, index: Index) -> bool {
        self.place_of(index).is_some_and(|place| place.length > 0)
    }

    pub fn fingerprint_at(&self, index: Index) -> Option<u64> {
        let meta = self.metas.get(self.position(index)?)?;
        Some(meta.term.0 << 32 | u64::from(meta.fingerprint))
    }

    /// The first index of the run of entries with the term of `index`.
    pub fn first_of_term(&self, index: Index) -> Index {
        let Some(term) = self.term_at(index) else { return index };
        // Terms never decrease along a log.
        self.index_at(self.metas.partition_point(|m| m.term < term))
    }

    /// The last index whose term is at most `term`; the base if there is none.
    pub fn last_at_or_before_term(&self, term: Term) -> Index {
        self.index_at(self.metas.partition_point(|m| m.term <= term)).previous()
    }

    /// Appends the entry after the last. It is placed by [`GroupLog::placed`].
    pub fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last_index().next(), "a log grows by one");
        assert!(entry.term >= self.last_term(), "terms never decrease along a log");
        self.metas.push(Meta { term: entry.term, record: Place::default(), fingerprint: 0 });
        self.tail_size += entry.fact.size();
        if let Fact::Configuration(configuration) = &entry.fact {
            self.configurations.push((entry.index, (**configuration).clone()));
        }
        self.tail.push_back(Tail::Whole(entry.fact, None));
    }

    /// Forgets the entries up to this, which is applied: a follower that lacks them needs the group's state.
    pub fn compact(&mut self, to: Index) {
        let Some(term) = self.term_at(to).filter(|_| to > self.base.index) else { return };
        let gone = (to.0 - self.base.index.0) as usize;
        while self.metas.len() - self.tail.len() < gone {
            if let Some(Tail::Whole(fact, _)) = self.tail.pop_front() {
                self.tail_size -= fact.size();
            }
        }
        self.metas.drain(..gone);
        self.metas.shrink_to(self.metas.len() * 2);
        self.base = LogBase { index: to, term };
        let before = self.configurations.partition_point(|(index, _)| *index <= to);
        self.configurations.drain(..before - 1);
        self.configurations[0].0 = to;
    }

    /// The configuration that was in force at this entry, or at the base; `None`: the group's first.
    pub fn configuration_at(&self, index: Index) -> Option<&Configuration> {
        let at = self.configurations.partition_point(|(from, _)| *from <= index).checked_sub(1)?;
        let (from, configuration) = &self.configurations[at];
        (*from > Index::ZERO).then_some(configuration)
    }

    /// Removes the entries from `from` on.
    pub fn truncate(&mut self, from: Index) {
        assert!(from > self.base.index, "what is committed stays");
        while self.last_index() >= from {
            self.metas.pop();
            if let Some(Tail::Whole(fact, _)) = self.tail.pop_back() {
                self.tail_size -= fact.size();
            }
        }
        self.configurations.retain(|(index, _)| *index < from);
    }

    /// The log has placed an entry. An entry that was replaced meanwhile is passed over.
    pub fn placed(&mut self, placed: &Placed) {
        let Some(position) = self.position(placed.index) else { return };
        let first = self.metas.len() - self.tail.len();
        let Some(meta) = self.metas.get_mut(position).filter(|m| m.term == placed.term) else { return };
        meta.record = placed.record;
        let Some(Tail::Whole(fact, value)) = position.checked_sub(first).and_then(|at| self.tail.get_mut(at)) else { return };
        *value = placed.value;
        meta.fingerprint = match fact {
            Fact::Noop => fingerprint(placed.term, &[], None),
            Fact::Configuration(configuration) => fingerprint(placed.term, &codec::encode(&**configuration), None),
            Fact::Write { key, .. } => fingerprint_of_write(placed.term, key, placed.value.map(|v| v.checksum)),
            Fact::Transaction(fact) => fingerprint(placed.term, &codec::encode(&fact.stored()), None),
        };
    }

    /// The entry at `index`, if all of it is in memory.
    pub fn entry(&self, index: Index) -> Option<Entry> {
        let term = self.term_at(index)?;
        match self.tail_at(index)? {
            Tail::Whole(fact, _) => Some(Entry { index, term, fact: fact.clone() }),
            Tail::Summary(FactSummary::Configuration(configuration)) => {
                Some(Entry { index, term, fact: Fact::Configuration(configuration.clone()) })
            }
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
            Tail::Whole(Fact::Configuration(configuration), _) => {
                Committed { index, fact: FactSummary::Configuration(configuration.clone()) }
            }
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
        self.position(index)?.checked_sub(first).and_then(|at| self.tail.get(at))
    }

    /// Forgets the facts up to `needless`, which is applied, and more while the tail is larger than `size_max` and applied.
    pub fn trim(&mut self, needless: Index, applied: Index, size_max: usize) {
        assert!(needless <= applied, "what is not applied stays");
        while let Some(front) = self.tail.front() {
            let index = self.index_at(self.metas.len() - self.tail.len());
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
        assert!(self.metas.first().is_none_or(|m| m.term >= self.base.term), "nor across its base");
        let at = |index: &Index| *index >= self.base.index && *index <= self.last_index();
        assert!(self.configurations.iter().all(|(index, _)| at(index)), "a configuration is the base's, or of an entry");
        assert!(self.configurations.is_sorted_by(|a, b| a.0 < b.0), "configurations are in the order of their entries");
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

fn fingerprint(term: Term, bytes: &[u8], value_checksum: Option<u32>) -> u32 {
    hash::checksum(fingerprint_salt(term, value_checksum), bytes) as u32
}

fn fingerprint_of_write(term: Term, key: &Key, value_checksum: Option<u32>) -> u32 {
    key.checksum(fingerprint_salt(term, value_checksum)) as u32
}

fn fingerprint_salt(term: Term, value_checksum: Option<u32>) -> u64 {
    term.0 ^ value_checksum.map_or(1 << 63, |c| u64::from(c) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{GroupId, Lsn, NodeId};

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index: Index(index), term: Term(term), fact: Fact::Noop }
    }

    fn log(terms: &[u64]) -> GroupLog {
        log_behind(LogBase::default(), terms)
    }

    fn log_behind(base: LogBase, terms: &[u64]) -> GroupLog {
        let mut log = GroupLog::new(base, configuration(&[1, 2, 3]));
        terms.iter().zip(base.index.0 + 1..).for_each(|(term, index)| log.append(entry(index, *term)));
        log
    }

    fn configuration(voters: &[u16]) -> Configuration {
        Configuration::of(voters.iter().copied().map(NodeId).collect())
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

    fn placed(index: u64, term: Term) -> Placed {
        let record = Place { length: 1, ..Place::default() };
        Placed { group: GroupId(1), index: Index(index), term, lsn: Lsn(index), record, value: None }
    }

    #[test]
    fn what_is_compacted_is_gone_and_nothing_else_is() {
        let mut log = log(&[1, 1, 2, 2, 2, 5]);
        (1..=6).for_each(|index| log.placed(&placed(index, log.term_at(Index(index)).expect("there"))));
        log.compact(Index(0));
        log.compact(Index(9));
        assert_eq!(log.base(), LogBase::default(), "there is no such entry");
        log.compact(Index(4));
        assert_eq!(log.base(), LogBase { index: Index(4), term: Term(2) });
        assert_eq!((log.last_index(), log.term_at(Index(4)), log.term_at(Index(3))), (Index(6), Some(Term(2)), None));
        assert_eq!((log.entry(Index(4)), log.entry(Index(5)).map(|entry| entry.term)), (None, Some(Term(2))));
        assert_eq!(log.configuration(), &configuration(&[1, 2, 3]));
        log.check();
        log.append(Entry { fact: Fact::Configuration(Box::new(configuration(&[1, 2]))), ..entry(7, 5) });
        log.append(entry(8, 5));
        log.placed(&placed(7, Term(5)));
        assert_eq!(log.configuration_at(Index(6)), Some(&configuration(&[1, 2, 3])), "as at the base");
        assert_eq!(log.configuration_at(Index(8)), Some(&configuration(&[1, 2])));
        log.compact(Index(8));
        assert_eq!((log.configuration(), log.configured_at()), (&configuration(&[1, 2]), Index(8)));
        log.check();
    }

    #[test]
    fn a_log_is_empty_up_to_its_base() {
        let base = LogBase { index: Index(10), term: Term(3) };
        let mut log = log_behind(base, &[3, 3, 5]);
        assert_eq!((log.last_index(), log.last_term()), (Index(13), Term(5)));
        let terms: Vec<Option<u64>> = (9..=14).map(|index| log.term_at(Index(index)).map(|term| term.0)).collect();
        assert_eq!(terms, [None, Some(3), Some(3), Some(3), Some(5), None]);
        assert!(log.agrees(Index(4), Term(1)) && log.agrees(Index(10), Term(3)) && !log.agrees(Index(10), Term(2)));
        assert_eq!(log.first_of_term(Index(12)), Index(11), "what is known of the term begins behind the base");
        assert_eq!((log.last_at_or_before_term(Term(4)), log.last_at_or_before_term(Term(1))), (Index(12), Index(10)));
        assert!(log.entry(Index(10)).is_none() && log.place_of(Index(10)).is_none() && log.fingerprint_at(Index(10)).is_none());
        assert_eq!(log.entry(Index(11)).map(|entry| entry.index), Some(Index(11)));
        log.trim(Index(12), Index(12), 0);
        assert!(log.entry(Index(12)).is_none() && log.entry(Index(13)).is_some());
        log.truncate(Index(11));
        assert_eq!((log.last_index(), log.last_term()), (Index(10), Term(3)));
        log.append(entry(11, 4));
        log.check();
    }

    #[test]
    fn a_configuration_is_in_force_as_soon_as_it_is_appended_and_ends_with_its_entry() {
        let mut log = log(&[1, 1]);
        let change = |voters: &[u16]| Fact::Configuration(Box::new(configuration(voters)));
        log.append(Entry { index: Index(3), term: Term(1), fact: change(&[1, 2]) });
        log.append(Entry { index: Index(4), term: Term(1), fact: change(&[2]) });
        assert_eq!((log.configuration(), log.configured_at()), (&configuration(&[2]), Index(4)));
        log.truncate(Index(4));
        assert_eq!((log.configuration(), log.configured_at()), (&configuration(&[1, 2]), Index(3)));
        log.trim(Index(3), Index(3), 0);
        assert_eq!(log.configuration(), &configuration(&[1, 2]), "it outlives the entry in memory");
        log.truncate(Index(2));
        assert_eq!((log.configuration(), log.configured_at()), (&configuration(&[1, 2, 3]), Index(0)));
        log.check();
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
