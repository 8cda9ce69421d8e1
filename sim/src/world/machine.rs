//! One machine: its clock, its disk, and at most one node that runs on it.

use super::flood::Flood;
use crate::WorldTime;
use crate::check::recovery::Recovery;
use crate::check::{self, Violation};
use crate::clock::Clock;
use crate::counters::Kind;
use crate::dice::Dice;
use crate::disk::{DirectoryCopy, Disk};
use crate::plan::{NodePlan, Plan, Rot};
use crate::points::Point;
use ringseed::base::{ConnId, DirectoryId, Duration, Epoch, GroupId, Index, IoId, NodeId, Place};
use ringseed::msg::disk::DiskOp;
use ringseed::node::{Event, Node, NodeOptions};
use ringseed::wal::{self, Recovered};
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
pub struct Machine {
    pub id: NodeId,
    pub plan: NodePlan,
    /// Of the whole cluster.
    pub deleted_kept: u64,
    pub clock: Clock,
    pub disk: Disk,
    /// Runs now, or stands still.
    pub node: Option<Node>,
    /// Which boot this is: grows whenever a node ends, so that what was scheduled for the node is dropped.
    pub boot: u32,
    pub inbox: VecDeque<Event>,
    /// A round of steps is scheduled.
    pub running: bool,
    /// How many faults pause it.
    pub pauses: u32,
    /// When it last went on after a pause.
    pub resumed_at: WorldTime,
    /// Events that arrived while it was paused, heartbeats aside.
    pub kept_waiting: u64,
    /// When an event last reached the node; and the latest envelope from each other machine, by number.
    pub heard_at: WorldTime,
    pub heard: BTreeMap<usize, u64>,
    /// When the scheduled wake-up comes.
    pub wake: Option<WorldTime>,
    /// It would come at another time if no fault had changed the clock's rate.
    pub misjudged: bool,
    /// Operations of the disk in order; the first is being executed.
    pub queue: VecDeque<(IoId, DiskOp)>,
    /// The completion of the first is scheduled.
    pub disk_busy: bool,
    /// When the first began; and since when operations wait for a stall to end.
    pub began_at: WorldTime,
    /// The kind of fault under which it began that makes syncs take longer.
    pub slowed_by: Option<Kind>,
    /// By how much a fault has made a sync longer in this run, at most.
    pub slowest_ms: u64,
    pub stalled_since: Option<WorldTime>,
    /// Reads in progress.
    pub reads: BTreeMap<IoId, DiskOp>,
    /// The client of each connection.
    pub connections: BTreeMap<ConnId, usize>,
    /// Clients that do not wait for answers.
    pub(super) floods: Vec<Flood>,
    /// When it may start again; `None`: it runs.
    pub boot_at: Option<WorldTime>,
    pub stays_down: bool,
    /// Its log was damaged, and it has started in spite of that.
    pub was_damaged: bool,
    /// Its peers have made it whole since, and nothing has rotted after that.
    pub is_whole_again: bool,
    /// Something of its log has rotted since it started, and may be met by the next start.
    pub has_unread_rot: bool,
    /// Since when it is told to stop.
    pub stopping: Option<WorldTime>,
    /// The last entries of its groups when it crashed.
    pub had: Vec<(GroupId, Index)>,
    /// It led something when it was told to stop.
    pub stopping_led: bool,
    /// The error of the disk that its node was told of first, for which it must halt.
    pub failed: Option<(Kind, String)>,
    /// A disk error was injected since this boot: the node may halt.
    pub may_halt: bool,
    /// It was a member once.
    pub was_member: bool,
    /// Its directory was wiped, or exchanged for an old copy, after it had become a member.
    pub disowned: Option<Kind>,
    /// The end of its log, or what vouches for it, rotted since it last ran.
    pub rotten: Option<Rot>,
    /// Reads of its node that have failed, or were answered with wrong bytes, and are not reported; and what counts once they are.
    pub met_rot: Vec<(Place, Option<Kind>)>,
    /// When an operation on a segment of its log was last under way.
    pub log_busy_at: WorldTime,
    /// The machine has had power since this epoch of its node, and its disk has failed nothing: what was written is what is read.
    pub up_since: Option<Epoch>,
    /// It knows that the cluster refuses it.
    pub refused: bool,
    /// The directory at an earlier time.
    pub copy: Option<DirectoryCopy>,
    /// Steps of transactions that are on their way to its disk; and those that are there, and not acknowledged.
    pub unsynced: Vec<Point>,
    pub unacknowledged: Vec<Point>,
    dice: Dice,
}

/// After how many durations of support an original is silent: a run is short.
pub(super) const SILENT_AFTER: u64 = 8;

impl Machine {
    /// Judges what the node has just recovered: the values of its whole log, and a checkpoint against all of the log. Nothing
    /// fails that is read for this.
    pub fn judge_recovered(&mut self, recovered: &Recovered) -> Result<(), Violation> {
        if self.was_damaged {
            // All of the log is not what it comes to any more.
            return Ok(());
        }
        if recovered.groups.values().all(|group| group.root.is_none()) {
            return Recovery::values_are_right(self.id, recovered, &mut self.disk);
        }
        let mut disk = self.disk.whole();
        let whole = wal::recover_from_start(&mut disk, self.id).expect("it was recovered");
        let mut sound = self.disk.sound();
        let again = wal::recover(&mut sound, self.id).expect("it was recovered");
        Recovery::values_are_right(self.id, &whole, &mut disk)?;
        Recovery::items_are_right(self.id, &again, &mut sound)?;
        check::checkpoint::check(self.id, again, whole, self.deleted_kept)
    }

    pub fn new(number: usize, plan: &Plan) -> Machine {
        let own = plan.nodes[number].clone();
        Machine {
            id: NodeId(number as u16 + 1),
            deleted_kept: plan.cluster.deleted_kept,
            clock: Clock::new(0, own.clock_offset_ms * 1_000_000, own.clock_ppm),
            disk: Disk::new(Dice::new(plan.seed, &format!("disk {number}"))),
            node: None,
            boot: 0,
            inbox: VecDeque::new(),
            running: false,
            pauses: 0,
            resumed_at: 0,
            kept_waiting: 0,
            heard_at: 0,
            heard: BTreeMap::new(),
            wake: None,
            misjudged: false,
            queue: VecDeque::new(),
            disk_busy: false,
            began_at: 0,
            slowed_by: None,
            slowest_ms: 0,
            stalled_since: None,
            reads: BTreeMap::new(),
            connections: BTreeMap::new(),
            floods: Vec::new(),
            boot_at: Some(own.boot_ms * 1_000_000),
            stays_down: false,
            was_damaged: false,
            is_whole_again: false,
            has_unread_rot: false,
            stopping: None,
            had: Vec::new(),
            stopping_led: false,
            failed: None,
            may_halt: false,
            was_member: false,
            disowned: None,
            rotten: None,
            met_rot: Vec::new(),
            log_busy_at: 0,
            up_since: None,
            refused: false,
            copy: None,
            unsynced: Vec::new(),
            unacknowledged: Vec::new(),
            dice: Dice::new(plan.seed, &format!("node {number}")),
            plan: own,
        }
    }

    pub fn options(&mut self, plan: &Plan) -> NodeOptions {
        let directory = u128::from(self.dice.bits()) << 64 | u128::from(self.dice.bits());
        let mut options = NodeOptions {
            me: self.id,
            directory: DirectoryId(directory),
            address: format!("node-{}:7000", self.id),
            zone: self.plan.zone.clone(),
            weight: self.plan.weight,
            initial_members: (1..=plan.nodes.len() as u16).map(NodeId).collect(),
            cluster: plan.cluster.options(),
            heartbeat_interval: Duration::from_millis(self.plan.heartbeat_ms),
            wal_sync_interval: Duration::from_millis(self.plan.wal_sync_ms),
            snapshot_interval: Duration::ZERO,
            catch_up_rate: 64 << 20,
            scrub_interval: Duration::from_millis(u64::from(self.plan.scrub_ms)),
            segment_size: self.plan.segment_kib * 1024,
            cache_size: self.plan.cache_kib as usize * 1024,
            limits: self.plan.limits(),
            deleted_kept: plan.cluster.deleted_kept,
            seed: self.dice.bits(),
        };
        options.limits.original_silent_ms = SILENT_AFTER as usize * plan.cluster.support_ms as usize;
        if self.plan.changes_settings && self.was_member && self.disowned.is_none() {
            options.cluster.partitions *= 2;
            options.cluster.support_ms /= 3;
            options.cluster.clock_drift_ppm_max = 0;
            options.weight += 1;
            options.zone += " once more";
            options.initial_members.pop();
            options.segment_size = *self.dice.pick(&[64, 128, 1024]) * 1024;
            options.cache_size = self.dice.spread(1, 1 << 20) as usize;
        }
        options
    }

    /// Not in good standing. An old directory that lacks nothing that its peers have heard of is let in again; another starts over.
    pub fn is_out(&self) -> bool {
        self.refused || self.disowned == Some(Kind::Wipe)
    }

    /// Dead for good, or as good as dead.
    pub fn is_lost(&self) -> bool {
        self.stays_down || self.has_lost_directory()
    }

    /// It has another directory than it had, or something rotted without which its log is not whole.
    pub fn has_lost_directory(&self) -> bool {
        self.disowned.is_some() || self.has_lost_its_log()
    }

    /// Something rotted without which the log is not whole.
    pub fn has_lost_its_log(&self) -> bool {
        if self.was_damaged {
            return !self.is_whole_again;
        }
        let is_lost = |kind: &Kind| !matches!(kind, Kind::RotHeader | Kind::RotValue);
        matches!(self.rotten, Some(Rot::Zeros(_) | Rot::Bits(_))) || self.disk.rotten.iter().any(is_lost)
    }

    /// Some of its values have rotted. It mends them while it runs; a boot that replays their entries has forgotten their groups.
    pub fn has_rotten_values(&self) -> bool {
        self.disk.rotten.contains(&Kind::RotValue)
    }

    /// Something of its log rots, of which its node knows nothing yet.
    pub fn rots(&mut self) {
        (self.is_whole_again, self.has_unread_rot) = (false, true);
    }

    /// What it lacks it says from now on, as if its log was damaged.
    pub fn knows_its_directory_is_old(&mut self) {
        (self.disowned, self.refused, self.was_damaged) = (None, false, true);
        self.rots();
    }

    /// The node is gone, and all that was scheduled for it. The disk is left to the caller.
    pub fn end_life(&mut self) {
        self.node = None;
        self.boot += 1;
        self.floods.clear();
        self.inbox.clear();
        self.running = false;
        self.wake = None;
        self.queue.clear();
        self.disk_busy = false;
        self.stalled_since = None;
        self.reads.clear();
        self.stopping = None;
        self.failed = None;
        self.may_halt = false;
        self.met_rot.clear();
        self.unsynced.clear();
        self.unacknowledged.clear();
    }
}
