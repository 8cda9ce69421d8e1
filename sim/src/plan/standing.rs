//! Which fault outlasts the others, in some plans.

use super::generate::pair;
use super::{Ending, FaultKind, Plan, Standing, Target};
use crate::dice::Dice;

type Draw = fn(&Plan, &mut Dice) -> FaultKind;

/// The lasting faults that the cluster must live with.
const DRAWS: &[Draw] = &[
    |plan, dice| FaultKind::Crash { target: Target::Node(node(plan, dice)) },
    |plan, dice| FaultKind::Full { target: Target::Node(node(plan, dice)) },
    |plan, dice| FaultKind::SlowDisk {
        target: Target::Node(node(plan, dice)),
        // Far above what the others take.
        sync_ms: dice.spread(200, 2_000) + plan.disk.sync_us / 50,
    },
    cut_link,
    one_way_link,
];

/// Gives one plan in six of those that can bear it a standing fault.
pub(super) fn draw(plan: &mut Plan, dice: &mut Dice) {
    let gone = |kind: &FaultKind| matches!(kind, FaultKind::Wipe { .. } | FaultKind::OldDirectory { .. });
    // A replica that may have lost something needs every voter to elect.
    let relaxed = plan.nodes.iter().any(|node| node.wal_sync_ms > 0);
    let calm = plan.calm_from_ms.is_some();
    let bears = plan.ending == Ending::HealAll && !relaxed && !calm && !plan.faults.iter().any(|fault| gone(&fault.kind));
    if plan.standing.is_some() || !bears || plan.beyond_drift_bound() || !dice.chance(170) {
        return;
    }
    let kind = dice.pick(DRAWS)(plan, dice);
    if matches!(kind, FaultKind::Full { .. }) {
        // So that the disk is soon asked for more.
        plan.nodes.iter_mut().for_each(|node| node.segment_kib = 64);
        plan.workload.value_size_max = plan.workload.value_size_max.max(8_000);
    }
    let at_ms = dice.between(plan.faults_ms / 2, plan.faults_ms - 1);
    plan.standing = Some(Standing { at_ms, kind });
}

/// A link between two nodes; where others are left that both of them hear, now and then a second one.
pub(super) fn cut_link(plan: &Plan, dice: &mut Dice) -> FaultKind {
    let mut pairs = vec![pair(plan, dice)];
    if plan.nodes.len() > 3 && dice.chance(300) {
        pairs.push(pair(plan, dice));
    }
    FaultKind::Partial { pairs }
}

pub(super) fn one_way_link(plan: &Plan, dice: &mut Dice) -> FaultKind {
    let (from, to) = pair(plan, dice);
    FaultKind::OneWayLink { from, to }
}

fn node(plan: &Plan, dice: &mut Dice) -> u16 {
    1 + dice.below(plan.nodes.len() as u64) as u16
}
