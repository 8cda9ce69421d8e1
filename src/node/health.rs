//! How a node does, for its operator: what a driver compares from time to time to say what has begun and what has ended.
//!
//! It is a state and no stream of events, so that nothing is told twice, and nothing told has to be remembered here. Only rot is
//! an event ([`Effect::Rot`](super::Effect), [`Effect::Lost`](super::Effect)): a read finds it, and it is part of no state.
//!
//! Counted along the way, so that a look costs a few bytes per peer and none per partition. Nothing here is an input to anything
//! that the node does.

use super::{Group, Node};
use crate::base::{ClusterId, Duration, GroupId, Key, NodeId, Place, Time, Version};
use crate::msg::client::Membership as Standing;
use crate::msg::peer::{DiskHealth, Refusal};
use crate::replica::Replica;
use std::collections::BTreeMap;

/// How a node does at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub standing: Standing,
    /// A clean stop has begun: nothing below is news any more.
    pub stopping: bool,
    /// The cluster, once it has formed.
    pub cluster: Option<ClusterId>,
    /// Its members; the initial ones until it has formed.
    pub members: Vec<NodeId>,
    pub partitions: u32,
    /// While the cluster has not formed: the members that have not been heard in this epoch, and those that were started with
    /// other settings, and which.
    pub unheard: Vec<NodeId>,
    pub disagreeing: Vec<(NodeId, String)>,
    pub peers: Vec<PeerHealth>,
    /// Partitions with a replica here; of those, the ones that this node leads, and the ones of which it knows no leader.
    pub groups: usize,
    pub groups_led: usize,
    pub groups_leaderless: usize,
    /// Those that may have forgotten what they acknowledged, since the log was damaged, and are not whole again.
    pub groups_amnesiac: usize,
    /// The members that lack entries which no log holds any more, and of how many groups that are led here they are sent the state.
    pub states_leaving: Vec<(NodeId, usize)>,
    /// Of how many groups the state comes here, so far in part; and of how many it has come in this epoch.
    pub states_arriving: usize,
    pub states_installed: u64,
    /// The nodes that this node does not let in, and why: those that have sent messages for a while, within [`TURNED_AWAY_FOR`].
    pub turned_away: Vec<(NodeId, Refusal)>,
    pub disk: DiskHealth,
    /// Bytes that the disk lacks for the next segment of the log; 0: there is room.
    pub disk_bytes_needed: u64,
    /// No checkpoint can stand for entries that some member may lack, and a start would replay far more of the log than it should:
    /// so many bytes. 0: it is not so.
    pub replay_held_back: u64,
    /// How far this node's wall clock is behind the cluster's, and which node was the last to tell it a much later time. Zero: it
    /// is ahead of all others.
    pub clock_behind: Duration,
    pub clock_told_by: Option<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHealth {
    pub node: NodeId,
    /// It was heard within the duration of support.
    pub is_up: bool,
    /// For how long that is so.
    pub since: Duration,
}

/// A value that no replica has any more: what each of them has of it has rotted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    pub group: GroupId,
    pub key: Key,
    pub version: Version,
    /// Where it lies here.
    pub place: Place,
}

/// Bytes on this node's disk that are not what was written, found by a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rot {
    pub group: GroupId,
    /// Of the value; `None`: an entry for a peer, or a part of a snapshot.
    pub key: Option<Key>,
    pub place: Place,
    /// What is wrong with the bytes.
    pub why: String,
}

/// A peer that was turned away counts as such until it has not tried for this long.
pub const TURNED_AWAY_FOR: Duration = Duration::from_secs(30);
/// And not before the node has tried for this long: a message of an earlier epoch that comes late is turned away, too.
const TURNED_AWAY_AFTER: Duration = Duration::from_secs(2);
/// A clock that a peer tells and that is further ahead than this is remembered with its name.
const CLOCK_JUMP_MS: u64 = 1_000;

/// What is kept for [`Health`].
#[derive(Debug, Default)]
pub struct Vitals {
    led: usize,
    leaderless: usize,
    pub(super) amnesiac: usize,
    /// At most one for each node that the network lets through to this one.
    turned_away: BTreeMap<NodeId, TurnedAway>,
    /// This node's own wall clock, and when it was told.
    own_clock: Option<(Time, u64)>,
    clock_told_by: Option<NodeId>,
}

#[derive(Debug)]
struct TurnedAway {
    why: Refusal,
    since: Time,
    last: Time,
}

/// What of a replica is counted in [`Vitals`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leads {
    leads: bool,
    knows_leader: bool,
    is_amnesiac: bool,
}

impl Leads {
    fn of(replica: &Replica) -> Leads {
        let knows_leader = replica.known_leader().0.is_some();
        Leads { leads: replica.leads(), knows_leader, is_amnesiac: replica.is_amnesiac() }
    }
}

impl Vitals {
    /// A group has come, of which no leader is known.
    pub fn add(&mut self, replica: &Replica) -> Leads {
        self.leaderless += 1;
        self.amnesiac += usize::from(replica.is_amnesiac());
        Leads::of(replica)
    }

    /// The replica may have changed.
    pub fn note(&mut self, was: &mut Leads, replica: &Replica) {
        let is = Leads::of(replica);
        if *was != is {
            self.led = self.led + usize::from(is.leads) - usize::from(was.leads);
            self.leaderless = self.leaderless + usize::from(was.knows_leader) - usize::from(is.knows_leader);
            self.amnesiac = self.amnesiac + usize::from(is.is_amnesiac) - usize::from(was.is_amnesiac);
            *was = is;
        }
    }

    pub fn turn_away(&mut self, now: Time, peer: NodeId, why: Refusal) {
        match self.turned_away.get_mut(&peer).filter(|before| now.since(before.last) < TURNED_AWAY_FOR) {
            Some(before) => (before.why, before.last) = (why, now),
            None => _ = self.turned_away.insert(peer, TurnedAway { why, since: now, last: now }),
        }
    }

    pub fn hear_own_clock(&mut self, now: Time, millis: u64) {
        self.own_clock = Some((now, millis));
    }

    /// A peer's time, beside the one that was shown here until now.
    pub fn hear_clock(&mut self, from: NodeId, shown_ms: u64, told_ms: u64) {
        if shown_ms > 0 && told_ms > shown_ms + CLOCK_JUMP_MS {
            self.clock_told_by = Some(from);
        }
    }

    fn clock_behind(&self, now: Time, shown_ms: u64) -> Duration {
        let own = self.own_clock.map(|(at, millis)| millis + now.since(at).as_millis() as u64);
        Duration::from_millis(own.map_or(0, |own| shown_ms.saturating_sub(own)))
    }

    pub(super) fn check<'a>(&self, groups: impl Iterator<Item = &'a Group> + Clone) {
        assert!(groups.clone().all(|group| group.leads == Leads::of(&group.replica)), "what is counted of a replica is as it is");
        assert_eq!(self.led, groups.clone().filter(|group| group.leads.leads).count(), "groups that are led are counted");
        let amnesiac = groups.clone().filter(|group| group.leads.is_amnesiac).count();
        assert_eq!(self.amnesiac, amnesiac, "groups that have forgotten something are counted");
        assert_eq!(
            self.leaderless,
            groups.filter(|group| !group.leads.knows_leader).count(),
            "groups without a leader are counted"
        );
    }
}

/// What a stop has left when its patience was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// Leaderships that no follower had taken over.
    pub leaderships: usize,
    /// Requests without an answer.
    pub requests: usize,
}

impl Node {
    /// What a stop that is over could not finish. `None`: nothing was left, or there was no stop.
    pub fn unfinished(&self) -> Option<Unfinished> {
        self.unfinished
    }

    /// How the node does now.
    pub fn health(&self, now: Time) -> Health {
        let vitals = &self.vitals;
        let shown = self.clock.read(now);
        let insists =
            |peer: &TurnedAway| now.since(peer.last) < TURNED_AWAY_FOR && peer.last.since(peer.since) >= TURNED_AWAY_AFTER;
        let turned_away =
            vitals.turned_away.iter().filter(|(_, peer)| insists(peer)).map(|(node, peer)| (*node, peer.why.clone()));
        let peers = self.liveness.report(now).into_iter();
        Health {
            standing: self.membership.standing(),
            stopping: self.is_stopping(),
            cluster: self.membership.cluster(),
            members: if self.cluster().is_some() { self.members() } else { self.options.initial_members.clone() },
            partitions: self.options.cluster.partitions,
            unheard: self.membership.unheard(self.options.me),
            disagreeing: self.membership.disagreeing().map(|(node, how)| (node, how.to_owned())).collect(),
            peers: peers
                .map(|peer| PeerHealth { node: peer.node, is_up: peer.up, since: Duration::from_millis(peer.since_ms) })
                .collect(),
            groups: self.groups.len(),
            groups_led: vitals.led,
            groups_leaderless: vitals.leaderless,
            groups_amnesiac: vitals.amnesiac,
            states_leaving: self.snapshots.leaving(),
            states_arriving: self.snapshots.in_progress().1,
            states_installed: self.snapshots.counters.installed,
            turned_away: turned_away.collect(),
            disk: self.liveness.view().own_disk,
            disk_bytes_needed: self.log.bytes_needed(),
            replay_held_back: if self.checkpoints.is_held_back() {
                self.log.bytes_used_from(self.checkpoints.start())
            } else {
                0
            },
            clock_behind: vitals.clock_behind(now, shown),
            clock_told_by: vitals.clock_told_by,
        }
    }
}
