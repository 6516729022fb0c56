//! How many tokens something has for a model: by the best that costs nothing and starts nothing.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Gateway, GatewayError, note_route};
use crate::llm::{Count, CountRequest};
use crate::router::Route;
use crate::telemetry::RequestRecord;

/// Whoever does not say by then is not waited for: an estimate at once is worth more.
const PATIENCE: Duration = Duration::from_secs(2);

impl Gateway {
    /// Counts. Where nobody can, or not in time, it is an estimate.
    ///
    /// # Errors
    /// The model is unknown, or the caller may not use it.
    pub async fn count(&self, request: &CountRequest, record: &RequestRecord) -> Result<Count, GatewayError> {
        let route = self.course(&request.model, record)?.first;
        note_route(record, &route);
        let counted = timeout(PATIENCE, counted(&route, request)).await.ok().flatten();
        Ok(counted.unwrap_or_else(|| request.estimated()))
    }
}

/// By the first of those that serve the model who can.
async fn counted(route: &Route, request: &CountRequest) -> Option<Count> {
    let now = Instant::now();
    for deployment in route.candidates(None, None).into_iter().filter(|deployment| deployment.is_ready(now)) {
        match deployment.provider.count(&deployment.upstream_model, request).await {
            Ok(Some(count)) if count.tokens.len() == request.prompts.len() => return Some(count),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(deployment = %deployment.id, error = %error, "It does not count");
            }
        }
    }
    None
}
