//! From a seed to a plan: the swarm.
//!
//! Each seed first draws the cluster and its surroundings, then *which* kinds of fault it uses at all, then how often and how
//! hard. A seed that uses three kinds a lot reaches states that one which uses all of them a little never does.

use super::draws::{self, CATCHES_UP_WITHIN_MS, YEAR_MS, aimed_there, settled};
use super::{
    ClusterPlan, DiskPlan, Ending, Fault, FaultKind, MessageKind, NetworkPlan, NodePlan, Plan, Rot, Synced, Target,
    TransactionPlan, Trigger, WorkloadPlan, scenarios, standing, transactions,
};
use crate::dice::Dice;
use ringseed::base::limits::{DELETED_KEPT, TRANSACTION_ITEMS_MAX};
use std::collections::BTreeMap;

impl Plan {
    /// The plan of a seed. Some follow a scenario of [`transactions::TABLE`], one in four of the rest one of
    /// [`scenarios::TABLE`].
    pub fn generate(seed: u64) -> Plan {
        let mut dice = Dice::new(seed, "plan");
        let mut plan = surroundings(seed, &mut dice);
        set_nodes_apart(&mut plan);
        // Streams of their own: what transactions add leaves the rest of the plan as it was.
        let mut others = Dice::new(seed, "transactions");
        if others.chance(180) {
            plan.workload.transactions = transactions::draw(&mut others);
            let scenario = others.pick(transactions::TABLE);
            plan.scenario = scenario.name.to_owned();
            (scenario.draw)(&mut plan, &mut others);
        } else if dice.chance(250) {
            let scenario = dice.pick(scenarios::TABLE);
            plan.scenario = scenario.name.to_owned();
            (scenario.draw)(&mut plan, &mut dice);
        } else {
            set_sizes(&mut plan, &mut Dice::new(seed, "sizes"));
            set_nodes_apart(&mut plan);
            // Some runs last for a minute or so: what ends with time, or comes seldom, is met many times.
            let mut lengths = Dice::new(seed, "length");
            if lengths.chance(12) {
                plan.faults_ms *= lengths.between(4, 12);
            }
            swarm(&mut plan, &mut dice);
            if others.chance(700) {
                plan.workload.transactions = transactions::draw(&mut others);
                transactions::strike_points(&mut plan, &mut others);
            }
        }
        if plan.calm_from_ms.is_none() {
            edges(&mut plan, &mut Dice::new(seed, "edges"));
        }
        set_walls(&mut plan, seed);
        let mut widths = Dice::new(seed, "bandwidth");
        if plan.network.bandwidth_kib == 0 && widths.chance(200) {
            plan.network.bandwidth_kib = bandwidth_kib(&plan, &mut widths);
        }
        set_limits(&mut plan, seed);
        set_leaves(&mut plan, &mut Dice::new(seed, "leaves"));
        plan.workload.tables = Dice::new(seed, "tables").chance(300);
        for behaviour in FaultKind::ALL {
            if let Some(add) = behaviour.add {
                add(&mut plan, &mut Dice::new(seed, behaviour.name));
            }
        }
        keep_the_promises_keepable(&mut plan, &mut dice);
        // Of one or two copies every one is needed: what is on a node that stays dead or sick waits for it.
        if plan.cluster.replication_factor >= 3 && !plan.bears_little() {
            standing::draw(&mut plan, &mut Dice::new(seed, "standing"));
        } else if plan.cluster.replication_factor < 3 && plan.ending == Ending::HealMajority {
            plan.ending = Ending::HealAll;
        }
        let clients = u64::from(plan.workload.clients);
        plan.workload.think_ms = plan.workload.think_ms.max(clients * plan.faults_ms / OPERATIONS_MAX);
        plan.faults.sort_by_key(|fault| fault.at_ms);
        plan
    }

    /// Whether its faults are such that a system can keep the promises.
    pub fn is_keepable(&self) -> bool {
        let own = Plan { operations: None, ..self.clone() };
        let mut kept = own.clone();
        keep_the_promises_keepable(&mut kept, &mut Dice::new(self.seed, "keepable"));
        kept == own
    }
}

/// Narrow enough for large values to queue, and wide enough for a node that was away to catch up in the time it is given.
fn bandwidth_kib(plan: &Plan, dice: &mut Dice) -> u32 {
    let largest = if plan.workload.edge_permille > 0 { 512 * 1024 } else { u64::from(plan.workload.value_size_max) };
    let least = (largest / 64).max(256);
    dice.spread(least, 16 * least) as u32
}

/// In some plans each wall clock says something else; in others one is a year ahead.
fn set_walls(plan: &mut Plan, seed: u64) {
    let mut dice = Dice::new(seed, "wall clocks");
    match dice.below(4) {
        0 => plan.nodes.iter_mut().for_each(|node| node.wall_ahead_ms = dice.spread(1, 10 * YEAR_MS)),
        1 => {
            let ahead = dice.below(plan.nodes.len() as u64) as usize;
            plan.nodes[ahead].wall_ahead_ms = YEAR_MS;
        }
        _ => {}
    }
}

/// In one plan of seven some nodes hold more than others; in one of ten some are started again with other settings.
fn set_nodes_apart(plan: &mut Plan) {
    let mut dice = Dice::new(plan.seed, "weights");
    if dice.chance(150) {
        plan.nodes.iter_mut().for_each(|node| node.weight = *dice.pick(&[1, 1, 2, 5]));
    }
    if dice.chance(100) {
        plan.nodes.iter_mut().for_each(|node| node.changes_settings = dice.chance(500));
    }
}

/// One plan of six is of another size than three to five nodes with three copies.
fn set_sizes(plan: &mut Plan, dice: &mut Dice) {
    if !dice.chance(160) {
        return;
    }
    let nodes = dice.between(1, 9) as usize;
    plan.cluster.replication_factor = dice.between(1, 5.min(nodes as u64)) as u8;
    plan.cluster.partitions = 1 << dice.below(7);
    // Without a copy elsewhere what was not synced is lost, by design.
    let sync_ms = if plan.cluster.replication_factor < 3 { 0 } else { plan.nodes[0].wal_sync_ms };
    let skewed = dice.chance(500);
    plan.nodes = (0..nodes).map(|number| node_plan(number, nodes, &plan.cluster, sync_ms, skewed, dice)).collect();
}

/// In one plan of five some limits are small enough to be reached, not on all nodes the same. Where all must be calm, none is.
fn set_limits(plan: &mut Plan, seed: u64) {
    let mut dice = Dice::new(seed, "limits");
    if !dice.chance(200) || plan.calm_from_ms.is_some() {
        return;
    }
    let small: Vec<_> = LIMITS.iter().filter(|_| dice.chance(250)).collect();
    for node in &mut plan.nodes {
        for (name, choices) in &small {
            if dice.chance(800) {
                node.limits.insert((*name).to_string(), *dice.pick(choices));
            }
        }
    }
    // What is read together must be let through together.
    if plan.workload.edge_permille == 0 && dice.chance(300) {
        let together = (plan.workload.value_size_max + 100) * 100;
        for node in &mut plan.nodes {
            for name in ["voted_bytes_per_node", "read_bytes_in_progress", "log_queue_bytes"] {
                node.limits.insert(name.into(), together);
            }
        }
    }
    // A token outlives every request: a gateway may ask with it for as long as the request may take.
    if dice.chance(300) {
        let tick_ms = plan.workload.timeout_ms / 5 + dice.spread(1, 50) as u32;
        plan.nodes.iter_mut().for_each(|node| _ = node.limits.insert("token_tick_ms".into(), tick_ms));
    }
    // While so much of its log waits to be written, a node takes nothing else that is to be logged: but both parts of a small
    // transaction.
    if dice.chance(150) {
        let bytes = *dice.pick(&[4_000, 10_000]);
        plan.nodes.iter_mut().for_each(|node| _ = node.limits.insert("log_queue_bytes".into(), bytes));
    }
}

/// Few keys make one leaf of the usual size, and runs log little.
fn set_leaves(plan: &mut Plan, dice: &mut Dice) {
    if dice.chance(500) {
        let bytes = *dice.pick(&[1, 300, 1_000]);
        plan.nodes.iter_mut().for_each(|node| _ = node.limits.insert("leaf_bytes".into(), bytes));
    }
    // So few entries come to one group.
    if dice.chance(600) {
        plan.cluster.deleted_kept = *dice.pick(&[4, 16, 64]);
    }
    if dice.chance(100) {
        draws::scrub(plan, dice);
    }
    if dice.chance(600) {
        let segment_kib = *dice.pick(&[0, 0, 16, 32]);
        for node in &mut plan.nodes {
            // A manifest counts once the next segment's header names it.
            node.segment_kib = if segment_kib > 0 { segment_kib } else { node.segment_kib };
            let bytes = *dice.pick(&[1_000, 4_000, 16_000]);
            node.limits.insert("checkpoint_bytes".into(), bytes);
            node.limits.insert("checkpoint_percent".into(), *dice.pick(&[5, 30, 200]));
            node.limits.insert("sweep_block_bytes".into(), *dice.pick(&[1, 1_000, 100_000]));
            node.limits.insert("garbage_percent".into(), *dice.pick(&[0, 5, 33]));
        }
        // A member that was away for a moment is sent the group's state.
        if dice.chance(600) {
            for node in &mut plan.nodes {
                node.limits.insert("retained_bytes".into(), *dice.pick(&[1, 20_000, 50_000]));
            }
            let piece_bytes = *dice.pick(&[1, 200, 2_000]);
            for node in &mut plan.nodes {
                let bytes = if dice.chance(50) { 500 } else { piece_bytes };
                node.limits.insert("snapshot_piece_bytes".into(), bytes);
            }
        }
    }
}

/// Limits of nodes, and how small they are drawn.
const LIMITS: &[(&str, &[u32])] = &[
    ("requests_in_progress", &[1, 3, 10]),
    ("request_bytes_in_progress", &[1, 2_000, 100_000]),
    ("parked_per_group", &[1, 2, 5]),
    ("transactions_per_home", &[1, 2, 5]),
    ("prepared_per_group", &[1, 2, 5]),
    ("resolved_per_group", &[1, 5, 50]),
    ("tokens_per_group", &[1, 3, 20]),
    ("token_bytes_per_group", &[1, 2_000]),
    ("token_bytes_per_node", &[1, 5_000]),
    ("ended_per_entry", &[1, 3]),
    ("uncommitted_entries", &[4, 10, 30]),
    ("uncommitted_bytes", &[1, 1_000, 100_000]),
    ("append_entries", &[1, 2, 7]),
    ("append_bytes", &[1, 1_000]),
    ("appends_in_flight", &[1, 2]),
    ("append_bytes_in_flight", &[1, 10_000]),
    ("peer_bytes_in_flight", &[1, 10_000]),
    ("peer_catch_up_bytes", &[1, 10_000]),
    ("recent_entry_bytes", &[0, 1_000]),
    ("node_recent_bytes", &[0, 10_000]),
    ("scans_in_progress", &[1, 2]),
    ("gets_of_many_in_progress", &[1, 2]),
    ("gets_of_many_bytes", &[1, 1_000]),
    ("reads_per_group", &[1, 3]),
    ("gated_messages", &[1, 10]),
    ("campaigns", &[1, 2]),
    ("batch_bytes", &[4_096, 16_384]),
    ("reads_in_progress", &[60, 150]),
    ("scan_visits", &[1, 10]),
    ("scan_bytes", &[1, 1_000]),
];

/// About as many operations has a seed. Many short seeds find more than few long ones.
const OPERATIONS_MAX: u64 = 1_200;

/// Values, keys and transactions at their limits. A few seeds have transactions of as many items as may be, and fewer of them.
fn edges(plan: &mut Plan, dice: &mut Dice) {
    if !dice.chance(400) {
        return;
    }
    let workload = &mut plan.workload;
    workload.edge_permille = *dice.pick(&[30, 100, 300]);
    if workload.transactions.permille > 0 && dice.chance(80) {
        workload.transactions.items_max = TRANSACTION_ITEMS_MAX as u32;
        workload.keys = workload.keys.max(TRANSACTION_ITEMS_MAX as u32 * 5 / 4);
        workload.value_size_max = workload.value_size_max.min(1_000);
        workload.think_ms = workload.think_ms.max(u64::from(workload.clients) * plan.faults_ms / (OPERATIONS_MAX / 6));
    }
}

/// A cluster, its machines, network, disks and clients; no faults yet.
fn surroundings(seed: u64, dice: &mut Dice) -> Plan {
    let nodes = *dice.pick(&[3, 3, 3, 3, 4, 5, 5]);
    let support_ms = *dice.pick(&[200, 250, 300, 300, 400, 400, 400, 600, 600, 1000, 2000, 4000]);
    let drift = *dice.pick(&[1_000, 20_000, 20_000, 50_000]);
    let cluster = ClusterPlan {
        partitions: *dice.pick(&[1, 1, 2, 4, 4, 8, 16]),
        replication_factor: 3,
        support_ms,
        clock_drift_ppm_max: drift,
        deleted_kept: DELETED_KEPT,
    };
    let sync_ms = if dice.chance(100) { dice.between(5, 200) } else { 0 };
    let skewed = dice.chance(500);
    let nodes = (0..nodes).map(|number| node_plan(number, nodes, &cluster, sync_ms, skewed, dice)).collect();
    let latency_us = dice.spread(50, 5_000);
    Plan {
        seed,
        scenario: "swarm".into(),
        cluster,
        nodes,
        workload: workload(dice),
        operations: None,
        network: NetworkPlan {
            latency_us,
            jitter_us: latency_us * dice.between(0, 2),
            loss_permille: if dice.chance(300) { dice.spread(1, 50) as u32 } else { 0 },
            duplication_permille: if dice.chance(300) { dice.spread(1, 100) as u32 } else { 0 },
            reordering_permille: if dice.chance(300) { dice.spread(1, 200) as u32 } else { 0 },
            bandwidth_kib: 0,
        },
        disk: DiskPlan {
            write_us: *dice.pick(&[5, 50, 300, 2_000]),
            sync_us: *dice.pick(&[50, 300, 1_000, 4_000, 10_000]),
            read_us: dice.spread(20, 1_000),
            jitter_us: dice.spread(1, 3_000),
        },
        faults_ms: dice.between(4_000, 9_000) + u64::from(support_ms),
        calm_from_ms: None,
        ending: *dice.pick(&[Ending::HealAll, Ending::HealAll, Ending::HealAll, Ending::HealMajority, Ending::NeverHeal]),
        faults: Vec::new(),
        standing: None,
    }
}

fn node_plan(number: usize, nodes: usize, cluster: &ClusterPlan, sync_ms: u64, skewed: bool, dice: &mut Dice) -> NodePlan {
    let support_ms = u64::from(cluster.support_ms);
    // Rates of all nodes together stay within the bound: any two differ by less than the bound.
    let ppm = i64::from(cluster.clock_drift_ppm_max) * 9 / 20;
    let clock_ppm = match (skewed, number % 2) {
        (false, _) => 0,
        (true, 0) => ppm - dice.below(ppm as u64 / 8 + 1) as i64,
        (true, _) => dice.below(ppm as u64 / 8 + 1) as i64 - ppm,
    };
    NodePlan {
        boot_ms: dice.spread(1, 400),
        heartbeat_ms: (support_ms / dice.between(3, 6)).max(20),
        wal_sync_ms: sync_ms,
        scrub_ms: 0,
        segment_kib: *dice.pick(&[64, 64, 128, 256, 512]),
        cache_kib: *dice.pick(&[1, 16, 256, 4096]),
        zone: if dice.chance(200) { "z1".into() } else { format!("z{}", number % nodes) },
        clock_offset_ms: dice.spread(0, 1_000_000),
        clock_ppm,
        wall_ahead_ms: 0,
        weight: 1,
        changes_settings: false,
        steps_max: dice.spread(1, 32) as u32,
        limits: BTreeMap::new(),
    }
}

pub(super) fn workload(dice: &mut Dice) -> WorkloadPlan {
    let large = dice.chance(150);
    WorkloadPlan {
        clients: dice.between(2, 10) as u32,
        think_ms: dice.spread(8, 60),
        timeout_ms: dice.spread(200, 3_000) as u32,
        keys: dice.spread(1, 24) as u32,
        counters: dice.between(0, 3) as u32,
        hot_permille: *dice.pick(&[0, 0, 200, 600]),
        value_size_max: if large { dice.spread(4_000, 60_000) as u32 } else { dice.spread(8, 600) as u32 },
        get_permille: dice.between(150, 600) as u32,
        eventual_permille: *dice.pick(&[0, 0, 100, 400]),
        compare_permille: *dice.pick(&[0, 200, 500, 900]),
        delete_permille: *dice.pick(&[0, 50, 200]),
        scan_permille: *dice.pick(&[0, 0, 30, 100]),
        counter_permille: *dice.pick(&[0, 200, 500]),
        all_permille: *dice.pick(&[0, 0, 50, 300]),
        wander_permille: *dice.pick(&[0, 20, 200]),
        edge_permille: 0,
        tables: false,
        transactions: TransactionPlan::default(),
    }
}

/// Draws the kinds of fault, then faults of these kinds over the whole phase.
fn swarm(plan: &mut Plan, dice: &mut Dice) {
    let draws = FaultKind::ALL.iter().filter_map(|behaviour| behaviour.draw);
    let kinds: Vec<_> = draws.filter(|_| dice.chance(220)).collect();
    if kinds.is_empty() {
        return;
    }
    let number = dice.spread(2, 24);
    for _ in 0..number {
        let kind = dice.pick(&kinds);
        let at_ms = if dice.chance(60) { dice.below(800) } else { dice.between(settled(plan), plan.faults_ms) };
        let for_ms = dice.spread(30, 4_000);
        let mut fault = Fault { at_ms, for_ms, when: None, nth: 0, kind: kind(plan, dice) };
        if fault.kind.target().is_some() && dice.chance(350) {
            fault.when = Some(*dice.pick(TRIGGERS));
            if dice.chance(600) {
                fault.kind = aimed_there(fault.kind);
            }
        }
        plan.faults.push(fault);
    }
}

const TRIGGERS: &[Trigger] = &[
    Trigger::Votes,
    Trigger::Campaigns,
    Trigger::Leads,
    Trigger::Acknowledges,
    Trigger::Answers,
    Trigger::Writes,
    Trigger::Syncs,
    Trigger::Creates,
    Trigger::Frees,
    Trigger::UsesNewSegment,
    Trigger::Transfers,
    Trigger::Releases,
    Trigger::Conflicts,
    Trigger::SendsPiece,
    Trigger::TakesPiece,
    Trigger::HasState,
];

/// Takes out what no system could survive: the promises are about the loss of a minority, not of a majority.
fn keep_the_promises_keepable(plan: &mut Plan, dice: &mut Dice) {
    // A scan reads all values of its page at a time, and the last scan of a run asks for every key: else it is turned away for
    // ever (seed 338985955295293).
    let keys = 2 * plan.workload.keys + 16;
    let limits = plan.nodes.iter_mut().filter_map(|node| node.limits.get_mut("reads_in_progress"));
    limits.for_each(|limit| *limit = keys.max(*limit));
    let relaxed = plan.nodes.iter().any(|node| node.wal_sync_ms > 0);
    // A majority of a group's replicas keeps what it had: of one or two copies none may be lost. Where nodes bear little, a
    // replica that is needed now may lag far behind, and catches up slowly (seed 2842): there one is lost at most.
    let losses_max = match u32::from(plan.cluster.replication_factor).saturating_sub(1) / 2 {
        _ if relaxed => 0,
        minority if plan.bears_little() => minority.min(1),
        minority => minority,
    };
    let mut lost_directories = 0;
    let mut may_lose = || {
        lost_directories += 1;
        lost_directories <= losses_max
    };
    let mut powerless: Option<u16> = None;
    let nodes = plan.nodes.len() as u64;
    let slowest = plan.slowest_heartbeat_ms();
    let support_ms = u64::from(plan.cluster.support_ms);
    let sync_us = plan.disk.sync_us + plan.disk.write_us + 2 * plan.disk.jitter_us;
    plan.faults.retain_mut(|fault| match &mut fault.kind {
        FaultKind::RotTail { rot, .. } => {
            // A leader goes on for D; and a slow disk's witness follows slowly.
            fault.for_ms = fault.for_ms.max(2_500 + support_ms + sync_us / 25);
            !relaxed && (*rot == Rot::Witness || may_lose())
        }
        FaultKind::RotSynced { place: Synced::HeaderCopy, .. } => true,
        FaultKind::RotSynced { .. } | FaultKind::StrayWrite { .. } | FaultKind::Wipe { .. } => may_lose(),
        FaultKind::OldDirectory { .. } => {
            // An old copy is told by what peers have heard since: they must have heard something.
            fault.for_ms = fault.for_ms.max(2_000 + 4 * slowest);
            fault.when = None;
            may_lose()
        }
        // With relaxed syncing a power loss of a majority loses the last interval, by design. What that may take, and what it may
        // not, is played by a test of nodes (`src/node/tests/transactions.rs`): here every checker may rely on everything that
        // was acknowledged.
        FaultKind::PowerLossOfAll { .. } => !relaxed,
        FaultKind::PowerLoss { target, .. } if relaxed => {
            let aimed = if let Target::Node(node) = *target { Some(node) } else { None };
            let node = *powerless.get_or_insert_with(|| aimed.unwrap_or_else(|| 1 + dice.below(nodes) as u16));
            *target = Target::Node(node);
            true
        }
        // A clean stop may end in a power loss too, and finds nothing unsynced.
        _ => true,
    });
    hear_of_the_old_directory(plan);
    // A replica that may have lost something needs every voter to elect: with one dead for good there is no bound. The end of a
    // process loses nothing.
    let loses = |kind: &FaultKind| {
        matches!(
            kind,
            FaultKind::PowerLoss { .. }
                | FaultKind::SyncErrors { .. }
                | FaultKind::WriteErrors { .. }
                | FaultKind::CreateErrors { .. }
                | FaultKind::DirectoryErrors { .. }
        )
    };
    let lasts = |fault: &Fault| loses(&fault.kind) && !is_made_good(plan, fault);
    let some_stay_dead = matches!(plan.ending, Ending::HealMajority | Ending::HealFew);
    if relaxed && some_stay_dead && plan.faults.iter().any(lasts) {
        plan.ending = Ending::HealAll;
    }
    if lost_directories.min(losses_max) > 0 && plan.ending == Ending::HealAll {
        plan.ending = Ending::HealMajority;
    }
}

/// Whether a node that this fault takes acknowledged records from has time to get them back from its peers before anything else
/// happens. From then on nothing is missing, whichever process ends.
fn is_made_good(plan: &Plan, fault: &Fault) -> bool {
    let good_at = fault.at_ms + fault.for_ms + CATCHES_UP_WITHIN_MS;
    let is_apart = |other: &Fault| other.at_ms + other.for_ms <= fault.at_ms || other.at_ms >= good_at;
    let apart =
        plan.faults.iter().filter(|other| !std::ptr::eq(*other, fault)).all(|other| other.when.is_none() && is_apart(other));
    fault.when.is_none() && apart && plan.faults_ms >= good_at
}

/// An old copy of a directory is told by a peer that has heard of more. With every such peer away there is none (and no system of
/// this kind could know): from the copy until a while after it came back, the others hear and talk.
fn hear_of_the_old_directory(plan: &mut Plan) {
    let old = plan.faults.iter().filter(|fault| matches!(fault.kind, FaultKind::OldDirectory { .. }));
    let spans: Vec<(u64, u64)> = old.map(|old| (old.at_ms, old.at_ms + old.for_ms + 1_500)).collect();
    // Of five nodes two may lose their directories, and others hear.
    let many = plan.nodes.len() >= 5;
    plan.faults.retain(|fault| {
        let harmless = matches!(
            fault.kind,
            FaultKind::OldDirectory { .. }
                | FaultKind::Disconnect { .. }
                | FaultKind::ClockRate { .. }
                | FaultKind::Duplication { .. }
                | FaultKind::Reordering { .. }
                | FaultKind::SlowMessages { what: MessageKind::Append, .. }
        );
        let loses =
            many && matches!(fault.kind, FaultKind::Wipe { .. } | FaultKind::RotSynced { .. } | FaultKind::StrayWrite { .. });
        let before = |from| fault.when.is_none() && fault.at_ms + fault.for_ms < from;
        harmless || loses || spans.iter().all(|&(from, to)| before(from) || fault.at_ms > to)
    });
}
