//! The clients: what they ask, when, of which node, and what they make of the answer.
//!
//! A client has one operation in progress, and waits for its answer longer than the cluster may take. It records what it asked
//! and what it was told in the format of [`ringseed::history`]. It knows what it last saw of each key, and so its conditions
//! sometimes hold. What was in progress when a connection broke, or when the client lost patience, is *unknown*.
//!
//! What a client means to do, and when, and whom it asks, is drawn, unless the plan says so itself
//! ([`operations`]). Either way it is noted. What they ask of several keys at once is in [`transactions`].
//!
//! After the faults, the same clients run *errands*: a fresh write and a strong read in every partition, and a last strong read
//! of every key (which makes the durability of each acknowledged write a matter of linearizability). While a fault lasts, an
//! errand is repeated until it is done; in the end it must be done the first time.

mod requests;
pub mod transactions;

use crate::WorldTime;
use crate::check;
use crate::dice::Dice;
use crate::plan::operations::{self, Expected, Intent, Value};
use crate::plan::{Plan, WorkloadPlan};
use bytes::Bytes;
use ringseed::base::limits::{KEY_SIZE_MAX, VALUE_SIZE_MAX};
use ringseed::base::{ConnId, Key, NodeId, Version};
use ringseed::history::{self, Outcome, Record};
use ringseed::msg::client::{Request, RequestBody, Response, ResponseBody};
use ringseed::msg::operation::{Acknowledge, Action, Operation, Rejection};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const MS: u64 = 1_000_000;
/// How much longer than the cluster a client waits.
const PATIENCE_MS: u64 = 300;
const AUDIT_TIMEOUT_MS: u32 = 3_000;
/// How long a client asks others, after a node has told it that it cannot serve.
const AVOIDED_FOR: WorldTime = 2_000 * MS;
/// How long the cluster may try what is asked last before the faults end.
const LAST_TIMEOUT_MS: u32 = 8_000;

#[derive(Debug)]
pub struct Client {
    /// What it means to do.
    dice: Dice,
    /// How long its messages are under way: a stream of its own for each operation, which other operations do not touch.
    wire: Dice,
    /// Machine and connection.
    pub connection: Option<(usize, ConnId)>,
    pub pending: Option<Pending>,
    hint: Option<NodeId>,
    /// Machines that were not ready, or have not done an errand, and until when they are not asked again.
    avoids: BTreeMap<usize, WorldTime>,
    /// It was rejected, and goes to another node.
    pub leaves: bool,
    /// The number of its next thought: an earlier one that is still scheduled is void.
    pub turn: u32,
    next_id: u64,
    /// What was last seen of a key: value and version.
    seen: BTreeMap<Key, (Option<Bytes>, Version)>,
    errands: VecDeque<Errand>,
    /// What it will do with the items that it reads now.
    follow_up: Option<transactions::FollowUp>,
    /// What it asks next, because of an answer or for want of one.
    next: Option<Intent>,
    /// What the plan has it ask.
    planned: VecDeque<operations::Operation>,
    /// Tokens of transactions that it may ask for again much later, under another leader.
    remembered: VecDeque<Value>,
    /// The transactions that it has asked for with a token.
    tokens: BTreeMap<Bytes, transactions::Asked>,
    /// Lists before this are full.
    first_list: u32,
    /// What the errand at the front was last told.
    pub last_answer: String,
}

/// What is asked until it is done.
#[derive(Debug)]
struct Errand {
    body: RequestBody,
    /// Through this machine.
    gateway: Option<usize>,
    /// It must be done the first time.
    once: bool,
}

#[derive(Debug)]
pub struct Pending {
    pub request: Request,
    start: WorldTime,
}

#[derive(Debug)]
pub struct Workload {
    plan: WorkloadPlan,
    seed: u64,
    /// The plan says what the clients ask.
    is_planned: bool,
    pub clients: Vec<Client>,
    pub history: Vec<Record>,
    /// What was asked, errands aside.
    pub asked: Vec<operations::Operation>,
    /// Every key that was asked for.
    keys: BTreeSet<Key>,
    pub stats: Stats,
    /// Some limits of nodes are small.
    bears_little: bool,
    waits_long_from: WorldTime,
    /// Only errands from now on.
    auditing: bool,
    /// An errand that should have been done the first time, and what its client was told.
    pub failed_errand: Option<String>,
    /// How long a request of an errand may take, if everything takes its time.
    errand_ms: u32,
    /// Of those that must be done the first time.
    pub slowest_errand: WorldTime,
}

/// How many operations ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub done: u64,
    pub conditions_failed: u64,
    pub rejected: u64,
    pub unknown: u64,
    /// Transactions among those done; and those that met a conflict, among those whose conditions failed.
    pub committed: u64,
    pub conflicts: u64,
    /// Releases of tokens that were sent, whatever came of them.
    pub released: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Stats) {
        self.done += other.done;
        self.conditions_failed += other.conditions_failed;
        self.rejected += other.rejected;
        self.unknown += other.unknown;
        self.committed += other.committed;
        self.conflicts += other.conflicts;
        self.released += other.released;
    }
}

impl Workload {
    pub fn new(plan: &Plan) -> Workload {
        let seed = plan.seed;
        let planned = plan.operations.as_deref().unwrap_or_default();
        let client = |number: u32| Client {
            dice: Dice::new(seed, &format!("client {number}")),
            wire: wire(seed, number as usize, 0),
            connection: None,
            pending: None,
            hint: None,
            avoids: BTreeMap::new(),
            leaves: false,
            turn: 0,
            next_id: 1,
            seen: BTreeMap::new(),
            errands: VecDeque::new(),
            follow_up: None,
            next: None,
            planned: planned.iter().filter(|operation| operation.client == number).cloned().collect(),
            remembered: VecDeque::new(),
            tokens: BTreeMap::new(),
            first_list: 0,
            last_answer: "nothing".into(),
        };
        Workload {
            plan: plan.workload.clone(),
            seed,
            is_planned: plan.operations.is_some(),
            clients: (0..plan.workload.clients).map(client).collect(),
            history: Vec::new(),
            asked: Vec::new(),
            keys: BTreeSet::new(),
            stats: Stats::default(),
            bears_little: plan.bears_little(),
            waits_long_from: WorldTime::MAX,
            auditing: false,
            failed_errand: None,
            errand_ms: AUDIT_TIMEOUT_MS,
            slowest_errand: 0,
        }
    }

    /// The client's pause before its next operation.
    pub fn pause(&mut self, client: usize) -> WorldTime {
        if self.auditing {
            return MS;
        }
        if self.is_planned {
            return 0;
        }
        let think = self.plan.think_ms * MS;
        self.clients[client].dice.between(think / 4 + 1, think * 7 / 4 + 1)
    }

    /// Whether the client asks what the plan says.
    pub fn follows_plan(&self) -> bool {
        self.is_planned && !self.auditing
    }

    /// Whether a client that draws what it asks, or does errands, has anything to ask now.
    pub fn has_something_to_ask(&self, client: usize) -> bool {
        !self.auditing || !self.clients[client].errands.is_empty()
    }

    /// What the plan has the client ask next.
    pub fn planned(&self, client: usize) -> Option<&operations::Operation> {
        self.clients[client].planned.front()
    }

    /// Leaves out what the plan has the client ask next.
    pub fn leave_out(&mut self, client: usize) {
        self.clients[client].planned.pop_front();
    }

    /// The key of the request that this is the answer to, if the client asked for acknowledgement by all.
    pub fn asked_all(&self, client: usize, id: u64) -> Option<&Key> {
        let request = self.clients[client].pending.as_ref().map(|pending| &pending.request).filter(|request| request.id == id)?;
        match &request.body {
            RequestBody::Operation(single) if single.is_write() && single.acknowledge == Acknowledge::All => {
                Some(&single.operation.key)
            }
            _ => None,
        }
    }

    /// How long a request or an answer takes between client and node.
    pub fn latency(&mut self, client: usize) -> WorldTime {
        self.clients[client].wire.between(20_000, 400_000)
    }

    /// Whether the client leaves where it is.
    pub fn wanders(&mut self, client: usize) -> bool {
        let permille = self.plan.wander_permille;
        let client = &mut self.clients[client];
        std::mem::take(&mut client.leaves) || client.dice.chance(permille)
    }

    /// The machine that the client's next errand must go through, if that is said.
    pub fn gateway(&self, client: usize) -> Option<usize> {
        self.clients[client].errands.front().and_then(|errand| errand.gateway)
    }

    /// Which of so many machines the client connects to next.
    pub fn choose_machine(&mut self, client: usize, machines: usize, now: WorldTime) -> usize {
        if let Some(gateway) = self.gateway(client) {
            return gateway;
        }
        let client = &mut self.clients[client];
        client.avoids.retain(|_, until| now < *until);
        match client.hint.take() {
            Some(node) if (1..=machines).contains(&usize::from(node.0)) && client.dice.chance(500) => usize::from(node.0) - 1,
            _ => {
                let others: Vec<usize> = (0..machines).filter(|machine| !client.avoids.contains_key(machine)).collect();
                if others.is_empty() { client.dice.below(machines as u64) as usize } else { *client.dice.pick(&others) }
            }
        }
    }

    /// The next request of a client that has none in progress, to this machine, to which it may have made a new connection;
    /// `None` when it has nothing left to ask, or when what it should ask makes no sense any more.
    pub fn next_request(&mut self, client: usize, now: WorldTime, machine: usize, reconnects: bool) -> Option<Request> {
        let body = if self.auditing {
            self.clients[client].errands.front()?.body.clone()
        } else {
            let asking = &mut self.clients[client];
            let planned = asking.planned.pop_front();
            asking.last_answer.clear();
            let (intent, body) = match planned {
                Some(operation) => {
                    asking.next_id = operation.number;
                    let body = requests::body(asking, &operation.intent)?;
                    (operation.intent, body)
                }
                None => loop {
                    let intent = asking.next.take().unwrap_or_else(|| draw(&self.plan, client, asking));
                    if let Some(body) = requests::body(asking, &intent) {
                        break (intent, body);
                    }
                },
            };
            transactions::note(asking, &intent, &body);
            self.keys.extend(keys_of(&body));
            let (number, at_us, node) = (asking.next_id, now / 1_000, machine as u16 + 1);
            self.asked.push(operations::Operation { client: client as u32, number, at_us, node, reconnects, intent });
            body
        };
        let timeout_ms = self.timeout_ms(now);
        let asking = &mut self.clients[client];
        let request = Request { id: asking.next_id, timeout_ms, body };
        asking.wire = wire(self.seed, client, request.id);
        asking.next_id += 1;
        asking.pending = Some(Pending { request: request.clone(), start: now });
        Some(request)
    }

    /// When the client stops waiting for what it asks now.
    pub fn patience_end(&self, now: WorldTime) -> WorldTime {
        now + longest_wait(self.timeout_ms(now))
    }

    /// How long an errand is waited for.
    pub fn patience(&self) -> u64 {
        longest_wait(self.errand_ms)
    }

    /// How much longer clients may wait for what they have asked.
    pub fn still_waits_for(&self, now: WorldTime) -> WorldTime {
        let end = |pending: &Pending| pending.start + longest_wait(pending.request.timeout_ms);
        let waiting = self.clients.iter().filter_map(|client| client.pending.as_ref());
        waiting.map(|pending| end(pending).saturating_sub(now)).max().unwrap_or(0)
    }

    /// What is asked from then on is asked for long: a waiter that nothing wakes is still there when the faults are over.
    pub fn waits_long_from(&mut self, from: WorldTime) {
        self.waits_long_from = from;
    }

    /// In the end it is asked whether things are done at all, not whether they are done within a client's timeout.
    fn timeout_ms(&self, now: WorldTime) -> u32 {
        match self.auditing {
            true => self.errand_ms,
            false if now >= self.waits_long_from => LAST_TIMEOUT_MS,
            false => self.plan.timeout_ms,
        }
    }

    /// An answer came. Whether the client was still waiting for it.
    pub fn answered(&mut self, client: usize, response: &Response, now: WorldTime) -> bool {
        if self.clients[client].pending.as_ref().is_none_or(|pending| pending.request.id != response.id) {
            return false;
        }
        self.clients[client].hint = response.leader;
        let Some(outcome) = Outcome::of(&response.body) else { return false };
        let is_rejected = matches!(response.body, ResponseBody::Rejected(_));
        let is_out = response.body == ResponseBody::Rejected(Rejection::NotReady);
        let asking = &mut self.clients[client];
        let is_unserved = is_rejected || matches!(response.body, ResponseBody::Unknown(_));
        // One that stayed could ask a flapping node just while that is away, each time (seed 25655).
        let shuns = is_out || self.auditing && is_unserved;
        if let Some((machine, _)) = asking.connection.filter(|_| shuns) {
            asking.avoids.insert(machine, now + AVOIDED_FOR);
        }
        if shuns || is_rejected {
            asking.leaves = shuns || asking.dice.chance(300);
        }
        self.stats.conflicts += u64::from(transactions::is_conflict(&response.body));
        self.remember(client, &response.body);
        let asking = &mut self.clients[client];
        let asked = asking.pending.as_ref().expect("it waits for this answer").request.body.clone();
        if !self.is_planned && !self.auditing {
            let next = transactions::follow_up(&self.plan, client, asking, &asked, &response.body);
            asking.next = next.or_else(|| transactions::release(asking, &asked, &response.body));
        }
        self.finish(client, outcome, Some(now));
        true
    }

    /// No answer will come: the connection broke, or patience ended. Whether something was in progress.
    pub fn gave_up(&mut self, client: usize, reason: &str) -> bool {
        if self.clients[client].pending.is_none() {
            return false;
        }
        self.finish(client, Outcome::Unknown { reason: reason.into() }, None);
        true
    }

    /// The run is over: what is in progress will not be answered.
    pub fn end(&mut self) {
        for client in 0..self.clients.len() {
            self.gave_up(client, "the run ended");
        }
    }

    /// From now on each errand may take so much longer.
    pub fn allow_for(&mut self, more_ms: u64) {
        self.errand_ms = AUDIT_TIMEOUT_MS + more_ms as u32;
    }

    /// The most errands that one client has to do.
    pub fn errands_in_a_row(&self) -> usize {
        self.clients.iter().map(|client| client.errands.len()).max().unwrap_or(0)
    }

    /// From now on the clients run these errands, which are dealt out among them, in order.
    pub fn audit(&mut self, errands: Vec<RequestBody>) {
        self.auditing = true;
        for (number, client) in self.clients.iter_mut().enumerate() {
            // What clients do from now on does not depend on what they drew before.
            client.dice = Dice::new(self.seed, &format!("errands of client {number}"));
            (client.hint, client.leaves) = (None, false);
        }
        let clients = self.clients.len();
        for (nth, errand) in errands.into_iter().enumerate() {
            self.clients[nth % clients].errands.push_back(Errand { body: errand, gateway: None, once: false });
        }
    }

    /// As above, and each must be done the first time, within so long.
    pub fn audit_once(&mut self, within_ms: u32, errands: Vec<RequestBody>) {
        (self.errand_ms, self.slowest_errand) = (within_ms, 0);
        self.audit(errands);
        self.clients.iter_mut().flat_map(|client| &mut client.errands).for_each(|errand| errand.once = true);
    }

    /// Asks each of these through each of the machines; each must be done the first time.
    pub fn audit_through(&mut self, machines: &[usize], bodies: &[RequestBody]) {
        let clients = self.clients.len();
        for (nth, &machine) in machines.iter().enumerate() {
            let errands = bodies.iter().map(|body| Errand { body: body.clone(), gateway: Some(machine), once: true });
            self.clients[nth % clients].errands.extend(errands);
        }
    }

    /// Errands that are not done, and for one of them what the last answer was.
    pub fn errands_left(&self) -> (usize, Option<String>) {
        let left = self.clients.iter().map(|c| c.errands.len()).sum();
        let example = self.clients.iter().find_map(|c| {
            c.errands.front().map(|errand| format!("{}; it was last told: {}", describe(&errand.body), c.last_answer))
        });
        (left, example)
    }

    /// Every key that the clients may have written, and every account.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = self.keys.clone();
        keys.extend((0..self.plan.transactions.accounts).map(check::account));
        keys.into_iter().collect()
    }

    fn finish(&mut self, number: usize, outcome: Outcome, end: Option<WorldTime>) {
        let client = &mut self.clients[number];
        let pending = client.pending.take().expect("asked for by the callers");
        let action = match &pending.request.body {
            RequestBody::Operation(single) => history::Action::from(single),
            RequestBody::Scan(scan) => history::Action::from(scan),
            // What comes of it is seen in what comes of others.
            RequestBody::Transact(transaction) if transaction.is_release() => {
                self.stats.released += 1;
                return;
            }
            RequestBody::Transact(transaction) => history::Action::from(transaction),
            RequestBody::GetMany(keys) => history::Action::GetMany { keys: keys.clone() },
            RequestBody::Ring | RequestBody::Status | RequestBody::Transactions | RequestBody::Damage(_) => return,
        };
        let done = match &outcome {
            Outcome::Value { .. }
            | Outcome::Written { .. }
            | Outcome::Scanned { .. }
            | Outcome::Values { .. }
            | Outcome::Transacted { .. } => {
                self.stats.done += 1;
                self.stats.committed += u64::from(matches!(outcome, Outcome::Transacted { .. }));
                true
            }
            Outcome::ConditionFailed { .. } | Outcome::NotCommitted { .. } => {
                self.stats.conditions_failed += 1;
                true
            }
            Outcome::Rejected { reason } => {
                self.stats.rejected += 1;
                client.last_answer = format!("rejected: {reason}");
                false
            }
            Outcome::Unknown { reason } => {
                self.stats.unknown += 1;
                client.last_answer = format!("unknown: {reason}");
                false
            }
        };
        client.follow_up = None;
        if client.next.is_none() && !self.auditing && !self.is_planned {
            let in_doubt = matches!(outcome, Outcome::Unknown { .. });
            client.next = transactions::again(client, &pending.request.body, in_doubt);
            if !matches!(outcome, Outcome::Rejected { .. }) {
                transactions::remember(client, &pending.request.body);
            }
        }
        // Where nodes bear little, to be turned away is an honest answer.
        let overloaded = Rejection::Overloaded.to_string();
        let may_be_overloaded = self.bears_little && matches!(&outcome, Outcome::Rejected { reason } if *reason == overloaded);
        if self.auditing
            && let Some(errand) = client.errands.front().filter(|errand| errand.body == pending.request.body)
        {
            if done {
                if let Some(end) = end.filter(|_| errand.once) {
                    self.slowest_errand = self.slowest_errand.max(end - pending.start);
                }
                client.errands.pop_front();
            } else if errand.once && !may_be_overloaded {
                let asked = describe(&errand.body);
                let of = client.connection.map_or(String::new(), |(machine, _)| format!(", asked of n{},", machine + 1));
                self.failed_errand = Some(format!("{asked}{of} was not done the first time: {}", client.last_answer));
            }
        }
        self.history.push(Record { process: number as u64, start: pending.start, end, action, outcome });
    }

    fn remember(&mut self, client: usize, body: &ResponseBody) {
        let client = &mut self.clients[client];
        let Some(pending) = &client.pending else { return };
        for (key, value, version) in transactions::seen(&pending.request.body, body) {
            client.seen.insert(key, (value, version));
        }
        let RequestBody::Operation(single) = &pending.request.body else { return };
        let operation = &single.operation;
        let seen = match (body, &operation.action) {
            (ResponseBody::Value { value, version }, _) => (value.clone(), *version),
            (ResponseBody::Written { version, .. }, Action::Put(value)) => (Some(value.clone()), *version),
            (ResponseBody::Written { version, .. }, Action::Delete) => (None, *version),
            _ => return,
        };
        client.seen.insert(operation.key.clone(), seen);
    }
}

/// Errands that show that every one of `partitions` (of `partitions_all`) takes a write and a strong read.
pub fn partition_errands(partitions: &[u32], partitions_all: u32) -> Vec<RequestBody> {
    let mut missing: Vec<u32> = partitions.to_vec();
    let mut errands = Vec::new();
    for number in 0_u32.. {
        if missing.is_empty() {
            break;
        }
        let key = Key::from(format!("audit{number}"));
        let partition = key.partition(partitions_all).0;
        let Some(at) = missing.iter().position(|&p| p == partition) else { continue };
        missing.swap_remove(at);
        errands.push(RequestBody::Operation(Operation::put(key.clone(), "healed").alone()));
        errands.push(strong_read(key));
    }
    errands
}

pub fn strong_read(key: Key) -> RequestBody {
    RequestBody::Operation(Operation::read(key).alone())
}

/// With keys at the limits, the second register's is as short as a key can be, and the third's as long.
fn register(plan: &WorkloadPlan, number: u32) -> Key {
    match number {
        1 if plan.edge_permille > 0 => Key::from("r"),
        2 if plan.edge_permille > 0 => {
            let mut key = b"r2".to_vec();
            key.resize(KEY_SIZE_MAX, b'k');
            Key::from(key)
        }
        _ if plan.tables => match number % 4 {
            0 => Key::from(format!("r{number}")),
            1 => Key::new(5, format!("r{number}").as_bytes(), None),
            // Many of one partition, in the order of their sort keys.
            2 => Key::new(0, b"r", Some(number.to_string().as_bytes())),
            _ => Key::new(5, b"r1", Some(number.to_string().as_bytes())),
        },
        _ => Key::from(format!("r{number}")),
    }
}

fn counter(number: u32) -> Key {
    Key::from(format!("c{number}"))
}

fn draw(plan: &WorkloadPlan, number: usize, client: &mut Client) -> Intent {
    if client.dice.chance(plan.transactions.permille) {
        return transactions::draw(plan, number, client);
    }
    let dice = &mut client.dice;
    let all = dice.chance(plan.all_permille);
    let eventual = dice.chance(plan.eventual_permille);
    if dice.chance(plan.scan_permille) {
        let prefix = draw_prefix(plan, dice);
        let from = if dice.chance(300) { register(plan, dice.below(u64::from(plan.keys)) as u32) } else { Key::default() };
        let limit = if dice.chance(plan.edge_permille) { u32::MAX } else { dice.spread(1, 200) as u32 };
        return Intent::Scan { prefix, from, limit, eventual };
    }
    if plan.counters > 0 && dice.chance(plan.counter_permille) {
        let key = counter(if dice.chance(plan.hot_permille) { 0 } else { dice.below(u64::from(plan.counters)) as u32 });
        return if dice.chance(plan.get_permille / 2) {
            Intent::Get { key, eventual }
        } else if dice.chance(plan.edge_permille) {
            Intent::Put { key, value: draw_edge(dice), expected: Expected::Anything, all }
        } else {
            Intent::Increment { key, by: draw_increment(plan, dice), all }
        };
    }
    let key = register(plan, if dice.chance(plan.hot_permille) { 0 } else { dice.below(u64::from(plan.keys)) as u32 });
    if dice.chance(plan.get_permille) {
        return Intent::Get { key, eventual };
    }
    let expected = if dice.chance(plan.compare_permille) { draw_expected(dice) } else { Expected::Anything };
    if dice.chance(plan.delete_permille) {
        Intent::Delete { key, expected, all }
    } else if dice.chance(plan.edge_permille) {
        Intent::Increment { key, by: draw_increment(plan, dice), all }
    } else {
        let value = draw_value(plan, number, client.next_id, dice);
        Intent::Put { key, value, expected, all }
    }
}

fn draw_prefix(plan: &WorkloadPlan, dice: &mut Dice) -> Key {
    let plain = Key::from(*dice.pick(&["", "r", "c", "r1"]));
    if !plan.tables || dice.chance(400) {
        return plain;
    }
    let digit = || Some(&b"1"[..]);
    match dice.below(5) {
        0 => Key::new(5, b"", None),
        1 => Key::new(5, b"r1", None),
        2 => Key::new(5, b"r1", digit()),
        3 => Key::new(0, b"r", Some(b"")),
        _ => Key::new(0, b"r", digit()),
    }
}

fn draw_expected(dice: &mut Dice) -> Expected {
    match dice.below(5) {
        0 => Expected::Absent,
        1 => Expected::Present,
        2 => Expected::SameValue,
        _ => Expected::Unchanged,
    }
}

fn draw_increment(plan: &WorkloadPlan, dice: &mut Dice) -> i64 {
    if dice.chance(plan.edge_permille / 4) { *dice.pick(&[0, i64::MIN, i64::MAX]) } else { dice.between(1, 5) as i64 - 2 }
}

/// A value at a limit: of length, or of what is a number. Other operations write it too.
fn draw_edge(dice: &mut Dice) -> Value {
    match dice.below(40) {
        // No number: a history holds only the hash of so long a value, and zeros are a number however many there are.
        0 => Value::long(char::from(b'a' + dice.below(10) as u8).to_string(), VALUE_SIZE_MAX),
        1..=15 => Value::text(""),
        16..=20 => Value::text("x"),
        21..=22 => Value::text(i64::MAX.to_string()),
        23..=24 => Value::text(i64::MIN.to_string()),
        25 => Value::text("+1"),
        _ => Value::text(dice.below(10).to_string()),
    }
}

/// A value that no other operation writes, unless it is one at a limit.
fn draw_value(plan: &WorkloadPlan, number: usize, id: u64, dice: &mut Dice) -> Value {
    if dice.chance(plan.edge_permille) {
        return draw_edge(dice);
    }
    let size = dice.spread(1, u64::from(plan.value_size_max).max(1)) as usize;
    let text = format!("{number}-{id}");
    if size <= text.len() + 1 {
        return Value::text(text);
    }
    let fill = char::from(b'a' + (id % 26) as u8);
    Value::long(format!("{text} {fill}"), size)
}

/// How long a client waits for the answer to a request with this timeout.
fn longest_wait(timeout_ms: u32) -> WorldTime {
    (u64::from(timeout_ms) + PATIENCE_MS) * MS
}

/// How long the messages of one operation are under way.
fn wire(seed: u64, client: usize, number: u64) -> Dice {
    Dice::new(seed, &format!("operation {number} of client {client}"))
}

/// The keys that a request names.
fn keys_of(body: &RequestBody) -> Vec<Key> {
    match body {
        RequestBody::Operation(single) => vec![single.operation.key.clone()],
        RequestBody::GetMany(keys) => keys.clone(),
        RequestBody::Transact(transaction) => transaction.items.iter().map(|item| item.key.clone()).collect(),
        RequestBody::Scan(_) | RequestBody::Ring | RequestBody::Status | RequestBody::Transactions | RequestBody::Damage(_) => {
            Vec::new()
        }
    }
}

fn describe(body: &RequestBody) -> String {
    match body {
        RequestBody::Operation(single) => {
            format!("{} of \"{}\"", if single.is_write() { "a write" } else { "a strong read" }, single.operation.key)
        }
        other => format!("{other:?}"),
    }
}
