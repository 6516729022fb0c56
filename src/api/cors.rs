//! Calls from browsers on other sites, where the operator allows them.

use poem::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use poem::http::{HeaderMap, HeaderValue, Method, StatusCode};
use poem::{Endpoint, Request, Response};

/// Adds what browsers ask for. A request from a site that is not allowed is answered as any other,
/// and its browser keeps the answer from the site.
pub(super) struct Cors<E> {
    inner: E,
    origins: Vec<String>,
}

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
/// Headers of ours that a browser would hide otherwise.
const EXPOSED: &str = "x-request-id, x-llm-provider, x-llm-model, x-llm-attempts, x-llm-prompt, \
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
