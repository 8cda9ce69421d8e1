//! What the node says of itself: to clients, to checkers, and its invariants.

use super::gate::Watermarks;
use super::{Node, ReplicaProbe, Stop};
use crate::actor::{Actor, Context, Origin};
use crate::base::limits::TRANSACTIONS_REPORTED_MAX;
use crate::base::{ClusterId, Duration, Epoch, GroupId, Index, NodeId, Place, Term, Time, Version};
use crate::msg::client::{PartitionReport, RingReport, StatusReport};
use crate::msg::transaction::TransactionReport;
use crate::state::{State, Visit};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// How often things happened since boot, beside what the actors count.
#[derive(Debug, Default)]
pub struct Counters {
    pub envelopes_dropped: u64,
    /// Messages passed on for others.
    pub relayed: u64,
    pub corrupt_reads: u64,
    /// How often this node became unfit to lead, or fit again.
    pub fitness_changes: u64,
}

impl Node {
    /// The present epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The cluster, once it has formed, durably here.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.membership.cluster()
    }

    pub(super) fn watermarks(&self) -> Watermarks {
        Watermarks {
            last: self.log.last_lsn(),
            durable: self.log.durable_lsn(),
            acknowledgeable: self.log.acknowledgeable_lsn(),
            epoch: self.epoch_lsn,
        }
    }

    /// The same report that a client gets; the driver adds the CPU time.
    pub fn status(&self, now: Time) -> StatusReport {
        let mut peers = self.liveness.report(now);
        for peer in &mut peers {
            peer.entries_behind = self.groups.values().map(|group| group.replica.entries_behind(peer.node)).sum();
        }
        StatusReport {
            node: self.options.me,
            membership: self.membership.standing(),
            uptime_ms: now.since(self.booted).as_millis() as u64,
            epoch: self.epoch.count(),
            groups_led: self.groups.values().filter(|group| group.replica.leads()).count() as u32,
            groups: self.groups.len() as u32,
            items: self.groups.values().map(|group| group.store.state().items().present()).sum(),
            log_bytes_allocated: self.log.bytes_allocated(),
            log_bytes_written: self.log.bytes_written(),
            disk_full: self.log.room().is_full(),
            entries_unapplied: self.groups.values().map(|g| g.replica.log().last_index().0 - g.replica.applied().0).sum(),
            peers,
            counters: self.counters(),
            cpu_us: 0,
            disk_bytes_needed: self.log.bytes_needed(),
            log_bytes_used: self.log.bytes_used(),
            log_bytes_to_replay: self.log.bytes_used_from(self.checkpoints.start()),
        }
    }

    /// The transactions in progress in the groups that this node leads, the oldest first, and how many there are beyond the
    /// limit.
    pub fn transactions(&self, now: Time) -> (Vec<TransactionReport>, u32) {
        let (mut all, mut count) = (Vec::new(), 0);
        let keep_oldest = |all: &mut Vec<TransactionReport>| {
            all.sort_by_key(|report| core::cmp::Reverse(report.age_ms));
            all.truncate(TRANSACTIONS_REPORTED_MAX);
        };
        for group in self.groups.values().filter(|group| group.replica.leads()) {
            let kept = all.len();
            all.extend(group.store.transactions(now));
            for mut report in group.coordinator.transactions(now) {
                report.locks = group.store.locks_held(report.id);
                all.push(report);
            }
            count += all.len() - kept;
            // Not once at the end: there may be a thousand groups.
            if all.len() > 2 * TRANSACTIONS_REPORTED_MAX {
                keep_oldest(&mut all);
            }
        }
        keep_oldest(&mut all);
        let more = count - all.len();
        (all, u32::try_from(more).unwrap_or(u32::MAX))
    }

    /// Commits, told from here since boot, of which a participant said that it had lost its part. Syncing all that is
    /// acknowledged rules that out: see [`crate::txn`].
    pub fn transactions_lost(&self) -> u64 {
        self.groups.values().map(|group| group.coordinator.counters.lost).sum()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let (gateway, snapshots) = (self.gateway.counters, self.snapshots.counters);
        let coordinated =
            |count: fn(&crate::txn::Counters) -> u64| self.groups.values().map(|group| count(&group.coordinator.counters)).sum();
        let elections = self.groups.values().map(|group| group.replica.elections_won).sum();
        [
            ("cache_bytes", self.cache.size() as u64),
            ("campaigns_waiting", self.campaigns.waiting() as u64),
            ("checkpoints", self.checkpoints.completed),
            ("segments_freed", self.compaction.counters.freed),
            ("segments_recycled", self.log.counters().recycled),
            ("values_lent", self.repairs.counters.lent),
            ("values_lost", self.lost_values().count() as u64),
            ("values_repaired", self.repairs.counters.repaired),
            ("values_to_repair", self.repairs.count() as u64),
            ("values_moved", self.compaction.counters.moved),
            ("bytes_moved", self.compaction.counters.bytes_moved),
            ("corrupt_reads", self.counters.corrupt_reads),
            ("elections_won", elections),
            ("entry_bytes_in_memory", self.flow.view().entry_bytes as u64),
            ("envelopes_dropped", self.counters.envelopes_dropped),
            ("fitness_changes", self.counters.fitness_changes),
            ("forgetful_partitions", self.vitals.amnesiac as u64),
            ("forwards_refused", gateway.forwards_refused),
            ("forwards_sent", gateway.forwards_sent),
            ("messages_gated", self.gate.len() as u64),
            ("messages_gated_dropped", self.gate.dropped),
            ("messages_relayed", self.counters.relayed),
            ("reads", gateway.reads),
            ("rejected", gateway.rejected),
            ("requests_in_progress", self.gateway.requests_in_progress() as u64),
            ("scans", gateway.scans),
            ("snapshot_bytes_sent", snapshots.bytes_sent),
            ("snapshots_arriving", self.snapshots.in_progress().1 as u64),
            ("snapshots_installed", snapshots.installed),
            ("snapshots_leaving", self.snapshots.in_progress().0 as u64),
            ("snapshots_sent", snapshots.sent),
            ("stopping", u64::from(self.is_stopping())),
            ("sync_latency_ms", u64::from(self.liveness.view().own_disk.sync_ms)),
            ("transactions", gateway.transactions),
            ("transactions_aborted", coordinated(|counters| counters.aborted)),
            ("transactions_committed", coordinated(|counters| counters.committed)),
            ("transactions_lost", self.transactions_lost()),
            ("transactions_retried", gateway.transactions_retried),
            ("unfit", u64::from(self.liveness.view().own_disk.unfit)),
            ("unknown", gateway.unknown),
            ("writes", gateway.writes),
        ]
        .into_iter()
        .map(|(name, count)| (name.to_string(), count))
        .collect()
    }

    /// What a client is told of the ring; `None` until the cluster has formed.
    pub fn ring_report(&self) -> Option<RingReport> {
        let formation = self.membership.formation()?.clone();
        let partitions = self
            .placement
            .groups()
            .map(|id| PartitionReport { replicas: self.placement.replicas(id).to_vec(), leader: self.gateway.leader_of(id) })
            .collect();
        Some(RingReport { formation, partitions })
    }

    /// Every replica, in order of group.
    pub fn replicas(&mut self, now: Time) -> Vec<ReplicaProbe> {
        let cx = Context {
            now,
            me: self.options.me,
            epoch: self.epoch,
            random: &mut self.random,
            liveness: self.liveness.view(),
            flow: self.flow.view(),
            cache: &mut self.cache,
            wall_clock_ms: self.clock.read(now),
            room: crate::actor::Room::AMPLE,
            quorum_has_room: true,
            sync: Duration::ZERO,
            limits: &self.options.limits,
            state: State::empty(),
        };
        self.groups
            .iter()
            .map(|(id, group)| ReplicaProbe {
                group: *id,
                term: group.replica.term(),
                leader: group.replica.known_leader().0,
                leads: group.replica.leads(),
                has_lease: group.replica.has_lease(&cx),
                last: group.replica.log().last_index(),
                base: group.replica.log().base().index,
                durable: group.replica.durable(),
                commit: group.replica.commit(),
                applied: group.replica.applied(),
                idle: group.replica.is_idle() && group.store.is_idle() && group.coordinator.is_idle(),
                amnesiac: group.replica.is_amnesiac(),
            })
            .collect()
    }

    /// The term of the entry of `group` at `index`, also of that at the base of its log.
    pub fn entry_term(&self, group: GroupId, index: Index) -> Option<Term> {
        self.groups.get(&group)?.replica.log().term_at(index)
    }

    /// A checksum over the entry of `group` at `index`, its term included; `None` if this node has none there.
    pub fn entry_fingerprint(&self, group: GroupId, index: Index) -> Option<u64> {
        self.groups.get(&group)?.replica.log().fingerprint_at(index)
    }

    /// Calls `visit` with key, version and value checksum (`None`: deleted) of everything applied in `group`, in key order.
    pub fn visit_applied(&self, group: GroupId, visit: &mut Visit<'_>) {
        if let Some(group) = self.groups.get(&group) {
            group.store.state().visit(visit);
        }
    }

    /// [`State::delete_floor`] of a group; `None`: this node has no replica of it.
    pub fn delete_floor(&self, group: GroupId) -> Option<Version> {
        self.groups.get(&group).map(|group| group.store.state().delete_floor())
    }

    /// Calls `visit` with the place of each value that the node has.
    pub fn visit_values(&self, visit: &mut dyn FnMut(Place)) {
        for group in self.groups.values() {
            let items = group.store.state().items().range(Bound::Unbounded);
            items.filter_map(|(_, item)| item.value).for_each(|value| visit(value.place));
        }
    }

    /// [`State::digest`] of all that the group's log has come to here; `None`: this node has no replica of it.
    pub fn digest(&self, group: GroupId) -> Option<u64> {
        self.groups.get(&group).map(|group| group.store.state().digest())
    }

    /// Asserts every invariant of every actor, and those between them. Walks everything: for the simulator and the fuzzers.
    pub fn check(&self) {
        self.log.check();
        self.liveness.check();
        self.membership.check();
        self.gateway.check();
        self.gate.check();
        self.snapshots.check();
        self.repairs.check();
        self.flow.check(self.groups.values().map(|group| &group.noted));
        let lossy = self.groups.values().filter(|group| group.replica.is_lossy()).count();
        assert_eq!(lossy, self.lossy_groups, "groups that have not caught up are counted");
        self.vitals.check(self.groups.values());
        assert!(self.work.is_empty(), "a step ends with nothing on its way");
        self.check_waiting();
        for (id, group) in &self.groups {
            group.replica.check();
            group.store.check();
            group.coordinator.check();
            assert_eq!(
                group.timer.is_some_and(|at| self.timers.contains(&(at, *id))),
                group.timer.is_some(),
                "a timer is armed once"
            );
            assert!(group.deadline().is_none_or(|at| group.timer.is_some_and(|armed| armed <= at)), "no actor is woken too late");
        }
        assert_eq!(
            self.timers.len(),
            self.groups.values().filter(|group| group.timer.is_some()).count(),
            "no timer is left behind"
        );
    }

    /// What one actor waits for is with another: nothing is left to a deadline.
    fn check_waiting(&self) {
        // At its end a node has abandoned what its coordinators ask: the next leaders ask for themselves.
        if self.stop == Stop::Done {
            return;
        }
        let asked = self.gateway.asked();
        for (id, group) in &self.groups {
            assert!(
                group.store.unconfirmed().all(|tag| group.replica.confirms(tag)),
                "what the store asks the replica will confirm"
            );
            assert!(group.coordinator.asks().all(|tag| asked.contains(&(*id, tag))), "what a coordinator asks is on its way");
            let (locked, evaluated) = group.store.held_for_coordinator();
            let (holding, preparing) = group.coordinator.holding();
            assert!(locked.is_subset(&preparing), "what a home has locked waits for votes");
            assert!(holding.is_subset(&evaluated), "what a coordinator wants locked is being evaluated");
        }
        let mut callers: BTreeMap<GroupId, BTreeSet<Origin>> = BTreeMap::new();
        for (id, origin) in self.gateway.calls_here() {
            let group = self.groups.get(&id).expect("a call is with a replica that is here");
            let known = callers.entry(id).or_insert_with(|| {
                let mut known = group.store.callers();
                known.extend(group.coordinator.callers());
                known
            });
            assert!(known.contains(&origin), "a call of {id:?} that is with this node's replica is known to it");
        }
    }

    /// The members of the cluster, once it has formed.
    pub fn members(&self) -> Vec<NodeId> {
        self.membership.formation().map_or_else(Vec::new, |formation| formation.members.iter().map(|m| m.node).collect())
    }
}
