//! How far one follower's log is known to equal the leader's, and how fast the leader may send (Ongaro's dissertation, section 10.2.1).
//!
//! States: `Probe` (the match is not known: one append at a time) -> `Stream` (appends are pipelined within limits); any conflict, timeout or
//! restart of the follower leads back to `Probe`.

use crate::base::limits::{APPEND_BYTES_IN_FLIGHT_MAX, APPENDS_IN_FLIGHT_MAX};
use crate::base::{Duration, Epoch, Index, NodeId, Time};
use crate::msg::log::Entry;
use crate::msg::peer::Promise;
use std::collections::VecDeque;

#[derive(Debug)]
pub struct Progress {
    pub node: NodeId,
    /// The epoch of the follower that all the rest is about; zero if none is known.
    pub epoch: Epoch,
    /// The follower's log equals ours up to here, durably. Never decreases within an epoch of the follower.
    pub matched: Index,
    /// The next entry to send. Always above `matched`.
    pub next: Index,
    pub pace: Pace,
    /// Appends with entries that were not answered yet: their last index, and their bytes.
    in_flight: VecDeque<(Index, usize)>,
    in_flight_size: usize,
    /// The promise under which the follower accepted this leader in this term.
    pub acceptance: Option<Promise>,
    /// The commit index that the follower confirmed.
    pub commit_acked: Index,
    /// The commit index last sent.
    pub commit_sent: Index,
    /// The last quorum round that the follower confirmed.
    pub round_acked: u64,
    /// The last quorum round sent.
    pub round_sent: u64,
    /// When anything was last sent.
    pub sent_at: Time,
    /// When entries were last sent. Rounds without entries go on while these are lost, and must not put off their retry.
    pub entries_sent_at: Time,
    /// Entries that are being read back from the log to be sent.
    pub fetch: Option<Fetch>,
    /// The follower's heartbeats say that its disk is full: it is sent small appends at most, seldom.
    pub careful: bool,
    /// The follower refused entries for want of room, and is sent none before this.
    pub full_until: Time,
    /// How long it was given last; doubles as long as it has no room.
    full_wait: Duration,
}

/// How long a follower without room is left alone, the first and the longest time. That it has room again is told by its heartbeats, so this is
/// for what those do not tell.
const FULL_WAIT_MIN: Duration = Duration::from_millis(200);
const FULL_WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Where the logs part is not known. `waiting`: an append is out.
    Probe {
        waiting: bool,
    },
    Stream,
}

/// A run of entries on its way from the disk.
#[derive(Debug)]
pub struct Fetch {
    /// Tells this fetch from earlier ones.
    pub number: u64,
    pub first: Index,
    pub entries: Vec<Option<Entry>>,
}

impl Progress {
    pub fn new(node: NodeId, epoch: Epoch, last: Index) -> Progress {
        Progress {
            node,
            epoch,
            matched: Index::ZERO,
            next: last.next(),
            pace: Pace::Probe { waiting: false },
            in_flight: VecDeque::new(),
            in_flight_size: 0,
            acceptance: None,
            commit_acked: Index::ZERO,
            commit_sent: Index::ZERO,
            round_acked: 0,
            round_sent: 0,
            sent_at: Time::ZERO,
            entries_sent_at: Time::ZERO,
            fetch: None,
            careful: false,
            full_until: Time::ZERO,
            full_wait: Duration::ZERO,
        }
    }

    /// Whether entries may be sent now.
    pub fn may_send(&self, now: Time) -> bool {
        match self.pace {
            Pace::Probe { waiting } => !waiting && now >= self.full_until && self.fetch.is_none(),
            Pace::Stream => {
                self.fetch.is_none()
                    && self.in_flight.len() < APPENDS_IN_FLIGHT_MAX
                    && self.in_flight_size < APPEND_BYTES_IN_FLIGHT_MAX
            }
        }
    }

    /// An append of entries up to `last` is sent.
    pub fn sent(&mut self, last: Index, size: usize) {
        match &mut self.pace {
            Pace::Probe { waiting } => *waiting = true,
            Pace::Stream => {
                self.in_flight.push_back((last, size));
                self.in_flight_size += size;
                self.next = last.next();
            }
        }
    }

    /// The follower's log equals ours up to `index`.
    pub fn match_up_to(&mut self, index: Index) {
        if index > self.matched {
            self.matched = index;
            self.has_room();
        }
        let probed = index >= self.next.previous();
        self.next = self.next.max(self.matched.next());
        while let Some((last, size)) = self.in_flight.front().copied() {
            if last > self.matched {
                break;
            }
            self.in_flight_size -= size;
            self.in_flight.pop_front();
        }
        // An empty append on what was matched long ago says nothing about where the logs part now.
        if matches!(self.pace, Pace::Probe { .. }) && probed {
            self.pace = Pace::Stream;
            self.next = self.matched.next();
        }
    }

    /// Back to probing from `next`.
    pub fn probe_from(&mut self, next: Index) {
        self.pace = Pace::Probe { waiting: false };
        self.next = next.max(self.matched.next());
        self.in_flight.clear();
        self.in_flight_size = 0;
        self.fetch = None;
    }

    /// What was sent is lost, as it seems.
    pub fn probe_again(&mut self) {
        self.probe_from(if self.pace == Pace::Stream { self.matched.next() } else { self.next });
    }

    /// The follower takes no entries for want of room; what it has is up to `matched`.
    pub fn on_full(&mut self, now: Time, matched: Index) {
        self.matched = self.matched.max(matched);
        self.probe_from(self.matched.next());
        self.leave_alone(now);
    }

    /// Sends no entries for a while, twice as long as the last time.
    pub fn leave_alone(&mut self, now: Time) {
        self.full_wait = (self.full_wait * 2).clamp(FULL_WAIT_MIN, FULL_WAIT_MAX);
        self.full_until = now + self.full_wait;
    }

    /// The follower has room, or may have.
    pub fn has_room(&mut self) {
        self.full_until = Time::ZERO;
        self.full_wait = Duration::ZERO;
    }

    /// The follower lives anew, in this epoch: what it matched is asked again.
    pub fn restart(&mut self, epoch: Epoch, last: Index) {
        *self = Progress::new(self.node, epoch, last);
    }

    pub fn check(&self, last: Index) {
        assert!(self.matched < self.next, "what is matched is not sent again");
        assert!(self.matched <= last && self.next <= last.next(), "nothing beyond the log is sent or matched");
        assert_eq!(self.in_flight.iter().map(|(_, size)| size).sum::<usize>(), self.in_flight_size);
        assert!(self.in_flight.len() <= APPENDS_IN_FLIGHT_MAX, "appends in flight are bounded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_without_room_is_left_alone_for_longer_each_time_and_not_at_all_once_it_takes_something() {
        let mut progress = Progress::new(NodeId(2), Epoch(1), Index(100));
        let mut now = Time::from_millis(1_000);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert!(progress.may_send(now), "at the end of the wait");
            progress.sent(Index(100), 1 << 20);
            progress.on_full(now, Index(40));
            progress.check(Index(100));
            assert_eq!((progress.matched, progress.next), (Index(40), Index(41)));
            waits.push(progress.full_until.since(now).as_millis() as u64);
            assert!(!progress.may_send(now) && !progress.may_send(Time(progress.full_until.0 - 1)));
            now = progress.full_until;
        }
        assert_eq!(waits, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        progress.match_up_to(Index(41));
        assert!(progress.may_send(now));
        progress.on_full(now, Index(41));
        assert_eq!(progress.full_until.since(now).as_millis(), 200, "it took something: anew");
        progress.has_room();
        assert!(progress.may_send(now), "its heartbeat says so");
    }
}
