//! Messages that take another way, where the direct one is cut.
//!
//! A majority may be connected without every two of its nodes being so: one link of three is cut, a firewall lets one direction
//! through. A node that reaches a majority directly is elected, and replicates entries: that needs no detour. But a gateway must
//! reach the leader, a coordinator its participants, a participant in doubt its home. Each of them gets an answer the same way
//! back. All of these are forwards and their replies, and these alone are passed on.
//!
//! - *When*: the sender's own link to the destination does not work in both directions, and a peer says that it reaches it
//!   ([`LivenessView::way_to`](crate::actor::LivenessView::way_to)). Every node on the way decides anew. A message takes at most
//!   [`RELAY_LINKS_MAX`] links, so it cannot go round for ever.
//! - *What it counts for*: it is handled as if the origin had sent it itself, in the epoch it names: the window of forwards
//!   admits it once, and an answer counts for the epoch that was asked. So a message that arrives both ways, or late, is no other
//!   case than one that the network repeats.
//! - *Which origins are let in*: every node on the way checks the origin as it checks a sender (member, bound directory, no
//!   earlier epoch than known). A node that is refused passes nothing on and takes nothing in. The first node on the way has
//!   checked the origin's own envelope besides.
//! - *What is not passed on*: heartbeats, votes, appends. One side counts promises from the sending, the other from the receipt;
//!   and a node that reaches no majority should not lead.
//!
//! Nothing is kept here: a relay that dies loses what was in it, as a network would.

use super::Node;
use crate::base::limits::RELAY_LINKS_MAX;
use crate::base::{NodeId, Sometimes, Time};
use crate::msg::peer::{Carried, PeerMessage, Relayed};

impl Node {
    /// Puts a message that may leave where the next flush takes it: under its receiver, or under the peer that passes it on.
    pub(super) fn dispatch(&mut self, now: Time, to: NodeId, message: PeerMessage) {
        let next = match message {
            PeerMessage::Forward(_) | PeerMessage::ForwardReply(_) | PeerMessage::Farewell(_) => {
                self.liveness.view().way_to(to, now).map_or(to, |(next, _)| next)
            }
            _ => to,
        };
        let passed_on = if next == to { Err(message) } else { Carried::try_from(message) };
        let message = match passed_on {
            Err(message) => message,
            Ok(carried) => PeerMessage::Relayed(Box::new(Relayed {
                origin: self.options.me,
                directory: self.membership.directory(),
                epoch: self.epoch,
                destination: to,
                links: RELAY_LINKS_MAX - 1,
                carried,
            })),
        };
        self.outgoing.entry((message.lane(), next)).or_default().push(message);
    }

    /// A message that `from` passes on: for this node, or for another.
    pub(super) fn on_relayed(&mut self, now: Time, from: NodeId, relayed: Relayed) {
        let me = self.options.me;
        if relayed.origin == me || !self.membership.admits_relayed(relayed.origin, relayed.directory, relayed.epoch) {
            Sometimes::RelayedOriginNotAdmitted.reached();
            self.counters.envelopes_dropped += 1;
            return;
        }
        if relayed.destination == me {
            Sometimes::RelayedMessageArrives.reached();
            self.on_message(now, relayed.origin, &(relayed.epoch, relayed.directory), relayed.carried.into());
            return;
        }
        let way = self.liveness.view().way_to(relayed.destination, now);
        match way.filter(|(next, links)| *next != from && *links <= relayed.links) {
            Some((next, _)) => {
                Sometimes::MessagePassedOn.reached();
                self.counters.relayed += 1;
                self.send(now, next, PeerMessage::Relayed(Box::new(Relayed { links: relayed.links - 1, ..relayed })));
            }
            None => {
                Sometimes::NoWayToPassOn.reached();
                self.counters.envelopes_dropped += 1;
            }
        }
    }
}
