//! Interaction scripts: small text files that drive a few whole nodes, message by message, and hold what each of them said.
//!
//! After etcd-raft's interaction-driven tests. A file in `tests/scripts/` is a row of blocks: comments, commands, a line `----`, and
//! the output that the commands must give. `RINGSEED_REWRITE=1 cargo test --test scripts` writes the output that they do give. It is
//! then *read*, against Raft and the rules that the modules' docs state, like any other change.
//!
//! Each member is a [`Node`](ringseed::node::Node) as the server and the simulator drive it. Its disk does what the log asked when the
//! script says so. Messages, time and heartbeats move only when a command says so.
//!
//! | command | |
//! |---|---|
//! | `nodes 3 [partitions 2] [preferred 2] [relaxed]` | begin with so many members, which have formed a cluster and are empty. Member 1, or the one named, leads the first partition by preference, the first of the others the second |
//! | `given 2 terms 1*3,2 [term 3] [commit 1] [lossy]` | begin member 2 again, with a log of such entries; it has been up for D |
//! | `time 200` | the clocks go on by 200 ms; nothing else happens |
//! | `timer 1` | member 1 looks at the clock |
//! | `heartbeat 1 2 [unanswered]` | member 1's heartbeat reaches member 2, and the answer comes back |
//! | `heartbeats` | the same for every pair that is not cut |
//! | `deliver 1->2 Vote` | these messages arrive; a side or the kind may be left out; `all` |
//! | `drop 1->2 Vote` | these do not |
//! | `keep 1->2 Append as late` | these do later, each time that `deliver late` says so; `copy` leaves the original under way |
//! | `durable 1`, `written 1` | what member 1 has logged is synced; is only written (relaxed syncing) |
//! | `settle` | everything is made durable and delivered until nothing is left, but over cut links |
//! | `replicate` | the same for what replicas say to each other alone: requests and answers between nodes stay under way |
//! | `cut 1 2`, `cut 3`, `heal` | the link between the two, all of one's, is down; all are up |
//! | `restart 2` | what member 2 has not synced is lost, and it begins another epoch |
//! | `elect 1 [partition 2] [alone]` | heartbeats, timers and `settle` (alone: `replicate`), until member 1 leads; says only which node leads and what clients are told |
//! | `quiet COMMAND` | the same brevity for another command |
//! | `put 1 k=v as w`, `increment 1 k by 2 as w`, `delete 1 k as w`, `get 1 k as r` | a client's request to member 1, called w or r. Conditions: `if-absent`, `if-present`, `if-version=4`, `if-value=x`; also `all`, `eventual`, `within=500` (ms) |
//! | `transact 1 a=1, b=2, +c, ?d as t` | a transaction, sent to member 1: puts, increments by one, reads; `token=x` |
//! | `cold 1`, `values 1 [corrupt]` | member 1's values stay on its disk; what was asked of them comes |
//! | `rebalance 1` | heartbeats and timers, until member 1 asks the preferred leader to take over |
//! | `state` | how each replica stands |

#[path = "scripts/machine.rs"]
mod machine;
#[path = "scripts/say.rs"]
mod say;

use bytes::Bytes;
use machine::{Machine, Mail, SUPPORT, Setup, Stage};
use ringseed::base::{ConnId, Duration, GroupId, NodeId, Time, Version};
use ringseed::msg::client::{Request, RequestBody};
use ringseed::msg::operation::{Acknowledge, Condition, Consistency, Operation};
use ringseed::msg::peer::PeerMessage;
use ringseed::msg::transaction::Transaction;
use ringseed::node::Event;
use say::Lines;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

#[test]
fn every_script_says_what_its_file_holds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty(), "there are scripts");
    let mut wrong = String::new();
    for file in files {
        let name = file.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let expected = std::fs::read_to_string(&file).expect("readable");
        let found = play(&name, &expected);
        if std::env::var_os("RINGSEED_REWRITE").is_some() {
            std::fs::write(&file, found).expect("writable");
        } else if found != expected {
            let at = found.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
            let line = |text: &str| text.lines().nth(at).unwrap_or("the end").to_owned();
            let _ = writeln!(wrong, "{name}, line {}:\n  expected: {}\n  found:    {}", at + 1, line(&expected), line(&found));
        }
    }
    assert!(wrong.is_empty(), "scripts that said something else (RINGSEED_REWRITE=1 writes it down; read it then):\n{wrong}");
}

/// The script with the output that its commands give.
fn play(file: &str, script: &str) -> String {
    let mut world = World::new();
    let mut blocks = Vec::new();
    for block in script.trim_end().split("\n\n") {
        let Some((commands, _)) = block.split_once("\n----") else {
            blocks.push(format!("{block}\n"));
            continue;
        };
        for command in commands.lines().filter(|line| !line.starts_with('#')) {
            let _reached = Reached { file, command };
            world.obey(command);
        }
        world.stage.lines.quiet = false;
        blocks.push(format!("{commands}\n----\n{}", world.stage.lines.take()));
    }
    blocks.join("\n")
}

/// Says where a script was when something panicked.
struct Reached<'a> {
    file: &'a str,
    command: &'a str,
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}, at `{}`", self.file, self.command);
        }
    }
}

/// When a story begins: late enough for a member to have been up for a while.
const BEGINNING: Time = Time::from_millis(10_000);

struct World {
    members: BTreeMap<NodeId, Machine>,
    stage: Stage,
    kept: BTreeMap<String, Vec<Mail>>,
    /// Pairs, the lower first.
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl World {
    fn new() -> World {
        let stage = Stage { now: BEGINNING, lines: Lines::default(), pool: Vec::new() };
        World { members: BTreeMap::new(), stage, kept: BTreeMap::new(), cut: BTreeSet::new() }
    }

    fn obey(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (quiet, words) = if words[0] == "quiet" { (true, &words[1..]) } else { (false, &words[..]) };
        self.stage.lines.quiet = quiet;
        let arguments = &words[1..];
        match words[0] {
            "nodes" => self.begin(arguments),
            "given" => self.given(arguments),
            "time" => self.stage.now = self.stage.now + Duration::from_millis(number(arguments[0])),
            "heartbeat" => self.heartbeat(node(arguments[0]), node(arguments[1]), !arguments.contains(&"unanswered")),
            "heartbeats" => self.heartbeats(),
            "deliver" => self.deliver(arguments),
            "drop" => drop(self.select(arguments)),
            "keep" | "copy" => self.keep(arguments, words[0] == "copy"),
            "settle" => self.settle(|_| true),
            "replicate" => self.settle(|message| matches!(message, PeerMessage::Replica(..))),
            "cut" => self.cut(arguments),
            "heal" => self.cut.clear(),
            "elect" => {
                let partition = after(arguments, "partition").map_or(1, number) as u32;
                self.elect(node(arguments[0]), partition, arguments.contains(&"alone"));
            }
            "state" => self.state(),
            "rebalance" => self.rebalance(node(arguments[0])),
            "restart" => self.replace(node(arguments[0]), Machine::restart),
            on_one => self.on_one(on_one, node(arguments[0]), &arguments[1..]),
        }
        self.flush();
    }

    /// Commands to one member.
    fn on_one(&mut self, command: &str, to: NodeId, arguments: &[&str]) {
        let member = self.members.get_mut(&to).expect("there is such a member");
        let stage = &mut self.stage;
        match command {
            "timer" => member.step(stage, Event::Timer),
            "stop" => member.step(stage, Event::Stop),
            "durable" => member.on_log_progress(stage, true),
            "written" => member.on_log_progress(stage, false),
            "cold" => member.cool(),
            "values" => member.on_values(stage, arguments.contains(&"corrupt")),
            _ => {
                let (name, request) = request(command, arguments);
                let connection = stage.lines.connect(name);
                member.step(stage, Event::Client(ConnId(connection), request));
            }
        }
    }

    fn flush(&mut self) {
        self.members.values_mut().for_each(|member| member.flush(&mut self.stage));
    }

    /// Another story: all that was is gone, but for the time. The cluster forms, and its members let each other in.
    fn begin(&mut self, arguments: &[&str]) {
        let members = number(arguments[0]) as u16;
        let partitions = after(arguments, "partitions").map_or(1, number) as u32;
        let preferred = after(arguments, "preferred").map_or(NodeId(1), node);
        let setup = Setup { members, partitions, preferred, relaxed: arguments.contains(&"relaxed") };
        let mut lines = std::mem::take(&mut self.stage.lines);
        lines.partitions = partitions;
        lines.quiet = true;
        *self = World { stage: Stage { now: self.stage.now, lines, pool: Vec::new() }, ..World::new() };
        for id in (1..=members).map(NodeId) {
            let machine = Machine::begin(id, setup, self.stage.now);
            self.stage.lines.knows_epoch(id, machine.node.epoch(), Some(1));
            self.members.insert(id, machine);
        }
        self.settle(|_| true);
        assert!(self.members.values().all(|member| member.node.cluster().is_some()), "the cluster has formed");
        self.heartbeats();
        // Long enough for every promise to have ended. No timer has run: nobody campaigns.
        self.stage.now = self.stage.now + SUPPORT * 2;
    }

    fn given(&mut self, arguments: &[&str]) {
        self.stage.lines.quiet = true;
        let runs = after(arguments, "terms").expect("terms").split(',').filter(|run| *run != "none");
        let runs = runs.map(|run| run.split_once('*').unwrap_or((run, "1")));
        let terms: Vec<u64> = runs.flat_map(|(term, count)| vec![number(term); number(count) as usize]).collect();
        let term = after(arguments, "term").map_or(terms.last().copied().unwrap_or(0), number);
        let (commit, lossy) = (after(arguments, "commit").map_or(0, number), arguments.contains(&"lossy"));
        self.replace(node(arguments[0]), |member, stage| member.given(stage, &terms, term, commit, lossy));
    }

    fn replace(&mut self, id: NodeId, other: impl FnOnce(Machine, &mut Stage) -> Machine) {
        let member = self.members.remove(&id).expect("there is such a member");
        let member = other(member, &mut self.stage);
        self.members.insert(id, member);
    }

    fn heartbeat(&mut self, from: NodeId, to: NodeId, answered: bool) {
        self.beat(&[(from, to)], answered);
    }

    /// All at the same instant, and then the answers.
    fn heartbeats(&mut self) {
        let ids: Vec<NodeId> = self.members.keys().copied().collect();
        let pairs = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
        let pairs: Vec<(NodeId, NodeId)> = pairs.filter(|(from, to)| from != to && !self.is_cut(*from, *to)).collect();
        self.beat(&pairs, true);
    }

    fn beat(&mut self, pairs: &[(NodeId, NodeId)], answered: bool) {
        let heartbeats = pairs.iter().map(|(from, to)| self.members[from].heartbeat(self.stage.now, *to)).collect();
        self.receive(heartbeats);
        let replies: Vec<Mail> = self.members.values_mut().flat_map(Machine::take_heartbeat_replies).collect();
        self.receive(replies.into_iter().filter(|_| answered).collect());
    }

    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn cut(&mut self, arguments: &[&str]) {
        let one = node(arguments[0]);
        let others: Vec<NodeId> = arguments.get(1).map_or(self.members.keys().copied().collect(), |other| vec![node(other)]);
        self.cut.extend(others.into_iter().filter(|other| *other != one).map(|other| (one.min(other), one.max(other))));
    }

    /// Takes the messages that the selector names out of the pool.
    fn select(&mut self, arguments: &[&str]) -> Vec<Mail> {
        let (from, to) = arguments[0].split_once("->").unwrap_or(("", ""));
        let matches = |mail: &mut Mail| {
            (from.is_empty() || mail.from == node(from))
                && (to.is_empty() || mail.to == node(to))
                && arguments.get(1).is_none_or(|kind| *kind == say::kind(&mail.message))
        };
        self.stage.pool.extract_if(.., matches).collect()
    }

    fn expect_some(&mut self, mails: &[Mail]) {
        if mails.is_empty() {
            self.stage.lines.news("no such message is under way".into());
        }
    }

    fn deliver(&mut self, arguments: &[&str]) {
        let mails = match self.kept.get(arguments[0]) {
            Some(kept) => kept.clone(),
            None => self.select(arguments),
        };
        self.expect_some(&mails);
        self.receive(mails);
    }

    fn receive(&mut self, mails: Vec<Mail>) {
        for mail in mails {
            self.members.get_mut(&mail.to).expect("there is such a member").receive(&mut self.stage, mail);
        }
        self.flush();
    }

    fn keep(&mut self, arguments: &[&str], copy: bool) {
        let at = arguments.iter().position(|word| *word == "as").expect("as NAME");
        let mails = self.select(&arguments[..at]);
        self.expect_some(&mails);
        if copy {
            self.stage.pool.extend(mails.iter().cloned());
        }
        self.kept.insert(arguments[at + 1].into(), mails);
    }

    /// Everything is made durable and delivered, of the messages that are wanted, until nothing is left.
    fn settle(&mut self, wanted: impl Fn(&PeerMessage) -> bool) {
        loop {
            self.flush();
            let busy: Vec<NodeId> = self.members.iter().filter(|(_, member)| !member.is_durable()).map(|(id, _)| *id).collect();
            for id in &busy {
                self.members.get_mut(id).expect("found").on_log_progress(&mut self.stage, true);
            }
            let cut = self.cut.clone();
            let open =
                |mail: &mut Mail| wanted(&mail.message) && !cut.contains(&(mail.from.min(mail.to), mail.from.max(mail.to)));
            let mails: Vec<Mail> = self.stage.pool.extract_if(.., open).collect();
            if mails.is_empty() && busy.is_empty() {
                return;
            }
            self.receive(mails);
        }
    }

    fn elect(&mut self, id: NodeId, partition: u32, alone: bool) {
        self.stage.lines.quiet = true;
        let settles = |message: &PeerMessage| !alone || matches!(message, PeerMessage::Replica(..));
        for _ in 0..20 {
            self.stage.now = self.stage.now + Duration::from_millis(200);
            self.heartbeats();
            self.on_one("timer", id, &[]);
            self.settle(settles);
            let replicas = self.members.get_mut(&id).expect("there is such a member").replicas(self.stage.now);
            if replicas.iter().any(|(probe, _)| probe.group == GroupId(partition) && probe.leads) {
                // Time for all to learn what is committed.
                self.stage.now = self.stage.now + Duration::from_millis(10);
                self.on_one("timer", id, &[]);
                self.settle(settles);
                return;
            }
        }
        self.stage.lines.news(format!("{id} cannot be elected"));
    }

    fn rebalance(&mut self, id: NodeId) {
        self.stage.lines.quiet = true;
        let asks = |mail: &Mail| mail.from == id && say::kind(&mail.message) == "TimeoutNow";
        for _ in 0..200 {
            self.stage.now = self.stage.now + Duration::from_millis(100);
            self.heartbeats();
            self.on_one("timer", id, &[]);
            // The target answers first.
            self.settle(|message| say::kind(message) != "TimeoutNow");
            if let Some(asked) = self.stage.pool.iter().find(|mail| asks(mail)).cloned() {
                self.stage.lines.quiet = false;
                self.stage.lines.message(&asked);
                return;
            }
        }
        self.stage.lines.news(format!("{id} keeps the leadership"));
    }

    fn state(&mut self) {
        let now = self.stage.now;
        for (id, member) in &mut self.members {
            for (probe, log) in member.replicas(now) {
                let role = match probe.leader {
                    _ if probe.leads && probe.has_lease => "leads with a lease".into(),
                    _ if probe.leads => "leads without a lease".into(),
                    Some(leader) => format!("follows {leader}"),
                    None => "knows no leader".into(),
                };
                let of = self.stage.lines.group(probe.group);
                self.stage.lines.news(format!("{id} {role}, term {}, log [{log}], commit {}{of}", probe.term, probe.commit));
            }
        }
    }
}

/// The word behind another.
fn after<'a>(arguments: &[&'a str], word: &str) -> Option<&'a str> {
    arguments.iter().position(|found| *found == word).map(|at| arguments[at + 1])
}

/// A client's request, and what the script calls it.
fn request<'a>(verb: &str, arguments: &[&'a str]) -> (&'a str, Request) {
    let option = |name: &str| arguments.iter().find_map(|word| word.strip_prefix(name));
    let bytes = |text: &str| Bytes::from(text.to_owned());
    let acknowledge = if arguments.contains(&"all") { Acknowledge::All } else { Acknowledge::Quorum };
    let condition = match (option("if-version="), option("if-value=")) {
        (Some(version), _) => Condition::Version(Version(number(version))),
        (_, Some(value)) => Condition::Value(bytes(value)),
        _ if arguments.contains(&"if-absent") => Condition::Absent,
        _ if arguments.contains(&"if-present") => Condition::Present,
        _ => Condition::None,
    };
    let timeout_ms = option("within=").map_or(10_000, number) as u32;
    let name = after(arguments, "as").expect("as NAME");
    if verb == "transact" {
        let items = arguments.iter().take_while(|word| **word != "as" && !word.starts_with("token="));
        let item = |word: &&str| match (word.trim_end_matches(','), word.trim_end_matches(',').split_once('=')) {
            (_, Some((key, value))) => Operation::put(bytes(key), bytes(value)),
            (word, _) if word.starts_with('+') => Operation::increment(bytes(&word[1..]), 1),
            (word, _) if word.starts_with('?') => Operation::read(bytes(&word[1..])),
            (word, _) => panic!("`{word}` is no item"),
        };
        let transaction = Transaction { items: items.map(item).collect(), token: option("token=").map(bytes) };
        return (name, Request { id: 1, timeout_ms, body: RequestBody::Transact(transaction) });
    }
    let (key, value) = arguments[0].split_once('=').unwrap_or((arguments[0], ""));
    let key = bytes(key);
    let operation = match verb {
        "put" => Operation::put(key, bytes(value)),
        "delete" => Operation::delete(key),
        "increment" => Operation::increment(key, number(after(arguments, "by").expect("by how much")) as i64),
        "get" => Operation::read(key),
        _ => panic!("no such command"),
    };
    let consistency = if arguments.contains(&"eventual") { Consistency::Eventual } else { Consistency::Strong };
    let single = operation.only_if(condition).alone().consistency(consistency).acknowledge(acknowledge);
    let body = RequestBody::Operation(single);
    (name, Request { id: 1, timeout_ms, body })
}

fn node(word: &str) -> NodeId {
    NodeId(number(word) as u16)
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is no number"))
}
