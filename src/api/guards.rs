//! Headers that keep browsers from taking an answer for something else than it is.

use poem::http::header::{CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use poem::http::{HeaderMap, HeaderValue};

static NO_GUESSING: HeaderValue = HeaderValue::from_static("nosniff");
/// What an upstream sends is no page of this site, whatever it says it is.
static SANDBOX: HeaderValue = HeaderValue::from_static("sandbox");

/// Adds them; more for an answer that comes from an upstream as it is.
pub(super) fn add_headers(headers: &mut HeaderMap, is_raw: bool) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_GUESSING.clone());
    if is_raw {
        headers.insert(CONTENT_SECURITY_POLICY, SANDBOX.clone());
    }
}
