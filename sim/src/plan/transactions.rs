//! Transactions in plans: what clients ask of several keys, and faults at points of the protocol.

use super::draws::{self, Scenario, settled, style};
use super::{Fault, FaultKind, Plan, Target, Trigger};
use crate::dice::Dice;
use crate::points::Point;
use serde::{Deserialize, Serialize};

/// What the clients ask of several keys at once; see [`crate::workload::transactions`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransactionPlan {
    /// Of a thousand operations, how many are on several keys.
    pub permille: u32,
    /// Of a thousand of these, how many are of each kind; what is left are one-shot transactions on registers and counters.
    pub transfer_permille: u32,
    pub append_permille: u32,
    pub audit_permille: u32,
    pub read_permille: u32,
    pub interactive_permille: u32,
    pub accounts: u32,
    pub lists: u32,
    pub items_max: u32,
    /// Of a thousand transactions, how many carry a token.
    pub token_permille: u32,
}

/// A mix.
pub(super) fn draw(dice: &mut Dice) -> TransactionPlan {
    TransactionPlan {
        permille: *dice.pick(&[100, 300, 500, 800, 1000]),
        transfer_permille: *dice.pick(&[0, 200, 300, 600]),
        append_permille: *dice.pick(&[0, 100, 250]),
        audit_permille: *dice.pick(&[0, 50, 100]),
        read_permille: *dice.pick(&[0, 50, 150]),
        interactive_permille: *dice.pick(&[0, 50, 150]),
        accounts: dice.between(2, 8) as u32,
        lists: dice.between(1, 4) as u32,
        items_max: dice.between(2, 6) as u32,
        token_permille: *dice.pick(&[0, 0, 200, 500]),
    }
}

/// Every scenario about transactions, by name.
pub const TABLE: &[Scenario] = &[
    Scenario { name: "the coordinator is struck between two steps", draw: coordinators },
    Scenario { name: "a participant is struck between two steps", draw: participants },
    Scenario { name: "words of a transaction are lost, late and repeated", draw: words },
    Scenario { name: "a home is cut off for long", draw: homes_cut_off },
    Scenario { name: "a participant's group has no majority for a while", draw: no_majority },
    Scenario { name: "power goes everywhere, with transactions in every state", draw: power_loss_of_all },
    Scenario { name: "clients of transactions are lost", draw: clients_lost },
    Scenario { name: "transactions contend", draw: contention },
];

const COORDINATOR: &[Point] = &[
    Point::TransactArrives,
    Point::PrepareLeaves,
    Point::VoteArrives,
    Point::VoteArrives,
    Point::DecideAppended,
    Point::DecideDurable,
    Point::DecideAcknowledged,
    Point::AnswerLeaves,
    Point::ResolveLeaves,
    Point::ResolvedArrives,
    Point::EndAppended,
    Point::EndDurable,
    Point::InquiryArrives,
    Point::ReplyLeaves,
];

const PARTICIPANT: &[Point] = &[
    Point::PrepareArrives,
    Point::PrepareAppended,
    Point::PrepareDurable,
    Point::PrepareAcknowledged,
    Point::VoteLeaves,
    Point::RefusalLeaves,
    Point::ResolveArrives,
    Point::OutcomeAppended,
    Point::OutcomeDurable,
    Point::OutcomeAcknowledged,
    Point::ResolvedLeaves,
    Point::InquiryLeaves,
    Point::ReplyArrives,
];

/// A few faults at any points, beside whatever else the plan holds.
pub(super) fn strike_points(plan: &mut Plan, dice: &mut Dice) {
    if dice.chance(500) {
        return;
    }
    for _ in 0..dice.between(1, 6) {
        let at = dice.between(settled(plan), plan.faults_ms);
        let point = *dice.pick(Point::ALL);
        strike(plan, dice, at, point);
    }
}

/// A fault at a point, of any kind that makes sense there.
fn strike(plan: &mut Plan, dice: &mut Dice, at_ms: u64, point: Point) {
    let kind = if Point::MESSAGES.contains(&point) && dice.chance(400) { on_message(dice) } else { on_node(dice) };
    let for_ms = dice.spread(20, 3_000);
    add(plan, dice, at_ms, for_ms, point, kind);
}

fn add(plan: &mut Plan, dice: &mut Dice, at_ms: u64, for_ms: u64, point: Point, kind: FaultKind) {
    let nth = dice.spread(1, 12) as u32;
    plan.faults.push(Fault { at_ms, for_ms, when: Some(Trigger::Passes(point)), nth, kind });
}

fn on_node(dice: &mut Dice) -> FaultKind {
    let target = Target::There;
    match dice.below(10) {
        0..=2 => FaultKind::Crash { target },
        3..=4 => FaultKind::PowerLoss { target, style: style(dice) },
        5..=6 => FaultKind::Isolate { target },
        7 => FaultKind::OneWay { target, outward: dice.chance(500) },
        8 => FaultKind::Pause { target },
        _ => FaultKind::Stop { target },
    }
}

fn on_message(dice: &mut Dice) -> FaultKind {
    match dice.below(4) {
        0 => FaultKind::LoseMessage,
        1 => FaultKind::HoldMessage { by_ms: dice.spread(2, 4_000) },
        _ => FaultKind::RepeatMessage { after_ms: dice.spread(1, 4_000) },
    }
}

/// Many transactions over several groups, quick clients, few keys.
fn busy(plan: &mut Plan, dice: &mut Dice) {
    plan.cluster.partitions = *dice.pick(&[2, 4, 4, 8]);
    plan.cluster.support_ms = *dice.pick(&[200, 250, 400]);
    let support = u64::from(plan.cluster.support_ms);
    plan.nodes.iter_mut().for_each(|node| node.heartbeat_ms = support / 4);
    let workload = &mut plan.workload;
    workload.keys = dice.between(2, 12) as u32;
    workload.counters = dice.between(1, 4) as u32;
    workload.clients = dice.between(4, 10) as u32;
    workload.think_ms = dice.between(5, 20);
    workload.timeout_ms = dice.between(400, 2_000) as u32;
    workload.value_size_max = workload.value_size_max.min(2_000);
    workload.transactions.permille = *dice.pick(&[600, 800, 950]);
}

fn times(plan: &Plan, dice: &mut Dice, every_ms: u64) -> Vec<u64> {
    let mut times = Vec::new();
    let mut at = settled(plan);
    while at < plan.faults_ms {
        times.push(at);
        at += dice.between(every_ms / 2, every_ms * 3 / 2);
    }
    times
}

fn coordinators(plan: &mut Plan, dice: &mut Dice) {
    busy(plan, dice);
    for at in times(plan, dice, 700) {
        let point = *dice.pick(COORDINATOR);
        strike(plan, dice, at, point);
    }
}

fn participants(plan: &mut Plan, dice: &mut Dice) {
    busy(plan, dice);
    for at in times(plan, dice, 700) {
        let point = *dice.pick(PARTICIPANT);
        strike(plan, dice, at, point);
    }
}

fn words(plan: &mut Plan, dice: &mut Dice) {
    busy(plan, dice);
    for at in times(plan, dice, 150) {
        let point = *dice.pick(Point::MESSAGES);
        let kind = on_message(dice);
        add(plan, dice, at, 1, point, kind);
        // Now and then a client goes away meanwhile.
        if dice.chance(120) {
            strike(plan, dice, at, point);
        }
    }
}

fn homes_cut_off(plan: &mut Plan, dice: &mut Dice) {
    busy(plan, dice);
    for at in times(plan, dice, 2_500) {
        let point = *dice.pick(COORDINATOR);
        let target = Target::There;
        let kind = match dice.below(3) {
            0 => FaultKind::OneWay { target, outward: dice.chance(500) },
            1 => FaultKind::Pause { target },
            _ => FaultKind::Isolate { target },
        };
        let span = dice.between(1_500, 4_000);
        add(plan, dice, at, span, point, kind);
    }
}

fn no_majority(plan: &mut Plan, dice: &mut Dice) {
    busy(plan, dice);
    for at in times(plan, dice, 3_000) {
        let group = 1 + dice.below(u64::from(plan.cluster.partitions)) as u32;
        let replicas = plan.replicas(group);
        let spared = dice.below(replicas.len() as u64) as usize;
        let span = dice.between(800, 2_500);
        for (place, &node) in replicas.iter().enumerate().filter(|(place, _)| *place != spared) {
            let target = Target::Node(node);
            let kind = match dice.below(3) {
                0 => FaultKind::Crash { target },
                1 => FaultKind::Pause { target },
                _ => FaultKind::Isolate { target },
            };
            draws::add(plan, at + place as u64, span, kind);
        }
    }
}

fn power_loss_of_all(plan: &mut Plan, dice: &mut Dice) {
    busy(plan, dice);
    plan.nodes.iter_mut().for_each(|node| node.wal_sync_ms = 0);
    for at in times(plan, dice, 1_500) {
        let point = *dice.pick(Point::ALL);
        let kind = FaultKind::PowerLossOfAll { within_ms: dice.spread(1, 30), style: style(dice) };
        let span = dice.spread(10, 300);
        add(plan, dice, at, span, point, kind);
    }
}

fn clients_lost(plan: &mut Plan, dice: &mut Dice) {
    busy(plan, dice);
    plan.workload.timeout_ms = dice.between(200, 600) as u32;
    plan.workload.transactions.token_permille = 600;
    for at in times(plan, dice, 250) {
        let point = *dice.pick(&[
            Point::TransactLeaves,
            Point::TransactArrives,
            Point::PrepareLeaves,
            Point::VoteArrives,
            Point::DecideAppended,
            Point::AnswerLeaves,
        ]);
        let target = Target::There;
        let kind = match dice.below(6) {
            0 => FaultKind::Crash { target },
            1 => FaultKind::Isolate { target },
            _ => FaultKind::Disconnect { target },
        };
        let span = dice.spread(20, 800);
        add(plan, dice, at, span, point, kind);
    }
}

fn contention(plan: &mut Plan, dice: &mut Dice) {
    busy(plan, dice);
    plan.workload.keys = dice.between(2, 4) as u32;
    plan.workload.counters = dice.between(1, 2) as u32;
    plan.workload.hot_permille = *dice.pick(&[0, 300, 600]);
    plan.workload.clients = 10;
    plan.workload.think_ms = 5;
    let transactions = &mut plan.workload.transactions;
    (transactions.accounts, transactions.lists) = (dice.between(2, 3) as u32, 1);
    if dice.chance(500) {
        let at = settled(plan);
        strike_points(plan, dice);
        strike(plan, dice, at, Point::VoteArrives);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{RunOptions, run_plan};
    use crate::story;

    /// Of the first seeds, one for each scenario.
    #[test]
    fn every_scenario_is_clean_and_commits() {
        let mut left: Vec<&str> = TABLE.iter().map(|scenario| scenario.name).collect();
        for seed in 0.. {
            let plan = Plan::generate(seed);
            let Some(at) = left.iter().position(|name| *name == plan.scenario) else { continue };
            let name = left.swap_remove(at);
            let outcome = run_plan(&plan, RunOptions::default());
            assert!(outcome.verdict.is_clean(), "seed {seed}, {name}: {}", story::of_failure(&plan, &outcome.verdict));
            assert!(outcome.stats.committed > 20, "seed {seed}, {name}: {:?}", outcome.stats);
            if left.is_empty() {
                return;
            }
        }
    }

    /// Transactions of up to 100 items on few keys, in a healthy cluster, as fast as the clients can.
    fn contention_without_faults(clients: u32, keys: u32, seed: u64) -> Plan {
        let mut plan = Plan::generate(seed);
        plan.scenario = "contended".into();
        plan.nodes.truncate(3);
        plan.nodes.iter_mut().for_each(|node| (node.wal_sync_ms, node.clock_ppm, node.segment_kib) = (0, 0, 512));
        plan.nodes.iter_mut().for_each(|node| (node.cache_kib, node.heartbeat_ms) = (4096, 100));
        (plan.cluster.partitions, plan.cluster.support_ms, plan.cluster.clock_drift_ppm_max) = (32, 400, 20_000);
        plan.network.latency_us = 150;
        plan.network.jitter_us = 50;
        (plan.network.loss_permille, plan.network.duplication_permille, plan.network.reordering_permille) = (0, 0, 0);
        plan.network.bandwidth_kib = 0;
        (plan.disk.write_us, plan.disk.sync_us, plan.disk.read_us, plan.disk.jitter_us) = (10, 300, 50, 50);
        let workload = &mut plan.workload;
        (workload.clients, workload.think_ms, workload.timeout_ms, workload.keys) = (clients, 0, 20_000, keys);
        (workload.counters, workload.hot_permille, workload.value_size_max, workload.compare_permille) = (0, 0, 64, 0);
        (workload.delete_permille, workload.wander_permille, workload.edge_permille) = (0, 0, 0);
        workload.transactions = TransactionPlan { permille: 1_000, items_max: 100, ..TransactionPlan::default() };
        plan.nodes.iter_mut().for_each(|node| node.wall_ahead_ms = 0);
        (plan.faults, plan.faults_ms, plan.ending) = (Vec::new(), 2_500, crate::plan::Ending::HealAll);
        plan
    }

    /// What was committed within two and a half seconds, the forming of the cluster included, and what it took of prepares on all
    /// replicas.
    fn contended(clients: u32, keys: u32, seed: u64) -> (u64, u64) {
        let outcome = run_plan(&contention_without_faults(clients, keys, seed), RunOptions::default());
        assert!(outcome.verdict.is_clean(), "{}", outcome.verdict);
        (outcome.stats.committed, outcome.counters.point(Point::PrepareAppended).fired)
    }

    /// A transaction that dies for another leaves records behind: they must not crowd out the others' work, however many clients
    /// there are.
    #[test]
    fn throughput_of_large_transactions_does_not_fall_as_clients_double() {
        // One seed tells little: how far the leaders of a transaction's partitions are from each other changes its throughput by
        // a quarter.
        let sum = |clients| {
            std::thread::scope(|scope| {
                let runs: Vec<_> = (1..=6).map(|seed| scope.spawn(move || contended(clients, 300, seed))).collect();
                let runs = runs.into_iter().map(|run| run.join().expect("the run is clean"));
                runs.fold((0, 0), |sum, run| (sum.0 + run.0, sum.1 + run.1))
            })
        };
        let (few, many) = (sum(8), sum(32));
        assert!(few.0 > 1_000, "with 8 clients: {few:?}");
        assert!(many.0 * 10 >= few.0 * 9, "{few:?} with 8 clients, {many:?} with 32");
        assert!(many.1 / many.0 < 120, "prepares for each commit: {few:?} with 8 clients, {many:?} with 32");
    }

    /// Whose transactions are committed does not depend on what wall clocks say.
    #[test]
    fn a_clock_a_year_ahead_puts_nobody_at_a_disadvantage() {
        let mut plan = contention_without_faults(9, 30, 1);
        plan.workload.transactions.items_max = 12;
        plan.nodes[0].wall_ahead_ms = crate::plan::draws::YEAR_MS;
        let outcome = run_plan(&plan, RunOptions { history: true, ..RunOptions::default() });
        assert!(outcome.verdict.is_clean(), "{}", outcome.verdict);
        let mut committed = vec![0_u64; 9];
        for record in outcome.history.expect("it was asked for") {
            if matches!(record.outcome, ringseed::history::Outcome::Transacted { .. }) {
                committed[record.process as usize] += 1;
            }
        }
        let (least, mean) = (committed.iter().min().expect("nine clients"), committed.iter().sum::<u64>() / 9);
        assert!(*least * 3 >= mean, "by client: {committed:?}");
    }

    #[test]
    fn a_fault_strikes_at_the_nth_time() {
        let mut plan = (0..).map(Plan::generate).find(|plan| plan.scenario == TABLE[0].name).expect("some seed draws it");
        let count = |plan: &Plan, point| run_plan(plan, RunOptions::default()).counters.point(point);
        let when = Some(Trigger::Passes(Point::DecideDurable));
        let kind = FaultKind::Crash { target: Target::There };
        plan.faults = vec![Fault { at_ms: 0, for_ms: 50, when, nth: 7, kind }];
        assert_eq!(count(&plan, Point::DecideDurable).mattered, 1);
        plan.faults[0].nth = 1_000_000;
        assert_eq!(count(&plan, Point::DecideDurable).mattered, 0);
        plan.faults[0] = Fault {
            nth: 3,
            kind: FaultKind::LoseMessage,
            when: Some(Trigger::Passes(Point::VoteLeaves)),
            ..plan.faults[0].clone()
        };
        assert_eq!(count(&plan, Point::VoteLeaves).mattered, 1);
    }
}
