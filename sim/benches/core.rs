//! `cargo bench`: what the core's hot paths cost, one thread, nothing but memory.

use bytes::Bytes;
use ringseed::base::{ClusterId, DirectoryId, Epoch, GroupId, Index, NodeId, Term, hash};
use ringseed::msg::codec;
use ringseed::msg::log::{Entry, Fact};
use ringseed::msg::peer::{Append, Envelope, PeerMessage, ReplicaMessage};
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

/// Whole simulated runs: how fast the swarm is.
#[divan::bench(sample_count = 20)]
fn simulate_a_seed() {
    assert!(run_seed(divan::black_box(7)).verdict.is_clean());
}
