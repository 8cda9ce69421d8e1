//! Frames: how messages are cut out of a stream of bytes.
//!
//! ```text
//! frame    := length u32 | checksum u32 | body           (little-endian)
//! length   := bytes of body, at most the limit of the connection's role
//! checksum := the low half of XXH3-64 of body, seeded with length
//! body     := kind u8 | payload
//! ```
//!
//! The checksum is there because TCP's own is 16 bits wide and is often computed before the bytes cross a bus that flips
//! them; a flipped append must not be replicated (promise P4).
//!
//! A small body is copied out of the receive buffer, so that a key kept for years never keeps a buffer of 128 KiB with it. A
//! large body is split off and shared.

use crate::base::hash::checksum;
use crate::msg::codec;
use bytes::{Buf, Bytes, BytesMut};
use core::fmt;

/// Bytes in front of a body.
pub const HEADER_SIZE: usize = 8;
/// Bodies up to this size are copied out of the receive buffer.
const COPIED_SIZE_MAX: usize = 4 * 1024;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An envelope, a request or a response: the connection's role says which.
    Message,
    /// Why the sender closes the connection: a [`Goodbye`](super::handshake::Goodbye). The last frame.
    Goodbye,
}

/// Bytes that are no frame. The connection is lost: where the next frame begins is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    TooLong { length: usize, limit: usize },
    Empty,
    Checksum,
    UnknownKind(u8),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong { length, limit } => write!(f, "a frame of {length} bytes; at most {limit} are allowed"),
            FrameError::Empty => write!(f, "an empty frame"),
            FrameError::Checksum => write!(f, "a frame fails its checksum"),
            FrameError::UnknownKind(kind) => write!(f, "a frame of unknown kind {kind}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Encodes `message` as one frame behind what `out` already holds. Gives the frame's size, header included.
///
/// # Panics
/// If the frame is longer than its header can say: our own messages have limits far below.
pub fn append<T: minicbor::Encode<codec::Frame>>(kind: Kind, message: &T, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_SIZE]);
    out.push(match kind {
        Kind::Message => 0,
        Kind::Goodbye => 1,
    });
    codec::encode_into(message, out);
    let length = u32::try_from(out.len() - start - HEADER_SIZE).expect("a message of our own is shorter than 4 GiB");
    let sum = frame_checksum(length, &out[start + HEADER_SIZE..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + HEADER_SIZE].copy_from_slice(&sum.to_le_bytes());
    out.len() - start
}

/// Takes the first frame out of `buffer`; `None` when it is not all there yet. `limit`: the longest body, in bytes.
///
/// # Errors
/// See [`FrameError`]. `buffer` is of no further use then.
pub fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<(Kind, Bytes)>, FrameError> {
    let Some(length) = peek_length(buffer, limit)? else {
        return Ok(None);
    };
    if buffer.len() < HEADER_SIZE + length {
        return Ok(None);
    }
    let sum = u32::from_le_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]);
    let body = &buffer[HEADER_SIZE..HEADER_SIZE + length];
    if frame_checksum(length as u32, body) != sum {
        return Err(FrameError::Checksum);
    }
    let kind = match body[0] {
        0 => Kind::Message,
        1 => Kind::Goodbye,
        other => return Err(FrameError::UnknownKind(other)),
    };
    if length <= COPIED_SIZE_MAX {
        let payload = Bytes::copy_from_slice(&body[1..]);
        buffer.advance(HEADER_SIZE + length);
        return Ok(Some((kind, payload)));
    }
    buffer.advance(HEADER_SIZE + 1);
    Ok(Some((kind, buffer.split_to(length - 1).freeze())))
}

/// How many more bytes the first frame of `buffer` needs, as far as can be told; 0: it is all there.
pub fn missing(buffer: &BytesMut, limit: usize) -> Result<usize, FrameError> {
    Ok(match peek_length(buffer, limit)? {
        None => HEADER_SIZE - buffer.len(),
        Some(length) => (HEADER_SIZE + length).saturating_sub(buffer.len()),
    })
}

fn peek_length(buffer: &BytesMut, limit: usize) -> Result<Option<usize>, FrameError> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head) as usize;
    if length == 0 {
        return Err(FrameError::Empty);
    }
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok((buffer.len() >= HEADER_SIZE).then_some(length))
}

fn frame_checksum(length: u32, body: &[u8]) -> u32 {
    checksum(u64::from(length), body) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::client::{Request, RequestBody};

    fn request(id: u64) -> Request {
        Request { id, timeout_ms: 5, body: RequestBody::Ring }
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut bytes = Vec::new();
        for id in 0..20 {
            append(Kind::Message, &request(id), &mut bytes);
        }
        for cut in 1..=bytes.len() {
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for part in bytes.chunks(cut) {
                buffer.extend_from_slice(part);
                while let Some((kind, body)) = take(&mut buffer, 1024).expect("good frames") {
                    assert_eq!(kind, Kind::Message);
                    seen.push(codec::decode::<Request>(&body).expect("a request").id);
                }
                assert!(buffer.is_empty() || missing(&buffer, 1024).expect("good frame") > 0);
            }
            assert_eq!(seen, (0..20).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_large_body_is_shared_and_a_small_one_copied() {
        let mut bytes = Vec::new();
        append(Kind::Message, &minicbor::bytes::ByteVec::from(vec![7u8; 2 * COPIED_SIZE_MAX]), &mut bytes);
        let mut buffer = BytesMut::from(&bytes[..]);
        let (_, body) = take(&mut buffer, 1 << 20).expect("good").expect("whole");
        assert_eq!(body.len(), bytes.len() - HEADER_SIZE - 1);
        assert!(buffer.is_empty());
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        append(Kind::Message, &request(7), &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut buffer = BytesMut::from(&flipped[..]);
            match take(&mut buffer, 1 << 20) {
                Ok(None) | Err(_) => {}
                Ok(Some(_)) => panic!("bit {bit} passed"),
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0x7f][..]);
        assert!(matches!(take(&mut buffer, 1024), Err(FrameError::TooLong { limit: 1024, .. })));
        let mut empty = BytesMut::from(&[0u8; 8][..]);
        assert_eq!(take(&mut empty, 1024), Err(FrameError::Empty));
    }
}
