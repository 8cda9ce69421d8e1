//! Entries that a follower lacks and that are in memory no more: read back from the log.

use super::super::{Out, Replica, Role, Unread};
use super::{FETCH_ENTRIES_MAX, Sender};
use crate::actor::{Context, Outbox, Share};
use crate::base::{Duration, Index, Sometimes};
use crate::msg::log::Entry;

/// An entry that has rotted is read again after this: its follower is sent the group's state meanwhile.
const ROTTEN_AGAIN: Duration = Duration::from_secs(1);

impl Replica {
    /// An entry was read back, or cannot be.
    pub(in super::super) fn on_entry_read(
        &mut self,
        cx: &Context<'_>,
        tag: u64,
        entry: Result<Entry, Unread>,
        out: &mut Outbox<Out>,
    ) {
        let retry = cx.now + self.retry_interval();
        let Role::Leader(leader) = &mut self.role else { return };
        let (number, position) = (tag / FETCH_ENTRIES_MAX as u64, (tag % FETCH_ENTRIES_MAX as u64) as usize);
        let mut sender = Sender::new(cx, &self.log, self.options.group, self.state, self.everywhere, leader.round, retry);
        let Some(progress) = leader.progress.iter_mut().find(|p| p.fetch.as_ref().is_some_and(|f| f.number == number)) else {
            return;
        };
        let Some(fetch) = &mut progress.fetch else { return };
        // The log vouches for the bytes and the place; that it is the entry that was meant is for us to see.
        let wanted = Index(fetch.first.0 + position as u64);
        let is_rotten = entry != Err(Unread::Overloaded);
        let entry = entry.ok().filter(|entry| entry.index == wanted && self.log.term_at(wanted) == Some(entry.term));
        match (entry, fetch.entries.get_mut(position)) {
            (Some(entry), Some(slot)) => *slot = Some(entry),
            // It cannot be read here now. What is before it is sent all the same: else a log with one bad entry, or a disk that
            // is always asked for more than it may be, would keep all of them from the follower.
            (None, Some(_)) => {
                Sometimes::EntryNotReadBack.reached();
                fetch.entries.truncate(position);
            }
            (_, None) => return,
        }
        if fetch.entries.is_empty() {
            progress.fetch = None;
            let mut again_at = retry;
            if is_rotten {
                // Once it may be an error of the moment. What comes of the entry is in the group's state, if it is committed.
                let is_known = progress.rotten.is_some_and(|(index, _)| index == wanted);
                if is_known && wanted <= self.applied {
                    Sometimes::StateSentForRottenEntry.reached();
                    again_at = cx.now + ROTTEN_AGAIN;
                    out.push(Out::LacksBase(progress.node));
                }
                progress.rotten = Some((wanted, again_at));
            }
            leader.nudge_by(again_at);
            return;
        }
        if fetch.entries.iter().all(Option::is_some) {
            let first = fetch.first;
            let entries: Vec<Entry> = std::mem::take(&mut fetch.entries).into_iter().flatten().collect();
            progress.fetch = None;
            Sometimes::FollowerFedFromDisk.when(first == progress.next);
            Sometimes::EntryReadBackInVain.when(first != progress.next);
            if first == progress.next {
                sender.send_all(progress, entries, Share::CatchUp, out);
            }
            self.send_appends(cx, out);
        }
    }
}
