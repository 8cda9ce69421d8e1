//! Interaction scripts: small text files that drive a few members of one group, message by message, and hold what each of them said.
//!
//! After etcd-raft's interaction-driven tests. A file in `tests/scripts/` is a row of blocks: comments, commands, a line `----`, and the output that the
//! commands must give. `RINGSEED_REWRITE=1 cargo test --test scripts` writes the output that they do give; it is then *read*, against Raft and
//! the rules that the modules' docs state, like any other change.
//!
//! Replica, store, liveness, gateway and the durability gate are the real ones. A member's log is a list: it places a record at once, and is made durable
//! by the script. Messages, time and heartbeats move only when a command says so.
//!
//! | command | |
//! |---|---|
//! | `nodes 3` | begin with so many members, all empty |
//! | `given 2 terms 1*3,2 [term 3] [commit 1] [lossy]` | begin member 2 again, with a log of such entries |
//! | `time 200` | the clocks go on by 200 ms; nothing else happens |
//! | `timer 1` | member 1 looks at the clock |
//! | `heartbeat 1 2 [unanswered]` | member 1's heartbeat reaches member 2, and the answer comes back |
//! | `heartbeats` | the same for every pair that is not cut |
//! | `deliver 1->2 Vote` | these messages arrive; a side or the kind may be left out; `all` |
//! | `drop 1->2 Vote` | these do not |
//! | `keep 1->2 Append as late` | these do later, each time that `deliver late` says so; `copy` leaves the original under way |
//! | `durable 1`, `written 1` | what member 1 has logged is durable; may be acknowledged without being durable (relaxed syncing) |
//! | `settle` | everything is made durable and delivered until nothing is left, but over cut links |
//! | `cut 1 2`, `cut 3`, `heal` | the link between the two, all of one's, is down; all are up |
//! | `restart 2 [lossy]` | what member 2 has not made durable is lost, and it begins another life |
//! | `elect 1` | heartbeats, timers and `settle`, until member 1 leads; says only who leads and what clients are told |
//! | `quiet COMMAND` | the same brevity for another command |
//! | `transfer 1` | member 1 is to hand over its leadership |
//! | `put 1 k=v as w`, `increment 1 k by 2 as w`, `delete 1 k as w`, `get 1 k as r` | a client's request to member 1, called w or r. Conditions: `if-absent`, `if-present`, `if-version=4`, `if-value=x`; also `all`, `eventual`, `within=500` (ms) |
//! | `cold 1`, `values 1 [corrupt]` | member 1's values are on its disk alone; what it asked the disk for comes |
//! | `state` | how each member stands |

#[path = "scripts/member.rs"]
mod member;
#[path = "scripts/say.rs"]
mod say;

use bytes::Bytes;
use member::{Mail, Member, SUPPORT, Stage, Work};
use ringseed::base::{ConnId, Duration, Epoch, Index, NodeId, Time, Version};
use ringseed::msg::client::{Acknowledge, Action, Condition, Consistency, Operation, Request, RequestBody};
use ringseed::msg::peer::{Heartbeat, PeerMessage};
use ringseed::{gateway, replica};
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
    let mut world = World::default();
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

#[derive(Default)]
struct World {
    members: BTreeMap<NodeId, Member>,
    stage: Stage,
    kept: BTreeMap<String, Vec<Mail>>,
    /// Pairs, the lower first.
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl World {
    fn obey(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (quiet, words) = if words[0] == "quiet" { (true, &words[1..]) } else { (false, &words[..]) };
        self.stage.lines.quiet = quiet;
        let arguments = &words[1..];
        match words[0] {
            "nodes" => self.begin(number(arguments[0])),
            "given" => self.given(arguments),
            "time" => self.stage.now = self.stage.now + Duration::from_millis(number(arguments[0])),
            "heartbeat" => self.heartbeat(node(arguments[0]), node(arguments[1]), !arguments.contains(&"unanswered")),
            "heartbeats" => self.heartbeats(),
            "deliver" => self.deliver(arguments),
            "drop" => drop(self.select(arguments)),
            "keep" | "copy" => self.keep(arguments, words[0] == "copy"),
            "settle" => self.settle(),
            "cut" => self.cut(arguments),
            "heal" => self.cut.clear(),
            "elect" => self.elect(node(arguments[0])),
            "state" => self.state(),
            "restart" => self.restart(node(arguments[0]), arguments.contains(&"lossy")),
            on_one => self.on_one(on_one, node(arguments[0]), arguments),
        }
        self.flush();
    }

    /// Commands to one member.
    fn on_one(&mut self, command: &str, to: NodeId, arguments: &[&str]) {
        let member = self.members.get_mut(&to).expect("there is such a member");
        let stage = &mut self.stage;
        match command {
            "timer" => member.on_timer(stage),
            "durable" => member.on_log_progress(stage, true),
            "written" => member.on_log_progress(stage, false),
            "cold" => member.empty_cache(),
            "values" => member.on_values(stage, arguments.contains(&"corrupt")),
            "transfer" => member.run(stage, Work::Replica(replica::In::Transfer)),
            _ => {
                let (name, request) = request(command, &arguments[1..]);
                let connection = stage.lines.connect(name);
                member.run(stage, Work::Gateway(gateway::In::Request(ConnId(connection), request)));
            }
        }
    }

    fn flush(&mut self) {
        self.members.values_mut().for_each(|member| member.flush(&mut self.stage));
    }

    /// Another story: all that was is gone, but for the time.
    fn begin(&mut self, count: u64) {
        *self = World { stage: std::mem::take(&mut self.stage), ..World::default() };
        self.stage.pool.clear();
        let voters: Vec<NodeId> = (1..=count as u16).map(NodeId).collect();
        for id in &voters {
            let mut member = Member::boot(*id, Epoch(1), &voters, Vec::new(), Time::ZERO, false);
            member.drain(&mut self.stage);
            self.members.insert(*id, member);
        }
    }

    fn given(&mut self, arguments: &[&str]) {
        self.stage.lines.quiet = true;
        let after = |word: &str| arguments.iter().position(|found| *found == word).map(|at| arguments[at + 1]);
        let runs = after("terms").expect("terms").split(',').filter(|run| *run != "none");
        let runs = runs.map(|run| run.split_once('*').unwrap_or((run, "1")));
        let terms: Vec<u64> = runs.flat_map(|(term, count)| vec![number(term); number(count) as usize]).collect();
        let last = terms.last().copied().unwrap_or(0);
        let log = member::log_of(&terms, after("term").map_or(last, number), after("commit").map_or(0, number));
        let voters: Vec<NodeId> = self.members.keys().copied().collect();
        let id = node(arguments[0]);
        let mut member = Member::boot(id, Epoch(1), &voters, log, Time::ZERO, arguments.contains(&"lossy"));
        member.drain(&mut self.stage);
        self.members.insert(id, member);
    }

    fn restart(&mut self, id: NodeId, lossy: bool) {
        let voters: Vec<NodeId> = self.members.keys().copied().collect();
        let old = &self.members[&id];
        let log = old.log[..old.durable.0 as usize].to_vec();
        let mut member = Member::boot(id, old.epoch.next(), &voters, log, self.stage.now + SUPPORT, lossy);
        member.drain(&mut self.stage);
        self.members.insert(id, member);
    }

    fn heartbeat(&mut self, from: NodeId, to: NodeId, answered: bool) {
        let sender = &self.members[&from];
        let heartbeat = PeerMessage::Heartbeat(Heartbeat {
            sent: self.stage.now.0,
            durable: sender.durable,
            began: Default::default(),
            previous: Default::default(),
            disk: Default::default(),
            clock_ms: 0,
            detours: Vec::new(),
            epochs: Vec::new(),
        });
        let mail = Mail { from, epoch: sender.epoch, to, message: heartbeat };
        let supporter = self.members.get_mut(&to).expect("there is such a member");
        supporter.receive(&mut self.stage, mail);
        let reply = supporter.heartbeat_reply.take();
        let epoch = supporter.epoch;
        if let Some(message) = reply.filter(|_| answered) {
            let mail = Mail { from: to, epoch, to: from, message };
            self.members.get_mut(&from).expect("it sent").receive(&mut self.stage, mail);
        }
        self.flush();
    }

    fn heartbeats(&mut self) {
        let ids: Vec<NodeId> = self.members.keys().copied().collect();
        for (from, to) in ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to))) {
            if from != to && !self.is_cut(from, to) {
                self.heartbeat(from, to, true);
            }
        }
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

    fn settle(&mut self) {
        loop {
            for member in self.members.values_mut().filter(|member| member.log.len() as u64 > member.durable.0) {
                member.on_log_progress(&mut self.stage, true);
            }
            self.flush();
            let cut = self.cut.clone();
            let open = |mail: &mut Mail| !cut.contains(&(mail.from.min(mail.to), mail.from.max(mail.to)));
            let mails: Vec<Mail> = self.stage.pool.extract_if(.., open).collect();
            let is_durable = |member: &Member| member.log.len() as u64 == member.durable.0;
            if mails.is_empty() && self.members.values().all(is_durable) {
                return;
            }
            self.receive(mails);
        }
    }

    fn elect(&mut self, id: NodeId) {
        self.stage.lines.quiet = true;
        for _ in 0..20 {
            self.stage.now = self.stage.now + Duration::from_millis(200);
            self.heartbeats();
            self.on_one("timer", id, &[]);
            self.settle();
            if self.members[&id].replica.leads() {
                // Time for all to learn what is committed.
                self.stage.now = self.stage.now + Duration::from_millis(10);
                self.on_one("timer", id, &[]);
                self.settle();
                return;
            }
        }
        self.stage.lines.news(format!("{id} cannot be elected"));
    }

    fn state(&mut self) {
        for (id, member) in &mut self.members {
            let (leader, term) = member.replica.known_leader();
            let role = match leader {
                Some(leader) if leader == *id && member.has_lease(self.stage.now) => "leads with a lease".into(),
                Some(leader) if leader == *id => "leads without a lease".into(),
                Some(leader) => format!("follows {leader}"),
                None => "knows no leader".into(),
            };
            let replica = &member.replica;
            let log = replica.log();
            let mut runs: Vec<(u64, u64)> = Vec::new();
            for term in (1..=log.last_index().0).filter_map(|index| log.term_at(Index(index))) {
                match runs.last_mut().filter(|(last, _)| *last == term.0) {
                    Some((_, count)) => *count += 1,
                    None => runs.push((term.0, 1)),
                }
            }
            let run = |(term, count): &(u64, u64)| if *count == 1 { format!("{term}") } else { format!("{term}*{count}") };
            let terms: Vec<String> = runs.iter().map(run).collect();
            let term = term.max(replica.term());
            self.stage.lines.news(format!("{id} {role}, term {term}, log [{}], commit {}", terms.join(","), replica.commit()));
        }
    }
}

/// A client's request, and what the script calls it.
fn request<'a>(verb: &str, arguments: &[&'a str]) -> (&'a str, Request) {
    let option = |name: &str| arguments.iter().find_map(|word| word.strip_prefix(name));
    let bytes = |text: &str| Bytes::from(text.to_owned());
    let after = |word: &str| arguments.iter().position(|found| *found == word).map(|at| arguments[at + 1]);
    let acknowledge = if arguments.contains(&"all") { Acknowledge::All } else { Acknowledge::Quorum };
    let condition = match (option("if-version="), option("if-value=")) {
        (Some(version), _) => Condition::Version(Version(number(version))),
        (_, Some(value)) => Condition::Value(bytes(value)),
        _ if arguments.contains(&"if-absent") => Condition::Absent,
        _ if arguments.contains(&"if-present") => Condition::Present,
        _ => Condition::None,
    };
    let (key, value) = arguments[0].split_once('=').unwrap_or((arguments[0], ""));
    let action = match verb {
        "put" => Action::Put { value: bytes(value), condition, acknowledge },
        "delete" => Action::Delete { condition, acknowledge },
        "increment" => Action::Increment { by: number(after("by").expect("by how much")) as i64, acknowledge },
        "get" if arguments.contains(&"eventual") => Action::Get { consistency: Consistency::Eventual },
        "get" => Action::Get { consistency: Consistency::Strong },
        _ => panic!("no such command"),
    };
    let timeout_ms = option("within=").map_or(10_000, number) as u32;
    let body = RequestBody::Operation(Operation { key: bytes(key), action });
    (after("as").expect("as NAME"), Request { id: 1, timeout_ms, body })
}

fn node(word: &str) -> NodeId {
    NodeId(number(word) as u16)
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is no number"))
}
