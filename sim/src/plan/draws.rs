//! What is drawn in many plans: times, targets, and surroundings that suit a purpose.

use super::{Fault, FaultKind, LossStyle, Plan, Rot, Target, Trigger};
use crate::dice::Dice;

pub(super) const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;

/// How long a node that has lost acknowledged records needs at most to catch up with peers that nothing strikes meanwhile.
pub(super) const CATCHES_UP_WITHIN_MS: u64 = 6_000;

#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub draw: fn(&mut Plan, &mut Dice),
}

/// When the cluster has formed and elected its leaders, mostly.
pub fn settled(plan: &Plan) -> u64 {
    500 + u64::from(plan.cluster.support_ms)
}

pub fn target(plan: &Plan, dice: &mut Dice) -> Target {
    let group = 1 + dice.below(u64::from(plan.cluster.partitions)) as u32;
    match dice.below(10) {
        0..=3 => Target::LeaderOf(group),
        4..=5 => Target::FollowerOf(group),
        _ => Target::Node(1 + dice.below(plan.nodes.len() as u64) as u16),
    }
}

pub fn style(dice: &mut Dice) -> LossStyle {
    *dice.pick(&[
        LossStyle::Nothing,
        LossStyle::Sectors,
        LossStyle::Sectors,
        LossStyle::Prefix,
        LossStyle::Suffix,
        LossStyle::Everything,
    ])
}

/// All nodes scrub, this often.
pub fn scrub(plan: &mut Plan, dice: &mut Dice) {
    let scrub_ms = *dice.pick(&[300, 1_000, 5_000]);
    plan.nodes.iter_mut().for_each(|node| node.scrub_ms = scrub_ms);
}

pub fn rot(dice: &mut Dice) -> Rot {
    let bytes = *dice.pick(&[512, 512, 4096, 4096, 97, 1_000, 10_000]);
    match dice.below(5) {
        0 | 1 => Rot::Witness,
        2 => Rot::Bits(bytes),
        _ => Rot::Zeros(bytes),
    }
}

pub fn pair(plan: &Plan, dice: &mut Dice) -> (u16, u16) {
    let nodes = plan.nodes.len() as u64;
    let from = dice.below(nodes);
    let to = (from + 1 + dice.below(nodes - 1)) % nodes;
    (from as u16 + 1, to as u16 + 1)
}

/// The same fault, at the node where its trigger happens.
pub(super) fn aimed_there(mut kind: FaultKind) -> FaultKind {
    if kind.behaviour().aimed
        && let Some(target) = kind.target_mut()
    {
        *target = Target::There;
    }
    kind
}

/// Times spread over the phase: every `every_ms`, a little off.
pub(super) fn times(plan: &Plan, dice: &mut Dice, every_ms: u64) -> Vec<u64> {
    let mut times = Vec::new();
    let mut at = settled(plan) + dice.below(every_ms);
    while at < plan.faults_ms {
        times.push(at);
        at += dice.between(every_ms / 2, every_ms * 3 / 2).max(1);
    }
    times
}

pub fn add(plan: &mut Plan, at_ms: u64, for_ms: u64, kind: FaultKind) {
    plan.faults.push(Fault { at_ms, for_ms, when: None, nth: 0, kind });
}

pub(super) fn add_when(plan: &mut Plan, at_ms: u64, for_ms: u64, when: Trigger, kind: FaultKind) {
    plan.faults.push(Fault { at_ms, for_ms, when: Some(when), nth: 0, kind: aimed_there(kind) });
}

/// Few partitions, few keys, quick clients: every operation meets others.
pub(super) fn focus(plan: &mut Plan, dice: &mut Dice) {
    plan.cluster.partitions = *dice.pick(&[1, 1, 2]);
    plan.workload.keys = dice.between(1, 5) as u32;
    plan.workload.clients = dice.between(4, 10) as u32;
    plan.workload.think_ms = dice.between(5, 20);
    plan.workload.timeout_ms = dice.between(300, 1500) as u32;
}

pub(super) fn strict_sync(plan: &mut Plan) {
    plan.nodes.iter_mut().for_each(|node| node.wal_sync_ms = 0);
}

pub(super) fn readers(plan: &mut Plan, dice: &mut Dice) {
    plan.workload.get_permille = dice.between(450, 650) as u32;
    plan.workload.eventual_permille = 0;
    plan.workload.wander_permille = *dice.pick(&[0, 10, 50]);
}

/// Any node, from 1.
pub fn node(plan: &Plan, dice: &mut Dice) -> u16 {
    1 + dice.below(plan.nodes.len() as u64) as u16
}
