//! A client that does not wait for answers asks the target for so many things at once, most of which take work and none of which
//! changes an item. Halfway it may go away (`leaves`). While it stays, every request is answered once, in its time.
//!
//! Matters when the node turned one of the requests away, or did not get to it in time.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::Plan;
use crate::plan::draws::{add, settled, target};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour { name: "flood", add: Some(floods), begin, end, ..Behaviour::NOTHING };

/// One plan in twelve has a few.
fn floods(plan: &mut Plan, dice: &mut Dice) {
    if plan.calm_from_ms.is_some() || !dice.chance(80) {
        return;
    }
    for _ in 0..dice.between(1, 3) {
        let (at_ms, for_ms) = (dice.between(settled(plan), plan.faults_ms), dice.spread(100, 3_000));
        let kind =
            FaultKind::Flood { target: target(plan, dice), requests: dice.spread(10, 500) as u32, leaves: dice.chance(300) };
        add(plan, at_ms, for_ms, kind);
    }
}

fn begin(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::Flood { requests, leaves, .. } = *kind else { return };
    if world.counters.strikes(Kind::Flood) {
        world.flood(strike, requests, leaves);
    }
}

fn end(world: &mut World, _: &FaultKind, strike: Strike) {
    world.flood_ends(strike);
}
