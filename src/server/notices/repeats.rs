//! How often something has happened, instead of a line each time.
//!
//! The first time is told at once. If it goes on, that is told with a count: after a minute, then after ten times as long each
//! time, up to an hour. When it has not happened for a while, that is told once. (Only if it was told more than once, or has
//! happened since it was last told.)

use super::{Line, info};
use crate::base::Duration;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

const AGAIN_AFTER_MIN: Duration = Duration::from_secs(60);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Longer than a refused caller waits between two attempts.
const QUIET_AFTER: Duration = Duration::from_secs(120);
/// Things that are counted each by itself. Beyond: together, as one.
const KEYS_MAX: usize = 64;

/// Counts by key; `None` is what is counted together. May be shared by threads.
#[derive(Debug)]
pub struct Repeats<K>(Mutex<BTreeMap<Option<K>, Repeat>>);

#[derive(Debug)]
struct Repeat {
    /// What it is called when it ends.
    name: String,
    said: Instant,
    again_after: Duration,
    last: Instant,
    unsaid: u64,
    total: u64,
}

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Repeats(Mutex::default())
    }
}

impl<K: Ord> Repeats<K> {
    /// It has happened. `Some`: it is to be said now, and it has happened so often since it was last said. `name`: how its end is
    /// told.
    pub fn happened(&self, now: Instant, key: K, name: impl FnOnce() -> String) -> Option<u64> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Some(key);
        let key = if known.contains_key(&key) || known.len() < KEYS_MAX { key } else { None };
        if let Some(repeat) = known.get_mut(&key) {
            (repeat.last, repeat.unsaid, repeat.total) = (now, repeat.unsaid + 1, repeat.total + 1);
            if now.duration_since(repeat.said) < repeat.again_after {
                return None;
            }
            (repeat.said, repeat.again_after) = (now, (repeat.again_after * 10).min(AGAIN_AFTER_MAX));
            return Some(std::mem::take(&mut repeat.unsaid));
        }
        let name = if key.is_none() { "and others".to_owned() } else { name() };
        known.insert(key, Repeat { name, said: now, again_after: AGAIN_AFTER_MIN, last: now, unsaid: 0, total: 1 });
        Some(1)
    }

    /// What has ended since the last call.
    pub fn quiet(&self, now: Instant) -> Vec<Line> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = known.extract_if(.., |_, repeat| now.duration_since(repeat.last) >= QUIET_AFTER);
        let worth_a_line = ended.filter(|(_, repeat)| repeat.total > 1);
        worth_a_line
            .map(|(_, repeat)| info(format!("{}: no more for a while; {} times in all", repeat.name, repeat.total)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_counted_and_its_end_is_told_once() {
        let (repeats, began) = (Repeats::default(), Instant::now());
        let mut said = Vec::new();
        // Ten times a second for three hours.
        for tenth in 0..3 * 36_000u64 {
            let now = began + Duration::from_millis(100 * tenth);
            said.extend(repeats.happened(now, 7, || "seven".into()).map(|count| (tenth / 10, count)));
            assert_eq!(repeats.quiet(now), []);
        }
        assert_eq!(said, [(0, 1), (60, 600), (660, 6_000), (660 + 3_600, 36_000), (660 + 7_200, 36_000)]);
        let over = began + Duration::from_secs(3 * 3_600 + 121);
        assert_eq!(repeats.quiet(over), [info("seven: no more for a while; 108000 times in all")]);
        assert_eq!(repeats.quiet(over), []);
        assert_eq!(repeats.happened(over, 7, || "seven".into()), Some(1), "it begins anew");
        assert_eq!(repeats.quiet(over + QUIET_AFTER), [], "once alone needs no end");
    }

    #[test]
    fn whoever_comes_under_ever_new_names_costs_no_line_each() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        let said = (0..100_000).filter(|key| repeats.happened(now, *key, || key.to_string()).is_some()).count();
        assert_eq!(said, KEYS_MAX + 1);
        let lines = repeats.quiet(now + QUIET_AFTER);
        assert_eq!(lines, [info(format!("and others: no more for a while; {} times in all", 100_000 - KEYS_MAX))]);
    }
}
