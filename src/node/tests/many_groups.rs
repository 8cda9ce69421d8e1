//! Thousands of groups, on nodes that need their time for every message and every sync.

use super::*;

const PARTITIONS: u32 = 1_024;
/// What a message costs its sender, and its receiver.
const COST: Duration = Duration::from_micros(30);

/// Nodes that handle one thing after the other, each when they come to it.
struct Busy {
    cluster: Cluster,
    /// What a sync takes.
    sync: Duration,
    /// Until when each node is at work on what it has taken.
    until: BTreeMap<NodeId, Time>,
    /// What waits for each node, and from when on; in order.
    inboxes: BTreeMap<NodeId, VecDeque<(Time, Arrival)>>,
    disks: BTreeMap<NodeId, VecDeque<(Time, Arrival)>>,
    /// The most groups that campaigned on a node at once.
    campaigns_max: usize,
}

impl Busy {
    fn new(nodes: u16, partitions: u32, sync: Duration) -> Busy {
        let mut cluster = Cluster::empty();
        cluster.partitions = partitions;
        (1..=nodes).for_each(|n| cluster.boot(n, nodes));
        let (until, inboxes, disks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Busy { sync, cluster, until, inboxes, disks, campaigns_max: 0 }
    }

    /// Runs until every group has a leader, for at most so many milliseconds. How many it took.
    fn until_all_are_led(&mut self, millis: u64) -> Option<u64> {
        (1..=millis).find(|passed| {
            self.tick();
            let led = |node: &Node| node.status(self.cluster.now).groups_led;
            passed.is_multiple_of(25) && self.cluster.nodes.values().map(led).sum::<u32>() == self.cluster.partitions
        })
    }

    fn tick(&mut self) {
        self.cluster.now = self.cluster.now + Duration::from_millis(1);
        let now = self.cluster.now;
        let ids: Vec<NodeId> = self.cluster.nodes.keys().copied().collect();
        for id in ids {
            let mut at = self.until.get(&id).copied().unwrap_or_default().max(now - Duration::from_millis(1));
            let mut timer = true;
            while at < now {
                let ready = |queue: &mut VecDeque<(Time, Arrival)>| queue.pop_front_if(|(from, _)| *from <= at);
                let disk = self.disks.get_mut(&id).and_then(ready);
                let Some((_, arrival)) = disk.or_else(|| self.inboxes.get_mut(&id).and_then(ready)) else {
                    if std::mem::take(&mut timer) {
                        at = self.step(id, at, Event::Timer, 0);
                        continue;
                    }
                    break;
                };
                at = match arrival {
                    Arrival::Net(from, envelope) => {
                        let messages = envelope.messages.len();
                        self.step(id, at, Event::Net(from, envelope), messages)
                    }
                    Arrival::Disk(io, result) => self.step(id, at, Event::Disk(io, result), 0),
                };
            }
            self.until.insert(id, at);
        }
        let campaigning = |node: &Node| node.groups.values().filter(|group| group.replica.campaigns()).count();
        let most = self.cluster.nodes.values().map(campaigning).max();
        self.campaigns_max = self.campaigns_max.max(most.unwrap_or_default());
    }

    /// When the node is done with it.
    fn step(&mut self, id: NodeId, at: Time, event: Event, received: usize) -> Time {
        let Some(node) = self.cluster.nodes.get_mut(&id) else { return at };
        let mut effects = Vec::new();
        node.step(at, event);
        node.flush(at, &mut effects);
        let sent: usize =
            effects.iter().map(|e| if let Effect::Send(_, envelope) = e { envelope.messages.len() } else { 0 }).sum();
        let done = at + COST * (received + sent) as u32;
        for effect in effects {
            match effect {
                Effect::Send(to, envelope) => {
                    self.inboxes.entry(to).or_default().push_back((done, Arrival::Net(id, envelope)));
                }
                Effect::Disk(io, operation) => {
                    let waits = if matches!(operation, DiskOp::Sync { .. }) { self.sync } else { Duration::ZERO };
                    let result = self.cluster.disks.get_mut(&id).expect("a node has a disk").execute(operation);
                    let queue = self.disks.entry(id).or_default();
                    let before = queue.back().map_or(done, |(from, _)| done.max(*from));
                    queue.push_back((before + waits, Arrival::Disk(io, result)));
                }
                Effect::Halt(why) => panic!("{why:?}"),
                _ => {}
            }
        }
        done
    }
}

/// All groups want to campaign at once, when the cluster forms and when a node dies. They must not get in each other's way.
#[test]
fn thousands_of_groups_soon_have_leaders() {
    let mut busy = Busy::new(3, PARTITIONS, Duration::from_millis(4));
    busy.until_all_are_led(3_000).expect("all groups have leaders 3 s after the start");
    busy.cluster.kill(3);
    busy.until_all_are_led(2_000).expect("all groups have leaders 2 s after a node's death");
    assert_eq!(busy.campaigns_max, Limits::DEFAULT.campaigns, "at once, on a node");
}

/// A candidate does not give up while its own vote, or its voters', is being synced.
#[test]
fn slow_syncs_everywhere_do_not_prevent_an_election() {
    for sync_ms in [80, 150, 400, 2_000] {
        let mut busy = Busy::new(3, 4, Duration::from_millis(sync_ms));
        // Ten syncs are the formation's.
        busy.until_all_are_led(1_000 + 25 * sync_ms).unwrap_or_else(|| panic!("no leaders with syncs of {sync_ms} ms"));
        busy.cluster.kill(3);
        busy.until_all_are_led(2_000 + 12 * sync_ms).unwrap_or_else(|| panic!("none again with syncs of {sync_ms} ms"));
    }
}
