//! Reads settings from a TOML file, each with the line that it stands on.
//!
//! A value may be written as a string or, where it is a number, as an integer: both are read as the same text that a flag would
//! have. `peers` may also be a table (`[peers]`, then `1 = "host:port"`) or a list (`["1=host:port", ...]`).

use super::{ConfigError, Problem, SetBy};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// A setting as the file has it.
#[derive(Debug)]
pub struct FileEntry {
    pub name: String,
    pub text: String,
    pub set_by: SetBy,
}

/// Every setting in `file`, known or not, in order of line.
pub fn read(file: &Path) -> Result<Vec<FileEntry>, Vec<ConfigError>> {
    let unreadable =
        |why: String| vec![ConfigError { name: None, set_by: SetBy::File(file.into(), None), problem: Problem::Unreadable(why) }];
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
    parse(file, &text)
}

fn parse(file: &Path, text: &str) -> Result<Vec<FileEntry>, Vec<ConfigError>> {
    let at = |offset: usize| SetBy::File(file.into(), Some(line_of(text, offset)));
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let error = |e: toml::de::Error| ConfigError {
            name: None,
            set_by: at(e.span().map_or(0, |span| span.start)),
            problem: Problem::Syntax(e.message().to_owned()),
        };
        return Err(errors.into_iter().map(error).collect());
    }
    let mut entries = Vec::new();
    let mut wrong = Vec::new();
    for (key, value) in table.get_ref() {
        let name = key.get_ref().to_string();
        let set_by = at(key.span().start);
        match text_of(value.get_ref()) {
            Some(text) => entries.push((key.span().start, FileEntry { name, text, set_by })),
            None => {
                let shown = format!("a {}", value.get_ref().type_str());
                wrong.push(ConfigError { name: Some(name), set_by, problem: Problem::Value(shown) });
            }
        }
    }
    entries.sort_by_key(|(offset, _)| *offset);
    if wrong.is_empty() { Ok(entries.into_iter().map(|(_, entry)| entry).collect()) } else { Err(wrong) }
}

/// The text that a flag would have; `None` for a kind that no setting has.
fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string()),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
            Some(texts?.join(","))
        }
        DeValue::Table(table) => {
            let pair = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| -> Option<String> {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                Some(format!("{key}={}", value.get_ref().as_str()?))
            };
            Some(table.iter().map(pair).collect::<Option<Vec<_>>>()?.join(","))
        }
        DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => None,
    }
}

/// From 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String, String)> {
        let entries = parse(Path::new("a.toml"), text).unwrap();
        entries.into_iter().map(|e| (e.name, e.text, e.set_by.to_string())).collect()
    }

    #[test]
    fn values_read_as_the_text_of_a_flag() {
        let text =
            "node = 2\n\nlisten = \"a:1\"\npartitions = 0x10\nsegment_size = \"64MiB\"\n\n[peers]\n1 = \"a:1\"\n2 = \"b:2\"\n";
        let read = pairs(text);
        let expected = [
            ("node", "2", "a.toml:1"),
            ("listen", "a:1", "a.toml:3"),
            ("partitions", "16", "a.toml:4"),
            ("segment_size", "64MiB", "a.toml:5"),
            ("peers", "1=a:1,2=b:2", "a.toml:7"),
        ];
        assert_eq!(read.len(), expected.len());
        for (read, (name, text, set_by)) in read.iter().zip(expected) {
            assert_eq!((read.0.as_str(), read.1.as_str(), read.2.as_str()), (name, text, set_by));
        }
        assert_eq!(pairs("peers = [\"1=a:1\", \"2=b:2\"]")[0].1, "1=a:1,2=b:2");
    }

    #[test]
    fn what_cannot_be_read_is_placed() {
        let wrong = |text| parse(Path::new("a.toml"), text).unwrap_err()[0].to_string();
        assert!(wrong("node = 1\nlisten = \n").starts_with("a.toml:2: "), "{}", wrong("node = 1\nlisten = \n"));
        assert_eq!(
            wrong("\nweight = 1.5\n"),
            "a.toml:2: a float is no value for `weight`: expected a whole number from 1 to 1000"
        );
        assert!(wrong("node = 1\nnode = 2\n").contains("a.toml:2"), "{}", wrong("node = 1\nnode = 2\n"));
    }
}
