//! The id of a request: its caller's own, if that is fit for headers and log lines, or one that is made here.
//!
//! What looks like a secret is no id: it would stand in logs, in the ledger and in the answer.

use poem::http::header::AUTHORIZATION;
use poem::http::{HeaderMap, HeaderName};

use crate::callers::Secret;
use crate::llm::unique_id;

pub(super) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers that may hold a secret, whoever it is for.
static OF_SECRETS: [HeaderName; 5] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-admin-key"),
    HeaderName::from_static("adminkey"),
];
/// Characters of an id.
const MOST: usize = 128;
/// A word that is shown as a key and is shorter may stand in an id by chance.
const LEAST_OF_A_SECRET: usize = 8;
/// How keys of others begin, and how many characters at least follow.
const OF_OTHERS: (&str, usize) = ("sk-", 16);

/// The caller's own id, if it is fit for a header and a log line.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let own = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    let own = own.filter(|id| is_sane(id) && !has_secret(id, headers));
    own.map_or_else(|| unique_id("req_"), str::to_owned)
}

fn is_sane(id: &str) -> bool {
    let is_fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    (1..=MOST).contains(&id.len()) && id.bytes().all(is_fit)
}

/// Whether an id holds what the same request shows as a key, or anything of the form of one.
fn has_secret(id: &str, headers: &HeaderMap) -> bool {
    let values = OF_SECRETS.iter().flat_map(|name| headers.get_all(name));
    let mut words = values.filter_map(|value| value.to_str().ok()).flat_map(str::split_whitespace);
    let is_shown = |word: &str| word == id || (word.len() >= LEAST_OF_A_SECRET && id.contains(word));
    Secret::may_be_in(id) || is_of_others(id) || words.any(is_shown)
}

/// Whether there is a key such as `sk-…` in it, and not only a word that ends so, such as `task-…`.
fn is_of_others(id: &str) -> bool {
    let (mark, least) = OF_OTHERS;
    let is_of_key = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    id.match_indices(mark).any(|(at, _)| {
        let (before, rest) = id.split_at(at);
        let is_beginning = !before.ends_with(|c: char| c.is_ascii_alphanumeric());
        is_beginning && rest.bytes().skip(mark.len()).take_while(is_of_key).count() >= least
    })
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    fn id_of(id: &str, more: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in [&[("x-request-id", id)], more].concat() {
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        request_id(&headers)
    }

    #[test]
    fn a_sane_id_of_the_callers_is_kept_and_another_is_not() {
        for good in
            ["abc-123_x.y:z", "task-550e8400-e29b-41d4-a716-446655440000", "sk-1", "llmp_", "my_llmp_1"]
        {
            assert_eq!(id_of(good, &[]), good);
        }
        for bad in ["", "a b", "a\"b", "<x>", &"x".repeat(129)] {
            assert!(id_of(bad, &[]).starts_with("req_"), "{bad}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn what_looks_like_a_secret_is_no_id() {
        let ours = Secret::generate().unwrap();
        for secret in [ours.reveal(), "sk-proj-0123456789abcdef", "sk-0123456789abcdef0123"] {
            for id in [secret.to_owned(), format!("of:{secret}"), format!("a.{secret}.b")] {
                assert!(id_of(&id, &[]).starts_with("req_"), "{id}");
            }
        }
    }

    #[test]
    fn what_is_shown_as_a_key_is_no_id() {
        let planted = "planted.key:1";
        for (name, value) in [
            ("authorization", format!("Bearer {planted}")),
            ("authorization", planted.to_owned()),
            ("x-api-key", planted.to_owned()),
            ("api-key", planted.to_owned()),
            ("x-admin-key", planted.to_owned()),
            ("adminkey", planted.to_owned()),
        ] {
            for id in [planted, "before-planted.key:1-behind"] {
                assert!(id_of(id, &[(name, &value)]).starts_with("req_"), "{name}: {id}");
            }
            assert_eq!(id_of("another", &[(name, &value)]), "another", "{name}");
        }
        // Clients that have no key show whatever their library wants.
        assert_eq!(id_of("none-1", &[("authorization", "Bearer none")]), "none-1");
        assert!(id_of("none", &[("authorization", "Bearer none")]).starts_with("req_"));
    }
}
