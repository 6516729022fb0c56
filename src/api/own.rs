//! What the holder of a key may see and do with it: how it stands, what it used, and a new secret for it.
//!
//! Nothing here tells of any other key. Who is asked for no key has none.

use std::sync::Arc;

use poem::Request;
use poem::http::StatusCode;
use poem_openapi::OpenApi;

use super::admin::{grace_of, told_once};
use super::body::JsonBody;
use super::context::Context;
use super::door::shows_present_secret;
use super::error::ApiError;
use super::payload::{Json, TableAnswer, ToldOnce};
use super::query::{Query, only_known};
use super::schema::{LimitState, OwnKey, OwnLimits, RotationBody, SecretBody, UsageBody};
use super::standing::budget_state;
use super::usage::Asked;
use super::{Tag, peer_of, record_of};
use crate::accounts::Actor;
use crate::callers::{Caller, Dimension, Figures, Whose, moment_as_text, now_ms};

/// The holder's own key.
pub(super) struct OwnApi {
    pub(super) context: Arc<Context>,
}

#[OpenApi(prefix_path = "/api", tag = "Tag::Own")]
impl OwnApi {
    /// Own key
    ///
    /// The key that is shown with this request: what it may do, what is left of its limits and budgets, and of those that
    /// it shares with the other keys of its owner.
    #[oai(path = "/me", method = "get", operation_id = "own_key")]
    async fn me(&self, request: &Request) -> Result<Json<OwnKey>, ApiError> {
        Ok(Json(self.pictured(&caller_of(request)?)))
    }

    /// Own usage
    ///
    /// What was used with this key, in the groups that are asked for.
    #[oai(path = "/me/usage", method = "get", operation_id = "own_usage")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the document")]
    async fn usage(
        &self,
        request: &Request,
        /// From then on: `2026-11-21T10:00:00Z`, or a date; 24 hours before the end if nothing is said.
        from: Query<Option<String>>,
        /// Until before then, or to the end of that date; now if nothing is said.
        to: Query<Option<String>>,
        /// A comma list of `hour`, `day`, `model`, `key`, `owner`, `provider`, `endpoint`, `prompt`, `outcome`; all in one row if nothing is said.
        group_by: Query<Option<String>>,
        /// `json`, or `csv` for spreadsheets.
        format: Query<Option<String>>,
    ) -> Result<TableAnswer<UsageBody>, ApiError> {
        let caller = caller_of(request)?;
        only_known(request, &["from", "to", "group_by", "format"])?;
        let asked = Asked { from: from.0, to: to.0, group_by: group_by.0, format: format.0 };
        let mut question = asked.read(self.context.gateway.gate().budgets().zone(), now_ms())?;
        question.query.key = Some(caller.key.id.clone());
        Ok(question.answer(self.context.accounts()?).await?.into())
    }

    /// New secret of the own key
    ///
    /// Gives the key that is shown another secret, which is told in this answer and never again. The one before opens
    /// for `grace_seconds` yet. A secret that was replaced gets no other: 403 `secret_replaced`.
    #[oai(path = "/me/rotate", method = "post", operation_id = "rotate_own_key")]
    async fn rotate(
        &self,
        request: &Request,
        body: JsonBody<Option<RotationBody>>,
    ) -> Result<ToldOnce<SecretBody>, ApiError> {
        let caller = caller_of(request)?;
        if !shows_present_secret(request.headers(), &caller.key) {
            // Rotation is what is done about a secret that others know, too.
            let message = "this secret was replaced; the key can be rotated with the one that took its place";
            return Err(ApiError::new(StatusCode::FORBIDDEN, "secret_replaced", message));
        }
        let accounts = self.context.accounts()?;
        let id = &caller.key.id;
        let (key, secret) =
            accounts.rotate(Actor::Key(id.clone()).at(peer_of(request)), id, grace_of(&body)?).await?;
        Ok(told_once(&key, &secret))
    }
}

/// # Errors
/// Nobody was asked for a key.
fn caller_of(request: &Request) -> Result<Caller, ApiError> {
    record_of(request).caller().cloned().ok_or_else(|| {
        let message = "this service asks nobody for a key (LLM_PROXY_API_AUTH), so you have none here";
        ApiError::new(StatusCode::NOT_FOUND, "key_not_found", message)
    })
}

impl OwnApi {
    fn pictured(&self, caller: &Caller) -> OwnKey {
        let (gate, key, now_ms) = (self.context.gateway.gate(), &caller.key, now_ms());
        let of_all = key.owner.iter().flat_map(|owner| gate.owner_figures(owner));
        let of_key = |budget| budget_state(gate, &Whose::Key(caller.id.clone()), budget, now_ms);
        let rules = gate.rules();
        let of_owner = key.owner.as_ref().and_then(|owner| {
            let budget = rules.owner_budgets.get(owner)?;
            Some(budget_state(gate, &Whose::Owner(owner.as_str().into()), budget, now_ms))
        });
        OwnKey {
            id: key.id.clone(),
            name: key.name.clone(),
            owner: key.owner.clone(),
            prefix: key.prefix.clone(),
            expires_at: key.expires_ms.map(moment_as_text),
            previous_until: key.previous_until_ms(now_ms).map(moment_as_text),
            allowed_models: key.allowed_models.clone(),
            allowed_endpoints: key.allowed_endpoints.clone(),
            language: key.language.clone(),
            limits: limits_of(caller.figures()),
            owner_limits: limits_of(of_all),
            budget: key.budget.as_ref().map(of_key),
            owner_budget: of_owner,
        }
    }
}

fn limits_of(figures: impl Iterator<Item = Figures>) -> OwnLimits {
    let mut limits = OwnLimits::default();
    for figures in figures {
        let place = match figures.dimension {
            Dimension::Requests => &mut limits.requests_per_minute,
            Dimension::Tokens => &mut limits.tokens_per_minute,
            Dimension::Parallel => &mut limits.parallel_requests,
        };
        *place = Some(LimitState {
            limit: figures.limit,
            remaining: figures.remaining,
            reset_seconds: figures.reset.as_secs(),
        });
    }
    limits
}

#[cfg(test)]
mod tests;
