//! Reads of what is applied: one item, or a partition's part of a page. Values that are not in memory are read from the log and
//! verified there.

use super::{Out, Store};
use crate::actor::{Context, Origin, Outbox};
use crate::base::cache::Lent;
use crate::base::limits::{Limits, TRANSACTION_SIZE_MAX};
use crate::base::{Key, Sometimes, Time, Version};
use crate::msg::client::{self, ResponseBody, Scan, Scanned};
use crate::msg::log::ValuePlace;
use crate::msg::operation::Rejection;
use crate::msg::peer::{ListedItem, Listing, Outcome, Task};
use crate::msg::transaction::{ItemResult, Seen, TransactionId};
use crate::state::Item;
use bytes::Bytes;
use std::ops::Bound;

/// What a value that was asked for is for.
#[derive(Debug)]
pub enum Waiting {
    Get {
        origin: Origin,
        key: Key,
        version: Version,
        value: ValuePlace,
        lent: Lent,
    },
    /// The item at `position` of what is being gathered.
    Part {
        gathering: u64,
        position: usize,
        key: Key,
        value: ValuePlace,
    },
    /// A waiter needs it.
    Parked {
        ticket: u64,
        key: Key,
        value: ValuePlace,
    },
}

impl Waiting {
    fn wanted(&self) -> (&Key, ValuePlace) {
        match self {
            Waiting::Get { key, value, .. } | Waiting::Part { key, value, .. } | Waiting::Parked { key, value, .. } => {
                (key, *value)
            }
        }
    }
}

/// A read that waits for a prepared transaction to be resolved.
#[derive(Debug)]
pub struct Blocked {
    pub origin: Origin,
    task: Task,
    deadline: Time,
    /// How often it has waited already.
    waits: u32,
}

/// Several items, some of whose values are on their way.
#[derive(Debug)]
pub struct Gathering {
    origin: Origin,
    page: Page,
    missing: usize,
    _lent: Lent,
}

#[derive(Debug)]
enum Page {
    Scanned(Scanned),
    Many(Vec<ItemResult>),
}

impl Page {
    fn fill(&mut self, position: usize, value: Bytes) {
        match self {
            Page::Scanned(scanned) => scanned.items[position].value = value,
            Page::Many(items) => items[position].value = Some(value),
        }
    }

    fn into_body(self) -> ResponseBody {
        match self {
            Page::Scanned(scanned) => ResponseBody::Scanned(scanned),
            Page::Many(items) => ResponseBody::Values(items),
        }
    }
}

/// What a scan finds in this group.
struct Walk {
    found: Vec<(Key, Item)>,
    next: Option<Key>,
    /// It ends because of a lock.
    at_lock: bool,
}

/// How often a read of several items waits for one of them, before it is told to lock them: of many keys in demand one is always
/// being written.
const WAITS_MAX: u32 = 8;
/// A partition gives at most this part of a page's bytes: pages are merged from many.
const PART_OF_PAGE: usize = 8;

impl Store {
    /// Answers from what is applied now.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, origin: Origin, task: &Task, out: &mut Outbox<Out>) {
        match task {
            Task::Operation(single) => self.get(cx, origin, &single.operation.key, out),
            Task::Scan(scan) | Task::List(scan) => {
                let walk = self.walk(scan, None, cx.limits);
                self.show(cx, origin, task, walk, out);
            }
            Task::ReadMany(keys) => self.read_many(cx, origin, keys.iter(), out),
            Task::Measure(keys) => {
                let measure = |key: &Key| self.state.item(key).measure();
                out.push(Out::Answer(origin, Outcome::Measured(keys.iter().map(measure).collect())));
            }
            Task::ReadSeen(seen) => self.read_seen(cx, origin, seen, true, out),
            Task::ReadListed(seen) => self.read_seen(cx, origin, seen, false, out),
            Task::Transact { .. } | Task::Prepare(_) | Task::Resolve { .. } | Task::Inquire(_) => {
                answer(origin, ResponseBody::Rejected(Rejection::Invalid("this is no read".into())), out);
            }
        }
    }

    /// Answers from what is applied as soon as no prepared transaction is about to write it: it may have been committed already,
    /// and its client told.
    pub(super) fn read_unlocked(
        &mut self,
        cx: &mut Context<'_>,
        origin: Origin,
        task: Task,
        deadline: Time,
        waits: u32,
        out: &mut Outbox<Out>,
    ) {
        let Some((key, id)) = self.in_the_way(&task) else {
            self.read(cx, origin, &task, out);
            return;
        };
        if let Task::Scan(scan) | Task::List(scan) = &task {
            let walk = self.walk(scan, Some(&key), cx.limits);
            // It ends before what is about to be written, rather than wait for it for ever: of a large range some part is always
            // being written.
            if !walk.at_lock || (waits > 0 && !walk.found.is_empty()) {
                Sometimes::ScanEndsAtPrepared.when(walk.at_lock);
                self.show(cx, origin, &task, walk, out);
                return;
            }
        }
        if waits >= WAITS_MAX && matches!(task, Task::ReadMany(_) | Task::Measure(_)) {
            Sometimes::ReadOfManyWaitedTooOften.reached();
            out.push(Out::Answer(origin, Outcome::Valid(false)));
            return;
        }
        Sometimes::ReadWaitsForPrepared.reached();
        Sometimes::ReadWaitsForPreparedAgain.when(waits > 0);
        let ticket = self.tag();
        self.blocked_deadlines.insert((deadline, ticket));
        self.blocked.insert((key, ticket), Blocked { origin, task, deadline, waits });
        self.hurry(cx.now, id);
    }

    /// A key that is asked for and that a prepared transaction will write.
    fn in_the_way(&self, task: &Task) -> Option<(Key, TransactionId)> {
        if self.state.outcomes().locks().is_empty() {
            return None;
        }
        let locked = |key: &Key| self.state.outcomes().locks().exclusive_holder(key).map(|id| (key.clone(), id));
        match task {
            Task::Operation(single) => locked(&single.operation.key),
            Task::ReadMany(keys) | Task::Measure(keys) => keys.iter().find_map(locked),
            Task::Scan(scan) | Task::List(scan) => {
                let first = if scan.from > scan.prefix { &scan.from } else { &scan.prefix };
                self.state.outcomes().locks().exclusive_in(first, &scan.prefix)
            }
            _ => None,
        }
    }

    /// The key is not locked any more: every read that waits for it goes on, or waits for another.
    pub(super) fn unblock(&mut self, cx: &mut Context<'_>, key: &Key, out: &mut Outbox<Out>) {
        let tickets: Vec<u64> =
            self.blocked.range((key.clone(), 0)..=(key.clone(), u64::MAX)).map(|((_, ticket), _)| *ticket).collect();
        for ticket in tickets {
            if let Some(blocked) = self.blocked.remove(&(key.clone(), ticket)) {
                self.blocked_deadlines.remove(&(blocked.deadline, ticket));
                self.read_unlocked(cx, blocked.origin, blocked.task, blocked.deadline, blocked.waits + 1, out);
            }
        }
    }

    pub(super) fn on_blocked_too_long(&mut self, now: Time, out: &mut Outbox<Out>) {
        while let Some((at, ticket)) = self.blocked_deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.blocked_deadlines.remove(&(at, ticket));
            let late = self.blocked.extract_if(.., |(_, other), _| *other == ticket).next();
            if let Some((_, blocked)) = late {
                Sometimes::ReadWaitedTooLong.reached();
                answer(blocked.origin, ResponseBody::Rejected(Rejection::DeadlineExceeded), out);
            }
        }
    }

    /// Answers with the items, if all are as they were seen and, where they are to be `free`, no prepared transaction is about to
    /// write one.
    fn read_seen(&mut self, cx: &mut Context<'_>, origin: Origin, seen: &[Seen], free: bool, out: &mut Outbox<Out>) {
        let unchanged = |seen: &Seen| {
            let version = self.state.item(&seen.key).version;
            version == seen.version && !(free && self.state.outcomes().locks().exclusive_holder(&seen.key).is_some())
        };
        if seen.iter().all(unchanged) {
            self.read_many(cx, origin, seen.iter().map(|seen| &seen.key), out);
        } else {
            Sometimes::ReadItemsHaveChanged.reached();
            out.push(Out::Answer(origin, Outcome::Valid(false)));
        }
    }

    fn read_many<'a>(
        &mut self,
        cx: &mut Context<'_>,
        origin: Origin,
        keys: impl Iterator<Item = &'a Key>,
        out: &mut Outbox<Out>,
    ) {
        let found: Vec<(&Key, Item)> = keys.map(|key| (key, self.state.item(key))).collect();
        let wanted: Vec<Option<(Key, ValuePlace)>> =
            found.iter().map(|(key, item)| Some(((*key).clone(), item.value?))).collect();
        let size: usize = wanted.iter().flatten().map(|(_, value)| value.place.length as usize).sum();
        if size > TRANSACTION_SIZE_MAX {
            answer(origin, ResponseBody::Rejected(Rejection::TooLarge), out);
            return;
        }
        let items = found.iter().map(|(_, item)| ItemResult { version: item.version, number: None, value: None }).collect();
        self.gather(cx, origin, Page::Many(items), wanted, out);
    }

    /// Answers with these values, by position, once all are there.
    fn gather(
        &mut self,
        cx: &mut Context<'_>,
        origin: Origin,
        mut page: Page,
        wanted: Vec<Option<(Key, ValuePlace)>>,
        out: &mut Outbox<Out>,
    ) {
        let Some(lent) = cx.cache.lend(wanted.iter().flatten().map(|(_, value)| value.place.length as usize).sum()) else {
            answer(origin, ResponseBody::Rejected(Rejection::Overloaded), out);
            return;
        };
        let gathering = self.tag();
        let mut missing = 0;
        for (position, wanted) in wanted.into_iter().enumerate() {
            let Some((key, value)) = wanted else { continue };
            if let Some(value) = cx.cache.get(value.place) {
                page.fill(position, value);
                continue;
            }
            missing += 1;
            let tag = self.tag();
            self.waiting.insert(tag, Waiting::Part { gathering, position, key, value });
            out.push(Out::ReadValue(tag, value));
        }
        if missing == 0 {
            answer(origin, page.into_body(), out);
        } else {
            self.gathering.insert(gathering, Gathering { origin, page, missing, _lent: lent });
        }
    }

    /// The callers whose reads wait for a value or for a lock.
    pub(super) fn readers(&self) -> impl Iterator<Item = Origin> {
        let alone = self.waiting.values().filter_map(|waiting| match waiting {
            Waiting::Get { origin, .. } => Some(*origin),
            Waiting::Part { .. } | Waiting::Parked { .. } => None,
        });
        let together = self.gathering.values().map(|gathering| gathering.origin);
        alone.chain(together).chain(self.blocked.values().map(|blocked| blocked.origin))
    }

    pub(super) fn check_reads(&self) {
        for ((key, ticket), blocked) in &self.blocked {
            let holder = self.state.outcomes().locks().exclusive_holder(key);
            assert!(holder.is_some(), "a read of {key} waits for a prepared transaction");
            assert!(self.blocked_deadlines.contains(&(blocked.deadline, *ticket)), "it gives up in time");
        }
        for (tag, gathering) in &self.gathering {
            let is_part = |waiting: &&Waiting| matches!(waiting, Waiting::Part { gathering, .. } if gathering == tag);
            let missing = self.waiting.values().filter(is_part).count();
            assert_eq!(missing, gathering.missing, "what a page lacks is being read");
        }
    }

    /// The key and the value that were asked for with this tag, and have not come yet.
    pub fn wanted(&self, tag: u64) -> Option<(&Key, ValuePlace)> {
        self.waiting.get(&tag).map(Waiting::wanted)
    }

    fn get(&mut self, cx: &mut Context<'_>, origin: Origin, key: &Key, out: &mut Outbox<Out>) {
        let Item { version, value } = self.state.item(key);
        let Some(value) = value else {
            answer(origin, ResponseBody::Value { value: None, version }, out);
            return;
        };
        if let Some(value) = cx.cache.get(value.place) {
            answer(origin, ResponseBody::Value { value: Some(value), version }, out);
            return;
        }
        let Some(lent) = cx.cache.lend(value.place.length as usize) else {
            answer(origin, ResponseBody::Rejected(Rejection::Overloaded), out);
            return;
        };
        let tag = self.tag();
        self.waiting.insert(tag, Waiting::Get { origin, key: key.clone(), version, value, lent });
        out.push(Out::ReadValue(tag, value));
    }

    /// The items that are present, in order of keys from the start of the scan on: as many as may be looked at, shown, and as
    /// many bytes; none from `lock` on.
    fn walk(&self, scan: &Scan, lock: Option<&Key>, limits: &Limits) -> Walk {
        let mut walk = Walk { found: Vec::new(), next: None, at_lock: false };
        let mut size = 0;
        let first = if scan.from > scan.prefix { &scan.from } else { &scan.prefix };
        let limit = scan.items_max();
        let range = self.state.items().range(Bound::Included(first));
        for (visited, (key, item)) in range.take_while(|(key, _)| key.starts_with(&scan.prefix)).enumerate() {
            if lock.is_some_and(|lock| key >= *lock) {
                break;
            }
            let full = item.value.is_some()
                && (walk.found.len() == limit || (size > limits.scan_bytes / PART_OF_PAGE && !walk.found.is_empty()));
            if full || visited == limits.scan_visits {
                walk.next = Some(key);
                return walk;
            }
            let Some(place) = item.value else { continue };
            size += key.size() + place.place.length as usize;
            walk.found.push((key, item));
        }
        walk.at_lock = lock.is_some();
        walk.next = lock.cloned();
        walk
    }

    /// Answers a scan with what was found: keys and measures, or the values, too.
    fn show(&mut self, cx: &mut Context<'_>, origin: Origin, task: &Task, walk: Walk, out: &mut Outbox<Out>) {
        let Walk { found, next, .. } = walk;
        if matches!(task, Task::List(_)) {
            let items = found.into_iter().map(|(key, item)| ListedItem { key, measure: item.measure() }).collect();
            out.push(Out::Answer(origin, Outcome::Listed(Listing { items, next, read_at: self.state.applied() })));
            return;
        }
        let wanted = found.iter().map(|(key, item)| Some((key.clone(), item.value?))).collect();
        let items =
            found.into_iter().map(|(key, item)| client::Item { key, value: Bytes::new(), version: item.version }).collect();
        let scanned = Scanned { items, next, read_at: vec![(self.group, self.state.applied())] };
        self.gather(cx, origin, Page::Scanned(scanned), wanted, out);
    }

    pub(super) fn on_value(&mut self, cx: &mut Context<'_>, tag: u64, value: Result<Bytes, Rejection>, out: &mut Outbox<Out>) {
        match self.waiting.remove(&tag) {
            Some(Waiting::Get { origin, version, value: wanted, lent: _lent, .. }) => match value {
                Ok(value) => {
                    cx.cache.insert(wanted.place, &value);
                    answer(origin, ResponseBody::Value { value: Some(value), version }, out);
                }
                Err(rejection) => answer(origin, ResponseBody::Rejected(rejection), out),
            },
            Some(Waiting::Part { gathering, position, .. }) => self.on_part(gathering, position, value, out),
            Some(Waiting::Parked { ticket, value: wanted, .. }) => self.on_pinned(cx, ticket, wanted.place, value, out),
            None => {}
        }
    }

    fn on_part(&mut self, tag: u64, position: usize, value: Result<Bytes, Rejection>, out: &mut Outbox<Out>) {
        let Some(gathering) = self.gathering.get_mut(&tag) else { return };
        match value {
            Ok(value) => {
                gathering.page.fill(position, value);
                gathering.missing -= 1;
                if gathering.missing > 0 {
                    return;
                }
                if let Some(done) = self.gathering.remove(&tag) {
                    answer(done.origin, done.page.into_body(), out);
                }
            }
            Err(rejection) => {
                Sometimes::PartOfReadUnreadable.reached();
                if let Some(failed) = self.gathering.remove(&tag) {
                    answer(failed.origin, ResponseBody::Rejected(rejection), out);
                }
            }
        }
    }
}

fn answer(origin: Origin, body: ResponseBody, out: &mut Outbox<Out>) {
    out.push(Out::Answer(origin, Outcome::Answer(body)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::{Actor, Committed};
    use crate::base::{GroupId, Place, SegmentId};
    use crate::msg::log::FactSummary;
    use crate::msg::operation::Consistency;
    use crate::msg::transaction::{Age, Attempt, TransactionFact, Write, Writes};
    use crate::state::State;
    use crate::store::In;

    /// Whether a scan of this store is answered at once, by keys.
    fn listed(store: &mut Store, prefix: &'static str, from: &'static str, limit: u32) -> Option<Vec<Key>> {
        let (mut random, mut cache) = (
            crate::base::random::stream(1, "test"),
            crate::base::cache::ValueCache::new(0, &crate::base::limits::Limits::DEFAULT),
        );
        let view = crate::actor::LivenessView::default();
        let mut cx = Context::of_test(&mut random, &view, &mut cache);
        let scan = Scan { prefix: prefix.into(), from: from.into(), limit, consistency: Consistency::Strong };
        let mut out = Outbox::default();
        store.read_unlocked(&mut cx, Origin::Gateway(1), Task::List(scan), Time::NEVER, 0, &mut out);
        match out.pop() {
            Some(Out::Answer(_, Outcome::Listed(listing))) => Some(listing.items.into_iter().map(|item| item.key).collect()),
            _ => None,
        }
    }

    /// The next entry of the log is this.
    fn apply(store: &mut Store, fact: FactSummary) {
        let (mut random, mut cache) = (
            crate::base::random::stream(1, "test"),
            crate::base::cache::ValueCache::new(0, &crate::base::limits::Limits::DEFAULT),
        );
        let view = crate::actor::LivenessView::default();
        let mut cx = Context::of_test(&mut random, &view, &mut cache);
        let index = store.state.applied().next();
        store.handle(&mut cx, In::Apply(Committed { index, fact }), &mut Outbox::default());
    }

    const VALUE: Option<ValuePlace> =
        Some(ValuePlace { place: Place { segment: SegmentId(0), offset: 0, length: 0 }, checksum: 0 });

    #[test]
    fn a_scan_waits_only_for_what_it_would_show() {
        let mut store = Store::new(GroupId(1), State::new(), Time::ZERO);
        for n in 1..=9_u64 {
            apply(&mut store, FactSummary::Write { key: Key::from(format!("k{n}")), value: VALUE });
        }
        let id = TransactionId { home: GroupId(2), attempt: Attempt::FIRST };
        let step = |step| FactSummary::Transaction(Box::new(step));
        let prepare = TransactionFact::Prepare {
            id,
            age: Age::default(),
            floor: Attempt::default(),
            parties: vec![GroupId(1)],
            shared: Vec::new(),
            writes: Writes(vec![Write { key: "k5".into(), value: VALUE }]),
            open: Vec::new(),
        };
        apply(&mut store, step(prepare));
        let keys = |keys: &[&'static str]| Some(keys.iter().map(|key| Key::from(*key)).collect::<Vec<Key>>());
        // What is about to be written lies in the range, but behind what the page shows, or before its start, or has another
        // prefix.
        assert_eq!(listed(&mut store, "", "", 3), keys(&["k1", "k2", "k3"]));
        assert_eq!(listed(&mut store, "k", "k6", 2), keys(&["k6", "k7"]));
        assert_eq!(listed(&mut store, "k6", "", 9), keys(&["k6"]));
        assert!(store.blocked.is_empty());
        // It is among what the page would show.
        assert_eq!(listed(&mut store, "", "k4", 3), None);
        assert_eq!(listed(&mut store, "", "", 9), None);
        assert_eq!(store.blocked.len(), 2);
        apply(&mut store, step(TransactionFact::Resolve { id, commit: false }));
        assert_eq!(listed(&mut store, "", "k4", 3), keys(&["k4", "k5", "k6"]));
    }

    #[test]
    fn a_part_of_a_page_ends_when_it_is_large_but_holds_an_item_however_large_that_is() {
        let part = Limits::DEFAULT.scan_bytes / PART_OF_PAGE;
        for (length, expected) in [(part / 4, 4), (part, 1), (8 * part, 1)] {
            let mut store = Store::new(GroupId(1), State::new(), Time::ZERO);
            let place = Place { segment: SegmentId(0), offset: 0, length: length as u32 };
            for n in 1..=9_u64 {
                let value = Some(ValuePlace { place, checksum: 0 });
                apply(&mut store, FactSummary::Write { key: Key::from(format!("k{n}")), value });
            }
            let scan = Scan { prefix: Key::default(), from: Key::default(), limit: 10, consistency: Consistency::Strong };
            let walk = store.walk(&scan, None, &Limits::DEFAULT);
            let next = Some(Key::from(format!("k{}", expected + 1)));
            assert_eq!((walk.found.len(), walk.next), (expected, next), "values of {length} bytes");
        }
    }

    #[test]
    fn one_step_looks_at_so_many_items_and_a_part_says_where_to_go_on() {
        let mut store = Store::new(GroupId(1), State::new(), Time::ZERO);
        let count = Limits::DEFAULT.scan_visits * 5 / 2;
        for n in 1..=count as u64 {
            let key = Key::from(format!("k{n:06}"));
            apply(&mut store, FactSummary::Write { key, value: VALUE.filter(|_| n == count as u64) });
        }
        let mut from = Key::default();
        for visited in [Limits::DEFAULT.scan_visits, 2 * Limits::DEFAULT.scan_visits] {
            let scan = Scan { prefix: Key::default(), from, limit: 10, consistency: Consistency::Strong };
            let walk = store.walk(&scan, None, &Limits::DEFAULT);
            assert!(walk.found.is_empty(), "all of them are deleted");
            from = walk.next.expect("there is more");
            assert_eq!(from, Key::from(format!("k{:06}", visited + 1)));
        }
        let scan = Scan { prefix: Key::default(), from: from.clone(), limit: 10, consistency: Consistency::Strong };
        let walk = store.walk(&scan, None, &Limits::DEFAULT);
        assert_eq!((walk.found.len(), walk.next), (1, None));
        // Up to a lock, and not beyond.
        let lock = Key::from(format!("k{count:06}"));
        let walk = store.walk(&scan, Some(&lock), &Limits::DEFAULT);
        assert!(walk.at_lock && walk.found.is_empty() && walk.next == Some(lock));
    }
}
