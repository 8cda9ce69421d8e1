//! A member that lacks what no log holds any more is sent the groups' states.

use super::*;
use crate::base::GroupId;

impl Cluster {
    /// Little of the logs is kept for members that are away.
    fn that_keeps_little() -> Cluster {
        let mut cluster = Cluster { segment_size: 16 * 1024, ..Cluster::empty() };
        let limits = &mut cluster.limits;
        (limits.checkpoint_bytes, limits.retained_bytes, limits.snapshot_piece_bytes) = (20_000, 20_000, 1_000);
        (1..=3).for_each(|n| cluster.boot(n, 3));
        cluster.run(5_000);
        cluster
    }

    /// Member 3 is away for so long that the log that it lacks is gone.
    fn leaves_member_behind(&mut self) {
        self.write_all(1, 0, 200);
        self.kill(3);
        self.run(2_000);
        (1..8).for_each(|round| self.write_all(1, round, 200));
        let behind = self.to_replay(1);
        assert!(behind < 300_000, "a member that is away holds no checkpoint back for ever: {behind} bytes");
    }

    /// All replicas are the same, and have all.
    fn are_equal(&mut self) {
        self.nodes.values().for_each(Node::check);
        for group in (1..=4).map(GroupId) {
            let digests: Vec<Option<u64>> = self.nodes.values().map(|node| node.digest(group)).collect();
            assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "group {group}: {digests:?}");
        }
    }
}

#[test]
fn a_member_that_lacks_what_is_gone_is_sent_the_state_and_is_a_full_member_again() {
    let mut cluster = Cluster::that_keeps_little();
    cluster.leaves_member_behind();
    cluster.boot(3, 3);
    cluster.run(8_000);
    assert!(cluster.counter(3, "snapshots_installed") > 0);
    cluster.are_equal();
    // It acknowledges, it leads, and it has all that it was sent when it starts again.
    cluster.kill(1);
    cluster.run(3_000);
    cluster.write_all(2, 8, 200);
    cluster.kill(3);
    cluster.boot(3, 3);
    cluster.run(3_000);
    cluster.write_all(3, 9, 200);
    cluster.has(3, 9, 200);
}

/// Wherever its process ends, the member is what it was, or has the new state.
#[test]
fn a_member_that_ends_in_the_middle_goes_on_with_the_pieces_that_it_has() {
    let mut resumed = 0;
    for after in (0..60).step_by(4) {
        let mut cluster = Cluster::that_keeps_little();
        cluster.leaves_member_behind();
        cluster.boot(3, 3);
        while cluster.counter(3, "snapshots_arriving") == 0 {
            cluster.run(1);
        }
        cluster.run(after);
        cluster.kill(3);
        let found = crate::wal::recover(cluster.disks.get_mut(&NodeId(3)).expect("it ran"), NodeId(3)).expect("sound");
        resumed += found.groups.values().filter(|group| group.installing.is_some()).count();
        cluster.boot(3, 3);
        cluster.run(8_000);
        cluster.are_equal();
    }
    assert!(resumed > 0, "some end in the middle of a snapshot");
}

/// One message in three is lost on the way there and back.
#[test]
fn pieces_that_are_lost_are_sent_again() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let mut cluster = Cluster::that_keeps_little();
    cluster.leaves_member_behind();
    cluster.loses = Some(|message| {
        let of_snapshot = matches!(message, PeerMessage::Snapshot(..) | PeerMessage::SnapshotReply(..));
        of_snapshot && ((SEEN.fetch_add(1, Ordering::Relaxed) * 2_654_435_761) >> 16).is_multiple_of(3)
    });
    cluster.boot(3, 3);
    cluster.run(60_000);
    assert!(cluster.counter(3, "snapshots_installed") > 0);
    cluster.are_equal();
}
