//! The largest legal message of every kind fits into a frame, and is decoded again as it was.
//!
//! A new kind of request, answer, task or message does not compile here until its largest is added. Numbers are the largest that
//! are believed.

use bytes::Bytes;
use ringseed::base::limits::*;
use ringseed::base::{ClusterId, DirectoryId, Epoch, GroupId, Index, Key, Lsn, NodeId, Term, Version};
use ringseed::msg::client::*;
use ringseed::msg::cluster::{ClusterOptions, Formation, Member};
use ringseed::msg::codec::{self, Blob, Frame};
use ringseed::msg::log::{Entry, Fact};
use ringseed::msg::operation::*;
use ringseed::msg::peer::*;
use ringseed::msg::repair::*;
use ringseed::msg::snapshot::*;
use ringseed::msg::transaction::*;
use ringseed::wire::frame::HEADER_SIZE;

const NODE: NodeId = NodeId(u16::MAX);
const GROUP: GroupId = GroupId(u32::MAX);
const TERM: Term = Term(COUNTER_MAX);
const INDEX: Index = Index(COUNTER_MAX);
const VERSION: Version = Version(COUNTER_MAX);
const EPOCH: Epoch = Epoch(COUNTER_MAX);
const ATTEMPT: Attempt = Attempt { term: TERM, number: COUNTER_MAX };
const ID: TransactionId = TransactionId { home: GROUP, attempt: ATTEMPT };
const PROMISE: Promise = Promise { leader: EPOCH, supporter: EPOCH, number: u64::MAX };

fn bytes(size: usize) -> Bytes {
    Bytes::from(vec![0xff; size])
}

/// The `number`th of several keys of this size.
fn key(number: usize, size: usize) -> Key {
    let mut key = vec![0xff; size];
    key[..4].copy_from_slice(&(number as u32).to_be_bytes());
    Key::of_parts(u32::MAX, key.into(), Some(size as u32 - 1)).expect("within")
}

fn keys() -> Vec<Key> {
    (0..TRANSACTION_ITEMS_MAX).map(|number| key(number, KEY_SIZE_MAX)).collect()
}

/// As many items, and as many bytes of keys and values, as a transaction may have.
pub fn transaction() -> Transaction {
    let share = TRANSACTION_SIZE_MAX / TRANSACTION_ITEMS_MAX;
    let value = share - KEY_SIZE_MAX - 1;
    let item = |number| {
        let condition = Condition::Value(bytes(value / 2));
        Operation::put(key(number, KEY_SIZE_MAX), bytes(value - value / 2)).only_if(condition)
    };
    let mut items: Vec<Operation> = (0..TRANSACTION_ITEMS_MAX).map(item).collect();
    let token = bytes(TOKEN_SIZE_MAX);
    let left = TRANSACTION_SIZE_MAX - Transaction { items: items.clone(), token: Some(token.clone()) }.size();
    items[0].action = Action::Put(bytes(value - value / 2 + left));
    let whole = Transaction { items, token: Some(token) };
    assert_eq!((whole.size(), whole.validate()), (TRANSACTION_SIZE_MAX, Ok(())));
    whole
}

/// Values of a size that is allowed together.
fn results() -> Vec<ItemResult> {
    let value = TRANSACTION_SIZE_MAX / TRANSACTION_ITEMS_MAX;
    (0..TRANSACTION_ITEMS_MAX)
        .map(|_| ItemResult { version: VERSION, number: Some(i64::MIN), value: Some(bytes(value)) })
        .collect()
}

fn failures() -> Vec<Failure> {
    let reason = FailureReason::Condition { version: VERSION, present: true };
    vec![Failure { item: u32::MAX, reason }; TRANSACTION_ITEMS_MAX]
}

fn groups() -> Vec<GroupId> {
    vec![GROUP; TRANSACTION_ITEMS_MAX]
}

fn formation() -> Formation {
    let member = |_| Member {
        node: NODE,
        directory: DirectoryId(u128::MAX),
        address: "a".repeat(ADDRESS_SIZE_MAX),
        zone: "z".repeat(ZONE_SIZE_MAX),
        weight: WEIGHT_MAX,
    };
    Formation { cluster: ClusterId(u128::MAX), members: (0..NODES_MAX).map(member).collect(), options: options() }
}

fn options() -> ClusterOptions {
    ClusterOptions {
        partitions: PARTITIONS_MAX,
        replication_factor: REPLICATION_FACTOR_MAX,
        support_ms: u32::MAX,
        clock_drift_ppm_max: u32::MAX,
    }
}

fn operation() -> Single {
    let put = Operation::put(key(0, KEY_SIZE_MAX), bytes(VALUE_SIZE_MAX));
    put.only_if(Condition::Value(bytes(VALUE_SIZE_MAX))).alone().acknowledge(Acknowledge::All)
}

fn scan() -> Scan {
    Scan { prefix: key(0, KEY_SIZE_MAX), from: key(0, KEY_SIZE_MAX + 1), limit: u32::MAX, consistency: Consistency::Eventual }
}

/// A page of many items, or of one that is larger than a page.
fn page(count: usize, value: usize) -> Scanned {
    let item = |number| Item { key: key(number, KEY_SIZE_MAX), value: bytes(value), version: VERSION };
    let read_at = vec![(GROUP, INDEX); PARTITIONS_MAX as usize];
    Scanned { items: (0..count).map(item).collect(), next: Some(key(0, KEY_SIZE_MAX + 1)), read_at }
}

fn requests() -> Vec<RequestBody> {
    let all = vec![
        RequestBody::Ring,
        RequestBody::Status,
        RequestBody::Operation(operation()),
        RequestBody::Scan(scan()),
        RequestBody::Transact(transaction()),
        RequestBody::GetMany(keys()),
        RequestBody::Transactions,
        RequestBody::Damage(true),
    ];
    // Whoever adds a kind adds its largest above.
    all.iter().for_each(|body| match body {
        RequestBody::Ring | RequestBody::Status | RequestBody::Operation(_) | RequestBody::Scan(_) => {}
        RequestBody::Transact(_) | RequestBody::GetMany(_) | RequestBody::Transactions | RequestBody::Damage(_) => {}
    });
    all
}

fn answers() -> Vec<ResponseBody> {
    let ring = RingReport {
        formation: formation(),
        partitions: vec![
            PartitionReport { replicas: vec![NODE; usize::from(REPLICATION_FACTOR_MAX)], leader: Some(NODE) };
            PARTITIONS_MAX as usize
        ],
    };
    let transactions = vec![
        TransactionReport {
            id: ID,
            age_ms: u64::MAX,
            group: GROUP,
            state: TransactionState::Prepared,
            parties: groups(),
            locks: u32::MAX,
        };
        TRANSACTIONS_REPORTED_MAX
    ];
    let all = vec![
        ResponseBody::Value { value: Some(bytes(VALUE_SIZE_MAX)), version: VERSION },
        ResponseBody::Written { version: VERSION, number: Some(i64::MIN) },
        ResponseBody::ConditionFailed { version: VERSION, present: true },
        ResponseBody::Scanned(page(SCAN_ITEMS_MAX, Limits::DEFAULT.scan_bytes / SCAN_ITEMS_MAX)),
        ResponseBody::Scanned(page(1, VALUE_SIZE_MAX)),
        ResponseBody::Rejected(Rejection::Invalid("x".repeat(5 * KEY_SIZE_MAX))),
        ResponseBody::Unknown(Doubt::ReplicasAway(vec![NODE; NODES_MAX])),
        ResponseBody::Ring(ring),
        ResponseBody::Status(status()),
        ResponseBody::Transacted(results()),
        ResponseBody::NotCommitted(failures()),
        ResponseBody::Values(results()),
        ResponseBody::Transactions(transactions, u32::MAX),
        ResponseBody::Damage(damage()),
    ];
    all.iter().for_each(|body| match body {
        ResponseBody::Value { .. } | ResponseBody::Written { .. } | ResponseBody::ConditionFailed { .. } => {}
        ResponseBody::Scanned(_) | ResponseBody::Rejected(_) | ResponseBody::Unknown(_) | ResponseBody::Ring(_) => {}
        ResponseBody::Status(_) | ResponseBody::Transacted(_) | ResponseBody::NotCommitted(_) => {}
        ResponseBody::Values(_) | ResponseBody::Transactions(..) | ResponseBody::Damage(_) => {}
    });
    all
}

fn damage() -> DamageReport {
    let lost = |number| LostValue { group: GROUP, key: key(number, KEY_SIZE_MAX), version: VERSION };
    let most = u64::MAX;
    DamageReport {
        node: NODE,
        epoch: most,
        lost: (0..LOST_REPORTED_MAX).map(lost).collect(),
        to_repair: most,
        repaired: most,
        corrupt_reads: most,
        scrub: ScrubReport { passes: most, is_under_way: true, values: most, read: most, found: most },
    }
}

fn status() -> StatusReport {
    let peer = PeerReport { node: NODE, up: true, since_ms: u64::MAX, entries_behind: u64::MAX, phi_hundredths: u32::MAX };
    StatusReport {
        node: NODE,
        membership: Membership::Refused("x".repeat(1_000)),
        uptime_ms: u64::MAX,
        epoch: u64::MAX,
        groups_led: u32::MAX,
        groups: u32::MAX,
        items: u64::MAX,
        log_bytes_allocated: u64::MAX,
        log_bytes_written: u64::MAX,
        disk_full: true,
        entries_unapplied: u64::MAX,
        peers: vec![peer; NODES_MAX],
        counters: vec![("a_counter_with_a_long_name".into(), u64::MAX); 1_000],
        cpu_us: u64::MAX,
        disk_bytes_needed: u64::MAX,
        log_bytes_used: u64::MAX,
        log_bytes_to_replay: u64::MAX,
    }
}

/// What a group logs of the largest transactions.
fn facts() -> Vec<Fact> {
    let whole = transaction();
    let written = |item: &Operation| match &item.action {
        Action::Put(value) => Write { key: item.key.clone(), value: Some(Blob(value.clone())) },
        _ => unreachable!("the largest transaction is made of puts"),
    };
    let mut writes: Vec<Write<Blob>> = whole.items.iter().map(written).collect();
    // Without conditions, all of it may be values.
    let left =
        TRANSACTION_SIZE_MAX - writes.iter().map(|w| w.key.size() + w.value.as_ref().map_or(0, |v| v.0.len())).sum::<usize>();
    let first = writes[0].value.as_ref().map_or(0, |value| value.0.len());
    let room = left.min(VALUE_SIZE_MAX - first);
    writes[0].value = Some(Blob(bytes(first + room)));
    for write in &mut writes[1..] {
        let value = write.value.as_ref().map_or(0, |value| value.0.len());
        write.value = Some(Blob(bytes(value + (left - room) / (TRANSACTION_ITEMS_MAX - 1))));
    }
    let results: Vec<ItemResult> = results().into_iter().map(|result| ItemResult { value: None, ..result }).collect();
    let answer = TransactionAnswer::Committed(results);
    let token = TokenRecord { token: bytes(TOKEN_SIZE_MAX), contents: u64::MAX, answer };
    let ended = vec![ID; Limits::DEFAULT.ended_per_entry];
    let expired = vec![Blob(bytes(TOKEN_SIZE_MAX)); Limits::DEFAULT.ended_per_entry];
    let age = Age { began_ms: CLOCK_MS_MAX, gateway: NODE, sequence: u64::MAX };
    let open = vec![ATTEMPT; OPEN_NAMED_MAX];
    let (id, floor, parties) = (ID, ATTEMPT, groups());
    let steps = vec![
        TransactionFact::Prepare { id, age, floor, parties, shared: keys(), writes: Writes(writes.clone()), open },
        TransactionFact::Decide {
            id,
            commit: true,
            parties: groups(),
            writes: Writes(writes),
            ended: ended.clone(),
            token: Some(token),
        },
        TransactionFact::Resolve { id, commit: true },
        TransactionFact::End { ended, expired, tick: true },
    ];
    steps.iter().for_each(|step| match step {
        TransactionFact::Prepare { .. } | TransactionFact::Decide { .. } => {}
        TransactionFact::Resolve { .. } | TransactionFact::End { .. } => {}
    });
    let write = Fact::Write { key: key(0, KEY_SIZE_MAX), value: Some(bytes(VALUE_SIZE_MAX)) };
    steps.into_iter().map(|step| Fact::Transaction(Box::new(step))).chain([Fact::Noop, write]).collect()
}

/// Appends as full as they become: small entries up to the limit, and the largest last.
fn appends() -> Vec<ReplicaMessage> {
    let entry = |fact| Entry { index: INDEX, term: TERM, fact };
    let small = Fact::Write { key: key(0, KEY_SIZE_MAX), value: Some(bytes(Limits::DEFAULT.append_bytes / APPEND_ENTRIES_MAX)) };
    let append = |last: Fact| {
        let mut entries = vec![entry(small.clone()); APPEND_ENTRIES_MAX - 1];
        entries.push(entry(last));
        let (previous_index, previous_term) = (INDEX, TERM);
        let append = Append {
            term: TERM,
            previous_index,
            previous_term,
            entries,
            commit: INDEX,
            round: u64::MAX,
            follower: EPOCH,
            everywhere: INDEX,
            whole: true,
        };
        ReplicaMessage::Append(append)
    };
    facts().into_iter().map(append).collect()
}

fn tasks() -> Vec<Task> {
    let transaction = transaction();
    let at = |item: &Operation| ItemAt { position: u32::MAX, item: item.clone() };
    let age = Age { began_ms: CLOCK_MS_MAX, gateway: NODE, sequence: u64::MAX };
    let preparation = Preparation {
        id: ID,
        age,
        floor: ATTEMPT,
        parties: groups(),
        items: transaction.items.iter().map(at).collect(),
        open: vec![ATTEMPT; OPEN_NAMED_MAX],
    };
    let seen = |count| (0..count).map(|number| Seen { key: key(number, KEY_SIZE_MAX), version: VERSION }).collect::<Vec<_>>();
    let all = vec![
        Task::Operation(operation()),
        Task::Scan(scan()),
        Task::Transact { age, transaction },
        Task::Prepare(preparation),
        Task::Resolve { id: ID, commit: true },
        Task::Inquire(ID),
        Task::ReadMany(keys()),
        Task::Measure(keys()),
        Task::List(scan()),
        Task::ReadListed(seen(SCAN_ITEMS_MAX)),
        Task::ReadSeen(seen(TRANSACTION_ITEMS_MAX)),
    ];
    all.iter().for_each(|task| match task {
        Task::Operation(_) | Task::Scan(_) | Task::Transact { .. } | Task::Prepare(_) | Task::Resolve { .. } => {}
        Task::Inquire(_) | Task::ReadMany(_) | Task::Measure(_) | Task::List(_) => {}
        Task::ReadListed(_) | Task::ReadSeen(_) => {}
    });
    all
}

fn outcomes() -> Vec<Outcome> {
    let measure = Measure { version: VERSION, length: u32::MAX };
    let listed = |number| ListedItem { key: key(number, KEY_SIZE_MAX), measure };
    let listing = Listing { items: (0..SCAN_ITEMS_MAX).map(listed).collect(), next: Some(key(0, KEY_SIZE_MAX)), read_at: INDEX };
    let voted: Vec<ResultAt> = results().into_iter().map(|result| ResultAt { position: u32::MAX, result }).collect();
    let mut all: Vec<Outcome> = answers().into_iter().map(Outcome::Answer).collect();
    all.extend([
        Outcome::Voted(Vote::Yes(voted)),
        Outcome::Voted(Vote::No(failures())),
        Outcome::Resolved,
        Outcome::Decided(Some(true)),
        Outcome::Valid(true),
        Outcome::Measured(vec![measure; TRANSACTION_ITEMS_MAX]),
        Outcome::Listed(listing),
        Outcome::Lost,
        Outcome::NotLeader { leader: Some(LeaderHint { node: NODE, epoch: EPOCH, term: TERM }) },
    ]);
    all.iter().for_each(|outcome| match outcome {
        Outcome::Answer(_) | Outcome::Voted(_) | Outcome::Resolved | Outcome::Decided(_) | Outcome::Valid(_) => {}
        Outcome::Measured(_) | Outcome::Listed(_) | Outcome::Lost | Outcome::NotLeader { .. } => {}
    });
    all
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        sent: u64::MAX,
        durable: Lsn(COUNTER_MAX),
        detours: vec![Detour { node: NODE, links: RELAY_LINKS_MAX }; NODES_MAX],
        epochs: vec![Known { node: NODE, epoch: EPOCH }; NODES_MAX],
        began: Lsn(COUNTER_MAX),
        previous: EPOCH,
        disk: DiskHealth { full: true, unfit: true, sync_ms: u32::MAX },
        clock_ms: CLOCK_MS_MAX,
    }
}

fn peer_messages() -> Vec<PeerMessage> {
    let (address, zone) = ("a".repeat(ADDRESS_SIZE_MAX), "z".repeat(ZONE_SIZE_MAX));
    let greeting =
        Greeting { address: address.clone(), zone, weight: WEIGHT_MAX, initial: vec![NODE; NODES_MAX], options: options() };
    let forward = |task| Forward { sequence: u64::MAX, group: GROUP, leader: Some((EPOCH, TERM)), remaining_ms: u32::MAX, task };
    let reply = |outcome| ForwardReply { sequence: u64::MAX, outcome, epoch: EPOCH };
    let relayed = |carried| {
        let (origin, directory, epoch, destination) = (NODE, DirectoryId(u128::MAX), EPOCH, NODE);
        PeerMessage::Relayed(Box::new(Relayed { origin, directory, epoch, destination, links: RELAY_LINKS_MAX, carried }))
    };
    let append_reply = AppendReply {
        term: TERM,
        outcome: AppendOutcome::Conflict { index: INDEX, term: TERM, previous: INDEX },
        round: u64::MAX,
        acceptance: Some(PROMISE),
        commit: INDEX,
        synced: Some(Lsn(u64::MAX)),
        amnesiac: true,
    };
    let mut all = vec![
        PeerMessage::Greeting(greeting),
        PeerMessage::Formed(formation()),
        PeerMessage::Refused(EPOCH, Refusal::OtherDirectory { bound: DirectoryId(u128::MAX) }),
        PeerMessage::Heartbeat(heartbeat()),
        PeerMessage::HeartbeatReply(HeartbeatReply { sent: u64::MAX, promise: PROMISE }),
        PeerMessage::Replica(GROUP, ReplicaMessage::AppendReply(append_reply)),
        PeerMessage::Farewell(Farewell { epoch: EPOCH, sequence: u64::MAX }),
        PeerMessage::Addresses(vec![NodeAddress { node: NODE, epoch: EPOCH, address }; NODES_MAX]),
        PeerMessage::Leading(vec![Leadership { group: GROUP, term: TERM }; LEADERSHIPS_TOLD_MAX]),
    ];
    all.push(PeerMessage::SnapshotReply(GROUP, SnapshotReply { snapshot: u64::MAX, number: u64::MAX, wanted: Some(u64::MAX) }));
    let (key, version) = (key(1, KEY_SIZE_MAX), Version(u64::MAX));
    all.push(PeerMessage::Fetch(GROUP, Fetch { key: key.clone(), version }));
    let copy = MemberCopy::Whole(Blob(vec![1; VALUE_SIZE_MAX].into()));
    all.push(PeerMessage::Fetched(GROUP, Fetched { key, version, copy }));
    all.extend(appends().into_iter().map(|append| PeerMessage::Replica(GROUP, append)));
    all.extend(tasks().into_iter().map(|task| PeerMessage::Forward(forward(task))));
    all.extend(outcomes().into_iter().map(|outcome| PeerMessage::ForwardReply(reply(outcome))));
    all.extend(tasks().into_iter().map(|task| relayed(Carried::Forward(forward(task)))));
    all.extend(outcomes().into_iter().map(|outcome| relayed(Carried::ForwardReply(reply(outcome)))));
    all.iter().for_each(|message| match message {
        PeerMessage::Greeting(_) | PeerMessage::Formed(_) | PeerMessage::Refused(..) | PeerMessage::Heartbeat(_) => {}
        PeerMessage::HeartbeatReply(_) | PeerMessage::Replica(..) | PeerMessage::Forward(_) => {}
        PeerMessage::ForwardReply(_) | PeerMessage::Farewell(_) | PeerMessage::Relayed(_) | PeerMessage::Addresses(_) => {}
        PeerMessage::Leading(_) | PeerMessage::Snapshot(..) | PeerMessage::SnapshotReply(..) => {}
        PeerMessage::Fetch(..) | PeerMessage::Fetched(..) => {}
    });
    all
}

/// Encoded, it is a frame that is not too long, and decodes to the same.
#[track_caller]
fn fits<T>(message: &T, named: &str)
where
    T: minicbor::Encode<Frame> + for<'b> minicbor::Decode<'b, Frame> + PartialEq,
{
    let encoded = Bytes::from(codec::encode(message));
    let named: String = named.chars().take(120).collect();
    // The body's kind comes on top.
    assert!(encoded.len() + HEADER_SIZE < FRAME_SIZE_MAX, "{named}: {} bytes of {FRAME_SIZE_MAX}", encoded.len());
    let decoded = codec::decode::<T>(&encoded);
    assert!(decoded.as_ref().is_ok_and(|decoded| decoded == message), "{named}: {:?}", decoded.err());
}

#[test]
fn the_largest_requests_and_answers_fit_into_frames() {
    for body in requests() {
        assert_eq!(body.validate(), Ok(()), "the largest is legal");
        let named = format!("{body:?}");
        fits(&Request { id: u64::MAX, timeout_ms: u32::MAX, body }, &named);
    }
    for body in answers() {
        let named = format!("{body:?}");
        fits(&Response { id: u64::MAX, leader: Some(NODE), body }, &named);
    }
}

#[test]
fn the_largest_messages_of_peers_fit_into_frames() {
    for message in peer_messages() {
        let named = format!("{message:?}");
        let (cluster, directory) = (Some(ClusterId(u128::MAX)), DirectoryId(u128::MAX));
        fits(&Envelope { cluster, from: NODE, directory, epoch: EPOCH, messages: vec![message] }, &named);
    }
}
