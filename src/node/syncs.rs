//! How long a sync of this node's log takes, as of late: what waits for one, here or at a peer, is not given up before.

use crate::base::{Duration, IoId, Time};

/// Without a sync, what the last ones took is believed half as much after so long: a disk that stalled once is not slow for ever.
const HALF_LIFE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub struct Syncs {
    /// The oldest that is under way, and since when.
    under_way: Option<(IoId, Time)>,
    /// Smoothed: up by a quarter of the way, so that a single stall counts for little, and down by half.
    took: Duration,
    /// When the last one ended.
    at: Time,
}

impl Syncs {
    pub fn began(&mut self, now: Time, io: IoId) {
        self.under_way.get_or_insert((io, now));
    }

    pub fn ended(&mut self, now: Time, io: IoId) {
        if let Some((_, since)) = self.under_way.take_if(|(under_way, _)| *under_way == io) {
            let (took, before) = (now.since(since), self.expected(now));
            self.took = if took > before { (before * 3 + took) / 4 } else { (before + took) / 2 };
            self.at = now;
        }
    }

    /// What the next one may take, by what is known now.
    pub fn expected(&self, now: Time) -> Duration {
        let halvings = now.since(self.at).as_nanos() / HALF_LIFE.as_nanos();
        self.took / (1 << halvings.min(30) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(syncs: &mut Syncs, n: u64, at: u64, took: u64) {
        syncs.began(Time::from_millis(at), IoId(n));
        syncs.ended(Time::from_millis(at + took), IoId(n));
    }

    #[test]
    fn slow_syncs_are_known_after_a_few_and_a_single_stall_is_soon_forgotten() {
        let mut syncs = Syncs::default();
        (1..6).for_each(|n| sync(&mut syncs, n, n * 100, 80));
        assert!(syncs.expected(Time::from_millis(600)) > Duration::from_millis(60));
        let mut syncs = Syncs::default();
        sync(&mut syncs, 1, 0, 4_000);
        assert_eq!(syncs.expected(Time::from_millis(4_000)), Duration::from_secs(1));
        assert!(syncs.expected(Time::from_millis(20_000)) < Duration::from_millis(5));
        (2..9).for_each(|n| sync(&mut syncs, n, 4_000 + n, 1));
        assert!(syncs.expected(Time::from_millis(4_020)) < Duration::from_millis(15));
    }
}
