//! No segment can be made.
//!
//! Matters when a segment, or the witness, was not made that the node had asked for.

use super::{Behaviour, FaultKind, Stands};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::draws::{self, node, settled, target};
use crate::plan::{Plan, Target};

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "full disk",
    draw: Some(|plan, dice| FaultKind::Full { target: target(plan, dice) }),
    begin: |world, _, strike| world.apply_disk_trouble(strike.node()),
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, _| trouble.full = true,
    stands: Some(Stands {
        draw: |plan, dice| FaultKind::Full { target: Target::Node(node(plan, dice)) },
        counted: Kind::StandingFull,
        cause: Some(Kind::Full),
    }),
    add: Some(for_minutes),
    ..Behaviour::NOTHING
};

/// One plan of the swarm in eighty lasts for a minute or two, and a disk is full for most of that: the log grows up to its last
/// byte, and the rest of the cluster goes on without the node, and takes it back.
fn for_minutes(plan: &mut Plan, dice: &mut Dice) {
    if plan.scenario != "swarm" || plan.calm_from_ms.is_some() || !dice.chance(12) {
        return;
    }
    plan.faults_ms = plan.faults_ms.max(dice.between(60_000, 150_000));
    plan.nodes.iter_mut().for_each(|node| node.segment_kib = 64);
    plan.workload.value_size_max = plan.workload.value_size_max.max(4_000);
    plan.workload.get_permille = plan.workload.get_permille.min(300);
    let at_ms = dice.between(settled(plan), plan.faults_ms / 4);
    let for_ms = dice.between(plan.faults_ms / 2, plan.faults_ms - at_ms);
    draws::add(plan, at_ms, for_ms, FaultKind::Full { target: target(plan, dice) });
}
