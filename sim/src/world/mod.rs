//! The world: one heap of events, and the machines, network and clients they happen to.
//!
//! It drives the real [`ringseed::node::Node`] and re-writes none of its glue: an event is put into a machine's inbox; a round
//! takes some of the inbox (how many is drawn), steps the node through them, flushes it once, and carries out its effects. All of
//! a run follows from its plan: events are ordered by time and then by the order in which they were scheduled, and every concern
//! draws from a stream of its own.
//!
//! A run has two phases. In the first, the plan's faults strike while clients work. In the second ([`healing`]), unless the plan
//! never heals, everything must finish, converge and be readable within bounded time (promise P5). In some plans one fault
//! outlasts the others, and a phase in between shows that the cluster lives with it ([`standing`]).

mod budget;
mod faults;
mod flood;
mod healing;
mod machine;
mod rounds;
mod standing;
mod watch;

use crate::check::Violation;
use crate::counters::{Counters, Kind, Void};
use crate::dice::Dice;
use crate::network::{Network, Transit};
use crate::plan::{Ending, Fault, Plan, Standing};
use crate::recovery::Took;
use crate::trace::{Timeline, Trace};
use crate::workload::Workload;
use crate::{Verdict, WorldTime};
use bytes::Bytes;
use machine::Machine;
use ringseed::base::{ConnId, IoId};
use ringseed::msg::client::{Request, Response};
use ringseed::node::Effect;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use watch::Watch;

pub use crate::disk::DiskTrouble;
pub use faults::Struck;

pub const MS: u64 = 1_000_000;

/// What is scheduled. Machines, clients and faults by their position in the plan.
#[derive(Debug)]
enum Happening {
    /// A machine starts its node, unless it has been struck again since (the number is its boot).
    Boot(usize, u32),
    /// A round of steps.
    Round(usize, u32),
    Wake(usize, u32),
    /// An envelope arrives, from another machine. It may have been sent to an earlier epoch.
    Arrival {
        to: usize,
        from: usize,
        /// The receiver's when it was sent.
        boot: u32,
        transit: Transit,
        envelope: Bytes,
    },
    /// The first operation of the disk's queue completes.
    DiskDone(usize, u32),
    ReadDone(usize, u32, IoId),
    /// A client asks the next thing, unless it has thought of something else since (the number is its turn).
    Think(usize, u32),
    Request {
        machine: usize,
        boot: u32,
        connection: ConnId,
        request: Request,
    },
    Answer {
        client: usize,
        connection: ConnId,
        response: Response,
    },
    /// The machine notices that a client has closed its connection.
    Closed {
        machine: usize,
        boot: u32,
        connection: ConnId,
    },
    /// A client notices that its connection is broken, by a fault of this kind if that is counted.
    Broken {
        client: usize,
        connection: ConnId,
        by: Option<Kind>,
    },
    /// A client loses patience with its request.
    Patience {
        client: usize,
        request: u64,
    },
    /// A fault of the plan begins, or is armed.
    FaultBegins(usize),
    /// What a fault waited for has happened, at this machine.
    FaultTriggered {
        fault: usize,
        machine: usize,
    },
    FaultEnds(usize),
    /// A machine is struck by one of the outages of a longer fault.
    Outage(usize, crate::plan::LossStyle, u64),
    /// All nodes are looked at.
    Look,
    /// The fault phase ends.
    FaultsEnd,
}

struct Scheduled {
    at: WorldTime,
    sequence: u64,
    /// What is moved about in the heap is small.
    happening: Box<Happening>,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

pub struct World {
    plan: Plan,
    pub(crate) now: WorldTime,
    sequence: u64,
    heap: BinaryHeap<Reverse<Scheduled>>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) network: Network,
    pub workload: Workload,
    watch: Watch,
    pub(crate) faults: faults::Faults,
    /// The faults that began, in this order.
    pub strikes: Vec<Struck>,
    standing: Option<standing::Phase>,
    healing: Option<healing::Healing>,
    pub counters: Counters,
    /// How long the steps after the faults took.
    pub recovery: Vec<Took>,
    pub trace: Trace,
    pub timeline: Timeline,
    /// How many steps go into a round, and when it comes.
    pub(crate) schedule: Dice,
    /// Which replicas are compared, and when.
    looks: Dice,
    /// Every node's invariants are asserted after each of its rounds, and not only now and then: so in one seed of ten.
    checks_rounds: bool,
    disk_latency: Dice,
    next_connection: u64,
    effects: Vec<Effect>,
    triggers: Vec<crate::plan::Trigger>,
    pub(crate) beyond_drift_bound: bool,
    verdict: Option<Verdict>,
    pub rounds: u64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World at {}", crate::trace::clock_face(self.now))
    }
}

/// A run of more events than this does not end: something spins.
const EVENTS_MAX: u64 = 3_000_000;

impl World {
    pub fn new(plan: &Plan, with_trace: bool, void: Void) -> World {
        let seed = plan.seed;
        let mut world = World {
            now: 0,
            sequence: 0,
            heap: BinaryHeap::new(),
            machines: (0..plan.nodes.len()).map(|number| Machine::new(number, plan)).collect(),
            network: Network::new(plan.network.clone(), plan.nodes.len(), Dice::new(seed, "network")),
            workload: Workload::new(plan),
            watch: Watch::new(!plan.beyond_drift_bound(), plan.nodes.iter().all(|node| node.wal_sync_ms == 0)),
            faults: faults::Faults::default(),
            strikes: Vec::new(),
            standing: None,
            healing: None,
            counters: Counters::new(void),
            recovery: Vec::new(),
            trace: Trace::new(with_trace),
            timeline: Timeline::default(),
            schedule: Dice::new(seed, "schedule"),
            looks: Dice::new(seed, "looks"),
            checks_rounds: Dice::new(seed, "checks").chance(100),
            disk_latency: Dice::new(seed, "disk latency"),
            next_connection: 1,
            effects: Vec::new(),
            triggers: Vec::new(),
            beyond_drift_bound: plan.beyond_drift_bound(),
            verdict: None,
            rounds: 0,
            plan: plan.clone(),
        };
        if let Some(Standing { at_ms, ref kind }) = plan.standing {
            let fault = Fault { at_ms, for_ms: standing::FOR_MS, when: None, nth: 0, kind: kind.clone() };
            world.plan.faults.push(fault);
        }
        // A token outlives the requests that are made with it: where it is kept for less than long, none is made for long.
        if plan.standing.is_none() && plan.ending != Ending::NeverHeal && plan.token_lifetime_ms().is_none() {
            world.workload.waits_long_from((plan.faults_ms * MS).saturating_sub(500 * MS));
        }
        world.schedule_the_plan();
        world
    }

    /// Runs to the end. The verdict is about what was seen on the way; the history is for the caller to judge.
    pub fn run(&mut self) -> Verdict {
        while self.verdict.is_none() {
            let Some(Reverse(next)) = self.heap.pop() else {
                self.verdict = Some(Verdict::Clean);
                break;
            };
            assert!(next.at >= self.now, "time runs forward");
            self.now = next.at;
            self.happen(*next.happening);
            if self.trace.events() > EVENTS_MAX {
                self.liveness(format!("over {EVENTS_MAX} events: something spins"));
            }
        }
        self.verdict.clone().expect("the loop ends with one")
    }

    pub fn now(&self) -> WorldTime {
        self.now
    }

    fn schedule_the_plan(&mut self) {
        for machine in 0..self.machines.len() {
            let at = self.machines[machine].boot_at.expect("none runs yet");
            self.at(at, Happening::Boot(machine, 0));
        }
        for client in 0..self.workload.clients.len() {
            let pause = self.workload.pause(client);
            self.think_after(client, pause);
        }
        for fault in 0..self.plan.faults.len() {
            self.at(self.plan.faults[fault].at_ms * MS, Happening::FaultBegins(fault));
        }
        self.at(self.plan.faults_ms * MS, Happening::FaultsEnd);
        self.at(5 * MS, Happening::Look);
    }

    fn at(&mut self, at: WorldTime, happening: Happening) {
        self.sequence += 1;
        self.heap.push(Reverse(Scheduled { at: at.max(self.now), sequence: self.sequence, happening: Box::new(happening) }));
    }

    fn after(&mut self, span: u64, happening: Happening) {
        self.at(self.now + span, happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Boot(machine, boot) => self.boot(machine, boot),
            Happening::Round(machine, boot) => self.round(machine, boot),
            Happening::Wake(machine, boot) => self.wake(machine, boot),
            Happening::Arrival { to, from, boot, transit, envelope } => self.arrival(to, from, boot, &transit, &envelope),
            Happening::DiskDone(machine, boot) => self.disk_done(machine, boot),
            Happening::ReadDone(machine, boot, io) => self.read_done(machine, boot, io),
            Happening::Think(client, turn) => self.think(client, turn),
            Happening::Request { machine, boot, connection, request } => self.request(machine, boot, connection, request),
            Happening::Answer { client, connection, response } => self.answer(client, connection, &response),
            Happening::Closed { machine, boot, connection } => self.closed(machine, boot, connection),
            Happening::Broken { client, connection, by } => self.connection_broke(client, connection, by),
            Happening::Patience { client, request } => self.patience_ends(client, request),
            Happening::FaultBegins(fault) => self.fault_begins(fault),
            Happening::FaultTriggered { fault, machine } => self.fault_triggered(fault, machine),
            Happening::FaultEnds(fault) => self.fault_ends(fault),
            Happening::Outage(machine, style, down_ms) => self.power_loss(machine, style, down_ms),
            Happening::Look => self.look(),
            Happening::FaultsEnd => match self.plan.ending {
                Ending::NeverHeal => self.verdict = Some(Verdict::Clean),
                Ending::HealAll | Ending::HealMajority | Ending::HealFew if self.plan.standing.is_some() => self.stand(),
                Ending::HealAll | Ending::HealMajority | Ending::HealFew => self.heal(),
            },
        }
    }

    fn safety(&mut self, violation: Violation) {
        self.timeline.note(self.now, || violation.to_string());
        self.verdict.get_or_insert(Verdict::Safety(violation));
    }

    fn liveness(&mut self, what: String) {
        self.timeline.note(self.now, || what.clone());
        self.verdict.get_or_insert(Verdict::Liveness(what));
    }
}

// Clients.
impl World {
    /// A client thinks of what to ask next after a pause, and at a whole microsecond: a plan's operations are noted in these.
    fn think_after(&mut self, client: usize, pause: u64) {
        let thinking = &mut self.workload.clients[client];
        thinking.turn += 1;
        let turn = thinking.turn;
        self.at((self.now + pause).next_multiple_of(1_000), Happening::Think(client, turn));
    }

    fn think(&mut self, client: usize, turn: u32) {
        let thinking = &self.workload.clients[client];
        if thinking.pending.is_some() || thinking.turn != turn {
            return;
        }
        if self.workload.follows_plan() {
            return self.think_as_planned(client);
        }
        if !self.workload.has_something_to_ask(client) {
            return;
        }
        let connected = thinking.connection.map(|(machine, _)| machine);
        let elsewhere = self.workload.gateway(client).is_some_and(|wanted| connected.is_some_and(|machine| wanted != machine));
        let leaves = self.workload.wanders(client) || elsewhere;
        let machine = match connected {
            Some(machine) if !leaves => machine,
            _ => self.workload.choose_machine(client, self.machines.len(), self.now),
        };
        // An errand needs a node in good standing.
        let is_lost = self.healing.is_some() && self.machines[machine].is_lost();
        if (self.machines[machine].node.is_none() || is_lost) && (leaves || connected.is_none()) {
            self.workload.clients[client].leaves = leaves;
            let pause = 20 * MS + self.workload.pause(client);
            return self.think_after(client, pause);
        }
        self.connect(client, machine, leaves);
        self.ask(client, machine, leaves && connected == Some(machine));
    }

    /// Asks what the plan says, unless it is too early; leaves out what cannot be asked any more.
    fn think_as_planned(&mut self, client: usize) {
        while let Some(operation) = self.workload.planned(client) {
            let at = operation.at_us * 1_000;
            if at > self.now {
                return self.think_after(client, at - self.now);
            }
            let (machine, reconnects) = (usize::from(operation.node).wrapping_sub(1), operation.reconnects);
            let connected = !reconnects && self.workload.clients[client].connection.is_some_and(|(at, _)| at == machine);
            if !connected && self.machines.get(machine).is_none_or(|machine| machine.node.is_none()) {
                self.workload.leave_out(client);
                continue;
            }
            self.connect(client, machine, reconnects);
            if self.ask(client, machine, reconnects) {
                return;
            }
        }
    }

    /// Whether the client had anything to ask.
    fn ask(&mut self, client: usize, machine: usize, reconnects: bool) -> bool {
        let Some(request) = self.workload.next_request(client, self.now, machine, reconnects) else { return false };
        let (_, connection) = self.workload.clients[client].connection.expect("connected by the callers");
        self.trace.event(self.now, 1, client, &request.id.to_le_bytes(), || format!("client {client} -> {machine}: {request:?}"));
        let patience = self.workload.patience_end(self.now);
        self.at(patience, Happening::Patience { client, request: request.id });
        let latency = self.workload.latency(client);
        let boot = self.machines[machine].boot;
        self.after(latency, Happening::Request { machine, boot, connection, request });
        true
    }

    /// There are errands again.
    fn clients_go_on(&mut self) {
        for client in 0..self.workload.clients.len() {
            let pause = self.workload.pause(client);
            self.think_after(client, pause);
        }
    }

    /// Connects a client with a machine that takes connections, unless it is; `anew`: also if it is.
    fn connect(&mut self, client: usize, machine: usize, anew: bool) {
        if !anew && self.workload.clients[client].connection.is_some_and(|(connected, _)| connected == machine) {
            return;
        }
        self.disconnect(client);
        let connection = ConnId(self.next_connection);
        self.next_connection += 1;
        self.machines[machine].connections.insert(connection, client);
        self.workload.clients[client].connection = Some((machine, connection));
    }

    /// Connections that have been idle for seconds are known to be gone, if they are.
    fn close_dead_connections(&mut self) {
        for client in 0..self.workload.clients.len() {
            let connection = self.workload.clients[client].connection;
            if connection.is_some_and(|(machine, connection)| !self.machines[machine].connections.contains_key(&connection)) {
                self.disconnect(client);
            }
        }
    }

    /// Clients of machines that are down learn of it, whatever they wait for.
    fn break_dead_connections(&mut self) {
        for client in 0..self.workload.clients.len() {
            let Some((machine, connection)) = self.workload.clients[client].connection else { continue };
            if !self.machines[machine].connections.contains_key(&connection) {
                self.after(MS, Happening::Broken { client, connection, by: None });
            }
        }
    }

    /// What clients still wait for they leave alone: they close their connections, and those to nodes that are lost.
    fn give_up_all(&mut self) {
        for client in 0..self.workload.clients.len() {
            let lost = self.workload.clients[client].connection.is_some_and(|(machine, _)| self.machines[machine].is_lost());
            if self.workload.gave_up(client, "the client went away") || lost {
                self.disconnect(client);
            }
        }
    }

    /// The client closes its connection, if it has one.
    fn disconnect(&mut self, client: usize) {
        let Some((machine, connection)) = self.workload.clients[client].connection.take() else { return };
        self.machines[machine].connections.remove(&connection);
        let latency = self.workload.latency(client);
        let boot = self.machines[machine].boot;
        self.after(latency, Happening::Closed { machine, boot, connection });
    }

    fn answer(&mut self, client: usize, connection: ConnId, response: &Response) {
        if self.workload.clients[client].connection.is_none_or(|(_, current)| current != connection) {
            return;
        }
        self.trace.event(self.now, 2, client, &response.id.to_le_bytes(), || format!("client {client} <- {response:?}"));
        if self.workload.answered(client, response, self.now) {
            let pause = self.workload.pause(client);
            self.think_after(client, pause);
        }
    }

    fn connection_broke(&mut self, client: usize, connection: ConnId, by: Option<Kind>) {
        if self.workload.clients[client].connection.is_none_or(|(_, current)| current != connection) {
            return;
        }
        self.workload.clients[client].connection = None;
        if self.workload.gave_up(client, "the connection broke") {
            // For a loss of power it counts what the disk lost.
            if let Some(kind) = by.filter(|kind| matches!(kind, Kind::Crash | Kind::ConnectionBreak)) {
                self.counters.mattered(kind);
            }
            let pause = self.workload.pause(client);
            self.think_after(client, pause);
        }
    }

    fn patience_ends(&mut self, client: usize, request: u64) {
        if self.workload.clients[client].pending.as_ref().is_none_or(|pending| pending.request.id != request) {
            return;
        }
        self.disconnect(client);
        self.workload.gave_up(client, "no answer in time");
        let pause = self.workload.pause(client);
        self.think_after(client, pause);
    }

    /// Every connection to the machine breaks, after `delay` as seen by its client; the node, if it runs, notices too.
    pub fn break_connections(&mut self, machine: usize, delay: u64, by: Option<Kind>) {
        let connections = std::mem::take(&mut self.machines[machine].connections);
        for (connection, client) in connections {
            self.after(delay, Happening::Broken { client, connection, by });
            let boot = self.machines[machine].boot;
            self.after(delay, Happening::Closed { machine, boot, connection });
        }
    }
}
