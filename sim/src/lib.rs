//! The simulator of Ringseed.

pub mod check;
pub mod seeds;
