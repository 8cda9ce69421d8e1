//! Transactions in plans: what clients ask of several keys, and faults at points of the protocol.

use super::generate::settled;
use super::scenarios::Scenario;
use super::{Fault, FaultKind, Plan};
use crate::dice::Dice;
use serde::{Deserialize, Serialize};

/// What the clients ask of several keys at once; see [`crate::workload::transactions`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransactionPlan {
    /// Of a thousand operations, how many are on several keys.
    pub permille: u32,
    /// Of a thousand of these, how many are of each kind; what is left are one-shot transactions on registers and counters.
    pub transfer_permille: u32,
    pub append_permille: u32,
    pub audit_permille: u32,
    pub read_permille: u32,
    pub interactive_permille: u32,
    pub accounts: u32,
    pub lists: u32,
    pub items_max: u32,
    /// Of a thousand transactions, how many carry a token.
    pub token_permille: u32,
}

/// A mix.
pub(super) fn draw(dice: &mut Dice) -> TransactionPlan {
    TransactionPlan {
        permille: *dice.pick(&[100, 300, 500, 800, 1000]),
        transfer_permille: *dice.pick(&[0, 200, 300, 600]),
        append_permille: *dice.pick(&[0, 100, 250]),
        audit_permille: *dice.pick(&[0, 50, 100]),
        read_permille: *dice.pick(&[0, 50, 150]),
        interactive_permille: *dice.pick(&[0, 50, 150]),
        accounts: dice.between(2, 8) as u32,
        lists: dice.between(1, 4) as u32,
        items_max: dice.between(2, 6) as u32,
        token_permille: *dice.pick(&[0, 0, 200, 500]),
    }
}

pub(super) fn strike_points(_plan: &mut Plan, _dice: &mut Dice) {}
pub const TABLE: &[Scenario] = super::scenarios::TABLE;
