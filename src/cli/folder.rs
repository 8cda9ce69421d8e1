//! The user's data folder: where `ringseed up` keeps its cluster, the shell its history, and the client commands find the servers
//! to talk to.
//!
//! It is `$XDG_DATA_HOME/ringseed`, or `~/.local/share/ringseed`.

use super::exit::Failure;
use crate::base::ClusterId;
use crate::server::private;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::env;
use std::path::{Path, PathBuf};

/// The folder, whether it exists or not; `None` when the environment names no home.
pub fn find() -> Option<PathBuf> {
    let absolute = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")))?;
    Some(base.join("ringseed"))
}

/// A cluster that `ringseed up` has started on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Started {
    directory: PathBuf,
    addresses: Vec<String>,
    /// As it is printed; `None` until it has formed.
    cluster: Option<String>,
}

impl Started {
    /// Whether its `up` still runs: a node's lock file says which process that is.
    fn is_running(&self) -> bool {
        let process = std::fs::read_to_string(self.directory.join("node-1/LOCK")).unwrap_or_default();
        process.trim().parse::<u32>().is_ok_and(|process| Path::new("/proc").join(process.to_string()).exists())
    }
}

/// All that were started and are still there, the last one last.
fn started() -> Vec<Started> {
    let text = find().and_then(|folder| std::fs::read_to_string(folder.join(CLUSTERS)).ok()).unwrap_or_default();
    let mut all: Vec<Started> = serde_json::from_str(&text).unwrap_or_default();
    all.retain(|one| one.directory.exists());
    all
}

/// The addresses of the cluster that `ringseed up` started last, and its id, if that is known: of those that run, or else of all.
pub fn remembered() -> Option<(Vec<String>, Option<ClusterId>)> {
    let mut all = started();
    let last = all.len().checked_sub(1)?;
    let one = all.swap_remove(all.iter().rposition(Started::is_running).unwrap_or(last));
    let servers: Vec<String> = one.addresses.iter().filter_map(|address| crate::server::config::parse_address(address)).collect();
    let cluster = one.cluster.and_then(|cluster| parse_cluster(&cluster).ok());
    (!servers.is_empty()).then_some((servers, cluster))
}

/// A cluster's id as it is printed: 32 hexadecimal digits.
pub fn parse_cluster(text: &str) -> Result<ClusterId, String> {
    let digits = Some(text.trim()).filter(|text| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()));
    let id = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
    id.map(ClusterId).ok_or_else(|| "expected a cluster's id, 32 hexadecimal digits as `ringseed status` prints it".into())
}

/// The addresses that belong to clusters in other directories, whether they run or not.
pub fn taken(directory: &Path) -> Vec<String> {
    started().into_iter().filter(|one| one.directory != directory).flat_map(|one| one.addresses).collect()
}

/// Writes down what was started, for the client commands. A home that cannot be written to only costs the convenience.
pub fn remember(directory: &Path, addresses: &[String], cluster: Option<ClusterId>) {
    let Some(folder) = find() else { return };
    let _ = private::make_directory(&folder);
    // Two of them may be starting.
    let lock = private::file().write(true).create(true).truncate(false).open(folder.join("LOCK"));
    let _ = lock.as_ref().map(|lock| flock(lock, FlockOperation::LockExclusive));
    let mut all = started();
    all.retain(|one| one.directory != directory);
    all.push(Started {
        directory: directory.to_owned(),
        addresses: addresses.to_vec(),
        cluster: cluster.map(|cluster| cluster.to_string()),
    });
    let text = serde_json::to_string_pretty(&all[all.len().saturating_sub(STARTED_MAX)..]).expect("plain data");
    let _ = write_whole(&folder.join(CLUSTERS), &format!("{text}\n"));
}

/// Writes a file that is the owner's alone, so that a reader sees the old text or the new one, never a part, also after a power
/// loss.
pub fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let written = private::write_whole(path, text.as_bytes());
    written.map_err(|error| Failure::Other(format!("cannot write {}: {error}", path.display())))
}

const CLUSTERS: &str = "clusters.json";
/// As many are remembered.
const STARTED_MAX: usize = 100;
