//! One run of one plan, and its verdict.

use crate::WorldTime;
use crate::check::{self, Violation};
use crate::counters::{Counters, Kind, Void};
use crate::plan::Plan;
use crate::plan::operations::Operation;
use crate::recovery::Took;
use crate::workload::Stats;
use crate::workload::transactions::LIST_PREFIX;
use crate::world::{Struck, World};
use ringseed::base::sometimes::take_reached;
use ringseed::history::{Action, Outcome, Record};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// What to keep of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// The full text of the trace.
    pub trace: bool,
    /// The clients' history.
    pub history: bool,
    /// Run twice, and compare all that is left of the runs.
    pub twice: bool,
    /// Kinds of fault that do nothing.
    pub void: Void,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Clean,
    /// A promise about what is correct was broken.
    Safety(Violation),
    /// Something did not finish in bounded time (promise P5).
    Liveness(String),
    /// An assertion failed, in the node or in the simulator.
    Panic(String),
    /// Two runs of the plan differ (promise P7).
    Nondeterminism(String),
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        *self == Verdict::Clean
    }

    /// The process's exit code; [`FAULT_NEVER_FIRED`](crate::runner::FAULT_NEVER_FIRED) is another.
    pub fn exit_code(&self) -> u8 {
        match self {
            Verdict::Clean => 0,
            Verdict::Safety(_) => 10,
            Verdict::Liveness(_) => 11,
            Verdict::Panic(_) => 12,
            Verdict::Nondeterminism(_) => 13,
        }
    }

    /// Two failures with the same name are taken for the same by the shrinker.
    pub fn name(&self) -> String {
        match self {
            Verdict::Clean => "clean".into(),
            Verdict::Safety(violation) => format!("{} by {}", violation.promise, violation.checker),
            Verdict::Liveness(_) => "P5".into(),
            Verdict::Panic(what) => format!("panic {}", what.split(" at ").last().unwrap_or_default()),
            Verdict::Nondeterminism(_) => "P7".into(),
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Clean => write!(f, "clean"),
            Verdict::Safety(violation) => write!(f, "SAFETY: {violation}"),
            Verdict::Liveness(what) => write!(f, "LIVENESS: P5 broken: {what}"),
            Verdict::Panic(what) => write!(f, "PANIC: {what}"),
            Verdict::Nondeterminism(what) => write!(f, "NONDETERMINISM: P7 broken: {what}"),
        }
    }
}

/// What is left of a run.
#[derive(Debug)]
pub struct Run {
    pub verdict: Verdict,
    pub counters: Counters,
    pub stats: Stats,
    /// How long the steps after the faults took, as far as it came.
    pub recovery: Vec<Took>,
    pub simulated: WorldTime,
    pub events: u64,
    pub rounds: u64,
    pub trace_hash: u64,
    pub timeline: Vec<String>,
    /// If asked for.
    pub trace: Option<String>,
    /// If asked for.
    pub history: Option<Vec<Record>>,
    /// What the clients asked: a plan with these performs the run again.
    pub operations: Vec<Operation>,
    /// The faults that began, in this order.
    pub strikes: Vec<Struck>,
    /// Keys whose history no checker could decide within its bound.
    pub undecided: usize,
    /// Keys whose history was judged.
    pub keys: usize,
}

/// Runs the plan that `seed` expands to.
pub fn run_seed(seed: u64) -> Run {
    run_plan(&Plan::generate(seed), RunOptions::default())
}

/// Runs a plan; never panics itself.
pub fn run_plan(plan: &Plan, options: RunOptions) -> Run {
    let mut run = run_once(plan, RunOptions { history: options.history || options.twice, ..options });
    if options.twice && run.verdict.is_clean() {
        let again = run_once(plan, RunOptions { history: true, trace: false, ..options });
        if let Some(what) = difference(&run, &again) {
            run.verdict = Verdict::Nondeterminism(what);
        }
    }
    if !options.history {
        run.history = None;
    }
    run
}

/// In what two runs of one plan differ, if they do: events, what clients asked and were told, what was counted, the verdict.
fn difference(one: &Run, other: &Run) -> Option<String> {
    if one.trace_hash != other.trace_hash {
        let (events, hash) = (one.events, one.trace_hash);
        return Some(format!(
            "one run has {events} events with hash {hash:016x}, the other {} with {:016x}",
            other.events, other.trace_hash
        ));
    }
    if one.history != other.history {
        let (one, other) = (one.history.as_deref().unwrap_or_default(), other.history.as_deref().unwrap_or_default());
        let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
        return Some(format!(
            "the clients' histories differ from operation {same} on: {:?}, {:?}",
            one.get(same),
            other.get(same)
        ));
    }
    if (&one.counters, &one.stats, one.rounds, one.simulated, one.undecided)
        != (&other.counters, &other.stats, other.rounds, other.simulated, other.undecided)
    {
        return Some(format!("what was counted differs: {:?}, {:?}", one.counters, other.counters));
    }
    (one.verdict != other.verdict).then(|| format!("one verdict is {}, the other {}", one.verdict, other.verdict))
}

fn run_once(plan: &Plan, options: RunOptions) -> Run {
    take_reached();
    let mut world = match catching(|| World::new(plan, options.trace, options.void)) {
        Ok(world) => world,
        Err(what) => return unborn(what),
    };
    let mut verdict = catching(|| world.run()).unwrap_or_else(Verdict::Panic);
    for (state, times) in take_reached() {
        world.counters.reached(state, times);
    }
    let (mut undecided, mut keys) = (0, 0);
    world.workload.end();
    let history = std::mem::take(&mut world.workload.history);
    if verdict.is_clean() {
        match catching(|| judge(plan, &history, &mut world.counters)) {
            Ok(Ok(report)) => (undecided, keys) = (report.undecided.len(), report.keys),
            Ok(Err(violation)) => verdict = Verdict::Safety(violation),
            Err(what) => verdict = Verdict::Panic(what),
        }
    }
    Run {
        verdict,
        counters: std::mem::take(&mut world.counters),
        stats: world.workload.stats,
        recovery: std::mem::take(&mut world.recovery),
        simulated: world.now(),
        events: world.trace.events(),
        rounds: world.rounds,
        trace_hash: world.trace.hash(),
        timeline: world.timeline.take(),
        trace: world.trace.take_text(),
        history: options.history.then_some(history),
        operations: std::mem::take(&mut world.workload.asked),
        strikes: std::mem::take(&mut world.strikes),
        undecided,
        keys,
    }
}

/// A plan that not even begins.
fn unborn(what: String) -> Run {
    Run {
        verdict: Verdict::Panic(what),
        counters: Counters::default(),
        stats: Stats::default(),
        recovery: Vec::new(),
        simulated: 0,
        events: 0,
        rounds: 0,
        trace_hash: 0,
        timeline: Vec::new(),
        trace: None,
        history: None,
        operations: Vec::new(),
        strikes: Vec::new(),
        undecided: 0,
        keys: 0,
    }
}

/// Judges the clients' history. With clocks beyond the bound, answers that rest on a lease may be wrong: then the judges see the
/// rest, and it is counted whether the whole would have failed.
fn judge(plan: &Plan, history: &[Record], counters: &mut Counters) -> Result<check::Report, Violation> {
    if !counters.spoils_values() {
        check::corruption::check_history(history)?;
    }
    // The search by values alone distrusts the versions, and costs more than all of the run: one plan in four.
    let values = plan.seed.is_multiple_of(4);
    let partitions = Some(plan.cluster.partitions);
    let transactions = &plan.workload.transactions;
    let options = check::Options {
        partitions,
        values,
        steps_max: SEARCH_STEPS_MAX,
        list_prefix: (transactions.lists > 0).then_some(LIST_PREFIX),
        accounts: transactions.accounts,
        deleted_kept: plan.cluster.deleted_kept,
        token_lifetime: plan.token_lifetime_ms().map(|ms| ms * 1_000_000),
        ..check::Options::default()
    };
    if !plan.beyond_drift_bound() {
        return check::check_history(history, &options);
    }
    counters.fired(Kind::ClockBeyond);
    if check::check_history(history, &options).is_err() {
        counters.mattered(Kind::ClockBeyond);
    }
    let firm: Vec<Record> = history.iter().filter(|record| !rests_on_a_lease(record)).cloned().collect();
    check::check_history(&firm, &options)
}

/// Bounds the search of one key's history; what is not decided then is counted, and neither passed nor failed.
const SEARCH_STEPS_MAX: u64 = 100_000;

/// Reads, and conditions that failed: they write nothing, and so no commit has confirmed them.
fn rests_on_a_lease(record: &Record) -> bool {
    !record.action.is_write()
        || matches!(record.action, Action::Scan { .. })
        || matches!(record.outcome, Outcome::ConditionFailed { .. } | Outcome::NotCommitted { .. } | Outcome::Rejected { .. })
}

thread_local! {
    /// Set while this thread runs a plan: a panic is then a finding, and is kept instead of printed.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
    static CATCHING: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs `what`; a panic in it becomes its message and place.
fn catching<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !CATCHING.with_borrow(|catching| *catching) {
                return others(info);
            }
            let payload = info.payload();
            let message = payload.downcast_ref::<&str>().map(ToString::to_string);
            let message = message.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            CAUGHT.set(Some(format!("{message} at {place}")));
        }));
    });
    CATCHING.set(true);
    let result = catch_unwind(AssertUnwindSafe(what));
    CATCHING.set(false);
    result.map_err(|_| CAUGHT.take().unwrap_or_else(|| "a panic that said nothing".into()))
}
