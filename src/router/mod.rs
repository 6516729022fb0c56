//! The way from a public model name to an answer: plan, try, commit.
//!
//! A route lists the deployments of a model in the order in which they are asked. The next one takes over
//! when one fails, until the first content has come; after that, never.

mod health;
mod order;
mod probe;
mod score;
mod table;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::llm::{ChatRequest, EmbedRequest, Embeddings, InvalidObject};
use crate::providers::{Answer, Content, Cooldown, ErrorKind, Failover, ProviderError, RESTING};
use crate::telemetry::AttemptOutcome;
use crate::wire::Invalid;

use health::{Cause, Failure, Pass};
pub use health::{Figures, Health, HealthBook, Probed};
pub use probe::Probe;
pub use score::Score;
pub use table::{Deployment, Route, RoutingTable, Served};

/// An answer, and who gave it.
#[derive(Debug)]
pub struct Routed<T> {
    /// The answer. If it is a stream, its first content is there already.
    pub answer: T,
    /// Who gave it.
    pub deployment: Arc<Deployment>,
    /// How many were asked.
    pub attempts: u32,
}

/// No deployment of a model gave an answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer from `{deployment}` after {attempts} attempts")]
pub struct RouteError {
    /// The last one that was asked.
    pub deployment: Arc<str>,
    /// How many were asked.
    pub attempts: u32,
    /// What the last one said.
    #[source]
    pub source: Box<ProviderError>,
}

/// A request that a deployment can be asked.
pub trait Ask: Sync {
    /// What it answers.
    type Answer: Send;

    /// Whether the answer comes as a stream.
    fn is_stream(&self) -> bool;

    /// Asks once.
    fn ask(
        &self,
        deployment: &Deployment,
    ) -> impl Future<Output = Result<Self::Answer, ProviderError>> + Send;
}

impl Ask for ChatRequest {
    type Answer = Answer;

    fn is_stream(&self) -> bool {
        self.stream
    }

    /// A stream is held until its first content, within the time for that.
    async fn ask(&self, deployment: &Deployment) -> Result<Answer, ProviderError> {
        let settled = self.with_settings(&deployment.defaults, &deployment.overrides);
        let request = settled.map_err(|invalid| deployment.refused(invalid))?;
        let attempt = async {
            let mut answer = deployment.provider.chat(&deployment.upstream_model, &request).await?;
            if let Content::Stream(frames) = &mut answer.content {
                frames.until_content().await?;
            }
            Ok(answer)
        };
        let (limit, late) = ErrorKind::late(&deployment.timeouts, request.stream);
        timeout(limit, attempt).await.unwrap_or_else(|_| Err(deployment.failed(late)))
    }
}

impl Ask for EmbedRequest {
    type Answer = Embeddings;

    fn is_stream(&self) -> bool {
        false
    }

    async fn ask(&self, deployment: &Deployment) -> Result<Embeddings, ProviderError> {
        let limit = deployment.timeouts.request;
        let settled = self.with_settings(&deployment.defaults, &deployment.overrides);
        let request = settled.map_err(|invalid| deployment.refused(invalid))?;
        let attempt = deployment.provider.embed(&deployment.upstream_model, &request);
        timeout(limit, attempt).await.unwrap_or_else(|_| Err(deployment.failed(ErrorKind::Overdue(limit))))
    }
}

impl Route {
    /// Asks the deployments, one after the other, until one answers. Those that rest are left out; if all do, the
    /// first to come back is waited for, as long as is allowed.
    ///
    /// # Errors
    /// The request was refused, every deployment failed, or all of them rest.
    pub async fn answer<R: Ask>(&self, request: &R) -> Result<Routed<R::Answer>, RouteError> {
        let deadline = Instant::now() + self.routing.max_wait;
        loop {
            let mut attempts = 0;
            let mut failure = None;
            let mut soonest: Option<(Instant, &Arc<Deployment>)> = None;
            for deployment in self.order.of(&self.deployments, request.is_stream()) {
                let passes = match deployment.admit(Instant::now()) {
                    Ok(passes) => passes,
                    Err(until) => {
                        soonest = soonest.filter(|(known, _)| *known <= until).or(Some((until, deployment)));
                        continue;
                    }
                };
                attempts += 1;
                if let Some(source) = &failure {
                    tracing::warn!(deployment = %deployment.id, attempt = attempts, error = %source, "Another deployment is asked after a failure");
                }
                match deployment.asked(request, passes).await {
                    Ok(answer) => return Ok(Routed { answer, deployment: deployment.clone(), attempts }),
                    Err(source) if source.failover() == Failover::Stop => {
                        return Err(deployment.route_error(attempts, source));
                    }
                    Err(source) => failure = Some(deployment.route_error(attempts, source)),
                }
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
            let Some((until, deployment)) = soonest else {
                // Scores leave nobody.
                let nobody = ProviderError::new(&self.model, ErrorKind::Unsupported("this model"));
                return Err(RouteError { deployment: self.model.clone(), attempts, source: nobody.into() });
            };
            let now = Instant::now();
            if until > deadline {
                let retry_after = until.duration_since(now);
                let kind = ErrorKind::Overloaded { code: RESTING, retry_after };
                return Err(deployment.route_error(attempts, deployment.failed(kind)));
            }
            tokio::select! {
                () = sleep_until(until) => {}
                () = deployment.health.changed() => {}
                () = deployment.provider_health.changed() => {}
            }
        }
    }
}

impl RouteError {
    /// Whether another model may be asked instead, and whether it has to have a larger context.
    pub fn fallback(&self) -> Option<Fallback> {
        match (&self.source.kind, self.source.failover()) {
            (ErrorKind::ContextTooLong { .. }, _) => Some(Fallback::Larger),
            (_, Failover::Next(_)) => Some(Fallback::Any),
            (_, Failover::Stop) => None,
        }
    }
}

/// Which model may answer in the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Any that is named for it.
    Any,
    /// One with a larger context.
    Larger,
}

/// The leave to ask a deployment: its own, and its provider's.
type Passes<'a> = (Pass<'a>, Pass<'a>);

impl Deployment {
    /// # Errors
    /// It rests, or its provider does, until then.
    fn admit(&self, now: Instant) -> Result<Passes<'_>, Instant> {
        let provider = self.provider_health.admit(now)?;
        Ok((self.health.admit(now)?, provider))
    }

    async fn asked<R: Ask>(
        &self,
        request: &R,
        (own, provider): Passes<'_>,
    ) -> Result<R::Answer, ProviderError> {
        let began = Instant::now();
        let answered = request.ask(self).await;
        match &answered {
            Ok(_) => {
                self.count(AttemptOutcome::Answered);
                own.took(began.elapsed(), request.is_stream());
                own.succeeded();
                provider.succeeded();
            }
            Err(error) => self.has_failed(error),
        }
        answered
    }

    /// Something rests now, if the failure says so. Also of a stream that failed after it had begun.
    pub fn has_failed(&self, error: &ProviderError) {
        let (word, now) = (error.kind.word(), Instant::now());
        let failure =
            |at_least| Failure { word, cause: cause(&error.kind, at_least), at_least, most: self.most_rest };
        match error.failover() {
            Failover::Stop => return self.count(AttemptOutcome::Rejected),
            Failover::Next(_) if self.plays => self.health.note_failure(word),
            Failover::Next(Cooldown::None) => self.health.note_failure(word),
            Failover::Next(Cooldown::Deployment(at_least)) => {
                self.health.failed(&failure(at_least), now);
            }
            Failover::Next(Cooldown::Provider(at_least)) => {
                self.health.note_failure(word);
                self.provider_health.failed(&failure(at_least), now);
            }
        }
        self.count(AttemptOutcome::Failed);
    }

    fn route_error(&self, attempts: u32, source: ProviderError) -> RouteError {
        RouteError { deployment: self.id.clone(), attempts, source: source.into() }
    }

    fn failed(&self, kind: ErrorKind) -> ProviderError {
        ProviderError::new(&self.provider_name, kind)
    }

    fn refused(&self, invalid: InvalidObject) -> ProviderError {
        self.failed(ErrorKind::Rejected(Invalid::from(invalid).into()))
    }
}

/// What a failure tells of the server.
fn cause(kind: &ErrorKind, at_least: Option<Duration>) -> Cause {
    match kind {
        ErrorKind::RateLimited { .. } | ErrorKind::Unauthorized { .. } => Cause::Will,
        _ if at_least.is_some() => Cause::Will,
        ErrorKind::Unreachable => Cause::Absent,
        _ => Cause::Trouble,
    }
}

#[cfg(test)]
mod tests;
