//! One member of a script's cluster: the actors of a node around one group, wired as the node's router wires them, and a log whose
//! durability the script decides.

use super::say::{self, Lines};
use bytes::Bytes;
use ringseed::actor::{Actor, Context, LivenessView, Origin, Outbox, Placement, Room};
use ringseed::base::cache::ValueCache;
use ringseed::base::random::{self, Random};
use ringseed::base::{ConnId, Duration, Epoch, GroupId, Index, Lsn, NodeId, Place, SegmentId, Term, Time, hash};
use ringseed::gateway::{self, Gateway};
use ringseed::liveness::{self, Liveness, LivenessOptions};
use ringseed::msg::client::{Doubt, Rejection, ResponseBody};
use ringseed::msg::configuration::Configuration;
use ringseed::msg::log::{Entry, EntrySummary, Fact, FactSummary, HardState, LogBase, Placed, ValuePlace};
use ringseed::msg::peer::{ForwardReply, LeaderHint, Outcome, PeerMessage};
use ringseed::node::gate::{Gate, Watermarks};
use ringseed::replica::log::GroupLog;
use ringseed::replica::{self, Replica, ReplicaOptions};
use ringseed::state::State;
use ringseed::store::{self, Store};
use std::collections::VecDeque;

/// The group that every script is about: the only partition there is.
pub const GROUP: GroupId = GroupId(1);
/// D. A leader counts on 900 ms of it.
pub const SUPPORT: Duration = Duration::from_millis(1_000);
const DRIFT_PPM: u32 = 100_000;

/// One input on its way to an actor of the member.
#[derive(Debug)]
pub enum Work {
    Liveness(liveness::In),
    Gateway(gateway::In),
    Replica(replica::In),
    Store(store::In),
}

/// A message between members, under way.
#[derive(Debug, Clone)]
pub struct Mail {
    pub from: NodeId,
    /// Of the sender, when it was sent.
    pub epoch: Epoch,
    pub to: NodeId,
    pub message: PeerMessage,
}

/// What all members write to: the script's output, and the messages under way.
#[derive(Debug, Default)]
pub struct Stage {
    pub now: Time,
    pub lines: Lines,
    pub pool: Vec<Mail>,
}

/// A record of a member's log. Its LSN is its position, from 1.
#[derive(Debug, Clone)]
pub enum Logged {
    State(HardState),
    /// With the commit index known when it was logged.
    Entry(Entry, Index),
}

#[derive(Debug)]
pub struct Member {
    pub id: NodeId,
    pub epoch: Epoch,
    pub liveness: Liveness,
    pub replica: Replica,
    pub store: Store,
    gateway: Gateway,
    cache: ValueCache,
    random: Random,
    gate: Gate,
    pub log: Vec<Logged>,
    pub durable: Lsn,
    acknowledgeable: Lsn,
    /// Values that the store has asked for.
    reads: Vec<(u64, ValuePlace)>,
    /// The last answer to a heartbeat.
    pub heartbeat_reply: Option<PeerMessage>,
    work: VecDeque<Work>,
    /// There is something to send at the next flush.
    dirty: bool,
}

impl Member {
    /// A member at the start of a life, from what its log holds, all of it durable.
    pub fn boot(id: NodeId, epoch: Epoch, voters: &[NodeId], log: Vec<Logged>, no_vote_until: Time, lossy: bool) -> Member {
        let (state, entries) = recover(&log);
        let mut come_to = State::new();
        entries.iter().take(state.commit.0 as usize).for_each(|entry| come_to.apply(entry.index, &entry.fact, &mut |_| {}));
        let store = Store::new(GROUP, come_to, Time::ZERO);
        let options = ReplicaOptions { group: GROUP, support: SUPPORT, no_vote_until, lossy };
        let replica = Replica::new(
            options,
            state,
            GroupLog::recovered(LogBase::default(), Configuration::of(voters.to_vec()), entries, state.commit),
        );
        let liveness = Liveness::new(LivenessOptions {
            heartbeat_interval: Duration::from_millis(100),
            support: SUPPORT,
            clock_drift_ppm_max: DRIFT_PPM,
        });
        let end = Lsn(log.len() as u64);
        let peers = voters.iter().copied().filter(|node| *node != id).collect();
        Member {
            id,
            epoch,
            liveness,
            replica,
            store,
            gateway: Gateway::default(),
            cache: ValueCache::new(1 << 20),
            random: random::stream(u64::from(id.0), "script"),
            gate: Gate::default(),
            log,
            durable: end,
            acknowledgeable: end,
            reads: Vec::new(),
            heartbeat_reply: None,
            work: VecDeque::from([
                Work::Gateway(gateway::In::Joined(Placement::new(vec![voters.to_vec()]))),
                Work::Liveness(liveness::In::Start(peers)),
                Work::Replica(replica::In::Start),
            ]),
            dirty: false,
        }
    }

    /// Gives one input to its actor, and hands on what comes of it until nothing is left.
    pub fn run(&mut self, stage: &mut Stage, work: Work) {
        self.work.push_back(work);
        self.drain(stage);
    }

    pub fn drain(&mut self, stage: &mut Stage) {
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Liveness(input) => self.run_liveness(stage, input),
                Work::Gateway(input) => self.run_gateway(stage, input),
                Work::Replica(input) => self.run_replica(stage, input),
                Work::Store(input) => self.run_store(stage, input),
            }
        }
    }

    /// The end of a round of steps.
    pub fn flush(&mut self, stage: &mut Stage) {
        if std::mem::take(&mut self.dirty) {
            self.run(stage, Work::Replica(replica::In::Flush));
        }
    }

    pub fn receive(&mut self, stage: &mut Stage, mail: Mail) {
        let work = match mail.message {
            PeerMessage::Replica(_, message) => Work::Replica(replica::In::Message(mail.from, mail.epoch, message)),
            PeerMessage::Forward(forward) => Work::Gateway(gateway::In::Forward(mail.from, mail.epoch, forward)),
            PeerMessage::ForwardReply(reply) => Work::Gateway(gateway::In::ForwardReply(mail.from, mail.epoch, reply)),
            PeerMessage::Heartbeat(heartbeat) => Work::Liveness(liveness::In::Heartbeat(mail.from, mail.epoch, heartbeat)),
            PeerMessage::HeartbeatReply(reply) => Work::Liveness(liveness::In::Reply(mail.from, mail.epoch, reply)),
            other => panic!("no script sends {other:?}"),
        };
        self.run(stage, work);
    }

    pub fn on_timer(&mut self, stage: &mut Stage) {
        self.run(stage, Work::Liveness(liveness::In::Timer));
        self.run(stage, Work::Gateway(gateway::In::Timer));
        self.run(stage, Work::Replica(replica::In::Timer));
        self.run(stage, Work::Store(store::In::Timer));
    }

    /// What is logged so far may be acknowledged; with `synced`, it is durable too.
    pub fn on_log_progress(&mut self, stage: &mut Stage, synced: bool) {
        let end = Lsn(self.log.len() as u64);
        let last = self.log[self.acknowledgeable.0 as usize..].iter().rev().find_map(|record| match record {
            Logged::Entry(entry, _) => Some(Work::Replica(replica::In::Durable(entry.index, entry.term))),
            Logged::State(_) => None,
        });
        self.work.extend(last);
        self.acknowledgeable = end;
        if synced {
            self.durable = end;
        }
        let marks = self.watermarks();
        for (to, message) in self.gate.release(marks) {
            self.deliver(stage, to, message);
        }
        self.drain(stage);
    }

    /// Values come back from the disk, or fail their checksum there.
    pub fn on_values(&mut self, stage: &mut Stage, corrupt: bool) {
        for (tag, place) in std::mem::take(&mut self.reads) {
            let value = match &self.log[place.place.offset as usize - 1] {
                Logged::Entry(Entry { fact: Fact::Write { value: Some(value), .. }, .. }, _) if !corrupt => Ok(value.clone()),
                _ => Err(Rejection::Corrupt),
            };
            self.run(stage, Work::Store(store::In::Value(tag, value)));
        }
    }

    /// Values are on the disk alone from now on.
    pub fn empty_cache(&mut self) {
        self.cache = ValueCache::new(1 << 20);
    }

    pub fn has_lease(&mut self, now: Time) -> bool {
        let Member { id, epoch, liveness, replica, cache, random, .. } = self;
        let view = liveness.view();
        replica.has_lease(&context(now, *id, *epoch, random, view, cache))
    }

    fn run_liveness(&mut self, stage: &mut Stage, input: liveness::In) {
        let mut out = Outbox::default();
        let nobody = LivenessView::EMPTY;
        let mut cx = context(stage.now, self.id, self.epoch, &mut self.random, &nobody, &mut self.cache);
        self.liveness.handle(&mut cx, input, &mut out);
        self.liveness.check();
        while let Some(output) = out.pop() {
            let (line, input) = match output {
                // Heartbeats go when the script says so.
                liveness::Out::Send(_, PeerMessage::Heartbeat(_)) => continue,
                liveness::Out::Send(_, reply) => {
                    self.heartbeat_reply = Some(reply);
                    continue;
                }
                liveness::Out::SupportGained(peer) => (format!("gains the support of {peer}"), replica::In::SupportGained(peer)),
                liveness::Out::SupportLost(peer) => (format!("loses the support of {peer}"), replica::In::SupportLost(peer)),
                liveness::Out::Withdrawn(peer) => (format!("no longer supports {peer}"), replica::In::Withdrawn(peer)),
                liveness::Out::Fitness => ("finds itself fit, or unfit".to_owned(), replica::In::Fitness),
                liveness::Out::Recovered(peer) => (format!("sees that {peer} is well again"), replica::In::Recovered(peer)),
                liveness::Out::Restarted(peer) => {
                    self.work.push_back(Work::Gateway(gateway::In::Restarted(peer)));
                    (format!("sees that {peer} has restarted"), replica::In::Restarted(peer))
                }
            };
            stage.lines.detail(format!("{} {line}", self.id));
            self.work.push_back(Work::Replica(input));
        }
    }

    fn run_replica(&mut self, stage: &mut Stage, input: replica::In) {
        self.dirty |= matches!(input, replica::In::Propose { .. } | replica::In::Confirm(_));
        let mut out = Outbox::default();
        let mut cx = context(stage.now, self.id, self.epoch, &mut self.random, self.liveness.view(), &mut self.cache);
        self.replica.handle(&mut cx, input, &mut out);
        while let Some(output) = out.pop() {
            let id = self.id;
            let work = match output {
                replica::Out::Send(to, message) => {
                    self.send(stage, to, PeerMessage::Replica(GROUP, message));
                    continue;
                }
                replica::Out::LogState(state) => {
                    self.append(stage, Logged::State(state));
                    continue;
                }
                replica::Out::LogEntry(entry, commit) => {
                    self.append(stage, Logged::Entry(entry, commit));
                    continue;
                }
                replica::Out::ReadEntry(tag, place) => {
                    let Logged::Entry(entry, _) = &self.log[place.offset as usize - 1] else { panic!("an entry lies there") };
                    Work::Replica(replica::In::Entry(tag, Some(entry.clone())))
                }
                replica::Out::Apply(committed) => {
                    stage.lines.detail(format!("{id} applies {}", committed.index));
                    Work::Store(store::In::Apply(committed))
                }
                replica::Out::Led(term, next) => {
                    stage.lines.news(format!("{id} leads in term {term}, next index {next}"));
                    Work::Store(store::In::Led(term, next))
                }
                replica::Out::Deposed => {
                    stage.lines.news(format!("{id} leads no longer"));
                    Work::Store(store::In::Deposed)
                }
                replica::Out::Paused(paused) => {
                    stage.lines.detail(format!("{id} {} new work", if paused { "takes no" } else { "takes" }));
                    Work::Store(store::In::Paused(paused))
                }
                replica::Out::Leader(leader, term) => {
                    let who = leader.map_or("nobody".into(), |node| node.to_string());
                    stage.lines.detail(format!("{id} follows {who} in term {term}"));
                    Work::Gateway(gateway::In::Leader(GROUP, leader, term))
                }
                replica::Out::AskTurn => Work::Replica(replica::In::Turn),
                replica::Out::Confirmed(tag) => Work::Store(store::In::Confirmed(tag)),
                replica::Out::AllMatched(index) => Work::Store(store::In::AllMatched(index)),
            };
            self.work.push_back(work);
        }
        self.replica.check();
    }

    fn run_store(&mut self, stage: &mut Stage, input: store::In) {
        let mut out = Outbox::default();
        let mut cx = context(stage.now, self.id, self.epoch, &mut self.random, self.liveness.view(), &mut self.cache);
        self.store.handle(&mut cx, input, &mut out);
        self.store.check();
        while let Some(output) = out.pop() {
            let id = self.id;
            match output {
                store::Out::Propose { index, term, fact } => {
                    self.work.push_back(Work::Replica(replica::In::Propose { index, term, fact }));
                }
                store::Out::Confirm(tag) => {
                    stage.lines.detail(format!("{id} asks for proof that it leads"));
                    self.work.push_back(Work::Replica(replica::In::Confirm(tag)));
                }
                store::Out::ReadValue(tag, place) => {
                    stage.lines.detail(format!("{id} reads a value from its disk, l{}", place.place.offset));
                    self.reads.push((tag, place));
                }
                store::Out::Answer(origin, outcome) => self.answer(stage, origin, outcome),
                store::Out::AnswerLacking(origin, index) => {
                    let doubt = Doubt::ReplicasAway(self.replica.lacking(index));
                    self.answer(stage, origin, Outcome::Answer(ResponseBody::Unknown(doubt)));
                }
                store::Out::WatchAll(index) => self.work.push_back(Work::Replica(replica::In::WatchAll(index))),
                // Nobody coordinates transactions here: scripts are about one group.
                store::Out::Ready(_) => {}
                output @ (store::Out::Held(..)
                | store::Out::NotDecided(_)
                | store::Out::Decided(..)
                | store::Out::Ended(..)
                | store::Out::Inquire(_)) => unreachable!("a script has no transactions: {output:?}"),
            }
        }
    }

    fn run_gateway(&mut self, stage: &mut Stage, input: gateway::In) {
        let mut out = Outbox::default();
        let refused = self.gateway.counters.forwards_refused;
        let mut cx = context(stage.now, self.id, self.epoch, &mut self.random, self.liveness.view(), &mut self.cache);
        self.gateway.handle(&mut cx, input, &mut out);
        self.gateway.check();
        if self.gateway.counters.forwards_refused > refused {
            stage.lines.detail(format!("{} refuses a forward that it may have seen", self.id));
        }
        while let Some(output) = out.pop() {
            match output {
                gateway::Out::Reply(ConnId(name), response) => {
                    stage.lines.news(format!("{} tells {}: {}", self.id, stage.lines.name(name), say::answer(&response.body)));
                }
                gateway::Out::Send(to, message) => self.send(stage, to, message),
                gateway::Out::Task { origin, task, term, deadline, .. } => {
                    self.work.push_back(Work::Store(store::In::Task { origin, task, term, deadline }));
                }
                gateway::Out::Answered(asker, outcome) => unreachable!("nobody here asks other groups: {asker:?} {outcome:?}"),
            }
        }
    }

    fn answer(&mut self, stage: &mut Stage, origin: Origin, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::NotLeader { .. } => Outcome::NotLeader { leader: self.leader_hint() },
            outcome => outcome,
        };
        match origin {
            Origin::Gateway(call) => {
                if let Outcome::NotLeader { leader } = &outcome {
                    stage.lines.news(format!("{} takes back call {call}: not begun{}", self.id, say::hint(*leader)));
                }
                self.work.push_back(Work::Gateway(gateway::In::Answer(call, outcome)));
            }
            Origin::Peer(node, epoch, sequence) => {
                self.send(stage, node, PeerMessage::ForwardReply(ForwardReply { sequence, outcome, epoch }));
            }
        }
    }

    fn leader_hint(&self) -> Option<LeaderHint> {
        let (leader, term) = self.replica.known_leader();
        let node = leader?;
        let epoch = if node == self.id { self.epoch } else { self.liveness.view().epoch_of(node) };
        Some(LeaderHint { node, epoch, term })
    }

    fn watermarks(&self) -> Watermarks {
        let last = Lsn(self.log.len() as u64);
        Watermarks { last, durable: self.durable, acknowledgeable: self.acknowledgeable, epoch: Lsn::ZERO }
    }

    /// The node's gate decides what leaves now.
    fn send(&mut self, stage: &mut Stage, to: NodeId, message: PeerMessage) {
        let line = say::message(self.id, to, &message);
        let marks = self.watermarks();
        match self.gate.pass(to, message, marks) {
            Some(message) => self.deliver(stage, to, message),
            None => stage.lines.detail(format!("{line} (held until l{})", marks.last)),
        }
    }

    fn deliver(&mut self, stage: &mut Stage, to: NodeId, message: PeerMessage) {
        stage.lines.detail(say::message(self.id, to, &message));
        let mail = Mail { from: self.id, epoch: self.epoch, to, message };
        match mail.message {
            PeerMessage::Replica(_, message) if to == self.id => {
                self.work.push_back(Work::Replica(replica::In::Message(to, self.epoch, message)));
            }
            _ => stage.pool.push(mail),
        }
    }

    /// The log places a record at once; when it is durable is another matter.
    fn append(&mut self, stage: &mut Stage, record: Logged) {
        let lsn = Lsn(self.log.len() as u64 + 1);
        stage.lines.detail(format!("{} logs {} (l{lsn})", self.id, say::record(&record)));
        if let Logged::Entry(entry, _) = &record {
            let record = place(lsn, 1);
            let value = value_place(lsn, &entry.fact);
            let placed = Placed { group: GROUP, index: entry.index, term: entry.term, lsn, record, value };
            self.work.push_back(Work::Replica(replica::In::Placed(placed)));
        }
        self.log.push(record);
    }
}

fn context<'a>(
    now: Time,
    me: NodeId,
    epoch: Epoch,
    random: &'a mut Random,
    liveness: &'a LivenessView,
    cache: &'a mut ValueCache,
) -> Context<'a> {
    Context {
        now,
        me,
        epoch,
        random,
        liveness,
        flow: ringseed::actor::FlowView::empty(),
        cache,
        wall_clock_ms: 0,
        room: Room::AMPLE,
        quorum_has_room: true,
        sync: Duration::ZERO,
        state: State::empty(),
    }
}

/// What recovery makes of a log: the last hard state, and the entries, each discarding those from its index on that came before it.
fn recover(log: &[Logged]) -> (HardState, Vec<EntrySummary>) {
    let mut state = HardState::default();
    let mut entries: Vec<EntrySummary> = Vec::new();
    for (at, record) in log.iter().enumerate() {
        match record {
            Logged::State(logged) => state = HardState { commit: state.commit.max(logged.commit), ..*logged },
            Logged::Entry(entry, commit) => {
                let lsn = Lsn(at as u64 + 1);
                entries.truncate(entry.index.0 as usize - 1);
                let fact = match &entry.fact {
                    Fact::Noop => FactSummary::Noop,
                    Fact::Write { key, .. } => FactSummary::Write { key: key.clone(), value: value_place(lsn, &entry.fact) },
                    Fact::Configuration(configuration) => FactSummary::Configuration(configuration.clone()),
                    Fact::Transaction(_) => unreachable!("scripts are about one group"),
                };
                entries.push(EntrySummary { index: entry.index, term: entry.term, record: place(lsn, 1), fact });
                state.commit = state.commit.max(*commit);
            }
        }
    }
    (state, entries)
}

fn place(lsn: Lsn, length: usize) -> Place {
    Place { segment: SegmentId(1), offset: lsn.0 as u32, length: length as u32 }
}

fn value_place(lsn: Lsn, fact: &Fact) -> Option<ValuePlace> {
    let Fact::Write { value: Some(value), .. } = fact else { return None };
    Some(ValuePlace { place: place(lsn, value.len()), checksum: hash::value_checksum(value) })
}

/// A log with entries of these terms, every one a write of the key `k`.
pub fn log_of(terms: &[u64], term: u64, commit: u64) -> Vec<Logged> {
    let entries = terms.iter().zip(1..).map(|(term, index)| {
        let fact = Fact::Write { key: Bytes::from("k"), value: Some(Bytes::from(format!("{index}/{term}"))) };
        Logged::Entry(Entry { index: Index(index), term: Term(*term), fact }, Index::ZERO)
    });
    entries.chain([Logged::State(HardState { term: Term(term), vote: None, commit: Index(commit) })]).collect()
}
