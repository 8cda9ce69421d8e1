//! The network between nodes: what becomes of each message.
//!
//! Without faults, messages between two nodes arrive in order within their lane, each after a latency of its own. Where the plan
//! limits the bandwidth, each comes after all that was sent before it in its lane: lanes are connections of their own. Faults
//! that are active together add up: the state of every directed pair is computed anew whenever one begins or ends. What is lost
//! is lost, as over a broken connection.

use crate::WorldTime;
use crate::counters::{Counters, Kind};
use crate::dice::Dice;
use crate::plan::{MessageKind, NetworkPlan};
use ringseed::msg::peer::Lane;

const MS: u64 = 1_000_000;

/// One directed pair of nodes.
#[derive(Debug, Clone, Default)]
struct Link {
    /// The faults that cut it now.
    cuts: Vec<Cut>,
    slow_ms: u64,
    /// Kinds of message that take longer, and by how much.
    slow_kinds: Vec<(MessageKind, u64)>,
    /// By lane.
    lanes: [LaneState; 2],
    /// Envelopes sent.
    sent: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct LaneState {
    /// The latest arrival of a message that was not reordered.
    last_arrival: WorldTime,
    /// When the last byte of what was sent leaves, where bandwidth is limited.
    busy_until: WorldTime,
}

/// What the network needs to know of an envelope.
#[derive(Debug, Clone, Copy)]
pub struct Parcel {
    pub lane: Lane,
    /// In bytes.
    pub size: usize,
    /// From [`Network::late_ms`]; if not 0, what is sent later may overtake it.
    pub late_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    kind: Kind,
    /// For flapping: cut only in every other period from `since`.
    period: u64,
    since: WorldTime,
}

impl Cut {
    fn holds(&self, now: WorldTime) -> bool {
        self.period == 0 || ((now - self.since) / self.period).is_multiple_of(2)
    }
}

#[derive(Debug)]
pub struct Network {
    base: NetworkPlan,
    nodes: usize,
    links: Vec<Link>,
    loss_permille: u32,
    duplication: (u32, u64),
    reordering: (u32, u64),
    delay_ms: u64,
    dice: Dice,
}

/// What becomes of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// By a fault of this kind.
    Lost(Kind),
    /// Once, or twice.
    Arrives(Transit, Option<Transit>),
}

/// An envelope on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transit {
    pub at: WorldTime,
    /// When it would arrive if no fault delayed it.
    pub due: WorldTime,
    pub delayed_by: Vec<Kind>,
    /// Counts what its sender sends to its receiver.
    pub number: u64,
    pub is_copy: bool,
}

impl Network {
    pub fn new(base: NetworkPlan, nodes: usize, dice: Dice) -> Network {
        let links = vec![Link::default(); nodes * nodes];
        let mut network =
            Network { base, nodes, links, loss_permille: 0, duplication: (0, 0), reordering: (0, 0), delay_ms: 0, dice };
        network.clear();
        network
    }

    /// As if no fault were active.
    pub fn clear(&mut self) {
        for link in &mut self.links {
            link.cuts.clear();
            link.slow_ms = 0;
            link.slow_kinds.clear();
        }
        self.loss_permille = self.base.loss_permille;
        self.duplication = (self.base.duplication_permille, 5);
        self.reordering = (self.base.reordering_permille, 5);
        self.delay_ms = 0;
    }

    /// As [`Network::clear`], and from now on without what the plan does all the time.
    pub fn heal(&mut self) {
        self.base.loss_permille = 0;
        self.base.duplication_permille = 0;
        self.base.reordering_permille = 0;
        self.clear();
    }

    /// When the last of what is on its way arrives.
    pub fn latest_arrival(&self) -> WorldTime {
        self.links.iter().flat_map(|link| &link.lanes).map(|lane| lane.last_arrival).max().unwrap_or(0)
    }

    /// Cuts what `from` sends to `to` (both from 0). `period_ms`: for flapping, else 0.
    pub fn cut(&mut self, from: usize, to: usize, kind: Kind, period_ms: u64, since: WorldTime) {
        self.link(from, to).cuts.push(Cut { kind, period: period_ms * MS, since });
    }

    pub fn slow(&mut self, from: usize, to: usize, by_ms: u64) {
        self.link(from, to).slow_ms += by_ms;
    }

    pub fn slow_kind(&mut self, from: usize, to: usize, kind: MessageKind, by_ms: u64) {
        self.link(from, to).slow_kinds.push((kind, by_ms));
    }

    /// Whether some kinds of message take longer on this link.
    pub fn tells_kinds_apart(&self, from: usize, to: usize) -> bool {
        !self.links[from * self.nodes + to].slow_kinds.is_empty()
    }

    /// By how much a message of this kind is late, beside what all suffer. In milliseconds.
    pub fn late_ms(&self, from: usize, to: usize, kind: MessageKind) -> u64 {
        self.links[from * self.nodes + to].slow_kinds.iter().filter(|(slow, _)| *slow == kind).map(|(_, by_ms)| by_ms).sum()
    }

    pub fn lose(&mut self, permille: u32) {
        self.loss_permille = (self.loss_permille + permille).min(900);
    }

    pub fn duplicate(&mut self, permille: u32, delay_ms: u64) {
        self.duplication = (self.duplication.0.max(permille), self.duplication.1.max(delay_ms));
    }

    pub fn reorder(&mut self, permille: u32, delay_ms: u64) {
        self.reordering = (self.reordering.0.max(permille), self.reordering.1.max(delay_ms));
    }

    pub fn delay(&mut self, by_ms: u64) {
        self.delay_ms += by_ms;
    }

    pub fn is_cut(&self, from: usize, to: usize, now: WorldTime) -> bool {
        self.links[from * self.nodes + to].cuts.iter().any(|cut| cut.holds(now))
    }

    /// An envelope is sent now.
    pub fn send(&mut self, from: usize, to: usize, now: WorldTime, parcel: Parcel, counters: &mut Counters) -> Fate {
        let late_ms = parcel.late_ms;
        let lane = parcel.lane as usize;
        let at = from * self.nodes + to;
        self.links[at].sent += 1;
        if let Some(cut) = self.links[at].cuts.iter().find(|cut| cut.holds(now)) {
            return Fate::Lost(cut.kind);
        }
        if self.dice.chance(self.loss_permille) && counters.strikes(Kind::Loss) {
            return Fate::Lost(Kind::Loss);
        }
        let mut latency = self.base.latency_us * 1000 + self.dice.below(self.base.jitter_us * 1000 + 1);
        let due = now + latency;
        let mut transit = Transit { at: due, due, delayed_by: Vec::new(), number: self.links[at].sent, is_copy: false };
        let mut delay = |span: u64, kind: Kind, counters: &Counters| {
            if span > 0 && counters.acts(kind) {
                latency += span;
                transit.delayed_by.push(kind);
            }
        };
        if self.delay_ms > 0 {
            delay(self.dice.between(self.delay_ms * MS / 2, self.delay_ms * MS), Kind::Delay, counters);
        }
        delay(self.links[at].slow_ms * MS, Kind::SlowLink, counters);
        delay(self.queue(at, now, parcel, counters), Kind::NarrowLink, counters);
        if late_ms > 0 {
            delay(late_ms * MS, Kind::SlowMessages, counters);
            transit.at = now + latency;
            return Fate::Arrives(transit, None);
        }
        let disorder = self.dice.chance(self.reordering.0).then(|| self.dice.below(self.reordering.1 * MS + 1));
        transit.at = match disorder.filter(|_| counters.strikes(Kind::Reordering)) {
            Some(late) => {
                transit.delayed_by.push(Kind::Reordering);
                now + latency + late
            }
            None => {
                let arrival = (now + latency).max(self.links[at].lanes[lane].last_arrival + 1);
                self.links[at].lanes[lane].last_arrival = arrival;
                arrival
            }
        };
        // Mostly soon; now and then much later, into another term or another epoch.
        let again = self.dice.chance(self.duplication.0).then(|| self.dice.spread(1, (self.duplication.1 * MS).max(2)));
        let again = again.filter(|_| counters.strikes(Kind::Duplication));
        let copy = again.map(|late| Transit { at: transit.at + late, delayed_by: Vec::new(), is_copy: true, ..transit.clone() });
        Fate::Arrives(transit, copy)
    }

    /// How long an envelope takes to leave: what was sent before it in its lane goes first.
    fn queue(&mut self, at: usize, now: WorldTime, parcel: Parcel, counters: &mut Counters) -> u64 {
        if self.base.bandwidth_kib == 0 {
            return 0;
        }
        let lane = &mut self.links[at].lanes[parcel.lane as usize];
        counters.fired(Kind::NarrowLink);
        let takes = parcel.size as u64 * 1_000_000_000 / (u64::from(self.base.bandwidth_kib) * 1024);
        lane.busy_until = lane.busy_until.max(now) + takes;
        lane.busy_until - now
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Void;

    fn network() -> Network {
        let base = NetworkPlan {
            latency_us: 100,
            jitter_us: 50,
            loss_permille: 0,
            duplication_permille: 0,
            reordering_permille: 0,
            bandwidth_kib: 0,
        };
        Network::new(base, 3, Dice::new(1, "network"))
    }

    /// When it arrives, which it does once.
    fn once(fate: Fate) -> WorldTime {
        match fate {
            Fate::Arrives(transit, None) => transit.at,
            other => panic!("{other:?}"),
        }
    }

    fn small(late_ms: u64) -> Parcel {
        Parcel { lane: Lane::Control, size: 100, late_ms }
    }

    #[test]
    fn bulk_waits_for_bulk_on_a_narrow_link_and_control_does_not() {
        let (mut network, mut counters) = (network(), Counters::default());
        network.base.bandwidth_kib = 1024;
        let large = Parcel { lane: Lane::Bulk, size: 1 << 20, late_ms: 0 };
        for seconds in 1..=3 {
            let arrival = once(network.send(0, 1, 0, large, &mut counters));
            assert_eq!(arrival / 1_000_000_000, seconds);
        }
        let arrival = once(network.send(0, 1, 0, small(0), &mut counters));
        assert!(arrival < MS);
        let other_way = once(network.send(1, 0, 0, large, &mut counters));
        assert_eq!(other_way / 1_000_000_000, 1);
        assert_eq!(counters.get(Kind::NarrowLink).fired, 5);
    }

    #[test]
    fn messages_arrive_once_and_in_order_unless_told_otherwise() {
        let (mut network, mut counters) = (network(), Counters::default());
        let mut last = 0;
        for now in 0..1000 {
            let arrival = once(network.send(0, 1, now, small(0), &mut counters));
            assert!(arrival > last && arrival >= now + 100_000);
            last = arrival;
        }
        network.reorder(500, 3);
        network.duplicate(300, 100);
        network.lose(100);
        for now in 1000..2000 {
            network.send(0, 1, now, small(0), &mut counters);
        }
        for kind in [Kind::Reordering, Kind::Duplication, Kind::Loss] {
            assert!(counters.get(kind).fired > 20, "{kind:?}");
        }
        counters.void = Void::All;
        for now in 2000..3000 {
            assert!(once(network.send(0, 1, now, small(0), &mut counters)) < now + MS, "void faults do nothing");
        }
    }

    #[test]
    fn one_kind_of_message_is_overtaken_by_others() {
        let (mut network, mut counters) = (network(), Counters::default());
        assert!(!network.tells_kinds_apart(0, 1));
        network.slow_kind(0, 1, MessageKind::Vote, 10);
        assert!(network.tells_kinds_apart(0, 1) && !network.tells_kinds_apart(1, 0));
        assert_eq!(network.late_ms(0, 1, MessageKind::VoteReply), 0);
        let late = network.late_ms(0, 1, MessageKind::Vote);
        let Fate::Arrives(vote, None) = network.send(0, 1, 0, small(late), &mut counters) else { panic!("once") };
        assert!(vote.at > 10 * MS && vote.due < MS && vote.delayed_by == [Kind::SlowMessages]);
        assert!(once(network.send(0, 1, 1, small(0), &mut counters)) < MS);
    }

    #[test]
    fn a_cut_is_one_way_and_flapping_comes_and_goes() {
        let (mut network, mut counters) = (network(), Counters::default());
        network.cut(0, 1, Kind::OneWay, 0, 0);
        network.cut(1, 2, Kind::Flapping, 10, 5 * MS);
        assert_eq!(network.send(0, 1, 7, small(0), &mut counters), Fate::Lost(Kind::OneWay));
        once(network.send(1, 0, 7, small(0), &mut counters));
        assert_eq!(network.send(1, 2, 6 * MS, small(0), &mut counters), Fate::Lost(Kind::Flapping));
        once(network.send(1, 2, 16 * MS, small(0), &mut counters));
        assert_eq!(network.send(1, 2, 26 * MS, small(0), &mut counters), Fate::Lost(Kind::Flapping));
        network.clear();
        once(network.send(0, 1, 30 * MS, small(0), &mut counters));
    }
}
