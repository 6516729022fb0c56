//! What callers see of their limits: the refusal when one is reached, and what is left in the headers of every answer.

use std::time::Duration;

use poem::http::header::HeaderName;
use poem::http::{HeaderMap, StatusCode};

use super::error::{ApiError, LONGEST_CLIENT_WAIT};
use super::header_text::HeaderText;
use super::schema::BudgetState;
use crate::callers::{Budget, Dimension, Figures, Gate, KeyRing, Refusal, Whose, moment_as_text, now_ms};
use crate::telemetry::{BudgetLeft, RequestRecord};

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

/// Which limit was reached, for figures and headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    /// Of what: `key`, `owner`, `model` or `gateway`.
    pub(super) of: &'static str,
    /// Which: `requests`, `tokens`, `parallel` or `budget`.
    pub(super) limit: &'static str,
    /// One of those of a minute, of which nothing is left for this request.
    short: Option<Figures>,
}

impl Refused {
    fn of(refusal: &Refusal) -> Option<Self> {
        let (of, limit) = refusal.limit()?;
        let short = match refusal {
            Refusal::Limit { dimension, limit, retry_after, .. } => {
                Some(Figures { dimension: *dimension, limit: *limit, remaining: 0, reset: *retry_after })
            }
            // Less would still pass.
            _ => None,
        };
        Some(Self { of, limit, short })
    }
}

/// The refusal in the words of the API.
pub(super) fn refused(refusal: &Refusal) -> ApiError {
    in_words(refusal).refused(Refused::of(refusal))
}

fn in_words(refusal: &Refusal) -> ApiError {
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
/// of the caller's own. Of a limit that was reached nothing is left, whatever this process knows: other replicas may have
/// taken it.
pub(super) fn add_headers(
    headers: &mut HeaderMap,
    gate: &Gate,
    record: &RequestRecord,
    refused: Option<Refused>,
) {
    let caller = record.caller();
    if !gate.limits(caller) {
        return;
    }
    let model = {
        let facts = record.facts();
        // A raw request may be for no model that is known.
        facts.model.clone().or_else(|| facts.permit.is_some().then(|| "".into()))
    };
    let short = refused.and_then(|refused| refused.short);
    let is_short = |figures: &Figures| short.is_some_and(|short| short.dimension == figures.dimension);
    for figures in gate.standing(caller, model.as_deref()).filter(|figures| !is_short(figures)).chain(short) {
        add_figures(headers, figures);
    }
}

fn add_figures(headers: &mut HeaderMap, Figures { dimension, limit, remaining, reset }: Figures) {
    let [of_limit, of_remaining, of_reset] = match dimension {
        Dimension::Requests => &OF_REQUESTS,
        Dimension::Tokens => &OF_TOKENS,
        Dimension::Parallel => return,
    };
    // The time as OpenAI writes it.
    let values = [(of_limit, limit, ""), (of_remaining, remaining, ""), (of_reset, reset.as_secs(), "s")];
    for (name, number, unit) in values {
        if let Some(value) = HeaderText::new().number(number).text(unit).value() {
            headers.insert(name, value);
        }
    }
}

/// What is left of all budgets, for the figures.
pub(super) fn budgets_left(gate: &Gate, ring: &KeyRing) -> Vec<BudgetLeft> {
    let now_ms = now_ms();
    let left = |(whose, budget): (Whose, Budget)| {
        let state = budget_state(gate, &whose, &budget, now_ms);
        let (of, name) = match whose {
            Whose::Key(id) => ("key", id),
            Whose::Owner(name) => ("owner", name),
        };
        BudgetLeft { of, name, tokens: state.remaining_tokens, money: state.remaining_money }
    };
    gate.all_budgets(ring).into_iter().map(left).collect()
}
