//! The bank: accounts among which money is moved, and never made or lost.
//!
//! Every account begins with [`BALANCE`], all in one transaction. A transfer is one transaction: three of four take from one
//! account and add to others blindly, by increments; the fourth reads the balances first and writes new ones if they are still
//! the same. A look at all accounts, by a read of several items or by a transaction of reads in turn, must find the sum with
//! which they began. A transfer whose outcome is unknown is done or not, so it changes no sum either.

use super::Load;
use crate::base::Key;
use crate::base::limits::TRANSACTION_ITEMS_MAX;
use crate::base::random::{Random, Rng, below};
use crate::client::{Client, Error};
use crate::msg::client::{RequestBody, ResponseBody};
use crate::msg::operation::{Condition, Operation};
use crate::msg::transaction::{ItemResult, Transaction};
use std::sync::Mutex;

/// With what each account begins.
pub const BALANCE: i64 = 1_000;
/// The most that one account is given at a time.
const AMOUNT_MAX: u64 = 20;
/// Wrong sums that are told in full.
const TOLD_MAX: usize = 10;

/// The most accounts: all must fit into one transaction.
pub const ACCOUNTS_MAX: u64 = TRANSACTION_ITEMS_MAX as u64;

/// What the looks at all accounts found.
#[derive(Debug, Default)]
pub struct Audits {
    found: Mutex<Found>,
}

#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Looks that saw all accounts with the right sum.
    pub right: u64,
    pub wrong: u64,
    /// The first of the wrong ones.
    pub told: Vec<String>,
}

impl Audits {
    pub fn found(&self) -> Found {
        self.found.lock().expect("no worker panicked").clone()
    }

    /// Judges what was seen of all accounts, in their order.
    fn judge(&self, items: &[ItemResult]) {
        let verdict = judge(items);
        let mut found = self.found.lock().expect("no worker panicked");
        match verdict {
            Ok(()) => found.right += 1,
            Err(why) => {
                found.wrong += 1;
                if found.told.len() < TOLD_MAX {
                    eprintln!("WRONG SUM: {why}");
                    found.told.push(why);
                }
            }
        }
    }
}

fn judge(items: &[ItemResult]) -> Result<(), String> {
    let mut sum: i128 = 0;
    for (account, item) in items.iter().enumerate() {
        let number = item.value.as_deref().map(balance);
        match number {
            Some(Some(number)) => sum += i128::from(number),
            Some(None) => return Err(format!("account {account} holds no number (version {})", item.version)),
            None => return Err(format!("account {account} is missing (version {})", item.version)),
        }
    }
    let expected = i128::from(BALANCE) * items.len() as i128;
    match sum == expected {
        true => Ok(()),
        false => {
            let accounts: Vec<String> = items
                .iter()
                .map(|item| format!("{}@{}", item.value.as_deref().map_or("?".into(), String::from_utf8_lossy), item.version))
                .collect();
            Err(format!("{sum} where {expected} was expected; balance@version of each account: {}", accounts.join(" ")))
        }
    }
}

fn balance(value: &[u8]) -> Option<i64> {
    core::str::from_utf8(value).ok()?.parse().ok()
}

impl Load {
    fn accounts(&self) -> Vec<Key> {
        (0..self.args.keys()).map(|account| self.key(account)).collect()
    }

    /// Gives every account its first balance, at once.
    pub fn open_accounts(&self) -> Transaction {
        let items = self.accounts().into_iter().map(|account| Operation::put(account, BALANCE.to_string()));
        Transaction { items: items.collect(), token: None }
    }

    /// Looks at all accounts at once.
    pub async fn audit(&self, client: &Client, process: u64, by_transaction: bool) -> Result<(), Error> {
        let accounts = self.accounts();
        let body = if by_transaction {
            let items = accounts.into_iter().map(Operation::read).collect();
            RequestBody::Transact(Transaction { items, token: None })
        } else {
            RequestBody::GetMany(accounts)
        };
        match self.perform(client, process, body).await? {
            ResponseBody::Values(items) | ResponseBody::Transacted(items) => {
                self.audits.judge(&items);
                Ok(())
            }
            other => Err(Error::Protocol(format!("an answer to something else: {other:?}"))),
        }
    }

    /// Moves money between accounts: of the first of some to the others.
    pub async fn next_transfer(&self, client: &Client, process: u64, random: &mut Random) -> Result<Transaction, Error> {
        let accounts = self.keys.distinct(random, self.args.txn_items);
        let gives: Vec<i64> = accounts[1..].iter().map(|_| 1 + below(random, AMOUNT_MAX) as i64).collect();
        let changes = [-gives.iter().sum::<i64>()].into_iter().chain(gives);
        let mut changes: Vec<(Key, i64)> = accounts.iter().map(|account| self.key(*account)).zip(changes).collect();
        // The home is the first item's: not always the one that pays.
        let turn = below(random, changes.len() as u64) as usize;
        changes.rotate_left(turn);
        if random.next_u64() & 3 != 0 {
            let items = changes.into_iter().map(|(account, by)| Operation::increment(account, by)).collect();
            return Ok(Transaction { items, token: None });
        }
        let keys = changes.iter().map(|(account, _)| account.clone()).collect();
        let ResponseBody::Values(seen) = self.perform(client, process, RequestBody::GetMany(keys)).await? else {
            return Err(Error::Protocol("an answer to something else".into()));
        };
        let items = changes.into_iter().zip(seen).map(|((account, by), seen)| {
            let value = seen.value.unwrap_or_default();
            // What is no number stays as it is; a look at all accounts will tell.
            let new = balance(&value).map_or_else(|| value.clone(), |number| (number + by).to_string().into());
            Operation::put(account, new).only_if(Condition::Value(value))
        });
        Ok(Transaction { items: items.collect(), token: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Version;

    #[test]
    fn sums_are_judged() {
        let seen = |balances: &[&'static str]| -> Vec<ItemResult> {
            let item = |text: &&'static str| ItemResult { version: Version(3), number: None, value: Some((*text).into()) };
            balances.iter().map(item).collect()
        };
        assert_eq!(judge(&seen(&["1000", "1000"])), Ok(()));
        assert_eq!(judge(&seen(&["-5", "2005"])), Ok(()));
        assert!(judge(&seen(&["1000", "999"])).unwrap_err().contains("1999 where 2000"));
        assert!(judge(&seen(&["1000", "x"])).unwrap_err().contains("no number"));
        assert!(judge(&[ItemResult::default()]).unwrap_err().contains("missing"));
        let audits = Audits::default();
        audits.judge(&seen(&["1000"]));
        audits.judge(&seen(&["1"]));
        assert_eq!((audits.found().right, audits.found().wrong, audits.found().told.len()), (1, 1, 1));
    }
}
