//! Consensus for one group on one node: Raft (Ongaro & Ousterhout, 2014; Ongaro's dissertation), with leases by liveness.
//!
//! - this file: the states, what goes in and out, timers;
//! - [`election`](self): `election.rs`: votes, pre-votes, campaigns, acceptance, stepping down, releasing;
//! - `follower.rs`: appends as a follower takes them; `leader.rs`: appends as a leader sends them, commit, reads;
//!   `leader/handover.rs`: leaderships given away; `read_back.rs`: entries read back from the log;
//! - [`log`]: the entries, and the configuration that the last of them brought; [`progress`]: one follower as its leader sees it;
//! - [`quorum`]: what a quorum is, and what follows from it: elections, commits, leases.
//!
//! # States
//!
//! `Follower -> PreCandidate -> Candidate -> Leader`, and back to `Follower` from each. A pre-candidate asks whether it *would*
//! be elected and changes no term (dissertation, 9.6). Only a candidate raises the term.
//!
//! # What must be durable before what
//!
//! The node's gate holds every message until this node's log is durable up to what was appended before the message was made. So a
//! vote is durable before its reply leaves, a candidate's own vote before it counts (it is a reply sent to itself), an append's
//! entries before the acknowledgement, and a leader counts its own copy only when told `Durable`. Appends themselves wait for
//! nothing.
//!
//! # Leases, and why they are safe
//!
//! A follower that takes an append of leader L in term T *accepts* L: it notes (L, T, promise), where the promise is the one by
//! which its node supports L's at that moment. While its node keeps *that* promise, it ignores vote requests, does not adopt
//! their terms, and does not campaign. The leader holds a lease while a quorum, itself included, has accepted it under promises
//! that, by its own more cautious clock, still hold. Any election needs a vote from that quorum; so no other leader exists during
//! a lease.
//!
//! 1. *A lapse between two promises.* L's support from F lapses and returns. F may have voted meanwhile. The new promise has
//!    another number, so the old acceptance is void on both sides; L has to be accepted anew, by an append in its term, which F
//!    refuses if it voted.
//! 2. *A restart.* F forgets which leader it accepted. So a node grants no vote, its own included, until D after its boot: by
//!    then every promise of its former epoch has ended.
//! 3. *A transfer.* L gives up its lease for the rest of T before it asks the target to campaign. Only then may the request say
//!    "released (L, T)", which overrides an acceptance of exactly that. A later leader's acceptance is not overridden by a late
//!    copy of the request.
//! 4. *A leader that steps down, while its node lives on*: followers would go on supporting the node and so hold their acceptance
//!    for ever. L tells each voter "released (L, T)" until acknowledged, or until the voter is in a new epoch.
//! 5. *A late append after the release* would make the follower accept (L, T) once more, with no leader left to release it: L has
//!    its acknowledgement, and while L's heartbeats come the follower would ignore the campaigns of a connected majority. So it
//!    remembers the latest term that L released, and accepts L in none up to it. It forgets that in a restart; but an append
//!    names the epoch of the follower that it was made for, and binds no other (script `release`). Nor does an acceptance of (L,
//!    T) ever bind against L's own campaign for a later term, which proves that it is over. Nor does such an append *unbind*: for
//!    a while it voided what the present epoch had accepted, and F could vote while L still counted on it (script `restart`).
//! 6. *A late reply with a later term.* F campaigned once, then accepted (L, T). G, which had won F's pre-vote earlier, is in T+1
//!    and now answers F's old request. Adopting T+1 would void the acceptance while L counts on it, and F would vote for G. So a
//!    bound follower takes no term from a reply either.
//!
//! # Which replica leads, when a node is unfit
//!
//! A node whose disk is full, or far slower than its peers', answers heartbeats and keeps its leases: by the rules above it would
//! lead for as long as that lasts. So a leader on a node that is *unfit* (the liveness view says which is) hands its leadership
//! to a follower that is fit and nearly up to date, as a transfer, and retries until one takes it; a preferred leader that is
//! unfit gets nothing back; an unfit follower that hears of no leader campaigns after the others. Where no node is fit nothing
//! moves. None of this touches votes: if the unfit replica alone has all that is committed, it is elected.
//!
//! A follower without room takes leaders, terms, votes and commit indexes as ever, refuses the entries that need room
//! ([`AppendOutcome::Full`](crate::msg::peer::AppendOutcome)), says up to where it has all, and is left alone then: [`progress`]
//! says for how long.
//!
//! A read needs a lease, or a quorum round begun after it, *and* a committed entry of the leader's own term (dissertation, 6.4):
//! before that the leader does not know what is committed.
//!
//! # Relaxed syncing
//!
//! After an unclean start in relaxed mode, unless the machine has been up since the last epoch began (the page cache outlives a
//! process), a replica may have lost entries it acknowledged. It is *lossy*: it does not campaign unless it hears of no leader,
//! its votes say so, and count only when every voter votes. It ends when a leader has brought it up to its commit index, *which
//! is of the leader's own term*: a new leader's commit index may be older than an entry that was lost here, and was committed by
//! this replica's acknowledgement (script `relaxed`). The same goes for an append that was late: since it was sent, an entry may
//! have been committed by what this replica's *earlier* epoch acknowledged. So an append names the epoch of the follower that the
//! leader knows, and ends the caution of that epoch alone; and a leader that hears of a new epoch begins the follower's progress
//! anew *before* it handles the message, so that nothing an earlier epoch acknowledged is counted from then on. What was
//! committed by it before is below the commit index that goes to the new one (script `late_append`).
//!
//! # Amnesia
//!
//! A replica whose log was damaged, or an old copy, may have forgotten what relaxed syncing never loses: that it was in a later term, and voted in
//! it. It is *amnesiac*: it gives no vote and does not campaign, and says so in its replies to appends, so that its leader sends it
//! what it lacks and counts nothing of it, neither copies nor rounds nor acceptances. To be sent all up to the commit index ends
//! nothing: by an old leader's word, in an old term, it would count again while a later leader, elected by its forgotten vote,
//! has committed what it forgot. So the leader proposes an entry *after* it has heard of the amnesia in this epoch of the
//! follower. Once that is committed, by a quorum without the follower, and the follower has it, the leader says that it is whole
//! ([`Append::whole`](crate::msg::peer::Append::whole)). Why this is enough, with T the leader's term, E that entry, and Q the
//! quorum that has it: each of Q took E after the follower had forgotten, in term T.
//!
//! - *Votes that it forgot, in terms after T.* Such a candidate asked for them before E was there, so it lacks E. It needs a vote
//!   of one of Q as well: given before E, that voter was beyond T and would not have taken E; given after, E refuses it. So no
//!   such candidate wins, and a second vote of the follower in that term makes no second leader.
//! - *Entries that it acknowledged in terms after T.* Their leader was elected before E, by a quorum that shares one with Q. There
//!   was none.
//! - *Entries that it acknowledged in T or before* are in the log of T's leader, as far as they were committed: by an election
//!   that the follower's honest vote took part in, or not at all. They stand before E, and the follower has E.
//!
//! Where half of a group's voters or more are amnesiac, no leader can be elected, and the group waits for those that are not: of
//! what was committed by the forgotten acknowledgements there may be no other copy.
//!
//! # Terms that are too far ahead
//!
//! A term is raised one election at a time, and a wrong one that is logged stays for ever. So no message raises a term by more
//! than `TERM_STEP_MAX`: a reply that tells of more raises it by that much, and so does a vote request or an append, which is
//! then not for the term that was come to and goes unanswered. Peers that are further apart than one step still come together, a
//! message at a time; a single strange message costs one step of the 2^46 there are. A release beyond one step is not remembered,
//! and so not acknowledged.
//!
//! # Elections that come to an end, leaderships that are of use
//!
//! - *A turn.* A node lets a bounded number of its groups campaign at a time (`node::campaigns`): a replica whose time has come
//!   asks for a turn.
//! - *Patience* with an election, one's own or another's, covers the syncs of votes by what a sync takes here as of late, and is
//!   doubled, up to two support spans and some syncs, with every second attempt that came to nothing. A candidate whose own vote
//!   is not durable yet does not start over. A candidate that would win by this replica's pre-vote is given the time to.
//! - *A leader that flaps* keeps its support by the few heartbeats that pass, and commits nothing for half of the time. One whose
//!   commits are late again and again, by far more than its quickest of late and than its disk's syncs, hands the leadership
//!   over.
//! - *Back-off.* A leadership that this node gave away by itself, to the preferred leader or because it stalled, and that no
//!   replica took or that soon came back, is kept twice as long the next time. It is not given to a preferred leader that
//!   acknowledges far more slowly than the others.
//! - *A transfer begins with a question.* The target may be gone, and its promise last for almost D. So nothing is given up, nor
//!   paused, before it has answered what was sent since the transfer began: a round, or a heartbeat, which does not stand behind
//!   bulk.
//! - *A stop* offers the leadership to one follower after the other, and the node stands no more itself.
//!
//! # Configurations
//!
//! Which replicas vote, and which only learn, is said by the group's log: a [`Configuration`] is in force from the entry that
//! brings it, committed or not (dissertation, section 4.1); the first is that of the placement. A joint one needs a quorum of
//! each of its two sets (section 4.3). A learner is sent all entries, and neither votes nor campaigns. A leader that the
//! committed configuration leaves out steps down.
//!
//! # Left out on purpose, for now
//!
//! What proposes a configuration: nothing changes a group's members yet.
//!
//! Elsewhere: the transfer of a group's state (`node/snapshots.rs`). The log has a *base*, up to which it is empty ([`log`]); it
//! rises with checkpoints. A follower that lags is fed from the leader's log; to one that lacks the base nothing is sent that could
//! join on, and the node is told that it needs the group's state.

mod election;
mod follower;
mod leader;
pub mod log;
pub mod progress;
pub mod quorum;
#[cfg(test)]
mod tests;

use crate::actor::{Actor, Committed, Context, Outbox, TimerKind};
use crate::base::limits::COUNTER_MAX;
use crate::base::{Duration, Epoch, GroupId, Index, NodeId, Place, Term, Time};
use crate::msg::configuration::Configuration;
use crate::msg::log::{Entry, Fact, HardState, LogBase, Placed};
use crate::msg::peer::{Promise, ReplicaMessage};
use leader::Leader;
use log::GroupLog;
use std::collections::{BTreeMap, BTreeSet};

/// No message of a later term is believed, so that the next term can always be counted, and logged.
const TERM_MAX: Term = Term(COUNTER_MAX / 2);
/// By how much one message raises a replica's term at most. Beyond: raised by this much, and the message is not for the term that
/// it came to.
const TERM_STEP_MAX: u64 = 1 << 16;

#[derive(Debug, Clone)]
pub struct ReplicaOptions {
    pub group: GroupId,
    /// D.
    pub support: Duration,
    /// Before this no vote is granted, not even its own: promises of an earlier epoch may still hold.
    pub no_vote_until: Time,
    /// Acknowledged entries may be missing (relaxed syncing and an unclean start).
    pub lossy: bool,
    /// So may votes: the log was damaged.
    pub amnesiac: bool,
    /// What this node acknowledges in this epoch is synced.
    pub synced: bool,
}

/// Why an entry was not read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// Too many reads wait for the disk.
    Overloaded,
    /// Its bytes are not what was written, or cannot be read.
    Rotten,
}

#[derive(Debug)]
pub enum In {
    /// The node is let in by the cluster: take part from now on.
    Start,
    /// From a peer, in this epoch of it. A candidate's own vote comes this way too.
    Message(NodeId, Epoch, ReplicaMessage),
    /// An entry of this leader's term, which must be the next.
    Propose {
        index: Index,
        term: Term,
        fact: Fact,
    },
    /// Say so when it is certain that this node led beyond this moment.
    Confirm(u64),
    /// Say so when every voter has the entry, durably.
    WatchAll(Index),
    Placed(Placed),
    /// This node's own copy of the entry, and all before, may be counted.
    Durable(Index, Term),
    SupportGained(NodeId),
    SupportLost(NodeId),
    Withdrawn(NodeId),
    Restarted(NodeId),
    /// This node has become unfit to lead, or fit again.
    Fitness,
    /// The peer's disk has room again, or the peer is fit to lead again.
    Recovered(NodeId),
    /// An entry that was asked for by `Out::ReadEntry`.
    Entry(u64, Result<Entry, Unread>),
    /// Entries up to this are needed no more: a checkpoint stands for them.
    Compact(Index),
    /// The store has the state up to there, from this follower's leader: the log begins behind it, in this configuration.
    Install(LogBase, Box<Configuration>),
    /// The follower has the group's state up to this index, which it lacked.
    Installed(NodeId, Index),
    /// Its turn has come to campaign, if it still wants to.
    Turn,
    /// The node stops: hand the leadership over, to one after the other until one takes it, and do not stand any more.
    Stop,
    /// The end of a round of steps: send what was proposed.
    Flush,
    Timer,
}

#[derive(Debug)]
pub enum Out {
    Send(NodeId, ReplicaMessage),
    LogState(HardState),
    /// An entry, and the commit index known with it.
    LogEntry(Entry, Index),
    Apply(Committed),
    /// It wants to campaign. The node answers `Turn`, now or when fewer groups campaign.
    AskTurn,
    /// This node leads in this term; proposals go on from this index.
    Led(Term, Index),
    /// This node does not lead any more.
    Deposed,
    /// Proposals are not taken (`true`) while the leadership is handed over, or taken again.
    Paused(bool),
    /// Which node leads, as far as this replica knows, and in which term.
    Leader(Option<NodeId>, Term),
    Confirmed(u64),
    /// Every voter has everything up to here, durably.
    AllMatched(Index),
    ReadEntry(u64, Place),
    /// The follower lacks what this leader's log does not hold any more: it needs the group's state.
    LacksBase(NodeId),
    /// Propose an entry that says nothing: its commit ends a follower's amnesia.
    WantsEntry,
    /// This replica's amnesia is over.
    Whole,
}

#[derive(Debug)]
pub struct Replica {
    options: ReplicaOptions,
    started: bool,
    state: HardState,
    role: Role,
    log: GroupLog,
    /// What consensus has handed to the store. Never above `state.commit`.
    applied: Index,
    /// This node's own copy is durable up to here, in the term that was durable with it.
    durable: Index,
    /// Every member's copy is durable up to here, as far as this replica knows. Never decreases: what was synced is not lost.
    everywhere: Index,
    /// The leader that this follower accepted, and under which promise.
    accepted: Option<Acceptance>,
    /// When to campaign; `None` while a leader is accepted.
    election_at: Option<Time>,
    /// It is time to campaign, and the node was asked for a turn: until that comes there is no timer.
    asked_turn: bool,
    /// Campaigns since a leader was known.
    attempts: u32,
    /// The node stops: it leads nothing any more if another can.
    stops: bool,
    handovers: Handovers,
    /// Terms in which this node led, and that these voters have not yet confirmed to be over.
    releasing: BTreeMap<NodeId, Term>,
    /// The latest term in which each voter said that it leads no longer, if that is not before the present term.
    released: BTreeMap<NodeId, Term>,
    release_at: Option<Time>,
    /// How long the next wait for confirmations is.
    release_wait: Duration,
    /// What this replica last said about the leader.
    announced: (Option<NodeId>, Term),
    lossy: bool,
    /// What this replica acknowledged, and how it voted, may be forgotten.
    amnesiac: bool,
    /// Elections won here.
    pub elections_won: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acceptance {
    leader: NodeId,
    term: Term,
    promise: Promise,
}

#[derive(Debug)]
enum Role {
    /// `leader`: the leader that was heard of in this term.
    Follower {
        leader: Option<NodeId>,
    },
    PreCandidate {
        votes: Votes,
    },
    Candidate {
        votes: Votes,
    },
    Leader(Box<Leader>),
}

/// Leaderships that this node gave away by itself: to the preferred leader, or because it could not commit.
#[derive(Debug, Default)]
struct Handovers {
    last: Option<Time>,
    /// How many in a row came to nothing: no replica took over, or the leadership soon came back.
    vain: u32,
}

#[derive(Debug, Default)]
struct Votes {
    sound: BTreeSet<NodeId>,
    lossy: BTreeSet<NodeId>,
}

impl Replica {
    /// A replica as recovery found it. What is up to `log`'s recovered commit index counts as applied by the store already.
    pub fn new(options: ReplicaOptions, state: HardState, log: GroupLog) -> Replica {
        let commit = state.commit.min(log.last_index()).max(log.base().index);
        let durable = log.last_index();
        let (lossy, amnesiac) = (options.lossy, options.amnesiac);
        Replica {
            options,
            started: false,
            state: HardState { commit, ..state },
            role: Role::Follower { leader: None },
            log,
            applied: commit,
            durable,
            everywhere: Index::ZERO,
            accepted: None,
            election_at: None,
            asked_turn: false,
            attempts: 0,
            stops: false,
            handovers: Handovers::default(),
            releasing: BTreeMap::new(),
            released: BTreeMap::new(),
            release_at: None,
            release_wait: Duration::ZERO,
            announced: (None, Term::ZERO),
            lossy,
            amnesiac,
            elections_won: 0,
        }
    }

    pub fn term(&self) -> Term {
        self.state.term
    }

    pub fn commit(&self) -> Index {
        self.state.commit
    }

    pub fn applied(&self) -> Index {
        self.applied
    }

    /// This node's own copy may be acknowledged up to here: it is durable, unless syncing is relaxed.
    pub fn durable(&self) -> Index {
        self.durable
    }

    /// Every member's copy is durable up to here, as far as this replica knows.
    pub fn everywhere(&self) -> Index {
        self.everywhere
    }

    /// What it must not forget.
    pub fn hard_state(&self) -> HardState {
        self.state
    }

    /// Whether it takes part: the group's voters have let its node in.
    pub fn has_started(&self) -> bool {
        self.started
    }

    /// Whether an election of its own is under way.
    pub fn campaigns(&self) -> bool {
        matches!(self.role, Role::PreCandidate { .. } | Role::Candidate { .. })
    }

    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whether it follows that leader in this term.
    pub fn follows(&self, leader: NodeId, term: Term) -> bool {
        self.started && self.state.term == term && matches!(self.role, Role::Follower { leader: Some(known) } if known == leader)
    }

    /// Whether acknowledged entries may be missing here.
    pub fn is_lossy(&self) -> bool {
        self.lossy
    }

    /// Whether acknowledged entries, and votes, may be missing here.
    pub fn is_amnesiac(&self) -> bool {
        self.amnesiac
    }

    pub fn log(&self) -> &GroupLog {
        &self.log
    }

    /// Which replicas take part, by the last configuration in the log.
    pub fn configuration(&self) -> &Configuration {
        self.log.configuration()
    }

    /// Which node leads, as far as this replica knows, and in which term.
    pub fn known_leader(&self) -> (Option<NodeId>, Term) {
        self.announced
    }

    /// The leader by preference.
    fn preferred(&self) -> NodeId {
        self.configuration().voters()[0]
    }

    /// All members but this node.
    fn others(&self, me: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.configuration().members().filter(move |node| *node != me)
    }

    /// The voters but this node.
    fn other_voters(&self, me: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.others(me).filter(|node| self.configuration().is_voter(*node))
    }

    /// Hands what is committed to the store.
    fn apply(&mut self, out: &mut Outbox<Out>) {
        assert!(self.applied <= self.state.commit, "only what is committed is applied");
        assert!(self.state.commit <= self.log.last_index(), "only what is in the log is committed");
        // An entry that came committed is applied once the log has placed it, within the same step.
        while self.applied < self.state.commit && self.log.is_placed(self.applied.next()) {
            self.applied = self.applied.next();
            out.push(Out::Apply(self.log.committed(self.applied)));
        }
        if !self.leads() {
            self.log.trim(self.applied, self.applied, 0);
        }
    }

    fn announce(&mut self, leader: Option<NodeId>, out: &mut Outbox<Out>) {
        if self.announced != (leader, self.state.term) {
            self.announced = (leader, self.state.term);
            out.push(Out::Leader(leader, self.state.term));
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: NodeId, epoch: Epoch, message: ReplicaMessage, out: &mut Outbox<Out>) {
        if !self.configuration().is_member(from) || message.term() > TERM_MAX {
            return;
        }
        self.on_follower_epoch(cx, from, epoch);
        match message {
            ReplicaMessage::PreVote(request) => self.on_pre_vote(cx, from, request, out),
            ReplicaMessage::PreVoteReply(reply) => self.on_pre_vote_reply(cx, from, reply, out),
            ReplicaMessage::Vote(request) => self.on_vote(cx, from, request, out),
            ReplicaMessage::VoteReply(reply) => self.on_vote_reply(cx, from, reply, out),
            ReplicaMessage::Append(append) => self.on_append(cx, from, epoch, append, out),
            ReplicaMessage::AppendReply(reply) => self.on_append_reply(cx, from, epoch, reply, out),
            ReplicaMessage::TimeoutNow { term } => self.on_timeout_now(cx, from, term, out),
            ReplicaMessage::Released { term } => self.on_released(cx, from, term, out),
            ReplicaMessage::ReleasedReply { term } => self.on_released_reply(from, term),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        if self.release_at.is_some_and(|at| at <= cx.now) {
            self.send_releases(cx, out);
        }
        if self.wants_to_campaign(cx) && !self.asked_turn {
            self.ask_turn(cx, out);
        }
        self.on_leader_timer(cx, out);
    }
}

impl Actor for Replica {
    type In = In;
    type Out = Out;

    fn handle(&mut self, cx: &mut Context<'_>, input: In, out: &mut Outbox<Out>) {
        match input {
            In::Start => self.start(cx, out),
            _ if !self.started => {}
            In::Message(from, epoch, message) => self.on_message(cx, from, epoch, message, out),
            In::Propose { index, term, fact } => self.on_propose(cx, index, term, fact, out),
            In::Confirm(tag) => self.on_confirm(cx, tag, out),
            In::WatchAll(index) => self.on_watch_all(cx, index, out),
            In::Placed(placed) => {
                self.log.placed(&placed);
                self.apply(out);
            }
            In::Durable(index, term) => self.on_durable(cx, index, term, out),
            In::SupportGained(peer) => self.on_support_gained(cx, peer, out),
            In::SupportLost(_) => self.on_support_lost(cx),
            In::Withdrawn(peer) => self.on_withdrawn(cx, peer, out),
            In::Restarted(peer) => self.on_restarted(cx, peer, out),
            In::Fitness => self.on_fitness(cx),
            In::Recovered(peer) => self.on_recovered(cx, peer),
            In::Entry(tag, entry) => self.on_entry_read(cx, tag, entry, out),
            In::Compact(to) => self.on_compact(cx, to),
            In::Install(base, configuration) => self.on_install(base, *configuration),
            In::Installed(follower, index) => self.on_installed(cx, follower, index),
            In::Turn => self.on_turn(cx, out),
            In::Stop => self.on_stop(cx, out),
            In::Flush => self.send_appends(cx, out),
            In::Timer => self.on_timer(cx, out),
        }
    }

    fn deadline(&self) -> Option<(Time, TimerKind)> {
        let leader = match &self.role {
            Role::Leader(leader) => leader.deadline(),
            _ => None,
        };
        let election = self.election_at.filter(|_| !self.asked_turn);
        let at = [election, self.release_at, leader].into_iter().flatten().min()?;
        Some((at, TimerKind::Replica(self.options.group)))
    }

    fn check(&self) {
        self.log.check();
        assert!(self.log.base().index <= self.applied, "what is gone from the log is applied");
        assert!(self.applied <= self.state.commit, "only what is committed is applied");
        assert!(self.state.commit <= self.log.last_index(), "only what is in the log is committed");
        assert!(self.durable <= self.log.last_index(), "only what is in the log is durable");
        assert!(self.log.last_term() <= self.state.term, "no entry is of a later term than the replica's");
        if let Some(accepted) = &self.accepted {
            assert!(accepted.term <= self.state.term, "no leader is accepted in a later term");
        }
        assert!(self.releasing.is_empty() || self.release_at.is_some(), "voters that have not heard of a release are told again");
        match &self.role {
            Role::Leader(leader) => leader.check(&self.log),
            // The end of the promise, or the leader's release, arms the timer.
            Role::Follower { .. } => assert!(
                !self.started || self.election_at.is_some() || self.accepted.is_some(),
                "a follower that keeps no promise campaigns some day"
            ),
            Role::PreCandidate { .. } | Role::Candidate { .. } => assert!(self.election_at.is_some(), "a campaign ends in time"),
        }
        if self.amnesiac {
            assert!(!self.leads() && !self.campaigns(), "an amnesiac replica neither leads nor campaigns");
        }
    }
}
