//! What a load asks for: which kind of operation next, on which key, with which value.

use crate::base::Key;
use crate::base::random::{Random, Rng, below};
use bytes::Bytes;
use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Writes only
    Put,
    /// Strong reads only
    Get,
    /// Half of each
    Mixed,
    /// Transactions of writes to different keys
    Txn,
    /// Transfers between accounts, and looks at all accounts at once: the sum must always be the same
    Bank,
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Mixed => "mixed",
            Workload::Txn => "txn",
            Workload::Bank => "bank",
        }
    }

    /// Whether the next operation reads: an item, or all accounts.
    pub fn reads(self, random: &mut Random) -> bool {
        match self {
            Workload::Put | Workload::Txn => false,
            Workload::Get => true,
            Workload::Bank => below(random, 10) == 0,
            Workload::Mixed => random.next_u64() & 1 == 0,
        }
    }

    pub fn has_reads(self) -> bool {
        !matches!(self, Workload::Put | Workload::Txn)
    }

    pub fn has_transactions(self) -> bool {
        matches!(self, Workload::Txn | Workload::Bank)
    }
}

/// Chooses keys, by number from 0.
#[derive(Debug, Clone)]
pub enum Keys {
    Uniform(u64),
    Zipf(Zipf),
    /// Always the first. Of several, the first and others.
    Hot(u64),
}

impl Keys {
    pub fn new(keys: u64, zipf: bool, hot: bool) -> Keys {
        match (zipf, hot) {
            (_, true) => Keys::Hot(keys),
            (true, false) => Keys::Zipf(Zipf::new(keys)),
            (false, false) => Keys::Uniform(keys),
        }
    }

    /// `count` different ones, of which there must be as many. Zipf's law is bent where the popular ones are taken: what is drawn
    /// twice goes to the next that is free.
    pub fn distinct(&self, random: &mut Random, count: u64) -> Vec<u64> {
        let (Keys::Uniform(keys) | Keys::Hot(keys) | Keys::Zipf(Zipf { keys, .. })) = *self;
        assert!(count <= keys);
        let mut chosen = Vec::new();
        while (chosen.len() as u64) < count {
            let mut key = match self {
                Keys::Hot(_) if !chosen.is_empty() => below(random, keys),
                _ => self.next(random),
            };
            while chosen.contains(&key) {
                key = (key + 1) % keys;
            }
            chosen.push(key);
        }
        chosen
    }

    pub fn next(&self, random: &mut Random) -> u64 {
        match self {
            Keys::Uniform(keys) => below(random, *keys),
            Keys::Zipf(zipf) => zipf.next(random),
            Keys::Hot(_) => 0,
        }
    }
}

/// Key number k is drawn with a probability in proportion to 1 / (k + 1)^0.99, as in YCSB (Cooper et al., 2010), by the method
/// of Gray et al., "Quickly generating billion-record synthetic databases" (1994). Which partition a key is in
/// depends on its hash, so that the hot keys are spread over the nodes.
#[derive(Debug, Clone)]
pub struct Zipf {
    keys: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

/// YCSB's constant.
pub const ZIPF_EXPONENT: f64 = 0.99;

impl Zipf {
    /// Takes time in proportion to `keys`, which must not be 0.
    pub fn new(keys: u64) -> Zipf {
        assert!(keys > 0);
        let sum = |n: u64| (1..=n).map(|k| (k as f64).powf(-ZIPF_EXPONENT)).sum::<f64>();
        let zeta = sum(keys);
        let alpha = 1.0 / (1.0 - ZIPF_EXPONENT);
        let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - ZIPF_EXPONENT)) / (1.0 - sum(2) / zeta);
        Zipf { keys, zeta, alpha, eta }
    }

    fn next(&self, random: &mut Random) -> u64 {
        let uniform = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let scaled = uniform * self.zeta;
        if scaled < 1.0 || self.keys == 1 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(ZIPF_EXPONENT) || self.keys == 2 {
            return 1;
        }
        let rank = self.keys as f64 * (self.eta * uniform - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.keys - 1)
    }
}

/// The key of a number.
pub fn key(prefix: &str, number: u64) -> Key {
    format!("{prefix}{number:08}").into()
}

/// A value of `size` bytes that no other write of the run has (if there is room to say so): writer and sequence, then dots.
pub fn value(size: usize, process: u64, sequence: u64) -> Bytes {
    let mut value = format!("{process}-{sequence}-").into_bytes();
    value.resize(size, b'.');
    value.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::stream;

    #[test]
    fn zipf_favours_the_first_keys_as_its_law_says() {
        let zipf = Zipf::new(1_000);
        let mut random = stream(1, "zipf");
        let mut counts = vec![0_u32; 1_000];
        (0..200_000).for_each(|_| counts[zipf.next(&mut random) as usize] += 1);
        let share = |k: usize| f64::from(counts[k]) / 200_000.0;
        for k in [0, 1] {
            let law = ((k + 1) as f64).powf(-ZIPF_EXPONENT) / zipf.zeta;
            assert!((share(k) / law - 1.0).abs() < 0.1, "{k}: {} against {law}", share(k));
        }
        assert!(counts[500..].iter().sum::<u32>() > 5_000);
        for keys in 1..4 {
            let zipf = Zipf::new(keys);
            assert!((0..1_000).all(|_| zipf.next(&mut random) < keys));
        }
    }

    #[test]
    fn several_keys_are_different_ones() {
        let mut random = stream(1, "keys");
        for keys in [Keys::new(5, false, false), Keys::new(5, true, false), Keys::new(5, false, true)] {
            for count in 1..=5 {
                let mut chosen = keys.distinct(&mut random, count);
                assert!(chosen[0] == 0 || !matches!(keys, Keys::Hot(_)));
                chosen.sort_unstable();
                chosen.dedup();
                assert_eq!(chosen.len() as u64, count, "{keys:?}");
            }
        }
    }

    #[test]
    fn values_have_their_size_and_differ() {
        assert_eq!(value(12, 3, 4).as_ref(), b"3-4-........");
        assert_eq!(value(2, 3, 4).len(), 2);
        assert_ne!(value(64, 1, 23), value(64, 12, 3));
    }
}
