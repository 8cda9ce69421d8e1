//! How a leader feeds its followers, and gives the leadership away.

use super::*;
use crate::base::SegmentId;
use crate::base::limits::APPEND_ENTRIES_MAX;
use crate::msg::log::ValuePlace;

const NOW: Time = Time::from_millis(3_000);

fn reply(leader: &Replica, outcome: AppendOutcome, commit: Index) -> ReplicaMessage {
    let acceptance = Some(PROMISE);
    ReplicaMessage::AppendReply(AppendReply {
        term: leader.term(),
        outcome,
        round: 0,
        acceptance,
        commit,
        synced: Some(Lsn(1)),
        amnesiac: false,
    })
}

const RECORD: Place = Place { segment: SegmentId(1), offset: 0, length: 1 };

fn placed(index: Index, term: Term, value: Option<ValuePlace>) -> Placed {
    Placed { group: GroupId(1), index, term, lsn: Default::default(), record: RECORD, value }
}

/// A leader on node 1 that nodes 2 and 3 have accepted. They have its log, and know how much of it is committed.
fn accepted(around: &Around, log: GroupLog) -> Replica {
    let mut leader = leader_of(log);
    let (last, term) = (leader.log().last_index(), leader.term());
    around.outputs(&mut leader, 1, NOW, In::Placed(placed(last, term, None)));
    around.outputs(&mut leader, 1, NOW, In::Durable(last, term));
    for node in [2, 3] {
        around.outputs(&mut leader, 1, NOW, In::SupportGained(NodeId(node)));
        let reply = reply(&leader, AppendOutcome::Matched(last), last);
        around.outputs(&mut leader, 1, NOW, from(node, reply));
    }
    assert_eq!(leader.commit(), last);
    leader
}

fn empty_log() -> GroupLog {
    GroupLog::new(LogBase::default(), configuration(&[1, 2, 3], &[], &[]))
}

/// The leader logs a write of so many bytes, and sends it to the followers that take it now.
fn propose(around: &Around, leader: &mut Replica, now: Time, size: usize) -> Vec<(u16, u64, usize)> {
    let (index, term) = (leader.log().last_index().next(), leader.term());
    let fact = Fact::Write { key: "k".into(), value: Some(vec![7; size].into()) };
    around.outputs(leader, 1, now, In::Propose { index, term, fact });
    around.outputs(leader, 1, now, In::Placed(placed(index, term, Some(ValuePlace { place: RECORD, checksum: 0 }))));
    appends(&around.sent(leader, 1, now, In::Flush))
}

/// The node has all up to there, and knows that the first entry is committed.
fn matches(around: &Around, leader: &mut Replica, node: u16, now: Time, index: u64) -> Vec<(u16, u64, usize)> {
    let reply = reply(leader, AppendOutcome::Matched(Index(index)), Index(1));
    appends(&around.sent(leader, 1, now, from(node, reply)))
}

fn timer(around: &Around, leader: &mut Replica, now: Time) -> Vec<(u16, u64, usize)> {
    appends(&around.sent(leader, 1, now, In::Timer))
}

/// What the leader sends on this input, while both followers answer all appends at once.
fn answered(around: &Around, leader: &mut Replica, now: Time, input: In) -> Vec<(NodeId, ReplicaMessage)> {
    let mut sent = around.sent(leader, 1, now, input);
    let mut answered = 0;
    while let Some((node, message)) = sent.get(answered).cloned() {
        answered += 1;
        if let ReplicaMessage::Append(append) = message {
            sent.extend(around.sent(leader, 1, now, from(node.0, answer(&append))));
        }
    }
    sent
}

/// Of a follower that takes all.
fn answer(append: &Append) -> ReplicaMessage {
    let last = Index(append.previous_index.0 + append.entries.len() as u64);
    let (outcome, acceptance) = (AppendOutcome::Matched(last), Some(PROMISE));
    let (term, round, commit) = (append.term, append.round, append.commit);
    ReplicaMessage::AppendReply(AppendReply { term, outcome, round, acceptance, commit, synced: Some(Lsn(1)), amnesiac: false })
}

#[test]
fn a_follower_that_says_it_has_more_than_there_is_is_not_believed() {
    let mut leader = leader_of(empty_log());
    hold(&mut leader, 1, Index(1));
    hold(&mut leader, 2, Index(99));
    assert_eq!(leader.commit(), Index::ZERO);
    hold(&mut leader, 2, Index(1));
    assert_eq!(leader.commit(), Index(1));
}

#[test]
fn a_follower_is_told_once_how_much_is_committed_while_its_answer_is_under_way() {
    let around = Around::peers(&[2, 3]);
    let mut leader = accepted(&around, empty_log());
    propose(&around, &mut leader, NOW, 1);
    [2, 3].into_iter().for_each(|node| _ = matches(&around, &mut leader, node, NOW, 2));
    assert_eq!(leader.commit(), Index(2));
    let soon = NOW + Duration::from_millis(10);
    assert_eq!(timer(&around, &mut leader, soon), [(2, 2, 0), (3, 2, 0)]);
    let again = appends(&around.sent(&mut leader, 1, soon, In::SupportGained(NodeId(3))));
    assert_eq!(again, [(3, 2, 0)], "whose support comes anew");
}

#[test]
fn a_follower_that_gets_on_is_asked_for_the_rest_as_soon_as_one_that_was_never_slow() {
    let around = Around::peers(&[2, 3]);
    let mut leader = accepted(&around, empty_log());
    assert_eq!(propose(&around, &mut leader, NOW, 1), [(2, 1, 1), (3, 1, 1)]);
    assert_eq!(propose(&around, &mut leader, NOW, 1), [(2, 2, 1), (3, 2, 1)]);
    let (mut now, mut asked) = (NOW, Vec::new());
    while asked.len() < 5 {
        now = now + Duration::from_millis(10);
        asked.extend(timer(&around, &mut leader, now).iter().filter(|(to, ..)| *to == 2).map(|_| now));
    }
    let pauses: Vec<u128> = asked.windows(2).map(|two| two[1].since(two[0]).as_millis()).collect();
    assert!(pauses.is_sorted() && pauses[3] > 4 * pauses[0], "ever more seldom: {pauses:?}");
    matches(&around, &mut leader, 2, now, 2);
    let sent = timer(&around, &mut leader, now + SUPPORT / 2);
    assert!(sent.iter().any(|(to, ..)| *to == 2), "{sent:?}");
}

#[test]
fn a_follower_whose_disk_has_room_again_is_sent_at_once_what_it_was_spared() {
    let mut around = Around::peers(&[2, 3]);
    around.view.entry(NodeId(2)).disk.full = true;
    let mut leader = accepted(&around, empty_log());
    assert_eq!(propose(&around, &mut leader, NOW, 10_000), [(3, 1, 1)]);
    let later = NOW + SUPPORT;
    around.view.entry(NodeId(2)).disk.full = false;
    around.outputs(&mut leader, 1, later, In::Recovered(NodeId(2)));
    assert!(timer(&around, &mut leader, later).contains(&(2, 1, 1)));
}

#[test]
fn a_follower_that_refused_for_want_of_room_is_left_alone_and_the_leader_does_not_wake_all_the_time() {
    let mut around = Around::peers(&[2, 3]);
    around.view.entry(NodeId(2)).disk.full = true;
    let mut leader = accepted(&around, empty_log());
    assert_eq!(propose(&around, &mut leader, NOW, 1), [(2, 1, 1), (3, 1, 1)]);
    let full = reply(&leader, AppendOutcome::Full { matched: Index(1) }, Index(1));
    around.outputs(&mut leader, 1, NOW, from(2, full));
    let mut tried = Vec::new();
    for millis in 1..=250 {
        let now = NOW + Duration::from_millis(millis);
        tried.extend(timer(&around, &mut leader, now).iter().filter(|(to, ..)| *to == 2).map(|_| millis));
        assert!(leader.deadline().expect("it looks after it").0 > now, "at {millis} ms");
    }
    assert_eq!(tried, [200]);
}

#[test]
fn a_leader_does_not_wake_all_the_time_for_a_follower_that_has_no_room_for_what_it_lacks() {
    let mut around = Around::peers(&[2, 3]);
    around.view.entry(NodeId(2)).disk.full = true;
    let mut leader = accepted(&around, empty_log());
    assert_eq!(propose(&around, &mut leader, NOW, 10_000), [(3, 1, 1)]);
    let term = leader.term();
    around.outputs(&mut leader, 1, NOW, In::Durable(Index(2), term));
    matches(&around, &mut leader, 3, NOW, 2);
    assert_eq!(leader.commit(), Index(2));
    let soon = NOW + Duration::from_millis(10);
    timer(&around, &mut leader, soon);
    assert!(leader.deadline().expect("it looks after it").0 > soon);
}

#[test]
fn what_was_read_back_for_a_follower_counts_against_its_budget_until_it_is_answered() {
    let configuration = configuration(&[1, 2, 3], &[], &[]);
    let log = GroupLog::recovered(LogBase::default(), configuration, (1..=3).map(|index| noop(index, 100)).collect(), Index(3));
    let mut leader = leader_of(log);
    let catch_up = |leader: &Replica| {
        let of = leader.outstanding().find(|outstanding| outstanding.node == NodeId(2)).expect("a follower");
        (of.bytes, of.catch_up)
    };
    let outcome = AppendOutcome::Conflict { index: Index(1), term: Term::ZERO, previous: leader.log().last_index() };
    let conflict = reply(&leader, outcome, Index::ZERO);
    let asked = outputs(&mut leader, 1, NOW, from(2, conflict));
    let (bytes, being_read) = catch_up(&leader);
    assert!(bytes >= 300 && being_read == bytes, "{bytes}, {being_read}");
    for out in asked {
        if let Out::ReadEntry(tag, place) = out {
            let fact = Fact::Write { key: "k".into(), value: Some(vec![7; 1_000].into()) };
            let entry = Entry { index: Index(place.offset.into()), term: Term(1), fact };
            outputs(&mut leader, 1, NOW, In::Entry(tag, Ok(entry)));
        }
    }
    let (bytes, sent) = catch_up(&leader);
    assert!(bytes >= 3_000 && sent == bytes, "{bytes}, {sent}");
    hold(&mut leader, 2, Index(3));
    assert_eq!(catch_up(&leader).1, 0);
}

/// At the second attempt; and not while the disk has too much to do.
#[test]
fn a_follower_that_lacks_an_entry_that_has_rotted_is_sent_the_state() {
    for (why, expected) in [(Unread::Rotten, 1), (Unread::Overloaded, 0)] {
        let around = Around::peers(&[2, 3]);
        let summary = |index| EntrySummary {
            index: Index(index),
            term: Term(1),
            fact: FactSummary::Noop,
            record: Place { offset: index as u32, length: 1, ..Place::default() },
        };
        let first = configuration(&[1, 2, 3], &[], &[]);
        let log = GroupLog::recovered(LogBase::default(), first, (1..=6).map(summary).collect(), Index(6));
        let mut leader = leader_with(log, Index(6));
        let conflict = AppendOutcome::Conflict { index: Index(4), term: Term::ZERO, previous: leader.log().last_index() };
        let lacks = from(2, reply(&leader, conflict, Index(3)));
        let mut outputs = around.outputs(&mut leader, 1, NOW, lacks);
        let (mut reads, mut states) = (0, 0);
        for millis in 1..=900 {
            let now = NOW + Duration::from_millis(millis);
            let mut next = around.outputs(&mut leader, 1, now, In::Timer);
            for out in outputs {
                match out {
                    Out::ReadEntry(tag, Place { offset: 4, .. }) => {
                        reads += 1;
                        next.extend(around.outputs(&mut leader, 1, now, In::Entry(tag, Err(why))));
                    }
                    Out::Send(NodeId(2), ReplicaMessage::Append(append)) => {
                        let matched = from(2, reply(&leader, AppendOutcome::Matched(append.previous_index), Index(3)));
                        next.extend(around.outputs(&mut leader, 1, now, matched));
                    }
                    Out::LacksBase(NodeId(2)) => states += 1,
                    _ => {}
                }
            }
            outputs = next;
        }
        assert_eq!(states, expected, "{why:?}");
        assert_eq!(reads > 2, expected == 0, "{reads} reads");
    }
}

#[test]
fn an_unfit_leader_of_a_long_log_hands_over_to_a_fit_follower_that_has_it() {
    let last = APPEND_ENTRIES_MAX as u64 + 100;
    let configuration = configuration(&[1, 2, 3], &[], &[]);
    let log =
        GroupLog::recovered(LogBase::default(), configuration, (1..=last).map(|index| noop(index, 1)).collect(), Index::ZERO);
    let mut around = Around::peers(&[2, 3]);
    let mut leader = accepted(&around, log);
    around.view.own_disk.unfit = true;
    around.view.entry(NodeId(2)).disk.unfit = true;
    around.outputs(&mut leader, 1, NOW, In::Fitness);
    let sent = answered(&around, &mut leader, NOW + SUPPORT, In::Timer);
    assert!(sent.contains(&(NodeId(3), ReplicaMessage::TimeoutNow { term: leader.term() })), "{sent:?}");
}

#[test]
fn a_leader_that_has_handed_over_waits_for_its_heir_longer_while_disks_are_slow() {
    for (sync_ms, until) in [(0, 400), (100, 800)] {
        let around = Around { sync: Duration::from_millis(sync_ms), ..Around::peers(&[2, 3]) };
        let mut leader = accepted(&around, empty_log());
        let sent = answered(&around, &mut leader, NOW, In::Stop);
        assert!(sent.contains(&(NodeId(2), ReplicaMessage::TimeoutNow { term: leader.term() })), "{sent:?}");
        timer(&around, &mut leader, NOW + Duration::from_millis(until - 1));
        assert!(leader.leads(), "syncs of {sync_ms} ms");
        timer(&around, &mut leader, NOW + Duration::from_millis(until));
        assert!(!leader.leads(), "syncs of {sync_ms} ms");
    }
}

/// It may be gone, and its promise last. What another follower answers says nothing of it.
#[test]
fn a_leader_gives_nothing_up_for_a_follower_that_does_not_answer() {
    let around = Around::peers(&[2, 3]);
    let mut leader = accepted(&around, empty_log());
    let given_up = |out: &Out| matches!(out, Out::Paused(true) | Out::Send(_, ReplicaMessage::TimeoutNow { .. }));
    for out in around.outputs(&mut leader, 1, NOW, In::Stop) {
        assert!(!given_up(&out), "{out:?}");
        if let Out::Send(NodeId(3), ReplicaMessage::Append(append)) = out {
            let outputs = around.outputs(&mut leader, 1, NOW, from(3, answer(&append)));
            assert!(!outputs.iter().any(given_up), "{outputs:?}");
        }
    }
    let again = appends(&around.sent(&mut leader, 1, NOW + SUPPORT / 2, In::Timer));
    assert!(again.contains(&(2, 1, 0)), "the question may have been lost: {again:?}");
    let sent = answered(&around, &mut leader, NOW + SUPPORT, In::Timer);
    assert!(sent.contains(&(NodeId(3), ReplicaMessage::TimeoutNow { term: leader.term() })), "the next is asked: {sent:?}");
}

#[test]
fn a_follower_that_answers_a_heartbeat_is_handed_the_leadership_though_its_link_is_full() {
    let mut around = Around::peers(&[2, 3]);
    let mut leader = accepted(&around, empty_log());
    around.outputs(&mut leader, 1, NOW, In::Stop);
    let timeout_now = (NodeId(2), ReplicaMessage::TimeoutNow { term: leader.term() });
    for (answered, asked) in [(NOW - Duration::from_millis(1), false), (NOW, true)] {
        around.view.entry(NodeId(2)).answered = answered;
        let sent = around.sent(&mut leader, 1, NOW + SUPPORT / 4, In::Timer);
        assert_eq!(sent.contains(&timeout_now), asked, "{sent:?}");
    }
}

#[test]
fn recoveries_of_the_preferred_leaders_disk_do_not_put_off_that_it_gets_the_leadership() {
    let around = Around::peers(&[2, 3]);
    let mut leader = accepted(&around, GroupLog::new(LogBase::default(), configuration(&[2, 1, 3], &[], &[])));
    let timeout_now = (NodeId(2), ReplicaMessage::TimeoutNow { term: leader.term() });
    let handed_over = (50..8_000).step_by(50).find(|millis| {
        let now = NOW + Duration::from_millis(*millis);
        if millis % 1_000 == 0 {
            around.outputs(&mut leader, 1, now, In::Recovered(NodeId(2)));
        }
        answered(&around, &mut leader, now, In::Timer).contains(&timeout_now)
    });
    // Eight spans of support, and up to one more.
    assert!(handed_over.is_some_and(|millis| (3_200..=3_650).contains(&millis)), "{handed_over:?}");
}

/// Nobody tells it when a follower that has just restarted may stand for election: its clock does.
#[test]
fn a_leader_whose_node_stops_hands_over_as_soon_as_a_follower_that_has_just_restarted_may_stand() {
    let mut around = Around::peers(&[2, 3]);
    let mut leader = accepted(&around, empty_log());
    let votes_from = NOW + Duration::from_millis(230);
    [2, 3].into_iter().for_each(|node| around.view.entry(NodeId(node)).votes_from = votes_from);
    assert_eq!(around.sent(&mut leader, 1, NOW, In::Stop), []);
    // What is told of a disk in between changes nothing.
    around.outputs(&mut leader, 1, NOW + Duration::from_millis(10), In::Recovered(NodeId(2)));
    let timeout_now = (NodeId(2), ReplicaMessage::TimeoutNow { term: leader.term() });
    let handed_over = (10..2_000)
        .step_by(10)
        .find(|millis| answered(&around, &mut leader, NOW + Duration::from_millis(*millis), In::Timer).contains(&timeout_now));
    assert!(handed_over.is_some_and(|millis| (230..=330).contains(&millis)), "{handed_over:?}");
}
