//! The node's thread: takes what happened, lets the node step, and hands out what the node wants done. It never waits for I/O.
//!
//! One turn: take what must not wait and a portion of the rest (or wait for an event until the node's deadline); step each, with
//! the time sampled after it was taken; flush, at the latest when the steps have taken [`ROUND_MAX`]; hand messages to the
//! network thread, then disk operations to the disk's threads. Messages go first: an append leaves for the followers before the
//! leader's own sync begins. What must not leave before a sync, the node keeps to itself.

use super::Ended;
use super::clock::{Clock, CpuMeters, Thread, wall_clock_ms};
use super::directory::DataDirectory;
use super::disk::Disk;
use super::inbox::{Inbox, Taken};
use super::net::{End, Network, Outbound};
use super::notices::Notices;
use crate::base::{Duration, IoId, Time};
use crate::msg::client::{Response, ResponseBody};
use crate::msg::disk::DiskOp;
use crate::msg::operation::Rejection;
use crate::node::{Effect, Event, Fatal, Node};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// How long a node steps before it flushes, looks at its deadline and takes what must not wait: a heartbeat is late by this and
/// one step.
const ROUND_MAX: Duration = Duration::from_millis(5);
/// How often a node that is awake is told the wall-clock time. One that has nothing to do is not woken for it.
const WALL_CLOCK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Driver {
    pub node: Node,
    pub clock: Clock,
    pub inbox: Arc<Inbox>,
    pub network: Arc<Network>,
    pub disk: Disk,
    pub meters: Arc<CpuMeters>,
    pub notices: Notices,
    /// How long a stop may take.
    pub stop_timeout: Duration,
    /// [`DataDirectory::recovering_path`], until the log says that something is lost.
    pub recovering: Option<PathBuf>,
    /// Kept until the node and its disk are gone.
    pub directory: DataDirectory,
    /// Told when it is over.
    pub ended: watch::Sender<bool>,
}

/// What a turn is made of; kept, so that a turn allocates nothing.
#[derive(Debug, Default)]
struct Turn {
    events: Vec<Event>,
    /// What must not wait, and came while `events` were stepped.
    urgent: Vec<Event>,
    effects: Vec<Effect>,
    messages: Vec<Outbound>,
    disk_ops: Vec<(IoId, DiskOp)>,
    /// When a stop has taken too long.
    stop_by: Option<Time>,
}

/// How the driver goes on after a turn, by the effects in it.
#[derive(Debug, PartialEq, Eq)]
enum Course {
    GoOn,
    Stopped,
    StartOver,
    Halt(Fatal),
}

/// However the thread ends, a panic of the node included: the sockets close, and every waiting caller is told.
#[derive(Debug)]
struct Ending {
    network: Arc<Network>,
    ended: watch::Sender<bool>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.network.end(End::Abort);
        self.ended.send_replace(true);
    }
}

impl Driver {
    /// Runs the node until it has stopped, halts, or is aborted.
    pub fn run(mut self) -> Result<Ended, Fatal> {
        let _ending = Ending { network: Arc::clone(&self.network), ended: self.ended.clone() };
        let mut turn = Turn::default();
        // The boot itself has something to write: the first turn needs no event.
        self.inbox.push(Event::Timer);
        let mut wall_clock_due = Time::ZERO;
        loop {
            let deadline = [self.node.deadline().map(|(at, _)| at), turn.stop_by].into_iter().flatten().min();
            if self.inbox.take(&mut turn.events, || self.clock.now(), deadline) == Taken::Aborted {
                return Ok(Ended::Stopped);
            }
            let now = self.clock.now();
            if now >= wall_clock_due {
                self.node.step(now, Event::WallClock(wall_clock_ms()));
                wall_clock_due = now + WALL_CLOCK_EVERY;
            }
            let course = self.step_all(&mut turn);
            if let Some(path) = self.recovering.take_if(|_| self.node.has_durable_epoch())
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(file = %path.display(), %error, "cannot be removed: the next start takes all for lost once more");
            }
            if self.notices.is_due(now) {
                self.notices.look(now, self.node.health(now));
            }
            match course {
                Course::GoOn => {}
                Course::Stopped => {
                    match self.node.unfinished() {
                        None => tracing::info!("stopped"),
                        Some(left) => tracing::warn!(
                            leaderships_not_taken_over = left.leaderships,
                            requests_unanswered = left.requests,
                            "stopped; what was in progress was not finished in time"
                        ),
                    }
                    self.turn_away(&mut turn.messages);
                    return Ok(Ended::Stopped);
                }
                Course::StartOver => {
                    tracing::warn!(
                        directory = %self.directory.path().display(),
                        "the data directory is an old copy, and the peers do not hear the original: the node starts over, and is made whole by them"
                    );
                    return Ok(Ended::StartsOver);
                }
                Course::Halt(fatal) => {
                    tracing::error!(directory = %self.directory.path().display(), reason = %fatal.0, "the node halts");
                    return Err(fatal);
                }
            }
            if turn.stop_by.is_some_and(|by| self.clock.now() >= by) {
                tracing::warn!("the stop took too long; ending without it");
                return Ok(Ended::Stopped);
            }
        }
    }

    /// After a clean stop: what came too late is certainly not applied, and is told so.
    fn turn_away(&self, messages: &mut Vec<Outbound>) {
        for event in self.inbox.close() {
            if let Event::Client(connection, request) = event {
                let body = ResponseBody::Rejected(Rejection::Stopping);
                messages.push(Outbound::Reply(connection, Response { id: request.id, leader: None, body }));
            }
        }
        self.network.hand_over(messages);
        self.network.end(End::Drain);
    }

    fn step_all(&mut self, turn: &mut Turn) -> Course {
        let mut events = std::mem::take(&mut turn.events);
        let mut waiting = events.drain(..);
        let course = loop {
            let began = self.clock.now();
            let mut urgent = std::mem::take(&mut turn.urgent);
            urgent.drain(..).for_each(|event| _ = self.step(&mut turn.stop_by, event));
            turn.urgent = urgent;
            for event in waiting.by_ref() {
                if self.step(&mut turn.stop_by, event).since(began) >= ROUND_MAX {
                    break;
                }
            }
            let now = self.clock.now();
            if self.node.deadline().is_some_and(|(at, _)| at <= now) {
                self.node.step(now, Event::Timer);
            }
            self.node.flush(now, &mut turn.effects);
            let course = self.hand_out(turn);
            if course != Course::GoOn || waiting.len() == 0 {
                break course;
            }
            self.inbox.take_control(&mut turn.urgent);
        };
        drop(waiting);
        turn.events = events;
        course
    }

    /// Steps one event; gives the time at which it did.
    fn step(&mut self, stop_by: &mut Option<Time>, event: Event) -> Time {
        let now = self.clock.now();
        if matches!(event, Event::Stop) {
            stop_by.get_or_insert(now + self.stop_timeout);
        }
        self.node.step(now, event);
        now
    }

    fn hand_out(&mut self, turn: &mut Turn) -> Course {
        let mut course = Course::GoOn;
        for effect in turn.effects.drain(..) {
            match effect {
                Effect::Send(node, envelope) => {
                    turn.messages.push(Outbound::Send(node, envelope));
                }
                Effect::Reply(connection, response) => {
                    if matches!(response.body, ResponseBody::Status(_)) {
                        self.meters.sample(Thread::Node);
                    }
                    turn.messages.push(Outbound::Reply(connection, response));
                }
                Effect::Disk(id, DiskOp::Read { place }) => self.disk.read(id, place),
                Effect::Disk(
                    id,
                    op @ (DiskOp::Create { .. } | DiskOp::Recycle { .. } | DiskOp::Remove { .. } | DiskOp::SyncDirectory),
                ) => self.disk.allocate(id, op),
                Effect::Disk(id, op) => turn.disk_ops.push((id, op)),
                Effect::Rot(rot) => self.notices.rot(rot),
                Effect::Lost(loss) => self.notices.lost(loss),
                Effect::Stopped => course = Course::Stopped,
                Effect::StartOver => course = Course::StartOver,
                Effect::Halt(fatal) => {
                    course = Course::Halt(fatal);
                    break;
                }
            }
        }
        // A node that halts says nothing more, not even what came before in the same flush: its disk is not to be trusted.
        if !matches!(course, Course::Halt(_)) {
            if let Some(cluster) = self.node.cluster() {
                self.network.learn_cluster(cluster);
            }
            self.network.hand_over(&mut turn.messages);
            self.disk.execute(&mut turn.disk_ops);
        }
        course
    }
}
