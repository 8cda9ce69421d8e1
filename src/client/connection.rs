//! One connection to one node, shared by all requests to it.
//!
//! An address is no identity. The cluster is pinned by the client's options, or else by the first node that names one. From then
//! on every connection states it, and the node as well if the ring says whose address it is. A hello that says otherwise ends the
//! connection before any request is sent. A node whose cluster has not formed may form any: it is asked for reports only, and
//! dialled anew for everything else.

use super::Error;
use crate::base::limits::FRAME_SIZE_MAX;
use crate::base::{ClusterId, Duration, NodeId};
use crate::msg::client::{Request, RequestBody, Response};
use crate::msg::codec;
use crate::msg::operation::Rejection;
use crate::wire::frame::Kind;
use crate::wire::handshake::{self, Goodbye, HandshakeError, Hello, Reason, Role};
use crate::wire::outgoing::{Outgoing, Total};
use crate::wire::reader::{FrameReader, Memory};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// Bytes of requests that wait to be written. Beyond: rejected, `Overloaded`.
const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Answers taken in at once.
const BATCH_MAX: usize = 256;
/// A node that has requests to answer and has said nothing for this long is avoided while there are others.
const SILENCE_MAX: Duration = Duration::from_millis(500);
/// How long an address that could not be reached is not dialled again while there are others.
const AVOID_FOR: Duration = Duration::from_millis(500);

/// The way to one address: its connection, made when it is needed.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: String,
    /// The cluster that the client talks to; shared by all links.
    cluster: Arc<OnceLock<ClusterId>>,
    state: Mutex<LinkState>,
    /// Held by the call that connects; the others wait for it.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct LinkState {
    connection: Option<Arc<Connection>>,
    /// It could not be reached: not worth another try before this.
    avoid_until: Option<Instant>,
    /// The node whose address it is, as the ring says; `None`: it says nothing of it.
    node: Option<NodeId>,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoConnection {
    Unreachable(String),
    /// Another node than the wanted one is there.
    Wrong(String),
    /// The node's cluster has not formed yet, as far as it knows.
    Forming(String),
}

impl NoConnection {
    pub(super) fn text(self) -> String {
        match self {
            NoConnection::Unreachable(why) | NoConnection::Wrong(why) | NoConnection::Forming(why) => why,
        }
    }
}

impl Link {
    pub(super) fn new(address: String, cluster: Arc<OnceLock<ClusterId>>) -> Link {
        Link { address, cluster, state: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// The ring says that the address is this node's.
    pub(super) fn bind(&self, node: NodeId) {
        let mut state = self.lock();
        state.node = Some(node);
        state.connection.take_if(|connection| connection.node != node);
    }

    /// Whether another node is the better choice now, if there is one.
    pub(super) fn is_doubtful(&self) -> bool {
        let state = self.lock();
        match &state.connection {
            Some(connection) if connection.is_open() => connection.is_silent(),
            _ => state.avoid_until.is_some_and(|until| Instant::now() < until),
        }
    }

    /// The connection; made now if there is none. `formed`: only to a node whose cluster is known to be the wanted one.
    pub(super) async fn connection(&self, connect_timeout: Duration, formed: bool) -> Result<Arc<Connection>, NoConnection> {
        if let Some(open) = self.open(formed) {
            return Ok(open);
        }
        let _connecting = self.connecting.lock().await;
        // The call that was waited for may have made it, or may have failed to just now.
        if let Some(open) = self.open(formed) {
            return Ok(open);
        }
        let wanted = Wanted { cluster: self.cluster.get().copied(), node: self.lock().node };
        let made = Connection::open(&self.address, connect_timeout, wanted).await.and_then(|connection| self.pin(connection));
        let mut state = self.lock();
        match made {
            Ok(connection) => {
                let connection = Arc::new(connection);
                state.connection = Some(Arc::clone(&connection));
                state.avoid_until = None;
                if formed && connection.cluster.is_none() {
                    return Err(NoConnection::Forming(format!("{}: the node's cluster has not formed yet", self.address)));
                }
                Ok(connection)
            }
            Err(why) => {
                state.connection = None;
                state.avoid_until = Some(Instant::now() + AVOID_FOR);
                Err(why)
            }
        }
    }

    /// A connection is being made, and another was there first: this link is not worth waiting for, while there are others.
    pub(super) fn avoid_while_dialled(&self) {
        if self.connecting.try_lock().is_err() {
            self.lock().avoid_until = Some(Instant::now() + AVOID_FOR);
        }
    }

    /// The first cluster that is met is meant from then on.
    fn pin(&self, connection: Connection) -> Result<Connection, NoConnection> {
        let Some(cluster) = connection.cluster else { return Ok(connection) };
        let pinned = *self.cluster.get_or_init(|| cluster);
        let wanted = Wanted { cluster: Some(pinned), node: None };
        wanted.check(&self.address, connection.node, Some(cluster)).map(|()| connection)
    }

    /// Lets the connection end. No call waits for an answer on it.
    pub(super) fn close(&self) {
        self.lock().connection = None;
    }

    fn open(&self, formed: bool) -> Option<Arc<Connection>> {
        let open = |connection: &Arc<Connection>| connection.is_open() && (connection.cluster.is_some() || !formed);
        self.lock().connection.clone().filter(open)
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// Certainly not applied: it was not sent, or the node closed the door before it read anything.
    NotTaken(String),
    /// The same: another node than the wanted one is at its address.
    Wrong(String),
    /// The same: the node belongs to no cluster yet.
    Forming,
    /// The connection was lost with the request in flight.
    Lost(String),
    /// Nothing came in time.
    TimedOut,
    /// Too much waits to be sent to the node already.
    Full,
}

impl NoAnswer {
    /// What the caller is told when a retry is not worth it, or not allowed.
    pub(super) fn into_error(self, body: &RequestBody) -> Error {
        use crate::msg::client::Doubt;
        match self {
            NoAnswer::NotTaken(why) | NoAnswer::Wrong(why) => Error::Unreachable(why),
            NoAnswer::Forming => Error::Rejected(Rejection::NotReady),
            NoAnswer::Full => Error::Rejected(Rejection::Overloaded),
            NoAnswer::Lost(_) if super::applies(body) => Error::Unknown(Doubt::ConnectionLost),
            NoAnswer::Lost(why) => Error::Unreachable(why),
            NoAnswer::TimedOut if super::applies(body) => Error::Unknown(Doubt::DeadlineExceeded),
            NoAnswer::TimedOut => Error::Rejected(Rejection::DeadlineExceeded),
        }
    }
}

impl From<NoConnection> for NoAnswer {
    fn from(why: NoConnection) -> NoAnswer {
        match why {
            NoConnection::Unreachable(why) => NoAnswer::NotTaken(why),
            NoConnection::Wrong(why) => NoAnswer::Wrong(why),
            NoConnection::Forming(_) => NoAnswer::Forming,
        }
    }
}

/// The node that is to be at the other end. `None`: any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    cluster: Option<ClusterId>,
    node: Option<NodeId>,
}

impl Wanted {
    /// Whether the node that answered at `address` is the wanted one. A node that knows no cluster yet may be.
    fn check(self, address: &str, node: NodeId, cluster: Option<ClusterId>) -> Result<(), NoConnection> {
        if let (Some(wanted), Some(cluster)) = (self.cluster, cluster)
            && wanted != cluster
        {
            let text = format!("{address} belongs to cluster {cluster} (node {node}), not to cluster {wanted}");
            return Err(NoConnection::Wrong(text));
        }
        match self.node {
            Some(wanted) if wanted != node => Err(NoConnection::Wrong(format!("{address} is node {node}, not node {wanted}"))),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    /// As the node said in its hello.
    pub(super) node: NodeId,
    /// The same; `None`: it has not formed yet.
    cluster: Option<ClusterId>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    outgoing: Outgoing,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    request_last: u64,
    /// By the request's id.
    answers: BTreeMap<u64, oneshot::Sender<Result<Response, NoAnswer>>>,
    /// Since when there is something to answer and the node has said nothing.
    waiting_since: Option<Instant>,
    /// The connection is over, and why.
    ended: Option<NoAnswer>,
}

impl Connection {
    async fn open(address: &str, connect_timeout: Duration, wanted: Wanted) -> Result<Connection, NoConnection> {
        let unreachable = |why: String| NoConnection::Unreachable(format!("{address}: {why}"));
        let (stream, theirs) = Connection::dial(address, connect_timeout, wanted).await.map_err(unreachable)?;
        if theirs.role != Role::Peer {
            return Err(unreachable("the other end is a client too".into()));
        }
        wanted.check(address, theirs.node, theirs.cluster)?;
        let outgoing = Outgoing::new(REQUEST_BYTES_MAX, Arc::new(Total::new(usize::MAX)));
        let shared = Arc::new(Shared { outgoing, pending: Mutex::default() });
        tokio::spawn(run(Arc::clone(&shared), stream));
        Ok(Connection { node: theirs.node, cluster: theirs.cluster, shared })
    }

    /// Says which node is wanted, and returns the node that is there.
    async fn dial(address: &str, connect_timeout: Duration, wanted: Wanted) -> Result<(TcpStream, Hello), String> {
        let mut stream = match timeout(connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("it does not answer".into()),
        };
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let hello = Hello::client_of(wanted.cluster, wanted.node);
        match timeout(connect_timeout, handshake::dial(&mut stream, &hello)).await {
            Ok(Ok(theirs)) => Ok((stream, theirs)),
            Ok(Err(HandshakeError::Io(error))) => Err(format!("the connection was lost in the handshake: {error}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it accepts connections and says nothing".into()),
        }
    }

    fn is_open(&self) -> bool {
        self.shared.lock().ended.is_none()
    }

    fn is_silent(&self) -> bool {
        self.shared.lock().waiting_since.is_some_and(|since| since.elapsed() > SILENCE_MAX)
    }

    /// Sends `body` and waits for its answer for at most `patience`; the node is told to go on trying for `remaining`.
    pub(super) async fn ask(&self, body: RequestBody, remaining: Duration, patience: Duration) -> Result<Response, NoAnswer> {
        let timeout_ms = u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX).max(1);
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut pending = self.shared.lock();
            if let Some(ended) = &pending.ended {
                return Err(NoAnswer::NotTaken(format!("{ended:?}")));
            }
            pending.request_last += 1;
            let id = pending.request_last;
            pending.answers.insert(id, sender);
            pending.waiting_since.get_or_insert_with(Instant::now);
            id
        };
        // However this ends, also when the caller gives up and drops it: the answer is not waited for any more.
        let _forget = Forget { shared: &self.shared, id };
        if self.shared.outgoing.push(&Request { id, timeout_ms, body }).is_err() {
            return match self.is_open() {
                true => Err(NoAnswer::Full),
                false => Err(NoAnswer::NotTaken("the connection has just ended".into())),
            };
        }
        match timeout(patience, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(NoAnswer::Lost("the connection's task ended".into())),
            Err(_) => Err(NoAnswer::TimedOut),
        }
    }
}

impl Drop for Connection {
    /// No call waits for an answer any more.
    fn drop(&mut self) {
        self.shared.outgoing.finish(None);
    }
}

struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        // Present only when no answer came: a silent node stays under suspicion, whether or not a call still waits.
        self.shared.lock().answers.remove(&self.id);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: &NoAnswer) {
        let answers = {
            let mut pending = self.lock();
            pending.ended.get_or_insert_with(|| why.clone());
            pending.waiting_since = None;
            std::mem::take(&mut pending.answers)
        };
        self.outgoing.abort();
        for sender in answers.into_values() {
            // The caller may have given up.
            let _ = sender.send(Err(why.clone()));
        }
    }
}

/// Writes requests and takes in answers until the connection ends; then tells all calls that wait.
async fn run<S: AsyncRead + AsyncWrite + Unpin>(shared: Arc<Shared>, stream: S) {
    let ending = Ending(&shared);
    let (read_half, mut write_half) = tokio::io::split(stream);
    let memory = Arc::new(Memory::new(usize::MAX));
    let mut reader = FrameReader::new(read_half, FRAME_SIZE_MAX, Duration::from_secs(1 << 30), memory);
    let why = tokio::select! {
        why = read_answers(&shared, &mut reader) => why,
        written = shared.outgoing.write_to(&mut write_half) => match written {
            Ok(()) => NoAnswer::Lost("closed".into()),
            Err(error) => NoAnswer::Lost(error.to_string()),
        },
    };
    shared.end(&why);
    drop(ending);
}

/// Tells all calls that wait, however the task ends: also when its runtime is shut down.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end(&NoAnswer::Lost("the client's runtime has ended".into()));
    }
}

async fn read_answers<R: AsyncRead + Unpin>(shared: &Shared, reader: &mut FrameReader<R>) -> NoAnswer {
    let mut frames = Vec::new();
    loop {
        match reader.next(&mut frames, BATCH_MAX).await {
            Ok(true) => {}
            Ok(false) => return NoAnswer::Lost("the node closed the connection".into()),
            Err(error) => return NoAnswer::Lost(error.to_string()),
        }
        let mut senders = Vec::with_capacity(frames.len());
        let mut end = None;
        for (kind, body) in frames.drain(..) {
            if kind == Kind::Goodbye {
                end = Some(codec::decode::<Goodbye>(&body).map_or_else(|error| NoAnswer::Lost(error.to_string()), parted));
                break;
            }
            match codec::decode::<Response>(&body) {
                Ok(response) => {
                    let sender = shared.lock().answers.remove(&response.id);
                    senders.extend(sender.map(|sender| (sender, response)));
                }
                Err(error) => {
                    end = Some(NoAnswer::Lost(error.to_string()));
                    break;
                }
            }
        }
        {
            let mut pending = shared.lock();
            pending.waiting_since = (!pending.answers.is_empty()).then(Instant::now);
        }
        // Answers that came together with the connection's end are answers all the same.
        for (sender, response) in senders {
            let _ = sender.send(Ok(response));
        }
        if let Some(why) = end {
            return why;
        }
    }
}

/// What a goodbye means for the requests in flight. At the door nothing was read; a connection that is closed for idleness has
/// nothing in progress, so what crossed the goodbye on its way was not read either; a node that stops cleanly has answered what
/// it took.
fn parted(goodbye: Goodbye) -> NoAnswer {
    match goodbye.reason {
        Reason::WrongMagic
        | Reason::WrongVersion
        | Reason::WrongCluster
        | Reason::NodeIdTaken
        | Reason::NotAMember
        | Reason::WrongNode
        | Reason::TooManyConnections
        | Reason::Stopping
        | Reason::Idle => NoAnswer::NotTaken(goodbye.text),
        Reason::Malformed | Reason::TooSlow | Reason::Replaced | Reason::Overloaded => NoAnswer::Lost(goodbye.text),
    }
}
