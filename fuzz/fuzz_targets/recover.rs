//! Any bytes as the segments of a log: recovery gives a result or an error. It does not panic, and what it keeps is bounded by
//! the bytes.
//!
//! Checksums stop most inputs at the first header, so half of the runs begin with a log written by the real log actor, and damage
//! it. Of such a log nothing is recovered that was not written: no record behind its end, no entry or hard state of another
//! content, and no value that passes its checksum and is another. If nothing was damaged, all of it is recovered. And whatever was
//! recovered is recovered once more. Some logs have a checkpoint whose copies are any bytes, under right checksums: the states that
//! it gives can be walked and written to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringseed::actor::{Actor, Context, LivenessView, Outbox};
use ringseed::base::limits::Limits;
use ringseed::base::cache::ValueCache;
use ringseed::base::random;
use ringseed::base::hash::value_checksum;
use ringseed::base::{DirectoryId, Duration, Epoch, GroupId, Index, Key, Lsn, NodeId, Place, SegmentId, Term, Time};
use ringseed::msg::disk::{DiskError, DiskOp, DiskResult, LogDevice};
use ringseed::msg::log::{Entry, Fact, FactSummary, HardState, LogBase, Manifest, Root, Rooted};
use ringseed::wal::sweep::Sweep;
use ringseed::wal::{In, Log, LogOptions, Out, Record, Recovered, recover, restore};
use std::collections::{BTreeMap, BTreeSet};

const ME: NodeId = NodeId(1);

#[derive(Default)]
struct Disk(BTreeMap<SegmentId, Vec<u8>>);

impl Disk {
    fn execute(&mut self, operation: DiskOp) -> DiskResult {
        match operation {
            DiskOp::Create { segment, size } => {
                self.0.insert(segment, vec![0; size as usize]);
            }
            DiskOp::Write { segment, offset, data } => {
                let data = data.concat();
                self.0.get_mut(&segment).expect("made before it is written")[offset as usize..][..data.len()]
                    .copy_from_slice(&data);
            }
            DiskOp::Recycle { segment, to } => {
                let file = self.0.remove(&segment).expect("it is there");
                self.0.insert(to, file);
            }
            DiskOp::Remove { segment } => _ = self.0.remove(&segment).expect("it is there"),
            DiskOp::SyncDirectory | DiskOp::Sync { .. } | DiskOp::Read { .. } => {}
        }
        DiskResult::Done
    }
}

impl LogDevice for Disk {
    fn list(&mut self) -> Result<Vec<(SegmentId, u64)>, DiskError> {
        Ok(self.0.iter().map(|(segment, bytes)| (*segment, bytes.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let bytes = self.0.get(&segment).ok_or_else(|| DiskError::Io("there is no such file".into()))?;
        let from = (offset as usize).min(bytes.len());
        Ok(bytes[from..(from + length).min(bytes.len())].to_vec())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

fn options() -> LogOptions {
    LogOptions {
        me: ME,
        directory: DirectoryId(1),
        segment_size: 8 * 1024,
        sync_interval: Duration::ZERO,
        seal_after: Duration::from_millis(50),
        batch_bytes: Limits::DEFAULT.batch_bytes,
    }
}

/// Hands the log one input, and does what it asks of the disk until it asks no more. Returns where it put a copy.
fn drive(log: &mut Log, disk: &mut Disk, input: In) -> Place {
    let mut copied = Place::default();
    let (liveness, mut cache, mut random) = (LivenessView::default(), ValueCache::new(0, &Limits::DEFAULT), random::stream(1, "fuzz"));
    let mut inputs = vec![input];
    while let Some(input) = inputs.pop() {
        let mut cx = Context {
            limits: &Limits::DEFAULT,
            state: ringseed::state::State::empty(),
            now: Time::ZERO,
            me: ME,
            epoch: Epoch(1),
            random: &mut random,
            liveness: &liveness,
            flow: ringseed::actor::FlowView::empty(),
            cache: &mut cache,
            wall_clock_ms: 0,
            room: ringseed::actor::Room::AMPLE,
            quorum_has_room: true,
            sync: ringseed::base::Duration::ZERO,
        };
        let mut out = Outbox::default();
        log.handle(&mut cx, input, &mut out);
        log.check();
        let mut answers = Vec::new();
        while let Some(out) = out.pop() {
            match out {
                Out::Disk(io, operation) => answers.push(In::Disk(io, disk.execute(operation))),
                Out::Copied(place) => copied = place,
                _ => {}
            }
        }
        if !answers.is_empty() {
            inputs.push(In::Flush);
            inputs.extend(answers.into_iter().rev());
        }
    }
    copied
}

/// A log whose last segment names a checkpoint of one group: of leaves and parts that are any bytes, split where these say.
fn forged(bytes: &[u8]) -> Disk {
    let (mut disk, mut log, group) = (Disk::default(), Log::new(options(), Default::default()), GroupId(0));
    let mut append = |disk: &mut Disk, record| {
        let place = drive(&mut log, disk, In::Append(record));
        drive(&mut log, disk, In::Flush);
        place
    };
    append(&mut disk, Record::Epoch { epoch: Epoch(1), forgot: false });
    let [commit, begin, base, start, rest @ ..] = bytes else { return disk };
    let mut pieces = Vec::new();
    for piece in rest.split(|byte| *byte == 0xEE).take(8) {
        let Some((kind, piece)) = piece.split_first() else { continue };
        let (fence, page) = piece.split_at(piece.len().min(usize::from(kind >> 4)));
        let record = match kind & 1 {
            0 => Record::Leaf { group, fence: fence.to_vec().into(), page: page.to_vec().into() },
            _ => Record::Parts(group, page.to_vec().into()),
        };
        pieces.push(append(&mut disk, record));
    }
    let base = LogBase { index: Index(u64::from(*base)), term: Term(1) };
    let root = Root { begin: Index(u64::from(*begin)), base, configuration: None, pieces };
    let root = append(&mut disk, Record::Root(group, root));
    let rooted = Rooted { group, term: Term(1), vote: None, commit: Index(u64::from(*commit)), root: Some(root), amnesiac: false };
    let start = SegmentId(u32::from(*start) % 4);
    let (marks, groups) = (Vec::new(), vec![rooted]);
    let manifest = Manifest { start, epoch: Epoch(1), formation: None, marks, groups, kept: None };
    append(&mut disk, Record::Manifest(manifest));
    for _ in 0..100 {
        append(&mut disk, Record::HardState(GroupId(1), HardState { term: Term(1), ..HardState::default() }));
    }
    disk
}

/// What was written to a log.
struct Written {
    disk: Disk,
    last: Lsn,
    values: BTreeSet<Vec<u8>>,
    terms: BTreeSet<Term>,
}

impl Written {
    /// Recovery found nothing else.
    fn judge(&self, disk: &mut Disk, recovered: &Recovered) {
        assert!(recovered.last_lsn() <= self.last, "it ends where the log ended, at the latest");
        assert!(recovered.epoch <= Epoch(1));
        for (group, found) in &recovered.groups {
            assert!(found.state.term == Term(0) || self.terms.contains(&found.state.term), "{group} has a term that was written");
            for entry in &found.entries {
                assert!(entry.index == Index(1) && entry.term == Term(1) && *group == GroupId(0), "{entry:?}");
                let FactSummary::Write { key, value: Some(value) } = &entry.fact else { panic!("{entry:?}") };
                assert_eq!(*key, Key::from("key"));
                let place = value.place;
                let bytes = disk.read(place.segment, u64::from(place.offset), place.length as usize).expect("it is read");
                assert!(value_checksum(&bytes) != value.checksum || self.values.contains(&bytes), "a value that was not written");
            }
        }
        if disk.0 == self.disk.0 {
            assert_eq!(recovered.last_lsn(), self.last, "nothing was damaged");
        }
    }
}

/// A small log whose shape the first bytes of the input choose.
fn written(shape: &[u8]) -> Written {
    let (mut values, mut terms) = (BTreeSet::new(), BTreeSet::new());
    let mut disk = Disk::default();
    let mut log = Log::new(options(), Default::default());
    drive(&mut log, &mut disk, In::Append(Record::Epoch { epoch: Epoch(1), forgot: false }));
    for (at, byte) in shape.iter().enumerate() {
        let group = GroupId(0);
        let record = match byte % 4 {
            0 => {
                terms.insert(Term(at as u64));
                Record::HardState(GroupId(1), HardState { term: Term(at as u64), vote: None, commit: Index(0) })
            }
            choice => {
                let value = vec![*byte; usize::from(*byte) * usize::from(choice)];
                values.insert(value.clone());
                let fact = Fact::Write { key: "key".into(), value: Some(value.into()) };
                Record::Entry(group, Entry { index: Index(1), term: Term(1), fact }, Index(0))
            }
        };
        drive(&mut log, &mut disk, In::Append(record));
        if byte & 0x40 != 0 {
            drive(&mut log, &mut disk, In::Flush);
        }
    }
    drive(&mut log, &mut disk, In::Flush);
    Written { disk, last: log.last_lsn(), values, terms }
}

/// Changes bytes of the log: each three bytes of the input say where and to what.
fn change(disk: &mut Disk, changes: &[u8]) {
    for change in changes.chunks_exact(4) {
        let segment = SegmentId(1 + u32::from(change[0] % 4));
        let Some(bytes) = disk.0.get_mut(&segment).filter(|bytes| !bytes.is_empty()) else { continue };
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % bytes.len();
        match change[0] >> 6 {
            0 => bytes[at] = change[3],
            1 => bytes[at] ^= 1 << (change[3] % 8),
            2 => bytes[at..].iter_mut().take(usize::from(change[3])).for_each(|byte| *byte = 0),
            _ => bytes.truncate(at),
        }
    }
}

/// A segment of any bytes is swept to its end.
fn sweep(segment: SegmentId, bytes: &[u8], nonce: u64) {
    let mut sweep = Sweep::of(segment, bytes.len() as u32, 300);
    while let Some(place) = sweep.next() {
        let block = bytes[place.offset as usize..][..place.length as usize].to_vec().into();
        sweep.take(nonce, Some(&block), &mut |found| assert_eq!(found.value.len(), found.place.length as usize));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    let (mut disk, written) = if kind == 0xFF {
        (forged(rest), None)
    } else if kind & 1 == 0 {
        let third = rest.len() / 3;
        let parts = [&rest[..third], &rest[third..]];
        (Disk((1u32..).map(SegmentId).zip(parts.map(<[u8]>::to_vec)).collect()), None)
    } else {
        let (shape, changes) = rest.split_at(rest.len().min(usize::from(kind >> 1)));
        let written = written(shape);
        let mut disk = Disk(written.disk.0.clone());
        change(&mut disk, changes);
        (disk, Some(written))
    };
    let found = recover(&mut disk, ME);
    if let Some(written) = &written {
        match &found {
            Ok(recovered) => written.judge(&mut disk, recovered),
            Err(error) => assert!(disk.0 != written.disk.0, "nothing was damaged: {error}"),
        }
    }
    if let Ok(recovered) = found {
        let again = recover(&mut disk, ME).expect("what was recovered is recovered again");
        assert_eq!((again.last_lsn(), again.epoch), (recovered.last_lsn(), recovered.epoch));
        for ((id, mut one), (other_id, mut other)) in again.groups.into_iter().zip(recovered.groups) {
            assert_eq!((id, one.state, one.base, &one.entries), (other_id, other.state, other.base, &other.entries));
            let (one, mut other) = (one.fold(300), other.fold(8 * 1024));
            assert_eq!(one.digest(), other.digest());
            let fact = FactSummary::Write { key: "key".into(), value: None };
            other.apply(other.applied().next(), &fact, &mut |_| {});
            other.digest();
        }
        let mut log = Log::new(options(), recovered.tail);
        disk.0.iter().for_each(|(segment, bytes)| sweep(*segment, bytes, log.nonce()));
        drive(&mut log, &mut disk, In::Append(Record::Epoch { epoch: recovered.epoch.following(1), forgot: false }));
        drive(&mut log, &mut disk, In::Flush);
        assert_eq!(log.durable_lsn(), log.last_lsn(), "a log that was recovered goes on");
    } else if let Ok(salvaged) = restore(&mut disk, ME) {
        let (epoch, forgot) = (salvaged.epoch, salvaged.forgot);
        for mut group in salvaged.groups.into_values() {
            assert!(group.entries.is_sorted_by_key(|entry| (entry.term, entry.index)), "terms never go back: {group:?}");
            let last = group.last_index();
            assert!(group.fold(300).applied() <= last, "nothing is applied that is not there");
        }
        let mut log = Log::new(options(), salvaged.tail);
        drive(&mut log, &mut disk, In::Append(Record::Epoch { epoch: epoch.following(1), forgot }));
        drive(&mut log, &mut disk, In::Flush);
        assert_eq!(log.durable_lsn(), log.last_lsn(), "a damaged log goes on");
        let again = restore(&mut disk, ME).expect("it is started once, so it is started again");
        assert!(again.epoch > epoch, "no epoch is used twice");
    }
});
