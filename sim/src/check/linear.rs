//! Operations on one key are linearizable (P1): Herlihy and Wing, "Linearizability" (1990). Each key is judged by itself, which
//! is sound because linearizability is local (section 3.3 there).
//!
//! Judged twice. First by versions ([`super::versioned`]): they say in which order the operations must have taken effect. So it
//! only remains to be shown that this order respects real time and that each operation saw what the operation before it left;
//! this takes seconds for a million operations. Then by values alone ([`super::search`]), which does not trust the versions and
//! searches for an order.
//!
//! What counts:
//!
//! - A rejected operation never takes effect. An unknown write takes effect at any time after its start, or never. An unknown
//!   read says nothing.
//! - A failed condition is a read of version and presence. "Not a number" is a read, too, of which no version is told: it is
//!   judged by values alone.
//! - An item of a strong scan is a strong read of its key (that a scan is atomic is judged by [`super::scan`]).
//! - What a transaction, or a read of several items, does to one key is an operation on that key ([`super::several`]; that all of
//!   it happens at one instant is judged by [`super::serializable`]).
//! - An eventual read may show any past state, but only one that was, or may have been, written, and under its own version; and
//!   what it shows has taken effect. It may go back behind what the same client has seen: no session is promised.

use super::calls::{Call, Calls, Change, Step, Table, Value, When, call, unwritten, violation, when, wrong_kind};
use super::{Initial, Options, Report, Violation, search, several, versioned};
use ringseed::base::Key;
use ringseed::history::{Action, Data, Outcome, Record};
use ringseed::msg::operation::Rejection;
use std::collections::BTreeMap;

/// Judges every key of a history.
///
/// # Errors
/// The first violation, in order of keys.
pub fn check(history: &[Record], options: &Options) -> Result<Report, Violation> {
    let mut keys: BTreeMap<&Key, Calls<'_>> = BTreeMap::new();
    for record in history {
        add_record(&mut keys, record)?;
    }
    let mut report = Report { keys: keys.len(), ..Report::default() };
    for (key, mut calls) in keys {
        report.operations += calls.definite.len() + calls.unknown.len() + calls.eventual.len();
        calls.unknown.sort_by_key(|call| call.start);
        check_eventual(key, &calls, options)?;
        if !versioned::check(key, &calls, options)? {
            report.undecided.push(format!("{} by versions", key));
        }
        if options.values && !search::check(key, &mut calls, options)? {
            report.undecided.push(format!("{} by values", key));
        }
    }
    Ok(report)
}

fn add_record<'a>(keys: &mut BTreeMap<&'a Key, Calls<'a>>, record: &'a Record) -> Result<(), Violation> {
    if let Outcome::Scanned { items, .. } = &record.outcome {
        let Action::Scan { eventual, .. } = record.action else { return Err(wrong_kind(record)) };
        for item in items {
            let calls = keys.entry(&item.key).or_default();
            let value = Some(calls.table.id(&item.value));
            let call = call(record, Step::Read { value, version: item.version })?;
            if eventual { calls.eventual.push(call) } else { calls.definite.push(call) }
        }
        return Ok(());
    }
    let Some(key) = record.action.key() else { return several::add_record(keys, record) };
    let calls = keys.entry(key).or_default();
    match (&record.action, &record.outcome) {
        (action, Outcome::Rejected { reason }) => {
            calls.rejected.push(record);
            // The one rejection that says something of the item.
            if let Action::Increment { by, .. } = action
                && *reason == Rejection::NotANumber.to_string()
            {
                calls.definite.push(call(record, Step::NotANumber { by: *by })?);
            }
        }
        (Action::Get { .. }, Outcome::Unknown { .. }) => {}
        (_, Outcome::Unknown { .. }) => {
            let change = change(&mut calls.table, &record.action);
            calls.unknown.push(Call { record, start: record.start, end: u64::MAX, step: Step::Maybe { change } });
        }
        (Action::Get { eventual, .. }, Outcome::Value { value, version }) => {
            let value = value.as_ref().map(|value| calls.table.id(value));
            let call = call(record, Step::Read { value, version: *version })?;
            if *eventual { calls.eventual.push(call) } else { calls.definite.push(call) }
        }
        (Action::Put { condition, .. } | Action::Delete { condition, .. }, Outcome::ConditionFailed { version, present })
            if !condition.is_none() =>
        {
            let condition = when(&mut calls.table, condition);
            calls.definite.push(call(record, Step::Failed { condition, version: *version, present: *present })?);
        }
        (Action::Put { .. } | Action::Delete { .. } | Action::Increment { .. }, Outcome::Written { version, number }) => {
            let change = change(&mut calls.table, &record.action);
            let result = match (change, number) {
                (Change::Put(id, _), None) => Some(id),
                (Change::Delete(_), None) => None,
                (Change::Increment(..), Some(number)) => Some(calls.table.id(&Data::of_number(*number))),
                _ => return Err(wrong_kind(record)),
            };
            calls.definite.push(call(record, Step::Write { change, version: *version, result })?);
        }
        _ => return Err(wrong_kind(record)),
    }
    Ok(())
}

fn change(table: &mut Table, action: &Action) -> Change {
    match action {
        Action::Put { value, condition, .. } => Change::Put(table.id(value), when(table, condition)),
        Action::Delete { condition, .. } => Change::Delete(when(table, condition)),
        Action::Increment { by, .. } => Change::Increment(*by, When::Always),
        Action::Get { .. } | Action::Scan { .. } | Action::GetMany { .. } | Action::Transact { .. } => {
            unreachable!("not a write of one key")
        }
    }
}

/// An eventual read shows a state that was, or may have been, and that had begun to be written when the read ended.
fn check_eventual(key: &Key, calls: &Calls<'_>, options: &Options) -> Result<(), Violation> {
    if calls.eventual.is_empty() {
        return Ok(());
    }
    // What each version is known to be, and by whom.
    let mut known: BTreeMap<u64, (Value, &Call<'_>)> = BTreeMap::new();
    for call in &calls.definite {
        match call.step {
            Step::Write { version, result, .. } => _ = known.insert(version, (result, call)),
            Step::Read { value, version } => _ = known.entry(version).or_insert((value, call)),
            Step::Failed { .. } | Step::NotANumber { .. } | Step::Maybe { .. } => {}
        }
    }
    // What was told to operations that began at that time or later: the least version of them.
    let told = calls.definite.iter().filter_map(|call| Some((call.start, call.version()?)));
    let mut told: Vec<(u64, u64)> = told.collect();
    told.sort_unstable();
    for at in (1..told.len()).rev() {
        told[at - 1].1 = told[at - 1].1.min(told[at].1);
    }
    for read in &calls.eventual {
        let Step::Read { value, version } = read.step else { unreachable!("eventual calls are reads") };
        // Only what is committed is shown: it has taken effect by then.
        let later = told.partition_point(|(start, _)| *start <= read.end);
        if told.get(later).is_some_and(|(_, least)| *least < version) {
            let lacks = |call: &&Call<'_>| call.start > read.end && call.version().is_some_and(|told| told < version);
            let what = format!("key {}: version {version} was shown by an eventual read, and later there was none", key);
            return Err(violation(
                "P1",
                &what,
                [read.record].into_iter().chain(calls.definite.iter().find(lacks).map(|call| call.record)),
            ));
        }
        if let Some((expected, by)) = known.get(&version) {
            if *expected != value {
                let what = format!(
                    "key {}: version {version} was {}, and an eventual read shows it as {}",
                    key,
                    calls.table.show(*expected),
                    calls.table.show(value)
                );
                return Err(violation("P4", &what, [by.record, read.record]));
            }
            if by.is_write() && by.start > read.end {
                let what = format!("key {}: an eventual read shows a write that had not begun", key);
                return Err(violation("P1", &what, [by.record, read.record]));
            }
            continue;
        }
        let maybe = calls.unknown.iter().any(|write| write.start <= read.end && may_result_in(calls, write, value));
        let before = match options.initial {
            // Below a delete floor there may be nothing only if there was nothing at the last version that is known.
            Initial::Empty => {
                let is_floor = || {
                    options.may_be_floor(version) && known.range(..version).next_back().is_none_or(|(_, known)| known.0.is_none())
                };
                value.is_none() && (version == 0 || is_floor())
            }
            Initial::Anything => true,
        };
        if !maybe && !before {
            return Err(unwritten(key, calls, value, version, read));
        }
        known.insert(version, (value, read));
    }
    Ok(())
}

fn may_result_in(calls: &Calls<'_>, write: &Call<'_>, value: Value) -> bool {
    let Step::Maybe { change } = write.step else { return false };
    match (change, value) {
        (Change::Put(written, _), Some(seen)) => written == seen,
        (Change::Delete(_), None) => true,
        (Change::Increment(..), Some(seen)) => calls.table.number(seen).is_some(),
        _ => false,
    }
}

/// For the tests of the checkers: short ways to write a history.
#[cfg(test)]
pub(super) mod tests;
