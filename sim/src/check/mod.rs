//! The checkers: each judges one promise from what clients saw or from what the replicas hold, and trusts nothing else.
//!
//! - [`linear`]: operations on one key are linearizable (P1), by versions and, apart from them, by values alone.
//! - [`serializable`]: transactions and all else have an order, in which real time is respected (P2), by versions and by the
//!   lengths of [`lists`].
//! - [`bank`]: transfers conserve the sum (P2). [`tokens`]: requests of one token are one.
//! - [`scan`]: a page of a scan is atomic in each group (P2).
//! - [`durability`]: what was acknowledged is held at the end (P3).
//! - [`leaders`]: one leader a term, one lease at an instant (P1).
//! - [`prefix`]: what is committed stays, and every leader has it (P3).
//! - [`corruption`]: no value fails its checksum where no read failed (P4).
//! - [`recovery`]: what a node held it has after a restart, and its values pass their checksums (P3, P4).
//! - [`lost`]: no participant has lost its part of a commit (P2, P3).
//! - [`reports`]: what a node says of itself is so (P6).
//! - [`agreement`]: logs match; replicas hold the same at the end (P3).
//!
//! Two kinds of checker: those over a whole history ([`check_history`]), and those that are fed while the run goes on, by
//! `observe`, and complain at once. A checker that cannot decide within its bound says so; it never passes what it has not
//! judged.

pub mod agreement;
pub mod bank;
mod calls;
pub mod checkpoint;
#[cfg(test)]
mod compare;
pub mod corruption;
pub mod durability;
#[cfg(test)]
mod known;
pub mod leaders;
pub mod linear;
pub mod lists;
pub mod lost;
#[cfg(test)]
mod orders;
#[cfg(test)]
mod orders_unknown;
pub mod prefix;
pub mod recovery;
pub(crate) mod render;
pub mod reports;
pub mod rot;
pub mod scan;
mod search;
pub mod serializable;
mod several;
pub mod tokens;
mod versioned;

use ringseed::base::Key;
use ringseed::base::limits::DELETED_KEPT;
use ringseed::history::Record;
use std::fmt;

/// A broken promise, and how it was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// "P1" to "P8", as in the README.
    pub promise: &'static str,
    pub checker: &'static str,
    /// For people: what conflicts with what, operations in order of time.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken, says the checker `{}`: {}", self.promise, self.checker, self.what)
    }
}

impl std::error::Error for Violation {}

/// What held before the history began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// Nothing was ever written.
    Empty,
    /// Anything.
    Anything,
}

/// How to judge a history.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub initial: Initial,
    /// Partitions of the cluster, a power of two. `None`: scans are judged item by item, not for atomicity.
    pub partitions: Option<u32>,
    /// Whether to also judge by values alone, so that the versions themselves are not trusted.
    pub values: bool,
    /// Bounds the search for one key, in steps; a step takes well under a microsecond times the operations in progress at once.
    pub steps_max: u64,
    /// Keys that begin so hold lists that only grow; see [`lists`].
    pub list_prefix: Option<&'static [u8]>,
    /// The accounts of a bank that holds nothing in total, by number; see [`account`].
    pub accounts: u32,
    /// For so many nanoseconds a token is kept, at least; `None`: longer than the history.
    pub token_lifetime: Option<u64>,
    /// See [`DELETED_KEPT`].
    pub deleted_kept: u64,
}

impl Options {
    /// Whether absence may have this version though nothing was deleted at it: deletions up to it may be forgotten.
    fn may_be_floor(&self, version: u64) -> bool {
        version > 0 && version.is_multiple_of(self.deleted_kept)
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            initial: Initial::Empty,
            partitions: None,
            values: true,
            steps_max: 2_000_000,
            list_prefix: None,
            accounts: 0,
            token_lifetime: None,
            deleted_kept: DELETED_KEPT,
        }
    }
}

/// What was judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub keys: usize,
    /// Operations on one key, and strong scans, that had a say.
    pub operations: usize,
    /// Keys that the search could not decide within its bound, and by which checker. Neither passed nor failed.
    pub undecided: Vec<String>,
}

/// The key of an account.
pub fn account(number: u32) -> Key {
    Key::from(format!("b{number}"))
}

/// Runs every checker of histories.
///
/// # Errors
/// The first violation found.
pub fn check_history(history: &[Record], options: &Options) -> Result<Report, Violation> {
    let history = &*tokens::merge(history, options.token_lifetime)?;
    let accounts: Vec<Key> = (0..options.accounts).map(account).collect();
    bank::check(history, &accounts, 0)?;
    if let Some(prefix) = options.list_prefix {
        lists::check(history, prefix)?;
    }
    let report = linear::check(history, options)?;
    if let Some(partitions) = options.partitions {
        scan::check(history, partitions, options)?;
    }
    serializable::check(history, options)?;
    Ok(report)
}
