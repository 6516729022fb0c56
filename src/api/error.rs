//! Errors for callers: the only place that chooses a status code.
//!
//! Every error of every path leaves the house as `{"error":{"message","type","param","code"}}`.

mod documented;
mod refused;
mod unknown;

pub(super) use documented::description_of;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use poem::http::header::{ALLOW, RETRY_AFTER};
use poem::http::{HeaderName, HeaderValue, StatusCode};
use poem::{IntoResponse, Response};
use poem_openapi::error::ParseParamError;
use serde_json::{Value, json};
use tokio::time::Instant;

pub(super) use self::unknown::method_not_allowed;
use super::payload::Json;
use super::standing::{self, Refused};
use crate::accounts::AccountError;
use crate::gateway::GatewayError;
use crate::llm::shortened;
use crate::prompts::PromptError;
use crate::providers::{
    ENGINE_START_FAILED, ErrorKind, INSUFFICIENT_QUOTA, ProviderError, RESTING, Rejection,
};
use crate::router::RouteError;
use crate::wire::Invalid;

/// How long a caller should wait before trying again, where nobody knows better.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A database that is away comes back in seconds, if it does.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// An error as a caller sees it.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Told>);

#[derive(Clone, Debug)]
struct Told {
    status: StatusCode,
    code: Cow<'static, str>,
    /// OpenAI's `type`, if an upstream gave one.
    kind: Option<String>,
    /// For figures: always one of ours, whatever an upstream wrote.
    label: &'static str,
    message: String,
    param: Option<String>,
    /// The upstream's own words, shown in debug mode only.
    detail: Option<String>,
    retry_after: Option<Duration>,
    /// The limit that was reached.
    refused: Option<Refused>,
    /// Whether a browser may ask its user for the key.
    asks_for_password: bool,
    allow: Option<String>,
    /// Who was asked last, and how many were asked, for the answer's headers.
    provider: Option<Arc<str>>,
    attempts: Option<u32>,
}

/// Clients wait no longer than this between two tries; they would come back too soon.
pub(super) const LONGEST_CLIENT_WAIT: Duration = Duration::from_secs(60);

impl Told {
    /// Whether clients should try again by themselves; `None` if they know best.
    fn is_worth_a_retry(&self) -> Option<bool> {
        match &*self.code {
            INSUFFICIENT_QUOTA | "budget_exhausted" | standing::REQUEST_EXCEEDS_LIMIT => Some(false),
            RESTING => Some(!self.lasts_long()),
            _ => self.lasts_long().then_some(false),
        }
    }

    fn lasts_long(&self) -> bool {
        self.retry_after.is_some_and(|wait| wait > LONGEST_CLIENT_WAIT)
    }

    /// Takes over how long whoever could answer rests, which is what the gateway keeps to, whatever an upstream has asked
    /// for. Queues and engines of its own know best when to come back to them.
    fn rests_for(&mut self, wait: Duration) {
        let is_own = self.status == StatusCode::SERVICE_UNAVAILABLE && self.code != RESTING;
        if matches!(self.status.as_u16(), 429 | 502..=504) && !is_own {
            self.retry_after = Some(wait.max(DEFAULT_RETRY_AFTER));
        }
    }
}

/// The code of the error that a response tells, for logs and figures.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorLabel(pub(super) &'static str);

/// Tells OpenAI's clients whether to try again, whatever they would do by themselves.
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

impl ErrorLabel {
    /// Whether nobody is left who could have answered, so that another try at once would meet the same.
    pub(super) fn has_tried_everyone(self) -> bool {
        self.0 == RESTING || (self.0.starts_with("upstream_") && self.0 != "upstream_rejected")
    }
}

impl ApiError {
    /// An error with one of our codes.
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Told {
            status,
            code: code.into(),
            kind: None,
            label: code,
            message: message.into(),
            param: None,
            detail: None,
            retry_after: None,
            refused: None,
            asks_for_password: false,
            allow: None,
            provider: None,
            attempts: None,
        }))
    }

    /// A request that is at fault.
    pub(super) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", message).param(param)
    }

    pub(super) fn param(mut self, param: impl Into<String>) -> Self {
        // It may hold a caller's own word.
        self.0.param = Some(shortened(&param.into()).into_owned());
        self
    }

    /// Names the place as the caller of this endpoint knows it.
    pub(super) fn with_param_named(mut self, known: &str, here: &str) -> Self {
        if self.0.param.as_deref() == Some(known) {
            self.0.param = Some(here.to_owned());
        }
        self
    }

    /// Names the text from which the refused messages were made, if that is where the fault lies.
    pub(super) fn at_text(mut self, place: &str) -> Self {
        let told = &mut self.0;
        let is_fault_of_text = match told.param.as_deref() {
            Some(param) => param == "messages" || param.starts_with("messages["),
            // An upstream that refuses a request without saying where can only mean what was said: the rest was checked.
            None => told.label == "upstream_rejected" && matches!(told.status.as_u16(), 400 | 413 | 422),
        };
        if is_fault_of_text {
            told.param = Some(place.to_owned());
        }
        self
    }

    /// With the number of deployments that were asked in all, where others were asked besides the one that failed.
    pub(super) fn with_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = self.0.attempts.map(|_| attempts);
        self
    }

    pub(super) fn allow(mut self, methods: &str) -> Self {
        self.0.allow = Some(methods.to_owned());
        self
    }

    fn upstream_code(mut self, code: Option<String>) -> Self {
        if let Some(code) = code {
            self.0.code = code.into();
        }
        self
    }

    pub(super) fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    fn detail(mut self, detail: Option<&str>) -> Self {
        self.0.detail = detail.map(str::to_owned);
        self
    }

    /// The code for figures.
    pub(super) fn label(&self) -> &'static str {
        self.0.label
    }

    /// The process is about to end.
    pub(super) fn draining() -> Self {
        let message = "the service is shutting down; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message).retry_after(Some(DEFAULT_RETRY_AFTER))
    }

    /// Keys and usage cannot be asked for or changed.
    pub(super) fn no_store(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message);
        error.retry_after(Some(STORE_RETRY_AFTER))
    }

    /// Something of ours broke. What it was is in the log.
    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the gateway failed; this is a fault of its own",
        )
    }

    /// Whatever poem raises by itself.
    pub(super) fn from_poem(error: &poem::Error) -> Self {
        if let Some(error) = error.downcast_ref::<Self>() {
            return error.clone();
        }
        if let Some(ParseParamError { name, .. }) = error.downcast_ref() {
            return Self::invalid(name, format!("`{name}` is not what it has to be"));
        }
        match error.status() {
            StatusCode::NOT_FOUND => {
                Self::new(StatusCode::NOT_FOUND, "unknown_path", "there is nothing at this path")
            }
            StatusCode::METHOD_NOT_ALLOWED => method_not_allowed(),
            status if status.is_client_error() => {
                Self::new(status, "invalid_value", "the request cannot be read")
            }
            _ => Self::internal(),
        }
    }

    /// The `error` object.
    pub(super) fn body(&self, in_debug: bool) -> Value {
        let told = &self.0;
        let mut error = json!({
            "message": told.message,
            "type": told.kind.as_deref().unwrap_or_else(|| told.usual_kind()),
            "param": told.param,
            "code": told.code,
        });
        if let (true, Some(detail), Some(error)) = (in_debug, &told.detail, error.as_object_mut()) {
            error.insert("detail".into(), detail.as_str().into());
        }
        json!({ "error": error })
    }

    /// The whole answer.
    pub(super) fn respond(&self, in_debug: bool) -> Response {
        let told = &self.0;
        let mut response = Json(self.body(in_debug)).into_response();
        response.set_status(told.status);
        response.extensions_mut().insert(ErrorLabel(told.label));
        if let Some(refused) = told.refused {
            response.extensions_mut().insert(refused);
        }
        let headers = response.headers_mut();
        let wait = match (told.retry_after, told.status) {
            (None, StatusCode::SERVICE_UNAVAILABLE) => Some(DEFAULT_RETRY_AFTER),
            (wait, _) => wait,
        };
        if let Some(wait) = wait {
            // Whole seconds, and never too few.
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)),
            );
        }
        if told.status == StatusCode::UNAUTHORIZED {
            refused::add_challenges(headers, told.asks_for_password);
        }
        if let Some(worth) = told.is_worth_a_retry() {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static(if worth { "true" } else { "false" }));
        }
        if let Some(provider) = told.provider.as_ref().and_then(|name| HeaderValue::from_str(name).ok()) {
            headers.insert("x-llm-provider", provider);
        }
        if let Some(attempts) = told.attempts {
            headers.insert("x-llm-attempts", HeaderValue::from(attempts));
        }
        if let Some(allow) = told.allow.as_ref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

impl Told {
    /// OpenAI's `type`, which follows from the status.
    fn usual_kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 if matches!(&*self.code, INSUFFICIENT_QUOTA | "budget_exhausted") => INSUFFICIENT_QUOTA,
            429 => "rate_limit_error",
            502 | 504 => "upstream_error",
            503 => "overloaded_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl std::error::Error for ApiError {}

impl poem::error::ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        self.0.status
    }

    fn as_response(&self) -> Response {
        self.respond(false)
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, invalid.code, invalid.message);
        match invalid.param {
            Some(param) => error.param(param),
            None => error,
        }
    }
}

impl From<PromptError> for ApiError {
    fn from(error: PromptError) -> Self {
        let message = error.to_string();
        let bad = |code| Self::new(StatusCode::BAD_REQUEST, code, message.clone());
        match error {
            PromptError::Unknown { .. } | PromptError::UnknownLabel { .. } => {
                Self::new(StatusCode::NOT_FOUND, "prompt_not_found", message).param("prompt")
            }
            PromptError::NotTranslated { .. } => {
                Self::new(StatusCode::NOT_FOUND, "prompt_not_found", message).param("language")
            }
            PromptError::MissingVariable { variable, .. } => {
                bad("prompt_variable_missing").param(format!("variables.{variable}"))
            }
            PromptError::InvalidVariable { variable, .. } => {
                bad("invalid_value").param(format!("variables.{variable}"))
            }
            PromptError::TooLarge(_) | PromptError::Failed { .. } => bad("invalid_value").param("variables"),
        }
    }
}

impl From<ProviderError> for ApiError {
    /// The error in the place of the rest of an answer keeps what the upstream says of it.
    fn from(error: ProviderError) -> Self {
        let mut api = Self::from(&error);
        if let Some(reported) = error.reported {
            api = api.upstream_code(reported.code);
            (api.0.message, api.0.kind) = (reported.message, reported.kind);
        }
        api
    }
}

impl From<&ProviderError> for ApiError {
    fn from(error: &ProviderError) -> Self {
        // Who and what, without the upstream's own words.
        let message = error.to_string();
        let bad_gateway = |code| Self::new(StatusCode::BAD_GATEWAY, code, message.clone());
        let unavailable = |code, wait| {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message.clone()).retry_after(Some(wait))
        };
        let told = match &error.kind {
            ErrorKind::Unreachable => bad_gateway("upstream_unreachable"),
            ErrorKind::Timeout(_) | ErrorKind::Overdue(_) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message)
            }
            ErrorKind::RateLimited { retry_after, rejection } => {
                rate_limited(rejection).retry_after(Some(retry_after.unwrap_or(DEFAULT_RETRY_AFTER)))
            }
            ErrorKind::Unavailable { retry_after, .. } => {
                bad_gateway("upstream_unavailable").retry_after(*retry_after)
            }
            ErrorKind::Unauthorized { .. } => bad_gateway("upstream_credentials"),
            ErrorKind::Forbidden(rejection) => {
                Self::new(StatusCode::FORBIDDEN, "upstream_forbidden", &rejection.message)
            }
            ErrorKind::Rejected(rejection) | ErrorKind::Untranslatable(rejection) => rejected(rejection),
            ErrorKind::ContextTooLong { message, .. } => {
                Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message).param("messages")
            }
            ErrorKind::Overloaded { code, retry_after } => unavailable(code, *retry_after),
            ErrorKind::CoolingDown(it) => unavailable(RESTING, it.retry_after.max(DEFAULT_RETRY_AFTER)),
            ErrorKind::PortTaken { retry_after, .. } => unavailable(ENGINE_START_FAILED, *retry_after),
            ErrorKind::Protocol(_) | ErrorKind::EngineCrashed => bad_gateway("upstream_protocol"),
            ErrorKind::Unsupported(_) => {
                Self::new(StatusCode::BAD_REQUEST, "unsupported_by_provider", message)
            }
        };
        told.detail(error.detail.as_deref())
    }
}

fn rate_limited(rejection: &Rejection) -> ApiError {
    let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", &rejection.message);
    // Other words for "too many requests" say no more; this one says that waiting does not help.
    error.upstream_code(rejection.code.clone().filter(|code| code == INSUFFICIENT_QUOTA))
}

fn rejected(rejection: &Rejection) -> ApiError {
    let status = StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST);
    let code = if status == StatusCode::NOT_FOUND { "model_not_found" } else { "upstream_rejected" };
    let mut error = ApiError::new(status, code, &rejection.message).upstream_code(rejection.code.clone());
    error.0.label = "upstream_rejected";
    match &rejection.param {
        Some(param) => error.param(param),
        None => error,
    }
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        let provider = error.source.provider.clone();
        let mut told = Self::from(&*error.source);
        told.0.provider = Some(provider);
        told.0.attempts = Some(error.attempts);
        if let Some(back_at) = error.back_at {
            told.0.rests_for(back_at.saturating_duration_since(Instant::now()));
        }
        told
    }
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        let message = error.to_string();
        match error {
            GatewayError::UnknownModel { .. } => {
                Self::new(StatusCode::NOT_FOUND, "model_not_found", message).param("model")
            }
            // No status that clients answer by asking again: the model is off until somebody switches it on.
            GatewayError::Off(_) => {
                Self::new(StatusCode::NOT_FOUND, "model_disabled", message).param("model")
            }
            // Nor of this one: it stays so until somebody changes its score.
            GatewayError::Nobody(_) => {
                Self::new(StatusCode::NOT_FOUND, "model_unavailable", message).param("model")
            }
            GatewayError::UnknownProvider(_) => {
                Self::new(StatusCode::NOT_FOUND, "provider_not_found", message).param("provider")
            }
            GatewayError::NotAllowed(_) => {
                Self::new(StatusCode::FORBIDDEN, "model_not_allowed", message).param("model")
            }
            GatewayError::ModelUntold(doubt) => {
                Self::new(StatusCode::FORBIDDEN, "model_not_allowed", message).param(doubt.param())
            }
            GatewayError::PriceUnknown => Self::new(StatusCode::FORBIDDEN, "price_unknown", message),
            GatewayError::Refused(refusal) => standing::refused(&refusal),
            GatewayError::Prompt(error) => error.into(),
            GatewayError::Route(error) => error.into(),
            GatewayError::Provider(error) => (*error).into(),
        }
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        let message = error.to_string();
        match error {
            AccountError::NoSuchKey => Self::new(StatusCode::NOT_FOUND, "key_not_found", message),
            AccountError::Invalid { param, .. } => Self::invalid(&param, message),
            AccountError::Store(_) | AccountError::Busy => Self::no_store(message),
            AccountError::NoChance | AccountError::Unfinished => {
                tracing::error!(%error, "A change of keys failed");
                Self::internal()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::CoolingDown;

    fn told(kind: ErrorKind) -> (u16, Value) {
        let provider: Arc<str> = "p".into();
        let error = ApiError::from(ProviderError::new(&provider, kind).with_detail("its own words"));
        (error.0.status.as_u16(), error.body(false))
    }

    #[expect(clippy::unnecessary_box_returns, reason = "that is what the kinds hold")]
    fn rejection(status: u16, code: Option<&str>) -> Box<Rejection> {
        Box::new(Rejection { status, message: "no".to_owned(), code: code.map(str::to_owned), param: None })
    }

    #[test]
    fn failures_of_upstreams_have_their_status_type_and_code() {
        let wait = Some(Duration::from_secs(2));
        let too_long = ErrorKind::ContextTooLong {
            needed_tokens: None,
            context_tokens: None,
            message: "long".to_owned(),
        };
        for (kind, status, error_type, code) in [
            (ErrorKind::Unreachable, 502, "upstream_error", "upstream_unreachable"),
            (ErrorKind::Timeout(Duration::from_secs(1)), 504, "upstream_error", "upstream_timeout"),
            (ErrorKind::Overdue(Duration::from_secs(1)), 504, "upstream_error", "upstream_timeout"),
            (
                ErrorKind::RateLimited { retry_after: wait, rejection: rejection(429, Some("x")) },
                429,
                "rate_limit_error",
                "rate_limit_exceeded",
            ),
            (
                ErrorKind::RateLimited {
                    retry_after: None,
                    rejection: rejection(429, Some("insufficient_quota")),
                },
                429,
                "insufficient_quota",
                "insufficient_quota",
            ),
            (
                ErrorKind::Unavailable { status: 503, retry_after: None },
                502,
                "upstream_error",
                "upstream_unavailable",
            ),
            (
                ErrorKind::CoolingDown(
                    CoolingDown { said: None, ago: Duration::ZERO, retry_after: Duration::ZERO }.into(),
                ),
                503,
                "overloaded_error",
                "all_deployments_cooling",
            ),
            (ErrorKind::Unauthorized { status: 401 }, 502, "upstream_error", "upstream_credentials"),
            (ErrorKind::Forbidden(rejection(403, Some("x"))), 403, "permission_error", "upstream_forbidden"),
            (ErrorKind::Rejected(rejection(404, None)), 404, "not_found_error", "model_not_found"),
            (ErrorKind::Rejected(rejection(422, Some("bad"))), 422, "invalid_request_error", "bad"),
            (too_long, 400, "invalid_request_error", "context_length_exceeded"),
            (ErrorKind::Protocol("x".to_owned()), 502, "upstream_error", "upstream_protocol"),
            (ErrorKind::EngineCrashed, 502, "upstream_error", "upstream_protocol"),
            (
                ErrorKind::PortTaken { port: 81, retry_after: Duration::from_secs(1) },
                503,
                "overloaded_error",
                "engine_start_failed",
            ),
            (ErrorKind::Unsupported("x"), 400, "invalid_request_error", "unsupported_by_provider"),
        ] {
            let (told_status, body) = told(kind);
            assert_eq!(told_status, status, "{code}");
            assert_eq!((&body["error"]["type"], &body["error"]["code"]), (&json!(error_type), &json!(code)));
            assert_eq!(body["error"].get("detail"), None);
        }
    }

    #[test]
    fn details_show_in_debug_mode_only() {
        let error = ApiError::from(
            ProviderError::new(&"p".into(), ErrorKind::Unreachable).with_detail("its own words"),
        );
        assert_eq!(error.body(true)["error"]["detail"], "its own words");
        assert!(!error.body(false).to_string().contains("its own words"));
    }

    #[test]
    fn faults_of_accounts_have_their_status_and_code() {
        let invalid = AccountError::Invalid { param: "limits".to_owned(), message: "no".to_owned() };
        for (error, status, code, param) in [
            (AccountError::NoSuchKey, 404, "key_not_found", Value::Null),
            (invalid, 400, "invalid_value", json!("limits")),
            (AccountError::Busy, 503, "store_unavailable", Value::Null),
            (AccountError::Unfinished, 500, "internal_error", Value::Null),
        ] {
            let told = ApiError::from(error);
            assert_eq!(told.respond(false).headers().contains_key(RETRY_AFTER), status == 503, "{code}");
            let body = told.body(false);
            assert_eq!(
                (told.0.status.as_u16(), &body["error"]["code"], &body["error"]["param"]),
                (status, &json!(code), &param)
            );
        }
    }

    #[test]
    fn waits_are_whole_seconds_and_503_always_has_one() {
        let header = |error: &ApiError| error.respond(false).headers().get(RETRY_AFTER).cloned();
        let limited = |wait| {
            let kind = ErrorKind::RateLimited { retry_after: Some(wait), rejection: rejection(429, None) };
            ApiError::from(ProviderError::new(&"p".into(), kind))
        };
        assert_eq!(header(&limited(Duration::from_millis(1200))), Some(HeaderValue::from(2)));
        assert_eq!(header(&limited(Duration::ZERO)), Some(HeaderValue::from(0)));
        assert_eq!(header(&ApiError::draining()), Some(HeaderValue::from(1)));
        assert_eq!(header(&ApiError::internal()), None);
    }
}
