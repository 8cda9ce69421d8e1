//! Batches: what goes into one, what stays free behind it, and which bytes pass for one.

use super::*;
use crate::wal::batch::{Batch, Parts};
use crate::wal::format::{BatchHeader, EMPTY_BATCH_SIZE, FORMAT_VERSION, directory_nonce};

#[test]
fn behind_the_last_record_of_a_segment_a_seal_fits_and_what_is_kept_for_the_next_epochs() {
    for together in [false, true] {
        let mut least = u32::MAX;
        for size in 6_150..6_300 {
            let mut rig = Rig::new(options(8 * 1024), 30);
            if !together {
                rig.settle();
            }
            let last = rig.entry(1, 1, "key", &vec![7; size]);
            rig.settle();
            if last.record.segment == SegmentId(1) {
                least = least.min(8 * 1024 - recover(&mut rig.disk, ME).unwrap().tail.end);
            }
        }
        assert_eq!(least, EMPTY_BATCH_SIZE + 512, "to the byte; together: {together}");
    }
}

#[test]
fn what_is_appended_together_is_one_batch_in_the_smallest_segment_too() {
    let mut rig = Rig::new(options(8 * 1024), 31);
    rig.settle();
    let before = rig.log.counters().batches;
    (1..=20).for_each(|index| _ = rig.entry(1, index, "key", b"value"));
    rig.settle();
    assert_eq!(rig.log.counters().batches - before, 1);
}

#[test]
fn what_waits_in_any_of_several_batches_is_read() {
    let mut rig = Rig::new(options(8 * 1024), 32);
    let values: Vec<Vec<u8>> = (1..=12u8).map(|index| vec![index; 900 + 70 * usize::from(index)]).collect();
    let placed: Vec<Placed> =
        (1..).zip(&values).map(|(index, value)| rig.entry(1, index, &format!("key{index}"), value)).collect();
    assert!(placed[11].record.segment > SegmentId(2), "they take several segments");
    loop {
        for (placed, value) in placed.iter().zip(&values) {
            rig.handle(In::ReadValue(READ, placed.value.unwrap()));
            while matches!(rig.disk.queue.front(), Some((_, DiskOp::Read { .. }))) {
                rig.execute();
            }
            let (_, read) = rig.values.pop().expect("it was asked for");
            assert_eq!(read.as_deref(), Ok(&value[..]));
        }
        rig.handle(In::Flush);
        if !rig.execute() {
            break;
        }
    }
    assert_eq!(rig.durable, rig.log.last_lsn());
}

/// Behind the log, a batch that is whole to the last byte and names the batch before it.
#[test]
fn a_batch_whose_header_contradicts_the_log_is_not_believed() {
    let mut rig = Rig::new(options(64 * 1024), 33);
    rig.settle();
    rig.boot(options(64 * 1024)).unwrap();
    rig.settle();
    let tail = recover(&mut rig.disk, ME).unwrap().tail;
    let (right, epoch, segment) = (tail.next_lsn, tail.epoch, tail.segment.unwrap().id);
    assert!(epoch > Epoch(1));
    let cases = [
        (right, epoch, true),
        (right.next(), epoch, false),
        (Lsn(right.0 - 1), epoch, false),
        (right, Epoch(1), false),
        (right, Epoch(COUNTER_MAX), false),
    ];
    let nonce = directory_nonce(DirectoryId(0xD1));
    let header = |epoch, length, count| BatchHeader {
        version: FORMAT_VERSION,
        flags: 0,
        sequence: tail.next_sequence,
        epoch,
        previous: tail.chain,
        behind: 0,
        length,
        nonce,
        first_lsn: right,
        count,
    };
    let found = |bytes: &[u8]| {
        let mut disk = rig.disk.copy();
        disk.segment(segment)[tail.end as usize..][..bytes.len()].copy_from_slice(bytes);
        let recovered = recover(&mut disk, ME).unwrap();
        (recovered.last_lsn(), recovered.torn.is_none())
    };
    for (first_lsn, epoch, believed) in cases {
        let mut batch = Batch::new(segment, tail.end, nonce, first_lsn, 0);
        batch.push(Parts::of(write(1, 1, 1, "key", None, 0)));
        let bytes = batch.finish(header(epoch, 0, 0)).data.concat();
        let last = if believed { right } else { Lsn(right.0 - 1) };
        assert_eq!(found(&bytes), (last, believed), "{first_lsn:?}, {epoch:?}");
    }
    // One that is too short for the records that it counts, or does not end within the segment.
    for (length, count) in [(EMPTY_BATCH_SIZE, 1), (EMPTY_BATCH_SIZE, u32::MAX), (64 * 1024, 1), (u32::MAX, 1)] {
        let (bytes, _) = header(epoch, length, count).encode(segment, tail.end);
        assert_eq!(found(&bytes), (Lsn(right.0 - 1), false), "{length} bytes, {count} records");
    }
}
