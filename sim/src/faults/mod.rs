//! The kinds of fault: each is one file, which says how it is drawn, aimed, done and counted; and one line of the table here.
//!
//! The table gives a kind its parameters, as they stand in a plan. What there is to a kind beside them is its [`Behaviour`]. A
//! fault with a target strikes one node. A fault that lasts is *active* until it ends: what active faults do to the network and
//! to a disk is computed anew whenever one begins or ends (`world/faults.rs`).
//!
//! A new kind is drawn by [`Behaviour::add`], from a stream of its own: one draw more in the swarm ([`Behaviour::draw`]) would
//! change every seed. What it counts as is a line in [`crate::counters::Kind`], since the network and the disk count, too. A kind
//! that may outlast the others is in [`STANDING`].

pub mod words;

use crate::WorldTime;
use crate::counters::Kind;
use crate::dice::Dice;
use crate::plan::{BootStep, Decay, LossStyle, MessageKind, Plan, Rot, Stray, Synced, Target};
use crate::world::{DiskTrouble, World};
use serde::{Deserialize, Serialize};

/// What there is to a kind of fault beside its parameters.
pub struct Behaviour {
    /// One word for it, for the timeline.
    pub name: &'static str,
    /// How the swarm draws it.
    pub draw: Option<fn(&Plan, &mut Dice) -> FaultKind>,
    /// Adds it to plans that can bear it, from a stream that bears its name.
    pub add: Option<fn(&mut Plan, &mut Dice)>,
    /// Waiting for something to happen at a node, it may strike there, whatever its target was.
    pub aimed: bool,
    /// It befalls one message, not a node.
    pub on_message: bool,
    /// What it does at once.
    pub begin: fn(&mut World, &FaultKind, Strike),
    /// What is done when it ends.
    pub end: fn(&mut World, &FaultKind, Strike),
    /// What it does to the network while it is active.
    pub network: fn(&mut World, &FaultKind, Strike),
    /// What it does to a disk while it is active: its target's, or every disk.
    pub disk: fn(&mut DiskTrouble, &FaultKind),
    /// How it outlasts all others, if it may.
    pub stands: Option<Stands>,
}

impl Behaviour {
    /// What a kind leaves out.
    pub const NOTHING: Behaviour = Behaviour {
        name: "",
        draw: None,
        add: None,
        aimed: false,
        on_message: false,
        begin: |_, _, _| {},
        end: |_, _, _| {},
        network: |_, _, _| {},
        disk: |_, _| {},
        stands: None,
    };
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A fault that the cluster must live with.
pub struct Stands {
    pub draw: fn(&Plan, &mut Dice) -> FaultKind,
    /// How it is counted.
    pub counted: Kind,
    /// What tells whether it mattered, unless it always does.
    pub cause: Option<Kind>,
}

/// A fault that is active.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    /// The machine that it struck, from 0, if its kind has a target.
    pub target: Option<usize>,
    pub for_ms: u64,
    pub since: WorldTime,
}

impl Strike {
    /// The machine that was struck.
    pub fn node(&self) -> usize {
        self.target.expect("a fault with a target begins when that is known")
    }
}

macro_rules! faults {
    ($($(#[$doc:meta])* $module:ident: $name:ident $({ $($field:ident: $type:ty),* })?,)*) => {
        $(mod $module;)*

        /// A fault's kind, with its parameters.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum FaultKind { $($(#[$doc])* $name $({ $($field: $type),* })?,)* }

        impl FaultKind {
            /// Of every kind, in the order of the table.
            pub const ALL: &[&Behaviour] = &[$(&$module::BEHAVIOUR,)*];

            pub fn behaviour(&self) -> &'static Behaviour {
                match self { $(FaultKind::$name { .. } => &$module::BEHAVIOUR,)* }
            }

            /// The node that it strikes.
            pub fn target(&self) -> Option<Target> {
                let target: Option<&Target> =
                    match self { $(kind @ FaultKind::$name { .. } => faults!(@target kind $name $($($field)*)?),)* };
                target.copied()
            }

            pub fn target_mut(&mut self) -> Option<&mut Target> {
                match self { $(kind @ FaultKind::$name { .. } => faults!(@target kind $name $($($field)*)?),)* }
            }
        }
    };
    (@target $kind:ident $name:ident target $($field:ident)*) => {
        if let FaultKind::$name { target, .. } = $kind { Some(target) } else { None }
    };
    (@target $kind:ident $name:ident $($field:ident)*) => {{
        let _ = $kind;
        None
    }};
}

faults! {
    /// The process ends; the page cache lives.
    crash: Crash { target: Target },
    /// The machine loses power: what is not synced may be lost, torn, persisted out of order.
    power_loss: PowerLoss { target: Target, style: LossStyle },
    /// All machines lose power within `within_ms`.
    power_loss_of_all: PowerLossOfAll { within_ms: u64, style: LossStyle },
    /// A clean stop. If it takes longer than the fault lasts, the process is ended.
    stop: Stop { target: Target },
    /// The process stands still; its clock does not.
    pause: Pause { target: Target },
    /// Ended, and started again with an empty directory.
    wipe: Wipe { target: Target },
    /// A copy of the directory is taken when the fault begins and put back, under a crash, when it ends.
    old_directory: OldDirectory { target: Target },
    /// The target is isolated, so that its log falls idle. When the fault ends it crashes, and the log's end rots; unless the log
    /// is not idle.
    rot_tail: RotTail { target: Target, rot: Rot },
    /// What was synced rots, before the log's end, under a node that runs. When the fault ends the process does, too.
    rot_synced: RotSynced { target: Target, place: Synced, decay: Decay },
    /// A write that was synced never came to its place, before the log's end, under a node that runs. When the fault ends the
    /// process does, too.
    stray_write: StrayWrite { target: Target, to: Stray },
    /// The clock runs at another rate.
    clock_rate: ClockRate { target: Target, ppm: i64 },
    /// The clock jumps forward.
    clock_jump: ClockJump { target: Target, by_ms: u64 },
    /// What the target sends, and what is sent to it, is lost.
    isolate: Isolate { target: Target },
    /// The nodes of one side hear none of the other.
    split: Split { side: Vec<u16> },
    /// What the target sends (`outward`), or what is sent to it, is lost.
    one_way: OneWay { target: Target, outward: bool },
    /// These pairs cannot talk.
    partial: Partial { pairs: Vec<(u16, u16)> },
    /// What one node sends to another is lost; what that one answers arrives.
    one_way_link: OneWayLink { from: u16, to: u16 },
    /// The target is isolated every other `period_ms`.
    flapping: Flapping { target: Target, period_ms: u64 },
    /// Messages are lost.
    loss: Loss { permille: u32 },
    /// Messages come twice.
    duplication: Duplication { permille: u32, delay_ms: u64 },
    /// Messages overtake each other.
    reordering: Reordering { permille: u32, delay_ms: u64 },
    /// Every message takes longer.
    delay: Delay { by_ms: u64 },
    /// Messages from one node to another take longer.
    slow_link: SlowLink { from: u16, to: u16, by_ms: u64 },
    /// Messages of one kind, from one node to another, take longer: others, and those sent later, overtake them.
    slow_messages: SlowMessages { from: u16, to: u16, what: MessageKind, by_ms: u64 },
    /// Reads of the disk fail.
    read_errors: ReadErrors { target: Target, permille: u32 },
    /// Reads of a running node are answered with bytes of another place.
    wrong_reads: WrongReads { target: Target, permille: u32 },
    /// Writes fail.
    write_errors: WriteErrors { target: Target },
    /// Syncs fail, after part was made durable.
    sync_errors: SyncErrors { target: Target },
    /// Segments cannot be made, for another reason than want of room.
    create_errors: CreateErrors { target: Target },
    /// Syncs of the directory fail, after some names were made durable.
    directory_errors: DirectoryErrors { target: Target },
    /// The process ends, and a step of each boot fails.
    boot_errors: BootErrors { target: Target, step: BootStep },
    /// No operation of the disk completes.
    stall: Stall { target: Target },
    /// No segment can be made.
    full: Full { target: Target },
    /// Each sync takes so much longer.
    slow_disk: SlowDisk { target: Target, sync_ms: u64 },
    /// Each sync of every node takes so much longer.
    slow_disks: SlowDisks { sync_ms: u64 },
    /// The message of the point that is waited for is lost, with the envelope that it is in.
    lose_message: LoseMessage,
    /// The message of the point that is waited for is late, and others overtake it.
    hold_message: HoldMessage { by_ms: u64 },
    /// The message of the point that is waited for comes again.
    repeat_message: RepeatMessage { after_ms: u64 },
    /// A client asks the target for so many things without waiting for answers; `leaves`: it goes away halfway.
    flood: Flood { target: Target, requests: u32, leaves: bool },
    /// Clients' connections to the target break.
    disconnect: Disconnect { target: Target },
}

impl FaultKind {
    /// One word for it, for the timeline.
    pub fn name(&self) -> &'static str {
        self.behaviour().name
    }
}

/// The lasting faults that the cluster must live with, in the order in which they are drawn.
pub const STANDING: &[&Behaviour] = &[
    &crash::BEHAVIOUR,
    &full::BEHAVIOUR,
    &slow_disk::BEHAVIOUR,
    &slow_disks::BEHAVIOUR,
    &partial::BEHAVIOUR,
    &one_way_link::BEHAVIOUR,
    &isolate::BEHAVIOUR,
    &one_way::BEHAVIOUR,
    &flapping::BEHAVIOUR,
];

pub use boot_errors::counted as boot_error;
pub use one_way_link::draw as one_way_link;
pub use partial::cut_link;
