//! What a write comes to, given the item as it is at the head of the log. Pure.

use crate::base::Version;
use crate::msg::client::{Action, Condition, Rejection, ResponseBody};
use crate::msg::transaction::{FailureReason, TransactionAction, TransactionItem};
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
pub enum Verdict {
    /// The value is on the disk, and it matters.
    NeedsValue,
    Write {
        value: Option<Bytes>,
        number: Option<i64>,
    },
    /// Nothing is written; this is the answer.
    Answer(ResponseBody),
}

/// What a transaction's item comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum ItemVerdict {
    NeedsValue,
    Write {
        value: Option<Bytes>,
        number: Option<i64>,
    },
    /// The condition holds, and nothing is to be written.
    Keep,
    Refused(FailureReason),
}

pub fn evaluate(action: &Action, current: &Current) -> Verdict {
    let verdict = match action {
        Action::Get { .. } => {
            return Verdict::Answer(ResponseBody::Rejected(Rejection::Invalid("a read is not evaluated as a write".into())));
        }
        Action::Put { value, condition, .. } => evaluate_put(condition, current, Some(value)),
        Action::Delete { condition, .. } => evaluate_put(condition, current, None),
        Action::Increment { by, .. } => increment(*by, current),
    };
    match verdict {
        ItemVerdict::NeedsValue => Verdict::NeedsValue,
        ItemVerdict::Write { value, number } => Verdict::Write { value, number },
        ItemVerdict::Refused(FailureReason::NotANumber) => Verdict::Answer(ResponseBody::Rejected(Rejection::NotANumber)),
        ItemVerdict::Refused(_) | ItemVerdict::Keep => {
            Verdict::Answer(ResponseBody::ConditionFailed { version: current.version, present: current.present })
        }
    }
}

pub fn evaluate_item(item: &TransactionItem, current: &Current) -> ItemVerdict {
    match &item.action {
        TransactionAction::Put(value) => evaluate_put(&item.condition, current, Some(value)),
        TransactionAction::Delete => evaluate_put(&item.condition, current, None),
        TransactionAction::Check => condition_or(&item.condition, current, |_| ItemVerdict::Keep),
        TransactionAction::Increment(by) => condition_or(&item.condition, current, |current| increment(*by, current)),
        TransactionAction::Read => condition_or(&item.condition, current, |current| match (&current.value, current.present) {
            (None, true) => ItemVerdict::NeedsValue,
            _ => ItemVerdict::Keep,
        }),
    }
}

/// Whether [`evaluate_item`] may say [`ItemVerdict::NeedsValue`].
pub fn may_need_value(item: &TransactionItem) -> bool {
    matches!(item.action, TransactionAction::Read | TransactionAction::Increment(_))
        || matches!(item.condition, Condition::Value(_))
}

fn evaluate_put(condition: &Condition, current: &Current, value: Option<&Bytes>) -> ItemVerdict {
    condition_or(condition, current, |_| ItemVerdict::Write { value: value.cloned(), number: None })
}

/// What `then` says if the condition holds.
fn condition_or(condition: &Condition, current: &Current, then: impl FnOnce(&Current) -> ItemVerdict) -> ItemVerdict {
    let holds = match condition {
        Condition::None => true,
        Condition::Version(version) => current.present && current.version == *version,
        Condition::Absent => !current.present,
        Condition::Present => current.present,
        Condition::Value(expected) => match (&current.value, current.present) {
            (Some(value), true) => value == expected,
            (None, true) => return ItemVerdict::NeedsValue,
            (_, false) => false,
        },
    };
    match holds {
        true => then(current),
        false => ItemVerdict::Refused(FailureReason::Condition { version: current.version, present: current.present }),
    }
}

fn increment(by: i64, current: &Current) -> ItemVerdict {
    let number = match (&current.value, current.present) {
        (_, false) => Some(0),
        (None, true) => return ItemVerdict::NeedsValue,
        (Some(value), true) => parse_number(value),
    };
    match number.and_then(|number| number.checked_add(by)) {
        Some(sum) => ItemVerdict::Write { value: Some(Bytes::from(sum.to_string())), number: Some(sum) },
        None => ItemVerdict::Refused(FailureReason::NotANumber),
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
    use crate::msg::client::Acknowledge;

    fn current(value: Option<&'static str>, present: bool) -> Current {
        Current { version: Version(7), present, value: value.map(Bytes::from) }
    }

    fn put(condition: Condition) -> Action {
        Action::Put { value: Bytes::from("new"), condition, acknowledge: Acknowledge::Quorum }
    }

    fn writes(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Write { .. })
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
            assert_eq!(evaluate(&put(condition), &cold) == Verdict::NeedsValue, needs);
        }
    }

    #[test]
    fn increments_count_absence_as_zero_and_refuse_what_is_no_number() {
        let add = |by, current: &Current| evaluate(&Action::Increment { by, acknowledge: Acknowledge::Quorum }, current);
        let sum = |text: &str, number| Verdict::Write { value: Some(Bytes::from(text.to_string())), number: Some(number) };
        assert_eq!(add(5, &current(None, false)), sum("5", 5));
        assert_eq!(add(-5, &current(Some("3"), true)), sum("-2", -2));
        for wrong in ["", "x", " 1", "+1", "1_000", "9223372036854775807"] {
            assert_eq!(
                add(1, &current(Some(wrong), true)),
                Verdict::Answer(ResponseBody::Rejected(Rejection::NotANumber)),
                "{wrong}"
            );
        }
        assert_eq!(add(1, &current(None, true)), Verdict::NeedsValue);
    }
}
