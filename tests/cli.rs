//! The built `ringseed` binary, as a user meets it: what it says about wrong input, its exit codes, and all its commands against a cluster
//! that `ringseed up` runs.
#![cfg(feature = "server")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A folder of one test, removed at its end; also the user's home as the binary sees it.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Home {
        let path = std::env::temp_dir().join(format!("ringseed-cli-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Home(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The binary with this home and no other setting from outside.
    fn ringseed(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringseed"));
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGSEED_")).for_each(|(name, _)| {
            command.env_remove(name);
        });
        command.args(arguments).env("XDG_DATA_HOME", &self.0).current_dir(&self.0).stdin(Stdio::null());
        command
    }

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

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
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
    for command in
        [&["get", "k"][..], &["put", "k", "v"], &["incr", "k"], &["scan"], &["status"], &["ring"], &["load"], &["shell"]]
    {
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
    shell(&home);
    load(&home);
    let second = home.run(&["up", "--data", directory.to_str().unwrap()]).code(1);
    assert!(second.err.contains("--data"), "{}", second.err);
    up.stop();

    let changed = home.run(&["up", "--data", directory.to_str().unwrap(), "--nodes", "5"]).code(1);
    changed.says("has 3 nodes");
    let up = Up::start(&home, &directory);
    assert_eq!(home.run(&["get", "survivor"]).code(0).text(), "still here");
    up.stop();
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
    home.run(&["get", "file"]).code(3).says("deleted");
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
    some.says("--from 'scan/13'");
    let values: Vec<Value> = some.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((values.len(), &values[0]["key"], &values[2]["value"]), (3, &"scan/10".into(), &"line 12\n".into()));
}

fn reports(home: &Home) {
    let status = home.run(&["status"]).code(0).text();
    assert_eq!(status.lines().filter(|line| line.contains(" up ")).count(), 3, "{status}");
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
    let session = home.run_with_input(&["shell"], script).code(0);
    for part in ["a value", "41\n42\n", "not_found"] {
        assert!(session.text().contains(part), "{part:?} in {}", session.text());
    }
    session.says("frobnicate");
    session.says("Print items in key order");
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
    let records: Vec<_> = ringseed::msg::history::Reader::new(BufReader::new(history)).map(Result::unwrap).collect();
    assert!(records.len() > 50 && records.iter().all(|record| record.end.is_some_and(|end| end >= record.start)));
    let paced = home.run(&["load", "--seconds", "1", "--rate", "100", "--keys", "10", "--no-preload", "--json"]).code(0).json();
    let per_second = paced["total"]["per_second"].as_f64().unwrap();
    assert!((50.0..=110.0).contains(&per_second), "{paced:#}");
    assert!(home.run(&["load", "--seconds", "0.2", "--keys", "10"]).code(0).text().contains("server CPU"));
}
