//! What damage is, without the seal and without the witness too, and which groups it touches.

use super::*;
use crate::wal::format::BATCH_HEADER_SIZE;
use crate::wal::witness::WITNESS;

/// Batches of one entry each, of group 1, then 2, and so on. Nothing seals the last; the witness names it.
fn a_batch_for_each_group(groups: u32) -> Rig {
    let mut rig = Rig::new(LogOptions { seal_after: Duration::from_secs(1_000), ..options(64 * 1024) }, 34);
    rig.settle();
    for group in 1..=groups {
        rig.entry(group, 1, "key", b"value");
        rig.settle();
    }
    rig.pass(WITNESS_AFTER);
    rig.settle();
    rig
}

#[test]
fn damage_names_the_groups_that_it_touches_if_one_of_the_two_directories_is_whole() {
    let mut rig = a_batch_for_each_group(3);
    for group in [2, 3] {
        let placed = rig.placed[group as usize - 1];
        let at = placed.record.offset as usize;
        let (header, record) = (at - BATCH_HEADER_SIZE, at);
        let (value, footer) = (placed.value.unwrap().place.offset as usize, at + placed.record.length as usize);
        let touched = Some(BTreeSet::from([GroupId(group)]));
        let cases: [(&[usize], _); 6] = [
            (&[header], &touched),
            (&[record], &touched),
            (&[value], &touched),
            (&[footer], &touched),
            (&[header, footer], &None),
            (&[record, footer], &None),
        ];
        for (bad, expected) in cases {
            let mut disk = rig.disk.copy();
            bad.iter().for_each(|at| disk.segment(SegmentId(1))[*at] ^= 1);
            match recover(&mut disk, ME) {
                Err(RecoverError::Damaged { groups, offset, .. }) => {
                    assert_eq!((offset as usize, &groups), (header, expected), "group {group}, bytes {bad:?}");
                }
                other => panic!("group {group}, bytes {bad:?}: {other:?}"),
            }
        }
    }
    assert_eq!(Model::of_recovered(&recover(&mut rig.disk, ME).unwrap()), Model::of(&rig.records));
}

#[test]
fn what_the_next_batch_says_was_durable_is_damage_without_a_witness_too() {
    let mut rig = a_batch_for_each_group(5);
    rig.disk.remove(WITNESS);
    for (group, is_damage) in [(3, true), (4, true), (5, false)] {
        let mut disk = rig.disk.copy();
        let value = rig.placed[group - 1].value.unwrap().place;
        disk.segment(SegmentId(1))[value.offset as usize] ^= 1;
        match recover(&mut disk, ME) {
            Err(RecoverError::Damaged { .. }) => assert!(is_damage, "nothing says that {group} was durable"),
            Ok(recovered) => assert!(!is_damage && recovered.torn.is_some(), "{group} was durable"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_torn_tail_is_told_with_its_place_and_size() {
    let mut rig = sealed_log(13);
    // Until the last segment is half full, and the next is made.
    for index in 14..=20 {
        if recover(&mut rig.disk, ME).unwrap().tail.segment.unwrap().id < *rig.disk.segments().last().unwrap() {
            break;
        }
        rig.entry(2, index, "key", &[1; 900]);
        rig.settle();
    }
    rig.pass(Duration::from_secs(1));
    rig.settle();
    assert_eq!(recover(&mut rig.disk, ME).unwrap().torn, None, "a whole log");
    let tail = recover(&mut rig.disk, ME).unwrap().tail;
    let (segment, end) = (tail.segment.unwrap().id, tail.end);
    let begin = end as usize;
    // The first bytes of a batch came to the disk, and no more.
    let file = rig.disk.segment(segment);
    file[begin..begin + 4].copy_from_slice(&format::BATCH_MAGIC);
    file[begin + 99] = 7;
    let torn = recover(&mut rig.disk, ME).unwrap().torn;
    assert_eq!(torn, Some(Torn { segment, offset: end, bytes: 100, is_fresh: true }));
    // All but the first bytes.
    rig.disk.segment(segment)[begin..begin + 4].fill(0);
    let torn = recover(&mut rig.disk, ME).unwrap().torn;
    assert_eq!(torn, Some(Torn { segment, offset: end, bytes: 100, is_fresh: false }));
    // One byte, with which no batch begins.
    rig.disk.segment(segment)[begin + 99] = 0;
    rig.disk.segment(segment)[begin] = 7;
    let torn = recover(&mut rig.disk, ME).unwrap().torn;
    assert_eq!(torn, Some(Torn { segment, offset: end, bytes: 1, is_fresh: false }));
    // A segment whose first write was cut off.
    rig.disk.segment(segment)[begin] = 0;
    let next = *rig.disk.segments().last().unwrap();
    assert!(next > segment, "a segment is ready");
    rig.disk.segment(next)[10] = 7;
    let torn = recover(&mut rig.disk, ME).unwrap().torn;
    assert_eq!(torn, Some(Torn { segment: next, offset: 0, bytes: 11, is_fresh: false }));
}
