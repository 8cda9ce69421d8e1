//! Why a node cannot boot from its log, for its operator.

use super::format::FORMAT_VERSION;
use crate::base::{GroupId, NodeId, SegmentId};
use crate::msg::disk::DiskError;
use std::collections::BTreeSet;
use std::fmt;

/// Why a node cannot boot from its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoverError {
    /// The log was written by another node.
    WrongNode { segment: SegmentId, found: NodeId, expected: NodeId },
    /// The log was written by a newer program.
    NewerFormat { segment: SegmentId, offset: u32, found: String },
    /// Bytes that were durable are not what was written, and this is no torn tail.
    Damaged {
        segment: SegmentId,
        /// In bytes from the segment's start.
        offset: u32,
        what: String,
        /// The groups whose records are touched, if what is left tells; `None`: it may be any.
        groups: Option<BTreeSet<GroupId>>,
    },
    /// The disk could not read, list or sync.
    Device(DiskError),
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::WrongNode { segment, found, expected } => {
                write!(f, "the log is of another node: segment {segment} was written by node {found}, this is node {expected}")
            }
            RecoverError::NewerFormat { segment, offset, found } => {
                write!(
                    f,
                    "the log is of a newer format: {found} in segment {segment} at byte {offset}; this program reads version {FORMAT_VERSION}"
                )
            }
            RecoverError::Damaged { segment, offset, what, groups } => {
                write!(f, "the log is damaged: {what}, in segment {segment} at byte {offset}; ")?;
                match groups {
                    Some(groups) => write!(f, "groups touched: {groups:?}"),
                    None => write!(f, "any group may be touched"),
                }
            }
            RecoverError::Device(error) => write!(f, "the log could not be read: {error}"),
        }
    }
}

impl std::error::Error for RecoverError {}

impl From<DiskError> for RecoverError {
    fn from(error: DiskError) -> Self {
        RecoverError::Device(error)
    }
}
