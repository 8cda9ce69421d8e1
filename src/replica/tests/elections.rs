//! When a replica campaigns, and which leader it follows.

use super::*;

const NOW: Time = Time::from_millis(3_000);

/// An append without entries of a leader in this term.
fn heartbeat(leader: u16, term: u64) -> In {
    let (previous_index, previous_term, commit) = (Index::ZERO, Term::ZERO, Index::ZERO);
    let (term, entries, round, follower) = (Term(term), Vec::new(), 0, EPOCH);
    from(
        leader,
        ReplicaMessage::Append(Append {
            term,
            previous_index,
            previous_term,
            entries,
            commit,
            round,
            follower,
            everywhere: Index::ZERO,
            whole: false,
        }),
    )
}

/// Node 3, which follows node 1 in term 1.
fn follower(around: &Around, lossy: bool, voters: &[u16]) -> Replica {
    let options = ReplicaOptions { lossy, ..options() };
    let learners: &[u16] = if voters.contains(&3) { &[] } else { &[3] };
    let log = GroupLog::new(LogBase::default(), configuration(voters, &[], learners));
    let mut follower = Replica::new(options, HardState::default(), log);
    around.outputs(&mut follower, 3, NOW, In::Start);
    around.outputs(&mut follower, 3, NOW, heartbeat(1, 1));
    follower
}

#[test]
fn a_follower_whose_node_gives_the_leader_up_knows_no_leader_whether_it_had_accepted_it_or_not() {
    for around in [Around::nobody(), Around::peers(&[1, 2])] {
        let mut follower = follower(&around, false, &[1, 2, 3]);
        let other = around.outputs(&mut follower, 3, NOW, In::Withdrawn(NodeId(2)));
        assert!(other.is_empty(), "{other:?}");
        let out = around.outputs(&mut follower, 3, NOW, In::Withdrawn(NodeId(1)));
        assert!(out.iter().any(|out| matches!(out, Out::Leader(None, Term(1)))), "{out:?}");
        assert!(follower.deadline().is_some(), "it will campaign");
    }
}

#[test]
fn a_follower_stands_at_once_if_its_own_leader_asks_and_it_may_lead() {
    let (nobody, stop) = (Around::nobody, true);
    let cases = [
        ("asked by its leader", follower(&nobody(), false, &[1, 2, 3]), !stop, (1, 1), true),
        ("asked by another", follower(&nobody(), false, &[1, 2, 3]), !stop, (2, 1), false),
        ("asked in an earlier term", follower(&nobody(), false, &[1, 2, 3]), !stop, (1, 0), false),
        ("asked in a later term", follower(&nobody(), false, &[1, 2, 3]), !stop, (1, 2), false),
        ("its node stops", follower(&nobody(), false, &[1, 2, 3]), stop, (1, 1), false),
        ("it may lack something", follower(&nobody(), true, &[1, 2, 3]), !stop, (1, 1), false),
        ("it is no voter", follower(&nobody(), false, &[1, 2]), !stop, (1, 1), false),
    ];
    for (what, mut follower, stops, (leader, term), stands) in cases {
        if stops {
            step_at(&mut follower, 3, NOW, In::Stop);
        }
        let sent = step_at(&mut follower, 3, NOW, from(leader, ReplicaMessage::TimeoutNow { term: Term(term) }));
        let asks = sent.iter().any(|(_, message)| matches!(message, ReplicaMessage::Vote(_)));
        assert_eq!((asks, follower.term()), (stands, Term(1 + u64::from(stands))), "{what}");
    }
}

#[test]
fn a_release_is_acknowledged_unless_its_term_is_too_far_ahead_to_be_remembered() {
    for (term, acknowledged) in [(1, true), (5, true), (TERM_STEP_MAX, true), (TERM_STEP_MAX + 1, false)] {
        let term = Term(term);
        let sent = step(&mut replica(), 1, from(2, ReplicaMessage::Released { term }));
        let expected = if acknowledged { vec![(NodeId(2), ReplicaMessage::ReleasedReply { term })] } else { Vec::new() };
        assert_eq!(sent, expected);
    }
}

#[test]
fn who_leads_a_later_term_is_not_told_again_that_an_earlier_leadership_is_over() {
    let mut leader = leader_of(GroupLog::new(LogBase::default(), Configuration::of(VOTERS.to_vec())));
    let told = |sent: Vec<(NodeId, ReplicaMessage)>| {
        let released = sent.into_iter().filter(|(_, message)| matches!(message, ReplicaMessage::Released { .. }));
        released.map(|(to, _)| to.0).collect::<Vec<_>>()
    };
    assert_eq!(told(step_at(&mut leader, 1, NOW, heartbeat(2, 2))), [2, 3], "at once");
    assert_eq!(told(step_at(&mut leader, 1, NOW + SUPPORT, In::Timer)), [3], "one more time");
}

#[test]
fn a_campaign_that_nobody_answers_is_repeated_soon_but_not_before_slow_disks_could_have_voted() {
    for (sync_ms, least, most) in [(0, 1, 200), (100, 300, 800)] {
        let around = Around { sync: Duration::from_millis(sync_ms), ..Around::nobody() };
        let mut replica = replica();
        around.outputs(&mut replica, 1, NOW, In::Timer);
        assert!(!around.sent(&mut replica, 1, NOW, In::Turn).is_empty(), "it asks for pre-votes");
        let pause = replica.deadline().expect("it tries again").0.since(NOW).as_millis();
        assert!((least..=most).contains(&pause), "{pause} ms, with syncs of {sync_ms} ms");
    }
}

#[test]
fn a_replica_whose_campaigns_came_to_nothing_campaigns_soon_if_one_with_less_of_the_log_does() {
    for (last, soon) in [(4, true), (5, false), (6, false)] {
        let around = Around::nobody();
        let log = GroupLog::new(LogBase { index: Index(5), term: Term(1) }, Configuration::of(VOTERS.to_vec()));
        let mut replica = Replica::new(options(), HardState { term: Term(1), commit: Index(5), ..HardState::default() }, log);
        around.outputs(&mut replica, 1, NOW, In::Start);
        let mut now = NOW;
        for _ in 0..9 {
            now = replica.deadline().expect("it campaigns").0;
            around.outputs(&mut replica, 1, now, In::Timer);
            around.outputs(&mut replica, 1, now, In::Turn);
        }
        let planned = replica.deadline().expect("it campaigns").0;
        assert!(planned >= now + SUPPORT, "later and later");
        let request = VoteRequest { term: Term(2), last_index: Index(last), last_term: Term(1), released: None };
        around.outputs(&mut replica, 1, now, from(2, ReplicaMessage::PreVote(request)));
        let at = replica.deadline().expect("it campaigns").0;
        assert_eq!((at < planned, at < now + SUPPORT), (soon, soon), "last index {last}");
    }
}

#[test]
fn a_follower_that_may_not_accept_its_leader_yet_gives_it_a_span_of_support() {
    let follower = follower(&Around::nobody(), false, &[1, 2, 3]);
    assert!(follower.deadline().expect("it waits").0 >= NOW + SUPPORT);
}

#[test]
fn a_replica_whose_disk_is_unfit_leaves_the_first_campaign_to_one_that_is_fit() {
    for (own, other, waits) in [(false, false, false), (true, true, false), (true, false, true)] {
        let mut around = Around::peers(&[2]);
        around.view.own_disk.unfit = own;
        around.view.entry(NodeId(2)).disk.unfit = other;
        let log = GroupLog::new(LogBase::default(), Configuration::of(VOTERS.to_vec()));
        let mut replica = Replica::new(options(), HardState::default(), log);
        around.outputs(&mut replica, 1, NOW, In::Start);
        let (at, _) = replica.deadline().expect("it campaigns some day");
        assert_eq!(at >= NOW + SUPPORT, waits, "own disk unfit: {own}, the other's: {other}");
    }
}

#[test]
fn a_follower_whose_disk_is_full_refuses_what_is_new_and_says_what_it_has() {
    let write = |index| Entry { index: Index(index), term: Term(1), fact: Fact::Write { key: "k".into(), value: None } };
    let append = |entries| {
        let (previous_index, previous_term, commit) = (Index::ZERO, Term::ZERO, Index::ZERO);
        let (term, round, follower) = (Term(1), 0, EPOCH);
        from(
            1,
            ReplicaMessage::Append(Append {
                term,
                previous_index,
                previous_term,
                entries,
                commit,
                round,
                follower,
                everywhere: Index::ZERO,
                whole: false,
            }),
        )
    };
    let mut around = Around::nobody();
    let mut follower = follower(&around, false, &[1, 2, 3]);
    let mut outcome = |around: &Around, entries| match &around.sent(&mut follower, 3, NOW, append(entries))[..] {
        [(NodeId(1), ReplicaMessage::AppendReply(reply))] => reply.outcome,
        other => panic!("{other:?}"),
    };
    assert_eq!(outcome(&around, vec![write(1)]), AppendOutcome::Matched(Index(1)));
    around.room = Room::new(0, 1 << 20);
    assert_eq!(outcome(&around, vec![write(1), write(2)]), AppendOutcome::Full { matched: Index(1) });
    assert_eq!(outcome(&around, vec![write(1)]), AppendOutcome::Matched(Index(1)), "it has that");
    around.room = Room::AMPLE;
    assert_eq!(outcome(&around, vec![write(1), write(2)]), AppendOutcome::Matched(Index(2)));
}
