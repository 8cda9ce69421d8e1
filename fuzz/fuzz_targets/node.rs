//! Any sequence of events into one node, and a boot from the log that it left: see `tests/hostile/sequence.rs`, which
//! `cargo test` plays with random input.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile/sequence.rs"]
mod sequence;

fuzz_target!(|input: &[u8]| sequence::play(input));
