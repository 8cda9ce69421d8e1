//! The simulator's command line.

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use ringseed_sim::counters::{Counters, Kind, Void};
use ringseed_sim::plan::Plan;
use ringseed_sim::points::Point;
use ringseed_sim::{Run, RunOptions, Summary, Verdict, run_plan, run_those, story};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const EXIT_CODES: &str = "\
Exit codes:
   0  every run was clean
   2  the command line, or a file named by it, is wrong
  10  safety: a promise about what is correct was broken
  11  liveness: something did not finish in bounded time after the faults (P5)
  12  panic: an assertion failed
  13  nondeterminism: two runs of one plan differ (P7)
  14  all clean, but in 1,000 seeds or more some kind of fault never fired or never mattered, or in 2,000 some state of the
      core was never reached, or more than one key in 10,000 was not judged
When runs of a batch fail in different ways, the first failing seed decides.";

/// Runs the real Ringseed node in a seeded world of crashes, partitions and disk faults.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Run one seed: print its options, a timeline, the fault counters and the verdict.
    #[arg(long, conflicts_with_all = ["seeds", "plan"])]
    seed: Option<u64>,
    /// Run many seeds: from A up to, not including, B.
    #[arg(long, value_name = "A..B", value_parser = parse_range, conflicts_with = "plan")]
    seeds: Option<Range<u64>>,
    /// With --seeds: only those whose scenario's name contains this; "swarm" for those of no scenario.
    #[arg(long, value_name = "PART", requires = "seeds")]
    scenario: Option<String>,
    /// Run a saved plan.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Threads for --seeds [default: one per core].
    #[arg(long)]
    jobs: Option<usize>,
    /// With --seeds: stop after this many failures.
    #[arg(long, default_value_t = 10)]
    failures: usize,
    /// With --seeds: stop after the first failure, and say in one line how many seeds it took.
    #[arg(long)]
    stop_at_failure: bool,
    /// Faults of this kind do nothing.
    #[arg(long, value_name = "KIND", value_parser = ringseed_sim::voids::parse_kind)]
    void: Option<Kind>,
    /// Print how often every state of the core was reached, and not only the ten rarest of many seeds.
    #[arg(long)]
    states: bool,
    /// Run every plan twice, and compare the traces. Without it, one seed in 50 of --seeds.
    #[arg(long)]
    check_determinism: bool,
    /// Write the plan, as JSON; with --shrink the shrunk plan [default then: target/shrunk-plan.json].
    #[arg(long, value_name = "FILE")]
    save_plan: Option<PathBuf>,
    /// Write what the clients asked and were told, as JSON lines.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Write every event, as text.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// If the run fails, look for a smaller plan that fails in the same way, save it, and tell its story.
    #[arg(long)]
    shrink: bool,
    /// For how long --shrink looks, about.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    shrink_seconds: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plant each bug of sim/mutants in a copy of the source, and run seeds until it is caught.
    Mutants(ringseed_sim::mutants::Arguments),
    /// Make each kind of fault void, run seeds, and see that its counter notices.
    Voids(ringseed_sim::voids::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Mutants(mutants)) => return ExitCode::from(ringseed_sim::mutants::run(mutants)),
        Some(Command::Voids(voids)) => return ExitCode::from(ringseed_sim::voids::run(voids)),
        None => {}
    }
    match run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(what) => {
            eprintln!("error: {what}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<u8, String> {
    if let Some(part) = &arguments.scenario {
        check_scenario(part)?;
    }
    if let Some(seeds) = &arguments.seeds {
        return Ok(run_seeds(arguments, seeds.clone()));
    }
    let (plan, command) = match (&arguments.plan, arguments.seed) {
        (Some(file), _) => (read_plan(file)?, format!("--plan {}", file.display())),
        (None, Some(seed)) => (Plan::generate(seed), format!("--seed {seed}")),
        (None, None) => return Err("give --seed N, --seeds A..B or --plan FILE; see --help".into()),
    };
    run_one(arguments, &plan, &command)
}

/// A part that is in no scenario's name would run nothing, and find nothing.
fn check_scenario(part: &str) -> Result<(), String> {
    let names = || ringseed_sim::plan::scenario_names();
    match names().any(|name| name.contains(part)) {
        true => Ok(()),
        false => Err(format!(
            "--scenario: no scenario's name contains \"{part}\"; there are:\n  {}",
            names().collect::<Vec<_>>().join("\n  ")
        )),
    }
}

fn run_one(arguments: &Arguments, plan: &Plan, command: &str) -> Result<u8, String> {
    print_plan(plan);
    let options = RunOptions {
        trace: arguments.trace.is_some(),
        history: arguments.history.is_some(),
        twice: arguments.check_determinism,
        void: void(arguments),
    };
    let run = run_plan(plan, options);
    println!("\nTimeline (simulated seconds)");
    run.timeline.iter().for_each(|line| println!("{line}"));
    println!();
    print_counters(&run.counters, false);
    if arguments.states {
        print_states(&run.counters, 1, usize::MAX);
    }
    let stats = run.stats;
    println!(
        "{} operations: {} done, {} conditions failed, {} rejected, {} unknown; {} events, {} rounds, {:.1} simulated seconds, trace {:016x}",
        stats.done + stats.conditions_failed + stats.rejected + stats.unknown,
        stats.done,
        stats.conditions_failed,
        stats.rejected,
        stats.unknown,
        run.events,
        run.rounds,
        run.simulated as f64 / 1e9,
        run.trace_hash
    );
    if run.undecided > 0 {
        println!("{} keys could not be judged within the checkers' bound", run.undecided);
    }
    save(arguments, plan, &run)?;
    println!("\nVerdict: {}", run.verdict);
    println!("Reproduce: cargo run --release -p ringseed-sim -- {command}");
    if arguments.shrink && !run.verdict.is_clean() {
        shrink_it(arguments, plan, &run.verdict)?;
    }
    Ok(run.verdict.exit_code())
}

fn void(arguments: &Arguments) -> Void {
    arguments.void.map_or(Void::None, Void::One)
}

fn save(arguments: &Arguments, plan: &Plan, run: &Run) -> Result<(), String> {
    if let Some(file) = &arguments.save_plan {
        write_plan(file, plan)?;
    }
    if let (Some(file), Some(text)) = (&arguments.trace, &run.trace) {
        write(file, text.as_bytes())?;
    }
    if let (Some(file), Some(history)) = (&arguments.history, &run.history) {
        let mut writer = ringseed::history::Writer::new(Vec::new());
        for record in history {
            writer.write(record).map_err(|e| e.to_string())?;
        }
        write(file, &writer.finish().map_err(|e| e.to_string())?)?;
    }
    Ok(())
}

fn shrink_it(arguments: &Arguments, plan: &Plan, verdict: &Verdict) -> Result<(), String> {
    let file = arguments.save_plan.clone().unwrap_or_else(|| PathBuf::from("target/shrunk-plan.json"));
    let budget = Duration::from_secs(arguments.shrink_seconds);
    println!("\nShrinking ({}) for up to {} s ...\n", verdict.name(), budget.as_secs());
    println!("{}", story::shrunk(plan, verdict, void(arguments), &file, budget)?);
    Ok(())
}

fn run_seeds(arguments: &Arguments, seeds: Range<u64>) -> u8 {
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let bar = ProgressBar::new(seeds.end.saturating_sub(seeds.start));
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {per_sec}, {eta} left  {msg}").expect("the template is right");
    bar.set_style(style);
    let twice_every = if arguments.check_determinism { 1 } else { 50 };
    let failures_max = if arguments.stop_at_failure { 1 } else { arguments.failures.max(1) };
    let first = seeds.start;
    let wanted = |plan: &Plan| arguments.scenario.as_ref().is_none_or(|part| plan.scenario.contains(part));
    let summary = run_those(seeds, wanted, jobs, twice_every, failures_max, void(arguments), |seed, run| {
        bar.inc(1);
        if !run.verdict.is_clean() {
            bar.suspend(|| {
                println!("seed {seed}: {}", run.verdict);
                println!("  reproduce: cargo run --release -p ringseed-sim -- --seed {seed}");
            });
        }
    });
    bar.finish_and_clear();
    print_summary(&summary, if arguments.states { usize::MAX } else { STATES_SHOWN });
    if arguments.stop_at_failure
        && let Some((seed, verdict)) = summary.failures.first()
    {
        println!("first failure: seed {seed}, after {} seeds: {}", seed - first + 1, verdict.name());
    }
    summary.exit_code()
}

fn print_summary(summary: &Summary, states_max: usize) {
    print_counters(&summary.counters, true);
    print_states(&summary.counters, summary.seeds, states_max);
    let took = summary.took.as_secs_f64();
    let simulated = summary.simulated.as_secs_f64();
    println!(
        "{} seeds in {took:.1} s ({:.0} a second), {simulated:.0} simulated seconds ({:.0} a second), {} events",
        summary.seeds,
        summary.seeds as f64 / took,
        simulated / took,
        summary.events
    );
    print!("{}", summary.recoveries.table());
    let stats = summary.stats;
    println!(
        "operations: {} done, {} conditions failed, {} rejected, {} unknown; {} transactions committed, {} met a conflict; {} tokens released; {} of {} keys undecided",
        stats.done,
        stats.conditions_failed,
        stats.rejected,
        stats.unknown,
        stats.committed,
        stats.conflicts,
        stats.released,
        summary.undecided,
        summary.keys
    );
    let lacks = summary.lacks();
    lacks.iter().for_each(|what| println!("{what}"));
    if summary.failures.is_empty() && lacks.is_empty() {
        println!("clean");
    } else if summary.failures.is_empty() {
        println!("every seed is clean, but {} things are missing", lacks.len());
    } else {
        println!("{} seeds failed:", summary.failures.len());
        summary.failures.iter().for_each(|(seed, verdict)| println!("  {seed}: {}", verdict.name()));
    }
}

/// A table of how often each kind of fault fired and mattered; `all`: also those that never did.
fn print_counters(counters: &Counters, all: bool) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["fault", "fired", "mattered", "left out: history changed"]);
    for &kind in Kind::ALL {
        let count = counters.get(kind);
        if all || count.fired > 0 {
            let left_out = counters.left_out(kind);
            let changed =
                if left_out.fired == 0 { String::new() } else { format!("{} of {}", left_out.mattered, left_out.fired) };
            table.add_row([kind.name().to_owned(), count.fired.to_string(), count.mattered.to_string(), changed]);
        }
    }
    println!("{table}");
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["point of a transaction", "passed", "struck"]);
    for &point in Point::ALL {
        let count = counters.point(point);
        if all || count.mattered > 0 {
            table.add_row([point.name().to_owned(), count.fired.to_string(), count.mattered.to_string()]);
        }
    }
    if table.row_count() > 0 {
        println!("{table}");
    }
}

/// How many states of the core are printed, the rarest.
const STATES_SHOWN: usize = 10;

fn print_states(counters: &Counters, seeds: u64, states_max: usize) {
    let mut table = comfy_table::Table::new();
    let states = counters.states();
    let title = format!("state of the core ({} in all), the rarest first", states.len());
    table.load_style(comfy_table::presets::NOTHING).set_header([title, format!("seeds of {seeds}"), "times".to_owned()]);
    for (state, reached) in states.into_iter().take(states_max) {
        table.add_row([format!("{}::{state:?}", state.module()), reached.runs.to_string(), reached.times.to_string()]);
    }
    println!("{table}");
}

fn print_plan(plan: &Plan) {
    println!("{}", story::cluster(plan));
    println!("Scenario: {}", plan.scenario);
    story::unusual(plan).iter().for_each(|line| println!("{line}"));
    for fault in &plan.faults {
        println!("  {:>6} ms: {}", fault.at_ms, fault.words(None));
    }
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("expected A..B, for example 0..1000")?;
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("\"{text}\": {e}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("the range is empty: A must be less than B".into()) } else { Ok(range) }
}

fn read_plan(file: &Path) -> Result<Plan, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{} holds no plan: {e}", file.display()))
}

fn write_plan(file: &Path, plan: &Plan) -> Result<(), String> {
    write(file, serde_json::to_string_pretty(plan).expect("a plan is plain data").as_bytes())
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(file, bytes).map_err(|e| format!("{}: {e}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_that_is_none_is_an_error_that_lists_them() {
        let error = check_scenario("an old direktory").expect_err("there is none");
        assert!(error.contains("an old directory comes back"), "{error}");
        assert_eq!(check_scenario("old directory"), Ok(()));
    }
}
