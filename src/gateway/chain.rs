//! The models that a request is asked of, one after the other, and what has become of those that were.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::router::{Fallback, Route, RouteError};

/// Models that are asked one after the other. Nearly always there is one, for which nothing is allocated.
#[derive(Clone)]
pub(super) enum Chain {
    One(Option<Arc<Route>>),
    Several(std::vec::IntoIter<Arc<Route>>),
}

impl Chain {
    /// Whether there is no other.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::One(route) => route.is_none(),
            Self::Several(routes) => routes.as_slice().is_empty(),
        }
    }
}

impl Iterator for Chain {
    type Item = Arc<Route>;

    fn next(&mut self) -> Option<Arc<Route>> {
        match self {
            Self::One(route) => route.take(),
            Self::Several(routes) => routes.next(),
        }
    }
}

/// The models that were asked.
#[derive(Default)]
pub(super) struct Tried {
    pub(super) seen: Vec<Arc<str>>,
    /// So many deployments were asked.
    pub(super) attempts: u32,
    /// What the last one said.
    pub(super) failure: Option<RouteError>,
    /// When the waiting is over, whoever is waited for.
    deadline: Option<Instant>,
    waiting: Waiting,
    /// One has failed in earnest.
    has_failed: bool,
    /// When the first of those that rest is back, of whatever model.
    pub(super) back_at: Option<Instant>,
}

/// Whether one that rests is waited for: once in a request, and not where another one has failed in earnest.
enum Waiting {
    /// Perhaps for this one, which is back first of those that were asked.
    Perhaps(Option<(Duration, Arc<Route>)>),
    /// Whoever is asked now is waited for.
    Now,
    /// No more.
    Never,
}

impl Default for Waiting {
    fn default() -> Self {
        Self::Perhaps(None)
    }
}

impl Tried {
    /// Until when a model may be waited for: not at all while another one can be asked.
    pub(super) fn deadline(&mut self, route: &Route, others: &Chain) -> Option<Instant> {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + route.max_wait());
        let is_alone = self.seen.is_empty() && others.is_over() && route.fallbacks.is_empty();
        if is_alone {
            self.waiting = Waiting::Never;
        }
        (is_alone || matches!(self.waiting, Waiting::Now)).then_some(deadline)
    }

    /// A model is over and done with, whether or not anybody was asked.
    pub(super) fn is_over(&mut self, route: &Route) {
        if !self.seen.contains(&route.model) {
            self.seen.push(route.model.clone());
        }
    }

    /// Nobody has answered for a model. Who may take over from it.
    pub(super) fn failed(&mut self, route: &Arc<Route>, error: RouteError) -> Option<Fallback> {
        self.wait_perhaps(route, &error);
        self.attempts += error.attempts;
        self.back_at = self.back_at.into_iter().chain(error.back_at).min();
        let fallback = error.fallback();
        self.failure = Some(error);
        fallback
    }

    fn wait_perhaps(&mut self, route: &Arc<Route>, error: &RouteError) {
        let Waiting::Perhaps(soonest) = &mut self.waiting else { return };
        match error.is_resting() {
            None => self.has_failed = true,
            Some(rest) if soonest.as_ref().is_none_or(|(soonest, _)| rest < *soonest) => {
                *soonest = Some((rest, route.clone()));
            }
            Some(_) => {}
        }
    }

    /// When all of several rest: the one that is back first, once. After a failure, only one that may be tried at once.
    pub(super) fn worth_waiting(&mut self) -> Option<Arc<Route>> {
        let Waiting::Perhaps(soonest) = std::mem::replace(&mut self.waiting, Waiting::Never) else {
            return None;
        };
        let is_in_time =
            |rest: Duration| self.deadline.is_some_and(|deadline| Instant::now() + rest <= deadline);
        let is_too_late = |rest: Duration| self.has_failed && !rest.is_zero();
        let (_, route) = soonest.filter(|(rest, _)| is_in_time(*rest) && !is_too_late(*rest))?;
        self.waiting = Waiting::Now;
        Some(route)
    }
}
