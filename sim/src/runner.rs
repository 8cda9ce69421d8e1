//! Many seeds: spread over threads, summed up in order of seed.

use crate::counters::{Counters, SEEDS_FOR_EVERY_KIND, Void};
use crate::plan::Plan;
use crate::recovery::Recoveries;
use crate::run::{Run, RunOptions, Verdict, run_plan};
use crate::workload::Stats;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The exit code when every seed was clean but something never happened that should have ([`Counters::lacks`]): some kind of
/// fault never fired or mattered, some point of a protocol was never passed or struck, some state was never reached.
pub const FAULT_NEVER_FIRED: u8 = 14;

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    /// In order of seed.
    pub failures: Vec<(u64, Verdict)>,
    pub counters: Counters,
    pub stats: Stats,
    pub recoveries: Recoveries,
    /// Simulated time of all runs together.
    pub simulated: Duration,
    pub events: u64,
    /// By the wall's clock.
    pub took: Duration,
    /// Keys whose history was judged, and those of them that the checkers' bound left undecided.
    pub keys: u64,
    pub undecided: u64,
}

/// A batch in which more keys than one of so many are undecided fails.
pub const UNDECIDED_ONE_IN: u64 = 10_000;

impl Summary {
    /// What such a batch should have shown and has not.
    pub fn lacks(&self) -> Vec<String> {
        let mut lacks = self.counters.lacks(self.seeds);
        if self.seeds >= SEEDS_FOR_EVERY_KIND && self.undecided * UNDECIDED_ONE_IN > self.keys {
            let (undecided, keys) = (self.undecided, self.keys);
            lacks.push(format!(
                "the histories of {undecided} of {keys} keys were not decided: one in {UNDECIDED_ONE_IN} is too many"
            ));
        }
        lacks
    }

    /// Of the first failure; [`FAULT_NEVER_FIRED`] if there is none but something never happened.
    pub fn exit_code(&self) -> u8 {
        match self.failures.first() {
            Some((_, verdict)) => verdict.exit_code(),
            None if !self.lacks().is_empty() => FAULT_NEVER_FIRED,
            None => 0,
        }
    }

    fn add(&mut self, seed: u64, run: &Run) {
        self.seeds += 1;
        if !run.verdict.is_clean() {
            self.failures.push((seed, run.verdict.clone()));
        }
        self.counters.add(&run.counters);
        self.stats.add(&run.stats);
        self.recoveries.add(seed, &run.recovery);
        self.simulated += Duration::from_nanos(run.simulated);
        self.events += run.events;
        self.undecided += run.undecided as u64;
        self.keys += run.keys as u64;
    }
}

/// Runs the seeds on `jobs` threads. `on_done` is called after each, in no order. One seed in `twice_every` is run twice and its
/// traces compared (0: none). After `failures_max` failures no new seed begins.
pub fn run_many(
    seeds: Range<u64>,
    jobs: usize,
    twice_every: u64,
    failures_max: usize,
    on_done: impl Fn(u64, &Run) + Sync,
) -> Summary {
    run_those(seeds, |_| true, jobs, twice_every, failures_max, Void::None, on_done)
}

/// As [`run_many`], but only the seeds whose plan is `wanted`, and faults that are `void` do nothing.
pub fn run_those(
    seeds: Range<u64>,
    wanted: impl Fn(&Plan) -> bool + Sync,
    jobs: usize,
    twice_every: u64,
    failures_max: usize,
    void: Void,
    on_done: impl Fn(u64, &Run) + Sync,
) -> Summary {
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let plan = Plan::generate(seed);
                    if !wanted(&plan) {
                        continue;
                    }
                    let twice = twice_every > 0 && seed.is_multiple_of(twice_every);
                    let leaves_out = void == Void::None && seed.is_multiple_of(LEAVE_OUT_EVERY);
                    let mut run = run_plan(&plan, RunOptions { twice, void, history: leaves_out, ..RunOptions::default() });
                    if leaves_out {
                        leave_one_out(&plan, &mut run);
                    }
                    on_done(seed, &run);
                    let mut summary = summary.lock().expect("no thread panics while it holds this");
                    summary.add(seed, &run);
                    if summary.failures.len() >= failures_max {
                        return;
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("no thread panics while it holds this");
    summary.failures.sort_by_key(|(seed, _)| *seed);
    summary.took = began.elapsed();
    summary
}

/// One seed in so many is run again without one kind of fault.
const LEAVE_OUT_EVERY: u64 = 100;

/// Runs the plan again without one of the kinds that mattered, and notes whether clients asked or were told anything else, or at
/// another time. That is the honest test of what mattered, and too slow for every seed and kind.
fn leave_one_out(plan: &Plan, run: &mut Run) {
    let history = run.history.take();
    let kinds = run.counters.all_that_mattered();
    if kinds.is_empty() || !run.verdict.is_clean() {
        return;
    }
    let kind = kinds[(plan.seed / LEAVE_OUT_EVERY) as usize % kinds.len()];
    let without = run_plan(plan, RunOptions { history: true, void: Void::One(kind), ..RunOptions::default() });
    run.counters.leave_out(kind, without.history != history);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::{Kind, SEEDS_FOR_EVERY_STATE};
    use crate::points::Point;
    use ringseed::base::Sometimes;

    #[test]
    fn seeds_are_clean_and_repeat() {
        let summary = run_many(0..12, 2, 1, 1, |_, _| {});
        if let Some((seed, verdict)) = summary.failures.first() {
            panic!("seed {seed}: {}", crate::story::of_failure(&Plan::generate(*seed), verdict));
        }
        assert_eq!(summary.seeds, 12);
        assert!(summary.stats.released > 0, "clients release tokens");
        assert!(summary.stats.done > 1_000, "clients got something done: {:?}", summary.stats);
    }

    #[test]
    fn plans_are_data() {
        for seed in 0..200 {
            let plan = Plan::generate(seed);
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
            assert!(plan.faults.is_sorted_by_key(|fault| fault.at_ms));
            assert!(plan.is_keepable(), "seed {seed}");
        }
    }

    #[test]
    fn a_batch_in_which_something_never_happened_fails() {
        let mut summary = Summary { seeds: SEEDS_FOR_EVERY_KIND, ..Summary::default() };
        assert_eq!(summary.exit_code(), FAULT_NEVER_FIRED);
        for &kind in Kind::ALL {
            summary.counters.fired(kind);
            summary.counters.mattered(kind);
        }
        assert_eq!(summary.exit_code(), FAULT_NEVER_FIRED);
        for &point in Point::ALL {
            summary.counters.passed(point);
            summary.counters.placed(point);
        }
        assert_eq!(summary.exit_code(), 0);
        summary.seeds = SEEDS_FOR_EVERY_STATE;
        assert_eq!(summary.exit_code(), FAULT_NEVER_FIRED);
        Sometimes::ALL.iter().for_each(|state| summary.counters.reached(*state, 1));
        assert_eq!(summary.exit_code(), 0);
        (summary.keys, summary.undecided) = (20_000, 2);
        assert_eq!(summary.exit_code(), 0);
        summary.undecided = 3;
        assert_eq!(summary.exit_code(), FAULT_NEVER_FIRED);
        summary.undecided = 0;
        for left_out in 1..=20 {
            assert_eq!(summary.exit_code(), 0);
            summary.counters.leave_out(Kind::Loss, left_out < 10);
        }
        assert_eq!(summary.exit_code(), FAULT_NEVER_FIRED, "9 of 20 histories changed");
        summary.failures.push((7, Verdict::Liveness("it hangs".into())));
        assert_eq!(summary.exit_code(), 11);
    }
}
