//! Ten million puts over a hundred thousand keys on three servers, and what may befall their disks. Takes ten minutes:
//!
//! ```text
//! cargo test --release --test long_history -- --ignored --nocapture
//! ```
//!
//! `RINGSEED_TEST_PUTS` sets another number of puts.
#![cfg(feature = "server")]

#[path = "home/files.rs"]
mod files;
mod home;

use files::{copy, end_of_log, free_addresses, write_at, zero};
use home::Home;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

const KEYS: u64 = 100_000;
const VALUE_SIZE: u64 = 100;
/// What a key, its value and what the log says of both take, once.
const ITEM_SIZE: u64 = VALUE_SIZE + 12 + 100;
/// Beside twice the items: 256 MiB for members that lag, what comes between two checkpoints, files that are free or in reserve.
const DISK_BESIDE: u64 = 1 << 30;

struct Cluster {
    home: Home,
    addresses: Vec<String>,
    children: [Option<Child>; 3],
    began: Instant,
}

impl Cluster {
    fn data(&self, node: usize) -> PathBuf {
        self.home.path(format!("node-{node}"))
    }

    fn start(&mut self, node: usize) {
        let peers: Vec<String> = (1..).zip(&self.addresses).map(|(node, address)| format!("{node}={address}")).collect();
        let (number, peers, data) = (node.to_string(), peers.join(","), self.data(node));
        let listen = &self.addresses[node - 1];
        let arguments = ["server", "--node", &number, "--peers", &peers, "--listen", listen, "--data", data.to_str().unwrap()];
        let log = fs::File::options().create(true).append(true).open(self.home.path(format!("node-{node}.log"))).unwrap();
        self.children[node - 1] = Some(self.home.ringseed(&arguments).stderr(Stdio::from(log)).spawn().unwrap());
    }

    fn stop(&mut self, node: usize, signal: Signal) {
        let mut child = self.children[node - 1].take().expect("it runs");
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
    }

    fn say(&self, what: &str) {
        println!("{:>5.0} s  {what}", self.began.elapsed().as_secs_f64());
    }

    fn client(&self, arguments: &[&str]) -> Output {
        let running = (0..3).filter(|at| self.children[*at].is_some());
        let servers: Vec<&str> = running.map(|at| self.addresses[at].as_str()).collect();
        let servers = servers.join(",");
        let all: Vec<&str> = arguments.iter().copied().chain(["--servers", &servers, "--timeout", "30s"]).collect();
        self.home.ringseed(&all).output().unwrap()
    }

    #[track_caller]
    fn does(&self, arguments: &[&str]) -> Output {
        let output = self.client(arguments);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", String::from_utf8_lossy(&output.stderr), self.logs());
        output
    }

    fn logs(&self) -> String {
        (1..=3).map(|node| fs::read_to_string(self.home.path(format!("node-{node}.log"))).unwrap_or_default()).collect()
    }

    /// Puts so many times, and prints what the servers take meanwhile.
    fn put(&self, puts: u64) {
        let (clients, keys, size) = ("64", KEYS.to_string(), VALUE_SIZE.to_string());
        let (mut done, mut seconds) = (0, 0.0);
        while done < puts {
            let load = ["load", "--workload", "put", "--clients", clients, "--keys", &keys, "--value-size", &size];
            let rest = ["--no-preload", "--json", "--seconds", if puts - done < 1_000_000 { "5" } else { "20" }];
            let figures: Value = serde_json::from_slice(&self.does(&[&load[..], &rest[..]].concat()).stdout).unwrap();
            done += figures["put"]["ok"].as_u64().unwrap();
            seconds += figures["seconds"].as_f64().unwrap();
            self.judge_disks();
        }
        self.say(&format!("{done} puts, {:.0} a second; {}", done as f64 / seconds, self.takes()));
    }

    fn disk(&self, node: usize) -> u64 {
        let files = fs::read_dir(self.data(node).join("log")).unwrap();
        files.filter_map(|file| file.unwrap().metadata().ok()).map(|file| file.len()).sum()
    }

    fn judge_disks(&self) {
        for node in 1..=3 {
            let (disk, bound) = (self.disk(node), 2 * KEYS * ITEM_SIZE + DISK_BESIDE);
            assert!(disk <= bound, "node {node} takes {disk} bytes of its disk, and {bound} at most are promised");
        }
    }

    /// Disk and memory of each node.
    fn takes(&self) -> String {
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let nodes = (1..=3).map(|node| {
            let memory = self.children[node - 1].as_ref().map_or_else(|| "not running".into(), |child| mib(resident(child.id())));
            format!("node {node}: disk {}, memory {memory}", mib(self.disk(node)))
        });
        nodes.collect::<Vec<_>>().join("; ")
    }

    /// The first strong read of the cluster, or of those that run.
    fn serves_after(&self, began: Instant) -> Duration {
        loop {
            // 3: the key was never written.
            if [Some(0), Some(3)].contains(&self.client(&["get", "nothing"]).status.code()) {
                return began.elapsed();
            }
        }
    }

    fn counter(&self, node: usize, name: &str) -> Option<u64> {
        let address = &self.addresses[node - 1];
        let output = self.home.ringseed(&["status", "--json", "--servers", address, "--timeout", "5s"]).output().unwrap();
        let all: Value = serde_json::from_slice(&output.stdout).ok()?;
        let nodes = all["nodes"].as_array()?;
        let found = nodes.iter().find(|found| found["node"] == node as u64)?;
        found["counters"][name].as_u64().or_else(|| found[name].as_u64())
    }

    /// Waits until nothing of any partition is missing on the node.
    fn is_whole(&self, node: usize, since: Instant) {
        let mut times = 0;
        while times < 3 {
            assert!(since.elapsed() < Duration::from_secs(300), "node {node} is not whole:\n{}", self.logs());
            let zero = |name| self.counter(node, name) == Some(0);
            let behind = || self.behind(node) == Some(0);
            times = if zero("forgetful_partitions") && zero("snapshots_arriving") && behind() { times + 1 } else { 0 };
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Entries that the node lacks, as the others say.
    fn behind(&self, node: usize) -> Option<u64> {
        let output = self.client(&["status", "--json"]);
        let all: Value = serde_json::from_slice(&output.stdout).ok()?;
        let mut most = 0;
        for other in all["nodes"].as_array()?.iter().filter(|other| other["node"] != node as u64) {
            let peers = other["peers"].as_array()?;
            most = most.max(peers.iter().find(|peer| peer["node"] == node as u64)?["entries_behind"].as_u64()?);
        }
        Some(most)
    }

    /// What all keys hold, as read with one node down: from the copies of the other two.
    fn read_without(&mut self, node: usize) -> u64 {
        self.stop(node, Signal::INT);
        self.serves_after(Instant::now());
        let all = self.does(&["scan", "--limit", "1000000", "--prefix", "load/", "--json"]).stdout;
        self.start(node);
        self.is_whole(node, Instant::now());
        let mut hasher = DefaultHasher::new();
        hasher.write(&all);
        assert!(all.len() as u64 > KEYS * VALUE_SIZE, "{} bytes", all.len());
        hasher.finish()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Bytes of memory.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Flips a hundred bits of what is written, all over the log.
fn flip_a_hundred(directory: &Path) {
    let mut state = 17_u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let files = fs::read_dir(directory.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.metadata().unwrap().len() > 1 << 20).collect();
    files.sort();
    let mut flipped = 0;
    while flipped < 100 {
        let path = &files[draw(files.len() as u64) as usize];
        let bytes = fs::read(path).unwrap();
        for _ in 0..10 {
            let at = draw(bytes.len() as u64) as usize;
            if bytes[at] != 0 && flipped < 100 {
                write_at(path, &[bytes[at] ^ (1 << draw(8))], at);
                flipped += 1;
            }
        }
    }
}

#[test]
#[ignore = "takes ten minutes"]
fn ten_million_puts_and_what_befalls_disks() {
    let puts = std::env::var("RINGSEED_TEST_PUTS").map_or(10_000_000, |puts| puts.parse::<u64>().unwrap());
    let mut cluster =
        Cluster { home: Home::new("history"), addresses: free_addresses(3), children: [None, None, None], began: Instant::now() };
    (1..=3).for_each(|node| cluster.start(node));
    cluster.serves_after(Instant::now());
    cluster.put(puts / 4);
    cluster.stop(2, Signal::INT);
    copy(&cluster.data(2), &cluster.home.path("kept"));
    cluster.start(2);
    cluster.say("node 2's directory is copied");
    cluster.put(puts / 4);
    cluster.stop(3, Signal::KILL);
    cluster.say("node 3 is away from now on");
    cluster.put(puts / 2);
    let count = |name| cluster.counter(1, name).unwrap_or_default();
    let (written, moved) = (count("log_bytes_written"), count("bytes_moved"));
    cluster.say(&format!(
        "node 1 has written {} bytes a put, {} of them values that were moved; {} checkpoints, {} files used again",
        written / puts,
        moved / puts,
        count("checkpoints"),
        count("segments_recycled")
    ));
    let began = Instant::now();
    cluster.start(3);
    cluster.is_whole(3, began);
    let installed = cluster.counter(3, "snapshots_installed");
    cluster.say(&format!(
        "node 3 is back, and whole after {:.1} s, {installed:?} snapshots; {}",
        began.elapsed().as_secs_f64(),
        cluster.takes()
    ));
    let before = cluster.read_without(3);

    (1..=3).for_each(|node| cluster.stop(node, Signal::KILL));
    let began = Instant::now();
    (1..=3).for_each(|node| cluster.start(node));
    let served = cluster.serves_after(began).as_secs_f64();
    cluster.say(&format!("killed and started together, they serve after {served:.1} s; {}", cluster.takes()));
    (1..=3).for_each(|node| cluster.is_whole(node, began));

    cluster.stop(1, Signal::KILL);
    flip_a_hundred(&cluster.data(1));
    let began = Instant::now();
    cluster.start(1);
    cluster.is_whole(1, began);
    cluster.say(&format!("node 1 is whole {:.1} s after a hundred bits were flipped", began.elapsed().as_secs_f64()));
    let began = Instant::now();
    cluster.does(&["scrub"]);
    cluster.does(&["damage"]);
    cluster.say(&format!("all is scrubbed after {:.1} s", began.elapsed().as_secs_f64()));

    cluster.stop(2, Signal::KILL);
    let (path, end) = end_of_log(&cluster.data(2));
    zero(&path, end - 4096, end);
    let began = Instant::now();
    cluster.start(2);
    cluster.is_whole(2, began);
    cluster.say(&format!("node 2 is whole {:.1} s after the log's last 4 KiB were lost", began.elapsed().as_secs_f64()));

    cluster.stop(2, Signal::KILL);
    let data = cluster.data(2);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(cluster.home.path("kept"), &data).unwrap();
    let began = Instant::now();
    cluster.start(2);
    while !cluster.logs().contains("the data directory is an old copy, and the peers do not hear the original") {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.is_whole(2, began);
    cluster.say(&format!("node 2 is whole {:.1} s after its directory was replaced", began.elapsed().as_secs_f64()));

    cluster.does(&["scrub"]);
    cluster.does(&["damage"]);
    for node in 1..=3 {
        assert_eq!(cluster.read_without(node), before, "all is as it was, without node {node}");
    }
    cluster.judge_disks();
    cluster.say(&format!("all three are whole, equal and clean; {}", cluster.takes()));
}
