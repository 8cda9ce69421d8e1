//! What peers and clients may say to a node, in any order: it keeps its invariants, and boots again from the log that it left.

use ringseed::base::random::{Rng, below, stream};

#[path = "hostile/sequence.rs"]
mod sequence;

/// How many sequences are played.
const SEQUENCES: u64 = 1_000;

#[test]
fn a_node_boots_from_the_log_that_any_sequence_of_messages_leaves() {
    for seed in 0..SEQUENCES {
        let mut random = stream(seed, "hostile");
        let mut input = vec![0; 200 + below(&mut random, 12_000) as usize];
        input.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next_u64().to_le_bytes()[..chunk.len()]));
        sequence::play(&input);
    }
}
