//! The client of a flood ([`crate::faults`]): it sends without waiting, and counts what is answered.

use super::{Happening, MS, World};
use crate::WorldTime;
use crate::counters::Kind;
use crate::dice::Dice;
use crate::faults::Strike;
use ringseed::base::{ConnId, Key, Version};
use ringseed::msg::client::{Request, RequestBody, Response, ResponseBody, Scan};
use ringseed::msg::operation::{Condition, Consistency, Operation, Rejection};
use ringseed::msg::transaction::Transaction;
use ringseed::node::Event;
use std::collections::BTreeSet;

/// Requests are sent in this part of the flood's time, and take as long at most: what is left is for clocks that run slowly.
const SENDS_FOR: u64 = 4;

#[derive(Debug)]
pub(super) struct Flood {
    connection: ConnId,
    /// When it began.
    since: WorldTime,
    /// The requests that have come to the node and are not answered, and those that were.
    asked: BTreeSet<u64>,
    answered: BTreeSet<u64>,
}

impl World {
    /// A client connects, and asks for so many things.
    pub fn flood(&mut self, strike: Strike, requests: u32, leaves: bool) {
        let number = strike.node();
        let machine = &mut self.machines[number];
        if machine.node.is_none() {
            return;
        }
        let connection = ConnId(self.next_connection);
        self.next_connection += 1;
        machine.floods.push(Flood { connection, since: self.now, asked: BTreeSet::new(), answered: BTreeSet::new() });
        let boot = machine.boot;
        let mut dice = Dice::new(self.plan.seed, &format!("flood at {}", strike.since));
        let span = strike.for_ms * MS / SENDS_FOR;
        for id in 1..=u64::from(requests) {
            let most_ms = (strike.for_ms / SENDS_FOR).max(1);
            let timeout_ms = if dice.chance(500) { dice.spread(1, most_ms) } else { dice.between(1, most_ms) } as u32;
            let request = Request { id, timeout_ms, body: body(&mut dice, self.plan.workload.keys) };
            self.after(dice.below(span), Happening::Request { machine: number, boot, connection, request });
        }
        if leaves {
            self.after(span / 2, Happening::Closed { machine: number, boot, connection });
        }
    }

    /// The connection's flood, if it is that of one.
    fn flood_of(&mut self, number: usize, connection: ConnId) -> Option<&mut Flood> {
        self.machines[number].floods.iter_mut().find(|flood| flood.connection == connection)
    }

    /// Whether the node is asked this by a flood.
    pub(super) fn flood_asks(&mut self, number: usize, connection: ConnId, id: u64) -> bool {
        self.flood_of(number, connection).is_some_and(|flood| flood.asked.insert(id))
    }

    /// The client of a flood goes away, if the connection is that of one.
    pub(super) fn flood_leaves(&mut self, number: usize, connection: ConnId) {
        self.machines[number].floods.retain(|flood| flood.connection != connection);
    }

    /// What is asked by no client of the workload is asked by a flood, and answered once.
    pub(super) fn flood_answered(&mut self, number: usize, connection: ConnId, response: &Response) {
        let id = response.id;
        let Some(flood) = self.flood_of(number, connection) else { return };
        if !flood.asked.contains(&id) || !flood.answered.insert(id) {
            let what = format!("n{} answers request {id} of {connection:?} twice, or unasked: {response:?}", number + 1);
            return self.liveness(what);
        }
        if matches!(response.body, ResponseBody::Rejected(Rejection::Overloaded | Rejection::DeadlineExceeded)) {
            self.counters.mattered(Kind::Flood);
        }
    }

    /// The node has stopped cleanly: what it had taken from its connections is answered.
    pub(super) fn floods_stop(&mut self, number: usize) {
        let machine = &self.machines[number];
        for flood in &machine.floods {
            let waits = |id: &u64| {
                let mut events = machine.inbox.iter();
                events.any(|event| matches!(event, Event::Client(at, request) if *at == flood.connection && request.id == *id))
            };
            if let Some(id) = flood.asked.difference(&flood.answered).find(|id| !waits(id)) {
                let what = format!("n{} has stopped, and request {id} of {:?} is not answered", number + 1, flood.connection);
                return self.liveness(what);
            }
        }
    }

    /// All was answered, unless the process stands still, or stood still a moment ago, since when what had come meanwhile is in
    /// its time; or all faults end early.
    pub fn flood_ends(&mut self, strike: Strike) {
        let number = strike.node();
        let at = self.machines[number].floods.iter().position(|flood| flood.since == strike.since);
        let Some(flood) = at.map(|at| self.machines[number].floods.remove(at)) else { return };
        let machine = &self.machines[number];
        let unanswered: Vec<_> = flood.asked.difference(&flood.answered).collect();
        let longest = 2 * strike.for_ms * MS / SENDS_FOR;
        let over = self.now >= (strike.since + strike.for_ms * MS).max(machine.resumed_at + longest);
        let goes_on = over && machine.pauses == 0 && machine.inbox.is_empty();
        self.put(number, Event::ClientClosed(flood.connection));
        if let Some(id) = unanswered.first().filter(|_| goes_on) {
            let what = format!(
                "n{} has not answered {} of {} requests of {:?}, long after their deadlines; the first is number {id}",
                number + 1,
                unanswered.len(),
                flood.asked.len(),
                flood.connection
            );
            self.liveness(what);
        }
    }
}

/// Something that takes work and changes no item: the keys that are deleted never exist.
fn body(dice: &mut Dice, keys: u32) -> RequestBody {
    let register = |dice: &mut Dice| Key::from(format!("r{}", dice.below(u64::from(keys))));
    let nothing = |dice: &mut Dice| Key::from(format!("flood{}", dice.below(40)));
    match dice.below(10) {
        0..=2 => RequestBody::Operation(Operation::read(register(dice)).alone()),
        3 => RequestBody::GetMany((0..dice.between(1, 10)).map(|_| register(dice)).collect()),
        4 => {
            let consistency = if dice.chance(500) { Consistency::Strong } else { Consistency::Eventual };
            RequestBody::Scan(Scan { prefix: Key::default(), from: Key::default(), limit: 100, consistency })
        }
        5..=6 => RequestBody::Operation(Operation::delete(nothing(dice)).alone()),
        7 => {
            let never = Condition::Version(Version(u64::MAX));
            RequestBody::Operation(Operation::put(register(dice), "never").only_if(never).alone())
        }
        _ => {
            let keys: BTreeSet<Key> = (0..dice.between(2, 5)).map(|_| nothing(dice)).collect();
            RequestBody::Transact(Transaction { token: None, items: keys.into_iter().map(Operation::delete).collect() })
        }
    }
}
