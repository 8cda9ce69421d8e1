//! What one message may do to a replica. Interleavings of several are told by `tests/scripts/`.

use super::Unread;
use super::log::GroupLog;
use super::{In, Out, Replica, ReplicaOptions, TERM_MAX, TERM_STEP_MAX};
use crate::actor::{Actor, Context, LivenessView, Outbox, Room};
use crate::base::cache::ValueCache;
use crate::base::random;
use crate::base::{Duration, Epoch, GroupId, Index, Lsn, NodeId, Place, Term, Time};
use crate::msg::configuration::Configuration;
use crate::msg::log::{Entry, EntrySummary, Fact, FactSummary, HardState, LogBase, Placed};
use crate::msg::peer::{Append, AppendOutcome, AppendReply, Promise, ReplicaMessage, VoteReply, VoteRequest};

mod amnesia;
mod elections;
mod leaders;

const VOTERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const EPOCH: Epoch = Epoch(1);
const SUPPORT: Duration = Duration::from_millis(400);

fn options() -> ReplicaOptions {
    let (group, no_vote_until) = (GroupId(1), Time::ZERO);
    ReplicaOptions { group, support: SUPPORT, no_vote_until, lossy: false, amnesiac: false, synced: true }
}

fn replica() -> Replica {
    let mut replica =
        Replica::new(options(), HardState::default(), GroupLog::new(LogBase::default(), Configuration::of(VOTERS.to_vec())));
    step(&mut replica, 1, In::Start);
    replica
}

/// Node 1, elected by node 2 in term 1.
fn leader_of(log: GroupLog) -> Replica {
    leader_with(log, Index::ZERO)
}

/// The same, of which it knows that it is committed up to here.
fn leader_with(log: GroupLog, commit: Index) -> Replica {
    let mut replica = Replica::new(options(), HardState { term: log.last_term(), commit, ..HardState::default() }, log);
    step(&mut replica, 1, In::Start);
    let now = Time::from_millis(2_000);
    step_at(&mut replica, 1, now, In::Timer);
    step_at(&mut replica, 1, now, In::Turn);
    let yes = VoteReply { term: replica.term().next(), granted: true, lossy: false };
    step_at(&mut replica, 1, now, from(2, ReplicaMessage::PreVoteReply(yes)));
    step_at(&mut replica, 1, now, from(1, ReplicaMessage::VoteReply(yes)));
    step_at(&mut replica, 1, now, from(2, ReplicaMessage::VoteReply(yes)));
    assert!(replica.leads());
    replica
}

/// An entry of term 1 whose record is of so many bytes.
fn noop(index: u64, length: u32) -> EntrySummary {
    let record = Place { offset: index as u32, length, ..Place::default() };
    EntrySummary { index: Index(index), term: Term(1), fact: FactSummary::Noop, record }
}

fn from(node: u16, message: ReplicaMessage) -> In {
    In::Message(NodeId(node), EPOCH, message)
}

fn configuration(voters: &[u16], outgoing: &[u16], learners: &[u16]) -> Configuration {
    let nodes = |ids: &[u16]| ids.iter().copied().map(NodeId).collect();
    Configuration::new(nodes(voters), nodes(outgoing), nodes(learners)).expect("sound")
}

/// The leader on node 1 logs this configuration as its next entry, durably.
fn configure(leader: &mut Replica, configuration: Configuration) -> Index {
    let (index, term) = (leader.log().last_index().next(), leader.term());
    let fact = Fact::Configuration(Box::new(configuration));
    step(leader, 1, In::Propose { index, term, fact });
    hold(leader, 1, index);
    index
}

/// The node holds all up to there, durably, and the leader on node 1 hears of it.
fn hold(leader: &mut Replica, node: u16, index: Index) {
    if node == 1 {
        let placed = |at| Placed {
            group: GroupId(1),
            index: Index(at),
            term: leader.log().term_at(Index(at)).expect("an entry"),
            lsn: Default::default(),
            record: Place { length: 1, ..Place::default() },
            value: None,
        };
        let all: Vec<Placed> = (leader.applied().0 + 1..=index.0).map(placed).collect();
        all.into_iter().for_each(|placed| _ = step(leader, 1, In::Placed(placed)));
        step(leader, 1, In::Durable(index, leader.log().term_at(index).expect("an entry")));
    } else {
        step(leader, 1, from(node, matched(leader, index)));
    }
}

fn matched(leader: &Replica, index: Index) -> ReplicaMessage {
    let outcome = AppendOutcome::Matched(index);
    ReplicaMessage::AppendReply(AppendReply::of_test(leader.term(), outcome))
}

/// The nodes to which appends go, each with the index that the entries follow and their number.
fn appends(sent: &[(NodeId, ReplicaMessage)]) -> Vec<(u16, u64, usize)> {
    let append = |(to, message): &(NodeId, ReplicaMessage)| match message {
        ReplicaMessage::Append(append) => Some((to.0, append.previous_index.0, append.entries.len())),
        _ => None,
    };
    sent.iter().filter_map(append).collect()
}

/// What the replica, on node `me`, sends on this input.
fn step(replica: &mut Replica, me: u16, input: In) -> Vec<(NodeId, ReplicaMessage)> {
    step_at(replica, me, Time::ZERO, input)
}

fn step_at(replica: &mut Replica, me: u16, now: Time, input: In) -> Vec<(NodeId, ReplicaMessage)> {
    Around::nobody().sent(replica, me, now, input)
}

fn outputs(replica: &mut Replica, me: u16, now: Time, input: In) -> Vec<Out> {
    Around::nobody().outputs(replica, me, now, input)
}

/// What a replica sees of its node.
struct Around {
    view: LivenessView,
    room: Room,
    sync: Duration,
}

/// By which nodes support one another.
const PROMISE: Promise = Promise { leader: EPOCH, supporter: EPOCH, number: 0 };

impl Around {
    fn nobody() -> Around {
        Around { view: LivenessView::EMPTY, room: Room::AMPLE, sync: Duration::ZERO }
    }

    /// These peers and this node support each other.
    fn peers(nodes: &[u16]) -> Around {
        let mut around = Around::nobody();
        for node in nodes {
            let entry = around.view.entry(NodeId(*node));
            let promise = Some((PROMISE, Time::NEVER));
            (entry.epoch, entry.given, entry.received) = (EPOCH, promise, promise);
        }
        around
    }

    fn sent(&self, replica: &mut Replica, me: u16, now: Time, input: In) -> Vec<(NodeId, ReplicaMessage)> {
        let sent = |output| if let Out::Send(to, message) = output { Some((to, message)) } else { None };
        self.outputs(replica, me, now, input).into_iter().filter_map(sent).collect()
    }

    fn outputs(&self, replica: &mut Replica, me: u16, now: Time, input: In) -> Vec<Out> {
        let mut out = Outbox::default();
        let mut cx = Context {
            now,
            me: NodeId(me),
            epoch: EPOCH,
            random: &mut random::stream(1, "replica"),
            liveness: &self.view,
            flow: crate::actor::FlowView::empty(),
            cache: &mut ValueCache::new(0, &crate::base::limits::Limits::DEFAULT),
            wall_clock_ms: 0,
            room: self.room,
            quorum_has_room: true,
            sync: self.sync,
            limits: &crate::base::limits::Limits::DEFAULT,
            state: crate::state::State::empty(),
        };
        replica.handle(&mut cx, input, &mut out);
        replica.check();
        std::iter::from_fn(|| out.pop()).collect()
    }
}

/// A stop may last, for requests that are being finished.
#[test]
fn a_replica_of_a_stopping_node_does_not_campaign() {
    let asks = |stops: bool| {
        let mut replica = replica();
        if stops {
            step(&mut replica, 1, In::Stop);
        }
        let out = outputs(&mut replica, 1, Time::from_millis(2_000), In::Timer);
        out.iter().any(|out| matches!(out, Out::AskTurn))
    };
    assert!(asks(false) && !asks(true));
}

/// One message of each kind that tells of a term.
fn messages_of(term: Term) -> Vec<ReplicaMessage> {
    let reply = VoteReply { term, granted: false, lossy: false };
    let outcome = AppendOutcome::StaleTerm;
    vec![
        ReplicaMessage::PreVoteReply(reply),
        ReplicaMessage::VoteReply(reply),
        ReplicaMessage::Vote(VoteRequest { term, last_index: Index::ZERO, last_term: Term::ZERO, released: None }),
        ReplicaMessage::AppendReply(AppendReply::of_test(term, outcome)),
        ReplicaMessage::Append(Append {
            term,
            previous_index: Index::ZERO,
            previous_term: Term::ZERO,
            entries: Vec::new(),
            commit: Index::ZERO,
            round: 0,
            follower: EPOCH,
            everywhere: Index::ZERO,
            whole: false,
        }),
        ReplicaMessage::Released { term },
        ReplicaMessage::TimeoutNow { term },
    ]
}

/// However late the term that a message tells of: terms can still be counted, and peers that have not heard it still follow.
#[test]
fn one_message_of_an_absurd_term_does_not_end_a_group() {
    for term in [Term(1 << 48), TERM_MAX, Term(u64::MAX)] {
        for message in messages_of(term) {
            let what = format!("{message:?}");
            let mut struck = replica();
            step(&mut struck, 1, In::Message(NodeId(2), EPOCH, message));
            assert!(struck.term() <= Term(TERM_STEP_MAX), "{what}");
            // Another, which has heard nothing, gives it its vote within two campaigns.
            let mut other = replica();
            let granted = (1..=2).any(|attempt| {
                let term = Term(struck.term().0 + attempt);
                let request = VoteRequest { term, last_index: Index::ZERO, last_term: Term::ZERO, released: None };
                let answers = step(&mut other, 3, In::Message(NodeId(1), EPOCH, ReplicaMessage::Vote(request)));
                answers.iter().any(|(_, answer)| matches!(answer, ReplicaMessage::VoteReply(reply) if reply.granted))
            });
            assert!(granted, "{what}");
        }
    }
}

/// A term that an honest peer may have come to while this node was away is reached at once.
#[test]
fn a_term_that_is_far_ahead_is_believed() {
    let mut away = replica();
    let request = VoteRequest { term: Term(60_000), last_index: Index::ZERO, last_term: Term::ZERO, released: None };
    step(&mut away, 1, In::Message(NodeId(2), EPOCH, ReplicaMessage::Vote(request)));
    assert_eq!(away.term(), Term(60_000));
}

#[test]
fn a_learner_is_sent_entries_and_counts_for_nothing() {
    let mut leader = leader_of(GroupLog::new(LogBase::default(), configuration(&[1, 2], &[], &[])));
    let at = configure(&mut leader, configuration(&[1, 2], &[], &[3]));
    let (index, term) = (at.next(), leader.term());
    step(&mut leader, 1, In::Propose { index, term, fact: Fact::Noop });
    assert!(appends(&step(&mut leader, 1, In::Flush)).contains(&(3, at.0, 1)), "a learner is sent entries");
    let entries: Vec<Entry> = (1..=at.0).map(|index| leader.log().entry(Index(index)).expect("in memory")).collect();
    hold(&mut leader, 3, at);
    assert_eq!(leader.commit(), Index::ZERO, "of two voters both must have it");
    hold(&mut leader, 2, at);
    assert_eq!(leader.commit(), at);
    // The learner itself, which takes the same entries, never campaigns.
    let mut learner = replica();
    step(&mut learner, 3, from(1, append(&leader, Index::ZERO, entries)));
    assert_eq!(learner.configuration(), leader.configuration());
    let late = Time::from_millis(60_000);
    assert!(!outputs(&mut learner, 3, late, In::Timer).iter().any(|out| matches!(out, Out::AskTurn)));
}

fn append(leader: &Replica, previous: Index, entries: Vec<Entry>) -> ReplicaMessage {
    ReplicaMessage::Append(Append {
        term: leader.term(),
        previous_index: previous,
        previous_term: leader.log().term_at(previous).expect("in the log"),
        entries,
        commit: leader.commit(),
        round: 0,
        follower: EPOCH,
        everywhere: leader.everywhere(),
        whole: false,
    })
}

#[test]
fn in_a_joint_configuration_an_entry_needs_both_majorities_and_a_leader_that_is_out_steps_down_once_it_is_committed() {
    let mut leader = leader_of(GroupLog::new(LogBase::default(), configuration(&[1, 2, 3], &[], &[])));
    let joint = configure(&mut leader, configuration(&[4, 5, 3], &[1, 2, 3], &[]));
    for node in [2, 3] {
        hold(&mut leader, node, joint);
    }
    assert_eq!(leader.commit(), Index::ZERO, "of the three that come only one has it");
    hold(&mut leader, 4, joint);
    assert_eq!(leader.commit(), joint, "3 and 4, and 1, 2, 3");
    let out = configure(&mut leader, configuration(&[4, 5, 3], &[], &[]));
    hold(&mut leader, 3, out);
    assert!(leader.leads() && leader.commit() == joint, "a leader that is no voter does not count itself");
    hold(&mut leader, 5, out);
    assert_eq!(leader.commit(), out);
    assert!(!leader.leads(), "its last configuration is committed, and it is no voter in it");
}

#[test]
fn a_configuration_that_is_replaced_is_in_force_no_more() {
    let mut follower = replica();
    let entry = |index, term, fact| Entry { index: Index(index), term: Term(term), fact };
    let change = Fact::Configuration(Box::new(configuration(&[1, 2], &[], &[])));
    let leader = leader_of(GroupLog::new(LogBase::default(), configuration(&[1, 2, 3], &[], &[])));
    step(&mut follower, 3, from(1, append(&leader, Index::ZERO, vec![entry(1, 1, change)])));
    assert_eq!(follower.configuration(), &configuration(&[1, 2], &[], &[]));
    let ReplicaMessage::Append(next) = append(&leader, Index::ZERO, vec![entry(1, 2, Fact::Noop)]) else { unreachable!() };
    step(&mut follower, 3, from(2, ReplicaMessage::Append(Append { term: Term(2), ..next })));
    assert_eq!(follower.configuration(), &configuration(&[1, 2, 3], &[], &[]));
}

/// Entries behind a base: what a follower was sent before its base is committed, whatever its log still knows of it.
#[test]
fn a_follower_takes_an_append_that_begins_before_its_base() {
    let base = LogBase { index: Index(10), term: Term(1) };
    let log = GroupLog::new(base, configuration(&[1, 2, 3], &[], &[]));
    let mut follower = Replica::new(options(), HardState { term: Term(1), ..HardState::default() }, log);
    assert_eq!((follower.commit(), follower.applied()), (Index(10), Index(10)), "what is gone is committed and applied");
    step(&mut follower, 2, In::Start);
    let entries = |range: std::ops::RangeInclusive<u64>| {
        range.map(|index| Entry { index: Index(index), term: Term(1), fact: Fact::Noop }).collect::<Vec<_>>()
    };
    let append = |previous: u64, previous_term: u64, entries| {
        let (previous_index, previous_term) = (Index(previous), Term(previous_term));
        let (term, commit, round, follower) = (Term(1), Index(10), 0, EPOCH);
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
    let outcome = |sent: Vec<(NodeId, ReplicaMessage)>| match &sent[..] {
        [(_, ReplicaMessage::AppendReply(reply))] => reply.outcome,
        sent => panic!("{sent:?}"),
    };
    assert_eq!(outcome(step(&mut follower, 2, append(7, 1, entries(8..=12)))), AppendOutcome::Matched(Index(12)));
    assert_eq!(follower.log().last_index(), Index(12));
    assert_eq!(outcome(step(&mut follower, 2, append(3, 1, entries(4..=6)))), AppendOutcome::Matched(Index(6)));
    let beyond = AppendOutcome::Conflict { index: Index(13), term: Term::ZERO, previous: Index(20) };
    assert_eq!(outcome(step(&mut follower, 2, append(20, 1, Vec::new()))), beyond);
}

/// A leader sends nothing that its log does not hold any more, and does not ask in a loop.
#[test]
fn a_leader_has_no_entries_for_a_follower_that_lacks_its_base() {
    let base = LogBase { index: Index(10), term: Term(1) };
    let mut leader = leader_of(GroupLog::new(base, configuration(&[1, 2, 3], &[], &[])));
    hold(&mut leader, 1, Index(11));
    let conflict = |leader: &Replica, index: u64, previous: u64| {
        let outcome = AppendOutcome::Conflict { index: Index(index), term: Term::ZERO, previous: Index(previous) };
        let reply = AppendReply::of_test(leader.term(), outcome);
        from(2, ReplicaMessage::AppendReply(reply))
    };
    let input = conflict(&leader, 4, 10);
    assert_eq!(appends(&step(&mut leader, 1, input)), [], "nothing that is sent could join on");
    // One that has the base is fed, however the leader came to doubt it.
    hold(&mut leader, 3, Index(10));
    hold(&mut leader, 3, Index(11));
    assert_eq!(leader.commit(), Index(11));
    let again = step_at(&mut leader, 1, Time::from_millis(9_000), In::Timer);
    assert!(appends(&again).iter().all(|(_, previous, _)| *previous >= 10), "{again:?}");
}

/// One bad entry in a leader's log keeps nothing from a follower but itself and what is behind it.
#[test]
fn what_stands_before_an_entry_that_cannot_be_read_back_is_sent() {
    let summary = |index| EntrySummary {
        index: Index(index),
        term: Term(1),
        fact: FactSummary::Noop,
        record: Place { offset: index as u32, length: 1, ..Place::default() },
    };
    let log =
        GroupLog::recovered(LogBase::default(), configuration(&[1, 2, 3], &[], &[]), (1..=6).map(summary).collect(), Index(6));
    let mut leader = leader_of(log);
    let outcome = AppendOutcome::Conflict { index: Index(1), term: Term::ZERO, previous: leader.log().last_index() };
    let reply = AppendReply::of_test(leader.term(), outcome);
    let asked = outputs(&mut leader, 1, Time::ZERO, from(2, ReplicaMessage::AppendReply(reply)));
    let reads: Vec<(u64, Place)> =
        asked.iter().filter_map(|out| if let Out::ReadEntry(tag, place) = out { Some((*tag, *place)) } else { None }).collect();
    assert_eq!(reads.iter().map(|(_, place)| place.offset).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let mut sent = Vec::new();
    for (tag, place) in reads {
        let entry = Entry { index: Index(place.offset.into()), term: Term(1), fact: Fact::Noop };
        sent.extend(step(&mut leader, 1, In::Entry(tag, if place.offset == 4 { Err(Unread::Rotten) } else { Ok(entry) })));
    }
    assert!(appends(&sent).contains(&(2, 0, 3)), "{sent:?}");
}

/// Entries behind the state that it is sent may have been acknowledged: they stay if the log has the state's last entry.
#[test]
fn a_replica_that_is_sent_a_state_keeps_what_joins_on_to_it_and_nothing_else() {
    for (term, last) in [(1, 12), (2, 8)] {
        let first = configuration(&[1, 2, 3], &[], &[]);
        let log = GroupLog::recovered(LogBase::default(), first, (1..=12).map(|index| noop(index, 1)).collect(), Index(3));
        let state = HardState { term: Term(2), commit: Index(3), ..HardState::default() };
        let mut follower = Replica::new(options(), state, log);
        step(&mut follower, 1, In::Start);
        let base = LogBase { index: Index(8), term: Term(term) };
        step(&mut follower, 1, In::Install(base, Box::new(configuration(&[1, 2, 3], &[], &[]))));
        let log = follower.log();
        assert_eq!((log.base(), log.last_index()), (base, Index(last)));
        assert_eq!((follower.commit(), follower.applied(), follower.durable()), (Index(8), Index(8), Index(last)));
    }
}
