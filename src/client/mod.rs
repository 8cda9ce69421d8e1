//! The Rust client: connects to any node, learns the ring, and sends each request to the leader it believes in.
//!
//! One connection is kept per node, made when it is first needed, and shared by all requests (answers carry their request's id and
//! may come in any order). Who leads a key's partition is taken from the ring's report and from the hint in every answer. A wrong
//! belief costs one hop: the node that was asked forwards the request itself.
//!
//! **What is retried.** What was *certainly not applied* for a reason that another node or another moment may mend (`NoLeader`,
//! `NotReady`, `Stopping`, a connection that could not be made) is sent again, elsewhere, until the deadline. What *may have been
//! applied* never is: a write in flight when its connection drops comes back as [`Error::Unknown`]. Reads apply nothing, so
//! they are sent again.

use crate::base::{Duration, NodeId, Version};
use crate::msg::client::{
    Acknowledge, Condition, Consistency, Doubt, Rejection, RequestBody, ResponseBody, RingReport, Scan, Scanned, StatusReport,
};
use bytes::Bytes;
use core::fmt;

/// A handle to the cluster. Cheap to clone; clones share connections. Must be used inside a tokio runtime.
#[derive(Debug, Clone)]
pub struct Client {}

#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// For how long one call goes on trying, retries included. Cut to [`crate::base::limits::TIMEOUT_MAX`].
    pub timeout: Duration,
    /// For how long one attempt to connect to one address may take.
    pub connect_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions { timeout: Duration::from_secs(5), connect_timeout: Duration::from_secs(1) }
    }
}

/// What a get found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// `None`: the item is absent.
    pub value: Option<Bytes>,
    /// The item's, or its tombstone's; 0 if it was never written.
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
    /// Certainly not applied.
    Rejected(Rejection),
    /// May have been applied.
    Unknown(Doubt),
    /// No node could be reached, so nothing was sent. Says which were tried and what they said.
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
            Error::Rejected(why) => write!(f, "rejected: {why}"),
            Error::Unknown(why) => write!(f, "unknown: {why}"),
            Error::Unreachable(why) => write!(f, "no node could be reached: {why}"),
            Error::Protocol(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for Error {}

impl Client {
    /// Connects to the first of `addresses` (`host:port`) that answers, and learns the ring from it.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when none answers within the timeout.
    pub async fn connect(_addresses: &[String], _options: ClientOptions) -> Result<Client, Error> {
        Err(Error::Unreachable("not connected".into()))
    }

    pub async fn get(&self, _key: impl Into<Bytes>, _consistency: Consistency) -> Result<Got, Error> {
        Err(Error::Unreachable("not connected".into()))
    }

    pub async fn put(
        &self,
        _key: impl Into<Bytes>,
        _value: impl Into<Bytes>,
        _condition: Condition,
        _acknowledge: Acknowledge,
    ) -> Result<Written, Error> {
        Err(Error::Unreachable("not connected".into()))
    }

    pub async fn delete(
        &self,
        _key: impl Into<Bytes>,
        _condition: Condition,
        _acknowledge: Acknowledge,
    ) -> Result<Written, Error> {
        Err(Error::Unreachable("not connected".into()))
    }

    pub async fn increment(&self, _key: impl Into<Bytes>, _by: i64, _acknowledge: Acknowledge) -> Result<Written, Error> {
        Err(Error::Unreachable("not connected".into()))
    }

    pub async fn scan(&self, _scan: Scan) -> Result<Scanned, Error> {
        Err(Error::Unreachable("not connected".into()))
    }

    /// The ring as the node asked sees it now.
    pub async fn ring(&self) -> Result<RingReport, Error> {
        Err(Error::Unreachable("not connected".into()))
    }

    /// The status of `node`; `None`: of any node that answers.
    pub async fn status(&self, _node: Option<NodeId>) -> Result<StatusReport, Error> {
        Err(Error::Unreachable("not connected".into()))
    }

    /// The status of every node that the client knows of, asked at the same time, in order of node id.
    pub async fn statuses(&self) -> Vec<(NodeId, Result<StatusReport, Error>)> {
        Vec::new()
    }

    /// One request, with the options' timeout: routed, retried and answered as described above. Gives what the node answered:
    /// never `ConditionFailed`, `Rejected` or `Unknown`, which are errors.
    pub async fn call(&self, _body: RequestBody) -> Result<ResponseBody, Error> {
        Err(Error::Unreachable("not connected".into()))
    }

    /// [`Client::call`] with another timeout.
    pub async fn call_within(&self, _body: RequestBody, _timeout: Duration) -> Result<ResponseBody, Error> {
        Err(Error::Unreachable("not connected".into()))
    }
}
