//! From a plan that fails to a smaller one that fails in the same way.
//!
//! First what the clients asked is noted, so that operations can be taken out like faults: all after some time, all on a key, all
//! of a client, then halves, quarters, one by one (delta debugging: Zeller and Hildebrandt, 2002). Then nodes, partitions,
//! options, targets and times become as few, as plain and as early as they can. "The same way" is the same promise, noticed by
//! the same checker.
//!
//! What is taken is always smaller by one measure, [`Size`]: no part of a plan grows so that another can fall. What is taken out
//! also shifts what chance does to all that is left. So a candidate is run with several seeds: with its own alone at first, and
//! with more and more others when nothing else helps. A candidate must keep the promises keepable, as every generated plan does
//! ([`Plan::is_keepable`]): else it would fail for a reason of its own.

use crate::counters::Void;
use crate::faults::FaultKind;
use crate::plan::operations::{Intent, Item, ItemAction, Operation, Value};
use crate::plan::{Ending, Fault, NodePlan, Plan, Setting, Target, WorkloadPlan};
use crate::run::{Run, RunOptions, run_plan};
use crate::world::Struck;
use ringseed::base::Key;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What came of it.
#[derive(Debug)]
pub struct Shrunk {
    pub plan: Plan,
    /// Of this plan, with its history.
    pub run: Run,
    /// How many plans were run.
    pub tries: u32,
    pub took: Duration,
}

/// How large a plan is. Of two plans the first number decides, then the second, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Faults, the standing one among them, and operations.
    pub events: usize,
    /// Nodes, partitions and clients.
    pub machines: usize,
    /// Options that are not as in the plainest plan, an ending that heals, a calm.
    pub options: usize,
    /// Faults that wait for something, or whose target is looked up when they begin.
    pub vague: usize,
    /// Milliseconds of all times, and bytes of all values.
    pub extent: u64,
}

impl Size {
    pub fn of(plan: &Plan) -> Size {
        let is_vague = |fault: &&Fault| fault.when.is_some() || !matches!(fault.kind.target(), None | Some(Target::Node(_)));
        let spans: u64 = plan.faults.iter().map(|fault| fault.at_ms + fault.for_ms).sum();
        let asked = |operation: &Operation| {
            let values: usize = values(&operation.intent).into_iter().map(Value::size).sum();
            operation.at_us / 1_000 + values as u64
        };
        let operations = plan.operations.as_deref();
        Size {
            // Operations that are yet to be noted are more than any that are.
            events: plan.faults.len() + usize::from(plan.standing.is_some()) + operations.map_or(1 << 32, <[_]>::len),
            machines: plan.nodes.len() + plan.cluster.partitions as usize + plan.workload.clients as usize,
            options: plan.settings().len()
                + usize::from(plan.ending != Ending::NeverHeal)
                + usize::from(plan.calm_from_ms.is_some()),
            vague: plan.faults.iter().filter(is_vague).count(),
            extent: spans + plan.faults_ms + operations.unwrap_or_default().iter().map(asked).sum::<u64>(),
        }
    }
}

/// Shrinks `plan`, which fails with a verdict of this `name` ([`crate::Verdict::name`]) while faults that are `void` do nothing,
/// for about as long as `budget`.
pub fn shrink(plan: &Plan, name: &str, void: Void, budget: Duration) -> Shrunk {
    let began = Instant::now();
    let options = RunOptions { twice: name == "P7", void, ..RunOptions::default() };
    let fails = |plan: &Plan| {
        let run = run_plan(plan, options);
        (run.verdict.name() == name).then_some(Seen { strikes: run.strikes, operations: run.operations })
    };
    let mut search = Search::new(plan, fails, began + budget);
    search.run();
    let run = run_plan(&search.best, RunOptions { history: true, ..options });
    Shrunk { plan: search.best, run, tries: search.tries, took: began.elapsed() }
}

/// What a run that failed did.
#[derive(Debug, Default)]
struct Seen {
    strikes: Vec<Struck>,
    operations: Vec<Operation>,
}

struct Search<F> {
    best: Plan,
    size: Size,
    /// What its run did.
    seen: Seen,
    /// What a plan's run did, if it failed in the same way.
    fails: F,
    /// The plan that was given keeps the promises keepable.
    is_keepable: bool,
    /// It has clocks beyond the bound.
    is_beyond: bool,
    /// With how many more seeds a candidate is run.
    luck: u64,
    tries: u32,
    until: Instant,
}

/// With so many more seeds a candidate is run at last.
const LUCK_MAX: u64 = 15;

impl<F: FnMut(&Plan) -> Option<Seen>> Search<F> {
    fn new(plan: &Plan, fails: F, until: Instant) -> Search<F> {
        Search {
            best: plan.clone(),
            size: Size::of(plan),
            seen: Seen::default(),
            fails,
            is_keepable: plan.is_keepable(),
            is_beyond: plan.beyond_drift_bound(),
            luck: 0,
            tries: 0,
            until,
        }
    }

    fn run(&mut self) {
        let Some(seen) = self.once(&self.best.clone()) else { return };
        self.seen = seen;
        self.change(|plan, seen| {
            let workload = &plan.workload;
            plan.operations.get_or_insert_with(|| seen.operations.clone());
            plan.workload = WorkloadPlan::of_operations(workload.clients, workload.timeout_ms, &workload.transactions);
        });
        while self.luck <= LUCK_MAX && Instant::now() < self.until {
            let before = self.size;
            self.cut();
            self.faults();
            self.operations();
            self.surroundings();
            self.targets();
            self.extent();
            if self.size == before {
                self.luck = self.luck * 2 + 1;
            }
        }
    }

    fn once(&mut self, plan: &Plan) -> Option<Seen> {
        self.tries += 1;
        (self.fails)(plan)
    }

    /// Takes `candidate` if it is smaller and fails in the same way.
    fn consider(&mut self, mut candidate: Plan) -> bool {
        let size = Size::of(&candidate);
        if size >= self.size || !self.is_fair(&candidate) {
            return false;
        }
        for more in 0..=self.luck {
            if Instant::now() >= self.until {
                return false;
            }
            // Whether the checkers search by values, too, hangs on the remainder by 4.
            candidate.seed = self.best.seed.wrapping_add(4 * more);
            if let Some(seen) = self.once(&candidate) {
                (self.best, self.size, self.seen) = (candidate, size, seen);
                return true;
            }
        }
        false
    }

    /// Whether its failure would mean what the given plan's does.
    fn is_fair(&self, candidate: &Plan) -> bool {
        let (nodes, timeout_ms) = (&candidate.nodes, candidate.workload.timeout_ms);
        let beats = nodes.iter().all(|node| 3 * node.heartbeat_ms <= u64::from(candidate.cluster.support_ms));
        // As where plans are drawn: a token outlives every request.
        let tick = |node: &NodePlan| node.limits.get("token_tick_ms").is_none_or(|tick| 5 * tick >= timeout_ms);
        (!self.is_keepable || beats && nodes.iter().all(tick) && candidate.is_keepable())
            && (self.is_beyond || !candidate.beyond_drift_bound())
    }

    fn change(&mut self, change: impl FnOnce(&mut Plan, &Seen)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate, &self.seen);
        self.consider(candidate)
    }

    /// Without what comes after some time.
    fn cut(&mut self) {
        let last = |plan: &Plan| {
            let asked = plan.operations.iter().flatten().map(|operation| operation.at_us / 1_000);
            plan.faults.iter().map(|fault| fault.at_ms).chain(asked).max().unwrap_or(0)
        };
        for share in [25, 50, 75, 90] {
            while self.change(|plan, _| {
                let end = last(plan) * share / 100;
                plan.faults.retain(|fault| fault.at_ms <= end);
                plan.operations.iter_mut().for_each(|all| all.retain(|operation| operation.at_us / 1_000 <= end));
                plan.faults_ms = plan.faults_ms.min(end + 1_000);
            }) {}
        }
    }

    fn faults(&mut self) {
        self.change(|plan, _| plan.standing = None);
        let len = |plan: &Plan| plan.faults.len();
        self.thin(len, |plan, from, to| _ = plan.faults.drain(from..to));
    }

    fn operations(&mut self) {
        let Some(operations) = &self.best.operations else { return };
        let asked: BTreeSet<(u32, u64)> = self.seen.operations.iter().map(|one| (one.client, one.number)).collect();
        let keys: BTreeSet<Key> = operations.iter().flat_map(|one| keys(&one.intent)).cloned().collect();
        let clients: BTreeSet<u32> = operations.iter().map(|one| one.client).collect();
        self.retain(|one| asked.contains(&(one.client, one.number)));
        for key in &keys {
            self.retain(|one| keys_or_scan(&one.intent, key));
        }
        for client in clients {
            self.retain(|one| one.client != client);
        }
        for key in &keys {
            self.retain(|one| !self::keys(&one.intent).contains(&key));
        }
        let len = |plan: &Plan| plan.operations.as_ref().map_or(0, Vec::len);
        self.thin(len, |plan, from, to| {
            if let Some(operations) = &mut plan.operations {
                operations.drain(from..to);
            }
        });
    }

    fn retain(&mut self, keep: impl Fn(&Operation) -> bool) {
        self.change(|plan, _| plan.operations.iter_mut().for_each(|all| all.retain(&keep)));
    }

    /// Takes out what is in a list of such a length: halves of it, then quarters, at last one by one.
    fn thin(&mut self, len: impl Fn(&Plan) -> usize, take_out: impl Fn(&mut Plan, usize, usize)) {
        let mut size = len(&self.best).div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < len(&self.best) && Instant::now() < self.until {
                let end = (at + size).min(len(&self.best));
                if !self.change(|plan, _| take_out(plan, at, end)) {
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
        self.change(|plan, _| plan.calm_from_ms = None);
        self.change(|plan, _| plan.ending = Ending::NeverHeal);
        self.change(|plan, _| plan.cluster.partitions = 1);
        self.change(|plan, _| plan.cluster.partitions = (plan.cluster.partitions / 2).max(1));
        for node in (0..self.best.nodes.len()).rev() {
            if self.best.nodes.len() > usize::from(self.best.cluster.replication_factor) {
                self.change(|plan, _| without_node(plan, node as u16 + 1));
            }
        }
        self.change(|plan, _| renumber_clients(plan));
        let all = self.best.settings();
        self.change(|plan, _| plan.reset(&all));
        let parts: BTreeSet<&String> = all.iter().map(|setting| &setting.part).collect();
        let names: BTreeSet<&String> = all.iter().map(|setting| &setting.name).collect();
        let some = |is: &dyn Fn(&&Setting) -> bool| all.iter().filter(is).cloned().collect::<Vec<_>>();
        let by_part = parts.iter().map(|part| some(&|setting| setting.part == **part));
        let by_name = names.iter().map(|name| some(&|setting| setting.name == **name));
        let singly = all.iter().map(|setting| vec![setting.clone()]);
        for settings in by_part.chain(by_name).chain(singly) {
            self.change(|plan, _| plan.reset(&settings));
        }
    }

    /// Faults strike the node that they struck, at the time at which they struck it.
    fn targets(&mut self) {
        self.change(|plan, seen| (0..plan.faults.len()).for_each(|fault| aim(plan, seen, fault)));
        for fault in 0..self.best.faults.len() {
            self.change(|plan, seen| aim(plan, seen, fault));
            for late in [0, 1] {
                self.change(|plan, seen| {
                    aim(plan, seen, fault);
                    if let Some(strike) = seen.strikes.iter().find(|strike| strike.fault == fault) {
                        let fault = &mut plan.faults[fault];
                        (fault.when, fault.nth) = (None, 0);
                        fault.at_ms = strike.at / 1_000_000 + late;
                    }
                });
            }
        }
    }

    /// Everything shorter, smaller and earlier.
    fn extent(&mut self) {
        self.change(|plan, _| plan.operations.iter_mut().flatten().for_each(|one| shorten(&mut one.intent)));
        for operation in 0..self.best.operations.as_ref().map_or(0, Vec::len) {
            self.change(|plan, _| plan.operations.iter_mut().for_each(|all| shorten(&mut all[operation].intent)));
        }
        for fault in 0..self.best.faults.len() {
            while self.best.faults[fault].for_ms > 1 && self.change(|plan, _| plan.faults[fault].for_ms /= 2) {}
        }
        let mut times: Vec<u64> = self.best.faults.iter().map(|fault| fault.at_ms * 1_000).collect();
        times.extend(self.best.operations.iter().flatten().map(|operation| operation.at_us));
        times.push(self.best.faults_ms * 1_000);
        times.sort_unstable();
        times.dedup();
        let mut previous = 0;
        let mut moved = 0;
        for time in times {
            let mut time = time - moved;
            for _ in 0..4 {
                let by = (time - previous) / 2_000 * 1_000;
                if by == 0 || !self.change(|plan, _| advance(plan, time, by)) {
                    break;
                }
                time -= by;
                moved += by;
            }
            previous = time;
        }
    }
}

/// Everything from this time on comes earlier by so many microseconds, whole milliseconds.
fn advance(plan: &mut Plan, from_us: u64, by_us: u64) {
    let moved = |ms: u64| if ms * 1_000 >= from_us { ms - by_us / 1_000 } else { ms };
    plan.faults.iter_mut().for_each(|fault| fault.at_ms = moved(fault.at_ms));
    for operation in plan.operations.iter_mut().flatten().filter(|operation| operation.at_us >= from_us) {
        operation.at_us -= by_us;
    }
    plan.faults_ms = moved(plan.faults_ms);
    plan.standing.iter_mut().for_each(|standing| standing.at_ms = moved(standing.at_ms));
}

/// Gives a fault the node that it struck for its target, unless it waits for whichever node does something.
fn aim(plan: &mut Plan, seen: &Seen, fault: usize) {
    let struck = seen.strikes.iter().find(|strike| strike.fault == fault).and_then(|strike| strike.node);
    if let (Some(node), Some(target)) = (struck, plan.faults[fault].kind.target_mut()) {
        *target = Target::Node(node);
    }
}

/// Takes a node, from 1, out of the cluster. What was asked of it is asked of the next; faults that name it go, too.
fn without_node(plan: &mut Plan, node: u16) {
    plan.nodes.remove(usize::from(node) - 1);
    let last = plan.nodes.len() as u16;
    plan.faults.retain_mut(|fault| !names(&mut fault.kind).iter().any(|named| **named == node));
    let standing = plan.standing.iter_mut().map(|standing| &mut standing.kind);
    for named in plan.faults.iter_mut().map(|fault| &mut fault.kind).chain(standing).flat_map(names) {
        *named -= u16::from(*named > node);
    }
    for operation in plan.operations.iter_mut().flatten() {
        operation.node -= u16::from(operation.node > node);
        operation.node = operation.node.min(last);
    }
}

/// The nodes that a fault names.
fn names(kind: &mut FaultKind) -> Vec<&mut u16> {
    match kind {
        FaultKind::Split { side } => side.iter_mut().collect(),
        FaultKind::Partial { pairs } => pairs.iter_mut().flat_map(|(one, other)| [one, other]).collect(),
        FaultKind::OneWayLink { from, to } | FaultKind::SlowLink { from, to, .. } | FaultKind::SlowMessages { from, to, .. } => {
            vec![from, to]
        }
        other => match other.target_mut() {
            Some(Target::Node(node)) => vec![node],
            _ => Vec::new(),
        },
    }
}

/// Only clients that ask something, and one at least: the errands after the faults are theirs.
fn renumber_clients(plan: &mut Plan) {
    let operations = plan.operations.get_or_insert_default();
    let clients: BTreeSet<u32> = operations.iter().map(|operation| operation.client).collect();
    plan.workload.clients = clients.len().max(1) as u32;
    for operation in operations {
        operation.client = clients.iter().position(|client| *client == operation.client).expect("it was collected") as u32;
    }
}

fn keys(intent: &Intent) -> Vec<&Key> {
    match intent {
        Intent::Get { key, .. } | Intent::Put { key, .. } | Intent::Delete { key, .. } | Intent::Increment { key, .. } => {
            vec![key]
        }
        Intent::GetMany { keys } | Intent::Append { lists: keys, .. } => keys.iter().collect(),
        Intent::Transact { items, .. } => items.iter().map(|item| &item.key).collect(),
        Intent::Transfer { from, to, .. } => vec![from, to],
        Intent::Scan { .. } | Intent::Again { .. } | Intent::Release { .. } => Vec::new(),
    }
}

/// Whether it may be about the key.
fn keys_or_scan(intent: &Intent, key: &Key) -> bool {
    let keys = keys(intent);
    keys.is_empty() || keys.contains(&key)
}

fn values<'a>(intent: &'a Intent) -> Vec<&'a Value> {
    match intent {
        Intent::Put { value, .. } => vec![value],
        Intent::Transact { items, .. } => {
            let put = |item: &'a Item| if let ItemAction::Put(value) = &item.action { Some(value) } else { None };
            items.iter().filter_map(put).collect()
        }
        _ => Vec::new(),
    }
}

/// Long values become short.
fn shorten(intent: &mut Intent) {
    let short = |value: &mut Value| {
        if let Value::Long { text, .. } = value {
            *value = Value::Text(std::mem::take(text));
        }
    };
    match intent {
        Intent::Put { value, .. } => short(value),
        Intent::Transact { items, .. } => {
            for item in items {
                if let ItemAction::Put(value) = &mut item.action {
                    short(value);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Kind;
    use crate::plan::FaultKind;
    use crate::plan::operations::Expected;

    /// Hundreds of faults and operations on five nodes, with options of all kinds.
    fn crowded() -> Plan {
        let mut plan =
            (0..).map(Plan::generate).find(|plan| plan.nodes.len() == 5 && plan.is_keepable()).expect("some seed has five");
        let fault = |number: u64| {
            let kind = match number % 3 {
                0 => FaultKind::Isolate { target: Target::LeaderOf(1) },
                1 => FaultKind::SlowLink { from: 1 + number as u16 % 5, to: 1 + (number as u16 + 1) % 5, by_ms: number },
                _ => FaultKind::Delay { by_ms: number },
            };
            Fault { at_ms: 10 * number, for_ms: 700, when: None, nth: 0, kind }
        };
        let operation = |number: u64| Operation {
            client: number as u32 % 7,
            number,
            at_us: 5_000 * number,
            node: 1 + number as u16 % 5,
            reconnects: false,
            intent: Intent::Put {
                key: Key::from(format!("r{}", number % 11)),
                value: Value::long(format!("{number} x"), 400),
                expected: Expected::Anything,
                all: false,
            },
        };
        plan.faults = (0..200).map(fault).collect();
        plan.operations = Some((0..600).map(operation).collect());
        plan
    }

    fn asks(plan: &Plan, number: u64) -> bool {
        plan.operations.iter().flatten().any(|operation| operation.number == number)
    }

    fn search(plan: &Plan, is_guilty: impl Fn(&Plan) -> bool) -> (Plan, u32) {
        let fails = |plan: &Plan| {
            let strikes = (0..plan.faults.len()).map(|fault| Struck { fault, at: 0, node: Some(2) }).collect();
            let operations = plan.operations.clone().unwrap_or_default();
            is_guilty(plan).then_some(Seen { strikes, operations })
        };
        let mut search = Search::new(plan, fails, Instant::now() + Duration::from_secs(60));
        search.run();
        (search.best, search.tries)
    }

    #[test]
    fn a_culprit_among_hundreds_is_found_and_all_else_is_plain() {
        let isolates = |plan: &Plan| plan.faults.iter().any(|fault| matches!(fault.kind, FaultKind::Isolate { .. }));
        let guilty = |plan: &Plan| isolates(plan) && asks(plan, 123) && asks(plan, 457) && plan.nodes[0].cache_kib == 1;
        let mut plan = crowded();
        plan.nodes[0].cache_kib = 1;
        let (small, tries) = search(&plan, guilty);
        assert_eq!((small.faults.len(), small.operations.as_ref().unwrap().len()), (1, 2), "after {tries} runs");
        assert_eq!(small.faults[0].kind, FaultKind::Isolate { target: Target::Node(2) });
        assert_eq!((small.nodes.len(), small.cluster.partitions, small.ending), (3, 1, Ending::NeverHeal));
        let names: Vec<String> = small.settings().into_iter().map(|setting| setting.name).collect();
        assert_eq!(names, ["cache_kib"]);
        assert!(small.faults[0].for_ms == 1 && small.faults_ms < 100, "{small:?}");
        assert!(tries < 3_000, "{tries} runs");
    }

    /// Whatever is taken out changes what chance does: here it mends four plans of five.
    #[test]
    fn what_fails_by_chance_is_found_too() {
        let guilty = |plan: &Plan| {
            let events = plan.faults.len() + plan.operations.as_ref().map_or(0, Vec::len);
            asks(plan, 9) && asks(plan, 300) && (plan.seed / 4 + events as u64).is_multiple_of(5)
        };
        let mut plan = crowded();
        plan.seed = 0;
        let (small, tries) = search(&plan, guilty);
        assert_eq!((small.faults.len(), small.operations.unwrap().len()), (0, 2), "after {tries} runs");
    }

    #[test]
    fn every_plan_that_is_taken_is_smaller() {
        let sizes = std::cell::RefCell::new(Vec::new());
        let plan = crowded();
        let own = Size::of(&plan);
        search(&plan, |plan| {
            let guilty = asks(plan, 5) && plan.faults.len() > 3;
            sizes.borrow_mut().extend(guilty.then(|| Size::of(plan)));
            guilty
        });
        let sizes = sizes.into_inner();
        assert_eq!(sizes[0], own);
        assert!(sizes.windows(2).all(|pair| pair[1] < pair[0]), "{sizes:?}");
    }

    #[test]
    fn what_would_break_the_promises_by_itself_is_not_tried() {
        let mut plan = crowded();
        let kind = FaultKind::OldDirectory { target: Target::Node(1) };
        plan.faults = vec![Fault { at_ms: 1_000, for_ms: 6_000, when: None, nth: 0, kind }];
        plan.ending = Ending::HealMajority;
        plan.nodes.iter_mut().for_each(|node| (node.wal_sync_ms, node.heartbeat_ms) = (0, 100));
        assert!(plan.is_keepable());
        let (small, _) = search(&plan, |plan| plan.faults.len() == 1);
        assert!(small.is_keepable() && small.faults[0].for_ms >= 2_400, "{:?}", small.faults);
    }

    /// What fails only while a kind of fault does nothing is shrunk while it does nothing.
    #[test]
    fn a_run_that_fails_for_want_of_a_fault_is_shrunk() {
        let mut plan = (0..).map(Plan::generate).find(|plan| plan.scenario == "swarm").expect("most are");
        let fault = |at_ms, kind| Fault { at_ms, for_ms: 20, when: None, nth: 0, kind };
        plan.faults = vec![
            fault(3_000, FaultKind::Crash { target: Target::Node(1) }),
            fault(3_500, FaultKind::Crash { target: Target::Node(2) }),
        ];
        plan.ending = Ending::HealAll;
        plan.standing = None;
        let void = Void::One(Kind::Restart);
        let verdict = run_plan(&plan, RunOptions { void, ..RunOptions::default() }).verdict;
        assert!(run_plan(&plan, RunOptions::default()).verdict.is_clean() && verdict.name() == "P5", "{verdict}");
        let shrunk = shrink(&plan, &verdict.name(), void, Duration::from_secs(2));
        assert!(shrunk.run.verdict.name() == "P5" && Size::of(&shrunk.plan) < Size::of(&plan), "after {} runs", shrunk.tries);
    }

    /// With relaxed syncing a power loss of all loses what was acknowledged: by design, and so no generated plan does that.
    #[test]
    fn a_run_that_loses_writes_is_shrunk_to_its_story() {
        let mut plan = (0..).map(Plan::generate).find(|plan| plan.scenario == "swarm").expect("most are");
        plan.nodes.iter_mut().for_each(|node| node.wal_sync_ms = 500);
        let kind = FaultKind::PowerLossOfAll { within_ms: 1, style: crate::plan::LossStyle::Nothing };
        plan.faults = vec![Fault { at_ms: 3_000, for_ms: 20, when: None, nth: 0, kind }];
        plan.ending = Ending::HealAll;
        plan.standing = None;
        let verdict = run_plan(&plan, RunOptions::default()).verdict;
        assert_eq!(verdict.exit_code(), 10, "{verdict}");
        let shrunk = shrink(&plan, &verdict.name(), Void::None, Duration::from_secs(20));
        assert_eq!(shrunk.run.verdict.name(), verdict.name());
        let operations = shrunk.plan.operations.as_ref().map_or(usize::MAX, Vec::len);
        assert!(shrunk.plan.faults.len() == 1 && operations <= 5, "{operations} operations after {} runs", shrunk.tries);
        let story = crate::story::tell(&shrunk.plan, &shrunk.run, "It is shrunk.", "ringseed-sim");
        let all = story.join("\n");
        assert!(story.len() <= crate::story::LINES_MAX, "{all}");
        for part in ["all lose power", "syncs only every 500 ms", "SAFETY: ", "Replay: ringseed-sim"] {
            assert!(all.contains(part), "{part}:\n{all}");
        }
    }
}
