//! Which fault outlasts the others, in some plans; and disks that are slow everywhere.

use super::draws::{pair, settled};
use super::{Ending, Fault, FaultKind, Plan, Standing, Target};
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
    |_, dice| FaultKind::SlowDisks { sync_ms: slow_sync_ms(dice) },
    cut_link,
    one_way_link,
];

/// A disk under load, up to one that is about to fail.
fn slow_sync_ms(dice: &mut Dice) -> u64 {
    dice.spread(80, 2_000)
}

/// In one plan in twelve, of those that can bear it, all syncs are slow for most of the time, and clients wait for them; in some
/// from before the cluster has formed.
pub(super) fn slow_all_disks(plan: &mut Plan, dice: &mut Dice) {
    // What peers have heard, and what vouches for a log's end, is behind by as much as syncs take.
    let knows =
        |kind: &FaultKind| matches!(kind, FaultKind::Wipe { .. } | FaultKind::OldDirectory { .. } | FaultKind::RotTail { .. });
    let relaxed = plan.nodes.iter().any(|node| node.wal_sync_ms > 0);
    if relaxed || plan.calm_from_ms.is_some() || plan.faults.iter().any(|fault| knows(&fault.kind)) || !dice.chance(80) {
        return;
    }
    let sync_ms = slow_sync_ms(dice);
    let at_ms = if dice.chance(300) { 0 } else { settled(plan) };
    plan.faults_ms += 10 * sync_ms;
    plan.workload.timeout_ms = plan.workload.timeout_ms.max(6 * sync_ms as u32);
    plan.faults.push(Fault { at_ms, for_ms: plan.faults_ms - at_ms, when: None, nth: 0, kind: FaultKind::SlowDisks { sync_ms } });
}

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
