//! Compares how a node does with how it did, and says what has begun and what has ended.
//!
//! Each state here is *absent*, *pending* (it is there, but for too short a time to be worth a line) or *told*. Only the end of a
//! told state is told. A node that is refused, or stopping, has no other state that matters.

use super::{Line, Repeats, error, info, warn};
use crate::base::{Duration, GroupId, NodeId, Place, SegmentId, Time};
use crate::msg::client::Membership as Standing;
use crate::msg::peer::Refusal;
use crate::node::health::{Health, Loss, Rot};
use std::collections::BTreeMap;
use std::time::Instant;

/// Of peers that are waited for, at a start.
const WAITING_AFTER: Duration = Duration::from_secs(3);
/// Of a peer that does not answer. Shorter: a pause, which the failure detector deals with.
const SILENT_AFTER: Duration = Duration::from_secs(2);
/// Of partitions without a leader. Shorter: an election.
const LEADERLESS_AFTER: Duration = Duration::from_secs(3);
/// States of partitions come one after the other: so long after the last, all have come.
const STATES_COME_WITHIN: Duration = Duration::from_secs(3);
/// A clock is behind from here on, and right again below half of it.
const CLOCK_BEHIND: Duration = Duration::from_secs(10);
/// A peer came back so shortly ago that leaderships which move now move to it.
const CAME_BACK_WITHIN: Duration = Duration::from_secs(60);

/// A state that may be there.
#[derive(Debug, Default)]
struct State {
    since: Option<Time>,
    is_told: bool,
}

/// What has come of a state.
enum Turn {
    None,
    Begins,
    /// After so long.
    Ends(Duration),
}

impl State {
    /// The state is there now, or not; it is told once it has been there for `after`.
    fn is(&mut self, now: Time, there: bool, after: Duration) -> Turn {
        match (self.since, there) {
            (None, true) => self.since = Some(now),
            (Some(since), false) => {
                self.since = None;
                if std::mem::take(&mut self.is_told) {
                    return Turn::Ends(now.since(since));
                }
            }
            _ => {}
        }
        if !self.is_told && self.since.is_some_and(|since| now.since(since) >= after) {
            self.is_told = true;
            return Turn::Begins;
        }
        Turn::None
    }
}

#[derive(Debug)]
pub struct Watch {
    directory: String,
    looked: bool,
    forming: State,
    was_formed: bool,
    disagreeing: BTreeMap<NodeId, String>,
    is_refused: bool,
    /// And whether it was said since that they are back, which tells enough of the end.
    turned_away: BTreeMap<NodeId, bool>,
    /// Peers that were said not to answer, and since when.
    silent: BTreeMap<NodeId, Time>,
    back_at: Option<Time>,
    leaderless: State,
    amnesiac: State,
    /// Members that are sent states of partitions.
    leaving: BTreeMap<NodeId, State>,
    arriving: State,
    arrived_at: Time,
    /// Of how many partitions the state had come at the last look, and when this began.
    installed: u64,
    installed_before: u64,
    full: State,
    replay: State,
    /// The node is unfit to lead: since its disk was full; for another reason.
    unfit_as_full: bool,
    slow: State,
    clock: State,
    led: Led,
    rot: Repeats<(SegmentId, u32)>,
}

/// How many partitions the node has led.
#[derive(Debug, Default)]
struct Led {
    /// The most since fewer began to be led, and how many at the last look.
    before: usize,
    last: usize,
}

impl Watch {
    pub fn new(directory: String) -> Watch {
        Watch {
            directory,
            looked: false,
            forming: State::default(),
            was_formed: false,
            disagreeing: BTreeMap::new(),
            is_refused: false,
            turned_away: BTreeMap::new(),
            silent: BTreeMap::new(),
            back_at: None,
            leaderless: State::default(),
            amnesiac: State::default(),
            leaving: BTreeMap::new(),
            arriving: State::default(),
            arrived_at: Time::ZERO,
            installed: 0,
            installed_before: 0,
            full: State::default(),
            replay: State::default(),
            unfit_as_full: false,
            slow: State::default(),
            clock: State::default(),
            led: Led::default(),
            rot: Repeats::default(),
        }
    }

    /// How the node does now. `trouble`: why there is no connection to a peer.
    pub fn look(&mut self, now: Time, health: &Health, trouble: impl Fn(NodeId) -> Option<String>) -> Vec<Line> {
        let mut lines = Vec::new();
        if health.stopping {
            return lines;
        }
        if let Standing::Refused(why) = &health.standing {
            if !std::mem::replace(&mut self.is_refused, true) {
                lines.push(error(format!(
                    "this node is refused by the cluster, and takes no part with its data directory, {}: {why}",
                    self.directory
                )));
            }
            return lines;
        }
        self.formation(now, health, &trouble, &mut lines);
        self.turned_away(health, &mut lines);
        self.peers(now, health, &trouble, &mut lines);
        self.leaderless(now, health, &mut lines);
        self.amnesiac(now, health, &mut lines);
        self.states(now, health, &mut lines);
        self.disk(now, health, &mut lines);
        self.leaderships(now, health, &mut lines);
        self.clock(now, health, &mut lines);
        self.looked = true;
        lines
    }

    fn formation(&mut self, now: Time, health: &Health, trouble: &impl Fn(NodeId) -> Option<String>, lines: &mut Vec<Line>) {
        if let Some(cluster) = health.cluster {
            if !std::mem::replace(&mut self.was_formed, true) && self.looked {
                let members = list(&health.members);
                lines.push(info(format!(
                    "the cluster has formed: {members}, {} partitions, cluster {cluster}",
                    health.partitions
                )));
            }
            self.forming = State::default();
            self.disagreeing.clear();
            return;
        }
        for (node, how) in &health.disagreeing {
            if self.disagreeing.get(node) != Some(how) {
                self.disagreeing.insert(*node, how.clone());
                lines.push(warn(format!(
                    "the cluster does not form: node {node} was started with other settings than this node, {how}. Start one of them again, with the same"
                )));
            }
        }
        let agrees: Vec<NodeId> =
            self.disagreeing.keys().filter(|node| !health.disagreeing.iter().any(|(other, _)| other == *node)).copied().collect();
        for node in agrees {
            self.disagreeing.remove(&node);
            lines.push(info(format!("node {node} was started with the same settings as this node now")));
        }
        if let Turn::Begins = self.forming.is(now, !health.unheard.is_empty(), WAITING_AFTER) {
            lines.push(info(format!(
                "waiting for {}: the cluster forms once all its {} initial members have been started{}",
                list(&health.unheard),
                health.members.len(),
                troubles(&health.unheard, trouble)
            )));
        }
    }

    fn turned_away(&mut self, health: &Health, lines: &mut Vec<Line>) {
        for (node, why) in &health.turned_away {
            if self.turned_away.contains_key(node) {
                continue;
            }
            self.turned_away.insert(*node, false);
            let why = match why {
                Refusal::OtherDirectory { bound } => format!(
                    "its data directory is not the one that belongs to it ({bound}): emptied, exchanged, or of another node with the same id. Give it back \
                     its own; a node that has lost it cannot come back yet"
                ),
                Refusal::OldDirectory { .. } => {
                    "its data directory is an old copy. It starts over by itself if the original is gone; if the node runs twice, end one of the two".into()
                }
                Refusal::OtherCluster { .. } => "it is a member of another cluster: its `peers`, or this node's, are wrong".into(),
                Refusal::NotAMember => "it is not a member of this cluster, and cannot become one yet".into(),
                Refusal::OtherOptions => "it was started with other settings than the cluster was formed with".into(),
            };
            lines.push(warn(format!("node {node} is turned away: {why}")));
        }
        let gone = |node: &NodeId| !health.turned_away.iter().any(|(other, _)| other == node);
        let over = self.turned_away.extract_if(.., |node, _| gone(node));
        for (node, _) in over.filter(|(_, is_back)| !is_back) {
            lines.push(info(format!("node {node} is not turned away any more")));
        }
    }

    fn peers(&mut self, now: Time, health: &Health, trouble: &impl Fn(NodeId) -> Option<String>, lines: &mut Vec<Line>) {
        let mut silent = Vec::new();
        for peer in &health.peers {
            if peer.is_up {
                if let Some(since) = self.silent.remove(&peer.node) {
                    self.back_at = Some(now);
                    self.turned_away.entry(peer.node).and_modify(|is_back| *is_back = true);
                    lines.push(info(format!("node {} is back, after {} s", peer.node, now.since(since).as_secs())));
                }
            } else if !self.silent.contains_key(&peer.node) {
                silent.push(peer);
            }
        }
        // What went within a moment is one line.
        if silent.iter().any(|peer| peer.since >= SILENT_AFTER) {
            self.silent.extend(silent.iter().map(|peer| (peer.node, now - peer.since)));
            let silent: Vec<NodeId> = silent.iter().map(|peer| peer.node).collect();
            let verb = if silent.len() == 1 { "does" } else { "do" };
            lines.push(warn(format!("{} {verb} not answer{}", list(&silent), troubles(&silent, trouble))));
        }
    }

    fn leaderless(&mut self, now: Time, health: &Health, lines: &mut Vec<Line>) {
        match self.leaderless.is(now, health.groups_leaderless > 0, LEADERLESS_AFTER) {
            Turn::Begins => {
                let silent: Vec<NodeId> = self.silent.keys().copied().collect();
                let cause = if silent.is_empty() && health.groups_amnesiac > 0 {
                    "a majority of their replicas must answer that have forgotten nothing".into()
                } else if silent.is_empty() {
                    "their replicas can be reached and have elected none yet".into()
                } else {
                    let silent = list(&silent);
                    format!(
                        "a majority of their replicas must answer, and {silent} cannot be reached: start what is down, or mend the network"
                    )
                };
                lines.push(error(format!(
                    "{} of the {} partitions with a replica here have no leader, and serve nothing: {cause}",
                    health.groups_leaderless, health.groups
                )));
            }
            Turn::Ends(after) => {
                lines.push(info(format!("every partition with a replica here has a leader again, after {} s", after.as_secs())))
            }
            Turn::None => {}
        }
    }

    fn amnesiac(&mut self, now: Time, health: &Health, lines: &mut Vec<Line>) {
        match self.amnesiac.is(now, health.groups_amnesiac > 0, Duration::ZERO) {
            Turn::Begins => lines.push(warn(format!(
                "{} of the {} partitions with a replica here may have forgotten what they acknowledged, since the log was damaged: their leaders send what they \
                 lack, and until then nothing of them counts. That needs a majority of their replicas that have forgotten nothing",
                health.groups_amnesiac, health.groups
            ))),
            Turn::Ends(after) => {
                lines.push(info(format!("every partition with a replica here is whole again, after {} s", after.as_secs())));
            }
            Turn::None => {}
        }
    }

    /// A member was away for so long that the log which it lacks is gone.
    fn states(&mut self, now: Time, health: &Health, lines: &mut Vec<Line>) {
        for (node, _) in &health.states_leaving {
            self.leaving.entry(*node).or_default();
        }
        for (node, state) in &mut self.leaving {
            let left = health.states_leaving.iter().find(|(other, _)| other == node).map_or(0, |(_, left)| *left);
            match state.is(now, left > 0, Duration::ZERO) {
                Turn::Begins => lines.push(info(format!(
                    "node {node} lacks so much that the log does not hold it any more: it is sent the state of each such partition, of those that this \
                     node leads {left} so far"
                ))),
                Turn::Ends(after) => lines.push(info(format!("node {node} was sent these states, after {} s", after.as_secs()))),
                Turn::None => {}
            }
        }
        self.leaving.retain(|_, state| state.since.is_some());
        let installed = health.states_installed;
        let before = std::mem::replace(&mut self.installed, installed).max(if self.looked { 0 } else { installed });
        if health.states_arriving > 0 || installed > before {
            self.arrived_at = now;
        }
        let some = self.arrived_at > Time::ZERO && now.since(self.arrived_at) < STATES_COME_WITHIN;
        match self.arriving.is(now, some, Duration::ZERO) {
            Turn::Begins => {
                self.installed_before = before;
                lines.push(info(
                    "this node lacks so much that the others' logs do not hold it any more: it is sent the state of each such partition",
                ));
            }
            Turn::Ends(after) => lines.push(info(format!(
                "the states of {} partitions have come, after {} s",
                installed - self.installed_before,
                after.as_secs().saturating_sub(STATES_COME_WITHIN.as_secs())
            ))),
            Turn::None => {}
        }
    }

    fn disk(&mut self, now: Time, health: &Health, lines: &mut Vec<Line>) {
        let needed = health.disk_bytes_needed;
        match self.full.is(now, needed > 0, Duration::ZERO) {
            Turn::Begins => lines.push(error(format!(
                "the disk of {} is full: the next segment of the log needs {needed} bytes more. Reads go on, leaderships move to nodes with room, and deletes \
                 are taken; make room, the node need not be started again",
                self.directory
            ))),
            Turn::Ends(after) => lines.push(info(format!("the disk of {} has room again, after {} s", self.directory, after.as_secs()))),
            Turn::None => {}
        }
        match self.replay.is(now, health.replay_held_back > 0, Duration::ZERO) {
            Turn::Begins => lines.push(info(format!(
                "a start of this node would replay {} bytes of its log, and more as it goes on: no checkpoint can stand for what some member of a partition may \
                 lack. Look which node is away, or runs with a wal_sync_interval above 0; once all have synced everything, this ends by itself",
                health.replay_held_back
            ))),
            Turn::Ends(after) => {
                lines.push(info(format!("all members have what they lacked: checkpoints go on, after {} s", after.as_secs())));
            }
            Turn::None => {}
        }
        // A node stays unfit for a while after its disk has room again: that is no slow disk.
        self.unfit_as_full = health.disk.unfit && (self.unfit_as_full || self.full.since.is_some());
        let slow = health.disk.unfit && !self.unfit_as_full;
        match self.slow.is(now, slow, Duration::ZERO) {
            Turn::Begins => lines.push(warn(format!(
                "the disk of {} is slow: a sync takes {} ms, far longer than with the other nodes. Leaderships move to them; look for what else uses the disk, \
                 or for errors of it in the system's log",
                self.directory, health.disk.sync_ms
            ))),
            Turn::Ends(after) if !health.disk.unfit => {
                lines.push(info(format!("the disk of {} is as fast as the other nodes' again, after {} s", self.directory, after.as_secs())));
            }
            Turn::Ends(_) | Turn::None => {}
        }
    }

    /// One line for all that went in a row, if they went for a cause.
    fn leaderships(&mut self, now: Time, health: &Health, lines: &mut Vec<Line>) {
        let (led, is) = (&mut self.led, health.groups_led);
        let falls = is < led.last;
        led.last = is;
        if is >= led.before {
            led.before = is;
            return;
        }
        if falls {
            return;
        }
        let before = std::mem::replace(&mut led.before, is);
        let came_back = self.back_at.is_some_and(|at| now.since(at) < CAME_BACK_WITHIN);
        let cause = match () {
            () if self.full.since.is_some() => "its disk is full",
            () if health.disk.unfit => "its disk is slow",
            () if health.groups_leaderless > 0 => "too few of their replicas answer",
            () if came_back => "nodes that were away lead their share again",
            // The cluster evens its load out.
            () => return,
        };
        lines.push(info(format!(
            "this node leads {is} of the {} partitions with a replica here, {before} before: {cause}",
            health.groups
        )));
    }

    fn clock(&mut self, now: Time, health: &Health, lines: &mut Vec<Line>) {
        let bound = if self.clock.is_told { CLOCK_BEHIND / 2 } else { CLOCK_BEHIND };
        match self.clock.is(now, health.clock_behind >= bound, WAITING_AFTER) {
            Turn::Begins => {
                let told_by = health.clock_told_by.map_or(String::new(), |node| format!(" (node {node} told it)"));
                lines.push(warn(format!(
                    "the clock of this machine is {} s behind the cluster's, which goes by the one that is furthest ahead{told_by}: set whichever is wrong. \
                     Safety does not hang on it",
                    health.clock_behind.as_secs()
                )));
            }
            Turn::Ends(_) => lines.push(info("the clock of this machine agrees with the cluster's again")),
            Turn::None => {}
        }
    }

    /// Rot was found.
    pub fn rot(&mut self, rot: &Rot) -> Option<Line> {
        let Place { segment, offset, length } = rot.place;
        let (what, help) = match &rot.key {
            Some(key) => (format!("the value of key \"{key}\""), "It is not served, and is fetched from another replica"),
            None => ("an entry of the log, or a value in it,".to_owned(), "It is not sent to other nodes"),
        };
        let name = || format!("reads of {what} at byte {offset} of segment {segment} that found it corrupt");
        let count = self.rot.happened(Instant::now(), (segment, offset), name)?;
        let times = if count == 1 { String::new() } else { format!(", read {count} times since this was last said") };
        Some(warn(format!(
            "{what} is corrupt on this disk: {length} bytes at byte {offset} of segment {segment}, in {}/log{times} ({}; partition {}). {help}; have the disk \
             looked at",
            self.directory,
            rot.why,
            partition(rot.group),
        )))
    }

    /// No replica has a value any more.
    pub fn lost(&self, loss: &Loss) -> Line {
        let Place { segment, offset, .. } = loss.place;
        error(format!(
            "no replica can read the value of key \"{}\" any more (partition {}, version {}): all its copies are corrupt, here at byte {offset} of segment \
             {segment}. It is neither served nor dropped: bring back a node or a disk with a whole copy, or write or delete the key",
            loss.key,
            partition(loss.group),
            loss.version.0,
        ))
    }

    /// What went on and has ended.
    pub fn quiet(&self) -> Vec<Line> {
        self.rot.quiet(Instant::now())
    }
}

fn partition(group: GroupId) -> String {
    group.partition().map_or("-".to_owned(), |partition| partition.0.to_string())
}

/// `node 2`, `nodes 2, 3`.
fn list(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    format!("{} {}", if nodes.len() == 1 { "node" } else { "nodes" }, names.join(", "))
}

/// Why there is no connection to the members that are waited for, as far as is known; of the first few.
fn troubles(nodes: &[NodeId], trouble: &impl Fn(NodeId) -> Option<String>) -> String {
    let known: Vec<String> = nodes.iter().take(5).filter_map(|node| Some(format!("node {node}: {}", trouble(*node)?))).collect();
    if known.is_empty() { String::new() } else { format!(" ({})", known.join("; ")) }
}
