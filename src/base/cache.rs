//! The node's one cache of values, bounded in bytes, evicting by CLOCK (second chance); and how many bytes of values are lent:
//! being read from the log, or held until an answer is whole, or until a transaction that has read them is decided.

use super::Place;
use super::limits::Limits;
use bytes::Bytes;
use core::hash::{BuildHasherDefault, Hasher};
use indexmap::IndexMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Values by their place in the log. A place is written once, so an entry is never stale.
///
/// A place is its position *and* its length: an empty value stands where the value behind it in the same record begins. An empty
/// value has no bytes, and so none on the disk and none here: [`ValueCache::get`] answers it, always.
#[derive(Debug)]
pub struct ValueCache {
    slots: IndexMap<Place, Slot, BuildHasherDefault<Mixer>>,
    /// Where the clock's hand stands, as a position in `slots`.
    hand: usize,
    /// Bytes of all values held, with what a slot costs.
    size: usize,
    /// Never exceeded.
    size_max: usize,
    /// Bytes lent; beyond [`Limits::read_bytes_in_progress`] only if it is all for one.
    lent: Arc<AtomicUsize>,
    lent_max: usize,
    /// Bytes lent to coordinators; beyond [`Limits::voted_bytes_per_node`] only if it is all for one.
    voted: Arc<AtomicUsize>,
    voted_max: usize,
}

/// Leave to hold so many bytes of values, until it is dropped.
#[derive(Debug)]
pub struct Lent {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Slot {
    value: Bytes,
    /// Asked for since the hand last passed.
    used: bool,
}

/// What a slot costs beside its value, in bytes.
const SLOT_SIZE: usize = 96;

impl ValueCache {
    pub fn new(size_max: usize, limits: &Limits) -> ValueCache {
        let (lent_max, voted_max) = (limits.read_bytes_in_progress, limits.voted_bytes_per_node);
        let (lent, voted) = (Arc::default(), Arc::default());
        ValueCache { slots: IndexMap::default(), hand: 0, size: 0, size_max, lent, lent_max, voted, voted_max }
    }

    pub fn get(&mut self, place: Place) -> Option<Bytes> {
        if place.length == 0 {
            return Some(Bytes::new());
        }
        let slot = self.slots.get_mut(&place)?;
        slot.used = true;
        Some(slot.value.clone())
    }

    /// Keeps a copy of `value`: a slice would pin the whole frame that it came in.
    pub fn insert(&mut self, place: Place, value: &[u8]) {
        assert_eq!(value.len(), place.length as usize, "a value is as long as its place");
        let cost = value.len() + SLOT_SIZE;
        if value.is_empty() || cost > self.size_max / 4 {
            return;
        }
        while self.size + cost > self.size_max {
            self.evict_one();
        }
        let slot = Slot { value: Bytes::copy_from_slice(value), used: false };
        self.size += cost;
        if let Some(old) = self.slots.insert(place, slot) {
            self.size -= old.value.len() + SLOT_SIZE;
        }
    }

    /// Forgets a value that was overwritten.
    pub fn remove(&mut self, place: Place) {
        if let Some(slot) = self.slots.swap_remove(&place) {
            self.size -= slot.value.len() + SLOT_SIZE;
        }
    }

    /// A value lies elsewhere from now on.
    pub fn moved(&mut self, from: Place, to: Place) {
        if let Some(slot) = self.slots.swap_remove(&from) {
            self.slots.insert(to, slot);
        }
    }

    /// Leave to read so many bytes of values, in the cache or not; `None` when too many are being read.
    pub fn lend(&self, bytes: usize) -> Option<Lent> {
        lend_of(&self.lent, bytes, self.lent_max)
    }

    /// Leave for a coordinator to hold so many bytes of values that came with a vote; `None` when coordinators hold too many.
    pub fn lend_for_vote(&self, bytes: usize) -> Option<Lent> {
        lend_of(&self.voted, bytes, self.voted_max)
    }

    /// Bytes lent.
    pub fn lent(&self) -> usize {
        self.lent.load(Ordering::Relaxed)
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        self.size
    }

    fn evict_one(&mut self) {
        loop {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let (_, slot) = self.slots.get_index_mut(self.hand).expect("a cache over its limit holds something");
            if slot.used {
                slot.used = false;
                self.hand += 1;
            } else {
                let (_, slot) = self.slots.swap_remove_index(self.hand).expect("present");
                self.size -= slot.value.len() + SLOT_SIZE;
                return;
            }
        }
    }
}

fn lend_of(all: &Arc<AtomicUsize>, bytes: usize, bytes_max: usize) -> Option<Lent> {
    let before = all.load(Ordering::Relaxed);
    if before > 0 && before + bytes > bytes_max {
        return None;
    }
    all.fetch_add(bytes, Ordering::Relaxed);
    Some(Lent { bytes, all: Arc::clone(all) })
}

/// A fixed mixer for keys that are places: no random state, so equal runs stay equal.
#[derive(Debug, Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SegmentId;

    fn place(offset: u32) -> Place {
        Place { segment: SegmentId(1), offset, length: 100 }
    }

    #[test]
    fn it_never_holds_more_than_its_limit_and_keeps_what_is_asked_for() {
        let mut cache = ValueCache::new(10 * (100 + SLOT_SIZE), &crate::base::limits::Limits::DEFAULT);
        cache.insert(place(0), &[7; 100]);
        for offset in 1..100 {
            assert!(cache.get(place(0)).is_some(), "what is asked for again and again stays");
            cache.insert(place(offset), &[1; 100]);
            assert!(cache.size() <= 10 * (100 + SLOT_SIZE));
        }
        assert!(cache.get(place(1)).is_none());
        cache.remove(place(0));
        assert!(cache.get(place(0)).is_none());
        let large = Place { length: 4_000, ..place(500) };
        cache.insert(large, &[0; 4_000]);
        assert!(cache.get(large).is_none(), "one value does not empty the cache");
    }

    #[test]
    fn what_is_lent_is_bounded_and_comes_back() {
        let cache = ValueCache::new(0, &Limits::DEFAULT);
        let most = cache.lend(Limits::DEFAULT.read_bytes_in_progress - 10).expect("there is room");
        assert!(cache.lend(11).is_none());
        let rest = cache.lend(10).expect("there is room");
        drop(most);
        assert_eq!(cache.lent(), 10);
        drop(rest);
        assert_eq!(cache.lent(), 0);
    }

    #[test]
    fn an_empty_value_is_not_the_one_behind_it() {
        let mut cache = ValueCache::new(4_096, &Limits::DEFAULT);
        let empty = Place { length: 0, ..place(7) };
        cache.insert(place(7), &[5; 100]);
        assert_eq!(cache.get(empty).as_deref(), Some(&[][..]));
        cache.insert(empty, &[]);
        cache.remove(empty);
        assert_eq!(cache.get(place(7)).as_deref(), Some(&[5; 100][..]));
        assert_eq!(cache.get(Place { length: 99, ..place(7) }), None, "a place has a length");
    }
}
