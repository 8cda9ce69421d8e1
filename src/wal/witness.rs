//! A second witness of the log's end, in another file than what it witnesses.
//!
//! A batch is otherwise known to have been durable by what stands behind it, often in the same sector: where both rot together,
//! nothing is left that says so, and the log would end before them as if they had never been. So a small file of its own says how
//! far the log was durable. It is written a moment after something became durable, at most every [`WITNESS_AFTER`] and less often
//! on a slow disk; when the log falls idle it is up to date, and is left alone.
//!
//! Moves: `Missing -> Creating -> Idle <-> Writing`; a full disk leads from creating back to missing, to be retried.
//!
//! **What must be durable before what.** The batch, before the witness that names it is written: a witness never claims too much,
//! so that to miss what it names is always damage. The file's name and its zeros, before its first use; and a first batch before
//! the file is made, so that old bytes in it are never taken for a witness of this directory. Of the two slots the older one is
//! written: a torn witness leaves the newer of the others.

use super::format::{FORMAT_VERSION, salt, u16_at, u32_at, u64_at};
use super::segments::Answer;
use crate::base::hash::checksum;
use crate::base::{Duration, IoId, Lsn, SegmentId, Sometimes, Time};
use crate::msg::disk::{DiskError, DiskOp, DiskResult, LogDevice};
use bytes::Bytes;

/// The number of the witness's file. Segments are numbered from 1.
pub const WITNESS: SegmentId = SegmentId::ZERO;
/// How long after something became durable the witness says so, at most, while the disk is quick.
pub const WITNESS_AFTER: Duration = Duration::from_millis(100);
/// The witness takes at most this fraction of the disk's time.
const SHARE: u32 = 8;
/// How long a full disk is left alone before the file is created again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes from one slot to the other: they share no block.
const SLOT_SIZE: u32 = 4096;
const SLOTS: u32 = 2;
/// Bytes of the file.
pub const WITNESS_SIZE: u32 = SLOT_SIZE * SLOTS;
/// Bytes of a slot that are written: one sector, which is there or is not.
const WRITTEN_SIZE: usize = 512;
const MAGIC: [u8; 8] = *b"RINGEND\n";
const CHECKSUM_AT: usize = 48;

/// How far the log was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Of the last batch with records in it.
    pub sequence: u64,
    /// The last record.
    pub lsn: Lsn,
    /// Where that batch ends.
    pub segment: SegmentId,
    pub offset: u32,
}

/// What a slot says, if it is whole: of which directory, and the end.
fn decode(slot: u32, bytes: &[u8]) -> Option<(u64, End)> {
    if bytes.len() < WRITTEN_SIZE || bytes[..8] != MAGIC || u16_at(bytes, 8) > FORMAT_VERSION {
        return None;
    }
    let nonce = u64_at(bytes, 16);
    if u64_at(bytes, CHECKSUM_AT) != checksum(salt(nonce, WITNESS, slot * SLOT_SIZE), &bytes[..CHECKSUM_AT]) {
        return None;
    }
    let (segment, offset) = (SegmentId(u32_at(bytes, 40)), u32_at(bytes, 44));
    Some((nonce, End { sequence: u64_at(bytes, 24), lsn: Lsn(u64_at(bytes, 32)), segment, offset }))
}

fn encode(slot: u32, nonce: u64, end: &End) -> Vec<u8> {
    let mut out = vec![0; WRITTEN_SIZE];
    out[..8].copy_from_slice(&MAGIC);
    out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&nonce.to_le_bytes());
    out[24..32].copy_from_slice(&end.sequence.to_le_bytes());
    out[32..40].copy_from_slice(&end.lsn.0.to_le_bytes());
    out[40..44].copy_from_slice(&end.segment.0.to_le_bytes());
    out[44..48].copy_from_slice(&end.offset.to_le_bytes());
    let sum = checksum(salt(nonce, WITNESS, slot * SLOT_SIZE), &out[..CHECKSUM_AT]);
    out[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&sum.to_le_bytes());
    out
}

/// What recovery found of the witness.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    /// The file is there, and has its size.
    there: bool,
    /// The furthest end that a whole slot names, and which slot.
    end: Option<(u32, End)>,
}

impl Found {
    /// Reads the witness of the directory with this nonce; of any, if there is none. A slot that is not whole says nothing.
    pub fn read(device: &mut dyn LogDevice, files: &[(SegmentId, u64)], nonce: Option<u64>) -> Result<Found, DiskError> {
        let there = files.iter().any(|(id, size)| *id == WITNESS && *size >= u64::from(WITNESS_SIZE));
        let mut found = Found { there, end: None };
        for slot in (0..SLOTS).filter(|_| there) {
            let bytes = device.read(WITNESS, u64::from(slot * SLOT_SIZE), WRITTEN_SIZE)?;
            let Some((of, end)) = decode(slot, &bytes) else {
                Sometimes::WitnessSlotTorn.when(bytes.iter().any(|byte| *byte != 0));
                continue;
            };
            let newer = found.end.is_none_or(|(_, held)| held.sequence < end.sequence);
            if newer && nonce.is_none_or(|nonce| nonce == of) {
                found.end = Some((slot, end));
            }
        }
        Ok(found)
    }

    pub fn end(&self) -> Option<End> {
        self.end.map(|(_, end)| end)
    }
}

#[derive(Debug)]
enum State {
    Missing,
    /// `None` in place of an id: that operation was answered.
    Creating {
        create: Option<IoId>,
        sync: Option<IoId>,
        failed: bool,
    },
    Idle,
    Writing {
        write: Option<IoId>,
        sync: Option<IoId>,
        end: End,
        since: Time,
    },
}

/// The writing side. See the module's documentation.
#[derive(Debug)]
pub struct Witness {
    nonce: u64,
    state: State,
    /// The slot that is written next.
    slot: u32,
    /// What is durable, and not yet said.
    unsaid: Option<End>,
    /// When to say it.
    at: Option<Time>,
    /// Not before this, if it is not urgent: the disk is slow, or full.
    not_before: Time,
    /// What is unsaid is a clean end.
    urgent: bool,
    /// The last record that the file vouches for.
    said: Lsn,
}

impl Witness {
    pub fn new(nonce: u64, found: Found) -> Witness {
        Witness {
            nonce,
            state: if found.there { State::Idle } else { State::Missing },
            slot: found.end.map_or(0, |(slot, _)| (slot + 1) % SLOTS),
            unsaid: None,
            at: None,
            not_before: Time::ZERO,
            urgent: false,
            said: found.end().map_or(Lsn::ZERO, |end| end.lsn),
        }
    }

    /// The log is durable up to here. `clean`: with a clean end, so that the node waits for the witness.
    pub fn on_durable(&mut self, now: Time, end: End, clean: bool) {
        self.unsaid = Some(end);
        self.urgent |= clean;
        self.at.get_or_insert(now + WITNESS_AFTER);
    }

    /// Whether the file vouches for the record; or cannot, for want of room.
    pub fn vouches_for(&self, now: Time, lsn: Lsn) -> bool {
        self.said >= lsn || (matches!(self.state, State::Missing) && now < self.not_before)
    }

    /// When to [`Witness::go_on`]; `None` while the disk is at it, or nothing is unsaid.
    pub fn deadline(&self) -> Option<Time> {
        let at = self.at?;
        match self.state {
            State::Idle if self.urgent => Some(Time::ZERO),
            State::Missing | State::Idle => Some(at.max(self.not_before)),
            State::Creating { .. } | State::Writing { .. } => None,
        }
    }

    /// Writes what is due.
    pub fn go_on(&mut self, now: Time, mut next_io: impl FnMut() -> IoId, mut emit: impl FnMut(IoId, DiskOp)) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        let (first, second) = (next_io(), next_io());
        if matches!(self.state, State::Missing) {
            self.state = State::Creating { create: Some(first), sync: Some(second), failed: false };
            emit(first, DiskOp::Create { segment: WITNESS, size: WITNESS_SIZE });
            emit(second, DiskOp::SyncDirectory);
            return;
        }
        let Some(end) = self.unsaid.take() else { return };
        (self.at, self.urgent) = (None, false);
        self.state = State::Writing { write: Some(first), sync: Some(second), end, since: now };
        let data = vec![Bytes::from(encode(self.slot, self.nonce, &end))];
        emit(first, DiskOp::Write { segment: WITNESS, offset: self.slot * SLOT_SIZE, data });
        emit(second, DiskOp::Sync { segment: WITNESS });
        self.slot = (self.slot + 1) % SLOTS;
    }

    pub fn on_disk(&mut self, now: Time, io: IoId, result: &DiskResult) -> Answer {
        let waits = match &mut self.state {
            State::Creating { create, sync, .. } => [create, sync],
            State::Writing { write, sync, .. } => [write, sync],
            State::Missing | State::Idle => return Answer::NotMine,
        };
        let Some(answered) = waits.into_iter().find(|waits| **waits == Some(io)) else { return Answer::NotMine };
        *answered = None;
        match (&mut self.state, result) {
            (State::Creating { failed, .. }, DiskResult::Failed(DiskError::Full { .. })) => {
                Sometimes::NoRoomForWitness.reached();
                *failed = true;
            }
            (_, DiskResult::Failed(error)) => {
                return Answer::Halt(format!("the witness of the log's end could not be written: {error}"));
            }
            _ => {}
        }
        match self.state {
            State::Creating { create: None, sync: None, failed: true } => {
                self.not_before = now + RETRY_AFTER;
                self.state = State::Missing;
            }
            State::Creating { create: None, sync: None, failed: false } => self.state = State::Idle,
            State::Writing { write: None, sync: None, end, since } => {
                self.said = end.lsn;
                self.not_before = now + now.since(since) * SHARE;
                self.state = State::Idle;
            }
            _ => {}
        }
        Answer::Noted
    }

    /// `durable`: the log's last durable record.
    pub fn check(&self, durable: Lsn) {
        assert!(self.said <= durable, "a witness never claims too much");
        assert!(self.unsaid.is_none() || self.at.is_some(), "what is unsaid will be said");
        assert!(self.slot < SLOTS, "there are two slots");
    }
}
