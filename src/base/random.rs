//! Seeded random streams. Nothing in the core draws entropy; the driver hands each node one seed.

use rand_chacha::ChaCha8Rng;
pub use rand_chacha::rand_core::{Rng, SeedableRng};

/// ChaCha8: its stream is the same on every platform and in every version, unlike the standard generator's.
pub type Random = ChaCha8Rng;

/// The stream named `name` of the seed `seed`. Streams of different names do not touch each other: one more draw from a stream
/// leaves the others as they were.
pub fn stream(seed: u64, name: &str) -> Random {
    let low = xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), seed);
    let high = xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), !seed);
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&low.to_le_bytes());
    key[16..24].copy_from_slice(&high.to_le_bytes());
    Random::from_seed(key)
}

/// A number in `0..bound`; 0 when `bound` is 0. The bias is below 2^-32 for the bounds that occur here.
pub fn below(random: &mut Random, bound: u64) -> u64 {
    if bound == 0 { 0 } else { ((u128::from(random.next_u64()) * u128::from(bound)) >> 64) as u64 }
}
