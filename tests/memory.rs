//! What it costs to decode a frame: a small multiple of its size, whatever the bytes, for every kind of message.
//!
//! Each list in a message of each kind is stretched: by copies of its first element, and by the shortest things that there are. A decoder that builds before it counts
//! allocates a hundred times the frame.

use bytes::Bytes;
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use peak_alloc::PeakAlloc;
use ringseed::base::*;
use ringseed::msg::client::*;
use ringseed::msg::codec::{self, Blob};
use ringseed::msg::log::{Entry, Fact};
use ringseed::msg::peer::*;
use ringseed::msg::transaction::*;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Elements of a stretched list.
const STRETCHED: usize = 300_000;

fn key() -> Bytes {
    Bytes::from_static(b"k")
}

fn envelope(messages: Vec<PeerMessage>) -> Envelope {
    Envelope { cluster: Some(ClusterId(1)), from: NodeId(2), directory: DirectoryId(3), epoch: Epoch(4), messages }
}

fn id() -> TransactionId {
    TransactionId { home: GroupId(1), attempt: Attempt { term: Term(1), number: 1 } }
}

fn forward(task: Task) -> PeerMessage {
    let leader = Some((Epoch(1), Term(1)));
    PeerMessage::Forward(Forward { sequence: 1, group: GroupId(1), leader, remaining_ms: 1, task })
}

fn reply(outcome: Outcome) -> PeerMessage {
    PeerMessage::ForwardReply(ForwardReply { sequence: 1, outcome, epoch: Epoch(1) })
}

fn item() -> TransactionItem {
    TransactionItem { key: key(), action: TransactionAction::Increment(1), condition: Condition::None }
}

fn bodies() -> Vec<ResponseBody> {
    let failure = Failure { item: 0, reason: FailureReason::Conflict };
    let page = Scanned {
        items: vec![Item { key: key(), value: key(), version: Version(1) }],
        next: None,
        read_at: vec![(GroupId(1), Index(1))],
    };
    vec![
        ResponseBody::Scanned(page),
        ResponseBody::Transacted(vec![ItemResult::default()]),
        ResponseBody::NotCommitted(vec![failure]),
        ResponseBody::Values(vec![ItemResult::default()]),
        ResponseBody::Unknown(Doubt::ReplicasAway(vec![NodeId(1)])),
        ResponseBody::Rejected(Rejection::Invalid("why".into())),
    ]
}

fn facts() -> Vec<TransactionFact<Blob>> {
    let writes = || Writes(vec![Written { key: Blob(key()), value: Some(Blob(key())) }]);
    let parties = || vec![GroupId(1)];
    let (age, floor) = (Age::default(), Attempt::default());
    vec![
        TransactionFact::Prepare {
            id: id(),
            age,
            floor,
            parties: parties(),
            shared: vec![Blob(key())],
            writes: writes(),
            open: vec![floor],
        },
        TransactionFact::Decide { id: id(), commit: true, parties: parties(), writes: writes(), ended: vec![id()], token: None },
        TransactionFact::End { ended: vec![id()], expired: vec![Blob(key())], tick: false },
    ]
}

fn append(facts: Vec<Fact>) -> PeerMessage {
    let entries = facts.into_iter().map(|fact| Entry { index: Index(1), term: Term(1), fact }).collect();
    PeerMessage::Replica(GroupId(1), ReplicaMessage::Append(Append { entries, term: Term(1), ..minimal_append() }))
}

fn minimal_append() -> Append {
    // Decoded from what an older node would send: fields that it does not know have their defaults.
    let mut frame = Vec::new();
    let mut e = Encoder::new(&mut frame);
    e.array(6).unwrap().u8(1).unwrap().u8(0).unwrap().u8(0).unwrap().array(0).unwrap().u8(0).unwrap().u8(0).unwrap();
    codec::decode(&Bytes::from(frame)).expect("an append without entries")
}

fn messages() -> Vec<PeerMessage> {
    let placed = PlacedItem { place: 0, item: item() };
    let (age, floor) = (Age::default(), Attempt::default());
    let preparation = Preparation { id: id(), age, floor, parties: vec![GroupId(1)], items: vec![placed], open: vec![floor] };
    let result = PlacedResult { place: 0, result: ItemResult::default() };
    let failure = Failure { item: 0, reason: FailureReason::Conflict };
    let transaction = Transaction { items: vec![item()], token: None };
    let mut all = vec![
        append(vec![Fact::Noop]),
        append(facts().into_iter().map(|fact| Fact::Transaction(Box::new(fact))).collect()),
        forward(Task::Transact { age, transaction }),
        forward(Task::Prepare(preparation)),
        forward(Task::ReadMany(vec![Blob(key())])),
        forward(Task::Measure(vec![Blob(key())])),
        forward(Task::ReadSeen(vec![Seen { key: key(), version: Version(1) }])),
        reply(Outcome::Voted(Vote::Yes(vec![result]))),
        reply(Outcome::Voted(Vote::No(vec![failure]))),
        reply(Outcome::Measured(vec![Measure::default()])),
    ];
    all.extend(bodies().into_iter().map(|body| reply(Outcome::Answer(body))));
    all
}

/// The positions of all arrays in well-formed bytes, each with where its elements begin, where the first ends, and where all end.
fn arrays(frame: &[u8]) -> Vec<(usize, usize, usize, usize)> {
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
                found.push((at, begin, first, skipper.position()));
            }
            _ => d.skip().expect("an element"),
        }
    }
    found
}

/// The frame, with each of its arrays stretched in turn.
fn stretched(frame: &[u8]) -> Vec<Bytes> {
    let mut all = Vec::new();
    for (at, begin, first, end) in arrays(frame) {
        for element in [&frame[begin..first], &[0x40], &[0x80], &[0x00], &[0x60]] {
            let mut bytes = frame[..at].to_vec();
            Encoder::new(&mut bytes).array(STRETCHED as u64).expect("into memory");
            (0..STRETCHED).for_each(|_| bytes.extend_from_slice(element));
            bytes.extend_from_slice(&frame[end..]);
            all.push(Bytes::from(bytes));
        }
    }
    all
}

fn assert_cheap<T: for<'b> minicbor::Decode<'b, codec::Frame>>(frame: &Bytes, what: &str) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let decoded = codec::decode::<T>(frame);
    let took = ALLOCATOR.peak_usage().saturating_sub(before);
    let most = codec::memory_max(frame.len()) + frame.len();
    assert!(took <= most, "{what}: a frame of {} bytes took {took} ({})", frame.len(), decoded.is_ok());
}

/// One test, since the allocator counts what all threads do.
#[test]
fn a_frame_costs_a_small_multiple_of_its_size() {
    assert!(codec::memory_max(1 << 20) <= 33 << 20);
    for message in messages() {
        let frame = codec::encode(&envelope(vec![message.clone()]));
        stretched(&frame).iter().for_each(|frame| assert_cheap::<Envelope>(frame, &format!("{message:?}")));
        // Whatever nodes send is decoded, however many of the shortest messages there are.
        let many = envelope(vec![message; 8_192]);
        let frame = Bytes::from(codec::encode(&many));
        assert_eq!(codec::decode::<Envelope>(&frame).as_ref(), Ok(&many));
    }
    for body in bodies() {
        let frame = codec::encode(&Response { id: 1, leader: None, body: body.clone() });
        stretched(&frame).iter().for_each(|frame| assert_cheap::<Response>(frame, &format!("{body:?}")));
    }
    for body in
        [RequestBody::GetMany(vec![Blob(Bytes::new())]), RequestBody::Transact(Transaction { items: vec![item()], token: None })]
    {
        let frame = codec::encode(&Request { id: 1, timeout_ms: 1, body: body.clone() });
        stretched(&frame).iter().for_each(|frame| assert_cheap::<Request>(frame, &format!("{body:?}")));
    }
    let term = Term(1);
    let small = [
        PeerMessage::Farewell(Farewell { epoch: Epoch(1), sequence: 0 }),
        PeerMessage::Replica(GroupId(1), ReplicaMessage::Released { term }),
        PeerMessage::Replica(GroupId(1), ReplicaMessage::TimeoutNow { term }),
        reply(Outcome::Resolved),
        forward(Task::Inquire(id())),
    ];
    for message in small {
        let many = envelope(vec![message; limits::ENVELOPE_MESSAGES_MAX]);
        let frame = Bytes::from(codec::encode(&many));
        assert_eq!(codec::decode::<Envelope>(&frame).as_ref(), Ok(&many));
    }
}
