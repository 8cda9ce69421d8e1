//! Where a call goes: which leader the gateway believes in, and the way to it.
//!
//! **A read that is slow.** What a peer does not answer is asked for again, less often each time, since it may have been lost. At
//! the same leader that is a copy, with the sequence of the first: while the first is worked on the copy is dropped there, and
//! whichever is answered ends the call.

use super::{Gateway, Out, Whereabouts};
use crate::actor::{Context, Origin, Outbox};
use crate::base::{Duration, GroupId, NodeId, Sometimes, Term};
use crate::msg::peer::{Forward, LeaderHint, PeerMessage};

/// How long a forwarded read waits for its answer before it is asked for again.
pub(super) const READ_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How often that doubles.
const READ_RETRY_DOUBLINGS: u32 = 3;
/// How often the other replicas of a group are asked which node leads it, when this node's own replica does not know.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// How often a call is routed in vain before that: the own replica mostly knows soon.
const ASK_AFTER: usize = 3;

impl Gateway {
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.leaders.get(&group).map(|hint| hint.node)
    }

    /// Sends a call that was certainly not begun, or is a read, where it can be done.
    pub(super) fn route(&mut self, cx: &Context<'_>, id: u64, out: &mut Outbox<Out>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let asked_before = call.place;
        call.attempts += 1;
        call.lost = false;
        let replicas = self.placement.replicas(call.group);
        let eventual = call.task.is_eventual();
        let here = replicas.contains(&cx.me);
        let target = match self.leaders.get(&call.group) {
            _ if eventual && here => Some((cx.me, None)),
            _ if eventual => nearest(cx, replicas, call.attempts).map(|node| (node, None)),
            Some(hint) if hint.node == cx.me || cx.liveness.way_to(hint.node, cx.now).is_some() => {
                // An append may come before the first heartbeat of its sender's epoch: what was not known then is known by now. A
                // leader that has restarted since does not lead in that term any more, and says so.
                let epoch = hint.epoch.max(cx.liveness.epoch_told_of(hint.node));
                Some((hint.node, Some((epoch, hint.term))))
            }
            // Without a replica here no actor of this node tells which node leads, nor does a replica that is cut off from the
            // leader. A node that is asked for term zero, in which none leads, begins nothing and names the leader that it
            // believes in.
            _ if !here || (call.attempts > ASK_AFTER && self.ask_at.get(&call.group).is_none_or(|at| *at <= cx.now)) => {
                Sometimes::OtherReplicasAskedWhichLeads.reached();
                self.ask_at.insert(call.group, cx.now + ASK_INTERVAL);
                nearest(cx, replicas, call.attempts).map(|node| (node, Some((cx.liveness.epoch_told_of(node), Term::ZERO))))
            }
            _ => None,
        };
        // Asked again where it is already: as a copy, which the peer knows by its sequence while it works on the first.
        let copy = match (asked_before, target) {
            (Whereabouts::Forwarded(peer, sequence), Some((node, leader)))
                if peer == node && !call.asking && call.epoch == leader.map(|(epoch, _)| epoch) =>
            {
                Some(sequence)
            }
            _ => None,
        };
        if copy.is_none() {
            self.recall(id);
        }
        Sometimes::CallSentAsCopy.when(copy.is_some());
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.asking = false;
        match target {
            None => self.wait(cx, id),
            Some((node, leader)) if node == cx.me => {
                call.place = Whereabouts::Local;
                let term = leader.map(|(_, term)| term);
                let deadline = cx.now + begin_within(call.deadline.since(cx.now));
                out.push(Out::Task { group: call.group, origin: Origin::Gateway(id), task: call.task.clone(), term, deadline });
            }
            Some((node, leader)) => {
                let sequence = copy.unwrap_or_else(|| {
                    let last = self.sequences.entry(node).or_default();
                    *last += 1;
                    *last
                });
                call.place = Whereabouts::Forwarded(node, sequence);
                let before = self.forwarded.insert((node, sequence), id);
                assert!(before.is_none_or(|before| before == id), "a sequence towards a peer names one call");
                self.counters.forwards_sent += 1;
                let remaining_ms = call.deadline.since(cx.now).as_millis() as u32;
                let task = call.task.clone();
                Sometimes::CallSentAgainToAnother.when(call.next.is_some() && copy.is_none());
                call.epoch = leader.map(|(epoch, _)| epoch);
                call.next = cx.liveness.way_to(node, cx.now).map(|(next, _)| next);
                call.asking = leader.is_some_and(|(_, term)| term == Term::ZERO);
                if call.asking {
                    self.leaderless.insert((call.group, id));
                }
                let retries = call.is_repeatable();
                let forward = Forward { sequence, group: call.group, leader, remaining_ms, task };
                out.push(Out::Send(node, PeerMessage::Forward(forward)));
                if retries {
                    // What is slow is not lost: it is asked for less often each time.
                    call.asked += 1;
                    let pause = READ_RETRY_INTERVAL * (1 << (call.asked - 1).min(READ_RETRY_DOUBLINGS));
                    self.wake_at(id, cx.now + pause);
                }
            }
        }
    }

    /// Believes the hint if it is of a later term than what is known, or of a later epoch in the same: a replica may have heard
    /// of a leader before its node knew in which epoch the leader is.
    pub(super) fn learn(&mut self, group: GroupId, hint: LeaderHint) {
        let known = self.leaders.get(&group).map(|known| (known.term, known.epoch));
        if self.placement.replicas(group).contains(&hint.node) && known.is_none_or(|known| known < (hint.term, hint.epoch)) {
            self.leaders.insert(group, hint);
        } else {
            Sometimes::HintNotBelieved.when(known.is_some_and(|known| known > (hint.term, hint.epoch)));
        }
    }

    pub(super) fn on_leader(
        &mut self,
        cx: &Context<'_>,
        group: GroupId,
        leader: Option<NodeId>,
        term: Term,
        out: &mut Outbox<Out>,
    ) {
        let Some(node) = leader else {
            // What was learnt from others of a later term stands: this node's replica may be cut off from that leader.
            Sometimes::HintOfLaterTermStands.when(self.leaders.get(&group).is_some_and(|known| known.term > term));
            if self.leaders.get(&group).is_some_and(|known| known.term <= term) {
                self.leaders.remove(&group);
            }
            return;
        };
        let epoch = if node == cx.me { cx.epoch } else { cx.liveness.epoch_of(node) };
        self.leaders.insert(group, LeaderHint { node, epoch, term });
        self.route_leaderless(cx, group, out);
    }

    /// Goes on with the calls that wait until the group has a leader. Those that ask a replica which node leads do not wait for its
    /// answer: it may be dead.
    pub(super) fn route_leaderless(&mut self, cx: &Context<'_>, group: GroupId, out: &mut Outbox<Out>) {
        let waiting: Vec<u64> = self.leaderless.range((group, 0)..=(group, u64::MAX)).map(|(_, id)| *id).collect();
        for id in waiting {
            self.route(cx, id, out);
        }
    }
}

/// How long a replica may take of what is left to the caller: a little less, so that a clear answer is still in time.
pub(super) fn begin_within(remaining: Duration) -> Duration {
    remaining * 9 / 10
}

/// Another node's replica that there is a way to, another at each attempt.
fn nearest(cx: &Context<'_>, replicas: &[NodeId], attempt: usize) -> Option<NodeId> {
    let others = replicas.iter().copied().filter(|node| *node != cx.me);
    let reached: Vec<NodeId> = others.filter(|node| cx.liveness.way_to(*node, cx.now).is_some()).collect();
    (!reached.is_empty()).then(|| reached[attempt % reached.len()])
}
