//! What the network thread knows: links to peers and clients, which callers are let in, and the way of what the node says to
//! the right socket. `listener.rs` runs it.
//!
//! A current-thread tokio runtime of its own runs here; everything in this module that is `async` runs on that thread. The node
//! hands over all that one flush had to say at once, and messages are encoded here, off the node's thread. Nothing here blocks
//! the node, whatever the sockets do: queues are bounded and drop (peers) or cut off (clients).

use super::addresses::Addresses;
use super::clock::{CpuMeters, Thread};
use super::descriptors::Share;
use super::inbox::Inbox;
use super::links::{ClientLink, Inbound, NetworkCounters, PeerLink};
use super::notices::Repeats;
use crate::base::{ClusterId, ConnId, DirectoryId, Duration, Epoch, NodeId};
use crate::msg::client::{Request, RequestBody, Response, ResponseBody};
use crate::msg::cluster::Formation;
use crate::msg::peer::{Envelope, Lane, NodeAddress, PeerMessage};
use crate::node::Event;
use crate::wire::handshake::{self, Goodbye, Hello, Reason, Role};
use crate::wire::outgoing::Total;
use crate::wire::reader::Memory;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Envelopes that wait for this thread. One more is dropped and counted.
const ENVELOPES_WAITING_MAX: usize = 16 * 1024;
/// Bytes of receive buffers over all connections. At the limit: the connection that wants more is closed.
const RECEIVE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Bytes of answers that wait for their clients. At the limit: a client that holds more than its share is cut off.
const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// The stand-in for a connection by which the driver itself asks the node.
const DRIVER: ConnId = ConnId(0);

/// What the node says.
#[derive(Debug)]
pub enum Outbound {
    Send(NodeId, Envelope),
    Reply(ConnId, Response),
}

/// What one flush said, until the network thread takes it. Answers are bounded by the requests in progress.
#[derive(Debug, Default)]
struct Outbox {
    state: Mutex<OutboxState>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct OutboxState {
    messages: Vec<Outbound>,
    envelopes: usize,
    end: Option<End>,
}

/// How the network ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Answers are written first.
    Drain,
    Abort,
}

/// What every task of the network thread shares with the others, and with the node's thread.
#[derive(Debug)]
pub struct Network {
    pub inbox: Arc<Inbox>,
    pub meters: Arc<CpuMeters>,
    pub counters: NetworkCounters,
    pub memory: Arc<Memory>,
    pub answers: Arc<Total>,
    pub envelopes: Arc<Total>,
    /// How long a peer may be silent before its connection counts as dead.
    pub peer_idle_max: Duration,
    identity: Identity,
    cluster: OnceLock<ClusterId>,
    /// Which data directory belongs to which node id, once the cluster has formed.
    bindings: OnceLock<BTreeMap<NodeId, DirectoryId>>,
    peers: BTreeMap<NodeId, PeerLink>,
    addresses: Addresses,
    spoken: AtomicBool,
    inbound: Mutex<BTreeMap<(NodeId, Lane), Inbound>>,
    clients: Mutex<BTreeMap<ConnId, Arc<ClientLink>>>,
    pub(super) share: Share,
    connection_last: AtomicU64,
    pub(super) handshakes: AtomicUsize,
    pub(super) refusals: AtomicUsize,
    /// Which callers were refused, as what, and why: a refused caller knocks again, and would fill the log.
    pub refused: Repeats<(NodeId, Role, Reason)>,
    outbox: Outbox,
    /// The clean end has begun.
    pub(super) parting: OnceLock<Goodbye>,
}

/// This node, in its present epoch.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    pub node: NodeId,
    pub epoch: Epoch,
    pub directory: DirectoryId,
}

/// What [`Network::new`] is told.
#[derive(Debug)]
pub struct NetworkOptions {
    pub identity: Identity,
    /// As recovered.
    pub formation: Option<Formation>,
    /// The other members, and where they may be, likely addresses first.
    pub peers: BTreeMap<NodeId, Vec<String>>,
    /// Where they said that they are.
    pub addresses: Addresses,
    /// How many connections there may be.
    pub share: Share,
    pub peer_idle_max: Duration,
}

impl Network {
    pub fn new(options: NetworkOptions, inbox: Arc<Inbox>, meters: Arc<CpuMeters>) -> Network {
        let network = Network {
            inbox,
            meters,
            counters: NetworkCounters::default(),
            memory: Arc::new(Memory::new(RECEIVE_BYTES_MAX)),
            answers: Arc::new(Total::new(ANSWER_BYTES_MAX)),
            envelopes: Arc::new(Total::new(usize::MAX)),
            peer_idle_max: options.peer_idle_max,
            identity: options.identity,
            cluster: OnceLock::new(),
            bindings: OnceLock::new(),
            peers: options.peers.into_iter().map(|(node, addresses)| (node, PeerLink::new(node, addresses))).collect(),
            addresses: options.addresses,
            spoken: AtomicBool::new(false),
            inbound: Mutex::default(),
            clients: Mutex::default(),
            share: options.share,
            connection_last: AtomicU64::new(DRIVER.0),
            handshakes: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            refused: Repeats::default(),
            outbox: Outbox::default(),
            parting: OnceLock::new(),
        };
        for peer in network.peers() {
            if let Some(address) = network.addresses.of(peer.node()) {
                peer.moved_to(address);
            }
        }
        if let Some(formation) = options.formation {
            network.bind(&formation);
            network.learn_cluster(formation.cluster);
        }
        network
    }

    /// What this node says of itself at the start of a connection.
    pub fn hello(&self) -> Hello {
        let Identity { node, epoch, directory } = self.identity;
        Hello { role: Role::Peer, node, epoch, cluster: self.cluster.get().copied(), directory }
    }

    /// What this node says of itself to a caller that has dialled it: its id. Its epoch and its directory, by which peers know
    /// it, are told where this node dials.
    pub fn answer(&self) -> Hello {
        Hello { epoch: Epoch::ZERO, directory: DirectoryId::default(), ..self.hello() }
    }

    pub fn peers(&self) -> impl Iterator<Item = &PeerLink> {
        self.peers.values()
    }

    pub fn peer(&self, node: NodeId) -> Option<&PeerLink> {
        self.peers.get(&node)
    }

    pub fn bound_directory(&self, node: NodeId) -> Option<DirectoryId> {
        self.bindings.get().and_then(|bindings| bindings.get(&node)).copied()
    }

    pub fn inbound(&self) -> MutexGuard<'_, BTreeMap<(NodeId, Lane), Inbound>> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn clients(&self) -> MutexGuard<'_, BTreeMap<ConnId, Arc<ClientLink>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no connection of this epoch had.
    pub fn next_connection(&self) -> ConnId {
        ConnId(self.connection_last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Moves out what the node says. Called by the node's thread; never waits.
    pub fn hand_over(&self, messages: &mut Vec<Outbound>) {
        if messages.is_empty() {
            return;
        }
        let mut state = self.lock_outbox();
        let idle = state.messages.is_empty();
        for message in messages.drain(..) {
            if matches!(message, Outbound::Send(..)) {
                if state.envelopes == ENVELOPES_WAITING_MAX {
                    self.counters.envelopes_dropped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                state.envelopes += 1;
            }
            state.messages.push(message);
        }
        drop(state);
        if idle {
            self.outbox.filled.notify_one();
        }
    }

    /// What a caller is told that comes once the clean end has begun. The node sees nothing of it any more.
    pub fn parting(&self) -> Option<&Goodbye> {
        self.parting.get()
    }

    /// Ends the network thread. The first end counts.
    pub fn end(&self, end: End) {
        self.lock_outbox().end.get_or_insert(end);
        self.outbox.filled.notify_one();
    }

    fn lock_outbox(&self) -> MutexGuard<'_, OutboxState> {
        self.outbox.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the members are, as far as is known.
    pub fn addresses(&self) -> PeerMessage {
        PeerMessage::Addresses(self.addresses.all())
    }

    /// A member says where members are. What is new is dialled, told to all others, and written down.
    pub fn learn_addresses(self: &Arc<Network>, mut news: Vec<NodeAddress>) {
        news.retain(|one| self.peers.contains_key(&one.node));
        let newer = self.addresses.learn(news);
        if newer.is_empty() {
            return;
        }
        for NodeAddress { node, address, .. } in newer {
            if let Some(peer) = self.peer(node) {
                peer.moved_to(address);
            }
        }
        self.tell_addresses();
        let network = Arc::clone(self);
        // A disk that stalls is not waited for.
        tokio::task::spawn_blocking(move || network.addresses.save());
    }

    fn tell_addresses(&self) {
        for peer in self.peers() {
            peer.send(self.envelope(vec![self.addresses()]), &self.counters);
        }
    }

    /// Whether the node has said anything in this epoch. Before, the epoch is not durable: the next one might be older.
    pub fn has_spoken(&self) -> bool {
        self.spoken.load(Ordering::Relaxed)
    }

    /// What this node's server says to another's.
    pub fn envelope(&self, messages: Vec<PeerMessage>) -> Envelope {
        let Identity { node, epoch, directory } = self.identity;
        Envelope { cluster: self.cluster.get().copied(), from: node, directory, epoch, messages }
    }

    /// Only the first formation counts: bindings never change.
    fn bind(&self, formation: &Formation) {
        let _ = self.bindings.set(formation.members.iter().map(|member| (member.node, member.directory)).collect());
    }

    /// The cluster has formed, durably here. The node is asked which directory belongs to which id.
    pub fn learn_cluster(&self, cluster: ClusterId) {
        if self.cluster.set(cluster).is_ok() {
            let request = Request { id: 0, timeout_ms: 1_000, body: RequestBody::Ring };
            self.inbox.push(Event::Client(DRIVER, request));
        }
    }

    /// Sends what the node says on its way, until the end.
    pub(super) async fn route(&self) -> End {
        let mut messages = Vec::new();
        loop {
            let end = {
                let mut state = self.lock_outbox();
                std::mem::swap(&mut state.messages, &mut messages);
                state.envelopes = 0;
                state.end
            };
            if messages.is_empty() {
                match end {
                    Some(end) => return end,
                    None => self.outbox.filled.notified().await,
                }
                continue;
            }
            for message in messages.drain(..) {
                match message {
                    Outbound::Send(node, envelope) => self.send(node, envelope),
                    Outbound::Reply(connection, response) => self.reply(connection, response),
                }
            }
            // Writers and readers get their turn however fast the node talks.
            tokio::task::yield_now().await;
        }
    }

    fn send(&self, node: NodeId, envelope: Envelope) {
        if !self.spoken.swap(true, Ordering::Relaxed) {
            self.tell_addresses();
        }
        let dropped = self.peers.get(&node).map_or(1, |peer| peer.send(envelope, &self.counters));
        if dropped > 0 {
            self.counters.envelopes_dropped.fetch_add(dropped as u64, Ordering::Relaxed);
        }
    }

    fn reply(&self, connection: ConnId, mut response: Response) {
        if connection == DRIVER {
            if let ResponseBody::Ring(report) = response.body {
                self.bind(&report.formation);
            }
            return;
        }
        if let ResponseBody::Ring(report) = &mut response.body {
            self.addresses.correct(report);
        }
        if let ResponseBody::Status(status) = &mut response.body {
            self.meters.sample(Thread::Network);
            status.cpu_us = self.meters.total();
        }
        let link = self.clients().get(&connection).map(Arc::clone);
        if let Some(link) = link {
            link.reply(&response, &self.counters);
        }
    }

    /// Whether a client that says this of itself may come in as well.
    pub(super) fn client_wanted(&self, theirs: &Hello) -> Result<(), Goodbye> {
        let ours = self.hello();
        if let (Some(cluster), Some(wanted)) = (ours.cluster, theirs.cluster)
            && cluster != wanted
        {
            let text = format!("node {} belongs to cluster {cluster}, not to cluster {wanted}", ours.node);
            return Err(Goodbye::new(Reason::WrongCluster, text));
        }
        if theirs.node != NodeId::ZERO && theirs.node != ours.node {
            let text = format!("this is node {}, not node {}", ours.node, theirs.node);
            return Err(Goodbye::new(Reason::WrongNode, text));
        }
        let count = self.clients().len();
        if count < self.share.clients {
            return Ok(());
        }
        Err(Goodbye::new(
            Reason::TooManyConnections,
            format!("node {} has {count} connections, as many as it may", self.identity.node),
        ))
    }

    pub(super) fn tell_refused(&self, theirs: &Hello, address: SocketAddr, goodbye: &Goodbye) {
        let Hello { role, node, .. } = *theirs;
        // A client says which node it wants.
        let from = if role == Role::Client { "a client".to_owned() } else { format!("node {node}") };
        let role = if role == Role::PeerControl { Role::Peer } else { role };
        let name = || format!("connections of {from} at {} that are refused: {goodbye}", address.ip());
        let now = std::time::Instant::now();
        if let Some(count) = self.refused.happened(now, (node, role, goodbye.reason), name) {
            tracing::warn!(node = %self.identity.node, count, "a connection of {from} at {address} is refused: {goodbye}");
        }
    }

    pub(super) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S, goodbye: &Goodbye) {
        self.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
        if let Some(_guard) = Guard::enter(&self.refusals, self.share.refusals) {
            handshake::refuse(stream, &self.answer(), goodbye).await;
        }
    }
}

/// One of a limited number.
pub(super) struct Guard<'a>(&'a AtomicUsize);

impl<'a> Guard<'a> {
    pub(super) fn enter(count: &'a AtomicUsize, limit: usize) -> Option<Guard<'a>> {
        let guard = Guard(count);
        (count.fetch_add(1, Ordering::Relaxed) < limit).then_some(guard)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Small messages leave at once; a peer or client that vanished without a message is noticed.
pub fn tune(stream: &TcpStream) {
    let tuned = stream.set_nodelay(true).and_then(|()| {
        use rustix::net::sockopt;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
        sockopt::set_tcp_user_timeout(stream, 10_000)?;
        Ok(())
    });
    if let Err(error) = tuned {
        tracing::debug!(%error, "a socket option was refused");
    }
}
