//! Where a walk of the log stands, and the check of the batch that should stand there.

use super::error::RecoverError;
use super::format::{
    BATCH_BEGAN_LOSSY, BATCH_HEADER_SIZE, BATCH_LENGTH_MAX, BATCH_LOSSY, BatchHeader, DIRECTORY_ENTRY_SIZE, EMPTY_BATCH_SIZE,
    FORMAT_VERSION, Kind, RecordHeader, SEGMENT_HEADER_SIZE, SegmentHeader, TRAILER_SIZE, Trailer, fold_body, footer_size, salt,
};
use super::segments::Segment;
use super::window::Window;
use super::witness::{self, End};
use crate::base::hash::checksum;
use crate::base::limits::COUNTER_MAX;
use crate::base::{DirectoryId, Epoch, Lsn, Place, SegmentId, Sometimes};
use bytes::Bytes;
use std::collections::BTreeMap;

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
            None if id == start => has_right_numbers(header),
            None => (header.previous_length, header.previous_chain, header.first_sequence, header.first_lsn) == (0, 0, 1, Lsn(1)),
            Some(_) => header.epoch >= self.epoch,
        };
        if !right || header.size < SEGMENT_HEADER_SIZE + EMPTY_BATCH_SIZE {
            return Err(damaged(id, 0, "the segment's header contradicts the log before it".to_string()));
        }
        if self.segment.is_none() {
            (self.next_sequence, self.next_lsn) = (header.first_sequence, header.first_lsn);
        }
        self.begin_segment(id, header);
        Ok(())
    }

    /// Stands where the segment's first batch should.
    pub(super) fn begin_segment(&mut self, id: SegmentId, header: &SegmentHeader) {
        self.chain = header.chain();
        self.segment = Some(Segment { id, size: header.size, is_recycled: header.is_recycled });
        self.end = SEGMENT_HEADER_SIZE;
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

/// Whether its first batch and record have numbers such as there are.
pub(super) fn has_right_numbers(header: &SegmentHeader) -> bool {
    [header.first_sequence, header.first_lsn.0].iter().all(|number| (1..=COUNTER_MAX).contains(number))
}

/// Whether another epoch can follow this one.
pub(super) fn is_epoch(epoch: Epoch) -> bool {
    epoch.0 <= COUNTER_MAX && epoch.following(u64::MAX).0 <= COUNTER_MAX
}

pub(super) fn damaged(segment: SegmentId, offset: u32, what: String) -> RecoverError {
    RecoverError::Damaged { segment, offset, what, groups: None }
}

/// A batch of which every byte was checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) offset: u32,
    pub(super) header: BatchHeader,
    pub(super) chain: u64,
}

impl Checked {
    /// The records of the batch, whose bytes these are: where each stands in its segment, its header, and its bytes.
    pub(super) fn records<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = (u32, RecordHeader, &'a [u8])> + use<'a> {
        let (offset, mut at) = (self.offset, BATCH_HEADER_SIZE);
        (0..self.header.count).map(move |_| {
            let (from, record) = (at, RecordHeader::decode_fields(&bytes[at..]));
            at += record.length as usize;
            (offset + from as u32, record, &bytes[from..at])
        })
    }
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
