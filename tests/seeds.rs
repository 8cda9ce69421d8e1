//! Every seed and plan of SEEDS.md is replayed: what it found stays found.

use ringseed_sim::seeds::{Replay, parse};
use ringseed_sim::{Plan, RunOptions, run_plan, story};
use std::path::Path;

#[test]
fn every_seed_that_found_a_bug_is_clean_now() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("SEEDS.md")).expect("SEEDS.md is there");
    let lines = parse(&text).unwrap_or_else(|wrong| panic!("SEEDS.md: {wrong}"));
    let mut broken = Vec::new();
    for line in &lines {
        let (plan, argument) = match &line.replay {
            Replay::Seed(seed) => (Plan::generate(*seed), format!("--seed {seed}")),
            Replay::Plan(path) => {
                let text = std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
                let plan: Plan = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path} holds no plan: {e}"));
                (plan, format!("--plan {path}"))
            }
        };
        let verdict = run_plan(&plan, RunOptions::default()).verdict;
        if !verdict.is_clean() {
            // Shrinking one takes up to a minute.
            let told = if broken.is_empty() { story::of_failure(&plan, &verdict) } else { verdict.to_string() };
            broken.push(format!(
                "{told}\n  it once was: {}\n  reproduce: cargo run --release -p ringseed-sim -- {argument}",
                line.cause
            ));
        }
    }
    assert!(broken.is_empty(), "{} of {} are broken again:\n{}", broken.len(), lines.len(), broken.join("\n"));
    println!("{} seeds and plans of SEEDS.md are clean", lines.len());
}
