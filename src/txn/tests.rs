//! The coordinator, step by step.

use super::*;
use crate::base::cache::ValueCache;
use crate::base::limits::Limits;
use crate::msg::log::{FactSummary, ValuePlace};
use crate::msg::operation::Operation;
use crate::msg::transaction::{TransactionFact, Writes};
use crate::state::State;

fn handle(coordinator: &mut Coordinator, cache: &mut ValueCache, input: In) -> Vec<Out> {
    handle_in(coordinator, State::empty(), cache, input)
}

fn handle_in(coordinator: &mut Coordinator, state: &State, cache: &mut ValueCache, input: In) -> Vec<Out> {
    let mut random = crate::base::random::stream(1, "test");
    let view = crate::actor::LivenessView::default();
    let mut cx = Context::of_test(&mut random, &view, cache);
    cx.state = state;
    let mut out = Outbox::default();
    coordinator.handle(&mut cx, input, &mut out);
    coordinator.check();
    std::iter::from_fn(|| out.pop()).collect()
}

fn begin(items: Vec<Operation>, token: Option<&'static str>, takes_tokens: bool) -> In {
    let transaction = Transaction { items, token: token.map(Bytes::from) };
    let (origin, deadline) = (Origin::Gateway(1), Time::NEVER);
    In::Begin(Begin { origin, age: Age::default(), transaction, term: None, deadline, takes_tokens })
}

fn answer(out: Vec<Out>) -> Option<ResponseBody> {
    out.into_iter().find_map(|out| if let Out::Answer(_, Outcome::Answer(body)) = out { Some(body) } else { None })
}

/// What a leading coordinator answers at once to a transaction with this token; `None`: it is begun.
fn refused(
    coordinator: &mut Coordinator,
    state: &State,
    token: Option<&'static str>,
    takes_tokens: bool,
) -> Option<ResponseBody> {
    let input = begin(vec![Operation::increment("k", 1)], token, takes_tokens);
    answer(handle_in(coordinator, state, &mut ValueCache::new(0, &Limits::DEFAULT), input))
}

/// A coordinator whose group this node leads, in term 2.
fn leading() -> Coordinator {
    let mut coordinator = Coordinator::new(GroupId(1), 1);
    handle(&mut coordinator, &mut ValueCache::new(0, &Limits::DEFAULT), In::Ready(Term(2)));
    coordinator
}

/// The next entry of a home's log is this step.
fn apply(state: &mut State, step: TransactionFact<ValuePlace>) {
    state.apply(state.applied().next(), &FactSummary::Transaction(Box::new(step)), &mut |_| {});
}

#[test]
fn what_the_coordinators_of_a_node_have_read_is_bounded() {
    let mut cache = ValueCache::new(0, &Limits::DEFAULT);
    let mut homes = [(); 2].map(|()| leading());
    let value = Bytes::from(vec![b'v'; crate::base::limits::VALUE_SIZE_MAX]);
    // Begins a transaction that reads ten values, and takes its own store's vote.
    let read = |home: &mut Coordinator, cache: &mut ValueCache, number: u64| {
        let items = (0..10).map(|n| Operation::read(format!("{number}/{n}"))).collect();
        assert!(handle(home, cache, begin(items, None, true)).iter().any(|out| matches!(out, Out::Hold(..))));
        let result = ItemResult { value: Some(value.clone()), ..ItemResult::default() };
        let results = (0..10).map(|position| ResultAt { position, result: result.clone() }).collect();
        let id = home.id(Attempt { term: Term(2), number: home.leading.as_ref().unwrap().number });
        (id, answer(handle(home, cache, In::Held(id, Vote::Yes(results)))))
    };
    let fit = Limits::DEFAULT.voted_bytes_per_node / (10 * crate::base::limits::VALUE_SIZE_MAX);
    let begun: Vec<TransactionId> = (0..fit as u64)
        .map(|number| {
            let (id, answered) = read(&mut homes[number as usize % 2], &mut cache, number);
            assert_eq!(answered, None, "it is being decided");
            id
        })
        .collect();
    let overloaded = Some(ResponseBody::Rejected(Rejection::Overloaded));
    assert_eq!(read(&mut homes[0], &mut cache, 100).1, overloaded, "the sum of all homes counts");
    assert_eq!(answer(handle(&mut homes[1], &mut cache, begin(vec![Operation::delete("k")], None, true))), None);
    // What is over holds nothing.
    handle(&mut homes[0], &mut cache, In::NotDecided(begun[0]));
    assert_eq!(read(&mut homes[1], &mut cache, 101).1, None);
}

#[test]
fn a_home_full_of_tokens_refuses_new_ones_and_nothing_else() {
    let (mut coordinator, mut state) = (leading(), State::new());
    let too_many = Some(ResponseBody::Rejected(Rejection::TooManyTokens));
    assert_eq!(refused(&mut coordinator, &state, Some("a"), false), too_many, "the node has no room");
    assert_eq!(refused(&mut coordinator, &state, None, false), None);
    for number in 0..Limits::DEFAULT.tokens_per_group as u64 {
        let token = Bytes::copy_from_slice(&number.to_be_bytes());
        let token = Some(TokenRecord { token, contents: 0, answer: TransactionAnswer::Committed(Vec::new()) });
        let id = TransactionId { home: GroupId(1), attempt: Attempt { term: Term(1), number } };
        let (parties, writes, ended) = (Vec::new(), Writes(Vec::new()), Vec::new());
        apply(&mut state, TransactionFact::Decide { id, commit: true, parties, writes, ended, token });
    }
    assert_eq!(refused(&mut coordinator, &state, Some("a"), true), too_many);
    // What it knows is answered, and what has no token is begun.
    let known = refused(&mut coordinator, &state, Some("\0\0\0\0\0\0\0\u{1}"), true);
    assert_eq!(known, Some(ResponseBody::Rejected(Rejection::TokenReused)), "of other contents, here");
    assert_eq!(refused(&mut coordinator, &state, None, true), None);
    // One that is released makes room.
    let expired = vec![Blob(Bytes::copy_from_slice(&0_u64.to_be_bytes()))];
    apply(&mut state, TransactionFact::End { ended: Vec::new(), expired, tick: false });
    assert_eq!(refused(&mut coordinator, &state, Some("a"), true), None);
}

#[test]
fn the_floor_rises_past_what_is_stuck() {
    let mut coordinator = leading();
    let attempt = |term: u64, number: u64| Attempt { term: Term(term), number };
    let begun = |coordinator: &mut Coordinator, number| coordinator.leading.as_mut().unwrap().number = number;
    begun(&mut coordinator, 7);
    assert_eq!(coordinator.floor(), (attempt(2, 7), vec![]));
    let stuck = |coordinator: &mut Coordinator, attempt| {
        coordinator.leading.as_mut().unwrap().commits.insert(attempt, Commit::new(Vec::new(), Time::ZERO));
    };
    stuck(&mut coordinator, attempt(2, 5));
    assert_eq!(coordinator.floor(), (attempt(2, 4), vec![]));
    stuck(&mut coordinator, attempt(1, 9));
    assert_eq!(coordinator.floor(), (attempt(2, 0), vec![attempt(1, 9)]));
    begun(&mut coordinator, 5_000);
    assert_eq!(coordinator.floor(), (attempt(2, 5_000 - FLOOR_SPAN), vec![attempt(1, 9), attempt(2, 5)]));
    // As many as it may name.
    (10..8 + OPEN_NAMED_MAX as u64).for_each(|number| stuck(&mut coordinator, attempt(2, number)));
    let (floor, open) = coordinator.floor();
    assert_eq!((floor, open.len()), (attempt(2, 5_000 - FLOOR_SPAN), OPEN_NAMED_MAX));
    // Of too many, the floor names as many as it may.
    (10..2_000).for_each(|number| stuck(&mut coordinator, attempt(2, number)));
    let (floor, open) = coordinator.floor();
    assert_eq!((floor, open.len()), (attempt(2, 10 + OPEN_NAMED_MAX as u64 - 3), OPEN_NAMED_MAX));
    assert!(open.is_sorted() && open.iter().all(|open| *open <= floor));
}

#[test]
fn a_participant_in_doubt_is_answered_by_the_leader_of_its_transactions_home_alone() {
    let mut coordinator = leading();
    let mut cache = ValueCache::new(0, &Limits::DEFAULT);
    handle(&mut coordinator, &mut cache, begin(vec![Operation::increment("k", 1)], None, true));
    let of =
        |home: u32, term: u64, number: u64| TransactionId { home: GroupId(home), attempt: Attempt { term: Term(term), number } };
    coordinator.leading.as_mut().unwrap().commits.insert(of(1, 1, 9).attempt, Commit::new(Vec::new(), Time::ZERO));
    let not_leader = Outcome::NotLeader { leader: None };
    let cases = [
        (of(1, 2, 1), Outcome::Decided(None), "it is open"),
        (of(1, 1, 9), Outcome::Decided(Some(true)), "it is committed"),
        (of(1, 2, 2), Outcome::Decided(Some(false)), "nothing is known of it"),
        (of(1, 1, 1), Outcome::Decided(Some(false)), "nothing is known of it, of an earlier term"),
        (of(2, 2, 1), not_leader.clone(), "it has another home"),
        (of(1, 3, 1), not_leader.clone(), "its home has another leader"),
    ];
    let mut ask = |coordinator: &mut Coordinator, id| {
        let out = handle(coordinator, &mut cache, In::Inquire(Origin::Gateway(7), id));
        match <[Out; 1]>::try_from(out) {
            Ok([Out::Answer(Origin::Gateway(7), outcome)]) => outcome,
            other => panic!("{other:?}"),
        }
    };
    for (id, expected, why) in cases {
        assert_eq!(ask(&mut coordinator, id), expected, "{why}");
    }
    handle(&mut coordinator, &mut ValueCache::new(0, &Limits::DEFAULT), In::Deposed);
    assert_eq!(ask(&mut coordinator, of(1, 1, 1)), not_leader);
}

#[test]
fn participants_are_given_time_to_hear_that_a_transaction_is_given_up() {
    let mut coordinator = Coordinator::new(GroupId(1), 8);
    let mut cache = ValueCache::new(0, &Limits::DEFAULT);
    handle(&mut coordinator, &mut cache, In::Ready(Term(2)));
    let key_in = |group| (0..).map(|n| Key::from(format!("k{n}"))).find(|key| coordinator.group_of(key) == GroupId(group));
    let items = (1..=8).map(|group| Operation::increment(key_in(group).expect("there is one"), 1)).collect();
    handle(&mut coordinator, &mut cache, begin(items, None, true));
    let id = coordinator.id(Attempt { term: Term(2), number: 1 });
    let asked = handle(&mut coordinator, &mut cache, In::Held(id, Vote::Yes(Vec::new())));
    let parties = asked.iter().filter(|out| matches!(out, Out::Ask { task: Task::Prepare(_), .. })).count();
    let told = handle(&mut coordinator, &mut cache, In::NotDecided(id));
    let now = Time::from_millis(1);
    let in_time =
        |out: &&Out| matches!(out, Out::Ask { task: Task::Resolve { commit: false, .. }, deadline, .. } if *deadline > now);
    assert_eq!((parties, told.iter().filter(in_time).count()), (7, 7), "{told:?}");
}

#[test]
fn a_home_with_tokens_counts_their_age_from_when_its_leader_is_ready() {
    let mut state = State::new();
    let token = Some(TokenRecord { token: "a".into(), contents: 0, answer: TransactionAnswer::Committed(Vec::new()) });
    let id = TransactionId { home: GroupId(1), attempt: Attempt { term: Term(1), number: 1 } };
    let (parties, writes, ended) = (Vec::new(), Writes(Vec::new()), Vec::new());
    apply(&mut state, TransactionFact::Decide { id, commit: true, parties, writes, ended, token });
    let mut coordinator = Coordinator::new(GroupId(1), 1);
    let mut cache = ValueCache::new(0, &Limits::DEFAULT);
    handle_in(&mut coordinator, &state, &mut cache, In::Ready(Term(2)));
    let (at, _) = coordinator.deadline().expect("its age is counted");
    assert_eq!(at, Time::from_millis(1) + Limits::DEFAULT.token_tick());
    // What is released is known, or nothing has to be logged.
    let mut release = |token| {
        assert_eq!(
            answer(handle_in(&mut coordinator, &state, &mut cache, begin(Vec::new(), Some(token), true))),
            Some(ResponseBody::Transacted(Vec::new()))
        );
        coordinator.deadline().expect("as above").0
    };
    assert_eq!(release("unknown"), at);
    assert!(release("a") < at);
}

#[test]
fn of_many_tokens_that_are_released_an_entry_takes_as_many_as_it_may_and_the_next_comes_a_little_later() {
    let mut coordinator = leading();
    let max = Limits::DEFAULT.ended_per_entry;
    let leading = coordinator.leading.as_mut().unwrap();
    leading.released = (0..max as u32 + 5).map(|number| Bytes::copy_from_slice(&number.to_be_bytes())).collect();
    leading.end_at = Some(Time::ZERO);
    let mut cache = ValueCache::new(0, &Limits::DEFAULT);
    let mut expired = |coordinator: &mut Coordinator| {
        let out = handle(coordinator, &mut cache, In::Timer);
        out.iter().map(|out| if let Out::End(ending) = out { ending.expired.len() } else { 0 }).sum::<usize>()
    };
    assert_eq!(expired(&mut coordinator), max);
    assert!(coordinator.deadline().expect("more is to come").0 > Time::from_millis(1));
    coordinator.leading.as_mut().unwrap().end_at = Some(Time::ZERO);
    assert_eq!((expired(&mut coordinator), coordinator.deadline()), (5, None));
}
