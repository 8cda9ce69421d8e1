//! The largest legal and the smallest illegal of every request.

use crate::cluster::{partition, put, put_if, version};
use bytes::Bytes;
use ringseed::base::Key;
use ringseed::base::limits::*;
use ringseed::client::Error;
use ringseed::msg::client::*;
use ringseed::msg::operation::*;
use ringseed::msg::transaction::*;

#[derive(Debug, Clone)]
pub enum Expected {
    Done,
    ConditionFailed,
    Rejected(Rejection),
    /// Rejected as invalid; the reason says this.
    Invalid(&'static str),
}

use Expected::{ConditionFailed, Done, Invalid, Rejected};

impl Expected {
    #[track_caller]
    pub fn check(&self, row: &str, by: &str, answer: &Result<ResponseBody, Error>) {
        let fits = match (self, answer) {
            (Done, Ok(_)) => true,
            (ConditionFailed, Err(Error::ConditionFailed { .. })) => true,
            (Rejected(expected), Err(Error::Rejected(why))) => why == expected,
            (Invalid(says), Err(Error::Rejected(Rejection::Invalid(why)))) => why.contains(says),
            _ => false,
        };
        let answer: String = format!("{answer:?}").chars().take(300).collect();
        assert!(fits, "{row}, by {by}: {self:?} was expected, not {answer}");
    }
}

pub type Row = (String, RequestBody, Expected);

fn bytes(size: usize) -> Bytes {
    Bytes::from(vec![b'x'; size])
}

fn alone(operation: Operation) -> RequestBody {
    RequestBody::Operation(operation.alone())
}

fn delete_if(key: impl Into<Key>, condition: Condition) -> RequestBody {
    alone(Operation::delete(key).only_if(condition))
}

fn increment(key: impl Into<Key>, by: i64) -> RequestBody {
    alone(Operation::increment(key, by))
}

fn transact(items: Vec<Operation>, token: Option<Bytes>) -> RequestBody {
    RequestBody::Transact(Transaction { items, token })
}

fn get_many(keys: Vec<impl Into<Key>>) -> RequestBody {
    RequestBody::GetMany(keys.into_iter().map(Into::into).collect())
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name: &str, body: RequestBody, expected: Expected| rows.push((name.to_owned(), body, expected));
    keys(&mut row);
    sort_keys(&mut row);
    values(&mut row);
    pages(&mut row);
    several(&mut row);
    transactions(&mut row);
    rows
}

/// What no frame holds. A node can only close the connection: the client does not send it.
pub fn longer_than_a_frame() -> Vec<Row> {
    let size = FRAME_SIZE_MAX + 1;
    let items = (0..50).map(|n| Operation::put(format!("t/{n}"), bytes(VALUE_SIZE_MAX))).collect();
    let value = Rejected(Rejection::ValueTooLong(size as u32));
    vec![
        ("put, a value longer than a frame".into(), put("value", bytes(size)), value),
        ("put, a key longer than a frame".into(), put(bytes(size), ""), Rejected(Rejection::KeyTooLong(size as u32))),
        ("transact, more than a frame".into(), transact(items, None), Invalid("bytes of keys and values; at most 4194304")),
    ]
}

type Add<'a> = dyn FnMut(&str, RequestBody, Expected) + 'a;

fn keys(row: &mut Add<'_>) {
    let too_long = || Rejected(Rejection::KeyTooLong(KEY_SIZE_MAX as u32 + 1));
    let sizes = [(0, Rejected(Rejection::KeyEmpty)), (1, Done), (KEY_SIZE_MAX, Done), (KEY_SIZE_MAX + 1, too_long())];
    for (size, expected) in sizes {
        row(&format!("put, a key of {size}"), put(bytes(size), "1"), expected.clone());
        row(&format!("get, a key of {size}"), alone(Operation::read(bytes(size))), expected.clone());
        let of_table = Key::of_parts(7, bytes(size), None).expect("without a sort key");
        row(&format!("get, a key of another table, of {size}"), alone(Operation::read(of_table)), expected.clone());
        row(&format!("increment, a key of {size}"), increment(bytes(size), 1), expected.clone());
        row(&format!("get-many, a key of {size}"), get_many(vec![bytes(size)]), expected.clone());
        row(&format!("transact, a key of {size}"), transact(vec![Operation::put(bytes(size), "1")], None), expected.clone());
        row(&format!("delete, a key of {size}"), delete_if(bytes(size), Condition::None), expected);
    }
}

fn values(row: &mut Add<'_>) {
    for (size, expected) in
        [(0, Done), (VALUE_SIZE_MAX, Done), (VALUE_SIZE_MAX + 1, Rejected(Rejection::ValueTooLong(VALUE_SIZE_MAX as u32 + 1)))]
    {
        row(&format!("put, a value of {size}"), put("value", bytes(size)), expected.clone());
        let condition = || Condition::Value(bytes(size));
        row(&format!("cas, an expected value of {size}"), put_if("value", bytes(size), condition()), expected.clone());
        let failed = if matches!(expected, Done) { ConditionFailed } else { expected.clone() };
        row(&format!("delete, an expected value of {size}"), delete_if("absent", condition()), failed);
        let item = Operation::put("value", bytes(size));
        row(&format!("transact, a value of {size}"), transact(vec![item], None), expected.clone());
        let item = Operation::check("value", condition());
        row(&format!("transact, an expected value of {size}"), transact(vec![item], None), expected);
    }
    row("put, if of the largest version", put_if("value", "", version(u64::MAX)), ConditionFailed);
    row("put, if of version 0", put_if("value", "", version(0)), ConditionFailed);
    row("put of the largest number", put("most", i64::MAX.to_string()), Done);
    row("increment, beyond 64 bits", increment("most", 1), Rejected(Rejection::NotANumber));
}

/// Partition key and sort key together have the limit of a key, and neither is empty.
fn sort_keys(row: &mut Add<'_>) {
    let key = |size: usize, sort_key: usize| Key::of_parts(0, bytes(size), Some((size - sort_key) as u32)).expect("within");
    row("put, the longest sort key", put(key(KEY_SIZE_MAX, KEY_SIZE_MAX - 1), "1"), Done);
    let too_long = Rejected(Rejection::KeyTooLong(KEY_SIZE_MAX as u32 + 1));
    row("put, a longer sort key", put(key(KEY_SIZE_MAX + 1, KEY_SIZE_MAX), "1"), too_long);
    row("put, an empty sort key", put(key(1, 0), "1"), Invalid("the sort key is empty"));
    row("put, nothing but a sort key", put(key(1, 1), "1"), Rejected(Rejection::KeyEmpty));
}

fn pages(row: &mut Add<'_>) {
    let scan = |prefix: usize, from: usize, limit: u32| {
        let (prefix, from) = (bytes(prefix).into(), bytes(from).into());
        RequestBody::Scan(Scan { prefix, from, limit, consistency: Consistency::Strong })
    };
    for limit in [0, 1, SCAN_ITEMS_MAX as u32, SCAN_ITEMS_MAX as u32 + 1, u32::MAX] {
        row(&format!("scan, at most {limit}"), scan(0, 0, limit), Done);
    }
    let too_long = |size: usize| Rejected(Rejection::KeyTooLong(size as u32));
    row("scan, the longest prefix", scan(KEY_SIZE_MAX, 0, 1), Done);
    row("scan, a longer prefix", scan(KEY_SIZE_MAX + 1, 0, 1), too_long(KEY_SIZE_MAX + 1));
    row("scan, from the longest key", scan(0, KEY_SIZE_MAX, 1), Done);
    row("scan, from behind the longest key", scan(0, KEY_SIZE_MAX + 1, 1), Done);
    row("scan, from further", scan(0, KEY_SIZE_MAX + 2, 1), too_long(KEY_SIZE_MAX + 2));
}

/// Keys of values that are together as large as may be read at once; then one that is one byte too much.
fn together() -> (Vec<Bytes>, Bytes, Vec<Row>) {
    let count = TRANSACTION_SIZE_MAX / VALUE_SIZE_MAX;
    let rest = TRANSACTION_SIZE_MAX - count * VALUE_SIZE_MAX;
    let mut rows: Vec<Row> = Vec::new();
    let mut keys = Vec::new();
    for (number, size) in (0..=count).map(|number| (number, if number < count { VALUE_SIZE_MAX } else { rest })) {
        let key = Bytes::from(format!("together/{number}"));
        rows.push((format!("put of {size}, to be read together"), put(key.clone(), bytes(size)), Done));
        keys.push(key);
    }
    let more = Bytes::from("together/more");
    rows.push(("put of 1, to be read together".into(), put(more.clone(), "x"), Done));
    (keys, more, rows)
}

fn several(row: &mut Add<'_>) {
    let names = |count: usize| (0..count).map(|number| Bytes::from(format!("several/{number}"))).collect::<Vec<_>>();
    row("get-many, none", get_many(Vec::<Key>::new()), Invalid("no key is named"));
    row("get-many, the most", get_many(names(TRANSACTION_ITEMS_MAX)), Done);
    row("get-many, one too many", get_many(names(TRANSACTION_ITEMS_MAX + 1)), Invalid("101 keys are named; at most 100"));
    row("get-many, one twice", get_many([names(2), names(1)].concat()), Invalid("the key several/0 is named twice"));
    let longest = |count| (0..count).map(|n: usize| Bytes::from(format!("{n:0>0$}", KEY_SIZE_MAX))).collect::<Vec<_>>();
    row("get-many, the longest keys", get_many(longest(TRANSACTION_ITEMS_MAX)), Done);
    let (keys, more, puts) = together();
    puts.into_iter().for_each(|(name, body, expected)| row(&name, body, expected));
    row("get-many, the most bytes", get_many(keys.clone()), Done);
    let read = |keys: &[Bytes]| transact(keys.iter().map(|key| Operation::read(key.clone())).collect(), None);
    row("transact, reads of the most bytes", read(&keys), Done);
    let beyond = [keys, vec![more]].concat();
    row("get-many, a byte too much", get_many(beyond.clone()), Rejected(Rejection::TooLarge));
    row("transact, reads of a byte too much", read(&beyond), Rejected(Rejection::TooLarge));
}

/// Writes of so many bytes of keys and values; all in one partition, or in all.
pub fn sized(size: usize, alone: bool) -> Vec<Operation> {
    let count = size.div_ceil(VALUE_SIZE_MAX + 8);
    let names = (0..).map(|number| format!("sized/{number:04}")).filter(|key| !alone || partition(key.as_bytes()) == 0);
    let names: Vec<String> = names.take(count).collect();
    let mut left = size;
    let mut items = Vec::new();
    for (at, name) in names.into_iter().enumerate() {
        let share = (left / (count - at)).min(VALUE_SIZE_MAX + name.len());
        left -= share;
        let value = bytes(share - name.len());
        items.push(Operation::put(name, value));
    }
    assert_eq!(items.iter().map(Operation::size).sum::<usize>(), size);
    items
}

fn transactions(row: &mut Add<'_>) {
    let puts = |count: usize| (0..count).map(|n| Operation::put(format!("t/{n}"), "v")).collect::<Vec<_>>();
    row("transact, nothing", transact(Vec::new(), None), Invalid("the transaction is empty"));
    row("transact, the most items", transact(puts(TRANSACTION_ITEMS_MAX), None), Done);
    let too_many = Invalid("the transaction has 101 operations; at most 100");
    row("transact, one too many", transact(puts(TRANSACTION_ITEMS_MAX + 1), None), too_many);
    row("transact, one twice", transact([puts(1), puts(1)].concat(), None), Invalid("names the key t/0 twice"));
    let present = |count| puts(count).into_iter().map(|item| item.only_if(Condition::Present)).collect();
    row("transact, the most conditions", transact(present(TRANSACTION_ITEMS_MAX), None), Done);
    // What used to be longer than a request might be, though within the limits.
    for size in [1_600_000, 1_700_000, 3_000_000, TRANSACTION_SIZE_MAX] {
        for alone in [true, false] {
            let of = if alone { "one partition" } else { "all partitions" };
            row(&format!("transact, {size} bytes of {of}"), transact(sized(size, alone), None), Done);
        }
    }
    let beyond = Invalid("the transaction has 4194305 bytes of keys and values; at most 4194304");
    row("transact, a byte too much", transact(sized(TRANSACTION_SIZE_MAX + 1, false), None), beyond);
    let mut with_token = sized(TRANSACTION_SIZE_MAX - 7, false);
    row("transact, the most bytes, a token among them", transact(with_token.clone(), Some("largest".into())), Done);
    with_token[0] = Operation::check(with_token[0].key.clone(), Condition::Value(bytes(with_token[0].size() - 10)));
    row("transact, the most bytes, an expected value among them", transact(with_token, None), Done);
    let same_token = Rejected(Rejection::TokenReused);
    row("transact, the same token for something else", transact(puts(1), Some("largest".into())), same_token);
    for (size, expected) in [
        (0, Invalid("the token has 0 bytes; from 1 to 64")),
        (1, Done),
        (TOKEN_SIZE_MAX, Done),
        (TOKEN_SIZE_MAX + 1, Invalid("the token has 65 bytes")),
    ] {
        row(&format!("transact, a token of {size}"), transact(puts(2), Some(bytes(size))), expected);
    }
    let read = vec![Operation::read("t/0")];
    row("transact, a read with a token", transact(read, Some("read".into())), Invalid("cannot read"));
}
