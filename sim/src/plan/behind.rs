//! Members that were away until the log that they lack is gone: they are sent their groups' states.

use super::draws::{add, add_when, node, settled, strict_sync, style};
use super::{DiskPlan, Ending, FaultKind, LossStyle, Plan, Target, Trigger, transactions};
use crate::dice::Dice;

/// The member that a state is sent to loses power in the middle of it, before the last piece and right behind it.
pub fn powerless_members(plan: &mut Plan, dice: &mut Dice) {
    left_behind(plan, dice, |plan, dice, back| {
        let when = *dice.pick(&[Trigger::TakesPiece, Trigger::HasState, Trigger::HasState]);
        let kind = FaultKind::PowerLoss { target: Target::There, style: style(dice) };
        add_when(plan, back, dice.spread(10, 1_500), when, kind);
    });
}

/// It dies or is cut off there, or its disk is full.
pub fn struck_members(plan: &mut Plan, dice: &mut Dice) {
    left_behind(plan, dice, |plan, dice, back| {
        let when = *dice.pick(&[Trigger::TakesPiece, Trigger::TakesPiece, Trigger::HasState]);
        let kind = match dice.below(5) {
            0 => FaultKind::Crash { target: Target::There },
            1 => FaultKind::Isolate { target: Target::There },
            2 => FaultKind::Pause { target: Target::There },
            _ => FaultKind::Full { target: Target::There },
        };
        // It has a reserve.
        let span = if matches!(kind, FaultKind::Full { .. }) { dice.between(2_000, 6_000) } else { dice.spread(10, 1_500) };
        add_when(plan, back, span, when, kind);
    });
}

/// The leader that sends a state goes in the middle of it, mostly for so long that another takes over.
pub fn struck_senders(plan: &mut Plan, dice: &mut Dice) {
    left_behind(plan, dice, |plan, dice, back| {
        let kind = match dice.below(4) {
            0 => FaultKind::Crash { target: Target::There },
            1 => FaultKind::Pause { target: Target::There },
            2 => FaultKind::Stop { target: Target::There },
            _ => FaultKind::Isolate { target: Target::There },
        };
        let span = u64::from(plan.cluster.support_ms) * dice.between(1, 4);
        add_when(plan, back, span, Trigger::SendsPiece, kind);
    });
}

/// Nodes keep little of their logs, and one is away again and again; `strike`: from then on it is back.
fn left_behind(plan: &mut Plan, dice: &mut Dice, strike: fn(&mut Plan, &mut Dice, u64)) {
    if dice.chance(800) {
        strict_sync(plan);
    }
    if dice.chance(700) {
        plan.nodes.truncate(3);
        plan.cluster.replication_factor = 3;
    }
    plan.cluster.partitions = *dice.pick(&[1, 1, 1, 2]);
    plan.faults_ms = plan.faults_ms.max(dice.between(6_000, 12_000));
    if dice.chance(600) {
        plan.workload.transactions = transactions::draw(dice);
        plan.workload.transactions.permille = 200;
    }
    plan.cluster.support_ms = *dice.pick(&[300, 400]);
    let heartbeat_ms = u64::from(plan.cluster.support_ms) / 4;
    plan.nodes.iter_mut().for_each(|node| node.heartbeat_ms = heartbeat_ms);
    plan.disk = DiskPlan { write_us: 50, sync_us: dice.between(100, 1_000), read_us: 50, jitter_us: 100 };
    plan.network.latency_us = dice.spread(50, 1_000);
    plan.network.bandwidth_kib = 0;
    plan.workload.clients = dice.between(8, 12) as u32;
    plan.workload.keys = dice.between(10, 50) as u32;
    plan.workload.think_ms = dice.between(2, 10);
    plan.workload.value_size_max = dice.between(1_000, 3_000) as u32;
    plan.workload.compare_permille = 100;
    plan.workload.scan_permille = 20;
    plan.workload.get_permille = 200;
    let (segment_kib, piece_bytes) = (*dice.pick(&[16, 32]), *dice.pick(&[1, 300, 2_000, 20_000]));
    for node in &mut plan.nodes {
        node.segment_kib = segment_kib;
        node.limits.insert("checkpoint_bytes".into(), *dice.pick(&[1_000, 4_000]));
        node.limits.insert("checkpoint_percent".into(), 200);
        node.limits.insert("garbage_percent".into(), *dice.pick(&[0, 33]));
        node.limits.insert("retained_bytes".into(), 1);
        let bytes = if dice.chance(100) { 700 } else { piece_bytes };
        node.limits.insert("snapshot_piece_bytes".into(), bytes);
    }
    let mut at = settled(plan) + dice.below(500);
    while at + 3_000 < plan.faults_ms {
        let (away, span) = (Target::Node(node(plan, dice)), dice.between(1_000, 2_000));
        match dice.below(4) {
            0 => add(plan, at, span, FaultKind::PowerLoss { target: away, style: LossStyle::Nothing }),
            1 => add(plan, at, span, FaultKind::Crash { target: away }),
            _ => add(plan, at, span, FaultKind::Isolate { target: away }),
        }
        let back = at + span - dice.below(200);
        for _ in 0..dice.between(1, 3) {
            strike(plan, dice, back);
            if let Some(fault) = plan.faults.last_mut() {
                fault.nth = dice.spread(0, 30) as u32;
            }
        }
        at += span + dice.between(500, 2_000);
    }
    if dice.chance(700) {
        plan.ending = Ending::HealAll;
    }
}
