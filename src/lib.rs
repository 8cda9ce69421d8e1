//! Ringseed: a replicated key-value store on a consistent-hash ring.

pub mod actor;
pub mod base;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod client;
pub mod msg;
pub mod node;
#[cfg(feature = "server")]
pub mod server;
pub mod wal;
