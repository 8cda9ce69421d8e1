//! A sequence of events into one node, its invariants checked after each: messages of peers (well-formed in type, arbitrary in
//! content), requests, time, disk completions and failures, stops, ends of the process. However an epoch ends, the node boots again
//! from the log that it left, and has all that it told its peers to be durable.
//!
//! The disk keeps what is written and answers in order; a byte of the input says how much of it is answered when. A node whose write
//! or sync failed halts at once, and no other does. Used by `tests/hostile.rs` with random input, and by the fuzz target `node`.

use bytes::Bytes;
use ringseed::base::limits::{COUNTER_MAX, DELETED_KEPT, Limits};
use ringseed::base::{
    ClusterId, ConnId, DirectoryId, Epoch, GroupId, Index, IoId, Key, Lsn, NodeId, SegmentId, Term, Time, Version,
};
use ringseed::msg::client::{Membership, Request, RequestBody, ResponseBody, Scan};
use ringseed::msg::cluster::{ClusterOptions, Formation, Member};
use ringseed::msg::codec::Blob;
use ringseed::msg::configuration::Configuration;
use ringseed::msg::disk::{DiskError, DiskOp, DiskResult, LogDevice};
use ringseed::msg::log::{Entry, Fact};
use ringseed::msg::operation::{Acknowledge, Action, Condition, Consistency, Operation, Single};
use ringseed::msg::peer::*;
use ringseed::msg::transaction::*;
use ringseed::node::{Effect, Event, Node, NodeOptions};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Numbers drawn from the input; zeros once it is used up.
struct Dice<'a>(&'a [u8]);

impl Dice<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// Small numbers mostly, and now and then an extreme one.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::MAX / 2,
            253 => COUNTER_MAX + 1,
            252 => COUNTER_MAX,
            251 => 1 << 48,
            small => u64::from(small % 32),
        }
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn key(&mut self) -> Key {
        let byte = self.byte();
        match byte & 4 {
            0 => Key::from(vec![b'k', byte % 4]),
            _ => Key::new(u32::from(byte & 1), b"k", Some(&[byte & 2])),
        }
    }

    fn token(&mut self) -> Bytes {
        Bytes::from(vec![b't', self.byte() % 4])
    }

    fn value(&mut self) -> Bytes {
        let size = usize::from(self.byte());
        Bytes::from(vec![b'0' + self.byte() % 12; if size > 250 { 300_000 } else { size }])
    }
}

#[derive(Default)]
struct Disk {
    segments: BTreeMap<SegmentId, Vec<u8>>,
    queue: VecDeque<(IoId, DiskOp)>,
    trouble: Trouble,
}

/// What goes wrong with the disk.
#[derive(Default, Clone, Copy, PartialEq)]
enum Trouble {
    #[default]
    None,
    /// The next operation fails; of a write, half was done.
    Fails,
    /// There is no room for another segment.
    Full,
}

impl Disk {
    fn execute(&mut self, operation: DiskOp) -> DiskResult {
        if self.trouble == Trouble::Fails {
            self.trouble = Trouble::None;
            if let DiskOp::Write { segment, offset, data } = operation {
                let data = data.concat();
                let offset = offset as usize;
                let file = self.segments.get_mut(&segment).expect("segments are created before they are written");
                file[offset..offset + data.len() / 2].copy_from_slice(&data[..data.len() / 2]);
            }
            return DiskResult::Failed(DiskError::Io("it fails".into()));
        }
        match operation {
            DiskOp::Create { size, .. } if self.trouble == Trouble::Full => {
                return DiskResult::Failed(DiskError::Full { lacking: size });
            }
            DiskOp::Create { segment, size } => {
                self.segments.insert(segment, vec![0; size as usize]);
            }
            DiskOp::Write { segment, offset, data } => {
                let file = self.segments.get_mut(&segment).expect("segments are created before they are written");
                let mut at = offset as usize;
                for part in data {
                    file[at..at + part.len()].copy_from_slice(&part);
                    at += part.len();
                }
            }
            DiskOp::Recycle { segment, to } => {
                let file = self.segments.remove(&segment).expect("segments are created before they are freed");
                self.segments.insert(to, file);
            }
            DiskOp::Remove { segment } => _ = self.segments.remove(&segment).expect("segments are created before they are freed"),
            DiskOp::SyncDirectory | DiskOp::Sync { .. } => {}
            DiskOp::Read { place } => {
                let file = &self.segments[&place.segment];
                let end = (place.offset as usize + place.length as usize).min(file.len());
                return DiskResult::Data(Bytes::copy_from_slice(&file[(place.offset as usize).min(end)..end]));
            }
        }
        DiskResult::Done
    }
}

impl LogDevice for Disk {
    fn list(&mut self) -> Result<Vec<(SegmentId, u64)>, DiskError> {
        Ok(self.segments.iter().map(|(id, file)| (*id, file.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let file = &self.segments[&segment];
        let start = (offset as usize).min(file.len());
        Ok(file[start..(start + length).min(file.len())].to_vec())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

fn options() -> NodeOptions {
    NodeOptions {
        me: NodeId(1),
        directory: DirectoryId(1),
        address: String::new(),
        zone: String::new(),
        weight: 1,
        initial_members: vec![NodeId(1), NodeId(2), NodeId(3)],
        cluster: ClusterOptions { partitions: 2, ..ClusterOptions::default() },
        heartbeat_interval: Duration::from_millis(50),
        wal_sync_interval: Duration::ZERO,
        snapshot_interval: Duration::ZERO,
        catch_up_rate: 64 << 20,
        scrub_interval: Duration::ZERO,
        segment_size: 1 << 20,
        cache_size: 4096,
        limits: Limits::DEFAULT,
        deleted_kept: DELETED_KEPT,
        seed: 7,
    }
}

fn formation() -> Formation {
    let member = |n: u16| Member {
        node: NodeId(n),
        directory: DirectoryId(u128::from(n)),
        address: String::new(),
        zone: String::new(),
        weight: 1,
    };
    Formation { cluster: ClusterId(9), members: vec![member(1), member(2), member(3)], options: options().cluster }
}

/// How the cluster is said to have formed: mostly in a way that makes sense.
fn claimed(dice: &mut Dice<'_>) -> Formation {
    let mut formation = formation();
    match dice.byte() % 16 {
        0 => formation.members.reverse(),
        1 => formation.members[1].node = NodeId(dice.number() as u16),
        2 => formation.members[2].weight = dice.number() as u16,
        3 => formation.members[1].address = "a".repeat(dice.number().min(100_000) as usize),
        4 => formation.members[2].zone = "z".repeat(dice.number().min(100_000) as usize),
        5 => formation.options.partitions = dice.number() as u32,
        6 => formation.members[0].directory = DirectoryId(u128::from(dice.number())),
        7 => formation.members.truncate(1 + usize::from(dice.byte() % 3)),
        _ => {}
    }
    formation
}

fn greeting(dice: &mut Dice<'_>) -> Greeting {
    Greeting {
        address: "a".repeat(dice.number().min(100_000) as usize),
        zone: "z".repeat(dice.number().min(100_000) as usize),
        weight: dice.number() as u16,
        initial: options().initial_members,
        options: options().cluster,
    }
}

fn entry(dice: &mut Dice<'_>, index: u64) -> Entry {
    let fact = match dice.byte() % 5 {
        0 => Fact::Noop,
        4 => {
            let voters = (0..=dice.byte() % 4).map(|n| NodeId(u16::from(n) + u16::from(dice.byte() % 3))).collect();
            Fact::Configuration(Box::new(
                Configuration::new(voters, Vec::new(), Vec::new()).unwrap_or_else(|_| Configuration::of(vec![NodeId(1)])),
            ))
        }
        1 => Fact::Write { key: dice.key(), value: dice.flag().then(|| dice.value()) },
        _ => Fact::Transaction(Box::new(step(dice))),
    };
    Entry { index: Index(index), term: Term(dice.number()), fact }
}

fn id(dice: &mut Dice<'_>) -> TransactionId {
    let home = GroupId(u32::from(dice.byte() % 4));
    TransactionId { home, attempt: Attempt { term: Term(dice.number()), number: dice.number() } }
}

fn step(dice: &mut Dice<'_>) -> TransactionFact<Blob> {
    let id = id(dice);
    let writes = |dice: &mut Dice<'_>| {
        let count = dice.byte() % 3;
        Writes((0..count).map(|_| Write { key: dice.key(), value: dice.flag().then(|| Blob(dice.value())) }).collect())
    };
    match dice.byte() % 4 {
        0 => TransactionFact::Prepare {
            id,
            age: Age { began_ms: dice.number(), gateway: NodeId(1), sequence: dice.number() },
            floor: Attempt { term: Term(dice.number()), number: dice.number() },
            parties: vec![GroupId(u32::from(dice.byte() % 4))],
            shared: if dice.flag() { vec![dice.key()] } else { Vec::new() },
            writes: writes(dice),
            open: attempts(dice),
        },
        1 => {
            let answer = TransactionAnswer::Committed(Vec::new());
            let token = dice.flag().then(|| TokenRecord { token: dice.token(), contents: dice.number(), answer });
            let ended = if dice.flag() { vec![id] } else { Vec::new() };
            TransactionFact::Decide {
                id,
                commit: dice.flag(),
                parties: vec![GroupId(u32::from(dice.byte() % 4))],
                writes: writes(dice),
                ended,
                token,
            }
        }
        2 => TransactionFact::Resolve { id, commit: dice.flag() },
        _ => TransactionFact::End { ended: vec![id], expired: vec![Blob(dice.token())], tick: dice.flag() },
    }
}

fn attempts(dice: &mut Dice<'_>) -> Vec<Attempt> {
    (0..dice.byte() % 3).map(|_| Attempt { term: Term(dice.number()), number: dice.number() }).collect()
}

fn transaction(dice: &mut Dice<'_>) -> Transaction {
    // None, and a token: a release.
    let count = dice.byte() % 5;
    let items = (0..count).map(|_| single(dice).operation).collect();
    Transaction { items, token: dice.flag().then(|| dice.token()) }
}

fn task(dice: &mut Dice<'_>) -> Task {
    match dice.byte() % 9 {
        0 => Task::Transact { age: Age::default(), transaction: transaction(dice) },
        1 | 2 => {
            let items = transaction(dice).items;
            let items = (0..).zip(items).map(|(position, item)| ItemAt { position, item }).collect();
            let floor = Attempt { term: Term(dice.number()), number: dice.number() };
            let age = Age { began_ms: dice.number(), gateway: NodeId(2), sequence: dice.number() };
            Task::Prepare(Preparation { id: id(dice), age, floor, parties: Vec::new(), items, open: attempts(dice) })
        }
        3 => Task::Resolve { id: id(dice), commit: dice.flag() },
        4 => Task::Inquire(id(dice)),
        5 => Task::ReadMany(vec![dice.key()]),
        6 => Task::Measure(vec![dice.key()]),
        7 => Task::ReadSeen(vec![Seen { key: dice.key(), version: Version(dice.number()) }]),
        _ => Task::Operation(single(dice)),
    }
}

fn outcome(dice: &mut Dice<'_>, epoch: Epoch) -> Outcome {
    match dice.byte() % 9 {
        0 => Outcome::Voted(Vote::Yes(vec![ResultAt { position: dice.number() as u32, result: ItemResult::default() }])),
        1 => Outcome::Voted(Vote::No(Vec::new())),
        2 => {
            if dice.flag() {
                Outcome::Resolved
            } else {
                Outcome::Lost
            }
        }
        3 => Outcome::Decided(dice.flag().then(|| dice.flag())),
        4 => Outcome::Valid(dice.flag()),
        6 => Outcome::Measured(vec![Measure { version: Version(dice.number()), length: dice.number() as u32 }]),
        5 => Outcome::Answer(ResponseBody::Values(vec![ItemResult::default()])),
        _ => Outcome::NotLeader {
            leader: dice.flag().then(|| LeaderHint { node: NodeId(dice.number() as u16), epoch, term: Term(dice.number()) }),
        },
    }
}

fn replica_message(dice: &mut Dice<'_>, epoch: Epoch) -> ReplicaMessage {
    let term = Term(dice.number());
    let released = dice.flag().then(|| Released { leader: NodeId(dice.number() as u16), term: Term(dice.number()) });
    let request = VoteRequest { term, last_index: Index(dice.number()), last_term: Term(dice.number()), released };
    let reply = VoteReply { term, granted: dice.flag(), lossy: dice.flag() };
    match dice.byte() % 10 {
        0 => ReplicaMessage::PreVote(request),
        1 => ReplicaMessage::PreVoteReply(reply),
        2 => ReplicaMessage::Vote(request),
        3 => ReplicaMessage::VoteReply(reply),
        4 | 5 => {
            let previous = dice.number();
            let skew = dice.byte() % 8 / 7;
            let entries =
                (0..u64::from(dice.byte() % 4)).map(|n| entry(dice, previous.wrapping_add(1 + n + u64::from(skew)))).collect();
            ReplicaMessage::Append(Append {
                term,
                previous_index: Index(previous),
                previous_term: Term(dice.number()),
                entries,
                commit: Index(dice.number()),
                round: dice.number(),
                follower: Epoch(dice.number()),
                everywhere: Index(dice.number()),
                whole: dice.flag(),
            })
        }
        6 | 7 => {
            let outcome = match dice.byte() % 4 {
                0 | 1 => AppendOutcome::Matched(Index(dice.number())),
                2 => AppendOutcome::Conflict {
                    index: Index(dice.number()),
                    term: Term(dice.number()),
                    previous: Index(dice.number()),
                },
                _ => AppendOutcome::Full { matched: Index(dice.number()) },
            };
            let acceptance = dice.flag().then(|| Promise { leader: epoch, supporter: Epoch(1 << 24), number: dice.number() });
            ReplicaMessage::AppendReply(AppendReply {
                term,
                outcome,
                round: dice.number(),
                acceptance,
                commit: Index(dice.number()),
                synced: dice.flag().then(|| Lsn(dice.number())),
                amnesiac: dice.flag(),
            })
        }
        8 => ReplicaMessage::TimeoutNow { term },
        _ if dice.flag() => ReplicaMessage::Released { term },
        _ => ReplicaMessage::ReleasedReply { term },
    }
}

fn message(dice: &mut Dice<'_>, epoch: Epoch, now: Time) -> PeerMessage {
    match dice.byte() % 8 {
        0 => {
            let detour = |dice: &mut Dice<'_>| Detour { node: NodeId(u16::from(dice.byte() % 8)), links: dice.byte() };
            let detours = (0..dice.byte() % 3).map(|_| detour(dice)).collect();
            let known = |dice: &mut Dice<'_>| Known { node: NodeId(u16::from(dice.byte() % 8)), epoch: Epoch(dice.number()) };
            let epochs = (0..dice.byte() % 3).map(|_| known(dice)).collect();
            let (sent, durable, began) = (dice.number(), Lsn(dice.number()), Lsn(dice.number()));
            let disk = DiskHealth { full: dice.byte() >= 192, unfit: dice.byte() >= 192, sync_ms: dice.number() as u32 };
            PeerMessage::Heartbeat(Heartbeat {
                sent,
                durable,
                began,
                previous: Epoch(dice.number()),
                disk,
                detours,
                epochs,
                clock_ms: dice.number(),
            })
        }
        1 => {
            let sent = now.0.saturating_sub(dice.number().saturating_mul(1_000_000));
            let promise = Promise { leader: epoch, supporter: Epoch(1 << 24), number: dice.number() };
            PeerMessage::HeartbeatReply(HeartbeatReply { sent, promise })
        }
        2 => {
            let leader = dice.flag().then(|| (epoch, Term(dice.number())));
            let task = task(dice);
            PeerMessage::Forward(Forward {
                sequence: dice.number(),
                group: GroupId(dice.number() as u32),
                leader,
                remaining_ms: 1000,
                task,
            })
        }
        3 => {
            let outcome = outcome(dice, epoch);
            PeerMessage::ForwardReply(ForwardReply { sequence: dice.number(), outcome, epoch: Epoch(dice.number()) })
        }
        4 => PeerMessage::Farewell(Farewell { epoch: Epoch(dice.number()), sequence: dice.number() }),
        5 if dice.flag() => {
            let outcome = outcome(dice, epoch);
            let reply = ForwardReply { sequence: dice.number(), outcome, epoch: Epoch(dice.number()) };
            let node = NodeId(u16::from(dice.byte() % 8));
            PeerMessage::Relayed(Box::new(Relayed {
                origin: node,
                directory: DirectoryId(u128::from(node.0)),
                epoch: Epoch(dice.number()),
                destination: NodeId(u16::from(dice.byte() % 4)),
                links: dice.byte(),
                carried: Carried::ForwardReply(reply),
            }))
        }
        _ => PeerMessage::Replica(GroupId(u32::from(dice.byte() % 4)), replica_message(dice, epoch)),
    }
}

fn single(dice: &mut Dice<'_>) -> Single {
    let key = dice.key();
    let acknowledge = if dice.flag() { Acknowledge::All } else { Acknowledge::Quorum };
    let condition = match dice.byte() % 5 {
        0 => Condition::None,
        1 => Condition::Absent,
        2 => Condition::Present,
        3 => Condition::Version(Version(dice.number())),
        _ => Condition::Value(dice.value()),
    };
    let consistency = if dice.flag() { Consistency::Eventual } else { Consistency::Strong };
    let action = match dice.byte() % 4 {
        0 => Action::Read,
        1 => Action::Put(dice.value()),
        2 => Action::Delete,
        _ => Action::Increment(dice.number() as i64),
    };
    Operation { key, action, condition }.alone().consistency(consistency).acknowledge(acknowledge)
}

/// One peer's envelope. Its epoch is mostly the same.
fn envelope(dice: &mut Dice<'_>, formed: bool, me: Epoch, now: Time) -> Envelope {
    let from = NodeId(2 + u16::from(dice.flag()));
    let message = match dice.byte() % 16 {
        0 => PeerMessage::Greeting(greeting(dice)),
        1 => PeerMessage::Formed(claimed(dice)),
        _ if !formed && dice.flag() => PeerMessage::Greeting(greeting(dice)),
        _ => message(dice, me, now),
    };
    let epoch = if dice.byte() == 7 { Epoch(dice.number()) } else { Epoch(1 << 24) };
    let cluster = (formed && dice.byte() != 7).then_some(ClusterId(9));
    Envelope { cluster, from, directory: DirectoryId(u128::from(from.0)), epoch, messages: vec![message] }
}

fn request(dice: &mut Dice<'_>) -> RequestBody {
    match dice.byte() % 8 {
        0 => {
            let (prefix, from, consistency) = (Key::default(), dice.key(), Consistency::Strong);
            RequestBody::Scan(Scan { prefix, from, limit: 10, consistency })
        }
        1 | 2 => RequestBody::Transact(transaction(dice)),
        3 => RequestBody::GetMany(vec![dice.key(), dice.key()]),
        _ => RequestBody::Operation(single(dice)),
    }
}

/// A node, its disk, and the time.
struct Machine {
    node: Node,
    disk: Disk,
    now: Time,
    /// What it told its peers to be durable.
    durable: Lsn,
    /// A write or a sync failed.
    failed: bool,
    /// It has stopped, or halts.
    over: bool,
}

impl Machine {
    /// Boots from what the disk holds. Nothing that the node itself wrote may keep it from that.
    fn boot(mut disk: Disk, now: Time, durable: Lsn) -> Machine {
        disk.queue.clear();
        disk.trouble = Trouble::None;
        let recovered = ringseed::wal::recover(&mut disk, NodeId(1)).expect("a node boots from the log that it wrote");
        let last = recovered.last_lsn();
        assert!(last >= durable, "it has its log up to {last}, and said that {durable} is durable");
        Machine { node: Node::boot(options(), recovered, now), disk, now, durable, failed: false, over: false }
    }

    /// The process ends, and another begins.
    fn restart(&mut self) {
        *self = Machine::boot(std::mem::take(&mut self.disk), self.now, self.durable);
    }

    fn is_member(&self) -> bool {
        self.node.status(self.now).membership == Membership::Member
    }

    fn step(&mut self, event: Event) {
        self.node.step(self.now, event);
    }

    /// Flushes, and lets the disk do so many operations.
    fn flush(&mut self, operations: usize) {
        let mut effects = Vec::new();
        self.node.flush(self.now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Disk(io, operation) => self.disk.queue.push_back((io, operation)),
                Effect::Halt(why) => {
                    assert!(self.failed, "it halts, and no write or sync failed: {}", why.0);
                    self.over = true;
                }
                Effect::Stopped | Effect::StartOver => self.over = true,
                Effect::Send(_, envelope) => {
                    for message in envelope.messages {
                        if let PeerMessage::Heartbeat(heartbeat) = message {
                            self.durable = self.durable.max(heartbeat.durable);
                        }
                    }
                }
                Effect::Reply(..) | Effect::Rot(_) | Effect::Lost(_) => {}
            }
        }
        assert!(!self.failed || self.over, "a write or a sync failed, and it goes on");
        if self.over {
            return;
        }
        for _ in 0..operations {
            let Some((io, operation)) = self.disk.queue.pop_front() else { break };
            let is_read = matches!(operation, DiskOp::Read { .. });
            let result = self.disk.execute(operation);
            self.failed = !is_read && matches!(result, DiskResult::Failed(DiskError::Io(_)));
            self.step(Event::Disk(io, result));
            if self.failed {
                break;
            }
        }
        self.node.check();
    }

    /// One event of the sequence.
    fn happen(&mut self, dice: &mut Dice<'_>, number: u64) {
        match dice.byte() % 8 {
            0 => self.now = self.now + Duration::from_millis(dice.number().saturating_mul(16).min(1000)),
            1 => self.step(Event::Timer),
            2 => {
                let body = request(dice);
                self.step(Event::Client(ConnId(1), Request { id: number, timeout_ms: 500, body }));
            }
            3 => match dice.byte() {
                77 => self.step(Event::Stop),
                78..=80 => self.disk.trouble = Trouble::Fails,
                81 => self.disk.trouble = Trouble::Full,
                82..=84 => self.disk.trouble = Trouble::None,
                85..=87 => self.restart(),
                _ => {}
            },
            _ => {
                let envelope = envelope(dice, self.is_member(), self.node.epoch(), self.now);
                self.step(Event::Net(envelope.from, envelope));
            }
        }
        self.flush(usize::from(dice.byte() % 8));
    }
}

/// Plays the sequence that `input` stands for; then the process ends, and boots again, several times.
///
/// # Panics
/// An invariant breaks, or the node does not boot from what it wrote.
pub fn play(input: &[u8]) {
    let mut dice = Dice(input);
    let mut machine = Machine::boot(Disk::default(), Time::ZERO, Lsn::ZERO);
    if dice.flag() {
        let (from, directory) = (NodeId(2), DirectoryId(2));
        let messages = vec![PeerMessage::Formed(claimed(&mut dice))];
        machine.step(Event::Net(from, Envelope { cluster: None, from, directory, epoch: Epoch(1 << 24), messages }));
    }
    for number in 1..=400 {
        if dice.0.is_empty() {
            break;
        }
        if machine.over {
            machine.restart();
        }
        machine.happen(&mut dice, number);
    }
    for _ in 0..4 {
        machine.restart();
        for _ in 0..50 {
            machine.now = machine.now + Duration::from_millis(1);
            machine.step(Event::Timer);
            machine.flush(8);
        }
    }
}
