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
    // Of too many, the floor names as many as it may.
    (10..2_000).for_each(|number| stuck(&mut coordinator, attempt(2, number)));
    let (floor, open) = coordinator.floor();
    assert_eq!((floor, open.len()), (attempt(2, 10 + OPEN_NAMED_MAX as u64 - 3), OPEN_NAMED_MAX));
    assert!(open.is_sorted() && open.iter().all(|open| *open <= floor));
}
