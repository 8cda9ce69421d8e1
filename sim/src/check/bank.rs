//! Transfers conserve the sum of all accounts (P2): every read of all of them at one instant sees it.
//!
//! Needs no versions and no graph, and so trusts neither. Accounts are keys that begin with a prefix; one that is absent holds 0.

use super::{Violation, render};
use ringseed::base::Key;
use ringseed::history::{Action, Data, ItemAction, Outcome, Record};
use std::collections::BTreeMap;

/// Judges every read, and every reading transaction, that covers all `accounts`: they hold `total` together.
///
/// # Errors
/// The first read that sees another sum, or an account that holds no number.
pub fn check(history: &[Record], accounts: &[Key], total: i64) -> Result<(), Violation> {
    if accounts.is_empty() {
        return Ok(());
    }
    for record in history {
        let seen = balances(record);
        let Some(all) = accounts.iter().map(|account| seen.get(account)).collect::<Option<Vec<_>>>() else { continue };
        let sum = all.into_iter().try_fold(0_i64, |sum, balance| sum.checked_add((*balance)?));
        if sum != Some(total) {
            let sum = sum.map_or("no number".into(), |sum| sum.to_string());
            let what = format!("the accounts hold {sum} together, not {total}{}", render::records([record]));
            return Err(Violation { promise: "P2", checker: "bank", what });
        }
    }
    Ok(())
}

/// What the operation saw, by key; an inner `None` is no number.
fn balances(record: &Record) -> BTreeMap<&Key, Option<i64>> {
    let number = |value: &Option<Data>| value.as_ref().map_or(Some(0), Data::number);
    match (&record.action, &record.outcome) {
        (Action::GetMany { keys }, Outcome::Values { items }) => {
            keys.iter().zip(items).map(|(key, item)| (key, number(&item.value))).collect()
        }
        (Action::Transact { items, .. }, Outcome::Transacted { results }) => {
            let reads = items.iter().zip(results).filter(|(item, _)| item.action == ItemAction::Read);
            reads.map(|(item, result)| (&item.key, number(&result.value))).collect()
        }
        _ => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::tests::{data, key, op};
    use super::*;
    use ringseed::history::ItemResult;

    #[test]
    fn the_sum_is_conserved() {
        let judge = |a: Option<&str>, b: Option<&str>| {
            let keys = vec![key("b0"), key("b1")];
            let item = |value: Option<&str>| ItemResult { version: 1, number: None, value: value.map(data) };
            let values = Outcome::Values { items: vec![item(a), item(b)] };
            check(&[op(0, 1, Action::GetMany { keys }, values)], &[key("b0"), key("b1")], 0)
        };
        judge(None, None).unwrap();
        judge(Some("-7"), Some("7")).unwrap();
        judge(Some("-7"), None).unwrap_err();
        judge(Some("-7"), Some("8")).unwrap_err();
        judge(Some("x"), Some("0")).unwrap_err();
    }
}
