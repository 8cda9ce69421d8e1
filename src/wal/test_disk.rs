//! A disk in memory that does what `FORMAT.md` says a medium may do: for the log's own tests.

use crate::base::random::{Random, below};
use crate::base::{IoId, SegmentId};
use crate::msg::disk::{DiskError, DiskOp, DiskResult, LogDevice};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

pub const SECTOR: usize = 512;

#[derive(Debug, Default, Clone)]
struct File {
    /// What reads show.
    visible: Vec<u8>,
    /// What the medium holds.
    medium: Vec<u8>,
    /// What each sector was since the last sync: any of these may be on the medium after a crash.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    name_is_durable: bool,
}

#[derive(Debug, Default)]
pub struct TestDisk {
    files: BTreeMap<SegmentId, File>,
    pub queue: VecDeque<(IoId, DiskOp)>,
    /// Blocks of files that were here before: what unsynced preallocated space may show.
    old_blocks: Vec<Vec<u8>>,
    /// Answer the next `Create` with "no room".
    pub full: bool,
    pub fail_next_write: bool,
    pub fail_next_sync: bool,
    pub fail_next_read: bool,
}

fn sector(bytes: &[u8], number: usize) -> &[u8] {
    let from = (number * SECTOR).min(bytes.len());
    &bytes[from..(from + SECTOR).min(bytes.len())]
}

impl File {
    fn write(&mut self, offset: usize, data: &[u8]) {
        if self.visible.len() < offset + data.len() {
            self.visible.resize(offset + data.len(), 0);
        }
        self.visible[offset..offset + data.len()].copy_from_slice(data);
        for number in offset / SECTOR..(offset + data.len()).div_ceil(SECTOR) {
            self.unsynced.entry(number).or_default().push(sector(&self.visible, number).to_vec());
        }
    }

    /// Puts on the medium what `choose` picks of each unsynced sector's versions; `None` leaves it as it is there.
    fn persist(&mut self, mut choose: impl FnMut(usize) -> Option<usize>) {
        self.medium.resize(self.visible.len().max(self.medium.len()), 0);
        for (number, versions) in std::mem::take(&mut self.unsynced) {
            if let Some(version) = choose(versions.len()) {
                let bytes = &versions[version];
                self.medium[number * SECTOR..number * SECTOR + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

impl TestDisk {
    /// Does the oldest operation; its answer.
    pub fn execute(&mut self, random: &mut Random) -> Option<(IoId, DiskResult)> {
        let (io, op) = self.queue.pop_front()?;
        let failed = |what: &str| DiskResult::Failed(DiskError::Io(what.to_string()));
        let result = match op {
            DiskOp::Create { .. } if self.full => DiskResult::Failed(DiskError::Full { lacking: 1 }),
            DiskOp::Create { segment, size } => {
                let file = self.files.entry(segment).or_default();
                self.old_blocks.push(std::mem::take(&mut file.visible));
                let zeros = vec![0; size as usize];
                *file = File { visible: zeros.clone(), medium: zeros, unsynced: BTreeMap::new(), name_is_durable: false };
                DiskResult::Done
            }
            DiskOp::Recycle { segment, to } => {
                let file = self.files.remove(&segment).expect("the log recycles segments that it made");
                self.files.insert(to, file);
                DiskResult::Done
            }
            DiskOp::Remove { segment } => {
                self.files.remove(&segment).expect("the log removes segments that it made");
                DiskResult::Done
            }
            DiskOp::SyncDirectory => {
                self.files.values_mut().for_each(|file| file.name_is_durable = true);
                DiskResult::Done
            }
            DiskOp::Write { segment, offset, data } => {
                let file = self.files.get_mut(&segment).expect("the log writes to segments that it made");
                file.write(offset as usize, &data.concat());
                if std::mem::take(&mut self.fail_next_write) { failed("write") } else { DiskResult::Done }
            }
            DiskOp::Sync { segment } => {
                let file = self.files.get_mut(&segment).expect("the log syncs segments that it made");
                if std::mem::take(&mut self.fail_next_sync) {
                    // Part of it reached the medium; the pages are clean now, and still show all of it.
                    file.persist(|versions| (below(random, 2) == 0).then_some(versions - 1));
                    failed("sync")
                } else {
                    file.persist(|versions| Some(versions - 1));
                    DiskResult::Done
                }
            }
            DiskOp::Read { place } => {
                if std::mem::take(&mut self.fail_next_read) {
                    failed("read")
                } else {
                    let bytes = self.read(place.segment, u64::from(place.offset), place.length as usize);
                    DiskResult::Data(Bytes::from(bytes.unwrap_or_default()))
                }
            }
        };
        Some((io, result))
    }

    /// The process ends: what was not begun is not done; what is visible stays visible.
    pub fn crash_process(&mut self) {
        self.queue.clear();
    }

    /// The machine loses power.
    pub fn crash_machine(&mut self, random: &mut Random) {
        // A file may have been in the making.
        let creating = match self.queue.front() {
            Some((_, DiskOp::Create { segment, size })) if below(random, 2) == 0 => Some((*segment, *size)),
            _ => None,
        };
        // The write in front may have begun.
        if let Some((_, DiskOp::Write { segment, offset, data })) = self.queue.front().cloned()
            && let Some(file) = self.files.get_mut(&segment)
        {
            file.write(offset as usize, &data.concat());
        }
        self.queue.clear();
        if let Some((segment, size)) = creating {
            let mut blocks: Vec<u8> = match self.old_blocks.len() {
                0 => Vec::new(),
                n => self.old_blocks[below(random, n as u64) as usize].clone(),
            };
            blocks.resize(size as usize, 0);
            self.files.insert(segment, File { visible: blocks.clone(), medium: blocks, ..File::default() });
        }
        let kind = below(random, 4);
        self.files.retain(|_, file| file.name_is_durable || below(random, 2) == 0);
        for file in self.files.values_mut() {
            file.name_is_durable = true;
            file.persist(|versions| match kind {
                0 => None,
                1 => Some(versions - 1),
                _ => match below(random, versions as u64 + 1) {
                    0 => None,
                    version => Some(version as usize - 1),
                },
            });
            file.visible = file.medium.clone();
        }
    }

    /// What unsynced preallocated space shows from now on, among other things.
    pub fn add_old_blocks(&mut self, blocks: Vec<u8>) {
        self.old_blocks.push(blocks);
    }

    pub fn segment(&mut self, segment: SegmentId) -> &mut Vec<u8> {
        &mut self.files.get_mut(&segment).expect("there is such a segment").visible
    }

    pub fn put(&mut self, segment: SegmentId, bytes: Vec<u8>) {
        self.files.insert(segment, File { medium: bytes.clone(), visible: bytes, name_is_durable: true, ..File::default() });
    }

    pub fn remove(&mut self, segment: SegmentId) {
        self.files.remove(&segment);
    }

    pub fn segments(&self) -> Vec<SegmentId> {
        self.files.keys().copied().collect()
    }

    /// What reads show, as a disk of its own.
    pub fn copy(&self) -> TestDisk {
        TestDisk { files: self.files.clone(), ..TestDisk::default() }
    }
}

impl LogDevice for TestDisk {
    fn list(&mut self) -> Result<Vec<(SegmentId, u64)>, DiskError> {
        Ok(self.files.iter().map(|(segment, file)| (*segment, file.visible.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let bytes = &self.files.get(&segment).ok_or(DiskError::Io("no such segment".into()))?.visible;
        let from = (offset as usize).min(bytes.len());
        Ok(bytes[from..(from + length).min(bytes.len())].to_vec())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        for file in self.files.values_mut() {
            file.persist(|versions| Some(versions - 1));
            file.name_is_durable = true;
        }
        Ok(())
    }
}
