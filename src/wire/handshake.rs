//! The handshake: which node or client is at the other end, before anything else is said.
//!
//! The side that dialled sends its [`Hello`] first. The other answers with its own, and with a [`Goodbye`] behind it if it does
//! not want the connection: wrong magic or version, wrong cluster, a node id that is taken, too many connections. Each side
//! checks the other's hello by itself. After that both send frames.
//!
//! An address is no identity: another cluster may listen where this one did. So a client names the cluster that it wants as soon
//! as it knows one, and the node as soon as it knows whose address it dials. A server refuses to be taken for another, and a
//! client sends no request to another.
//!
//! A hello has a fixed size and place for every field in every version. So two versions can tell each other why they do not
//! understand each other.

use super::frame::{self, Kind};
use crate::base::hash::checksum;
use crate::base::{ClusterId, DirectoryId, Duration, Epoch, NodeId};
use core::fmt;
use minicbor::{Decode, Encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// The first bytes of every connection.
pub const MAGIC: [u8; 8] = *b"RINGSEED";
/// Of frames and messages. Both ends must have the same; a field that is added to a message does not change it.
pub const PROTOCOL_VERSION: u16 = 1;
/// Bytes of a hello.
pub const HELLO_SIZE: usize = 64;
/// How long the other end may take for its hello. Beyond: the connection is closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A member of the cluster. Sends envelopes of the bulk lane.
    Peer,
    /// A member of the cluster, on a connection of its own for the control lane.
    PeerControl,
    /// Sends requests, is sent responses.
    Client,
}

/// What each side says of itself. A client has no directory or epoch (zeros); its node and cluster are those that it wants, 0 and
/// `None`: any. A node that is dialled keeps epoch and directory to itself: zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    pub role: Role,
    pub node: NodeId,
    pub epoch: Epoch,
    /// `None`: not known yet.
    pub cluster: Option<ClusterId>,
    pub directory: DirectoryId,
}

/// Why a connection is closed by the side that says so.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Goodbye {
    #[n(0)]
    pub reason: Reason,
    /// For humans.
    #[n(1)]
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Reason {
    #[n(0)]
    WrongMagic,
    #[n(1)]
    WrongVersion,
    #[n(2)]
    WrongCluster,
    /// The node id belongs to a node that is connected now, from another data directory.
    #[n(3)]
    NodeIdTaken,
    #[n(4)]
    TooManyConnections,
    #[n(5)]
    Malformed,
    /// The node has stopped cleanly. It has answered all requests that it took; those without an answer it did not take.
    #[n(6)]
    Stopping,
    /// The other end did not read, or did not finish what it began to send.
    #[n(7)]
    TooSlow,
    /// Nothing was asked for a long time.
    #[n(8)]
    Idle,
    /// A newer connection of the same node took the place of this connection.
    #[n(9)]
    Replaced,
    /// The node has no memory to spare for this connection's bytes.
    #[n(10)]
    Overloaded,
    /// The node id is not in the cluster, as this node knows it.
    #[n(11)]
    NotAMember,
    /// The client wants another node than the one it reached.
    #[n(12)]
    WrongNode,
}

impl Goodbye {
    pub fn new(reason: Reason, text: impl Into<String>) -> Goodbye {
        Goodbye { reason, text: text.into() }
    }
}

impl fmt::Display for Goodbye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text)
    }
}

/// Bytes that are no hello of this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HelloError {
    WrongMagic,
    WrongVersion(u16),
    Checksum,
    UnknownRole(u8),
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HelloError::WrongMagic => write!(f, "the other end does not speak Ringseed's protocol"),
            HelloError::WrongVersion(theirs) => {
                write!(f, "the other end speaks version {theirs} of the protocol, this one version {PROTOCOL_VERSION}")
            }
            HelloError::Checksum => write!(f, "the other end's hello fails its checksum"),
            HelloError::UnknownRole(role) => write!(f, "the other end has the unknown role {role}"),
        }
    }
}

impl std::error::Error for HelloError {}

impl HelloError {
    pub fn goodbye(&self) -> Goodbye {
        let reason = match self {
            HelloError::WrongMagic => Reason::WrongMagic,
            HelloError::WrongVersion(_) => Reason::WrongVersion,
            HelloError::Checksum | HelloError::UnknownRole(_) => Reason::Malformed,
        };
        Goodbye::new(reason, self.to_string())
    }
}

/// Why a handshake failed.
#[derive(Debug)]
pub enum HandshakeError {
    TimedOut,
    Io(std::io::Error),
    Hello(HelloError),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::TimedOut => write!(f, "no hello within {} s", HANDSHAKE_TIMEOUT.as_secs()),
            HandshakeError::Io(error) => write!(f, "{error}"),
            HandshakeError::Hello(error) => write!(f, "{error}"),
        }
    }
}

impl Hello {
    /// Of a client that takes any node of any cluster.
    pub fn client() -> Hello {
        Hello::client_of(None, None)
    }

    /// Of a client that wants this cluster, and this node.
    pub fn client_of(cluster: Option<ClusterId>, node: Option<NodeId>) -> Hello {
        let node = node.unwrap_or(NodeId::ZERO);
        Hello { role: Role::Client, node, epoch: Epoch::ZERO, cluster, directory: DirectoryId::default() }
    }

    /// ```text
    /// magic 8 | version u16 | role u8 | flags u8 | node u16 | zero u16 | epoch u64 | cluster u128 | directory u128 | checksum u64
    /// ```
    /// Little-endian; flag 1: the cluster is known; the checksum is XXH3-64 of what is before it.
    pub fn encode(&self) -> [u8; HELLO_SIZE] {
        let mut out = [0; HELLO_SIZE];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        out[10] = match self.role {
            Role::Peer => 1,
            Role::Client => 2,
            Role::PeerControl => 3,
        };
        out[11] = u8::from(self.cluster.is_some());
        out[12..14].copy_from_slice(&self.node.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[24..40].copy_from_slice(&self.cluster.unwrap_or_default().0.to_le_bytes());
        out[40..56].copy_from_slice(&self.directory.0.to_le_bytes());
        let sum = checksum(0, &out[..56]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8; HELLO_SIZE]) -> Result<Hello, HelloError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u64_at = |at: usize| u64::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
        let u128_at = |at: usize| u128::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
        if bytes[..8] != MAGIC {
            return Err(HelloError::WrongMagic);
        }
        // Before the checksum: another version may compute it otherwise, and should still learn what is wrong.
        if u16_at(8) != PROTOCOL_VERSION {
            return Err(HelloError::WrongVersion(u16_at(8)));
        }
        if checksum(0, &bytes[..56]) != u64_at(56) {
            return Err(HelloError::Checksum);
        }
        let role = match bytes[10] {
            1 => Role::Peer,
            2 => Role::Client,
            3 => Role::PeerControl,
            other => return Err(HelloError::UnknownRole(other)),
        };
        Ok(Hello {
            role,
            node: NodeId(u16_at(12)),
            epoch: Epoch(u64_at(16)),
            cluster: (bytes[11] & 1 == 1).then(|| ClusterId(u128_at(24))),
            directory: DirectoryId(u128_at(40)),
        })
    }
}

/// The dialling side: says hello, and gives the other's. A goodbye that follows is read by the connection as its first frame.
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, hello: &Hello) -> Result<Hello, HandshakeError> {
    let exchange = async {
        stream.write_all(&hello.encode()).await?;
        stream.flush().await?;
        read_hello(stream).await
    };
    match timeout(HANDSHAKE_TIMEOUT, exchange).await {
        Err(_) => Err(HandshakeError::TimedOut),
        Ok(Err(error)) => Err(HandshakeError::Io(error)),
        Ok(Ok(bytes)) => Hello::decode(&bytes).map_err(HandshakeError::Hello),
    }
}

/// The listening side: reads the other's hello. It is answered by [`welcome`] or [`refuse`].
pub async fn accept<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Hello, HandshakeError> {
    match timeout(HANDSHAKE_TIMEOUT, read_hello(stream)).await {
        Err(_) => Err(HandshakeError::TimedOut),
        Ok(Err(error)) => Err(HandshakeError::Io(error)),
        Ok(Ok(bytes)) => Hello::decode(&bytes).map_err(HandshakeError::Hello),
    }
}

pub async fn welcome<S: AsyncWrite + Unpin>(stream: &mut S, hello: &Hello) -> std::io::Result<()> {
    stream.write_all(&hello.encode()).await?;
    stream.flush().await
}

/// Says hello and goodbye, and closes.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, hello: &Hello, goodbye: &Goodbye) {
    say_last(stream, hello.encode().to_vec(), goodbye).await;
}

/// Says goodbye, and closes.
pub async fn part<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, goodbye: &Goodbye) {
    say_last(stream, Vec::new(), goodbye).await;
}

async fn say_last<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, mut out: Vec<u8>, goodbye: &Goodbye) {
    frame::append(Kind::Goodbye, goodbye, &mut out);
    let farewell = async {
        stream.write_all(&out).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    // Whether the other end listens is its own affair.
    if let Ok(Ok(())) = timeout(Duration::from_secs(1), farewell).await {
        linger(stream).await;
    }
}

/// Reads a little of what the other end still sends, after the last byte for it is written: a socket that is closed with unread
/// bytes is reset, and the reset may overtake the goodbye.
pub async fn linger<S: AsyncRead + Unpin>(stream: &mut S) {
    let read = async {
        let mut scratch = [0; 4096];
        for _ in 0..64 {
            if !matches!(stream.read(&mut scratch).await, Ok(1..)) {
                break;
            }
        }
    };
    let _ = timeout(Duration::from_secs(1), read).await;
}

async fn read_hello<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<[u8; HELLO_SIZE]> {
    let mut bytes = [0; HELLO_SIZE];
    // The magic alone decides first: what is not Ringseed may never send 64 bytes.
    stream.read_exact(&mut bytes[..8]).await?;
    if bytes[..8] == MAGIC {
        stream.read_exact(&mut bytes[8..]).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            role: Role::Peer,
            node: NodeId(3),
            epoch: Epoch(9),
            cluster: Some(ClusterId(0x1234_5678_9abc)),
            directory: DirectoryId(77),
        }
    }

    #[test]
    fn a_hello_survives_the_wire_and_no_flipped_bit_does() {
        for hello in [hello(), Hello { cluster: None, ..hello() }, Hello::client()] {
            let bytes = hello.encode();
            assert_eq!(Hello::decode(&bytes), Ok(hello));
            for bit in 0..HELLO_SIZE * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Hello::decode(&flipped).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn another_version_is_told_apart_from_noise() {
        let mut bytes = hello().encode();
        bytes[8] = 9;
        assert_eq!(Hello::decode(&bytes), Err(HelloError::WrongVersion(9)));
        bytes[0] = b'X';
        assert_eq!(Hello::decode(&bytes), Err(HelloError::WrongMagic));
    }

    #[tokio::test]
    async fn both_sides_learn_who_the_other_is() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let server = tokio::spawn(async move {
            let seen = accept(&mut far).await.expect("a good hello");
            welcome(&mut far, &Hello { node: NodeId(8), ..hello() }).await.expect("open");
            seen
        });
        let theirs = dial(&mut near, &hello()).await.expect("a good hello");
        assert_eq!(theirs.node, NodeId(8));
        assert_eq!(server.await.expect("no panic"), hello());
    }
}
