//! Transactions: of one request, and interactive ones.
//!
//! **One-shot.** [`Client::transact`] sends a list of operations, each perhaps with a condition: all are done at one instant, or
//! none.
//!
//! ```no_run
//! # async fn example(client: ringseed::client::Client) -> Result<(), ringseed::client::Error> {
//! use ringseed::client::transaction::{Condition, Operation, Transaction};
//!
//! let items = vec![
//!     Operation::put("order/7", "paid").only_if(Condition::Present),
//!     Operation::increment("stock/pens", -1),
//! ];
//! client.transact(Transaction { items, token: None }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! **Interactive.** [`Client::begin`] and [`Client::transaction`] are optimistic (Kung and Robinson, "On optimistic methods for
//! concurrency control", 1981). Reads ask the cluster and remember the version they saw; writes stay in the client. The commit
//! sends one transaction that writes only if every item that was read still has its version. Nothing is locked before that, so a
//! transaction that is forgotten leaves nothing behind. Two reads may show states of different instants; then the commit fails
//! with [`Error::Conflict`]. So act on what was read (outside of the transaction) only once the commit has succeeded.
//!
//! ```no_run
//! # async fn example(client: ringseed::client::Client) -> Result<(), ringseed::client::Error> {
//! use std::time::Duration;
//!
//! let left = client
//!     .transaction(Duration::from_secs(5), async |t| {
//!         let got = t.get("stock/pens").await?;
//!         let left: u64 = got.as_deref().and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or(0);
//!         if left > 0 {
//!             t.put("stock/pens", (left - 1).to_string())?;
//!             t.put("order/7", "pens")?;
//!         }
//!         Ok::<_, ringseed::client::Error>(left)
//!     })
//!     .await?;
//! # let _ = left;
//! # Ok(())
//! # }
//! ```
//!
//! **Unknown outcomes.** A transaction without a token that was in flight when its connection dropped is [`Error::Unknown`]. A
//! transaction with a token is sent again until its deadline, since the same token has the same answer for ten minutes.
//! Interactive transactions that write carry a token of their own, and release it once they are answered. A partition that
//! remembers as many tokens as it may takes no new one ([`Rejection::TooManyTokens`]): then they go without, and an outcome that
//! is unknown stays so. Release your own tokens, too, when they will not be used again ([`Client::release_token`]).

use super::{Client, Error, Got, PAUSE_MAX, PAUSE_MIN, out_of_place};
use crate::base::limits::TIMEOUT_MAX;
use crate::base::random::{Random, Rng, SeedableRng};
use crate::base::{Duration, GroupId, Key, NodeId, hash};
use crate::msg::client::{RequestBody, ResponseBody};
use crate::msg::operation::Rejection;
pub use crate::msg::operation::{Action, Condition, Operation};
use crate::msg::transaction::validate_count;
pub use crate::msg::transaction::{
    Failure, FailureReason, ItemResult, Transaction, TransactionId, TransactionReport, TransactionState,
};
use bytes::Bytes;
use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// An item that stood in a transaction's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemFailure {
    /// Which of the transaction's items, from 0.
    pub item: u32,
    /// Its key; empty if the node named an item that there is not.
    pub key: Key,
    pub reason: FailureReason,
}

impl fmt::Display for ItemFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key \"{}\": {}", self.key, self.reason)
    }
}

pub(super) fn list(f: &mut fmt::Formatter<'_>, failures: &[ItemFailure]) -> fmt::Result {
    failures.iter().enumerate().try_for_each(|(place, failure)| match place {
        0 => write!(f, "{failure}"),
        _ => write!(f, "; {failure}"),
    })
}

/// The failures, with their items' keys.
pub(super) fn name_items(body: &RequestBody, failures: Vec<Failure>) -> Vec<ItemFailure> {
    let key = |item: u32| match body {
        RequestBody::Transact(transaction) => transaction.items.get(item as usize).map(|item| item.key.clone()),
        _ => None,
    };
    let named =
        |failure: Failure| ItemFailure { item: failure.item, key: key(failure.item).unwrap_or_default(), reason: failure.reason };
    failures.into_iter().map(named).collect()
}

/// Whether this answer to a transaction with a token says what became of all its tries. A refusal by condition is kept for the
/// token; one by conflict is not, nor is any other rejection: an earlier try may still be under way.
pub(super) fn settles(error: &Error) -> bool {
    match error {
        Error::NotCommitted(failures) => failures.iter().all(|failure| failure.reason != FailureReason::Conflict),
        Error::Rejected(Rejection::TokenReused) => true,
        _ => false,
    }
}

/// A source of tokens that no other client's repeats.
pub(super) fn entropy() -> Random {
    let mut seed = [0; 32];
    for part in seed.chunks_mut(8) {
        // The standard library's only door to the operating system's entropy: the keys of its hash maps.
        part.copy_from_slice(&RandomState::new().hash_one(std::process::id()).to_le_bytes());
    }
    Random::from_seed(seed)
}

impl Client {
    /// All of it at one instant, or none. The results are in the order of the items. With a token, an unknown outcome is asked
    /// for again until the client's timeout.
    ///
    /// # Errors
    /// [`Error::NotCommitted`]: a condition did not hold, or an older transaction had a key until the timeout; nothing was or
    /// will be done.
    pub async fn transact(&self, transaction: Transaction) -> Result<Vec<ItemResult>, Error> {
        self.transact_within(transaction, self.shared.options.timeout).await
    }

    /// [`Client::transact`] with another timeout.
    pub async fn transact_within(&self, transaction: Transaction, timeout: Duration) -> Result<Vec<ItemResult>, Error> {
        self.transact_counted(transaction, timeout, &mut 0).await
    }

    async fn transact_counted(
        &self,
        transaction: Transaction,
        timeout: Duration,
        sent: &mut u32,
    ) -> Result<Vec<ItemResult>, Error> {
        let items = transaction.items.len();
        if items == 0 {
            return Err(invalid("the transaction is empty: it needs at least one operation".into()));
        }
        match self.call_counted(RequestBody::Transact(transaction), timeout, sent).await? {
            ResponseBody::Transacted(results) if results.len() == items => Ok(results),
            other => Err(out_of_place(&other)),
        }
    }

    /// Says that this token will not be used again, and that no request with it is under way: it need not be remembered for its
    /// ten minutes.
    pub async fn release_token(&self, token: impl Into<Bytes>) -> Result<(), Error> {
        let release = RequestBody::Transact(Transaction::release(token.into()));
        self.call_within(release, RELEASE_WITHIN).await.map(drop)
    }

    /// [`Client::release_token`] of a token of ours, behind the caller's back. If it is lost, the token has its ten minutes.
    fn release(&self, token: Bytes) {
        let client = self.clone();
        tokio::spawn(async move {
            // Whatever comes of it.
            let _ = client.release_token(token).await;
        });
    }

    /// Several items (from 1 to 100, none named twice) as they are at one instant, in the order of their keys.
    pub async fn get_many<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Got>, Error> {
        self.get_many_within(keys, self.shared.options.timeout).await
    }

    /// [`Client::get_many`] with another timeout.
    pub async fn get_many_within<K: Into<Key>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        timeout: Duration,
    ) -> Result<Vec<Got>, Error> {
        let keys: Vec<Key> = keys.into_iter().map(Into::into).collect();
        let count = keys.len();
        match self.call_within(RequestBody::GetMany(keys), timeout).await? {
            ResponseBody::Values(items) if items.len() == count => {
                Ok(items.into_iter().map(|item| Got { value: item.value, version: item.version }).collect())
            }
            other => Err(out_of_place(&other)),
        }
    }

    /// The transactions in progress, put together from what every node says of the groups that it leads. Not of one instant: a
    /// transaction that ends meanwhile may be seen in part.
    ///
    /// # Errors
    /// No node answered. If only some did not, they are named in the result.
    pub async fn transactions(&self) -> Result<TransactionsInFlight, Error> {
        let (mut reports, mut silent) = (Vec::new(), Vec::new());
        let (mut answered, mut more) = (false, 0);
        for (node, answer) in self.ask_all(RequestBody::Transactions).await {
            match answer {
                Ok(ResponseBody::Transactions(of_node, more_of_node)) => {
                    answered = true;
                    more += u64::from(more_of_node);
                    reports.extend(of_node);
                }
                Ok(other) => silent.push((node, out_of_place(&other))),
                Err(error) => silent.push((node, error)),
            }
        }
        match silent.first() {
            Some((_, error)) if !answered => Err(error.clone()),
            _ => Ok(TransactionsInFlight { transactions: merge(reports), more, silent }),
        }
    }

    /// Begins a transaction that reads before it writes. Nothing is sent, and nothing has to be ended: dropping it is a rollback.
    pub fn begin(&self) -> Interactive {
        self.begin_with(Time::Each(self.shared.options.timeout))
    }

    fn begin_with(&self, time: Time) -> Interactive {
        let state = State { time, items: BTreeMap::new(), over: false };
        Interactive { client: self.clone(), state: Arc::new(Mutex::new(state)) }
    }

    /// Runs `body` in a transaction and commits it; after a conflict does so again, with new reads and after a pause that grows,
    /// for `timeout` in all (cut to [`TIMEOUT_MAX`]).
    ///
    /// `body` may run several times, and may see states of different instants in its reads: it must have no effect but on the
    /// transaction. An error that it returns ends the transaction without effect; if it had read several items, they are first
    /// found to be of one instant, else it is run again.
    ///
    /// # Errors
    /// What `body` returns; what [`Interactive::commit`] does, [`Error::Conflict`] once the time is over.
    pub async fn transaction<T, E: From<Error>, F: Future<Output = Result<T, E>>>(
        &self,
        timeout: Duration,
        mut body: impl FnMut(Interactive) -> F,
    ) -> Result<T, E> {
        let deadline = Instant::now() + timeout.min(TIMEOUT_MAX);
        let mut pause = PAUSE_MIN;
        loop {
            let transaction = self.begin_with(Time::Until(deadline));
            let conflict = match body(transaction.clone()).await {
                Ok(value) => match transaction.commit().await {
                    Ok(_) => return Ok(value),
                    Err(conflict @ Error::Conflict(_)) => conflict,
                    Err(error) => return Err(error.into()),
                },
                Err(error) => transaction.torn().await.ok_or(error)?,
            };
            // Two that met once should not meet again.
            let drawn = pause.mul_f64(0.5 + self.draw() as f64 / u64::MAX as f64);
            if Instant::now() + drawn >= deadline {
                return Err(conflict.into());
            }
            tokio::time::sleep(drawn).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn draw(&self) -> u64 {
        self.shared.random.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// A token that was never used. If it can be had at little cost, it is of the same partition as `key`: a transaction's home
    /// is its token's partition, and costs least if it is among those that take part anyway.
    fn new_token(&self, key: &Key) -> Bytes {
        let mut token = Bytes::new();
        for _ in 0..TOKENS_TRIED {
            let drawn = [self.draw(), self.draw()];
            token = drawn.iter().flat_map(|half| half.to_le_bytes()).collect();
            if self.routing().share_partition(hash::token(0, &token), key.token()) {
                break;
            }
        }
        token
    }
}

const TOKENS_TRIED: u32 = 1_000;
/// How long a token is tried to be released.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// An interactive transaction: see [the module](self). A handle: its clones are of the same transaction. When the last is dropped
/// without a commit, that is a rollback.
#[derive(Debug, Clone)]
pub struct Interactive {
    client: Client,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    time: Time,
    /// At most [`TRANSACTION_ITEMS_MAX`](crate::base::limits::TRANSACTION_ITEMS_MAX).
    items: BTreeMap<Key, Item>,
    /// Committed or rolled back.
    over: bool,
}

/// How long its requests may take.
#[derive(Debug, Clone, Copy)]
enum Time {
    Each(Duration),
    Until(Instant),
}

/// What the transaction knows of one key. It has read it, or will write it, or both.
#[derive(Debug, Default)]
struct Item {
    read: Option<Got>,
    write: Option<Write>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Write {
    Put(Bytes),
    Delete,
    Increment(i64),
}

impl Interactive {
    /// The item's value as this transaction sees it: its own writes, else what it has read before, else what the cluster has.
    /// `None`: absent.
    ///
    /// # Errors
    /// Of a read; the 101st key.
    pub async fn get(&self, key: impl Into<Key>) -> Result<Option<Bytes>, Error> {
        let key = key.into();
        if let Some(known) = self.lock().known(&key)? {
            return Ok(known);
        }
        let body = RequestBody::Operation(Operation::read(key.clone()).alone());
        let (value, version) = match self.client.call_within(body, self.time_left()).await? {
            ResponseBody::Value { value, version } => (value, version),
            other => return Err(out_of_place(&other)),
        };
        let mut state = self.lock();
        // It may have got its 100 keys, or have ended, in the meantime. What was read first by another clone of this stays.
        state.admit(&key)?;
        state.items.entry(key.clone()).or_default().read.get_or_insert(Got { value, version });
        Ok(state.known(&key)?.flatten())
    }

    /// Writes when the transaction commits.
    ///
    /// # Errors
    /// A key or value beyond its limit; the 101st key. The transaction is as it was.
    pub fn put(&self, key: impl Into<Key>, value: impl Into<Bytes>) -> Result<(), Error> {
        let (key, value) = (key.into(), value.into());
        let operation = Operation::put(key, value.clone());
        operation.validate().map_err(Error::Rejected)?;
        self.lock().write(operation.key, Write::Put(value))
    }

    /// Deletes when the transaction commits.
    ///
    /// # Errors
    /// As [`Interactive::put`].
    pub fn delete(&self, key: impl Into<Key>) -> Result<(), Error> {
        self.lock().write(key.into(), Write::Delete)
    }

    /// Adds `by` when the transaction commits; an absent item counts as 0. An item that is only incremented, not read, does not
    /// hinder other transactions that increment it.
    ///
    /// # Errors
    /// As [`Interactive::put`]; [`Rejection::NotANumber`] if what this transaction has written or read is no number, or the sum
    /// is none. If the item was not read, the commit finds that out.
    pub fn increment(&self, key: impl Into<Key>, by: i64) -> Result<(), Error> {
        let key = key.into();
        let mut state = self.lock();
        let item = state.items.get(&key);
        let write = match item.and_then(|item| item.write.as_ref()) {
            Some(Write::Put(value)) => Write::Put(sum(Some(value), by)?),
            Some(Write::Delete) => Write::Put(sum(None, by)?),
            Some(Write::Increment(before)) => {
                Write::Increment(before.checked_add(by).ok_or(Error::Rejected(Rejection::NotANumber))?)
            }
            None => Write::Increment(by),
        };
        if let (Write::Increment(by), Some(got)) = (&write, item.and_then(|item| item.read.as_ref())) {
            sum(got.value.as_deref(), *by)?;
        }
        state.write(key, write)
    }

    /// How many keys it has read or written.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For how long each of its requests goes on trying.
    pub fn set_timeout(&self, timeout: Duration) {
        self.lock().time = Time::Each(timeout);
    }

    /// Writes all that was written, if all that was read is still so. The results of the writes, by key. Whatever comes of it,
    /// the transaction is over.
    ///
    /// # Errors
    /// [`Error::Conflict`]: nothing was done; begin again. [`Error::NotCommitted`]: nothing was done, and a retry will not help
    /// (an increment of what is no number). [`Error::Unknown`] only if the outcome could not be learnt before the timeout.
    pub async fn commit(&self) -> Result<BTreeMap<Key, ItemResult>, Error> {
        let items: Vec<Operation> = {
            let mut state = self.lock();
            state.go_on()?;
            state.over = true;
            state.items.iter().map(|(key, item)| item.to_submit(key.clone())).collect()
        };
        let writes = items.iter().any(Operation::is_write);
        if !writes && items.len() < 2 {
            // One read is of one instant.
            return Ok(BTreeMap::new());
        }
        // The home is the token's partition: best that of a key which is written.
        let home = items.iter().find(|item| item.is_write());
        let mut token = home.map(|item| self.client.new_token(&item.key));
        let written: Vec<Option<Key>> = items.iter().map(|item| item.is_write().then(|| item.key.clone())).collect();
        let mut sent = 0;
        let whole = Transaction { items: items.clone(), token: token.clone() };
        let mut answer = self.client.transact_counted(whole, self.time_left(), &mut sent).await;
        if sent == 1 && matches!(answer, Err(Error::Rejected(Rejection::TooManyTokens))) {
            // Certainly not begun, and nothing but the token was in its way.
            (token, sent) = (None, 0);
            answer = self.client.transact_counted(Transaction { items, token: None }, self.time_left(), &mut sent).await;
        }
        // Only if there was one request alone, and it was answered, is none under way that would be taken for a new one. Any
        // other token stays.
        let settled = answer.is_ok() || answer.as_ref().is_err_and(settles);
        if let Some(token) = token.filter(|_| sent == 1 && settled) {
            self.client.release(token);
        }
        let results = match answer {
            Ok(results) => results,
            Err(Error::NotCommitted(failures)) if failures.iter().any(|f| f.reason != FailureReason::NotANumber) => {
                return Err(Error::Conflict(failures));
            }
            // Nothing would have been written.
            Err(Error::Unknown(_)) if !writes => return Err(Error::Rejected(Rejection::DeadlineExceeded)),
            Err(error) => return Err(error),
        };
        Ok(written.into_iter().zip(results).filter_map(|(key, result)| Some((key?, result))).collect())
    }

    /// Ends it without effect, as dropping it does.
    pub fn rollback(&self) {
        self.lock().over = true;
    }

    /// The conflict, if what it has read is known not to be so any more.
    async fn torn(&self) -> Option<Error> {
        let items: Vec<Operation> = {
            let state = self.lock();
            let read = state.items.iter().filter(|(_, item)| item.read.is_some());
            read.map(|(key, item)| Operation::check(key.clone(), item.condition())).collect()
        };
        if items.len() < 2 {
            return None;
        }
        match self.client.transact_within(Transaction { items, token: None }, self.time_left()).await {
            Err(Error::NotCommitted(failures)) => Some(Error::Conflict(failures)),
            _ => None,
        }
    }

    fn time_left(&self) -> Duration {
        match self.lock().time {
            Time::Each(timeout) => timeout,
            Time::Until(deadline) => deadline.saturating_duration_since(Instant::now()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn go_on(&self) -> Result<(), Error> {
        if self.over { Err(invalid("the transaction is over: begin another".into())) } else { Ok(()) }
    }

    /// Whether the key may be among those of the transaction.
    fn admit(&self, key: &Key) -> Result<(), Error> {
        self.go_on()?;
        Operation::read(key.clone()).validate().map_err(Error::Rejected)?;
        let others = self.items.len() - usize::from(self.items.contains_key(key));
        validate_count(others + 1).map_err(Error::Rejected)
    }

    fn write(&mut self, key: Key, write: Write) -> Result<(), Error> {
        self.admit(&key)?;
        self.items.entry(key).or_default().write = Some(write);
        Ok(())
    }

    /// The item as the transaction sees it; `None` if the cluster must be asked first.
    fn known(&self, key: &Key) -> Result<Option<Option<Bytes>>, Error> {
        self.admit(key)?;
        let Some(item) = self.items.get(key) else { return Ok(None) };
        Ok(match (&item.write, &item.read) {
            (Some(Write::Put(value)), _) => Some(Some(value.clone())),
            (Some(Write::Delete), _) => Some(None),
            (Some(Write::Increment(by)), Some(got)) => Some(Some(sum(got.value.as_deref(), *by)?)),
            (None, Some(got)) => Some(got.value.clone()),
            (_, None) => None,
        })
    }
}

fn invalid(why: String) -> Error {
    Error::Rejected(Rejection::Invalid(why))
}

impl Item {
    /// What must hold of it still.
    fn condition(&self) -> Condition {
        match &self.read {
            None => Condition::None,
            Some(Got { value: Some(_), version }) => Condition::Version(*version),
            // Not by version: however often it came and went, it is as it was read.
            Some(Got { value: None, .. }) => Condition::Absent,
        }
    }

    fn to_submit(&self, key: Key) -> Operation {
        let condition = self.condition();
        match &self.write {
            Some(Write::Put(value)) => Operation::put(key, value.clone()).only_if(condition),
            Some(Write::Delete) => Operation::delete(key).only_if(condition),
            Some(Write::Increment(by)) => Operation::increment(key, *by).only_if(condition),
            None => Operation::check(key, condition),
        }
    }
}

/// As the store adds: an optional minus sign and digits, nothing else.
fn sum(value: Option<&[u8]>, by: i64) -> Result<Bytes, Error> {
    let number = match value {
        None => Some(0),
        // Rust would read it; the store does not.
        Some([b'+', ..]) => None,
        Some(text) => core::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok()),
    };
    let sum = number.and_then(|number| number.checked_add(by));
    sum.map(|sum| Bytes::from(sum.to_string())).ok_or(Error::Rejected(Rejection::NotANumber))
}

/// What [`Client::transactions`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionsInFlight {
    /// The oldest first.
    pub transactions: Vec<InFlight>,
    /// Younger ones that nodes did not list, for there were too many; each may be counted by its home and by each participant.
    pub more: u64,
    /// Nodes that did not answer: what only they know is not among them.
    pub silent: Vec<(NodeId, Error)>,
}

/// A transaction in progress, as its home and its participants together say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    pub id: TransactionId,
    /// For how long any group has known it, in milliseconds.
    pub age_ms: u64,
    /// The home's state; if the home said nothing, a participant's.
    pub state: TransactionState,
    /// The groups that take part, the home not among them unless it is the only one.
    pub participants: Vec<GroupId>,
    /// Keys locked for it, over all groups.
    pub locks: u64,
}

fn merge(mut reports: Vec<TransactionReport>) -> Vec<InFlight> {
    // A group whose leadership moves may be reported by both nodes.
    let mut seen = BTreeSet::new();
    reports.retain(|report| seen.insert((report.id, report.group)));
    let mut transactions: BTreeMap<TransactionId, InFlight> = BTreeMap::new();
    for report in reports {
        let id = report.id;
        let new = || InFlight { id, age_ms: 0, state: report.state, participants: Vec::new(), locks: 0 };
        let merged = transactions.entry(id).or_insert_with(new);
        merged.age_ms = merged.age_ms.max(report.age_ms);
        merged.locks += u64::from(report.locks);
        if report.group == id.home {
            merged.state = report.state;
        }
        merged.participants.extend(report.parties);
    }
    let mut transactions: Vec<InFlight> = transactions.into_values().collect();
    for transaction in &mut transactions {
        transaction.participants.sort_unstable();
        transaction.participants.dedup();
    }
    transactions.sort_by_key(|transaction| core::cmp::Reverse(transaction.age_ms));
    transactions
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::{Term, Version};
    use crate::client::{ClientOptions, Routing};
    use crate::msg::transaction::Attempt;

    /// A client that knows no node: what stays in the client can be tested without a cluster.
    pub fn alone() -> Client {
        let routing = Mutex::new(Routing::new(&["nowhere:1".into()], None));
        let options = ClientOptions::default();
        Client { shared: Arc::new(super::super::Shared { options, routing, random: Mutex::new(entropy()) }) }
    }

    fn having_read(items: &[(&'static str, Option<&'static str>, u64)]) -> Interactive {
        let transaction = alone().begin();
        for (key, value, version) in items {
            let got = Got { value: value.map(Bytes::from), version: Version(*version) };
            transaction.lock().items.insert(Key::from(*key), Item { read: Some(got), write: None });
        }
        transaction
    }

    fn submitted(transaction: &Interactive) -> Vec<Operation> {
        transaction.lock().items.iter().map(|(key, item)| item.to_submit(key.clone())).collect()
    }

    #[tokio::test]
    async fn reads_see_own_writes_and_are_remembered() {
        let t = having_read(&[("n", Some("5"), 3), ("gone", None, 2)]);
        assert_eq!(t.get("n").await, Ok(Some(Bytes::from("5"))));
        t.increment("n", 2).unwrap();
        t.increment("n", 1).unwrap();
        assert_eq!(t.get("n").await, Ok(Some(Bytes::from("8"))));
        assert_eq!(t.get("gone").await, Ok(None));
        t.increment("gone", -1).unwrap();
        assert_eq!(t.get("gone").await, Ok(Some(Bytes::from("-1"))));
        t.put("new", "x").unwrap();
        assert_eq!(t.get("new").await, Ok(Some(Bytes::from("x"))));
        t.delete("new").unwrap();
        assert_eq!(t.get("new").await, Ok(None));
        t.increment("new", 4).unwrap();
        assert_eq!(t.get("new").await, Ok(Some(Bytes::from("4"))));
        let expected = [
            Operation::increment("gone", -1).only_if(Condition::Absent),
            Operation::increment("n", 3).only_if(Condition::Version(Version(3))),
            Operation::put("new", "4"),
        ];
        assert_eq!(submitted(&t), expected);
    }

    #[test]
    fn a_number_is_here_what_it_is_for_the_store() {
        assert_eq!((sum(None, 3), sum(Some(b"-5"), 3)), (Ok("3".into()), Ok("-2".into())));
        for value in [&b"+5"[..], b"", b" 5", b"x", b"\xff", b"9223372036854775807"] {
            assert_eq!(sum(Some(value), 1), Err(Error::Rejected(Rejection::NotANumber)), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn what_was_read_is_checked_again_by_the_commit() {
        let t = having_read(&[("a", Some("1"), 7), ("b", None, 0), ("c", None, 9)]);
        t.put("c", "3").unwrap();
        let expected = [
            Operation::check("a", Condition::Version(Version(7))),
            Operation::check("b", Condition::Absent),
            Operation::put("c", "3").only_if(Condition::Absent),
        ];
        assert_eq!(submitted(&t), expected);
    }

    #[tokio::test]
    async fn limits_leave_the_transaction_as_it_was() {
        let t = having_read(&[("text", Some("x"), 1), ("top", Some("9223372036854775807"), 1)]);
        let not_a_number = Err(Error::Rejected(Rejection::NotANumber));
        assert_eq!(t.increment("text", 1), not_a_number);
        assert_eq!(t.increment("top", 1), not_a_number);
        assert_eq!(t.put("", "v"), Err(Error::Rejected(Rejection::KeyEmpty)));
        assert!(matches!(t.put("k", vec![0; 500_000]), Err(Error::Rejected(Rejection::ValueTooLong(_)))));
        for n in 2..100 {
            t.put(format!("k{n}"), "v").unwrap();
        }
        assert!(t.put("one more", "v").unwrap_err().to_string().contains("at most 100"));
        assert!(t.get("one more").await.unwrap_err().to_string().contains("at most 100"));
        t.put("k2", "w").unwrap();
        assert_eq!(t.len(), 100);
        t.rollback();
        assert!(t.put("k2", "x").unwrap_err().to_string().contains("begin another"));
        assert!(t.commit().await.unwrap_err().to_string().contains("begin another"));
    }

    #[tokio::test]
    async fn nothing_to_commit_asks_nobody() {
        assert_eq!(alone().begin().commit().await, Ok(BTreeMap::new()));
        assert_eq!(having_read(&[("a", Some("1"), 1)]).commit().await, Ok(BTreeMap::new()));
    }

    #[test]
    fn the_closure_form_can_be_spawned() {
        fn is_send<T: Send>(_: &T) {}
        let client = alone();
        let future = async move {
            let key = String::from("k");
            let body = async |t: Interactive| {
                let value = t.get(key.clone()).await?;
                t.put("copy", value.unwrap_or_default())?;
                Ok::<_, Error>(())
            };
            client.transaction(Duration::from_secs(1), body).await
        };
        is_send(&future);
    }

    /// A node that refuses every token for want of room, on one connection. What it was asked, in order.
    async fn full_of_tokens(listener: tokio::net::TcpListener) -> Vec<Option<Bytes>> {
        use crate::msg::client::{Request, Response};
        use crate::msg::codec;
        use crate::wire::frame::{self, Kind};
        use crate::wire::handshake::{self, Hello, Role};
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.expect("a client");
        handshake::accept(&mut stream).await.expect("a hello");
        let (role, cluster) = (Role::Peer, Some(crate::base::ClusterId(1)));
        let hello = Hello { role, node: NodeId(1), cluster, ..Hello::client() };
        handshake::welcome(&mut stream, &hello).await.expect("open");
        let (mut buffer, mut asked) = (bytes::BytesMut::new(), Vec::new());
        while stream.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
            while let Some((_, body)) = frame::take(&mut buffer, 1 << 20).expect("good frames") {
                let request: Request = codec::decode(&body).expect("a request");
                let body = match request.body {
                    RequestBody::Transact(transaction) => {
                        asked.push(transaction.token.clone());
                        match transaction.token {
                            Some(_) => ResponseBody::Rejected(Rejection::TooManyTokens),
                            None => ResponseBody::Transacted(vec![ItemResult::default(); transaction.items.len()]),
                        }
                    }
                    _ => ResponseBody::Rejected(Rejection::NotReady),
                };
                let mut bytes = Vec::new();
                frame::append(Kind::Message, &Response { id: request.id, leader: None, body }, &mut bytes);
                stream.write_all(&bytes).await.expect("open");
            }
        }
        asked
    }

    #[tokio::test]
    async fn where_no_more_tokens_are_taken_a_commit_goes_without() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let node = tokio::spawn(full_of_tokens(listener));
        let client = Client::connect(&[address], ClientOptions::default()).await.expect("connects");
        let transaction = client.begin();
        transaction.put("k", "v").expect("fits");
        transaction.commit().await.expect("goes without");
        // What the user gives a token is not done without it.
        let own = Transaction { items: vec![Operation::put("k", "v")], token: Some("mine".into()) };
        let refused = client.transact(own).await.expect_err("has a token");
        assert_eq!(refused, Error::Rejected(Rejection::TooManyTokens));
        assert!(refused.to_string().contains("without a token"), "{refused}");
        drop((transaction, client));
        let asked = node.await.expect("ends with its client");
        assert!(matches!(&asked[..], [Some(own), None, Some(users)] if own != users), "{asked:?}");
    }

    #[test]
    fn what_settles_a_doubt_and_what_may_be_tried_again() {
        let failure = |reason| ItemFailure { item: 0, key: Key::from("k\n"), reason };
        let condition = failure(FailureReason::Condition { version: Version(3), present: true });
        let conflict = failure(FailureReason::Conflict);
        let of = |failures: &[&ItemFailure]| Error::NotCommitted(failures.iter().copied().cloned().collect());
        assert!(settles(&of(&[&condition])) && !of(&[&condition]).is_retriable());
        assert!(!settles(&of(&[&conflict])) && of(&[&conflict]).is_retriable());
        assert!(!settles(&of(&[&condition, &conflict])) && !of(&[&condition, &conflict]).is_retriable());
        assert!(!settles(&Error::Rejected(Rejection::NoLeader)) && settles(&Error::Rejected(Rejection::TokenReused)));
        let text = of(&[&condition, &conflict]).to_string();
        assert!(text.contains("key \"k\\n\": its condition did not hold: the item is at version 3; key"), "{text}");
        assert!(of(&[&conflict]).to_string().ends_with("trying again may succeed"));
    }

    #[test]
    fn tokens_differ_and_transactions_are_merged() {
        let client = alone();
        assert_ne!(client.new_token(&"k".into()), client.new_token(&"k".into()));
        assert_ne!(client.new_token(&"k".into()), alone().new_token(&"k".into()));
        let id = |number| TransactionId { home: GroupId(3), attempt: Attempt { term: Term(1), number } };
        let report = |number, group, state, age_ms| TransactionReport {
            id: id(number),
            age_ms,
            group: GroupId(group),
            state,
            parties: vec![GroupId(5), GroupId(4)],
            locks: 2,
        };
        use TransactionState::{Committed, Prepared};
        let merged = merge(vec![
            report(1, 4, Prepared, 10),
            report(1, 3, Committed, 20),
            report(1, 4, Prepared, 11),
            report(2, 5, Prepared, 90),
        ]);
        let expected = |number, state, age_ms, locks| InFlight {
            id: id(number),
            age_ms,
            state,
            participants: vec![GroupId(4), GroupId(5)],
            locks,
        };
        assert_eq!(merged, [expected(2, Prepared, 90, 2), expected(1, Committed, 20, 4)]);
    }
}
