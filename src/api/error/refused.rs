//! Refusals for who asks, or from where, or for a limit: whatever the request itself is.

use poem::http::header::WWW_AUTHENTICATE;
use poem::http::{HeaderMap, HeaderValue, StatusCode};

use super::ApiError;
use crate::api::standing::Refused;

/// What makes a browser ask its user for a key.
const PASSWORD: &str = "Basic realm=\"llm-proxy-api: a key as the password\", charset=\"UTF-8\"";

/// How a key is to be shown; `by_password`: a browser may ask its user for one.
pub(super) fn add_challenges(headers: &mut HeaderMap, by_password: bool) {
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    if by_password {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(PASSWORD));
    }
}

impl ApiError {
    /// A page of another site sent this.
    pub(in crate::api) fn foreign_page() -> Self {
        let message =
            "pages of this site may not call; the operator can allow it in LLM_PROXY_API_CORS_ORIGINS";
        Self::new(StatusCode::FORBIDDEN, "origin_not_allowed", message)
    }

    /// The name in the request may be one that a page of another site has made to lead here.
    pub(in crate::api) fn foreign_name() -> Self {
        let message = "this service is asked by the names of this machine only, such as localhost; the operator can allow \
            another one in LLM_PROXY_API_CORS_ORIGINS";
        Self::new(StatusCode::FORBIDDEN, "host_not_allowed", message)
    }

    /// Who asks has no key, or not the right one.
    pub(in crate::api) fn unauthorized(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }

    /// The same for a page that people open in a browser, which asks them for a password.
    pub(in crate::api) fn or_password(mut self) -> Self {
        self.0.asks_for_password = true;
        self
    }

    /// The key of a request was disabled or deleted while its answer was under way.
    pub(in crate::api) fn revoked_key() -> Self {
        Self::unauthorized("invalid_api_key", "the API key has been disabled or deleted")
    }

    /// For a limit or a budget that was reached.
    pub(in crate::api) fn refused(mut self, refused: Option<Refused>) -> Self {
        self.0.refused = refused;
        self
    }
}
