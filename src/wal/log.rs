//! The log actor: appends, group commit, what is acknowledgeable, segments rolled, idle tails sealed.
//!
//! Where a record will lie is decided when it is appended: batches stand one behind the other, and a batch that does not fit its
//! segment begins the next. So the *cursor* (where the next batch begins) runs ahead of what is written, over segments that may
//! not exist yet. A batch whose segment is not there waits, and all behind it.

use super::batch::{Batch, Finished, Parts, batch_length_alone};
use super::format::{
    BATCH_BEGAN_LOSSY, BATCH_LOSSY, BatchHeader, EMPTY_BATCH_SIZE, FORMAT_VERSION, SEGMENT_HEADER_SIZE, SegmentHeader,
    directory_nonce,
};
use super::reads::{Reads, Wanted, answer, refuse};
use super::segments::{Answer, Segment, Segments};
use super::tail::Tail;
use super::witness::{End, Witness};
use super::{In, LogOptions, Out, ReadError, ReadFor, Record};
use crate::actor::{Actor, Context, Outbox, Room, TimerKind};
use crate::base::limits::Limits;
use crate::base::{Duration, Epoch, GroupId, Index, IoId, Lsn, Place, SegmentId, Sometimes, Term, Time};
use crate::msg::disk::{DiskOp, DiskResult};
use bytes::Bytes;
use std::collections::VecDeque;

/// The smallest and the largest segment, in bytes, whatever the options say.
const SEGMENT_SIZE_MIN: u32 = 8 * 1024;
const SEGMENT_SIZE_MAX: u32 = 1 << 30;
/// While the disk is full, this much of the last segment (or half of it, if that is less) is a reserve (see [`Room`]), beside the
/// files that are kept for it. In bytes.
const RESERVE_MAX: u32 = 8 * 1024 * 1024;
/// As many files are kept in reserve, at least.
const RESERVE_FILES: usize = 2;
/// Bytes at a segment's end that only an epoch's first record may take (a sixteenth of a small segment): some twenty starts.
/// Without them a node whose disk is full, and whose log is full to the last byte, could not even begin an epoch (seed 4316).
const BOOT_RESERVE_MAX: u32 = 4 * 1024;

/// What the log has done since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCounters {
    pub records: u64,
    /// Batches written, seals included.
    pub batches: u64,
    pub syncs: u64,
    pub seals: u64,
    /// Times that the witness of the log's end was written.
    pub witnesses: u64,
    /// Segments made, and those of which the file was in use before.
    pub segments: u64,
    pub recycled: u64,
    /// Bytes passed to writes, headers of segments included.
    pub bytes_written: u64,
    /// Reads answered by the disk, and those answered from a batch not yet written.
    pub reads: u64,
    pub reads_from_memory: u64,
    /// Reads that failed their check, or that the disk could not do.
    pub reads_corrupt: u64,
}

/// Where the next batch begins.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    segment: SegmentId,
    offset: u32,
    /// Bytes of the segment.
    capacity: u32,
}

#[derive(Debug)]
struct WriteInFlight {
    io: IoId,
    /// `None`: the last epoch's tail, written once more.
    batch: Option<Finished>,
}

#[derive(Debug)]
struct SyncInFlight {
    io: IoId,
    /// All batches up to this sequence were written before the sync.
    covers: u64,
    /// No batch may be written before it is done.
    blocks: bool,
    /// Answered, but a write before it is not.
    done: bool,
    begun: Time,
}

/// A batch that was handed to the disk and is not durable.
#[derive(Debug)]
struct Unsynced {
    sequence: u64,
    last_lsn: Lsn,
    bytes: u64,
    /// Where the batch ends, if it has records.
    end: Option<End>,
    /// Its last record is [`Record::Clean`].
    clean: bool,
    /// What becomes acknowledgeable with it. Taken when it was acknowledged.
    entries: Vec<(GroupId, Index, Term)>,
}

/// Bytes at the end of a segment of this size that only an epoch's first record may take.
fn boot_reserve(size: u32) -> u32 {
    BOOT_RESERVE_MAX.min(size / 16)
}

/// Gives numbers to operations of the disk, from the next one on.
fn counted(next_io: &mut u64) -> impl FnMut() -> IoId + '_ {
    || {
        let io = IoId(*next_io);
        *next_io += 1;
        io
    }
}

/// One node's log. See the module's documentation.
#[derive(Debug)]
pub struct Log {
    options: LogOptions,
    nonce: u64,
    epoch: Epoch,
    /// The last epoch may have lost what it had acknowledged, and no [`Record::CaughtUp`] was written since.
    lossy: bool,
    /// What the last batch written says.
    last_batch_lossy: bool,
    next_io: u64,
    next_lsn: Lsn,
    written: Lsn,
    acknowledgeable: Lsn,
    durable: Lsn,
    /// Of the next batch to be written.
    next_sequence: u64,
    durable_sequence: u64,
    chain: u64,
    cursor: Cursor,
    /// The segment that was last written to, and where what was written ends; `None` before the first.
    current: Option<Segment>,
    current_end: u32,
    /// What the last epoch left unsealed: written once more, at its place, before anything else.
    restore: Option<(Place, Bytes)>,
    /// That is durable, or there was nothing of the kind. Before, no file goes that a manifest in it does not name.
    tail_is_sure: bool,
    filling: Option<Batch>,
    /// Closed batches that wait for the batch in flight, or for their segment; each with the size its segment must have.
    closed: VecDeque<(Batch, u32)>,
    write: Option<WriteInFlight>,
    sync: Option<SyncInFlight>,
    unsynced: VecDeque<Unsynced>,
    /// Relaxed: when to sync next.
    sync_at: Option<Time>,
    /// When to seal the last batch, if nothing else comes.
    seal_at: Option<Time>,
    segments: Segments,
    witness: Witness,
    reads: Reads,
    queue_bytes: u64,
    /// Bytes of all records appended in this epoch.
    appended_bytes: u64,
    /// The newest manifest that is durable, which the next segment's header names; and that which is not yet.
    manifest: Option<Place>,
    next_manifest: Option<(Lsn, Place)>,
    /// Bytes of the last batch: the next is probably as large.
    batch_size_hint: usize,
    /// Mean time of a sync, in nanoseconds, and when the last was done.
    sync_mean: u64,
    synced_at: Time,
    halted: bool,
    counters: LogCounters,
}

impl Log {
    /// A log that goes on where `tail` says.
    pub fn new(mut options: LogOptions, tail: Tail) -> Log {
        options.segment_size = options.segment_size.clamp(SEGMENT_SIZE_MIN, SEGMENT_SIZE_MAX);
        options.directory = tail.directory.unwrap_or(options.directory);
        let cursor = match tail.segment {
            Some(segment) => Cursor { segment: segment.id, offset: tail.end, capacity: segment.size },
            None => Cursor { segment: SegmentId(1), offset: SEGMENT_HEADER_SIZE, capacity: options.segment_size },
        };
        let last = Lsn(tail.next_lsn.0 - 1);
        let nonce = directory_nonce(options.directory);
        Log {
            nonce,
            epoch: tail.epoch,
            lossy: tail.lossy,
            last_batch_lossy: tail.lossy,
            next_io: 1,
            next_lsn: tail.next_lsn,
            written: last,
            acknowledgeable: last,
            durable: last,
            next_sequence: tail.next_sequence,
            durable_sequence: tail.next_sequence - 1,
            chain: tail.chain,
            cursor,
            current: tail.segment,
            current_end: tail.end,
            tail_is_sure: tail.unsealed.is_none(),
            restore: tail.unsealed,
            filling: None,
            closed: VecDeque::new(),
            write: None,
            sync: None,
            unsynced: VecDeque::new(),
            sync_at: None,
            seal_at: None,
            segments: Segments::new(tail.sizes, tail.leftover, tail.segment.map(|segment| segment.id)),
            witness: Witness::new(nonce, tail.witness),
            reads: Reads::default(),
            queue_bytes: 0,
            appended_bytes: 0,
            manifest: tail.manifest,
            next_manifest: None,
            batch_size_hint: 0,
            sync_mean: 0,
            synced_at: Time::ZERO,
            halted: false,
            counters: LogCounters::default(),
            options,
        }
    }

    /// The last record appended.
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.next_lsn.0 - 1)
    }

    /// The last record that is durable. Never decreases, over restarts either. At boot: the last record recovered. It is written
    /// once more before the first batch of this epoch, so before anything may be said on its strength.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable
    }

    /// The last record on whose strength an append may be acknowledged: durable; or written, when syncing is relaxed and the
    /// record's batch holds nothing that must be synced at once. So nothing is acknowledged in an epoch that is not durable.
    pub fn acknowledgeable_lsn(&self) -> Lsn {
        self.acknowledgeable
    }

    /// Whether the loss of this record would be noticed, even with all that stands behind it; or there is no room to see to that.
    pub fn is_witnessed(&self, now: Time, lsn: Lsn) -> bool {
        self.witness.vouches_for(now, lsn)
    }

    /// Bytes of records appended and not yet durable.
    pub fn queue_bytes(&self) -> u64 {
        self.queue_bytes
    }

    /// Bytes of all records appended in this epoch, written or not.
    pub fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Where the next record goes, or a later place.
    pub fn end(&self) -> SegmentId {
        self.cursor.segment
    }

    /// The segments before this one, with the bytes of their files.
    pub fn segments_before(&self, segment: SegmentId) -> impl Iterator<Item = (SegmentId, u64)> + '_ {
        self.segments.before(segment)
    }

    /// The segments before this one, those included that have records and whose files are not made yet.
    pub fn numbers_before(&self, segment: SegmentId) -> impl Iterator<Item = SegmentId> + '_ {
        let made = self.segments.before(segment).map(|(id, _)| id);
        let behind = self.segments.last().map_or(1, |last| last.0 + 1);
        made.chain((behind..segment.0).map(SegmentId))
    }

    /// What ties the log's bytes to its directory.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Whether a read is on its way to this segment.
    pub fn is_read(&self, segment: SegmentId) -> bool {
        self.reads.any_in(segment)
    }

    /// Records wait for the next flush, or for a later one.
    pub fn has_unflushed(&self) -> bool {
        self.filling.is_some() || !self.closed.is_empty()
    }

    /// What may still be appended.
    pub fn room(&self) -> Room {
        if !self.segments.disk_is_full() {
            return Room::AMPLE;
        }
        let size = self.cursor.capacity;
        let used = self.filling.as_ref().map_or(self.cursor.offset, |batch| batch.offset + batch.length());
        let here = u64::from(size.saturating_sub(used + boot_reserve(size)));
        let files = self.segments.bytes_ready() + self.segments.bytes_free();
        // What was appended last may wait for segments that are not made yet.
        let ahead = self.cursor.segment.0 - self.current.map_or(0, |current| current.id.0);
        let taken = u64::from(ahead) * u64::from(self.options.segment_size);
        let left = if files >= taken { files - taken + here } else { 0 };
        let reserve = self.segments.reserve() as u64 * u64::from(self.options.segment_size);
        Room::new(left, reserve + u64::from(RESERVE_MAX.min(size / 2)))
    }

    /// The disk had no room for another file when one was last to be made.
    pub fn disk_is_full(&self) -> bool {
        self.segments.disk_is_full()
    }

    /// Free files for so many bytes are kept in reserve, and two at least.
    pub fn keep_in_reserve(&mut self, bytes: u64) {
        let files = bytes.div_ceil(u64::from(self.options.segment_size));
        self.segments.set_reserve(RESERVE_FILES.max(usize::try_from(files).unwrap_or(usize::MAX)));
    }

    /// Bytes that the disk lacks for the next segment; 0 while there is room.
    pub fn bytes_needed(&self) -> u64 {
        self.segments.bytes_needed()
    }

    /// How long a sync takes now, writes before it included. It is a mean over the last few, weighted exponentially, or the age
    /// of the sync under way, if that is more. Without syncs it halves every second: it is not known any more.
    pub fn sync_latency(&self, now: Time) -> Duration {
        let silent_for = now.since(self.synced_at).as_secs().min(63);
        let mean = Duration::from_nanos(self.sync_mean >> silent_for);
        self.sync.as_ref().map_or(mean, |sync| mean.max(now.since(sync.begun)))
    }

    /// Bytes of all segments' files.
    pub fn bytes_allocated(&self) -> u64 {
        self.segments.bytes_allocated()
    }

    /// Bytes of the files that are in use: the log without what is left free at its end.
    pub fn bytes_used(&self) -> u64 {
        self.current.map_or(0, |current| self.segments.bytes_before(current.id) + u64::from(self.current_end))
    }

    /// Bytes of the files that are in use, from this segment on.
    pub fn bytes_used_from(&self, start: SegmentId) -> u64 {
        self.bytes_used().saturating_sub(self.segments.bytes_before(start))
    }

    /// Bytes passed to writes since boot.
    pub fn bytes_written(&self) -> u64 {
        self.counters.bytes_written
    }

    pub fn counters(&self) -> LogCounters {
        let (segments, recycled) = (self.segments.created(), self.segments.recycled());
        LogCounters { segments, recycled, ..self.counters }
    }

    fn is_relaxed(&self) -> bool {
        !self.options.sync_interval.is_zero()
    }

    fn new_io(&mut self) -> IoId {
        counted(&mut self.next_io)()
    }

    fn halt(&mut self, out: &mut Outbox<Out>, why: String) {
        if !self.halted {
            Sometimes::LogHalts.reached();
            self.halted = true;
            out.push(Out::Halt(why));
        }
    }

    // Appending.

    fn on_append(&mut self, record: Record, out: &mut Outbox<Out>) {
        if let Record::Epoch { epoch, .. } = record {
            self.epoch = epoch;
        }
        let parts = Parts::of(record);
        let footprint = parts.footprint();
        let kept = if parts.opens_life() { 0 } else { boot_reserve(self.cursor.capacity) };
        if self.filling.as_ref().is_some_and(|batch| !self.fits(batch.offset, batch.length(), footprint, kept)) {
            self.close();
        }
        let bytes = parts.record_length() as u64;
        let lsn = self.next_lsn;
        let (is_copy, is_manifest) = (parts.is_copy(), parts.is_manifest());
        let (place, placed) = self.filling_batch(footprint, kept).push(parts);
        self.next_lsn = lsn.next();
        self.queue_bytes += bytes;
        self.counters.records += 1;
        self.appended_bytes += bytes;
        self.seal_at = None;
        if is_manifest {
            self.next_manifest = Some((lsn, place));
        }
        if is_copy {
            out.push(Out::Copied(place));
        }
        if let Some(placed) = placed {
            assert_eq!(placed.lsn, lsn, "a record's place in its batch gives its position in the log");
            out.push(Out::Placed(placed));
        }
    }

    /// Whether `footprint` more bytes go into a batch of `length` at `offset`. An empty batch, a seal, must still fit behind it,
    /// and `kept` bytes.
    fn fits(&self, offset: u32, length: u32, footprint: u32, kept: u32) -> bool {
        let grown = u64::from(length) + u64::from(footprint);
        let taken = u64::from(offset) + u64::from(EMPTY_BATCH_SIZE) + u64::from(kept);
        let room = u64::from(self.cursor.capacity).saturating_sub(taken);
        grown <= room && grown <= self.options.batch_bytes as u64
    }

    /// The batch being filled; a new batch if there is none, in the next segment if a record of this footprint does not fit this
    /// one.
    fn filling_batch(&mut self, footprint: u32, kept: u32) -> &mut Batch {
        if self.filling.is_none() {
            let length = batch_length_alone(footprint);
            let end = u64::from(self.cursor.offset) + u64::from(length) + u64::from(EMPTY_BATCH_SIZE) + u64::from(kept);
            if end > u64::from(self.cursor.capacity) {
                let needed = SEGMENT_HEADER_SIZE + length + EMPTY_BATCH_SIZE + BOOT_RESERVE_MAX;
                self.cursor = Cursor {
                    segment: self.cursor.segment.next(),
                    offset: SEGMENT_HEADER_SIZE,
                    capacity: self.options.segment_size.max(needed),
                };
            }
            let hint = self.batch_size_hint.max(length as usize);
            self.filling = Some(Batch::new(self.cursor.segment, self.cursor.offset, self.nonce, self.next_lsn, hint));
        }
        self.filling.as_mut().expect("just made")
    }

    /// Closes the batch being filled: the next begins behind it.
    fn close(&mut self) {
        let Some(batch) = self.filling.take() else { return };
        self.cursor.offset = batch.offset + batch.length();
        self.closed.push_back((batch, self.cursor.capacity));
    }

    // Writing.

    /// Hands out what may be handed out: the next batch, if none is in flight, and the next segment's making.
    fn on_flush(&mut self, now: Time, out: &mut Outbox<Out>) {
        if self.halted {
            return;
        }
        if self.may_write() {
            if let Some((place, bytes)) = self.restore.take() {
                self.write_tail_again(now, place, bytes, out);
            } else if let Some((batch, capacity)) = self.next_batch() {
                match self.enter_segment(now, &batch, capacity, out) {
                    Some(front) => {
                        self.lossy &= !batch.has_caught_up();
                        let lossy = self.lossy || (self.is_relaxed() && !batch.ends_clean());
                        self.write_batch(now, batch, front, lossy, out);
                    }
                    None => self.closed.push_front((batch, capacity)),
                }
            }
        }
        if self.tail_is_sure {
            self.make_spare(now, out);
            self.tidy_files(now, out);
        }
        self.write_witness(now, out);
    }

    /// No write is in flight, nor a sync that must be waited for.
    fn may_write(&self) -> bool {
        self.write.is_none() && !self.sync.as_ref().is_some_and(|sync| sync.blocks)
    }

    fn next_batch(&mut self) -> Option<(Batch, u32)> {
        if self.closed.is_empty() {
            self.close();
        }
        self.closed.pop_front()
    }

    /// Before the first batch of this epoch: what the last epoch left unsealed is written as it is and synced. What recovery saw
    /// of it may have been in the page cache alone.
    fn write_tail_again(&mut self, now: Time, place: Place, bytes: Bytes, out: &mut Outbox<Out>) {
        Sometimes::UnsealedTailWrittenAgain.reached();
        let io = self.new_io();
        self.counters.bytes_written += bytes.len() as u64;
        out.push(Out::Disk(io, DiskOp::Write { segment: place.segment, offset: place.offset, data: vec![bytes] }));
        self.write = Some(WriteInFlight { io, batch: None });
        self.start_sync(now, place.segment, true, out);
    }

    /// Makes the batch's segment the current one. Returns the bytes that go in front of the batch: the segment's header, if it is
    /// the segment's first batch. `None`: not yet; the segment is not there, or the segment before it is not durable.
    fn enter_segment(&mut self, now: Time, batch: &Batch, capacity: u32, out: &mut Outbox<Out>) -> Option<Option<Vec<u8>>> {
        if self.current.is_some_and(|current| current.id == batch.segment) {
            assert_eq!(self.current_end, batch.offset, "batches stand one behind the other");
            return Some(None);
        }
        self.want_segment(now, batch.segment, capacity, out);
        let Some(segment) = self.segments.ready(batch.segment, capacity) else {
            Sometimes::BatchWaitsForSegment.reached();
            return None;
        };
        // The header will say that all before it is durable: so it must be, in relaxed syncing too.
        if !self.unsynced.is_empty() {
            Sometimes::SegmentWaitsForSync.reached();
            if self.sync.is_none() {
                let id = self.current.expect("something was written").id;
                self.start_sync(now, id, false, out);
            }
            return None;
        }
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            node: self.options.me,
            segment: segment.id,
            directory: self.options.directory,
            first_lsn: batch.first_lsn,
            first_sequence: self.next_sequence,
            epoch: self.epoch,
            size: segment.size,
            previous_length: self.current.map_or(0, |_| self.current_end),
            previous_chain: self.chain,
            manifest: self.manifest,
            is_recycled: segment.is_recycled,
        };
        assert_eq!(batch.offset, SEGMENT_HEADER_SIZE, "a segment's first batch stands behind its header");
        self.chain = header.chain();
        self.current = Some(self.segments.take());
        self.current_end = SEGMENT_HEADER_SIZE;
        if self.cursor.segment == segment.id {
            self.cursor.capacity = segment.size;
        }
        Some(Some(header.encode()))
    }

    fn write_batch(&mut self, now: Time, batch: Batch, front: Option<Vec<u8>>, lossy: bool, out: &mut Outbox<Out>) {
        let relaxed = self.is_relaxed();
        let sequence = self.next_sequence;
        let current = self.current.map(|current| current.id);
        assert_eq!((Some(batch.segment), batch.offset), (current, self.current_end), "a batch is written where the last ended");
        let last = self.unsynced.back().map_or(self.durable, |unsynced| unsynced.last_lsn);
        assert_eq!(batch.first_lsn, last.next(), "positions have no gap from batch to batch");
        self.last_batch_lossy = lossy;
        let (bytes, clean) = (batch.record_bytes(), batch.ends_clean());
        let mut finished = batch.finish(BatchHeader {
            version: FORMAT_VERSION,
            flags: if lossy { BATCH_LOSSY } else { 0 } | if self.lossy { BATCH_BEGAN_LOSSY } else { 0 },
            sequence,
            epoch: self.epoch,
            previous: self.chain,
            behind: (sequence - 1 - self.durable_sequence) as u32,
            length: 0,
            nonce: 0,
            first_lsn: Lsn::ZERO,
            count: 0,
        });
        self.next_sequence += 1;
        self.chain = finished.chain;
        self.current_end = finished.offset + finished.length;
        self.batch_size_hint = (finished.length as usize).min(64 * 1024);
        let (segment, urgent) = (finished.segment, finished.urgent || finished.count == 0);
        let end = End { sequence, lsn: finished.last_lsn, segment, offset: self.current_end };
        self.unsynced.push_back(Unsynced {
            sequence,
            last_lsn: finished.last_lsn,
            bytes,
            end: (finished.count > 0).then_some(end),
            clean,
            entries: std::mem::take(&mut finished.last_entries),
        });
        let mut data = Vec::with_capacity(finished.data.len() + 1);
        let offset = if front.is_some() { 0 } else { finished.offset };
        data.extend(front.map(Bytes::from));
        data.extend(finished.data.iter().cloned());
        self.counters.batches += 1;
        self.counters.bytes_written += data.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let io = self.new_io();
        out.push(Out::Disk(io, DiskOp::Write { segment, offset, data }));
        self.write = Some(WriteInFlight { io, batch: Some(finished) });
        if !relaxed || urgent {
            self.start_sync(now, segment, true, out);
        } else if self.sync_at.is_none() {
            self.sync_at = Some(now + self.options.sync_interval);
        }
    }

    /// Syncs the segment, which holds all that is written and not durable.
    fn start_sync(&mut self, now: Time, segment: SegmentId, blocks: bool, out: &mut Outbox<Out>) {
        let io = self.new_io();
        // A sync that is already under way, and covers less, is superseded: the disk does them in order.
        Sometimes::SyncSuperseded.when(self.sync.is_some());
        self.sync = Some(SyncInFlight { io, covers: self.next_sequence - 1, blocks, done: false, begun: now });
        self.sync_at = None;
        self.counters.syncs += 1;
        out.push(Out::Disk(io, DiskOp::Sync { segment }));
    }

    /// Asks for the next segment when the current one is half full, and for the first one at once.
    fn make_spare(&mut self, now: Time, out: &mut Outbox<Out>) {
        let size = self.options.segment_size;
        match self.current {
            None => self.want_segment(now, SegmentId(1), size, out),
            Some(current) => {
                let next = current.id.next();
                let planned = self.closed.iter().find(|(batch, _)| batch.segment == next).map(|(_, capacity)| *capacity);
                let filling = (self.cursor.segment == next).then_some(self.cursor.capacity);
                if u64::from(self.cursor.offset) * 2 >= u64::from(current.size) || self.cursor.segment != current.id {
                    self.want_segment(now, next, planned.or(filling).unwrap_or(size), out);
                }
            }
        }
    }

    /// Keeps as many free files as there should be.
    fn tidy_files(&mut self, now: Time, out: &mut Outbox<Out>) {
        let new_io = counted(&mut self.next_io);
        self.segments.tidy(now, self.options.segment_size, new_io, |io, op| out.push(Out::Disk(io, op)));
    }

    fn write_witness(&mut self, now: Time, out: &mut Outbox<Out>) {
        let (new_io, counters) = (counted(&mut self.next_io), &mut self.counters);
        self.witness.go_on(now, new_io, |io, op| {
            if let DiskOp::Write { data, .. } = &op {
                counters.witnesses += 1;
                counters.bytes_written += data.iter().map(|piece| piece.len() as u64).sum::<u64>();
            }
            out.push(Out::Disk(io, op));
        });
    }

    fn want_segment(&mut self, now: Time, id: SegmentId, size: u32, out: &mut Outbox<Out>) {
        let new_io = counted(&mut self.next_io);
        self.segments.want(now, id, size, new_io, |io, op| out.push(Out::Disk(io, op)));
    }

    // Answers of the disk.

    fn on_disk(&mut self, now: Time, io: IoId, result: DiskResult, out: &mut Outbox<Out>) {
        if self.halted {
            return;
        }
        if self.write.as_ref().is_some_and(|write| write.io == io) {
            self.on_written(now, result, out);
        } else if self.sync.as_ref().is_some_and(|sync| sync.io == io) {
            self.on_synced(now, result, out);
        } else {
            let mut answer = self.segments.on_disk(now, io, &result);
            if answer == Answer::NotMine {
                answer = self.witness.on_disk(now, io, &result);
            }
            match answer {
                Answer::Noted => {}
                Answer::Halt(why) => self.halt(out, why),
                Answer::NotMine => self.on_other(io, result, out),
            }
        }
        if !self.halted {
            self.write_witness(now, out);
        }
    }

    /// A read, or a sync that a later one superseded.
    fn on_other(&mut self, io: IoId, result: DiskResult, out: &mut Outbox<Out>) {
        if let Some(answer) = self.reads.on_disk(self.nonce, io, result.clone()) {
            self.counters.reads += 1;
            if matches!(&answer, Out::Value(_, Err(_)) | Out::Entry(_, Err(_))) {
                Sometimes::ReadFails.reached();
                self.counters.reads_corrupt += 1;
            }
            out.push(answer);
        } else if let DiskResult::Failed(error) = result {
            self.halt(out, format!("the log could not be synced: {error}"));
        }
    }

    fn on_written(&mut self, now: Time, result: DiskResult, out: &mut Outbox<Out>) {
        let write = self.write.take().expect("a write is in flight");
        if let DiskResult::Failed(error) = result {
            let place = write.batch.map(|batch| format!("segment {} at {}", batch.segment, batch.offset));
            let place = place.unwrap_or_else(|| "the tail of the last run".to_string());
            return self.halt(out, format!("the log could not be written ({place}): {error}"));
        }
        if let Some(batch) = write.batch {
            self.written = self.written.max(batch.last_lsn);
            if !self.sync.as_ref().is_some_and(|sync| sync.blocks) {
                Sometimes::AcknowledgedUnsynced.reached();
                self.acknowledgeable = self.written;
                let entries = self.unsynced.back_mut().map(|unsynced| std::mem::take(&mut unsynced.entries));
                self.progress(entries.unwrap_or_default(), out);
            }
        }
        if self.sync.as_ref().is_some_and(|sync| sync.done) {
            self.complete_sync(now, out);
        }
    }

    fn on_synced(&mut self, now: Time, result: DiskResult, out: &mut Outbox<Out>) {
        if let DiskResult::Failed(error) = result {
            return self.halt(out, format!("the log could not be synced: {error}"));
        }
        if self.write.is_some() && self.sync.as_ref().is_some_and(|sync| sync.covers == self.next_sequence - 1) {
            // The write that it covers is not answered yet: wait for both.
            self.sync.as_mut().expect("a sync is in flight").done = true;
        } else {
            self.complete_sync(now, out);
        }
    }

    fn complete_sync(&mut self, now: Time, out: &mut Outbox<Out>) {
        let sync = self.sync.take().expect("a sync is in flight");
        self.tail_is_sure |= self.restore.is_none();
        assert!(sync.covers >= self.durable_sequence, "what is durable only grows");
        self.durable_sequence = sync.covers;
        let took = now.since(sync.begun).as_nanos() as u64;
        self.sync_mean = self.sync_mean - self.sync_mean / 8 + took / 8;
        self.synced_at = now;
        let mut entries = Vec::new();
        let (mut changed, mut sealed) = (false, true);
        while let Some(unsynced) = self.unsynced.pop_front_if(|unsynced| unsynced.sequence <= sync.covers) {
            assert!(unsynced.last_lsn <= self.written, "only what was written is durable");
            sealed = unsynced.last_lsn == self.durable;
            changed |= !sealed;
            self.durable = self.durable.max(unsynced.last_lsn);
            self.acknowledgeable = self.acknowledgeable.max(self.durable);
            self.queue_bytes -= unsynced.bytes;
            if let Some(end) = unsynced.end {
                self.witness.on_durable(now, end, unsynced.clean);
            }
            if entries.is_empty() { entries = unsynced.entries } else { entries.extend(unsynced.entries) }
        }
        if let Some((_, place)) = self.next_manifest.take_if(|(lsn, _)| *lsn <= self.durable) {
            self.manifest = Some(place);
        }
        if changed {
            self.progress(entries, out);
        }
        if !self.unsynced.is_empty() && self.sync_at.is_none() {
            self.sync_at = Some(now + self.options.sync_interval);
        }
        self.seal_at = (!sealed && self.is_idle()).then(|| now + self.options.seal_after);
    }

    fn progress(&mut self, entries: Vec<(GroupId, Index, Term)>, out: &mut Outbox<Out>) {
        let in_order = self.durable <= self.acknowledgeable && self.acknowledgeable <= self.written;
        assert!(in_order, "what is durable may be acknowledged, and what may be acknowledged is written");
        out.push(Out::Progress { acknowledgeable: self.acknowledgeable, durable: self.durable, entries });
    }

    /// Everything appended is durable.
    fn is_idle(&self) -> bool {
        let queued = self.filling.is_some() || !self.closed.is_empty() || !self.unsynced.is_empty();
        !queued && self.write.is_none() && self.sync.is_none() && self.restore.is_none()
    }

    // Timers.

    fn on_timer(&mut self, now: Time, out: &mut Outbox<Out>) {
        if self.halted {
            return;
        }
        if self.sync_at.is_some_and(|at| at <= now) {
            self.sync_at = None;
            if let (Some(current), None, false) = (self.current, &self.sync, self.unsynced.is_empty()) {
                self.start_sync(now, current.id, false, out);
            }
        }
        if self.seal_at.is_some_and(|at| at <= now) {
            self.seal_at = None;
            if self.is_idle() {
                self.seal(now, out);
            }
        }
        if self.tail_is_sure && self.segments.deadline().is_some_and(|at| at <= now) {
            self.make_spare(now, out);
            self.tidy_files(now, out);
        }
        self.write_witness(now, out);
    }

    /// Writes a batch without records: it names the last one, which from then on cannot pass for a torn tail.
    fn seal(&mut self, now: Time, out: &mut Outbox<Out>) {
        let batch = Batch::new(self.cursor.segment, self.cursor.offset, self.nonce, self.next_lsn, EMPTY_BATCH_SIZE as usize);
        self.cursor.offset += EMPTY_BATCH_SIZE;
        Sometimes::IdleLogSealed.reached();
        self.counters.seals += 1;
        // It says of itself what the batch before it said: it acknowledges nothing.
        self.write_batch(now, batch, None, self.last_batch_lossy, out);
    }

    // Reading.

    fn on_read(&mut self, limits: &Limits, read: ReadFor, wanted: Wanted, out: &mut Outbox<Out>) {
        let place = wanted.place();
        let unwritten = self.read_unwritten(place);
        if place.length == 0 || unwritten.is_some() {
            Sometimes::UnwrittenRead.when(unwritten.is_some());
            self.counters.reads_from_memory += 1;
            out.push(answer(self.nonce, read, wanted, unwritten.unwrap_or_default()));
        } else if self.reads.is_full(limits) {
            out.push(refuse(read, wanted, ReadError::Overloaded));
        } else {
            let io = self.new_io();
            self.reads.wait(io, read, wanted);
            out.push(Out::Disk(io, DiskOp::Read { place }));
        }
    }

    /// The bytes at `place`, when they are in a batch whose write was not answered yet.
    fn read_unwritten(&self, place: Place) -> Option<Bytes> {
        let in_flight = self.write.as_ref().and_then(|write| write.batch.as_ref());
        let newer =
            (place.segment, place.offset) >= (self.current.map_or(SegmentId::ZERO, |current| current.id), self.current_end);
        if !newer {
            return in_flight.and_then(|batch| batch.read(place));
        }
        self.closed.iter().map(|(batch, _)| batch).chain(&self.filling).find_map(|batch| batch.read(place))
    }
}

impl Actor for Log {
    type In = In;
    type Out = Out;

    fn handle(&mut self, cx: &mut Context<'_>, input: In, out: &mut Outbox<Out>) {
        match input {
            In::Append(record) => self.on_append(record, out),
            In::ReadValue(read, place) => self.on_read(cx.limits, read, Wanted::Value(place), out),
            In::ReadEntry(read, place) => self.on_read(cx.limits, read, Wanted::Entry(place), out),
            In::ReadBlock(place) => {
                let (io, read) = (self.new_io(), ReadFor { group: GroupId::RING, tag: 0 });
                self.reads.wait(io, read, Wanted::Block(place));
                out.push(Out::Disk(io, DiskOp::Read { place }));
            }
            In::Free(segment) => self.segments.free(segment),
            In::Disk(io, result) => self.on_disk(cx.now, io, result, out),
            In::Flush => self.on_flush(cx.now, out),
            In::Timer => self.on_timer(cx.now, out),
        }
    }

    fn deadline(&self) -> Option<(Time, TimerKind)> {
        if self.halted {
            return None;
        }
        let due = [self.sync_at, self.seal_at, self.segments.deadline(), self.witness.deadline()];
        due.into_iter().flatten().min().map(|at| (at, TimerKind::Log))
    }

    fn check(&self) {
        assert!(self.durable <= self.last_lsn(), "only what was appended is durable");
        assert!(self.durable <= self.acknowledgeable, "what is durable may be acknowledged");
        assert!(self.acknowledgeable <= self.written || self.halted, "only what was written is acknowledged");
        assert!(self.durable_sequence < self.next_sequence, "only what was written is durable");
        assert!(self.cursor.offset <= self.cursor.capacity, "the next batch begins within its segment");
        let mut position = self.current.map(|current| (current.id, self.current_end));
        let mut lsn = self.unsynced.back().map(|unsynced| unsynced.last_lsn.next());
        for batch in self.closed.iter().map(|(batch, _)| batch).chain(&self.filling) {
            if let Some((segment, end)) = position {
                let follows = if batch.segment == segment { batch.offset == end } else { batch.offset == SEGMENT_HEADER_SIZE };
                assert!(follows, "batches stand one behind the other");
            }
            assert!(batch.count > 0, "a batch that waits has records");
            assert!(lsn.is_none_or(|lsn| lsn == batch.first_lsn), "positions have no gap");
            position = Some((batch.segment, batch.offset + batch.length()));
            lsn = Some(batch.last_lsn().next());
        }
        assert!(lsn.is_none_or(|lsn| lsn == self.next_lsn), "positions have no gap");
        self.segments.check();
        self.witness.check(self.durable);
    }
}
