//! Operations on one key: the one vocabulary of what is read and written.
//!
//! An [`Operation`] comes in one of two envelopes: by itself ([`Single`]), or as an item of a
//! [`Transaction`](super::transaction::Transaction). It means the same in both, and `store/evaluate.rs` says what.

use super::codec::Slices;
use crate::base::limits::{KEY_SIZE_MAX, VALUE_SIZE_MAX};
use crate::base::{Key, Version};
use bytes::Bytes;
use core::fmt;
use minicbor::{Decode, Encode};

/// An operation on one key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Operation {
    #[n(0)]
    pub key: Key,
    #[n(1)]
    pub action: Action,
    /// It is done only if this holds of the item; of a transaction, all is done only if this holds.
    #[n(2)]
    pub condition: Condition,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum Action {
    /// Nothing is written: the condition is all.
    #[n(0)]
    Check,
    /// Nothing is written; the answer has the item.
    #[n(1)]
    Read,
    #[n(2)]
    Put(
        #[n(0)]
        #[cbor(with = "crate::msg::codec::blob")]
        Bytes,
    ),
    #[n(3)]
    Delete,
    /// Adds to a decimal number; an absent item counts as 0. Refused, `NotANumber`, when the value is none or the sum overflows.
    #[n(4)]
    Increment(#[n(0)] i64),
}

impl Operation {
    fn new(key: impl Into<Key>, action: Action) -> Operation {
        Operation { key: key.into(), action, condition: Condition::None }
    }

    pub fn put(key: impl Into<Key>, value: impl Into<Bytes>) -> Operation {
        Operation::new(key, Action::Put(value.into()))
    }

    pub fn delete(key: impl Into<Key>) -> Operation {
        Operation::new(key, Action::Delete)
    }

    pub fn increment(key: impl Into<Key>, by: i64) -> Operation {
        Operation::new(key, Action::Increment(by))
    }

    pub fn read(key: impl Into<Key>) -> Operation {
        Operation::new(key, Action::Read)
    }

    pub fn check(key: impl Into<Key>, condition: Condition) -> Operation {
        Operation::new(key, Action::Check).only_if(condition)
    }

    /// [`Operation::condition`].
    #[must_use]
    pub fn only_if(self, condition: Condition) -> Operation {
        Operation { condition, ..self }
    }

    pub fn is_write(&self) -> bool {
        !matches!(self.action, Action::Check | Action::Read)
    }

    /// Bytes of key, value and expected value.
    pub fn size(&self) -> usize {
        let value = if let Action::Put(value) = &self.action { value.len() } else { 0 };
        let expected = if let Condition::Value(value) = &self.condition { value.len() } else { 0 };
        self.key.size() + value + expected
    }

    /// By itself: read strongly, or acknowledged by a quorum.
    pub fn alone(self) -> Single {
        Single { operation: self, consistency: Consistency::Strong, acknowledge: Acknowledge::Quorum }
    }

    /// Whether key, value and expected value are within the limits.
    pub fn validate(&self) -> Result<(), Rejection> {
        validate_key(&self.key)?;
        if let Action::Put(value) = &self.action {
            validate_value(value)?;
        }
        self.condition.validate()
    }
}

/// An operation by itself, and what its client wants of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Single {
    pub operation: Operation,
    /// Of a read; of a write, the default.
    pub consistency: Consistency,
    /// Of a write; of a read, the default.
    pub acknowledge: Acknowledge,
}

impl Single {
    /// Of a read; a write stays as it is.
    #[must_use]
    pub fn consistency(self, consistency: Consistency) -> Single {
        if self.is_write() { self } else { Single { consistency, ..self } }
    }

    /// Of a write; a read stays as it is.
    #[must_use]
    pub fn acknowledge(self, acknowledge: Acknowledge) -> Single {
        if self.is_write() { Single { acknowledge, ..self } } else { self }
    }

    pub fn is_write(&self) -> bool {
        self.operation.is_write()
    }

    pub fn is_eventual(&self) -> bool {
        !self.is_write() && self.consistency == Consistency::Eventual
    }

    /// Whether it is within the limits, and something that is done alone: a check has no answer, and only puts and deletes take a
    /// condition.
    pub fn validate(&self) -> Result<(), Rejection> {
        self.operation.validate()?;
        match (&self.operation.action, &self.operation.condition) {
            (Action::Put(_) | Action::Delete, _) | (Action::Read | Action::Increment(_), Condition::None) => Ok(()),
            _ => {
                let why = "by itself, only a put or a delete takes a condition; put this one into a transaction";
                Err(Rejection::Invalid(why.into()))
            }
        }
    }
}

/// What a [`Single`] is on the wire, since the first protocol.
#[derive(Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
struct SingleForm {
    #[n(0)]
    key: Key,
    #[n(1)]
    action: SingleAction,
}

#[derive(Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
enum SingleAction {
    #[n(0)]
    Get {
        #[n(0)]
        consistency: Consistency,
        #[n(1)]
        condition: Option<Condition>,
    },
    #[n(1)]
    Put {
        #[n(0)]
        #[cbor(with = "crate::msg::codec::blob")]
        value: Bytes,
        #[n(1)]
        condition: Condition,
        #[n(2)]
        acknowledge: Acknowledge,
    },
    #[n(2)]
    Delete {
        #[n(0)]
        condition: Condition,
        #[n(1)]
        acknowledge: Acknowledge,
    },
    #[n(3)]
    Increment {
        #[n(0)]
        by: i64,
        #[n(1)]
        acknowledge: Acknowledge,
        #[n(2)]
        condition: Option<Condition>,
    },
    #[n(4)]
    Check {
        #[n(0)]
        condition: Condition,
    },
}

impl<C: Slices> Encode<C> for Single {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let Single { operation: Operation { key, action, condition }, consistency, acknowledge } = self.clone();
        let action = match action {
            Action::Check => SingleAction::Check { condition },
            Action::Read => SingleAction::Get { consistency, condition: given(condition) },
            Action::Put(value) => SingleAction::Put { value, condition, acknowledge },
            Action::Delete => SingleAction::Delete { condition, acknowledge },
            Action::Increment(by) => SingleAction::Increment { by, acknowledge, condition: given(condition) },
        };
        SingleForm { key, action }.encode(e, context)
    }
}

/// Where the first protocol had no condition, none is written as nothing.
fn given(condition: Condition) -> Option<Condition> {
    (condition != Condition::None).then_some(condition)
}

impl<'b, C: Slices> Decode<'b, C> for Single {
    fn decode(d: &mut minicbor::Decoder<'b>, context: &mut C) -> Result<Self, minicbor::decode::Error> {
        let SingleForm { key, action } = d.decode_with(context)?;
        let alone = |action, condition| Operation { key, action, condition }.alone();
        Ok(match action {
            SingleAction::Check { condition } => alone(Action::Check, condition),
            SingleAction::Get { consistency, condition } => {
                alone(Action::Read, condition.unwrap_or_default()).consistency(consistency)
            }
            SingleAction::Put { value, condition, acknowledge } => alone(Action::Put(value), condition).acknowledge(acknowledge),
            SingleAction::Delete { condition, acknowledge } => alone(Action::Delete, condition).acknowledge(acknowledge),
            SingleAction::Increment { by, acknowledge, condition } => {
                alone(Action::Increment(by), condition.unwrap_or_default()).acknowledge(acknowledge)
            }
        })
    }
}

/// What must hold of the item for the write to happen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum Condition {
    #[default]
    #[n(0)]
    None,
    #[n(1)]
    Value(
        #[n(0)]
        #[cbor(with = "crate::msg::codec::blob")]
        Bytes,
    ),
    /// The item is there, with this version.
    #[n(2)]
    Version(#[n(0)] Version),
    #[n(3)]
    Absent,
    #[n(4)]
    Present,
}

impl Condition {
    /// Whether the value that it expects is within the limits.
    fn validate(&self) -> Result<(), Rejection> {
        if let Condition::Value(expected) = self { validate_value(expected) } else { Ok(()) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub enum Consistency {
    /// Linearizable.
    #[default]
    #[n(0)]
    Strong,
    /// What any replica has applied: a past state, with no bound on how far past.
    #[n(1)]
    Eventual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub enum Acknowledge {
    /// A quorum of replicas has synced it.
    #[default]
    #[n(0)]
    Quorum,
    /// Every current replica has synced it.
    #[n(1)]
    All,
}

/// Why an operation was certainly not applied.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Rejection {
    /// The key's length in bytes; see [`crate::base::limits::KEY_SIZE_MAX`].
    #[n(0)]
    KeyTooLong(#[n(0)] u32),
    #[n(1)]
    KeyEmpty,
    #[n(2)]
    ValueTooLong(#[n(0)] u32),
    #[n(3)]
    NotANumber,
    /// A queue is full. Retry later, or with fewer requests at once.
    #[n(4)]
    Overloaded,
    /// No leader of the partition could be reached before the deadline, and nothing was sent to one.
    #[n(5)]
    NoLeader,
    /// The operation was not begun before its deadline.
    #[n(6)]
    DeadlineExceeded,
    /// No quorum of the partition's replicas has room on its disks.
    #[n(7)]
    DiskFull,
    /// The value's bytes fail their checksum at this replica. They are never served.
    #[n(8)]
    Corrupt,
    /// The node is stopping.
    #[n(9)]
    Stopping,
    /// The cluster has not formed yet, or this node was refused by it.
    #[n(10)]
    NotReady,
    /// The request makes no sense, and why.
    #[n(11)]
    Invalid(#[n(0)] String),
    /// The transaction's token was used before, for a transaction with other items.
    #[n(12)]
    TokenReused,
    /// What was to be read together is larger than [`crate::base::limits::TRANSACTION_SIZE_MAX`].
    #[n(13)]
    TooLarge,
    /// The home, or the node that leads it, remembers as many tokens as it may: see
    /// [`crate::base::limits::Limits::tokens_per_group`]. Release tokens that will not be used again, retry later, or do without a
    /// token.
    #[n(14)]
    TooManyTokens,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::base::limits::{TOKEN_LIFETIME, TRANSACTION_SIZE_MAX};
        match self {
            Rejection::KeyTooLong(size) => write!(f, "the key has {size} bytes; at most {KEY_SIZE_MAX} are allowed"),
            Rejection::KeyEmpty => write!(f, "the key is empty"),
            Rejection::ValueTooLong(size) => write!(f, "the value has {size} bytes; at most {VALUE_SIZE_MAX} are allowed"),
            Rejection::NotANumber => write!(f, "the item's value is not a whole number of 64 bits, or the sum would not be one"),
            Rejection::Overloaded => write!(f, "the cluster is overloaded; try again with fewer requests at once"),
            Rejection::NoLeader => write!(f, "no leader of the key's partition could be reached in time"),
            Rejection::DeadlineExceeded => write!(f, "the deadline passed before the operation was begun"),
            Rejection::DiskFull => write!(
                f,
                "the disks of too many of the partition's replicas are full; `ringseed status` says how much room is needed (deletes are still taken for a while)"
            ),
            Rejection::Corrupt => write!(
                f,
                "the value fails its checksum on the leader's disk, and no other replica has sent a whole copy yet; it is not served"
            ),
            Rejection::Stopping => write!(f, "the node is stopping"),
            Rejection::NotReady => write!(f, "the cluster has not formed yet, or it refused this node"),
            Rejection::Invalid(why) => write!(f, "invalid request: {why}"),
            Rejection::TokenReused => write!(f, "the token was used before, for a transaction with other operations"),
            Rejection::TooLarge => {
                write!(f, "the items have more than {TRANSACTION_SIZE_MAX} bytes together; read fewer at once")
            }
            Rejection::TooManyTokens => write!(
                f,
                "the token's partition remembers as many tokens as it may, each for {} minutes unless its client releases it; try again later, or without a token",
                TOKEN_LIFETIME.as_secs() / 60
            ),
        }
    }
}

/// Whether a value is within the limits, to be written or to be compared with.
pub fn validate_value(value: &[u8]) -> Result<(), Rejection> {
    match value.len() {
        size if size > VALUE_SIZE_MAX => Err(Rejection::ValueTooLong(size as u32)),
        _ => Ok(()),
    }
}

/// Whether a key is within the limits.
pub fn validate_key(key: &Key) -> Result<(), Rejection> {
    match key.size() {
        _ if key.partition_key().is_empty() => Err(Rejection::KeyEmpty),
        _ if key.sort_key().is_some_and(<[u8]>::is_empty) => {
            Err(Rejection::Invalid("the sort key is empty; leave it out".into()))
        }
        size if size > KEY_SIZE_MAX => Err(Rejection::KeyTooLong(size as u32)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::codec::{decode, encode};

    /// What nodes and clients of the first protocol say and understand.
    #[test]
    fn by_itself_an_operation_is_on_the_wire_what_it_was_in_the_first_protocol() {
        let eventual = Operation::read("k").alone().consistency(Consistency::Eventual);
        let by_all = Operation::delete("k").only_if(Condition::Present).alone().acknowledge(Acknowledge::All);
        let forms: [(Single, &[u8]); 5] = [
            (Operation::read("k").alone(), b"\x82\x41k\x82\x00\x81\x82\x00\x80"),
            (eventual, b"\x82\x41k\x82\x00\x81\x82\x01\x80"),
            (Operation::put("k", "v").alone(), b"\x82\x41k\x82\x01\x83\x41v\x82\x00\x80\x82\x00\x80"),
            (by_all, b"\x82\x41k\x82\x02\x82\x82\x04\x80\x82\x01\x80"),
            (Operation::increment("k", 5).alone(), b"\x82\x41k\x82\x03\x82\x05\x82\x00\x80"),
        ];
        for (single, bytes) in forms {
            assert_eq!(encode(&single), bytes, "{single:?}");
            assert_eq!(decode(&Bytes::copy_from_slice(bytes)), Ok(single));
        }
    }

    #[test]
    fn what_is_not_done_alone_is_refused_and_arrives_as_it_was_asked() {
        for operation in [
            Operation::check("k", Condition::Present),
            Operation::read("k").only_if(Condition::Absent),
            Operation::increment("k", 1).only_if(Condition::Version(Version(3))),
        ] {
            let single = operation.alone();
            assert!(matches!(single.validate(), Err(Rejection::Invalid(why)) if why.contains("into a transaction")));
            assert_eq!(decode(&encode(&single).into()), Ok(single));
        }
    }
}
