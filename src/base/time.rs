//! A node's own monotonic time, and the cluster's shared clock, which is data (ages, display), never an input to safety.

use super::limits::CLOCK_MS_MAX;
use core::fmt;
use core::ops::{Add, Sub};

pub use core::time::Duration;

/// Nanoseconds since this node booted, by a clock that counts suspension. Never decreases.
///
/// Times of two nodes are never compared. A driver samples it *after* it takes an event from its
/// queue: a stale `now` would let a promise begin too early.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    pub const ZERO: Time = Time(0);
    /// Later than any time that is reached: 584 years after boot.
    pub const NEVER: Time = Time(u64::MAX);

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub const fn from_millis(millis: u64) -> Time {
        Time(millis * 1_000_000)
    }
}

/// Milliseconds since 1970, by the wall clock that is furthest ahead of all that were heard of. It is a hybrid logical clock
/// (Kulkarni et al., "Logical physical clocks", 2014), whose logical part is the node's monotonic time. It goes on at the speed
/// of that, and never back. Nodes tell it to each other, so that all show the same, but for the time that a message takes. So a
/// comparison of what two nodes have read prefers neither, however wrong their wall clocks are.
#[derive(Debug, Clone, Copy, Default)]
pub struct SharedClock {
    at: Time,
    /// What it showed then.
    shown_ms: u64,
}

impl SharedClock {
    pub fn read(&self, now: Time) -> u64 {
        self.shown_ms.saturating_add(now.since(self.at).as_millis() as u64)
    }

    /// Takes over what another clock shows (the wall clock, a peer's), if that is ahead of this one and not beyond belief.
    pub fn hear(&mut self, now: Time, shown_ms: u64) {
        if shown_ms <= CLOCK_MS_MAX && shown_ms > self.read(now) {
            *self = SharedClock { at: now, shown_ms };
        }
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_clock_follows_the_one_that_is_ahead_and_never_goes_back() {
        const YEAR: u64 = 365 * 24 * 3600 * 1000;
        let mut clock = SharedClock::default();
        let wall = 50 * YEAR;
        clock.hear(Time::from_millis(10), wall);
        assert_eq!(clock.read(Time::from_millis(15)), wall + 5);
        clock.hear(Time::from_millis(20), wall + YEAR);
        clock.hear(Time::from_millis(30), wall + 20);
        assert_eq!(clock.read(Time::from_millis(30)), wall + YEAR + 10, "behind: not heard");
        for beyond_belief in [CLOCK_MS_MAX + 1, u64::MAX] {
            clock.hear(Time::from_millis(30), beyond_belief);
        }
        assert_eq!(clock.read(Time::from_millis(30)), wall + YEAR + 10);
    }
}
