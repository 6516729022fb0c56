//! What callers see of their limits: the refusal when one is reached, and what is left in the headers of every answer.

use std::time::Duration;

use poem::http::header::HeaderName;
use poem::http::{HeaderMap, StatusCode};

use super::error::{ApiError, LONGEST_CLIENT_WAIT};
use super::header_text::HeaderText;
use super::schema::BudgetState;
use crate::callers::{Budget, Dimension, Figures, Gate, Refusal, Whose, moment_as_text, now_ms};
use crate::telemetry::RequestRecord;

/// Limit, what is left of it, and the time until all of it is there again.
type Names = [HeaderName; 3];

static OF_REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
static OF_TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// The code for what is larger than a limit: another try would meet the same.
pub(super) const REQUEST_EXCEEDS_LIMIT: &str = "request_exceeds_limit";

/// The refusal in the words of the API.
pub(super) fn refused(refusal: &Refusal) -> ApiError {
    let message = refusal.to_string();
    let wait = |until_ms: i64| Duration::from_millis(u64::try_from(until_ms - now_ms()).unwrap_or(0));
    match refusal {
        Refusal::Limit { retry_after, .. } => {
            // A part of a second counts until all of it is a minute old. Whoever is told of that second does not wait at all.
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
            error.retry_after(Some((*retry_after).min(LONGEST_CLIENT_WAIT)))
        }
        Refusal::Never { .. } => ApiError::new(StatusCode::TOO_MANY_REQUESTS, REQUEST_EXCEEDS_LIMIT, message),
        Refusal::SetAside { .. } => {
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
            error.retry_after(Some(Duration::from_secs(1)))
        }
        Refusal::Budget { until_ms, .. } => {
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "budget_exhausted", message);
            error.retry_after(Some(wait(*until_ms)))
        }
        Refusal::TooLittle { until_ms, .. } => {
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "budget_exhausted", message);
            error.retry_after(until_ms.map(wait))
        }
        Refusal::Unavailable => {
            let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "limits_unavailable", message);
            error.retry_after(Some(Duration::from_secs(1)))
        }
    }
}

/// How a budget stands.
pub(super) fn budget_state(gate: &Gate, whose: &Whose, budget: &Budget, now_ms: i64) -> BudgetState {
    let (spent, until_ms) = gate.budgets().spent(whose, budget, now_ms);
    BudgetState {
        tokens: budget.tokens,
        money: budget.money,
        period: budget.period.into(),
        cut_off: budget.cut_off,
        spent_tokens: spent.tokens,
        spent_money: rounded(spent.money),
        remaining_tokens: budget.tokens.map(|most| most.saturating_sub(spent.tokens)),
        remaining_money: budget.money.map(|most| rounded((most - spent.money).max(0.0))),
        ends_at: moment_as_text(until_ms),
    }
}

/// Sums of money in billionths, as they are kept.
fn rounded(money: f64) -> f64 {
    (money * 1e9).round() / 1e9
}

/// What is left for a caller, by the limit that binds first. For requests that are asked of no model that is what is left
/// of the caller's own.
pub(super) fn add_headers(headers: &mut HeaderMap, gate: &Gate, record: &RequestRecord) {
    let caller = record.caller();
    if !gate.limits(caller) {
        return;
    }
    let model = {
        let facts = record.facts();
        // A raw request may be for no model that is known.
        facts.model.clone().or_else(|| facts.permit.is_some().then(|| "".into()))
    };
    let standing = gate.standing(caller, model.as_deref());
    for Figures { dimension, limit, remaining, reset } in standing {
        let [of_limit, of_remaining, of_reset] = match dimension {
            Dimension::Requests => &OF_REQUESTS,
            Dimension::Tokens => &OF_TOKENS,
            Dimension::Parallel => continue,
        };
        // The time as OpenAI writes it.
        let values = [(of_limit, limit, ""), (of_remaining, remaining, ""), (of_reset, reset.as_secs(), "s")];
        for (name, number, unit) in values {
            if let Some(value) = HeaderText::new().number(number).text(unit).value() {
                headers.insert(name, value);
            }
        }
    }
}
