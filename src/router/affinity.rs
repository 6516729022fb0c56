//! Which of several equal targets a conversation belongs to: weighted rendezvous hashing.
//!
//! Nothing is remembered, and all replicas agree. Without one target, only its own conversations move, each to the one that
//! is next for it; and each target has a share of all conversations as large as its weight.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::llm::Session;

/// A target, as it goes into the choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target(u64);

impl Target {
    /// One whose name is the same on all replicas.
    pub(super) fn of(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// How far a target is from a conversation: the nearest one has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distance(f64);

impl PartialEq for Distance {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Distance {}

impl PartialOrd for Distance {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Distance {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The distance of a target with this weight: how long chance takes to find it, which is shorter for a greater weight.
pub(super) fn distance(session: Session, target: Target, weight: f64) -> Distance {
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    let even = ((mixed(session.hash ^ mixed(target.0)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    Distance(-even.ln() / weight)
}

/// Every bit of the outcome depends on every bit (as at the end of `SplitMix64`).
fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest(session: u64, targets: &[(&str, f64)]) -> usize {
        let session = Session { source: "user", hash: mixed(session) };
        let of = |(name, weight): &(&str, f64)| distance(session, Target::of(name), *weight);
        (0..targets.len()).min_by_key(|at| of(&targets[*at])).unwrap()
    }

    #[test]
    fn shares_follow_weights() {
        let targets = [("p/a", 1.0), ("p/b", 2.0), ("q/a", 5.0), ("r/x", 0.5)];
        let whole: f64 = targets.iter().map(|(_, weight)| weight).sum();
        let mut counts = [0.0; 4];
        (0..20_000).for_each(|session| counts[nearest(session, &targets)] += 1.0);
        for ((name, weight), count) in targets.iter().zip(counts) {
            let (share, due) = (count / 20_000.0, weight / whole);
            assert!(f64::abs(share - due) < 0.01, "{name}: {share} of {due}");
        }
    }

    #[test]
    fn without_one_target_only_its_own_conversations_move() {
        let all = [("a", 1.0), ("b", 2.0), ("c", 1.0)];
        for session in 0..2000 {
            let before = nearest(session, &all);
            let after = nearest(session, &all[..2]);
            assert!(before == 2 || before == after);
        }
    }
}
