//! Reads of what is applied: one item, or a partition's part of a page. Values that are not in memory are read from the log and verified there.

use super::{Out, Store};
use crate::actor::{Context, Origin, Outbox};
use crate::base::Version;
use crate::base::limits::{SCAN_BYTES_MAX, SCAN_ITEMS_MAX};
use crate::msg::client::{Item, Rejection, ResponseBody, Scan, Scanned};
use crate::msg::log::ValuePlace;
use crate::msg::peer::{Outcome, Task};
use bytes::Bytes;
use std::ops::Bound;

/// What a value that was asked for is for.
#[derive(Debug)]
pub enum Waiting {
    Get {
        origin: Origin,
        version: Version,
        place: ValuePlace,
    },
    /// The item at `position` of a scan that is being gathered.
    Scan {
        gathering: u64,
        position: usize,
    },
    /// The writers of `key` wait for it.
    Parked {
        key: Bytes,
    },
}

/// A partition's part of a page, some of whose values are on their way.
#[derive(Debug)]
pub struct Gathering {
    origin: Origin,
    scanned: Scanned,
    missing: usize,
}

/// A partition gives at most this share of a page's bytes: pages are merged from many.
const PART_BYTES_MAX: usize = SCAN_BYTES_MAX / 8;

impl Store {
    /// Answers from what is applied now.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, origin: Origin, task: &Task, out: &mut Outbox<Out>) {
        match task {
            Task::Operation(operation) => self.get(cx, origin, &operation.key, out),
            Task::Scan(scan) => self.scan(cx, origin, scan, out),
            _ => {}
        }
    }

    fn get(&mut self, cx: &mut Context<'_>, origin: Origin, key: &[u8], out: &mut Outbox<Out>) {
        let item = self.index.get(key).copied();
        let version = item.map_or(Version::ZERO, |item| item.version);
        let Some(place) = item.and_then(|item| item.value) else {
            answer(origin, ResponseBody::Value { value: None, version }, out);
            return;
        };
        if let Some(value) = cx.cache.get(place.place) {
            answer(origin, ResponseBody::Value { value: Some(value), version }, out);
            return;
        }
        let tag = self.tag();
        self.waiting.insert(tag, Waiting::Get { origin, version, place });
        out.push(Out::ReadValue(tag, place));
    }

    fn scan(&mut self, cx: &mut Context<'_>, origin: Origin, scan: &Scan, out: &mut Outbox<Out>) {
        let mut scanned = Scanned { items: Vec::new(), next: None, read_at: vec![(self.group, self.applied)] };
        let mut places = Vec::new();
        let mut size = 0;
        let first: &[u8] = if scan.from > scan.prefix { &scan.from } else { &scan.prefix };
        let limit = (scan.limit as usize).clamp(1, SCAN_ITEMS_MAX);
        for (key, item) in self.index.range::<[u8], _>((Bound::Included(first), Bound::Unbounded)) {
            if !key.starts_with(&scan.prefix) {
                break;
            }
            let Some(place) = item.value else { continue };
            if places.len() == limit || (size > PART_BYTES_MAX && !places.is_empty()) {
                scanned.next = Some(Bytes::copy_from_slice(key));
                break;
            }
            size += key.len() + place.place.length as usize;
            scanned.items.push(Item { key: Bytes::copy_from_slice(key), value: Bytes::new(), version: item.version });
            places.push(place);
        }
        let gathering = self.tag();
        let mut missing = 0;
        for (position, place) in places.into_iter().enumerate() {
            if let Some(value) = cx.cache.get(place.place) {
                scanned.items[position].value = value;
                continue;
            }
            missing += 1;
            let tag = self.tag();
            self.waiting.insert(tag, Waiting::Scan { gathering, position });
            out.push(Out::ReadValue(tag, place));
        }
        if missing == 0 {
            answer(origin, ResponseBody::Scanned(scanned), out);
        } else {
            self.gathering.insert(gathering, Gathering { origin, scanned, missing });
        }
    }

    pub(super) fn on_value(&mut self, cx: &mut Context<'_>, tag: u64, value: Result<Bytes, Rejection>, out: &mut Outbox<Out>) {
        match self.waiting.remove(&tag) {
            Some(Waiting::Get { origin, version, place }) => match value {
                Ok(value) => {
                    cx.cache.insert(place.place, &value);
                    answer(origin, ResponseBody::Value { value: Some(value), version }, out);
                }
                Err(rejection) => answer(origin, ResponseBody::Rejected(rejection), out),
            },
            Some(Waiting::Scan { gathering, position }) => self.on_scan_value(gathering, position, value, out),
            Some(Waiting::Parked { key }) => self.unpark(cx, tag, &key, &value, out),
            None => {}
        }
    }

    fn on_scan_value(&mut self, tag: u64, position: usize, value: Result<Bytes, Rejection>, out: &mut Outbox<Out>) {
        let Some(gathering) = self.gathering.get_mut(&tag) else { return };
        match value {
            Ok(value) => {
                gathering.scanned.items[position].value = value;
                gathering.missing -= 1;
                if gathering.missing > 0 {
                    return;
                }
                if let Some(done) = self.gathering.remove(&tag) {
                    answer(done.origin, ResponseBody::Scanned(done.scanned), out);
                }
            }
            Err(rejection) => {
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
