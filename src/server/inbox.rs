//! The node's inbox: many producers, one thread that waits with a deadline.
//!
//! Producers hand over what one read or one sync gave at once, and the node takes all there is at once: one lock on either side per batch,
//! and one wake-up only when the node sleeps. A channel costs both for every event.
//!
//! A producer that can wait (a connection) does so while more than [`INBOX_EVENTS_MAX`] events are waiting; its sockets fill up, and
//! the other end feels it. The disk's results never wait: there are no more of them than operations in progress.

use crate::base::{Duration, Time};
use crate::node::Event;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Events waiting for the node. At the limit: connections are not read from.
pub const INBOX_EVENTS_MAX: usize = 16 * 1024;

#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    /// The node waits on `filled`.
    sleeps: bool,
    /// Somebody waits on `emptied`.
    crowded: bool,
    /// End without a farewell.
    aborted: bool,
    /// The node has ended: nothing is taken in any more.
    closed: bool,
}

/// What the node woke up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Events,
    /// Nothing came until the deadline.
    Nothing,
    Aborted,
}

impl Inbox {
    pub fn push(&self, event: Event) {
        let mut state = self.lock();
        if !state.closed {
            state.events.push(event);
            self.wake(state);
        }
    }

    /// Moves all of `events` in. `false`: the node has ended, and will not see them; they are dropped.
    pub fn push_all(&self, events: &mut Vec<Event>) -> bool {
        if events.is_empty() {
            return true;
        }
        let mut state = self.lock();
        if state.closed {
            events.clear();
            return false;
        }
        state.events.append(events);
        self.wake(state);
        true
    }

    /// The node has ended. Gives what it has not seen; nothing more is taken in.
    pub fn close(&self) -> Vec<Event> {
        let mut state = self.lock();
        state.closed = true;
        self.emptied.notify_waiters();
        std::mem::take(&mut state.events)
    }

    /// The node ends at once, as by a crash.
    pub fn abort(&self) {
        let mut state = self.lock();
        state.aborted = true;
        self.wake(state);
    }

    /// Waits until there is room for more.
    pub async fn room(&self) {
        loop {
            let emptied = self.emptied.notified();
            {
                let mut state = self.lock();
                if state.events.len() < INBOX_EVENTS_MAX {
                    return;
                }
                state.crowded = true;
            }
            emptied.await;
        }
    }

    /// Moves everything into `events`, which must be empty; waits for something until `deadline` at the latest, by the caller's clock
    /// `now`.
    pub fn take(&self, events: &mut Vec<Event>, now: impl Fn() -> Time, deadline: Option<Time>) -> Taken {
        assert!(events.is_empty(), "the last batch was stepped");
        let mut state = self.lock();
        loop {
            if state.aborted {
                return Taken::Aborted;
            }
            if !state.events.is_empty() {
                std::mem::swap(&mut state.events, events);
                if std::mem::take(&mut state.crowded) {
                    self.emptied.notify_waiters();
                }
                return Taken::Events;
            }
            let wait = match deadline {
                None => Duration::from_secs(3_600),
                Some(deadline) => deadline.since(now()),
            };
            if wait.is_zero() {
                return Taken::Nothing;
            }
            state.sleeps = true;
            state = self.filled.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            state.sleeps = false;
        }
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        // Whoever clears the flag wakes; the rest of a burst finds it cleared.
        let sleeps = std::mem::take(&mut state.sleeps);
        drop(state);
        if sleeps {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::clock::Clock;
    use std::sync::Arc;

    #[test]
    fn nothing_is_lost_between_many_producers_and_one_sleeper() {
        let inbox = Arc::new(Inbox::default());
        let clock = Clock::start();
        let producers: Vec<_> = (0..4)
            .map(|_| {
                let inbox = Arc::clone(&inbox);
                std::thread::spawn(move || (0..5_000).for_each(|_| inbox.push(Event::Timer)))
            })
            .collect();
        let (mut seen, mut events) = (0, Vec::new());
        while seen < 20_000 {
            let taken = inbox.take(&mut events, || clock.now(), Some(clock.now() + Duration::from_secs(20)));
            assert_eq!(taken, Taken::Events);
            seen += events.drain(..).count();
        }
        for producer in producers {
            producer.join().expect("no panic");
        }
        assert_eq!(inbox.take(&mut events, || clock.now(), Some(Time::ZERO)), Taken::Nothing);
    }

    #[tokio::test]
    async fn a_producer_waits_while_the_inbox_is_full() {
        let inbox = Arc::new(Inbox::default());
        inbox.room().await;
        inbox.push_all(&mut (0..INBOX_EVENTS_MAX).map(|_| Event::Timer).collect());
        let waiter = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move { inbox.room().await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiter.is_finished());
        let mut events = Vec::new();
        assert_eq!(inbox.take(&mut events, || Time::ZERO, None), Taken::Events);
        waiter.await.expect("no panic");
    }
}
