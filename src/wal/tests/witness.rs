//! The second witness of the log's end: what it vouches for cannot vanish, and what becomes of it harms nothing.

use super::*;
use crate::wal::witness::WITNESS;

/// A log that has fallen idle, of segments of this size.
fn idle_log(segment_size: u32, entries: u64, seed: u64) -> Rig {
    let mut rig = Rig::new(options(segment_size), seed);
    for index in 1..=entries {
        rig.entry(1, index, "key", &[index as u8; 100]);
        rig.settle();
    }
    for _ in 0..3 {
        rig.pass(WITNESS_AFTER);
        rig.settle();
    }
    assert_eq!(rig.log.deadline(), None, "an idle log has nothing to do");
    rig
}

/// Zeroes, or garbles, so many bytes before the end of what was written.
fn rot_tail(rig: &mut Rig, bytes: usize, zeros: bool) {
    let tail = recover(&mut rig.disk.copy(), ME).unwrap().tail;
    let end = tail.end as usize;
    let file = rig.disk.segment(tail.segment.unwrap().id);
    file[end - bytes.min(end)..end].iter_mut().for_each(|byte| *byte = if zeros { 0 } else { *byte ^ 0x5A });
}

#[test]
fn the_end_of_an_idle_log_cannot_vanish_without_a_word() {
    for bytes in [130, SECTOR, 1000, 4096, 1 << 20] {
        for zeros in [false, true] {
            // In one segment; and at the very beginning of a later one.
            for (size, entries) in [(1 << 20, 60), (16 * 1024, 60), (16 * 1024, 58), (16 * 1024, 1)] {
                let mut rig = idle_log(size, entries, 20);
                rot_tail(&mut rig, bytes, zeros);
                let error = recover(&mut rig.disk, ME).map(|_| ()).unwrap_err();
                assert!(matches!(error, RecoverError::Damaged { .. }), "{bytes} bytes, {zeros}: {error}");
            }
        }
    }
}

#[test]
fn a_seal_alone_may_vanish() {
    let mut rig = idle_log(1 << 20, 10, 21);
    rot_tail(&mut rig, format::EMPTY_BATCH_SIZE as usize, true);
    let recovered = recover(&mut rig.disk, ME).unwrap();
    assert_eq!(Model::of_recovered(&recovered), Model::of(&rig.records));
}

#[test]
fn a_witness_that_is_torn_lost_or_rotten_changes_nothing() {
    let mut rig = idle_log(64 * 1024, 30, 22);
    let intact = Model::of(&rig.records);
    let mut random = stream(22, "witness");
    for round in 0..400 {
        let mut disk = rig.disk.copy();
        match round {
            0 => disk.remove(WITNESS),
            1 => disk.segment(WITNESS).truncate(700),
            2 => disk.segment(WITNESS).fill(0),
            _ => {
                let bytes = disk.segment(WITNESS);
                let at = (below(&mut random, 2) * 4096 + below(&mut random, 60)) as usize;
                bytes[at] ^= 1 << below(&mut random, 8);
            }
        }
        assert_eq!(Model::of_recovered(&recover(&mut disk, ME).unwrap()), intact);
    }
    // And the next epoch makes it anew.
    rig.disk.remove(WITNESS);
    rig.boot(options(64 * 1024)).unwrap();
    rig.settle();
    rig.pass(WITNESS_AFTER);
    rig.settle();
    assert_eq!(rig.disk.segment(WITNESS).len(), 8192);
    rot_tail(&mut rig, 200, true);
    assert!(matches!(recover(&mut rig.disk, ME), Err(RecoverError::Damaged { .. })));
}

#[test]
fn the_older_witness_stands_while_the_newer_is_written() {
    let mut rig = idle_log(64 * 1024, 5, 23);
    for index in 6..=20 {
        rig.entry(1, index, "key", b"value");
        rig.settle();
        let before = rig.disk.copy();
        rig.pass(WITNESS_AFTER);
        rig.settle();
        // Torn: of the slot that was written nothing is whole.
        let mut torn = before;
        let (old, new) = (torn.segment(WITNESS).clone(), rig.disk.segment(WITNESS).clone());
        let changed = (0..old.len()).find(|at| old[*at] != new[*at]).expect("it says more than before") / 4096;
        torn.segment(WITNESS)[changed * 4096..][..SECTOR].fill(0xEE);
        let tail = recover(&mut torn, ME).unwrap().tail;
        assert_eq!(tail.witness.end().map(|end| end.lsn.0), Some(rig.records.len() as u64 - 1), "entry {index}");
    }
}

#[test]
fn under_load_the_witness_follows_but_not_each_batch() {
    let mut rig = Rig::new(options(1 << 20), 24);
    for index in 1..=1000 {
        rig.entry(1, index, "key", b"value");
        rig.settle();
        rig.pass(Duration::from_millis(1));
        rig.settle();
        assert!(index < 110 || rig.log.is_witnessed(rig.now, Lsn(index - 105)), "{index}");
    }
    let counters = rig.log.counters();
    assert!((8..=11).contains(&counters.witnesses), "{counters:?}");
}

#[test]
fn a_clean_end_is_witnessed_at_once() {
    let mut rig = idle_log(64 * 1024, 3, 25);
    rig.append(Record::Clean);
    rig.settle();
    assert!(rig.log.is_witnessed(rig.now, rig.log.last_lsn()));
}

#[test]
fn a_record_is_vouched_for_once_the_witness_says_so_or_while_there_is_no_room_for_one() {
    let mut rig = Rig::new(options(64 * 1024), 28);
    rig.settle();
    assert_eq!((rig.durable, rig.log.is_witnessed(rig.now, Lsn(1))), (Lsn(1), false));
    rig.disk.full = true;
    rig.pass(WITNESS_AFTER);
    rig.settle();
    assert!(rig.log.is_witnessed(rig.now, Lsn(1)), "there is no room to see to it");
    rig.disk.full = false;
    rig.now = rig.log.deadline().expect("it is tried again").0;
    rig.handle(In::Timer);
    assert!(!rig.log.is_witnessed(rig.now, Lsn(1)), "it is being made");
    rig.settle();
    assert!(rig.log.is_witnessed(rig.now, Lsn(1)) && !rig.log.is_witnessed(rig.now, Lsn(2)));
    assert_eq!(recover(&mut rig.disk, ME).unwrap().tail.witness.end().map(|end| end.lsn), Some(Lsn(1)));
}
