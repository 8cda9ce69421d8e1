//! Evidence that the faults bite: how often each kind *fired*, and how often it *mattered*.
//!
//! A fault *matters* when it changed what a node or a client received or could do. So that is not counted where the fault is
//! done, but where its effect is seen: when a message arrives or never will, a timer fires, the disk answers, a node boots. A
//! fault that fires and changes nothing (a partition over which nothing but heartbeats is sent, a power loss with nothing
//! unsynced) tests nothing. A batch of seeds in which a kind never fired, or never mattered, fails. So does a batch that never
//! reached one of the states that the core names ([`Sometimes`]).

use crate::points::Point;
use ringseed::base::Sometimes;
use std::collections::BTreeMap;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Every kind of fault that is counted. When it matters, the comment says, or the docs of its file in `faults`.
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
    Crash = "crash",
    PowerLoss = "power loss",
    PowerLossOfAll = "power loss of all",
    Stop = "clean stop",
    /// It read back an earlier epoch.
    Restart = "restart",
    Pause = "pause",
    Isolation = "partition: isolation",
    Split = "partition: split",
    OneWay = "partition: one-way",
    Partial = "partition: partial",
    Flapping = "partition: flapping",
    Loss = "loss",
    Duplication = "duplication",
    Reordering = "reordering",
    Delay = "delay",
    SlowLink = "slow link",
    /// As a slow link. An envelope waits for what was sent before it in its lane.
    NarrowLink = "narrow link",
    SlowMessages = "slow messages of one kind",
    ClockRate = "clock rate, within the bound",
    /// An answer that rested on a lease was stale: the judges fail the whole history, and not the rest.
    ClockBeyond = "clock beyond the bound",
    ClockJump = "clock jump",
    ReadError = "disk: read error",
    WrongRead = "disk: read of the wrong place",
    WriteError = "disk: write error",
    SyncError = "disk: sync error",
    CreateError = "disk: create error",
    DirectoryError = "disk: directory sync error",
    BootSyncError = "disk: sync error at boot",
    BootListError = "disk: listing error at boot",
    BootReadError = "disk: read error at boot",
    Stall = "disk: stall",
    Full = "disk: full",
    SlowDisk = "disk: slow",
    SlowDisks = "disk: slow, on all nodes",
    /// Unsynced sectors did not survive, and showed other bytes; the node's next epoch read them.
    LostWrite = "disk: unsynced write lost",
    /// Of one write, some sectors survived and others did not; as above.
    TornWrite = "disk: write torn at a sector",
    /// A later write survived, an earlier one did not; as above.
    ReorderedWrite = "disk: writes persisted out of order",
    /// A file whose name was not synced was gone when the node's next epoch looked.
    LostName = "disk: unsynced name lost",
    /// A file that was being made, or space of a file that was first written to and not synced, showed another file's bytes to
    /// the node's next epoch.
    OldBytes = "disk: old bytes in new space",
    Wipe = "wiped directory",
    OldDirectory = "old directory",
    /// The cluster healed, and did its errands, with two directories lost.
    SecondLoss = "loss of a second directory",
    /// Everything was asked through every living node while the node was down.
    StandingDead = "standing: dead node",
    /// As above; the fault itself, which has a kind of its own, mattered meanwhile. So for those that follow.
    StandingFull = "standing: full disk",
    StandingSlow = "standing: slow disk",
    StandingAllSlow = "standing: slow disks",
    StandingCut = "standing: cut link",
    StandingOneWay = "standing: one-way link",
    StandingBadlyConnected = "standing: badly connected node",
    /// The node said at its next boot that its log is damaged.
    RotTail = "disk: the end of an idle log rots",
    /// The node booted from its log all the same.
    RotWitness = "disk: the witness of a log's end rots",
    /// The node said at its next boot that its log is damaged.
    RotSynced = "disk: synced bytes rot",
    /// The node booted from its log all the same.
    RotHeader = "disk: one copy of a segment's header rots",
    /// A read of the running node met it, and the node reported it.
    RotRead = "disk: what is read back rots",
    /// A read of the running node met it, and the node reported it.
    RotValue = "disk: values of a node that goes on rot",
    /// The node said at its next boot that its log is damaged.
    LostSynced = "disk: synced write lost",
    /// The node said so, or booted from its log all the same.
    Misdirected = "disk: synced write in another place",
    /// The node had acknowledged something that no sync had covered, and was believed to have it still.
    SameBoot = "relaxed syncing: the process ended, the machine did not",
    ConnectionBreak = "client connection broken",
    Flood = "client that does not wait for answers",
}

/// Which kinds are drawn and do nothing, to see that their counters notice ([`crate::voids`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Void {
    #[default]
    None,
    One(Kind),
    All,
}

/// A batch of fewer seeds is too small to say that a kind never fires, or a point is never passed.
pub const SEEDS_FOR_EVERY_KIND: u64 = 1_000;
/// When a kind was left out so often, half of the histories must have changed: else its rule says too easily that it mattered.
const LEFT_OUT_MIN: u64 = 20;
/// But not of these: a right recovery makes of what it reads the same as without them. Bugs that are planted there show that it reads
/// it.
const HIDDEN: &[Kind] = &[Kind::ReorderedWrite, Kind::LostName, Kind::OldBytes];
/// The same for states of the core, of which the rarest are reached in one seed of two hundred ...
pub const SEEDS_FOR_EVERY_STATE: u64 = 2_000;
/// ... but for these, in one seed of a thousand.
const RARE: &[Sometimes] = &[
    Sometimes::AppendAfterRelease,
    Sometimes::BlockUnreadable,
    Sometimes::CheckpointEndsOnFullDisk,
    Sometimes::CompactionWhileFull,
    Sometimes::CondemnedSegmentRead,
    Sometimes::CopyStandsForLost,
    Sometimes::DeleteTakesReserve,
    Sometimes::EndsHeldBackByTransfer,
    Sometimes::EntryInCopyReplaces,
    Sometimes::EntryNotReadBack,
    Sometimes::FarewellGivesCallBack,
    Sometimes::FetchOfOtherVersion,
    Sometimes::FetchedCopyRotten,
    Sometimes::FetchedTooLate,
    Sometimes::GroupWithoutCopy,
    Sometimes::HoldWhileHandedOver,
    Sometimes::InstallDropsEntries,
    Sometimes::InstallKeepsEntries,
    Sometimes::KeptSegmentWithoutHeader,
    Sometimes::LessThanStoodInLog,
    Sometimes::LossyReplicaElected,
    Sometimes::LostValueRead,
    Sometimes::ManifestRotten,
    Sometimes::MemberRestartsBeforeFormation,
    Sometimes::NoRoomForWitness,
    Sometimes::PrepareRepeatedInFlight,
    Sometimes::QuorumWithoutRoom,
    Sometimes::RepairOvertakenByWrite,
    Sometimes::RepairTakesTooLong,
    Sometimes::RepairWithoutRoom,
    Sometimes::RepairedWhileRead,
    Sometimes::ReserveUsed,
    Sometimes::RoomByCompaction,
    Sometimes::RottenValueReadable,
    Sometimes::ScrubWaitsForRepairs,
    Sometimes::SegmentGone,
    Sometimes::SegmentWithoutHeaderWalked,
    Sometimes::SnapshotGivenUp,
    Sometimes::SnapshotGoesBack,
    Sometimes::SnapshotOfRottenState,
    Sometimes::SnapshotPieceRepeated,
    Sometimes::SnapshotWaitsForRoom,
    Sometimes::StateSentForRottenEntry,
    Sometimes::StopTriesNextFollower,
    Sometimes::StoppingNodeElected,
    Sometimes::TooManyFetches,
    Sometimes::TooManyRepairs,
    Sometimes::UnfitLeaderWithoutHeir,
    Sometimes::ValueLost,
    Sometimes::ValueRescued,
    Sometimes::ValuesMovedWhileCopied,
    Sometimes::VictimNotEmptied,
    Sometimes::WaiterEvaluatedWhileHandedOver,
    Sometimes::WriteAnsweredByLaterEpoch,
];
/// Faults that may keep a node from reading a value.
const SPOILING: &[Kind] =
    &[Kind::ReadError, Kind::WrongRead, Kind::RotSynced, Kind::RotRead, Kind::RotValue, Kind::LostSynced, Kind::Misdirected];
const SEEDS_FOR_RARE_STATES: u64 = 20_000;
/// Blind spots: no plan leads there but by chance, and no batch has to. Each with what it takes. A plan that leads there takes
/// its state out of this list.
const BLIND: &[Sometimes] = &[
    // The one peer that had refused an old copy restarts before it logs why.
    Sometimes::RefusingPeerForgets,
    // Of a state that comes in pieces one rots that stands before the epoch which has found other damage.
    Sometimes::PieceMissing,
    // A value was lost, by errors of the moment on all disks, and is read a second later and more.
    Sometimes::LostValueAskedForAgain,
    // More has rotted than is repaired at a time, and for ten seconds no member has any of it.
    Sometimes::RepairPutOff,
    // A leader campaigns for a later term within D, and the release of its earlier term has not come.
    Sometimes::AcceptanceUnbound,
    // A header that is whole, at the very end of the log, and is not the next: only old bytes of this place show that.
    Sometimes::BatchContinuesNothing,
    // A prepare that was acknowledged is gone. No plan may take that from a majority; a test of nodes does.
    Sometimes::CommitOfWhatIsNotPrepared,
    // An answer to a heartbeat is overtaken by one that came after support had lapsed: late by D, and not too late.
    Sometimes::EarlierPromiseArrives,
    // A copy that was refused restarts, and has logged more meanwhile than peers had heard of what it is a copy of.
    Sometimes::FollowerOfCopyRefused,
    // The replica here loses its leader, and a peer has just told of one in a term that has not come here.
    Sometimes::HintOfLaterTermStands,
    // A late reply to a campaign, when the replica has accepted a leader of an earlier term than the reply's.
    Sometimes::LaterTermInReplyIgnored,
    // A home asks again, in another forward, while the first prepare still waits for its locks.
    Sometimes::PrepareRepeatedInQueue,
    // A read of several meets prepared transactions on its keys eight times in a row.
    Sometimes::ReadOfManyWaitedTooOften,
    // A node that the cluster refuses says something by a detour, to a node that knows of the refusal.
    Sometimes::RelayedOriginNotAdmitted,
    // The releases of two leaderships of one node arrive the wrong way round.
    Sometimes::ReleaseOfEarlierTermArrives,
    // Where a segment is made after a wipe, the same segment of the wiped directory shows.
    Sometimes::SegmentOfEarlierDirectory,
    // Behind the end of the log, at its very place, the header of an earlier epoch's batch shows.
    Sometimes::TornTailOfEarlierEpoch,
    // A waiter at the front of its queue read a value, and another value has come before its turn.
    Sometimes::WaiterReadsAgain,
];

/// Counts by kind of fault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    counts: BTreeMap<Kind, Count>,
    /// How often points of the protocol were passed, and how often a fault was placed there.
    points: BTreeMap<Point, Count>,
    pub void: Void,
    /// Kinds that were left out of a run in which they mattered: how often (fired), and how often that changed the history.
    left_out: BTreeMap<Kind, Count>,
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
    pub fn new(void: Void) -> Counters {
        Counters { void, ..Counters::default() }
    }

    pub fn fired(&mut self, kind: Kind) {
        self.counts.entry(kind).or_default().fired += 1;
    }

    /// Whether a fault of this kind does what it is for.
    pub fn acts(&self, kind: Kind) -> bool {
        match self.void {
            Void::None => true,
            Void::One(void) => void != kind,
            Void::All => false,
        }
    }

    /// It fired. Whether it does what it is for.
    pub fn strikes(&mut self, kind: Kind) -> bool {
        self.fired(kind);
        self.acts(kind)
    }

    pub fn mattered(&mut self, kind: Kind) {
        self.counts.entry(kind).or_default().mattered += 1;
    }

    pub fn get(&self, kind: Kind) -> Count {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// Whether a fault may have kept a node from reading a value.
    pub fn spoils_values(&self) -> bool {
        SPOILING.iter().any(|kind| self.get(*kind).fired > 0)
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

    /// The kinds that mattered.
    pub fn all_that_mattered(&self) -> Vec<Kind> {
        self.counts.iter().filter(|(_, count)| count.mattered > 0).map(|(kind, _)| *kind).collect()
    }

    /// The run was repeated without a kind that mattered. `changed`: clients asked or were told something else, or at another
    /// time.
    pub fn leave_out(&mut self, kind: Kind, changed: bool) {
        let count = self.left_out.entry(kind).or_default();
        count.fired += 1;
        count.mattered += u64::from(changed);
    }

    /// Fired: how often the kind was left out; mattered: how often that changed the history.
    pub fn left_out(&self, kind: Kind) -> Count {
        self.left_out.get(&kind).copied().unwrap_or_default()
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
        for (&kind, count) in &other.left_out {
            let sum = self.left_out.entry(kind).or_default();
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
        for (kind, count) in self.left_out.iter().filter(|(kind, _)| !HIDDEN.contains(kind)) {
            if count.fired >= LEFT_OUT_MIN && 2 * count.mattered < count.fired {
                let same = count.fired - count.mattered;
                lacks.push(format!(
                    "without fault \"{}\", which mattered, {same} of {} histories are the same",
                    kind.name(),
                    count.fired
                ));
            }
        }
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
