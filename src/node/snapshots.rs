//! Snapshots: a group's state goes from its leader to a member that lacks entries which the leader's log does not hold any more.
//!
//! ```text
//! leader    a member's log ends before the base -> the state of one instant (a clone) -> piece by piece, values read from the log
//! member    each piece is logged -> (acknowledged) -> the last: its state takes the place of the old one, its log begins anew
//! ```
//!
//! **One instant.** What is sent is a clone of the state, as it was when the snapshot was begun: pages of the index are shared
//! until one changes. So the member has, with the last piece, just what the leader had at that index, and the digest in it says
//! so. The leader keeps its log from that index on until the member has it.
//!
//! **Nothing changes before the last piece.** Until then the member is what it was: its log is whole as far as it goes, its votes
//! count, its old state is read from. The last piece is one record: behind it the state is the new one, before it the old one,
//! whenever the node ends. What is sent is committed; so a member takes the new state if it knows less to be committed.
//!
//! **Resumed.** Pieces are in the member's log, so that a restart forgets none: it says which one comes next. A piece is lost, or
//! its answer: the leader asks what became of it, and sends it again. Another leader begins anew, with another state; so does a
//! leader that has restarted. Each snapshot has a name, so that pieces of two are never put together.
//!
//! **One at a time.** A node sends one snapshot, and one piece of it at a time, within a budget of bytes a second.
//!
//! Where the state rots in the leader's log, the snapshot is given up, and tried again when the member asks again: nothing repairs
//! yet.

use super::router::Reader;
use super::{Node, NodeOptions, Work};
use crate::base::limits::COUNTER_MAX;
use crate::base::{Duration, GroupId, Index, NodeId, Place, SegmentId, Sometimes, Term, Time};
use crate::msg::codec::Blob;
use crate::msg::configuration::Configuration;
use crate::msg::log::{LogBase, ValuePlace};
use crate::msg::peer::PeerMessage;
use crate::msg::snapshot::{SnapshotPiece, SnapshotReply};
use crate::msg::transaction::Stored;
use crate::replica;
use crate::state::{Part, State, decode_piece, encode_piece, fold_parts};
use crate::wal::{self, Installing, ReadError, Record};
use bytes::Bytes;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// How many values of a piece are read at a time.
const READS_MAX: usize = 64;
/// What became of a piece is asked after so long; then after twice as long each time, up to [`ASK_MAX`].
const ASK_MIN: Duration = Duration::from_millis(250);
const ASK_MAX: Duration = Duration::from_secs(4);
/// A member that takes no piece for so many support spans is given up, until it asks again.
const SILENCE_SPANS: u32 = 16;
/// For how many times as long the log is kept from where a state ends that was sent, unless its receiver is fed before.
const FED_WITHIN: u32 = 8;
/// How often a member may say that it has lost what it had.
const WENT_BACK_MAX: u32 = 8;
/// Reads that the disk has no time for are asked for again after so long.
const READ_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub struct Snapshots {
    sending: Option<Sending>,
    /// Snapshots that have come whole, until their receivers are fed what comes behind.
    sent: Vec<Sent>,
    /// The one of `asked` that was sent to last: each gets its turn.
    last: Option<(GroupId, NodeId)>,
    /// Members that lack what a group that is led here does not hold any more.
    asked: BTreeSet<(GroupId, NodeId)>,
    /// States that come here, of which not all has come.
    installing: BTreeMap<GroupId, Installing>,
    /// Counts pieces: answers of reads for earlier ones are passed over.
    pieces: u64,
    /// When the next piece may be sent.
    budget_at: Time,
    pub counters: Counters,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Snapshots that a member has whole.
    pub sent: u64,
    pub installed: u64,
    pub bytes_sent: u64,
}

/// A snapshot that a member has whole.
#[derive(Debug)]
struct Sent {
    group: GroupId,
    to: NodeId,
    index: Index,
    at: Time,
}

/// A snapshot on its way to a member.
#[derive(Debug)]
struct Sending {
    group: GroupId,
    to: NodeId,
    /// Of this leadership.
    term: Term,
    base: LogBase,
    /// Names it.
    snapshot: u64,
    state: State,
    /// The last part of the pieces before.
    after: Option<Part<ValuePlace>>,
    number: u64,
    /// Of the parts in the pieces before.
    digest: u64,
    stage: Stage,
    /// When it got on last.
    progress_at: Time,
    /// How often it went back.
    went_back: u32,
}

#[derive(Debug)]
enum Stage {
    /// Values of the piece are being read.
    /// `asked`: how many the log has not answered.
    Reading { parts: Vec<Part<ValuePlace>>, values: Vec<Value>, asked: usize, again_at: Option<Time> },
    /// It is to be sent, or what became of it to be asked, then.
    Whole { piece: Box<SnapshotPiece>, last: Box<Part<ValuePlace>>, digest: u64, at: Time, wait: Duration, is_sent: bool },
}

#[derive(Debug)]
enum Value {
    Wanted(ValuePlace),
    Asked(ValuePlace),
    Read(Bytes),
}

impl Snapshots {
    /// Goes on with what recovery found of a state that comes in pieces.
    pub fn adopt(&mut self, id: GroupId, found: Option<Box<Installing>>, options: &NodeOptions) {
        if let Some(mut installing) = found {
            Sometimes::BootWithPartOfState.reached();
            installing.state.set_leaf_bytes(options.limits.leaf_bytes);
            installing.state.set_deleted_kept(options.deleted_kept);
            self.installing.insert(id, *installing);
        }
    }

    /// A follower lacks what the group's leader, this node, does not hold any more. It says so again and again until it has the
    /// state: it is there.
    pub fn ask(&mut self, now: Time, id: GroupId, follower: NodeId) {
        match self.sending.as_mut().filter(|sending| (sending.group, sending.to) == (id, follower)) {
            None => _ = self.asked.insert((id, follower)),
            Some(Sending { stage: Stage::Whole { at, wait, is_sent: true, .. }, .. }) if *wait > ASK_MIN => {
                Sometimes::SnapshotOfReturnedMember.reached();
                (*at, *wait) = (now, ASK_MIN);
            }
            Some(_) => {}
        }
    }

    /// The entry behind which the group's log stays, since a state ends there that is being sent, or of which the receiver is not
    /// fed what comes behind it yet.
    pub fn pin(&self, id: GroupId) -> Option<Index> {
        let sending = self.sending.iter().map(|sending| (sending.group, sending.base.index));
        let sent = self.sent.iter().map(|sent| (sent.group, sent.index));
        sending.chain(sent).filter(|(group, _)| *group == id).map(|(_, index)| index).min()
    }

    /// Whether the state that is being sent has values in this segment.
    pub fn reads(&self, segment: SegmentId) -> bool {
        let state = self.sending.as_ref().map(|sending| &sending.state);
        state.is_some_and(|state| state.items().live().of(segment) > 0 || state.has_prepared_in(segment))
    }

    /// The segments with the first pieces of states that are not whole.
    pub fn pieces_from(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.installing.values().map(|installing| installing.from)
    }

    /// Drops what has come of states that the groups, of which these are the commit indexes, have no need of any more.
    pub fn drop_needless(&mut self, commit: impl Fn(&GroupId) -> Option<Index>) {
        self.installing.retain(|id, installing| commit(id).is_some_and(|commit| commit < installing.base.index));
    }

    /// The one that is sent its state next.
    fn next_asked(&mut self) -> Option<(GroupId, NodeId)> {
        let behind = self.last.and_then(|last| self.asked.range((Bound::Excluded(last), Bound::Unbounded)).next());
        let next = behind.or(self.asked.first()).copied()?;
        self.asked.remove(&next);
        self.last = Some(next);
        self.last
    }

    /// How many snapshots are on their way, from here and to here.
    pub fn in_progress(&self) -> (usize, usize) {
        (usize::from(self.sending.is_some()), self.installing.len())
    }

    /// The members that are sent states, and of how many groups.
    pub fn leaving(&self) -> Vec<(NodeId, usize)> {
        let mut leaving: BTreeMap<NodeId, usize> = BTreeMap::new();
        self.asked.iter().for_each(|(_, member)| *leaving.entry(*member).or_default() += 1);
        leaving.into_iter().collect()
    }

    pub fn deadline(&self) -> Option<Time> {
        match &self.sending.as_ref()?.stage {
            Stage::Reading { again_at, .. } => *again_at,
            Stage::Whole { at, .. } => Some(*at),
        }
    }

    pub fn check(&self) {
        if let Some(Sending { stage: Stage::Reading { values, asked, again_at, .. }, .. }) = &self.sending {
            assert_eq!(values.iter().filter(|value| matches!(value, Value::Asked(_))).count(), *asked, "reads are counted");
            assert!(*asked > 0 || again_at.is_some(), "a piece waits for the disk, or for a time to ask it again");
        }
    }
}

impl Node {
    /// Goes on with the snapshot that is being sent, or begins one.
    pub(super) fn advance_snapshot(&mut self, now: Time) {
        let silence = Duration::from_millis(u64::from(self.options.cluster.support_ms)) * SILENCE_SPANS;
        let is_silent =
            |s: &mut Sending| matches!(s.stage, Stage::Whole { is_sent: true, .. }) && now.since(s.progress_at) >= silence;
        if let Some(sending) = self.snapshots.sending.take_if(is_silent) {
            Sometimes::SnapshotGivenUp.reached();
            self.snapshots.asked.remove(&(sending.group, sending.to));
        }
        let groups = &self.groups;
        let leads = |id: &GroupId, term: Option<Term>| {
            groups.get(id).is_some_and(|g| g.replica.leads() && term.is_none_or(|term| g.replica.term() == term))
        };
        if self.snapshots.sending.as_ref().is_some_and(|s| !leads(&s.group, Some(s.term))) {
            Sometimes::SnapshotEndsWithLeadership.reached();
            self.snapshots.sending = None;
        }
        self.snapshots.sent.retain(|sent| {
            let behind = groups.get(&sent.group).map_or(0, |group| group.replica.entries_behind(sent.to));
            behind > 0 && leads(&sent.group, None) && now.since(sent.at) < silence * FED_WITHIN
        });
        if self.snapshots.sending.is_none() {
            // One whose disk is full asks again when it has room.
            let view = self.liveness.view();
            self.snapshots.asked.retain(|(id, to)| leads(id, None) && !view.disk_of(*to).full);
            let Some((id, to)) = self.snapshots.next_asked() else { return };
            self.begin_snapshot(now, id, to);
        }
        let Some(sending) = &mut self.snapshots.sending else { return };
        match &mut sending.stage {
            Stage::Reading { again_at, .. } if again_at.is_some_and(|at| at <= now) => {
                *again_at = None;
                self.read_values(now);
            }
            Stage::Whole { piece, at, wait, is_sent, .. } if *at <= now => {
                *at = now + *wait;
                *wait = (*wait * 2).min(ASK_MAX);
                let (to, group) = (sending.to, sending.group);
                // Behind the piece, on the same way: without its parts it asks what became of them. To send them again would make
                // it worse where the link is slow.
                if !*is_sent {
                    sending.progress_at = now;
                }
                let asks = || SnapshotPiece { digest: None, parts: Blob::default(), values: Blob::default(), ..**piece };
                let piece = if std::mem::replace(is_sent, true) { asks() } else { (**piece).clone() };
                let bytes = piece.parts.0.len() + piece.values.0.len();
                self.snapshots.counters.bytes_sent += bytes as u64;
                let rate = self.options.catch_up_rate.max(1);
                self.snapshots.budget_at = now + Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate);
                self.send(now, to, PeerMessage::Snapshot(group, piece));
            }
            _ => {}
        }
    }

    fn begin_snapshot(&mut self, now: Time, id: GroupId, to: NodeId) {
        let Some(group) = self.groups.get(&id) else { return };
        let index = group.store.state().applied();
        let Some(term) = group.replica.log().term_at(index) else { return };
        Sometimes::SnapshotBegun.reached();
        let snapshot = self.random.next_u64();
        self.snapshots.sending = Some(Sending {
            group: id,
            to,
            term: group.replica.term(),
            base: LogBase { index, term },
            snapshot,
            state: group.store.state().clone(),
            after: None,
            number: 0,
            stage: Stage::Reading { parts: Vec::new(), values: Vec::new(), asked: 0, again_at: None },
            progress_at: now,
            went_back: 0,
            digest: 0,
        });
        self.begin_piece(now);
    }

    /// The piece behind `after`.
    fn begin_piece(&mut self, now: Time) {
        let bytes = self.options.limits.snapshot_piece_bytes;
        let Some(sending) = &mut self.snapshots.sending else { return };
        self.snapshots.pieces += 1;
        let parts = sending.state.piece(sending.after.as_ref(), bytes);
        let value = |place: &ValuePlace| if place.place.length == 0 { Value::Read(Bytes::new()) } else { Value::Wanted(*place) };
        let values = parts.iter().flat_map(Part::values).map(value).collect();
        sending.stage = Stage::Reading { parts, values, asked: 0, again_at: None };
        self.read_values(now);
    }

    /// Asks the log for the next values; with all of them the piece is whole.
    fn read_values(&mut self, now: Time) {
        let (serial, budget_at) = (self.snapshots.pieces, self.snapshots.budget_at);
        let Some(sending) = &mut self.snapshots.sending else { return };
        let Stage::Reading { parts, values, asked, again_at } = &mut sending.stage else { return };
        if *asked > 0 || again_at.is_some() {
            return;
        }
        let wanted = values.iter_mut().enumerate().filter(|(_, value)| matches!(value, Value::Wanted(_)));
        for (nth, value) in wanted.take(READS_MAX) {
            let Value::Wanted(place) = *value else { continue };
            *value = Value::Asked(place);
            *asked += 1;
            let read = Reader::Snapshot.of(sending.group, serial << 24 | nth as u64);
            self.work.push_back(Work::Log(wal::In::ReadValue(read, place)));
        }
        if *asked > 0 {
            return;
        }
        let read = values.drain(..).filter_map(|value| if let Value::Read(bytes) = value { Some(bytes) } else { None });
        let (parts, read) = (std::mem::take(parts), read.collect::<Vec<_>>());
        let Some(last) = parts.last().cloned() else { return };
        let parts: Vec<Part<Stored>> = parts.into_iter().map(Part::stored).collect();
        let folded = fold_parts(sending.digest, &parts);
        let digest = last.is_end().then_some(folded);
        let (parts, values) = encode_piece(&parts, &read);
        let LogBase { index, term: of_term } = sending.base;
        let (term, snapshot, number) = (sending.term, sending.snapshot, sending.number);
        let piece = SnapshotPiece { term, index, of_term, snapshot, number, digest, parts, values };
        sending.stage = Stage::Whole {
            piece: Box::new(piece),
            last: Box::new(last),
            digest: folded,
            at: budget_at.max(now),
            wait: ASK_MIN,
            is_sent: false,
        };
    }

    /// A value that was asked for a piece.
    pub(super) fn on_snapshot_value(&mut self, now: Time, id: GroupId, tag: u64, result: Result<Bytes, ReadError>) {
        let (serial, nth) = (tag >> 24, (tag & 0xff_ffff) as usize);
        let is_current = serial == self.snapshots.pieces;
        if let Err(ReadError::Corrupt { place, why }) = &result {
            self.tell_rot(id, None, *place, why.clone());
        }
        let Some(sending) = self.snapshots.sending.as_mut().filter(|_| is_current) else { return };
        let Stage::Reading { parts, values, asked, again_at } = &mut sending.stage else { return };
        let Some(value) = values.get_mut(nth) else { return };
        match (result, &*value) {
            (Ok(bytes), Value::Asked(_)) => *value = Value::Read(bytes),
            (Err(ReadError::Overloaded), Value::Asked(place)) => {
                *value = Value::Wanted(*place);
                *again_at = Some(now + READ_AGAIN);
            }
            (Err(ReadError::Corrupt { place, .. }), _) => {
                // It begins again once the value is repaired, when the member is fed again.
                Sometimes::SnapshotOfRottenState.reached();
                let lies_there = |part: &&Part<ValuePlace>| part.values().any(|value| value.place == place);
                let key = parts.iter().find(lies_there).and_then(|part| match part {
                    Part::Item { key, .. } => Some(key.clone()),
                    _ => None,
                });
                self.snapshots.sending = None;
                if let Some(key) = key {
                    let _ = self.begin_repair(now, id, key, place, None);
                }
                return;
            }
            (_, Value::Wanted(_) | Value::Read(_)) => return,
        }
        *asked -= 1;
        self.read_values(now);
    }

    /// What came of a piece.
    pub(super) fn on_snapshot_reply(&mut self, now: Time, from: NodeId, id: GroupId, reply: SnapshotReply) {
        let Some(sending) = &mut self.snapshots.sending else { return };
        if (sending.group, sending.to, sending.snapshot) != (id, from, reply.snapshot) {
            return;
        }
        let Stage::Whole { last, digest, is_sent, at, .. } = &mut sending.stage else { return };
        if reply.number != sending.number {
            Sometimes::SnapshotAnswerLate.reached();
            return;
        }
        let is_last = last.is_end();
        match reply.wanted {
            None => {
                Sometimes::SnapshotSent.reached();
                self.snapshots.counters.sent += 1;
                let index = sending.base.index;
                self.snapshots.sent.push(Sent { group: id, to: from, index, at: now });
                self.snapshots.sending = None;
                self.work.push_back(Work::Replica(id, replica::In::Installed(from, index)));
            }
            Some(wanted) if wanted == sending.number + 1 && !is_last => {
                (sending.after, sending.number, sending.digest) = (Some((**last).clone()), wanted, *digest);
                sending.progress_at = now;
                self.begin_piece(now);
            }
            Some(wanted) if wanted == sending.number => {
                // It was lost.
                Sometimes::SnapshotPieceLost.reached();
                (*is_sent, *at) = (false, now.max(self.snapshots.budget_at));
            }
            Some(wanted) if sending.went_back < WENT_BACK_MAX => {
                // It has lost some: syncing is relaxed.
                Sometimes::SnapshotGoesBack.reached();
                sending.went_back += 1;
                self.seek_piece(now, wanted);
            }
            Some(_) => self.snapshots.sending = None,
        }
    }

    /// Goes to the piece of this number: pieces of one state end at the same parts each time. From the first if there is none.
    fn seek_piece(&mut self, now: Time, wanted: u64) {
        let bytes = self.options.limits.snapshot_piece_bytes;
        let Some(sending) = &mut self.snapshots.sending else { return };
        (sending.after, sending.number, sending.digest) = (None, 0, 0);
        while sending.number < wanted {
            let parts = sending.state.piece(sending.after.as_ref(), bytes);
            let last = parts.last().cloned();
            if last.as_ref().is_none_or(Part::is_end) {
                (sending.after, sending.number, sending.digest) = (None, 0, 0);
                break;
            }
            let parts: Vec<Part<Stored>> = parts.into_iter().map(Part::stored).collect();
            sending.digest = fold_parts(sending.digest, &parts);
            (sending.after, sending.number) = (last, sending.number + 1);
        }
        self.begin_piece(now);
    }

    /// A piece of a state comes from the group's leader.
    pub(super) fn on_snapshot_piece(&mut self, now: Time, from: NodeId, id: GroupId, piece: SnapshotPiece) {
        let Some(group) = self.groups.get(&id) else { return };
        if !group.replica.follows(from, piece.term) {
            Sometimes::SnapshotOfOtherTerm.reached();
            return;
        }
        let base = LogBase { index: piece.index, term: piece.of_term };
        let (snapshot, number) = (piece.snapshot, piece.number);
        let named = (snapshot, number);
        let largest = base.index.0.max(number);
        if largest > COUNTER_MAX || base.term == Term::ZERO || base.term > piece.term {
            return;
        }
        if base.index <= group.replica.commit() {
            Sometimes::SnapshotOutdated.reached();
            self.snapshots.installing.remove(&id);
            return self.reply_to_piece(now, from, id, named, None);
        }
        let known = self.snapshots.installing.get(&id).filter(|known| (known.snapshot, known.base) == (snapshot, base));
        let wanted = known.map_or(0, |known| known.wanted);
        let asks = piece.parts.0.is_empty();
        if asks || number != wanted {
            Sometimes::SnapshotPieceRepeated.when(!asks && number < wanted);
            return self.reply_to_piece(now, from, id, named, Some(wanted));
        }
        if self.log.room().is_full() {
            Sometimes::SnapshotWaitsForRoom.reached();
            return;
        }
        let Some((parts, is_last)) = decode_piece(&piece.parts.0, &piece.values.0, base.index) else { return };
        if is_last != piece.digest.is_some() {
            return;
        }
        let known = self.snapshots.installing.remove(&id);
        Sometimes::SnapshotReplaced.when(known.as_ref().is_some_and(|known| known.snapshot != snapshot));
        let mut state = State::in_leaves_of(self.options.limits.leaf_bytes);
        state.set_deleted_kept(self.options.deleted_kept);
        let fresh = Installing { base, snapshot, wanted: 0, from: SegmentId(0), state, digest: 0 };
        let mut installing = known.filter(|_| number > 0).unwrap_or(fresh);
        let digest = fold_parts(installing.digest, &parts);
        if piece.digest.is_some_and(|told| told != digest) || !installing.state.fits(&parts) {
            // What came is not what was sent: from the first again.
            return self.reply_to_piece(now, from, id, named, Some(0));
        }
        let joins = is_last && group.replica.log().term_at(base.index) == Some(base.term);
        let (parts_bytes, values) = (piece.parts.0, piece.values.0);
        let length = values.len() as u32;
        let record = Record::Piece { group: id, base, snapshot, number, is_last, joins, parts: parts_bytes, values };
        let place = self.append_copy(now, record);
        let area = Place { segment: place.segment, offset: place.offset + place.length - length, length };
        if installing.wanted == 0 {
            installing.from = place.segment;
        }
        installing.state.install_piece(parts, area);
        installing.digest = digest;
        installing.wanted += 1;
        if is_last {
            self.install(now, id, installing);
            return self.reply_to_piece(now, from, id, named, None);
        }
        let wanted = installing.wanted;
        self.snapshots.installing.insert(id, installing);
        self.reply_to_piece(now, from, id, named, Some(wanted));
    }

    /// It leaves once all pieces so far are durable.
    fn reply_to_piece(&mut self, now: Time, to: NodeId, id: GroupId, named: (u64, u64), wanted: Option<u64>) {
        let reply = SnapshotReply { snapshot: named.0, number: named.1, wanted };
        self.send(now, to, PeerMessage::SnapshotReply(id, reply));
    }

    /// The state is whole: it takes the place of what there was.
    fn install(&mut self, now: Time, id: GroupId, installed: Installing) {
        let first = || Configuration::of(self.placement.replicas(id).to_vec());
        let configuration = installed.state.configuration().cloned().unwrap_or_else(first);
        let Some(group) = self.groups.get_mut(&id) else { return };
        Sometimes::SnapshotInstalled.reached();
        self.snapshots.counters.installed += 1;
        let before = group.store.state().tokens().size();
        group.store.install(installed.state, now);
        self.token_bytes = self.token_bytes + group.store.state().tokens().size() - before;
        self.checkpoints.replace(id, installed.from);
        self.work.push_back(Work::Replica(id, replica::In::Install(installed.base, Box::new(configuration))));
        self.drain(now);
    }
}
