//! Linearizability of one key, given the versions.
//!
//! Every operation with a known outcome was told a version, and versions grow in the order in which writes take effect. So these
//! operations have one possible order: by version, the write first, then those that saw it. Three things remain to be shown.
//!
//! 1. The order respects real time: nothing ended before something began that the order puts before it.
//! 2. Each operation saw, or was evaluated against, what the one before it left;
//! 3. or else unknown writes took effect between the two. Which ones is found backwards from what is needed: a read of "x" needs
//!    an unknown write of "x", an increment to 7 by 2 needs a 5, and so on. An unknown write is used once at most, and only where
//!    it has begun before everything later in the order has ended. No more of them fit between two versions than there are
//!    versions.
//!
//! Unknown writes that no operation saw can be left out: after every operation with a known outcome the state is known, whatever
//! came before. So the search branches only where several unknown writes would explain the same sight.

use super::calls::{Call, Calls, Change, Id, Step, Table, Value, When, unwritten, violation};
use super::{Initial, Options, Violation};
use ringseed::base::Key;
use ringseed::history::Data;

/// The search goes one deeper for each unknown write that took effect. With more unknown writes than this it gets a stack to
/// match.
const SHALLOW: usize = 500;
/// Bytes of stack for each of them; rather too many than too few. What is not used costs nothing.
const STACK_PER_WRITE: usize = 4 * 1024;

/// A step takes a fraction of the time of one by values alone, and keeps nothing: so there may be more of them.
const CHEAPER: u64 = 400;

/// Runs `work` with so many bytes of stack.
fn with_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(bytes).spawn_scoped(scope, work).expect("a thread can be started");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Whether the key was decided; `false` when the bound on steps was reached first.
///
/// # Errors
/// No order by versions explains what was seen.
pub(super) fn check(key: &Key, calls: &Calls<'_>, options: &Options) -> Result<bool, Violation> {
    let mut order: Vec<&Call<'_>> = calls.definite.iter().filter(|call| call.version().is_some()).collect();
    order.sort_by_key(|call| (call.version(), !call.is_write(), call.start));
    unique(key, &order)?;
    let limits = real_time(key, &order)?;
    let mut search = Search::new(calls, order, limits, options);
    let state = match options.initial {
        Initial::Empty => State { value: Seen::Exactly(None), version: Some(0) },
        Initial::Anything => State { value: Seen::Anything, version: None },
    };
    let solved = match calls.unknown.len() {
        ..=SHALLOW => search.solve(0, state),
        unknown => with_stack((unknown + SHALLOW) * STACK_PER_WRITE, || search.solve(0, state)),
    };
    match solved {
        Ok(true) => Ok(true),
        Ok(false) => Err(search.explain(key)),
        Err(OutOfSteps) => Ok(false),
    }
}

/// No two writes have one version, and no write has version 0.
fn unique(key: &Key, order: &[&Call<'_>]) -> Result<(), Violation> {
    let writes: Vec<&&Call<'_>> = order.iter().filter(|call| call.is_write()).collect();
    if let Some(pair) = writes.windows(2).find(|pair| pair[0].version() == pair[1].version()) {
        let what = format!("key {}: two writes have the same version", key);
        return Err(violation("P1", &what, [pair[0].record, pair[1].record]));
    }
    match writes.first() {
        Some(first) if first.version() == Some(0) => {
            Err(violation("P1", &format!("key {}: a write has version 0", key), [first.record]))
        }
        _ => Ok(()),
    }
}

/// For each place in the order, the earliest end from there on: what takes effect before that place has begun by then.
fn real_time(key: &Key, order: &[&Call<'_>]) -> Result<Vec<u64>, Violation> {
    let mut limits = vec![u64::MAX; order.len()];
    let mut first: Option<&Call<'_>> = None;
    for (at, call) in order.iter().enumerate().rev() {
        if let Some(later) = first.filter(|later| later.end < call.start) {
            let (low, high) = (call.version().unwrap_or(0), later.version().unwrap_or(0));
            let what = if call.is_write() {
                format!("versions went backwards: a write got version {low} after version {high} had been seen")
            } else {
                format!("a stale read: version {low} was seen after version {high} had been")
            };
            return Err(violation("P1", &format!("key {}: {what}", key), [later.record, call.record]));
        }
        if first.is_none_or(|first| call.end < first.end) {
            first = Some(call);
        }
        limits[at] = first.map_or(u64::MAX, |first| first.end);
    }
    Ok(limits)
}

#[derive(Debug, Clone, Copy)]
struct State {
    value: Seen,
    /// `None`: any.
    version: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    Exactly(Value),
    /// This number, as an unknown increment left it.
    Number(i64),
    /// A number, which one is not known.
    SomeNumber,
    /// Not known; whatever is needed, it may be.
    Anything,
}

/// What must hold of the item where an operation takes effect.
#[derive(Debug, Clone, Copy)]
enum Need {
    Nothing,
    Exactly(Value),
    /// Its number, or absent for 0.
    Number(i64),
    /// Present, with this number.
    PresentNumber(i64),
    /// A number, or absent.
    AnyNumber,
    Present,
    Absent,
    /// Present, with this version.
    Version(u64),
    /// Present, and not this.
    Other(Id),
    /// What the operation was told contradicts itself.
    Impossible,
}

struct OutOfSteps;

struct Search<'c, 'a> {
    options: &'c Options,
    calls: &'c Calls<'a>,
    order: Vec<&'c Call<'a>>,
    /// Per place in `order`.
    limits: Vec<u64>,
    /// The unknown writes that have been placed, the latest last. Of one gap they stand in reverse: the search goes backwards.
    placed: Vec<usize>,
    /// Per unknown write: whether it has been placed, and the one before it that does exactly the same.
    used: Vec<bool>,
    twin: Vec<Option<usize>>,
    steps: u64,
    /// The furthest place that could not be explained, and the state that the one before it left.
    furthest: Option<(usize, State)>,
}

impl<'c, 'a> Search<'c, 'a> {
    fn new(calls: &'c Calls<'a>, order: Vec<&'c Call<'a>>, limits: Vec<u64>, options: &'c Options) -> Search<'c, 'a> {
        let mut last = std::collections::BTreeMap::new();
        let twin = calls.unknown.iter().enumerate().map(|(at, call)| last.insert(change(call), at)).collect();
        let (used, steps) = (vec![false; calls.unknown.len()], options.steps_max.saturating_mul(CHEAPER));
        Search { options, calls, order, limits, placed: Vec::new(), used, twin, steps, furthest: None }
    }

    /// Whether the order from `at` on can be explained, beginning in `state`.
    fn solve(&mut self, mut at: usize, mut state: State) -> Result<bool, OutOfSteps> {
        while let Some(call) = self.order.get(at) {
            let (need, version) = need(call, &self.calls.table);
            let same = !call.is_write() && state.version == Some(version);
            // Deletions are forgotten: absence has a later version then.
            let absent = !call.is_write()
                && matches!(state.value, Seen::Exactly(None))
                && state.version.is_some_and(|known| known < version)
                && self.options.may_be_floor(version);
            if (same || absent || call.is_write() || state.version.is_none()) && satisfies(&state, need, &self.calls.table) {
                state = after(call, state.value);
                at += 1;
                continue;
            }
            if self.furthest.is_none_or(|(furthest, _)| at > furthest) {
                self.furthest = Some((at, state));
            }
            let gone = matches!(need, Need::Version(expected) if state.version.is_some_and(|now| expected <= now) || expected >= version);
            if same || gone {
                return Ok(false);
            }
            let room = version.saturating_sub(state.version.unwrap_or(0)).saturating_sub(u64::from(call.is_write()));
            return self.chain(at, state, need, room, self.placed.len());
        }
        Ok(true)
    }

    /// Whether the place `at` and all behind it can be explained by putting unknown writes before it, of which those from `base`
    /// on have been placed, and the earliest so far has `need`. `room`: how many more fit.
    fn chain(&mut self, at: usize, state: State, need: Need, room: u64, base: usize) -> Result<bool, OutOfSteps> {
        self.steps = self.steps.checked_sub(1).ok_or(OutOfSteps)?;
        let begun = self.placed.len() > base;
        if begun
            && satisfies(&state, need, &self.calls.table)
            && let Some(left) = self.forward(at, state, base)
            && self.solve(at + 1, after(self.order[at], left))?
        {
            return Ok(true);
        }
        if room == 0 || (begun && matches!(need, Need::Nothing)) {
            return Ok(false);
        }
        for candidate in 0..self.calls.unknown.len() {
            let write = &self.calls.unknown[candidate];
            if write.start > self.limits[at] {
                break;
            }
            if self.used[candidate] || self.twin[candidate].is_some_and(|twin| !self.used[twin]) {
                continue;
            }
            let Some(before) = before(change(write), need, &self.calls.table) else { continue };
            self.used[candidate] = true;
            self.placed.push(candidate);
            if self.chain(at, state, before, room - 1, base)? {
                return Ok(true);
            }
            self.placed.pop();
            self.used[candidate] = false;
        }
        Ok(false)
    }

    /// What the writes placed from `base` on leave, before the place `at`. `None` when they cannot follow each other like this: a
    /// sum overflows, or a condition on a version leaves no room for the versions around it.
    fn forward(&self, at: usize, state: State, base: usize) -> Option<Seen> {
        let mut value = state.value;
        // The version so far, or the least that it can be behind an unknown write.
        let (mut version, mut pinned) = (state.version.unwrap_or(0), state.version.is_some());
        for write in self.placed[base..].iter().rev() {
            let change = change(&self.calls.unknown[*write]);
            if let Change::Put(_, When::Version(expected))
            | Change::Delete(When::Version(expected))
            | Change::Increment(_, When::Version(expected)) = change
            {
                if expected < version || (pinned && expected != version) {
                    return None;
                }
                version = expected;
            }
            (version, pinned) = (version.checked_add(1)?, false);
            value = match (change, value) {
                (Change::Put(id, _), _) => Seen::Exactly(Some(id)),
                (Change::Delete(_), _) => Seen::Exactly(None),
                (Change::Increment(by, _), Seen::Exactly(value)) => {
                    Seen::Number(value.map_or(Some(0), |id| self.calls.table.number(id))?.checked_add(by)?)
                }
                (Change::Increment(by, _), Seen::Number(number)) => Seen::Number(number.checked_add(by)?),
                (Change::Increment(..), Seen::SomeNumber | Seen::Anything) => Seen::SomeNumber,
            };
        }
        let call = self.order[at];
        let (need, limit) = need(call, &self.calls.table);
        let limit = if call.is_write() { limit - 1 } else { limit };
        // A condition of the operation itself pins the version of what it found. Going backwards also loses what an increment
        // adds up to, where only "another value" was needed.
        let pinned = match need {
            Need::Version(expected) => expected,
            _ => version,
        };
        let fits = version <= pinned && pinned <= limit;
        (fits && satisfies(&State { value, version: None }, need, &self.calls.table)).then_some(value)
    }

    fn explain(&self, key: &Key) -> Violation {
        let (at, state) = self.furthest.expect("a search that fails fails somewhere");
        let call = self.order[at];
        if let Step::Read { value, version } = call.step {
            let written = state.version == Some(version);
            let possible =
                self.calls.unknown.iter().any(|write| before(change(write), Need::Exactly(value), &self.calls.table).is_some());
            if !written && !possible {
                return unwritten(key, self.calls, value, version, call);
            }
        }
        let table = &self.calls.table;
        let was = match state.value {
            Seen::Exactly(value) => table.show(value),
            Seen::Number(number) => number.to_string(),
            Seen::SomeNumber | Seen::Anything => "not known".into(),
        };
        let what = format!(
            "key {}: the last of these operations cannot have found what was there: the item was {was} at version {}, and no unknown write explains the change",
            key,
            state.version.unwrap_or(0),
        );
        let unknown = self.calls.unknown.iter().filter(|write| write.start <= self.limits[at]).map(|write| write.record);
        let earlier = self.order[..at].last().map(|call| call.record);
        let version = call.version();
        let same = self.order[..at].iter().filter(|other| other.version() == version).map(|call| call.record);
        violation("P1", &what, unknown.chain(earlier).chain(same).chain([call.record]))
    }
}

fn change(call: &Call<'_>) -> Change {
    match call.step {
        Step::Maybe { change } | Step::Write { change, .. } => change,
        Step::Read { .. } | Step::Failed { .. } | Step::NotANumber { .. } => unreachable!("not a write"),
    }
}

/// What an operation with a known outcome needs where it takes effect, and its version.
fn need(call: &Call<'_>, table: &Table) -> (Need, u64) {
    match call.step {
        Step::Read { value, version } => (Need::Exactly(value), version),
        Step::Failed { condition, version, present } => {
            let need = match (condition, present) {
                (When::Absent, true) => Need::Present,
                (When::Value(id), true) => Need::Other(id),
                (When::Version(expected), true) if expected != version => Need::Present,
                (When::Value(_) | When::Version(_) | When::Present, false) => Need::Absent,
                (When::Always | When::Present | When::Version(_), true) | (When::Always | When::Absent, false) => {
                    Need::Impossible
                }
            };
            (need, version)
        }
        Step::Write { change, version, result } => (condition(change, result, table), version),
        Step::Maybe { .. } | Step::NotANumber { .. } => unreachable!("a version was told"),
    }
}

fn condition(change: Change, result: Value, table: &Table) -> Need {
    match change {
        Change::Put(_, when) | Change::Delete(when) => held(when),
        Change::Increment(by, when) => {
            let sum = result.and_then(|id| table.number(id)).expect("an increment's result is a number");
            sum.checked_sub(by).and_then(|number| number_when(number, when, table)).unwrap_or(Need::Impossible)
        }
    }
}

/// The item has this number, absent counting as 0, and the condition holds; `None` if that cannot be. (A version is looked at
/// elsewhere.)
fn number_when(number: i64, when: When, table: &Table) -> Option<Need> {
    match when {
        When::Always | When::Version(_) => Some(Need::Number(number)),
        When::Present => Some(Need::PresentNumber(number)),
        When::Absent => (number == 0).then_some(Need::Absent),
        When::Value(id) => (table.number(id) == Some(number)).then_some(Need::Exactly(Some(id))),
    }
}

fn held(when: When) -> Need {
    match when {
        When::Always => Need::Nothing,
        When::Value(id) => Need::Exactly(Some(id)),
        When::Version(version) => Need::Version(version),
        When::Absent => Need::Absent,
        When::Present => Need::Present,
    }
}

fn satisfies(state: &State, need: Need, table: &Table) -> bool {
    let version = |expected: u64| state.version.is_none_or(|version| version == expected);
    let value = match state.value {
        Seen::Exactly(value) => value,
        Seen::Number(number) => {
            return match need {
                Need::Exactly(value) => value.is_some_and(|id| *table.data(id) == Data::of_number(number)),
                Need::Number(expected) | Need::PresentNumber(expected) => number == expected,
                Need::Other(id) => *table.data(id) != Data::of_number(number),
                Need::Version(expected) => version(expected),
                Need::Absent | Need::Impossible => false,
                Need::Nothing | Need::AnyNumber | Need::Present => true,
            };
        }
        Seen::SomeNumber => {
            return match need {
                Need::Exactly(value) => value.is_some_and(|id| table.number(id).is_some()),
                Need::Version(expected) => version(expected),
                Need::Absent | Need::Impossible => false,
                _ => true,
            };
        }
        Seen::Anything => {
            return match need {
                Need::Version(expected) => version(expected),
                Need::Impossible => false,
                _ => true,
            };
        }
    };
    match need {
        Need::Nothing => true,
        Need::Exactly(expected) => value == expected,
        Need::Number(number) => value.map_or(Some(0), |id| table.number(id)) == Some(number),
        Need::PresentNumber(number) => value.is_some_and(|id| table.number(id) == Some(number)),
        Need::AnyNumber => value.is_none_or(|id| table.number(id).is_some()),
        Need::Present => value.is_some(),
        Need::Absent => value.is_none(),
        Need::Version(expected) => value.is_some() && version(expected),
        Need::Other(id) => value.is_some_and(|value| value != id),
        Need::Impossible => false,
    }
}

/// What an unknown write needs in turn, for the item to be as needed after it; `None` when it cannot make it so.
fn before(change: Change, need: Need, table: &Table) -> Option<Need> {
    let makes = match change {
        Change::Put(id, _) => match need {
            Need::Exactly(value) => value == Some(id),
            Need::Number(number) | Need::PresentNumber(number) => table.number(id) == Some(number),
            Need::AnyNumber => table.number(id).is_some(),
            Need::Other(other) => id != other,
            Need::Present | Need::Version(_) => true,
            Need::Absent | Need::Nothing | Need::Impossible => false,
        },
        Change::Delete(_) => matches!(need, Need::Exactly(None) | Need::Absent | Need::Number(0) | Need::AnyNumber),
        Change::Increment(..) => matches!(
            need,
            Need::Exactly(Some(_))
                | Need::Number(_)
                | Need::PresentNumber(_)
                | Need::AnyNumber
                | Need::Other(_)
                | Need::Present
                | Need::Version(_)
        ),
    };
    if !makes {
        return None;
    }
    match (change, need) {
        (Change::Put(_, when) | Change::Delete(when), _) => Some(held(when)),
        // A put could have left the number in another form than an increment does, such as "007".
        (Change::Increment(by, when), Need::Exactly(Some(id))) => {
            let sum = table.number(id).filter(|sum| *table.data(id) == Data::of_number(*sum))?;
            number_when(sum.checked_sub(by)?, when, table)
        }
        (Change::Increment(by, when), Need::Number(sum) | Need::PresentNumber(sum)) => {
            number_when(sum.checked_sub(by)?, when, table)
        }
        // That it was a number is looked at going forward.
        (Change::Increment(_, when @ (When::Present | When::Absent | When::Value(_))), _) => Some(held(when)),
        (Change::Increment(..), _) => Some(Need::AnyNumber),
    }
}

/// The state that an operation leaves, which found `value`.
fn after(call: &Call<'_>, value: Seen) -> State {
    match call.step {
        Step::Read { value, version } => State { value: Seen::Exactly(value), version: Some(version) },
        Step::Write { result, version, .. } => State { value: Seen::Exactly(result), version: Some(version) },
        Step::Failed { version, present: false, .. } => State { value: Seen::Exactly(None), version: Some(version) },
        Step::Failed { version, .. } => State { value, version: Some(version) },
        Step::Maybe { .. } | Step::NotANumber { .. } => unreachable!("a version was told"),
    }
}
