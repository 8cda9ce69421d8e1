//! One connection to one node, shared by all requests to it.

use super::Error;
use crate::base::limits::FRAME_SIZE_MAX;
use crate::base::{Duration, NodeId};
use crate::msg::client::{Rejection, Request, RequestBody, Response};
use crate::msg::codec;
use crate::server::frame::Kind;
use crate::server::handshake::{self, Goodbye, HandshakeError, Hello, Reason, Role};
use crate::server::outgoing::{Outgoing, Total};
use crate::server::reader::{FrameReader, Memory};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
/// How long an address that could not be reached is not tried again while there are others.
const AVOID_FOR: Duration = Duration::from_millis(500);

/// The way to one address: its connection, made when it is needed.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: String,
    state: Mutex<LinkState>,
    /// Held by the one that connects; the others wait for it.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct LinkState {
    connection: Option<Arc<Connection>>,
    /// It could not be reached: not worth another try before this.
    avoid_until: Option<Instant>,
}

impl Link {
    pub(super) fn new(address: String) -> Link {
        Link { address, state: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// Whether another node is the better choice now, if there is one.
    pub(super) fn is_doubtful(&self) -> bool {
        let state = self.lock();
        match &state.connection {
            Some(connection) if connection.is_open() => connection.is_silent(),
            _ => state.avoid_until.is_some_and(|until| Instant::now() < until),
        }
    }

    /// The connection; made now if there is none.
    pub(super) async fn connection(&self, connect_timeout: Duration) -> Result<Arc<Connection>, String> {
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let _connecting = self.connecting.lock().await;
        // The one that was waited for may have made it, or may have failed to just now.
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let made = Connection::open(&self.address, connect_timeout).await;
        let mut state = self.lock();
        match made {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *state = LinkState { connection: Some(Arc::clone(&connection)), avoid_until: None };
                Ok(connection)
            }
            Err(why) => {
                *state = LinkState { connection: None, avoid_until: Some(Instant::now() + AVOID_FOR) };
                Err(format!("{}: {why}", self.address))
            }
        }
    }

    /// Lets the connection end. Nobody waits for an answer on it.
    pub(super) fn close(&self) {
        if let Some(connection) = self.lock().connection.take() {
            connection.shared.outgoing.finish(None);
        }
    }

    fn open(&self) -> Option<Arc<Connection>> {
        self.lock().connection.clone().filter(|connection| connection.is_open())
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
    /// The connection was lost with the request in flight.
    Lost(String),
    /// Nothing came in time.
    TimedOut,
    /// Too much waits to be sent to the node already.
    Full,
}

impl NoAnswer {
    /// What the caller is told when it is not worth, or not allowed, to try again.
    pub(super) fn into_error(self, body: &RequestBody) -> Error {
        use crate::msg::client::Doubt;
        match self {
            NoAnswer::NotTaken(why) => Error::Unreachable(why),
            NoAnswer::Full => Error::Rejected(Rejection::Overloaded),
            NoAnswer::Lost(_) if super::applies(body) => Error::Unknown(Doubt::ConnectionLost),
            NoAnswer::Lost(why) => Error::Unreachable(why),
            NoAnswer::TimedOut if super::applies(body) => Error::Unknown(Doubt::DeadlineExceeded),
            NoAnswer::TimedOut => Error::Rejected(Rejection::DeadlineExceeded),
        }
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    /// As the node said in its hello.
    pub(super) node: NodeId,
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
    async fn open(address: &str, connect_timeout: Duration) -> Result<Connection, String> {
        let mut stream = match timeout(connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("it does not answer".into()),
        };
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let hello = Hello::client();
        let theirs = match timeout(connect_timeout, handshake::dial(&mut stream, &hello)).await {
            Ok(Ok(theirs)) => theirs,
            Ok(Err(HandshakeError::Io(error))) => return Err(format!("the connection was lost in the handshake: {error}")),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("it accepts connections and says nothing".into()),
        };
        if theirs.role != Role::Peer {
            return Err("the other end is a client too".into());
        }
        let outgoing = Outgoing::new(REQUEST_BYTES_MAX, Arc::new(Total::new(usize::MAX)));
        let shared = Arc::new(Shared { outgoing, pending: Mutex::default() });
        tokio::spawn(run(Arc::clone(&shared), stream));
        Ok(Connection { node: theirs.node, shared })
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

struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        // Present only when no answer came: a silent node stays under suspicion, whether or not somebody still waits.
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

/// Writes requests and takes in answers until the connection ends; then tells all who wait.
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

/// Tells all who wait, however the task ends: also when its runtime is shut down.
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
/// nothing in progress, so what crossed the goodbye on its way was not read either; a node that stops cleanly has answered what it took.
fn parted(goodbye: Goodbye) -> NoAnswer {
    match goodbye.reason {
        Reason::WrongMagic
        | Reason::WrongVersion
        | Reason::WrongCluster
        | Reason::NodeIdTaken
        | Reason::NotAMember
        | Reason::TooManyConnections
        | Reason::Stopping
        | Reason::Idle => NoAnswer::NotTaken(goodbye.text),
        Reason::Malformed | Reason::TooSlow | Reason::Replaced | Reason::Overloaded => NoAnswer::Lost(goodbye.text),
    }
}
