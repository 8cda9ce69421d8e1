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

mod file;

use crate::counters::{Counters, Kind};
use crate::dice::Dice;
use crate::plan::{BootStep, Decay, LossStyle, Rot, Stray, Synced};
use bytes::Bytes;
use file::File;
use ringseed::base::{Place, SegmentId};
use ringseed::msg::disk::{DiskError, DiskOp, DiskResult, LogDevice};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

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

/// The first of the parts behind `part`, in their order, that is as long.
fn next_as_long<'a>(parts: &'a [Part], part: &Part) -> Option<&'a Part> {
    parts.iter().skip_while(|other| *other != part).skip(1).find(|other| other.1.len() == part.1.len())
}

/// What the plan has the disk do wrong now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskTrouble {
    pub read_errors_permille: u32,
    pub wrong_reads_permille: u32,
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

/// Some bytes of a file.
type Part = (SegmentId, Range<usize>);

/// The directory of one node, as a copy that can be put back.
#[derive(Debug, Clone)]
pub struct DirectoryCopy {
    files: BTreeMap<SegmentId, File>,
    gone: BTreeMap<SegmentId, File>,
}

#[derive(Debug, Clone)]
pub struct Disk {
    files: BTreeMap<SegmentId, File>,
    /// Segments that were removed, or of which the files have other names now, as they were: what checkers read, and no node.
    gone: BTreeMap<SegmentId, File>,
    /// Files that were removed, and that a loss of power may bring back.
    removed: BTreeMap<SegmentId, File>,
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
            gone: BTreeMap::new(),
            removed: BTreeMap::new(),
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
            DiskOp::Recycle { segment, to } => {
                let create = self.trouble.create_errors.then_some(Kind::CreateError);
                if let Some(error) = self.fails(create, "rename", *segment, counters) {
                    return error;
                }
                if segment != to {
                    let Some(file) = self.take_away(*segment) else { return no_such_file(*segment) };
                    let renamed = File { renamed: Some(*segment), ..file.recycled() };
                    self.files.insert(*to, renamed);
                }
                DiskResult::Done
            }
            DiskOp::Remove { segment } => {
                let create = self.trouble.create_errors.then_some(Kind::CreateError);
                if let Some(error) = self.fails(create, "remove", *segment, counters) {
                    return error;
                }
                let Some(file) = self.take_away(*segment) else { return no_such_file(*segment) };
                self.removed.insert(*segment, file);
                DiskResult::Done
            }
            DiskOp::SyncDirectory => {
                if self.trouble.directory_errors && counters.strikes(Kind::DirectoryError) {
                    let dice = &mut self.dice;
                    self.files.values_mut().for_each(|file| file.name_durable |= dice.chance(500));
                    self.failed_by = Some(Kind::DirectoryError);
                    return DiskResult::Failed(error_of("sync", "the directory"));
                }
                self.make_names_durable();
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
                if !self.files.contains_key(&place.segment) {
                    return no_such_file(place.segment);
                }
                let wrong = self.dice.chance(self.trouble.wrong_reads_permille).then(|| self.draw_wrong_place(*place)).flatten();
                self.read_back.push_back(*place);
                if self.read_back.len() > READS_REMEMBERED {
                    self.read_back.pop_front();
                }
                let wrong = wrong.filter(|_| counters.strikes(Kind::WrongRead));
                DiskResult::Data(Bytes::copy_from_slice(self.shown_at(wrong.unwrap_or(*place))))
            }
        }
    }

    /// The file has this name no more.
    fn take_away(&mut self, segment: SegmentId) -> Option<File> {
        let file = self.files.remove(&segment)?;
        let mut sound = file.clone();
        sound.restore();
        self.gone.insert(segment, sound);
        self.note_what_is_sound();
        Some(file)
    }

    fn make_names_durable(&mut self) {
        self.removed.clear();
        for file in self.files.values_mut() {
            file.name_durable = true;
            file.renamed = None;
        }
    }

    /// The same disk, with all segments that there ever were.
    pub fn whole(&self) -> Disk {
        self.sound().with_gone()
    }

    fn with_gone(mut self) -> Disk {
        for (segment, file) in std::mem::take(&mut self.gone) {
            self.files.entry(segment).or_insert(file);
        }
        self
    }

    /// A crash interrupts the operation: part of it may have taken effect.
    pub fn interrupt(&mut self, op: &DiskOp, counters: &mut Counters) {
        match op {
            DiskOp::Create { segment, size } => self.create_partly(*segment, *size as usize, counters),
            DiskOp::Write { .. } => self.write_partly(op),
            DiskOp::SyncDirectory if self.dice.chance(500) => self.make_names_durable(),
            DiskOp::Recycle { .. } | DiskOp::Remove { .. } if self.dice.chance(500) => {
                let trouble = std::mem::take(&mut self.trouble);
                self.execute(op, counters);
                self.trouble = trouble;
            }
            DiskOp::Sync { segment } if self.dice.chance(500) => {
                if let Some(file) = self.files.get_mut(segment) {
                    file.sync();
                }
            }
            DiskOp::Sync { .. }
            | DiskOp::SyncDirectory
            | DiskOp::Recycle { .. }
            | DiskOp::Remove { .. }
            | DiskOp::Read { .. } => {}
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
            match file.renamed {
                // It has the name again that it had.
                Some(before) => _ = self.files.insert(before, File { renamed: None, name_durable: true, ..file }),
                None => self.old_bytes = file.cached,
            }
            scars.insert(Kind::LostName);
        }
        for (name, file) in std::mem::take(&mut self.removed) {
            let is_back = match style {
                LossStyle::Nothing => true,
                LossStyle::Everything => false,
                _ => self.dice.chance(400),
            };
            if is_back && counters.strikes(Kind::LostName) {
                self.files.insert(name, file);
            }
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
        DirectoryCopy { files, gone: self.gone.clone() }
    }

    pub fn put_back(&mut self, copy: DirectoryCopy) {
        (self.files, self.gone) = (copy.files, copy.gone);
        self.removed.clear();
        self.scars.clear();
        self.note_what_is_sound();
    }

    fn note_what_is_sound(&mut self) {
        if self.files.values().all(|file| file.sound.is_empty() && file.cached.len() >= file.made) {
            self.rotten.clear();
        }
    }

    /// What was synced rots, and something synced later tells that it was. `values`: those of the node, where values rot. Returns
    /// whether any byte changed.
    pub fn rot_synced(&mut self, place: Synced, decay: Decay, kind: Kind, mut values: Vec<Place>) -> bool {
        let vouched = self.vouched();
        if vouched.is_empty() {
            return false;
        }
        let goes_on = matches!(place, Synced::Header | Synced::HeaderCopy | Synced::Values(_));
        let decay = if goes_on && decay == Decay::End { Decay::Zeros } else { decay };
        let is_vouched =
            |place: &Place| vouched.iter().any(|&(segment, end)| segment == place.segment && bytes_of(place).end <= end);
        let places: Vec<(SegmentId, Range<usize>)> = match place {
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
                read.iter().filter(|read| is_vouched(read)).map(|read| (read.segment, bytes_of(read))).collect()
            }
            Synced::Values(count) => {
                values.retain(|place| place.length > 0 && is_vouched(place));
                while values.len() > usize::from(count) {
                    let at = self.dice.below(values.len() as u64) as usize;
                    values.swap_remove(at);
                }
                values.iter().map(|place| (place.segment, bytes_of(place))).collect()
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

    /// A write that was synced never came to its place, and something synced later tells that it was synced. Returns whether any
    /// byte is another.
    ///
    /// A medium writes whole sectors, so that what was written behind brings part of the lost write with it. Here nothing of it
    /// is left: that is harder to notice.
    pub fn stray(&mut self, stray: Stray, kind: Kind) -> bool {
        let sealed = self.sealed();
        let Some((from, to)) = self.draw_stray(stray, &sealed) else { return false };
        let astray = self.bytes(&from);
        let stands = to.as_ref().map(|to| self.bytes(to));
        match stray {
            Stray::Exchanged => self.spoil(&from, &stands.unwrap_or_default()),
            Stray::Nowhere | Stray::Elsewhere | Stray::OtherFile => {
                let written = &self.files[&from.0].written[&from.1.start];
                let before = if written.before.is_empty() { vec![0; written.length] } else { written.before.clone() };
                self.spoil(&from, &before);
            }
        }
        if let Some(to) = &to {
            self.spoil(to, &astray);
        }
        let changed = self.files.values().any(|file| !file.sound.is_empty());
        if changed {
            self.rotten.insert(kind);
        }
        changed
    }

    /// Where the write stood that went astray, and where it went.
    fn draw_stray(&mut self, stray: Stray, sealed: &[Part]) -> Option<(Part, Option<Part>)> {
        let mut from = sealed.to_vec();
        match stray {
            Stray::Nowhere => {}
            // Of the witness an older slot is left: what its write strikes elsewhere shows alone.
            Stray::Elsewhere | Stray::OtherFile if self.dice.chance(200) => from = self.writes(SegmentId::ZERO, usize::MAX),
            Stray::Elsewhere | Stray::OtherFile => {}
            Stray::Exchanged => from.retain(|part| next_as_long(sealed, part).is_some()),
        }
        // The last often: nothing but the write behind it tells of it yet.
        let last = from.last().cloned().filter(|_| self.dice.chance(400));
        let from = last.or_else(|| (!from.is_empty()).then(|| self.dice.pick(&from).clone()))?;
        let to: Vec<Part> = match stray {
            Stray::Nowhere => return Some((from, None)),
            Stray::Elsewhere => {
                let starts = sealed.iter().map(|(segment, part)| (*segment, part.start..part.start + from.1.len()));
                starts.filter(|to| *to != from && self.may_be_spoilt(to)).collect()
            }
            Stray::OtherFile => {
                let others = self.files.keys().map(|segment| (*segment, from.1.clone()));
                others.filter(|to| *to != from && self.may_be_spoilt(to)).collect()
            }
            Stray::Exchanged => next_as_long(sealed, &from).cloned().into_iter().collect(),
        };
        let to = (!to.is_empty()).then(|| self.dice.pick(&to).clone())?;
        Some((from, Some(to)))
    }

    /// Whether other bytes may stand there: what was synced there is vouched for, or nothing was ever written there; or it is
    /// the witness, without which the log is whole.
    fn may_be_spoilt(&self, (segment, part): &Part) -> bool {
        let file = &self.files[segment];
        let vouched = self.vouched().iter().any(|(vouched, end)| vouched == segment && part.end <= *end);
        let whole = part.end <= file.durable.len() && file.is_synced(part);
        whole && (vouched || part.start >= file.fresh_from || *segment == SegmentId::ZERO)
    }

    /// Where writes stand of which something synced later says that they were durable.
    fn sealed(&self) -> Vec<Part> {
        let mut vouched = self.vouched();
        vouched.reverse();
        vouched.into_iter().flat_map(|(segment, end)| self.writes(segment, end)).collect()
    }

    /// Where writes to a segment stand that were synced, up to `end`.
    fn writes(&self, segment: SegmentId, end: usize) -> Vec<Part> {
        let Some(file) = self.files.get(&segment) else { return Vec::new() };
        let parts = file.written.iter().map(|(&at, written)| at..at + written.length);
        parts.filter(|part| part.end <= end.min(file.cached.len()) && file.is_synced(part)).map(|part| (segment, part)).collect()
    }

    fn bytes(&self, (segment, part): &Part) -> Vec<u8> {
        self.files[segment].cached[part.clone()].to_vec()
    }

    fn spoil(&mut self, (segment, part): &Part, bytes: &[u8]) {
        self.files.get_mut(segment).expect("a part of a file").spoil(part.start, bytes);
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
        for at in range {
            let byte = &mut file.durable[at];
            let rotten = if matches!(rot, Rot::Zeros(_)) { 0 } else { *byte ^ self.dice.below(256) as u8 };
            let before = std::mem::replace(byte, rotten);
            changed |= before != rotten;
            // Without the witness the log is whole.
            if before != rotten && rot != Rot::Witness {
                file.sound.entry(at).or_insert(before);
            }
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

    /// Another place from which a read may be answered: as long, and with other bytes.
    fn draw_wrong_place(&mut self, place: Place) -> Option<Place> {
        let others = self.files.keys().map(|&segment| Place { segment, ..place });
        let beside = Place { offset: place.offset ^ SECTOR as u32, ..place };
        let read = self.read_back.iter().copied().filter(|read| read.length == place.length);
        let right = self.shown_at(place);
        let is_wrong = |other: &Place| self.shown_at(*other).len() == right.len() && self.shown_at(*other) != right;
        let wrong: Vec<Place> = others.chain(read).chain([beside]).filter(is_wrong).collect();
        (!wrong.is_empty()).then(|| *self.dice.pick(&wrong))
    }

    /// What stands at a place now, as far as the file goes.
    fn shown_at(&self, place: Place) -> &[u8] {
        let Some(file) = self.files.get(&place.segment) else { return &[] };
        let range = bytes_of(&place);
        &file.cached[range.start.min(file.cached.len())..range.end.min(file.cached.len())]
    }

    /// Why `answer` is not what a read there should get, if it is not: which kind of fault it met.
    pub fn spoilt_by(&self, place: Place, answer: &[u8]) -> Option<Kind> {
        let shown = self.shown_at(place);
        let mut right = shown.to_vec();
        right.resize(place.length as usize, 0);
        if let Some(file) = self.files.get(&place.segment) {
            let range = bytes_of(&place);
            file.sound.range(range.clone()).for_each(|(at, byte)| right[at - range.start] = *byte);
        }
        let rot = if self.rotten.contains(&Kind::RotValue) { Kind::RotValue } else { Kind::RotRead };
        (answer != right).then_some(if answer == shown { rot } else { Kind::WrongRead })
    }

    /// The same disk, without trouble.
    pub fn as_it_is(&self) -> Disk {
        Disk { trouble: DiskTrouble::default(), ..self.clone() }
    }

    /// The same disk, if nothing had rotted.
    pub fn sound(&self) -> Disk {
        let mut sound = self.as_it_is();
        sound.files.values_mut().for_each(File::restore);
        sound
    }

    /// Returns whether there was anything in it.
    pub fn wipe(&mut self) -> bool {
        let any = !self.files.is_empty();
        self.files.clear();
        self.gone.clear();
        self.removed.clear();
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

fn bytes_of(place: &Place) -> Range<usize> {
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
            // The last write may be there in part, and tells nothing then.
            let vouched = file.vouched;
            file.sync();
            file.vouched = vouched;
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
            let before = shown(&mut disk);
            assert!(disk.rot(rot));
            assert_eq!(shown(&mut disk.sound()), before);
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
                assert!(offset == 3_000 || !disk.rot_synced(place, decay, Kind::RotSynced, Vec::new()), "nothing behind says so");
                write(&mut disk, offset, &[fill; 1_000]);
                disk.execute(&DiskOp::Sync { segment: SEGMENT }, &mut counters);
            }
            let read = Place { segment: SEGMENT, offset: 2_500, length: 100 };
            let before = shown(&mut disk);
            disk.execute(&DiskOp::Read { place: read }, &mut counters);
            assert!(disk.rot_synced(place, decay, Kind::RotSynced, Vec::new()));
            let after = shown(&mut disk);
            let changed: Vec<usize> = (0..3_000).filter(|&at| after.get(at) != before.get(at)).collect();
            let spared = if decay == Decay::End { 4_096 } else { 3_000 };
            assert!(
                !changed.is_empty()
                    && after.get(3_000..spared).unwrap_or_default() == &before[3_000..spared.min(after.len().max(3_000))]
            );
            let read_rot = changed.iter().any(|at| (2_500..2_600).contains(at));
            let answer = after.get(2_500..2_600.min(after.len())).unwrap_or_default();
            assert_eq!(disk.spoilt_by(read, answer), read_rot.then_some(Kind::RotRead), "{place:?} {decay:?}");
            assert_eq!(disk.spoilt_by(read, &before[2_500..2_600]), None);
            assert_eq!(shown(&mut disk.sound()), before, "{place:?} {decay:?}");
            assert!(disk.rotten.contains(&Kind::RotSynced));
        }
    }

    /// A disk with two segments of five synced batches each, and a witness. All batches are of other bytes, some as long as others.
    fn full_of_batches() -> Disk {
        let (mut disk, mut counters) = made();
        for segment in [SegmentId::ZERO, SegmentId(2)] {
            disk.execute(&DiskOp::Create { segment, size: 8192 }, &mut counters);
        }
        disk.execute(&DiskOp::SyncDirectory, &mut counters);
        let put = |disk: &mut Disk, segment, offset, length, fill: u8| {
            let op = DiskOp::Write { segment, offset, data: vec![Bytes::from(vec![fill; length])] };
            disk.execute(&op, &mut Counters::default());
            disk.execute(&DiskOp::Sync { segment }, &mut Counters::default());
        };
        for (at, segment) in [SegmentId(1), SegmentId(2)].into_iter().enumerate() {
            for (nth, (offset, length)) in [(0, 1_300), (1_300, 200), (1_500, 900), (2_400, 200), (2_600, 200)].iter().enumerate()
            {
                put(&mut disk, segment, *offset, *length, (10 * at + nth + 1) as u8);
            }
        }
        put(&mut disk, SegmentId::ZERO, 0, 512, 77);
        put(&mut disk, SegmentId::ZERO, 4_096, 512, 78);
        put(&mut disk, SegmentId::ZERO, 0, 512, 79);
        disk
    }

    fn all(disk: &Disk) -> Vec<Vec<u8>> {
        disk.files.values().map(|file| file.durable.clone()).collect()
    }

    #[test]
    fn a_synced_write_that_goes_astray_is_not_at_its_place_and_the_last_of_the_log_stays() {
        for (stray, kind) in [
            (Stray::Nowhere, Kind::LostSynced),
            (Stray::Elsewhere, Kind::Misdirected),
            (Stray::OtherFile, Kind::Misdirected),
            (Stray::Exchanged, Kind::Misdirected),
        ] {
            let mut struck = BTreeSet::new();
            for seed in 0..60 {
                let mut disk = full_of_batches();
                disk.dice = Dice::new(seed, "disk");
                let before = all(&disk);
                assert!(disk.stray(stray, kind) && disk.rotten.contains(&kind), "{stray:?}");
                let after = all(&disk);
                assert_ne!(after, before);
                assert_eq!(after[2][2_600..2_800], before[2][2_600..2_800], "{stray:?}: nothing tells of the last");
                assert_eq!(all(&disk.sound()), before, "{stray:?}");
                let gone = |at: u8| !after.iter().any(|file| file.contains(&at));
                let lost: Vec<u8> = (1..=5).chain(11..=15).filter(|at| gone(*at)).collect();
                match stray {
                    Stray::Nowhere => assert_eq!(lost.len(), 1),
                    Stray::Exchanged => assert!(lost.is_empty()),
                    Stray::Elsewhere | Stray::OtherFile => assert!(lost.len() <= 3, "{lost:?}"),
                }
                struck.insert(after);
            }
            assert!(struck.len() >= 4, "{stray:?}: {}", struck.len());
        }
    }

    #[test]
    fn what_was_written_twice_is_one_write_and_what_is_not_sealed_is_not_lost() {
        let (mut disk, mut counters) = made();
        assert!(!disk.stray(Stray::Nowhere, Kind::LostSynced));
        for (offset, fill) in [(1_024, 1), (1_024, 1), (1_200, 2), (1_100, 3)] {
            write(&mut disk, offset, &[fill; 200]);
            disk.execute(&DiskOp::Sync { segment: SEGMENT }, &mut counters);
        }
        let file = &disk.files[&SEGMENT];
        assert_eq!(
            file.written.iter().map(|(at, one)| (*at, one.length, one.before.len())).collect::<Vec<_>>(),
            [(1_100, 200, 200)]
        );
        assert!(!disk.stray(Stray::Nowhere, Kind::LostSynced), "nothing behind it says that it was synced");
        write(&mut disk, 1_300, &[4; 10]);
        disk.execute(&DiskOp::Sync { segment: SEGMENT }, &mut counters);
        assert!(disk.stray(Stray::Nowhere, Kind::LostSynced));
        let shown = shown(&mut disk);
        assert_eq!((shown[1_099], shown[1_100], shown[1_224], shown[1_299], shown[1_300]), (1, 1, 2, 2, 4));
    }

    #[test]
    fn a_read_of_the_wrong_place_is_as_long_and_known() {
        let mut counters = Counters::default();
        let mut disk = full_of_batches();
        let places = [1_300, 2_400, 2_600].map(|offset| Place { segment: SegmentId(2), offset, length: 200 });
        disk.trouble.wrong_reads_permille = 500;
        let mut answers = BTreeSet::new();
        for place in places.into_iter().cycle().take(300) {
            let fired = counters.get(Kind::WrongRead).fired;
            let DiskResult::Data(data) = disk.execute(&DiskOp::Read { place }, &mut counters) else { panic!() };
            assert_eq!(data.len(), 200);
            let wrong = counters.get(Kind::WrongRead).fired > fired;
            assert_eq!(disk.spoilt_by(place, &data), wrong.then_some(Kind::WrongRead));
            answers.insert((place, data));
        }
        assert!((100..200).contains(&counters.get(Kind::WrongRead).fired));
        assert!(answers.len() >= 12, "of another file, of another write, of the sector beside: {}", answers.len());
        assert!(disk.rotten.is_empty() && all(&disk) == all(&full_of_batches()));
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
