//! Connections of clients: requests in, answers out, and what keeps one client from harming the others.
//!
//! - A connection with [`REQUESTS_PER_CONNECTION_MAX`] requests in progress, or with answers it does not fetch, is not read from.
//! - One that does not read its answers for ten seconds, or lets too many bytes of them pile up, is cut off.
//! - One that sends nothing for ten minutes is told so, and closed; the client library connects again when it needs to.

use super::links::ClientLink;
use super::net::Network;
use crate::base::limits::{FRAME_SIZE_MAX, REQUESTS_PER_CONNECTION_MAX};
use crate::base::{ConnId, Duration};
use crate::msg::client::Request;
use crate::msg::codec;
use crate::msg::peer::Lane;
use crate::node::Event;
use crate::wire::frame::Kind;
use crate::wire::handshake::{self, Goodbye, Reason};
use crate::wire::outgoing::Outgoing;
use crate::wire::reader::FrameReader;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

/// Bytes of answers that wait for a client. Beyond: it is cut off.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of answers that wait for a client. Beyond: it is not read from.
const ANSWER_BYTES_PAUSE: usize = 1024 * 1024;
/// How long a client may send nothing.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// Requests handed to the node at once.
const BATCH_MAX: usize = 256;

/// A client's connection, after its hello.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(network: &Arc<Network>, mut stream: S) {
    let link = Arc::new(ClientLink {
        outgoing: Outgoing::new(ANSWER_BYTES_MAX, Arc::clone(&network.answers)),
        in_progress: AtomicUsize::new(0),
        answered: Notify::new(),
    });
    let connection = network.next_connection();
    // Before the welcome: it keeps its place among the clients that are counted.
    network.clients().insert(connection, Arc::clone(&link));
    if handshake::welcome(&mut stream, &network.answer()).await.is_ok() {
        exchange(network, stream, connection, &link).await;
    }
    network.clients().remove(&connection);
    link.outgoing.abort();
    network.inbox.push(Event::ClientClosed(connection));
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(network: &Arc<Network>, stream: S, connection: ConnId, link: &ClientLink) {
    let (mut read_half, mut write_half) = tokio::io::split(stream);
    let mut reader = FrameReader::new(&mut read_half, FRAME_SIZE_MAX, IDLE_MAX, Arc::clone(&network.memory));
    let mut writing = std::pin::pin!(link.outgoing.write_to(&mut write_half));
    let goodbye = tokio::select! {
        goodbye = read_requests(network, &mut reader, connection, link) => goodbye,
        written = &mut writing => {
            match written {
                Ok(()) => {
                    drop(reader);
                    handshake::linger(&mut read_half).await;
                }
                Err(error) => tracing::debug!(%connection, %error, "a client's connection failed"),
            }
            return;
        }
    };
    let Some(goodbye) = goodbye else { return };
    tracing::debug!(%connection, reason = %goodbye, "a client's connection is closed");
    link.outgoing.finish(Some(goodbye));
    let written = writing.await;
    drop(reader);
    if written.is_ok() {
        handshake::linger(&mut read_half).await;
    }
}

/// Gives what the client is told when nothing more is read from it.
async fn read_requests<R: AsyncRead + Unpin>(
    network: &Arc<Network>,
    reader: &mut FrameReader<R>,
    connection: ConnId,
    link: &ClientLink,
) -> Option<Goodbye> {
    let mut frames = Vec::new();
    let mut events = Vec::new();
    loop {
        while link.in_progress.load(Ordering::Relaxed) >= REQUESTS_PER_CONNECTION_MAX {
            link.answered.notified().await;
        }
        link.outgoing.below(ANSWER_BYTES_PAUSE).await;
        network.inbox.room(Lane::Bulk).await;
        let room = REQUESTS_PER_CONNECTION_MAX - link.in_progress.load(Ordering::Relaxed);
        match reader.next(&mut frames, room.min(BATCH_MAX)).await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                network.counters.malformed.fetch_add(1, Ordering::Relaxed);
                return error.goodbye();
            }
        }
        let mut malformed = None;
        for (kind, body) in frames.drain(..) {
            match request(kind, &body) {
                Ok(request) => events.push(Event::Client(connection, request)),
                Err(goodbye) => {
                    malformed = Some(goodbye);
                    break;
                }
            }
        }
        let count = events.len();
        link.in_progress.fetch_add(count, Ordering::Relaxed);
        if !network.inbox.push_all(&mut events) {
            // The node has ended and never sees these requests. The goodbye says so: the network bids this connection farewell,
            // since no connection is let in after that.
            link.in_progress.fetch_sub(count, Ordering::Relaxed);
            return std::future::pending().await;
        }
        if malformed.is_some() {
            network.counters.malformed.fetch_add(1, Ordering::Relaxed);
            return malformed;
        }
    }
}

fn request(kind: Kind, body: &Bytes) -> Result<Request, Goodbye> {
    match kind {
        Kind::Message => codec::decode(body).map_err(|error| Goodbye::new(Reason::Malformed, error.to_string())),
        Kind::Goodbye => Err(Goodbye::new(Reason::Idle, "goodbye")),
    }
}
