//! Encoding: CBOR by `minicbor`, fields by number, so that either side may know fewer of them than the other.
//!
//! A payload (key, value) is decoded as a slice of the frame that it came in: [`Bytes`], shared, not copied. That is
//! what the decoding context ([`Frame`]) is for. Hostile bytes give an error; they neither panic nor allocate more than
//! [`memory_max`] of the frame.
//!
//! A list is counted before it is built: a byte on the wire may be a hundred in memory. Every list and box of a message that
//! comes from a peer or a client is decoded by [`list`], [`long_list`], [`bounded_list`] or [`boxed`]. They charge what they are
//! about to allocate to the frame. Lists of unknown length are refused, in fields that are not known, too: to skip a list within
//! another, the decoder remembers each.

use crate::base::Key;
use crate::base::limits::{APPEND_ENTRIES_MAX, KEY_SIZE_MAX, SCAN_ITEMS_MAX, TRANSACTION_ITEMS_MAX};
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
pub struct Frame {
    bytes: Bytes,
    /// Bytes that may still be allocated for what it holds.
    memory: usize,
}

/// Bytes that lists and boxes of a frame of `size` bytes may take, at most. Whatever nodes and clients of ours send takes less;
/// the worst are envelopes of many small messages.
pub fn memory_max(size: usize) -> usize {
    MEMORY_FREE + size.saturating_mul(MEMORY_PER_BYTE)
}

const MEMORY_FREE: usize = 256 * 1024;
const MEMORY_PER_BYTE: usize = 32;

/// Implemented by [`Frame`] alone; derived decoders name it as their context's bound.
pub trait Slices {
    fn slice(&self, part: &[u8]) -> Bytes;

    /// So many bytes are about to be allocated. `false`: that is more than the frame may take.
    fn charge(&mut self, bytes: usize) -> bool;
}

impl Slices for Frame {
    fn slice(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }

    fn charge(&mut self, bytes: usize) -> bool {
        let left = self.memory.checked_sub(bytes);
        self.memory = left.unwrap_or(self.memory);
        left.is_some()
    }
}

/// Encodes `message` behind what `out` already holds.
pub fn encode_into<T: minicbor::Encode<Frame>>(message: &T, out: &mut Vec<u8>) {
    // Derived encoders name the decoders' context as their bound, too; they do not use it.
    minicbor::encode_with(message, out, &mut Frame { bytes: Bytes::new(), memory: 0 })
        .expect("encoding into memory does not fail");
}

/// Bytes for which most of what is encoded by itself has room, so that its buffer does not grow.
const USUAL_SIZE: usize = 256;

pub fn encode<T: minicbor::Encode<Frame>>(message: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(USUAL_SIZE);
    encode_into(message, &mut out);
    out
}

/// Decodes one message that is all of `frame`.
pub fn decode<T: for<'b> minicbor::Decode<'b, Frame>>(frame: &Bytes) -> Result<T, CodecError> {
    decode_charged(frame).0
}

/// [`decode`], and how many bytes were charged for lists and boxes. Beside these it allocates no more than the frame's strings.
pub fn decode_charged<T: for<'b> minicbor::Decode<'b, Frame>>(frame: &Bytes) -> (Result<T, CodecError>, usize) {
    if !has_known_lengths(frame) {
        return (Err(CodecError("a list, map or string of known length was expected".into())), 0);
    }
    let memory = memory_max(frame.len());
    let mut context = Frame { bytes: frame.clone(), memory };
    let mut decoder = minicbor::Decoder::new(frame);
    let message = decoder.decode_with(&mut context).map_err(|e| CodecError(e.to_string()));
    let message = message.and_then(|message| match decoder.position() {
        at if at == frame.len() => Ok(message),
        at => Err(CodecError(format!("{} bytes behind the message", frame.len() - at))),
    });
    (message, memory - context.memory)
}

/// Whether nothing in it is of unknown length (RFC 8949, section 3.2). Nothing that we encode is. Looks at the head of each
/// element once, and skips what is in strings.
fn has_known_lengths(frame: &[u8]) -> bool {
    const UNKNOWN: u8 = 31;
    let mut rest = frame;
    while let [head, behind @ ..] = rest {
        let (major, info) = (head >> 5, head & 31);
        let wide = match info {
            24..=27 => 1 << (info - 24),
            UNKNOWN => return false,
            _ => 0,
        };
        // What is cut off, or no head at all, is for the decoder to say.
        let Some((argument, behind)) = behind.split_at_checked(wide) else { return true };
        let argument = match wide {
            0 => u64::from(info),
            _ => argument.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let content = if matches!(major, 2 | 3) { usize::try_from(argument).unwrap_or(usize::MAX) } else { 0 };
        let Some(next) = behind.get(content..) else { return true };
        rest = next;
    }
    true
}

/// The most elements of a [`list`]: items of a page, of a transaction, entries of an append. More than the largest of their
/// limits.
const LIST_MAX: usize = 1_024;
const _: () = assert!(LIST_MAX >= APPEND_ENTRIES_MAX && LIST_MAX >= SCAN_ITEMS_MAX && LIST_MAX >= TRANSACTION_ITEMS_MAX);

/// For `#[cbor(decode_with = "codec::list")]` on a list that has a limit of its own: of at most [`LIST_MAX`] elements. A little
/// beyond its own limit it is decoded all the same, so that its sender can be told.
pub fn list<'b, C: Slices, T: minicbor::Decode<'b, C>>(
    d: &mut minicbor::Decoder<'b>,
    context: &mut C,
) -> Result<Vec<T>, minicbor::decode::Error> {
    bounded_list(d, context, LIST_MAX)
}

/// For `#[cbor(decode_with = "codec::long_list")]` on a list that grows with the cluster: bounded by its frame alone.
pub fn long_list<'b, C: Slices, T: minicbor::Decode<'b, C>>(
    d: &mut minicbor::Decoder<'b>,
    context: &mut C,
) -> Result<Vec<T>, minicbor::decode::Error> {
    bounded_list(d, context, usize::MAX)
}

/// Counts before it builds.
pub fn bounded_list<'b, C: Slices, T: minicbor::Decode<'b, C>>(
    d: &mut minicbor::Decoder<'b>,
    context: &mut C,
    count_max: usize,
) -> Result<Vec<T>, minicbor::decode::Error> {
    let count = d.array()?.ok_or_else(|| minicbor::decode::Error::message("an array of known length was expected"))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > count_max || !context.charge(count.saturating_mul(size_of::<T>())) {
        return Err(minicbor::decode::Error::message("a list is too long"));
    }
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        list.push(d.decode_with(context)?);
    }
    Ok(list)
}

/// For `#[cbor(decode_with = "codec::boxed")]` on a box.
pub fn boxed<'b, C: Slices, T: minicbor::Decode<'b, C>>(
    d: &mut minicbor::Decoder<'b>,
    context: &mut C,
) -> Result<Box<T>, minicbor::decode::Error> {
    if !context.charge(size_of::<T>()) {
        return Err(minicbor::decode::Error::message("there is too much in this frame"));
    }
    d.decode_with(context).map(Box::new)
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

/// A plain key is a byte string. Any other is an array: its table, the partition key with the sort key behind it, and, if there
/// is a sort key, the length of the partition key. So that a key of either form is a slice of its frame; and each key has one
/// form.
impl<C> minicbor::Encode<C> for Key {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        match self.sort_at() {
            None if self.is_plain() => e.bytes(self.bytes())?.ok(),
            None => e.array(2)?.u32(self.table())?.bytes(self.bytes())?.ok(),
            Some(sort_at) => e.array(3)?.u32(self.table())?.bytes(self.bytes())?.u32(sort_at)?.ok(),
        }
    }
}

impl<'b, C: Slices> minicbor::Decode<'b, C> for Key {
    fn decode(d: &mut minicbor::Decoder<'b>, context: &mut C) -> Result<Self, minicbor::decode::Error> {
        let wrong = |what: &str| Err(minicbor::decode::Error::message(what));
        if d.datatype()? == minicbor::data::Type::Bytes {
            let part = d.bytes()?;
            return Ok(Key::from(context.slice(part)));
        }
        let parts = d.array()?;
        if !matches!(parts, Some(2 | 3)) {
            return wrong("a key is a byte string, or an array of two or three");
        }
        let (table, part) = (d.u32()?, d.bytes()?);
        let sort_at = if parts == Some(3) { Some(d.u32()?) } else { None };
        match Key::of_parts(table, context.slice(part), sort_at) {
            None => wrong("a key's sort key begins behind its end"),
            Some(key) if key.is_plain() => wrong("a key of table 0 without a sort key is a byte string"),
            Some(key) => Ok(key),
        }
    }
}

/// For `#[cbor(decode_with = "codec::item_key")]`: the key of an item, which has the size that such a key may have.
pub fn item_key<'b, C: Slices>(d: &mut minicbor::Decoder<'b>, context: &mut C) -> Result<Key, minicbor::decode::Error> {
    let key: Key = d.decode_with(context)?;
    if key.size() > KEY_SIZE_MAX {
        return Err(minicbor::decode::Error::message("an item's key is longer than a key may be"));
    }
    Ok(key)
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

/// A [`long_list`] that may be missing.
pub mod maybe_list {
    use super::{Slices, long_list};
    use minicbor::data::Type;

    pub fn encode<C, T: minicbor::Encode<C>, W: minicbor::encode::Write>(
        list: &Option<Vec<T>>,
        e: &mut minicbor::Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.encode_with(list, context)?.ok()
    }

    pub fn decode<'b, C: Slices, T: minicbor::Decode<'b, C>>(
        d: &mut minicbor::Decoder<'b>,
        context: &mut C,
    ) -> Result<Option<Vec<T>>, minicbor::decode::Error> {
        if d.datatype()? == Type::Null {
            d.null()?;
            return Ok(None);
        }
        long_list(d, context).map(Some)
    }

    pub fn nil<T>() -> Option<Option<Vec<T>>> {
        Some(None)
    }

    pub fn is_nil<T>(list: &Option<Vec<T>>) -> bool {
        list.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_key_is_a_byte_string_and_every_key_has_one_form() {
        assert_eq!(encode(&Key::from("user")), b"\x44user");
        assert_eq!(encode(&Key::new(7, b"user", None)), b"\x82\x07\x44user");
        assert_eq!(encode(&Key::new(7, b"user", Some(b"2024"))), b"\x83\x07\x48user2024\x04");
        for key in [Key::default(), Key::new(0, b"", Some(b"")), Key::new(0, b"a", Some(b"b")), Key::new(u32::MAX, b"a", None)] {
            assert_eq!(decode::<Key>(&encode(&key).into()), Ok(key));
        }
        let wrong: [(&[u8], &str); 7] = [
            (b"\x82\x00\x41a", "is a byte string"),
            (b"\x83\x00\x41a\x02", "behind its end"),
            (b"\x81\x07", "array of two or three"),
            (b"\x84\x07\x41a\x01\x01", "array of two or three"),
            (b"\x82\x1b\x00\x00\x00\x01\x00\x00\x00\x00\x41a", "overflow"),
            (b"\x61a", "type"),
            (b"\x42a", "end of input"),
        ];
        for (bytes, why) in wrong {
            let CodecError(error) = decode::<Key>(&Bytes::from_static(bytes)).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }

    /// A scan may name any key; what is logged is the key of an item.
    #[test]
    fn a_key_that_no_item_may_have_is_no_key_of_an_entry() {
        use crate::msg::log::Fact;
        use crate::msg::transaction::Write;
        let key = |size: usize| Key::from(vec![b'k'; size]);
        for (size, may) in [(KEY_SIZE_MAX, true), (KEY_SIZE_MAX + 1, false)] {
            assert!(decode::<Key>(&encode(&key(size)).into()).is_ok());
            let fact = encode(&Fact::Write { key: key(size), value: None });
            assert_eq!(decode::<Fact>(&fact.into()).is_ok(), may);
            let write = encode(&Write { key: key(size), value: Some(Blob(Bytes::new())) });
            assert_eq!(decode::<Write<Blob>>(&write.into()).is_ok(), may);
        }
    }
}
