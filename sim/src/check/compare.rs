//! Holds both judges of linearizability against a third that tries every order: on small histories, made from an order that was,
//! half of them with one answer changed. All must say the same.

use super::linear::tests::{data, delete, get, increment, op, put_if, rejected, unknown};
use super::linear::{self};
use super::{Initial, Options, search};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ringseed::history::{Action, Condition, Data, Outcome, Record};

const HISTORIES: u64 = 40_000;

#[test]
fn the_judges_agree() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..HISTORIES {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut history = execute(&mut random);
        if random.random_bool(0.5) {
            corrupt(&mut random, &mut history);
        }
        let lines = || history.iter().map(super::render::record).collect::<Vec<_>>().join("\n");
        for versions in [true, false] {
            let expected = every_order(&history, versions);
            let judged = if versions { by_versions(&history) } else { by_values(&history) };
            assert_eq!(judged, expected, "seed {seed}, by versions: {versions}\n{}", lines());
            if expected { good += 1 } else { bad += 1 }
        }
    }
    assert!(good > HISTORIES / 4 && bad > HISTORIES / 4, "{good} good and {bad} bad: the comparison is lopsided");
}

fn by_versions(history: &[Record]) -> bool {
    let report = linear::check(history, &Options { values: false, ..Options::default() });
    report.map(|report| assert!(report.undecided.is_empty())).is_ok()
}

fn by_values(history: &[Record]) -> bool {
    let mut calls = linear::tests::calls_of_one_key(history);
    match search::check(&"k".into(), &mut calls, &Options { initial: Initial::Empty, ..Options::default() }) {
        Ok(decided) => {
            assert!(decided);
            true
        }
        Err(_) => false,
    }
}

/// Start and end of up to six operations, in the order of an instant within each.
pub(super) fn intervals(random: &mut impl Rng) -> Vec<(u64, u64)> {
    let count = random.random_range(2..=6);
    let mut calls: Vec<(u64, u64, u64)> = (0..count)
        .map(|_| {
            let start = random.random_range(0..30_u64);
            let end = start + random.random_range(1..20);
            (random.random_range(start..=end), start, end)
        })
        .collect();
    calls.sort_unstable();
    calls.into_iter().map(|(_, start, end)| (start, end)).collect()
}

/// Up to six operations on one item, as they would go.
fn execute(random: &mut impl Rng) -> Vec<Record> {
    let calls = intervals(random);
    let mut item: (Option<Data>, u64) = (None, 0);
    let mut last = 0;
    calls.into_iter().map(|(start, end)| operate(random, &mut item, &mut last, start, end)).collect()
}

fn operate(random: &mut impl Rng, item: &mut (Option<Data>, u64), last: &mut u64, start: u64, end: u64) -> Record {
    let action = draw(random, item.1);
    if random.random_ratio(1, 8) {
        return op(start, end, action, rejected());
    }
    let lost = random.random_ratio(1, 3);
    // Half of those lost in doubt never took effect.
    if lost && action.is_write() && random.random_bool(0.5) {
        return op(start, end, action, unknown());
    }
    let outcome = match step(&action, &item.0, item.1) {
        None => Outcome::Value { value: item.0.clone(), version: item.1 },
        Some(None) => match action {
            Action::Increment { .. } => rejected(),
            _ => Outcome::ConditionFailed { version: item.1, present: item.0.is_some() },
        },
        Some(Some(next)) => {
            *last += random.random_range(1..3_u64);
            let number = matches!(action, Action::Increment { .. }).then(|| next.as_ref().and_then(Data::number)).flatten();
            *item = (next, *last);
            Outcome::Written { version: *last, number }
        }
    };
    op(start, end, action, if lost { unknown() } else { outcome })
}

fn draw(random: &mut impl Rng, version: u64) -> Action {
    let value = random.random_range(1..4).to_string();
    let condition = match random.random_range(0..8) {
        0 => Condition::Value(data(&random.random_range(1..4).to_string())),
        1 => Condition::Version(version.saturating_sub(random.random_range(0..2))),
        2 => Condition::Absent,
        3 => Condition::Present,
        _ => Condition::None,
    };
    match random.random_range(0..10) {
        0..=3 => get(),
        4..=6 => put_if(&value, condition),
        7 => delete(),
        _ => increment(random.random_range(1..3)),
    }
}

/// `None`: it reads. `Some(None)`: its condition fails. Else what it leaves.
fn step(action: &Action, value: &Option<Data>, version: u64) -> Option<Option<Option<Data>>> {
    let held = |condition: &Condition| match condition {
        Condition::None => true,
        Condition::Value(expected) => value.as_ref() == Some(expected),
        Condition::Version(expected) => value.is_some() && version == *expected,
        Condition::Absent => value.is_none(),
        Condition::Present => value.is_some(),
    };
    match action {
        Action::Get { .. } | Action::Scan { .. } | Action::GetMany { .. } | Action::Transact { .. } => None,
        Action::Put { value: new, condition, .. } => Some(held(condition).then(|| Some(new.clone()))),
        Action::Delete { condition, .. } => Some(held(condition).then_some(None)),
        Action::Increment { by, .. } => {
            let number = value.as_ref().map_or(Some(0), Data::number);
            Some(number.and_then(|number| number.checked_add(*by)).map(|sum| Some(Data::of_number(sum))))
        }
    }
}

fn corrupt(random: &mut impl Rng, history: &mut [Record]) {
    let at = random.random_range(0..history.len());
    let kind = random.random_range(0..3);
    let bend = |version: &mut u64, up: bool| *version = if up { *version + 1 } else { version.saturating_sub(1) };
    let up = random.random_bool(0.5);
    match &mut history[at].outcome {
        Outcome::Value { version, .. } if kind == 0 => bend(version, up),
        Outcome::Value { value, .. } => *value = up.then(|| data(&random.random_range(1..5).to_string())),
        Outcome::Written { number: Some(number), .. } if kind > 0 => *number += if up { 1 } else { -1 },
        Outcome::Written { version, .. } => bend(version, up),
        Outcome::ConditionFailed { version, .. } if kind == 0 => bend(version, up),
        Outcome::ConditionFailed { present, .. } => *present = !*present,
        _ => {}
    }
}

/// The version of the item while orders are tried: known, or that of an unknown write, and at least this.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Is(u64),
    AtLeast(u64),
}

impl Number {
    /// The same once it is seen to be `version`; `None` when it cannot be.
    pub(super) fn seen(self, version: u64) -> Option<Number> {
        match self {
            Number::Is(known) => (known == version).then_some(self),
            Number::AtLeast(least) => (version >= least).then_some(Number::Is(version)),
        }
    }

    pub(super) fn next(self) -> u64 {
        match self {
            Number::Is(version) | Number::AtLeast(version) => version + 1,
        }
    }
}

/// Tries every order of all definite and any of the unknown operations.
fn every_order(history: &[Record], versions: bool) -> bool {
    let said: Vec<&Record> = history
        .iter()
        .filter(|r| !matches!(r.outcome, Outcome::Rejected { .. }))
        .filter(|r| r.action.is_write() || !matches!(r.outcome, Outcome::Unknown { .. }))
        .collect();
    go(&said, &mut vec![false; said.len()], &None, Number::Is(0), versions)
}

fn go(said: &[&Record], taken: &mut Vec<bool>, value: &Option<Data>, number: Number, versions: bool) -> bool {
    let definite = |at: &usize| !matches!(said[*at].outcome, Outcome::Unknown { .. });
    let left: Vec<usize> = (0..said.len()).filter(|at| !taken[*at]).collect();
    let Some(limit) = left.iter().copied().filter(definite).map(|at| said[at].end.expect("it ended")).min() else { return true };
    for at in left {
        if said[at].start > limit {
            continue;
        }
        taken[at] = true;
        for (value, number) in outcomes(said[at], value, number, versions) {
            if go(said, taken, &value, number, versions) {
                return true;
            }
        }
        taken[at] = false;
    }
    false
}

/// The states that an operation may leave, if what it was told fits; without regard to versions when they are not trusted.
fn outcomes(record: &Record, value: &Option<Data>, number: Number, versions: bool) -> Vec<(Option<Data>, Number)> {
    let expected = match &record.action {
        Action::Put { condition: Condition::Version(expected), .. }
        | Action::Delete { condition: Condition::Version(expected), .. } => Some(*expected),
        _ => None,
    };
    let mut all = Vec::new();
    // A condition on the version, where the version is not known, may hold or fail; without versions it may always.
    let cases = match (expected, number, versions) {
        (Some(expected), _, false) => vec![(expected, number), (u64::MAX, number)],
        (Some(expected), Number::AtLeast(_), true) => {
            number.seen(expected).map(|seen| (expected, seen)).into_iter().chain([(u64::MAX, number)]).collect()
        }
        (_, Number::Is(version), _) => vec![(version, number)],
        (None, Number::AtLeast(_), _) => vec![(u64::MAX, number)],
    };
    for (version, number) in cases {
        let written = |seen: &u64| !versions || *seen >= number.next();
        match (step(&record.action, value, version), &record.outcome) {
            (None, Outcome::Value { value: seen, version }) if seen == value => {
                all.extend(see(number, *version, versions).map(|n| (value.clone(), n)))
            }
            (Some(None), Outcome::ConditionFailed { version, present }) if *present == value.is_some() => {
                let fits = !versions || expected.is_none_or(|expected| expected != *version || !present);
                all.extend(see(number, *version, versions).filter(|_| fits).map(|n| (value.clone(), n)));
            }
            (Some(Some(next)), Outcome::Written { version, number: sum })
                if written(version) && (sum.is_none() || next.as_ref().and_then(Data::number) == *sum) =>
            {
                all.push((next, Number::Is(*version)));
            }
            (Some(Some(next)), Outcome::Unknown { .. }) => all.push((next, Number::AtLeast(number.next()))),
            _ => {}
        }
    }
    all
}

fn see(number: Number, version: u64, versions: bool) -> Option<Number> {
    if versions { number.seen(version) } else { Some(number) }
}
