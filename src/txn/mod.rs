//! The coordinator of transactions: two-phase commit over partitions. Not built yet; this is its place.
//!
//! What will live here: the coordinator's state machine, its recovery from the home partition's log, and the protocol points the simulator aims at. Participant records
//! and locks belong to `store`, next to the items they guard.
