//! Each sync takes so much longer.
//!
//! Matters when a sync took longer, and another event reached the node first that would have come after it.

use super::{Behaviour, FaultKind, Stands, Strike};
use crate::counters::Kind;
use crate::plan::Target;
use crate::plan::draws::{node, target};
use crate::world::World;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "slow disk",
    draw: Some(|plan, dice| FaultKind::SlowDisk { target: target(plan, dice), sync_ms: dice.spread(20, 2_000) }),
    begin,
    end: |world, _, strike| world.apply_disk_trouble(strike.node()),
    disk: |trouble, kind| {
        if let FaultKind::SlowDisk { sync_ms, .. } = *kind {
            trouble.slow_ms = trouble.slow_ms.max(sync_ms);
        }
    },
    stands: Some(Stands {
        draw: |plan, dice| FaultKind::SlowDisk {
            target: Target::Node(node(plan, dice)),
            // Far above what the others take.
            sync_ms: dice.spread(200, 2_000) + plan.disk.sync_us / 50,
        },
        counted: Kind::StandingSlow,
        cause: Some(Kind::SlowDisk),
    }),
    ..Behaviour::NOTHING
};

fn begin(world: &mut World, _: &FaultKind, strike: Strike) {
    world.counters.fired(Kind::SlowDisk);
    world.apply_disk_trouble(strike.node());
}
