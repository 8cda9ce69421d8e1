//! Logs with random damage, started in spite of it.

use super::*;
use crate::base::ClusterId;
use crate::msg::cluster::{ClusterOptions, Member};
use crate::wal::witness::WITNESS;

/// A log as consensus writes it: groups whose entries above the commit index are replaced now and then, votes, several epochs,
/// several segments.
fn raft_log(seed: u64, rig: &mut Rig, groups: &mut BTreeMap<u32, (u64, u64, u64)>, steps: u64) {
    let mut dice = stream(seed, "raft");
    for step in 0..steps {
        let group = 1 + below(&mut dice, 3) as u32;
        let (term, last, commit) = groups.entry(group).or_default();
        match below(&mut dice, 10) {
            0 => {
                *term += 1;
                let vote = (below(&mut dice, 2) == 0).then_some(NodeId(1));
                rig.append(Record::HardState(GroupId(group), HardState { term: Term(*term), vote, commit: Index(*commit) }));
            }
            1 => {
                // A later leader replaces what is not committed.
                *term += 1;
                *last = *commit + below(&mut dice, *last - *commit + 1);
                rig.append(Record::HardState(
                    GroupId(group),
                    HardState { term: Term(*term), vote: None, commit: Index(*commit) },
                ));
            }
            2 => *commit = *last,
            _ => {}
        }
        *term = (*term).max(1);
        *last += 1;
        let (key, value) = (format!("key{}", below(&mut dice, 5)), vec![step as u8; 1 + below(&mut dice, 700) as usize]);
        rig.append(write(group, *last, *term, &key, Some(&value), *commit));
        if below(&mut dice, 3) == 0 {
            rig.settle();
        }
        if below(&mut dice, 40) == 0 {
            rig.settle();
            rig.pass(Duration::from_millis(50));
            rig.settle();
            rig.boot(options(8 * 1024)).expect("nothing is damaged");
        }
    }
    rig.settle();
    rig.pass(WITNESS_AFTER);
    rig.settle();
}

fn spoil(disk: &mut TestDisk, dice: &mut Random) {
    // Without the witness, of the end itself nothing may be left that says that it was there: rot in two places.
    let segments: Vec<SegmentId> = disk.segments().into_iter().filter(|id| *id != WITNESS).collect();
    let segment = segments[below(dice, segments.len() as u64) as usize];
    let file = disk.segment(segment);
    let at = below(dice, file.len() as u64) as usize;
    match below(dice, 4) {
        0 => file[at] ^= 1 << below(dice, 8),
        1 => {
            let sector = at / SECTOR * SECTOR;
            file[sector..sector + SECTOR].fill(0);
        }
        2 => {
            let until = (at + 1 + below(dice, 4096) as usize).min(file.len());
            file[at..until].fill(0);
        }
        _ => {
            let header = below(dice, 1024) as usize;
            file[header] ^= 1;
            file[(header + SEGMENT_HEADER_COPY_SIZE) % 1024] ^= 1;
        }
    }
}

/// What was recovered of a group is what its log was at some instant; and all of it, if it is whole.
fn judge(records: &[Record], recovered: &Recovered, seed: u64) {
    let all = Model::of(records);
    let found = Model::of_recovered(recovered);
    for (id, (state, entries)) in &all.groups {
        let Some(group) = recovered.groups.get(id) else {
            assert!(recovered.amnesiac, "seed {seed}: group {id} is gone, and nothing is said of it");
            continue;
        };
        let (found_state, found_entries) = &found.groups[id];
        if !group.amnesiac {
            assert_eq!((found_state, found_entries), (state, entries), "seed {seed}: group {id} is whole");
            continue;
        }
        let instant = (0..=records.len()).any(|until| {
            let then = Model::of(&records[..until]);
            then.groups.get(id).map_or(found_entries.is_empty(), |(_, then)| then.starts_with(found_entries))
        });
        assert!(instant, "seed {seed}: group {id} is as it never was: {found_entries:?}");
        let committed = found_state.commit.0 as usize;
        assert!(committed <= found_entries.len() && found_state.commit <= state.commit, "seed {seed}: group {id}");
        assert_eq!(found_entries[..committed], entries[..committed], "seed {seed}: group {id} has what was committed");
    }
}

#[test]
fn a_damaged_log_gives_each_group_as_it_was_and_says_which_have_forgotten_something() {
    let (mut whole, mut amnesiac, mut untouched, mut again) = (0, 0, 0, 0);
    for seed in 0..400 {
        let mut dice = stream(seed, "damage");
        let mut rig = Rig::new(options(8 * 1024), seed);
        let mut groups = BTreeMap::new();
        raft_log(seed, &mut rig, &mut groups, 60 + seed % 60);
        (0..1 + below(&mut dice, 2)).for_each(|_| spoil(&mut rig.disk, &mut dice));
        let recovered = match restore(&mut rig.disk, ME) {
            Ok(recovered) => recovered,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        judge(&rig.records, &recovered, seed);
        assert!(recovered.forgot || recovered.groups.values().all(|group| !group.amnesiac), "seed {seed}");
        if !recovered.forgot {
            untouched += 1;
            continue;
        }
        let lost = recovered.groups.values().filter(|group| group.amnesiac).count();
        *(if lost < recovered.groups.len() { &mut whole } else { &mut amnesiac }) += 1;
        // The epoch that has found the damage says where each group stands, and writes on: to a group that forgot something what
        // joins on to what is left.
        let found = Model::of_recovered(&recovered);
        let (default, mut records) = (recovered.amnesiac, Vec::new());
        rig.epoch = recovered.epoch.following(7);
        let stands: Vec<Record> = (1..=3)
            .map(GroupId)
            .map(|id| {
                let group = recovered.groups.get(&id);
                let (last, whole) = group.map_or((LogBase::default(), !default), |group| (group.last(), !group.amnesiac));
                Record::Stands { group: id, last, whole, is_last: id.0 == 3 }
            })
            .collect();
        let mut lasts = BTreeMap::new();
        for (id, group) in &recovered.groups {
            let (last, commit) = (group.last_index().0, group.state.commit.0);
            lasts.insert(id.0, (group.state.term.0.max(group.last().term.0), last, commit));
        }
        let first = recovered.tail.next_lsn;
        let mut log = Rig { log: Log::new(options(8 * 1024), recovered.tail), records: Vec::new(), ..rig };
        let mut append = |log: &mut Rig, record: Record| {
            records.push(record.clone());
            log.handle(In::Append(record));
        };
        let epoch = log.epoch;
        append(&mut log, Record::Epoch { epoch, forgot: true });
        stands.into_iter().for_each(|record| append(&mut log, record));
        for step in 0..10 {
            let group = 1 + below(&mut dice, 3) as u32;
            let (term, last, commit) = lasts.entry(group).or_insert((1, 0, 0));
            (*term, *last) = ((*term).max(1), *last + 1);
            append(&mut log, write(group, *last, *term, "key", Some(&[step; 100]), *commit));
            *commit = *last;
        }
        log.settle();
        log.pass(WITNESS_AFTER);
        log.settle();
        assert_eq!(log.halted, None, "seed {seed}");
        let second = restore(&mut log.disk, ME).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(!second.forgot, "seed {seed}: the damage is known: {:?}", second.damage);
        assert!(second.last_lsn() >= first, "seed {seed}: no position is used twice");
        assert!(second.epoch >= log.epoch, "seed {seed}: no epoch is used twice");
        for (id, group) in &second.groups {
            let (_, entries) = &Model::of_recovered(&second).groups[id];
            let last = lasts.get(&id.0).map_or(0, |(_, last, _)| *last);
            let before = found.groups.get(id).map_or(&[][..], |(_, entries)| &entries[..]);
            assert_eq!(&entries[..before.len()], before, "seed {seed}: group {id} goes on from there");
            assert_eq!(entries.len() as u64, last, "seed {seed}: group {id} has what was written since");
            assert!(group.amnesiac || found.groups.contains_key(id), "seed {seed}");
            again += 1;
        }
        // More rots, anywhere.
        spoil(&mut log.disk, &mut dice);
        let third = restore(&mut log.disk, ME).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(third.last_lsn() >= second.last_lsn() && third.epoch >= second.epoch, "seed {seed}: nothing is used twice");
        let (before, now) = (Model::of_recovered(&second), Model::of_recovered(&third));
        for (id, (state, entries)) in &before.groups {
            let Some(group) = third.groups.get(id) else {
                assert!(third.amnesiac, "seed {seed}: group {id} is gone, and nothing is said of it");
                continue;
            };
            assert!(group.amnesiac || !second.groups[id].amnesiac, "seed {seed}: group {id} has not become whole by itself");
            let (now_state, now_entries) = &now.groups[id];
            if group.amnesiac {
                // It may have less, or what it had of before the first damage; what is committed is the same.
                let committed = now_state.commit.0.min(entries.len() as u64) as usize;
                assert_eq!(now_entries[..committed], entries[..committed], "seed {seed}: group {id}");
            } else {
                assert_eq!((now_state, now_entries), (state, entries), "seed {seed}: group {id} is whole");
            }
        }
    }
    assert!(untouched > 20 && whole > 20 && amnesiac > 20 && again > 100);
}

/// Of group 1, each in a batch of its own, and witnessed.
fn five_entries() -> Rig {
    let mut rig = Rig::new(options(64 * 1024), 5);
    for index in 1..=5 {
        rig.entry(1, index, "key", b"value");
        rig.settle();
    }
    rig.pass(WITNESS_AFTER);
    rig.settle();
    rig
}

/// All is gone from the fourth of them on.
fn lose_the_end(rig: &mut Rig) {
    let from = rig.placed[3].record.offset as usize;
    rig.disk.segment(SegmentId(1))[from..].fill(0);
}

/// Peers have heard of records that the witness does not name yet.
#[test]
fn what_is_missing_of_the_end_is_not_numbered_again() {
    let mut rig = five_entries();
    for index in 6..=40 {
        rig.entry(1, index, "key", b"value");
        rig.settle();
    }
    let (epoch, durable) = (rig.epoch, rig.log.durable_lsn());
    lose_the_end(&mut rig);
    let found = restore(&mut rig.disk, ME).expect("it is started");
    assert!(found.forgot && found.groups[&GroupId(1)].amnesiac);
    assert_eq!(found.damage.len(), 1);
    assert!(found.last_lsn() > durable, "{} was durable, and the log goes on behind {}", durable, found.last_lsn());
    assert!(found.epoch > epoch);
}

/// What an epoch says of where groups stand is not to be believed of what came behind it.
#[test]
fn a_segment_that_is_cut_short_behind_what_it_says_of_groups_is_not_whole() {
    let mut rig = five_entries();
    lose_the_end(&mut rig);
    let found = restore(&mut rig.disk, ME).expect("it is started");
    let (last, segment) = (found.groups[&GroupId(1)].last(), SegmentId(found.tail.segment.unwrap().id.0 + 1));
    rig.epoch = found.epoch.following(7);
    let mut log = Rig { log: Log::new(options(64 * 1024), found.tail), ..rig };
    let epoch = log.epoch;
    for record in [
        Record::Epoch { epoch, forgot: true },
        Record::Stands { group: GroupId(1), last, whole: false, is_last: true },
        Record::Stands { group: GroupId(1), last, whole: true, is_last: false },
    ] {
        log.handle(In::Append(record));
    }
    log.settle();
    let end = log.disk.segment(segment).iter().rposition(|byte| *byte != 0).expect("it is written to") + 1;
    log.handle(In::Append(write(1, last.index.0 + 1, 1, "key", Some(b"acknowledged"), 0)));
    log.settle();
    assert!(!restore(&mut log.disk, ME).expect("it is started").groups[&GroupId(1)].amnesiac);
    log.disk.segment(segment).truncate(end);
    log.disk.remove(WITNESS);
    let cut = restore(&mut log.disk, ME).expect("it is started");
    assert!(cut.forgot && cut.groups[&GroupId(1)].amnesiac && cut.epoch > epoch);
}

/// The log of an old copy is sound, and peers know that it is not all.
#[test]
fn a_mark_about_the_log_s_own_node_loses_all_that_stands_before_it_once() {
    // Also where the original had begun anew before, with numbers far beyond.
    for seen in [Lsn(1_000), Lsn(3 << 40)] {
        let mut rig = five_entries();
        let mark = PeerMark { epoch: Epoch(7 << Epoch::NONCE_BITS), durable: seen };
        rig.append(Record::PeerMark(ME, mark));
        rig.settle();
        let found = restore(&mut rig.disk, ME).expect("it is started");
        assert!(found.forgot && found.groups[&GroupId(1)].amnesiac && found.peer_marks.is_empty());
        assert!(found.damage[0].what.contains("old copy") && found.damage.len() == 1, "{:?}", found.damage);
        assert!(found.last_lsn() > seen && found.epoch > mark.epoch, "{} {}", found.last_lsn(), found.epoch);
        let last = found.groups[&GroupId(1)].last();
        rig.epoch = found.epoch.following(7);
        let mut log = Rig { log: Log::new(options(64 * 1024), found.tail), ..rig };
        log.handle(In::Append(Record::Epoch { epoch: log.epoch, forgot: true }));
        log.handle(In::Append(Record::Stands { group: GroupId(1), last, whole: true, is_last: true }));
        log.settle();
        let again = restore(&mut log.disk, ME).expect("it is started");
        assert!(!again.forgot && !again.groups[&GroupId(1)].amnesiac);
        assert_eq!((again.epoch, again.groups[&GroupId(1)].last_index()), (log.epoch, last.index));
        // A copy of it may be put back in its turn.
        let mark = PeerMark { epoch: Epoch(log.epoch.0 + 1), durable: again.last_lsn() };
        log.handle(In::Append(Record::PeerMark(ME, mark)));
        log.settle();
        let third = restore(&mut log.disk, ME).expect("it is started");
        assert!(third.forgot && third.groups[&GroupId(1)].amnesiac && third.last_lsn() > again.last_lsn());
    }
}

/// Of each segment both copies of the header are gone. A batch with the cluster's formation tells whose log it is.
#[test]
fn a_log_without_any_header_is_started_from_if_it_knows_the_formation() {
    for seed in 0..100 {
        let mut rig = Rig::new(options(8 * 1024), seed);
        let directory = if seed % 4 == 3 { DirectoryId(999) } else { options(0).directory };
        let member = |node, directory| Member { node, directory, address: "a:1".into(), zone: String::new(), weight: 1 };
        let members = vec![member(ME, directory), member(NodeId(ME.0 + 1), DirectoryId(77))];
        let formation = Formation { cluster: ClusterId(9), members, options: ClusterOptions::default() };
        rig.append(Record::Formation(formation));
        raft_log(seed, &mut rig, &mut BTreeMap::new(), 30 + seed % 60);
        let (epoch, durable) = (rig.epoch, rig.log.durable_lsn());
        for segment in rig.disk.segments().into_iter().filter(|id| *id != WITNESS) {
            rig.disk.segment(segment)[..1024].fill(0);
        }
        let found = restore(&mut rig.disk, ME);
        if directory != options(0).directory {
            assert!(matches!(found, Err(RecoverError::Damaged { .. })), "seed {seed}: of another directory");
            continue;
        }
        let found = found.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        // Peers tell the formation once more, if its record is gone.
        assert_eq!(found.directory, Some(directory), "seed {seed}");
        assert!(found.forgot && found.groups.values().all(|group| group.amnesiac), "seed {seed}");
        assert!(found.epoch >= epoch && found.last_lsn() >= durable, "seed {seed}: nothing is used twice");
        judge(&rig.records, &found, seed);
    }
}

/// Zeros where the disk cannot read look like an end that was torn, or like a file that was never written to.
#[test]
fn where_some_cannot_be_read_nothing_is_whole() {
    let mut rig = five_entries();
    let (epoch, durable) = (rig.epoch, rig.log.durable_lsn());
    let from = rig.placed[4].record.offset as usize;
    rig.disk.segment(SegmentId(1))[from..].fill(0);
    rig.disk.remove(WITNESS);
    let plain = restore(&mut rig.disk, ME).expect("it is started");
    assert!(!plain.forgot && plain.damage.is_empty(), "nothing shows it");
    let left = restore_what_is_left(&mut rig.disk, ME).expect("it is started");
    assert!(left.forgot && left.groups[&GroupId(1)].amnesiac);
    assert!(left.last_lsn() > durable && left.epoch > epoch, "nothing is used twice");
    rig.disk.segment(SegmentId(1)).fill(0);
    let nothing = restore_what_is_left(&mut rig.disk, ME).expect("it is empty");
    assert!(nothing.directory.is_none() && !nothing.forgot, "nobody knows whose it is");
}
