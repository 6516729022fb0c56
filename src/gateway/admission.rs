//! Before a model is asked: whether its caller may use it, and whether there is enough left of every limit.

use std::sync::Arc;

use super::chain::{Chain, Tried};
use super::{Gateway, GatewayError};
use crate::callers::{Caller, Part, Spent, now_ms};
use crate::llm::Usage;
use crate::router::{Ask, Deployment, Route};
use crate::telemetry::RequestRecord;

/// So many tokens are set aside for an answer of which nobody says how long it may get.
pub(super) const USUAL_ANSWER: u64 = 1024;
/// No answer is longer, where nobody says what a model can do.
const MOST_ANSWER: u64 = 131_072;

/// Those of the routes that the caller may use.
///
/// # Errors
/// None of them.
pub(super) fn allowed(wanted: Chain, caller: Option<&Caller>) -> Result<Chain, GatewayError> {
    let Some(caller) = caller.filter(|caller| !caller.key.allowed_models.is_empty()) else {
        return Ok(wanted);
    };
    let routes: Vec<Arc<Route>> = wanted.collect();
    let first = routes.first().map(|route| route.model.to_string()).unwrap_or_default();
    let allowed: Vec<Arc<Route>> = routes.into_iter().filter(|route| may_use(Some(caller), route)).collect();
    if allowed.is_empty() {
        Err(GatewayError::NotAllowed(first))
    } else {
        Ok(Chain::Several(allowed.into_iter()))
    }
}

impl Gateway {
    /// Sets aside what a request for a model may use, if anything is limited. It is put right when the request's record
    /// is closed.
    ///
    /// # Errors
    /// There is not enough of something.
    pub(super) async fn admit<R: Ask>(
        &self,
        request: &R,
        route: &Route,
        record: &RequestRecord,
    ) -> Result<(), GatewayError> {
        self.admit_expected(Some((route, route.deployments.first())), record, || Usage {
            input_tokens: request.input_tokens(),
            output_tokens: request.output_tokens().unwrap_or(USUAL_ANSWER).min(most_of(route)),
            ..Usage::default()
        })
        .await
    }

    /// Sets aside what is expected to be used of a model at the deployment that is asked first, if they are known.
    ///
    /// # Errors
    /// As [`Gateway::admit`].
    pub(super) async fn admit_expected(
        &self,
        model: Option<(&Route, Option<&Arc<Deployment>>)>,
        record: &RequestRecord,
        expected: impl FnOnce() -> Usage,
    ) -> Result<(), GatewayError> {
        if !self.gate.limits(record.caller().as_ref()) {
            return Ok(());
        }
        let (expected, now_ms) = (expected(), now_ms());
        let price = model.and_then(|(_, deployment)| deployment?.prices.at(now_ms));
        let spent = Spent {
            tokens: expected.input_tokens.saturating_add(expected.output_tokens),
            money: price.map_or(0.0, |price| price.cost(&expected)),
        };
        let name = model.map_or("", |(route, _)| &route.model);
        self.enter(name, Part { spent, is_request: !record.is_part() }, record).await
    }

    /// As [`Gateway::admit`] for the first model that is asked. Of those that take over only their own limits matter.
    ///
    /// # Errors
    /// There is not enough of something.
    pub(super) async fn admit_to<R: Ask>(
        &self,
        request: &R,
        route: &Route,
        tried: &Tried,
        record: &RequestRecord,
    ) -> Result<(), GatewayError> {
        if tried.seen.is_empty() {
            return self.admit(request, route, record).await;
        }
        if !tried.seen.contains(&route.model)
            && let Some(permit) = &mut record.facts().permit
        {
            permit.extend(&route.model)?;
        }
        Ok(())
    }

    /// Sets aside a request of which only the parts use anything.
    ///
    /// # Errors
    /// As [`Gateway::admit`].
    pub(super) async fn admit_whole(
        &self,
        route: &Route,
        record: &RequestRecord,
    ) -> Result<(), GatewayError> {
        self.enter(&route.model, Part { spent: Spent::default(), is_request: true }, record).await
    }

    async fn enter(&self, model: &str, part: Part, record: &RequestRecord) -> Result<(), GatewayError> {
        let caller = record.caller();
        let permit = self.gate.admit_shared(caller.as_ref(), model, part, now_ms()).await?;
        record.facts().permit = Some(permit);
        Ok(())
    }
}

/// The longest answer of a model: nothing answers with more, whatever is asked for.
fn most_of(route: &Route) -> u64 {
    let said =
        |deployment: &Arc<Deployment>| deployment.abilities.output_tokens.or(deployment.context_tokens);
    route.deployments.iter().filter_map(said).max().unwrap_or(MOST_ANSWER)
}

/// Whether a caller may use a model, by any of its names. Who need not say who they are may use all.
pub fn may_use(caller: Option<&Caller>, route: &Route) -> bool {
    caller.is_none_or(|caller| {
        caller.key.may_use(&route.model) || route.aliases.iter().any(|alias| caller.key.may_use(alias))
    })
}
