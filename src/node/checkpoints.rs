//! Checkpoints: the groups' states are copied into the node's log, so that a boot reads the copies, and replays only what stands
//! behind.
//!
//! ```text
//! due -> victims of a compaction are emptied (`compaction.rs`)
//!     -> for each group: [begin: what is applied, and all but the leaves, at one instant]
//!                        -> leaves, as they are when their turn comes -> the other parts -> root
//!     -> manifest -> (durable) -> the groups' logs begin at their new bases
//! ```
//!
//! **Fuzzy.** Leaves are copied one after the other while writes go on. So a copy may hold what entries behind `begin` have
//! brought. The replay from `begin` on finds it there, and leaves it: an item is set only by a version that is not earlier than
//! its own. And a copy may lack a deletion behind `begin` that was forgotten before the leaf was copied: then the replay brings what
//! was deleted, though its value may be on no disk any more, until it comes to the deletion. So nothing is served from a replay that
//! has not come to its end. All else of a state has no versions, and is taken at one instant. What a copy holds is committed, and its
//! entries stand before the copy in the log; the manifest names a commit index that is not below.
//!
//! **Rolling.** A leaf that has not changed since its last copy is not copied again: the root names the old copy.
//!
//! **Where a replay begins.** Of each group the entries behind its *base* are replayed: what was applied at `begin`, or what every
//! member has durably, if that is less and lies within the last
//! [`retained_bytes`](crate::base::limits::Limits::retained_bytes) of the log. So a member that is away for a while is fed entry by
//! entry when it returns; one that lacks more is sent the state ([`super::snapshots`]). The entries behind a state that is being
//! sent stay until the member has it. Where a state has come in pieces, a replay begins with them until there is a copy of it.
//!
//! **Paid by ingest.** Copies ride along with other records: for each byte that is logged, two may be copied
//! ([`checkpoint_percent`](crate::base::limits::Limits::checkpoint_percent)). An idle node copies nothing, and no clock decides how
//! much is written. A full disk pauses it.
//!
//! Of the log before the replay's start stay the segments with values that the index points at, and with copies that roots name. A
//! checkpoint empties those of them that hold too much garbage, and the manifest says which are kept.

use super::{Node, Work};
use crate::base::{Duration, GroupId, Index, Lsn, Place, SegmentId, Sometimes, Time};
use crate::msg::configuration::Configuration;
use crate::msg::log::{LogBase, Manifest, Root, Rooted};
use crate::replica;
use crate::state::{Page, push_part};
use crate::wal::{self, Record, RecoveredGroup};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Of the index, the share that the reserve holds beyond it: what else a checkpoint has.
const RESERVE_SHARE: u64 = 4;
/// Bytes of one record with parts that are no leaves, unless one part alone is larger.
const PARTS_BYTES: usize = 256 * 1024;
/// What it counts for that a leaf is passed over, in bytes.
const PASSED_OVER_COST: u64 = 32;
/// By how much of what makes a checkpoint due the log grows before it is looked at again whether one is.
const LOOKS: u64 = 16;
/// While the disk is full, and for what was repaired, copies of so many bytes are made at a time, unless more wait to be written.
const CREDIT_IN_ADVANCE: i64 = 256 * 1024;
const QUEUE_IN_ADVANCE: u64 = 1024 * 1024;
/// After a repair a checkpoint is begun, but not more often than this: what is repaired before the next is a part of it.
const WANTED_EVERY: Duration = Duration::from_secs(5);
/// How many times as much is far more than makes a checkpoint due.
const HELD_BACK: u64 = 4;

#[derive(Debug, Default)]
pub struct Checkpoints {
    /// How much had been appended to the log when that was last looked at.
    appended: u64,
    /// Bytes logged since the last checkpoint was begun. After a boot: what was replayed counts, too.
    since: u64,
    /// Not due before so many.
    look_at: u64,
    begun_at: Time,
    disk_was_full: bool,
    /// A boot from the last checkpoint would find what has been repaired since.
    is_wanted: bool,
    /// The round in progress was begun since it was wanted. What is logged need not pay for it, nor for one that the next wanted
    /// one waits for.
    is_urgent: bool,
    /// How much of what was logged and freed has paid for copies.
    paid: u64,
    /// Bytes that may be copied now; below zero: that were copied in advance.
    credit: i64,
    /// The segment that a replay would begin with.
    start: SegmentId,
    /// Far more was logged than makes a checkpoint due, and none would let a replay begin later.
    is_held_back: bool,
    /// Of each group, its last root.
    roots: BTreeMap<GroupId, Kept>,
    round: Option<Round>,
    /// Bytes of values that have come to be garbage since then.
    freed: u64,
    /// The manifest that is not known to be durable yet.
    manifest: Option<Pending>,
    /// Of groups whose states have come in pieces: the segment with the first piece, until there is a copy.
    pieces: BTreeMap<GroupId, SegmentId>,
    /// Where the record lies that was appended last.
    copied: Place,
    /// Checkpoints completed in this epoch.
    pub completed: u64,
}

/// A manifest that is not known to be durable yet.
#[derive(Debug)]
struct Pending {
    lsn: Lsn,
    /// Where a replay from it begins.
    start: SegmentId,
    /// The segments that it does not name any more.
    gone: Vec<SegmentId>,
}

/// A root that is in the log.
#[derive(Debug, Clone)]
struct Kept {
    place: Place,
    begin: Index,
    base: LogBase,
    /// The segments that hold its pieces, and how many bytes.
    pieces: BTreeMap<SegmentId, u64>,
    /// Values were moved since then, to which its leaves do not point.
    is_outdated: bool,
}

impl Kept {
    fn bytes_in(&self, segment: SegmentId) -> u64 {
        let root = if self.place.segment == segment { u64::from(self.place.length) } else { 0 };
        root + self.pieces.get(&segment).copied().unwrap_or_default()
    }
}

/// A checkpoint that is being made.
#[derive(Debug)]
struct Round {
    left: VecDeque<GroupId>,
    copying: Option<Copying>,
}

/// A group's copy that is being made.
#[derive(Debug)]
struct Copying {
    group: GroupId,
    begin: Index,
    base: LogBase,
    configuration: Option<Configuration>,
    /// The fence of the next leaf; `None`: all are copied.
    next: Option<Vec<u8>>,
    /// What else is in the state, as it was at the beginning.
    parts: VecDeque<Bytes>,
    pieces: Vec<Place>,
    /// Values were moved since it began: leaves that are copied already may point at where they lay.
    is_outdated: bool,
}

impl Checkpoints {
    /// Of a node that has replayed so many bytes, from this segment on.
    pub fn after_replay_of(start: SegmentId, replayed: u64) -> Checkpoints {
        Checkpoints { start, since: replayed, ..Checkpoints::default() }
    }

    /// Goes on with what recovery found of a group.
    pub fn adopt(&mut self, id: GroupId, found: &RecoveredGroup) {
        if let (Some((place, pieces)), Some(copy)) = (&found.root, &found.copy) {
            self.roots.insert(
                id,
                Kept { place: *place, begin: copy.applied(), base: found.base, pieces: pieces.clone(), is_outdated: false },
            );
        }
        if let Some(segment) = found.pieces_from {
            self.pieces.insert(id, segment);
        }
    }

    /// The group has another state than the one that was copied: its pieces begin in this segment.
    pub fn replace(&mut self, id: GroupId, segment: SegmentId) {
        self.roots.remove(&id);
        self.pieces.insert(id, segment);
        let Some(round) = &mut self.round else { return };
        let was_copied = round.copying.take_if(|copying| copying.group == id).is_some() || !round.left.contains(&id);
        if was_copied {
            Sometimes::CopyOfReplacedState.reached();
            round.left.push_back(id);
        }
    }

    /// What was logged since the last checkpoint was begun, or has come to be garbage, if that is more.
    fn progress(&self) -> u64 {
        self.since.max(self.freed)
    }

    /// The segment that a replay would begin with, now or once the next segment is begun.
    pub fn start(&self) -> SegmentId {
        self.start
    }

    /// Whether far more is to be replayed than should be, since some member may lack entries that a checkpoint would stand for.
    pub fn is_held_back(&self) -> bool {
        self.is_held_back
    }

    /// Bytes of copies in a segment that roots name.
    pub fn copied_in(&self, segment: SegmentId) -> u64 {
        self.roots.values().map(|root| root.bytes_in(segment)).sum()
    }

    /// Values of the group were moved.
    pub fn moved(&mut self, id: GroupId) {
        if let Some(root) = self.roots.get_mut(&id) {
            root.is_outdated = true;
        }
        let copying = self.round.as_mut().and_then(|round| round.copying.as_mut());
        if let Some(copying) = copying.filter(|copying| copying.group == id) {
            Sometimes::ValuesMovedWhileCopied.reached();
            copying.is_outdated = true;
        }
    }

    /// A boot from the last checkpoint would find rot that has been repaired.
    pub fn want(&mut self) {
        self.is_wanted = true;
    }

    /// So many bytes of values have come to be garbage.
    pub fn note_freed(&mut self, bytes: u64) {
        self.freed += bytes;
    }

    /// The log says where it put a copy.
    pub fn copied(&mut self, place: Place) {
        self.copied = place;
    }
}

impl Node {
    /// Goes on with a checkpoint, as far as what was logged pays for it, or begins one.
    pub(super) fn advance_checkpoint(&mut self, now: Time) {
        let (appended, durable) = (self.log.appended_bytes(), self.log.durable_lsn());
        let kept = &mut self.checkpoints;
        if let Some(Pending { start, gone, .. }) = kept.manifest.take_if(|manifest| manifest.lsn <= durable) {
            // There may be more to win at once.
            let wins = kept.disk_was_full && (start > kept.start || !gone.is_empty());
            kept.look_at = if wins { 0 } else { kept.look_at };
            kept.start = start;
            kept.completed += 1;
            self.compaction.condemn(gone);
            Sometimes::CheckpointCompleted.reached();
            let bases = kept.roots.iter().map(|(id, root)| Work::Replica(*id, replica::In::Compact(root.base.index)));
            self.work.extend(bases.collect::<Vec<_>>());
            self.drain(now);
        }
        self.free_condemned(now);
        let stops = self.is_sealing();
        let kept = &mut self.checkpoints;
        let logged = appended - kept.appended;
        kept.appended = appended;
        kept.since += logged;
        let disk_is_full = self.log.disk_is_full();
        if disk_is_full != std::mem::replace(&mut kept.disk_was_full, disk_is_full) {
            kept.look_at = 0;
            // It was begun in another mind: what it still wants to copy may be more than there is room for.
            if disk_is_full && self.give_up_round() {
                Sometimes::CheckpointEndsOnFullDisk.reached();
            }
        }
        let kept = &mut self.checkpoints;
        let is_wanted = kept.is_wanted && !disk_is_full && now.since(kept.begun_at) >= WANTED_EVERY;
        if stops || self.groups.is_empty() || logged == 0 && kept.round.is_none() && !disk_is_full && !is_wanted {
            return;
        }
        if !self.log.room().takes_copies() {
            Sometimes::CheckpointWaitsForRoom.when(kept.round.is_some() || kept.progress() >= kept.look_at);
            // More was written meanwhile than was thought: what is left is for others.
            self.give_up_round();
            return;
        }
        if kept.round.is_none() {
            let waits = kept.manifest.is_some() || self.compaction.asked().is_some();
            if waits || kept.progress() < kept.look_at && !is_wanted {
                return;
            }
            let due = if disk_is_full { self.is_room_to_win() } else { self.is_checkpoint_due(now, is_wanted) };
            let Some(victims) = due else { return };
            Sometimes::CheckpointAfterRepair.when(is_wanted);
            self.begin_compaction(victims);
            let left = self.groups.keys().copied().collect();
            let kept = &mut self.checkpoints;
            (kept.round, kept.credit) = (Some(Round { left, copying: None }), 0);
            (kept.since, kept.freed, kept.paid, kept.look_at, kept.begun_at) = (logged, 0, 0, 0, now);
            kept.is_urgent = std::mem::take(&mut kept.is_wanted);
        }
        let kept = &mut self.checkpoints;
        // What was freed pays as what was logged: a delete is small, and may free much.
        let pays = kept.progress() - kept.paid;
        kept.paid += pays;
        kept.credit += (pays * self.options.limits.checkpoint_percent as u64 / 100) as i64;
        if (disk_is_full || kept.is_urgent || kept.is_wanted) && self.log.queue_bytes() < QUEUE_IN_ADVANCE {
            // Little is logged that could pay. The disk says how fast it goes.
            Sometimes::CompactionWhileFull.when(disk_is_full);
            kept.credit = kept.credit.max(CREDIT_IN_ADVANCE);
        }
        while self.checkpoints.credit > 0 && self.checkpoints.round.is_some() && self.compaction.asked().is_none() {
            self.checkpoints.credit -=
                if self.compaction.is_sweeping() { self.go_on_sweeping(now) as i64 } else { self.copy_next(now) as i64 };
        }
        let appended = self.log.appended_bytes();
        let kept = &mut self.checkpoints;
        let progress = kept.progress();
        kept.since += appended - kept.appended;
        kept.appended = appended;
        // Copies pay for nothing.
        kept.paid += kept.progress() - progress;
    }

    /// Ends the checkpoint that is being made, and tells whether there was one.
    fn give_up_round(&mut self) -> bool {
        let kept = &mut self.checkpoints;
        let was_made = kept.round.take().is_some();
        if was_made {
            kept.is_wanted |= kept.is_urgent;
            self.compaction.give_up();
        }
        was_made
    }

    /// Whether enough was logged, and a replay would begin later than now; or there is too much garbage. If so, the segments that
    /// are to be emptied.
    fn is_checkpoint_due(&mut self, now: Time, is_wanted: bool) -> Option<Vec<(SegmentId, u32)>> {
        let index = self.copy_bytes();
        let enough = index.max(self.options.limits.checkpoint_bytes as u64);
        let kept = &mut self.checkpoints;
        let interval = self.options.snapshot_interval;
        let is_time = interval > Duration::ZERO && now.since(kept.begun_at) >= interval;
        kept.look_at = kept.progress() + enough / LOOKS;
        if kept.progress() < if is_time { enough / LOOKS } else { enough } && !is_wanted {
            return None;
        }
        let groups = &self.groups;
        self.snapshots.drop_needless(|id| groups.get(id).map(|group| group.replica.commit()));
        let base = |id: &GroupId| Some(self.may_forget(*id));
        // States that have come whole are copied.
        let moves = self.replay_start(base) > self.checkpoints.start;
        Sometimes::CheckpointHeldBack.when(!moves);
        self.checkpoints.is_held_back = !moves && self.checkpoints.since >= enough * HELD_BACK;
        self.keep_reserve(index);
        let victims = self.choose_victims(None);
        (moves || is_wanted || !victims.is_empty()).then_some(victims)
    }

    /// Keeps as many files in reserve as a checkpoint needs.
    pub(super) fn keep_reserve(&mut self, index: u64) {
        self.log.keep_in_reserve(index + index / RESERVE_SHARE + u64::from(self.options.segment_size));
    }

    /// What a checkpoint takes, if all of it has to be copied, in bytes.
    pub(super) fn copy_bytes(&self) -> u64 {
        let leaves: u64 = self.groups.values().map(|group| group.store.state().leaf_bytes()).sum();
        leaves + self.token_bytes as u64
    }

    /// The disk is full: the segments that are to be emptied, if that gives so much room that it is worth a checkpoint.
    fn is_room_to_win(&mut self) -> Option<Vec<(SegmentId, u32)>> {
        let kept = &mut self.checkpoints;
        kept.look_at = kept.progress() + u64::from(self.options.segment_size) / LOOKS;
        let index = self.copy_bytes();
        // Deletes take some of it meanwhile.
        let budget = (self.log.room().for_copies() / 2).checked_sub(index)?;
        let victims = self.choose_victims(Some(budget));
        let moved: u64 = victims.iter().map(|(victim, _)| self.live_in(*victim)).sum();
        // Or the log behind the old start is so long that there is something to win once it begins later.
        let start = self.replay_start(|id| Some(self.may_forget(*id)));
        let passed = u64::from(start.0.saturating_sub(self.checkpoints.start.0));
        let is_worth_it = victims.len() as u64 + passed > self.segments_for(moved + index);
        Sometimes::NoRoomToWin.when(!is_worth_it);
        is_worth_it.then_some(victims)
    }

    /// Up to here the group's log is not needed, once a checkpoint stands for it: every member has it durably, or it lies so far
    /// back that a member that lacks it is sent the group's state.
    fn may_forget(&self, id: GroupId) -> Index {
        let group = &self.groups[&id];
        let (log, segment_size) = (group.replica.log(), self.options.segment_size.max(1) as usize);
        let kept = self.options.limits.retained_bytes.div_ceil(segment_size) as u32;
        let far = log.last_before_segment(SegmentId(self.log.end().0.saturating_sub(kept)));
        let everywhere = group.replica.everywhere();
        Sometimes::CheckpointLeavesMemberBehind.when(far > everywhere);
        let wanted = everywhere.max(far).min(self.snapshots.pin(id).unwrap_or(far.max(everywhere)));
        wanted.min(group.store.state().applied()).max(log.base().index)
    }

    /// The first segment that holds an entry which stands behind its group's base, or a piece of a state that is not whole.
    fn replay_start(&self, base: impl Fn(&GroupId) -> Option<Index>) -> SegmentId {
        let first = |(id, group): (&GroupId, &super::Group)| {
            let log = group.replica.log();
            let first = base(id).unwrap_or_default().max(log.base().index).next();
            log.place_of(first).map(|place| place.segment)
        };
        self.groups
            .iter()
            .filter_map(first)
            .chain(self.snapshots.pieces_from())
            .min()
            .unwrap_or(SegmentId(u32::MAX))
            .min(self.log.end())
    }

    /// Copies what comes next. Returns what that counts for, in bytes.
    fn copy_next(&mut self, now: Time) -> u64 {
        let Some(mut round) = self.checkpoints.round.take() else { return 0 };
        let Some(copying) = round.copying.take() else {
            match round.left.pop_front() {
                Some(id) => {
                    round.copying = self.begin_copy(id);
                    self.checkpoints.round = Some(round);
                }
                None => self.log_manifest(now),
            }
            return PASSED_OVER_COST;
        };
        let (copying, cost) = self.go_on_copying(now, copying);
        round.copying = copying;
        self.checkpoints.round = Some(round);
        cost
    }

    /// A copy of what the group's log has come to now. `None`: the last is as good.
    fn begin_copy(&self, id: GroupId) -> Option<Copying> {
        let group = self.groups.get(&id)?;
        let (state, log) = (group.store.state(), group.replica.log());
        let begin = state.applied();
        let index = self.may_forget(id);
        let base = LogBase { index, term: log.term_at(index)? };
        let has_to_go = |root: &Kept| self.compaction.victims.iter().any(|victim| root.bytes_in(*victim) > 0);
        let kept = self.checkpoints.roots.get(&id);
        let is_kept = kept.is_some_and(|root| (root.begin, root.base) == (begin, base) && !root.is_outdated && !has_to_go(root));
        Sometimes::UnchangedGroupNotCopied.when(is_kept);
        if is_kept || begin == Index::ZERO {
            return None;
        }
        let (next, parts) = (Some(Vec::new()), state.encoded_parts().into());
        let configuration = log.configuration_at(index).cloned();
        Some(Copying { group: id, begin, base, configuration, next, parts, pieces: Vec::new(), is_outdated: false })
    }

    fn go_on_copying(&mut self, now: Time, mut copying: Copying) -> (Option<Copying>, u64) {
        let id = copying.group;
        if let Some(fence) = copying.next.take() {
            let Some(group) = self.groups.get_mut(&id) else { return (None, PASSED_OVER_COST) };
            group.store.forget_deleted(&fence);
            let Some(Page { bytes, copied, next }) = group.store.state().page(&fence) else {
                return (Some(copying), PASSED_OVER_COST);
            };
            copying.next = next.map(<[u8]>::to_vec);
            if let Some(place) = copied.filter(|place| !self.compaction.victims.contains(&place.segment)) {
                Sometimes::UnchangedLeafNotCopied.reached();
                copying.pieces.push(place);
                return (Some(copying), PASSED_OVER_COST);
            }
            let page = Bytes::copy_from_slice(bytes);
            let place = self.append_copy(now, Record::Leaf { group: id, fence: fence.clone().into(), page });
            self.groups.get_mut(&id).expect("it is copied").store.copied(&fence, place);
            copying.pieces.push(place);
            return (Some(copying), u64::from(place.length));
        }
        if copying.parts.is_empty() {
            let Copying { begin, base, configuration, pieces, is_outdated, .. } = copying;
            let root = Root { begin, base, configuration: configuration.map(Box::new), pieces };
            let held = root.segments();
            let place = self.append_copy(now, Record::Root(id, root));
            Sometimes::WritesWhileCopied.when(self.groups[&id].store.state().applied() > begin);
            self.checkpoints.roots.insert(id, Kept { place, begin, base, pieces: held, is_outdated });
            self.checkpoints.pieces.remove(&id);
            return (None, u64::from(place.length));
        }
        let mut parts = Vec::new();
        while let Some(part) = copying.parts.pop_front_if(|part| parts.is_empty() || parts.len() + part.len() < PARTS_BYTES) {
            push_part(&mut parts, &part);
        }
        let place = self.append_copy(now, Record::Parts(id, parts.into()));
        copying.pieces.push(place);
        (Some(copying), u64::from(place.length))
    }

    fn log_manifest(&mut self, now: Time) {
        let gone = self.emptied();
        let roots = &self.checkpoints.roots;
        let start = self.replay_start(|id| Some(roots.get(id)?.base.index));
        let start = self.checkpoints.pieces.values().copied().fold(start, SegmentId::min);
        let rooted = |(id, group): (&GroupId, &super::Group)| {
            let state = group.replica.hard_state();
            let root = roots.get(id).map(|root| root.place);
            let amnesiac = group.replica.is_amnesiac();
            Rooted { group: *id, term: state.term, vote: state.vote, commit: state.commit, root, amnesiac }
        };
        let is_kept = |segment: &SegmentId| !gone.contains(segment) && !self.compaction.is_condemned(*segment);
        let kept = self.log.numbers_before(start).filter(is_kept).collect();
        let manifest = Manifest {
            start,
            kept: Some(kept),
            epoch: self.epoch,
            formation: self.membership.formation().cloned(),
            marks: self.membership.marks().collect(),
            groups: self.groups.iter().map(rooted).collect(),
        };
        self.append_copy(now, Record::Manifest(manifest));
        self.checkpoints.manifest = Some(Pending { lsn: self.log.last_lsn(), start, gone });
    }

    /// Appends a record that is a part of a checkpoint, or of a snapshot. Returns where it lies.
    pub(super) fn append_copy(&mut self, now: Time, record: Record) -> Place {
        self.work.push_back(Work::Log(wal::In::Append(record)));
        self.drain(now);
        self.checkpoints.copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves that are copied already point at where the values lay.
    #[test]
    fn a_copy_in_which_values_were_moved_is_outdated_from_the_beginning() {
        let copying = |group| Copying {
            group,
            begin: Index(7),
            base: LogBase::default(),
            configuration: None,
            next: None,
            parts: VecDeque::new(),
            pieces: Vec::new(),
            is_outdated: false,
        };
        for (moved, expected) in [(GroupId(1), true), (GroupId(2), false)] {
            let round = Round { left: VecDeque::new(), copying: Some(copying(GroupId(1))) };
            let mut checkpoints = Checkpoints { round: Some(round), ..Checkpoints::default() };
            checkpoints.moved(moved);
            assert_eq!(checkpoints.round.and_then(|round| round.copying).map(|copying| copying.is_outdated), Some(expected));
        }
    }
}
