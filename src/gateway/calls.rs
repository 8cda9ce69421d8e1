//! Calls: each is one task on its way, from the request or the question that it came of to the answer.
//!
//! A call waits here, is with this node's replica, or was forwarded. What was certainly not begun is routed again until the
//! deadline; what may have been begun is not repeated, unless it may be. At the deadline a write that was handed to a leader is
//! *unknown*; everything else is rejected.

use super::{Asker, Call, Caller, Gateway, Out, Whereabouts};
use crate::actor::{Context, Origin, Outbox};
use crate::base::{Duration, GroupId, NodeId, Sometimes, Time};
use crate::msg::client::{Doubt, Response, ResponseBody};
use crate::msg::operation::Rejection;
use crate::msg::peer::{Farewell, Outcome, PeerMessage, Task};
use crate::msg::transaction::{Failure, FailureReason};
use std::collections::{BTreeMap, BTreeSet};

/// How long a request that met no leader waits before it is routed again.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(10);

impl Gateway {
    pub(super) fn call(
        &mut self,
        cx: &mut Context<'_>,
        caller: Caller,
        group: GroupId,
        task: Task,
        deadline: Time,
        out: &mut Outbox<Out>,
    ) {
        self.next_id += 1;
        let size = task.size();
        self.size += size;
        let call = Call {
            caller,
            group,
            task,
            deadline,
            wake: deadline,
            size,
            place: Whereabouts::Waiting,
            attempts: 0,
            asked: 0,
            asking: false,
            crowded: false,
            conflict: Vec::new(),
            epoch: None,
            next: None,
            lost: false,
        };
        self.wakes.insert((deadline, self.next_id));
        self.calls.insert(self.next_id, call);
        self.route(cx, self.next_id, out);
    }

    /// Keeps a call here until a leader is known, or it is time to retry.
    pub(super) fn wait(&mut self, cx: &Context<'_>, id: u64) {
        self.wait_for(cx, id, RETRY_INTERVAL);
    }

    pub(super) fn wait_for(&mut self, cx: &Context<'_>, id: u64, pause: Duration) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.place = Whereabouts::Waiting;
        let group = call.group;
        self.leaderless.insert((group, id));
        self.wake_at(id, cx.now + pause);
    }

    pub(super) fn wake_at(&mut self, id: u64, at: Time) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        self.wakes.remove(&(call.wake, id));
        call.wake = at.min(call.deadline);
        self.wakes.insert((call.wake, id));
    }

    /// Takes a call back from wherever it is.
    pub(super) fn recall(&mut self, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        match call.place {
            Whereabouts::Forwarded(node, sequence) => {
                self.forwarded.remove(&(node, sequence));
            }
            Whereabouts::Waiting | Whereabouts::Local => {}
        }
        self.leaderless.remove(&(call.group, id));
        call.place = Whereabouts::Waiting;
    }

    pub(super) fn on_outcome(&mut self, cx: &mut Context<'_>, id: u64, outcome: Outcome, out: &mut Outbox<Out>) {
        match outcome {
            Outcome::Answer(ResponseBody::NotCommitted(failures)) if is_conflict(&failures) => self.on_conflict(cx, id, failures),
            Outcome::Answer(ResponseBody::Rejected(Rejection::Overloaded)) if self.is_part(id) => self.on_crowded(cx, id),
            Outcome::NotLeader { leader } => {
                let Some((group, place)) = self.calls.get(&id).map(|call| (call.group, call.place)) else { return };
                let believed = self.leaders.get(&group).copied();
                if let Some(hint) = leader {
                    self.learn(group, hint);
                }
                if let Whereabouts::Forwarded(node, _) = place
                    && self.leader_of(group) == Some(node)
                    && self.leaders.get(&group).copied() == believed
                    && leader.is_none_or(|hint| hint.node != node)
                {
                    // The peer does not lead, and knows no later leader: ask the others.
                    Sometimes::HintOutdated.reached();
                    self.leaders.remove(&group);
                }
                if let Some(call) = self.calls.get_mut(&id) {
                    // The peer answers: it is not slow.
                    call.asked = 0;
                }
                // Always after a pause: the hint may be as stale as ours was.
                self.recall(id);
                self.wait(cx, id);
            }
            outcome => self.finish(cx, id, outcome, out),
        }
    }

    pub(super) fn finish(&mut self, cx: &mut Context<'_>, id: u64, outcome: Outcome, out: &mut Outbox<Out>) {
        self.recall(id);
        let Some(call) = self.calls.remove(&id) else { return };
        self.wakes.remove(&(call.wake, id));
        self.size -= call.size;
        self.rival_is_done(cx, id, &call);
        let body = |outcome| match outcome {
            Outcome::Answer(body) => body,
            _ => ResponseBody::Rejected(Rejection::Invalid("the leader's answer is to another question".into())),
        };
        match call.caller {
            Caller::Client(..) => self.reply(call.caller, self.leader_of(call.group), body(outcome), out),
            Caller::Scan(gather, group) => self.on_part(cx, gather, group, outcome, out),
            Caller::Many(number, group) => self.on_many(cx, number, group, outcome, out),
            Caller::Asker(asker) => out.push(Out::Answered(asker, outcome)),
        }
    }

    pub(super) fn reply(&mut self, caller: Caller, leader: Option<NodeId>, body: ResponseBody, out: &mut Outbox<Out>) {
        let Caller::Client(conn, id) = caller else { return };
        match &body {
            ResponseBody::Rejected(_) => self.counters.rejected += 1,
            ResponseBody::Unknown(_) => self.counters.unknown += 1,
            _ => {}
        }
        out.push(Out::Reply(conn, Response { id, leader, body }));
    }

    /// Drops what was asked for a group that is not led here any more.
    pub(super) fn on_forget(&mut self, group: GroupId) {
        let asked = |call: &Call| matches!(call.caller, Caller::Asker(asker) if asker.group() == group);
        let forgotten: Vec<u64> = self.calls.iter().filter(|(_, call)| asked(call)).map(|(id, _)| *id).collect();
        Sometimes::QuestionForgotten.when(!forgotten.is_empty());
        forgotten.into_iter().for_each(|id| self.abandon(id));
    }

    /// Drops a call for which no caller waits.
    pub(super) fn abandon(&mut self, id: u64) {
        self.recall(id);
        if let Some(call) = self.calls.remove(&id) {
            self.wakes.remove(&(call.wake, id));
            self.size -= call.size;
        }
    }

    /// Every caller that still waits, after all patience, is told what holds; and nothing is begun any more.
    pub(super) fn on_end(&mut self, cx: &mut Context<'_>, peers: Vec<NodeId>, out: &mut Outbox<Out>) {
        self.ended = true;
        for id in self.calls.keys().copied().collect::<Vec<u64>>() {
            let Some(call) = self.calls.get(&id) else { continue };
            if matches!(call.caller, Caller::Asker(_)) {
                // The next leaders ask for themselves.
                self.abandon(id);
                continue;
            }
            let begun = call.place != Whereabouts::Waiting && !call.is_repeatable();
            Sometimes::NodeEndsWithCalls.reached();
            Sometimes::NodeEndsWithWriteInDoubt.when(begun);
            let body = match begun {
                true => ResponseBody::Unknown(Doubt::LeadershipLost),
                false => ResponseBody::Rejected(Rejection::Stopping),
            };
            self.finish(cx, id, Outcome::Answer(body), out);
        }
        self.end_manys(cx, out);
        for peer in peers {
            let (epoch, sequence) = self.windows.highest(peer).unwrap_or((cx.liveness.epoch_of(peer), 0));
            out.push(Out::Send(peer, PeerMessage::Farewell(Farewell { epoch, sequence })));
        }
    }

    pub(super) fn on_timer(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Out>) {
        self.on_manys_late(cx, out);
        while let Some((at, id)) = self.wakes.first().copied().filter(|(at, _)| *at <= cx.now) {
            self.wakes.remove(&(at, id));
            let Some(call) = self.calls.get(&id) else { continue };
            if call.deadline <= cx.now {
                Sometimes::CallNeverBegun.when(call.place == Whereabouts::Waiting);
                Sometimes::CallDiesOfConflict.when(call.place == Whereabouts::Waiting && !call.conflict.is_empty());
                Sometimes::WriteInDoubtAtDeadline.when(call.place != Whereabouts::Waiting && call.is_write());
                let body = match (call.place, call.is_write()) {
                    (Whereabouts::Waiting, _) if !call.conflict.is_empty() => ResponseBody::NotCommitted(call.conflict.clone()),
                    (Whereabouts::Waiting, _) if call.crowded => ResponseBody::Rejected(Rejection::Overloaded),
                    (Whereabouts::Waiting, _) => ResponseBody::Rejected(Rejection::NoLeader),
                    (Whereabouts::Forwarded(..), _) if call.asking => ResponseBody::Rejected(Rejection::NoLeader),
                    (_, true) => ResponseBody::Unknown(Doubt::DeadlineExceeded),
                    (_, false) => ResponseBody::Rejected(Rejection::DeadlineExceeded),
                };
                self.finish(cx, id, Outcome::Answer(body), out);
                continue;
            }
            if call.lost && matches!(call.place, Whereabouts::Forwarded(..)) {
                Sometimes::WriteInDoubtBehindCutLink.reached();
                self.finish(cx, id, Outcome::Answer(ResponseBody::Unknown(Doubt::ConnectionLost)), out);
                continue;
            }
            let again = match call.place {
                Whereabouts::Waiting => true,
                Whereabouts::Forwarded(..) => call.is_repeatable(),
                Whereabouts::Local => false,
            };
            let deadline = call.deadline;
            if again {
                self.route(cx, id, out);
            }
            if self.calls.get(&id).is_some_and(|call| call.wake <= cx.now) {
                self.wake_at(id, deadline);
            }
        }
    }

    /// The calls that are with this node's replica of the group.
    pub fn calls_here(&self) -> impl Iterator<Item = (GroupId, Origin)> {
        let here = self.calls.iter().filter(|(_, call)| call.place == Whereabouts::Local);
        here.map(|(id, call)| (call.group, Origin::Gateway(*id)))
    }

    /// The coordinators' questions that are on their way.
    pub fn asked(&self) -> BTreeSet<(GroupId, u64)> {
        let asked = self.calls.values().filter_map(|call| match call.caller {
            Caller::Asker(Asker::Coordinator(group, tag)) => Some((group, tag)),
            _ => None,
        });
        asked.collect()
    }

    pub(super) fn check_calls(&self) {
        assert_eq!(self.wakes.len(), self.calls.len(), "every call has a deadline");
        assert_eq!(self.size, self.calls.values().map(|call| call.size).sum::<usize>(), "bytes in progress are counted");
        for (id, call) in &self.calls {
            assert!(self.wakes.contains(&(call.wake, *id)) && call.wake <= call.deadline, "every call is woken in time");
            let waits = call.place == Whereabouts::Waiting || call.asking;
            assert_eq!(waits, self.leaderless.contains(&(call.group, *id)), "a call waits if, and only if, no leader has it");
            if let Whereabouts::Forwarded(node, sequence) = call.place {
                assert_eq!(self.forwarded.get(&(node, sequence)), Some(id), "a forwarded call is found by its sequence");
            }
        }
        assert!(self.forwarded.values().all(|id| self.calls.contains_key(id)), "nothing is forwarded for nobody");
        assert!(self.leaderless.iter().all(|(_, id)| self.calls.contains_key(id)), "nobody waits who is gone");
        let scans = self.parts_of(|caller| if let Caller::Scan(number, _) = caller { Some(number) } else { None });
        for (number, gather) in &self.gathers {
            assert_eq!(scans.get(number).copied().unwrap_or(0), gather.parts_out(), "each part that a scan waits for has a call");
        }
        let manys = self.parts_of(|caller| if let Caller::Many(number, _) = caller { Some(number) } else { None });
        self.manys.check_parts(&manys);
    }

    /// How many calls each scan, or each read of several items, has.
    fn parts_of(&self, number: impl Fn(Caller) -> Option<u64>) -> BTreeMap<u64, usize> {
        let mut parts = BTreeMap::new();
        for number in self.calls.values().filter_map(|call| number(call.caller)) {
            *parts.entry(number).or_default() += 1;
        }
        parts
    }
}

/// Whether all that stands in a transaction's way is other transactions.
fn is_conflict(failures: &[Failure]) -> bool {
    failures.iter().all(|failure| failure.reason == FailureReason::Conflict)
}
