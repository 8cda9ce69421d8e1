//! Ringseed: a replicated key-value store on a consistent-hash ring.

pub mod actor;
pub mod base;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod client;
pub mod gateway;
pub mod liveness;
pub mod msg;
pub mod node;
pub mod replica;
pub mod ring;
#[cfg(feature = "server")]
pub mod server;
pub mod store;
pub mod txn;
pub mod wal;
