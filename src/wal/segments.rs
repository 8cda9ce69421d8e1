//! Segments made ahead of time: with their files whole, and their names durable, before anything is written into them.
//!
//! ```text
//! wanted -> a file that is free, under a new name --\
//!        -> a file with zeros ----------------------> ready -> taken: it is written to -> (compaction) -> free
//! ```
//!
//! A full disk leads from making a file back to wanted, to be retried each second; any other failure halts the node.
//!
//! A file is *free* if nothing of its segment is needed any more, or if it was made to be in reserve. Under another name it becomes
//! a new segment: no zeros have to be written. The old bytes in it pass for nothing: every checksum is salted with the segment's
//! number.
//!
//! **Reserve.** So many free files are not touched until the disk is full. With them a log goes on in which there is no room for new
//! values: deletes, votes, decisions, and the copies with which a compaction makes room. More free files than that are
//! used first, and beyond a few they are removed.

use crate::base::{Duration, IoId, SegmentId, Sometimes, Time};
use crate::msg::disk::{DiskError, DiskOp, DiskResult};
use std::collections::{BTreeMap, BTreeSet};

/// How long a full disk is left alone before the next try.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// So many free files more than the reserve are kept.
const FREE_MAX: usize = 4;
/// A file of the reserve has a name that is so far behind the log's end: no segment asks for it soon.
const RESERVE_NAMES: u32 = 1_000;
/// A log of fewer segments has no reserve: it could not be emptied by much.
const RESERVE_FROM: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub id: SegmentId,
    /// In bytes.
    pub size: u32,
    /// It holds old bytes.
    pub is_recycled: bool,
}

/// A file that is being made, or gets its name.
#[derive(Debug)]
struct Job {
    segment: Segment,
    /// `None` in place of an id: that operation was answered.
    create: Option<IoId>,
    sync: Option<IoId>,
    /// Bytes that the disk lacks for it.
    lacking: Option<u32>,
    /// The free file that it is.
    from: Option<SegmentId>,
    /// It is to be free, and no segment.
    for_reserve: bool,
}

/// The next segment, the files that are free, and how much all files take together.
#[derive(Debug, Default)]
pub struct Segments {
    job: Option<Job>,
    ready: Option<Segment>,
    /// The disk is full; the time of the next try.
    retry_at: Option<Time>,
    /// Bytes that the disk lacked at the last try.
    lacking: u32,
    /// Sizes of the files that are there, those not yet written to included.
    sizes: BTreeMap<SegmentId, u64>,
    /// Files of which nothing is needed, and their sizes.
    free: BTreeMap<SegmentId, u64>,
    /// So many of them are the reserve; `None`: all, since it is not known yet how many there should be.
    reserve: Option<usize>,
    /// Operations that remove a file.
    removals: BTreeSet<IoId>,
    created: u64,
    recycled: u64,
}

/// What an answer of the disk meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    NotMine,
    Noted,
    Halt(String),
}

impl Segments {
    /// `free`: files of which nothing is needed. Nor is anything of those behind `last`, which is written to.
    pub fn new(mut sizes: BTreeMap<SegmentId, u64>, mut free: BTreeMap<SegmentId, u64>, last: Option<SegmentId>) -> Segments {
        free.extend(sizes.extract_if(.., |id, _| Some(*id) > last));
        Segments { sizes, free, ..Segments::default() }
    }

    /// Of all files.
    pub fn bytes_allocated(&self) -> u64 {
        self.sizes.values().chain(self.free.values()).sum()
    }

    /// Of the files before this one.
    pub fn bytes_before(&self, id: SegmentId) -> u64 {
        self.sizes.range(..id).map(|(_, size)| size).sum()
    }

    /// Of the files that no segment has yet, or has any more.
    pub fn bytes_free(&self) -> u64 {
        self.free.values().sum()
    }

    /// The segments before this one, and the sizes of their files.
    pub fn before(&self, id: SegmentId) -> impl Iterator<Item = (SegmentId, u64)> + '_ {
        self.sizes.range(..id).map(|(id, size)| (*id, *size))
    }

    /// The last one of which the file is there.
    pub fn last(&self) -> Option<SegmentId> {
        self.sizes.last_key_value().map(|(id, _)| *id)
    }

    /// Files made, or named anew.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// Of these, those that were in use before.
    pub fn recycled(&self) -> u64 {
        self.recycled
    }

    /// So many files that are free are the reserve.
    pub fn set_reserve(&mut self, files: usize) {
        self.reserve = Some(files);
    }

    /// The reserve that there should be; none in a small log.
    pub fn reserve(&self) -> usize {
        let reserve = self.reserve.unwrap_or(self.free.len());
        if self.sizes.len() < RESERVE_FROM { 0 } else { reserve }
    }

    /// The segment `id` with at least `size` bytes, if it is ready.
    pub fn ready(&self, id: SegmentId, size: u32) -> Option<Segment> {
        self.ready.filter(|segment| segment.id == id && segment.size >= size)
    }

    /// Bytes of the segment that is ready.
    pub fn bytes_ready(&self) -> u64 {
        self.ready.map_or(0, |segment| u64::from(segment.size))
    }

    /// Takes the segment that is ready: it is written to from now on.
    pub fn take(&mut self) -> Segment {
        self.ready.take().expect("a segment is ready")
    }

    /// The last try to make a file failed for want of room.
    pub fn disk_is_full(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Bytes that the disk lacked at the last try to make a file; 0 if that is made.
    pub fn bytes_needed(&self) -> u64 {
        if self.disk_is_full() { u64::from(self.lacking) } else { 0 }
    }

    /// When to retry; `None` while an attempt is under way, or none is needed.
    pub fn deadline(&self) -> Option<Time> {
        self.retry_at.filter(|_| self.job.is_none())
    }

    /// Nothing of this segment is needed any more.
    pub fn free(&mut self, id: SegmentId) {
        if let Some(size) = self.sizes.remove(&id) {
            Sometimes::SegmentFreed.reached();
            self.free.insert(id, size);
            if self.free.len() > self.reserve() {
                Sometimes::RoomByCompaction.when(self.retry_at.is_some());
                self.retry_at = None;
            }
        }
    }

    /// Asks for the segment `id` with `size` bytes, unless it is there, or something is being made.
    pub fn want(
        &mut self,
        now: Time,
        id: SegmentId,
        size: u32,
        mut next_io: impl FnMut() -> IoId,
        mut emit: impl FnMut(IoId, DiskOp),
    ) {
        if self.job.is_some() || self.ready(id, size).is_some() {
            return;
        }
        let is_full = self.retry_at.is_some_and(|at| now < at);
        let plenty = self.free.len() > self.reserve() || self.free.contains_key(&id);
        let freed = if plenty || is_full { self.take_free(id, size) } else { None };
        if freed.is_none() && is_full {
            return;
        }
        Sometimes::ReserveUsed.when(freed.is_some() && !plenty);
        self.recycled += u64::from(freed.is_some());
        let segment = Segment { id, size, is_recycled: freed.is_some() };
        self.begin(segment, freed, false, &mut next_io, &mut emit);
    }

    /// Makes a file for the reserve, if it lacks one, and removes files that are free and too many, or of another size than new
    /// segments are.
    pub fn tidy(&mut self, now: Time, size: u32, mut next_io: impl FnMut() -> IoId, mut emit: impl FnMut(IoId, DiskOp)) {
        if self.reserve.is_none() {
            return;
        }
        let most = self.reserve() + FREE_MAX;
        let is_needless = |(_, of): &(&SegmentId, &u64)| **of != u64::from(size);
        while let Some((&segment, _)) =
            self.free.iter().find(is_needless).or(self.free.last_key_value().filter(|_| self.free.len() > most))
        {
            self.free.remove(&segment);
            let io = next_io();
            self.removals.insert(io);
            emit(io, DiskOp::Remove { segment });
        }
        let waits = self.retry_at.is_some_and(|at| now < at);
        if self.job.is_some() || waits {
            return;
        }
        if self.free.len() >= self.reserve() {
            // Nothing is to be made now: so nothing is known of the disk any more.
            self.retry_at = None;
            return;
        }
        let behind = self.last().map_or(0, |last| last.0.saturating_add(RESERVE_NAMES));
        let last = self.free.last_key_value().map_or(0, |(id, _)| id.0);
        let segment = Segment { id: SegmentId(behind.max(last).saturating_add(1)), size, is_recycled: false };
        Sometimes::ReserveMade.reached();
        self.begin(segment, None, true, &mut next_io, &mut emit);
    }

    fn begin(
        &mut self,
        segment: Segment,
        from: Option<SegmentId>,
        for_reserve: bool,
        next_io: &mut impl FnMut() -> IoId,
        emit: &mut impl FnMut(IoId, DiskOp),
    ) {
        let (create, sync) = (next_io(), next_io());
        let Segment { id, size, .. } = segment;
        let op = from.map_or(DiskOp::Create { segment: id, size }, |segment| DiskOp::Recycle { segment, to: id });
        self.job = Some(Job { segment, create: Some(create), sync: Some(sync), lacking: None, from, for_reserve });
        emit(create, op);
        emit(sync, DiskOp::SyncDirectory);
    }

    /// A free file for a segment of this size: the one that has its name already, if there is one.
    fn take_free(&mut self, id: SegmentId, size: u32) -> Option<SegmentId> {
        if let Some(named) = self.free.remove(&id) {
            // Another file must not take its name.
            return (named == u64::from(size)).then_some(id);
        }
        let (&segment, _) = self.free.iter().find(|(_, of)| **of == u64::from(size))?;
        Sometimes::SegmentRecycled.reached();
        self.free.remove(&segment);
        Some(segment)
    }

    pub fn on_disk(&mut self, now: Time, io: IoId, result: &DiskResult) -> Answer {
        if self.removals.remove(&io) {
            return match result {
                DiskResult::Failed(error) => Answer::Halt(format!("a segment that is not needed could not be removed: {error}")),
                DiskResult::Done | DiskResult::Data(_) => Answer::Noted,
            };
        }
        let Some(Job { segment, create, sync, lacking, .. }) = &mut self.job else { return Answer::NotMine };
        if *create == Some(io) {
            *create = None;
            match result {
                DiskResult::Failed(DiskError::Full { lacking: bytes }) => *lacking = Some(*bytes),
                DiskResult::Failed(error) => return Answer::Halt(format!("segment {} could not be made: {error}", segment.id)),
                DiskResult::Done | DiskResult::Data(_) => {}
            }
        } else if *sync == Some(io) {
            *sync = None;
            if let DiskResult::Failed(error) = result {
                return Answer::Halt(format!("the directory of the log could not be synced: {error}"));
            }
        } else {
            return Answer::NotMine;
        }
        if let Some(job) = self.job.take_if(|job| job.create.is_none() && job.sync.is_none()) {
            self.end(now, &job);
        }
        Answer::Noted
    }

    fn end(&mut self, now: Time, job: &Job) {
        let segment = job.segment;
        if let Some(lacking) = job.lacking {
            self.lacking = lacking;
            Sometimes::NoRoomForSegment.reached();
            self.retry_at = Some(now + RETRY_AFTER);
            // A file that got no other name is still there.
            self.free.extend(job.from.map(|from| (from, u64::from(segment.size))));
            return;
        }
        self.created += 1;
        if job.for_reserve {
            self.free.insert(segment.id, u64::from(segment.size));
        } else {
            self.sizes.insert(segment.id, u64::from(segment.size));
            self.ready = Some(segment);
        }
        // A file of the reserve that is used says nothing of the disk.
        if !segment.is_recycled || self.free.len() >= self.reserve() {
            Sometimes::RoomForSegmentAgain.when(self.retry_at.is_some());
            self.retry_at = None;
        }
    }

    pub fn check(&self) {
        if let Some(segment) = &self.ready {
            assert!(self.sizes.contains_key(&segment.id), "a segment that is ready has a size");
        }
        assert!(self.free.keys().all(|id| !self.sizes.contains_key(id)), "a file that is free is no segment's");
    }
}
