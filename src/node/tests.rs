//! Whole nodes on a kind network and in-memory disks: the main job, end to end. Unkind ones are the simulator's.

use super::{Effect, Event, LinkState, Node, NodeOptions};
use crate::base::limits::{DELETED_KEPT, Limits};
use crate::base::{ConnId, DirectoryId, IoId, Key, NodeId, SegmentId, Time, Version};
use crate::msg::client::{Doubt, Item, Request, RequestBody, ResponseBody, Scan};
use crate::msg::cluster::ClusterOptions;
use crate::msg::disk::{DiskError, DiskOp, DiskResult, LogDevice};
use crate::msg::operation::{Acknowledge, Condition, Consistency, Operation, Rejection};
use crate::msg::peer::{Envelope, PeerMessage, ReplicaMessage};
use bytes::Bytes;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

mod checkpoints;
mod compaction;
mod damage;
mod disks;
mod flow;
mod health;
mod leaderships;
mod many_groups;
mod reach;
mod repairs;
mod snapshots;
mod transactions;

#[derive(Default)]
struct Disk(
    BTreeMap<SegmentId, Vec<u8>>,
    /// It is full: no segment can be made.
    bool,
    /// What was synced, if that is to be known: all that a loss of power leaves.
    Option<BTreeMap<SegmentId, Vec<u8>>>,
);

impl Disk {
    fn execute(&mut self, operation: DiskOp) -> DiskResult {
        match operation {
            DiskOp::Create { size, .. } if self.1 => return DiskResult::Failed(DiskError::Full { lacking: size }),
            DiskOp::Create { segment, size } => {
                self.0.insert(segment, vec![0; size as usize]);
            }
            DiskOp::Write { segment, offset, data } => {
                let file = self.0.get_mut(&segment).expect("created before it is written");
                let mut at = offset as usize;
                for part in data {
                    file[at..at + part.len()].copy_from_slice(&part);
                    at += part.len();
                }
            }
            DiskOp::Recycle { segment, to } => {
                let file = self.0.remove(&segment).expect("it is a segment's");
                self.0.insert(to, file);
                if let Some(medium) = &mut self.2
                    && let Some(file) = medium.remove(&segment)
                {
                    medium.insert(to, file);
                }
            }
            DiskOp::Remove { segment } => {
                self.0.remove(&segment).expect("it is a segment's");
                self.2.iter_mut().for_each(|medium| _ = medium.remove(&segment));
            }
            DiskOp::Sync { segment } => {
                if let Some(medium) = &mut self.2 {
                    medium.insert(segment, self.0[&segment].clone());
                }
            }
            DiskOp::SyncDirectory => {
                if let Some(medium) = &mut self.2 {
                    self.0.iter().for_each(|(segment, file)| _ = medium.entry(*segment).or_insert_with(|| vec![0; file.len()]));
                }
            }
            DiskOp::Read { place } => {
                let file = &self.0[&place.segment];
                return DiskResult::Data(Bytes::copy_from_slice(&file[place.offset as usize..][..place.length as usize]));
            }
        }
        DiskResult::Done
    }
}

impl LogDevice for Disk {
    fn list(&mut self) -> Result<Vec<(SegmentId, u64)>, DiskError> {
        Ok(self.0.iter().map(|(id, file)| (*id, file.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let file = &self.0[&segment];
        let start = (offset as usize).min(file.len());
        Ok(file[start..(start + length).min(file.len())].to_vec())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

enum Arrival {
    Net(NodeId, Envelope),
    Disk(IoId, DiskResult),
}

struct Cluster {
    now: Time,
    disks: BTreeMap<NodeId, Disk>,
    nodes: BTreeMap<NodeId, Node>,
    queue: VecDeque<(NodeId, Arrival)>,
    answers: BTreeMap<u64, ResponseBody>,
    stopped: Vec<NodeId>,
    /// Nodes that are to be booted again.
    starting_over: BTreeSet<NodeId>,
    /// Added to the nodes' seeds: no two epochs on copies of one directory are the same.
    seed: u64,
    rot: Vec<super::health::Rot>,
    /// Keys whose values no replica has any more, and the nodes that have said so.
    lost: Vec<(NodeId, Key)>,
    /// Ids of directories that are not their node's own.
    directories: BTreeMap<NodeId, DirectoryId>,
    /// Envelopes with forwards to this node are lost.
    loses_forwards: Option<NodeId>,
    /// What the first of a pair sends to the second is lost.
    cuts: Vec<(u16, u16)>,
    /// Envelopes with such a message are lost.
    loses: Option<fn(&PeerMessage) -> bool>,
    /// Bytes of all envelopes sent, while they are counted.
    sent_bytes: Option<u64>,
    /// How long each sync of a node takes.
    slow_ms: BTreeMap<NodeId, u64>,
    /// Syncs that are under way, in order of their ends for each node.
    syncing: Vec<(Time, NodeId, IoId, DiskResult)>,
    /// A node whose disk answers nothing, and what it would answer.
    stalled: Option<NodeId>,
    held: Vec<(NodeId, Arrival)>,
    next: u64,
    cache_size: usize,
    /// The most bytes of values that any node was reading at once.
    lent_max: usize,
    disk_reads: usize,
    partitions: u32,
    wal_sync_interval: Duration,
    segment_size: u32,
    scrub_interval: Duration,
    limits: Limits,
}

impl Cluster {
    fn new(nodes: u16) -> Cluster {
        let mut cluster = Cluster::empty();
        (1..=nodes).for_each(|n| cluster.boot(n, nodes));
        // Until the preferred leaders lead.
        cluster.run(5_000);
        cluster
    }

    fn empty() -> Cluster {
        Cluster {
            now: Time::ZERO,
            disks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            queue: VecDeque::new(),
            answers: BTreeMap::new(),
            stopped: Vec::new(),
            starting_over: BTreeSet::new(),
            seed: 0,
            rot: Vec::new(),
            lost: Vec::new(),
            directories: BTreeMap::new(),
            loses_forwards: None,
            cuts: Vec::new(),
            loses: None,
            sent_bytes: None,
            slow_ms: BTreeMap::new(),
            syncing: Vec::new(),
            stalled: None,
            held: Vec::new(),
            next: 0,
            cache_size: 1 << 20,
            lent_max: 0,
            disk_reads: 0,
            partitions: 4,
            wal_sync_interval: Duration::ZERO,
            segment_size: 1 << 20,
            scrub_interval: Duration::ZERO,
            limits: Limits::DEFAULT,
        }
    }

    fn boot(&mut self, n: u16, nodes: u16) {
        let me = NodeId(n);
        let disk = self.disks.entry(me).or_default();
        let recovered = crate::wal::restore(disk, me).expect("it is a node's disk");
        let options = NodeOptions {
            me,
            directory: self.directories.get(&me).copied().unwrap_or(DirectoryId(u128::from(n))),
            address: format!("host{n}:1"),
            zone: String::new(),
            weight: 1,
            initial_members: (1..=nodes).map(NodeId).collect(),
            cluster: ClusterOptions { partitions: self.partitions, ..ClusterOptions::default() },
            heartbeat_interval: Duration::from_millis(50),
            wal_sync_interval: self.wal_sync_interval,
            snapshot_interval: Duration::ZERO,
            catch_up_rate: 64 << 20,
            scrub_interval: self.scrub_interval,
            segment_size: self.segment_size,
            cache_size: self.cache_size,
            limits: self.limits.clone(),
            deleted_kept: DELETED_KEPT,
            seed: self.seed + u64::from(n),
        };
        self.nodes.insert(me, Node::boot(options, recovered, self.now));
    }

    fn kill(&mut self, n: u16) {
        self.nodes.remove(&NodeId(n));
        self.queue.retain(|(to, _)| *to != NodeId(n));
    }

    /// From its first boot on, what the node has synced is known.
    fn watch_medium(&mut self, n: u16) {
        self.disks.insert(NodeId(n), Disk(BTreeMap::new(), false, Some(BTreeMap::new())));
    }

    /// The machine loses power, and with it all that no sync has covered.
    fn lose_power(&mut self, n: u16) {
        self.kill(n);
        let disk = self.disks.get_mut(&NodeId(n)).expect("it ran");
        disk.0 = disk.2.clone().expect("its medium is watched");
    }

    /// Cuts the node off from these others.
    fn isolate(&mut self, n: u16, others: impl Iterator<Item = u16>) {
        self.cuts.extend(others.filter(|other| *other != n).flat_map(|other| [(n, other), (other, n)]));
    }

    /// Runs for some milliseconds, in steps of one.
    fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.tick();
            while let Some((to, arrival)) = self.queue.pop_front() {
                self.arrive(to, arrival);
            }
        }
        self.nodes.values().for_each(Node::check);
    }

    /// A millisecond passes.
    fn tick(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        let now = self.now;
        for (_, id, io, result) in self.syncing.extract_if(.., |(at, ..)| *at <= now) {
            self.queue.push_back((id, Arrival::Disk(io, result)));
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in &ids {
            self.step(*id, Event::Timer);
        }
    }

    fn arrive(&mut self, to: NodeId, arrival: Arrival) {
        match arrival {
            Arrival::Net(from, envelope) => self.step(to, Event::Net(from, envelope)),
            Arrival::Disk(io, result) => self.step(to, Event::Disk(io, result)),
        }
    }

    /// The stalled disk answers all that it was asked, and does not stall any more.
    fn resume(&mut self) {
        self.stalled = None;
        self.queue.extend(self.held.drain(..));
    }

    fn step(&mut self, id: NodeId, event: Event) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let mut effects = Vec::new();
        node.step(self.now, event);
        node.flush(self.now, &mut effects);
        self.lent_max = self.lent_max.max(node.cache.lent());
        for effect in effects {
            match effect {
                Effect::Send(to, envelope)
                    if self.loses_forwards == Some(to)
                        && envelope.messages.iter().any(|message| matches!(message, PeerMessage::Forward(_))) => {}
                Effect::Send(to, _) if self.cuts.contains(&(id.0, to.0)) => {}
                Effect::Send(_, envelope) if self.loses.is_some_and(|lost| envelope.messages.iter().any(lost)) => {}
                Effect::Send(to, envelope) if self.nodes.contains_key(&to) => {
                    if let Some(sent) = &mut self.sent_bytes {
                        *sent += crate::msg::codec::encode(&envelope).len() as u64;
                    }
                    self.queue.push_back((to, Arrival::Net(id, envelope)))
                }
                Effect::Send(..) => {}
                Effect::Disk(io, operation) => {
                    self.disk_reads += usize::from(matches!(operation, DiskOp::Read { .. }));
                    let slow_ms = self.slow_ms.get(&id).filter(|_| matches!(operation, DiskOp::Sync { .. }));
                    let slow = slow_ms.map(|millis| self.now + Duration::from_millis(*millis));
                    let result = self.disks.get_mut(&id).expect("a node has a disk").execute(operation);
                    match slow {
                        Some(at) => self.syncing.push((at, id, io, result)),
                        None if self.stalled == Some(id) => self.held.push((id, Arrival::Disk(io, result))),
                        None => self.queue.push_back((id, Arrival::Disk(io, result))),
                    }
                }
                Effect::Reply(_, response) => {
                    self.answers.insert(response.id, response.body);
                }
                Effect::Rot(rot) => self.rot.push(rot),
                Effect::Lost(loss) => self.lost.push((id, loss.key)),
                Effect::Stopped => self.stopped.push(id),
                Effect::StartOver => _ = self.starting_over.insert(id),
                Effect::Halt(why) => panic!("{why:?}"),
            }
        }
    }

    fn ask(&mut self, n: u16, body: RequestBody) -> u64 {
        self.next += 1;
        self.step(NodeId(n), Event::Client(ConnId(1), Request { id: self.next, timeout_ms: 2_000, body }));
        self.next
    }

    fn call(&mut self, n: u16, body: RequestBody) -> ResponseBody {
        let id = self.ask(n, body);
        for _ in 0..3_000 {
            if let Some(answer) = self.answers.remove(&id) {
                return answer;
            }
            self.run(1);
        }
        panic!("no answer");
    }

    fn get(&mut self, n: u16, key: &str) -> Option<Bytes> {
        match self.call(n, alone(Operation::read(key.to_string()))) {
            ResponseBody::Value { value, .. } => value,
            other => panic!("{other:?}"),
        }
    }

    fn put(&mut self, n: u16, key: &str, value: &str) -> Version {
        match self.call(n, put(key, value, Condition::None)) {
            ResponseBody::Written { version, .. } => version,
            other => panic!("{other:?}"),
        }
    }
}

fn alone(operation: Operation) -> RequestBody {
    RequestBody::Operation(operation.alone())
}

fn put(key: &str, value: &str, condition: Condition) -> RequestBody {
    alone(Operation::put(key.to_string(), value.to_string()).only_if(condition))
}

#[test]
fn a_cluster_forms_and_does_its_job_from_any_node() {
    let mut cluster = Cluster::new(3);
    let first = cluster.put(1, "a", "1");
    assert_eq!(cluster.get(2, "a").as_deref(), Some(&b"1"[..]));
    assert_eq!(cluster.get(3, "nothing"), None);
    let failed = cluster.call(3, put("a", "2", Condition::Absent));
    assert_eq!(failed, ResponseBody::ConditionFailed { version: first, present: true });
    let done = cluster.call(3, put("a", "2", Condition::Version(first)));
    assert!(matches!(done, ResponseBody::Written { version, .. } if version > first));
    let sum = cluster.call(2, RequestBody::Operation(Operation::increment("n", 5).alone().acknowledge(Acknowledge::All)));
    assert!(matches!(sum, ResponseBody::Written { number: Some(5), .. }));
    let wrong = cluster.call(2, alone(Operation::increment("", 5)));
    assert_eq!(wrong, ResponseBody::Rejected(Rejection::KeyEmpty));
    let all = Scan { prefix: Key::default(), from: Key::default(), limit: 10, consistency: Consistency::Strong };
    let ResponseBody::Scanned(page) = cluster.call(1, RequestBody::Scan(all)) else { panic!("a scan is answered") };
    let keys: Vec<&[u8]> = page.items.iter().map(|Item { key, .. }| key.partition_key()).collect();
    assert_eq!((keys, page.next, page.read_at.len()), (vec![&b"a"[..], b"n"], None, 4));
}

#[test]
fn a_node_that_dies_is_replaced_and_comes_back() {
    let mut cluster = Cluster::new(3);
    for n in 0..20 {
        cluster.put(1, &format!("k{n}"), "before");
    }
    cluster.kill(2);
    cluster.run(600);
    for n in 0..20 {
        cluster.put(3, &format!("k{n}"), "after");
    }
    let unsure = cluster.call(1, alone(Operation::increment("k1", 1)));
    assert_eq!(unsure, ResponseBody::Rejected(Rejection::NotANumber));
    let write = Operation::put("k2", "").alone().acknowledge(Acknowledge::All);
    let away = cluster.call(1, RequestBody::Operation(write));
    assert!(matches!(away, ResponseBody::Unknown(Doubt::ReplicasAway(nodes)) if nodes == [NodeId(2)]));
    cluster.boot(2, 3);
    cluster.run(6_000);
    for n in 3..20 {
        assert_eq!(cluster.get(2, &format!("k{n}")).as_deref(), Some(&b"after"[..]));
    }
    let probes: Vec<_> = cluster.nodes.values_mut().map(|node| node.replicas(cluster.now)).collect();
    for group in 0..4 {
        assert!(
            probes.iter().all(|p| p[group].applied == probes[0][group].applied && p[group].idle),
            "all replicas agree and are idle: {probes:?}"
        );
    }
    let led: Vec<usize> = probes.iter().map(|p| p.iter().filter(|r| r.leads).count()).collect();
    assert!(led.iter().all(|count| *count >= 1), "leaderships have come back to everyone: {led:?}");
}

#[test]
fn everything_is_there_after_all_nodes_died_at_once_even_with_no_cache() {
    let mut cluster = Cluster::new(3);
    cluster.cache_size = 0;
    for n in 0..50 {
        cluster.put(1, &format!("k{n}"), &format!("v{n}"));
    }
    cluster.call(1, alone(Operation::delete("k7").only_if(Condition::Present)));
    (1..=3).for_each(|n| cluster.kill(n));
    (1..=3).for_each(|n| cluster.boot(n, 3));
    cluster.run(2_000);
    for n in 0..50 {
        let expected = (n != 7).then(|| Bytes::from(format!("v{n}")));
        assert_eq!(cluster.get(1 + n % 3, &format!("k{n}")), expected);
    }
    let sum = cluster.call(2, put("k8", "new", Condition::Value(Bytes::from("v8"))));
    assert!(matches!(sum, ResponseBody::Written { .. }), "a value on the disk is read to be compared: {sum:?}");
}

#[test]
fn a_stop_hands_leaderships_over() {
    let mut cluster = Cluster::new(3);
    cluster.put(1, "a", "1");
    cluster.step(NodeId(1), Event::Stop);
    cluster.run(60);
    assert_eq!(cluster.stopped, [NodeId(1)]);
    assert_eq!(cluster.nodes[&NodeId(1)].unfinished(), None);
    cluster.kill(1);
    let before = cluster.now;
    cluster.put(2, "a", "2");
    assert!(cluster.now.since(before) < Duration::from_millis(50), "nobody waits for a lease to end");
}

#[test]
fn a_stopping_node_acknowledges_nothing_behind_its_last_record() {
    let mut cluster = Cluster { wal_sync_interval: Duration::from_secs(10), ..Cluster::empty() };
    (1..=3).for_each(|n| cluster.boot(n, 3));
    cluster.run(5_000);
    cluster.slow_ms.insert(NodeId(2), 20);
    cluster.step(NodeId(2), Event::Stop);
    for n in 0..3_000 {
        cluster.ask(1, put(&format!("k{n}"), "v", Condition::None));
        cluster.run(1);
        if cluster.stopped.contains(&NodeId(2)) {
            break;
        }
    }
    assert_eq!(cluster.stopped, [NodeId(2)]);
    let recovered = crate::wal::recover(cluster.disks.get_mut(&NodeId(2)).expect("there"), NodeId(2)).expect("the disk is sound");
    assert!(recovered.lossless, "its log ends with the record that says that nothing is missing");
}

#[test]
fn what_a_stopping_node_has_not_taken_is_done_by_others() {
    let mut cluster = Cluster::new(3);
    cluster.loses_forwards = Some(NodeId(1));
    let asked: Vec<u64> = (0..20).map(|n| cluster.ask(2, put(&format!("k{n}"), "v", Condition::Absent))).collect();
    cluster.run(5);
    assert!(cluster.answers.len() < asked.len(), "node 1 leads something");
    cluster.step(NodeId(1), Event::Stop);
    cluster.run(60);
    assert_eq!(cluster.stopped, [NodeId(1)]);
    let answers: Vec<&ResponseBody> = asked.iter().filter_map(|id| cluster.answers.get(id)).collect();
    assert_eq!(answers.len(), asked.len(), "nobody waits for a deadline");
    assert!(answers.iter().all(|answer| matches!(answer, ResponseBody::Written { .. })), "{answers:?}");
}

#[test]
fn a_stop_that_loses_its_patience_says_what_it_leaves() {
    let mut cluster = Cluster::new(3);
    (0..20).for_each(|n| _ = cluster.put(1, &format!("k{n}"), "v"));
    cluster.loses = Some(|message| matches!(message, PeerMessage::ForwardReply(_)));
    for id in 1_000..1_020 {
        let body = alone(Operation::read(format!("k{}", id % 20)));
        cluster.step(NodeId(1), Event::Client(ConnId(1), Request { id, timeout_ms: 10_000, body }));
    }
    cluster.run(20);
    cluster.step(NodeId(1), Event::Stop);
    cluster.run(4_000);
    assert_eq!(cluster.stopped, [NodeId(1)]);
    let left = cluster.nodes[&NodeId(1)].unfinished().expect("reads without an answer");
    assert!(left.requests > 0 && left.leaderships == 0, "{left:?}");
}

#[test]
fn a_stopping_node_waits_for_the_answers_to_what_its_own_clients_have_asked() {
    let mut cluster = Cluster::new(3);
    (0..20).for_each(|n| _ = cluster.put(1, &format!("k{n}"), "v"));
    cluster.loses = Some(|message| matches!(message, PeerMessage::ForwardReply(_)));
    let asked: Vec<u64> = (0..20).map(|n| cluster.ask(1, alone(Operation::read(format!("k{n}"))))).collect();
    cluster.run(20);
    assert!(cluster.answers.len() < asked.len(), "others lead something");
    cluster.step(NodeId(1), Event::Stop);
    cluster.run(500);
    assert_eq!(cluster.stopped, []);
    cluster.loses = None;
    cluster.run(1_000);
    assert_eq!(cluster.stopped, [NodeId(1)]);
    assert!(asked.iter().all(|id| matches!(cluster.answers.get(id), Some(ResponseBody::Value { .. }))), "{:?}", cluster.answers);
}

#[test]
fn with_a_link_lost_a_write_is_unknown_at_once_and_a_read_is_asked_again() {
    let mut cluster = Cluster::new(3);
    (0..20).for_each(|n| _ = cluster.put(1, &format!("k{n}"), "v"));
    cluster.loses_forwards = Some(NodeId(1));
    let writes: Vec<u64> = (0..20).map(|n| cluster.ask(2, put(&format!("k{n}"), "w", Condition::None))).collect();
    let read = |n| alone(Operation::read(format!("k{n}")));
    let reads: Vec<u64> = (0..20).map(|n| cluster.ask(2, read(n))).collect();
    cluster.run(5);
    cluster.kill(1);
    cluster.step(NodeId(2), Event::Link(NodeId(1), LinkState::Down));
    cluster.run(30);
    let told: Vec<&ResponseBody> = writes.iter().filter_map(|id| cluster.answers.get(id)).collect();
    assert_eq!(told.len(), writes.len(), "no write waits for its deadline");
    let unknown = told.iter().filter(|body| matches!(body, ResponseBody::Unknown(Doubt::ConnectionLost))).count();
    let done = told.iter().filter(|body| matches!(body, ResponseBody::Written { .. })).count();
    assert!(unknown > 0 && unknown + done == told.len(), "{told:?}");
    // What comes now waits for another leader, and is done.
    let later: Vec<u64> = (0..20).map(|n| cluster.ask(2, put(&format!("k{n}"), "x", Condition::None))).collect();
    cluster.run(700);
    assert!(reads.iter().all(|id| matches!(cluster.answers.get(id), Some(ResponseBody::Value { .. }))));
    assert!(later.iter().all(|id| matches!(cluster.answers.get(id), Some(ResponseBody::Written { .. }))));
}

#[test]
fn one_node_is_a_cluster_too() {
    let mut cluster = Cluster::new(1);
    cluster.put(1, "a", "1");
    cluster.kill(1);
    cluster.boot(1, 1);
    cluster.run(1_000);
    assert_eq!(cluster.get(1, "a").as_deref(), Some(&b"1"[..]));
    cluster.step(NodeId(1), Event::Stop);
    cluster.run(50);
    assert_eq!(cluster.stopped, [NodeId(1)]);
}

#[test]
fn a_page_reads_what_it_returns() {
    let mut cluster = Cluster::new(3);
    for n in 0..120 {
        cluster.put(1, &format!("k{n:03}"), "v");
    }
    cluster.cache_size = 0;
    (1..=3).for_each(|n| cluster.kill(n));
    (1..=3).for_each(|n| cluster.boot(n, 3));
    cluster.run(2_000);
    let mut from = Key::default();
    for (limit, expected) in [(10, 10), (1_000, 110)] {
        let before = cluster.disk_reads;
        let scan = Scan { prefix: "k".into(), from, limit, consistency: Consistency::Strong };
        let ResponseBody::Scanned(page) = cluster.call(2, RequestBody::Scan(scan)) else { panic!("no page") };
        assert_eq!(page.items.len(), expected);
        assert!(page.items.iter().all(|item| item.value == "v"));
        assert_eq!(cluster.disk_reads - before, expected, "values that are not in the page are not read");
        from = page.next.unwrap_or_default();
    }
    assert_eq!(from, Key::default(), "there is no more");
}
