//! Lists that only grow (P2): each transaction reads a list, and puts it back with an element of its own at the end.
//!
//! So a list tells its own history: of any two states of it one is the beginning of the other, and no element is in it twice. How
//! many elements a state has is its version, a version that the store did not make up. [`super::serializable`] judges the order
//! of transactions by it (Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations", 2020).
//!
//! The elements of a list are divided by commas.

use super::{Violation, render};
use bytes::Bytes;
use ringseed::base::Key;
use ringseed::history::{Action, Data, ItemAction, Outcome, Record};
use std::collections::{BTreeMap, BTreeSet};

/// The number of elements; `None` for a value that is not held in whole.
pub fn length(value: Option<&Data>) -> Option<u64> {
    match value {
        None => Some(0),
        Some(Data::Whole(bytes)) => Some(bytes.split(|&byte| byte == b',').filter(|element| !element.is_empty()).count() as u64),
        Some(Data::Hashed { .. }) => None,
    }
}

/// All states of each list that were read, or that an acknowledged transaction wrote, are beginnings of the longest.
///
/// # Errors
/// Two states of a list that are not, or an element that is in a list twice.
pub fn check(history: &[Record], prefix: &[u8]) -> Result<(), Violation> {
    let mut states: BTreeMap<&Key, BTreeMap<&Bytes, &Record>> = BTreeMap::new();
    for record in history {
        for (key, value) in lists(record) {
            if let (true, Data::Whole(value)) = (key.bytes().starts_with(prefix), value) {
                states.entry(key).or_default().entry(value).or_insert(record);
            }
        }
    }
    for (key, states) in states {
        let mut by_length: Vec<(&Bytes, &Record)> = states.into_iter().collect();
        by_length.sort_by_key(|(value, _)| value.len());
        for pair in by_length.windows(2) {
            let (shorter, longer) = (pair[0].0, pair[1].0);
            if !(longer.starts_with(shorter) && longer.get(shorter.len()) == Some(&b',')) {
                return Err(violation(
                    key,
                    "neither of these states of the list is the beginning of the other",
                    [pair[0].1, pair[1].1],
                ));
            }
        }
        if let Some((longest, record)) = by_length.last() {
            let mut seen = BTreeSet::new();
            if !longest.split(|&byte| byte == b',').all(|element| seen.insert(element)) {
                return Err(violation(key, "an element is in the list twice", [*record]));
            }
        }
    }
    Ok(())
}

fn lists(record: &Record) -> Vec<(&Key, &Data)> {
    match (&record.action, &record.outcome) {
        (Action::Get { key, .. }, Outcome::Value { value: Some(value), .. }) => vec![(key, value)],
        (Action::Put { key, value, .. }, Outcome::Written { .. }) => vec![(key, value)],
        (Action::Scan { .. }, Outcome::Scanned { items, .. }) => items.iter().map(|item| (&item.key, &item.value)).collect(),
        (Action::GetMany { keys }, Outcome::Values { items }) => {
            keys.iter().zip(items).filter_map(|(key, item)| Some((key, item.value.as_ref()?))).collect()
        }
        (Action::Transact { items, .. }, Outcome::Transacted { results }) => {
            let mut all = Vec::new();
            for (item, result) in items.iter().zip(results) {
                match (&item.action, &result.value) {
                    (ItemAction::Put(value), _) | (ItemAction::Read, Some(value)) => all.push((&item.key, value)),
                    _ => {}
                }
            }
            all
        }
        _ => Vec::new(),
    }
}

fn violation<'a>(key: &Key, what: &str, records: impl IntoIterator<Item = &'a Record>) -> Violation {
    let what = format!("list {}: {what}{}", key, render::records(records));
    Violation { promise: "P2", checker: "lists", what }
}

#[cfg(test)]
mod tests {
    use super::super::linear::tests::{data, key, op};
    use super::*;

    fn judge(states: &[&str]) -> Result<(), Violation> {
        let get = || Action::Get { key: key("l0"), eventual: false };
        let read = |value: &&str| op(0, 9, get(), Outcome::Value { value: Some(data(value)), version: 1 });
        check(&states.iter().map(read).collect::<Vec<_>>(), b"l")
    }

    #[test]
    fn states_are_beginnings_of_each_other() {
        judge(&["a", "a,b", "a,b,cd", "a"]).unwrap();
        judge(&["a", "b"]).unwrap_err();
        judge(&["a,b", "a,c"]).unwrap_err();
        judge(&["a", "ab"]).unwrap_err();
        judge(&["a,b", "a,b,a"]).unwrap_err();
        assert_eq!(length(Some(&data("a,b,cd"))), Some(3));
        assert_eq!(length(None), Some(0));
    }
}
