//! What a node's log holds after a restart: at least every committed entry that was durable there (P3), and no value whose bytes
//! fail their checksum (P4).
//!
//! Both are judged at once, node by node, by an observer that remembers and that reads the medium itself. What one node forgets
//! or wrongly believes its peers mostly make good, so that clients rarely see it.

use super::Violation;
use ringseed::base::hash::value_checksum;
use ringseed::base::{GroupId, Index, Lsn, NodeId, SegmentId};
use ringseed::msg::disk::LogDevice;
use ringseed::msg::log::{FactSummary, ValuePlace};
use ringseed::wal::{Recovered, RecoveredGroup};
use std::collections::BTreeMap;
use std::ops::Bound;

#[derive(Debug, Default)]
pub struct Recovery {
    /// The last entry that was committed, and durable on this node.
    held: BTreeMap<(NodeId, GroupId), Index>,
    /// The last record that the node has told its peers to be durable.
    durable: BTreeMap<NodeId, Lsn>,
    /// The segment that the node's last replay began with.
    starts: BTreeMap<NodeId, SegmentId>,
}

impl Recovery {
    /// The node has said that its own copy is durable, and knows it to be committed, up to `index`. Committed entries are never
    /// replaced.
    pub fn observe(&mut self, node: NodeId, group: GroupId, index: Index) {
        let held = self.held.entry((node, group)).or_default();
        *held = (*held).max(index);
    }

    /// The node has told a peer that its log is durable up to `lsn`.
    pub fn said(&mut self, node: NodeId, lsn: Lsn) {
        let durable = self.durable.entry(node).or_default();
        *durable = (*durable).max(lsn);
    }

    /// The node says that it has forgotten something of these groups, and begins with less.
    pub fn forget_amnesiac(&mut self, node: NodeId, recovered: &Recovered) {
        self.lower(node, recovered, |found| found.map_or(recovered.amnesiac, |found| found.amnesiac));
    }

    /// The node may have lost something, and begins from what recovery found.
    pub fn forget(&mut self, node: NodeId, recovered: &Recovered) {
        self.lower(node, recovered, |_| true);
        self.durable.insert(node, recovered.last_lsn());
        self.starts.insert(node, recovered.start);
    }

    /// Of such groups the node holds no more than was found.
    fn lower(&mut self, node: NodeId, recovered: &Recovered, such: impl Fn(Option<&RecoveredGroup>) -> bool) {
        for (&(_, group), held) in self.held.range_mut((node, GroupId(0))..=(node, GroupId(u32::MAX))) {
            let found = recovered.groups.get(&group);
            if such(found) {
                *held = (*held).min(found.map_or(Index::ZERO, RecoveredGroup::last_index));
            }
        }
    }

    /// Judges where a replay began, on a disk that keeps what was synced.
    ///
    /// # Errors
    /// Earlier than the last time: a checkpoint is forgotten.
    pub fn begins_no_earlier(&mut self, node: NodeId, recovered: &Recovered) -> Result<(), Violation> {
        let last = self.starts.insert(node, recovered.start).unwrap_or_default();
        if recovered.start >= last {
            return Ok(());
        }
        let what =
            format!("node {node} replays its log from segment {} on, and did from {last} at its last start", recovered.start);
        Err(Violation { promise: "P5", checker: "recovery", what })
    }

    /// Judges what recovery found on a disk that keeps what was synced.
    ///
    /// # Errors
    /// Entries are missing that the node held.
    pub fn holds(&self, node: NodeId, recovered: &Recovered) -> Result<(), Violation> {
        let (said, last) = (self.durable.get(&node).copied().unwrap_or_default(), recovered.last_lsn());
        if last < said {
            let what = format!("node {node} recovers its log up to position {last}, and said that it was durable up to {said}");
            return Err(Violation { promise: "P3", checker: "recovery", what });
        }
        for (&(_, group), &held) in self.held.range((node, GroupId(0))..=(node, GroupId(u32::MAX))) {
            let last = recovered.groups.get(&group).map_or(0, |group| group.last_index().0);
            if last < held.0 {
                let what =
                    format!("node {node} recovers {last} entries of group {group}, and held {held} durably, all committed");
                return Err(Violation { promise: "P3", checker: "recovery", what });
            }
        }
        Ok(())
    }

    /// Reads every value of the entries that recovery found. What cannot be read now is not judged.
    ///
    /// # Errors
    /// One fails its checksum.
    pub fn values_are_right(node: NodeId, whole: &Recovered, disk: &mut dyn LogDevice) -> Result<(), Violation> {
        for (group, entries) in &whole.groups {
            for entry in &entries.entries {
                for value in values(&entry.fact) {
                    let place = value.place;
                    let Ok(bytes) = disk.read(place.segment, u64::from(place.offset), place.length as usize) else { continue };
                    if value_checksum(&bytes) != value.checksum {
                        let what = format!(
                            "node {node} recovers entry {} of group {group}, and a value fails its checksum",
                            entry.index
                        );
                        return Err(Violation { promise: "P4", checker: "recovery", what });
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the value that each item points at, of what was recovered from a checkpoint. What is read is sound.
    ///
    /// # Errors
    /// One fails its checksum, or is not there.
    pub fn items_are_right(node: NodeId, recovered: &Recovered, sound: &mut dyn LogDevice) -> Result<(), Violation> {
        let copies = recovered.groups.iter().filter_map(|(group, found)| Some((group, found.copy.as_ref()?)));
        for (group, state) in copies {
            for (key, item) in state.items().range(Bound::Unbounded) {
                let Some(value) = item.value.filter(|value| value.place.length > 0) else { continue };
                let place = value.place;
                let bytes = sound.read(place.segment, u64::from(place.offset), place.length as usize).unwrap_or_default();
                if value_checksum(&bytes) != value.checksum {
                    let what = format!("node {node} recovers {key:?} of group {group} at {place:?}, which is not its value");
                    return Err(Violation { promise: "P4", checker: "recovery", what });
                }
            }
        }
        Ok(())
    }
}

/// The values that an entry holds: of a transaction's prepare or decision those of all its writes.
fn values(fact: &FactSummary) -> Vec<ValuePlace> {
    match fact {
        FactSummary::Write { value, .. } => value.iter().copied().collect(),
        FactSummary::Transaction(step) => step.writes().iter().filter_map(|write| write.value).collect(),
        FactSummary::Noop | FactSummary::Configuration(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counters;
    use crate::dice::Dice;
    use crate::disk::Disk;
    use bytes::Bytes;
    use ringseed::base::{Place, SegmentId, Term};
    use ringseed::msg::disk::DiskOp;
    use ringseed::msg::log::EntrySummary;
    use ringseed::msg::transaction::{Attempt, TransactionFact, TransactionId, Write, Writes};

    const NODE: NodeId = NodeId(1);

    fn one_entry(checksum: u32) -> (Recovered, Disk) {
        let mut disk = Disk::new(Dice::new(1, "disk"));
        let (segment, data) = (SegmentId(1), vec![Bytes::from_static(b"..value")]);
        disk.execute(&DiskOp::Create { segment, size: 64 }, &mut Counters::default());
        disk.execute(&DiskOp::Write { segment, offset: 0, data }, &mut Counters::default());
        let value = Some(ValuePlace { place: Place { segment, offset: 2, length: 5 }, checksum });
        let fact = FactSummary::Write { key: "k".into(), value };
        let record = Place { segment, offset: 0, length: 7 };
        let entries = vec![EntrySummary { index: Index(1), term: Term(1), record, fact }];
        let mut recovered = ringseed::wal::recover(&mut Disk::new(Dice::new(1, "disk")), NODE).unwrap();
        recovered.groups.insert(GroupId(3), RecoveredGroup { entries, ..RecoveredGroup::default() });
        (recovered, disk)
    }

    #[test]
    fn what_was_held_is_held_after_a_restart() {
        let (recovered, _) = one_entry(0);
        let mut recovery = Recovery::default();
        recovery.observe(NODE, GroupId(3), Index(1));
        recovery.observe(NodeId(2), GroupId(3), Index(2));
        recovery.holds(NODE, &recovered).unwrap();
        recovery.observe(NODE, GroupId(3), Index(2));
        assert_eq!(recovery.holds(NODE, &recovered).unwrap_err().promise, "P3");
    }

    #[test]
    fn a_checkpoint_is_not_forgotten_unless_the_node_may_have_lost_something() {
        let (mut recovered, _) = one_entry(0);
        let mut recovery = Recovery::default();
        for (start, may_have_lost, right) in
            [(1, false, true), (3, false, true), (2, false, false), (1, true, true), (1, false, true)]
        {
            recovered.start = SegmentId(start);
            if may_have_lost {
                recovery.forget(NODE, &recovered);
            }
            assert_eq!(recovery.begins_no_earlier(NODE, &recovered).is_ok(), right, "segment {start}");
        }
    }

    #[test]
    fn what_was_said_to_be_durable_is_there_unless_the_node_may_have_lost_it() {
        let (recovered, _) = one_entry(0);
        let mut recovery = Recovery::default();
        recovery.said(NODE, recovered.last_lsn());
        recovery.holds(NODE, &recovered).unwrap();
        recovery.said(NODE, recovered.last_lsn().next());
        assert_eq!(recovery.holds(NODE, &recovered).unwrap_err().promise, "P3");
        recovery.observe(NODE, GroupId(3), Index(2));
        recovery.forget(NODE, &recovered);
        recovery.holds(NODE, &recovered).unwrap();
    }

    #[test]
    fn values_are_read() {
        let (recovered, mut disk) = one_entry(value_checksum(b"value"));
        Recovery::values_are_right(NODE, &recovered, &mut disk).unwrap();
        let (recovered, mut disk) = one_entry(1);
        assert_eq!(Recovery::values_are_right(NODE, &recovered, &mut disk).unwrap_err().promise, "P4");
        let (mut recovered, mut disk) = one_entry(1);
        let entry = &mut recovered.groups.get_mut(&GroupId(3)).unwrap().entries[0];
        let FactSummary::Write { key, value } = entry.fact.clone() else { panic!("it is a write") };
        let attempt = Attempt { term: Term(1), number: 1 };
        entry.fact = FactSummary::Transaction(Box::new(TransactionFact::Decide {
            id: TransactionId { home: GroupId(3), attempt },
            commit: true,
            parties: Vec::new(),
            writes: Writes(vec![Write { key, value }]),
            ended: Vec::new(),
            token: None,
        }));
        assert_eq!(Recovery::values_are_right(NODE, &recovered, &mut disk).unwrap_err().promise, "P4");
    }
}
