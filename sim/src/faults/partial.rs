//! These pairs cannot talk.
//!
//! Matters when a message was lost that is no heartbeat.

use super::{Behaviour, FaultKind, Stands, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::Plan;
use crate::plan::draws::pair;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "partial partition",
    draw: Some(|plan, dice| FaultKind::Partial { pairs: pairs(plan, dice) }),
    begin: |world, _, _| world.counters.fired(Kind::Partial),
    network,
    stands: Some(Stands { draw: cut_link, counted: Kind::StandingCut, cause: Some(Kind::Partial) }),
    ..Behaviour::NOTHING
};

fn pairs(plan: &Plan, dice: &mut Dice) -> Vec<(u16, u16)> {
    (0..dice.between(1, plan.nodes.len() as u64)).map(|_| pair(plan, dice)).collect()
}

/// A link between two nodes; where others are left that both of them hear, now and then a second one.
pub fn cut_link(plan: &Plan, dice: &mut Dice) -> FaultKind {
    let mut pairs = vec![pair(plan, dice)];
    if plan.nodes.len() > 3 && dice.chance(300) {
        pairs.push(pair(plan, dice));
    }
    FaultKind::Partial { pairs }
}

fn network(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::Partial { pairs } = kind else { return };
    for &(one, other) in pairs {
        let Some((one, other)) = world.link(one, other) else { continue };
        if one != other {
            world.cut(one, other, Kind::Partial, 0, strike);
            world.cut(other, one, Kind::Partial, 0, strike);
        }
    }
}
