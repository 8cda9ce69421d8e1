//! What is kept on the disk is the owner's alone: directories 0700, files 0600, whatever the umask; and a directory that is made
//! survives a power loss.
//!
//! Every file and directory of a server is made through here. What an older version, or a hand, left open to others is closed at
//! the start. The mode of what belongs to another user cannot be changed: that is said, and no reason to stop.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Enter, list, change: the owner.
const DIRECTORY_MODE: u32 = 0o700;
/// Read, write: the owner.
const FILE_MODE: u32 = 0o600;
/// What the group and all others may do.
const OTHERS: u32 = 0o077;

/// Options that make a file which is the owner's alone. Whether it is made, and how it is opened, is the caller's to add.
pub fn file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE_MODE);
    options
}

/// Makes the directory, and what is missing above it. Their names are not durable yet: see [`sync_names`].
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
}

/// Makes the name of `path` durable, and that of every directory above it: a name lasts once the directory that holds it is
/// synced. Directories that we may not open hold no name that we made.
pub fn sync_names(path: &Path, mut sync: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for above in std::path::absolute(path)?.ancestors().skip(1) {
        match sync(above) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a file so that a reader sees the old bytes or the new ones, never a part, also after a power loss.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut new = file().write(true).create(true).truncate(true).open(&beside)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    std::fs::rename(&beside, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

/// Takes away what others than the owner may do with the file or directory. Gives whether they could do anything.
pub fn tighten(path: &Path) -> io::Result<bool> {
    let metadata = path.metadata()?;
    let mode = metadata.permissions().mode();
    if mode & OTHERS == 0 {
        return Ok(false);
    }
    let mut permissions = metadata.permissions();
    permissions.set_mode(mode & !OTHERS);
    match std::fs::set_permissions(path, permissions) {
        Ok(()) => Ok(true),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "others may read this, and it cannot be changed; its owner should");
            Ok(false)
        }
    }
}

#[cfg(test)]
pub fn mode_of(path: &Path) -> u32 {
    path.metadata().expect("it is there").permissions().mode() & 0o7777
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scratch::Scratch;

    #[test]
    fn what_is_made_is_the_owners_alone() {
        let scratch = Scratch::new("private");
        let below = scratch.path().join("a/b");
        make_directory(&below).expect("room");
        make_directory(&below).expect("it is there already");
        file().write(true).create(true).truncate(true).open(below.join("file")).expect("room");
        write_whole(&below.join("whole"), b"old").expect("room");
        write_whole(&below.join("whole"), b"new").expect("room");
        assert_eq!(std::fs::read(below.join("whole")).expect("there"), b"new");
        let modes = ["a", "a/b", "a/b/file", "a/b/whole"].map(|name| mode_of(&scratch.path().join(name)));
        assert_eq!(modes, [0o700, 0o700, 0o600, 0o600]);
    }

    #[test]
    fn the_owner_keeps_what_others_lose() {
        let scratch = Scratch::new("tighten");
        let path = scratch.path().join("file");
        std::fs::write(&path, b"x").expect("room");
        for (mode, tightened) in [(0o644, 0o600), (0o477, 0o400), (0o755, 0o700), (0o600, 0o600)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
            assert_eq!(tighten(&path).expect("ours"), mode != tightened);
            assert_eq!(mode_of(&path), tightened);
        }
    }

    #[test]
    fn a_name_lasts_once_every_directory_above_it_is_synced() {
        let mut synced = Vec::new();
        sync_names(Path::new("/var/lib/new/data"), |path| {
            synced.push(path.to_owned());
            match path.to_str() {
                Some("/") => Err(io::ErrorKind::PermissionDenied.into()),
                _ => Ok(()),
            }
        })
        .expect("what may not be opened is none of ours");
        assert_eq!(synced, ["/var/lib/new", "/var/lib", "/var", "/"].map(std::path::PathBuf::from));
        assert!(sync_names(Path::new("relative"), |_| Err(io::ErrorKind::Other.into())).is_err());
        let scratch = Scratch::new("sync-names");
        sync_names(scratch.path(), sync_directory).expect("real directories");
    }
}
