//! A value on its way to a member whose own copy has rotted.

use super::codec::Blob;
use crate::base::{Key, Version};
use minicbor::{Decode, Encode};

/// Asks for an item's value, which the sender cannot read any more.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Fetch {
    #[n(0)]
    pub key: Key,
    /// The version that the sender has.
    #[n(1)]
    pub version: Version,
}

/// The answer to a [`Fetch`]: its key and version, and what the member has of them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Fetched {
    #[n(0)]
    pub key: Key,
    #[n(1)]
    pub version: Version,
    #[n(2)]
    pub copy: MemberCopy,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum MemberCopy {
    /// The value.
    #[n(0)]
    Whole(#[n(0)] Blob),
    /// The member has this version, and cannot read its value either.
    #[n(1)]
    Rotten,
    /// The item has another version at the member: it lags, or the value was overwritten since.
    #[n(2)]
    OtherVersion,
}
