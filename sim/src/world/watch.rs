//! What is checked while the world runs, by an observer that sees all nodes at once.
//!
//! - At most one leader per group and term, and one vote per node, group and term, over restarts: from what is *sent*, so that
//!   no leadership is too short to be seen. And again from what the nodes say ([`Leaders`]), with leases.
//! - What is committed anywhere never changes ([`Prefix`]), and is in the log of every leader of a later term.
//! - Log matching: where two logs agree on an entry, they agree on all before it. And where they agree, what is applied comes to
//!   the same state, on every replica and in every epoch, by digest of all of it: items, prepared transactions, outcomes, floors,
//!   decisions, tokens.
//! - What a leader takes for committed is durable on a quorum as soon as it does; what a client is told that all hold, on every
//!   replica at that moment.
//! - What a node held durably it still has after a restart, and believes no bytes that fail their checksum ([`Recovery`]).
//! - No part of a committed transaction is lost ([`lost`]).
//! - What a node says of itself is so ([`reports`]).

use crate::WorldTime;
use crate::check::Violation;
use crate::check::agreement::{LogView, logs_match};
use crate::check::leaders::Leaders;
use crate::check::lost;
use crate::check::prefix::Prefix;
use crate::check::recovery::Recovery;
use crate::check::reports;
use crate::dice::Dice;
use crate::plan::Trigger;
use ringseed::base::{GroupId, Index, NodeId, Term, Time};
use ringseed::msg::peer::{AppendOutcome, AppendReply, Envelope, PeerMessage, ReplicaMessage};
use ringseed::node::{Node, ReplicaProbe};
use ringseed::wal::Recovered;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub struct Watch {
    syncs_all: bool,
    elected: Leaders,
    prefix: Prefix,
    recovery: Recovery,
    leaders: BTreeMap<(GroupId, Term), NodeId>,
    votes: BTreeMap<(NodeId, GroupId, Term), NodeId>,
    groups: BTreeMap<GroupId, Committed>,
    /// Leaderships whose logs were held against all that was committed.
    seen_to_lead: BTreeSet<(GroupId, Term)>,
    /// Which nodes were seen to have a replica of each group.
    members: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// What a group's log comes to at an entry, told by its term: a digest, and the node that it was first seen on.
    states: BTreeMap<(GroupId, Index, Term), (u64, NodeId)>,
    /// The latest leader of each group.
    latest: BTreeMap<GroupId, (Term, NodeId)>,
    /// Groups whose leader crashed; and how many of them have been led again since that was last asked.
    pub interrupted: BTreeSet<GroupId>,
    pub succeeded: u64,
}

/// The last entry known to be committed in one group.
#[derive(Debug, Default)]
struct Committed {
    last: Index,
    fingerprint: u64,
    /// The highest term of a node that knew it to be committed, so it was committed in this term or an earlier one.
    term: Term,
}

/// One node as it is looked at.
#[derive(Debug)]
pub struct View<'a> {
    pub id: NodeId,
    pub node: &'a Node,
    /// The time on its clock.
    pub at: Time,
    pub replicas: Vec<ReplicaProbe>,
    /// Its directory is an old copy, or was wiped: it lacks what it once had.
    pub disowned: bool,
}

impl Watch {
    /// `leases_hold`: whether the clocks keep within the bound that leases rest on. `syncs_all`: whether every node acknowledges
    /// only what is synced.
    pub fn new(leases_hold: bool, syncs_all: bool) -> Watch {
        Watch {
            syncs_all,
            elected: Leaders::new(leases_hold),
            prefix: Prefix::default(),
            recovery: Recovery::default(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            groups: BTreeMap::new(),
            seen_to_lead: BTreeSet::new(),
            members: BTreeMap::new(),
            states: BTreeMap::new(),
            latest: BTreeMap::new(),
            interrupted: BTreeSet::new(),
            succeeded: 0,
        }
    }

    /// A node sends an envelope. `triggers` gets what the plan may wait for.
    pub fn sent(&mut self, from: NodeId, to: NodeId, envelope: &Envelope, triggers: &mut Vec<Trigger>) -> Result<(), Violation> {
        for message in &envelope.messages {
            lost::check_message(from, message)?;
            if let PeerMessage::Replica(_, ReplicaMessage::AppendReply(AppendReply { synced: Some(lsn), .. })) = message {
                self.recovery.said(from, *lsn);
            }
            if let PeerMessage::Heartbeat(heartbeat) = message {
                self.recovery.said(from, heartbeat.durable);
            }
            match message {
                PeerMessage::Snapshot(..) => triggers.push(Trigger::SendsPiece),
                PeerMessage::SnapshotReply(_, reply) if reply.wanted.is_none() => triggers.push(Trigger::HasState),
                PeerMessage::SnapshotReply(..) => triggers.push(Trigger::TakesPiece),
                _ => {}
            }
            let PeerMessage::Replica(group, message) = message else { continue };
            match message {
                ReplicaMessage::Append(append) => {
                    if let Some(&other) = self.leaders.get(&(*group, append.term)) {
                        if other != from {
                            let what = format!("{group:?} has two leaders in term {}: {other:?} and {from:?}", append.term);
                            return Err(broken("election safety", what));
                        }
                    } else {
                        self.leaders.insert((*group, append.term), from);
                        self.succeeded += u64::from(self.interrupted.remove(group));
                        triggers.push(Trigger::Leads);
                        let latest = self.latest.entry(*group).or_insert((append.term, from));
                        if latest.0 < append.term {
                            *latest = (append.term, from);
                        }
                    }
                }
                ReplicaMessage::Vote(request) => {
                    triggers.push(Trigger::Campaigns);
                    self.vote(from, *group, request.term, from)?;
                }
                ReplicaMessage::VoteReply(reply) if reply.granted => {
                    triggers.push(Trigger::Votes);
                    self.vote(from, *group, reply.term, to)?;
                }
                ReplicaMessage::AppendReply(reply) => match reply.outcome {
                    AppendOutcome::Matched(index) if index > Index::ZERO => triggers.push(Trigger::Acknowledges),
                    AppendOutcome::Conflict { .. } => triggers.push(Trigger::Conflicts),
                    AppendOutcome::Matched(_) | AppendOutcome::StaleTerm | AppendOutcome::Full { .. } => {}
                },
                ReplicaMessage::TimeoutNow { .. } => triggers.push(Trigger::Transfers),
                ReplicaMessage::Released { .. } => triggers.push(Trigger::Releases),
                _ => {}
            }
        }
        Ok(())
    }

    /// The nodes that were seen to have a replica of the group; `None`: none was.
    pub fn members(&self, group: GroupId) -> Option<&BTreeSet<NodeId>> {
        self.members.get(&group)
    }

    /// The last node that was seen to lead the group.
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.latest.get(&group).map(|&(_, node)| node)
    }

    /// A node's log was read, before it boots from it. `whole`: its disk keeps what was acknowledged.
    pub fn recovered(&mut self, node: NodeId, recovered: &Recovered, whole: bool) -> Result<(), Violation> {
        if whole {
            self.recovery.forget_amnesiac(node, recovered);
            self.recovery.holds(node, recovered)?;
            if recovered.damage.is_empty() {
                self.recovery.begins_no_earlier(node, recovered)?;
            }
        } else {
            self.recovery.forget(node, recovered);
        }
        Ok(())
    }

    fn vote(&mut self, voter: NodeId, group: GroupId, term: Term, candidate: NodeId) -> Result<(), Violation> {
        let first = *self.votes.entry((voter, group, term)).or_insert(candidate);
        if first == candidate {
            return Ok(());
        }
        let what = format!("{voter:?} voted for {first:?} and for {candidate:?} in term {term} of {group:?}");
        Err(broken("one vote per term", what))
    }

    /// Looks at all nodes that are alive.
    pub fn look(&mut self, now: WorldTime, views: &[View<'_>], dice: &mut Dice) -> Result<(), Violation> {
        for view in views {
            lost::check_count(view.id, view.node.transactions_lost())?;
            for replica in &view.replicas {
                self.members.entry(replica.group).or_default().insert(view.id);
                self.replica(now, view, replica)?;
            }
        }
        for view in views {
            for replica in view.replicas.iter().filter(|r| r.leads) {
                self.leader_completeness(view, replica)?;
                self.quorum_durable(view, replica, views)?;
            }
        }
        if views.len() >= 2 {
            let one = dice.below(views.len() as u64) as usize;
            let other = (one + 1 + dice.below(views.len() as u64 - 1) as usize) % views.len();
            log_matching(&views[one], &views[other], dice)?;
        }
        if dice.chance(100) {
            self.same_states(views)?;
            for view in views {
                reports::check(view.id, view.node, &view.replicas, view.at)?;
            }
        }
        Ok(())
    }

    /// The same entries come to the same state: on every replica, before and after a restart.
    pub fn same_states(&mut self, views: &[View<'_>]) -> Result<(), Violation> {
        for view in views {
            for ReplicaProbe { group, applied, .. } in view.replicas.iter().filter(|replica| replica.applied > Index::ZERO) {
                let Some(term) = view.node.entry_term(*group, *applied) else { continue };
                let Some(digest) = view.node.digest(*group) else { continue };
                let (known, first) = *self.states.entry((*group, *applied, term)).or_insert((digest, view.id));
                if known != digest {
                    let what = format!(
                        "with all entries of {group:?} up to {applied:?} applied, the states of {first:?} and {:?} differ",
                        view.id
                    );
                    return Err(broken("state", what));
                }
            }
        }
        Ok(())
    }

    fn replica(&mut self, now: WorldTime, view: &View<'_>, replica: &ReplicaProbe) -> Result<(), Violation> {
        let group = replica.group;
        if !(replica.applied <= replica.commit && replica.commit <= replica.last) {
            return Err(Violation { promise: "P3", checker: "positions", what: format!("{:?}: {replica:?}", view.id) });
        }
        self.elected.observe(now, view.id, view.node.epoch(), replica)?;
        self.recovery.observe(view.id, group, replica.commit.min(replica.durable));
        let fingerprint = |index| view.node.entry_fingerprint(group, index);
        self.prefix.observe(view.id, view.node.epoch(), group, replica.base, replica.commit, fingerprint)?;
        let known = self.groups.entry(group).or_default();
        if replica.commit > known.last
            && let Some(fingerprint) = fingerprint(replica.commit)
        {
            known.last = replica.commit;
            known.fingerprint = fingerprint;
            known.term = known.term.max(replica.term);
        }
        Ok(())
    }

    /// A leader of a later term has what is committed: all of it when it is first seen to lead, and from then on the last of it.
    fn leader_completeness(&mut self, view: &View<'_>, replica: &ReplicaProbe) -> Result<(), Violation> {
        let Some(known) = self.groups.get(&replica.group) else { return Ok(()) };
        let last = known.last;
        if replica.term <= known.term {
            return Ok(());
        }
        if self.seen_to_lead.insert((replica.group, replica.term)) {
            let fingerprint = |index| view.node.entry_fingerprint(replica.group, index);
            self.prefix.observe_leader(view.id, replica.group, replica.base, fingerprint)?;
        }
        if last <= replica.base || view.node.entry_fingerprint(replica.group, last) == Some(known.fingerprint) {
            return Ok(());
        }
        let what = format!(
            "{:?} leads {:?} in term {} and lacks entry {last:?}, committed by term {}",
            view.id, replica.group, replica.term, known.term
        );
        Err(broken("leader completeness", what))
    }

    /// What was acknowledged by all is durable on every replica that can be looked at.
    pub fn held_by_all(&self, group: GroupId, index: Index, views: &[View<'_>]) -> Result<(), Violation> {
        let whole = views.iter().filter(|view| self.syncs_all && !view.disowned);
        let replicas = whole.flat_map(|view| view.replicas.iter().map(move |replica| (view.id, replica)));
        let replicas = replicas.filter(|(_, replica)| !replica.amnesiac);
        match replicas.filter(|(_, replica)| replica.group == group).find(|(_, replica)| replica.durable < index) {
            None => Ok(()),
            Some((id, replica)) => {
                let what = format!(
                    "a write at {index:?} of {group:?} is acknowledged by all, and {id:?} has it durably up to {:?} only",
                    replica.durable
                );
                Err(broken("all durable", what))
            }
        }
    }

    /// What a leader knows to be committed is durable on a quorum: as soon as it says so, and not only once it matters. Judged
    /// while all replicas can be looked at.
    fn quorum_durable(&self, view: &View<'_>, leader: &ReplicaProbe, views: &[View<'_>]) -> Result<(), Violation> {
        let group = leader.group;
        let replicas = views.iter().flat_map(|view| &view.replicas);
        let replicas = replicas.filter(|replica| replica.group == group && !replica.amnesiac);
        let mut durable: Vec<Index> = replicas.map(|replica| replica.durable).collect();
        let disowned = views.iter().any(|view| view.disowned);
        if !self.syncs_all || disowned || self.members.get(&group).is_none_or(|members| members.len() != durable.len()) {
            return Ok(());
        }
        durable.sort_unstable();
        let on_a_quorum = durable[(durable.len() - 1) / 2];
        if leader.commit <= on_a_quorum {
            return Ok(());
        }
        let what = format!(
            "{:?} leads {group:?} and takes all up to {:?} for committed, which a quorum has durably up to {on_a_quorum:?} only",
            view.id, leader.commit
        );
        Err(broken("quorum durable", what))
    }
}

/// In one group of two nodes, the last entries that both have.
fn log_matching(one: &View<'_>, other: &View<'_>, dice: &mut Dice) -> Result<(), Violation> {
    if one.replicas.is_empty() {
        return Ok(());
    }
    let replica = dice.pick(&one.replicas);
    let Some(twin) = other.replicas.iter().find(|r| r.group == replica.group) else { return Ok(()) };
    let group = replica.group;
    let last = replica.last.min(twin.last).0;
    let from = last.saturating_sub(64) + 1;
    let prints = |view: &View<'_>| -> Vec<Option<u64>> {
        (from..=last).map(|index| view.node.entry_fingerprint(group, Index(index))).collect()
    };
    let (prints, others) = (prints(one), prints(other));
    let view = |node, fingerprints| LogView { node, from: Index(from), fingerprints };
    logs_match(group, &view(one.id, &prints), &view(other.id, &others))
}

fn broken(checker: &'static str, what: String) -> Violation {
    let promise = match checker {
        "leader completeness" | "quorum durable" | "all durable" | "state" => "P3",
        _ => "P1",
    };
    Violation { promise, checker, what }
}
