//! All machines lose power within `within_ms`.
//!
//! Matters as a power loss, on any node.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::plan::draws::style;
use crate::world::{MS, World};

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "power loss of all",
    draw: Some(|_, dice| FaultKind::PowerLossOfAll { within_ms: dice.spread(1, 50), style: style(dice) }),
    begin,
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::PowerLossOfAll { within_ms, style } = *kind else { return };
    if !world.counters.strikes(Kind::PowerLossOfAll) {
        return;
    }
    for number in 0..world.machines.len() {
        let delay = world.schedule.below(within_ms * MS + 1);
        let down_ms = strike.for_ms + world.schedule.below(100);
        world.outage_after(delay, number, style, down_ms);
    }
}
