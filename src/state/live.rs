//! How much of each segment of the log is alive: what the values take that the index points at.
//!
//! Kept along with the index, value by value, so that it is known at any time, and after a boot, which segments hold little that
//! anything still asks for. A value of no bytes is never read, and lies nowhere.

use crate::base::{Place, SegmentId};
use std::collections::BTreeMap;

/// What a value counts for beyond its own length, in bytes: about what a copy of it takes, with its key.
const VALUE_COST: u64 = 64;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    values: u64,
    bytes: u64,
}

/// The values of one group, by segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    segments: BTreeMap<SegmentId, Held>,
    /// Bytes of values that have come to be garbage; grows.
    freed: u64,
}

impl Live {
    pub(super) const fn new() -> Live {
        Live { segments: BTreeMap::new(), freed: 0 }
    }

    pub(super) fn add(&mut self, place: Place) {
        if place.length > 0 {
            let held = self.segments.entry(place.segment).or_default();
            held.values += 1;
            held.bytes += cost(place);
        }
    }

    pub(super) fn remove(&mut self, place: Place) {
        if place.length == 0 {
            return;
        }
        let held = self.segments.get_mut(&place.segment).expect("what is removed was added");
        held.values -= 1;
        held.bytes -= cost(place);
        if held.values == 0 {
            self.segments.remove(&place.segment);
        }
        self.freed += cost(place);
    }

    /// Bytes of a segment that are alive: of its values, and [`VALUE_COST`] for each.
    pub fn of(&self, segment: SegmentId) -> u64 {
        self.segments.get(&segment).map_or(0, |held| held.bytes)
    }

    /// The segments with anything alive.
    pub fn segments(&self) -> impl Iterator<Item = (SegmentId, u64)> + '_ {
        self.segments.iter().map(|(segment, held)| (*segment, held.bytes))
    }

    /// As many bytes of values have come to be garbage since the state is in memory, moved ones included.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Whether it holds the same values.
    pub(super) fn agrees(&self, other: &Live) -> bool {
        self.segments == other.segments
    }
}

fn cost(place: Place) -> u64 {
    u64::from(place.length) + VALUE_COST
}
