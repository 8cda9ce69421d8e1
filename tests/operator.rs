//! What the log of a server says: an operator's hour over real processes, every state told once; and standard error as programs
//! meet it. `cargo test --test operator -- --nocapture` prints the log of that hour.
#![cfg(feature = "server")]

#[path = "home/files.rs"]
mod files;
mod home;

use files::{copy, end_of_log, free_addresses, write_at, zero};
use home::Home;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// For a machine that builds and tests other things as well.
const PATIENCE: Duration = Duration::from_secs(120);

/// A small file system of its own, where this user may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, megabytes: u32) -> Option<SmallDisk> {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        let done = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success()).then_some(SmallDisk(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

/// All that the processes of one node have said, in order.
type Said = Arc<Mutex<Vec<String>>>;

struct Node {
    number: usize,
    data: PathBuf,
    child: Option<Child>,
    said: Said,
    /// Lines before this one belong to earlier chapters.
    read: usize,
}

impl Node {
    fn stop(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            kill_process(Pid::from_child(&child), signal).unwrap();
            child.wait().unwrap();
        }
    }

    fn count(&self, what: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }

    /// Waits until the node says this, and asserts that it says it once, all chapters together so far.
    #[track_caller]
    fn says(&mut self, what: &str) {
        self.says_times(what, 1);
    }

    #[track_caller]
    fn says_times(&mut self, what: &str, times: usize) {
        let began = Instant::now();
        while self.count(what) < times {
            let said = self.said.lock().unwrap();
            assert!(began.elapsed() < PATIENCE, "node {} does not say {what:?}: {:#?}", self.number, &said[self.read..]);
            drop(said);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.count(what), times, "node {} says {what:?} too often: {:#?}", self.number, self.said.lock().unwrap());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Operator {
    home: Home,
    addresses: Vec<String>,
    nodes: Vec<Node>,
    story: String,
}

impl Operator {
    fn new(datas: Vec<PathBuf>, home: Home) -> Operator {
        let addresses = free_addresses(datas.len());
        let node = |(number, data)| Node { number: number + 1, data, child: None, said: Said::default(), read: 0 };
        Operator { home, addresses, nodes: datas.into_iter().enumerate().map(node).collect(), story: String::new() }
    }

    fn start(&mut self, number: usize, more: &[&str]) {
        let peers: Vec<String> = self.addresses.iter().enumerate().map(|(at, address)| format!("{}={address}", at + 1)).collect();
        let (number_text, peers) = (number.to_string(), peers.join(","));
        let node = &mut self.nodes[number - 1];
        let mut arguments = vec!["server", "--node", &number_text, "--peers", &peers, "--listen", &self.addresses[number - 1]];
        arguments.extend(["--data", node.data.to_str().unwrap(), "--segment-size", "2MiB", "--cache-size", "0"]);
        arguments.extend(more);
        let mut child = self.home.ringseed(&arguments).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, said) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&node.said));
        std::thread::spawn(move || lines.lines().map_while(Result::ok).for_each(|line| said.lock().unwrap().push(line)));
        node.child = Some(child);
    }

    /// Three nodes with four partitions that have formed a cluster.
    fn of_three(name: &str) -> Operator {
        let home = Home::new(name);
        let datas = vec![home.path("one"), home.path("two"), home.path("three")];
        let mut op = Operator::new(datas, home);
        (1..=3).for_each(|number| op.start(number, &["--partitions", "4"]));
        (1..=3).for_each(|number| op.node(number).says("the cluster has formed"));
        op
    }

    /// Writes twenty keys, on all nodes.
    fn put_all(&self, round: u32) {
        for number in 0..20 {
            self.does(&["put", &format!("key{number}"), &format!("value {round} of {number}"), "--acknowledge", "all"]);
        }
    }

    #[track_caller]
    fn has_all(&self, round: u32, what: &str) {
        for number in 0..20 {
            let value = self.client(&["get", &format!("key{number}")]);
            assert_eq!(value.stdout, format!("value {round} of {number}").as_bytes(), "{what}: {value:?}");
        }
    }

    fn client(&self, arguments: &[&str]) -> std::process::Output {
        let servers = self.addresses.join(",");
        let all: Vec<&str> = arguments.iter().copied().chain(["--servers", &servers, "--timeout", "20s"]).collect();
        self.home.ringseed(&all).output().unwrap()
    }

    #[track_caller]
    fn does(&self, arguments: &[&str]) {
        let output = self.client(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What `damage` shows, ending with this code.
    #[track_caller]
    fn damage(&self, code: i32) -> Value {
        let output = self.client(&["damage", "--json"]);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn node(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    fn ends(mut self) {
        for number in [3, 2, 1] {
            self.node(number).stop(Signal::INT);
        }
        self.chapter("all is stopped", [4, 4, 4]);
        assert!(!self.story.contains('\x1b'), "no colours in a file");
        println!("{}", self.story);
    }

    /// Ends a chapter: each node has said at most so many lines in it.
    #[track_caller]
    fn chapter(&mut self, title: &str, lines_max: [usize; 3]) {
        // What comes too much comes now.
        std::thread::sleep(Duration::from_millis(2_500));
        let _ = writeln!(self.story, "\n== {title}");
        for (node, most) in self.nodes.iter_mut().zip(lines_max) {
            let said = node.said.lock().unwrap();
            let new = &said[node.read..];
            new.iter().for_each(|line| _ = writeln!(self.story, "node {} | {line}", node.number));
            assert!(new.len() <= most, "{title}: node {} says {} lines, of at most {most}: {new:#?}", node.number, new.len());
            let read = said.len();
            drop(said);
            node.read = read;
        }
    }
}

/// Flips a bit of the value in every copy of it.
fn flip(directory: &Path, value: &[u8]) -> usize {
    let mut flipped = 0;
    for entry in std::fs::read_dir(directory.join("log")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let Some(at) = bytes.windows(value.len()).position(|part| part == value) else { continue };
        bytes[at] ^= 0x80;
        write_at(&path, &bytes[at..=at], at);
        flipped += 1;
    }
    flipped
}

/// The two halves of the hour run side by side, each with a cluster of its own.
#[test]
fn an_operators_hour_reads_as_a_story() {
    let home = Home::new("hour");
    let small = SmallDisk::mount(home.path("small"), 24);
    let datas = vec![home.path("one"), home.path("two"), home.path("small/three")];
    let mut op = Operator::new(datas, home);

    op.start(1, &["--partitions", "8"]);
    op.node(1).says("waiting for nodes 2, 3: the cluster forms once all its 3 initial members have been started");
    op.chapter("the first node is started, alone", [3, 0, 0]);

    op.start(2, &["--partitions", "16"]);
    op.node(1).says("node 2 was started with other settings than this node, partitions 16 (here 8)");
    op.node(2).says("node 1 was started with other settings than this node, partitions 8 (here 16)");
    op.node(2).says("waiting for node 3");
    op.chapter("the second is started with other partitions, by mistake", [1, 4, 0]);

    op.node(2).stop(Signal::INT);
    let _ = std::fs::remove_dir_all(&op.node(2).data);
    op.start(2, &["--partitions", "8"]);
    op.start(3, &["--partitions", "8"]);
    for number in 1..=3 {
        op.node(number).says("the cluster has formed: nodes 1, 2, 3, 8 partitions");
    }
    op.does(&["put", "greeting", "hello"]);
    op.chapter("it is started again, as the others were: the cluster forms", [3, 6, 5]);

    if small.is_some() {
        let ballast = op.home.path("small/ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        while file.write_all(&[7; 1 << 16]).is_ok() {}
        std::fs::write(op.home.path("value"), vec![b'x'; 300 << 10]).unwrap();
        for number in 0..8 {
            op.does(&["put", &format!("large/{number}"), "@value"]);
        }
        op.node(3).says("/small/three is full: the next segment of the log needs");
        op.chapter("the third node's disk fills", [1, 1, 3]);
        drop(file);
        std::fs::remove_file(&ballast).unwrap();
        op.node(3).says("/small/three has room again, after");
        op.chapter("and has room again", [2, 2, 2]);
    } else {
        println!("no small file system can be mounted here: the full disk is left to the tests of the node");
    }

    let datas: Vec<PathBuf> = op.nodes.iter().map(|node| node.data.clone()).collect();
    let flip_all = |datas: &[PathBuf], value: &[u8]| datas.iter().map(|data| flip(data, value)).sum::<usize>();
    let value = "a value that will rot, and is told by its key";
    op.does(&["put", "rotten", value, "--acknowledge", "all"]);
    assert_eq!(flip_all(&datas[..2], value.as_bytes()), 2);
    for _ in 0..5 {
        assert_eq!(op.client(&["get", "rotten"]).stdout, value.as_bytes());
    }
    op.does(&["scrub"]);
    for number in 1..=2 {
        op.node(number).says("the value of key \"rotten\" is corrupt on this disk");
    }
    let damage = op.damage(0);
    let sum = |field: &str| damage["nodes"].as_array().unwrap().iter().map(|node| node[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("corrupt_reads"), sum("repaired"), sum("to_repair"), sum("lost")), (2, 2, 0, 0), "{damage:#}");
    op.chapter("a byte rots on two disks, and the value is read: both are mended", [1, 1, 0]);

    let value = "another value, of which no copy is left whole";
    op.does(&["put", "gone", value, "--acknowledge", "all"]);
    assert_eq!(flip_all(&datas, value.as_bytes()), 3);
    for _ in 0..5 {
        let refused = op.client(&["get", "gone"]);
        assert_eq!(refused.status.code(), Some(5), "{}", String::from_utf8_lossy(&refused.stderr));
    }
    for number in 1..=3 {
        op.node(number).says("no replica can read the value of key \"gone\" any more");
    }
    assert_eq!(op.damage(1)["lost"][0]["key_text"], "gone");
    op.chapter("a byte rots on all three", [2, 2, 2]);

    let mut back = value.as_bytes().to_vec();
    back[0] ^= 0x80;
    assert_eq!(flip(&datas[1], &back), 1);
    op.does(&["scrub"]);
    assert_eq!(op.client(&["get", "gone"]).stdout, value.as_bytes());
    assert_eq!(op.damage(0)["lost"].as_array().map(Vec::len), Some(0));
    op.chapter("one of them is whole again", [0, 0, 0]);
    op.ends();
}

/// Real files are damaged while their node is down. It starts all the same, its peers make it whole, and then it counts like any
/// other: with it alone beside one more, the cluster serves.
#[test]
fn a_node_with_a_damaged_log_is_made_whole_by_the_others() {
    let mut op = Operator::of_three("damaged");
    op.put_all(0);
    type Damage = (&'static str, fn(&Path));
    let kinds: [Damage; 3] = [
        ("a byte of a sealed batch is flipped", |data| assert!(flip(data, b"of 7") > 0)),
        ("the log's last 4 KiB are zeros", |data| {
            let (path, end) = end_of_log(data);
            zero(&path, end.saturating_sub(4096).max(1024), end);
        }),
        ("a segment's header is zeros, in both copies", |data| zero(&end_of_log(data).0, 0, 1024)),
    ];
    for (round, (what, damage)) in (1..).zip(kinds) {
        op.put_all(round);
        op.node(2).stop(Signal::KILL);
        let data = op.node(2).data.clone();
        damage(&data);
        // Once so that nothing of the damaged files is lost.
        let recovers = round == 1;
        op.start(2, if recovers { &["--partitions", "4", "--recover"] } else { &["--partitions", "4"] });
        op.node(2).says_times("is damaged; a copy of it is kept", 1);
        assert!(data.join("damaged").exists());
        op.node(2).says_times("the node starts from what is left, and its peers make it whole", round as usize);
        op.node(2).says_times("every partition with a replica here is whole again", round as usize);
        op.node(1).stop(Signal::KILL);
        op.has_all(round, what);
        op.does(&["put", "alone", what]);
        op.start(1, &["--partitions", "4"]);
        op.chapter(what, [8, 12, 8]);
    }
    op.ends();
}

/// A node is started from an old copy of its directory: it starts over, in the same process, and is made whole.
#[test]
fn a_node_with_an_old_copy_of_its_directory_is_made_whole_by_the_others() {
    let mut op = Operator::of_three("old-copy");
    op.put_all(0);
    op.node(2).stop(Signal::INT);
    let (data, kept) = (op.node(2).data.clone(), op.home.path("kept"));
    copy(&data, &kept);
    op.start(2, &["--partitions", "4"]);
    op.put_all(1);
    // Its peers hear how far its log is, at the next heartbeat.
    std::thread::sleep(std::time::Duration::from_millis(500));
    op.chapter("a node writes on after its directory was copied", [8, 12, 8]);

    op.node(2).stop(Signal::KILL);
    std::fs::remove_dir_all(&data).unwrap();
    copy(&kept, &data);
    op.start(2, &["--partitions", "4"]);
    op.node(2).says("the data directory is an old copy, and the peers do not hear the original: the node starts over");
    op.node(2).says("it is an old copy, and whatever came behind may be missing");
    op.node(2).says("every partition with a replica here is whole again");
    op.node(1).stop(Signal::KILL);
    op.has_all(1, "the copy is whole");
    op.does(&["put", "alone", "with it"]);
    op.chapter("it comes back with the copy, and counts again", [8, 16, 8]);
    op.ends();
}

#[test]
fn the_second_half_of_an_operators_hour() {
    let home = Home::new("half");
    let datas = vec![home.path("one"), home.path("two"), home.path("three")];
    let mut op = Operator::new(datas, home);
    for number in 1..=3 {
        op.start(number, &["--partitions", "8"]);
    }
    for number in 1..=3 {
        op.node(number).says("the cluster has formed: nodes 1, 2, 3, 8 partitions");
    }
    op.does(&["put", "greeting", "hello"]);
    op.chapter("three nodes are started, and the cluster forms", [5, 5, 5]);

    op.node(2).stop(Signal::KILL);
    let away = op.home.path("away");
    std::fs::rename(&op.node(2).data, &away).unwrap();
    op.start(2, &["--partitions", "8"]);
    op.node(2).says("this node is refused by the cluster, and takes no part with its data directory, ");
    op.node(1).says("node 2 is turned away: its data directory is not the one that belongs to it");
    op.chapter("the second node is started with an empty directory", [4, 4, 4]);

    op.node(2).stop(Signal::INT);
    std::fs::remove_dir_all(&op.node(2).data).unwrap();
    std::fs::rename(&away, &op.node(2).data).unwrap();
    op.start(2, &["--partitions", "8"]);
    op.node(1).says("node 2 is back, after");
    op.node(3).says("node 2 is back, after");
    op.chapter("it has its own directory back", [4, 7, 4]);

    op.node(2).stop(Signal::KILL);
    op.node(3).stop(Signal::KILL);
    op.node(1).says("nodes 2, 3 do not answer");
    op.node(1).says("8 of the 8 partitions with a replica here have no leader");
    op.chapter("two of three die: the quorum is lost", [4, 0, 0]);
    op.start(2, &["--partitions", "8"]);
    op.start(3, &["--partitions", "8"]);
    op.node(1).says("every partition with a replica here has a leader again");
    op.node(1).says("node 3 is back, after");
    op.does(&["get", "greeting"]);
    op.chapter("and regained", [5, 7, 7]);

    let foreign = ringseed::wire::handshake::Hello::client_of(Some(ringseed::base::ClusterId(0xBAD)), None);
    for _ in 0..200 {
        let mut stream = std::net::TcpStream::connect(&op.addresses[0]).unwrap();
        stream.write_all(&foreign.encode()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    op.node(1).says("a connection of a client at 127.0.0.1:");
    op.chapter("a client of another cluster knocks two hundred times", [1, 0, 0]);

    op.ends();
}

#[test]
fn every_line_is_json_where_that_was_asked_for_even_those_before_the_log_begins() {
    let home = Home::new("json");
    std::fs::write(home.path("wrong.toml"), "log_format = \"json\"\npartitons = 3\n").unwrap();
    let wrong: [&[&str]; 5] = [
        &["server", "--log-format", "json", "--no-such-flag"],
        &["server", "--log-format=json", "--partitions", "7"],
        &["server", "--config", "wrong.toml"],
        &["server", "--log-format", "json", "--listen", "256.0.0.1:1"],
        &["up", "--log-format", "json", "--nodes", "0"],
    ];
    for arguments in wrong {
        let ended = home.ringseed(arguments).output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8(ended.stderr).unwrap();
        assert!(!text.is_empty(), "{arguments:?}");
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {line}"));
            assert!(value["level"].is_string() && value["fields"]["message"].is_string(), "{line}");
        }
    }
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let alone = format!("1={address}");
    let arguments = ["server", "--listen", &address, "--peers", &alone, "--log-format", "json"];
    let mut child = home.ringseed(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line.contains("the cluster has formed")) {
        seen.push(lines.next().expect("more").unwrap());
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    seen.extend(lines.map(Result::unwrap));
    assert!(child.wait().unwrap().success());
    assert!(seen.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{seen:#?}");
}

#[test]
fn a_server_to_which_nobody_listens_goes_on() {
    let home = Home::new("unheard");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = port.to_string();
    for format in ["text", "json"] {
        let alone = format!("1={address}");
        let arguments = ["server", "--listen", &address, "--peers", &alone, "--log", "trace", "--log-format", format];
        let mut child = home.ringseed(&arguments).stderr(Stdio::piped()).spawn().unwrap();
        // Nobody reads what it says, from the first line on.
        drop(child.stderr.take());
        let put = ["put", "k", format, "--servers", &address, "--timeout", "1s"];
        let began = Instant::now();
        while !home.ringseed(&put).output().unwrap().status.success() {
            assert!(began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(), "it serves nothing");
            std::thread::sleep(Duration::from_millis(100));
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        assert!(child.wait().unwrap().success(), "a clean stop");
    }
    // A command's remark to nobody is no panic either: the exit code says it.
    let mut child =
        home.ringseed(&["get", "k", "--servers", &address, "--timeout", "300ms"]).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(7));
}
