//! What clients ask of several keys at once.
//!
//! - *Transfers* between accounts: increments that sum to nothing, or a read of both balances and a put of the new ones, on
//!   condition that nothing has changed. All accounts together hold 0, always.
//! - *Appends* to lists: a read, and a put of the list with an element of its own at the end, on condition that nothing has
//!   changed.
//! - *Interactive* transactions: a read of several, then writes of some and a check of all that was read.
//! - *One-shot* transactions on registers and counters, with conditions that sometimes hold.
//! - Reads of several items; of all accounts.
//!
//! Some carry a token. When the outcome is unknown the client asks again with the same token: mostly the same, now and then
//! something else, which must be refused unless it comes first. Now and then it asks again although it knows, at once or much
//! later, when others lead. A token that was asked with once, and answered, it often releases, as the client library does with
//! its own, and does not use again.

use super::{Client, counter, draw_condition, draw_edge, draw_increment, draw_value, register};
use crate::check;
use crate::dice::Dice;
use crate::plan::WorkloadPlan;
use bytes::Bytes;
use ringseed::base::limits::TOKEN_SIZE_MAX;
use ringseed::base::{Key, Version};
use ringseed::msg::client::{Condition, RequestBody, ResponseBody};
use ringseed::msg::transaction::{FailureReason, ItemResult, Transaction, TransactionAction, TransactionItem};

/// What keys of lists begin with; see [`check::lists`].
pub const LIST_PREFIX: &[u8] = b"l";
/// A list is left alone when it is this long, in bytes: histories hold values of up to 256 bytes in whole.
const LIST_SIZE_MAX: usize = 230;

/// What a client makes of the items that it has asked to read.
#[derive(Debug)]
pub(super) enum Intent {
    Append,
    /// So much from the first to the second.
    Transfer(i64),
    Interactive,
}

pub(super) fn list(number: u32) -> Key {
    Key::from(format!("l{number}"))
}

/// A request on several keys.
pub(super) fn draw(plan: &WorkloadPlan, number: usize, client: &mut Client) -> RequestBody {
    let transactions = &plan.transactions;
    if client.dice.chance(transactions.token_permille / 4)
        && let Some(again) = client.remembered.pop_front()
    {
        return again;
    }
    let mut kind = client.dice.below(1000) as u32;
    let mut is = |permille: u32| {
        let taken = kind < permille;
        kind = kind.saturating_sub(permille);
        taken
    };
    if is(transactions.transfer_permille) && transactions.accounts > 1 {
        return transfer(plan, number, client);
    }
    if is(transactions.append_permille) && transactions.lists > 0 {
        let first = client.first_list + client.dice.below(u64::from(transactions.lists)) as u32;
        let mut keys = vec![list(first)];
        if client.dice.chance(250) {
            keys.push(list(first + 1));
        }
        client.intent = Some(Intent::Append);
        return get_many(keys);
    }
    if is(transactions.audit_permille) && transactions.accounts > 0 {
        let accounts: Vec<Key> = (0..transactions.accounts).map(check::account).collect();
        return if client.dice.chance(250) { read_in_transaction(accounts) } else { get_many(accounts) };
    }
    let most = u64::from(transactions.items_max.max(2));
    let count = if client.dice.chance(plan.edge_permille) { most } else { client.dice.between(2, most) } as usize;
    if is(transactions.read_permille) {
        return get_many(keys(plan, count, &mut client.dice));
    }
    if is(transactions.interactive_permille) {
        client.intent = Some(Intent::Interactive);
        return get_many(registers(plan, count, &mut client.dice));
    }
    several(plan, number, count, client)
}

fn get_many(keys: Vec<Key>) -> RequestBody {
    RequestBody::GetMany(keys)
}

fn read_in_transaction(keys: Vec<Key>) -> RequestBody {
    let items = keys.into_iter().map(|key| item(key, TransactionAction::Read, Condition::None)).collect();
    RequestBody::Transact(Transaction { items, token: None })
}

fn item(key: Key, action: TransactionAction, condition: Condition) -> TransactionItem {
    TransactionItem { key, action, condition }
}

fn one_of(count: u32, plan: &WorkloadPlan, dice: &mut Dice) -> u32 {
    if dice.chance(plan.hot_permille) { 0 } else { dice.below(u64::from(count)) as u32 }
}

/// Keys, each once.
fn distinct(count: usize, mut draw: impl FnMut() -> Key) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::with_capacity(count);
    // With few keys there may not be so many.
    for _ in 0..count * 3 {
        let key = draw();
        if keys.len() < count && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

fn registers(plan: &WorkloadPlan, count: usize, dice: &mut Dice) -> Vec<Key> {
    distinct(count, || register(plan, one_of(plan.keys, plan, dice)))
}

/// Of every kind.
fn keys(plan: &WorkloadPlan, count: usize, dice: &mut Dice) -> Vec<Key> {
    let transactions = &plan.transactions;
    distinct(count, || match dice.below(6) {
        0 if plan.counters > 0 => counter(one_of(plan.counters, plan, dice)),
        1 if transactions.accounts > 0 => check::account(one_of(transactions.accounts, plan, dice)),
        2 if transactions.lists > 0 => list(one_of(transactions.lists, plan, dice)),
        _ => register(plan, one_of(plan.keys, plan, dice)),
    })
}

fn token(plan: &WorkloadPlan, number: usize, client: &mut Client) -> Option<Bytes> {
    if !client.dice.chance(plan.transactions.token_permille) {
        return None;
    }
    let mut token = format!("t{number}-{}", client.next_id).into_bytes();
    if client.dice.chance(plan.edge_permille) {
        token.resize(TOKEN_SIZE_MAX, b'.');
    }
    Some(Bytes::from(token))
}

fn transfer(plan: &WorkloadPlan, number: usize, client: &mut Client) -> RequestBody {
    let accounts = plan.transactions.accounts;
    let count = client.dice.between(2, 3) as usize;
    let parties = distinct(count, || check::account(one_of(accounts, plan, &mut client.dice)));
    let amount = client.dice.between(1, 9) as i64;
    if parties.len() < 2 {
        return get_many(parties);
    }
    if client.dice.chance(300) {
        client.intent = Some(Intent::Transfer(amount));
        return get_many(parties[..2].to_vec());
    }
    let others = parties.len() as i64 - 1;
    let part = |at: usize| if at == 0 { -amount * others } else { amount };
    let increment = |(at, key)| item(key, TransactionAction::Increment(part(at)), Condition::None);
    let mut items: Vec<TransactionItem> = parties.into_iter().enumerate().map(increment).collect();
    // The first account decides where the home is.
    if client.dice.chance(500) {
        items.reverse();
    }
    RequestBody::Transact(Transaction { items, token: token(plan, number, client) })
}

/// A one-shot transaction on registers and counters.
fn several(plan: &WorkloadPlan, number: usize, count: usize, client: &mut Client) -> RequestBody {
    let token = token(plan, number, client);
    let keys = distinct(count, || {
        let dice = &mut client.dice;
        if plan.counters > 0 && dice.chance(300) {
            counter(one_of(plan.counters, plan, dice))
        } else {
            register(plan, one_of(plan.keys, plan, dice))
        }
    });
    let items = keys.into_iter().map(|key| {
        let seen = client.seen.get(&key);
        let dice = &mut client.dice;
        let is_counter = key.bytes().starts_with(b"c");
        let condition = if dice.chance(plan.compare_permille / 2) { draw_condition(dice, seen) } else { Condition::None };
        let action = match dice.below(10) {
            0 => TransactionAction::Check,
            1..=2 if token.is_none() => TransactionAction::Read,
            _ if dice.chance(plan.edge_permille) && is_counter => TransactionAction::Put(draw_edge(dice)),
            _ if dice.chance(plan.edge_permille) || is_counter => TransactionAction::Increment(draw_increment(plan, dice)),
            _ if dice.chance(plan.delete_permille) => TransactionAction::Delete,
            _ => TransactionAction::Put(draw_value(plan, number, client.next_id, dice)),
        };
        item(key, action, condition)
    });
    RequestBody::Transact(Transaction { items: items.collect(), token })
}

/// What the client asks next, when it has read what it meant to build on.
pub(super) fn follow_up(
    plan: &WorkloadPlan,
    number: usize,
    client: &mut Client,
    asked: &RequestBody,
    answer: &ResponseBody,
) -> Option<RequestBody> {
    let intent = client.intent.take()?;
    let (RequestBody::GetMany(keys), ResponseBody::Values(items)) = (asked, answer) else { return None };
    let token = token(plan, number, client);
    let seen: Vec<(Key, &ItemResult)> = keys.iter().cloned().zip(items).collect();
    let items = match intent {
        Intent::Append => append(plan, number, client, &seen)?,
        Intent::Transfer(amount) => {
            let balance =
                |item: &ItemResult| item.value.as_ref().map_or(Some(0), |value| core::str::from_utf8(value).ok()?.parse().ok());
            let change = [-amount, amount];
            let put = |((key, seen), change): (&(Key, &ItemResult), i64)| {
                let value = Bytes::from((balance(seen)? + change).to_string());
                Some(item(key.clone(), TransactionAction::Put(value), as_seen(seen)))
            };
            seen.iter().zip(change).map(put).collect::<Option<Vec<_>>>()?
        }
        Intent::Interactive => {
            let id = client.next_id;
            let change = |(key, seen): &(Key, &ItemResult)| {
                let action = match client.dice.below(10) {
                    0..=3 => TransactionAction::Check,
                    4 if seen.value.is_some() => TransactionAction::Delete,
                    _ => TransactionAction::Put(draw_value(plan, number, id, &mut client.dice)),
                };
                item(key.clone(), action, as_seen(seen))
            };
            seen.iter().map(change).collect()
        }
    };
    Some(RequestBody::Transact(Transaction { items, token }))
}

/// The condition that nothing has changed since.
fn as_seen(seen: &ItemResult) -> Condition {
    if seen.value.is_some() { Condition::Version(seen.version) } else { Condition::Absent }
}

fn append(plan: &WorkloadPlan, number: usize, client: &mut Client, seen: &[(Key, &ItemResult)]) -> Option<Vec<TransactionItem>> {
    let element = format!("{number}.{}", client.next_id);
    let mut items = Vec::new();
    for (key, seen) in seen {
        let mut value = seen.value.as_ref().map_or(Vec::new(), |value| value.to_vec());
        if value.len() > LIST_SIZE_MAX {
            client.first_list += plan.transactions.lists;
            return None;
        }
        if !value.is_empty() {
            value.push(b',');
        }
        value.extend(element.as_bytes());
        items.push(item(key.clone(), TransactionAction::Put(Bytes::from(value)), as_seen(seen)));
    }
    Some(items)
}

/// Whether a transaction with a token is asked for again, and how.
pub(super) fn again(client: &mut Client, asked: &RequestBody, in_doubt: bool) -> Option<RequestBody> {
    let RequestBody::Transact(transaction) = asked else { return None };
    transaction.token.as_ref()?;
    if !client.dice.chance(if in_doubt { 850 } else { 80 }) {
        return None;
    }
    let mut again = transaction.clone();
    // Of registers and counters any part may be left out; of a transfer none.
    let free = again.items.iter().all(|item| matches!(item.key.bytes().first(), Some(b'r' | b'c')));
    if free && again.items.len() > 1 && client.dice.chance(120) {
        again.items.pop();
    }
    Some(RequestBody::Transact(again))
}

/// The release of the token, if there was one request with it alone, and that was answered: as the client library does.
pub(super) fn release(client: &mut Client, asked: &RequestBody, answer: &ResponseBody) -> Option<RequestBody> {
    let RequestBody::Transact(Transaction { token: Some(token), .. }) = asked else { return None };
    let settled = matches!(answer, ResponseBody::Transacted(_) | ResponseBody::NotCommitted(_)) && !is_conflict(answer);
    let once = !client.tokens_asked.contains(token);
    (settled && once && client.dice.chance(500)).then(|| RequestBody::Transact(Transaction::release(token.clone())))
}

/// Keeps a transaction with a token for later.
pub(super) fn remember(client: &mut Client, asked: &RequestBody) {
    const REMEMBERED_MAX: usize = 12;
    if matches!(asked, RequestBody::Transact(transaction) if transaction.token.is_some())
        && client.remembered.len() < REMEMBERED_MAX
        && !client.remembered.contains(asked)
    {
        client.remembered.push_back(asked.clone());
    }
}

/// What an answer shows of the keys that were asked for.
pub(super) fn seen(asked: &RequestBody, answer: &ResponseBody) -> Vec<(Key, Option<Bytes>, Version)> {
    match (asked, answer) {
        (RequestBody::GetMany(keys), ResponseBody::Values(items)) => {
            keys.iter().zip(items).map(|(key, item)| (key.clone(), item.value.clone(), item.version)).collect()
        }
        (RequestBody::Transact(transaction), ResponseBody::Transacted(results)) => {
            let left = |(item, result): (&TransactionItem, &ItemResult)| match &item.action {
                TransactionAction::Put(value) => Some((item.key.clone(), Some(value.clone()), result.version)),
                TransactionAction::Delete => Some((item.key.clone(), None, result.version)),
                TransactionAction::Read => Some((item.key.clone(), result.value.clone(), result.version)),
                TransactionAction::Check | TransactionAction::Increment(_) => None,
            };
            transaction.items.iter().zip(results).filter_map(left).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether the transaction met a conflict, and no condition that did not hold.
pub(super) fn is_conflict(answer: &ResponseBody) -> bool {
    let ResponseBody::NotCommitted(failures) = answer else { return false };
    failures.iter().all(|failure| failure.reason == FailureReason::Conflict)
}

/// Errands that read these keys together: all accounts at once, the rest by some.
pub fn read_errands(keys: &[Key]) -> Vec<RequestBody> {
    let (accounts, others): (Vec<Key>, Vec<Key>) = keys.iter().cloned().partition(|key| key.bytes().starts_with(b"b"));
    let mut errands: Vec<RequestBody> = others.chunks(20).map(|keys| get_many(keys.to_vec())).collect();
    if !accounts.is_empty() {
        errands.push(get_many(accounts.clone()));
        errands.push(read_in_transaction(accounts));
    }
    errands
}

/// As [`super::partition_errands`], and transactions that write and read in several of the partitions at once.
pub fn partition_errands(partitions: &[u32], partitions_all: u32) -> Vec<RequestBody> {
    let mut errands = super::partition_errands(partitions, partitions_all);
    let key = |body: &RequestBody| match body {
        RequestBody::Operation(operation) if operation.action.is_write() => Some(operation.key.clone()),
        _ => None,
    };
    let keys: Vec<Key> = errands.iter().filter_map(key).collect();
    for keys in keys.chunks(4).filter(|keys| keys.len() > 1) {
        let put = |key: &Key| item(key.clone(), TransactionAction::Put(Bytes::from("together")), Condition::None);
        errands.push(RequestBody::Transact(Transaction { items: keys.iter().map(put).collect(), token: None }));
        errands.push(get_many(keys.to_vec()));
    }
    errands
}
