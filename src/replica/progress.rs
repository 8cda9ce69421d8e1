//! How far one follower's log is known to equal the leader's, and how fast the leader may send (Ongaro's dissertation, section
//! 10.2.1).
//!
//! States: `Probe` (the match is not known: one append at a time) -> `Stream` (appends are pipelined within limits); any
//! conflict, timeout or restart of the follower leads back to `Probe`.
//!
//! # Lost, or only slow
//!
//! No answer has two reasons: what was sent is lost, or the follower has it and is slow: its disk stalls, or its link is narrow.
//! To send entries again helps in the first case, and makes the second worse the longer it lasts. So a follower that owes an
//! answer is *asked*: an empty append behind the last entry that was sent goes the way that the entries went, behind them. If
//! they arrived it waits for the same sync as they do; if they did not, it is answered by a conflict, which says from where on
//! entries are to be sent again. The questions themselves become rarer, up to a limit, until an answer comes.

use super::log::GroupLog;
use crate::actor::{Outstanding, Share};
use crate::base::limits::Limits;
use crate::base::{Duration, Epoch, Index, NodeId, Time};
use crate::msg::log::Entry;
use crate::msg::peer::Promise;
use std::collections::VecDeque;

#[derive(Debug)]
pub struct Progress {
    pub node: NodeId,
    /// The epoch of the follower that all the rest is about; zero if none is known.
    pub epoch: Epoch,
    pub memory: Memory,
    /// The follower's log equals ours up to here, durably. Never decreases within an epoch of the follower.
    pub matched: Index,
    /// The next entry to send. Always above `matched`.
    pub next: Index,
    /// The first entry that the leader's log holds: no other can be sent.
    first: Index,
    /// Its copy is synced up to here, by what it has said in this epoch.
    pub synced: Index,
    pub pace: Pace,
    /// Appends with entries that were not answered yet.
    in_flight: VecDeque<Sent>,
    in_flight_size: usize,
    /// Bytes of those in flight that were read back from the log.
    caught_up_size: usize,
    /// More is to be sent, and this share of the peer's budget was spent.
    pub lacks: Option<Share>,
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
    /// When to ask what has become of what was sent. Only an answer puts it off: rounds without entries go on while entries are
    /// lost.
    pub ask_at: Time,
    /// How often that was asked since the last answer.
    asked: u32,
    /// Entries that are being read back from the log to be sent.
    pub fetch: Option<Fetch>,
    /// An entry that the follower lacks and that has rotted, and when it is read again.
    pub rotten: Option<(Index, Time)>,
    /// The follower's heartbeats say that its disk is full: it is sent small appends at most, seldom.
    pub careful: bool,
    /// The follower refused entries for want of room, and is sent none before this.
    pub full_until: Time,
    /// How long it was given last; doubles as long as it has no room.
    full_wait: Duration,
    /// How long the follower takes to acknowledge an append, its sync included, as of late.
    pub round_trip: Option<Duration>,
    /// An append whose acknowledgement is timed, by its last index.
    pub timed: Option<(Index, Time)>,
    /// When entries last had to be sent again: they were lost, or refused.
    pub probed_at: Option<Time>,
}

/// Whether what the follower says counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// It has not answered in this epoch.
    Unknown,
    /// It may have forgotten what it acknowledged, and its votes. That ends with the commit of the entry at this index, once it
    /// has that; `None`: the entry is still to be proposed.
    Amnesiac(Option<Index>),
    Whole,
}

/// How long a follower without room is left alone, the first and the longest time. That it has room again is told by its
/// heartbeats, so this is for what those do not tell.
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

/// An append with entries.
#[derive(Debug, Clone, Copy)]
struct Sent {
    last: Index,
    /// In bytes.
    size: usize,
    share: Share,
}

/// How often the time between two questions doubles.
const ASK_DOUBLINGS_MAX: u32 = 3;

/// A run of entries on its way from the disk.
#[derive(Debug)]
pub struct Fetch {
    /// Tells this fetch from earlier ones.
    pub number: u64,
    pub first: Index,
    pub entries: Vec<Option<Entry>>,
    /// What it counts for against the peer's budget, in bytes.
    pub size: usize,
}

impl Progress {
    pub fn new(node: NodeId, epoch: Epoch, log: &GroupLog) -> Progress {
        Progress {
            node,
            epoch,
            memory: Memory::Unknown,
            matched: Index::ZERO,
            next: log.last_index().next(),
            first: log.base().index.next(),
            synced: Index::ZERO,
            pace: Pace::Probe { waiting: false },
            in_flight: VecDeque::new(),
            in_flight_size: 0,
            caught_up_size: 0,
            lacks: None,
            acceptance: None,
            commit_acked: Index::ZERO,
            commit_sent: Index::ZERO,
            round_acked: 0,
            round_sent: 0,
            ask_at: Time::ZERO,
            asked: 0,
            fetch: None,
            rotten: None,
            careful: false,
            full_until: Time::ZERO,
            full_wait: Duration::ZERO,
            round_trip: None,
            timed: None,
            probed_at: None,
        }
    }

    /// Whether entries may be sent now.
    pub fn may_send(&self, now: Time, limits: &Limits) -> bool {
        match self.pace {
            Pace::Probe { waiting } => !waiting && now >= self.full_until && self.fetch.is_none(),
            Pace::Stream => {
                self.fetch.is_none()
                    && self.in_flight.len() < limits.appends_in_flight
                    && self.in_flight_size < limits.append_bytes_in_flight
            }
        }
    }

    /// Whether its copy, its rounds and its acceptance count towards a quorum.
    pub fn counts(&self) -> bool {
        !matches!(self.memory, Memory::Amnesiac(_))
    }

    /// It is amnesiac, and an entry that would end that is still to be proposed.
    pub fn wants_entry(&self) -> bool {
        self.memory == Memory::Amnesiac(None)
    }

    /// It is amnesiac no longer, if everything is committed up to here.
    pub fn is_whole(&self, commit: Index) -> bool {
        matches!(self.memory, Memory::Amnesiac(Some(until)) if until <= commit.min(self.matched))
    }

    /// It says whether it is amnesiac. Once it was whole, that was for the rest of its epoch: a late answer says nothing.
    pub fn remembers(&mut self, amnesiac: bool) {
        match (self.memory, amnesiac) {
            (_, false) => self.memory = Memory::Whole,
            (Memory::Unknown, true) => self.memory = Memory::Amnesiac(None),
            (Memory::Whole | Memory::Amnesiac(_), true) => {}
        }
    }

    /// What it counts for against the peer's budget.
    pub fn outstanding(&self) -> Outstanding {
        let fetching = self.fetch.as_ref().map_or(0, |fetch| fetch.size);
        Outstanding {
            node: self.node,
            bytes: self.in_flight_size + fetching,
            catch_up: self.caught_up_size + fetching,
            lacks: self.lacks,
        }
    }

    /// An append of entries up to `last` is sent. Unless an answer is waited for already, one is by `ask_at`.
    pub fn sent(&mut self, last: Index, size: usize, share: Share, ask_at: Time) {
        assert!(self.matched < last, "what is matched is not sent again");
        if self.in_flight.is_empty() {
            self.asked = 0;
            self.ask_at = ask_at;
        }
        self.in_flight.push_back(Sent { last, size, share });
        self.in_flight_size += size;
        self.caught_up_size += if share == Share::CatchUp { size } else { 0 };
        match &mut self.pace {
            Pace::Probe { waiting } => *waiting = true,
            Pace::Stream => self.next = last.next(),
        }
    }

    /// Whether entries were sent that are not answered.
    pub fn owes_answer(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The follower answered in a way that tells something new: the next question is due in `patience` at the earliest.
    pub fn answered(&mut self, now: Time, patience: Duration) {
        self.asked = 0;
        self.ask_at = now + patience;
    }

    /// The follower is asked, or told again: the next time after twice as long, up to a limit. `jitter`: up to the patience.
    pub fn asks(&mut self, now: Time, patience: Duration, jitter: Duration) {
        self.ask_at = now + patience * (1 << self.asked) + jitter;
        self.asked = (self.asked + 1).min(ASK_DOUBLINGS_MAX);
    }

    /// The follower's log equals ours up to `index`.
    pub fn match_up_to(&mut self, index: Index) {
        if index > self.matched {
            self.matched = index;
            self.has_room();
        }
        let probed = index >= self.next.previous();
        self.next = self.next.max(self.matched.next());
        while let Some(sent) = self.in_flight.pop_front_if(|sent| sent.last <= self.matched) {
            self.in_flight_size -= sent.size;
            self.caught_up_size -= if sent.share == Share::CatchUp { sent.size } else { 0 };
        }
        // An empty append on what was matched long ago says nothing about where the logs part now.
        if matches!(self.pace, Pace::Probe { .. }) && probed {
            self.nothing_in_flight();
            self.pace = Pace::Stream;
            self.next = self.matched.next();
        }
        assert!(self.matched < self.next, "the next entry to send is behind what is matched");
    }

    /// An acknowledgement has come: if it is of the append that is timed, or of a later one, that tells how slow the follower is.
    pub fn time(&mut self, now: Time) {
        if let Some((_, sent)) = self.timed.take_if(|(last, _)| *last <= self.matched) {
            let took = now.since(sent);
            self.round_trip = Some(self.round_trip.map_or(took, |before| (before + took) / 2));
        }
    }

    /// Back to probing from `next`.
    pub fn probe_from(&mut self, next: Index, now: Time) {
        self.probed_at = Some(now);
        self.pace = Pace::Probe { waiting: false };
        self.next = next.max(self.matched.next()).max(self.first);
        self.nothing_in_flight();
        self.fetch = None;
    }

    /// Entries before `first` are not sent any more: the follower has them, or needs the group's state.
    pub fn begin_at(&mut self, first: Index, now: Time) {
        self.first = first;
        if self.next < first {
            self.probe_from(first, now);
        }
        self.fetch.take_if(|fetch| fetch.first < first);
    }

    fn nothing_in_flight(&mut self) {
        self.in_flight.clear();
        self.in_flight_size = 0;
        self.caught_up_size = 0;
        self.timed = None;
    }

    /// What was sent is lost, as it seems.
    pub fn probe_again(&mut self, now: Time) {
        self.probe_from(if self.pace == Pace::Stream { self.matched.next() } else { self.next }, now);
    }

    /// The follower takes no entries for want of room; what it has is up to `matched`.
    pub fn on_full(&mut self, now: Time, matched: Index) {
        self.matched = self.matched.max(matched);
        self.probe_from(self.matched.next(), now);
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

    /// The follower is in a new epoch: what it matched is asked again.
    pub fn restart(&mut self, epoch: Epoch, log: &GroupLog) {
        *self = Progress::new(self.node, epoch, log);
    }

    pub fn check(&self, log: &GroupLog) {
        let last = log.last_index();
        assert!(self.first == log.base().index.next() && self.next >= self.first, "what is not in the log is not sent");
        assert!(self.matched < self.next, "what is matched is not sent again");
        assert!(self.matched <= last && self.next <= last.next(), "nothing beyond the log is sent or matched");
        assert_eq!(self.in_flight.iter().map(|sent| sent.size).sum::<usize>(), self.in_flight_size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Term;
    use crate::msg::configuration::Configuration;
    use crate::msg::log::{Fact, LogBase};

    #[test]
    fn a_follower_without_room_is_left_alone_for_longer_each_time_and_not_at_all_once_it_takes_something() {
        let mut log = GroupLog::new(LogBase::default(), Configuration::of(vec![NodeId(1), NodeId(2)]));
        (1..=100).for_each(|index| log.append(Entry { index: Index(index), term: Term(1), fact: Fact::Noop }));
        let mut progress = Progress::new(NodeId(2), Epoch(1), &log);
        let mut now = Time::from_millis(1_000);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert!(progress.may_send(now, &Limits::DEFAULT), "at the end of the wait");
            progress.sent(Index(100), 1 << 20, Share::Recent, now);
            progress.on_full(now, Index(40));
            progress.check(&log);
            assert_eq!((progress.matched, progress.next), (Index(40), Index(41)));
            waits.push(progress.full_until.since(now).as_millis() as u64);
            assert!(
                !progress.may_send(now, &Limits::DEFAULT)
                    && !progress.may_send(Time(progress.full_until.0 - 1), &Limits::DEFAULT)
            );
            now = progress.full_until;
        }
        assert_eq!(waits, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        progress.match_up_to(Index(41));
        assert!(progress.may_send(now, &Limits::DEFAULT));
        progress.on_full(now, Index(41));
        assert_eq!(progress.full_until.since(now).as_millis(), 200, "it took something: anew");
        progress.has_room();
        assert!(progress.may_send(now, &Limits::DEFAULT), "its heartbeat says so");
    }
}
