//! A server as clients and impostors see it, over real sockets.

use super::scratch::Scratch;
use super::{Server, ServerSettings, StartError};
use crate::base::{ClusterId, DirectoryId, Duration, Epoch, Key, NodeId};
use crate::client::{Client, ClientOptions, Error};
use crate::msg::client::{Request, RequestBody, Response, ResponseBody, Scan};
use crate::msg::codec;
use crate::msg::operation::{Consistency, Operation, Rejection};
use crate::msg::transaction::Transaction;
use crate::wire::frame::{self, Kind};
use crate::wire::handshake::{self, Goodbye, HELLO_SIZE, Hello, Reason, Role};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn settings(scratch: &Scratch) -> ServerSettings {
    ServerSettings {
        listen: "127.0.0.1:0".into(),
        data_dir: scratch.path().to_owned(),
        segment_size: 1024 * 1024,
        stop_timeout: Duration::from_secs(4),
        // Node 2 is never there.
        peers: vec![(NodeId(2), "127.0.0.1:1".into())],
        ..ServerSettings::default()
    }
}

struct Running(Option<Server>);

impl Running {
    fn start(settings: ServerSettings) -> Running {
        Running(Some(Server::start(settings).expect("starts")))
    }

    fn server(&self) -> &Server {
        self.0.as_ref().expect("running")
    }

    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.server().address()).await.expect("listens")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(server) = self.0.take() {
            server.stopper().abort();
            server.join().expect("no halt");
        }
    }
}

fn peer(node: u16) -> Hello {
    Hello { role: Role::Peer, node: NodeId(node), epoch: Epoch(1), cluster: None, directory: DirectoryId(7) }
}

async fn next_frame(stream: &mut TcpStream) -> Option<(Kind, Bytes)> {
    let mut buffer = BytesMut::new();
    loop {
        if let Some(frame) = frame::take(&mut buffer, 1 << 20).expect("a good frame") {
            assert!(buffer.is_empty());
            return Some(frame);
        }
        let missing = frame::missing(&buffer, 1 << 20).expect("a good frame");
        let mut part = vec![0; missing];
        let count = stream.read(&mut part).await.ok()?;
        if count == 0 {
            return None;
        }
        buffer.extend_from_slice(&part[..count]);
    }
}

async fn goodbye(stream: &mut TcpStream) -> Goodbye {
    let waited = tokio::time::timeout(Duration::from_secs(10), next_frame(stream)).await;
    let (kind, body) = waited.expect("in time").expect("not just closed");
    assert_eq!(kind, Kind::Goodbye);
    codec::decode(&body).expect("a goodbye")
}

/// Says `bytes` instead of a hello; gives the reason of the refusal.
async fn refused(running: &Running, bytes: &[u8]) -> Reason {
    let mut stream = running.dial().await;
    stream.write_all(bytes).await.expect("open");
    let mut hello = [0; HELLO_SIZE];
    stream.read_exact(&mut hello).await.expect("the server says who it is, to anybody");
    assert_eq!(Hello::decode(&hello).expect("a good hello").node, NodeId(1));
    goodbye(&mut stream).await.reason
}

async fn client(running: &Running) -> Client {
    Client::connect(&[running.server().address().to_string()], ClientOptions::default()).await.expect("connects")
}

#[tokio::test]
async fn a_client_learns_how_the_node_is_and_a_clean_stop_ends_it() {
    let scratch = Scratch::new("status");
    let mut running = Running::start(settings(&scratch));
    let client = client(&running).await;
    let status = client.status(None).await.expect("answers");
    assert_eq!(status.node, NodeId(1));
    assert!(status.cpu_us > 0);
    let server = running.0.take().expect("running");
    server.stop();
    server.ended().await;
    server.join().expect("no halt");
}

#[tokio::test]
async fn whoever_does_not_fit_is_told_why() {
    let scratch = Scratch::new("refused");
    let running = Running::start(settings(&scratch));
    let mut other_version = Hello::client().encode();
    other_version[8] = 99;
    assert_eq!(refused(&running, &other_version).await, Reason::WrongVersion);
    assert_eq!(refused(&running, b"GET / HTTP/1.1\r\n").await, Reason::WrongMagic);
    assert_eq!(refused(&running, &peer(1).encode()).await, Reason::NodeIdTaken);
    assert_eq!(refused(&running, &peer(9).encode()).await, Reason::NotAMember);
    let mut flipped = peer(2).encode();
    flipped[20] ^= 4;
    assert_eq!(refused(&running, &flipped).await, Reason::Malformed);
}

#[tokio::test]
async fn one_directory_has_a_node_id_and_its_newest_connection_counts() {
    let scratch = Scratch::new("taken");
    let running = Running::start(settings(&scratch));
    let mut first = running.dial().await;
    handshake::dial(&mut first, &peer(2)).await.expect("welcome");
    let impostor = Hello { directory: DirectoryId(8), ..peer(2) };
    assert_eq!(refused(&running, &impostor.encode()).await, Reason::NodeIdTaken);
    let mut second = running.dial().await;
    handshake::dial(&mut second, &peer(2)).await.expect("welcome");
    assert_eq!(goodbye(&mut first).await.reason, Reason::Replaced);
    drop(second);
    // When the first is gone, the next connection may be from the right directory.
    for _ in 0..100 {
        let mut third = running.dial().await;
        handshake::dial(&mut third, &impostor).await.expect("a hello in any case");
        let mut byte = [0];
        let waited = tokio::time::timeout(Duration::from_millis(20), third.read(&mut byte)).await;
        if waited.is_err() {
            return;
        }
    }
    panic!("the id stays taken");
}

#[tokio::test]
async fn malformed_requests_end_their_connection_and_no_other() {
    let scratch = Scratch::new("malformed");
    let running = Running::start(settings(&scratch));
    let client = client(&running).await;
    let mut bad_checksum = Vec::new();
    frame::append(Kind::Message, &Request { id: 1, timeout_ms: 1, body: RequestBody::Status }, &mut bad_checksum);
    bad_checksum[4] ^= 1;
    let mut no_request = Vec::new();
    frame::append(Kind::Message, &"what?", &mut no_request);
    for bytes in [&bad_checksum[..], &no_request, &[0xff; 4]] {
        let mut stream = running.dial().await;
        handshake::dial(&mut stream, &Hello::client()).await.expect("welcome");
        stream.write_all(bytes).await.expect("open");
        assert_eq!(goodbye(&mut stream).await.reason, Reason::Malformed);
    }
    client.status(None).await.expect("still answers");
}

#[tokio::test]
async fn many_requests_in_one_write_are_all_answered() {
    let scratch = Scratch::new("pipeline");
    let running = Running::start(settings(&scratch));
    let mut stream = running.dial().await;
    handshake::dial(&mut stream, &Hello::client()).await.expect("welcome");
    let mut bytes = Vec::new();
    for id in 0..5_000 {
        frame::append(Kind::Message, &Request { id, timeout_ms: 1_000, body: RequestBody::Status }, &mut bytes);
    }
    let (mut read_half, mut write_half) = stream.split();
    let reading = async {
        let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
        while seen.len() < 5_000 {
            assert_ne!(read_half.read_buf(&mut buffer).await.expect("open"), 0);
            while let Some((_, body)) = frame::take(&mut buffer, 1 << 20).expect("good frames") {
                let response: Response = codec::decode(&body).expect("a response");
                assert!(matches!(response.body, ResponseBody::Status(_)));
                seen.push(response.id);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..5_000).collect::<Vec<_>>());
    };
    let (written, ()) = tokio::join!(write_half.write_all(&bytes), reading);
    written.expect("open");
}

#[tokio::test]
async fn a_client_too_many_is_told_so() {
    let scratch = Scratch::new("too-many");
    let running = Running::start(ServerSettings { connections_max: 3, ..settings(&scratch) });
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = running.dial().await;
        handshake::dial(&mut stream, &Hello::client()).await.expect("welcome");
        held.push(stream);
    }
    assert_eq!(refused(&running, &Hello::client().encode()).await, Reason::TooManyConnections);
    let addresses = [running.server().address().to_string()];
    let options = ClientOptions { timeout: Duration::from_millis(300), ..ClientOptions::default() };
    if let Ok(client) = Client::connect(&addresses, options).await {
        let error = client.status(None).await.expect_err("no room");
        assert!(matches!(&error, Error::Unreachable(why) if why.contains("connections")), "{error}");
    }
    held.clear();
    let client = client(&running).await;
    client.status(None).await.expect("room again");
}

#[tokio::test]
async fn a_client_that_never_reads_is_not_read_from_and_harms_nobody() {
    let scratch = Scratch::new("never-reads");
    let running = Running::start(settings(&scratch));
    let mut deaf = running.dial().await;
    handshake::dial(&mut deaf, &Hello::client()).await.expect("welcome");
    let mut request = Vec::new();
    for id in 0..1_000 {
        frame::append(Kind::Message, &Request { id, timeout_ms: 1_000, body: RequestBody::Status }, &mut request);
    }
    // Far more answers than any buffer on the way holds.
    let shouting = async { while tokio::time::timeout(Duration::from_millis(300), deaf.write_all(&request)).await.is_ok() {} };
    let client = client(&running).await;
    let listening = async {
        for _ in 0..50 {
            client.status(None).await.expect("answers");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::join!(shouting, listening);
}

#[test]
fn what_keeps_a_server_from_starting_is_said() {
    let scratch = Scratch::new("start-errors");
    let running = Running::start(settings(&scratch));
    let Err(locked) = Server::start(settings(&scratch)) else { panic!("two in one directory") };
    assert!(matches!(locked, StartError::Locked { .. }), "{locked}");
    let other = Scratch::new("start-errors-port");
    let listen = running.server().address().to_string();
    let Err(taken) = Server::start(ServerSettings { listen, ..settings(&other) }) else { panic!("two on one port") };
    assert!(taken.to_string().contains("another process listens there"), "{taken}");
}

/// A cluster of one, once it has formed.
async fn alone(scratch: &Scratch, listen: &str) -> (Running, Client) {
    let running = Running::start(ServerSettings { peers: Vec::new(), listen: listen.into(), ..settings(scratch) });
    let client = client(&running).await;
    let wait_until = tokio::time::Instant::now() + Duration::from_secs(10);
    while client.ring().await.is_err() {
        assert!(tokio::time::Instant::now() < wait_until, "a cluster of one forms by itself");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (running, client)
}

#[tokio::test]
async fn a_hello_of_another_cluster_is_refused_once_the_cluster_is_known() {
    let scratch = Scratch::new("other-cluster");
    let (running, client) = alone(&scratch, "127.0.0.1:0").await;
    let other = Some(ClusterId(1));
    let peer = Hello { cluster: other, ..peer(2) };
    for hello in [peer, Hello::client_of(other, None), Hello::client_of(other, Some(NodeId(1)))] {
        assert_eq!(refused(&running, &hello.encode()).await, Reason::WrongCluster);
    }
    assert_eq!(refused(&running, &Hello::client_of(client.cluster(), Some(NodeId(2))).encode()).await, Reason::WrongNode);
    let mut stream = running.dial().await;
    let ours = Hello::client_of(client.cluster(), Some(NodeId(1)));
    let theirs = handshake::dial(&mut stream, &ours).await.expect("welcome");
    assert_eq!((theirs.cluster, theirs.node), (client.cluster(), NodeId(1)));
}

/// One of every kind of request that is for the cluster's own nodes.
fn requests() -> Vec<RequestBody> {
    let key = || Bytes::from_static(b"k");
    let transaction = |token| Transaction { items: vec![Operation::put("k", "v"), Operation::put("l", "v")], token };
    vec![
        RequestBody::Operation(Operation::read(key()).alone()),
        RequestBody::Operation(Operation::read(key()).alone().consistency(Consistency::Eventual)),
        RequestBody::Operation(Operation::put(key(), key()).alone()),
        RequestBody::Operation(Operation::increment(key(), 1).alone()),
        RequestBody::Scan(Scan { prefix: Key::default(), from: Key::default(), limit: 10, consistency: Consistency::Strong }),
        RequestBody::GetMany(vec![key().into()]),
        RequestBody::Transact(transaction(None)),
        RequestBody::Transact(transaction(Some(key()))),
        RequestBody::Ring,
        RequestBody::Status,
        RequestBody::Transactions,
        RequestBody::Damage(true),
    ]
}

#[track_caller]
fn names_both(error: &Error, ours: ClusterId, theirs: ClusterId) {
    let Error::Unreachable(why) = error else { panic!("nothing may be sent: {error}") };
    assert!(why.contains(&format!("belongs to cluster {theirs} (node 1), not to cluster {ours}")), "{why}");
}

#[tokio::test]
async fn another_cluster_at_the_address_is_an_error_that_names_both_and_nothing_is_written_to_it() {
    let (first, second) = (Scratch::new("identity-first"), Scratch::new("identity-second"));
    let (running, client) = alone(&first, "127.0.0.1:0").await;
    client.call(requests().remove(2)).await.expect("ours");
    let ours = client.cluster().expect("it has formed");
    let address = running.server().address().to_string();
    drop(running);
    let (_running, stranger) = alone(&second, &address).await;
    let theirs = stranger.cluster().expect("it has formed");
    for body in requests() {
        names_both(&client.call(body).await.expect_err("not the cluster that is meant"), ours, theirs);
    }
    for (node, answer) in client.statuses().await {
        assert_eq!(node, NodeId(1));
        names_both(&answer.expect_err("not the node that is meant"), ours, theirs);
    }
    let meant = ClientOptions { cluster: Some(ours), ..ClientOptions::default() };
    names_both(&Client::connect(&[address], meant).await.expect_err("not the cluster that is meant"), ours, theirs);
    for key in ["k", "l"] {
        assert_eq!(stranger.get(key).await.expect("its own").version.0, 0, "{key} was written");
    }
}

#[tokio::test]
async fn addresses_of_two_clusters_are_no_list_of_servers_unless_one_is_meant() {
    let (first, second) = (Scratch::new("mixed-first"), Scratch::new("mixed-second"));
    let (one, client) = alone(&first, "127.0.0.1:0").await;
    let (other, stranger) = alone(&second, "127.0.0.1:0").await;
    let (ours, theirs) = (client.cluster().expect("formed"), stranger.cluster().expect("formed"));
    let addresses = [&one, &other].map(|running| running.server().address().to_string());
    names_both(&Client::connect(&addresses, ClientOptions::default()).await.expect_err("which?"), ours, theirs);
    for (meant, other) in [(ours, theirs), (theirs, ours)] {
        let options = ClientOptions { cluster: Some(meant), ..ClientOptions::default() };
        let client = Client::connect(&addresses, options).await.expect("one of them is it");
        assert_ne!(client.ring().await.expect("answers").formation.cluster, other);
    }
}

#[tokio::test]
async fn a_node_whose_cluster_has_not_formed_is_asked_for_reports_only() {
    let scratch = Scratch::new("not-formed");
    let running = Running::start(settings(&scratch));
    let options = ClientOptions { timeout: Duration::from_millis(300), ..ClientOptions::default() };
    let client = Client::connect(&[running.server().address().to_string()], options).await.expect("connects");
    for body in requests().into_iter().take(8) {
        let error = client.call(body).await.expect_err("it may form any cluster yet");
        assert_eq!(error, Error::Rejected(Rejection::NotReady));
    }
    client.status(None).await.expect("answers");
}

/// Three nodes of one cluster, each of which may come and go.
struct Three {
    scratch: Scratch,
    /// As the operator wrote them once.
    peers: Vec<(NodeId, String)>,
    running: [Option<Running>; 3],
}

impl Three {
    async fn start(name: &str) -> (Three, Client) {
        // Held together, so that they differ; then let go, for the servers.
        let held: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let address = |listener: &std::net::TcpListener| listener.local_addr().expect("bound").to_string();
        let peers = (1..).zip(&held).map(|(node, listener)| (NodeId(node), address(listener))).collect();
        drop(held);
        let mut three = Three { scratch: Scratch::new(name), peers, running: [None, None, None] };
        for node in 1..=3 {
            let listen = three.peers[node - 1].1.clone();
            three.run(node, &listen);
        }
        let client = client(three.running[0].as_ref().expect("running")).await;
        three.until(&client, &[1, 2, 3]).await;
        (three, client)
    }

    /// Gives where it listens.
    fn run(&mut self, node: usize, listen: &str) -> String {
        let settings = ServerSettings {
            node: NodeId(node as u16),
            listen: listen.into(),
            data_dir: self.scratch.path().join(format!("data-{node}")),
            peers: self.peers.clone(),
            ..settings(&self.scratch)
        };
        let running = Running::start(settings);
        let address = running.server().address().to_string();
        self.running[node - 1] = Some(running);
        address
    }

    fn kill(&mut self, node: usize) {
        self.running[node - 1] = None;
    }

    /// Waits until these nodes answer the client where the ring says that they are, and do what they are there for.
    async fn until(&self, client: &Client, nodes: &[u16]) {
        let wait_until = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let put = client.put("k", "v").await;
            let statuses = client.statuses().await;
            let up = |node: &u16| statuses.iter().any(|(other, status)| other.0 == *node && status.is_ok());
            if put.is_ok() && nodes.iter().all(up) {
                return;
            }
            assert!(tokio::time::Instant::now() < wait_until, "{put:?} {statuses:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Where the ring says that the node is.
async fn place(client: &Client, node: u16) -> String {
    let ring = client.ring().await.expect("answers");
    ring.formation.members.iter().find(|member| member.node.0 == node).expect("a member").address.clone()
}

#[tokio::test]
async fn a_node_that_comes_back_elsewhere_is_found_by_nodes_and_clients_and_stays_known() {
    let (mut three, client) = Three::start("moved").await;
    three.kill(3);
    let moved = three.run(3, "127.0.0.1:0");
    three.until(&client, &[1, 2, 3]).await;
    assert_eq!(place(&client, 3).await, moved);
    // The others write it down: one that starts with the operator's old list, and alone, still knows.
    let written = |node: usize| std::fs::read_to_string(three.scratch.path().join(format!("data-{node}/addresses.json")));
    for node in [1, 2] {
        let wait_until = tokio::time::Instant::now() + Duration::from_secs(10);
        while !written(node).is_ok_and(|text| text.contains(&moved)) {
            assert!(tokio::time::Instant::now() < wait_until, "node {node} forgets");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    (1..=3).for_each(|node| three.kill(node));
    let listen = three.peers[0].1.clone();
    three.run(1, &listen);
    let again = Client::connect(&[listen], ClientOptions::default()).await.expect("listens");
    assert_eq!(place(&again, 3).await, moved);
    let listen = three.peers[1].1.clone();
    three.run(2, &listen);
    three.run(3, &moved);
    three.until(&client, &[1, 2, 3]).await;
    three.until(&again, &[1, 2, 3]).await;
}

#[tokio::test]
async fn two_of_three_that_move_at_once_meet_through_the_third() {
    let (mut three, client) = Three::start("two-moved").await;
    three.kill(2);
    three.kill(3);
    let moved = [three.run(2, "127.0.0.1:0"), three.run(3, "127.0.0.1:0")];
    three.until(&client, &[1, 2, 3]).await;
    assert_eq!([place(&client, 2).await, place(&client, 3).await], moved);
    // Without the third, the two still have each other.
    three.kill(1);
    let direct = Client::connect(&moved, ClientOptions::default()).await.expect("they listen");
    three.until(&direct, &[2, 3]).await;
}

#[tokio::test]
async fn what_nobody_can_dial_keeps_a_server_from_starting() {
    let scratch = Scratch::new("unspecified");
    let cases = [
        ServerSettings { listen: "0.0.0.0:0".into(), ..settings(&scratch) },
        ServerSettings { listen: "[::]:0".into(), ..settings(&scratch) },
        ServerSettings { advertise: Some("0.0.0.0:7501".into()), ..settings(&scratch) },
    ];
    for settings in cases {
        let Err(error) = Server::start(settings) else { panic!("nobody could find it") };
        assert!(error.to_string().contains("set advertise"), "{error}");
    }
    assert!(!scratch.path().join("LOCK").exists(), "nothing is touched before");
}
