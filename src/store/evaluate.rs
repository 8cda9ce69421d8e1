//! What an operation comes to, given the item as it is at the head of the log. Pure. A single write and an item of a transaction
//! are evaluated by the same function.

use crate::base::Version;
use crate::msg::operation::{Action, Condition, Operation};
use crate::msg::transaction::FailureReason;
use bytes::Bytes;

/// The item at the head of the log.
#[derive(Debug, Clone)]
pub struct Current {
    pub version: Version,
    pub present: bool,
    /// `None` when the item is absent, or its value is on the disk.
    pub value: Option<Bytes>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Evaluated {
    NeedsValue,
    Write {
        value: Option<Bytes>,
        number: Option<i64>,
    },
    /// The condition holds, and nothing is to be written.
    Keep,
    Refused(FailureReason),
}

/// What an operation comes to, alone or as an item of a transaction: it is refused if its condition does not hold.
pub fn evaluate(item: &Operation, current: &Current) -> Evaluated {
    let holds = match &item.condition {
        Condition::None => true,
        Condition::Version(version) => current.present && current.version == *version,
        Condition::Absent => !current.present,
        Condition::Present => current.present,
        Condition::Value(expected) => match (&current.value, current.present) {
            (Some(value), true) => value == expected,
            (None, true) => return Evaluated::NeedsValue,
            (_, false) => false,
        },
    };
    if !holds {
        return Evaluated::Refused(FailureReason::Condition { version: current.version, present: current.present });
    }
    match &item.action {
        Action::Put(value) => Evaluated::Write { value: Some(value.clone()), number: None },
        Action::Delete => Evaluated::Write { value: None, number: None },
        Action::Increment(by) => increment(*by, current),
        Action::Read if current.present && current.value.is_none() => Evaluated::NeedsValue,
        Action::Read | Action::Check => Evaluated::Keep,
    }
}

/// Whether [`evaluate`] may say [`Evaluated::NeedsValue`].
pub fn may_need_value(item: &Operation) -> bool {
    matches!(item.action, Action::Read | Action::Increment(_)) || matches!(item.condition, Condition::Value(_))
}

fn increment(by: i64, current: &Current) -> Evaluated {
    let number = match (&current.value, current.present) {
        (_, false) => Some(0),
        (None, true) => return Evaluated::NeedsValue,
        (Some(value), true) => parse_number(value),
    };
    match number.and_then(|number| number.checked_add(by)) {
        Some(sum) => Evaluated::Write { value: Some(Bytes::from(sum.to_string())), number: Some(sum) },
        None => Evaluated::Refused(FailureReason::NotANumber),
    }
}

/// A decimal number of 64 bits: an optional minus sign and digits, nothing else.
fn parse_number(value: &[u8]) -> Option<i64> {
    if value.first() == Some(&b'+') {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(value: Option<&'static str>, present: bool) -> Current {
        Current { version: Version(7), present, value: value.map(Bytes::from) }
    }

    fn put(condition: Condition) -> Operation {
        Operation::put("k", "new").only_if(condition)
    }

    fn writes(evaluated: &Evaluated) -> bool {
        matches!(evaluated, Evaluated::Write { .. })
    }

    #[test]
    fn conditions_hold_or_not_for_every_state() {
        let there = current(Some("old"), true);
        let cold = current(None, true);
        let gone = current(None, false);
        for (condition, on_there, on_gone) in [
            (Condition::None, true, true),
            (Condition::Version(Version(7)), true, false),
            (Condition::Version(Version(6)), false, false),
            (Condition::Absent, false, true),
            (Condition::Present, true, false),
            (Condition::Value(Bytes::from("old")), true, false),
            (Condition::Value(Bytes::from("other")), false, false),
        ] {
            assert_eq!(writes(&evaluate(&put(condition.clone()), &there)), on_there, "{condition:?}");
            assert_eq!(writes(&evaluate(&put(condition.clone()), &gone)), on_gone, "{condition:?}");
            let needs = matches!(condition, Condition::Value(_));
            assert_eq!(evaluate(&put(condition), &cold) == Evaluated::NeedsValue, needs);
        }
    }

    #[test]
    fn increments_count_absence_as_zero_and_refuse_what_is_no_number() {
        let add = |by, current: &Current| evaluate(&Operation::increment("k", by), current);
        let sum = |text: &str, number| Evaluated::Write { value: Some(Bytes::from(text.to_string())), number: Some(number) };
        assert_eq!(add(5, &current(None, false)), sum("5", 5));
        assert_eq!(add(-5, &current(Some("3"), true)), sum("-2", -2));
        for wrong in ["", "x", " 1", "+1", "1_000", "9223372036854775807"] {
            assert_eq!(add(1, &current(Some(wrong), true)), Evaluated::Refused(FailureReason::NotANumber), "{wrong}");
        }
        assert_eq!(add(1, &current(None, true)), Evaluated::NeedsValue);
    }
}
