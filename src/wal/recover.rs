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

use super::Recovered;
use super::checkpoint::{Checkpoint, read_manifest};
use super::error::RecoverError;
use super::evidence::{find_directory, find_header, groups_between, last_byte};
use super::format::{
    BATCH_HEADER_SIZE, BATCH_MAGIC, BatchHeader, FORMAT_VERSION, Kind, SEGMENT_HEADER_SIZE, SegmentHeader, directory_nonce,
};
use super::replay::Replay;
use super::tail::{Checked, Tail, Torn, check_batch, damaged};
use super::window::Window;
use super::witness::{self, WITNESS};
use crate::base::{DirectoryId, GroupId, NodeId, Place, SegmentId, Sometimes};
use crate::msg::disk::LogDevice;
use crate::msg::log::Manifest;
use crate::state::State;
use std::collections::{BTreeMap, BTreeSet};

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
        group.copy.as_ref().map_or(Ok(()), |copy| files.hold_values_of(*id, copy))?;
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
        let found = manifest_in(&window, &batch);
        Sometimes::ManifestInLastSegment.when(found.is_some());
        newest = found.or(newest);
        tail.pass(&batch);
    }
    Ok(newest)
}

/// Where the last manifest is in a batch that was just checked.
pub(super) fn manifest_in(window: &Window<'_>, batch: &Checked) -> Option<Place> {
    let records = batch.records(window.held(batch.offset, batch.header.length));
    let manifests = records.filter(|(_, record, _)| record.kind == Kind::Manifest.number());
    manifests.last().map(|(offset, record, _)| Place { segment: window.segment(), offset, length: record.length })
}

/// Reads all of the log of node `me`, as if there was no checkpoint.
pub fn recover_from_start(device: &mut dyn LogDevice, me: NodeId) -> Result<Recovered, RecoverError> {
    let mut files = Files::read(device, me)?;
    files.need(None)?;
    files.replay(device, None)
}

/// The log's files.
#[derive(Debug)]
pub(super) struct Files {
    /// The node whose log it is.
    me: NodeId,
    /// Whose, and which, by the headers; or by what the log says ([`Files::find_directory`]).
    directory: Option<DirectoryId>,
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
    pub(super) fn read(device: &mut dyn LogDevice, me: NodeId) -> Result<Files, RecoverError> {
        device.sync()?;
        let mut all = device.list()?;
        all.sort_unstable();
        let sizes: Vec<(SegmentId, u64)> = all.iter().copied().filter(|(id, _)| *id != WITNESS).collect();
        let (segments, mut bad) = read_headers(device, me, &sizes)?;
        let last = segments.last().map(|found| found.file.id);
        let empty = bad.split_off(bad.partition_point(|file| Some(file.id) < last));
        let directory = segments.first().map(|found| found.header.directory);
        let nonce = directory.map(directory_nonce);
        let witness = witness::Found::read(device, &all, nonce)?;
        let (sizes, leftover) = (sizes.into_iter().collect(), BTreeMap::new());
        Ok(Files { me, directory, sizes, segments, bad, empty, leftover, witness })
    }

    /// [`directory_nonce`].
    pub(super) fn nonce(&self) -> Option<u64> {
        self.directory.map(directory_nonce)
    }

    /// Finds out which directory it is, where no header says so: by a whole batch that names the one that is bound to the node.
    pub(super) fn find_directory(&mut self, device: &mut dyn LogDevice) -> Result<(), RecoverError> {
        for (id, size) in &self.sizes {
            if self.directory.is_some() {
                break;
            }
            self.directory = find_directory(&mut Window::new(device, *id, *size), self.me)?;
        }
        Ok(())
    }

    /// The last segment with a valid header.
    pub(super) fn last(&self) -> Option<(SegmentId, &SegmentHeader)> {
        self.segments.last().map(|found| (found.file.id, &found.header))
    }

    /// The files behind it, with their sizes.
    pub(super) fn behind_last(&self) -> impl Iterator<Item = (SegmentId, u64)> + '_ {
        self.empty.iter().map(|file| (file.id, file.size))
    }

    /// Whether one of them has a batch that says that batch `sequence` was durable.
    pub(super) fn any_seals(&self, device: &mut dyn LogDevice, nonce: u64, sequence: u64) -> Result<bool, RecoverError> {
        Ok(find_seal(device, &self.empty, Some(nonce), sequence)?.is_some())
    }

    pub(super) fn size_of(&self, segment: SegmentId) -> u64 {
        self.sizes.get(&segment).copied().unwrap_or_default()
    }

    /// The segments from this one to the last, with their files' sizes, and their headers, if these are valid.
    pub(super) fn from(&self, start: SegmentId) -> impl Iterator<Item = (SegmentId, u64, Option<&SegmentHeader>)> + '_ {
        let last = self.last().map_or(SegmentId::ZERO, |(last, _)| last);
        let header = |id| self.segments.iter().find(|found| found.file.id == id).map(|found| &found.header);
        self.sizes.range(start..).take_while(move |(id, _)| **id <= last).map(move |(id, size)| (*id, *size, header(*id)))
    }

    /// Leaves out what the manifest does not name.
    pub(super) fn leave_out(&mut self, manifest: &Manifest) {
        let Manifest { start, kept: Some(kept), .. } = manifest else { return };
        let is_kept = |id: SegmentId| id >= *start || kept.contains(&id);
        self.leftover = self.sizes.extract_if(.., |id, _| !is_kept(*id)).collect();
        self.segments.retain(|found| is_kept(found.file.id));
    }

    /// Tells a replay of the files.
    pub(super) fn prepare(&self, replay: &mut Replay) {
        replay.me = self.me;
        let tail = &mut replay.tail;
        tail.sizes.clone_from(&self.sizes);
        tail.directory = self.directory;
        tail.witness = self.witness;
        tail.leftover.clone_from(&self.leftover);
    }

    /// Whether all segments are there that hold values of the group's copy.
    pub(super) fn hold_values_of(&self, group: GroupId, copy: &State) -> Result<(), RecoverError> {
        let Some((segment, _)) = copy.items().live().segments().find(|(id, _)| !self.sizes.contains_key(id)) else {
            return Ok(());
        };
        let what = "the segment is missing, and values are in it".to_string();
        Err(RecoverError::Damaged { segment, offset: 0, what, groups: Some(BTreeSet::from([group])) })
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
                if id < start && self.sizes.contains_key(&id) {
                    // Values in it are read by their places, and its header says nothing of them.
                    Sometimes::KeptSegmentWithoutHeader.reached();
                    there.insert(id);
                    continue;
                }
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
        self.prepare(&mut replay);
        replay.tail.manifest = checkpoint.map(|checkpoint| checkpoint.place);
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
    replay.enter(id, header)?;
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
    match find_seal(device, empty, nonce, sequence)? {
        Some((id, at)) => {
            let what = format!("{why}, and a batch in segment {id} at byte {at} says that there was one");
            Err(damaged(segment, offset, what))
        }
        None => Ok(()),
    }
}

/// Where a batch in these files says that batch `sequence` was durable.
fn find_seal(
    device: &mut dyn LogDevice,
    files: &[File],
    nonce: Option<u64>,
    sequence: u64,
) -> Result<Option<(SegmentId, u32)>, RecoverError> {
    for file in files {
        let mut window = Window::new(device, file.id, file.size);
        let seals = |later: &BatchHeader| nonce.is_none_or(|nonce| nonce == later.nonce) && later.seals() >= sequence;
        if let Some((at, _)) = find_header(&mut window, 0, seals)? {
            return Ok(Some((file.id, at)));
        }
    }
    Ok(None)
}
