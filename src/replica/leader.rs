//! Appends as a leader sends them, commit, reads, support, transfer.

mod handover;
mod read_back;

use super::log::GroupLog;
use super::progress::{Fetch, Memory, Pace, Progress};
use super::{Out, Replica, Role};
use crate::actor::{Context, FlowView, Outbox, Outstanding, Share};
use crate::base::limits::{APPEND_ENTRIES_MAX, Limits};
use crate::base::random::below;
use crate::base::{Duration, Epoch, GroupId, Index, NodeId, Sometimes, Term, Time};
use crate::msg::configuration::Configuration;
use crate::msg::log::{Entry, Fact, HardState};
use crate::msg::peer::{Append, AppendOutcome, AppendReply, ReplicaMessage};
use handover::Stalls;
use std::collections::VecDeque;

/// Entries read back from the log at once for one follower.
const FETCH_ENTRIES_MAX: usize = 256;
/// Bytes of entries in one append to a follower whose disk is full (its last entry may go beyond): enough for deletes and
/// decisions, which it may take.
const CAREFUL_BYTES_MAX: usize = 1024;
/// The groups of a node that has become unfit hand their leaderships over spread over this time.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(200);
/// What reading an entry back counts for beside its bytes, in bytes: many small ones are as much work as a few large ones.
const READ_COST: usize = 256;
/// How long a commit index waits for an append to ride on.
const COMMIT_WAIT: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub struct Leader {
    progress: Vec<Progress>,
    /// The first entry of this leader's term. Before it is committed nothing is known to be (Raft, section 8).
    term_start: Index,
    /// The last quorum round begun.
    round: u64,
    /// Reads that wait for a round, in order of round.
    confirms: VecDeque<(u64, u64)>,
    /// A read waits for a round that has not begun.
    round_wanted: bool,
    /// When to look after followers that are behind; `None`: every reachable voter has all, and the group is idle.
    nudge_at: Option<Time>,
    /// When to step down, for want of a quorum's support.
    step_down_at: Option<Time>,
    transfer: Option<Transfer>,
    /// The lease is given up for the rest of the term.
    released: bool,
    /// The node stops: followers that could not take the leadership over in time, to be tried again after the others. `None`: it
    /// does not stop.
    leaving: Option<Vec<NodeId>>,
    stalls: Stalls,
    /// When to hand the leadership to the preferred leader.
    rebalance_at: Option<Time>,
    /// When to look for a follower that takes over, since this node is unfit to lead, or stops and found none.
    hand_over_at: Option<Time>,
    /// The store wants to know when all voters have this; 0: nothing.
    watched: Index,
    /// Fetches begun.
    fetches: u64,
}

#[derive(Debug, Clone, Copy)]
struct Transfer {
    target: NodeId,
    /// When the step that it is in has taken too long.
    until: Time,
    step: TransferStep,
}

/// A transfer takes these steps, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TransferStep {
    /// Nothing is given up yet: the target has to answer first what was sent since then, this round or a heartbeat.
    Sounds { round: u64, since: Time },
    /// Nothing new is begun, until the target has everything, and everything is committed.
    Drains,
    /// The target was told to campaign.
    Asked,
}

impl Leader {
    /// A leader that has just been elected. `patience`: how long it keeps a leadership that is another's by preference.
    pub fn new(cx: &Context<'_>, log: &GroupLog, term_start: Index, patience: Duration) -> Leader {
        let preferred = log.configuration().voters()[0] == cx.me;
        let others = log.configuration().members().filter(|node| *node != cx.me);
        Leader {
            progress: others.map(|node| Progress::new(node, cx.liveness.epoch_of(node), log)).collect(),
            term_start,
            round: 0,
            confirms: VecDeque::new(),
            round_wanted: false,
            nudge_at: Some(cx.now),
            step_down_at: None,
            transfer: None,
            released: false,
            leaving: None,
            stalls: Stalls::default(),
            rebalance_at: (!preferred).then(|| cx.now + patience),
            hand_over_at: None,
            watched: Index::ZERO,
            fetches: 0,
        }
    }

    /// Whether a quorum has accepted this leader in its term, under promises that hold beyond now.
    pub fn has_lease(&self, cx: &Context<'_>, configuration: &Configuration) -> bool {
        let accepted = |p: &Progress| {
            let promise = cx.liveness.supported_by(p.node, cx.now).map(|(promise, _)| promise);
            promise.is_some() && p.acceptance == promise && p.counts()
        };
        !self.released && configuration.has_quorum(|node| self.of(node).map_or(node == cx.me, accepted))
    }

    fn of(&self, follower: NodeId) -> Option<&Progress> {
        self.progress.iter().find(|p| p.node == follower)
    }

    /// Follows a change of the configuration.
    pub fn follow(&mut self, cx: &Context<'_>, log: &GroupLog) {
        let configuration = log.configuration();
        self.progress.retain(|p| configuration.is_member(p.node));
        for node in configuration.members().filter(|node| *node != cx.me) {
            if self.of(node).is_none() {
                self.progress.push(Progress::new(node, cx.liveness.epoch_of(node), log));
            }
        }
        self.nudge_by(cx.now);
    }

    pub fn deadline(&self) -> Option<Time> {
        let transfer = self.transfer.map(|t| t.until);
        [self.nudge_at, self.step_down_at, transfer, self.rebalance_at, self.hand_over_at].into_iter().flatten().min()
    }

    pub fn check(&self, log: &GroupLog) {
        let followed = log.configuration().members().filter(|node| self.of(*node).is_some()).count();
        assert_eq!(self.progress.len(), followed, "whoever has a progress is a member, once");
        assert!(followed + 1 >= log.configuration().members().count(), "every other member has a progress");
        self.progress.iter().for_each(|p| p.check(log));
        assert!(log.last_index() >= self.term_start, "a leader's log holds the first entry of its term");
        let term_start = self.term_start.max(log.base().index);
        assert_eq!(log.term_at(term_start), Some(log.last_term()), "a leader appends in its own term alone");
        assert!(self.confirms.iter().is_sorted_by_key(|(_, round)| round), "rounds are waited for in order");
        let begins = |round: u64| round <= self.round || (round == self.round + 1 && self.round_wanted);
        assert!(
            self.confirms.back().is_none_or(|(_, round)| begins(*round)),
            "a read waits for a round in progress, or for the next, which is wanted"
        );
        assert!(
            self.leaving.is_none() || self.progress.is_empty() || self.transfer.is_some() || self.hand_over_at.is_some(),
            "a leader whose node stops hands over, or will look again for a follower that takes over"
        );
    }

    /// The target of a transfer that has not answered yet whether it is there.
    fn sounded(&self) -> Option<NodeId> {
        self.transfer.filter(|t| matches!(t.step, TransferStep::Sounds { .. })).map(|t| t.target)
    }

    fn nudge_by(&mut self, at: Time) {
        self.nudge_at = Some(self.nudge_at.map_or(at, |held| held.min(at)));
    }

    /// The highest round that a quorum, this leader included, has confirmed.
    fn quorum_round(&self, configuration: &Configuration) -> u64 {
        // A voter without a progress is this leader.
        configuration.reached(|node| self.of(node).map_or(self.round, |p| if p.counts() { p.round_acked } else { 0 }))
    }
}

impl Replica {
    fn retry_interval(&self) -> Duration {
        (self.options.support / 4).max(Duration::from_millis(20))
    }

    fn leader_mut(&mut self) -> Option<&mut Leader> {
        match &mut self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    /// Whether this node leads and may read without a round trip now.
    pub fn has_lease(&self, cx: &Context<'_>) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.has_lease(cx, self.configuration()) && self.state.commit >= leader.term_start)
    }

    /// Whether nothing is under way in this group: what is in the log is committed, and, at a leader, at every reachable voter.
    pub fn is_idle(&self) -> bool {
        let quiet = match &self.role {
            Role::Leader(leader) => leader.nudge_at.is_none() && leader.confirms.is_empty() && leader.transfer.is_none(),
            Role::Follower { leader } => leader.is_some() && self.accepted.is_some(),
            Role::PreCandidate { .. } | Role::Candidate { .. } => false,
        };
        quiet && self.applied == self.log.last_index()
    }

    /// Whether the node's copy counts towards a quorum, as far as this replica leads and knows.
    pub fn counts(&self, node: NodeId) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.of(node).is_none_or(Progress::counts),
            _ => true,
        }
    }

    /// Entries that the peer has not acknowledged, if this node leads the group.
    pub fn entries_behind(&self, peer: NodeId) -> u64 {
        match &self.role {
            Role::Leader(leader) => leader
                .progress
                .iter()
                .find(|p| p.node == peer)
                .map_or(0, |p| self.log.last_index().0 - p.matched.0.min(self.log.last_index().0)),
            _ => 0,
        }
    }

    /// What this group has on its way to each follower. Nothing, unless it leads.
    pub fn outstanding(&self) -> impl Iterator<Item = Outstanding> + '_ {
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        };
        leader.into_iter().flat_map(|leader| leader.progress.iter().map(Progress::outstanding))
    }

    /// The voters that have not durably acknowledged the entry, as far as this leader knows.
    pub fn lacking(&self, index: Index) -> Vec<NodeId> {
        match &self.role {
            Role::Leader(leader) => {
                let lacks = |p: &&Progress| self.configuration().is_voter(p.node) && p.matched < index;
                leader.progress.iter().filter(lacks).map(|p| p.node).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn append_own(&mut self, entry: Entry, out: &mut Outbox<Out>) {
        assert!(self.leads() && entry.term == self.state.term, "a leader appends in its own term alone");
        self.log.append(entry.clone());
        out.push(Out::LogEntry(entry, self.state.commit));
    }

    pub(super) fn on_propose(&mut self, cx: &Context<'_>, index: Index, term: Term, fact: Fact, out: &mut Outbox<Out>) {
        // A proposal that crossed with the end of the leadership: the store is told `Deposed`.
        if !self.leads() || term != self.state.term {
            return;
        }
        assert_eq!(index, self.log.last_index().next(), "the store proposes at the head of the log");
        let configures = matches!(fact, Fact::Configuration(_));
        self.append_own(Entry { index, term, fact }, out);
        if let Role::Leader(leader) = &mut self.role {
            if configures {
                leader.follow(cx, &self.log);
            }
            for progress in leader.progress.iter_mut().filter(|progress| progress.wants_entry()) {
                progress.memory = Memory::Amnesiac(Some(index));
            }
            leader.stalls.waiting_since.get_or_insert(cx.now);
        }
    }

    /// Sends every follower what it lacks, as far as flow control allows.
    pub(super) fn send_appends(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        let retry = cx.now + self.retry_interval();
        let Role::Leader(leader) = &mut self.role else { return };
        if std::mem::take(&mut leader.round_wanted) {
            leader.round += 1;
        }
        let mut sender = Sender::new(cx, &self.log, self.options.group, self.state, self.everywhere, leader.round, retry);
        let waits_for_round = !leader.confirms.is_empty() || leader.sounded().is_some();
        let mut look_at = if waits_for_round { retry } else { Time::NEVER };
        for progress in &mut leader.progress {
            progress.careful = cx.liveness.disk_of(progress.node).full;
            sender.send_entries(progress, &mut leader.fetches, out);
            if progress.round_sent < leader.round {
                sender.send_empty(progress, out);
            }
            if progress.matched < self.log.last_index() {
                look_at = look_at.min(if progress.careful { retry.max(progress.full_until) } else { retry });
            }
        }
        if look_at < Time::NEVER {
            leader.nudge_by(look_at);
        }
    }

    pub(super) fn on_durable(&mut self, cx: &mut Context<'_>, index: Index, term: Term, out: &mut Outbox<Out>) {
        if self.log.term_at(index) == Some(term) {
            self.durable = self.durable.max(index);
            self.try_commit(cx, out);
        }
    }

    /// Commits what a quorum holds durably, if it is of this leader's own term (Raft, section 5.4.2).
    fn try_commit(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        assert!(self.durable <= self.log.last_index(), "its own copy counts as far as there is one");
        let Role::Leader(leader) = &mut self.role else { return };
        // A voter without a progress is this leader.
        let copy = |p: &Progress| if p.counts() { p.matched } else { Index::ZERO };
        let index = self.log.configuration().reached(|node| leader.of(node).map_or(self.durable, copy));
        let of_earlier_term = self.log.term_at(index) != Some(self.state.term);
        Sometimes::EarlierTermOnQuorumNotCommitted.when(index > self.state.commit && of_earlier_term);
        if index > self.state.commit && !of_earlier_term {
            Sometimes::CommitTakesEarlierTerms.when(self.state.commit.next() < leader.term_start);
            Sometimes::CommitBeforeOwnCopy.when(self.durable < index);
            self.state.commit = index;
            let stalls = leader.stalls.committed(cx, self.options.support, self.log.last_index() > index);
            assert!(index <= self.log.last_index(), "what a quorum holds is in the leader's log");
            leader.nudge_by(cx.now + COMMIT_WAIT);
            let needed =
                leader.progress.iter().filter(|p| cx.liveness.supported_by(p.node, cx.now).is_some()).map(|p| p.matched).min();
            self.apply(out);
            let needless = needed.unwrap_or(self.applied).min(self.applied);
            self.log.trim(needless, self.applied, cx.flow.recent_bytes_max());
            self.serve_confirms(cx, out);
            self.advance_transfer(cx, out);
            if stalls {
                self.on_stalls(cx, out);
            }
            if self.log.configured_at() <= index && !self.configuration().is_voter(cx.me) {
                // The others are told of the commit by the next leader.
                self.step_down(cx, out);
            }
        }
        self.note_everywhere();
        self.report_all_matched(out);
    }

    /// Notes how far every member's copy is known to be synced.
    fn note_everywhere(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        if self.options.synced {
            let members = leader.progress.iter().map(|p| p.synced).chain([self.durable, self.state.commit]);
            self.everywhere = self.everywhere.max(members.min().unwrap_or_default());
        }
    }

    /// The log needs no entries up to this any more.
    pub(super) fn on_compact(&mut self, cx: &Context<'_>, to: Index) {
        assert!(to <= self.applied, "what is not in the state is not forgotten");
        self.log.compact(to);
        let first = self.log.base().index.next();
        if let Role::Leader(leader) = &mut self.role {
            leader.progress.iter_mut().for_each(|progress| progress.begin_at(first, cx.now));
            leader.nudge_by(cx.now);
        }
    }

    fn report_all_matched(&mut self, out: &mut Outbox<Out>) {
        let (durable, configuration) = (self.durable, self.log.configuration());
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.watched > Index::ZERO {
            let voters = leader.progress.iter().filter(|p| configuration.is_voter(p.node));
            let all = voters.map(|p| p.matched).chain([durable]).min().unwrap_or_default();
            out.push(Out::AllMatched(all));
            if all >= leader.watched {
                leader.watched = Index::ZERO;
            }
        }
    }

    pub(super) fn on_watch_all(&mut self, _cx: &Context<'_>, index: Index, out: &mut Outbox<Out>) {
        if let Some(leader) = self.leader_mut() {
            leader.watched = leader.watched.max(index);
            self.report_all_matched(out);
        }
    }

    pub(super) fn on_append_reply(
        &mut self,
        cx: &mut Context<'_>,
        from: NodeId,
        epoch: Epoch,
        reply: AppendReply,
        out: &mut Outbox<Out>,
    ) {
        self.adopt_from_reply(cx, reply.term, out);
        let last = self.log.last_index();
        let patience = self.retry_interval();
        let leads = self.leads() && reply.term == self.state.term;
        let Some(progress) =
            self.leader_mut().filter(|_| leads).and_then(|l| l.progress.iter_mut().find(|p| p.node == from && p.epoch == epoch))
        else {
            Sometimes::AppendReplyAfterEpochOrTerm.reached();
            return;
        };
        let counted = progress.counts();
        progress.remembers(reply.amnesiac);
        if progress.wants_entry() {
            out.push(Out::WantsEntry);
        }
        let changes = progress.counts() != counted;
        if let Some(promise) = reply.acceptance
            && promise.leader == cx.epoch
        {
            progress.acceptance = progress.acceptance.max(Some(promise));
        }
        let known = (progress.round_acked, progress.commit_acked);
        progress.round_acked = progress.round_acked.max(reply.round.min(progress.round_sent));
        progress.commit_acked = progress.commit_acked.max(reply.commit.min(last));
        // While entries are not answered, answers to what needs none of them tell nothing of them.
        if known != (progress.round_acked, progress.commit_acked) && !progress.owes_answer() {
            progress.answered(cx.now, patience);
        }
        match reply.outcome {
            AppendOutcome::Matched(index) if index <= last => {
                if index > progress.matched {
                    progress.answered(cx.now, patience);
                }
                progress.match_up_to(index);
                if reply.synced.is_some() {
                    progress.synced = progress.synced.max(index);
                }
                progress.time(cx.now);
            }
            AppendOutcome::Conflict { index, term, previous } => {
                progress.answered(cx.now, patience);
                self.on_conflict(cx, from, index, term, previous, out);
            }
            AppendOutcome::Full { matched } if matched <= last => {
                progress.answered(cx.now, patience);
                progress.on_full(cx.now, matched);
            }
            AppendOutcome::Matched(_) | AppendOutcome::Full { .. } | AppendOutcome::StaleTerm => return,
        }
        if changes {
            self.on_support_lost(cx);
        }
        self.try_commit(cx, out);
        self.serve_confirms(cx, out);
        self.advance_transfer(cx, out);
        self.send_appends(cx, out);
    }

    /// The follower has the group's state up to this index: it is asked at once whether its log goes on from there.
    pub(super) fn on_installed(&mut self, cx: &Context<'_>, follower: NodeId, index: Index) {
        let first = self.log.base().index.max(index.min(self.log.last_index())).next();
        let Some(leader) = self.leader_mut() else { return };
        if let Some(progress) = leader.progress.iter_mut().find(|p| p.node == follower) {
            progress.rotten = None;
            progress.probe_from(first, cx.now);
            leader.nudge_by(cx.now);
        }
    }

    /// The follower's log parts from ours before `previous`: go back to where they may agree (Raft, section 5.3, the fast way).
    fn on_conflict(&mut self, cx: &Context<'_>, from: NodeId, index: Index, term: Term, previous: Index, out: &mut Outbox<Out>) {
        if previous > self.log.last_index() {
            // Nothing was sent from there.
            return;
        }
        let base = self.log.base().index;
        let same = self.log.last_at_or_before_term(term);
        let next = if term > Term::ZERO && self.log.term_at(same) == Some(term) { same.next() } else { index };
        let Some(progress) = self.leader_mut().and_then(|l| l.progress.iter_mut().find(|p| p.node == from)) else { return };
        let current = match progress.pace {
            Pace::Probe { .. } => previous.next() == progress.next,
            Pace::Stream => previous.next() <= progress.next,
        };
        if previous > progress.matched && current && previous > base {
            Sometimes::ConflictGoesBackFar.when(next < previous);
            progress.probe_from(next.min(previous), cx.now);
        } else if previous > progress.matched && current {
            // No entry here joins on to what it has.
            Sometimes::FollowerLacksBase.reached();
            out.push(Out::LacksBase(from));
        } else {
            Sometimes::ConflictOutdated.reached();
        }
    }

    /// Whether the store's question is waiting for a round.
    pub fn confirms(&self, tag: u64) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.confirms.iter().any(|(waiting, _)| *waiting == tag))
    }

    pub(super) fn on_confirm(&mut self, cx: &Context<'_>, tag: u64, out: &mut Outbox<Out>) {
        if self.has_lease(cx) {
            out.push(Out::Confirmed(tag));
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        Sometimes::ReadWaitsForFirstCommit.when(self.state.commit < leader.term_start);
        Sometimes::ReadWithoutLease.when(!leader.has_lease(cx, self.log.configuration()));
        leader.confirms.push_back((tag, leader.round + 1));
        leader.round_wanted = true;
        if self.log.configuration().has_quorum(|node| node == cx.me) {
            leader.round += 1;
            leader.round_wanted = false;
            self.serve_confirms(cx, out);
        }
    }

    /// Answers the reads whose round is complete. A lease that came meanwhile serves them all: it holds now, after they began.
    fn serve_confirms(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        let by_lease = self.has_lease(cx);
        let Role::Leader(leader) = &mut self.role else { return };
        if self.state.commit < leader.term_start {
            return;
        }
        let round = leader.quorum_round(self.log.configuration());
        while let Some((tag, wanted)) = leader.confirms.front().copied() {
            if wanted > round && !by_lease {
                break;
            }
            Sometimes::LeaseComesBeforeRound.when(wanted > round);
            Sometimes::ReadByRound.when(!by_lease);
            leader.confirms.pop_front();
            out.push(Out::Confirmed(tag));
        }
    }

    pub(super) fn on_support_gained(&mut self, cx: &mut Context<'_>, peer: NodeId, out: &mut Outbox<Out>) {
        let preferred = self.preferred() == peer;
        if !self.leads() {
            return self.try_again_soon(cx);
        }
        let patience = self.rebalance_patience(cx);
        if let Some(leader) = self.leader_mut() {
            leader.nudge_at = Some(cx.now);
            leader.progress.iter_mut().filter(|p| p.node == peer).for_each(|p| p.answered(cx.now, Duration::ZERO));
            if preferred {
                leader.rebalance_at = Some(cx.now + patience);
            }
            self.on_fitness(cx);
            self.on_support_lost(cx);
            self.leave(cx, out);
            self.on_leader_timer(cx, out);
        }
    }

    /// This node has become unfit to lead, or fit again, or leads from now on, or a replica may be there to take over.
    pub(super) fn on_fitness(&mut self, cx: &mut Context<'_>) {
        // One whose node stops hands over anyway.
        let Some(leader) = self.leader_mut().filter(|l| l.leaving.is_none()) else { return };
        leader.hand_over_at = cx.liveness.own_disk.unfit.then(|| {
            // Not all groups of a node at the same instant.
            let soon = cx.now + Duration::from_nanos(below(cx.random, HAND_OVER_WITHIN.as_nanos() as u64));
            leader.hand_over_at.map_or(soon, |at| at.min(soon))
        });
    }

    pub(super) fn on_recovered(&mut self, cx: &mut Context<'_>, peer: NodeId) {
        let patience = self.rebalance_patience(cx);
        let preferred = self.preferred() == peer;
        if let Some(leader) = self.leader_mut() {
            leader.nudge_by(cx.now);
            if preferred && leader.rebalance_at.is_none() {
                leader.rebalance_at = Some(cx.now + patience);
            }
            Sometimes::FollowerHasRoomAgain.when(leader.progress.iter().any(|p| p.node == peer && p.full_until > cx.now));
            leader.progress.iter_mut().filter(|p| p.node == peer).for_each(Progress::has_room);
        }
        self.on_fitness(cx);
    }

    /// Hands the leadership of an unfit node to a follower that is fit: the one that is nearest, the preferred leader among
    /// equals. That of a node that stops goes to any.
    fn hand_over(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        let last = self.log.last_index();
        let again = cx.now + self.options.support * 2;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.hand_over_at = None;
        if leader.leaving.is_some() {
            return self.leave(cx, out);
        }
        if !cx.liveness.own_disk.unfit {
            return;
        }
        let configuration = self.log.configuration();
        let fit = |p: &&Progress| {
            let votes = configuration.is_voter(p.node);
            votes && p.counts() && !cx.liveness.disk_of(p.node).unfit && cx.liveness.supported_by(p.node, cx.now).is_some()
        };
        let heirs: Vec<&Progress> = leader.progress.iter().filter(fit).collect();
        if heirs.is_empty() {
            // One that comes back, or recovers, is told of.
            Sometimes::UnfitLeaderWithoutHeir.reached();
            return;
        }
        let votes = heirs.into_iter().filter(|p| cx.liveness.votes(p.node, cx.now));
        let near = votes.filter(|p| last.0 - p.matched.0 < APPEND_ENTRIES_MAX as u64);
        let rank = |node: NodeId| std::cmp::Reverse(configuration.members().position(|member| member == node));
        let heir = near.max_by_key(|p| (p.matched, rank(p.node))).map(|p| p.node);
        leader.hand_over_at = Some(again);
        if let Some(heir) = heir.filter(|_| leader.transfer.is_none()) {
            Sometimes::UnfitLeaderHandsOver.reached();
            self.begin_transfer(cx, heir, out);
        }
    }

    /// Support has changed: a leader without a quorum's steps down, if that lasts.
    pub(super) fn on_support_lost(&mut self, cx: &Context<'_>) {
        let support = self.options.support;
        let Role::Leader(leader) = &mut self.role else { return };
        // A follower that does not count keeps no leader in office: the others may be able to elect one that can commit.
        let counts = |node: NodeId| leader.of(node).is_none_or(Progress::counts);
        let supports = |node: NodeId| node == cx.me || cx.liveness.supported_by(node, cx.now).is_some() && counts(node);
        if self.log.configuration().has_quorum(supports) {
            Sometimes::LeaderRegainsSupport.when(leader.step_down_at.is_some());
            leader.step_down_at = None;
        } else if leader.step_down_at.is_none() {
            leader.step_down_at = Some(cx.now + support);
        }
    }

    /// The follower is in this epoch. In a new one it may hold less than it acknowledged in an earlier one: nothing of that
    /// counts any more.
    pub(super) fn on_follower_epoch(&mut self, cx: &Context<'_>, peer: NodeId, epoch: Epoch) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.iter_mut().find(|p| p.node == peer && p.epoch < epoch)
        {
            Sometimes::FollowerRestartsMatched.when(progress.matched > Index::ZERO);
            progress.restart(epoch, &self.log);
            leader.nudge_by(cx.now);
        }
    }

    pub(super) fn on_leader_timer(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        let now = cx.now;
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let Role::Leader(leader) = &mut self.role else { return };
        if due(leader.step_down_at) {
            // A promise may have been prolonged before its lapse was noticed.
            self.on_support_lost(cx);
            if matches!(&self.role, Role::Leader(leader) if leader.step_down_at.is_some()) {
                Sometimes::LeaderWithoutQuorumStepsDown.reached();
                self.step_down(cx, out);
                return;
            }
        }
        // By a heartbeat, which tells the replica nothing.
        self.advance_transfer(cx, out);
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(transfer) = leader.transfer.filter(|t| t.until <= cx.now) {
            leader.transfer = None;
            if transfer.step == TransferStep::Asked {
                // Without its lease there is no use in staying: a plain election is quicker.
                Sometimes::TransferAskedInVain.reached();
                self.step_down(cx, out);
                return;
            }
            match &mut leader.leaving {
                Some(tried) => {
                    Sometimes::StopTriesNextFollower.reached();
                    tried.push(transfer.target);
                    self.leave(cx, out);
                }
                None => {
                    if transfer.step == TransferStep::Drains {
                        Sometimes::TransferNeverReady.reached();
                        out.push(Out::Paused(false));
                    } else {
                        Sometimes::TransferTargetSilent.reached();
                    }
                    self.handovers.vain += 1;
                }
            }
        }
        let Role::Leader(leader) = &mut self.role else { return };
        if due(leader.rebalance_at) {
            leader.rebalance_at = None;
            self.rebalance(cx, out);
        }
        if matches!(&self.role, Role::Leader(leader) if due(leader.hand_over_at)) {
            self.hand_over(cx, out);
        }
        if matches!(&self.role, Role::Leader(leader) if due(leader.nudge_at)) {
            self.nudge(cx, out);
        }
    }

    /// Looks after every reachable follower that is behind, not accepted, or does not know the commit index.
    fn nudge(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        let retry = self.retry_interval();
        let last = self.log.last_index();
        let commit = self.state.commit;
        let Role::Leader(leader) = &mut self.role else { return };
        let sounded = leader.sounded();
        let mut sender =
            Sender::new(cx, &self.log, self.options.group, self.state, self.everywhere, leader.round, cx.now + retry);
        let mut pending = last > commit;
        let waiting = pending || !leader.confirms.is_empty() || sounded.is_some();
        let mut look_at = if waiting { cx.now + retry } else { Time::NEVER };
        for progress in &mut leader.progress {
            let Some((promise, _)) = cx.liveness.supported_by(progress.node, cx.now) else { continue };
            let accepted = progress.acceptance == Some(promise);
            let round_matters = !leader.confirms.is_empty() || sounded == Some(progress.node);
            let waits_for_round = round_matters && progress.round_acked < leader.round;
            progress.careful = cx.liveness.disk_of(progress.node).full;
            if accepted && !waits_for_round {
                if progress.matched >= last && progress.commit_acked >= commit {
                    continue;
                }
                if progress.careful && progress.commit_acked >= commit.min(progress.matched) {
                    // All that it lacks is entries for which it has no room.
                    let quiet = progress.ask_at <= cx.now && progress.fetch.is_none();
                    if quiet && progress.full_until <= cx.now {
                        Sometimes::FullFollowerTriedAgain.reached();
                        progress.probe_again(cx.now);
                        sender.send_entries(progress, &mut leader.fetches, out);
                        progress.leave_alone(cx.now);
                    }
                    look_at = look_at.min(progress.full_until.max(cx.now + retry));
                    continue;
                }
            }
            pending = true;
            let due = progress.ask_at <= cx.now;
            if due {
                progress.asks(cx.now, retry, Duration::from_nanos(below(cx.random, retry.as_nanos() as u64 / 4)));
            }
            // It lacks nothing but entries, and those have to wait for their turn.
            let queued = progress.lacks.is_some() && !waits_for_round;
            if due && progress.owes_answer() {
                Sometimes::AppendUnanswered.reached();
                sender.ask(progress, out);
            } else if !sender.send_entries(progress, &mut leader.fetches, out)
                && (due && !queued
                    || !accepted && progress.counts()
                    || progress.is_whole(commit)
                    || progress.commit_sent < commit.min(progress.matched))
            {
                sender.send_empty(progress, out);
            }
            look_at = look_at.min(progress.ask_at);
        }
        leader.nudge_at = (look_at < Time::NEVER).then_some(look_at);
        if !pending {
            self.log.trim(self.applied, self.applied, 0);
        }
    }
}

/// What an append is made from.
struct Sender<'a> {
    log: &'a GroupLog,
    flow: &'a FlowView,
    limits: &'a Limits,
    group: GroupId,
    term: Term,
    commit: Index,
    everywhere: Index,
    round: u64,
    now: Time,
    /// When to ask after what is sent now.
    ask_at: Time,
}

impl<'a> Sender<'a> {
    fn new(
        cx: &Context<'a>,
        log: &'a GroupLog,
        group: GroupId,
        state: HardState,
        everywhere: Index,
        round: u64,
        ask_at: Time,
    ) -> Sender<'a> {
        assert_eq!(log.last_term(), state.term, "what a leader sends ends in its own term");
        Sender {
            log,
            flow: cx.flow,
            limits: cx.limits,
            group,
            term: state.term,
            commit: state.commit,
            everywhere,
            round,
            now: cx.now,
            ask_at,
        }
    }

    /// Sends as many entries as flow control and the peer's budget allow, or begins to read them back. True if anything was sent.
    fn send_entries(&mut self, progress: &mut Progress, fetches: &mut u64, out: &mut Outbox<Out>) -> bool {
        let before = progress.outstanding().bytes;
        progress.lacks = None;
        let mut sent = false;
        let size_max = if progress.careful { CAREFUL_BYTES_MAX } else { self.limits.append_bytes };
        while progress.may_send(self.now, self.limits) && progress.next <= self.log.last_index() {
            if progress.careful && !self.is_small(progress.next) {
                break;
            }
            let entries = self.entries_from(progress.next, size_max);
            let share = if entries.is_empty() { Share::CatchUp } else { Share::Recent };
            let taken = progress.outstanding().bytes - before;
            if !self.flow.may_take(self.group, progress.node, share, taken) {
                Sometimes::FollowersBudgetSpent.reached();
                progress.lacks = Some(share);
                break;
            }
            if entries.is_empty() {
                if progress.rotten.is_none_or(|(index, at)| index != progress.next || at <= self.now) {
                    self.fetch(progress, size_max, fetches, out);
                }
                break;
            }
            self.send_all(progress, entries, share, out);
            sent = true;
        }
        sent
    }

    /// Sends entries that follow what was sent before.
    fn send_all(&mut self, progress: &mut Progress, entries: Vec<Entry>, share: Share, out: &mut Outbox<Out>) {
        let previous = progress.next.previous();
        let size = entries.iter().map(|e| e.fact.size()).sum();
        progress.sent(Index(previous.0 + entries.len() as u64), size, share, self.ask_at);
        self.send(progress, previous, entries, out);
    }

    /// Whether an entry may be sent to a follower whose disk is full, to see whether it takes it.
    fn is_small(&self, index: Index) -> bool {
        match self.log.entry(index) {
            Some(entry) => entry.fact.size() <= CAREFUL_BYTES_MAX,
            None => self.log.place_of(index).is_some_and(|place| place.length as usize <= CAREFUL_BYTES_MAX),
        }
    }

    /// The entries from `first` on that are in memory, up to the limits of one append.
    fn entries_from(&self, first: Index, size_max: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut size = 0;
        let mut index = first;
        while entries.len() < self.limits.append_entries && size < size_max {
            let Some(entry) = self.log.entry(index) else { break };
            size += entry.fact.size();
            entries.push(entry);
            index = index.next();
        }
        entries
    }

    fn fetch(&self, progress: &mut Progress, size_max: usize, fetches: &mut u64, out: &mut Outbox<Out>) {
        *fetches += 1;
        let first = progress.next;
        let mut count = 0u64;
        let mut size = 0;
        while count < FETCH_ENTRIES_MAX as u64 && size < size_max {
            let index = Index(first.0 + count);
            let Some(place) = self.log.place_of(index).filter(|_| count == 0 || self.log.entry(index).is_none()) else { break };
            out.push(Out::ReadEntry(*fetches * FETCH_ENTRIES_MAX as u64 + count, place));
            size += place.length as usize;
            count += 1;
        }
        size += count as usize * READ_COST;
        progress.fetch = Some(Fetch { number: *fetches, first, entries: vec![None; count as usize], size });
    }

    /// Asks what has arrived of what was sent, by a question that goes behind it. In a stream it is about the last entry sent:
    /// what is missing makes it a conflict. In a probe it is about the entry before those sent: had they arrived, their
    /// answer would have come first.
    fn ask(&mut self, progress: &mut Progress, out: &mut Outbox<Out>) {
        self.send(progress, progress.next.previous(), Vec::new(), out);
    }

    fn send_empty(&mut self, progress: &mut Progress, out: &mut Outbox<Out>) {
        // While the match is not known, an empty append asks for it; else it stands on what is matched, and cannot conflict.
        let previous = match progress.pace {
            Pace::Probe { waiting: false } => progress.next.previous(),
            _ if progress.matched < self.log.base().index => progress.next.previous(),
            _ => progress.matched,
        };
        self.send(progress, previous, Vec::new(), out);
    }

    fn send(&mut self, progress: &mut Progress, previous: Index, entries: Vec<Entry>, out: &mut Outbox<Out>) {
        let last = Index(previous.0 + entries.len() as u64);
        if !entries.is_empty() {
            progress.timed.get_or_insert((last, self.now));
        }
        progress.round_sent = self.round;
        progress.commit_sent = progress.commit_sent.max(self.commit.min(last));
        let previous_term = self.log.term_at(previous).expect("what is sent follows an entry of the log");
        let append = Append {
            term: self.term,
            previous_index: previous,
            previous_term,
            entries,
            commit: self.commit,
            round: self.round,
            follower: progress.epoch,
            everywhere: self.everywhere,
            whole: progress.is_whole(self.commit),
        };
        out.push(Out::Send(progress.node, ReplicaMessage::Append(append)));
    }
}
