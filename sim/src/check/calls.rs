//! What was said about one key, as the checkers of linearizability read it.

use super::{Violation, render};
use ringseed::base::Key;
use ringseed::history::{Action, Condition, Data, ItemAction, Outcome, Record, TransactionItem};
use std::collections::BTreeMap;

/// All that was said about one key.
#[derive(Default)]
pub(super) struct Calls<'a> {
    pub(super) table: Table,
    /// Those whose outcome is known.
    pub(super) definite: Vec<Call<'a>>,
    /// Writes whose outcome is not.
    pub(super) unknown: Vec<Call<'a>>,
    pub(super) eventual: Vec<Call<'a>>,
    /// Kept to explain what else cannot be.
    pub(super) rejected: Vec<&'a Record>,
}

/// One operation as it concerns one key.
pub(super) struct Call<'a> {
    pub(super) record: &'a Record,
    pub(super) start: u64,
    /// `u64::MAX` for an unknown write: it may take effect at any time.
    pub(super) end: u64,
    pub(super) step: Step,
}

/// What the operation did, with the versions it was told.
pub(super) enum Step {
    Read {
        value: Value,
        version: u64,
    },
    Failed {
        condition: When,
        version: u64,
        present: bool,
    },
    Write {
        change: Change,
        version: u64,
        result: Value,
    },
    /// Told that the item was no number, or that the sum would be none. No version goes with that.
    NotANumber {
        by: i64,
    },
    /// A write whose outcome is unknown.
    Maybe {
        change: Change,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Put(Id, When),
    Delete(When),
    Increment(i64, When),
}

/// A condition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum When {
    Always,
    Value(Id),
    Version(u64),
    Absent,
    Present,
}

/// An item's value; `None` when it is absent.
pub(super) type Value = Option<Id>;

/// A value of this key's history, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u32);

/// The values that occur in one key's history.
#[derive(Default)]
pub(super) struct Table {
    ids: BTreeMap<Data, Id>,
    values: Vec<(Data, Option<i64>)>,
}

impl Table {
    pub(super) fn id(&mut self, data: &Data) -> Id {
        if let Some(id) = self.ids.get(data) {
            return *id;
        }
        let id = Id(u32::try_from(self.values.len()).expect("a key has fewer than 2^32 values"));
        self.values.push((data.clone(), data.number()));
        self.ids.insert(data.clone(), id);
        id
    }

    pub(super) fn number(&self, id: Id) -> Option<i64> {
        self.values[id.0 as usize].1
    }

    pub(super) fn data(&self, id: Id) -> &Data {
        &self.values[id.0 as usize].0
    }

    pub(super) fn show(&self, value: Value) -> String {
        value.map_or("absent".into(), |id| self.data(id).to_string())
    }
}

impl Call<'_> {
    pub(super) fn version(&self) -> Option<u64> {
        match self.step {
            Step::Read { version, .. } | Step::Failed { version, .. } | Step::Write { version, .. } => Some(version),
            Step::Maybe { .. } | Step::NotANumber { .. } => None,
        }
    }

    pub(super) fn is_write(&self) -> bool {
        matches!(self.step, Step::Write { .. })
    }
}

pub(super) fn call(record: &Record, step: Step) -> Result<Call<'_>, Violation> {
    match record.end {
        Some(end) if end >= record.start => Ok(Call { record, start: record.start, end, step }),
        _ => Err(violation("P1", "the history itself is wrong: an answer without an end, or from before its question", [record])),
    }
}

pub(super) fn when(table: &mut Table, condition: &Condition) -> When {
    match condition {
        Condition::None => When::Always,
        Condition::Value(value) => When::Value(table.id(value)),
        Condition::Version(version) => When::Version(*version),
        Condition::Absent => When::Absent,
        Condition::Present => When::Present,
    }
}

pub(super) fn wrong_kind(record: &Record) -> Violation {
    violation("P1", "an answer of a kind that does not belong to the question", [record])
}

pub(super) fn violation<'a>(promise: &'static str, what: &str, records: impl IntoIterator<Item = &'a Record>) -> Violation {
    Violation { promise, checker: "linear", what: format!("{what}{}", render::records(records)) }
}

/// A value was seen that nothing can have written: says so, and whose it may be.
pub(super) fn unwritten(key: &Key, calls: &Calls<'_>, value: Value, version: u64, read: &Call<'_>) -> Violation {
    let what = format!("key {}: {} at version {version} was seen", key, calls.table.show(value));
    if let Some(id) = value {
        let data = calls.table.data(id);
        let writes = |record: &Record| match &record.action {
            Action::Put { value, .. } => value == data,
            Action::Transact { items, .. } => puts(items, key, data),
            _ => false,
        };
        if let Some(rejected) = calls.rejected.iter().find(|record| writes(record)) {
            let (promise, why) = match rejected.outcome {
                Outcome::NotCommitted { .. } => ("P2", "but the transaction that writes it was not committed"),
                _ => ("P6", "but the write of it was rejected"),
            };
            return violation(promise, &format!("{what}, {why}"), [*rejected, read.record]);
        }
        let same = |call: &&Call<'_>| matches!(call.step, Step::Write { result, .. } if result == value);
        if let Some(other) = calls.definite.iter().find(same) {
            return violation("P1", &format!("{what}, but it was written at another version"), [other.record, read.record]);
        }
    }
    violation("P1", &format!("{what}, and nothing can have written that"), [read.record])
}

/// Whether one of the items puts this value to this key.
fn puts(items: &[TransactionItem], key: &Key, data: &Data) -> bool {
    items.iter().any(|item| item.key == *key && matches!(&item.action, ItemAction::Put(value) if value == data))
}
