//! The clocks a driver reads, so that the node never does.

use crate::base::{Duration, Time};
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The node's own time: nanoseconds since this value was made, by `CLOCK_BOOTTIME`, which goes on while the machine is
/// suspended. A node that slept through its lease must notice; `CLOCK_MONOTONIC` would hide it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    boot: u64,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { boot: nanoseconds(ClockId::Boottime) }
    }

    pub fn now(&self) -> Time {
        Time(nanoseconds(ClockId::Boottime) - self.boot)
    }
}

/// Milliseconds since 1970; 0 when the machine believes it is earlier.
pub fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// CPU time of each of a server's threads, as each last said. Several servers in one process (`ringseed up`) are told apart
/// by this; the process's own total could not.
#[derive(Debug, Default)]
pub struct CpuMeters {
    micros: [AtomicU64; 5],
}

/// The threads of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    Node,
    Network,
    Log,
    Allocate,
    Read,
}

impl CpuMeters {
    /// Notes the calling thread's CPU time so far. The caller is `thread`.
    pub fn sample(&self, thread: Thread) {
        self.micros[thread as usize].store(nanoseconds(ClockId::ThreadCPUTime) / 1_000, Ordering::Relaxed);
    }

    /// Microseconds over all threads, as of their last samples.
    pub fn total(&self) -> u64 {
        self.micros.iter().map(|one| one.load(Ordering::Relaxed)).sum()
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_begins_near_zero_and_never_goes_back() {
        let clock = Clock::start();
        let mut last = clock.now();
        assert!(last < Time::from_millis(1_000));
        for _ in 0..1_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn a_meter_sees_work() {
        let meters = CpuMeters::default();
        let mut sum = 0u64;
        for round in 0..20_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(round));
        }
        meters.sample(Thread::Log);
        assert!(meters.total() > 0);
    }
}
