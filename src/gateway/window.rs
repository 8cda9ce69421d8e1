//! Which forwarded requests were already seen: the transport repeats messages, and a write must not be begun twice.
//!
//! For each peer and its present epoch, the last [`FORWARD_WINDOW`] sequences are remembered, a bit each; what is older is
//! refused. The memory is volatile: after a restart of this node its epoch is another, and a forward names the epoch it is meant
//! for.

use crate::base::limits::FORWARD_WINDOW;
use crate::base::{Epoch, NodeId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Windows(BTreeMap<NodeId, Window>);

#[derive(Debug)]
struct Window {
    epoch: Epoch,
    highest: u64,
    /// A bit for each sequence modulo the window's size; only those above `highest - FORWARD_WINDOW` mean anything.
    seen: Vec<u64>,
}

impl Windows {
    /// The highest sequence admitted, of the peer's latest epoch.
    pub fn highest(&self, from: NodeId) -> Option<(Epoch, u64)> {
        self.0.get(&from).map(|window| (window.epoch, window.highest))
    }

    /// Whether no later epoch of the peer is known.
    pub fn is_latest(&self, from: NodeId, epoch: Epoch) -> bool {
        self.highest(from).is_none_or(|(latest, _)| latest <= epoch)
    }

    /// Whether the sequence is new. It is not, from then on.
    pub fn admit(&mut self, from: NodeId, epoch: Epoch, sequence: u64) -> bool {
        let window = self.0.entry(from).or_insert_with(|| Window::new(epoch));
        if epoch < window.epoch {
            return false;
        }
        if epoch > window.epoch {
            *window = Window::new(epoch);
        }
        window.admit(sequence)
    }
}

impl Window {
    fn new(epoch: Epoch) -> Window {
        Window { epoch, highest: 0, seen: vec![0; (FORWARD_WINDOW / 64) as usize] }
    }

    fn admit(&mut self, sequence: u64) -> bool {
        if self.highest.checked_sub(FORWARD_WINDOW).is_some_and(|oldest| sequence <= oldest) || sequence == u64::MAX {
            return false;
        }
        if sequence > self.highest {
            let gap = (sequence - self.highest).min(FORWARD_WINDOW);
            for passed in sequence - gap + 1..=sequence {
                let (word, bit) = position(passed);
                self.seen[word] &= !bit;
            }
            self.highest = sequence;
        }
        let (word, bit) = position(sequence);
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }
}

fn position(sequence: u64) -> (usize, u64) {
    let at = sequence % FORWARD_WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sequence_is_admitted_once_and_old_ones_never() {
        let mut windows = Windows::default();
        let mut admit = |epoch, sequence| windows.admit(NodeId(2), Epoch(epoch), sequence);
        assert!(admit(1, 5) && !admit(1, 5));
        assert!(admit(1, 3) && !admit(1, 3) && admit(1, 4));
        assert!(admit(1, 5 + FORWARD_WINDOW));
        assert!(!admit(1, 5), "as old as the window");
        assert!(admit(1, 6), "just within it");
        assert!(!admit(1, 6));
        assert!(admit(2, 5), "a new epoch counts anew");
        assert!(!admit(1, 100_000), "the old one does not come back");
        assert!(admit(2, 1 << 40) && !admit(2, 1 << 40) && !admit(2, 6));
        assert!(!admit(2, u64::MAX));
        assert!(admit(2, u64::MAX - 1) && !admit(2, u64::MAX - 1), "an absurd sequence is counted like any other");
    }
}
