//! Where a raw request may go at a provider: a path that nobody can read as one that leads elsewhere, and a query.

use serde_json::{Map, Value};

use crate::api::error::ApiError;

/// A path that stays below the provider's root, whoever reads it and however often it is decoded.
pub(super) fn safe_path(path: &str) -> Result<String, ApiError> {
    let refused = |why: &str| Err(ApiError::invalid("path", format!("`path` {why}")));
    let Some(segments) = path.strip_prefix('/') else {
        return refused("must begin with a slash, such as `/v1/audio/speech`");
    };
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return refused("must not hold an empty segment");
        }
        if !is_safe_segment(segment) {
            return refused("holds a segment that is not allowed");
        }
    }
    Ok(path.to_owned())
}

fn is_safe_segment(segment: &str) -> bool {
    let plain = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b':'
                    | b'@'
                    | b'%'
            )
    };
    if !segment.bytes().all(plain) {
        return false;
    }
    // What it may become when somebody decodes it, and when somebody decodes that.
    let mut decoded = segment.as_bytes().to_vec();
    for _ in 0..4 {
        let visible: Vec<u8> = decoded.iter().copied().filter(|b| *b != b' ').collect();
        let leads_up = matches!(visible.as_slice(), b"." | b"..");
        let forbidden =
            decoded.iter().any(|b| matches!(b, b'/' | b'\\' | b'?' | b'#') || b.is_ascii_control());
        if forbidden || leads_up {
            return false;
        }
        let Some(next) = percent_decoded(&decoded) else { return false };
        if next == decoded {
            return true;
        }
        decoded = next;
    }
    // Encoded so often for no good reason.
    false
}

/// `None` where a percent sign is not followed by two digits.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

/// The part of an address behind the question mark, if there is any.
pub(super) fn query(query: &Map<String, Value>) -> Result<Option<String>, ApiError> {
    let mut pairs = Vec::new();
    for (name, value) in query {
        let values = match value {
            Value::Array(values) => values.iter().collect(),
            value => vec![value],
        };
        for value in values {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                _ => {
                    return Err(ApiError::invalid(
                        &format!("query.{name}"),
                        format!("`query.{name}` must be a text or a number"),
                    ));
                }
            };
            pairs.push(format!("{}={}", percent_encoded(name), percent_encoded(&value)));
        }
    }
    Ok((!pairs.is_empty()).then(|| pairs.join("&")))
}

fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn ordinary_paths_pass() {
        for path in [
            "/v1/audio/speech",
            "/",
            "/v1/files/file-abc123/content",
            "/api/show",
            "/a%20b",
            "/v1/",
            "/models/gpt-4o:latest",
            "/x/.../y",
        ] {
            assert_eq!(safe_path(path).unwrap(), path);
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "",
            "v1/models",
            "//evil.example/x",
            "/v1//x",
            "/../x",
            "/v1/..",
            "/v1/.",
            "/./x",
            "/%2e%2e/x",
            "/%2E./x",
            "/.%2e",
            "/%252e%252e/x",
            "/%25252e%25252e",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "http://evil/x",
            "https://evil",
            "/x?y=1",
            "/x#y",
            "/x\r\nHost: evil",
            "/x%0d%0aHost:evil",
            "/x%00",
            "/%",
            "/%zz",
            "/ż",
            "/a b",
            "/%2",
            "/..%20",
        ] {
            assert!(safe_path(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn queries_are_encoded() {
        let encoded = query(json!({"a b": "c&d=ż", "n": 3, "l": ["x", true]}).as_object().unwrap()).unwrap();
        assert_eq!(encoded.as_deref(), Some("a%20b=c%26d%3D%C5%BC&n=3&l=x&l=true"));
        assert_eq!(query(&Map::new()).unwrap(), None);
        assert!(query(json!({"a": {}}).as_object().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_below_the_root(path in "/[a./%2ef5cC\\\\?#:@ \r\n-]{0,16}") {
            if let Ok(path) = safe_path(&path) {
                let url = reqwest_like(&path);
                prop_assert!(url.starts_with("/base/"), "{path:?} became {url:?}");
            }
        }
    }

    /// The path as a URL parser sees it, dots resolved.
    fn reqwest_like(path: &str) -> String {
        let uri: poem::http::Uri = format!("http://host/base{path}").parse().unwrap();
        let mut kept: Vec<String> = Vec::new();
        for segment in uri.path().split('/').skip(1) {
            let decoded = percent_decoded(segment.as_bytes()).unwrap_or_default();
            match decoded.as_slice() {
                b".." => drop(kept.pop()),
                b"." => {}
                _ => kept.push(segment.to_owned()),
            }
        }
        format!("/{}", kept.join("/")) + if kept.len() == 1 { "/" } else { "" }
    }
}
