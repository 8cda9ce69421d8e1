//! A run that failed, told in a few lines: the cluster, what is unusual, what happened in order of time, what is wrong, and how
//! to see it again.
//!
//! A run of few events is told in whole. Of a longer one the lines go first that matter least: errands after the faults, what
//! nodes said about themselves, then operations on keys that the verdict does not name, then what came early.

use crate::counters::Void;
use crate::faults::words::fast;
use crate::plan::operations::Operation;
use crate::plan::{Ending, Fault, Plan, Setting};
use crate::run::{Run, RunOptions, Verdict};
use crate::shrink::{Shrunk, shrink};
use crate::trace::clock_face;
use crate::{check, run_plan};
use ringseed::history::Record;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// The most lines of a story.
pub const LINES_MAX: usize = 30;
/// Of these, the most that say what is wrong.
const VERDICT_LINES_MAX: usize = 6;
/// The most characters of a line.
const WIDTH_MAX: usize = 220;

/// Shrinks a plan that failed while faults that are `void` do nothing, saves what comes of it as `file`, and tells it.
///
/// # Errors
/// The file cannot be written.
pub fn shrunk(plan: &Plan, verdict: &Verdict, void: Void, file: &Path, budget: Duration) -> Result<String, String> {
    let Shrunk { plan: small, run, tries, took } = shrink(plan, &verdict.name(), void, budget);
    let text = serde_json::to_string_pretty(&small).expect("a plan is plain data");
    let made = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(file, text)).map_err(|e| format!("{}: {e}", file.display()))?;
    let all = run_plan(plan, RunOptions { void, ..RunOptions::default() }).operations.len();
    let faults = |plan: &Plan| plan.faults.len() + usize::from(plan.standing.is_some());
    let head = format!(
        "Shrunk to {} of {} faults and {} of {all} operations, by {tries} runs in {} s.",
        faults(&small),
        faults(plan),
        small.operations.as_ref().map_or(all, Vec::len),
        took.as_secs()
    );
    let voided = if let Void::One(kind) = void { format!(" --void {kind:?}") } else { String::new() };
    let command = format!("cargo run --release -p ringseed-sim -- --plan {}{voided}", file.display());
    Ok(tell(&small, &run, &head, &command).join("\n"))
}

/// For a test that reports a plan that failed: shrinks it within a minute, and tells it behind the verdict.
pub fn of_failure(plan: &Plan, verdict: &Verdict) -> String {
    let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = sim.with_file_name("target").join(format!("shrunk-seed-{}.json", plan.seed));
    let told = shrunk(plan, verdict, Void::None, &file, Duration::from_secs(50));
    format!("{verdict}\n\n{}", told.unwrap_or_else(|error| error))
}

/// The story of a run of this plan, with its history, in at most [`LINES_MAX`] lines.
pub fn tell(plan: &Plan, run: &Run, head: &str, command: &str) -> Vec<String> {
    let verdict = run.verdict.to_string();
    let mut wrong: Vec<String> = verdict.lines().map(ToString::to_string).collect();
    if wrong.len() > VERDICT_LINES_MAX {
        let more = wrong.len() - VERDICT_LINES_MAX + 1;
        wrong.truncate(VERDICT_LINES_MAX - 1);
        wrong.push(format!("  ... and {more} lines more"));
    }
    let mut lines = vec![head.to_owned(), cluster(plan)];
    lines.extend(unusual(plan));
    let mut events = events(plan, run);
    let room = LINES_MAX - lines.len() - wrong.len() - 1;
    let left_out = choose(&mut events, room, &verdict);
    if left_out > 0 {
        lines.push(format!("  ... {left_out} lines are left out"));
    }
    lines.extend(events.into_iter().map(|event| event.line));
    lines.extend(wrong);
    lines.push(format!("Replay: {command}"));
    lines.into_iter().map(cut).collect()
}

/// A plan's cluster, in one line.
pub fn cluster(plan: &Plan) -> String {
    let many = |count: usize, of: &str| if count == 1 { format!("1 {of}") } else { format!("{count} {of}s") };
    let ending = match plan.ending {
        Ending::HealAll => "then all faults end",
        Ending::HealMajority => "then all faults end, but one node stays dead",
        Ending::HealFew => "then all restart, but only a bare majority of one partition returns",
        Ending::NeverHeal => "and there it ends",
    };
    format!(
        "Seed {}: {}, {} on {} nodes each, {}; faults for {} ms, {ending}.",
        plan.seed,
        many(plan.nodes.len(), "node"),
        many(plan.cluster.partitions as usize, "partition"),
        plan.cluster.replication_factor,
        many(plan.workload.clients as usize, "client"),
        plan.faults_ms
    )
}

/// The options that are not as in the plainest plan, in one line or none. What most nodes share is said once.
pub fn unusual(plan: &Plan) -> Option<String> {
    let settings = plan.settings();
    let nodes = plan.nodes.len();
    let mut said: BTreeSet<String> = BTreeSet::new();
    let mut parts = Vec::new();
    for setting in &settings {
        let of_node = setting.part.starts_with('n') && setting.part != "network";
        let same = settings.iter().filter(|other| (&other.name, &other.value) == (&setting.name, &setting.value)).count();
        let words = words(setting);
        let said_of = match (of_node, same == nodes) {
            (false, _) => words,
            (true, true) => format!("every node: {words}"),
            (true, false) => format!("{}: {words}", setting.part),
        };
        if said.insert(said_of.clone()) {
            parts.push(said_of);
        }
    }
    if let Some(calm) = plan.calm_from_ms {
        parts.push(format!("from {calm} ms on nothing is wrong"));
    }
    (!parts.is_empty()).then(|| format!("Unusual: {}.", parts.join("; ")))
}

/// An option in plain words; by its name, if it is a new one.
fn words(setting: &Setting) -> String {
    let value = setting.value.as_str().map_or_else(|| setting.value.to_string(), ToString::to_string);
    let number = setting.value.as_i64().unwrap_or(0);
    match setting.name.as_str() {
        "support_ms" => format!("support lasts {value} ms"),
        "clock_drift_ppm_max" => format!("clocks may drift by {} %", number as f64 / 10_000.0),
        "boot_ms" => format!("first starts at {value} ms"),
        "heartbeat_ms" => format!("a heartbeat every {value} ms"),
        "wal_sync_ms" => format!("syncs only every {value} ms"),
        "scrub_ms" => format!("a scrub every {value} ms"),
        "segment_kib" => format!("segments of {value} KiB"),
        "cache_kib" => format!("a cache of {value} KiB"),
        "zone" => format!("in zone {value}"),
        "clock_offset_ms" => format!("its clock shows {value} ms at boot"),
        "clock_ppm" => format!("its clock runs {}", fast(number)),
        "wall_ahead_ms" => format!("its wall clock is {value} ms ahead"),
        "changes_settings" => "is started again with other settings".into(),
        "weight" => format!("its weight is {value}"),
        "steps_max" => format!("up to {value} steps to a flush"),
        "latency_us" => format!("messages take {value} us"),
        "jitter_us" if setting.part == "network" => format!("messages take up to {value} us longer"),
        "jitter_us" => format!("disks take up to {value} us longer"),
        "loss_permille" => format!("{value} of 1,000 messages are lost"),
        "duplication_permille" => format!("{value} of 1,000 messages come twice"),
        "reordering_permille" => format!("{value} of 1,000 messages are overtaken"),
        "bandwidth_kib" => format!("a link carries {value} KiB a second"),
        "write_us" => format!("a write takes {value} us"),
        "sync_us" => format!("a sync takes {value} us"),
        "read_us" => format!("a read takes {value} us"),
        "timeout_ms" => format!("clients give the cluster {value} ms"),
        "accounts" => format!("{value} accounts"),
        "lists" => format!("{value} lists"),
        name => format!("{} {value}", name.replace('_', " ")),
    }
}

/// A line of what happened.
struct Event {
    line: String,
    kind: Kind,
}

/// What matters least comes first.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Errand,
    Note,
    Operation,
    Fault,
}

/// In order of time, which every line begins with.
fn events(plan: &Plan, run: &Run) -> Vec<Event> {
    let mut events = Vec::new();
    let standing = plan.standing.as_ref().map(|standing| Fault {
        at_ms: standing.at_ms,
        for_ms: u64::MAX,
        when: None,
        nth: 0,
        kind: standing.kind.clone(),
    });
    for (number, fault) in plan.faults.iter().chain(&standing).enumerate() {
        let strike = run.strikes.iter().find(|strike| strike.fault == number);
        let (at, node) = strike.map_or((fault.at_ms * 1_000_000, None), |strike| (strike.at, strike.node));
        let never = if strike.is_none() { "; it never began" } else { "" };
        let line = format!("{} ** {}{never}", clock_face(at), fault.words(node));
        events.push(Event { line, kind: Kind::Fault });
    }
    let history = run.history.as_deref().unwrap_or_default();
    for operation in &run.operations {
        let what = match history.iter().find(|record| is_of(record, operation)) {
            Some(record) => told(record),
            None => "its token is released".into(),
        };
        let line =
            format!("{} client {} asks n{}: {what}", clock_face(operation.at_us * 1_000), operation.client, operation.node);
        events.push(Event { line, kind: Kind::Operation });
    }
    let is_errand = |record: &&Record| !run.operations.iter().any(|operation| is_of(record, operation));
    events.extend(history.iter().filter(is_errand).map(|record| {
        let line = format!("{} client {}'s errand: {}", clock_face(record.start), record.process, told(record));
        Event { line, kind: Kind::Errand }
    }));
    // Of the timeline's own lines those about faults and verdict are told above and below.
    let own = |line: &&String| !line.contains(" -- ") && !run.verdict.to_string().contains(line.get(12..).unwrap_or_default());
    events.extend(run.timeline.iter().filter(own).map(|line| Event { line: line.clone(), kind: Kind::Note }));
    events.sort_by(|one, other| one.line[..11].cmp(&other.line[..11]));
    events
}

/// Whether the record says what came of the operation: a client asks for one thing at a time.
fn is_of(record: &Record, operation: &Operation) -> bool {
    record.process == u64::from(operation.client) && record.start / 1_000 == operation.at_us
}

/// What was asked, and what came of it, how much later.
fn told(record: &Record) -> String {
    let later = record.end.map_or(String::new(), |end| format!(", {:.1} ms later", (end - record.start) as f64 / 1e6));
    format!("{} -> {}{later}", check::render::action(&record.action), check::render::outcome(&record.outcome))
}

/// Keeps so many lines, those that matter most; says how many are gone.
fn choose(events: &mut Vec<Event>, room: usize, verdict: &str) -> usize {
    let all = events.len();
    if all <= room {
        return 0;
    }
    let room = room - 1;
    let mut drop = |matters_less: &dyn Fn(&Event) -> bool| {
        let mut excess = events.len().saturating_sub(room);
        events.retain(|event| {
            let goes = excess > 0 && matters_less(event);
            excess -= usize::from(goes);
            !goes
        });
    };
    // What an operation was about stands in the verdict as in its line.
    let is_named = |event: &Event| {
        let asked = event.line.split(": ").nth(1).unwrap_or_default();
        asked
            .split([' ', ',', '[', ']'])
            .any(|word| word.len() > 1 && verdict.split([' ', ',', '[', ']', '"']).any(|other| other == word))
    };
    drop(&|event| event.kind == Kind::Errand);
    drop(&|event| event.kind == Kind::Note);
    drop(&|event| event.kind == Kind::Operation && !is_named(event));
    drop(&|event| event.kind == Kind::Operation);
    drop(&|_| true);
    all - events.len()
}

fn cut(line: String) -> String {
    match line.char_indices().nth(WIDTH_MAX) {
        Some((at, _)) => format!("{} ...", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Violation;

    #[test]
    fn the_story_of_any_run_has_no_more_lines_than_it_may() {
        for seed in 0..30 {
            let plan = Plan::generate(seed);
            let mut run = run_plan(&plan, RunOptions { history: true, ..RunOptions::default() });
            let what = (0..40).map(|line| format!("line {line}\n")).collect();
            run.verdict = Verdict::Safety(Violation { promise: "P1", checker: "linear", what });
            let story = tell(&plan, &run, "head", "command");
            assert_eq!(story.len(), LINES_MAX, "{}", story.join("\n"));
            assert!(story.iter().all(|line| line.chars().count() <= WIDTH_MAX + 4));
        }
    }

    #[test]
    fn plans_are_told_in_words() {
        for seed in 0..400 {
            let plan = Plan::generate(seed);
            let faults = plan.faults.iter().map(|fault| fault.words(None));
            let options = plan.settings();
            let known = options.iter().filter(|setting| !matches!(&setting.part[..], "workload" | "transactions")).map(words);
            for line in faults.chain(known).chain([cluster(&plan)]) {
                assert!(!line.contains(['_', '{']), "seed {seed}: {line}");
            }
        }
    }

    #[test]
    fn what_the_verdict_names_is_kept_longest() {
        let event = |kind, line: &str| Event { line: line.into(), kind };
        let mut events = vec![
            event(Kind::Note, "n1 boots"),
            event(Kind::Operation, "client 0 asks n1: put r7 = \"1\" -> done v3"),
            event(Kind::Operation, "client 0 asks n1: put r5 = \"2\" -> done v4"),
            event(Kind::Fault, "** n1 is cut off"),
        ];
        assert_eq!(choose(&mut events, 3, "key r7 lost \"x\""), 2);
        let lines: Vec<&str> = events.iter().map(|event| &event.line[..]).collect();
        assert_eq!(lines, ["client 0 asks n1: put r7 = \"1\" -> done v3", "** n1 is cut off"]);
    }
}
