//! Whether the machine has been up since the last epoch of the node in a data directory began.
//!
//! What a process has written outlives it in the page cache, synced or not; only the end of the machine loses it. So a file in
//! the directory, `BOOT`, says on which boot of the machine nodes have run there, and since which epoch. The file is never
//! synced: it means something only while the page cache lives.
//!
//! 1. *The epoch that wrote nothing* (seed 13901). The note first said nothing of epochs. A machine lost power; the next epoch
//!    began lossy, noted the new boot, and was killed before its first batch was written. The third epoch found the note current,
//!    and in the log the last batch of the *first* epoch, which had begun whole. It took itself for whole, and voted without what
//!    the first had acknowledged and lost. So the note says where it begins, and holds only if the log ends in an epoch that is
//!    not before.
//!
//! The note is written before the node acknowledges anything. The first write or sync that fails takes it away, in the thread
//! that sees the failure: after that the page cache may show what the medium never got, and forget it later. A copy of the
//! directory says nothing: the note names the directory that it is for.
//!
//! What this cannot notice: a file system that was torn away and mounted again with the machine running, and no sync failing in
//! between; a process that is killed in the instant between a failed sync and the end of the note.

use crate::base::Epoch;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::private;

/// Of the kernel: another at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Clone)]
pub struct BootNote {
    path: PathBuf,
    /// This boot, and this directory; `None` where the system does not tell its boots apart.
    place: Option<String>,
}

impl BootNote {
    /// For a data directory, which exists.
    pub fn of(directory: &Path) -> BootNote {
        let place = || -> io::Result<String> {
            let (boot, at) = (fs::read_to_string(BOOT_ID)?, fs::metadata(directory)?);
            Ok(format!("{} {}:{} ", boot.trim(), at.dev(), at.ino()))
        };
        BootNote { path: directory.join("BOOT"), place: place().ok() }
    }

    /// The epoch since which no write or sync of a node has failed here, all on this boot of the machine.
    pub fn since(&self) -> Option<Epoch> {
        let text = fs::read_to_string(&self.path).ok()?;
        text.strip_prefix(self.place.as_ref()?)?.trim_end().parse().ok().map(Epoch)
    }

    /// From this epoch on, what is written will be read.
    pub fn write(&self, since: Epoch) -> io::Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        let mut file = private::file().write(true).create(true).truncate(true).open(&self.path)?;
        io::Write::write_all(&mut file, format!("{place}{}\n", since.0).as_bytes())
    }

    /// What is written is not what will be read, from now on.
    pub fn withdraw(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(file = %self.path.display(), %error, "the note of the machine's boot could not be taken away");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scratch::Scratch;

    #[test]
    fn a_note_holds_for_one_boot_of_the_machine_and_one_directory() {
        let scratch = Scratch::new("boot");
        let note = BootNote::of(scratch.path());
        assert_eq!(note.since(), None, "nothing ran here");
        note.write(Epoch(7)).expect("a file");
        assert_eq!(BootNote::of(scratch.path()).since(), Some(Epoch(7)));
        let copy = Scratch::new("boot-copy");
        fs::copy(scratch.path().join("BOOT"), copy.path().join("BOOT")).expect("a file");
        assert_eq!(BootNote::of(copy.path()).since(), None, "a copy is another directory");
        let text = fs::read_to_string(scratch.path().join("BOOT")).expect("a file");
        fs::write(scratch.path().join("BOOT"), text.replacen(|digit: char| digit.is_ascii_hexdigit(), "x", 1)).expect("a file");
        assert_eq!(note.since(), None, "another boot");
        note.write(Epoch(8)).expect("a file");
        note.withdraw();
        note.withdraw();
        assert_eq!(note.since(), None);
    }
}
