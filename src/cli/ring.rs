//! `ringseed ring [KEY]`: which node owns what.

use super::exit::Failure;
use super::operations::CommonArgs;
use super::show;
use super::value;
use crate::base::{NodeId, PartitionId};
use crate::client::Client;
use crate::msg::client::{PartitionReport, RingReport};
use clap::Args;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};

#[derive(Debug, Clone, Args)]
pub struct RingArgs {
    /// Show where this key is placed instead; \n, \t, \\, \xff, \{TABLE} and \| as keys are printed
    pub key: Option<OsString>,
    #[command(flatten)]
    pub common: CommonArgs,
}

pub async fn ring(client: &Client, args: &RingArgs) -> Result<(), Failure> {
    let report = client.ring().await?;
    match &args.key {
        Some(key) => one_key(&report, key, args.common.json),
        None if args.common.json => {
            writeln!(io::stdout(), "{:#}", ring_json(&report))?;
            Ok(())
        }
        None => tables(&report),
    }
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn leader(partition: &PartitionReport) -> String {
    partition.leader.map_or_else(|| "none known".into(), |leader| leader.to_string())
}

fn one_key(report: &RingReport, key: &OsString, json: bool) -> Result<(), Failure> {
    let key = value::key(key)?;
    let token = key.token();
    let partition = token.partition(report.partitions.len() as u32);
    let Some(owners) = report.partitions.get(partition.0 as usize) else {
        return Err(Failure::Other(format!("the node that was asked knows no partition {partition}")));
    };
    let mut out = io::stdout().lock();
    if json {
        let mut object = json!({
            "outcome": "ok",
            "token": format!("{:016x}", token.0),
            "partition": partition.0,
            "replicas": owners.replicas,
            "leader": owners.leader,
        });
        show::put_key(&mut object, &key);
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "key        {}", key)?;
        writeln!(out, "token      {:016x}", token.0)?;
        writeln!(out, "partition  {partition} of {}", report.partitions.len())?;
        writeln!(out, "replicas   {}", names(&owners.replicas))?;
        writeln!(out, "leader     {}", leader(owners))?;
    }
    Ok(())
}

/// How many partitions a node has a replica of, and leads.
fn counts(report: &RingReport, node: NodeId) -> (usize, usize) {
    let replicas = report.partitions.iter().filter(|partition| partition.replicas.contains(&node)).count();
    let leads = report.partitions.iter().filter(|partition| partition.leader == Some(node)).count();
    (replicas, leads)
}

fn tables(report: &RingReport) -> Result<(), Failure> {
    let options = &report.formation.options;
    writeln!(
        io::stdout(),
        "cluster {}: {} partitions, each on {} of {} nodes\n",
        report.formation.cluster,
        options.partitions,
        report.partitions.first().map_or(0, |partition| partition.replicas.len()),
        report.formation.members.len()
    )?;
    let mut nodes = show::table(&["NODE", "ADDRESS", "ZONE", "WEIGHT", "REPLICAS", "LEADS"]);
    for member in &report.formation.members {
        let (replicas, leads) = counts(report, member.node);
        let zone = if member.zone.is_empty() { "-" } else { &member.zone };
        nodes.add_row(vec![
            member.node.to_string(),
            member.address.clone(),
            zone.to_owned(),
            member.weight.to_string(),
            replicas.to_string(),
            leads.to_string(),
        ]);
    }
    show::print(&nodes)?;
    writeln!(io::stdout())?;
    let mut partitions = show::table(&["PARTITION", "FROM TOKEN", "REPLICAS", "LEADER"]);
    for (at, partition) in report.partitions.iter().enumerate() {
        let from = PartitionId(at as u32).first_token(report.partitions.len() as u32);
        partitions.add_row(vec![at.to_string(), format!("{:016x}", from.0), names(&partition.replicas), leader(partition)]);
    }
    Ok(show::print(&partitions)?)
}

fn ring_json(report: &RingReport) -> Value {
    let node = |member: &crate::msg::cluster::Member| {
        let (replicas, leads) = counts(report, member.node);
        json!({
            "node": member.node,
            "address": member.address,
            "zone": member.zone,
            "weight": member.weight,
            "directory": member.directory.to_string(),
            "replicas": replicas,
            "leads": leads,
        })
    };
    let options = &report.formation.options;
    json!({
        "outcome": "ok",
        "cluster": report.formation.cluster.to_string(),
        "replication_factor": options.replication_factor,
        "support_ms": options.support_ms,
        "clock_drift_max_ppm": options.clock_drift_ppm_max,
        "nodes": report.formation.members.iter().map(node).collect::<Vec<_>>(),
        "partitions": report.partitions.iter().map(|p| json!({ "replicas": p.replicas, "leader": p.leader })).collect::<Vec<_>>(),
    })
}
