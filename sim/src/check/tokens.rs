//! Requests with one idempotency token are one operation: they have one answer and take effect once (P2).
//!
//! So before anything else is judged, all requests of a token with the same contents are made one record: from the start of the
//! first to the first end that came with the answer. That the answers are the same, and that of two contents only one was taken,
//! is judged here.
//!
//! A token is kept for a time only. Where that is shorter than the run, a request that may have come after the end may have been
//! done anew: answers may differ then, and what is unknown may have taken effect by itself as well.
//!
//! A conflict is no answer: the same request may succeed later, from the start of its retry on. A rejected request never takes
//! effect, whatever its fellows do.

use super::{Violation, render};
use bytes::Bytes;
use ringseed::history::{Action, FailureReason, Outcome, Record, TransactionItem};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The history with one record for each token, or for each answer of a token that is kept for so many nanoseconds only.
///
/// # Errors
/// A token was answered in two ways, or taken for two transactions.
pub fn merge(history: &[Record], lifetime: Option<u64>) -> Result<Cow<'_, [Record]>, Violation> {
    let mut tokens: BTreeMap<&Bytes, Vec<usize>> = BTreeMap::new();
    for (at, record) in history.iter().enumerate() {
        if let Action::Transact { token: Some(token), .. } = &record.action {
            tokens.entry(&token.0).or_default().push(at);
        }
    }
    tokens.retain(|_, requests| requests.len() > 1);
    if tokens.is_empty() {
        return Ok(Cow::Borrowed(history));
    }
    let mut merged: Vec<Option<Record>> = history.iter().cloned().map(Some).collect();
    for requests in tokens.values() {
        match lifetime {
            None => merge_one(history, requests, &mut merged)?,
            Some(lifetime) => merge_answers(history, requests, lifetime, &mut merged)?,
        }
    }
    Ok(Cow::Owned(merged.into_iter().flatten().collect()))
}

fn merge_one(history: &[Record], requests: &[usize], merged: &mut [Option<Record>]) -> Result<(), Violation> {
    let answered = |&&at: &&usize| is_answer(&history[at].outcome);
    let answer = requests.iter().filter(answered).min_by_key(|&&at| (history[at].end, at)).map(|&at| &history[at]);
    if let Some(answer) = answer {
        let differs = |&&at: &&usize| history[at].action != answer.action || history[at].outcome != answer.outcome;
        if let Some(&other) = requests.iter().filter(answered).find(differs) {
            let what = "two requests with one token were answered differently";
            let what = format!("{what}{}", render::records([answer, &history[other]]));
            return Err(Violation { promise: "P2", checker: "tokens", what });
        }
    }
    let mut contents: Vec<(&[TransactionItem], Vec<usize>)> = Vec::new();
    for &at in requests.iter().filter(|&&at| !matches!(history[at].outcome, Outcome::Rejected { .. })) {
        let Action::Transact { items, .. } = &history[at].action else { unreachable!("only transactions have tokens") };
        match contents.iter_mut().find(|(same, _)| *same == items) {
            Some((_, all)) => all.push(at),
            None => contents.push((items, vec![at])),
        }
    }
    for (_, same) in contents {
        for &at in &same {
            merged[at] = None;
        }
        let representative = |at: &&usize| matches!(history[**at].outcome, Outcome::Unknown { .. });
        let first = *same.iter().find(representative).unwrap_or(&same[0]);
        let record = match answer {
            // The token was taken for other contents: these never take effect.
            Some(answer) if answer.action != history[first].action => {
                let outcome = Outcome::Rejected { reason: "the token has other contents".into() };
                Record { outcome, ..history[first].clone() }
            }
            Some(answer) => answer.clone(),
            None => history[first].clone(),
        };
        // What was told of a conflict took no effect: only the others may have, from their own starts on.
        let others = same
            .iter()
            .filter(|&&at| !matches!(history[at].outcome, Outcome::NotCommitted { .. }) || is_answer(&history[at].outcome));
        let start = others.map(|&at| history[at].start).min().unwrap_or(record.start);
        merged[first] = Some(Record { start, ..record });
    }
    Ok(())
}

/// Of a token that is forgotten after a time: each answer becomes one record, and what has no answer stays as it is.
fn merge_answers(history: &[Record], requests: &[usize], lifetime: u64, merged: &mut [Option<Record>]) -> Result<(), Violation> {
    // Each answer, from the first request that may have had this effect on: that may be a request that was not answered.
    let mut answers: Vec<(u64, usize)> = Vec::new();
    for &at in requests.iter().filter(|&&at| is_answer(&history[at].outcome)) {
        let record = &history[at];
        let alike = |other: &&Record| {
            let unanswered = !is_answer(&other.outcome) && !matches!(other.outcome, Outcome::Rejected { .. });
            other.action == record.action && (unanswered || other.outcome == record.outcome)
        };
        let start = requests.iter().map(|&other| &history[other]).filter(alike).map(|other| other.start).min();
        let start = start.unwrap_or(record.start);
        let known = answers
            .iter_mut()
            .find(|(_, known)| history[*known].action == record.action && history[*known].outcome == record.outcome);
        match known {
            Some((_, known)) if record.end < history[*known].end => merged[std::mem::replace(known, at)] = None,
            Some(_) => merged[at] = None,
            None => answers.push((start, at)),
        }
    }
    for &(start, first) in &answers {
        let kept_until = start.saturating_add(lifetime);
        let other = answers.iter().map(|&(_, at)| at).find(|&at| {
            at != first && history[at].start >= history[first].start && history[at].end.is_some_and(|end| end <= kept_until)
        });
        if let Some(other) = other {
            let what = "two requests with one token were answered differently, while the token was kept";
            let what = format!("{what}{}", render::records([&history[first], &history[other]]));
            return Err(Violation { promise: "P2", checker: "tokens", what });
        }
        merged[first] = Some(Record { start, ..history[first].clone() });
    }
    Ok(())
}

/// Whether the outcome is what the token answers from then on.
fn is_answer(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Transacted { .. } => true,
        Outcome::NotCommitted { failures } => !failures.iter().any(|failure| failure.reason == FailureReason::Conflict),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::tests::{data, key, op, rejected, unknown};
    use super::*;
    use ringseed::history::{Condition, Failure, ItemAction, ItemResult, Text};

    fn put(value: &str) -> Action {
        let item = TransactionItem { key: key("k"), action: ItemAction::Put(data(value)), condition: Condition::None };
        Action::Transact { items: vec![item], token: Some(Text("t".into())) }
    }

    fn committed(version: u64) -> Outcome {
        Outcome::Transacted { results: vec![ItemResult { version, number: None, value: None }] }
    }

    fn conflict() -> Outcome {
        Outcome::NotCommitted { failures: vec![Failure { item: 0, reason: FailureReason::Conflict }] }
    }

    #[test]
    fn requests_of_one_token_are_one() {
        let history = [op(1, 2, put("a"), unknown()), op(5, 9, put("a"), committed(3)), op(10, 11, put("a"), committed(3))];
        let merged = merge(&history, None).unwrap();
        assert_eq!(merged.len(), 1);
        assert_eq!((merged[0].start, merged[0].end, &merged[0].outcome), (1, Some(9), &committed(3)));
        let merged = merge(&history[..1], None).unwrap();
        assert_eq!(merged.len(), 1);
        let history = [op(1, 2, put("a"), conflict()), op(5, 9, put("a"), unknown()), op(7, 8, put("a"), rejected())];
        let merged = merge(&history, None).unwrap();
        assert_eq!(merged.iter().filter(|r| matches!(r.outcome, Outcome::Unknown { .. })).count(), 1);
        assert_eq!(merged.len(), 2);
    }

    #[test]
    fn a_token_that_was_forgotten_may_be_answered_anew() {
        let history = [op(1, 2, put("a"), committed(2)), op(5, 9, put("a"), committed(3))];
        merge(&history, Some(8)).unwrap_err();
        assert_eq!(merge(&history, Some(7)).unwrap().len(), 2);
        let history = [op(1, 2, put("a"), unknown()), op(5, 9, put("a"), committed(3)), op(10, 11, put("a"), committed(3))];
        let merged = merge(&history, Some(4)).unwrap();
        let whole: Vec<(u64, &Outcome)> = merged.iter().map(|record| (record.start, &record.outcome)).collect();
        assert_eq!(whole, [(1, &unknown()), (1, &committed(3))], "the first may be the second, or by itself");
    }

    #[test]
    fn a_token_has_one_answer() {
        merge(&[op(1, 2, put("a"), committed(2)), op(5, 9, put("a"), committed(3))], None).unwrap_err();
        merge(&[op(1, 2, put("a"), committed(2)), op(5, 9, put("b"), committed(3))], None).unwrap_err();
        let failures = vec![Failure { item: 0, reason: FailureReason::NotANumber }];
        merge(&[op(1, 2, put("a"), committed(2)), op(5, 9, put("a"), Outcome::NotCommitted { failures })], None).unwrap_err();
        let history = [op(1, 2, put("a"), committed(2)), op(5, 9, put("b"), unknown())];
        let merged = merge(&history, None).unwrap();
        assert!(matches!(merged[1].outcome, Outcome::Rejected { .. }));
    }
}
