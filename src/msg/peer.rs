//! What nodes say to each other.
//!
//! The transport may lose, repeat and reorder envelopes. Every envelope names its cluster, its sender's node id, data directory
//! and epoch. It is dropped and counted if it is of another cluster, of a directory that is not bound to the node id, or of an
//! earlier epoch than one already seen.
//!
//! What must not wait travels in a [`Lane`] of its own: with a queue, a connection and a place in the receiver's inbox that bulk
//! does not share. Lanes overtake each other, and that is safe because the transport may reorder anyhow; within a lane, messages
//! mostly keep their order.

use super::client::{ResponseBody, Scan};
use super::cluster::{ClusterOptions, Formation};
use super::codec::Slices;
use super::log::{Entry, Fact};
use super::operation::{Consistency, Single};
use super::repair::{Fetch, Fetched};
use super::snapshot::{SnapshotPiece, SnapshotReply};
use super::transaction::{Age, Measure, Preparation, Seen, Transaction, TransactionId, Vote};
use crate::base::limits::{ENVELOPE_MESSAGES_MAX, LEADERSHIPS_TOLD_MAX, NODES_MAX};
use crate::base::{ClusterId, DirectoryId, Epoch, GroupId, Index, Key, Lsn, NodeId, Term, Time};
use minicbor::{Decode, Encode};

/// Which way a message takes between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Small, rare, and of use only when it is on time: which nodes are alive, which may lead.
    Control,
    /// Whatever carries entries, requests or answers, or speaks of them. An empty append is bulk too: behind the entries that
    /// were sent before it, it asks what became of them. Only a leader's first append is not: a voter that hears of its new
    /// leader too late campaigns against it.
    Bulk,
}

impl Lane {
    pub const ALL: [Lane; 2] = [Lane::Control, Lane::Bulk];
}

/// All that one flush has to say to one peer in one lane.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Envelope {
    /// `None` until the cluster has formed.
    #[n(0)]
    pub cluster: Option<ClusterId>,
    #[n(1)]
    pub from: NodeId,
    #[n(2)]
    pub directory: DirectoryId,
    #[n(3)]
    pub epoch: Epoch,
    #[n(4)]
    #[cbor(decode_with = "bounded_messages")]
    pub messages: Vec<PeerMessage>,
}

impl Envelope {
    /// The lane that it takes: bulk, if any of its messages is.
    pub fn lane(&self) -> Lane {
        self.messages.iter().map(PeerMessage::lane).max().unwrap_or(Lane::Control)
    }
}

/// Decodes no more messages than an envelope may hold: a few bytes of a frame become a hundred in memory.
fn bounded_messages<'b, C: Slices>(
    d: &mut minicbor::Decoder<'b>,
    context: &mut C,
) -> Result<Vec<PeerMessage>, minicbor::decode::Error> {
    super::codec::bounded_list(d, context, ENVELOPE_MESSAGES_MAX)
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum PeerMessage {
    #[n(0)]
    Greeting(#[n(0)] Greeting),
    /// The cluster has formed, like this.
    #[n(1)]
    Formed(#[n(0)] Formation),
    /// The receiver, in this epoch, is not let in.
    #[n(2)]
    Refused(#[n(0)] Epoch, #[n(1)] Refusal),
    #[n(3)]
    Heartbeat(#[n(0)] Heartbeat),
    #[n(4)]
    HeartbeatReply(#[n(0)] HeartbeatReply),
    #[n(5)]
    Replica(#[n(0)] GroupId, #[n(1)] ReplicaMessage),
    #[n(6)]
    Forward(#[n(0)] Forward),
    #[n(7)]
    ForwardReply(#[n(0)] ForwardReply),
    /// The last message of an epoch that ends cleanly.
    #[n(8)]
    Farewell(#[n(0)] Farewell),
    #[n(9)]
    Relayed(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::boxed")]
        Box<Relayed>,
    ),
    /// Where nodes are now. Between the servers of the nodes: the nodes themselves know each other by id.
    #[n(10)]
    Addresses(
        #[n(0)]
        #[cbor(decode_with = "one_each")]
        Vec<NodeAddress>,
    ),
    /// The sender leads these groups, of which the receiver has no replica.
    #[n(11)]
    Leading(
        #[n(0)]
        #[cbor(decode_with = "bounded_leaderships")]
        Vec<Leadership>,
    ),
    /// From the group's leader, to a member that lacks what no log holds any more.
    #[n(12)]
    Snapshot(#[n(0)] GroupId, #[n(1)] SnapshotPiece),
    #[n(13)]
    SnapshotReply(#[n(0)] GroupId, #[n(1)] SnapshotReply),
    /// To a member, from one that cannot read a value any more.
    #[n(14)]
    Fetch(#[n(0)] GroupId, #[n(1)] Fetch),
    #[n(15)]
    Fetched(#[n(0)] GroupId, #[n(1)] Fetched),
}

impl PeerMessage {
    /// The lane that it takes.
    pub fn lane(&self) -> Lane {
        match self {
            PeerMessage::Greeting(_)
            | PeerMessage::Formed(_)
            | PeerMessage::Refused(..)
            | PeerMessage::Heartbeat(_)
            | PeerMessage::HeartbeatReply(_)
            | PeerMessage::Addresses(_)
            | PeerMessage::Leading(_) => Lane::Control,
            PeerMessage::Replica(_, message) => match message {
                ReplicaMessage::PreVote(_)
                | ReplicaMessage::PreVoteReply(_)
                | ReplicaMessage::Vote(_)
                | ReplicaMessage::VoteReply(_)
                | ReplicaMessage::TimeoutNow { .. }
                | ReplicaMessage::Released { .. }
                | ReplicaMessage::ReleasedReply { .. } => Lane::Control,
                ReplicaMessage::Append(append) if append.opens_term() => Lane::Control,
                ReplicaMessage::Append(_) | ReplicaMessage::AppendReply(_) => Lane::Bulk,
            },
            // A farewell comes behind the answers that it speaks of.
            PeerMessage::Forward(_)
            | PeerMessage::ForwardReply(_)
            | PeerMessage::Farewell(_)
            | PeerMessage::Relayed(_)
            | PeerMessage::Snapshot(..)
            | PeerMessage::SnapshotReply(..)
            | PeerMessage::Fetch(..)
            | PeerMessage::Fetched(..) => Lane::Bulk,
        }
    }

    /// Whether losing it costs nothing but a little time: dropped first when a queue is full.
    pub fn is_expendable(&self) -> bool {
        matches!(
            self,
            PeerMessage::Greeting(_) | PeerMessage::Heartbeat(_) | PeerMessage::HeartbeatReply(_) | PeerMessage::Leading(_)
        )
    }
}

/// Where a node is, as it said itself in that epoch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct NodeAddress {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub epoch: Epoch,
    #[n(2)]
    pub address: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Leadership {
    #[n(0)]
    pub group: GroupId,
    #[n(1)]
    pub term: Term,
}

/// Decodes no more leaderships than a node tells at once.
fn bounded_leaderships<'b, C: Slices>(
    d: &mut minicbor::Decoder<'b>,
    context: &mut C,
) -> Result<Vec<Leadership>, minicbor::decode::Error> {
    super::codec::bounded_list(d, context, LEADERSHIPS_TOLD_MAX)
}

/// Sent by a node that is in no cluster yet, to every other initial member, until it is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Greeting {
    #[n(0)]
    pub address: String,
    #[n(1)]
    pub zone: String,
    #[n(2)]
    pub weight: u16,
    /// The initial members as configured here, in ascending order; all must agree.
    #[n(3)]
    #[cbor(decode_with = "crate::msg::codec::list")]
    pub initial: Vec<NodeId>,
    /// The cluster's options as configured here; all must agree.
    #[n(4)]
    pub options: ClusterOptions,
}

/// Why a node is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// The node id is bound to another data directory: the disk was emptied or exchanged, or two nodes have one id.
    #[n(0)]
    OtherDirectory {
        #[n(0)]
        bound: DirectoryId,
    },
    /// The data directory is an old copy: less of its log is durable than this peer has seen.
    #[n(1)]
    OldDirectory {
        #[n(0)]
        seen: Lsn,
        /// The epoch that is let in, of the log that was seen.
        #[n(1)]
        #[cbor(default)]
        epoch: Epoch,
        /// That epoch has not been heard for long: most likely it is over.
        #[n(2)]
        #[cbor(default)]
        silent: bool,
    },
    /// The node is of another cluster.
    #[n(2)]
    OtherCluster {
        #[n(0)]
        ours: ClusterId,
    },
    /// The node id is no member.
    #[n(3)]
    NotAMember,
    /// The node was started with other cluster options or other initial members than this peer.
    #[n(4)]
    OtherOptions,
}

/// "I am alive in this epoch." Sent to every other member at the heartbeat interval.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Heartbeat {
    /// The sender's time of sending; comes back in the reply, means nothing to the receiver.
    #[n(0)]
    pub sent: u64,
    /// The highest durable position of the sender's log. It never decreases, or the disk is an old copy.
    #[n(1)]
    pub durable: Lsn,
    /// The members that the sender's own link does not reach. Empty when all is well.
    #[n(2)]
    #[cbor(default, decode_with = "one_each")]
    pub detours: Vec<Detour>,
    /// In which epochs the sender knows the members that the *receiver's* own link does not reach, as it last said: what it would
    /// hear by itself.
    #[n(7)]
    #[cbor(default, decode_with = "one_each")]
    pub epochs: Vec<Known>,
    /// Where the log ended when this epoch of the sender began; zero if the sender does not say. What this epoch has logged since
    /// hides nothing here.
    #[n(5)]
    #[cbor(default)]
    pub began: Lsn,
    /// The epoch before, in the same log; zero if there was none, or the sender does not say.
    #[n(6)]
    #[cbor(default)]
    pub previous: Epoch,
    #[n(3)]
    #[cbor(default)]
    pub disk: DiskHealth,
    /// What the sender's shared clock shows ([`crate::base::SharedClock`]).
    #[n(4)]
    #[cbor(default)]
    pub clock_ms: u64,
}

/// How a node's disk does. A hint which node should lead; never an input to safety.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct DiskHealth {
    /// There is no room for entries but a reserve: appends of them are refused.
    #[n(0)]
    pub full: bool,
    /// The sender finds that others should lead: its disk is full, or far slower than those of its peers, or was so a short time
    /// ago.
    #[n(1)]
    pub unfit: bool,
    /// How long a sync of the log takes, in milliseconds.
    #[n(2)]
    pub sync_ms: u32,
}

/// A member that a node does not reach by its own link: what it says to that member is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Detour {
    #[n(0)]
    pub node: NodeId,
    /// Over how many links other nodes would take a message there; 0: none would, as far as the sender knows.
    #[n(1)]
    pub links: u8,
}

/// A member whose heartbeats the sender hears, in this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Known {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub epoch: Epoch,
}

/// Decodes no more than a cluster has nodes.
fn one_each<'b, C: Slices, T: Decode<'b, C>>(
    d: &mut minicbor::Decoder<'b>,
    context: &mut C,
) -> Result<Vec<T>, minicbor::decode::Error> {
    super::codec::bounded_list(d, context, NODES_MAX)
}

impl Heartbeat {
    pub fn sent(&self) -> Time {
        Time(self.sent)
    }
}

/// "I support you, in this epoch of yours, for D from when I got your heartbeat."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct HeartbeatReply {
    /// [`Heartbeat::sent`] of what is answered.
    #[n(0)]
    pub sent: u64,
    #[n(1)]
    pub promise: Promise,
}

/// Names one unbroken span of support. A lapsed promise never revives: the supporter raises the number whenever
/// its support lapses, and an acceptance made under one promise is void under any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Promise {
    /// The epoch of the node that is supported.
    #[n(0)]
    pub leader: Epoch,
    /// The epoch of the node that supports.
    #[n(1)]
    pub supporter: Epoch,
    /// How often support has lapsed between these two epochs.
    #[n(2)]
    pub number: u64,
}

/// Consensus within one group (Raft; Ongaro's dissertation, sections 3, 6.4, 9.6 and 10.2).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum ReplicaMessage {
    /// "Would you vote for me in this term?" Changes no term and no vote at the receiver.
    #[n(0)]
    PreVote(#[n(0)] VoteRequest),
    #[n(1)]
    PreVoteReply(#[n(0)] VoteReply),
    #[n(2)]
    Vote(#[n(0)] VoteRequest),
    #[n(3)]
    VoteReply(#[n(0)] VoteReply),
    #[n(4)]
    Append(#[n(0)] Append),
    #[n(5)]
    AppendReply(#[n(0)] AppendReply),
    /// "Campaign now: I have given up my lease for the rest of this term." (leadership transfer)
    #[n(6)]
    TimeoutNow {
        #[n(0)]
        term: Term,
    },
    /// "I do not lead in this term any more: what you accepted of me in it is void."
    #[n(7)]
    Released {
        #[n(0)]
        term: Term,
    },
    #[n(8)]
    ReleasedReply {
        #[n(0)]
        term: Term,
    },
}

impl ReplicaMessage {
    /// The term it speaks of.
    pub fn term(&self) -> Term {
        match self {
            ReplicaMessage::PreVote(request) | ReplicaMessage::Vote(request) => request.term,
            ReplicaMessage::PreVoteReply(reply) | ReplicaMessage::VoteReply(reply) => reply.term,
            ReplicaMessage::Append(append) => append.term,
            ReplicaMessage::AppendReply(reply) => reply.term,
            ReplicaMessage::TimeoutNow { term } | ReplicaMessage::Released { term } | ReplicaMessage::ReleasedReply { term } => {
                *term
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct VoteRequest {
    /// The term that is campaigned for. A pre-vote's receiver does not adopt it.
    #[n(0)]
    pub term: Term,
    #[n(1)]
    pub last_index: Index,
    #[n(2)]
    pub last_term: Term,
    /// The leader and term that the campaign was asked for by: overrides an acceptance of exactly these.
    #[n(3)]
    pub released: Option<Released>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Released {
    #[n(0)]
    pub leader: NodeId,
    #[n(1)]
    pub term: Term,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct VoteReply {
    /// The request's term when granted; else the receiver's own.
    #[n(0)]
    pub term: Term,
    #[n(1)]
    pub granted: bool,
    /// The voter may have lost acknowledged entries (relaxed syncing and an unclean start). Such a vote only counts when every
    /// voter votes.
    #[n(2)]
    pub lossy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Append {
    #[n(0)]
    pub term: Term,
    /// The entry before the first of `entries`.
    #[n(1)]
    pub previous_index: Index,
    #[n(2)]
    pub previous_term: Term,
    #[n(3)]
    #[cbor(decode_with = "crate::msg::codec::list")]
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    #[n(4)]
    pub commit: Index,
    /// Grows with every quorum round of the leader in its term; comes back in the reply, so that a read can wait for a round
    /// begun after it.
    #[n(5)]
    pub round: u64,
    /// The epoch of the follower that the leader knows, and to which all belongs that it counts as matched. Zero: it knows none
    /// yet.
    #[n(6)]
    #[cbor(default)]
    pub follower: Epoch,
    /// Up to here every member's copy is known to be durable: no replica needs to keep the entries for another.
    #[n(7)]
    #[cbor(default)]
    pub everywhere: Index,
    /// "You have all again that you may have forgotten, in the epoch that `follower` names": the end of an amnesia.
    #[n(8)]
    #[cbor(default)]
    pub whole: bool,
}

impl Append {
    /// Whether it carries nothing but the empty entry with which its leader's term begins.
    pub fn opens_term(&self) -> bool {
        matches!(&self.entries[..], [Entry { term, fact: Fact::Noop, .. }] if *term == self.term)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct AppendReply {
    #[n(0)]
    pub term: Term,
    #[n(1)]
    pub outcome: AppendOutcome,
    /// The append's.
    #[n(2)]
    pub round: u64,
    /// The promise under which the follower accepts the leader in `term`; `None` when it does not support it now.
    #[n(3)]
    pub acceptance: Option<Promise>,
    /// The commit index the follower knows.
    #[n(4)]
    pub commit: Index,
    /// What it acknowledges was synced, and all of the follower's log up to this position: no loss of power takes it away, and
    /// a follower that is ever back without it runs on an old copy of its directory. `None`: it may not be synced.
    #[n(5)]
    pub synced: Option<Lsn>,
    /// The follower's log was damaged: it may have forgotten what it acknowledged, and votes that it gave. Until the leader says
    /// that it is whole ([`Append::whole`]), nothing that it says counts towards a quorum.
    #[n(6)]
    #[cbor(default)]
    pub amnesiac: bool,
}

#[cfg(test)]
impl AppendReply {
    /// Of a follower that accepts nobody, and knows of no commit.
    pub fn of_test(term: Term, outcome: AppendOutcome) -> AppendReply {
        let (acceptance, commit, synced) = (None, Index::ZERO, Some(Lsn(1)));
        AppendReply { term, outcome, round: 0, acceptance, commit, synced, amnesiac: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum AppendOutcome {
    /// The follower's log equals the leader's up to here, and is durable.
    #[n(0)]
    Matched(#[n(0)] Index),
    /// It has no such entry before `entries`. Retry from `index`: the first of the follower's entries of `term` (fast back-off),
    /// or just behind its last entry, with `term` zero.
    #[n(1)]
    Conflict {
        #[n(0)]
        index: Index,
        #[n(1)]
        term: Term,
        /// `previous_index` of what is answered.
        #[n(2)]
        previous: Index,
    },
    /// The term is stale; the reply's `term` says the newer one.
    #[n(2)]
    StaleTerm,
    /// The follower has no room for the entries that it lacks. Its log equals the leader's up to `matched`, which is durable
    /// there.
    #[n(3)]
    Full {
        #[n(0)]
        #[cbor(default)]
        matched: Index,
    },
}

/// A request that a gateway passes to the leader of its partition.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Forward {
    /// The gateway's number for it, unique in its epoch, ascending. Repeats are refused.
    #[n(0)]
    pub sequence: u64,
    #[n(1)]
    pub group: GroupId,
    /// The epoch and term of the leader that it is meant for. Any other refuses it. `None`: any replica, an eventual read.
    #[n(2)]
    pub leader: Option<(Epoch, Term)>,
    /// What is left of the caller's deadline.
    #[n(3)]
    pub remaining_ms: u32,
    #[n(4)]
    pub task: Task,
}

/// What a replica is asked to do for a client.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum Task {
    #[n(0)]
    Operation(#[n(0)] Single),
    /// This group's part of a page.
    #[n(1)]
    Scan(#[n(0)] Scan),
    /// For the coordinator of the home group.
    #[n(2)]
    Transact {
        #[n(0)]
        age: Age,
        #[n(1)]
        transaction: Transaction,
    },
    /// From the coordinator to a participant. May be repeated.
    #[n(3)]
    Prepare(#[n(0)] Preparation),
    /// From the coordinator to a participant: the decision. May be repeated.
    #[n(4)]
    Resolve {
        #[n(0)]
        id: TransactionId,
        #[n(1)]
        commit: bool,
    },
    /// From a participant in doubt to the coordinator: what was decided? May be repeated.
    #[n(5)]
    Inquire(#[n(0)] TransactionId),
    /// All items of a [`super::client::RequestBody::GetMany`] that concerns one group, at one instant.
    #[n(6)]
    ReadMany(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<Key>,
    ),
    // 7 was a validation that read nothing.
    /// Versions and lengths of these items at one instant, once no transaction is about to write one: what they would cost to
    /// read.
    #[n(8)]
    Measure(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<Key>,
    ),
    /// This group's part of a page, but for the values: see [`Listing`].
    #[n(10)]
    List(#[n(0)] Scan),
    /// These items of a page, if they are as they were listed.
    #[n(11)]
    ReadListed(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<Seen>,
    ),
    /// These items, if they are as they were measured, and no transaction is about to write one.
    #[n(9)]
    ReadSeen(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<Seen>,
    ),
}

impl Task {
    /// Whether any replica may answer it, from whatever it has applied.
    pub fn is_eventual(&self) -> bool {
        match self {
            Task::Operation(single) => single.is_eventual(),
            Task::Scan(scan) => scan.consistency == Consistency::Eventual,
            _ => false,
        }
    }

    /// Whether it may be sent again although an earlier copy may have arrived.
    pub fn is_repeatable(&self) -> bool {
        match self {
            Task::Operation(single) => !single.is_write(),
            Task::Transact { .. } => false,
            Task::Scan(_)
            | Task::Prepare(_)
            | Task::Resolve { .. }
            | Task::Inquire(_)
            | Task::ReadMany(_)
            | Task::Measure(_)
            | Task::List(_)
            | Task::ReadListed(_)
            | Task::ReadSeen(_) => true,
        }
    }

    /// Whether it puts a client's data into the log.
    pub fn writes(&self) -> bool {
        match self {
            Task::Operation(single) => single.is_write(),
            Task::Transact { .. } | Task::Prepare(_) => true,
            _ => false,
        }
    }

    /// Bytes of keys and values.
    pub fn size(&self) -> usize {
        match self {
            Task::Operation(single) => single.operation.size(),
            Task::Scan(scan) | Task::List(scan) => scan.prefix.size() + scan.from.size(),
            Task::Transact { transaction, .. } => transaction.size(),
            Task::Prepare(preparation) => preparation.size(),
            Task::Resolve { .. } | Task::Inquire(_) => 0,
            Task::ReadMany(keys) | Task::Measure(keys) => keys.iter().map(Key::size).sum(),
            Task::ReadSeen(seen) | Task::ReadListed(seen) => seen.iter().map(|seen| seen.key.size()).sum(),
        }
    }
}

/// A message that other nodes pass on, since its origin and its destination do not reach each other. Handled as if it came from
/// the origin itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Relayed {
    #[n(0)]
    pub origin: NodeId,
    /// The origin's, as in its own envelopes.
    #[n(1)]
    pub directory: DirectoryId,
    #[n(2)]
    pub epoch: Epoch,
    #[n(3)]
    pub destination: NodeId,
    /// How many links it may still take, the link to the receiver not counted.
    #[n(4)]
    pub links: u8,
    #[n(5)]
    pub carried: Carried,
}

/// What is passed on. Heartbeats and consensus never are: support and leadership rest on links of their own.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum Carried {
    #[n(0)]
    Forward(#[n(0)] Forward),
    #[n(1)]
    ForwardReply(#[n(0)] ForwardReply),
    #[n(2)]
    Farewell(#[n(0)] Farewell),
}

impl From<Carried> for PeerMessage {
    fn from(carried: Carried) -> PeerMessage {
        match carried {
            Carried::Forward(forward) => PeerMessage::Forward(forward),
            Carried::ForwardReply(reply) => PeerMessage::ForwardReply(reply),
            Carried::Farewell(farewell) => PeerMessage::Farewell(farewell),
        }
    }
}

impl TryFrom<PeerMessage> for Carried {
    type Error = PeerMessage;

    /// Gives back what is never passed on.
    fn try_from(message: PeerMessage) -> Result<Carried, PeerMessage> {
        match message {
            PeerMessage::Forward(forward) => Ok(Carried::Forward(forward)),
            PeerMessage::ForwardReply(reply) => Ok(Carried::ForwardReply(reply)),
            PeerMessage::Farewell(farewell) => Ok(Carried::Farewell(farewell)),
            other => Err(other),
        }
    }
}

/// How far the sender has taken the receiver's forwards. What is beyond it has not begun, and never will: it takes nothing any
/// more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Farewell {
    /// The epoch of the gateway that is told.
    #[n(0)]
    pub epoch: Epoch,
    /// The highest sequence taken; 0: none.
    #[n(1)]
    pub sequence: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct ForwardReply {
    /// The forward's.
    #[n(0)]
    pub sequence: u64,
    #[n(1)]
    pub outcome: Outcome,
    /// The epoch of the gateway that is answered: its next epoch counts sequences from the start again.
    #[n(2)]
    pub epoch: Epoch,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub enum Outcome {
    /// What the client is told.
    #[n(0)]
    Answer(#[n(0)] ResponseBody),
    /// To [`Task::Prepare`].
    #[n(2)]
    Voted(#[n(0)] Vote),
    /// To [`Task::Resolve`]: the decision is durable here.
    #[n(3)]
    Resolved,
    /// To [`Task::Inquire`]: whether it was committed; `None` while that is open.
    #[n(4)]
    Decided(#[n(0)] Option<bool>),
    /// False, to [`Task::ReadSeen`] and [`Task::ReadListed`]: an item has changed, or is about to. To [`Task::ReadMany`] and
    /// [`Task::Measure`]: transactions were about to write one or another of the items all the time.
    #[n(5)]
    Valid(#[n(0)] bool),
    /// To [`Task::Measure`], in its order.
    #[n(6)]
    Measured(
        #[n(0)]
        #[cbor(decode_with = "crate::msg::codec::list")]
        Vec<Measure>,
    ),
    /// To [`Task::List`].
    #[n(7)]
    Listed(#[n(0)] Listing),
    /// To [`Task::Resolve`]: the group has lost what was prepared, by relaxed syncing and a loss of power.
    #[n(10)]
    Lost,
    /// Certainly not begun here: the receiver does not lead the group in that term. Which node it believes leads, if it knows.
    #[n(1)]
    NotLeader {
        #[n(0)]
        leader: Option<LeaderHint>,
    },
}

/// A group's items at one instant, in order of keys, from the start of a scan on.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct Listing {
    #[n(0)]
    #[cbor(decode_with = "crate::msg::codec::list")]
    pub items: Vec<ListedItem>,
    /// Where the list would go on; `None`: there is no more.
    #[n(1)]
    pub next: Option<Key>,
    /// It shows every write of the group up to this, and none after.
    #[n(2)]
    pub read_at: Index,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "crate::msg::codec::Slices")]
pub struct ListedItem {
    #[n(0)]
    pub key: Key,
    #[n(1)]
    pub measure: Measure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct LeaderHint {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub epoch: Epoch,
    #[n(2)]
    pub term: Term,
}
