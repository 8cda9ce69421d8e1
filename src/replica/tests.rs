//! What one message may do to a replica. Interleavings of several are told by `tests/scripts/`.

use super::log::GroupLog;
use super::{In, Out, Replica, ReplicaOptions, TERM_MAX, TERM_STEP_MAX};
use crate::actor::{Actor, Context, LivenessView, Outbox};
use crate::base::cache::ValueCache;
use crate::base::random;
use crate::base::{Duration, Epoch, GroupId, Index, NodeId, Term, Time};
use crate::msg::log::HardState;
use crate::msg::peer::{Append, AppendOutcome, AppendReply, ReplicaMessage, VoteReply, VoteRequest};

const VOTERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const EPOCH: Epoch = Epoch(1);

fn replica() -> Replica {
    let options = ReplicaOptions {
        group: GroupId(1),
        voters: VOTERS.to_vec(),
        support: Duration::from_millis(400),
        no_vote_until: Time::ZERO,
        lossy: false,
    };
    let mut replica = Replica::new(options, HardState::default(), GroupLog::default());
    step(&mut replica, 1, In::Start);
    replica
}

/// What the replica, on node `me`, sends on this input.
fn step(replica: &mut Replica, me: u16, input: In) -> Vec<(NodeId, ReplicaMessage)> {
    step_at(replica, me, Time::ZERO, input)
}

fn step_at(replica: &mut Replica, me: u16, now: Time, input: In) -> Vec<(NodeId, ReplicaMessage)> {
    let sent = |output| if let Out::Send(to, message) = output { Some((to, message)) } else { None };
    outputs(replica, me, now, input).into_iter().filter_map(sent).collect()
}

fn outputs(replica: &mut Replica, me: u16, now: Time, input: In) -> Vec<Out> {
    let mut out = Outbox::default();
    let mut cx = Context {
        now,
        me: NodeId(me),
        epoch: EPOCH,
        random: &mut random::stream(1, "replica"),
        liveness: &LivenessView::EMPTY,
        flow: crate::actor::FlowView::empty(),
        cache: &mut ValueCache::new(0),
        wall_clock_ms: 0,
        room: crate::actor::Room::AMPLE,
        quorum_has_room: true,
        sync: Duration::ZERO,
        state: crate::state::State::empty(),
    };
    replica.handle(&mut cx, input, &mut out);
    replica.check();
    std::iter::from_fn(|| out.pop()).collect()
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
        ReplicaMessage::AppendReply(AppendReply { term, outcome, round: 0, acceptance: None, commit: Index::ZERO }),
        ReplicaMessage::Append(Append {
            term,
            previous_index: Index::ZERO,
            previous_term: Term::ZERO,
            entries: Vec::new(),
            commit: Index::ZERO,
            round: 0,
            follower: EPOCH,
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
