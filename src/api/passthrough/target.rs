//! Where a raw request may go at a provider: a path that nobody can read as one that leads elsewhere, and a query.

use serde_json::{Map, Value};

use crate::api::error::ApiError;
use crate::lint::path_fault;
use crate::llm::shortened;

/// A path that stays below the provider's root, whoever reads it and however often it is decoded.
pub(super) fn safe_path(path: &str) -> Result<String, ApiError> {
    match path_fault(path) {
        None => Ok(path.to_owned()),
        Some(why) => Err(ApiError::invalid("path", format!("`path` {why}"))),
    }
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
                    let param = format!("query.{}", shortened(name));
                    return Err(ApiError::invalid(&param, format!("`{param}` must be a text or a number")));
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
    use serde_json::json;

    #[test]
    fn queries_are_encoded() {
        let encoded = query(json!({"a b": "c&d=ż", "n": 3, "l": ["x", true]}).as_object().unwrap()).unwrap();
        assert_eq!(encoded.as_deref(), Some("a%20b=c%26d%3D%C5%BC&n=3&l=x&l=true"));
        assert_eq!(query(&Map::new()).unwrap(), None);
        assert!(query(json!({"a": {}}).as_object().unwrap()).is_err());
    }
}
