//! Corrupt bytes are never served, and do not come from nowhere (P4): where no read of the disk was made to fail, no value that a
//! node holds may fail its checksum. One that does was torn, and believed at replay.

use super::{Violation, render};
use ringseed::base::NodeId;
use ringseed::history::{Outcome, Record};
use ringseed::msg::client::StatusReport;
use ringseed::msg::operation::Rejection;

/// Judges what clients were told, in a run whose disks could always be read.
///
/// # Errors
/// A client was told that a value is corrupt.
pub fn check_history(history: &[Record]) -> Result<(), Violation> {
    let corrupt = Rejection::Corrupt.to_string();
    match history.iter().find(|record| matches!(&record.outcome, Outcome::Rejected { reason } if *reason == corrupt)) {
        Some(record) => {
            Err(violation(format!("a value was lost that no fault of the disk touched{}", render::records([record]))))
        }
        None => Ok(()),
    }
}

/// Judges what a node counted, in a run whose disks could always be read.
///
/// # Errors
/// It has read bytes that fail their checksum.
pub fn check_status(node: NodeId, status: &StatusReport) -> Result<(), Violation> {
    match status.counters.iter().find(|(name, count)| name == "corrupt_reads" && *count > 0) {
        Some((_, count)) => {
            Err(violation(format!("node {node} read {count} values that fail their checksum, and no fault touched them")))
        }
        None => Ok(()),
    }
}

fn violation(what: String) -> Violation {
    Violation { promise: "P4", checker: "corruption", what }
}

#[cfg(test)]
mod tests {
    use super::super::linear::tests::{get, op, rejected, saw};
    use super::*;

    #[test]
    fn corrupt_values_are_noticed() {
        check_history(&[op(0, 1, get(), saw("a", 1)), op(0, 1, get(), rejected())]).unwrap();
        let corrupt = Outcome::Rejected { reason: Rejection::Corrupt.to_string() };
        assert_eq!(check_history(&[op(0, 1, get(), corrupt)]).unwrap_err().promise, "P4");
    }
}
