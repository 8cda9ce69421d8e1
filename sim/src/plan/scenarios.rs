//! Scenarios: plans that aim at dangerous states, which chance alone reaches too rarely.
//!
//! Each is drawn over the same surroundings as the swarm, and keeps much of them random: it says where to strike, not what to
//! find.

use super::draws::{
    CATCHES_UP_WITHIN_MS, Scenario, add, add_when, focus, readers, rot, settled, strict_sync, style, target, times,
};
use super::{
    DiskPlan, Ending, Fault, FaultKind, LossStyle, NetworkPlan, Plan, Standing, Target, Trigger, WorkloadPlan, behind,
    compacting, steered, transactions,
};
use crate::dice::Dice;
use crate::faults;

/// Every scenario, by name.
pub const TABLE: &[Scenario] = &[
    Scenario { name: "transfers under load", draw: transfers },
    Scenario { name: "a leader is cut off at the edge of its lease", draw: lease_boundary },
    Scenario { name: "a leader is paused beyond its lease", draw: paused_leaders },
    Scenario { name: "clocks beyond the bound", draw: clocks_beyond },
    Scenario { name: "power goes right after a vote", draw: crash_after_vote },
    Scenario { name: "power goes right after a leader's first append", draw: crash_after_leading },
    Scenario { name: "power goes within a batch, again and again", draw: torn_tails },
    Scenario { name: "power goes right after an answer", draw: crash_after_answer },
    Scenario { name: "power goes right after an acknowledgement", draw: crash_after_acknowledging },
    Scenario { name: "power goes while a segment is new", draw: new_segments },
    Scenario { name: "leaders are cut off with writes in flight", draw: conflicting_suffixes },
    Scenario { name: "old messages arrive in another term", draw: late_duplicates },
    Scenario { name: "an old directory comes back", draw: old_directory },
    Scenario { name: "a wiped directory comes back", draw: wiped_directory },
    Scenario { name: "an idle log's end rots", draw: rotten_tails },
    Scenario { name: "every process dies under relaxed syncing", draw: relaxed_processes },
    Scenario { name: "disks fill up", draw: full_disks },
    Scenario { name: "disks fail", draw: failing_disks },
    Scenario { name: "everything restarts", draw: restarts },
    Scenario { name: "elections are contested", draw: contested_elections },
    Scenario { name: "large values and lagging followers", draw: lagging_followers },
    Scenario { name: "a node that was away catches up over narrow links", draw: narrow_links },
    Scenario { name: "the log that a member lacks is gone, and it loses power", draw: behind::powerless_members },
    Scenario { name: "the log that a member lacks is gone, and it is struck", draw: behind::struck_members },
    Scenario { name: "the log that a member lacks is gone, and the leader is struck", draw: behind::struck_senders },
    Scenario { name: "segments are emptied, and their node is struck", draw: compacting::struck_compactions },
    Scenario { name: "disks stay full, and are emptied by deleting", draw: compacting::emptied_disks },
    Scenario { name: "leaders change all the time", draw: leader_churn },
    Scenario { name: "the cluster is struck while it forms", draw: formation },
    Scenario { name: "relaxed syncing loses a tail", draw: relaxed_tails },
    Scenario { name: "requests outlive their leaders", draw: forwarded_requests },
    Scenario { name: "a link stays cut", draw: lasting_cuts },
    Scenario { name: "all restart, and of some groups just enough return", draw: few_return },
    Scenario { name: "an earlier term's entries spread, and their leader goes", draw: older_terms },
    Scenario { name: "answers to a leader are late, and then it is cut off", draw: steered::late_answers },
    Scenario { name: "a vote request is on its way while the voter restarts", draw: steered::late_vote_requests },
    Scenario { name: "votes arrive in a later term", draw: steered::late_votes },
    Scenario { name: "acknowledgements arrive in a later term of the same leader", draw: steered::late_acknowledgements },
    Scenario { name: "a forward is repeated to its leader's next epoch", draw: steered::repeated_forwards },
    Scenario { name: "appends to an earlier epoch of a follower that lost power come late", draw: steered::late_appends },
    Scenario { name: "the follower restarts whose promise alone is a leader's lease", draw: steered::restarted_voter },
];

fn group(plan: &Plan, dice: &mut Dice) -> u32 {
    1 + dice.below(u64::from(plan.cluster.partitions)) as u32
}

fn leader(plan: &Plan, dice: &mut Dice) -> Target {
    Target::LeaderOf(group(plan, dice))
}

/// Short promises, so that leaders change often; heartbeats to match.
fn short_support(plan: &mut Plan, dice: &mut Dice) {
    plan.cluster.support_ms = *dice.pick(&[200, 250, 400]);
    let support = u64::from(plan.cluster.support_ms);
    plan.nodes.iter_mut().for_each(|node| node.heartbeat_ms = support / 4);
}

/// Clocks as far apart as the bound allows.
fn widest_clocks(plan: &mut Plan, dice: &mut Dice) {
    plan.cluster.clock_drift_ppm_max = *dice.pick(&[50_000, 100_000, 200_000]);
    let half = i64::from(plan.cluster.clock_drift_ppm_max) * 49 / 100;
    let slow_first = dice.chance(500);
    for (number, node) in plan.nodes.iter_mut().enumerate() {
        node.clock_ppm = if (number % 2 == 0) == slow_first { -half } else { half };
    }
    if dice.chance(500) {
        let odd = dice.below(plan.nodes.len() as u64) as usize;
        for (number, node) in plan.nodes.iter_mut().enumerate() {
            node.clock_ppm = if number == odd { -half } else { half };
        }
    }
}

fn transfers(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    readers(plan, dice);
    strict_sync(plan);
    for at in times(plan, dice, 900) {
        let target = leader(plan, dice);
        add(plan, at, dice.between(300, 3_000), FaultKind::Stop { target });
        if dice.chance(500) {
            let kind = if dice.chance(500) {
                FaultKind::Isolate { target: Target::There }
            } else {
                FaultKind::OneWay { target: Target::There, outward: dice.chance(500) }
            };
            let span = dice.between(50, 1_500);
            let when = *dice.pick(&[Trigger::Transfers, Trigger::Releases, Trigger::Leads, Trigger::Campaigns]);
            add_when(plan, at, span, when, kind);
        }
    }
    if dice.chance(500) {
        let permille = dice.between(50, 300) as u32;
        add(plan, 500, plan.faults_ms, FaultKind::Duplication { permille, delay_ms: dice.spread(10, 3_000) });
    }
}

fn lease_boundary(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    readers(plan, dice);
    short_support(plan, dice);
    widest_clocks(plan, dice);
    plan.workload.clients = 10;
    let support = u64::from(plan.cluster.support_ms);
    if dice.chance(500) {
        return steered::slow_leaders(plan, dice);
    }
    for at in times(plan, dice, 4 * support) {
        let target = leader(plan, dice);
        let kind = match dice.below(4) {
            0 => FaultKind::OneWay { target, outward: true },
            1 => FaultKind::OneWay { target, outward: false },
            _ => FaultKind::Isolate { target },
        };
        add(plan, at, dice.between(support, 4 * support), kind);
    }
}

fn paused_leaders(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    readers(plan, dice);
    short_support(plan, dice);
    let support = u64::from(plan.cluster.support_ms);
    for at in times(plan, dice, 4 * support) {
        let target = leader(plan, dice);
        add(plan, at, dice.between(support / 2, 4 * support), FaultKind::Pause { target });
    }
}

/// Only answers that rest on a lease may be wrong here; and in some seeds they are.
fn clocks_beyond(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    readers(plan, dice);
    short_support(plan, dice);
    plan.workload.clients = 10;
    // A client that waits for its write does not read what is stale: few writes, to few keys.
    plan.workload.keys = dice.between(1, 2) as u32;
    plan.workload.counters = 0;
    plan.workload.get_permille = 850;
    plan.workload.compare_permille = 0;
    let support = *dice.pick(&[600, 1_000]);
    plan.cluster.support_ms = support;
    plan.nodes.iter_mut().for_each(|node| node.heartbeat_ms = u64::from(support) / 8);
    plan.faults_ms = 10_000;
    let support = u64::from(support);
    for at in times(plan, dice, 7 * support) {
        let target = leader(plan, dice);
        let ppm = *dice.pick(&[-500_000, -600_000, -700_000]);
        add(plan, at, 6 * support, FaultKind::ClockRate { target, ppm });
        add(plan, at + support / 2, dice.between(3 * support, 5 * support), FaultKind::Isolate { target });
        if dice.chance(300) {
            let target = super::draws::target(plan, dice);
            add(plan, at, 10, FaultKind::ClockJump { target, by_ms: dice.between(100, 3_000) });
        }
    }
}

fn crash_after_vote(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    short_support(plan, dice);
    strict_sync(plan);
    plan.disk.sync_us = dice.between(2_000, 20_000);
    for at in times(plan, dice, 700) {
        // Make an election happen, and strike a node that votes in it.
        let target = leader(plan, dice);
        let span = dice.between(200, 1_000);
        if dice.chance(500) {
            add(plan, at, span, FaultKind::Crash { target });
        } else {
            add(plan, at, span, FaultKind::Isolate { target });
        }
        let when = *dice.pick(&[Trigger::Votes, Trigger::Votes, Trigger::Campaigns]);
        add_when(plan, at, dice.between(5, 200), when, power_loss(dice));
    }
}

fn crash_after_leading(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    short_support(plan, dice);
    strict_sync(plan);
    plan.disk.sync_us = dice.between(1_000, 15_000);
    for at in times(plan, dice, 600) {
        let down = dice.between(5, 600);
        let kind = if dice.chance(500) { power_loss(dice) } else { FaultKind::Isolate { target: Target::There } };
        add_when(plan, at, down, Trigger::Leads, kind);
        let target = leader(plan, dice);
        add(plan, at, dice.between(100, 900), FaultKind::Isolate { target });
    }
}

fn power_loss(dice: &mut Dice) -> FaultKind {
    FaultKind::PowerLoss {
        target: Target::There,
        style: *dice.pick(&[LossStyle::Nothing, LossStyle::Nothing, LossStyle::Sectors]),
    }
}

fn torn_tails(plan: &mut Plan, dice: &mut Dice) {
    strict_sync(plan);
    plan.workload.clients = 8;
    plan.workload.think_ms = dice.between(5, 15);
    // A value of many sectors may be torn in the middle, and all that stands around it be whole.
    let large = dice.chance(600);
    plan.workload.value_size_max = if large { dice.between(4_000, 40_000) as u32 } else { dice.spread(200, 4_000) as u32 };
    plan.workload.get_permille = 200;
    plan.disk.write_us = dice.between(200, 2_000);
    plan.disk.sync_us = dice.between(500, 8_000);
    for at in times(plan, dice, 400) {
        let down = dice.between(5, 150);
        let when = *dice.pick(&[Trigger::Writes, Trigger::Syncs, Trigger::Syncs]);
        let style = if large { LossStyle::Sectors } else { style(dice) };
        add_when(plan, at, down, when, FaultKind::PowerLoss { target: Target::There, style });
        if dice.chance(300) {
            add(plan, at, down, FaultKind::PowerLossOfAll { within_ms: dice.spread(1, 20), style });
        }
    }
}

fn crash_after_answer(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    strict_sync(plan);
    plan.disk.sync_us = dice.between(500, 10_000);
    for at in times(plan, dice, 800) {
        let style = *dice.pick(&[LossStyle::Nothing, LossStyle::Sectors]);
        if dice.chance(500) {
            plan.faults.push(Fault {
                at_ms: at,
                for_ms: dice.between(10, 300),
                when: Some(Trigger::Answers),
                nth: 0,
                kind: FaultKind::PowerLossOfAll { within_ms: 1, style },
            });
        } else {
            let span = dice.between(500, 2_000);
            add_when(plan, at, span, Trigger::Answers, FaultKind::PowerLoss { target: Target::There, style });
        }
    }
}

fn crash_after_acknowledging(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    strict_sync(plan);
    plan.disk.sync_us = dice.between(1_000, 15_000);
    for at in times(plan, dice, 700) {
        let target = leader(plan, dice);
        let down = dice.between(5, 100);
        add_when(plan, at, down, Trigger::Acknowledges, power_loss(dice));
        if dice.chance(700) {
            add(plan, at + dice.between(1, 30), dice.between(400, 1_500), FaultKind::Isolate { target });
        }
    }
}

fn new_segments(plan: &mut Plan, dice: &mut Dice) {
    strict_sync(plan);
    plan.nodes.iter_mut().for_each(|node| node.segment_kib = 64);
    plan.workload.clients = 10;
    plan.workload.think_ms = 6;
    plan.workload.value_size_max = dice.between(2_000, 24_000) as u32;
    plan.workload.get_permille = 100;
    plan.disk.sync_us = dice.between(2_000, 8_000);
    for at in times(plan, dice, 250) {
        let when = *dice.pick(&[Trigger::Creates, Trigger::UsesNewSegment, Trigger::UsesNewSegment, Trigger::UsesNewSegment]);
        let style =
            *dice.pick(&[LossStyle::Nothing, LossStyle::Sectors, LossStyle::Sectors, LossStyle::Sectors, LossStyle::Everything]);
        let down = dice.between(5, 150);
        if dice.chance(200) {
            let kind = FaultKind::PowerLossOfAll { within_ms: dice.spread(1, 10), style };
            plan.faults.push(Fault { at_ms: at, for_ms: down, when: Some(when), nth: 0, kind });
        } else {
            add_when(plan, at, down, when, FaultKind::PowerLoss { target: Target::There, style });
        }
    }
}

fn conflicting_suffixes(plan: &mut Plan, dice: &mut Dice) {
    if plan.nodes.len() == 5 {
        // Of three voters, what one follower has taken from the leader is never replaced; of five it may be.
        plan.cluster.replication_factor = 5;
    }
    focus(plan, dice);
    short_support(plan, dice);
    plan.workload.get_permille = 200;
    plan.workload.think_ms = dice.between(3, 8);
    let support = u64::from(plan.cluster.support_ms);
    for at in times(plan, dice, 3 * support) {
        let target = leader(plan, dice);
        let span = dice.between(support, 5 * support);
        add(plan, at, span, FaultKind::Isolate { target });
        if dice.chance(400) {
            let when = *dice.pick(&[Trigger::Conflicts, Trigger::Acknowledges, Trigger::Leads]);
            add_when(plan, at + span, dice.between(10, 500), when, power_loss(dice));
        }
    }
}

fn late_duplicates(plan: &mut Plan, dice: &mut Dice) {
    conflicting_suffixes(plan, dice);
    let permille = dice.between(100, 500) as u32;
    add(plan, 500, plan.faults_ms, FaultKind::Duplication { permille, delay_ms: dice.spread(50, 3_000) });
    let permille = dice.between(100, 600) as u32;
    add(plan, 500, plan.faults_ms, FaultKind::Reordering { permille, delay_ms: dice.spread(2, 400) });
}

fn gentle_heartbeats(plan: &mut Plan) {
    plan.cluster.support_ms = plan.cluster.support_ms.min(1_000);
    let support = u64::from(plan.cluster.support_ms);
    plan.nodes.iter_mut().for_each(|node| node.heartbeat_ms = (support / 4).max(20));
    plan.faults_ms = plan.faults_ms.max(8_000);
    plan.ending = Ending::HealMajority;
}

fn old_directory(plan: &mut Plan, dice: &mut Dice) {
    if dice.chance(500) {
        return steered::forgotten_acknowledgements(plan, dice);
    }
    strict_sync(plan);
    gentle_heartbeats(plan);
    let node = Target::Node(1 + dice.below(plan.nodes.len() as u64) as u16);
    add(plan, dice.between(1_500, 3_000), dice.between(2_500, 4_000), FaultKind::OldDirectory { target: node });
    if dice.chance(500) {
        let target = target(plan, dice);
        add(plan, 6_500 + dice.below(500), dice.between(200, 1_000), FaultKind::Crash { target });
    }
    if dice.chance(500) {
        // The node has started over, and is half of a quorum; or is about to.
        plan.faults_ms = 8_000 + 14 * u64::from(plan.cluster.support_ms);
        let target = target(plan, dice);
        add(plan, plan.faults_ms - 2_000, 2_000, FaultKind::Crash { target });
    }
}

fn wiped_directory(plan: &mut Plan, dice: &mut Dice) {
    strict_sync(plan);
    gentle_heartbeats(plan);
    let node = Target::Node(1 + dice.below(plan.nodes.len() as u64) as u16);
    add(plan, dice.between(2_000, 4_000), dice.between(20, 800), FaultKind::Wipe { target: node });
    if dice.chance(700) {
        let other = leader(plan, dice);
        add(plan, dice.between(4_000, 6_000), dice.between(200, 1_000), FaultKind::Isolate { target: other });
    }
}

/// A node falls idle, cut off, and what it acknowledged before rots under a crash. Now and then the only other node that has it
/// is struck too, and one comes back that lacks it.
fn rotten_tails(plan: &mut Plan, dice: &mut Dice) {
    strict_sync(plan);
    short_support(plan, dice);
    plan.nodes.truncate(3);
    plan.workload.get_permille = 200;
    plan.disk.sync_us = plan.disk.sync_us.min(1_000);
    plan.disk.jitter_us = plan.disk.jitter_us.min(1_000);
    plan.faults_ms = plan.faults_ms.max(9_000);
    plan.ending = Ending::HealMajority;
    let (rotten, lags) = (1 + dice.below(3) as u16, 1 + dice.below(2) as u16);
    let (lags, knows) = ((rotten + lags - 1) % 3 + 1, (rotten + 2 - lags) % 3 + 1);
    let at = dice.between(2_500, 3_500);
    let struck = at + 3_000;
    if dice.chance(700) {
        let from = at - dice.between(300, 1_000);
        add(plan, from, struck + 100 - from, FaultKind::Crash { target: Target::Node(lags) });
    }
    add(plan, at, struck - at, FaultKind::RotTail { target: Target::Node(rotten), rot: rot(dice) });
    match dice.below(3) {
        0 => add(plan, struck - 20, dice.between(500, 2_000), FaultKind::Crash { target: Target::Node(knows) }),
        1 => add(plan, struck - 20, dice.between(500, 2_000), FaultKind::Isolate { target: Target::Node(knows) }),
        _ => {}
    }
}

/// The page cache outlives a process, so nothing is lost; and two nodes of three are enough, also when each of them has just
/// restarted. Also if one had lost something before, with the power of its machine, and has it back.
fn relaxed_processes(plan: &mut Plan, dice: &mut Dice) {
    short_support(plan, dice);
    let interval = dice.between(100, 2_000);
    plan.nodes.iter_mut().for_each(|node| node.wal_sync_ms = interval);
    plan.ending = Ending::HealMajority;
    let mut from = 0;
    if dice.chance(700) {
        let target = Target::Node(1 + dice.below(plan.nodes.len() as u64) as u16);
        let (at, span) = (settled(plan) + dice.between(500, 2_000), dice.between(20, 500));
        add(
            plan,
            at,
            span,
            FaultKind::PowerLoss { target, style: *dice.pick(&[LossStyle::Nothing, LossStyle::Sectors, LossStyle::Suffix]) },
        );
        from = at + span + CATCHES_UP_WITHIN_MS;
        plan.faults_ms = plan.faults_ms.max(from + 3_000);
        // Whether it has everything back shows where it is one of just enough.
        plan.ending = *dice.pick(&[Ending::HealMajority, Ending::HealFew, Ending::HealFew]);
    }
    for at in times(plan, dice, 2_500).into_iter().filter(|at| *at >= from) {
        for node in 1..=plan.nodes.len() as u16 {
            let delay = dice.below(100);
            let target = Target::Node(node);
            add(plan, at + delay, dice.between(5, 400), FaultKind::Crash { target });
        }
        if dice.chance(300) {
            let target = Target::Node(1 + dice.below(plan.nodes.len() as u64) as u16);
            add(plan, at + 1_000, 3_000, FaultKind::Stop { target });
        }
    }
}

fn full_disks(plan: &mut Plan, dice: &mut Dice) {
    plan.nodes.iter_mut().for_each(|node| node.segment_kib = 64);
    plan.workload.value_size_max = dice.between(8_000, 40_000) as u32;
    plan.workload.get_permille = 200;
    plan.workload.think_ms = 8;
    for at in times(plan, dice, 2_500) {
        let target = target(plan, dice);
        add(plan, at, dice.between(500, 3_000), FaultKind::Full { target });
        if dice.chance(400) {
            let target = leader(plan, dice);
            add(plan, at + 500, dice.between(50, 500), FaultKind::Crash { target });
        }
    }
}

fn failing_disks(plan: &mut Plan, dice: &mut Dice) {
    strict_sync(plan);
    plan.nodes.iter_mut().for_each(|node| node.cache_kib = 1);
    for at in times(plan, dice, 900) {
        let target = target(plan, dice);
        let span = dice.between(5, 300);
        let kind = match dice.below(5) {
            0 => FaultKind::WriteErrors { target },
            1 => FaultKind::ReadErrors { target, permille: dice.spread(50, 800) as u32 },
            2 => FaultKind::Stall { target },
            _ => FaultKind::SyncErrors { target },
        };
        add(plan, at, span, kind);
    }
}

fn restarts(plan: &mut Plan, dice: &mut Dice) {
    strict_sync(plan);
    plan.workload.compare_permille = 600;
    for at in times(plan, dice, 1_500) {
        match dice.below(3) {
            0 => add(
                plan,
                at,
                dice.between(5, 300),
                FaultKind::PowerLossOfAll { within_ms: dice.spread(1, 500), style: style(dice) },
            ),
            1 => {
                for node in 1..=plan.nodes.len() as u16 {
                    let delay = dice.below(300);
                    let span = dice.between(5, 500);
                    add(plan, at + delay, span, FaultKind::Crash { target: Target::Node(node) });
                }
            }
            _ => {
                for node in 1..=plan.nodes.len() as u16 {
                    let delay = dice.below(1_000);
                    add(plan, at + delay, 3_000, FaultKind::Stop { target: Target::Node(node) });
                }
            }
        }
    }
}

fn contested_elections(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    short_support(plan, dice);
    strict_sync(plan);
    plan.network.latency_us = dice.between(2_000, 20_000);
    plan.network.jitter_us = plan.network.latency_us * 2;
    for at in times(plan, dice, 600) {
        let target = leader(plan, dice);
        let span = dice.between(200, 900);
        match dice.below(3) {
            0 => add(plan, at, span, FaultKind::Crash { target }),
            1 => add(plan, at, span, FaultKind::Isolate { target }),
            _ => add(plan, at, span, FaultKind::Pause { target }),
        }
        if dice.chance(500) {
            let when = *dice.pick(&[Trigger::Votes, Trigger::Campaigns, Trigger::Leads]);
            let kind = if dice.chance(500) { power_loss(dice) } else { FaultKind::Pause { target: Target::There } };
            add_when(plan, at, dice.between(10, 500), when, kind);
        }
    }
}

fn lagging_followers(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    plan.workload.value_size_max = dice.between(50_000, 300_000) as u32;
    plan.workload.think_ms = dice.between(20, 40);
    plan.workload.get_permille = 200;
    plan.nodes.iter_mut().for_each(|node| {
        node.segment_kib = 512;
        node.cache_kib = 16;
    });
    for at in times(plan, dice, 2_000) {
        let group = group(plan, dice);
        let target = if dice.chance(600) { Target::FollowerOf(group) } else { Target::LeaderOf(group) };
        let span = dice.between(300, 2_500);
        match dice.below(3) {
            0 => add(plan, at, span, FaultKind::Crash { target }),
            1 => add(plan, at, span, FaultKind::Stall { target }),
            _ => add(plan, at, span, FaultKind::Isolate { target }),
        }
    }
}

/// A backlog of seconds of a link's bandwidth waits for the node that returns; from then on nothing is wrong, and every leader
/// stays.
fn narrow_links(plan: &mut Plan, dice: &mut Dice) {
    strict_sync(plan);
    plan.nodes.truncate(3);
    plan.cluster.partitions = *dice.pick(&[4, 8, 16]);
    plan.cluster.support_ms = *dice.pick(&[300, 400]);
    let support = u64::from(plan.cluster.support_ms);
    plan.nodes.iter_mut().for_each(|node| {
        node.heartbeat_ms = support / 4;
        node.segment_kib = 512;
        node.boot_ms %= 100;
    });
    plan.workload = WorkloadPlan {
        clients: 10,
        keys: 24,
        value_size_max: dice.between(60_000, 120_000) as u32,
        get_permille: 50,
        timeout_ms: 3_000,
        ..plan.workload.clone()
    };
    plan.network = NetworkPlan {
        latency_us: dice.spread(50, 1_000),
        jitter_us: 50,
        loss_permille: 0,
        duplication_permille: 0,
        reordering_permille: 0,
        bandwidth_kib: dice.between(200, 500) as u32,
    };
    plan.disk = DiskPlan { write_us: 50, sync_us: dice.between(100, 1_000), read_us: 50, jitter_us: 100 };
    plan.faults_ms = 10_000;
    plan.ending = Ending::HealAll;
    let (at, span) = (1_500, dice.between(3_500, 4_500));
    let target = Target::Node(1 + dice.below(3) as u16);
    let kind = if dice.chance(500) { FaultKind::Isolate { target } } else { FaultKind::Crash { target } };
    add(plan, at, span, kind);
    // By then it has heard which node leads; and a leader that it had while it was away has stepped down.
    plan.calm_from_ms = Some(at + span + 2 * support);
}

fn leader_churn(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    short_support(plan, dice);
    strict_sync(plan);
    plan.disk.sync_us = dice.between(500, 8_000);
    let support = u64::from(plan.cluster.support_ms);
    for at in times(plan, dice, 2 * support) {
        let when = *dice.pick(&[Trigger::Leads, Trigger::Answers, Trigger::Acknowledges, Trigger::Writes]);
        let span = dice.between(support / 2, 3 * support);
        let kind = match dice.below(4) {
            0 => power_loss(dice),
            1 => FaultKind::Crash { target: Target::There },
            2 => FaultKind::OneWay { target: Target::There, outward: dice.chance(500) },
            _ => FaultKind::Isolate { target: Target::There },
        };
        add_when(plan, at, span, when, kind);
    }
}

fn formation(plan: &mut Plan, dice: &mut Dice) {
    strict_sync(plan);
    plan.nodes.iter_mut().for_each(|node| node.boot_ms = dice.below(1_000));
    for _ in 0..dice.between(2, 8) {
        let at = dice.below(1_500);
        let target = Target::Node(1 + dice.below(plan.nodes.len() as u64) as u16);
        let span = dice.between(10, 800);
        match dice.below(4) {
            0 => add(plan, at, span, FaultKind::Crash { target }),
            1 => add(plan, at, span, FaultKind::Isolate { target }),
            2 => add(plan, at, span, FaultKind::PowerLossOfAll { within_ms: dice.spread(1, 100), style: style(dice) }),
            _ => {
                let when = *dice.pick(&[Trigger::Writes, Trigger::Syncs, Trigger::Creates]);
                let kind = FaultKind::PowerLoss { target: Target::There, style: style(dice) };
                add_when(plan, at, span, when, kind);
            }
        }
    }
}

fn forwarded_requests(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    short_support(plan, dice);
    plan.workload.wander_permille = 300;
    plan.workload.counters = 2;
    plan.workload.counter_permille = 600;
    plan.workload.timeout_ms = dice.between(200, 800) as u32;
    let permille = dice.between(100, 500) as u32;
    add(plan, 500, plan.faults_ms, FaultKind::Duplication { permille, delay_ms: dice.spread(5, 2_000) });
    for at in times(plan, dice, 1_200) {
        let target = leader(plan, dice);
        let span = dice.between(100, 1_500);
        match dice.below(4) {
            0 => add(plan, at, span, FaultKind::OneWay { target, outward: true }),
            1 => add(plan, at, span, FaultKind::Stop { target }),
            2 => add(plan, at, span, FaultKind::Pause { target }),
            _ => add(plan, at, span, FaultKind::Delay { by_ms: dice.between(50, 700) }),
        }
    }
}

/// Requests and transactions are in flight when a link is cut, and it stays so.
fn lasting_cuts(plan: &mut Plan, dice: &mut Dice) {
    strict_sync(plan);
    short_support(plan, dice);
    plan.ending = Ending::HealAll;
    plan.workload.transactions = transactions::draw(dice);
    let kind = if dice.chance(500) { faults::cut_link(plan, dice) } else { faults::one_way_link(plan, dice) };
    let at_ms = dice.between(settled(plan), plan.faults_ms - 1);
    plan.standing = Some(Standing { at_ms, kind });
    for at in times(plan, dice, 3_000) {
        let target = leader(plan, dice);
        add(plan, at, dice.between(10, 1_000), FaultKind::Crash { target });
    }
}

/// What is dead stays dead, and that is more than a majority of the nodes: but of some groups a majority lives. Without
/// transactions: a transaction whose home is dead is never decided.
fn few_return(plan: &mut Plan, dice: &mut Dice) {
    strict_sync(plan);
    short_support(plan, dice);
    let model = plan.nodes[0].clone();
    plan.nodes.resize(5, model);
    for (number, node) in plan.nodes.iter_mut().enumerate() {
        node.zone = format!("z{number}");
    }
    plan.cluster.partitions = *dice.pick(&[4, 8, 16]);
    plan.ending = Ending::HealFew;
    for at in times(plan, dice, 2_500) {
        let target = leader(plan, dice);
        add(plan, at, dice.between(10, 1_000), FaultKind::Crash { target });
    }
}

/// One node loses what it had acknowledged; then the only other node that has it is cut off, and the rest must not elect without
/// it.
fn relaxed_tails(plan: &mut Plan, dice: &mut Dice) {
    focus(plan, dice);
    short_support(plan, dice);
    plan.nodes.truncate(3);
    plan.workload.get_permille = 200;
    let interval = dice.between(100, 2_000);
    plan.nodes.iter_mut().for_each(|node| node.wal_sync_ms = interval);
    let support = u64::from(plan.cluster.support_ms);
    let forgets = 1 + dice.below(3) as u16;
    for at in times(plan, dice, 8 * support) {
        let (lags, knows) =
            if dice.chance(500) { (forgets % 3 + 1, (forgets + 1) % 3 + 1) } else { ((forgets + 1) % 3 + 1, forgets % 3 + 1) };
        let style = *dice.pick(&[LossStyle::Nothing, LossStyle::Nothing, LossStyle::Sectors, LossStyle::Suffix]);
        let span = dice.between(support, 3 * support);
        add(plan, at, span, FaultKind::Isolate { target: Target::Node(lags) });
        add(plan, at + span - 20, dice.between(5, 50), FaultKind::PowerLoss { target: Target::Node(forgets), style });
        if dice.chance(300) {
            // The machine stays up now, and proves nothing about what was lost before.
            let soon = at + span + dice.between(40, 150);
            add(plan, soon, dice.between(5, 30), FaultKind::Crash { target: Target::Node(forgets) });
        }
        let cut = Target::Node(knows);
        let kind = if dice.chance(500) { FaultKind::Isolate { target: cut } } else { FaultKind::Crash { target: cut } };
        add(plan, at + span - 10, dice.between(2 * support, 5 * support), kind);
    }
}

/// Figure 8 of the Raft paper. A leader has entries that no other node has, and restarts; another is elected, and no node hears
/// it. The first leads again and spreads its old entries, but not yet an entry of its new term. Then the other comes back, whose
/// last term is higher.
fn older_terms(plan: &mut Plan, dice: &mut Dice) {
    plan.nodes.truncate(3);
    focus(plan, dice);
    short_support(plan, dice);
    strict_sync(plan);
    plan.cluster.partitions = 1;
    // Writes alone: a quorum round for a read would tell the leader early where the logs part.
    plan.workload.get_permille = 0;
    plan.workload.compare_permille = 0;
    plan.workload.scan_permille = 0;
    plan.disk.write_us = 50;
    plan.disk.sync_us = dice.between(300, 2_000);
    plan.faults_ms = plan.faults_ms.max(9_000);
    let support = u64::from(plan.cluster.support_ms);
    // In tenths of a support span from the beginning of a round. The leader is looked up when a fault begins.
    let tenths = |tenths: u64| support * tenths / 10;
    let leader = Target::LeaderOf(1);
    for at in times(plan, dice, 10 * support) {
        // The first leader writes alone, and goes down; its entries are then on its disk only.
        add(plan, at, tenths(14), FaultKind::Isolate { target: leader });
        add(plan, at + tenths(4), tenths(16), FaultKind::Crash { target: leader });
        // The nodes that elect the second leader do not hear of it; nor does the first.
        add_when(plan, at + tenths(5), tenths(12), Trigger::Votes, FaultKind::Isolate { target: Target::There });
        add(plan, at + tenths(14), tenths(30), FaultKind::Isolate { target: leader });
        // The nodes that take the old entries of the first do not get its new entry.
        let cut_off = tenths(dice.between(4, 7));
        add_when(plan, at + tenths(28), cut_off, Trigger::Acknowledges, FaultKind::Isolate { target: Target::There });
        add(plan, at + tenths(35), tenths(25), FaultKind::Isolate { target: leader });
    }
}
