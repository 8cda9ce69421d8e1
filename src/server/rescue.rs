//! `ringseed server --recover`: a start from files that the disk cannot read to the end.
//!
//! A plain start goes past what is damaged, and stops where the disk fails to read: an error may be of the moment, and what cannot
//! be read now may be whole. With `--recover` the operator says that it will not be: each block that cannot be read is taken for
//! damaged, and reads as zeros. Nothing is deleted. The file stays under `DIR/damaged`, and a copy takes its place; of every
//! other file that is found damaged a copy is kept there, before the log writes over it.

use super::directory::{DataDirectory, segment_path};
use super::error::StartError;
use super::private::{self, sync_directory};
use crate::base::SegmentId;
use std::collections::BTreeSet;
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
    set_aside: BTreeSet<SegmentId>,
}

impl Rescue {
    /// `now_ms` names the folder.
    pub fn new(directory: &DataDirectory, now_ms: u64) -> Rescue {
        let kept = directory.path().join("damaged").join(now_ms.to_string());
        Rescue { log: directory.log_path(), kept, set_aside: BTreeSet::new() }
    }

    /// In place of each of these files of the log that cannot be read to the end there is one that can, with zeros.
    pub fn make_readable(&mut self, segments: &[SegmentId]) -> Result<(), StartError> {
        self.make_readable_by(segments, |file, bytes, at| file.read_at(bytes, at))
    }

    fn make_readable_by(
        &mut self,
        segments: &[SegmentId],
        mut read: impl FnMut(&File, &mut [u8], u64) -> io::Result<usize>,
    ) -> Result<(), StartError> {
        for &segment in segments {
            let path = segment_path(&self.log, segment);
            let failed = |path: &Path| {
                let path = path.to_owned();
                move |error| StartError::Directory { path, error }
            };
            let file = File::open(&path).map_err(failed(&path))?;
            let beside = path.with_extension("new");
            let unread = Unread::of(&file, &mut read).map_err(failed(&path))?;
            let Some(first) = unread.parts.first() else { continue };
            unread.copy(&file, &beside, &mut read).map_err(failed(&beside))?;
            // At no instant there is neither.
            self.keep(segment, |path, kept| fs::hard_link(path, kept))?;
            fs::rename(&beside, &path).and_then(|()| sync_directory(&self.log)).map_err(failed(&path))?;
            let bytes: u64 = unread.parts.iter().map(|part| part.end - part.start).sum();
            tracing::warn!(
                kept = %self.kept.display(),
                "{bytes} bytes of segment {segment} cannot be read, the first at byte {}: {}; they are taken for damaged, and the file is kept",
                first.start,
                unread.why
            );
        }
        Ok(())
    }

    /// Keeps copies of these segments as they are now.
    pub fn keep_damaged(&mut self, segments: BTreeSet<SegmentId>) -> Result<(), StartError> {
        for segment in segments {
            if !self.set_aside.contains(&segment) && segment_path(&self.log, segment).exists() {
                self.keep(segment, |path, kept| fs::copy(path, kept).map(drop))?;
                tracing::warn!(kept = %self.kept.display(), "segment {segment} is damaged; a copy of it is kept");
            }
        }
        Ok(())
    }

    fn keep(&mut self, segment: SegmentId, keep: impl FnOnce(&Path, &Path) -> io::Result<()>) -> Result<(), StartError> {
        let kept = segment_path(&self.kept, segment);
        let all = || {
            private::make_directory(&self.kept)?;
            keep(&segment_path(&self.log, segment), &kept)?;
            File::open(&kept)?.sync_all()?;
            sync_directory(&self.kept)?;
            private::sync_names(&self.kept, sync_directory)
        };
        all().map_err(|error| StartError::Directory { path: kept.clone(), error })?;
        self.set_aside.insert(segment);
        Ok(())
    }
}

/// What cannot be read of a file.
struct Unread {
    /// In ascending order; adjoining ones are one.
    parts: Vec<Range<u64>>,
    why: String,
}

impl Unread {
    fn of(file: &File, read: &mut impl FnMut(&File, &mut [u8], u64) -> io::Result<usize>) -> io::Result<Unread> {
        let size = file.metadata()?.len();
        let (mut unread, mut bytes) = (Unread { parts: Vec::new(), why: String::new() }, vec![0; PIECE]);
        for at in (0..size).step_by(PIECE) {
            let piece = at..size.min(at + PIECE as u64);
            let mut read_part =
                |part: &Range<u64>| read_all(file, &mut bytes[..(part.end - part.start) as usize], part.start, read);
            if read_part(&piece).is_ok() {
                continue;
            }
            for at in piece.clone().step_by(BLOCK) {
                let block = at..piece.end.min(at + BLOCK as u64);
                if let Err(error) = read_part(&block) {
                    unread.why = error.to_string();
                    match unread.parts.last_mut().filter(|last| last.end == block.start) {
                        Some(last) => last.end = block.end,
                        None => unread.parts.push(block),
                    }
                }
            }
        }
        Ok(unread)
    }

    /// Copies the rest, and zeros for what cannot be read.
    fn copy(&self, file: &File, to: &Path, read: &mut impl FnMut(&File, &mut [u8], u64) -> io::Result<usize>) -> io::Result<()> {
        let size = file.metadata()?.len();
        let mut copy = private::file().write(true).create(true).truncate(true).open(to)?;
        let mut at = 0;
        let mut bytes = vec![0; PIECE];
        while at < size {
            // Up to the next part that cannot be read; or that part.
            let unread = self.parts.iter().find(|part| part.end > at);
            let is_unread = unread.is_some_and(|part| part.start <= at);
            let until = unread.map_or(size, |part| if is_unread { part.end } else { part.start });
            let bytes = &mut bytes[..(until - at).min(PIECE as u64) as usize];
            if is_unread {
                bytes.fill(0);
            } else {
                read_all(file, bytes, at, read)?;
            }
            copy.write_all(bytes)?;
            at += bytes.len() as u64;
        }
        copy.sync_all()
    }
}

fn read_all(
    file: &File,
    bytes: &mut [u8],
    offset: u64,
    read: &mut impl FnMut(&File, &mut [u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let filled = super::directory::read_up_to(bytes, offset, |bytes, at| read(file, bytes, at))?;
    if filled < bytes.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
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
        let mut rescue = Rescue::new(&directory, 17);
        // Two blocks side by side over the border of a piece, one alone, and the file's last bytes.
        let bad = [PIECE - 1, PIECE + 3, 2 * PIECE + 9_000, whole.len() - 1];
        let is_first = |file: &File| file.metadata().expect("a file").len() == whole.len() as u64;
        let mut left = 1;
        let refuse = |file: &File, bytes: &mut [u8], at: u64| {
            // Of the second segment all is read, once it was tried again.
            let range = at as usize..at as usize + bytes.len();
            if is_first(file) && bad.iter().any(|bad| range.contains(bad)) {
                return Err(io::Error::other("the sector is gone"));
            }
            if left > 0 {
                left -= 1;
                return Err(io::ErrorKind::Interrupted.into());
            }
            file.read_at(bytes, at)
        };
        rescue.make_readable_by(&[SegmentId(1)], refuse).expect("room for a copy");
        let found = fs::read(segment_path(&log, SegmentId(1))).expect("a file");
        let blocks: BTreeSet<usize> = bad.iter().map(|at| at / BLOCK).collect();
        assert_eq!(found.len(), whole.len());
        for (at, (found, whole)) in found.iter().zip(&whole).enumerate() {
            assert_eq!(*found, if blocks.contains(&(at / BLOCK)) { 0 } else { *whole }, "byte {at}");
        }
        let kept = |segment| segment_path(&scratch.path().join("damaged/17"), SegmentId(segment));
        assert_eq!(fs::read(kept(1)).expect("kept"), whole);
        // What was read is not touched; what is damaged is copied once.
        rescue.make_readable(&[SegmentId(1), SegmentId(2)]).expect("readable");
        assert!(!kept(2).exists());
        rescue.keep_damaged([1, 2, 3].map(SegmentId).into()).expect("room for copies");
        assert_eq!(fs::read(kept(1)).expect("kept"), whole, "not the copy with zeros");
        assert_eq!(fs::read(kept(2)).expect("kept"), whole);
        assert_eq!([private::mode_of(&kept(2)), private::mode_of(kept(2).parent().expect("a folder"))], [0o600, 0o700]);
        assert!(!kept(3).exists(), "one that is gone");
    }
}
