//! Whether this node should lead: not while its disk is full or far slower than those of its peers.
//!
//! States: `fit` -> `unfit` (at once when the disk is full; when it has been slow for a while) -> `fit` (when all has been well
//! for a *wait* without a break). Each time that a node becomes unfit soon after it was found fit, the wait doubles: a disk that
//! flaps moves no leadership back and forth.
//!
//! *Slow* is a comparison: a sync takes far longer than with most peers. If all are slow, no node is. The upper median of the
//! peers' times counts, since a quorum without this node would take as long: where that is no better, moving gains nothing.

use crate::base::{Duration, Time};

/// A sync that takes less is never slow, in milliseconds.
const SLOW_MS_MIN: u32 = 50;
/// How many times longer than with the peers a sync must take to be slow.
const SLOW_FACTOR: u32 = 8;
/// For an unfit node both limits are lower, by this factor: the first sync that is a little quicker must not make it fit.
const SLACK: u32 = 2;
/// How long a disk must be slow without a break.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// How long all must be well, at first, and at most.
const WELL_AFTER_MIN: Duration = Duration::from_secs(2);
const WELL_AFTER_MAX: Duration = Duration::from_secs(256);
/// A node that has been fit for this many waits starts over with the shortest.
const FORGIVEN_AFTER: u32 = 8;

#[derive(Debug, Default)]
pub struct Fitness {
    unfit: bool,
    /// Since when it is fit, or unfit.
    since: Time,
    slow_since: Option<Time>,
    /// Of an unfit node: since when all is well.
    well_since: Option<Time>,
    /// How long all must be well before the node is fit. Zero: it never was unfit.
    wait: Duration,
}

impl Fitness {
    pub fn is_unfit(&self) -> bool {
        self.unfit
    }

    /// Notes how the disk does. True when the verdict has changed.
    pub fn look(&mut self, now: Time, full: bool, slow: bool) -> bool {
        self.slow_since = slow.then(|| self.slow_since.unwrap_or(now));
        if !self.unfit {
            let sick = full || self.slow_since.is_some_and(|since| now.since(since) >= SLOW_AFTER);
            if !sick {
                return false;
            }
            let forgiven = now.since(self.since) >= self.wait * FORGIVEN_AFTER;
            self.wait = if forgiven { WELL_AFTER_MIN } else { (self.wait * 2).min(WELL_AFTER_MAX) };
            self.well_since = None;
        } else {
            self.well_since = (!full && !slow).then(|| self.well_since.unwrap_or(now));
            if self.well_since.is_none_or(|since| now.since(since) < self.wait) {
                return false;
            }
        }
        self.unfit = !self.unfit;
        self.since = now;
        true
    }
}

/// Whether a disk whose syncs take `own` milliseconds is slow beside those of the peers. `unfit`: the node was found unfit
/// before.
pub fn is_slow(own: u32, mut peers: Vec<u32>, unfit: bool) -> bool {
    peers.sort_unstable();
    let slack = if unfit { SLACK } else { 1 };
    let median = peers.get(peers.len() / 2).copied().unwrap_or(u32::MAX);
    own > SLOW_MS_MIN / slack && own > median.saturating_mul(SLOW_FACTOR / slack)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1_000)
    }

    #[test]
    fn slow_is_far_above_what_a_quorum_of_the_others_takes() {
        assert!(is_slow(100, vec![1, 2], false));
        assert!(!is_slow(50, vec![0, 0], false), "nothing below 50 ms is slow");
        assert!(!is_slow(100, vec![0, 90], false), "with one of two peers as slow, moving gains nothing");
        assert!(!is_slow(800, vec![100, 100], false), "all are slow");
        assert!(is_slow(801, vec![100, 100], false));
        assert!(is_slow(401, vec![100, 100], true), "what was slow must be clearly better");
        assert!(!is_slow(1_000, vec![0, u32::MAX], false), "a peer that is away helps nobody");
        assert!(!is_slow(1_000, vec![], false), "a lone node leads");
    }

    #[test]
    fn a_full_disk_is_unfit_at_once_and_a_slow_one_after_a_while() {
        let mut fitness = Fitness::default();
        assert!(fitness.look(at(100), true, false) && fitness.is_unfit());
        let mut fitness = Fitness::default();
        assert!(!fitness.look(at(100), false, true));
        assert!(!fitness.look(Time::from_millis(100_900), false, false), "a short stall is none");
        assert!(!fitness.look(at(102), false, true));
        assert!(fitness.look(at(103), false, true) && fitness.is_unfit());
    }

    #[test]
    fn each_relapse_doubles_the_wait_and_a_long_health_ends_that() {
        let mut fitness = Fitness::default();
        let mut now = 1_000;
        let mut waits = Vec::new();
        for _ in 0..10 {
            now += 1;
            assert!(fitness.look(at(now), true, false));
            let began = now;
            now += 1;
            while !fitness.look(at(now), false, false) {
                now += 1;
            }
            waits.push(now - began - 1);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
        now += 256 * 8;
        assert!(fitness.look(at(now), true, false));
        assert!(!fitness.look(at(now + 1), false, false));
        assert!(!fitness.look(at(now + 2), false, true), "not well yet");
        assert!(!fitness.look(at(now + 3), false, false), "so it begins anew");
        assert!(!fitness.look(at(now + 4), false, false));
        assert!(fitness.look(at(now + 5), false, false), "after the shortest wait");
    }
}
