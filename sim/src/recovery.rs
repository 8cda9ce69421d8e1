//! How long it takes after the faults until all is well again: in one run, against what it may take; and in many.

use std::fmt::Write as _;

/// What is waited for once the faults are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Beside a fault that lasts, all errands are done.
    Stands,
    /// All nodes run, and every group has a leader that may serve and is known to its replicas.
    Led,
    /// The slowest errand, from its request to its answer.
    Errand,
    /// The replicas are equal, and idle.
    Rest,
}

impl Step {
    pub const ALL: &[Step] = &[Step::Stands, Step::Led, Step::Errand, Step::Rest];

    pub const fn name(self) -> &'static str {
        match self {
            Step::Stands => "served beside a lasting fault",
            Step::Led => "every group is led",
            Step::Errand => "the slowest errand",
            Step::Rest => "all at rest",
        }
    }
}

/// How long a step took, and might have taken, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took {
    pub step: Step,
    pub ms: u64,
    pub budget_ms: u64,
}

impl Took {
    fn percent(&self) -> u64 {
        self.ms * 100 / self.budget_ms.max(1)
    }
}

/// The steps of many runs, with their seeds.
#[derive(Debug, Default)]
pub struct Recoveries(Vec<(u64, Took)>);

impl Recoveries {
    pub fn add(&mut self, seed: u64, steps: &[Took]) {
        self.0.extend(steps.iter().map(|took| (seed, *took)));
    }

    /// A line for each step: percentiles, and the seeds that took longest and came closest to their budgets.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for step in Step::ALL {
            let mut all: Vec<(u64, Took)> = self.0.iter().copied().filter(|(_, took)| took.step == *step).collect();
            all.sort_by_key(|(seed, took)| (took.ms, *seed));
            let (Some(longest), Some(closest)) = (all.last(), all.iter().max_by_key(|(_, took)| took.percent())) else {
                continue;
            };
            let at = |permille: usize| all[(all.len() * permille / 1000).min(all.len() - 1)].1.ms;
            writeln!(
                text,
                "{}, ms: {} at p50, {} at p90, {} at p99, {} at most (seed {}); of its budget {} % at most (seed {})",
                step.name(),
                at(500),
                at(900),
                at(990),
                longest.1.ms,
                longest.0,
                closest.1.percent(),
                closest.0
            )
            .expect("writing into memory");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_runs_come_to_percentiles_and_the_worst_seeds() {
        let mut many = Recoveries::default();
        for seed in 0..100 {
            let budget_ms = if seed == 7 { 10 } else { 1_000 };
            many.add(seed, &[Took { step: Step::Led, ms: seed + 1, budget_ms }]);
        }
        let expected = "every group is led, ms: 51 at p50, 91 at p90, 100 at p99, 100 at most (seed 99); \
                        of its budget 80 % at most (seed 7)\n";
        assert_eq!(many.table(), expected);
    }
}
