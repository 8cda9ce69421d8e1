//! How a cluster forms, and which nodes are let in.
//!
//! # Formation
//!
//! Every node with an empty directory greets the other initial members until it knows a formation. The member with the lowest id
//! waits until *all* others have greeted it in this epoch with the same initial members and options. Then it draws a cluster id,
//! and logs a [`Formation`]: every member's node id bound to its directory. When that is durable it tells the others, which log
//! it too. A member that missed it hears it when it greets a member that has it. An emptied directory has another id than the
//! bound one. So it can neither join again nor form a second cluster while any other member remembers the first.
//!
//! # Which nodes are let in
//!
//! Every envelope is checked against the formation: cluster, node id, directory, epoch. Besides, heartbeats carry the highest
//! durable position of the sender's log, and where the log ended when the epoch began. Peers remember the highest position they
//! saw (lazily in their own logs too). A new epoch that begins below it runs on an old copy of the disk, or has lost the end of
//! its log. A refused sender is told so, in the epoch that is refused; it neither votes nor acknowledges.
//!
//! A node takes part in a group only when a majority of the group's voters, itself among them, has answered its heartbeats in
//! this epoch. They answer after these checks. It goes by group: a group needs a majority of its own voters, and of five nodes
//! that restart, two may be all that return of a group's three. What a peer says and this node logs (epoch, position, formation)
//! is bounded first: recovery takes larger numbers for damage.
//!
//! *Two nodes on copies of one directory.* The copy was started later, so its epoch is the higher. Every peer that has seen more
//! of the original's log than the copy began with refuses the copy. The original keeps its place there. A later epoch takes that
//! place only by showing that it lacks nothing, and that it does not follow an epoch that did. One case cannot be told apart: a
//! copy that lacks nothing, of a node that has logged nothing since. Such a copy looks like a restart, and takes the place; the
//! original is refused, and told why. To wait for the original's silence would tell them apart, but make every quick restart wait
//! as well. And a node that restarts must be able to void at once what its former epoch was promised.
//!
//! *An old copy starts over* once those that could make it whole let it in, or say that they have not heard the original for
//! long ([`MembershipOptions::silent_after`]): a quorum of each of its groups, without it, and a majority of the other members. It
//! logs how far its log was seen, and boots again. The log now proves nothing of any group (`src/wal/salvage.rs`), its numbers go on
//! beyond what was seen, and the peers make its replicas whole, as those of a damaged log. With fewer than three replicas there is
//! no such quorum: the copy stays refused, and the directory as it is.
//!
//! An original that lives after all, cut off for so long, is refused wherever the new epoch is let in. That epoch *does not follow*
//! what was let in before. So it is let in only when the support given to the original has ended, and that is durable here: no
//! peer listens to two nodes of one id at a time, nor to the original again after a restart. An amnesiac replica starts only when a
//! quorum of the others has let its node in: with three or four replicas all of them. With five and more, and a network split
//! between two nodes of one id that both live, the one may count for one leader and the other for another. Never run two.
//!
//! What this cannot notice: an old copy that comes back while every node that saw more of it is away or has forgotten. (Marks are
//! logged with other records, at most once a second, but for those of a log that does not follow.) An old copy is an operator's mistake beyond what promise P3 covers;
//! noticing it is best effort.

use crate::actor::{Actor, Context, Outbox, TimerKind};
use crate::base::limits::{ADDRESS_SIZE_MAX, COUNTER_MAX, NODES_MAX, WEIGHT_MAX, ZONE_SIZE_MAX};
use crate::base::random::Rng;
use crate::base::{ClusterId, DirectoryId, Duration, Epoch, Lsn, NodeId, Sometimes, Time};
use crate::msg::client::Membership as Standing;
use crate::msg::cluster::{ClusterOptions, Formation, Member, PeerMark};
use crate::msg::peer::{AppendReply, Envelope, Greeting, Heartbeat, PeerMessage, Refusal, ReplicaMessage};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
pub struct MembershipOptions {
    pub directory: DirectoryId,
    pub address: String,
    pub zone: String,
    pub weight: u16,
    /// Ascending; holds this node.
    pub initial: Vec<NodeId>,
    pub cluster: ClusterOptions,
    /// How often an unformed node greets.
    pub greeting_interval: Duration,
    /// For how long no heartbeat of a node comes before a copy of its directory may take its place.
    pub silent_after: Duration,
}

#[derive(Debug)]
pub enum In {
    Start,
    /// Of this node, in this epoch of it, with this directory.
    Greeting(NodeId, Epoch, DirectoryId, Greeting),
    Formed(Formation),
    /// The formation that was handed out for logging is durable.
    FormationDurable,
    Refused(NodeId, Refusal),
    /// A peer answered this node's heartbeat: it lets it in.
    Welcomed(NodeId),
    Timer,
}

#[derive(Debug)]
pub enum Out {
    Send(NodeId, PeerMessage),
    LogFormation(Formation),
    /// The cluster has formed, durably here.
    Joined(Formation),
    /// Another peer lets this node in: see [`Membership::is_welcomed_by`].
    Welcomed,
    /// The directory is an old copy, and most of the others find the original silent: see [`Membership::consents`].
    Outdated,
}

#[derive(Debug)]
pub struct Membership {
    options: MembershipOptions,
    formation: Option<Formation>,
    /// A formation that is being logged.
    pending: Option<Formation>,
    /// The members that have greeted this node in this epoch, while it is unformed.
    greeted: BTreeMap<NodeId, (Epoch, Member)>,
    /// The initial members that were started with other settings, and how those differ, while this node is unformed.
    disagreeing: BTreeMap<NodeId, String>,
    greet_at: Option<Time>,
    welcomed: BTreeSet<NodeId>,
    refused: Option<String>,
    marks: BTreeMap<NodeId, Mark>,
    booted: Time,
    /// This directory is an old copy: how far peers have seen the log. And what each said last of that.
    outdated: Option<PeerMark>,
    answers: BTreeMap<NodeId, Answer>,
}

/// What a peer says to a node whose directory is an old copy.
#[derive(Debug, Clone, Copy)]
struct Answer {
    /// It finds the original silent, or lets this node in.
    consents: bool,
    at: Time,
}

/// How far a peer's log has been seen to be durable.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The epoch that is let in: the latest that has shown where it began.
    epoch: Epoch,
    /// The highest position seen, of that epoch and of those before. Never decreases.
    highest: Lsn,
    /// What was last written to this node's log.
    logged: Lsn,
    /// The latest epoch that began below what was seen before it: it runs on an old copy of the disk.
    old_copy: Option<Epoch>,
    /// When a heartbeat of the epoch that is let in came last, to this epoch of this node.
    heard: Option<Time>,
    /// When one of a later epoch had to wait since that epoch is still heard.
    made_wait: Option<Time>,
    /// That epoch did not follow the one before it, and this is to be logged at once.
    is_news: bool,
}

/// Whether an epoch is let in.
enum Heard {
    LetIn,
    /// Not yet: what was promised to the epoch before still holds.
    TooSoon,
    OldCopy,
}

impl Mark {
    fn new(mark: PeerMark) -> Mark {
        Mark {
            epoch: mark.epoch,
            highest: mark.durable,
            logged: mark.durable,
            old_copy: None,
            heard: None,
            made_wait: None,
            is_news: false,
        }
    }

    /// `booted`: when this node did. `silent_after`: `None`: it cannot say.
    fn refusal(&self, now: Time, booted: Time, silent_after: Option<Duration>) -> Option<Refusal> {
        let heard = self.heard.unwrap_or(booted);
        let silent = silent_after.is_some_and(|silent_after| now.since(heard) >= silent_after);
        Some(Refusal::OldDirectory { seen: self.highest, epoch: self.epoch, silent })
    }

    /// Whether this epoch of the peer is let in, by what is known of it.
    fn admits(&self, epoch: Epoch) -> bool {
        self.epoch <= epoch && self.old_copy != Some(epoch)
    }

    /// A heartbeat of an epoch that is not known to be an old copy. A later epoch takes the place of the one that is let in, if
    /// it begins where that epoch was seen to be, at least. Otherwise the earlier epoch keeps its place.
    fn hear(&mut self, now: Time, epoch: Epoch, heartbeat: &Heartbeat, support: Duration) -> Heard {
        // What an epoch has logged itself must not make up for what it lacks of the epoch before.
        let began = if heartbeat.began == Lsn::ZERO { heartbeat.durable } else { heartbeat.began };
        if epoch > self.epoch {
            // An epoch that follows a copy's lacks what the copy lacked, however much both have logged.
            let follows_copy = heartbeat.previous != Epoch::ZERO && self.old_copy == Some(heartbeat.previous);
            if began < self.highest || follows_copy {
                Sometimes::OldCopyRefused.when(began < self.highest);
                Sometimes::FollowerOfCopyRefused.when(began >= self.highest);
                self.old_copy = Some(epoch);
                return Heard::OldCopy;
            }
            let known = self.epoch != Epoch::ZERO && heartbeat.previous != Epoch::ZERO;
            if known && heartbeat.previous != self.epoch {
                // Another log than the one that was heard; or a restart in between went unheard. What an earlier epoch of this node
                // promised is kept by its giving no vote after its boot.
                if self.heard.is_some_and(|heard| now.since(heard) < support) {
                    Sometimes::LaterLogWaits.reached();
                    return Heard::TooSoon;
                }
                Sometimes::LaterLogLetIn.reached();
                self.is_news = true;
            }
            self.epoch = epoch;
        }
        self.highest = self.highest.max(heartbeat.durable);
        self.heard = Some(now);
        Heard::LetIn
    }
}

impl Membership {
    /// `now`: the node's time of boot.
    pub fn new(
        options: MembershipOptions,
        formation: Option<Formation>,
        marks: &BTreeMap<NodeId, PeerMark>,
        now: Time,
    ) -> Membership {
        let marks = marks.iter().map(|(node, mark)| (*node, Mark::new(*mark))).collect();
        Membership {
            options,
            formation,
            pending: None,
            greeted: BTreeMap::new(),
            disagreeing: BTreeMap::new(),
            greet_at: None,
            welcomed: BTreeSet::new(),
            refused: None,
            marks,
            booted: now,
            outdated: None,
            answers: BTreeMap::new(),
        }
    }

    pub fn cluster(&self) -> Option<ClusterId> {
        self.formation.as_ref().map(|f| f.cluster)
    }

    pub fn formation(&self) -> Option<&Formation> {
        self.formation.as_ref()
    }

    pub fn directory(&self) -> DirectoryId {
        self.options.directory
    }

    /// Whether the node, or this node itself, has let this node in. Once a quorum of a group's voters has, it may vote, lead and
    /// acknowledge in their group.
    pub fn is_welcomed_by(&self, node: NodeId) -> bool {
        self.refused.is_none() && self.welcomed.contains(&node)
    }

    /// While the cluster has not formed: the initial members that have not been heard in this epoch.
    pub fn unheard(&self, me: NodeId) -> Vec<NodeId> {
        let heard = |node: &NodeId| *node == me || self.greeted.contains_key(node) || self.disagreeing.contains_key(node);
        let waits = self.formation.is_none() && self.pending.is_none();
        self.options.initial.iter().filter(|node| waits && !heard(node)).copied().collect()
    }

    /// While the cluster has not formed: the members that were started with other settings than this node, and how they differ.
    pub fn disagreeing(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.disagreeing.iter().map(|(node, how)| (*node, how.as_str()))
    }

    pub fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    pub fn standing(&self) -> Standing {
        match (&self.refused, &self.formation) {
            (Some(why), _) => Standing::Refused(why.clone()),
            (None, Some(_)) => Standing::Member,
            (None, None) => Standing::Forming,
        }
    }

    /// Whether an envelope may be handled. `Err(Some)`: the sender is told why not. `Err(None)`: it is dropped.
    pub fn admit(&mut self, now: Time, envelope: &Envelope) -> Result<(), Option<Refusal>> {
        if !is_believable(envelope) {
            return Err(None);
        }
        let Some(formation) = &self.formation else {
            return if envelope.messages.iter().any(|message| self.listens_to(message)) { Ok(()) } else { Err(None) };
        };
        if let Some(cluster) = envelope.cluster
            && cluster != formation.cluster
        {
            return Err(Some(Refusal::OtherCluster { ours: formation.cluster }));
        }
        let Some(member) = formation.members.iter().find(|m| m.node == envelope.from) else {
            return Err(Some(Refusal::NotAMember));
        };
        if member.directory != envelope.directory {
            Sometimes::OtherDirectoryRefused.reached();
            return Err(Some(Refusal::OtherDirectory { bound: member.directory }));
        }
        if envelope.cluster.is_none() {
            let greeting = envelope.messages.iter().all(|m| matches!(m, PeerMessage::Greeting(_) | PeerMessage::Refused(..)));
            return if greeting { Ok(()) } else { Err(None) };
        }
        let (booted, support) = (self.booted, Duration::from_millis(u64::from(formation.options.support_ms)));
        // A node that is refused itself hears nobody.
        let silent_after = self.refused.is_none().then_some(self.options.silent_after);
        let mark = self.marks.entry(envelope.from).or_insert_with(|| Mark::new(PeerMark::default()));
        if !mark.admits(envelope.epoch) {
            Sometimes::EnvelopeOfEarlierEpoch.when(envelope.epoch < mark.epoch);
            Sometimes::EnvelopeOfOldCopy.when(mark.old_copy == Some(envelope.epoch));
            return Err(mark.refusal(now, booted, silent_after));
        }
        for message in &envelope.messages {
            match message {
                PeerMessage::Heartbeat(heartbeat) => match mark.hear(now, envelope.epoch, heartbeat, support) {
                    Heard::LetIn => {}
                    Heard::TooSoon => {
                        mark.made_wait = Some(now);
                        return Err(None);
                    }
                    Heard::OldCopy => return Err(mark.refusal(now, booted, silent_after)),
                },
                // What is acknowledged may be let go of here. Heartbeats would tell that it was durable, but later (seed 15820).
                PeerMessage::Replica(_, ReplicaMessage::AppendReply(AppendReply { synced: Some(lsn), .. }))
                    if envelope.epoch == mark.epoch =>
                {
                    mark.highest = mark.highest.max(*lsn);
                }
                _ => {}
            }
        }
        // Until a later epoch has shown where it began, nothing of it counts: its answers would void what the present epoch was
        // promised.
        if envelope.epoch > mark.epoch {
            Sometimes::EnvelopeBeforeFirstHeartbeat.reached();
            Err(None)
        } else {
            Ok(())
        }
    }

    /// Whether a message of an admitted envelope is handled. Before the cluster has formed only those that lead there are. The
    /// node that has formed the cluster sends heartbeats in the same envelope that says so.
    pub fn listens_to(&self, message: &PeerMessage) -> bool {
        self.formation.is_some()
            || matches!(message, PeerMessage::Greeting(_) | PeerMessage::Formed(_) | PeerMessage::Refused(..))
    }

    /// Whether a message of this origin may be handled that others have passed on: a member with the bound directory, in no
    /// earlier epoch than it is known to live in. No mark grows by it: others cannot make a node be taken for an old copy of
    /// itself.
    pub fn admits_relayed(&self, origin: NodeId, directory: DirectoryId, epoch: Epoch) -> bool {
        let Some(formation) = &self.formation else { return false };
        let bound = formation.members.iter().any(|member| member.node == origin && member.directory == directory);
        bound && self.marks.get(&origin).is_none_or(|mark| mark.admits(epoch))
    }

    /// Why the peer's last heartbeat was dropped, if another log counts as that node's as long as it is heard: both run.
    pub fn made_wait(&self, now: Time, peer: NodeId) -> Option<Refusal> {
        let mark = self.marks.get(&peer).filter(|mark| mark.made_wait == Some(now))?;
        mark.refusal(now, self.booted, None)
    }

    /// Whether the peer's mark has changed so that it must be logged now, with other records or alone.
    pub fn has_news_of(&self, peer: NodeId) -> bool {
        self.marks.get(&peer).is_some_and(|mark| mark.is_news)
    }

    /// The marks that have grown since they were last logged, which are to be logged now.
    pub fn take_grown_marks(&mut self) -> Vec<(NodeId, PeerMark)> {
        let mut grown = Vec::new();
        for (node, mark) in &mut self.marks {
            if std::mem::take(&mut mark.is_news) || mark.highest > mark.logged {
                mark.logged = mark.highest;
                grown.push((*node, PeerMark { epoch: mark.epoch, durable: mark.highest }));
            }
        }
        grown
    }

    /// The marks of all peers, of which each is to be logged again.
    pub fn marks(&self) -> impl Iterator<Item = (NodeId, PeerMark)> + '_ {
        let seen = self.marks.iter().filter(|(_, mark)| mark.highest > Lsn::ZERO);
        seen.map(|(node, mark)| (*node, PeerMark { epoch: mark.epoch, durable: mark.highest }))
    }

    fn greeting(&self) -> PeerMessage {
        PeerMessage::Greeting(Greeting {
            address: self.options.address.clone(),
            zone: self.options.zone.clone(),
            weight: self.options.weight,
            initial: self.options.initial.clone(),
            options: self.options.cluster,
        })
    }

    fn greet(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        for node in self.options.initial.iter().filter(|node| **node != cx.me) {
            out.push(Out::Send(*node, self.greeting()));
        }
        self.greet_at = Some(cx.now + self.options.greeting_interval);
    }

    fn on_greeting(
        &mut self,
        cx: &mut Context<'_>,
        sender: (NodeId, Epoch, DirectoryId),
        greeting: Greeting,
        out: &mut Outbox<Out>,
    ) {
        let (from, epoch, directory) = sender;
        if self.formation.is_none() && !self.options.initial.contains(&from) {
            return;
        }
        if let Some(formation) = &self.formation {
            // The envelope was admitted, so the directory is the bound one. Another duration of support would make leases unsafe.
            if greeting.options != formation.options {
                out.push(Out::Send(from, PeerMessage::Refused(epoch, Refusal::OtherOptions)));
                return;
            }
            Sometimes::LateMemberToldOfFormation.reached();
            out.push(Out::Send(from, PeerMessage::Formed(formation.clone())));
            return;
        }
        let member = Member { node: from, directory, address: greeting.address, zone: greeting.zone, weight: greeting.weight };
        if greeting.initial != self.options.initial || greeting.options != self.options.cluster || !is_within_limits(&member) {
            self.greeted.remove(&from);
            self.disagreeing.insert(from, differences(&greeting.initial, &greeting.options, &self.options));
            out.push(Out::Send(from, PeerMessage::Refused(epoch, Refusal::OtherOptions)));
            return;
        }
        self.disagreeing.remove(&from);
        // Its epoch may have begun after this node's last round of greetings, which may be far from the next.
        let known = self.greeted.insert(from, (epoch, member)).map(|(known, _)| known);
        Sometimes::MemberRestartsBeforeFormation.when(known.is_some_and(|known| known < epoch));
        if known.is_none_or(|known| known < epoch) {
            out.push(Out::Send(from, self.greeting()));
        }
        self.form(cx, out);
    }

    /// The lowest member forms the cluster once all others have greeted it.
    fn form(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        let lowest = self.options.initial.first() == Some(&cx.me);
        let complete = self.options.initial.iter().all(|node| *node == cx.me || self.greeted.contains_key(node));
        if !lowest || !complete || self.pending.is_some() || self.formation.is_some() || self.refused.is_some() {
            return;
        }
        let me = Member {
            node: cx.me,
            directory: self.options.directory,
            address: self.options.address.clone(),
            zone: self.options.zone.clone(),
            weight: self.options.weight,
        };
        let mut members: Vec<Member> = self.greeted.values().map(|(_, member)| member.clone()).collect();
        members.push(me);
        members.sort_by_key(|m| m.node);
        let cluster = ClusterId(u128::from(cx.random.next_u64()) << 64 | u128::from(cx.random.next_u64()));
        self.log(Formation { cluster, members, options: self.options.cluster }, out);
    }

    fn log(&mut self, formation: Formation, out: &mut Outbox<Out>) {
        self.pending = Some(formation.clone());
        out.push(Out::LogFormation(formation));
    }

    fn on_formed(&mut self, cx: &Context<'_>, formation: Formation, out: &mut Outbox<Out>) {
        if self.formation.is_some() || self.pending.is_some() {
            Sometimes::FormationToldAgain.reached();
            return;
        }
        let bound = formation.members.iter().find(|m| m.node == cx.me).map(|m| m.directory);
        // Promises are already given by this node's own options, and the placement is computed from these: they must be the same,
        // and within limits.
        let sound = formation.options == self.options.cluster
            && formation.members.len() <= NODES_MAX
            && formation.members.is_sorted_by(|a, b| a.node < b.node)
            && formation.members.iter().all(is_within_limits);
        if sound && bound == Some(self.options.directory) {
            self.log(formation, out);
        }
    }

    fn on_durable(&mut self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        let Some(formation) = self.pending.take() else { return };
        for member in formation.members.iter().filter(|m| m.node != cx.me) {
            out.push(Out::Send(member.node, PeerMessage::Formed(formation.clone())));
        }
        self.join(cx, formation, out);
    }

    fn join(&mut self, cx: &Context<'_>, formation: Formation, out: &mut Outbox<Out>) {
        self.greet_at = None;
        self.greeted.clear();
        self.disagreeing.clear();
        out.push(Out::Joined(formation.clone()));
        self.formation = Some(formation);
        self.on_welcomed(cx, cx.me, out);
    }

    fn on_welcomed(&mut self, cx: &Context<'_>, from: NodeId, out: &mut Outbox<Out>) {
        if self.outdated.is_some() {
            let before = self.answers.insert(from, Answer { consents: true, at: cx.now });
            Sometimes::RefusingPeerForgets.when(before.is_some_and(|before| !before.consents));
            self.ask_to_start_over(cx, out);
        }
        if self.formation.is_some() && self.welcomed.insert(from) {
            out.push(Out::Welcomed);
        }
    }

    fn on_refused(&mut self, cx: &Context<'_>, from: NodeId, refusal: &Refusal, out: &mut Outbox<Out>) {
        // Two nodes that disagree about options before there is a cluster may be restarted with better ones: said, not final.
        if self.formation.is_none() && matches!(refusal, Refusal::OtherOptions) {
            if self.options.initial.contains(&from) && !self.greeted.contains_key(&from) {
                let unsaid = || "other initial members, partitions, replication factor, support duration or drift bound".into();
                self.disagreeing.entry(from).or_insert_with(unsaid);
            }
            return;
        }
        let ours = self.options.directory;
        let why = self.refused.is_none().then(|| match refusal {
            Refusal::OtherDirectory { bound } => format!(
                "node {from} says that this node id is bound to data directory {bound}, but this one is {ours}: it was emptied or exchanged, or two nodes run with one id. Start it with the directory that belongs to it; a node that has lost its directory cannot come back yet"
            ),
            Refusal::OldDirectory { seen, .. } => format!(
                "node {from} has seen this node's log durable up to position {seen}, which the log no longer holds: the data directory is an old copy. {}",
                self.hope()
            ),
            Refusal::OtherCluster { ours } => format!("node {from} is a member of another cluster ({ours})"),
            Refusal::NotAMember => format!("node {from} does not know this node id as a member"),
            Refusal::OtherOptions => {
                format!(
                    "node {from} was started with other initial members, partitions, replication factor, support duration or drift bound"
                )
            }
        });
        let was_refused = why.is_none();
        self.refused = self.refused.take().or(why);
        match refusal {
            Refusal::OldDirectory { seen, epoch, silent } if !was_refused || self.outdated.is_some() => {
                let seen = PeerMark { epoch: *epoch, durable: *seen };
                self.outdated = Some(self.outdated.unwrap_or_default().join(seen));
                self.answers.insert(from, Answer { consents: *silent, at: cx.now });
                self.ask_to_start_over(cx, out);
            }
            _ => self.outdated = None,
        }
    }

    /// What an old copy of a directory may wait for.
    fn hope(&self) -> String {
        let few = |formation: &Formation| formation.options.replication_factor < 3 || formation.members.len() < 3;
        if self.formation.as_ref().is_none_or(few) {
            return "With fewer than three replicas of each partition nobody can make the node whole: start it with the newest copy".into();
        }
        format!(
            "The node starts over by itself, to be made whole by its peers, once most of the other replicas of each of its partitions have not heard the original for {:.0} s, and are not refused themselves. If the original runs, end one of the two",
            self.options.silent_after.as_secs_f64()
        )
    }

    /// Most of the others would let in what starts over here. Not right after a boot: should they not let it in, it would boot
    /// again and again.
    fn ask_to_start_over(&self, cx: &Context<'_>, out: &mut Outbox<Out>) {
        let Some(formation) = &self.formation else { return };
        let others = || formation.members.iter().map(|member| member.node).filter(|node| *node != cx.me);
        let is_soon = cx.now.since(self.booted) < self.options.silent_after;
        if !is_soon && others().filter(|node| self.consents(cx.now, *node)).count() * 2 > others().count() {
            out.push(Out::Outdated);
        }
    }

    /// Whether the node lately found the original of this old directory silent, or let this node in.
    pub fn consents(&self, now: Time, node: NodeId) -> bool {
        self.answers.get(&node).is_some_and(|answer| answer.consents && now.since(answer.at) < self.options.silent_after)
    }

    /// How far the peers have seen the log of which this directory has an old copy. `None`: it is none, or further than is believed.
    pub fn outdated(&self) -> Option<PeerMark> {
        // Numbers follow it for ever. No honest node comes near the bound.
        self.outdated.filter(|seen| seen.epoch.0.max(seen.durable.0) <= COUNTER_MAX / 2)
    }
}

/// Whether the numbers of an envelope that may be logged are within bounds: epoch and position become a mark. No honest node
/// comes near them.
fn is_believable(envelope: &Envelope) -> bool {
    let position = |message: &PeerMessage| match message {
        PeerMessage::Heartbeat(beat) => beat.durable.max(beat.began).0,
        PeerMessage::Replica(_, ReplicaMessage::AppendReply(reply)) => reply.synced.map_or(0, |lsn| lsn.0),
        _ => 0,
    };
    envelope.epoch.0 <= COUNTER_MAX && envelope.messages.iter().all(|message| position(message) <= COUNTER_MAX)
}

/// What another's settings say, and what this node's say, where they differ.
fn differences(initial: &[NodeId], theirs: &ClusterOptions, own: &MembershipOptions) -> String {
    let ours = &own.cluster;
    let list = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
    let mut all = Vec::new();
    if initial != own.initial {
        all.push(format!("the members {} (here {})", list(initial), list(&own.initial)));
    }
    let numbers = [
        ("partitions", theirs.partitions, ours.partitions, ""),
        ("replication_factor", theirs.replication_factor.into(), ours.replication_factor.into(), ""),
        ("support_duration", theirs.support_ms, ours.support_ms, "ms"),
        ("clock_drift_max_ppm", theirs.clock_drift_ppm_max, ours.clock_drift_ppm_max, ""),
    ];
    let differing = numbers.iter().filter(|(_, theirs, ours, _)| theirs != ours);
    all.extend(differing.map(|(name, theirs, ours, unit)| format!("{name} {theirs}{unit} (here {ours}{unit})")));
    if all.is_empty() {
        all.push("an address or a zone that is too long, or too large a weight".into());
    }
    all.join(", ")
}

/// Whether a member may stand in a formation, which is one record of the log.
fn is_within_limits(member: &Member) -> bool {
    member.weight <= WEIGHT_MAX && member.address.len() <= ADDRESS_SIZE_MAX && member.zone.len() <= ZONE_SIZE_MAX
}

impl Actor for Membership {
    type In = In;
    type Out = Out;

    fn handle(&mut self, cx: &mut Context<'_>, input: In, out: &mut Outbox<Out>) {
        match input {
            In::Start => match self.formation.take() {
                Some(formation) => self.join(cx, formation, out),
                None => {
                    self.greet(cx, out);
                    self.form(cx, out);
                }
            },
            In::Greeting(from, epoch, directory, greeting) => self.on_greeting(cx, (from, epoch, directory), greeting, out),
            In::Formed(formation) => self.on_formed(cx, formation, out),
            In::FormationDurable => self.on_durable(cx, out),
            In::Refused(from, refusal) => self.on_refused(cx, from, &refusal, out),
            In::Welcomed(from) => self.on_welcomed(cx, from, out),
            In::Timer => {
                if self.greet_at.is_some_and(|at| at <= cx.now) {
                    self.greet(cx, out);
                }
            }
        }
    }

    fn deadline(&self) -> Option<(Time, TimerKind)> {
        self.greet_at.map(|at| (at, TimerKind::Formation))
    }

    fn check(&self) {
        assert!(self.formation.is_none() || self.pending.is_none(), "a cluster forms once");
        if let Some(formation) = &self.formation {
            assert!(self.greet_at.is_none(), "a formed node greets nobody");
            assert!(formation.members.is_sorted_by_key(|m| m.node), "members are in order");
        }
        for mark in self.marks.values() {
            assert!(mark.logged <= mark.highest, "marks only grow");
            assert!(mark.old_copy.is_none_or(|copy| copy != mark.epoch), "what is let in is no old copy");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{GroupId, Index, Term, random};
    use crate::msg::peer::AppendOutcome;

    const D2: DirectoryId = DirectoryId(2);

    fn member(node: u16) -> Member {
        let directory = DirectoryId(u128::from(node));
        Member { node: NodeId(node), directory, address: "a:1".into(), zone: String::new(), weight: 1 }
    }

    fn formation() -> Formation {
        Formation { cluster: ClusterId(9), members: vec![member(1), member(2)], options: ClusterOptions::default() }
    }

    fn node(formation: Option<Formation>) -> Membership {
        let options = MembershipOptions {
            directory: DirectoryId(1),
            address: "a:1".into(),
            zone: String::new(),
            weight: 1,
            initial: vec![NodeId(1), NodeId(2)],
            cluster: ClusterOptions::default(),
            greeting_interval: Duration::from_millis(100),
            silent_after: Duration::from_secs(3),
        };
        Membership::new(options, formation, &BTreeMap::new(), Time::ZERO)
    }

    fn beat(epoch: u64, began: u64, durable: u64) -> Envelope {
        let (disk, detours) = (Default::default(), Vec::new());
        let beat = Heartbeat {
            sent: 0,
            durable: Lsn(durable),
            began: Lsn(began),
            previous: Epoch::ZERO,
            disk,
            detours,
            epochs: Vec::new(),
            clock_ms: 0,
        };
        let messages = vec![PeerMessage::Heartbeat(beat)];
        Envelope { cluster: Some(ClusterId(9)), from: NodeId(2), directory: D2, epoch: Epoch(epoch), messages }
    }

    /// The original, in this epoch and seen so far, has just been heard.
    fn old(epoch: u64, seen: u64) -> Result<(), Option<Refusal>> {
        Err(Some(Refusal::OldDirectory { seen: Lsn(seen), epoch: Epoch(epoch), silent: false }))
    }

    #[test]
    fn what_is_beyond_bounds_is_not_admitted_and_leaves_no_mark() {
        let mut node = node(Some(formation()));
        for envelope in [beat(1, 0, COUNTER_MAX + 1), beat(1, u64::MAX, 1), beat(COUNTER_MAX + 1, 0, 1), beat(u64::MAX, 0, 1)] {
            assert_eq!(node.admit(Time::ZERO, &envelope), Err(None), "{envelope:?}");
        }
        assert_eq!(node.take_grown_marks(), []);
        assert_eq!(node.admit(Time::ZERO, &beat(1, 0, 5)), Ok(()));
        assert_eq!(node.take_grown_marks(), [(NodeId(2), PeerMark { epoch: Epoch(1), durable: Lsn(5) })]);
        assert_eq!(node.take_grown_marks(), [], "it has not grown since");
    }

    #[test]
    fn what_a_life_has_logged_since_does_not_hide_what_it_lacks() {
        let mut node = node(Some(formation()));
        assert_eq!(node.admit(Time::ZERO, &beat(1, 0, 100)), Ok(()));
        // It lost three records, and has logged four of its own before its first heartbeat got through.
        assert_eq!(node.admit(Time::ZERO, &beat(2, 97, 101)), old(1, 100));
        // One that lost nothing; and one that does not say where it began.
        assert_eq!(node.admit(Time::ZERO, &beat(3, 101, 102)), Ok(()));
        assert_eq!(node.admit(Time::ZERO, &beat(4, 0, 103)), Ok(()));
        assert_eq!(node.admit(Time::ZERO, &beat(5, 0, 102)), old(4, 103));
    }

    /// An acknowledgement of everything up to this position.
    fn acknowledgement(epoch: u64, synced: u64) -> Envelope {
        let (outcome, synced) = (AppendOutcome::Matched(Index(1)), Some(Lsn(synced)));
        let reply = AppendReply { term: Term(1), outcome, round: 0, acceptance: None, commit: Index(1), synced, amnesiac: false };
        let messages = vec![PeerMessage::Replica(GroupId(1), ReplicaMessage::AppendReply(reply))];
        Envelope { messages, ..beat(epoch, 0, 0) }
    }

    #[test]
    fn a_directory_without_what_its_node_has_acknowledged_is_refused_before_any_heartbeat_told_of_that() {
        let mut node = node(Some(formation()));
        assert_eq!(node.admit(Time::ZERO, &beat(5, 90, 100)), Ok(()));
        assert_eq!(node.admit(Time::ZERO, &acknowledgement(5, 120)), Ok(()));
        assert_eq!(node.take_grown_marks(), [(NodeId(2), PeerMark { epoch: Epoch(5), durable: Lsn(120) })]);
        // One of an earlier epoch, and one beyond reason, say nothing.
        assert!(node.admit(Time::ZERO, &acknowledgement(4, 500)).is_err());
        assert_eq!(node.admit(Time::ZERO, &acknowledgement(5, COUNTER_MAX + 1)), Err(None));
        assert_eq!(node.admit(Time::ZERO, &beat(6, 110, 130)), old(5, 120));
        assert_eq!(node.admit(Time::ZERO, &beat(7, 120, 130)), Ok(()));
    }

    #[test]
    fn a_copy_started_by_mistake_does_not_evict_the_original() {
        let mut node = node(Some(formation()));
        assert_eq!(node.admit(Time::ZERO, &beat(5, 90, 100)), Ok(()));
        // Epochs of the copy and of the original after its restart are drawn apart, and either may be the higher.
        let refused = old(5, 100);
        assert_eq!(node.admit(Time::ZERO, &beat(9, 98, 99)), refused);
        assert_eq!(node.admit(Time::ZERO, &beat(9, 98, 200)), refused, "what it has logged since does not help it");
        assert_eq!(node.admit(Time::ZERO, &Envelope { messages: Vec::new(), ..beat(9, 0, 0) }), refused);
        assert_eq!(node.admit(Time::ZERO, &beat(5, 90, 101)), Ok(()), "the original is as good as before");
        let mut again = beat(12, 300, 301);
        if let PeerMessage::Heartbeat(heartbeat) = &mut again.messages[0] {
            heartbeat.previous = Epoch(9);
        }
        assert_eq!(node.admit(Time::ZERO, &again), old(5, 101), "the copy is started once more");
        assert_eq!(
            node.admit(Time::ZERO, &Envelope { messages: Vec::new(), ..beat(8, 0, 0) }),
            Err(None),
            "a later epoch first says where it began"
        );
        assert_eq!(node.admit(Time::ZERO, &beat(8, 101, 102)), Ok(()), "the original restarts");
        assert_eq!(node.admit(Time::ZERO, &beat(5, 90, 101)), old(8, 102), "and does not live twice");
    }

    #[test]
    fn a_copy_is_told_whether_its_original_is_silent() {
        let mut node = node(Some(formation()));
        let at = |secs| Time::ZERO + Duration::from_secs(secs);
        let refused = |silent| Err(Some(Refusal::OldDirectory { seen: Lsn(100), epoch: Epoch(5), silent }));
        assert_eq!(node.admit(at(10), &beat(5, 90, 100)), Ok(()));
        assert_eq!(node.admit(at(12), &beat(9, 98, 99)), refused(false));
        assert_eq!(node.admit(at(13), &beat(9, 98, 99)), refused(true));
        assert_eq!(node.admit(at(14), &beat(5, 90, 100)), Ok(()), "the original lives after all");
        assert_eq!(node.admit(at(14), &Envelope { messages: Vec::new(), ..beat(9, 0, 0) }), refused(false));
        // A peer that has just booted knows of nothing since.
        let marks = BTreeMap::from([(NodeId(2), PeerMark { epoch: Epoch(5), durable: Lsn(100) })]);
        let mut booted = Membership::new(node.options.clone(), node.formation.clone(), &marks, at(20));
        assert_eq!(booted.admit(at(22), &beat(9, 98, 99)), refused(false));
        assert_eq!(booted.admit(at(23), &beat(9, 98, 99)), refused(true));
    }

    #[test]
    fn an_old_copy_may_start_over_when_most_of_the_others_lately_let_it_in_or_find_the_original_silent() {
        let mut random = random::stream(1, "test");
        let mut cache = crate::base::cache::ValueCache::new(0, &crate::base::limits::Limits::DEFAULT);
        let view = crate::actor::LivenessView::EMPTY;
        let refused = |from, epoch, seen, silent| {
            In::Refused(NodeId(from), Refusal::OldDirectory { seen: Lsn(seen), epoch: Epoch(epoch), silent })
        };
        let wiped = || In::Refused(NodeId(4), Refusal::OtherDirectory { bound: DirectoryId(9) });
        // What a node of four hears, one each second, and the mark that it may start over with at the last.
        let mark = |epoch, seen| Some(PeerMark { epoch: Epoch(epoch), durable: Lsn(seen) });
        let welcomed = |from| In::Welcomed(NodeId(from));
        let nothing = || In::Timer;
        let cases = [
            (vec![refused(2, 7, 50, true), refused(2, 7, 50, true), refused(3, 6, 80, true)], mark(7, 80)),
            (vec![refused(2, 7, 50, true), welcomed(4), refused(2, 7, 60, true)], mark(7, 60)),
            // A peer that refused it restarts, and knows of no original; so do all.
            (vec![refused(4, 7, 50, false), welcomed(4), refused(2, 7, 60, true)], mark(7, 60)),
            (vec![refused(4, 7, 50, false), welcomed(4), welcomed(2)], mark(7, 50)),
            (vec![refused(4, 7, 50, true), refused(4, 7, 50, true), welcomed(2)], mark(7, 50)),
            // Too soon after its boot.
            (vec![refused(2, 7, 50, true), refused(3, 6, 80, true)], None),
            // One peer is no majority, nor is one that said so long ago.
            (vec![refused(2, 7, 50, true), refused(2, 7, 50, true), refused(2, 7, 50, true)], None),
            (vec![refused(3, 7, 50, true), nothing(), nothing(), refused(2, 7, 50, true)], None),
            // The original lives, or is back.
            (vec![refused(2, 7, 50, false), refused(3, 6, 80, true), refused(2, 7, 50, false)], None),
            (vec![refused(2, 7, 50, true), refused(2, 7, 50, false), refused(3, 6, 80, true)], None),
            (vec![refused(2, 7, 50, true), welcomed(4), welcomed(4), refused(2, 7, 50, false)], None),
            (vec![refused(2, 7, 50, true), refused(3, 7, COUNTER_MAX, true), refused(3, 7, COUNTER_MAX, true)], None),
            // There is another trouble.
            (vec![wiped(), refused(2, 7, 50, true), refused(3, 6, 80, true)], None),
            (vec![refused(2, 7, 50, true), wiped(), refused(3, 6, 80, true)], None),
        ];
        for (heard, expected) in cases {
            let members = (1..=4).map(member).collect();
            let mut node = node(Some(Formation { members, ..formation() }));
            let mut handle = |at: u64, input| {
                let base = Context::of_test(&mut random, &view, &mut cache);
                let now = Time::ZERO + Duration::from_secs(at);
                let mut out = Outbox::default();
                node.handle(&mut Context { me: NodeId(1), now, ..base }, input, &mut out);
                node.check();
                let asks = std::iter::from_fn(|| out.pop()).any(|out| matches!(out, Out::Outdated));
                node.outdated().filter(|_| asks)
            };
            handle(0, In::Start);
            let story = format!("{heard:?}");
            let last = (1..).zip(heard).map(|(at, input)| handle(at, input)).last().flatten();
            assert_eq!(last, expected, "{story}");
        }
    }

    #[test]
    fn a_log_that_does_not_follow_what_was_let_in_waits_for_what_that_was_promised_and_is_noted_at_once() {
        let mut node = node(Some(formation()));
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        let later = |epoch, previous| {
            let mut later = beat(epoch, 100 * epoch, 100 * epoch + 1);
            if let PeerMessage::Heartbeat(heartbeat) = &mut later.messages[0] {
                heartbeat.previous = Epoch(previous);
            }
            later
        };
        assert_eq!(node.admit(at(1_000), &beat(5, 90, 100)), Ok(()));
        node.take_grown_marks();
        assert_eq!(node.admit(at(1_010), &later(6, 5)), Ok(()), "a restart");
        assert!(!node.has_news_of(NodeId(2)));
        let support = u64::from(ClusterOptions::default().support_ms);
        assert_eq!(node.admit(at(1_009 + support), &later(9, 8)), Err(None));
        assert!(
            matches!(node.made_wait(at(1_009 + support), NodeId(2)), Some(Refusal::OldDirectory { .. })),
            "an operator is told"
        );
        assert_eq!(node.admit(at(1_009 + support), &later(6, 5)), Ok(()), "it lives");
        assert_eq!(node.made_wait(at(1_010 + support), NodeId(2)), None);
        assert_eq!(node.admit(at(1_008 + 2 * support), &later(9, 8)), Err(None));
        assert_eq!(node.admit(at(1_009 + 2 * support), &later(9, 8)), Ok(()));
        assert!(node.has_news_of(NodeId(2)));
        assert_eq!(node.take_grown_marks(), [(NodeId(2), PeerMark { epoch: Epoch(9), durable: Lsn(901) })]);
        assert!(!node.has_news_of(NodeId(2)) && node.take_grown_marks().is_empty());
        assert!(node.admit(at(5_000), &later(6, 5)).is_err(), "and the other one is not heard any more");
    }

    #[test]
    fn the_lowest_member_forms_the_cluster_once_when_all_others_have_greeted_it() {
        let mut random = random::stream(1, "test");
        let mut cache = crate::base::cache::ValueCache::new(0, &crate::base::limits::Limits::DEFAULT);
        let view = crate::actor::LivenessView::EMPTY;
        let initial = vec![NodeId(1), NodeId(2), NodeId(3)];
        // The node, what it was refused for, the peers whose greetings it hears in this order, and after which of these it forms
        // the cluster, counted from 1.
        let other = Refusal::OtherDirectory { bound: DirectoryId(9) };
        let cases = [
            (1, None, vec![2, 3], vec![2]),
            (1, None, vec![3, 3, 2, 2], vec![3]),
            (1, Some(other), vec![2, 3], vec![]),
            (2, None, vec![1, 3], vec![]),
            (3, None, vec![1, 2], vec![]),
        ];
        for (me, refusal, greeted, expected) in cases {
            let mut node = node(None);
            node.options.initial.clone_from(&initial);
            let mut forms = |input| {
                let mut out = Outbox::default();
                let base = Context::of_test(&mut random, &view, &mut cache);
                node.handle(&mut Context { me: NodeId(me), ..base }, input, &mut out);
                node.check();
                std::iter::from_fn(|| out.pop()).any(|out| matches!(out, Out::LogFormation(_)))
            };
            assert!(!forms(In::Start));
            assert!(!refusal.is_some_and(|refusal| forms(In::Refused(NodeId(2), refusal))));
            let mut formed = Vec::new();
            for (number, from) in (1..).zip(&greeted) {
                let Member { node, directory, address, zone, weight } = member(*from);
                let greeting = Greeting { address, zone, weight, initial: initial.clone(), options: ClusterOptions::default() };
                if forms(In::Greeting(node, Epoch(1), directory, greeting)) {
                    formed.push(number);
                }
            }
            assert_eq!(formed, expected, "node {me} is greeted by {greeted:?}");
        }
    }

    #[test]
    fn a_formation_is_one_record_of_bounded_size() {
        let mut random = random::stream(1, "test");
        let mut cache = crate::base::cache::ValueCache::new(0, &crate::base::limits::Limits::DEFAULT);
        let long = "x".repeat(ADDRESS_SIZE_MAX.max(ZONE_SIZE_MAX) + 1);
        for (address, zone, taken) in [("b:1", "z", true), (&*long, "z", false), ("b:1", &*long, false)] {
            let (address, zone) = (address.to_owned(), zone.to_owned());
            let mut members = formation();
            members.members[1] = Member { address: address.clone(), zone: zone.clone(), ..member(2) };
            let initial = vec![NodeId(1), NodeId(2)];
            let greeting = Greeting { address, zone, weight: 1, initial, options: ClusterOptions::default() };
            for input in [In::Formed(members), In::Greeting(NodeId(2), Epoch(1), D2, greeting)] {
                let mut node = node(None);
                let mut out = Outbox::default();
                let view = crate::actor::LivenessView::EMPTY;
                let mut cx = Context { now: Time::ZERO, ..Context::of_test(&mut random, &view, &mut cache) };
                node.handle(&mut cx, input, &mut out);
                let logged = std::iter::from_fn(|| out.pop()).any(|out| matches!(out, Out::LogFormation(_)));
                assert_eq!(logged, taken);
            }
        }
    }
}
