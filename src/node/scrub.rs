//! Scrubbing: each value is read once per interval, so that rot is found, and repaired ([`super::repairs`]), while other members
//! still have whole copies.
//!
//! A pass goes through the groups, and through each group's items in key order, some values at a time. It is spread evenly over the
//! interval by what it reads, or made as fast as [`HURRIED_RATE`] if an operator asks for it. Each epoch begins with another group:
//! of a node that starts often the same values would never be read. What cannot be read for now, or not be repaired since too
//! much is being repaired, is read again; nothing is passed over.
//!
//! A segment that compaction could not empty, since what it is made of has rotted, is emptied by the way: its values are whole, and
//! the index knows where they are.
//!
//! Only values are read: what a checkpoint has copied, and the entries that a start replays, are read by a start.

use super::router::Reader;
use super::{Node, Work};
use crate::base::random::below;
use crate::base::{Duration, GroupId, Key, Sometimes, Time};
use crate::msg::client::{DamageReport, ScrubReport};
use crate::msg::log::ValuePlace;
use crate::wal::{self, ReadError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Values that are read at a time, and items that are looked at for them.
const READS_MAX: usize = 16;
const VISITS_MAX: usize = 1_000;
/// What a value counts for beyond its own length, in bytes: about what a disk reads for it.
const READ_COST: u64 = 4 * 1024;
/// How much a pass that was asked for reads, in bytes a second.
const HURRIED_RATE: u64 = 64 << 20;
/// When what could not be read, or not be repaired, is read again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Scrub {
    pass: Option<Pass>,
    /// Values that are being read, by tag.
    asked: BTreeMap<u64, (Key, ValuePlace)>,
    tags: u64,
    /// When to go on, or to begin the next pass; `None`: never.
    next_at: Option<Time>,
    pub report: ScrubReport,
}

#[derive(Debug)]
struct Pass {
    begun_at: Time,
    /// Groups that are still to be read, the present one last.
    groups: Vec<GroupId>,
    /// Behind this key; `None`: from the first.
    after: Option<Key>,
    step: Step,
    /// What all of the pass costs, about, in bytes.
    total: u64,
    is_hurried: bool,
}

/// Values that are being read.
#[derive(Debug, Default)]
struct Step {
    /// It goes on behind this key; `None`: that was all of the group.
    end: Option<Key>,
    values: u64,
    /// Of these, the ones that have rotted.
    found: u64,
    /// In bytes.
    cost: u64,
    /// Some of it has to be read again.
    again: bool,
}

impl Scrub {
    pub fn deadline(&self) -> Option<Time> {
        self.next_at.filter(|_| self.asked.is_empty())
    }
}

impl Node {
    /// The node's groups are there.
    pub(super) fn start_scrub(&mut self, now: Time) {
        let reads = self.options.scrub_interval > Duration::ZERO && !self.groups.is_empty();
        self.scrub.next_at = reads.then_some(now);
    }

    /// How the last pass went, or goes, and what is lost. `begin`: a pass begins now, as fast as it may be, unless such a one is
    /// under way.
    pub(super) fn damage(&mut self, now: Time, begin: bool) -> DamageReport {
        let is_hurried = self.scrub.pass.as_ref().is_some_and(|pass| pass.is_hurried);
        if begin && !is_hurried && !self.groups.is_empty() && !self.is_sealing() {
            // What was asked for before is read in vain.
            self.scrub.asked.clear();
            self.begin_pass(now, true);
            self.drain(now);
        }
        DamageReport {
            node: self.options.me,
            epoch: self.epoch.count(),
            lost: self.lost_values().collect(),
            to_repair: self.repairs.count() as u64,
            repaired: self.repairs.counters.repaired,
            corrupt_reads: self.counters.corrupt_reads,
            scrub: self.scrub.report,
        }
    }

    /// Goes on with a pass, or begins one.
    pub(super) fn advance_scrub(&mut self, now: Time) {
        if self.scrub.deadline().is_none_or(|at| at > now) {
            return;
        }
        if self.is_sealing() {
            // It may move values, and nothing is logged behind the last record of an epoch.
            self.scrub.next_at = None;
            return;
        }
        match self.scrub.pass.take() {
            Some(pass) => self.read_on(now, pass),
            None => self.begin_pass(now, false),
        }
        self.drain(now);
    }

    fn begin_pass(&mut self, now: Time, is_hurried: bool) {
        let (mut values, mut bytes) = (0, 0);
        for group in self.groups.values() {
            let items = group.store.state().items();
            values += items.present();
            bytes += items.live().segments().map(|(_, bytes)| bytes).sum::<u64>();
        }
        let mut groups: Vec<GroupId> = self.groups.keys().copied().collect();
        let first = below(&mut self.random, groups.len() as u64) as usize;
        groups.rotate_left(first);
        self.scrub.report =
            ScrubReport { passes: self.scrub.report.passes, is_under_way: true, values, ..ScrubReport::default() };
        let total = (bytes + values * READ_COST).max(1);
        self.read_on(now, Pass { begun_at: now, groups, after: None, step: Step::default(), total, is_hurried });
    }

    /// Asks for the next values of a pass.
    fn read_on(&mut self, now: Time, mut pass: Pass) {
        let Some(id) = pass.groups.last().copied() else {
            Sometimes::ScrubPassEnds.reached();
            (self.scrub.report.passes, self.scrub.report.is_under_way) = (self.scrub.report.passes + 1, false);
            let interval = self.options.scrub_interval;
            self.scrub.next_at = (interval > Duration::ZERO).then(|| now.max(pass.begun_at + interval));
            return;
        };
        let Some(group) = self.groups.get(&id) else { return };
        let from = pass.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        pass.step = Step::default();
        for (visited, (key, item)) in group.store.state().items().range(from).enumerate() {
            if visited == VISITS_MAX || self.scrub.asked.len() == READS_MAX {
                break;
            }
            if let Some(value) = item.value {
                pass.step.values += 1;
                pass.step.cost += u64::from(value.place.length) + READ_COST;
                // A value of no bytes lies nowhere.
                if value.place.length > 0 {
                    self.scrub.tags += 1;
                    let tag = self.scrub.tags;
                    self.scrub.asked.insert(tag, (key.clone(), value));
                    self.work.push_back(Work::Log(wal::In::ReadValue(Reader::Scrub.of(id, tag), value)));
                }
            }
            pass.step.end = Some(key);
        }
        self.scrub.pass = Some(pass);
        if self.scrub.asked.is_empty() {
            self.end_step(now);
        }
    }

    /// All that a step has asked for is read.
    fn end_step(&mut self, now: Time) {
        let interval = self.options.scrub_interval;
        let Some(pass) = &mut self.scrub.pass else { return };
        let Step { end, values, found, cost, again } = std::mem::take(&mut pass.step);
        if again {
            self.scrub.next_at = Some(now + AGAIN);
            return;
        }
        self.scrub.report.read += values;
        self.scrub.report.found += found;
        // One look more finds that nothing stands behind the last key.
        if end.is_none() {
            pass.groups.pop();
        }
        pass.after = end;
        let nanos = if pass.is_hurried {
            u128::from(cost) * 1_000_000_000 / u128::from(HURRIED_RATE)
        } else {
            interval.as_nanos() * u128::from(cost) / u128::from(pass.total)
        };
        self.scrub.next_at = Some(now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
    }

    /// A value was read.
    pub(super) fn on_scrub_read(&mut self, now: Time, id: GroupId, tag: u64, result: Result<Bytes, ReadError>) {
        let asked = self.scrub.asked.remove(&tag);
        let mut again = false;
        match (result, asked) {
            (Ok(bytes), Some((key, value))) => {
                self.note_whole((id, key.clone()), value, &bytes);
                self.rescue(now, id, key, value.place, bytes);
            }
            (Ok(_) | Err(ReadError::Overloaded), None) => return,
            (Err(ReadError::Overloaded), Some(_)) => again = true,
            (Err(ReadError::Corrupt { place, why }), None) => return self.tell_rot(id, None, place, why),
            (Err(ReadError::Corrupt { place, why }), Some((key, _))) => {
                Sometimes::ScrubFindsRot.reached();
                self.scrub.pass.iter_mut().for_each(|pass| pass.step.found += 1);
                self.tell_rot(id, Some(key.clone()), place, why);
                again = self.begin_repair(now, id, key, place, None).is_err();
                Sometimes::ScrubWaitsForRepairs.when(again);
            }
        }
        let Some(pass) = &mut self.scrub.pass else { return };
        pass.step.again |= again;
        if self.scrub.asked.is_empty() {
            self.end_step(now);
        }
    }
}
