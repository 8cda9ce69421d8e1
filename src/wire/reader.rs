//! Frames from a connection, in batches, with a bound on what a slow or hostile sender can make us hold.
//!
//! A buffer grows by what has arrived, never by what a length field promises. A frame that has begun must be whole within
//! [`FRAME_TIMEOUT`]; a connection on which nothing begins is idle, and closed after the time its role allows. Buffers beyond the
//! first [`BUFFER_SIZE`] bytes count against one limit for all connections of the node.

use super::frame::{self, FrameError, Kind};
use super::handshake::{Goodbye, Reason};
use crate::base::Duration;
use bytes::{Bytes, BytesMut};
use core::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a frame may take from its first byte to its last.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a connection's buffer that are not counted.
const BUFFER_SIZE: usize = 8 * 1024;
/// The most bytes that one read is given room for.
const READ_SIZE_MAX: usize = 256 * 1024;

/// Bytes of receive buffers, over all connections.
#[derive(Debug)]
pub struct Memory {
    held: AtomicUsize,
    limit: usize,
}

impl Memory {
    pub fn new(limit: usize) -> Memory {
        Memory { held: AtomicUsize::new(0), limit }
    }
}

#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    /// Bytes of the longest body.
    frame_limit: usize,
    idle_max: Duration,
    /// How much room the next read is given: doubles when a read fills it.
    read_size: usize,
    memory: Arc<Memory>,
    /// Bytes counted in `memory`.
    counted: usize,
    /// When the frame at the front of the buffer began to arrive.
    began: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
}

/// Why nothing more can be read.
#[derive(Debug)]
pub enum ReadError {
    Io(io::Error),
    Frame(FrameError),
    /// A frame took too long.
    TooSlow,
    Idle,
    /// All connections together hold too much.
    NoMemory,
}

impl ReadError {
    /// What the other end is told, if it can be told anything.
    pub fn goodbye(&self) -> Option<Goodbye> {
        let reason = match self {
            ReadError::Io(_) => return None,
            ReadError::Frame(_) => Reason::Malformed,
            ReadError::TooSlow => Reason::TooSlow,
            ReadError::Idle => Reason::Idle,
            ReadError::NoMemory => Reason::Overloaded,
        };
        Some(Goodbye::new(reason, self.to_string()))
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io(error) => write!(f, "{error}"),
            ReadError::Frame(error) => write!(f, "{error}"),
            ReadError::TooSlow => write!(f, "a frame took longer than {} s", FRAME_TIMEOUT.as_secs()),
            ReadError::Idle => write!(f, "nothing was sent for too long"),
            ReadError::NoMemory => write!(f, "the node has no memory to spare for this connection"),
        }
    }
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// `frame_limit`: bytes of the longest body. `idle_max`: how long the connection may be silent.
    pub fn new(stream: R, frame_limit: usize, idle_max: Duration, memory: Arc<Memory>) -> FrameReader<R> {
        FrameReader {
            stream,
            buffer: BytesMut::new(),
            frame_limit,
            idle_max,
            read_size: BUFFER_SIZE,
            memory,
            counted: 0,
            began: None,
            alarm: Box::pin(sleep_until(Instant::now() + idle_max)),
        }
    }

    /// Waits for at least one frame, and adds to `frames` what has arrived, at most `count_max`. `false`: the other end has
    /// closed.
    pub async fn next(&mut self, frames: &mut Vec<(Kind, Bytes)>, count_max: usize) -> Result<bool, ReadError> {
        loop {
            while frames.len() < count_max {
                match frame::take(&mut self.buffer, self.frame_limit).map_err(ReadError::Frame)? {
                    Some(frame) => frames.push(frame),
                    None => break,
                }
            }
            if !frames.is_empty() {
                // What is left began now, as far as its timeout is concerned.
                self.began = None;
                return Ok(true);
            }
            self.make_room()?;
            match self.read().await? {
                0 if self.buffer.is_empty() => return Ok(false),
                0 => return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into())),
                _ => {}
            }
        }
    }

    fn make_room(&mut self) -> Result<(), ReadError> {
        let missing = frame::missing(&self.buffer, self.frame_limit).map_err(ReadError::Frame)?;
        let room = if self.buffer.is_empty() { self.read_size } else { missing.clamp(self.read_size, READ_SIZE_MAX) };
        self.buffer.reserve(room);
        let holds = self.buffer.capacity().saturating_sub(BUFFER_SIZE);
        if holds > self.counted {
            let more = holds - self.counted;
            let before = self.memory.held.fetch_add(more, Ordering::Relaxed);
            self.counted = holds;
            if before + more > self.memory.limit {
                return Err(ReadError::NoMemory);
            }
        } else if holds < self.counted {
            self.memory.held.fetch_sub(self.counted - holds, Ordering::Relaxed);
            self.counted = holds;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<usize, ReadError> {
        let now = Instant::now();
        let (until, error) = if self.buffer.is_empty() {
            (now + self.idle_max, ReadError::Idle)
        } else {
            (*self.began.get_or_insert(now) + FRAME_TIMEOUT, ReadError::TooSlow)
        };
        // An alarm that is too early is set anew when it rings: cheaper than setting it at every read.
        if self.alarm.deadline() > until {
            self.alarm.as_mut().reset(until);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        loop {
            tokio::select! {
                biased;
                read = self.stream.read_buf(&mut self.buffer) => {
                    let count = read.map_err(ReadError::Io)?;
                    if count == room && self.read_size < READ_SIZE_MAX {
                        self.read_size *= 2;
                    }
                    return Ok(count);
                }
                () = self.alarm.as_mut() => {
                    if Instant::now() >= until {
                        return Err(error);
                    }
                    self.alarm.as_mut().reset(until);
                }
            }
        }
    }
}

impl<R> Drop for FrameReader<R> {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn memory(limit: usize) -> Arc<Memory> {
        Arc::new(Memory::new(limit))
    }

    fn frame_of(size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        frame::append(Kind::Message, &minicbor::bytes::ByteVec::from(vec![5; size]), &mut out);
        out
    }

    #[tokio::test]
    async fn batches_of_frames_of_every_size_arrive_whole() {
        let (near, mut far) = tokio::io::duplex(1000);
        let sizes = [0, 1, 100, 5_000, 70_000, 3, 400_000, 9];
        tokio::spawn(async move {
            for size in sizes {
                far.write_all(&frame_of(size)).await.expect("open");
            }
        });
        let memory = memory(1 << 20);
        let mut reader = FrameReader::new(near, 1 << 20, Duration::from_secs(9), Arc::clone(&memory));
        let mut frames = Vec::new();
        let mut seen = Vec::new();
        while reader.next(&mut frames, 3).await.expect("good frames") {
            assert!((1..=3).contains(&frames.len()));
            seen.extend(frames.drain(..).map(|(_, body)| minicbor::Decoder::new(&body).bytes().expect("bytes").len()));
        }
        assert_eq!(seen, sizes);
        drop(reader);
        assert_eq!(memory.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_promised_length_allocates_nothing_and_too_much_is_refused() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut reader = FrameReader::new(near, 8 << 20, Duration::from_secs(9), memory(600_000));
        far.write_all(&frame_of(4 << 20)[..100]).await.expect("open");
        let mut frames = Vec::new();
        let waits = tokio::time::timeout(Duration::from_millis(50), reader.next(&mut frames, 1)).await;
        assert!(waits.is_err());
        assert!(reader.buffer.capacity() < 600_000);
        far.write_all(&vec![0; 800_000]).await.expect("open");
        assert!(matches!(reader.next(&mut frames, 1).await, Err(ReadError::NoMemory)));
    }

    #[tokio::test]
    async fn silence_and_dribble_end() {
        let (near, mut far) = tokio::io::duplex(100);
        let mut reader = FrameReader::new(near, 1 << 20, Duration::from_millis(20), memory(1 << 20));
        assert!(matches!(reader.next(&mut Vec::new(), 1).await, Err(ReadError::Idle)));
        far.write_all(&frame_of(50)[..10]).await.expect("open");
        let waits = tokio::time::timeout(Duration::from_millis(60), reader.next(&mut Vec::new(), 1)).await;
        assert!(waits.is_err(), "a frame that has begun may take longer");
        drop(far);
        assert!(matches!(reader.next(&mut Vec::new(), 1).await, Err(ReadError::Io(_))));
    }
}
