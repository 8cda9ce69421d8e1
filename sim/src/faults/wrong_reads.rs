//! Reads of a running node are answered with bytes of another place: of the same place in another file, of what was read before,
//! of the sector beside.
//!
//! Matters when such a read was answered with other bytes than it should have got, and the node reported it.

use super::{Behaviour, FaultKind};
use crate::dice::Dice;
use crate::plan::draws::{self, settled};
use crate::plan::{Plan, Target};

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "reads of the wrong place",
    begin: |world, _, strike| world.apply_disk_trouble(strike.node()),
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, kind| {
        if let FaultKind::WrongReads { permille, .. } = *kind {
            trouble.wrong_reads_permille = permille;
        }
    },
    add: Some(add),
    ..Behaviour::NOTHING
};

/// One plan of the swarm in sixteen. What is kept in memory is not read: so caches are small; and often leaders keep no entries,
/// and are cut off from a follower that then needs them.
fn add(plan: &mut Plan, dice: &mut Dice) {
    if plan.scenario != "swarm" || plan.calm_from_ms.is_some() || !dice.chance(60) {
        return;
    }
    plan.nodes.iter_mut().for_each(|node| node.cache_kib = 1);
    plan.workload.keys = plan.workload.keys.max(8);
    plan.workload.get_permille = plan.workload.get_permille.max(400);
    let group = 1 + dice.below(u64::from(plan.cluster.partitions)) as u32;
    let at_ms = dice.between(settled(plan), plan.faults_ms * 2 / 3);
    let for_ms = dice.between(500, plan.faults_ms - at_ms);
    let kind = FaultKind::WrongReads { target: Target::LeaderOf(group), permille: dice.spread(20, 600) as u32 };
    draws::add(plan, at_ms, for_ms, kind);
    if dice.chance(600) {
        for node in &mut plan.nodes {
            for name in ["recent_entry_bytes", "node_recent_bytes"] {
                node.limits.insert(name.into(), 0);
            }
        }
        let apart_ms = dice.between(200, 1_500);
        draws::add(plan, at_ms.saturating_sub(apart_ms / 2), apart_ms, FaultKind::Isolate { target: Target::FollowerOf(group) });
    }
}
