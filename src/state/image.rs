//! All of a state as a row of parts: to be written and read in order and in pieces, and to be compared.
//!
//! A checkpoint has the items as the pages that they are in ([`State::page`]), and all other parts. A snapshot goes on behind a
//! part, piece by piece (`piece.rs`).

use super::piece::{self, fold_parts};
use super::prepared::{Floor, Prepared};
use super::{Item, Page, State, leaves};
use crate::base::{GroupId, Index, Key, Place, Version};
use crate::msg::codec;
use crate::msg::configuration::Configuration;
use crate::msg::log::ValuePlace;
use crate::msg::transaction::{Age, Attempt, TokenRecord, TransactionId, Write, Writes};
use bytes::Bytes;
use core::ops::Bound;
use minicbor::{Decode, Encode};
use std::collections::BTreeMap;

/// One part of a state. `V` is a value: its place in this node's log, or whatever stands for it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum Part<V> {
    #[n(0)]
    Item {
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::item_key")]
        key: Key,
        #[n(1)]
        version: Version,
        /// `None`: deleted.
        #[n(2)]
        value: Option<V>,
    },
    #[n(1)]
    Prepared {
        #[n(0)]
        id: TransactionId,
        #[n(1)]
        age: Age,
        #[n(2)]
        version: Version,
        #[n(3)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        parties: Vec<GroupId>,
        #[n(4)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        shared: Vec<Key>,
        #[n(5)]
        writes: Writes<V>,
    },
    #[n(2)]
    Resolved {
        #[n(0)]
        id: TransactionId,
        #[n(1)]
        commit: bool,
    },
    #[n(3)]
    Floor {
        #[n(0)]
        home: GroupId,
        #[n(1)]
        upto: Attempt,
        #[n(2)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        open: Vec<Attempt>,
    },
    #[n(4)]
    Decision {
        #[n(0)]
        attempt: Attempt,
        #[n(1)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        parties: Vec<GroupId>,
    },
    #[n(5)]
    Token {
        /// How many ticks there had been when it came.
        #[n(0)]
        since: u64,
        #[n(1)]
        record: TokenRecord,
    },
    #[n(7)]
    Configuration(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::boxed")]
        Box<Configuration>,
    ),
    /// The last.
    #[n(6)]
    End {
        #[n(0)]
        applied: Index,
        /// Of the clock by which tokens end.
        #[n(1)]
        ticks: u64,
    },
}

impl<V> Part<V> {
    /// The same with every value made into another.
    pub fn map<W>(self, mut value: impl FnMut(V) -> W) -> Part<W> {
        match self {
            Part::Item { key, version, value: place } => Part::Item { key, version, value: place.map(value) },
            Part::Prepared { id, age, version, parties, shared, writes } => {
                let write = |write: Write<V>| Write { key: write.key, value: write.value.map(&mut value) };
                let writes = Writes(writes.0.into_iter().map(write).collect());
                Part::Prepared { id, age, version, parties, shared, writes }
            }
            Part::Resolved { id, commit } => Part::Resolved { id, commit },
            Part::Floor { home, upto, open } => Part::Floor { home, upto, open },
            Part::Decision { attempt, parties } => Part::Decision { attempt, parties },
            Part::Token { since, record } => Part::Token { since, record },
            Part::Configuration(configuration) => Part::Configuration(configuration),
            Part::End { applied, ticks } => Part::End { applied, ticks },
        }
    }

    /// Parts of a lower rank come first.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Part::Item { .. } => 0,
            Part::Prepared { .. } => 1,
            Part::Resolved { .. } => 2,
            Part::Floor { .. } => 3,
            Part::Decision { .. } => 4,
            Part::Token { .. } => 5,
            Part::Configuration(_) => 6,
            Part::End { .. } => 7,
        }
    }
}

impl State {
    /// All parts but items, each behind its length.
    pub fn encoded_parts(&self) -> Vec<Bytes> {
        self.others(None).map(|part| codec::encode(&part).into()).collect()
    }

    /// Takes parts that are encoded one behind the other, each behind its length. `false`: they are none, or an item.
    pub fn install_parts(&mut self, encoded: &[u8]) -> bool {
        let mut rest = encoded;
        while let Some((part, behind)) = piece::split_part(rest) {
            match codec::decode::<Part<ValuePlace>>(&Bytes::copy_from_slice(part)) {
                Ok(Part::Item { .. }) | Err(_) => return false,
                Ok(part) => self.install(part),
            }
            rest = behind;
        }
        rest.is_empty()
    }

    /// Takes the copy of a leaf, behind those of all leaves before it. `false`: it is none, or belongs elsewhere.
    pub fn install_leaf(&mut self, fence: &[u8], page: &[u8], place: Place) -> bool {
        self.items.install_leaf(fence, page, place)
    }

    /// How many items the copy of a leaf has, deleted ones too; `None`: it is none.
    pub fn items_of_leaf(fence: &[u8], page: &[u8]) -> Option<usize> {
        leaves::count(fence, page)
    }

    /// Whether what was installed is all of the copy of a state that was begun here.
    pub fn is_whole(&self, begin: Index) -> bool {
        self.applied == begin && self.items.leaves().is_whole()
    }

    /// The leaf of the index with this fence, for a copy. The first has the empty fence.
    pub fn page(&self, fence: &[u8]) -> Option<Page<'_>> {
        self.items.leaves().page(fence)
    }

    /// There is a copy of that leaf, as it is now.
    pub fn copied(&mut self, fence: &[u8], place: Place) {
        self.items.leaves_mut().copied(fence, place);
    }

    /// All parts behind `last`, in order; from the first if there is none. What is applied in between moves nothing that comes
    /// behind `last` before it.
    pub fn parts<'a>(&'a self, last: Option<&'a Part<ValuePlace>>) -> impl Iterator<Item = Part<ValuePlace>> + 'a {
        let items = starts(last, 0).into_iter().flat_map(move |within| {
            let from = match last {
                Some(Part::Item { key, .. }) if within => Bound::Excluded(key),
                _ => Bound::Unbounded,
            };
            self.remembered(from).map(|(key, item)| Part::Item { key, version: item.version, value: item.value })
        });
        items.chain(self.others(last))
    }

    /// All parts behind `last` but items.
    fn others<'a>(&'a self, last: Option<&'a Part<ValuePlace>>) -> impl Iterator<Item = Part<ValuePlace>> + 'a {
        let id = match last {
            Some(Part::Prepared { id, .. } | Part::Resolved { id, .. }) => Some(*id),
            _ => None,
        };
        let prepared = behind(self.outcomes.prepared(), last, 1, id).map(|(id, prepared)| Part::Prepared {
            id: *id,
            age: prepared.age,
            version: prepared.version,
            parties: prepared.parties.clone(),
            shared: prepared.shared.clone(),
            writes: Writes(prepared.writes.clone()),
        });
        let resolved =
            behind(&self.outcomes.resolved, last, 2, id).map(|(id, commit)| Part::Resolved { id: *id, commit: *commit });
        let home = if let Some(Part::Floor { home, .. }) = last { Some(*home) } else { None };
        let floors = behind(&self.outcomes.floors, last, 3, home).map(|(home, floor)| Part::Floor {
            home: *home,
            upto: floor.upto,
            open: floor.open.iter().copied().collect(),
        });
        let attempt = if let Some(Part::Decision { attempt, .. }) = last { Some(*attempt) } else { None };
        let decisions = behind(&self.decisions, last, 4, attempt)
            .map(|(attempt, parties)| Part::Decision { attempt: *attempt, parties: parties.clone() });
        let token = if let Some(Part::Token { record, .. }) = last { Some(record.token.clone()) } else { None };
        let tokens = behind(self.tokens.known(), last, 5, token)
            .map(|(_, (since, record))| Part::Token { since: *since, record: record.clone() });
        let configuration =
            starts(last, 6).filter(|within| !within).and_then(|_| self.configuration.clone()).map(Part::Configuration);
        let end =
            starts(last, 7).filter(|within| !within).map(|_| Part::End { applied: self.applied, ticks: self.tokens.ticks() });
        prepared.chain(resolved).chain(floors).chain(decisions).chain(tokens).chain(configuration).chain(end)
    }

    /// Takes the next part of an image into a state that holds the parts before it.
    pub fn install(&mut self, part: Part<ValuePlace>) {
        match part {
            Part::Item { key, version, value } => self.items.put(&key, Item { version, value }, &mut |_| {}),
            Part::Prepared { id, age, version, parties, shared, writes } => {
                self.outcomes.hold(id, Prepared { age, parties, shared, writes: writes.0, version });
            }
            Part::Resolved { id, commit } => _ = self.outcomes.resolved.insert(id, commit),
            Part::Floor { home, upto, open } => {
                self.outcomes.floors.insert(home, Floor { upto, open: open.into_iter().collect() });
            }
            Part::Decision { attempt, parties } => _ = self.decisions.insert(attempt, parties),
            Part::Token { since, record } => self.tokens.install(since, record),
            Part::Configuration(configuration) => self.configuration = Some(configuration),
            Part::End { applied, ticks } => {
                self.applied = applied;
                self.tokens.set_ticks(ticks);
            }
        }
    }

    /// A checksum of all of it but for where values lie. Equal on all replicas that have applied the same index. Walks
    /// everything.
    pub fn digest(&self) -> u64 {
        self.parts(None).fold(0, |digest, part| fold_parts(digest, &[part.stored()]))
    }
}

/// Whether parts of this rank come behind `last`: `None`: not; `Some(true)`: those behind `last` itself, which is of the same
/// rank.
fn starts(last: Option<&Part<ValuePlace>>, rank: u8) -> Option<bool> {
    match last.map(Part::rank) {
        Some(reached) if reached > rank => None,
        Some(reached) => Some(reached == rank),
        None => Some(false),
    }
}

/// What of the map comes behind `last`, which has this key if it is of the same rank.
fn behind<'a, K: Ord + Clone, V>(
    map: &'a BTreeMap<K, V>,
    last: Option<&Part<ValuePlace>>,
    rank: u8,
    key: Option<K>,
) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
    let range = starts(last, rank).map(|within| match key.filter(|_| within) {
        Some(key) => map.range((Bound::Excluded(key), Bound::Unbounded)),
        None => map.range(..),
    });
    range.into_iter().flatten()
}
