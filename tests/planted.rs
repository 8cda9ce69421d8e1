//! The planted bugs of `sim/mutants/` are documented, and still apply to the source as it is. That each of them is caught is
//! shown by `cargo run --release -p ringseed-sim -- mutants`, which takes some minutes.

use ringseed_sim::mutants::{Place, all, all_apply};
use std::collections::BTreeSet;

/// How many bugs there are at least in the protocol and the log.
const CORE_MIN: usize = 20;

#[test]
fn every_planted_bug_applies() {
    all_apply().unwrap_or_else(|wrong| panic!("these patches do not apply any more; mend them:\n{wrong}"));
}

#[test]
fn there_are_enough_of_them_and_each_is_another() {
    let mutants = all().unwrap();
    let core = mutants.iter().filter(|mutant| mutant.place == Place::Core).count();
    assert!(core >= CORE_MIN, "{core} bugs are planted in the core");
    let told: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.breaks.as_str()).collect();
    assert_eq!(told.len(), mutants.len(), "no two break the same");
    for part in ["partition", "disk", "checker"] {
        let planted = mutants.iter().any(|mutant| mutant.place == Place::Simulator && mutant.name.contains(part));
        assert!(planted, "no bug is planted in the simulator's {part}");
    }
}
