//! Which fault outlasts the others, in some plans.

use super::{Ending, FaultKind, Plan, Standing};
use crate::dice::Dice;
use crate::faults::STANDING;

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
    let stands = dice.pick(STANDING).stands.as_ref().expect("it is listed because it may stand");
    let kind = (stands.draw)(plan, dice);
    if matches!(kind, FaultKind::Full { .. }) {
        // So that the disk is soon asked for more.
        plan.nodes.iter_mut().for_each(|node| node.segment_kib = 64);
        plan.workload.value_size_max = plan.workload.value_size_max.max(8_000);
    }
    let at_ms = dice.between(plan.faults_ms / 2, plan.faults_ms - 1);
    plan.standing = Some(Standing { at_ms, kind });
}
