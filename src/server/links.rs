//! Connections as the network knows them: the way to each peer, what comes from it, and each client. What happens on them is in
//! `peers.rs` and `clients.rs`.

use super::sizes::envelope_size;
use crate::base::limits::{ENVELOPE_MESSAGES_MAX, REQUESTS_PER_CONNECTION_MAX};
use crate::base::{DirectoryId, NodeId};
use crate::msg::client::Response;
use crate::msg::peer::{Envelope, Lane, PeerMessage};
use crate::wire::handshake::Goodbye;
use crate::wire::outgoing::Outgoing;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes of messages in one envelope of several. Beyond: it is cut, so that the receiver gets on to other things in between.
const ENVELOPE_BYTES_MAX: usize = 256 * 1024;
/// Addresses that are tried for one peer. Beyond: the oldest is forgotten.
const ADDRESSES_MAX: usize = 4;

/// The way to one peer.
#[derive(Debug)]
pub struct PeerLink {
    node: NodeId,
    /// Where it may be. The first is the likeliest.
    addresses: Mutex<Vec<String>>,
    control: Way,
    bulk: Way,
    /// Why the last try to reach it led nowhere, or the last connection ended.
    pub(super) trouble: Mutex<Option<String>>,
}

/// One lane's connection to one peer.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// `None`: not connected. What is said then is lost, as the transport may lose it.
    outgoing: Mutex<Option<Arc<Outgoing>>>,
    /// The peer has turned up: dial it now.
    pub(super) turned_up: Notify,
}

impl Way {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Arc<Outgoing>>> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerLink {
    pub fn new(node: NodeId, addresses: Vec<String>) -> PeerLink {
        PeerLink {
            node,
            addresses: Mutex::new(addresses),
            control: Way::default(),
            bulk: Way::default(),
            trouble: Mutex::default(),
        }
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The peer is to be found there from now on. A connection that stands is left alone.
    pub fn moved_to(&self, address: String) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.first() == Some(&address) {
            return;
        }
        addresses.retain(|known| *known != address);
        addresses.insert(0, address);
        addresses.truncate(ADDRESSES_MAX);
        drop(addresses);
        Lane::ALL.into_iter().for_each(|lane| self.way(lane).turned_up.notify_one());
    }

    /// Where to dial at the `attempt`th try since the last that led somewhere.
    pub(super) fn address(&self, attempt: usize) -> String {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses[attempt % addresses.len()].clone()
    }

    /// Gives how many envelopes with more than heartbeats in them were dropped.
    pub fn send(&self, envelope: Envelope, counters: &NetworkCounters) -> usize {
        let lane = envelope.lane();
        let own = self.way(lane).lock().clone();
        let Some(outgoing) = own.or_else(|| self.bulk.lock().clone().filter(|_| lane == Lane::Control)) else {
            return 1;
        };
        let mut dropped = 0;
        for part in split(envelope) {
            let expendable = part.messages.iter().all(PeerMessage::is_expendable);
            let lost = outgoing.push_dropping(&part, expendable);
            counters.heartbeats_dropped.fetch_add(lost.expendable as u64, Ordering::Relaxed);
            dropped += lost.data;
        }
        dropped
    }

    /// Why there is no connection to it, as far as is known; `None` while there is one.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|_| !self.is_up())
    }

    /// Whether there is a connection, of either lane.
    pub fn is_up(&self) -> bool {
        Lane::ALL.into_iter().any(|lane| self.way(lane).lock().is_some())
    }

    /// Ends the connections after what waits.
    pub fn finish(&self) {
        for lane in Lane::ALL {
            if let Some(outgoing) = self.way(lane).lock().as_ref() {
                outgoing.finish(None);
            }
        }
    }

    pub(super) fn way(&self, lane: Lane) -> &Way {
        match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        }
    }
}

/// Cuts an envelope that is long. Messages keep their order. One alone is bounded by itself, far below a frame.
fn split(envelope: Envelope) -> Vec<Envelope> {
    let size = envelope_size(&envelope);
    if (size <= ENVELOPE_BYTES_MAX && envelope.messages.len() <= ENVELOPE_MESSAGES_MAX) || envelope.messages.len() < 2 {
        return vec![envelope];
    }
    let Envelope { cluster, from, directory, epoch, mut messages } = envelope;
    let back = messages.split_off(messages.len() / 2);
    let part = |messages| Envelope { cluster, from, directory, epoch, messages };
    let mut parts = split(part(messages));
    parts.extend(split(part(back)));
    parts
}

/// The connection by which a peer talks to us.
#[derive(Debug)]
pub struct Inbound {
    pub(super) directory: DirectoryId,
    /// Tells it that it has been replaced.
    pub(super) replaced: Arc<Notify>,
}

#[derive(Debug)]
pub struct ClientLink {
    pub(super) outgoing: Outgoing,
    pub(super) in_progress: AtomicUsize,
    /// A request was answered while [`REQUESTS_PER_CONNECTION_MAX`] were in progress.
    pub(super) answered: Notify,
}

impl ClientLink {
    pub fn reply(&self, response: &Response, counters: &NetworkCounters) {
        if self.outgoing.push(response).is_err() {
            // To wait for ever for an answer that was dropped is worse than to be told that the connection is lost.
            counters.clients_cut_off.fetch_add(1, Ordering::Relaxed);
            self.outgoing.abort();
        }
        if self.in_progress.fetch_sub(1, Ordering::Relaxed) == REQUESTS_PER_CONNECTION_MAX {
            self.answered.notify_one();
        }
    }

    /// Closes the connection after what waits. The goodbye promises that what is unanswered was not taken, so it is said only if
    /// that is so.
    pub fn finish(&self, goodbye: Goodbye) {
        let all_answered = self.in_progress.load(Ordering::Relaxed) == 0;
        self.outgoing.finish(all_answered.then_some(goodbye));
    }
}

/// What happened on the wires, for logs and tests.
#[derive(Debug, Default)]
pub struct NetworkCounters {
    pub envelopes_dropped: AtomicU64,
    pub heartbeats_dropped: AtomicU64,
    pub connections_refused: AtomicU64,
    pub clients_cut_off: AtomicU64,
    pub malformed: AtomicU64,
}
