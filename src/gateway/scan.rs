//! Pages of items over all partitions.
//!
//! A page costs what it returns. Each partition *lists* its first keys, with versions and lengths, from its index; the lists are
//! merged. Only the values of what is in the page are read, from the partitions that listed them, if they are still as listed. So
//! each partition's part shows the instant of its list. If an item has changed meanwhile the page is begun anew. After [`TRIES`]
//! that failed, or for an eventual read (whose replicas need not agree), each partition answers with keys and values at once.
//!
//! A partition is asked for a little more than its share of the page. A list that was cut short says where it would go on. (It
//! may be cut by its limit, by the bytes of a part, by what one step may look at, or before what a transaction is about to
//! write.) Keys from there on are not known, so the page ends before the smallest such key: it may have fewer items than were
//! asked for, or none, and says where to go on.

use super::{Caller, Gateway, Out};
use crate::actor::{Context, Outbox};
use crate::base::{ConnId, GroupId, Index, Key, Sometimes, Time, Version};
use crate::msg::client::{Item, ResponseBody, Scan, Scanned};
use crate::msg::operation::{Consistency, Rejection};
use crate::msg::peer::{Listing, Outcome, Task};
use crate::msg::transaction::{ItemResult, Seen};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Parts of one scan in progress at once; bounds what a scan holds in memory.
const SCAN_PARTS_AT_ONCE: usize = 16;
/// How often a page is listed and read before it is asked for with its values at once.
const TRIES: u32 = 3;
/// How many items more than its fair share of the page a partition is asked for, beyond twice that share.
const SHARE_SPARE: u32 = 16;

#[derive(Debug)]
pub struct Gather {
    conn: ConnId,
    id: u64,
    scan: Scan,
    deadline: Time,
    phase: Phase,
    tries: u32,
    /// An item has changed since it was listed.
    changed: bool,
    /// The next partition's group to ask.
    next_group: Option<GroupId>,
    parts_out: usize,
    items: BTreeMap<Key, Found>,
    /// Bytes of keys and values in `items`.
    size: usize,
    /// Keys from here on are not in the page.
    bound: Option<Key>,
    read_at: Vec<(GroupId, Index)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listing,
    /// The values of what is listed.
    Reading,
    /// Keys and values at once.
    Whole,
}

/// An item of the page.
#[derive(Debug)]
struct Found {
    group: GroupId,
    version: Version,
    /// Of the value, in bytes.
    length: usize,
    value: Bytes,
}

impl Gather {
    fn new(conn: ConnId, id: u64, scan: Scan, deadline: Time) -> Gather {
        let phase = if scan.consistency == Consistency::Eventual { Phase::Whole } else { Phase::Listing };
        Gather {
            conn,
            id,
            scan,
            deadline,
            phase,
            tries: 0,
            changed: false,
            next_group: None,
            parts_out: 0,
            items: BTreeMap::new(),
            size: 0,
            bound: None,
            read_at: Vec::new(),
        }
    }

    /// The parts that are waited for, of which there is one at least.
    pub(super) fn parts_out(&self) -> usize {
        assert!(self.parts_out > 0, "a scan waits for a part");
        self.parts_out
    }

    /// Begins the page anew.
    fn again(&mut self, phase: Phase, first: Option<GroupId>) {
        (self.phase, self.changed, self.next_group, self.size, self.bound) = (phase, false, first, 0, None);
        self.items.clear();
        self.read_at.clear();
    }

    /// How many items each of so many partitions is asked for.
    fn share(&self, partitions: u32) -> u32 {
        let limit = self.scan.items_max() as u32;
        limit.min(2 * limit / partitions.max(1) + SHARE_SPARE)
    }

    fn merge_whole(&mut self, group: GroupId, part: Scanned, size_max: usize) {
        self.read_at.extend(part.read_at);
        let found = |item: Item| (item.key, Found { group, version: item.version, length: item.value.len(), value: item.value });
        self.merge(part.items.into_iter().map(found), part.next, size_max);
    }

    fn merge_list(&mut self, group: GroupId, part: Listing, size_max: usize) {
        self.read_at.push((group, part.read_at));
        let found = |item: crate::msg::peer::ListedItem| {
            let (version, length) = (item.measure.version, item.measure.length as usize);
            (item.key, Found { group, version, length, value: Bytes::new() })
        };
        self.merge(part.items.into_iter().map(found), part.next, size_max);
    }

    /// Takes one partition's items, and drops what is beyond the page.
    fn merge(&mut self, items: impl Iterator<Item = (Key, Found)>, next: Option<Key>, size_max: usize) {
        if let Some(next) = next
            && self.bound.as_ref().is_none_or(|bound| next < *bound)
        {
            self.bound = Some(next);
        }
        for (key, found) in items {
            self.size += key.size() + found.length;
            self.items.insert(key, found);
        }
        let limit = self.scan.items_max();
        loop {
            let count = self.items.len();
            let beyond =
                self.items.last_key_value().is_some_and(|(key, _)| self.bound.as_ref().is_some_and(|bound| key >= bound));
            let too_many = count > limit || (self.size > size_max && count > 1);
            let Some((key, found)) = (beyond || too_many).then(|| self.items.pop_last()).flatten() else { break };
            self.size -= key.size() + found.length;
            if !beyond {
                self.bound = Some(key);
            }
        }
    }

    /// What is to be read of each group.
    fn wanted(&self) -> BTreeMap<GroupId, Vec<Seen>> {
        let mut wanted: BTreeMap<GroupId, Vec<Seen>> = BTreeMap::new();
        for (key, found) in &self.items {
            wanted.entry(found.group).or_default().push(Seen { key: key.clone(), version: found.version });
        }
        wanted
    }

    /// Takes the values of a group's items. `false`: they are not those that were listed.
    fn fill(&mut self, group: GroupId, values: Vec<ItemResult>) -> bool {
        let mut values = values.into_iter();
        for found in self.items.values_mut().filter(|found| found.group == group) {
            match values.next() {
                Some(ItemResult { version, value: Some(value), .. }) if version == found.version => found.value = value,
                _ => return false,
            }
        }
        values.next().is_none()
    }

    fn page(self) -> Scanned {
        let item = |(key, found): (Key, Found)| Item { key, value: found.value, version: found.version };
        Scanned { items: self.items.into_iter().map(item).collect(), next: self.bound, read_at: self.read_at }
    }
}

impl Gateway {
    pub(super) fn begin_scan(
        &mut self,
        cx: &mut Context<'_>,
        conn: ConnId,
        id: u64,
        scan: Scan,
        deadline: Time,
        out: &mut Outbox<Out>,
    ) {
        self.next_id += 1;
        let key = self.next_id;
        let mut gather = Gather::new(conn, id, scan, deadline);
        gather.next_group = self.placement.groups().next();
        self.gathers.insert(key, gather);
        self.ask_parts(cx, key, out);
    }

    /// Asks further partitions, as many at once as may be.
    fn ask_parts(&mut self, cx: &mut Context<'_>, key: u64, out: &mut Outbox<Out>) {
        let partitions = self.placement.partition_count();
        while let Some(gather) = self.gathers.get_mut(&key).filter(|g| g.parts_out < SCAN_PARTS_AT_ONCE) {
            let Some(group) = gather.next_group else { break };
            gather.next_group = (group.0 < partitions).then_some(GroupId(group.0 + 1));
            gather.parts_out += 1;
            let scan = Scan { limit: gather.share(partitions), ..gather.scan.clone() };
            let task = if gather.phase == Phase::Whole { Task::Scan(scan) } else { Task::List(scan) };
            let deadline = gather.deadline;
            self.call(cx, Caller::Scan(key, group), group, task, deadline, out);
        }
    }

    /// A partition's part has come, or cannot.
    pub(super) fn on_part(&mut self, cx: &mut Context<'_>, key: u64, group: GroupId, outcome: Outcome, out: &mut Outbox<Out>) {
        let Some(gather) = self.gathers.get_mut(&key) else { return };
        gather.parts_out -= 1;
        let strange = || Some(Rejection::Invalid("a partition answered a scan with something else".into()));
        let failure = match outcome {
            Outcome::Listed(part) if gather.phase == Phase::Listing => {
                gather.merge_list(group, part, cx.limits.scan_bytes);
                None
            }
            Outcome::Answer(ResponseBody::Scanned(part)) if gather.phase == Phase::Whole => {
                gather.merge_whole(group, part, cx.limits.scan_bytes);
                None
            }
            Outcome::Answer(ResponseBody::Values(values)) if gather.phase == Phase::Reading => {
                if gather.fill(group, values) {
                    None
                } else {
                    strange()
                }
            }
            Outcome::Valid(false) if gather.phase == Phase::Reading => {
                gather.changed = true;
                None
            }
            Outcome::Answer(ResponseBody::Rejected(rejection)) => Some(rejection),
            _ => strange(),
        };
        if let Some(failure) = failure {
            return self.finish_scan(key, Some(failure), out);
        }
        let Some(gather) = self.gathers.get(&key) else { return };
        match gather.parts_out == 0 && gather.next_group.is_none() {
            true => self.next_phase(cx, key, out),
            false => self.ask_parts(cx, key, out),
        }
    }

    /// All parts have come.
    fn next_phase(&mut self, cx: &mut Context<'_>, key: u64, out: &mut Outbox<Out>) {
        let first = self.placement.groups().next();
        let Some(gather) = self.gathers.get_mut(&key) else { return };
        if gather.phase == Phase::Listing && !gather.items.is_empty() {
            gather.phase = Phase::Reading;
            let (wanted, deadline) = (gather.wanted(), gather.deadline);
            gather.parts_out = wanted.len();
            for (group, seen) in wanted {
                self.call(cx, Caller::Scan(key, group), group, Task::ReadListed(seen), deadline, out);
            }
        } else if gather.changed {
            Sometimes::ScanListsAgain.reached();
            Sometimes::ScanReadsWhole.when(gather.tries + 1 >= TRIES);
            gather.tries += 1;
            let phase = if gather.tries < TRIES { Phase::Listing } else { Phase::Whole };
            gather.again(phase, first);
            self.ask_parts(cx, key, out);
        } else {
            self.finish_scan(key, None, out);
        }
    }

    /// Answers the client. No caller waits for parts that are still out.
    fn finish_scan(&mut self, key: u64, failure: Option<Rejection>, out: &mut Outbox<Out>) {
        let Some(gather) = self.gathers.remove(&key) else { return };
        let (conn, id) = (gather.conn, gather.id);
        let body = failure.map_or_else(|| ResponseBody::Scanned(gather.page()), ResponseBody::Rejected);
        self.reply(Caller::Client(conn, id), None, body, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(limit: u32) -> Gather {
        let scan = Scan { prefix: Key::default(), from: Key::default(), limit, consistency: Consistency::Strong };
        Gather::new(ConnId(1), 1, scan, Time::NEVER)
    }

    fn part(keys: &[&'static str], next: Option<&'static str>) -> Scanned {
        let item = |key: &&'static str| Item { key: Key::from(*key), value: Bytes::from("v"), version: Version(1) };
        Scanned { items: keys.iter().map(item).collect(), next: next.map(Key::from), read_at: Vec::new() }
    }

    fn keys(page: &Scanned) -> Vec<&[u8]> {
        page.items.iter().map(|item| item.key.partition_key()).collect()
    }

    #[test]
    fn a_page_ends_where_the_shortest_part_does() {
        let mut gather = gather(100);
        gather.merge_whole(GroupId(1), part(&["a", "d"], Some("f")), 1024 * 1024);
        gather.merge_whole(GroupId(1), part(&["b", "c"], Some("e")), 1024 * 1024);
        gather.merge_whole(GroupId(1), part(&["e", "g"], None), 1024 * 1024);
        let page = gather.page();
        assert_eq!(keys(&page), [b"a", b"b", b"c", b"d"]);
        assert_eq!(page.next, Some(Key::from("e")));
    }

    #[test]
    fn a_page_ends_at_its_limit_and_says_where_to_go_on() {
        let mut gather = gather(2);
        gather.merge_whole(GroupId(1), part(&["a", "d"], None), 1024 * 1024);
        gather.merge_whole(GroupId(1), part(&["b", "c"], None), 1024 * 1024);
        let page = gather.page();
        assert_eq!(keys(&page), [b"a", b"b"]);
        assert_eq!(page.next, Some(Key::from("c")));
    }
}
