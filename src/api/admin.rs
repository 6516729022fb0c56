//! The admin API: for whoever has the admin key, and closed where none is set.
//!
//! The key is checked in one place, the gate before every path below `/admin`, so that an operation that is added
//! here cannot forget it. Kept is a hash of the key, which tells nobody anything.

mod keys;
mod models;
mod usage;

use std::sync::Arc;

use poem::Request;
use poem::http::{HeaderName, StatusCode};
use poem_openapi::OpenApi;
use secrecy::{ExposeSecret, SecretString};

use super::Tag;
use super::context::Context;
use super::door::{WRONG_KEY, one_of, shown_alone, shown_as_bearer};
use super::error::ApiError;
use super::payload::Json;
use super::peer_of;
use super::query::{Query, only_known};
use super::schema::{ChangeBody, ReloadBody};
use crate::accounts::{Actor, Origin};
use crate::callers::{Digest, Secret};
use crate::reload::{Change, Report, Unanswered, Wish};

pub(super) use keys::{KeysApi, grace_of, told_once};
pub(super) use models::ModelsApi;
pub(super) use usage::UsageApi;

/// Below which everything asks for the admin key.
pub(super) const ROOT: &str = "/admin/";
/// The one that reads the configuration anew.
pub(super) const RELOAD: &str = "/admin/reload";
/// Headers that may hold the key alone. The second one is that of an older system.
static KEY_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-admin-key"), HeaderName::from_static("adminkey")];

/// What is kept of the admin key.
#[derive(Debug)]
pub(super) struct AdminKey(Digest);

impl AdminKey {
    pub(super) fn of(key: &SecretString) -> Self {
        Self(Secret::shown(key.expose_secret()).digest())
    }

    fn opens_with(&self, key: &str) -> bool {
        self.0.is(&Secret::shown(key).digest())
    }
}

/// Stands before a path that only the admin key opens.
#[derive(Debug)]
pub(super) struct Gate(Option<Arc<AdminKey>>);

impl Gate {
    /// The gate that the admin key opens.
    pub(super) fn new(context: &Context) -> Self {
        Self(context.admin_key.clone())
    }

    /// # Errors
    /// There is no admin API, or the request has not its key.
    pub(super) fn admit(&self, request: &Request) -> Result<(), ApiError> {
        let Some(key) = &self.0 else {
            let message =
                "there is no admin API here; the operator can have one by setting LLM_PROXY_API_ADMIN_KEY";
            return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_path", message));
        };
        // Somebody on the way may have put a caller's key beside it, as a bearer.
        let alone = one_of(shown_alone(request.headers(), &KEY_HEADERS))?;
        let shown = match alone {
            None => one_of(shown_as_bearer(request.headers()))?,
            alone => alone,
        };
        match shown {
            Some(shown) if key.opens_with(shown) => Ok(()),
            Some(_) => Err(ApiError::unauthorized(WRONG_KEY, "the admin key is wrong")),
            None => {
                let message =
                    "the admin key is missing; send it as `Authorization: Bearer …` or `x-admin-key: …`";
                Err(ApiError::unauthorized("missing_api_key", message))
            }
        }
    }
}

/// Who acts where the admin key opens.
fn admin_at(request: &Request) -> Origin {
    Actor::Admin.at(peer_of(request))
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
        let outcome =
            self.context.reloads.ask(wish, peer_of(request).to_string()).await.map_err(unanswered)?;
        let report = outcome.map_err(|faults| refused(&faults))?;
        Ok(Json(body(report, dry_run)))
    }
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
    use super::*;

    const KEY: &str = "planted-admin-key";

    fn told(gate: &Gate, headers: &[(&str, &str)]) -> Result<(), String> {
        let request =
            headers.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
        gate.admit(&request.finish()).map_err(|error| error.label().to_owned())
    }

    #[test]
    fn the_key_opens_in_every_form_and_nothing_else_does() {
        let gate = Gate(Some(Arc::new(AdminKey::of(&KEY.to_owned().into()))));
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
        let gate = Gate(None);
        for headers in [&[][..], &[("x-admin-key", "")], &[("x-admin-key", "x")]] {
            assert_eq!(told(&gate, headers), Err("unknown_path".to_owned()));
        }
        assert!(!format!("{:?}", AdminKey::of(&KEY.to_owned().into())).contains("planted"));
    }
}
