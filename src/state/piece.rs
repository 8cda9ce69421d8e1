//! Pieces of a state, as they are sent to another replica and stand in its log: parts, each behind its length, and their values,
//! one behind the other.

use super::{Part, State};
use crate::base::hash::{checksum, value_checksum};
use crate::base::{Index, Place, Version};
use crate::msg::codec::{self, Blob};
use crate::msg::log::ValuePlace;
use crate::msg::transaction::Stored;
use bytes::Bytes;

impl<V> Part<V> {
    /// Whether it is the last of a state.
    pub fn is_end(&self) -> bool {
        matches!(self, Part::End { .. })
    }

    /// The values in it, in order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        let (item, writes) = match self {
            Part::Item { value, .. } => (value.as_ref(), &[][..]),
            Part::Prepared { writes, .. } => (None, &writes.0[..]),
            _ => (None, &[][..]),
        };
        item.into_iter().chain(writes.iter().filter_map(|write| write.value.as_ref()))
    }
}

impl Part<ValuePlace> {
    /// The same on every replica: without the places of its values.
    pub fn stored(self) -> Part<Stored> {
        self.map(|value| Stored { length: value.place.length, checksum: value.checksum })
    }
}

impl State {
    /// The parts behind `last`, of as many bytes as this and one more, values included.
    pub fn piece(&self, last: Option<&Part<ValuePlace>>, bytes: usize) -> Vec<Part<ValuePlace>> {
        let mut left = bytes;
        let mut piece = Vec::new();
        for part in self.parts(last) {
            let size = encoded_size(&part) + part.values().map(|value| value.place.length as usize).sum::<usize>();
            piece.push(part);
            if size >= left {
                break;
            }
            left -= size;
        }
        piece
    }

    /// Takes a piece behind those before it, of which the values lie one behind the other in `area`. `false`: one of its parts
    /// contradicts another.
    pub fn install_piece(&mut self, parts: Vec<Part<Stored>>, area: Place) -> bool {
        for part in placed(parts, area) {
            let contradicts = match &part {
                Part::Prepared { id, .. } | Part::Resolved { id, .. } => {
                    self.outcomes.prepared().contains_key(id) || self.outcomes.resolved.contains_key(id)
                }
                Part::Decision { parties, .. } => parties.is_empty(),
                _ => false,
            };
            let held = self.outcomes.prepared().len() + usize::from(matches!(part, Part::Prepared { .. }));
            if contradicts {
                return false;
            }
            self.install(part);
            // Two that are prepared have no key in common, unless both only read it.
            if self.outcomes.prepared().len() != held {
                return false;
            }
        }
        true
    }

    /// Whether a piece goes with those before it. Items always do.
    pub fn fits(&self, parts: &[Part<Stored>]) -> bool {
        let is_item = |part: &Part<Stored>| matches!(part, Part::Item { .. });
        parts.iter().all(is_item) || self.clone().install_piece(parts.to_vec(), Place::default())
    }
}

/// Parts of which the values lie one behind the other in `area`.
pub fn placed(parts: Vec<Part<Stored>>, area: Place) -> impl Iterator<Item = Part<ValuePlace>> {
    let mut at = area.offset;
    parts.into_iter().map(move |part| {
        part.map(|value| {
            let place = Place { segment: area.segment, offset: at, length: value.length };
            at += value.length;
            ValuePlace { place, checksum: value.checksum }
        })
    })
}

/// The digest of a state whose parts come piece by piece; zero before the first ([`State::digest`]).
pub fn fold_parts(digest: u64, parts: &[Part<Stored>]) -> u64 {
    parts.iter().fold(digest, |digest, part| checksum(digest, &codec::encode(part)))
}

/// What a part that has no value takes, about, in bytes.
fn encoded_size(part: &Part<ValuePlace>) -> usize {
    match part {
        Part::Item { key, .. } => key.size() + 24,
        other => codec::encode(other).len(),
    }
}

/// The parts and the values of a piece, as they are sent. `values`: of all parts, in order.
pub fn encode_piece(parts: &[Part<Stored>], values: &[Bytes]) -> (Blob, Blob) {
    let mut encoded = Vec::new();
    for part in parts {
        push_part(&mut encoded, &codec::encode(part));
    }
    (Blob(encoded.into()), Blob(values.concat().into()))
}

/// The parts of a piece of the state that has applied all up to `applied`, and whether it is the last. `None`: these bytes are
/// no piece, or the values are not those that the parts tell of.
pub fn decode_piece(parts: &Bytes, values: &[u8], applied: Index) -> Option<(Vec<Part<Stored>>, bool)> {
    let mut decoded: Vec<Part<Stored>> = Vec::new();
    let (mut rest, mut left) = (&parts[..], values);
    while let Some((part, behind)) = split_part(rest) {
        let part: Part<Stored> = codec::decode(&parts.slice_ref(part)).ok()?;
        rest = behind;
        for value in part.values() {
            let bytes = left.split_off(..value.length as usize)?;
            if value_checksum(bytes) != value.checksum {
                return None;
            }
        }
        let in_order = decoded.last().is_none_or(|before| before.rank() <= part.rank() && !before.is_end());
        let right = match &part {
            Part::Item { version, .. } | Part::Prepared { version, .. } => version.0 <= applied.0 && *version > Version::ZERO,
            Part::End { applied: to, .. } => *to == applied,
            _ => true,
        };
        if !in_order || !right {
            return None;
        }
        decoded.push(part);
    }
    let is_last = decoded.last().is_some_and(Part::is_end);
    (rest.is_empty() && left.is_empty() && !decoded.is_empty()).then_some((decoded, is_last))
}

/// Puts an encoded part behind those before it, with its length in front.
pub fn push_part(parts: &mut Vec<u8>, part: &[u8]) {
    parts.extend_from_slice(&(part.len() as u32).to_le_bytes());
    parts.extend_from_slice(part);
}

/// The first part, encoded, and what stands behind it. `None`: there is no whole one.
pub(super) fn split_part(parts: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, behind) = parts.split_first_chunk()?;
    behind.split_at_checked(u32::from_le_bytes(*length) as usize)
}
