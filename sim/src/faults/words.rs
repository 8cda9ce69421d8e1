//! Faults in plain words, for the story of a run: one line for each kind.

use super::FaultKind;
use crate::plan::{BootStep, Decay, Fault, LossStyle, MessageKind, Rot, Stray, Synced, Target, Trigger};

impl Fault {
    /// What the fault does, and to which node (from 1), if that is known by now.
    pub fn words(&self, node: Option<u16>) -> String {
        let mut words = kind(&self.kind, &struck(self.kind.target(), node));
        if self.for_ms == u64::MAX {
            words += ", and this lasts";
        } else if !self.kind.behaviour().on_message {
            words += &format!(", for {} ms", self.for_ms);
        }
        match (self.when, self.nth) {
            (None, _) => words,
            (Some(trigger), 0) => format!("{words}; it waited until a node {}", trigger.words()),
            (Some(trigger), nth) => format!("{words}; it waited until a node {}, for the {nth}. time", trigger.words()),
        }
    }
}

fn struck(target: Option<Target>, node: Option<u16>) -> String {
    match (node, target) {
        (Some(node), _) | (None, Some(Target::Node(node))) => format!("n{node}"),
        (None, Some(Target::LeaderOf(group))) => format!("the leader of group {group}"),
        (None, Some(Target::FollowerOf(group))) => format!("a follower of group {group}"),
        (None, Some(Target::There) | None) => "the node".into(),
    }
}

fn kind(kind: &FaultKind, node: &str) -> String {
    match kind {
        FaultKind::Crash { .. } => format!("the process of {node} ends"),
        FaultKind::PowerLoss { style, .. } => format!("{node} loses power: {}", left(*style)),
        FaultKind::PowerLossOfAll { within_ms, style } => format!("all lose power within {within_ms} ms: {}", left(*style)),
        FaultKind::Stop { .. } => format!("{node} is stopped cleanly"),
        FaultKind::Pause { .. } => format!("{node} stands still"),
        FaultKind::Wipe { .. } => format!("{node} is ended, and gets an empty directory"),
        FaultKind::OldDirectory { .. } => format!("{node}'s directory is copied, to be put back under a crash"),
        FaultKind::RotTail { rot, .. } => format!("{node} is cut off until it crashes, and {}", rotten(*rot)),
        FaultKind::RotSynced { place, decay, .. } => {
            format!("{} {} on {node}'s disk, which crashes then", synced(*place), decayed(*decay))
        }
        FaultKind::StrayWrite { to, .. } => {
            format!("a write that was synced {} on {node}'s disk, which crashes then", strayed(*to))
        }
        FaultKind::ClockRate { ppm, .. } => format!("{node}'s clock runs {}", fast(*ppm)),
        FaultKind::ClockJump { by_ms, .. } => format!("{node}'s clock jumps forward by {by_ms} ms"),
        FaultKind::Isolate { .. } => format!("{node} is cut off from all nodes"),
        FaultKind::Split { side } => format!("{} and the others cannot talk", list(side.iter().map(|node| format!("n{node}")))),
        FaultKind::OneWay { outward: true, .. } => format!("what {node} sends is lost"),
        FaultKind::OneWay { outward: false, .. } => format!("what is sent to {node} is lost"),
        FaultKind::Partial { pairs } => format!("{} cannot talk", list(pairs.iter().map(|(a, b)| format!("n{a} and n{b}")))),
        FaultKind::OneWayLink { from, to } => format!("what n{from} sends to n{to} is lost"),
        FaultKind::Flapping { period_ms, .. } => format!("{node} is cut off every other {period_ms} ms"),
        FaultKind::Loss { permille } => format!("{permille} of 1,000 messages are lost"),
        FaultKind::Duplication { permille, delay_ms } => {
            format!("{permille} of 1,000 messages come again within {delay_ms} ms")
        }
        FaultKind::Reordering { permille, delay_ms } => {
            format!("{permille} of 1,000 messages are overtaken for up to {delay_ms} ms")
        }
        FaultKind::Delay { by_ms } => format!("every message takes {by_ms} ms longer"),
        FaultKind::SlowLink { from, to, by_ms } => format!("what n{from} sends to n{to} takes {by_ms} ms longer"),
        FaultKind::SlowMessages { from, to, what, by_ms } => {
            format!("n{from}'s {} to n{to} take {by_ms} ms longer", messages(*what))
        }
        FaultKind::ReadErrors { permille, .. } => format!("{permille} of 1,000 reads of {node}'s disk fail"),
        FaultKind::WrongReads { permille, .. } => {
            format!("{permille} of 1,000 reads of {node}'s disk are answered with bytes of another place")
        }
        FaultKind::WriteErrors { .. } => format!("writes to {node}'s disk fail"),
        FaultKind::SyncErrors { .. } => format!("syncs of {node}'s disk fail"),
        FaultKind::CreateErrors { .. } => format!("{node} cannot make segments"),
        FaultKind::DirectoryErrors { .. } => format!("syncs of {node}'s directory fail"),
        FaultKind::BootErrors { step, .. } => format!("the process of {node} ends, and {} at boot", failing(*step)),
        FaultKind::Stall { .. } => format!("{node}'s disk completes nothing"),
        FaultKind::Full { .. } => format!("{node}'s disk is full"),
        FaultKind::SlowDisk { sync_ms, .. } => format!("each sync of {node} takes {sync_ms} ms longer"),
        FaultKind::SlowDisks { sync_ms } => format!("each sync of every node takes {sync_ms} ms longer"),
        FaultKind::LoseMessage => format!("a message of {node} is lost"),
        FaultKind::HoldMessage { by_ms } => format!("a message of {node} is {by_ms} ms late"),
        FaultKind::RepeatMessage { after_ms } => format!("a message of {node} comes again after {after_ms} ms"),
        FaultKind::Flood { requests, leaves, .. } => {
            let end = if *leaves { ", and then goes away" } else { "" };
            format!("a client asks {node} for {requests} things at once{end}")
        }
        FaultKind::Disconnect { .. } => format!("the connections of {node}'s clients break"),
    }
}

fn list(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

fn left(style: LossStyle) -> &'static str {
    match style {
        LossStyle::Nothing => "nothing unsynced is left",
        LossStyle::Sectors => "some unsynced sectors are left",
        LossStyle::Prefix => "earlier unsynced writes are left, the last of them torn",
        LossStyle::Suffix => "later unsynced writes are left",
        LossStyle::Everything => "everything is left",
    }
}

fn rotten(rot: Rot) -> String {
    match rot {
        Rot::Zeros(bytes) => format!("the last {bytes} bytes of its log are zeros"),
        Rot::Bits(bytes) => format!("the last {bytes} bytes of its log are others"),
        Rot::Witness => "the witness of its log rots".into(),
    }
}

fn failing(step: BootStep) -> &'static str {
    match step {
        BootStep::Sync => "the sync of its log fails",
        BootStep::List => "its log cannot be listed",
        BootStep::Read => "some reads of its log fail",
    }
}

fn synced(place: Synced) -> &'static str {
    match place {
        Synced::Anywhere => "somewhere in what was synced",
        Synced::Header => "in both copies of a segment's header",
        Synced::HeaderCopy => "in one copy of a segment's header",
        Synced::ReadBack => "in each value that was read back last",
        Synced::Values(_) => "in some of its values",
    }
}

fn strayed(to: Stray) -> &'static str {
    match to {
        Stray::Nowhere => "is lost",
        Stray::Elsewhere => "is where another should be, and not where it should be",
        Stray::OtherFile => "is in another file, and not in its own",
        Stray::Exchanged => "and another are in each other's places",
    }
}

fn decayed(decay: Decay) -> &'static str {
    match decay {
        Decay::Bit => "a bit becomes another",
        Decay::Zeros => "bytes become zeros",
        Decay::End => "the file ends",
    }
}

/// How a clock runs.
pub fn fast(ppm: i64) -> String {
    let percent = ppm.unsigned_abs() as f64 / 10_000.0;
    format!("{percent} % too {}", if ppm < 0 { "slow" } else { "fast" })
}

fn messages(kind: MessageKind) -> &'static str {
    match kind {
        MessageKind::Heartbeat => "heartbeats",
        MessageKind::HeartbeatReply => "replies to heartbeats",
        MessageKind::PreVote => "requests for pre-votes",
        MessageKind::Vote => "requests for votes",
        MessageKind::VoteReply => "votes",
        MessageKind::Append => "appends",
        MessageKind::AppendReply => "replies to appends",
        MessageKind::Forward => "forwards",
        MessageKind::Other => "other messages",
    }
}

impl Trigger {
    /// What the node does, behind "a node".
    fn words(self) -> String {
        let words = match self {
            Trigger::Votes => "sent a vote",
            Trigger::Campaigns => "asked for votes",
            Trigger::Leads => "sent the first append of a term",
            Trigger::Acknowledges => "acknowledged entries",
            Trigger::Answers => "told a client that a write is done",
            Trigger::Writes => "began a write of its log",
            Trigger::Syncs => "began a sync of its log",
            Trigger::Creates => "made a segment",
            Trigger::Frees => "freed a segment, or used one again",
            Trigger::UsesNewSegment => "first wrote to a segment",
            Trigger::Transfers => "handed a leadership away",
            Trigger::Releases => "took a leadership over",
            Trigger::Conflicts => "reported a conflict of entries",
            Trigger::SendsPiece => "sent a piece of a state",
            Trigger::TakesPiece => "took a piece of a state",
            Trigger::HasState => "had a state that was sent to it",
            Trigger::Passes(point) => return format!("came to the point \"{}\"", point.name()),
        };
        words.into()
    }
}
