//! What it costs to decode a frame: a small multiple of its size, whatever the bytes, for every kind of message. Lists and boxes
//! are charged to the frame, which may be charged so much and no more; beside these there are strings.
//!
//! Each list in a message of each kind is stretched: by copies of its first element, by the shortest things that there are, and
//! by a field that is not known and that goes deep. A decoder that builds before it counts allocates a hundred times the frame.

use bytes::Bytes;
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use peak_alloc::PeakAlloc;
use ringseed::base::Key;
use ringseed::base::*;
use ringseed::msg::client::*;
use ringseed::msg::cluster::*;
use ringseed::msg::codec::{self, Blob};
use ringseed::msg::configuration::Configuration;
use ringseed::msg::log::{Entry, Fact};
use ringseed::msg::operation::*;
use ringseed::msg::peer::*;
use ringseed::msg::repair::*;
use ringseed::msg::snapshot::*;
use ringseed::msg::transaction::*;
use std::collections::BTreeSet;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Whether there is an example of each kind. A kind that is added to the enum does not compile until it is named here, and then
/// wants its example.
macro_rules! assert_has_each {
    ($examples:expr, $of:ident: $($kind:ident)*) => {
        let found: BTreeSet<&str> = $examples.iter().map(|example| match example { $($of::$kind { .. } => stringify!($kind)),* }).collect();
        assert_eq!(found, BTreeSet::from([$(stringify!($kind)),*]));
    };
}

/// Elements of a stretched list.
const STRETCHED: usize = 8_192;
/// Bytes that an error, and the first slice of a frame, may take.
const SPARE: usize = 1_024;

fn key() -> Bytes {
    Bytes::from_static(b"k")
}

fn envelope(messages: Vec<PeerMessage>) -> Envelope {
    Envelope { cluster: Some(ClusterId(1)), from: NodeId(2), directory: DirectoryId(3), epoch: Epoch(4), messages }
}

fn id() -> TransactionId {
    TransactionId { home: GroupId(1), attempt: Attempt { term: Term(1), number: 1 } }
}

fn item() -> Operation {
    Operation::increment(key(), 1)
}

/// Every kind of answer.
fn bodies() -> Vec<ResponseBody> {
    let version = Version(1);
    let failures = vec![
        Failure { item: 0, reason: FailureReason::Conflict },
        Failure { item: 1, reason: FailureReason::Condition { version, present: true } },
        Failure { item: 2, reason: FailureReason::NotANumber },
    ];
    let page = Scanned {
        items: vec![Item { key: key().into(), value: key(), version }],
        next: None,
        read_at: vec![(GroupId(1), Index(1))],
    };
    let partition = PartitionReport { replicas: vec![NodeId(1)], leader: None };
    let transaction = TransactionReport {
        id: id(),
        age_ms: 1,
        group: GroupId(1),
        state: TransactionState::Preparing,
        parties: vec![GroupId(1)],
        locks: 1,
    };
    let damage = DamageReport {
        node: NodeId(1),
        epoch: 1,
        lost: vec![LostValue { group: GroupId(1), key: key().into(), version }],
        to_repair: 1,
        repaired: 1,
        corrupt_reads: 1,
        scrub: ScrubReport { passes: 1, is_under_way: true, values: 1, read: 1, found: 1 },
    };
    let mut all = vec![
        ResponseBody::Value { value: Some(key()), version },
        ResponseBody::Written { version, number: Some(1) },
        ResponseBody::ConditionFailed { version, present: true },
        ResponseBody::Scanned(page),
        ResponseBody::Ring(RingReport { formation: formation(), partitions: vec![partition] }),
        ResponseBody::Transacted(vec![ItemResult::default()]),
        ResponseBody::NotCommitted(failures),
        ResponseBody::Values(vec![ItemResult { version, number: Some(1), value: Some(key()) }]),
        ResponseBody::Transactions(vec![transaction], 1),
        ResponseBody::Damage(damage),
    ];
    let memberships = [Membership::Forming, Membership::Member, Membership::Refused("why".into())];
    assert_has_each!(memberships, Membership: Forming Member Refused);
    all.extend(memberships.map(|membership| ResponseBody::Status(status(membership))));
    let doubts = [Doubt::DeadlineExceeded, Doubt::LeadershipLost, Doubt::ConnectionLost, Doubt::ReplicasAway(vec![NodeId(1)])];
    assert_has_each!(doubts, Doubt: DeadlineExceeded LeadershipLost ConnectionLost ReplicasAway);
    all.extend(doubts.map(ResponseBody::Unknown));
    all.extend(rejections().map(ResponseBody::Rejected));
    assert_has_each!(
        all,
        ResponseBody: Value Written ConditionFailed Scanned Rejected Unknown Ring Status Transacted NotCommitted Values Transactions Damage
    );
    all
}

fn rejections() -> [Rejection; 15] {
    let all = [
        Rejection::KeyTooLong(1),
        Rejection::KeyEmpty,
        Rejection::ValueTooLong(1),
        Rejection::NotANumber,
        Rejection::Overloaded,
        Rejection::NoLeader,
        Rejection::DeadlineExceeded,
        Rejection::DiskFull,
        Rejection::Corrupt,
        Rejection::Stopping,
        Rejection::NotReady,
        Rejection::Invalid("why".into()),
        Rejection::TokenReused,
        Rejection::TooLarge,
        Rejection::TooManyTokens,
    ];
    assert_has_each!(
        all,
        Rejection: KeyTooLong KeyEmpty ValueTooLong NotANumber Overloaded NoLeader DeadlineExceeded DiskFull Corrupt Stopping NotReady
            Invalid TokenReused TooLarge TooManyTokens
    );
    all
}

fn formation() -> Formation {
    let (address, zone) = ("a:1".into(), "z".into());
    let member = Member { node: NodeId(1), directory: DirectoryId(1), address, zone, weight: 1 };
    Formation { cluster: ClusterId(1), members: vec![member], options: ClusterOptions::default() }
}

fn status(membership: Membership) -> StatusReport {
    let peer = PeerReport { node: NodeId(1), up: true, since_ms: 1, entries_behind: 1, phi_hundredths: 1 };
    StatusReport {
        node: NodeId(1),
        membership,
        peers: vec![peer],
        counters: vec![("puts".into(), 1)],
        // Numbers, all from here on.
        uptime_ms: 0,
        epoch: 0,
        groups_led: 0,
        groups: 0,
        items: 0,
        log_bytes_allocated: 0,
        log_bytes_written: 0,
        log_bytes_used: 0,
        log_bytes_to_replay: 0,
        disk_full: false,
        entries_unapplied: 0,
        cpu_us: 0,
        disk_bytes_needed: 0,
    }
}

/// Every kind of request.
fn requests() -> Vec<RequestBody> {
    let mut all = vec![
        RequestBody::Ring,
        RequestBody::Status,
        RequestBody::Scan(scan()),
        RequestBody::Transact(transaction()),
        RequestBody::GetMany(vec![Key::default()]),
        RequestBody::Transactions,
        RequestBody::Damage(true),
    ];
    all.extend(operations().into_iter().map(RequestBody::Operation));
    assert_has_each!(all, RequestBody: Ring Status Operation Scan Transact GetMany Transactions Damage);
    all
}

fn scan() -> Scan {
    Scan { prefix: key().into(), from: key().into(), limit: 1, consistency: Consistency::Strong }
}

fn conditions() -> [Condition; 5] {
    let all = [Condition::None, Condition::Value(key()), Condition::Version(Version(1)), Condition::Absent, Condition::Present];
    assert_has_each!(all, Condition: None Value Version Absent Present);
    all
}

fn operations() -> Vec<Single> {
    let mut all = vec![Operation::read(key()), Operation::increment(key(), 1)];
    all.extend(conditions().map(|condition| Operation::put(key(), key()).only_if(condition)));
    all.extend(conditions().map(|condition| Operation::delete(key()).only_if(condition)));
    all.extend(conditions().map(|condition| Operation::check(key(), condition)));
    let actions: Vec<&Action> = all.iter().map(|operation| &operation.action).collect();
    assert_has_each!(actions, Action: Check Read Put Delete Increment);
    all.into_iter().map(|operation| operation.alone().acknowledge(Acknowledge::All)).collect()
}

/// With every kind of item.
fn transaction() -> Transaction {
    let mut items = vec![Operation::read("r"), Operation::delete("d"), item(), Operation::put("p", "v")];
    items.extend(conditions().map(|condition| Operation::check("c", condition)));
    let actions: Vec<&Action> = items.iter().map(|item| &item.action).collect();
    assert_has_each!(actions, Action: Check Read Put Delete Increment);
    Transaction { items, token: Some(key()) }
}

fn facts() -> Vec<Fact> {
    let writes = || Writes(vec![Write { key: key().into(), value: Some(Blob(key())) }]);
    let parties = || vec![GroupId(1)];
    let (age, floor) = (Age::default(), Attempt::default());
    let record = |answer| Some(TokenRecord { token: key(), contents: 1, answer });
    let decide = |token| TransactionFact::Decide {
        id: id(),
        commit: true,
        parties: parties(),
        writes: writes(),
        ended: vec![id()],
        token,
    };
    let committed = TransactionAnswer::Committed(vec![ItemResult::default()]);
    let refused = TransactionAnswer::NotCommitted(vec![Failure { item: 0, reason: FailureReason::Conflict }]);
    let steps = vec![
        TransactionFact::Prepare {
            id: id(),
            age,
            floor,
            parties: parties(),
            shared: vec![key().into()],
            writes: writes(),
            open: vec![floor],
        },
        decide(None),
        decide(record(committed)),
        decide(record(refused)),
        TransactionFact::Resolve { id: id(), commit: true },
        TransactionFact::End { ended: vec![id()], expired: vec![Blob(key())], tick: false },
    ];
    assert_has_each!(steps, TransactionFact: Prepare Decide Resolve End);
    let configuration = Configuration::new(vec![NodeId(1), NodeId(2)], vec![NodeId(1), NodeId(3)], vec![NodeId(4)]);
    let mut all = vec![Fact::Noop, Fact::Write { key: key().into(), value: Some(key()) }];
    all.push(Fact::Configuration(Box::new(configuration.expect("sound"))));
    all.extend(steps.into_iter().map(|step| Fact::Transaction(Box::new(step))));
    assert_has_each!(all, Fact: Noop Write Transaction Configuration);
    all
}

fn append(facts: Vec<Fact>) -> Append {
    let entries = facts.into_iter().map(|fact| Entry { index: Index(1), term: Term(1), fact }).collect();
    Append { entries, term: Term(1), ..minimal_append() }
}

fn minimal_append() -> Append {
    // Decoded from what an older node would send: fields that it does not know have their defaults.
    let mut frame = Vec::new();
    let mut e = Encoder::new(&mut frame);
    e.array(6).unwrap().u8(1).unwrap().u8(0).unwrap().u8(0).unwrap().array(0).unwrap().u8(0).unwrap().u8(0).unwrap();
    codec::decode(&Bytes::from(frame)).expect("an append without entries")
}

/// All that one replica says to another.
fn consensus() -> Vec<ReplicaMessage> {
    let (term, index) = (Term(1), Index(1));
    let released = Some(Released { leader: NodeId(1), term });
    let request = VoteRequest { term, last_index: index, last_term: term, released };
    let reply = VoteReply { term, granted: true, lossy: false };
    let mut all = vec![
        ReplicaMessage::PreVote(request),
        ReplicaMessage::PreVoteReply(reply),
        ReplicaMessage::Vote(request),
        ReplicaMessage::VoteReply(reply),
        ReplicaMessage::TimeoutNow { term },
        ReplicaMessage::Released { term },
        ReplicaMessage::ReleasedReply { term },
    ];
    let outcomes = [
        AppendOutcome::Matched(index),
        AppendOutcome::Conflict { index, term, previous: index },
        AppendOutcome::StaleTerm,
        AppendOutcome::Full { matched: index },
    ];
    assert_has_each!(outcomes, AppendOutcome: Matched Conflict StaleTerm Full);
    all.extend(outcomes.map(|outcome| {
        let acceptance = Some(Promise::default());
        ReplicaMessage::AppendReply(AppendReply {
            term,
            outcome,
            round: 1,
            acceptance,
            commit: index,
            synced: Some(Lsn(1)),
            amnesiac: false,
        })
    }));
    all.extend([vec![Fact::Noop], facts()].map(|facts| ReplicaMessage::Append(append(facts))));
    assert_has_each!(
        all,
        ReplicaMessage: PreVote PreVoteReply Vote VoteReply Append AppendReply TimeoutNow Released ReleasedReply
    );
    all
}

/// All that a replica is asked for.
fn tasks() -> Vec<Task> {
    let items = transaction().items.into_iter().map(|item| ItemAt { position: 0, item }).collect();
    let (age, floor) = (Age::default(), Attempt::default());
    let preparation = Preparation { id: id(), age, floor, parties: vec![GroupId(1)], items, open: vec![floor] };
    let keys = || vec![Key::from(key())];
    let seen = || vec![Seen { key: key().into(), version: Version(1) }];
    let mut all = vec![
        Task::Scan(scan()),
        Task::Transact { age, transaction: transaction() },
        Task::Prepare(preparation),
        Task::Resolve { id: id(), commit: true },
        Task::Inquire(id()),
        Task::ReadMany(keys()),
        Task::Measure(keys()),
        Task::List(scan()),
        Task::ReadListed(seen()),
        Task::ReadSeen(seen()),
    ];
    all.extend(operations().into_iter().map(Task::Operation));
    assert_has_each!(
        all,
        Task: Operation Scan Transact Prepare Resolve Inquire ReadMany Measure List ReadListed ReadSeen
    );
    all
}

/// All that a replica answers.
fn outcomes() -> Vec<Outcome> {
    let result = ResultAt { position: 0, result: ItemResult::default() };
    let failure = Failure { item: 0, reason: FailureReason::Conflict };
    let votes = [Vote::Yes(vec![result]), Vote::No(vec![failure]), Vote::Rejected(Rejection::Overloaded)];
    assert_has_each!(votes, Vote: Yes No Rejected);
    let leader = Some(LeaderHint { node: NodeId(1), epoch: Epoch(1), term: Term(1) });
    let listed = vec![ListedItem { key: key().into(), measure: Measure::default() }];
    let mut all = vec![
        Outcome::Resolved,
        Outcome::Decided(Some(true)),
        Outcome::Valid(true),
        Outcome::Measured(vec![Measure::default()]),
        Outcome::Listed(Listing { items: listed, next: Some(key().into()), read_at: Index(1) }),
        Outcome::Lost,
        Outcome::NotLeader { leader },
    ];
    all.extend(votes.map(Outcome::Voted));
    all.extend(bodies().into_iter().map(Outcome::Answer));
    assert_has_each!(all, Outcome: Answer Voted Resolved Decided Valid Measured Listed Lost NotLeader);
    all
}

/// All that nodes say to each other.
fn messages() -> Vec<PeerMessage> {
    let epoch = Epoch(1);
    let greeting = Greeting {
        address: "a:1".into(),
        zone: "z".into(),
        weight: 1,
        initial: vec![NodeId(1)],
        options: ClusterOptions::default(),
    };
    let heartbeat = Heartbeat {
        sent: 1,
        durable: Lsn(1),
        detours: vec![Detour { node: NodeId(1), links: 1 }],
        epochs: vec![Known { node: NodeId(1), epoch }],
        began: Lsn(1),
        previous: epoch,
        disk: DiskHealth::default(),
        clock_ms: 1,
    };
    let farewell = Farewell { epoch, sequence: 1 };
    let mut all = vec![
        PeerMessage::Greeting(greeting),
        PeerMessage::Formed(formation()),
        PeerMessage::Heartbeat(heartbeat),
        PeerMessage::HeartbeatReply(HeartbeatReply { sent: 1, promise: Promise::default() }),
        PeerMessage::Farewell(farewell),
        PeerMessage::Addresses(vec![NodeAddress { node: NodeId(1), epoch, address: "a:1".into() }]),
        PeerMessage::Leading(vec![Leadership { group: GroupId(1), term: Term(1) }]),
        PeerMessage::Snapshot(GroupId(1), piece()),
        PeerMessage::SnapshotReply(GroupId(1), SnapshotReply { snapshot: 1, number: 1, wanted: Some(1) }),
        PeerMessage::Fetch(GroupId(1), Fetch { key: "k".into(), version: Version(1) }),
    ];
    let refusals = [
        Refusal::OtherDirectory { bound: DirectoryId(1) },
        Refusal::OldDirectory { seen: Lsn(1), epoch: Epoch(1), silent: true },
        Refusal::OtherCluster { ours: ClusterId(1) },
        Refusal::NotAMember,
        Refusal::OtherOptions,
    ];
    assert_has_each!(refusals, Refusal: OtherDirectory OldDirectory OtherCluster NotAMember OtherOptions);
    all.extend(refusals.map(|refusal| PeerMessage::Refused(epoch, refusal)));
    let copies = [MemberCopy::Whole(Blob(Bytes::from_static(b"v"))), MemberCopy::Rotten, MemberCopy::OtherVersion];
    assert_has_each!(copies, MemberCopy: Whole Rotten OtherVersion);
    let fetched = |copy| PeerMessage::Fetched(GroupId(1), Fetched { key: "k".into(), version: Version(1), copy });
    all.extend(copies.map(fetched));
    all.extend(consensus().into_iter().map(|message| PeerMessage::Replica(GroupId(1), message)));
    let mut carried = vec![Carried::Farewell(farewell)];
    carried.extend(tasks().into_iter().map(|task| {
        let leader = Some((epoch, Term(1)));
        Carried::Forward(Forward { sequence: 1, group: GroupId(1), leader, remaining_ms: 1, task })
    }));
    carried.extend(outcomes().into_iter().map(|outcome| Carried::ForwardReply(ForwardReply { sequence: 1, outcome, epoch })));
    assert_has_each!(carried, Carried: Forward ForwardReply Farewell);
    all.extend(carried.iter().cloned().map(PeerMessage::from));
    all.extend(carried.into_iter().map(|carried| {
        let (origin, destination) = (NodeId(1), NodeId(2));
        PeerMessage::Relayed(Box::new(Relayed { origin, directory: DirectoryId(1), epoch, destination, links: 1, carried }))
    }));
    assert_has_each!(
        all,
        PeerMessage: Greeting Formed Refused Heartbeat HeartbeatReply Replica Forward ForwardReply Farewell Relayed Addresses Leading Snapshot SnapshotReply Fetch Fetched
    );
    all
}

/// An array in well-formed bytes: where it is, how many elements it has, where they begin, where the first ends, and where all
/// end.
struct Array {
    at: usize,
    count: u64,
    begin: usize,
    first: usize,
    end: usize,
}

fn arrays(frame: &[u8]) -> Vec<Array> {
    let mut found = Vec::new();
    let mut d = Decoder::new(frame);
    while d.position() < frame.len() {
        let at = d.position();
        match d.datatype().expect("well-formed") {
            Type::Array => {
                let count = d.array().expect("an array").expect("of known length");
                let begin = d.position();
                let mut skipper = Decoder::new(frame);
                skipper.set_position(begin);
                let mut first = begin;
                for nth in 0..count {
                    skipper.skip().expect("an element");
                    if nth == 0 {
                        first = skipper.position();
                    }
                }
                found.push(Array { at, count, begin, first, end: skipper.position() });
            }
            _ => d.skip().expect("an element"),
        }
    }
    found
}

/// The frame, with each of its arrays stretched in turn.
fn stretched(frame: &[u8]) -> Vec<Bytes> {
    let mut all = Vec::new();
    for Array { at, count, begin, first, end } in arrays(frame) {
        for element in [&frame[begin..first], &[0x40], &[0x80], &[0x00], &[0x60]] {
            let mut bytes = frame[..at].to_vec();
            Encoder::new(&mut bytes).array(STRETCHED as u64).expect("into memory");
            (0..STRETCHED).for_each(|_| bytes.extend_from_slice(element));
            bytes.extend_from_slice(&frame[end..]);
            all.push(Bytes::from(bytes));
        }
        // One more field than is known: to skip it, a decoder may remember each list that it is in.
        for nest in [&[0x81], &[0x9f], &[0xbf]] {
            let mut bytes = frame[..at].to_vec();
            Encoder::new(&mut bytes).array(count + 1).expect("into memory");
            bytes.extend_from_slice(&frame[begin..end]);
            bytes.push(0x82);
            (0..STRETCHED).for_each(|_| bytes.extend_from_slice(nest));
            all.push(Bytes::from(bytes));
        }
    }
    all
}

fn assert_cheap<T: for<'b> minicbor::Decode<'b, codec::Frame>>(frame: &Bytes, what: &str) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let (decoded, charged) = codec::decode_charged::<T>(frame);
    let took = ALLOCATOR.peak_usage().saturating_sub(before);
    let size = frame.len();
    assert!(charged <= codec::memory_max(size), "{what}: {charged} bytes charged to a frame of {size}");
    assert!(
        took <= charged + size + SPARE,
        "{what}: a frame of {size} bytes took {took}, charged {charged} ({})",
        decoded.is_ok()
    );
}

/// One test, since the allocator counts what all threads do.
#[test]
fn a_frame_costs_a_small_multiple_of_its_size() {
    assert!(codec::memory_max(1 << 20) <= 33 << 20);
    for message in messages() {
        let frame = codec::encode(&envelope(vec![message.clone()]));
        stretched(&frame).iter().for_each(|frame| assert_cheap::<Envelope>(frame, &format!("{message:?}")));
        // Whatever nodes send is decoded, however many of the shortest messages there are.
        let many = envelope(vec![message.clone(); STRETCHED]);
        let frame = Bytes::from(codec::encode(&many));
        assert_cheap::<Envelope>(&frame, &format!("{message:?}"));
        assert_eq!(codec::decode::<Envelope>(&frame).as_ref(), Ok(&many));
    }
    for body in bodies() {
        let frame = codec::encode(&Response { id: 1, leader: None, body: body.clone() });
        stretched(&frame).iter().for_each(|frame| assert_cheap::<Response>(frame, &format!("{body:?}")));
    }
    for body in requests() {
        let frame = codec::encode(&Request { id: 1, timeout_ms: 1, body: body.clone() });
        stretched(&frame).iter().for_each(|frame| assert_cheap::<Request>(frame, &format!("{body:?}")));
    }
    let term = Term(1);
    let replica = |message| PeerMessage::Replica(GroupId(1), message);
    let small = [
        PeerMessage::Farewell(Farewell { epoch: Epoch(1), sequence: 0 }),
        replica(ReplicaMessage::Released { term }),
        replica(ReplicaMessage::TimeoutNow { term }),
        Carried::ForwardReply(ForwardReply { sequence: 1, outcome: Outcome::Resolved, epoch: Epoch(1) }).into(),
    ];
    for message in small {
        let many = envelope(vec![message; limits::ENVELOPE_MESSAGES_MAX]);
        let frame = Bytes::from(codec::encode(&many));
        assert_eq!(codec::decode::<Envelope>(&frame).as_ref(), Ok(&many));
    }
}

fn piece() -> SnapshotPiece {
    SnapshotPiece {
        term: Term(1),
        index: Index(9),
        of_term: Term(1),
        snapshot: 1,
        number: 0,
        digest: Some(1),
        parts: Blob(vec![7; 100].into()),
        values: Blob(vec![7; 100].into()),
    }
}
