//! Connections between nodes: each node dials every other, and says what it has to say on the connection that it dialled.
//!
//! So neither side has to agree with the other on which connection counts. In each direction there are two, one for each
//! [`Lane`]: what keeps leaders in office (heartbeats, votes) shares no queue, no socket buffer and no reader with bulk. While
//! the control lane has no connection, its messages take the bulk lane's. Lanes overtake each other, as the transport may do
//! anyhow. A link that is lost is dialled again, after a pause that doubles up to a second, with jitter, and at once when the
//! peer itself turns up. A peer may have moved. So the address that it said last is dialled first, and then, in turn, all others
//! that were ever known of it; the handshake says which node answers.
//!
//! **Which connections are let in.** A node id belongs to one data directory: to that which the cluster bound to the id, or,
//! before it formed, to the first that came. While a connection from the right directory is open, another directory that claims
//! the id is refused. A newer connection from the same directory takes the older one's place: the older is what a restart or a
//! cut cable left behind. A wrong directory is let in while the right one is away, so that the node itself can tell it why it is
//! refused.

use super::links::{Inbound, PeerLink};
use super::net::{Network, tune};
use crate::base::limits::FRAME_SIZE_MAX;
use crate::base::random::{self, Random};
use crate::base::{Duration, NodeId};
use crate::msg::codec;
use crate::msg::peer::{Envelope, Lane, PeerMessage};
use crate::node::{Event, LinkState};
use crate::wire::frame::Kind;
use crate::wire::handshake::{self, Goodbye, HandshakeError, Hello, Reason, Role};
use crate::wire::outgoing::Outgoing;
use crate::wire::reader::FrameReader;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Bytes that wait for one peer in the bulk lane. Beyond: the oldest are dropped.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that wait for one peer in the control lane. Beyond: heartbeats are dropped, then the oldest.
const CONTROL_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A link that held for this long is dialled again without a pause that remembers earlier failures.
const STEADY_AFTER: Duration = Duration::from_secs(2);
/// Longer than any attempt that leads nowhere: there was a link.
const LED_SOMEWHERE_AFTER: Duration = Duration::from_secs(10);
/// Envelopes handed to the node at once.
const BATCH_MAX: usize = 256;

/// Dials the peer `node` in one lane, for as long as the network runs.
pub async fn keep_link(network: Arc<Network>, node: NodeId, lane: Lane, seed: u64) {
    let peer = network.peer(node).expect("made from the list of peers");
    let mut random = random::stream(seed, &format!("dial {node} {lane:?}"));
    let mut pause = PAUSE_MIN;
    let mut attempt = 0;
    loop {
        let began = Instant::now();
        let address = peer.address(attempt);
        let ended = dial(&network, peer, lane, &address).await;
        if network.parting().is_some() {
            return;
        }
        if began.elapsed() > STEADY_AFTER {
            pause = PAUSE_MIN;
        }
        attempt = if began.elapsed() > LED_SOMEWHERE_AFTER { 0 } else { attempt + 1 };
        // Whether anything is told of it hangs on how the peer does: see `notices`.
        tracing::debug!(peer = %node, %address, ?lane, reason = %ended, "no link to a peer");
        *peer.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{address}: {ended}"));
        tokio::select! {
            () = tokio::time::sleep(jittered(pause, &mut random)) => pause = (pause * 2).min(PAUSE_MAX),
            () = peer.way(lane).turned_up.notified() => (pause, attempt) = (PAUSE_MIN, 0),
        }
    }
}

fn jittered(pause: Duration, random: &mut Random) -> Duration {
    let nanos = pause.as_nanos() as u64;
    Duration::from_nanos(nanos / 2 + random::below(random, nanos))
}

/// One connection to a peer, from its making to its end. Gives why it ended.
async fn dial(network: &Network, peer: &PeerLink, lane: Lane, address: &str) -> String {
    let mut stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return error.to_string(),
        Err(_) => return "it does not answer".into(),
    };
    tune(&stream);
    let role = match lane {
        Lane::Control => Role::PeerControl,
        Lane::Bulk => Role::Peer,
    };
    match handshake::dial(&mut stream, &Hello { role, ..network.hello() }).await {
        Ok(theirs) => match answered_by(network, peer, address, &theirs) {
            Ok(()) => talk(network, peer, lane, stream).await,
            Err(why) => why,
        },
        Err(HandshakeError::Io(error)) => format!("the connection was lost in the handshake: {error}"),
        Err(error) => error.to_string(),
    }
}

/// Whether the node that answered is the one that was dialled.
fn answered_by(network: &Network, peer: &PeerLink, address: &str, theirs: &Hello) -> Result<(), String> {
    if theirs.role != Role::Peer || theirs.node != peer.node() {
        return Err(format!("{address} is the address of node {}, not of node {}", theirs.node, peer.node()));
    }
    match (network.hello().cluster, theirs.cluster) {
        (Some(ours), Some(other)) if ours != other => Err(format!("it is in another cluster ({other}; this node is in {ours})")),
        _ => Ok(()),
    }
}

/// Writes what the node says to the peer until the link ends. Gives why it did.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(network: &Network, peer: &PeerLink, lane: Lane, stream: S) -> String {
    let limit = match lane {
        Lane::Control => CONTROL_QUEUE_BYTES_MAX,
        Lane::Bulk => QUEUE_BYTES_MAX,
    };
    let outgoing = Arc::new(Outgoing::new(limit, Arc::clone(&network.envelopes)));
    if network.has_spoken() && lane == Lane::Bulk {
        outgoing.push_dropping(&network.envelope(vec![network.addresses()]), false);
    }
    *peer.way(lane).lock() = Some(Arc::clone(&outgoing));
    // The node asks after links for the sake of what it forwards, which is bulk.
    let tell = |state| {
        if lane == Lane::Bulk {
            network.inbox.push(Event::Link(peer.node(), state));
        }
    };
    tell(LinkState::Up);
    tracing::debug!(peer = %peer.node(), ?lane, "link up");

    let (read_half, mut write_half) = tokio::io::split(stream);
    // The peer says nothing here but why it closes.
    let mut reader = FrameReader::new(read_half, 4096, Duration::from_secs(1 << 30), Arc::clone(&network.memory));
    let mut frames = Vec::new();
    let ended = tokio::select! {
        written = outgoing.write_to(&mut write_half) => match written {
            Ok(()) => "closed".to_owned(),
            Err(error) => error.to_string(),
        },
        read = reader.next(&mut frames, 1) => match (read, frames.pop()) {
            (Err(error), _) => error.to_string(),
            (Ok(_), Some((Kind::Goodbye, body))) => codec::decode::<Goodbye>(&body)
                .map_or_else(|error| error.to_string(), |goodbye| format!("refused: {goodbye}")),
            (Ok(_), Some((Kind::Message, _))) => "it answered where it should only listen".to_owned(),
            (Ok(_), None) => "it closed the connection".to_owned(),
        },
    };

    *peer.way(lane).lock() = None;
    outgoing.abort();
    tell(LinkState::Down);
    ended
}

/// Whether a peer that says this of itself may come in now.
pub fn wanted(network: &Network, theirs: &Hello) -> Result<(), Goodbye> {
    let ours = network.hello();
    if let (Some(cluster), Some(other)) = (ours.cluster, theirs.cluster)
        && cluster != other
    {
        let text = format!("node {} is in cluster {cluster}, and not in {other}", ours.node);
        return Err(Goodbye::new(Reason::WrongCluster, text));
    }
    if theirs.node == ours.node {
        let text = format!("node id {} is taken: this node has it", ours.node);
        return Err(Goodbye::new(Reason::NodeIdTaken, text));
    }
    if network.peer(theirs.node).is_none() {
        let text = format!("node {} knows no node {}", ours.node, theirs.node);
        return Err(Goodbye::new(Reason::NotAMember, text));
    }
    let inbound = network.inbound();
    let taken = Lane::ALL.into_iter().filter_map(|lane| inbound.get(&(theirs.node, lane))).any(|now| {
        let bound = network.bound_directory(theirs.node).unwrap_or(now.directory);
        now.directory != theirs.directory && bound != theirs.directory
    });
    drop(inbound);
    if taken {
        let text = format!("node id {} is taken: a node with another data directory has it", theirs.node);
        return Err(Goodbye::new(Reason::NodeIdTaken, text));
    }
    Ok(())
}

/// A peer's connection, after its hello was found [`wanted`].
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(network: &Arc<Network>, mut stream: S, theirs: Hello, lane: Lane) {
    let replaced = Arc::new(Notify::new());
    let inbound = Inbound { directory: theirs.directory, replaced: Arc::clone(&replaced) };
    if let Some(older) = network.inbound().insert((theirs.node, lane), inbound) {
        older.replaced.notify_one();
    }
    if handshake::welcome(&mut stream, &network.answer()).await.is_ok() {
        if let Some(peer) = network.peer(theirs.node) {
            Lane::ALL.into_iter().for_each(|lane| peer.way(lane).turned_up.notify_one());
        }
        let (mut read_half, write_half) = tokio::io::split(stream);
        let mut reader = FrameReader::new(&mut read_half, FRAME_SIZE_MAX, network.peer_idle_max, Arc::clone(&network.memory));
        let goodbye = tokio::select! {
            goodbye = read_envelopes(network, &mut reader, &theirs, lane) => goodbye,
            () = replaced.notified() => Some(Goodbye::new(Reason::Replaced, "a newer connection took its place")),
        };
        drop(reader);
        if let Some(goodbye) = goodbye {
            tracing::debug!(peer = %theirs.node, reason = %goodbye, "a peer's connection is closed");
            handshake::part(&mut read_half.unsplit(write_half), &goodbye).await;
        }
    }
    let mut inbound = network.inbound();
    if inbound.get(&(theirs.node, lane)).is_some_and(|now| Arc::ptr_eq(&now.replaced, &replaced)) {
        inbound.remove(&(theirs.node, lane));
    }
}

/// Takes out what is for the server, from a node that the cluster has checked.
fn take_addresses(network: &Arc<Network>, envelope: &mut Envelope) {
    let bound = network.bound_directory(envelope.from) == Some(envelope.directory);
    envelope.messages.retain_mut(|message| match message {
        PeerMessage::Addresses(news) if bound => {
            network.learn_addresses(std::mem::take(news));
            false
        }
        PeerMessage::Addresses(_) => false,
        _ => true,
    });
}

/// Gives what the peer is told when nothing more is read from it.
async fn read_envelopes<R: AsyncRead + Unpin>(
    network: &Arc<Network>,
    reader: &mut FrameReader<R>,
    theirs: &Hello,
    lane: Lane,
) -> Option<Goodbye> {
    let mut frames = Vec::new();
    let mut events = Vec::new();
    loop {
        network.inbox.room(lane).await;
        match reader.next(&mut frames, BATCH_MAX).await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return error.goodbye(),
        }
        let mut ended = None;
        for (kind, body) in frames.drain(..) {
            match (kind, codec::decode::<Envelope>(&body)) {
                (Kind::Message, Ok(mut envelope)) if envelope.from == theirs.node && envelope.directory == theirs.directory => {
                    take_addresses(network, &mut envelope);
                    if !envelope.messages.is_empty() {
                        events.push(Event::Net(theirs.node, envelope));
                    }
                }
                (Kind::Message, Ok(_)) => {
                    ended = Some(Goodbye::new(Reason::Malformed, "an envelope of another node than said hello"));
                }
                (Kind::Message, Err(error)) => ended = Some(Goodbye::new(Reason::Malformed, error.to_string())),
                (Kind::Goodbye, _) => ended = Some(Goodbye::new(Reason::Stopping, "goodbye")),
            }
            if ended.is_some() {
                break;
            }
        }
        network.inbox.push_all(&mut events);
        if let Some(goodbye) = ended {
            if goodbye.reason == Reason::Malformed {
                network.counters.malformed.fetch_add(1, Ordering::Relaxed);
            }
            return Some(goodbye);
        }
    }
}
