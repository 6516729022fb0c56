//! One budget of one holder, as one node has it: what was spent, what may still be, and what the others believe of that.
//! Values only: nobody is asked here.

use std::sync::Arc;

use super::super::{Budget, Period, Zone};
use super::{Spent, UsedUp};

/// So long others believe a claim of which they hear nothing. (In milliseconds.)
pub(super) const BELIEVED_MS: i64 = 5000;
/// So long a node relies on its own claim. It counts from before it was told, the others from after, and their clocks
/// need not be the same.
const RELIED_ON_MS: i64 = 4000;
/// So often a claim is told again while it is needed.
const BEAT_MS: i64 = 1000;
/// What is claimed goes back when nothing has been taken for so long.
const KEPT_MS: i64 = 1000;
/// After a refusal nobody asks again for so long.
const DRY_MS: i64 = 20;

#[derive(Debug, Default)]
pub(super) struct Account {
    /// When the period began that this is of, and when it ends.
    pub(super) since_ms: i64,
    pub(super) until_ms: i64,
    /// What all have spent, as far as it has been put together.
    pub(super) settled: Spent,
    /// What was spent here and the others have not been told of.
    pub(super) untold: Spent,
    /// What was spent here and they are just being told of.
    pub(super) telling: Spent,
    /// What requests under way may still spend.
    pub(super) reserved: Spent,
    /// What may be open here, as it was agreed with the others: it is spent already to all but this node.
    pub(super) claim: Spent,
    /// What those need who wait for an answer.
    pub(super) waiting: Spent,
    /// When the others were last asked or told, and answered; `None` if never, or if that may have been lost since.
    pub(super) agreed_ms: Option<i64>,
    /// When they had nothing left.
    pub(super) refused_ms: Option<i64>,
    /// When something was last taken.
    pub(super) taken_ms: i64,
    /// Whether the others may believe in another claim.
    pub(super) is_misjudged: bool,
    /// Whether it is among those of which there may be something to tell.
    pub(super) is_listed: bool,
    /// Whether nobody needed it when that was asked, and nobody has touched it since.
    pub(super) is_unneeded: bool,
    /// One asks, or tells, at a time: so the claim that was told last is the one that holds.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

/// Whether a moment is less than so long ago. A clock that was put back makes it long ago: then it is asked once more.
fn is_within(since_ms: i64, most_ms: i64, now_ms: i64) -> bool {
    (0..most_ms).contains(&now_ms.saturating_sub(since_ms))
}

impl Account {
    pub(super) fn new(since_ms: i64, until_ms: i64) -> Self {
        Self { since_ms, until_ms, ..Self::default() }
    }

    /// Another period begins. What is under way goes on; of the rest nothing is known any more.
    pub(super) fn begin(&mut self, since_ms: i64, until_ms: i64) {
        let before = std::mem::take(self);
        let Self { reserved, waiting, taken_ms, is_listed, turn, .. } = before;
        *self = Self { since_ms, until_ms, reserved, waiting, taken_ms, is_listed, turn, ..Self::default() };
    }

    /// Begins anew if another period has begun. Only forward: a clock that is put back begins none.
    pub(super) fn go_to(&mut self, period: Period, zone: &Zone, now_ms: i64) {
        self.is_unneeded = false;
        // Mostly it is still the same, and nobody has to look at a calendar.
        if (self.since_ms..self.until_ms).contains(&now_ms) {
            return;
        }
        let (since_ms, until_ms) = zone.around(period, now_ms);
        if self.since_ms < since_ms {
            self.begin(since_ms, until_ms);
        }
        if self.since_ms == since_ms {
            self.until_ms = until_ms;
        }
    }

    pub(super) fn spent(&self) -> Spent {
        self.settled.plus(self.telling).plus(self.untold)
    }

    /// What is spent or set aside here and the others know only as a claim.
    pub(super) fn open(&self) -> Spent {
        self.untold.plus(self.reserved)
    }

    /// Whether something is left for one more request, as far as this node knows: it never knows of too much.
    pub(super) fn has_left(&self, budget: Budget) -> Result<(), UsedUp> {
        let is_beyond = |spent: Spent| {
            budget.tokens.is_some_and(|most| spent.tokens >= most)
                || budget.money.is_some_and(|most| spent.money >= most)
        };
        let spent = self.spent();
        if is_beyond(spent) {
            return Err(UsedUp::Spent { until_ms: self.until_ms });
        }
        if is_beyond(spent.plus(self.reserved)) {
            return Err(UsedUp::SetAside);
        }
        Ok(())
    }

    /// Whether the claim has room for such a part. (Whoever needs more than the rest of it asks the others:
    /// if each node went beyond its own claim, all together would go beyond the budget by as many requests.)
    pub(super) fn covers(&self, budget: Budget, part: Spent, now_ms: i64) -> bool {
        let (open, claim) = (self.open(), self.claim);
        let after = open.plus(part);
        self.agreed_ms.is_some_and(|agreed| is_within(agreed, RELIED_ON_MS, now_ms))
            && (budget.tokens.is_none() || (open.tokens < claim.tokens && after.tokens <= claim.tokens))
            && (budget.money.is_none() || (open.money < claim.money && after.money <= claim.money))
    }

    /// Whether the others had nothing left a moment ago.
    pub(super) fn is_dry(&self, now_ms: i64) -> bool {
        self.refused_ms.is_some_and(|refused| is_within(refused, DRY_MS, now_ms))
    }

    pub(super) fn reserve(&mut self, part: Spent, now_ms: i64) {
        self.reserved = self.reserved.plus(part);
        self.taken_ms = now_ms;
    }

    /// Whether nobody is likely to need what is claimed beyond what is open.
    pub(super) fn is_idle(&self, now_ms: i64) -> bool {
        !is_within(self.taken_ms, KEPT_MS, now_ms)
    }

    /// Whether the others are to be told something. `all`: that nothing is kept which is not needed, too.
    pub(super) fn is_due(&self, all: bool, now_ms: i64) -> bool {
        let (open, claim) = (self.open(), self.claim);
        let is_kept = claim.less(open).is_something();
        let beats = open.most(claim).is_something()
            && !self.agreed_ms.is_some_and(|agreed| is_within(agreed, BEAT_MS, now_ms));
        let is_untold = self.untold != Spent::default();
        is_untold || self.is_misjudged || beats || (is_kept && (all || self.is_idle(now_ms)))
    }

    /// Whether something is still to come of it.
    pub(super) fn is_open(&self) -> bool {
        let is_unsaid = self.untold != Spent::default() || self.telling != Spent::default();
        let is_waited_for = self.waiting.is_something() || Arc::strong_count(&self.turn) > 1;
        let is_held = self.reserved.most(self.claim).is_something();
        is_unsaid || is_waited_for || is_held || self.is_misjudged
    }
}
