//! Void faults: a kind of fault is drawn as ever, and does nothing. Its counter must notice.
//!
//! A counter that counts a fault as one that mattered could be satisfied by the fault's being done, or by what others do. So for
//! each kind some seeds are found in which it mattered, and are run again with the kind made void ([`Void`]). In none of these it
//! may matter: so a batch of as many seeds as are asked for every kind fails, and says which kind never mattered. A void kind is
//! noticed, too, if a run fails for want of it. A kind that matters in too few seeds is not judged, and that is an error as well.

use crate::counters::{Kind, Void};
use crate::mutants;
use crate::plan::{BootStep, FaultKind, Plan, Rot, Stray, Synced};
use crate::run::{Run, RunOptions, run_plan};
use ringseed::base::hash;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What `ringseed-sim voids` is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Only this kind, by its name in the source.
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    only: Option<Kind>,
    /// Only so many of them: which, the commit says.
    #[arg(long, value_name = "COUNT")]
    some: Option<usize>,
    /// For each kind, the first so many seeds in which it matters are run again without it.
    #[arg(long, default_value_t = 10)]
    seeds: usize,
    /// Kinds judged at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// For a kind, so many seeds are run in which it is drawn, at most, and so many plans looked at.
const RUNS_MAX: usize = 1_500;
const PLANS_MAX: u64 = 200_000;

/// A kind by its name in the source.
///
/// # Errors
/// There is none of this name: which there are.
pub fn parse_kind(name: &str) -> Result<Kind, String> {
    let named = |kind: &&Kind| format!("{kind:?}").eq_ignore_ascii_case(name);
    Kind::ALL.iter().find(named).copied().ok_or_else(|| format!("there is no such kind; there are {:?}", Kind::ALL))
}

/// Makes each kind void, and prints what noticed it. Returns the process's exit code: 0 when all were noticed.
#[must_use]
pub fn run(arguments: &Arguments) -> u8 {
    let mut kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| arguments.only.is_none_or(|only| only == *kind)).collect();
    if let Some(count) = arguments.some
        && let Err(error) = mutants::some_by_commit(&mut kinds, count, |kind| kind.name())
    {
        eprintln!("error: {error}");
        return 2;
    }
    let next = AtomicUsize::new(0);
    let whole = Whole::default();
    let findings = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while let Some(&kind) = kinds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let finding = judge(kind, arguments.seeds, &whole);
                    eprintln!("{}: {}", kind.name(), finding.by);
                    findings.lock().expect("no thread panics while it holds this").insert(kind, finding);
                }
            });
        }
    });
    let mut table = comfy_table::Table::new();
    table.set_header(["void fault", "mattered in", "of seeds", "void in these: noticed by", "history is another in"]);
    let findings = findings.into_inner().expect("no thread panics while it holds this");
    for (kind, finding) in &findings {
        let (mattered, ran, changed) = (finding.mattered.to_string(), finding.ran.to_string(), finding.changed.to_string());
        table.add_row([kind.name(), &mattered, &ran, &finding.by, &changed]);
    }
    println!("{table}");
    if findings.values().all(|finding| finding.noticed) { 0 } else { 1 }
}

/// What came of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// In so many seeds, of those that were run.
    mattered: usize,
    ran: usize,
    /// Without the kind, clients asked or were told something else, or at another time, in so many of those in which it mattered.
    changed: usize,
    noticed: bool,
    by: String,
}

fn judge(kind: Kind, seeds: usize, whole: &Whole) -> Finding {
    let mut finding = Finding { mattered: 0, ran: 0, changed: 0, noticed: true, by: "never mattered".into() };
    for seed in 0..PLANS_MAX {
        if finding.mattered == seeds || finding.ran == RUNS_MAX {
            break;
        }
        let plan = Plan::generate(seed);
        if !may_draw(kind, &plan) {
            continue;
        }
        finding.ran += 1;
        let Some(history) = whole.mattered(&plan, kind) else { continue };
        finding.mattered += 1;
        let void = run_plan(&plan, RunOptions { void: Void::One(kind), history: true, ..RunOptions::default() });
        finding.changed += usize::from(digest(&void) != history);
        if !void.verdict.is_clean() {
            finding.by = format!("seed {seed}: {}", void.verdict.name());
            return finding;
        }
        let times = void.counters.get(kind).mattered;
        if times > 0 {
            (finding.noticed, finding.by) = (false, format!("NOT NOTICED: void in seed {seed}, and mattered {times} times"));
            return finding;
        }
    }
    if finding.mattered < seeds {
        (finding.noticed, finding.by) = (false, format!("NOT JUDGED: it matters in too few seeds to tell, of {seeds}"));
    }
    finding
}

/// Which kinds mattered in seeds that were run with all of their faults, and a digest of the history: most kinds find theirs
/// among the same seeds.
#[derive(Default)]
struct Whole(Mutex<BTreeMap<u64, (Vec<Kind>, u64)>>);

impl Whole {
    /// The digest of the history, if the kind mattered.
    fn mattered(&self, plan: &Plan, kind: Kind) -> Option<u64> {
        let known = self.0.lock().expect("no thread panics while it holds this").get(&plan.seed).cloned();
        let (kinds, history) = known.unwrap_or_else(|| {
            let run = run_plan(plan, RunOptions { history: true, ..RunOptions::default() });
            let found = (run.counters.all_that_mattered(), digest(&run));
            self.0.lock().expect("no thread panics while it holds this").insert(plan.seed, found.clone());
            found
        });
        kinds.contains(&kind).then_some(history)
    }
}

fn digest(run: &Run) -> u64 {
    hash::checksum(0, format!("{:?}", run.history).as_bytes())
}

/// Whether the kind may come up in the plan's run. Those that are not named here come up in many.
fn may_draw(kind: Kind, plan: &Plan) -> bool {
    let any = |is: fn(&FaultKind) -> bool| plan.faults.iter().any(|fault| is(&fault.kind));
    let stands = |counted| {
        plan.standing.as_ref().and_then(|one| one.kind.behaviour().stands.as_ref()).is_some_and(|s| s.counted == counted)
    };
    match kind {
        Kind::PowerLossOfAll => any(|kind| matches!(kind, FaultKind::PowerLossOfAll { .. })),
        Kind::Split => any(|kind| matches!(kind, FaultKind::Split { .. })),
        Kind::Flapping => any(|kind| matches!(kind, FaultKind::Flapping { .. })),
        Kind::NarrowLink => plan.network.bandwidth_kib > 0,
        Kind::ClockRate => any(|kind| matches!(kind, FaultKind::ClockRate { .. })) && !plan.beyond_drift_bound(),
        Kind::ClockBeyond => plan.beyond_drift_bound(),
        Kind::ClockJump => any(|kind| matches!(kind, FaultKind::ClockJump { .. })),
        Kind::ReadError => any(|kind| matches!(kind, FaultKind::ReadErrors { .. })),
        Kind::WrongRead => any(|kind| matches!(kind, FaultKind::WrongReads { .. })),
        Kind::WriteError => any(|kind| matches!(kind, FaultKind::WriteErrors { .. })),
        Kind::SyncError => any(|kind| matches!(kind, FaultKind::SyncErrors { .. })),
        Kind::Full => any(|kind| matches!(kind, FaultKind::Full { .. })) || stands(Kind::StandingFull),
        Kind::Wipe => any(|kind| matches!(kind, FaultKind::Wipe { .. })),
        Kind::SecondLoss => {
            plan.cluster.replication_factor == 5
                && any(|kind| matches!(kind, FaultKind::Wipe { .. } | FaultKind::OldDirectory { .. }))
        }
        Kind::OldDirectory => any(|kind| matches!(kind, FaultKind::OldDirectory { .. })),
        Kind::RotTail => any(|kind| matches!(kind, FaultKind::RotTail { rot, .. } if *rot != Rot::Witness)),
        Kind::RotWitness => any(|kind| matches!(kind, FaultKind::RotTail { rot: Rot::Witness, .. })),
        Kind::RotSynced => any(|kind| matches!(kind, FaultKind::RotSynced { place: Synced::Anywhere | Synced::Header, .. })),
        Kind::RotHeader => any(|kind| matches!(kind, FaultKind::RotSynced { place: Synced::HeaderCopy, .. })),
        Kind::RotRead => any(|kind| matches!(kind, FaultKind::RotSynced { place: Synced::ReadBack, .. })),
        Kind::RotValue => any(|kind| matches!(kind, FaultKind::RotSynced { place: Synced::Values(_), .. })),
        Kind::LostSynced => any(|kind| matches!(kind, FaultKind::StrayWrite { to: Stray::Nowhere, .. })),
        Kind::Misdirected => any(|kind| matches!(kind, FaultKind::StrayWrite { to, .. } if *to != Stray::Nowhere)),
        Kind::CreateError => any(|kind| matches!(kind, FaultKind::CreateErrors { .. })),
        Kind::DirectoryError => any(|kind| matches!(kind, FaultKind::DirectoryErrors { .. })),
        Kind::BootSyncError => any(|kind| matches!(kind, FaultKind::BootErrors { step: BootStep::Sync, .. })),
        Kind::BootListError => any(|kind| matches!(kind, FaultKind::BootErrors { step: BootStep::List, .. })),
        Kind::BootReadError => any(|kind| matches!(kind, FaultKind::BootErrors { step: BootStep::Read, .. })),
        Kind::StandingDead
        | Kind::StandingFull
        | Kind::StandingSlow
        | Kind::StandingAllSlow
        | Kind::StandingCut
        | Kind::StandingOneWay
        | Kind::StandingBadlyConnected => stands(kind),
        Kind::Flood => any(|kind| matches!(kind, FaultKind::Flood { .. })),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::run_those;

    #[test]
    fn where_no_fault_does_anything_none_matters() {
        let summary = run_those(0..40, |_| true, 2, 0, 1, Void::All, |_, _| {});
        assert_eq!(summary.failures, []);
        for &kind in Kind::ALL {
            assert_eq!(summary.counters.get(kind).mattered, 0, "{kind:?}");
        }
        for kind in [Kind::Crash, Kind::Isolation, Kind::Loss, Kind::Duplication, Kind::ClockRate, Kind::SlowDisk, Kind::Pause] {
            assert!(summary.counters.get(kind).fired > 0, "{kind:?}");
        }
        assert_eq!(parse_kind("slowdisk"), Ok(Kind::SlowDisk));
        assert!(parse_kind("slow").is_err_and(|error| error.contains("SlowLink")));
    }
}
