//! Transactions: what a client asks, what coordinator and participants say to each other, and what is in the log of either.
//!
//! The protocol is described in [`crate::txn`]; locks and participants in [`crate::store`].

use super::codec::{Blob, Slices};
use super::operation::{Action, Operation, Rejection, validate_key};
use crate::base::limits::{TOKEN_SIZE_MAX, TRANSACTION_ITEMS_MAX, TRANSACTION_SIZE_MAX};
use crate::base::{GroupId, Key, NodeId, Term, Token, Version, hash};
use bytes::Bytes;
use core::fmt;
use minicbor::{Decode, Encode};
use std::collections::BTreeSet;

/// A list of operations of which all are done, at one instant, or none.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Transaction {
    /// From 1 to [`TRANSACTION_ITEMS_MAX`], each of another key. None, and a token: the token is released
    /// ([`Transaction::release`]).
    #[n(0)]
    #[cbor(decode_with = "crate::msg::codec::list")]
    pub items: Vec<Operation>,
    /// A client that asks again with the same token, within [`crate::base::limits::TOKEN_LIFETIME`], gets the same answer; with
    /// the same token and other items, a rejection. From 1 to [`TOKEN_SIZE_MAX`] bytes.
    #[n(1)]
    #[cbor(with = "crate::msg::codec::maybe_blob", has_nil)]
    pub token: Option<Bytes>,
}

impl Transaction {
    /// Bytes of all keys and values.
    pub fn size(&self) -> usize {
        self.items.iter().map(Operation::size).sum::<usize>() + self.token.as_ref().map_or(0, Bytes::len)
    }

    /// Says that no client will ask with this token again, and that no request with it is under way: it need not be remembered.
    /// Coming late, twice, or after the token's end, it does nothing.
    pub fn release(token: Bytes) -> Transaction {
        Transaction { items: Vec::new(), token: Some(token) }
    }

    /// Whether it does nothing but release its token.
    pub fn is_release(&self) -> bool {
        self.items.is_empty() && self.token.is_some()
    }

    /// Whether it is within the limits, and names no key twice.
    pub fn validate(&self) -> Result<(), Rejection> {
        let invalid = |why: String| Err(Rejection::Invalid(why));
        if self.items.is_empty() && self.token.is_none() {
            return invalid("the transaction is empty: it needs at least one operation".into());
        }
        validate_count(self.items.len())?;
        self.items.iter().try_for_each(Operation::validate)?;
        if self.size() > TRANSACTION_SIZE_MAX {
            return invalid(format!(
                "the transaction has {} bytes of keys and values; at most {TRANSACTION_SIZE_MAX} are allowed",
                self.size()
            ));
        }
        let mut keys = BTreeSet::new();
        if let Some(twice) = self.items.iter().find(|item| !keys.insert(&item.key)) {
            return invalid(format!("the transaction names the key {} twice", twice.key));
        }
        match &self.token {
            Some(token) if token.is_empty() || token.len() > TOKEN_SIZE_MAX => {
                invalid(format!("the token has {} bytes; from 1 to {TOKEN_SIZE_MAX} are allowed", token.len()))
            }
            Some(_) if self.items.iter().any(|item| item.action == Action::Read) => {
                invalid("a transaction with a token cannot read: its answer is kept, and values are not".into())
            }
            _ => Ok(()),
        }
    }

    /// The point on the ring of its home, the group that decides: of the token, so that the same token always meets the same
    /// record, else of the first key.
    pub fn home(&self) -> Option<Token> {
        let of_token = self.token.as_ref().map(|token| hash::token(0, token));
        of_token.or(self.items.first().map(|item| item.key.token()))
    }

    /// What decides whether a token comes back with the same contents.
    pub fn fingerprint(&self) -> u64 {
        hash::checksum(0, &super::codec::encode(&self.items))
    }
}

/// Whether keys to be read together are from 1 to [`TRANSACTION_ITEMS_MAX`], within the limits, and none named twice.
pub fn validate_keys(keys: &[Key]) -> Result<(), Rejection> {
    let invalid = |why: String| Err(Rejection::Invalid(why));
    match keys.len() {
        0 => return invalid("no key is named; at least one is needed".into()),
        count if count > TRANSACTION_ITEMS_MAX => {
            return invalid(format!("{count} keys are named; at most {TRANSACTION_ITEMS_MAX} are read at once"));
        }
        _ => {}
    }
    keys.iter().try_for_each(validate_key)?;
    let mut seen = BTreeSet::new();
    match keys.iter().find(|key| !seen.insert(*key)) {
        Some(twice) => invalid(format!("the key {twice} is named twice")),
        None => Ok(()),
    }
}

/// Whether a transaction may have so many operations.
pub fn validate_count(operations: usize) -> Result<(), Rejection> {
    if operations <= TRANSACTION_ITEMS_MAX {
        return Ok(());
    }
    let why = format!("the transaction has {operations} operations; at most {TRANSACTION_ITEMS_MAX} are allowed");
    Err(Rejection::Invalid(why))
}

/// What became of one item of a transaction that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct ItemResult {
    /// Of the write; of the item as it was seen, if nothing was written.
    #[n(0)]
    pub version: Version,
    /// An increment's sum.
    #[n(1)]
    pub number: Option<i64>,
    /// What a read saw.
    #[n(2)]
    #[cbor(with = "crate::msg::codec::maybe_blob", has_nil)]
    pub value: Option<Bytes>,
}

/// Why a transaction was not committed: one of these for each item that stood in the way, of those that were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Failure {
    /// Which item, from 0.
    #[n(0)]
    pub item: u32,
    #[n(1)]
    pub reason: FailureReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum FailureReason {
    /// The condition did not hold; the item's state that it was held against.
    #[n(0)]
    Condition {
        #[n(0)]
        version: Version,
        #[n(1)]
        present: bool,
    },
    /// Another transaction, older than this one, had the key. A retry may succeed.
    #[n(1)]
    Conflict,
    /// An increment of what is no number, or beyond 64 bits.
    #[n(2)]
    NotANumber,
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureReason::Condition { version, present: true } => {
                write!(f, "its condition did not hold: the item is at version {version}")
            }
            FailureReason::Condition { version: Version(0), .. } => {
                write!(f, "its condition did not hold: the item was never written")
            }
            FailureReason::Condition { version, .. } => {
                write!(f, "its condition did not hold: the item is absent since version {version}, or longer")
            }
            FailureReason::Conflict => write!(f, "an older transaction has the key; trying again may succeed"),
            FailureReason::NotANumber => {
                write!(f, "the item's value is not a whole number of 64 bits, or the sum would not be one")
            }
        }
    }
}

/// A transaction as it is in progress at its home or with a participant: for `ringseed txns`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct TransactionReport {
    #[n(0)]
    pub id: TransactionId,
    /// For how long the answering node has known it, in milliseconds.
    #[n(1)]
    pub age_ms: u64,
    /// The group whose view this is: the home's, or a participant's.
    #[n(2)]
    pub group: GroupId,
    #[n(3)]
    pub state: TransactionState,
    /// The groups that take part, the home not among them unless it is the only one.
    #[n(4)]
    #[cbor(decode_with = "crate::msg::codec::list")]
    pub parties: Vec<GroupId>,
    /// Keys locked for it in `group`.
    #[n(5)]
    pub locks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum TransactionState {
    /// At home: votes are awaited.
    #[n(0)]
    Preparing,
    /// At home: the decision is being replicated.
    #[n(1)]
    Deciding,
    /// At home: committed; participants have not all said that they know.
    #[n(2)]
    Committed,
    /// With a participant: it voted yes, and waits for the decision.
    #[n(3)]
    Prepared,
}

impl fmt::Display for TransactionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TransactionState::Preparing => "preparing",
            TransactionState::Deciding => "deciding",
            TransactionState::Committed => "committed",
            TransactionState::Prepared => "prepared",
        })
    }
}

/// One attempt at a transaction. Given by the leader of its home group, so that an id is begun at most once: no other leader of
/// the home has this term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct TransactionId {
    #[n(0)]
    pub home: GroupId,
    #[n(1)]
    pub attempt: Attempt,
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.home, self.attempt.term, self.attempt.number)
    }
}

/// The attempts of one home, in the order in which they were begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Attempt {
    #[n(0)]
    pub term: Term,
    /// From 1 in each term.
    #[n(1)]
    pub number: u64,
}

impl Attempt {
    /// Before all others.
    pub const FIRST: Attempt = Attempt { term: Term::ZERO, number: 0 };
}

/// Which transaction goes first when two conflict: the older, that is, the lesser. A transaction that is retried keeps its age.
/// Fairness rests on it, never safety. It is taken from the clock that all nodes share, so that wall clocks may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Age {
    /// By the shared clock ([`crate::base::SharedClock`]), at the gateway that the client asked.
    #[n(0)]
    pub began_ms: u64,
    #[n(1)]
    pub gateway: NodeId,
    #[n(2)]
    pub sequence: u64,
}

/// What a participant is asked to prepare.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Preparation {
    #[n(0)]
    pub id: TransactionId,
    #[n(1)]
    pub age: Age,
    /// All attempts of the home up to this are over, but for those of `open`: nothing of them is acted on any more.
    #[n(2)]
    pub floor: Attempt,
    /// All participants but the home.
    #[n(3)]
    #[cbor(decode_with = "crate::msg::codec::list")]
    pub parties: Vec<GroupId>,
    /// The participant's items, each with its position in the whole transaction.
    #[n(4)]
    #[cbor(decode_with = "crate::msg::codec::list")]
    pub items: Vec<ItemAt>,
    /// At most [`OPEN_NAMED_MAX`](crate::base::limits::OPEN_NAMED_MAX), none above the floor.
    #[n(5)]
    #[cbor(default, decode_with = "crate::msg::codec::list")]
    pub open: Vec<Attempt>,
}

/// An item, and its position in the whole transaction, from 0.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct ItemAt {
    #[n(0)]
    pub position: u32,
    #[n(1)]
    pub item: Operation,
}

impl Preparation {
    /// Bytes of keys and values.
    pub fn size(&self) -> usize {
        self.items.iter().map(|wanted| wanted.item.size()).sum()
    }
}

/// What a participant answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum Vote {
    /// Locks and writes are durable, until the decision. What becomes of each item, by its position.
    #[n(0)]
    Yes(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<ResultAt>,
    ),
    /// Nothing is locked.
    #[n(1)]
    No(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<Failure>,
    ),
    /// Nothing is locked, for a reason of no item's.
    #[n(2)]
    Rejected(#[n(0)] Rejection),
}

/// What becomes of the item at this position of the whole transaction, from 0.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct ResultAt {
    #[n(0)]
    pub position: u32,
    #[n(1)]
    pub result: ItemResult,
}

/// A transaction's fact in a group's log. `V` is a value: its bytes ([`Blob`]) on the wire and in memory, its length and checksum
/// ([`Stored`]) in the record's header part, its place in the log ([`super::log::ValuePlace`]) once it is logged.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum TransactionFact<V> {
    /// In a participant's log: locks, and the writes that a commit will apply. Durable before the vote.
    #[n(0)]
    Prepare {
        #[n(0)]
        id: TransactionId,
        #[n(1)]
        age: Age,
        #[n(2)]
        floor: Attempt,
        #[n(3)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        parties: Vec<GroupId>,
        /// Keys that were checked or read.
        #[n(4)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        shared: Vec<Key>,
        #[n(5)]
        writes: Writes<V>,
        /// [`Preparation::open`].
        #[n(6)]
        #[cbor(default, decode_with = "crate::msg::codec::list")]
        open: Vec<Attempt>,
    },
    /// In the home's log: the transaction is committed, and these are the home's own writes. Or it is not, and all that is
    /// decided is what its token answers.
    #[n(1)]
    Decide {
        #[n(0)]
        id: TransactionId,
        #[n(1)]
        commit: bool,
        /// Who is to be told.
        #[n(2)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        parties: Vec<GroupId>,
        #[n(3)]
        writes: Writes<V>,
        /// Earlier transactions that all their participants know the decision of.
        #[n(4)]
        #[cbor(decode_with = "crate::msg::codec::long_list")]
        ended: Vec<TransactionId>,
        #[n(5)]
        token: Option<TokenRecord>,
    },
    /// In a participant's log: the prepared writes are applied, or not; the locks are free.
    #[n(2)]
    Resolve {
        #[n(0)]
        id: TransactionId,
        #[n(1)]
        commit: bool,
    },
    /// In the home's log: transactions that all their participants know the decision of, and what has become of tokens.
    #[n(3)]
    End {
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::long_list")]
        ended: Vec<TransactionId>,
        /// Released by their clients.
        #[n(1)]
        #[cbor(decode_with = "crate::msg::codec::long_list")]
        expired: Vec<Blob>,
        /// Time has passed for all tokens.
        #[n(2)]
        #[cbor(default)]
        tick: bool,
    },
}

/// At most [`TRANSACTION_ITEMS_MAX`]: what is logged of a write is longer than an empty one on the wire, so that more are not
/// decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writes<V>(pub Vec<Write<V>>);

impl<C: Slices, V: Encode<C>> Encode<C> for Writes<V> {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        self.0.encode(e, context)
    }
}

impl<'b, C: Slices, V: Decode<'b, C>> Decode<'b, C> for Writes<V> {
    fn decode(d: &mut minicbor::Decoder<'b>, context: &mut C) -> Result<Self, minicbor::decode::Error> {
        super::codec::bounded_list(d, context, TRANSACTION_ITEMS_MAX).map(Writes)
    }
}

/// What a transaction makes of one item.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Write<V> {
    #[n(0)]
    #[cbor(decode_with = "crate::msg::codec::item_key")]
    pub key: Key,
    /// `None`: deleted.
    #[n(1)]
    pub value: Option<V>,
}

/// A value that stands elsewhere in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Stored {
    /// In bytes.
    #[n(0)]
    pub length: u32,
    #[n(1)]
    pub checksum: u32,
}

/// What a token answers when it comes again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct TokenRecord {
    #[n(0)]
    #[cbor(with = "crate::msg::codec::blob")]
    pub token: Bytes,
    /// [`Transaction::fingerprint`].
    #[n(1)]
    pub contents: u64,
    #[n(2)]
    pub answer: TransactionAnswer,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum TransactionAnswer {
    /// In the order of the items.
    #[n(0)]
    Committed(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<ItemResult>,
    ),
    #[n(1)]
    NotCommitted(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<Failure>,
    ),
}

/// What is over, between a home's coordinator and its store: as [`TransactionFact::End`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    pub ended: Vec<TransactionId>,
    pub expired: Vec<Blob>,
    pub tick: bool,
}

/// What a home decides, between its coordinator and its store; as committed, at the index of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub id: TransactionId,
    /// False: only what the token answers is logged.
    pub commit: bool,
    /// Who is to be told.
    pub parties: Vec<GroupId>,
    pub ended: Vec<TransactionId>,
    pub token: Option<TokenRecord>,
}

impl<V> TransactionFact<V> {
    /// The decision that it is, without the home's writes; `None` for another step.
    pub fn decision(&self) -> Option<Decision> {
        let TransactionFact::Decide { id, commit, parties, ended, token, .. } = self else { return None };
        Some(Decision { id: *id, commit: *commit, parties: parties.clone(), ended: ended.clone(), token: token.clone() })
    }

    /// The same with every value made into another.
    pub fn map<W>(&self, mut value: impl FnMut(&V) -> W) -> TransactionFact<W> {
        let mut map = |writes: &[Write<V>]| {
            let written = |write: &Write<V>| Write { key: write.key.clone(), value: write.value.as_ref().map(&mut value) };
            Writes(writes.iter().map(written).collect())
        };
        match self {
            TransactionFact::Prepare { id, age, floor, parties, shared, writes, open } => TransactionFact::Prepare {
                id: *id,
                age: *age,
                floor: *floor,
                parties: parties.clone(),
                shared: shared.clone(),
                writes: map(&writes.0),
                open: open.clone(),
            },
            TransactionFact::Decide { id, commit, parties, writes, ended, token } => TransactionFact::Decide {
                id: *id,
                commit: *commit,
                parties: parties.clone(),
                writes: map(&writes.0),
                ended: ended.clone(),
                token: token.clone(),
            },
            TransactionFact::Resolve { id, commit } => TransactionFact::Resolve { id: *id, commit: *commit },
            TransactionFact::End { ended, expired, tick } => {
                TransactionFact::End { ended: ended.clone(), expired: expired.clone(), tick: *tick }
            }
        }
    }

    pub fn writes(&self) -> &[Write<V>] {
        match self {
            TransactionFact::Prepare { writes, .. } | TransactionFact::Decide { writes, .. } => &writes.0,
            TransactionFact::Resolve { .. } | TransactionFact::End { .. } => &[],
        }
    }
}

impl TransactionFact<Blob> {
    /// Bytes of keys and values.
    pub fn size(&self) -> usize {
        let writes = self.writes().iter().map(|write| write.key.size() + write.value.as_ref().map_or(0, |value| value.0.len()));
        let shared = match self {
            TransactionFact::Prepare { shared, .. } => shared.iter().map(Key::size).sum(),
            _ => 0,
        };
        writes.sum::<usize>() + shared
    }

    /// The values, as they follow each other in the record.
    pub fn values(&self) -> Bytes {
        let mut values = self.writes().iter().filter_map(|write| write.value.as_ref());
        match (values.next(), values.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => only.0.clone(),
            (Some(_), Some(_)) => {
                let values = || self.writes().iter().filter_map(|write| write.value.as_ref());
                let mut all = Vec::with_capacity(values().map(|value| value.0.len()).sum());
                values().for_each(|value| all.extend_from_slice(&value.0));
                all.into()
            }
        }
    }

    /// What the record says of them.
    pub fn stored(&self) -> TransactionFact<Stored> {
        self.map(|value| Stored { length: value.0.len() as u32, checksum: hash::value_checksum(&value.0) })
    }
}

impl TransactionFact<Stored> {
    /// With each value found in `values`, where they follow each other; `None` if they are not exactly all of it.
    pub fn resolve<V>(&self, length: usize, mut find: impl FnMut(u32, Stored) -> V) -> Option<TransactionFact<V>> {
        let total = self.writes().iter().filter_map(|write| write.value).map(|value| value.length as usize).sum::<usize>();
        if total != length {
            return None;
        }
        let mut at = 0;
        Some(self.map(|value| {
            let found = find(at, *value);
            at += value.length;
            found
        }))
    }
}

/// What an item is, but for its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Measure {
    #[n(0)]
    pub version: Version,
    /// Of the value, in bytes.
    #[n(1)]
    pub length: u32,
}

/// Keys whose versions are to be as they were read.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Seen {
    #[n(0)]
    pub key: Key,
    #[n(1)]
    pub version: Version,
}
