//! What is said over time, second by second: each state once when it begins and once when it ends.

use super::watch::Watch;
use super::*;
use crate::base::{ClusterId, DirectoryId, GroupId, Key, Place, SegmentId};
use crate::msg::client::Membership as Standing;
use crate::msg::peer::{DiskHealth, Refusal};
use crate::node::health::PeerHealth;

fn node(n: u16) -> NodeId {
    NodeId(n)
}

fn well() -> Health {
    let peer = |n| PeerHealth { node: node(n), is_up: true, since: Duration::ZERO };
    Health {
        standing: Standing::Member,
        stopping: false,
        cluster: Some(ClusterId(7)),
        members: vec![node(1), node(2), node(3)],
        partitions: 64,
        unheard: Vec::new(),
        disagreeing: Vec::new(),
        peers: vec![peer(2), peer(3)],
        groups: 64,
        groups_led: 22,
        groups_leaderless: 0,
        groups_amnesiac: 0,
        states_leaving: Vec::new(),
        states_arriving: 0,
        states_installed: 0,
        turned_away: Vec::new(),
        disk: DiskHealth::default(),
        disk_bytes_needed: 0,
        replay_held_back: 0,
        clock_behind: Duration::ZERO,
        clock_told_by: None,
    }
}

/// A node that is looked at each second.
struct Story {
    watch: Watch,
    second: u64,
    said: Vec<String>,
}

impl Story {
    fn new() -> Story {
        Story { watch: Watch::new("/data".into()), second: 0, said: Vec::new() }
    }

    /// For so many seconds the node does like this, after what `change` makes of a node that is well.
    fn lives(&mut self, seconds: u64, change: impl Fn(&mut Health, Duration)) {
        for passed in 0..seconds {
            self.second += 1;
            let mut health = well();
            change(&mut health, Duration::from_secs(passed));
            let trouble = |peer: NodeId| (peer == node(2)).then(|| "host2:1: Connection refused".to_owned());
            let lines = self.watch.look(Time::from_millis(self.second * 1_000), &health, trouble);
            self.said.extend(lines.into_iter().map(|line| format!("{:?}: {}", line.level, line.text)));
        }
    }

    /// What was said since the last call begins like this, and there is nothing else.
    #[track_caller]
    fn said(&mut self, expected: &[&str]) {
        let said = std::mem::take(&mut self.said);
        let as_expected = said.len() == expected.len() && said.iter().zip(expected).all(|(said, begin)| said.starts_with(begin));
        assert!(as_expected, "{said:#?}\nexpected: {expected:#?}");
    }
}

fn silent(peers: &[u16]) -> impl Fn(&mut Health, Duration) {
    move |health, passed| {
        for peer in health.peers.iter_mut().filter(|peer| peers.contains(&peer.node.0)) {
            (peer.is_up, peer.since) = (false, passed);
        }
    }
}

#[test]
fn a_node_that_is_well_says_nothing() {
    let mut story = Story::new();
    story.lives(3_600, |_, _| {});
    story.said(&[]);
}

#[test]
fn a_cluster_that_forms() {
    let mut story = Story::new();
    let unformed = |health: &mut Health| {
        (health.standing, health.cluster, health.peers, health.groups_led) = (Standing::Forming, None, Vec::new(), 0)
    };
    story.lives(2, |health, _| {
        unformed(health);
        health.unheard = vec![node(2), node(3)];
    });
    story.said(&[]);
    story.lives(600, |health, _| {
        unformed(health);
        health.unheard = vec![node(2), node(3)];
    });
    story.said(&["Info: waiting for nodes 2, 3: the cluster forms once all its 3 initial members have been started (node 2: host2:1: Connection refused)"]);
    story.lives(600, |health, _| {
        unformed(health);
        health.disagreeing = vec![(node(2), "partitions 8 (here 64)".into())];
    });
    story.said(&[
        "Warn: the cluster does not form: node 2 was started with other settings than this node, partitions 8 (here 64).",
    ]);
    story.lives(10, |health, _| unformed(health));
    story.said(&["Info: node 2 was started with the same settings"]);
    story.lives(10, |_, _| {});
    story.said(&["Info: the cluster has formed: nodes 1, 2, 3, 64 partitions"]);
    // One that had formed before this start says nothing of it.
    let mut story = Story::new();
    story.lives(10, |_, _| {});
    story.said(&[]);
}

#[test]
fn a_quorum_is_lost_and_regained() {
    let mut story = Story::new();
    story.lives(10, |_, _| {});
    story.lives(2, silent(&[2]));
    story.said(&[]);
    story.lives(2, |_, _| {});
    story.said(&[]);
    story.lives(600, |health, passed| {
        silent(&[2, 3])(health, passed);
        (health.groups_leaderless, health.groups_led) = (64, 0);
    });
    story.said(&[
        "Info: this node leads 0 of the 64 partitions with a replica here, 22 before: too few of their replicas answer",
        "Warn: nodes 2, 3 do not answer (node 2: host2:1: Connection refused)",
        "Error: 64 of the 64 partitions with a replica here have no leader, and serve nothing: a majority of their replicas must answer, and nodes 2, 3",
    ]);
    story.lives(600, |health, passed| silent(&[3])(health, passed + Duration::from_secs(600)));
    story.said(&[
        "Info: node 2 is back, after 600 s",
        "Info: every partition with a replica here has a leader again, after 600 s",
    ]);
    story.lives(10, |_, _| {});
    story.said(&["Info: node 3 is back, after 1200 s"]);
}

#[test]
fn checkpoints_that_are_held_back_are_told_once_and_so_is_their_end() {
    let mut story = Story::new();
    story.lives(10, |_, _| {});
    story.lives(60, |health, _| health.replay_held_back = 900_000_000);
    story.said(&["Info: a start of this node would replay 900000000 bytes of its log, and more as it goes on"]);
    story.lives(60, |_, _| {});
    story.said(&["Info: all members have what they lacked: checkpoints go on, after 60 s"]);
}

#[test]
fn a_disk_fills_and_one_is_slow() {
    let mut story = Story::new();
    story.lives(10, |_, _| {});
    let unfit = |health: &mut Health| (health.disk.unfit, health.groups_led) = (true, 0);
    story.lives(600, |health, _| {
        unfit(health);
        (health.disk.full, health.disk_bytes_needed) = (true, 1_000_000);
    });
    story.said(&[
        "Error: the disk of /data is full: the next segment of the log needs 1000000 bytes more",
        "Info: this node leads 0 of the 64 partitions with a replica here, 22 before: its disk is full",
    ]);
    story.lives(10, |health, _| unfit(health));
    story.said(&["Info: the disk of /data has room again, after 600 s"]);
    story.lives(100, |_, _| {});
    story.said(&[]);
    story.lives(100, |health, _| {
        unfit(health);
        health.disk.sync_ms = 480;
    });
    story.said(&[
        "Warn: the disk of /data is slow: a sync takes 480 ms",
        "Info: this node leads 0 of the 64 partitions with a replica here, 22 before: its disk is slow",
    ]);
    story.lives(10, |_, _| {});
    story.said(&["Info: the disk of /data is as fast as the other nodes' again, after 100 s"]);
}

#[test]
fn leaderships_that_go_for_a_cause_are_one_line() {
    let mut story = Story::new();
    story.lives(10, |_, _| {});
    let leads = |count: usize| move |health: &mut Health, _: Duration| health.groups_led = count;
    story.lives(10, leads(20));
    story.said(&[]);
    story.lives(10, |health, passed| {
        silent(&[2])(health, passed);
        health.groups_led = 32;
    });
    story.lives(1, leads(32));
    story.said(&["Warn: node 2 does not answer", "Info: node 2 is back, after 10 s"]);
    story.lives(10, |health, passed| health.groups_led = 32 - passed.as_secs() as usize);
    story.lives(10, leads(22));
    story.said(&["Info: this node leads 22 of the 64 partitions with a replica here, 32 before: nodes that were away lead their share again"]);
}

#[test]
fn a_node_that_is_refused_says_so_once_and_nothing_else() {
    let mut story = Story::new();
    story.lives(600, |health, passed| {
        silent(&[2, 3])(health, passed);
        (health.groups_leaderless, health.standing) = (64, Standing::Refused("node 1 says so".into()));
    });
    story.said(&["Error: this node is refused by the cluster, and takes no part with its data directory, /data: node 1 says so"]);
    let mut story = Story::new();
    story.lives(600, |health, _| health.turned_away = vec![(node(2), Refusal::OtherDirectory { bound: DirectoryId(2) })]);
    story.said(&["Warn: node 2 is turned away: its data directory is not the one that belongs to it"]);
    story.lives(10, |_, _| {});
    story.said(&["Info: node 2 is not turned away any more"]);
    // One that has its directory back is back, and that is enough.
    let turned_away = |health: &mut Health, _| {
        let why = Refusal::OldDirectory { seen: crate::base::Lsn(7), epoch: crate::base::Epoch(1), silent: false };
        health.turned_away = vec![(node(2), why)];
    };
    story.lives(10, |health, passed| {
        silent(&[2])(health, passed);
        turned_away(health, passed);
    });
    story.said(&["Warn: node 2 is turned away: its data directory is an old copy", "Warn: node 2 does not answer"]);
    story.lives(30, turned_away);
    story.lives(10, |_, _| {});
    story.said(&["Info: node 2 is back, after 10 s"]);
    // A stop is no trouble.
    story.lives(10, |health, passed| {
        silent(&[2, 3])(health, passed);
        (health.stopping, health.groups_led) = (true, 0);
    });
    story.said(&[]);
}

#[test]
fn a_clock_that_is_behind() {
    let mut story = Story::new();
    let behind = |seconds| {
        move |health: &mut Health, _| (health.clock_behind, health.clock_told_by) = (Duration::from_secs(seconds), Some(node(3)))
    };
    story.lives(100, behind(9));
    story.said(&[]);
    story.lives(100, behind(300));
    story.said(&["Warn: the clock of this machine is 300 s behind the cluster's, which goes by the one that is furthest ahead (node 3 told it)"]);
    story.lives(100, behind(6));
    story.said(&[]);
    story.lives(100, behind(1));
    story.said(&["Info: the clock of this machine agrees"]);
}

#[test]
fn rot_is_told_by_key_segment_and_byte_and_once_however_often_it_is_read() {
    let mut watch = Watch::new("/data".into());
    let place = Place { segment: SegmentId(3), offset: 4_711, length: 20 };
    let rot = |key: Option<&'static str>| Rot {
        group: GroupId(1),
        key: key.map(Key::from),
        place,
        why: "the checksum is wrong".into(),
    };
    let line = watch.rot(&rot(Some("a\n"))).expect("said at once");
    assert_eq!(line.level, Level::Warn);
    assert!(
        line.text
            .starts_with("the value of key \"a\\n\" is corrupt on this disk: 20 bytes at byte 4711 of segment 3, in /data/log"),
        "{}",
        line.text
    );
    assert!((0..10_000).all(|_| watch.rot(&rot(None)).is_none()));
    let other = Rot { place: Place { offset: 9, ..place }, ..rot(None) };
    assert!(watch.rot(&other).expect("another place").text.starts_with("an entry of the log, or a value in it, is corrupt"));
    let loss = Loss { group: GroupId(1), key: Key::from("a"), version: crate::base::Version(7), place };
    let line = watch.lost(&loss);
    assert_eq!(line.level, Level::Error);
    assert!(line.text.starts_with("no replica can read the value of key \"a\" any more (partition "), "{}", line.text);
}

#[test]
fn a_recovery_says_how_far_it_is_every_few_seconds_and_a_quick_one_nothing() {
    let mut progress = Progress::new(node(1));
    progress.of_bytes(1 << 30);
    progress.read(1 << 28);
    assert!(!progress.has_said);
    let mut lines = Vec::new();
    for second in 0..20 {
        let now = progress.began + Duration::from_secs(second);
        lines.extend(progress.line(now));
    }
    assert_eq!(lines.len(), 3);
    assert!(lines[0].text.starts_with("the log is being recovered: 25 % (256 of 1024 MiB) after 5 s"), "{lines:?}");
}

#[test]
fn states_that_are_sent_to_a_member_that_was_away_are_told_once() {
    let mut sender = Story::new();
    sender.lives(3, |_, _| {});
    sender.lives(4, |health, passed| health.states_leaving = vec![(node(3), 9 - passed.as_secs() as usize)]);
    sender.lives(9, |_, _| {});
    assert_eq!(sender.said.len(), 2, "{:?}", sender.said);
    assert!(sender.said[0].contains("node 3 lacks") && sender.said[0].contains("leads 9 so far"), "{:?}", sender.said);
    assert!(sender.said[1].contains("node 3 was sent these states, after 4 s"), "{:?}", sender.said);
    // Between two of them nothing comes for a moment.
    let mut receiver = Story::new();
    receiver.lives(3, |health, _| health.states_installed = 7);
    let come = |seconds: u64| 7 + seconds / 2;
    receiver.lives(8, |health, passed| {
        let seconds = passed.as_secs();
        (health.states_arriving, health.states_installed) = ((seconds % 2) as usize, come(seconds));
    });
    receiver.lives(9, |health, _| health.states_installed = come(7));
    assert_eq!(receiver.said.len(), 2, "{:?}", receiver.said);
    assert!(receiver.said[1].contains("the states of 3 partitions have come"), "{:?}", receiver.said);
}
