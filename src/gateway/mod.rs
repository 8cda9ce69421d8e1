//! Turns client requests into tasks for the groups, and brings the answers back.
//!
//! A task goes to the leader the gateway believes in: to this node's own replica, or forwarded to a peer. What was certainly not begun is routed again until
//! the caller's deadline; what may have been begun is never repeated, unless it is a read (promise P6). At the deadline a write that was handed to a leader is
//! *unknown*; everything else is rejected.
//!
//! A forwarded task names the leader's epoch and term: any other life or term of the receiver refuses it, so that a late copy cannot be applied by a later
//! leadership. Within a term repeats are refused by the receiving gateway's [`window`].
//!
//! A transaction goes to its home group's coordinator; one that dies of a conflict is tried again with its first age, after a pause that grows, until the deadline; behind an older
//! one of this gateway that met a conflict, too, it queues (`rivals.rs`). Coordinators, and participants in
//! doubt, use the same calls to reach the leaders of other groups (`In::Ask`).
//!
//! **A read that is slow.** What peers do not answer is asked for again, less often each time, since it may have been lost. At the same leader that is a copy, with the sequence of the first:
//! while the first is worked on the copy is dropped there, and whichever is answered ends the call.
//!
//! **A peer that goes away.** When the link to a peer goes down, what was with it is not waited for until the deadline: a read is asked for again, a write is
//! *unknown*, once an answer that came just before has had its moment. What comes after goes through other nodes, if one reaches the peer (the node's `relay.rs`). A peer that stops cleanly says how far it has
//! taken this node's forwards ([`Farewell`]): what is beyond was certainly not begun, and is routed again, so that a clean stop costs no caller an answer.
//!
//! 1. *A farewell that comes late*, when the peer lives again: the forwards of this moment went to its new life, and have higher sequences than the farewell names. Each call
//!    remembers which life it was sent to; a farewell speaks for one.
//! 2. *An answer of a later epoch.* A leader begins a write, crashes, and is back before its new heartbeats are heard. A repeated copy of the forward reaches the new epoch, whose
//!    window is fresh, and which answers that it does not lead, "certainly not begun". That is true of itself alone: an answer counts if it comes from the epoch that the call was sent
//!    to. From a later one it says that the earlier is over: the write is *unknown*.
//!
//! A scan is cut into one task per partition, [`SCAN_PARTS_AT_ONCE`] at a time; their parts are merged in key order ([`scan`]). Each part shows one instant of its
//! partition.

mod many;
mod rivals;
mod scan;
pub mod window;

use crate::actor::{Actor, Context, Origin, Outbox, Placement, TimerKind};
use crate::base::limits::{
    GETS_OF_MANY_IN_PROGRESS_MAX, OPEN_NAMED_MAX, REQUEST_BYTES_IN_PROGRESS_MAX, REQUESTS_IN_PROGRESS_MAX, SCAN_ITEMS_MAX,
    SCANS_IN_PROGRESS_MAX, TIMEOUT_MAX, TRANSACTION_ITEMS_MAX,
};
use crate::base::{ConnId, Duration, Epoch, GroupId, NodeId, Term, Time};
use crate::msg::client::{Doubt, Rejection, Request, RequestBody, Response, ResponseBody};
use crate::msg::peer::{Farewell, Forward, ForwardReply, LeaderHint, Outcome, PeerMessage, Task};
use crate::msg::transaction::{Age, Failure, FailureReason, Transaction, TransactionId, validate_keys};
use many::Manys;
use rivals::Rivals;
use scan::Gather;
use std::collections::{BTreeMap, BTreeSet};
use window::Windows;

/// How long a request that met no leader waits before it is routed again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// How long a forwarded read waits for its answer before it is asked for again.
const READ_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How often that doubles.
const READ_RETRY_DOUBLINGS: u32 = 3;
/// The longest pause of a transaction after its first conflict, and how often that doubles.
const CONFLICT_PAUSE_MIN: Duration = Duration::from_millis(1);
const CONFLICT_DOUBLINGS: usize = 5;
/// How often the pause doubles behind an older one, which wakes it when it is done. It begins where the other ends.
const QUEUE_DOUBLINGS: usize = 10;
/// How long a write that was with a peer waits for its answer after the link is lost: the peer answers on another connection.
const LAST_ANSWER_WAIT: Duration = Duration::from_millis(20);
/// Beyond so many reads of peers, those whose time is over are looked for.
const SERVING_MAX: usize = 4_096;
/// How often the other replicas of a group are asked who leads it, when this node's own replica does not know.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// How often a call is routed in vain before that: the own replica mostly knows soon.
const ASK_AFTER: usize = 3;
/// Parts of one scan in progress at once; bounds what a scan holds in memory.
const SCAN_PARTS_AT_ONCE: usize = 16;

#[derive(Debug)]
pub enum In {
    Joined(Placement),
    Request(ConnId, Request),
    /// From a peer's gateway, in this epoch of it.
    Forward(NodeId, Epoch, Forward),
    /// From a peer's gateway, in this epoch of it.
    ForwardReply(NodeId, Epoch, ForwardReply),
    /// What a local replica made of a task of this gateway.
    Answer(u64, Outcome),
    /// A local replica has learnt who leads.
    Leader(GroupId, Option<NodeId>, Term),
    /// A peer says that it leads a group of which there is no replica here.
    Hint(GroupId, LeaderHint),
    /// A local coordinator, or a participant in doubt, wants this of another group's leader.
    Ask {
        asker: Asker,
        group: GroupId,
        task: Task,
        deadline: Time,
    },
    /// Who asked for this group does not lead it any more: its questions are forgotten.
    Forget(GroupId),
    /// The peer is in a new epoch: what it was doing for us is lost.
    Restarted(NodeId),
    /// The link to the peer is up, or down.
    Link(NodeId, bool),
    /// The peer, in this epoch of it, has stopped.
    Farewell(NodeId, Epoch, Farewell),
    /// Take no more requests.
    Stop,
    /// The node ends: answer what is left, and tell these peers how far their forwards were taken.
    End(Vec<NodeId>),
    Timer,
}

#[derive(Debug)]
pub enum Out {
    Reply(ConnId, Response),
    Send(NodeId, PeerMessage),
    /// For this node's replica of the group; as leader in the term, if one is named.
    Task {
        group: GroupId,
        origin: Origin,
        task: Task,
        term: Option<Term>,
        deadline: Time,
    },
    /// What came of [`In::Ask`].
    Answered(Asker, Outcome),
}

/// Who on this node asks something of another group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// The coordinator of this group, by its tag.
    Coordinator(GroupId, u64),
    /// This group, as a participant in doubt of this transaction.
    Participant(GroupId, TransactionId),
}

impl Asker {
    fn group(self) -> GroupId {
        match self {
            Asker::Coordinator(group, _) | Asker::Participant(group, _) => group,
        }
    }
}

#[derive(Debug, Default)]
pub struct Gateway {
    placement: Placement,
    leaders: BTreeMap<GroupId, LeaderHint>,
    calls: BTreeMap<u64, Call>,
    gathers: BTreeMap<u64, Gather>,
    manys: Manys,
    /// When each call wants attention: its deadline, or a retry before it.
    wakes: BTreeSet<(Time, u64)>,
    /// Calls that wait for a leader of their group.
    leaderless: BTreeSet<(GroupId, u64)>,
    /// Calls that are with a peer, by the sequence of their forward.
    forwarded: BTreeMap<(NodeId, u64), u64>,
    /// The last sequence used towards each peer.
    sequences: BTreeMap<NodeId, u64>,
    /// Reads that peers have forwarded and that are not answered, by peer, its epoch and sequence, until when they are worked on at the latest.
    serving: BTreeMap<(NodeId, Epoch, u64), Time>,
    windows: Windows,
    /// Transactions that met a conflict.
    rivals: Rivals,
    next_id: u64,
    /// The last transaction that was given an age here.
    last_age: Age,
    /// Bytes of keys and values of `calls`.
    size: usize,
    /// When the other replicas of a group may next be asked who leads it.
    ask_at: BTreeMap<GroupId, Time>,
    stopping: bool,
    /// Nothing is begun any more.
    ended: bool,
    pub counters: Counters,
}

/// How often things happened since boot.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counters {
    pub reads: u64,
    pub writes: u64,
    pub scans: u64,
    pub transactions: u64,
    pub transactions_retried: u64,
    pub rejected: u64,
    pub unknown: u64,
    pub forwards_sent: u64,
    pub forwards_refused: u64,
}

/// One task on its way.
#[derive(Debug)]
struct Call {
    caller: Caller,
    group: GroupId,
    task: Task,
    deadline: Time,
    wake: Time,
    size: usize,
    place: Whereabouts,
    /// How often it was routed; spreads eventual reads over the replicas.
    attempts: usize,
    /// How often it was forwarded as a read.
    asked: u32,
    /// It was forwarded only to learn who leads, to a node that will certainly not begin it.
    asking: bool,
    /// A part of what is gathered, which a leader had no room to read.
    crowded: bool,
    /// Of a transaction: why its last attempt died.
    conflict: Vec<Failure>,
    /// The life of the peer that it was forwarded to, if it names one.
    life: Option<Epoch>,
    /// The peer that it was handed to: the one that it was forwarded to, or the first that passes it on.
    next: Option<NodeId>,
    /// The link to that peer was lost.
    lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Client(ConnId, u64),
    /// This group's part of this scan.
    Scan(u64, GroupId),
    /// This group's part of a read of several items.
    Many(u64, GroupId),
    /// An actor of this node.
    Asker(Asker),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    /// Here; certainly not begun.
    Waiting,
    /// With this node's replica.
    Local,
    Forwarded(NodeId, u64),
}

impl Call {
    /// Whether it may have been applied when nothing is known of it.
    fn is_write(&self) -> bool {
        self.task.writes() && !self.task.is_repeatable()
    }

    /// Whether it may be sent again although an earlier copy may have arrived.
    fn is_repeatable(&self) -> bool {
        self.asking || self.task.is_repeatable()
    }
}

impl Gateway {
    /// Whether no request is in progress.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.gathers.is_empty() && self.manys.is_empty()
    }

    pub fn requests_in_progress(&self) -> usize {
        self.calls.len()
    }

    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.leaders.get(&group).map(|hint| hint.node)
    }

    fn leader_for(&self, body: &RequestBody) -> Option<NodeId> {
        match body {
            RequestBody::Operation(operation) => self.leader_of(self.placement.group_of(&operation.key)),
            RequestBody::Transact(transaction) => self.leader_of(self.home_of(transaction)),
            _ => None,
        }
    }

    fn on_request(&mut self, cx: &mut Context<'_>, conn: ConnId, request: Request, out: &mut Outbox<Out>) {
        let caller = Caller::Client(conn, request.id);
        if let Err(rejection) = self.admit(&request.body) {
            let leader = self.leader_for(&request.body).filter(|node| *node != cx.me);
            self.reply(caller, leader, ResponseBody::Rejected(rejection), out);
            return;
        }
        let deadline = cx.now + Duration::from_millis(u64::from(request.timeout_ms)).min(TIMEOUT_MAX);
        match request.body {
            RequestBody::Operation(operation) => {
                if operation.action.is_write() {
                    self.counters.writes += 1;
                } else {
                    self.counters.reads += 1;
                }
                let group = self.placement.group_of(&operation.key);
                self.call(cx, caller, group, Task::Operation(operation), deadline, out);
            }
            RequestBody::Scan(scan) => {
                self.counters.scans += 1;
                self.begin_scan(cx, conn, request.id, scan, deadline, out);
            }
            RequestBody::Transact(transaction) => {
                self.counters.transactions += 1;
                let home = self.home_of(&transaction);
                let age = self.age(cx);
                self.call(cx, caller, home, Task::Transact { age, transaction }, deadline, out);
            }
            RequestBody::GetMany(keys) => {
                self.counters.reads += 1;
                self.begin_many(cx, conn, request.id, keys, deadline, out);
            }
            RequestBody::Ring | RequestBody::Status | RequestBody::Transactions => {
                let why = Rejection::Invalid("the node itself answers this".into());
                self.reply(caller, None, ResponseBody::Rejected(why), out);
            }
        }
    }

    /// The age of a transaction that begins now.
    fn age(&mut self, cx: &Context<'_>) -> Age {
        self.last_age = Age { began_ms: cx.wall_clock_ms, gateway: cx.me, sequence: self.last_age.sequence + 1 };
        self.last_age
    }

    /// The group that decides: of the token, so that the same token always meets the same record, else of the first key.
    fn home_of(&self, transaction: &Transaction) -> GroupId {
        let key = transaction.token.as_ref().or(transaction.items.first().map(|item| &item.key));
        self.placement.group_of(key.map_or(&[], |key| key))
    }

    /// Whether a request may be begun.
    fn admit(&self, body: &RequestBody) -> Result<(), Rejection> {
        if self.stopping {
            return Err(Rejection::Stopping);
        }
        if self.placement.partition_count() == 0 {
            return Err(Rejection::NotReady);
        }
        if self.calls.len() >= REQUESTS_IN_PROGRESS_MAX || self.size >= REQUEST_BYTES_IN_PROGRESS_MAX {
            return Err(Rejection::Overloaded);
        }
        match body {
            RequestBody::Scan(_) if self.gathers.len() >= SCANS_IN_PROGRESS_MAX => Err(Rejection::Overloaded),
            RequestBody::GetMany(_) if self.manys.len() >= GETS_OF_MANY_IN_PROGRESS_MAX => Err(Rejection::Overloaded),
            _ => body.validate(),
        }
    }

    fn call(&mut self, cx: &mut Context<'_>, caller: Caller, group: GroupId, task: Task, deadline: Time, out: &mut Outbox<Out>) {
        self.next_id += 1;
        let size = task.size();
        self.size += size;
        let call = Call {
            caller,
            group,
            task,
            deadline,
            wake: deadline,
            size,
            place: Whereabouts::Waiting,
            attempts: 0,
            asked: 0,
            asking: false,
            crowded: false,
            conflict: Vec::new(),
            life: None,
            next: None,
            lost: false,
        };
        self.wakes.insert((deadline, self.next_id));
        self.calls.insert(self.next_id, call);
        self.route(cx, self.next_id, out);
    }

    /// Sends a call that was certainly not begun, or is a read, where it can be done.
    fn route(&mut self, cx: &Context<'_>, id: u64, out: &mut Outbox<Out>) {
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
                // An append may come before the first heartbeat of its sender's life: what was not known then is known by now. A leader that
                // has restarted since does not lead in that term any more, and says so.
                let epoch = hint.epoch.max(cx.liveness.epoch_told_of(hint.node));
                Some((hint.node, Some((epoch, hint.term))))
            }
            // Without a replica here nobody tells who leads, nor does one that is cut off from the leader. Whoever is asked for term zero, which nobody
            // leads, does not begin anything and says whom it believes in.
            _ if !here || (call.attempts > ASK_AFTER && self.ask_at.get(&call.group).is_none_or(|at| *at <= cx.now)) => {
                self.ask_at.insert(call.group, cx.now + ASK_INTERVAL);
                nearest(cx, replicas, call.attempts).map(|node| (node, Some((cx.liveness.epoch_told_of(node), Term::ZERO))))
            }
            _ => None,
        };
        // Asked again where it is already: as a copy, which the peer knows by its sequence while it works on the first.
        let copy = match (asked_before, target) {
            (Whereabouts::Forwarded(peer, sequence), Some((node, leader)))
                if peer == node && !call.asking && call.life == leader.map(|(epoch, _)| epoch) =>
            {
                Some(sequence)
            }
            _ => None,
        };
        if copy.is_none() {
            self.recall(id);
        }
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
                self.forwarded.insert((node, sequence), id);
                self.counters.forwards_sent += 1;
                let remaining_ms = call.deadline.since(cx.now).as_millis() as u32;
                let task = call.task.clone();
                call.life = leader.map(|(life, _)| life);
                call.next = cx.liveness.way_to(node, cx.now).map(|(next, _)| next);
                call.asking = leader.is_some_and(|(_, term)| term == Term::ZERO);
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

    /// Keeps a call here until a leader is known, or it is time to try again.
    fn wait(&mut self, cx: &Context<'_>, id: u64) {
        self.wait_for(cx, id, RETRY_INTERVAL);
    }

    fn wait_for(&mut self, cx: &Context<'_>, id: u64, pause: Duration) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.place = Whereabouts::Waiting;
        let group = call.group;
        self.leaderless.insert((group, id));
        self.wake_at(id, cx.now + pause);
    }

    fn wake_at(&mut self, id: u64, at: Time) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        self.wakes.remove(&(call.wake, id));
        call.wake = at.min(call.deadline);
        self.wakes.insert((call.wake, id));
    }

    /// Takes a call back from wherever it is.
    fn recall(&mut self, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        match call.place {
            Whereabouts::Forwarded(node, sequence) => {
                self.forwarded.remove(&(node, sequence));
            }
            Whereabouts::Waiting => {
                self.leaderless.remove(&(call.group, id));
            }
            Whereabouts::Local => {}
        }
        call.place = Whereabouts::Waiting;
    }

    fn finish(&mut self, cx: &mut Context<'_>, id: u64, outcome: Outcome, out: &mut Outbox<Out>) {
        self.recall(id);
        let Some(call) = self.calls.remove(&id) else { return };
        self.wakes.remove(&(call.wake, id));
        self.size -= call.size;
        self.rival_is_done(cx, id, &call);
        let body = |outcome| match outcome {
            Outcome::Answer(body) => body,
            _ => ResponseBody::Rejected(Rejection::Invalid("the leader's answer is to another question".into())),
        };
        match call.caller {
            Caller::Client(..) => self.reply(call.caller, self.leader_of(call.group), body(outcome), out),
            Caller::Scan(gather, group) => self.on_part(cx, gather, group, outcome, out),
            Caller::Many(number, group) => self.on_many(cx, number, group, outcome, out),
            Caller::Asker(asker) => out.push(Out::Answered(asker, outcome)),
        }
    }

    fn reply(&mut self, caller: Caller, leader: Option<NodeId>, body: ResponseBody, out: &mut Outbox<Out>) {
        let Caller::Client(conn, id) = caller else { return };
        match &body {
            ResponseBody::Rejected(_) => self.counters.rejected += 1,
            ResponseBody::Unknown(_) => self.counters.unknown += 1,
            _ => {}
        }
        out.push(Out::Reply(conn, Response { id, leader, body }));
    }

    fn on_outcome(&mut self, cx: &mut Context<'_>, id: u64, outcome: Outcome, out: &mut Outbox<Out>) {
        match outcome {
            Outcome::Answer(ResponseBody::NotCommitted(failures)) if is_conflict(&failures) => self.on_conflict(cx, id, failures),
            Outcome::Answer(ResponseBody::Rejected(Rejection::Overloaded)) if self.is_part(id) => self.on_crowded(cx, id),
            Outcome::NotLeader { leader } => {
                let Some((group, place)) = self.calls.get(&id).map(|call| (call.group, call.place)) else { return };
                let believed = self.leaders.get(&group).copied();
                if let Some(hint) = leader {
                    self.learn(group, hint);
                }
                if let Whereabouts::Forwarded(node, _) = place
                    && self.leader_of(group) == Some(node)
                    && self.leaders.get(&group).copied() == believed
                    && leader.is_none_or(|hint| hint.node != node)
                {
                    // It does not lead, and knows nobody later: ask the others.
                    self.leaders.remove(&group);
                }
                // Always after a pause: the hint may be as stale as ours was.
                self.recall(id);
                self.wait(cx, id);
            }
            outcome => self.finish(cx, id, outcome, out),
        }
    }

    /// Drops what was asked for a group that is not led here any more.
    fn on_forget(&mut self, group: GroupId) {
        let asked = |call: &Call| matches!(call.caller, Caller::Asker(asker) if asker.group() == group);
        let forgotten: Vec<u64> = self.calls.iter().filter(|(_, call)| asked(call)).map(|(id, _)| *id).collect();
        forgotten.into_iter().for_each(|id| self.abandon(id));
    }

    /// Drops a call that nobody waits for.
    fn abandon(&mut self, id: u64) {
        self.recall(id);
        if let Some(call) = self.calls.remove(&id) {
            self.wakes.remove(&(call.wake, id));
            self.size -= call.size;
        }
    }

    /// Believes the hint if it is of a later term than what is known, or of a later life in the same: a replica may have heard of a leader before
    /// its node knew in which epoch the leader is.
    fn learn(&mut self, group: GroupId, hint: LeaderHint) {
        let known = self.leaders.get(&group).map(|known| (known.term, known.epoch));
        if self.placement.replicas(group).contains(&hint.node) && known.is_none_or(|known| known < (hint.term, hint.epoch)) {
            self.leaders.insert(group, hint);
        }
    }

    fn on_leader(&mut self, cx: &Context<'_>, group: GroupId, leader: Option<NodeId>, term: Term, out: &mut Outbox<Out>) {
        let Some(node) = leader else {
            // What was learnt from others of a later term stands: this node's replica may be cut off from that leader.
            if self.leaders.get(&group).is_some_and(|known| known.term <= term) {
                self.leaders.remove(&group);
            }
            return;
        };
        let epoch = if node == cx.me { cx.epoch } else { cx.liveness.epoch_of(node) };
        self.leaders.insert(group, LeaderHint { node, epoch, term });
        self.route_leaderless(cx, group, out);
    }

    /// Goes on with the calls that wait until somebody leads the group.
    fn route_leaderless(&mut self, cx: &Context<'_>, group: GroupId, out: &mut Outbox<Out>) {
        let waiting: Vec<u64> = self.leaderless.range((group, 0)..=(group, u64::MAX)).map(|(_, id)| *id).collect();
        for id in waiting {
            self.route(cx, id, out);
        }
    }

    fn on_forward(&mut self, cx: &Context<'_>, from: NodeId, epoch: Epoch, forward: Forward, out: &mut Outbox<Out>) {
        let known = (from, epoch, forward.sequence);
        let is_new = self.windows.admit(from, epoch, forward.sequence);
        // A copy of a read whose first is answered was sent because that answer was lost.
        let again = forward.task.is_repeatable() && self.windows.is_latest(from, epoch) && !self.serving.contains_key(&known);
        if self.ended || !(is_new || again) {
            self.counters.forwards_refused += 1;
            return;
        }
        let outcome = match (&forward.task, forward.leader) {
            (task, _) if !self.is_valid(task, forward.group) => {
                let why = "a forwarded task has a wrong size, or is of another partition";
                Some(Outcome::Answer(ResponseBody::Rejected(Rejection::Invalid(why.into()))))
            }
            (_, Some((life, _))) if life != cx.epoch => {
                Some(Outcome::NotLeader { leader: self.leaders.get(&forward.group).copied() })
            }
            // Only what would begin something new: decisions are still taken, and told.
            (Task::Operation(_) | Task::Scan(_) | Task::List(_) | Task::Transact { .. } | Task::Prepare(_), _)
                if self.stopping && !forward.task.is_eventual() =>
            {
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
        let here = |key: &[u8]| self.placement.group_of(key) == group;
        match task {
            Task::Operation(operation) => operation.validate().is_ok() && here(&operation.key),
            Task::Transact { transaction, .. } => transaction.validate().is_ok() && self.home_of(transaction) == group,
            Task::Prepare(preparation) => {
                let items = preparation.items.iter().map(|placed| placed.item.clone()).collect();
                let whole = Transaction { items, token: None };
                whole.validate().is_ok()
                    && whole.items.iter().all(|item| here(&item.key))
                    && preparation.parties.len() <= TRANSACTION_ITEMS_MAX
                    && preparation.open.len() <= OPEN_NAMED_MAX
                    && preparation.id.home != group
                    // Whoever is in doubt must have somebody to ask.
                    && !self.placement.replicas(preparation.id.home).is_empty()
            }
            Task::Inquire(id) => id.home == group,
            Task::ReadMany(keys) | Task::Measure(keys) => validate_keys(keys).is_ok() && keys.iter().all(|key| here(&key.0)),
            Task::ReadSeen(seen) => seen.len() <= TRANSACTION_ITEMS_MAX && seen.iter().all(|seen| here(&seen.key)),
            Task::Scan(scan) | Task::List(scan) => scan.validate().is_ok(),
            Task::ReadListed(seen) => seen.len() <= SCAN_ITEMS_MAX && seen.iter().all(|seen| here(&seen.key)),
            Task::Resolve { .. } => true,
        }
    }

    fn on_forward_reply(&mut self, cx: &mut Context<'_>, from: NodeId, epoch: Epoch, reply: ForwardReply, out: &mut Outbox<Out>) {
        // An answer to an earlier life of this node may bear the sequence of another call of this one.
        if reply.epoch != cx.epoch {
            return;
        }
        let Some(id) = self.forwarded.get(&(from, reply.sequence)).copied() else { return };
        let Some(call) = self.calls.get(&id) else { return };
        match call.life {
            // The life that may have begun it is over, and its answer, if there was one, is not let in any more.
            Some(life) if life < epoch && !call.is_repeatable() => {
                self.finish(cx, id, Outcome::Answer(ResponseBody::Unknown(Doubt::LeadershipLost)), out);
            }
            Some(life) if life > epoch && !call.is_repeatable() => {}
            _ => self.on_outcome(cx, id, reply.outcome, out),
        }
    }

    /// The peer restarted: a write that was with it may or may not survive; a read is asked again.
    fn on_restarted(&mut self, cx: &mut Context<'_>, peer: NodeId, out: &mut Outbox<Out>) {
        self.leaders.retain(|_, hint| hint.node != peer);
        let with_it: Vec<u64> = self.forwarded.range((peer, 0)..=(peer, u64::MAX)).map(|(_, id)| *id).collect();
        for id in with_it {
            self.recall(id);
            if self.calls.get(&id).is_some_and(|call| !call.is_repeatable()) {
                self.finish(cx, id, Outcome::Answer(ResponseBody::Unknown(Doubt::LeadershipLost)), out);
            } else {
                self.wait(cx, id);
            }
        }
    }

    fn on_link(&mut self, cx: &mut Context<'_>, peer: NodeId, up: bool) {
        if up {
            return;
        }
        let forwarded: Vec<u64> = self.forwarded.values().copied().collect();
        for id in forwarded {
            let Some(call) = self.calls.get_mut(&id).filter(|call| call.next == Some(peer)) else { continue };
            if call.is_repeatable() {
                self.recall(id);
                self.wait(cx, id);
            } else {
                call.lost = true;
                self.wake_at(id, cx.now + LAST_ANSWER_WAIT);
            }
        }
    }

    fn on_farewell(&mut self, cx: &mut Context<'_>, from: NodeId, life: Epoch, farewell: Farewell) {
        if farewell.epoch != cx.epoch {
            return;
        }
        self.leaders.retain(|_, hint| hint.node != from || hint.epoch > life);
        let beyond = self.forwarded.range((from, farewell.sequence.saturating_add(1))..=(from, u64::MAX));
        let not_begun: Vec<u64> = beyond.map(|(_, id)| *id).collect();
        for id in not_begun {
            if self.calls.get(&id).is_some_and(|call| call.life == Some(life)) {
                self.recall(id);
                self.wait(cx, id);
            }
        }
    }

    /// Whoever still waits, after all patience, is told what holds; and nothing is begun any more.
    fn on_end(&mut self, cx: &mut Context<'_>, peers: Vec<NodeId>, out: &mut Outbox<Out>) {
        self.ended = true;
        for id in self.calls.keys().copied().collect::<Vec<u64>>() {
            let Some(call) = self.calls.get(&id) else { continue };
            if matches!(call.caller, Caller::Asker(_)) {
                // The next leaders ask for themselves.
                self.abandon(id);
                continue;
            }
            let begun = call.place != Whereabouts::Waiting && !call.is_repeatable();
            let body = match begun {
                true => ResponseBody::Unknown(Doubt::LeadershipLost),
                false => ResponseBody::Rejected(Rejection::Stopping),
            };
            self.finish(cx, id, Outcome::Answer(body), out);
        }
        self.end_manys(cx, out);
        for peer in peers {
            let (epoch, sequence) = self.windows.highest(peer).unwrap_or((cx.liveness.epoch_of(peer), 0));
            out.push(Out::Send(peer, PeerMessage::Farewell(Farewell { epoch, sequence })));
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        self.on_manys_late(cx, out);
        while let Some((at, id)) = self.wakes.first().copied().filter(|(at, _)| *at <= cx.now) {
            self.wakes.remove(&(at, id));
            let Some(call) = self.calls.get(&id) else { continue };
            if call.deadline <= cx.now {
                let body = match (call.place, call.is_write()) {
                    (Whereabouts::Waiting, _) if !call.conflict.is_empty() => ResponseBody::NotCommitted(call.conflict.clone()),
                    (Whereabouts::Waiting, _) if call.crowded => ResponseBody::Rejected(Rejection::Overloaded),
                    (Whereabouts::Waiting, _) => ResponseBody::Rejected(Rejection::NoLeader),
                    (Whereabouts::Forwarded(..), _) if call.asking => ResponseBody::Rejected(Rejection::NoLeader),
                    (_, true) => ResponseBody::Unknown(Doubt::DeadlineExceeded),
                    (_, false) => ResponseBody::Rejected(Rejection::DeadlineExceeded),
                };
                self.finish(cx, id, Outcome::Answer(body), out);
                continue;
            }
            if call.lost && matches!(call.place, Whereabouts::Forwarded(..)) {
                self.finish(cx, id, Outcome::Answer(ResponseBody::Unknown(Doubt::ConnectionLost)), out);
                continue;
            }
            let again = match call.place {
                Whereabouts::Waiting => true,
                Whereabouts::Forwarded(..) => call.is_repeatable(),
                Whereabouts::Local => false,
            };
            let deadline = call.deadline;
            if again {
                self.route(cx, id, out);
            }
            if self.calls.get(&id).is_some_and(|call| call.wake <= cx.now) {
                self.wake_at(id, deadline);
            }
        }
    }
}

/// Whether all that stands in a transaction's way is other transactions.
fn is_conflict(failures: &[Failure]) -> bool {
    failures.iter().all(|failure| failure.reason == FailureReason::Conflict)
}

/// How long a replica may take of what is left to the caller: a little less, so that a clear answer is still in time.
fn begin_within(remaining: Duration) -> Duration {
    remaining * 9 / 10
}

/// Another node's replica that there is a way to, another at each attempt.
fn nearest(cx: &Context<'_>, replicas: &[NodeId], attempt: usize) -> Option<NodeId> {
    let others = replicas.iter().copied().filter(|node| *node != cx.me);
    let reached: Vec<NodeId> = others.filter(|node| cx.liveness.way_to(*node, cx.now).is_some()).collect();
    (!reached.is_empty()).then(|| reached[attempt % reached.len()])
}

impl Actor for Gateway {
    type In = In;
    type Out = Out;

    fn handle(&mut self, cx: &mut Context<'_>, input: In, out: &mut Outbox<Out>) {
        match input {
            In::Joined(placement) => self.placement = placement,
            In::Request(conn, request) => self.on_request(cx, conn, request, out),
            In::Hint(group, hint) => {
                self.learn(group, hint);
                self.route_leaderless(cx, group, out);
            }
            In::Forward(from, epoch, forward) => self.on_forward(cx, from, epoch, forward, out),
            In::ForwardReply(from, epoch, reply) => self.on_forward_reply(cx, from, epoch, reply, out),
            In::Answer(id, outcome) => self.on_outcome(cx, id, outcome, out),
            In::Leader(group, leader, term) => self.on_leader(cx, group, leader, term, out),
            // At the node's end nobody waits for the answer any more.
            In::Ask { .. } if self.ended => {}
            In::Ask { asker, group, task, deadline } => self.call(cx, Caller::Asker(asker), group, task, deadline, out),
            In::Forget(group) => self.on_forget(group),
            In::Restarted(peer) => self.on_restarted(cx, peer, out),
            In::Link(peer, up) => self.on_link(cx, peer, up),
            In::Farewell(from, life, farewell) => self.on_farewell(cx, from, life, farewell),
            In::Stop => self.stopping = true,
            In::End(peers) => self.on_end(cx, peers, out),
            In::Timer => self.on_timer(cx, out),
        }
    }

    fn deadline(&self) -> Option<(Time, TimerKind)> {
        let call = self.wakes.first().map(|(at, _)| *at);
        [call, self.manys.deadline()].into_iter().flatten().min().map(|at| (at, TimerKind::Gateway))
    }

    fn check(&self) {
        self.check_rivals();
        assert_eq!(self.wakes.len(), self.calls.len(), "every call has a deadline");
        assert_eq!(self.size, self.calls.values().map(|call| call.size).sum::<usize>(), "bytes in progress are counted");
        for (id, call) in &self.calls {
            assert!(self.wakes.contains(&(call.wake, *id)), "every call is woken in time");
            let waiting = call.place == Whereabouts::Waiting;
            assert_eq!(waiting, self.leaderless.contains(&(call.group, *id)), "a call waits if, and only if, it is nowhere else");
            if let Whereabouts::Forwarded(node, sequence) = call.place {
                assert_eq!(self.forwarded.get(&(node, sequence)), Some(id), "a forwarded call is found by its sequence");
            }
        }
        assert!(self.forwarded.values().all(|id| self.calls.contains_key(id)), "nothing is forwarded for nobody");
        assert!(self.leaderless.iter().all(|(_, id)| self.calls.contains_key(id)), "nobody waits who is gone");
        self.manys.check();
    }
}

#[cfg(test)]
mod tests;
