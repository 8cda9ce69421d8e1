//! The clock runs at another rate.
//!
//! Within the bound it matters when a timer of the node fires more than a millisecond from when it would by the node's own rate.
//! Beyond the bound, when an answer that rested on a lease is stale.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::Plan;
use crate::plan::draws::target;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour { name: "clock rate", draw: Some(draw), begin, end, ..Behaviour::NOTHING };

/// Mostly another rate within the bound; now and then one beyond it, or a jump.
fn draw(plan: &Plan, dice: &mut Dice) -> FaultKind {
    let target = target(plan, dice);
    let within = i64::from(plan.cluster.clock_drift_ppm_max) * 9 / 20;
    match dice.below(20) {
        0 => FaultKind::ClockRate { target, ppm: *dice.pick(&[-800_000, -500_000, 500_000, 2_000_000]) },
        1 => FaultKind::ClockJump { target, by_ms: dice.spread(100, 20_000) },
        _ => FaultKind::ClockRate { target, ppm: dice.between(0, 2 * within as u64) as i64 - within },
    }
}

fn begin(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::ClockRate { ppm, .. } = *kind else { return };
    world.set_clock_rate(strike.node(), Some(ppm));
    if !world.beyond_drift_bound {
        world.counters.fired(Kind::ClockRate);
    }
}

fn end(world: &mut World, _: &FaultKind, strike: Strike) {
    world.set_clock_rate(strike.node(), None);
}
