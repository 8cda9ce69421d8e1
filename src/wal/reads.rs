//! Values and entries read back from the log, and verified before anyone sees them.

use super::format::{Kind, RECORD_PRESENT, RecordHeader, salt};
use super::{Out, ReadError, ReadFor};
use crate::base::hash::value_checksum;
use crate::base::limits::Limits;
use crate::base::{IoId, Place, SegmentId};
use crate::msg::codec::{self, Blob};
use crate::msg::disk::DiskResult;
use crate::msg::log::{Entry, Fact, ValuePlace};
use crate::msg::transaction::{Stored, TransactionFact};
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    Value(ValuePlace),
    Entry(Place),
    /// Bytes as they are.
    Block(Place),
}

impl Wanted {
    pub fn place(&self) -> Place {
        match self {
            Wanted::Value(value) => value.place,
            Wanted::Entry(place) | Wanted::Block(place) => *place,
        }
    }
}

/// Reads that wait for the disk.
#[derive(Debug, Default)]
pub struct Reads {
    waiting: BTreeMap<IoId, (ReadFor, Wanted)>,
}

impl Reads {
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.waiting.len() >= limits.reads_in_progress
    }

    pub fn wait(&mut self, io: IoId, read: ReadFor, wanted: Wanted) {
        self.waiting.insert(io, (read, wanted));
    }

    /// Whether any is of this segment.
    pub fn any_in(&self, segment: SegmentId) -> bool {
        self.waiting.values().any(|(_, wanted)| wanted.place().segment == segment)
    }

    /// The answer to the read `io`; `None` if no read waits for it.
    pub fn on_disk(&mut self, nonce: u64, io: IoId, result: DiskResult) -> Option<Out> {
        let (read, wanted) = self.waiting.remove(&io)?;
        Some(match result {
            DiskResult::Data(bytes) => answer(nonce, read, wanted, bytes),
            DiskResult::Failed(error) => {
                refuse(read, wanted, ReadError::Corrupt { place: wanted.place(), why: error.to_string() })
            }
            DiskResult::Done => {
                let why = "the disk answered a read without data".to_string();
                refuse(read, wanted, ReadError::Corrupt { place: wanted.place(), why })
            }
        })
    }
}

pub fn refuse(read: ReadFor, wanted: Wanted, error: ReadError) -> Out {
    match wanted {
        Wanted::Value(_) => Out::Value(read, Err(error)),
        Wanted::Entry(_) => Out::Entry(read, Err(error)),
        Wanted::Block(place) => Out::Block(place, None),
    }
}

/// What `bytes`, read from the place that was wanted, answer.
pub fn answer(nonce: u64, read: ReadFor, wanted: Wanted, bytes: Bytes) -> Out {
    match wanted {
        Wanted::Value(value) => Out::Value(read, verify_value(value, bytes)),
        Wanted::Entry(place) => Out::Entry(read, decode_entry(nonce, place, &bytes)),
        Wanted::Block(place) => Out::Block(place, (bytes.len() == place.length as usize).then_some(bytes)),
    }
}

fn verify_value(value: ValuePlace, bytes: Bytes) -> Result<Bytes, ReadError> {
    let corrupt = |why: String| Err(ReadError::Corrupt { place: value.place, why });
    if bytes.len() != value.place.length as usize {
        return corrupt(format!("{} bytes were read of {}", bytes.len(), value.place.length));
    }
    let found = value_checksum(&bytes);
    if found != value.checksum {
        return corrupt(format!("the value's checksum is {found:08x}, it should be {:08x}", value.checksum));
    }
    Ok(bytes)
}

fn decode_entry(nonce: u64, place: Place, bytes: &Bytes) -> Result<Entry, ReadError> {
    let corrupt = |why: &str| Err(ReadError::Corrupt { place, why: why.to_string() });
    if bytes.len() != place.length as usize {
        return corrupt("fewer bytes were read than asked for");
    }
    let Some((header, _)) = RecordHeader::decode(salt(nonce, place.segment, place.offset), bytes) else {
        return corrupt("the record's header fails its checksum");
    };
    if header.length != place.length {
        return corrupt("the record is of another length");
    }
    let value = bytes.slice(header.value_at()..);
    if value_checksum(&value) != header.value_checksum {
        return corrupt("the record's value fails its checksum");
    }
    let fact = match Kind::from_number(header.kind) {
        Some(Kind::Noop) => Fact::Noop,
        Some(Kind::Write) => {
            let Some(key) = header.written_key(bytes.slice(super::format::RECORD_HEADER_SIZE..header.value_at())) else {
                return corrupt("the record has no key");
            };
            Fact::Write { key, value: (header.flags & RECORD_PRESENT != 0).then_some(value) }
        }
        Some(Kind::Transaction) => {
            let steps =
                codec::decode::<TransactionFact<Stored>>(&bytes.slice(super::format::RECORD_HEADER_SIZE..header.value_at()));
            let whole = steps.ok().and_then(|fact| {
                fact.resolve(value.len(), |at, stored| Blob(value.slice(at as usize..(at + stored.length) as usize)))
            });
            match whole {
                Some(fact) => Fact::Transaction(Box::new(fact)),
                None => return corrupt("the record is no step of a transaction"),
            }
        }
        Some(Kind::Configuration) => match codec::decode(&bytes.slice(super::format::RECORD_HEADER_SIZE..header.value_at())) {
            Ok(configuration) => Fact::Configuration(Box::new(configuration)),
            Err(_) => return corrupt("the record is no configuration"),
        },
        _ => return corrupt("the record is no entry"),
    };
    Ok(Entry { index: header.index(), term: header.term(), fact })
}
