//! What the client believes: where the nodes are, and which leads what. Never more than a hint: a node that is asked forwards.

use super::connection::Link;
use crate::base::{ClusterId, Duration, NodeId, Token};
use crate::msg::client::{RequestBody, RingReport};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;

/// The ring is not asked for again, because nodes are not where it says they are, sooner than this.
const RING_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Routing {
    /// By address. Never shrinks: an address that is of no use is only asked when nothing else is left.
    links: BTreeMap<String, Arc<Link>>,
    /// Which address is which node's, as the ring or the node itself said.
    nodes: BTreeMap<NodeId, Arc<Link>>,
    /// The addresses of the nodes, as the ring said last.
    advertised: BTreeMap<NodeId, String>,
    /// The cluster that all links are of.
    cluster: Arc<OnceLock<ClusterId>>,
    /// When the ring was last asked for because a node was not found.
    ring_asked: Option<Instant>,
    /// By partition; empty: the ring is not known yet.
    partitions: Vec<Believed>,
    /// Turns with every request that any node may answer.
    turn: usize,
}

#[derive(Debug, Clone, Default)]
struct Believed {
    leader: Option<NodeId>,
    replicas: Vec<NodeId>,
}

impl Routing {
    pub(super) fn new(addresses: &[String], cluster: Option<ClusterId>) -> Routing {
        let cluster = Arc::new(cluster.map_or_else(OnceLock::new, OnceLock::from));
        let link = |address: &String| (address.clone(), Arc::new(Link::new(address.clone(), Arc::clone(&cluster))));
        Routing {
            links: addresses.iter().map(link).collect(),
            nodes: BTreeMap::new(),
            advertised: BTreeMap::new(),
            cluster,
            ring_asked: None,
            partitions: Vec::new(),
            turn: 0,
        }
    }

    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// Those of `addresses` that the ring does not name, once the ring is known.
    pub(super) fn strangers(&self, addresses: &[String]) -> Vec<Arc<Link>> {
        let named = |address: &&String| self.knows_ring() && !self.advertised.values().any(|other| other == *address);
        addresses.iter().filter(named).filter_map(|address| self.link(address)).collect()
    }

    /// Whether to ask for the ring, now that a node was not found. Asked for it, if so.
    pub(super) fn ring_is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.ring_asked.is_none_or(|asked| now.duration_since(asked) >= RING_EVERY);
        if due {
            self.ring_asked = Some(now);
        }
        due
    }

    pub(super) fn knows_ring(&self) -> bool {
        !self.partitions.is_empty()
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.links.values()
    }

    pub(super) fn link(&self, address: &str) -> Option<Arc<Link>> {
        self.links.get(address).cloned()
    }

    /// Whether there is no node left to ask but those `tried` and `link`.
    pub(super) fn all_tried(&self, tried: &[Arc<Link>], link: &Arc<Link>) -> bool {
        let was_tried = |one: &Arc<Link>| tried.iter().chain([link]).any(|other| Arc::ptr_eq(other, one));
        self.nodes.values().chain(self.links.values()).all(was_tried)
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn node(&self, node: NodeId) -> Option<Arc<Link>> {
        self.nodes.get(&node).cloned()
    }

    /// The node behind `link` has named itself. An address that was given may lead to another node each time.
    pub(super) fn learn_node(&mut self, node: NodeId, link: &Arc<Link>) {
        self.nodes.retain(|other, known| *other == node || !Arc::ptr_eq(known, link));
        self.nodes.entry(node).or_insert_with(|| Arc::clone(link));
    }

    pub(super) fn learn_ring(&mut self, report: &RingReport) {
        let cluster = report.formation.cluster;
        if *self.cluster.get_or_init(|| cluster) != cluster {
            return;
        }
        for member in &report.formation.members {
            let before = self.advertised.insert(member.node, member.address.clone());
            if before.as_ref() == Some(&member.address) && self.nodes.contains_key(&member.node) {
                continue;
            }
            let shared = &self.cluster;
            let new = || Arc::new(Link::new(member.address.clone(), Arc::clone(shared)));
            let link = Arc::clone(self.links.entry(member.address.clone()).or_insert_with(new));
            link.bind(member.node);
            // The address by which the node was reached first is as good as the one that it says, until it says another.
            if before.is_some() || !self.nodes.contains_key(&member.node) {
                self.nodes.retain(|other, known| *other == member.node || !Arc::ptr_eq(known, &link));
                self.nodes.insert(member.node, link);
            }
        }
        // A count that is no power of two is none that our hash fits: believe nothing rather than something wrong.
        if report.partitions.len().is_power_of_two() {
            let believed = |partition: &crate::msg::client::PartitionReport| Believed {
                leader: partition.leader,
                replicas: partition.replicas.clone(),
            };
            self.partitions = report.partitions.iter().map(believed).collect();
        }
    }

    /// An answer said which node leads the key's partition now; `None`: none is known to.
    pub(super) fn learn_leader(&mut self, body: &RequestBody, leader: Option<NodeId>) {
        if let Some(at) = self.partition_of(body) {
            self.partitions[at].leader = leader;
        }
    }

    /// The best node for this request; among those not yet `tried` if there are such. Doubtful ones last.
    pub(super) fn choose(&mut self, body: &RequestBody, tried: &[Arc<Link>]) -> Arc<Link> {
        let favourite = self.favourite(body);
        if let Some(link) = favourite.as_ref().filter(|link| tried.is_empty() && !link.is_doubtful()) {
            return Arc::clone(link);
        }
        let untried = |link: &&Arc<Link>| !tried.iter().any(|other| Arc::ptr_eq(other, link));
        // Members by their own addresses; the addresses we began with only when nothing better is known.
        let members: Vec<&Arc<Link>> = match self.nodes.is_empty() {
            true => self.links.values().collect(),
            false => self.nodes.values().collect(),
        };
        self.turn += 1;
        let turned = members.iter().cycle().skip(self.turn % members.len()).take(members.len()).copied();
        let candidates: Vec<&Arc<Link>> = favourite.iter().chain(turned).chain(self.links.values()).collect();
        let good = candidates.iter().copied().filter(untried).find(|link| !link.is_doubtful());
        let best = good.or_else(|| candidates.iter().copied().find(untried)).unwrap_or(candidates[0]);
        Arc::clone(best)
    }

    fn favourite(&mut self, body: &RequestBody) -> Option<Arc<Link>> {
        let believed = &self.partitions[self.partition_of(body)?];
        let node = match body {
            RequestBody::Operation(single) if single.is_eventual() && !believed.replicas.is_empty() => {
                self.turn += 1;
                Some(believed.replicas[self.turn % believed.replicas.len()])
            }
            _ => believed.leader.or(believed.replicas.first().copied()),
        };
        self.node(node?)
    }

    fn partition_of(&self, body: &RequestBody) -> Option<usize> {
        let token = match body {
            RequestBody::Operation(single) => single.operation.key.token(),
            // The coordinator is there.
            RequestBody::Transact(transaction) => transaction.home()?,
            // Any node gathers them; this node has some of them itself.
            RequestBody::GetMany(keys) => keys.first()?.token(),
            RequestBody::Ring
            | RequestBody::Status
            | RequestBody::Scan(_)
            | RequestBody::Transactions
            | RequestBody::Damage(_) => return None,
        };
        self.knows_ring().then(|| self.partition_of_token(token))
    }

    /// Whether two keys, or a key and a transaction's home, are known to be in the same partition. True if the ring is not known.
    pub(super) fn share_partition(&self, one: Token, other: Token) -> bool {
        !self.knows_ring() || self.partition_of_token(one) == self.partition_of_token(other)
    }

    fn partition_of_token(&self, token: Token) -> usize {
        token.partition(self.partitions.len() as u32).0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ClusterId, DirectoryId, hash};
    use crate::msg::client::PartitionReport;
    use crate::msg::cluster::{ClusterOptions, Formation, Member};
    use crate::msg::operation::Operation;
    use crate::msg::transaction::Transaction;
    use bytes::Bytes;

    fn report(leader: Option<NodeId>) -> RingReport {
        let member = |node: u16| Member {
            node: NodeId(node),
            directory: DirectoryId(1),
            address: format!("n{node}:1"),
            zone: String::new(),
            weight: 1,
        };
        let partition = PartitionReport { replicas: vec![NodeId(2), NodeId(1)], leader };
        RingReport {
            formation: Formation {
                cluster: ClusterId(1),
                members: vec![member(1), member(2), member(3)],
                options: ClusterOptions::default(),
            },
            partitions: vec![partition; 4],
        }
    }

    fn get(key: &'static str) -> RequestBody {
        RequestBody::Operation(Operation::read(key).alone())
    }

    #[test]
    fn the_believed_leader_is_asked_first_and_then_everybody_else() {
        let mut routing = Routing::new(&["seed:1".into()], None);
        assert_eq!(routing.choose(&get("k"), &[]).address, "seed:1");
        routing.learn_ring(&report(Some(NodeId(3))));
        let mut tried = vec![routing.choose(&get("k"), &[])];
        assert_eq!(tried[0].address, "n3:1");
        for _ in 0..3 {
            tried.push(routing.choose(&get("k"), &tried));
        }
        let mut addresses: Vec<_> = tried.iter().map(|link| link.address.as_str()).collect();
        addresses.sort_unstable();
        assert_eq!(addresses, ["n1:1", "n2:1", "n3:1", "seed:1"]);
    }

    #[test]
    fn a_node_that_moved_is_where_the_ring_says_and_a_foreign_ring_says_nothing() {
        let mut routing = Routing::new(&["n1:1".into(), "door:1".into()], None);
        let door = routing.link("door:1").expect("given");
        routing.learn_node(NodeId(2), &door);
        routing.learn_ring(&report(None));
        let at = |routing: &Routing, node| routing.node(NodeId(node)).expect("a member").address.clone();
        assert_eq!((at(&routing, 1), at(&routing, 2), at(&routing, 3)), ("n1:1".into(), "door:1".into(), "n3:1".into()));
        let strangers = routing.strangers(&["n1:1".into(), "door:1".into()]);
        assert_eq!(strangers.iter().map(|link| link.address.as_str()).collect::<Vec<_>>(), ["door:1"]);
        let mut moved = report(None);
        moved.formation.members[1].address = "elsewhere:1".into();
        routing.learn_ring(&moved);
        assert_eq!(at(&routing, 2), "elsewhere:1");
        let mut foreign = report(None);
        foreign.formation.cluster = ClusterId(2);
        foreign.formation.members[2].address = "foreign:1".into();
        routing.learn_ring(&foreign);
        assert_eq!((at(&routing, 3), routing.cluster()), ("n3:1".into(), Some(ClusterId(1))));
        // The door leads to another node than before.
        routing.learn_node(NodeId(3), &door);
        assert_eq!(at(&routing, 2), "elsewhere:1");
    }

    #[test]
    fn a_hint_changes_the_belief_for_that_partition_alone() {
        let mut routing = Routing::new(&["seed:1".into()], None);
        routing.learn_ring(&report(None));
        assert_eq!(routing.choose(&get("k"), &[]).address, "n2:1", "the preferred leader");
        routing.learn_leader(&get("k"), Some(NodeId(1)));
        assert_eq!(routing.choose(&get("k"), &[]).address, "n1:1");
        let at = routing.partition_of(&get("k")).expect("known");
        let believes_one = |at: usize| routing.partitions[at].leader == Some(NodeId(1));
        assert_eq!((0..4).filter(|at| believes_one(*at)).collect::<Vec<_>>(), [at]);
    }

    #[test]
    fn a_transaction_goes_to_its_home() {
        let mut routing = Routing::new(&["seed:1".into()], None);
        routing.learn_ring(&report(None));
        let home = |items: &[&'static str], token: Option<&'static str>| {
            let items = items.iter().map(|key| Operation::put(*key, "v")).collect();
            routing.partition_of(&RequestBody::Transact(Transaction { items, token: token.map(Bytes::from) }))
        };
        assert_eq!(home(&["a", "b"], None), routing.partition_of(&get("a")));
        assert_eq!(home(&["a", "b"], Some("c")), routing.partition_of(&get("c")));
        assert_eq!(home(&[], None), None);
        let same =
            (0..100).filter(|n: &u32| routing.share_partition(hash::token(0, b"a"), hash::token(0, &n.to_be_bytes()))).count();
        assert!((5..60).contains(&same), "{same} of 100 over four partitions");
    }
}
