//! A node's own clock: it starts somewhere, runs a little fast or slow, and may jump forward, never back.

use crate::WorldTime;
use ringseed::base::Time;

/// Maps the world's time to a node's and back.
#[derive(Debug, Clone)]
pub struct Clock {
    /// At this instant of the world ...
    origin: WorldTime,
    /// ... the node's clock showed this, and runs from there
    shown: u64,
    /// faster than the world by this, in parts per million.
    rate_ppm: i64,
}

impl Clock {
    pub fn new(now: WorldTime, shown: u64, rate_ppm: i64) -> Clock {
        Clock { origin: now, shown, rate_ppm }
    }

    pub fn read(&self, now: WorldTime) -> Time {
        let elapsed = i128::from(now.saturating_sub(self.origin));
        let own = elapsed + elapsed * i128::from(self.rate_ppm) / 1_000_000;
        Time(self.shown + own as u64)
    }

    /// The first instant of the world, from `now` on, at which the clock shows `time` or later.
    pub fn when(&self, time: Time, now: WorldTime) -> WorldTime {
        if time.0 == u64::MAX {
            return WorldTime::MAX;
        }
        let own = i128::from(time.0.saturating_sub(self.shown));
        let rate = 1_000_000 + i128::from(self.rate_ppm);
        let elapsed = (own * 1_000_000 + rate - 1) / rate;
        let mut at = self.origin.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX)).max(now);
        // Rates are rounded: the first instant is a nanosecond or so away.
        while at < WorldTime::MAX && self.read(at) < time {
            at += 1;
        }
        while at > now.max(self.origin) && self.read(at - 1) >= time {
            at -= 1;
        }
        at
    }

    pub fn set_rate(&mut self, now: WorldTime, rate_ppm: i64) {
        *self = Clock::new(now, self.read(now).0, rate_ppm);
    }

    pub fn jump(&mut self, now: WorldTime, by_ms: u64) {
        *self = Clock::new(now, self.read(now).0 + by_ms * 1_000_000, self.rate_ppm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_when_it_is_said_to_be() {
        for rate_ppm in [-30_000, -1, 0, 7, 25_000] {
            let mut clock = Clock::new(1_000, 5_000_000, rate_ppm);
            clock.jump(2_000, 3);
            for shown in [8_000_100, 8_000_101, 9_123_457, 1_000_000_000_007] {
                let at = clock.when(Time(shown), 2_000);
                assert!(clock.read(at) >= Time(shown));
                assert!(at == 2_000 || clock.read(at - 1) < Time(shown), "not the first instant: rate {rate_ppm}, {shown}");
            }
        }
    }
}
