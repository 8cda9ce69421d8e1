//! Transactions are strictly serializable, with each other and with single operations (P2): Adya, "Weak consistency" (1999),
//! chapter 3, with real time added.
//!
//! The versions of a key say in which order its writes took effect. So the graph of what must come before what is known, and the
//! history is strictly serializable exactly if it has no cycle. Its edges:
//!
//! - *ww*: the write of a version comes before the write of the key's next version;
//! - *wr*: before every operation that saw it;
//! - *rw*: and every operation that saw it comes before the write of the next version;
//! - *time*: what ended comes before what began after. Not an edge for each such pair: ends are strung on a chain of instants,
//!   from which begins branch off.
//!
//! Nodes are committed transactions, reads of several items, single operations, each group's part of a strong scan, and each
//! condition that did not hold (a read). An unknown write is a node only if an operation saw its value, and no other unknown
//! write writes the same to the key. A version that was seen, and whose writer cannot be told, has a node of its own, without a
//! time.
//!
//! An unknown transaction of which one write was seen took effect as a whole. So its conditions held, and each of its other
//! writes, though no operation saw it, has a place between two versions of its key: see [`places`].
//!
//! Each key by itself is judged by [`super::linear`]; that a state was seen which a transaction wrote that was not committed,
//! there too.
//!
//! The same graph is made a second time with the lengths of lists ([`super::lists`]) for versions, which the store does not make
//! up.

use super::{Initial, Options, Violation, lists, render, scan};
use ringseed::base::Key;
use ringseed::history::{Action, Condition, Data, Failure, FailureReason, ItemAction, Outcome, Record, TransactionItem};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

mod places;

use places::{Open, Search};

/// Judges a history whose tokens are merged.
///
/// # Errors
/// A shortest cycle that was found.
pub fn check(history: &[Record], options: &Options) -> Result<(), Violation> {
    let Options { partitions, list_prefix, initial, .. } = *options;
    judge(history, &Judge { partitions, list_prefix: None, initial, options })?;
    match list_prefix {
        Some(prefix) if history.iter().any(|record| accesses(record).iter().any(|a| a.key.bytes().starts_with(prefix))) => {
            judge(history, &Judge { partitions, list_prefix, initial, options })
        }
        _ => Ok(()),
    }
}

fn judge(history: &[Record], judge: &Judge<'_>) -> Result<(), Violation> {
    let (graph, slots, effective) = Graph::new(history, judge)?;
    graph.acyclic()?;
    if judge.list_prefix.is_some() || judge.initial == Initial::Anything {
        return Ok(());
    }
    let mut search = Search::new(&graph, judge, &slots, effective);
    match (search.succeeds(), search.stuck) {
        (true, _) => Ok(()),
        (false, stuck) => Err(graph.has_no_place(stuck)),
    }
}

struct Judge<'a> {
    partitions: Option<u32>,
    /// Keys that begin so are judged by their lengths.
    list_prefix: Option<&'a [u8]>,
    initial: Initial,
    options: &'a Options,
}

impl Judge<'_> {
    /// Whether the key is judged by its length.
    fn is_list(&self, key: &Key) -> bool {
        self.list_prefix.is_some_and(|prefix| key.bytes().starts_with(prefix))
    }

    /// The version that the key is judged by; `None` when nothing is known.
    fn version(&self, access: &Access<'_>) -> Option<u64> {
        match access.state {
            _ if !self.is_list(access.key) => Some(access.version),
            State::Value(value) => lists::length(value),
            State::Before(value) => lists::length(Some(value))?.checked_sub(1),
            State::Unseen | State::Unknown => None,
        }
    }
}

/// What an operation did to one key.
struct Access<'a> {
    key: &'a Key,
    version: u64,
    write: bool,
    state: State<'a>,
    /// Accesses of one operation with different parts took effect at instants of their own.
    part: u32,
}

/// The state of the key that it saw, or left.
#[derive(Clone, Copy)]
enum State<'a> {
    Value(Option<&'a Data>),
    /// The one from which this was made.
    Before(&'a Data),
    /// Something.
    Unseen,
    /// Something, or nothing.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why<'a> {
    Overwritten { key: &'a Key, version: u64, next: u64 },
    Seen(&'a Key, u64),
    SeenBefore { key: &'a Key, version: u64, next: u64 },
    Time,
}

struct Node<'a> {
    /// `None`: an instant, or a write of which only the version is known.
    record: Option<&'a Record>,
    ghost: Option<(&'a Key, u64)>,
    start: u64,
    end: Option<u64>,
}

#[derive(Default)]
struct Slot {
    writer: Option<usize>,
    readers: Vec<usize>,
}

struct Graph<'a> {
    nodes: Vec<Node<'a>>,
    edges: Vec<Vec<(usize, Why<'a>)>>,
    /// Unknown operations that write something.
    unknown: Vec<usize>,
    /// Keys that some operation deletes, or may have.
    deleted: BTreeSet<&'a Key>,
    seen: Seen<'a>,
    /// At which versions something was there, whatever it was.
    present: BTreeSet<(&'a Key, u64)>,
    /// Keys whose absence was seen with the version of a delete floor.
    floors: BTreeSet<&'a Key>,
}

type Slots<'a> = BTreeMap<&'a Key, BTreeMap<u64, Slot>>;
/// The values that were seen at versions; `None`: absent.
type Seen<'a> = BTreeMap<(&'a Key, u64), Option<&'a Data>>;

impl<'a> Graph<'a> {
    /// Of the versions of keys, and of the unknown operations that are known to have taken effect.
    fn new(history: &'a [Record], judge: &Judge<'_>) -> Result<(Graph<'a>, Slots<'a>, BTreeSet<usize>), Violation> {
        let deleted = history.iter().flat_map(deletes).collect();
        let mut graph = Graph {
            nodes: Vec::new(),
            edges: Vec::new(),
            unknown: Vec::new(),
            deleted,
            seen: Seen::new(),
            present: BTreeSet::new(),
            floors: BTreeSet::new(),
        };
        let mut slots = Slots::new();
        for record in history {
            let mut parts: BTreeMap<u64, usize> = BTreeMap::new();
            for access in accesses(record) {
                let Some(version) = judge.version(&access) else { continue };
                match access.state {
                    State::Value(value) => _ = graph.seen.insert((access.key, version), value),
                    State::Before(_) | State::Unseen => _ = graph.present.insert((access.key, version)),
                    State::Unknown => {}
                }
                if is_eventual(&record.action) {
                    continue;
                }
                let part = match (&record.action, judge.partitions) {
                    (Action::Scan { .. }, Some(partitions)) => u64::from(scan::group_of(access.key, partitions).0),
                    // Where the groups are not known, every item may be one of its own.
                    (Action::Scan { .. }, None) => parts.len() as u64,
                    _ => u64::from(access.part),
                };
                let node = *parts.entry(part).or_insert_with(|| graph.add(Some(record), record.start, record.end));
                let slot = slots.entry(access.key).or_default().entry(version).or_default();
                if !access.write {
                    slot.readers.push(node);
                } else if let Some(other) = slot.writer.replace(node) {
                    return Err(twice(access.key, version, [graph.nodes[other].record, Some(record)]));
                }
            }
            // What a transaction that was committed asked of a key, and wrote the key.
            let told = matches!(record.outcome, Outcome::Written { .. } | Outcome::Transacted { .. });
            if let Some(&node) = parts.get(&0).filter(|_| told && judge.list_prefix.is_none()) {
                for (key, version) in versions_before(record, &graph.deleted) {
                    graph.note_present(key, version);
                    slots.entry(key).or_default().entry(version).or_default().readers.push(node);
                }
            }
        }
        let effective = graph.recover(history, judge, &mut slots);
        graph.forget(judge, &mut slots);
        graph.give_ghosts(&mut slots);
        graph.connect(&mut slots);
        graph.keep_time();
        Ok((graph, slots, effective))
    }

    /// An item had this version, if it is one.
    fn note_present(&mut self, key: &'a Key, version: u64) {
        if version > 0 {
            self.present.insert((key, version));
        }
    }

    fn add(&mut self, record: Option<&'a Record>, start: u64, end: Option<u64>) -> usize {
        self.nodes.push(Node { record, ghost: None, start, end });
        self.edges.push(Vec::new());
        self.nodes.len() - 1
    }

    /// Finds the unknown operations that took effect, by the values that were seen.
    fn recover(&mut self, history: &'a [Record], judge: &Judge<'_>, slots: &mut Slots<'a>) -> BTreeSet<usize> {
        let mut writers: BTreeMap<(&Key, &Data), Vec<usize>> = BTreeMap::new();
        // What an increment would leave is not known: any number may be of it.
        let mut incremented: BTreeMap<&Key, Vec<usize>> = BTreeMap::new();
        let mut nodes: BTreeMap<usize, usize> = BTreeMap::new();
        for (at, record) in history.iter().enumerate().filter(|(_, record)| matches!(record.outcome, Outcome::Unknown { .. })) {
            if record.action.is_write() && !written(record).is_empty() {
                let node = self.add(Some(record), record.start, None);
                nodes.insert(at, node);
                self.unknown.push(node);
            }
            for put in puts(record) {
                writers.entry(put).or_default().push(at);
            }
            increments(record).into_iter().for_each(|key| incremented.entry(key).or_default().push(at));
        }
        let mut effective = BTreeSet::new();
        for (&(key, version), &value) in &self.seen {
            let Some(value) = value else { continue };
            let put = writers.get(&(key, value)).into_iter().flatten();
            let added = incremented.get(key).into_iter().flatten().filter(|_| value.number().is_some());
            let mut may_be = put.chain(added).copied();
            let (Some(writer), None) = (may_be.next(), may_be.next()) else { continue };
            let free = |slots: &Slots<'_>, key| {
                slots.get(key).and_then(|slots| slots.get(&version)).is_none_or(|slot| slot.writer.is_none())
            };
            if version == 0 || !free(slots, key) {
                continue;
            }
            let record = &history[writer];
            let node = nodes[&writer];
            effective.insert(node);
            slots.entry(key).or_default().entry(version).or_default().writer = Some(node);
            let (Some(partitions), None) = (judge.partitions, judge.list_prefix) else { continue };
            // What one transaction writes in one group has one version.
            let group = scan::group_of(key, partitions);
            for other in written(record).into_iter().filter(|other| *other != key && scan::group_of(other, partitions) == group) {
                if free(slots, other) {
                    slots.entry(other).or_default().entry(version).or_default().writer = Some(node);
                }
            }
        }
        // They took effect, so their conditions held.
        for &node in effective.iter().filter(|_| judge.list_prefix.is_none()) {
            let record = self.nodes[node].record.expect("it has one");
            for (key, version) in versions_before(record, &self.deleted) {
                self.note_present(key, version);
                slots.entry(key).or_default().entry(version).or_default().readers.push(node);
            }
        }
        effective
    }

    /// Absence that was seen with the version of a delete floor was not written then: what saw it saw the state before, if that is
    /// absence, too.
    fn forget(&mut self, judge: &Judge<'_>, slots: &mut Slots<'a>) {
        for (&key, slots) in slots.iter_mut().filter(|(key, _)| !judge.is_list(key)) {
            let mut before = (0, true);
            for version in slots.keys().copied().collect::<Vec<u64>>() {
                let absent = match slots[&version].writer {
                    Some(writer) => self.nodes[writer].record.is_some_and(|record| deletes(record).contains(&key)),
                    None => self.seen.get(&(key, version)).is_none_or(Option::is_none) && !self.present.contains(&(key, version)),
                };
                let is_floor = absent && slots[&version].writer.is_none() && judge.options.may_be_floor(version);
                if is_floor {
                    self.floors.insert(key);
                }
                if is_floor && before.1 {
                    let readers = slots.remove(&version).map(|slot| slot.readers).unwrap_or_default();
                    slots.entry(before.0).or_default().readers.extend(readers);
                } else {
                    before = (version, absent);
                }
            }
        }
    }

    /// Everything else that was seen was written by some operation, some time.
    fn give_ghosts(&mut self, slots: &mut Slots<'a>) {
        for (&key, slots) in slots {
            for (&version, slot) in slots.iter_mut().filter(|(version, slot)| **version > 0 && slot.writer.is_none()) {
                let node = self.add(None, 0, None);
                self.nodes[node].ghost = Some((key, version));
                slot.writer = Some(node);
            }
        }
    }

    /// The edges of each key.
    fn connect(&mut self, slots: &mut Slots<'a>) {
        for (&key, slots) in slots {
            let mut previous: Option<(u64, &Slot)> = None;
            for (&version, slot) in slots.iter() {
                if let Some(writer) = slot.writer {
                    for &reader in &slot.readers {
                        self.edge(writer, reader, Why::Seen(key, version));
                    }
                    if let Some((before, earlier)) = previous {
                        if let Some(overwritten) = earlier.writer {
                            self.edge(overwritten, writer, Why::Overwritten { key, version: before, next: version });
                        }
                        for &reader in &earlier.readers {
                            self.edge(reader, writer, Why::SeenBefore { key, version: before, next: version });
                        }
                    }
                }
                previous = Some((version, slot));
            }
        }
    }

    fn edge(&mut self, from: usize, to: usize, why: Why<'a>) {
        // A transaction that sees what it overwrites comes after itself in no way that matters.
        if from != to {
            self.edges[from].push((to, why));
        }
    }

    /// The edges of real time.
    fn keep_time(&mut self) {
        let mut instants: Vec<(u64, bool, usize)> = Vec::with_capacity(self.nodes.len() * 2);
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.record.is_some()) {
            instants.push((node.start, false, at));
            instants.extend(node.end.map(|end| (end, true, at)));
        }
        // At one instant begins come before ends: operations that touch may have overlapped.
        instants.sort_unstable();
        let mut last = None;
        for (time, is_end, node) in instants {
            if !is_end {
                if let Some(last) = last {
                    self.edge(last, node, Why::Time);
                }
                continue;
            }
            let instant = self.add(None, time, None);
            if let Some(last) = last {
                self.edge(last, instant, Why::Time);
            }
            self.edge(node, instant, Why::Time);
            last = Some(instant);
        }
    }

    fn acyclic(&self) -> Result<(), Violation> {
        match self.component() {
            None => Ok(()),
            Some(component) => Err(self.explain(&self.shortest(&component))),
        }
    }

    /// What the search for places tried in vain.
    fn has_no_place(&self, stuck: Option<Open<'a>>) -> Violation {
        let what = match stuck {
            Some(Open::Write(node, key)) => {
                let record = self.nodes[node].record.map(render::record).unwrap_or_default();
                format!("a write of this transaction was seen, and its write of {key} is nowhere\n  {record}")
            }
            Some(Open::Writer(key, version)) => {
                format!(
                    "{key} v{version} was written by an operation of unknown outcome, and none can have done all else that it does"
                )
            }
            None => "unknown operations have no places".into(),
        };
        Violation { promise: "P2", checker: "serializable", what }
    }

    /// Nodes that can all reach each other, more than one: Tarjan's algorithm (1972), with a stack of its own.
    fn component(&self) -> Option<Vec<usize>> {
        const NEW: usize = usize::MAX;
        let count = self.nodes.len();
        let (mut number, mut low, mut stacked) = (vec![NEW; count], vec![0; count], vec![false; count]);
        let (mut stack, mut next) = (Vec::new(), 0);
        for root in 0..count {
            if number[root] != NEW {
                continue;
            }
            let mut path = vec![(root, 0)];
            while let Some(&mut (node, ref mut edge)) = path.last_mut() {
                if number[node] == NEW {
                    (number[node], low[node], stacked[node]) = (next, next, true);
                    next += 1;
                    stack.push(node);
                }
                if let Some(&(to, _)) = self.edges[node].get(*edge) {
                    *edge += 1;
                    if number[to] == NEW {
                        path.push((to, 0));
                    } else if stacked[to] {
                        low[node] = low[node].min(number[to]);
                    }
                    continue;
                }
                path.pop();
                if let Some(&(parent, _)) = path.last() {
                    low[parent] = low[parent].min(low[node]);
                }
                if low[node] == number[node] {
                    let at = stack.iter().rposition(|&other| other == node).expect("it is on the stack");
                    let component = stack.split_off(at);
                    if component.len() > 1 {
                        return Some(component);
                    }
                    stacked[node] = false;
                }
            }
        }
        None
    }

    /// Of the shortest cycles through some of these nodes, one with the fewest operations.
    fn shortest(&self, component: &[usize]) -> Vec<(usize, Why<'a>)> {
        const TRIED_MAX: usize = 100;
        let inside: BTreeSet<usize> = component.iter().copied().collect();
        let operations = component.iter().copied().filter(|&node| self.is_operation(node));
        let cycles = operations.take(TRIED_MAX).filter_map(|node| self.cycle_through(node, &inside));
        let count = |cycle: &Vec<(usize, Why<'a>)>| cycle.iter().filter(|(node, _)| self.is_operation(*node)).count();
        cycles.min_by_key(count).expect("every operation of a component is in a cycle")
    }

    fn is_operation(&self, node: usize) -> bool {
        self.nodes[node].record.is_some() || self.nodes[node].ghost.is_some()
    }

    /// Nodes, and why each comes before the next; breadth first, passing through instants is free.
    fn cycle_through(&self, from: usize, inside: &BTreeSet<usize>) -> Option<Vec<(usize, Why<'a>)>> {
        let mut came: BTreeMap<usize, (usize, Why<'a>)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for &(to, why) in self.edges[node].iter().filter(|(to, _)| inside.contains(to)) {
                if came.contains_key(&to) {
                    continue;
                }
                came.insert(to, (node, why));
                if to == from {
                    let mut cycle = Vec::new();
                    let mut at = from;
                    while cycle.is_empty() || at != from {
                        let (before, why) = came[&at];
                        cycle.push((before, why));
                        at = before;
                    }
                    cycle.reverse();
                    return Some(cycle);
                }
                if self.is_operation(to) { queue.push_back(to) } else { queue.push_front(to) }
            }
        }
        None
    }

    fn explain(&self, cycle: &[(usize, Why<'a>)]) -> Violation {
        let mut what = "no order explains these operations: each must come before the next, the last before the first".to_owned();
        for &(node, why) in cycle.iter().filter(|(node, _)| self.is_operation(*node)) {
            let who = match (self.nodes[node].record, self.nodes[node].ghost) {
                (Some(record), _) => render::record(record),
                (None, ghost) => {
                    let (key, version) = ghost.expect("an operation without a record is known by its version");
                    format!("whoever wrote {} v{version}", key)
                }
            };
            let why = match why {
                Why::Overwritten { key, version, next } => {
                    format!("it wrote {} v{version}; the next wrote v{next}", key)
                }
                Why::Seen(key, version) => format!("it wrote {} v{version}; the next saw that", key),
                Why::SeenBefore { key, version, next } => {
                    format!("it saw {} v{version}; the next wrote v{next}", key)
                }
                Why::Time => "it had ended when the next began".into(),
            };
            what.push_str(&format!("\n  {who}\n    {why}"));
        }
        Violation { promise: "P2", checker: "serializable", what }
    }
}

fn twice(key: &Key, version: u64, records: [Option<&Record>; 2]) -> Violation {
    let what = format!("key {}: version {version} was written twice{}", key, render::records(records.into_iter().flatten()));
    Violation { promise: "P2", checker: "serializable", what }
}

fn is_eventual(action: &Action) -> bool {
    matches!(action, Action::Get { eventual: true, .. } | Action::Scan { eventual: true, .. })
}

/// The keys that an operation writes.
fn written(record: &Record) -> Vec<&Key> {
    match &record.action {
        Action::Put { key, .. } | Action::Delete { key, .. } | Action::Increment { key, .. } => vec![key],
        Action::Transact { items, .. } => {
            let writes = items.iter().filter(|item| !matches!(item.action, ItemAction::Check | ItemAction::Read));
            writes.map(|item| &item.key).collect()
        }
        _ => Vec::new(),
    }
}

/// The versions that an operation that took effect found, by its conditions.
fn versions_before<'a>(record: &'a Record, deleted: &BTreeSet<&'a Key>) -> Vec<(&'a Key, u64)> {
    let version = |key: &'a Key, condition: &Condition| match condition {
        Condition::Version(version) => Some((key, *version)),
        Condition::Absent if !deleted.contains(key) => Some((key, 0)),
        _ => None,
    };
    match &record.action {
        Action::Put { key, condition, .. } | Action::Delete { key, condition, .. } => {
            version(key, condition).into_iter().collect()
        }
        Action::Transact { items, .. } => items.iter().filter_map(|item| version(&item.key, &item.condition)).collect(),
        _ => Vec::new(),
    }
}

/// The keys that an operation deletes, or may have.
fn deletes(record: &Record) -> Vec<&Key> {
    match &record.action {
        Action::Delete { key, .. } => vec![key],
        Action::Transact { items, .. } => items.iter().filter(|i| i.action == ItemAction::Delete).map(|i| &i.key).collect(),
        _ => Vec::new(),
    }
}

/// The values that an operation puts.
fn puts<'a>(record: &'a Record) -> Vec<(&'a Key, &'a Data)> {
    match &record.action {
        Action::Put { key, value, .. } => vec![(key, value)],
        Action::Transact { items, .. } => {
            let put = |item: &'a TransactionItem| match &item.action {
                ItemAction::Put(value) => Some((&item.key, value)),
                _ => None,
            };
            items.iter().filter_map(put).collect()
        }
        _ => Vec::new(),
    }
}

/// The keys that an operation increments.
fn increments(record: &Record) -> Vec<&Key> {
    match &record.action {
        Action::Increment { key, .. } => vec![key],
        Action::Transact { items, .. } => {
            items.iter().filter(|item| matches!(item.action, ItemAction::Increment(_))).map(|item| &item.key).collect()
        }
        _ => Vec::new(),
    }
}

/// What an operation with a known outcome did.
fn accesses(record: &Record) -> Vec<Access<'_>> {
    let access = |key, version, write, state| Access { key, version, write, state, part: 0 };
    let found = |present| if present { State::Unseen } else { State::Value(None) };
    match (&record.action, &record.outcome) {
        (Action::Get { key, .. }, Outcome::Value { value, version }) => {
            vec![access(key, *version, false, State::Value(value.as_ref()))]
        }
        (Action::Put { key, .. } | Action::Delete { key, .. }, Outcome::ConditionFailed { version, present }) => {
            vec![access(key, *version, false, found(*present))]
        }
        (Action::Put { key, value, .. }, Outcome::Written { version, .. }) => {
            vec![access(key, *version, true, State::Value(Some(value)))]
        }
        (Action::Delete { key, .. }, Outcome::Written { version, .. }) => vec![access(key, *version, true, State::Value(None))],
        (Action::Increment { key, .. }, Outcome::Written { version, .. }) => vec![access(key, *version, true, State::Unseen)],
        (Action::Scan { .. }, Outcome::Scanned { items, .. }) => {
            items.iter().map(|item| access(&item.key, item.version, false, State::Value(Some(&item.value)))).collect()
        }
        (Action::GetMany { keys }, Outcome::Values { items }) => keys
            .iter()
            .zip(items)
            .map(|(key, item)| access(key, item.version, false, State::Value(item.value.as_ref())))
            .collect(),
        (Action::Transact { items, .. }, Outcome::Transacted { results }) => {
            let mut all = Vec::with_capacity(items.len());
            for (item, result) in items.iter().zip(results) {
                let (write, state) = match &item.action {
                    ItemAction::Check if item.condition == Condition::None => (false, State::Unknown),
                    ItemAction::Check => (false, found(item.condition != Condition::Absent)),
                    ItemAction::Read => (false, State::Value(result.value.as_ref())),
                    ItemAction::Put(value) => (true, State::Value(Some(value))),
                    ItemAction::Delete => (true, State::Value(None)),
                    ItemAction::Increment(_) => (true, State::Unseen),
                };
                all.push(access(&item.key, result.version, write, state));
                match (&item.condition, &item.action) {
                    (Condition::Version(expected), ItemAction::Put(value)) => {
                        all.push(access(&item.key, *expected, false, State::Before(value)))
                    }
                    (Condition::Version(expected), _) if write => all.push(access(&item.key, *expected, false, State::Unseen)),
                    _ => {}
                }
            }
            all
        }
        (Action::Transact { items, .. }, Outcome::NotCommitted { failures }) => {
            let seen = |(part, failure): (usize, &Failure)| match failure.reason {
                FailureReason::Condition { version, present } => {
                    let key = &items.get(failure.item as usize)?.key;
                    Some(Access { part: part as u32, ..access(key, version, false, found(present)) })
                }
                FailureReason::Conflict | FailureReason::NotANumber => None,
            };
            failures.iter().enumerate().filter_map(seen).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
