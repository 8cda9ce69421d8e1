//! What clients asked and what they were told, as data: the file that `ringseed load --history` and the simulator write, and that
//! a checker reads, this project's own or another.
//!
//! # The format
//!
//! JSON lines (UTF-8, one JSON object a line, no header): one line per operation, written when its outcome is known, so in order
//! of `end`, not of `start`. Fields:
//!
//! | field | what it holds |
//! |---|---|
//! | `process` | a whole number: the client. It has one operation at a time; after an unknown outcome the same number may go on. |
//! | `start` | nanoseconds from the start of the run, sampled *before* the request was sent. |
//! | `end` | nanoseconds, by the one clock of the file, sampled *after* the answer was read; `null` when no answer came. |
//! | `action` | an object with exactly one member, named after the action (below). |
//! | `outcome` | an object with exactly one member, named after the outcome (below). |
//!
//! **Bytes** (keys, values, prefixes) are a JSON string when they are valid UTF-8, else `{"hex": "00ff"}`. A *value* of more than
//! [`WHOLE_VALUE_MAX`] bytes is `{"length": N, "xxh3": "16 hex digits"}` instead: its length in bytes and its XXH3 hash (64 bits,
//! seed 0, as a big-endian number). A key that is not plain is `{"table": 7, "partition": BYTES, "sort": BYTES}`, without the
//! table if that is 0, and without `sort` if it has no sort key. A value is always written in one form only, so two values are
//! equal exactly when their JSON is.
//!
//! **Actions.**
//!
//! - `{"get": {"key": K}}`. With `"eventual": true` it is a read that may show a past state; without, it is linearizable.
//! - `{"put": {"key": K, "value": V}}`, `{"delete": {"key": K}}`: with `"if": C` only when the condition holds. C is
//!   `{"value": V}` (the item is there with this value), `{"version": N}` (the item is there with this version), `"absent"` or
//!   `"present"`.
//! - `{"increment": {"key": K, "by": N}}`: the item's value, a decimal number of 64 bits, grows by N; an absent item counts as 0.
//! - `{"scan": {"prefix": K, "from": K, "limit": N}}`: one page of the items whose keys begin with `prefix` and are not below
//!   `from`. With `"eventual": true` as for a get.
//! - `{"get_many": {"keys": [K, ...]}}`: several items as they are at one instant.
//! - `{"transact": {"items": [{"key": K, "action": A, "if": C}, ...], "token": T}}`: all of it at one instant, or none; no key
//!   twice. A is `"check"` (nothing but the condition), `"read"`, `{"put": V}`, `"delete"` or `{"increment": N}`; `if` as above,
//!   and may be missing. `token` may be missing; requests with one token have one answer and take effect once.
//! - A write may have `"acknowledge": "all"`: it is answered only once every replica has it. It changes nothing of what is
//!   correct.
//!
//! **Outcomes.** All but the last three say that the operation was done:
//!
//! - `{"value": {"value": V or null, "version": N}}`: what a get saw. `null`: the item is absent, and the version is that of the
//!   delete that removed it, or 0 if it was never written; or the one up to which its partition has forgotten deletions, if that
//!   is later. So of an absent item the version may rise while nothing is written.
//! - `{"written": {"version": N}}`: a write took effect; an increment also has `"number"`, the sum.
//! - `{"condition_failed": {"version": N, "present": B}}`: a conditional write took no effect, because the item was in this state
//!   (version as for a get).
//! - `{"scanned": {"items": [{"key": K, "value": V, "version": N}, ...], "next": K or null, "read_at": [[G, I], ...]}}`: the
//!   items of the page in key order; where the next page begins (`null`: there is none); for each group G the index I at which
//!   its part was read.
//! - `{"values": {"items": [{"version": N, "value": V}, ...]}}`: what a get of several saw, in the order of its keys; without
//!   `value` the item was absent.
//! - `{"transacted": {"results": [{"version": N, "number": N, "value": V}, ...]}}`: a transaction took effect; in the order of
//!   its items the version of each write, or of the item as it was checked or read; `number` is an increment's sum, `value` what
//!   a read saw (missing: absent).
//! - `{"not_committed": {"failures": [{"item": I, "reason": R}, ...]}}`: a transaction took no effect, because of these of its
//!   items (from 0). R is `{"condition": {"version": N, "present": B}}` (the item was in this state, at some instant between
//!   start and end), `"conflict"` or `"not_a_number"`.
//! - `{"rejected": {"reason": text}}`: it certainly took no effect, and never will.
//! - `{"unknown": {"reason": text}}`: a write that may have taken effect at any time after `start`, even after `end`, or never. A
//!   read with this outcome says nothing.
//!
//! **Versions and groups.** A version is the index, in the log of the key's consensus group, of the entry that wrote (or deleted)
//! the item; several keys written by one transaction may share it. So no key has a version twice, and the versions of a key grow
//! in the order in which writes take effect. The group of a key, in a cluster of P partitions (a power of two): hash the
//! partition key by XXH3 (64 bits; the seed is the table's number, 0 for a plain key); the highest log2 P bits are the partition;
//! the group is the partition plus 1. The part of a scan that was read in group G at index I shows, of the page's range, every
//! write of the group with a version up to I and none above.

use crate::base::{Key, hash};
use crate::msg::client::{self, ResponseBody};
use crate::msg::operation::{self, Consistency, Operation, Single};
use crate::msg::transaction::{self, Transaction};
use bytes::Bytes;
use core::fmt;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};

/// The longest value, in bytes, that a history holds in whole. Of a longer one it holds length and hash.
pub const WHOLE_VALUE_MAX: usize = 256;

/// One operation: a line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub process: u64,
    /// In nanoseconds of the run.
    pub start: u64,
    /// In nanoseconds of the run; `None`: no answer came.
    pub end: Option<u64>,
    pub action: Action,
    pub outcome: Outcome,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    Get {
        key: Key,
        #[serde(default, skip_serializing_if = "is_false")]
        eventual: bool,
    },
    Put {
        key: Key,
        value: Data,
        #[serde(rename = "if", default, skip_serializing_if = "Condition::is_none")]
        condition: Condition,
        #[serde(default, skip_serializing_if = "Acknowledge::is_quorum")]
        acknowledge: Acknowledge,
    },
    Delete {
        key: Key,
        #[serde(rename = "if", default, skip_serializing_if = "Condition::is_none")]
        condition: Condition,
        #[serde(default, skip_serializing_if = "Acknowledge::is_quorum")]
        acknowledge: Acknowledge,
    },
    Increment {
        key: Key,
        by: i64,
        #[serde(default, skip_serializing_if = "Acknowledge::is_quorum")]
        acknowledge: Acknowledge,
    },
    GetMany {
        keys: Vec<Key>,
    },
    Transact {
        items: Vec<TransactionItem>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Text>,
    },
    Scan {
        prefix: Key,
        from: Key,
        limit: u32,
        #[serde(default, skip_serializing_if = "is_false")]
        eventual: bool,
    },
}

/// Bytes where a type stands alone: a token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text(#[serde(with = "text")] pub Bytes);

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransactionItem {
    pub key: Key,
    pub action: ItemAction,
    #[serde(rename = "if", default, skip_serializing_if = "Condition::is_none")]
    pub condition: Condition,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemAction {
    Check,
    Read,
    Put(Data),
    Delete,
    Increment(i64),
}

/// What became of one item: of a committed transaction, or of a read of several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemResult {
    pub version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Data>,
}

/// Which item stood in a transaction's way, from 0, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    pub item: u32,
    pub reason: FailureReason,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    Condition { version: u64, present: bool },
    Conflict,
    NotANumber,
}

/// What must hold of the item for a write to happen; as [`operation::Condition`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    #[default]
    None,
    Value(Data),
    Version(u64),
    Absent,
    Present,
}

/// Which voters must have a write before it is answered; as [`operation::Acknowledge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acknowledge {
    #[default]
    Quorum,
    All,
}

/// What the client was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    Value {
        value: Option<Data>,
        version: u64,
    },
    Written {
        version: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number: Option<i64>,
    },
    ConditionFailed {
        version: u64,
        present: bool,
    },
    Scanned {
        items: Vec<Item>,
        next: Option<Key>,
        /// Group and index.
        read_at: Vec<(u32, u64)>,
    },
    Transacted {
        results: Vec<ItemResult>,
    },
    NotCommitted {
        failures: Vec<Failure>,
    },
    Values {
        items: Vec<ItemResult>,
    },
    Rejected {
        reason: String,
    },
    Unknown {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    pub key: Key,
    pub value: Data,
    pub version: u64,
}

/// A value: whole when it is short, else its length and hash. Equal values are equal data.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// At most [`WHOLE_VALUE_MAX`] bytes.
    Whole(Bytes),
    /// `length` in bytes; `hash` by XXH3 with seed 0.
    Hashed { length: u64, hash: u64 },
}

impl Data {
    pub fn of(value: &Bytes) -> Data {
        if value.len() <= WHOLE_VALUE_MAX {
            Data::Whole(value.clone())
        } else {
            Data::Hashed { length: value.len() as u64, hash: hash::checksum(0, value) }
        }
    }

    /// As an increment reads it: an optional minus sign and digits. `None` when it is no whole number of 64 bits.
    pub fn number(&self) -> Option<i64> {
        match self {
            Data::Whole(bytes) if bytes.first() == Some(&b'+') => None,
            Data::Whole(bytes) => core::str::from_utf8(bytes).ok()?.parse().ok(),
            Data::Hashed { .. } => None,
        }
    }

    /// As an increment leaves it.
    pub fn of_number(number: i64) -> Data {
        Data::Whole(Bytes::from(number.to_string()))
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Whole(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Data::Hashed { length, hash } => write!(f, "<{length} bytes, xxh3 {hash:016x}>"),
        }
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Action {
    /// The key it is about; `None` for what is about several.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Action::Get { key, .. } | Action::Put { key, .. } | Action::Delete { key, .. } | Action::Increment { key, .. } => {
                Some(key)
            }
            Action::Scan { .. } | Action::GetMany { .. } | Action::Transact { .. } => None,
        }
    }

    pub fn is_write(&self) -> bool {
        !matches!(self, Action::Get { .. } | Action::Scan { .. } | Action::GetMany { .. })
    }
}

impl From<&Single> for Action {
    fn from(single: &Single) -> Action {
        let operation = &single.operation;
        let (key, condition, acknowledge) = (operation.key.clone(), (&operation.condition).into(), single.acknowledge.into());
        match &operation.action {
            operation::Action::Read => Action::Get { key, eventual: single.consistency == Consistency::Eventual },
            operation::Action::Put(value) => Action::Put { key, value: Data::of(value), condition, acknowledge },
            operation::Action::Delete => Action::Delete { key, condition, acknowledge },
            operation::Action::Increment(by) => Action::Increment { key, by: *by, acknowledge },
            operation::Action::Check => unreachable!("a check by itself is refused before it is sent"),
        }
    }
}

impl From<&Transaction> for Action {
    fn from(transaction: &Transaction) -> Action {
        let item = |operation: &Operation| TransactionItem {
            key: operation.key.clone(),
            action: match &operation.action {
                operation::Action::Check => ItemAction::Check,
                operation::Action::Read => ItemAction::Read,
                operation::Action::Put(value) => ItemAction::Put(Data::of(value)),
                operation::Action::Delete => ItemAction::Delete,
                operation::Action::Increment(by) => ItemAction::Increment(*by),
            },
            condition: (&operation.condition).into(),
        };
        let token = transaction.token.clone().map(Text);
        Action::Transact { items: transaction.items.iter().map(item).collect(), token }
    }
}

impl From<&transaction::ItemResult> for ItemResult {
    fn from(result: &transaction::ItemResult) -> ItemResult {
        ItemResult { version: result.version.0, number: result.number, value: result.value.as_ref().map(Data::of) }
    }
}

impl From<&transaction::Failure> for Failure {
    fn from(failure: &transaction::Failure) -> Failure {
        let reason = match failure.reason {
            transaction::FailureReason::Condition { version, present } => {
                FailureReason::Condition { version: version.0, present }
            }
            transaction::FailureReason::Conflict => FailureReason::Conflict,
            transaction::FailureReason::NotANumber => FailureReason::NotANumber,
        };
        Failure { item: failure.item, reason }
    }
}

impl From<&client::Scan> for Action {
    fn from(scan: &client::Scan) -> Action {
        Action::Scan {
            prefix: scan.prefix.clone(),
            from: scan.from.clone(),
            limit: scan.limit,
            eventual: scan.consistency == Consistency::Eventual,
        }
    }
}

impl Condition {
    pub fn is_none(&self) -> bool {
        *self == Condition::None
    }
}

impl From<&operation::Condition> for Condition {
    fn from(condition: &operation::Condition) -> Condition {
        match condition {
            operation::Condition::None => Condition::None,
            operation::Condition::Value(value) => Condition::Value(Data::of(value)),
            operation::Condition::Version(version) => Condition::Version(version.0),
            operation::Condition::Absent => Condition::Absent,
            operation::Condition::Present => Condition::Present,
        }
    }
}

impl Acknowledge {
    pub fn is_quorum(&self) -> bool {
        *self == Acknowledge::Quorum
    }
}

impl From<operation::Acknowledge> for Acknowledge {
    fn from(acknowledge: operation::Acknowledge) -> Acknowledge {
        match acknowledge {
            operation::Acknowledge::Quorum => Acknowledge::Quorum,
            operation::Acknowledge::All => Acknowledge::All,
        }
    }
}

impl Outcome {
    /// What an answer says about the operation; `None` for a report, which is about no operation.
    pub fn of(body: &ResponseBody) -> Option<Outcome> {
        Some(match body {
            ResponseBody::Value { value, version } => Outcome::Value { value: value.as_ref().map(Data::of), version: version.0 },
            ResponseBody::Written { version, number } => Outcome::Written { version: version.0, number: *number },
            ResponseBody::ConditionFailed { version, present } => {
                Outcome::ConditionFailed { version: version.0, present: *present }
            }
            ResponseBody::Scanned(scanned) => Outcome::Scanned {
                items: scanned.items.iter().map(Item::of).collect(),
                next: scanned.next.clone(),
                read_at: scanned.read_at.iter().map(|(group, index)| (group.0, index.0)).collect(),
            },
            ResponseBody::Rejected(rejection) => Outcome::Rejected { reason: rejection.to_string() },
            ResponseBody::Unknown(doubt) => Outcome::Unknown { reason: doubt.to_string() },
            ResponseBody::Transacted(results) => Outcome::Transacted { results: results.iter().map(Into::into).collect() },
            ResponseBody::NotCommitted(failures) => Outcome::NotCommitted { failures: failures.iter().map(Into::into).collect() },
            ResponseBody::Values(items) => Outcome::Values { items: items.iter().map(Into::into).collect() },
            ResponseBody::Ring(_) | ResponseBody::Status(_) | ResponseBody::Transactions(..) | ResponseBody::Damage(_) => {
                return None;
            }
        })
    }
}

impl Item {
    fn of(item: &client::Item) -> Item {
        Item { key: item.key.clone(), value: Data::of(&item.value), version: item.version.0 }
    }
}

/// A history that could not be read: which line, from 1, and why.
#[derive(Debug)]
pub struct HistoryError {
    pub line: u64,
    pub what: String,
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the history: {}", self.line, self.what)
    }
}

impl std::error::Error for HistoryError {}

/// Writes records as lines. Give it a buffered writer; nothing is kept here.
#[derive(Debug)]
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    pub fn new(to: W) -> Writer<W> {
        Writer(to)
    }

    /// Writes one line.
    ///
    /// # Errors
    /// As of the underlying writer.
    pub fn write(&mut self, record: &Record) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.0, record)?;
        self.0.write_all(b"\n")
    }

    /// Flushes the underlying writer and gives it back.
    ///
    /// # Errors
    /// As of the underlying writer.
    pub fn finish(mut self) -> std::io::Result<W> {
        self.0.flush()?;
        Ok(self.0)
    }
}

/// Reads records from lines, one at a time. Empty lines are passed over. Ends after the first error.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    line: u64,
    text: String,
    failed: bool,
}

impl<R: BufRead> Reader<R> {
    pub fn new(from: R) -> Reader<R> {
        Reader { from, line: 0, text: String::new(), failed: false }
    }

    fn read(&mut self) -> Result<Option<Record>, String> {
        loop {
            self.line += 1;
            self.text.clear();
            if self.from.read_line(&mut self.text).map_err(|e| e.to_string())? == 0 {
                return Ok(None);
            }
            let text = self.text.trim();
            if !text.is_empty() {
                return serde_json::from_str(text).map(Some).map_err(|e| e.to_string());
            }
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let read = self.read();
        self.failed = read.is_err();
        read.map_err(|what| HistoryError { line: self.line, what }).transpose()
    }
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The forms that bytes have in a history.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Hex { hex: String },
    Hashed { length: u64, xxh3: String },
}

impl Form {
    fn of(bytes: &Bytes) -> Form {
        match core::str::from_utf8(bytes) {
            Ok(text) => Form::Text(text.to_owned()),
            Err(_) => Form::Hex { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() },
        }
    }

    fn whole(self) -> Result<Bytes, String> {
        match self {
            Form::Text(text) => Ok(Bytes::from(text)),
            Form::Hex { hex } => unhex(&hex).ok_or_else(|| format!("\"{hex}\" is not pairs of hex digits")),
            Form::Hashed { .. } => Err("a key must be whole".into()),
        }
    }
}

fn unhex(hex: &str) -> Option<Bytes> {
    let digits: Option<Vec<u8>> = hex.bytes().map(|digit| char::from(digit).to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

impl Serialize for Data {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Data::Whole(bytes) => text::serialize(bytes, serializer),
            Data::Hashed { length, hash } => Form::Hashed { length: *length, xxh3: format!("{hash:016x}") }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Data, D::Error> {
        let data = match Form::deserialize(deserializer)? {
            Form::Hashed { length, xxh3 } => {
                u64::from_str_radix(&xxh3, 16).map(|hash| Data::Hashed { length, hash }).map_err(|e| e.to_string())
            }
            // A writer of another make may hold long values in whole: equality must not depend on it.
            form => form.whole().map(|bytes| Data::of(&bytes)),
        };
        data.map_err(serde::de::Error::custom)
    }
}

mod text {
    use super::{Bytes, Deserialize, Form, Serialize};

    pub fn serialize<S: serde::Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        match core::str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Form::of(bytes).serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        Form::deserialize(deserializer)?.whole().map_err(serde::de::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyParts {
    #[serde(default, skip_serializing_if = "is_zero")]
    table: u32,
    #[serde(with = "text")]
    partition: Bytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sort: Option<Text>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_plain() {
            return text::serialize(self.bytes(), serializer);
        }
        let part = |bytes: &[u8]| self.bytes().slice_ref(bytes);
        let sort = self.sort_key().map(|key| Text(part(key)));
        KeyParts { table: self.table(), partition: part(self.partition_key()), sort }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum KeyForm {
            Parts(KeyParts),
            Plain(Form),
        }
        match KeyForm::deserialize(deserializer)? {
            KeyForm::Parts(KeyParts { table, partition, sort }) => {
                Ok(Key::new(table, &partition, sort.as_ref().map(|Text(sort)| &sort[..])))
            }
            KeyForm::Plain(form) => form.whole().map(Key::from).map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(record: &Record) -> String {
        let mut writer = Writer::new(Vec::new());
        writer.write(record).unwrap();
        let bytes = writer.finish().unwrap();
        let read: Vec<Record> = Reader::new(&bytes[..]).map(Result::unwrap).collect();
        assert_eq!(read, std::slice::from_ref(record));
        String::from_utf8(bytes).unwrap()
    }

    fn put(key: &'static [u8], value: &[u8]) -> Record {
        Record {
            process: 3,
            start: 10,
            end: Some(20),
            action: Action::Put {
                key: key.into(),
                value: Data::of(&Bytes::copy_from_slice(value)),
                condition: Condition::None,
                acknowledge: Acknowledge::Quorum,
            },
            outcome: Outcome::Written { version: 7, number: None },
        }
    }

    #[test]
    fn lines_are_as_documented() {
        assert_eq!(
            round_trip(&put(b"a", b"x")),
            "{\"process\":3,\"start\":10,\"end\":20,\"action\":{\"put\":{\"key\":\"a\",\"value\":\"x\"}},\"outcome\":{\"written\":{\"version\":7}}}\n"
        );
        assert!(round_trip(&put(b"\xff\x00", b"")).contains("{\"key\":{\"hex\":\"ff00\"},\"value\":\"\"}"));
        assert!(round_trip(&put(b"a", &[b'z'; 1000])).contains("\"value\":{\"length\":1000,\"xxh3\":\""));
        let mut of_table = put(b"a", b"x");
        for (of, form) in [
            (Key::new(7, b"user", Some(b"\xff")), "{\"table\":7,\"partition\":\"user\",\"sort\":{\"hex\":\"ff\"}}"),
            (Key::new(7, b"", None), "{\"table\":7,\"partition\":\"\"}"),
            (Key::new(0, b"user", Some(b"2024")), "{\"partition\":\"user\",\"sort\":\"2024\"}"),
        ] {
            if let Action::Put { key, .. } = &mut of_table.action {
                *key = of;
            }
            assert!(round_trip(&of_table).contains(&format!("{{\"key\":{form},")), "{form}");
        }
        let mut conditional = put(b"a", b"x");
        if let Action::Put { condition, acknowledge, .. } = &mut conditional.action {
            *condition = Condition::Value(Data::of(&Bytes::from_static(b"o")));
            *acknowledge = Acknowledge::All;
        }
        conditional.end = None;
        conditional.outcome = Outcome::Unknown { reason: "why".into() };
        let line = round_trip(&conditional);
        assert!(line.contains("\"if\":{\"value\":\"o\"},\"acknowledge\":\"all\"") && line.contains("\"end\":null"), "{line}");
        let scan = Record {
            action: Action::Scan { prefix: Key::default(), from: Key::from(&b"\x80"[..]), limit: 10, eventual: true },
            outcome: Outcome::Scanned {
                items: vec![Item { key: "k".into(), value: Data::of_number(-3), version: 2 }],
                next: None,
                read_at: vec![(1, 2), (2, 0)],
            },
            ..put(b"a", b"x")
        };
        let line = round_trip(&scan);
        assert!(line.contains("\"next\":null,\"read_at\":[[1,2],[2,0]]"), "{line}");
        let mut paged = scan;
        if let Outcome::Scanned { next, .. } = &mut paged.outcome {
            *next = Some(Key::from(&b"\xfe"[..]));
        }
        round_trip(&paged);
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        let text = format!("{}\n{{\"process\":1}}\n", round_trip(&put(b"a", b"x")));
        let mut reader = Reader::new(text.as_bytes());
        assert!(reader.next().unwrap().is_ok());
        assert_eq!(reader.next().unwrap().unwrap_err().line, 3);
        assert!(reader.next().is_none());
    }

    #[test]
    fn long_values_are_equal_when_their_bytes_are() {
        let long = Bytes::from(vec![1_u8; WHOLE_VALUE_MAX + 1]);
        assert_eq!(Data::of(&long), Data::of(&long.clone()));
        assert_ne!(Data::of(&long), Data::of(&Bytes::from(vec![2_u8; WHOLE_VALUE_MAX + 1])));
    }
}
