//! Turns client requests into tasks for the groups, and brings the answers back.
//!
//! A task goes to the leader that the gateway believes in: to this node's own replica, or forwarded to a peer. What was certainly
//! not begun is routed again until the caller's deadline; what may have been begun is never repeated, unless it is a read
//! (promise P6). At the deadline a write that was handed to a leader is *unknown*; everything else is rejected.
//!
//! - `calls.rs`: a task on its way, until its answer or its deadline.
//! - `routes.rs`: which leader is believed in, and the way to it.
//! - `forwards.rs`: tasks of peers, and what becomes of what is with a peer.
//! - `rivals.rs`: which transaction that met a conflict is retried when.
//! - `scan.rs` and `many.rs`: what is put together of several groups' answers. Both are calls too, one for each part.
//! - [`window`]: which forwards of a peer are repeats.
//!
//! A transaction goes to its home group's coordinator. A transaction that dies of a conflict is retried with its first age, after
//! a pause that grows, until the deadline. Behind an older one of this gateway that met a conflict, too, it queues. Coordinators,
//! and participants in doubt, use the same calls to reach the leaders of other groups ([`In::Ask`]).
//!
//! A scan is cut into one task per partition, some at a time; their parts are merged in key order. Each part shows one instant of
//! its partition.

mod calls;
mod forwards;
mod many;
mod rivals;
mod routes;
mod scan;
pub mod window;

use crate::actor::{Actor, Context, Origin, Outbox, Placement, TimerKind};
use crate::base::limits::{Limits, TIMEOUT_MAX};
use crate::base::{ConnId, Duration, Epoch, GroupId, NodeId, Term, Time};
use crate::msg::client::{Request, RequestBody, Response, ResponseBody};
use crate::msg::operation::Rejection;
use crate::msg::peer::{Farewell, Forward, ForwardReply, LeaderHint, Outcome, PeerMessage, Task};
use crate::msg::transaction::{Age, Failure, Transaction, TransactionId};
use many::Manys;
use rivals::Rivals;
use scan::Gather;
use std::collections::{BTreeMap, BTreeSet};
use window::Windows;

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
    /// A local replica has learnt which node leads.
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
    /// The asker for this group does not lead it any more: its questions are forgotten.
    Forget(GroupId),
    /// The peer is in a new epoch: what it was doing for us is lost.
    Restarted(NodeId),
    /// The link to the peer is up, or down.
    Link {
        peer: NodeId,
        up: bool,
    },
    /// The peer was not heard for a while.
    Away(NodeId),
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

/// The actor of this node that asks something of another group.
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
    /// Calls that wait for a leader of their group, or ask a peer which node that is.
    leaderless: BTreeSet<(GroupId, u64)>,
    /// Calls that are with a peer, by the sequence of their forward.
    forwarded: BTreeMap<(NodeId, u64), u64>,
    /// The last sequence used towards each peer.
    sequences: BTreeMap<NodeId, u64>,
    /// Reads that peers have forwarded and that are not answered, by peer, its epoch and sequence, until when they are worked on
    /// at the latest.
    serving: BTreeMap<(NodeId, Epoch, u64), Time>,
    windows: Windows,
    /// Transactions that met a conflict.
    rivals: Rivals,
    next_id: u64,
    /// The last transaction that was given an age here.
    last_age: Age,
    /// Bytes of keys and values of `calls`.
    size: usize,
    /// When the other replicas of a group may next be asked which node leads it.
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
    /// How often it was forwarded as a read since a peer last answered.
    asked: u32,
    /// It was forwarded only to learn which node leads, to a node that will certainly not begin it.
    asking: bool,
    /// A part of what is gathered, which a leader had no room to read.
    crowded: bool,
    /// Of a transaction: why its last attempt died.
    conflict: Vec<Failure>,
    /// The epoch of the peer that it was forwarded to, if it names one.
    epoch: Option<Epoch>,
    /// The peer that it was handed to: the peer that it was forwarded to, or the first that passes it on.
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

    fn leader_for(&self, body: &RequestBody) -> Option<NodeId> {
        match body {
            RequestBody::Operation(single) => self.leader_of(self.placement.group_of(single.operation.key.token())),
            RequestBody::Transact(transaction) => self.leader_of(self.home_of(transaction)),
            _ => None,
        }
    }

    fn on_request(&mut self, cx: &mut Context<'_>, conn: ConnId, request: Request, out: &mut Outbox<Out>) {
        let caller = Caller::Client(conn, request.id);
        if let Err(rejection) = self.admit(cx.limits, &request.body) {
            let leader = self.leader_for(&request.body).filter(|node| *node != cx.me);
            self.reply(caller, leader, ResponseBody::Rejected(rejection), out);
            return;
        }
        let deadline = cx.now + Duration::from_millis(u64::from(request.timeout_ms)).min(TIMEOUT_MAX);
        match request.body {
            RequestBody::Operation(single) => {
                if single.is_write() {
                    self.counters.writes += 1;
                } else {
                    self.counters.reads += 1;
                }
                let group = self.placement.group_of(single.operation.key.token());
                self.call(cx, caller, group, Task::Operation(single), deadline, out);
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
            RequestBody::Ring | RequestBody::Status | RequestBody::Transactions | RequestBody::Damage(_) => {
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

    /// The group that decides.
    fn home_of(&self, transaction: &Transaction) -> GroupId {
        self.placement.group_of(transaction.home().unwrap_or_default())
    }

    /// Whether a request may be begun.
    fn admit(&self, limits: &Limits, body: &RequestBody) -> Result<(), Rejection> {
        if self.stopping {
            return Err(Rejection::Stopping);
        }
        if self.placement.partition_count() == 0 {
            return Err(Rejection::NotReady);
        }
        if self.calls.len() >= limits.requests_in_progress || self.size >= limits.request_bytes_in_progress {
            return Err(Rejection::Overloaded);
        }
        match body {
            RequestBody::Scan(_) if self.gathers.len() >= limits.scans_in_progress => Err(Rejection::Overloaded),
            RequestBody::GetMany(_) if self.manys.len() >= limits.gets_of_many_in_progress => Err(Rejection::Overloaded),
            _ => body.validate(),
        }
    }
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
            // At the node's end no asker waits for the answer any more.
            In::Ask { .. } if self.ended => {}
            In::Ask { asker, group, task, deadline } => self.call(cx, Caller::Asker(asker), group, task, deadline, out),
            In::Forget(group) => self.on_forget(group),
            In::Restarted(peer) => self.on_restarted(cx, peer, out),
            In::Link { peer, up } => self.on_link(cx, peer, up),
            In::Away(peer) => self.on_away(cx, peer),
            In::Farewell(from, epoch, farewell) => self.on_farewell(cx, from, epoch, farewell),
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
        self.check_calls();
        self.check_rivals();
        self.manys.check();
    }
}

#[cfg(test)]
mod tests;
