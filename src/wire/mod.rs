//! What goes over a connection, and how: for the server and the client alike, which know nothing of each other.
//!
//! `frame.rs`: how a message lies in a stream of bytes, and what is wrong with one. `handshake.rs`: which node speaks, to which
//! cluster and node, before anything else; and why a connection is closed. `reader.rs`: frames out of a socket, within a memory.
//! `outgoing.rs`: what waits to be written to a socket, bounded.

pub mod frame;
pub mod handshake;
pub mod outgoing;
pub mod reader;
