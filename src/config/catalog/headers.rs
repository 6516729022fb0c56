//! Headers of raw answers that pass to callers besides the usual ones, as a provider's `raw_headers` list them.

use super::Reader;

/// Headers that never pass, whatever a pattern says: those of the upstream's connection, those that tell its address, those
/// by which it would speak to the caller's browser about this host, and those that only this gateway writes.
const KEPT: &[&str] = &[
    "alt-svc",
    "clear-site-data",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "keep-alive",
    "location",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "refresh",
    "service-worker-allowed",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
    "x-request-id",
];
/// Beginnings of such headers.
const KEPT_BEGINNINGS: &[&str] = &["access-control-", "x-llm-", "x-accel-"];

/// Whether a header, by its name in lower case, never passes from a raw answer.
pub fn is_kept_header(name: &str) -> bool {
    KEPT.contains(&name) || KEPT_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

impl Reader<'_> {
    pub(super) fn check_raw_headers(&mut self, place: &str, patterns: &[String]) {
        for pattern in patterns {
            let is_plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_*?".contains(&byte);
            if pattern.is_empty() || !pattern.bytes().all(is_plain) {
                let cure = "give names of headers in lower case, such as \"x-foo-*\"";
                self.fault(place, "`raw_headers` holds what is no name of a header", cure);
            } else if is_kept_header(pattern) {
                let problem = format!("`raw_headers` names `{pattern}`, which never passes to callers");
                self.fault(place, &problem, "take it out");
            }
        }
    }
}
