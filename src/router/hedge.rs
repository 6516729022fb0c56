//! A second call beside one that takes long, and the budget for such calls.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::timeout;

use super::Ask;
use super::attempt::{Candidate, Outcome};
use super::round::Round;
use super::route::Route;
use super::table::Deployment;
use crate::providers::{ErrorKind, Failover, ProviderError};
use crate::telemetry::AttemptOutcome;

/// In thousandths of a call.
const CALL: u32 = 1000;
/// However quiet it was before, not more than so many calls come at once.
const MOST_SAVED: u32 = 10 * CALL;

/// What may be spent on second calls: each request adds a part of one.
#[derive(Debug)]
pub(super) struct Hedges {
    each: u32,
    saved: AtomicU32,
}

impl Hedges {
    /// With `budget` second calls for each request, from 0 to 1.
    pub(super) fn new(budget: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1000")]
        let each = (budget.clamp(0.0, 1.0) * f64::from(CALL)) as u32;
        Self { each, saved: AtomicU32::new(if each > 0 { CALL } else { 0 }) }
    }

    /// A request adds its part.
    pub(super) fn earn(&self) {
        self.change(|saved| Some(saved.saturating_add(self.each).min(MOST_SAVED)));
    }

    /// Whether there is enough for one call; it is spent then.
    fn spend(&self) -> bool {
        self.change(|saved| saved.checked_sub(CALL))
    }

    /// There was nobody to be called.
    fn refund(&self) {
        self.change(|saved| Some(saved.saturating_add(CALL).min(MOST_SAVED)));
    }

    fn change(&self, change: impl FnMut(u32) -> Option<u32>) -> bool {
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }
}

impl Route {
    /// Asks a deployment, and the next one beside it if that takes long: who has content first, wins, and the other
    /// call is ended.
    pub(super) async fn raced<'r, R: Ask, I: Iterator<Item = &'r Arc<Deployment>>>(
        &'r self,
        request: &R,
        first: Candidate<'r>,
        round: &mut Round<'r, I>,
    ) -> Outcome<'r, R::Answer> {
        match self.routing.hedge_after {
            None => first.asked(request).await,
            // Boxed, so that those who never do this need not carry the space for it around.
            Some(after) => Box::pin(self.hedged(request, first, round, after)).await,
        }
    }

    async fn hedged<'r, R: Ask, I: Iterator<Item = &'r Arc<Deployment>>>(
        &'r self,
        request: &R,
        first: Candidate<'r>,
        round: &mut Round<'r, I>,
        after: Duration,
    ) -> Outcome<'r, R::Answer> {
        let slow = first.deployment;
        let mut first = pin!(first.asked(request));
        if let Ok(outcome) = timeout(after, &mut first).await {
            return outcome;
        }
        // Who is looked at is passed over from then on, so the budget is asked first.
        if !self.hedges.spend() {
            return first.await;
        }
        let Some(second) = round.spare(slow) else {
            self.hedges.refund();
            return first.await;
        };
        let second = round.began(second);
        let quick = second.deployment;
        tracing::debug!(deployment = %quick.id, slow = %slow.id, "Another deployment is asked beside a slow one");
        match select(first, pin!(second.asked(request))).await {
            Either::Left((outcome, _)) if !outcome.is_worth_waiting() => {
                quick.count(AttemptOutcome::Outrun);
                outcome
            }
            Either::Right((outcome, _)) if outcome.result.is_ok() => {
                slow.count(AttemptOutcome::Outrun);
                outcome
            }
            // One has failed: the other is all there is.
            Either::Left((failed, other)) => {
                round.failed(failed);
                other.await
            }
            Either::Right((failed, other)) => {
                round.failed_beside(failed, slow);
                other.await
            }
        }
    }
}

impl<A> Outcome<'_, A> {
    /// Whether another call may still do better.
    fn is_worth_waiting(&self) -> bool {
        let is_of_context = |error: &ProviderError| matches!(error.kind, ErrorKind::ContextTooLong { .. });
        self.result.as_ref().is_err_and(|error| is_of_context(error) || error.failover() != Failover::Stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_calls_are_a_part_of_all() {
        let hedges = Hedges::new(0.1);
        let spent = (0..1000).filter(|_| {
            hedges.earn();
            hedges.spend()
        });
        assert_eq!(spent.count(), 101, "one to begin with, and one for ten requests each");
        (0..1000).for_each(|_| hedges.earn());
        assert_eq!((0..100).filter(|_| hedges.spend()).count(), 10, "what is saved has a bound");
        let none = Hedges::new(0.0);
        none.earn();
        assert!(!none.spend());
    }
}
