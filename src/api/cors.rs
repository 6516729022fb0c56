//! Calls from pages of other sites: allowed where the operator says so, refused where they would do something.
//!
//! Any page that its user opens can make the browser send a request to a service on the same machine, and the service
//! adds the provider's key to it. The page may not read the answer, but the request has been made, and paid for.

use std::net::IpAddr;

use poem::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use poem::http::uri::Authority;
use poem::http::{HeaderMap, HeaderValue, Method, StatusCode};
use poem::{Endpoint, Request, Response};

/// Adds what browsers ask for.
pub(super) struct Cors<E> {
    inner: E,
    origins: Vec<String>,
}

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
/// Headers of ours that a browser would hide otherwise.
const EXPOSED: &str = "x-request-id, x-llm-provider, x-llm-model, x-llm-attempts, x-llm-variant, x-llm-prompt, \
    x-llm-ignored-options, server-timing, retry-after, x-should-retry";

impl<E> Cors<E> {
    pub(super) fn new(inner: E, origins: Vec<String>) -> Self {
        Self { inner, origins }
    }

    /// What to allow for a request, if anything.
    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.origins.iter().any(|allowed| allowed == "*" || allowed == text).then(|| origin.clone())
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Cors<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let Some(origin) = self.allowed(request.headers()) else { return self.inner.call(request).await };
        let is_preflight = request.method() == Method::OPTIONS
            && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let mut response =
            if is_preflight { preflight(request.headers()) } else { self.inner.call(request).await? };
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        headers.append(VARY, HeaderValue::from_static("origin"));
        Ok(response)
    }
}

/// Whether a page sends the request that has no business here, and the request would do something.
pub(super) fn is_foreign(request: &Request, origins: &[String], is_local: bool) -> bool {
    let only_reads = match *request.method() {
        Method::OPTIONS => true,
        // A provider may do anything on a GET, and is sent its key.
        Method::GET | Method::HEAD => !request.uri().path().contains("/passthrough/"),
        _ => false,
    };
    if only_reads {
        return false;
    }
    let headers = request.headers();
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let origin = origin.to_str().unwrap_or_default();
    if origins.iter().any(|allowed| allowed == "*" || allowed == origin) {
        return false;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.original_uri().authority().map(Authority::as_str)).unwrap_or_default();
    let of_origin = origin.split_once("://").map_or("", |(_, rest)| rest);
    // A name of the attacker's may be made to lead here, and then the page and the service have the same one.
    !of_origin.eq_ignore_ascii_case(host) || (is_local && !is_name_of_this_machine(host))
}

fn is_name_of_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::default();
    response.set_status(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    if let Some(wanted) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(origin: Option<&str>, host: &str, is_local: bool) -> bool {
        let mut request = Request::builder().method(Method::POST).header(HOST, host);
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        is_foreign(&request.finish(), &["https://app.example".to_owned()], is_local)
    }

    #[test]
    fn requests_of_programs_and_of_own_pages_pass() {
        for (origin, host) in [
            (None, "evil.example"),
            (Some("http://127.0.0.1:8080"), "127.0.0.1:8080"),
            (Some("http://[::1]:8080"), "[::1]:8080"),
            (Some("http://localhost:8080"), "localhost:8080"),
            (Some("http://llm.localhost"), "llm.localhost"),
            (Some("https://app.example"), "127.0.0.1:8080"),
        ] {
            assert!(!foreign(origin, host, true), "{origin:?} {host}");
        }
        // Where others are to reach it, it has a name.
        assert!(!foreign(Some("https://llm.example"), "llm.example", false));
    }

    #[test]
    fn requests_of_other_pages_do_not() {
        for (origin, host) in [
            ("https://evil.example", "127.0.0.1:8080"),
            ("null", "127.0.0.1:8080"),
            ("http://localhost:3000", "localhost:8080"),
            // A name that was made to lead here.
            ("http://evil.example:8080", "evil.example:8080"),
            ("http://evil.example", "evil.example"),
            ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example"),
        ] {
            assert!(foreign(Some(origin), host, true), "{origin} {host}");
        }
        assert!(foreign(Some("https://evil.example"), "llm.example", false));
    }

    #[test]
    fn a_request_that_does_nothing_is_answered() {
        let request = Request::builder().header(ORIGIN, "https://evil.example").finish();
        assert!(!is_foreign(&request, &[], true));
        let request =
            Request::builder().uri_str("/api/passthrough/p/x").header(ORIGIN, "https://evil.example");
        assert!(is_foreign(&request.finish(), &[], true));
    }
}
