//! Draws from a seeded stream, in the terms that plans and faults use.

use ringseed::base::random::{self, Random, Rng};

/// One named stream of a seed. Streams of different names do not touch each other.
#[derive(Debug, Clone)]
pub struct Dice(Random);

impl Dice {
    pub fn new(seed: u64, name: &str) -> Dice {
        Dice(random::stream(seed, name))
    }

    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        random::below(&mut self.0, bound)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `permille` of a thousand draws.
    pub fn chance(&mut self, permille: u32) -> bool {
        permille > 0 && self.below(1000) < u64::from(permille)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// A number in `low..=high`, each order of magnitude as likely as the next: small numbers are common, large ones occur.
    pub fn spread(&mut self, low: u64, high: u64) -> u64 {
        if low >= high {
            return low;
        }
        let doublings = (high / low.max(1)).ilog2() + 1;
        let scale = self.below(u64::from(doublings) + 1) as u32;
        let top = low.max(1).saturating_mul(1 << scale.min(62)).clamp(low, high);
        self.between(low, top)
    }
}
