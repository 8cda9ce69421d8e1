//! The data directory: its lock, and its log as recovery reads it.
//!
//! ```text
//! DIR/LOCK            held by flock(2) for as long as the process lives; says its process id
//! DIR/BOOT            on which boot of the machine nodes have run here, and since which epoch: see [`boot`](super::boot)
//! DIR/log/NNNNNNNN.log   one segment each; 0: the witness of the log's end
//! DIR/damaged/TIME    files that a start with `--recover` has set aside: see [`rescue`](super::rescue)
//! DIR/RECOVERING      such a start has not come to its end
//! ```
//!
//! The lock goes with the process, however it ends, so a killed server leaves nothing to clean up. All of it is the owner's
//! alone: see [`private`](super::private).

use super::error::StartError;
use super::notices::Progress;
use super::private::{self, sync_directory};
use crate::base::{NodeId, SegmentId};
use crate::msg::disk::{DiskError, LogDevice};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Whether a node has run in the data directory at `path`.
pub fn was_used(path: &Path) -> bool {
    fs::read_dir(path.join("log")).is_ok_and(|mut files| files.next().is_some())
}

/// A data directory that this process, and no other, has.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Held, not read: closing it gives the directory up.
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory if it is not there, and takes its lock.
    pub fn open(path: &Path) -> Result<DataDirectory, StartError> {
        let failed = |error| StartError::Directory { path: path.to_owned(), error };
        let log = path.join("log");
        private::make_directory(&log).map_err(failed)?;
        let lock_path = path.join("LOCK");
        if !lock_path.exists() {
            // The directories' own names must survive a power loss, as the files in them will. The lock file is made after that:
            // where it is, they do.
            private::sync_names(&log, sync_directory).map_err(failed)?;
        }
        let mut lock = private::file().read(true).write(true).create(true).truncate(false).open(&lock_path).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                // Who only reads does not write its id there.
                let is_read = flock(&lock, FlockOperation::NonBlockingLockShared).is_ok();
                let process = if is_read { None } else { holder(&lock) };
                return Err(StartError::Locked { path: path.to_owned(), process });
            }
            Err(error) => return Err(failed(error.into())),
        }
        lock.set_len(0).map_err(failed)?;
        lock.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(failed)?;
        sync_directory(path).map_err(failed)?;
        close_to_others(path, &log, &lock_path).map_err(failed)?;
        Ok(DataDirectory { path: path.to_owned(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file that is there while a start from what the disk cannot read has not said so in the log.
    pub fn recovering_path(&self) -> PathBuf {
        self.path.join("RECOVERING")
    }

    /// Where the segments are.
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }
}

/// The process that has the directory, as the lock file says. It only decorates a message.
fn holder(lock: &File) -> Option<u32> {
    let mut process = String::new();
    let _ = lock.take(20).read_to_string(&mut process);
    process.trim().parse().ok()
}

/// The log of a data directory that no node runs in, for who only looks at it: nothing is made or changed. While this lives, no
/// node starts there.
#[derive(Debug)]
pub struct StoppedDirectory {
    files: SegmentFiles,
    /// Held, not read. `None`: there is no lock file, as in a copy of the log alone.
    _lock: Option<File>,
}

impl StoppedDirectory {
    pub fn open(path: &Path) -> Result<StoppedDirectory, StartError> {
        let failed = |error| StartError::Directory { path: path.to_owned(), error };
        let log = path.join("log");
        match fs::metadata(&log) {
            Ok(found) if found.is_dir() => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => return Err(failed(io::Error::other("there is no directory `log` in it, so it is not that of a node"))),
        }
        let lock = match File::open(path.join("LOCK")) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if let Some(lock) = &lock {
            // Shared: several may look at it at once.
            match flock(lock, FlockOperation::NonBlockingLockShared) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(StartError::Locked { path: path.to_owned(), process: holder(lock) }),
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(StoppedDirectory { files: SegmentFiles::new(log, NodeId::ZERO), _lock: lock })
    }

    pub fn log(&mut self) -> &mut dyn LogDevice {
        &mut self.files
    }
}

/// Directories and files that an older version made are readable by all users. Only what is ours is touched: the directory may
/// hold other things.
fn close_to_others(directory: &Path, log: &Path, lock: &Path) -> io::Result<()> {
    let mut closed = 0;
    for path in [directory, log, lock] {
        closed += u32::from(private::tighten(path)?);
    }
    for entry in fs::read_dir(log)? {
        let entry = entry?;
        if entry.file_name().to_str().and_then(segment_of).is_some() {
            closed += u32::from(private::tighten(&entry.path())?);
        }
    }
    if closed > 0 {
        tracing::warn!(directory = %directory.display(), closed, "others could read the data directory; now its owner alone can");
    }
    Ok(())
}

/// The segment's file in the log's directory.
pub fn segment_path(log: &Path, segment: SegmentId) -> PathBuf {
    log.join(format!("{:08}.log", segment.0))
}

/// The segment whose file has this name; `None`: it is no segment's.
fn segment_of(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(".log")?;
    let number = digits.parse().ok()?;
    (format!("{number:08}") == digits).then_some(SegmentId(number))
}

/// The kind of error that the log is told.
pub fn disk_error(what: &str, path: &Path, error: &io::Error) -> DiskError {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => DiskError::Full { lacking: 0 },
        _ => DiskError::Io(format!("cannot {what} {}: {error}", path.display())),
    }
}

/// The log's directory, before the node runs.
#[derive(Debug)]
pub struct SegmentFiles {
    log: PathBuf,
    /// The file read last: recovery reads one after the other.
    open: Option<(SegmentId, File)>,
    /// What reads as zeros, since the disk cannot read it: in ascending order.
    unread: BTreeMap<SegmentId, Vec<Range<u64>>>,
    progress: Progress,
}

impl SegmentFiles {
    /// For the log of this node.
    pub fn new(log: PathBuf, node: NodeId) -> SegmentFiles {
        SegmentFiles { log, open: None, unread: BTreeMap::new(), progress: Progress::new(node) }
    }

    /// These parts are not read: they are zeros.
    pub fn pass_over(&mut self, unread: BTreeMap<SegmentId, Vec<Range<u64>>>) {
        self.unread = unread;
    }

    pub fn passed_over(&self) -> &BTreeMap<SegmentId, Vec<Range<u64>>> {
        &self.unread
    }

    pub fn passes_over_some(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Recovery is done.
    pub fn end(self) {
        self.progress.end();
    }

    fn file(&mut self, segment: SegmentId) -> Result<&File, DiskError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            let path = segment_path(&self.log, segment);
            let file = File::open(&path).map_err(|error| disk_error("open", &path, &error))?;
            self.open = Some((segment, file));
        }
        Ok(&self.open.as_ref().expect("just opened").1)
    }
}

impl LogDevice for SegmentFiles {
    fn list(&mut self) -> Result<Vec<(SegmentId, u64)>, DiskError> {
        let log = self.log.clone();
        let failed = |error: io::Error| disk_error("list", &log, &error);
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.log).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            match name.to_str().and_then(segment_of) {
                Some(segment) => segments.push((segment, entry.metadata().map_err(failed)?.len())),
                None => tracing::warn!(file = %entry.path().display(), "not a segment of the log; ignored"),
            }
        }
        segments.sort_unstable();
        self.progress.of_bytes(segments.iter().map(|(_, size)| size).sum());
        Ok(segments)
    }

    fn read(&mut self, segment: SegmentId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let path = segment_path(&self.log, segment);
        let unread = self.unread.get(&segment).cloned();
        let file = self.file(segment)?;
        let failed = |error: io::Error| disk_error("read", &path, &error);
        // Never more than the file has, whatever was asked for: the number may come from a damaged header.
        let size = file.metadata().map_err(failed)?.len();
        let length = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(length);
        let mut bytes = vec![0; length];
        let read = |bytes: &mut [u8], at| file.read_at(bytes, at);
        let filled = read_around(unread.as_deref().unwrap_or_default(), &mut bytes, offset, read).map_err(failed)?;
        bytes.truncate(filled);
        self.progress.read(filled as u64);
        Ok(bytes)
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        // What cannot be read is not synced either: the copy that takes the file's place is.
        for (segment, _) in self.list()? {
            if self.unread.contains_key(&segment) {
                continue;
            }
            let path = segment_path(&self.log, segment);
            self.file(segment)?.sync_all().map_err(|error| disk_error("sync", &path, &error))?;
        }
        sync_directory(&self.log).map_err(|error| disk_error("sync", &self.log, &error))
    }
}

/// Fills `bytes` from an offset on, but for what is behind the file's end. `read` reads some. Answers how many there are.
fn read_up_to(bytes: &mut [u8], offset: u64, mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match read(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Fills `bytes` from an offset on, with zeros where something cannot be read. Answers how many there are.
pub fn read_around(
    unread: &[Range<u64>],
    bytes: &mut [u8],
    offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        let at = offset + filled as u64;
        // Up to the next part that cannot be read; or that part.
        let part = unread.iter().find(|part| part.end > at);
        let is_unread = part.is_some_and(|part| part.start <= at);
        let until = part.map_or(u64::MAX, |part| if is_unread { part.end } else { part.start });
        let wanted = bytes.len().min(filled.saturating_add(usize::try_from(until - at).unwrap_or(usize::MAX)));
        let part = &mut bytes[filled..wanted];
        if is_unread {
            part.fill(0);
            filled = wanted;
            continue;
        }
        let (length, found) = (part.len(), read_up_to(part, at, &mut read)?);
        filled += found;
        if found < length {
            break;
        }
    }
    Ok(filled)
}

/// Random bytes of the operating system: for the id of a new directory and the seed of an epoch.
pub fn entropy() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scratch::Scratch;

    #[test]
    fn only_one_has_a_directory_and_the_other_is_told_who() {
        let scratch = Scratch::new("lock");
        let first = DataDirectory::open(scratch.path()).expect("free");
        let second = DataDirectory::open(scratch.path()).expect_err("taken");
        let text = second.to_string();
        assert!(matches!(second, StartError::Locked { process: Some(process), .. } if process == std::process::id()));
        assert!(text.contains(&scratch.path().display().to_string()), "{text}");
        drop(first);
        DataDirectory::open(scratch.path()).expect("free again");
    }

    #[test]
    fn a_directory_is_looked_at_by_many_or_held_by_a_node() {
        let scratch = Scratch::new("looked-at");
        let path = scratch.path().join("data");
        let error = StoppedDirectory::open(&path).expect_err("it is not there").to_string();
        assert!(error.contains("there is no directory `log` in it"), "{error}");
        assert!(!path.exists(), "nothing is made");
        let node = DataDirectory::open(&path).expect("free");
        let error = StoppedDirectory::open(&path).expect_err("a node has it");
        assert!(matches!(error, StartError::Locked { process: Some(process), .. } if process == std::process::id()), "{error}");
        drop(node);
        let mut readers = [StoppedDirectory::open(&path).expect("free"), StoppedDirectory::open(&path).expect("shared")];
        assert_eq!(readers[0].log().list().expect("readable"), []);
        let error = DataDirectory::open(&path).expect_err("it is looked at");
        assert!(matches!(error, StartError::Locked { process: None, .. }), "{error}");
        drop(readers);
        fs::remove_file(path.join("LOCK")).expect("a file");
        StoppedDirectory::open(&path).expect("a copy without a lock file");
        assert!(!path.join("LOCK").exists(), "nothing is made");
    }

    #[test]
    fn a_directory_that_was_open_to_others_is_closed_and_what_is_not_ours_stays() {
        let scratch = Scratch::new("modes");
        let path = scratch.path().join("data");
        let segment = segment_path(&path.join("log"), SegmentId(1));
        let open_to_all = |path: &Path, mode| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
        };
        drop(DataDirectory::open(&path).expect("free"));
        let modes = |path: &Path| ["", "log", "LOCK"].map(|name| private::mode_of(&path.join(name)));
        assert_eq!(modes(&path), [0o700, 0o700, 0o600], "a new one");
        fs::write(&segment, b"").expect("a file");
        fs::write(path.join("notes"), b"").expect("a file");
        for (path, mode) in [(&path, 0o755), (&path.join("log"), 0o775), (&path.join("LOCK"), 0o644), (&segment, 0o664)] {
            open_to_all(path, mode);
        }
        open_to_all(&path.join("notes"), 0o644);
        drop(DataDirectory::open(&path).expect("free"));
        assert_eq!(modes(&path), [0o700, 0o700, 0o600], "one of an older version");
        assert_eq!(private::mode_of(&segment), 0o600);
        assert_eq!(private::mode_of(&path.join("notes")), 0o644, "not ours");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let scratch = Scratch::new("file-in-the-way");
        let path = scratch.path().join("file");
        fs::write(&path, b"x").expect("a file");
        let error = DataDirectory::open(&path.join("below")).expect_err("a file is in the way").to_string();
        assert!(error.contains("below"), "{error}");
    }

    #[test]
    fn a_short_or_interrupted_read_goes_on_where_it_stopped() {
        let file: Vec<u8> = (0..100).collect();
        for (length, counts) in [(50, &[][..]), (50, &[1, 0, 20, 0, 0, 3]), (95, &[89, 0]), (200, &[0, 90])] {
            let (mut bytes, mut counts) = (vec![0; length], counts.iter().copied());
            let read = |into: &mut [u8], at: u64| match counts.next() {
                Some(0) => Err(io::ErrorKind::Interrupted.into()),
                most => {
                    let rest = &file[(at as usize).min(file.len())..];
                    let count = rest.len().min(into.len()).min(most.unwrap_or(usize::MAX));
                    into[..count].copy_from_slice(&rest[..count]);
                    Ok(count)
                }
            };
            let filled = read_up_to(&mut bytes, 10, read).expect("readable");
            assert_eq!(bytes[..filled], file[10..(10 + length).min(100)]);
        }
        let failing = read_up_to(&mut [0; 8], 0, |_, at| if at == 0 { Ok(3) } else { Err(io::ErrorKind::Other.into()) });
        assert!(failing.is_err(), "a part is not all");
    }

    #[test]
    fn what_cannot_be_listed_read_or_synced_is_named() {
        let scratch = Scratch::new("boot-errors");
        let missing = scratch.path().join("log");
        let mut files = SegmentFiles::new(missing.clone(), NodeId(1));
        for error in [files.list().expect_err("not there"), files.sync().expect_err("not there")] {
            assert!(error.to_string().contains(&format!("cannot list {}", missing.display())), "{error}");
        }
        let error = files.read(SegmentId(3), 0, 1).expect_err("not there").to_string();
        assert!(error.contains("cannot open") && error.contains("00000003.log"), "{error}");
        // A directory in a segment's place is opened and synced, and cannot be read.
        fs::create_dir_all(segment_path(&missing, SegmentId(4))).expect("ours");
        let error = files.read(SegmentId(4), 0, 1).expect_err("no file").to_string();
        assert!(error.contains("cannot read") && error.contains("00000004.log"), "{error}");
    }

    #[test]
    fn segments_are_listed_in_order_and_read_by_position() {
        let scratch = Scratch::new("segments");
        let directory = DataDirectory::open(scratch.path()).expect("free");
        for number in [10, 2, 1] {
            fs::write(segment_path(&directory.log_path(), SegmentId(number)), format!("segment {number}")).expect("a file");
        }
        for foreign in ["x.log", "1.log", "00000001.tmp"] {
            fs::write(directory.log_path().join(foreign), b"").expect("a file");
        }
        let mut files = SegmentFiles::new(directory.log_path(), NodeId(1));
        assert_eq!(files.list().expect("readable"), [(SegmentId(1), 9), (SegmentId(2), 9), (SegmentId(10), 10)]);
        assert_eq!(files.read(SegmentId(10), 8, 100).expect("readable"), b"10");
        assert_eq!(files.read(SegmentId(2), 0, 7).expect("readable"), b"segment");
        assert_eq!(files.read(SegmentId(2), 1 << 40, usize::MAX).expect("readable"), b"");
        assert!(files.read(SegmentId(3), 0, 1).is_err());
        files.sync().expect("syncs");
    }
}
