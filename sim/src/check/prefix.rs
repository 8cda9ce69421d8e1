//! What is committed stays: the entry at (group, index) is the same on every node that knows it to be committed, for ever (Raft,
//! figure 3: state machine safety), and every later leader has it (leader completeness). Else an acknowledged write can go (P3).

use super::Violation;
use ringseed::base::{Epoch, GroupId, Index, NodeId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Prefix {
    /// Per group, the fingerprints of committed entries from index 1, without holes, and the node that showed each first.
    committed: BTreeMap<GroupId, Vec<Option<(u64, NodeId)>>>,
    /// How far each node was looked at in its present epoch.
    seen: BTreeMap<(NodeId, GroupId), (Epoch, Index)>,
}

impl Prefix {
    /// A replica's commit index, and the fingerprints of its entries. Looks only at what is new since the last call in this epoch
    /// of the node; in a new epoch at everything again.
    ///
    /// # Errors
    /// A committed entry differs from what was committed before, is missing, or the commit index went back within an epoch.
    pub fn observe(
        &mut self,
        node: NodeId,
        epoch: Epoch,
        group: GroupId,
        base: Index,
        commit: Index,
        fingerprint: impl Fn(Index) -> Option<u64>,
    ) -> Result<(), Violation> {
        let seen = match self.seen.get(&(node, group)) {
            Some((looked_at, seen)) if *looked_at == epoch => *seen,
            _ => Index::ZERO,
        };
        if commit < seen {
            return Err(violation(format!(
                "group {group}: node {node} (epoch {epoch}) lowered its commit index from {seen} to {commit}"
            )));
        }
        if commit == seen {
            return Ok(());
        }
        let committed = self.committed.entry(group).or_default();
        let mut index = seen.max(base);
        // What is gone from its log is compared as a state.
        committed.resize(committed.len().max(index.0 as usize), None);
        while index < commit {
            index = index.next();
            let Some(print) = fingerprint(index) else {
                return Err(violation(format!("group {group}: node {node} has commit index {commit} and no entry at {index}")));
            };
            match committed.get_mut(position(index)) {
                Some(Some((other, first))) if *other != print => {
                    return Err(violation(format!(
                        "group {group}: the committed entry at {index} is {other:016x} on node {first} and {print:016x} on node {node}"
                    )));
                }
                Some(known) => _ = known.get_or_insert((print, node)),
                None => committed.push(Some((print, node))),
            }
        }
        self.seen.insert((node, group), (epoch, commit));
        Ok(())
    }

    /// The log of a node that has just become leader.
    ///
    /// # Errors
    /// It lacks, or differs in, an entry that is committed.
    pub fn observe_leader(
        &self,
        node: NodeId,
        group: GroupId,
        base: Index,
        fingerprint: impl Fn(Index) -> Option<u64>,
    ) -> Result<(), Violation> {
        let Some(committed) = self.committed.get(&group) else { return Ok(()) };
        for (at, known) in committed.iter().enumerate().skip(base.0 as usize) {
            let (index, Some((print, first))) = (Index(at as u64 + 1), known) else { continue };
            if fingerprint(index) != Some(*print) {
                return Err(violation(format!(
                    "group {group}: node {node} became leader without the entry at {index} that node {first} knows to be committed"
                )));
            }
        }
        Ok(())
    }

    /// How many entries of the group are known to be committed.
    pub fn committed(&self, group: GroupId) -> Index {
        Index(self.committed.get(&group).map_or(0, |entries| entries.len() as u64))
    }
}

fn position(index: Index) -> usize {
    usize::try_from(index.0 - 1).expect("an index fits the memory")
}

fn violation(what: String) -> Violation {
    Violation { promise: "P3", checker: "prefix", what }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn prints(entries: &'static [u64]) -> impl Fn(Index) -> Option<u64> {
        |index| entries.get(position(index)).copied()
    }

    #[test]
    fn what_is_committed_stays() {
        let mut prefix = Prefix::default();
        prefix.observe(NodeId(1), Epoch(1), GROUP, Index::ZERO, Index(2), prints(&[10, 11, 99])).unwrap();
        prefix.observe(NodeId(2), Epoch(1), GROUP, Index::ZERO, Index(1), prints(&[10, 88])).unwrap();
        prefix.observe(NodeId(1), Epoch(1), GROUP, Index::ZERO, Index(3), prints(&[10, 11, 12])).unwrap();
        prefix.observe(NodeId(1), Epoch(2), GROUP, Index::ZERO, Index(1), prints(&[10, 11])).unwrap();
        prefix.observe(NodeId(2), Epoch(1), GROUP, Index::ZERO, Index(2), prints(&[10, 88])).unwrap_err();
        prefix.observe(NodeId(1), Epoch(3), GROUP, Index::ZERO, Index(3), prints(&[10, 11, 13])).unwrap_err();
        prefix.observe(NodeId(2), Epoch(2), GROUP, Index::ZERO, Index(2), prints(&[10])).unwrap_err();
        prefix.observe(NodeId(1), Epoch(2), GROUP, Index::ZERO, Index(0), prints(&[10])).unwrap_err();
        assert_eq!(prefix.committed(GROUP), Index(3));
    }

    #[test]
    fn leaders_have_what_is_committed() {
        let mut prefix = Prefix::default();
        prefix.observe(NodeId(1), Epoch(1), GROUP, Index::ZERO, Index(2), prints(&[10, 11])).unwrap();
        prefix.observe_leader(NodeId(2), GROUP, Index::ZERO, prints(&[10, 11, 12])).unwrap();
        prefix.observe_leader(NodeId(2), GROUP, Index::ZERO, prints(&[10])).unwrap_err();
        prefix.observe_leader(NodeId(2), GROUP, Index::ZERO, prints(&[10, 12])).unwrap_err();
    }
}
