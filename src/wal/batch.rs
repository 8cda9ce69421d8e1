//! A batch being filled: records go in, and their place is known at once; values are shared, not copied.
//!
//! The batch's start is fixed when it is begun, since all batches before it are closed by then and their lengths known. Three
//! things are not known until it is written: its sequence, the chain, and what is durable. They stand in the header in front,
//! whose size is fixed, and in the footer behind. Moves: filling -> (closed, waiting) -> [`Batch::finish`] -> written.

use super::Record;
use super::format::{
    BATCH_HEADER_SIZE, BatchHeader, Copied, DIRECTORY_ENTRY_SIZE, Kind, RECORD_FORGOT, RECORD_HEADER_SIZE, RECORD_JOINS,
    RECORD_KEY_FORM, RECORD_LAST, RECORD_LENGTH_MAX, RECORD_PRESENT, RecordHeader, TRAILER_SIZE, Trailer, encode_place,
    fold_body, salt,
};
use crate::base::hash::checksum;
use crate::base::limits::COUNTER_MAX;
use crate::base::{GroupId, Index, Lsn, Place, SegmentId, Term};
use crate::msg::codec;
use crate::msg::log::{Entry, Fact, Placed, ValuePlace};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Values below this are copied next to their header: one more piece to write costs more than the copy. In bytes.
const COPY_BELOW: usize = 1024;

/// A record, taken apart into what is encoded: a header, and bytes behind it.
#[derive(Debug)]
pub struct Parts {
    kind: Kind,
    header: RecordHeader,
    key: Bytes,
    value: Bytes,
}

impl Parts {
    pub fn of(record: Record) -> Parts {
        let empty = RecordHeader::default();
        let (kind, header, key, value) = match record {
            Record::Epoch { epoch, forgot } => {
                let flags = if forgot { RECORD_FORGOT } else { 0 };
                (Kind::Epoch, RecordHeader { flags, index: epoch.0, ..empty }, Bytes::new(), Bytes::new())
            }
            Record::Stands { group, last, whole, is_last } => {
                let flags = if whole { RECORD_PRESENT } else { 0 } | if is_last { RECORD_LAST } else { 0 };
                let (index, term) = (last.index.0, last.term.0);
                (Kind::Stands, RecordHeader { flags, group: group.0, index, term, ..empty }, Bytes::new(), Bytes::new())
            }
            Record::Formation(formation) => (Kind::Formation, empty, Bytes::new(), codec::encode(&formation).into()),
            Record::PeerMark(node, mark) => {
                let header = RecordHeader { node: node.0, index: mark.durable.0, term: mark.epoch.0, ..empty };
                (Kind::PeerMark, header, Bytes::new(), Bytes::new())
            }
            Record::HardState(group, state) => {
                let flags = if state.vote.is_some() { RECORD_PRESENT } else { 0 };
                let node = state.vote.map_or(0, |node| node.0);
                let (term, index, commit) = (state.term.0, state.commit.0, state.commit.0);
                (
                    Kind::HardState,
                    RecordHeader { flags, node, group: group.0, index, term, commit, ..empty },
                    Bytes::new(),
                    Bytes::new(),
                )
            }
            Record::Entry(group, Entry { index, term, fact }, commit) => {
                let header = RecordHeader { group: group.0, index: index.0, term: term.0, commit: commit.0, ..empty };
                match fact {
                    Fact::Noop => (Kind::Noop, header, Bytes::new(), Bytes::new()),
                    Fact::Write { key, value } => {
                        let present = if value.is_some() { RECORD_PRESENT } else { 0 };
                        let (form, key) =
                            if key.is_plain() { (0, key.into_bytes()) } else { (RECORD_KEY_FORM, codec::encode(&key).into()) };
                        (Kind::Write, RecordHeader { flags: present | form, ..header }, key, value.unwrap_or_default())
                    }
                    Fact::Configuration(configuration) => {
                        (Kind::Configuration, header, codec::encode(&*configuration).into(), Bytes::new())
                    }
                    Fact::Transaction(fact) => (Kind::Transaction, header, codec::encode(&fact.stored()).into(), fact.values()),
                }
            }
            Record::Clean => (Kind::Clean, empty, Bytes::new(), Bytes::new()),
            Record::CaughtUp => (Kind::CaughtUp, empty, Bytes::new(), Bytes::new()),
            Record::Leaf { group, fence, page } => {
                (Kind::Leaf, RecordHeader { group: group.0, ..empty }, head(&fence, &page), page)
            }
            Record::Parts(group, parts) => (Kind::Parts, RecordHeader { group: group.0, ..empty }, head(&[], &parts), parts),
            Record::Root(group, root) => {
                let header = RecordHeader {
                    group: group.0,
                    index: root.begin.0,
                    term: root.base.term.0,
                    commit: root.base.index.0,
                    ..empty
                };
                let configuration = root.configuration.map_or_else(Vec::new, |configuration| codec::encode(&*configuration));
                let places: Bytes = root.pieces.iter().flat_map(|place| encode_place(*place)).collect();
                (Kind::Root, header, head(&configuration, &places), places)
            }
            Record::Piece { group, base, snapshot, number, is_last, joins, parts, values } => {
                let flags = if is_last { RECORD_PRESENT } else { 0 } | if joins { RECORD_JOINS } else { 0 };
                let (index, term) = (base.index.0, base.term.0);
                let key = [&snapshot.to_le_bytes()[..], &parts].concat().into();
                (Kind::Piece, RecordHeader { flags, group: group.0, index, term, commit: number, ..empty }, key, values)
            }
            Record::Moved { group, parts, values } => (Kind::Moved, RecordHeader { group: group.0, ..empty }, parts, values),
            Record::Manifest(manifest) => (Kind::Manifest, empty, head(&codec::encode(&manifest), &[]), Bytes::new()),
        };
        // Recovery does not believe larger ones. What comes from outside is bounded where it comes in.
        let numbers = header.index.max(header.term).max(header.commit);
        assert!(
            numbers <= COUNTER_MAX,
            "a record of kind {kind:?} with the number {numbers}: nothing larger than {COUNTER_MAX} is logged"
        );
        let parts = Parts { kind, header, key, value };
        assert!(parts.record_length() <= RECORD_LENGTH_MAX, "a record of {} bytes: senders bound them", parts.record_length());
        parts
    }

    /// Bytes of the record.
    pub fn record_length(&self) -> usize {
        RECORD_HEADER_SIZE + self.key.len() + self.value.len()
    }

    /// Bytes by which the record lengthens a batch.
    pub fn footprint(&self) -> u32 {
        (self.record_length() + DIRECTORY_ENTRY_SIZE) as u32
    }

    /// Must be durable before anything is said in its name, however relaxed syncing is.
    fn is_urgent(&self) -> bool {
        matches!(self.kind, Kind::Epoch | Kind::HardState | Kind::Stands | Kind::Formation | Kind::Clean)
    }

    /// Whether it begins an epoch.
    pub fn opens_life(&self) -> bool {
        self.kind == Kind::Epoch
    }

    fn is_entry(&self) -> bool {
        self.kind.is_entry()
    }

    pub fn is_manifest(&self) -> bool {
        self.kind == Kind::Manifest
    }

    /// Whether the node is told where it lies: a part of a checkpoint or of a snapshot, or values that were moved.
    pub fn is_copy(&self) -> bool {
        self.kind.is_copy() || matches!(self.kind, Kind::Piece | Kind::Moved)
    }
}

/// The key part of a copy.
fn head(head: &[u8], body: &[u8]) -> Bytes {
    [&Copied::sum(body)[..], head].concat().into()
}

/// Bytes of a batch of nothing but one record of this footprint.
pub fn batch_length_alone(footprint: u32) -> u32 {
    BATCH_HEADER_SIZE as u32 + footprint + TRAILER_SIZE as u32
}

#[derive(Debug)]
enum Piece {
    Copied(Vec<u8>),
    Shared(Bytes),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Copied(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        }
    }
}

/// A batch that takes records, or waits to be written.
#[derive(Debug)]
pub struct Batch {
    pub segment: SegmentId,
    /// Where it begins, in bytes from the segment's start.
    pub offset: u32,
    nonce: u64,
    /// The first is `Copied`, and begins with the space for the batch's header.
    pieces: Vec<Piece>,
    /// Bytes of header and records so far.
    records_end: u32,
    directory: Vec<u8>,
    body: u64,
    pub first_lsn: Lsn,
    pub count: u32,
    urgent: bool,
    ends_clean: bool,
    has_caught_up: bool,
    last_entries: BTreeMap<GroupId, (Index, Term)>,
}

/// A batch as it is written.
#[derive(Debug)]
pub struct Finished {
    pub segment: SegmentId,
    pub offset: u32,
    pub length: u32,
    pub data: Vec<Bytes>,
    /// What the next batch names.
    pub chain: u64,
    pub last_lsn: Lsn,
    pub count: u32,
    pub urgent: bool,
    /// The last entry of each group in it.
    pub last_entries: Vec<(GroupId, Index, Term)>,
}

impl Batch {
    pub fn new(segment: SegmentId, offset: u32, nonce: u64, first_lsn: Lsn, capacity_hint: usize) -> Batch {
        let mut front = Vec::with_capacity(capacity_hint.max(BATCH_HEADER_SIZE + TRAILER_SIZE));
        front.resize(BATCH_HEADER_SIZE, 0);
        Batch {
            segment,
            offset,
            nonce,
            pieces: vec![Piece::Copied(front)],
            records_end: BATCH_HEADER_SIZE as u32,
            directory: Vec::new(),
            body: 0,
            first_lsn,
            count: 0,
            urgent: false,
            ends_clean: false,
            has_caught_up: false,
            last_entries: BTreeMap::new(),
        }
    }

    /// Bytes of the batch if it is written as it is.
    pub fn length(&self) -> u32 {
        self.records_end + self.directory.len() as u32 + TRAILER_SIZE as u32
    }

    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0 + u64::from(self.count) - 1)
    }

    /// Bytes of its records.
    pub fn record_bytes(&self) -> u64 {
        u64::from(self.records_end) - BATCH_HEADER_SIZE as u64
    }

    /// Whether its last record is [`Record::Clean`].
    pub fn ends_clean(&self) -> bool {
        self.ends_clean
    }

    /// Whether any of its records is [`Record::CaughtUp`].
    pub fn has_caught_up(&self) -> bool {
        self.has_caught_up
    }

    /// Puts a record in. Says where it lies, and more of it when it is an entry.
    pub fn push(&mut self, parts: Parts) -> (Place, Option<Placed>) {
        let length = parts.record_length() as u32;
        let at = self.offset + self.records_end;
        let value_hash = checksum(0, &parts.value);
        let header = RecordHeader {
            kind: parts.kind.number(),
            length,
            key_length: parts.key.len() as u32,
            position: self.count,
            value_checksum: value_hash as u32,
            ..parts.header
        };
        let sum = self.push_bytes(&header, &parts, at);
        header.encode_directory_entry(sum, &mut self.directory);
        self.body = fold_body(self.body, value_hash);
        self.urgent |= parts.is_urgent();
        self.ends_clean = parts.kind == Kind::Clean;
        self.has_caught_up |= parts.kind == Kind::CaughtUp;
        self.records_end += length;
        let lsn = Lsn(self.first_lsn.0 + u64::from(self.count));
        self.count += 1;
        let record = Place { segment: self.segment, offset: at, length };
        let (group, index, term) = (header.group(), header.index(), header.term());
        // With the last piece of a state the replica has all up to its base.
        if parts.is_entry() || parts.kind == Kind::Piece && header.flags & RECORD_PRESENT != 0 {
            let last = self.last_entries.entry(group).or_insert((index, term));
            // Entries behind the last piece's base may stay.
            if parts.is_entry() || last.0 < index {
                *last = (index, term);
            }
        }
        if !parts.is_entry() {
            return (record, None);
        }
        let has_value = header.flags & RECORD_PRESENT != 0 || parts.kind == Kind::Transaction;
        let value = has_value.then(|| ValuePlace {
            place: Place { segment: self.segment, offset: at + header.value_at() as u32, length: parts.value.len() as u32 },
            checksum: header.value_checksum,
        });
        (record, Some(Placed { group, index, term, lsn, record, value }))
    }

    /// Encodes the record behind what there is; returns its header's checksum.
    fn push_bytes(&mut self, header: &RecordHeader, parts: &Parts, at: u32) -> u64 {
        if matches!(self.pieces.last(), Some(Piece::Shared(_))) {
            self.pieces.push(Piece::Copied(Vec::with_capacity(RECORD_HEADER_SIZE + parts.key.len())));
        }
        let Some(Piece::Copied(run)) = self.pieces.last_mut() else { unreachable!("a batch begins with a copied piece") };
        let from = run.len();
        run.resize(from + RECORD_HEADER_SIZE, 0);
        run.extend_from_slice(&parts.key);
        let sum = header.encode(salt(self.nonce, self.segment, at), &mut run[from..]);
        if parts.value.len() < COPY_BELOW {
            run.extend_from_slice(&parts.value);
        } else {
            self.pieces.push(Piece::Shared(parts.value.clone()));
        }
        sum
    }

    /// The batch as it goes to the disk. Of `stamp`, length, count, first LSN and nonce are the batch's own.
    pub fn finish(mut self, stamp: BatchHeader) -> Finished {
        let length = self.length();
        let header = BatchHeader { length, count: self.count, nonce: self.nonce, first_lsn: self.first_lsn, ..stamp };
        let (encoded, header_sum) = header.encode(self.segment, self.offset);
        let footer_at = self.offset + self.records_end;
        let trailer = Trailer { count: self.count, length, body: checksum(header_sum, &self.body.to_le_bytes()) };
        let mut footer = std::mem::take(&mut self.directory);
        let chain = trailer.encode(salt(self.nonce, self.segment, footer_at), &mut footer);
        match self.pieces.first_mut() {
            Some(Piece::Copied(front)) => front[..BATCH_HEADER_SIZE].copy_from_slice(&encoded),
            _ => unreachable!("a batch begins with a copied piece"),
        }
        match self.pieces.last_mut() {
            Some(Piece::Copied(run)) => run.extend_from_slice(&footer),
            _ => self.pieces.push(Piece::Copied(footer)),
        }
        let data = self.pieces.into_iter().map(|piece| match piece {
            Piece::Copied(bytes) => Bytes::from(bytes),
            Piece::Shared(bytes) => bytes,
        });
        let data: Vec<Bytes> = data.collect();
        debug_assert_eq!(data.iter().map(Bytes::len).sum::<usize>(), length as usize);
        Finished {
            segment: self.segment,
            offset: self.offset,
            length,
            data,
            chain,
            last_lsn: Lsn(self.first_lsn.0 + u64::from(self.count) - 1),
            count: self.count,
            urgent: self.urgent,
            last_entries: self.last_entries.into_iter().map(|(group, (index, term))| (group, index, term)).collect(),
        }
    }

    /// The bytes at `place`, if they are among the records put in so far.
    pub fn read(&self, place: Place) -> Option<Bytes> {
        let within = place.segment == self.segment && place.offset >= self.offset;
        if !within || u64::from(place.offset - self.offset) + u64::from(place.length) > u64::from(self.records_end) {
            return None;
        }
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Shared(bytes) => (piece.bytes(), Some(bytes)),
            Piece::Copied(_) => (piece.bytes(), None),
        });
        Some(gather(pieces, (place.offset - self.offset) as usize, place.length as usize))
    }
}

impl Finished {
    /// The bytes at `place`, if they are in it.
    pub fn read(&self, place: Place) -> Option<Bytes> {
        let within = place.segment == self.segment && place.offset >= self.offset;
        if !within || u64::from(place.offset - self.offset) + u64::from(place.length) > u64::from(self.length) {
            return None;
        }
        let pieces = self.data.iter().map(|bytes| (&bytes[..], Some(bytes)));
        Some(gather(pieces, (place.offset - self.offset) as usize, place.length as usize))
    }
}

/// `length` bytes from `from` of the pieces strung together: shared when they lie in one shared piece, else copied. A few
/// bytes are always copied: sharing them would keep all of their batch in memory.
fn gather<'a>(pieces: impl Iterator<Item = (&'a [u8], Option<&'a Bytes>)>, from: usize, length: usize) -> Bytes {
    let mut copied = Vec::new();
    let mut start = 0;
    for (bytes, shared) in pieces {
        let end = start + bytes.len();
        let (low, high) = (from.max(start), (from + length).min(end));
        if low < high {
            let range = low - start..high - start;
            match shared {
                Some(shared) if range.len() == length && length >= COPY_BELOW => return shared.slice(range),
                _ => copied.extend_from_slice(&bytes[range]),
            }
        }
        start = end;
    }
    Bytes::from(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_spans_pieces_is_put_together() {
        let (a, b) = (Bytes::from_static(b"abc"), Bytes::from_static(b"defg"));
        let pieces = || [(&a[..], Some(&a)), (&b[..], Some(&b))].into_iter();
        assert_eq!(&gather(pieces(), 1, 4)[..], b"bcde");
        assert_eq!(&gather(pieces(), 3, 4)[..], b"defg");
        assert_eq!(gather(pieces(), 3, 0).len(), 0);
    }

    #[test]
    fn a_small_put_costs_less_than_190_bytes_and_a_record_in_company_less_than_110() {
        let mut batch = Batch::new(SegmentId(1), 0, 0, Lsn(1), 0);
        let fact = Fact::Write { key: "key".into(), value: Some(Bytes::from_static(b"value")) };
        for index in 1..=100 {
            let entry = Entry { index: Index(index), term: Term(1), fact: fact.clone() };
            batch.push(Parts::of(Record::Entry(GroupId(1), entry, Index(0))));
            if index == 1 {
                assert!(batch.length() < 8 + 190);
            }
        }
        assert!(batch.length() < 100 * (8 + 110));
    }
}
