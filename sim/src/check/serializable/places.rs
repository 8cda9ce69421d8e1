//! Unknown operations that took effect have a place for each of their writes: a search for all of these places at once.
//!
//! The graph of what is known has no cycle when the search begins. It lacks writes that no client was told of. A version whose
//! writer was not told is of one of the unknown operations that may have written it: that one took effect, so its conditions
//! held. And each of its other writes is between two versions of its key, though no operation saw it. Each choice adds edges.
//! Where a choice would close a cycle the next is tried; where none is left, the choice before is taken back. The history is bad
//! if that ends without a place for all.
//!
//! Three things may pass here. Conditions on a value or on presence, and for absence where the key is deleted some time, are
//! judged by [`linear`](super::super::linear) alone, key by key; so are unknown operations on one key, where no unknown
//! transaction writes that. And after [`STEPS_MAX`] choices the search gives up.

use super::{Graph, Judge, Node, Seen, Slot, Slots, deletes, increments, puts, scan, versions_before, written};
use ringseed::base::Key;
use ringseed::history::{Action, Record};
use std::collections::{BTreeMap, BTreeSet};

/// Some hundred are made for a run with many unknown transactions, and nearly none is taken back.
const STEPS_MAX: u32 = 5_000;

/// A version of a key; or an unseen write, which was given its place between two.
struct Place {
    version: Option<u64>,
    /// `None`: no operation is known to have written it.
    writer: Option<usize>,
    readers: Vec<usize>,
}

/// What is to be chosen.
#[derive(Clone, Copy)]
pub(super) enum Open<'a> {
    /// Which operation wrote this version.
    Writer(&'a Key, u64),
    /// Where this operation's unseen write is.
    Write(usize, &'a Key),
}

/// What a choice did, to be taken back.
enum Done<'a> {
    Edge(usize, usize),
    Inserted(&'a Key, usize),
    Wrote(&'a Key, usize),
    Read(&'a Key, usize),
    TookEffect(usize),
}

pub(super) struct Search<'a, 'b> {
    nodes: &'b [Node<'a>],
    partitions: Option<u32>,
    deleted: &'b BTreeSet<&'a Key>,
    seen: &'b Seen<'a>,
    floors: &'b BTreeSet<&'a Key>,
    /// Nodes of the unknown operations that write a key, if one of them is a transaction.
    unknown: BTreeMap<&'a Key, Vec<usize>>,
    forward: Vec<Vec<usize>>,
    backward: Vec<Vec<usize>>,
    keys: BTreeMap<&'a Key, Vec<Place>>,
    /// Which unknown operation has a place on which key.
    placed: BTreeSet<(usize, &'a Key)>,
    effective: BTreeSet<usize>,
    /// Versions whose writers are to be chosen: all of them first, since then it is known what took effect.
    versions: Vec<(&'a Key, u64)>,
    /// Writes whose places are.
    writes: Vec<(usize, &'a Key)>,
    done: Vec<Done<'a>>,
    steps: u32,
    /// The first for which all was tried.
    pub(super) stuck: Option<Open<'a>>,
}

impl<'a, 'b> Search<'a, 'b> {
    /// `effective`: the unknown operations that are known to have taken effect; their conditions are in the graph.
    pub(super) fn new(graph: &'b Graph<'a>, judge: &Judge<'_>, slots: &Slots<'a>, effective: BTreeSet<usize>) -> Search<'a, 'b> {
        let forward: Vec<Vec<usize>> = graph.edges.iter().map(|edges| edges.iter().map(|&(to, _)| to).collect()).collect();
        let mut backward = vec![Vec::new(); forward.len()];
        for (from, edges) in forward.iter().enumerate() {
            edges.iter().for_each(|&to| backward[to].push(from));
        }
        let place = |(&version, slot): (&u64, &Slot)| {
            let told = slot.writer.filter(|&writer| graph.nodes[writer].ghost.is_none());
            Place { version: Some(version), writer: told, readers: slot.readers.clone() }
        };
        let mut unknown: BTreeMap<&Key, Vec<usize>> = BTreeMap::new();
        for &node in &graph.unknown {
            let record = graph.nodes[node].record.expect("an unknown operation is known by its record");
            written(record).into_iter().for_each(|key| unknown.entry(key).or_default().push(node));
        }
        let transacts =
            |node: &usize| graph.nodes[*node].record.is_some_and(|record| matches!(record.action, Action::Transact { .. }));
        unknown.retain(|_, nodes| nodes.iter().any(transacts));
        let mut placed = BTreeSet::new();
        for (&key, slots) in slots {
            placed.extend(slots.values().filter_map(|slot| slot.writer).map(|writer| (writer, key)));
        }
        let mut search = Search {
            nodes: &graph.nodes,
            partitions: judge.partitions,
            deleted: &graph.deleted,
            seen: &graph.seen,
            floors: &graph.floors,
            unknown,
            placed,
            forward,
            backward,
            keys: slots.iter().map(|(&key, slots)| (key, slots.iter().map(place).collect())).collect(),
            versions: Vec::new(),
            writes: Vec::new(),
            done: Vec::new(),
            steps: 0,
            stuck: None,
            effective,
        };
        for (&key, slots) in slots {
            let untold = slots
                .iter()
                .filter(|(version, slot)| **version > 0 && slot.writer.is_none_or(|w| graph.nodes[w].ghost.is_some()));
            for (&version, _) in untold {
                // It may have been deleted before.
                if judge.options.may_be_floor(version) && search.seen.get(&(key, version)).is_some_and(Option::is_none) {
                    continue;
                }
                // Of what no operation can have written, the judge of single keys knows.
                if !search.may_have_written(key, version).is_empty() {
                    search.versions.push((key, version));
                }
            }
        }
        for node in search.effective.clone() {
            search.note_writes(node);
        }
        search
    }

    /// Whether there is a place for everything, as far as the search goes.
    pub(super) fn succeeds(&mut self) -> bool {
        self.choose(0)
    }

    fn choose(&mut self, at: usize) -> bool {
        let open = match (self.versions.get(at), at.checked_sub(self.versions.len()).map(|at| self.writes.get(at))) {
            (Some(&(key, version)), _) => Open::Writer(key, version),
            (None, Some(Some(&(node, key)))) => Open::Write(node, key),
            _ => return true,
        };
        let choices = match open {
            Open::Writer(key, version) if self.place(key, version).is_some_and(|place| place.writer.is_some()) => {
                return self.choose(at + 1);
            }
            Open::Writer(key, version) => self.may_have_written(key, version),
            Open::Write(node, key) if self.placed.contains(&(node, key)) || self.is_forgotten(node, key) => {
                return self.choose(at + 1);
            }
            Open::Write(node, key) => self.gaps(node, key),
        };
        let (done, versions, writes) = (self.done.len(), self.versions.len(), self.writes.len());
        for choice in choices {
            self.steps += 1;
            let fits = match open {
                Open::Writer(key, version) => self.wrote(choice, key, version),
                Open::Write(node, key) => {
                    self.insert(key, choice, Place { version: None, writer: Some(node), readers: Vec::new() });
                    true
                }
            };
            if self.steps > STEPS_MAX || fits && self.choose(at + 1) {
                return true;
            }
            self.take_back(done);
            self.versions.truncate(versions);
            self.writes.truncate(writes);
        }
        self.stuck.get_or_insert(open);
        false
    }

    fn place(&self, key: &Key, version: u64) -> Option<&Place> {
        self.keys.get(key)?.iter().find(|place| place.version == Some(version))
    }

    fn record(&self, node: usize) -> &'a Record {
        self.nodes[node].record.expect("an unknown operation is known by its record")
    }

    fn note_writes(&mut self, node: usize) {
        let keys = written(self.record(node));
        self.writes.extend(keys.into_iter().map(|key| (node, key)));
    }

    /// Unknown operations that may have written this version.
    fn may_have_written(&self, key: &'a Key, version: u64) -> Vec<usize> {
        let seen = self.seen.get(&(key, version)).copied();
        let fits = |node: &usize| {
            let record = self.record(*node);
            let put = puts(record).into_iter().find(|(put, _)| *put == key);
            let may = match put {
                Some((_, value)) => seen.is_none_or(|seen| seen == Some(value)),
                None if deletes(record).contains(&key) => seen.is_none_or(|seen| seen.is_none()),
                None if increments(record).contains(&key) => {
                    seen.is_none_or(|seen| seen.is_some_and(|value| value.number().is_some()))
                }
                None => false,
            };
            may && !self.placed.contains(&(*node, key))
        };
        self.unknown.get(key).into_iter().flatten().copied().filter(fits).collect()
    }

    /// Whether the operation deletes the key, and absence of that was seen with the version of a delete floor: then it may have found
    /// nothing to delete, before or behind what saw that there was nothing.
    fn is_forgotten(&self, node: usize, key: &Key) -> bool {
        self.floors.contains(key) && deletes(self.record(node)).contains(&key)
    }

    /// The unknown operation took effect, and wrote this version. Whether that can be.
    fn wrote(&mut self, node: usize, key: &'a Key, version: u64) -> bool {
        let record = self.record(node);
        // What one transaction writes in one group has one version.
        let together = |other: &&Key| {
            self.partitions.is_some_and(|partitions| scan::group_of(key, partitions) == scan::group_of(other, partitions))
        };
        let keys: Vec<&Key> = written(record).into_iter().filter(|other| *other == key || together(other)).collect();
        if !keys.into_iter().all(|key| self.wrote_version(node, key, version)) {
            return false;
        }
        if self.effective.insert(node) {
            self.done.push(Done::TookEffect(node));
            for (key, version) in versions_before(record, self.deleted) {
                if !self.read_version(node, key, version) {
                    return false;
                }
            }
            self.note_writes(node);
        }
        !self.reachable(&self.forward, node).contains(&node)
    }

    fn wrote_version(&mut self, node: usize, key: &'a Key, version: u64) -> bool {
        if self.placed.contains(&(node, key)) {
            return self.place(key, version).is_some_and(|place| place.writer == Some(node));
        }
        if self.is_forgotten(node, key) && self.place(key, version).is_none() {
            return true;
        }
        let at = self.at_version(key, version);
        let place = &mut self.keys.get_mut(key).expect("it has this version")[at];
        if place.writer.is_some() {
            return false;
        }
        place.writer = Some(node);
        self.placed.insert((node, key));
        self.done.push(Done::Wrote(key, at));
        self.connect(key, at);
        true
    }

    /// Whether any operation can have written what was read.
    fn read_version(&mut self, node: usize, key: &'a Key, version: u64) -> bool {
        let at = self.at_version(key, version);
        let places = self.keys.get_mut(key).expect("it has this version");
        places[at].readers.push(node);
        let writer = places[at].writer;
        self.done.push(Done::Read(key, at));
        if let Some(writer) = writer {
            if writer == node {
                return false;
            }
            self.edge(writer, node);
        } else if version > 0 {
            if self.may_have_written(key, version).is_empty() {
                return false;
            }
            self.versions.push((key, version));
        }
        if let Some(next) = self.keys[key][at + 1..].iter().find_map(|place| place.writer) {
            self.edge(node, next);
        }
        true
    }

    /// The position of this version of the key, which has one then.
    fn at_version(&mut self, key: &'a Key, version: u64) -> usize {
        let places = self.keys.entry(key).or_default();
        let later = |place: &Place| place.version.is_some_and(|other| other >= version);
        let at = places.iter().position(later).unwrap_or(places.len());
        if places.get(at).is_none_or(|place| place.version != Some(version)) {
            self.insert(key, at, Place { version: Some(version), writer: None, readers: Vec::new() });
        }
        at
    }

    /// Where the operation's write may be: behind so many places of the key.
    fn gaps(&self, node: usize, key: &Key) -> Vec<usize> {
        let Some(places) = self.keys.get(key) else { return vec![0] };
        let (after, before) = (self.reachable(&self.forward, node), self.reachable(&self.backward, node));
        let fits = |at: &usize| {
            let ends = [
                places[..*at].iter().rev().find_map(|place| place.version),
                places[*at..].iter().find_map(|place| place.version),
            ];
            let room = match ends {
                // Version 0 is before all.
                [_, Some(0)] => return false,
                [left, Some(right)] => right - left.unwrap_or(0) - 1,
                _ => u64::MAX,
            };
            let is_unseen = |place: &&Place| place.version.is_none();
            let crowd =
                places[..*at].iter().rev().take_while(is_unseen).count() + places[*at..].iter().take_while(is_unseen).count();
            let next = places[*at..].iter().find_map(|place| place.writer);
            let earlier = earlier(places, *at);
            room > crowd as u64
                && !earlier.iter().any(|one| after.contains(one))
                && next.is_none_or(|next| !before.contains(&next) && !earlier.contains(&next))
        };
        (0..=places.len()).filter(fits).collect()
    }

    fn insert(&mut self, key: &'a Key, at: usize, place: Place) {
        self.placed.extend(place.writer.map(|writer| (writer, key)));
        self.keys.entry(key).or_default().insert(at, place);
        self.done.push(Done::Inserted(key, at));
        self.connect(key, at);
    }

    /// The edges of a version's writer, if that is known.
    fn connect(&mut self, key: &'a Key, at: usize) {
        let places = &self.keys[key];
        let Some(writer) = places[at].writer else { return };
        let before = earlier(places, at);
        let mut after = places[at].readers.clone();
        after.extend(places[at + 1..].iter().find_map(|place| place.writer));
        before.into_iter().for_each(|one| self.edge(one, writer));
        after.into_iter().for_each(|one| self.edge(writer, one));
    }

    fn edge(&mut self, from: usize, to: usize) {
        if from != to {
            self.forward[from].push(to);
            self.backward[to].push(from);
            self.done.push(Done::Edge(from, to));
        }
    }

    fn take_back(&mut self, to: usize) {
        while self.done.len() > to {
            match self.done.pop().expect("there is one more") {
                Done::Edge(from, to) => {
                    self.forward[from].pop();
                    self.backward[to].pop();
                }
                Done::Inserted(key, at) => {
                    let place = self.keys.get_mut(key).expect("it has places").remove(at);
                    place.writer.map(|writer| self.placed.remove(&(writer, key)));
                }
                Done::Wrote(key, at) => {
                    let writer = self.keys.get_mut(key).expect("it has places")[at].writer.take();
                    writer.map(|writer| self.placed.remove(&(writer, key)));
                }
                Done::Read(key, at) => _ = self.keys.get_mut(key).expect("it has places")[at].readers.pop(),
                Done::TookEffect(node) => _ = self.effective.remove(&node),
            }
        }
    }

    /// What can be reached from a node; the node itself only over others.
    fn reachable(&self, edges: &[Vec<usize>], node: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            stack.extend(edges[node].iter().filter(|&&to| found.insert(to)));
        }
        found
    }
}

/// The latest writer before this position that is known, and all that read since.
fn earlier(places: &[Place], at: usize) -> Vec<usize> {
    let mut all = Vec::new();
    for place in places[..at].iter().rev() {
        all.extend(&place.readers);
        if let Some(writer) = place.writer {
            all.push(writer);
            break;
        }
    }
    all
}
