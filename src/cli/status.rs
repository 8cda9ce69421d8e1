//! `ringseed status`: every node at one look.
//!
//! Each node is asked for itself. How long one that does not answer has been away, and how far each lags, is what the others say
//! of it.

use super::exit::Failure;
use super::operations::CommonArgs;
use super::show;
use crate::base::{Duration, NodeId};
use crate::client::{Client, Error};
use crate::msg::client::{Membership, PeerReport, RingReport, StatusReport};
use crate::msg::cluster::Member;
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, Write};

#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Also print every node's counters
    #[arg(long)]
    pub counters: bool,
    /// End with exit code 9 unless all is well
    #[arg(long)]
    pub check: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

type Answers = Vec<(NodeId, Result<StatusReport, Error>)>;

/// What a terminal shows on one line at least.
const COLUMNS: usize = 80;

pub async fn status(client: &Client, args: &StatusArgs) -> Result<(), Failure> {
    let answers = client.statuses().await;
    // Before the cluster has formed there is no ring to ask for, and no member to name.
    let ring = client.ring().await.ok();
    let members = ring.as_ref().map(|ring| ring.formation.members.as_slice()).unwrap_or_default();
    let cares = cares(&answers, ring.as_ref());
    if args.common.json {
        let cluster = ring.as_ref().map(|ring| ring.formation.cluster.to_string());
        let nodes: Vec<Value> = answers.iter().map(|(node, answer)| node_json(*node, answer, &answers, members)).collect();
        let object = json!({ "outcome": "ok", "cluster": cluster, "well": cares.is_empty(), "cares": cares, "nodes": nodes });
        writeln!(io::stdout(), "{object:#}")?;
    } else {
        show_text(&answers, ring.as_ref(), &cares)?;
        if args.counters {
            counters(&answers)?;
        }
    }
    if args.check && !cares.is_empty() { Err(Failure::NotWell(cares.len())) } else { Ok(()) }
}

/// A verdict, then each thing that needs care on a line of its own, then the nodes.
fn show_text(answers: &Answers, ring: Option<&RingReport>, cares: &[String]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match (cares.len(), ring) {
        (0, Some(ring)) => {
            writeln!(out, "all well: {} nodes up, {} partitions led", answers.len(), ring.partitions.len())?;
        }
        (1, _) => writeln!(out, "1 thing needs care:")?,
        (count, _) => writeln!(out, "{count} things need care:")?,
    }
    cares.iter().try_for_each(|care| writeln!(out, "- {care}"))?;
    writeln!(out)?;
    let members = ring.map(|ring| ring.formation.members.as_slice()).unwrap_or_default();
    if let Some(ring) = ring {
        writeln!(out, "cluster {}\n", ring.formation.cluster)?;
    }
    let nodes = |with_addresses: bool| {
        let mut head = vec!["NODE", "STATE", "SINCE", "LEADS", "ITEMS", "BEHIND", "LOG", "CPU"];
        head.extend(with_addresses.then_some("ADDRESS"));
        let mut table = show::table(&head);
        for (node, answer) in answers {
            let mut row = row(*node, answer, answers);
            row.extend(with_addresses.then(|| address(*node, members)));
            table.add_row(row);
        }
        table
    };
    let whole = nodes(true);
    if whole.to_string().lines().all(|line| line.trim_end().chars().count() <= COLUMNS) {
        return Ok(show::print_to(&mut out, &whole)?);
    }
    show::print_to(&mut out, &nodes(false))?;
    writeln!(out)?;
    Ok(answers.iter().try_for_each(|(node, _)| writeln!(out, "node {node}: {}", address(*node, members)))?)
}

/// What an operator should look at, each in a sentence. Empty: all is well.
fn cares(answers: &Answers, ring: Option<&RingReport>) -> Vec<String> {
    let mut cares = Vec::new();
    let reports = || answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    match ring {
        None => cares.push("the cluster has not formed yet: it waits for all its initial members".to_owned()),
        Some(ring) => {
            let (all, led) = (ring.partitions.len(), reports().map(|report| report.groups_led as usize).sum::<usize>());
            if led < all {
                let missing = all - led;
                cares.push(format!(
                    "{missing} of {all} partitions have no leader that answers: a majority of their replicas is away"
                ));
            }
        }
    }
    for (node, answer) in answers {
        match answer {
            Err(error) => {
                let away = away_for(*node, answers).map_or_else(String::new, |away| format!(", for {}", show::span(away)));
                cares.push(format!("node {node} is down{away}: {error}"));
            }
            Ok(report) => cares.extend(cares_of(*node, report)),
        }
    }
    cares
}

fn cares_of(node: NodeId, report: &StatusReport) -> Vec<String> {
    let mut cares = Vec::new();
    if let Membership::Refused(why) = &report.membership {
        cares.push(format!("node {node} is refused: {why}"));
    }
    let needed = show::amount(report.disk_bytes_needed);
    let count = |name: &str| report.counters.iter().find(|(other, _)| other == name).map_or(0, |(_, count)| *count);
    match (report.disk_full, report.disk_bytes_needed) {
        (true, _) => cares.push(format!("node {node}'s disk is full: its log needs {needed} more; until then it only deletes")),
        (false, 0) if count("unfit") > 0 => {
            cares.push(format!(
                "node {node}'s disk is far slower than its peers' (a sync takes {} ms): it leads nothing",
                count("sync_latency_ms")
            ));
        }
        (false, 0) => {}
        (false, _) => cares.push(format!("node {node}'s disk has no room for the log's next file: {needed} more are needed")),
    }
    if count("forgetful_partitions") > 0 {
        cares.push(format!(
            "node {node}'s log was damaged: {} of its partitions are made whole by the others, and do not count until then",
            count("forgetful_partitions")
        ));
    }
    match (count("corrupt_reads"), count("values_lost"), count("values_to_repair")) {
        (0, ..) => {}
        (reads, 0, 0) => cares.push(format!(
            "node {node} has read wrong bytes from its disk {reads} times, and waits for no repair now: have the disk looked at (`ringseed damage`)"
        )),
        (_, lost, 0) => {
            cares.push(format!("node {node} has {lost} values that no replica can read any more: see `ringseed damage`"))
        }
        (_, _, left) => {
            cares.push(format!("node {node} has {left} values that have rotted and are not mended yet: see `ringseed damage`"))
        }
    }
    cares
}

/// What the others say of `node`.
fn reports_on(node: NodeId, answers: &Answers) -> impl Iterator<Item = &PeerReport> {
    let others = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    others.flat_map(|report| report.peers.iter()).filter(move |peer| peer.node == node)
}

/// Entries that leaders hold and the node has not acknowledged.
fn behind(node: NodeId, answers: &Answers) -> u64 {
    reports_on(node, answers).map(|peer| peer.entries_behind).sum()
}

/// For how long the others have missed the node: as long as the first of them.
fn away_for(node: NodeId, answers: &Answers) -> Option<Duration> {
    reports_on(node, answers).filter(|peer| !peer.up).map(|peer| Duration::from_millis(peer.since_ms)).max()
}

fn address(node: NodeId, members: &[Member]) -> String {
    members.iter().find(|member| member.node == node).map_or_else(|| "?".into(), |member| member.address.clone())
}

fn state(membership: &Membership) -> &'static str {
    match membership {
        Membership::Forming => "forming",
        Membership::Member => "up",
        Membership::Refused(_) => "refused",
    }
}

fn row(node: NodeId, answer: &Result<StatusReport, Error>, answers: &Answers) -> Vec<String> {
    let lag = behind(node, answers).to_string();
    match answer {
        Ok(report) => {
            // Of all the time it was up: what it cost on average.
            let share = report.cpu_us as f64 / 10.0 / report.uptime_ms.max(1) as f64;
            vec![
                node.to_string(),
                state(&report.membership).to_owned(),
                show::span(Duration::from_millis(report.uptime_ms)),
                format!("{}/{}", report.groups_led, report.groups),
                report.items.to_string(),
                lag,
                show::amount(report.log_bytes_used),
                format!("{share:.0}%"),
            ]
        }
        Err(_) => {
            let since = away_for(node, answers).map_or_else(|| "?".into(), show::span);
            [&*node.to_string(), "down", &since, "-", "-", &lag, "-", "-"].map(String::from).to_vec()
        }
    }
}

fn node_json(node: NodeId, answer: &Result<StatusReport, Error>, answers: &Answers, members: &[Member]) -> Value {
    let behind = behind(node, answers);
    let address = address(node, members);
    match answer {
        Ok(report) => json!({
            "node": node.0,
            "address": address,
            "up": true,
            "state": state(&report.membership),
            "refused": if let Membership::Refused(why) = &report.membership { Some(why) } else { None },
            "uptime_ms": report.uptime_ms,
            "epoch": report.epoch,
            "groups_led": report.groups_led,
            "groups": report.groups,
            "items": report.items,
            "entries_behind": behind,
            "entries_unapplied": report.entries_unapplied,
            "log_bytes_used": report.log_bytes_used,
            "log_bytes_to_replay": report.log_bytes_to_replay,
            "log_bytes_written": report.log_bytes_written,
            "log_bytes_allocated": report.log_bytes_allocated,
            "disk_full": report.disk_full,
            "disk_bytes_needed": report.disk_bytes_needed,
            "cpu_us": report.cpu_us,
            "peers": report.peers.iter().map(peer_json).collect::<Vec<_>>(),
            "counters": report.counters.iter().map(|(name, count)| (name.clone(), (*count).into())).collect::<serde_json::Map<_, _>>(),
        }),
        Err(error) => json!({
            "node": node.0,
            "address": address,
            "up": false,
            "why": error.to_string(),
            "down_ms": away_for(node, answers).map(|away| away.as_millis() as u64),
            "entries_behind": behind,
        }),
    }
}

fn peer_json(peer: &PeerReport) -> Value {
    json!({
        "node": peer.node.0,
        "up": peer.up,
        "since_ms": peer.since_ms,
        "entries_behind": peer.entries_behind,
        "phi": f64::from(peer.phi_hundredths) / 100.0,
    })
}

/// A column per node, a row per counter.
fn counters(answers: &Answers) -> Result<(), Failure> {
    let reports: Vec<&StatusReport> = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    let mut names: Vec<&str> = reports.iter().flat_map(|r| r.counters.iter().map(|(name, _)| name.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    let nodes: Vec<String> = reports.iter().map(|report| format!("NODE {}", report.node)).collect();
    let head: Vec<&str> = std::iter::once("COUNTER").chain(nodes.iter().map(String::as_str)).collect();
    let mut table = show::table(&head);
    for name in names {
        let count = |report: &&StatusReport| report.counters.iter().find(|(other, _)| other == name).map_or(0, |(_, n)| *n);
        table.add_row(std::iter::once(name.to_owned()).chain(reports.iter().map(|r| count(r).to_string())));
    }
    writeln!(io::stdout())?;
    Ok(show::print(&table)?)
}
