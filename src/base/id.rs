//! Identifiers and positions, each a type of its own.
//!
//! Two orders of positions are kept apart everywhere: an [`Index`] counts the entries of *one group*
//! over all its replicas; an [`Lsn`] counts the records of *one node's log* over all its groups.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, minicbor::Encode, minicbor::Decode, serde::Serialize, serde::Deserialize)]
        #[cbor(transparent)]
        #[serde(transparent)]
        pub struct $name(#[n(0)] pub $inner);

        impl $name {
            pub const ZERO: $name = $name(0);
            /// The next number.
            #[must_use]
            pub const fn next(self) -> $name {
                $name(self.0 + 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// A member of the cluster, from 1. Chosen by the operator; never reused for another machine.
    NodeId(u16), "n"
);
number!(
    /// One of the `P` equal slices of the token space, from 0.
    PartitionId(u32), "p"
);
number!(
    /// A consensus group. Group 0 is the ring's own (it arrives with membership changes); group `p + 1` is partition `p`.
    GroupId(u32), "g"
);
number!(
    /// A term of one group: at most one leader each. Starts at 0, which has no leader.
    Term(u64), "t"
);
number!(
    /// The position of an entry in its group's log, from 1; 0 is before the first.
    Index(u64), "i"
);
number!(
    /// The position of a record in one node's log, over all groups, from 1; 0 is before the first. Goes on over restarts.
    Lsn(u64), "l"
);
number!(
    /// The time between a node's boot and its end, by a number that grows at every boot. It is durable before any message of the
    /// epoch leaves. The low [`Epoch::NONCE_BITS`] bits are drawn at random. So an epoch that begins from an old copy of the disk
    /// differs from the epoch that the copy's original went on to.
    Epoch(u64), "e"
);
number!(
    /// A file of the log, from 1, in the order of writing.
    SegmentId(u32), "s"
);
number!(
    /// A client's connection to this node, or a stand-in for one. Never reused within an epoch.
    ConnId(u64), "c"
);
number!(
    /// One disk operation of this node. Never reused within an epoch.
    IoId(u64), "io"
);
number!(
    /// The version of an item: the [`Index`] of the entry that wrote (or deleted) it, in its partition's log. Of an absent item also
    /// that up to which deletions are forgotten. 0: never written.
    Version(u64), "v"
);
number!(
    /// A point on the ring: the hash of a key.
    Token(u64), "#"
);

impl PartitionId {
    /// The consensus group that replicates this partition.
    pub const fn group(self) -> GroupId {
        GroupId(self.0 + 1)
    }

    /// The first of its tokens, among `partitions` equal ones.
    pub fn first_token(self, partitions: u32) -> Token {
        Token((u128::from(self.0) << 64).div_ceil(u128::from(partitions)) as u64)
    }
}

impl Token {
    /// The partition that has it, among `partitions` equal ones: for a power of two, the token's top bits.
    pub fn partition(self, partitions: u32) -> PartitionId {
        PartitionId(((u128::from(self.0) * u128::from(partitions)) >> 64) as u32)
    }
}

impl Epoch {
    pub const NONCE_BITS: u32 = 24;

    /// The epoch of the next boot, with `nonce`'s low bits.
    #[must_use]
    pub const fn following(self, nonce: u64) -> Epoch {
        let mask = (1 << Self::NONCE_BITS) - 1;
        Epoch(((self.0 >> Self::NONCE_BITS) + 1) << Self::NONCE_BITS | (nonce & mask))
    }

    /// How many epochs there were, this one included.
    pub const fn count(self) -> u64 {
        self.0 >> Self::NONCE_BITS
    }
}

impl GroupId {
    /// The ring's own group.
    pub const RING: GroupId = GroupId(0);

    /// The partition that this group replicates; `None` for the ring's own group.
    pub const fn partition(self) -> Option<PartitionId> {
        match self.0 {
            0 => None,
            n => Some(PartitionId(n - 1)),
        }
    }
}

impl Index {
    /// The number before; 0 stays 0.
    #[must_use]
    pub const fn previous(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

macro_rules! wide {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(&self, e: &mut minicbor::Encoder<W>, _: &mut C) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0.to_be_bytes())?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let bytes = d.bytes()?;
                let bytes: [u8; 16] =
                    bytes.try_into().map_err(|_| minicbor::decode::Error::message("an id of 16 bytes was expected"))?;
                Ok($name(u128::from_be_bytes(bytes)))
            }
        }
    };
}

wide!(
    /// Drawn when a cluster forms; every message names it, so that two clusters never mix.
    ClusterId
);
wide!(
    /// Drawn when a data directory is made; bound to its node id when the cluster forms, so that an emptied
    /// or foreign directory is noticed.
    DirectoryId
);

/// Where bytes lie in this node's log: `length` bytes of `segment` from `offset`. Order: by position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, minicbor::Encode, minicbor::Decode)]
pub struct Place {
    #[n(0)]
    pub segment: SegmentId,
    /// In bytes from the start of the segment.
    #[n(1)]
    pub offset: u32,
    /// In bytes.
    #[n(2)]
    pub length: u32,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}+{}", self.segment, self.offset, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_space_is_cut_evenly() {
        let at = |token: u64, partitions| Token(token).partition(partitions).0;
        assert_eq!((at(0, 64), at(u64::MAX, 64)), (0, 63));
        assert_eq!((at((1 << 58) - 1, 64), at(1 << 58, 64)), (0, 1));
        assert_eq!((at(0, 1), at(u64::MAX, 1)), (0, 0));
        for partitions in [1, 3, 64, 1 << 16] {
            for partition in (0..partitions).map(PartitionId) {
                let first = partition.first_token(partitions);
                assert_eq!(first.partition(partitions), partition);
                assert_eq!(first.0 == 0, partition.0 == 0);
                assert!(partition.0 == 0 || Token(first.0 - 1).partition(partitions).next() == partition);
            }
        }
    }
}
