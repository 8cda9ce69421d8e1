//! The disk's threads: what the log asks for, done with real files.
//!
//! One thread executes `Write` and `Sync` in the order given; one all that is about files and names in theirs; one `Read`. So neither
//! a slow read nor the making of the next segment (tens of megabytes of zeros) delays a sync. Writes may overtake the making of a
//! segment: the log writes into a segment, and syncs it, only after it was told that file and name are durable. The results of a
//! write and of the sync behind it reach the node together: one wake-up for both.
//!
//! A failed write or sync is reported once and never retried here. After a failed fdatasync the kernel has marked the pages
//! clean, and a second call would succeed without having written them (Rebello et al., "Can Applications Recover from fsync
//! Failures?", 2020). What follows from it is the node's to decide: it halts. To lack a descriptor for *opening* a file is no
//! failure of the disk: the opening is retried until it succeeds, which the node sees as a disk that stalls.

use super::boot::BootNote;
use super::clock::{CpuMeters, Thread};
use super::descriptors::{self, Seldom};
use super::directory::{disk_error, segment_path};
use super::inbox::Inbox;
use super::private::{self, sync_directory};
use crate::base::{Duration, IoId, Place, SegmentId};
use crate::msg::disk::{DiskError, DiskOp, DiskResult};
use crate::node::Event;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// Bytes of zeros written at once into a new segment.
const FILL_SIZE: usize = 1024 * 1024;
/// The most parts that one system call writes (IOV_MAX).
const PARTS_MAX: usize = 1024;
/// Between two tries to open a segment while the process has no descriptor left.
const OPEN_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The way to the disk's threads. They end when this is dropped, after what was given to them before.
#[derive(Debug)]
pub struct Disk {
    log: Option<Sender<Vec<(IoId, DiskOp)>>>,
    allocate: Option<Sender<(IoId, DiskOp)>>,
    read: Option<Sender<(IoId, Place)>>,
    threads: Vec<JoinHandle<()>>,
    /// Nothing is retried any more.
    ending: Arc<AtomicBool>,
}

impl Disk {
    /// `log`: the directory of the segments; `segments_max`: as many are kept open by each thread. `boot_note` ends with the
    /// first write or sync that fails.
    pub fn start(
        name: &str,
        log: PathBuf,
        boot_note: BootNote,
        segments_max: usize,
        inbox: &Arc<Inbox>,
        meters: &Arc<CpuMeters>,
    ) -> io::Result<Disk> {
        let ending = Arc::new(AtomicBool::new(false));
        // None of the channels has a limit of its own: the log bounds the bytes that are not durable and the reads in progress,
        // and makes one segment at a time.
        let (log_sender, log_receiver) = unbounded();
        let (allocate_sender, allocate_receiver) = unbounded();
        let (read_sender, read_receiver) = unbounded();
        let worker = |writable, thread| Worker {
            files: Files::new(log.clone(), writable, segments_max, &ending),
            boot_note: boot_note.clone(),
            inbox: Arc::clone(inbox),
            meters: Arc::clone(meters),
            thread,
        };
        let (writer, allocator, reader) =
            (worker(true, Thread::Log), worker(true, Thread::Allocate), worker(false, Thread::Read));
        let threads = vec![
            std::thread::Builder::new().name(format!("log-{name}")).spawn(move || writer.write_and_sync(&log_receiver))?,
            std::thread::Builder::new().name(format!("alloc-{name}")).spawn(move || allocator.allocate(&allocate_receiver))?,
            std::thread::Builder::new().name(format!("read-{name}")).spawn(move || reader.read(&read_receiver))?,
        ];
        Ok(Disk { log: Some(log_sender), allocate: Some(allocate_sender), read: Some(read_sender), threads, ending })
    }

    /// Executes writes and syncs in order, behind all that was given before. Leaves `ops` empty.
    pub fn execute(&self, ops: &mut Vec<(IoId, DiskOp)>) {
        if !ops.is_empty() {
            let sender = self.log.as_ref().expect("not dropped");
            sender.send(std::mem::take(ops)).expect("the thread lives as long as this");
        }
    }

    /// Executes what is about files and names, behind those that were given before.
    pub fn allocate(&self, id: IoId, op: DiskOp) {
        let sender = self.allocate.as_ref().expect("not dropped");
        sender.send((id, op)).expect("the thread lives as long as this");
    }

    pub fn read(&self, id: IoId, place: Place) {
        let sender = self.read.as_ref().expect("not dropped");
        sender.send((id, place)).expect("the thread lives as long as this");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        self.log = None;
        self.allocate = None;
        self.read = None;
        for thread in self.threads.drain(..) {
            // Its panic was printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// The body of one of the threads.
struct Worker {
    files: Files,
    boot_note: BootNote,
    inbox: Arc<Inbox>,
    meters: Arc<CpuMeters>,
    thread: Thread,
}

impl Worker {
    fn write_and_sync(mut self, ops: &Receiver<Vec<(IoId, DiskOp)>>) {
        let mut done = Vec::new();
        for batch in ops {
            for (id, op) in batch {
                let synced = matches!(op, DiskOp::Sync { .. });
                done.push(Event::Disk(id, self.execute(op)));
                if synced {
                    self.inbox.push_all(&mut done);
                }
            }
            self.inbox.push_all(&mut done);
            self.meters.sample(self.thread);
        }
    }

    fn allocate(mut self, ops: &Receiver<(IoId, DiskOp)>) {
        for (id, op) in ops {
            let result = self.execute(op);
            self.inbox.push(Event::Disk(id, result));
            self.meters.sample(self.thread);
        }
    }

    fn read(mut self, reads: &Receiver<(IoId, Place)>) {
        let mut done = Vec::new();
        for (id, place) in reads {
            done.push(Event::Disk(id, read_place(&mut self.files, place)));
            if reads.is_empty() || done.len() == 64 {
                self.inbox.push_all(&mut done);
                self.meters.sample(self.thread);
            }
        }
    }

    fn execute(&mut self, op: DiskOp) -> DiskResult {
        let result = match op {
            DiskOp::Create { segment, size } => self.create(segment, size),
            DiskOp::Recycle { segment, to } => self.recycle(segment, to),
            DiskOp::Remove { segment } => self.remove(segment),
            DiskOp::SyncDirectory => {
                let synced = self.files.patiently(|| sync_directory(&self.files.log));
                synced.map_err(|error| disk_error("sync", &self.files.log, &error))
            }
            DiskOp::Write { segment, offset, data } => {
                let write =
                    |file: &File| write_all_at(&data, u64::from(offset), |parts, at| rustix::io::pwritev(file, parts, at));
                self.files.with(segment, "write", write)
            }
            DiskOp::Sync { segment } => self.files.with(segment, "sync", File::sync_data),
            DiskOp::Read { place } => return read_place(&mut self.files, place),
        };
        match result {
            Ok(()) => DiskResult::Done,
            Err(error) => {
                if !matches!(error, DiskError::Full { .. }) {
                    self.boot_note.withdraw();
                }
                DiskResult::Failed(error)
            }
        }
    }

    fn recycle(&mut self, segment: SegmentId, to: SegmentId) -> Result<(), DiskError> {
        let (from, to) = (segment_path(&self.files.log, segment), segment_path(&self.files.log, to));
        fs::rename(&from, &to).map_err(|error| disk_error("rename", &from, &error))
    }

    /// The room is given back at once, though other threads may have the file open.
    fn remove(&mut self, segment: SegmentId) -> Result<(), DiskError> {
        let path = segment_path(&self.files.log, segment);
        let emptied = self.files.patiently(|| OpenOptions::new().write(true).truncate(true).open(&path));
        let removed = emptied.and_then(|_| fs::remove_file(&path));
        removed.map_err(|error| disk_error("remove", &path, &error))
    }

    /// Zeros are written, not allocated: the first sync of an unwritten extent has to change the file's metadata, and is slow.
    fn create(&mut self, segment: SegmentId, size: u32) -> Result<(), DiskError> {
        let path = segment_path(&self.files.log, segment);
        let mut filled = 0;
        let mut fill = || {
            let file = self.files.patiently(|| private::file().read(true).write(true).create(true).truncate(true).open(&path))?;
            let zeros = vec![0; FILL_SIZE.min(size as usize)];
            let mut offset = 0u64;
            while offset < u64::from(size) {
                let count = zeros.len().min((u64::from(size) - offset) as usize);
                file.write_all_at(&zeros[..count], offset)?;
                offset += count as u64;
                filled = offset as u32;
                // In steps: the log's own syncs get their turn at the disk in between.
                if offset.is_multiple_of(4 * FILL_SIZE as u64) {
                    file.sync_data()?;
                }
            }
            file.sync_all()
        };
        let made = fill();
        made.map_err(|error: io::Error| {
            // Half a segment is of no use, and its room may be needed.
            let _ = fs::remove_file(&path);
            match disk_error("create", &path, &error) {
                DiskError::Full { .. } => DiskError::Full { lacking: size - filled },
                other => other,
            }
        })
    }
}

fn read_place(files: &mut Files, place: Place) -> DiskResult {
    let mut bytes = vec![0; place.length as usize];
    match files.with(place.segment, "read", |file| file.read_exact_at(&mut bytes, u64::from(place.offset))) {
        Ok(()) => DiskResult::Data(Bytes::from(bytes)),
        Err(error) => DiskResult::Failed(error),
    }
}

/// The segments that a thread has open.
struct Files {
    log: PathBuf,
    writable: bool,
    open: BTreeMap<SegmentId, File>,
    /// Beyond: the oldest is closed, and opened again when it is needed.
    open_max: usize,
    ending: Arc<AtomicBool>,
}

impl Files {
    fn new(log: PathBuf, writable: bool, open_max: usize, ending: &Arc<AtomicBool>) -> Files {
        Files { log, writable, open: BTreeMap::new(), open_max, ending: Arc::clone(ending) }
    }

    /// Opens something, again and again while there is no descriptor for it. At the end of the server it is tried once.
    fn patiently<T>(&self, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut said = Seldom::default();
        loop {
            match open() {
                Err(error) if descriptors::is_shortage(&error) && !self.ending.load(Ordering::Relaxed) => {
                    if let Some(tries) = said.happened(Instant::now()) {
                        tracing::error!(log = %self.log.display(), %error, tries, "the log waits for a file to be opened");
                    }
                    std::thread::sleep(OPEN_AGAIN_AFTER);
                }
                done => return done,
            }
        }
    }

    /// Calls `act` with the segment's file. `what`: for the error's text.
    fn with(&mut self, segment: SegmentId, what: &str, act: impl FnOnce(&File) -> io::Result<()>) -> Result<(), DiskError> {
        let path = segment_path(&self.log, segment);
        let acted = self.file(segment, &path).and_then(act);
        acted.map_err(|error| disk_error(what, &path, &error))
    }

    fn file(&mut self, segment: SegmentId, path: &Path) -> io::Result<&File> {
        if !self.open.contains_key(&segment) {
            if self.open.len() >= self.open_max {
                self.open.pop_first();
            }
            let file = self.patiently(|| OpenOptions::new().read(true).write(self.writable).open(path))?;
            self.open.insert(segment, file);
        }
        Ok(&self.open[&segment])
    }
}

/// `write` writes some of the parts at an offset, from the first on, and answers how many bytes: often all, sometimes fewer.
fn write_all_at(
    data: &[Bytes],
    offset: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    let mut offset = offset;
    for parts in data.chunks(PARTS_MAX) {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        // An empty part at the front would look like a full disk to the loop.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match write(rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut rest, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Epoch;
    use crate::server::clock::Clock;
    use crate::server::scratch::Scratch;

    const S1: SegmentId = SegmentId(1);

    fn wait_for(inbox: &Inbox, count: usize) -> Vec<(IoId, DiskResult)> {
        let clock = Clock::start();
        let (mut results, mut events) = (Vec::new(), Vec::new());
        while results.len() < count {
            inbox.take(&mut events, || clock.now(), Some(clock.now() + Duration::from_secs(10)));
            assert!(!events.is_empty(), "an operation was not answered");
            results.extend(events.drain(..).map(|event| match event {
                Event::Disk(id, result) => (id, result),
                other => panic!("not the disk's: {other:?}"),
            }));
        }
        results
    }

    fn start(scratch: &Scratch) -> (Disk, Arc<Inbox>) {
        let inbox = Arc::new(Inbox::default());
        let disk = Disk::start("test", scratch.path().to_owned(), BootNote::of(scratch.path()), 8, &inbox, &Arc::default())
            .expect("threads");
        (disk, inbox)
    }

    #[test]
    fn a_segment_is_made_written_synced_and_read() {
        let scratch = Scratch::new("disk");
        let (disk, inbox) = start(&scratch);
        // More parts than one call takes, empty ones among them.
        let data: Vec<Bytes> = (0..3_000u32).map(|i| Bytes::from(vec![i as u8; (i % 7) as usize])).collect();
        let flat = data.concat();
        disk.allocate(IoId(1), DiskOp::Create { segment: S1, size: 3 * 1024 * 1024 + 17 });
        disk.allocate(IoId(2), DiskOp::SyncDirectory);
        let mut results = wait_for(&inbox, 2);
        let mut ops = vec![(IoId(3), DiskOp::Write { segment: S1, offset: 100, data }), (IoId(4), DiskOp::Sync { segment: S1 })];
        disk.execute(&mut ops);
        results.extend(wait_for(&inbox, 2));
        assert_eq!(results, (1..=4).map(|id| (IoId(id), DiskResult::Done)).collect::<Vec<_>>());
        assert_eq!(private::mode_of(&segment_path(scratch.path(), S1)), 0o600);
        let file = fs::read(segment_path(scratch.path(), S1)).expect("there");
        assert_eq!(file.len(), 3 * 1024 * 1024 + 17);
        assert_eq!(&file[100..100 + flat.len()], &flat[..]);
        assert!(file[100 + flat.len()..].iter().all(|byte| *byte == 0));

        disk.read(IoId(5), Place { segment: S1, offset: 100, length: flat.len() as u32 });
        assert_eq!(wait_for(&inbox, 1), [(IoId(5), DiskResult::Data(Bytes::from(flat)))]);
    }

    #[test]
    fn what_cannot_be_done_is_answered_with_the_file_and_the_reason() {
        let scratch = Scratch::new("disk-errors");
        let (disk, inbox) = start(&scratch);
        let boot_note = BootNote::of(scratch.path());
        boot_note.write(Epoch(1)).expect("a file");
        disk.execute(&mut vec![(IoId(1), DiskOp::Sync { segment: S1 })]);
        disk.read(IoId(2), Place { segment: S1, offset: 0, length: 1 });
        for (_, result) in wait_for(&inbox, 2) {
            let DiskResult::Failed(DiskError::Io(why)) = result else { panic!("{result:?}") };
            assert!(why.contains("00000001.log"), "{why}");
        }
        assert_eq!(boot_note.since(), None, "after a failed sync the page cache proves nothing");
        disk.allocate(IoId(3), DiskOp::Create { segment: S1, size: 10 });
        wait_for(&inbox, 1);
        disk.read(IoId(4), Place { segment: S1, offset: 5, length: 6 });
        assert!(matches!(&wait_for(&inbox, 1)[0].1, DiskResult::Failed(_)), "a short read is no data");

        let gone = scratch.path().join("gone");
        let disk = Disk::start("test", gone.clone(), boot_note, 8, &inbox, &Arc::default()).expect("threads");
        disk.allocate(IoId(5), DiskOp::Create { segment: S1, size: 10 });
        disk.allocate(IoId(6), DiskOp::SyncDirectory);
        let told: Vec<String> = wait_for(&inbox, 2).into_iter().map(|(_, result)| format!("{result:?}")).collect();
        assert!(told[0].contains("cannot create") && told[0].contains("gone/00000001.log"), "{told:?}");
        assert!(told[1].contains(&format!("cannot sync {}", gone.display())), "{told:?}");
    }

    /// Writes to a file that takes at most as many bytes at once as `counts` say, one after the other, and is interrupted where
    /// they say 0. Then it fails, if `fails` says how.
    fn written(data: &[Bytes], counts: &[usize], fails: Option<rustix::io::Result<usize>>) -> (Vec<u8>, io::Result<()>) {
        let (mut file, mut calls) = (vec![0; 10], 0);
        let result = write_all_at(data, 10, |parts, at| {
            assert_eq!(at, file.len() as u64, "what was written is not written again, and nothing is left out");
            calls += 1;
            let count = match (counts.get(calls - 1), fails) {
                (Some(0), _) => return Err(rustix::io::Errno::INTR),
                (Some(count), _) => *count,
                (None, Some(failure)) => return failure,
                (None, None) => usize::MAX,
            };
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(count).collect();
            file.extend_from_slice(&bytes);
            Ok(bytes.len())
        });
        (file.split_off(10), result)
    }

    #[test]
    fn a_short_or_interrupted_write_goes_on_where_it_stopped_and_one_that_cannot_is_an_error() {
        use rustix::io::Errno;
        let data: Vec<Bytes> = (0..3_000u32).map(|i| Bytes::from(vec![i as u8; (i % 7) as usize])).collect();
        let flat = data.concat();
        for counts in [&[][..], &[1], &[0, 0, 5, 0, 1, 1_000], &[2_999, 1, 0, 4_000, 3], &[flat.len() - 1], &[6_000, 6_000]] {
            let (file, result) = written(&data, counts, None);
            assert!(result.is_ok() && file == flat, "{counts:?}");
        }
        for (failure, kind) in [(Err(Errno::IO), Errno::IO.kind()), (Ok(0), io::ErrorKind::WriteZero)] {
            let (file, result) = written(&data, &[7, 0, 100], Some(failure));
            assert_eq!(result.expect_err("a part is not all").kind(), kind);
            assert_eq!(file, flat[..107]);
        }
    }

    #[test]
    fn what_lacks_a_descriptor_is_tried_again_until_the_end() {
        let shortage = || io::Error::from(rustix::io::Errno::MFILE);
        let ending = Arc::new(AtomicBool::new(false));
        let files = Files::new(PathBuf::new(), true, 8, &ending);
        let mut left = 2;
        let opened = files.patiently(|| {
            if left == 0 {
                Ok(())
            } else {
                left -= 1;
                Err(shortage())
            }
        });
        assert!(opened.is_ok() && left == 0);
        assert!(files.patiently(|| Err::<(), _>(io::ErrorKind::NotFound.into())).is_err(), "another error is none of this");
        ending.store(true, Ordering::Relaxed);
        assert!(files.patiently(|| Err::<(), _>(shortage())).is_err());
    }

    #[test]
    fn what_was_given_is_done_before_the_threads_end() {
        let scratch = Scratch::new("disk-drop");
        let (disk, inbox) = start(&scratch);
        disk.allocate(IoId(1), DiskOp::Create { segment: S1, size: 4096 });
        wait_for(&inbox, 1);
        for id in 2..100 {
            let data = vec![Bytes::from_static(b"x")];
            disk.execute(&mut vec![(IoId(id), DiskOp::Write { segment: S1, offset: id as u32, data })]);
        }
        drop(disk);
        assert_eq!(wait_for(&inbox, 98).len(), 98);
    }
}
