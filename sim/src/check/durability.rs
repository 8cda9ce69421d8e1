//! An acknowledged write survives (P3): at the end of a run the item has the version of the last acknowledged write of it, or a
//! later one; and where the versions are equal, the bytes are.
//!
//! Final reads by clients say much of this through [`super::linear`]; this looks at what the replicas hold, for all keys.

use super::agreement::Items;
use super::{Violation, render, scan};
use ringseed::base::Key;
use ringseed::base::hash;
use ringseed::history::{Action, Data, ItemAction, Outcome, Record};
use std::collections::{BTreeMap, BTreeSet};

/// The last acknowledged write of each key.
#[derive(Debug, Default)]
pub struct Durability<'a> {
    last: BTreeMap<&'a Key, (u64, &'a Record)>,
    /// Keys that may have been deleted by a write whose outcome is unknown.
    maybe_deleted: BTreeSet<&'a Key>,
}

impl<'a> Durability<'a> {
    pub fn of(history: &'a [Record]) -> Durability<'a> {
        let mut last: BTreeMap<&Key, (u64, &Record)> = BTreeMap::new();
        let mut add = |key, version: u64, record| {
            let entry = last.entry(key).or_insert((version, record));
            if version > entry.0 {
                *entry = (version, record);
            }
        };
        for record in history {
            match (&record.action, &record.outcome) {
                (Action::Transact { items, .. }, Outcome::Transacted { results }) => {
                    for (item, result) in items.iter().zip(results) {
                        if !matches!(item.action, ItemAction::Check | ItemAction::Read) {
                            add(&item.key, result.version, record);
                        }
                    }
                }
                (action, Outcome::Written { version, .. }) => {
                    if let Some(key) = action.key() {
                        add(key, *version, record);
                    }
                }
                _ => {}
            }
        }
        Durability { last, maybe_deleted: history.iter().flat_map(scan::maybe_deletes).collect() }
    }

    /// The final items of all groups together, and up to which version `forgotten` says that a key's deletion is.
    ///
    /// # Errors
    /// An acknowledged write is gone, or its bytes are others.
    pub fn check<'i>(
        &self,
        groups: impl IntoIterator<Item = &'i Items>,
        forgotten: impl Fn(&Key) -> u64,
    ) -> Result<(), Violation> {
        let mut items: BTreeMap<&Key, (u64, Option<u32>)> = BTreeMap::new();
        for group in groups {
            items.extend(group.iter().map(|(key, item)| (key, *item)));
        }
        for (key, (version, record)) in &self.last {
            let name = key;
            let Some((held, checksum)) = items.get(*key) else {
                let is_deleted = expected(record, key).is_none() || self.maybe_deleted.contains(key);
                if is_deleted && *version <= forgotten(key) {
                    continue;
                }
                return Err(violation("P3", format!("{name}: acknowledged at version {version}, and gone"), record));
            };
            if held < version {
                return Err(violation(
                    "P3",
                    format!("{name}: acknowledged at version {version}, and only version {held} is held"),
                    record,
                ));
            }
            if held == version && *checksum != expected(record, key) {
                return Err(violation("P4", format!("{name}: version {version} is not what was written"), record));
            }
        }
        Ok(())
    }
}

/// The checksum of what the write left of the key; `None` when it deleted the item.
fn expected(record: &Record, key: &Key) -> Option<u32> {
    if let (Action::Transact { items, .. }, Outcome::Transacted { results }) = (&record.action, &record.outcome) {
        let (item, result) = items.iter().zip(results).find(|(item, _)| item.key == *key)?;
        return match (&item.action, result.number) {
            (ItemAction::Put(value), _) => Some(checksum(value)),
            (ItemAction::Increment(_), Some(number)) => Some(checksum(&Data::of_number(number))),
            _ => None,
        };
    }
    match (&record.action, &record.outcome) {
        (Action::Put { value, .. }, _) => Some(checksum(value)),
        (Action::Increment { .. }, Outcome::Written { number: Some(number), .. }) => Some(checksum(&Data::of_number(*number))),
        _ => None,
    }
}

fn checksum(value: &Data) -> u32 {
    match value {
        Data::Whole(bytes) => hash::value_checksum(bytes),
        // A value's checksum is the low half of the hash that stands for it.
        Data::Hashed { hash, .. } => *hash as u32,
    }
}

fn violation(promise: &'static str, what: String, record: &Record) -> Violation {
    Violation { promise, checker: "durability", what: format!("{what}{}", render::records([record])) }
}

#[cfg(test)]
mod tests {
    use super::super::linear::tests::{data, delete, done, increment, key, op, put, rejected, sum, unknown};
    use super::*;

    fn judge(history: &[Record], version: u64, value: Option<&str>) -> Result<(), Violation> {
        let items = Items::from([(key("k"), (version, value.map(|value| checksum(&data(value)))))]);
        Durability::of(history).check([&items], |_| 0)
    }

    #[test]
    fn acknowledged_writes_are_held() {
        let history = [
            op(0, 1, put("a"), done(1)),
            op(2, 3, put("b"), done(2)),
            op(4, 5, put("c"), unknown()),
            op(6, 7, put("d"), rejected()),
        ];
        judge(&history, 2, Some("b")).unwrap();
        judge(&history, 3, Some("c")).unwrap();
        judge(&history, 2, Some("a")).unwrap_err();
        judge(&history, 1, Some("a")).unwrap_err();
        judge(&[op(0, 1, delete(), done(4))], 4, None).unwrap();
        judge(&[op(0, 1, delete(), done(4))], 4, Some("a")).unwrap_err();
        judge(&[op(0, 1, increment(5), sum(12, 4))], 4, Some("12")).unwrap();
        let deleted = [op(0, 1, put("a"), done(1)), op(0, 1, delete(), done(4))];
        let gone = |history: &[Record], forgotten: u64| Durability::of(history).check([&Items::new()], move |_| forgotten);
        gone(&deleted, 4).unwrap();
        gone(&deleted, 3).unwrap_err();
        gone(&[op(0, 1, put("a"), done(1)), op(2, 3, delete(), unknown())], 4).unwrap();
        gone(&history, 9).unwrap_err();
        let long = "x".repeat(5_000);
        judge(&[op(0, 1, put(&long), done(1))], 1, Some(&long)).unwrap();
        assert_eq!(checksum(&data(&long)), hash::value_checksum(long.as_bytes()));
    }
}
