//! A start in spite of damage: of each group what the log still proves.
//!
//! [`recover`](super::recover()) stops at the first damage. Here the walk goes on behind it, where the next whole batch stands. A
//! group of which something is missing is left as it was at that instant; what comes behind does not join on, and is passed over,
//! but for terms and votes. Such a group is *amnesiac* (`src/replica/mod.rs`): its leader sends it what it lacks.
//!
//! - *Which groups a bad batch touches* is said by either of its two directories, if the next whole batch follows it for certain.
//!   Else it may be any, and so it is if the log's end is gone, a segment, or the newest manifest.
//! - *A copy that has rotted* leaves its group without anything.
//! - *Where the log goes on*: at its end, as ever, if that is certain. Else in a new segment, with a number that no file has had:
//!   what stands in the old ones is not overwritten, nor taken for what comes.
//! - *An old copy of the directory* is sound, and too short. Only peers know ([`ring`](crate::ring)). A node that they tell logs how
//!   far they have seen its log: a mark about itself. Whatever stands before it may be missing something, of any group.
//! - *Until a checkpoint* lets the replay begin behind it, the damage is met at each start. So the epoch that has found it says so
//!   in its first record, and where each group stood then ([`Record::Stands`](super::Record::Stands)): from there on the group's
//!   entries join on again. A start that finds less than stood there then, finds new damage.
//! - *Where no segment's header is whole*, a batch is looked for that names the directory bound to this node: the cluster's
//!   formation, or a manifest.
//! - *What the disk cannot read* stops a start, which may be tried again; unless the operator says that it stays so
//!   ([`restore_what_is_left`]). Then nothing says what stood there, nor of the log's end.
//!
//! **Left out on purpose:** a directory of which nothing is left that says which it is.

use super::checkpoint::{Checkpoint, read_copy, read_manifest, read_root};
use super::error::RecoverError;
use super::evidence::{damaged_batch, find_header, has_numbers};
use super::format::{BatchHeader, SEGMENT_HEADER_SIZE, SegmentHeader};
use super::recover::{Files, check_end, find_torn, manifest_in, recover};
use super::replay::Replay;
use super::segments::Segment;
use super::tail::{Tail, check_batch, damaged, has_right_numbers, is_epoch};
use super::window::Window;
use super::{Recovered, RecoveredGroup};
use crate::base::limits::COUNTER_MAX;
use crate::base::{Epoch, GroupId, Index, Lsn, NodeId, Place, SegmentId, Sometimes};
use crate::msg::disk::LogDevice;
use crate::msg::log::{HardState, Root};
use crate::state::State;
use std::collections::BTreeMap;

/// Reads the log of node `me`; past what is bad in it, if it is damaged ([`Recovered::damage`] says where).
///
/// # Errors
/// If the log is another node's, or of a newer format, or the disk cannot read it; or damaged so that nothing in it says which
/// directory it is.
pub fn restore(device: &mut dyn LogDevice, me: NodeId) -> Result<Recovered, RecoverError> {
    match recover(device, me) {
        Err(first @ RecoverError::Damaged { .. }) => salvage(device, me, first, true),
        other => other,
    }
}

/// Reads the log of node `me`, of which the disk cannot read some, which reads as zeros: of any group anything may be missing.
///
/// # Errors
/// As of [`restore`].
pub fn restore_what_is_left(device: &mut dyn LogDevice, me: NodeId) -> Result<Recovered, RecoverError> {
    match recover(device, me) {
        Ok(nothing @ Recovered { directory: None, .. }) => Ok(nothing),
        Err(first @ RecoverError::Damaged { .. }) => salvage(device, me, first, false),
        Err(other) => Err(other),
        Ok(found) => {
            let what = "the disk cannot read some of the log".to_string();
            salvage(device, me, damaged(found.start, 0, what), false)
        }
    }
}

/// How many records and batches, and epochs, may have been in what is missing of a log's end, at most. Peers have heard of them:
/// what comes gets later numbers.
const SKIPPED: u64 = 1 << 40;
const EPOCHS_SKIPPED: u64 = 1 << 16;

/// The files behind the last valid header in which no batch of this log stands.
fn spare_files(device: &mut dyn LogDevice, files: &Files, nonce: u64) -> Result<Vec<SegmentId>, RecoverError> {
    let mut spare = Vec::new();
    for (id, size) in files.behind_last() {
        if find_header(&mut Window::new(device, id, size), 0, |header| header.nonce == nonce)?.is_none() {
            spare.push(id);
        }
    }
    Ok(spare)
}

/// A group's copy, and where its root is.
struct Copied {
    place: Place,
    /// What was committed when the manifest was logged. Leaves may hold all of that.
    commit: Index,
    root: Root,
    state: State,
}

/// `is_read`: all that the files hold was read.
fn salvage(device: &mut dyn LogDevice, me: NodeId, first: RecoverError, is_read: bool) -> Result<Recovered, RecoverError> {
    let mut files = Files::read(device, me)?;
    files.find_directory(device)?;
    let Some(nonce) = files.nonce() else { return Err(first) };
    let mut replay = Replay::past_damage();
    let mut copies = BTreeMap::new();
    if let Some(place) = newest_manifest(device, &files, nonce)? {
        Sometimes::SalvageWithManifest.reached();
        match read_manifest(device, nonce, place) {
            Ok(manifest) => {
                files.leave_out(&manifest);
                let mut checkpoint = Checkpoint { manifest, place, roots: BTreeMap::new() };
                copies = read_copies(device, nonce, &files, &mut checkpoint, &mut replay)?;
                replay.tail.manifest = Some(place);
                replay.begin_with(&checkpoint);
            }
            Err(error) => {
                Sometimes::ManifestRotten.reached();
                replay.lose(error)?;
            }
        }
    }
    files.prepare(&mut replay);
    let has_end = Walk { device, nonce, replay: &mut replay }.all(&files)?;
    let outdated = replay.outdated;
    let is_sure = has_end && outdated.is_none() && is_read;
    if !is_sure {
        Sometimes::LogGoesOnInNewSegment.reached();
        // Whatever was said of groups within that segment: what stood behind it may be missing of any.
        replay.lose_all();
        let seen = outdated.map_or(Lsn::ZERO, |mark| mark.durable);
        replay.tail.go_on_in_new_segment(&spare_files(device, &files, nonce)?, seen);
    }
    let mut recovered = replay.finish();
    recovered.epoch = recovered.epoch.max(outdated.map_or(Epoch::ZERO, |mark| mark.epoch));
    // Epochs of which nothing is left may have been skipped before, as positions have.
    let times = recovered.tail.next_lsn.0 / SKIPPED;
    let later = Epoch(recovered.epoch.0.saturating_add(times.saturating_mul(EPOCHS_SKIPPED << Epoch::NONCE_BITS)));
    if !is_sure && recovered.forgot && is_epoch(later) {
        recovered.epoch = later;
    }
    for (id, Copied { place, commit, root, state }) in copies {
        let group = recovered.groups.entry(id).or_default();
        if group.pieces_from.is_some() || group.is_blank {
            continue;
        }
        if group.state.commit < commit {
            // The copy is ahead of the entries that are left, and nothing says of which term its last one was, nor which leaves
            // are how far ahead.
            Sometimes::CopyAheadOfLog.reached();
            group.forget();
            group.amnesiac = true;
            recovered.forgot = true;
            continue;
        }
        group.copy = Some(state);
        group.root = Some((place, root.segments()));
        group.configuration = root.configuration;
    }
    Sometimes::LogSalvaged.reached();
    Ok(recovered)
}

/// Reads the groups' copies. A group whose copy is not whole, or has values in a segment that is gone, is lost, and has nothing.
fn read_copies(
    device: &mut dyn LogDevice,
    nonce: u64,
    files: &Files,
    checkpoint: &mut Checkpoint,
    replay: &mut Replay,
) -> Result<BTreeMap<GroupId, Copied>, RecoverError> {
    let mut copies = BTreeMap::new();
    for rooted in &checkpoint.manifest.groups {
        let Some(place) = rooted.root else { continue };
        let read = read_root(device, nonce, place, rooted).and_then(|root| {
            let state = read_copy(device, nonce, rooted.group, place, &root)?;
            files.hold_values_of(rooted.group, &state)?;
            Ok((root, state))
        });
        match read {
            Ok((root, state)) => {
                checkpoint.roots.insert(rooted.group, (place, root.clone()));
                copies.insert(rooted.group, Copied { place, commit: rooted.commit, root, state });
            }
            Err(error) => {
                Sometimes::GroupWithoutCopy.reached();
                replay.lose(error)?;
            }
        }
    }
    Ok(copies)
}

/// Where the newest manifest is: in the last segment with a valid header, behind bad batches too, or in a file behind it; or where
/// that header says.
fn newest_manifest(device: &mut dyn LogDevice, files: &Files, nonce: u64) -> Result<Option<Place>, RecoverError> {
    let mut newest = None;
    let mut tail = Tail::default();
    if let Some((last, header)) = files.last() {
        newest = header.manifest;
        tail.go_on_with(last, header);
        find_manifests(device, files, nonce, &mut tail, &mut newest)?;
    }
    if files.any_seals(device, nonce, tail.next_sequence)? {
        for (segment, size) in files.behind_last() {
            tail.go_on_without_header(segment, size);
            find_manifests(device, files, nonce, &mut tail, &mut newest)?;
        }
    }
    Ok(newest)
}

/// Looks through one segment, from the tail on, for manifests.
fn find_manifests(
    device: &mut dyn LogDevice,
    files: &Files,
    nonce: u64,
    tail: &mut Tail,
    newest: &mut Option<Place>,
) -> Result<(), RecoverError> {
    let Some(Segment { id: segment, size, .. }) = tail.segment else { return Ok(()) };
    let mut window = Window::new(device, segment, u64::from(size).min(files.size_of(segment)));
    loop {
        match check_batch(&mut window, nonce, tail, size)? {
            Ok(batch) => {
                *newest = manifest_in(&window, &batch).or(*newest);
                tail.pass(&batch);
            }
            Err(_) => match next_batch(&mut window, nonce, tail, size)? {
                Some((offset, header)) => tail.go_on_at(offset, &header),
                None => return Ok(()),
            },
        }
    }
}

/// Where no batch joins on to the tail: the next header of a batch that says that the one missing here was durable. What an
/// earlier epoch left behind a cut never says so, nor what nothing says to be durable itself.
fn next_batch(window: &mut Window<'_>, nonce: u64, tail: &Tail, limit: u32) -> Result<Option<(u32, BatchHeader)>, RecoverError> {
    let found = find_header(window, tail.end, |header| {
        header.nonce == nonce && header.epoch >= tail.epoch && has_numbers(header) && header.seals() >= tail.next_sequence
    })?;
    Ok(found.filter(|(offset, _)| *offset < limit))
}

struct Walk<'a> {
    device: &'a mut dyn LogDevice,
    nonce: u64,
    replay: &'a mut Replay,
}

impl Walk<'_> {
    /// Replays all segments from the start on. Whether the log's end is where it was: nothing durable is missing behind it.
    fn all(&mut self, files: &Files) -> Result<bool, RecoverError> {
        let start = self.replay.start.max(SegmentId(1));
        let log: Vec<_> = files.from(start).collect();
        if log.is_empty() {
            self.lose_all(start, 0, "the segment is missing that a replay begins with")?;
        }
        let mut expected = start;
        for (at, (id, size, header)) in log.iter().enumerate() {
            if *id != expected {
                Sometimes::SegmentGone.reached();
                let what = format!("the segment is missing, and segment {id} is there");
                self.lose_all(expected, 0, what)?;
            }
            expected = SegmentId(id.0.saturating_add(1));
            let next = log.get(at + 1).filter(|(next, ..)| *next == expected).and_then(|(.., header)| *header);
            let is_last = at + 1 == log.len();
            self.enter(*id, *size, *header)?;
            let is_sure = self.segment(*id, *size, *header, next, is_last)?;
            let sequence = self.replay.tail.next_sequence;
            if is_last && !files.any_seals(self.device, self.nonce, sequence)? {
                return Ok(is_sure);
            }
        }
        // Files behind the last valid header, of which one has a batch that was durable.
        for (id, size) in files.behind_last() {
            self.enter(id, size, None)?;
            self.segment(id, size, None, None, false)?;
        }
        Ok(false)
    }

    fn lose_all(&mut self, segment: SegmentId, offset: u32, what: impl Into<String>) -> Result<(), RecoverError> {
        self.replay.lose(RecoverError::Damaged { segment, offset, what: what.into(), groups: None })
    }

    /// Begins with a segment: at its first batch, whatever stood before.
    fn enter(&mut self, id: SegmentId, size: u64, header: Option<&SegmentHeader>) -> Result<(), RecoverError> {
        self.replay.unsealed.clear();
        match header.filter(|header| has_right_numbers(header) && is_epoch(header.epoch)) {
            Some(header) => {
                if let Err(error) = self.replay.enter(id, header) {
                    self.replay.lose(error)?;
                }
                self.replay.tail.go_on_with(id, header);
                if size < u64::from(header.size) {
                    let what = format!("the file has {size} bytes of the {} that its header says", header.size);
                    self.lose_all(id, u32::try_from(size).unwrap_or(u32::MAX), what)?;
                }
            }
            None => {
                Sometimes::SegmentWithoutHeaderWalked.reached();
                self.lose_all(id, 0, "the segment's header is bad")?;
                self.replay.tail.go_on_without_header(id, size);
            }
        }
        Ok(())
    }

    /// Replays one segment. `next`: the header of the segment behind it. Whether the walk has ended where the log does.
    fn segment(
        &mut self,
        id: SegmentId,
        size: u64,
        header: Option<&SegmentHeader>,
        next: Option<&SegmentHeader>,
        is_last: bool,
    ) -> Result<bool, RecoverError> {
        let nonce = self.nonce;
        let replay = &mut *self.replay;
        let held = replay.tail.limit();
        let limit = next.map_or(held, |next| next.previous_length.min(held));
        let mut window = Window::new(self.device, id, u64::from(held).min(size));
        loop {
            if let Some(next) = next.filter(|_| replay.tail.end == limit) {
                if let Err(error) = check_end(&mut window, &replay.tail, id, next) {
                    replay.lose(error)?;
                }
                return Ok(true);
            }
            let why = match check_batch(&mut window, nonce, &replay.tail, limit)? {
                Ok(batch) => {
                    replay.apply(id, &batch, window.held(batch.offset, batch.header.length))?;
                    continue;
                }
                Err(why) => why,
            };
            let end = replay.tail.end;
            let later = next_batch(&mut window, nonce, &replay.tail, limit)?;
            if is_last && later.is_none() {
                if let Some(what) = replay.tail.unwitnessed(&why) {
                    Sometimes::LogsEndMissing.reached();
                    replay.lose(RecoverError::Damaged { segment: id, offset: end, what, groups: None })?;
                    return Ok(false);
                }
                // A torn tail, or none.
                replay.torn = find_torn(&mut window, &replay.tail)?;
                drop(window);
                return match header.filter(|header| size >= u64::from(header.size)) {
                    Some(header) => replay.keep_unsealed(self.device, id, header).map(|()| true),
                    None => Ok(false),
                };
            }
            let groups = match (&later, next) {
                (Some((until, later)), _) => {
                    damaged_batch(&mut window, &replay.tail, nonce, *until, (later.sequence, later.previous, later.epoch))?
                }
                (None, Some(next)) => {
                    let behind = (next.first_sequence, next.previous_chain, next.epoch);
                    damaged_batch(&mut window, &replay.tail, nonce, next.previous_length, behind)?
                }
                (None, None) => None,
            };
            Sometimes::DamageOfSomeGroups.when(groups.is_some());
            Sometimes::DamageOfAnyGroup.when(groups.is_none());
            replay.lose(RecoverError::Damaged { segment: id, offset: end, what: why, groups })?;
            match later {
                Some((offset, header)) => replay.tail.go_on_at(offset, &header),
                None => return Ok(false),
            }
        }
    }
}

impl Tail {
    /// Bytes of the segment that it is in.
    fn limit(&self) -> u32 {
        self.segment.map_or(0, |segment| segment.size)
    }

    fn go_on_with(&mut self, id: SegmentId, header: &SegmentHeader) {
        self.begin_segment(id, header);
        (self.next_sequence, self.next_lsn) = (header.first_sequence, header.first_lsn);
    }

    fn go_on_without_header(&mut self, id: SegmentId, size: u64) {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.segment = Some(Segment { id, size, is_recycled: true });
        self.end = SEGMENT_HEADER_SIZE;
        self.chain = 0;
    }

    /// Goes on with a batch that does not join on to what was read.
    pub(super) fn go_on_at(&mut self, offset: u32, header: &BatchHeader) {
        self.end = offset;
        self.chain = header.previous;
        self.next_sequence = header.sequence;
        self.next_lsn = header.first_lsn;
        self.epoch = header.epoch;
    }

    /// The end of the log is not certain: nothing is written to a file that is there. `spare`: files in which nothing of the log is.
    /// `seen`: how far peers have seen it.
    fn go_on_in_new_segment(&mut self, spare: &[SegmentId], seen: Lsn) {
        let end = self.witness.end().filter(|end| end.sequence.max(end.lsn.0) <= COUNTER_MAX);
        let numbers = self.sizes.keys().chain(self.leftover.keys()).copied();
        let last = numbers.chain(end.map(|end| end.segment)).max().unwrap_or(SegmentId(1));
        self.leftover.extend(self.sizes.extract_if(.., |id, _| spare.contains(id)));
        let size = self.sizes.get(&last).copied().unwrap_or_default();
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.segment = Some(Segment { id: last, size, is_recycled: true });
        self.end = size;
        self.unsealed = None;
        let (sequence, lsn) = end.map_or((0, Lsn::ZERO), |end| (end.sequence, end.lsn));
        let lsn = lsn.max(seen);
        let skip =
            |number: u64, witnessed: u64| number.max(witnessed + 1).saturating_add(SKIPPED).min(COUNTER_MAX / 2).max(number);
        self.next_sequence = skip(self.next_sequence, sequence);
        self.next_lsn = Lsn(skip(self.next_lsn.0, lsn.0));
    }
}

impl RecoveredGroup {
    /// Nothing is left but the term and the vote.
    pub(super) fn forget(&mut self) {
        let (state, amnesiac) = (HardState { commit: Index::ZERO, ..self.state }, self.amnesiac);
        *self = RecoveredGroup { state, amnesiac, is_blank: true, ..RecoveredGroup::default() };
    }
}
