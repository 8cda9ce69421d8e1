//! A plan's options, one by one: what differs from the plainest plan, and how to make it plain.
//!
//! They are looked at as JSON, as plans are saved: so an option that is added to a plan is known here at once.

use super::transactions::TransactionPlan;
use super::{ClusterPlan, DiskPlan, Ending, NetworkPlan, NodePlan, Plan, WorkloadPlan};
use ringseed::base::limits::DELETED_KEPT;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// An option that is not what it is in the plainest plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// `cluster`, `network`, `disk`, `workload`, `transactions`, a node: `n1`, or its limits: `n1 limits`.
    pub part: String,
    pub name: String,
    pub value: Value,
}

/// How large a plan is, not how it is set.
const COUNTS: &[&str] = &["partitions", "clients"];

impl Plan {
    /// A healthy cluster on good machines, with nothing to do.
    pub fn plain(nodes: usize) -> Plan {
        let node = |number: usize| NodePlan {
            boot_ms: 1,
            heartbeat_ms: 100,
            wal_sync_ms: 0,
            scrub_ms: 0,
            segment_kib: 256,
            cache_kib: 256,
            zone: format!("z{number}"),
            clock_offset_ms: 0,
            clock_ppm: 0,
            wall_ahead_ms: 0,
            weight: 1,
            changes_settings: false,
            steps_max: 8,
            limits: BTreeMap::new(),
        };
        Plan {
            seed: 0,
            scenario: "plain".into(),
            cluster: ClusterPlan {
                partitions: 1,
                replication_factor: 3,
                support_ms: 400,
                clock_drift_ppm_max: 20_000,
                deleted_kept: DELETED_KEPT,
            },
            nodes: (0..nodes).map(node).collect(),
            workload: WorkloadPlan::of_operations(1, 1_000, &TransactionPlan::default()),
            operations: Some(Vec::new()),
            network: NetworkPlan {
                latency_us: 200,
                jitter_us: 0,
                loss_permille: 0,
                duplication_permille: 0,
                reordering_permille: 0,
                bandwidth_kib: 0,
            },
            disk: DiskPlan { write_us: 50, sync_us: 300, read_us: 100, jitter_us: 0 },
            faults_ms: 4_000,
            calm_from_ms: None,
            ending: Ending::NeverHeal,
            faults: Vec::new(),
            standing: None,
        }
    }

    /// The options that are not as in the plainest plan.
    pub fn settings(&self) -> Vec<Setting> {
        let plain = Plan::plain(self.nodes.len());
        let mut settings = Vec::new();
        for ((part, own), (_, plain)) in parts(self).into_iter().zip(parts(&plain)) {
            for (name, value) in own {
                if plain.get(&name) != Some(&value) && !COUNTS.contains(&name.as_str()) {
                    settings.push(Setting { part: part.clone(), name, value });
                }
            }
        }
        settings
    }

    /// Makes these options as they are in the plainest plan.
    pub fn reset(&mut self, settings: &[Setting]) {
        let plain = parts(&Plan::plain(self.nodes.len()));
        let mut own = parts(self);
        for Setting { part, name, .. } in settings {
            let Some(at) = own.iter().position(|(other, _)| other == part) else { continue };
            match plain[at].1.get(name) {
                Some(value) => _ = own[at].1.insert(name.clone(), value.clone()),
                None => _ = own[at].1.remove(name),
            }
        }
        let mut own = own.into_iter().map(|(_, part)| Value::Object(part));
        let mut next = || own.next().expect("a part for each");
        self.cluster = typed(next());
        self.network = typed(next());
        self.disk = typed(next());
        let transactions: TransactionPlan = typed(next());
        self.workload = typed(next());
        self.workload.transactions = transactions;
        for node in &mut self.nodes {
            *node = typed(next());
            node.limits = typed(next());
        }
    }
}

impl WorkloadPlan {
    /// For clients that draw nothing, since a plan says what they ask. What the checkers must know of their keys stays.
    pub fn of_operations(clients: u32, timeout_ms: u32, transactions: &TransactionPlan) -> WorkloadPlan {
        let (accounts, lists) = (transactions.accounts, transactions.lists);
        WorkloadPlan {
            clients,
            think_ms: 0,
            timeout_ms,
            keys: 0,
            counters: 0,
            hot_permille: 0,
            value_size_max: 0,
            get_permille: 0,
            eventual_permille: 0,
            compare_permille: 0,
            delete_permille: 0,
            scan_permille: 0,
            counter_permille: 0,
            all_permille: 0,
            wander_permille: 0,
            edge_permille: 0,
            tables: false,
            transactions: TransactionPlan { accounts, lists, ..TransactionPlan::default() },
        }
    }
}

fn parts(plan: &Plan) -> Vec<(String, Map<String, Value>)> {
    let mut workload = object(&plan.workload);
    workload.remove("transactions");
    let mut parts = vec![
        ("cluster".to_owned(), object(&plan.cluster)),
        ("network".to_owned(), object(&plan.network)),
        ("disk".to_owned(), object(&plan.disk)),
        ("transactions".to_owned(), object(&plan.workload.transactions)),
        ("workload".to_owned(), workload),
    ];
    for (number, node) in plan.nodes.iter().enumerate() {
        let mut own = object(node);
        own.remove("limits");
        parts.push((format!("n{}", number + 1), own));
        parts.push((format!("n{} limits", number + 1), object(&node.limits)));
    }
    parts
}

fn object(part: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(part) {
        Ok(Value::Object(map)) => map,
        other => unreachable!("a part of a plan is an object: {other:?}"),
    }
}

fn typed<T: serde::de::DeserializeOwned>(part: Value) -> T {
    serde_json::from_value(part).expect("it was made from such a part")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_can_be_made_plain() {
        for seed in 0..50 {
            let mut plan = Plan::generate(seed);
            let settings = plan.settings();
            assert!(!settings.is_empty());
            plan.reset(&settings[1..]);
            assert_eq!(plan.settings(), settings[..1], "seed {seed}");
            plan.reset(&settings);
            assert_eq!(plan.settings(), [], "seed {seed}");
            assert_eq!(plan.nodes, Plan::plain(plan.nodes.len()).nodes);
        }
    }
}
