//! Segments that are emptied and used again, many times in a run; and disks that are emptied because they are full.

use super::draws::{add, add_when, node, settled, strict_sync, style};
use super::{Ending, FaultKind, Plan, Target, Trigger, transactions};
use crate::dice::Dice;

/// Nodes end while segments are emptied, freed and used again.
pub fn struck_compactions(plan: &mut Plan, dice: &mut Dice) {
    small_segments(plan, dice);
    let mut at = settled(plan) + dice.below(1_000);
    while at < plan.faults_ms {
        let when = *dice.pick(&[Trigger::Frees, Trigger::Frees, Trigger::Creates, Trigger::Writes, Trigger::Syncs]);
        let kind = match dice.below(4) {
            0 => FaultKind::Crash { target: Target::There },
            _ => FaultKind::PowerLoss { target: Target::There, style: style(dice) },
        };
        add_when(plan, at, dice.spread(10, 800), when, kind);
        if let Some(fault) = plan.faults.last_mut() {
            fault.nth = dice.spread(0, 20) as u32;
        }
        at += dice.between(500, 2_500);
    }
}

/// The disks of some nodes, or of all, are full for long, while much is deleted.
pub fn emptied_disks(plan: &mut Plan, dice: &mut Dice) {
    small_segments(plan, dice);
    plan.nodes.iter_mut().for_each(|node| node.segment_kib = 32);
    plan.workload.delete_permille = dice.between(200, 500) as u32;
    plan.workload.value_size_max = dice.between(500, 2_000) as u32;
    let nodes = plan.nodes.len() as u64;
    let mut at = settled(plan) + 500 + dice.below(1_000);
    while at + 1_000 < plan.faults_ms {
        let span = dice.between(2_000, 5_000);
        let all = dice.chance(500);
        for number in 1..=nodes as u16 {
            if all || dice.chance(300) {
                add(plan, at + dice.below(200), span, FaultKind::Full { target: Target::Node(number) });
            }
        }
        if dice.chance(400) {
            let target = Target::Node(node(plan, dice));
            add(plan, at + dice.below(span), dice.between(50, 500), FaultKind::PowerLoss { target, style: style(dice) });
        }
        at += span + dice.between(500, 1_500);
    }
}

/// Checkpoints after little, of values that are overwritten soon.
fn small_segments(plan: &mut Plan, dice: &mut Dice) {
    if dice.chance(800) {
        strict_sync(plan);
    }
    plan.cluster.partitions = *dice.pick(&[1, 1, 2, 4]);
    plan.faults_ms = plan.faults_ms.max(dice.between(6_000, 10_000));
    if dice.chance(600) {
        plan.workload.transactions = transactions::draw(dice);
        plan.workload.transactions.permille = 200;
    }
    plan.network.bandwidth_kib = 0;
    plan.workload.clients = dice.between(6, 12) as u32;
    plan.workload.keys = dice.between(20, 120) as u32;
    plan.workload.think_ms = dice.between(2, 10);
    plan.workload.value_size_max = dice.between(200, 3_000) as u32;
    plan.workload.scan_permille = 30;
    plan.workload.get_permille = 250;
    let segment_kib = *dice.pick(&[8, 16, 32]);
    for node in &mut plan.nodes {
        node.segment_kib = segment_kib;
        node.limits.insert("checkpoint_bytes".into(), *dice.pick(&[1_000, 8_000, 30_000]));
        node.limits.insert("checkpoint_percent".into(), *dice.pick(&[100, 200]));
        node.limits.insert("garbage_percent".into(), *dice.pick(&[0, 10, 33]));
        node.limits.insert("retained_bytes".into(), *dice.pick(&[1, 20_000]));
        node.limits.insert("sweep_block_bytes".into(), *dice.pick(&[1, 500, 4_000, 100_000]));
        node.limits.insert("leaf_bytes".into(), *dice.pick(&[300, 1_000, 8_192]));
    }
    if dice.chance(700) {
        plan.ending = Ending::HealAll;
    }
}
