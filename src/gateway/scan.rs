//! Pages of items over all partitions.
//!
//! A part that was cut short says where it would go on. Keys from there on are not known, so the page ends before the smallest such key.

use super::{Caller, Gateway, Out, SCAN_PARTS_AT_ONCE};
use crate::actor::{Context, Outbox};
use crate::base::limits::{SCAN_BYTES_MAX, SCAN_ITEMS_MAX};
use crate::base::{ConnId, GroupId, Index, Time};
use crate::msg::client::{Item, Rejection, ResponseBody, Scan, Scanned};
use crate::msg::peer::Task;
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Debug)]
pub struct Gather {
    conn: ConnId,
    id: u64,
    scan: Scan,
    deadline: Time,
    /// The next partition's group to ask.
    next_group: Option<GroupId>,
    parts_out: usize,
    items: BTreeMap<Bytes, Item>,
    size: usize,
    /// Keys from here on are not in the page.
    bound: Option<Bytes>,
    read_at: Vec<(GroupId, Index)>,
}

impl Gather {
    /// Takes one partition's items, and drops what is beyond the page.
    fn merge(&mut self, part: Scanned) {
        if let Some(next) = part.next
            && self.bound.as_ref().is_none_or(|bound| next < *bound)
        {
            self.bound = Some(next);
        }
        self.read_at.extend(part.read_at);
        for item in part.items {
            self.size += item.key.len() + item.value.len();
            self.items.insert(item.key.clone(), item);
        }
        let limit = (self.scan.limit as usize).clamp(1, SCAN_ITEMS_MAX);
        loop {
            let count = self.items.len();
            let beyond =
                self.items.last_key_value().is_some_and(|(key, _)| self.bound.as_ref().is_some_and(|bound| key >= bound));
            let too_many = count > limit || (self.size > SCAN_BYTES_MAX && count > 1);
            let Some((key, item)) = (beyond || too_many).then(|| self.items.pop_last()).flatten() else { break };
            self.size -= item.key.len() + item.value.len();
            if !beyond {
                self.bound = Some(key);
            }
        }
    }

    fn page(self) -> Scanned {
        Scanned { items: self.items.into_values().collect(), next: self.bound, read_at: self.read_at }
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
        let gather = Gather {
            conn,
            id,
            scan,
            deadline,
            next_group: self.placement.groups().next(),
            parts_out: 0,
            items: BTreeMap::new(),
            size: 0,
            bound: None,
            read_at: Vec::new(),
        };
        self.gathers.insert(key, gather);
        self.ask_parts(cx, key, out);
    }

    /// Asks further partitions, as many at once as may be.
    fn ask_parts(&mut self, cx: &mut Context<'_>, key: u64, out: &mut Outbox<Out>) {
        while let Some(gather) = self.gathers.get_mut(&key).filter(|g| g.parts_out < SCAN_PARTS_AT_ONCE) {
            let Some(group) = gather.next_group else { break };
            let last = group.0 >= self.placement.partition_count();
            gather.next_group = (!last).then_some(GroupId(group.0 + 1));
            gather.parts_out += 1;
            let (task, deadline) = (Task::Scan(gather.scan.clone()), gather.deadline);
            self.call(cx, Caller::Scan(key), group, task, deadline, out);
        }
    }

    /// A partition's part has come, or cannot.
    pub(super) fn on_part(&mut self, cx: &mut Context<'_>, key: u64, body: ResponseBody, out: &mut Outbox<Out>) {
        let Some(gather) = self.gathers.get_mut(&key) else { return };
        gather.parts_out -= 1;
        let failure = match body {
            ResponseBody::Scanned(part) => {
                gather.merge(part);
                None
            }
            ResponseBody::Rejected(rejection) => Some(rejection),
            other => Some(Rejection::Invalid(format!("a partition answered a scan with {other:?}"))),
        };
        let done = gather.parts_out == 0 && gather.next_group.is_none();
        if done || failure.is_some() {
            // Parts that are still out find nobody waiting for them.
            let Some(gather) = self.gathers.remove(&key) else { return };
            let (conn, id) = (gather.conn, gather.id);
            let body = failure.map_or_else(|| ResponseBody::Scanned(gather.page()), ResponseBody::Rejected);
            self.reply(Caller::Client(conn, id), None, body, out);
        } else {
            self.ask_parts(cx, key, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Version;
    use crate::msg::client::Consistency;

    fn gather(limit: u32) -> Gather {
        let scan = Scan { prefix: Bytes::new(), from: Bytes::new(), limit, consistency: Consistency::Strong };
        Gather {
            conn: ConnId(1),
            id: 1,
            scan,
            deadline: Time::NEVER,
            next_group: None,
            parts_out: 0,
            items: BTreeMap::new(),
            size: 0,
            bound: None,
            read_at: Vec::new(),
        }
    }

    fn part(keys: &[&'static str], next: Option<&'static str>) -> Scanned {
        let item = |key: &&'static str| Item { key: Bytes::from(*key), value: Bytes::from("v"), version: Version(1) };
        Scanned { items: keys.iter().map(item).collect(), next: next.map(Bytes::from), read_at: Vec::new() }
    }

    fn keys(page: &Scanned) -> Vec<&[u8]> {
        page.items.iter().map(|item| &*item.key).collect()
    }

    #[test]
    fn a_page_ends_where_the_shortest_part_does() {
        let mut gather = gather(100);
        gather.merge(part(&["a", "d"], Some("f")));
        gather.merge(part(&["b", "c"], Some("e")));
        gather.merge(part(&["e", "g"], None));
        let page = gather.page();
        assert_eq!(keys(&page), [b"a", b"b", b"c", b"d"]);
        assert_eq!(page.next.as_deref(), Some(&b"e"[..]));
    }

    #[test]
    fn a_page_ends_at_its_limit_and_says_where_to_go_on() {
        let mut gather = gather(2);
        gather.merge(part(&["a", "d"], None));
        gather.merge(part(&["b", "c"], None));
        let page = gather.page();
        assert_eq!(keys(&page), [b"a", b"b"]);
        assert_eq!(page.next.as_deref(), Some(&b"c"[..]));
    }
}
