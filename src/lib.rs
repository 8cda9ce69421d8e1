//! Ringseed: a replicated key-value store on a consistent-hash ring, and the same code under a simulator that tries to break it.
//!
//! Every node is a set of **actors**: state machines that never touch a socket, a file, a clock or an entropy source. What
//! happens to a node is an [`Event`](node::Event), what it wants done an [`Effect`](node::Effect). In production [`server`] turns
//! sockets, files and clocks into events; under test the simulator (crate `ringseed-sim`) does, and injects crashes, partitions
//! and disk faults. Both drive the same [`Node`](node::Node).
//!
//! # Words
//!
//! Twenty-six words that the rest is written in. Each means the same thing everywhere.
//!
//! | word | meaning |
//! |---|---|
//! | node | One server process with one data directory and one log; a *member* is a node that the cluster's formation names. |
//! | epoch | The time between a node's boot and its end, known by a number that grows with every boot. |
//! | directory | A node's data directory, whose id the formation binds to the node id. |
//! | token | The hash of a partition key: its place on the ring; an *idempotency token* is a client's name for one transaction. |
//! | partition | An equal part of the ring, with all keys whose tokens fall into it. |
//! | group | The replicas of one partition, which share one replicated log. |
//! | replica | One node's part in a group: consensus, the group's log, and the state that the log has come to. |
//! | voter | A node whose votes and copies count, by the group's *configuration*; a *quorum* is a majority of the voters. |
//! | term | The number of an election, and of the time until the next; a term has at most one *leader*, which alone evaluates. |
//! | index | The position of an entry in its group's log, from 1; the *commit index* is the highest known to be committed. |
//! | entry | One step of a group's log (index, term, fact); once *committed*, no later leader can lack it. |
//! | fact | The outcome that an entry holds, which every replica applies without looking. |
//! | hard state | Term, vote and commit index of a replica: what it must not forget. |
//! | record | What a node's own log is made of: entries of all its groups, hard states, epochs, formation, marks. |
//! | batch | The records that are written and checked as a whole; batches stand in *segments*, the files of the log. |
//! | witness | A file beside the segments that says how far the log was durable. |
//! | gate | The place where a message waits until what it rests on is durable. |
//! | promise | The name of one unbroken span in which a node *supports* a peer: it will not help to replace it. |
//! | acceptance | A follower's note that it follows this leader, in this term, under this promise. |
//! | lease | The time in which a leader, accepted by a quorum under promises that hold, serves reads without asking. |
//! | item | A key's value with its *version*: the index of the entry that wrote it. |
//! | call | One task of a gateway on its way to a leader, in a *forward* if that is a peer, by a *detour* if the link is cut. |
//! | waiter | An operation in the *queue* of its key, until the value or the lock that it needs is there. |
//! | home | The group whose leader, as *coordinator*, decides a transaction; other groups that take part are *participants*. |
//! | amnesiac | A replica that may have forgotten what it acknowledged, or a vote, since its node's log was damaged: nothing that it says counts. |
//! | floor | The attempt of a home up to which all are over, but for those that are named. |
//!
//! # Where to find what
//!
//! | question | look in |
//! |---|---|
//! | how it all works together, and what could go wrong | `src/DESIGN.md` |
//! | what clients and peers say, and what is in the log | [`msg`] |
//! | what an actor is, what it may see | [`actor`] |
//! | limits of everything | [`base::limits`] |
//! | what a key is, its order, its token, how it is written as text | [`base::key`] |
//! | which nodes are alive, which support which, for how long | [`liveness`] |
//! | how a cluster forms, which nodes are let in, which holds which key | [`ring`] |
//! | elections, replication, leases, reads without a round trip | [`replica`] |
//! | which replicas vote, what a quorum is | [`replica::quorum`], [`msg::configuration`] |
//! | what a group's log has come to, and whether replicas agree on it | [`state`] |
//! | what a write comes to, what an answer waits for | [`store`] |
//! | how a request finds its leader, what is retried | [`gateway`] |
//! | what is on the disk, what recovery does, what damage is | [`wal`] and `src/wal/FORMAT.md` |
//! | how a log is checked, past what is bad in it | [`wal::walk`], `src/cli/wal.rs` |
//! | how a node starts from a damaged log, and is made whole | `src/wal/salvage.rs`, [`replica`] ("Amnesia") |
//! | how room comes back, and from which segments | `src/node/compaction.rs`, `src/wal/segments.rs`, [`state::Live`] |
//! | how a member that was away for long gets what no log holds any more | `src/node/snapshots.rs` |
//! | what happens to a value that has rotted, and how rot is looked for | `src/node/repairs.rs`, `scrub.rs` |
//! | what a message waits for before it leaves | [`node::gate`] |
//! | how a message gets past a link that is cut | `src/node/relay.rs` |
//! | how a node knows leaders of what it has no replica of | `src/node/leaderships.rs` |
//! | what overtakes what between nodes, and what waits for what | [`msg::peer::Lane`], `src/server/peers.rs`, `inbox.rs` |
//! | how much is on its way to a peer, and held in memory | `src/node/flow.rs` |
//! | which groups campaign at a time, how long a sync takes | `src/node/campaigns.rs`, `syncs.rs` |
//! | which actor's output is which actor's input | `src/node/router.rs` |
//! | frames, the handshake, what waits to be written | [`wire`] |
//! | threads, sockets, files | [`server`] |
//! | what the log tells an operator, and from what | `src/server/notices.rs`, [`node::health`] |
//! | commands, settings, transactions as text | [`cli`] |
//! | what clients asked and were told, for checkers | [`history`] |
//! | the Rust client | [`client`] |
//! | how a transaction is decided, and finished when nodes die | [`txn`] |
//! | locks, what a participant does | `src/store/participant.rs`, `queues.rs`, `src/state/locks.rs` |
//! | idempotency tokens, and when they end | `src/state/tokens.rs` |
//! | several items at one instant | `src/gateway/many.rs` |
//! | which rare states a run should reach some time | [`base::sometimes`] |
//! | a story of a few nodes, message by message | `tests/scripts.rs`, `tests/scripts/*.txt` |
//! | faults, plans, checkers, planted bugs | `sim/` |
//!
//! # Invariants of the architecture
//!
//! Much of it is about what is deliberately *absent*; `tests/tidy.rs` holds what a machine can hold.
//!
//! 1. Imports run one way:
//!    `base <- msg <- state <- actor <- {wal, liveness, ring, replica, store, txn, gateway} <- node <- {server, sim}`. Siblings
//!    do not import each other: what they share is a message, or a view in [`actor`].
//! 2. Outside [`server`], [`cli`], [`client`] and [`wire`] there is no I/O, no clock, no entropy, no thread, no map of random
//!    order. `cargo check --no-default-features` builds all of it without them.
//! 3. One function says what a message waits for ([`node::gate::waits_for`]). Nothing else decides that.
//! 4. Only the leader evaluates, and what is logged are facts ([`msg::log::Fact`]). Followers apply blindly.
//! 5. How many steps go into a flush never changes what is correct. The simulator draws the number.
//! 6. Bytes of a peer, a client or a disk give errors, never panics; what they make us allocate is bounded in [`base::limits`].
//!    An invariant of our own that breaks stops the node, in release too.
//! 7. A client is told *done*, *rejected* (certainly not applied) or *unknown* (may have been applied), and nothing in between.
//! 8. A failed write or sync ends the node. Nothing is retried on a disk that has lied once.

// The docs are for whoever works on the project, too: they name what is private.
#![allow(rustdoc::private_intra_doc_links)]

pub mod actor;
pub mod base;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
pub mod gateway;
pub mod history;
pub mod liveness;
pub mod msg;
pub mod node;
pub mod replica;
pub mod ring;
#[cfg(feature = "server")]
pub mod server;
pub mod state;
pub mod store;
pub mod txn;
pub mod wal;
#[cfg(feature = "client")]
pub mod wire;

/// The programs in the README compile.
#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("../README.md")]
struct Readme;
