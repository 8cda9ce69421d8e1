//! The log against a disk that does what a medium may do, and against a model that is a plain list of records.

mod batches;
mod checkpoint;
mod damage;
mod keys;
mod salvage;
mod walk;
mod witness;

use super::format::{SEGMENT_HEADER_COPY_SIZE, SegmentHeader};
use super::test_disk::{SECTOR, TestDisk};
use super::witness::WITNESS_AFTER;
use super::*;
use crate::actor::{Actor, Context, LivenessView, Outbox};
use crate::base::limits::{COUNTER_MAX, Limits};
use crate::base::random::{Random, below, stream};
use crate::base::{Key, SegmentId, Time};
use crate::msg::codec::{self, Blob};
use crate::msg::configuration::Configuration;
use crate::msg::disk::LogDevice;
use crate::msg::log::{Fact, FactSummary};
use crate::msg::transaction::{Age, Attempt, TransactionFact, TransactionId, Write, Writes};
use std::collections::BTreeSet;

const ME: NodeId = NodeId(3);

fn options(segment_size: u32) -> LogOptions {
    LogOptions {
        me: ME,
        directory: DirectoryId(0xD1),
        segment_size,
        sync_interval: Duration::ZERO,
        seal_after: Duration::from_millis(50),
        batch_bytes: Limits::DEFAULT.batch_bytes,
    }
}

/// A log on a disk, and all that it said.
struct Rig {
    log: Log,
    disk: TestDisk,
    random: Random,
    now: Time,
    epoch: Epoch,
    /// What the log holds, in order: recovered, then appended.
    records: Vec<Record>,
    /// The highest that was said to be durable, and to be acknowledgeable, in this epoch.
    durable: Lsn,
    acknowledgeable: Lsn,
    placed: Vec<Placed>,
    copied: Vec<Place>,
    values: Vec<(ReadFor, Result<Bytes, ReadError>)>,
    entries: Vec<(ReadFor, Result<Entry, ReadError>)>,
    blocks: Vec<(Place, Option<Bytes>)>,
    progress: Vec<(GroupId, Index, Term)>,
    halted: Option<String>,
}

impl Rig {
    fn new(options: LogOptions, seed: u64) -> Rig {
        let mut rig = Rig {
            log: Log::new(options, Tail::default()),
            disk: TestDisk::default(),
            random: stream(seed, "log"),
            now: Time::ZERO,
            epoch: Epoch(1),
            records: Vec::new(),
            durable: Lsn::ZERO,
            acknowledgeable: Lsn::ZERO,
            placed: Vec::new(),
            copied: Vec::new(),
            values: Vec::new(),
            entries: Vec::new(),
            blocks: Vec::new(),
            progress: Vec::new(),
            halted: None,
        };
        rig.append(Record::Epoch { epoch: Epoch(1), forgot: false });
        rig
    }

    fn handle(&mut self, input: In) {
        let mut out = Outbox::default();
        let (liveness, mut cache) = (LivenessView::default(), crate::base::cache::ValueCache::new(0, &Limits::DEFAULT));
        let mut cx =
            Context { now: self.now, me: ME, epoch: self.epoch, ..Context::of_test(&mut self.random, &liveness, &mut cache) };
        self.log.handle(&mut cx, input, &mut out);
        self.log.check();
        while let Some(out) = out.pop() {
            match out {
                Out::Placed(placed) => self.placed.push(placed),
                Out::Copied(place) => self.copied.push(place),
                Out::Progress { acknowledgeable, durable, entries } => {
                    assert!(self.halted.is_none(), "nothing is acknowledged after a failure");
                    assert!(durable >= self.durable && acknowledgeable >= self.acknowledgeable && acknowledgeable >= durable);
                    (self.durable, self.acknowledgeable) = (durable, acknowledgeable);
                    self.progress.extend(entries);
                }
                Out::Value(read, value) => self.values.push((read, value)),
                Out::Entry(read, entry) => self.entries.push((read, entry)),
                Out::Disk(io, op @ DiskOp::Read { .. }) => self.disk.queue.push_front((io, op)),
                Out::Disk(io, op) => self.disk.queue.push_back((io, op)),
                Out::Block(place, block) => self.blocks.push((place, block)),
                Out::Halt(why) => self.halted = Some(why),
            }
        }
    }

    fn append(&mut self, record: Record) {
        self.records.push(record.clone());
        self.handle(In::Append(record));
        assert_eq!(self.log.last_lsn().0, self.records.len() as u64);
    }

    fn entry(&mut self, group: u32, index: u64, key: &str, value: &[u8]) -> Placed {
        self.append(write(group, index, 1, key, Some(value), 0));
        *self.placed.last().expect("an entry is placed")
    }

    /// One answer of the disk.
    fn execute(&mut self) -> bool {
        match self.disk.execute(&mut self.random) {
            Some((io, result)) => {
                self.handle(In::Disk(io, result));
                true
            }
            None => false,
        }
    }

    /// Flushes and lets the disk work until nothing is left to do.
    fn settle(&mut self) {
        self.handle(In::Flush);
        while self.execute() {
            self.handle(In::Flush);
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        self.handle(In::Timer);
    }

    /// Boots again from what the disk shows.
    fn boot(&mut self, options: LogOptions) -> Result<(), RecoverError> {
        let recovered = recover(&mut self.disk, ME)?;
        self.epoch = recovered.epoch.following(7);
        self.records.truncate(recovered.tail.next_lsn.0 as usize - 1);
        self.log = Log::new(options, recovered.tail);
        self.halted = None;
        // What was recovered beyond what was durable before is durable only once it is written again.
        self.acknowledgeable = self.acknowledgeable.min(self.log.durable_lsn());
        self.append(Record::Epoch { epoch: self.epoch, forgot: false });
        Ok(())
    }
}

fn write(group: u32, index: u64, term: u64, key: &str, value: Option<&[u8]>, commit: u64) -> Record {
    let fact = Fact::Write { key: Key::read(key.as_bytes()).expect("a key"), value: value.map(Bytes::copy_from_slice) };
    Record::Entry(GroupId(group), Entry { index: Index(index), term: Term(term), fact }, Index(commit))
}

/// What a plain list of records amounts to, without places.
#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    epoch: Epoch,
    formation: Option<Formation>,
    marks: BTreeMap<NodeId, PeerMark>,
    groups: BTreeMap<GroupId, (HardState, Vec<ModelEntry>)>,
}

/// Term, key, the value's checksum.
type ModelEntry = (Term, Option<Key>, Option<u32>);

impl Model {
    fn of(records: &[Record]) -> Model {
        let mut model = Model::default();
        for record in records {
            match record {
                Record::Epoch { epoch, .. } => model.epoch = *epoch,
                Record::Formation(formation) => model.formation = Some(formation.clone()),
                Record::PeerMark(node, seen) => {
                    let mark = model.marks.entry(*node).or_default();
                    *mark = (*mark).max(*seen);
                }
                Record::HardState(group, state) => {
                    let (old, _) = model.groups.entry(*group).or_default();
                    *old = HardState { commit: old.commit.max(state.commit), ..*state };
                }
                Record::Entry(group, entry, commit) => {
                    let (state, entries) = model.groups.entry(*group).or_default();
                    state.commit = state.commit.max(*commit);
                    entries.truncate(entry.index.0 as usize - 1);
                    let (key, value) = match &entry.fact {
                        Fact::Noop => (None, None),
                        Fact::Configuration(configuration) => (Some(codec::encode(&**configuration).into()), None),
                        Fact::Write { key, value } => {
                            (Some(key.clone()), value.as_ref().map(|v| crate::base::hash::value_checksum(v)))
                        }
                        Fact::Transaction(fact) => {
                            let values = fact.writes().iter().filter_map(|write| write.value.as_ref());
                            let sum = values.fold(0, |sum: u32, v| sum.wrapping_add(crate::base::hash::value_checksum(&v.0)));
                            (fact.writes().first().map(|write| write.key.clone()), Some(sum))
                        }
                    };
                    entries.push((entry.term, key, value));
                }
                Record::Clean | Record::CaughtUp | Record::Stands { .. } => {}
                Record::Leaf { .. }
                | Record::Parts(..)
                | Record::Root(..)
                | Record::Manifest(_)
                | Record::Piece { .. }
                | Record::Moved { .. } => {}
            }
        }
        for (state, entries) in model.groups.values_mut() {
            state.commit = state.commit.min(Index(entries.len() as u64));
        }
        model
    }

    fn of_recovered(recovered: &Recovered) -> Model {
        let groups = recovered.groups.iter().map(|(id, group)| {
            let entries = group.entries.iter().enumerate().map(|(at, entry)| {
                assert_eq!(entry.index.0, at as u64 + 1);
                match &entry.fact {
                    FactSummary::Noop => (entry.term, None, None),
                    FactSummary::Configuration(configuration) => (entry.term, Some(codec::encode(&**configuration).into()), None),
                    FactSummary::Write { key, value } => (entry.term, Some(key.clone()), value.map(|v| v.checksum)),
                    FactSummary::Transaction(fact) => {
                        let values = fact.writes().iter().filter_map(|write| write.value);
                        let sum = values.fold(0, |sum: u32, v| sum.wrapping_add(v.checksum));
                        (entry.term, fact.writes().first().map(|write| write.key.clone()), Some(sum))
                    }
                }
            });
            (*id, (group.state, entries.collect()))
        });
        Model {
            epoch: recovered.epoch,
            formation: recovered.formation.clone(),
            marks: recovered.peer_marks.clone(),
            groups: groups.collect(),
        }
    }
}

const READ: ReadFor = ReadFor { group: GroupId(1), tag: 7 };

#[test]
fn what_is_durable_comes_back() {
    let mut rig = Rig::new(options(1 << 20), 1);
    rig.append(Record::HardState(GroupId(1), HardState { term: Term(1), vote: Some(NodeId(2)), commit: Index(0) }));
    rig.append(write(1, 1, 1, "a", Some(b"one"), 0));
    rig.append(write(1, 2, 1, "b", None, 1));
    rig.append(Record::PeerMark(NodeId(1), PeerMark { epoch: Epoch(3), durable: Lsn(9) }));
    let noop = Entry { index: Index(1), term: Term(4), fact: Fact::Noop };
    rig.append(Record::Entry(GroupId(2), noop, Index(0)));
    assert_eq!(rig.log.durable_lsn(), Lsn(0));
    rig.settle();
    assert_eq!(rig.durable, Lsn(6));
    assert_eq!(rig.log.queue_bytes(), 0);
    assert_eq!(rig.progress, [(GroupId(1), Index(2), Term(1)), (GroupId(2), Index(1), Term(4))]);
    rig.disk.crash_machine(&mut rig.random);
    let recovered = recover(&mut rig.disk, ME).unwrap();
    assert_eq!(Model::of_recovered(&recovered), Model::of(&rig.records));
    assert_eq!((recovered.directory, recovered.lossless), (Some(DirectoryId(0xD1)), true));
    assert_eq!(recovered.groups[&GroupId(1)].state.commit, Index(1));
}

#[test]
fn an_empty_directory_is_empty() {
    let recovered = recover(&mut TestDisk::default(), ME).unwrap();
    assert_eq!((recovered.directory, recovered.epoch, recovered.lossless), (None, Epoch(0), true));
}

#[test]
fn records_are_read_back_from_wherever_they_are() {
    let mut rig = Rig::new(options(1 << 20), 2);
    for (step, size) in [0usize, 5, 3000, 100_000].into_iter().enumerate() {
        let value: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let placed = rig.entry(1, step as u64 + 1, "key", &value);
        // In the filling batch; in flight; on the disk.
        for stage in 0..3 {
            rig.handle(In::ReadValue(READ, placed.value.unwrap()));
            rig.handle(In::ReadEntry(READ, placed.record));
            if stage == 1 {
                rig.settle();
            }
            while !rig.disk.queue.is_empty() && stage == 2 {
                rig.execute();
            }
            if stage == 0 {
                rig.handle(In::Flush);
            }
        }
        rig.settle();
        assert_eq!((rig.values.len(), rig.entries.len()), (3, 3));
        for (_, read) in rig.values.drain(..) {
            assert_eq!(read.unwrap(), value);
        }
        for (_, read) in rig.entries.drain(..) {
            let entry = read.unwrap();
            assert_eq!(entry.index, Index(step as u64 + 1));
            assert_eq!(entry.fact, Fact::Write { key: "key".into(), value: Some(Bytes::from(value.clone())) });
        }
    }
    assert!(rig.log.counters().reads > 0 && rig.log.counters().reads_from_memory > 0);
}

#[test]
fn rot_and_read_errors_are_noticed_at_the_read() {
    let mut rig = Rig::new(options(1 << 20), 3);
    let placed = rig.entry(1, 1, "key", b"a value");
    rig.settle();
    rig.disk.fail_next_read = true;
    rig.handle(In::ReadValue(READ, placed.value.unwrap()));
    rig.execute();
    let at = placed.value.unwrap().place.offset as usize;
    rig.disk.segment(SegmentId(1))[at] ^= 4;
    rig.handle(In::ReadValue(READ, placed.value.unwrap()));
    rig.execute();
    rig.handle(In::ReadEntry(READ, placed.record));
    rig.execute();
    assert!(rig.values.iter().all(|(_, read)| matches!(read, Err(ReadError::Corrupt { .. }))));
    assert!(rig.entries.iter().all(|(_, read)| matches!(read, Err(ReadError::Corrupt { .. }))));
    assert_eq!((rig.values.len(), rig.entries.len(), rig.log.counters().reads_corrupt), (2, 1, 3));
}

#[test]
fn one_write_and_one_sync_for_all_that_was_appended() {
    let mut rig = Rig::new(options(1 << 20), 4);
    rig.settle();
    let before = rig.log.counters();
    for index in 1..=100 {
        rig.entry(1, index, "key", &[7; 256]);
    }
    rig.settle();
    let after = rig.log.counters();
    assert_eq!((after.batches - before.batches, after.syncs - before.syncs), (1, 1));
    let payload = 100 * (3 + 256);
    assert!(after.bytes_written - before.bytes_written < payload + 100 * 100);
}

#[test]
fn a_batch_waits_for_the_one_in_flight() {
    let mut rig = Rig::new(options(1 << 20), 5);
    rig.settle();
    rig.entry(1, 1, "a", b"1");
    rig.handle(In::Flush);
    rig.entry(1, 2, "b", b"2");
    rig.handle(In::Flush);
    let writes = |rig: &Rig| rig.disk.queue.iter().filter(|(_, op)| matches!(op, DiskOp::Write { .. })).count();
    assert_eq!(writes(&rig), 1);
    rig.execute();
    rig.handle(In::Flush);
    assert_eq!((writes(&rig), rig.durable), (0, Lsn(1)));
    rig.execute();
    assert_eq!(rig.durable, Lsn(2));
    rig.handle(In::Flush);
    assert_eq!(writes(&rig), 1);
}

#[test]
fn segments_roll_and_large_records_get_larger_ones() {
    let mut rig = Rig::new(options(64 * 1024), 6);
    for index in 1..=400 {
        let size = if index % 50 == 0 { 200_000 } else { (index as usize * 37) % 2000 };
        rig.entry(1, index, &format!("key{index}"), &vec![index as u8; size]);
        if index % 7 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    assert_eq!(rig.durable, rig.log.last_lsn());
    assert!(rig.disk.segments().len() > 10);
    assert!(rig.log.bytes_allocated() > 8 * 200_000);
    let recovered = recover(&mut rig.disk, ME).unwrap();
    assert_eq!(Model::of_recovered(&recovered), Model::of(&rig.records));
}

#[test]
fn a_failed_write_or_sync_halts_and_acknowledges_nothing() {
    for sync in [false, true] {
        let mut rig = Rig::new(options(64 * 1024), 7);
        rig.settle();
        rig.entry(1, 1, "a", b"1");
        (rig.disk.fail_next_write, rig.disk.fail_next_sync) = (!sync, sync);
        rig.settle();
        rig.entry(1, 2, "b", b"2");
        rig.settle();
        assert!(rig.halted.as_ref().unwrap().contains(if sync { "synced" } else { "written" }));
        assert_eq!((rig.durable, rig.log.deadline()), (Lsn(1), None));
    }
}

#[test]
fn an_idle_log_seals_its_tail_once() {
    let mut rig = Rig::new(options(64 * 1024), 8);
    rig.entry(1, 1, "a", b"1");
    rig.settle();
    let (at, kind) = rig.log.deadline().unwrap();
    assert_eq!(kind, crate::actor::TimerKind::Log);
    rig.now = at;
    rig.handle(In::Timer);
    rig.settle();
    rig.pass(WITNESS_AFTER);
    rig.settle();
    assert_eq!((rig.log.counters().seals, rig.log.counters().witnesses, rig.log.deadline()), (1, 1, None));
    // What was sealed cannot pass for a torn tail.
    let value = rig.placed[0].value.unwrap().place;
    rig.disk.segment(SegmentId(1))[value.offset as usize] ^= 1;
    let error = recover(&mut rig.disk, ME).unwrap_err();
    assert!(
        matches!(&error, RecoverError::Damaged { groups: Some(groups), .. } if *groups == BTreeSet::from([GroupId(1)])),
        "{error}"
    );
}

#[test]
fn the_largest_number_that_is_logged_is_believed() {
    let mark = PeerMark { epoch: Epoch(5), durable: Lsn(COUNTER_MAX) };
    let mut rig = Rig::new(options(64 * 1024), 26);
    rig.append(Record::PeerMark(NodeId(1), mark));
    rig.settle();
    assert_eq!(recover(&mut rig.disk, ME).unwrap().peer_marks[&NodeId(1)], mark);
}

#[test]
#[should_panic(expected = "nothing larger")]
fn nothing_is_logged_that_recovery_would_not_believe() {
    batch::Parts::of(Record::PeerMark(NodeId(1), PeerMark { epoch: Epoch(5), durable: Lsn(COUNTER_MAX + 1) }));
}

#[test]
fn a_full_disk_is_not_fatal() {
    let mut rig = Rig::new(options(64 * 1024), 9);
    rig.settle();
    rig.disk.full = true;
    let mut index = 0;
    while !rig.log.room().is_full() {
        index += 1;
        rig.entry(1, index, "key", &[1; 1000]);
        rig.settle();
    }
    let room = |rig: &Rig, bytes| (rig.log.room().takes(bytes), rig.log.room().takes_ending(bytes));
    assert_eq!(room(&rig, 2_000), (true, true), "what a leader has begun is still taken");
    while rig.log.room().takes(2_000) {
        index += 1;
        rig.entry(1, index, "key", &[1; 1000]);
        rig.settle();
    }
    assert_eq!(room(&rig, 2_000), (false, true), "what frees or ends is still taken");
    while rig.log.room().takes_ending(2_000) {
        index += 1;
        rig.entry(1, index, "key", &[1; 1000]);
        rig.settle();
    }
    assert_eq!(rig.log.bytes_needed(), 1);
    for term in 1..30 {
        rig.append(Record::HardState(GroupId(1), HardState { term: Term(term), vote: None, commit: Index(0) }));
        rig.settle();
    }
    assert_eq!((rig.durable, rig.halted.clone()), (rig.log.last_lsn(), None));
    rig.disk.full = false;
    while rig.log.room().is_full() {
        let (at, _) = rig.log.deadline().expect("it tries again");
        assert!(at > rig.now, "and not at once");
        rig.now = at;
        rig.handle(In::Timer);
        rig.settle();
    }
    for _ in 0..100 {
        index += 1;
        rig.entry(1, index, "key", &[1; 1000]);
        rig.settle();
    }
    assert_eq!(rig.durable, rig.log.last_lsn());
}

#[test]
fn a_node_whose_disk_and_log_are_full_can_still_say_that_it_lives() {
    let mut rig = Rig::new(options(64 * 1024), 10);
    rig.settle();
    rig.disk.full = true;
    for term in 1.. {
        rig.append(Record::HardState(GroupId(1), HardState { term: Term(term), vote: None, commit: Index(0) }));
        rig.settle();
        if rig.durable < rig.log.last_lsn() {
            break;
        }
    }
    for _ in 0..10 {
        rig.boot(options(64 * 1024)).unwrap();
        rig.settle();
        assert_eq!((rig.durable, rig.halted.clone()), (rig.log.last_lsn(), None), "its epoch is durable");
    }
}

#[test]
fn relaxed_syncing_acknowledges_what_is_written_but_syncs_votes_at_once() {
    let relaxed = LogOptions { sync_interval: Duration::from_millis(100), ..options(64 * 1024) };
    let mut rig = Rig::new(relaxed, 10);
    rig.settle();
    assert_eq!(rig.durable, Lsn(1));
    rig.entry(1, 1, "a", b"1");
    rig.settle();
    assert_eq!((rig.acknowledgeable, rig.durable, rig.log.counters().syncs), (Lsn(2), Lsn(1), 1));
    rig.append(Record::HardState(GroupId(1), HardState { term: Term(2), vote: None, commit: Index(0) }));
    rig.settle();
    assert_eq!((rig.durable, rig.log.counters().syncs), (Lsn(3), 2));
    rig.entry(1, 2, "b", b"2");
    rig.settle();
    rig.pass(Duration::from_millis(100));
    rig.settle();
    assert_eq!((rig.durable, rig.log.counters().syncs), (Lsn(4), 3));
    assert!(!recover(&mut rig.disk.copy(), ME).unwrap().lossless);
    rig.append(Record::Clean);
    rig.settle();
    rig.pass(Duration::from_millis(100));
    rig.settle();
    assert!(rig.log.counters().seals > 0);
    assert!(recover(&mut rig.disk, ME).unwrap().lossless);
}

fn is_whole_on_a_machine_that_stayed_up(disk: &mut TestDisk) -> bool {
    let mut recovered = recover(disk, ME).unwrap();
    assert!(recovered.on_a_machine_up_since(Some(Epoch(1))));
    recovered.lossless
}

#[test]
fn a_machine_that_stayed_up_has_lost_nothing_but_what_was_lost_before() {
    let relaxed = LogOptions { sync_interval: Duration::from_millis(100), ..options(64 * 1024) };
    let mut rig = Rig::new(relaxed.clone(), 27);
    rig.settle();
    rig.entry(1, 1, "a", b"1");
    rig.settle();
    assert!(rig.acknowledgeable > rig.durable);
    // The process alone ends: all that was acknowledged is there, and the next epoch begins whole.
    rig.disk.crash_process();
    let mut recovered = recover(&mut rig.disk, ME).unwrap();
    assert!(!recovered.lossless && recovered.last_lsn() >= rig.acknowledgeable);
    assert!(!recovered.on_a_machine_up_since(None) && !recovered.on_a_machine_up_since(Some(Epoch(2))));
    assert!(!recovered.lossless, "an epoch that wrote nothing came between, perhaps on another boot");
    assert!(recovered.on_a_machine_up_since(Some(Epoch(1))));
    assert!(recovered.lossless);
    rig.log = Log::new(relaxed.clone(), recovered.tail);
    rig.append(Record::Epoch { epoch: Epoch(2), forgot: false });
    rig.settle();
    assert!(is_whole_on_a_machine_that_stayed_up(&mut rig.disk.copy()));
    // The machine loses power; what is missing then is missing for every later process, too, until the node has caught up.
    rig.boot(relaxed).unwrap();
    rig.settle();
    for _ in 0..2 {
        assert!(!is_whole_on_a_machine_that_stayed_up(&mut rig.disk.copy()));
        rig.boot(options(64 * 1024)).unwrap();
        rig.settle();
    }
    rig.append(Record::CaughtUp);
    rig.settle();
    assert!(is_whole_on_a_machine_that_stayed_up(&mut rig.disk));
}

#[test]
fn who_has_caught_up_may_still_lose_what_comes_after() {
    let relaxed = LogOptions { sync_interval: Duration::from_millis(100), ..options(64 * 1024) };
    let mut rig = Rig::new(relaxed.clone(), 29);
    rig.settle();
    rig.entry(1, 1, "a", b"1");
    rig.settle();
    rig.disk.crash_process();
    rig.boot(relaxed).unwrap();
    rig.settle();
    assert!(!is_whole_on_a_machine_that_stayed_up(&mut rig.disk.copy()), "it began so");
    rig.append(Record::CaughtUp);
    rig.settle();
    // The process alone may end from now on. A loss of power may take what was acknowledged since.
    assert!(!recover(&mut rig.disk.copy(), ME).unwrap().lossless);
    assert!(is_whole_on_a_machine_that_stayed_up(&mut rig.disk.copy()));
    rig.append(Record::Clean);
    rig.settle();
    assert!(recover(&mut rig.disk, ME).unwrap().lossless);
}

#[test]
fn an_unclean_relaxed_life_is_remembered_until_it_is_caught_up() {
    let relaxed = LogOptions { sync_interval: Duration::from_millis(100), ..options(64 * 1024) };
    let mut rig = Rig::new(relaxed, 11);
    rig.settle();
    for _ in 0..2 {
        rig.boot(options(64 * 1024)).unwrap();
        rig.settle();
        assert!(!recover(&mut rig.disk.copy(), ME).unwrap().lossless);
    }
    rig.append(Record::CaughtUp);
    rig.settle();
    rig.entry(1, 1, "a", b"1");
    rig.settle();
    assert!(recover(&mut rig.disk, ME).unwrap().lossless);
}

#[test]
fn a_log_of_another_node_or_a_newer_format_is_refused() {
    let mut rig = Rig::new(options(64 * 1024), 12);
    rig.settle();
    assert!(matches!(recover(&mut rig.disk, NodeId(4)), Err(RecoverError::WrongNode { found: ME, .. })));
    let header = format::SegmentHeader::decode(SegmentId(1), rig.disk.segment(SegmentId(1))).unwrap();
    let newer = format::SegmentHeader { version: format::FORMAT_VERSION + 1, ..header };
    rig.disk.segment(SegmentId(1))[..1024].copy_from_slice(&newer.encode());
    assert!(matches!(recover(&mut rig.disk, ME), Err(RecoverError::NewerFormat { .. })));
}

/// A log with a few segments and batches, all sealed.
fn sealed_log(seed: u64) -> Rig {
    let mut rig = Rig::new(options(8 * 1024), seed);
    for index in 1..=40u64 {
        rig.entry(index as u32 % 3, index.div_ceil(3), "key", &vec![index as u8; (index as usize * 83) % 900]);
        rig.settle();
    }
    rig.pass(Duration::from_secs(1));
    rig.settle();
    assert!(rig.log.counters().seals == 1 && rig.disk.segments().len() > 2);
    rig
}

#[test]
fn no_flipped_bit_in_what_is_sealed_goes_unnoticed() {
    let mut rig = sealed_log(13);
    let intact = Model::of(&rig.records);
    let last_batch = u64::from(format::EMPTY_BATCH_SIZE);
    let tail = recover(&mut rig.disk, ME).unwrap().tail;
    for segment in rig.disk.segments() {
        let last = tail.segment.unwrap().id == segment;
        let size = rig.disk.segment(segment).len();
        let sealed = if last { (u64::from(tail.end) - last_batch) as usize } else { size };
        if segment > tail.segment.unwrap().id {
            continue;
        }
        for at in (0..sealed).step_by(3) {
            let bit = 1u8 << below(&mut rig.random, 8);
            rig.disk.segment(segment)[at] ^= bit;
            match recover(&mut rig.disk, ME) {
                Ok(recovered) => assert_eq!(Model::of_recovered(&recovered), intact, "{segment:?} {at}"),
                Err(RecoverError::Damaged { segment: found, .. }) => assert!(found == segment && at >= 1024, "{segment:?} {at}"),
                Err(error) => panic!("{error}"),
            }
            rig.disk.segment(segment)[at] ^= bit;
        }
    }
}

/// What was cut off at the end is told, and once told, not told again as if it had just happened.
#[test]
fn a_missing_or_shortened_segment_is_damage() {
    let mut rig = sealed_log(14);
    let mut missing = rig.disk.copy();
    missing.remove(SegmentId(2));
    assert!(matches!(recover(&mut missing, ME), Err(RecoverError::Damaged { segment: SegmentId(2), .. })));
    let mut first_missing = rig.disk.copy();
    first_missing.remove(SegmentId(1));
    assert!(matches!(recover(&mut first_missing, ME), Err(RecoverError::Damaged { segment: SegmentId(1), .. })));
    let mut zeroed = rig.disk.copy();
    zeroed.segment(SegmentId(1))[..1024].fill(0);
    assert!(matches!(recover(&mut zeroed, ME), Err(RecoverError::Damaged { segment: SegmentId(1), .. })));
    let tail = recover(&mut rig.disk, ME).unwrap().tail;
    let last = tail.segment.unwrap().id;
    rig.disk.segment(last).truncate(tail.end as usize - 200);
    assert!(matches!(recover(&mut rig.disk, ME), Err(RecoverError::Damaged { .. })));
}

#[test]
fn the_only_segment_without_a_header_is_damage_when_it_was_sealed() {
    let mut rig = Rig::new(options(64 * 1024), 15);
    for index in 1..5 {
        rig.entry(1, index, "key", b"value");
        rig.settle();
    }
    rig.disk.segment(SegmentId(1))[..1024].fill(0xFF);
    rig.disk.remove(SegmentId(2));
    assert!(matches!(recover(&mut rig.disk, ME), Err(RecoverError::Damaged { segment: SegmentId(1), .. })));
}

/// The write of a segment's header fails in the middle, and a boot writes it once more.
#[test]
fn a_torn_copy_of_a_header_is_made_whole_by_the_next_boot() {
    for torn in [0..SEGMENT_HEADER_COPY_SIZE, SEGMENT_HEADER_COPY_SIZE..2 * SEGMENT_HEADER_COPY_SIZE] {
        let mut rig = Rig::new(options(64 * 1024), 16);
        rig.entry(1, 1, "key", b"value");
        rig.handle(In::Flush);
        while rig.execute() {}
        rig.disk.segment(SegmentId(1))[torn.clone()].fill(0);
        rig.boot(options(64 * 1024)).unwrap();
        rig.entry(1, 2, "key", b"value");
        rig.settle();
        let copies = rig.disk.segment(SegmentId(1))[..2 * SEGMENT_HEADER_COPY_SIZE].to_vec();
        let whole =
            copies.chunks_exact(SEGMENT_HEADER_COPY_SIZE).filter(|copy| SegmentHeader::decode(SegmentId(1), copy).is_some());
        assert_eq!(whole.count(), 2, "{torn:?}");
    }
}

/// A random record that continues `records` as a replica would.
fn random_record(random: &mut Random, records: &[Record]) -> Record {
    let group = GroupId(below(random, 4) as u32);
    let last = records.iter().rev().find_map(|record| match record {
        Record::Entry(of, entry, commit) if *of == group => Some((entry.index.0, commit.0)),
        _ => None,
    });
    let (last, commit) = last.unwrap_or((0, 0));
    match below(random, 12) {
        0 => Record::HardState(group, HardState { term: Term(below(random, 9)), vote: Some(NodeId(1)), commit: Index(commit) }),
        1 => {
            let mark = PeerMark { epoch: Epoch(below(random, 9)), durable: Lsn(below(random, 1000)) };
            Record::PeerMark(NodeId(below(random, 3) as u16), mark)
        }
        2 => {
            let voters = (0..=below(random, 4) as u16).map(NodeId).collect();
            let change = Fact::Configuration(Box::new(Configuration::of(voters)));
            let fact = if below(random, 2) == 0 { Fact::Noop } else { change };
            Record::Entry(group, Entry { index: Index(last + 1), term: Term(1), fact }, Index(commit))
        }
        choice => {
            // Now and then a suffix that was not committed is replaced.
            let index = if choice == 3 { commit + 1 + below(random, last - commit + 1) } else { last + 1 };
            let commit = commit + below(random, index - commit);
            let size = [0, 3, 100, 1500, 9000][below(random, 5) as usize];
            let value = (below(random, 8) > 0).then(|| vec![below(random, 256) as u8; size]);
            write(group.0, index, 1 + below(random, 9), &format!("k{}", below(random, 20)), value.as_deref(), commit)
        }
    }
}

/// One seed: epochs that end in crashes of the process or the machine, on one disk.
fn run_lives(seed: u64) {
    let mut random = stream(seed, "lives");
    let relaxed = below(&mut random, 3) == 0;
    let size = [8 * 1024, 20 * 1024, 64 * 1024][below(&mut random, 3) as usize];
    let with = |relaxed: bool| {
        let sync_interval = if relaxed { Duration::from_millis(20) } else { Duration::ZERO };
        LogOptions { sync_interval, ..options(size) }
    };
    let mut rig = Rig::new(with(relaxed), seed);
    for blocks in old_log(seed) {
        rig.disk.add_old_blocks(blocks);
    }
    for epoch in 0..6 {
        for _ in 0..below(&mut random, 120) {
            step(&mut rig, &mut random);
        }
        // Power loss, or only the process; a failed sync must not be believed in the next epoch either.
        let (durable, acknowledgeable, last) = (rig.durable, rig.acknowledgeable, rig.log.last_lsn());
        let machine = below(&mut random, 3) > 0;
        if machine {
            rig.disk.crash_machine(&mut random)
        } else {
            rig.disk.crash_process()
        }
        let recovered = recover(&mut rig.disk, ME).unwrap_or_else(|error| panic!("seed {seed}, epoch {epoch}: {error}"));
        let found = Lsn(recovered.tail.next_lsn.0 - 1);
        assert!(found >= durable && found <= last, "seed {seed}, epoch {epoch}: {durable:?} <= {found:?} <= {last:?}");
        if recovered.lossless {
            assert!(found >= acknowledgeable, "seed {seed}, epoch {epoch}: what was acknowledged is lost");
        }
        let model = Model::of(&rig.records[..found.0 as usize]);
        assert_eq!(Model::of_recovered(&recovered), model, "seed {seed}, epoch {epoch}");
        read_everything(&mut rig.disk, &recovered, &rig.records);
        rig.boot(with(relaxed)).unwrap();
    }
}

fn step(rig: &mut Rig, random: &mut Random) {
    match below(random, 10) {
        0..=2 => {
            let record = random_record(random, &rig.records);
            rig.append(record);
        }
        3..=5 => rig.handle(In::Flush),
        6..=8 => {
            if below(random, 150) == 0 {
                (rig.disk.fail_next_sync, rig.disk.fail_next_write) = (below(random, 2) == 0, below(random, 4) == 0);
            }
            rig.execute();
        }
        _ => {
            rig.disk.full = below(random, 20) == 0;
            rig.pass(Duration::from_millis(below(random, 60)));
        }
    }
}

/// Segments of a log that was in this directory before it was emptied: what preallocated space may show. (Not the first: as the
/// first, it would be an old disk restored, which the peers notice.)
fn old_log(seed: u64) -> Vec<Vec<u8>> {
    let mut rig = Rig::new(LogOptions { directory: DirectoryId(0xD0), ..options(8 * 1024) }, seed ^ 0xABCD);
    for index in 1..100 {
        rig.entry(1, index, "old", &[9; 200]);
        rig.settle();
    }
    [2, 3].map(|segment| rig.disk.segment(SegmentId(segment)).clone()).to_vec()
}

/// Every entry that was recovered can be read at its place, and is what was appended.
fn read_everything(disk: &mut TestDisk, recovered: &Recovered, records: &[Record]) {
    for (id, group) in &recovered.groups {
        for summary in &group.entries {
            let Place { segment, offset, length } = summary.record;
            let bytes = Bytes::from(disk.read(segment, u64::from(offset), length as usize).unwrap());
            let nonce = format::directory_nonce(recovered.directory.unwrap());
            let answer = reads::answer(nonce, READ, reads::Wanted::Entry(summary.record), bytes);
            let Out::Entry(_, Ok(entry)) = answer else { panic!("{answer:?}") };
            assert!(records.iter().any(|record| matches!(record, Record::Entry(of, e, _) if of == id && *e == entry)));
        }
    }
}

#[test]
fn what_is_acknowledged_survives_whatever_a_crash_leaves() {
    for seed in 0..400 {
        run_lives(seed);
    }
}

#[test]
fn arbitrary_bytes_give_an_answer() {
    let mut random = stream(16, "bytes");
    let base = sealed_log(16);
    for round in 0..2000 {
        let mut disk = if round % 4 == 0 { TestDisk::default() } else { base.disk.copy() };
        for segment in 1..=1 + below(&mut random, 3) as u32 {
            let id = SegmentId(segment);
            match below(&mut random, 4) {
                0 => disk.put(id, (0..below(&mut random, 5000)).map(|_| below(&mut random, 256) as u8).collect()),
                1 if disk.segments().contains(&id) => {
                    let bytes = disk.segment(id);
                    let at = below(&mut random, bytes.len() as u64) as usize;
                    let end = (at + below(&mut random, 600) as usize).min(bytes.len());
                    bytes[at..end].fill(below(&mut random, 256) as u8);
                }
                2 if disk.segments().contains(&id) => {
                    let length = disk.segment(id).len() as u64;
                    disk.segment(id).truncate(below(&mut random, length + 1) as usize);
                }
                _ => {}
            }
        }
        if let Ok(recovered) = recover(&mut disk, ME) {
            drop(Log::new(options(8 * 1024), recovered.tail));
        }
    }
}

/// A prepare of two writes, of which one deletes; its values lie one behind the other.
fn prepare(group: u32, index: u64, values: [&[u8]; 2]) -> Record {
    let [first, second] = values.map(|value| Some(Blob(Bytes::copy_from_slice(value))));
    let written = |key: &'static str, value| Write { key: Key::read(key.as_bytes()).expect("a key"), value };
    let fact = TransactionFact::Prepare {
        id: TransactionId { home: GroupId(9), attempt: Attempt { term: Term(3), number: 4 } },
        age: Age::default(),
        floor: Attempt::default(),
        parties: vec![GroupId(group)],
        shared: vec!["checked".into()],
        writes: Writes(vec![written("a", first), written("\\{7}b\\|2", None), written("c", second)]),
        open: Vec::new(),
    };
    Record::Entry(GroupId(group), Entry { index: Index(index), term: Term(1), fact: Fact::Transaction(Box::new(fact)) }, Index(0))
}

#[test]
fn a_step_of_a_transaction_is_found_again_and_so_is_each_of_its_values() {
    let mut rig = Rig::new(options(1 << 16), 1);
    let record = prepare(5, 1, [b"first value", b""]);
    rig.append(record.clone());
    rig.append(prepare(5, 2, [b"x", b"second"]));
    rig.settle();
    let recovered = recover(&mut rig.disk, ME).expect("nothing is damaged");
    assert_eq!(Model::of_recovered(&recovered), Model::of(&rig.records));
    let entry = &recovered.groups[&GroupId(5)].entries[0];
    let FactSummary::Transaction(fact) = &entry.fact else { panic!("{entry:?}") };
    let places: Vec<ValuePlace> = fact.writes().iter().filter_map(|write| write.value).collect();
    assert_eq!(places.iter().map(|value| value.place.length).collect::<Vec<_>>(), [11, 0]);
    rig.handle(In::ReadValue(ReadFor { group: GroupId(5), tag: 1 }, places[0]));
    rig.handle(In::ReadEntry(ReadFor { group: GroupId(5), tag: 2 }, entry.record));
    rig.settle();
    assert_eq!(rig.values.pop().expect("it was asked for").1.as_deref(), Ok(&b"first value"[..]));
    let Record::Entry(_, written, _) = record else { unreachable!("it is one") };
    assert_eq!(rig.entries.pop().expect("it was asked for").1, Ok(written));
}
