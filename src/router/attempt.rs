//! One deployment is asked once: the leave to do so, the question, and what is learned from how it went.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Ask;
use super::health::{Cause, Failure, Health, Last, Need, Pass, Wait};
use super::keys::{Admitted, Key};
use super::table::Deployment;
use crate::llm::Session;
use crate::providers::{Cooldown, ErrorKind, Failover, Handover, Provider, ProviderError};
use crate::telemetry::AttemptOutcome;

/// A deployment that may be asked now.
#[derive(Debug)]
pub(super) struct Candidate<'r> {
    pub(super) deployment: &'r Arc<Deployment>,
    pub(super) leave: Leave<'r>,
    /// With so many keys it may be tried after this one.
    pub(super) other_keys: usize,
    /// How long it may be waited for in a queue, while another could answer.
    pub(super) patience: Option<Duration>,
    /// Notes whether it has the request.
    pub(super) handover: Handover,
}

/// The leave to ask a deployment: its own, its provider's, and that of one of its provider's keys if it has several.
#[derive(Debug)]
pub(super) struct Leave<'r> {
    own: Pass<'r>,
    provider: Pass<'r>,
    key: Option<Admitted<'r>>,
}

/// How one question went.
#[derive(Debug)]
pub(super) struct Outcome<'r, A> {
    pub(super) deployment: &'r Arc<Deployment>,
    pub(super) key: Option<Arc<Key>>,
    /// With so many keys it may be tried after this one.
    pub(super) other_keys: usize,
    pub(super) result: Result<A, ProviderError>,
}

/// By which way a deployment is asked.
#[derive(Debug)]
pub struct Means<'a> {
    /// With which key, if there are several.
    pub(super) provider: &'a Arc<dyn Provider>,
    /// How long it may be waited for in a queue.
    pub(super) patience: Option<Duration>,
}

impl Leave<'_> {
    /// It is asked by it.
    fn is_used(&mut self) {
        self.own.is_used();
        self.provider.is_used();
        self.key.iter_mut().flat_map(|(_, passes)| passes).for_each(Pass::is_used);
    }
}

impl<'r> Candidate<'r> {
    /// # Errors
    /// It has to wait, or its provider has, or all of its provider's keys.
    pub(super) fn admitted(
        deployment: &'r Arc<Deployment>,
        (need, session): (Need, Option<Session>),
        now: Instant,
    ) -> Result<Self, Wait> {
        let provider = deployment.provider_health.admit(need, now)?;
        let own = deployment.health.admit(need, now)?;
        let key = deployment.keys.admit((need, session), now)?;
        let leave = Leave { own, provider, key };
        Ok(Self { deployment, leave, other_keys: 0, patience: None, handover: Handover::default() })
    }

    /// Asks.
    pub(super) async fn asked<R: Ask>(self, request: &R) -> Outcome<'r, R::Answer> {
        let Self { deployment, mut leave, other_keys, patience, handover } = self;
        leave.is_used();
        let began = Instant::now();
        let key = leave.key.as_ref().map(|(key, _)| Arc::clone(key));
        let provider = key.as_ref().map_or(&deployment.provider, |key| &key.provider);
        let result = handover.watch(request.ask(deployment, &Means { provider, patience })).await;
        match &result {
            Ok(_) => {
                deployment.count(AttemptOutcome::Answered);
                leave.own.took(began.elapsed(), request.is_stream());
                leave.own.succeeded();
                leave.provider.succeeded();
                if let Some((_, passes)) = leave.key {
                    passes.into_iter().for_each(Pass::succeeded);
                }
            }
            Err(error) => {
                handover.end();
                deployment.has_failed(error, key.as_deref());
            }
        }
        Outcome { deployment, key, other_keys, result }
    }
}

impl Deployment {
    /// What failed cools down now, and nothing else: the deployment, the deployment with the key that was used, or that
    /// key. Also after a stream that failed when it had begun.
    pub fn has_failed(&self, error: &ProviderError, key: Option<&Key>) {
        let (word, now) = (error.kind.word(), Instant::now());
        let failure = |at_least| Failure {
            kind: error.kind.clone(),
            cause: cause(&error.kind, at_least),
            at_least,
            most: self.most_rest,
        };
        let begins = match error.failover() {
            Failover::Stop => return self.count(AttemptOutcome::Rejected),
            Failover::Next(_) if self.plays => self.health.note_failure(word),
            Failover::Next(Cooldown::None) => self.health.note_failure(word),
            Failover::Next(Cooldown::IfRepeated) => self.health.refused(&failure(None), now),
            Failover::Next(Cooldown::Deployment(at_least)) => self.health.failed(&failure(at_least), now),
            Failover::Next(Cooldown::Limited(at_least)) => self.is_limited(&failure(at_least), key, now),
            Failover::Next(Cooldown::Key(at_least)) => {
                self.health.note_failure(word);
                self.health_of(key).failed(&failure(at_least), now)
            }
        };
        self.count(AttemptOutcome::Failed);
        if begins {
            self.faults.cooldown(&self.provider_name, word);
        }
    }

    /// How the key fares that was used: of a provider with only one, how the provider does.
    fn health_of<'a>(&'a self, key: Option<&'a Key>) -> &'a Health {
        key.map_or(&self.provider_health, |key| &key.health)
    }

    /// Most servers limit each model by itself. A second one at the same time says that it is the key.
    fn is_limited(&self, failure: &Failure, key: Option<&Key>, now: Instant) -> bool {
        let (own, limited) = match key {
            None => (&self.health, &self.limited),
            Some(key) => {
                self.health.note_failure(failure.kind.word());
                (&key.own, &key.limited)
            }
        };
        let begins = own.failed(failure, now);
        let is_of_key = limited.is_second(own, now) && self.health_of(key).failed(failure, now);
        begins || is_of_key
    }

    /// Whether it might be asked now.
    pub fn is_ready(&self, now: Instant) -> bool {
        let some_key = self.keys.len() == 0 || self.keys.resting(now) < self.keys.len();
        !self.health.cools_down(now) && !self.provider_health.cools_down(now) && some_key
    }

    /// When it is back, if it rests, or its provider does, or all of its provider's keys.
    pub(super) fn back_at(&self, now: Instant) -> Option<Instant> {
        let of_keys = self.keys.rest_until(now);
        self.health.rests_until(now).max(self.provider_health.rests_until(now)).max(of_keys)
    }

    /// When it is worth asking again, if it cools down, or its provider does, or all of its provider's keys.
    pub(super) fn useful_at(&self, now: Instant) -> Option<Instant> {
        let of_keys = self.keys.useful_at(now);
        self.health.useful_at(now).max(self.provider_health.useful_at(now)).max(of_keys)
    }

    /// The last failure after which it cools down, or its provider or one of its provider's keys does.
    pub(super) fn last(&self) -> Option<Last> {
        let own = [&self.health, &self.provider_health].into_iter().filter_map(|health| health.last());
        own.chain(self.keys.last()).max_by_key(|last| last.at)
    }

    /// Comes back when it may be worth looking again whether it rests.
    pub(super) async fn changed(&self) {
        tokio::select! {
            () = self.health.changed() => {}
            () = self.provider_health.changed() => {}
            () = self.keys.changed() => {}
        }
    }
}

/// What a failure tells of the server.
fn cause(kind: &ErrorKind, at_least: Option<Duration>) -> Cause {
    match kind {
        ErrorKind::RateLimited { .. } | ErrorKind::Unauthorized { .. } => Cause::Will,
        _ if at_least.is_some() => Cause::Asked,
        ErrorKind::Unreachable => Cause::Absent,
        _ => Cause::Trouble,
    }
}
