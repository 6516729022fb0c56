//! The door before every path: open to all, or for callers with a key, or for whoever has the admin key.
//!
//! Which door a path has is decided here and nowhere else, so that a path that is added later is closed unless it is
//! named as open.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use poem::Request;
use poem::http::header::AUTHORIZATION;
use poem::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::admin::{self, Gate};
use super::context::Context;
use super::error::ApiError;
use super::record_of;
use crate::callers::{Caller, Key, KeyRing, Secret, Unknown, now_ms};
use crate::config::RawRequests;
use crate::llm::shortened;

/// Paths that are open whatever the settings say.
const OPEN: [&str; 4] = ["/", "/api/ping", "/livez", "/readyz"];
/// Paths for operators: they are read by people and machines on this machine without a key.
const PAGES: [&str; 3] = [FIGURES, "/docs", "/openapi.json"];
/// Where the figures are.
pub(super) const FIGURES: &str = "/metrics";
/// Paths that tell the holder of a key about that key.
const OWN: [&str; 3] = ["/api/me", "/api/me/usage", "/api/me/rotate"];
/// Raw requests, which reach whatever the account of a provider reaches.
const RAW: &str = "/api/passthrough";
/// Headers that may hold a key alone.
static KEY_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

/// Whether a path is open to all.
pub(super) fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// Whether a path is open to this machine, whether or not callers need keys.
pub(super) fn is_page(path: &str) -> bool {
    PAGES.contains(&path)
}

/// Whether the admin key opens a path, at least where other machines reach it or callers need keys.
pub(super) fn is_for_admin(path: &str) -> bool {
    path.starts_with(admin::ROOT) || is_page(path) || is_for_operators(path)
}

/// The code for a request that shows no key where one is needed.
pub(super) const NO_KEY: &str = "missing_api_key";
/// The code for a key that opens nothing.
pub(super) const WRONG_KEY: &str = "invalid_api_key";

/// Who may pass.
#[derive(Debug)]
pub(super) enum Door {
    /// Everybody.
    Open,
    /// Callers with a key; others as well where none is asked for.
    Callers(Arc<Doorkeeper>),
    /// Callers whose key lists the path; others as well where no key is asked for.
    Listed(Arc<Doorkeeper>),
    /// Holders of a key, whatever else they may ask: what is told there is about themselves.
    Holders(Arc<Doorkeeper>),
    /// Holders of an admin key.
    Admin(Gate),
    /// Holders of any key: what is read there is the same for all.
    Readers(Gate, Arc<Doorkeeper>),
    /// Those who may read the metrics; whether a request without a key may.
    Figures(Gate, bool),
}

/// Knows the callers by what they show.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    pub(super) ring: Arc<KeyRing>,
    /// Whether nobody passes without a key.
    pub(super) is_strict: bool,
}

impl Door {
    /// The door before a path of the document.
    pub(super) fn of(path: &str, context: &Context) -> Self {
        if path.starts_with(admin::ROOT) {
            return Self::Admin(Gate::new(context));
        }
        if path == FIGURES {
            return Self::Figures(Gate::new(context), context.is_loopback);
        }
        if OPEN.contains(&path) || (PAGES.contains(&path) && context.is_loopback) {
            return Self::Open;
        }
        if PAGES.contains(&path) {
            return Self::Readers(Gate::new(context), context.doorkeeper.clone());
        }
        let asks_for_keys = context.doorkeeper.is_strict;
        if is_for_operators(path) && asks_for_keys {
            return Self::Admin(Gate::new(context));
        }
        let is_raw = path.strip_prefix(RAW).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_raw && asks_for_keys && context.raw_requests == RawRequests::Listed {
            return Self::Listed(context.doorkeeper.clone());
        }
        if OWN.contains(&path) {
            return Self::Holders(context.doorkeeper.clone());
        }
        Self::Callers(context.doorkeeper.clone())
    }

    /// The door before a path of a listener that has only the figures.
    pub(super) fn of_figures(path: &str, context: &Context) -> Self {
        if path == FIGURES { Self::Figures(Gate::new(context), true) } else { Self::Open }
    }

    /// # Errors
    /// The request may not pass.
    pub(super) fn admit(&self, request: &Request) -> Result<(), ApiError> {
        match self {
            Self::Open => Ok(()),
            Self::Admin(gate) => gate.admit(request),
            Self::Readers(gate, keeper) => gate.admit_reader(request, &keeper.ring),
            Self::Figures(gate, is_open) => gate.admit_to_figures(request, *is_open),
            Self::Callers(keeper) => keeper.admit(request, |caller, path| {
                if caller.key.may_ask(path) { Ok(()) } else { Err(not_allowed(path, "")) }
            }),
            Self::Listed(keeper) => keeper.admit(request, |caller, path| {
                let is_listed = !caller.key.allowed_endpoints.is_empty() && caller.key.may_ask(path);
                if is_listed { Ok(()) } else { Err(not_allowed(path, UNLISTED)) }
            }),
            Self::Holders(keeper) => keeper.admit(request, |_, _| Ok(())),
        }
    }

    /// Whether callers come in here, who may ask models.
    pub(super) fn is_for_callers(&self) -> bool {
        matches!(self, Self::Callers(_) | Self::Listed(_))
    }
}

/// Whether an operation that is declared at this path is one of operators, wherever keys tell them from callers: what
/// starts and stops engines, and what tells of the work of all callers.
pub(super) fn is_for_operators(path: &str) -> bool {
    let of_engine = path.strip_prefix("/api/engines/");
    of_engine.is_some_and(|rest| {
        let of_model = rest.split_once('/').map(|(_model, what)| what);
        rest == "events" || matches!(of_model, Some("log" | "load" | "unload"))
    })
}

/// Why a key does not suffice for a raw request.
const UNLISTED: &str =
    ": raw requests need a key whose `allowed_endpoints` list them, such as `/api/passthrough/*`";

fn not_allowed(path: &str, why: &str) -> ApiError {
    let message = format!("the key may not be used for {}{why}", shortened(path));
    ApiError::new(StatusCode::FORBIDDEN, "endpoint_not_allowed", message)
}

impl Doorkeeper {
    fn admit(
        &self,
        request: &Request,
        check: impl Fn(&Caller, &str) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        let caller = match self.caller(request.headers()) {
            Ok(Some(caller)) => caller,
            Ok(None) => return Ok(()),
            // Who need not show a key may show anything: clients send what they were once given.
            Err(_) if !self.is_strict => return Ok(()),
            Err(error) => return Err(error),
        };
        check(&caller, request.original_uri().path())?;
        record_of(request).comes_from(caller);
        Ok(())
    }

    /// Who calls; nobody, where nobody has to say.
    fn caller(&self, headers: &HeaderMap) -> Result<Option<Caller>, ApiError> {
        if !self.is_strict && self.ring.is_empty() {
            return Ok(None);
        }
        let Some(shown) = one_of(shown(headers, &KEY_HEADERS))? else {
            if !self.is_strict {
                return Ok(None);
            }
            let message = "an API key is needed; send it as `Authorization: Bearer …` or `x-api-key: …`";
            return Err(ApiError::unauthorized(NO_KEY, message));
        };
        self.ring.find(&Secret::shown(shown), now_ms()).map(Some).map_err(|unknown| {
            let message = match unknown {
                Unknown::NoKey => "the API key is wrong",
                Unknown::Expired => "the API key has expired",
                Unknown::Disabled => "the API key is disabled",
            };
            ApiError::unauthorized(WRONG_KEY, message)
        })
    }
}

/// Whether a request shows the secret that a key has now, and not only one that was replaced.
pub(super) fn shows_present_secret(headers: &HeaderMap, key: &Key) -> bool {
    shown(headers, &KEY_HEADERS).any(|shown| key.digest.is(&Secret::shown(shown).digest()))
}

/// The one key that is shown, be it more than once. Several would be several guesses.
///
/// # Errors
/// They are different.
pub(super) fn one_of<'h>(mut shown: impl Iterator<Item = &'h str>) -> Result<Option<&'h str>, ApiError> {
    let Some(first) = shown.next() else { return Ok(None) };
    if shown.any(|other| other != first) {
        let message = "the request shows several different keys; send one";
        return Err(ApiError::unauthorized(WRONG_KEY, message));
    }
    Ok(Some(first))
}

/// All that a request shows as a key: as a bearer, and in headers that hold nothing else.
fn shown<'h>(headers: &'h HeaderMap, alone: &'static [HeaderName]) -> impl Iterator<Item = &'h str> {
    shown_as_bearer(headers).chain(shown_alone(headers, alone))
}

/// All that a request shows as a key, of a caller or an operator.
pub(super) fn shown_by_readers(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    shown(headers, &KEY_HEADERS).chain(shown_alone(headers, &admin::KEY_HEADERS))
}

/// What a browser sends that has asked its user for a name and a password: the password.
pub(super) fn shown_as_password(headers: &HeaderMap) -> Option<String> {
    let (scheme, shown) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let shown = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(shown.trim()).ok())?;
    let shown = String::from_utf8(shown?).ok()?;
    shown.split_once(':').map(|(_name, password)| password.to_owned()).filter(|key| !key.is_empty())
}

pub(super) fn shown_as_bearer(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let bearer = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.filter(|key| !key.is_empty())
}

/// What is shown in headers that hold nothing else.
pub(super) fn shown_alone<'h>(
    headers: &'h HeaderMap,
    names: &'static [HeaderName],
) -> impl Iterator<Item = &'h str> {
    let values = names.iter().flat_map(|name| headers.get_all(name));
    values.filter_map(|value: &HeaderValue| value.to_str().ok()).filter(|key| !key.is_empty())
}
