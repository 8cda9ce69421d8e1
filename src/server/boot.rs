//! Whether the machine has been up since the last life of the node in a data directory began.
//!
//! What a process has written outlives it in the page cache, synced or not; only the end of the machine loses it. So a file in the directory, `BOOT`, says
//! on which boot of the machine a node last ran there. It is never synced: it means something only while the page cache lives.
//!
//! It is written before the node acknowledges anything, and taken away at the first write or sync that fails, by the thread that sees it fail: after that the page cache may
//! show what the medium never got, and forget it later. A copy of the directory says nothing: the note names the directory that it is for.
//!
//! What this cannot notice: a file system that was torn away and mounted again with the machine running, and no sync failing in between; a process that is killed in the
//! instant between a failed sync and the end of the note.

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
    /// What it says while this boot lasts; `None` where the system does not tell its boots apart.
    text: Option<String>,
}

impl BootNote {
    /// For a data directory, which exists.
    pub fn of(directory: &Path) -> BootNote {
        let text = || -> io::Result<String> {
            let (boot, at) = (fs::read_to_string(BOOT_ID)?, fs::metadata(directory)?);
            Ok(format!("{} {}:{}\n", boot.trim(), at.dev(), at.ino()))
        };
        BootNote { path: directory.join("BOOT"), text: text().ok() }
    }

    /// Whether a node has run here on this boot of the machine, and no write or sync of it failed.
    pub fn is_current(&self) -> bool {
        self.text.is_some() && fs::read_to_string(&self.path).ok() == self.text
    }

    pub fn write(&self) -> io::Result<()> {
        let Some(text) = self.text.as_ref().filter(|_| !self.is_current()) else { return Ok(()) };
        let mut file = private::file().write(true).create(true).truncate(true).open(&self.path)?;
        io::Write::write_all(&mut file, text.as_bytes())
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
        assert!(!note.is_current(), "nothing ran here");
        note.write().expect("a file");
        assert!(BootNote::of(scratch.path()).is_current());
        let copy = Scratch::new("boot-copy");
        fs::copy(scratch.path().join("BOOT"), copy.path().join("BOOT")).expect("a file");
        assert!(!BootNote::of(copy.path()).is_current(), "a copy is another directory");
        let text = fs::read_to_string(scratch.path().join("BOOT")).expect("a file");
        fs::write(scratch.path().join("BOOT"), text.replacen(|digit: char| digit.is_ascii_hexdigit(), "x", 1)).expect("a file");
        assert!(!note.is_current(), "another boot");
        note.write().expect("a file");
        note.withdraw();
        note.withdraw();
        assert!(!note.is_current());
    }
}
