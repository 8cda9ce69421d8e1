//! What a node recovers from a checkpoint, and the log behind it, is what all of the log comes to (P3).

use super::Violation;
use ringseed::base::limits::Limits;
use ringseed::base::{Index, NodeId};
use ringseed::wal::{Recovered, RecoveredGroup};

/// Whether both hold the same entries, as far as both hold any, and the same votes.
pub fn same_log(one: &RecoveredGroup, other: &RecoveredGroup) -> bool {
    let base = one.base.index.max(other.base.index);
    let entries = |group: &RecoveredGroup| -> Vec<_> {
        group
            .entries
            .iter()
            .filter(|entry| entry.index > base)
            .map(|entry| (entry.term, entry.record, entry.fact.clone()))
            .collect()
    };
    (one.state.term, one.state.vote, one.last_index()) == (other.state.term, other.state.vote, other.last_index())
        && entries(one) == entries(other)
}

/// Judges what was recovered from a checkpoint. `whole`: what all of the same log comes to; deletions are remembered for so many
/// entries at least.
///
/// # Errors
/// They differ.
pub fn check(node: NodeId, mut found: Recovered, mut whole: Recovered, deleted_kept: u64) -> Result<(), Violation> {
    let differs = |what: String| {
        Err(Violation { promise: "P3", checker: "checkpoint", what: format!("node {node}, recovered from a checkpoint: {what}") })
    };
    let node_level = |all: &Recovered| (all.directory, all.epoch, all.lossless, all.last_lsn());
    if node_level(&found) != node_level(&whole) || found.formation != whole.formation {
        return differs(format!("{:?}, and all of its log comes to {:?}", node_level(&found), node_level(&whole)));
    }
    for (peer, mark) in &whole.peer_marks {
        if found.peer_marks.get(peer).is_none_or(|found| found < mark) {
            return differs(format!("node {peer} is marked {:?}, and was {mark:?}", found.peer_marks.get(peer)));
        }
    }
    for (id, whole) in &mut whole.groups {
        let Some(found) = found.groups.get_mut(id) else { return differs(format!("group {id} is not there")) };
        if !same_log(found, whole) {
            return differs(format!(
                "group {id} has {:?} and ends at {}; all of its log, {:?} and {}",
                found.state,
                found.last_index(),
                whole.state,
                whole.last_index()
            ));
        }
        if found.state.commit < whole.state.commit {
            return differs(format!(
                "group {id} is committed up to {}, and was up to {}",
                found.state.commit, whole.state.commit
            ));
        }
        // The manifest repeats a commit index that no entry had told.
        whole.state.commit = found.state.commit;
        let leaf_bytes = Limits::DEFAULT.leaf_bytes;
        let [one, other] = [found, whole].map(|group| {
            let mut state = group.fold(leaf_bytes);
            state.set_deleted_kept(deleted_kept);
            state
        });
        one.check();
        if (one.applied(), one.digest()) != (other.applied(), other.digest()) {
            let at: Index = one.applied();
            return differs(format!("the state of group {id} at {at} is another than its entries come to"));
        }
    }
    Ok(())
}
