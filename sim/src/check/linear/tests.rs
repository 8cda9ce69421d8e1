//! Histories of one key that the checkers must and must not accept. For the tests of other checkers: short ways to write a
//! history.

use super::*;
use crate::check::check_history;
use ringseed::history::{Acknowledge, Condition};

pub(crate) fn data(text: &str) -> Data {
    Data::of(&bytes::Bytes::copy_from_slice(text.as_bytes()))
}

/// One operation on key "k", by process `start`, from `start` to `end`.
pub(crate) fn op(start: u64, end: u64, action: Action, outcome: Outcome) -> Record {
    Record { process: start, start, end: Some(end), action, outcome }
}

pub(crate) fn key(name: &str) -> Key {
    Key::from(name.to_owned())
}

pub(crate) fn get() -> Action {
    Action::Get { key: key("k"), eventual: false }
}

pub(crate) fn put(value: &str) -> Action {
    put_if(value, Condition::None)
}

pub(crate) fn put_if(value: &str, condition: Condition) -> Action {
    Action::Put { key: key("k"), value: data(value), condition, acknowledge: Acknowledge::Quorum }
}

pub(crate) fn delete() -> Action {
    Action::Delete { key: key("k"), condition: Condition::None, acknowledge: Acknowledge::Quorum }
}

pub(crate) fn increment(by: i64) -> Action {
    Action::Increment { key: key("k"), by, acknowledge: Acknowledge::Quorum }
}

pub(crate) fn saw(value: &str, version: u64) -> Outcome {
    Outcome::Value { value: Some(data(value)), version }
}

pub(crate) fn absent(version: u64) -> Outcome {
    Outcome::Value { value: None, version }
}

pub(crate) fn done(version: u64) -> Outcome {
    Outcome::Written { version, number: None }
}

pub(crate) fn sum(number: i64, version: u64) -> Outcome {
    Outcome::Written { version, number: Some(number) }
}

pub(crate) fn failed(version: u64, present: bool) -> Outcome {
    Outcome::ConditionFailed { version, present }
}

pub(crate) fn unknown() -> Outcome {
    Outcome::Unknown { reason: "lost".into() }
}

pub(crate) fn rejected() -> Outcome {
    Outcome::Rejected { reason: "overloaded".into() }
}

pub(crate) fn calls_of_one_key(history: &[Record]) -> Calls<'_> {
    let mut keys = BTreeMap::new();
    history.iter().for_each(|record| add_record(&mut keys, record).unwrap());
    let (_, mut calls) = keys.pop_first().unwrap();
    calls.unknown.sort_by_key(|call| call.start);
    calls
}

/// Judges by versions and by values apart: (by versions, by values).
fn both(history: &[Record]) -> (Result<Report, Violation>, Result<Report, Violation>) {
    let by_versions = check_history(history, &Options { values: false, ..Options::default() });
    let mut keys = BTreeMap::new();
    history.iter().for_each(|record| add_record(&mut keys, record).unwrap());
    let mut by_values = Ok(Report::default());
    for (key, mut calls) in keys {
        calls.unknown.sort_by_key(|call| call.start);
        match search::check(key, &mut calls, &Options::default()) {
            Ok(decided) => assert!(decided),
            Err(violation) => by_values = Err(violation),
        }
    }
    (by_versions, by_values)
}

#[track_caller]
fn passes(history: &[Record]) {
    let (versions, values) = both(history);
    assert_eq!(versions.unwrap().undecided, Vec::<String>::new());
    values.unwrap();
}

#[track_caller]
fn fails(history: &[Record]) -> Violation {
    let (versions, values) = both(history);
    values.unwrap_err();
    versions.unwrap_err()
}

/// Wrong in its versions, while its values alone are fine.
#[track_caller]
fn fails_by_version(history: &[Record]) -> Violation {
    let (versions, values) = both(history);
    values.unwrap();
    versions.unwrap_err()
}

#[test]
fn good_histories_pass() {
    passes(&[]);
    passes(&[op(0, 1, get(), absent(0))]);
    passes(&[op(0, 1, put("a"), done(3)), op(2, 3, get(), saw("a", 3)), op(4, 5, delete(), done(4)), op(6, 7, get(), absent(4))]);
    // Two writes at once: either order.
    passes(&[op(0, 10, put("a"), done(5)), op(1, 9, put("b"), done(4)), op(11, 12, get(), saw("a", 5))]);
    // A read at the same time as a write sees the old or the new.
    passes(&[op(0, 10, put("a"), done(5)), op(1, 2, get(), absent(0)), op(3, 4, get(), saw("a", 5))]);
    passes(&[op(0, 1, put("a"), rejected()), op(2, 3, get(), absent(0))]);
    passes(&[op(0, 1, get(), unknown()), op(0, 1, get(), rejected())]);
}

#[test]
fn an_unknown_write_takes_effect_late_or_never() {
    passes(&[
        op(0, 1, put("a"), unknown()),
        op(2, 3, get(), absent(0)),
        op(4, 5, get(), saw("a", 1)),
        op(6, 7, get(), saw("a", 1)),
    ]);
    passes(&[
        op(0, 1, put("a"), unknown()),
        op(2, 3, put("b"), done(1)),
        op(4, 5, get(), saw("b", 1)),
        op(6, 7, get(), saw("a", 9)),
    ]);
    passes(&[op(0, 1, put("a"), unknown()), op(2, 3, get(), absent(0))]);
    passes(&[op(0, 1, increment(1), unknown()), op(2, 3, increment(1), unknown()), op(4, 5, increment(1), sum(3, 9))]);
    passes(&[op(0, 1, increment(2), unknown()), op(2, 3, increment(1), unknown()), op(4, 5, increment(1), sum(2, 9))]);
    passes(&[
        op(0, 1, put_if("a", Condition::Absent), unknown()),
        op(0, 1, put_if("b", Condition::Value(data("a"))), unknown()),
        op(4, 5, get(), saw("b", 2)),
    ]);
    // But not before its start, not twice, and not under a version that leaves no room.
    fails(&[op(4, 5, put("a"), unknown()), op(0, 1, get(), saw("a", 1))]);
    fails(&[op(0, 1, increment(1), unknown()), op(4, 5, increment(1), sum(3, 9))]);
    fails(&[
        op(0, 1, put("a"), unknown()),
        op(4, 5, get(), saw("a", 1)),
        op(6, 7, put("b"), done(2)),
        op(8, 9, get(), saw("a", 3)),
    ]);
    fails_by_version(&[
        op(0, 1, put("b"), done(1)),
        op(0, 1, increment(1), unknown()),
        op(0, 9, put("1"), unknown()),
        op(10, 11, increment(1), sum(3, 3)),
    ]);
}

#[test]
fn stale_reads_fail() {
    let what = fails(&[op(0, 1, put("a"), done(1)), op(2, 3, put("b"), done(2)), op(4, 5, get(), saw("a", 1))]).what;
    assert!(what.contains("process 2") && what.contains("process 4") && !what.contains("process 0"), "{what}");
    fails(&[op(0, 1, put("a"), done(1)), op(2, 3, get(), absent(0))]);
    // New, then old, while the write is in progress.
    fails(&[op(0, 9, put("a"), done(1)), op(1, 2, get(), saw("a", 1)), op(3, 4, get(), absent(0))]);
}

#[test]
fn lost_and_repeated_writes_fail() {
    fails(&[op(0, 1, increment(1), sum(1, 1)), op(2, 3, increment(1), sum(1, 2))]);
    fails(&[op(0, 1, increment(1), sum(1, 1)), op(2, 3, increment(1), sum(3, 3))]);
    fails(&[op(0, 9, put_if("a", Condition::Absent), done(1)), op(0, 9, put_if("b", Condition::Absent), done(2))]);
    fails(&[op(0, 1, put("a"), done(1)), op(2, 3, delete(), done(2)), op(4, 5, get(), saw("a", 3))]);
}

#[test]
fn a_rejected_write_that_took_effect_fails() {
    assert_eq!(fails(&[op(0, 1, put("a"), rejected()), op(2, 3, get(), saw("a", 1))]).promise, "P6");
    fails(&[op(0, 1, increment(1), rejected()), op(2, 3, increment(1), sum(2, 2))]);
    fails(&[op(0, 1, put("a"), done(1)), op(1, 2, delete(), rejected()), op(3, 4, get(), absent(2))]);
}

#[test]
fn conditions_are_held_against_the_state() {
    passes(&[
        op(0, 1, put("a"), done(1)),
        op(2, 3, put_if("b", Condition::Value(data("x"))), failed(1, true)),
        op(2, 3, put_if("b", Condition::Absent), failed(1, true)),
        op(4, 5, put_if("b", Condition::Version(1)), done(2)),
        op(6, 7, delete(), done(3)),
        op(8, 9, put_if("c", Condition::Present), failed(3, false)),
    ]);
    fails(&[op(0, 1, put("a"), done(1)), op(2, 3, put_if("b", Condition::Value(data("a"))), failed(1, true))]);
    fails(&[op(0, 1, put("a"), done(1)), op(2, 3, put_if("b", Condition::Value(data("x"))), done(2))]);
    fails(&[op(0, 1, put_if("b", Condition::Present), done(2))]);
    fails(&[op(0, 1, put("a"), done(1)), op(2, 3, put_if("b", Condition::Present), failed(1, false))]);
    fails_by_version(&[op(0, 1, put("a"), done(1)), op(2, 3, put_if("b", Condition::Version(7)), done(8))]);
    fails_by_version(&[op(0, 1, put("a"), done(1)), op(2, 3, put_if("b", Condition::Version(1)), failed(1, true))]);
    fails_by_version(&[op(0, 1, put("a"), done(2)), op(2, 3, put_if("b", Condition::Version(1)), failed(1, true))]);
}

#[test]
fn versions_that_are_wrong_fail() {
    // Backwards.
    fails_by_version(&[op(0, 1, put("a"), done(5)), op(2, 3, put("b"), done(4))]);
    // Twice.
    fails_by_version(&[op(0, 9, put("a"), done(5)), op(0, 9, put("b"), done(5))]);
    // The value of one under the version of another.
    fails_by_version(&[op(0, 1, put("a"), done(5)), op(2, 3, get(), saw("a", 6))]);
    fails_by_version(&[op(0, 3, put("a"), done(5)), op(0, 3, put("b"), done(6)), op(4, 5, get(), saw("a", 6))]);
    // A tombstone has the delete's version.
    fails_by_version(&[op(0, 1, put("a"), done(5)), op(2, 3, delete(), done(6)), op(4, 5, get(), absent(0))]);
}

#[test]
fn eventual_reads_show_something_that_was() {
    let eventual = || Action::Get { key: key("k"), eventual: true };
    let writes = [op(0, 1, put("a"), done(1)), op(2, 3, put("b"), done(2)), op(4, 5, put("c"), unknown())];
    let with = |outcome| [&writes[..], &[op(6, 7, eventual(), outcome)]].concat();
    for fine in [absent(0), saw("a", 1), saw("b", 2), saw("c", 3), saw("c", 9)] {
        passes(&with(fine));
    }
    for wrong in [saw("a", 2), saw("x", 3), absent(1), saw("a", 4), absent(7)] {
        check_history(&with(wrong), &Options::default()).unwrap_err();
    }
    let early = [op(4, 5, put("a"), done(1)), op(2, 3, eventual(), saw("a", 1))];
    check_history(&early, &Options::default()).unwrap_err();
    let two = [with(saw("c", 3)), vec![op(8, 9, eventual(), absent(3))]].concat();
    check_history(&two, &Options::default()).unwrap_err();
}

#[test]
fn what_was_there_before_may_be_anything() {
    let history = [op(0, 1, get(), saw("old", 77)), op(2, 3, put("a"), done(78)), op(4, 5, get(), saw("a", 78))];
    check_history(&history, &Options::default()).unwrap_err();
    let anything = Options { initial: Initial::Anything, ..Options::default() };
    check_history(&history, &anything).unwrap();
    check_history(&[op(0, 1, increment(3), sum(45, 7))], &anything).unwrap();
    check_history(&[op(0, 1, get(), saw("old", 77)), op(2, 3, get(), saw("older", 76))], &anything).unwrap_err();
}

#[test]
fn an_answer_of_the_wrong_kind_fails() {
    check_history(&[op(0, 1, put("a"), saw("a", 1))], &Options::default()).unwrap_err();
    check_history(&[op(0, 1, put("a"), failed(1, true))], &Options::default()).unwrap_err();
    check_history(&[Record { end: None, ..op(0, 1, get(), absent(0)) }], &Options::default()).unwrap_err();
}

/// Many operations at once on one key, made from an order that was: passes. With one read changed: fails.
#[test]
fn long_histories_are_decided() {
    let mut history = Vec::new();
    let mut value = 0;
    for n in 0..20_000_u64 {
        let version = n + 1;
        let (start, end) = (n * 10, n * 10 + 95);
        history.push(match n % 4 {
            0 => {
                value += 1;
                op(start, end, increment(1), sum(value, version))
            }
            // One in three of these took effect.
            1 if n % 12 == 1 => {
                value += 1;
                op(start, end, increment(1), unknown())
            }
            1 => op(start, end, increment(1), unknown()),
            _ => op(start, end, get(), saw(&value.to_string(), if n % 12 < 4 { n / 4 * 4 + 2 } else { n / 4 * 4 + 1 })),
        });
    }
    let report = check_history(&history, &Options { values: false, ..Options::default() }).unwrap();
    assert!(report.undecided.is_empty());
    history[10_002].outcome = saw("1", 10_001);
    check_history(&history, &Options { values: false, ..Options::default() }).unwrap_err();
}
