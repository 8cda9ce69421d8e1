//! Replicas agree: logs that share an entry share all before it (Raft, figure 3: log matching), and at the end of a run, once
//! all have caught up, every replica of a group holds the same items, byte for byte as far as checksums tell (P3, P4).

use super::Violation;
use ringseed::base::{GroupId, Index, Key, NodeId};
use std::collections::BTreeMap;

/// A part of one replica's log, as fingerprints (term included) by index.
#[derive(Debug, Clone, Copy)]
pub struct LogView<'a> {
    pub node: NodeId,
    /// Of the first fingerprint.
    pub from: Index,
    /// `None` where the entry is not held.
    pub fingerprints: &'a [Option<u64>],
}

/// Whether two replicas' logs match, in parts that begin at the same index.
///
/// # Errors
/// They hold the same entry at one index and different ones at a lower.
pub fn logs_match(group: GroupId, one: &LogView<'_>, other: &LogView<'_>) -> Result<(), Violation> {
    assert_eq!(one.from, other.from, "the parts begin at the same index");
    let pairs = (one.from.0..).zip(one.fingerprints.iter().zip(other.fingerprints));
    let mut differ = None;
    for (index, (a, b)) in pairs {
        match (a, b) {
            (Some(a), Some(b)) if a != b => differ = differ.or(Some(index)),
            (Some(_), Some(_)) => {
                if let Some(differ) = differ {
                    let what = format!(
                        "group {group}: the logs of nodes {} and {} are the same at {index} and differ at {differ}",
                        one.node, other.node
                    );
                    return Err(Violation { checker: "log matching", ..violation(what) });
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The items of one replica: key, version and value checksum; no checksum: deleted.
pub type Items = BTreeMap<Key, (u64, Option<u32>)>;

/// Compares the final states of a group's replicas.
#[derive(Debug, Default)]
pub struct Agreement {
    groups: BTreeMap<GroupId, (NodeId, Items)>,
}

impl Agreement {
    /// The final state of one replica. The first of a group is what the others are held against.
    ///
    /// # Errors
    /// It differs from another replica of the group.
    pub fn observe(&mut self, node: NodeId, group: GroupId, items: Items) -> Result<(), Violation> {
        let Some((first, expected)) = self.groups.get(&group) else {
            self.groups.insert(group, (node, items));
            return Ok(());
        };
        if *expected == items {
            return Ok(());
        }
        let differing = expected.keys().chain(items.keys()).find(|key| expected.get(*key) != items.get(*key));
        let key = differing.expect("maps that differ differ in a key");
        Err(violation(format!(
            "group {group}: {} is {} on node {first} and {} on node {node}",
            key,
            show(expected.get(key)),
            show(items.get(key)),
        )))
    }

    /// The agreed items of all groups.
    pub fn items(&self) -> impl Iterator<Item = (GroupId, &Items)> {
        self.groups.iter().map(|(group, (_, items))| (*group, items))
    }
}

fn show(item: Option<&(u64, Option<u32>)>) -> String {
    match item {
        None => "never written".into(),
        Some((version, None)) => format!("deleted, v{version}"),
        Some((version, Some(checksum))) => format!("v{version} with checksum {checksum:08x}"),
    }
}

fn violation(what: String) -> Violation {
    Violation { promise: "P3", checker: "agreement", what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_that_share_an_entry_share_all_before() {
        let view = |node, fingerprints| LogView { node: NodeId(node), from: Index(7), fingerprints };
        let one = [Some(1), Some(2), Some(3)];
        logs_match(GroupId(1), &view(1, &one), &view(2, &[Some(1), Some(2)])).unwrap();
        logs_match(GroupId(1), &view(1, &one), &view(2, &[Some(1), Some(8), Some(9)])).unwrap();
        logs_match(GroupId(1), &view(1, &one), &view(2, &[Some(1), None, Some(3)])).unwrap();
        logs_match(GroupId(1), &view(1, &one), &view(2, &[Some(1), Some(8), Some(3)])).unwrap_err();
    }

    #[test]
    fn replicas_hold_the_same() {
        let items = |version, checksum| Items::from([(Key::from("k"), (version, checksum))]);
        let mut agreement = Agreement::default();
        agreement.observe(NodeId(1), GroupId(1), items(3, Some(7))).unwrap();
        agreement.observe(NodeId(2), GroupId(1), items(3, Some(7))).unwrap();
        agreement.observe(NodeId(1), GroupId(2), Items::new()).unwrap();
        for other in [items(4, Some(7)), items(3, Some(8)), items(3, None), Items::new()] {
            agreement.observe(NodeId(3), GroupId(1), other).unwrap_err();
        }
        agreement.observe(NodeId(3), GroupId(2), items(1, None)).unwrap_err();
    }
}
