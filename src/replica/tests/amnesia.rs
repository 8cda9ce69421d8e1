//! A replica whose log was damaged: what it says counts for nothing, until an entry is committed without it that came later.

use super::*;

const NOW: Time = Time::from_millis(3_000);

/// Node 3, in term 1, with one entry. It follows node 1.
fn amnesiac(around: &Around) -> Replica {
    let options = ReplicaOptions { amnesiac: true, ..options() };
    let log = GroupLog::new(LogBase::default(), configuration(&[1, 2, 3], &[], &[]));
    let mut replica = Replica::new(options, HardState::default(), log);
    around.outputs(&mut replica, 3, NOW, In::Start);
    around.outputs(&mut replica, 3, NOW, append(1, 0, &[1], 0, false, EPOCH));
    replica
}

/// Of a leader in this term: entries of these terms behind `previous`, which is of term 1.
fn append(term: u64, previous: u64, terms: &[u64], commit: u64, whole: bool, follower: Epoch) -> In {
    let entry = |(at, term): (usize, &u64)| Entry { index: Index(previous + 1 + at as u64), term: Term(*term), fact: Fact::Noop };
    let entries = terms.iter().enumerate().map(entry).collect();
    let previous_term = Term(u64::from(previous > 0));
    let message = Append {
        term: Term(term),
        previous_index: Index(previous),
        previous_term,
        entries,
        commit: Index(commit),
        round: 1,
        follower,
        everywhere: Index::ZERO,
        whole,
    };
    from(1, ReplicaMessage::Append(message))
}

fn replies(out: &[Out]) -> Vec<AppendReply> {
    let reply = |out: &Out| match out {
        Out::Send(_, ReplicaMessage::AppendReply(reply)) => Some(*reply),
        _ => None,
    };
    out.iter().filter_map(reply).collect()
}

fn votes(out: &[Out]) -> usize {
    let is_vote = |out: &&Out| matches!(out, Out::Send(_, ReplicaMessage::VoteReply(reply) | ReplicaMessage::PreVoteReply(reply)) if reply.granted);
    out.iter().filter(is_vote).count()
}

#[test]
fn an_amnesiac_follower_gives_no_vote_and_does_not_campaign_and_says_what_it_is() {
    for is_amnesiac in [true, false] {
        let around = Around::peers(&[1, 2]);
        let mut replica = amnesiac(&around);
        if !is_amnesiac {
            around.outputs(&mut replica, 3, NOW, append(1, 1, &[], 1, true, EPOCH));
        }
        let said = replies(&around.outputs(&mut replica, 3, NOW, append(1, 1, &[], 1, false, EPOCH)));
        assert_eq!(said.len(), 1);
        assert_eq!((said[0].amnesiac, said[0].acceptance), (is_amnesiac, (!is_amnesiac).then_some(PROMISE)));
        assert_eq!(said[0].outcome, AppendOutcome::Matched(Index(1)), "it takes entries all the same");

        let nobody = Around::nobody();
        let request = VoteRequest { term: Term(2), last_index: Index(9), last_term: Term(1), released: None };
        let asked = [ReplicaMessage::PreVote(request), ReplicaMessage::Vote(request)];
        let given: usize = asked.map(|ask| votes(&nobody.outputs(&mut replica, 3, NOW, from(2, ask)))).iter().sum();
        assert_eq!(given, if is_amnesiac { 0 } else { 2 });
        let later = Time::from_millis(60_000);
        let campaigns = nobody.outputs(&mut replica, 3, later, In::Timer).iter().any(|out| matches!(out, Out::AskTurn));
        assert_eq!(campaigns, !is_amnesiac);
        let stands = nobody.sent(&mut replica, 3, later, from(2, ReplicaMessage::TimeoutNow { term: Term(2) }));
        assert!(!is_amnesiac || stands.is_empty(), "{stands:?}");
    }
}

#[test]
fn its_amnesia_ends_by_its_leaders_word_to_this_epoch_alone() {
    // The append; whether that ends it.
    let cases = [
        ("all is committed, of the leader's own term", append(1, 1, &[1], 2, false, EPOCH), false),
        ("the word is to an earlier epoch", append(1, 1, &[1], 2, true, Epoch(0)), false),
        ("the word is of an earlier term", append(0, 0, &[], 0, true, EPOCH), false),
        ("the entries do not join on", append(1, 7, &[], 2, true, EPOCH), false),
        ("the word", append(1, 1, &[1], 2, true, EPOCH), true),
    ];
    for (what, append, ends) in cases {
        let around = Around::peers(&[1, 2]);
        let mut replica = amnesiac(&around);
        let out = around.outputs(&mut replica, 3, NOW, append);
        assert_eq!(out.iter().any(|out| matches!(out, Out::Whole)), ends, "{what}");
        assert_eq!(replica.is_amnesiac(), !ends, "{what}");
        let whole = out.iter().position(|out| matches!(out, Out::Whole));
        let said = out.iter().position(|out| matches!(out, Out::Send(..)));
        assert!(!ends || whole < said, "{what}: it is logged before it is said");
    }
}

/// The leader hears that node 3 has all up to here.
fn hears(around: &Around, leader: &mut Replica, now: Time, index: Index, amnesiac: bool) -> Vec<Out> {
    let (outcome, acceptance) = (AppendOutcome::Matched(index), (!amnesiac).then_some(PROMISE));
    let (term, commit) = (leader.term(), Index::ZERO);
    let reply = AppendReply { term, outcome, round: u64::MAX, acceptance, commit, synced: Some(Lsn(1)), amnesiac };
    around.outputs(leader, 1, now, from(3, ReplicaMessage::AppendReply(reply)))
}

fn wants_entry(out: &[Out]) -> bool {
    out.iter().any(|out| matches!(out, Out::WantsEntry))
}

/// Of the appends to node 3: whether any says that it is whole.
fn told_whole(out: &[Out]) -> bool {
    out.iter().any(|out| matches!(out, Out::Send(NodeId(3), ReplicaMessage::Append(append)) if append.whole))
}

#[test]
fn a_leader_counts_nothing_of_an_amnesiac_follower_until_a_later_entry_is_committed_without_it() {
    let around = Around::peers(&[2, 3]);
    let mut leader = leader_of(GroupLog::new(LogBase::default(), configuration(&[1, 2, 3], &[], &[])));
    hold(&mut leader, 1, Index(1));
    let first = hears(&around, &mut leader, NOW, Index(1), true);
    assert!(wants_entry(&first), "an entry is wanted: {first:?}");
    assert_eq!(leader.commit(), Index::ZERO, "its copy does not count");

    // What was there before it said so ends nothing, however much of it is committed.
    hold(&mut leader, 2, Index(1));
    assert_eq!(leader.commit(), Index(1));
    let out = hears(&around, &mut leader, NOW, Index(1), true);
    assert!(!told_whole(&out), "{out:?}");
    let confirms = |leader: &mut Replica, tag: u64, now: Time, index: u64, amnesiac: bool| {
        let mut out = around.outputs(leader, 1, now, In::Confirm(tag));
        out.extend(around.outputs(leader, 1, now, In::Flush));
        out.extend(hears(&around, leader, now, Index(index), amnesiac));
        out.iter().any(|out| matches!(out, Out::Confirmed(_)))
    };
    assert!(!confirms(&mut leader, 7, NOW, 1, true), "its rounds do not count either");

    let term = leader.term();
    let mut out = around.outputs(&mut leader, 1, NOW, In::Propose { index: Index(2), term, fact: Fact::Noop });
    hold(&mut leader, 1, Index(2));
    out.extend(hears(&around, &mut leader, NOW, Index(2), true));
    assert!(!told_whole(&out), "it has the entry, and no other has: {out:?}");
    assert_eq!(leader.commit(), Index(1));
    hold(&mut leader, 2, Index(2));
    assert_eq!(leader.commit(), Index(2));
    let later = Time::from_millis(3_100);
    let mut out = around.outputs(&mut leader, 1, later, In::Timer);
    out.extend(around.outputs(&mut leader, 1, later, In::Flush));
    assert!(told_whole(&out), "{out:?}");
    let out = hears(&around, &mut leader, later, Index(2), false);
    assert!(!wants_entry(&out) && !told_whole(&out), "{out:?}");
    assert!(confirms(&mut leader, 8, later, 2, false), "it counts");

    // From now on it counts; a late answer changes nothing.
    hears(&around, &mut leader, later, Index(2), true);
    around.outputs(&mut leader, 1, later, In::Propose { index: Index(3), term, fact: Fact::Noop });
    hold(&mut leader, 1, Index(3));
    hears(&around, &mut leader, later, Index(3), false);
    assert_eq!(leader.commit(), Index(3));
}

#[test]
fn an_amnesiac_follower_is_told_that_it_is_whole_only_once_it_has_the_entry() {
    let around = Around::peers(&[2, 3]);
    let mut leader = leader_of(GroupLog::new(LogBase::default(), configuration(&[1, 2, 3], &[], &[])));
    hold(&mut leader, 1, Index(1));
    hears(&around, &mut leader, NOW, Index::ZERO, true);
    let term = leader.term();
    around.outputs(&mut leader, 1, NOW, In::Propose { index: Index(2), term, fact: Fact::Noop });
    hold(&mut leader, 1, Index(2));
    hold(&mut leader, 2, Index(2));
    assert_eq!(leader.commit(), Index(2));
    for (held, whole) in [(1, false), (2, true)] {
        let [now, later] = [0, 900].map(|ms| Time::from_millis(2_000 + held * 1_000 + ms));
        let mut out = hears(&around, &mut leader, now, Index(held), true);
        out.extend(around.outputs(&mut leader, 1, later, In::Timer));
        assert_eq!(told_whole(&out), whole, "it has {held}: {out:?}");
    }
}

/// A leader that has accepted followers gives its leadership to none that would not stand.
#[test]
fn no_leadership_is_offered_to_an_amnesiac_follower() {
    for is_amnesiac in [true, false] {
        let around = Around::peers(&[3]);
        let mut leader = leader_of(GroupLog::new(LogBase::default(), configuration(&[1, 2, 3], &[], &[])));
        hold(&mut leader, 1, Index(1));
        hold(&mut leader, 2, Index(1));
        hears(&around, &mut leader, NOW, Index(1), is_amnesiac);
        let mut out = around.outputs(&mut leader, 1, NOW, In::Stop);
        out.extend(hears(&around, &mut leader, NOW, Index(1), is_amnesiac));
        let begun = out.iter().any(|out| matches!(out, Out::Paused(true)));
        assert_eq!(begun, !is_amnesiac, "{out:?}");
    }
}
