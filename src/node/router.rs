//! Which actor's output is which actor's input: one flat match, and a FIFO that is drained before a step returns.

use super::{Effect, Fatal, Node, Stop};
use crate::actor::{Actor, Context, Origin, Outbox};
use crate::base::{ConnId, Duration, GroupId, Index, NodeId, Sometimes, Time};
use crate::gateway::Asker;
use crate::msg::client::{Doubt, Request, RequestBody, Response, ResponseBody};
use crate::msg::disk::DiskOp;
use crate::msg::operation::Rejection;
use crate::msg::peer::{Envelope, ForwardReply, LeaderHint, Outcome, PeerMessage, ReplicaMessage, Task};
use crate::replica::Unread;
use crate::ring::membership;
use crate::state::State;
use crate::wal::{ReadError, ReadFor, Record};
use crate::{gateway, liveness, replica, store, txn, wal};

/// One input on its way to an actor.
#[derive(Debug)]
pub enum Work {
    Log(wal::In),
    Membership(membership::In),
    Liveness(liveness::In),
    Gateway(gateway::In),
    Replica(GroupId, replica::In),
    Store(GroupId, store::In),
    Coordinator(GroupId, txn::In),
}

/// An outbox for each kind of actor, empty between steps: kept so that a step need not allocate one.
#[derive(Debug, Default)]
pub struct Outboxes {
    log: Outbox<wal::Out>,
    membership: Outbox<membership::Out>,
    liveness: Outbox<liveness::Out>,
    gateway: Outbox<gateway::Out>,
    replica: Outbox<replica::Out>,
    store: Outbox<store::Out>,
    coordinator: Outbox<txn::Out>,
}

/// For how long a participant's question travels before it is asked anew.
const INQUIRE_FOR: Duration = Duration::from_millis(400);

/// What a read of a value is for. It stands in the lowest bits of the read's tag.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reader {
    Store,
    Snapshot,
    /// A member has asked for the value.
    Member,
    Scrub,
}

impl Reader {
    const BITS: u32 = 2;

    /// The read with this tag of the reader's own.
    pub(super) fn of(self, group: GroupId, tag: u64) -> ReadFor {
        ReadFor { group, tag: tag << Reader::BITS | self as u64 }
    }

    /// The reader, and its own tag.
    fn and_tag(tag: u64) -> (Reader, u64) {
        let all = [Reader::Store, Reader::Snapshot, Reader::Member, Reader::Scrub];
        (all[(tag % all.len() as u64) as usize], tag >> Reader::BITS)
    }
}

macro_rules! context {
    ($node:ident, $now:ident, $view:expr) => {
        Context {
            now: $now,
            me: $node.options.me,
            epoch: $node.epoch,
            random: &mut $node.random,
            liveness: $view,
            flow: $node.flow.view(),
            cache: &mut $node.cache,
            wall_clock_ms: $node.clock.read($now),
            room: $node.log.room(),
            quorum_has_room: true,
            sync: $node.syncs.expected($now),
            limits: &$node.options.limits,
            state: State::empty(),
        }
    };
}

impl Node {
    /// Hands every input to its actor, and what comes of it on, until nothing is left.
    pub(super) fn drain(&mut self, now: Time) {
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Log(input) => self.run_log(now, input),
                Work::Membership(input) => self.run_membership(now, input),
                Work::Liveness(input) => self.run_liveness(now, input),
                Work::Gateway(input) => self.run_gateway(now, input),
                Work::Replica(group, input) => self.run_replica(now, group, input),
                Work::Store(group, input) => self.run_store(now, group, input),
                Work::Coordinator(group, input) => self.run_coordinator(now, group, input),
            }
        }
    }

    pub(super) fn on_envelope(&mut self, now: Time, from: NodeId, envelope: Envelope) {
        if from != envelope.from || from == self.options.me {
            self.counters.envelopes_dropped += 1;
            return;
        }
        if let Err(refusal) = self.membership.admit(now, &envelope) {
            self.counters.envelopes_dropped += 1;
            let answered = envelope.messages.iter().any(|m| matches!(m, PeerMessage::Heartbeat(_) | PeerMessage::Greeting(_)));
            if let Some(refusal) = refusal.filter(|_| answered) {
                self.vitals.turn_away(now, from, refusal.clone());
                self.send(now, from, PeerMessage::Refused(envelope.epoch, refusal));
            } else if let Some(refusal) = self.membership.made_wait(now, from) {
                self.vitals.turn_away(now, from, refusal);
            }
            return;
        }
        if self.membership.has_news_of(from) {
            // The peer is let in once this is as durable as what is acknowledged: or a restart would listen to another again.
            if self.is_sealing() {
                return;
            }
            self.log_grown_marks(now);
            self.news.insert(from, self.log.last_lsn());
        }
        for message in envelope.messages {
            if self.membership.listens_to(&message) {
                self.on_message(now, from, &(envelope.epoch, envelope.directory), message);
            }
        }
    }

    pub(super) fn on_message(
        &mut self,
        now: Time,
        from: NodeId,
        sender: &(crate::base::Epoch, crate::base::DirectoryId),
        message: PeerMessage,
    ) {
        let (epoch, directory) = *sender;
        let refused = self.membership.is_refused();
        let work = match message {
            PeerMessage::Greeting(greeting) => Work::Membership(membership::In::Greeting(from, epoch, directory, greeting)),
            PeerMessage::Formed(formation) => Work::Membership(membership::In::Formed(formation)),
            PeerMessage::Refused(epoch, refusal) if epoch == self.epoch => {
                Work::Membership(membership::In::Refused(from, refusal))
            }
            PeerMessage::Refused(..) => return,
            // A node that is refused as an old copy by some may be let in by others: they count when it starts over.
            PeerMessage::HeartbeatReply(reply) if refused && reply.promise.leader == self.epoch => {
                Work::Membership(membership::In::Welcomed(from))
            }
            _ if refused => {
                Sometimes::RefusedNodeHearsMessage.reached();
                return;
            }
            PeerMessage::Heartbeat(_) if self.news.get(&from).is_some_and(|lsn| self.log.acknowledgeable_lsn() < *lsn) => {
                Sometimes::HeartbeatBeforeMarkIsDurable.reached();
                return;
            }
            PeerMessage::Heartbeat(heartbeat) => {
                self.news.remove(&from);
                self.vitals.hear_clock(from, self.clock.read(now), heartbeat.clock_ms);
                self.clock.hear(now, heartbeat.clock_ms);
                Work::Liveness(liveness::In::Heartbeat(from, epoch, heartbeat))
            }
            PeerMessage::HeartbeatReply(reply) => {
                // A reply to an earlier epoch of this node says nothing of the present one.
                if reply.promise.leader == self.epoch {
                    self.work.push_back(Work::Membership(membership::In::Welcomed(from)));
                }
                Work::Liveness(liveness::In::Reply(from, epoch, reply))
            }
            // The last record of this epoch says that nothing acknowledged is missing: nothing more is acknowledged behind it.
            PeerMessage::Replica(..) | PeerMessage::Snapshot(..) | PeerMessage::Fetched(..) if self.is_sealing() => {
                Sometimes::SealingNodeHearsGroup.reached();
                return;
            }
            // A replica hears nothing before it takes part.
            PeerMessage::Replica(group, message) => Work::Replica(group, replica::In::Message(from, epoch, message)),
            PeerMessage::Forward(forward) => Work::Gateway(gateway::In::Forward(from, epoch, forward)),
            PeerMessage::ForwardReply(reply) => Work::Gateway(gateway::In::ForwardReply(from, epoch, reply)),
            PeerMessage::Farewell(farewell) => Work::Gateway(gateway::In::Farewell(from, epoch, farewell)),
            PeerMessage::Relayed(relayed) => return self.on_relayed(now, from, *relayed),
            PeerMessage::Snapshot(group, piece) => return self.on_snapshot_piece(now, from, group, piece),
            PeerMessage::SnapshotReply(group, reply) => return self.on_snapshot_reply(now, from, group, reply),
            PeerMessage::Fetch(group, fetch) => return self.on_fetch(now, from, group, fetch),
            PeerMessage::Fetched(group, fetched) => {
                self.on_fetched(now, from, group, fetched);
                return self.drain(now);
            }
            PeerMessage::Leading(groups) => return self.on_leading(now, from, epoch, groups),
            // The server's affair.
            PeerMessage::Addresses(_) => return,
        };
        self.work.push_back(work);
        // One message at a time: the next is judged by what this one has changed.
        self.drain(now);
    }

    pub(super) fn on_request(&mut self, now: Time, conn: ConnId, request: Request) {
        let id = request.id;
        let body = match &request.body {
            RequestBody::Status => ResponseBody::Status(self.status(now)),
            RequestBody::Ring => match self.ring_report() {
                Some(report) => ResponseBody::Ring(report),
                None => ResponseBody::Rejected(Rejection::NotReady),
            },
            RequestBody::Transactions => {
                let (oldest, more) = self.transactions(now);
                ResponseBody::Transactions(oldest, more)
            }
            RequestBody::Damage(begin) => ResponseBody::Damage(self.damage(now, *begin)),
            _ if self.membership.is_refused() => ResponseBody::Rejected(Rejection::NotReady),
            _ => {
                self.work.push_back(Work::Gateway(gateway::In::Request(conn, request)));
                return;
            }
        };
        self.effects.push(Effect::Reply(conn, Response { id, leader: None, body }));
    }

    /// Sends a message once the gate lets it pass. One to this node itself comes back as an input.
    pub(super) fn send(&mut self, now: Time, to: NodeId, mut message: PeerMessage) {
        let marks = self.watermarks();
        if let PeerMessage::Replica(_, ReplicaMessage::AppendReply(reply)) = &mut message {
            // It leaves once all that is logged by now is durable; unless syncing is relaxed.
            reply.synced = self.options.wal_sync_interval.is_zero().then(|| self.log.last_lsn());
        }
        if let Some(message) = self.gate.pass(to, message, marks, self.options.limits.gated_messages) {
            self.deliver(now, to, message);
        }
    }

    fn deliver(&mut self, now: Time, to: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Replica(group, message) if to == self.options.me => {
                self.work.push_back(Work::Replica(group, replica::In::Message(to, self.epoch, message)));
            }
            message => self.dispatch(now, to, message),
        }
    }

    pub(super) fn run_log(&mut self, now: Time, input: wal::In) {
        let mut out = std::mem::take(&mut self.outboxes.log);
        let mut cx = Context {
            now,
            me: self.options.me,
            epoch: self.epoch,
            random: &mut self.random,
            liveness: self.liveness.view(),
            flow: self.flow.view(),
            cache: &mut self.cache,
            wall_clock_ms: self.clock.read(now),
            room: crate::actor::Room::AMPLE,
            quorum_has_room: true,
            sync: Duration::ZERO,
            limits: &self.options.limits,
            state: State::empty(),
        };
        self.log.handle(&mut cx, input, &mut out);
        while let Some(output) = out.pop() {
            match output {
                wal::Out::Placed(placed) => self.work.push_back(Work::Replica(placed.group, replica::In::Placed(placed))),
                wal::Out::Copied(place) => self.checkpoints.copied(place),
                wal::Out::Block(place, block) => self.compaction.on_block(place, block),
                wal::Out::Progress { entries, durable, .. } => {
                    for (group, index, term) in entries {
                        self.work.push_back(Work::Replica(group, replica::In::Durable(index, term)));
                    }
                    if self.formation_lsn.is_some_and(|lsn| lsn <= durable) {
                        self.formation_lsn = None;
                        self.work.push_back(Work::Membership(membership::In::FormationDurable));
                    }
                    let marks = self.watermarks();
                    for (to, message) in self.gate.release(marks) {
                        self.deliver(now, to, message);
                    }
                }
                wal::Out::Value(ReadFor { group, tag }, result) => {
                    let (reader, tag) = Reader::and_tag(tag);
                    match (reader, result) {
                        (Reader::Member, result) => self.on_fetch_read(now, tag, result),
                        (Reader::Scrub, result) => self.on_scrub_read(now, group, tag, result),
                        (Reader::Snapshot, result) => self.on_snapshot_value(now, group, tag, result),
                        (Reader::Store, Err(ReadError::Corrupt { place, why })) => {
                            self.on_rotten_read(now, group, tag, place, why);
                        }
                        (Reader::Store, Err(ReadError::Overloaded)) => {
                            let overloaded = Err(Rejection::Overloaded);
                            self.work.push_back(Work::Store(group, store::In::Value(tag, overloaded)));
                        }
                        (Reader::Store, Ok(value)) => {
                            self.on_whole_read(group, tag, &value);
                            self.work.push_back(Work::Store(group, store::In::Value(tag, Ok(value))));
                        }
                    }
                }
                wal::Out::Entry(ReadFor { group, tag }, result) => {
                    let entry = result.map_err(|error| match error {
                        ReadError::Overloaded => Unread::Overloaded,
                        ReadError::Corrupt { place, why } => {
                            self.tell_rot(group, None, place, why);
                            Unread::Rotten
                        }
                    });
                    self.work.push_back(Work::Replica(group, replica::In::Entry(tag, entry)));
                }
                wal::Out::Disk(io, operation) => {
                    if matches!(operation, DiskOp::Sync { .. }) {
                        self.syncs.began(now, io);
                    }
                    self.effects.push(Effect::Disk(io, operation));
                }
                wal::Out::Halt(why) => self.effects.push(Effect::Halt(Fatal(why))),
            }
        }
        self.outboxes.log = out;
    }

    fn run_membership(&mut self, now: Time, input: membership::In) {
        let mut out = std::mem::take(&mut self.outboxes.membership);
        let mut cx = context!(self, now, self.liveness.view());
        self.membership.handle(&mut cx, input, &mut out);
        while let Some(output) = out.pop() {
            match output {
                membership::Out::Send(to, message) => self.send(now, to, message),
                membership::Out::LogFormation(formation) => {
                    // The formation is the next record; nothing else is logged within this step before it.
                    self.run_log(now, wal::In::Append(Record::Formation(formation)));
                    self.formation_lsn = Some(self.log.last_lsn());
                }
                membership::Out::Outdated => self.start_over(now),
                membership::Out::Joined(formation) => self.join(&formation),
                membership::Out::Welcomed => {
                    let waiting = self.groups.iter().filter(|(_, group)| !group.replica.has_started());
                    let me = self.options.me;
                    let let_in = waiting.filter(|(_, group)| {
                        let (configuration, is_amnesiac) = (group.replica.configuration(), group.replica.is_amnesiac());
                        let welcomes = |node| self.membership.is_welcomed_by(node);
                        // Two nodes on copies of one directory must not both find a quorum (`src/ring/membership.rs`).
                        configuration.has_quorum(|node| welcomes(node) && !(is_amnesiac && node == me))
                            || is_amnesiac && configuration.has_all(welcomes)
                    });
                    self.work.extend(let_in.map(|(id, _)| Work::Replica(*id, replica::In::Start)));
                }
            }
        }
        self.outboxes.membership = out;
    }

    fn run_liveness(&mut self, now: Time, input: liveness::In) {
        let mut out = std::mem::take(&mut self.outboxes.liveness);
        let mut cx = context!(self, now, &crate::actor::LivenessView::EMPTY);
        self.liveness.handle(&mut cx, input, &mut out);
        while let Some(output) = out.pop() {
            match output {
                liveness::Out::Send(to, message) => {
                    if matches!(message, PeerMessage::Heartbeat(_)) {
                        self.tell_leaderships(now, to);
                    }
                    self.send(now, to, message);
                }
                liveness::Out::SupportGained(peer) => self.tell_groups_of(peer, replica::In::SupportGained),
                liveness::Out::SupportLost(peer) => self.tell_groups_of(peer, replica::In::SupportLost),
                liveness::Out::Withdrawn(peer) => {
                    self.tell_groups_of(peer, replica::In::Withdrawn);
                    self.work.push_back(Work::Gateway(gateway::In::Away(peer)));
                }
                liveness::Out::Fitness => {
                    self.counters.fitness_changes += 1;
                    let groups = self.groups.keys().map(|id| Work::Replica(*id, replica::In::Fitness));
                    self.work.extend(groups);
                }
                liveness::Out::Recovered(peer) => self.tell_groups_of(peer, replica::In::Recovered),
                liveness::Out::Restarted(peer) => {
                    self.tell_groups_of(peer, replica::In::Restarted);
                    self.work.push_back(Work::Gateway(gateway::In::Restarted(peer)));
                }
            }
        }
        self.outboxes.liveness = out;
    }

    /// Tells every group that the peer has a replica of.
    fn tell_groups_of(&mut self, peer: NodeId, input: impl Fn(NodeId) -> replica::In) {
        for (id, group) in &self.groups {
            if group.replica.configuration().is_member(peer) {
                self.work.push_back(Work::Replica(*id, input(peer)));
            }
        }
    }

    fn run_gateway(&mut self, now: Time, input: gateway::In) {
        let mut out = std::mem::take(&mut self.outboxes.gateway);
        let mut cx = context!(self, now, self.liveness.view());
        self.gateway.handle(&mut cx, input, &mut out);
        while let Some(output) = out.pop() {
            match output {
                gateway::Out::Reply(conn, response) => self.effects.push(Effect::Reply(conn, response)),
                gateway::Out::Send(to, message) => self.send(now, to, message),
                gateway::Out::Task { group, origin, task, term, deadline } => {
                    let crowded = self.log.queue_bytes() >= self.options.limits.log_queue_bytes as u64
                        || self.flow.view().entry_bytes >= self.options.limits.node_entry_bytes;
                    if task.writes() && crowded {
                        Sometimes::NodeTooCrowdedToWrite.reached();
                        let overloaded = ResponseBody::Rejected(Rejection::Overloaded);
                        self.answer(now, group, origin, Outcome::Answer(overloaded));
                    } else if self.takes_part(group) {
                        self.work.push_back(match task {
                            Task::Transact { age, transaction } => {
                                let takes_tokens = self.token_bytes < self.options.limits.token_bytes_per_node;
                                let begin = txn::Begin { origin, age, transaction, term, deadline, takes_tokens };
                                Work::Coordinator(group, txn::In::Begin(begin))
                            }
                            Task::Inquire(id) => Work::Coordinator(group, txn::In::Inquire(origin, id)),
                            task => Work::Store(group, store::In::Task { origin, task, term, deadline }),
                        });
                    } else {
                        self.answer(now, group, origin, Outcome::NotLeader { leader: None });
                    }
                }
                gateway::Out::Answered(Asker::Coordinator(group, tag), outcome) => {
                    self.work.push_back(Work::Coordinator(group, txn::In::Answer(tag, outcome)));
                }
                gateway::Out::Answered(Asker::Participant(group, id), Outcome::Decided(decision)) => {
                    self.work.push_back(Work::Store(group, store::In::Inquired(id, decision)));
                }
                // No answer: it asks again.
                gateway::Out::Answered(Asker::Participant(..), _) => {}
            }
        }
        self.outboxes.gateway = out;
    }

    fn run_replica(&mut self, now: Time, id: GroupId, input: replica::In) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut out = std::mem::take(&mut self.outboxes.replica);
        let mut cx = context!(self, now, self.liveness.view());
        if matches!(input, replica::In::Propose { .. } | replica::In::Confirm(_)) {
            self.dirty.insert(id);
        }
        let was_lossy = group.replica.is_lossy();
        group.replica.handle(&mut cx, input, &mut out);
        let caught_up = was_lossy && !group.replica.is_lossy();
        self.flow.note(id, &mut group.noted, group.replica.outstanding(), group.replica.log().bytes_in_memory());
        self.vitals.note(&mut group.leads, &group.replica);
        let turn_ended = !group.replica.campaigns() && self.campaigns.ended(id);
        self.arm(id);
        while let Some(output) = out.pop() {
            let work = match output {
                replica::Out::Send(to, message) => {
                    self.send(now, to, PeerMessage::Replica(id, message));
                    continue;
                }
                replica::Out::LogState(state) => Work::Log(wal::In::Append(Record::HardState(id, state))),
                replica::Out::LogEntry(entry, commit) => Work::Log(wal::In::Append(Record::Entry(id, entry, commit))),
                replica::Out::Apply(committed) => Work::Store(id, store::In::Apply(committed)),
                replica::Out::AskTurn => {
                    let rank =
                        self.groups[&id].replica.configuration().voters().iter().position(|voter| *voter == self.options.me);
                    self.campaigns.ask(id, rank.unwrap_or_default());
                    self.grant_turns(now);
                    continue;
                }
                replica::Out::Led(term, next) => {
                    if self.is_stopping() {
                        Sometimes::StoppingNodeElected.reached();
                        self.work.push_back(Work::Replica(id, replica::In::Stop));
                    }
                    Work::Store(id, store::In::Led(term, next))
                }
                replica::Out::Deposed => {
                    self.work.push_back(Work::Store(id, store::In::Deposed));
                    self.work.push_back(Work::Gateway(gateway::In::Forget(id)));
                    Work::Coordinator(id, txn::In::Deposed)
                }
                replica::Out::Paused(paused) => {
                    self.work.push_back(Work::Store(id, store::In::Paused(paused)));
                    Work::Coordinator(id, txn::In::Paused(paused))
                }
                replica::Out::Leader(leader, term) => Work::Gateway(gateway::In::Leader(id, leader, term)),
                replica::Out::Confirmed(tag) => Work::Store(id, store::In::Confirmed(tag)),
                replica::Out::WantsEntry => Work::Store(id, store::In::Mark),
                replica::Out::Whole => {
                    let records = self.stands(id, false);
                    records.into_iter().for_each(|record| self.run_log(now, wal::In::Append(record)));
                    continue;
                }
                replica::Out::LacksBase(follower) => {
                    self.snapshots.ask(now, id, follower);
                    continue;
                }
                replica::Out::AllMatched(index) => Work::Store(id, store::In::AllMatched(index)),
                replica::Out::ReadEntry(tag, place) => Work::Log(wal::In::ReadEntry(ReadFor { group: id, tag }, place)),
            };
            // What is logged is logged before anything that follows in the outbox is gated: the gate reads the log's end.
            match work {
                Work::Log(input) => self.run_log(now, input),
                work => self.work.push_back(work),
            }
        }
        self.outboxes.replica = out;
        if caught_up {
            self.lossy_groups -= 1;
            self.note_caught_up();
        }
        if turn_ended {
            self.grant_turns(now);
        }
    }

    /// Lets groups campaign whose turn it is. A turn is as long as an election takes, when all is well.
    pub(super) fn grant_turns(&mut self, now: Time) {
        let turn = Duration::from_millis(u64::from(self.options.cluster.support_ms)) / 4;
        while let Some(group) = self.campaigns.next(now, turn, self.options.limits.campaigns) {
            self.work.push_back(Work::Replica(group, replica::In::Turn));
        }
    }

    fn run_store(&mut self, now: Time, id: GroupId, input: store::In) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let (me, own, view) = (self.options.me, self.log.room().is_full(), self.liveness.view());
        let is_full = |node: NodeId| if node == me { own } else { view.disk_of(node).full };
        // As far as heartbeats tell.
        let has_room = |node| !is_full(node) && group.replica.counts(node);
        let quorum_has_room = group.replica.configuration().has_quorum(has_room);
        let mut out = std::mem::take(&mut self.outboxes.store);
        let mut cx = context!(self, now, self.liveness.view());
        cx.quorum_has_room = quorum_has_room;
        let before = group.store.state().tokens().size();
        let freed = group.store.state().items().live().freed();
        group.store.handle(&mut cx, input, &mut out);
        self.checkpoints.note_freed(group.store.state().items().live().freed() - freed);
        self.token_bytes = self.token_bytes + group.store.state().tokens().size() - before;
        self.arm(id);
        while let Some(output) = out.pop() {
            match output {
                store::Out::Propose { index, term, fact } => {
                    self.work.push_back(Work::Replica(id, replica::In::Propose { index, term, fact }));
                }
                store::Out::Confirm(tag) => self.work.push_back(Work::Replica(id, replica::In::Confirm(tag))),
                store::Out::ReadValue(tag, place) => {
                    self.work.push_back(Work::Log(wal::In::ReadValue(Reader::Store.of(id, tag), place)));
                }
                store::Out::Answer(origin, outcome) => self.answer(now, id, origin, outcome),
                store::Out::AnswerLacking(origin, index) => {
                    let doubt = Doubt::ReplicasAway(self.lacking(id, index));
                    self.answer(now, id, origin, Outcome::Answer(ResponseBody::Unknown(doubt)));
                }
                store::Out::Ready(term) => self.work.push_back(Work::Coordinator(id, txn::In::Ready(term))),
                store::Out::Held(transaction, vote) => {
                    self.work.push_back(Work::Coordinator(id, txn::In::Held(transaction, vote)))
                }
                store::Out::NotDecided(transaction) => {
                    self.work.push_back(Work::Coordinator(id, txn::In::NotDecided(transaction)))
                }
                store::Out::Decided(index, decision) => {
                    self.work.push_back(Work::Coordinator(id, txn::In::Decided(index, decision)));
                }
                store::Out::Ended(ending) => self.work.push_back(Work::Coordinator(id, txn::In::Ended(ending))),
                store::Out::Inquire(transaction) => {
                    let asker = Asker::Participant(id, transaction);
                    let (task, deadline) = (Task::Inquire(transaction), now + INQUIRE_FOR);
                    self.work.push_back(Work::Gateway(gateway::In::Ask { asker, group: transaction.home, task, deadline }));
                }
                store::Out::WatchAll(index) => self.work.push_back(Work::Replica(id, replica::In::WatchAll(index))),
            }
        }
        self.outboxes.store = out;
    }

    fn run_coordinator(&mut self, now: Time, id: GroupId, input: txn::In) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut out = std::mem::take(&mut self.outboxes.coordinator);
        let mut cx = context!(self, now, self.liveness.view());
        cx.state = group.store.state();
        group.coordinator.handle(&mut cx, input, &mut out);
        self.arm(id);
        while let Some(output) = out.pop() {
            match output {
                txn::Out::Answer(origin, outcome) => self.answer(now, id, origin, outcome),
                txn::Out::Hold(preparation, deadline) => {
                    self.work.push_back(Work::Store(id, store::In::Hold(preparation, deadline)))
                }
                txn::Out::Release(transaction) => self.work.push_back(Work::Store(id, store::In::Release(transaction))),
                txn::Out::Decide(decision) => self.work.push_back(Work::Store(id, store::In::Decide(decision))),
                txn::Out::End(ending) => self.work.push_back(Work::Store(id, store::In::End(ending))),
                txn::Out::Ask { tag, group, task, deadline } => {
                    let asker = Asker::Coordinator(id, tag);
                    self.work.push_back(Work::Gateway(gateway::In::Ask { asker, group, task, deadline }));
                }
            }
        }
        self.outboxes.coordinator = out;
    }

    /// Whether this node may vote, lead and acknowledge in the group.
    fn takes_part(&self, id: GroupId) -> bool {
        !self.membership.is_refused() && self.groups.get(&id).is_some_and(|group| group.replica.has_started())
    }

    fn lacking(&self, id: GroupId, index: Index) -> Vec<NodeId> {
        self.groups.get(&id).map_or_else(Vec::new, |group| group.replica.lacking(index))
    }

    /// Takes an answer to its caller. A caller that was turned away is told which node leads, if that is known.
    fn answer(&mut self, now: Time, id: GroupId, origin: Origin, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::NotLeader { leader: None } => Outcome::NotLeader { leader: self.leader_hint(id) },
            outcome => outcome,
        };
        match origin {
            Origin::Gateway(call) => self.work.push_back(Work::Gateway(gateway::In::Answer(call, outcome))),
            Origin::Peer(node, epoch, sequence) => {
                self.gateway.served(node, epoch, sequence);
                // A gateway that has restarted since does not know the sequence any more.
                let restarted = self.liveness.view().epoch_of(node) > epoch;
                Sometimes::AnswerToRestartedGateway.when(restarted);
                if !restarted {
                    self.send(now, node, PeerMessage::ForwardReply(ForwardReply { sequence, outcome, epoch }));
                }
            }
        }
    }

    fn leader_hint(&self, id: GroupId) -> Option<LeaderHint> {
        let (leader, term) = self.groups.get(&id)?.replica.known_leader();
        let node = leader?;
        let epoch = if node == self.options.me { self.epoch } else { self.liveness.view().epoch_of(node) };
        Some(LeaderHint { node, epoch, term })
    }

    /// Sees to it that the group's actors are woken in time. A timer that is armed for an earlier moment stays: to wake them too
    /// early is harmless, and most deadlines are put off long before they come.
    fn arm(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(at) = group.deadline().filter(|at| group.timer.is_none_or(|armed| *at < armed)) else { return };
        if let Some(armed) = group.timer.replace(at) {
            self.timers.remove(&(armed, id));
        }
        self.timers.insert((at, id));
    }

    /// Nothing is logged behind the last record of an epoch.
    pub(super) fn is_sealing(&self) -> bool {
        matches!(self.stop, Stop::Sealing(_) | Stop::Done)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop != Stop::No
    }
}
