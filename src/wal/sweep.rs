//! A segment of a running node's log, read from front to end for the values in it.
//!
//! ```text
//! where to read next -> (the disk) -> values, with their keys and places -> ... -> the end
//! ```
//!
//! Nothing is asked of the order of batches, as recovery asks it: what is found is only ever used if the index points at just that
//! place. So what an earlier epoch has left behind a cut does no harm, and a batch that is not whole ends the sweep: what lies
//! behind it stays where it is.

use super::format::{
    BATCH_HEADER_SIZE, BatchHeader, Kind, RECORD_HEADER_SIZE, RECORD_LENGTH_MAX, RecordHeader, SEGMENT_HEADER_SIZE, salt,
};
use super::replay::{fact_of, piece_of};
use crate::base::{GroupId, Index, Key, Place, SegmentId};
use crate::msg::log::{FactSummary, ValuePlace};
use crate::msg::transaction::Stored;
use crate::state::{Part, decode_piece, placed};
use bytes::Bytes;

/// How far a segment has been swept.
#[derive(Debug)]
pub struct Sweep {
    segment: SegmentId,
    /// Bytes of its file.
    size: u32,
    /// Bytes read at a time, unless one record is larger.
    block: u32,
    at: u32,
    /// Records of the batch that are still to come, and where the batch ends.
    left: u32,
    batch_end: u32,
    /// Bytes to be read at least, so that it gets on.
    least: u32,
    is_over: bool,
}

/// A value that a record holds, for whoever has it in an index.
#[derive(Debug)]
pub struct Found {
    pub group: GroupId,
    pub key: Key,
    pub place: Place,
    pub value: Bytes,
}

impl Sweep {
    pub fn of(segment: SegmentId, size: u32, block: u32) -> Sweep {
        let (at, least) = (SEGMENT_HEADER_SIZE, BATCH_HEADER_SIZE as u32);
        Sweep { segment, size, block, at, left: 0, batch_end: 0, least, is_over: false }
    }

    /// What to read next; `None`: all was read that can be.
    pub fn next(&self) -> Option<Place> {
        let left = self.size.saturating_sub(self.at);
        let length = self.least.max(self.block).min(left);
        (!self.is_over && left >= self.least).then_some(Place { segment: self.segment, offset: self.at, length })
    }

    /// Takes what stands where [`Sweep::next`] said; gives `visit` the values in it. `None`: it cannot be read.
    pub fn take(&mut self, nonce: u64, block: Option<&Bytes>, visit: &mut dyn FnMut(Found)) {
        let Some(block) = block else {
            self.is_over = true;
            return;
        };
        let from = self.at;
        while !self.is_over {
            let rest = block.slice((self.at - from) as usize..);
            let before = self.at;
            if self.left == 0 {
                self.least = BATCH_HEADER_SIZE as u32;
                if rest.len() < BATCH_HEADER_SIZE {
                    return;
                }
                self.enter(nonce, &rest);
            } else {
                self.least = RECORD_HEADER_SIZE as u32;
                if rest.len() < RECORD_HEADER_SIZE {
                    return;
                }
                let length = RecordHeader::decode_fields(&rest).length;
                if length as usize > RECORD_LENGTH_MAX || length > self.batch_end - self.at {
                    self.is_over = true;
                    return;
                }
                if rest.len() < length as usize {
                    self.least = length;
                    return;
                }
                self.pass(nonce, rest.slice(..length as usize), visit);
            }
            self.is_over |= self.at <= before;
            // A batch's footer may reach beyond the block.
            if (self.at - from) as usize >= block.len() {
                return;
            }
        }
    }

    /// Begins with the batch that should stand here.
    fn enter(&mut self, nonce: u64, bytes: &[u8]) {
        let header = BatchHeader::decode(self.segment, self.at, bytes).filter(|(header, _)| header.nonce == nonce);
        let end = header.and_then(|(header, _)| self.at.checked_add(header.length)).filter(|end| *end <= self.size);
        let (Some((header, _)), Some(end)) = (header, end) else {
            self.is_over = true;
            return;
        };
        (self.left, self.batch_end) = (header.count, end);
        self.at = if header.count > 0 { self.at + BATCH_HEADER_SIZE as u32 } else { end };
    }

    /// Goes behind a record.
    fn pass(&mut self, nonce: u64, bytes: Bytes, visit: &mut dyn FnMut(Found)) {
        let place = Place { segment: self.segment, offset: self.at, length: bytes.len() as u32 };
        let Some((header, _)) = RecordHeader::decode(salt(nonce, self.segment, self.at), &bytes) else {
            self.is_over = true;
            return;
        };
        for (key, value) in values_of(&header, place, &bytes) {
            let from = (value.place.offset - place.offset) as usize;
            let (group, place) = (header.group(), value.place);
            visit(Found { group, key, place, value: bytes.slice(from..from + place.length as usize) });
        }
        self.left -= 1;
        self.at = if self.left > 0 { self.at + header.length } else { self.batch_end };
    }
}

/// The values in a record of which the header is whole, with their keys, and places within the record's.
fn values_of(header: &RecordHeader, place: Place, bytes: &[u8]) -> Vec<(Key, ValuePlace)> {
    let value_at = header.value_at() as u32;
    let area = Place { segment: place.segment, offset: place.offset + value_at, length: place.length - value_at };
    match Kind::from_number(header.kind) {
        Some(Kind::Write | Kind::Transaction) => match fact_of(place.segment, place.offset, header, bytes) {
            Ok(FactSummary::Write { key, value }) => value.map(|value| (key, value)).into_iter().collect(),
            Ok(FactSummary::Transaction(fact)) => {
                fact.writes().iter().filter_map(|write| Some((write.key.clone(), write.value?))).collect()
            }
            _ => Vec::new(),
        },
        Some(Kind::Piece) => piece_of(header, bytes).map_or_else(Vec::new, |(_, parts, _)| places_of(parts, area)),
        Some(Kind::Moved) => moved_of(header, bytes).map_or_else(Vec::new, |parts| places_of(parts, area)),
        _ => Vec::new(),
    }
}

/// The items whose values a record holds that were moved.
pub(super) fn moved_of(header: &RecordHeader, bytes: &[u8]) -> Option<Vec<Part<Stored>>> {
    let (key, values) = bytes[RECORD_HEADER_SIZE..].split_at(header.key_length as usize);
    decode_piece(&Bytes::copy_from_slice(key), values, Index(u64::MAX)).map(|(parts, _)| parts)
}

/// The values of parts, one behind the other in `area`.
fn places_of(parts: Vec<Part<Stored>>, area: Place) -> Vec<(Key, ValuePlace)> {
    let mut values = Vec::new();
    for part in placed(parts, area) {
        match part {
            Part::Item { key, value: Some(value), .. } => values.push((key, value)),
            Part::Prepared { writes, .. } => {
                values.extend(writes.0.into_iter().filter_map(|write| Some((write.key, write.value?))));
            }
            _ => {}
        }
    }
    values
}
