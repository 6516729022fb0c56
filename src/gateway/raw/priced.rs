//! What a raw request costs, and who may not make one whose cost nothing tells.

use std::sync::Arc;

use http::Method;

use super::meant::Meant;
use crate::callers::{Caller, Price, now_ms};
use crate::gateway::{GatewayError, State};
use crate::llm::{Naming, RawTask};
use crate::telemetry::RequestRecord;

/// The price of the model that a request is for, whether it is served here or not. The same decision as whose model it is.
pub(super) fn price_of(
    state: &State,
    provider: &str,
    (meant, naming): (Option<&Meant>, &Naming),
) -> Option<Arc<Price>> {
    match meant {
        Some((_, deployment)) => deployment.prices.at(now_ms()).cloned(),
        None => {
            let name = naming.model.as_deref().unwrap_or_default();
            state.routes.prices().history(provider, [name, name]).at(now_ms()).cloned()
        }
    }
}

/// A budget of money counts only what has a price: tokens that are reported, or else the request itself.
///
/// # Errors
/// The caller has such a budget, and the request may cost something that nothing tells.
pub(super) fn require_price(
    state: &State,
    (method, task): (&Method, &RawTask),
    (is_served, price): (bool, Option<&Price>),
    record: &RequestRecord,
) -> Result<(), GatewayError> {
    if !may_cost(method) || !record.caller().is_some_and(|caller| has_money_budget(state, caller)) {
        return Ok(());
    }
    let is_told = match price {
        Some(price) => price.request.is_some() || task.reports_usage,
        // A model that is served and has no price is used like that in chats, too.
        None => is_served && task.reports_usage,
    };
    if is_told { Ok(()) } else { Err(GatewayError::PriceUnknown) }
}

/// Whether a request may make a provider do something that costs.
pub(super) fn may_cost(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::DELETE)
}

/// Whether a caller's key, or its owner, has a budget of money.
pub(super) fn has_money_budget(state: &State, caller: &Caller) -> bool {
    let of_owner = || caller.owner.as_deref().and_then(|owner| state.rules.owner_budgets.get(owner));
    caller.key.budget.iter().chain(of_owner()).any(|budget| budget.money.is_some())
}
