//! A sorted index in pages: [`Leaf`]s of at most [`leaf_bytes`](crate::base::limits::Limits::leaf_bytes), each a row of cells in
//! the order of their keys.
//!
//! ```text
//! | cells 2 | cells from 2 | prefix 2 | prefix | slots, 2 each | free ... | cells |
//! cell: | suffix's length, and whether there is a value 2 | version 8 | segment 4 | offset 4 | length 4 | checksum 4 | suffix |
//! ```
//!
//! All keys of a leaf begin with its prefix, since all between its *fence* and that of the next leaf do. A slot says where a cell
//! lies; slots are in the order of keys, cells in the order in which they came. So a lookup is a search by halves, a new key moves
//! slots alone, and a key that is written again changes its cell in place. A page is as large as what is in it, and an eighth: a
//! key costs 28 bytes and that eighth beyond its own, where a tree of items takes 160.
//!
//! Fences, prefixes and suffixes are pieces of *encoded* keys, whose order as bytes is that of the keys: the table (4 bytes, the
//! highest first), the partition key, each of its zero bytes followed by `ff`, and, if there is a sort key, `00 01` and that.

use super::Item;
use crate::base::{Key, Place, SegmentId, Version};
use crate::msg::log::ValuePlace;
use core::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A leaf with fewer cells is not split, however large they are.
const CELLS_MIN: usize = 4;
/// What a page begins with, before its prefix.
const HEADER: usize = 6;
const SLOT: usize = 2;
/// What a cell begins with, before its suffix.
const CELL: usize = 26;
/// Later than all deletions.
const NONE_DELETED: Version = Version(u64::MAX);
/// Of a cell's first two bytes: there is a value.
const PRESENT: u16 = 1 << 15;
/// So many leaves are joined with one at a time: it is a step of a node that has more to do.
const JOINS_MAX: usize = 8;
/// Encoded keys that are not longer are made without an allocation.
const SHORT: usize = 256;
const SORT_KEY: [u8; 2] = [0, 1];

#[derive(Debug, Clone)]
pub(super) struct Leaves {
    /// By their fences. The first fence is empty.
    leaves: BTreeMap<Arc<[u8]>, Leaf>,
    /// The size that a leaf is split beyond, in bytes.
    size_max: usize,
    /// Of all pages.
    bytes: u64,
}

impl Leaves {
    /// None, to be of at most so many bytes each.
    pub(super) const fn new(size_max: usize) -> Leaves {
        Leaves { leaves: BTreeMap::new(), size_max, bytes: 0 }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Item> {
        encoded(key, |key| {
            let (_, leaf) = self.leaf_of(key)?;
            leaf.find(key).ok().map(|at| leaf.item(at))
        })
    }

    /// The leaf that a key is in, or belongs in, with its fence.
    fn leaf_of(&self, key: &[u8]) -> Option<(&[u8], &Leaf)> {
        let (fence, leaf) = self.leaves.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        Some((fence, leaf))
    }

    /// Sets a key's item, if that is not of an earlier version than the one there. Returns the one before.
    pub(super) fn put(&mut self, key: &Key, item: Item) -> Option<Item> {
        encoded(key, |key| {
            loop {
                let Some((fence, leaf)) = self.leaves.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
                else {
                    self.leaves.insert(Arc::default(), Leaf::with_room_for(0, &[]));
                    self.bytes += HEADER as u64;
                    continue;
                };
                match leaf.find(key) {
                    Ok(at) => return Some(leaf.replace(at, item)),
                    Err(at) if leaf.has_room(key, self.size_max) => {
                        let before = leaf.page.len();
                        leaf.insert(at, key, item);
                        self.bytes += (leaf.page.len() - before) as u64;
                        return None;
                    }
                    Err(at) => {
                        let fence = fence.clone();
                        self.split(&fence, at, key);
                    }
                }
            }
        })
    }

    /// Splits a leaf that is full, so that there is room for a key at this position.
    fn split(&mut self, fence: &[u8], at: usize, key: &[u8]) {
        let after = self.leaves.range::<[u8], _>((Bound::Excluded(fence), Bound::Unbounded)).next();
        let leaf = &self.leaves[fence];
        // Where keys come in order, leaves stay full.
        let middle = if at == leaf.count() { at } else { leaf.middle() };
        let first = if middle == leaf.count() { key.to_vec() } else { leaf.encoded(middle) };
        let between = &first[..common(&leaf.encoded(middle - 1), &first) + 1];
        let low = Leaf::of(&between[..common(fence, between)], leaf.cells().take(middle));
        let prefix = after.map_or(&[][..], |(after, _)| &after[..common(after, between)]);
        let high = Leaf::of(prefix, leaf.cells().skip(middle));
        self.bytes = self.bytes - leaf.page.len() as u64 + (low.page.len() + high.page.len()) as u64;
        *self.leaves.get_mut(fence).expect("it was read above") = low;
        self.leaves.insert(between.into(), high);
    }

    /// Drops what is left of the items of the leaf with this fence that were deleted up to this version; and joins it with some of
    /// those behind it, as long as both fit into the half of one. Returns how many items were dropped.
    pub(super) fn forget_deleted(&mut self, fence: &[u8], upto: Version) -> usize {
        let (mut forgotten, mut joins) = (0, JOINS_MAX);
        let mut forget = |leaf: &mut Leaf, bytes: &mut u64| {
            let before = leaf.page.len() as u64;
            forgotten += leaf.forget_deleted(upto);
            *bytes = *bytes - before + leaf.page.len() as u64;
        };
        while let Some(leaf) = self.leaves.get_mut(fence) {
            forget(leaf, &mut self.bytes);
            let (used, most) = (leaf.used(), self.size_max / 2);
            let mut behind = self.leaves.range_mut::<[u8], _>((Bound::Excluded(fence), Bound::Unbounded));
            let Some((next, other)) = behind.next().filter(|_| used <= most && joins > 0) else { break };
            forget(other, &mut self.bytes);
            let next = next.clone();
            let prefix = behind.next().map_or(0, |(after, _)| common(fence, after));
            let (leaf, other) = (&self.leaves[fence], &self.leaves[&next]);
            let cells = leaf.cells().chain(other.cells());
            // With a shorter prefix keys may take far more room.
            if Leaf::size_of(&fence[..prefix], cells.clone()) > most {
                break;
            }
            let joined = Leaf::of(&fence[..prefix], cells);
            joins -= 1;
            self.bytes = self.bytes + joined.page.len() as u64 - (leaf.page.len() + other.page.len()) as u64;
            self.leaves.remove(&next);
            *self.leaves.get_mut(fence).expect("it was read above") = joined;
        }
        forgotten
    }

    /// All from this bound on, in the order of keys.
    pub(super) fn range(&self, from: Bound<&Key>) -> impl Iterator<Item = (Key, Item)> {
        let first = match from {
            Bound::Unbounded => None,
            Bound::Included(key) => Some((key, 0)),
            Bound::Excluded(key) => Some((key, 1)),
        };
        let (fence, mut start) = first.map_or((&[][..], 0), |(key, beyond)| {
            encoded(key, |key| {
                let found = self.leaf_of(key);
                found.map_or((&[][..], 0), |(fence, leaf)| (fence, leaf.find(key).map_or_else(|at| at, |at| at + beyond)))
            })
        });
        let leaves = self.leaves.range::<[u8], _>((Bound::Included(fence), Bound::Unbounded));
        leaves.flat_map(move |(_, leaf)| (std::mem::take(&mut start)..leaf.count()).map(|at| (leaf.key(at), leaf.item(at))))
    }

    /// The leaf with this fence, for a copy.
    pub(super) fn page(&self, fence: &[u8]) -> Option<Page<'_>> {
        let leaf = self.leaves.get(fence)?;
        let next = self.leaves.range::<[u8], _>((Bound::Excluded(fence), Bound::Unbounded)).next();
        Some(Page { bytes: &leaf.page, copied: leaf.copied, next: next.map(|(next, _)| &next[..]) })
    }

    /// There is a copy of the leaf with this fence, as it is now.
    pub(super) fn copied(&mut self, fence: &[u8], place: Place) {
        if let Some(leaf) = self.leaves.get_mut(fence) {
            leaf.copied = Some(place);
        }
    }

    /// Takes the copy of a leaf behind all that there are, and gives `visit` the values in it. `false`: it is no leaf, or belongs
    /// elsewhere.
    pub(super) fn install(&mut self, fence: &[u8], page: &[u8], place: Place, visit: impl FnMut(ValuePlace)) -> bool {
        let Some(leaf) = Leaf::decode(fence, page, place) else { return false };
        match self.leaves.last_key_value() {
            None if !fence.is_empty() => return false,
            Some((last, before)) if last[..] >= *fence || !before.ends_before(fence) => return false,
            _ => {}
        }
        (0..leaf.count()).filter_map(|at| leaf.item(at).value).for_each(visit);
        self.bytes += page.len() as u64;
        self.leaves.insert(fence.into(), leaf);
        true
    }

    /// The value of a key lies at `to` from now on, if it has lain at `from`. Returns whether it had.
    pub(super) fn relocate(&mut self, key: &Key, from: Place, to: Place) -> bool {
        encoded(key, |key| {
            let mut range = self.leaves.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
            let Some((_, leaf)) = range.next_back() else { return false };
            let Ok(at) = leaf.find(key) else { return false };
            let item = leaf.item(at);
            let Some(value) = item.value.filter(|value| value.place == from) else { return false };
            leaf.replace(at, Item { value: Some(ValuePlace { place: to, ..value }), ..item });
            true
        })
    }

    /// Whether what was installed is all of an index: the last leaf is for all keys behind its fence.
    pub(super) fn is_whole(&self) -> bool {
        self.leaves.last_key_value().is_none_or(|(_, leaf)| leaf.prefix().is_empty())
    }

    /// Leaves are split beyond this size from now on, in bytes.
    pub(super) fn set_size_max(&mut self, size_max: usize) {
        self.size_max = size_max;
    }

    /// Bytes of all pages.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All items, in the order of their keys.
    pub(super) fn items(&self) -> impl Iterator<Item = Item> {
        self.leaves.values().flat_map(|leaf| (0..leaf.count()).map(|at| leaf.item(at)))
    }

    /// Asserts its invariants. Walks everything.
    pub(super) fn check(&self) {
        assert_eq!(self.bytes, self.leaves.values().map(|leaf| leaf.page.len() as u64).sum::<u64>(), "bytes are counted");
        let mut fences = self.leaves.keys().skip(1);
        for (fence, leaf) in &self.leaves {
            let (next, count) = (fences.next(), leaf.count());
            assert!((1..count).all(|at| leaf.suffix(at - 1) < leaf.suffix(at)), "keys are in order");
            assert!((0..count).all(|at| leaf.item(at).deleted_at() >= leaf.deleted_from), "deletions are known");
            if count > 0 {
                let within = leaf.encoded(0)[..] >= fence[..] && next.is_none_or(|next| leaf.encoded(count - 1)[..] < next[..]);
                assert!(within, "a key is between its leaf's fences");
            }
        }
    }

    /// Bytes of memory that it takes, but for what the allocator adds.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.leaves.iter().map(|(fence, leaf)| size_of::<(Arc<[u8]>, Leaf)>() + fence.len() + leaf.page.capacity()).sum()
    }
}

/// What is copied of a leaf.
#[derive(Debug)]
pub struct Page<'a> {
    pub bytes: &'a [u8],
    /// Where there is a copy of it already, as it is.
    pub copied: Option<Place>,
    /// The fence of the next leaf. That leaf is there later, too, whatever is written: leaves are joined by
    /// [`State::forget_deleted`](super::State::forget_deleted) alone.
    pub next: Option<&'a [u8]>,
}

/// How many items the leaf of this page has; `None`: it is no leaf with this fence.
pub(super) fn count(fence: &[u8], page: &[u8]) -> Option<usize> {
    Leaf::decode(fence, page, Place::default()).map(|leaf| leaf.count())
}

/// A page. A clone shares it until one of them changes it.
#[derive(Clone)]
struct Leaf {
    page: Arc<Vec<u8>>,
    /// Where there is a copy of it in the log, as it is.
    copied: Option<Place>,
    /// No item here was deleted at an earlier version.
    deleted_from: Version,
}

impl Leaf {
    /// An empty one of keys that begin with this, with so many bytes for slots and cells.
    fn with_room_for(bytes: usize, prefix: &[u8]) -> Leaf {
        let size = HEADER + prefix.len() + bytes;
        let mut leaf = Leaf { page: Arc::new(vec![0; size]), copied: None, deleted_from: NONE_DELETED };
        leaf.set(2, size as u16);
        leaf.set(4, prefix.len() as u16);
        leaf.page_mut()[HEADER..HEADER + prefix.len()].copy_from_slice(prefix);
        leaf
    }

    /// The leaf of this page. `None`: these bytes are no page of keys from this fence on.
    fn decode(fence: &[u8], page: &[u8], place: Place) -> Option<Leaf> {
        let mut leaf = Leaf { page: Arc::new(page.to_vec()), copied: Some(place), deleted_from: NONE_DELETED };
        let size = page.len();
        if size < HEADER || size > usize::from(u16::MAX) {
            return None;
        }
        let (count, prefix) = (leaf.count(), usize::from(leaf.number(4)));
        if !(HEADER + prefix + count * SLOT..=size).contains(&leaf.cells_from()) || !fence.starts_with(leaf.prefix()) {
            return None;
        }
        let mut cells: Vec<usize> = (0..count).map(|at| leaf.cell(at)).collect();
        cells.sort_unstable();
        // Cells stand one behind the other up to the page's end.
        let mut end = leaf.cells_from();
        let is_packed = cells.into_iter().all(|cell| {
            let is_next = cell == end && cell + CELL <= size;
            end = if is_next { cell + CELL + usize::from(leaf.number(cell) & !PRESENT) } else { size + 1 };
            end <= size
        });
        let right = is_packed
            && end == size
            && (0..count).all(|at| prefix + leaf.suffix(at).len() >= 4)
            && (1..count).all(|at| leaf.suffix(at - 1) < leaf.suffix(at))
            && (count == 0 || leaf.encoded(0)[..] >= *fence);
        leaf.deleted_from = (0..count).filter(|_| right).fold(NONE_DELETED, |first, at| first.min(leaf.item(at).deleted_at()));
        right.then_some(leaf)
    }

    /// Whether it can be the leaf before the one with this fence.
    fn ends_before(&self, next: &[u8]) -> bool {
        next.starts_with(self.prefix()) && self.count().checked_sub(1).is_none_or(|last| self.encoded(last)[..] < *next)
    }

    #[inline]
    fn number(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.page[at], self.page[at + 1]])
    }

    fn page_mut(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.page)
    }

    fn set(&mut self, at: usize, number: u16) {
        self.page_mut()[at..at + 2].copy_from_slice(&number.to_le_bytes());
    }

    #[inline]
    fn count(&self) -> usize {
        usize::from(self.number(0))
    }

    fn cells_from(&self) -> usize {
        usize::from(self.number(2))
    }

    #[inline]
    fn prefix(&self) -> &[u8] {
        &self.page[HEADER..HEADER + usize::from(self.number(4))]
    }

    #[inline]
    fn slot(&self, at: usize) -> usize {
        HEADER + usize::from(self.number(4)) + at * SLOT
    }

    #[inline]
    fn cell(&self, at: usize) -> usize {
        usize::from(self.number(self.slot(at)))
    }

    #[inline]
    fn suffix(&self, at: usize) -> &[u8] {
        let cell = self.cell(at);
        &self.page[cell + CELL..cell + CELL + usize::from(self.number(cell) & !PRESENT)]
    }

    fn encoded(&self, at: usize) -> Vec<u8> {
        [self.prefix(), self.suffix(at)].concat()
    }

    fn key(&self, at: usize) -> Key {
        let encoded = self.encoded(at);
        let (table, rest) = encoded.split_first_chunk().expect("an encoded key begins with its table");
        decoded(u32::from_be_bytes(*table), rest)
    }

    /// Where a key is, or else belongs.
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let suffix = &key[self.prefix().len()..];
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = (low + high) / 2;
            match self.suffix(middle).cmp(suffix) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    fn item(&self, at: usize) -> Item {
        let cell = self.cell(at);
        let u32_at = |at: usize| u32::from_le_bytes(self.page[cell + at..cell + at + 4].try_into().expect("four bytes"));
        let version = u64::from_le_bytes(self.page[cell + 2..cell + 10].try_into().expect("eight bytes"));
        let place = Place { segment: SegmentId(u32_at(10)), offset: u32_at(14), length: u32_at(18) };
        let value = (self.number(cell) & PRESENT != 0).then(|| ValuePlace { place, checksum: u32_at(22) });
        Item { version: Version(version), value }
    }

    fn write(&mut self, cell: usize, suffix: usize, item: Item) {
        self.copied = None;
        self.deleted_from = self.deleted_from.min(item.deleted_at());
        let present = if item.value.is_some() { PRESENT } else { 0 };
        self.set(cell, suffix as u16 | present);
        let page = self.page_mut();
        page[cell + 2..cell + 10].copy_from_slice(&item.version.0.to_le_bytes());
        let (place, checksum) = item.value.map_or((Place::default(), 0), |value| (value.place, value.checksum));
        for (nth, number) in [place.segment.0, place.offset, place.length, checksum].into_iter().enumerate() {
            page[cell + 10 + 4 * nth..cell + 14 + 4 * nth].copy_from_slice(&number.to_le_bytes());
        }
    }

    fn replace(&mut self, at: usize, item: Item) -> Item {
        let old = self.item(at);
        if old.version <= item.version {
            let cell = self.cell(at);
            self.write(cell, usize::from(self.number(cell) & !PRESENT), item);
        }
        old
    }

    /// Bytes that one key more takes.
    fn cost(&self, key: &[u8]) -> usize {
        SLOT + CELL + key.len() - self.prefix().len()
    }

    fn used(&self) -> usize {
        self.slot(self.count()) + self.page.len() - self.cells_from()
    }

    fn has_room(&self, key: &[u8], size_max: usize) -> bool {
        self.used() + self.cost(key) <= size_max || self.count() < CELLS_MIN
    }

    /// Puts a key that is not there at its position.
    fn insert(&mut self, at: usize, key: &[u8], item: Item) {
        let (count, cost) = (self.count(), self.cost(key));
        if self.slot(count) + cost > self.cells_from() {
            self.grow(cost);
        }
        let suffix = key.len() - self.prefix().len();
        assert!(suffix < usize::from(PRESENT), "keys of items are short");
        let cell = self.cells_from() - CELL - suffix;
        self.set(2, cell as u16);
        let (slot, end) = (self.slot(at), self.slot(count));
        self.page_mut().copy_within(slot..end, slot + SLOT);
        self.set(slot, cell as u16);
        self.set(0, count as u16 + 1);
        self.page_mut()[cell + CELL..cell + CELL + suffix].copy_from_slice(&key[key.len() - suffix..]);
        self.write(cell, suffix, item);
    }

    /// Makes room for so many bytes, and an eighth of what is there.
    fn grow(&mut self, cost: usize) {
        let (count, from, size) = (self.count(), self.cells_from(), self.page.len());
        let more = (self.slot(count) + cost - from).max(size / 8);
        let mut page = Vec::with_capacity(size + more);
        page.extend_from_slice(&self.page[..self.slot(count)]);
        page.resize(from + more, 0);
        page.extend_from_slice(&self.page[from..]);
        self.page = Arc::new(page);
        self.set(2, (from + more) as u16);
        for at in 0..count {
            let cell = self.cell(at) + more;
            self.set(self.slot(at), cell as u16);
        }
    }

    /// The cell behind the first that half of the bytes lie before; never the first.
    fn middle(&self) -> usize {
        let half = (self.page.len() - self.cells_from()) / 2;
        let mut before = 0;
        let full = |at: &usize| {
            before += CELL + self.suffix(*at).len();
            before >= half
        };
        (0..self.count()).find(full).map_or(1, |at| (at + 1).clamp(1, self.count() - 1))
    }

    /// All its cells, in the order of their keys.
    fn cells(&self) -> impl Iterator<Item = (&Leaf, usize)> + Clone {
        (0..self.count()).map(move |at| (self, at))
    }

    /// Bytes of a leaf of these cells, but for its header and prefix.
    fn size_of<'a>(prefix: &[u8], cells: impl Iterator<Item = (&'a Leaf, usize)>) -> usize {
        cells.map(|(leaf, at)| SLOT + CELL + leaf.prefix().len() + leaf.suffix(at).len() - prefix.len()).sum()
    }

    /// A leaf of these cells, whose keys come in order and all begin with this prefix.
    fn of<'a>(prefix: &[u8], cells: impl Iterator<Item = (&'a Leaf, usize)> + Clone) -> Leaf {
        let mut made = Leaf::with_room_for(Leaf::size_of(prefix, cells.clone()), prefix);
        for (nth, (leaf, at)) in cells.enumerate() {
            made.insert(nth, &leaf.encoded(at), leaf.item(at));
        }
        made
    }

    /// Drops what is left of items that were deleted up to this version. Returns how many.
    fn forget_deleted(&mut self, upto: Version) -> usize {
        if self.deleted_from > upto {
            return 0;
        }
        let is_kept = |at: usize| self.item(at).deleted_at() > upto;
        let kept = (0..self.count()).filter(|at| is_kept(*at)).count();
        let forgotten = self.count() - kept;
        if forgotten > 0 {
            *self = Leaf::of(self.prefix(), self.cells().filter(|(_, at)| is_kept(*at)));
        } else {
            // Those that were deleted are there again.
            self.deleted_from = (0..kept).fold(NONE_DELETED, |first, at| first.min(self.item(at).deleted_at()));
        }
        forgotten
    }
}

impl core::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_map().entries((0..self.count()).map(|at| (self.key(at), self.item(at)))).finish()
    }
}

/// Bytes that both begin with.
fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// Calls `then` with the encoded key.
fn encoded<R>(key: &Key, then: impl FnOnce(&[u8]) -> R) -> R {
    let plain = !key.partition_key().contains(&0) && key.sort_key().is_none();
    let size = 4 + key.size();
    if plain && size <= SHORT {
        let mut short = [0; SHORT];
        short[..4].copy_from_slice(&key.table().to_be_bytes());
        short[4..size].copy_from_slice(key.partition_key());
        return then(&short[..size]);
    }
    let mut long = Vec::with_capacity(size + SORT_KEY.len());
    long.extend_from_slice(&key.table().to_be_bytes());
    for byte in key.partition_key() {
        long.push(*byte);
        if *byte == 0 {
            long.push(0xff);
        }
    }
    if let Some(sort_key) = key.sort_key() {
        long.extend_from_slice(&SORT_KEY);
        long.extend_from_slice(sort_key);
    }
    then(&long)
}

/// The key of a table that is encoded as this behind its table.
fn decoded(table: u32, rest: &[u8]) -> Key {
    if !rest.contains(&0) {
        return Key::new(table, rest, None);
    }
    let mut partition_key = Vec::with_capacity(rest.len());
    let mut at = 0;
    while at < rest.len() && !rest[at..].starts_with(&SORT_KEY) {
        partition_key.push(rest[at]);
        at += if rest[at] == 0 { 2 } else { 1 };
    }
    Key::new(table, &partition_key, rest.get(at + SORT_KEY.len()..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random;
    use rand::RngExt;

    fn item(number: u64) -> Item {
        let place = Place { segment: SegmentId(number as u32 ^ 7), offset: number as u32, length: 3 };
        let value = (!number.is_multiple_of(5)).then_some(ValuePlace { place, checksum: !number as u32 });
        Item { version: Version(number), value }
    }

    fn all(leaves: &Leaves, from: Bound<&Key>) -> Vec<(Key, Item)> {
        leaves.range(from).collect()
    }

    #[test]
    fn the_encoded_order_is_that_of_keys() {
        let parts: [&[u8]; 9] = [b"", b"\0", b"\0\0", b"\0\x01", b"\0\xff", b"a", b"a\0", b"a\0b", b"ab"];
        let mut keys = Vec::new();
        for table in [0, 1, 255, 256] {
            for part in parts {
                keys.push(Key::new(table, part, None));
                keys.extend(parts.map(|sort_key| Key::new(table, part, Some(sort_key))));
            }
        }
        for one in &keys {
            assert_eq!(encoded(one, |key| decoded(one.table(), &key[4..])), *one);
            for other in &keys {
                let order = encoded(one, |one| encoded(other, |other| one.cmp(other)));
                assert_eq!(order, one.cmp(other), "{one} and {other}");
            }
        }
    }

    /// Against a map of items, with keys of all kinds, in every order.
    #[test]
    fn it_holds_what_a_map_holds() {
        for seed in 0..40 {
            let mut random = random::stream(seed, "leaves");
            let (mut leaves, mut map) = (Leaves::new([1, 300, 8 * 1024][seed as usize % 3]), BTreeMap::new());
            let wide = 1 + random.random_range(0..3_000_u64);
            for number in 0..3_000 {
                let drawn = if seed % 4 == 0 { number } else { random.random_range(0..wide) };
                let mut part = match seed / 4 % 3 {
                    0 => drawn.to_be_bytes().to_vec(),
                    1 => format!("user/{drawn}").into_bytes(),
                    _ => vec![b'x'; drawn as usize % 2_000],
                };
                if random.random_range(0..10) == 0 {
                    part.clear();
                }
                let sort_key = (random.random_range(0..4) == 0).then(|| drawn.to_le_bytes());
                let key = Key::new(random.random_range(0..2), &part, sort_key.as_ref().map(|key| &key[..]));
                assert_eq!(leaves.get(&key), map.get(&key).copied());
                assert_eq!(leaves.put(&key, item(number)), map.insert(key.clone(), item(number)));
                assert_eq!(leaves.get(&key), Some(item(number)));
                if number % 500 == 0 {
                    let equal = |from: Bound<&Key>| {
                        let expected: Vec<(Key, Item)> =
                            map.range::<Key, _>((from, Bound::Unbounded)).map(|(key, item)| (key.clone(), *item)).collect();
                        assert_eq!(all(&leaves, from), expected);
                    };
                    let absent = Key::new(key.table(), &[key.partition_key(), b"!"].concat(), None);
                    let froms = [Bound::Unbounded, Bound::Included(&key), Bound::Excluded(&key), Bound::Included(&absent)];
                    froms.into_iter().for_each(equal);
                    leaves.check();
                }
            }
            assert_eq!(all(&leaves, Bound::Unbounded).len(), map.len());
        }
    }

    /// What a key may cost is a promise: 60 bytes beyond its own.
    #[test]
    fn a_key_costs_little_more_than_its_bytes() {
        for (ordered, padding) in [(false, 0), (true, 0), (false, 84), (true, 84)] {
            let mut leaves = Leaves::new(8 * 1024);
            let (count, mut keys) = (50_000_u64, 0);
            for number in 0..count {
                let drawn = if ordered { number } else { number.wrapping_mul(0x9E37_79B9_7F4A_7C15) };
                let key = Key::from(format!("{drawn:016x}{:padding$}", ""));
                keys += key.size();
                leaves.put(&key, item(number));
            }
            let beyond = (leaves.size() as u64 - keys as u64) / count;
            assert!(beyond < 40, "{beyond} bytes a key, ordered: {ordered}, {padding} bytes behind what is drawn");
        }
    }
}
