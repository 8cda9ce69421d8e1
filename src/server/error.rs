//! Why a server does not start: each says what, where, and what would help.

use crate::msg::disk::DiskError;
use core::fmt;
use std::io;
use std::path::PathBuf;

#[derive(Debug)]
pub enum StartError {
    /// The list of peers, the node id, or an address makes no sense.
    Peers(String),
    /// The listen address cannot be taken.
    Listen { address: String, error: io::Error },
    /// The data directory cannot be made, read or written.
    Directory { path: PathBuf, error: io::Error },
    /// Another process has the data directory: the process of this id, if its lock file says.
    Locked { path: PathBuf, process: Option<u32> },
    /// The disk failed during recovery.
    Disk { path: PathBuf, error: DiskError },
    /// The log cannot be recovered: damaged, of a newer format, or of another node.
    Recovery { path: PathBuf, why: String },
    /// The process may not open as many files as a node needs.
    TooFewFiles { limit: u64, needed: u64 },
    /// The operating system gave no thread, no entropy or no event loop.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Peers(why) => write!(f, "{why}"),
            StartError::Listen { address, error } if error.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: another process listens there; choose another port or end that process")
            }
            StartError::Listen { address, error } => write!(f, "cannot listen on {address}: {error}"),
            StartError::Directory { path, error } => write!(f, "cannot use the data directory {}: {error}", path.display()),
            StartError::Locked { path, process } => {
                write!(f, "the data directory {} is in use by another process", path.display())?;
                process.map_or(Ok(()), |process| write!(f, " (id {process})"))
            }
            StartError::Disk { path, error } => write!(
                f,
                "cannot read the log in {}: {error}. Where the disk cannot read, and that stays so, `ringseed server --recover` starts without, and the peers make the node whole",
                path.display()
            ),
            StartError::Recovery { path, why } => write!(f, "cannot recover the log in {}: {why}", path.display()),
            StartError::TooFewFiles { limit, needed } => write!(
                f,
                "the limit of open files is {limit}, too few for a node: raise it to {needed} (`ulimit -n {needed}`, or LimitNOFILE={needed})"
            ),
            StartError::System(error) => write!(f, "the operating system refused a resource: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
