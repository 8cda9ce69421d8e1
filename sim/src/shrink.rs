//! From a plan that fails to a smaller one that fails in the same way.
//!
//! Faults are taken out in halves, then quarters, then one by one (delta debugging: Zeller and Hildebrandt, 2002); then clients,
//! partitions and time. "The same way" is the same promise, noticed by the same checker.

use crate::plan::{Fault, Plan};
use crate::run::{RunOptions, run_plan};

/// What came of it.
#[derive(Debug)]
pub struct Shrunk {
    pub plan: Plan,
    /// How many plans were run.
    pub tries: u32,
}

/// Shrinks `plan`, which fails with a verdict of this `name` ([`crate::Verdict::name`]). Runs at most `tries_max` plans.
pub fn shrink(plan: &Plan, name: &str, tries_max: u32) -> Shrunk {
    let mut search = Search { best: plan.clone(), name, tries: 0, tries_max };
    loop {
        let before = search.best.clone();
        search.faults();
        search.surroundings();
        if search.best == before || search.tries >= tries_max {
            return Shrunk { plan: search.best, tries: search.tries };
        }
    }
}

struct Search<'a> {
    best: Plan,
    name: &'a str,
    tries: u32,
    tries_max: u32,
}

impl Search<'_> {
    /// Takes `candidate` if it fails in the same way.
    fn consider(&mut self, candidate: Plan) -> bool {
        if candidate == self.best || self.tries >= self.tries_max {
            return false;
        }
        self.tries += 1;
        let same = run_plan(&candidate, RunOptions::default()).verdict.name() == self.name;
        if same {
            self.best = candidate;
        }
        same
    }

    fn faults(&mut self) {
        let mut size = self.best.faults.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < self.best.faults.len() {
                let mut candidate = self.best.clone();
                let end = (at + size).min(candidate.faults.len());
                candidate.faults.drain(at..end);
                if !self.consider(candidate) {
                    at += size;
                }
            }
            if size == 1 {
                return;
            }
            size /= 2;
        }
    }

    fn surroundings(&mut self) {
        self.change(|plan| plan.standing = None);
        self.change(|plan| plan.workload.clients = plan.workload.clients.div_ceil(2));
        self.change(|plan| plan.cluster.partitions = (plan.cluster.partitions / 2).max(1));
        self.change(|plan| plan.workload.scan_permille = 0);
        self.change(|plan| plan.workload.transactions.permille = 0);
        self.change(|plan| plan.workload.transactions.token_permille = 0);
        self.change(|plan| plan.workload.transactions.interactive_permille = 0);
        self.change(|plan| plan.workload.transactions.append_permille = 0);
        self.change(|plan| plan.workload.transactions.items_max = 2);
        self.change(|plan| plan.workload.all_permille = 0);
        self.change(|plan| plan.workload.value_size_max = 16);
        self.change(|plan| plan.network.loss_permille = 0);
        self.change(|plan| plan.network.duplication_permille = 0);
        self.change(|plan| plan.network.reordering_permille = 0);
        self.change(|plan| plan.nodes.iter_mut().for_each(|node| node.clock_ppm = 0));
        self.change(|plan| {
            let last = plan.faults.iter().map(|fault: &Fault| fault.at_ms + fault.for_ms).max().unwrap_or(1_000);
            plan.faults_ms = plan.faults_ms.min(last + 500);
        });
        self.change(|plan| plan.faults_ms = plan.faults_ms * 3 / 4);
    }

    fn change(&mut self, change: impl Fn(&mut Plan)) {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        self.consider(candidate);
    }
}
