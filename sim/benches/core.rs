//! `cargo bench`: what the core's hot paths cost, one thread, nothing but memory.

use bytes::Bytes;
use ringseed::base::{ClusterId, DirectoryId, Epoch, GroupId, Index, Key, NodeId, Place, SegmentId, Term, hash};
use ringseed::msg::codec;
use ringseed::msg::log::{Entry, Fact, FactSummary, ValuePlace};
use ringseed::msg::peer::{Append, Envelope, PeerMessage, ReplicaMessage};
use ringseed::state::State;
use ringseed_sim::run_seed;

fn main() {
    divan::main();
}

fn envelope(entries: u64) -> Envelope {
    let value = Bytes::from(vec![7; 256]);
    let fact = |n: u64| Fact::Write { key: format!("key{n:013}").into(), value: Some(value.clone()) };
    let append = Append {
        term: Term(3),
        previous_index: Index(100),
        previous_term: Term(3),
        entries: (0..entries).map(|n| Entry { index: Index(101 + n), term: Term(3), fact: fact(n) }).collect(),
        commit: Index(100),
        round: 1,
        follower: Epoch(1 << 24),
        everywhere: Index(100),
        whole: false,
    };
    Envelope {
        cluster: Some(ClusterId(1)),
        from: NodeId(1),
        directory: DirectoryId(1),
        epoch: Epoch(1 << 24),
        messages: vec![PeerMessage::Replica(GroupId(1), ReplicaMessage::Append(append))],
    }
}

#[divan::bench(args = [1, 64])]
fn encode_append(bencher: divan::Bencher<'_, '_>, entries: u64) {
    let envelope = envelope(entries);
    bencher.bench(|| codec::encode(divan::black_box(&envelope)));
}

#[divan::bench(args = [1, 64])]
fn decode_append(bencher: divan::Bencher<'_, '_>, entries: u64) {
    let frame = Bytes::from(codec::encode(&envelope(entries)));
    bencher.bench(|| codec::decode::<Envelope>(divan::black_box(&frame)));
}

#[divan::bench(args = [16, 4096])]
fn checksum(bencher: divan::Bencher<'_, '_>, size: usize) {
    let bytes = vec![7u8; size];
    bencher.counter(divan::counter::BytesCount::new(size)).bench(|| hash::checksum(1, divan::black_box(&bytes)));
}

/// The key at a place in an order that is none.
fn key(number: u64) -> Key {
    Key::from(format!("user{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

fn write(number: u64) -> FactSummary {
    let place = Place { segment: SegmentId(1), offset: number as u32, length: 256 };
    FactSummary::Write { key: key(number), value: Some(ValuePlace { place, checksum: 7 }) }
}

/// A state of so many keys.
fn state(keys: u64) -> State {
    let mut state = State::new();
    (0..keys).for_each(|number| state.apply(Index(number + 1), &write(number), &mut |_| {}));
    state
}

#[divan::bench(args = [10_000, 1_000_000], sample_count = 5)]
fn apply_new_keys(bencher: divan::Bencher<'_, '_>, keys: u64) {
    bencher.counter(divan::counter::ItemsCount::new(keys)).bench_local(|| state(keys));
}

/// As many writes of keys that are there as there are keys.
#[divan::bench(args = [10_000, 1_000_000], sample_count = 5)]
fn apply_known_keys(bencher: divan::Bencher<'_, '_>, keys: u64) {
    let (mut state, mut applied) = (state(keys), keys);
    bencher.counter(divan::counter::ItemsCount::new(keys)).bench_local(|| {
        for number in 0..keys {
            applied += 1;
            state.apply(Index(applied), &write(number * 7 % keys), &mut |_| {});
        }
    });
}

#[divan::bench(args = [10_000, 1_000_000], sample_count = 5)]
fn look_keys_up(bencher: divan::Bencher<'_, '_>, keys: u64) {
    let state = state(keys);
    bencher.counter(divan::counter::ItemsCount::new(keys)).bench_local(|| {
        for number in 0..keys {
            assert!(divan::black_box(state.items().get(&key(number * 7 % keys))).is_some());
        }
    });
}

/// Whole simulated runs: how fast the swarm is.
#[divan::bench(sample_count = 20)]
fn simulate_a_seed() {
    assert!(run_seed(divan::black_box(7)).verdict.is_clean());
}
