//! The configuration of a group: whose votes and copies count. What follows from it is in [`crate::replica::quorum`].
//!
//! Each change of it is an entry of the group's log, and takes effect as soon as that is appended (Ongaro's dissertation, section
//! 4.1). Nothing proposes a change yet: unit tests and scripts play them, and no seed reaches what follows one.

use super::codec::{self, Slices};
use crate::base::NodeId;
use crate::base::limits::REPLICATION_FACTOR_MAX;
use minicbor::{Decode, Decoder, Encode, decode};

/// Voters, and learners: replicas that are sent all entries, but whose copies and votes do not count.
///
/// While `outgoing` is not empty the configuration is *joint* (dissertation, section 4.3): the group is on its way from the
/// voters `outgoing` to the voters `voters`, and whatever needs a quorum needs one of each.
#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub struct Configuration {
    /// The preferred leader first.
    #[n(0)]
    voters: Vec<NodeId>,
    #[n(1)]
    outgoing: Vec<NodeId>,
    #[n(2)]
    learners: Vec<NodeId>,
}

impl Configuration {
    /// A group of these voters, and nobody else. The preferred leader comes first.
    ///
    /// # Panics
    /// If there is no voter, or one is named twice.
    pub fn of(voters: Vec<NodeId>) -> Configuration {
        Configuration::new(voters, Vec::new(), Vec::new()).unwrap_or_else(|why| panic!("{why}"))
    }

    /// # Errors
    /// What is wrong: no voter, one node in two places, more voters than replicas are allowed.
    pub fn new(voters: Vec<NodeId>, outgoing: Vec<NodeId>, learners: Vec<NodeId>) -> Result<Configuration, String> {
        let lists = [("voters", &voters), ("outgoing voters", &outgoing), ("learners", &learners)];
        for (name, list) in lists {
            if list.len() > usize::from(REPLICATION_FACTOR_MAX) {
                return Err(format!("a group with {} {name}: at most {REPLICATION_FACTOR_MAX} are allowed", list.len()));
            }
            if let Some(twice) = list.iter().enumerate().find(|(at, node)| list[..*at].contains(node)).map(|(_, node)| node) {
                return Err(format!("a group whose {name} name node {twice} twice"));
            }
        }
        if voters.is_empty() {
            return Err("a group without a voter".into());
        }
        if let Some(both) = learners.iter().find(|node| voters.contains(node) || outgoing.contains(node)) {
            return Err(format!("a group in which node {both} votes and only learns"));
        }
        Ok(Configuration { voters, outgoing, learners })
    }

    /// The preferred leader first. In a joint configuration: those that are to be the voters.
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// In a joint configuration, those that were the voters.
    pub fn outgoing(&self) -> &[NodeId] {
        &self.outgoing
    }

    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    pub fn is_member(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Voters of either kind and learners, each once.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        let outgoing = self.outgoing.iter().filter(|node| !self.voters.contains(node));
        self.voters.iter().chain(outgoing).chain(&self.learners).copied()
    }
}

impl<'b, C: Slices> Decode<'b, C> for Configuration {
    fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Configuration, decode::Error> {
        /// As it is encoded, not yet looked at.
        #[derive(Decode)]
        #[cbor(context_bound = "Slices")]
        struct Lists {
            #[n(0)]
            #[cbor(decode_with = "codec::list")]
            voters: Vec<NodeId>,
            #[n(1)]
            #[cbor(decode_with = "codec::list")]
            outgoing: Vec<NodeId>,
            #[n(2)]
            #[cbor(decode_with = "codec::list")]
            learners: Vec<NodeId>,
        }
        let Lists { voters, outgoing, learners } = d.decode_with(context)?;
        Configuration::new(voters, outgoing, learners).map_err(decode::Error::message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn nodes(ids: &[u16]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn only_sound_configurations_are_read() {
        let sound = Configuration::new(nodes(&[1, 4, 3]), nodes(&[1, 2, 3]), nodes(&[5])).expect("sound");
        assert_eq!(codec::decode::<Configuration>(&Bytes::from(codec::encode(&sound))), Ok(sound.clone()));
        assert_eq!(sound.members().collect::<Vec<_>>(), nodes(&[1, 4, 3, 2, 5]));
        let unsound = [
            (nodes(&[]), nodes(&[1]), nodes(&[]), "a group without a voter"),
            (nodes(&[1, 2, 1]), nodes(&[]), nodes(&[]), "a group whose voters name node 1 twice"),
            (nodes(&[1]), nodes(&[2]), nodes(&[2]), "a group in which node 2 votes and only learns"),
            ((1..=33).map(NodeId).collect(), nodes(&[]), nodes(&[]), "a group with 33 voters: at most 32 are allowed"),
        ];
        for (voters, outgoing, learners, why) in unsound {
            assert_eq!(Configuration::new(voters.clone(), outgoing.clone(), learners.clone()), Err(why.into()));
            let read = codec::decode::<Configuration>(&Bytes::from(codec::encode(&Configuration { voters, outgoing, learners })));
            assert!(read.is_err_and(|error| error.to_string().contains(why)));
        }
    }
}
