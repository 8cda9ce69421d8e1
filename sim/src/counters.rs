//! Evidence that the faults bite: how often each kind *fired*, and how often it *mattered*.
//!
//! A fault that fires and changes nothing (a partition over which no node sends, a power loss with nothing unsynced) tests
//! nothing. A batch of seeds in which a kind never fired, or never mattered, fails.

use crate::points::Point;
use std::collections::BTreeMap;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Every kind of fault that is counted. The comment says when it matters.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$name,)*];

            pub const fn name(self) -> &'static str {
                match self { $(Kind::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// An operation of the disk, an event or a request was in progress.
    Crash = "crash",
    /// Something unsynced was lost or torn.
    PowerLoss = "power loss",
    /// Something unsynced was lost or torn, on any node.
    PowerLossOfAll = "power loss of all",
    /// The node led something.
    Stop = "clean stop",
    /// The node had applied or logged something before.
    Restart = "restart",
    /// Events were kept waiting.
    Pause = "pause",
    /// A message was dropped.
    Isolation = "partition: isolation",
    Split = "partition: split",
    OneWay = "partition: one-way",
    Partial = "partition: partial",
    Flapping = "partition: flapping",
    /// A message was dropped.
    Loss = "loss",
    /// A message was delivered twice.
    Duplication = "duplication",
    /// A message arrived behind one that was sent later.
    Reordering = "reordering",
    /// A message was delayed.
    Delay = "delay",
    /// A message was delayed.
    SlowLink = "slow link",
    /// A message waited for what was sent before it.
    NarrowLink = "narrow link",
    /// A message was delayed, and others were not.
    SlowMessages = "slow messages of one kind",
    /// The node's clock ran at another rate for some time.
    ClockRate = "clock rate, within the bound",
    /// As above; mattered: a lease was held by two nodes, or an answer that rested on a lease was stale.
    ClockBeyond = "clock beyond the bound",
    /// The clock of a node jumped forward.
    ClockJump = "clock jump",
    /// A read was answered with an error.
    ReadError = "disk: read error",
    /// A write was answered with an error.
    WriteError = "disk: write error",
    /// A sync was answered with an error, after part was made durable.
    SyncError = "disk: sync error",
    /// An operation of the disk was kept waiting.
    Stall = "disk: stall",
    /// A segment could not be made.
    Full = "disk: full",
    /// A sync took longer.
    SlowDisk = "disk: slow",
    /// Syncs took longer, and clients were told meanwhile that what they asked for is written.
    SlowDisks = "disk: slow, on all nodes",
    /// Unsynced sectors did not survive.
    LostWrite = "disk: unsynced write lost",
    /// Of one write, some sectors survived and others did not.
    TornWrite = "disk: write torn at a sector",
    /// A later write survived, an earlier one did not.
    ReorderedWrite = "disk: writes persisted out of order",
    /// A file whose name was not synced is gone.
    LostName = "disk: unsynced name lost",
    /// A file that was being made, or space of a file that was first written to and not synced, shows another file's bytes.
    OldBytes = "disk: old bytes in new space",
    /// The node was refused by the cluster.
    Wipe = "wiped directory",
    /// The node was refused by the cluster.
    OldDirectory = "old directory",
    /// Everything was asked through every living node while it stood.
    StandingDead = "standing: dead node",
    /// As above; mattered: a segment could not be made meanwhile.
    StandingFull = "standing: full disk",
    /// As above; mattered: a sync took longer meanwhile.
    StandingSlow = "standing: slow disk",
    /// As above; mattered: syncs took longer, and clients were told meanwhile that what they asked for is written.
    StandingAllSlow = "standing: slow disks",
    /// As above, and a message was dropped meanwhile.
    StandingCut = "standing: cut link",
    StandingOneWay = "standing: one-way link",
    /// The node said at its next boot that its log is damaged.
    RotTail = "disk: the end of an idle log rots",
    /// The node booted from its log all the same.
    RotWitness = "disk: the witness of a log's end rots",
    /// The node had acknowledged something that no sync had covered, and was believed to have it still.
    SameBoot = "relaxed syncing: the process ended, the machine did not",
    /// A request was in progress on the connection.
    ConnectionBreak = "client connection broken",
}

/// Counts by kind of fault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    counts: BTreeMap<Kind, Count>,
    /// How often points of the protocol were passed, and how often a fault was placed there.
    points: BTreeMap<Point, Count>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub fired: u64,
    pub mattered: u64,
}

impl Counters {
    pub fn fired(&mut self, kind: Kind) {
        self.counts.entry(kind).or_default().fired += 1;
    }

    pub fn mattered(&mut self, kind: Kind) {
        self.counts.entry(kind).or_default().mattered += 1;
    }

    pub fn get(&self, kind: Kind) -> Count {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    pub fn passed(&mut self, point: Point) {
        self.points.entry(point).or_default().fired += 1;
    }

    pub fn placed(&mut self, point: Point) {
        self.points.entry(point).or_default().mattered += 1;
    }

    /// Fired: passed; mattered: a fault was placed there.
    pub fn point(&self, point: Point) -> Count {
        self.points.get(&point).copied().unwrap_or_default()
    }

    /// The points that were never passed, or where no fault was placed.
    pub fn idle_points(&self) -> Vec<Point> {
        Point::ALL.iter().copied().filter(|&p| self.point(p).fired == 0 || self.point(p).mattered == 0).collect()
    }

    pub fn add(&mut self, other: &Counters) {
        for (&point, count) in &other.points {
            let sum = self.points.entry(point).or_default();
            sum.fired += count.fired;
            sum.mattered += count.mattered;
        }
        for (&kind, count) in &other.counts {
            let sum = self.counts.entry(kind).or_default();
            sum.fired += count.fired;
            sum.mattered += count.mattered;
        }
    }

    /// The kinds that never fired, or never mattered.
    pub fn idle(&self) -> Vec<Kind> {
        Kind::ALL.iter().copied().filter(|&k| self.get(k).fired == 0 || self.get(k).mattered == 0).collect()
    }
}
