//! Known histories, good and bad: each is judged right. Those of the literature (Adya, "Weak consistency", 1999, chapter 3;
//! Herlihy and Wing, 1990), and what checkers of this kind are known to let pass.

use super::linear::tests::{absent, data, done, failed, key, op, rejected, saw, sum, unknown};
use super::{Options, check_history};
use bytes::Bytes;
use ringseed::history::{
    Acknowledge, Action, Condition, Failure, FailureReason, Item, ItemAction, ItemResult, Outcome, Record, Text, TransactionItem,
};
use ringseed::msg::operation::Rejection;

fn item(name: &str, action: ItemAction, condition: Condition) -> TransactionItem {
    TransactionItem { key: key(name), action, condition }
}

fn writes(name: &str, value: &str) -> TransactionItem {
    writes_if(name, value, Condition::None)
}

fn writes_if(name: &str, value: &str, condition: Condition) -> TransactionItem {
    item(name, ItemAction::Put(data(value)), condition)
}

fn increments(name: &str, by: i64, condition: Condition) -> TransactionItem {
    item(name, ItemAction::Increment(by), condition)
}

fn checks(name: &str, condition: Condition) -> TransactionItem {
    item(name, ItemAction::Check, condition)
}

fn reads(name: &str) -> TransactionItem {
    item(name, ItemAction::Read, Condition::None)
}

fn deletes(name: &str) -> TransactionItem {
    item(name, ItemAction::Delete, Condition::None)
}

fn at(version: u64) -> ItemResult {
    ItemResult { version, number: None, value: None }
}

fn sum_at(version: u64, sum: i64) -> ItemResult {
    ItemResult { version, number: Some(sum), value: None }
}

fn value_at(version: u64, value: &str) -> ItemResult {
    ItemResult { version, number: None, value: Some(data(value)) }
}

fn transact(start: u64, end: u64, items: Vec<TransactionItem>, results: Vec<ItemResult>) -> Record {
    op(start, end, Action::Transact { items, token: None }, Outcome::Transacted { results })
}

fn with_token(start: u64, end: u64, token: &str, items: Vec<TransactionItem>, outcome: Outcome) -> Record {
    op(start, end, Action::Transact { items, token: Some(Text(Bytes::copy_from_slice(token.as_bytes()))) }, outcome)
}

fn transact_unknown(start: u64, end: u64, items: Vec<TransactionItem>) -> Record {
    op(start, end, Action::Transact { items, token: None }, unknown())
}

fn not_committed(start: u64, end: u64, items: Vec<TransactionItem>, failures: Vec<Failure>) -> Record {
    op(start, end, Action::Transact { items, token: None }, Outcome::NotCommitted { failures })
}

fn did_not_hold(item: u32, version: u64, present: bool) -> Failure {
    Failure { item, reason: FailureReason::Condition { version, present } }
}

fn get(start: u64, end: u64, name: &str, outcome: Outcome) -> Record {
    op(start, end, Action::Get { key: key(name), eventual: false }, outcome)
}

fn get_eventual(start: u64, end: u64, name: &str, outcome: Outcome) -> Record {
    op(start, end, Action::Get { key: key(name), eventual: true }, outcome)
}

fn put(start: u64, end: u64, name: &str, value: &str, outcome: Outcome) -> Record {
    put_if(start, end, name, value, Condition::None, outcome)
}

fn put_if(start: u64, end: u64, name: &str, value: &str, condition: Condition, outcome: Outcome) -> Record {
    let action = Action::Put { key: key(name), value: data(value), condition, acknowledge: Acknowledge::Quorum };
    op(start, end, action, outcome)
}

fn delete(start: u64, end: u64, name: &str, outcome: Outcome) -> Record {
    op(start, end, Action::Delete { key: key(name), condition: Condition::None, acknowledge: Acknowledge::Quorum }, outcome)
}

fn increment(start: u64, end: u64, name: &str, by: i64, outcome: Outcome) -> Record {
    op(start, end, Action::Increment { key: key(name), by, acknowledge: Acknowledge::Quorum }, outcome)
}

fn not_a_number() -> Outcome {
    Outcome::Rejected { reason: Rejection::NotANumber.to_string() }
}

/// Each key, its value ("": absent) and its version.
fn get_many(start: u64, end: u64, seen: &[(&str, &str, u64)]) -> Record {
    let keys = seen.iter().map(|(name, ..)| key(name)).collect();
    let item = |&(_, value, version): &(&str, &str, u64)| ItemResult {
        version,
        number: None,
        value: (!value.is_empty()).then(|| data(value)),
    };
    op(start, end, Action::GetMany { keys }, Outcome::Values { items: seen.iter().map(item).collect() })
}

/// A scan of everything: the items, and the index at which each group was read.
fn scan(start: u64, end: u64, items: &[(&str, &str, u64)], read_at: &[(u32, u64)]) -> Record {
    let item = |&(name, value, version): &(&str, &str, u64)| Item { key: key(name), value: data(value), version };
    let items = items.iter().map(item).collect();
    let action = Action::Scan { prefix: key(""), from: key(""), limit: 100, eventual: false };
    op(start, end, action, Outcome::Scanned { items, next: None, read_at: read_at.to_vec() })
}

/// Writes of x and y, with which many histories begin.
fn first() -> Record {
    transact(0, 1, vec![writes("x", "1"), writes("y", "1")], vec![at(1), at(1)])
}

/// Name; the promise and the checker that it must break, if any; the history. At four partitions x and a are in one group, y in
/// another.
fn cases() -> Vec<(&'static str, Option<&'static str>, Vec<Record>)> {
    vec![
        (
            "a write, and reads of it",
            None,
            vec![put(0, 1, "x", "1", done(1)), get(2, 3, "x", saw("1", 1)), get_many(4, 5, &[("x", "1", 1), ("y", "", 0)])],
        ),
        (
            "an unknown transaction that took effect",
            None,
            vec![
                first(),
                transact_unknown(2, 3, vec![writes("x", "2"), writes("y", "2")]),
                get(10, 11, "x", saw("2", 5)),
                get(12, 13, "y", saw("2", 5)),
            ],
        ),
        (
            "an unknown transaction that did not",
            None,
            vec![
                first(),
                transact_unknown(2, 3, vec![writes("x", "2"), writes("y", "2")]),
                get_many(10, 11, &[("x", "1", 1), ("y", "1", 1)]),
            ],
        ),
        (
            "an unknown transaction of which one half was overwritten before any read",
            None,
            vec![
                first(),
                transact_unknown(2, 30, vec![writes("x", "2"), writes("y", "2")]),
                put(14, 15, "y", "3", done(9)),
                get_many(20, 21, &[("x", "2", 5), ("y", "3", 9)]),
            ],
        ),
        (
            "an unknown transaction whose check held",
            None,
            vec![
                first(),
                transact_unknown(10, 11, vec![checks("y", Condition::Version(1)), writes("x", "9")]),
                get(20, 21, "x", saw("9", 5)),
                put(22, 23, "y", "2", done(4)),
            ],
        ),
        ("an increment of a text, told so", None, vec![put(0, 1, "x", "text", done(1)), increment(2, 3, "x", 1, not_a_number())]),
        (
            "a conflict, and then its retry",
            None,
            vec![
                with_token(
                    1,
                    2,
                    "t",
                    vec![writes("x", "1")],
                    Outcome::NotCommitted { failures: vec![Failure { item: 0, reason: FailureReason::Conflict }] },
                ),
                with_token(3, 9, "t", vec![writes("x", "1")], Outcome::Transacted { results: vec![at(1)] }),
                get(5, 6, "x", saw("1", 1)),
            ],
        ),
        (
            "an increment in a transaction, whose condition held",
            None,
            vec![
                increment(0, 1, "x", 5, sum(5, 1)),
                transact(4, 5, vec![increments("x", 1, Condition::Value(data("5")))], vec![sum_at(2, 6)]),
            ],
        ),
        (
            "stale read",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), put(2, 3, "x", "2", done(2)), get(4, 5, "x", saw("1", 1))],
        ),
        (
            "lost update (two increments, one sum)",
            Some("P1 linear"),
            vec![increment(0, 5, "x", 1, sum(1, 1)), increment(0, 5, "x", 1, sum(1, 2))],
        ),
        (
            "lost update (compare-and-set by version twice)",
            Some("P1 linear"),
            vec![
                put(0, 1, "x", "1", done(1)),
                put_if(2, 9, "x", "2", Condition::Version(1), done(2)),
                put_if(2, 9, "x", "3", Condition::Version(1), done(3)),
            ],
        ),
        ("lost acknowledged write", Some("P1 linear"), vec![put(0, 1, "x", "1", done(1)), get(2, 3, "x", absent(0))]),
        (
            "an acknowledged write that no operation reads again: what the last reads of a run are for",
            None,
            vec![put(0, 1, "x", "1", done(1)), get(2, 3, "y", absent(0))],
        ),
        (
            "write skew by checks",
            Some("P2 serializable"),
            vec![
                first(),
                transact(2, 9, vec![checks("y", Condition::Version(1)), writes("x", "2")], vec![at(1), at(5)]),
                transact(2, 9, vec![checks("x", Condition::Version(1)), writes("y", "3")], vec![at(1), at(6)]),
            ],
        ),
        (
            "write skew by reads",
            Some("P2 serializable"),
            vec![
                first(),
                transact(2, 9, vec![reads("y"), writes("x", "2")], vec![value_at(1, "1"), at(5)]),
                transact(2, 9, vec![reads("x"), writes("y", "3")], vec![value_at(1, "1"), at(6)]),
            ],
        ),
        (
            "write skew by 'check absent'",
            Some("P2 serializable"),
            vec![
                transact(2, 9, vec![checks("y", Condition::Absent), writes("x", "2")], vec![at(0), at(5)]),
                transact(2, 9, vec![checks("x", Condition::Absent), writes("y", "3")], vec![at(0), at(6)]),
            ],
        ),
        (
            "write skew by 'check present' (delete)",
            Some("P2 serializable"),
            vec![
                first(),
                transact(2, 9, vec![checks("y", Condition::Present), deletes("x")], vec![at(1), at(5)]),
                transact(2, 9, vec![checks("x", Condition::Present), deletes("y")], vec![at(1), at(6)]),
            ],
        ),
        (
            "write skew by 'check value'",
            Some("P2 serializable"),
            vec![
                first(),
                transact(2, 9, vec![checks("y", Condition::Value(data("1"))), writes("x", "2")], vec![at(1), at(5)]),
                transact(2, 9, vec![checks("x", Condition::Value(data("1"))), writes("y", "3")], vec![at(1), at(6)]),
            ],
        ),
        (
            "G0 dirty write",
            Some("P2 serializable"),
            vec![
                first(),
                transact(2, 9, vec![writes("x", "2"), writes("y", "2")], vec![at(5), at(9)]),
                transact(2, 9, vec![writes("x", "3"), writes("y", "3")], vec![at(6), at(8)]),
            ],
        ),
        (
            "G1a aborted read",
            Some("P2 linear"),
            vec![
                first(),
                not_committed(2, 9, vec![checks("x", Condition::Absent), writes("y", "2")], vec![did_not_hold(0, 1, true)]),
                get(10, 11, "y", saw("2", 7)),
            ],
        ),
        (
            "G1a aborted increment",
            Some("P1 linear"),
            vec![
                increment(0, 1, "x", 5, sum(5, 1)),
                not_committed(
                    2,
                    9,
                    vec![checks("y", Condition::Present), increments("x", 1, Condition::None)],
                    vec![did_not_hold(0, 0, false)],
                ),
                get(10, 11, "x", saw("6", 7)),
            ],
        ),
        (
            "G1a aborted delete",
            Some("P1 linear"),
            vec![
                first(),
                not_committed(2, 9, vec![checks("x", Condition::Absent), deletes("y")], vec![did_not_hold(0, 1, true)]),
                get(10, 11, "y", absent(7)),
            ],
        ),
        (
            "G1a read of a conflicted transaction",
            Some("P2 linear"),
            vec![
                first(),
                not_committed(2, 9, vec![writes("y", "2")], vec![Failure { item: 0, reason: FailureReason::Conflict }]),
                get(10, 11, "y", saw("2", 7)),
            ],
        ),
        (
            "G1c circular",
            Some("P2 serializable"),
            vec![
                first(),
                transact(2, 9, vec![reads("y"), writes("x", "2")], vec![value_at(6, "3"), at(5)]),
                transact(2, 9, vec![reads("x"), writes("y", "3")], vec![value_at(5, "2"), at(6)]),
            ],
        ),
        (
            "G-single read skew",
            Some("P2 serializable"),
            vec![
                first(),
                transact(2, 9, vec![writes("x", "2"), writes("y", "2")], vec![at(5), at(7)]),
                get_many(2, 9, &[("x", "2", 5), ("y", "1", 1)]),
            ],
        ),
        (
            "read skew by two single reads",
            Some("P2 serializable"),
            vec![
                first(),
                transact(2, 9, vec![writes("x", "2"), writes("y", "2")], vec![at(5), at(7)]),
                get(3, 4, "x", saw("2", 5)),
                get(5, 6, "y", saw("1", 1)),
            ],
        ),
        (
            "long fork",
            Some("P2 serializable"),
            vec![
                first(),
                put(2, 9, "x", "2", done(5)),
                put(2, 9, "y", "2", done(7)),
                get_many(3, 8, &[("x", "2", 5), ("y", "1", 1)]),
                get_many(3, 8, &[("x", "1", 1), ("y", "2", 7)]),
            ],
        ),
        (
            "real time, across keys",
            Some("P2 serializable"),
            vec![
                first(),
                put(2, 3, "x", "2", done(5)),
                put(4, 5, "y", "2", done(7)),
                get_many(2, 9, &[("x", "1", 1), ("y", "2", 7)]),
            ],
        ),
        (
            "real time, unknown put read before it began",
            Some("P1 linear"),
            vec![put(100, 110, "x", "1", unknown()), get(50, 60, "x", saw("1", 1))],
        ),
        (
            "real time, unknown transaction read before it began",
            Some("P1 linear"),
            vec![
                transact_unknown(100, 110, vec![writes("x", "1"), writes("y", "1")]),
                get_many(50, 60, &[("x", "1", 1), ("y", "1", 1)]),
            ],
        ),
        ("rejected put visible", Some("P6 linear"), vec![put(0, 1, "x", "1", rejected()), get(2, 3, "x", saw("1", 1))]),
        (
            "rejected transaction visible",
            Some("P6 linear"),
            vec![
                op(0, 1, Action::Transact { items: vec![writes("x", "1")], token: None }, rejected()),
                get(2, 3, "x", saw("1", 1)),
            ],
        ),
        (
            "rejected increment took effect",
            Some("P1 linear"),
            vec![increment(0, 1, "x", 1, rejected()), get(2, 3, "x", saw("1", 1))],
        ),
        (
            "rejected delete took effect",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), delete(2, 3, "x", rejected()), get(4, 5, "x", absent(2))],
        ),
        (
            "put applied twice",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), put(2, 3, "x", "2", done(2)), get(4, 5, "x", saw("1", 3))],
        ),
        ("increment applied twice", Some("P1 linear"), vec![increment(0, 1, "x", 1, sum(1, 1)), get(4, 5, "x", saw("2", 2))]),
        (
            "unknown increment applied twice",
            Some("P1 linear"),
            vec![increment(0, 1, "x", 1, unknown()), get(4, 5, "x", saw("2", 2))],
        ),
        (
            "unknown put applied twice",
            Some("P1 linear"),
            vec![
                put(0, 1, "x", "1", unknown()),
                put(2, 3, "x", "2", done(2)),
                get(0, 9, "x", saw("1", 1)),
                get(4, 9, "x", saw("1", 3)),
            ],
        ),
        (
            "deleted item comes back",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), delete(2, 3, "x", done(2)), get(4, 5, "x", saw("1", 1))],
        ),
        (
            "version used again after delete",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), delete(2, 3, "x", done(2)), put(4, 5, "x", "3", done(2))],
        ),
        (
            "absence has the version of a delete floor",
            None,
            vec![
                put(0, 1, "x", "1", done(1)),
                delete(2, 3, "x", done(2)),
                get(4, 5, "x", absent(512)),
                get(4, 5, "y", absent(512)),
                put_if(6, 7, "x", "1", Condition::Present, Outcome::ConditionFailed { version: 1024, present: false }),
                put(8, 9, "x", "3", done(1030)),
            ],
        ),
        (
            "absence has the version of a delete floor, of which there are none there",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), delete(2, 3, "x", done(2)), get(4, 5, "x", absent(513))],
        ),
        (
            "absence has the version of a delete floor, and what is there has one",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), get(4, 5, "x", absent(512))],
        ),
        (
            "the version of absence goes back",
            Some("P1 linear"),
            vec![
                put(0, 1, "x", "1", done(1)),
                delete(2, 3, "x", done(2)),
                get(4, 5, "x", absent(512)),
                get(6, 7, "x", absent(2)),
            ],
        ),
        (
            "transactions see absence before and behind a delete floor, in the other order",
            None,
            vec![
                transact(0, 9, vec![reads("x"), reads("z")], vec![at(0), value_at(3, "1")]),
                transact(1, 8, vec![reads("x"), writes("z", "1")], vec![at(512), at(3)]),
            ],
        ),
        (
            "version goes back",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(5)), delete(2, 3, "x", done(6)), put(4, 5, "x", "3", done(1))],
        ),
        ("one version on two keys of a group", Some("P2 scan"), vec![put(0, 1, "x", "1", done(5)), put(2, 3, "a", "1", done(5))]),
        ("value differs under its version", Some("P1 linear"), vec![put(0, 1, "x", "1", done(1)), get(2, 3, "x", saw("2", 1))]),
        (
            "failed condition is stale",
            Some("P1 linear"),
            vec![
                put(0, 1, "x", "1", done(1)),
                delete(2, 3, "x", done(2)),
                put_if(4, 5, "x", "3", Condition::Absent, failed(1, true)),
            ],
        ),
        (
            "failed condition that in fact held (version)",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), put_if(4, 5, "x", "3", Condition::Version(1), failed(1, true))],
        ),
        (
            "failed condition that in fact held (value)",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), put_if(4, 5, "x", "3", Condition::Value(data("1")), failed(1, true))],
        ),
        (
            "put took effect though its condition (value) did not hold",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), put_if(4, 5, "x", "3", Condition::Value(data("7")), done(2))],
        ),
        (
            "transaction put though 'absent' did not hold",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), transact(4, 5, vec![writes_if("x", "3", Condition::Absent)], vec![at(2)])],
        ),
        (
            "transaction increment though 'absent' did not hold",
            Some("P1 linear"),
            vec![
                increment(0, 1, "x", 5, sum(5, 1)),
                transact(4, 5, vec![increments("x", 1, Condition::Absent)], vec![sum_at(2, 6)]),
            ],
        ),
        (
            "transaction increment though 'present' did not hold",
            Some("P1 linear"),
            vec![transact(4, 5, vec![increments("x", 1, Condition::Present)], vec![sum_at(2, 1)])],
        ),
        (
            "transaction increment though 'value' did not hold",
            Some("P1 linear"),
            vec![
                increment(0, 1, "x", 5, sum(5, 1)),
                transact(4, 5, vec![increments("x", 1, Condition::Value(data("9")))], vec![sum_at(2, 6)]),
            ],
        ),
        (
            "transaction increment though 'version' did not hold",
            Some("P2 serializable"),
            vec![
                increment(0, 1, "x", 5, sum(5, 1)),
                increment(2, 3, "x", 1, sum(6, 2)),
                transact(4, 5, vec![increments("x", 1, Condition::Version(1))], vec![sum_at(3, 7)]),
            ],
        ),
        (
            "transaction increment though 'version' did not hold (version in the future)",
            Some("P2 serializable"),
            vec![
                increment(0, 1, "x", 5, sum(5, 1)),
                transact(4, 5, vec![increments("x", 1, Condition::Version(99))], vec![sum_at(3, 6)]),
            ],
        ),
        (
            "unknown transaction, one half seen, other half missing for ever (puts, later strong reads)",
            Some("P2 serializable"),
            vec![
                first(),
                transact_unknown(2, 3, vec![writes("x", "2"), writes("y", "2")]),
                get(10, 11, "x", saw("2", 5)),
                get(12, 13, "y", saw("1", 1)),
                get_many(20, 21, &[("x", "2", 5), ("y", "1", 1)]),
            ],
        ),
        (
            "unknown transaction, one half seen, other half missing, y written again",
            Some("P2 serializable"),
            vec![
                first(),
                transact_unknown(2, 3, vec![writes("x", "2"), writes("y", "2")]),
                get(10, 11, "x", saw("2", 5)),
                get(12, 13, "y", saw("1", 1)),
                put(14, 15, "y", "3", done(9)),
                get_many(20, 21, &[("x", "2", 5), ("y", "3", 9)]),
            ],
        ),
        (
            "unknown transaction of one group half visible (final)",
            Some("P2 serializable"),
            vec![
                transact(0, 1, vec![writes("x", "1"), writes("a", "1")], vec![at(1), at(1)]),
                transact_unknown(2, 3, vec![writes("x", "2"), writes("a", "2")]),
                get_many(20, 21, &[("x", "2", 5), ("a", "1", 1)]),
            ],
        ),
        (
            "unknown transaction with increments half applied",
            Some("P2 serializable"),
            vec![
                increment(0, 1, "x", 5, sum(5, 1)),
                increment(0, 1, "y", 5, sum(5, 1)),
                transact_unknown(2, 3, vec![increments("x", -1, Condition::None), increments("y", 1, Condition::None)]),
                get_many(20, 21, &[("x", "4", 5), ("y", "5", 1)]),
            ],
        ),
        (
            "unknown transaction: put seen, its delete missing",
            Some("P2 serializable"),
            vec![
                first(),
                transact_unknown(2, 3, vec![writes("x", "2"), deletes("y")]),
                get_many(20, 21, &[("x", "2", 5), ("y", "1", 1)]),
            ],
        ),
        (
            "unknown transaction committed though its check (version, other key) cannot have held",
            Some("P2 serializable"),
            vec![
                first(),
                put(2, 3, "y", "2", done(4)),
                transact_unknown(10, 11, vec![checks("y", Condition::Version(1)), writes("x", "9")]),
                get(20, 21, "x", saw("9", 5)),
            ],
        ),
        (
            "unknown transaction committed though its check (absent, other key) cannot have held",
            Some("P2 serializable"),
            vec![
                first(),
                transact_unknown(10, 11, vec![checks("y", Condition::Absent), writes("x", "9")]),
                get(20, 21, "x", saw("9", 5)),
                get(22, 23, "y", saw("1", 1)),
            ],
        ),
        (
            "unknown transaction committed though its put's own condition (version) cannot have held",
            Some("P1 linear"),
            vec![
                put(0, 1, "x", "1", done(1)),
                put(2, 3, "x", "2", done(2)),
                transact_unknown(10, 11, vec![writes_if("x", "9", Condition::Version(1))]),
                get(20, 21, "x", saw("9", 5)),
            ],
        ),
        (
            "write skew of two unknown transactions by check version",
            Some("P2 serializable"),
            vec![
                first(),
                transact_unknown(2, 9, vec![checks("y", Condition::Version(1)), writes("x", "2")]),
                transact_unknown(2, 9, vec![checks("x", Condition::Version(1)), writes("y", "3")]),
                get_many(20, 21, &[("x", "2", 5), ("y", "3", 6)]),
            ],
        ),
        (
            "write skew, one known one unknown",
            Some("P2 serializable"),
            vec![
                first(),
                transact(2, 9, vec![checks("y", Condition::Version(1)), writes("x", "2")], vec![at(1), at(5)]),
                transact_unknown(2, 9, vec![checks("x", Condition::Version(1)), writes("y", "3")]),
                get_many(20, 21, &[("x", "2", 5), ("y", "3", 6)]),
            ],
        ),
        (
            "unknown transaction: real time, seen on x, then old y before (fractured)",
            Some("P2 serializable"),
            vec![
                first(),
                transact_unknown(2, 3, vec![writes("x", "2"), writes("y", "2")]),
                get(10, 11, "x", saw("2", 5)),
                get(12, 13, "y", saw("1", 1)),
                get(14, 15, "y", saw("2", 7)),
            ],
        ),
        (
            "unknown transaction with increment on the key: put half fractured",
            Some("P2 serializable"),
            vec![
                first(),
                increment(0, 1, "c0", 1, sum(1, 1)),
                transact_unknown(2, 3, vec![writes("x", "2"), increments("c0", 1, Condition::None)]),
                get_many(10, 11, &[("x", "2", 5), ("c0", "1", 1)]),
                get_many(12, 13, &[("x", "2", 5), ("c0", "2", 7)]),
            ],
        ),
        (
            "told 'conflict' then visible before the retry with the token began",
            Some("P1 linear"),
            vec![
                with_token(
                    1,
                    2,
                    "t",
                    vec![writes("x", "1"), writes("y", "1")],
                    Outcome::NotCommitted { failures: vec![Failure { item: 0, reason: FailureReason::Conflict }] },
                ),
                get(50, 60, "x", saw("1", 1)),
                with_token(
                    100,
                    110,
                    "t",
                    vec![writes("x", "1"), writes("y", "1")],
                    Outcome::Transacted { results: vec![at(1), at(1)] },
                ),
            ],
        ),
        (
            "token done twice, answered twice differently",
            Some("P2 tokens"),
            vec![
                with_token(
                    1,
                    2,
                    "t",
                    vec![increments("x", 1, Condition::None)],
                    Outcome::Transacted { results: vec![sum_at(1, 1)] },
                ),
                with_token(
                    3,
                    4,
                    "t",
                    vec![increments("x", 1, Condition::None)],
                    Outcome::Transacted { results: vec![sum_at(2, 2)] },
                ),
            ],
        ),
        (
            "token done twice, told the first answer",
            Some("P1 linear"),
            vec![
                with_token(
                    1,
                    2,
                    "t",
                    vec![increments("x", 1, Condition::None)],
                    Outcome::Transacted { results: vec![sum_at(1, 1)] },
                ),
                with_token(
                    3,
                    4,
                    "t",
                    vec![increments("x", 1, Condition::None)],
                    Outcome::Transacted { results: vec![sum_at(1, 1)] },
                ),
                get(5, 6, "x", saw("2", 2)),
            ],
        ),
        (
            "transaction told 'not a number' of a number",
            Some("P1 linear"),
            vec![
                increment(0, 1, "x", 5, sum(5, 1)),
                not_committed(
                    2,
                    3,
                    vec![increments("x", 1, Condition::None)],
                    vec![Failure { item: 0, reason: FailureReason::NotANumber }],
                ),
            ],
        ),
        (
            "single increment rejected 'not a number' of a number",
            Some("P1 linear"),
            vec![increment(0, 1, "x", 5, sum(5, 1)), increment(2, 3, "x", 1, not_a_number())],
        ),
        (
            "non-monotonic scan",
            Some("P1 linear"),
            vec![
                put(0, 1, "x", "1", done(1)),
                put(2, 9, "x", "2", done(2)),
                scan(3, 4, &[("x", "2", 2)], &[(1, 2), (2, 0), (3, 0), (4, 0)]),
                scan(5, 6, &[("x", "1", 1)], &[(1, 1), (2, 0), (3, 0), (4, 0)]),
            ],
        ),
        (
            "scan lacks an acknowledged item",
            Some("P2 scan"),
            vec![put(0, 1, "x", "1", done(1)), scan(3, 4, &[], &[(1, 2), (2, 2), (3, 2), (4, 2)])],
        ),
        (
            "scan shows a deleted item",
            Some("P1 linear"),
            vec![
                put(0, 1, "x", "1", done(1)),
                delete(1, 2, "x", done(2)),
                scan(3, 4, &[("x", "1", 1)], &[(1, 1), (2, 1), (3, 1), (4, 1)]),
            ],
        ),
        (
            "scan half of a transaction of one group",
            Some("P2 scan"),
            vec![
                transact(0, 1, vec![writes("x", "1"), writes("a", "1")], vec![at(1), at(1)]),
                transact(2, 9, vec![writes("x", "2"), writes("a", "2")], vec![at(5), at(5)]),
                scan(3, 8, &[("a", "1", 1), ("x", "2", 5)], &[(1, 5), (2, 5), (3, 5), (4, 5)]),
            ],
        ),
        (
            "scan half of an unknown transaction of one group",
            Some("P2 serializable"),
            vec![
                transact(0, 1, vec![writes("x", "1"), writes("a", "1")], vec![at(1), at(1)]),
                transact_unknown(2, 9, vec![writes("x", "2"), writes("a", "2")]),
                scan(3, 8, &[("a", "1", 1), ("x", "2", 5)], &[(1, 5), (2, 5), (3, 5), (4, 5)]),
            ],
        ),
        (
            "eventual read of a rejected value",
            Some("P6 linear"),
            vec![put(0, 1, "x", "1", rejected()), get_eventual(2, 3, "x", saw("1", 1))],
        ),
        (
            "eventual read: value never committed (unknown write truncated)",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", unknown()), get_eventual(2, 3, "x", saw("1", 1)), get(4, 5, "x", absent(0))],
        ),
        (
            "an eventual read goes back behind a strong read of the same process: eventual reads promise no session",
            None,
            vec![put(0, 1, "x", "1", done(1)), put(2, 3, "x", "2", done(2)), get_eventual(4, 5, "x", saw("1", 1))],
        ),
        ("bank: half a transfer", Some("P2 bank"), vec![get_many(0, 1, &[("b0", "5", 1), ("b1", "-4", 1)])]),
        (
            "list: element lost",
            Some("P2 lists"),
            vec![
                transact(0, 1, vec![writes_if("l0", "a", Condition::Absent)], vec![at(1)]),
                transact(2, 3, vec![writes_if("l0", "b", Condition::Version(1))], vec![at(2)]),
            ],
        ),
        (
            "list of unknown transaction: acknowledged append lost at the end",
            Some("P1 linear"),
            vec![
                transact(0, 1, vec![writes_if("l0", "a", Condition::Absent)], vec![at(1)]),
                transact(2, 3, vec![writes_if("l0", "a,b", Condition::Version(1))], vec![at(2)]),
                get(10, 11, "l0", saw("a", 1)),
            ],
        ),
        (
            "answer before its question",
            Some("P1 linear"),
            vec![Record {
                process: 1,
                start: 5,
                end: Some(2),
                action: Action::Get { key: key("x"), eventual: false },
                outcome: absent(0),
            }],
        ),
        (
            "transaction committed with fewer results",
            Some("P1 linear"),
            vec![transact(0, 1, vec![writes("x", "1"), writes("y", "1")], vec![at(1)])],
        ),
        (
            "check of nothing told a stale version",
            Some("P2 serializable"),
            vec![
                put(0, 1, "x", "1", done(1)),
                put(2, 3, "x", "2", done(2)),
                transact(4, 5, vec![checks("x", Condition::None), writes("y", "1")], vec![at(1), at(1)]),
            ],
        ),
        (
            "a read of several keys of one key stale",
            Some("P1 linear"),
            vec![put(0, 1, "x", "1", done(1)), put(2, 3, "x", "2", done(2)), get_many(4, 5, &[("x", "1", 1)])],
        ),
    ]
}

#[test]
fn each_is_judged_right() {
    let mut wrong = Vec::new();
    for (partitions, (name, expected, history)) in
        [1, 4].into_iter().flat_map(|count| cases().into_iter().map(move |case| (count, case)))
    {
        let options = Options { partitions: Some(partitions), list_prefix: Some(b"l"), accounts: 2, ..Options::default() };
        let found = match check_history(&history, &options) {
            Ok(report) => {
                assert!(report.undecided.is_empty(), "{name}: undecided");
                None
            }
            Err(violation) => Some(format!("{} {}", violation.promise, violation.checker)),
        };
        // With one partition another checker may be the first to notice.
        let right = if partitions == 1 { found.is_some() == expected.is_some() } else { found.as_deref() == expected };
        if !right {
            wrong.push(format!("{name}, {partitions} partitions: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
