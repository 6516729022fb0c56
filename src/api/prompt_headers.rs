//! A prompt of the library before a chat in any dialect, asked for by headers: `x-llm-prompt` names it, `x-llm-language` and
//! `x-llm-variables` (a JSON object) say the rest. A body that is a provider's own stays free of members that the provider
//! does not know.

use poem::Request;
use poem::http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::prompts;
use crate::gateway::Opening;

/// Names the prompt: `name`, or `name@` and a version or label.
pub(super) static PROMPT: HeaderName = HeaderName::from_static("x-llm-prompt");
const LANGUAGE: HeaderName = HeaderName::from_static("x-llm-language");
const VARIABLES: HeaderName = HeaderName::from_static("x-llm-variables");

/// What is to stand before the chat of a request that names a prompt.
///
/// # Errors
/// A header cannot be read.
pub(super) fn opening(name: &HeaderValue, request: &Request) -> Result<Opening, ApiError> {
    let of = |header: &HeaderName| request.headers().get(header).map(|value| text(header, value)).transpose();
    let name = text(&PROMPT, name)?;
    if name.is_empty() {
        return Err(ApiError::invalid(PROMPT.as_str(), "`x-llm-prompt` must name a prompt"));
    }
    let wanted = prompts::wanted(of(&LANGUAGE)?, false, request).map_err(|_| {
        ApiError::invalid(LANGUAGE.as_str(), "`x-llm-language` must be a language tag, such as `pl`")
    })?;
    let variables = of(&VARIABLES)?.filter(|text| !text.is_empty()).map(variables).transpose()?;
    let variables = variables.unwrap_or_default();
    Ok(Opening::Prompt { name: name.to_owned(), variables, wanted, offers: Vec::new() })
}

/// The place of a fault, in the names that the headers have.
pub(super) fn named(error: ApiError) -> ApiError {
    let named = error.with_param_named("prompt", PROMPT.as_str());
    named.with_param_named("language", LANGUAGE.as_str()).with_param_named("variables", VARIABLES.as_str())
}

fn text<'v>(header: &HeaderName, value: &'v HeaderValue) -> Result<&'v str, ApiError> {
    // Not `to_str`, which knows ASCII only.
    let text = std::str::from_utf8(value.as_bytes()).map(str::trim);
    text.map_err(|_| ApiError::invalid(header.as_str(), format!("`{header}` must be UTF-8")))
}

fn variables(json: &str) -> Result<Map<String, Value>, ApiError> {
    serde_json::from_str(json).map_err(|_| {
        let message = "`x-llm-variables` must be a JSON object, such as {\"name\": \"Ada\"}";
        ApiError::invalid(VARIABLES.as_str(), message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_an_object_in_ascii_or_not() {
        let of = |json: &str| variables(json).map_err(|error| error.body(false)["error"]["param"].clone());
        assert_eq!(of(r#"{"a": "ż", "b": [1]}"#).unwrap().len(), 2);
        assert_eq!(of(r#"{"a": "\u017c"}"#).unwrap()["a"], "ż");
        for bad in ["[1]", "a=b", "{\"a\": 1} x", "\"text\""] {
            assert_eq!(of(bad), Err("x-llm-variables".into()), "{bad}");
        }
    }
}
