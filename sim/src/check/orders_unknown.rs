//! As [`super::orders`], with transactions whose outcome no client was told: each took effect at some time after its start, or
//! never. The judge of strict serializability is held against one that tries every order. It fails no good history, and passes no
//! bad one; where keys are deleted, too, it passes a few ([`super::serializable`] says which).

use super::compare::Number;
use super::linear::tests::{data, key, op, unknown};
use super::orders::{change_one, every_order};
use super::{Options, check_history, render};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ringseed::base::Key;
use ringseed::history::{Action, Condition, Data, ItemAction, ItemResult, Outcome, Record, TransactionItem};
use std::collections::BTreeMap;

const HISTORIES: u64 = 20_000;
/// Bad histories with deletes that may pass, in a thousand.
const MISSED_MAX: u64 = 3;

/// Value and version of each key.
type State = BTreeMap<Key, (Option<Data>, Number)>;

fn seen(state: &State, key: &Key) -> (Option<Data>, Number) {
    state.get(key).cloned().unwrap_or((None, Number::Is(0)))
}

#[test]
fn with_unknown_outcomes_the_judges_agree() {
    let (_, missed) = compare(false);
    assert_eq!(missed, 0);
}

#[test]
fn with_unknown_outcomes_and_deletes_no_good_history_fails_and_few_bad_ones_pass() {
    let (bad, missed) = compare(true);
    assert!(missed * 1_000 <= bad * MISSED_MAX, "{missed} of {bad} bad histories pass");
}

/// How many bad histories there were, and how many of them passed.
fn compare(deletes: bool) -> (u64, u64) {
    let (mut good, mut bad, mut missed) = (0, 0, 0);
    for seed in 0..HISTORIES {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut history = execute(&mut random, deletes);
        for _ in 0..random.random_range(0..5) {
            corrupt(&mut random, &mut history);
        }
        if !history.iter().any(|record| matches!(record.outcome, Outcome::Unknown { .. })) {
            continue;
        }
        let expected = every_order(&history, &mut vec![false; history.len()], &State::new(), apply);
        let judged = check_history(&history, &Options { partitions: Some(4), ..Options::default() });
        if expected {
            let lines = || history.iter().map(render::record).collect::<Vec<_>>().join("\n");
            assert!(judged.is_ok(), "seed {seed}: a good history fails: {judged:?}\n{}", lines());
            good += 1;
        } else {
            bad += 1;
            missed += u64::from(judged.is_ok());
        }
    }
    assert!(good > HISTORIES / 4 && bad > HISTORIES / 20, "{good} good and {bad} bad: the comparison is lopsided");
    (bad, missed)
}

/// Up to six operations on three keys, as they would go; of some the client loses the answer, and some of those never took
/// effect.
fn execute(random: &mut impl Rng, deletes: bool) -> Vec<Record> {
    let mut state: BTreeMap<&str, (Option<Data>, u64)> = BTreeMap::new();
    let calls = super::compare::intervals(random);
    let mut out = Vec::new();
    for (nth, (start, end)) in calls.into_iter().enumerate() {
        let version = nth as u64 + 1;
        let names: Vec<&str> = ["a", "b", "c"].into_iter().filter(|_| random.random_bool(0.6)).collect();
        let at = |state: &BTreeMap<&str, (Option<Data>, u64)>, n: &str| state.get(n).cloned().unwrap_or((None, 0));
        if random.random_bool(0.45) {
            let keys = names.iter().map(|n| key(n)).collect();
            let items = names
                .iter()
                .map(|n| {
                    let (value, version) = at(&state, n);
                    ItemResult { version, number: None, value }
                })
                .collect();
            out.push(op(start, end, Action::GetMany { keys }, Outcome::Values { items }));
            continue;
        }
        let lost = random.random_bool(0.45);
        let never = lost && random.random_bool(0.4);
        let (mut items, mut results) = (Vec::new(), Vec::new());
        for name in names {
            let (value, before) = at(&state, name);
            let version_of = if value.is_some() { Condition::Version(before) } else { Condition::Absent };
            let condition = if random.random_bool(0.35) { version_of } else { Condition::None };
            let (action, result) = match random.random_range(0..5) {
                0 => (ItemAction::Read, ItemResult { version: before, number: None, value }),
                1 => (ItemAction::Check, ItemResult { version: before, number: None, value: None }),
                2 if deletes => {
                    if !never {
                        state.insert(name, (None, version));
                    }
                    (ItemAction::Delete, ItemResult { version, number: None, value: None })
                }
                _ => {
                    let new = data(&format!("{version}"));
                    if !never {
                        state.insert(name, (Some(new.clone()), version));
                    }
                    (ItemAction::Put(new), ItemResult { version, number: None, value: None })
                }
            };
            items.push(TransactionItem { key: key(name), action, condition });
            results.push(result);
        }
        let outcome = if lost { unknown() } else { Outcome::Transacted { results } };
        out.push(op(start, end, Action::Transact { items, token: None }, outcome));
    }
    out
}

/// Changes one time, or one thing that was seen.
fn corrupt(random: &mut impl Rng, history: &mut [Record]) {
    let mut states: Vec<(Key, ItemResult)> = Vec::new();
    for (nth, record) in history.iter().enumerate() {
        if let Action::Transact { items, .. } = &record.action {
            for item in items {
                let value = match &item.action {
                    ItemAction::Put(value) => Some(value.clone()),
                    ItemAction::Delete => None,
                    _ => continue,
                };
                states.push((item.key.clone(), ItemResult { version: nth as u64 + 1, number: None, value }));
            }
        }
    }
    change_one(random, history, states);
}

/// The state after the operation, if it may take effect in this one.
fn apply(record: &Record, state: &State) -> Option<State> {
    let mut next = state.clone();
    match (&record.action, &record.outcome) {
        (Action::GetMany { keys }, Outcome::Values { items }) => {
            for (k, item) in keys.iter().zip(items) {
                let (value, number) = seen(&next, k);
                if value != item.value {
                    return None;
                }
                let number = number.seen(item.version)?;
                next.insert(k.clone(), (value, number));
            }
            Some(next)
        }
        (Action::Transact { items, .. }, outcome) => {
            let results: Option<&Vec<ItemResult>> = match outcome {
                Outcome::Transacted { results } => Some(results),
                Outcome::Unknown { .. } => None,
                _ => return None,
            };
            for (i, item) in items.iter().enumerate() {
                let (value, mut number) = seen(&next, &item.key);
                if let Condition::Version(expected) = item.condition {
                    value.as_ref()?;
                    number = number.seen(expected)?;
                }
                if item.condition == Condition::Absent && value.is_some() {
                    return None;
                }
                match (&item.action, results.map(|r| &r[i])) {
                    (ItemAction::Put(new), Some(r)) => {
                        if r.version < number.next() {
                            return None;
                        }
                        next.insert(item.key.clone(), (Some(new.clone()), Number::Is(r.version)));
                    }
                    (ItemAction::Put(new), None) => {
                        next.insert(item.key.clone(), (Some(new.clone()), Number::AtLeast(number.next())));
                    }
                    (ItemAction::Delete, Some(r)) => {
                        if r.version < number.next() {
                            return None;
                        }
                        next.insert(item.key.clone(), (None, Number::Is(r.version)));
                    }
                    (ItemAction::Delete, None) => {
                        next.insert(item.key.clone(), (None, Number::AtLeast(number.next())));
                    }
                    (ItemAction::Read, Some(r)) => {
                        if r.value != value {
                            return None;
                        }
                        number = number.seen(r.version)?;
                        next.insert(item.key.clone(), (value, number));
                    }
                    (ItemAction::Check, Some(r)) => {
                        number = number.seen(r.version)?;
                        next.insert(item.key.clone(), (value, number));
                    }
                    (ItemAction::Read | ItemAction::Check, None) => {
                        next.insert(item.key.clone(), (value, number));
                    }
                    _ => return None,
                }
            }
            Some(next)
        }
        _ => None,
    }
}
