//! Encoding: CBOR by `minicbor`, fields by number, so that either side may know fewer of them than the other.
//!
//! A payload (key, value) is decoded as a slice of the frame that it came in: [`Bytes`], shared, not copied. That is
//! what the decoding context ([`Frame`]) is for. Hostile bytes give an error; they neither panic nor allocate more than
//! the frame's own size asks for.

use bytes::Bytes;
use core::fmt;

/// Bytes that do not decode, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecError(pub String);

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed message: {}", self.0)
    }
}

impl std::error::Error for CodecError {}

/// The frame a message is decoded from, of which its payloads become slices.
#[derive(Debug)]
pub struct Frame(Bytes);

/// Implemented by [`Frame`] alone; derived decoders name it as their context's bound.
pub trait Slices {
    fn slice(&self, part: &[u8]) -> Bytes;
}

impl Slices for Frame {
    fn slice(&self, part: &[u8]) -> Bytes {
        self.0.slice_ref(part)
    }
}

/// Encodes `message` behind what `out` already holds.
pub fn encode_into<T: minicbor::Encode<Frame>>(message: &T, out: &mut Vec<u8>) {
    // Derived encoders name the decoders' context as their bound, too; they do not use it.
    minicbor::encode_with(message, out, &mut Frame(Bytes::new())).expect("encoding into memory does not fail");
}

pub fn encode<T: minicbor::Encode<Frame>>(message: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(message, &mut out);
    out
}

/// Decodes one message that is all of `frame`.
pub fn decode<T: for<'b> minicbor::Decode<'b, Frame>>(frame: &Bytes) -> Result<T, CodecError> {
    let mut context = Frame(frame.clone());
    let mut decoder = minicbor::Decoder::new(frame);
    let message = decoder.decode_with(&mut context).map_err(|e| CodecError(e.to_string()))?;
    match decoder.position() {
        at if at == frame.len() => Ok(message),
        at => Err(CodecError(format!("{} bytes behind the message", frame.len() - at))),
    }
}

/// Bytes where a type stands alone: in a list, or as a parameter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Blob(pub Bytes);

impl<C> minicbor::Encode<C> for Blob {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C: Slices> minicbor::Decode<'b, C> for Blob {
    fn decode(d: &mut minicbor::Decoder<'b>, context: &mut C) -> Result<Self, minicbor::decode::Error> {
        let part = d.bytes()?;
        Ok(Blob(context.slice(part)))
    }
}

/// For `#[cbor(with = "codec::blob")]` on a field of type [`Bytes`].
pub mod blob {
    use super::{Bytes, Slices};

    pub fn encode<C, W: minicbor::encode::Write>(
        bytes: &Bytes,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(bytes)?.ok()
    }

    pub fn decode<'b, C: Slices>(d: &mut minicbor::Decoder<'b>, context: &mut C) -> Result<Bytes, minicbor::decode::Error> {
        let part = d.bytes()?;
        Ok(context.slice(part))
    }
}

/// For `#[cbor(with = "codec::maybe_blob")]` on a field of type `Option<Bytes>`.
pub mod maybe_blob {
    use super::{Bytes, Slices};

    pub fn encode<C, W: minicbor::encode::Write>(
        bytes: &Option<Bytes>,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        match bytes {
            Some(bytes) => e.bytes(bytes)?.ok(),
            None => e.null()?.ok(),
        }
    }

    pub fn decode<'b, C: Slices>(
        d: &mut minicbor::Decoder<'b>,
        context: &mut C,
    ) -> Result<Option<Bytes>, minicbor::decode::Error> {
        if d.datatype()? == minicbor::data::Type::Null {
            d.null()?;
            return Ok(None);
        }
        let part = d.bytes()?;
        Ok(Some(context.slice(part)))
    }

    pub fn nil() -> Option<Option<Bytes>> {
        Some(None)
    }

    pub fn is_nil(bytes: &Option<Bytes>) -> bool {
        bytes.is_none()
    }
}
