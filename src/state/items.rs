//! The items of a partition: an ordered index from key to version and place.
//!
//! Of a deleted item its version stays here, so that no version is used twice, up to the *delete floor*
//! ([`State::delete_floor`](super::State::delete_floor)).

use super::leaves::Leaves;
use super::live::Live;
use crate::base::{Index, Key, Place, Sometimes, Version};
use crate::msg::log::ValuePlace;
use crate::msg::transaction::Measure;
use std::ops::Bound;

/// An item, or what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub version: Version,
    /// `None`: deleted.
    pub value: Option<ValuePlace>,
}

impl Item {
    /// At which version it was deleted; later than all, if it was not.
    pub(super) fn deleted_at(&self) -> Version {
        if self.value.is_some() { Version(u64::MAX) } else { self.version }
    }

    /// Whether it is not as one that was never written.
    pub(super) fn is_remembered(&self, floor: Version) -> bool {
        self.deleted_at() > floor
    }

    pub fn measure(&self) -> Measure {
        Measure { version: self.version, length: self.value.map_or(0, |value| value.place.length) }
    }
}

/// Is given key, version and value checksum (`None`: deleted) of an item.
pub type Visit<'a> = dyn FnMut(&Key, u64, Option<u32>) + 'a;

#[derive(Debug, Clone)]
pub struct Items {
    index: Leaves,
    /// Items that are present.
    present: u64,
    /// Where their values lie.
    live: Live,
}

impl Items {
    /// None, in leaves of at most so many bytes.
    pub(super) const fn new(leaf_bytes: usize) -> Items {
        Items { index: Leaves::new(leaf_bytes), present: 0, live: Live::new() }
    }

    /// Items that are present.
    pub fn present(&self) -> u64 {
        self.present
    }

    /// How much of each segment the values use.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The item, or what is left of it here. For what a client is told: [`State::item`](super::State::item).
    pub fn get(&self, key: &Key) -> Option<Item> {
        self.index.get(key)
    }

    /// All items, and what is left of deleted ones, from this bound on, in key order.
    pub fn range(&self, from: Bound<&Key>) -> impl Iterator<Item = (Key, Item)> {
        self.index.range(from)
    }

    pub(super) fn leaves(&self) -> &Leaves {
        &self.index
    }

    pub(super) fn leaves_mut(&mut self) -> &mut Leaves {
        &mut self.index
    }

    /// Takes the copy of a leaf. `false`: it is none, or belongs elsewhere.
    pub(super) fn install_leaf(&mut self, fence: &[u8], page: &[u8], place: Place) -> bool {
        let (live, present) = (&mut self.live, &mut self.present);
        self.index.install(fence, page, place, |value| {
            *present += 1;
            live.add(value.place);
        })
    }

    /// The value lies elsewhere, if it has lain at `from`.
    pub(super) fn relocate(&mut self, key: &Key, from: Place, to: Place) -> bool {
        let moved = self.index.relocate(key, from, to);
        if moved {
            self.live.remove(from);
            self.live.add(to);
        }
        moved
    }

    /// Drops what is left of deleted items up to this version from a leaf. Returns how many.
    pub(super) fn forget_deleted(&mut self, fence: &[u8], upto: Version) -> usize {
        self.index.forget_deleted(fence, upto)
    }

    /// Sets the item, unless a later version of it is there: leaves are copied while writes go on, so that a copy may hold what
    /// entries behind its beginning have brought.
    pub(super) fn put(&mut self, key: &Key, item: Item, replaced: &mut dyn FnMut(ValuePlace)) {
        let old = self.index.put(key, item);
        if old.is_some_and(|old| old.version > item.version) {
            return Sometimes::LaterVersionStands.reached();
        }
        if let Some(value) = item.value {
            self.present += 1;
            self.live.add(value.place);
        }
        if let Some(value) = old.and_then(|old| old.value) {
            self.present -= 1;
            self.live.remove(value.place);
            // The entry that brought it may be replayed.
            if old.is_some_and(|old| old.version < item.version) {
                replaced(value);
            }
        }
    }

    pub(super) fn check(&self, applied: Index) {
        self.index.check();
        let present = self.index.items().filter(|item| item.value.is_some()).count() as u64;
        assert_eq!(self.present, present, "present items are counted");
        let mut live = Live::new();
        self.index.items().filter_map(|item| item.value).for_each(|value| live.add(value.place));
        assert!(self.live.agrees(&live), "what is alive is counted: {:?}, and is {live:?}", self.live);
        assert!(self.index.items().all(|item| item.version.0 <= applied.0), "no version is later than what is applied");
    }
}
