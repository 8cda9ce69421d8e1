//! The network thread: accepts and dials, sends what the node says on its way, and says farewell.

use super::descriptors::Seldom;
use super::links::PeerLink;
use super::net::{End, Guard, Network, tune};
use super::{clients, peers};
use crate::base::Duration;
use crate::msg::peer::Lane;
use crate::wire::handshake::{self, Goodbye, HandshakeError, Hello, Reason, Role};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

/// How long a clean end waits for answers to be written.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(250);
/// Between two tries to accept a connection, when that fails: doubles up to the second.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(20);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The body of the network thread: accepts, dials and routes until [`Network::end`].
pub fn run(network: &Arc<Network>, listener: std::net::TcpListener, seed: u64) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ran = runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let listening = tokio::spawn(listen(Arc::clone(network), listener));
        for peer in network.peers() {
            for lane in Lane::ALL {
                tokio::spawn(peers::keep_link(Arc::clone(network), peer.node(), lane, seed));
            }
        }
        if network.route().await == End::Drain {
            // With it goes the listener: a caller that dials now is refused at once, and asks another node. Taken in, it would
            // send requests that no node answers, and wait for as long as the others' farewell takes.
            listening.abort();
            farewell(network).await;
        }
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    ran
}

/// Lets what was said be written, and tells everyone.
async fn farewell(network: &Network) {
    let goodbye =
        network.parting.get_or_init(|| Goodbye::new(Reason::Stopping, format!("node {} is stopping", network.hello().node)));
    for link in network.clients().values() {
        link.finish(goodbye.clone());
    }
    for peer in network.peers() {
        peer.finish();
    }
    let deadline = tokio::time::Instant::now() + FAREWELL_TIMEOUT;
    let written = || network.clients().is_empty() && !network.peers().any(PeerLink::is_up);
    while tokio::time::Instant::now() < deadline && !written() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn listen(network: Arc<Network>, listener: TcpListener) {
    let (mut closed, mut failed) = (Seldom::default(), Seldom::default());
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        match listener.accept().await {
            Ok((stream, _)) if stream.as_raw_fd() as u64 >= network.share.line => {
                drop(stream);
                network.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                if let Some(count) = closed.happened(std::time::Instant::now()) {
                    tracing::warn!(count, "connections are closed without a word: the open files that are left are the log's");
                }
            }
            Ok((stream, address)) => {
                pause = ACCEPT_PAUSE_MIN;
                tune(&stream);
                let network = Arc::clone(&network);
                tokio::spawn(async move {
                    tracing::debug!(%address, "connection accepted");
                    serve(&network, stream, address).await;
                    tracing::debug!(%address, "connection closed");
                });
            }
            Err(error) => {
                // No file descriptors, most likely: they come back when connections close. Not a reason to spin, nor to stop.
                if let Some(count) = failed.happened(std::time::Instant::now()) {
                    tracing::warn!(%error, count, "cannot accept connections");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

/// One accepted connection, from its handshake to its end.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(network: &Arc<Network>, mut stream: S, address: SocketAddr) {
    let theirs = {
        let Some(_guard) = Guard::enter(&network.handshakes, network.share.handshakes) else {
            let goodbye = Goodbye::new(Reason::TooManyConnections, "too many connections are being opened at once");
            network.tell_refused(&Hello::client(), address, &goodbye);
            return network.refuse(&mut stream, &goodbye).await;
        };
        match handshake::accept(&mut stream).await {
            Ok(theirs) => theirs,
            Err(error) => {
                tracing::debug!(%error, "handshake failed");
                if let HandshakeError::Hello(error) = error {
                    network.counters.malformed.fetch_add(1, Ordering::Relaxed);
                    network.refuse(&mut stream, &error.goodbye()).await;
                }
                return;
            }
        }
    };
    let wanted = match theirs.role {
        Role::Client => network.client_wanted(&theirs),
        Role::Peer | Role::PeerControl => peers::wanted(network, &theirs),
    };
    // A connection whose handshake was under way when the end began.
    if let Some(goodbye) = network.parting() {
        return network.refuse(&mut stream, goodbye).await;
    }
    if let Err(goodbye) = wanted {
        network.tell_refused(&theirs, address, &goodbye);
        return network.refuse(&mut stream, &goodbye).await;
    }
    match theirs.role {
        Role::Client => clients::serve(network, stream).await,
        Role::Peer => peers::serve(network, stream, theirs, Lane::Bulk).await,
        Role::PeerControl => peers::serve(network, stream, theirs, Lane::Control).await,
    }
}
