//! What a load prints when it is over.

use super::bank::Found;
use super::tally::Tally;
use super::{LoadArgs, Tallies};
use crate::base::{Duration, NodeId};
use crate::client::Error;
use crate::msg::client::StatusReport;
use serde_json::{Value, json};
use std::io::{self, Write};

/// The servers' own counters, before and after.
#[derive(Debug, Clone, Copy, Default)]
pub struct Servers {
    /// Nodes that answered both times.
    pub nodes: u64,
    /// CPU of the servers' threads between the two looks, in microseconds over all nodes.
    pub cpu_us: u64,
    /// Bytes written to logs between the two looks, over all nodes.
    pub log_bytes: u64,
}

impl Servers {
    /// `None`: a node was away or was started anew in between, so that the difference would mean nothing.
    pub fn between(before: &Statuses, after: &Statuses) -> Option<Servers> {
        let mut sum = Servers::default();
        for (node, report) in before {
            let old = report.as_ref().ok()?;
            let new = after.iter().find(|(other, _)| other == node)?.1.as_ref().ok()?;
            if old.epoch != new.epoch {
                return None;
            }
            sum.nodes += 1;
            sum.cpu_us += new.cpu_us.saturating_sub(old.cpu_us);
            sum.log_bytes += new.log_bytes_written.saturating_sub(old.log_bytes_written);
        }
        (sum.nodes > 0).then_some(sum)
    }
}

pub type Statuses = Vec<(NodeId, Result<StatusReport, Error>)>;

/// A load's results.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub args: &'a LoadArgs,
    pub elapsed: Duration,
    pub(super) tallies: Tallies,
    pub servers: Option<Servers>,
    /// Of this process, over the measured time.
    pub own_cpu: Duration,
    /// Ended by a signal before its time.
    pub interrupted: bool,
    /// The bank's.
    pub audits: Option<Found>,
}

const PERCENTILES: [(&str, f64); 5] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0)];

impl Report<'_> {
    fn per_second(&self, tally: &Tally) -> f64 {
        tally.ok as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Bytes of log per put and node, and how many times that is of (key + value + 100).
    fn log_per_put(&self) -> Option<(f64, f64)> {
        let servers = self.servers.filter(|_| self.tallies.puts.ok > 0)?;
        let per_put = servers.log_bytes as f64 / servers.nodes as f64 / self.tallies.puts.ok as f64;
        let payload = super::workload::key(&self.args.key_prefix, 0).size() + self.args.value_size as usize + 100;
        Some((per_put, per_put / payload as f64))
    }

    fn cpu_per_operation(&self, micros: f64) -> f64 {
        micros / self.tallies.total().ok.max(1) as f64
    }

    pub fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let args = self.args;
        let early = if self.interrupted { " (interrupted)" } else { "" };
        writeln!(
            out,
            "{}: {} clients for {:.1} s{early}; {} keys{}, values of {} bytes",
            args.workload.name(),
            args.clients,
            self.elapsed.as_secs_f64(),
            args.keys(),
            if args.zipf { " (Zipf)" } else { "" },
            args.value_size
        )?;
        writeln!(
            out,
            "\n{:<6}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "done", "per second", "mean", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, tally) in self.tallies.all() {
            if tally.all() > 0 {
                write!(out, "{name:<6}{:>12}{:>12.0}{:>10}", tally.ok, self.per_second(tally), latency(tally.mean()))?;
                for (_, percent) in PERCENTILES {
                    write!(out, "{:>10}", latency(tally.percentile(percent)))?;
                }
                writeln!(out)?;
            }
        }
        let total = self.tallies.total();
        writeln!(
            out,
            "\nof {} operations: {} done, {} conflicts, {} rejected, {} unknown, {} reached no node",
            total.all(),
            total.ok,
            total.conflicts,
            total.rejected,
            total.unknown,
            total.unreachable
        )?;
        total.reasons.iter().try_for_each(|(reason, count)| writeln!(out, "  {count:>8}  {reason}"))?;
        if let Some(found) = &self.audits {
            let Found { right, wrong, .. } = found;
            writeln!(
                out,
                "bank: {} accounts seen at once {} times; the sum was wrong {wrong} times",
                args.keys(),
                right + wrong
            )?;
        }
        match self.servers {
            Some(servers) => {
                let cpu = self.cpu_per_operation(servers.cpu_us as f64);
                let cores = servers.cpu_us as f64 / 1e6 / self.elapsed.as_secs_f64().max(1e-9);
                writeln!(out, "server CPU: {cpu:.1} us per operation over all {} nodes; {cores:.2} cores", servers.nodes)?;
            }
            None => writeln!(out, "server CPU: not known, since not all nodes were up at both ends of the run")?,
        }
        if let Some((bytes, ratio)) = self.log_per_put() {
            writeln!(out, "log: {bytes:.0} bytes per put and node, {ratio:.2} times (key + value + 100)")?;
        }
        writeln!(
            out,
            "this load generator: {:.1} us of CPU per operation",
            self.cpu_per_operation(self.own_cpu.as_micros() as f64)
        )
    }

    pub fn json(&self) -> Value {
        let kind = |tally: &Tally| {
            let mut latency: serde_json::Map<String, Value> =
                PERCENTILES.iter().map(|(name, percent)| ((*name).to_owned(), micros(tally.percentile(*percent)))).collect();
            latency.insert("mean".into(), micros(tally.mean()));
            json!({
                "ok": tally.ok,
                "conflicts": tally.conflicts,
                "rejected": tally.rejected,
                "unknown": tally.unknown,
                "unreachable": tally.unreachable,
                "per_second": self.per_second(tally),
                "latency_us": latency,
                "reasons": tally.reasons,
            })
        };
        let servers = self.servers.map(|servers| {
            json!({
                "nodes": servers.nodes,
                "cpu_us": servers.cpu_us,
                "cpu_us_per_operation": self.cpu_per_operation(servers.cpu_us as f64),
                "log_bytes": servers.log_bytes,
                "log_bytes_per_put_and_node": self.log_per_put().map(|(bytes, _)| bytes),
                "log_bytes_ratio": self.log_per_put().map(|(_, ratio)| ratio),
            })
        });
        let bank = self.audits.as_ref().map(
            |found| json!({ "accounts": self.args.keys(), "right": found.right, "wrong": found.wrong, "first_wrong": found.told }),
        );
        json!({
            "outcome": if self.audits.as_ref().is_some_and(|found| found.wrong > 0) { "wrong_sum" } else { "ok" },
            "workload": self.args.workload.name(),
            "clients": self.args.clients,
            "keys": self.args.keys(),
            "zipf": self.args.zipf,
            "value_size": self.args.value_size,
            "rate": self.args.rate,
            "seconds": self.elapsed.as_secs_f64(),
            "interrupted": self.interrupted,
            "txn_items": self.args.workload.has_transactions().then_some(self.args.txn_items),
            "hot": self.args.hot,
            "total": kind(&self.tallies.total()),
            "put": kind(&self.tallies.puts),
            "get": kind(&self.tallies.gets),
            "txn": kind(&self.tallies.transactions),
            "audit": kind(&self.tallies.audits),
            "bank": bank,
            "servers": servers,
            "generator_cpu_us_per_operation": self.cpu_per_operation(self.own_cpu.as_micros() as f64),
        })
    }
}

fn micros(duration: Duration) -> Value {
    (duration.as_nanos() as f64 / 1_000.0).into()
}

/// Three figures, whatever the size.
fn latency(duration: Duration) -> String {
    let micros = duration.as_nanos() as f64 / 1_000.0;
    match micros {
        m if m < 1_000.0 => format!("{m:.0}us"),
        m if m < 10_000.0 => format!("{:.2}ms", m / 1_000.0),
        m if m < 1_000_000.0 => format!("{:.1}ms", m / 1_000.0),
        m => format!("{:.2}s", m / 1_000_000.0),
    }
}
