//! Which group may campaign now. When a node dies, or a cluster forms, thousands of groups want to at once. All together they get
//! in each other's way, and none is done before its patience is over. So a few hundred campaign at a time, and the others wait in
//! a queue, without timers.
//!
//! A turn ends with the campaign, or, for the sake of the others, after a while: a group without a living majority campaigns for
//! ever.

use crate::base::{Duration, GroupId, Time};
use std::collections::{BTreeSet, VecDeque};

#[derive(Debug, Default)]
pub struct Campaigns {
    /// Groups that campaign.
    running: BTreeSet<GroupId>,
    /// When their turns end at the latest, in order. Of those too that ended before.
    ends: VecDeque<(Time, GroupId)>,
    /// Groups that wait for their turn, each once: first those of which this node is the preferred leader, then its next choices;
    /// in each rank, in order of asking.
    waiting: BTreeSet<(usize, u64, GroupId)>,
    asked: u64,
}

impl Campaigns {
    /// `rank`: this node's, among the group's voters.
    pub fn ask(&mut self, group: GroupId, rank: usize) {
        self.asked += 1;
        self.waiting.insert((rank, self.asked, group));
    }

    /// The next group whose turn it is, for so long; `None`: no group waits, or so many campaign.
    pub fn next(&mut self, now: Time, turn: Duration, running_max: usize) -> Option<GroupId> {
        while let Some((_, group)) = self.ends.pop_front_if(|(end, group)| *end <= now || !self.running.contains(group)) {
            self.running.remove(&group);
        }
        if self.running.len() >= running_max {
            return None;
        }
        let (.., group) = self.waiting.pop_first()?;
        if self.running.insert(group) {
            self.ends.push_back((now + turn, group));
        }
        Some(group)
    }

    /// The group campaigns no more. True: another group waits for that.
    pub fn ended(&mut self, group: GroupId) -> bool {
        self.running.remove(&group) && !self.waiting.is_empty()
    }

    /// When a turn ends at the latest for which another waits.
    pub fn deadline(&self) -> Option<Time> {
        self.ends.front().filter(|_| !self.waiting.is_empty()).map(|(end, _)| *end)
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMPAIGNS_MAX: usize = 256;

    const TURN: Duration = Duration::from_millis(100);

    fn granted(campaigns: &mut Campaigns, now: Time) -> usize {
        std::iter::from_fn(|| campaigns.next(now, TURN, CAMPAIGNS_MAX)).count()
    }

    #[test]
    fn a_few_campaign_at_a_time_and_all_in_the_end() {
        let mut campaigns = Campaigns::default();
        (0..10_000).for_each(|n| campaigns.ask(GroupId(n), 0));
        assert_eq!((campaigns.waiting(), granted(&mut campaigns, Time::ZERO)), (10_000, CAMPAIGNS_MAX));
        assert_eq!(campaigns.waiting(), 10_000 - CAMPAIGNS_MAX);
        assert!(campaigns.ended(GroupId(7)));
        assert_eq!(granted(&mut campaigns, Time::ZERO), 1, "the turn that ended is another's");
        // None of the rest ever ends by itself.
        let mut total = CAMPAIGNS_MAX + 1;
        while let Some(at) = campaigns.deadline() {
            total += granted(&mut campaigns, at);
        }
        assert_eq!((total, campaigns.waiting()), (10_000, 0));
    }

    #[test]
    fn groups_whose_preferred_leader_this_node_is_go_first() {
        let mut campaigns = Campaigns::default();
        [(1, 2), (2, 0), (3, 1), (4, 0)].into_iter().for_each(|(group, rank)| campaigns.ask(GroupId(group), rank));
        let order: Vec<u32> =
            std::iter::from_fn(|| campaigns.next(Time::ZERO, TURN, CAMPAIGNS_MAX)).map(|group| group.0).collect();
        assert_eq!(order, [2, 4, 3, 1]);
    }

    #[test]
    fn a_turn_that_ended_and_was_given_again_lasts_its_own_time() {
        let mut campaigns = Campaigns::default();
        campaigns.ask(GroupId(1), 0);
        assert_eq!(campaigns.next(Time::ZERO, TURN, CAMPAIGNS_MAX), Some(GroupId(1)));
        campaigns.ended(GroupId(1));
        campaigns.ask(GroupId(1), 0);
        assert_eq!(campaigns.next(Time::from_millis(50), TURN, CAMPAIGNS_MAX), Some(GroupId(1)));
        (2..2 + CAMPAIGNS_MAX as u32).for_each(|n| campaigns.ask(GroupId(n), 0));
        assert_eq!(granted(&mut campaigns, Time::from_millis(120)), CAMPAIGNS_MAX - 1);
    }
}
