//! Leaderships given away: to the preferred leader, by a node that stops, and because commits stall.

use super::super::{Out, Replica, Role};
use super::{Sender, Transfer, TransferStep};
use crate::actor::{Context, Outbox};
use crate::base::limits::APPEND_ENTRIES_MAX;
use crate::base::random::below;
use crate::base::{Duration, NodeId, Sometimes, Time};
use crate::msg::peer::ReplicaMessage;
use std::cmp::Reverse;
use std::collections::VecDeque;

/// How commits get on. A leader whose links come and go keeps its support by the few heartbeats that pass, and commits nothing
/// for half of the time.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    /// Since when an entry waits, or the last commit before it.
    pub(super) waiting_since: Option<Time>,
    /// About the quickest commit of late.
    quick: Duration,
    /// When commits were late of late, at most `STALLS_MAX`.
    pub(super) late: VecDeque<Time>,
}

/// A leader hands its leadership over when it stalled so often ...
const STALLS_MAX: usize = 5;
/// ... within so many support spans.
const STALLS_SPANS: u32 = 10;
/// Leaderships given away by the node itself wait twice as long after each one that was in vain, up to so many times.
const HANDOVERS_DOUBLED_MAX: u32 = 6;
/// How long a follower has to take the leadership over from a node that stops, apart from syncs: there must be time for the next.
const LEAVE_PATIENCE: Duration = Duration::from_millis(700);

impl Stalls {
    /// Something was committed, and `more` still waits. True: it stalls all the time.
    pub(super) fn committed(&mut self, cx: &Context<'_>, support: Duration, more: bool) -> bool {
        let Some(since) = self.waiting_since else { return false };
        self.waiting_since = more.then_some(cx.now);
        let waited = cx.now.since(since);
        let normal = self.quick * 16;
        self.quick =
            if self.quick.is_zero() { waited } else { waited.min(self.quick + self.quick / 8 + Duration::from_nanos(1)) };
        if waited < support / 8 || waited < normal || waited < cx.sync * 4 {
            return false;
        }
        if self.late.len() == STALLS_MAX {
            self.late.pop_front();
        }
        self.late.push_back(cx.now);
        self.late.len() == STALLS_MAX && cx.now.since(self.late[0]) <= support * STALLS_SPANS
    }
}

impl Replica {
    /// How long a leadership stays here before the node gives it away by itself, given how that went before.
    fn handover_patience(&self) -> Duration {
        self.options.support * 8 * (1 << self.handovers.vain.min(HANDOVERS_DOUBLED_MAX))
    }

    /// How long a leadership stays with another than the preferred leader, once that one is well.
    pub(in crate::replica) fn rebalance_patience(&self, cx: &mut Context<'_>) -> Duration {
        let spread = self.options.support.as_nanos() as u64;
        self.handover_patience() + Duration::from_nanos(below(cx.random, spread))
    }

    /// This node leads. If that is soon after it gave the leadership away, it was in vain.
    pub(in crate::replica) fn note_comeback(&mut self, cx: &Context<'_>) {
        if let Some(last) = self.handovers.last {
            let soon = cx.now.since(last) < self.handover_patience() * 2;
            Sometimes::LeadershipComesBack.when(soon);
            self.handovers.vain = if soon { self.handovers.vain + 1 } else { 0 };
        }
    }

    /// Commits stall again and again, though a quorum supports this leader: another may do better.
    pub(super) fn on_stalls(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        // Not by the patience that grows: whoever the leadership is given to is in no haste to give it back, if it was in vain
        // before.
        if self.handovers.last.is_some_and(|last| cx.now.since(last) < self.options.support * 8) {
            return;
        }
        let Some(leader) = self.leader_mut().filter(|l| l.transfer.is_none()) else { return };
        leader.stalls.late.clear();
        if let Some(target) = self.successor(cx) {
            Sometimes::StallingLeaderHandsOver.reached();
            self.handovers.last = Some(cx.now);
            self.begin_transfer(cx, target, out);
        }
    }

    pub(super) fn rebalance(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        let preferred = self.preferred();
        let again = cx.now + self.rebalance_patience(cx);
        let (last, support) = (self.log.last_index(), self.options.support);
        let (state, group) = (self.state, self.options.group);
        let ask_at = cx.now + self.retry_interval();
        let Role::Leader(leader) = &mut self.role else { return };
        // One that comes back, or recovers, is told of.
        let unfit = cx.liveness.disk_of(preferred).unfit;
        if unfit || cx.liveness.supported_by(preferred, cx.now).is_none() || leader.transfer.is_some() {
            return;
        }
        leader.rebalance_at = Some(again);
        let others = leader.progress.iter().filter(|p| p.node != preferred).filter_map(|p| p.round_trip).min();
        let slow = others.unwrap_or_default() * 4 + support / 8;
        let Some(target) = leader.progress.iter_mut().find(|p| p.node == preferred && p.counts()) else { return };
        if target.probed_at.is_some_and(|probed| cx.now.since(probed) < support * 4) {
            // Its link comes and goes, or it still catches up.
            Sometimes::PreferredLeaderNotReady.reached();
            return;
        }
        if !cx.liveness.votes(preferred, cx.now) {
            return;
        }
        if target.round_trip.is_some_and(|round_trip| round_trip > slow) {
            // It is far slower than the others. Is it still, when it is asked the next time?
            Sometimes::PreferredLeaderSlow.reached();
            let round = leader.round;
            target.timed.get_or_insert((target.matched, cx.now));
            Sender::new(cx, &self.log, group, state, self.everywhere, round, ask_at).send_empty(target, out);
        } else if last.0 - target.matched.0 < APPEND_ENTRIES_MAX as u64 {
            Sometimes::LeadershipRebalanced.reached();
            leader.rebalance_at = None;
            self.handovers.last = Some(cx.now);
            self.begin_transfer(cx, preferred, out);
        }
    }

    /// The node stops: hands the leadership over, to one follower after the other until one takes it.
    pub(in crate::replica) fn on_stop(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        self.stops = true;
        if let Some(leader) = self.leader_mut() {
            leader.leaving.get_or_insert_default();
            self.leave(cx, out);
        }
    }

    pub(super) fn leave(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        let Some(leader) = self.leader_mut().filter(|l| l.leaving.is_some() && l.transfer.is_none()) else { return };
        if leader.progress.iter().all(|p| leader.leaving.iter().flatten().any(|tried| *tried == p.node)) {
            leader.leaving = Some(Vec::new());
        }
        match self.successor(cx) {
            Some(target) => self.begin_transfer(cx, target, out),
            // Nobody tells when a follower that has just restarted may stand for election.
            None => {
                Sometimes::StopFindsNoFollower.reached();
                let again = cx.now + self.retry_interval();
                if let Some(leader) = self.leader_mut() {
                    leader.hand_over_at = Some(again);
                }
            }
        }
    }

    /// The follower that is nearest, the quickest among equals, and then the preferred leader; none that was tried in vain, or
    /// has just restarted and may not stand for election yet; and an unfit one if no other is there.
    fn successor(&self, cx: &Context<'_>) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let tried = |node: NodeId| leader.leaving.iter().flatten().any(|tried| *tried == node);
        let configuration = self.configuration();
        let rank = |node: NodeId| configuration.members().position(|v| v == node);
        leader
            .progress
            .iter()
            .filter(|p| configuration.is_voter(p.node) && p.counts() && cx.liveness.votes(p.node, cx.now))
            .filter(|p| cx.liveness.supported_by(p.node, cx.now).is_some() && !tried(p.node))
            .max_by_key(|p| {
                let fit = !cx.liveness.disk_of(p.node).unfit;
                (fit, p.matched, p.acceptance, Reverse(p.round_trip), Reverse(rank(p.node)))
            })
            .map(|p| p.node)
    }

    /// Asks the target first whether it is there. It may be gone, and its promise last for almost D: a lease that is given up for
    /// it leaves the group without a leader for so long, and so does a pause that waits for it to catch up. A round may stand
    /// behind bulk, heartbeats do not: a leader whose links are narrow must get rid of its leadership, too.
    pub(super) fn begin_transfer(&mut self, cx: &Context<'_>, target: NodeId, out: &mut Outbox<Out>) {
        let until = cx.now + self.transfer_patience(cx);
        if let Some(leader) = self.leader_mut() {
            leader.round_wanted = true;
            let step = TransferStep::Sounds { round: leader.round + 1, since: cx.now };
            leader.transfer = Some(Transfer { target, until, step });
        }
        self.send_appends(cx, out);
    }

    /// How long each step of a transfer may take.
    fn transfer_patience(&self, cx: &Context<'_>) -> Duration {
        let stops = matches!(&self.role, Role::Leader(leader) if leader.leaving.is_some());
        let patience = if stops { self.options.support.min(LEAVE_PATIENCE) } else { self.options.support };
        patience + cx.sync * 4
    }

    /// Once the target has answered: begin nothing new. Once it has everything, and everything is committed: give up the lease,
    /// and only then ask it to campaign.
    pub(super) fn advance_transfer(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        let (last, commit, term) = (self.log.last_index(), self.state.commit, self.state.term);
        let until = cx.now + self.transfer_patience(cx);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let Some(target) = leader.progress.iter().find(|p| p.node == transfer.target) else { return };
        // It may have restarted meanwhile.
        if !cx.liveness.votes(target.node, cx.now) || !target.counts() {
            return;
        }
        if let TransferStep::Sounds { round, since } = transfer.step
            && (target.round_acked >= round || cx.liveness.has_answered_since(target.node, since))
        {
            (transfer.step, transfer.until) = (TransferStep::Drains, until);
            out.push(Out::Paused(true));
        }
        if transfer.step == TransferStep::Drains && target.matched == last && commit == last {
            transfer.step = TransferStep::Asked;
            leader.released = true;
            out.push(Out::Send(transfer.target, ReplicaMessage::TimeoutNow { term }));
        }
    }
}
