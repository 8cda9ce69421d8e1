//! One member of a script's cluster: a whole node, and a disk that does what it is asked when the script says so.

use super::say::{self, Lines};
use bytes::Bytes;
use ringseed::actor::{Actor, Context, FlowView, LivenessView, Outbox, Room};
use ringseed::base::cache::ValueCache;
use ringseed::base::limits::{DELETED_KEPT, Limits};
use ringseed::base::{ClusterId, DirectoryId, Duration, Epoch, GroupId, Index, IoId, Lsn, NodeId, SegmentId, Term, Time, random};
use ringseed::msg::cluster::ClusterOptions;
use ringseed::msg::disk::{DiskError, DiskOp, DiskResult, LogDevice};
use ringseed::msg::log::{Entry, Fact, HardState};
use ringseed::msg::peer::{Envelope, Heartbeat, PeerMessage};
use ringseed::node::{Effect, Event, Node, NodeOptions, ReplicaProbe};
use ringseed::state::State;
use ringseed::wal::{self, Log, LogOptions, Record};
use std::collections::{BTreeMap, VecDeque};

/// D. A leader counts on 900 ms of it.
pub const SUPPORT: Duration = Duration::from_millis(1_000);
const DRIFT_PPM: u32 = 100_000;
const SEGMENT: u32 = 1 << 20;
/// How often a relaxed log syncs: when the node looks at the clock, in scripts.
const SYNC_INTERVAL: Duration = Duration::from_millis(10);

/// A message between members, under way.
#[derive(Debug, Clone)]
pub struct Mail {
    pub from: NodeId,
    /// Of the sender, when it was sent.
    pub epoch: Epoch,
    pub to: NodeId,
    pub message: PeerMessage,
}

/// What all members write to: the script's output, and the messages under way.
#[derive(Debug)]
pub struct Stage {
    pub now: Time,
    pub lines: Lines,
    pub pool: Vec<Mail>,
}

/// What a cluster is begun with.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub members: u16,
    pub partitions: u32,
    /// It leads the first partition by preference; the second the first of the others.
    pub preferred: NodeId,
    /// What is written may be acknowledged before it is synced.
    pub relaxed: bool,
}

/// Files, as reads show them and as a loss of power leaves them.
#[derive(Debug, Default)]
pub struct Disk {
    visible: BTreeMap<SegmentId, Vec<u8>>,
    medium: BTreeMap<SegmentId, Vec<u8>>,
    /// Values and entries that are read come from it with a bit turned.
    corrupt: bool,
}

impl Disk {
    fn execute(&mut self, operation: DiskOp) -> DiskResult {
        match operation {
            DiskOp::Create { segment, size } => _ = self.visible.insert(segment, vec![0; size as usize]),
            DiskOp::Write { segment, offset, data } => {
                let file = self.visible.get_mut(&segment).expect("created before it is written");
                let mut at = offset as usize;
                for part in data {
                    file[at..at + part.len()].copy_from_slice(&part);
                    at += part.len();
                }
            }
            DiskOp::Recycle { segment, to } => {
                for files in [&mut self.visible, &mut self.medium] {
                    if let Some(file) = files.remove(&segment) {
                        files.insert(to, file);
                    }
                }
            }
            DiskOp::Remove { segment } => {
                for files in [&mut self.visible, &mut self.medium] {
                    files.remove(&segment);
                }
            }
            DiskOp::Sync { segment } => _ = self.medium.insert(segment, self.visible[&segment].clone()),
            DiskOp::SyncDirectory => {
                for (segment, file) in &self.visible {
                    self.medium.entry(*segment).or_insert_with(|| vec![0; file.len()]);
                }
            }
            DiskOp::Read { place } => {
                let mut bytes = self.visible[&place.segment][place.offset as usize..][..place.length as usize].to_vec();
                if let Some(last) = bytes.last_mut().filter(|_| self.corrupt) {
                    *last ^= 1;
                }
                return DiskResult::Data(Bytes::from(bytes));
            }
        }
        DiskResult::Done
    }
}

impl LogDevice for Disk {
    fn list(&mut self) -> Result<Vec<(SegmentId, u64)>, DiskError> {
        Ok(self.visible.iter().map(|(id, file)| (*id, file.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let file = &self.visible[&segment];
        let start = (offset as usize).min(file.len());
        Ok(file[start..(start + length).min(file.len())].to_vec())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

#[derive(Debug)]
pub struct Machine {
    pub id: NodeId,
    pub node: Node,
    setup: Setup,
    disk: Disk,
    /// What the log asked of the disk, not yet done.
    waiting: VecDeque<(IoId, DiskOp)>,
    /// Values stay on the disk until the script lets them come.
    cold: bool,
    /// How the replicas were when they were last looked at.
    seen: Vec<ReplicaProbe>,
    /// The epoch before this one, and how far the log was durable when this one began.
    previous: Epoch,
    began: Lsn,
    /// Answers to heartbeats.
    heartbeat_replies: Vec<Mail>,
}

impl Machine {
    /// A new machine with an empty disk.
    pub fn begin(id: NodeId, setup: Setup, now: Time) -> Machine {
        Machine::boot(id, setup, Disk::default(), now)
    }

    fn boot(id: NodeId, setup: Setup, mut disk: Disk, booted: Time) -> Machine {
        let recovered = wal::recover(&mut disk, id).expect("the disk is sound");
        let (previous, began) = (recovered.epoch, recovered.last_lsn());
        let options = NodeOptions {
            me: id,
            directory: DirectoryId(u128::from(id.0)),
            address: format!("host{id}:1"),
            zone: String::new(),
            // The lightest leads last, by preference.
            weight: if id == setup.preferred { 2 * setup.members } else { 2 * setup.members - id.0 },
            initial_members: (1..=setup.members).map(NodeId).collect(),
            cluster: ClusterOptions {
                partitions: setup.partitions,
                replication_factor: setup.members as u8,
                support_ms: SUPPORT.as_millis() as u32,
                clock_drift_ppm_max: DRIFT_PPM,
            },
            heartbeat_interval: Duration::from_millis(100),
            wal_sync_interval: if setup.relaxed { SYNC_INTERVAL } else { Duration::ZERO },
            snapshot_interval: Duration::ZERO,
            catch_up_rate: 64 << 20,
            scrub_interval: Duration::ZERO,
            segment_size: SEGMENT,
            // Values are read from the disk, always.
            cache_size: 0,
            limits: Limits::DEFAULT,
            deleted_kept: DELETED_KEPT,
            seed: u64::from(id.0),
        };
        let node = Node::boot(options, recovered, booted);
        let (waiting, seen) = (VecDeque::new(), Vec::new());
        Machine { id, node, setup, disk, waiting, cold: false, seen, previous, began, heartbeat_replies: Vec::new() }
    }

    /// Loses power, and begins another epoch from what its disk has.
    pub fn restart(self, stage: &mut Stage) -> Machine {
        let medium = self.disk.medium;
        let disk = Disk { visible: medium.clone(), medium, corrupt: false };
        let mut machine = Machine::boot(self.id, self.setup, disk, stage.now);
        stage.lines.knows_epoch(machine.id, machine.node.epoch(), None);
        machine.begin_epoch(stage);
        machine
    }

    /// Begins again with entries of these terms in its only partition, each a write of the key `k`; it has been up for D.
    pub fn given(self, stage: &mut Stage, terms: &[u64], term: u64, commit: u64, lossy: bool) -> Machine {
        let Machine { id, setup, mut disk, .. } = self;
        let recovered = wal::recover(&mut disk, id).expect("the disk is sound");
        // The last that its peers have heard of, if they have.
        let heard = Some(recovered.epoch).filter(|epoch| *epoch > Epoch::ZERO);
        let epoch = heard.unwrap_or_else(|| recovered.epoch.following(u64::from(id.0)));
        let options = LogOptions {
            me: id,
            directory: DirectoryId(u128::from(id.0)),
            segment_size: SEGMENT,
            sync_interval: if lossy { SYNC_INTERVAL } else { Duration::ZERO },
            seal_after: Duration::from_secs(1),
            batch_bytes: Limits::DEFAULT.batch_bytes,
        };
        let group = GroupId(1);
        let entries = terms.iter().zip(1..).map(|(term, index)| {
            let fact = Fact::Write { key: "k".into(), value: Some(Bytes::from(format!("{index}/{term}"))) };
            Record::Entry(group, Entry { index: Index(index), term: Term(*term), fact }, Index::ZERO)
        });
        let state = HardState { term: Term(term), vote: None, commit: Index(commit) };
        let records =
            [Record::Epoch { epoch, forgot: false }].into_iter().chain(entries).chain([Record::HardState(group, state)]);
        // Nothing is missing, in whichever way the epoch before ended.
        let records = records.chain([Record::CaughtUp, Record::Clean].into_iter().filter(|_| !lossy));
        let nobody = LivenessView::EMPTY;
        let mut log = Log::new(options, recovered.tail);
        let mut inputs: VecDeque<wal::In> = records.map(wal::In::Append).chain([wal::In::Flush]).collect();
        while let Some(input) = inputs.pop_front() {
            let mut out = Outbox::default();
            let (mut random, mut cache) = (random::stream(1, "given"), ValueCache::new(0, &Limits::DEFAULT));
            log.handle(&mut context(&nobody, stage.now, id, epoch, &mut random, &mut cache), input, &mut out);
            while let Some(output) = out.pop() {
                if let wal::Out::Disk(io, operation) = output {
                    inputs.push_back(wal::In::Disk(io, disk.execute(operation)));
                    inputs.push_back(wal::In::Flush);
                }
            }
        }
        disk.execute(DiskOp::SyncDirectory);
        disk.medium = disk.visible.clone();
        let mut machine = Machine::boot(id, setup, disk, Time(stage.now.0 - SUPPORT.as_nanos() as u64));
        stage.lines.knows_epoch(machine.id, machine.node.epoch(), Some(1));
        machine.begin_epoch(stage);
        machine
    }

    /// The epoch's record is made durable: before, a node says nothing at all.
    fn begin_epoch(&mut self, stage: &mut Stage) {
        self.flush(stage);
        self.work_disk(stage, |operation| !matches!(operation, DiskOp::Read { .. }));
        self.seen = self.node.replicas(stage.now);
    }

    pub fn step(&mut self, stage: &mut Stage, event: Event) {
        self.node.step(stage.now, event);
    }

    /// The end of a round of steps: what has become of the replicas is told, and messages leave.
    pub fn flush(&mut self, stage: &mut Stage) {
        let (mut effects, mut read) = (Vec::new(), Vec::new());
        self.node.flush(stage.now, &mut effects);
        self.node.check();
        self.tell_changes(stage);
        for effect in effects {
            match effect {
                Effect::Send(to, envelope) => self.send(stage, to, envelope),
                Effect::Disk(io, operation) => match operation {
                    DiskOp::Read { .. } if !self.cold => read.push((io, operation)),
                    DiskOp::Read { .. } => {
                        stage.lines.detail(format!("{} reads a value from its disk", self.id));
                        self.waiting.push_back((io, operation));
                    }
                    _ => self.waiting.push_back((io, operation)),
                },
                Effect::Reply(connection, response) => {
                    let name = stage.lines.name(connection.0).to_owned();
                    stage.lines.news(format!("{} tells {name}: {}", self.id, say::answer(&response.body)));
                }
                Effect::Rot(_) => stage.lines.detail(format!("{} finds rot on its disk", self.id)),
                Effect::Lost(_) => stage.lines.news(format!("{} says that a value is lost", self.id)),
                Effect::StartOver => stage.lines.news(format!("{} starts over", self.id)),
                Effect::Stopped => stage.lines.news(format!("{} has stopped", self.id)),
                Effect::Halt(why) => panic!("node {} halts: {why:?}", self.id),
            }
        }
        for (io, operation) in read {
            let result = self.disk.execute(operation);
            self.step(stage, Event::Disk(io, result));
            self.flush(stage);
        }
    }

    fn send(&mut self, stage: &mut Stage, to: NodeId, envelope: Envelope) {
        for message in envelope.messages {
            let mail = Mail { from: self.id, epoch: envelope.epoch, to, message };
            match mail.message {
                // Heartbeats go when the script says so.
                PeerMessage::Heartbeat(_) | PeerMessage::Leading(_) => {}
                PeerMessage::HeartbeatReply(_) => self.heartbeat_replies.push(mail),
                _ => {
                    stage.lines.message(&mail);
                    stage.pool.push(mail);
                }
            }
        }
    }

    /// Says what has changed in each replica since it was last looked at.
    fn tell_changes(&mut self, stage: &mut Stage) {
        let id = self.id;
        let now = self.node.replicas(stage.now);
        for probe in &now {
            let of = stage.lines.group(probe.group);
            let Some(before) = self.seen.iter().find(|seen| seen.group == probe.group) else { continue };
            if before.last != probe.last || before.term != probe.term {
                let first = (1..=probe.last.0)
                    .rev()
                    .take_while(|at| Index(*at) > before.last || self.term(probe.group, *at) > before.term.0);
                let new: Vec<String> = first.map(|at| format!("{at}/{}", self.term(probe.group, at))).collect();
                if !new.is_empty() {
                    let new: Vec<String> = new.into_iter().rev().collect();
                    stage.lines.detail(format!("{id} logs {}{of}", new.join(", ")));
                }
            }
            if before.applied < probe.applied {
                stage.lines.detail(format!("{id} applies up to {}{of}", probe.applied));
            }
            if before.leads && (!probe.leads || before.term != probe.term) {
                stage.lines.news(format!("{id} leads no longer{of}"));
            }
            if probe.leads && (!before.leads || before.term != probe.term) {
                stage.lines.news(format!("{id} leads in term {}{of}", probe.term));
            } else if (before.leader, before.term) != (probe.leader, probe.term) {
                let leader = probe.leader.map_or("nobody".into(), |node| node.to_string());
                stage.lines.detail(format!("{id} follows {leader} in term {}{of}", probe.term));
            }
        }
        self.seen = now;
    }

    fn term(&self, group: GroupId, index: u64) -> u64 {
        self.node.entry_fingerprint(group, Index(index)).map_or(0, |fingerprint| fingerprint >> 32)
    }

    pub fn receive(&mut self, stage: &mut Stage, mail: Mail) {
        let envelope = envelope(self.node.cluster(), mail.from, mail.epoch, mail.message);
        self.step(stage, Event::Net(mail.from, envelope));
    }

    /// Its heartbeat, as of now. (That of the node's own comes with its timers, and is not for scripts.)
    pub fn heartbeat(&self, now: Time, to: NodeId) -> Mail {
        let heartbeat = Heartbeat {
            sent: now.0,
            durable: self.began,
            began: self.began,
            previous: self.previous,
            disk: Default::default(),
            clock_ms: 0,
            detours: Vec::new(),
            epochs: Vec::new(),
        };
        Mail { from: self.id, epoch: self.node.epoch(), to, message: PeerMessage::Heartbeat(heartbeat) }
    }

    pub fn take_heartbeat_replies(&mut self) -> Vec<Mail> {
        std::mem::take(&mut self.heartbeat_replies)
    }

    /// The disk does all that it is asked, synced or only written.
    pub fn on_log_progress(&mut self, stage: &mut Stage, synced: bool) {
        self.flush(stage);
        self.work_disk(stage, |operation| match operation {
            DiskOp::Read { .. } => false,
            DiskOp::Sync { .. } | DiskOp::SyncDirectory => synced,
            _ => true,
        });
    }

    /// Values come back from the disk, or fail their checksum there.
    pub fn on_values(&mut self, stage: &mut Stage, corrupt: bool) {
        self.disk.corrupt = corrupt;
        self.work_disk(stage, |operation| matches!(operation, DiskOp::Read { .. }));
        self.disk.corrupt = false;
    }

    /// Does what is asked of the disk, and what is asked then, if it is of this kind. Operations are done in the order they were
    /// asked for.
    fn work_disk(&mut self, stage: &mut Stage, is_done: impl Fn(&DiskOp) -> bool) {
        while let Some(at) = self.waiting.iter().position(|(_, operation)| is_done(operation)) {
            let (io, operation) = self.waiting.remove(at).expect("it was found");
            let result = self.disk.execute(operation);
            self.step(stage, Event::Disk(io, result));
            self.flush(stage);
        }
    }

    /// Whether the disk has done all that it was asked, but for reads.
    pub fn is_durable(&self) -> bool {
        self.waiting.iter().all(|(_, operation)| matches!(operation, DiskOp::Read { .. }))
    }

    /// Values come from the disk only when the script says so, from now on.
    pub fn cool(&mut self) {
        self.cold = true;
    }

    /// Each replica, and the terms of its entries as runs.
    pub fn replicas(&mut self, now: Time) -> Vec<(ReplicaProbe, String)> {
        let probes = self.node.replicas(now);
        let log = |probe: &ReplicaProbe| {
            let mut runs: Vec<(u64, u64)> = Vec::new();
            for term in (1..=probe.last.0).map(|index| self.term(probe.group, index)) {
                match runs.last_mut().filter(|(last, _)| *last == term) {
                    Some((_, count)) => *count += 1,
                    None => runs.push((term, 1)),
                }
            }
            let run = |(term, count): &(u64, u64)| if *count == 1 { format!("{term}") } else { format!("{term}*{count}") };
            runs.iter().map(run).collect::<Vec<_>>().join(",")
        };
        probes.iter().map(|probe| (probe.clone(), log(probe))).collect()
    }
}

/// One message, as its sender would send it.
fn envelope(cluster: Option<ClusterId>, from: NodeId, epoch: Epoch, message: PeerMessage) -> Envelope {
    Envelope { cluster, from, directory: DirectoryId(u128::from(from.0)), epoch, messages: vec![message] }
}

/// For a log that is written by the script itself.
fn context<'a>(
    liveness: &'a LivenessView,
    now: Time,
    me: NodeId,
    epoch: Epoch,
    random: &'a mut random::Random,
    cache: &'a mut ValueCache,
) -> Context<'a> {
    Context {
        now,
        me,
        epoch,
        random,
        liveness,
        flow: FlowView::empty(),
        cache,
        wall_clock_ms: 0,
        room: Room::AMPLE,
        quorum_has_room: true,
        sync: Duration::ZERO,
        limits: &Limits::DEFAULT,
        state: State::empty(),
    }
}
