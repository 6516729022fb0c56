//! Which headers of a raw answer go on to the caller: those of this list, and those that the provider's `raw_headers` add.
//!
//! An upstream must not speak to a web server in front of the gateway (`x-accel-redirect`, `x-sendfile`), or to the caller's
//! browser about this host.

use poem::http::header::CONNECTION;
use poem::http::{HeaderMap, HeaderName, HeaderValue};

use crate::callers::matches;

/// What an answer needs to be understood, kept and asked for again.
const PASSING: &[&str] = &[
    "accept-ranges",
    "cache-control",
    "content-digest",
    "content-disposition",
    "content-language",
    "content-length",
    "content-md5",
    "content-range",
    "content-type",
    "etag",
    "expires",
    "last-modified",
    "openai-model",
    "openai-processing-ms",
    "openai-version",
    "retry-after",
    "retry-after-ms",
    "vary",
    "x-should-retry",
];
/// Beginnings of headers that tell limits.
const LIMITS: &[&str] = &["x-ratelimit-", "anthropic-ratelimit-"];
/// The header with the upstream's own request id; ours has the usual name.
const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-upstream-request-id");
const REQUEST_IDS: &[&str] = &["x-request-id", "request-id"];

/// The headers of an answer that go on. `more` are patterns of further ones.
pub(super) fn passing(answer: &HeaderMap, more: &[String]) -> HeaderMap {
    let of_connection = named_by_connection(answer);
    let goes_on = |name: &str| {
        let is_listed = PASSING.contains(&name) || LIMITS.iter().any(|beginning| name.starts_with(beginning));
        let is_added =
            || more.iter().any(|pattern| matches(pattern, name)) && !crate::config::is_kept_header(name);
        (is_listed || is_added()) && !of_connection.iter().any(|other| other.eq_ignore_ascii_case(name))
    };
    let mut passing = HeaderMap::new();
    for (name, value) in answer.iter().filter(|(name, _)| goes_on(name.as_str())) {
        passing.append(name, value.clone());
    }
    if let Some(id) = REQUEST_IDS.iter().find_map(|name| answer.get(*name)).filter(|id| is_sane(id)) {
        passing.insert(UPSTREAM_REQUEST_ID, id.clone());
    }
    passing
}

fn is_sane(id: &HeaderValue) -> bool {
    id.len() <= 200 && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// Headers that the upstream says are for its own connection.
fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let lists = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(|name| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(more: &[&str], answer: &[(&'static str, &'static str)]) -> Vec<String> {
        let more: Vec<String> = more.iter().map(|pattern| (*pattern).to_owned()).collect();
        let pairs = answer
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut names: Vec<String> =
            passing(&pairs.collect(), &more).keys().map(ToString::to_string).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn only_headers_of_the_list_go_on() {
        let answer = [
            ("content-type", "text/html"),
            ("x-ratelimit-remaining-tokens", "1"),
            ("anthropic-ratelimit-requests-limit", "1"),
            ("request-id", "req_1"),
            ("x-accel-redirect", "/etc"),
            ("x-sendfile", "/etc"),
            ("clear-site-data", "*"),
            ("service-worker-allowed", "/"),
            ("www-authenticate", "Basic"),
            ("link", "<x>"),
            ("report-to", "x"),
            ("via", "x"),
            ("access-control-allow-headers", "*"),
            ("x-real-host", "10.0.0.7"),
            ("openai-organization", "o"),
            ("set-cookie", "a"),
            ("content-security-policy", "x"),
            ("x-lighttpd-send-file", "/x"),
            ("content-location", "http://10.0.0.7"),
            ("x-foo-id", "1"),
            ("content-encoding", "gzip"),
            ("x-llm-attempts", "9"),
        ];
        let always = [
            "anthropic-ratelimit-requests-limit",
            "content-type",
            "x-ratelimit-remaining-tokens",
            "x-upstream-request-id",
        ];
        assert_eq!(names(&[], &answer), always);
        let more = [
            "anthropic-ratelimit-requests-limit",
            "content-type",
            "x-foo-id",
            "x-ratelimit-remaining-tokens",
            "x-upstream-request-id",
        ];
        assert_eq!(names(&["x-foo-*"], &answer), more);
        let all = names(&["*"], &answer);
        for never in [
            "set-cookie",
            "x-llm-attempts",
            "content-location",
            "access-control-allow-headers",
            "clear-site-data",
        ] {
            assert!(!all.iter().any(|name| name == never), "{never}");
        }
        assert!(
            names(&["x-*"], &[("x-foo", "1"), ("connection", "X-Foo")]).is_empty(),
            "it is of the connection"
        );
        assert!(names(&[], &[("x-request-id", "a b")]).is_empty());
    }
}
