//! Transactions as people and programs write them: a text form, one operation a line, and JSON. Pure: bytes in, a [`Transaction`]
//! or a [`ParseError`] out.
//!
//! # The text form
//!
//! ```text
//! # Moves 5 from alice to bob, once, if alice still has what was seen.
//! token move-17
//! incr account/alice -5 if version 12
//! incr account/bob 5 if present
//! check limits/alice if value "up to 100"
//! put "log/move 17" '5 from alice to bob' if absent
//! delete request/17
//! ```
//!
//! | line | what it asks for |
//! |---|---|
//! | `put KEY VALUE [if CONDITION]` | write |
//! | `delete KEY [if CONDITION]` | delete |
//! | `incr KEY [N] [if CONDITION]` | add N (1 if it is left out) to a whole number; an absent item counts as 0 |
//! | `check KEY if CONDITION` | nothing but the condition |
//! | `read KEY [if CONDITION]` | read; the answer has the item |
//! | `token TOKEN` | at most once: the same token sent again gets the same answer; not together with `read` |
//!
//! A CONDITION is `absent`, `present`, `version N` or `value VALUE`. If one does not hold, nothing of the transaction is done.
//!
//! Blanks part the words of a line. `#` at the beginning of a word makes the rest of the line a comment. Within single quotes
//! every byte stands for itself. Outside of them a backslash begins an escape: `\n`, `\r`, `\t`, `\xff` (any byte, by two hex
//! digits), or a character that is no letter or digit, for itself. Double quotes keep blanks and `#`. In a key, an escaped brace
//! or bar is as in a printed one: `\{7}user\|2024` is of table 7, with the sort key 2024. Lines end with `\n` or `\r\n`; a word
//! does not go on over a line's end. Bytes need not be UTF-8. Keys as they are printed ([`crate::base::key`]), and values as
//! `ringseed scan` prints them, can be used here between double quotes, with a backslash before each `"` of theirs.
//!
//! # The JSON form
//!
//! What a history calls the `transact` action ([`crate::history`]), but for values, which are whole here whatever their length:
//!
//! ```json
//! {"token": "move-17",
//!  "items": [{"key": "account/alice", "action": {"increment": -5}, "if": {"version": 12}},
//!            {"key": "account/bob", "action": {"increment": 5}, "if": "present"},
//!            {"key": {"hex": "00ff"}, "action": {"put": "text"}, "if": "absent"},
//!            {"key": "b", "action": "delete"},
//!            {"key": "c", "action": "check", "if": {"value": "x"}}]}
//! ```
//!
//! The list alone, and the object within `{"transact": ...}`, are read as well.
//!
//! # Limits
//!
//! Neither form gives more than [`TRANSACTION_ITEMS_MAX`] items: the reading ends with the first beyond. All else that makes a
//! transaction invalid (sizes, a key that is named twice, no item at all) is left to [`Transaction::validate`].

use crate::base::limits::TRANSACTION_ITEMS_MAX;
use crate::base::{Key, Version, key};
use crate::msg::operation::{Action, Condition, Operation};
use crate::msg::transaction::Transaction;
use bytes::Bytes;
use core::fmt;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Where the input is wrong, and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// In bytes, from 1. At the end of a line: one behind its last.
    pub column: usize,
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

impl std::error::Error for ParseError {}

/// Reads either form: JSON if the first byte that is no blank is `{` or `[`, else the text form.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(input: &[u8]) -> Result<Transaction, ParseError> {
    match input.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{' | b'[') => parse_json(input),
        _ => parse_text(input),
    }
}

/// Reads the text form.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse_text(input: &[u8]) -> Result<Transaction, ParseError> {
    let mut transaction = Transaction { items: Vec::new(), token: None };
    for (number, line) in (1..).zip(input.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let read = words(line).and_then(|words| parse_line(&words, line.len(), &mut transaction));
        read.map_err(|Wrong { at, what }| ParseError { line: number, column: at + 1, what })?;
    }
    Ok(transaction)
}

/// What is wrong in a line, and at which byte of it, from 0.
struct Wrong {
    at: usize,
    what: String,
}

fn wrong<T>(at: usize, what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { at, what: what.into() })
}

/// A word, and where it begins in its line.
struct Word {
    at: usize,
    bytes: Vec<u8>,
    /// Where in `bytes` a brace or a bar stands that was escaped: in a key it parts table, partition key and sort key.
    parts: Vec<usize>,
}

/// The key that a word stands for.
fn key_of(word: &Word) -> Result<Key, Wrong> {
    let escaped = |byte: u8| word.parts.iter().copied().filter(move |at| word.bytes[*at] == byte);
    let (braces, bars): (Vec<usize>, Vec<usize>) = (escaped(b'{').collect(), escaped(b'|').collect());
    if braces.iter().any(|at| *at > 0) || bars.len() > 1 {
        return wrong(
            word.at,
            "in a key, \\{N} is only at the beginning, for table N, and there is one \\| at most, before the sort key",
        );
    }
    let (table, rest) = match braces.is_empty() {
        true => (0, &word.bytes[..]),
        false => key::read_table(&word.bytes[1..]).ok_or_else(|| Wrong {
            at: word.at,
            what: "`\\{` begins no table; a table is named by its number, as in \\{7}KEY".into(),
        })?,
    };
    let (partition_key, sort_key) = match bars.first().map(|at| at.checked_sub(word.bytes.len() - rest.len())) {
        None => (rest, None),
        Some(Some(at)) => (&rest[..at], Some(&rest[at + 1..])),
        Some(None) => return wrong(word.at, "the sort key begins within the table's number"),
    };
    Ok(Key::new(table, partition_key, sort_key))
}

/// The words of a line, up to a comment.
fn words(line: &[u8]) -> Result<Vec<Word>, Wrong> {
    let mut words: Vec<Word> = Vec::new();
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            byte if byte.is_ascii_whitespace() => at += 1,
            b'#' => break,
            _ => {
                let (word, end) = word(line, at)?;
                words.push(word);
                at = end;
            }
        }
    }
    Ok(words)
}

/// The word that begins at `start`, and where it ends.
fn word(line: &[u8], start: usize) -> Result<(Word, usize), Wrong> {
    let (mut bytes, mut parts, mut at) = (Vec::new(), Vec::new(), start);
    // The quote that is open, and where.
    let mut quote: Option<(u8, usize)> = None;
    while at < line.len() {
        match (quote, line[at]) {
            (Some((open, _)), byte) if byte == open => quote = None,
            (Some((b'\'', _)), byte) => bytes.push(byte),
            (_, b'\\') => {
                let (byte, length) = escape(&line[at..]).ok_or_else(|| Wrong { at, what: ESCAPES.into() })?;
                if matches!(&line[at..at + 2], b"\\{" | b"\\|") {
                    parts.push(bytes.len());
                }
                bytes.push(byte);
                at += length - 1;
            }
            (Some(_), byte) => bytes.push(byte),
            (None, byte @ (b'"' | b'\'')) => quote = Some((byte, at)),
            (None, byte) if byte.is_ascii_whitespace() => break,
            (None, byte) => bytes.push(byte),
        }
        at += 1;
    }
    match quote {
        Some((open, at)) => wrong(at, format!("the line ends before this {} is closed", char::from(open))),
        None => Ok((Word { at: start, bytes, parts }, at)),
    }
}

const ESCAPES: &str =
    "no such escape: expected \\n, \\r, \\t, \\x and two hex digits, or a backslash before what is no letter or digit";

/// The byte that an escape stands for, and its length.
fn escape(text: &[u8]) -> Option<(u8, usize)> {
    key::escape(text).or_else(|| text.get(1).filter(|byte| !byte.is_ascii_alphanumeric()).map(|byte| (*byte, 2)))
}

/// The words of a line that are not yet read.
struct Rest<'a> {
    words: std::slice::Iter<'a, Word>,
    /// The line's length: where what is missing should have been.
    end: usize,
}

impl<'a> Rest<'a> {
    fn next(&mut self, expected: &str) -> Result<&'a Word, Wrong> {
        let end = self.end;
        self.words.next().ok_or_else(|| Wrong { at: end, what: format!("the line ends here; expected {expected}") })
    }

    fn bytes(&mut self, expected: &str) -> Result<Bytes, Wrong> {
        Ok(Bytes::copy_from_slice(&self.next(expected)?.bytes))
    }

    fn peek(&self) -> Option<&'a Word> {
        self.words.as_slice().first()
    }
}

fn parse_line(words: &[Word], end: usize, transaction: &mut Transaction) -> Result<(), Wrong> {
    let mut rest = Rest { words: words.iter(), end };
    let Some(first) = rest.words.next() else { return Ok(()) };
    if first.bytes == b"token" {
        if transaction.token.is_some() {
            return wrong(first.at, "there is a token already");
        }
        transaction.token = Some(rest.bytes("the token")?);
        return match rest.peek() {
            Some(word) => wrong(word.at, format!("nothing more was expected, not {}", shown(&word.bytes))),
            None => Ok(()),
        };
    }
    if !OPERATIONS.contains(&first.bytes.as_slice()) {
        return wrong(
            first.at,
            format!("no such operation: {}; expected put, delete, incr, check, read or token", shown(&first.bytes)),
        );
    }
    if transaction.items.len() >= TRANSACTION_ITEMS_MAX {
        return wrong(first.at, too_many());
    }
    let key = key_of(rest.next("a key")?)?;
    let action = match first.bytes.as_slice() {
        b"put" => Action::Put(rest.bytes("a value")?),
        b"delete" => Action::Delete,
        b"incr" => Action::Increment(match rest.peek().filter(|word| word.bytes != b"if") {
            Some(_) => number(rest.next("a number")?, "a whole number of 64 bits, or `if`")?,
            None => 1,
        }),
        b"check" => Action::Check,
        _ => Action::Read,
    };
    let condition = match rest.words.next() {
        Some(word) if word.bytes == b"if" => condition(&mut rest)?,
        Some(word) => return wrong(word.at, format!("expected `if` or the end of the line, not {}", shown(&word.bytes))),
        None if action == Action::Check => return wrong(end, "a check needs a condition; expected `if`"),
        None => Condition::None,
    };
    if let Some(word) = rest.peek() {
        return wrong(word.at, format!("nothing more was expected, not {}", shown(&word.bytes)));
    }
    transaction.items.push(Operation { key, action, condition });
    Ok(())
}

const OPERATIONS: [&[u8]; 5] = [b"put", b"delete", b"incr", b"check", b"read"];

fn too_many() -> String {
    format!("one operation too many: at most {TRANSACTION_ITEMS_MAX} are allowed in a transaction")
}

fn condition(rest: &mut Rest<'_>) -> Result<Condition, Wrong> {
    const EXPECTED: &str = "a condition: absent, present, version N or value VALUE";
    let word = rest.next(EXPECTED)?;
    match word.bytes.as_slice() {
        b"absent" => Ok(Condition::Absent),
        b"present" => Ok(Condition::Present),
        b"version" => Ok(Condition::Version(Version(number(rest.next("a version")?, "a version, which is a whole number")?))),
        b"value" => Ok(Condition::Value(rest.bytes("a value")?)),
        other => wrong(word.at, format!("no such condition: {}; expected {EXPECTED}", shown(other))),
    }
}

fn number<N: core::str::FromStr>(word: &Word, expected: &str) -> Result<N, Wrong> {
    let parsed = core::str::from_utf8(&word.bytes).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Wrong { at: word.at, what: format!("expected {expected}, not {}", shown(&word.bytes)) })
}

/// A word in a message: its beginning, if it is long.
fn shown(word: &[u8]) -> String {
    let (begin, more) = word.split_at(word.len().min(40));
    format!("`{}{}`", begin.escape_ascii(), if more.is_empty() { "" } else { "..." })
}

/// Writes the text form: what [`parse_text`] reads as the same.
pub fn to_text(transaction: &Transaction) -> String {
    let mut text = String::new();
    if let Some(token) = &transaction.token {
        text.push_str(&format!("token {}\n", quoted(token)));
    }
    for item in &transaction.items {
        let key = match item.key.is_plain() {
            true => quoted(item.key.bytes()),
            false => format!("\"{}\"", item.key.to_string().replace('"', "\\\"")),
        };
        text.push_str(&match &item.action {
            Action::Check => format!("check {key}"),
            Action::Read => format!("read {key}"),
            Action::Put(value) => format!("put {key} {}", quoted(value)),
            Action::Delete => format!("delete {key}"),
            Action::Increment(by) => format!("incr {key} {by}"),
        });
        text.push_str(&match &item.condition {
            Condition::None => String::new(),
            Condition::Value(value) => format!(" if value {}", quoted(value)),
            Condition::Version(version) => format!(" if version {}", version.0),
            Condition::Absent => " if absent".into(),
            Condition::Present => " if present".into(),
        });
        text.push('\n');
    }
    text
}

/// A word, quoted if it must be.
fn quoted(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/_-.:+=@,".contains(byte);
    match core::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(plain) => text.to_owned(),
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}

/// Reads the JSON form.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse_json(input: &[u8]) -> Result<Transaction, ParseError> {
    let list = input.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let document = match list {
        true => serde_json::from_slice(input).map(|items| Document { items: Some(items), ..Document::default() }),
        false => serde_json::from_slice(input),
    };
    let document: Document = document.map_err(|error| {
        let said = error.to_string();
        // Its place stands in our own words.
        let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what).to_owned();
        ParseError { line: error.line().max(1), column: error.column().max(1), what }
    })?;
    let shape = |what: &str| ParseError { line: 1, column: 1, what: what.into() };
    let (items, token) = match document {
        Document { transact: None, items: Some(items), token } => (items, token),
        Document { transact: Some(Inner { items, token }), items: None, token: None } => (items, token),
        Document { transact: Some(_), .. } => return Err(shape("nothing was expected beside `transact`")),
        Document { transact: None, items: None, .. } => return Err(shape("missing field `items`")),
    };
    let mut read = Vec::with_capacity(items.0.len());
    for (number, item) in items.0.into_iter().enumerate() {
        if item.action == JsonAction::Check && item.condition.is_none() {
            return Err(shape(&format!("`items[{number}]` is a check without a condition; expected `if`")));
        }
        read.push(item.into());
    }
    Ok(Transaction { items: read, token: token.map(|Text(token)| token) })
}

/// Writes the JSON form: what [`parse_json`] reads as the same.
pub fn to_json(transaction: &Transaction) -> String {
    let items = Items(transaction.items.iter().map(JsonItem::from).collect());
    let inner = Inner { items, token: transaction.token.clone().map(Text) };
    serde_json::to_string(&inner).expect("plain data")
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    transact: Option<Inner>,
    items: Option<Items>,
    token: Option<Text>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    items: Items,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Text>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Items(Vec<JsonItem>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Items, D::Error> {
        struct Limited;
        impl<'de> Visitor<'de> for Limited {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of operations")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() >= TRANSACTION_ITEMS_MAX {
                        return Err(de::Error::custom(too_many()));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Limited)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonItem {
    key: JsonKey,
    action: JsonAction,
    #[serde(rename = "if", default, skip_serializing_if = "Option::is_none")]
    condition: Option<JsonCondition>,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JsonAction {
    Check,
    Read,
    Put(Text),
    Delete,
    Increment(i64),
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JsonCondition {
    Value(Text),
    Version(u64),
    Absent,
    Present,
}

impl From<JsonItem> for Operation {
    fn from(item: JsonItem) -> Operation {
        let action = match item.action {
            JsonAction::Check => Action::Check,
            JsonAction::Read => Action::Read,
            JsonAction::Put(Text(value)) => Action::Put(value),
            JsonAction::Delete => Action::Delete,
            JsonAction::Increment(by) => Action::Increment(by),
        };
        let condition = match item.condition {
            None => Condition::None,
            Some(JsonCondition::Value(Text(value))) => Condition::Value(value),
            Some(JsonCondition::Version(version)) => Condition::Version(Version(version)),
            Some(JsonCondition::Absent) => Condition::Absent,
            Some(JsonCondition::Present) => Condition::Present,
        };
        Operation { key: item.key.0, action, condition }
    }
}

impl From<&Operation> for JsonItem {
    fn from(item: &Operation) -> JsonItem {
        let action = match &item.action {
            Action::Check => JsonAction::Check,
            Action::Read => JsonAction::Read,
            Action::Put(value) => JsonAction::Put(Text(value.clone())),
            Action::Delete => JsonAction::Delete,
            Action::Increment(by) => JsonAction::Increment(*by),
        };
        let condition = match &item.condition {
            Condition::None => None,
            Condition::Value(value) => Some(JsonCondition::Value(Text(value.clone()))),
            Condition::Version(version) => Some(JsonCondition::Version(version.0)),
            Condition::Absent => Some(JsonCondition::Absent),
            Condition::Present => Some(JsonCondition::Present),
        };
        JsonItem { key: JsonKey(item.key.clone()), action, condition }
    }
}

/// A plain key: its bytes, as [`Text`]. Another: `{"table": 7, "partition": "user", "sort": "2024"}`, without the table if it is
/// 0, and without the sort key if there is none.
struct JsonKey(Key);

impl Serialize for JsonKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonKey, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Parts {
            hex: Option<String>,
            #[serde(default)]
            table: u32,
            partition: Option<Text>,
            sort: Option<Text>,
        }
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = JsonKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"hex\": \"00ff\"} or {\"table\": 7, \"partition\": \"user\", \"sort\": \"2024\"}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<JsonKey, E> {
                Ok(JsonKey(Key::from(text.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JsonKey, A::Error> {
                match Parts::deserialize(de::value::MapAccessDeserializer::new(map))? {
                    Parts { hex: Some(hex), table: 0, partition: None, sort: None } => {
                        unhex(&hex).map(|bytes| JsonKey(Key::from(bytes)))
                    }
                    Parts { hex: None, table, partition: Some(Text(partition)), sort } => {
                        Ok(JsonKey(Key::new(table, &partition, sort.as_ref().map(|Text(sort)| &sort[..]))))
                    }
                    _ => Err(de::Error::custom("a key has either `hex` or `partition`")),
                }
            }
        }
        deserializer.deserialize_any(Form)
    }
}

fn unhex<E: de::Error>(hex: &str) -> Result<Bytes, E> {
    let wrong = || de::Error::invalid_value(de::Unexpected::Str(hex), &"pairs of hex digits");
    let digits: Option<Vec<u32>> = hex.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2)).ok_or_else(wrong)?;
    Ok(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

/// Bytes: a string if they are UTF-8, else `{"hex": "00ff"}`.
#[derive(PartialEq)]
struct Text(Bytes);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hex {
    hex: String,
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match core::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Hex { hex: self.0.iter().map(|byte| format!("{byte:02x}")).collect() }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"hex\": \"00ff\"}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Bytes::copy_from_slice(text.as_bytes())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Text, A::Error> {
                let Hex { hex } = Hex::deserialize(de::value::MapAccessDeserializer::new(map))?;
                unhex(&hex).map(Text)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of the module's documentation, but for its comment.
    fn example() -> Transaction {
        Transaction {
            items: vec![
                Operation::increment("account/alice", -5).only_if(Condition::Version(Version(12))),
                Operation::increment("account/bob", 5).only_if(Condition::Present),
                Operation::check("limits/alice", Condition::Value("up to 100".into())),
                Operation::put("log/move 17", "5 from alice to bob").only_if(Condition::Absent),
                Operation::delete("request/17"),
            ],
            token: Some("move-17".into()),
        }
    }

    #[test]
    fn the_documented_examples_are_read() {
        let blocks: Vec<String> = include_str!("transaction_text.rs")
            .split("//! ```")
            .skip(1)
            .step_by(2)
            .map(|block| block.lines().skip(1).map(|line| format!("{}\n", line.trim_start_matches("//!"))).collect())
            .collect();
        assert_eq!(parse(blocks[0].as_bytes()), Ok(example()));
        let json = parse(blocks[1].as_bytes()).unwrap();
        assert_eq!((json.items.len(), json.token), (5, Some("move-17".into())));
        assert_eq!(json.items[2], Operation::put(&[0_u8, 255][..], "text").only_if(Condition::Absent));
    }

    #[test]
    fn words_comments_and_escapes() {
        let items = |text: &str| parse(text.as_bytes()).unwrap().items;
        assert_eq!(items("  read a # b\r\n\n#read c\nread d#e"), [Operation::read("a"), Operation::read("d#e")]);
    }

    #[test]
    fn quotes() {
        let item = |text: &str| parse(text.as_bytes()).unwrap().items.remove(0);
        assert_eq!(item(r#"put "a\"b #" 'c\n'"#), Operation::put("a\"b #", "c\\n"));
        assert_eq!(item(r"put a\ b \xff\n\#"), Operation::put("a b", &b"\xff\n#"[..]));
        assert_eq!(item(r#"put a"b c"d """#), Operation::put("ab cd", ""));
        assert_eq!(item("put if if if value if"), Operation::put("if", "if").only_if(Condition::Value("if".into())));
        assert_eq!(item("incr n if absent"), Operation::increment("n", 1).only_if(Condition::Absent));
        assert_eq!(parse_text(b"put \xfe \xff").unwrap().items, [Operation::put(&b"\xfe"[..], &b"\xff"[..])]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let many: String = (0..101).map(|n| format!("read {n}\n")).collect();
        let many_json = format!("[{}]", ["{\"key\":\"a\",\"action\":\"read\"}"; 101].join(","));
        let cases = [
            ("put a b\nput", 2, 4, "expected a key"),
            ("put a", 1, 6, "expected a value"),
            ("set a b", 1, 1, "expected put, delete, incr, check, read or token"),
            ("put a b when absent", 1, 9, "expected `if`"),
            ("put a b if", 1, 11, "absent, present, version N or value VALUE"),
            ("put a b if newer", 1, 12, "no such condition: `newer`"),
            ("put a b if version x", 1, 20, "a whole number"),
            ("put a b if absent c", 1, 19, "nothing more"),
            ("incr a 1.5", 1, 8, "a whole number of 64 bits"),
            ("incr a 9223372036854775808", 1, 8, "a whole number of 64 bits"),
            ("check a", 1, 8, "a check needs a condition"),
            ("put a 'b", 1, 7, "before this ' is closed"),
            ("put a \\q", 1, 7, "no such escape"),
            ("put a \\x1", 1, 7, "no such escape"),
            ("token a\ntoken a", 2, 1, "a token already"),
            ("token", 1, 6, "the token"),
            ("token a b", 1, 9, "nothing more"),
            (&many, 101, 1, "at most 100"),
            ("{\"items\": [}", 1, 12, "expected value"),
            ("{}", 1, 1, "missing field `items`"),
            ("{\"item\": []}", 1, 7, "unknown field `item`"),
            ("[{\"key\":\"a\"}]", 1, 12, "missing field `action`"),
            ("[{\"key\":\"a\",\"action\":\"put\"}]", 1, 0, "expected"),
            ("[{\"key\":\"a\",\"action\":{\"append\":\"x\"}}]", 1, 30, "unknown variant `append`"),
            ("[{\"key\":\"a\",\"action\":\"read\",\"if\":\"newer\"}]", 1, 0, "unknown variant `newer`"),
            ("[{\"key\":7,\"action\":\"read\"}]", 1, 9, "expected a string or {\"hex\""),
            ("[{\"key\":{\"hex\":\"0\"},\"action\":\"read\"}]", 1, 0, "pairs of hex digits"),
            ("[{\"key\":\"a\",\"key\":\"b\",\"action\":\"read\"}]", 1, 0, "duplicate field `key`"),
            ("[{\"key\":\"a\",\"action\":\"check\"}]", 1, 1, "`items[0]` is a check without a condition"),
            ("{\"transact\":{\"items\":[]},\"token\":\"x\"}", 1, 1, "beside `transact`"),
            (&many_json, 1, 0, "at most 100"),
        ];
        for (text, line, column, what) in cases {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(error.what.contains(what), "{text:?}: {error}");
            // The columns of JSON's errors are serde's affair: 0 where they say nothing of use.
            assert_eq!((error.line, if column == 0 { 0 } else { error.column }), (line, column), "{text:?}: {error}");
        }
        assert!(parse(b"").unwrap().validate().is_err() && parse(b"[]").unwrap().validate().is_err());
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from),
            "[a-z #'\"\\\\\n{}]{0,6}".prop_map(Bytes::from),
        ]
    }

    fn key() -> impl Strategy<Value = Key> {
        let parts = (0..3_u32, bytes(), proptest::option::of(bytes()));
        prop_oneof![
            bytes().prop_map(Key::from),
            parts.prop_map(|(table, partition_key, sort_key)| Key::new(table, &partition_key, sort_key.as_deref())),
        ]
    }

    fn item() -> impl Strategy<Value = Operation> {
        let action = prop_oneof![
            Just(Action::Check),
            Just(Action::Read),
            bytes().prop_map(Action::Put),
            Just(Action::Delete),
            any::<i64>().prop_map(Action::Increment),
        ];
        let condition = prop_oneof![
            Just(Condition::None),
            bytes().prop_map(Condition::Value),
            any::<u64>().prop_map(|version| Condition::Version(Version(version))),
            Just(Condition::Absent),
            Just(Condition::Present),
        ];
        (key(), action, condition).prop_map(|(key, action, condition)| match (&action, &condition) {
            (Action::Check, Condition::None) => Operation::check(key, Condition::Present),
            _ => Operation { key, action, condition },
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            items in proptest::collection::vec(item(), 0..8),
            token in proptest::option::of(bytes()),
        ) {
            let transaction = Transaction { items, token };
            prop_assert_eq!(parse_text(to_text(&transaction).as_bytes()), Ok(transaction.clone()));
            prop_assert_eq!(parse(to_json(&transaction).as_bytes()), Ok(transaction.clone()));
        }

        #[test]
        fn any_bytes_are_read_or_refused(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&input);
        }
    }
}
