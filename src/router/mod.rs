//! The way from a public model name to an answer: plan, try, commit.
//!
//! A route lists the deployments of a model in the order in which they are asked. The next one takes over
//! when one fails, until the first content has come; after that, never.

mod table;

use std::sync::Arc;

use tokio::time::timeout;

use crate::llm::{ChatRequest, EmbedRequest, Embeddings, InvalidObject};
use crate::providers::{Answer, Content, ErrorKind, Failover, ProviderError};
use crate::telemetry::AttemptOutcome;
use crate::wire::Invalid;

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

    /// Asks once.
    fn ask(
        &self,
        deployment: &Deployment,
    ) -> impl Future<Output = Result<Self::Answer, ProviderError>> + Send;
}

impl Ask for ChatRequest {
    type Answer = Answer;

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

    async fn ask(&self, deployment: &Deployment) -> Result<Embeddings, ProviderError> {
        let limit = deployment.timeouts.request;
        let settled = self.with_settings(&deployment.defaults, &deployment.overrides);
        let request = settled.map_err(|invalid| deployment.refused(invalid))?;
        let attempt = deployment.provider.embed(&deployment.upstream_model, &request);
        timeout(limit, attempt).await.unwrap_or_else(|_| Err(deployment.failed(ErrorKind::Overdue(limit))))
    }
}

impl Route {
    /// Asks the deployments, one after the other, until one answers.
    ///
    /// # Errors
    /// The request was refused, or every deployment failed.
    pub async fn answer<R: Ask>(&self, request: &R) -> Result<Routed<R::Answer>, RouteError> {
        let mut attempts = 0;
        let mut candidates = self.deployments.iter().peekable();
        while let Some(deployment) = candidates.next() {
            attempts += 1;
            let source = match request.ask(deployment).await {
                Ok(answer) => {
                    deployment.count(AttemptOutcome::Answered);
                    return Ok(Routed { answer, deployment: deployment.clone(), attempts });
                }
                Err(error) => error,
            };
            let failover = source.failover();
            deployment.count(match failover {
                Failover::Stop => AttemptOutcome::Rejected,
                Failover::Next => AttemptOutcome::Failed,
            });
            if failover == Failover::Stop || candidates.peek().is_none() {
                return Err(RouteError {
                    deployment: deployment.id.clone(),
                    attempts,
                    source: source.into(),
                });
            }
            tracing::warn!(deployment = %deployment.id, attempt = attempts, error = %source, "Another deployment is asked after a failure");
        }
        // A route without deployments is not made.
        let nobody = ProviderError::new(&self.model, ErrorKind::Unreachable);
        Err(RouteError { deployment: self.model.clone(), attempts, source: nobody.into() })
    }
}

impl Deployment {
    fn failed(&self, kind: ErrorKind) -> ProviderError {
        ProviderError::new(&self.provider_name, kind)
    }

    fn refused(&self, invalid: InvalidObject) -> ProviderError {
        self.failed(ErrorKind::Rejected(Invalid::from(invalid).into()))
    }
}

#[cfg(test)]
mod tests;
