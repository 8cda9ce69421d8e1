//! A group's state on its way to a member that lacks entries which its leader's log does not hold any more.

use super::codec::Blob;
use crate::base::{Index, Term};
use minicbor::{Decode, Encode};

/// One of the pieces that a state is sent in. What it holds is committed: so it is as good from an earlier leader as from the
/// present one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct SnapshotPiece {
    /// The sender's, who leads in it.
    #[n(0)]
    pub term: Term,
    /// The last entry that the state has applied, and its term.
    #[n(1)]
    pub index: Index,
    #[n(2)]
    pub of_term: Term,
    /// Names this snapshot: pieces of another do not go with it.
    #[n(3)]
    pub snapshot: u64,
    /// Which piece it is, from 0.
    #[n(4)]
    pub number: u64,
    /// Of the whole state, in the last piece ([`crate::state::State::digest`]).
    #[n(5)]
    pub digest: Option<u64>,
    /// Parts of the state, each behind its length ([`crate::state::Part`]).
    #[n(6)]
    pub parts: Blob,
    /// Their values, one behind the other.
    #[n(7)]
    pub values: Blob,
}

/// What came of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotReply {
    /// [`SnapshotPiece::snapshot`].
    #[n(0)]
    pub snapshot: u64,
    /// The piece that is answered: an answer to another than the last that was sent comes too late.
    #[n(1)]
    pub number: u64,
    /// The piece that is wanted next, all before it being durable here; `None`: the replica has all that the state has applied.
    #[n(2)]
    pub wanted: Option<u64>,
}
