//! The swarm: thousands of seeds of the simulator under plain `cargo test`.
//!
//! A fixed base set, and fresh seeds derived from the commit, so that every commit looks at new ones. One seed in fifty is run
//! twice and its traces compared. Without a test harness of its own, so that what it prints is seen: how many seeds ran, how
//! fast, how often each kind of fault fired and mattered, and which states of the core are reached most seldom. `RINGSEED_SEEDS=N` runs N base seeds instead.

use ringseed_sim::counters::Kind;
use ringseed_sim::points::Point;
use ringseed_sim::{Plan, Summary, run_many, story};
use std::process::{Command, ExitCode};

const BASE_SEEDS: u64 = 2_600;
const FRESH_SEEDS: u64 = 400;
/// Fresh seeds begin far above the base set.
const FRESH_START: u64 = 1 << 32;
const TWICE_EVERY: u64 = 50;

fn main() -> ExitCode {
    // The harness's filters and flags still mean what they do for every other test.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let listing = arguments.iter().any(|argument| argument == "--list");
    if listing || !(filters.is_empty() || filters.iter().any(|filter| "swarm".contains(filter.as_str()))) {
        return ExitCode::SUCCESS;
    }
    let base = std::env::var("RINGSEED_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(BASE_SEEDS);
    let fresh = fresh_start();
    let base = run("base", 0..base);
    let fresh = run("fresh", fresh..fresh + FRESH_SEEDS);
    let mut counters = base.counters.clone();
    counters.add(&fresh.counters);
    println!("{:<36} {:>9} {:>9}", "fault", "fired", "mattered");
    for kind in Kind::ALL {
        let count = counters.get(*kind);
        println!("{:<36} {:>9} {:>9}", kind.name(), count.fired, count.mattered);
    }
    println!("\n{:<52} {:>9} {:>9}", "point of a transaction", "passed", "struck");
    for point in Point::ALL {
        let count = counters.point(*point);
        println!("{:<52} {:>9} {:>9}", point.name(), count.fired, count.mattered);
    }
    let seeds = base.seeds + fresh.seeds;
    println!("\n{:<52} {:>9} {:>9}", "rarest state of the core", "seeds", "times");
    for (state, reached) in counters.states().into_iter().take(10) {
        println!("{:<52} {:>9} {:>9}", format!("{}::{state:?}", state.module()), reached.runs, reached.times);
    }
    let lacks = counters.lacks(seeds);
    lacks.iter().for_each(|what| println!("{what}"));
    let failed = base.failures.len() + fresh.failures.len();
    // Shrinking one takes up to a minute.
    if let Some((seed, verdict)) = base.failures.first().or(fresh.failures.first()) {
        println!("\nseed {seed}: {}", story::of_failure(&Plan::generate(*seed), verdict));
    }
    println!("\n{} passed, {failed} failed", seeds - failed as u64);
    if failed > 0 || !lacks.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(name: &str, seeds: std::ops::Range<u64>) -> Summary {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let summary = run_many(seeds.clone(), jobs, TWICE_EVERY, 5, |_, _| {});
    let seconds = summary.took.as_secs_f64().max(1e-9);
    println!(
        "{name} seeds {}..{}: {} ran in {seconds:.1} s on {jobs} threads, {:.0} a second; {:.0} simulated seconds a second; {} operations done, {} unknown",
        seeds.start,
        seeds.end,
        summary.seeds,
        summary.seeds as f64 / seconds,
        summary.simulated.as_secs_f64() / seconds,
        summary.stats.done,
        summary.stats.unknown,
    );
    for (seed, verdict) in &summary.failures {
        println!("seed {seed}: {verdict}\n  reproduce: cargo run --release -p ringseed-sim -- --seed {seed}");
    }
    summary
}

/// From the commit that is tested; without version control, from the lock file.
fn fresh_start() -> u64 {
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).output().ok().filter(|output| output.status.success());
    let name = commit.map_or_else(|| include_bytes!("../Cargo.lock").to_vec(), |output| output.stdout);
    FRESH_START + (ringseed::base::hash::checksum(0, &name) >> 24) * FRESH_SEEDS
}
