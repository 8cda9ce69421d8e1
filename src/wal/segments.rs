//! Segments made ahead of time: with their files whole, and their names durable, before anything is written into them.
//!
//! States: none -> creating -> ready -> taken. A full disk leads from creating back to none, to be retried each second; any other
//! failure halts the node.
//!
//! A file is made with zeros, or it is one of a segment of which nothing is needed any more, *freed*, under another name: nothing
//! has to be written then. The old bytes in it pass for nothing: every checksum is salted with the segment's number. A few freed
//! files are kept for that; the others are removed.

use crate::base::{Duration, IoId, SegmentId, Sometimes, Time};
use crate::msg::disk::{DiskError, DiskOp, DiskResult};
use std::collections::{BTreeMap, BTreeSet};

/// How long a full disk is left alone before the next try.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// As many freed files are kept.
const FREE_MAX: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub id: SegmentId,
    /// In bytes.
    pub size: u32,
    /// It holds old bytes.
    pub is_recycled: bool,
}

#[derive(Debug)]
enum Spare {
    None,
    /// `None` in place of an id: that operation was answered.
    Creating {
        segment: Segment,
        create: Option<IoId>,
        sync: Option<IoId>,
        /// Bytes that the disk lacks for it.
        lacking: Option<u32>,
    },
    Ready(Segment),
}

/// The next segment, and how much the files take together.
#[derive(Debug)]
pub struct Segments {
    spare: Spare,
    /// Since when the disk is full, as the time of the next try.
    retry_at: Option<Time>,
    /// Bytes that the disk lacked at the last try.
    lacking: u32,
    /// Sizes of the files that are there, those not yet written to included.
    sizes: BTreeMap<SegmentId, u64>,
    /// Files of which nothing is needed, and their sizes.
    free: BTreeMap<SegmentId, u64>,
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
        let (removals, spare) = (BTreeSet::new(), Spare::None);
        Segments { spare, retry_at: None, lacking: 0, sizes, free, removals, created: 0, recycled: 0 }
    }

    pub fn bytes_allocated(&self) -> u64 {
        self.sizes.values().chain(self.free.values()).sum()
    }

    /// The segments before this one, and the sizes of their files.
    pub fn before(&self, id: SegmentId) -> impl Iterator<Item = (SegmentId, u64)> + '_ {
        self.sizes.range(..id).map(|(id, size)| (*id, *size))
    }

    /// The last one of which the file is there.
    pub fn last(&self) -> Option<SegmentId> {
        self.sizes.last_key_value().map(|(id, _)| *id)
    }

    /// Nothing of this segment is needed any more.
    pub fn free(&mut self, id: SegmentId) {
        if let Some(size) = self.sizes.remove(&id) {
            Sometimes::SegmentFreed.reached();
            self.free.insert(id, size);
        }
    }

    /// Removes the files that are free and too many, or of another size than those of new segments.
    pub fn remove_needless(&mut self, size: u32, mut next_io: impl FnMut() -> IoId, mut emit: impl FnMut(IoId, DiskOp)) {
        let size = u64::from(size);
        while let Some((&segment, _)) =
            self.free.iter().find(|(_, of)| **of != size).or(self.free.last_key_value().filter(|_| self.free.len() > FREE_MAX))
        {
            self.free.remove(&segment);
            let io = next_io();
            self.removals.insert(io);
            emit(io, DiskOp::Remove { segment });
        }
    }

    /// Of the files before this one.
    pub fn bytes_before(&self, id: SegmentId) -> u64 {
        self.sizes.range(..id).map(|(_, size)| size).sum()
    }

    pub fn created(&self) -> u64 {
        self.created
    }

    pub fn recycled(&self) -> u64 {
        self.recycled
    }

    /// The segment `id` with at least `size` bytes, if it is ready.
    pub fn ready(&self, id: SegmentId, size: u32) -> Option<Segment> {
        match self.spare {
            Spare::Ready(segment) if segment.id == id && segment.size >= size => Some(segment),
            _ => None,
        }
    }

    pub fn has_spare(&self) -> bool {
        matches!(self.spare, Spare::Ready(_))
    }

    /// Takes the segment that is ready: it is written to from now on.
    pub fn take(&mut self) -> Segment {
        match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::Ready(segment) => segment,
            other => panic!("no segment is ready: {other:?}"),
        }
    }

    /// The last try to make a segment failed for want of room.
    pub fn disk_is_full(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Bytes that the disk lacked at the last try to make a segment; 0 if that is made.
    pub fn bytes_needed(&self) -> u64 {
        if self.disk_is_full() { u64::from(self.lacking) } else { 0 }
    }

    /// When to retry; `None` while an attempt is under way, or none is needed.
    pub fn deadline(&self) -> Option<Time> {
        self.retry_at.filter(|_| matches!(self.spare, Spare::None))
    }

    /// Asks for the segment `id` with `size` bytes, unless it is there, being made, or the disk was full a moment ago.
    pub fn want(
        &mut self,
        now: Time,
        id: SegmentId,
        size: u32,
        mut next_io: impl FnMut() -> IoId,
        mut emit: impl FnMut(IoId, DiskOp),
    ) {
        match &self.spare {
            Spare::Creating { .. } => return,
            Spare::Ready(segment) if segment.id == id && segment.size >= size => return,
            Spare::Ready(_) | Spare::None => {}
        }
        let freed = self.take_free(id, size);
        if freed.is_none() && self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let (create, sync) = (next_io(), next_io());
        self.spare = Spare::Creating {
            segment: Segment { id, size, is_recycled: freed.is_some() },
            create: Some(create),
            sync: Some(sync),
            lacking: None,
        };
        self.recycled += u64::from(freed.is_some());
        let op = freed.map_or(DiskOp::Create { segment: id, size }, |segment| DiskOp::Recycle { segment, to: id });
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
        let Spare::Creating { segment, create, sync, lacking } = &mut self.spare else { return Answer::NotMine };
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
        if create.is_none() && sync.is_none() {
            if let Some(lacking) = *lacking {
                self.lacking = lacking;
                Sometimes::NoRoomForSegment.reached();
                self.retry_at = Some(now + RETRY_AFTER);
                self.spare = Spare::None;
            } else {
                Sometimes::RoomForSegmentAgain.when(self.retry_at.is_some());
                let segment = *segment;
                self.retry_at = None;
                self.created += 1;
                self.sizes.insert(segment.id, u64::from(segment.size));
                self.spare = Spare::Ready(segment);
            }
        }
        Answer::Noted
    }

    pub fn check(&self) {
        if let Spare::Ready(segment) = &self.spare {
            assert!(self.sizes.contains_key(&segment.id), "a segment that is ready has a size");
        }
    }
}
