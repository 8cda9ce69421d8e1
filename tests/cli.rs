//! The built `ringseed` binary, as a user meets it: what it says about wrong input, its exit codes, and all its commands against
//! a cluster that `ringseed up` runs.
#![cfg(feature = "server")]

mod home;

use home::Home;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Commands with a home, to their end.
trait Runs {
    fn run(&self, arguments: &[&str]) -> Ended;
    fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ended;
}

impl Runs for Home {
    fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(arguments, self.ringseed(arguments).output().unwrap())
    }

    fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut command = self.ringseed(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that does not read its input closes it: that is its own affair.
        let _ = child.stdin.take().unwrap().write_all(input);
        Ended::of(arguments, child.wait_with_output().unwrap())
    }
}

/// How a command ended.
struct Ended {
    arguments: String,
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Ended {
    fn of(arguments: &[&str], output: Output) -> Ended {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Ended { arguments: arguments.join(" "), code: output.status.code().unwrap_or(-1), out: output.stdout, err }
    }

    #[track_caller]
    fn code(self, code: i32) -> Ended {
        assert_eq!(self.code, code, "ringseed {}\n{}{}", self.arguments, self.text(), self.err);
        self
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|e| panic!("ringseed {}: {e}\n{}{}", self.arguments, self.text(), self.err))
    }

    #[track_caller]
    fn says(&self, what: &str) {
        assert!(self.err.contains(what), "ringseed {}: {what:?} was expected in\n{}", self.arguments, self.err);
    }

    /// The version that a command said on standard error.
    fn version(&self) -> String {
        let line = self.err.lines().find_map(|line| line.strip_prefix("version "));
        line.unwrap_or_else(|| panic!("ringseed {}: {}", self.arguments, self.err)).to_owned()
    }
}

#[test]
fn wrong_arguments_end_with_1_and_say_what_is_meant() {
    let home = Home::new("arguments");
    home.run(&["gett", "k"]).code(1).says("'get'");
    home.run(&["put", "k"]).code(1).says("<VALUE>");
    home.run(&["cas", "k", "new"]).code(1).says("--if");
    home.run(&["get", "k", "--timeout", "5"]).code(1).says("such as 500ms or 5s");
    home.run(&["get", "k", "--consistency", "weak"]).code(1).says("eventual");
    home.run(&["server", "--partitons", "64"]).code(1).says("--partitions");
    home.run(&["load", "--seconds", "-1"]).code(1);
    home.run(&["put", "k", "@no-such-file", "--servers", "127.0.0.1:1", "--timeout", "100ms"]).code(7);
    let help = home.run(&["--help"]).code(0).text();
    assert!(help.contains("unknown: may have been applied"), "{help}");
    assert!(home.run(&["completions", "bash"]).code(0).text().contains("--wal-sync-interval"));
}

#[test]
fn wrong_settings_are_named_with_their_place() {
    let home = Home::new("settings");
    let file = home.path("ringseed.toml");
    std::fs::write(&file, "node = 2\npartitons = 64\nweight = \"heavy\"\n").unwrap();
    let wrong = home.run(&["server", "--config", file.to_str().unwrap(), "--segment-size", "1KiB"]).code(1);
    wrong.says("ringseed.toml:2: there is no setting `partitons`; did you mean `partitions`?");
    wrong.says("ringseed.toml:3: `heavy` is no value for `weight`: expected a whole number from 1 to 1000");
    wrong.says("--segment-size: `1KiB` is no value for `segment_size`: expected a size from 1MiB to 1GiB");

    let mut command = home.ringseed(&["config"]);
    let wrong = Ended::of(&["config"], command.env("RINGSEED_WEIGTH", "2").output().unwrap()).code(1);
    wrong.says("RINGSEED_WEIGTH: there is no setting `weigth`; did you mean `RINGSEED_WEIGHT`?");
    home.run(&["server", "--config", "missing.toml"]).code(1).says("missing.toml: cannot read the configuration file");
    home.run(&["server", "--log", "ringseed=loud"]).code(1).says("`log`");
}

#[test]
fn config_says_what_holds_and_why() {
    let home = Home::new("config");
    std::fs::write(home.path("a.toml"), "partitions = 128\nsegment_size = \"32MiB\"\n[peers]\n1 = \"a:1\"\n2 = \"b:2\"\n")
        .unwrap();
    let arguments = ["config", "--json", "--config", "a.toml", "--weight", "3"];
    let mut command = home.ringseed(&arguments);
    let shown = Ended::of(&arguments, command.env("RINGSEED_ZONE", "north").output().unwrap()).code(0).json();
    let pair = |name: &str| (shown[name]["value"].as_str().unwrap().to_owned(), shown[name]["from"].as_str().unwrap().to_owned());
    let expected = [
        ("partitions", "128", "a.toml:1"),
        ("segment_size", "32MiB", "a.toml:2"),
        ("peers", "1=a:1,2=b:2", "a.toml:3"),
        ("weight", "3", "--weight"),
        ("zone", "north", "RINGSEED_ZONE"),
        ("replication_factor", "3", "default"),
        ("wal_sync_interval", "0", "default"),
    ];
    for (name, value, from) in expected {
        assert_eq!(pair(name), (value.to_owned(), from.to_owned()), "{name}");
    }
    assert!(home.run(&["config"]).code(0).text().contains("heartbeat_interval"));
}

#[test]
fn the_readme_describes_every_setting_as_it_is() {
    let home = Home::new("readme");
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let table = home.run(&["config", "--describe"]).code(0).text();
    assert!(readme.contains(&table), "the table in README.md should be what `ringseed config --describe` prints:\n{table}");
}

#[test]
fn no_cluster_is_unreachable_and_not_unknown() {
    let home = Home::new("unreachable");
    // A port that was free a moment ago: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let far = ["--servers", &free, "--timeout", "300ms"];
    let with =
        |command: &[&'static str]| command.iter().copied().map(String::from).chain(far.map(String::from)).collect::<Vec<_>>();
    for command in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["incr", "k"],
        &["scan"],
        &["status"],
        &["ring"],
        &["load"],
        &["shell"],
        &["get-many", "k"],
        &["txns"],
    ] {
        let arguments = with(command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        home.run(&arguments).code(7);
    }
    let arguments = with(&["get", "k", "--json"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_eq!(home.run(&arguments).code(7).json()["outcome"], "unreachable");
}

/// A cluster that `ringseed up` runs. Killed when it is dropped, unless it was stopped.
struct Up {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Up {
    fn start(home: &Home, directory: &Path) -> Up {
        let mut command = home.ringseed(&["up", "--data", directory.to_str().unwrap(), "--segment-size", "4MiB"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (send, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut up = Up { child, lines, seen: Vec::new() };
        up.wait_for("Ready after");
        up
    }

    #[track_caller]
    fn wait_for(&mut self, begin: &str) {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("no {begin:?} ({e}) after {:?}", self.seen));
            self.seen.push(line);
            if self.seen.last().is_some_and(|line| line.starts_with(begin)) {
                return;
            }
        }
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.wait_for("Stopped after");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For a machine that builds and tests other things as well.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn every_command_against_a_cluster_that_is_then_stopped_and_started_again() {
    let home = Home::new("cluster");
    let directory = home.path("up");
    let up = Up::start(&home, &directory);
    items(&home);
    conditions(&home);
    scans(&home);
    reports(&home);
    transactions(&home);
    wrong_transactions(&home);
    tokens(&home);
    shell(&home);
    keys_as_text(&home);
    many_at_a_time(&home);
    shell_transactions(&home);
    load(&home);
    load_transactions(&home);
    let second = home.run(&["up", "--data", directory.to_str().unwrap()]).code(1);
    assert!(second.err.contains("--data"), "{}", second.err);
    up.stop();

    let changed = home.run(&["up", "--data", directory.to_str().unwrap(), "--nodes", "5"]).code(1);
    changed.says("has 3 nodes");
    let up = Up::start(&home, &directory);
    assert_eq!(home.run(&["get", "survivor"]).code(0).text(), "still here");
    up.stop();
}

#[test]
fn another_cluster_at_the_addresses_of_the_last_up_is_an_error_that_names_both() {
    let home = Home::new("identity");
    let remembered = home.path("ringseed/clusters.json");
    let id = |home: &Home| home.run(&["status", "--json"]).code(0).json()["cluster"].as_str().unwrap().to_owned();
    let up = Up::start(&home, &home.path("first"));
    home.run(&["put", "k", "first"]).code(0);
    let ours = id(&home);
    assert!(std::fs::read_to_string(&remembered).unwrap().contains(&ours));
    up.stop();
    let up = Up::start(&home, &home.path("second"));
    let theirs = id(&home);
    let status = home.run(&["status", "--json"]).code(0).json();
    let server = status["nodes"][0]["address"].as_str().unwrap().to_owned();
    assert!(home.run(&["status"]).code(0).text().contains(&format!("\ncluster {theirs}\n")));
    // As if the first had been the last: at its addresses, another cluster.
    let second = std::fs::read_to_string(&remembered).unwrap();
    std::fs::write(&remembered, second.replace(&theirs, &ours)).unwrap();
    let both = format!("belongs to cluster {theirs} (node 1), not to cluster {ours}");
    for command in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["incr", "n"],
        &["delete", "k"],
        &["cas", "k", "--if-absent", "v"],
        &["scan"],
        &["get-many", "k"],
        &["txns"],
        &["status"],
        &["ring"],
        &["shell"],
        &["load", "--seconds", "0.1"],
    ] {
        home.run(command).code(7).says(&both);
    }
    let server = server.as_str();
    home.run(&["get", "k", "--servers", server]).code(3).says("never written");
    home.run(&["get", "k", "--servers", server, "--cluster", &ours]).code(7).says(&both);
    home.run(&["get", "k", "--servers", server, "--cluster", "here"]).code(1).says("32 hexadecimal digits");
    let mut command = home.ringseed(&["put", "k", "v"]);
    let meant = command.env("RINGSEED_CLUSTER", &theirs).output().unwrap();
    Ended::of(&["put", "k", "v"], meant).code(0);
    up.stop();
}

#[test]
fn a_second_up_takes_no_port_of_the_first_and_does_not_hide_it_when_it_ends() {
    let home = Home::new("two");
    let addresses = |name: &str| -> BTreeSet<String> {
        let text = std::fs::read_to_string(home.path(name).join("cluster.json")).unwrap();
        let cluster: Value = serde_json::from_str(&text).unwrap();
        cluster["addresses"].as_array().unwrap().iter().map(|address| address.as_str().unwrap().to_owned()).collect()
    };
    let first = Up::start(&home, &home.path("first"));
    home.run(&["put", "where", "first"]).code(0);
    let second = Up::start(&home, &home.path("second"));
    home.run(&["put", "where", "second"]).code(0);
    second.stop();
    assert_eq!(home.run(&["get", "where"]).code(0).text(), "first");
    first.stop();
    // Neither runs: their ports are free, and theirs all the same.
    let third = Up::start(&home, &home.path("third"));
    let taken: BTreeSet<String> = addresses("first").union(&addresses("second")).cloned().collect();
    assert!(taken.is_disjoint(&addresses("third")), "{taken:?}, {:?}", addresses("third"));
    third.stop();
}

/// Killed at the end, however the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server with this limit of open files, alone in its cluster, and what it says.
fn server_with_limit(home: &Home, files: u32) -> (Killed, mpsc::Receiver<String>) {
    let binary = env!("CARGO_BIN_EXE_ringseed");
    let arguments = "server --listen 127.0.0.1:0 --peers 1=127.0.0.1:1 --data limited --segment-size 1MiB --log info";
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {files}; exec {binary} {arguments}")]);
    command.current_dir(home.path("")).env("XDG_DATA_HOME", home.path("")).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (send, lines) = mpsc::channel();
    let err = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || err.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    (Killed(child), lines)
}

#[test]
fn clients_that_take_all_the_descriptors_there_are_leave_those_of_the_log() {
    use ringseed::client::{Client, ClientOptions};
    use ringseed::wire::handshake::Hello;
    let home = Home::new("descriptors");
    let (mut child, lines) = server_with_limit(&home, 192);
    let mut warned = false;
    let address = loop {
        let line = lines.recv_timeout(PATIENCE).expect("it starts");
        warned |= line.contains("max_connections is 4096") && line.contains("set max_connections to");
        if let Some(address) = line.split("listens on ").nth(1).and_then(|rest| rest.split(';').next()) {
            break address.to_owned();
        }
    };
    assert!(warned, "fewer clients than were asked for are let in, and it is said");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = || ClientOptions { timeout: Duration::from_secs(20), ..ClientOptions::default() };
    let client = runtime.block_on(Client::connect(std::slice::from_ref(&address), options())).unwrap();
    let put = |n: u32| client.put(format!("k{n}"), vec![0; 300 << 10]).into_future();
    runtime.block_on(put(0)).unwrap();
    // As many as it would take; those that are turned away come again.
    let mut held: Vec<std::net::TcpStream> = Vec::new();
    for round in 0..3 {
        for _ in 0..200 {
            let mut stream = std::net::TcpStream::connect(&address).unwrap();
            let _ = stream.write_all(&Hello::client().encode());
            held.push(stream);
        }
        // Several segments.
        for n in 0..10 {
            runtime.block_on(put(round * 10 + n)).unwrap();
        }
        let ended = child.0.try_wait().unwrap();
        assert!(ended.is_none(), "the node has ended: {ended:?}: {:?}", lines.try_iter().collect::<Vec<_>>());
    }
    drop(held);
    assert!(std::fs::read_dir(home.path("limited/log")).unwrap().count() > 8);
    drop(child);
    // Not a line for every connection that is not taken in.
    let said: Vec<String> =
        lines.iter().filter(|line| line.contains("without a word") || line.contains("cannot accept")).collect();
    assert!(said.len() < 8, "{said:#?}");

    let (mut child, lines) = server_with_limit(&home, 40);
    assert_eq!(child.0.wait().unwrap().code(), Some(1));
    let said: Vec<String> = lines.iter().collect();
    assert!(said.iter().any(|line| line.contains("the limit of open files is 40") && line.contains("ulimit -n")), "{said:?}");
}

/// A node alone in its cluster, and where it listens.
fn lone_server(home: &Home, data: &str) -> (Killed, String) {
    let arguments = ["server", "--listen", "127.0.0.1:0", "--peers", "1=127.0.0.1:1", "--data", data, "--segment-size", "1MiB"];
    let mut child = Killed(home.ringseed(&arguments).stderr(Stdio::piped()).spawn().unwrap());
    let (send, lines) = mpsc::channel();
    let err = BufReader::new(child.0.stderr.take().unwrap());
    // Read to the end, so that it never waits for its reader.
    std::thread::spawn(move || err.lines().map_while(Result::ok).for_each(|line| drop(send.send(line))));
    loop {
        let line = lines.recv_timeout(PATIENCE).expect("it starts");
        if let Some(address) = line.split("listens on ").nth(1).and_then(|rest| rest.split(';').next()) {
            return (child, address.to_owned());
        }
    }
}

/// Every file below, with its bytes.
fn files_below(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    files.sort_unstable();
    files
}

#[test]
fn the_log_of_a_node_is_looked_at_when_it_has_stopped() {
    let home = Home::new("wal");
    home.run(&["wal", "verify", "nothing"]).code(1).says("nothing: there is no directory `log` in it");
    assert!(!home.path("nothing").exists());
    let (mut child, address) = lone_server(&home, "node");
    let big = "x".repeat(300 << 10);
    std::fs::write(home.path("big"), &big).unwrap();
    home.run(&["put", "a\\tkey", "a value", "--servers", &address, "--timeout", "20s"]).code(0);
    for number in 0..8 {
        home.run(&["put", &format!("big/{number}"), "@big", "--servers", &address]).code(0);
    }
    home.run(&["delete", "big/0", "--servers", &address]).code(0);
    home.run_with_input(&["txn", "--servers", &address], b"put t/1 one\nput t/2 two\ncheck t/3 if absent\n").code(0);
    let process = child.0.id();
    home.run(&["wal", "verify", "node"]).code(1).says(&format!("is in use by another process (id {process})"));
    kill_process(Pid::from_child(&child.0), Signal::INT).unwrap();
    assert!(child.0.wait().unwrap().success());

    let before = files_below(&home.path("node"));
    let whole = home.run(&["wal", "verify", "node"]).code(0).text();
    for line in [
        "node           1\n",
        "epochs         1\n",
        "replay from    the first segment",
        "end            not torn\n",
        "damaged places 0\n",
    ] {
        assert!(whole.contains(line), "{whole}");
    }
    assert!(files_below(&home.path("node")) == before, "nothing is changed");
    wal_records(&home);
    assert!(files_below(&home.path("node")) == before, "nothing is changed");
    wal_damage(&home, &before);
}

/// What `wal dump` prints, line by line.
fn dumped(home: &Home, more: &[&str], code: i32) -> Vec<Value> {
    let arguments: Vec<&str> = ["wal", "dump", "node"].into_iter().chain(more.iter().copied()).collect();
    let text = home.run(&arguments).code(code).text();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn wal_records(home: &Home) {
    let all = dumped(home, &[], 0);
    let lsns: Vec<u64> = all.iter().map(|record| record["lsn"].as_u64().unwrap()).collect();
    assert_eq!(lsns, (1..=all.len() as u64).collect::<Vec<u64>>());
    let kinds: BTreeSet<&str> = all.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    for kind in ["epoch", "formation", "hard_state", "noop", "write", "transaction", "clean"] {
        assert!(kinds.contains(kind), "{kinds:?}");
    }
    assert_eq!((&all[0]["kind"], all[0].get("group")), (&Value::from("epoch"), None));
    let [written] = &dumped(home, &["--key", "a\\tkey"], 0)[..] else { panic!("one write of the key") };
    assert_eq!((written["key_text"].as_str(), written["key"].as_str()), (Some("a\\tkey"), Some("a\tkey")));
    assert_eq!((&written["kind"], written["value"]["length"].as_u64()), (&Value::from("write"), Some(7)));
    assert_eq!(written["value"]["checksum"], format!("{:08x}", ringseed::base::hash::value_checksum(b"a value")));
    let twice = dumped(home, &["--key", "big/0"], 0);
    assert_eq!(
        twice.iter().map(|record| &record["value"]["length"]).collect::<Vec<_>>(),
        [&Value::from(300 << 10), &Value::Null]
    );
    let group = written["group"].to_string();
    let of_group = dumped(home, &["--group", &group], 0);
    assert!(of_group.len() > 1 && of_group.iter().all(|record| record["group"] == written["group"]), "{of_group:?}");
    assert_eq!(of_group.len(), all.iter().filter(|record| record["group"] == written["group"]).count());
    assert_eq!(dumped(home, &["--from-lsn", "5"], 0), all[4..]);
    let steps: BTreeSet<String> = dumped(home, &["--key", "t/1"], 0).iter().map(|record| record["step"].to_string()).collect();
    assert!(!steps.is_empty() && !steps.contains("null"), "{steps:?}");
}

/// A bit of a value flips, and a segment is lost.
fn wal_damage(home: &Home, before: &[(std::path::PathBuf, Vec<u8>)]) {
    let (path, bytes) = &before.iter().find(|(path, _)| path.ends_with("00000001.log")).unwrap();
    let at = bytes.windows(7).position(|window| window == b"a value").unwrap();
    let mut bad = bytes.clone();
    bad[at] ^= 1;
    std::fs::write(path, &bad).unwrap();
    let damaged = home.run(&["wal", "verify", "node"]).code(10);
    damaged.says("the log is damaged at one place");
    let text = damaged.text();
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("damaged: segment 1 at byte ") && first.contains("groups touched: "), "{text}");
    assert!(text.contains("damaged places 1\n"), "{text}");
    let json = home.run(&["wal", "verify", "node", "--json"]).code(10).text();
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [bad, all] = &lines[..] else { panic!("{json}") };
    assert!(bad["segment"] == 1 && bad["bad"].is_string() && all["damaged"] == 1 && all["torn"].is_null(), "{json}");
    let lines = dumped(home, &[], 10);
    let [line] = &lines.iter().filter(|line| line.get("bad").is_some()).collect::<Vec<_>>()[..] else { panic!("{lines:?}") };
    assert!(line["segment"] == 1 && line["groups"].as_array().is_some_and(|groups| !groups.is_empty()), "{line}");
    assert_eq!(lines.last().unwrap()["kind"], "clean", "the walk goes on");
    std::fs::remove_file(home.path("node/log/00000002.log")).unwrap();
    let text = home.run(&["wal", "verify", "node"]).code(10).text();
    assert!(text.contains("damaged: segment 2 at byte 0: the segment is missing, and segment 3 is there"), "{text}");
    assert!(text.contains("damaged places 2\n"), "{text}");
}

fn items(home: &Home) {
    home.run(&["get", "nothing"]).code(3).says("never written");
    let put = home.run(&["put", "greeting", "hello"]).code(0);
    assert!(put.out.is_empty());
    let got = home.run(&["get", "greeting"]).code(0);
    assert_eq!((got.text(), got.version()), ("hello".into(), put.version()));
    assert_eq!(home.run(&["get", "greeting", "--consistency", "eventual", "--json"]).code(0).json()["outcome"], "ok");

    let bytes: Vec<u8> = (0..=255).collect();
    home.run_with_input(&["put", "bytes", "-"], &bytes).code(0);
    assert_eq!(home.run(&["get", "bytes"]).code(0).out, bytes);
    assert!(home.run(&["get", "bytes", "--json"]).code(0).json()["value"]["hex"].as_str().unwrap().starts_with("000102"));
    std::fs::write(home.path("file"), "from a file").unwrap();
    home.run(&["put", "file", "@file", "--acknowledge", "all"]).code(0);
    assert_eq!(home.run(&["get", "file", "--json"]).code(0).json()["value"], "from a file");
    home.run(&["put", "at", "@file", "--literal"]).code(0);
    assert_eq!(home.run(&["get", "at"]).code(0).text(), "@file");
    std::fs::write(home.path("long"), vec![0; 400 * 1024 + 1]).unwrap();
    assert_eq!(home.run(&["put", "long", "@long", "--json"]).code(5).json()["outcome"], "rejected");
    home.run(&["put", &"k".repeat(2_049), "v"]).code(5).says("2048");

    assert_eq!(home.run(&["incr", "visits"]).code(0).text(), "1\n");
    assert_eq!(home.run(&["incr", "visits", "-5"]).code(0).text(), "-4\n");
    home.run(&["incr", "greeting"]).code(5).says("not a whole number");
    home.run(&["delete", "file"]).code(0);
    home.run(&["get", "file"]).code(3).says("absent since version");
    home.run(&["put", "survivor", "still here"]).code(0);
}

fn conditions(home: &Home) {
    home.run(&["cas", "lock", "--if-absent", "mine"]).code(0);
    home.run(&["cas", "lock", "--if-absent", "yours"]).code(4);
    let first = home.run(&["cas", "lock", "--if", "mine", "ours"]).code(0).version();
    home.run(&["cas", "lock", "--if", "mine", "lost"]).code(4);
    home.run(&["cas", "lock", "--if-version", &first, "next"]).code(0);
    let failed = home.run(&["cas", "lock", "--if-version", &first, "late", "--json"]).code(4).json();
    assert_eq!((&failed["outcome"], &failed["present"]), (&"condition_failed".into(), &true.into()));
    home.run(&["delete", "lock", "--if", "other"]).code(4);
    home.run(&["delete", "lock", "--if-present"]).code(0);
    home.run(&["delete", "lock", "--if-present"]).code(4);
}

fn scans(home: &Home) {
    for n in 0..25 {
        home.run(&["put", &format!("scan/{n:02}"), &format!("line {n}\n")]).code(0);
    }
    let all = home.run(&["scan", "--prefix", "scan/"]).code(0).text();
    let keys: Vec<&str> = all.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(keys, (0..25).map(|n| format!("scan/{n:02}")).collect::<Vec<_>>());
    assert!(all.starts_with("scan/00\tline 0\\n\t"), "{all}");
    let some = home.run(&["scan", "--prefix", "scan/", "--from", "scan/10", "--limit", "3", "--json"]).code(0);
    let values: Vec<Value> = some.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((values.len(), &values[0]["key"], &values[2]["value"]), (4, &"scan/10".into(), &"line 12\n".into()));
    assert_eq!(values[3]["next_text"], "scan/13");
    home.run(&["scan", "--prefix", "scan/", "--limit", "3"]).code(0).says("--from 'scan/03'");
}

fn reports(home: &Home) {
    let status = home.run(&["status"]).code(0).text();
    assert!(status.starts_with("all well: 3 nodes up, 64 partitions led\n"), "{status}");
    assert_eq!(status.lines().filter(|line| line.contains(" up  ")).count(), 3, "{status}");
    home.run(&["status", "--check"]).code(0);
    let status = home.run(&["status", "--json"]).code(0).json();
    let led: u64 = status["nodes"].as_array().unwrap().iter().map(|node| node["groups_led"].as_u64().unwrap()).sum();
    assert_eq!(led, 64, "{status:#}");
    home.run(&["status", "--counters"]).code(0);
    let ring = home.run(&["ring", "--json"]).code(0).json();
    assert_eq!(ring["partitions"].as_array().unwrap().len(), 64);
    let key = home.run(&["ring", "greeting", "--json"]).code(0).json();
    let partition = key["partition"].as_u64().unwrap() as usize;
    assert_eq!(ring["partitions"][partition]["replicas"], key["replicas"]);
    assert!(home.run(&["ring"]).code(0).text().contains("LEADER"));
}

fn shell(home: &Home) {
    let script = b"put 'a key' \"a value\"\nget 'a key'\nincr n 41\nincr n\nfrobnicate\nhelp\nget nothing --json\nexit\n";
    let session = home.run_with_input(&["shell"], script).code(1);
    session.says("2 commands of the script failed, the first with code 1");
    for part in ["a value", "41\n42\n", "not_found"] {
        assert!(session.text().contains(part), "{part:?} in {}", session.text());
    }
    session.says("frobnicate");
    session.says("Print items in key order");
}

/// Keys are taken as they are printed, whatever is in them, by every command.
fn keys_as_text(home: &Home) {
    key_as_text(home, r"text/a\x00\tb\\c \xff'é", r"text/a\x00\t");
    key_as_text(home, r"\{7}text/a\|b\\{ \xff'é", r"\{7}text/a\|b");
    key_as_text(home, r"\{7}other{7}", r"\{7}o");
    key_as_text(home, r"sorted\|b|c", "sor");
    let json = home.run(&["ring", r"\{7}a\|b", "--json"]).code(0).json();
    assert_eq!(json["key"], serde_json::json!({ "table": 7, "partition": "a", "sort": "b" }));
    assert_eq!(home.run(&["ring", r"\{7}a", "--json"]).code(0).json()["token"], json["token"]);
    home.run(&["put", r"a\|", "1"]).code(5).says("the sort key is empty");
    home.run(&["get", r"C:\dir"]).code(1).says(r"`\d` is no escape in a key");
    home.run(&["ring", r"\q"]).code(1).says("no escape");
}

fn key_as_text(home: &Home, key: &str, prefix: &str) {
    home.run(&["put", key, "1"]).code(0);
    let printed = home.run(&["scan", "--prefix", prefix, "--keys-only"]).code(0).text();
    assert_eq!(printed, format!("{key}\n"));
    assert_eq!(home.run(&["get", key]).code(0).text(), "1");
    assert_eq!(home.run(&["incr", key, "4"]).code(0).text(), "5\n");
    home.run(&["cas", key, "--if", "5", "6"]).code(0);
    assert!(home.run(&["get-many", key]).code(0).text().starts_with(&format!("{key}\t6\t")));
    assert_eq!(home.run(&["get", key, "--json"]).code(0).json()["key_text"], key);
    assert_eq!(home.run(&["ring", key, "--json"]).code(0).json()["key_text"], key);
    let shown = home.run(&["ring", key]).code(0).text();
    assert!(shown.contains(&format!("key        {key}\n")), "{shown}");
    let read = home.run_with_input(&["txn"], format!("read \"{key}\"\n").as_bytes()).code(0).text();
    assert!(read.starts_with(&format!("{key}\t6\t")), "{read}");
    let failed = home.run_with_input(&["txn", "--json"], format!("put \"{key}\" x if absent\n").as_bytes()).code(4).json();
    assert_eq!(failed["failures"][0]["key_text"], key);
    // At the prompt as well, without quotes but for a blank and a quote.
    let typed = key.replace(' ', r"\ ").replace('\'', r"\'");
    let session = home.run_with_input(&["shell"], format!("get {typed}\nbegin\nincr {typed}\ncommit\n").as_bytes()).code(0);
    session.says(&format!("{key}: version "));
    assert_eq!(home.run(&["delete", key]).code(0).text(), "");
    home.run(&["get", key]).code(3);

    // The place to go on with is given back, too.
    for last in [r"\x01", r"\xfe'"] {
        home.run(&["put", &format!("place/{last}"), "v"]).code(0);
    }
    let first = home.run(&["scan", "--prefix", "place/", "--limit", "1"]).code(0);
    first.says(r"--from 'place/\xfe'\'''");
    let first = home.run(&["scan", "--prefix", "place/", "--limit", "1", "--json"]).code(0).text();
    let next: Value = serde_json::from_str(first.lines().last().unwrap()).unwrap();
    let from = next["next_text"].as_str().unwrap();
    let second = home.run(&["scan", "--prefix", "place/", "--from", from, "--keys-only"]).code(0).text();
    assert_eq!(second, "place/\\xfe'\n");
}

fn many_at_a_time(home: &Home) {
    let puts: String = (0..99).map(|n| format!("put many/{n} v\n")).collect();
    home.run_with_input(&["txn"], puts.as_bytes()).code(0);
    home.run_with_input(&["txn"], puts.replace("many/", "many/more/").as_bytes()).code(0);
    assert_eq!(home.run(&["count", "--prefix", "many/"]).code(0).text(), "198\n");
    assert_eq!(home.run(&["count", "--prefix", "many/more/", "--json"]).code(0).json()["count"], 99);
    home.run(&["delete", "--prefix", "many/"]).code(1).says("add --yes");
    assert_eq!(home.run(&["count", "--prefix", "many/"]).code(0).text(), "198\n");
    assert_eq!(home.run(&["delete", "--prefix", "many/more/", "--yes", "--json"]).code(0).json()["deleted"], 99);
    assert_eq!(home.run(&["delete", "--prefix", "many/", "--yes"]).code(0).text(), "99\n");
    assert_eq!(home.run(&["delete", "--prefix", "many/", "--yes"]).code(0).text(), "0\n");
    assert_eq!(home.run(&["count", "--prefix", "many/"]).code(0).text(), "0\n");

    home.run(&["delete", "never"]).code(0).says("there was nothing to delete: the key was never written");
    home.run(&["delete", "many/1"]).code(0).says("there was nothing to delete: the key is absent since version ");
    assert_eq!(home.run(&["delete", "never", "--json"]).code(0).json()["deleted"], false);
    home.run(&["cas", "never", "--if-version", "0", "v"]).code(1).says("--if-absent is for a key that is not there");
    home.run(&["load", "--workload", "bank", "--keys", "101"])
        .code(1)
        .says("101 accounts are too many for the bank; at most 100");
}

fn transactions(home: &Home) {
    let text = b"# two accounts\nput t/alice 100 if absent\nput t/bob 0 if absent\nput t/log 'a b'\n";
    home.run_with_input(&["txn"], text).code(0).says("committed");
    let failed = home.run_with_input(&["txn"], text).code(4);
    failed.says("key \"t/alice\": its condition did not hold: the item is at version ");
    let failed = home.run_with_input(&["txn", "--json"], text).code(4).json();
    assert_eq!((&failed["outcome"], &failed["failures"][0]["key"]), (&"condition_failed".into(), &"t/alice".into()));

    let json = r#"{"items": [{"key": "t/alice", "action": {"increment": -30}, "if": {"value": "100"}},
                             {"key": "t/bob", "action": {"increment": 30}},
                             {"key": "t/log", "action": "read"},
                             {"key": "t/none", "action": "check", "if": "absent"}]}"#;
    let done = home.run_with_input(&["txn", "--json"], json.as_bytes()).code(0).json();
    assert_eq!((&done["results"][0]["number"], &done["results"][1]["number"]), (&70.into(), &30.into()), "{done:#}");
    assert_eq!(done["results"][2]["value"], "a b");
    std::fs::write(home.path("txn.txt"), "read t/log\nincr t/bob\ndelete t/alice if present\nread t/none").unwrap();
    let done = home.run(&["txn", "txn.txt"]).code(0);
    let lines: Vec<String> = done.text().lines().map(|line| line.rsplit_once('\t').unwrap().0.to_owned()).collect();
    assert_eq!(lines, ["t/log\ta b", "t/bob\t31"]);
    done.says("t/none: not found (version 0)");

    let many = home.run(&["get-many", "t/bob", "t/alice", "t/log"]).code(0);
    assert!(many.text().starts_with("t/bob\t31\t") && many.text().lines().count() == 2, "{}", many.text());
    many.says("t/alice: not found");
    let many = home.run(&["get-many", "t/bob", "t/alice", "--json"]).code(0).json();
    assert_eq!((&many["items"][0]["value"], &many["items"][1]["value"]), (&"31".into(), &Value::Null));
    home.run_with_input(&["txn"], b"incr t/log").code(5).says("not a whole number");
    for _ in 0..50 {
        if home.run(&["txns", "--json"]).code(0).json()["transactions"] == Value::Array(Vec::new()) {
            return home.run(&["txns"]).code(0).says("no transaction is in flight");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{}", home.run(&["txns"]).text());
}

/// Each is refused with a reason, and nothing of it is done.
fn wrong_transactions(home: &Home) {
    let lines = |count: usize, value: &str| (0..count).map(|n| format!("put w/{n} '{value}'\n")).collect::<String>();
    let cases: [(&str, i32, &str); 9] = [
        (&lines(101, "v"), 1, "line 101, column 1: one operation too many: at most 100"),
        ("put w/1 v\ndelete w/1", 5, "names the key w/1 twice"),
        (&lines(12, &"x".repeat(400 * 1024)), 5, "at most 4194304"),
        ("# nothing\n", 5, "at least one operation"),
        ("put w/1 v if newer", 1, "line 1, column 14: no such condition: `newer`"),
        ("put w/1", 1, "line 1, column 8: the line ends here; expected a value"),
        ("[{\"key\": \"w/1\", \"action\": {\"append\": 1}}]", 1, "unknown variant `append`"),
        ("token t\nread w/1", 5, "cannot read"),
        ("put '' v", 5, "the key is empty"),
    ];
    for (input, code, why) in cases {
        home.run_with_input(&["txn"], input.as_bytes()).code(code).says(why);
    }
    home.run(&["txn", "missing.txt"]).code(1).says("missing.txt");
    home.run(&["get-many", "a", "a"]).code(5).says("twice");
    assert!(home.run(&["scan", "--prefix", "w/"]).code(0).text().is_empty());
}

fn tokens(home: &Home) {
    let once = |n: u32| format!("incr token/count {n}\nput token/other x");
    let first = home.run_with_input(&["txn", "--token", "t1"], once(5).as_bytes()).code(0);
    let again = home.run_with_input(&["txn", "--token", "t1"], once(5).as_bytes()).code(0);
    assert_eq!(first.text(), again.text());
    home.run_with_input(&["txn", "--token", "t1"], once(6).as_bytes()).code(5).says("the token was used before");
    home.run_with_input(&["txn", "--token", "t2"], b"token t1\nincr token/count").code(1).says("has a token already");
    assert_eq!(home.run(&["get", "token/count"]).code(0).text(), "5");
    // A refusal is kept as well.
    home.run_with_input(&["txn", "--token", "t3"], b"put token/count 7 if absent").code(4);
    home.run(&["delete", "token/count"]).code(0);
    home.run_with_input(&["txn", "--token", "t3"], b"put token/count 7 if absent").code(4);
}

fn shell_transactions(home: &Home) {
    // With the code of the first command that fails.
    let session = |script: &str, code: i32| home.run_with_input(&["shell"], script.as_bytes()).code(code);
    let done = session("begin\nput s/a 1\nget s/a\nincr s/a 4\nget s/a\nget-many s/a s/b\nput s/b x\ncommit\nget s/b\n", 0);
    assert_eq!(done.text(), "1\n5\ns/a\t5\nx\n");
    done.says("committed");
    let done = session("begin\nput s/a 9\nrollback\nget s/a\nbegin\ndelete s/a\nget s/a --json\n", 3);
    assert!(done.text().starts_with("5\n") && done.text().contains("not_found"), "{}", done.text());
    done.says("the open transaction was rolled back");
    session("commit\n", 1).says("no transaction is open");
    session("rollback\n", 1).says("no transaction is open");
    session("begin\nbegin\n", 1).says("open already");
    session("begin\nscan\n", 1).says("not be part of the open transaction");
    session("begin\ncas s/a --if 5 6\n", 1).says("the commit writes only if");
    session("txn\n", 1).says("name a file");
    assert_eq!(home.run(&["get", "s/a"]).code(0).text(), "5");

    // Another client writes between a read and the commit.
    let mut command = home.ringseed(&["shell"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    input.write_all(b"begin\nget s/a\n").unwrap();
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "5\n");
    home.run(&["put", "s/a", "6"]).code(0);
    input.write_all(b"put s/b lost\ncommit --json\n").unwrap();
    drop(input);
    line.clear();
    out.read_line(&mut line).unwrap();
    let conflict: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&conflict["outcome"], &conflict["failures"][0]["key"]), (&"conflict".into(), &"s/a".into()));
    assert_eq!(child.wait().unwrap().code(), Some(8), "the conflict's");
    assert_eq!(home.run(&["get", "s/b"]).code(0).text(), "x");
}

fn load_transactions(home: &Home) {
    let run = |workload: &'static str, more: &[&'static str]| {
        let mut arguments = vec!["load", "--workload", workload, "--seconds", "0.5", "--clients", "8", "--keys", "20", "--json"];
        arguments.extend(more);
        let report = home.run(&arguments).code(0).json();
        assert!(report["txn"]["ok"].as_u64().unwrap() > 0, "{report:#}");
        assert_eq!((&report["total"]["rejected"], &report["total"]["unknown"]), (&0.into(), &0.into()), "{report:#}");
        report
    };
    run("txn", &["--txn-items", "3"]);
    run("txn", &["--hot"]);
    let bank = run("bank", &["--history", "bank.jsonl"]);
    assert!(bank["bank"]["right"].as_u64().unwrap() > 1 && bank["bank"]["wrong"] == 0, "{bank:#}");
    let history = std::fs::File::open(home.path("bank.jsonl")).unwrap();
    let records: Vec<_> = ringseed::history::Reader::new(BufReader::new(history)).map(Result::unwrap).collect();
    use ringseed::history::Action;
    let transacted = records.iter().filter(|record| matches!(record.action, Action::Transact { .. })).count();
    assert!(transacted > 1 && records.iter().any(|record| matches!(record.action, Action::GetMany { .. })));

    // Money out of nowhere is noticed, and said.
    home.run(&["incr", "load/00000003"]).code(0);
    let arguments = ["load", "--workload", "bank", "--seconds", "0.3", "--clients", "2", "--keys", "20", "--no-preload"];
    let wrong = home.run(&arguments).code(1);
    wrong.says("20001 where 20000 was expected");
    home.run(&["load", "--workload", "txn", "--keys", "2", "--txn-items", "3"]).code(1).says("--txn-items");
}

fn load(home: &Home) {
    for workload in ["put", "get", "mixed"] {
        let mut arguments =
            vec!["load", "--workload", workload, "--seconds", "0.5", "--clients", "8", "--keys", "50", "--zipf", "--json"];
        if workload == "mixed" {
            arguments.extend(["--history", "history.jsonl"]);
        }
        let report = home.run(&arguments).code(0).json();
        assert!(report["total"]["ok"].as_u64().unwrap() > 0, "{report:#}");
        assert_eq!(report["total"]["rejected"], 0, "{report:#}");
        assert_eq!(report["total"]["unknown"], 0, "{report:#}");
    }
    let history = std::fs::File::open(home.path("history.jsonl")).unwrap();
    let records: Vec<_> = ringseed::history::Reader::new(BufReader::new(history)).map(Result::unwrap).collect();
    assert!(records.len() > 50 && records.iter().all(|record| record.end.is_some_and(|end| end >= record.start)));
    let paced = home.run(&["load", "--seconds", "1", "--rate", "100", "--keys", "10", "--no-preload", "--json"]).code(0).json();
    let per_second = paced["total"]["per_second"].as_f64().unwrap();
    assert!((50.0..=110.0).contains(&per_second), "{paced:#}");
    assert!(home.run(&["load", "--seconds", "0.2", "--keys", "10"]).code(0).text().contains("server CPU"));
}
