//! Evidence that the faults bite: how often each kind *fired*, and how often it *mattered*.
//!
//! A fault that fires and changes nothing (a partition over which no node sends, a power loss with nothing unsynced) tests
//! nothing. A batch of seeds in which a kind never fired, or never mattered, fails. So does a batch that never reached one of the
//! states that the core names ([`Sometimes`]).

use crate::points::Point;
use ringseed::base::Sometimes;
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

/// A batch of fewer seeds is too small to say that a kind never fires, or a point is never passed.
pub const SEEDS_FOR_EVERY_KIND: u64 = 1_000;
/// The same for states of the core, of which the rarest are reached in one seed of two hundred ...
pub const SEEDS_FOR_EVERY_STATE: u64 = 2_000;
/// ... but for these, in one seed of a thousand.
const RARE: &[Sometimes] = &[
    Sometimes::AppendAfterRelease,
    Sometimes::DeleteTakesReserve,
    Sometimes::EndsHeldBackByTransfer,
    Sometimes::EntryNotReadBack,
    Sometimes::FarewellGivesCallBack,
    Sometimes::HoldWhileHandedOver,
    Sometimes::LogWithoutHeader,
    Sometimes::LossyReplicaElected,
    Sometimes::MemberRestartsBeforeFormation,
    Sometimes::NoRoomForWitness,
    Sometimes::PartOfReadUnreadable,
    Sometimes::PrepareRepeatedInFlight,
    Sometimes::QuorumWithoutRoom,
    Sometimes::ScanEndsAtPrepared,
    Sometimes::StopTriesNextFollower,
    Sometimes::StoppingNodeElected,
    Sometimes::UnfitLeaderWithoutHeir,
    Sometimes::WaiterEvaluatedWhileHandedOver,
    Sometimes::WaitersValueUnreadable,
    Sometimes::WriteAnsweredByLaterEpoch,
];
const SEEDS_FOR_RARE_STATES: u64 = 20_000;
/// Blind spots: no plan leads there but by chance, and no batch has to. A plan that does takes its state out of this list.
const BLIND: &[Sometimes] = &[
    Sometimes::AcceptanceUnbound,
    Sometimes::BatchContinuesNothing,
    Sometimes::CommitOfWhatIsNotPrepared,
    Sometimes::EarlierPromiseArrives,
    Sometimes::FollowerOfCopyRefused,
    Sometimes::FollowersBudgetSpent,
    Sometimes::GroupGetsTurnToSend,
    Sometimes::HintOfLaterTermStands,
    Sometimes::LaterTermInReplyIgnored,
    Sometimes::NodeEndsWithCalls,
    Sometimes::NodeEndsWithWriteInDoubt,
    Sometimes::NodeTooCrowdedToWrite,
    Sometimes::PartAskedAgainForRoom,
    Sometimes::PrepareRepeatedInQueue,
    Sometimes::ReadOfManyQueued,
    Sometimes::ReadOfManyWaitedTooOften,
    Sometimes::RelayedOriginNotAdmitted,
    Sometimes::ReleaseOfEarlierTermArrives,
    Sometimes::SealedBatchDamaged,
    Sometimes::SegmentOfEarlierDirectory,
    Sometimes::StopLosesPatience,
    Sometimes::StopWhileLossy,
    Sometimes::TornTailOfEarlierEpoch,
    Sometimes::WaiterReadsAgain,
];

/// Counts by kind of fault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    counts: BTreeMap<Kind, Count>,
    /// How often points of the protocol were passed, and how often a fault was placed there.
    points: BTreeMap<Point, Count>,
    /// How often states of the core were reached.
    states: BTreeMap<Sometimes, Reached>,
}

/// How often a state was reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    pub times: u64,
    /// In how many runs.
    pub runs: u64,
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

    /// The run reached the state so often.
    pub fn reached(&mut self, state: Sometimes, times: u64) {
        self.states.insert(state, Reached { times, runs: 1 });
    }

    pub fn state(&self, state: Sometimes) -> Reached {
        self.states.get(&state).copied().unwrap_or_default()
    }

    /// All states, the rarest first.
    pub fn states(&self) -> Vec<(Sometimes, Reached)> {
        let mut states: Vec<_> = Sometimes::ALL.iter().map(|&state| (state, self.state(state))).collect();
        states.sort_by_key(|(_, reached)| (reached.runs, reached.times));
        states
    }

    pub fn add(&mut self, other: &Counters) {
        for (&state, reached) in &other.states {
            let sum = self.states.entry(state).or_default();
            sum.times += reached.times;
            sum.runs += reached.runs;
        }
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

    /// What should have happened in a batch of so many seeds and never did, each as a line.
    pub fn lacks(&self, seeds: u64) -> Vec<String> {
        let mut lacks = Vec::new();
        if seeds >= SEEDS_FOR_EVERY_KIND {
            let never = |count: Count| if count.fired == 0 { 0 } else { 1 + usize::from(count.mattered > 0) };
            let kinds = Kind::ALL.iter().map(|&kind| (never(self.get(kind)), kind.name()));
            lacks.extend(
                kinds.filter_map(|(how, name)| Some(format!("fault \"{name}\" never {}", ["fired", "mattered"].get(how)?))),
            );
            let points = Point::ALL.iter().map(|&point| (never(self.point(point)), point.name()));
            lacks.extend(
                points.filter_map(|(how, name)| Some(format!("point \"{name}\" never {}", ["passed", "struck"].get(how)?))),
            );
        }
        if seeds >= SEEDS_FOR_EVERY_STATE {
            let asked = |state| !BLIND.contains(state) && (seeds >= SEEDS_FOR_RARE_STATES || !RARE.contains(state));
            let states = Sometimes::ALL.iter().filter(|state| asked(state) && self.state(**state).times == 0);
            lacks.extend(states.map(|state| format!("state {}::{state:?} never reached", state.module())));
        }
        lacks
    }
}
