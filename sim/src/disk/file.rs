//! A file of a simulated disk: what reads show of it, what is on the medium, and what of the difference survives.

use super::{BLOCK, SECTOR};
use crate::counters::{Counters, Kind};
use crate::dice::Dice;
use crate::plan::{Decay, LossStyle};
use ringseed::base::SegmentId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

#[derive(Debug, Clone, Default)]
pub(super) struct File {
    pub(super) durable: Vec<u8>,
    pub(super) cached: Vec<u8>,
    /// Writes since the last sync, in order: where, and how many bytes.
    pub(super) unsynced: Vec<(usize, Vec<u8>)>,
    pub(super) name_durable: bool,
    /// Whether a sync has followed a write: how a segment in use is told from a fresh one.
    pub(super) used: bool,
    /// Where the space begins that nothing was written to before the last sync, or the last loss of power.
    pub(super) fresh_from: usize,
    /// Something durable, written later, tells that all before here was durable.
    pub(super) vouched: usize,
    /// Its size when it was made.
    pub(super) made: usize,
    /// What should stand where bytes have rotted, or are of a write that went astray.
    pub(super) sound: BTreeMap<usize, u8>,
    /// Writes that were synced, by their places, but for those that a later write overlaps.
    pub(super) written: BTreeMap<usize, Written>,
    /// The name that it had before, which a loss of power may bring back.
    pub(super) renamed: Option<SegmentId>,
}

/// A write that was synced.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) length: usize,
    /// What stood there before; nothing: zeros.
    pub(super) before: Vec<u8>,
}

impl File {
    pub(super) fn zeros(size: usize) -> File {
        File { durable: vec![0; size], cached: vec![0; size], made: size, ..File::default() }
    }

    /// The same bytes, as they should be, for another segment, of which nothing was written yet.
    pub(super) fn recycled(mut self) -> File {
        self.restore();
        File { durable: self.durable, cached: self.cached, made: self.made, ..File::default() }
    }

    /// Nothing in it has rotted.
    pub(super) fn restore(&mut self) {
        for bytes in [&mut self.durable, &mut self.cached] {
            bytes.resize(bytes.len().max(self.made), 0);
            self.sound.iter().for_each(|(&at, &byte)| bytes[at] = byte);
        }
        self.sound.clear();
    }

    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if end > self.cached.len() {
            self.cached.resize(end, 0);
        }
        self.cached[offset..end].copy_from_slice(data);
        if !self.sound.is_empty() {
            self.sound.retain(|at, _| !(offset..end).contains(at));
        }
        self.unsynced.push((offset, data.to_vec()));
    }

    pub(super) fn sync(&mut self) {
        if self.durable.len() < self.cached.len() {
            self.durable.resize(self.cached.len(), 0);
        }
        let first = self.unsynced.iter().map(|(offset, _)| *offset).min();
        self.vouched = self.vouched.max(first.unwrap_or(0));
        for (offset, data) in self.unsynced.drain(..) {
            let range = offset..offset + data.len();
            note_written(&mut self.written, offset, &self.durable[range.clone()], &data);
            self.durable[range.clone()].copy_from_slice(&data);
            self.fresh_from = self.fresh_from.max(range.end);
            self.used = true;
        }
    }

    /// Whether nothing in `range` waits for a sync.
    pub(super) fn is_synced(&self, range: &Range<usize>) -> bool {
        self.unsynced.iter().all(|(offset, data)| range.end <= *offset || offset + data.len() <= range.start)
    }

    /// Other bytes stand at `offset` than were synced.
    pub(super) fn spoil(&mut self, offset: usize, bytes: &[u8]) {
        for (at, (byte, stands)) in (offset..).zip(bytes.iter().zip(&self.cached[offset..])) {
            if byte != stands {
                self.sound.entry(at).or_insert(*stands);
            }
        }
        for all in [&mut self.durable, &mut self.cached] {
            all[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Bytes of `range`, which was synced, become others, or are gone.
    pub(super) fn rot(&mut self, range: Range<usize>, decay: Decay, dice: &mut Dice) {
        let decay = if self.unsynced.is_empty() || decay != Decay::End { decay } else { Decay::Zeros };
        let (at, bit) = (range.start + dice.below(range.len() as u64) as usize, 1 << dice.below(8));
        let end = if decay == Decay::End { self.cached.len() } else { range.end };
        let before = self.cached[range.start..end].to_vec();
        for bytes in [&mut self.durable, &mut self.cached] {
            match decay {
                Decay::Bit => bytes[at] ^= bit,
                Decay::Zeros => bytes[range.clone()].fill(0),
                Decay::End => bytes.truncate(range.start),
            }
        }
        for (at, byte) in (range.start..).zip(before) {
            if self.cached.get(at).copied().unwrap_or(0) != byte {
                self.sound.entry(at).or_insert(byte);
            }
        }
    }

    /// Makes a part of what was not synced durable, as `style` says, and forgets the rest. `old`: what lost sectors of fresh
    /// space show. Returns what it did that shows.
    pub(super) fn lose(
        &mut self,
        style: LossStyle,
        old: Option<&[u8]>,
        dice: &mut Dice,
        counters: &mut Counters,
    ) -> BTreeSet<Kind> {
        let mut scars = BTreeSet::new();
        let unsynced = std::mem::take(&mut self.unsynced);
        if unsynced.is_empty() {
            return scars;
        }
        if self.durable.len() < self.cached.len() {
            self.durable.resize(self.cached.len(), 0);
        }
        let cut = dice.below(unsynced.len() as u64) as usize;
        let mut survived: Vec<(usize, usize)> = Vec::with_capacity(unsynced.len());
        for (nth, (offset, data)) in unsynced.iter().enumerate() {
            let order = nth.cmp(&cut);
            let kept = match style {
                LossStyle::Nothing => Kept::Permille(0),
                LossStyle::Everything => Kept::Permille(1000),
                LossStyle::Sectors => Kept::draw(data.len(), dice),
                LossStyle::Prefix | LossStyle::Suffix if order.is_eq() => Kept::draw(data.len(), dice),
                LossStyle::Prefix => Kept::Permille(if order.is_lt() { 1000 } else { 0 }),
                LossStyle::Suffix => Kept::Permille(if order.is_lt() { 0 } else { 1000 }),
            };
            let some_lost = survived.iter().any(|&(kept, all)| kept < all);
            let kept = match kept {
                _ if !counters.acts(Kind::LostWrite) => Kept::Permille(1000),
                _ if some_lost && !counters.acts(Kind::ReorderedWrite) => Kept::Permille(0),
                Kept::Permille(0 | 1000) => kept,
                _ if !counters.acts(Kind::TornWrite) => Kept::Permille(1000),
                torn => torn,
            };
            survived.push(persist_sectors(&mut self.durable, *offset, data, kept, dice));
            if let Some(old) = old
                && show_old_sectors(&mut self.durable, self.fresh_from, *offset, data, old)
            {
                counters.fired(Kind::OldBytes);
                scars.insert(Kind::OldBytes);
            }
        }
        let written = unsynced.iter().map(|(offset, data)| offset + data.len());
        self.fresh_from = written.fold(self.fresh_from, usize::max);
        let first_lost = survived.iter().position(|&(kept, all)| kept < all);
        if first_lost.is_some() {
            counters.fired(Kind::LostWrite);
            scars.insert(Kind::LostWrite);
        }
        if survived.iter().any(|&(kept, all)| kept > 0 && kept < all) {
            counters.fired(Kind::TornWrite);
            scars.insert(Kind::TornWrite);
        }
        if first_lost.is_some_and(|at| survived[at + 1..].iter().any(|&(kept, _)| kept > 0)) {
            counters.fired(Kind::ReorderedWrite);
            scars.insert(Kind::ReorderedWrite);
        }
        let shown = self.durable.get(..self.cached.len());
        if shown == Some(&self.cached[..]) {
            scars.clear();
        }
        self.cached.clear();
        self.cached.extend_from_slice(&self.durable);
        scars
    }
}

/// Which sectors of a torn write reach the medium.
#[derive(Debug, Clone, Copy)]
enum Kept {
    /// Each with this chance.
    Permille(u32),
    /// So many, from the first on.
    Front(usize),
    /// All but this one: the ends of a large write are whole.
    AllBut(usize),
}

impl Kept {
    /// For a write of `size` bytes.
    fn draw(size: usize, dice: &mut Dice) -> Kept {
        let sectors = (size / SECTOR) as u64 + 1;
        match dice.below(4) {
            // Often few: a segment's header stands in front of its first batch.
            0 => Kept::Front(dice.spread(1, sectors) as usize),
            1 => Kept::AllBut(dice.below(sectors + 1) as usize),
            _ => Kept::Permille(500),
        }
    }
}

/// `data`, instead of what `stands` there, is synced. To write the same once more is no other write.
fn note_written(written: &mut BTreeMap<usize, Written>, offset: usize, stands: &[u8], data: &[u8]) {
    if stands == data {
        return;
    }
    let overlaps = |(at, earlier): &(&usize, &Written)| **at + earlier.length > offset;
    let overlapped: Vec<usize> = written.range(..offset + data.len()).rev().take_while(overlaps).map(|(at, _)| *at).collect();
    overlapped.iter().for_each(|at| _ = written.remove(at));
    let before = if is_zero(stands) { Vec::new() } else { stands.to_vec() };
    written.insert(offset, Written { length: data.len(), before });
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The sectors of `data` at `offset`, as ranges of `data`.
fn sectors(offset: usize, data: &[u8]) -> impl Iterator<Item = Range<usize>> + use<> {
    let (mut at, length) = (0, data.len());
    std::iter::from_fn(move || {
        let end = length.min(at + SECTOR - (offset + at) % SECTOR);
        let sector = at..end;
        at = end;
        (!sector.is_empty()).then_some(sector)
    })
}

/// Writes those sectors of `data` at `offset` that are kept. Returns how many, and how many there were.
fn persist_sectors(durable: &mut [u8], offset: usize, data: &[u8], kept: Kept, dice: &mut Dice) -> (usize, usize) {
    let (mut count, mut all) = (0, 0);
    for sector in sectors(offset, data) {
        let keep = match kept {
            Kept::Permille(permille) => dice.chance(permille),
            Kept::Front(front) => all < front,
            Kept::AllBut(lost) => all != lost,
        };
        all += 1;
        if keep {
            durable[offset + sector.start..offset + sector.end].copy_from_slice(&data[sector]);
            count += 1;
        }
    }
    (count, all)
}

/// Sectors of a write into fresh space that were lost show what stood at their place in `old`; with the last of them, so does
/// the rest of its block. Returns whether any shows other than zeros.
fn show_old_sectors(durable: &mut [u8], fresh_from: usize, offset: usize, data: &[u8], old: &[u8]) -> bool {
    let written_end = offset + data.len();
    let block_end = written_end.next_multiple_of(BLOCK).min(durable.len()).min(old.len());
    let mut any = false;
    let mut lost = false;
    for start in (fresh_from.max(offset).next_multiple_of(SECTOR)..block_end).step_by(SECTOR) {
        let end = (start + SECTOR).min(block_end);
        lost = if start < written_end { is_zero(&durable[start..end.min(written_end)]) } else { lost };
        if lost && is_zero(&durable[start..end]) {
            durable[start..end].copy_from_slice(&old[start..end]);
            any |= !is_zero(&old[start..end]);
        }
    }
    any
}
