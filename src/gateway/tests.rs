//! The gateway, message by message.

use super::calls::RETRY_INTERVAL;
use super::rivals::CONFLICT_PAUSE_MIN;
use super::routes::READ_RETRY_INTERVAL;
use super::*;
use crate::actor::LivenessView;
use crate::base::cache::ValueCache;
use crate::base::limits::Limits;
use crate::base::limits::TRANSACTION_SIZE_MAX;
use crate::base::random;
use crate::base::{Key, Version};
use crate::msg::operation::{Consistency, Operation, Single};
use crate::msg::peer::Promise;
use crate::msg::transaction::{Failure, FailureReason, Measure};

const PEER: NodeId = NodeId(2);

fn handle(gateway: &mut Gateway, now: Time, input: In) -> Vec<Out> {
    let (mut random, mut cache) = (random::stream(1, "test"), ValueCache::new(0, &Limits::DEFAULT));
    let mut view = LivenessView::default();
    let entry = view.entry(PEER);
    let promise = Some((Promise::default(), Time::NEVER));
    (entry.epoch, entry.given, entry.received) = (Epoch(9), promise, promise);
    let mut cx = Context { now, epoch: Epoch(5), ..Context::of_test(&mut random, &view, &mut cache) };
    let mut out = Outbox::default();
    gateway.handle(&mut cx, input, &mut out);
    gateway.check();
    std::iter::from_fn(|| out.pop()).collect()
}

/// What leaves the gateway when a request is forwarded to the peer, in epoch 9 of it, and then this input comes, and after it a
/// little time.
fn forwarded_and_then(body: RequestBody, then: In) -> Vec<Out> {
    let mut gateway = Gateway::default();
    let start = Time::from_millis(1);
    handle(&mut gateway, start, In::Joined(Placement::new(vec![vec![PEER, NodeId(1)]])));
    let group = crate::base::PartitionId(0).group();
    handle(&mut gateway, start, In::Leader(group, Some(PEER), Term(3)));
    let mut sent = handle(&mut gateway, start, In::Request(ConnId(1), Request { id: 1, timeout_ms: 1_000, body }));
    sent.extend(handle(&mut gateway, start, then));
    sent.extend(handle(&mut gateway, start, In::Leader(group, Some(PEER), Term(3))));
    sent.extend(handle(&mut gateway, start + RETRY_INTERVAL * 2, In::Timer));
    sent
}

fn put() -> RequestBody {
    RequestBody::Operation(Operation::put("k", "").alone())
}

fn transaction_without_token() -> RequestBody {
    RequestBody::Transact(Transaction { items: vec![Operation::increment("k", 1)], token: None })
}

fn forwards(sent: &[Out]) -> usize {
    sent.iter().filter(|out| matches!(out, Out::Send(PEER, PeerMessage::Forward(_)))).count()
}

fn forwards_after_farewell_of(epoch: Epoch) -> usize {
    forwards(&forwarded_and_then(put(), In::Farewell(PEER, epoch, Farewell { epoch: Epoch(5), sequence: 0 })))
}

#[test]
fn only_the_epoch_that_a_write_was_sent_to_says_that_it_was_not_begun() {
    let not_begun = |epoch| {
        let outcome = Outcome::NotLeader { leader: None };
        In::ForwardReply(PEER, epoch, ForwardReply { sequence: 1, outcome, epoch: Epoch(5) })
    };
    let is_unknown = |out: &Out| matches!(out, Out::Reply(_, Response { body: ResponseBody::Unknown(_), .. }));
    for body in [put(), transaction_without_token()] {
        let by_the_same = forwarded_and_then(body.clone(), not_begun(Epoch(9)));
        assert!(forwards(&by_the_same) == 2 && !by_the_same.iter().any(is_unknown));
        let by_a_later = forwarded_and_then(body.clone(), not_begun(Epoch(10)));
        assert!(forwards(&by_a_later) == 1 && by_a_later.iter().any(is_unknown), "{by_a_later:?}");
        let by_an_earlier = forwarded_and_then(body, not_begun(Epoch(8)));
        assert!(forwards(&by_an_earlier) == 1 && !by_an_earlier.iter().any(is_unknown), "{by_an_earlier:?}");
    }
    let get = RequestBody::Operation(get(Consistency::Strong));
    assert_eq!(forwards(&forwarded_and_then(get, not_begun(Epoch(10)))), 2, "a read is asked for again, whoever turns it away");
}

#[test]
fn a_farewell_speaks_for_one_epoch_of_the_peer() {
    assert_eq!(forwards_after_farewell_of(Epoch(9)), 2, "what that epoch has not taken was not begun, and is sent again");
    assert_eq!(forwards_after_farewell_of(Epoch(8)), 1, "what a later epoch may have begun is not");
}

/// The sequences of what was forwarded.
fn forwarded(out: &[Out]) -> Vec<u64> {
    let sequence = |out: &Out| match out {
        Out::Send(PEER, PeerMessage::Forward(forward)) => Some(forward.sequence),
        _ => None,
    };
    out.iter().filter_map(sequence).collect()
}

#[test]
fn the_younger_of_two_rivals_is_tried_again_when_the_older_is_done() {
    let mut gateway = Gateway::default();
    let start = Time::from_millis(1);
    handle(&mut gateway, start, In::Joined(Placement::new(vec![vec![PEER, NodeId(1)]])));
    handle(&mut gateway, start, In::Leader(crate::base::PartitionId(0).group(), Some(PEER), Term(3)));
    let request = |id, keys: [&'static str; 2]| {
        let items = keys.iter().map(|key| Operation::put(*key, "v")).collect();
        Request { id, timeout_ms: 10_000, body: RequestBody::Transact(Transaction { items, token: None }) }
    };
    let answer = |sequence, body| {
        In::ForwardReply(PEER, Epoch(9), ForwardReply { sequence, outcome: Outcome::Answer(body), epoch: Epoch(5) })
    };
    let conflict = |item| ResponseBody::NotCommitted(vec![Failure { item, reason: FailureReason::Conflict }]);
    for (sequence, keys) in (1..).zip([["a", "b"], ["c", "b"], ["d", "e"]]) {
        assert_eq!(forwarded(&handle(&mut gateway, start, In::Request(ConnId(1), request(sequence, keys)))), [sequence]);
    }
    // All die: the first two for the key that they share, the third for one of its own.
    for (sequence, item) in [(1, 1), (2, 1), (3, 0)] {
        handle(&mut gateway, start, answer(sequence, conflict(item)));
    }
    let soon = start + CONFLICT_PAUSE_MIN * 3;
    assert_eq!(forwarded(&handle(&mut gateway, soon, In::Timer)).len(), 2, "the first and the third");
    let done = ResponseBody::Transacted(Vec::new());
    let first = if gateway.calls[&1].place == Whereabouts::Forwarded(PEER, 4) { 4 } else { 5 };
    handle(&mut gateway, soon, answer(first, done));
    assert_eq!(forwarded(&handle(&mut gateway, soon + CONFLICT_PAUSE_MIN, In::Timer)), [6], "the second's turn has come");
}

fn get(consistency: Consistency) -> Single {
    Operation::read("k").alone().consistency(consistency)
}

/// A gateway that believes in this leader, in term 3.
fn led_by(leader: NodeId) -> Gateway {
    let (mut gateway, start) = (Gateway::default(), Time::from_millis(1));
    handle(&mut gateway, start, In::Joined(Placement::new(vec![vec![PEER, NodeId(1)]])));
    handle(&mut gateway, start, In::Leader(crate::base::PartitionId(0).group(), Some(leader), Term(3)));
    gateway
}

#[test]
fn a_slow_read_is_asked_for_again_as_a_copy_and_the_answer_to_the_first_ends_it() {
    let mut gateway = led_by(PEER);
    let body = RequestBody::Operation(get(Consistency::Strong));
    let request = Request { id: 1, timeout_ms: 9_000, body };
    let mut now = Time::from_millis(1);
    assert_eq!(forwarded(&handle(&mut gateway, now, In::Request(ConnId(1), request))), [1]);
    for pause in [1, 2, 4] {
        now = now + READ_RETRY_INTERVAL * pause;
        assert_eq!(forwarded(&handle(&mut gateway, now, In::Timer)), [1], "a copy");
    }
    let outcome = Outcome::Answer(ResponseBody::Rejected(Rejection::Overloaded));
    let reply = ForwardReply { sequence: 1, outcome, epoch: Epoch(5) };
    let told = handle(&mut gateway, now, In::ForwardReply(PEER, Epoch(9), reply));
    assert!(told.iter().any(|out| matches!(out, Out::Reply(..))), "{told:?}");
}

#[test]
fn a_read_that_peers_have_turned_away_is_as_soon_asked_for_again_as_a_new_one() {
    let (mut gateway, mut now) = (Gateway::default(), Time::from_millis(1));
    handle(&mut gateway, now, In::Joined(Placement::new(vec![vec![PEER]])));
    let request = Request { id: 1, timeout_ms: 9_000, body: RequestBody::Operation(get(Consistency::Strong)) };
    let mut sent = forwarded(&handle(&mut gateway, now, In::Request(ConnId(1), request)));
    for sequence in 1..9 {
        assert_eq!(sent, [sequence], "the peer is asked which node leads");
        let reply = ForwardReply { sequence, outcome: Outcome::NotLeader { leader: None }, epoch: Epoch(5) };
        handle(&mut gateway, now, In::ForwardReply(PEER, Epoch(9), reply));
        now = now + RETRY_INTERVAL;
        sent = forwarded(&handle(&mut gateway, now, In::Timer));
    }
    // This one is lost.
    assert_eq!(sent.len(), 1);
    assert_eq!(forwarded(&handle(&mut gateway, now + READ_RETRY_INTERVAL, In::Timer)).len(), 1);
}

#[test]
fn a_read_that_was_with_a_peer_that_is_away_goes_to_the_next_leader() {
    let mut gateway = led_by(PEER);
    let group = crate::base::PartitionId(0).group();
    let now = Time::from_millis(1);
    let read = RequestBody::Operation(get(Consistency::Strong));
    for (id, body) in [(1, read), (2, put())] {
        handle(&mut gateway, now, In::Request(ConnId(1), Request { id, timeout_ms: 9_000, body }));
    }
    // By now this node leads.
    handle(&mut gateway, now, In::Leader(group, Some(NodeId(1)), Term(4)));
    handle(&mut gateway, now, In::Away(PEER));
    let out = handle(&mut gateway, now + RETRY_INTERVAL, In::Timer);
    assert!(matches!(&out[..], [Out::Task { task, .. }] if !task.writes()), "the write may have been begun: {out:?}");
}

/// No next leader is known when the peer is away: it is soon looked for again.
#[test]
fn a_read_that_was_slow_at_a_peer_that_is_away_is_as_soon_asked_for_again_as_a_new_one() {
    let mut gateway = led_by(PEER);
    let mut now = Time::from_millis(1);
    let read = RequestBody::Operation(get(Consistency::Strong));
    handle(&mut gateway, now, In::Request(ConnId(1), Request { id: 1, timeout_ms: 9_000, body: read }));
    for pause in [1, 2] {
        now = now + READ_RETRY_INTERVAL * pause;
        assert_eq!(forwarded(&handle(&mut gateway, now, In::Timer)), [1], "a copy");
    }
    handle(&mut gateway, now, In::Away(PEER));
    now = now + RETRY_INTERVAL;
    assert_eq!(forwarded(&handle(&mut gateway, now, In::Timer)), [2], "the peer is the only leader that is known");
    assert_eq!(forwarded(&handle(&mut gateway, now + READ_RETRY_INTERVAL, In::Timer)), [2], "a copy");
}

/// The peer may be dead, and its answer was all that the call waited for.
#[test]
fn a_call_that_asks_a_peer_which_node_leads_goes_on_when_this_node_knows() {
    let (mut gateway, mut now) = (Gateway::default(), Time::from_millis(1));
    let group = crate::base::PartitionId(0).group();
    handle(&mut gateway, now, In::Joined(Placement::new(vec![vec![PEER, NodeId(1)]])));
    let mut out = handle(&mut gateway, now, In::Request(ConnId(1), Request { id: 1, timeout_ms: 9_000, body: put() }));
    while forwarded(&out).is_empty() {
        now = now + RETRY_INTERVAL;
        assert!(now < Time::from_millis(9_000), "no peer is asked");
        out = handle(&mut gateway, now, In::Timer);
    }
    let out = handle(&mut gateway, now, In::Leader(group, Some(NodeId(1)), Term(4)));
    assert!(matches!(&out[..], [Out::Task { .. }]), "{out:?}");
}

#[test]
fn a_copy_of_a_read_is_dropped_while_the_first_is_worked_on_and_asked_anew_after() {
    let mut gateway = led_by(NodeId(1));
    let tasks = |gateway: &mut Gateway, sequence, task: Task| {
        let group = crate::base::PartitionId(0).group();
        let forward = Forward { sequence, group, leader: Some((Epoch(5), Term(3))), remaining_ms: 5_000, task };
        let out = handle(gateway, Time::from_millis(2), In::Forward(PEER, Epoch(9), forward));
        out.iter().filter(|out| matches!(out, Out::Task { .. })).count()
    };
    let read = || Task::Operation(get(Consistency::Strong));
    assert_eq!(tasks(&mut gateway, 1, read()), 1);
    assert_eq!(tasks(&mut gateway, 1, read()), 0, "the first is worked on");
    gateway.served(PEER, Epoch(9), 1);
    assert_eq!(tasks(&mut gateway, 1, read()), 1, "its answer was lost");
    // A write never is.
    let RequestBody::Operation(put) = put() else { unreachable!() };
    assert_eq!(tasks(&mut gateway, 2, Task::Operation(put.clone())), 1);
    gateway.served(PEER, Epoch(9), 2);
    assert_eq!(tasks(&mut gateway, 2, Task::Operation(put)), 0);
}

fn request(gateway: &mut Gateway, id: u64, body: RequestBody) -> Vec<Out> {
    handle(gateway, Time::from_millis(1), In::Request(ConnId(1), Request { id, timeout_ms: 9_000, body }))
}

/// The peer answers so, in this epoch of it.
fn answered_in(gateway: &mut Gateway, epoch: u64, sequence: u64, outcome: Outcome) -> Vec<Out> {
    let reply = ForwardReply { sequence, outcome, epoch: Epoch(5) };
    handle(gateway, Time::from_millis(1), In::ForwardReply(PEER, Epoch(epoch), reply))
}

fn answered(gateway: &mut Gateway, sequence: u64, outcome: Outcome) -> Vec<Out> {
    answered_in(gateway, 9, sequence, outcome)
}

/// The clients' requests that are answered, and how.
fn replies(out: &[Out]) -> Vec<(u64, &ResponseBody)> {
    let reply = |out| if let &Out::Reply(_, Response { id, ref body, .. }) = out { Some((id, body)) } else { None };
    out.iter().filter_map(reply).collect()
}

fn scan() -> RequestBody {
    let (prefix, from) = (Key::default(), Key::default());
    RequestBody::Scan(crate::msg::client::Scan { prefix, from, limit: 10, consistency: Consistency::Strong })
}

fn get_many() -> RequestBody {
    RequestBody::GetMany(vec!["a".into(), "b".into()])
}

#[test]
fn what_clients_ask_for_and_what_they_are_told_is_counted() {
    let mut gateway = led_by(PEER);
    let asked = [put(), RequestBody::Operation(get(Consistency::Strong)), transaction_without_token(), scan(), get_many(), put()];
    for (id, body) in (1..).zip(asked) {
        assert_eq!(forwarded(&request(&mut gateway, id, body)), [id]);
    }
    let counters = gateway.counters;
    assert_eq!((counters.writes, counters.reads, counters.transactions, counters.scans), (2, 2, 1, 1));
    assert_eq!((counters.forwards_sent, gateway.requests_in_progress()), (6, 6));
    assert_eq!((counters.rejected, counters.unknown), (0, 0));
    let refused = || Outcome::Answer(ResponseBody::Rejected(Rejection::Corrupt));
    [2, 4, 5].into_iter().for_each(|sequence| _ = answered(&mut gateway, sequence, refused()));
    // What a later epoch of the peer says of a write is not of the epoch that may have begun it.
    [1, 6].into_iter().for_each(|sequence| _ = answered_in(&mut gateway, 10, sequence, refused()));
    assert_eq!((gateway.counters.rejected, gateway.counters.unknown, gateway.requests_in_progress()), (3, 2, 1));
}

#[test]
fn two_scans_of_one_client_are_both_answered() {
    let mut gateway = led_by(PEER);
    assert_eq!([1, 2].map(|id| forwarded(&request(&mut gateway, id, scan()))), [[1], [2]]);
    let refused = ResponseBody::Rejected(Rejection::Corrupt);
    for sequence in [1, 2] {
        let told = answered(&mut gateway, sequence, Outcome::Answer(refused.clone()));
        assert_eq!(replies(&told), [(sequence, &refused)]);
    }
    assert!(gateway.is_idle());
}

#[test]
fn a_peer_that_answers_with_what_was_not_asked_for_ends_the_request() {
    // A scan lists before it reads, and only what was read can have changed since.
    let mut gateway = led_by(PEER);
    request(&mut gateway, 1, scan());
    let told = answered(&mut gateway, 1, Outcome::Valid(false));
    assert!(matches!(replies(&told)[..], [(1, ResponseBody::Rejected(Rejection::Invalid(_)))]), "{told:?}");
    // Items that were never free at one instant are read by a transaction, which takes them as they are.
    let mut gateway = led_by(PEER);
    let mut out = request(&mut gateway, 1, get_many());
    let mut sequences = Vec::new();
    while let [sequence] = forwarded(&out)[..] {
        sequences.push(sequence);
        out = answered(&mut gateway, sequence, Outcome::Valid(false));
    }
    assert!(sequences.len() > 1, "it is read again");
    assert!(matches!(replies(&out)[..], [(1, ResponseBody::Rejected(_))]), "{out:?}");
}

#[test]
fn a_client_that_is_turned_away_is_told_which_other_node_leads() {
    for (leader, told) in [(PEER, Some(PEER)), (NodeId(1), None)] {
        let mut gateway = led_by(leader);
        handle(&mut gateway, Time::from_millis(1), In::Stop);
        for body in [put(), transaction_without_token()] {
            let out = request(&mut gateway, 1, body);
            let [Out::Reply(_, response)] = &out[..] else { panic!("{out:?}") };
            assert_eq!((response.leader, &response.body), (told, &ResponseBody::Rejected(Rejection::Stopping)));
        }
        let out = request(&mut gateway, 1, scan());
        assert!(matches!(&out[..], [Out::Reply(_, Response { leader: None, .. })]), "no node leads all of it: {out:?}");
    }
}

#[test]
fn a_hint_is_believed_if_it_is_newer_and_names_a_replica() {
    let hint = |node, term| LeaderHint { node: NodeId(node), epoch: Epoch(5), term: Term(term) };
    for (hint, here) in [(hint(1, 4), true), (hint(1, 2), false), (hint(7, 9), false)] {
        let mut gateway = led_by(PEER);
        request(&mut gateway, 1, put());
        let mut out = answered(&mut gateway, 1, Outcome::NotLeader { leader: Some(hint) });
        for pause in 1..20 {
            if out.is_empty() {
                out = handle(&mut gateway, Time::from_millis(1) + RETRY_INTERVAL * pause, In::Timer);
            }
        }
        let tasks = out.iter().filter(|out| matches!(out, Out::Task { .. })).count();
        assert_eq!((tasks, forwards(&out)), if here { (1, 0) } else { (0, 1) }, "{hint:?}: {out:?}");
    }
}

#[test]
fn an_eventual_read_goes_to_the_nearest_replica_whichever_leads() {
    let (mut gateway, now) = (Gateway::default(), Time::from_millis(1));
    handle(&mut gateway, now, In::Joined(Placement::new(vec![vec![PEER, NodeId(3)]])));
    handle(&mut gateway, now, In::Leader(crate::base::PartitionId(0).group(), Some(NodeId(3)), Term(3)));
    let out = request(&mut gateway, 1, RequestBody::Operation(get(Consistency::Eventual)));
    assert!(matches!(&out[..], [Out::Send(PEER, PeerMessage::Forward(Forward { leader: None, .. }))]), "{out:?}");
}

#[test]
fn a_node_with_a_replica_waits_a_little_for_that_to_know_the_leader_before_it_asks_others() {
    let (mut gateway, now) = (Gateway::default(), Time::from_millis(1));
    handle(&mut gateway, now, In::Joined(Placement::new(vec![vec![PEER, NodeId(1)]])));
    assert_eq!(forwards(&request(&mut gateway, 1, put())), 0);
    assert_eq!(forwards(&handle(&mut gateway, now + RETRY_INTERVAL, In::Timer)), 0);
    let out = handle(&mut gateway, now + RETRY_INTERVAL, In::Leader(crate::base::PartitionId(0).group(), Some(PEER), Term(3)));
    assert_eq!(forwards(&out), 1);
}

#[test]
fn a_forward_is_taken_from_the_peers_latest_epoch_and_names_the_leader_that_it_needs() {
    let mut gateway = led_by(NodeId(1));
    let group = crate::base::PartitionId(0).group();
    let mut taken = |epoch, sequence, consistency, leader| {
        let task = Task::Operation(get(consistency));
        let forward = Forward { sequence, group, leader, remaining_ms: 5_000, task };
        let out = handle(&mut gateway, Time::from_millis(2), In::Forward(PEER, Epoch(epoch), forward));
        let turned_away = |out: &Out| {
            let reply = if let Out::Send(_, PeerMessage::ForwardReply(reply)) = out { Some(&reply.outcome) } else { None };
            matches!(reply, Some(Outcome::NotLeader { .. }))
        };
        match &out[..] {
            [] => None,
            [Out::Task { .. }] => Some(true),
            [out] if turned_away(out) => Some(false),
            other => panic!("{other:?}"),
        }
    };
    let (strong, eventual, leader) = (Consistency::Strong, Consistency::Eventual, Some((Epoch(5), Term(3))));
    assert_eq!(taken(9, 1, strong, leader), Some(true));
    assert_eq!(taken(9, 2, strong, None), Some(false), "no leader is named");
    assert_eq!(taken(9, 3, eventual, None), Some(true), "it needs none");
    assert_eq!(taken(10, 1, strong, leader), Some(true));
    assert_eq!(taken(9, 4, strong, leader), None, "the peer has restarted");
}

#[test]
fn a_read_of_many_that_waits_for_room_is_refused_at_its_deadline_and_not_before() {
    let mut gateway = Gateway::default();
    let start = Time::from_millis(1);
    handle(&mut gateway, start, In::Joined(Placement::new(vec![vec![PEER]; 8])));
    for group in gateway.placement.groups().collect::<Vec<_>>() {
        handle(&mut gateway, start, In::Leader(group, Some(PEER), Term(3)));
    }
    let keys: Vec<Key> = (0..20).map(|n| format!("k{n}").into()).collect();
    // As large as one may be, each; until the sum is too much, and one waits.
    let mut id = 0;
    while gateway.manys.deadline().is_none() {
        id += 1;
        assert!(id < 100, "none waits");
        let sent = request(&mut gateway, id, RequestBody::GetMany(keys.clone()));
        for out in sent {
            let Out::Send(_, PeerMessage::Forward(Forward { sequence, task: Task::Measure(keys), .. })) = out else { continue };
            let length = (TRANSACTION_SIZE_MAX / 20) as u32;
            let measures = keys.iter().map(|_| Measure { version: Version(1), length }).collect();
            answered(&mut gateway, sequence, Outcome::Measured(measures));
        }
    }
    assert!(id > 1, "the first had room");
    let late = start + Duration::from_millis(9_000);
    assert_eq!(replies(&handle(&mut gateway, start + Duration::from_millis(1), In::Timer)), []);
    let out = handle(&mut gateway, late, In::Timer);
    assert!(replies(&out).contains(&(id, &ResponseBody::Rejected(Rejection::Overloaded))), "{out:?}");
}
