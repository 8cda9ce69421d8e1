//! Linearizability of one key, by values alone.
//!
//! The search of Wing and Gong, "Testing and Verifying Concurrent Objects" (1993), with the memoised states of Lowe, "Testing for
//! Linearizability" (2017): pick an operation that began before every remaining one has ended, let it take effect if the state
//! allows, go on; go back when stuck; never try the same set of operations with the same state twice.
//!
//! What keeps it short:
//!
//! - An operation that changes nothing and may take effect now does so at once: later would be no better.
//! - Unknown writes are never waited for. Of those that do exactly the same only the earliest is tried.
//! - Candidates are tried in the order of the versions that they were told. Versions are not trusted: any other order is tried
//!   after. But where they tell the truth the first attempt succeeds.
//! - A set of operations is remembered as the exclusive or of a 128-bit hash per operation (Zobrist). Two sets that should
//!   collide would hide a branch of the search, at odds of about 2^-80.

use super::calls::{Call, Calls, Change, Id, Step, Table, Value, When, violation};
use super::{Initial, Options, Violation};
use ringseed::base::Key;
use ringseed::base::hash::checksum;
use ringseed::history::Data;
use std::collections::BTreeSet;

/// Whether the key was decided; `false` when the bound on steps was reached first.
///
/// # Errors
/// No order explains what was seen.
pub(super) fn check(key: &Key, calls: &mut Calls<'_>, options: &Options) -> Result<bool, Violation> {
    calls.definite.sort_by_key(|call| call.start);
    let state = match options.initial {
        Initial::Empty => ItemState::Is(None),
        Initial::Anything => ItemState::Anything,
    };
    let mut search = Search::new(calls, options.steps_max);
    match search.run(state) {
        Some(true) => Ok(true),
        Some(false) => Err(search.explain(key)),
        None => Ok(false),
    }
}

/// What is known of the item's state. `Anything` only before it is first seen or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ItemState {
    Anything,
    Is(Value),
}

/// A begin or an end of a definite operation, in a doubly linked list in order of time. Place 0 is before the first.
struct Event {
    call: usize,
    /// The place of the operation's end, at its begin; `None` at its end.
    end: Option<usize>,
    previous: usize,
    next: usize,
}

/// One operation that has taken effect in the current attempt.
struct Taken {
    choice: Choice,
    /// The state before it.
    state: ItemState,
    /// It changed nothing: there is no other choice to go back to.
    forced: bool,
}

#[derive(Clone, Copy)]
enum Choice {
    /// The place of its begin.
    Definite(usize),
    Unknown(usize),
}

struct Search<'c, 'a> {
    definite: &'c [Call<'a>],
    unknown: &'c [Call<'a>],
    table: &'c mut Table,
    events: Vec<Event>,
    used: Vec<bool>,
    twin: Vec<Option<usize>>,
    /// When to try each operation, those of unknown outcome apart.
    ranks: (Vec<Rank>, Vec<Rank>),
    taken: Vec<Taken>,
    /// Of what is taken.
    hash: u128,
    seen: BTreeSet<(u128, ItemState)>,
    steps: u64,
    /// The longest attempt: how many definite operations it placed, the state it reached, its last operations, and what was left.
    furthest: Option<Furthest>,
    placed: usize,
}

struct Furthest {
    placed: usize,
    state: ItemState,
    last: Vec<usize>,
    stuck: Vec<usize>,
}

/// Operations are tried in this order: by version, a write before what was seen of it.
type Rank = (u64, bool, usize);

const HEAD: usize = 0;

impl<'c, 'a> Search<'c, 'a> {
    fn new(calls: &'c mut Calls<'a>, steps: u64) -> Search<'c, 'a> {
        let mut times: Vec<(u64, bool, usize)> = Vec::with_capacity(calls.definite.len() * 2);
        for (at, call) in calls.definite.iter().enumerate() {
            times.push((call.start, false, at));
            times.push((call.end, true, at));
        }
        // At one instant begins come before ends: operations that touch may have overlapped.
        times.sort_unstable();
        let mut events = vec![Event { call: usize::MAX, end: None, previous: HEAD, next: 1 }];
        let mut begins = vec![0; calls.definite.len()];
        for (at, (_, is_end, call)) in times.iter().enumerate() {
            let place = at + 1;
            if *is_end {
                events[begins[*call]].end = Some(place);
            } else {
                begins[*call] = place;
            }
            events.push(Event { call: *call, end: None, previous: at, next: place + 1 });
        }
        let count = events.len();
        events[count - 1].next = HEAD;
        let mut last = std::collections::BTreeMap::new();
        let twin = calls.unknown.iter().enumerate().map(|(at, call)| last.insert(change(call), at)).collect();
        let ranks = ranks(calls);
        Search {
            definite: &calls.definite,
            unknown: &calls.unknown,
            table: &mut calls.table,
            events,
            used: vec![false; calls.unknown.len()],
            twin,
            ranks,
            taken: Vec::new(),
            hash: 0,
            seen: BTreeSet::new(),
            steps,
            furthest: None,
            placed: 0,
        }
    }

    /// `None` when the bound on steps was reached.
    fn run(&mut self, mut state: ItemState) -> Option<bool> {
        let mut from = None;
        while self.events[HEAD].next != HEAD {
            self.steps = self.steps.checked_sub(1)?;
            if let Some((choice, next, forced)) = self.choose(state, from) {
                self.take(choice, state, forced);
                state = next;
                from = None;
                continue;
            }
            if from.is_none() {
                self.remember(state);
            }
            loop {
                let Some(last) = self.taken.pop() else { return Some(false) };
                self.undo(last.choice);
                state = last.state;
                if !last.forced {
                    from = Some(last.choice);
                    break;
                }
            }
        }
        Some(true)
    }

    /// The next operation to let take effect, behind the choice `from`; the state after it; and whether it is the only sensible
    /// one.
    fn choose(&mut self, state: ItemState, from: Option<Choice>) -> Option<(Choice, ItemState, bool)> {
        if from.is_none()
            && let Some(place) = self.silent(state)
        {
            return Some((Choice::Definite(place), state, true));
        }
        let behind = from.map(|choice| self.rank(choice));
        let limit = self.first_end();
        let in_progress = self.begins().map(Choice::Definite);
        let unknown = (0..self.unknown.len()).take_while(|at| self.unknown[*at].start <= limit).filter(|at| {
            let earlier = self.twin[*at].is_some_and(|twin| !self.used[twin]);
            !self.used[*at] && !earlier
        });
        let mut candidates: Vec<(Rank, Choice)> =
            in_progress.chain(unknown.map(Choice::Unknown)).map(|choice| (self.rank(choice), choice)).collect();
        candidates.retain(|(rank, _)| behind.is_none_or(|behind| *rank > behind));
        candidates.sort_unstable_by_key(|(rank, _)| *rank);
        candidates.into_iter().find_map(|(_, choice)| {
            let (step, unknown) = match choice {
                Choice::Definite(place) => (&self.definite[self.events[place].call].step, false),
                Choice::Unknown(at) => (&self.unknown[at].step, true),
            };
            let next = effect(step, state, self.table)?;
            (!(unknown && next == state) && self.is_new(choice, next)).then_some((choice, next, false))
        })
    }

    /// The places of the operations that may be next: none of the remaining ended before they began.
    fn begins(&self) -> impl Iterator<Item = usize> {
        let next = |place: usize| Some(self.events[place].next);
        std::iter::successors(next(HEAD), move |place| next(*place))
            .take_while(|place| *place != HEAD && self.events[*place].end.is_some())
    }

    fn rank(&self, choice: Choice) -> Rank {
        match choice {
            Choice::Definite(place) => self.ranks.0[self.events[place].call],
            Choice::Unknown(at) => self.ranks.1[at],
        }
    }

    /// An operation that may take effect now and changes nothing.
    fn silent(&mut self, state: ItemState) -> Option<usize> {
        let places: Vec<usize> = self.begins().collect();
        places.into_iter().find(|place| {
            let step = &self.definite[self.events[*place].call].step;
            !matches!(step, Step::Write { .. }) && state != ItemState::Anything && effect(step, state, self.table).is_some()
        })
    }

    /// When the first of the remaining operations ends.
    fn first_end(&self) -> u64 {
        let mut place = self.events[HEAD].next;
        while self.events[place].end.is_some() {
            place = self.events[place].next;
        }
        self.definite[self.events[place].call].end
    }

    fn is_new(&mut self, choice: Choice, state: ItemState) -> bool {
        let hash = self.hash ^ self.mark(choice);
        self.seen.insert((hash, state))
    }

    fn mark(&self, choice: Choice) -> u128 {
        let (kind, at) = match choice {
            Choice::Definite(place) => (0_u8, self.events[place].call),
            Choice::Unknown(at) => (1, at),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&(at as u64).to_le_bytes());
        u128::from(checksum(1, &bytes)) << 64 | u128::from(checksum(2, &bytes))
    }

    fn take(&mut self, choice: Choice, state: ItemState, forced: bool) {
        self.hash ^= self.mark(choice);
        match choice {
            Choice::Definite(place) => {
                let end = self.events[place].end.expect("a choice is a begin");
                self.unlink(place);
                self.unlink(end);
                self.placed += 1;
            }
            Choice::Unknown(at) => self.used[at] = true,
        }
        self.taken.push(Taken { choice, state, forced });
    }

    fn undo(&mut self, choice: Choice) {
        self.hash ^= self.mark(choice);
        match choice {
            Choice::Definite(place) => {
                let end = self.events[place].end.expect("a choice is a begin");
                self.relink(end);
                self.relink(place);
                self.placed -= 1;
            }
            Choice::Unknown(at) => self.used[at] = false,
        }
    }

    fn unlink(&mut self, place: usize) {
        let (previous, next) = (self.events[place].previous, self.events[place].next);
        self.events[previous].next = next;
        self.events[next].previous = previous;
    }

    fn relink(&mut self, place: usize) {
        let (previous, next) = (self.events[place].previous, self.events[place].next);
        self.events[previous].next = place;
        self.events[next].previous = place;
    }

    /// Keeps the longest attempt, for the message.
    fn remember(&mut self, state: ItemState) {
        if self.furthest.as_ref().is_some_and(|furthest| furthest.placed >= self.placed) {
            return;
        }
        let call = |step: &Taken| match step.choice {
            Choice::Definite(place) => Some(self.events[place].call),
            Choice::Unknown(_) => None,
        };
        let last = self.taken.iter().rev().filter_map(call).take(LAST_SHOWN).collect();
        let mut stuck = Vec::new();
        let mut place = self.events[HEAD].next;
        while place != HEAD && self.events[place].end.is_some() {
            stuck.push(self.events[place].call);
            place = self.events[place].next;
        }
        self.furthest = Some(Furthest { placed: self.placed, state, last, stuck });
    }

    fn explain(&self, key: &Key) -> Violation {
        let Some(furthest) = &self.furthest else { unreachable!("a search that fails was stuck somewhere") };
        let state = match furthest.state {
            ItemState::Anything => "not known".into(),
            ItemState::Is(value) => self.table.show(value),
        };
        let stuck = furthest.stuck.len();
        let what = format!(
            "key {}: by values alone, no order explains these operations; at best the item was {state}, and none of the {stuck} in progress could be next",
            key
        );
        let limit = furthest.stuck.iter().map(|at| self.definite[*at].end).min().unwrap_or(u64::MAX);
        let unknown = self.unknown.iter().filter(|call| call.start <= limit).map(|call| call.record);
        let shown = furthest.last.iter().chain(&furthest.stuck).map(|at| self.definite[*at].record);
        violation("P1", &what, unknown.chain(shown))
    }
}

/// How many of the operations before the conflict are shown.
const LAST_SHOWN: usize = 6;

fn change(call: &Call<'_>) -> Change {
    match call.step {
        Step::Maybe { change } | Step::Write { change, .. } => change,
        Step::Read { .. } | Step::Failed { .. } | Step::NotANumber { .. } => unreachable!("not a write"),
    }
}

/// The rank of each definite operation, and of each unknown write: by the version at which what it puts was seen that no definite
/// write was told; of those that were never seen, behind all.
fn ranks(calls: &Calls<'_>) -> (Vec<Rank>, Vec<Rank>) {
    let written: BTreeSet<u64> = calls.definite.iter().filter(|call| call.is_write()).filter_map(Call::version).collect();
    let mut orphans: BTreeSet<(Value, u64)> = BTreeSet::new();
    for call in &calls.definite {
        if let Step::Read { value, version } = call.step
            && !written.contains(&version)
        {
            orphans.insert((value, version));
        }
    }
    let definite = calls.definite.iter().enumerate();
    let definite = definite.map(|(at, call)| (call.version().unwrap_or(0), !call.is_write(), at)).collect();
    let first = calls.definite.len();
    let unknown = calls.unknown.iter().enumerate().map(|(at, call)| {
        let value = match change(call) {
            Change::Put(id, _) => Some(Some(id)),
            Change::Delete(_) => Some(None),
            Change::Increment(..) => None,
        };
        let seen = value.and_then(|value| orphans.range((value, 0)..=(value, u64::MAX)).next().copied());
        (
            seen.map_or(u64::MAX, |orphan| {
                orphans.remove(&orphan);
                orphan.1
            }),
            false,
            first + at,
        )
    });
    (definite, unknown.collect())
}

/// The state after the operation, when it may take effect in `state`. Versions have no say.
fn effect(step: &Step, state: ItemState, table: &mut Table) -> Option<ItemState> {
    match step {
        Step::Read { value, .. } => {
            (state == ItemState::Anything || state == ItemState::Is(*value)).then_some(ItemState::Is(*value))
        }
        Step::Failed { condition, present, .. } => {
            let ItemState::Is(value) = state else { return Some(state) };
            let failed = match condition {
                When::Always => false,
                When::Value(id) => value != Some(*id),
                When::Version(_) => true,
                When::Absent => value.is_some(),
                When::Present => value.is_none(),
            };
            (failed && value.is_some() == *present).then_some(state)
        }
        Step::NotANumber { by } => {
            let ItemState::Is(value) = state else { return Some(state) };
            let number = value.map_or(Some(0), |id| table.number(id));
            number.and_then(|number| number.checked_add(*by)).is_none().then_some(state)
        }
        Step::Write { change, result, .. } => apply(*change, state, table, Some(*result)),
        Step::Maybe { change } => apply(*change, state, table, None),
    }
}

fn apply(change: Change, state: ItemState, table: &mut Table, result: Option<Value>) -> Option<ItemState> {
    match change {
        Change::Put(id, when) => holds(when, state).then_some(ItemState::Is(Some(id))),
        Change::Delete(when) => holds(when, state).then_some(ItemState::Is(None)),
        Change::Increment(by, when) => {
            if !holds(when, state) {
                return None;
            }
            let value = match state {
                ItemState::Anything => return Some(result.map_or(ItemState::Anything, ItemState::Is)),
                ItemState::Is(value) => value,
            };
            let number = value.map_or(Some(0), |id| table.number(id))?;
            let sum: Id = table.id(&Data::of_number(number.checked_add(by)?));
            (result.is_none() || result == Some(Some(sum))).then_some(ItemState::Is(Some(sum)))
        }
    }
}

fn holds(when: When, state: ItemState) -> bool {
    let ItemState::Is(value) = state else { return true };
    match when {
        When::Always => true,
        When::Value(id) => value == Some(id),
        When::Version(_) | When::Present => value.is_some(),
        When::Absent => value.is_none(),
    }
}
