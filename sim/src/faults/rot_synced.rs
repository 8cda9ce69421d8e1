//! What was synced rots, before the log's end, under a node that runs. When the fault ends the process does, too; unless it was
//! values alone: then it goes on, and has to mend them.
//!
//! Rot of values and of what the node has read back matters when a read meets it and reports it; of one copy of a header, when
//! the node boots all the same; of anything else, when the node says at its next boot that its log is damaged.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::draws::{self, settled, target};
use crate::plan::{Decay, Ending, Plan, Synced, Target};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour { name: "rot of synced bytes", add: Some(add), begin, end, ..Behaviour::NOTHING };

/// One plan of the swarm in seven. What is kept in memory is not read back: so caches are small, and values many and large.
fn add(plan: &mut Plan, dice: &mut Dice) {
    if plan.scenario != "swarm" || plan.ending == Ending::HealFew || !dice.chance(140) {
        return;
    }
    let place = *dice.pick(&[
        Synced::Anywhere,
        Synced::Anywhere,
        Synced::Anywhere,
        Synced::Header,
        Synced::HeaderCopy,
        Synced::ReadBack,
        Synced::ReadBack,
        Synced::ReadBack,
        Synced::Values(2),
        Synced::Values(10),
        Synced::Values(1_000),
        Synced::Values(1_000),
    ]);
    let decay = *dice.pick(&[Decay::Bit, Decay::Bit, Decay::Bit, Decay::Zeros, Decay::End]);
    let mut struck = target(plan, dice);
    let mut at_ms = dice.between(settled(plan).max(plan.faults_ms / 3), plan.faults_ms * 9 / 10);
    let mut for_ms = dice.spread(50, 2_000);
    if matches!(place, Synced::ReadBack | Synced::Values(_)) {
        plan.nodes.iter_mut().for_each(|node| node.cache_kib = 1);
        plan.workload.value_size_max = plan.workload.value_size_max.max(1_500);
        plan.workload.keys = plan.workload.keys.max(8);
        plan.workload.get_permille = plan.workload.get_permille.max(400);
        // Leaders read, and need time to read again.
        struck = Target::LeaderOf(1 + dice.below(u64::from(plan.cluster.partitions)) as u32);
        (at_ms, for_ms) = (at_ms * 2 / 3, for_ms + 1_000);
    }
    if matches!(place, Synced::Values(_)) {
        if dice.chance(600) {
            // What nobody reads is found, too.
            draws::scrub(plan, dice);
        }
        if dice.chance(300) {
            plan.nodes.iter_mut().for_each(|node| _ = node.limits.insert("repairs".into(), 1 + dice.below(3) as u32));
        }
    }
    let kind = FaultKind::RotSynced { target: struck, place, decay };
    draws::add(plan, at_ms, for_ms, kind);
}

fn counted(place: Synced) -> Kind {
    match place {
        Synced::Anywhere | Synced::Header => Kind::RotSynced,
        Synced::HeaderCopy => Kind::RotHeader,
        Synced::ReadBack => Kind::RotRead,
        Synced::Values(_) => Kind::RotValue,
    }
}

fn begin(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::RotSynced { place, decay, .. } = *kind else { return };
    let (number, kind) = (strike.node(), counted(place));
    let may = kind == Kind::RotHeader || world.may_lose_directory(number);
    if !may || !world.has_formed(number) || !world.counters.acts(kind) {
        return;
    }
    let machine = &mut world.machines[number];
    let mut values = Vec::new();
    if let Some(node) = machine.node.as_ref().filter(|_| kind == Kind::RotValue) {
        node.visit_values(&mut |place| values.push(place));
    }
    if machine.disk.rot_synced(place, decay, kind, values) {
        if !matches!(kind, Kind::RotHeader | Kind::RotValue) {
            machine.rots();
        }
        world.counters.fired(kind);
    }
}

/// The process ends, so that a node reads all of its log.
pub(super) fn end(world: &mut World, kind: &FaultKind, strike: Strike) {
    let number = strike.node();
    let goes_on = matches!(kind, FaultKind::RotSynced { place: Synced::Values(_), .. });
    if !goes_on && !world.machines[number].disk.rotten.is_empty() {
        let down_ms = world.schedule.between(20, 300);
        world.crash(number, None, down_ms, None);
    }
}
