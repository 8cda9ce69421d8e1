//! What all groups together have on their way to each peer, and hold in memory: bounded per node, and shared fairly.
//!
//! Thousands of groups may have a follower on one node that was away. Each group bounds what it sends ([`crate::replica`]). All
//! together they would fill the link, the peer's queues and the disk for seconds, with new entries behind old ones. So every peer
//! has one budget of bytes, with a small [`Share`] for what is read back from the log. A group that finds the budget spent waits
//! in a queue. When acknowledgements make room, the groups in the queue have their turns, one after the other, and each takes one
//! helping. A group that has just been acknowledged does not pass by those that wait.
//!
//! After every input the node *notes* what the group now has out, and the sums follow by the difference. So a group need not give
//! back what it took: a leader that steps down, or begins a follower anew, has nothing out.

use crate::actor::{FlowView, Outstanding, PeerFlow, Share};
use crate::base::limits::Limits;
use crate::base::{GroupId, NodeId};
use std::collections::{BTreeMap, VecDeque};

/// What was last noted of one group.
#[derive(Debug, Default)]
pub struct Noted {
    outstanding: Vec<Outstanding>,
    entry_bytes: usize,
    /// The queues in which the group stands.
    queued: Vec<(NodeId, Share)>,
}

#[derive(Debug, Default)]
pub struct Flow {
    view: FlowView,
    queues: BTreeMap<(NodeId, Share), VecDeque<GroupId>>,
}

impl Flow {
    pub fn new(limits: Limits) -> Flow {
        Flow { view: FlowView { limits, ..FlowView::default() }, queues: BTreeMap::new() }
    }

    pub fn view(&self) -> &FlowView {
        &self.view
    }

    /// Notes what a group now has out, and how many bytes of entries it has in memory.
    pub fn note(&mut self, group: GroupId, noted: &mut Noted, now: impl Iterator<Item = Outstanding>, entry_bytes: usize) {
        self.view.entry_bytes = self.view.entry_bytes + entry_bytes - noted.entry_bytes;
        noted.entry_bytes = entry_bytes;
        for before in noted.outstanding.drain(..) {
            let peer = self.peer(before.node);
            peer.bytes -= before.bytes;
            peer.catch_up -= before.catch_up;
        }
        for after in now {
            let peer = self.peer(after.node);
            peer.bytes += after.bytes;
            peer.catch_up += after.catch_up;
            noted.outstanding.push(after);
            if let Some(share) = after.lacks
                && !noted.queued.contains(&(after.node, share))
            {
                noted.queued.push((after.node, share));
                self.queues.entry((after.node, share)).or_default().push_back(group);
                self.peer(after.node).waiting[share as usize] += 1;
            }
        }
    }

    /// The queue, among those whose share has room, whose first group has its turn now; `None`: no group waits that could go on.
    pub fn next_turn(&mut self) -> Option<(GroupId, NodeId, Share)> {
        let view = &self.view;
        let has_room = |(node, share): &(NodeId, Share)| {
            view.peers.iter().find(|peer| peer.node == *node).is_none_or(|peer| peer.has_room(&view.limits, *share, 0))
        };
        let (&(node, share), queue) = self.queues.iter_mut().find(|(key, queue)| !queue.is_empty() && has_room(key))?;
        let group = queue.pop_front().expect("it is not empty");
        self.peer(node).waiting[share as usize] -= 1;
        self.view.turn = Some(group);
        Some((group, node, share))
    }

    /// The turns are over.
    pub fn end_turns(&mut self) {
        self.view.turn = None;
    }

    fn peer(&mut self, node: NodeId) -> &mut PeerFlow {
        let at = self.view.peers.iter().position(|peer| peer.node == node).unwrap_or_else(|| {
            self.view.peers.push(PeerFlow { node, bytes: 0, catch_up: 0, waiting: [0; 2] });
            self.view.peers.len() - 1
        });
        &mut self.view.peers[at]
    }

    /// The sums are those of the groups, and no group waits twice.
    pub fn check<'a>(&self, groups: impl Iterator<Item = &'a Noted> + Clone) {
        let all = || groups.clone().flat_map(|noted| &noted.outstanding);
        for peer in &self.view.peers {
            let of_peer = || all().filter(|out| out.node == peer.node);
            assert_eq!(of_peer().map(|out| out.bytes).sum::<usize>(), peer.bytes, "what is on its way is counted");
            assert_eq!(of_peer().map(|out| out.catch_up).sum::<usize>(), peer.catch_up, "what catches up is counted");
        }
        let waiting: usize = self.view.peers.iter().flat_map(|peer| peer.waiting).sum();
        assert_eq!(waiting, self.queues.values().map(VecDeque::len).sum::<usize>(), "who waits is counted");
        assert_eq!(waiting, groups.clone().map(|noted| noted.queued.len()).sum::<usize>(), "who waits stands in a queue");
        assert_eq!(groups.map(|noted| noted.entry_bytes).sum::<usize>(), self.view.entry_bytes, "entries in memory are counted");
    }
}

impl Noted {
    /// The group has its turn: it stands in that queue no longer.
    pub fn leaves(&mut self, node: NodeId, share: Share) {
        self.queued.retain(|queue| *queue != (node, share));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    /// Groups that all lag at one peer; each asks for more whenever it may.
    struct Groups {
        flow: Flow,
        noted: BTreeMap<GroupId, Noted>,
        out: BTreeMap<GroupId, usize>,
        served: Vec<GroupId>,
    }

    impl Groups {
        fn new(count: u32) -> Groups {
            let groups = (1..=count).map(GroupId);
            Groups {
                flow: Flow::default(),
                noted: groups.clone().map(|group| (group, Noted::default())).collect(),
                out: groups.map(|group| (group, 0)).collect(),
                served: Vec::new(),
            }
        }

        /// The group takes `helping` more if it may, and waits for its turn if it may not.
        fn ask(&mut self, group: GroupId, share: Share, helping: usize) {
            let may = self.flow.view().may_take(group, PEER, share, 0);
            let out = self.out.get_mut(&group).expect("one of them");
            if may {
                *out += helping;
                self.served.push(group);
            }
            let catch_up = if share == Share::CatchUp { *out } else { 0 };
            let now = Outstanding { node: PEER, bytes: *out, catch_up, lacks: (!may).then_some(share) };
            let noted = self.noted.get_mut(&group).expect("one of them");
            self.flow.note(group, noted, std::iter::once(now), 0);
            self.flow.check(self.noted.values());
        }

        /// Everything out is acknowledged, and every waiting group has a turn.
        fn acknowledge(&mut self, share: Share, helping: usize) {
            for (group, out) in &mut self.out {
                *out = 0;
                self.flow.note(*group, self.noted.get_mut(group).expect("one of them"), std::iter::empty(), 0);
            }
            // The group that is acknowledged first asks first, and has to wait behind the others all the same.
            self.ask(GroupId(1), share, helping);
            while let Some((group, node, share_free)) = self.flow.next_turn() {
                assert_eq!((node, share_free), (PEER, share));
                self.noted.get_mut(&group).expect("one of them").leaves(node, share);
                self.ask(group, share, helping);
            }
            self.flow.end_turns();
        }
    }

    #[test]
    fn all_groups_together_keep_a_peers_budget_and_all_have_their_turn() {
        for (share, limit) in
            [(Share::Recent, Limits::DEFAULT.peer_bytes_in_flight), (Share::CatchUp, Limits::DEFAULT.peer_catch_up_bytes)]
        {
            let helping = limit / 4;
            let mut groups = Groups::new(20);
            for round in 0..6 {
                (1..=20).for_each(|group| groups.ask(GroupId(group), share, helping));
                let out: usize = groups.out.values().sum();
                assert!(out <= limit + helping, "round {round}: {out} bytes are out");
                groups.acknowledge(share, helping);
            }
            for group in (1..=20).map(GroupId) {
                let turns = groups.served.iter().filter(|served| **served == group).count();
                assert!((1..=3).contains(&turns), "{group:?} was served {turns} times of {}", groups.served.len());
            }
        }
    }

    #[test]
    fn what_catches_up_leaves_room_for_what_is_new() {
        let mut groups = Groups::new(20);
        (1..=10).for_each(|group| groups.ask(GroupId(group), Share::CatchUp, Limits::DEFAULT.peer_catch_up_bytes / 2));
        assert_eq!(groups.served.len(), 2);
        groups.ask(GroupId(11), Share::Recent, 1_000);
        assert_eq!(groups.served.len(), 3);
    }
}
