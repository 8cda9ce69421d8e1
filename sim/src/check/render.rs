//! Operations as a person reads them.

use ringseed::base::{Key, Time};
use ringseed::history::{Action, Condition, Failure, FailureReason, ItemAction, ItemResult, Outcome, Record, TransactionItem};
use std::fmt::Write;

/// One line: which process, when, what, and what came of it.
pub(super) fn record(record: &Record) -> String {
    let mut line = format!("process {} {}..", record.process, Time(record.start));
    match record.end {
        Some(end) => write!(line, "{}", Time(end)),
        None => write!(line, "?"),
    }
    .expect("writing into memory");
    write!(line, " {} -> {}", action(&record.action), outcome(&record.outcome)).expect("writing into memory");
    line
}

/// The records in order of their start, each once, one a line behind a line break; of many only the last ones.
pub(super) fn records<'a>(all: impl IntoIterator<Item = &'a Record>) -> String {
    const SHOWN_MAX: usize = 24;
    let mut all: Vec<&Record> = all.into_iter().collect();
    all.sort_by_key(|r| (r.start, r.end, r.process));
    all.dedup_by(|a, b| std::ptr::eq(*a, *b));
    let hidden = all.len().saturating_sub(SHOWN_MAX);
    let mut text = if hidden > 0 { format!("\n  ({hidden} earlier ones)") } else { String::new() };
    for one in &all[hidden..] {
        text.push_str("\n  ");
        text.push_str(&record(one));
    }
    text
}

/// What was asked.
pub(crate) fn action(action: &Action) -> String {
    let name = |key: &Key| key.to_string();
    match action {
        Action::Get { key, eventual } => format!("get {}{}", name(key), if *eventual { " eventual" } else { "" }),
        Action::Put { key, value, condition, .. } => format!("put {} = {value}{}", name(key), self::condition(condition)),
        Action::Delete { key, condition, .. } => format!("delete {}{}", name(key), self::condition(condition)),
        Action::Increment { key, by, .. } => format!("increment {} by {by}", name(key)),
        Action::Scan { prefix, from, limit, eventual } => {
            format!(
                "scan prefix \"{}\" from \"{}\" limit {limit}{}",
                name(prefix),
                name(from),
                if *eventual { " eventual" } else { "" }
            )
        }
        Action::GetMany { keys } => format!("get many {}", joined(keys.iter().map(name))),
        Action::Transact { items, token } => {
            let token = token.as_ref().map_or(String::new(), |token| format!(" token \"{}\"", token.0.escape_ascii()));
            format!("transact{token} [{}]", joined(items.iter().map(item)))
        }
    }
}

fn item(item: &TransactionItem) -> String {
    let key = &item.key;
    let what = match &item.action {
        ItemAction::Check => format!("check {key}"),
        ItemAction::Read => format!("read {key}"),
        ItemAction::Put(value) => format!("put {key} = {value}"),
        ItemAction::Delete => format!("delete {key}"),
        ItemAction::Increment(by) => format!("increment {key} by {by}"),
    };
    what + &condition(&item.condition)
}

fn result(result: &ItemResult) -> String {
    match (&result.value, result.number) {
        (Some(value), _) => format!("{value} v{}", result.version),
        (None, Some(number)) => format!("{number} v{}", result.version),
        (None, None) => format!("v{}", result.version),
    }
}

fn failure(failure: &Failure) -> String {
    match failure.reason {
        FailureReason::Condition { version, present } => {
            format!("item {}: {} v{version}", failure.item, if present { "present" } else { "absent" })
        }
        FailureReason::Conflict => format!("item {}: conflict", failure.item),
        FailureReason::NotANumber => format!("item {}: not a number", failure.item),
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn condition(condition: &Condition) -> String {
    match condition {
        Condition::None => String::new(),
        Condition::Value(value) => format!(" if {value}"),
        Condition::Version(version) => format!(" if v{version}"),
        Condition::Absent => " if absent".into(),
        Condition::Present => " if present".into(),
    }
}

/// What was told.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Value { value: Some(value), version } => format!("{value} v{version}"),
        Outcome::Value { value: None, version } => format!("absent v{version}"),
        Outcome::Written { version, number: Some(number) } => format!("done v{version}, {number}"),
        Outcome::Written { version, number: None } => format!("done v{version}"),
        Outcome::ConditionFailed { version, present } => {
            format!("condition failed, {} v{version}", if *present { "present" } else { "absent" })
        }
        Outcome::Scanned { items, read_at, .. } => format!("{} items, read at {read_at:?}", items.len()),
        Outcome::Values { items } => format!("[{}]", joined(items.iter().map(result))),
        Outcome::Transacted { results } => format!("committed [{}]", joined(results.iter().map(result))),
        Outcome::NotCommitted { failures } => format!("not committed, {}", joined(failures.iter().map(failure))),
        Outcome::Rejected { reason } => format!("rejected: {reason}"),
        Outcome::Unknown { reason } => format!("unknown: {reason}"),
    }
}
