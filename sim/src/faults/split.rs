//! The nodes of one side hear none of the other.
//!
//! Matters when a message was lost that is no heartbeat.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::Plan;
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "split",
    draw: Some(|plan, dice| FaultKind::Split { side: side(plan, dice) }),
    begin: |world, _, _| world.counters.fired(Kind::Split),
    network,
    ..Behaviour::NOTHING
};

fn side(plan: &Plan, dice: &mut Dice) -> Vec<u16> {
    let all: Vec<u16> = (1..=plan.nodes.len() as u16).collect();
    let some: Vec<u16> = all.iter().copied().filter(|_| dice.chance(500)).collect();
    if some.is_empty() || some.len() == all.len() { vec![*dice.pick(&all)] } else { some }
}

fn network(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::Split { side } = kind else { return };
    let machines = world.machines.len();
    let here = |number: usize| side.contains(&(number as u16 + 1));
    for one in 0..machines {
        for other in (0..machines).filter(|&other| here(one) != here(other)) {
            world.cut(one, other, Kind::Split, 0, strike);
        }
    }
}
