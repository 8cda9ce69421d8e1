//! A leader's node tells the nodes without a replica of the group that it leads.
//!
//! A replica hears of its leader by appends. A node without one would have to ask at each request that comes first, and `ring`
//! and clients would not know. So a leader's node tells it with its heartbeats: a bounded part each time, all in turn. What is
//! told is a hint like any other, ordered by term and epoch: a late or lost message costs a question. Where every node has a
//! replica of everything nothing is told.

use super::{Node, Work};
use crate::base::limits::LEADERSHIPS_TOLD_MAX;
use crate::base::{Epoch, GroupId, NodeId, Time};
use crate::gateway;
use crate::msg::peer::{LeaderHint, Leadership, PeerMessage};
use std::ops::Bound;

/// Groups looked at for one peer with one heartbeat.
const GROUPS_VISITED_MAX: usize = 1_024;

impl Node {
    /// Tells the peer of groups that this node leads, and that the peer has no replica of.
    pub(super) fn tell_leaderships(&mut self, now: Time, to: NodeId) {
        let everywhere = self
            .membership
            .formation()
            .is_none_or(|formation| formation.members.len() <= usize::from(formation.options.replication_factor));
        if everywhere {
            return;
        }
        let last = self.told.get(&to).copied().unwrap_or(GroupId(0));
        let onward = self.groups.range((Bound::Excluded(last), Bound::Unbounded)).chain(self.groups.range(..=last));
        let mut groups = Vec::new();
        for (id, group) in onward.take(GROUPS_VISITED_MAX) {
            self.told.insert(to, *id);
            if group.replica.leads() && !self.placement.replicas(*id).contains(&to) {
                groups.push(Leadership { group: *id, term: group.replica.known_leader().1 });
                if groups.len() == LEADERSHIPS_TOLD_MAX {
                    break;
                }
            }
        }
        if !groups.is_empty() {
            self.send(now, to, PeerMessage::Leading(groups));
        }
    }

    /// The peer, in this epoch of it, says that it leads these groups.
    pub(super) fn on_leading(&mut self, now: Time, from: NodeId, epoch: Epoch, groups: Vec<Leadership>) {
        for Leadership { group, term } in groups {
            // A node with a replica knows better.
            if !self.groups.contains_key(&group) {
                let hint = LeaderHint { node: from, epoch, term };
                self.work.push_back(Work::Gateway(gateway::In::Hint(group, hint)));
            }
        }
        self.drain(now);
    }
}
