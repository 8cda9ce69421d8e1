//! Every limit that is not a setting, in one place. What a limit answers when it is reached stands beside it.
//!
//! A limit that is made of others must leave them room: `tests/limits.rs` encodes the largest legal message of every kind, and
//! finds that it fits into a frame and is decoded again.

use core::time::Duration;

/// The longest key, in bytes. Longer: rejected, `KeyTooLong`.
pub const KEY_SIZE_MAX: usize = 2 * 1024;
/// The longest value, in bytes. Longer: rejected, `ValueTooLong`.
pub const VALUE_SIZE_MAX: usize = 400 * 1024;
/// The longest frame from a peer or a client, or to one, in bytes. Longer: the connection is closed with an error. Nothing legal
/// is: see above.
pub const FRAME_SIZE_MAX: usize = 8 * 1024 * 1024;
/// The most items in one page of a scan. More were asked for: the page holds this many and says where to go on.
pub const SCAN_ITEMS_MAX: usize = 1_000;
/// The most operations of a transaction, and items of one read. More: rejected, `Invalid`.
pub const TRANSACTION_ITEMS_MAX: usize = 100;
/// The most bytes of keys and values of a transaction, and of what one read of several items answers. More: rejected, `Invalid`
/// or `TooLarge`.
pub const TRANSACTION_SIZE_MAX: usize = 4 * 1024 * 1024;
/// The longest idempotency token, in bytes. Longer: rejected, `Invalid`.
pub const TOKEN_SIZE_MAX: usize = 64;
/// For how long a token answers the same, at least.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
/// The largest epoch, term, index or position in a log that is believed, so that counting on from it never overflows. A message
/// with a larger one is dropped; nothing larger is ever logged.
pub const COUNTER_MAX: u64 = 1 << 62;
/// The longest address of a node, in bytes. A greeting or a formation with a longer one is not taken.
pub const ADDRESS_SIZE_MAX: usize = 512;
/// Leaderships told to a peer with one heartbeat, for partitions that the peer has no replica of. The rest is told with the next
/// heartbeats, in turn.
pub const LEADERSHIPS_TOLD_MAX: usize = 128;
/// The longest name of a zone, in bytes. A greeting or a formation with a longer one is not taken.
pub const ZONE_SIZE_MAX: usize = 512;
/// What a clock may show at most, in milliseconds since 1970: the year 3000. Later: not believed, whichever node says it.
pub const CLOCK_MS_MAX: u64 = 32_503_680_000_000;
/// The most nodes that one item is on. A setting above it: the server does not start. Larger would be a ring whose report is
/// longer than a frame.
pub const REPLICATION_FACTOR_MAX: u8 = 32;
/// The most transactions in flight that a node reports. There are more: the oldest, and how many others there are.
pub const TRANSACTIONS_REPORTED_MAX: usize = 4 * 1024;
/// The most values that a node reports as lost. There are more: those whose keys come first are left out.
pub const LOST_REPORTED_MAX: usize = 1_024;
/// The most members of a cluster.
pub const NODES_MAX: usize = 100;
/// Over how many links a message is passed on at most. A node further away is not reached.
pub const RELAY_LINKS_MAX: u8 = 4;
/// The largest weight of a node. A greeting with a larger one is refused.
pub const WEIGHT_MAX: u16 = 1_000;
/// The most partitions of a cluster; a power of two.
pub const PARTITIONS_MAX: u32 = 1 << 16;
/// The longest a client may ask the cluster to go on trying. A longer timeout is cut to this.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Requests of one connection in progress. At the limit: the connection is not read from until one is answered.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 1_024;
/// Attempts that a prepare names as open although they lie below its floor. More: the floor is lower.
pub const OPEN_NAMED_MAX: usize = 256;
/// Forwarded requests that a leader remembers for each gateway, by sequence. Older than the window: refused.
pub const FORWARD_WINDOW: u64 = 64 * 1024;

/// What is deleted keeps the version of its deletion for at least so many entries of its group. The
/// [delete floor](crate::state::State::delete_floor) is a multiple of it. All nodes, and all releases, must have the same.
pub const DELETED_KEPT: u64 = 512;

/// Entries in one append message that a follower takes.
pub const APPEND_ENTRIES_MAX: usize = 1_024;
/// The most messages in one envelope. Beyond: a decoding error.
pub const ENVELOPE_MESSAGES_MAX: usize = 64 * 1024;

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = $value:expr,)*) => {
        /// What one node bears before it refuses, waits or goes to the disk. Nothing here must be the same on two nodes, nor the
        /// same after a restart. A server runs with [`Limits::DEFAULT`]; the simulator draws smaller ones, so that each is
        /// reached. However small a limit is, one of what it counts gets through, if nothing else is said.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits { $($(#[$doc])* pub $name: usize,)* }

        impl Limits {
            pub const DEFAULT: Limits = Limits { $($name: $value,)* };

            /// Each limit's name, and the limit.
            pub fn all(&mut self) -> Vec<(&'static str, &mut usize)> {
                vec![$((stringify!($name), &mut self.$name),)*]
            }
        }
    };
}

limits! {
    /// Requests of clients in progress at one node. At the limit: rejected, `Overloaded`.
    requests_in_progress = 16 * 1024,
    /// Bytes of keys and values in client requests in progress at one node. At the limit: rejected, `Overloaded`.
    request_bytes_in_progress = 256 * 1024 * 1024,
    /// Operations waiting for a value to be read, in one group. At the limit: rejected, `Overloaded`.
    parked_per_group = 4 * 1024,
    /// Transactions in progress at one home, decided ones that not all participants know of included. At the limit: rejected,
    /// `Overloaded`.
    transactions_per_home = 4 * 1024,
    /// Transactions prepared in one group and not resolved. At the limit: no vote, `Overloaded`.
    prepared_per_group = 4 * 1024,
    /// Outcomes of transactions that one group remembers as a participant. At the limit: no vote, `Overloaded`, but for prepares
    /// that say that more is over.
    resolved_per_group = 64 * 1024,
    /// Tokens that one group remembers. At the limit, a transaction with a new one is rejected, `TooManyTokens`; none is
    /// forgotten before its time, and transactions without a token go on.
    tokens_per_group = 16 * 1024,
    /// Bytes that the tokens of one group take in memory, with their answers. At the limit: as above.
    token_bytes_per_group = 8 * 1024 * 1024,
    /// The same of all groups of a node. At the limit: as above, for all groups that it leads.
    token_bytes_per_node = 128 * 1024 * 1024,
    /// Transactions, and tokens, in one entry that says that they are over. More: in the next.
    ended_per_entry = 1_024,
    /// Entries of one group that are proposed and not committed. At the limit: rejected, `Overloaded`. At least 4: a transaction
    /// that is turned away elsewhere leaves its abort here, and is asked for again.
    uncommitted_entries = 16 * 1024,
    /// Bytes of one group that are proposed and not committed. At the limit: rejected, `Overloaded`.
    uncommitted_bytes = 64 * 1024 * 1024,
    /// Bytes of a leaf, a page of the index of a group's keys, unless fewer than four keys fit into it.
    leaf_bytes = 8 * 1024,
    /// Bytes of log after which a checkpoint is begun, unless the index of the node's keys is larger: then as many as that has.
    checkpoint_bytes = 128 * 1024 * 1024,
    /// Bytes of a checkpoint that are written for each hundred bytes of other records.
    checkpoint_percent = 200,
    /// Of the segments before the start of a replay, how much may be garbage, in percent. Beyond: a checkpoint empties some.
    garbage_percent = 33,
    /// Bytes of a segment that are read at a time to empty it, unless one record is larger.
    sweep_block_bytes = 256 * 1024,
    /// Bytes of the log that are kept for members that lag, of whole segments. A member that lacks more is sent the group's state.
    retained_bytes = 256 * 1024 * 1024,
    /// Values that have rotted and are fetched from other members at a time, and questions of members that are answered at a time.
    /// At the limit: a read that finds rot is rejected, `Overloaded`; a question is dropped, and asked again.
    repairs = 64,
    /// Bytes of one piece of a group's state on its way to a member; one item or prepared transaction may be larger.
    snapshot_piece_bytes = 256 * 1024,
    /// Entries in one append message; at most [`APPEND_ENTRIES_MAX`].
    append_entries = APPEND_ENTRIES_MAX,
    /// Bytes of entries in one append message (one entry may be larger). Small: what comes behind one waits for it.
    append_bytes = 256 * 1024,
    /// Append messages to one follower of one group that wait for an acknowledgement. At the limit: the follower waits.
    appends_in_flight = 64,
    /// Bytes of appends to one follower of one group that wait for an acknowledgement. At the limit: the follower waits.
    append_bytes_in_flight = 4 * 1024 * 1024,
    /// Bytes of appends to one peer, of all groups, that wait for an acknowledgement or for the disk to be read. At the limit:
    /// groups wait for their turn.
    peer_bytes_in_flight = 16 * 1024 * 1024,
    /// Of these, bytes of entries that are read back from the log for a peer that lags. At the limit: groups wait for their turn.
    peer_catch_up_bytes = 2 * 1024 * 1024,
    /// Bytes of recent entries that one group keeps in memory for followers that lag a little. Beyond: read back from the log.
    recent_entry_bytes = 4 * 1024 * 1024,
    /// Bytes of entries in memory at one node, of all groups, beyond which none is kept for followers that lag: read back from
    /// the log.
    node_recent_bytes = 64 * 1024 * 1024,
    /// Bytes of entries in memory at one node, of all groups: not yet applied, or recent. At the limit: client writes are
    /// rejected, `Overloaded`.
    node_entry_bytes = 256 * 1024 * 1024,
    /// Scans in progress at one gateway. At the limit: rejected, `Overloaded`.
    scans_in_progress = 32,
    /// Reads of several items at once in progress at one gateway. At the limit: rejected, `Overloaded`.
    gets_of_many_in_progress = 1_024,
    /// Bytes of values that reads of several items over several groups hold at one gateway. At the limit: they wait, in order.
    gets_of_many_bytes = 64 * 1024 * 1024,
    /// Reads and checks in progress in one group. At the limit: rejected, `Overloaded`.
    reads_per_group = 16 * 1024,
    /// Messages that wait for the log at one node, votes apart, of which there is one for each group and peer. At the limit:
    /// dropped, as the network may drop any, and counted.
    gated_messages = 64 * 1024,
    /// Groups of one node that campaign at the same time. At the limit: the next waits for its turn.
    campaigns = 256,
    /// The most bytes of records in one batch of the log (one record may be larger). Beyond: the next batch.
    batch_bytes = 4 * 1024 * 1024,
    /// Bytes in the log's queue that are not yet durable. At the limit: client writes are rejected, `Overloaded`. At least
    /// [`TRANSACTION_SIZE_MAX`]: a transaction's parts may all be one node's.
    log_queue_bytes = 128 * 1024 * 1024,
    /// Bytes of values that coordinators at one node hold: read by transactions that are not decided yet. At the limit: the
    /// transaction is rejected, `Overloaded`. At least [`TRANSACTION_SIZE_MAX`]: values come vote by vote.
    voted_bytes_per_node = 64 * 1024 * 1024,
    /// Bytes of values that are being read, at one node, for answers that are not made yet and for writes that need them. Counted
    /// where they are asked for, by the lengths in the index. At the limit: rejected, `Overloaded`; a gateway asks again for a
    /// part of what it gathers. At least [`TRANSACTION_SIZE_MAX`] and [`Limits::scan_bytes`].
    read_bytes_in_progress = 64 * 1024 * 1024,
    /// Reads of values and entries that wait for the disk, at one node. At the limit: rejected, `Overloaded`. At least
    /// [`SCAN_ITEMS_MAX`]: a page's values are asked for together.
    reads_in_progress = 16 * 1024,
    /// The most items, deleted ones included, that one partition looks at for one part of a page. At the limit: the part says
    /// where to go on, even if it holds nothing.
    scan_visits = 4_096,
    /// The most bytes of keys and values in one page of a scan, over all partitions. A page always holds one item.
    scan_bytes = 1024 * 1024,
    /// How long a home waits from one tick of its tokens' time to the next, in milliseconds. A token is kept for twenty:
    /// [`TOKEN_LIFETIME`].
    token_tick_ms = 30_000,
    /// For how long no heartbeat of a node comes before an old copy of its directory may take its place, in milliseconds. Longer
    /// than a node takes to start: a copy that is left running somewhere must not start over while its node restarts.
    original_silent_ms = 30_000,
}

impl Limits {
    /// [`Limits::token_tick_ms`].
    pub fn token_tick(&self) -> Duration {
        Duration::from_millis(self.token_tick_ms as u64)
    }

    /// [`Limits::original_silent_ms`].
    pub fn original_silent(&self) -> Duration {
        Duration::from_millis(self.original_silent_ms as u64)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}
