//! The simulator: the real node in a world of crashes, partitions and disk faults.
//!
//! `seed -> plan -> run`. [`Plan::generate`] expands a seed into plain data, [`run_plan`] executes it, and the checkers judge
//! what happened. A run is a function of its plan: the same plan gives the same trace, byte by byte (promise P7).
//!
//! - [`plan`]: what a run does. [`shrink`]: the smallest part of it that still fails. [`story`]: that, told in a few lines.
//! - [`faults`]: the kinds of fault, one file each.
//! - [`world`]: the event heap; machines, faults, the phases of a run. [`network`], [`disk`], [`clock`]: what surrounds a node.
//! - [`workload`]: the clients. [`check`]: the judges of their history. [`counters`]: whether the faults bite.
//! - [`points`]: points of the transactions' protocol, at which a plan places faults.
//! - [`voids`]: faults that do nothing, which their counters must notice.
//! - [`recovery`]: how long it takes after the faults until all is well again.
//! - [`runner`]: many seeds at once. [`mutants`]: planted bugs. [`seeds`]: the seeds that found something.

// The docs are for whoever works on it, too: they name what is private.
#![allow(rustdoc::private_intra_doc_links)]

pub mod check;
pub mod clock;
pub mod counters;
mod dice;
pub mod disk;
pub mod faults;
pub mod mutants;
pub mod network;
pub mod plan;
pub mod points;
pub mod recovery;
mod run;
pub mod runner;
pub mod seeds;
pub mod shrink;
pub mod story;
pub mod trace;
pub mod voids;
pub mod workload;
pub mod world;

pub use plan::Plan;
pub use run::{Run, RunOptions, Verdict, run_plan, run_seed};
pub use runner::{Summary, run_many, run_those};

/// Nanoseconds of the world, from the start of a run. No node sees them.
pub type WorldTime = u64;
