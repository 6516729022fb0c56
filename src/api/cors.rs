//! Calls from pages: allowed for own ones and where the operator says so, refused for others.
//!
//! Any page that its user opens can make the browser send a request to a service on the same machine, and the service
//! adds the provider's key to it. The page may not read the answer, but the request has been made, and paid for.

use std::sync::Arc;

use poem::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use poem::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use poem::{Addr, Endpoint, Request, Response};

use super::context::Context;
use super::error::ApiError;
use super::host::Host;
use super::{door, guards};

/// What a browser says of who has it send a request. No page can change these.
static FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
static FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// What is made to be looked at by people.
const PAGES: [&str; 2] = ["/", "/docs"];

/// Adds what browsers ask for.
pub(super) struct Cors<E> {
    inner: E,
    context: Arc<Context>,
}

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
/// Headers of ours that a browser would hide otherwise.
const EXPOSED: &str = "x-request-id, x-llm-provider, x-llm-model, x-llm-attempts, x-llm-variant, x-llm-prompt, \
    x-llm-ignored-options, server-timing, retry-after, x-should-retry, \
    x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

impl<E> Cors<E> {
    pub(super) fn new(inner: E, context: Arc<Context>) -> Self {
        Self { inner, context }
    }

    /// What to allow for a request, if anything.
    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        self.context.pages.allows(origin.to_str().ok()?).then(|| origin.clone())
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

/// Which pages may call.
#[derive(Debug)]
pub(super) struct Pages {
    /// Those of other sites that the operator allows: `*`, or origins.
    origins: Vec<String>,
    /// Whether requests are served without a key.
    is_keyless: bool,
    /// Whether only this machine reaches the listeners.
    is_loopback: bool,
}

impl Pages {
    pub(super) fn new(origins: Vec<String>, is_keyless: bool, is_loopback: bool) -> Self {
        Self { origins, is_keyless, is_loopback }
    }

    fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == "*" || allowed == origin)
    }

    /// Why a request is refused: a page has sent it, or may have, that is not to call.
    pub(super) fn refusal(&self, request: &Request, host: Option<&Host<'_>>) -> Option<ApiError> {
        let headers = request.headers();
        let mut origins = headers.get_all(ORIGIN).iter();
        let origin = origins.next();
        if origins.next().is_some() {
            return Some(ApiError::foreign_page());
        }
        if host.is_some_and(|host| self.is_foreign_name(request, host)) {
            return Some(ApiError::foreign_name());
        }
        let origin = origin.map(|origin| origin.to_str().unwrap_or_default());
        if origin.is_some_and(|origin| self.allows(origin)) {
            return None;
        }
        let is_foreign = origin.is_some_and(|origin| {
            (self.is_keyless || !only_reads(request)) && host.is_none_or(|host| !is_origin_of(origin, host))
        });
        (is_foreign || self.is_keyless && !is_sent_from_here(request)).then(ApiError::foreign_page)
    }

    /// Whether the name may be one that was made to lead here. No name leads a browser to a unix socket.
    fn is_foreign_name(&self, request: &Request, host: &Host<'_>) -> bool {
        let is_allowed = |allowed: &String| {
            allowed == "*" || authority_of(allowed).is_some_and(|allowed| host.is_same_as(&allowed))
        };
        self.is_loopback
            && (self.is_keyless || door::is_page(request.uri().path()))
            && !host.is_this_machine()
            && matches!(**request.local_addr(), Addr::SocketAddr(_))
            && !self.origins.iter().any(is_allowed)
    }
}

fn authority_of(origin: &str) -> Option<Host<'_>> {
    Host::parsed(origin.split_once("://")?.1)
}

fn is_origin_of(origin: &str, host: &Host<'_>) -> bool {
    origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host.as_str()))
}

/// A provider may do anything on a GET, and is sent its key.
fn only_reads(request: &Request) -> bool {
    match *request.method() {
        Method::OPTIONS => true,
        Method::GET | Method::HEAD => !is_raw(request),
        _ => false,
    }
}

/// Whether a request is for a provider, as it comes.
pub(super) fn is_raw(request: &Request) -> bool {
    request.uri().path().contains("/passthrough")
}

/// Whether a browser, if one sends the request, sends it for a page of this service or for its user. Images, scripts and
/// frames of other sites are asked for without an `Origin`.
fn is_sent_from_here(request: &Request) -> bool {
    request.headers().get_all(&FETCH_SITE).iter().all(|site| match site.as_bytes() {
        b"same-origin" => true,
        // An address that was typed in, a bookmark, or a link in another program.
        b"none" => !is_raw(request),
        _ => is_visit(request),
    })
}

/// Whether a link of another site leads to a page of this one, which does nothing.
fn is_visit(request: &Request) -> bool {
    let says = |name: &HeaderName, value: &str| request.headers().get(name).is_some_and(|said| said == value);
    *request.method() == Method::GET
        && PAGES.contains(&request.uri().path())
        && says(&FETCH_MODE, "navigate")
        && says(&FETCH_DEST, "document")
}

fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::default();
    response.set_status(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    guards::add_headers(headers, false);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    if let Some(wanted) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use poem::http::header::HOST;
    use poem::web::{LocalAddr, RemoteAddr};

    use super::*;

    const EVIL: &str = "https://evil.example";
    const KEYLESS: (bool, bool) = (true, true);

    /// The code of the refusal of a request with these headers, to a listener on this machine.
    fn refused(
        (is_keyless, is_loopback): (bool, bool),
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
    ) -> Option<&'static str> {
        let pages = Pages::new(vec!["https://app.example".to_owned()], is_keyless, is_loopback);
        let request =
            headers.iter().fold(poem::http::Request::builder().uri(path), |request, (name, value)| {
                request.header(*name, *value)
            });
        let (parts, ()) = request.method(method).body(()).unwrap().into_parts();
        let local = LocalAddr(Addr::SocketAddr(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))));
        let parts = (parts, local, RemoteAddr::default(), poem::http::uri::Scheme::HTTP).into();
        let request = Request::from_parts(parts, poem::Body::empty());
        let host = Host::of(&request).unwrap();
        pages.refusal(&request, host.as_ref()).map(|error| error.label())
    }

    fn post(mode: (bool, bool), origin: Option<&str>, host: &str) -> Option<&'static str> {
        let origin = origin.map(|origin| ("origin", origin));
        let headers: Vec<_> = std::iter::once((HOST.as_str(), host)).chain(origin).collect();
        refused(mode, (Method::POST, "/api/chat"), &headers)
    }

    #[test]
    fn requests_of_programs_and_of_own_pages_pass() {
        for (origin, host) in [
            (None, "127.0.0.1:8080"),
            (Some("http://127.0.0.1:8080"), "127.0.0.1:8080"),
            (Some("http://[::1]:8080"), "[::1]:8080"),
            (Some("http://localhost:8080"), "localhost:8080"),
            (Some("http://llm.localhost"), "llm.localhost"),
            (Some("https://app.example"), "127.0.0.1:8080"),
            // The operator's own name for it, such as that of a web server in front.
            (Some("https://app.example"), "app.example"),
            (None, "app.example:443"),
        ] {
            assert_eq!(post(KEYLESS, origin, host), None, "{origin:?} {host}");
        }
        // Where others are to reach it, it has a name.
        for mode in [(true, false), (false, true), (false, false)] {
            assert_eq!(post(mode, Some("https://llm.example"), "llm.example"), None, "{mode:?}");
            assert_eq!(post(mode, Some(EVIL), "llm.example"), Some("origin_not_allowed"), "{mode:?}");
        }
    }

    #[test]
    fn requests_of_other_pages_do_not() {
        for (origin, host, code) in [
            (Some(EVIL), "127.0.0.1:8080", "origin_not_allowed"),
            (Some("null"), "127.0.0.1:8080", "origin_not_allowed"),
            (Some("http://localhost:3000"), "localhost:8080", "origin_not_allowed"),
            // A name that was made to lead here.
            (Some("http://evil.example:8080"), "evil.example:8080", "host_not_allowed"),
            (None, "evil.example", "host_not_allowed"),
            (None, "app.example:8080", "host_not_allowed"),
            (None, "127.0.0.1.evil.example", "host_not_allowed"),
        ] {
            assert_eq!(post(KEYLESS, origin, host), Some(code), "{origin:?} {host}");
        }
    }

    #[test]
    fn two_origins_are_never_believed() {
        let own = ("origin", "http://localhost");
        for mode in [KEYLESS, (false, false)] {
            let headers = [("host", "localhost"), own, ("origin", EVIL)];
            assert_eq!(refused(mode, (Method::GET, "/"), &headers), Some("origin_not_allowed"));
        }
    }

    #[test]
    fn what_a_browser_asks_for_in_the_name_of_another_site_is_refused_whatever_it_is() {
        let raw = "/api/passthrough/p/x";
        for (method, path, site, passes) in [
            (Method::GET, "/api/tags", "same-origin", true),
            (Method::POST, "/api/chat", "same-origin", true),
            (Method::GET, "/api/tags", "none", true),
            (Method::GET, raw, "same-origin", true),
            (Method::GET, raw, "none", false),
            (Method::POST, "/api/passthrough", "none", false),
            (Method::GET, raw, "cross-site", false),
            (Method::GET, "/api/tags", "cross-site", false),
            (Method::HEAD, "/metrics", "same-site", false),
            (Method::OPTIONS, "/api/chat", "cross-site", false),
            (Method::DELETE, "/admin/keys/x", "cross-site", false),
            (Method::GET, "/api/tags", "", false),
            (Method::GET, "/docs", "cross-site", false),
        ] {
            let headers = [("host", "localhost:8080"), ("sec-fetch-site", site)];
            let code = refused(KEYLESS, (method.clone(), path), &headers);
            assert_eq!(code.is_none(), passes, "{method} {path} {site}");
            // With keys a page has none to show.
            assert_eq!(refused((false, false), (method, path), &headers), None);
        }
    }

    #[test]
    fn a_link_leads_to_a_page_and_to_nothing_else() {
        let ask = |path, dest| {
            let headers = [
                ("host", "localhost"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", dest),
            ];
            refused(KEYLESS, (Method::GET, path), &headers)
        };
        assert_eq!([ask("/docs", "document"), ask("/", "document")], [None, None]);
        for (path, dest) in [("/docs", "iframe"), ("/openapi.json", "document"), ("/api/tags", "document")] {
            assert_eq!(ask(path, dest), Some("origin_not_allowed"), "{path} {dest}");
        }
    }

    #[test]
    fn a_page_that_may_call_may_do_so_by_every_method() {
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let headers = [
                ("host", "127.0.0.1:8080"),
                ("origin", "https://app.example"),
                ("sec-fetch-site", "cross-site"),
            ];
            assert_eq!(refused(KEYLESS, (method, "/api/passthrough/p/x"), &headers), None);
        }
    }

    #[test]
    fn with_keys_a_request_that_only_reads_is_answered() {
        let headers = [("host", "x"), ("origin", EVIL)];
        assert_eq!(refused((false, true), (Method::GET, "/api/tags"), &headers), None);
        let raw = (Method::GET, "/api/passthrough/p/x");
        assert_eq!(refused((false, true), raw, &headers), Some("origin_not_allowed"));
    }
}
