//! `ringseed load`: traffic, measured, and recorded for checkers.
//!
//! Each of the clients has one operation in progress at a time, on a thread that they all share (the generator must not take the
//! CPU that it measures). Without `--rate` the next operation begins when the last one ended. With `--rate` operations are due at
//! fixed times, and a latency counts from when the operation was *due*: a stall of the cluster then shows in all the operations
//! that it held up, not in one of each client (coordinated omission).
//!
//! Only what was done counts in throughput and latency. After a failure a client waits a little before it goes on. Reads find
//! something because all keys are written before the clock starts. What the bank is and what it checks is in [`bank`]. A history
//! has all operations, also those of that preparation.

mod bank;
mod recorder;
mod report;
mod tally;
mod workload;

use super::connection;
use super::exit::Failure;
use super::operations::CommonArgs;
use crate::base::limits::VALUE_SIZE_MAX;
use crate::base::random::{self, Random};
use crate::base::{Duration, Key};
use crate::client::{Client, Error};
use crate::history::{self, Outcome, Record};
use crate::msg::client::{RequestBody, ResponseBody};
use crate::msg::operation::{Acknowledge, Operation, Single};
use crate::msg::transaction::{self, Transaction};
use bank::{ACCOUNTS_MAX, Audits};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use recorder::Recorder;
use report::{Report, Servers};
use rustix::time::{ClockId, clock_gettime};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tally::Tally;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use workload::{Keys, Workload};

#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// What to ask for
    #[arg(long, value_enum, default_value = "mixed")]
    pub workload: Workload,
    /// Operations in progress at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub clients: u64,
    /// For how long
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Bytes of a value
    #[arg(long, value_name = "B", default_value_t = 256, value_parser = clap::value_parser!(u64).range(0..=VALUE_SIZE_MAX as u64))]
    pub value_size: u64,
    /// How many keys; of the bank, accounts, 100 at most [default: 10000; of the bank: 100]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: Option<u64>,
    /// Some keys far more often than others (Zipf's law, exponent 0.99) instead of all alike
    #[arg(long)]
    pub zipf: bool,
    /// All clients use the same key (of a transaction's keys, the first; the others are drawn)
    #[arg(long, conflicts_with = "zipf")]
    pub hot: bool,
    /// Keys of a transaction, all different; of the bank, accounts of a transfer
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=ACCOUNTS_MAX))]
    pub txn_items: u64,
    /// Operations per second over all clients [default: as many as there can be]
    #[arg(long, value_name = "R", value_parser = rate)]
    pub rate: Option<f64>,
    /// Write every operation with its start, end, arguments and outcome to this file, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// What the keys begin with
    #[arg(long, value_name = "TEXT", default_value = "load/")]
    pub key_prefix: String,
    /// Connections to each node
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub connections: u64,
    /// Draws the same keys again
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Do not write all keys first
    #[arg(long)]
    pub no_preload: bool,
    /// Which replicas must have synced a write before it is acknowledged
    #[command(flatten)]
    pub write: super::operations::WriteArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

impl LoadArgs {
    /// How many there are.
    fn keys(&self) -> u64 {
        self.keys.unwrap_or(if self.workload == Workload::Bank { ACCOUNTS_MAX } else { 10_000 })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|s: &f64| *s > 0.0 && *s <= 86_400.0)
        .ok_or_else(|| "expected a number of seconds up to 86400".into())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|r: &f64| *r > 0.0 && *r <= 1e9).ok_or_else(|| "expected operations per second, above 0".into())
}

pub fn load(args: &LoadArgs) -> Result<(), Failure> {
    let mut args = args.clone();
    if args.workload == Workload::Bank {
        if let Some(keys) = args.keys.filter(|keys| *keys > ACCOUNTS_MAX) {
            let why =
                format!("--keys: {keys} accounts are too many for the bank; at most {ACCOUNTS_MAX} can be looked at at once");
            return Err(Failure::Other(why));
        }
        // Money moves between two at least.
        args.txn_items = args.txn_items.max(2);
    }
    if args.workload.has_transactions() && args.txn_items > args.keys() {
        return Err(Failure::Other(format!("--txn-items: there are only {} keys", args.keys())));
    }
    let args = &args;
    let runtime = connection::runtime()?;
    let recorder = args.history.as_deref().map(Recorder::start).transpose()?;
    let done = runtime.block_on(run(args, recorder.as_ref().map(|recorder| recorder.records.clone())));
    // Tasks that wait for ever (for a signal) hold the history open: they end here. The file is whole also when the run was not.
    drop(runtime);
    let recorded = recorder.map_or(Ok(()), Recorder::finish);
    done?;
    recorded
}

async fn run(args: &LoadArgs, records: Option<mpsc::Sender<Record>>) -> Result<(), Failure> {
    let mut clients = Vec::new();
    let mut connection = args.common.connection.clone();
    for _ in 0..args.connections.min(args.clients) {
        let client = connection.connect().await?;
        // All of them load the cluster that the first has met.
        connection.cluster = connection.cluster.or(client.cluster());
        clients.push(client);
    }
    let load = Arc::new(Load {
        args: args.clone(),
        keys: Keys::new(args.keys(), args.zipf, args.hot),
        origin: Instant::now(),
        stop: watch::Sender::new(false),
        next_to_preload: AtomicU64::new(0),
        tallies: Mutex::default(),
        audits: Audits::default(),
        records,
    });
    tokio::spawn(stop_at_signals(load.clone()));
    if args.workload.has_reads() && !args.no_preload {
        preload(&load, &clients).await?;
    }
    if *load.stop.borrow() {
        return Err(Failure::Other("interrupted before the measurement began".into()));
    }
    let before = clients[0].statuses().await;
    let cpu_before = own_cpu();
    let began = Instant::now();
    let (mut workers, until) = (JoinSet::new(), began + Duration::from_secs_f64(args.seconds));
    for process in 0..args.clients {
        let client = clients[process as usize % clients.len()].clone();
        workers.spawn(worker(load.clone(), client, process, began, until));
    }
    let progress = tokio::spawn(show_progress(load.clone(), began, until));
    while let Some(worker) = workers.join_next().await {
        worker.map_err(|error| Failure::Other(format!("a client of the load failed: {error}")))?;
    }
    let elapsed = began.elapsed();
    let own_cpu = own_cpu().saturating_sub(cpu_before);
    progress.abort();
    let _ = progress.await;
    let after = clients[0].statuses().await;
    let tallies = load.tallies.lock().expect("no worker panicked").clone();
    let servers = Servers::between(&before, &after);
    let interrupted = *load.stop.borrow();
    let audits = match args.workload {
        Workload::Bank => Some(last_audit(&load, &clients[0]).await?),
        _ => None,
    };
    let report = Report { args, elapsed, tallies, servers, own_cpu, interrupted, audits: audits.clone() };
    if args.common.json {
        writeln!(io::stdout(), "{:#}", report.json())?;
    } else {
        report.print()?;
    }
    match audits {
        Some(found) if found.wrong > 0 => Err(Failure::Found(format!(
            "the sum over all accounts was wrong {} times of {}; the first: {}",
            found.wrong,
            found.right + found.wrong,
            found.told[0]
        ))),
        _ => Ok(()),
    }
}

/// A look at the bank when all is over: this look may not be left out.
async fn last_audit(load: &Load, client: &Client) -> Result<bank::Found, Failure> {
    for attempt in 0.. {
        match load.audit(client, load.args.clients, false).await {
            Ok(()) => break,
            Err(error) if attempt == PRELOAD_ATTEMPTS => return Err(error.into()),
            Err(_) => tokio::time::sleep(PAUSE_AFTER_FAILURE * 10).await,
        }
    }
    Ok(load.audits.found())
}

/// What all clients of a load share.
#[derive(Debug)]
struct Load {
    args: LoadArgs,
    keys: Keys,
    /// The zero of the history's times.
    origin: Instant,
    /// Ends every client after the operation that it has in progress, whose outcome is thus still seen.
    stop: watch::Sender<bool>,
    next_to_preload: AtomicU64,
    tallies: Mutex<Tallies>,
    audits: Audits,
    records: Option<mpsc::Sender<Record>>,
}

/// By kind of operation, in the order in which they are reported.
#[derive(Debug, Clone, Default)]
struct Tallies {
    puts: Tally,
    gets: Tally,
    transactions: Tally,
    /// Reads of all accounts.
    audits: Tally,
}

impl Tallies {
    fn all(&self) -> [(&'static str, &Tally); 4] {
        [("put", &self.puts), ("get", &self.gets), ("txn", &self.transactions), ("audit", &self.audits)]
    }

    fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.all().iter().for_each(|(_, tally)| total.add(tally));
        total
    }
}

/// What a client asks for next.
#[derive(Debug)]
enum Next {
    Operation(Single),
    Transaction(Transaction),
    /// By a transaction of reads instead of a read of several items.
    Audit(bool),
}

impl Load {
    fn put(&self, key: u64, process: u64, sequence: u64) -> Single {
        let value = workload::value(self.args.value_size as usize, process, sequence);
        let acknowledge: Acknowledge = self.args.write.acknowledge.into();
        Operation::put(self.key(key), value).alone().acknowledge(acknowledge)
    }

    fn get(&self, key: u64) -> Single {
        Operation::read(self.key(key)).alone()
    }

    async fn next(&self, client: &Client, process: u64, sequence: u64, random: &mut Random) -> Result<Next, Error> {
        let workload = self.args.workload;
        let reads = workload.reads(random);
        Ok(match workload {
            Workload::Txn => Next::Transaction(self.writes(random, process, sequence)),
            Workload::Bank if reads => Next::Audit(sequence & 1 == 0),
            Workload::Bank => Next::Transaction(self.next_transfer(client, process, random).await?),
            Workload::Put | Workload::Get | Workload::Mixed => {
                let key = self.keys.next(random);
                Next::Operation(if reads { self.get(key) } else { self.put(key, process, sequence) })
            }
        })
    }

    fn key(&self, number: u64) -> Key {
        workload::key(&self.args.key_prefix, number)
    }

    /// Writes to different keys.
    fn writes(&self, random: &mut Random, process: u64, sequence: u64) -> Transaction {
        let value = workload::value(self.args.value_size as usize, process, sequence);
        let keys = self.keys.distinct(random, self.args.txn_items);
        let items = keys.into_iter().map(|key| Operation::put(self.key(key), value.clone())).collect();
        Transaction { items, token: None }
    }

    /// Does one operation, and records it.
    async fn perform(&self, client: &Client, process: u64, body: RequestBody) -> Result<ResponseBody, Error> {
        let action = self.records.is_some().then(|| action(&body));
        let start = self.nanos();
        let result = client.call_within(body, self.args.common.connection.timeout).await;
        if let (Some(records), Some(action)) = (&self.records, action) {
            let (outcome, answered) = outcome(&result, action.is_write());
            let record = Record { process, start, end: answered.then(|| self.nanos()), action, outcome };
            // The writer is gone only if the file cannot be written, which is reported at the end.
            let _ = records.send(record).await;
        }
        result
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What a history says of a request. None of ours is another.
fn action(body: &RequestBody) -> history::Action {
    match body {
        RequestBody::Operation(single) => single.into(),
        RequestBody::Transact(transaction) => transaction.into(),
        RequestBody::GetMany(keys) => history::Action::GetMany { keys: keys.clone() },
        other => unreachable!("no load asks for {other:?}"),
    }
}

/// What a history says of a result, and whether it was an answer.
fn outcome(result: &Result<ResponseBody, Error>, is_write: bool) -> (Outcome, bool) {
    match result {
        Ok(body) => {
            (Outcome::of(body).unwrap_or_else(|| Outcome::Unknown { reason: "an answer to something else".into() }), true)
        }
        Err(Error::ConditionFailed { version, present }) => {
            (Outcome::ConditionFailed { version: version.0, present: *present }, true)
        }
        Err(Error::NotCommitted(failures) | Error::Conflict(failures)) => {
            let plain = failures.iter().map(|f| (&transaction::Failure { item: f.item, reason: f.reason }).into());
            (Outcome::NotCommitted { failures: plain.collect() }, true)
        }
        Err(Error::Rejected(why)) => (Outcome::Rejected { reason: why.to_string() }, true),
        Err(Error::Unknown(why)) => (Outcome::Unknown { reason: why.to_string() }, false),
        // Nothing was sent.
        Err(Error::Unreachable(why)) => (Outcome::Rejected { reason: format!("unreachable: {why}") }, true),
        Err(Error::Protocol(why)) if is_write => (Outcome::Unknown { reason: why.clone() }, false),
        Err(Error::Protocol(why)) => (Outcome::Rejected { reason: why.clone() }, true),
    }
}

/// One client: an operation after another, until the time is up.
async fn worker(load: Arc<Load>, client: Client, process: u64, began: Instant, until: Instant) {
    let mut random: Random = random::stream(load.args.seed, &format!("client {process}"));
    let spacing = load.args.rate.map(|rate| Duration::from_secs_f64(load.args.clients as f64 / rate));
    // Clients begin one after another, so that operations are due evenly.
    let mut due = began + spacing.map_or(Duration::ZERO, |s| s.mul_f64(process as f64 / load.args.clients as f64));
    for sequence in 0.. {
        if spacing.is_some() {
            // At a low rate the next operation may be due long after the signal to stop.
            let mut stop = load.stop.subscribe();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = tokio::time::sleep_until(due.min(until).into()) => {}
            }
        }
        if *load.stop.borrow() || Instant::now() >= until {
            return;
        }
        let next = match load.next(&client, process, sequence, &mut random).await {
            Ok(next) => next,
            Err(error) => {
                load.tallies.lock().expect("no worker panicked").transactions.failed(&error);
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                continue;
            }
        };
        let from = if spacing.is_some() { due } else { Instant::now() };
        let tally: fn(&mut Tallies) -> &mut Tally = match &next {
            Next::Operation(single) if single.is_write() => |tallies| &mut tallies.puts,
            Next::Operation(_) => |tallies| &mut tallies.gets,
            Next::Transaction(_) => |tallies| &mut tallies.transactions,
            Next::Audit(_) => |tallies| &mut tallies.audits,
        };
        let result = match next {
            Next::Operation(single) => load.perform(&client, process, RequestBody::Operation(single)).await.map(drop),
            Next::Transaction(transaction) => load.perform(&client, process, RequestBody::Transact(transaction)).await.map(drop),
            Next::Audit(by_transaction) => load.audit(&client, process, by_transaction).await,
        };
        let latency = from.elapsed();
        {
            let mut tallies = load.tallies.lock().expect("no worker panicked");
            let tally = tally(&mut tallies);
            match &result {
                Ok(()) => tally.done(latency),
                Err(error) => tally.failed(error),
            }
        }
        if result.is_err() {
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        }
        due += spacing.unwrap_or_default();
    }
}

/// Short against what a client notices, long against a loop that only fails.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Writes every key once. The bank's, all at once.
async fn preload(load: &Arc<Load>, clients: &[Client]) -> Result<(), Failure> {
    if load.args.workload == Workload::Bank {
        return preload_with(load, &clients[0], load.args.clients, || RequestBody::Transact(load.open_accounts())).await;
    }
    let bar = bar(load.args.keys(), "writing keys  {bar:30} {pos}/{len}");
    let mut workers = JoinSet::new();
    for process in 0..load.args.clients {
        let (load, client, bar) = (load.clone(), clients[process as usize % clients.len()].clone(), bar.clone());
        workers.spawn(async move {
            loop {
                let key = load.next_to_preload.fetch_add(1, Ordering::Relaxed);
                if key >= load.args.keys() || *load.stop.borrow() {
                    return Ok(());
                }
                // Numbers from the top, so that no value of the measured run is equal.
                let put = || RequestBody::Operation(load.put(key, process, u64::MAX - key));
                preload_with(&load, &client, process, put).await?;
                bar.inc(1);
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        let ended: Result<(), Failure> =
            worker.map_err(|error| Failure::Other(format!("a client of the load failed: {error}")))?;
        ended?;
    }
    bar.finish_and_clear();
    Ok(())
}

async fn preload_with(load: &Load, client: &Client, process: u64, body: impl Fn() -> RequestBody) -> Result<(), Failure> {
    let mut attempt = 0;
    loop {
        match load.perform(client, process, body()).await {
            Ok(_) => return Ok(()),
            Err(error) if attempt == PRELOAD_ATTEMPTS => return Err(error.into()),
            Err(_) => attempt += 1,
        }
        tokio::time::sleep(PAUSE_AFTER_FAILURE * 10).await;
    }
}

const PRELOAD_ATTEMPTS: u32 = 20;

/// A bar on standard error, if that is a terminal.
fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    bar.set_style(ProgressStyle::with_template(template).expect("a template that makes sense"));
    bar
}

async fn show_progress(load: Arc<Load>, began: Instant, until: Instant) {
    let bar = bar((until - began).as_millis() as u64, "{bar:30} {msg}");
    if bar.is_hidden() {
        return;
    }
    let (mut last, mut last_at) = (0, began);
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let (done, failed) = {
            let tallies = load.tallies.lock().expect("no worker panicked");
            let total = |count: fn(&Tally) -> u64| tallies.all().iter().map(|(_, tally)| count(tally)).sum::<u64>();
            let done = total(|tally| tally.ok);
            (done, total(Tally::all) - done)
        };
        let now = Instant::now();
        let per_second = (done - last) as f64 / (now - last_at).as_secs_f64();
        (last, last_at) = (done, now);
        bar.set_position((now - began).as_millis() as u64);
        let seconds = (now - began).as_secs_f64();
        bar.set_message(format!("{seconds:.0} s   {per_second:.0} per second   {done} done, {failed} not"));
        if now >= until {
            bar.finish_and_clear();
            return;
        }
    }
}

/// The first signal ends the run and prints what it has; the second ends the process.
async fn stop_at_signals(load: Arc<Load>) {
    while tokio::signal::ctrl_c().await.is_ok() {
        if load.stop.send_replace(true) {
            std::process::exit(130);
        }
        eprintln!("\nwaiting for the operations in progress; Ctrl-C again ends at once");
    }
}

/// CPU time of this process.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
