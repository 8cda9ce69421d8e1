//! A walk finds what is bad, goes on behind it, and judges as a boot does.

use super::checkpoint::{GROUP, Kept};
use super::*;
use crate::msg::disk::DiskError;
use crate::wal::walk::{CheckpointSeen, Content, Met, Seen, Walked, verify, walk};

/// What a walk has met.
struct Log {
    walked: Walked,
    records: Vec<Seen>,
    bad: Vec<Bad>,
}

fn look(disk: &mut TestDisk) -> Log {
    let (mut records, mut bad) = (Vec::new(), Vec::new());
    let walked = walk::<DiskError>(disk, &mut |met| {
        match met {
            Met::Record(record) => records.push(record),
            Met::Bad(place) => bad.push(place),
        }
        Ok(())
    });
    Log { walked: walked.expect("the files are listed"), records, bad }
}

fn check(disk: &mut TestDisk) -> (Walked, Option<CheckpointSeen>, Vec<Bad>) {
    let mut bad = Vec::new();
    let verified = verify::<DiskError>(disk, &mut |met| {
        bad.extend(match met {
            Met::Bad(place) => Some(place),
            Met::Record(_) => None,
        });
        Ok(())
    });
    let (walked, checkpoint) = verified.expect("the files are listed");
    assert_eq!(walked.bad, bad.len() as u64);
    (walked, checkpoint, bad)
}

/// One batch for each entry, in several segments, with a witness.
fn several_segments(entries: u64) -> Rig {
    let mut rig = Rig::new(options(16 * 1024), 51);
    rig.settle();
    for index in 1..=entries {
        rig.entry(1, index, "key", &[index as u8; 200]);
        rig.settle();
    }
    rig.pass(WITNESS_AFTER);
    rig.settle();
    rig
}

fn lsns(log: &Log) -> Vec<u64> {
    log.records.iter().map(|record| record.lsn.0).collect()
}

#[test]
fn a_whole_log_is_told_record_by_record() {
    let mut rig = several_segments(100);
    let log = look(&mut rig.disk);
    assert_eq!((log.bad, log.walked.torn), (Vec::new(), None));
    assert_eq!(log.records.len(), rig.records.len());
    for (seen, placed) in log.records[1..].iter().zip(&rig.placed) {
        assert_eq!((seen.lsn, seen.place, seen.epoch), (placed.lsn, placed.record, rig.epoch));
        let Content::Entry { group, index, term, fact, .. } = &seen.content else { panic!("{seen:?}") };
        assert_eq!((*group, *index, *term), (placed.group, placed.index, placed.term));
        assert_eq!(*fact, FactSummary::Write { key: "key".into(), value: placed.value });
    }
    let walked = log.walked;
    assert_eq!((walked.node, walked.directory), (Some(ME), Some(DirectoryId(0xD1))));
    assert_eq!((walked.records, walked.epochs, walked.last), (101, 1, Lsn(101)));
    assert_eq!((walked.groups, walked.segments), (BTreeSet::from([GroupId(1)]), rig.log.end().0));
    rig.boot(options(16 * 1024)).unwrap();
    rig.settle();
    assert_eq!(look(&mut rig.disk).walked.epochs, 2);
}

#[test]
fn a_flipped_bit_costs_its_batch_alone() {
    let rig = several_segments(100);
    for at in [3, 40, 99] {
        let placed = rig.placed[at];
        let mut disk = rig.disk.copy();
        disk.segment(placed.record.segment)[placed.value.unwrap().place.offset as usize + 7] ^= 0x10;
        let log = look(&mut disk);
        let [bad] = &log.bad[..] else { panic!("{:?}", log.bad) };
        let header = placed.record.offset - format::BATCH_HEADER_SIZE as u32;
        assert_eq!((bad.segment, bad.offset), (placed.record.segment, header));
        assert!(bad.what.contains("the value of record 0 of the batch fails its checksum"), "{}", bad.what);
        assert_eq!(bad.groups, Some(BTreeSet::from([GroupId(1)])));
        let others: Vec<u64> = (1..=101).filter(|lsn| *lsn != placed.lsn.0).collect();
        assert_eq!(lsns(&log), others);
    }
}

#[test]
fn every_bad_place_is_found_and_all_between_is_read() {
    let rig = several_segments(100);
    let mut disk = rig.disk.copy();
    let placed = [5, 30, 60].map(|at| rig.placed[at]);
    for place in placed.map(|placed| placed.record) {
        // A sector of zeros, in which the batch's header may be.
        let from = place.offset as usize / SECTOR * SECTOR;
        disk.segment(place.segment)[from..from + SECTOR].fill(0);
    }
    let log = look(&mut disk);
    assert_eq!(log.bad.len(), 3, "{:?}", log.bad);
    for (bad, placed) in log.bad.iter().zip(placed) {
        assert_eq!(bad.segment, placed.record.segment);
        assert!(bad.offset.abs_diff(placed.record.offset) <= 2 * SECTOR as u32, "{bad:?}");
    }
    let missing = 101 - lsns(&log).len();
    assert!((3..=9).contains(&missing), "{missing}");
}

#[test]
fn a_missing_segment_and_a_bad_header_do_not_end_the_walk() {
    let rig = several_segments(200);
    let last = rig.log.end();
    assert!(last > SegmentId(4), "{last}");
    let in_segment = |segment: u32| rig.placed.iter().filter(|placed| placed.record.segment == SegmentId(segment)).count();
    let mut disk = rig.disk.copy();
    disk.remove(SegmentId(2));
    let log = look(&mut disk);
    assert_eq!(log.bad.len(), 1, "{:?}", log.bad);
    assert_eq!((log.bad[0].segment, log.bad[0].offset), (SegmentId(2), 0));
    assert!(log.bad[0].what.contains("the segment is missing, and segment 3 is there"), "{}", log.bad[0].what);
    assert_eq!(log.records.len(), 201 - in_segment(2));

    // The first of them as well: the others say where they begin.
    disk.remove(SegmentId(1));
    let log = look(&mut disk);
    assert_eq!((log.bad.len(), log.walked.segments), (1, last.0 - 2), "{:?}", log.bad);

    for segment in [1, 3, last.0] {
        let mut disk = rig.disk.copy();
        disk.segment(SegmentId(segment))[..1024].fill(0x5A);
        let log = look(&mut disk);
        // Of the last, the witness says at the end of the one before that it is missing.
        assert_eq!(log.bad.len(), if segment == last.0 { 2 } else { 1 }, "{:?}", log.bad);
        let bad = log.bad.last().expect("there is one");
        assert_eq!((bad.segment, bad.offset), (SegmentId(segment), 0));
        assert!(bad.what.contains("header is bad"), "{}", bad.what);
        assert_eq!(lsns(&log), (1..=201).collect::<Vec<u64>>(), "the batches are whole");
    }
}

#[test]
fn a_torn_tail_is_no_damage() {
    let mut rig = several_segments(20);
    rig.entry(1, 21, "key", &[7; 3000]);
    rig.settle();
    let placed = *rig.placed.last().unwrap();
    rig.disk.segment(placed.record.segment)[placed.value.unwrap().place.offset as usize + 2500..].fill(0);
    let log = look(&mut rig.disk);
    assert_eq!((log.bad, log.walked.last), (Vec::new(), Lsn(21)));
    let torn = log.walked.torn.expect("a batch was being written");
    let header = placed.record.offset - format::BATCH_HEADER_SIZE as u32;
    assert_eq!((torn.segment, torn.offset, torn.is_fresh), (placed.record.segment, header, true));
    // What the witness names was durable: the same bytes gone before it are damage, and nothing stands behind them.
    let placed = rig.placed[19];
    rig.disk.segment(placed.record.segment)[placed.record.offset as usize..].fill(0);
    let log = look(&mut rig.disk);
    assert_eq!((log.bad.len(), log.walked.torn, log.walked.last), (1, None, Lsn(20)), "{:?}", log.bad);
}

#[test]
fn an_empty_directory_has_nothing_bad_in_it_and_a_witness_alone_is_damage() {
    let log = look(&mut TestDisk::default());
    assert_eq!((log.bad, log.walked.node, log.walked.last), (Vec::new(), None, Lsn(0)));
    let mut rig = several_segments(100);
    for segment in rig.disk.segments() {
        if segment > SegmentId::ZERO {
            rig.disk.remove(segment);
        }
    }
    let log = look(&mut rig.disk);
    assert_eq!(log.bad.len(), 1);
    assert!(log.bad[0].what.contains("the log was durable up to position 101"), "{}", log.bad[0].what);
}

#[test]
fn the_last_checkpoint_is_read_too() {
    let mut kept = Kept::new();
    kept.write(200);
    kept.checkpoint(kept.last, kept.segment());
    kept.roll();
    kept.write(1);
    let start = kept.segment();
    let pieces = kept.checkpoint(kept.last, start);
    kept.roll();
    let mut disk = kept.rig.disk.copy();
    let (_, checkpoint, bad) = check(&mut disk);
    assert_eq!((checkpoint, bad), (Some(CheckpointSeen { start, groups: 1 }), Vec::new()));
    let contents: Vec<Content> = look(&mut disk).records.into_iter().map(|record| record.content).collect();
    let roots = contents.iter().filter_map(|content| match content {
        Content::Root(GROUP, root) => Some(root.pieces.clone()),
        _ => None,
    });
    assert_eq!(roots.last(), Some(pieces.clone()));
    let leaves = contents.iter().filter(|content| matches!(content, Content::Leaf { items, .. } if *items > 0)).count();
    assert!(leaves >= pieces.len() - 1, "{leaves}");

    // A copy that the last checkpoint took from the first: it stands before the segment that a start replays from.
    let old = pieces.iter().find(|place| place.segment < start).expect("most leaves have not changed");
    disk.segment(old.segment)[(old.offset + old.length / 2) as usize] ^= 1;
    let (_, checkpoint, bad) = check(&mut disk);
    assert_eq!(checkpoint, Some(CheckpointSeen { start, groups: 0 }));
    let [batch, copy] = &bad[..] else { panic!("{bad:?}") };
    assert_eq!((batch.segment, batch.groups.clone()), (old.segment, Some(BTreeSet::from([GROUP]))));
    assert_eq!((copy.segment, copy.offset), (old.segment, old.offset));
    assert!(copy.what.contains("there is no whole copy of a part of its state"), "{}", copy.what);
}

/// Whatever happens to the bytes: a walk finds something bad where a boot from all of the log does, and ends where that ends.
#[test]
fn a_walk_judges_as_a_boot_does() {
    let mut random = stream(52, "walk");
    let mut kept = Kept::new();
    kept.write(60);
    kept.checkpoint(kept.last, kept.segment());
    kept.rig.boot(options(8 * 1024)).unwrap();
    kept.write(80);
    kept.roll();
    kept.write(3);
    kept.rig.handle(In::Flush);
    let (mut right, mut wrong) = (0, 0);
    for round in 0..1_500 {
        let mut disk = kept.rig.disk.copy();
        let segments = disk.segments();
        for _ in 0..=below(&mut random, 2) {
            // The end of the log more often than the rest.
            let near = (segments.len() as u64).min(1 + below(&mut random, segments.len() as u64));
            let segment = segments[segments.len() - 1 - below(&mut random, near) as usize];
            if !disk.segments().contains(&segment) || disk.segment(segment).is_empty() {
                continue;
            }
            let bytes = disk.segment(segment);
            let at = below(&mut random, bytes.len() as u64) as usize;
            let at = if below(&mut random, 4) == 0 { at % 1200 } else { at };
            match below(&mut random, 12) {
                0 => disk.remove(segment),
                1 => bytes.truncate(at),
                2..5 => bytes[at / SECTOR * SECTOR..].iter_mut().take(SECTOR).for_each(|byte| *byte = 0),
                5 => bytes[at..].fill(0),
                6 => bytes[at..].iter_mut().for_each(|byte| *byte = below(&mut random, 256) as u8),
                _ => bytes[at] ^= 1 << below(&mut random, 8),
            }
        }
        let log = look(&mut disk);
        match recover_from_start(&mut disk, ME) {
            Ok(recovered) => {
                right += 1;
                assert_eq!(log.bad, [], "round {round}");
                assert_eq!((log.walked.last, log.walked.torn), (recovered.last_lsn(), recovered.torn), "round {round}");
            }
            Err(error) => {
                wrong += 1;
                assert!(!log.bad.is_empty(), "round {round}: {error}");
            }
        }
    }
    assert!(right > 300 && wrong > 300, "{right} right, {wrong} wrong");
}

#[test]
fn any_bytes_are_walked() {
    let mut random = stream(53, "any");
    let rig = several_segments(30);
    for _ in 0..300 {
        let mut disk = rig.disk.copy();
        for segment in disk.segments() {
            let other = SegmentId(1 + below(&mut random, 3) as u32);
            let bytes = match below(&mut random, 4) {
                0 => (0..below(&mut random, 3000)).map(|_| below(&mut random, 256) as u8).collect(),
                // A segment in another's place.
                1 if disk.segments().contains(&other) => disk.segment(other).clone(),
                _ => disk.segment(segment).clone(),
            };
            disk.put(segment, bytes);
        }
        let _ = (look(&mut disk), check(&mut disk));
    }
}
