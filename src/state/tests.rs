//! The fold, the image and the digest.

use super::{Part, State};
use crate::base::limits::DELETED_KEPT;
use crate::base::random::{self, Random, below};
use crate::base::{GroupId, Index, Key, NodeId, Place, SegmentId, Term, Version};
use crate::msg::codec::{self, Blob};
use crate::msg::configuration::Configuration;
use crate::msg::log::{FactSummary, ValuePlace};
use crate::msg::transaction::{
    Age, Attempt, ItemResult, Stored, TokenRecord, TransactionAnswer, TransactionFact, TransactionId, Write, Writes,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

const HOME: GroupId = GroupId(1);

fn id(home: GroupId, number: u64) -> TransactionId {
    TransactionId { home, attempt: Attempt { term: Term(1), number } }
}

/// A value of this number, which lies in this segment: where, is each replica's own affair.
fn value(number: u64, segment: u64) -> ValuePlace {
    let place = Place { segment: SegmentId(segment as u32), offset: (number * 7) as u32, length: (number % 5) as u32 };
    ValuePlace { place, checksum: number as u32 }
}

fn configuration(random: &mut Random) -> Configuration {
    Configuration::of((0..=below(random, 3) as u16).map(NodeId).collect())
}

/// An entry that some leader might log, or one that none would.
fn fact(random: &mut Random, segment: u64) -> FactSummary {
    let key = |random: &mut Random| match below(random, 4) {
        0 => Key::new(below(random, 2) as u32, b"k", Some(format!("{}", below(random, 10)).as_bytes())),
        _ => Key::from(format!("k{}", below(random, 30))),
    };
    let token = |random: &mut Random| Bytes::from(format!("t{}", below(random, 30)));
    let maybe = |random: &mut Random| Some(value(below(random, 1_000), segment)).filter(|_| below(random, 5) > 0);
    let writes = |random: &mut Random| {
        let write = |random: &mut Random| Write { key: key(random), value: maybe(random) };
        Writes((0..below(random, 4)).map(|_| write(random)).collect())
    };
    let other = id(GroupId(2 + below(random, 3) as u32), below(random, 60));
    let own = id(HOME, below(random, 60));
    let step = match below(random, 10) {
        0 if below(random, 4) == 0 => return FactSummary::Configuration(Box::new(configuration(random))),
        0 => return FactSummary::Noop,
        1..=3 => return FactSummary::Write { key: key(random), value: maybe(random) },
        4 | 5 => TransactionFact::Prepare {
            id: other,
            age: Age { began_ms: below(random, 9), ..Age::default() },
            floor: Attempt { term: Term(1), number: below(random, 30) },
            parties: vec![GroupId(1), GroupId(4)],
            shared: (0..below(random, 3)).map(|_| key(random)).collect(),
            writes: writes(random),
            open: (0..below(random, 3)).map(|_| id(HOME, below(random, 60)).attempt).collect(),
        },
        6 => TransactionFact::Resolve { id: other, commit: below(random, 2) == 0 },
        7 | 8 => {
            let answer = TransactionAnswer::Committed(vec![ItemResult::default(); below(random, 3) as usize]);
            let token = TokenRecord { token: token(random), contents: below(random, 5), answer };
            TransactionFact::Decide {
                id: own,
                commit: below(random, 4) > 0,
                parties: (0..below(random, 3) as u32).map(|n| GroupId(2 + n)).collect(),
                writes: writes(random),
                ended: (0..below(random, 2)).map(|_| id(HOME, below(random, 60))).collect(),
                token: Some(token).filter(|_| below(random, 2) == 0),
            }
        }
        _ => TransactionFact::End {
            ended: (0..below(random, 3)).map(|_| id(HOME, below(random, 60))).collect(),
            expired: (0..below(random, 2)).map(|_| Blob(token(random))).collect(),
            tick: below(random, 3) == 0,
        },
    };
    FactSummary::Transaction(Box::new(step))
}

/// What so many drawn entries come to, on a replica whose values lie in this segment.
fn drawn(seed: u64, entries: u64, segment: u64) -> State {
    let (mut state, mut random) = (State::new(), random::stream(seed, "state"));
    for index in 1..=entries {
        let fact = fact(&mut random, segment);
        state.apply(Index(index), &fact, &mut |_| {});
    }
    state.check();
    state
}

fn parts(state: &State) -> Vec<Part<ValuePlace>> {
    state.parts(None).collect()
}

fn installed(parts: impl IntoIterator<Item = Part<ValuePlace>>) -> State {
    let mut state = State::new();
    parts.into_iter().for_each(|part| state.install(part));
    state
}

#[test]
fn the_same_entries_have_the_same_digest_wherever_values_lie_and_other_entries_another() {
    for seed in 0..40 {
        assert_eq!(drawn(seed, 300, 1).digest(), drawn(seed, 300, 9).digest(), "seed {seed}");
        assert_ne!(drawn(seed, 300, 1).digest(), drawn(seed, 299, 1).digest(), "seed {seed}");
    }
}

#[test]
fn an_image_is_all_of_a_state_and_comes_in_pieces() {
    let mut seen = [false; 8];
    for seed in 0..40 {
        let state = drawn(seed, 400, 1);
        let whole = parts(&state);
        for part in &whole {
            seen[part.rank() as usize] = true;
            let stored = |value: ValuePlace| Stored { length: value.place.length, checksum: value.checksum };
            let stored = part.clone().map(stored);
            let read = codec::decode::<Part<Stored>>(&codec::encode(&stored).into());
            assert_eq!(read, Ok(stored), "written and read");
        }
        // Each piece begins behind the last part of the one before.
        let mut random = random::stream(seed, "pieces");
        let mut pieces: Vec<Part<ValuePlace>> = Vec::new();
        loop {
            let piece: Vec<_> = state.parts(pieces.last()).take(1 + below(&mut random, 9) as usize).collect();
            if piece.is_empty() {
                break;
            }
            pieces.extend(piece);
        }
        assert_eq!(pieces, whole, "seed {seed}");
        let copy = installed(pieces);
        copy.check();
        assert_eq!((copy.digest(), parts(&copy)), (state.digest(), whole), "seed {seed}");
        // It goes on as the original does.
        let mut both = [state, copy];
        for state in &mut both {
            let mut random = random::stream(seed, "after");
            (401..=600).for_each(|index| state.apply(Index(index), &fact(&mut random, 1), &mut |_| {}));
            state.check();
        }
        assert_eq!(both[0].digest(), both[1].digest(), "seed {seed}");
    }
    assert_eq!(seen, [true; 8], "every kind of part was drawn");
}

#[test]
fn a_digest_sees_whatever_is_missing() {
    let state = drawn(3, 400, 1);
    let whole = parts(&state);
    for missing in 0..whole.len() {
        let rest = whole.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, part)| part.clone());
        assert_ne!(installed(rest).digest(), state.digest(), "without {:?}", whole[missing]);
    }
}

#[test]
fn an_older_prepare_that_is_logged_later_opens_no_attempt_again() {
    let mut state = State::new();
    let home = GroupId(2);
    let mut prepare = |number, floor, open: &[u64]| {
        let step = TransactionFact::Prepare {
            id: id(home, number),
            age: Age::default(),
            floor: id(home, floor).attempt,
            parties: vec![HOME],
            shared: Vec::new(),
            writes: Writes(Vec::new()),
            open: open.iter().map(|open| id(home, *open).attempt).collect(),
        };
        let index = state.applied().next();
        state.apply(index, &FactSummary::Transaction(Box::new(step)), &mut |_| {});
        [1, 2, 3, 498, 499].map(|number| state.outcomes().is_over(id(home, number)))
    };
    assert_eq!(prepare(499, 498, &[1]), [false, true, true, true, false]);
    assert_eq!(prepare(500, 5, &[1, 3]), [false, true, true, true, false]);
    assert_eq!(prepare(501, 499, &[]), [true; 5]);
}

#[test]
fn what_replaces_a_value_says_which() {
    let mut state = State::new();
    let mut put = |index, value| {
        let mut replaced = Vec::new();
        let fact = FactSummary::Write { key: Key::from("k"), value };
        state.apply(Index(index), &fact, &mut |old| replaced.push(old));
        (replaced, state.items().present())
    };
    assert_eq!(put(1, Some(value(1, 1))), (vec![], 1));
    assert_eq!(put(2, Some(value(2, 1))), (vec![value(1, 1)], 1));
    assert_eq!(put(3, None), (vec![value(2, 1)], 0));
    assert_eq!(put(4, None), (vec![], 0));
}

/// A copy is made leaf by leaf while entries are applied, and gives with the entries behind its beginning what all entries give.
#[test]
fn a_copy_made_while_entries_are_applied_is_whole_with_the_entries_behind_its_beginning() {
    let mut later = 0;
    for seed in 0..200 {
        let mut random = random::stream(seed, "copy");
        let facts: Vec<FactSummary> = (0..600).map(|_| fact(&mut random, 1)).collect();
        let mut state = State::in_leaves_of([1, 300, 8_192][seed as usize % 3]);
        let apply = |state: &mut State, upto: u64| {
            let from = state.applied().0;
            (from..upto).for_each(|at| state.apply(Index(at + 1), &facts[at as usize], &mut |_| {}));
        };
        let begin = 100 + below(&mut random, 300);
        apply(&mut state, begin);
        let parts = state.encoded_parts();
        let (mut pages, mut next) = (Vec::new(), Some(Vec::new()));
        while let Some((fence, page)) = next.take().and_then(|fence| Some((fence.clone(), state.page(&fence)?))) {
            next = page.next.map(<[u8]>::to_vec);
            pages.push((fence, page.bytes.to_vec()));
            let upto = (state.applied().0 + below(&mut random, 9)).min(500);
            apply(&mut state, upto);
        }
        let reached = state.applied();
        let mut copy = State::in_leaves_of(300);
        for (fence, page) in &pages {
            assert!(copy.install_leaf(fence, page, Place::default()), "seed {seed}");
        }
        for part in parts {
            assert!(copy.install_parts(&[&(part.len() as u32).to_le_bytes()[..], &part].concat()), "seed {seed}");
        }
        assert!(copy.is_whole(Index(begin)), "seed {seed}");
        later += u64::from(reached.0 > begin);
        apply(&mut copy, reached.0);
        copy.check();
        assert_eq!(copy.digest(), state.digest(), "seed {seed}");
        apply(&mut copy, 600);
        apply(&mut state, 600);
        assert_eq!(copy.digest(), state.digest(), "seed {seed}");
    }
    assert!(later > 100, "entries were applied meanwhile in {later} seeds");
}

#[test]
fn a_leaf_that_has_changed_since_its_copy_is_copied_again_and_so_are_both_halves_of_one_that_was_split() {
    let mut state = State::in_leaves_of(300);
    let write = |state: &mut State, key: String| {
        let fact = FactSummary::Write { key: key.into(), value: Some(value(1, 1)) };
        state.apply(state.applied().next(), &fact, &mut |_| {});
    };
    let copy_all = |state: &mut State| {
        let (mut made, mut next) = (0, Some(Vec::new()));
        while let Some(fence) = next {
            let page = state.page(&fence).expect("a leaf");
            next = page.next.map(<[u8]>::to_vec);
            made += u64::from(page.copied.is_none());
            state.copied(&fence, Place { length: 1, ..Place::default() });
        }
        made
    };
    (0..100).for_each(|number| write(&mut state, format!("k{number:03}")));
    assert!(copy_all(&mut state) > 5);
    assert_eq!(copy_all(&mut state), 0, "nothing has changed");
    write(&mut state, "k050".into());
    assert_eq!(copy_all(&mut state), 1, "one leaf has");
    (0..20).for_each(|number| write(&mut state, format!("k050{number:02}")));
    assert!(copy_all(&mut state) > 1, "one leaf was split");
    assert_eq!(copy_all(&mut state), 0);
}

/// A clone is sent to a replica while the state goes on.
#[test]
fn a_clone_stays_what_the_state_was() {
    for seed in 0..20 {
        let mut random = random::stream(seed, "clone");
        let mut state = State::in_leaves_of(200);
        let mut clones = Vec::new();
        for index in 1..=600 {
            state.apply(Index(index), &fact(&mut random, seed), &mut |_| {});
            if below(&mut random, 100) == 0 {
                clones.push((state.clone(), state.digest()));
            }
        }
        for (clone, digest) in clones {
            assert_eq!(clone.digest(), digest);
            clone.check();
        }
        state.check();
    }
}

fn write(key: &Key, value: Option<ValuePlace>) -> FactSummary {
    FactSummary::Write { key: key.clone(), value }
}

fn prepare(number: u64, key: &Key, value: Option<ValuePlace>) -> FactSummary {
    FactSummary::Transaction(Box::new(TransactionFact::Prepare {
        id: id(GroupId(2), number),
        age: Age::default(),
        floor: Attempt::FIRST,
        parties: vec![GroupId(1), GroupId(2)],
        shared: Vec::new(),
        writes: Writes(vec![Write { key: key.clone(), value }]),
        open: Vec::new(),
    }))
}

fn resolve(number: u64, commit: bool) -> FactSummary {
    FactSummary::Transaction(Box::new(TransactionFact::Resolve { id: id(GroupId(2), number), commit }))
}

/// Applies no-ops up to this index.
fn pass(state: &mut State, upto: u64) {
    (state.applied().0..upto).for_each(|at| state.apply(Index(at + 1), &FactSummary::Noop, &mut |_| {}));
}

#[test]
fn what_was_deleted_long_ago_is_as_what_was_never_written_and_no_version_of_absence_comes_again() {
    let mut state = State::new();
    let versions = |state: &State| ["k", "never"].map(|key| state.item(&key.into()).version.0);
    assert_eq!(versions(&state), [0, 0]);
    state.apply(Index(1), &write(&"k".into(), Some(value(1, 1))), &mut |_| {});
    state.apply(Index(2), &write(&"k".into(), None), &mut |_| {});
    pass(&mut state, 2 * DELETED_KEPT - 1);
    assert_eq!(versions(&state), [2, 0]);
    pass(&mut state, 2 * DELETED_KEPT);
    assert_eq!(versions(&state), [DELETED_KEPT, DELETED_KEPT]);
    // What is prepared will have the version of its prepare: the floor stays below.
    let prepared = state.applied().next();
    state.apply(prepared, &prepare(1, &"k".into(), Some(value(1, 1))), &mut |_| {});
    pass(&mut state, 5 * DELETED_KEPT);
    assert_eq!(versions(&state), [2 * DELETED_KEPT; 2], "{prepared:?} is not resolved");
    state.apply(state.applied().next(), &resolve(1, true), &mut |_| {});
    assert_eq!(versions(&state), [prepared.0, 4 * DELETED_KEPT]);
    assert!(state.item(&"k".into()).value.is_some(), "what is there has its own version, however old");
    state.apply(state.applied().next(), &write(&"k".into(), None), &mut |_| {});
    assert_eq!(versions(&state), [state.applied().0, 4 * DELETED_KEPT]);
    pass(&mut state, 7 * DELETED_KEPT);
    assert_eq!(versions(&state), [6 * DELETED_KEPT; 2]);
    assert_eq!((left(&state), parts(&state).len()), (1, 3), "it is there, and in no image: {:?}", parts(&state));
    state.forget_deleted(&[]);
    assert_eq!((left(&state), versions(&state)), (0, [6 * DELETED_KEPT; 2]));
    state.check();
}

/// One replica forgets while it copies its leaves, and boots from such a copy; another forgets nothing. They cannot be told apart.
#[test]
fn which_replica_forgets_what_was_deleted_and_when_changes_nothing() {
    let (mut forgotten, mut joined, mut booted) = (0, 0, 0);
    for seed in 0..12 {
        let mut random = random::stream(seed, "forgotten");
        let leaf_bytes = [1, 300, 1_000][seed as usize % 3];
        let (mut state, mut whole) = (State::in_leaves_of(leaf_bytes), State::in_leaves_of(leaf_bytes));
        let mut facts = Vec::new();
        let mut open: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut begin, mut parts, mut pages, mut next) = (0, state.encoded_parts(), Vec::new(), Some(Vec::new()));
        for index in 1..=6_000_u64 {
            // Keys come in order, are written a few times, and go.
            let key = Key::from(format!("k{:06}", index / 4 + below(&mut random, 60)));
            let some = Some(value(index, 1)).filter(|_| below(&mut random, 6) == 0);
            let fact = match (below(&mut random, 12), open.iter().find(|(_, until)| **until <= index)) {
                (_, Some((&number, _))) => {
                    open.remove(&number);
                    resolve(number, below(&mut random, 2) == 0)
                }
                // No leader logs a write of what is locked.
                _ if state.outcomes().locks().exclusive_holder(&key).is_some() => FactSummary::Noop,
                (0, _) => {
                    open.insert(index, index + below(&mut random, 30) * below(&mut random, 30));
                    prepare(index, &key, some)
                }
                _ => write(&key, some),
            };
            state.apply(Index(index), &fact, &mut |_| {});
            whole.apply(Index(index), &fact, &mut |_| {});
            facts.push(fact);
            assert_eq!(state.item(&key).version, whole.item(&key).version);
            if below(&mut random, 3) > 0 {
                continue;
            }
            if let Some(fence) = next.take() {
                let (before, fences) = (left(&state), fences(&state));
                state.forget_deleted(&fence);
                forgotten += before - left(&state);
                joined += fences - self::fences(&state);
                let page = state.page(&fence).expect("a leaf that is copied later is there later");
                next = page.next.map(<[u8]>::to_vec);
                pages.push((fence.clone(), page.bytes.to_vec()));
                continue;
            }
            state.check();
            assert_eq!(state.digest(), whole.digest(), "seed {seed}, at {index}");
            let mut copy = State::in_leaves_of(leaf_bytes);
            assert!(pages.drain(..).all(|(fence, page)| copy.install_leaf(&fence, &page, Place::default())), "seed {seed}");
            for part in std::mem::take(&mut parts) {
                assert!(copy.install_parts(&[&(part.len() as u32).to_le_bytes()[..], &part].concat()));
            }
            assert!(copy.is_whole(Index(begin)), "seed {seed}");
            (begin..index).for_each(|at| copy.apply(Index(at + 1), &facts[at as usize], &mut |_| {}));
            copy.check();
            assert_eq!(copy.digest(), whole.digest(), "seed {seed}, from the copy begun at {begin}, at {index}");
            booted += 1;
            state = copy;
            (begin, parts, next) = (index, state.encoded_parts(), Some(Vec::new()));
        }
        assert!(left(&state) < left(&whole) / 2, "seed {seed}: {} are left of {}", left(&state), left(&whole));
        assert!(state.leaf_bytes() < whole.leaf_bytes() * 2 / 3, "{} and {}", state.leaf_bytes(), whole.leaf_bytes());
        assert!(state.delete_floor() > Version(0));
    }
    assert!(forgotten > 4_000 && joined > 400 && booted > 80, "{forgotten} forgotten, {joined} joined, {booted} booted");
}

/// Keys that are alike but for their ends stand in leaves without what they have in common. In a leaf of others they take all of it.
#[test]
fn leaves_of_keys_with_little_in_common_are_not_joined() {
    let mut state = State::new();
    let put = |state: &mut State, key: Key, value: Option<ValuePlace>| {
        state.apply(state.applied().next(), &write(&key, value), &mut |_| {});
    };
    let long = "x".repeat(2_000);
    (0..1_000).for_each(|number| put(&mut state, Key::from(format!("{long}{number:04}")), Some(value(1, 1))));
    let before = left(&state);
    // Few keys stand before them, in a leaf that most of them have left.
    (0..500).for_each(|number| put(&mut state, Key::from(format!("a{number:03}")), Some(value(1, 1))));
    (1..500).for_each(|number| put(&mut state, Key::from(format!("a{number:03}")), None));
    pass(&mut state, 10 * DELETED_KEPT);
    for _ in 0..5 {
        let mut next = Some(Vec::new());
        while let Some(fence) = next.take() {
            state.forget_deleted(&fence);
            next = state.page(&fence).expect("a leaf").next.map(<[u8]>::to_vec);
        }
        state.check();
    }
    assert_eq!(left(&state), before + 1);
    assert!((5..30).contains(&fences(&state)), "{} leaves", fences(&state));
    assert!((0..1_000).all(|number| state.item(&Key::from(format!("{long}{number:04}"))).value.is_some()));
}

/// Items that are there, and what is left of others.
fn left(state: &State) -> usize {
    state.items().range(Bound::Unbounded).count()
}

fn fences(state: &State) -> usize {
    let (mut count, mut next) = (0, Some(Vec::new()));
    while let Some(page) = next.take().and_then(|fence: Vec<u8>| state.page(&fence)) {
        count += 1;
        next = page.next.map(<[u8]>::to_vec);
    }
    count
}
