//! Transactions over whole nodes: what they do, what stands in their way, and what is left when nodes die at the worst moment.

use super::*;
use crate::base::limits::{Limits, TOKEN_LIFETIME};
use crate::base::{GroupId, Key};
use crate::msg::operation::{Action, Operation};
use crate::msg::peer::{Outcome, Task};
use crate::msg::transaction::{Failure, FailureReason, ItemResult, Transaction};

fn item(key: &str, action: Action, condition: Condition) -> Operation {
    Operation { key: key.to_string().into(), action, condition }
}

fn increment(key: &str, by: i64) -> Operation {
    item(key, Action::Increment(by), Condition::None)
}

fn transact(items: Vec<Operation>) -> RequestBody {
    RequestBody::Transact(Transaction { items, token: None })
}

fn with_token(items: Vec<Operation>, token: &'static str) -> RequestBody {
    RequestBody::Transact(Transaction { items, token: Some(Bytes::from(token)) })
}

fn get_many(keys: &[&str]) -> RequestBody {
    RequestBody::GetMany(keys.iter().map(|key| Key::from(key.to_string())).collect())
}

impl Cluster {
    fn numbers(&mut self, n: u16, keys: &[&str]) -> Vec<Option<i64>> {
        match self.call(n, get_many(keys)) {
            ResponseBody::Values(items) => {
                let number = |item: &ItemResult| item.value.as_ref().map(|v| std::str::from_utf8(v).unwrap().parse().unwrap());
                items.iter().map(number).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn assert_idle(&mut self) {
        let now = self.now;
        for node in self.nodes.values_mut() {
            assert_eq!(node.transactions(now).0, [], "nothing is in progress");
            let probes = node.replicas(now);
            assert!(probes.iter().all(|probe| probe.idle), "{probes:?}");
        }
    }
}

/// Keys in four groups: with four partitions, these are in different ones.
const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[test]
fn all_or_nothing_over_many_groups() {
    let mut cluster = Cluster::new(3);
    let done = cluster.call(1, transact(KEYS.iter().map(|key| increment(key, 10)).collect()));
    let ResponseBody::Transacted(results) = done else { panic!("{done:?}") };
    assert!(results.iter().all(|result| result.number == Some(10) && result.version > Version::ZERO), "{results:?}");
    assert_eq!(cluster.numbers(2, &KEYS), [Some(10); 8]);
    let version = results[0].version;
    let mut items: Vec<Operation> = KEYS[1..].iter().map(|key| increment(key, 1)).collect();
    items.push(item("a", Action::Check, Condition::Version(Version(version.0 + 1))));
    let refused = cluster.call(3, transact(items.clone()));
    let reason = FailureReason::Condition { version, present: true };
    assert_eq!(refused, ResponseBody::NotCommitted(vec![Failure { item: 7, reason }]));
    assert_eq!(cluster.numbers(2, &KEYS), [Some(10); 8]);
    items[7].condition = Condition::Version(version);
    assert!(matches!(cluster.call(3, transact(items)), ResponseBody::Transacted(_)));
    assert_eq!(cluster.numbers(1, &KEYS), [10, 11, 11, 11, 11, 11, 11, 11].map(Some));
    cluster.run(1_000);
    cluster.assert_idle();
}

#[test]
fn one_group_is_one_entry() {
    let mut cluster = Cluster::new(3);
    cluster.put(1, "a", "1");
    cluster.run(500);
    let last = |cluster: &mut Cluster| -> u64 {
        let now = cluster.now;
        cluster.nodes.get_mut(&NodeId(1)).unwrap().replicas(now).iter().map(|probe| probe.last.0).sum()
    };
    let before = last(&mut cluster);
    let done = cluster.call(2, transact(vec![item("a", Action::Put(Bytes::from("2")), Condition::Present)]));
    assert!(matches!(done, ResponseBody::Transacted(_)));
    cluster.run(1_000);
    assert_eq!(last(&mut cluster), before + 1);
    assert_eq!(cluster.get(3, "a").as_deref(), Some(&b"2"[..]));
}

#[test]
fn an_empty_value_is_not_the_one_behind_it_in_the_log() {
    for cold in [false, true] {
        let mut cluster = Cluster::new(3);
        let put = |key: &str, value: &'static str| item(key, Action::Put(Bytes::from(value)), Condition::None);
        let same = ["k4", "k5", "k6", "k7", "k8", "k9", "k10", "k11", "k12", "k13"];
        let group = |key: &str| crate::base::hash::token(0, key.as_bytes()).partition(4);
        let [a, b] = [same[0], same[1..].iter().find(|key| group(key) == group(same[0])).expect("one of many")];
        let done = cluster.call(1, transact(vec![put(a, ""), put(b, "5")]));
        assert!(matches!(done, ResponseBody::Transacted(_)), "{done:?}");
        cluster.run(500);
        if cold {
            (1..=3).for_each(|n| cluster.kill(n));
            (1..=3).for_each(|n| cluster.boot(n, 3));
            cluster.run(2_000);
        }
        assert_eq!(cluster.get(1, b).as_deref(), Some(&b"5"[..]));
        assert_eq!(cluster.get(1, a).as_deref(), Some(&b""[..]));
        let ResponseBody::Values(items) = cluster.call(2, get_many(&[a, b])) else { panic!("no values") };
        assert_eq!(items.iter().map(|item| item.value.clone().unwrap()).collect::<Vec<_>>(), ["", "5"]);
        assert_eq!(cluster.call(3, alone(increment(a, 1))), ResponseBody::Rejected(Rejection::NotANumber));
        let refused = cluster.call(3, transact(vec![increment(a, 1), increment(b, 1)]));
        assert_eq!(refused, ResponseBody::NotCommitted(vec![Failure { item: 0, reason: FailureReason::NotANumber }]));
        let same = Operation::put(a.to_string(), "").only_if(Condition::Value(Bytes::new())).alone();
        assert!(matches!(
            cluster.call(3, RequestBody::Operation(same.acknowledge(Acknowledge::All))),
            ResponseBody::Written { .. }
        ));
        assert!(matches!(cluster.call(2, alone(increment(b, 1))), ResponseBody::Written { number: Some(6), .. }));
    }
}

#[test]
fn what_is_read_together_is_bounded_before_it_is_read() {
    let mut cluster = Cluster::new(3);
    let names: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    let value = "v".repeat(200 * 1024);
    for key in &keys {
        cluster.put(1, key, &value);
    }
    let ask = |cluster: &mut Cluster, keys: &[&str]| -> Vec<u64> { (0..60).map(|_| cluster.ask(2, get_many(keys))).collect() };
    let asked = ask(&mut cluster, &keys);
    cluster.run(100);
    for id in asked {
        assert_eq!(cluster.answers.remove(&id), Some(ResponseBody::Rejected(Rejection::TooLarge)));
    }
    assert_eq!(cluster.lent_max, 0, "no value was read");
    let asked = ask(&mut cluster, &keys[..20]);
    cluster.run(1_900);
    for id in asked {
        let Some(ResponseBody::Values(items)) = cluster.answers.remove(&id) else { panic!("no values") };
        assert!(items.iter().all(|item| item.value.as_ref().is_some_and(|found| *found == value)));
    }
    assert!(cluster.lent_max > 0 && cluster.lent_max <= Limits::DEFAULT.read_bytes_in_progress, "{}", cluster.lent_max);
    cluster.assert_idle();
    assert!(cluster.nodes.values().all(|node| node.cache.lent() == 0), "all of it is given back");
}

#[test]
fn what_makes_no_sense_locks_nothing() {
    let mut cluster = Cluster::new(3);
    for items in [
        vec![],
        vec![increment("a", 1), increment("a", 1)],
        (0..101).map(|n| increment(&format!("k{n}"), 1)).collect(),
        (0..12).map(|n| item(&format!("k{n}"), Action::Put(vec![0; 400_000].into()), Condition::None)).collect(),
    ] {
        let answer = cluster.call(1, transact(items));
        assert!(matches!(answer, ResponseBody::Rejected(Rejection::Invalid(_))), "{answer:?}");
    }
    cluster.put(1, "b", "text");
    let answer = cluster.call(1, transact(vec![increment("a", 1), increment("b", 1)]));
    assert_eq!(answer, ResponseBody::NotCommitted(vec![Failure { item: 1, reason: FailureReason::NotANumber }]));
    cluster.run(1_000);
    cluster.assert_idle();
}

#[test]
fn a_token_answers_the_same_under_every_leader() {
    let mut cluster = Cluster::new(3);
    let items: Vec<Operation> = KEYS.iter().map(|key| increment(key, 1)).collect();
    let first = cluster.call(1, with_token(items.clone(), "once"));
    assert!(matches!(first, ResponseBody::Transacted(_)), "{first:?}");
    assert_eq!(cluster.call(2, with_token(items.clone(), "once")), first);
    let refused = cluster.call(2, with_token(vec![item("a", Action::Delete, Condition::Absent)], "never"));
    assert!(matches!(refused, ResponseBody::NotCommitted(_)), "{refused:?}");
    (1..=3).for_each(|n| cluster.kill(n));
    // A token's time is counted while a node leads, wherever the clock begins.
    cluster.now = cluster.now + TOKEN_LIFETIME * 2;
    (1..=3).for_each(|n| cluster.boot(n, 3));
    cluster.run(2_000);
    assert_eq!(cluster.call(3, with_token(items.clone(), "once")), first);
    assert_eq!(cluster.call(3, with_token(items[1..].to_vec(), "once")), ResponseBody::Rejected(Rejection::TokenReused));
    cluster.call(1, alone(Operation::delete("a")));
    assert_eq!(cluster.call(1, with_token(vec![item("a", Action::Delete, Condition::Absent)], "never")), refused);
    cluster.run(1_000);
    cluster.assert_idle();
}

#[test]
fn a_token_ends_after_its_time_through_restarts() {
    let mut cluster = Cluster::new(3);
    let items: Vec<Operation> = KEYS.iter().map(|key| increment(key, 1)).collect();
    let first = cluster.call(1, with_token(items.clone(), "once"));
    let half = TOKEN_LIFETIME.as_millis() as u64 / 2;
    cluster.run(half);
    (1..=3).for_each(|n| cluster.kill(n));
    (1..=3).for_each(|n| cluster.boot(n, 3));
    cluster.run(half - 31_000);
    assert_eq!(cluster.call(3, with_token(items.clone(), "once")), first, "it is kept for its time");
    cluster.run(150_000);
    assert_eq!(cluster.numbers(2, &KEYS[..1]), [Some(1)]);
    assert!(matches!(cluster.call(2, with_token(items, "once")), ResponseBody::Transacted(_)));
    assert_eq!(cluster.numbers(2, &KEYS[..1]), [Some(2)], "a restart does not begin its time anew");
}

#[test]
fn a_released_token_is_forgotten_and_one_released_late_or_twice_is_no_error() {
    let mut cluster = Cluster::new(3);
    let items: Vec<Operation> = KEYS.iter().map(|key| increment(key, 1)).collect();
    let release = || RequestBody::Transact(Transaction::release(Bytes::from("mine")));
    let nothing = ResponseBody::Transacted(Vec::new());
    assert_eq!(cluster.call(1, release()), nothing, "nobody knows it");
    let first = cluster.call(1, with_token(items.clone(), "mine"));
    assert_eq!(cluster.call(2, with_token(items.clone(), "mine")), first);
    for n in [3, 2] {
        assert_eq!(cluster.call(n, release()), nothing);
    }
    cluster.run(500);
    assert_eq!(cluster.call(1, release()), nothing);
    assert!(matches!(cluster.call(2, with_token(items, "mine")), ResponseBody::Transacted(_)));
    assert_eq!(cluster.numbers(2, &KEYS), [Some(2); 8], "it was taken for a new one");
    cluster.run(1_000);
    cluster.assert_idle();
}

#[test]
fn conflicting_transactions_all_come_through() {
    let mut cluster = Cluster::new(3);
    let transfer = |n: usize| {
        let mut items = vec![increment(KEYS[n % 8], -1), increment(KEYS[(n * 3 + 1) % 8], 1)];
        if n.is_multiple_of(2) {
            items.reverse();
        }
        transact(items)
    };
    let pairs = (0..64).filter(|n| n % 8 != (n * 3 + 1) % 8);
    let asked: Vec<u64> = pairs.map(|n| cluster.ask(1 + n as u16 % 3, transfer(n))).collect();
    let reads: Vec<u64> = (0..10).map(|n| cluster.ask(1 + n % 3, get_many(&KEYS))).collect();
    cluster.run(2_500);
    for id in asked {
        let answer = cluster.answers.remove(&id);
        assert!(matches!(answer, Some(ResponseBody::Transacted(_))), "{answer:?}");
    }
    for id in reads {
        let Some(ResponseBody::Values(items)) = cluster.answers.remove(&id) else { panic!("a read is answered") };
        let sum: i64 = items
            .iter()
            .filter_map(|item| item.value.as_ref())
            .map(|v| std::str::from_utf8(v).unwrap().parse::<i64>().unwrap())
            .sum();
        assert_eq!(sum, 0, "no read sees half of a transfer");
    }
    assert_eq!(cluster.numbers(2, &KEYS).into_iter().flatten().sum::<i64>(), 0);
    cluster.run(1_000);
    cluster.assert_idle();
}

/// Kills every node in turn, at every millisecond of a transaction: it is done or not, everywhere, and leaves nothing behind.
#[test]
fn a_node_may_die_at_any_moment() {
    for victim in 1..=3 {
        for moment in 0..8 {
            let mut cluster = Cluster::new(3);
            let asked = cluster.ask(1, transact(KEYS.iter().map(|key| increment(key, 1)).collect()));
            cluster.run(moment);
            cluster.kill(victim);
            cluster.run(3_000);
            cluster.boot(victim, 3);
            cluster.run(6_000);
            let numbers = cluster.numbers(1 + victim % 3, &KEYS);
            let answer = cluster.answers.remove(&asked);
            let what = format!("victim {victim} after {moment} ms: {answer:?}, {numbers:?}");
            match (numbers[0], &answer) {
                (Some(1), Some(ResponseBody::Transacted(_) | ResponseBody::Unknown(_)) | None) => {}
                (None, Some(ResponseBody::Unknown(_) | ResponseBody::Rejected(_)) | None) => {}
                _ => panic!("{what}"),
            }
            assert!(numbers.iter().all(|number| *number == numbers[0]), "{what}");
            cluster.assert_idle();
        }
    }
}

#[test]
fn a_read_waits_for_a_prepared_write() {
    let mut cluster = Cluster::new(3);
    cluster.call(1, transact(KEYS.iter().map(|key| increment(key, 1)).collect()));
    cluster.run(1_000);
    // The decision reaches no participant: they stay prepared, until they ask.
    cluster.loses =
        Some(|message| matches!(message, PeerMessage::Forward(forward) if matches!(forward.task, Task::Resolve { .. })));
    let asked = cluster.ask(1, transact(KEYS.iter().map(|key| increment(key, 1)).collect()));
    cluster.run(20);
    assert!(
        matches!(cluster.answers.remove(&asked), Some(ResponseBody::Transacted(_))),
        "the client is told before participants are"
    );
    assert_eq!(cluster.numbers(2, &KEYS), [Some(2); 8]);
    for key in KEYS {
        assert_eq!(cluster.get(3, key).as_deref(), Some(&b"2"[..]));
    }
    cluster.loses =
        Some(|message| matches!(message, PeerMessage::ForwardReply(reply) if matches!(reply.outcome, Outcome::Resolved)));
    cluster.run(1_000);
    cluster.loses = None;
    cluster.run(6_000);
    cluster.assert_idle();
}

/// Five nodes, and two groups with one node in common. That node is cut off while a transaction over both groups commits; as soon
/// as the client has its answer, and before the participant has heard it, the two others of the participant lose power. What is
/// told of the end: the values of the home's and of the participant's key, and how many commits were said to be lost.
fn power_goes_after_a_commit(wal_sync_interval: Duration) -> (Option<Bytes>, Option<Bytes>, u64) {
    let mut cluster = Cluster::empty();
    (cluster.partitions, cluster.wal_sync_interval) = (16, wal_sync_interval);
    (1..=5).for_each(|n| cluster.watch_medium(n));
    (1..=5).for_each(|n| cluster.boot(n, 5));
    cluster.run(2_000);
    let placement = cluster.nodes[&NodeId(1)].placement.clone();
    let common = |home: GroupId, party: GroupId| -> Vec<NodeId> {
        placement.replicas(home).iter().copied().filter(|node| placement.replicas(party).contains(node)).collect()
    };
    let groups: Vec<GroupId> = (1..=16).map(GroupId).collect();
    let pairs = groups.iter().flat_map(|home| groups.iter().map(|party| (*home, *party)));
    let leads = |group, node: &NodeId| placement.replicas(group)[0] == *node;
    let (home, party, shared) = pairs
        .filter_map(|(home, party)| match common(home, party)[..] {
            [shared] if !leads(home, &shared) && !leads(party, &shared) => Some((home, party, shared)),
            _ => None,
        })
        .next()
        .expect("two such groups");
    let key_of = |group| {
        (0..)
            .map(|n| format!("k{n}"))
            .find(|key| placement.group_of(crate::base::hash::token(0, key.as_bytes())) == group)
            .expect("some")
    };
    let (home_key, party_key) = (key_of(home), key_of(party));
    let gateway = placement.replicas(home)[0].0;
    for key in [&home_key, &party_key] {
        cluster.put(gateway, key, "old");
    }
    // Long enough for all of this to be synced, by all.
    cluster.run(6_000);

    cluster.isolate(shared.0, 1..=5);
    cluster.loses =
        Some(|message| matches!(message, PeerMessage::Forward(forward) if matches!(forward.task, Task::Resolve { .. })));
    let write = |key: &str| item(key, Action::Put(Bytes::from("new")), Condition::None);
    let done = cluster.call(gateway, transact(vec![write(&home_key), write(&party_key)]));
    assert!(matches!(done, ResponseBody::Transacted(_)), "{done:?}");
    let struck: Vec<u16> = placement.replicas(party).iter().filter(|node| **node != shared).map(|node| node.0).collect();
    struck.iter().for_each(|n| cluster.lose_power(*n));
    (cluster.cuts, cluster.loses) = (Vec::new(), None);
    struck.iter().for_each(|n| cluster.boot(*n, 5));
    cluster.run(8_000);

    // No node goes on telling, or waits for what was lost: the keys are free.
    cluster.assert_idle();
    let found = (cluster.get(gateway, &home_key), cluster.get(gateway, &party_key));
    let lost = cluster.nodes.values().map(Node::transactions_lost).sum();
    let again = cluster.call(struck[0], transact(vec![write(&party_key), write(&home_key)]));
    assert!(matches!(again, ResponseBody::Transacted(_)), "{again:?}");
    (found.0, found.1, lost)
}

#[test]
fn with_relaxed_syncing_a_prepare_that_a_majority_lost_is_said_to_be_lost_and_what_was_synced_is_not() {
    let (old, new) = (Some(Bytes::from("old")), Some(Bytes::from("new")));
    // The last interval is lost where the power went, and nothing else: not what was there before, and not the home's part.
    assert_eq!(power_goes_after_a_commit(Duration::from_secs(5)), (new.clone(), old, 1));
    assert_eq!(power_goes_after_a_commit(Duration::ZERO), (new.clone(), new, 0));
}
