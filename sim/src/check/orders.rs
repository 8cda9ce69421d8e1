//! Holds the judge of strict serializability against one that tries every order: on small histories, made from an order that was,
//! most with some answers or times changed. Both must say the same.

use super::linear::tests::{data, key, op};
use super::{Options, check_history, render};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ringseed::base::Key;
use ringseed::history::{Action, Condition, Data, ItemAction, ItemResult, Outcome, Record, TransactionItem};
use std::collections::BTreeMap;

const HISTORIES: u64 = 20_000;

/// Value and version of each key.
type State = BTreeMap<String, (Option<Data>, u64)>;

#[test]
fn the_judges_agree() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..HISTORIES {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut history = execute(&mut random);
        for _ in 0..random.random_range(0..6) {
            corrupt(&mut random, &mut history);
        }
        let expected = every_order(&history, &mut vec![false; history.len()], &State::new(), apply);
        let judged = check_history(&history, &Options { partitions: Some(1), ..Options::default() });
        let lines = || history.iter().map(render::record).collect::<Vec<_>>().join("\n");
        assert_eq!(judged.is_ok(), expected, "seed {seed}: {judged:?}\n{}", lines());
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > HISTORIES / 4 && bad > HISTORIES / 10, "{good} good and {bad} bad: the comparison is lopsided");
}

/// Up to six operations on three keys, as they would go.
fn execute(random: &mut impl Rng) -> Vec<Record> {
    let mut state = State::new();
    let calls = super::compare::intervals(random).into_iter().enumerate();
    calls.map(|(nth, (start, end))| operate(random, &mut state, nth as u64 + 1, start, end)).collect()
}

fn operate(random: &mut impl Rng, state: &mut State, version: u64, start: u64, end: u64) -> Record {
    let names: Vec<&str> = ["a", "b", "c"].into_iter().filter(|_| random.random_bool(0.6)).collect();
    let seen = |state: &State, name: &str| state.get(name).cloned().unwrap_or((None, 0));
    if random.random_bool(0.4) {
        let keys = names.iter().map(|name| key(name)).collect();
        let item = |name: &&str| {
            let (value, version) = seen(state, name);
            ItemResult { version, number: None, value }
        };
        return op(start, end, Action::GetMany { keys }, Outcome::Values { items: names.iter().map(item).collect() });
    }
    let (mut items, mut results) = (Vec::new(), Vec::new());
    for name in names {
        let (value, before) = seen(state, name);
        let version_of = if value.is_some() { Condition::Version(before) } else { Condition::Absent };
        let condition = if random.random_bool(0.3) { version_of } else { Condition::None };
        let (action, result) = match random.random_range(0..4) {
            0 => (ItemAction::Read, ItemResult { version: before, number: None, value }),
            1 => {
                state.insert(name.into(), (None, version));
                (ItemAction::Delete, ItemResult { version, number: None, value: None })
            }
            _ => {
                let new = data(&version.to_string());
                state.insert(name.into(), (Some(new.clone()), version));
                (ItemAction::Put(new), ItemResult { version, number: None, value: None })
            }
        };
        items.push(TransactionItem { key: key(name), action, condition });
        results.push(result);
    }
    op(start, end, Action::Transact { items, token: None }, Outcome::Transacted { results })
}

/// One item was seen as it was at another time, or one operation happened at another time.
fn corrupt(random: &mut impl Rng, history: &mut [Record]) {
    let mut states: Vec<(Key, ItemResult)> = Vec::new();
    for record in &*history {
        if let (Action::Transact { items, .. }, Outcome::Transacted { results }) = (&record.action, &record.outcome) {
            for (item, result) in items.iter().zip(results) {
                let value = if let ItemAction::Put(value) = &item.action { Some(value.clone()) } else { None };
                if item.action != ItemAction::Read {
                    states.push((item.key.clone(), ItemResult { version: result.version, number: None, value }));
                }
            }
        }
    }
    change_one(random, history, states);
}

/// Changes the time of one operation, or what a read saw of one key: another of these states, or nothing.
pub(super) fn change_one(random: &mut impl Rng, history: &mut [Record], states: Vec<(Key, ItemResult)>) {
    let at = random.random_range(0..history.len());
    let record = &mut history[at];
    if random.random_bool(0.3) {
        let length = record.end.unwrap_or(0) - record.start;
        record.start = random.random_range(0..40);
        record.end = Some(record.start + length);
        return;
    }
    let Outcome::Values { items } = &mut record.outcome else { return };
    let Action::GetMany { keys } = &record.action else { return };
    if items.is_empty() {
        return;
    }
    let one = random.random_range(0..items.len());
    let mut others: Vec<ItemResult> = states.into_iter().filter(|(key, _)| *key == keys[one]).map(|(_, state)| state).collect();
    others.push(ItemResult { version: 0, number: None, value: None });
    items[one] = others[random.random_range(0..others.len())].clone();
}

/// Whether some order explains the history: of all operations whose outcome was told, and any of the others. `apply` gives the
/// state that an operation leaves, if it may take effect.
pub(super) fn every_order<S>(history: &[Record], taken: &mut Vec<bool>, state: &S, apply: fn(&Record, &S) -> Option<S>) -> bool {
    let left: Vec<usize> = (0..history.len()).filter(|at| !taken[*at]).collect();
    let told = left.iter().map(|&at| &history[at]).filter(|record| !matches!(record.outcome, Outcome::Unknown { .. }));
    let Some(limit) = told.filter_map(|record| record.end).min() else { return true };
    for at in left {
        if history[at].start > limit {
            continue;
        }
        if let Some(next) = apply(&history[at], state) {
            taken[at] = true;
            if every_order(history, taken, &next, apply) {
                return true;
            }
            taken[at] = false;
        }
    }
    false
}

/// The state that the operation leaves, if it was told what is there.
fn apply(record: &Record, state: &State) -> Option<State> {
    let mut next = state.clone();
    let current = |name: &Key| state.get(&name.to_string()).cloned().or(Some((None, 0)));
    match (&record.action, &record.outcome) {
        (Action::GetMany { keys }, Outcome::Values { items }) => {
            let fits = keys.iter().zip(items).all(|(key, item)| current(key) == Some((item.value.clone(), item.version)));
            fits.then_some(next)
        }
        (Action::Transact { items, .. }, Outcome::Transacted { results }) => {
            for (item, result) in items.iter().zip(results) {
                let (value, version) = current(&item.key)?;
                let held = match &item.condition {
                    Condition::Version(expected) => value.is_some() && version == *expected,
                    Condition::Absent => value.is_none(),
                    _ => true,
                };
                let left = match &item.action {
                    ItemAction::Put(new) => Some(new.clone()),
                    ItemAction::Delete => None,
                    _ if held && (&value, version) == (&result.value, result.version) => continue,
                    _ => return None,
                };
                if !held || result.version <= version {
                    return None;
                }
                next.insert(item.key.to_string(), (left, result.version));
            }
            Some(next)
        }
        _ => None,
    }
}
