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

use super::{Client, counter, draw_edge, draw_expected, draw_increment, draw_value, register};
use crate::check;
use crate::dice::Dice;
use crate::plan::WorkloadPlan;
use crate::plan::operations::{Expected, Intent, Item, ItemAction, Value};
use bytes::Bytes;
use ringseed::base::limits::TOKEN_SIZE_MAX;
use ringseed::base::{Key, Version};
use ringseed::msg::client::{RequestBody, ResponseBody};
use ringseed::msg::operation::{Action, Operation};
use ringseed::msg::transaction::{FailureReason, ItemResult, Transaction};

/// What keys of lists begin with; see [`check::lists`].
pub const LIST_PREFIX: &[u8] = b"l";
/// A list is left alone when it is this long, in bytes: histories hold values of up to 256 bytes in whole.
pub(super) const LIST_SIZE_MAX: usize = 230;

/// What a client makes of the items that it has asked to read.
#[derive(Debug)]
pub(super) enum FollowUp {
    Append,
    /// So much from the first to the second.
    Transfer(i64),
    Interactive,
}

/// A transaction that a client has asked for with a token.
#[derive(Debug)]
pub(super) struct Asked {
    token: Value,
    /// As it was asked for first.
    pub(super) transaction: Transaction,
    times: u32,
}

fn list(number: u32) -> Key {
    Key::from(format!("l{number}"))
}

/// A request on several keys.
pub(super) fn draw(plan: &WorkloadPlan, number: usize, client: &mut Client) -> Intent {
    let transactions = &plan.transactions;
    if client.dice.chance(transactions.token_permille / 4)
        && let Some(token) = client.remembered.pop_front()
        && let Some(asked) = client.tokens.get(&token.bytes())
    {
        return Intent::Again { token, items: asked.transaction.items.len() as u32 };
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
        client.follow_up = Some(FollowUp::Append);
        return Intent::GetMany { keys };
    }
    if is(transactions.audit_permille) && transactions.accounts > 0 {
        let accounts: Vec<Key> = (0..transactions.accounts).map(check::account).collect();
        if client.dice.chance(250) {
            let items = accounts.into_iter().map(|key| item(key, ItemAction::Read, Expected::Anything)).collect();
            return Intent::Transact { items, token: None };
        }
        return Intent::GetMany { keys: accounts };
    }
    let most = u64::from(transactions.items_max.max(2));
    let count = if client.dice.chance(plan.edge_permille) { most } else { client.dice.between(2, most) } as usize;
    if is(transactions.read_permille) {
        return Intent::GetMany { keys: keys(plan, count, &mut client.dice) };
    }
    if is(transactions.interactive_permille) {
        client.follow_up = Some(FollowUp::Interactive);
        return Intent::GetMany { keys: registers(plan, count, &mut client.dice) };
    }
    several(plan, number, count, client)
}

fn item(key: Key, action: ItemAction, expected: Expected) -> Item {
    Item { key, action, expected }
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

fn token(plan: &WorkloadPlan, number: usize, client: &mut Client) -> Option<Value> {
    if !client.dice.chance(plan.transactions.token_permille) {
        return None;
    }
    let token = format!("t{number}-{}", client.next_id);
    if client.dice.chance(plan.edge_permille) {
        return Some(Value::long(format!("{token}."), TOKEN_SIZE_MAX));
    }
    Some(Value::text(token))
}

fn transfer(plan: &WorkloadPlan, number: usize, client: &mut Client) -> Intent {
    let accounts = plan.transactions.accounts;
    let count = client.dice.between(2, 3) as usize;
    let mut parties = distinct(count, || check::account(one_of(accounts, plan, &mut client.dice)));
    let amount = client.dice.between(1, 9) as i64;
    if parties.len() < 2 {
        return Intent::GetMany { keys: parties };
    }
    if client.dice.chance(300) {
        client.follow_up = Some(FollowUp::Transfer(amount));
        parties.truncate(2);
        return Intent::GetMany { keys: parties };
    }
    let others = parties.len() as i64 - 1;
    let part = |at: usize| if at == 0 { -amount * others } else { amount };
    let increment = |(at, key)| item(key, ItemAction::Increment(part(at)), Expected::Anything);
    let mut items: Vec<Item> = parties.into_iter().enumerate().map(increment).collect();
    // The first account decides where the home is.
    if client.dice.chance(500) {
        items.reverse();
    }
    Intent::Transact { items, token: token(plan, number, client) }
}

/// A one-shot transaction on registers and counters.
fn several(plan: &WorkloadPlan, number: usize, count: usize, client: &mut Client) -> Intent {
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
        let dice = &mut client.dice;
        let is_counter = key.bytes().starts_with(b"c");
        let expected = if dice.chance(plan.compare_permille / 2) { draw_expected(dice) } else { Expected::Anything };
        let action = match dice.below(10) {
            0 => ItemAction::Check,
            1..=2 if token.is_none() => ItemAction::Read,
            _ if dice.chance(plan.edge_permille) && is_counter => ItemAction::Put(draw_edge(dice)),
            _ if dice.chance(plan.edge_permille) || is_counter => ItemAction::Increment(draw_increment(plan, dice)),
            _ if dice.chance(plan.delete_permille) => ItemAction::Delete,
            _ => ItemAction::Put(draw_value(plan, number, client.next_id, dice)),
        };
        item(key, action, expected)
    });
    Intent::Transact { items: items.collect(), token }
}

/// What the client asks next, when it has read what it meant to build on.
pub(super) fn follow_up(
    plan: &WorkloadPlan,
    number: usize,
    client: &mut Client,
    asked: &RequestBody,
    answer: &ResponseBody,
) -> Option<Intent> {
    let follow_up = client.follow_up.take()?;
    let (RequestBody::GetMany(keys), ResponseBody::Values(seen)) = (asked, answer) else { return None };
    let token = token(plan, number, client);
    let id = client.next_id;
    match follow_up {
        FollowUp::Append => {
            if seen.iter().any(|item| item.value.as_ref().is_some_and(|value| value.len() > LIST_SIZE_MAX)) {
                client.first_list += plan.transactions.lists;
                return None;
            }
            Some(Intent::Append { lists: keys.clone(), element: format!("{number}.{id}"), token })
        }
        FollowUp::Transfer(amount) => {
            let [from, to] = &keys[..] else { return None };
            Some(Intent::Transfer { from: from.clone(), to: to.clone(), amount, token })
        }
        FollowUp::Interactive => {
            let change = |(key, seen): (&Key, &ItemResult)| {
                let action = match client.dice.below(10) {
                    0..=3 => ItemAction::Check,
                    4 if seen.value.is_some() => ItemAction::Delete,
                    _ => ItemAction::Put(draw_value(plan, number, id, &mut client.dice)),
                };
                item(key.clone(), action, Expected::Unchanged)
            };
            let items = keys.iter().zip(seen).map(change).collect();
            Some(Intent::Transact { items, token })
        }
    }
}

/// Keeps in mind what the client asks now with a token.
pub(super) fn note(client: &mut Client, intent: &Intent, body: &RequestBody) {
    let (Intent::Transact { token: Some(token), .. }
    | Intent::Append { token: Some(token), .. }
    | Intent::Transfer { token: Some(token), .. }
    | Intent::Again { token, .. }
    | Intent::Release { token }) = intent
    else {
        return;
    };
    let RequestBody::Transact(transaction) = body else { return };
    let (token, transaction) = (token.clone(), transaction.clone());
    let asked = client.tokens.entry(token.bytes()).or_insert(Asked { token, transaction, times: 0 });
    asked.times += 1;
}

/// Whether a transaction with a token is asked for again, and how.
pub(super) fn again(client: &mut Client, asked: &RequestBody, in_doubt: bool) -> Option<Intent> {
    let RequestBody::Transact(Transaction { items, token: Some(token) }) = asked else { return None };
    if !client.dice.chance(if in_doubt { 850 } else { 80 }) {
        return None;
    }
    let mut count = items.len() as u32;
    // Of registers and counters any part may be left out; of a transfer none.
    let free = items.iter().all(|item| matches!(item.key.bytes().first(), Some(b'r' | b'c')));
    if free && count > 1 && client.dice.chance(120) {
        count -= 1;
    }
    let token = client.tokens.get(token)?.token.clone();
    Some(Intent::Again { token, items: count })
}

/// The release of the token, if there was one request with it alone, and that was answered: as the client library does.
pub(super) fn release(client: &mut Client, asked: &RequestBody, answer: &ResponseBody) -> Option<Intent> {
    let RequestBody::Transact(Transaction { token: Some(token), .. }) = asked else { return None };
    let settled = matches!(answer, ResponseBody::Transacted(_) | ResponseBody::NotCommitted(_)) && !is_conflict(answer);
    let asked = client.tokens.get(token)?;
    (settled && asked.times == 1 && client.dice.chance(500)).then(|| Intent::Release { token: asked.token.clone() })
}

/// Keeps the token of a transaction for later.
pub(super) fn remember(client: &mut Client, asked: &RequestBody) {
    const REMEMBERED_MAX: usize = 12;
    let RequestBody::Transact(Transaction { token: Some(token), .. }) = asked else { return };
    let Some(asked) = client.tokens.get(token) else { return };
    if client.remembered.len() < REMEMBERED_MAX && !client.remembered.contains(&asked.token) {
        client.remembered.push_back(asked.token.clone());
    }
}

/// What an answer shows of the keys that were asked for.
pub(super) fn seen(asked: &RequestBody, answer: &ResponseBody) -> Vec<(Key, Option<Bytes>, Version)> {
    match (asked, answer) {
        (RequestBody::GetMany(keys), ResponseBody::Values(items)) => {
            keys.iter().zip(items).map(|(key, item)| (key.clone(), item.value.clone(), item.version)).collect()
        }
        (RequestBody::Transact(transaction), ResponseBody::Transacted(results)) => {
            let left = |(item, result): (&Operation, &ItemResult)| match &item.action {
                Action::Put(value) => Some((item.key.clone(), Some(value.clone()), result.version)),
                Action::Delete => Some((item.key.clone(), None, result.version)),
                Action::Read => Some((item.key.clone(), result.value.clone(), result.version)),
                Action::Check | Action::Increment(_) => None,
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
    let mut errands: Vec<RequestBody> = others.chunks(20).map(|keys| RequestBody::GetMany(keys.to_vec())).collect();
    if !accounts.is_empty() {
        errands.push(RequestBody::GetMany(accounts.clone()));
        let items = accounts.into_iter().map(Operation::read).collect();
        errands.push(RequestBody::Transact(Transaction { items, token: None }));
    }
    errands
}

/// As [`super::partition_errands`], and transactions that write and read in several of the partitions at once.
pub fn partition_errands(partitions: &[u32], partitions_all: u32) -> Vec<RequestBody> {
    let mut errands = super::partition_errands(partitions, partitions_all);
    let key = |body: &RequestBody| match body {
        RequestBody::Operation(single) if single.is_write() => Some(single.operation.key.clone()),
        _ => None,
    };
    let keys: Vec<Key> = errands.iter().filter_map(key).collect();
    for keys in keys.chunks(4).filter(|keys| keys.len() > 1) {
        let put = |key: &Key| Operation::put(key.clone(), "together");
        errands.push(RequestBody::Transact(Transaction { items: keys.iter().map(put).collect(), token: None }));
        errands.push(RequestBody::GetMany(keys.to_vec()));
    }
    errands
}
