//! The Rust client: connects to any node, learns the ring, and sends each request to the leader it believes in.
//!
//! One connection is kept per node, made when it is first needed, and shared by all requests (answers carry their request's id
//! and may come in any order). The leader of a key's partition is taken from the ring's report and from the hint in every answer.
//! A wrong belief costs one hop: the node that was asked forwards the request itself.
//!
//! **What is retried.** What was *certainly not applied* for a reason that another node or another moment may mend (`NoLeader`,
//! `NotReady`, `Stopping`, a connection that could not be made) is sent again, elsewhere, until the deadline. What *may have been
//! applied* never is: a write in flight when its connection drops comes back as [`Error::Unknown`]. Reads apply nothing, so they
//! are sent again. So is a transaction that has a *token*: however often it is sent, it is done once at most and answered the
//! same, so a later answer says what became of an earlier attempt.
//!
//! **Which cluster it talks to.** An address is no identity: after a restart another cluster may listen where this one did. The
//! client belongs to one cluster, named by its options or else by the first node that answers. It sends nothing to a node of
//! another: that is an error which names both. Where the nodes are is learnt anew from the ring whenever a node is not found at
//! its address.
//!
//! Calls on one item and pages are in [`calls`], with an example. Transactions of one request, and those that read before they
//! write, are in [`transaction`].

pub mod calls;
mod connection;
mod routing;
pub mod transaction;

pub use crate::base::Key;
use crate::base::limits::TIMEOUT_MAX;
use crate::base::random::Random;
use crate::base::{ClusterId, Duration, NodeId, Version};
pub use crate::msg::client::Scanned;
use crate::msg::client::{DamageReport, Doubt, RequestBody, Response, ResponseBody, RingReport, StatusReport};
use crate::msg::operation::Rejection;
pub use crate::msg::operation::{Acknowledge, Condition, Consistency};
use crate::msg::transaction::FailureReason;
use bytes::Bytes;
use connection::{Connection, Link, NoAnswer, NoConnection};
use core::fmt;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use routing::Routing;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;
pub use transaction::{InFlight, Interactive, ItemFailure, TransactionsInFlight};

/// How much longer than the cluster may go on trying we wait for its answer, which says more than our own clock.
const ANSWER_GRACE: Duration = Duration::from_millis(200);
/// How long a node may leave a read without an answer before another node is asked.
const READ_PATIENCE: Duration = Duration::from_secs(1);
/// The same for a transaction with a token, which may have to wait for others.
const TOKEN_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries: doubles up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long an address has to connect before the next is tried as well.
const HEAD_START: Duration = Duration::from_millis(100);
/// How long an address that is no member's has to say which cluster it belongs to.
const IDENTITY_TIMEOUT: Duration = Duration::from_millis(300);

/// A handle to the cluster. Cheap to clone; clones share connections. Must be used inside a tokio runtime.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: ClientOptions,
    routing: Mutex<Routing>,
    /// Draws tokens, and pauses.
    random: Mutex<Random>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let routing = self.routing.get_mut().unwrap_or_else(PoisonError::into_inner);
        routing.links().for_each(|link| link.close());
    }
}

#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// For how long one call goes on trying, retries included. Cut to [`crate::base::limits::TIMEOUT_MAX`].
    pub timeout: Duration,
    /// For how long one attempt to connect to one address may take.
    pub connect_timeout: Duration,
    /// The cluster that is meant. `None`: that of the first node that answers.
    pub cluster: Option<ClusterId>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions { timeout: Duration::from_secs(5), connect_timeout: Duration::from_secs(1), cluster: None }
    }
}

/// What a get found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// `None`: the item is absent.
    pub value: Option<Bytes>,
    /// The item's, or that of its deletion, or that up to which its partition has forgotten deletions, if that is later; 0: it was
    /// never written.
    pub version: Version,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub version: Version,
    /// An increment's sum.
    pub number: Option<i64>,
}

/// Why a call did not do what was asked. See promise P6: only [`Error::Unknown`] may have been applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The condition did not hold of the item, whose state was this. Nothing was written.
    ConditionFailed { version: Version, present: bool },
    /// Nothing of the transaction was done. These of its items stood in the way, of those that were looked at.
    NotCommitted(Vec<ItemFailure>),
    /// Nothing of an interactive transaction was done: what it read is not so any more, or other transactions were in its way for
    /// as long as it was tried. Begin it again, with new reads.
    Conflict(Vec<ItemFailure>),
    /// Certainly not applied.
    Rejected(Rejection),
    /// May have been applied.
    Unknown(Doubt),
    /// No node could be reached, or another cluster's was at the address, so nothing was sent. Says which were tried and what
    /// they said.
    Unreachable(String),
    /// A node said something that makes no sense. Certainly not applied if it was a refused handshake.
    Protocol(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::ConditionFailed { version, present: true } => {
                write!(f, "the condition does not hold: the item is there, with version {version}")
            }
            Error::ConditionFailed { version, present: false } => {
                write!(f, "the condition does not hold: the item is absent (version {version})")
            }
            Error::NotCommitted(failures) => {
                write!(f, "not committed: ")?;
                transaction::list(f, failures)
            }
            Error::Conflict(failures) => {
                write!(f, "conflict, nothing was written: ")?;
                transaction::list(f, failures)?;
                write!(f, ". Begin the transaction again")
            }
            Error::Rejected(why) => write!(f, "rejected: {why}"),
            Error::Unknown(why) => write!(f, "unknown: {why}"),
            Error::Unreachable(why) => write!(f, "no node could be reached: {why}"),
            Error::Protocol(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Whether nothing was done, and a retry a little later may succeed (of an interactive transaction: with new reads).
    pub fn is_retriable(&self) -> bool {
        match self {
            Error::Conflict(_) => true,
            Error::NotCommitted(failures) => failures.iter().all(|failure| failure.reason == FailureReason::Conflict),
            Error::Rejected(why) => may_pass(why) || matches!(why, Rejection::Overloaded | Rejection::DeadlineExceeded),
            Error::Unreachable(_) => true,
            Error::ConditionFailed { .. } | Error::Unknown(_) | Error::Protocol(_) => false,
        }
    }
}

/// The first of the links that has a connection. Each has a head start before the next is tried as well: one that hangs costs no
/// more than that.
async fn first_of<'a>(
    links: &'a [Arc<Link>],
    connect_timeout: Duration,
) -> Result<(&'a Arc<Link>, Arc<Connection>), Vec<NoConnection>> {
    let mut rest = links.iter();
    let mut running = FuturesUnordered::new();
    let mut trouble = Vec::new();
    let dial = async |link: &'a Arc<Link>| (link, link.connection(connect_timeout, false).await);
    running.extend(rest.next().map(dial));
    loop {
        tokio::select! {
            Some((link, made)) = running.next() => match made {
                Ok(connection) => {
                    links.iter().filter(|other| !Arc::ptr_eq(other, link)).for_each(|other| other.avoid_while_dialled());
                    return Ok((link, connection));
                }
                Err(why) => {
                    trouble.push(why);
                    running.extend(rest.next().map(dial));
                }
            },
            () = tokio::time::sleep(HEAD_START), if rest.len() > 0 => running.extend(rest.next().map(dial)),
            else => return Err(trouble),
        }
    }
}

impl Client {
    /// Connects to the first of `addresses` (`host:port`) that answers, and learns the ring from it. They are tried one after the
    /// other, a little apart, and all again until the options' timeout: servers may just be starting. A cluster that has not
    /// formed yet has no ring: the client learns it later.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when none of them can be connected to, or they belong to several clusters and the options do not
    /// say which is meant. It says what each said.
    pub async fn connect(addresses: &[String], options: ClientOptions) -> Result<Client, Error> {
        if addresses.is_empty() {
            return Err(Error::Unreachable("no address was given".into()));
        }
        let routing = Mutex::new(Routing::new(addresses, options.cluster));
        let random = Mutex::new(transaction::entropy());
        let client = Client { shared: Arc::new(Shared { options, routing, random }) };
        let links: Vec<Arc<Link>> = addresses.iter().filter_map(|address| client.routing().link(address)).collect();
        let options = &client.shared.options;
        let deadline = Instant::now() + options.timeout.min(TIMEOUT_MAX);
        let mut pause = PAUSE_MIN;
        loop {
            match first_of(&links, options.connect_timeout).await {
                Ok((link, connection)) => {
                    client.routing().learn_node(connection.node, link);
                    client.learn_ring().await;
                    client.check_strangers(addresses).await?;
                    return Ok(client);
                }
                Err(trouble) => {
                    let wrong = trouble.iter().any(|why| matches!(why, NoConnection::Wrong(_)));
                    if wrong || Instant::now() + pause >= deadline {
                        let said: Vec<String> = trouble.into_iter().map(NoConnection::text).collect();
                        return Err(Error::Unreachable(said.join("; ")));
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The cluster that the client belongs to, once it is known.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.routing().cluster()
    }

    /// No option says which cluster is meant, and the first that answered need not be it. So an address that was given and is
    /// none of its members' must not belong to another cluster.
    async fn check_strangers(&self, addresses: &[String]) -> Result<(), Error> {
        if self.shared.options.cluster.is_some() {
            return Ok(());
        }
        let strangers = self.routing().strangers(addresses);
        let timeout = self.shared.options.connect_timeout.min(IDENTITY_TIMEOUT);
        let asked = strangers.iter().map(|link| link.connection(timeout, false));
        for answer in futures::future::join_all(asked).await {
            if let Err(NoConnection::Wrong(why)) = answer {
                let text = format!("{why}, of which another of these addresses is; say which cluster is meant");
                return Err(Error::Unreachable(text));
            }
        }
        Ok(())
    }

    /// For how long a call goes on trying unless it says otherwise.
    fn timeout(&self) -> Duration {
        self.shared.options.timeout
    }

    /// The ring as the node asked sees it now.
    pub async fn ring(&self) -> Result<RingReport, Error> {
        match self.call(RequestBody::Ring).await? {
            ResponseBody::Ring(report) => Ok(report),
            other => Err(out_of_place(&other)),
        }
    }

    /// The status of `node`; `None`: of any node that answers.
    pub async fn status(&self, node: Option<NodeId>) -> Result<StatusReport, Error> {
        let answer = match node {
            None => self.call(RequestBody::Status).await?,
            Some(node) => self.call_node(node, RequestBody::Status).await?,
        };
        match answer {
            ResponseBody::Status(report) => Ok(report),
            other => Err(out_of_place(&other)),
        }
    }

    /// The status of every node that the client knows of, asked at the same time, in order of node id.
    pub async fn statuses(&self) -> Vec<(NodeId, Result<StatusReport, Error>)> {
        let asked = self.known_nodes().await.into_iter().map(async |node| (node, self.status(Some(node)).await));
        futures::future::join_all(asked).await
    }

    /// What has rotted on the disk of every node that the client knows of, asked at the same time, in order of node id. `scrub`:
    /// each begins to look for more at once.
    pub async fn damage(&self, scrub: bool) -> Vec<(NodeId, Result<DamageReport, Error>)> {
        let report = |answer| match answer {
            ResponseBody::Damage(report) => Ok(report),
            other => Err(out_of_place(&other)),
        };
        let answers = self.ask_all(RequestBody::Damage(scrub)).await;
        answers.into_iter().map(|(node, answer)| (node, answer.and_then(report))).collect()
    }

    /// What every node answers that the client knows of, asked at the same time, in order of node id.
    async fn ask_all(&self, body: RequestBody) -> Vec<(NodeId, Result<ResponseBody, Error>)> {
        let asked = self.known_nodes().await.into_iter().map(async |node| (node, self.call_node(node, body.clone()).await));
        futures::future::join_all(asked).await
    }

    /// The members, once the cluster has formed.
    async fn known_nodes(&self) -> Vec<NodeId> {
        // Anew each time: nodes move.
        self.learn_ring().await;
        if !self.routing().knows_ring() {
            // No node says which others there are: only those that answer at the addresses that were given are known.
            let links: Vec<Arc<Link>> = self.routing().links().cloned().collect();
            let dialled =
                links.iter().map(async |link| (link, link.connection(self.shared.options.connect_timeout, false).await));
            for (link, made) in futures::future::join_all(dialled).await {
                if let Ok(connection) = made {
                    self.routing().learn_node(connection.node, link);
                }
            }
        }
        self.routing().nodes()
    }

    /// One request to `node` and no other, once.
    async fn call_node(&self, node: NodeId, body: RequestBody) -> Result<ResponseBody, Error> {
        if !self.routing().knows_ring() {
            // The cluster may have formed since the client connected.
            self.learn_ring().await;
        }
        let Some(link) = self.routing().node(node) else {
            return Err(Error::Unreachable(format!("no address of node {node} is known")));
        };
        let timeout = self.shared.options.timeout;
        let asked = self.ask(&link, &body, timeout, timeout).await;
        conclude(&body, asked.map_err(|no_answer| no_answer.into_error(&body))?)
    }

    /// One request, with the options' timeout: routed, retried and answered as described above. Gives what the node answered:
    /// never `ConditionFailed`, `NotCommitted`, `Rejected` or `Unknown`, which are errors.
    pub async fn call(&self, body: RequestBody) -> Result<ResponseBody, Error> {
        self.call_within(body, self.shared.options.timeout).await
    }

    /// [`Client::call`] with another timeout.
    pub async fn call_within(&self, body: RequestBody, timeout: Duration) -> Result<ResponseBody, Error> {
        self.call_counted(body, timeout, &mut 0).await
    }

    /// [`Client::call_within`]; counts the requests that may have been sent for it.
    async fn call_counted(&self, body: RequestBody, timeout: Duration, sent: &mut u32) -> Result<ResponseBody, Error> {
        // What the node would reject is not sent: it would cost time, and a request that is longer than a frame the connection of
        // all others.
        body.validate().map_err(Error::Rejected)?;
        if timeout.is_zero() {
            return Err(Error::Rejected(Rejection::DeadlineExceeded));
        }
        let deadline = Instant::now() + timeout.min(TIMEOUT_MAX);
        let mut tried: Vec<Arc<Link>> = Vec::new();
        let mut pause = PAUSE_MIN;
        // What was said by a node that is not the one at whose address it is; and whether all said such things since the last
        // pause.
        let (mut wrong, mut all_wrong) = (None, true);
        // An earlier try of a transaction with a token may have been done, or may yet be.
        let mut doubt: Option<Doubt> = None;
        loop {
            let link = self.routing().choose(&body, &tried);
            let remaining = deadline.saturating_duration_since(Instant::now());
            let patience = match applies(&body) {
                true if has_token(&body) => remaining.min(TOKEN_PATIENCE),
                true => remaining,
                false => remaining.min(READ_PATIENCE),
            };
            *sent += 1;
            let answer = self.ask(&link, &body, remaining, patience).await;
            if let Err(NoAnswer::Wrong(why)) = &answer {
                wrong = Some(why.clone());
            } else {
                all_wrong = false;
            }
            let moved = matches!(answer, Err(NoAnswer::NotTaken(_) | NoAnswer::Wrong(_)));
            let (trouble, mut again) = match answer {
                Ok(response) => match conclude(&body, response) {
                    Ok(answer) => return Ok(answer),
                    Err(trouble) => (trouble.clone(), matches!(trouble, Error::Rejected(why) if may_pass(&why))),
                },
                Err(NoAnswer::Full) => (Error::Rejected(Rejection::Overloaded), false),
                Err(no_answer @ (NoAnswer::Lost(_) | NoAnswer::TimedOut)) if applies(&body) => {
                    (no_answer.into_error(&body), false)
                }
                Err(no_answer) => (no_answer.into_error(&body), true),
            };
            if has_token(&body) {
                if let Error::Unknown(why) = &trouble {
                    doubt.get_or_insert_with(|| why.clone());
                }
                again |= doubt.is_some() && !transaction::settles(&trouble);
            }
            // Every node is tried once before there is a pause: one of them is likely to know better.
            let round_is_over = tried.iter().any(|other| Arc::ptr_eq(other, &link)) || self.routing().all_tried(&tried, &link);
            if !again || Instant::now() + pause >= deadline || (round_is_over && all_wrong) {
                return Err(match (doubt, trouble) {
                    (Some(doubt), trouble) if !transaction::settles(&trouble) => Error::Unknown(doubt),
                    // The last node that was asked was away: what matters more is which were not.
                    (_, Error::Unreachable(why)) => Error::Unreachable(wrong.unwrap_or(why)),
                    (_, trouble) => trouble,
                });
            }
            if moved && self.routing().ring_is_due() {
                self.learn_ring().await;
            }
            if round_is_over {
                all_wrong = true;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                tried.clear();
                if !self.routing().knows_ring() {
                    self.learn_ring().await;
                }
            } else {
                tried.push(link);
            }
        }
    }

    /// One request to one node. `remaining`: for how long the cluster may go on trying; `patience`: for how long we wait.
    async fn ask(
        &self,
        link: &Arc<Link>,
        body: &RequestBody,
        remaining: Duration,
        patience: Duration,
    ) -> Result<Response, NoAnswer> {
        let connect_timeout = self.shared.options.connect_timeout.min(remaining);
        let connection = link.connection(connect_timeout, !is_report(body)).await?;
        let response = connection.ask(body.clone(), remaining, patience + ANSWER_GRACE).await?;
        let mut routing = self.routing();
        routing.learn_node(connection.node, link);
        if response.leader.is_some() {
            routing.learn_leader(body, response.leader);
        }
        if let ResponseBody::Ring(report) = &response.body {
            routing.learn_ring(report);
        }
        Ok(response)
    }

    /// Asks for the ring, the best node first, until one answers. Nothing is lost if none does: requests are forwarded.
    async fn learn_ring(&self) {
        let connect_timeout = self.shared.options.connect_timeout;
        let mut tried = Vec::new();
        loop {
            let link = self.routing().choose(&RequestBody::Ring, &tried);
            match self.ask(&link, &RequestBody::Ring, connect_timeout, connect_timeout).await {
                Ok(_) => return,
                Err(why) => tracing::debug!(?why, "the ring is not known yet"),
            }
            if self.routing().all_tried(&tried, &link) {
                return;
            }
            tried.push(link);
        }
    }

    fn routing(&self) -> MutexGuard<'_, Routing> {
        self.shared.routing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells answers from errors.
fn conclude(body: &RequestBody, response: Response) -> Result<ResponseBody, Error> {
    match response.body {
        ResponseBody::NotCommitted(failures) => Err(Error::NotCommitted(transaction::name_items(body, failures))),
        ResponseBody::ConditionFailed { version, present } => Err(Error::ConditionFailed { version, present }),
        ResponseBody::Rejected(why) => Err(Error::Rejected(why)),
        ResponseBody::Unknown(why) => Err(Error::Unknown(why)),
        body => Ok(body),
    }
}

/// Whether the request may change something: then it is sent once at most.
fn applies(body: &RequestBody) -> bool {
    match body {
        RequestBody::Operation(single) => single.is_write(),
        RequestBody::Transact(_) => true,
        _ => false,
    }
}

/// Whether the request asks how the node is. All others are for nodes of the cluster that the client belongs to, and none that
/// may form another.
fn is_report(body: &RequestBody) -> bool {
    matches!(body, RequestBody::Ring | RequestBody::Status | RequestBody::Transactions | RequestBody::Damage(_))
}

/// Whether the request may be sent again whatever became of it.
fn has_token(body: &RequestBody) -> bool {
    matches!(body, RequestBody::Transact(transaction) if transaction.token.is_some())
}

/// Whether another node, or the same node a little later, may do what this one rejected.
fn may_pass(why: &Rejection) -> bool {
    matches!(why, Rejection::NoLeader | Rejection::NotReady | Rejection::Stopping)
}

fn out_of_place(body: &ResponseBody) -> Error {
    Error::Protocol(format!("the node's answer does not fit the request: {body:?}"))
}
