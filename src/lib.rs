//! Ringseed: a replicated key-value store on a consistent-hash ring.

pub mod actor;
pub mod base;
pub mod msg;
pub mod node;
pub mod wal;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod client;
