//! Where the members of the cluster are *now*: an address is not part of a node, and a node may come back elsewhere.
//!
//! The cluster noted every member's address when it formed, and the operator may have given others. Newer than both is what a
//! node says of itself in its present epoch. It says so on every link that it makes. A node that hears it dials it there, tells
//! its own peers, and writes it down in the data directory (`addresses.json`). So nodes which are all restarted still find each
//! other. Of two addresses of a node, the one said in the newer epoch counts. Nodes that move at once meet as long as one of them
//! dials an address that is still right.
//!
//! An address is only a hint where to dial: the handshake checks which node answers there. So all that was ever known of a node
//! may be tried in turn. News is taken only from a node whose data directory the cluster has bound to its id.
//!
//! Clients are told the present addresses with every report of the ring.

use super::config::{is_unspecified, parse_address};
use super::private;
use crate::base::limits::NODES_MAX;
use crate::base::{Epoch, NodeId};
use crate::msg::client::RingReport;
use crate::msg::peer::NodeAddress;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The file's name in the data directory.
const FILE: &str = "addresses.json";
/// Bytes of an address. A longer one is no news.
const ADDRESS_SIZE_MAX: usize = 300;

/// What is known, this node's own address included.
#[derive(Debug)]
pub struct Addresses {
    path: PathBuf,
    me: NodeId,
    known: Mutex<BTreeMap<NodeId, NodeAddress>>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

impl Addresses {
    /// What was written down in the data directory, and the present epoch's own. A file that cannot be read only costs what is in
    /// it.
    pub fn open(directory: &Path, own: NodeAddress) -> Addresses {
        let path = directory.join(FILE);
        let known = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %path.display(), %error, "the members' present addresses cannot be read; they are learnt again");
            }
            Vec::new()
        });
        let addresses = Addresses { path, me: own.node, known: Mutex::default(), writing: Mutex::default() };
        addresses.learn(known);
        addresses.lock().insert(own.node, own);
        addresses
    }

    /// Takes in what is newer than what is known, and gives it. What a peer says of this node itself is not: this node knows
    /// better.
    pub fn learn(&self, news: Vec<NodeAddress>) -> Vec<NodeAddress> {
        let mut known = self.lock();
        let mut newer = Vec::new();
        for one in news {
            let sound =
                one.address.len() <= ADDRESS_SIZE_MAX && parse_address(&one.address).is_some() && !is_unspecified(&one.address);
            let stale = known.get(&one.node).is_some_and(|now| now.epoch >= one.epoch);
            let room = known.contains_key(&one.node) || known.len() < NODES_MAX;
            if sound && !stale && room && one.node != self.me {
                known.insert(one.node, one.clone());
                newer.push(one);
            }
        }
        newer
    }

    pub fn of(&self, node: NodeId) -> Option<String> {
        self.lock().get(&node).map(|known| known.address.clone())
    }

    pub fn all(&self) -> Vec<NodeAddress> {
        self.lock().values().cloned().collect()
    }

    /// Puts the present addresses in place of those that the cluster formed with.
    pub fn correct(&self, report: &mut RingReport) {
        for member in &mut report.formation.members {
            if let Some(address) = self.of(member.node) {
                member.address = address;
            }
        }
    }

    /// Writes everything down. The newest is what stays, however many do so at once.
    pub fn save(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let text = serde_json::to_string_pretty(&self.all()).expect("plain data");
        if let Err(error) = private::write_whole(&self.path, format!("{text}\n").as_bytes()) {
            tracing::warn!(file = %self.path.display(), %error, "the members' present addresses cannot be written down");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, NodeAddress>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<Vec<NodeAddress>> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// The address of `node` in this epoch.
pub fn said(node: NodeId, epoch: Epoch, address: &str) -> NodeAddress {
    NodeAddress { node, epoch, address: address.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scratch::Scratch;

    const N1: NodeId = NodeId(1);
    const N2: NodeId = NodeId(2);

    #[test]
    fn the_newest_epoch_counts_and_is_remembered() {
        let scratch = Scratch::new("addresses");
        let open = |epoch| Addresses::open(scratch.path(), said(N1, Epoch(epoch), "a:1"));
        let addresses = open(5);
        assert_eq!(addresses.learn(vec![said(N2, Epoch(7), "b:1")]).len(), 1);
        for old in [said(N2, Epoch(6), "old:1"), said(N2, Epoch(7), "twice:1"), said(N1, Epoch(99), "not-me:1")] {
            assert_eq!(addresses.learn(vec![old]), []);
        }
        let news =
            vec![said(N2, Epoch(8), "c:1"), said(NodeId(3), Epoch(1), "0.0.0.0:1"), said(NodeId(4), Epoch(1), "no address")];
        assert_eq!(addresses.learn(news), [said(N2, Epoch(8), "c:1")]);
        addresses.save();
        assert_eq!(private::mode_of(&scratch.path().join(FILE)), 0o600);
        let again = open(6);
        assert_eq!(again.all(), [said(N1, Epoch(6), "a:1"), said(N2, Epoch(8), "c:1")]);
        std::fs::write(scratch.path().join(FILE), b"{").expect("ours");
        assert_eq!(open(7).all(), [said(N1, Epoch(7), "a:1")]);
    }

    #[test]
    fn what_a_peer_says_is_bounded() {
        let scratch = Scratch::new("addresses-bounded");
        let addresses = Addresses::open(scratch.path(), said(N1, Epoch(1), "a:1"));
        let many = (2..2_000).map(|node| said(NodeId(node), Epoch(1), "b:1")).collect();
        assert_eq!(addresses.learn(many).len(), NODES_MAX - 1);
        assert_eq!(addresses.learn(vec![said(N2, Epoch(2), &format!("{}:1", "a".repeat(400)))]), []);
    }
}
