//! Compaction: values that are still asked for are copied out of segments that hold few of them, so that their files can be used
//! again.
//!
//! ```text
//! a checkpoint begins -> victims are chosen -> each is read, front to end: what the index points at there is appended anew, and
//!                        the index points at the copy
//!                     -> the checkpoint is made, without a copy that lies in a victim
//!                     -> its manifest does not name the victims -> (durable) -> (no read, no snapshot is at them) -> freed
//! ```
//!
//! **Part of a checkpoint.** The roots behind the copies name no place in a victim. A boot reads the newest manifest that is durable: from
//! one before, the victims are all there, and the copies count for nothing; from the one behind, they are not asked for. So no
//! copy is ever replayed, and none can bring back what was overwritten or deleted.
//!
//! **No race.** A value is looked up, appended and pointed at in one step: nothing comes between. The index says what is alive, by
//! place: what a segment holds besides (replaced entries, what an earlier epoch left) is not in it.
//!
//! **Nothing is freed that is not empty.** Of each segment is counted what is alive in it ([`crate::state::Live`]). A victim of which
//! a record cannot be read keeps what lies behind it, until a scrub has moved that by its places ([`super::scrub`]). One in which a
//! transaction is prepared is no victim.
//!
//! **Which.** Only segments before the start of the replay, and, of those, only if together they hold more garbage than
//! [`garbage_percent`](crate::base::limits::Limits::garbage_percent) allows: those first that hold the least. Segments behind the start are garbage soon enough.

use super::{Node, Work};
use crate::base::{GroupId, Key, Place, SegmentId, Sometimes, Time};
use crate::msg::transaction::Stored;
use crate::state::{Item, Part};
use crate::wal;
use crate::wal::sweep::{Found, Sweep};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A segment of which more than this is alive is never a victim: as much would be written as is won.
const LIVE_PERCENT_MAX: u64 = 85;
/// Of the bytes of a victim that are read, one in so many counts as copied.
const LOOKED_AT_SHARE: u64 = 16;
/// As many segments' worth of values is moved by one checkpoint, at least, if there is so much to win.
const SEGMENTS_MOVED: u64 = 4;

#[derive(Debug, Default)]
pub struct Compaction {
    /// Segments that the checkpoint in progress is to empty.
    pub victims: BTreeSet<SegmentId>,
    /// Victims that are still to be swept.
    left: VecDeque<Sweep>,
    /// The read that was asked for, and what it brought; `Some(None)`: nothing.
    asked: Option<Place>,
    block: Option<Option<Bytes>>,
    /// Segments that are empty, by a manifest that is durable, but for reads and snapshots that are still at them.
    condemned: BTreeSet<SegmentId>,
    /// Segments that could not be emptied: something in them cannot be read.
    stuck: BTreeSet<SegmentId>,
    pub counters: Counters,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Segments of which nothing was needed any more.
    pub freed: u64,
    /// Values that were copied, and their bytes.
    pub moved: u64,
    pub bytes_moved: u64,
}

impl Compaction {
    /// A block of a victim was read.
    pub fn on_block(&mut self, place: Place, block: Option<Bytes>) {
        if self.asked == Some(place) {
            self.asked = None;
            self.block = Some(block);
        }
    }

    /// Whether a victim is still to be swept.
    pub fn is_sweeping(&self) -> bool {
        !self.left.is_empty()
    }

    /// The block that it waits for.
    pub fn asked(&self) -> Option<Place> {
        self.asked
    }

    /// The checkpoint in progress is none any more. What was moved has been moved.
    pub fn give_up(&mut self) {
        self.victims.clear();
        self.left.clear();
        self.block = None;
    }

    /// Something in the segment could not be read, and has been repaired.
    pub fn is_repaired(&mut self, segment: SegmentId) {
        self.stuck.remove(&segment);
    }

    /// Segments that are to go, or have gone as far as the log can tell.
    pub fn condemn(&mut self, gone: impl IntoIterator<Item = SegmentId>) {
        self.condemned.extend(gone);
    }

    pub fn is_condemned(&self, segment: SegmentId) -> bool {
        self.condemned.contains(&segment)
    }
}

impl Node {
    /// Bytes of a segment that are alive: of values and of copies.
    pub(super) fn live_in(&self, segment: SegmentId) -> u64 {
        let values: u64 = self.groups.values().map(|group| group.store.state().items().live().of(segment)).sum();
        values + self.checkpoints.copied_in(segment)
    }

    /// The segments that a checkpoint which begins now should empty. `budget`: the disk is full, so that any garbage is too much, and so
    /// many bytes may be copied.
    pub(super) fn choose_victims(&self, budget: Option<u64>) -> Vec<(SegmentId, u32)> {
        let start = self.checkpoints.start();
        let mut live: BTreeMap<SegmentId, u64> = BTreeMap::new();
        for group in self.groups.values() {
            let segments = group.store.state().items().live().segments();
            segments.for_each(|(segment, bytes)| *live.entry(segment).or_default() += bytes);
        }
        let (mut old, mut alive) = (0, 0);
        let mut candidates = Vec::new();
        for (segment, size) in self.log.segments_before(start).filter(|(segment, _)| !self.compaction.is_condemned(*segment)) {
            let values = live.get(&segment).copied().unwrap_or_default();
            if values > 0 && self.compaction.stuck.contains(&segment) {
                // Nothing can be done about it.
                continue;
            }
            let held = values + self.checkpoints.copied_in(segment);
            (old, alive) = (old + size, alive + held);
            let is_worth_it = held * 100 <= size * LIVE_PERCENT_MAX;
            if is_worth_it && let Ok(size) = u32::try_from(size) {
                candidates.push((held, segment, size));
            }
        }
        candidates.sort_unstable();
        let allowed = if budget.is_some() { 0 } else { self.allowed_beside(alive) };
        let enough = u64::from(self.options.segment_size) * SEGMENTS_MOVED;
        let enough = budget.unwrap_or(enough.max(self.options.limits.checkpoint_bytes as u64));
        let (mut chosen, mut moved) = (Vec::new(), 0);
        for (held, segment, size) in candidates {
            if old <= allowed || (moved + held > enough && (budget.is_some() || !chosen.is_empty())) {
                break;
            }
            if self.groups.values().any(|group| group.store.state().has_prepared_in(segment)) {
                Sometimes::PreparedKeepsSegment.reached();
                continue;
            }
            (old, moved) = (old + held - u64::from(size).min(old + held), moved + held);
            chosen.push((segment, size));
        }
        if chosen.len() as u64 <= self.segments_for(moved) {
            // Where values are large, and segments small, what is moved fills as many.
            Sometimes::NothingToWin.when(!chosen.is_empty());
            chosen.clear();
        }
        chosen
    }

    /// How many segments so many bytes of copies fill, about.
    pub(super) fn segments_for(&self, bytes: u64) -> u64 {
        (bytes + bytes / 8).div_ceil(u64::from(self.options.segment_size))
    }

    /// Of segments with so many bytes that are alive, how many bytes there may be.
    fn allowed_beside(&self, alive: u64) -> u64 {
        alive * 100 / (100 - self.options.limits.garbage_percent.min(99) as u64)
    }

    /// The checkpoint that begins now empties these.
    pub(super) fn begin_compaction(&mut self, victims: Vec<(SegmentId, u32)>) {
        let block = self.options.limits.sweep_block_bytes as u32;
        let compaction = &mut self.compaction;
        compaction.block = None;
        compaction.victims = victims.iter().map(|(segment, _)| *segment).collect();
        compaction.left = victims.into_iter().map(|(segment, size)| Sweep::of(segment, size, block)).collect();
        Sometimes::CompactionBegun.when(!compaction.victims.is_empty());
    }

    /// Goes on with the sweep. Returns what that counts for, in bytes.
    pub(super) fn go_on_sweeping(&mut self, now: Time) -> u64 {
        let Some(mut sweep) = self.compaction.left.pop_front() else { return 0 };
        let mut cost = 0;
        if let Some(block) = self.compaction.block.take() {
            Sometimes::BlockUnreadable.when(block.is_none());
            cost += block.as_ref().map_or(0, |block| block.len() as u64 / LOOKED_AT_SHARE);
            let mut alive: BTreeMap<GroupId, Vec<(Found, Item)>> = BTreeMap::new();
            let groups = &self.groups;
            sweep.take(self.log.nonce(), block.as_ref(), &mut |found| {
                // A value of no bytes lies nowhere, and two may have one place.
                if found.place.length == 0 {
                    return;
                }
                let item = groups.get(&found.group).and_then(|group| group.store.state().items().get(&found.key));
                if let Some(item) = item.filter(|item| item.value.is_some_and(|value| value.place == found.place)) {
                    alive.entry(found.group).or_default().push((found, item));
                }
            });
            for (group, values) in alive {
                cost += self.move_values(now, group, values);
            }
        }
        let Some(place) = sweep.next() else {
            if self.compaction.left.is_empty() {
                self.settle_victims();
            }
            return cost;
        };
        self.compaction.left.push_front(sweep);
        self.compaction.asked = Some(place);
        self.work.push_back(Work::Log(wal::In::ReadBlock(place)));
        self.drain(now);
        cost
    }

    /// All victims were swept: those that are not empty are none. Now, not in the end: the leaves are copied in between, and what a
    /// leaf names must be there, even if it was overwritten since.
    fn settle_victims(&mut self) {
        let groups = &self.groups;
        let alive = |victim: &SegmentId| groups.values().any(|group| group.store.state().items().live().of(*victim) > 0);
        let stuck: Vec<SegmentId> = self.compaction.victims.extract_if(.., |victim| alive(victim)).collect();
        Sometimes::VictimNotEmptied.when(!stuck.is_empty());
        self.compaction.stuck.extend(stuck);
    }

    /// Moves a value that was read by its place out of a segment which cannot be swept.
    pub(super) fn rescue(&mut self, now: Time, id: GroupId, key: Key, place: Place, value: Bytes) {
        if !self.compaction.stuck.contains(&place.segment) || self.log.room().is_full() || self.is_sealing() {
            return;
        }
        let item = self.groups.get(&id).and_then(|group| group.store.state().items().get(&key));
        let lies_there = |item: &Item| item.value.is_some_and(|held| held.place == place);
        if let Some(item) = item.filter(lies_there) {
            Sometimes::ValueRescued.reached();
            self.move_values(now, id, vec![(Found { group: id, key, place, value }, item)]);
        }
    }

    /// Appends values anew, and points the index at them. Returns how many bytes that took.
    fn move_values(&mut self, now: Time, id: GroupId, values: Vec<(Found, Item)>) -> u64 {
        let is_right = |(found, item): &(Found, Item)| item.value.is_some_and(|value| value.is_of(&found.value));
        let (values, rotten): (Vec<_>, Vec<_>) = values.into_iter().partition(is_right);
        for (found, _) in rotten {
            // It stays where it is until a member has sent it: a checksum of its own must not hide what has become of it.
            self.tell_rot(id, Some(found.key.clone()), found.place, "the value that is to be moved fails its checksum".into());
            let _ = self.begin_repair(now, id, found.key, found.place, None);
        }
        if values.is_empty() {
            return 0;
        }
        let part = |(found, item): &(Found, Item)| {
            let stored = item.value.map(|value| Stored { length: value.place.length, checksum: value.checksum });
            Part::Item { key: found.key.clone(), version: item.version, value: stored }
        };
        let parts: Vec<Part<Stored>> = values.iter().map(part).collect();
        let bytes: Vec<Bytes> = values.iter().map(|(found, _)| found.value.clone()).collect();
        let (record, area) = self.append_values(now, id, &parts, &bytes);
        let mut at = area.offset;
        for (found, _) in &values {
            let to = Place { segment: area.segment, offset: at, length: found.place.length };
            at += to.length;
            self.point_at(id, &found.key, found.place, to);
        }
        self.checkpoints.moved(id);
        Sometimes::ValuesMoved.reached();
        self.compaction.counters.moved += values.len() as u64;
        self.compaction.counters.bytes_moved += u64::from(record);
        u64::from(record)
    }

    /// The victims of the checkpoint that ends now: nothing is needed of them any more.
    pub(super) fn emptied(&mut self) -> Vec<SegmentId> {
        let victims = std::mem::take(&mut self.compaction.victims);
        for victim in &victims {
            assert_eq!(self.live_in(*victim), 0, "segment {victim} is empty, and no root names it");
        }
        victims.into_iter().collect()
    }

    /// Frees what nobody reads from any more.
    pub(super) fn free_condemned(&mut self, now: Time) {
        if self.compaction.condemned.is_empty() {
            return;
        }
        let condemned = self.compaction.condemned.iter().copied();
        let is_busy = |segment: SegmentId| self.log.is_read(segment) || self.snapshots.reads(segment);
        let (busy, idle): (Vec<SegmentId>, Vec<SegmentId>) = condemned.partition(|segment| is_busy(*segment));
        Sometimes::CondemnedSegmentRead.when(!busy.is_empty());
        self.compaction.condemned = busy.into_iter().collect();
        for segment in idle {
            assert_eq!(self.live_in(segment), 0, "segment {segment} is needed");
            self.compaction.counters.freed += 1;
            self.work.push_back(Work::Log(wal::In::Free(segment)));
        }
        self.drain(now);
    }
}
