//! The failure detector: one heartbeat stream per pair of nodes, however many groups they share.
//!
//! After "store liveness" (CockroachDB) and leader leases (Gray & Cheriton, 1989; Ongaro's dissertation, section 6.4.1). Node L
//! sends "I am alive in epoch e", node S answers "I support L@e for D". The answer carries a [`Promise`], the name of one
//! unbroken span of support. Groups build on it. A follower that accepted leader L under a promise neither votes nor campaigns
//! while it keeps that promise. A leader whose quorum has accepted it under promises that hold may read without a round trip.
//!
//! # What ends when
//!
//! - S counts D from the *receipt* of the heartbeat. L counts it from its own *sending*, shortened by the drift bound. So L's
//!   view always ends before S's, however slow the messages are.
//! - A promise that lapsed never revives: S raises the promise's number the next time it supports L. Otherwise L could believe
//!   that a follower accepted it without a gap, while the follower voted for another in between.
//! - A restart of either side is another epoch and voids every earlier promise of the pair. Promises are volatile; that is why a
//!   node grants no vote for D after its boot (see `replica`).
//!
//! # Which nodes are reached, and through which others
//!
//! A heartbeat says which members the sender's own links do not reach, and over how many links other nodes would take a message
//! there. These are distances, as in RIP (RFC 2453), bounded by [`crate::base::limits::RELAY_LINKS_MAX`]. The list is empty when
//! all is well. The node's `relay.rs` uses it for messages that have no other way. A heartbeat also tells its receiver the epochs
//! of the members that the receiver does not reach. Without that a forward that goes round a cut link might name an epoch that is
//! over, and its write would have to be told unknown. Support is never given or counted through other nodes.
//!
//! Phi accrual (Hayashibara et al., 2004), with exponentially distributed arrivals, grades suspicion for routing and the
//! dashboard. It is never an input to safety.
//!
//! # Which node should lead
//!
//! A node that answers heartbeats may still be a bad leader: its disk is full, or far slower than its peers'. Each heartbeat says
//! how the sender's disk does, and whether the sender finds itself *unfit* to lead ([`fitness`](self): `fitness.rs`). An unfit
//! node hands its leaderships away and is given none, as long as another node is fit. Like suspicion this is never an input to
//! safety.
//!
//! Nothing here is durable. Heartbeats wait in the node's gate until the epoch is durable, so that no epoch is used twice.

mod fitness;

use crate::actor::{Actor, Context, LivenessView, Outbox, TimerKind};
use crate::base::{Duration, Epoch, Lsn, NodeId, Sometimes, Time};
use crate::msg::client::PeerReport;
use crate::msg::peer::{DiskHealth, Heartbeat, HeartbeatReply, PeerMessage, Promise};
use fitness::{Fitness, is_slow};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy)]
pub struct LivenessOptions {
    pub heartbeat_interval: Duration,
    /// D: for how long a promise holds.
    pub support: Duration,
    /// How much two clocks may drift apart, in parts per million.
    pub clock_drift_ppm_max: u32,
}

#[derive(Debug)]
pub enum In {
    /// Begin to send heartbeats to these peers.
    Start(Vec<NodeId>),
    /// An admitted heartbeat, and the epoch of its sender.
    Heartbeat(NodeId, Epoch, Heartbeat),
    Reply(NodeId, Epoch, HeartbeatReply),
    /// The link to the peer is said to be up, or down.
    Link {
        peer: NodeId,
        up: bool,
    },
    Timer,
}

#[derive(Debug)]
pub enum Out {
    Send(NodeId, PeerMessage),
    /// The peer promised this node support by a promise that is new.
    SupportGained(NodeId),
    /// The peer's promise to this node has ended, in this node's cautious view.
    SupportLost(NodeId),
    /// This node no longer supports the peer.
    Withdrawn(NodeId),
    /// The peer is in a new epoch: everything it promised, and was promised, is void.
    Restarted(NodeId),
    /// This node has become unfit to lead, or fit again: see [`LivenessView::own_disk`].
    Fitness,
    /// The peer's disk has room again, or the peer is fit to lead again.
    Recovered(NodeId),
}

/// How long a link that went down is believed to be: news of it is a hint, and may not come.
const LINK_DOWN_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Liveness {
    options: LivenessOptions,
    view: LivenessView,
    peers: BTreeMap<NodeId, Peer>,
    /// When the next round of heartbeats is due; `None` before the start.
    heartbeat_at: Option<Time>,
    /// The earliest end of a promise given or received; never later than the true one.
    lapse_at: Time,
    /// Of this node's log; goes out with every heartbeat. And as it was first set.
    durable: Lsn,
    began: Option<Lsn>,
    /// The epoch before the present one; goes out with every heartbeat.
    previous: Epoch,
    /// Of this node's disk: it is full; how long a sync takes.
    disk: (bool, Duration),
    fitness: Fitness,
}

/// What is kept of a peer besides the view.
#[derive(Debug, Default)]
struct Peer {
    /// The number of the next promise to the peer; never decreases within its epoch.
    next_number: u64,
    /// When the last heartbeat came.
    heard: Option<Time>,
    /// Mean time between heartbeats, in nanoseconds, exponentially weighted.
    mean_interval: u64,
    up: bool,
    /// Since when `up` is as it is.
    since: Time,
}

impl Liveness {
    pub fn new(options: LivenessOptions) -> Liveness {
        Liveness {
            options,
            view: LivenessView::new(options.support / 2),
            peers: BTreeMap::new(),
            heartbeat_at: None,
            lapse_at: Time::NEVER,
            durable: Lsn::ZERO,
            began: None,
            previous: Epoch::ZERO,
            disk: (false, Duration::ZERO),
            fitness: Fitness::default(),
        }
    }

    pub fn view(&self) -> &LivenessView {
        &self.view
    }

    /// The highest durable position of this node's log. Set first at boot, before anything of this epoch is in the log.
    pub fn set_durable(&mut self, durable: Lsn) {
        self.began.get_or_insert(durable);
        self.durable = durable;
    }

    /// How this node's disk does: whether it is full, and how long a sync takes. Judged at the next round of heartbeats.
    pub fn set_disk(&mut self, full: bool, sync: Duration) {
        self.disk = (full, sync);
    }

    /// The epoch of this node before the present one.
    pub fn set_previous(&mut self, previous: Epoch) {
        self.previous = previous;
    }

    /// What this node knows of each peer; `entries_behind` is left for the caller.
    pub fn report(&self, now: Time) -> Vec<PeerReport> {
        self.peers
            .iter()
            .map(|(node, peer)| PeerReport {
                node: *node,
                up: peer.up,
                since_ms: now.since(peer.since).as_millis() as u64,
                entries_behind: 0,
                phi_hundredths: self.phi_hundredths(peer, now),
            })
            .collect()
    }

    fn phi_hundredths(&self, peer: &Peer, now: Time) -> u32 {
        // phi = -log10(P(a heartbeat comes later than this)) = elapsed / (mean * ln 10)
        let Some(heard) = peer.heard else { return 0 };
        let mean = u128::from(peer.mean_interval.max(1));
        u32::try_from(now.since(heard).as_nanos() * 100 * 4_343 / (mean * 10_000)).unwrap_or(u32::MAX)
    }

    fn on_heartbeat(&mut self, cx: &Context<'_>, from: NodeId, epoch: Epoch, heartbeat: Heartbeat, out: &mut Outbox<Out>) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let interval = self.options.heartbeat_interval.as_nanos() as u64;
        if let Some(heard) = peer.heard {
            let gap = (cx.now.since(heard).as_nanos() as u64).min(interval * 64);
            peer.mean_interval = (peer.mean_interval * 15 + gap) / 16;
        } else {
            peer.mean_interval = interval;
        }
        peer.heard = Some(cx.now);
        if !peer.up {
            peer.up = true;
            peer.since = cx.now;
        }
        if !self.see_epoch(cx, from, epoch, out) {
            return;
        }
        let disk = &mut self.view.entry(from).disk;
        let before = std::mem::replace(disk, heartbeat.disk);
        if (before.full && !heartbeat.disk.full) || (before.unfit && !heartbeat.disk.unfit) {
            Sometimes::PeersDiskRecovers.reached();
            out.push(Out::Recovered(from));
        }
        let until = cx.now + self.options.support;
        let peer = self.peers.get_mut(&from).expect("looked up above");
        let entry = self.view.entry(from);
        entry.detours = heartbeat.detours;
        entry.epochs = heartbeat.epochs;
        let began = entry.given.is_none() && entry.received.is_none();
        let promise = match entry.given {
            Some((promise, end)) if cx.now < end => {
                assert_eq!(promise.leader, epoch, "support is given to the peer's present epoch");
                assert!(promise.number < peer.next_number, "a promise's number is used once");
                entry.given = Some((promise, until.max(end)));
                promise
            }
            lapsed => {
                let promise = Promise { leader: epoch, supporter: cx.epoch, number: peer.next_number };
                peer.next_number += 1;
                entry.given = Some((promise, until));
                Sometimes::PromiseLapsedUnnoticed.when(lapsed.is_some());
                Sometimes::SupportGivenAnew.when(promise.number > 0);
                if lapsed.is_some() {
                    // The lapse was not noticed by the timer yet; acceptances under the old promise are void all the same.
                    out.push(Out::Withdrawn(from));
                }
                promise
            }
        };
        self.lapse_at = self.lapse_at.min(until);
        out.push(Out::Send(from, PeerMessage::HeartbeatReply(HeartbeatReply { sent: heartbeat.sent, promise })));
        if began {
            // It has just formed, restarted, or come back into reach: its support, too, is asked for at once, and not at the next
            // beat only.
            out.push(Out::Send(from, self.heartbeat(cx, from)));
        }
    }

    fn heartbeat(&self, cx: &Context<'_>, to: NodeId) -> PeerMessage {
        PeerMessage::Heartbeat(Heartbeat {
            sent: cx.now.0,
            durable: self.durable,
            began: self.began.unwrap_or_default(),
            previous: self.previous,
            disk: self.view.own_disk,
            detours: self.view.detours_for(to, cx.now),
            epochs: self.view.epochs_for(to, cx.now),
            clock_ms: cx.wall_clock_ms,
        })
    }

    fn on_reply(&mut self, cx: &Context<'_>, from: NodeId, epoch: Epoch, reply: HeartbeatReply, out: &mut Outbox<Out>) {
        if !self.peers.contains_key(&from) || !self.see_epoch(cx, from, epoch, out) {
            return;
        }
        let promise = reply.promise;
        // The sent time is our own, echoed; one from the future is no echo of ours.
        if promise.leader != cx.epoch || promise.supporter != epoch || reply.sent > cx.now.0 {
            Sometimes::PromiseToEarlierEpoch.when(promise.leader < cx.epoch);
            return;
        }
        let held_ppm = u64::from(1_000_000 - self.options.clock_drift_ppm_max.min(999_999));
        let support = self.options.support.as_nanos() as u64;
        let until = Time(reply.sent) + Duration::from_nanos((u128::from(support) * u128::from(held_ppm) / 1_000_000) as u64);
        let entry = self.view.entry(from);
        match &mut entry.received {
            Some((held, end)) if *held == promise => *end = until.max(*end),
            Some((held, _)) if promise < *held => {
                Sometimes::EarlierPromiseArrives.reached();
                return;
            }
            received => {
                if until <= cx.now {
                    Sometimes::PromiseArrivesTooLate.reached();
                    return;
                }
                *received = Some((promise, until));
                out.push(Out::SupportGained(from));
            }
        }
        entry.answered_until = entry.answered_until.max(until);
        entry.answered = entry.answered.max(Time(reply.sent));
        self.lapse_at = self.lapse_at.min(until);
    }

    /// Notes the peer's epoch. False when the message is of an earlier epoch than the one already seen.
    fn see_epoch(&mut self, cx: &Context<'_>, from: NodeId, epoch: Epoch, out: &mut Outbox<Out>) -> bool {
        let entry = self.view.entry(from);
        if epoch < entry.epoch {
            return false;
        }
        if epoch > entry.epoch {
            let known = entry.epoch != Epoch::ZERO;
            Sometimes::PeerRestartsSupported.when(known && entry.given.is_some_and(|(_, end)| cx.now < end));
            Sometimes::PeerRestartsSupporting.when(known && entry.received.is_some());
            if known {
                // By its own clock, which may be slower.
                let drift_ppm = u128::from(self.options.clock_drift_ppm_max);
                let stretched = self.options.support.as_nanos() * (1_000_000 + drift_ppm) / 1_000_000;
                entry.votes_from = cx.now + Duration::from_nanos(stretched as u64);
            }
            entry.epoch = epoch;
            entry.given = None;
            entry.received = None;
            let peer = self.peers.entry(from).or_default();
            peer.next_number = 0;
            peer.since = cx.now;
            if known {
                out.push(Out::Restarted(from));
            }
        }
        true
    }

    fn on_timer(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        if self.heartbeat_at.is_some_and(|at| at <= cx.now) {
            self.heartbeat_at = Some(cx.now + self.options.heartbeat_interval);
            self.judge(cx.now, out);
            for node in self.peers.keys() {
                out.push(Out::Send(*node, self.heartbeat(cx, *node)));
            }
            for peer in self.peers.values_mut().filter(|peer| peer.up) {
                if peer.heard.is_none_or(|heard| cx.now.since(heard) > self.options.support) {
                    Sometimes::PeerSilent.reached();
                    peer.up = false;
                    peer.since = cx.now;
                }
            }
        }
        if self.lapse_at <= cx.now {
            self.lapse(cx.now, out);
        }
    }

    /// Whether this node should lead, by its disk and its peers'.
    fn judge(&mut self, now: Time, out: &mut Outbox<Out>) {
        let (full, sync) = self.disk;
        let sync_ms = u32::try_from(sync.as_millis()).unwrap_or(u32::MAX);
        // Of a peer that is away nothing is expected: with too many away there is no node to hand anything to.
        let syncs = self.peers.iter().map(|(node, peer)| if peer.up { self.view.disk_of(*node).sync_ms } else { u32::MAX });
        let slow = is_slow(sync_ms, syncs.collect(), self.fitness.is_unfit());
        let changed = self.fitness.look(now, full, slow);
        self.view.own_disk = DiskHealth { full, unfit: self.fitness.is_unfit(), sync_ms };
        if changed {
            Sometimes::NodeBecomesUnfit.when(self.fitness.is_unfit());
            Sometimes::NodeIsFitAgain.when(!self.fitness.is_unfit());
            out.push(Out::Fitness);
        }
    }

    /// Ends every promise that is over, and finds the next end.
    fn lapse(&mut self, now: Time, out: &mut Outbox<Out>) {
        let mut next = Time::NEVER;
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            let entry = self.view.entry(node);
            match entry.given {
                Some((_, end)) if end <= now => {
                    Sometimes::SupportWithdrawn.reached();
                    entry.given = None;
                    out.push(Out::Withdrawn(node));
                }
                Some((_, end)) => next = next.min(end),
                None => {}
            }
            match entry.received {
                Some((_, end)) if end <= now => {
                    Sometimes::SupportLost.reached();
                    entry.received = None;
                    out.push(Out::SupportLost(node));
                }
                Some((_, end)) => next = next.min(end),
                None => {}
            }
        }
        self.lapse_at = next;
    }
}

impl Actor for Liveness {
    type In = In;
    type Out = Out;

    fn handle(&mut self, cx: &mut Context<'_>, input: In, out: &mut Outbox<Out>) {
        match input {
            In::Start(peers) => {
                for node in peers {
                    self.peers.entry(node).or_default().since = cx.now;
                    self.view.entry(node);
                }
                self.heartbeat_at = Some(cx.now);
                self.on_timer(cx, out);
            }
            In::Heartbeat(from, epoch, heartbeat) => self.on_heartbeat(cx, from, epoch, heartbeat, out),
            In::Reply(from, epoch, reply) => self.on_reply(cx, from, epoch, reply, out),
            In::Link { peer, up } if self.peers.contains_key(&peer) => {
                self.view.entry(peer).down_until = if up { Time::ZERO } else { cx.now + LINK_DOWN_MAX };
            }
            In::Link { .. } => {}
            In::Timer => self.on_timer(cx, out),
        }
    }

    fn deadline(&self) -> Option<(Time, TimerKind)> {
        self.heartbeat_at.map(|at| (at.min(self.lapse_at), TimerKind::Liveness))
    }

    fn check(&self) {
        for peer in self.view.peers() {
            if let Some((promise, end)) = peer.given {
                assert_eq!(promise.leader, peer.epoch, "support is given to the peer's present epoch");
                assert!(promise.number < self.peers[&peer.node].next_number, "a promise's number is used once");
                assert!(self.lapse_at <= end, "a lapse is never missed");
            }
            if let Some((promise, end)) = peer.received {
                assert_eq!(promise.supporter, peer.epoch, "support comes from the peer's present epoch");
                assert!(self.lapse_at <= end, "a lapse is never missed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random;

    const D: Duration = Duration::from_millis(400);

    fn context<'a>(
        random: &'a mut random::Random,
        view: &'a LivenessView,
        cache: &'a mut crate::base::cache::ValueCache,
        millis: u64,
    ) -> Context<'a> {
        Context { now: Time::from_millis(millis), epoch: Epoch(7), ..Context::of_test(random, view, cache) }
    }

    fn run(liveness: &mut Liveness, millis: u64, input: In) -> Vec<Out> {
        let mut random = random::stream(1, "test");
        let mut cache = crate::base::cache::ValueCache::new(0, &crate::base::limits::Limits::DEFAULT);
        let view = LivenessView::default();
        let mut out = Outbox::default();
        liveness.handle(&mut context(&mut random, &view, &mut cache, millis), input, &mut out);
        liveness.check();
        std::iter::from_fn(|| out.pop()).collect()
    }

    fn fresh() -> Liveness {
        let mut liveness = Liveness::new(LivenessOptions {
            heartbeat_interval: Duration::from_millis(50),
            support: D,
            clock_drift_ppm_max: 20_000,
        });
        run(&mut liveness, 0, In::Start(vec![NodeId(2)]));
        liveness
    }

    fn promised(out: &[Out]) -> Promise {
        out.iter()
            .find_map(|o| match o {
                Out::Send(_, PeerMessage::HeartbeatReply(reply)) => Some(reply.promise),
                _ => None,
            })
            .expect("a heartbeat is answered")
    }

    fn own_disk_after(liveness: &mut Liveness, millis: u64, full: bool, sync_ms: u64) -> (DiskHealth, bool) {
        liveness.set_disk(full, Duration::from_millis(sync_ms));
        let out = run(liveness, millis, In::Timer);
        let told = out.iter().find_map(|o| match o {
            Out::Send(_, PeerMessage::Heartbeat(heartbeat)) => Some(heartbeat.disk),
            _ => None,
        });
        (told.expect("a heartbeat is due"), out.iter().any(|o| matches!(o, Out::Fitness)))
    }

    #[test]
    fn heartbeats_say_how_the_disk_does_and_what_peers_say_is_remembered() {
        let mut liveness = fresh();
        beat(&mut liveness, 10, 3);
        assert_eq!(own_disk_after(&mut liveness, 60, false, 5), (DiskHealth { full: false, unfit: false, sync_ms: 5 }, false));
        assert_eq!(own_disk_after(&mut liveness, 120, true, 5), (DiskHealth { full: true, unfit: true, sync_ms: 5 }, true));
        let disk = DiskHealth { full: true, unfit: true, sync_ms: 7 };
        let heartbeat = Heartbeat {
            sent: 0,
            durable: Lsn(1),
            began: Lsn(0),
            previous: Epoch::ZERO,
            disk,
            detours: Vec::new(),
            epochs: Vec::new(),
            clock_ms: 0,
        };
        run(&mut liveness, 130, In::Heartbeat(NodeId(2), Epoch(3), heartbeat));
        assert_eq!(liveness.view().disk_of(NodeId(2)), disk);
        let out = beat(&mut liveness, 140, 3);
        assert!(matches!(out[0], Out::Recovered(NodeId(2))), "room again");
    }

    fn beat(liveness: &mut Liveness, millis: u64, epoch: u64) -> Vec<Out> {
        let heartbeat = Heartbeat {
            sent: 0,
            durable: Lsn(1),
            began: Lsn(0),
            previous: Epoch::ZERO,
            disk: DiskHealth::default(),
            detours: Vec::new(),
            epochs: Vec::new(),
            clock_ms: 0,
        };
        run(liveness, millis, In::Heartbeat(NodeId(2), Epoch(epoch), heartbeat))
    }

    #[test]
    fn a_peer_that_is_heard_for_the_first_time_is_asked_for_its_support_at_once() {
        let mut liveness = fresh();
        let asks = |out: &[Out]| out.iter().any(|out| matches!(out, Out::Send(NodeId(2), PeerMessage::Heartbeat(_))));
        assert!(asks(&beat(&mut liveness, 10, 3)));
        assert!(!asks(&beat(&mut liveness, 11, 3)), "two that have just met do not go on asking each other");
        assert!(asks(&beat(&mut liveness, 12, 4)), "it has restarted");
    }

    #[test]
    fn a_lapsed_promise_never_revives() {
        let mut liveness = fresh();
        let first = promised(&beat(&mut liveness, 10, 3));
        let again = promised(&beat(&mut liveness, 300, 3));
        assert_eq!(first, again, "support without a gap is one promise");
        assert!(liveness.view().supporting(NodeId(2), Time::from_millis(699)).is_some());
        // The heartbeat comes at the very end of D, before the timer noticed.
        let out = beat(&mut liveness, 700, 3);
        assert!(promised(&out) > first);
        assert!(matches!(out[0], Out::Withdrawn(NodeId(2))));
    }

    #[test]
    fn a_new_epoch_voids_what_the_old_one_was_promised() {
        let mut liveness = fresh();
        beat(&mut liveness, 10, 3);
        let out = beat(&mut liveness, 20, 4);
        assert!(matches!(out[0], Out::Restarted(NodeId(2))));
        assert_eq!(promised(&out).leader, Epoch(4));
        assert!(beat(&mut liveness, 30, 3).is_empty(), "an earlier epoch is not answered");
    }

    #[test]
    fn a_peer_that_restarted_does_not_vote_for_d_by_the_slowest_clock() {
        let mut liveness = fresh();
        beat(&mut liveness, 10, 3);
        assert!(liveness.view().votes(NodeId(2), Time::from_millis(10)), "when it was first heard is not when it booted");
        beat(&mut liveness, 20, 4);
        let votes_at = |millis| liveness.view().votes(NodeId(2), Time::from_millis(millis));
        assert!(!votes_at(20) && !votes_at(20 + 400) && votes_at(20 + 400 + 8));
    }

    #[test]
    fn the_supported_side_counts_from_its_sending_and_less() {
        let mut liveness = fresh();
        let promise = Promise { leader: Epoch(7), supporter: Epoch(3), number: 0 };
        let reply = HeartbeatReply { sent: Time::from_millis(100).0, promise };
        let out = run(&mut liveness, 300, In::Reply(NodeId(2), Epoch(3), reply));
        assert!(matches!(out[0], Out::SupportGained(NodeId(2))));
        let (_, until) = liveness.view().supported_by(NodeId(2), Time::from_millis(300)).expect("supported");
        assert_eq!(until, Time::from_millis(100 + 392), "from the sending, less the drift bound");
        let late = HeartbeatReply { sent: Time::from_millis(90).0, promise };
        run(&mut liveness, 310, In::Reply(NodeId(2), Epoch(3), late));
        let (_, same) = liveness.view().supported_by(NodeId(2), Time::from_millis(310)).expect("supported");
        assert_eq!(until, same, "an overtaken reply shortens nothing");
        let answered_since = |millis| liveness.view().has_answered_since(NodeId(2), Time::from_millis(millis));
        assert!(answered_since(100) && !answered_since(101), "when it was answered says nothing");
        let out = run(&mut liveness, 492, In::Timer);
        assert!(out.iter().any(|o| matches!(o, Out::SupportLost(NodeId(2)))));
    }

    #[test]
    fn a_promise_that_is_overtaken_by_a_later_one_changes_nothing() {
        let mut liveness = fresh();
        let mut reply = |sent, number| {
            let promise = Promise { leader: Epoch(7), supporter: Epoch(3), number };
            run(&mut liveness, 300, In::Reply(NodeId(2), Epoch(3), HeartbeatReply { sent: Time::from_millis(sent).0, promise }));
            liveness.view().supported_by(NodeId(2), Time::from_millis(300)).map(|(promise, _)| promise.number)
        };
        assert_eq!([reply(100, 0), reply(200, 1), reply(250, 0)], [Some(0), Some(1), Some(1)]);
    }

    #[test]
    fn how_suspicious_a_peer_is_grows_with_its_silence_and_counts_from_its_usual_pace() {
        let mut liveness = fresh();
        let phi = |liveness: &Liveness, millis| liveness.report(Time::from_millis(millis))[0].phi_hundredths;
        assert_eq!(phi(&liveness, 10), 0, "it was never heard");
        (1..=20).for_each(|beat_number| _ = beat(&mut liveness, 50 * beat_number, 3));
        // A tenth as likely with every ln 10 = 2.3 of its intervals of 50 ms.
        let all = [1_000, 1_115, 1_230, 2_150].map(|millis| phi(&liveness, millis));
        assert_eq!(all, [0, 99, 199, 998]);
    }

    #[test]
    fn an_echo_from_the_future_is_not_believed() {
        let mut liveness = fresh();
        let promise = Promise { leader: Epoch(7), supporter: Epoch(3), number: 0 };
        let reply = HeartbeatReply { sent: Time::from_millis(1_000_000).0, promise };
        assert!(run(&mut liveness, 300, In::Reply(NodeId(2), Epoch(3), reply)).is_empty());
    }
}
