//! The admin API: for whoever has the admin key, and closed where none is set.
//!
//! The key is checked in one place, the gate before every path below `/admin`, so that an operation that is added
//! here cannot forget it.

mod keys;
mod models;
mod usage;

use std::sync::Arc;

use poem::Request;
use poem::http::{HeaderName, StatusCode};
use poem_openapi::OpenApi;

use super::context::Context;
use super::credentials::Credentials;
use super::door::{
    NO_KEY, WRONG_KEY, one_of, shown_alone, shown_as_bearer, shown_as_password, shown_by_readers,
};
use super::error::ApiError;
use super::payload::Json;
use super::query::{Query, only_known};
use super::schema::{ChangeBody, ReloadBody};
use super::{Tag, peer_of, record_of};
use crate::accounts::{Actor, Origin};
use crate::callers::{KeyRing, Secret, now_ms};
use crate::config::UNNAMED_ADMIN;
use crate::reload::{Change, Report, Unanswered, Wish};

pub(super) use keys::{KeysApi, grace_of, told_once};
pub(super) use models::ModelsApi;
pub(super) use usage::UsageApi;

/// Below which everything asks for the admin key.
pub(super) const ROOT: &str = "/admin/";
/// The one that reads the configuration anew.
pub(super) const RELOAD: &str = "/admin/reload";
/// Headers that may hold the key alone. The second one is that of an older system.
pub(super) static KEY_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-admin-key"), HeaderName::from_static("adminkey")];

/// Stands before a path that only an admin key opens.
#[derive(Debug)]
pub(super) struct Gate(Arc<Credentials>);

impl Gate {
    /// The gate that the admin keys of now open.
    pub(super) fn new(context: &Context) -> Self {
        Self(context.credentials.clone())
    }

    /// # Errors
    /// There is no admin API, or the request has none of its keys.
    pub(super) fn admit(&self, request: &Request) -> Result<(), ApiError> {
        let operators = self.0.operators();
        if !operators.has_admins() {
            let message =
                "there is no admin API here; the operator can have one by setting LLM_PROXY_API_ADMIN_KEY";
            return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_path", message));
        }
        // Somebody on the way may have put a caller's key beside it, as a bearer.
        let alone = one_of(shown_alone(request.headers(), &KEY_HEADERS))?;
        let shown = match alone {
            None => one_of(shown_as_bearer(request.headers()))?,
            alone => alone,
        };
        let Some(shown) = shown else {
            let message =
                "the admin key is missing; send it as `Authorization: Bearer …` or `x-admin-key: …`";
            return Err(ApiError::unauthorized(NO_KEY, message));
        };
        match operators.admin(shown) {
            Some(name) => {
                record_of(request).opened_by(name.clone());
                Ok(())
            }
            None => Err(ApiError::unauthorized(WRONG_KEY, "the admin key is wrong")),
        }
    }

    /// Whether a request may read the figures. On this machine it may without a key, unless they have one of their own.
    ///
    /// # Errors
    /// It needs a key, and does not show it.
    pub(super) fn admit_to_figures(&self, request: &Request, is_open: bool) -> Result<(), ApiError> {
        let operators = self.0.operators();
        if is_open && !operators.has_metrics_key() {
            return Ok(());
        }
        if !operators.has_metrics_key() && !operators.has_admins() {
            let message = "the figures are not to be had here without a key; the operator can set LLM_PROXY_API_METRICS_KEY or LLM_PROXY_API_METRICS_LISTEN";
            return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_path", message));
        }
        match one_of(shown_by_readers(request.headers()))? {
            Some(shown) if operators.opens_metrics(shown) || operators.admin(shown).is_some() => Ok(()),
            Some(_) => Err(ApiError::unauthorized(WRONG_KEY, "the key does not open the figures")),
            None => {
                let message = "the figures need their key; send it as `Authorization: Bearer …`";
                Err(ApiError::unauthorized(NO_KEY, message))
            }
        }
    }

    /// Whether a request may read the document and its page: with any key, of an operator or of a caller. Browsers ask for
    /// it, and send it as a password.
    ///
    /// # Errors
    /// It shows none that opens anything.
    pub(super) fn admit_reader(&self, request: &Request, ring: &KeyRing) -> Result<(), ApiError> {
        let operators = self.0.operators();
        if !operators.has_admins() && ring.is_empty() {
            let message = "this page needs a key here, and there is none yet; the operator can make one by `llm-proxy-api keys create`";
            return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_path", message));
        }
        let password = shown_as_password(request.headers());
        let shown = one_of(shown_by_readers(request.headers()).chain(password.as_deref()));
        let opens = |shown: &str| {
            operators.admin(shown).is_some() || ring.find(&Secret::shown(shown), now_ms()).is_ok()
        };
        match shown.map_err(ApiError::or_password)? {
            Some(shown) if opens(shown) => Ok(()),
            Some(_) => Err(ApiError::unauthorized(WRONG_KEY, "the key is wrong").or_password()),
            None => {
                let message =
                    "this page needs a key; send it as `Authorization: Bearer …`, or as the password";
                Err(ApiError::unauthorized(NO_KEY, message).or_password())
            }
        }
    }
}

/// Who acts where an admin key opens.
fn admin_at(request: &Request) -> Origin {
    let record = record_of(request);
    record.operator().map_or(Actor::Admin, Actor::of_admin).at(peer_of(request))
}

/// The admin API.
pub(super) struct AdminApi {
    pub(super) context: Arc<Context>,
}

#[OpenApi(tag = "Tag::Admin")]
impl AdminApi {
    /// Reload
    ///
    /// Reads models file and prompts anew, all or nothing, and answers when they are in place. Requests that are under
    /// way keep what they began with, and engines whose definition is the same go on.
    #[oai(path = "/admin/reload", method = "post", operation_id = "reload")]
    async fn reload(
        &self,
        request: &Request,
        /// `true` to be told what a reload would change, without doing it.
        dry_run: Query<Option<bool>>,
    ) -> Result<Json<ReloadBody>, ApiError> {
        // A slip in the name would have everything reloaded that was only to be looked at.
        only_known(request, &["dry_run"])?;
        let dry_run = dry_run.0.unwrap_or(false);
        let wish = if dry_run { Wish::Rehearse } else { Wish::Reload };
        let outcome = self.context.reloads.ask(wish, asker(request)).await.map_err(unanswered)?;
        let report = outcome.map_err(|faults| refused(&faults))?;
        Ok(Json(body(report, dry_run)))
    }
}

/// Whose admin key asks, and from where.
fn asker(request: &Request) -> (Arc<str>, String) {
    let by = record_of(request).operator().cloned();
    (by.unwrap_or_else(|| UNNAMED_ADMIN.into()), peer_of(request).to_string())
}

fn unanswered(why: Unanswered) -> ApiError {
    let unavailable = |code, message: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
    match why {
        Unanswered::Busy => unavailable("queue_full", "too many reloads wait already"),
        Unanswered::Late => {
            unavailable("reload_pending", "the reload takes long and goes on; /readyz tells how it went")
        }
        Unanswered::Ending => ApiError::draining(),
    }
}

/// Faults name files and places, and never what stands there.
fn refused(faults: &[String]) -> ApiError {
    let message = format!("the configuration is refused, the one before it goes on:\n{}", faults.join("\n"));
    ApiError::new(StatusCode::CONFLICT, "reload_refused", message)
}

fn body(report: Report, dry_run: bool) -> ReloadBody {
    let Report { models, prompts, diff, warnings } = report;
    let change = |Change { what, name, how, details }: Change| ChangeBody {
        kind: what.word().to_owned(),
        name,
        change: how.word().to_owned(),
        details,
    };
    ReloadBody {
        status: true,
        dry_run,
        models,
        prompts,
        changes: diff.changes.into_iter().map(change).collect(),
        kept_engines: diff.kept_engines,
        warnings,
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::Admitted;
    use super::*;
    use crate::config::{Environment, Settings};

    const KEY: &str = "planted-admin-key";

    fn gate(keys: &str) -> Gate {
        let environment = Environment::of([("LLM_PROXY_API_ADMIN_KEY", keys)]);
        let settings = Settings::from_environment(&environment).unwrap();
        Gate(Arc::new(Credentials::of_operators(&settings)))
    }

    #[test]
    fn every_one_of_several_keys_opens_under_its_name() {
        let gate = gate("ann:planted-of-ann-long-enough,bob:planted-of-bob-long-enough");
        for (key, name) in [
            ("planted-of-ann-long-enough", Some("ann")),
            ("planted-of-bob-long-enough", Some("bob")),
            ("ann:planted-of-ann-long-enough", None),
            ("ann", None),
        ] {
            let mut request = Request::builder().header("x-admin-key", key).finish();
            let record = Arc::new(crate::telemetry::RequestRecord::new("r"));
            request.extensions_mut().insert(Admitted { record: record.clone(), ..Admitted::default() });
            assert_eq!(gate.admit(&request).is_ok(), name.is_some(), "{key}");
            assert_eq!(record.operator().map(|name| &**name), name);
        }
    }

    fn told(gate: &Gate, headers: &[(&str, &str)]) -> Result<(), String> {
        let request =
            headers.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
        gate.admit(&request.finish()).map_err(|error| error.label().to_owned())
    }

    #[test]
    fn the_key_opens_in_every_form_and_nothing_else_does() {
        let gate = gate(KEY);
        let bearer = format!("Bearer {KEY}");
        for headers in [
            &[("authorization", bearer.as_str())][..],
            &[("authorization", &bearer.to_lowercase())],
            &[("x-admin-key", KEY)],
            &[("AdminKey", KEY)],
            &[("authorization", "Bearer of-a-caller"), ("x-admin-key", KEY)],
        ] {
            assert_eq!(told(&gate, headers), Ok(()), "{headers:?}");
        }
        for (headers, code) in [
            (&[][..], "missing_api_key"),
            (&[("authorization", KEY)], "missing_api_key"),
            (&[("authorization", "Basic abc")], "missing_api_key"),
            (&[("authorization", "Bearer ")], "missing_api_key"),
            (&[("x-admin-key", "")], "missing_api_key"),
            (&[("x-api-key", KEY)], "missing_api_key"),
            (&[("x-admin-key", "planted-admin-ke")], "invalid_api_key"),
            (&[("x-admin-key", "planted-admin-key ")], "invalid_api_key"),
            (&[("authorization", "Bearer x")], "invalid_api_key"),
        ] {
            assert_eq!(told(&gate, headers), Err(code.to_owned()), "{headers:?}");
        }
    }

    #[test]
    fn without_a_key_nothing_opens() {
        let gate = gate("");
        for headers in [&[][..], &[("x-admin-key", "")], &[("x-admin-key", "x")]] {
            assert_eq!(told(&gate, headers), Err("unknown_path".to_owned()));
        }
        assert!(!format!("{:?}", super::tests::gate(KEY)).contains("planted"));
    }
}
