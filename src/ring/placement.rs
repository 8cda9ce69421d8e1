//! Which nodes hold which partition.
//!
//! `P` partitions divide the 64-bit token space evenly; a key's partition is the top bits of its token. Every node owns virtual
//! tokens, in proportion to its weight. A partition's replicas are the first N distinct nodes clockwise from the partition's
//! first token. They are in distinct zones where zones allow, and a node that already holds its bounded share is skipped. Among a
//! partition's replicas the node that is first in fewest partitions so far (again in proportion to weight) comes first: it is the
//! preferred leader.

use crate::actor::Placement;
use crate::base::{NodeId, PartitionId, Token, hash};
use crate::msg::cluster::Formation;

/// Virtual tokens per unit of weight.
const TOKENS_PER_WEIGHT: u32 = 64;
/// How far a node may exceed its fair share of replicas, in percent.
const EXCESS_PERCENT_MAX: u64 = 5;

/// The placement of a membership. Pure: every node computes the same.
pub fn compute(formation: &Formation) -> Placement {
    let members = &formation.members;
    let replicas = usize::from(formation.options.replication_factor).min(members.len());
    let weights: u64 = members.iter().map(|m| u64::from(m.weight.max(1))).sum();
    let mut ring: Vec<(u64, usize)> = Vec::new();
    for (at, member) in members.iter().enumerate() {
        for number in 0..u32::from(member.weight.max(1)) * TOKENS_PER_WEIGHT {
            ring.push((virtual_token(member.node, number), at));
        }
    }
    ring.sort_unstable();
    let partitions = formation.options.partitions.max(1);
    let total = u64::from(partitions) * replicas as u64;
    let bounds: Vec<u64> = members
        .iter()
        .map(|m| (total * u64::from(m.weight.max(1)) * (100 + EXCESS_PERCENT_MAX)).div_ceil(weights * 100).max(1))
        .collect();
    let mut held = vec![0u64; members.len()];
    let mut first = vec![0u64; members.len()];
    let placed = (0..partitions)
        .map(|partition| {
            let chosen = choose(formation, &ring, PartitionId(partition).first_token(partitions), replicas, &held, &bounds);
            chosen.iter().for_each(|at| held[*at] += 1);
            order_by_leadership(formation, chosen, &mut first)
        })
        .collect();
    Placement::new(placed)
}

fn virtual_token(node: NodeId, number: u32) -> u64 {
    hash::checksum(u64::from(node.0), &number.to_le_bytes())
}

/// The first distinct members clockwise from `token`, by position in the membership: first with distinct zones and within bounds,
/// then giving up zones, then bounds, so that there are always `replicas` of them.
fn choose(
    formation: &Formation,
    ring: &[(u64, usize)],
    token: Token,
    replicas: usize,
    held: &[u64],
    bounds: &[u64],
) -> Vec<usize> {
    let start = ring.partition_point(|(at, _)| *at < token.0);
    let clockwise = || ring[start..].iter().chain(&ring[..start]).map(|(_, member)| *member);
    let mut chosen: Vec<usize> = Vec::with_capacity(replicas);
    for (zones_matter, bounds_matter) in [(true, true), (false, true), (false, false)] {
        for member in clockwise() {
            if chosen.len() == replicas {
                return chosen;
            }
            let zone = &formation.members[member].zone;
            let zone_taken = !zone.is_empty() && chosen.iter().any(|c| formation.members[*c].zone == *zone);
            if chosen.contains(&member) || (zones_matter && zone_taken) || (bounds_matter && held[member] >= bounds[member]) {
                continue;
            }
            chosen.push(member);
        }
    }
    chosen
}

/// Puts the member first that leads least so far, for its weight.
fn order_by_leadership(formation: &Formation, mut chosen: Vec<usize>, first: &mut [u64]) -> Vec<NodeId> {
    let load = |at: usize| (first[at] + 1) * 1_000_000 / u64::from(formation.members[at].weight.max(1));
    if let Some(lightest) = (0..chosen.len()).min_by_key(|position| (load(chosen[*position]), *position)) {
        let member = chosen.remove(lightest);
        chosen.insert(0, member);
        first[member] += 1;
    }
    chosen.into_iter().map(|at| formation.members[at].node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ClusterId, DirectoryId};
    use crate::msg::cluster::{ClusterOptions, Member};
    use std::collections::BTreeMap;

    fn formation(
        nodes: u16,
        partitions: u32,
        replicas: u8,
        zone: impl Fn(u16) -> String,
        weight: impl Fn(u16) -> u16,
    ) -> Formation {
        Formation {
            cluster: ClusterId(1),
            members: (1..=nodes)
                .map(|n| Member {
                    node: NodeId(n),
                    directory: DirectoryId(u128::from(n)),
                    address: String::new(),
                    zone: zone(n),
                    weight: weight(n),
                })
                .collect(),
            options: ClusterOptions { partitions, replication_factor: replicas, ..ClusterOptions::default() },
        }
    }

    /// In how many partitions each node has a replica.
    fn replicas_per_node(placement: &Placement) -> BTreeMap<NodeId, usize> {
        let mut counts = BTreeMap::new();
        for node in placement.groups().flat_map(|g| placement.replicas(g)) {
            *counts.entry(*node).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn every_partition_has_distinct_replicas_within_bounds() {
        for (nodes, partitions, replicas) in
            [(1, 8, 3), (2, 16, 3), (3, 64, 3), (5, 64, 3), (7, 256, 3), (10, 1024, 5), (100, 4096, 3)]
        {
            let formation = formation(nodes, partitions, replicas, |_| String::new(), |_| 1);
            let placement = compute(&formation);
            let want = usize::from(replicas).min(usize::from(nodes));
            for group in placement.groups() {
                let nodes: std::collections::BTreeSet<_> = placement.replicas(group).iter().collect();
                assert_eq!(nodes.len(), want);
            }
            let mean = partitions as usize * want / usize::from(nodes);
            for (node, count) in replicas_per_node(&placement) {
                assert!(count <= mean * 105 / 100 + 2, "node {node} holds {count}, the mean is {mean}");
            }
            let mut led = BTreeMap::new();
            placement.groups().for_each(|g| *led.entry(placement.replicas(g)[0]).or_insert(0usize) += 1);
            let fair = partitions as usize / usize::from(nodes);
            assert!(led.values().all(|count| *count <= fair + fair / 4 + 2), "leaderships are spread: {led:?}");
        }
    }

    #[test]
    fn zones_are_distinct_where_they_can_be() {
        let placement = compute(&formation(6, 64, 3, |n| format!("z{}", n % 3), |_| 1));
        for group in placement.groups() {
            let zones: std::collections::BTreeSet<_> = placement.replicas(group).iter().map(|n| n.0 % 3).collect();
            assert_eq!(zones.len(), 3);
        }
    }

    #[test]
    fn weight_is_share() {
        let placement = compute(&formation(6, 1024, 3, |_| String::new(), |n| if n == 1 { 2 } else { 1 }));
        let counts = replicas_per_node(&placement);
        assert!(counts[&NodeId(1)] > counts[&NodeId(2)] * 4 / 3, "{counts:?}");
    }
}
