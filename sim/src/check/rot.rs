//! What has rotted, went astray or was read from the wrong place is reported or refused, never served (P4): by a read of a running
//! node, and by the recovery of the whole log.

use super::{Violation, checkpoint};
use ringseed::base::{NodeId, Place};
use ringseed::msg::log::EntrySummary;
use ringseed::wal::{RecoverError, Recovered};

/// How a node took it that some of its log has rotted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It says that the log is damaged, and does not start.
    Refused,
    /// It says so, and starts with what is left.
    Salvaged,
    /// It lacks nothing: what rotted stands elsewhere, too.
    Whole,
    /// The disk could not be read.
    Unknown,
}

/// Judges what recovery made of a disk on which something rotted. `sound`: what it makes of the same disk without that.
///
/// # Errors
/// It believes something else than what was written, or names another reason.
pub fn check_boot(
    node: NodeId,
    found: &Result<Recovered, RecoverError>,
    sound: &Result<Recovered, RecoverError>,
) -> Result<Taken, Violation> {
    match (found, sound) {
        (Err(RecoverError::Damaged { .. }), _) => Ok(Taken::Refused),
        (Err(RecoverError::Device(_)), _) => Ok(Taken::Unknown),
        (Err(error), _) => Err(violation(format!("some of node {node}'s log has rotted, and it does not boot because {error}"))),
        (Ok(found), Ok(sound)) if !found.damage.is_empty() => salvaged(node, found, sound).map(|()| Taken::Salvaged),
        (Ok(found), Ok(sound)) if same(found, sound) => Ok(Taken::Whole),
        (Ok(_), Ok(_)) => {
            Err(violation(format!("some of node {node}'s log has rotted, and it boots from what was never written")))
        }
        (Ok(_), Err(error)) => {
            Err(violation(format!("node {node} boots from a log that has rotted, and without the rot there is none: {error}")))
        }
    }
}

/// What a start in spite of damage believes was written: all, of a group that it says is whole, and what it takes for committed of
/// any other. It uses no epoch and no position twice.
fn salvaged(node: NodeId, found: &Recovered, sound: &Recovered) -> Result<(), Violation> {
    let wrong = |what: String| Err(violation(format!("some of node {node}'s log has rotted, and it starts {what}")));
    if found.epoch < sound.epoch || found.last_lsn() < sound.last_lsn() {
        let both = [found, sound].map(|log| (log.epoch, log.last_lsn()));
        return wrong(format!("from epoch and position {:?}, which were {:?}", both[0], both[1]));
    }
    for (id, sound) in &sound.groups {
        let Some(group) = found.groups.get(id) else {
            if found.amnesiac {
                continue;
            }
            return wrong(format!("without group {id}, of which it says nothing"));
        };
        if !group.amnesiac && !checkpoint::same_log(group, sound) {
            return wrong(format!("with less of group {id} than there was, and takes that for all"));
        }
        if group.state.commit > sound.state.commit {
            return wrong(format!(
                "with group {id} committed up to {}, and it was to {}",
                group.state.commit, sound.state.commit
            ));
        }
        let written = |entry: &&EntrySummary| entry.index > sound.base.index && !sound.entries.contains(entry);
        if let Some(entry) = group.committed().iter().find(written) {
            return wrong(format!("with {entry:?} committed in group {id}, which never was"));
        }
    }
    let forgets = found.amnesiac || found.groups.values().any(|group| group.amnesiac);
    if found.forgot || !forgets { Ok(()) } else { wrong("and takes nothing for forgotten".into()) }
}

fn same(one: &Recovered, other: &Recovered) -> bool {
    (one.directory, one.epoch, one.lossless, one.last_lsn()) == (other.directory, other.epoch, other.lossless, other.last_lsn())
        && one.formation == other.formation
        && one.peer_marks == other.peer_marks
        && one.groups.keys().eq(other.groups.keys())
        && one.groups.values().zip(other.groups.values()).all(|(one, other)| checkpoint::same_log(one, other))
}

/// Judges a node whose reads were answered with bytes that have rotted or are of another place, or with an error, and that has
/// handled all that it was given. `unreported`: such a read of which it has reported nothing.
///
/// # Errors
/// It took that for right.
pub fn check_reads(node: NodeId, unreported: Option<Place>) -> Result<(), Violation> {
    match unreported {
        None => Ok(()),
        Some(place) => Err(violation(format!(
            "node {node} was given wrong bytes or an error for what it read at {place:?}, and reported nothing"
        ))),
    }
}

fn violation(what: String) -> Violation {
    Violation { promise: "P4", checker: "rot", what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;
    use crate::disk::Disk;
    use ringseed::base::{Epoch, GroupId, SegmentId};
    use ringseed::msg::disk::DiskError;
    use ringseed::wal::{RecoveredGroup, recover};

    const NODE: NodeId = NodeId(1);

    fn empty() -> Recovered {
        recover(&mut Disk::new(Dice::new(1, "disk")), NODE).unwrap()
    }

    #[test]
    fn rot_is_refused_or_changes_nothing() {
        let judge = |found| check_boot(NODE, &found, &Ok(empty()));
        let damaged = RecoverError::Damaged { segment: SegmentId(1), offset: 0, what: "bad".into(), groups: None };
        assert_eq!(judge(Err(damaged)), Ok(Taken::Refused));
        assert_eq!(judge(Err(RecoverError::Device(DiskError::Io("no".into())))), Ok(Taken::Unknown));
        assert_eq!(judge(Ok(empty())), Ok(Taken::Whole));
        let other = RecoverError::WrongNode { segment: SegmentId(1), found: NodeId(7), expected: NODE };
        assert_eq!(judge(Err(other)).unwrap_err().promise, "P4");
        assert!(judge(Ok(Recovered { epoch: Epoch(3), ..empty() })).is_err());
        let mut more = empty();
        more.groups.insert(GroupId(1), RecoveredGroup::default());
        assert!(judge(Ok(more)).is_err());
    }

    #[test]
    fn rot_that_is_read_is_reported() {
        check_reads(NODE, None).unwrap();
        check_reads(NODE, Some(Place::default())).unwrap_err();
    }
}
