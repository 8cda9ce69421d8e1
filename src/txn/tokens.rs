//! Idempotency tokens and what they answer.

use crate::base::Time;
use crate::base::limits::TOKEN_LIFETIME;
use crate::msg::client::{Rejection, ResponseBody};
use crate::msg::codec::Blob;
use crate::msg::transaction::{TokenRecord, TransactionAnswer};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub struct Tokens {
    known: BTreeMap<Bytes, (Time, TokenRecord)>,
    /// In order of when this node applied them.
    by_age: BTreeSet<(Time, Bytes)>,
}

impl Tokens {
    pub fn len(&self) -> usize {
        self.known.len()
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

    pub fn insert(&mut self, now: Time, record: TokenRecord) {
        let token = record.token.clone();
        self.remove(&token);
        self.by_age.insert((now, token.clone()));
        self.known.insert(token, (now, record));
    }

    pub fn remove(&mut self, token: &Bytes) {
        if let Some((since, _)) = self.known.remove(token) {
            self.by_age.remove(&(since, token.clone()));
        }
    }

    /// Those whose time is over. They are asked for once; what is not logged then is forgotten a lifetime later.
    pub fn expire(&mut self, now: Time) -> Vec<Blob> {
        let mut expired = Vec::new();
        while let Some((since, token)) = self.by_age.first().cloned().filter(|(since, _)| *since + TOKEN_LIFETIME <= now) {
            self.by_age.remove(&(since, token.clone()));
            self.by_age.insert((now, token.clone()));
            if let Some((at, _)) = self.known.get_mut(&token) {
                *at = now;
            }
            expired.push(Blob(token));
        }
        expired
    }

    pub fn next_expiry(&self) -> Option<Time> {
        self.by_age.first().map(|(since, _)| *since + TOKEN_LIFETIME)
    }

    pub fn check(&self) {
        assert_eq!(self.known.len(), self.by_age.len(), "every token has its time");
    }
}
