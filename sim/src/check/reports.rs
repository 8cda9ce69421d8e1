//! What a node says of itself is so (P6): its status, its ring and its transactions, told to clients, and its health, told to its
//! operator, agree with each other and with its replicas.

use super::Violation;
use ringseed::base::limits::TRANSACTIONS_REPORTED_MAX;
use ringseed::base::{NodeId, Time};
use ringseed::msg::client::StatusReport;
use ringseed::msg::transaction::TransactionReport;
use ringseed::node::health::Health;
use ringseed::node::{Node, ReplicaProbe};

/// Judges what the node would say at this moment of its own clock.
///
/// # Errors
/// It would say what is not so.
pub fn check(id: NodeId, node: &Node, replicas: &[ReplicaProbe], now: Time) -> Result<(), Violation> {
    let (status, health, (transactions, more)) = (node.status(now), node.health(now), node.transactions(now));
    if status.node != id || status.epoch != node.epoch().count() {
        return Err(violation(id, format!("it reports for node {} in epoch {}", status.node, status.epoch)));
    }
    check_groups(id, &status, &health, replicas)?;
    check_health(id, &status, &health)?;
    check_ring(id, node, &health)?;
    check_transactions(id, &transactions, more)
}

fn check_groups(id: NodeId, status: &StatusReport, health: &Health, replicas: &[ReplicaProbe]) -> Result<(), Violation> {
    let led = replicas.iter().filter(|replica| replica.leads).count();
    let leaderless = replicas.iter().filter(|replica| replica.leader.is_none()).count();
    let unapplied: u64 = replicas.iter().map(|replica| replica.last.0 - replica.applied.0).sum();
    let said = (status.groups as usize, status.groups_led as usize, status.entries_unapplied);
    let noted = (health.groups, health.groups_led, health.groups_leaderless);
    if said == (replicas.len(), led, unapplied) && noted == (replicas.len(), led, leaderless) {
        return Ok(());
    }
    let what = format!(
        "of {} groups it leads {led} and knows no leader of {leaderless}, and {unapplied} entries are not applied; its status says \
         {said:?}, its health {noted:?}",
        replicas.len()
    );
    Err(violation(id, what))
}

fn check_health(id: NodeId, status: &StatusReport, health: &Health) -> Result<(), Violation> {
    let peers = status.peers.iter().map(|peer| (peer.node, peer.up));
    let same = peers.eq(health.peers.iter().map(|peer| (peer.node, peer.is_up)))
        && status.membership == health.standing
        && status.disk_bytes_needed == health.disk_bytes_needed;
    if !same {
        return Err(violation(id, format!("its status and its health differ: {status:?}, {health:?}")));
    }
    let formed = health.cluster.is_some();
    let others = health.peers.iter().all(|peer| peer.node != id && health.members.contains(&peer.node));
    if !others || (formed && !health.members.contains(&id)) {
        return Err(violation(id, format!("its peers are not the other members: {health:?}")));
    }
    if formed && !(health.unheard.is_empty() && health.disagreeing.is_empty()) {
        return Err(violation(id, format!("the cluster has formed, and it waits for members: {health:?}")));
    }
    Ok(())
}

fn check_ring(id: NodeId, node: &Node, health: &Health) -> Result<(), Violation> {
    let Some(ring) = node.ring_report() else {
        return match health.cluster {
            None => Ok(()),
            Some(cluster) => Err(violation(id, format!("it is a member of {cluster} and reports no ring"))),
        };
    };
    let led_by_replicas =
        ring.partitions.iter().all(|partition| partition.leader.is_none_or(|led| partition.replicas.contains(&led)));
    match Some(ring.formation.cluster) == health.cluster && ring.partitions.len() == health.partitions as usize && led_by_replicas
    {
        true => Ok(()),
        false => Err(violation(id, format!("its ring is not the cluster's: {ring:?}, {health:?}"))),
    }
}

fn check_transactions(id: NodeId, transactions: &[TransactionReport], more: u32) -> Result<(), Violation> {
    let whole = more == 0 || transactions.len() == TRANSACTIONS_REPORTED_MAX;
    match whole && transactions.is_sorted_by(|one, other| one.age_ms >= other.age_ms) {
        true => Ok(()),
        false => Err(violation(id, format!("{more} transactions are left out of its list: {transactions:?}"))),
    }
}

fn violation(id: NodeId, what: String) -> Violation {
    Violation { promise: "P6", checker: "reports", what: format!("node {id}: {what}") }
}
