//! Between gateways: a task that a peer forwards here, and what becomes of what is with a peer that answers, restarts, stops or
//! is cut off.
//!
//! A forwarded task names the leader's epoch and term. Any other epoch or term of the receiver refuses it, so that a late copy
//! cannot be applied by a later leadership. Within a term repeats are refused by the receiving gateway's
//! [`window`](super::window).
//!
//! **A peer that goes away.** When the link to a peer goes down, what was with it is not waited for until the deadline. A read is
//! asked for again; a write is *unknown*, once an answer that came just before has had its moment. What comes after goes through
//! other nodes, if one reaches the peer (the node's `relay.rs`). A peer that stops cleanly says how far it has taken this node's
//! forwards ([`Farewell`]). What is beyond was certainly not begun, and is routed again, so that a clean stop costs no caller an
//! answer.
//!
//! 1. *A farewell that comes late*, when the peer is back: the forwards of this moment went to its new epoch, and have higher
//!    sequences than the farewell names. Each call remembers the epoch that it was sent to; a farewell speaks for one.
//! 2. *An answer of a later epoch.* A leader begins a write, crashes, and is back before its new heartbeats are heard. A repeated
//!    copy of the forward reaches the new epoch, whose window is fresh, and which answers that it does not lead, "certainly not
//!    begun". That is true of itself alone: an answer counts if it comes from the epoch that the call was sent to. From a later
//!    one it says that the earlier is over: the write is *unknown*.

use super::routes::begin_within;
use super::{Gateway, Out, Whereabouts};
use crate::actor::{Context, Origin, Outbox};
use crate::base::limits::{OPEN_NAMED_MAX, SCAN_ITEMS_MAX, TIMEOUT_MAX, TRANSACTION_ITEMS_MAX};
use crate::base::{Duration, Epoch, GroupId, Key, NodeId, Sometimes};
use crate::msg::client::{Doubt, ResponseBody};
use crate::msg::operation::Rejection;
use crate::msg::peer::{Farewell, Forward, ForwardReply, Outcome, PeerMessage, Task};
use crate::msg::transaction::{Transaction, validate_keys};

/// How long a write that was with a peer waits for its answer after the link is lost: the peer answers on another connection.
const LAST_ANSWER_WAIT: Duration = Duration::from_millis(20);
/// Beyond so many reads of peers, those whose time is over are looked for.
const SERVING_MAX: usize = 4_096;

impl Gateway {
    pub(super) fn on_forward(&mut self, cx: &Context<'_>, from: NodeId, epoch: Epoch, forward: Forward, out: &mut Outbox<Out>) {
        let known = (from, epoch, forward.sequence);
        let is_new = self.windows.admit(from, epoch, forward.sequence);
        // A copy of a read whose first is answered was sent because that answer was lost.
        let again = forward.task.is_repeatable() && self.windows.is_latest(from, epoch) && !self.serving.contains_key(&known);
        if self.ended || !(is_new || again) {
            Sometimes::ForwardRefusedAsRepeat.reached();
            self.counters.forwards_refused += 1;
            return;
        }
        Sometimes::RepeatedReadAnsweredAnew.when(!is_new);
        let outcome = match (&forward.task, forward.leader) {
            (task, _) if !self.is_valid(task, forward.group) => {
                let why = "a forwarded task has a wrong size, or is of another partition";
                Some(Outcome::Answer(ResponseBody::Rejected(Rejection::Invalid(why.into()))))
            }
            (_, Some((led_in, _))) if led_in != cx.epoch => {
                Sometimes::ForwardToEarlierEpoch.reached();
                Some(Outcome::NotLeader { leader: self.leaders.get(&forward.group).copied() })
            }
            // Only what would begin something new: decisions are still taken, and told.
            (Task::Operation(_) | Task::Scan(_) | Task::List(_) | Task::Transact { .. } | Task::Prepare(_), _)
                if self.stopping && !forward.task.is_eventual() =>
            {
                Sometimes::ForwardToStoppingNode.reached();
                let hint = self.leaders.get(&forward.group).filter(|hint| hint.node != cx.me);
                Some(Outcome::NotLeader { leader: hint.copied() })
            }
            (_, None) if !forward.task.is_eventual() => Some(Outcome::NotLeader { leader: None }),
            _ if !self.placement.replicas(forward.group).contains(&cx.me) => Some(Outcome::NotLeader { leader: None }),
            _ => None,
        };
        if let Some(outcome) = outcome {
            let reply = ForwardReply { sequence: forward.sequence, outcome, epoch };
            out.push(Out::Send(from, PeerMessage::ForwardReply(reply)));
            return;
        }
        let deadline = cx.now + begin_within(Duration::from_millis(u64::from(forward.remaining_ms)).min(TIMEOUT_MAX));
        let term = forward.leader.map(|(_, term)| term);
        if forward.task.is_repeatable() {
            if self.serving.len() >= SERVING_MAX {
                self.serving.retain(|_, until| *until > cx.now);
            }
            self.serving.insert(known, deadline);
        }
        let origin = Origin::Peer(from, epoch, forward.sequence);
        out.push(Out::Task { group: forward.group, origin, task: forward.task, term, deadline });
    }

    /// A peer's task is answered: a copy of it that comes now is asked anew.
    pub fn served(&mut self, from: NodeId, epoch: Epoch, sequence: u64) {
        self.serving.remove(&(from, epoch, sequence));
    }

    /// Whether a peer's task is within the limits, and for this group.
    fn is_valid(&self, task: &Task, group: GroupId) -> bool {
        let here = |key: &Key| self.placement.group_of(key.token()) == group;
        match task {
            Task::Operation(single) => single.validate().is_ok() && here(&single.operation.key),
            Task::Transact { transaction, .. } => transaction.validate().is_ok() && self.home_of(transaction) == group,
            Task::Prepare(preparation) => {
                let items = preparation.items.iter().map(|wanted| wanted.item.clone()).collect();
                let whole = Transaction { items, token: None };
                whole.validate().is_ok()
                    && whole.items.iter().all(|item| here(&item.key))
                    && preparation.parties.len() <= TRANSACTION_ITEMS_MAX
                    && preparation.open.len() <= OPEN_NAMED_MAX
                    && preparation.id.home != group
                    // A participant in doubt must have a home to ask.
                    && !self.placement.replicas(preparation.id.home).is_empty()
            }
            Task::Inquire(id) => id.home == group,
            Task::ReadMany(keys) | Task::Measure(keys) => validate_keys(keys).is_ok() && keys.iter().all(here),
            Task::ReadSeen(seen) => seen.len() <= TRANSACTION_ITEMS_MAX && seen.iter().all(|seen| here(&seen.key)),
            Task::Scan(scan) | Task::List(scan) => scan.validate().is_ok(),
            Task::ReadListed(seen) => seen.len() <= SCAN_ITEMS_MAX && seen.iter().all(|seen| here(&seen.key)),
            Task::Resolve { .. } => true,
        }
    }

    pub(super) fn on_forward_reply(
        &mut self,
        cx: &mut Context<'_>,
        from: NodeId,
        epoch: Epoch,
        reply: ForwardReply,
        out: &mut Outbox<Out>,
    ) {
        // An answer to an earlier epoch of this node may bear the sequence of another call of this one.
        if reply.epoch != cx.epoch {
            Sometimes::ForwardReplyToEarlierEpoch.reached();
            return;
        }
        let Some(id) = self.forwarded.get(&(from, reply.sequence)).copied() else {
            Sometimes::ForwardReplyUnexpected.reached();
            return;
        };
        let Some(call) = self.calls.get(&id) else { return };
        assert_eq!(call.place, Whereabouts::Forwarded(from, reply.sequence), "a call is answered by the peer that it is with");
        match call.epoch {
            // The epoch that may have begun it is over, and its answer, if there was one, is not let in any more.
            Some(sent_to) if sent_to < epoch && !call.is_repeatable() => {
                Sometimes::WriteAnsweredByLaterEpoch.reached();
                self.finish(cx, id, Outcome::Answer(ResponseBody::Unknown(Doubt::LeadershipLost)), out);
            }
            Some(sent_to) if sent_to > epoch && !call.is_repeatable() => {}
            _ => self.on_outcome(cx, id, reply.outcome, out),
        }
    }

    /// The peer restarted: a write that was with it may or may not survive; a read is asked again.
    pub(super) fn on_restarted(&mut self, cx: &mut Context<'_>, peer: NodeId, out: &mut Outbox<Out>) {
        self.leaders.retain(|_, hint| hint.node != peer);
        for id in self.with_peer(peer) {
            self.recall(id);
            if self.calls.get(&id).is_some_and(|call| !call.is_repeatable()) {
                Sometimes::WriteInDoubtAtRestart.reached();
                self.finish(cx, id, Outcome::Answer(ResponseBody::Unknown(Doubt::LeadershipLost)), out);
            } else {
                Sometimes::ReadAskedAgainAfterRestart.reached();
                self.wait(cx, id);
            }
        }
    }

    /// The peer was not heard for a while, and may be dead: what may be asked again does not wait for its answer. The next leader
    /// may be known already. If not, the peer is asked once more, and soon afterwards the next leader: that a dead peer was slow to
    /// answer says nothing of another.
    pub(super) fn on_away(&mut self, cx: &Context<'_>, peer: NodeId) {
        for id in self.with_peer(peer) {
            if let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_repeatable()) {
                call.asked = 0;
                self.recall(id);
                self.wait(cx, id);
            }
        }
    }

    /// The calls that are with the peer.
    fn with_peer(&self, peer: NodeId) -> Vec<u64> {
        self.forwarded.range((peer, 0)..=(peer, u64::MAX)).map(|(_, id)| *id).collect()
    }

    pub(super) fn on_link(&mut self, cx: &mut Context<'_>, peer: NodeId, up: bool) {
        if up {
            return;
        }
        let forwarded: Vec<u64> = self.forwarded.values().copied().collect();
        for id in forwarded {
            let Some(call) = self.calls.get_mut(&id).filter(|call| call.next == Some(peer)) else { continue };
            if call.is_repeatable() {
                Sometimes::ReadTakenBackFromCutLink.reached();
                self.recall(id);
                self.wait(cx, id);
            } else {
                Sometimes::WriteBehindCutLink.reached();
                call.lost = true;
                self.wake_at(id, cx.now + LAST_ANSWER_WAIT);
            }
        }
    }

    pub(super) fn on_farewell(&mut self, cx: &mut Context<'_>, from: NodeId, epoch: Epoch, farewell: Farewell) {
        if farewell.epoch != cx.epoch {
            return;
        }
        self.leaders.retain(|_, hint| hint.node != from || hint.epoch > epoch);
        let beyond = self.forwarded.range((from, farewell.sequence.saturating_add(1))..=(from, u64::MAX));
        let not_begun: Vec<u64> = beyond.map(|(_, id)| *id).collect();
        for id in not_begun {
            if self.calls.get(&id).is_some_and(|call| call.epoch == Some(epoch)) {
                Sometimes::FarewellGivesCallBack.reached();
                self.recall(id);
                self.wait(cx, id);
            }
        }
    }
}
