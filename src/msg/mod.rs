//! Every type that crosses a wire or a disk, its codec and its limits.
//!
//! - [`operation`]: what is read and written under one key, alone or in a transaction.
//! - [`client`]: what a client asks and is told.
//! - [`peer`]: what nodes say to each other.
//! - [`log`]: what a group's log holds: entries, and the facts in them.
//! - [`repair`]: a value, from a member to one whose own copy has rotted.
//! - [`snapshot`]: a group's state, from its leader to a member that lacks what no log holds any more.
//! - [`transaction`]: transactions, to clients, between nodes and in the log.
//! - [`disk`]: what the log asks of the disk.
//! - [`cluster`]: which nodes are members, and what was fixed when the cluster formed.
//! - [`codec`]: CBOR with numbered fields; payloads are shared with the frame they came in, never copied.

pub mod client;
pub mod cluster;
pub mod codec;
pub mod configuration;
pub mod disk;
pub mod log;
pub mod operation;
pub mod peer;
pub mod repair;
pub mod snapshot;
pub mod transaction;
