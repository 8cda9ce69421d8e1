//! `ringseed damage` and `ringseed scrub`: what has rotted on the nodes' disks.
//!
//! Each node is asked for itself: each has a disk of its own, and looks for what it lacks at the others.

use super::exit::Failure;
use super::operations::CommonArgs;
use super::show;
use crate::base::{Duration, Key, NodeId, Version};
use crate::client::{Client, Error};
use crate::msg::client::{DamageReport, ScrubReport};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};

#[derive(Debug, Clone, Args)]
pub struct DamageArgs {
    #[command(flatten)]
    pub common: CommonArgs,
}

type Answers = Vec<(NodeId, Result<DamageReport, Error>)>;

/// How often a scrub is looked at, and how often its progress is told.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const TOLD_EVERY: u32 = 10;
/// Looks at which nothing more has been read, after which a scrub that waits for repairs is left alone.
const STANDS_MAX: u32 = 75;

pub async fn damage(client: &Client, args: &DamageArgs) -> Result<(), Failure> {
    show(&client.damage(false).await, args)
}

/// Ends when every node that answers has read all that it has, and has fetched what it can.
pub async fn scrub(client: &Client, args: &DamageArgs) -> Result<(), Failure> {
    let mut answers = client.damage(true).await;
    let reports = |answers: &Answers| -> Vec<DamageReport> {
        answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).cloned().collect()
    };
    let begun = reports(&answers).into_iter().filter(|report| report.scrub.is_under_way);
    let begun: BTreeMap<NodeId, DamageReport> = begun.map(|report| (report.node, report)).collect();
    let (mut read_before, mut stands_since) = (0, 0);
    for look in 1.. {
        let reports = reports(&answers);
        let same = |a: &DamageReport, b: &DamageReport| (a.epoch, a.scrub.passes) == (b.epoch, b.scrub.passes);
        let reads = |report: &&DamageReport| begun.get(&report.node).is_some_and(|begun| same(begun, report));
        let restarted = reports.iter().find(|report| begun.get(&report.node).is_some_and(|begun| begun.epoch != report.epoch));
        if let Some(report) = restarted {
            let node = report.node;
            return Err(Failure::Found(format!("node {node} was restarted, and has not read everything: scrub again")));
        }
        let is_mending = reports.iter().any(|report| report.to_repair > 0);
        let read: u64 = reports.iter().map(|report| report.scrub.read).sum();
        if read != std::mem::replace(&mut read_before, read) {
            stands_since = look;
        } else if look - stands_since > STANDS_MAX && is_mending {
            eprintln!("the scrub waits for nodes that are away: what has rotted is fetched once they are back");
            break;
        }
        let mut reading = reports.iter().filter(reads).peekable();
        // What waits for a member that is away is not waited for.
        if reading.peek().is_none() && (!is_mending || look % (5 * TOLD_EVERY) == 0) {
            break;
        }
        if look % TOLD_EVERY == 0 {
            let progress: Vec<String> =
                reading.map(|report| format!("node {}: {}", report.node, of_scrub(&report.scrub))).collect();
            eprintln!("{}", if progress.is_empty() { "values are being fetched".to_owned() } else { progress.join("; ") });
        }
        tokio::time::sleep(LOOK_EVERY).await;
        answers = client.damage(false).await;
    }
    show(&answers, args)
}

fn of_scrub(scrub: &ScrubReport) -> String {
    let ScrubReport { passes, is_under_way, values, read, found } = *scrub;
    let found = if found == 0 { String::new() } else { format!(", {found} rotten") };
    match (is_under_way, passes) {
        (true, _) => format!("{read} of {values} values read{found}"),
        (false, 0) => "none since it started".to_owned(),
        (false, _) => format!("all {read} values read{found}"),
    }
}

/// The values that are lost, and the nodes that say so.
fn lost(answers: &Answers) -> BTreeMap<(Key, Version), Vec<NodeId>> {
    let mut lost: BTreeMap<(Key, Version), Vec<NodeId>> = BTreeMap::new();
    for report in answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()) {
        for value in &report.lost {
            lost.entry((value.key.clone(), value.version)).or_default().push(report.node);
        }
    }
    lost
}

fn show(answers: &Answers, args: &DamageArgs) -> Result<(), Failure> {
    let lost = lost(answers);
    if let Some((_, Err(error))) = answers.first()
        && answers.iter().all(|(_, answer)| answer.is_err())
    {
        return Err(Failure::Client(error.clone()));
    }
    if args.common.json {
        let nodes: Vec<Value> = answers.iter().map(|(node, answer)| node_json(*node, answer)).collect();
        let lost: Vec<Value> = lost.iter().map(|((key, version), nodes)| lost_json(key, *version, nodes)).collect();
        writeln!(io::stdout(), "{:#}", json!({ "outcome": "ok", "lost": lost, "nodes": nodes }))?;
    } else {
        let mut table = show::table(&["NODE", "ROTTEN READS", "REPAIRED", "TO REPAIR", "LOST", "SCRUB"]);
        for (node, answer) in answers {
            match answer {
                Ok(report) => table.add_row([
                    node.to_string(),
                    report.corrupt_reads.to_string(),
                    report.repaired.to_string(),
                    report.to_repair.to_string(),
                    report.lost.len().to_string(),
                    of_scrub(&report.scrub),
                ]),
                Err(error) => table.add_row([&*node.to_string(), "?", "?", "?", "?", &error.to_string()]),
            };
        }
        show::print(&table)?;
        for ((key, version), nodes) in &lost {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            writeln!(io::stdout(), "lost: {key} (version {}, say nodes {})", version.0, nodes.join(", "))?;
        }
    }
    match lost.len() {
        0 => Ok(()),
        count => Err(Failure::Found(format!(
            "of {count} keys no replica has a whole value: write or delete them, or bring back a node that has"
        ))),
    }
}

fn lost_json(key: &Key, version: Version, nodes: &[NodeId]) -> Value {
    let mut object = json!({ "version": version.0, "nodes": nodes.iter().map(|node| node.0).collect::<Vec<_>>() });
    show::put_key(&mut object, key);
    object
}

fn node_json(node: NodeId, answer: &Result<DamageReport, Error>) -> Value {
    match answer {
        Ok(report) => json!({
            "node": node.0,
            "corrupt_reads": report.corrupt_reads,
            "repaired": report.repaired,
            "to_repair": report.to_repair,
            "lost": report.lost.len(),
            "scrub": {
                "passes": report.scrub.passes,
                "under_way": report.scrub.is_under_way,
                "values": report.scrub.values,
                "read": report.scrub.read,
                "rotten": report.scrub.found,
            },
        }),
        Err(error) => json!({ "node": node.0, "why": error.to_string() }),
    }
}
