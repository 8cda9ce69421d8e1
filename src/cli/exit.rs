//! How a command ends: what it says, and the exit code by which a script tells the ends apart.
//!
//! The codes follow promise P6: *rejected* certainly was not applied, *unknown* may have been. They are part of the program's
//! interface and do not change.

use super::show::put_key;
use crate::base::Version;
use crate::client::{Error, ItemFailure};
use crate::msg::disk::DiskError;
use crate::msg::transaction::FailureReason;
use core::fmt;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::process::ExitCode;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// A wrong argument, setting or file; or anything else that has no code of its own.
    Other(String),
    /// The key is absent since this version, or longer; zero: it was never written; none: as a transaction sees it.
    NotFound(Option<Version>),
    /// The cluster, or the way to it.
    Client(Error),
    /// What was looked at is wrong, as opposed to the looking: a load's checks found something.
    Found(String),
    /// `status --check`: so many lines of what is shown say what needs care.
    NotWell(usize),
    /// The log that was looked at is damaged at so many places.
    Damaged(u64),
    /// Standard output cannot be written.
    Output(io::Error),
    /// Lines of a script failed, each of which has said so; the first ended with this code.
    Script { failed: u64, code: u8 },
}

pub const OTHER: u8 = 1;
pub const NOT_FOUND: u8 = 3;
pub const CONDITION_FAILED: u8 = 4;
pub const REJECTED: u8 = 5;
pub const UNKNOWN: u8 = 6;
pub const UNREACHABLE: u8 = 7;
pub const CONFLICT: u8 = 8;
pub const NOT_WELL: u8 = 9;
pub const DAMAGED: u8 = 10;

/// The end of every help text.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  wrong usage, wrong settings, or another failure
  3  the key was not found
  4  a condition did not hold; nothing was written
  5  rejected: certainly not applied
  6  unknown: may have been applied, or may yet be
  7  no node could be reached; nothing was sent
  8  conflict with another transaction; nothing was written, and trying again may succeed
  9  `status --check` found something that needs care
  10  `wal verify` or `wal dump` found damage";

impl Failure {
    pub fn code(&self) -> u8 {
        match self {
            Failure::Other(_) | Failure::Found(_) | Failure::Output(_) => OTHER,
            Failure::Script { code, .. } => *code,
            Failure::NotFound(_) => NOT_FOUND,
            Failure::NotWell(_) => NOT_WELL,
            Failure::Damaged(_) => DAMAGED,
            Failure::Client(Error::ConditionFailed { .. }) => CONDITION_FAILED,
            Failure::Client(Error::Conflict(_)) => CONFLICT,
            Failure::Client(Error::NotCommitted(failures)) => {
                let any = |is: fn(&FailureReason) -> bool| failures.iter().any(|failure| is(&failure.reason));
                match failures.as_slice() {
                    _ if any(|reason| matches!(reason, FailureReason::Condition { .. })) => CONDITION_FAILED,
                    _ if any(|reason| matches!(reason, FailureReason::NotANumber)) => REJECTED,
                    _ => CONFLICT,
                }
            }
            Failure::Client(Error::Rejected(_)) => REJECTED,
            Failure::Client(Error::Unknown(_)) => UNKNOWN,
            Failure::Client(Error::Unreachable(_)) => UNREACHABLE,
            Failure::Client(Error::Protocol(_)) => OTHER,
        }
    }

    /// The word for it in JSON.
    pub fn outcome(&self) -> &'static str {
        match self.code() {
            NOT_FOUND => "not_found",
            CONDITION_FAILED => "condition_failed",
            REJECTED => "rejected",
            UNKNOWN => "unknown",
            UNREACHABLE => "unreachable",
            CONFLICT => "conflict",
            NOT_WELL => "not_well",
            DAMAGED => "damaged",
            _ => "error",
        }
    }

    pub fn json(&self) -> Value {
        let mut object = json!({ "outcome": self.outcome(), "message": self.to_string() });
        match self {
            Failure::NotFound(Some(version)) => object["version"] = version.0.into(),
            Failure::Client(Error::ConditionFailed { version, present }) => {
                object["version"] = version.0.into();
                object["present"] = (*present).into();
            }
            Failure::Client(Error::NotCommitted(failures) | Error::Conflict(failures)) => {
                object["failures"] = failures.iter().map(item_json).collect();
            }
            _ => {}
        }
        object
    }

    /// Says it: on standard error, or as JSON on standard output.
    pub fn report(&self, json: bool) {
        match self {
            // The reader of our output has left, and knows why.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            // If no reader is left, the exit code still says it. The load's own report is on standard output.
            Failure::Found(_) => eprintln!("error: {self}"),
            // The report on standard output says what.
            Failure::NotWell(_) => {}
            _ if json => drop(writeln!(io::stdout(), "{}", self.json())),
            Failure::NotFound(_) | Failure::Client(_) | Failure::Damaged(_) => eprintln!("{self}"),
            Failure::Other(_) | Failure::Output(_) | Failure::Script { .. } => eprintln!("error: {self}"),
        }
    }

    pub fn exit(&self, json: bool) -> ExitCode {
        self.report(json);
        ExitCode::from(self.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Other(what) | Failure::Found(what) => write!(f, "{what}"),
            Failure::NotWell(count) => write!(f, "{count} things need care"),
            Failure::Damaged(1) => write!(f, "the log is damaged at one place"),
            Failure::Damaged(count) => write!(f, "the log is damaged at {count} places"),
            Failure::NotFound(None) => write!(f, "not found"),
            Failure::NotFound(Some(Version::ZERO)) => write!(f, "not found: the key was never written (version 0)"),
            Failure::NotFound(Some(version)) => write!(f, "not found: the key is absent since version {version}, or longer"),
            Failure::Client(error) => write!(f, "{error}"),
            Failure::Script { failed: 1, code } => write!(f, "a command of the script failed, with code {code}"),
            Failure::Script { failed, code } => write!(f, "{failed} commands of the script failed, the first with code {code}"),
            Failure::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

/// Which item stood in a transaction's way, and why.
fn item_json(failure: &ItemFailure) -> Value {
    let mut object = json!({ "item": failure.item });
    put_key(&mut object, &failure.key);
    object["reason"] = match failure.reason {
        FailureReason::Condition { version, present } => json!({ "condition": { "version": version.0, "present": present } }),
        FailureReason::Conflict => "conflict".into(),
        FailureReason::NotANumber => "not_a_number".into(),
    };
    object
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Client(error)
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Failure {
        Failure::Other(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::client::Doubt;
    use crate::msg::operation::Rejection;

    fn item(reason: FailureReason) -> ItemFailure {
        ItemFailure { item: 1, key: "k".into(), reason }
    }

    #[test]
    fn every_outcome_has_its_code() {
        let failed = Error::ConditionFailed { version: Version(7), present: true };
        let conflict = item(FailureReason::Conflict);
        let both = vec![conflict.clone(), item(FailureReason::Condition { version: Version(7), present: true })];
        let codes = [
            (Error::NotCommitted(both.clone()).into(), 4, "condition_failed"),
            (Error::NotCommitted(vec![conflict.clone()]).into(), 8, "conflict"),
            (Error::NotCommitted(vec![conflict, item(FailureReason::NotANumber)]).into(), 5, "rejected"),
            (Error::Conflict(both.clone()).into(), 8, "conflict"),
            (Failure::Found("x".into()), 1, "error"),
            (Failure::Other("x".into()), 1, "error"),
            (Failure::NotFound(Some(Version(0))), 3, "not_found"),
            (failed.clone().into(), 4, "condition_failed"),
            (Error::Rejected(Rejection::NoLeader).into(), 5, "rejected"),
            (Error::Unknown(Doubt::ConnectionLost).into(), 6, "unknown"),
            (Error::Unreachable("x".into()).into(), 7, "unreachable"),
            (Error::Protocol("x".into()).into(), 1, "error"),
            (Failure::NotWell(2), 9, "not_well"),
            (Failure::Damaged(2), 10, "damaged"),
        ];
        for (failure, code, outcome) in codes {
            assert_eq!((failure.code(), failure.outcome()), (code, outcome));
            assert!(code == 1 || EXIT_CODES.contains(&format!("\n  {code}  ")), "{code}");
        }
        let json = Failure::from(Error::NotCommitted(both)).json();
        assert_eq!(json["failures"][0], json!({ "item": 1, "key": "k", "key_text": "k", "reason": "conflict" }));
        assert_eq!(json["failures"][1]["reason"]["condition"], json!({ "version": 7, "present": true }));
        let json = Failure::from(failed).json();
        assert_eq!((&json["version"], &json["present"]), (&json!(7), &json!(true)));
    }
}
