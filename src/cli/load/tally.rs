//! What came of a load's operations: how many of which outcome, and how long they took.

use crate::base::Duration;
use crate::client::Error;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// Counts and latencies of one kind of operation.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Done: also a read that found nothing, and a write whose condition did not hold.
    pub ok: u64,
    /// Transactions that were not committed, since others were in the way or had changed what they had read.
    pub conflicts: u64,
    pub rejected: u64,
    pub unknown: u64,
    /// No node could be reached, or it spoke nonsense.
    pub unreachable: u64,
    /// Why, for all that were not done.
    pub reasons: BTreeMap<String, u64>,
    /// Of those that were done, in nanoseconds.
    latency: Histogram<u64>,
}

const LATENCY_MIN_NS: u64 = 1_000;
const LATENCY_MAX_NS: u64 = 120_000_000_000;

impl Default for Tally {
    fn default() -> Self {
        Tally {
            ok: 0,
            conflicts: 0,
            rejected: 0,
            unknown: 0,
            unreachable: 0,
            reasons: BTreeMap::new(),
            latency: Histogram::new_with_bounds(LATENCY_MIN_NS, LATENCY_MAX_NS, 3).expect("bounds that make sense"),
        }
    }
}

impl Tally {
    pub fn done(&mut self, latency: Duration) {
        self.ok += 1;
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanos.clamp(LATENCY_MIN_NS, LATENCY_MAX_NS));
    }

    pub fn failed(&mut self, error: &Error) {
        let count = match error {
            // No operation of ours on one key has a condition; were one to, it was answered.
            Error::ConditionFailed { .. } => &mut self.ok,
            Error::NotCommitted(_) | Error::Conflict(_) => &mut self.conflicts,
            Error::Rejected(_) => &mut self.rejected,
            Error::Unknown(_) => &mut self.unknown,
            Error::Unreachable(_) | Error::Protocol(_) => &mut self.unreachable,
        };
        *count += 1;
        let error = match error {
            // Keys and versions would tell each of them from the others.
            Error::NotCommitted(_) | Error::Conflict(_) => "not committed: another transaction was in the way".into(),
            other => other.to_string(),
        };
        if self.reasons.len() < REASONS_MAX {
            *self.reasons.entry(error).or_default() += 1;
        }
    }

    pub fn add(&mut self, other: &Tally) {
        self.ok += other.ok;
        self.conflicts += other.conflicts;
        self.rejected += other.rejected;
        self.unknown += other.unknown;
        self.unreachable += other.unreachable;
        other.reasons.iter().for_each(|(reason, count)| *self.reasons.entry(reason.clone()).or_default() += count);
        self.latency.add(&other.latency).expect("equal bounds");
    }

    pub fn all(&self) -> u64 {
        self.ok + self.conflicts + self.rejected + self.unknown + self.unreachable
    }

    /// The latency that `percent` of the operations did not exceed.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_percentile(percent))
    }

    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.latency.mean() as u64)
    }
}

/// Different reasons kept. At the limit: further ones are counted, and not told apart.
const REASONS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::client::Doubt;
    use crate::msg::operation::Rejection;

    #[test]
    fn outcomes_are_kept_apart_and_add_up() {
        let mut tally = Tally::default();
        (1..=100).for_each(|ms| tally.done(Duration::from_millis(ms)));
        tally.failed(&Error::Rejected(Rejection::Overloaded));
        tally.failed(&Error::Unknown(Doubt::ConnectionLost));
        tally.failed(&Error::Unreachable("x".into()));
        tally.failed(&Error::NotCommitted(Vec::new()));
        let mut both = tally.clone();
        both.add(&tally);
        assert_eq!((both.ok, both.rejected, both.unknown, both.unreachable, both.conflicts, both.all()), (200, 2, 2, 2, 2, 208));
        assert_eq!(both.reasons.values().sum::<u64>(), 8);
        let median = both.percentile(50.0).as_millis();
        assert!((49..=51).contains(&median), "{median}");
        assert!(both.percentile(100.0) >= Duration::from_millis(100));
    }
}
