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

/// A place of the log at which something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    pub segment: SegmentId,
    /// In bytes from the segment's start.
    pub offset: u32,
    pub what: String,
    /// The groups that are touched, if what is left tells; `None`: it may be any.
    pub groups: Option<BTreeSet<GroupId>>,
}

impl Bad {
    pub fn new(segment: SegmentId, offset: u32, what: impl Into<String>) -> Bad {
        Bad { segment, offset, what: what.into(), groups: None }
    }

    /// Of an error that was met while this place was looked at.
    pub fn of(error: RecoverError, segment: SegmentId, offset: u32) -> Bad {
        match error {
            RecoverError::Damaged { segment, offset, what, groups } => Bad { segment, offset, what, groups },
            RecoverError::NewerFormat { segment, offset, found } => {
                let what = format!("{found} is of a newer format; this program reads version {FORMAT_VERSION}");
                Bad::new(segment, offset, what)
            }
            RecoverError::WrongNode { segment, found, expected } => {
                Bad::new(segment, 0, format!("the segment was written by node {found}, others by node {expected}"))
            }
            RecoverError::Device(error) => Bad::new(segment, offset, error.to_string()),
        }
    }
}
