//! How the descriptors that the process may have open are shared out, so that clients never take those of the log.
//!
//! At the start the soft limit is raised to the hard one, and divided: the server's own (segments of the log, links to peers,
//! small change), the peers' connections, handshakes, and what is left for clients. If that is less than `max_connections`, fewer
//! are let in, and a warning says what to set.
//!
//! **The line.** That sum is only as good as our counting, and others may open files in this process as well. So there is a
//! second bound that needs no counting. The system gives the lowest free descriptor. An accepted connection that was given the
//! line's descriptor or a higher one is closed at once. No connection ever has a descriptor from the line on: as many as the
//! servers of the process may need for themselves are theirs.
//!
//! **Out of descriptors all the same** (the system's own limit, or a process that embeds a server): the opening of a segment is
//! retried until it succeeds, as on a disk that stalls; a listener waits, and says so now and then.

use super::error::StartError;
use crate::base::Duration;
use rustix::io::Errno;
use std::io;
use std::time::Instant;

/// Segments that each of the disk's threads may keep open. Beyond: the oldest is closed, and opened again when it is needed.
const SEGMENTS_MAX: usize = 128;
/// Connections whose other end has not said hello yet. One more is told that there are too many.
const HANDSHAKES_MAX: usize = 512;
/// Connections that are being told why they are not wanted. One more is closed without a message.
const REFUSALS_MAX: usize = 64;
/// Fewer clients than this are not worth a start.
const CLIENTS_MIN: usize = 16;
/// Of a process: standard streams, event loops, signals, and what a program that embeds servers opens.
const PROCESS: usize = 32;
/// Of a server beside segments and links: its lock, its listener, directories that are synced, names that are looked up.
const SMALL_CHANGE: usize = 16;
/// Threads that open segments.
const DISK_THREADS: usize = 2;
/// Connections of each direction and lane between two nodes, an older one that is being replaced included.
const PER_PEER: usize = 8;

/// What one server may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub clients: usize,
    pub handshakes: usize,
    pub refusals: usize,
    /// By each thread of the disk.
    pub segments: usize,
    /// From this descriptor on, no connection is taken in.
    pub line: u64,
}

/// Raises the process's limit as far as it goes, and gives this server's share of it. `servers`: how many there are to be in the
/// process.
pub fn claim(clients_wanted: usize, peers: usize, servers: usize) -> Result<Share, StartError> {
    let limit = raise_limit();
    let needed = needed(clients_wanted, peers, servers);
    let share = share(limit, clients_wanted, peers, servers).ok_or(StartError::TooFewFiles { limit, needed })?;
    if share.clients < clients_wanted {
        tracing::warn!(
            "max_connections is {clients_wanted}, but the limit of open files ({limit}) has room for {} clients, and no more are let in: raise the limit \
             to {needed} (`ulimit -n {needed}`, or LimitNOFILE={needed}), or set max_connections to {}",
            share.clients,
            share.clients
        );
    }
    Ok(share)
}

/// The usual soft limit of 1,024 open files is less than the connections we are willing to hold.
fn raise_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
    // `None`: there is none.
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What a server opens by itself.
fn own(segments: usize, peers: usize) -> usize {
    SMALL_CHANGE + DISK_THREADS * segments + PER_PEER * peers
}

/// The limit that has room for everything.
fn needed(clients: usize, peers: usize, servers: usize) -> u64 {
    let sockets = PER_PEER * peers + HANDSHAKES_MAX + REFUSALS_MAX + clients;
    (PROCESS + servers * (2 * own(SEGMENTS_MAX, peers) + sockets)) as u64
}

/// `None`: too little to be of use.
fn share(limit: u64, clients_wanted: usize, peers: usize, servers: usize) -> Option<Share> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(i32::MAX as usize);
    let each = limit / servers.max(1);
    let segments = (each / 16).clamp(4, SEGMENTS_MAX);
    let handshakes = (each / 16).clamp(8, HANDSHAKES_MAX);
    let refusals = (each / 64).clamp(4, REFUSALS_MAX);
    let own = own(segments, peers);
    let line = limit.checked_sub(servers * own)?;
    // What is opened by ourselves may have been given descriptors below the line, too.
    let sockets = (line.checked_sub(PROCESS)? / servers.max(1)).checked_sub(own)?;
    let clients = sockets.checked_sub(PER_PEER * peers + handshakes + refusals)?.min(clients_wanted);
    (clients >= CLIENTS_MIN.min(clients_wanted)).then_some(Share { clients, handshakes, refusals, segments, line: line as u64 })
}

/// Whether an operation failed for want of a descriptor: of this process, or of the whole system.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Says when it is time to say something again that may happen all the time.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Option<Instant>,
    since: u64,
}

impl Seldom {
    const EVERY: Duration = Duration::from_secs(10);

    /// It has happened: gives how often since it was last said, if it is to be said now.
    pub fn happened(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| now.duration_since(last) < Self::EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_enough_and_no_share_exceeds_its_limit() {
        for servers in [1, 3, 16] {
            for peers in [0, 2, 99] {
                let needed = needed(4_096, peers, servers);
                assert_eq!(share(needed, 4_096, peers, servers).map(|share| share.clients), Some(4_096));
                for limit in [64, 256, 1_024, 4_096, needed, 1 << 20, u64::MAX] {
                    let Some(share) = share(limit, 1_000_000, peers, servers) else { continue };
                    let own = own(share.segments, peers);
                    let sockets = share.clients + share.handshakes + share.refusals + PER_PEER * peers;
                    assert!((PROCESS + servers * (own + sockets)) as u64 <= limit);
                    assert!(share.line + (servers * own) as u64 <= limit, "the log's descriptors are behind the line");
                }
            }
        }
    }

    #[test]
    fn a_low_limit_has_fewer_clients_and_one_too_low_has_no_server() {
        assert!(share(1_024, 4_096, 2, 1).is_some_and(|share| (500..1_000).contains(&share.clients)));
        assert!(share(256, 4_096, 2, 1).is_some_and(|share| (50..200).contains(&share.clients)));
        assert_eq!(share(64, 4_096, 2, 1), None);
        assert!(share(1_024, 2, 2, 1).is_some_and(|share| share.clients == 2), "never more than was asked for");
    }

    #[test]
    fn what_happens_all_the_time_is_said_now_and_then() {
        let (mut seldom, began) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.happened(began), Some(1));
        for tenth in 1..100 {
            assert_eq!(seldom.happened(began + Duration::from_millis(100 * tenth)), None);
        }
        assert_eq!(seldom.happened(began + Seldom::EVERY), Some(100));
    }
}
