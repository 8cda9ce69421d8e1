//! `ringseed status`: every node at one look.
//!
//! Each node is asked for itself. How long one that does not answer has been away, and how far each lags, is what the others say of it.

use super::exit::Failure;
use super::operations::CommonArgs;
use super::show;
use crate::base::{Duration, NodeId};
use crate::client::{Client, Error};
use crate::msg::client::{Membership, PeerReport, StatusReport};
use crate::msg::cluster::Member;
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, Write};

#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Also print every node's counters
    #[arg(long)]
    pub counters: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

type Answers = Vec<(NodeId, Result<StatusReport, Error>)>;

pub async fn status(client: &Client, args: &StatusArgs) -> Result<(), Failure> {
    let answers = client.statuses().await;
    // Before the cluster has formed there is no ring to ask for, and no member to name.
    let ring = client.ring().await.ok();
    let members = ring.as_ref().map(|ring| ring.formation.members.as_slice()).unwrap_or_default();
    if args.common.json {
        let cluster = ring.as_ref().map(|ring| ring.formation.cluster.to_string());
        let nodes: Vec<Value> = answers.iter().map(|(node, answer)| node_json(*node, answer, &answers, members)).collect();
        writeln!(io::stdout(), "{:#}", json!({ "outcome": "ok", "cluster": cluster, "nodes": nodes }))?;
        return Ok(());
    }
    if let Some(ring) = &ring {
        writeln!(io::stdout(), "cluster {}\n", ring.formation.cluster)?;
    }
    let mut table = show::table(&[
        "NODE",
        "ADDRESS",
        "STATE",
        "SINCE",
        "LEADS",
        "REPLICAS",
        "ITEMS",
        "BEHIND",
        "UNAPPLIED",
        "LOG",
        "DISK",
        "CPU",
    ]);
    for (node, answer) in &answers {
        table.add_row(row(*node, answer, &answers, members));
    }
    show::print(&table)?;
    for (node, answer) in &answers {
        if let Err(error) = answer {
            eprintln!("node {node}: {error}");
        }
    }
    if args.counters {
        counters(&answers)?;
    }
    Ok(())
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

fn state(membership: &Membership) -> String {
    match membership {
        Membership::Forming => "forming".into(),
        Membership::Member => "up".into(),
        Membership::Refused(why) => format!("refused: {why}"),
    }
}

fn disk(report: &StatusReport) -> String {
    match (report.disk_full, report.disk_bytes_needed) {
        (false, 0) => "ok".into(),
        (full, needed) => format!("{}: needs {} more", if full { "full" } else { "filling" }, show::amount(needed)),
    }
}

fn row(node: NodeId, answer: &Result<StatusReport, Error>, answers: &Answers, members: &[Member]) -> Vec<String> {
    let lag = behind(node, answers).to_string();
    let mut row = vec![node.to_string(), address(node, members)];
    match answer {
        Ok(report) => {
            let uptime = Duration::from_millis(report.uptime_ms);
            // Of all the time it was up: what it cost on average.
            let share = report.cpu_us as f64 / 10.0 / report.uptime_ms.max(1) as f64;
            row.extend([
                state(&report.membership),
                show::span(uptime),
                report.groups_led.to_string(),
                report.groups.to_string(),
                report.items.to_string(),
                lag,
                report.entries_unapplied.to_string(),
                format!("{} of {}", show::amount(report.log_bytes_written), show::amount(report.log_bytes_allocated)),
                disk(report),
                format!("{} ({share:.1}%)", show::span(Duration::from_micros(report.cpu_us))),
            ]);
        }
        Err(_) => {
            let since = away_for(node, answers).map_or_else(|| "?".into(), show::span);
            row.extend(["down".into(), since, "-".into(), "-".into(), "-".into(), lag]);
            row.extend(["-"; 4].map(String::from));
        }
    }
    row
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
            "uptime_ms": report.uptime_ms,
            "epoch": report.epoch,
            "groups_led": report.groups_led,
            "groups": report.groups,
            "items": report.items,
            "entries_behind": behind,
            "entries_unapplied": report.entries_unapplied,
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
