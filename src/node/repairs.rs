//! Repair: a value that has rotted here is fetched from another member of its group, before it is served.
//!
//! ```text
//! a read finds rot -> Fetch(key, version) to one member after the other -> Fetched -> compared with our own checksum
//!                  -> the reads that wait are answered -> the value is appended anew, and the index points at the copy
//!                  -> a checkpoint, so that a boot finds the copy, too
//! ```
//!
//! **Not laundered.** The index, which is in memory and was checked when it was loaded, says what the value's checksum is. What a
//! peer sends counts if it has that length and that checksum. Version and key name one write of the group's log, and all replicas
//! have the same of it.
//!
//! **Nothing is dropped, and nothing is served.** While no member has a whole copy, reads are turned away with
//! [`Rejection::Corrupt`], and the item stays as it is: a member that is away may still have the value. What every other member
//! has read and found to be rotten, too, is *lost*, and told by key ([`super::Effect::Lost`]). It may be an error of the moment:
//! each later read of it, and each scrub, asks once more.
//!
//! **Bounded.** So many repairs are made at a time ([`repairs`](crate::base::limits::Limits::repairs)): beyond, one without
//! progress for which no read waits is put off, or else a read that finds rot is told that the node is overloaded; the next read
//! begins the repair. Of members' questions as many are answered at a time; the others they ask again.

use super::health::{Loss, Rot};
use super::router::Reader;
use super::{Effect, Node, Work};
use crate::base::limits::LOST_REPORTED_MAX;
use crate::base::{Duration, GroupId, Key, NodeId, Place, Sometimes, Time, Version};
use crate::msg::client::LostValue;
use crate::msg::codec::Blob;
use crate::msg::log::ValuePlace;
use crate::msg::operation::Rejection;
use crate::msg::peer::PeerMessage;
use crate::msg::repair::{Fetch, Fetched, MemberCopy};
use crate::msg::transaction::Stored;
use crate::state::{Part, encode_piece};
use crate::store;
use crate::wal::{self, ReadError, Record};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Once all members were asked, the first is asked again after this, and after twice as long each time, up to [`ASK_MAX`]: it
/// may have had to hear first that the version is committed.
const ASK_MIN: Duration = Duration::from_millis(25);
const ASK_MAX: Duration = Duration::from_secs(5);
/// How long a read waits for a repair.
const PATIENCE: Duration = Duration::from_secs(1);
/// The members are not asked for what is lost more often than this.
const LOST_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Repairs {
    /// Values that cannot be read here.
    open: BTreeMap<(GroupId, Key), Repair>,
    /// Those that no other member can read either, as far as was last found.
    lost: BTreeMap<(GroupId, Key), Lost>,
    /// Questions of members whose values are being read, by tag.
    asked: BTreeMap<u64, (NodeId, GroupId, Fetch)>,
    tags: u64,
    /// When a repair is to be looked at.
    look_at: Option<Time>,
    pub counters: Counters,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Values that were written anew, and the ones that were handed to members.
    pub repaired: u64,
    pub lent: u64,
}

/// A value that cannot be read here.
#[derive(Debug)]
struct Repair {
    version: Version,
    value: ValuePlace,
    /// Reads that wait for it, by the store's tags, and until when; in that order.
    waiters: VecDeque<(Time, u64)>,
    /// The members that can still be asked in this turn, the next last.
    left: Vec<NodeId>,
    /// Those whose copy has rotted, too.
    rotten: BTreeSet<NodeId>,
    /// When the next is asked, and how long that one has.
    at: Time,
    wait: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Lost {
    version: Version,
    place: Place,
    /// When that was last found.
    at: Time,
}

impl Repair {
    /// When it is to be looked at.
    fn next(&self) -> Time {
        self.waiters.front().map_or(self.at, |(until, _)| self.at.min(*until))
    }
}

impl Repairs {
    /// Gives up a repair for which no read waits and which makes no progress: the next read, or scrub, begins it again.
    fn put_one_off(&mut self) -> bool {
        let is_idle = |repair: &Repair| repair.waiters.is_empty() && repair.wait >= ASK_MAX;
        let Some(named) = self.open.iter().find(|(_, repair)| is_idle(repair)).map(|(named, _)| named.clone()) else {
            return false;
        };
        Sometimes::RepairPutOff.reached();
        self.open.remove(&named).is_some()
    }

    pub fn deadline(&self) -> Option<Time> {
        self.look_at
    }

    /// Values that cannot be read here.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    fn look(&mut self, at: Time) {
        self.look_at = Some(self.look_at.map_or(at, |held| held.min(at)));
    }

    pub(super) fn check(&self) {
        for repair in self.open.values() {
            let next = repair.next();
            assert!(self.look_at.is_some_and(|at| at <= next), "a repair is looked at in time");
        }
    }
}

impl Node {
    /// A read of the store's brought what is no value of ours: it waits for the repair, or is turned away.
    pub(super) fn on_rotten_read(&mut self, now: Time, id: GroupId, tag: u64, place: Place, why: String) {
        let group = self.groups.get(&id);
        let wanted = group.and_then(|group| group.store.wanted(tag)).map(|(key, wanted)| (key.clone(), wanted));
        self.tell_rot(id, wanted.as_ref().map(|(key, _)| key.clone()), place, why);
        // Else the read is not waited for any more.
        let Some((key, wanted)) = wanted else { return };
        match self.held(id, &key) {
            Some((_, value)) if value.place == place => {
                if let Err(why) = self.begin_repair(now, id, key, place, Some(tag)) {
                    self.work.push_back(Work::Store(id, store::In::Value(tag, Err(why))));
                }
            }
            held => self.read_again(id, tag, wanted, held),
        }
    }

    /// The version and the value that the item has now.
    fn held(&self, id: GroupId, key: &Key) -> Option<(Version, ValuePlace)> {
        let item = self.groups.get(&id)?.store.state().items().get(key)?;
        Some((item.version, item.value?))
    }

    /// A read waits for a value that lies where it has rotted no more: the same may lie elsewhere now.
    fn read_again(&mut self, id: GroupId, tag: u64, wanted: ValuePlace, held: Option<(Version, ValuePlace)>) {
        match held {
            Some((_, value)) if (value.checksum, value.place.length) == (wanted.checksum, wanted.place.length) => {
                Sometimes::RepairedWhileRead.reached();
                self.work.push_back(Work::Log(wal::In::ReadValue(Reader::Store.of(id, tag), value)));
            }
            _ => self.reject_read(id, tag),
        }
    }

    fn reject_read(&mut self, id: GroupId, tag: u64) {
        self.work.push_back(Work::Store(id, store::In::Value(tag, Err(Rejection::Corrupt))));
    }

    /// Says that there is rot.
    pub(super) fn tell_rot(&mut self, group: GroupId, key: Option<Key>, place: Place, why: String) {
        self.counters.corrupt_reads += 1;
        self.effects.push(Effect::Rot(Rot { group, key, place, why }));
    }

    /// Begins to repair the value of an item, for a read that waits for it; if the value still lies at this place.
    ///
    /// # Errors
    /// What the read is told: too many are being repaired, or no member had it a moment ago.
    pub(super) fn begin_repair(
        &mut self,
        now: Time,
        id: GroupId,
        key: Key,
        place: Place,
        waiter: Option<u64>,
    ) -> Result<(), Rejection> {
        let Some((version, value)) = self.held(id, &key).filter(|(_, value)| value.place == place) else { return Ok(()) };
        let named = (id, key);
        let lost = self.repairs.lost.get(&named).filter(|lost| lost.version == version);
        if lost.is_some_and(|lost| now.since(lost.at) < LOST_AGAIN) {
            Sometimes::LostValueRead.reached();
            return if waiter.is_none() { Ok(()) } else { Err(Rejection::Corrupt) };
        }
        Sometimes::LostValueAskedForAgain.when(lost.is_some());
        let is_known = self.repairs.open.get(&named).is_some_and(|repair| repair.value.place == value.place);
        if !is_known {
            let is_full = self.repairs.open.len() >= self.options.limits.repairs && !self.repairs.open.contains_key(&named);
            if is_full && !self.repairs.put_one_off() {
                Sometimes::TooManyRepairs.reached();
                return Err(Rejection::Overloaded);
            }
            Sometimes::RepairBegun.reached();
            let repair = Repair {
                version,
                value,
                waiters: VecDeque::new(),
                left: Vec::new(),
                rotten: BTreeSet::new(),
                at: now,
                wait: ASK_MIN / 2,
            };
            if let Some(before) = self.repairs.open.insert(named.clone(), repair) {
                before.waiters.into_iter().for_each(|(_, tag)| self.reject_read(id, tag));
            }
        }
        let repair = self.repairs.open.get_mut(&named).expect("it was just looked up");
        if let Some(tag) = waiter {
            if repair.waiters.is_empty() {
                // Nobody has waited for it: so the members were asked seldom.
                (repair.at, repair.wait) = (now, ASK_MIN / 2);
            }
            repair.waiters.push_back((now + PATIENCE, tag));
        }
        let at = repair.next();
        self.repairs.look(at);
        Ok(())
    }

    /// A read of the store's has brought a value.
    pub(super) fn on_whole_read(&mut self, id: GroupId, tag: u64, bytes: &Bytes) {
        if self.repairs.open.is_empty() && self.repairs.lost.is_empty() {
            return;
        }
        let Some((key, wanted)) = self.groups.get(&id).and_then(|group| group.store.wanted(tag)) else { return };
        self.note_whole((id, key.clone()), wanted, bytes);
    }

    /// What could not be read for a moment is whole.
    pub(super) fn note_whole(&mut self, named: (GroupId, Key), wanted: ValuePlace, bytes: &Bytes) {
        let id = named.0;
        self.repairs.lost.remove(&named);
        if self.repairs.open.get(&named).is_some_and(|repair| repair.value.place == wanted.place)
            && let Some(repair) = self.repairs.open.remove(&named)
        {
            Sometimes::RottenValueReadable.reached();
            self.compaction.is_repaired(wanted.place.segment);
            for (_, tag) in repair.waiters {
                self.work.push_back(Work::Store(id, store::In::Value(tag, Ok(bytes.clone()))));
            }
        }
    }

    /// Goes on with repairs whose time has come.
    pub(super) fn advance_repairs(&mut self, now: Time) {
        if self.repairs.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.repairs.look_at = None;
        let named: Vec<(GroupId, Key)> = self.repairs.open.keys().cloned().collect();
        for named in named {
            self.advance_repair(now, named);
        }
        self.drain(now);
    }

    fn advance_repair(&mut self, now: Time, named: (GroupId, Key)) {
        let held = self.held(named.0, &named.1);
        let Some(repair) = self.repairs.open.get_mut(&named) else { return };
        if held.is_none_or(|(_, value)| value.place != repair.value.place) {
            Sometimes::RepairOvertakenByWrite.reached();
            let Some(Repair { value, waiters, .. }) = self.repairs.open.remove(&named) else { return };
            waiters.into_iter().for_each(|(_, tag)| self.read_again(named.0, tag, value, held));
            return;
        }
        let Some(group) = self.groups.get(&named.0) else { return };
        let mut late = Vec::new();
        while let Some((_, tag)) = repair.waiters.pop_front_if(|(until, _)| *until <= now) {
            late.push(tag);
        }
        Sometimes::RepairTakesTooLong.when(!late.is_empty());
        let mut asks = None;
        if repair.at <= now {
            if repair.left.is_empty() {
                let configuration = group.replica.configuration();
                let me = self.options.me;
                repair.left = configuration.members().filter(|node| *node != me).collect();
                repair.rotten.retain(|node| configuration.is_member(*node));
                // Those that are up come first.
                let view = self.liveness.view();
                repair.left.sort_by_key(|node| view.supported_by(*node, now).is_some());
                repair.wait = (repair.wait * 2).min(ASK_MAX);
            }
            asks = repair.left.pop();
            repair.at = now + repair.wait;
        }
        let (next, version) = (repair.next(), repair.version);
        self.repairs.look(next);
        for tag in late {
            self.reject_read(named.0, tag);
        }
        match asks {
            Some(to) => self.send(now, to, PeerMessage::Fetch(named.0, Fetch { key: named.1, version })),
            None => self.note_if_lost(now, &named),
        }
    }

    /// A member cannot read a value.
    pub(super) fn on_fetch(&mut self, now: Time, from: NodeId, id: GroupId, fetch: Fetch) {
        if self.groups.get(&id).is_none_or(|group| !group.replica.configuration().is_member(from)) {
            return;
        }
        let Some((_, value)) = self.held(id, &fetch.key).filter(|(version, _)| *version == fetch.version) else {
            Sometimes::FetchOfOtherVersion.reached();
            return self.answer_fetch(now, from, id, fetch, MemberCopy::OtherVersion);
        };
        if let Some(bytes) = self.cache.get(value.place) {
            return self.answer_fetch(now, from, id, fetch, MemberCopy::Whole(Blob(bytes)));
        }
        if self.repairs.asked.len() >= self.options.limits.repairs {
            Sometimes::TooManyFetches.reached();
            return;
        }
        self.repairs.tags += 1;
        let tag = self.repairs.tags;
        self.repairs.asked.insert(tag, (from, id, fetch));
        self.work.push_back(Work::Log(wal::In::ReadValue(Reader::Member.of(id, tag), value)));
        self.drain(now);
    }

    /// The value that a member has asked for was read.
    pub(super) fn on_fetch_read(&mut self, now: Time, tag: u64, result: Result<Bytes, ReadError>) {
        let Some((from, id, fetch)) = self.repairs.asked.remove(&tag) else { return };
        match result {
            Ok(bytes) => self.answer_fetch(now, from, id, fetch, MemberCopy::Whole(Blob(bytes))),
            // The member asks again.
            Err(ReadError::Overloaded) => {}
            Err(ReadError::Corrupt { place, why }) => {
                Sometimes::FetchedCopyRotten.reached();
                self.tell_rot(id, Some(fetch.key.clone()), place, why);
                let _ = self.begin_repair(now, id, fetch.key.clone(), place, None);
                self.answer_fetch(now, from, id, fetch, MemberCopy::Rotten);
            }
        }
    }

    fn answer_fetch(&mut self, now: Time, to: NodeId, id: GroupId, fetch: Fetch, copy: MemberCopy) {
        self.repairs.counters.lent += u64::from(matches!(copy, MemberCopy::Whole(_)));
        let Fetch { key, version } = fetch;
        self.send(now, to, PeerMessage::Fetched(id, Fetched { key, version, copy }));
    }

    /// What a member has of a value that cannot be read here.
    pub(super) fn on_fetched(&mut self, now: Time, from: NodeId, id: GroupId, fetched: Fetched) {
        let named = (id, fetched.key);
        let Some(repair) = self.repairs.open.get_mut(&named).filter(|repair| repair.version == fetched.version) else {
            Sometimes::FetchedTooLate.reached();
            return;
        };
        match fetched.copy {
            MemberCopy::Whole(Blob(bytes)) if repair.value.is_of(&bytes) => return self.settle_repair(now, &named, &bytes),
            MemberCopy::OtherVersion => {
                repair.rotten.remove(&from);
            }
            // Sent as whole, and not what we know the value to be: no better than rot.
            MemberCopy::Rotten | MemberCopy::Whole(_) => {
                repair.rotten.insert(from);
            }
        }
        // The next is asked at once.
        if !repair.left.is_empty() {
            repair.at = now;
            self.repairs.look(now);
        }
        self.note_if_lost(now, &named);
    }

    /// Whether no other member can read the value, either.
    fn note_if_lost(&mut self, now: Time, named: &(GroupId, Key)) {
        let Some(repair) = self.repairs.open.get(named) else { return };
        let Some(group) = self.groups.get(&named.0) else { return };
        let me = self.options.me;
        let has_rotten = |node: NodeId| node == me || repair.rotten.contains(&node);
        let is_lost = group.replica.configuration().members().all(has_rotten);
        if !is_lost {
            return;
        }
        let Some(Repair { version, value, waiters, .. }) = self.repairs.open.remove(named) else { return };
        waiters.into_iter().for_each(|(_, tag)| self.reject_read(named.0, tag));
        let lost = Lost { version, place: value.place, at: now };
        if self.repairs.lost.insert(named.clone(), lost).is_none_or(|before| before.version != version) {
            Sometimes::ValueLost.reached();
            self.effects.push(Effect::Lost(Loss { group: named.0, key: named.1.clone(), version, place: value.place }));
        }
        if self.repairs.lost.len() > LOST_REPORTED_MAX {
            self.repairs.lost.pop_first();
        }
    }

    /// Values that no member had when they were last asked for. What has been written or deleted since is lost no more.
    pub(super) fn lost_values(&self) -> impl Iterator<Item = LostValue> {
        self.repairs.lost.iter().filter_map(|((id, key), lost)| {
            let (version, _) = self.held(*id, key).filter(|(_, value)| value.place == lost.place)?;
            Some(LostValue { group: *id, key: key.clone(), version })
        })
    }

    /// A member has sent the value.
    fn settle_repair(&mut self, now: Time, named: &(GroupId, Key), bytes: &Bytes) {
        let Some(mut repair) = self.repairs.open.remove(named) else { return };
        self.repairs.lost.remove(named);
        for (_, tag) in repair.waiters.drain(..) {
            self.work.push_back(Work::Store(named.0, store::In::Value(tag, Ok(bytes.clone()))));
        }
        self.drain(now);
        let is_there = self.held(named.0, &named.1).is_some_and(|(_, value)| value.place == repair.value.place);
        if !is_there || self.log.room().is_full() {
            if is_there {
                // On a full disk the reads are answered all the same, and the value is fetched again each time.
                Sometimes::RepairWithoutRoom.reached();
                (repair.at, repair.wait) = (now + ASK_MAX, ASK_MAX);
                self.repairs.look(repair.at);
                self.repairs.open.insert(named.clone(), repair);
            }
            return;
        }
        let ValuePlace { place, checksum } = repair.value;
        let stored = Some(Stored { length: place.length, checksum });
        let part = Part::Item { key: named.1.clone(), version: repair.version, value: stored };
        let (_, to) = self.append_values(now, named.0, &[part], std::slice::from_ref(bytes));
        self.point_at(named.0, &named.1, place, to);
        self.checkpoints.moved(named.0);
        self.checkpoints.want();
        self.compaction.is_repaired(place.segment);
        Sometimes::ValueRepaired.reached();
        self.repairs.counters.repaired += 1;
    }

    /// Appends values of a group anew. Returns the length of their record, and where they lie in it, one behind the other.
    pub(super) fn append_values(&mut self, now: Time, group: GroupId, parts: &[Part<Stored>], values: &[Bytes]) -> (u32, Place) {
        let (parts, all) = encode_piece(parts, values);
        let length = all.0.len() as u32;
        let place = self.append_copy(now, Record::Moved { group, parts: parts.0, values: all.0 });
        (place.length, Place { segment: place.segment, offset: place.offset + place.length - length, length })
    }

    /// The index points at the copy of a value.
    pub(super) fn point_at(&mut self, id: GroupId, key: &Key, from: Place, to: Place) {
        let group = self.groups.get_mut(&id).expect("its values were looked up");
        let moved = group.store.relocate(key, from, to);
        assert!(moved, "nothing comes between the look and the move");
        self.cache.moved(from, to);
    }
}
