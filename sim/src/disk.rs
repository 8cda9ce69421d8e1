//! A simulated disk: what reads show, what the medium holds, and what a crash makes of the difference.
//!
//! What it may do is the list of DESIGN, section 6, but for rot. A file is bytes in two states: *cached*, which reads show and the end
//! of a process leaves alone, and *durable*, which is all that a power loss leaves for certain. In between, sector by sector of 512 bytes,
//! a write that was not synced may be there, or not, or in an earlier form; the sectors of one write do not stick together, and a later
//! write may survive an earlier one. A file's name is durable apart from its bytes. A file that was being made when the power went may
//! show another file's bytes, which is what makes a log's checksums say *where* a record belongs.
//!
//! The world executes the operations of a node one after the other; reads overtake. An operation takes effect when it completes; of one
//! that a crash interrupts, part may have taken effect.

use crate::counters::{Counters, Kind};
use crate::dice::Dice;
use crate::plan::LossStyle;
use bytes::Bytes;
use ringseed::base::SegmentId;
use ringseed::msg::disk::{DiskError, DiskOp, DiskResult, LogDevice};
use std::collections::BTreeMap;

/// What survives of a write, if anything does, survives in whole sectors.
pub const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
struct File {
    durable: Vec<u8>,
    cached: Vec<u8>,
    /// Writes since the last sync, in order: where, and how many bytes.
    unsynced: Vec<(usize, Vec<u8>)>,
    name_durable: bool,
    /// Whether a sync has followed a write: how a segment in use is told from a fresh one.
    used: bool,
}

impl File {
    fn zeros(size: usize) -> File {
        File { durable: vec![0; size], cached: vec![0; size], ..File::default() }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if end > self.cached.len() {
            self.cached.resize(end, 0);
        }
        self.cached[offset..end].copy_from_slice(data);
        self.unsynced.push((offset, data.to_vec()));
    }

    fn sync(&mut self) {
        if self.durable.len() < self.cached.len() {
            self.durable.resize(self.cached.len(), 0);
        }
        for (offset, data) in self.unsynced.drain(..) {
            self.durable[offset..offset + data.len()].copy_from_slice(&data);
            self.used = true;
        }
    }

    /// Makes a part of what was not synced durable, as `style` says, and forgets the rest.
    fn lose(&mut self, style: LossStyle, dice: &mut Dice, counters: &mut Counters) -> bool {
        let unsynced = std::mem::take(&mut self.unsynced);
        if unsynced.is_empty() {
            return false;
        }
        if self.durable.len() < self.cached.len() {
            self.durable.resize(self.cached.len(), 0);
        }
        let cut = dice.below(unsynced.len() as u64) as usize;
        let mut survived = Vec::with_capacity(unsynced.len());
        for (nth, (offset, data)) in unsynced.iter().enumerate() {
            let permille = match style {
                LossStyle::Nothing => 0,
                LossStyle::Everything => 1000,
                LossStyle::Sectors => 500,
                LossStyle::Prefix => [1000, 500, 0][(nth.cmp(&cut) as i8 + 1) as usize],
                LossStyle::Suffix => [0, 500, 1000][(nth.cmp(&cut) as i8 + 1) as usize],
            };
            survived.push(persist_sectors(&mut self.durable, *offset, data, permille, dice));
        }
        let lost = survived.iter().any(|&(kept, all)| kept < all);
        if lost {
            counters.fired(Kind::LostWrite);
            counters.mattered(Kind::LostWrite);
        }
        if survived.iter().any(|&(kept, all)| kept > 0 && kept < all) {
            counters.fired(Kind::TornWrite);
            counters.mattered(Kind::TornWrite);
        }
        let first_lost = survived.iter().position(|&(kept, all)| kept < all);
        if first_lost.is_some_and(|at| survived[at + 1..].iter().any(|&(kept, _)| kept > 0)) {
            counters.fired(Kind::ReorderedWrite);
            counters.mattered(Kind::ReorderedWrite);
        }
        self.cached.clear();
        self.cached.extend_from_slice(&self.durable);
        lost
    }
}

/// Writes those sectors of `data` at `offset` that the dice keep. Returns how many were kept, and how many there were.
fn persist_sectors(durable: &mut [u8], offset: usize, data: &[u8], permille: u32, dice: &mut Dice) -> (usize, usize) {
    let (mut at, mut kept, mut all) = (0, 0, 0);
    while at < data.len() {
        let end = data.len().min(at + SECTOR - (offset + at) % SECTOR);
        all += 1;
        if dice.chance(permille) {
            durable[offset + at..offset + end].copy_from_slice(&data[at..end]);
            kept += 1;
        }
        at = end;
    }
    (kept, all)
}

/// What the plan has the disk do wrong now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskTrouble {
    pub read_errors_permille: u32,
    pub write_errors: bool,
    pub sync_errors: bool,
    pub stalled: bool,
    pub full: bool,
}

/// The directory of one node, as a copy that can be put back.
#[derive(Debug, Clone)]
pub struct DirectoryCopy(BTreeMap<SegmentId, File>);

#[derive(Debug)]
pub struct Disk {
    files: BTreeMap<SegmentId, File>,
    /// Bytes that once were in some file of this disk.
    old_bytes: Vec<u8>,
    pub trouble: DiskTrouble,
    dice: Dice,
}

impl Disk {
    pub fn new(dice: Dice) -> Disk {
        Disk { files: BTreeMap::new(), old_bytes: Vec::new(), trouble: DiskTrouble::default(), dice }
    }

    /// The operation completes.
    pub fn execute(&mut self, op: &DiskOp, counters: &mut Counters) -> DiskResult {
        match op {
            DiskOp::Create { segment, size } => {
                if self.trouble.full {
                    counters.fired(Kind::Full);
                    counters.mattered(Kind::Full);
                    return DiskResult::Failed(DiskError::Full);
                }
                if let Some(error) = self.write_error(counters) {
                    self.create_partly(*segment, *size as usize, counters);
                    return error;
                }
                if let Some(file) = self.files.insert(*segment, File::zeros(*size as usize)) {
                    self.old_bytes = file.cached;
                }
                DiskResult::Done
            }
            DiskOp::SyncDirectory => {
                self.files.values_mut().for_each(|file| file.name_durable = true);
                DiskResult::Done
            }
            DiskOp::Write { segment, offset, data } => {
                if let Some(error) = self.write_error(counters) {
                    self.write_partly(op);
                    return error;
                }
                let Some(file) = self.files.get_mut(segment) else { return no_such_file(*segment) };
                file.write(*offset as usize, &concatenate(data));
                DiskResult::Done
            }
            DiskOp::Sync { segment } => {
                let Some(file) = self.files.get_mut(segment) else { return no_such_file(*segment) };
                if self.trouble.sync_errors {
                    counters.fired(Kind::SyncError);
                    counters.mattered(Kind::SyncError);
                    file.lose(LossStyle::Sectors, &mut self.dice, counters);
                    return DiskResult::Failed(DiskError::Io("the simulated disk failed a sync".into()));
                }
                file.sync();
                DiskResult::Done
            }
            DiskOp::Read { place } => {
                if self.dice.chance(self.trouble.read_errors_permille) {
                    counters.fired(Kind::ReadError);
                    counters.mattered(Kind::ReadError);
                    return DiskResult::Failed(DiskError::Io("the simulated disk failed a read".into()));
                }
                let Some(file) = self.files.get(&place.segment) else { return no_such_file(place.segment) };
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
        let mut lost = false;
        for file in self.files.values_mut() {
            lost |= file.lose(style, &mut self.dice, counters);
        }
        let names: Vec<SegmentId> = self.files.iter().filter(|(_, file)| !file.name_durable).map(|(&name, _)| name).collect();
        for name in names {
            let keep = match style {
                LossStyle::Nothing => false,
                LossStyle::Everything => true,
                _ => self.dice.chance(400),
            };
            if keep {
                continue;
            }
            let file = self.files.remove(&name).expect("listed above");
            self.old_bytes = file.cached;
            lost = true;
            counters.fired(Kind::LostName);
            counters.mattered(Kind::LostName);
        }
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
    }

    /// Returns whether there was anything in it.
    pub fn wipe(&mut self) -> bool {
        let any = !self.files.is_empty();
        self.files.clear();
        any
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether `segment` was written to and synced before.
    pub fn is_used(&self, segment: SegmentId) -> bool {
        self.files.get(&segment).is_some_and(|file| file.used)
    }

    fn write_error(&mut self, counters: &mut Counters) -> Option<DiskResult> {
        self.trouble.write_errors.then(|| {
            counters.fired(Kind::WriteError);
            counters.mattered(Kind::WriteError);
            DiskResult::Failed(DiskError::Io("the simulated disk failed a write".into()))
        })
    }

    /// The file is there, of some size; what it shows was never written to it.
    fn create_partly(&mut self, segment: SegmentId, size: usize, counters: &mut Counters) {
        if self.dice.chance(250) {
            return;
        }
        let size = if self.dice.chance(500) { size } else { self.dice.below(size as u64 + 1) as usize };
        let mut file = File::zeros(size);
        let old = self.files.values().map(|f| &f.cached).chain([&self.old_bytes]).filter(|bytes| !bytes.is_empty());
        let old: Vec<&Vec<u8>> = old.collect();
        if !old.is_empty() && size > 0 && self.dice.chance(700) {
            let old = *self.dice.pick(&old);
            // Blocks keep their alignment, and often their place.
            let sectors = (old.len().min(size) / SECTOR) as u64;
            let shift = if self.dice.chance(600) { 0 } else { self.dice.below(sectors + 1) as usize * SECTOR };
            let length = size.min(old.len() - shift.min(old.len()));
            file.cached[..length].copy_from_slice(&old[shift..shift + length]);
            file.durable.clone_from(&file.cached);
            counters.fired(Kind::OldBytes);
            counters.mattered(Kind::OldBytes);
        }
        self.files.insert(segment, file);
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
        Ok(self.files.iter().map(|(&segment, file)| (segment, file.cached.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        // A disk that fails one read in three is not one that a node boots from in a minute: a tenth as often, here.
        if self.dice.chance(self.trouble.read_errors_permille / 10) {
            return Err(DiskError::Io("the simulated disk failed a read at boot".into()));
        }
        let file = self.files.get(&segment).ok_or_else(|| DiskError::Io(format!("there is no file of segment {segment}")))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.cached.len());
        let end = start.saturating_add(length).min(file.cached.len());
        Ok(file.cached[start..end].to_vec())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
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
        assert_eq!(counters.get(Kind::LostWrite).mattered, 1);
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
    fn a_failed_sync_leaves_part() {
        let (mut disk, mut counters) = made();
        write(&mut disk, 0, &[1; 4096]);
        disk.trouble.sync_errors = true;
        assert!(matches!(disk.execute(&DiskOp::Sync { segment: SEGMENT }, &mut counters), DiskResult::Failed(_)));
        let kept = shown(&mut disk).chunks(SECTOR).filter(|sector| sector[0] == 1).count();
        assert!((1..8).contains(&kept), "{kept} of 8 sectors");
    }
}
