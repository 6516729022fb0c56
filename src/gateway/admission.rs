//! Before a model is asked: whether its caller may use it, and whether there is enough left of every limit.

use std::sync::Arc;

use super::chain::{Chain, Tried};
use super::{Gateway, GatewayError, State};
use crate::callers::{Caller, Part, Price, Spent, now_ms};
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
pub(super) fn allowed(state: &State, wanted: Chain, caller: Option<&Caller>) -> Result<Chain, GatewayError> {
    let is_open = caller.is_none_or(|caller| caller.key.allowed_models.is_empty());
    if is_open && state.rules.models.is_empty() {
        return Ok(wanted);
    }
    let routes: Vec<Arc<Route>> = wanted.collect();
    let first = routes.first().map(|route| route.model.to_string()).unwrap_or_default();
    let allowed: Vec<Arc<Route>> =
        routes.into_iter().filter_map(|route| state.as_allowed(route, caller)).collect();
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
        self.admit_expected(Some(route), record, || expected(request, route)).await
    }

    /// Sets aside what is expected to be used of a model, if it is known.
    ///
    /// # Errors
    /// As [`Gateway::admit`].
    pub(super) async fn admit_expected<'p>(
        &self,
        model: Option<&Route>,
        record: &RequestRecord,
        expected: impl FnOnce() -> Expected<'p>,
    ) -> Result<(), GatewayError> {
        if !self.gate.limits(record.caller()) {
            return Ok(());
        }
        let part = expected().part(record);
        self.enter(model.map_or("", |route| &route.model), part, record).await
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
        if tried.seen.contains(&route.model) || !self.gate.limits(None) {
            return Ok(());
        }
        let part = expected(request, route).part(record);
        if let Some(more) = self.gate.admit_also(&route.model, part).await? {
            let mut facts = record.facts();
            match &mut facts.permit {
                Some(permit) => permit.join(more),
                // Nothing was limited when it began.
                None => facts.permit = Some(more),
            }
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
        self.enter(&route.model, Part { has_place: has_place(record), ..Part::REQUEST }, record).await
    }

    async fn enter(&self, model: &str, part: Part, record: &RequestRecord) -> Result<(), GatewayError> {
        let caller = record.caller();
        let permit = self.gate.admit_shared(caller, model, part, now_ms()).await?;
        record.facts().permit = Some(permit);
        Ok(())
    }
}

/// Whether a request has its place among those of its key since it came.
fn has_place(record: &RequestRecord) -> bool {
    record.facts().place.is_some()
}

/// What a request is expected to use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'p> {
    pub(super) usage: Usage,
    /// Whether nobody says how long the answer may get.
    pub(super) is_guess: bool,
    /// What the request costs besides its tokens.
    pub(super) request_cost: f64,
    /// The price of its tokens, if there is one.
    pub(super) price: Option<&'p Arc<Price>>,
}

impl Expected<'_> {
    fn part(&self, record: &RequestRecord) -> Part {
        let Usage { input_tokens, output_tokens, .. } = self.usage;
        let price = self.price;
        let spent = Spent {
            tokens: input_tokens.saturating_add(output_tokens),
            money: self.request_cost + price.map_or(0.0, |price| price.cost(&self.usage)),
        };
        let least = if output_tokens == 0 {
            Spent::default()
        } else {
            let shortest = Usage { input_tokens, output_tokens: 1, ..Usage::default() };
            // What costs nothing is ended by no sum of money.
            let price = price.filter(|price| price.output > 0.0);
            let money = self.request_cost + price.map_or(0.0, |price| price.cost(&shortest));
            Spent { tokens: input_tokens.saturating_add(1), money }
        };
        let guessed = if self.is_guess { output_tokens } else { 0 };
        Part { spent, guessed, least, is_request: !record.is_part(), has_place: has_place(record) }
    }
}

fn expected<'r, R: Ask>(request: &R, route: &'r Route) -> Expected<'r> {
    let stated = request.output_tokens();
    let usage = Usage {
        input_tokens: request.input_tokens(),
        output_tokens: stated.unwrap_or(USUAL_ANSWER).min(most_of(route)).saturating_mul(request.answers()),
        ..Usage::default()
    };
    // At the deployment that is asked first.
    let price = route.deployments.first().and_then(|deployment| deployment.prices.now());
    Expected { usage, is_guess: stated.is_none(), request_cost: 0.0, price }
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
