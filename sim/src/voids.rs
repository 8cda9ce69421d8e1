//! Void faults: a kind of fault is drawn as ever, and does nothing. Its counter must notice.
//!
//! A counter that counts a fault as one that mattered could be satisfied by the fault's being done, or by what others do. So each
//! kind in turn is made void ([`Void`]) and seeds are run. In none of them may it have mattered: so a batch of as many seeds as are
//! asked for every kind fails, and says which kind never mattered.

use crate::counters::{Kind, SEEDS_FOR_EVERY_KIND, Void};
use crate::mutants;
use crate::runner::{Summary, run_those};

/// What `ringseed-sim voids` is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Only this kind, by its name in the source.
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    only: Option<Kind>,
    /// Only so many of them: which, the commit says.
    #[arg(long, value_name = "COUNT")]
    some: Option<usize>,
    /// Seeds run for each kind.
    #[arg(long, default_value_t = SEEDS_FOR_EVERY_KIND)]
    seeds: u64,
    /// Seeds run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// A kind by its name in the source.
///
/// # Errors
/// There is none of this name: which there are.
pub fn parse_kind(name: &str) -> Result<Kind, String> {
    let named = |kind: &&Kind| format!("{kind:?}").eq_ignore_ascii_case(name);
    Kind::ALL.iter().find(named).copied().ok_or_else(|| format!("there is no such kind; there are {:?}", Kind::ALL))
}

/// Makes each kind void, and prints what noticed it. Returns the process's exit code: 0 when all were noticed.
#[must_use]
pub fn run(arguments: &Arguments) -> u8 {
    let mut kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| arguments.only.is_none_or(|only| only == *kind)).collect();
    if let Some(count) = arguments.some
        && let Err(error) = mutants::some_by_commit(&mut kinds, count, |kind| kind.name())
    {
        eprintln!("error: {error}");
        return 2;
    }
    let mut table = comfy_table::Table::new();
    table.set_header(["void fault", "fired", "seeds", "noticed by"]);
    let mut all_noticed = true;
    for kind in kinds {
        let summary = run_those(0..arguments.seeds, |_| true, arguments.jobs, 0, 1, Void::One(kind), |_, _| {});
        let noticed = noticed(&summary, kind);
        all_noticed &= noticed.is_some();
        let by = noticed.unwrap_or_else(|| format!("NOT NOTICED: mattered {} times", summary.counters.get(kind).mattered));
        eprintln!("{}: {by}", kind.name());
        table.add_row([kind.name(), &summary.counters.get(kind).fired.to_string(), &summary.seeds.to_string(), &by]);
    }
    println!("{table}");
    if all_noticed { 0 } else { 1 }
}

fn noticed(summary: &Summary, kind: Kind) -> Option<String> {
    match summary.failures.first() {
        Some((seed, verdict)) => Some(format!("seed {seed}: {}", verdict.name())),
        None => (summary.counters.get(kind).mattered == 0).then(|| "never mattered".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_fault_does_anything_none_matters() {
        let summary = run_those(0..40, |_| true, 2, 0, 1, Void::All, |_, _| {});
        assert_eq!(summary.failures, []);
        for &kind in Kind::ALL {
            assert_eq!(summary.counters.get(kind).mattered, 0, "{kind:?}");
        }
        for kind in [Kind::Crash, Kind::Isolation, Kind::Loss, Kind::Duplication, Kind::ClockRate, Kind::SlowDisk, Kind::Pause] {
            assert!(summary.counters.get(kind).fired > 0, "{kind:?}");
        }
        assert_eq!(parse_kind("slowdisk"), Ok(Kind::SlowDisk));
        assert!(parse_kind("slow").is_err_and(|error| error.contains("SlowLink")));
    }
}
