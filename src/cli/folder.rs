//! The user's data folder: where `ringseed up` keeps its cluster, the shell its history, and the client commands find the servers to talk to.
//!
//! It is `$XDG_DATA_HOME/ringseed`, or `~/.local/share/ringseed`.

use super::connection;
use super::exit::Failure;
use crate::base::ClusterId;
use crate::server::private;
use std::env;
use std::path::{Path, PathBuf};

/// The folder, whether it exists or not; `None` when the environment names no home.
pub fn find() -> Option<PathBuf> {
    let absolute = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")))?;
    Some(base.join("ringseed"))
}

/// The addresses that the last `ringseed up` wrote down, if any, and its cluster's id, if that was known.
pub fn remembered() -> Option<(Vec<String>, Option<ClusterId>)> {
    let text = std::fs::read_to_string(find()?.join(SERVERS)).ok()?;
    let servers: Vec<String> = text.lines().filter_map(crate::server::config::parse_address).collect();
    let cluster = text.lines().find_map(|line| connection::parse_cluster(line.strip_prefix(CLUSTER_LINE)?).ok());
    (!servers.is_empty()).then_some((servers, cluster))
}

/// Writes addresses down for the client commands, and whose they are. A home that cannot be written to only costs the convenience.
pub fn remember(addresses: &[String], cluster: Option<ClusterId>) {
    if let Some(folder) = find() {
        let cluster = cluster.map(|cluster| format!("{CLUSTER_LINE}{cluster}\n")).unwrap_or_default();
        let text = format!("{}\n{cluster}", addresses.join("\n"));
        let _ = private::make_directory(&folder);
        let _ = write_whole(&folder.join(SERVERS), &text);
    }
}

/// Writes a file that is the owner's alone, so that a reader sees the old text or the new one, never a part, also after a power loss.
pub fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let written = private::write_whole(path, text.as_bytes());
    written.map_err(|error| Failure::Other(format!("cannot write {}: {error}", path.display())))
}

const SERVERS: &str = "servers";
/// What the line with the cluster's id begins with: no address does.
const CLUSTER_LINE: &str = "cluster ";
