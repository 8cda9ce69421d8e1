//! The node's inbox: many producers, one thread that waits with a deadline.
//!
//! Producers hand over what one read or one sync gave at once, and the node takes all there is at once: one lock on either side
//! per batch, and one wake-up only when the node sleeps. A channel costs both for every event.
//!
//! **Two queues.** What must not wait (heartbeats and votes, results of writes and syncs, the clock) is *control*, and overtakes
//! *bulk*: entries, requests, values read. The node takes all control there is, and of bulk a bounded portion. So a heartbeat
//! waits for one portion and not for a backlog. Overtaking is safe: envelopes may be reordered anyhow, reads of the disk overtake
//! in any case, and results of writes and syncs keep their order among themselves.
//!
//! A producer that can wait (a connection) does so while too many events or bytes are waiting in its lane; its sockets fill up,
//! and the other end feels it. The disk's results never wait: there are no more of them than operations in progress.

use super::sizes::envelope_size;
use crate::base::{Duration, Time};
use crate::msg::client::RequestBody;
use crate::msg::disk::DiskResult;
use crate::msg::peer::Lane;
use crate::node::Event;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Events waiting for the node in one lane. At the limit: connections are not read from.
pub const INBOX_EVENTS_MAX: usize = 16 * 1024;
/// Bytes of payload waiting for the node in the bulk lane. At the limit: connections are not read from.
pub const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Events of the bulk lane that the node takes at once.
const PORTION_EVENTS_MAX: usize = 1024;
/// Bytes of payload of the bulk lane that the node takes at once (one event may be larger).
const PORTION_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    control: Vec<Event>,
    bulk: VecDeque<Event>,
    /// Of each event in `bulk`, its bytes of payload.
    sizes: VecDeque<usize>,
    bulk_size: usize,
    /// The node waits on `filled`.
    sleeps: bool,
    /// A thread waits on `emptied`.
    crowded: bool,
    /// End without a farewell.
    aborted: bool,
    /// The node has ended: nothing is taken in any more.
    closed: bool,
}

impl State {
    fn add(&mut self, event: Event, size: Option<usize>) {
        match size {
            None => self.control.push(event),
            Some(size) => {
                self.bulk_size += size;
                self.sizes.push_back(size);
                self.bulk.push_back(event);
            }
        }
    }

    fn has_room(&self, lane: Lane) -> bool {
        match lane {
            Lane::Control => self.control.len() < INBOX_EVENTS_MAX,
            Lane::Bulk => self.bulk.len() < INBOX_EVENTS_MAX && self.bulk_size < INBOX_BYTES_MAX,
        }
    }
}

/// Bytes of payload of an event that takes the bulk lane; `None` for control.
fn bulk_size(event: &Event) -> Option<usize> {
    match event {
        Event::Net(_, envelope) => (envelope.lane() == Lane::Bulk).then(|| envelope_size(envelope)),
        Event::Client(_, request) => Some(match &request.body {
            RequestBody::Operation(single) => single.operation.size(),
            RequestBody::Transact(transaction) => transaction.size(),
            _ => 0,
        }),
        // Behind the requests of its connection.
        Event::ClientClosed(_) => Some(0),
        Event::Disk(_, DiskResult::Data(bytes)) => Some(bytes.len()),
        Event::Disk(_, DiskResult::Done | DiskResult::Failed(_))
        | Event::Link(..)
        | Event::WallClock(_)
        | Event::Timer
        | Event::Stop => None,
    }
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
        let size = bulk_size(&event);
        let mut state = self.lock();
        if !state.closed {
            state.add(event, size);
            self.wake(state);
        }
    }

    /// Moves all of `events` in. `false`: the node has ended, and will not see them; they are dropped.
    pub fn push_all(&self, events: &mut Vec<Event>) -> bool {
        if events.is_empty() {
            return true;
        }
        let sizes: Vec<Option<usize>> = events.iter().map(bulk_size).collect();
        let mut state = self.lock();
        if state.closed {
            events.clear();
            return false;
        }
        events.drain(..).zip(sizes).for_each(|(event, size)| state.add(event, size));
        self.wake(state);
        true
    }

    /// The node has ended. Gives what it has not seen; nothing more is taken in.
    pub fn close(&self) -> Vec<Event> {
        let mut state = self.lock();
        state.closed = true;
        self.emptied.notify_waiters();
        let bulk = std::mem::take(&mut state.bulk);
        std::mem::take(&mut state.control).into_iter().chain(bulk).collect()
    }

    /// The node ends at once, as by a crash.
    pub fn abort(&self) {
        let mut state = self.lock();
        state.aborted = true;
        self.wake(state);
    }

    /// Waits until there is room for more in the lane.
    pub async fn room(&self, lane: Lane) {
        loop {
            let emptied = self.emptied.notified();
            {
                let mut state = self.lock();
                if state.has_room(lane) {
                    return;
                }
                state.crowded = true;
            }
            emptied.await;
        }
    }

    /// Moves all control and a portion of bulk into `events`, which must be empty; waits for something until `deadline` at the
    /// latest, by the caller's clock `now`.
    pub fn take(&self, events: &mut Vec<Event>, now: impl Fn() -> Time, deadline: Option<Time>) -> Taken {
        assert!(events.is_empty(), "the last batch was stepped");
        let mut state = self.lock();
        loop {
            if state.aborted {
                return Taken::Aborted;
            }
            if !state.control.is_empty() || !state.bulk.is_empty() {
                std::mem::swap(&mut state.control, events);
                let (mut count, mut taken) = (0, 0);
                while count < PORTION_EVENTS_MAX && taken < PORTION_BYTES_MAX {
                    let Some(size) = state.sizes.pop_front() else { break };
                    (count, taken) = (count + 1, taken + size);
                }
                events.extend(state.bulk.drain(..count));
                state.bulk_size -= taken;
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

    /// Moves what must not wait into `events`, behind what they hold. Never waits.
    pub fn take_control(&self, events: &mut Vec<Event>) {
        events.append(&mut self.lock().control);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        // The sender that clears the flag wakes the thread; the rest of a burst finds it cleared.
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
    use crate::base::{ConnId, IoId};
    use crate::server::clock::Clock;
    use bytes::Bytes;
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
        inbox.room(Lane::Bulk).await;
        inbox.push_all(&mut (0..INBOX_EVENTS_MAX).map(|_| Event::ClientClosed(ConnId(1))).collect());
        inbox.room(Lane::Control).await;
        let waiter = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move { inbox.room(Lane::Bulk).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiter.is_finished());
        let mut events = Vec::new();
        assert_eq!(inbox.take(&mut events, || Time::ZERO, None), Taken::Events);
        assert_eq!(events.len(), PORTION_EVENTS_MAX);
        waiter.await.expect("no panic");
    }

    #[test]
    fn what_must_not_wait_overtakes_bulk_and_bulk_comes_in_portions() {
        let inbox = Inbox::default();
        let value = Bytes::from(vec![7; 300 * 1024]);
        (0..10).for_each(|n| inbox.push(Event::Disk(IoId(n), DiskResult::Data(value.clone()))));
        inbox.push(Event::Disk(IoId(99), DiskResult::Done));
        let mut events = Vec::new();
        assert_eq!(inbox.take(&mut events, || Time::ZERO, None), Taken::Events);
        assert!(matches!(events[0], Event::Disk(IoId(99), DiskResult::Done)), "{:?}", events[0]);
        assert_eq!(events.len(), 5, "control, and bulk up to the first event beyond a mebibyte");
        inbox.push(Event::Timer);
        inbox.push(Event::ClientClosed(ConnId(1)));
        events.clear();
        inbox.take_control(&mut events);
        assert!(matches!(events[..], [Event::Timer]));
        assert_eq!(inbox.close().len(), 7, "what was not taken is given back");
    }
}
