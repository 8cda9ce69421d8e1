//! Telling a torn tail from damage: looking behind bad bytes for a batch that says they were durable.
//!
//! A batch says how far the log was durable when it was cut ([`BatchHeader::seals`]). Bad bytes where batch `n` should be are a
//! torn tail, unless some header behind them seals `n`. What earlier epochs left behind a cut cannot say so: whatever they wrote
//! there, batch `n` was not durable then.

use super::checkpoint::manifest_of;
use super::error::RecoverError;
use super::format::{
    BATCH_HEADER_SIZE, BATCH_LENGTH_MAX, BATCH_MAGIC, BatchHeader, Copied, DIRECTORY_ENTRY_SIZE, EMPTY_BATCH_SIZE, Kind,
    RECORD_HEADER_SIZE, RecordHeader, TRAILER_SIZE, Trailer, directory_entry_group, directory_nonce, footer_size, salt, u32_at,
};
use super::replay::formation_of;
use super::tail::{Tail, check_batch, is_epoch};
use super::window::Window;
use crate::base::limits::COUNTER_MAX;
use crate::base::{DirectoryId, Epoch, GroupId, Lsn, NodeId, Place, SegmentId, Sometimes};
use crate::msg::disk::DiskError;
use std::collections::BTreeSet;

/// Bytes looked through at a time.
const SCAN_CHUNK: usize = 1024 * 1024;

/// The first batch header at `from` or behind it that `accept`s, and where it is. Only the header is known to be whole.
pub fn find_header(
    window: &mut Window<'_>,
    from: u32,
    mut accept: impl FnMut(&BatchHeader) -> bool,
) -> Result<Option<(u32, BatchHeader)>, DiskError> {
    let segment = window.segment();
    let mut at = u64::from(from);
    while let Some(length) = window.left(at).filter(|left| *left >= BATCH_HEADER_SIZE as u64) {
        let length = length.min(SCAN_CHUNK as u64) as usize;
        let Some(chunk) = window.get(at, length)? else { return Ok(None) };
        for start in magics(chunk) {
            let offset = at + start as u64;
            let Ok(offset) = u32::try_from(offset) else { return Ok(None) };
            if let Some((header, _)) = BatchHeader::decode(segment, offset, &chunk[start..])
                && accept(&header)
            {
                return Ok(Some((offset, header)));
            }
        }
        // A header may lie across the chunk's end.
        at += (length - BATCH_HEADER_SIZE + 1) as u64;
    }
    Ok(None)
}

/// The directory that is bound to node `me`, by the first whole batch in a segment that tells: a formation, or a manifest. Of such
/// a batch's own header every checksum depends on the directory.
pub fn find_directory(window: &mut Window<'_>, me: NodeId) -> Result<Option<DirectoryId>, RecoverError> {
    let mut from = 0;
    while let Some((offset, header)) = find_header(window, from, has_numbers)? {
        let mut tail = Tail::default();
        tail.go_on_at(offset, &header);
        let Ok(batch) = check_batch(window, header.nonce, &tail, u32::MAX)? else {
            from = offset + 1;
            continue;
        };
        for (at, record, bytes) in batch.records(window.held(offset, header.length)) {
            let formation = match Kind::from_number(record.kind) {
                Some(Kind::Formation) => formation_of(&record, bytes).ok(),
                Some(Kind::Manifest) => {
                    let place = Place { segment: window.segment(), offset: at, length: record.length };
                    let copied = Copied::decode(header.nonce, Kind::Manifest, place, bytes);
                    copied.and_then(|copied| manifest_of(&copied)).and_then(|manifest| manifest.formation)
                }
                _ => None,
            };
            let members = formation.map_or_else(Vec::new, |formation| formation.members);
            let bound = members.iter().find(|member| member.node == me).map(|member| member.directory);
            if let Some(directory) = bound.filter(|directory| directory_nonce(*directory) == header.nonce) {
                Sometimes::DirectoryFoundByFormation.reached();
                return Ok(Some(directory));
            }
        }
        from = offset + header.length;
    }
    Ok(None)
}

/// Whether its numbers are such as there are.
pub fn has_numbers(header: &BatchHeader) -> bool {
    is_epoch(header.epoch) && header.sequence.max(header.first_lsn.0) <= COUNTER_MAX && header.first_lsn > Lsn::ZERO
}

/// Where the last byte is that is not zero, at `from` or behind it.
pub fn last_byte(window: &mut Window<'_>, from: u32) -> Result<Option<u64>, DiskError> {
    let (mut at, mut last) = (u64::from(from), None);
    while let Some(length) = window.left(at).filter(|left| *left > 0) {
        let length = length.min(SCAN_CHUNK as u64) as usize;
        let Some(chunk) = window.get(at, length)? else { break };
        if !is_zero(chunk) {
            last = chunk.iter().rposition(|byte| *byte != 0).map(|position| at + position as u64);
        }
        at += length as u64;
    }
    Ok(last)
}

/// Where the magic number of a batch stands in `bytes`.
fn magics(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    const BLOCK: usize = 4096;
    bytes.chunks(BLOCK).enumerate().filter(|(_, block)| !is_zero(block)).flat_map(move |(number, block)| {
        let base = number * BLOCK;
        let first = block.iter().enumerate().filter(|(_, byte)| **byte == BATCH_MAGIC[0]);
        first.map(move |(at, _)| base + at).filter(|at| bytes[*at..].starts_with(&BATCH_MAGIC))
    })
}

/// Most of a segment that is scanned was never written to.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |all, byte| all | byte) == 0
}

/// The groups that records between `from` and `until` are about, as far as one of the two directories of the damaged batch tells:
/// the footer's, or else the records' own headers. `None`: it may be any group.
pub fn groups_between(
    window: &mut Window<'_>,
    nonce: u64,
    from: u32,
    until: Option<u32>,
) -> Result<Option<BTreeSet<GroupId>>, DiskError> {
    let segment = window.segment();
    let header = match window.get(u64::from(from), BATCH_HEADER_SIZE)? {
        Some(bytes) => BatchHeader::decode(segment, from, bytes).filter(|(header, _)| header.nonce == nonce),
        None => None,
    };
    let length = match (&header, until) {
        (Some((header, _)), _) => u64::from(header.length),
        (None, Some(until)) => u64::from(until.saturating_sub(from)),
        (None, None) => return Ok(None),
    };
    if until.is_some_and(|until| u64::from(from) + length != u64::from(until)) || length > u64::from(BATCH_LENGTH_MAX) {
        return Ok(None);
    }
    let Some(batch) = window.get(u64::from(from), length as usize)? else { return Ok(None) };
    let records = || header.and_then(|(header, _)| by_records(batch, &header, segment, from));
    Ok(by_footer(batch, nonce, segment, from)
        .or_else(|| Some(records()?.iter().filter_map(|entry| directory_entry_group(entry)).collect())))
}

/// The groups of which something stands in the one bad batch from the tail's end to `until`. `behind`: what the batch or the segment
/// behind it says: its sequence, the chain before it, its epoch. `None`: it may be any group, or more than one batch, or a record
/// that tells of all.
pub fn damaged_batch(
    window: &mut Window<'_>,
    tail: &Tail,
    nonce: u64,
    until: u32,
    behind: (u64, u64, Epoch),
) -> Result<Option<BTreeSet<GroupId>>, DiskError> {
    let (segment, from, (sequence, chain, epoch)) = (window.segment(), tail.end, behind);
    let length = until.saturating_sub(from);
    if sequence != tail.next_sequence + 1 || !(EMPTY_BATCH_SIZE..=BATCH_LENGTH_MAX).contains(&length) {
        return Ok(None);
    }
    let Some(batch) = window.get(u64::from(from), length as usize)? else { return Ok(None) };
    // The chain behind a batch is its footer's checksum.
    if let Some((entries, sum)) = footer(batch, nonce, segment, from) {
        let kinds = entries.chunks_exact(DIRECTORY_ENTRY_SIZE).map(|entry| (Kind::from_number(entry[0]), entry));
        return Ok(if sum == chain { touched(kinds) } else { None });
    }
    let header = BatchHeader::decode(segment, from, batch).map(|(header, _)| header);
    let continues = |header: &BatchHeader| {
        (header.nonce, header.sequence, header.previous, header.length) == (nonce, tail.next_sequence, tail.chain, length)
            && header.epoch == epoch
    };
    let Some(header) = header.filter(continues) else { return Ok(None) };
    let Some(entries) = by_records(batch, &header, segment, from) else { return Ok(None) };
    Ok(touched(entries.iter().map(|entry| (Kind::from_number(entry[0]), &entry[..]))))
}

/// The groups whose replay such records are needed for.
fn touched<'a>(entries: impl Iterator<Item = (Option<Kind>, &'a [u8])>) -> Option<BTreeSet<GroupId>> {
    let mut groups = BTreeSet::new();
    for (kind, entry) in entries {
        match kind? {
            Kind::Epoch | Kind::Formation => return None,
            Kind::HardState | Kind::Stands | Kind::Piece => groups.insert(GroupId(u32_at(entry, 4))),
            kind if kind.is_entry() => groups.insert(GroupId(u32_at(entry, 4))),
            // What names copies notices that they are bad, and of values that were moved the old places count.
            _ => false,
        };
    }
    Some(groups)
}

/// The groups in a batch's footer, when the footer is whole.
fn by_footer(batch: &[u8], nonce: u64, segment: SegmentId, offset: u32) -> Option<BTreeSet<GroupId>> {
    let (directory, _) = footer(batch, nonce, segment, offset)?;
    Some(directory.chunks_exact(DIRECTORY_ENTRY_SIZE).filter_map(directory_entry_group).collect())
}

/// A batch's directory, and the chain behind the batch, when its footer is whole.
fn footer(batch: &[u8], nonce: u64, segment: SegmentId, offset: u32) -> Option<(&[u8], u64)> {
    let size = footer_size(Trailer::peek_count(batch)?);
    let at = (batch.len() as u64).checked_sub(size)? as usize;
    let footer = &batch[at..];
    let (trailer, chain) = Trailer::decode(salt(nonce, segment, offset.checked_add(at as u32)?), footer)?;
    (trailer.length as usize == batch.len()).then(|| (&footer[..footer.len() - TRAILER_SIZE], chain))
}

/// A batch's directory, made of its records' headers, when these are all whole.
fn by_records(batch: &[u8], header: &BatchHeader, segment: SegmentId, offset: u32) -> Option<Vec<Vec<u8>>> {
    let end = (batch.len() as u64).checked_sub(footer_size(header.count))? as usize;
    let mut at = BATCH_HEADER_SIZE;
    let mut entries = Vec::new();
    while at < end {
        let place = offset.checked_add(at as u32)?;
        let (record, _) = RecordHeader::decode(salt(header.nonce, segment, place), &batch[at..end])?;
        let mut entry = Vec::with_capacity(DIRECTORY_ENTRY_SIZE);
        record.encode_directory_entry(0, &mut entry);
        entries.push(entry);
        at += (record.length as usize).max(RECORD_HEADER_SIZE);
    }
    Some(entries)
}
