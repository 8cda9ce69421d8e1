//! Ended, and started again with an empty directory.
//!
//! Matters when the node knows that the cluster refuses it. The loss of a second directory, of five copies, matters when the
//! cluster has healed without both.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::draws::{self, settled, target};
use crate::plan::{Decay, Ending, LossStyle, Plan, Synced, Target};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "wiped directory",
    draw: Some(|plan, dice| FaultKind::Wipe { target: target(plan, dice) }),
    begin,
    add: Some(two_of_five),
    ..Behaviour::NOTHING
};

/// Of five copies two may be lost, at once or one after the other: in one plan of five of those with five nodes that bear much.
fn two_of_five(plan: &mut Plan, dice: &mut Dice) {
    let syncs_all = plan.nodes.iter().all(|node| node.wal_sync_ms == 0);
    if plan.scenario != "swarm"
        || plan.nodes.len() < 5
        || !syncs_all
        || plan.calm_from_ms.is_some()
        || plan.bears_little()
        || !dice.chance(200)
    {
        return;
    }
    plan.cluster.replication_factor = 5;
    plan.ending = Ending::HealMajority;
    let (nodes, from) = (plan.nodes.len() as u64, settled(plan) + 500);
    let (first, at_once) = (dice.below(nodes), dice.chance(500));
    let second = (first + 1 + dice.below(nodes - 1)) % nodes;
    let mut at_ms = dice.between(from, plan.faults_ms.max(from + 1));
    for number in [first, second] {
        let target = Target::Node(number as u16 + 1);
        let kind = match dice.below(4) {
            0 => FaultKind::OldDirectory { target },
            1 => FaultKind::RotSynced { target, place: Synced::Anywhere, decay: Decay::Bit },
            _ => FaultKind::Wipe { target },
        };
        draws::add(plan, at_ms, dice.spread(20, 1_000), kind);
        at_ms = if at_once { at_ms + dice.below(50) } else { dice.between(from, plan.faults_ms.max(from + 1)) };
    }
}

fn begin(world: &mut World, _: &FaultKind, strike: Strike) {
    let number = strike.node();
    if !world.has_formed(number) || !world.counters.acts(Kind::Wipe) || !world.may_lose_directory(number) {
        return;
    }
    world.crash(number, Some(LossStyle::Nothing), strike.for_ms, None);
    if world.machines[number].disk.wipe() {
        world.counters.fired(Kind::Wipe);
        world.machines[number].disowned = Some(Kind::Wipe);
    }
}
