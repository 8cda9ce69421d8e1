//! `ringseed server --recover`: a start from files that the disk cannot read to the end.
//!
//! A plain start goes past what is damaged, and stops where the disk fails to read: an error may be of the moment, and what cannot
//! be read now may be whole. With `--recover` the operator says that it will not be: each block that cannot be read is zeros, and
//! of any group anything may be missing. Nothing is deleted. The file stays under `DIR/damaged`, and a copy takes its place once
//! the log was found to be this node's; of other files that are damaged copies are kept there, before the log writes over them.

use super::directory::{DataDirectory, read_around, segment_path};
use super::error::StartError;
use super::private::{self, sync_directory};
use crate::base::SegmentId;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What is given up where one byte cannot be read: what disks read at a time.
const BLOCK: usize = 4096;
/// Bytes read at a time where all is well.
const PIECE: usize = 1024 * 1024;

/// A start that sets aside what is bad.
#[derive(Debug)]
pub struct Rescue {
    log: PathBuf,
    /// Where files are kept; made with the first.
    kept: PathBuf,
    now_ms: u64,
    /// [`DataDirectory::recovering_path`].
    recovering: PathBuf,
}

impl Rescue {
    /// `now_ms` names the folder.
    pub fn new(directory: &DataDirectory, now_ms: u64) -> Rescue {
        let kept = directory.path().join("damaged").join(now_ms.to_string());
        Rescue { log: directory.log_path(), kept, now_ms, recovering: directory.recovering_path() }
    }

    /// What cannot be read of each of these files. Only reads.
    pub fn find_unreadable(&self, all: &[(SegmentId, u64)]) -> Result<BTreeMap<SegmentId, Vec<Range<u64>>>, StartError> {
        self.find_unreadable_by(all, |file, bytes, at| file.read_at(bytes, at))
    }

    fn find_unreadable_by(
        &self,
        all: &[(SegmentId, u64)],
        mut read: impl FnMut(&File, &mut [u8], u64) -> io::Result<usize>,
    ) -> Result<BTreeMap<SegmentId, Vec<Range<u64>>>, StartError> {
        let mut found = BTreeMap::new();
        for &(segment, size) in all {
            let path = segment_path(&self.log, segment);
            let file = File::open(&path).map_err(|error| StartError::Directory { path: path.clone(), error })?;
            let found_unread = unreadable(&file, size, &mut read);
            let (unread, why) = found_unread.map_err(|error| StartError::Directory { path: path.clone(), error })?;
            if let Some(first) = unread.first() {
                let bytes: u64 = unread.iter().map(|part| part.end - part.start).sum();
                tracing::warn!(
                    "{bytes} bytes of segment {segment} cannot be read, the first at byte {}: {why}; they are taken for damaged",
                    first.start
                );
                found.insert(segment, unread);
            }
        }
        Ok(found)
    }

    /// In place of each of these files there is one that can be read, with zeros where that could not. That something could not be
    /// read is remembered until the log says so: zeros at its end would look like one that was torn.
    pub fn replace(&self, unread: &BTreeMap<SegmentId, Vec<Range<u64>>>) -> Result<(), StartError> {
        private::write_whole(&self.recovering, b"")
            .map_err(|error| StartError::Directory { path: self.recovering.clone(), error })?;
        for (&segment, unread) in unread {
            let path = segment_path(&self.log, segment);
            let beside = path.with_extension("new");
            let copied = File::open(&path).and_then(|file| copy_around(&file, unread, &beside));
            if let Err(error) = copied {
                let _ = fs::remove_file(&beside);
                return Err(StartError::Directory { path: beside, error });
            }
            let elsewhere = path.with_extension(format!("damaged-{}", self.now_ms));
            // At no instant there is neither. Where the log is on another file system, the file stays there, under another name.
            let kept = self.keep(segment, |path, kept| match fs::hard_link(path, kept) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => fs::hard_link(path, &elsewhere),
                other => other,
            });
            let replaced = kept.and_then(|()| {
                let renamed = fs::rename(&beside, &path).and_then(|()| sync_directory(&self.log));
                renamed.map_err(|error| StartError::Directory { path: path.clone(), error })
            });
            if replaced.is_err() {
                let _ = fs::remove_file(&beside);
            }
            replaced?;
            tracing::warn!(kept = %self.kept.display(), "segment {segment} is replaced by what can be read of it; the file is kept");
        }
        Ok(())
    }

    /// Keeps copies of these segments as they are now, but for those that cannot be copied: these are kept when they are replaced.
    pub fn keep_damaged(
        &self,
        segments: BTreeSet<SegmentId>,
        unread: &BTreeMap<SegmentId, Vec<Range<u64>>>,
    ) -> Result<(), StartError> {
        for segment in segments.into_iter().filter(|segment| !unread.contains_key(segment)) {
            if segment_path(&self.log, segment).exists() {
                self.keep(segment, |path, kept| {
                    fs::copy(path, kept)?;
                    File::open(kept)?.sync_all()
                })?;
                tracing::warn!(kept = %self.kept.display(), "segment {segment} is damaged; a copy of it is kept");
            }
        }
        Ok(())
    }

    fn keep(&self, segment: SegmentId, keep: impl FnOnce(&Path, &Path) -> io::Result<()>) -> Result<(), StartError> {
        let kept = segment_path(&self.kept, segment);
        let all = || {
            private::make_directory(&self.kept)?;
            keep(&segment_path(&self.log, segment), &kept)?;
            sync_directory(&self.kept)?;
            private::sync_names(&self.kept, sync_directory)
        };
        all().map_err(|error| StartError::Directory { path: kept.clone(), error })
    }
}

/// Whether it is the medium that fails, and not the process, or the way there.
fn is_of_the_medium(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::REMOTEIO))
}

/// What cannot be read of a file, in ascending order, adjoining blocks as one; and the last error.
fn unreadable(
    file: &File,
    size: u64,
    read: &mut impl FnMut(&File, &mut [u8], u64) -> io::Result<usize>,
) -> io::Result<(Vec<Range<u64>>, String)> {
    let (mut unread, mut why, mut bytes) = (Vec::<Range<u64>>::new(), String::new(), vec![0; PIECE]);
    for at in (0..size).step_by(PIECE) {
        let piece = at..size.min(at + PIECE as u64);
        let mut read_part = |part: &Range<u64>| {
            let bytes = &mut bytes[..(part.end - part.start) as usize];
            read_around(&[], bytes, part.start, |bytes, at| read(file, bytes, at)).map(drop)
        };
        if read_part(&piece).is_ok() {
            continue;
        }
        for at in piece.clone().step_by(BLOCK) {
            let block = at..piece.end.min(at + BLOCK as u64);
            if let Err(error) = read_part(&block) {
                if !is_of_the_medium(&error) {
                    return Err(error);
                }
                why = error.to_string();
                match unread.last_mut().filter(|last| last.end == block.start) {
                    Some(last) => last.end = block.end,
                    None => unread.push(block),
                }
            }
        }
    }
    Ok((unread, why))
}

/// Copies what can be read, and zeros for the rest.
fn copy_around(file: &File, unread: &[Range<u64>], to: &Path) -> io::Result<()> {
    let size = file.metadata()?.len();
    let mut copy = private::file().write(true).create(true).truncate(true).open(to)?;
    let mut bytes = vec![0; PIECE];
    for at in (0..size).step_by(PIECE) {
        let bytes = &mut bytes[..(size - at).min(PIECE as u64) as usize];
        if read_around(unread, bytes, at, |bytes, at| file.read_at(bytes, at))? < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        copy.write_all(bytes)?;
    }
    copy.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scratch::Scratch;

    #[test]
    fn what_cannot_be_read_is_zeros_and_all_else_is_kept() {
        let scratch = Scratch::new("rescue");
        let directory = DataDirectory::open(scratch.path()).expect("free");
        let log = directory.log_path();
        let whole: Vec<u8> = (0..3 * PIECE + 5_000).map(|at| 1 + (at / 7 % 250) as u8).collect();
        for segment in [1, 2] {
            private::write_whole(&segment_path(&log, SegmentId(segment)), &whole).expect("a file");
        }
        let rescue = Rescue::new(&directory, 17);
        // Two blocks side by side over the border of a piece, one alone, and the file's last bytes.
        let bad = [PIECE - 1, PIECE + 3, 2 * PIECE + 9_000, whole.len() - 1];
        let is_first = |file: &File| file.metadata().expect("a file").len() == whole.len() as u64;
        let mut left = 1;
        let refuse = |file: &File, bytes: &mut [u8], at: u64| {
            // Of the second segment all is read, once it was tried again.
            let range = at as usize..at as usize + bytes.len();
            if is_first(file) && bad.iter().any(|bad| range.contains(bad)) {
                return Err(Errno::IO.into());
            }
            if left > 0 {
                left -= 1;
                return Err(io::ErrorKind::Interrupted.into());
            }
            file.read_at(bytes, at)
        };
        let all = [1, 2].map(|segment| (SegmentId(segment), whole.len() as u64));
        let unread = rescue.find_unreadable_by(&all[..1], refuse).expect("a file");
        assert!(!scratch.path().join("damaged").exists(), "nothing is changed yet");
        let parts = &unread[&SegmentId(1)];
        assert_eq!(parts.len(), 3, "{parts:?}");
        let stale = |_: &File, _: &mut [u8], _| Err(Errno::STALE.into());
        rescue.find_unreadable_by(&all, stale).expect_err("that may pass");
        rescue.replace(&unread).expect("room for a copy");
        assert!(directory.recovering_path().exists(), "until the log says so");
        let found = fs::read(segment_path(&log, SegmentId(1))).expect("a file");
        let blocks: BTreeSet<usize> = bad.iter().map(|at| at / BLOCK).collect();
        assert_eq!(found.len(), whole.len());
        for (at, (found, whole)) in found.iter().zip(&whole).enumerate() {
            assert_eq!(*found, if blocks.contains(&(at / BLOCK)) { 0 } else { *whole }, "byte {at}");
        }
        let kept = |segment| segment_path(&scratch.path().join("damaged/17"), SegmentId(segment));
        assert_eq!(fs::read(kept(1)).expect("kept"), whole);
        // What was read is not touched; what is damaged is copied once.
        assert!(rescue.find_unreadable(&all).expect("files").is_empty());
        assert!(!kept(2).exists());
        rescue.keep_damaged([1, 2, 3].map(SegmentId).into(), &unread).expect("room for copies");
        assert_eq!(fs::read(kept(1)).expect("kept"), whole, "not the copy with zeros");
        assert_eq!(fs::read(kept(2)).expect("kept"), whole);
        assert_eq!([private::mode_of(&kept(2)), private::mode_of(kept(2).parent().expect("a folder"))], [0o600, 0o700]);
        assert!(!kept(3).exists(), "one that is gone");
    }
}
