//! The bytes of the log: segment headers, batch headers, records, the footer's directory and its trailer.
//!
//! `FORMAT.md`, beside this file, has the layouts as tables and the argument for each field. All numbers are little-endian.
//! Decoding checks everything it relies on and answers `None` or an error for any other bytes; it never panics and allocates
//! nothing.

use crate::base::hash::checksum;
use crate::base::{DirectoryId, Epoch, GroupId, Index, Key, Lsn, NodeId, Place, SegmentId, Term};
use crate::msg::codec;
use bytes::Bytes;

/// The version that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 3;

/// Bytes of one copy of a segment's header: one sector, so that a copy is there or is not.
pub const SEGMENT_HEADER_COPY_SIZE: usize = 512;
/// Bytes of a segment's header: two copies. The first batch begins behind it.
pub const SEGMENT_HEADER_SIZE: u32 = 2 * SEGMENT_HEADER_COPY_SIZE as u32;
pub const BATCH_HEADER_SIZE: usize = 72;
pub const RECORD_HEADER_SIZE: usize = 56;
pub const DIRECTORY_ENTRY_SIZE: usize = 36;
pub const TRAILER_SIZE: usize = 24;
/// Bytes of a batch without records: what a seal takes. Kept free at the end of every segment.
pub const EMPTY_BATCH_SIZE: u32 = (BATCH_HEADER_SIZE + TRAILER_SIZE) as u32;
/// The longest batch that is believed, in bytes: what recovery holds in memory of a segment.
pub const BATCH_LENGTH_MAX: u32 = 16 * 1024 * 1024;
/// The longest record, in bytes: a batch of it alone is below [`BATCH_LENGTH_MAX`].
pub const RECORD_LENGTH_MAX: usize = 12 * 1024 * 1024;

const SEGMENT_MAGIC: [u8; 8] = *b"RINGSEG\n";
/// Begins every batch. No zero byte, and unlikely in text.
pub const BATCH_MAGIC: [u8; 4] = [0xB7, 0x52, 0xE1, 0x9D];
const SEGMENT_CHECKSUM_AT: usize = 120;

/// This epoch acknowledged before syncing, or began without knowing that nothing acknowledged was lost, and has not made up for
/// it.
pub const BATCH_LOSSY: u16 = 1;
/// This epoch began so. It says so besides [`BATCH_LOSSY`]: what was missing then is missing on a machine that stayed up, too.
pub const BATCH_BEGAN_LOSSY: u16 = 2;

/// Record flag: the write has a value (else it deletes), or the hard state has a vote.
pub const RECORD_PRESENT: u8 = 1;

/// Record flag: the write's key is not plain, and the key part is its CBOR form.
pub const RECORD_KEY_FORM: u8 = 2;
/// Of the last piece of a state: the log had the state's last entry, and what stands behind that stays.
pub const RECORD_JOINS: u8 = 4;
/// Of where a group stands: the node has no other group.
pub const RECORD_LAST: u8 = 8;
/// Of an epoch: the log before it was damaged, and something of it is forgotten.
pub const RECORD_FORGOT: u8 = 1;

/// What ties batches to the data directory that they were written for.
pub fn directory_nonce(directory: DirectoryId) -> u64 {
    checksum(0x5269_6e67, &directory.0.to_le_bytes())
}

/// The salt of a checksum at a place: right bytes in the wrong segment, at the wrong offset or of another directory do not pass.
pub fn salt(nonce: u64, segment: SegmentId, offset: u32) -> u64 {
    let place = (u64::from(segment.0) << 32) | u64::from(offset);
    nonce.wrapping_add(place.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Bytes of an encoded place.
pub const PLACE_SIZE: usize = 12;

pub fn encode_place(place: Place) -> [u8; PLACE_SIZE] {
    let mut out = [0; PLACE_SIZE];
    out[..4].copy_from_slice(&place.segment.0.to_le_bytes());
    out[4..8].copy_from_slice(&place.offset.to_le_bytes());
    out[8..].copy_from_slice(&place.length.to_le_bytes());
    out
}

pub fn place_at(bytes: &[u8], at: usize) -> Place {
    Place { segment: SegmentId(u32_at(bytes, at)), offset: u32_at(bytes, at + 4), length: u32_at(bytes, at + 8) }
}

/// What a segment says of itself, and of the end of the segment before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub version: u16,
    pub node: NodeId,
    pub segment: SegmentId,
    pub directory: DirectoryId,
    /// Of the first record in it.
    pub first_lsn: Lsn,
    /// Of the first batch in it.
    pub first_sequence: u64,
    /// The epoch that wrote this header.
    pub epoch: Epoch,
    /// Bytes of the file.
    pub size: u32,
    /// Where the segment before ends, in bytes: this seals it. 0 in the first segment.
    pub previous_length: u32,
    /// The chain at the end of the segment before. 0 in the first segment.
    pub previous_chain: u64,
    /// The record of the newest manifest that was durable.
    pub manifest: Option<Place>,
    /// The file was in use before: behind the end of the log it holds old bytes.
    pub is_recycled: bool,
}

impl SegmentHeader {
    /// Both copies.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = [0u8; SEGMENT_HEADER_COPY_SIZE];
        copy[..8].copy_from_slice(&SEGMENT_MAGIC);
        copy[8..10].copy_from_slice(&self.version.to_le_bytes());
        copy[10..12].copy_from_slice(&self.node.0.to_le_bytes());
        copy[12..16].copy_from_slice(&self.segment.0.to_le_bytes());
        copy[16..32].copy_from_slice(&self.directory.0.to_le_bytes());
        copy[32..40].copy_from_slice(&self.first_lsn.0.to_le_bytes());
        copy[40..48].copy_from_slice(&self.first_sequence.to_le_bytes());
        copy[48..56].copy_from_slice(&self.epoch.0.to_le_bytes());
        copy[56..60].copy_from_slice(&self.size.to_le_bytes());
        copy[60..64].copy_from_slice(&self.previous_length.to_le_bytes());
        copy[64..72].copy_from_slice(&self.previous_chain.to_le_bytes());
        copy[72..72 + PLACE_SIZE].copy_from_slice(&encode_place(self.manifest.unwrap_or_default()));
        copy[84] = u8::from(self.is_recycled);
        let sum = checksum(salt(0, self.segment, 0), &copy[..SEGMENT_CHECKSUM_AT]);
        copy[SEGMENT_CHECKSUM_AT..SEGMENT_CHECKSUM_AT + 8].copy_from_slice(&sum.to_le_bytes());
        [copy, copy].concat()
    }

    /// The header of `segment`, from whichever copy is whole. Magic, the version's place, and the checksum's place and span stay
    /// the same in all versions.
    pub fn decode(segment: SegmentId, bytes: &[u8]) -> Option<SegmentHeader> {
        bytes.chunks_exact(SEGMENT_HEADER_COPY_SIZE).take(2).find_map(|copy| Self::decode_copy(segment, copy))
    }

    fn decode_copy(segment: SegmentId, copy: &[u8]) -> Option<SegmentHeader> {
        let sum = checksum(salt(0, segment, 0), &copy[..SEGMENT_CHECKSUM_AT]);
        if copy[..8] != SEGMENT_MAGIC || u64_at(copy, SEGMENT_CHECKSUM_AT) != sum || u32_at(copy, 12) != segment.0 {
            return None;
        }
        Some(SegmentHeader {
            version: u16_at(copy, 8),
            node: NodeId(u16_at(copy, 10)),
            segment,
            directory: DirectoryId(u128::from_le_bytes(copy[16..32].try_into().expect("sixteen bytes"))),
            first_lsn: Lsn(u64_at(copy, 32)),
            first_sequence: u64_at(copy, 40),
            epoch: Epoch(u64_at(copy, 48)),
            size: u32_at(copy, 56),
            previous_length: u32_at(copy, 60),
            previous_chain: u64_at(copy, 64),
            manifest: Some(place_at(copy, 72)).filter(|place| place.length > 0),
            is_recycled: copy[84] != 0,
        })
    }

    /// Whether the file was another segment's, whose header is still in it.
    pub fn is_of_another(segment: SegmentId, bytes: &[u8]) -> bool {
        let copies = bytes.chunks_exact(SEGMENT_HEADER_COPY_SIZE).take(2);
        copies
            .map(|copy| (u32_at(copy, 12), copy))
            .any(|(other, copy)| other != segment.0 && Self::decode_copy(SegmentId(other), copy).is_some())
    }

    /// What the first batch of the segment names as the batch before it.
    pub fn chain(&self) -> u64 {
        let copy = self.encode();
        checksum(self.previous_chain, &copy[..SEGMENT_CHECKSUM_AT])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub version: u16,
    pub flags: u16,
    /// Bytes of the whole batch, header and footer included.
    pub length: u32,
    /// [`directory_nonce`].
    pub nonce: u64,
    /// Counts batches, from 1, over all segments and epochs.
    pub sequence: u64,
    pub epoch: Epoch,
    /// Of the first record in it, or of the next one to come when there is none.
    pub first_lsn: Lsn,
    /// The chain behind the batch before this: its trailer's checksum, or [`SegmentHeader::chain`].
    pub previous: u64,
    /// How many records.
    pub count: u32,
    /// How many of the batches before this were not known to be durable when it was cut; always 0 unless syncing is relaxed.
    pub behind: u32,
}

impl BatchHeader {
    /// The last batch that was durable when this batch was cut: it and all before it are *sealed* by this batch.
    pub fn seals(&self) -> u64 {
        self.sequence.saturating_sub(1).saturating_sub(u64::from(self.behind))
    }

    /// The header for a batch at `offset` of `segment`, and its checksum.
    pub fn encode(&self, segment: SegmentId, offset: u32) -> ([u8; BATCH_HEADER_SIZE], u64) {
        let mut out = [0u8; BATCH_HEADER_SIZE];
        out[..4].copy_from_slice(&BATCH_MAGIC);
        out[4..6].copy_from_slice(&self.version.to_le_bytes());
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..16].copy_from_slice(&self.count.to_le_bytes());
        out[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.first_lsn.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.previous.to_le_bytes());
        out[56..60].copy_from_slice(&self.behind.to_le_bytes());
        let sum = checksum(salt(self.nonce, segment, offset), &out[..64]);
        out[64..72].copy_from_slice(&sum.to_le_bytes());
        (out, sum)
    }

    /// The header at `offset` of `segment`, and its checksum, when `bytes` hold one. Says nothing about what follows it.
    pub fn decode(segment: SegmentId, offset: u32, bytes: &[u8]) -> Option<(BatchHeader, u64)> {
        if bytes.len() < BATCH_HEADER_SIZE || bytes[..4] != BATCH_MAGIC {
            return None;
        }
        let nonce = u64_at(bytes, 16);
        let sum = checksum(salt(nonce, segment, offset), &bytes[..64]);
        if u64_at(bytes, 64) != sum {
            return None;
        }
        let header = BatchHeader {
            version: u16_at(bytes, 4),
            flags: u16_at(bytes, 6),
            length: u32_at(bytes, 8),
            count: u32_at(bytes, 12),
            nonce,
            sequence: u64_at(bytes, 24),
            epoch: Epoch(u64_at(bytes, 32)),
            first_lsn: Lsn(u64_at(bytes, 40)),
            previous: u64_at(bytes, 48),
            behind: u32_at(bytes, 56),
        };
        Some((header, sum))
    }
}

/// What kind of record. New kinds take new numbers; an unknown number in a record whose checksum is right is a newer format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Epoch,
    Formation,
    PeerMark,
    HardState,
    Noop,
    Write,
    Clean,
    /// An entry that is a step of a transaction: the key part is its CBOR, the value part its values, one behind the other.
    Transaction,
    CaughtUp,
    /// An entry with the group's configuration from there on: the key part is its CBOR.
    Configuration,
    /// A copy of a leaf of a group's index.
    Leaf,
    /// A copy of what else is in a group's state, or of a part of it.
    Parts,
    /// Where the copies are that a group's state is made of.
    Root,
    /// Where the groups' roots are, and all else that a boot needs of the log before them.
    Manifest,
    /// A piece of a group's state, from its leader: the key part is the snapshot's name (8) and the parts, each behind its
    /// length, the value part their values, one behind the other.
    Piece,
    /// Values of a group's items, copied from a segment that is to go: the key part has the items, as the parts of a piece, the
    /// value part their values.
    Moved,
    /// Where a group's log ended when an epoch began that has forgotten something, and whether the group is whole.
    Stands,
}

impl Kind {
    pub fn number(self) -> u8 {
        match self {
            Kind::Epoch => 1,
            Kind::Formation => 2,
            Kind::PeerMark => 3,
            Kind::HardState => 4,
            Kind::Noop => 5,
            Kind::Write => 6,
            Kind::Clean => 7,
            Kind::Transaction => 8,
            Kind::CaughtUp => 9,
            Kind::Configuration => 10,
            Kind::Leaf => 11,
            Kind::Parts => 12,
            Kind::Root => 13,
            Kind::Manifest => 14,
            Kind::Piece => 15,
            Kind::Moved => 16,
            Kind::Stands => 17,
        }
    }

    /// Whether it is an entry of a group.
    pub fn is_entry(self) -> bool {
        matches!(self, Kind::Noop | Kind::Write | Kind::Transaction | Kind::Configuration)
    }

    /// Whether it is a part of a checkpoint.
    pub fn is_copy(self) -> bool {
        matches!(self, Kind::Leaf | Kind::Parts | Kind::Root | Kind::Manifest)
    }

    pub fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Epoch,
            2 => Kind::Formation,
            3 => Kind::PeerMark,
            4 => Kind::HardState,
            5 => Kind::Noop,
            6 => Kind::Write,
            7 => Kind::Clean,
            8 => Kind::Transaction,
            9 => Kind::CaughtUp,
            10 => Kind::Configuration,
            11 => Kind::Leaf,
            12 => Kind::Parts,
            13 => Kind::Root,
            14 => Kind::Manifest,
            15 => Kind::Piece,
            16 => Kind::Moved,
            17 => Kind::Stands,
            _ => return None,
        })
    }
}

/// A record's fixed part. What a field means depends on the kind; what a kind has no use for is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordHeader {
    /// [`Kind::number`].
    pub kind: u8,
    pub flags: u8,
    /// The vote, or the peer of a mark.
    pub node: u16,
    /// Bytes of the whole record: header, key, value.
    pub length: u32,
    pub key_length: u32,
    /// Which record of its batch, from 0: its LSN is the batch's first plus this.
    pub position: u32,
    pub group: u32,
    /// An entry's index; the epoch; a peer's LSN; a hard state's commit index.
    pub index: u64,
    pub term: u64,
    /// The group's commit index when the record was made.
    pub commit: u64,
    /// [`crate::base::hash::value_checksum`] of all behind the key.
    pub value_checksum: u32,
}

/// What a record that is a copy holds: its key part begins with 64 bits of checksum of its value part, since a copy is read by
/// its place alone.
#[derive(Debug)]
pub struct Copied<'a> {
    pub header: RecordHeader,
    /// The key part behind the checksum.
    pub head: &'a [u8],
    pub body: &'a [u8],
}

impl<'a> Copied<'a> {
    /// What the key part of a copy begins with.
    pub fn sum(body: &[u8]) -> [u8; 8] {
        checksum(0, body).to_le_bytes()
    }

    /// The copy of this kind at `place`, if `bytes`, which were read there, hold it and are whole.
    pub fn decode(nonce: u64, kind: Kind, place: Place, bytes: &'a [u8]) -> Option<Copied<'a>> {
        let (header, _) = RecordHeader::decode(salt(nonce, place.segment, place.offset), bytes)?;
        if header.kind != kind.number() || header.length as usize != bytes.len() || bytes.len() != place.length as usize {
            return None;
        }
        let (key, body) = bytes[RECORD_HEADER_SIZE..].split_at(header.key_length as usize);
        let (sum, head) = key.split_at_checked(8)?;
        (sum == Copied::sum(body)).then_some(Copied { header, head, body })
    }
}

impl RecordHeader {
    /// Encodes into the first [`RECORD_HEADER_SIZE`] bytes of `out`, behind which the key already stands; returns the checksum.
    pub fn encode(&self, salt: u64, out: &mut [u8]) -> u64 {
        out[8] = self.kind;
        out[9] = self.flags;
        out[10..12].copy_from_slice(&self.node.to_le_bytes());
        out[12..16].copy_from_slice(&self.length.to_le_bytes());
        out[16..20].copy_from_slice(&self.key_length.to_le_bytes());
        out[20..24].copy_from_slice(&self.position.to_le_bytes());
        out[24..28].copy_from_slice(&self.group.to_le_bytes());
        out[28..36].copy_from_slice(&self.index.to_le_bytes());
        out[36..44].copy_from_slice(&self.term.to_le_bytes());
        out[44..52].copy_from_slice(&self.commit.to_le_bytes());
        out[52..56].copy_from_slice(&self.value_checksum.to_le_bytes());
        let sum = checksum(salt, &out[8..RECORD_HEADER_SIZE + self.key_length as usize]);
        out[..8].copy_from_slice(&sum.to_le_bytes());
        sum
    }

    /// The header that `bytes` begin with, and its checksum, when header and key are whole and the record's length is within
    /// `bytes`. The value is not looked at.
    pub fn decode(salt: u64, bytes: &[u8]) -> Option<(RecordHeader, u64)> {
        if bytes.len() < RECORD_HEADER_SIZE {
            return None;
        }
        let header = Self::decode_fields(bytes);
        let value_at = RECORD_HEADER_SIZE.checked_add(header.key_length as usize)?;
        if value_at > header.length as usize || header.length as usize > bytes.len() {
            return None;
        }
        let sum = checksum(salt, &bytes[8..value_at]);
        (u64_at(bytes, 0) == sum).then_some((header, sum))
    }

    /// The fields of a header that [`RecordHeader::decode`] has found to be whole.
    pub fn decode_fields(bytes: &[u8]) -> RecordHeader {
        RecordHeader {
            kind: bytes[8],
            flags: bytes[9],
            node: u16_at(bytes, 10),
            length: u32_at(bytes, 12),
            key_length: u32_at(bytes, 16),
            position: u32_at(bytes, 20),
            group: u32_at(bytes, 24),
            index: u64_at(bytes, 28),
            term: u64_at(bytes, 36),
            commit: u64_at(bytes, 44),
            value_checksum: u32_at(bytes, 52),
        }
    }

    /// The key of a write, of which this is the key part; `None`: it is in no form of a key.
    pub fn written_key(&self, part: Bytes) -> Option<Key> {
        match self.flags & RECORD_KEY_FORM {
            0 => Some(Key::from(part)),
            _ => codec::decode::<Key>(&part).ok().filter(|key| !key.is_plain()),
        }
    }

    /// Where the value begins, in bytes from the record's start.
    pub fn value_at(&self) -> usize {
        RECORD_HEADER_SIZE + self.key_length as usize
    }

    /// Appends what the footer's directory says of this record.
    pub fn encode_directory_entry(&self, sum: u64, out: &mut Vec<u8>) {
        let mut entry = [0u8; DIRECTORY_ENTRY_SIZE];
        entry[0] = self.kind;
        entry[1] = self.flags;
        entry[2..4].copy_from_slice(&self.node.to_le_bytes());
        entry[4..8].copy_from_slice(&self.group.to_le_bytes());
        entry[8..12].copy_from_slice(&self.length.to_le_bytes());
        entry[12..20].copy_from_slice(&self.index.to_le_bytes());
        entry[20..28].copy_from_slice(&self.term.to_le_bytes());
        entry[28..36].copy_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&entry);
    }

    /// Whether `entry` of the footer's directory says the same as this header.
    pub fn agrees_with(&self, sum: u64, entry: &[u8]) -> bool {
        entry[0] == self.kind
            && entry[1] == self.flags
            && u16_at(entry, 2) == self.node
            && u32_at(entry, 4) == self.group
            && u32_at(entry, 8) == self.length
            && u64_at(entry, 12) == self.index
            && u64_at(entry, 20) == self.term
            && u64_at(entry, 28) == sum
    }
}

/// The group that an entry of the footer's directory is about; `None` for a record of no group.
pub fn directory_entry_group(entry: &[u8]) -> Option<GroupId> {
    let of_node = [Kind::Epoch, Kind::Formation, Kind::PeerMark, Kind::Clean, Kind::CaughtUp, Kind::Manifest];
    let of_group = Kind::from_number(entry[0]).is_none_or(|kind| !of_node.contains(&kind));
    of_group.then(|| GroupId(u32_at(entry, 4)))
}

/// Folds the next record's value into the body's checksum.
pub fn fold_body(body: u64, value_hash: u64) -> u64 {
    checksum(body, &value_hash.to_le_bytes())
}

/// The end of a batch, behind the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// As in the header.
    pub count: u32,
    /// As in the header.
    pub length: u32,
    /// Over the header's checksum and all values, 64 bits each.
    pub body: u64,
}

impl Trailer {
    /// Appends the trailer to `footer`, which holds the directory and will stand at `offset` of `segment`; returns the chain
    /// behind the batch.
    pub fn encode(&self, salt: u64, footer: &mut Vec<u8>) -> u64 {
        footer.extend_from_slice(&self.count.to_le_bytes());
        footer.extend_from_slice(&self.length.to_le_bytes());
        footer.extend_from_slice(&self.body.to_le_bytes());
        let sum = checksum(salt, footer);
        footer.extend_from_slice(&sum.to_le_bytes());
        sum
    }

    /// The trailer at the end of `footer` (directory and trailer), and the chain behind the batch.
    pub fn decode(salt: u64, footer: &[u8]) -> Option<(Trailer, u64)> {
        let at = footer.len().checked_sub(TRAILER_SIZE)?;
        let sum = checksum(salt, &footer[..at + 16]);
        if u64_at(footer, at + 16) != sum {
            return None;
        }
        Some((Trailer { count: u32_at(footer, at), length: u32_at(footer, at + 4), body: u64_at(footer, at + 8) }, sum))
    }

    /// How many records the trailer that `bytes` end with claims; not verified.
    pub fn peek_count(bytes: &[u8]) -> Option<u32> {
        let at = bytes.len().checked_sub(TRAILER_SIZE)?;
        Some(u32_at(bytes, at))
    }
}

/// Bytes of a footer for `count` records.
pub fn footer_size(count: u32) -> u64 {
    u64::from(count) * DIRECTORY_ENTRY_SIZE as u64 + TRAILER_SIZE as u64
}

/// The hard state's and entries' identifiers, as types.
impl RecordHeader {
    pub fn group(&self) -> GroupId {
        GroupId(self.group)
    }

    pub fn index(&self) -> Index {
        Index(self.index)
    }

    pub fn term(&self) -> Term {
        Term(self.term)
    }
}
