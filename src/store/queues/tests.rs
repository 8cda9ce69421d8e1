//! All orders of a few transactions and writes, against a model that is a list of holders and a list of waiters.
//!
//! After every step: holders, queues and those that died are the model's; no two holders conflict; no waiter waits that could be
//! granted; waiting goes from lesser to greater rank, so that no circle closes. At the end nothing is left.

use super::*;
use crate::actor::{Actor, Committed, LivenessView, Origin};
use crate::base::cache::ValueCache;
use crate::base::random::{self, Random};
use crate::base::{GroupId, Index, Term};
use crate::msg::log::{Fact, FactSummary};
use crate::msg::operation::{Condition, Operation};
use crate::msg::peer::{Outcome, Task};
use crate::msg::transaction::{Age, Attempt, Decision, ItemAt, Preparation, TransactionId};
use crate::state::State;
use crate::store::In;

const KEYS: [&str; 2] = ["a", "b"];
const TERM: Term = Term(3);
/// How long a write waits, in milliseconds.
const PATIENCE: u64 = 10;
/// When a transaction's time is over: not in these tests.
const FAR: Time = Time::from_millis(1_000_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A transaction of this group's own coordinator: what it holds is in memory alone.
    Home,
    /// Of another group's: prepared and resolved by entries.
    Participant,
    /// Of one key.
    Write,
}

/// A transaction has the rank of its place; a write has none.
#[derive(Debug, Clone)]
struct Player {
    kind: Kind,
    /// With whether it wants the key for itself.
    keys: Vec<(usize, bool)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Ask(usize),
    Commit(usize),
    Abort(usize),
    /// The next entry is committed.
    Apply,
    /// Time passes: every write that waits gives up.
    Expire,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Waiting,
    /// A participant's prepare is in flight.
    Flight {
        aborted: bool,
    },
    Held,
    /// A participant's resolution is in flight.
    Leaving,
    Over,
    Dead,
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Prepare(usize),
    Resolve(usize),
    Other,
}

#[derive(Debug, Clone)]
struct Model {
    players: Vec<Player>,
    phases: Vec<Phase>,
    /// In the order in which they came.
    waiting: Vec<usize>,
    log: VecDeque<Entry>,
}

impl Model {
    fn new(players: Vec<Player>) -> Model {
        Model { phases: vec![Phase::New; players.len()], players, waiting: Vec::new(), log: VecDeque::new() }
    }

    fn holds(&self, player: usize) -> bool {
        matches!(self.phases[player], Phase::Flight { .. } | Phase::Held | Phase::Leaving)
    }

    fn leaves(&self, player: usize) -> bool {
        matches!(self.phases[player], Phase::Leaving | Phase::Flight { aborted: true })
    }

    fn is_write(&self, player: usize) -> bool {
        self.players[player].kind == Kind::Write
    }

    /// Holders of the key, with whether they hold it alone.
    fn holders(&self, key: usize) -> impl Iterator<Item = (usize, bool)> {
        let wanted = move |player: usize| self.players[player].keys.iter().find(|wanted| wanted.0 == key);
        let held = (0..self.players.len()).filter(|player| self.holds(*player));
        held.filter_map(move |player| wanted(player).map(|(_, alone)| (player, *alone)))
    }

    fn queue(&self, key: usize) -> impl Iterator<Item = usize> {
        self.waiting.iter().copied().filter(move |player| self.players[*player].keys.iter().any(|wanted| wanted.0 == key))
    }

    fn in_the_way(&self, key: usize, alone: bool) -> impl Iterator<Item = usize> {
        self.holders(key).filter(move |(_, exclusive)| alone || *exclusive).map(|(holder, _)| holder)
    }

    /// What may happen now. `either`: every holder both commits and aborts; else each does one of them.
    fn steps(&self, either: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        for (player, phase) in self.phases.iter().enumerate() {
            match phase {
                Phase::New => steps.push(Step::Ask(player)),
                Phase::Waiting if self.is_write(player) => steps.push(Step::Expire),
                Phase::Waiting | Phase::Flight { aborted: false } => steps.push(Step::Abort(player)),
                Phase::Held if either => steps.extend([Step::Commit(player), Step::Abort(player)]),
                Phase::Held if player % 2 == 0 => steps.push(Step::Commit(player)),
                Phase::Held => steps.push(Step::Abort(player)),
                Phase::Flight { aborted: true } | Phase::Leaving | Phase::Over | Phase::Dead => {}
            }
        }
        // Without participants nothing turns on the log.
        if !self.log.is_empty() && self.players.iter().any(|player| player.kind == Kind::Participant) {
            steps.push(Step::Apply);
        }
        steps.dedup();
        steps
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask(player) => self.ask(player),
            Step::Commit(player) | Step::Abort(player) => match (self.phases[player], self.players[player].kind) {
                (Phase::Waiting, _) => self.turn_away(|other| other == player),
                (Phase::Flight { .. }, _) => self.phases[player] = Phase::Flight { aborted: true },
                (Phase::Held, Kind::Participant) => self.resolve(player),
                _ => {
                    self.phases[player] = Phase::Over;
                    self.log.extend(matches!(step, Step::Commit(_)).then_some(Entry::Other));
                }
            },
            Step::Expire => {
                let players = self.players.clone();
                self.turn_away(|player| players[player].kind == Kind::Write);
            }
            Step::Apply => match self.log.pop_front() {
                Some(Entry::Prepare(player)) if self.leaves(player) => self.resolve(player),
                Some(Entry::Prepare(player)) => self.phases[player] = Phase::Held,
                Some(Entry::Resolve(player)) => self.phases[player] = Phase::Over,
                Some(Entry::Other) | None => {}
            },
        }
        while let Some(at) = self.waiting.iter().position(|player| self.may_go(*player)) {
            let player = self.waiting.remove(at);
            let (phase, entry) = match self.players[player].kind {
                Kind::Home => (Phase::Held, None),
                Kind::Participant => (Phase::Flight { aborted: false }, Some(Entry::Prepare(player))),
                Kind::Write => (Phase::Over, Some(Entry::Other)),
            };
            self.phases[player] = phase;
            self.log.extend(entry);
        }
    }

    /// It waits, if only for this moment, unless it is a transaction that would wait for an older one.
    fn ask(&mut self, player: usize) {
        let dies = |(key, alone): &(usize, bool)| {
            let contended = self.queue(*key).next().is_some() || self.in_the_way(*key, *alone).next().is_some();
            let older_waits = self.queue(*key).any(|other| !self.is_write(other) && other <= player);
            let older_holds = self.holders(*key).any(|(holder, _)| holder <= player && !self.leaves(holder));
            contended && (older_waits || older_holds)
        };
        if !self.is_write(player) && self.players[player].keys.iter().any(dies) {
            self.phases[player] = Phase::Dead;
        } else {
            self.phases[player] = Phase::Waiting;
            self.waiting.push(player);
        }
    }

    fn resolve(&mut self, player: usize) {
        self.phases[player] = Phase::Leaving;
        self.log.push_back(Entry::Resolve(player));
    }

    fn turn_away(&mut self, which: impl Fn(usize) -> bool) {
        let gone: Vec<usize> = self.waiting.extract_if(.., |player| which(*player)).collect();
        gone.into_iter().for_each(|player| self.phases[player] = Phase::Over);
    }

    /// Whether it is the first in all its queues, and no holder is in its way.
    fn may_go(&self, player: usize) -> bool {
        let first = |key: usize| self.queue(key).next() == Some(player);
        self.players[player].keys.iter().all(|(key, alone)| first(*key) && self.in_the_way(*key, *alone).next().is_none())
    }

    /// What must hold of every state, by whatever rules it came to be.
    fn check(&self) {
        for key in 0..KEYS.len() {
            let mut holders = self.holders(key);
            let shared = holders.next().is_none_or(|(_, alone)| !alone);
            assert!(holders.all(|(_, alone)| shared && !alone), "an exclusive holder is alone");
        }
        for player in &self.waiting {
            assert!(!self.may_go(*player), "no waiter waits that could be granted");
            // A write holds nothing, so no circle goes through it; it only passes on what stands before it.
            for (key, alone) in self.players[*player].keys.iter().filter(|_| !self.is_write(*player)) {
                let ahead = self.queue(*key).take_while(|other| other != player).filter(|other| !self.is_write(*other));
                let behind_a_write = self.queue(*key).take_while(|other| other != player).any(|other| self.is_write(other));
                let holders = self.in_the_way(*key, *alone || behind_a_write).filter(|holder| !self.leaves(*holder));
                for other in holders.chain(ahead) {
                    assert!(*player < other, "{player} waits for {other}, which is older");
                }
            }
        }
    }
}

/// A store under test, and the entries that it proposed.
struct Run {
    store: Store,
    log: VecDeque<(Index, Fact)>,
    /// In milliseconds.
    now: u64,
    dead: Vec<usize>,
}

struct Tools {
    random: Random,
    cache: ValueCache,
    sequences: u64,
}

fn id(player: usize, kind: Kind) -> TransactionId {
    let home = GroupId(if kind == Kind::Home { 1 } else { 2 });
    TransactionId { home, attempt: Attempt { term: TERM, number: player as u64 + 1 } }
}

fn player_of(id: TransactionId) -> usize {
    id.attempt.number as usize - 1
}

impl Run {
    fn new(tools: &mut Tools) -> Run {
        let store = Store::new(GroupId(1), State::new(), Time::ZERO);
        let mut run = Run { store, log: VecDeque::new(), now: 1, dead: Vec::new() };
        run.handle(tools, In::Led(TERM, Index(2)));
        run.handle(tools, In::Apply(Committed { index: Index(1), fact: FactSummary::Noop }));
        run
    }

    fn handle(&mut self, tools: &mut Tools, input: In) {
        let view = LivenessView::EMPTY;
        let mut cx = Context::of_test(&mut tools.random, &view, &mut tools.cache);
        cx.now = Time::from_millis(self.now);
        let mut out = Outbox::default();
        self.store.handle(&mut cx, input, &mut out);
        self.store.check();
        while let Some(out) = out.pop() {
            match out {
                Out::Propose { index, fact, .. } => self.log.push_back((index, fact)),
                Out::Answer(Origin::Gateway(player), Outcome::Voted(Vote::No(_))) => self.dead.push(player as usize),
                Out::Held(id, Vote::No(_)) => self.dead.push(player_of(id)),
                _ => {}
            }
        }
    }

    fn step(&mut self, tools: &mut Tools, players: &[Player], step: Step) {
        let input = match step {
            Step::Ask(player) => self.ask(player, &players[player]),
            Step::Commit(player) | Step::Abort(player) => {
                let (kind, commit) = (players[player].kind, matches!(step, Step::Commit(_)));
                let id = id(player, kind);
                match kind {
                    Kind::Participant => task(player, Task::Resolve { id, commit }, FAR),
                    _ if commit => In::Decide(Decision { id, commit, parties: Vec::new(), ended: Vec::new(), token: None }),
                    _ => In::Release(id),
                }
            }
            Step::Apply => {
                let (index, fact) = self.log.pop_front().expect("the model knows of an entry");
                let fact = match fact {
                    Fact::Write { key, .. } => FactSummary::Write { key, value: None },
                    Fact::Transaction(step) => FactSummary::Transaction(Box::new(step.map(|_| unreachable!("only deletes")))),
                    other => panic!("a store does not propose {other:?}"),
                };
                In::Apply(Committed { index, fact })
            }
            Step::Expire => {
                self.now += PATIENCE;
                In::Timer
            }
        };
        self.handle(tools, input);
    }

    fn ask(&self, number: usize, player: &Player) -> In {
        let item = |(key, alone): &(usize, bool)| match alone {
            true => Operation::delete(KEYS[*key]),
            false => Operation::check(KEYS[*key], Condition::None),
        };
        let items = (0..).zip(&player.keys).map(|(position, key)| ItemAt { position, item: item(key) }).collect();
        let preparation = Preparation {
            id: id(number, player.kind),
            age: Age { began_ms: number as u64 + 1, ..Age::default() },
            floor: Attempt::default(),
            parties: vec![GroupId(1)],
            items,
            open: Vec::new(),
        };
        match player.kind {
            Kind::Home => In::Hold(preparation, FAR),
            Kind::Participant => task(number, Task::Prepare(preparation), FAR),
            Kind::Write => {
                let key = Key::from(KEYS[player.keys[0].0]);
                task(number, Task::Operation(Operation::delete(key).alone()), Time::from_millis(self.now + PATIENCE))
            }
        }
    }

    /// What differs from the model, if anything does.
    fn difference(&self, model: &Model) -> Option<&'static str> {
        let leading = self.store.leading.as_ref().expect("it leads");
        let mut held: Vec<_> =
            leading.locks.iter().map(|(key, mode, id)| (key.clone(), mode == LockMode::Exclusive, player_of(id))).collect();
        let holders = |key| model.holders(key).map(move |(holder, alone)| (Key::from(KEYS[key]), alone, holder));
        let mut expected: Vec<_> = (0..KEYS.len()).flat_map(holders).collect();
        held.sort_unstable();
        expected.sort_unstable();
        let queues = (0..KEYS.len()).all(|key| self.queue(KEYS[key]).eq(model.queue(key)));
        let mut dead = self.dead.clone();
        dead.sort_unstable();
        let died = (0..model.phases.len()).filter(|player| model.phases[*player] == Phase::Dead);
        let claims = model.waiting.iter().filter(|player| !model.is_write(**player)).count();
        let found = [
            (held == expected, "the holders"),
            (queues, "the queues"),
            (died.eq(dead), "those that died"),
            (self.log.len() == model.log.len(), "the entries in flight"),
            (leading.claims.len() == claims, "the transactions that wait"),
        ];
        found.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
    }

    fn queue(&self, key: &'static str) -> impl Iterator<Item = usize> {
        let queues = &self.store.leading.as_ref().expect("it leads").queues;
        queues.by_key.get(&Key::from(key)).into_iter().flatten().map(|ticket| match &queues.waiters[ticket].intent {
            Intent::Write(write) => match write.origin {
                Origin::Gateway(player) => player as usize,
                Origin::Peer(..) => panic!("no peer asked"),
            },
            Intent::Claim(claim) => player_of(claim.preparation.id),
        })
    }
}

fn task(player: usize, task: Task, deadline: Time) -> In {
    In::Task { origin: Origin::Gateway(player as u64), task, term: Some(TERM), deadline }
}

/// Plays all sequences of steps up to this length, each from the beginning, and then to its end.
fn explore(tools: &mut Tools, model: &Model, played: &mut Vec<Step>, length: usize, either: bool) {
    let steps = model.steps(either);
    if steps.is_empty() || length == 0 {
        return replay(tools, &model.players, played);
    }
    for step in steps {
        let mut model = model.clone();
        model.step(step);
        played.push(step);
        explore(tools, &model, played, length - 1, either);
        played.pop();
    }
}

fn replay(tools: &mut Tools, players: &[Player], played: &[Step]) {
    tools.sequences += 1;
    let (mut model, mut run) = (Model::new(players.to_vec()), Run::new(tools));
    for at in 0.. {
        // What was begun comes to an end, and nothing new is begun.
        let rest = || model.steps(false).into_iter().find(|step| !matches!(step, Step::Ask(_)));
        let Some(step) = played.get(at).copied().or_else(rest) else { break };
        model.step(step);
        model.check();
        run.step(tools, players, step);
        if let Some(what) = run.difference(&model) {
            panic!("{what} differ after {step:?}, step {at} of {played:?}:\n{model:?}\n{:?}", run.store);
        }
    }
    while !run.log.is_empty() {
        run.step(tools, players, Step::Apply);
    }
    assert!(run.store.is_idle(), "something is left after {played:?}: {:?}", run.store);
}

/// Plays all orders of what these players do.
fn play(tools: &mut Tools, players: Vec<Player>, length: usize, either: bool) {
    explore(tools, &Model::new(players), &mut Vec::new(), length, either);
}

fn tools() -> Tools {
    Tools { random: random::stream(1, "test"), cache: ValueCache::new(0, &crate::base::limits::Limits::DEFAULT), sequences: 0 }
}

fn player(kind: Kind, keys: &[(usize, bool)]) -> Player {
    Player { kind, keys: keys.to_vec() }
}

const SHAPES: [&[(usize, bool)]; 8] = [
    &[(0, false)],
    &[(0, true)],
    &[(1, false)],
    &[(1, true)],
    &[(0, false), (1, false)],
    &[(0, false), (1, true)],
    &[(0, true), (1, false)],
    &[(0, true), (1, true)],
];

#[test]
fn three_transactions_on_two_keys_wait_die_and_are_granted_as_the_model_says() {
    let mut tools = tools();
    for first in SHAPES {
        for second in SHAPES {
            for third in SHAPES {
                let players = [first, second, third].map(|keys| player(Kind::Home, keys));
                play(&mut tools, players.to_vec(), 6, false);
            }
        }
    }
    assert!(tools.sequences > 20_000, "only {} orders were played", tools.sequences);
}

#[test]
fn writes_queue_among_transactions_and_give_up_in_the_middle() {
    let mut tools = tools();
    let write = |key| player(Kind::Write, &[(key, true)]);
    for first in SHAPES {
        for second in SHAPES {
            let home = |keys| player(Kind::Home, keys);
            play(&mut tools, vec![home(first), home(second), write(0), write(1)], 8, false);
        }
    }
    assert!(tools.sequences > 20_000, "only {} orders were played", tools.sequences);
}

#[test]
fn what_is_prepared_is_locked_from_its_proposal_to_the_commit_of_its_resolution() {
    let mut tools = tools();
    for modes in 0..8 {
        for home in 0..4 {
            let kind = |number| if number == home { Kind::Home } else { Kind::Participant };
            let players = (0..3).map(|number| player(kind(number), &[(0, modes >> number & 1 == 1)])).collect();
            play(&mut tools, players, 6, true);
        }
    }
    assert!(tools.sequences > 20_000, "only {} orders were played", tools.sequences);
}
