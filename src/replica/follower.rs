//! Appends as a follower takes them (Raft, section 5.3).

use super::log::GroupLog;
use super::{Out, Replica};
use crate::actor::{Context, Outbox};
use crate::base::{Epoch, Index, NodeId, Sometimes, Term};
use crate::msg::codec;
use crate::msg::configuration::Configuration;
use crate::msg::log::{Fact, LogBase};
use crate::msg::peer::{Append, AppendOutcome, AppendReply, ReplicaMessage};

/// Bytes that an entry's record takes in the log, at most, besides what the entry takes in a message.
const RECORD_OVERHEAD: usize = 256;

impl Replica {
    pub(super) fn on_append(&mut self, cx: &mut Context<'_>, from: NodeId, epoch: Epoch, append: Append, out: &mut Outbox<Out>) {
        if append.term < self.state.term {
            Sometimes::AppendOfEarlierTerm.reached();
            self.reply(from, AppendOutcome::StaleTerm, append.round, out);
            return;
        }
        if !is_well_formed(&append) {
            return;
        }
        self.adopt(cx, append.term, out);
        if append.term > self.state.term {
            return;
        }
        if self.leads() {
            // Two leaders in one term: a peer that speaks nonsense. Nothing of it is believed.
            return;
        }
        // An append to an earlier epoch of this node says nothing of what this one holds, nor binds or unbinds it.
        let to_this_epoch = append.follower == cx.epoch;
        Sometimes::AppendToEarlierEpoch.when(!to_this_epoch);
        self.accept(cx, from, epoch, to_this_epoch, out);
        self.everywhere = self.everywhere.max(append.everywhere);
        let (round, commit, is_whole) = (append.round, append.commit, append.whole);
        let outcome = match self.conflict(&append) {
            Some(conflict) => conflict,
            None if !self.has_room_for(cx, &append) => {
                let matched = self.known_up_to(&append);
                Sometimes::AppendRefusedForRoom.reached();
                self.learn_commit(Index(commit.0.min(matched.0)), out);
                AppendOutcome::Full { matched }
            }
            None => match self.take_entries(append, out) {
                Some(matched) => {
                    self.learn_commit(Index(commit.0.min(matched.0)), out);
                    // A new leader does not know yet all that is committed: only an entry of its own term proves it.
                    if to_this_epoch && matched >= commit && self.log.term_at(commit) == Some(self.state.term) {
                        Sometimes::LossyReplicaCaughtUp.when(self.lossy);
                        self.lossy = false;
                    }
                    if is_whole && to_this_epoch && self.amnesiac {
                        Sometimes::AmnesiaEnds.reached();
                        (self.amnesiac, self.lossy) = (false, false);
                        out.push(Out::Whole);
                    }
                    AppendOutcome::Matched(matched)
                }
                None => return,
            },
        };
        self.reply(from, outcome, round, out);
    }

    /// Why the entries do not join on to this log, if they do not.
    fn conflict(&self, append: &Append) -> Option<AppendOutcome> {
        let previous = append.previous_index;
        let found = self.log.term_at(previous);
        Sometimes::AppendConflictsInTerm.when(found.is_some_and(|term| term != append.previous_term));
        Sometimes::AppendBeyondTheLog.when(previous > self.log.last_index());
        match found {
            _ if self.log.agrees(previous, append.previous_term) => None,
            Some(term) => Some(AppendOutcome::Conflict { index: self.log.first_of_term(previous), term, previous }),
            None => Some(AppendOutcome::Conflict { index: self.log.last_index().next(), term: Term::ZERO, previous }),
        }
    }

    /// The last entry of an append, which joins on, that is in this log already.
    fn known_up_to(&self, append: &Append) -> Index {
        let known = append.entries.iter().take_while(|entry| self.log.agrees(entry.index, entry.term)).count();
        Index(append.previous_index.0 + known as u64)
    }

    /// Whether the log takes what is new to it. What frees room, or ends something, may have more of a full disk's reserve than
    /// other entries; a leader's first entry of its term may have all of it: without that no leader could serve at all.
    fn has_room_for(&self, cx: &Context<'_>, append: &Append) -> bool {
        if !cx.room.is_full() {
            return true;
        }
        let known = (self.known_up_to(append).0 - append.previous_index.0) as usize;
        let new = &append.entries[known..];
        let bytes = new.iter().map(|entry| (codec::encode(entry).len() + RECORD_OVERHEAD) as u64).sum();
        if new.iter().any(|entry| entry.fact.needs_room()) {
            cx.room.takes(bytes)
        } else {
            Sometimes::FullFollowerAskedToEnd.when(!new.is_empty());
            new.iter().all(|entry| entry.fact == Fact::Noop) || cx.room.takes_ending(bytes)
        }
    }

    /// Appends what is new, and replaces what conflicts. `None` if that would replace what is committed, which no leader asks
    /// for.
    fn take_entries(&mut self, append: Append, out: &mut Outbox<Out>) -> Option<Index> {
        let matched = Index(append.previous_index.0 + append.entries.len() as u64);
        Sometimes::AppendRepeated.when(!append.entries.is_empty() && self.known_up_to(&append) == matched);
        for entry in append.entries {
            match self.log.term_at(entry.index) {
                _ if self.log.agrees(entry.index, entry.term) => continue,
                Some(_) if entry.index <= self.state.commit => return None,
                Some(_) => {
                    Sometimes::FollowerTruncates.reached();
                    Sometimes::FollowerTruncatesDurable.when(self.durable >= entry.index);
                    self.log.truncate(entry.index);
                    self.durable = self.durable.min(entry.index.previous());
                }
                None => {}
            }
            self.log.append(entry.clone());
            out.push(Out::LogEntry(entry, self.state.commit));
        }
        Some(matched)
    }

    /// The state up to `base` has come from the leader, and is in the store. Entries behind it stay if the log has that one:
    /// they may have been acknowledged.
    pub(super) fn on_install(&mut self, base: LogBase, configuration: Configuration) {
        assert!(base.index > self.state.commit && !self.leads(), "a state is installed that is ahead of a follower's");
        if self.log.term_at(base.index) == Some(base.term) {
            Sometimes::InstallKeepsEntries.when(self.log.last_index() > base.index);
            self.log.compact(base.index);
        } else {
            Sometimes::InstallDropsEntries.when(self.log.last_index() > base.index);
            self.log = GroupLog::new(base, configuration);
            // Its own copy of the state is durable with the last piece.
            self.durable = self.durable.min(base.index);
        }
        (self.state.commit, self.applied) = (base.index, base.index);
    }

    fn learn_commit(&mut self, commit: Index, out: &mut Outbox<Out>) {
        if commit > self.state.commit {
            assert!(commit <= self.log.last_index(), "what a follower takes for committed is in its log");
            self.state.commit = commit;
            self.apply(out);
        }
    }

    fn reply(&self, to: NodeId, outcome: AppendOutcome, round: u64, out: &mut Outbox<Out>) {
        let accepted = self.accepted.filter(|a| a.leader == to && a.term == self.state.term && !self.amnesiac);
        let (term, commit, amnesiac) = (self.state.term, self.state.commit, self.amnesiac);
        let acceptance = accepted.map(|a| a.promise);
        let reply = AppendReply { term, outcome, round, acceptance, commit, synced: None, amnesiac };
        out.push(Out::Send(to, ReplicaMessage::AppendReply(reply)));
    }
}

/// Entries follow one another from `previous` on, in terms that do not decrease and are not after the message's.
fn is_well_formed(append: &Append) -> bool {
    let mut index = append.previous_index;
    let mut term = append.previous_term;
    for entry in &append.entries {
        if index.0 == u64::MAX || entry.index != index.next() || entry.term < term || entry.term > append.term {
            return false;
        }
        (index, term) = (entry.index, entry.term);
    }
    append.term > Term::ZERO && append.previous_term <= append.term
}
