//! What a client may send to a server, and a server to a client: the hello, then frames, in pieces of any size. Errors or
//! messages, never a panic, and never more memory than the bytes that came.
//!
//! A checksum that is right is rare in arbitrary bytes, so half of the inputs are framed properly first, and only their bodies
//! are arbitrary.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use ringseed::base::limits::FRAME_SIZE_MAX;
use ringseed::base::hash::checksum;
use ringseed::msg::client::{Request, Response};
use ringseed::msg::codec;
use ringseed::wire::frame::{self, Kind};
use ringseed::wire::handshake::{HELLO_SIZE, Hello};

fuzz_target!(|input: &[u8]| {
    if let Some(hello) = input.first_chunk::<HELLO_SIZE>()
        && let Ok(decoded) = Hello::decode(hello)
    {
        assert_eq!(Hello::decode(&decoded.encode()).expect("what was encoded decodes"), decoded);
    }
    let Some((choice, rest)) = input.split_first() else { return };
    let stream = if choice % 2 == 0 { rest.to_vec() } else { framed(rest) };
    let mut buffer = BytesMut::new();
    for piece in stream.chunks(1 + usize::from(choice / 2)) {
        buffer.extend_from_slice(piece);
        loop {
            match frame::take(&mut buffer, FRAME_SIZE_MAX) {
                Ok(Some((Kind::Message, body))) => read(&body),
                Ok(Some((Kind::Goodbye, body))) => drop(codec::decode::<ringseed::wire::handshake::Goodbye>(&body)),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});

/// A frame around a message of these bytes.
fn framed(payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    body.extend_from_slice(payload);
    let length = body.len() as u32;
    let mut stream = length.to_le_bytes().to_vec();
    stream.extend_from_slice(&(checksum(u64::from(length), &body) as u32).to_le_bytes());
    stream.extend_from_slice(&body);
    stream
}

fn read(body: &Bytes) {
    if let Ok(request) = codec::decode::<Request>(body) {
        let again = Bytes::from(codec::encode(&request));
        assert_eq!(codec::decode::<Request>(&again).expect("what was encoded decodes"), request);
    }
    if let Ok(response) = codec::decode::<Response>(body) {
        let again = Bytes::from(codec::encode(&response));
        assert_eq!(codec::decode::<Response>(&again).expect("what was encoded decodes"), response);
    }
}
