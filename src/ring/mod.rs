//! The ring: which nodes are members, and which of them hold which partition.
//!
//! - [`placement`]: tokens, partitions, replicas: a pure function of the membership (Karger et al., 1997; Dynamo, section 4.2 and
//!   strategy 3 of 6.2; bounded loads after Mirrokni et al., 2016).
//! - [`membership`]: how a cluster forms, and which nodes are let in.
//!
//! Membership is static for now: it is fixed by the cluster's formation, which every member keeps in its log. Changes of
//! membership will make it the state of group 0, replicated like any other; [`crate::base::GroupId::RING`] is reserved for that.

pub mod membership;
pub mod placement;
