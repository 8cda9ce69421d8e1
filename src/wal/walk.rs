//! All of a log, for who looks at it: from its first segment to its end, past whatever is bad in it.
//!
//! Recovery ([`recover`](super::recover())) stops at the first damage, and begins with the last checkpoint. A walk judges with the
//! same functions, tells what is bad, and goes on: behind a bad batch where the next whole batch header stands, behind a segment
//! that cannot be read with the next segment. It syncs nothing and keeps no record, so that its memory does not grow with the log.
//!
//! - [`walk`] gives every whole batch's records, and what is bad, in the order of the log.
//! - [`verify`] reads the last checkpoint as well, as a boot does, one group at a time.
//!
//! Where nothing is bad, a boot from all of the log finds nothing bad either, and ends where the walk has ended.
//!
//! **Left out on purpose:** bytes that the disk cannot read end the walk of their segment, not that of the log.

use super::checkpoint::{manifest_of, read_copy, read_manifest, read_root, root_of};
use super::error::{Bad, RecoverError};
use super::evidence::{find_header, groups_between};
use super::format::{
    BatchHeader, Copied, FORMAT_VERSION, Kind, RECORD_LAST, RECORD_PRESENT, RecordHeader, SEGMENT_HEADER_SIZE, SegmentHeader,
    directory_nonce,
};
use super::recover::{check_end, check_torn, find_torn, newest_manifest};
use super::replay::{fact_of, formation_of, is_within_reason, mark_of, old_copy, piece_of};
use super::sweep::moved_of;
use super::tail::{Checked, Tail, Torn, check_batch, is_epoch};
use super::window::Window;
use super::witness::{self, WITNESS};
use crate::base::limits::{COUNTER_MAX, PARTITIONS_MAX};
use crate::base::{DirectoryId, Epoch, GroupId, Index, Key, Lsn, NodeId, Place, SegmentId, Term};
use crate::msg::cluster::{Formation, PeerMark};
use crate::msg::disk::{DiskError, LogDevice};
use crate::msg::log::{FactSummary, HardState, LogBase, Manifest, Root};
use crate::msg::transaction::Stored;
use crate::state::{Part, State};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What a walk meets.
#[derive(Debug)]
pub enum Met {
    /// A record of a batch of which every byte was checked.
    Record(Seen),
    Bad(Bad),
}

/// A whole record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub lsn: Lsn,
    /// Header included.
    pub place: Place,
    /// Of its batch.
    pub epoch: Epoch,
    pub content: Content,
}

/// What a record says. As [`Record`](super::Record), but for values, of which only their places are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Epoch(Epoch),
    Formation(Formation),
    PeerMark(NodeId, PeerMark),
    HardState(GroupId, HardState),
    /// `commit`: the group's commit index, as known when it was appended.
    Entry {
        group: GroupId,
        index: Index,
        term: Term,
        commit: Index,
        fact: FactSummary,
    },
    Clean,
    CaughtUp,
    /// Where the group's log ended when an epoch began that has forgotten something; or when the group was made whole.
    Stands {
        group: GroupId,
        last: LogBase,
        whole: bool,
        is_last: bool,
    },
    /// `items`: deleted ones too.
    Leaf {
        group: GroupId,
        fence: Bytes,
        items: usize,
    },
    Parts(GroupId),
    Root(GroupId, Root),
    Manifest(Manifest),
    /// Values that were moved, of items with these keys.
    Moved {
        group: GroupId,
        keys: Vec<Key>,
    },
    /// A piece of a state that came from the group's leader.
    Piece {
        group: GroupId,
        base: LogBase,
        /// Names the snapshot.
        snapshot: u64,
        number: u64,
        /// How many.
        parts: usize,
        is_last: bool,
    },
}

impl Content {
    /// The group that it is about; `None`: the node.
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Content::HardState(group, _)
            | Content::Entry { group, .. }
            | Content::Piece { group, .. }
            | Content::Moved { group, .. }
            | Content::Stands { group, .. }
            | Content::Leaf { group, .. }
            | Content::Parts(group)
            | Content::Root(group, _) => Some(*group),
            Content::Epoch(_)
            | Content::Formation(_)
            | Content::PeerMark(..)
            | Content::Clean
            | Content::CaughtUp
            | Content::Manifest(_) => None,
        }
    }
}

/// What a walk has found, all in all.
#[derive(Debug, Default)]
pub struct Walked {
    /// The node that wrote the log, and its directory; `None`: no segment's header says.
    pub node: Option<NodeId>,
    pub directory: Option<DirectoryId>,
    /// That were written to.
    pub segments: u32,
    /// Of whole batches.
    pub bytes: u64,
    pub records: u64,
    /// That a whole batch is of.
    pub epochs: u64,
    /// With a record in a whole batch.
    pub groups: BTreeSet<GroupId>,
    /// The last record before the end; zero: there is none.
    pub last: Lsn,
    /// What stands at the log's end and is no whole batch, and was not durable.
    pub torn: Option<Torn>,
    /// How often something was bad.
    pub bad: u64,
    /// The newest manifest.
    pub manifest: Option<Place>,
}

/// The last checkpoint, as [`verify`] has read it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointSeen {
    /// The segment that a start replays from.
    pub start: SegmentId,
    /// Groups with a whole copy.
    pub groups: usize,
}

/// Walks all of the log, and gives `visit` what it meets, in order.
///
/// # Errors
/// Those of `visit`; and the disk's, if the files cannot even be listed. All else is [`Met::Bad`].
pub fn walk<E: From<DiskError>>(device: &mut dyn LogDevice, visit: &mut dyn FnMut(Met) -> Result<(), E>) -> Result<Walked, E> {
    let mut walk =
        Walk { visit, tail: Tail::default(), nonce: None, entries: BTreeMap::new(), all_read: true, walked: Walked::default() };
    walk.all(device)?;
    walk.walked.last = Lsn(walk.tail.next_lsn.0 - 1);
    Ok(walk.walked)
}

/// As [`walk`], and reads the last checkpoint as a boot does. `None`: there is none that can be read, or none yet, and a boot
/// would replay the log from its first segment.
///
/// # Errors
/// As of [`walk`].
pub fn verify<E: From<DiskError>>(
    device: &mut dyn LogDevice,
    visit: &mut dyn FnMut(Met) -> Result<(), E>,
) -> Result<(Walked, Option<CheckpointSeen>), E> {
    let mut walked = walk(device, visit)?;
    let (Some(place), Some(directory)) = (walked.manifest, walked.directory) else { return Ok((walked, None)) };
    let nonce = directory_nonce(directory);
    let mut bad = |error| {
        walked.bad += 1;
        visit(Met::Bad(Bad::of(error, place.segment, place.offset)))
    };
    let manifest = match read_manifest(device, nonce, place) {
        Ok(manifest) => manifest,
        Err(error) => {
            bad(error)?;
            return Ok((walked, None));
        }
    };
    let mut seen = CheckpointSeen { start: manifest.start, groups: 0 };
    for rooted in &manifest.groups {
        let Some(root_place) = rooted.root else { continue };
        let root = read_root(device, nonce, root_place, rooted);
        match root.and_then(|root| read_copy(device, nonce, rooted.group, root_place, &root)) {
            Ok(_) => seen.groups += 1,
            Err(error) => bad(error)?,
        }
    }
    if device.list()?.iter().all(|(id, _)| *id != manifest.start) {
        let what = "the segment is missing that a replay begins with".to_string();
        bad(RecoverError::Damaged { segment: manifest.start, offset: 0, what, groups: None })?;
    }
    Ok((walked, Some(seen)))
}

/// A segment's file, and its header if that is whole.
struct SegmentFile {
    id: SegmentId,
    size: u64,
    header: Option<SegmentHeader>,
}

/// How the walk of a segment ended.
#[derive(PartialEq, Eq)]
enum Ended {
    /// Where the next segment's header says.
    Sealed,
    /// Where the log may have ended.
    Open,
    /// Behind something bad, with no batch that it could go on with.
    Lost,
}

struct Walk<'v, E> {
    visit: &'v mut dyn FnMut(Met) -> Result<(), E>,
    /// Behind the last whole batch. Without a segment: nothing is known of what should come.
    tail: Tail,
    /// [`directory_nonce`]; `None` until anything says it.
    nonce: Option<u64>,
    /// The last entry of each group.
    entries: BTreeMap<GroupId, Index>,
    /// No batch was left out so far: a group without an entry has none.
    all_read: bool,
    walked: Walked,
}

impl<E: From<DiskError>> Walk<'_, E> {
    fn bad(&mut self, bad: Bad) -> Result<(), E> {
        self.walked.bad += 1;
        (self.visit)(Met::Bad(bad))
    }

    fn all(&mut self, device: &mut dyn LogDevice) -> Result<(), E> {
        let mut listed = device.list()?;
        listed.sort_unstable();
        let files = self.read_headers(device, &listed)?;
        match witness::Found::read(device, &listed, self.nonce) {
            Ok(witness) => self.tail.witness = witness,
            Err(error) => self.bad(Bad::new(WITNESS, 0, error.to_string()))?,
        }
        let written = files.iter().rposition(|file| file.header.is_some()).map_or(0, |last| last + 1);
        let manifest = files[..written].last().and_then(|last| self.newest_manifest(device, last));
        let kept = manifest.and_then(|manifest| Some((manifest.kept?, manifest.start)));
        let is_needed = |id: SegmentId| kept.as_ref().is_none_or(|(kept, start)| id >= *start || kept.contains(&id));
        // What was freed, and is still there, is no part of the log.
        let mut log = files;
        let spare = log.split_off(written);
        log.retain(|file| is_needed(file.id));
        let written = log.len();
        let mut expected = SegmentId(1);
        for (at, file) in log.iter().enumerate() {
            if let Some(missing) = (expected.0..file.id.0).map(SegmentId).find(|id| is_needed(*id)) {
                self.bad(Bad::new(missing, 0, format!("the segment is missing, and segment {} is there", file.id)))?;
            }
            if file.id != expected {
                self.lose();
            }
            expected = SegmentId(file.id.0.saturating_add(1));
            let next = log.get(at + 1).filter(|next| next.id == expected).and_then(|next| next.header.as_ref());
            if file.header.is_none() {
                self.bad(Bad::new(
                    file.id,
                    0,
                    format!("the segment's header is bad, and segment {} follows it", log[written - 1].id),
                ))?;
            }
            self.segment(device, file, next, at + 1 == written)?;
        }
        if written == 0
            && let Some(what) = self.tail.unwitnessed("no segment has a valid header")
        {
            self.bad(Bad::new(SegmentId(1), 0, what))?;
        }
        spare.iter().try_for_each(|file| self.spare(device, file))
    }

    /// The newest manifest, if it can be read. What is wrong with it is told by whoever reads all that it names.
    fn newest_manifest(&mut self, device: &mut dyn LogDevice, last: &SegmentFile) -> Option<Manifest> {
        let header = last.header.as_ref()?;
        let place = newest_manifest(device, last.id, last.size, header).ok().flatten()?;
        self.walked.manifest = Some(place);
        read_manifest(device, directory_nonce(header.directory), place).ok()
    }

    /// Reads every segment's header, and what they say of the log.
    fn read_headers(&mut self, device: &mut dyn LogDevice, listed: &[(SegmentId, u64)]) -> Result<Vec<SegmentFile>, E> {
        let mut files = Vec::new();
        for &(id, size) in listed.iter().filter(|(id, _)| *id != WITNESS) {
            let header = match device.read(id, 0, SEGMENT_HEADER_SIZE as usize) {
                Ok(bytes) => SegmentHeader::decode(id, &bytes),
                Err(error) => {
                    self.bad(Bad::new(id, 0, error.to_string()))?;
                    None
                }
            };
            if let Some(header) = header.filter(|header| header.version > FORMAT_VERSION) {
                let found = format!("version {}", header.version);
                self.bad(Bad::of(RecoverError::NewerFormat { segment: id, offset: 0, found }, id, 0))?;
            }
            // Others are blocks of a directory that was here before.
            let ours = |header: &SegmentHeader| self.walked.directory.is_none_or(|directory| directory == header.directory);
            let header = header.filter(|header| header.version <= FORMAT_VERSION && ours(header));
            if let Some(header) = &header {
                self.walked.directory = Some(header.directory);
                self.nonce = Some(directory_nonce(header.directory));
                self.walked.manifest = header.manifest;
                let node = *self.walked.node.get_or_insert(header.node);
                if node != header.node {
                    let error = RecoverError::WrongNode { segment: id, found: header.node, expected: node };
                    self.bad(Bad::of(error, id, 0))?;
                }
            }
            files.push(SegmentFile { id, size, header });
        }
        Ok(files)
    }

    /// Nothing is known any more of what should come.
    fn lose(&mut self) {
        self.tail.segment = None;
        self.entries.clear();
        self.all_read = false;
    }

    /// A file behind the last valid header: made ahead of time, or with a torn header; unless a batch in it says otherwise.
    fn spare(&mut self, device: &mut dyn LogDevice, file: &SegmentFile) -> Result<(), E> {
        let (nonce, sequence) = (self.nonce, self.tail.next_sequence);
        let mut window = Window::new(device, file.id, file.size);
        let seals = |later: &BatchHeader| nonce.is_none_or(|nonce| nonce == later.nonce) && later.seals() >= sequence;
        match find_header(&mut window, 0, seals) {
            Ok(Some((offset, header))) => {
                let what = format!("the segment's header is bad, and a batch at byte {offset} says that there was one");
                self.bad(Bad::new(file.id, 0, what))?;
                (self.nonce, self.walked.torn) = (Some(header.nonce), None);
                self.segment(device, file, None, true)
            }
            Ok(None) if self.walked.torn.is_none() => match find_torn(&mut window, &Tail::default()) {
                Ok(torn) => {
                    self.walked.torn = torn;
                    Ok(())
                }
                Err(error) => self.bad(Bad::of(error, file.id, 0)),
            },
            Ok(None) => Ok(()),
            Err(error) => self.bad(Bad::new(file.id, 0, error.to_string())),
        }
    }

    /// Walks a segment. `next` is the header of the one behind it, which names its end, if it is whole.
    fn segment(
        &mut self,
        device: &mut dyn LogDevice,
        file: &SegmentFile,
        next: Option<&SegmentHeader>,
        is_last: bool,
    ) -> Result<(), E> {
        self.walked.segments += 1;
        let size = file.header.as_ref().map_or(file.size, |header| file.size.min(u64::from(header.size)));
        let size = size.min(u64::from(u32::MAX));
        let mut window = Window::new(device, file.id, size);
        let limit = next.map_or(size as u32, |next| next.previous_length.min(size as u32));
        let began = match &file.header {
            Some(header) => self.enter(file, header)?,
            None => self.enter_headless(&mut window, limit)?,
        };
        if !began || self.batches(&mut window, next, limit, is_last)? == Ended::Lost {
            self.lose();
        }
        Ok(())
    }

    /// Begins with a segment. `false`: its header is of no use.
    fn enter(&mut self, file: &SegmentFile, header: &SegmentHeader) -> Result<bool, E> {
        if file.size < u64::from(header.size) {
            let what = format!("the file has {} bytes of the {} that its header says", file.size, header.size);
            self.bad(Bad::new(file.id, u32::try_from(file.size).unwrap_or(0), what))?;
        }
        let start = if self.all_read { SegmentId::ZERO } else { file.id };
        if let Err(error) = self.tail.enter(start, file.id, header) {
            self.bad(Bad::of(error, file.id, 0))?;
            self.lose();
            return Ok(self.tail.enter(file.id, file.id, header).is_ok());
        }
        Ok(true)
    }

    /// Begins with a segment whose header is bad: with the first batch header in it. `false`: there is none.
    fn enter_headless(&mut self, window: &mut Window<'_>, limit: u32) -> Result<bool, E> {
        let (known, sequence) = (self.tail.segment, self.tail.next_sequence);
        let end = self.tail.end;
        let found = self.resume(window, SEGMENT_HEADER_SIZE, limit)?;
        if found && known.is_some_and(|_| self.tail.next_sequence > sequence) {
            let before = known.map_or(SegmentId(1), |known| known.id);
            self.bad(Bad::new(before, end, "batches are missing behind this place"))?;
        }
        Ok(found)
    }

    /// Walks batches, from the tail's end on.
    fn batches(&mut self, window: &mut Window<'_>, next: Option<&SegmentHeader>, limit: u32, is_last: bool) -> Result<Ended, E> {
        let (id, Some(nonce)) = (window.segment(), self.nonce) else { return Ok(Ended::Lost) };
        loop {
            if next.is_some() && self.tail.end == limit {
                break;
            }
            let why = match check_batch(window, nonce, &self.tail, limit) {
                Ok(Ok(batch)) => {
                    self.batch(id, nonce, &batch, window.held(batch.offset, batch.header.length))?;
                    continue;
                }
                Ok(Err(why)) => why,
                Err(error) => {
                    self.bad(Bad::of(error, id, self.tail.end))?;
                    return Ok(Ended::Lost);
                }
            };
            let end = self.tail.end;
            // Where nothing says how this segment ends, it may have ended here.
            let ends_unknown = next.is_none() && !is_last;
            let judged = if ends_unknown { Ok(()) } else { check_torn(window, nonce, &self.tail, next, &why) };
            if let Err(error) = judged {
                self.bad(Bad::of(error, id, end))?;
                if self.resume(window, end, limit)? {
                    continue;
                }
                return Ok(Ended::Lost);
            }
            if ends_unknown {
                if !self.resume(window, end, limit)? {
                    return Ok(Ended::Open);
                }
                let groups = groups_between(window, nonce, end, Some(self.tail.end)).unwrap_or(None);
                self.bad(Bad { segment: id, offset: end, what: why, groups })?;
                continue;
            }
            match find_torn(window, &self.tail) {
                Ok(torn) => self.walked.torn = torn,
                Err(error) => self.bad(Bad::of(error, id, end))?,
            }
            return Ok(Ended::Open);
        }
        match next.map(|next| check_end(window, &self.tail, id, next)) {
            Some(Err(error)) => {
                self.bad(Bad::of(error, id, self.tail.end))?;
                Ok(Ended::Lost)
            }
            _ => Ok(Ended::Sealed),
        }
    }

    /// Goes on with the next batch header from `from` on that the log can go on with, as if all before it was read. `false`: there
    /// is none before `limit`.
    fn resume(&mut self, window: &mut Window<'_>, from: u32, limit: u32) -> Result<bool, E> {
        let (nonce, tail) = (self.nonce, &self.tail);
        let fits = |header: &BatchHeader| {
            // What was bad about the batch that is there and continues the log is in its body.
            let continues =
                (header.sequence, header.previous, header.first_lsn) == (tail.next_sequence, tail.chain, tail.next_lsn);
            let in_order = header.sequence >= tail.next_sequence && header.epoch >= tail.epoch;
            let within_reason = header.sequence <= COUNTER_MAX && (1..=COUNTER_MAX).contains(&header.first_lsn.0);
            Some(header.nonce) == nonce && !continues && in_order && within_reason
        };
        let found = match find_header(window, from, fits) {
            Ok(found) => found.filter(|(offset, _)| *offset < limit),
            Err(error) => {
                self.bad(Bad::new(window.segment(), from, error.to_string()))?;
                None
            }
        };
        let Some((offset, header)) = found else { return Ok(false) };
        self.lose();
        let tail = &mut self.tail;
        tail.segment = Some(super::segments::Segment { id: window.segment(), size: limit, is_recycled: false });
        (tail.end, tail.chain) = (offset, header.previous);
        (tail.next_sequence, tail.next_lsn) = (header.sequence, header.first_lsn);
        Ok(true)
    }

    /// Gives the records of a batch that is whole.
    fn batch(&mut self, segment: SegmentId, nonce: u64, batch: &Checked, bytes: &[u8]) -> Result<(), E> {
        let header = &batch.header;
        let walked = &mut self.walked;
        walked.epochs += u64::from(walked.bytes == 0 || header.epoch > self.tail.epoch);
        walked.bytes += u64::from(header.length);
        walked.records += u64::from(header.count);
        for (offset, record, bytes) in batch.records(bytes) {
            let place = Place { segment, offset, length: record.length };
            match read_record(nonce, place, &record, bytes).and_then(|content| self.in_order(place, content)) {
                Ok(content) => {
                    self.walked.groups.extend(content.group().filter(|group| group.0 <= PARTITIONS_MAX));
                    let lsn = Lsn(header.first_lsn.0 + u64::from(record.position));
                    let outdated = match content {
                        Content::PeerMark(node, mark) if Some(node) == self.walked.node => Some(mark.durable),
                        _ => None,
                    };
                    (self.visit)(Met::Record(Seen { lsn, place, epoch: header.epoch, content }))?;
                    if let Some(seen) = outdated {
                        self.bad(Bad::new(segment, place.offset, old_copy(seen)))?;
                    }
                }
                Err(error) => self.bad(Bad::of(error, segment, place.offset))?,
            }
        }
        self.tail.pass(batch);
        Ok(())
    }

    /// An entry is at most one behind the last of its group.
    fn in_order(&mut self, place: Place, content: Content) -> Result<Content, RecoverError> {
        if let Content::Piece { group, base, is_last: true, .. } = &content
            && group.0 <= PARTITIONS_MAX
        {
            let last = self.entries.entry(*group).or_default();
            *last = base.index.max(*last);
        }
        let Content::Entry { group, index, .. } = content else { return Ok(content) };
        let known = self.entries.get(&group).copied().or(self.all_read.then_some(Index::ZERO));
        if group.0 <= PARTITIONS_MAX {
            self.entries.insert(group, index);
        }
        match known {
            Some(last) if group.0 <= PARTITIONS_MAX && (index == Index::ZERO || index > last.next()) => {
                Err(bad_record(place, Some(group), format!("entry {index} of group {group} follows entry {last}")))
            }
            _ => Ok(content),
        }
    }
}

fn bad_record(place: Place, group: Option<GroupId>, what: String) -> RecoverError {
    let groups = group.map(|group| BTreeSet::from([group]));
    RecoverError::Damaged { segment: place.segment, offset: place.offset, what, groups }
}

/// What a record says, of which all bytes are as they were written.
fn read_record(nonce: u64, place: Place, record: &RecordHeader, bytes: &[u8]) -> Result<Content, RecoverError> {
    let kind = Kind::from_number(record.kind).expect("checked with the batch");
    let of_group = (kind.is_entry()
        || kind.is_copy() && kind != Kind::Manifest
        || matches!(kind, Kind::HardState | Kind::Piece | Kind::Moved))
    .then(|| record.group());
    let bad = |what: &str| bad_record(place, of_group, what.to_string());
    // A mark of an older program may be: a boot passes it over.
    if !is_within_reason(record) && kind != Kind::PeerMark {
        return Err(bad("a record's numbers are beyond reason"));
    }
    let group = record.group();
    let copied = || Copied::decode(nonce, kind, place, bytes).ok_or_else(|| bad("a record that is a copy is not whole"));
    Ok(match kind {
        Kind::Epoch if !is_epoch(Epoch(record.index)) => return Err(bad("an epoch is beyond reason")),
        Kind::Epoch => Content::Epoch(Epoch(record.index)),
        Kind::Formation => Content::Formation(formation_of(record, bytes).map_err(|why| bad(&why))?),
        Kind::PeerMark => {
            let (node, mark) = mark_of(record);
            Content::PeerMark(node, mark)
        }
        Kind::HardState => {
            let vote = (record.flags & RECORD_PRESENT != 0).then_some(NodeId(record.node));
            Content::HardState(group, HardState { term: record.term(), vote, commit: Index(record.commit) })
        }
        Kind::Noop | Kind::Write | Kind::Transaction | Kind::Configuration => {
            let fact = fact_of(place.segment, place.offset, record, bytes)?;
            Content::Entry { group, index: record.index(), term: record.term(), commit: Index(record.commit), fact }
        }
        Kind::Clean => Content::Clean,
        Kind::Stands => {
            let last = LogBase { index: record.index(), term: record.term() };
            let [whole, is_last] = [RECORD_PRESENT, RECORD_LAST].map(|flag| record.flags & flag != 0);
            Content::Stands { group, last, whole, is_last }
        }
        Kind::CaughtUp => Content::CaughtUp,
        Kind::Leaf => {
            let leaf = copied()?;
            let items = State::items_of_leaf(leaf.head, leaf.body).ok_or_else(|| bad("the copy of a leaf is none"))?;
            Content::Leaf { group, fence: Bytes::copy_from_slice(leaf.head), items }
        }
        Kind::Parts => {
            let right = State::new().install_parts(copied()?.body);
            if !right {
                return Err(bad("the copy of parts of a state is none"));
            }
            Content::Parts(group)
        }
        Kind::Piece => {
            let base = LogBase { index: record.index(), term: record.term() };
            let (snapshot, parts, is_last) = piece_of(record, bytes).ok_or_else(|| bad("a piece of a state is none"))?;
            Content::Piece { group, base, snapshot, number: record.commit, parts: parts.len(), is_last }
        }
        Kind::Moved => {
            let parts = moved_of(record, bytes).ok_or_else(|| bad("values that were moved cannot be read"))?;
            let key = |part: Part<Stored>| if let Part::Item { key, .. } = part { Some(key) } else { None };
            Content::Moved { group, keys: parts.into_iter().filter_map(key).collect() }
        }
        Kind::Root => Content::Root(group, root_of(&copied()?).ok_or_else(|| bad("a root cannot be read"))?),
        Kind::Manifest => Content::Manifest(manifest_of(&copied()?).ok_or_else(|| bad("a manifest cannot be read"))?),
    })
}
