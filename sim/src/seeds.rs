//! SEEDS.md: every seed and plan that found a bug, as a table that a test reads and replays.
//!
//! The file is prose with one table in it, whose header is [`HEADER`]. A row names a seed (a number) or a plan (a file under
//! [`PLANS`]), the commit that fixed what it found, the promise that was broken, and the cause in one sentence. A seed means what
//! it meant only as long as the generator of plans does not change; a plan outlives that.

use std::fmt;

/// The header of the table.
pub const HEADER: &str = "| seed or plan | commit | promise | cause |";

/// Where plans are, from the repository's root.
pub const PLANS: &str = "tests/plans/";

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedLine {
    pub replay: Replay,
    /// The commit that fixed it, abbreviated; 7 to 40 hex digits.
    pub commit: String,
    /// "P1" to "P8".
    pub promise: String,
    pub cause: String,
}

/// What to replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    Seed(u64),
    /// A path from the repository's root.
    Plan(String),
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Replay::Seed(seed) => write!(f, "{seed}"),
            Replay::Plan(path) => write!(f, "{path}"),
        }
    }
}

/// The rows of the table, in their order.
///
/// # Errors
/// There is no table, or a row is malformed: which line of the file, and what is wrong.
pub fn parse(text: &str) -> Result<Vec<SeedLine>, String> {
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())).skip_while(|(_, line)| *line != HEADER);
    lines.next().ok_or_else(|| format!("no table with the header {HEADER}"))?;
    let (at, rule) = lines.next().ok_or("the table ends behind its header")?;
    if !rule.starts_with('|') || rule.chars().any(|c| !matches!(c, '|' | '-' | ':' | ' ')) {
        return Err(format!("line {at}: the table's rule (|---|) was expected"));
    }
    lines
        .take_while(|(_, line)| line.starts_with('|'))
        .map(|(at, line)| row(line).map_err(|e| format!("line {at}: {e}")))
        .collect()
}

fn row(line: &str) -> Result<SeedLine, String> {
    let inner = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')).ok_or("a row begins and ends with |")?;
    let cells: Vec<&str> = inner.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
    let [replay, commit, promise, cause] = cells[..] else { return Err(format!("{} cells; 4 were expected", cells.len())) };
    let replay = match replay.parse() {
        Ok(seed) => Replay::Seed(seed),
        Err(_) if replay.starts_with(PLANS) && !replay.contains("..") => Replay::Plan(replay.to_owned()),
        Err(_) => return Err(format!("{replay:?} is neither a seed (a number) nor a file under {PLANS}")),
    };
    if !(7..=40).contains(&commit.len()) || !commit.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(format!("{commit:?} is not a commit (7 to 40 hex digits)"));
    }
    if !matches!(promise.as_bytes(), [b'P', b'1'..=b'8']) {
        return Err(format!("{promise:?} is not a promise (P1 to P8)"));
    }
    if cause.is_empty() {
        return Err("the cause is missing".into());
    }
    Ok(SeedLine { replay, commit: commit.to_owned(), promise: promise.to_owned(), cause: cause.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &str) -> String {
        format!("# Seeds\n\nText.\n\n{HEADER}\n|---|---|---|---|\n{rows}\n\nMore text.\n")
    }

    #[test]
    fn rows_are_read() {
        let read =
            parse(&table("| 42 | `3145871` | P1 | A cause. |\n| tests/plans/a.json | 3145871abc | P8 | Another. |")).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].replay, Replay::Seed(42));
        assert_eq!(read[1].replay, Replay::Plan("tests/plans/a.json".into()));
        assert_eq!(read[1].promise, "P8");
        assert_eq!(parse(&table("")).unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (rows, part) in [
            ("| x | 3145871 | P1 | c |", "neither"),
            ("| tests/plans/../x | 3145871 | P1 | c |", "neither"),
            ("| 1 | 314 | P1 | c |", "commit"),
            ("| 1 | 3145871 | P9 | c |", "promise"),
            ("| 1 | 3145871 | P1 |", "cells"),
            ("| 1 | 3145871 | P1 | |", "cause"),
        ] {
            let error = parse(&table(rows)).unwrap_err();
            assert!(error.contains(part) && error.starts_with("line 7"), "{error}");
        }
        assert!(parse("nothing").is_err());
    }
}
