//! A write that was synced never came to its place, before the log's end, under a node that runs. When the fault ends the process
//! does, too.
//!
//! What was lost matters when the node says at its next boot that its log is damaged; what went elsewhere, when it says so, or
//! boots from its log all the same.

use super::{Behaviour, FaultKind, Strike, rot_synced};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::draws::{self, settled, target};
use crate::plan::{Ending, Plan, Stray};
use crate::world::World;

pub const BEHAVIOUR: Behaviour =
    Behaviour { name: "stray write", add: Some(add), begin, end: rot_synced::end, ..Behaviour::NOTHING };

/// One plan of the swarm in seven.
fn add(plan: &mut Plan, dice: &mut Dice) {
    if plan.scenario != "swarm" || plan.ending == Ending::HealFew || !dice.chance(140) {
        return;
    }
    let to = *dice.pick(&[
        Stray::Nowhere,
        Stray::Nowhere,
        Stray::Nowhere,
        Stray::Elsewhere,
        Stray::OtherFile,
        Stray::Exchanged,
        Stray::Exchanged,
    ]);
    let at_ms = dice.between(settled(plan).max(plan.faults_ms / 3), plan.faults_ms * 9 / 10);
    let kind = FaultKind::StrayWrite { target: target(plan, dice), to };
    draws::add(plan, at_ms, dice.spread(1, 2_000), kind);
}

fn begin(world: &mut World, kind: &FaultKind, strike: Strike) {
    let FaultKind::StrayWrite { to, .. } = *kind else { return };
    let (number, kind) = (strike.node(), if to == Stray::Nowhere { Kind::LostSynced } else { Kind::Misdirected });
    if world.has_formed(number)
        && world.may_lose_directory(number)
        && world.counters.acts(kind)
        && world.machines[number].disk.stray(to, kind)
    {
        world.machines[number].rots();
        world.counters.fired(kind);
    }
}
