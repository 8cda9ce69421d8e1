//! A checkpoint read back at boot: the newest manifest, the groups' roots, and the copies that they are made of.
//!
//! What makes a checkpoint right is the order in which the log is durable: a root stands behind its copies, the manifest behind the
//! roots. It is found in a whole batch of the last segment, or named by that segment's header, which was written when all before it
//! was durable. Each is under checksums of its own,
//! since it is read by its place, and not by a walk along the chain. One that is not whole is damage, like any other: to replay
//! the whole log instead would meet the same bad bytes in it.

use super::error::RecoverError;
use super::format::{Copied, Kind, PLACE_SIZE, RECORD_LENGTH_MAX, place_at};
use super::{Recovered, RecoveredGroup};
use crate::base::limits::COUNTER_MAX;
use crate::base::{GroupId, Index, Place, Sometimes, Term};
use crate::msg::codec;
use crate::msg::disk::LogDevice;
use crate::msg::log::{LogBase, Manifest, Root, Rooted};
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
    /// The roots that the manifest at this place names.
    pub fn read(device: &mut dyn LogDevice, nonce: u64, place: Place, manifest: Manifest) -> Result<Checkpoint, RecoverError> {
        let mut roots = BTreeMap::new();
        for rooted in &manifest.groups {
            let Some(place) = rooted.root else { continue };
            roots.insert(rooted.group, (place, read_root(device, nonce, place, rooted)?));
        }
        Ok(Checkpoint { manifest, place, roots })
    }

    /// Gives each group its copy.
    pub fn load(self, device: &mut dyn LogDevice, nonce: u64, recovered: &mut Recovered) -> Result<(), RecoverError> {
        for (id, (place, root)) in self.roots {
            let group: &mut RecoveredGroup = recovered.groups.entry(id).or_default();
            if group.pieces_from.is_some() || group.is_blank {
                // Behind the manifest another state has taken its place.
                Sometimes::CopyOutdatedBySnapshot.reached();
                continue;
            }
            let state = read_copy(device, nonce, id, place, &root)?;
            if group.state.commit < root.begin {
                return Err(damaged(place, Some(id), "the copy that the root names is not of what is committed"));
            }
            group.copy = Some(state);
            group.root = Some((place, root.segments()));
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
    let read = device.read(place.segment, u64::from(place.offset), (place.length as usize).min(RECORD_LENGTH_MAX));
    match read {
        Ok(bytes) => Ok(bytes),
        Err(_) if device.list()?.iter().all(|(id, _)| *id != place.segment) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// The manifest at this place.
pub fn read_manifest(device: &mut dyn LogDevice, nonce: u64, place: Place) -> Result<Manifest, RecoverError> {
    let bytes = read(device, place)?;
    let manifest = Copied::decode(nonce, Kind::Manifest, place, &bytes).and_then(|copied| manifest_of(&copied));
    manifest.ok_or_else(|| damaged(place, None, "there is no whole manifest"))
}

/// The root at this place, of the group that the manifest names it for.
pub fn read_root(device: &mut dyn LogDevice, nonce: u64, place: Place, rooted: &Rooted) -> Result<Root, RecoverError> {
    let bytes = read(device, place)?;
    let copied = Copied::decode(nonce, Kind::Root, place, &bytes).filter(|root| root.header.group() == rooted.group);
    let root = copied.and_then(|copied| root_of(&copied));
    let root = root.ok_or_else(|| damaged(place, Some(rooted.group), "there is no whole root"))?;
    let fits = root.base.index <= root.begin && root.begin <= rooted.commit;
    if !fits || rooted.commit.0.max(rooted.term.0) > COUNTER_MAX {
        return Err(damaged(place, Some(rooted.group), "the root contradicts the manifest"));
    }
    Ok(root)
}

/// The state of a group, from the copies that its root names.
pub fn read_copy(device: &mut dyn LogDevice, nonce: u64, id: GroupId, place: Place, root: &Root) -> Result<State, RecoverError> {
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
    if !state.is_whole(root.begin) {
        return Err(damaged(place, Some(id), "the copy that the root names is not whole"));
    }
    Ok(state)
}

/// What a record that is a manifest says.
pub fn manifest_of(copied: &Copied<'_>) -> Option<Manifest> {
    codec::decode(&Bytes::copy_from_slice(copied.head)).ok()
}

/// What a record that is a root says.
pub fn root_of(copied: &Copied<'_>) -> Option<Root> {
    let configuration = match copied.head {
        [] => None,
        head => Some(Box::new(codec::decode(&Bytes::copy_from_slice(head)).ok()?)),
    };
    let header = &copied.header;
    let pieces = copied.body.chunks_exact(PLACE_SIZE).map(|place| place_at(place, 0)).collect();
    let base = LogBase { index: Index(header.commit), term: Term(header.term) };
    let right = header.index.max(header.commit).max(header.term) <= COUNTER_MAX;
    right.then(|| Root { begin: header.index(), base, configuration, pieces })
}
