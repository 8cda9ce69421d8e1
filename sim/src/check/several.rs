//! What an operation on several keys says about each: a transaction's items, and those of a read of several, as operations on
//! single keys.
//!
//! - An item of a committed transaction, or of a read, took effect at some instant of the whole's interval.
//! - A condition that did not hold is a read of version and presence, as with single operations. The transaction took no effect.
//! - A conflict says nothing. A transaction whose outcome is unknown is as many unknown writes.
//! - A check that held is a read of what it asked for; a check of nothing says nothing here.

use super::Violation;
use super::calls::{Call, Calls, Change, Step, Table, When, call, violation, when, wrong_kind};
use ringseed::base::Key;
use ringseed::history::{
    Action, Condition, Data, Failure, FailureReason, ItemAction, ItemResult, Outcome, Record, TransactionItem,
};
use std::collections::BTreeMap;

/// Adds the operation to the calls of its keys.
///
/// # Errors
/// The answer does not fit the question.
pub(super) fn add_record<'a>(keys: &mut BTreeMap<&'a Key, Calls<'a>>, record: &'a Record) -> Result<(), Violation> {
    match (&record.action, &record.outcome) {
        (Action::Transact { items, .. }, Outcome::Rejected { .. } | Outcome::NotCommitted { .. }) => {
            for item in items {
                keys.entry(&item.key).or_default().rejected.push(record);
            }
            let Outcome::NotCommitted { failures } = &record.outcome else { return Ok(()) };
            failures.iter().try_for_each(|failure| add_failure(keys, record, items, failure))
        }
        (_, Outcome::Rejected { .. }) | (Action::Scan { .. } | Action::GetMany { .. }, Outcome::Unknown { .. }) => Ok(()),
        (Action::Transact { items, .. }, Outcome::Unknown { .. }) => {
            for item in items {
                let calls = keys.entry(&item.key).or_default();
                if let Some(change) = change(&mut calls.table, item) {
                    let step = Step::Maybe { change };
                    calls.unknown.push(Call { record, start: record.start, end: u64::MAX, step });
                }
            }
            Ok(())
        }
        (Action::GetMany { keys: names }, Outcome::Values { items }) if names.len() == items.len() => {
            for (key, item) in names.iter().zip(items) {
                let calls = keys.entry(key).or_default();
                let value = item.value.as_ref().map(|value| calls.table.id(value));
                calls.definite.push(call(record, Step::Read { value, version: item.version })?);
            }
            Ok(())
        }
        (Action::Transact { items, .. }, Outcome::Transacted { results }) if items.len() == results.len() => {
            items.iter().zip(results).try_for_each(|(item, result)| add_item(keys, record, item, result))
        }
        _ => Err(wrong_kind(record)),
    }
}

fn add_failure<'a>(
    keys: &mut BTreeMap<&'a Key, Calls<'a>>,
    record: &'a Record,
    items: &'a [TransactionItem],
    failure: &Failure,
) -> Result<(), Violation> {
    let item = items.get(failure.item as usize).ok_or_else(|| wrong_kind(record))?;
    let calls = keys.entry(&item.key).or_default();
    let step = match (&failure.reason, &item.action) {
        (FailureReason::Condition { version, present }, _) if !item.condition.is_none() => {
            Step::Failed { condition: when(&mut calls.table, &item.condition), version: *version, present: *present }
        }
        (FailureReason::NotANumber, ItemAction::Increment(by)) => Step::NotANumber { by: *by },
        (FailureReason::Conflict, _) => return Ok(()),
        _ => return Err(wrong_kind(record)),
    };
    calls.definite.push(call(record, step)?);
    Ok(())
}

fn add_item<'a>(
    keys: &mut BTreeMap<&'a Key, Calls<'a>>,
    record: &'a Record,
    item: &'a TransactionItem,
    result: &'a ItemResult,
) -> Result<(), Violation> {
    let calls = keys.entry(&item.key).or_default();
    let version = result.version;
    let step = match &item.action {
        ItemAction::Check => match &item.condition {
            Condition::None => return Ok(()),
            Condition::Value(value) => Step::Read { value: Some(calls.table.id(value)), version },
            Condition::Absent => Step::Read { value: None, version },
            // That it was present is all that is known: what a failed "absent" says.
            Condition::Present => Step::Failed { condition: When::Absent, version, present: true },
            Condition::Version(expected) if *expected == version => {
                Step::Failed { condition: When::Absent, version, present: true }
            }
            Condition::Version(_) => return Err(wrong_kind(record)),
        },
        ItemAction::Read => {
            let held = match &item.condition {
                Condition::None => true,
                Condition::Value(expected) => result.value.as_ref() == Some(expected),
                Condition::Version(expected) => result.value.is_some() && version == *expected,
                Condition::Absent => result.value.is_none(),
                Condition::Present => result.value.is_some(),
            };
            if !held {
                return Err(violation("P2", "a transaction committed, and what it read is not what it asked for", [record]));
            }
            Step::Read { value: result.value.as_ref().map(|value| calls.table.id(value)), version }
        }
        ItemAction::Put(_) | ItemAction::Delete | ItemAction::Increment(_) => {
            let change = change(&mut calls.table, item).expect("it is a write");
            let result = match (change, result.number) {
                (Change::Put(id, _), None) => Some(id),
                (Change::Delete(_), None) => None,
                (Change::Increment(..), Some(number)) => Some(calls.table.id(&Data::of_number(number))),
                _ => return Err(wrong_kind(record)),
            };
            Step::Write { change, version, result }
        }
    };
    calls.definite.push(call(record, step)?);
    Ok(())
}

/// `None` for what writes nothing.
fn change(table: &mut Table, item: &TransactionItem) -> Option<Change> {
    Some(match &item.action {
        ItemAction::Put(value) => Change::Put(table.id(value), when(table, &item.condition)),
        ItemAction::Delete => Change::Delete(when(table, &item.condition)),
        ItemAction::Increment(by) => Change::Increment(*by, when(table, &item.condition)),
        ItemAction::Check | ItemAction::Read => return None,
    })
}
