//! From the disk to what the node knew: the last checkpoint, and the segments behind it in order, batch by batch, record by
//! record.
//!
//! 1. Sync the device: what is read below must stay what it is.
//! 2. Read every segment's header. Segments at the end of the list without a valid one were made ahead of time, or their first
//!    batch was torn.
//! 3. Read the newest manifest, and what that names: it says which segments are needed, and with which the walk begins. The last
//!    header names the newest that was durable before it; a newer one is in the last segment. Without one all segments are needed,
//!    and the walk begins with the first.
//! 4. Walk the batches. Each must continue the chain, and be whole to the last byte, before any record of it is believed.
//! 5. Where the walk stops short: a torn tail if nothing behind, nor the witness, says that the batch was durable, and the boot
//!    goes on from the cut; else [`RecoverError::Damaged`]. What was cut is told ([`Torn`]), so that nothing goes in silence.
//!
//! Values are verified and let go; keys stay. Bytes of any kind give a result or an error, and are read in bounded chunks.

use super::checkpoint::{Checkpoint, read_manifest};
use super::error::RecoverError;
use super::evidence::{find_header, groups_between, last_byte};
use super::format::{
    BATCH_BEGAN_LOSSY, BATCH_HEADER_SIZE, BATCH_LENGTH_MAX, BATCH_LOSSY, BATCH_MAGIC, BatchHeader, DIRECTORY_ENTRY_SIZE,
    EMPTY_BATCH_SIZE, FORMAT_VERSION, Kind, RECORD_HEADER_SIZE, RECORD_JOINS, RECORD_PRESENT, RecordHeader, SEGMENT_HEADER_SIZE,
    SegmentHeader, TRAILER_SIZE, Trailer, directory_nonce, fold_body, footer_size, salt,
};
use super::segments::Segment;
use super::window::Window;
use super::witness::{self, End, WITNESS};
use super::{Installing, Recovered, RecoveredGroup};
use crate::base::hash::checksum;
use crate::base::limits::{COUNTER_MAX, KEY_SIZE_MAX};
use crate::base::{DirectoryId, Epoch, GroupId, Index, Lsn, NodeId, Place, SegmentId, Sometimes, Term};
use crate::msg::cluster::PeerMark;
use crate::msg::codec;
use crate::msg::disk::{DiskError, LogDevice};
use crate::msg::log::{EntrySummary, FactSummary, HardState, LogBase, Manifest, Rooted, ValuePlace};
use crate::msg::transaction::{Stored, TransactionFact};
use crate::state::{Part, State, decode_piece, fold_parts};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes behind the end of the log that are no whole batch. Nothing says that they were durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    pub segment: SegmentId,
    /// Where they begin, in bytes from the segment's start: the log goes on here.
    pub offset: u32,
    /// Up to the last byte that is not zero.
    pub bytes: u64,
    /// The last epoch was writing a batch here when it ended. Otherwise it may be what an earlier cut has left, which no later
    /// batch has overwritten yet.
    pub is_fresh: bool,
}

/// Where the log goes on: made by recovery, for [`super::Log::new`]. The default is an empty directory's.
#[derive(Debug)]
pub struct Tail {
    pub(super) directory: Option<DirectoryId>,
    /// The last segment with a valid header; `None` before the first.
    pub(super) segment: Option<Segment>,
    /// Where the next batch begins in it.
    pub(super) end: u32,
    pub(super) chain: u64,
    pub(super) next_sequence: u64,
    pub(super) next_lsn: Lsn,
    pub(super) epoch: Epoch,
    /// The last epoch may have lost what it had acknowledged; and did so before it began.
    pub(super) lossy: bool,
    pub(super) began_lossy: bool,
    /// The valid end of the log that no batch seals yet.
    pub(super) unsealed: Option<(Place, Bytes)>,
    /// Of every segment's file.
    pub(super) sizes: BTreeMap<SegmentId, u64>,
    pub(super) witness: witness::Found,
    /// The newest that there is.
    pub(super) manifest: Option<Place>,
    /// Files that the manifest does not name any more.
    pub(super) leftover: BTreeMap<SegmentId, u64>,
}

impl Default for Tail {
    fn default() -> Self {
        Tail {
            directory: None,
            segment: None,
            end: 0,
            chain: 0,
            next_sequence: 1,
            next_lsn: Lsn(1),
            epoch: Epoch::ZERO,
            lossy: false,
            began_lossy: false,
            unsealed: None,
            sizes: BTreeMap::new(),
            witness: witness::Found::default(),
            manifest: None,
            leftover: BTreeMap::new(),
        }
    }
}

impl Tail {
    /// Begins with a segment, whose header must be what the log so far asks for. Nothing is asked of the log before `start`.
    pub(super) fn enter(&mut self, start: SegmentId, id: SegmentId, header: &SegmentHeader) -> Result<(), RecoverError> {
        let right = match self.segment {
            None if id == start => [header.first_sequence, header.first_lsn.0].iter().all(|n| (1..=COUNTER_MAX).contains(n)),
            None => (header.previous_length, header.previous_chain, header.first_sequence, header.first_lsn) == (0, 0, 1, Lsn(1)),
            Some(_) => header.epoch >= self.epoch,
        };
        if !right || header.size < SEGMENT_HEADER_SIZE + EMPTY_BATCH_SIZE {
            return Err(damaged(id, 0, "the segment's header contradicts the log before it".to_string()));
        }
        if self.segment.is_none() {
            (self.next_sequence, self.next_lsn) = (header.first_sequence, header.first_lsn);
        }
        self.chain = header.chain();
        self.segment = Some(Segment { id, size: header.size, is_recycled: header.is_recycled });
        self.end = SEGMENT_HEADER_SIZE;
        Ok(())
    }

    /// Goes on behind a batch.
    pub(super) fn pass(&mut self, batch: &Checked) {
        let header = &batch.header;
        Sometimes::SegmentOfSeveralEpochs.when(batch.offset > SEGMENT_HEADER_SIZE && header.epoch > self.epoch);
        self.epoch = header.epoch;
        self.lossy = header.flags & BATCH_LOSSY != 0;
        self.began_lossy = header.flags & BATCH_BEGAN_LOSSY != 0;
        self.chain = batch.chain;
        self.end = batch.offset + header.length;
        self.next_sequence = header.sequence + 1;
        self.next_lsn = Lsn(header.first_lsn.0 + u64::from(header.count));
    }

    /// What to say if the log ends, for the reason given, before a batch that the witness says was durable.
    pub(super) fn unwitnessed(&self, why: &str) -> Option<String> {
        let end = self.witness.end().filter(|end| end.sequence >= self.next_sequence)?;
        let (last, End { lsn, segment, offset, .. }) = (self.next_lsn.0 - 1, end);
        Some(format!(
            "{why}; position {last} is the last before it, and the log was durable up to position {lsn}, at byte {offset} of segment {segment}"
        ))
    }
}

/// Reads the log of node `me`: the last checkpoint, and what stands behind it. Blocking; the node is not alive yet.
pub fn recover(device: &mut dyn LogDevice, me: NodeId) -> Result<Recovered, RecoverError> {
    let mut files = Files::read(device, me)?;
    let named = match files.segments.last() {
        Some(last) => newest_manifest(device, last.file.id, last.file.size, &last.header)?
            .map(|place| (directory_nonce(last.header.directory), place)),
        None => None,
    };
    let Some((nonce, place)) = named else {
        files.need(None)?;
        return files.replay(device, None);
    };
    let manifest = read_manifest(device, nonce, place)?;
    files.need(Some(&manifest))?;
    let checkpoint = Checkpoint::read(device, nonce, place, manifest)?;
    let mut recovered = files.replay(device, Some(&checkpoint))?;
    checkpoint.load(device, nonce, &mut recovered)?;
    for (id, group) in &recovered.groups {
        let segments = group.copy.iter().flat_map(|copy| copy.items().live().segments());
        if let Some((segment, _)) = segments.into_iter().find(|(segment, _)| !files.sizes.contains_key(segment)) {
            let what = "the segment is missing, and values are in it".to_string();
            return Err(RecoverError::Damaged { segment, offset: 0, what, groups: Some(BTreeSet::from([*id])) });
        }
    }
    Sometimes::BootFromCheckpoint.reached();
    Ok(recovered)
}

/// Where the newest manifest is: in the last segment, or where its header says. What is read here is read once more by the replay,
/// which finds out what is wrong with it.
pub(super) fn newest_manifest(
    device: &mut dyn LogDevice,
    id: SegmentId,
    size: u64,
    header: &SegmentHeader,
) -> Result<Option<Place>, RecoverError> {
    let nonce = directory_nonce(header.directory);
    let (mut tail, mut newest) = (Tail::default(), header.manifest);
    tail.enter(id, id, header)?;
    let mut window = Window::new(device, id, u64::from(header.size).min(size));
    while let Ok(batch) = check_batch(&mut window, nonce, &tail, header.size)? {
        let bytes = window.held(batch.offset, batch.header.length);
        let mut at = BATCH_HEADER_SIZE;
        for _ in 0..batch.header.count {
            let record = RecordHeader::decode_fields(&bytes[at..]);
            if record.kind == Kind::Manifest.number() {
                Sometimes::ManifestInLastSegment.reached();
                newest = Some(Place { segment: id, offset: batch.offset + at as u32, length: record.length });
            }
            at += record.length as usize;
        }
        tail.pass(&batch);
    }
    Ok(newest)
}

/// Reads all of the log of node `me`, as if there was no checkpoint.
pub fn recover_from_start(device: &mut dyn LogDevice, me: NodeId) -> Result<Recovered, RecoverError> {
    let mut files = Files::read(device, me)?;
    files.need(None)?;
    files.replay(device, None)
}

/// The log's files.
#[derive(Debug)]
struct Files {
    /// Every segment's, and its size.
    sizes: BTreeMap<SegmentId, u64>,
    /// Those with a valid header.
    segments: Vec<Found>,
    /// Those among them without.
    bad: Vec<File>,
    /// Those behind them.
    empty: Vec<File>,
    /// Those that are not needed.
    leftover: BTreeMap<SegmentId, u64>,
    witness: witness::Found,
}

impl Files {
    fn read(device: &mut dyn LogDevice, me: NodeId) -> Result<Files, RecoverError> {
        device.sync()?;
        let mut all = device.list()?;
        all.sort_unstable();
        let sizes: Vec<(SegmentId, u64)> = all.iter().copied().filter(|(id, _)| *id != WITNESS).collect();
        let (segments, mut bad) = read_headers(device, me, &sizes)?;
        let last = segments.last().map(|found| found.file.id);
        let empty = bad.split_off(bad.partition_point(|file| Some(file.id) < last));
        let nonce = segments.first().map(|found| directory_nonce(found.header.directory));
        let witness = witness::Found::read(device, &all, nonce)?;
        let (sizes, leftover) = (sizes.into_iter().collect(), BTreeMap::new());
        Ok(Files { sizes, segments, bad, empty, leftover, witness })
    }

    /// Looks whether all segments are there that are needed, by what the manifest says, and leaves the others out.
    fn need(&mut self, manifest: Option<&Manifest>) -> Result<(), RecoverError> {
        let Some(last) = self.segments.last().map(|found| found.file.id) else { return Ok(()) };
        let listed = manifest.and_then(|manifest| Some((manifest.kept.as_ref()?, manifest.start)));
        let (kept, start) = listed.map_or((&[][..], SegmentId(1)), |(kept, start)| (&kept[..], start));
        let before = kept.iter().copied().filter(|id| *id < start);
        let needed = before.chain((start.0..=last.0).map(SegmentId));
        let mut left = self.segments.iter().peekable();
        let mut there = BTreeSet::new();
        for id in needed {
            while left.next_if(|found| found.file.id < id).is_some() {}
            let Some(found) = left.next_if(|found| found.file.id == id) else {
                let what = if self.bad.iter().any(|file| file.id == id) {
                    format!("the segment's header is bad, and segment {last} follows it")
                } else {
                    format!("the segment is missing, which the last whole manifest names, and segment {last} is there")
                };
                return Err(damaged(id, 0, what));
            };
            let File { size, .. } = found.file;
            if size < u64::from(found.header.size) {
                let what = format!("the file has {size} bytes of the {} that its header says", found.header.size);
                return Err(damaged(id, u32::try_from(size).unwrap_or(0), what));
            }
            there.insert(id);
        }
        self.leftover = self.sizes.extract_if(.., |id, _| *id <= last && !there.contains(id)).collect();
        Sometimes::FreedSegmentLeft.when(!self.leftover.is_empty());
        self.segments.retain(|found| there.contains(&found.file.id));
        Ok(())
    }

    /// Replays the log, from where the checkpoint says, or else from its start.
    fn replay(&self, device: &mut dyn LogDevice, checkpoint: Option<&Checkpoint>) -> Result<Recovered, RecoverError> {
        let mut replay = Replay::default();
        replay.tail.sizes.clone_from(&self.sizes);
        replay.tail.directory = self.segments.first().map(|found| found.header.directory);
        replay.tail.witness = self.witness;
        replay.tail.manifest = checkpoint.map(|checkpoint| checkpoint.place);
        replay.tail.leftover.clone_from(&self.leftover);
        if let Some(checkpoint) = checkpoint {
            replay.begin_with(checkpoint);
        }
        replay_segments(device, replay, self)
    }
}

fn replay_segments(device: &mut dyn LogDevice, mut replay: Replay, files: &Files) -> Result<Recovered, RecoverError> {
    let Files { segments, empty, .. } = files;
    let from = replay.start;
    if from > SegmentId::ZERO && segments.iter().all(|found| found.file.id != from) {
        return Err(damaged(from, 0, "the segment is missing that a replay begins with".to_string()));
    }
    for (at, found) in segments.iter().enumerate().filter(|(_, found)| found.file.id >= from) {
        let next = segments.get(at + 1).map(|next| &next.header);
        walk_segment(device, &mut replay, found, next, empty)?;
    }
    if segments.is_empty() {
        // Either never written to, or the first write was torn; unless a batch behind the bad header says that it was durable.
        Sometimes::LogWithoutHeader.when(!empty.is_empty());
        let why = "no segment has a valid header";
        look_for_damage(device, empty, None, 1, SegmentId(1), 0, why)?;
        if let Some(witness) = replay.tail.unwitnessed(why) {
            return Err(damaged(SegmentId(1), 0, witness));
        }
    }
    // A segment of which not even the header came to be.
    for file in empty {
        if replay.torn.is_some() {
            break;
        }
        replay.torn = find_torn(&mut Window::new(device, file.id, file.size), &Tail::default())?;
        Sometimes::SegmentHeaderTorn.when(replay.torn.is_some());
    }
    Sometimes::SpareSegmentFound.when(!segments.is_empty() && !empty.is_empty());
    Ok(replay.finish())
}

#[derive(Debug, Clone, Copy)]
struct File {
    id: SegmentId,
    size: u64,
}

#[derive(Debug)]
struct Found {
    file: File,
    header: SegmentHeader,
}

/// The segments with a valid header, and the files without.
fn read_headers(
    device: &mut dyn LogDevice,
    me: NodeId,
    files: &[(SegmentId, u64)],
) -> Result<(Vec<Found>, Vec<File>), RecoverError> {
    let (mut segments, mut empty) = (Vec::<Found>::new(), Vec::<File>::new());
    for &(id, size) in files {
        let file = File { id, size };
        let bytes = device.read(id, 0, SEGMENT_HEADER_SIZE as usize)?;
        let Some(header) = SegmentHeader::decode(id, &bytes) else {
            empty.push(file);
            continue;
        };
        if header.version > FORMAT_VERSION {
            return Err(RecoverError::NewerFormat { segment: id, offset: 0, found: format!("version {}", header.version) });
        }
        if segments.first().is_some_and(|first| first.header.directory != header.directory) {
            // Old blocks of a directory that was here before.
            Sometimes::SegmentOfEarlierDirectory.reached();
            empty.push(file);
            continue;
        }
        if header.node != me {
            return Err(RecoverError::WrongNode { segment: id, found: header.node, expected: me });
        }
        segments.push(Found { file, header });
    }
    Ok((segments, empty))
}

fn damaged(segment: SegmentId, offset: u32, what: String) -> RecoverError {
    RecoverError::Damaged { segment, offset, what, groups: None }
}

/// Replays one segment; `next` is the header of the segment behind it, which names its end; `empty` are the files behind the last
/// segment.
fn walk_segment(
    device: &mut dyn LogDevice,
    replay: &mut Replay,
    found: &Found,
    next: Option<&SegmentHeader>,
    empty: &[File],
) -> Result<(), RecoverError> {
    let (id, header) = (found.file.id, &found.header);
    replay.enter(found)?;
    let limit = next.map_or(header.size, |next| next.previous_length.min(header.size));
    let mut window = Window::new(device, id, u64::from(header.size).min(found.file.size));
    let why = loop {
        if next.is_some() && replay.tail.end == limit {
            break None;
        }
        match check_batch(&mut window, replay.nonce, &replay.tail, limit)? {
            Ok(batch) => replay.apply(id, &batch, window.held(batch.offset, batch.header.length))?,
            Err(why) => break Some(why),
        }
    };
    let Some(why) = why else {
        return check_end(&mut window, &replay.tail, id, next.expect("only the end of a sealed segment has no reason"));
    };
    let nonce = directory_nonce(header.directory);
    check_torn(&mut window, nonce, &replay.tail, next, &why)?;
    let (end, sequence) = (replay.tail.end, replay.tail.next_sequence);
    replay.torn = find_torn(&mut window, &replay.tail)?;
    look_for_damage(device, empty, Some(nonce), sequence, id, end, &why)?;
    replay.keep_unsealed(device, id, header)
}

/// The walk stops at the tail's end, for the reason given. That is damage, if what should stand there was durable, by what this
/// segment, the next or the witness says. Else it is a torn tail.
pub(super) fn check_torn(
    window: &mut Window<'_>,
    nonce: u64,
    tail: &Tail,
    next: Option<&SegmentHeader>,
    why: &str,
) -> Result<(), RecoverError> {
    let (id, end, sequence) = (window.segment(), tail.end, tail.next_sequence);
    // Nothing behind a batch that seals this batch can be accepted as evidence for less.
    let later = find_header(window, end.saturating_add(1), |later| later.nonce == nonce && later.sequence > sequence)?;
    let sealed = next.is_some()
        || find_header(window, end.saturating_add(1), |later| later.nonce == nonce && later.seals() >= sequence)?.is_some();
    if sealed {
        Sometimes::SealedBatchDamaged.reached();
        let until = later.map(|(offset, _)| offset).or(next.map(|next| next.previous_length));
        let groups = groups_between(window, nonce, end, until)?;
        return Err(RecoverError::Damaged { segment: id, offset: end, what: why.to_string(), groups });
    }
    Sometimes::LaterBatchOutlivesEarlier.when(later.is_some());
    if let Some(what) = tail.unwitnessed(why) {
        Sometimes::WitnessedBatchMissing.reached();
        let until = tail.witness.end().filter(|end| end.segment == id).map(|end| end.offset);
        let groups = groups_between(window, nonce, end, until.filter(|until| *until > end))?;
        return Err(RecoverError::Damaged { segment: id, offset: end, what, groups });
    }
    Ok(())
}

/// What stands at the end of the log and is no whole batch. Earlier epochs leave the rest of what they cut; it begins with no
/// header, or with a header of their epoch.
///
/// In a file that was in use before there are old bytes behind the end: there only a whole header of a batch tells anything.
pub(super) fn find_torn(window: &mut Window<'_>, tail: &Tail) -> Result<Option<Torn>, RecoverError> {
    let (segment, end, epoch) = (window.segment(), tail.end, tail.epoch);
    let Some(last) = last_byte(window, end)? else { return Ok(None) };
    let is_fresh_file = end == 0;
    let header = if is_fresh_file { window.get(0, SEGMENT_HEADER_SIZE as usize)? } else { None };
    if header.is_some_and(|header| SegmentHeader::is_of_another(segment, header)) {
        return Ok(None);
    }
    if tail.segment.is_some_and(|current| current.id == segment && current.is_recycled) {
        let Some(bytes) = window.get(u64::from(end), BATCH_HEADER_SIZE)? else { return Ok(None) };
        let Some((header, _)) = BatchHeader::decode(segment, end, bytes) else { return Ok(None) };
        let is_fresh = header.epoch >= epoch;
        Sometimes::TornTailCut.when(is_fresh);
        Sometimes::TornTailOfEarlierEpoch.when(!is_fresh);
        return Ok(Some(Torn { segment, offset: end, bytes: u64::from(header.length), is_fresh }));
    }
    let length = (last + 1 - u64::from(end)).min(BATCH_HEADER_SIZE as u64) as usize;
    let Some(bytes) = window.get(u64::from(end), length)? else { return Ok(None) };
    let of_earlier_life = BatchHeader::decode(segment, end, bytes).is_some_and(|(header, _)| header.epoch < epoch);
    let is_fresh = !of_earlier_life && bytes.starts_with(&BATCH_MAGIC[..BATCH_MAGIC.len().min(length)]);
    Sometimes::TornTailCut.when(is_fresh);
    Sometimes::TornTailOfEarlierEpoch.when(of_earlier_life);
    Sometimes::TornTailWithoutHeader.when(!is_fresh && !of_earlier_life);
    Ok(Some(Torn { segment, offset: end, bytes: last + 1 - u64::from(end), is_fresh }))
}

/// A sealed segment ends where the next says: the chain must be the one it names, and nothing newer may continue it here.
pub(super) fn check_end(window: &mut Window<'_>, tail: &Tail, id: SegmentId, next: &SegmentHeader) -> Result<(), RecoverError> {
    if next.previous_chain != tail.chain || next.first_sequence != tail.next_sequence || next.first_lsn != tail.next_lsn {
        let what = format!("segment {} names another end of this one than it has", next.segment);
        return Err(damaged(id, tail.end, what));
    }
    if let Some(bytes) = window.get(u64::from(tail.end), BATCH_HEADER_SIZE)?
        && let Some((header, _)) = BatchHeader::decode(id, tail.end, bytes)
        && (header.previous, header.sequence) == (tail.chain, tail.next_sequence)
        && header.epoch > next.epoch
    {
        let what = format!(
            "a batch of epoch {} continues the segment, but segment {} of epoch {} says it ends",
            header.epoch, next.segment, next.epoch
        );
        return Err(damaged(id, tail.end, what));
    }
    Ok(())
}

/// Looks through files without a valid header for a batch that says that batch `sequence` was durable.
fn look_for_damage(
    device: &mut dyn LogDevice,
    empty: &[File],
    nonce: Option<u64>,
    sequence: u64,
    segment: SegmentId,
    offset: u32,
    why: &str,
) -> Result<(), RecoverError> {
    for file in empty {
        let mut window = Window::new(device, file.id, file.size);
        let seals = |later: &BatchHeader| nonce.is_none_or(|nonce| nonce == later.nonce) && later.seals() >= sequence;
        if let Some((at, _)) = find_header(&mut window, 0, seals)? {
            let what = format!("{why}, and a batch in segment {} at byte {at} says that there was one", file.id);
            return Err(damaged(segment, offset, what));
        }
    }
    Ok(())
}

/// A batch of which every byte was checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) offset: u32,
    pub(super) header: BatchHeader,
    chain: u64,
}

/// Checks the batch that should stand at the tail's end. The inner error says what is wrong with it.
pub(super) fn check_batch(
    window: &mut Window<'_>,
    nonce: u64,
    tail: &Tail,
    limit: u32,
) -> Result<Result<Checked, String>, RecoverError> {
    let (segment, offset) = (window.segment(), tail.end);
    let room = limit.saturating_sub(offset);
    if room < EMPTY_BATCH_SIZE {
        return Ok(Err("there is no room for a batch".to_string()));
    }
    let Some(bytes) = window.get(u64::from(offset), BATCH_HEADER_SIZE)? else {
        return Ok(Err("the file ends".to_string()));
    };
    let Some((header, header_sum)) = BatchHeader::decode(segment, offset, bytes) else {
        return Ok(Err("there is no whole batch header".to_string()));
    };
    if header.nonce != nonce || header.sequence != tail.next_sequence || header.previous != tail.chain {
        Sometimes::BatchContinuesNothing.reached();
        return Ok(Err("the batch does not continue the one before it".to_string()));
    }
    if header.version > FORMAT_VERSION {
        return Err(RecoverError::NewerFormat { segment, offset, found: format!("version {}", header.version) });
    }
    let right = header.first_lsn == tail.next_lsn && header.epoch >= tail.epoch && is_epoch(header.epoch);
    if !right
        || header.length > room.min(BATCH_LENGTH_MAX)
        || u64::from(header.length) < BATCH_HEADER_SIZE as u64 + footer_size(header.count)
    {
        return Ok(Err("the batch's header contradicts itself".to_string()));
    }
    let Some(batch) = window.get(u64::from(offset), header.length as usize)? else {
        return Ok(Err("the file ends within the batch".to_string()));
    };
    match check_body(batch, segment, offset, &header, header_sum) {
        Ok(chain) => Ok(Ok(Checked { offset, header, chain })),
        Err(BodyError::Bad(why)) => {
            Sometimes::BatchBodyTorn.reached();
            Ok(Err(why))
        }
        Err(BodyError::Newer(found)) => Err(RecoverError::NewerFormat { segment, offset, found }),
    }
}

enum BodyError {
    Bad(String),
    Newer(String),
}

/// Checks footer and records of a batch whose header is whole; answers the chain behind it.
fn check_body(batch: &[u8], segment: SegmentId, offset: u32, header: &BatchHeader, header_sum: u64) -> Result<u64, BodyError> {
    let bad = |why: String| BodyError::Bad(why);
    let end = batch.len() - footer_size(header.count) as usize;
    let (trailer, chain) = Trailer::decode(salt(header.nonce, segment, offset + end as u32), &batch[end..])
        .ok_or_else(|| bad("the batch's footer fails its checksum".to_string()))?;
    if trailer.count != header.count || trailer.length != header.length {
        return Err(bad("the batch's header and footer disagree".to_string()));
    }
    let directory = batch[end..batch.len() - TRAILER_SIZE].chunks_exact(DIRECTORY_ENTRY_SIZE);
    let (mut at, mut body, mut newer) = (BATCH_HEADER_SIZE, 0, None);
    for (position, entry) in directory.enumerate() {
        let (record, sum) = RecordHeader::decode(salt(header.nonce, segment, offset + at as u32), &batch[at..end])
            .ok_or_else(|| bad(format!("the header of record {position} of the batch fails its checksum")))?;
        if record.position as usize != position || !record.agrees_with(sum, entry) {
            return Err(bad(format!("record {position} of the batch and the directory disagree")));
        }
        let value_hash = checksum(0, &batch[at + record.value_at()..at + record.length as usize]);
        if value_hash as u32 != record.value_checksum {
            return Err(bad(format!("the value of record {position} of the batch fails its checksum")));
        }
        body = fold_body(body, value_hash);
        if Kind::from_number(record.kind).is_none() {
            newer = Some(format!("a record of kind {}", record.kind));
        }
        at += record.length as usize;
    }
    if at != end {
        return Err(bad("the batch's records do not fill it".to_string()));
    }
    if trailer.body != checksum(header_sum, &body.to_le_bytes()) {
        return Err(bad("the batch fails its checksum".to_string()));
    }
    newer.map_or(Ok(chain), |found| Err(BodyError::Newer(found)))
}

/// Whether a record's numbers are such as are logged.
pub(super) fn is_within_reason(record: &RecordHeader) -> bool {
    record.term.max(record.index).max(record.commit) <= COUNTER_MAX
}

/// Whether another epoch can follow this one.
pub(super) fn is_epoch(epoch: Epoch) -> bool {
    epoch.0 <= COUNTER_MAX && epoch.following(u64::MAX).0 <= COUNTER_MAX
}

/// What was replayed so far.
#[derive(Debug, Default)]
struct Replay {
    recovered: RecoveredState,
    nonce: u64,
    tail: Tail,
    torn: Option<Torn>,
    /// Batches that no later one seals: sequence and offset, all in the last segment.
    unsealed: VecDeque<(u64, u32)>,
    /// The segment to begin with; zero: the first.
    start: SegmentId,
    /// Where the manifest that it begins with lies; zero: there is none.
    manifest: Place,
    bytes: u64,
}

#[derive(Debug, Default)]
struct RecoveredState {
    epoch: Epoch,
    formation: Option<crate::msg::cluster::Formation>,
    peer_marks: BTreeMap<NodeId, PeerMark>,
    groups: BTreeMap<GroupId, RecoveredGroup>,
}

impl Replay {
    /// Begins with what a checkpoint says.
    fn begin_with(&mut self, checkpoint: &Checkpoint) {
        let Manifest { start, epoch, formation, marks, groups, kept: _ } = &checkpoint.manifest;
        (self.start, self.manifest) = (*start, checkpoint.place);
        let state = &mut self.recovered;
        (state.epoch, state.formation) = (*epoch, formation.clone());
        state.peer_marks = marks.iter().copied().collect();
        for Rooted { group, term, vote, commit, .. } in groups {
            let root = checkpoint.roots.get(group);
            let found = RecoveredGroup {
                state: HardState { term: *term, vote: *vote, commit: *commit },
                base: root.map_or(LogBase::default(), |(_, root)| root.base),
                ..RecoveredGroup::default()
            };
            state.groups.insert(*group, found);
        }
    }

    fn enter(&mut self, found: &Found) -> Result<(), RecoverError> {
        self.tail.enter(self.start, found.file.id, &found.header)?;
        self.nonce = directory_nonce(found.header.directory);
        self.unsealed.clear();
        Ok(())
    }

    /// Believes a batch.
    fn apply(&mut self, segment: SegmentId, batch: &Checked, bytes: &[u8]) -> Result<(), RecoverError> {
        let header = &batch.header;
        while self.unsealed.pop_front_if(|(sequence, _)| *sequence <= header.seals()).is_some() {}
        self.unsealed.push_back((header.sequence, batch.offset));
        let mut at = BATCH_HEADER_SIZE;
        for _ in 0..header.count {
            let record = RecordHeader::decode_fields(&bytes[at..]);
            let offset = batch.offset + at as u32;
            self.apply_record(segment, offset, &record, &bytes[at..at + record.length as usize])?;
            at += record.length as usize;
        }
        self.tail.pass(batch);
        self.bytes += u64::from(header.length);
        Ok(())
    }

    fn apply_record(&mut self, segment: SegmentId, offset: u32, record: &RecordHeader, bytes: &[u8]) -> Result<(), RecoverError> {
        let bad = |what: &str| Err(damaged(segment, offset, what.to_string()));
        let kind = Kind::from_number(record.kind).expect("checked with the batch");
        if !is_within_reason(record) {
            // Its checksum is right, so that it is what was written, by a program that logged what a peer said without looking.
            // It is not believed; and it costs no more than a mark that was never logged.
            return if kind == Kind::PeerMark { Ok(()) } else { bad("a record's numbers are beyond reason") };
        }
        let state = &mut self.recovered;
        match kind {
            Kind::Epoch if !is_epoch(Epoch(record.index)) => return bad("an epoch is beyond reason"),
            Kind::Epoch => state.epoch = state.epoch.max(Epoch(record.index)),
            Kind::PeerMark => {
                let mark = state.peer_marks.entry(NodeId(record.node)).or_default();
                *mark = PeerMark { epoch: Epoch(record.term), durable: Lsn(record.index) }.max(*mark);
            }
            Kind::Formation => match codec::decode(&Bytes::copy_from_slice(&bytes[record.value_at()..])) {
                Ok(formation) => state.formation = Some(formation),
                Err(error) => return bad(&format!("the cluster's formation cannot be read: {error}")),
            },
            Kind::HardState => {
                let group = state.groups.entry(record.group()).or_default();
                let vote = (record.flags & RECORD_PRESENT != 0).then_some(NodeId(record.node));
                let commit = group.state.commit.max(Index(record.commit));
                group.state = HardState { term: Term(record.term), vote, commit };
            }
            Kind::Piece => return self.apply_piece(segment, offset, record, bytes),
            // Copies are read by their places, and of values that were moved the leaves tell.
            Kind::Clean | Kind::CaughtUp | Kind::Leaf | Kind::Parts | Kind::Root | Kind::Manifest | Kind::Moved => {}
            Kind::Noop | Kind::Write | Kind::Transaction | Kind::Configuration => {
                return self.apply_entry(segment, offset, record, bytes);
            }
        }
        Ok(())
    }

    /// An entry at an index discards the group's entries from that index on: they were written earlier, and were replaced.
    fn apply_entry(&mut self, segment: SegmentId, offset: u32, record: &RecordHeader, bytes: &[u8]) -> Result<(), RecoverError> {
        let group = self.recovered.groups.entry(record.group()).or_default();
        let last = group.last_index();
        let before_manifest = (segment, offset) < (self.manifest.segment, self.manifest.offset);
        if before_manifest && (record.index() <= group.base.index || group.entries.is_empty() && record.index() > last.next()) {
            // It is in the copy; or it was replaced, with one before it, by an entry that is still to come. One that is in the copy
            // replaced all that was logged behind it before.
            if record.index() <= group.base.index {
                Sometimes::EntryInCopyReplaces.when(!group.entries.is_empty());
                group.entries.clear();
            }
            return Ok(());
        }
        if record.index() <= group.base.index || record.index() > last.next() {
            let what = format!("entry {} of group {} follows entry {last}", record.index, record.group);
            return Err(RecoverError::Damaged { segment, offset, what, groups: Some(BTreeSet::from([record.group()])) });
        }
        Sometimes::ReplayedEntryReplaced.when(record.index() <= last);
        group.entries.truncate((record.index - group.base.index.0) as usize - 1);
        group.state.commit = group.state.commit.max(Index(record.commit));
        let fact = fact_of(segment, offset, record, bytes)?;
        let place = Place { segment, offset, length: record.length };
        group.entries.push(EntrySummary { index: record.index(), term: record.term(), record: place, fact });
        Ok(())
    }

    /// A piece of a state. With the last, the state takes the place of what there was, and the group's log begins at its base:
    /// what stands behind the base stays if the log has that entry.
    fn apply_piece(&mut self, segment: SegmentId, offset: u32, record: &RecordHeader, bytes: &[u8]) -> Result<(), RecoverError> {
        let group = self.recovered.groups.entry(record.group()).or_default();
        let base = LogBase { index: record.index(), term: record.term() };
        if base.index <= group.base.index {
            // It is in the copy that this replay began with. What stood behind it then may have gone with it.
            if record.flags & RECORD_PRESENT != 0 && record.flags & RECORD_JOINS == 0 {
                group.entries.clear();
            }
            return Ok(());
        }
        if record.commit == 0 {
            let state = State::new();
            group.installing = Some(Box::new(Installing { base, snapshot: 0, wanted: 0, from: segment, state, digest: 0 }));
        }
        let value_at = record.value_at();
        let Some((snapshot, parts, is_last)) = piece_of(record, bytes) else {
            let what = format!("a piece of the state of group {} at {} is none", record.group, base.index);
            return Err(RecoverError::Damaged { segment, offset, what, groups: Some(BTreeSet::from([record.group()])) });
        };
        let Some(installing) = group.installing.as_mut().filter(|i| (i.base, i.wanted) == (base, record.commit)) else {
            // Its beginning stands before where the replay begins: it never became whole, or is in the copy.
            return Ok(());
        };
        if record.commit == 0 {
            installing.snapshot = snapshot;
        } else if installing.snapshot != snapshot {
            return Ok(());
        }
        let area = Place { segment, offset: offset + value_at as u32, length: record.length - value_at as u32 };
        installing.digest = fold_parts(installing.digest, &parts);
        if !installing.state.install_piece(parts, area) {
            let what = format!("a piece of the state of group {} at {} contradicts another", record.group, base.index);
            return Err(RecoverError::Damaged { segment, offset, what, groups: Some(BTreeSet::from([record.group()])) });
        }
        installing.wanted += 1;
        if is_last && let Some(installed) = group.installing.take() {
            group.install(*installed);
        }
        Ok(())
    }

    /// Reads what no batch seals: the log writes it once more. A segment's header belongs to its first batch; where the write of
    /// it failed in the middle, one of its two copies may be torn: both are made whole, or the next damage to it would be the
    /// last.
    fn keep_unsealed(
        &mut self,
        device: &mut dyn LogDevice,
        segment: SegmentId,
        header: &SegmentHeader,
    ) -> Result<(), RecoverError> {
        let from = match self.unsealed.front() {
            Some((_, offset)) if *offset > SEGMENT_HEADER_SIZE => *offset,
            _ => 0,
        };
        let length = self.tail.end - from;
        Sometimes::UnsealedFromHeader.when(from == 0);
        Sometimes::SeveralBatchesUnsealed.when(self.unsealed.len() > 1);
        let mut bytes = device.read(segment, u64::from(from), length as usize)?;
        if bytes.len() != length as usize {
            return Err(RecoverError::Device(DiskError::Io(format!("segment {segment} became shorter while it was read"))));
        }
        if from == 0 {
            let whole = header.encode();
            Sometimes::TornHeaderMended.when(bytes[..whole.len()] != whole[..]);
            bytes[..whole.len()].copy_from_slice(&whole);
        }
        self.tail.unsealed = Some((Place { segment, offset: from, length }, Bytes::from(bytes)));
        Ok(())
    }

    fn finish(mut self) -> Recovered {
        for group in self.recovered.groups.values_mut() {
            // What was committed was appended before; this is only a bound on what the next layer may rely on.
            group.state.commit = group.state.commit.min(group.last_index());
        }
        let RecoveredState { epoch, formation, peer_marks, groups } = self.recovered;
        let lossless = !self.tail.lossy;
        Sometimes::RecoveredLossy.when(!lossless);
        let witnessed = self.tail.witness.end().map(|end| end.sequence);
        Sometimes::WitnessBehindLog.when(witnessed.is_some_and(|sequence| sequence + 1 < self.tail.next_sequence));
        Recovered {
            directory: self.tail.directory,
            epoch,
            formation,
            peer_marks,
            groups,
            lossless,
            torn: self.torn,
            start: self.start.max(SegmentId(1)),
            replayed: self.bytes,
            tail: self.tail,
        }
    }
}

/// What a piece of a state says: the snapshot's name, the parts, and whether it is the last. `None`: it is none.
pub(super) fn piece_of(record: &RecordHeader, bytes: &[u8]) -> Option<(u64, Vec<Part<Stored>>, bool)> {
    let (key, values) = bytes[RECORD_HEADER_SIZE..].split_at(record.key_length as usize);
    let (snapshot, parts) = key.split_first_chunk()?;
    let (parts, is_last) = decode_piece(&Bytes::copy_from_slice(parts), values, record.index())?;
    (is_last == (record.flags & RECORD_PRESENT != 0)).then(|| (u64::from_le_bytes(*snapshot), parts, is_last))
}

/// What an entry of the log says.
pub(super) fn fact_of(segment: SegmentId, offset: u32, record: &RecordHeader, bytes: &[u8]) -> Result<FactSummary, RecoverError> {
    let value_at = record.value_at();
    let key_part = || Bytes::copy_from_slice(&bytes[RECORD_HEADER_SIZE..value_at]);
    if record.kind == Kind::Noop.number() {
        Ok(FactSummary::Noop)
    } else if record.kind == Kind::Transaction.number() {
        let fact = transaction_fact(segment, offset, record, bytes);
        fact.map(|fact| FactSummary::Transaction(Box::new(fact)))
            .ok_or_else(|| no_such_entry(segment, offset, record, "step of a transaction"))
    } else if record.kind == Kind::Configuration.number() {
        let configuration = codec::decode(&key_part());
        configuration
            .map(|configuration| FactSummary::Configuration(Box::new(configuration)))
            .map_err(|_| no_such_entry(segment, offset, record, "configuration"))
    } else {
        let value = (record.flags & RECORD_PRESENT != 0).then(|| ValuePlace {
            place: Place { segment, offset: offset + value_at as u32, length: record.length - value_at as u32 },
            checksum: record.value_checksum,
        });
        let Some(key) = record.written_key(key_part()).filter(|key| key.size() <= KEY_SIZE_MAX) else {
            let what = format!("entry {} of group {} has no key that an item may have", record.index, record.group);
            return Err(RecoverError::Damaged { segment, offset, what, groups: Some(BTreeSet::from([record.group()])) });
        };
        Ok(FactSummary::Write { key, value })
    }
}

fn no_such_entry(segment: SegmentId, offset: u32, record: &RecordHeader, name: &str) -> RecoverError {
    let what = format!("entry {} of group {} is no {name}", record.index, record.group);
    RecoverError::Damaged { segment, offset, what, groups: Some(BTreeSet::from([record.group()])) }
}

/// A step of a transaction, with the places of its values.
fn transaction_fact(segment: SegmentId, offset: u32, record: &RecordHeader, bytes: &[u8]) -> Option<TransactionFact<ValuePlace>> {
    let value_at = record.value_at();
    let stored: TransactionFact<Stored> = codec::decode(&Bytes::copy_from_slice(&bytes[RECORD_HEADER_SIZE..value_at])).ok()?;
    let first = offset + value_at as u32;
    stored.resolve(record.length as usize - value_at, |at, stored| ValuePlace {
        place: Place { segment, offset: first + at, length: stored.length },
        checksum: stored.checksum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_beyond_reason_that_an_older_program_logged_is_passed_over() {
        let mut replay = Replay::default();
        let mut apply = |kind: Kind, index| {
            let record = RecordHeader { kind: kind.number(), node: 2, index, term: 1, ..RecordHeader::default() };
            replay.apply_record(SegmentId(1), 1024, &record, &[]).map(|()| replay.recovered.peer_marks.get(&NodeId(2)).copied())
        };
        let known = Some(PeerMark { epoch: Epoch(1), durable: Lsn(7) });
        assert_eq!(apply(Kind::PeerMark, 7), Ok(known));
        assert_eq!(apply(Kind::PeerMark, COUNTER_MAX + 1), Ok(known));
        assert!(apply(Kind::HardState, u64::MAX).is_err());
        assert!(apply(Kind::Epoch, COUNTER_MAX).is_err(), "no epoch could follow");
    }
}
