//! Idempotency tokens and what they answer.
//!
//! All of it is replicated, the time of their end, too. The leader logs a *tick* every [`Limits::token_tick_ms`] that it leads and there are
//! tokens. At each tick those of [`TICKS`] ticks ago are forgotten, on every replica and after any restart. So each is kept for
//! [`TOKEN_LIFETIME`](crate::base::limits::TOKEN_LIFETIME) at least, and longer by the time without a leader. An end costs the
//! log the same, whatever the number of tokens. A client that will certainly not ask again *releases* its token before that.

use crate::base::limits::{Limits, TOKEN_LIFETIME};
use crate::msg::client::ResponseBody;
use crate::msg::operation::Rejection;
use crate::msg::transaction::{ItemResult, TokenRecord, TransactionAnswer};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// So many whole ticks a token is kept. Every replica counts the same.
const TICKS: u64 = 20;
const _: () = assert!(TICKS * Limits::DEFAULT.token_tick_ms as u64 == TOKEN_LIFETIME.as_secs() * 1_000);
/// What a token takes in memory beside its bytes and its answer's, about.
const BYTES_EACH: usize = 256;

#[derive(Debug, Clone)]
pub struct Tokens {
    /// With how many ticks there had been when it came.
    known: BTreeMap<Bytes, (u64, TokenRecord)>,
    by_age: BTreeSet<(u64, Bytes)>,
    ticks: u64,
    /// What all of them take in memory, about.
    size: usize,
}

impl Tokens {
    pub(super) const fn new() -> Tokens {
        Tokens { known: BTreeMap::new(), by_age: BTreeSet::new(), ticks: 0, size: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// In bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn has(&self, token: &[u8]) -> bool {
        self.known.contains_key(token)
    }

    /// Whether there is no room for another, with so many on their way.
    pub fn is_full(&self, coming: usize, limits: &Limits) -> bool {
        self.known.len() + coming >= limits.tokens_per_group || self.size >= limits.token_bytes_per_group
    }

    /// What the token answers; a rejection if it was for something else.
    pub fn answer(&self, token: &Bytes, contents: u64) -> Option<ResponseBody> {
        let (_, record) = self.known.get(token)?;
        Some(match &record.answer {
            _ if record.contents != contents => ResponseBody::Rejected(Rejection::TokenReused),
            TransactionAnswer::Committed(results) => ResponseBody::Transacted(results.clone()),
            TransactionAnswer::NotCommitted(failures) => ResponseBody::NotCommitted(failures.clone()),
        })
    }

    /// Each token, with how many ticks there had been when it came, in order of token.
    pub(super) fn known(&self) -> &BTreeMap<Bytes, (u64, TokenRecord)> {
        &self.known
    }

    pub(super) fn ticks(&self) -> u64 {
        self.ticks
    }

    pub(super) fn set_ticks(&mut self, ticks: u64) {
        self.ticks = ticks;
    }

    pub(super) fn insert(&mut self, record: TokenRecord) {
        self.install(self.ticks, record);
    }

    pub(super) fn install(&mut self, since: u64, record: TokenRecord) {
        self.remove(&record.token);
        let record = owned(record);
        self.size += size_of(&record);
        self.by_age.insert((since, record.token.clone()));
        self.known.insert(record.token.clone(), (since, record));
    }

    pub(super) fn remove(&mut self, token: &Bytes) {
        if let Some((since, record)) = self.known.remove(token) {
            self.size -= size_of(&record);
            self.by_age.remove(&(since, record.token));
        }
    }

    /// Another tick: forgets what has had its time.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        while let Some((_, token)) = self.by_age.first().filter(|(since, _)| since + TICKS < self.ticks).cloned() {
            self.remove(&token);
        }
    }

    pub(super) fn check(&self) {
        assert_eq!(self.known.len(), self.by_age.len(), "every token has its time");
        assert_eq!(self.size, self.known.values().map(|(_, record)| size_of(record)).sum::<usize>(), "bytes are counted");
    }
}

/// The record by itself: what came is a slice of a frame, which would live as long as the token.
fn owned(record: TokenRecord) -> TokenRecord {
    let result = |result: ItemResult| ItemResult { value: None, ..result };
    let answer = match record.answer {
        TransactionAnswer::Committed(results) => TransactionAnswer::Committed(results.into_iter().map(result).collect()),
        refused @ TransactionAnswer::NotCommitted(_) => refused,
    };
    TokenRecord { token: Bytes::copy_from_slice(&record.token), contents: record.contents, answer }
}

fn size_of(record: &TokenRecord) -> usize {
    let answer = match &record.answer {
        TransactionAnswer::Committed(results) => size_of_val(&results[..]),
        TransactionAnswer::NotCommitted(failures) => size_of_val(&failures[..]),
    };
    BYTES_EACH + record.token.len() + answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(token: Bytes, items: usize) -> TokenRecord {
        let answer = TransactionAnswer::Committed(vec![ItemResult::default(); items]);
        TokenRecord { token, contents: 1, answer }
    }

    #[test]
    fn a_token_lives_its_ticks_and_no_frame_lives_with_it() {
        let mut tokens = Tokens::new();
        let frame = Bytes::from(vec![b't'; 300_000]);
        tokens.tick();
        tokens.insert(record(frame.slice(5..21), 2));
        assert!(frame.is_unique(), "a copy is kept");
        for _ in 0..TICKS {
            tokens.tick();
            assert!(tokens.has(&[b't'; 16]));
        }
        tokens.tick();
        tokens.check();
        assert!(tokens.is_empty() && tokens.size() == 0);
    }

    #[test]
    fn tokens_are_bounded_in_bytes() {
        let mut tokens = Tokens::new();
        let mut number = 0_u64;
        while !tokens.is_full(0, &Limits::DEFAULT) {
            tokens.insert(record(Bytes::copy_from_slice(&number.to_le_bytes()), 100));
            number += 1;
        }
        tokens.check();
        assert!(
            number < Limits::DEFAULT.tokens_per_group as u64 && tokens.size() < Limits::DEFAULT.token_bytes_per_group + 10_000
        );
        tokens.remove(&Bytes::copy_from_slice(&0_u64.to_le_bytes()));
        assert!(!tokens.is_full(0, &Limits::DEFAULT));
    }
}
