//! Votes, campaigns, acceptance of a leader, stepping down and releasing. See the module's docs for why leases are safe.

use super::leader::Leader;
use super::{Acceptance, Out, Replica, Role, TERM_STEP_MAX, Votes};
use crate::actor::{Context, Outbox};
use crate::base::random::below;
use crate::base::{Duration, Epoch, NodeId, Sometimes, Term};
use crate::msg::configuration::Configuration;
use crate::msg::log::{Entry, Fact};
use crate::msg::peer::{Released, ReplicaMessage, VoteReply, VoteRequest};

/// Patience for an election is doubled at most so often.
const ATTEMPTS_DOUBLED_MAX: u32 = 6;

impl Replica {
    pub(super) fn start(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        if !self.started {
            self.started = true;
            self.wait_for_leader(cx);
            self.announce(None, out);
        }
    }

    /// A unit of patience: elections are spread over a few of these, so that one candidate is usually alone.
    fn spread(&self) -> Duration {
        (self.options.support / 8).clamp(Duration::from_millis(5), Duration::from_millis(100))
    }

    /// Arms the election timer: soon, the preferred leader first.
    fn wait_for_leader(&mut self, cx: &mut Context<'_>) {
        let spread = self.spread().as_nanos() as u64;
        let rank = self.configuration().voters().iter().position(|node| *node == cx.me).unwrap_or(0) as u64;
        let mut patience = Duration::from_nanos(rank * spread / 2 + below(cx.random, spread));
        if self.others(cx.me).any(|node| self.may_take_over(cx, node)) {
            patience += self.options.support;
        }
        self.election_at = Some(cx.now.max(self.options.no_vote_until) + patience);
    }

    /// Whether this node is unfit to lead, and that one, which this node hears, is fit.
    fn may_take_over(&self, cx: &Context<'_>, node: NodeId) -> bool {
        cx.liveness.own_disk.unfit && !cx.liveness.disk_of(node).unfit && cx.liveness.supporting(node, cx.now).is_some()
    }

    /// How long an election may take, this replica's own or another's: one or two messages' round trips, and the syncs of the
    /// candidate's and of the voters' votes, behind those that are under way. More after attempts that came to nothing,
    /// whatever the reason.
    fn election_patience(&self, cx: &mut Context<'_>) -> Duration {
        let longest = self.options.support * 2 + cx.sync * 8;
        let wait = (self.options.support / 4 + cx.sync * 3) * (1 << (self.attempts / 2).min(ATTEMPTS_DOUBLED_MAX));
        let wait = wait.min(longest);
        wait + Duration::from_nanos(below(cx.random, wait.as_nanos() as u64 + 1))
    }

    pub(super) fn wants_to_campaign(&self, cx: &Context<'_>) -> bool {
        self.election_at.is_some_and(|at| at <= cx.now)
    }

    /// It is time to campaign: the node says when.
    pub(super) fn ask_turn(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        Sometimes::AmnesiacWouldCampaign.when(self.amnesiac);
        if self.stops || self.amnesiac || !self.configuration().is_voter(cx.me) {
            self.election_at = Some(cx.now + self.options.support * 8);
        } else if matches!(&self.role, Role::Candidate { votes } if !votes.has(cx.me)) {
            // Its own vote is still being synced. To start over would only put another behind it.
            Sometimes::CandidateWaitsForOwnVote.reached();
            self.election_at = Some(cx.now + self.election_patience(cx));
        } else {
            self.asked_turn = true;
            out.push(Out::AskTurn);
        }
    }

    pub(super) fn on_turn(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        self.asked_turn = false;
        if self.wants_to_campaign(cx) {
            self.campaign(cx, out);
        }
    }

    /// A peer supports this node again, or asks for a vote that this replica may have itself. Attempts that came to nothing before
    /// say nothing any more.
    pub(super) fn try_again_soon(&mut self, cx: &mut Context<'_>) {
        if self.attempts > 0 && matches!(self.role, Role::Follower { .. } | Role::PreCandidate { .. }) {
            Sometimes::CampaignAfterVainOnes.reached();
            self.attempts = 0;
            let planned = self.election_at;
            self.wait_for_leader(cx);
            self.election_at = planned.min(self.election_at);
        }
    }

    /// Whether this replica must ignore a candidate: it keeps a promise under which it accepted a leader, or leads by a lease
    /// itself.
    fn is_bound(&self, cx: &Context<'_>, candidate: NodeId, request: &VoteRequest) -> bool {
        if cx.now < self.options.no_vote_until {
            Sometimes::VoteBeforeOldPromisesEnd.reached();
            return true;
        }
        if let Role::Leader(leader) = &self.role {
            let leased = leader.has_lease(cx, self.configuration());
            Sometimes::VoteAskedOfLeaseholder.when(leased);
            Sometimes::VoteAskedOfLeaderWithoutLease.when(!leased);
            return leased;
        }
        let Some(Acceptance { leader, term, promise }) = self.accepted else { return false };
        assert!(term <= self.state.term, "no leader is accepted in a later term");
        // A node that campaigns for a later term does not lead in the earlier one any more.
        let gone = candidate == leader && request.term > term;
        let released = request.released == Some(Released { leader, term });
        let keeps = cx.liveness.supporting(leader, cx.now) == Some(promise);
        Sometimes::AcceptanceUnbound.when(keeps && gone);
        Sometimes::AcceptanceReleased.when(keeps && released);
        keeps && !released && !gone
    }

    fn is_up_to_date(&self, request: &VoteRequest) -> bool {
        (request.last_term, request.last_index) >= (self.log.last_term(), self.log.last_index())
    }

    /// Begins a campaign with a pre-vote.
    pub(super) fn campaign(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        let request = self.vote_request(self.state.term.next(), None);
        if self.leads() || self.is_bound(cx, cx.me, &request) {
            // While a promise is kept there is no timer: its end, or the leader's release, arms it again.
            self.election_at = None;
            if cx.now < self.options.no_vote_until {
                self.wait_for_leader(cx);
            }
            return;
        }
        self.attempts += 1;
        Sometimes::FourthCampaignInARow.when(self.attempts == 4);
        self.election_at = Some(cx.now + self.election_patience(cx));
        self.role = Role::PreCandidate { votes: Votes::default() };
        self.announce(None, out);
        for node in self.other_voters(cx.me) {
            out.push(Out::Send(node, ReplicaMessage::PreVote(request)));
        }
        let own = VoteReply { term: request.term, granted: true, lossy: self.lossy };
        self.on_pre_vote_reply(cx, cx.me, own, out);
    }

    fn jitter(&self, cx: &mut Context<'_>) -> Duration {
        Duration::from_nanos(below(cx.random, self.options.support.as_nanos() as u64 / 4 + 1))
    }

    fn vote_request(&self, term: Term, released: Option<Released>) -> VoteRequest {
        VoteRequest { term, last_index: self.log.last_index(), last_term: self.log.last_term(), released }
    }

    pub(super) fn on_pre_vote(&mut self, cx: &mut Context<'_>, from: NodeId, request: VoteRequest, out: &mut Outbox<Out>) {
        if self.is_bound(cx, from, &request) {
            Sometimes::PreVoteWhileBound.reached();
            return;
        }
        let granted = request.term > self.state.term && self.is_up_to_date(&request) && !self.amnesiac;
        Sometimes::PreVoteRefusedForLog.when(!self.is_up_to_date(&request));
        Sometimes::PreVoteOfEarlierTerm.when(request.term <= self.state.term);
        if granted && matches!(self.role, Role::Follower { .. }) {
            // A candidate that would win is given the time to: two of one term are of no use.
            let patience = cx.now + self.election_patience(cx);
            self.election_at = self.election_at.map(|at| at.max(patience));
        }
        if !self.is_up_to_date(&request) {
            // It will not win; but it is there, is bound to no leader, and lacks nothing that would keep it from voting for this
            // replica, of which it may have heard nothing as long as campaigns came to nothing (seed 3983).
            self.try_again_soon(cx);
        }
        let term = if granted { request.term } else { self.state.term };
        out.push(Out::Send(from, ReplicaMessage::PreVoteReply(VoteReply { term, granted, lossy: self.lossy })));
    }

    pub(super) fn on_pre_vote_reply(&mut self, cx: &mut Context<'_>, from: NodeId, reply: VoteReply, out: &mut Outbox<Out>) {
        if !reply.granted {
            self.adopt_from_reply(cx, reply.term, out);
            return;
        }
        let Role::PreCandidate { votes } = &mut self.role else { return };
        if reply.term != self.state.term.next() {
            return;
        }
        if votes.add(from, reply.lossy, self.log.configuration()) {
            self.stand(cx, None, out);
        }
    }

    /// Stands for election in the next term.
    fn stand(&mut self, cx: &mut Context<'_>, released: Option<Released>, out: &mut Outbox<Out>) {
        self.state.term = self.state.term.next();
        self.state.vote = Some(cx.me);
        self.accepted = None;
        out.push(Out::LogState(self.state));
        self.role = Role::Candidate { votes: Votes::default() };
        self.election_at = Some(cx.now + self.election_patience(cx));
        self.announce(None, out);
        let request = self.vote_request(self.state.term, released);
        for node in self.other_voters(cx.me) {
            out.push(Out::Send(node, ReplicaMessage::Vote(request)));
        }
        // Its own vote goes the way of all votes, so that it counts only once it is durable.
        let own = VoteReply { term: self.state.term, granted: true, lossy: self.lossy };
        out.push(Out::Send(cx.me, ReplicaMessage::VoteReply(own)));
    }

    pub(super) fn on_vote(&mut self, cx: &mut Context<'_>, from: NodeId, request: VoteRequest, out: &mut Outbox<Out>) {
        if self.is_bound(cx, from, &request) {
            Sometimes::VoteWhileBound.reached();
            return;
        }
        self.adopt(cx, request.term, out);
        Sometimes::AmnesiacAskedForVote.when(self.amnesiac);
        let free = self.state.vote.is_none_or(|vote| vote == from) && !self.leads() && !self.amnesiac;
        let granted = request.term == self.state.term && free && self.is_up_to_date(&request);
        Sometimes::VoteRefusedForTerm.when(request.term < self.state.term);
        Sometimes::VoteRefusedForVote.when(request.term == self.state.term && !free);
        Sometimes::VoteRefusedForLog.when(request.term == self.state.term && free && !granted);
        Sometimes::VoteRepeated.when(granted && self.state.vote.is_some());
        if granted && self.state.vote.is_none() {
            self.state.vote = Some(from);
            out.push(Out::LogState(self.state));
        }
        if granted {
            assert_eq!(self.state.vote, Some(from), "a term's vote is granted to one candidate");
            // Give the candidate time to win.
            self.role = Role::Follower { leader: None };
            self.election_at = Some(cx.now + self.election_patience(cx));
        }
        out.push(Out::Send(from, ReplicaMessage::VoteReply(VoteReply { term: self.state.term, granted, lossy: self.lossy })));
    }

    pub(super) fn on_vote_reply(&mut self, cx: &mut Context<'_>, from: NodeId, reply: VoteReply, out: &mut Outbox<Out>) {
        self.adopt_from_reply(cx, reply.term, out);
        let Role::Candidate { votes } = &mut self.role else { return };
        if !reply.granted || reply.term != self.state.term {
            Sometimes::VoteOfEarlierTermArrives.when(reply.granted);
            return;
        }
        Sometimes::LossyVoteCounted.when(reply.lossy);
        if votes.add(from, reply.lossy, self.log.configuration()) {
            self.lead(cx, out);
        } else if from == cx.me {
            // Only now are the others asked: the request waited for this vote.
            self.election_at = Some(cx.now + self.election_patience(cx));
        }
    }

    fn lead(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        assert_eq!(self.state.vote, Some(cx.me), "a leader has its own vote in its term");
        self.elections_won += 1;
        self.election_at = None;
        self.accepted = None;
        Sometimes::LossyReplicaElected.when(self.lossy);
        Sometimes::ElectedWithUncommittedEntries.when(self.log.last_index() > self.state.commit);
        self.lossy = false;
        let first = self.log.last_index().next();
        self.attempts = 0;
        self.note_comeback(cx);
        let patience = self.rebalance_patience(cx);
        let leader = Leader::new(cx, &self.log, first, patience);
        self.role = Role::Leader(Box::new(leader));
        self.on_fitness(cx);
        self.append_own(Entry { index: first, term: self.state.term, fact: Fact::Noop }, out);
        out.push(Out::Led(self.state.term, first.next()));
        self.announce(Some(cx.me), out);
        self.on_support_lost(cx);
        self.send_appends(cx, out);
    }

    /// Whether this follower accepted a leader under a promise that its node still keeps.
    fn keeps_acceptance(&self, cx: &Context<'_>) -> bool {
        self.accepted.is_some_and(|a| cx.liveness.supporting(a.leader, cx.now) == Some(a.promise))
    }

    /// Moves to the later term that a reply tells of, unless that would break an acceptance: the leader may hold a lease by it,
    /// and a late reply to this replica's own campaign, or to its own leadership, proves no election.
    pub(super) fn adopt_from_reply(&mut self, cx: &mut Context<'_>, term: Term, out: &mut Outbox<Out>) {
        if !self.keeps_acceptance(cx) {
            self.adopt(cx, term, out);
        } else {
            Sometimes::LaterTermInReplyIgnored.when(term > self.state.term);
        }
    }

    /// Moves to a later term, as a follower of nobody yet.
    pub(super) fn adopt(&mut self, cx: &mut Context<'_>, term: Term, out: &mut Outbox<Out>) {
        if term <= self.state.term {
            return;
        }
        let term = term.min(Term(self.state.term.0 + TERM_STEP_MAX));
        self.step_down(cx, out);
        self.state.term = term;
        self.state.vote = None;
        self.accepted = None;
        self.released.retain(|_, released| *released >= term);
        out.push(Out::LogState(self.state));
        self.announce(None, out);
        if self.election_at.is_none() {
            self.wait_for_leader(cx);
        }
    }

    /// Becomes a follower in the same term. A leader tells every voter that it is over.
    pub(super) fn step_down(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        if self.leads() {
            Sometimes::LeaderStepsDownUncommitted.when(self.log.last_index() > self.state.commit);
            for node in self.log.configuration().members().filter(|node| *node != cx.me) {
                self.releasing.insert(node, self.state.term);
            }
            self.release_wait = Duration::ZERO;
            out.push(Out::Deposed);
            self.role = Role::Follower { leader: None };
            self.announce(None, out);
            self.send_releases(cx, out);
            self.wait_for_leader(cx);
            self.log.trim(self.applied, self.applied, 0);
        } else {
            self.role = Role::Follower { leader: None };
        }
    }

    pub(super) fn send_releases(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        for (node, term) in &self.releasing {
            out.push(Out::Send(*node, ReplicaMessage::Released { term: *term }));
        }
        // A voter may be away for long: ever more slowly.
        Sometimes::ReleaseRepeated.when(self.release_wait > self.options.support);
        self.release_wait = (self.release_wait * 2).clamp(self.options.support / 2, self.options.support * 8);
        self.release_at = (!self.releasing.is_empty()).then(|| cx.now + self.release_wait);
    }

    /// A leader says that it leads no longer in `term`, nor then in any earlier one, of which the release may have been replaced
    /// by this.
    pub(super) fn on_released(&mut self, cx: &mut Context<'_>, from: NodeId, term: Term, out: &mut Outbox<Out>) {
        if term.0 > self.state.term.0 + TERM_STEP_MAX {
            // Not to be remembered, so not to be acknowledged: it comes again.
            return;
        }
        let released = self.released.entry(from).or_default();
        Sometimes::ReleaseOfEarlierTermArrives.when(term < *released);
        *released = term.max(*released);
        if self.accepted.is_some_and(|a| a.leader == from && a.term <= term) {
            Sometimes::AcceptanceEndsByRelease.reached();
            self.accepted = None;
            self.forget_leader(cx, out);
        }
        out.push(Out::Send(from, ReplicaMessage::ReleasedReply { term }));
    }

    pub(super) fn on_released_reply(&mut self, from: NodeId, term: Term) {
        if self.releasing.get(&from).is_some_and(|held| *held <= term) {
            self.released_by(from);
        }
    }

    fn released_by(&mut self, node: NodeId) {
        self.releasing.remove(&node);
        if self.releasing.is_empty() {
            self.release_at = None;
        }
    }

    fn forget_leader(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        if let Role::Follower { leader } = &mut self.role {
            *leader = None;
            self.announce(None, out);
            self.wait_for_leader(cx);
        }
    }

    /// This node no longer supports `peer`.
    pub(super) fn on_withdrawn(&mut self, cx: &mut Context<'_>, peer: NodeId, out: &mut Outbox<Out>) {
        let accepted = self.accepted.is_some_and(|a| a.leader == peer);
        let followed = matches!(self.role, Role::Follower { leader: Some(leader) } if leader == peer);
        if accepted {
            Sometimes::AcceptanceEndsWithPromise.reached();
            self.accepted = None;
        }
        if accepted || followed {
            self.forget_leader(cx, out);
        }
    }

    /// The peer is in a new epoch.
    pub(super) fn on_restarted(&mut self, cx: &mut Context<'_>, peer: NodeId, out: &mut Outbox<Out>) {
        self.released_by(peer);
        self.on_withdrawn(cx, peer, out);
        self.on_follower_epoch(cx, peer, cx.liveness.epoch_of(peer));
        self.on_support_lost(cx);
    }

    /// The leader asks this replica to campaign: it has given up its lease.
    pub(super) fn on_timeout_now(&mut self, cx: &mut Context<'_>, from: NodeId, term: Term, out: &mut Outbox<Out>) {
        let follows = matches!(self.role, Role::Follower { leader: Some(leader) } if leader == from);
        let released = Released { leader: from, term };
        let request = self.vote_request(self.state.term.next(), Some(released));
        let stands = self.configuration().is_voter(cx.me) && !self.lossy && !self.amnesiac && !self.stops;
        if term != self.state.term || !follows || !stands || self.is_bound(cx, cx.me, &request) {
            Sometimes::LeadershipOfferedTooLate.reached();
            return;
        }
        Sometimes::LeadershipOffered.reached();
        self.stand(cx, Some(released), out);
    }

    /// Notes the leader of the present term, and accepts it if this node supports its node now, in the epoch the message came
    /// from, and the message was to this epoch.
    pub(super) fn accept(
        &mut self,
        cx: &mut Context<'_>,
        leader: NodeId,
        epoch: Epoch,
        to_this_epoch: bool,
        out: &mut Outbox<Out>,
    ) {
        if self.released.get(&leader).is_some_and(|released| *released >= self.state.term) {
            // The append was late: the leadership is over, and no message would say so again.
            Sometimes::AppendAfterRelease.reached();
            return;
        }
        self.role = Role::Follower { leader: Some(leader) };
        self.attempts = 0;
        self.announce(Some(leader), out);
        if self.releasing.get(&leader).is_some_and(|term| *term < self.state.term) {
            // It leads a later term: what it accepted in ours is long void.
            Sometimes::ReleaseEndsWithLaterLeader.reached();
            self.released_by(leader);
        }
        let promise = cx.liveness.supporting(leader, cx.now);
        let term = self.state.term;
        let bound = promise.filter(|promise| to_this_epoch && promise.leader == epoch);
        let bound = bound.map(|promise| Acceptance { leader, term, promise });
        // What binds no more, because it was made for an earlier epoch, unbinds neither: the leader may hold a lease by what this
        // epoch said.
        let holds = |held: &Acceptance| (held.leader, held.term, Some(held.promise)) == (leader, term, promise);
        let held = self.accepted.filter(holds);
        Sometimes::AppendToEarlierEpochUnbindsNothing.when(bound.is_none() && held.is_some());
        Sometimes::LeaderFollowedWithoutPromise.when(promise.is_none());
        self.accepted = bound.or(held);
        // Without support there is nothing to wait on: the next append, or an election.
        self.election_at = match self.accepted {
            Some(_) => None,
            None => Some(cx.now + self.options.support + self.jitter(cx)),
        };
        assert!(self.accepted.is_none_or(|accepted| accepted.term == term), "a leader is accepted in its own term");
    }
}

impl Votes {
    fn has(&self, voter: NodeId) -> bool {
        self.sound.contains(&voter) || self.lossy.contains(&voter)
    }

    /// Counts a vote; true when the election is won.
    fn add(&mut self, from: NodeId, lossy: bool, configuration: &Configuration) -> bool {
        if lossy {
            self.lossy.insert(from);
        } else {
            self.sound.insert(from);
        }
        configuration.elects(|node| self.sound.contains(&node), |node| self.lossy.contains(&node))
    }
}
