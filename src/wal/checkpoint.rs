//! A checkpoint read back at boot: the manifest that a segment's header names, the groups' roots, and the copies that they are made
//! of.
//!
//! What makes a checkpoint right is the order in which the log is durable: a root stands behind its copies, the manifest behind the
//! roots, and the header that names the manifest is written when all before it is durable. Each is under checksums of its own,
//! since it is read by its place, and not by a walk along the chain. One that is not whole is damage, like any other: to replay
//! the whole log instead would meet the same bad bytes in it.

use super::error::RecoverError;
use super::format::{Copied, Kind, PLACE_SIZE, RECORD_LENGTH_MAX, place_at};
use super::{Recovered, RecoveredGroup};
use crate::base::limits::COUNTER_MAX;
use crate::base::{GroupId, Index, Place, Term};
use crate::msg::codec;
use crate::msg::disk::LogDevice;
use crate::msg::log::{LogBase, Manifest, Root};
use crate::state::State;
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Debug)]
pub struct Checkpoint {
    pub manifest: Manifest,
    pub place: Place,
    /// Where each root is, and what it says.
    pub roots: BTreeMap<GroupId, (Place, Root)>,
}

impl Checkpoint {
    /// The manifest at this place, and its roots.
    pub fn read(device: &mut dyn LogDevice, nonce: u64, place: Place) -> Result<Checkpoint, RecoverError> {
        let bytes = read(device, place)?;
        let manifest = Copied::decode(nonce, Kind::Manifest, place, &bytes)
            .and_then(|copied| codec::decode::<Manifest>(&Bytes::copy_from_slice(copied.head)).ok());
        let Some(manifest) = manifest else { return Err(damaged(place, None, "there is no whole manifest")) };
        let mut roots = BTreeMap::new();
        for rooted in &manifest.groups {
            let Some(place) = rooted.root else { continue };
            let root = read_root(device, nonce, place, rooted.group)?;
            let fits = root.base.index <= root.begin && root.begin <= rooted.commit;
            if !fits || rooted.commit.0.max(rooted.term.0) > COUNTER_MAX {
                return Err(damaged(place, Some(rooted.group), "the root contradicts the manifest"));
            }
            roots.insert(rooted.group, (place, root));
        }
        Ok(Checkpoint { manifest, place, roots })
    }

    /// Gives each group its copy.
    pub fn load(self, device: &mut dyn LogDevice, nonce: u64, recovered: &mut Recovered) -> Result<(), RecoverError> {
        for (id, (place, root)) in self.roots {
            let mut state = State::new();
            for piece in &root.pieces {
                let bytes = read(device, *piece)?;
                let leaf = Copied::decode(nonce, Kind::Leaf, *piece, &bytes);
                let parts = Copied::decode(nonce, Kind::Parts, *piece, &bytes);
                let right = match (leaf, parts) {
                    (Some(leaf), _) if leaf.header.group() == id => state.install_leaf(leaf.head, leaf.body, *piece),
                    (_, Some(parts)) if parts.header.group() == id => state.install_parts(parts.body),
                    _ => false,
                };
                if !right {
                    return Err(damaged(*piece, Some(id), "there is no whole copy of a part of its state"));
                }
            }
            let group: &mut RecoveredGroup = recovered.groups.entry(id).or_default();
            if !state.is_whole(root.begin) || group.state.commit < root.begin {
                return Err(damaged(place, Some(id), "the copy that the root names is not whole, or not of what is committed"));
            }
            group.copy = Some(state);
            group.root = Some(place);
            group.configuration = root.configuration;
        }
        Ok(())
    }
}

fn damaged(place: Place, group: Option<GroupId>, what: &str) -> RecoverError {
    let groups = group.map(|group| [group].into());
    RecoverError::Damaged { segment: place.segment, offset: place.offset, what: what.to_string(), groups }
}

fn read(device: &mut dyn LogDevice, place: Place) -> Result<Vec<u8>, RecoverError> {
    // A longer one is no record: what is read is not all of it, and does not pass.
    Ok(device.read(place.segment, u64::from(place.offset), (place.length as usize).min(RECORD_LENGTH_MAX))?)
}

fn read_root(device: &mut dyn LogDevice, nonce: u64, place: Place, group: GroupId) -> Result<Root, RecoverError> {
    let bytes = read(device, place)?;
    let no_root = || damaged(place, Some(group), "there is no whole root");
    let root = Copied::decode(nonce, Kind::Root, place, &bytes).filter(|root| root.header.group() == group);
    let root = root.ok_or_else(no_root)?;
    let configuration = match root.head {
        [] => None,
        head => Some(Box::new(codec::decode(&Bytes::copy_from_slice(head)).map_err(|_| no_root())?)),
    };
    let header = &root.header;
    let pieces = root.body.chunks_exact(PLACE_SIZE).map(|place| place_at(place, 0)).collect();
    let base = LogBase { index: Index(header.commit), term: Term(header.term) };
    if header.index.max(header.commit).max(header.term) > COUNTER_MAX {
        return Err(no_root());
    }
    Ok(Root { begin: header.index(), base, configuration, pieces })
}
