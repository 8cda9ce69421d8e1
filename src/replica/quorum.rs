//! What a quorum is, and what follows from it: elections, commits, leases. Pure arithmetic over a [`Configuration`].
//!
//! A quorum is a majority of the voters; of a joint configuration, a majority of both sets of voters (dissertation, section 4.3).
//! Any two quorums of one configuration share a voter, and so do one of it and one of the next, if the two differ in one voter or
//! are joined: all of Raft rests on that.
//!
//! `quorum/*.txt` hold tables of all cases of small groups; the tests compute them anew, and compare them with the definition.

use crate::base::NodeId;
use crate::base::limits::REPLICATION_FACTOR_MAX;
use crate::msg::configuration::Configuration;

impl Configuration {
    /// Whether a quorum of the voters has something.
    pub fn has_quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        let majority = |set: &[NodeId]| set.iter().filter(|node| has(**node)).count() > set.len() / 2;
        majority(self.voters()) && (!self.is_joint() || majority(self.outgoing()))
    }

    /// Whether every voter has it.
    pub fn has_all(&self, has: impl Fn(NodeId) -> bool) -> bool {
        self.voters().iter().chain(self.outgoing()).all(|node| has(*node))
    }

    /// Whether these votes elect. Those of lossy replicas, which may have lost what they acknowledged, count only when every
    /// voter votes.
    pub fn elects(&self, sound: impl Fn(NodeId) -> bool, lossy: impl Fn(NodeId) -> bool) -> bool {
        self.has_quorum(&sound) || self.has_all(|node| sound(node) || lossy(node))
    }

    /// The highest value that a quorum of the voters has reached: an index that each holds durably, a round, the end of a
    /// promise.
    pub fn reached<T: Ord + Copy + Default>(&self, value: impl Fn(NodeId) -> T) -> T {
        let of = |set: &[NodeId]| {
            let mut values = [T::default(); REPLICATION_FACTOR_MAX as usize];
            let values = &mut values[..set.len()];
            values.iter_mut().zip(set).for_each(|(slot, node)| *slot = value(*node));
            values.sort_unstable();
            // The value at this place, and those behind it, are a majority.
            values[(set.len() - 1) / 2]
        };
        let incoming = of(self.voters());
        if self.is_joint() { incoming.min(of(self.outgoing())) } else { incoming }
    }
}

#[cfg(test)]
mod tests;
