//! A clean stop. If it takes longer than the fault lasts, the process is ended.
//!
//! In some plans the node is cut off before, so that what it has begun cannot be finished. It stops all the same, within its own
//! patience and a sync or two.
//!
//! Matters when the node led something, and came to its end by itself.

use super::{Behaviour, FaultKind, Strike};
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::draws::{self, node, settled, target};
use crate::plan::{Plan, Target};
use crate::world::World;
use ringseed::node::Event;

pub const BEHAVIOUR: Behaviour = Behaviour {
    name: "clean stop",
    aimed: true,
    draw: Some(|plan, dice| FaultKind::Stop { target: target(plan, dice) }),
    add: Some(add),
    begin,
    end,
    ..Behaviour::NOTHING
};

/// One plan in twenty stops a node that hears no other, or that no other hears.
fn add(plan: &mut Plan, dice: &mut Dice) {
    if plan.calm_from_ms.is_some() {
        return;
    }
    if plan.nodes.iter().any(|node| node.wal_sync_ms > 0) {
        return stop_while_lossy(plan, dice);
    }
    if !dice.chance(50) {
        return;
    }
    let target = Target::Node(node(plan, dice));
    let at_ms = dice.between(settled(plan), plan.faults_ms);
    let cut = match dice.below(3) {
        0 => FaultKind::Isolate { target },
        towards => FaultKind::OneWay { target, outward: towards == 1 },
    };
    // What is asked meanwhile may wait for longer than the node does.
    draws::add(plan, at_ms, 15_000, cut);
    draws::add(plan, at_ms, 24_000, FaultKind::Flood { target, requests: dice.spread(50, 500) as u32, leaves: false });
    draws::add(plan, at_ms + dice.between(100, 3_000), 5_500, FaultKind::Stop { target });
    plan.workload.timeout_ms = plan.workload.timeout_ms.max(dice.between(4_000, 9_000) as u32);
    plan.faults_ms = plan.faults_ms.max(at_ms + 14_000);
}

/// Where syncing is relaxed, a node that lost power has not heard of what it lacks when it is stopped.
fn stop_while_lossy(plan: &mut Plan, dice: &mut Dice) {
    if !dice.chance(200) {
        return;
    }
    let target = Target::Node(node(plan, dice));
    let at_ms = dice.between(settled(plan), plan.faults_ms);
    draws::add(plan, at_ms, 2_000, FaultKind::Isolate { target });
    draws::add(plan, at_ms + 1, 20, FaultKind::PowerLoss { target, style: draws::style(dice) });
    draws::add(plan, at_ms + dice.between(100, 1_000), 5_500, FaultKind::Stop { target });
    plan.faults_ms = plan.faults_ms.max(at_ms + 3_000);
}

fn begin(world: &mut World, _: &FaultKind, strike: Strike) {
    let number = strike.node();
    let machine = &mut world.machines[number];
    let now = machine.clock.read(world.now);
    let Some(node) = &mut machine.node else { return };
    if !world.counters.strikes(Kind::Stop) {
        return;
    }
    machine.stopping_led = node.replicas(now).iter().any(|replica| replica.leads);
    machine.stopping.get_or_insert(world.now);
    world.put(number, Event::Stop);
}

fn end(world: &mut World, _: &FaultKind, strike: Strike) {
    let number = strike.node();
    // Another stop, of an epoch before, may have told it to.
    if let Some(told) = world.machines[number].stopping {
        world.timeline.note(world.now, || format!("n{} has not stopped in time, and is ended", number + 1));
        world.judge_stop(number, told);
        world.crash(number, None, 100, None);
    }
}
