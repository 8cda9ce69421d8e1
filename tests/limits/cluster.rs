//! Three servers in this process, over loopback; and a client beside the one under test that must not notice it.

use bytes::{Bytes, BytesMut};
use ringseed::base::{ClusterId, Key, NodeId, Version, hash};
use ringseed::client::{Client, ClientOptions, Error};
use ringseed::msg::client::*;
use ringseed::msg::cluster::ClusterOptions;
use ringseed::msg::codec;
use ringseed::msg::operation::*;
use ringseed::server::{Server, ServerSettings};
use ringseed::wire::frame::{self, Kind};
use ringseed::wire::handshake::{self, Hello};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

pub const PARTITIONS: u32 = 4;
/// Of a request, and of what is waited for. Far more than any of it takes.
pub const PATIENCE: Duration = Duration::from_secs(50);

pub struct Cluster {
    pub folder: PathBuf,
    pub addresses: Vec<String>,
    servers: Vec<Option<Server>>,
}

impl Cluster {
    pub fn start(name: &str) -> Cluster {
        let folder = std::env::temp_dir().join(format!("ringseed-limits-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        // Held together, so that they differ; then let go, for the servers.
        let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addresses = held.iter().map(|one| one.local_addr().expect("bound").to_string()).collect();
        drop(held);
        let mut cluster = Cluster { folder, addresses, servers: vec![None, None, None] };
        (0..3).for_each(|at| cluster.run(at));
        cluster
    }

    pub fn run(&mut self, at: usize) {
        let peers = (1..).zip(&self.addresses).map(|(node, address)| (NodeId(node), address.clone())).collect();
        // Nobody dies here, and the machine may be busy.
        let cluster = ClusterOptions { partitions: PARTITIONS, support_ms: 3_000, ..ClusterOptions::default() };
        let settings = ServerSettings {
            node: NodeId(at as u16 + 1),
            listen: self.addresses[at].clone(),
            data_dir: self.folder.join(format!("data-{at}")),
            segment_size: 1024 * 1024,
            heartbeat_interval: Duration::from_millis(100),
            peers,
            cluster,
            ..ServerSettings::default()
        };
        self.servers[at] = Some(Server::start(settings).expect("starts"));
    }

    /// Cleanly: its leaderships are handed away.
    pub fn stop(&mut self, at: usize) {
        let server = self.servers[at].take().expect("running");
        server.stop();
        server.join().expect("no halt");
    }

    /// Once the cluster answers.
    pub async fn client(&self) -> Client {
        let options = ClientOptions { timeout: PATIENCE, connect_timeout: Duration::from_secs(5), ..ClientOptions::default() };
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(client) = Client::connect(&self.addresses, options.clone()).await
                && client.call(put("first", "")).await.is_ok()
            {
                return client;
            }
            assert!(Instant::now() < until, "the cluster does not form");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until nobody lacks an entry of a group that another leads.
    pub async fn caught_up(&self, client: &Client) {
        let until = Instant::now() + PATIENCE;
        loop {
            let statuses = client.statuses().await;
            let level = |status: &Result<StatusReport, Error>| {
                status.as_ref().is_ok_and(|status| status.peers.iter().all(|peer| peer.up && peer.entries_behind == 0))
            };
            if statuses.len() == 3 && statuses.iter().all(|(_, status)| level(status)) {
                return;
            }
            assert!(Instant::now() < until, "{statuses:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in self.servers.iter_mut().filter_map(Option::take) {
            server.stopper().abort();
            let _ = server.join();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub fn put(key: impl Into<Key>, value: impl Into<Bytes>) -> RequestBody {
    put_if(key, value, Condition::None)
}

pub fn put_if(key: impl Into<Key>, value: impl Into<Bytes>, condition: Condition) -> RequestBody {
    RequestBody::Operation(Operation::put(key, value).only_if(condition).alone())
}

pub fn partition(key: &[u8]) -> u64 {
    hash::token(0, key).0 >> (u64::BITS - PARTITIONS.trailing_zeros())
}

/// Writers on the connections of `client`, one for each partition, each of which must find that every write of its own was done
/// once.
pub struct Steady {
    over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<u64>>,
}

impl Steady {
    pub fn begin(client: &Client) -> Steady {
        let over = Arc::new(AtomicBool::new(false));
        let key = |at: u64| (0..).map(|n| format!("steady/{n}")).find(|key| partition(key.as_bytes()) == at).expect("endless");
        let writers =
            (0..u64::from(PARTITIONS)).map(|at| tokio::spawn(Steady::write(client.clone(), key(at), Arc::clone(&over))));
        Steady { writers: writers.collect(), over }
    }

    async fn write(client: Client, key: String, over: Arc<AtomicBool>) -> u64 {
        let (mut condition, mut done) = (Condition::Absent, 0);
        while !over.load(Ordering::Relaxed) {
            let body = put_if(key.clone(), done.to_string(), condition);
            match client.call(body).await {
                Ok(ResponseBody::Written { version, .. }) => condition = Condition::Version(version),
                other => panic!("a write of another request's connection was disturbed: {other:?}"),
            }
            done += 1;
        }
        done
    }

    /// None was disturbed.
    pub async fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let mut least = u64::MAX;
        for writer in self.writers {
            least = least.min(writer.await.expect("was not disturbed"));
        }
        least
    }
}

/// A client that checks nothing before it sends.
pub struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
    next: u64,
}

impl Raw {
    pub async fn dial(address: &str, cluster: Option<ClusterId>) -> Raw {
        let mut stream = TcpStream::connect(address).await.expect("listens");
        handshake::dial(&mut stream, &Hello::client_of(cluster, None)).await.expect("lets us in");
        Raw { stream, buffer: BytesMut::new(), next: 0 }
    }

    /// What the node itself answers; the connection must live on.
    pub async fn call(&mut self, body: RequestBody) -> Result<ResponseBody, Error> {
        self.next += 1;
        let mut bytes = Vec::new();
        let timeout_ms = PATIENCE.as_millis() as u32;
        frame::append(Kind::Message, &Request { id: self.next, timeout_ms, body }, &mut bytes);
        self.stream.write_all(&bytes).await.expect("open");
        let limit = ringseed::base::limits::FRAME_SIZE_MAX;
        let response: Response = loop {
            if let Some((kind, body)) = frame::take(&mut self.buffer, limit).expect("a good frame") {
                assert_eq!(kind, Kind::Message, "the node closes the connection: {}", body.escape_ascii());
                break codec::decode(&body).expect("a response");
            }
            let read = self.stream.read_buf(&mut self.buffer).await.expect("open");
            assert!(read > 0, "the node has closed the connection");
        };
        assert_eq!(response.id, self.next);
        match response.body {
            ResponseBody::ConditionFailed { version, present } => Err(Error::ConditionFailed { version, present }),
            ResponseBody::Rejected(why) => Err(Error::Rejected(why)),
            ResponseBody::Unknown(why) => Err(Error::Unknown(why)),
            body => Ok(body),
        }
    }
}

pub fn version(number: u64) -> Condition {
    Condition::Version(Version(number))
}
