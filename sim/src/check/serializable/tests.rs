//! Histories of transactions that the checker must and must not accept.

use super::super::linear::tests::{data, key, op, unknown};
use super::super::{Options, check_history};
use super::*;
use ringseed::history::{Acknowledge, ItemResult};

fn item(name: &str, action: ItemAction, condition: Condition) -> TransactionItem {
    TransactionItem { key: key(name), action, condition }
}

fn write(name: &str, value: &str) -> TransactionItem {
    item(name, ItemAction::Put(data(value)), Condition::None)
}

/// A transaction: each item with the version it was told.
fn transact(start: u64, end: u64, items: Vec<(TransactionItem, u64)>) -> Record {
    let (items, versions): (Vec<_>, Vec<_>) = items.into_iter().unzip();
    let results = versions.into_iter().map(|version| ItemResult { version, number: None, value: None }).collect();
    op(start, end, Action::Transact { items, token: None }, Outcome::Transacted { results })
}

fn in_doubt(start: u64, end: u64, items: Vec<TransactionItem>) -> Record {
    op(start, end, Action::Transact { items, token: None }, unknown())
}

/// A read of several: value and version of each.
fn read(start: u64, end: u64, seen: &[(&str, &str, u64)]) -> Record {
    let keys = seen.iter().map(|(name, _, _)| key(name)).collect();
    let value = |text: &str| if text.is_empty() { None } else { Some(data(text)) };
    let items = seen.iter().map(|&(_, text, version)| ItemResult { version, number: None, value: value(text) }).collect();
    op(start, end, Action::GetMany { keys }, Outcome::Values { items })
}

fn get(start: u64, end: u64, name: &str, value: &str, version: u64) -> Record {
    let value = if value.is_empty() { None } else { Some(data(value)) };
    op(start, end, Action::Get { key: key(name), eventual: false }, Outcome::Value { value, version })
}

fn put(start: u64, end: u64, name: &str, value: &str, version: u64) -> Record {
    let action = Action::Put { key: key(name), value: data(value), condition: Condition::None, acknowledge: Acknowledge::Quorum };
    op(start, end, action, Outcome::Written { version, number: None })
}

fn judge(history: &[Record]) -> Result<(), Violation> {
    check_history(history, &Options { list_prefix: Some(b"l"), ..Options::default() }).map(|_| ())
}

#[track_caller]
fn fails(history: &[Record], checker: &str) -> String {
    let violation = judge(history).unwrap_err();
    assert_eq!(violation.checker, checker, "{violation}");
    violation.what
}

/// x = 1 at v1, y = 1 at v1.
fn first() -> Record {
    transact(0, 1, vec![(write("x", "1"), 1), (write("y", "1"), 1)])
}

fn second(start: u64, end: u64) -> Record {
    transact(start, end, vec![(write("x", "2"), 5), (write("y", "2"), 7)])
}

#[test]
fn good_histories_pass() {
    judge(&[]).unwrap();
    judge(&[first(), read(2, 3, &[("x", "1", 1), ("y", "1", 1)])]).unwrap();
    // A read at the same time sees all or nothing.
    judge(&[first(), second(2, 9), read(3, 8, &[("x", "2", 5), ("y", "2", 7)])]).unwrap();
    judge(&[first(), second(2, 9), read(3, 8, &[("x", "1", 1), ("y", "1", 1)])]).unwrap();
    // Two reads of single keys are no read of both: while the transaction goes on, y may be old when x was new to nobody
    // later.
    judge(&[first(), second(2, 9), get(3, 4, "y", "1", 1), get(5, 6, "x", "2", 5)]).unwrap();
    // Reads that began before it was new may still be old.
    judge(&[first(), second(2, 9), get(3, 7, "y", "1", 1), get(5, 6, "x", "2", 5)]).unwrap();
}

#[test]
fn a_fractured_read_fails() {
    let what = fails(&[first(), second(2, 9), read(3, 8, &[("x", "2", 5), ("y", "1", 1)])], "serializable");
    assert!(what.contains("it saw y v1; the next wrote v7") && what.contains("it wrote x v5; the next saw that"), "{what}");
    // One key after the other, by single reads: the first was new, so the second must be.
    fails(&[first(), second(2, 9), get(3, 4, "x", "2", 5), get(5, 6, "y", "1", 1)], "serializable");
    // And when the outcome was never told.
    let lost = in_doubt(2, 9, vec![write("x", "2"), write("y", "2")]);
    let later = read(10, 11, &[("x", "2", 5), ("y", "2", 7)]);
    fails(&[first(), lost.clone(), read(3, 4, &[("x", "2", 5), ("y", "1", 1)]), later], "serializable");
    judge(&[first(), lost, read(3, 4, &[("x", "1", 1), ("y", "1", 1)])]).unwrap();
}

#[test]
fn write_skew_fails() {
    // Each reads both and writes one; neither saw the other.
    let reads = |name: &str, version| (item(name, ItemAction::Check, Condition::Version(version)), version);
    let one = transact(2, 9, vec![reads("y", 1), (write("x", "2"), 5)]);
    let other = transact(2, 9, vec![reads("x", 1), (write("y", "3"), 6)]);
    fails(&[first(), one.clone(), other], "serializable");
    let after = transact(2, 9, vec![reads("x", 5), (write("y", "3"), 6)]);
    judge(&[first(), one, after]).unwrap();
}

#[test]
fn a_lost_update_fails() {
    let update = |value: &str, seen, version| {
        let item = item("x", ItemAction::Put(data(value)), Condition::Version(seen));
        transact(2, 9, vec![(item, version), (write("y", value), version)])
    };
    judge(&[first(), update("2", 1, 5), update("3", 5, 6)]).unwrap();
    // Judged key by key already.
    fails(&[first(), update("2", 1, 5), update("3", 1, 6)], "linear");
    // Of two keys, each in its own order.
    let both = |value: &str, x, y| transact(2, 9, vec![(write("x", value), x), (write("y", value), y)]);
    fails(&[first(), both("2", 5, 9), both("3", 6, 8)], "serializable");
}

#[test]
fn a_dirty_read_fails() {
    let items = vec![item("x", ItemAction::Check, Condition::Absent), write("y", "2")];
    let failures = vec![Failure { item: 0, reason: FailureReason::Condition { version: 1, present: true } }];
    let aborted = op(2, 9, Action::Transact { items, token: None }, Outcome::NotCommitted { failures });
    judge(&[first(), aborted.clone(), get(10, 11, "y", "1", 1)]).unwrap();
    let what = fails(&[first(), aborted, get(10, 11, "y", "2", 7)], "linear");
    assert!(what.contains("not committed"), "{what}");
}

#[test]
fn a_long_fork_fails() {
    // Two writes of different keys; two readers disagree which came first.
    let forks = [
        first(),
        put(2, 9, "x", "2", 5),
        put(2, 9, "y", "2", 7),
        read(3, 8, &[("x", "2", 5), ("y", "1", 1)]),
        read(3, 8, &[("x", "1", 1), ("y", "2", 7)]),
    ];
    judge(&forks[..4]).unwrap();
    fails(&forks, "serializable");
}

#[test]
fn real_time_is_respected() {
    // Serializable, but not strictly: the second write had ended before the first began, which no operation saw yet.
    let writes = [first(), put(2, 3, "x", "2", 5), put(4, 5, "y", "2", 7)];
    let with = |read| [&writes[..], &[read]].concat();
    judge(&with(read(2, 9, &[("x", "2", 5), ("y", "1", 1)]))).unwrap();
    let what = fails(&with(read(2, 9, &[("x", "1", 1), ("y", "2", 7)])), "serializable");
    assert!(what.contains("it had ended when the next began"), "{what}");
}

#[test]
fn lists_are_judged_by_their_lengths_too() {
    let append = |start, value: &str, seen, version| {
        let condition = if seen == 0 { Condition::Absent } else { Condition::Version(seen) };
        transact(
            start,
            start + 1,
            vec![(item("l0", ItemAction::Put(data(value)), condition), version), (write("y", value), version)],
        )
    };
    judge(&[append(0, "a", 0, 1), append(2, "a,b", 1, 2), get(4, 5, "l0", "a,b", 2)]).unwrap();
    fails(&[append(0, "a", 0, 1), append(2, "a,b", 1, 2), append(2, "a,c", 1, 3)], "lists");
}

/// As many operations as a long run has: in well under a second.
#[test]
fn long_histories_are_decided() {
    let mut history = Vec::new();
    for n in 0..20_000_u64 {
        let (start, end, version) = (n * 10, n * 10 + 95, n + 1);
        history.push(transact(start, end, vec![(write("x", &n.to_string()), version), (write("y", &n.to_string()), version)]));
        history.push(read(start, end, &[("x", &n.to_string(), version), ("y", &n.to_string(), version)]));
    }
    check(&history, &Options { partitions: Some(4), list_prefix: Some(b"l"), ..Options::default() }).unwrap();
    history[20_001] = read(100_000, 100_095, &[("x", "10000", 10_001), ("y", "9999", 10_000)]);
    check(&history, &Options { partitions: Some(4), list_prefix: Some(b"l"), ..Options::default() }).unwrap_err();
}
