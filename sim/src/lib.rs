//! The simulator of Ringseed.

pub mod check;
pub mod mutants;
pub mod seeds;
