//! The production driver: a [`Node`](crate::node::Node) over TCP and real files.

pub mod config;
mod error;
mod settings;

pub use error::StartError;
pub use settings::ServerSettings;

use crate::node::Fatal;
use std::net::SocketAddr;

/// A running node: its thread, its log's threads and its sockets.
#[derive(Debug)]
pub struct Server {}

/// Stops a [`Server`] from elsewhere. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stopper {}

impl Stopper {
    /// Asks for a clean stop: leaderships are handed away, answers are sent. [`Server::join`] returns when it is done, or when
    /// the settings' `stop_timeout` has passed. A second call changes nothing.
    pub fn stop(&self) {}
}

impl Server {
    /// Takes the directory, recovers the log, listens, and runs.
    pub fn start(_settings: ServerSettings) -> Result<Server, StartError> {
        Err(StartError::Peers("not implemented yet".into()))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    pub fn stopper(&self) -> Stopper {
        Stopper {}
    }

    /// [`Stopper::stop`].
    pub fn stop(&self) {}

    /// Waits for the end: of a stop (`Ok`), or of a node that could not go on (its disk failed).
    pub fn join(self) -> Result<(), Fatal> {
        Ok(())
    }
}

/// Why [`run`] ended badly.
#[derive(Debug)]
pub enum RunError {
    Start(StartError),
    /// The node could not go on.
    Halted(Fatal),
}

impl core::fmt::Display for RunError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RunError::Start(why) => write!(f, "{why}"),
            RunError::Halted(Fatal(why)) => write!(f, "the node halted: {why}"),
        }
    }
}

impl std::error::Error for RunError {}

/// Runs one server until SIGINT or SIGTERM (a clean stop) or until it fails. Blocks. `started` is called once it listens.
pub fn run(settings: ServerSettings, started: impl FnOnce(SocketAddr)) -> Result<(), RunError> {
    let server = Server::start(settings).map_err(RunError::Start)?;
    started(server.address());
    server.join().map_err(RunError::Halted)
}
