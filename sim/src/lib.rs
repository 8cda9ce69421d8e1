//! The simulator of Ringseed.

pub mod check;
