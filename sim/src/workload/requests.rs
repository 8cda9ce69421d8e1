//! From what a client means to what it asks, by what it has seen.

use super::Client;
use super::transactions::LIST_SIZE_MAX;
use crate::plan::operations::{Expected, Intent, Item, ItemAction};
use bytes::Bytes;
use ringseed::base::Key;
use ringseed::msg::client::{RequestBody, Scan};
use ringseed::msg::operation::{Acknowledge, Action, Condition, Consistency, Operation, Single};
use ringseed::msg::transaction::Transaction;

/// The request; `None` when what it builds on is not there: a token that was never asked with, a balance that is no number.
pub(super) fn body(client: &Client, intent: &Intent) -> Option<RequestBody> {
    Some(match intent {
        Intent::Get { key, eventual } => {
            RequestBody::Operation(Operation::read(key.clone()).alone().consistency(consistency(*eventual)))
        }
        Intent::Put { key, value, expected, all } => {
            let condition = condition(client, key, *expected);
            RequestBody::Operation(write(Operation::put(key.clone(), value.bytes()).only_if(condition), *all))
        }
        Intent::Delete { key, expected, all } => {
            let condition = condition(client, key, *expected);
            RequestBody::Operation(write(Operation::delete(key.clone()).only_if(condition), *all))
        }
        Intent::Increment { key, by, all } => RequestBody::Operation(write(Operation::increment(key.clone(), *by), *all)),
        Intent::Scan { prefix, from, limit, eventual } => {
            let (prefix, from, consistency) = (prefix.clone(), from.clone(), consistency(*eventual));
            RequestBody::Scan(Scan { prefix, from, limit: *limit, consistency })
        }
        Intent::GetMany { keys } => RequestBody::GetMany(keys.clone()),
        Intent::Transact { items, token } => {
            let items = items.iter().map(|item| self::item(client, item)).collect();
            RequestBody::Transact(Transaction { items, token: token.as_ref().map(|token| token.bytes()) })
        }
        Intent::Append { lists, element, token } => {
            let items = lists.iter().map(|list| appended(client, list, element)).collect::<Option<_>>()?;
            RequestBody::Transact(Transaction { items, token: token.as_ref().map(|token| token.bytes()) })
        }
        Intent::Transfer { from, to, amount, token } => {
            let items = vec![changed(client, from, -amount)?, changed(client, to, *amount)?];
            RequestBody::Transact(Transaction { items, token: token.as_ref().map(|token| token.bytes()) })
        }
        Intent::Again { token, items } => {
            let mut transaction = client.tokens.get(&token.bytes())?.transaction.clone();
            transaction.items.truncate(*items as usize);
            RequestBody::Transact(transaction)
        }
        Intent::Release { token } => {
            client.tokens.get(&token.bytes())?;
            RequestBody::Transact(Transaction::release(token.bytes()))
        }
    })
}

fn write(operation: Operation, all: bool) -> Single {
    operation.alone().acknowledge(if all { Acknowledge::All } else { Acknowledge::Quorum })
}

fn consistency(eventual: bool) -> Consistency {
    if eventual { Consistency::Eventual } else { Consistency::Strong }
}

fn condition(client: &Client, key: &Key, expected: Expected) -> Condition {
    match (expected, client.seen.get(key)) {
        (Expected::Anything, _) => Condition::None,
        (Expected::Present, _) => Condition::Present,
        (Expected::Unchanged, Some((Some(_), version))) => Condition::Version(*version),
        (Expected::SameValue, Some((Some(value), _))) => Condition::Value(value.clone()),
        (Expected::Absent | Expected::Unchanged | Expected::SameValue, _) => Condition::Absent,
    }
}

fn item(client: &Client, item: &Item) -> Operation {
    let action = match &item.action {
        ItemAction::Check => Action::Check,
        ItemAction::Read => Action::Read,
        ItemAction::Put(value) => Action::Put(value.bytes()),
        ItemAction::Delete => Action::Delete,
        ItemAction::Increment(by) => Action::Increment(*by),
    };
    Operation { key: item.key.clone(), action, condition: condition(client, &item.key, item.expected) }
}

fn put_unchanged(client: &Client, key: &Key, value: impl Into<Bytes>) -> Operation {
    let condition = condition(client, key, Expected::Unchanged);
    Operation::put(key.clone(), value).only_if(condition)
}

/// The list as the client has seen it, and the element behind it; unless the list is full.
fn appended(client: &Client, list: &Key, element: &str) -> Option<Operation> {
    let seen = client.seen.get(list).and_then(|(value, _)| value.as_ref());
    let mut value = seen.map_or(Vec::new(), |value| value.to_vec());
    if value.len() > LIST_SIZE_MAX {
        return None;
    }
    if !value.is_empty() {
        value.push(b',');
    }
    value.extend(element.as_bytes());
    Some(put_unchanged(client, list, value))
}

/// The balance as the client has seen it, and so much more.
fn changed(client: &Client, account: &Key, by: i64) -> Option<Operation> {
    let balance: i64 = match client.seen.get(account) {
        Some((Some(value), _)) => core::str::from_utf8(value).ok()?.parse().ok()?,
        _ => 0,
    };
    Some(put_unchanged(client, account, (balance + by).to_string()))
}
