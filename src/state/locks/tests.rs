//! All sequences of a few steps, against a model that is a list of holders.

use super::*;
use crate::base::{GroupId, Term};

/// Of a model: key, transaction, whether it is exclusive, whether it is leaving.
type Holder = (usize, usize, bool, bool);

#[derive(Debug, Clone, Copy)]
enum Step {
    Take { exclusive: bool },
    Release,
    Leave,
}

const STEPS: [Step; 4] = [Step::Take { exclusive: false }, Step::Take { exclusive: true }, Step::Release, Step::Leave];
const KEYS: [&str; 2] = ["a", "b"];

/// Transactions in order of rank: an old one, and two attempts at a younger one, of which the later comes first.
fn transaction(number: usize) -> (TransactionId, Age) {
    let (began_ms, attempt) = [(1, 7), (2, 9), (2, 8)][number];
    let attempt = Attempt { term: Term(1), number: attempt };
    (TransactionId { home: GroupId(1), attempt }, Age { began_ms, ..Age::default() })
}

fn rank(number: usize) -> Rank {
    let (id, age) = transaction(number);
    Rank::new(age, id)
}

/// Does the step in the model; says whether a lock was taken.
fn step(holders: &mut Vec<Holder>, key: usize, by: usize, step: Step) -> bool {
    let mine = |holder: &Holder| (holder.0, holder.1) == (key, by);
    match step {
        Step::Take { exclusive } => {
            let free = !holders.iter().any(|holder| holder.0 == key && (exclusive || holder.2 || holder.1 == by));
            if free {
                holders.push((key, by, exclusive, false));
                holders.sort_unstable();
            }
            return free;
        }
        Step::Release => holders.retain(|holder| !mine(holder)),
        Step::Leave => holders.iter_mut().filter(|holder| mine(holder)).for_each(|holder| holder.3 = true),
    }
    false
}

fn compare(locks: &Locks, holders: &[Holder], keys: usize) {
    locks.check();
    assert_eq!(locks.is_empty(), holders.is_empty());
    let is_exclusive = |mode| mode == LockMode::Exclusive;
    let mut listed: Vec<_> = locks.iter().map(|(key, mode, id)| (key.clone(), is_exclusive(mode), id)).collect();
    let named = |holder: &Holder| (Key::from(KEYS[holder.0]), holder.2, transaction(holder.1).0);
    let mut expected: Vec<_> = holders.iter().map(named).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected, "the holders are those of the model");
    for (number, key) in KEYS.map(Key::from).iter().enumerate().take(keys) {
        let of_key = || holders.iter().filter(|holder| holder.0 == number);
        assert!(of_key().count() <= 1 || of_key().all(|holder| !holder.2), "an exclusive holder is alone");
        assert_eq!(locks.conflict(key, LockMode::Exclusive), of_key().next().is_some());
        assert_eq!(locks.conflict(key, LockMode::Shared), of_key().any(|holder| holder.2));
        let exclusive = of_key().find(|holder| holder.2).map(|holder| transaction(holder.1).0);
        assert_eq!(locks.exclusive_holder(key), exclusive);
        assert_eq!(locks.exclusive_in(key, key), exclusive.map(|id| (key.clone(), id)));
        for asker in 0..3 {
            let older = of_key().any(|holder| !holder.3 && holder.1 <= asker);
            assert_eq!(locks.held_by_older(key, rank(asker)), older, "a transaction waits for no lesser rank");
        }
    }
}

fn explore(locks: &Locks, holders: &[Holder], keys: usize, length: usize, sequences: &mut u64) {
    compare(locks, holders, keys);
    *sequences += 1;
    if length == 0 {
        return;
    }
    for (key, name) in KEYS.map(Key::from).iter().enumerate().take(keys) {
        for by in 0..3 {
            let (id, age) = transaction(by);
            for next in STEPS {
                let (mut locks, mut holders) = (locks.clone(), holders.to_vec());
                let took = step(&mut holders, key, by, next);
                match next {
                    Step::Take { exclusive } => assert_eq!(locks.try_take(name, LockMode::of(exclusive), id, age), took),
                    Step::Release => locks.release(name, id),
                    Step::Leave => locks.leave(name, id),
                }
                explore(&locks, &holders, keys, length - 1, sequences);
            }
        }
    }
}

#[test]
fn ranks_go_by_age_then_by_attempts_backwards_and_all_are_below_what_leaves() {
    assert!(rank(0) < rank(1) && rank(1) < rank(2) && rank(2) < Rank::LEAVING);
}

#[test]
fn every_sequence_of_few_steps_leaves_the_holders_that_a_list_would_have() {
    let mut sequences = 0;
    explore(&Locks::new(), &[], 1, 4, &mut sequences);
    explore(&Locks::new(), &[], 2, 3, &mut sequences);
    assert_eq!(sequences, (12_u64.pow(5) - 1) / 11 + (24_u64.pow(4) - 1) / 23);
}
