//! The models that a request is asked of, one after the other, and what has become of those that were.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::router::{Route, RouteError};

/// Models that are asked one after the other. Nearly always there is one, for which nothing is allocated.
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
    /// When the waiting is over, whoever is waited for.
    deadline: Option<Instant>,
    /// The one that is back first, as long as all of them only rest.
    soonest: Option<(Duration, Arc<Route>)>,
    has_failed: bool,
    is_waiting: bool,
    has_waited: bool,
}

impl Tried {
    /// Until when a model may be waited for: not at all while another one can be asked.
    pub(super) fn deadline(&mut self, route: &Route, others: &Chain) -> Option<Instant> {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + route.max_wait());
        let is_alone = self.seen.is_empty() && others.is_over() && route.fallbacks.is_empty();
        self.has_waited |= is_alone;
        (is_alone || self.is_waiting).then_some(deadline)
    }

    pub(super) fn failed(&mut self, route: &Arc<Route>, error: &RouteError) {
        if !self.seen.contains(&route.model) {
            self.seen.push(route.model.clone());
        }
        match error.is_resting() {
            None => self.has_failed = true,
            Some(rest) if self.soonest.as_ref().is_none_or(|(soonest, _)| rest < *soonest) => {
                self.soonest = Some((rest, route.clone()));
            }
            Some(_) => {}
        }
    }

    /// When all of several rest: the one that is back first, once.
    pub(super) fn worth_waiting(&mut self) -> Option<Arc<Route>> {
        let is_last = std::mem::replace(&mut self.is_waiting, true) || self.has_failed || self.has_waited;
        let (rest, route) = self.soonest.take().filter(|_| !is_last)?;
        let is_in_time = self.deadline.is_some_and(|deadline| Instant::now() + rest <= deadline);
        is_in_time.then_some(route)
    }
}
