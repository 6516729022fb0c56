//! The passes over the deployments of a route: who is asked next, and what has become of those that were.
//!
//! In the first pass, those that cool down are left out. If that leaves none that answers, the others follow: those that
//! have failed are asked again, one attempt at a time, whose outcome all share who wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{Candidate, Outcome};
use super::health::{Need, Wait};
use super::route::Route;
use super::table::Deployment;
use super::{RouteError, Watch};
use crate::llm::Session;
use crate::providers::{Cooldown, ErrorKind, Failover, OVERFLOWED, ProviderError};

/// The passes of one request.
pub(super) struct Round<'r, I> {
    route: &'r Route,
    watch: &'r dyn Watch,
    began: Instant,
    need: Need,
    session: Option<Session>,
    order: I,
    /// Those that were asked and have failed.
    asked: Vec<&'r Arc<Deployment>>,
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
    /// One that another request tries.
    pub(super) is_tried: Option<&'r Arc<Deployment>>,
}

/// Who is waited for.
pub(super) struct Waited<'r> {
    pub(super) deployment: &'r Arc<Deployment>,
    /// When it is back.
    pub(super) until: Instant,
    /// When waiting ends.
    pub(super) deadline: Instant,
    /// Another request tries it.
    pub(super) is_tried: bool,
}

impl<'r, I: Iterator<Item = &'r Arc<Deployment>>> Round<'r, I> {
    pub(super) fn new(
        (route, watch): (&'r Route, &'r dyn Watch),
        order: I,
        session: Option<Session>,
    ) -> Self {
        Self {
            route,
            watch,
            began: Instant::now(),
            need: Need::Usual,
            session,
            order,
            asked: Vec::new(),
            again: Vec::new(),
            overflowed: None,
            larger_than: None,
            is_over: false,
            attempts: 0,
            failure: None,
            soonest: None,
            is_tried: None,
        }
    }

    /// Begins another pass, if there is a candidate: over those that no other can replace.
    pub(super) fn is_worth_a_last_pass(&mut self, order: I) -> bool {
        let is_worth = !self.is_over && self.need == Need::Usual && self.soonest.is_some();
        if is_worth {
            self.begin_last_pass(order);
        }
        is_worth
    }

    /// Who is worth waiting for until the deadline, when those who can be asked have failed: one that another request
    /// tries; or, if there is no failure that could be told, the first to return.
    pub(super) fn worth_waiting(&self, deadline: Instant) -> Option<Waited<'r>> {
        let waited = match (self.is_tried, self.soonest) {
            (Some(deployment), _) => Waited { deployment, until: deadline, deadline, is_tried: true },
            (None, Some((until, deployment))) if self.failure.is_none() => {
                Waited { deployment, until, deadline, is_tried: false }
            }
            _ => return None,
        };
        let is_in_time = waited.until <= deadline && Instant::now() < deadline;
        (is_in_time && !self.is_over).then_some(waited)
    }

    /// Whether an engine has crashed over the request.
    pub(super) fn avoids_engines(&self) -> bool {
        self.watch.avoids_engines()
    }

    /// Begins another pass, over those that were not asked yet.
    pub(super) fn begin_last_pass(&mut self, order: I) {
        (self.need, self.order) = (Need::Last, order);
        (self.soonest, self.is_tried) = (None, None);
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
            self.route.faults.failover(&source.source.provider, source.source.kind.word());
            tracing::debug!(deployment = %candidate.deployment.id, attempt = self.attempts, error = %source.source, "Another deployment is asked after a failure");
        }
        candidate
    }

    fn by_another_key(&mut self) -> Option<Candidate<'r>> {
        let (deployment, other_keys) = self.again.pop()?;
        let next = Candidate::admitted(deployment, (self.need, self.session), Instant::now()).ok()?;
        Some(Candidate { other_keys: other_keys - 1, ..next })
    }

    fn following(&mut self) -> Option<Candidate<'r>> {
        let now = Instant::now();
        loop {
            let deployment = self.order.next()?;
            if self.is_avoided(deployment) || self.is_known_to_fail(deployment) {
                continue;
            }
            let fits = |least: u64| deployment.context_tokens.is_some_and(|context| context > least);
            if !self.larger_than.is_none_or(fits) {
                continue;
            }
            match Candidate::admitted(deployment, (self.need, self.session), now) {
                Ok(mut candidate) => {
                    candidate.patience = self.patience(deployment, now);
                    candidate.other_keys = deployment.keys.len().saturating_sub(1);
                    return Some(candidate);
                }
                Err(Wait { until, is_tried }) => {
                    self.is_tried = self.is_tried.or(is_tried.then_some(deployment));
                    self.soonest =
                        self.soonest.filter(|(known, _)| *known <= until).or(Some((until, deployment)));
                }
            }
        }
    }

    fn back_in_the_queue(&mut self) -> Option<Candidate<'r>> {
        let overflowed = self.overflowed.take().filter(|deployment| !self.is_avoided(deployment))?;
        Candidate::admitted(overflowed, (self.need, self.session), Instant::now()).ok()
    }

    /// A request over which an engine has crashed would end another one as well.
    fn is_avoided(&self, deployment: &Deployment) -> bool {
        deployment.is_managed() && self.watch.avoids_engines()
    }

    /// Whether it was asked, or has failed when another request has asked it, whose outcome this one shares.
    fn is_known_to_fail(&mut self, deployment: &'r Arc<Deployment>) -> bool {
        if self.need == Need::Usual {
            return false;
        }
        if self.asked.iter().any(|asked| Arc::ptr_eq(asked, deployment)) {
            return true;
        }
        let Some(last) = deployment.last().filter(|last| last.at > self.began) else { return false };
        if let (None, Some(kind)) = (&self.failure, last.kind) {
            let error = ProviderError::new(&deployment.provider_name, kind);
            self.failure = Some(deployment.route_error(self.attempts, error));
        }
        true
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
        let is_of_key = matches!(error.failover(), Failover::Next(Cooldown::Key(_) | Cooldown::Limited(_)));
        self.asked.push(deployment);
        deployment.note_fault(&error, self.watch.request_id());
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
