//! What a replay has come to: the records of a log, one after the other, each believed with its batch.

use super::checkpoint::Checkpoint;
use super::error::{Bad, RecoverError};
use super::format::{
    Kind, RECORD_FORGOT, RECORD_HEADER_SIZE, RECORD_JOINS, RECORD_LAST, RECORD_PRESENT, RecordHeader, SEGMENT_HEADER_SIZE,
    SegmentHeader, directory_nonce,
};
use super::tail::{Checked, Tail, Torn, damaged, is_epoch};
use super::{Installing, Recovered, RecoveredGroup};
use crate::base::limits::{COUNTER_MAX, KEY_SIZE_MAX};
use crate::base::{Epoch, GroupId, Index, Lsn, NodeId, Place, SegmentId, Sometimes};
use crate::msg::cluster::{Formation, PeerMark};
use crate::msg::codec;
use crate::msg::disk::{DiskError, LogDevice};
use crate::msg::log::{EntrySummary, FactSummary, HardState, LogBase, Manifest, Rooted, ValuePlace};
use crate::msg::transaction::{Stored, TransactionFact};
use crate::state::{Part, State, decode_piece, fold_parts};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Whether a record's numbers are such as are logged.
pub(super) fn is_within_reason(record: &RecordHeader) -> bool {
    record.term.max(record.index).max(record.commit) <= COUNTER_MAX
}

/// What a mark of the log's own node says.
pub(super) fn old_copy(seen: Lsn) -> String {
    format!("peers have seen this log up to position {seen}: it is an old copy, and whatever came behind may be missing")
}

/// Places of damage that are told, at most.
const DAMAGE_MAX: usize = 64;

/// What was replayed so far.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) recovered: RecoveredState,
    pub(super) nonce: u64,
    /// The node whose log it is.
    pub(super) me: NodeId,
    pub(super) tail: Tail,
    pub(super) torn: Option<Torn>,
    /// Batches that no later one seals: sequence and offset, all in the last segment.
    pub(super) unsealed: VecDeque<(u64, u32)>,
    /// The segment to begin with; zero: the first.
    pub(super) start: SegmentId,
    /// Where the manifest that it begins with lies; zero: there is none.
    manifest: Place,
    pub(super) bytes: u64,
    /// The groups that the manifest names, and what was committed of each.
    told: BTreeMap<GroupId, Index>,
    lost: Lost,
    /// Where the log is damaged. `None`: damage ends the replay.
    damage: Option<Vec<Bad>>,
    /// How far peers have seen this node's log, if that is further than this log goes, and no epoch has begun that knows.
    pub(super) outdated: Option<PeerMark>,
}

/// The groups of which something that stood in the log was not read. What comes behind it does not join on: such a group is as it
/// was before, but for its term and vote.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// All but these; or else none but these.
    all: bool,
    but: BTreeSet<GroupId>,
}

impl Lost {
    pub fn is(&self, group: GroupId) -> bool {
        self.all != self.but.contains(&group)
    }

    pub fn lose(&mut self, group: GroupId) {
        let _ = if self.all { self.but.remove(&group) } else { self.but.insert(group) };
    }

    fn find(&mut self, group: GroupId) {
        let _ = if self.all { self.but.insert(group) } else { self.but.remove(&group) };
    }

    pub fn lose_all(&mut self) {
        *self = Lost { all: true, but: BTreeSet::new() };
    }

    /// Those among `told` that are not lost yet stay.
    fn lose_all_but(&mut self, told: impl Iterator<Item = GroupId>) {
        let but = told.filter(|id| !self.is(*id)).collect();
        *self = Lost { all: true, but };
    }

    /// There are no other groups than these.
    fn end<'a>(&mut self, groups: impl Iterator<Item = &'a GroupId>) {
        let but = groups.copied().filter(|id| self.is(*id)).collect();
        *self = Lost { all: false, but };
    }

    /// Whether nothing is.
    fn is_nothing(&self) -> bool {
        !self.all && self.but.is_empty()
    }
}

#[derive(Debug, Default)]
pub(super) struct RecoveredState {
    pub(super) epoch: Epoch,
    formation: Option<Formation>,
    peer_marks: BTreeMap<NodeId, PeerMark>,
    pub(super) groups: BTreeMap<GroupId, RecoveredGroup>,
    amnesiac: bool,
}

impl Replay {
    /// One that goes on past damage.
    pub(super) fn past_damage() -> Replay {
        Replay { damage: Some(Vec::new()), ..Replay::default() }
    }

    /// Of any group something may be missing at the log's end.
    pub(super) fn lose_all(&mut self) {
        self.lost.lose_all();
    }

    /// Notes damage: of the groups that it touches something is lost.
    pub(super) fn lose(&mut self, error: RecoverError) -> Result<(), RecoverError> {
        let Some(damage) = &mut self.damage else { return Err(error) };
        let RecoverError::Damaged { segment, offset, what, groups } = error else { return Err(error) };
        match &groups {
            Some(groups) => {
                for id in groups {
                    self.lost.lose(*id);
                    // It had something, whatever else is found of it.
                    self.recovered.groups.entry(*id).or_default();
                }
            }
            None => self.lost.lose_all(),
        }
        if damage.len() < DAMAGE_MAX {
            damage.push(Bad { segment, offset, what, groups });
        }
        Ok(())
    }

    /// Begins with what a checkpoint says.
    pub(super) fn begin_with(&mut self, checkpoint: &Checkpoint) {
        let Manifest { start, epoch, formation, marks, groups, kept: _ } = &checkpoint.manifest;
        (self.start, self.manifest) = (*start, checkpoint.place);
        let state = &mut self.recovered;
        (state.epoch, state.formation) = (*epoch, formation.clone());
        state.peer_marks = marks.iter().copied().collect();
        for Rooted { group, term, vote, commit, amnesiac, .. } in groups {
            let base = checkpoint.roots.get(group).map_or(LogBase::default(), |(_, root)| root.base);
            let found = RecoveredGroup {
                // Not yet what the manifest says: that is no word on entries that others replace until it comes.
                state: HardState { term: *term, vote: *vote, commit: base.index },
                base,
                amnesiac: *amnesiac,
                ..RecoveredGroup::default()
            };
            state.groups.insert(*group, found);
            self.told.insert(*group, *commit);
        }
    }

    pub(super) fn enter(&mut self, id: SegmentId, header: &SegmentHeader) -> Result<(), RecoverError> {
        self.tail.enter(self.start, id, header)?;
        self.nonce = directory_nonce(header.directory);
        self.unsealed.clear();
        Ok(())
    }

    /// Believes a batch.
    pub(super) fn apply(&mut self, segment: SegmentId, batch: &Checked, bytes: &[u8]) -> Result<(), RecoverError> {
        let header = &batch.header;
        while self.unsealed.pop_front_if(|(sequence, _)| *sequence <= header.seals()).is_some() {}
        self.unsealed.push_back((header.sequence, batch.offset));
        for (offset, record, bytes) in batch.records(bytes) {
            if let Err(error) = self.apply_record(segment, offset, &record, bytes) {
                self.lose(error)?;
            }
        }
        self.tail.pass(batch);
        self.bytes += u64::from(header.length);
        Ok(())
    }

    fn apply_record(&mut self, segment: SegmentId, offset: u32, record: &RecordHeader, bytes: &[u8]) -> Result<(), RecoverError> {
        let bad = |what: &str| Err(damaged(segment, offset, what.to_string()));
        let kind = Kind::from_number(record.kind).expect("checked with the batch");
        if !is_within_reason(record) {
            // Its checksum is right, so that it is what was written, by a program that logged what a peer said without looking.
            // It is not believed; and it costs no more than a mark that was never logged.
            return if kind == Kind::PeerMark { Ok(()) } else { bad("a record's numbers are beyond reason") };
        }
        let before_manifest = (segment, offset) < (self.manifest.segment, self.manifest.offset);
        let state = &mut self.recovered;
        match kind {
            Kind::Epoch if !is_epoch(Epoch(record.index)) => return bad("an epoch is beyond reason"),
            Kind::Epoch => {
                state.epoch = state.epoch.max(Epoch(record.index));
                if record.flags & RECORD_FORGOT != 0 {
                    self.outdated = None;
                    state.amnesiac = true;
                    // A manifest behind it tells how its groups have come out of that.
                    let is_told = |id: &GroupId| before_manifest && self.told.contains_key(id);
                    state.groups.iter_mut().filter(|(id, _)| !is_told(id)).for_each(|(_, group)| group.amnesiac = true);
                    self.lost.lose_all_but(self.told.keys().copied().filter(|_| before_manifest));
                }
            }
            Kind::Stands => {
                let id = record.group();
                let group = state.groups.entry(id).or_default();
                let is_told = before_manifest && self.told.contains_key(&id);
                if !is_told {
                    group.amnesiac = record.flags & RECORD_PRESENT == 0;
                }
                let stands = if is_told && group.base.index > record.index() {
                    // All that the copy does not hold was logged behind this.
                    Sometimes::CopyStandsForLost.when(self.lost.is(id));
                    group.entries.clear();
                    true
                } else if !before_manifest && record.index() == Index::ZERO {
                    // Nothing was left of it: the copy is void. Pieces of a state that are here were kept.
                    let installing = group.installing.take();
                    group.forget();
                    group.installing = installing;
                    true
                } else {
                    // An earlier start may have read less.
                    group.truncate_to(LogBase { index: record.index(), term: record.term() }) || is_told && !self.lost.is(id)
                };
                if stands {
                    self.lost.find(id);
                } else {
                    Sometimes::LessThanStoodInLog.reached();
                    self.lost.lose(id);
                }
                if record.flags & RECORD_LAST != 0 {
                    state.amnesiac = false;
                    self.lost.end(state.groups.keys());
                }
            }
            Kind::PeerMark => {
                let (node, mark) = mark_of(record);
                if node == self.me {
                    self.outdated = Some(mark);
                    return bad(&old_copy(mark.durable));
                }
                let known = state.peer_marks.entry(node).or_default();
                *known = mark.max(*known);
            }
            Kind::Formation => match formation_of(record, bytes) {
                Ok(formation) => state.formation = Some(formation),
                Err(why) => return bad(&why),
            },
            Kind::HardState => {
                let group = state.groups.entry(record.group()).or_default();
                let vote = (record.flags & RECORD_PRESENT != 0).then_some(NodeId(record.node));
                // What is committed says nothing of the entries that stood there before others replaced them.
                let commit = if self.lost.is(record.group()) { Index::ZERO } else { Index(record.commit) };
                let commit = group.state.commit.max(commit);
                let older = HardState { commit, ..group.state };
                // A manifest may know of a later term, of which the record is among what is missing.
                let is_older = self.damage.is_some() && record.term() < older.term;
                let vote = if self.damage.is_some() && record.term() == older.term { vote.or(older.vote) } else { vote };
                group.state = if is_older { older } else { HardState { term: record.term(), vote, commit } };
            }
            Kind::Piece if self.lost.is(record.group()) => {}
            Kind::Piece => return self.apply_piece(segment, offset, record, bytes),
            // Copies are read by their places, and of values that were moved the leaves tell.
            Kind::Clean | Kind::CaughtUp | Kind::Leaf | Kind::Parts | Kind::Root | Kind::Manifest | Kind::Moved => {}
            Kind::Noop | Kind::Write | Kind::Transaction | Kind::Configuration if self.lost.is(record.group()) => {}
            Kind::Noop | Kind::Write | Kind::Transaction | Kind::Configuration => {
                return self.apply_entry(segment, offset, record, bytes);
            }
        }
        Ok(())
    }

    /// An entry at an index discards the group's entries from that index on: they were written earlier, and were replaced.
    fn apply_entry(&mut self, segment: SegmentId, offset: u32, record: &RecordHeader, bytes: &[u8]) -> Result<(), RecoverError> {
        let group = self.recovered.groups.entry(record.group()).or_default();
        let last = group.last_index();
        let before_manifest = (segment, offset) < (self.manifest.segment, self.manifest.offset);
        if before_manifest && (record.index() <= group.base.index || group.entries.is_empty() && record.index() > last.next()) {
            // It is in the copy; or it was replaced, with one before it, by an entry that is still to come. One that is in the copy
            // replaced all that was logged behind it before.
            if record.index() <= group.base.index {
                Sometimes::EntryInCopyReplaces.when(!group.entries.is_empty());
                group.entries.clear();
            }
            return Ok(());
        }
        if record.index() <= group.base.index || record.index() > last.next() {
            let what = format!("entry {} of group {} follows entry {last}", record.index, record.group);
            return Err(RecoverError::Damaged { segment, offset, what, groups: Some(BTreeSet::from([record.group()])) });
        }
        Sometimes::ReplayedEntryReplaced.when(record.index() <= last);
        group.entries.truncate((record.index - group.base.index.0) as usize - 1);
        group.state.commit = group.state.commit.max(Index(record.commit));
        let fact = fact_of(segment, offset, record, bytes)?;
        let place = Place { segment, offset, length: record.length };
        group.entries.push(EntrySummary { index: record.index(), term: record.term(), record: place, fact });
        Ok(())
    }

    /// A piece of a state. With the last, the state takes the place of what there was, and the group's log begins at its base:
    /// what stands behind the base stays if the log has that entry.
    fn apply_piece(&mut self, segment: SegmentId, offset: u32, record: &RecordHeader, bytes: &[u8]) -> Result<(), RecoverError> {
        let group = self.recovered.groups.entry(record.group()).or_default();
        let base = LogBase { index: record.index(), term: record.term() };
        if base.index <= group.base.index {
            // It is in the copy that this replay began with. What stood behind it then may have gone with it.
            if record.flags & RECORD_PRESENT != 0 && record.flags & RECORD_JOINS == 0 {
                group.entries.clear();
            }
            return Ok(());
        }
        if record.commit == 0 {
            let state = State::new();
            group.installing = Some(Box::new(Installing { base, snapshot: 0, wanted: 0, from: segment, state, digest: 0 }));
        }
        let value_at = record.value_at();
        let Some((snapshot, parts, is_last)) = piece_of(record, bytes) else {
            let what = format!("a piece of the state of group {} at {} is none", record.group, base.index);
            return Err(RecoverError::Damaged { segment, offset, what, groups: Some(BTreeSet::from([record.group()])) });
        };
        let Some(installing) = group.installing.as_mut().filter(|i| (i.base, i.wanted) == (base, record.commit)) else {
            // Its beginning stands before where the replay begins: it never became whole, or is in the copy. Or it is missing.
            if self.damage.is_some() && record.flags & RECORD_PRESENT != 0 {
                Sometimes::PieceMissing.reached();
                self.lost.lose(record.group());
            }
            return Ok(());
        };
        if record.commit == 0 {
            installing.snapshot = snapshot;
        } else if installing.snapshot != snapshot {
            return Ok(());
        }
        let area = Place { segment, offset: offset + value_at as u32, length: record.length - value_at as u32 };
        installing.digest = fold_parts(installing.digest, &parts);
        if !installing.state.install_piece(parts, area) {
            group.installing = None;
            let what = format!("a piece of the state of group {} at {} contradicts another", record.group, base.index);
            return Err(RecoverError::Damaged { segment, offset, what, groups: Some(BTreeSet::from([record.group()])) });
        }
        installing.wanted += 1;
        if is_last && let Some(installed) = group.installing.take() {
            group.install(*installed);
        }
        Ok(())
    }

    /// Reads what no batch seals: the log writes it once more. A segment's header belongs to its first batch; where the write of
    /// it failed in the middle, one of its two copies may be torn: both are made whole, or the next damage to it would be the
    /// last.
    pub(super) fn keep_unsealed(
        &mut self,
        device: &mut dyn LogDevice,
        segment: SegmentId,
        header: &SegmentHeader,
    ) -> Result<(), RecoverError> {
        let from = match self.unsealed.front() {
            Some((_, offset)) if *offset > SEGMENT_HEADER_SIZE => *offset,
            _ => 0,
        };
        let length = self.tail.end - from;
        Sometimes::UnsealedFromHeader.when(from == 0);
        Sometimes::SeveralBatchesUnsealed.when(self.unsealed.len() > 1);
        let mut bytes = device.read(segment, u64::from(from), length as usize)?;
        if bytes.len() != length as usize {
            return Err(RecoverError::Device(DiskError::Io(format!("segment {segment} became shorter while it was read"))));
        }
        if from == 0 {
            let whole = header.encode();
            Sometimes::TornHeaderMended.when(bytes[..whole.len()] != whole[..]);
            bytes[..whole.len()].copy_from_slice(&whole);
        }
        self.tail.unsealed = Some((Place { segment, offset: from, length }, Bytes::from(bytes)));
        Ok(())
    }

    pub fn finish(mut self) -> Recovered {
        let forgot = !self.lost.is_nothing();
        self.recovered.amnesiac |= self.lost.all;
        for (id, group) in &mut self.recovered.groups {
            group.amnesiac |= self.lost.is(*id);
            if self.lost.is(*id) {
                // What stands behind that may have been replaced since, by what is missing.
                group.entries.truncate(group.committed().len());
            }
            let told = self.told.get(id).copied().filter(|_| !self.lost.is(*id) && !group.is_blank);
            group.state.commit = group.state.commit.max(told.unwrap_or_default());
            // The record of a term may be missing, of which there are entries.
            let term = group.last().term;
            if group.amnesiac && group.state.term < term {
                group.state = HardState { term, vote: None, ..group.state };
            }
            // What was committed was appended before; this is only a bound on what the next layer may rely on.
            group.state.commit = group.state.commit.min(group.last_index());
        }
        let RecoveredState { epoch, formation, peer_marks, groups, amnesiac } = self.recovered;
        // Its own record may be missing: every batch says of which epoch it is.
        let epoch = epoch.max(self.tail.epoch);
        let lossless = !self.tail.lossy;
        Sometimes::RecoveredLossy.when(!lossless);
        let witnessed = self.tail.witness.end().map(|end| end.sequence);
        Sometimes::WitnessBehindLog.when(witnessed.is_some_and(|sequence| sequence + 1 < self.tail.next_sequence));
        Recovered {
            directory: self.tail.directory,
            epoch,
            formation,
            peer_marks,
            groups,
            lossless,
            torn: self.torn,
            forgot,
            amnesiac,
            damage: self.damage.unwrap_or_default(),
            start: self.start.max(SegmentId(1)),
            replayed: self.bytes,
            tail: self.tail,
        }
    }
}

/// What a piece of a state says: the snapshot's name, the parts, and whether it is the last. `None`: it is none.
pub(super) fn piece_of(record: &RecordHeader, bytes: &[u8]) -> Option<(u64, Vec<Part<Stored>>, bool)> {
    let (key, values) = bytes[RECORD_HEADER_SIZE..].split_at(record.key_length as usize);
    let (snapshot, parts) = key.split_first_chunk()?;
    let (parts, is_last) = decode_piece(&Bytes::copy_from_slice(parts), values, record.index())?;
    (is_last == (record.flags & RECORD_PRESENT != 0)).then(|| (u64::from_le_bytes(*snapshot), parts, is_last))
}

/// What a peer mark says, and of which node.
pub(super) fn mark_of(record: &RecordHeader) -> (NodeId, PeerMark) {
    (NodeId(record.node), PeerMark { epoch: Epoch(record.term), durable: Lsn(record.index) })
}

/// The cluster's formation. The error says why there is none.
pub(super) fn formation_of(record: &RecordHeader, bytes: &[u8]) -> Result<Formation, String> {
    let formation = codec::decode(&Bytes::copy_from_slice(&bytes[record.value_at()..]));
    formation.map_err(|error| format!("the cluster's formation cannot be read: {error}"))
}

/// What an entry of the log says.
pub(super) fn fact_of(segment: SegmentId, offset: u32, record: &RecordHeader, bytes: &[u8]) -> Result<FactSummary, RecoverError> {
    let value_at = record.value_at();
    let key_part = || Bytes::copy_from_slice(&bytes[RECORD_HEADER_SIZE..value_at]);
    if record.kind == Kind::Noop.number() {
        Ok(FactSummary::Noop)
    } else if record.kind == Kind::Transaction.number() {
        let fact = transaction_fact(segment, offset, record, bytes);
        fact.map(|fact| FactSummary::Transaction(Box::new(fact)))
            .ok_or_else(|| no_such_entry(segment, offset, record, "step of a transaction"))
    } else if record.kind == Kind::Configuration.number() {
        let configuration = codec::decode(&key_part());
        configuration
            .map(|configuration| FactSummary::Configuration(Box::new(configuration)))
            .map_err(|_| no_such_entry(segment, offset, record, "configuration"))
    } else {
        let value = (record.flags & RECORD_PRESENT != 0).then(|| ValuePlace {
            place: Place { segment, offset: offset + value_at as u32, length: record.length - value_at as u32 },
            checksum: record.value_checksum,
        });
        let Some(key) = record.written_key(key_part()).filter(|key| key.size() <= KEY_SIZE_MAX) else {
            let what = format!("entry {} of group {} has no key that an item may have", record.index, record.group);
            return Err(RecoverError::Damaged { segment, offset, what, groups: Some(BTreeSet::from([record.group()])) });
        };
        Ok(FactSummary::Write { key, value })
    }
}

fn no_such_entry(segment: SegmentId, offset: u32, record: &RecordHeader, name: &str) -> RecoverError {
    let what = format!("entry {} of group {} is no {name}", record.index, record.group);
    RecoverError::Damaged { segment, offset, what, groups: Some(BTreeSet::from([record.group()])) }
}

/// A step of a transaction, with the places of its values.
fn transaction_fact(segment: SegmentId, offset: u32, record: &RecordHeader, bytes: &[u8]) -> Option<TransactionFact<ValuePlace>> {
    let value_at = record.value_at();
    let stored: TransactionFact<Stored> = codec::decode(&Bytes::copy_from_slice(&bytes[RECORD_HEADER_SIZE..value_at])).ok()?;
    let first = offset + value_at as u32;
    stored.resolve(record.length as usize - value_at, |at, stored| ValuePlace {
        place: Place { segment, offset: first + at, length: stored.length },
        checksum: stored.checksum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_beyond_reason_that_an_older_program_logged_is_passed_over() {
        let mut replay = Replay::default();
        let mut apply = |kind: Kind, index| {
            let record = RecordHeader { kind: kind.number(), node: 2, index, term: 1, ..RecordHeader::default() };
            replay.apply_record(SegmentId(1), 1024, &record, &[]).map(|()| replay.recovered.peer_marks.get(&NodeId(2)).copied())
        };
        let known = Some(PeerMark { epoch: Epoch(1), durable: Lsn(7) });
        assert_eq!(apply(Kind::PeerMark, 7), Ok(known));
        assert_eq!(apply(Kind::PeerMark, COUNTER_MAX + 1), Ok(known));
        assert!(apply(Kind::HardState, u64::MAX).is_err());
        assert!(apply(Kind::Epoch, COUNTER_MAX).is_err(), "no epoch could follow");
    }
}
