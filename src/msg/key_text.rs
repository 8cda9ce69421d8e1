//! Keys as text: how a key is shown wherever it is printed, and read wherever one is taken. What is shown is read as the same key, whatever its bytes.
//!
//! | in the text | stands for |
//! |---|---|
//! | `\n`, `\r`, `\t` | line feed, carriage return, tab |
//! | `\\` | a backslash |
//! | `\xff` | any byte, by two hex digits |
//! | everything else | itself, in UTF-8 |
//!
//! Shown are escaped: backslashes, control characters, and bytes that are no UTF-8. Nothing else: `user/ä b` is shown as it is. Read is every text of this form, also where
//! it escapes more than it must. A backslash before anything else is an error, never taken as it stands: a key that is misread would be another key.
//!
//! Bytes that are no UTF-8 are read as they are, so that a key may also be given byte for byte, but for its backslashes.

use bytes::Bytes;

/// A key, on one line.
pub fn show(key: &[u8]) -> String {
    let mut shown = String::with_capacity(key.len());
    for chunk in key.utf8_chunks() {
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

/// The key that a text stands for.
///
/// # Errors
/// What is wrong with the first escape that is none.
pub fn read(text: &[u8]) -> Result<Bytes, String> {
    let mut key = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if text[at] != b'\\' {
            key.push(text[at]);
            at += 1;
            continue;
        }
        let Some((byte, length)) = escape(&text[at..]) else {
            let wrong = &text[at..text.len().min(at + 2)];
            return Err(format!(
                "`{}` is no escape in a key; there are \\n, \\r, \\t, \\x and two hex digits, and \\\\ for a backslash",
                String::from_utf8_lossy(wrong)
            ));
        };
        key.push(byte);
        at += length;
    }
    Ok(key.into())
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
            (b"", ""),
        ];
        for (key, text) in shown {
            assert_eq!(show(key), text);
            assert_eq!(read(text.as_bytes()).as_deref(), Ok(key));
        }
    }

    #[test]
    fn more_may_be_escaped_than_must_be_and_nothing_is_guessed() {
        assert_eq!(read(b"\\x61\\x2Fb").as_deref(), Ok(&b"a/b"[..]));
        assert_eq!(read(b"\xff").as_deref(), Ok(&b"\xff"[..]));
        for wrong in ["\\", "a\\", "\\q", "\\x", "\\x1", "\\xg0", "a\\ b", "\\0", "C:\\dir"] {
            let error = read(wrong.as_bytes()).expect_err(wrong);
            assert!(error.contains("no escape") && error.contains("\\\\"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same_key(key in proptest::collection::vec(any::<u8>(), 0..40)) {
            let shown = show(&key);
            prop_assert!(!shown.chars().any(char::is_control), "{shown:?}");
            prop_assert_eq!(read(shown.as_bytes()), Ok(Bytes::from(key)));
        }

        #[test]
        fn text_is_read_or_refused(text in "(\\\\[nrtx0-9a-f\\\\]{0,3}|[a-zé]){0,8}") {
            if let Ok(key) = read(text.as_bytes()) {
                prop_assert_eq!(read(show(&key).as_bytes()), Ok(key));
            }
        }
    }
}
