//! One pass over the deployments of a route: who is asked next, and what has become of those that were.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{Candidate, Outcome};
use super::route::Route;
use super::table::Deployment;
use super::{RouteError, Watch};
use crate::providers::{Cooldown, ErrorKind, Failover, OVERFLOWED};

/// One pass.
pub(super) struct Round<'r, I> {
    route: &'r Route,
    watch: &'r dyn Watch,
    order: I,
    /// Those that are asked again with another key, so many times at most.
    again: Vec<(&'r Arc<Deployment>, usize)>,
    /// One with a long queue, to which the request comes back if nobody else can answer.
    overflowed: Option<&'r Arc<Deployment>>,
    /// Only those with more context are of use now.
    larger_than: Option<u64>,
    /// Whatever another one said, it would be the same.
    is_over: bool,
    pub(super) attempts: u32,
    pub(super) failure: Option<RouteError>,
    /// The first to return of those that rest.
    pub(super) soonest: Option<(Instant, &'r Arc<Deployment>)>,
}

impl<'r, I: Iterator<Item = &'r Arc<Deployment>>> Round<'r, I> {
    pub(super) fn new((route, watch): (&'r Route, &'r dyn Watch), order: I) -> Self {
        Self {
            route,
            watch,
            order,
            again: Vec::new(),
            overflowed: None,
            larger_than: None,
            is_over: false,
            attempts: 0,
            failure: None,
            soonest: None,
        }
    }

    /// Who is asked next.
    pub(super) fn next(&mut self) -> Option<Candidate<'r>> {
        if self.is_over {
            return None;
        }
        let next = self.by_another_key().or_else(|| self.following()).or_else(|| self.back_in_the_queue())?;
        Some(self.began(next))
    }

    /// One that may be asked beside `busy`, to be handed to `began` if it is.
    pub(super) fn spare(&mut self, busy: &Arc<Deployment>) -> Option<Candidate<'r>> {
        self.following().filter(|next| !Arc::ptr_eq(next.deployment, busy))
    }

    /// It is asked.
    pub(super) fn began(&mut self, mut candidate: Candidate<'r>) -> Candidate<'r> {
        self.attempts += 1;
        candidate.handover = self.watch.begins();
        self.watch.asked(candidate.deployment, self.attempts);
        if let Some(source) = &self.failure {
            tracing::warn!(deployment = %candidate.deployment.id, attempt = self.attempts, error = %source.source, "Another deployment is asked after a failure");
        }
        candidate
    }

    fn by_another_key(&mut self) -> Option<Candidate<'r>> {
        let (deployment, other_keys) = self.again.pop()?;
        let next = Candidate::admitted(deployment, Instant::now()).ok()?;
        Some(Candidate { other_keys: other_keys - 1, ..next })
    }

    fn following(&mut self) -> Option<Candidate<'r>> {
        let now = Instant::now();
        loop {
            let deployment = self.order.next()?;
            if self.is_avoided(deployment) {
                continue;
            }
            let fits = |least: u64| deployment.context_tokens.is_some_and(|context| context > least);
            if !self.larger_than.is_none_or(fits) {
                continue;
            }
            match Candidate::admitted(deployment, now) {
                Ok(mut candidate) => {
                    candidate.patience = self.patience(deployment, now);
                    candidate.other_keys = deployment.keys.len().saturating_sub(1);
                    return Some(candidate);
                }
                Err(until) => {
                    self.soonest =
                        self.soonest.filter(|(known, _)| *known <= until).or(Some((until, deployment)));
                }
            }
        }
    }

    fn back_in_the_queue(&mut self) -> Option<Candidate<'r>> {
        let overflowed = self.overflowed.take().filter(|deployment| !self.is_avoided(deployment))?;
        Candidate::admitted(overflowed, Instant::now()).ok()
    }

    /// A request over which an engine has crashed would end another one as well.
    fn is_avoided(&self, deployment: &Deployment) -> bool {
        deployment.is_managed() && self.watch.avoids_engines()
    }

    /// How long an engine's queue is worth waiting in while somebody else could answer.
    fn patience(&self, deployment: &Arc<Deployment>, now: Instant) -> Option<Duration> {
        let patience = self.route.routing.overflow_after.filter(|_| deployment.is_managed())?;
        let mut others = self.route.deployments.iter().filter(|other| !Arc::ptr_eq(other, deployment));
        others.any(|other| !other.is_managed() && other.is_ready(now)).then_some(patience)
    }

    /// It has failed, or refused.
    pub(super) fn failed<A>(&mut self, outcome: Outcome<'r, A>) {
        let Outcome { deployment, other_keys, result: Err(error), .. } = outcome else { return };
        let is_of_key = matches!(error.failover(), Failover::Next(Cooldown::Provider(_)));
        if is_of_key && other_keys > 0 {
            self.again.push((deployment, other_keys));
        }
        match &error.kind {
            ErrorKind::Overloaded { code: OVERFLOWED, .. } => self.overflowed = Some(deployment),
            ErrorKind::ContextTooLong { context_tokens, .. } => {
                self.larger_than = self.larger_than.max((*context_tokens).max(deployment.context_tokens));
                self.is_over = self.larger_than.is_none();
            }
            ErrorKind::EngineCrashed => self.watch.engine_crashed(),
            _ => self.is_over = error.failover() == Failover::Stop,
        }
        self.failure = Some(deployment.route_error(self.attempts, error));
    }

    /// One that was asked beside another has failed or refused: that other one says what comes of it.
    pub(super) fn failed_beside<A>(&mut self, outcome: Outcome<'r, A>, other: &Deployment) {
        let (is_over, larger_than) = (self.is_over, self.larger_than);
        self.failed(outcome);
        (self.is_over, self.larger_than) = (is_over, larger_than);
        self.watch.asked(other, self.attempts);
    }
}
