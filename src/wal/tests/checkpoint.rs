//! A boot from a checkpoint: what it reads, what it passes over, and when it does not use one.

use super::*;
use crate::base::Version;
use crate::msg::log::LogBase;

pub(super) const GROUP: GroupId = GroupId(1);

/// A log, and what the entries of its one group have come to.
pub(super) struct Kept {
    pub(super) rig: Rig,
    state: State,
    /// Of every entry, its term.
    pub(super) last: Index,
}

impl Kept {
    pub(super) fn new() -> Kept {
        let mut state = State::new();
        state.set_leaf_bytes(300);
        Kept { rig: Rig::new(options(8 * 1024), 1), state, last: Index::ZERO }
    }

    /// Writes and applies so many entries.
    pub(super) fn write(&mut self, count: u64) {
        for _ in 0..count {
            self.last = self.last.next();
            let key = format!("k{}", self.last.0 * 7 % 40);
            let placed = self.rig.entry(GROUP.0, self.last.0, &key, &[7; 100]);
            let fact = FactSummary::Write { key: key.into(), value: placed.value };
            self.state.apply(self.last, &fact, &mut |_| {});
            self.rig.settle();
        }
    }

    fn append(&mut self, record: Record) -> Place {
        self.rig.append(record);
        *self.rig.copied.last().expect("a copy is placed")
    }

    /// Copies all that has changed. The replay begins with `start`.
    pub(super) fn checkpoint(&mut self, base: Index, start: SegmentId) -> Vec<Place> {
        let (parts, mut pieces, mut next) = (self.state.encoded_parts(), Vec::new(), Some(Vec::new()));
        while let Some(fence) = next {
            let leaf = self.state.page(&fence).expect("a leaf");
            let (page, copied, behind) = (Bytes::copy_from_slice(leaf.bytes), leaf.copied, leaf.next.map(<[u8]>::to_vec));
            pieces.push(copied.unwrap_or_else(|| self.append(Record::Leaf { group: GROUP, fence: fence.clone().into(), page })));
            self.state.copied(&fence, *pieces.last().expect("just pushed"));
            next = behind;
        }
        let parts = parts.iter().flat_map(|part| [&(part.len() as u32).to_le_bytes()[..], part].concat()).collect();
        pieces.push(self.append(Record::Parts(GROUP, parts)));
        let base = LogBase { index: base, term: Term(1) };
        let root = Root { begin: self.last, base, configuration: None, pieces: pieces.clone() };
        let root = self.append(Record::Root(GROUP, root));
        let rooted = crate::msg::log::Rooted {
            group: GROUP,
            term: Term(4),
            vote: Some(ME),
            commit: self.last,
            root: Some(root),
            amnesiac: false,
        };
        let mark = PeerMark { epoch: Epoch(3), durable: Lsn(9) };
        let epoch = self.rig.epoch;
        let (marks, groups) = (vec![(NodeId(1), mark)], vec![rooted]);
        let manifest = Manifest { start, epoch, formation: None, marks, groups, kept: None };
        self.append(Record::Manifest(manifest));
        self.rig.settle();
        pieces
    }

    pub(super) fn segment(&self) -> SegmentId {
        self.rig.log.end()
    }

    /// Fills the segment with records of no group, so that the header of the next names what is durable.
    pub(super) fn roll(&mut self) {
        let segment = self.segment();
        while self.segment() == segment {
            self.rig.append(Record::PeerMark(NodeId(2), PeerMark { epoch: Epoch(1), durable: Lsn(1) }));
            self.rig.settle();
        }
    }

    fn recover(&self) -> Recovered {
        let mut found = recover(&mut self.rig.disk.copy(), ME).expect("nothing is damaged");
        let group = found.groups.get_mut(&GROUP).expect("it was written to");
        group.state.commit = group.last_index();
        found
    }
}

#[test]
fn a_boot_reads_the_checkpoint_and_replays_what_stands_behind() {
    let mut kept = Kept::new();
    kept.write(300);
    let (base, start) = (kept.last, kept.segment());
    kept.checkpoint(base, start);
    assert_eq!(kept.recover().start, start, "no header names it yet");
    kept.roll();
    kept.write(20);
    let mut found = kept.recover();
    assert_eq!(found.start, start);
    assert_eq!(found.peer_marks[&NodeId(1)], PeerMark { epoch: Epoch(3), durable: Lsn(9) });
    let group = found.groups.get_mut(&GROUP).expect("it has a root");
    assert_eq!((group.state.term, group.state.vote, group.base.index), (Term(4), Some(ME), base));
    assert_eq!(group.entries.first().map(|entry| entry.index), Some(base.next()));
    assert_eq!(group.fold(300).digest(), kept.state.digest());
    // A second one, most of which is the first's; and the next epoch goes on naming it.
    kept.write(1);
    kept.checkpoint(kept.last, kept.segment());
    kept.roll();
    kept.rig.boot(options(8 * 1024)).unwrap();
    kept.roll();
    kept.roll();
    let mut found = kept.recover();
    assert!(found.start > start);
    assert_eq!(found.groups.get_mut(&GROUP).unwrap().fold(300).digest(), kept.state.digest());
}

/// What a leader replaced may stand behind the replay's start, with what it followed before it.
#[test]
fn entries_that_were_replaced_are_passed_over() {
    let mut kept = Kept::new();
    kept.write(50);
    let base = kept.last;
    let append = |kept: &mut Kept, index: u64, term| {
        kept.rig.append(write(GROUP.0, index, term, "x", Some(b"y"), base.0));
        kept.rig.settle();
    };
    append(&mut kept, 51, 1);
    kept.roll();
    let start = kept.segment();
    for (index, term) in [(52, 1), (53, 1), (51, 2), (52, 2)] {
        append(&mut kept, index, term);
    }
    kept.checkpoint(base, start);
    append(&mut kept, 53, 2);
    kept.roll();
    let found = kept.recover();
    let terms: Vec<(u64, u64)> = found.groups[&GROUP].entries.iter().map(|entry| (entry.index.0, entry.term.0)).collect();
    assert_eq!((found.start, terms), (start, vec![(51, 2), (52, 2), (53, 2)]));
    // Behind the manifest nothing is missing that was not replaced.
    append(&mut kept, 55, 2);
    let error = recover(&mut kept.rig.disk.copy(), ME).unwrap_err();
    assert!(error.to_string().contains("entry 55 of group 1 follows entry 53"), "{error}");
}

#[test]
fn a_copy_that_has_rotted_is_damage() {
    let mut kept = Kept::new();
    kept.write(200);
    kept.checkpoint(kept.last, kept.segment());
    kept.roll();
    // One leaf changes, and the others stay where they were.
    kept.write(1);
    let start = kept.segment();
    let pieces = kept.checkpoint(kept.last, start);
    kept.roll();
    assert_eq!(kept.recover().start, start);
    let old: Vec<Place> = pieces.into_iter().filter(|place| place.segment < start).collect();
    assert!(old.len() > 3, "{old:?}");
    for place in old {
        for at in [place.offset + 60, place.offset + place.length / 2, place.offset + place.length - 1] {
            let mut disk = kept.rig.disk.copy();
            disk.segment(place.segment)[at as usize] ^= 1;
            let error = recover(&mut disk, ME).unwrap_err();
            let said = format!("segment {} at byte {}; groups touched: {{g1}}", place.segment, place.offset);
            assert!(error.to_string().contains(&said), "{error}");
        }
    }
}

/// As where the newest manifest has rotted, and the one before names what is freed since.
#[test]
fn a_copy_whose_segment_is_gone_is_damage() {
    let mut kept = Kept::new();
    kept.write(200);
    let start = kept.segment();
    kept.checkpoint(kept.last, start);
    kept.roll();
    kept.write(1);
    let start = kept.segment();
    let pieces = kept.checkpoint(kept.last, start);
    kept.roll();
    let gone = pieces.iter().map(|place| place.segment).find(|segment| *segment < start).expect("an old copy");
    let mut disk = kept.rig.disk.copy();
    disk.remove(gone);
    let error = recover(&mut disk, ME).unwrap_err();
    assert!(matches!(error, RecoverError::Damaged { segment, .. } if segment == gone), "{error}");
    assert!(error.to_string().contains("the segment is missing, which the last whole manifest names"), "{error}");
}

#[test]
fn a_page_of_any_bytes_is_taken_for_a_leaf_or_is_not() {
    let mut kept = Kept::new();
    kept.write(200);
    let page = kept.state.page(&[]).expect("a leaf").bytes.to_vec();
    let mut random = stream(9, "pages");
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut page = page.clone();
        for _ in 0..=below(&mut random, 3) {
            let at = below(&mut random, page.len() as u64) as usize;
            page[at] = below(&mut random, 256) as u8;
        }
        page.truncate(page.len() - below(&mut random, 3) as usize * 10);
        let mut state = State::new();
        if state.install_leaf(&[], &page, Place::default()) {
            taken += 1;
            let all: Vec<Key> = state.items().range(std::ops::Bound::Unbounded).map(|(key, _)| key).collect();
            for key in all {
                state.items().get(&key);
            }
            let fact = FactSummary::Write { key: "k1".into(), value: None };
            state.apply(Index(1), &fact, &mut |_| {});
            assert!(state.items().get(&"k1".into()).is_some_and(|item| item.version >= Version(1)));
        }
    }
    assert!(taken > 1_000, "{taken} were taken");
}

/// A replay begins before them, with a copy of what replaced them.
#[test]
fn entries_that_were_replaced_before_the_checkpoint_do_not_come_back() {
    let mut kept = Kept::new();
    kept.write(50);
    let start = kept.segment();
    for index in 51..=53 {
        kept.rig.append(write(GROUP.0, index, 1, "x", Some(b"y"), 50));
        kept.rig.settle();
    }
    // A later leader replaces 51, and with it all behind; 51 is committed, applied and the base of the checkpoint.
    kept.rig.append(write(GROUP.0, 51, 2, "x", None, 50));
    kept.rig.settle();
    kept.last = Index(51);
    kept.state.apply(kept.last, &FactSummary::Write { key: "x".into(), value: None }, &mut |_| {});
    kept.checkpoint(kept.last, start);
    kept.roll();
    let found = recover(&mut kept.rig.disk.copy(), ME).expect("sound");
    let whole = recover_from_start(&mut kept.rig.disk.copy(), ME).expect("sound");
    assert_eq!((found.groups[&GROUP].last_index(), whole.groups[&GROUP].last_index()), (Index(51), Index(51)));
}

/// Records have places in segments whose files are not made yet: a manifest behind them keeps those, too.
#[test]
fn a_segment_counts_before_its_file_is_made() {
    let mut rig = Rig::new(options(8 * 1024), 50);
    for index in 1..=40 {
        rig.entry(1, index, "key", &[1; 900]);
    }
    let end = rig.log.end();
    let made = rig.log.segments_before(end).count();
    let numbers: Vec<SegmentId> = rig.log.numbers_before(end).collect();
    assert!(end > SegmentId(4) && made < 2, "{made} of {end} are made");
    assert_eq!(numbers, (1..end.0).map(SegmentId).collect::<Vec<_>>());
}
