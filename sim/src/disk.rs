//! A simulated disk: what reads show, what the medium holds, and what a crash makes of the difference.
//!
//! What it may do is the list of DESIGN, section 6; of rot, that of a log's end and of what was synced before it. A file is
//! bytes in two states: *cached*, which reads show and the end of a process leaves alone, and *durable*, which is all that a
//! power loss leaves for certain. In between, sector by sector of 512 bytes, a write that was not synced may be there, or not,
//! or in an earlier form; the sectors of one write do not stick together, and a later write may survive an earlier one. A
//! file's name is durable apart from its bytes. A file that was being made when the power went may show another file's bytes;
//! and so may a sector that was first written to, and not synced, when the power went: its block was given to the file, and
//! what the block should hold never came. That is what makes a log's checksums say *where* a record belongs.
//!
//! The world executes the operations of a node one after the other; reads overtake. An operation takes effect when it
//! completes; of one that a crash interrupts, part may have taken effect.

use crate::counters::{Counters, Kind};
use crate::dice::Dice;
use crate::plan::{BootStep, Decay, LossStyle, Rot, Synced};
use bytes::Bytes;
use ringseed::base::{Place, SegmentId};
use ringseed::msg::disk::{DiskError, DiskOp, DiskResult, LogDevice};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What survives of a write, if anything does, survives in whole sectors.
pub const SECTOR: usize = 512;
/// What a file is given space in.
const BLOCK: usize = 4096;
/// Where a segment's batches begin: behind two copies of its header, a sector each.
const HEADER: usize = 2 * SECTOR;
/// Bytes of a copy that are used, at least.
const HEADER_USED: usize = 64;
/// How many of the last reads are remembered.
const READS_REMEMBERED: usize = 8;

#[derive(Debug, Clone, Default)]
struct File {
    durable: Vec<u8>,
    cached: Vec<u8>,
    /// Writes since the last sync, in order: where, and how many bytes.
    unsynced: Vec<(usize, Vec<u8>)>,
    name_durable: bool,
    /// Whether a sync has followed a write: how a segment in use is told from a fresh one.
    used: bool,
    /// Where the space begins that nothing was written to before the last sync, or the last loss of power.
    fresh_from: usize,
    /// Something durable, written later, tells that all before here was durable.
    vouched: usize,
    /// Its size when it was made.
    made: usize,
    /// What stood where bytes have rotted.
    sound: BTreeMap<usize, u8>,
}

impl File {
    fn zeros(size: usize) -> File {
        File { durable: vec![0; size], cached: vec![0; size], made: size, ..File::default() }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
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

    fn sync(&mut self) {
        if self.durable.len() < self.cached.len() {
            self.durable.resize(self.cached.len(), 0);
        }
        let first = self.unsynced.iter().map(|(offset, _)| *offset).min();
        self.vouched = self.vouched.max(first.unwrap_or(0));
        for (offset, data) in self.unsynced.drain(..) {
            self.durable[offset..offset + data.len()].copy_from_slice(&data);
            self.fresh_from = self.fresh_from.max(offset + data.len());
            self.used = true;
        }
    }

    /// Bytes of `range`, which was synced, become others, or are gone.
    fn rot(&mut self, range: std::ops::Range<usize>, decay: Decay, dice: &mut Dice) {
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
    fn lose(&mut self, style: LossStyle, old: Option<&[u8]>, dice: &mut Dice, counters: &mut Counters) -> BTreeSet<Kind> {
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

/// The sectors of `data` at `offset`, as ranges of `data`.
fn sectors(offset: usize, data: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
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
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
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

/// What the plan has the disk do wrong now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskTrouble {
    pub read_errors_permille: u32,
    pub write_errors: bool,
    pub sync_errors: bool,
    pub create_errors: bool,
    pub directory_errors: bool,
    /// What fails before a node runs.
    pub boot: Option<BootStep>,
    pub stalled: bool,
    pub full: bool,
    /// Every sync takes this much longer.
    pub slow_ms: u64,
}

/// The directory of one node, as a copy that can be put back.
#[derive(Debug, Clone)]
pub struct DirectoryCopy(BTreeMap<SegmentId, File>);

#[derive(Debug, Clone)]
pub struct Disk {
    files: BTreeMap<SegmentId, File>,
    /// Bytes that once were in some file of this disk.
    old_bytes: Vec<u8>,
    /// What crashes have done to the files since a node last read them.
    pub scars: BTreeSet<Kind>,
    /// Kinds of rot that are in the files.
    pub rotten: BTreeSet<Kind>,
    /// What was read last while a node ran.
    read_back: VecDeque<Place>,
    /// The kind of fault that the last error was told for; and what was told, if no node ran.
    pub failed_by: Option<Kind>,
    pub failed_at_boot: Option<DiskError>,
    pub trouble: DiskTrouble,
    dice: Dice,
}

impl Disk {
    pub fn new(dice: Dice) -> Disk {
        Disk {
            files: BTreeMap::new(),
            old_bytes: Vec::new(),
            scars: BTreeSet::new(),
            rotten: BTreeSet::new(),
            read_back: VecDeque::new(),
            failed_by: None,
            failed_at_boot: None,
            trouble: DiskTrouble::default(),
            dice,
        }
    }

    /// The operation completes.
    pub fn execute(&mut self, op: &DiskOp, counters: &mut Counters) -> DiskResult {
        match op {
            DiskOp::Create { segment, size } => {
                if self.trouble.full && counters.strikes(Kind::Full) {
                    return DiskResult::Failed(DiskError::Full { lacking: *size });
                }
                let create = self.trouble.create_errors.then_some(Kind::CreateError);
                let write = self.trouble.write_errors.then_some(Kind::WriteError);
                if let Some(error) = self.fails(create.or(write), "create", *segment, counters) {
                    self.create_partly(*segment, *size as usize, counters);
                    return error;
                }
                if let Some(file) = self.files.insert(*segment, File::zeros(*size as usize)) {
                    self.old_bytes = file.cached;
                }
                DiskResult::Done
            }
            DiskOp::SyncDirectory => {
                if self.trouble.directory_errors && counters.strikes(Kind::DirectoryError) {
                    let dice = &mut self.dice;
                    self.files.values_mut().for_each(|file| file.name_durable |= dice.chance(500));
                    self.failed_by = Some(Kind::DirectoryError);
                    return DiskResult::Failed(error_of("sync", "the directory"));
                }
                self.files.values_mut().for_each(|file| file.name_durable = true);
                DiskResult::Done
            }
            DiskOp::Write { segment, offset, data } => {
                let write = self.trouble.write_errors.then_some(Kind::WriteError);
                if let Some(error) = self.fails(write, "write", *segment, counters) {
                    self.write_partly(op);
                    return error;
                }
                let Some(file) = self.files.get_mut(segment) else { return no_such_file(*segment) };
                file.write(*offset as usize, &concatenate(data));
                DiskResult::Done
            }
            DiskOp::Sync { segment } => {
                let Some(file) = self.files.get_mut(segment) else { return no_such_file(*segment) };
                if self.trouble.sync_errors && counters.strikes(Kind::SyncError) {
                    self.scars.extend(file.lose(LossStyle::Sectors, None, &mut self.dice, counters));
                    self.failed_by = Some(Kind::SyncError);
                    return DiskResult::Failed(error_of("sync", &name_of(*segment)));
                }
                file.sync();
                DiskResult::Done
            }
            DiskOp::Read { place } => {
                if self.dice.chance(self.trouble.read_errors_permille) && counters.strikes(Kind::ReadError) {
                    return DiskResult::Failed(error_of("read", &name_of(place.segment)));
                }
                let Some(file) = self.files.get(&place.segment) else { return no_such_file(place.segment) };
                self.read_back.push_back(*place);
                if self.read_back.len() > READS_REMEMBERED {
                    self.read_back.pop_front();
                }
                let start = (place.offset as usize).min(file.cached.len());
                let end = (start + place.length as usize).min(file.cached.len());
                DiskResult::Data(Bytes::copy_from_slice(&file.cached[start..end]))
            }
        }
    }

    /// A crash interrupts the operation: part of it may have taken effect.
    pub fn interrupt(&mut self, op: &DiskOp, counters: &mut Counters) {
        match op {
            DiskOp::Create { segment, size } => self.create_partly(*segment, *size as usize, counters),
            DiskOp::Write { .. } => self.write_partly(op),
            DiskOp::SyncDirectory if self.dice.chance(500) => {
                self.files.values_mut().for_each(|file| file.name_durable = true);
            }
            DiskOp::Sync { segment } if self.dice.chance(500) => {
                if let Some(file) = self.files.get_mut(segment) {
                    file.sync();
                }
            }
            DiskOp::Sync { .. } | DiskOp::SyncDirectory | DiskOp::Read { .. } => {}
        }
    }

    /// The power goes. Returns whether anything was lost.
    pub fn lose_power(&mut self, style: LossStyle, counters: &mut Counters) -> bool {
        let old = if self.dice.chance(600) { self.draw_old_bytes() } else { None };
        let old = old.filter(|_| counters.acts(Kind::OldBytes));
        let mut scars = BTreeSet::new();
        for file in self.files.values_mut() {
            scars.extend(file.lose(style, old.as_deref(), &mut self.dice, counters));
        }
        let names: Vec<SegmentId> = self.files.iter().filter(|(_, file)| !file.name_durable).map(|(&name, _)| name).collect();
        for name in names {
            let keep = match style {
                LossStyle::Nothing => false,
                LossStyle::Everything => true,
                _ => self.dice.chance(400),
            };
            if keep || !counters.strikes(Kind::LostName) {
                continue;
            }
            let file = self.files.remove(&name).expect("listed above");
            self.old_bytes = file.cached;
            scars.insert(Kind::LostName);
        }
        let lost = !scars.is_empty();
        self.scars.extend(scars);
        lost
    }

    /// What a copy of the directory, made now by an operator, holds.
    pub fn copy(&self) -> DirectoryCopy {
        let mut files = self.files.clone();
        for file in files.values_mut() {
            file.durable.clone_from(&file.cached);
            file.unsynced.clear();
            file.name_durable = true;
        }
        DirectoryCopy(files)
    }

    pub fn put_back(&mut self, copy: DirectoryCopy) {
        self.files = copy.0;
        self.scars.clear();
        self.note_what_is_sound();
    }

    fn note_what_is_sound(&mut self) {
        if self.files.values().all(|file| file.sound.is_empty() && file.cached.len() >= file.made) {
            self.rotten.clear();
        }
    }

    /// What was synced rots, and something synced later tells that it was. Returns whether any byte changed.
    pub fn rot_synced(&mut self, place: Synced, decay: Decay, kind: Kind) -> bool {
        let vouched = self.vouched();
        if vouched.is_empty() {
            return false;
        }
        let in_header = matches!(place, Synced::Header | Synced::HeaderCopy);
        let decay = if in_header && decay == Decay::End { Decay::Zeros } else { decay };
        let places: Vec<(SegmentId, std::ops::Range<usize>)> = match place {
            Synced::Anywhere => {
                let (segment, end) = *self.dice.pick(&vouched);
                let at = HEADER + self.dice.below((end - HEADER) as u64) as usize;
                vec![(segment, at..(at / SECTOR * SECTOR + SECTOR).min(end))]
            }
            Synced::Header | Synced::HeaderCopy => {
                let (segment, _) = *self.dice.pick(&vouched);
                let copies = if place == Synced::Header { 2 } else { 1 };
                let length = if decay == Decay::Bit { HEADER_USED } else { SECTOR };
                (0..copies).map(|copy| (segment, copy * SECTOR..copy * SECTOR + length)).collect()
            }
            Synced::ReadBack => {
                let read: BTreeSet<Place> = self.read_back.iter().copied().collect();
                let whole =
                    |read: &Place| vouched.iter().any(|&(segment, end)| segment == read.segment && bytes_of(read).end <= end);
                read.iter().filter(|read| whole(read)).map(|read| (read.segment, bytes_of(read))).collect()
            }
        };
        let mut changed = false;
        for (segment, range) in places {
            let file = self.files.get_mut(&segment).expect("it is vouched for");
            if range.end <= file.durable.len() {
                file.rot(range, decay, &mut self.dice);
                changed |= !file.sound.is_empty();
            }
        }
        if changed {
            self.rotten.insert(kind);
        }
        changed
    }

    /// What was synced rots. Returns whether any byte changed.
    pub fn rot(&mut self, rot: Rot) -> bool {
        let named = |segment: SegmentId| (segment == SegmentId::ZERO) == (rot == Rot::Witness);
        let Some((_, file)) = self.files.iter_mut().rev().find(|(segment, file)| named(**segment) && file.used) else {
            return false;
        };
        let end = file.fresh_from.min(file.durable.len());
        let range = match rot {
            Rot::Zeros(bytes) | Rot::Bits(bytes) => end.saturating_sub(bytes as usize)..end,
            Rot::Witness => 0..end,
        };
        let mut changed = false;
        for byte in &mut file.durable[range] {
            let rotten = if matches!(rot, Rot::Zeros(_)) { 0 } else { *byte ^ self.dice.below(256) as u8 };
            changed |= std::mem::replace(byte, rotten) != rotten;
        }
        file.cached.clone_from(&file.durable);
        changed
    }

    /// Segments with batches of which something synced later says that they were durable, and how far they do.
    fn vouched(&self) -> Vec<(SegmentId, usize)> {
        let mut later = false;
        let mut vouched = Vec::new();
        for (&segment, file) in self.files.iter().rev().filter(|(segment, file)| **segment != SegmentId::ZERO && file.used) {
            // A segment's header vouches for all of the segment before.
            vouched.push((segment, if later { file.fresh_from } else { file.vouched }.min(file.durable.len())));
            later = true;
        }
        vouched.retain(|&(_, end)| end > HEADER);
        vouched
    }

    /// Whether bytes that are read there have rotted.
    pub fn is_rotten_at(&self, place: Place) -> bool {
        let range = bytes_of(&place);
        let file = self.files.get(&place.segment);
        file.is_some_and(|file| range.end > file.cached.len() || file.sound.range(range).next().is_some())
    }

    /// The same disk, if nothing had rotted.
    pub fn sound(&self) -> Disk {
        let mut sound = Disk { trouble: DiskTrouble::default(), ..self.clone() };
        for file in sound.files.values_mut() {
            for bytes in [&mut file.durable, &mut file.cached] {
                bytes.resize(bytes.len().max(file.made), 0);
                file.sound.iter().for_each(|(&at, &byte)| bytes[at] = byte);
            }
        }
        sound
    }

    /// Returns whether there was anything in it.
    pub fn wipe(&mut self) -> bool {
        let any = !self.files.is_empty();
        self.files.clear();
        self.scars.clear();
        self.rotten.clear();
        any
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether `segment` was written to and synced before.
    pub fn is_used(&self, segment: SegmentId) -> bool {
        self.files.get(&segment).is_some_and(|file| file.used)
    }

    /// An operation on a segment fails, if a fault of this kind says so.
    fn fails(&mut self, by: Option<Kind>, what: &str, segment: SegmentId, counters: &mut Counters) -> Option<DiskResult> {
        let kind = by.filter(|kind| counters.strikes(*kind))?;
        self.failed_by = Some(kind);
        Some(DiskResult::Failed(error_of(what, &name_of(segment))))
    }

    /// A step of a boot fails, if a fault says so.
    fn fails_at_boot(&mut self, step: BootStep, what: &str, file: &str) -> Result<(), DiskError> {
        if self.trouble.boot != Some(step) {
            return Ok(());
        }
        let error = error_of(what, file);
        self.failed_at_boot = Some(error.clone());
        Err(error)
    }

    /// The file is there, of some size; what it shows was never written to it.
    fn create_partly(&mut self, segment: SegmentId, size: usize, counters: &mut Counters) {
        if self.dice.chance(250) {
            return;
        }
        let size = if self.dice.chance(500) { size } else { self.dice.below(size as u64 + 1) as usize };
        let mut file = File::zeros(size);
        if size > 0
            && self.dice.chance(700)
            && let Some(old) = self.draw_old_bytes()
            && counters.strikes(Kind::OldBytes)
        {
            let length = size.min(old.len());
            file.cached[..length].copy_from_slice(&old[..length]);
            file.durable.clone_from(&file.cached);
            self.scars.insert(Kind::OldBytes);
        }
        self.files.insert(segment, file);
    }

    /// What once stood in some file of this disk, as it may show in another. Blocks keep their alignment, and often their place.
    fn draw_old_bytes(&mut self) -> Option<Vec<u8>> {
        let at_rest = self.files.values().filter(|file| file.unsynced.is_empty()).map(|file| &file.durable);
        let old: Vec<&Vec<u8>> = at_rest.chain([&self.old_bytes]).filter(|bytes| !bytes.is_empty()).collect();
        if old.is_empty() {
            return None;
        }
        let old = *self.dice.pick(&old);
        let sectors = (old.len() / SECTOR) as u64;
        let shift = if self.dice.chance(800) { 0 } else { self.dice.below(sectors + 1) as usize * SECTOR };
        Some(old[shift.min(old.len())..].to_vec())
    }

    fn write_partly(&mut self, op: &DiskOp) {
        let DiskOp::Write { segment, offset, data } = op else { return };
        let Some(file) = self.files.get_mut(segment) else { return };
        let (data, offset) = (concatenate(data), *offset as usize);
        let sectors = data.len().div_ceil(SECTOR) as u64;
        let (from, to) = (self.dice.below(sectors) as usize * SECTOR, self.dice.below(sectors + 1) as usize * SECTOR);
        let (from, to) = if self.dice.chance(700) { (0, to.min(data.len())) } else { (from, data.len()) };
        if from < to {
            file.write(offset + from, &data[from..to]);
        }
    }
}

/// As the real disk says it: what could not be done, and with which file.
fn error_of(what: &str, file: &str) -> DiskError {
    DiskError::Io(format!("cannot {what} {file}: the simulated disk failed"))
}

fn name_of(segment: SegmentId) -> String {
    format!("{:08}.log", segment.0)
}

fn bytes_of(place: &Place) -> std::ops::Range<usize> {
    let start = place.offset as usize;
    start..start + place.length as usize
}

fn concatenate(parts: &[Bytes]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole
}

fn no_such_file(segment: SegmentId) -> DiskResult {
    DiskResult::Failed(DiskError::Io(format!("there is no file of segment {segment}")))
}

impl LogDevice for Disk {
    fn list(&mut self) -> Result<Vec<(SegmentId, u64)>, DiskError> {
        self.fails_at_boot(BootStep::List, "list", "the directory")?;
        Ok(self.files.iter().map(|(&segment, file)| (segment, file.cached.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        // A disk that fails one read in three is not one that a node boots from in a minute: a tenth as often, here.
        if self.dice.chance(self.trouble.read_errors_permille / 10) {
            return Err(error_of("read", &name_of(segment)));
        }
        if self.trouble.boot == Some(BootStep::Read) && self.dice.chance(300) {
            self.fails_at_boot(BootStep::Read, "read", &name_of(segment))?;
        }
        let file = self.files.get(&segment).ok_or_else(|| DiskError::Io(format!("there is no file of segment {segment}")))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.cached.len());
        let end = start.saturating_add(length).min(file.cached.len());
        Ok(file.cached[start..end].to_vec())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        self.fails_at_boot(BootStep::Sync, "sync", "the directory")?;
        for file in self.files.values_mut() {
            file.sync();
            file.name_durable = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringseed::base::Place;

    const SEGMENT: SegmentId = SegmentId(1);

    fn disk() -> (Disk, Counters) {
        (Disk::new(Dice::new(1, "disk")), Counters::default())
    }

    fn write(disk: &mut Disk, offset: u32, data: &[u8]) {
        let op = DiskOp::Write { segment: SEGMENT, offset, data: vec![Bytes::copy_from_slice(data)] };
        assert_eq!(disk.execute(&op, &mut Counters::default()), DiskResult::Done);
    }

    fn made() -> (Disk, Counters) {
        let (mut disk, mut counters) = disk();
        disk.execute(&DiskOp::Create { segment: SEGMENT, size: 4096 }, &mut counters);
        disk.execute(&DiskOp::SyncDirectory, &mut counters);
        (disk, counters)
    }

    fn shown(disk: &mut Disk) -> Vec<u8> {
        let op = DiskOp::Read { place: Place { segment: SEGMENT, offset: 0, length: 4096 } };
        match disk.execute(&op, &mut Counters::default()) {
            DiskResult::Data(data) => data.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_synced_survives_and_what_is_not_may_be_lost() {
        let (mut disk, mut counters) = made();
        write(&mut disk, 0, &[1; 1024]);
        disk.execute(&DiskOp::Sync { segment: SEGMENT }, &mut counters);
        write(&mut disk, 1024, &[2; 1024]);
        assert_eq!(shown(&mut disk)[1024..2048], [2; 1024]);
        assert!(disk.lose_power(LossStyle::Nothing, &mut counters));
        assert_eq!(shown(&mut disk)[..1024], [1; 1024]);
        assert_eq!(shown(&mut disk)[1024..], [0; 3072]);
        assert!(disk.scars.contains(&Kind::LostWrite));
    }

    #[test]
    fn writes_tear_at_sectors_and_survive_in_any_order() {
        let mut counters = Counters::default();
        for seed in 0..200 {
            let (mut disk, _) = made();
            disk.dice = Dice::new(seed, "disk");
            write(&mut disk, 0, &[1; 1024]);
            write(&mut disk, 1024, &[2; 1024]);
            disk.lose_power(LossStyle::Sectors, &mut counters);
            let shown = shown(&mut disk);
            assert!(shown.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        }
        for kind in [Kind::LostWrite, Kind::TornWrite, Kind::ReorderedWrite] {
            assert!(counters.get(kind).fired > 20, "{kind:?}");
        }
    }

    #[test]
    fn a_name_that_was_not_synced_may_be_lost() {
        let (mut disk, mut counters) = disk();
        disk.execute(&DiskOp::Create { segment: SEGMENT, size: 4096 }, &mut counters);
        disk.lose_power(LossStyle::Nothing, &mut counters);
        assert!(disk.is_empty());
    }

    #[test]
    fn fresh_space_whose_first_write_was_lost_may_show_another_file() {
        let mut counters = Counters::default();
        for seed in 0..50 {
            let (mut disk, _) = made();
            disk.dice = Dice::new(seed, "disk");
            write(&mut disk, 0, &[1; 4096]);
            disk.execute(&DiskOp::Sync { segment: SEGMENT }, &mut counters);
            let segment = SegmentId(2);
            disk.execute(&DiskOp::Create { segment, size: 4096 }, &mut counters);
            disk.execute(&DiskOp::SyncDirectory, &mut counters);
            for (offset, fill) in [(0, 2), (700, 3)] {
                let op = DiskOp::Write { segment, offset, data: vec![Bytes::from(vec![fill; 700])] };
                disk.execute(&op, &mut counters);
                if offset == 0 {
                    disk.execute(&DiskOp::Sync { segment }, &mut counters);
                }
            }
            disk.lose_power(LossStyle::Nothing, &mut counters);
            let now = LogDevice::read(&mut disk, segment, 0, 4096).unwrap();
            assert_eq!((&now[..700], &now[700..1024]), (&[2; 700][..], &[0; 324][..]), "what was synced, and its sector, stay");
            assert!(now[1024..1536].iter().all(|byte| *byte == now[1024]), "zeros, or the other file");
            assert!(now[1536..].iter().all(|byte| *byte == 0 || *byte == 1));
        }
        assert!((5..45).contains(&counters.get(Kind::OldBytes).fired));
    }

    #[test]
    fn the_end_of_what_was_written_rots() {
        for (rot, whole) in [(Rot::Zeros(512), 488), (Rot::Bits(100), 900), (Rot::Zeros(5_000), 0)] {
            let (mut disk, mut counters) = made();
            write(&mut disk, 0, &[1; 1000]);
            disk.execute(&DiskOp::Sync { segment: SEGMENT }, &mut counters);
            assert!(!disk.rot(Rot::Witness), "there is none");
            assert!(disk.rot(rot));
            let shown = shown(&mut disk);
            assert!(shown[..whole].iter().all(|byte| *byte == 1) && shown[1000..].iter().all(|byte| *byte == 0));
            assert!(shown[whole..1000].iter().any(|byte| *byte != 1), "{rot:?}");
        }
    }

    #[test]
    fn what_rots_before_the_log_s_end_is_vouched_for_and_known() {
        for (place, decay) in [
            (Synced::Anywhere, Decay::Bit),
            (Synced::Anywhere, Decay::End),
            (Synced::Header, Decay::Zeros),
            (Synced::HeaderCopy, Decay::Bit),
            (Synced::ReadBack, Decay::Zeros),
        ] {
            let (mut disk, mut counters) = made();
            for (offset, fill) in [(0, 1), (2_000, 2), (3_000, 3)] {
                assert!(offset == 3_000 || !disk.rot_synced(place, decay, Kind::RotSynced), "nothing behind says so");
                write(&mut disk, offset, &[fill; 1_000]);
                disk.execute(&DiskOp::Sync { segment: SEGMENT }, &mut counters);
            }
            let read = Place { segment: SEGMENT, offset: 2_500, length: 100 };
            let before = shown(&mut disk);
            disk.execute(&DiskOp::Read { place: read }, &mut counters);
            assert!(disk.rot_synced(place, decay, Kind::RotSynced));
            let after = shown(&mut disk);
            let changed: Vec<usize> = (0..3_000).filter(|&at| after.get(at) != before.get(at)).collect();
            let spared = if decay == Decay::End { 4_096 } else { 3_000 };
            assert!(
                !changed.is_empty()
                    && after.get(3_000..spared).unwrap_or_default() == &before[3_000..spared.min(after.len().max(3_000))]
            );
            assert_eq!(disk.is_rotten_at(read), changed.iter().any(|at| (2_500..2_600).contains(at)), "{place:?} {decay:?}");
            assert_eq!(shown(&mut disk.sound()), before, "{place:?} {decay:?}");
            assert!(disk.rotten.contains(&Kind::RotSynced));
        }
    }

    #[test]
    fn a_failed_sync_leaves_part() {
        let (mut disk, mut counters) = made();
        write(&mut disk, 0, &[1; 4096]);
        disk.trouble.sync_errors = true;
        assert!(matches!(disk.execute(&DiskOp::Sync { segment: SEGMENT }, &mut counters), DiskResult::Failed(_)));
        let kept = shown(&mut disk).chunks(SECTOR).filter(|sector| sector[0] == 1).count();
        assert!((1..8).contains(&kept), "{kept} of 8 sectors");
    }
}
