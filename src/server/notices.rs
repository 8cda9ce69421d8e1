//! What the log says of the node's states: one line when a state begins that an operator can act on, one when it ends, and never
//! one per request.
//!
//! - [`watch`](self): `notices/watch.rs` compares how the node does ([`Health`]) with how it did a second ago, and gives lines.
//! - [`repeats`](self): `notices/repeats.rs` says how often something has happened instead of saying it each time.
//! - [`Progress`]: of a recovery that takes long.
//!
//! **Levels.** `error`: data or service is missing, and will be until the operator acts. `warn`: something is wrong, and the
//! cluster gets along. `info`: what an operator wants to know afterwards, and the end of every state that was told at a higher
//! level. Everything about single connections is `debug`.
//!
//! The node's thread never waits for standard error: it hands over what there is to say, and a thread of its own says it. If that
//! falls behind, a look is left out; the next one tells the same.

mod repeats;
#[cfg(test)]
mod tests;
mod watch;

pub use repeats::Repeats;

use super::net::Network;
use crate::base::{Duration, NodeId, Time};
use crate::node::health::{Health, Loss, Rot};
use crate::wal::{Bad, Torn};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use watch::Watch;

/// How often the node's health is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What waits to be said. One more is left out.
const WAITING_MAX: usize = 64;
/// A recovery says how far it is each time that this has passed.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Places of damage that are told one by one.
const DAMAGE_SAID_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub level: Level,
    pub text: String,
}

fn info(text: impl Into<String>) -> Line {
    Line { level: Level::Info, text: text.into() }
}

fn warn(text: impl Into<String>) -> Line {
    Line { level: Level::Warn, text: text.into() }
}

fn error(text: impl Into<String>) -> Line {
    Line { level: Level::Error, text: text.into() }
}

fn say(node: NodeId, line: &Line) {
    let text = &line.text;
    match line.level {
        Level::Info => tracing::info!(%node, "{text}"),
        Level::Warn => tracing::warn!(%node, "{text}"),
        Level::Error => tracing::error!(%node, "{text}"),
    }
}

#[derive(Debug)]
enum News {
    Health(Time, Box<Health>),
    Rot(Rot),
    Lost(Loss),
}

/// Where the node's thread leaves what there is to say.
#[derive(Debug)]
pub struct Notices {
    sender: Sender<News>,
    looked_at: Option<Time>,
}

impl Notices {
    /// Starts the thread that says it. It ends, with all said, after this is dropped.
    pub fn start(node: NodeId, directory: &Path, network: &Arc<Network>) -> io::Result<Notices> {
        let (sender, news) = bounded(WAITING_MAX);
        let (watch, network) = (Watch::new(directory.display().to_string()), Arc::clone(network));
        std::thread::Builder::new().name(format!("notices-{node}")).spawn(move || tell(node, watch, &news, &network))?;
        Ok(Notices { sender, looked_at: None })
    }

    /// Whether the node's health is to be looked at now.
    pub fn is_due(&self, now: Time) -> bool {
        self.looked_at.is_none_or(|at| now.since(at) >= LOOK_EVERY)
    }

    pub fn look(&mut self, now: Time, health: Health) {
        self.looked_at = Some(now);
        let _ = self.sender.try_send(News::Health(now, Box::new(health)));
    }

    pub fn rot(&self, rot: Rot) {
        let _ = self.sender.try_send(News::Rot(rot));
    }

    pub fn lost(&self, loss: Loss) {
        let _ = self.sender.try_send(News::Lost(loss));
    }
}

/// The body of the thread.
fn tell(node: NodeId, mut watch: Watch, news: &Receiver<News>, network: &Network) {
    for news in news {
        let lines = match news {
            News::Health(now, health) => {
                let lines = watch.look(now, &health, |peer| network.peer(peer).and_then(super::links::PeerLink::trouble));
                lines.into_iter().chain(watch.quiet()).chain(network.refused.quiet(Instant::now())).collect()
            }
            News::Rot(rot) => watch.rot(&rot).into_iter().collect::<Vec<_>>(),
            News::Lost(loss) => vec![watch.lost(&loss)],
        };
        lines.iter().for_each(|line| say(node, line));
    }
}

/// A torn tail, after recovery.
pub fn torn(node: NodeId, torn: &Torn) {
    let Torn { segment, offset, bytes, is_fresh } = torn;
    let line = if *is_fresh {
        warn(format!(
            "the end of the log was torn: {bytes} bytes that a crash or a power loss left unfinished are cut off, at byte {offset} of segment {segment}; \
             they were never synced, and nothing needs to be done"
        ))
    } else {
        info(format!(
            "behind the end of the log, at byte {offset} of segment {segment}, are {bytes} bytes of no whole batch: a crash cut a write off there, in the \
             last run of the node or before; they are overwritten, and nothing needs to be done"
        ))
    };
    say(node, &line);
}

/// Damage that a start went past. `forgot`: something is missing that was there at the last start.
pub fn damaged(node: NodeId, damage: &[Bad], forgot: bool) {
    for Bad { segment, offset, what, groups } in damage.iter().take(DAMAGE_SAID_MAX) {
        let touched = match groups {
            Some(groups) => format!("{} partitions are touched", groups.len()),
            None => "any partition may be touched".into(),
        };
        say(node, &warn(format!("the log is damaged at byte {offset} of segment {segment}: {what}; {touched}")));
    }
    let then = if forgot {
        "the node starts from what is left, and its peers make it whole; have the disk looked at"
    } else {
        "nothing of it is needed any more, or it was known at an earlier start; a checkpoint leaves it behind"
    };
    say(node, &warn(format!("the log is damaged in {} places: {then}", damage.len())));
}

/// A recovery that takes long says how far it is.
#[derive(Debug)]
pub struct Progress {
    node: NodeId,
    began: Instant,
    said: Instant,
    total: u64,
    read: u64,
    has_said: bool,
}

impl Progress {
    pub fn new(node: NodeId) -> Progress {
        let now = Instant::now();
        Progress { node, began: now, said: now, total: 0, read: 0, has_said: false }
    }

    pub fn of_bytes(&mut self, total: u64) {
        self.total = total;
    }

    pub fn read(&mut self, bytes: u64) {
        self.read += bytes;
        if let Some(line) = self.line(Instant::now()) {
            say(self.node, &line);
        }
    }

    fn line(&mut self, now: Instant) -> Option<Line> {
        if now.duration_since(self.said) < PROGRESS_EVERY {
            return None;
        }
        (self.said, self.has_said) = (now, true);
        // Some bytes are read twice.
        let percent = (self.read * 100).checked_div(self.total).unwrap_or(0).min(99);
        let (read, total, seconds) = (self.read >> 20, self.total >> 20, now.duration_since(self.began).as_secs());
        Some(info(format!(
            "the log is being recovered: {percent} % ({read} of {total} MiB) after {seconds} s; the node serves when that is done"
        )))
    }

    /// It is done. Says so if anything was said before.
    pub fn end(&self) {
        if self.has_said {
            say(self.node, &info(format!("the log is recovered, after {} s", self.began.elapsed().as_secs())));
        }
    }
}
