//! A segment as recovery looks at it.

use crate::base::SegmentId;
use crate::msg::disk::{DiskError, LogDevice};

/// Bytes read at a time, at least.
const READ_CHUNK: usize = 4 * 1024 * 1024;

/// A segment as recovery reads it: a chunk at a time, and one batch whole.
pub struct Window<'d> {
    device: &'d mut dyn LogDevice,
    segment: SegmentId,
    size: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'d> Window<'d> {
    pub fn new(device: &'d mut dyn LogDevice, segment: SegmentId, size: u64) -> Window<'d> {
        Window { device, segment, size, start: 0, bytes: Vec::new() }
    }

    pub fn segment(&self) -> SegmentId {
        self.segment
    }

    /// Bytes from `at` to the segment's end; `None` beyond it.
    pub fn left(&self, at: u64) -> Option<u64> {
        self.size.checked_sub(at)
    }

    /// `length` bytes from `at`; `None` when the segment ends before.
    pub fn get(&mut self, at: u64, length: usize) -> Result<Option<&[u8]>, DiskError> {
        if self.left(at).is_none_or(|left| left < length as u64) {
            return Ok(None);
        }
        let held = self.start..self.start + self.bytes.len() as u64;
        if at < held.start || at + length as u64 > held.end {
            let wanted = (length.max(READ_CHUNK) as u64).min(self.size - at) as usize;
            self.bytes = self.device.read(self.segment, at, wanted)?;
            self.start = at;
            if self.bytes.len() < length {
                // The file is shorter than it was listed.
                return Ok(None);
            }
        }
        let from = (at - self.start) as usize;
        Ok(Some(&self.bytes[from..from + length]))
    }

    /// What [`Window::get`] just answered.
    pub fn held(&self, at: u32, length: u32) -> &[u8] {
        let from = (u64::from(at) - self.start) as usize;
        &self.bytes[from..from + length as usize]
    }
}
