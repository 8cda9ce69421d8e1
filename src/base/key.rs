//! The key of an item: a table, a partition key, and perhaps a sort key. Items that differ in the sort key alone have one token,
//! and so live in one partition.
//!
//! A *plain* key is of table 0 and has no sort key: the keys of `put`, `get` and the other commands, unless they say more.
//!
//! # As text
//!
//! How a key is shown wherever it is printed, and read wherever one is taken. What is shown is read as the same key, whatever its
//! bytes.
//!
//! | in the text | stands for |
//! |---|---|
//! | `\{7}` at the beginning | the key is of table 7 (else of table 0) |
//! | `\|` | the partition key ends here, and the sort key begins |
//! | `\n`, `\r`, `\t` | line feed, carriage return, tab |
//! | `\\` | a backslash |
//! | `\xff` | any byte, by two hex digits |
//! | everything else | itself, in UTF-8 |
//!
//! So `\{7}user\|2024` has the partition key `user` and the sort key `2024`; a plain key never contains `\{` or `\|`. Shown are
//! escaped: backslashes, control characters, and bytes that are no UTF-8. Nothing else: `user/ä b` is shown as it is. Read is
//! every text of this form, also where it escapes more than it must. A backslash before anything else is an error, never taken as
//! it stands: a key that is misread would be another key.
//!
//! Bytes that are no UTF-8 are read as they are, so that a key may also be given byte for byte, but for its backslashes.

use super::{PartitionId, Token, hash};
use bytes::Bytes;
use core::cmp::Ordering;
use core::fmt;

/// A key. Order: by table, then partition key, then sort key; no sort key comes before any.
///
/// It may be of any length, and empty: a scan's prefix is one, too. Whether an item may have it is for
/// [`crate::msg::operation::validate_key`].
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Key {
    /// The partition key, and behind it the sort key.
    bytes: Bytes,
    table: u32,
    /// Where the sort key begins in `bytes`, but one more; 0: there is none.
    sort_at: u32,
}

impl Key {
    /// A copy of these parts. No sort key is not the same as an empty one.
    pub fn new(table: u32, partition_key: &[u8], sort_key: Option<&[u8]>) -> Key {
        let bytes = [partition_key, sort_key.unwrap_or_default()].concat();
        let sort_at = sort_key.map_or(0, |_| partition_key.len() as u32 + 1);
        Key { bytes: bytes.into(), table, sort_at }
    }

    /// Of a partition key with a sort key behind it, which begins at `sort_at`, if there is one. `None`: it would begin behind
    /// the end.
    pub fn of_parts(table: u32, bytes: Bytes, sort_at: Option<u32>) -> Option<Key> {
        match sort_at {
            None => Some(Key { bytes, table, sort_at: 0 }),
            Some(at) if at as usize <= bytes.len() => Some(Key { bytes, table, sort_at: at + 1 }),
            Some(_) => None,
        }
    }

    pub fn table(&self) -> u32 {
        self.table
    }

    pub fn partition_key(&self) -> &[u8] {
        match self.sort_at() {
            None => &self.bytes,
            Some(at) => &self.bytes[..at as usize],
        }
    }

    pub fn sort_key(&self) -> Option<&[u8]> {
        self.sort_at().map(|at| &self.bytes[at as usize..])
    }

    /// Where the sort key begins in [`Key::bytes`]; `None`: there is none.
    pub fn sort_at(&self) -> Option<u32> {
        self.sort_at.checked_sub(1)
    }

    /// The partition key, and behind it the sort key.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Whether it is of table 0 and has no sort key.
    pub fn is_plain(&self) -> bool {
        self.table == 0 && self.sort_at == 0
    }

    /// Bytes of partition key and sort key.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The point on the ring: of table and partition key alone. Of a plain key it is the hash of its bytes.
    pub fn token(&self) -> Token {
        hash::token(self.table, self.partition_key())
    }

    /// A checksum of all of it, salted with `salt`. Of a plain key it is that of its bytes.
    pub fn checksum(&self, salt: u64) -> u64 {
        hash::checksum(salt ^ (u64::from(self.table) << 32 | u64::from(self.sort_at)), &self.bytes)
    }

    /// The partition that it is in, among `partitions` equal ones.
    pub fn partition(&self, partitions: u32) -> PartitionId {
        self.token().partition(partitions)
    }

    /// Whether it is one of the keys that `prefix` names: of its table, and its partition key begins with that of `prefix`; if
    /// `prefix` has a sort key, the partition key is the same, and the sort key begins with that of `prefix`. These stand
    /// together in the order of keys, and `prefix` is not behind any.
    pub fn starts_with(&self, prefix: &Key) -> bool {
        let within = match prefix.sort_key() {
            None => self.partition_key().starts_with(prefix.partition_key()),
            Some(begin) => {
                self.partition_key() == prefix.partition_key() && self.sort_key().is_some_and(|key| key.starts_with(begin))
            }
        };
        self.table == prefix.table && within
    }

    /// A copy by itself: a key that came with a message is a slice of its frame, which would live as long as the key.
    #[must_use]
    pub fn owned(&self) -> Key {
        Key { bytes: Bytes::copy_from_slice(&self.bytes), ..*self }
    }

    /// The key that a text stands for.
    ///
    /// # Errors
    /// What is wrong with the first escape that is none.
    pub fn read(text: &[u8]) -> Result<Key, String> {
        let (table, text) = match text.strip_prefix(b"\\{") {
            None => (0, text),
            Some(rest) => read_table(rest).ok_or("`\\{` begins no table; a table is named by its number, as in \\{7}KEY")?,
        };
        let (mut bytes, mut sort_at) = (Vec::with_capacity(text.len()), None);
        let mut at = 0;
        while at < text.len() {
            if text[at] != b'\\' {
                bytes.push(text[at]);
                at += 1;
            } else if let Some((byte, length)) = escape(&text[at..]) {
                bytes.push(byte);
                at += length;
            } else if text.get(at + 1) == Some(&b'|') && sort_at.is_none() {
                sort_at = Some(bytes.len() as u32);
                at += 2;
            } else {
                let wrong = &text[at..text.len().min(at + 2)];
                return Err(format!(
                    "`{}` is no escape in a key; there are \\n, \\r, \\t, \\x and two hex digits, \\\\ for a backslash, one \\| before a sort key, and \\{{N}} before a key of table N",
                    String::from_utf8_lossy(wrong)
                ));
            }
        }
        Ok(Key::of_parts(table, bytes.into(), sort_at).expect("the sort key begins within"))
    }
}

/// The table's number that a text begins with, and what is behind its brace.
pub fn read_table(text: &[u8]) -> Option<(u32, &[u8])> {
    let end = text.iter().position(|byte| *byte == b'}')?;
    let digits = Some(&text[..end]).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    Some((core::str::from_utf8(digits).ok()?.parse().ok()?, &text[end + 1..]))
}

impl Ord for Key {
    #[inline]
    fn cmp(&self, other: &Key) -> Ordering {
        // Nearly all keys are plain; trees of keys compare them all the time.
        if (self.table | other.table | self.sort_at | other.sort_at) == 0 {
            return self.bytes[..].cmp(&other.bytes[..]);
        }
        let by_partition_key = || self.partition_key().cmp(other.partition_key());
        self.table.cmp(&other.table).then_with(by_partition_key).then_with(|| self.sort_key().cmp(&other.sort_key()))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.table != 0 {
            write!(f, "\\{{{}}}", self.table)?;
        }
        f.write_str(&show(self.partition_key()))?;
        self.sort_key().map_or(Ok(()), |sort_key| write!(f, "\\|{}", show(sort_key)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_plain() { self.bytes.fmt(f) } else { write!(f, "\"{self}\"") }
    }
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            /// A plain key.
            impl From<$type> for Key {
                fn from(bytes: $type) -> Key {
                    Key { bytes: bytes.into(), table: 0, sort_at: 0 }
                }
            }
        )*
    };
}

plain!(Bytes, &'static str, &'static [u8], String, Vec<u8>);

/// Bytes on one line, as those of a key are shown.
pub fn show(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' | '\n' | '\r' | '\t' => shown.extend(c.escape_default()),
                c if c.is_control() => c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_hex(&mut shown, byte)),
                c => shown.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| push_hex(&mut shown, *byte));
    }
    shown
}

fn push_hex(shown: &mut String, byte: u8) {
    shown.push_str(&format!("\\x{byte:02x}"));
}

/// The byte that the escape at the beginning of `text` stands for, and the escape's length.
pub fn escape(text: &[u8]) -> Option<(u8, usize)> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16)).map(|digit| digit as u8);
    match text.get(1)? {
        b'n' => Some((b'\n', 2)),
        b'r' => Some((b'\r', 2)),
        b't' => Some((b'\t', 2)),
        b'\\' => Some((b'\\', 2)),
        b'x' => Some((digit(2)? << 4 | digit(3)?, 4)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_shown_on_one_line() {
        let shown = [
            (&b"user/7"[..], "user/7"),
            ("a é\n\t\\".as_bytes(), "a é\\n\\t\\\\"),
            (b"\x00\x1b[2J\xff", "\\x00\\x1b[2J\\xff"),
            ("\u{85}".as_bytes(), "\\xc2\\x85"),
            (b"\\x00", "\\\\x00"),
            (b"{7}a|b", "{7}a|b"),
            (b"\\{7}a\\|b", "\\\\{7}a\\\\|b"),
            (b"", ""),
        ];
        for (key, text) in shown {
            let key = Key::from(key.to_vec());
            assert_eq!(key.to_string(), text);
            assert_eq!(Key::read(text.as_bytes()), Ok(key));
        }
        let parts = [
            (Key::new(7, b"user", Some(b"2024")), "\\{7}user\\|2024"),
            (Key::new(7, b"user", None), "\\{7}user"),
            (Key::new(0, b"user", Some(b"\n")), "user\\|\\n"),
            (Key::new(0, b"user", Some(b"")), "user\\|"),
            (Key::new(u32::MAX, b"", None), "\\{4294967295}"),
            (Key::new(3, b"{7}", Some(b"|")), "\\{3}{7}\\||"),
        ];
        for (key, text) in parts {
            assert_eq!(key.to_string(), text);
            assert_eq!(Key::read(text.as_bytes()), Ok(key));
        }
    }

    #[test]
    fn more_may_be_escaped_than_must_be_and_nothing_is_guessed() {
        assert_eq!(Key::read(b"\\x61\\x2Fb"), Ok(Key::from("a/b")));
        assert_eq!(Key::read(b"\\{0}a"), Ok(Key::from("a")));
        assert_eq!(Key::read(b"\xff"), Ok(Key::from(vec![0xff])));
        for wrong in ["\\", "a\\", "\\q", "\\x", "\\x1", "\\xg0", "a\\ b", "\\0", "C:\\dir", "a\\{7}b", "a\\|b\\|c"] {
            let error = Key::read(wrong.as_bytes()).expect_err(wrong);
            assert!(error.contains("no escape") && error.contains("\\\\"), "{error}");
        }
        for wrong in ["\\{", "\\{}", "\\{x}", "\\{-1}a", "\\{+1}a", "\\{4294967296}a", "\\{7"] {
            assert!(Key::read(wrong.as_bytes()).expect_err(wrong).contains("no table"), "{wrong}");
        }
    }

    #[test]
    fn a_key_takes_little_memory_and_its_bytes_are_shared() {
        assert!(size_of::<Key>() <= 40 && size_of::<Option<Key>>() <= 40);
        let frame = Bytes::from(vec![b'k'; 100]);
        let key = Key::of_parts(1, frame.slice(5..20), Some(7)).expect("within");
        assert_eq!((key.partition_key().len(), key.sort_key().map(<[u8]>::len)), (7, Some(8)));
        assert!(!frame.is_unique());
        let copy = key.owned();
        assert_eq!(copy, key);
        drop(key);
        assert!(frame.is_unique());
        assert_eq!(Key::of_parts(1, frame, Some(101)), None);
    }

    #[test]
    fn tokens_are_of_table_and_partition_key() {
        let token = |table, sort_key: Option<&[u8]>| Key::new(table, b"alpha", sort_key).token();
        assert_eq!(token(0, None), hash::token(0, b"alpha"));
        assert_eq!((token(0, Some(b"x")), token(5, Some(b"x"))), (token(0, None), token(5, None)));
        assert_ne!(token(0, None), token(5, None));
        assert_eq!(Key::from("alpha").partition(64), hash::token(0, b"alpha").partition(64));
    }

    fn any_key() -> impl Strategy<Value = Key> {
        let bytes = || proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\\'), Just(b'|'), Just(b'{'), Just(b'a')], 0..6);
        (0..3_u32, bytes(), proptest::option::of(bytes()))
            .prop_map(|(table, partition_key, sort_key)| Key::new(table, &partition_key, sort_key.as_deref()))
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same_key(key in any_key()) {
            let shown = key.to_string();
            prop_assert!(!shown.chars().any(char::is_control), "{shown:?}");
            prop_assert_eq!(Key::read(shown.as_bytes()), Ok(key));
        }

        #[test]
        fn text_is_read_or_refused(text in "(\\\\\\{[0-9]\\})?(\\\\[nrtx0-9a-f\\\\|{]{0,3}|[a-zé]){0,8}") {
            if let Ok(key) = Key::read(text.as_bytes()) {
                prop_assert_eq!(Key::read(key.to_string().as_bytes()), Ok(key));
            }
        }

        #[test]
        fn the_order_is_of_the_parts_and_a_prefix_names_a_range(mut keys in proptest::collection::vec(any_key(), 1..30), prefix in any_key()) {
            keys.sort();
            let part = |key: &Key| (key.table(), key.partition_key().to_vec(), key.sort_key().map(<[u8]>::to_vec));
            prop_assert!(keys.is_sorted_by_key(part));
            let first = keys.partition_point(|key| *key < prefix);
            let within = keys[first..].iter().take_while(|key| key.starts_with(&prefix)).count();
            prop_assert_eq!(within, keys.iter().filter(|key| key.starts_with(&prefix)).count());
        }
    }
}
