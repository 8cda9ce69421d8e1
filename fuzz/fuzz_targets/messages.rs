//! Any bytes, decoded as an envelope: an error or a message, never a panic; and what decodes encodes to what decodes to the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringseed::msg::codec;
use ringseed::msg::peer::Envelope;

fuzz_target!(|input: &[u8]| {
    let frame = Bytes::copy_from_slice(input);
    if let Ok(envelope) = codec::decode::<Envelope>(&frame) {
        let again = Bytes::from(codec::encode(&envelope));
        assert_eq!(codec::decode::<Envelope>(&again).expect("what was encoded decodes"), envelope);
    }
});
