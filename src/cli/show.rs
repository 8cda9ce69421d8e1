//! How bytes, spans of time and amounts are shown, to people and in JSON.
//!
//! In JSON, bytes are a string when they are valid UTF-8, else `{"hex": "00ff"}`: the same forms as in a history file. To people,
//! a value that stands alone is written as it is, byte for byte. A key, and a value in a table or a list, where a line break
//! would mislead, is written as [`key`] says (`\n`, `\xff`, `\\`). In JSON a key is there in both forms.

use crate::base::{Duration, Key, key};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};
use std::io::{self, Write};

/// Bytes as JSON.
pub fn json_bytes(bytes: &[u8]) -> Value {
    match core::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// A key as JSON, as a history has it.
pub fn json_key(key: &Key) -> Value {
    serde_json::to_value(key).expect("a key is JSON")
}

/// A value on one line, as a key is shown.
pub fn escaped(value: &[u8]) -> String {
    key::show(value)
}

/// A key in JSON: exactly, and as text, in the form in which commands take it.
pub fn put_key(object: &mut Value, key: &Key) {
    object["key"] = json_key(key);
    object["key_text"] = key.to_string().into();
}

/// A word for a shell, the system's or ours.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// `3d 4h`, `4h 5m`, `5m 6s`, `6.7s` or `89ms`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `1.5 MiB`.
pub fn amount(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// A table without lines but under its head: it reads well, and `awk` reads it too.
pub fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.to_vec());
    table
}

/// Writes a table, without the blanks that pad its lines.
pub fn print(table: &Table) -> io::Result<()> {
    print_to(&mut io::stdout().lock(), table)
}

pub fn print_to(out: &mut impl Write, table: &Table) -> io::Result<()> {
    table
        .to_string()
        .lines()
        .try_for_each(|line| writeln!(out, "{}", line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_hex_in_json() {
        assert_eq!(json_bytes("é".as_bytes()), json!("é"));
        assert_eq!(json_bytes(b"\x00\xff"), json!({ "hex": "00ff" }));
        assert_eq!(json_bytes(b""), json!(""));
    }

    #[test]
    fn spans_and_amounts() {
        let spans = [(89, "89ms"), (6_700, "6.7s"), (306_000, "5m 6s"), (14_700_000, "4h 5m"), (273_600_000, "3d 4h")];
        for (millis, shown) in spans {
            assert_eq!(span(Duration::from_millis(millis)), shown);
        }
        assert_eq!((amount(17).as_str(), amount(1 << 20).as_str()), ("17 B", "1.0 MiB"));
    }
}
