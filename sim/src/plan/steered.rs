//! Scenarios that cast every node in its part, and delay single kinds of message: for interleavings of many steps, of which
//! chance finds the last only after all the others.
//!
//! Times are in tenths of the support span, since that is what elections and leases are measured by. Times of a step are still
//! drawn, and the winner of an election is never certain: a scenario makes its interleaving likely within a seed, and finds its
//! neighbours on the way.

use super::draws::{add, focus, readers, strict_sync, times};
use super::{Ending, Fault, FaultKind, MessageKind, Plan, Target, Trigger};
use crate::dice::Dice;

/// A plain surrounding: one group, a quick network and quick disks, so that only what is steered takes time.
fn stage(plan: &mut Plan, dice: &mut Dice, nodes: usize, support_ms: u32) {
    let model = plan.nodes[0].clone();
    plan.nodes.resize(nodes, model);
    for (number, node) in plan.nodes.iter_mut().enumerate() {
        node.boot_ms = dice.between(1, 20);
        node.heartbeat_ms = u64::from(support_ms) / 4;
        node.zone = format!("z{number}");
    }
    focus(plan, dice);
    strict_sync(plan);
    plan.cluster.partitions = 1;
    plan.cluster.replication_factor = nodes.min(5) as u8;
    plan.cluster.support_ms = support_ms;
    plan.network.latency_us = dice.between(100, 1_000);
    plan.network.jitter_us = plan.network.latency_us;
    plan.disk.write_us = 50;
    plan.disk.sync_us = dice.between(200, 1_000);
    plan.disk.jitter_us = 500;
}

fn slow(plan: &mut Plan, at_ms: u64, for_ms: u64, (from, to): (u16, u16), what: MessageKind, by_ms: u64) {
    add(plan, at_ms, for_ms, FaultKind::SlowMessages { from, to, what, by_ms });
}

fn isolate(plan: &mut Plan, at_ms: u64, for_ms: u64, node: u16) {
    add(plan, at_ms, for_ms, FaultKind::Isolate { target: Target::Node(node) });
}

fn cut(plan: &mut Plan, at_ms: u64, for_ms: u64, pair: (u16, u16)) {
    add(plan, at_ms, for_ms, FaultKind::Partial { pairs: vec![pair] });
}

/// The nodes of three, in any order.
fn cast_three(dice: &mut Dice) -> [u16; 3] {
    *dice.pick(&[[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]])
}

/// A leader appends much that only one follower takes, whose acknowledgements are long on their way. Both are cut off. Another
/// leader is elected, and what the first had appended is replaced at the first, not at the follower. The first leads again, and
/// now the acknowledgements come, for indexes where the follower holds something else. What is committed on their strength is on
/// too few nodes.
pub fn late_acknowledgements(plan: &mut Plan, dice: &mut Dice) {
    stage(plan, dice, 5, 200);
    plan.workload.clients = 10;
    plan.workload.timeout_ms = 100;
    plan.workload.get_permille = 100;
    plan.workload.scan_permille = 0;
    plan.workload.compare_permille = 0;
    plan.faults_ms = 10_000;
    let replicas = plan.replicas(1);
    let tenths = |tenths: u64| u64::from(plan.cluster.support_ms) * tenths / 10;
    let span = tenths(10);
    // The preferred leader gets the leadership back by itself, eight support spans after it lost it.
    let mut at = 3 * span + dice.below(span);
    while at + 12 * span < plan.faults_ms {
        let (first, others) = (replicas[0], &replicas[1..]);
        let takes = *dice.pick(others);
        let keeps = *dice.pick(&others.iter().copied().filter(|node| *node != takes).collect::<Vec<u16>>());
        let alone = dice.between(3 * span, 5 * span);
        let parted = at + alone;
        let back = parted + 16 * span / 10;
        let second_ends = back + dice.between(3, 6) * span / 10;
        let leads_again = second_ends + dice.between(12, 19) * span / 10;
        for other in others.iter().filter(|node| **node != takes) {
            slow(plan, at, alone, (first, *other), MessageKind::Append, 20_000);
        }
        let late = leads_again - at - dice.below(2 * span);
        slow(plan, at, alone, (takes, first), MessageKind::AppendReply, late);
        isolate(plan, parted, back - parted, first);
        isolate(plan, parted, leads_again - parted, takes);
        add(plan, second_ends, leads_again - second_ends, FaultKind::Isolate { target: Target::LeaderOf(1) });
        add(plan, leads_again, 4 * span, FaultKind::Split { side: vec![first, keeps] });
        at = leads_again + dice.between(12 * span, 14 * span);
    }
}

/// Two candidates that cannot hear each other ask the same voter, again and again. The votes for one of them come late: when it
/// stands in the next term, and the voter has by then elected the other.
pub fn late_votes(plan: &mut Plan, dice: &mut Dice) {
    stage(plan, dice, 3, 400);
    plan.disk.sync_us = dice.between(2_000, 10_000);
    plan.faults_ms = 9_000;
    for at in times(plan, dice, 1_400) {
        let [voter, late, other] = cast_three(dice);
        cut(plan, at, 1_300, (late, other));
        for node in 1..=3 {
            add(plan, at, 20, FaultKind::Crash { target: Target::Node(node) });
        }
        for candidate in [late, other] {
            slow(plan, at, 1_300, (voter, candidate), MessageKind::PreVote, 2_000);
        }
        // In the first term the one is quicker, in the next the other. All restarted, and campaign after a support span.
        let next_term = at + 20 + 400 + dice.between(100, 130);
        for (from, until, slower, faster) in [(at, next_term, other, late), (next_term, at + 1_300, late, other)] {
            slow(plan, from, until - from, (slower, voter), MessageKind::Vote, 90);
            slow(plan, from, until - from, (faster, voter), MessageKind::Vote, 15);
        }
        slow(plan, at, 1_300, (voter, late), MessageKind::VoteReply, dice.between(150, 260));
    }
}

/// Two candidates stand in one term. The voter elects the first, restarts, and is asked by the second, whose request was long on
/// its way; the first is heard no more.
pub fn late_vote_requests(plan: &mut Plan, dice: &mut Dice) {
    stage(plan, dice, 3, 400);
    plan.faults_ms = 9_000;
    for at in times(plan, dice, 2_000) {
        let [voter, first, other] = cast_three(dice);
        for node in 1..=3 {
            add(plan, at, 20, FaultKind::Crash { target: Target::Node(node) });
        }
        cut(plan, at, 1_600, (first, other));
        // Long enough that the other is a candidate too before the voter has given its vote.
        slow(plan, at, 1_600, (first, voter), MessageKind::Vote, 80);
        slow(plan, at, 1_600, (voter, first), MessageKind::VoteReply, 3_000);
        slow(plan, at, 1_600, (other, voter), MessageKind::Vote, dice.between(530, 640));
        let target = Target::Node(voter);
        let kind = if dice.chance(500) {
            FaultKind::Crash { target }
        } else {
            FaultKind::PowerLoss { target, style: super::LossStyle::Nothing }
        };
        add(plan, at + dice.between(585, 610), 5, kind);
    }
}

/// Answers to a leader are late, and then it is cut off: answers from before still come when another already leads, and prove
/// nothing of now.
pub fn late_answers(plan: &mut Plan, dice: &mut Dice) {
    stage(plan, dice, 3, 400);
    readers(plan, dice);
    plan.cluster.partitions = 4;
    // A client that waits for the leader that is cut off asks nothing else: many clients, so that some ask late, and others write
    // meanwhile.
    plan.workload.clients = 14;
    plan.workload.keys = 4;
    plan.workload.counter_permille = 0;
    plan.workload.scan_permille = 0;
    plan.workload.timeout_ms = 400;
    plan.faults_ms = 10_000;
    for at in times(plan, dice, 1_600) {
        let leader = dice.between(1, 3) as u16;
        let late = dice.between(640, 780);
        for follower in (1..=3).filter(|node| *node != leader) {
            slow(plan, at, 250, (follower, leader), MessageKind::AppendReply, late);
        }
        isolate(plan, at + 250, 900, leader);
    }
}

/// A leader begins what was forwarded to it, crashes, and is back at once, its new heartbeats late. Copies of the forwards reach
/// its new epoch, which has begun none of them; the earlier epoch has.
pub fn repeated_forwards(plan: &mut Plan, dice: &mut Dice) {
    stage(plan, dice, 3, 400);
    plan.disk.sync_us = dice.between(1_000, 4_000);
    plan.workload.clients = 10;
    plan.workload.counters = 2;
    plan.workload.counter_permille = 700;
    plan.workload.get_permille = 200;
    plan.workload.scan_permille = 0;
    plan.workload.timeout_ms = 1_500;
    plan.faults_ms = 10_000;
    add(plan, 500, plan.faults_ms, FaultKind::Duplication { permille: 500, delay_ms: dice.between(50, 300) });
    for at in times(plan, dice, 1_200) {
        for (from, to) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
            for what in [MessageKind::Heartbeat, MessageKind::HeartbeatReply] {
                slow(plan, at, 200, (from, to), what, 500);
            }
        }
        // What it writes, it has sent to the others as well.
        let kind = FaultKind::Crash { target: Target::LeaderOf(1) };
        plan.faults.push(Fault { at_ms: at, for_ms: dice.between(1, 10), when: Some(Trigger::Writes), nth: 0, kind });
    }
}

/// Relaxed syncing: a follower acknowledges what the third node never gets, and loses it with its power. Copies of what its
/// leader had sent to its former epoch come late. What the leader sends now comes later still, and then the leader is cut off.
/// The other two must not elect without it.
pub fn late_appends(plan: &mut Plan, dice: &mut Dice) {
    stage(plan, dice, 3, 400);
    let interval = dice.between(500, 2_000);
    plan.nodes.iter_mut().for_each(|node| node.wal_sync_ms = interval);
    plan.workload.clients = 10;
    plan.workload.get_permille = 100;
    plan.workload.timeout_ms = 400;
    plan.faults_ms = 10_000;
    let replicas = plan.replicas(1);
    let leader = replicas[0];
    let [forgets, lags] = *dice.pick(&[[replicas[1], replicas[2]], [replicas[2], replicas[1]]]);
    let mut at = 1_200 + dice.below(400);
    while at + 3_000 < plan.faults_ms {
        let delay_ms = dice.between(100, 1_000);
        add(plan, at, 700, FaultKind::Duplication { permille: 500, delay_ms });
        let loses = at + dice.between(300, 600);
        slow(plan, loses - 100, 2_000, (leader, lags), MessageKind::Append, 20_000);
        slow(plan, loses, 2_000, (leader, forgets), MessageKind::Append, 20_000);
        let kind = FaultKind::PowerLoss { target: Target::Node(forgets), style: super::LossStyle::Nothing };
        add(plan, loses, dice.between(1, 20), kind);
        let gone = loses + dice.between(100, 400);
        isolate(plan, gone, dice.between(1_200, 1_600), leader);
        // The preferred leader gets the leadership back after eight support spans, if it was lost.
        at = gone + 1_600 + dice.between(1_000, 3_800);
    }
}

/// A leader whose lease rests on one follower's promise alone is cut off just when that follower restarts: it must keep what it
/// promised in its former epoch.
pub fn restarted_voter(plan: &mut Plan, dice: &mut Dice) {
    stage(plan, dice, 3, 400);
    readers(plan, dice);
    plan.workload.clients = 10;
    plan.faults_ms = 10_000;
    let replicas = plan.replicas(1);
    let mut at = 1_200 + dice.below(400);
    while at + 2_000 < plan.faults_ms {
        let leader = replicas[0];
        let promises = *dice.pick(&replicas[1..]);
        for follower in replicas[1..].iter().filter(|node| **node != promises) {
            cut(plan, at, 1_500, (leader, *follower));
        }
        let restart = at + dice.between(450, 650);
        cut(plan, restart, at + 1_500 - restart, (leader, promises));
        add(plan, restart, dice.between(1, 30), FaultKind::Crash { target: Target::Node(promises) });
        // The preferred leader gets the leadership back after eight support spans.
        at += 1_500 + dice.between(3_300, 3_800);
    }
}

/// A leader whose clock is as slow as the bound allows, among followers whose clocks are as fast, is cut off: by its clock the
/// promises it got hold longer than by theirs.
pub fn slow_leaders(plan: &mut Plan, dice: &mut Dice) {
    let support_ms = *dice.pick(&[1_000, 1_500]);
    stage(plan, dice, 3, support_ms);
    readers(plan, dice);
    plan.workload.keys = 1;
    plan.cluster.clock_drift_ppm_max = 200_000;
    plan.nodes.iter_mut().for_each(|node| node.clock_ppm = 98_000);
    plan.faults_ms = 11_000;
    let support = u64::from(plan.cluster.support_ms);
    for at in times(plan, dice, 4 * support) {
        let target = Target::LeaderOf(1);
        add(plan, at, 5 * support / 2, FaultKind::ClockRate { target, ppm: -98_000 });
        add(plan, at + support / 2, 2 * support, FaultKind::Isolate { target });
    }
}

/// A node with an old copy of its directory has forgotten what the leader committed by its acknowledgement. The other node never
/// got that, but has heard of it; and the leader is cut off. If these two elect, it is lost.
pub fn forgotten_acknowledgements(plan: &mut Plan, dice: &mut Dice) {
    stage(plan, dice, 3, 400);
    plan.workload.get_permille = 200;
    plan.faults_ms = 9_000;
    plan.ending = Ending::HealMajority;
    let replicas = plan.replicas(1);
    let leader = replicas[0];
    let [forgets, lags] = *dice.pick(&[[replicas[1], replicas[2]], [replicas[2], replicas[1]]]);
    let copied = dice.between(1_500, 2_000);
    let back = copied + 2_500;
    add(plan, copied, 2_500, FaultKind::OldDirectory { target: Target::Node(forgets) });
    slow(plan, copied, 5_500, (leader, lags), MessageKind::Append, 20_000);
    slow(plan, back - 50, 3_050, (leader, forgets), MessageKind::Append, 20_000);
    isolate(plan, back + 1_600, 2_500, leader);
}
