//! What waits to be written to one connection: encoded, bounded, and written as few large pieces.
//!
//! Messages are encoded straight into one buffer. The connection's writer swaps it for an empty one and writes it whole: the more
//! there is to say, the fewer system calls it takes. When the buffer is full, what happens depends on the kind of connection: to
//! a peer, expendable frames are dropped first, then the oldest (the transport may lose); a client is cut off, since an answer
//! that is not delivered would leave it waiting for ever.

use super::frame::{self, Kind};
use super::handshake::Goodbye;
use crate::base::Duration;
use crate::msg::codec;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long the other end may leave us without room for one more byte. Beyond: the connection is closed.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(10);
/// A buffer that has grown beyond this is given back once it is written.
const BUFFER_KEPT_MAX: usize = 256 * 1024;
/// Bytes that a connection may let wait even when all together are over their limit.
const SHARE: usize = 64 * 1024;

#[derive(Debug)]
pub struct Outgoing {
    state: Mutex<State>,
    /// There is something to write, or an end.
    filled: Notify,
    /// The writer has taken what waited.
    taken: Notify,
    /// Bytes. Of what waits; what is being written comes on top, and was within the limit too.
    limit: usize,
    /// What waits on all connections that share this.
    total: Arc<Total>,
}

/// Bytes that wait to be written on several connections together.
#[derive(Debug)]
pub struct Total {
    bytes: AtomicUsize,
    limit: usize,
}

impl Total {
    pub fn new(limit: usize) -> Total {
        Total { bytes: AtomicUsize::new(0), limit }
    }
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// The frames in `buffer`, in order.
    frames: VecDeque<FrameMark>,
    /// Bytes that the writer has taken and not yet written.
    in_writing: usize,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy)]
struct FrameMark {
    size: usize,
    expendable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// Write what there is, then this, then close.
    Drain(Option<Goodbye>),
    /// Close now.
    Abort,
}

/// What was dropped to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    pub expendable: usize,
    pub data: usize,
}

/// The buffer of a client is full, or the connection is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Outgoing {
    /// `limit`: bytes that may wait. `total`: shared with the connections that have one limit together.
    pub fn new(limit: usize, total: Arc<Total>) -> Outgoing {
        Outgoing { state: Mutex::default(), filled: Notify::new(), taken: Notify::new(), limit, total }
    }

    /// Adds a message; gives the bytes that now wait, those being written included.
    ///
    /// # Errors
    /// [`Full`], and nothing is added.
    pub fn push<T: minicbor::Encode<codec::Frame>>(&self, message: &T) -> Result<usize, Full> {
        let mut state = self.lock();
        let waits = state.buffer.len();
        // Where all are over their limit together, those that hold more than their share go.
        let crowded = waits > SHARE && self.total.bytes.load(Ordering::Relaxed) > self.total.limit;
        if state.end.is_some() || waits > self.limit || crowded {
            return Err(Full);
        }
        self.append(&mut state, message, false);
        Ok(state.buffer.len() + state.in_writing)
    }

    /// Adds a message; drops others, and perhaps the message itself, when there is no room.
    pub fn push_dropping<T: minicbor::Encode<codec::Frame>>(&self, message: &T, expendable: bool) -> Dropped {
        let mut state = self.lock();
        if state.end.is_some() {
            return Dropped { expendable: usize::from(expendable), data: usize::from(!expendable) };
        }
        self.append(&mut state, message, expendable);
        if state.buffer.len() <= self.limit {
            return Dropped::default();
        }
        let before = state.buffer.len();
        let dropped = make_room(&mut state, self.limit);
        self.total.bytes.fetch_sub(before - state.buffer.len(), Ordering::Relaxed);
        dropped
    }

    /// Waits until at most `size` bytes wait, or the end has come.
    pub async fn below(&self, size: usize) {
        loop {
            let taken = self.taken.notified();
            {
                let state = self.lock();
                if state.buffer.len() <= size || state.end.is_some() {
                    return;
                }
            }
            taken.await;
        }
    }

    /// Ends the connection after what waits, and `goodbye`, is written. The first end counts.
    pub fn finish(&self, goodbye: Option<Goodbye>) {
        self.lock().end.get_or_insert(End::Drain(goodbye));
        self.filled.notify_one();
    }

    /// Ends the connection now.
    pub fn abort(&self) {
        self.discard(&mut self.lock());
        self.filled.notify_one();
    }

    /// Writes what is pushed until the end. One caller at a time.
    ///
    /// # Errors
    /// Of the connection; `TimedOut` when the other end does not read. The connection is to be dropped then.
    pub async fn write_to<W: AsyncWrite + Unpin>(&self, stream: &mut W) -> io::Result<()> {
        let written = self.write_until_end(stream).await;
        self.discard(&mut self.lock());
        written
    }

    /// Forgets what waits. Also what is being written: its writer is done, or will never be.
    fn discard(&self, state: &mut State) {
        self.total.bytes.fetch_sub(state.buffer.len() + std::mem::take(&mut state.in_writing), Ordering::Relaxed);
        state.end = Some(End::Abort);
        state.buffer = Vec::new();
        state.frames = VecDeque::new();
        self.taken.notify_waiters();
    }

    async fn write_until_end<W: AsyncWrite + Unpin>(&self, stream: &mut W) -> io::Result<()> {
        let mut taken = Vec::new();
        loop {
            let end = self.take(&mut taken);
            if taken.is_empty() {
                match end {
                    None => self.filled.notified().await,
                    Some(End::Abort) => return Ok(()),
                    Some(End::Drain(goodbye)) => return close(stream, goodbye).await,
                }
                continue;
            }
            write_steadily(stream, &taken).await?;
            taken.clear();
            if taken.capacity() > BUFFER_KEPT_MAX {
                taken = Vec::new();
            }
        }
    }

    /// Swaps the filled buffer for `taken`, which is empty.
    fn take(&self, taken: &mut Vec<u8>) -> Option<End> {
        let mut state = self.lock();
        std::mem::swap(&mut state.buffer, taken);
        state.frames.clear();
        let written = std::mem::replace(&mut state.in_writing, taken.len());
        self.total.bytes.fetch_sub(written, Ordering::Relaxed);
        self.taken.notify_waiters();
        state.end.clone()
    }

    fn append<T: minicbor::Encode<codec::Frame>>(&self, state: &mut State, message: &T, expendable: bool) {
        let idle = state.buffer.is_empty();
        let size = frame::append(Kind::Message, message, &mut state.buffer);
        state.frames.push_back(FrameMark { size, expendable });
        self.total.bytes.fetch_add(size, Ordering::Relaxed);
        // With bytes in the buffer, the writer has been told and has not looked yet.
        if idle {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops expendable frames, then the oldest, until `limit` is kept by half: a full buffer is cut once, not for every frame.
fn make_room(state: &mut State, limit: usize) -> Dropped {
    let mut dropped = Dropped::default();
    let mut excess = state.buffer.len().saturating_sub(limit / 2);
    let mut keep = vec![true; state.frames.len()];
    for pass_expendable in [true, false] {
        for (mark, keep) in state.frames.iter().zip(&mut keep) {
            if excess == 0 {
                break;
            }
            if mark.expendable == pass_expendable {
                *keep = false;
                excess = excess.saturating_sub(mark.size);
                if mark.expendable { dropped.expendable += 1 } else { dropped.data += 1 }
            }
        }
    }
    let mut kept = Vec::new();
    let mut offset = 0;
    for (mark, keep) in state.frames.iter().zip(&keep) {
        if *keep {
            kept.extend_from_slice(&state.buffer[offset..offset + mark.size]);
        }
        offset += mark.size;
    }
    state.buffer = kept;
    let mut keep = keep.into_iter();
    state.frames.retain(|_| keep.next().expect("one for each frame"));
    dropped
}

async fn write_steadily<W: AsyncWrite + Unpin>(stream: &mut W, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match timeout(WRITE_STALL_MAX, stream.write(rest)).await {
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(Ok(count)) => rest = &rest[count..],
            Ok(Err(error)) => return Err(error),
        }
    }
    // Some streams (a simulated one) send nothing before they are told to.
    timeout(WRITE_STALL_MAX, stream.flush()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn close<W: AsyncWrite + Unpin>(stream: &mut W, goodbye: Option<Goodbye>) -> io::Result<()> {
    if let Some(goodbye) = goodbye {
        let mut out = Vec::new();
        frame::append(Kind::Goodbye, &goodbye, &mut out);
        write_steadily(stream, &out).await?;
    }
    timeout(WRITE_STALL_MAX, stream.shutdown()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::handshake::Reason;
    use bytes::BytesMut;
    use tokio::io::AsyncReadExt;

    fn total() -> Arc<Total> {
        Arc::new(Total::new(1 << 30))
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        let mut buffer = BytesMut::from(bytes);
        let mut out = Vec::new();
        while let Some((kind, body)) = frame::take(&mut buffer, 1 << 20).expect("good frames") {
            if kind == Kind::Message {
                out.push(codec::decode(&body).expect("a number"));
            }
        }
        assert!(buffer.is_empty());
        out
    }

    #[tokio::test]
    async fn what_is_pushed_comes_out_in_order_and_the_end_last() {
        let (mut near, mut far) = tokio::io::duplex(16);
        let outgoing = Arc::new(Outgoing::new(1 << 20, total()));
        let writer = tokio::spawn({
            let outgoing = Arc::clone(&outgoing);
            async move { outgoing.write_to(&mut near).await }
        });
        for number in 0..500u64 {
            outgoing.push(&number).expect("room");
            if number % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        outgoing.finish(Some(Goodbye::new(Reason::Stopping, "bye")));
        assert_eq!(outgoing.push(&1u64), Err(Full));
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.expect("open");
        assert_eq!(numbers(&bytes), (0..500).collect::<Vec<_>>());
        writer.await.expect("no panic").expect("no error");
    }

    #[test]
    fn a_full_queue_drops_heartbeats_before_data_and_old_before_new() {
        let frame = frame::append(Kind::Message, &1u64, &mut Vec::new());
        let outgoing = Outgoing::new(frame * 20, total());
        for number in 0..20u64 {
            assert_eq!(outgoing.push_dropping(&(number % 20), number % 5 == 0), Dropped::default());
        }
        let dropped = outgoing.push_dropping(&20u64, false);
        assert_eq!(dropped.expendable, 4);
        let mut taken = Vec::new();
        outgoing.take(&mut taken);
        let left = numbers(&taken);
        assert_eq!(left.len() + dropped.expendable + dropped.data, 21);
        assert!(left.iter().all(|number| number % 5 != 0 || *number == 20));
        assert!(left.is_sorted() && left.last() == Some(&20));
    }

    #[test]
    fn a_client_that_does_not_read_is_full_at_its_limit() {
        let outgoing = Outgoing::new(100, total());
        let pushed = (0..1_000u64).take_while(|number| outgoing.push(number).is_ok()).count();
        assert!((5..20).contains(&pushed), "{pushed}");
        outgoing.abort();
        assert_eq!(outgoing.total.bytes.load(Ordering::Relaxed), 0);
    }
}
