//! A real cluster: three processes over TCP with real files, killed, stopped and continued, stopped cleanly and restarted while
//! clients work. What the clients saw is judged by the simulator's checkers.
#![cfg(feature = "server")]

use bytes::Bytes;
use ringseed::base::{Key, NodeId};
use ringseed::client::{Client, ClientOptions, Error};
use ringseed::history::{Action, Outcome, Record};
use ringseed::msg::client::{Membership, RequestBody, Scan};
use ringseed::msg::operation::{Acknowledge, Condition, Consistency, Operation};
use ringseed::msg::transaction::{Failure, Transaction};
use ringseed_sim::check::{Options, account, check_history};
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const NODES: usize = 3;
const KEYS: u64 = 24;
const WORKERS: u64 = 6;

struct Cluster {
    folder: PathBuf,
    addresses: Vec<String>,
    /// `None`: not running.
    processes: Vec<Option<Child>>,
}

impl Cluster {
    fn start(name: &str) -> Cluster {
        let folder = std::env::temp_dir().join(format!("ringseed-cluster-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        // Held together, so that they differ; then let go, for the servers.
        let listeners: Vec<_> = (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addresses = listeners.iter().map(|one| one.local_addr().expect("bound").to_string()).collect();
        drop(listeners);
        let mut cluster = Cluster { folder, addresses, processes: (0..NODES).map(|_| None).collect() };
        (0..NODES).for_each(|node| cluster.run(node));
        cluster
    }

    fn data(&self, node: usize) -> PathBuf {
        self.folder.join(format!("data-{}", node + 1))
    }

    fn log(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{}.log", node + 1))
    }

    fn command(&self, node: usize, data: &Path) -> Command {
        let peers: Vec<String> = self.addresses.iter().enumerate().map(|(at, address)| format!("{}={address}", at + 1)).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringseed"));
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGSEED_")).for_each(|(name, _)| {
            command.env_remove(name);
        });
        command.args(["server", "--segment-size", "2MiB", "--log", "info", "--node", &(node + 1).to_string()]);
        command.args(["--listen", &self.addresses[node], "--peers", &peers.join(","), "--data"]).arg(data);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn run(&mut self, node: usize) {
        let log = std::fs::File::options().create(true).append(true).open(self.log(node)).expect("a log");
        let child = self.command(node, &self.data(node)).stderr(log).spawn().expect("the binary runs");
        self.processes[node] = Some(child);
    }

    fn signal(&self, node: usize, signal: Signal) {
        let process = self.processes[node].as_ref().expect("running");
        kill_process(Pid::from_child(process), signal).expect("the process is ours");
    }

    /// As by a power failure of the process: nothing is flushed, nothing is said.
    fn kill(&mut self, node: usize) {
        let mut process = self.processes[node].take().expect("running");
        process.kill().expect("the process is ours");
        process.wait().expect("it ends");
    }

    /// A clean stop; it must end by itself, and well.
    fn stop(&mut self, node: usize) {
        self.signal(node, Signal::TERM);
        let mut process = self.processes[node].take().expect("running");
        let status = process.wait().expect("it ends");
        assert!(status.success(), "node {} ended with {status}\n{}", node + 1, self.tail(node));
    }

    fn tail(&self, node: usize) -> String {
        let text = std::fs::read_to_string(self.log(node)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// None has ended that was not ended by the test.
    fn check_alive(&mut self) {
        for node in 0..NODES {
            let ended = self.processes[node].as_mut().and_then(|process| process.try_wait().expect("ours"));
            assert!(ended.is_none(), "node {} ended by itself: {ended:?}\n{}", node + 1, self.tail(node));
        }
    }

    async fn client(&self) -> Client {
        let options = ClientOptions { timeout: Duration::from_secs(3), ..ClientOptions::default() };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match Client::connect(&self.addresses, options.clone()).await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("the nodes' logs are in {}", self.folder.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// What the workers share.
struct Work {
    zero: Instant,
    records: Mutex<Vec<Record>>,
    done: AtomicU64,
    over: AtomicBool,
}

impl Work {
    fn new() -> Work {
        Work { zero: Instant::now(), records: Mutex::default(), done: AtomicU64::new(0), over: AtomicBool::new(false) }
    }

    fn now(&self) -> u64 {
        self.zero.elapsed().as_nanos() as u64
    }

    /// One call, noted with what it was told.
    async fn call(&self, client: &Client, process: u64, body: RequestBody) {
        let action = match &body {
            RequestBody::Operation(single) => Action::from(single),
            RequestBody::Scan(scan) => Action::from(scan),
            RequestBody::Transact(transaction) => Action::from(transaction),
            RequestBody::GetMany(keys) => Action::GetMany { keys: keys.clone() },
            other => panic!("no operation: {other:?}"),
        };
        let start = self.now();
        let outcome = match client.call(body).await {
            Ok(answer) => Outcome::of(&answer).expect("an operation's answer"),
            Err(Error::ConditionFailed { version, present }) => Outcome::ConditionFailed { version: version.0, present },
            Err(Error::Unknown(doubt)) => Outcome::Unknown { reason: doubt.to_string() },
            Err(error @ (Error::Rejected(_) | Error::Unreachable(_))) => Outcome::Rejected { reason: error.to_string() },
            Err(Error::NotCommitted(failures)) => Outcome::NotCommitted {
                failures: failures.iter().map(|one| (&Failure { item: one.item, reason: one.reason }).into()).collect(),
            },
            Err(error @ (Error::Protocol(_) | Error::Conflict(_))) => panic!("{error}"),
        };
        if !matches!(outcome, Outcome::Rejected { .. } | Outcome::Unknown { .. }) {
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        self.records.lock().expect("no panic").push(Record { process, start, end: Some(self.now()), action, outcome });
    }
}

fn key(number: u64) -> Key {
    Key::from(format!("key-{number:02}"))
}

fn alone(operation: Operation) -> RequestBody {
    RequestBody::Operation(operation.alone())
}

fn get(number: u64) -> RequestBody {
    alone(Operation::read(key(number)))
}

/// Asks for something, again and again, until the work is over.
async fn work(shared: Arc<Work>, client: Client, process: u64) {
    let mut random = process.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut count = 0u64;
    while !shared.over.load(Ordering::Relaxed) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (dice, number) = (random >> 60, (random >> 33) % KEYS);
        count += 1;
        let value = Bytes::from(format!("{process}-{count}"));
        let put = |condition| alone(Operation::put(key(number), value.clone()).only_if(condition));
        let body = match (number, dice) {
            // The last keys are counters, and nothing else.
            (21.., 0..10) => alone(Operation::increment(key(number), 1)),
            (_, 0..6) => get(number),
            (21.., _) => get(number),
            (_, 6..11) => put(Condition::None),
            (_, 11) => put(Condition::Absent),
            (_, 12) => put(Condition::Present),
            (_, 13) => alone(Operation::delete(key(number))),
            _ => RequestBody::Scan(Scan {
                prefix: "key-".into(),
                from: Key::default(),
                limit: 100,
                consistency: Consistency::Strong,
            }),
        };
        shared.call(&client, process, body).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Waits until the workers have got something done, and not too late.
async fn progress(shared: &Work, cluster: &mut Cluster, what: &str) {
    let (begun, target) = (Instant::now(), shared.done.load(Ordering::Relaxed) + 300);
    while shared.done.load(Ordering::Relaxed) < target {
        cluster.check_alive();
        assert!(begun.elapsed() < Duration::from_secs(15), "no progress {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{what}: 300 more operations after {:?}", begun.elapsed());
}

async fn leads_most(client: &Client) -> usize {
    let statuses = client.statuses().await;
    let led = statuses.iter().filter_map(|(node, status)| Some((status.as_ref().ok()?.groups_led, *node)));
    led.max().map_or(0, |(_, node)| usize::from(node.0) - 1)
}

async fn every_replica_confirms(client: &Client) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for number in 0..KEYS {
        while let Err(error) = client.put(key(number), "all").acknowledge(Acknowledge::All).await {
            assert!(Instant::now() < deadline, "{error}");
        }
    }
}

#[tokio::test]
async fn what_is_acknowledged_survives_kills_pauses_and_restarts_under_load() {
    let mut cluster = Cluster::start("faults");
    let shared = Arc::new(Work::new());
    let client = cluster.client().await;
    let workers: Vec<_> = (0..WORKERS).map(|process| tokio::spawn(work(Arc::clone(&shared), client.clone(), process))).collect();
    progress(&shared, &mut cluster, "after the start").await;

    let node = leads_most(&client).await;
    cluster.kill(node);
    progress(&shared, &mut cluster, "with a leader killed").await;
    cluster.run(node);
    progress(&shared, &mut cluster, "with it back").await;

    let node = leads_most(&client).await;
    cluster.signal(node, Signal::STOP);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    progress(&shared, &mut cluster, "with a leader that hangs").await;
    cluster.signal(node, Signal::CONT);
    progress(&shared, &mut cluster, "with it awake again").await;

    let node = leads_most(&client).await;
    cluster.stop(node);
    progress(&shared, &mut cluster, "with a leader stopped cleanly").await;
    cluster.run(node);

    (0..NODES).for_each(|node| cluster.kill(node));
    tokio::time::sleep(Duration::from_millis(200)).await;
    (0..NODES).rev().for_each(|node| cluster.run(node));
    progress(&shared, &mut cluster, "after all were killed at once").await;

    shared.over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.expect("no panic");
    }
    for number in 0..KEYS {
        shared.call(&client, WORKERS, get(number)).await;
    }
    cluster.check_alive();
    let records = std::mem::take(&mut *shared.records.lock().expect("no panic"));
    let last_reads = &records[records.len() - KEYS as usize..];
    assert!(last_reads.iter().all(|record| matches!(record.outcome, Outcome::Value { .. })), "{last_reads:?}");
    let unknown = records.iter().filter(|record| matches!(record.outcome, Outcome::Unknown { .. })).count();
    let options = Options { partitions: Some(64), ..Options::default() };
    let report = check_history(&records, &options).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{} operations, {unknown} of them unknown; undecided: {:?}", records.len(), report.undecided);
    (0..NODES).for_each(|node| cluster.stop(node));
}

/// Puts and gets, without a pause, until the work is over. Gives what was not done.
async fn keep_asking(shared: Arc<Work>, client: Client, worker: u64) -> Vec<Error> {
    let mut failed = Vec::new();
    for count in 0u64.. {
        if shared.over.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{worker}-{}", count % 40);
        let outcome = match count % 3 {
            0 => client.get(key).await.map(|_| ()),
            _ => client.put(key, count.to_string()).await.map(|_| ()),
        };
        match outcome {
            Ok(()) => _ = shared.done.fetch_add(1, Ordering::Relaxed),
            Err(error) => failed.push(error),
        }
    }
    failed
}

/// Every request that a stopping node has taken is answered, and what it does not take any more the client takes elsewhere.
#[tokio::test]
async fn a_clean_stop_loses_nothing() {
    let mut cluster = Cluster::start("stops");
    let shared = Arc::new(Work::new());
    let client = cluster.client().await;
    // Over clients of their own: one that is turned away tells nobody but itself.
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let client = if worker % 2 == 0 { client.clone() } else { cluster.client().await };
        workers.push(tokio::spawn(keep_asking(Arc::clone(&shared), client, worker)));
    }
    progress(&shared, &mut cluster, "after the start").await;
    for round in 0..4 {
        let node = leads_most(&client).await;
        cluster.stop(node);
        progress(&shared, &mut cluster, &format!("with node {} stopped, round {round}", node + 1)).await;
        cluster.run(node);
        // The two others must be well before the next is stopped.
        every_replica_confirms(&client).await;
    }
    shared.over.store(true, Ordering::Relaxed);
    for worker in workers {
        assert_eq!(worker.await.expect("no panic"), [], "each was done");
    }
    (0..NODES).for_each(|node| cluster.stop(node));
}

const ACCOUNTS: u32 = 12;

fn audit() -> RequestBody {
    RequestBody::GetMany((0..ACCOUNTS).map(account).collect())
}

/// Moves money between accounts, and looks at all of them at once, until the work is over.
async fn bank(shared: Arc<Work>, client: Client, process: u64) {
    let mut random = process.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut draw = |bound: u32| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as u32 % bound
    };
    while !shared.over.load(Ordering::Relaxed) {
        let (from, amount) = (draw(ACCOUNTS), i64::from(draw(9)) + 1);
        let to = (from + 1 + draw(ACCOUNTS - 1)) % ACCOUNTS;
        let body = match draw(4) {
            0 => audit(),
            _ => {
                let item = |number, by| Operation::increment(account(number), by);
                RequestBody::Transact(Transaction { items: vec![item(from, -amount), item(to, amount)], token: None })
            }
        };
        shared.call(&client, process, body).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Coordinators and participants die under transfers: no audit sees a wrong sum, what the clients saw is strictly serializable,
/// and nothing is left in flight.
#[tokio::test]
async fn transactions_survive_kills_and_leave_nothing_behind() {
    let mut cluster = Cluster::start("bank");
    let shared = Arc::new(Work::new());
    let client = cluster.client().await;
    let workers: Vec<_> = (0..WORKERS).map(|process| tokio::spawn(bank(Arc::clone(&shared), client.clone(), process))).collect();
    progress(&shared, &mut cluster, "after the start").await;
    for node in 0..NODES {
        cluster.kill(node);
        progress(&shared, &mut cluster, "with a node killed").await;
        cluster.run(node);
        progress(&shared, &mut cluster, "with it back").await;
    }
    (0..NODES).for_each(|node| cluster.kill(node));
    (0..NODES).for_each(|node| cluster.run(node));
    progress(&shared, &mut cluster, "after all were killed at once").await;
    shared.over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.expect("no panic");
    }
    shared.call(&client, WORKERS, audit()).await;
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let in_flight = client.transactions().await.expect("the cluster answers");
        if in_flight.silent.is_empty() && in_flight.transactions.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "still in flight: {in_flight:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let records = std::mem::take(&mut *shared.records.lock().expect("no panic"));
    assert!(matches!(records.last().map(|record| &record.outcome), Some(Outcome::Values { .. })), "the last audit is answered");
    let options = Options { partitions: Some(64), accounts: ACCOUNTS, ..Options::default() };
    let report = check_history(&records, &options).unwrap_or_else(|violation| panic!("{violation}"));
    let count = |wanted: fn(&Outcome) -> bool| records.iter().filter(|record| wanted(&record.outcome)).count();
    let committed = count(|outcome| matches!(outcome, Outcome::Transacted { .. }));
    let unknown = count(|outcome| matches!(outcome, Outcome::Unknown { .. }));
    println!(
        "{} operations, {committed} committed transactions, {unknown} unknown; undecided: {:?}",
        records.len(),
        report.undecided
    );
    (0..NODES).for_each(|node| cluster.stop(node));
}

#[tokio::test]
async fn a_directory_has_one_process_and_an_emptied_one_is_refused() {
    let mut cluster = Cluster::start("directories");
    let client = cluster.client().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = client.put("key", "value").acknowledge(Acknowledge::All).await {
        assert!(Instant::now() < deadline, "{error}");
    }

    // Another process on the same directory, with a port of its own.
    let mut second = cluster.command(0, &cluster.data(0));
    second.args(["--advertise", &cluster.addresses[0]]);
    let output = second.output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && (text.contains("in use") || text.contains("another process")), "{text}");
    cluster.check_alive();

    // The disk of node 3 is lost; it comes back empty under its old id.
    cluster.kill(2);
    std::fs::remove_dir_all(cluster.data(2)).expect("removed");
    cluster.run(2);
    loop {
        let status = client.status(Some(NodeId(3))).await;
        match status.map(|status| status.membership) {
            Ok(Membership::Refused(why)) => break println!("refused: {why}"),
            other => assert!(Instant::now() < deadline, "node 3 is {other:?}\n{}", cluster.tail(2)),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Node 3 may have led; what was on its way to it then is unknown.
    while let Err(error) = client.put("key", "other").await {
        assert!(Instant::now() < deadline, "two of three are enough: {error}");
    }
    assert!(client.put("key", "all").acknowledge(Acknowledge::All).await.is_err(), "an emptied disk confirms nothing");
    let got = client.get("key").await.expect("a quorum");
    assert!(got.value.is_some());
}

/// `status --check`, asked of these nodes: its exit code, and what it printed.
fn check(cluster: &Cluster, asked: &[usize]) -> (i32, String) {
    let servers: Vec<&str> = asked.iter().map(|node| cluster.addresses[*node].as_str()).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringseed"));
    let output = command.args(["status", "--check", "--servers", &servers.join(",")]).output().expect("the binary runs");
    (output.status.code().expect("it ends by itself"), String::from_utf8(output.stdout).expect("text"))
}

#[tokio::test]
async fn status_gives_a_verdict_first_and_fits_a_terminal() {
    let mut cluster = Cluster::start("status");
    let until = async |cluster: &Cluster, asked: &[usize], code: i32, parts: &[&str]| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (ended, text) = check(cluster, asked);
            if ended == code && parts.iter().all(|part| text.contains(part)) {
                assert!(text.lines().all(|line| line.starts_with("- ") || line.chars().count() <= 80), "{text}");
                return text;
            }
            assert!(Instant::now() < deadline, "{ended}:\n{text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // One that takes connections and says nothing costs a moment, not all the time there is.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addresses = [hung.local_addr().expect("bound").to_string(), cluster.addresses[0].clone()];
    let patient = Duration::from_secs(60);
    let options = ClientOptions { timeout: patient, connect_timeout: patient, ..ClientOptions::default() };
    let connected = tokio::time::timeout(Duration::from_secs(20), Client::connect(&addresses, options)).await;
    connected.expect("the second address is not kept waiting").expect("a connection");
    let text = until(&cluster, &[0, 1, 2], 0, &["all well: 3 nodes up, 64 partitions led"]).await;
    assert!(text.starts_with("all well") && text.contains(&cluster.addresses[2]), "{text}");
    cluster.kill(0);
    // Also when the node that is away was named first.
    until(&cluster, &[0, 1, 2], 9, &["1 thing needs care:\n- node 1 is down, for "]).await;
    cluster.kill(2);
    let two_down = ["- 64 of 64 partitions have no leader that answers", "- node 1 is down", "- node 3 is down"];
    until(&cluster, &[0, 1, 2], 9, &two_down).await;
    cluster.run(0);
    cluster.run(2);
    until(&cluster, &[1], 0, &["all well"]).await;
}
