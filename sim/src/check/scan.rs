//! A page of a scan is atomic in each group (P2).
//!
//! A scan says at which index of each group its part was read ([`Outcome::Scanned`]). So nothing has to be searched. For each
//! group of the page, with A the index read at, and over the keys of the group within the page's range:
//!
//! 1. the page shows each key as the last write up to A left it, and nothing above A;
//! 2. a strong scan: whatever was acknowledged or seen before the scan began is at or below A;
//! 3. whatever write began after the scan ended is above A.
//!
//! Writes are known by acknowledgement, or because a read saw them. A write whose outcome is unknown and that nobody else saw may
//! be shown too; that its value was ever written is judged by [`super::linear`], for which each item is a read.
//!
//! A participant's write has the index of its *prepare* as version, and shows only from a later index on, that of the decision
//! there. A strong scan waits for what is prepared in its range, so its index never lies between the two. An eventual one does
//! not: it may lack a transaction's write that is within its index.
//!
//! Beyond scans, the versions of one group are judged over all its keys: no two keys share one (they are the indices of one log),
//! unless a transaction writes both.

use super::{Options, Violation, render};
use ringseed::base::{GroupId, Key, PartitionId, hash};
use ringseed::history::{Action, Item, ItemAction, ItemResult, Outcome, Record, TransactionItem};
use std::collections::{BTreeMap, BTreeSet};

/// Judges every scan of a history of a cluster with so many partitions (a power of two).
///
/// # Errors
/// The first violation, in the order of the history.
pub fn check(history: &[Record], partitions: u32, options: &Options) -> Result<(), Violation> {
    assert!(partitions.is_power_of_two(), "the number of partitions is a power of two");
    let known = Known::of(history, partitions, options)?;
    for record in history {
        if let (Action::Scan { prefix, from, limit, eventual }, Outcome::Scanned { items, next, read_at }) =
            (&record.action, &record.outcome)
        {
            let page = Page { record, prefix, from, limit: *limit, eventual: *eventual, items, next: next.as_ref() };
            page.shape()?;
            known.judge(&page, read_at)?;
        }
    }
    Ok(())
}

/// The consensus group of a key, in a cluster of so many partitions (a power of two).
pub fn group_of(key: &Key, partitions: u32) -> GroupId {
    let token = hash::token(key.table(), key.partition_key()).0;
    // Shifting by all 64 bits is no shift: with one partition there is no bit to look at.
    let partition = token.checked_shr(64 - partitions.trailing_zeros()).unwrap_or(0);
    PartitionId(u32::try_from(partition).expect("a partition's number has fewer bits than the count of them")).group()
}

/// One page that a scan was given.
struct Page<'a> {
    record: &'a Record,
    prefix: &'a Key,
    from: &'a Key,
    limit: u32,
    eventual: bool,
    items: &'a [Item],
    next: Option<&'a Key>,
}

/// Whether the key is in the prefix's table, and begins with it, its sort key included: independent of what the cluster thinks.
fn begins_with(key: &Key, prefix: &Key) -> bool {
    let parts = |key: &Key| (key.table(), key.partition_key().to_vec(), key.sort_key().map(<[u8]>::to_vec));
    match (parts(key), parts(prefix)) {
        ((table, partition, _), (wanted, begin, None)) => table == wanted && partition.starts_with(&begin),
        ((table, partition, sort), (wanted, whole, Some(begin))) => {
            table == wanted && partition == whole && sort.is_some_and(|sort| sort.starts_with(&begin))
        }
    }
}

impl Page<'_> {
    fn covers(&self, key: &Key) -> bool {
        begins_with(key, self.prefix) && key >= self.from && self.next.is_none_or(|next| key < next)
    }

    fn shape(&self) -> Result<(), Violation> {
        let ascending = self.items.windows(2).all(|pair| pair[0].key < pair[1].key);
        if !ascending || !self.items.iter().all(|item| self.covers(&item.key)) || self.items.len() > self.limit as usize {
            return Err(violation("the items are not in order, or beyond the page's range or limit", [self.record]));
        }
        match self.next {
            Some(next) if next <= self.from && *self.from != Key::default() => {
                Err(violation("the next page does not go on", [self.record]))
            }
            _ => Ok(()),
        }
    }
}

/// A write that is known to have taken effect.
#[derive(Clone, Copy)]
struct Fact<'a> {
    present: bool,
    /// The earliest end of an operation that wrote or saw it: from then on it is certain.
    certain: u64,
    /// The start of the write; 0 when only reads know of it.
    start: u64,
    by: &'a Record,
    /// A transaction wrote it, or may have.
    transacted: bool,
}

/// Per key, its group and its writes by version.
struct Known<'a> {
    keys: BTreeMap<&'a Key, (GroupId, BTreeMap<u64, Fact<'a>>)>,
    /// Keys that may have been deleted by a write whose outcome is unknown, and since when.
    maybe_deleted: BTreeMap<&'a Key, u64>,
}

impl<'a> Known<'a> {
    fn of(history: &'a [Record], partitions: u32, options: &Options) -> Result<Known<'a>, Violation> {
        let mut known = Known { keys: BTreeMap::new(), maybe_deleted: BTreeMap::new() };
        let mut owners: BTreeMap<(GroupId, u64), (&Key, &Record)> = BTreeMap::new();
        let mut together = Together::of(history);
        for record in history {
            for (key, version, present, is_write) in facts(record) {
                let transacted = together.writes(key) && (!is_write || record.action.key().is_none());
                let group = known.keys.entry(key).or_insert_with(|| (group_of(key, partitions), BTreeMap::new())).0;
                if version == 0 || (!is_write && !present && options.may_be_floor(version)) {
                    continue;
                }
                let (owner, other) = *owners.entry((group, version)).or_insert((key, record));
                if owner != key && !together.write_both(owner, key) {
                    return Err(violation(
                        &format!("two keys of group {group} have the same version {version}"),
                        [other, record],
                    ));
                }
                known.add(
                    key,
                    version,
                    Fact {
                        present,
                        certain: record.end.unwrap_or(u64::MAX),
                        start: if is_write { record.start } else { 0 },
                        by: record,
                        transacted,
                    },
                );
            }
            for key in maybe_deletes(record) {
                let since = known.maybe_deleted.entry(key).or_insert(record.start);
                *since = record.start.min(*since);
            }
        }
        Ok(known)
    }

    fn add(&mut self, key: &'a Key, version: u64, fact: Fact<'a>) {
        let writes = &mut self.keys.get_mut(key).expect("the key was just entered").1;
        let entry = writes.entry(version).or_insert(fact);
        if fact.start > 0 {
            *entry = Fact { certain: entry.certain, ..fact };
        }
        entry.certain = entry.certain.min(fact.certain);
    }

    fn judge(&self, page: &Page<'_>, read_at: &[(u32, u64)]) -> Result<(), Violation> {
        let read_at: BTreeMap<GroupId, u64> = read_at.iter().map(|(group, index)| (GroupId(*group), *index)).collect();
        let shown: BTreeMap<&Key, u64> = page.items.iter().map(|item| (&item.key, item.version)).collect();
        let mut missing = BTreeSet::new();
        let range = self.keys.range::<Key, _>(page.prefix.max(page.from)..);
        for (key, (group, writes)) in range.take_while(|(key, _)| begins_with(key, page.prefix) || **key < page.prefix) {
            if !page.covers(key) {
                continue;
            }
            match read_at.get(group) {
                Some(at) => self.judge_key(page, key, *at, shown.get(key).copied(), writes)?,
                None if writes.is_empty() => {}
                None => _ = missing.insert(*group),
            }
        }
        match missing.first() {
            Some(group) => Err(violation(&format!("the scan does not say at which index it read group {group}"), [page.record])),
            None => Ok(()),
        }
    }

    fn judge_key(
        &self,
        page: &Page<'_>,
        key: &Key,
        at: u64,
        shown: Option<u64>,
        writes: &BTreeMap<u64, Fact<'_>>,
    ) -> Result<(), Violation> {
        let (start, end) = (page.record.start, page.record.end.unwrap_or(u64::MAX));
        let name = key;
        if let Some(version) = shown.filter(|version| *version > at) {
            return Err(violation(&format!("{name} is shown at version {version}, above the index {at} read at"), [page.record]));
        }
        // What a transaction wrote may not show yet in an eventual scan.
        let last = writes.range(..=at).rfind(|(_, fact)| !(page.eventual && fact.transacted));
        match (last, shown) {
            (Some((version, fact)), Some(seen)) if seen < *version => {
                let what =
                    format!("{name} is shown at version {seen}, though version {version} is within the index {at} read at");
                return Err(violation(&what, [fact.by, page.record]));
            }
            (Some((version, fact)), None)
                if fact.present
                    && self.maybe_deleted.get(key).is_none_or(|since| *since > end)
                    && writes.range(version..=&at).all(|(_, later)| later.present) =>
            {
                let what = format!("{name} is not shown, though its version {version} is within the index {at} read at");
                return Err(violation(&what, [fact.by, page.record]));
            }
            _ => {}
        }
        for (version, fact) in writes.range(at.saturating_add(1)..) {
            if !page.eventual && fact.certain < start {
                let what =
                    format!("{name}: version {version} was certain before the scan began, but is above the index {at} read at");
                return Err(violation(&what, [fact.by, page.record]));
            }
        }
        for (version, fact) in writes.range(..=at) {
            if fact.start > end {
                let what = format!(
                    "{name}: the write of version {version} began after the scan ended, but is within the index {at} read at"
                );
                return Err(violation(&what, [fact.by, page.record]));
            }
        }
        Ok(())
    }
}

/// What an operation makes certain: key, version, whether the item was present then, and whether the operation wrote it.
fn facts<'a>(record: &'a Record) -> Vec<(&'a Key, u64, bool, bool)> {
    match (&record.action, &record.outcome) {
        (Action::Get { key, eventual: false }, Outcome::Value { value, version }) => {
            vec![(key, *version, value.is_some(), false)]
        }
        // An eventual read saw a state that was: a write that is certain, even if it need not be the last.
        (Action::Get { key, eventual: true }, Outcome::Value { value, version }) => vec![(key, *version, value.is_some(), false)],
        (Action::Put { key, .. } | Action::Increment { key, .. }, Outcome::Written { version, .. }) => {
            vec![(key, *version, true, true)]
        }
        (Action::Delete { key, .. }, Outcome::Written { version, .. }) => vec![(key, *version, false, true)],
        (Action::Put { key, .. } | Action::Delete { key, .. }, Outcome::ConditionFailed { version, present }) => {
            vec![(key, *version, *present, false)]
        }
        (Action::Scan { .. }, Outcome::Scanned { items, .. }) => {
            items.iter().map(|item| (&item.key, item.version, true, false)).collect()
        }
        (Action::GetMany { keys }, Outcome::Values { items }) => {
            keys.iter().zip(items).map(|(key, item)| (key, item.version, item.value.is_some(), false)).collect()
        }
        (Action::Transact { items, .. }, Outcome::Transacted { results }) => {
            let fact = |(item, result): (&'a TransactionItem, &ItemResult)| match item.action {
                ItemAction::Check => None,
                ItemAction::Read => Some((&item.key, result.version, result.value.is_some(), false)),
                ItemAction::Put(_) | ItemAction::Increment(_) => Some((&item.key, result.version, true, true)),
                ItemAction::Delete => Some((&item.key, result.version, false, true)),
            };
            items.iter().zip(results).filter_map(fact).collect()
        }
        _ => Vec::new(),
    }
}

/// The keys that the operation deletes if it took effect, which nobody was told.
pub(super) fn maybe_deletes(record: &Record) -> Vec<&Key> {
    match (&record.action, &record.outcome) {
        (Action::Delete { key, .. }, Outcome::Unknown { .. }) => vec![key],
        (Action::Transact { items, .. }, Outcome::Unknown { .. }) => {
            items.iter().filter(|item| item.action == ItemAction::Delete).map(|item| &item.key).collect()
        }
        _ => Vec::new(),
    }
}

/// Which keys are written by one transaction, that took effect or may have.
struct Together<'a> {
    /// Per key, the transactions that write it, by number, ascending.
    writers: BTreeMap<&'a Key, Vec<usize>>,
    known: BTreeMap<(&'a Key, &'a Key), bool>,
}

impl<'a> Together<'a> {
    fn of(history: &'a [Record]) -> Together<'a> {
        let mut writers: BTreeMap<&Key, Vec<usize>> = BTreeMap::new();
        for (number, record) in history.iter().enumerate() {
            if let (Action::Transact { items, .. }, Outcome::Transacted { .. } | Outcome::Unknown { .. }) =
                (&record.action, &record.outcome)
            {
                for item in items.iter().filter(|item| !matches!(item.action, ItemAction::Check | ItemAction::Read)) {
                    writers.entry(&item.key).or_default().push(number);
                }
            }
        }
        Together { writers, known: BTreeMap::new() }
    }

    fn writes(&self, key: &Key) -> bool {
        self.writers.contains_key(key)
    }

    fn write_both(&mut self, one: &'a Key, other: &'a Key) -> bool {
        if let Some(known) = self.known.get(&(one, other)) {
            return *known;
        }
        let writers = |key| self.writers.get(key).map_or(&[][..], Vec::as_slice);
        let both = writers(one).iter().any(|number| writers(other).binary_search(number).is_ok());
        self.known.insert((one, other), both);
        both
    }
}

fn violation<'a>(what: &str, records: impl IntoIterator<Item = &'a Record>) -> Violation {
    Violation { promise: "P2", checker: "scan", what: format!("{what}{}", render::records(records)) }
}

#[cfg(test)]
mod tests {
    use super::super::linear::tests::{data, done, key, op, unknown};
    use super::*;
    use ringseed::history::{Acknowledge, Condition};

    /// With one partition every key is of group 1.
    const ONE: u32 = 1;

    fn put(name: &str, value: &str) -> Action {
        Action::Put { key: key(name), value: data(value), condition: Condition::None, acknowledge: Acknowledge::Quorum }
    }

    fn delete(name: &str) -> Action {
        Action::Delete { key: key(name), condition: Condition::None, acknowledge: Acknowledge::Quorum }
    }

    fn scan(prefix: &str, from: &str, limit: u32) -> Action {
        Action::Scan { prefix: key(prefix), from: key(from), limit, eventual: false }
    }

    fn page(items: &[(&str, u64)], next: Option<&str>, at: u64) -> Outcome {
        let items = items.iter().map(|(name, version)| Item { key: key(name), value: data("x"), version: *version }).collect();
        Outcome::Scanned { items, next: next.map(key), read_at: vec![(1, at)] }
    }

    /// a at 1, b at 2, a again at 3, b deleted at 4, c at 9 after any scan at 100.
    fn writes() -> Vec<Record> {
        vec![
            op(1, 2, put("a", "x"), done(1)),
            op(3, 4, put("b", "x"), done(2)),
            op(50, 150, put("a", "x"), done(3)),
            op(50, 160, delete("b"), done(4)),
            op(200, 210, put("c", "x"), done(9)),
        ]
    }

    fn judge(action: Action, outcome: Outcome) -> Result<(), Violation> {
        check(&[writes(), vec![op(100, 120, action, outcome)]].concat(), ONE, &Options::default())
    }

    #[test]
    fn atomic_pages_pass() {
        judge(scan("", "", 9), page(&[("a", 1), ("b", 2)], None, 2)).unwrap();
        judge(scan("", "", 9), page(&[("a", 3), ("b", 2)], None, 3)).unwrap();
        judge(scan("", "", 9), page(&[("a", 3)], None, 4)).unwrap();
        judge(scan("", "", 9), page(&[("a", 3)], None, 8)).unwrap();
        judge(scan("", "", 1), page(&[("a", 3)], Some("a\0"), 3)).unwrap();
        judge(scan("b", "", 9), page(&[("b", 2)], None, 3)).unwrap();
        judge(scan("", "b", 9), page(&[("b", 2)], None, 3)).unwrap();
    }

    #[test]
    fn half_pages_fail() {
        // The new a with the old b, at an index that has both changes; and the other way about.
        judge(scan("", "", 9), page(&[("a", 3), ("b", 2)], None, 4)).unwrap_err();
        judge(scan("", "", 9), page(&[("a", 1)], None, 4)).unwrap_err();
        judge(scan("", "", 9), page(&[("a", 1), ("b", 2)], None, 3)).unwrap_err();
        judge(scan("", "", 9), page(&[("a", 3), ("b", 2)], None, 2)).unwrap_err();
        // Something is missing; something acknowledged before the scan is not within.
        judge(scan("", "", 9), page(&[("b", 2)], None, 2)).unwrap_err();
        judge(scan("", "", 9), page(&[("a", 1)], None, 1)).unwrap_err();
        // From the future.
        judge(scan("", "", 9), page(&[("a", 3), ("c", 9)], None, 9)).unwrap_err();
        judge(scan("", "", 9), page(&[("a", 3)], None, 9)).unwrap_err();
    }

    #[test]
    fn pages_of_the_wrong_shape_fail() {
        judge(scan("", "", 9), page(&[("b", 2), ("a", 1)], None, 2)).unwrap_err();
        judge(scan("", "", 1), page(&[("a", 1), ("b", 2)], None, 2)).unwrap_err();
        judge(scan("b", "", 9), page(&[("a", 1), ("b", 2)], None, 2)).unwrap_err();
        judge(scan("", "", 9), Outcome::Scanned { items: vec![], next: None, read_at: vec![] }).unwrap_err();
    }

    #[test]
    fn unknown_writes_may_show() {
        let with = |unknown: Record, outcome| {
            check(&[writes(), vec![unknown, op(100, 120, scan("", "", 9), outcome)]].concat(), ONE, &Options::default())
        };
        with(op(5, 6, delete("b"), unknown()), page(&[("a", 3)], None, 3)).unwrap();
        with(op(130, 131, delete("b"), unknown()), page(&[("a", 3)], None, 3)).unwrap_err();
        with(op(5, 6, put("d", "x"), unknown()), page(&[("a", 3), ("d", 7)], None, 8)).unwrap();
    }

    #[test]
    fn a_prefix_is_of_one_table_and_of_one_partition_key_if_it_has_a_sort_key() {
        let key = |sort_key: Option<&[u8]>| Key::new(5, b"user", sort_key);
        for (prefix, plain, with_sort_key) in [
            (Key::new(5, b"us", None), true, true),
            (key(None), true, true),
            (key(Some(b"")), false, true),
            (key(Some(b"20")), false, true),
            (key(Some(b"21")), false, false),
            (Key::new(5, b"us", Some(b"20")), false, false),
            (Key::from("us"), false, false),
        ] {
            assert_eq!(begins_with(&key(None), &prefix), plain, "{prefix}");
            assert_eq!(begins_with(&key(Some(b"2024")), &prefix), with_sort_key, "{prefix}");
        }
    }

    #[test]
    fn one_version_is_one_keys() {
        check(&[op(0, 1, put("a", "x"), done(5)), op(0, 1, put("b", "x"), done(5))], ONE, &Options::default()).unwrap_err();
        let item = |name| TransactionItem { key: key(name), action: ItemAction::Put(data("x")), condition: Condition::None };
        let both = Action::Transact { items: vec![item("a"), item("b")], token: None };
        let result = || ItemResult { version: 5, number: None, value: None };
        let committed = Outcome::Transacted { results: vec![result(), result()] };
        check(&[op(0, 1, both.clone(), committed)], ONE, &Options::default()).unwrap();
        let read = |name| Action::Get { key: key(name), eventual: false };
        let seen = || Outcome::Value { value: Some(data("x")), version: 5 };
        check(&[op(0, 1, both, unknown()), op(2, 3, read("a"), seen()), op(2, 3, read("b"), seen())], ONE, &Options::default())
            .unwrap();
        assert_eq!(group_of(&Key::from("a"), 1), GroupId(1));
        let groups: BTreeSet<GroupId> = (0..100_u8).map(|n| group_of(&Key::from(vec![n]), 8)).collect();
        assert_eq!(groups, (1..=8).map(GroupId).collect());
    }
}
