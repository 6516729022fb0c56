//! Reads the facade's own bodies: serde for the shape, validator for the ranges, one error with its place.

use serde::de::DeserializeOwned;
use validator::{Validate, ValidationErrors, ValidationErrorsKind};

use super::error::ApiError;
use crate::lint::{did_you_mean, expected_in_words};
use crate::llm::{RawObject, shortened};
use crate::wire::Invalid;

/// Reads a body.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read<T: DeserializeOwned + Validate>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value: T = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        unreadable(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| broken(&error))?;
    value.validate().map_err(|errors| {
        let (param, message) = first_violation("", &errors);
        ApiError::from(Invalid::value(&param, format!("`{param}` {message}")))
    })?;
    Ok(value)
}

/// Members that the systems before this one took everywhere, and that do nothing here.
pub(super) const OF_OLDER_CLIENTS: &[&str] = &["mask_payload", "masker_pipeline"];

/// The members that are read here do not include some that clients may send all the same: those of other endpoints of the
/// same kind, and those of older systems. These are named, to be told to the caller.
///
/// # Errors
/// A member is none of all these.
pub(super) fn only_known(
    body: &RawObject,
    known: &[&[&str]],
    elsewhere: &[&[&str]],
) -> Result<Vec<String>, ApiError> {
    let mut ignored = Vec::new();
    for name in body.names().filter(|name| !known.iter().any(|names| names.contains(name))) {
        if !elsewhere.iter().any(|names| names.contains(&name)) {
            let cure = did_you_mean(name, known.iter().flat_map(|names| names.iter().copied()));
            let name = shortened(name);
            return Err(ApiError::invalid(&name, format!("`{name}` is not known here; {cure}")));
        }
        ignored.push(name.to_owned());
    }
    Ok(ignored)
}

/// A body as an object, for its members' names.
pub(super) fn object(body: bytes::Bytes) -> Result<RawObject, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Invalid::json("the request has no body; send a JSON object").into());
    }
    RawObject::parse(body).map_err(|error| Invalid::from(error).into())
}

fn broken(error: &serde_json::Error) -> ApiError {
    Invalid::json(format!("the body is not JSON: line {}, column {}", error.line(), error.column())).into()
}

/// What serde says, without the value that it quotes.
fn unreadable(path: &str, error: &serde_json::Error) -> ApiError {
    if !error.is_data() {
        return broken(error);
    }
    let text = error.to_string();
    let quoted = |text: &str| text.split('`').nth(1).map(str::to_owned);
    if let Some(name) = text.strip_prefix("missing field").and_then(quoted) {
        return Invalid::missing(if matches!(path, "." | "?") { name } else { format!("{path}.{name}") })
            .into();
    }
    if text.starts_with("unknown field") {
        // The first word is the caller's own; the others are those that are known.
        let known: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
        let Some((name, known)) = known.split_first() else { return ApiError::invalid(path, "unknown") };
        let cure = did_you_mean(name, known.iter().copied());
        let path = shortened(path).into_owned();
        return Invalid::value(path.clone(), format!("`{path}` is not known here; {cure}")).into();
    }
    if let Some(name) = text.strip_prefix("duplicate field").and_then(quoted) {
        let message = format!("`{name}` is given twice, under two names; give one of them");
        return Invalid::value(name, message).into();
    }
    let expected = text.split("expected ").nth(1).and_then(|rest| rest.split(" at line").next());
    let must = expected.map_or_else(
        || "is not what it must be".to_owned(),
        |expected| format!("must be {}", expected_in_words(expected)),
    );
    match path {
        "." | "?" => Invalid::json(format!("the body {must}")).into(),
        path => Invalid::value(path, format!("`{path}` {must}")).into(),
    }
}

/// The first violation in the order of the names: its place, and the end of a sentence.
fn first_violation(prefix: &str, errors: &ValidationErrors) -> (String, String) {
    let mut all: Vec<_> = errors.errors().iter().collect();
    all.sort_by(|a, b| a.0.cmp(b.0));
    let Some((name, kind)) = all.first() else { return (prefix.to_owned(), "is not valid".to_owned()) };
    let place = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
    match kind {
        ValidationErrorsKind::Field(errors) => {
            let message = errors.first().and_then(|error| error.message.clone());
            (place, message.map_or_else(|| "is not valid".to_owned(), |message| message.to_string()))
        }
        ValidationErrorsKind::Struct(inner) => first_violation(&place, inner),
        ValidationErrorsKind::List(items) => match items.iter().next() {
            Some((index, inner)) => first_violation(&format!("{place}[{index}]"), inner),
            None => (place, "is not valid".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::{Conversation, GenerationOptions};
    use serde_json::{Value, json};

    fn told(error: &ApiError) -> (Value, Value, String) {
        let body = error.body(false);
        let error = &body["error"];
        (error["param"].clone(), error["code"].clone(), error["message"].as_str().unwrap().to_owned())
    }

    fn conversation(name: &str, value: Value) -> Result<Conversation, ApiError> {
        let mut body = json!({"model_name": "m", "user_last_statement": "hi"});
        body[name] = value;
        read(body.to_string().as_bytes())
    }

    #[test]
    fn what_is_unsaid_has_its_default() {
        let read: Conversation = read(br#"{"model":"m","user_last_statement":"hi"}"#).unwrap();
        assert_eq!(
            (read.model_name.as_str(), read.prompt.as_str(), read.stream),
            ("m", "chat-conversation-simple", true)
        );
    }

    #[test]
    fn faults_name_their_place_and_never_quote_the_caller() {
        for (name, value, message) in [
            ("user_last_statement", json!(""), "must not be empty"),
            ("user_last_statement", json!(["planted"]), "must be a text"),
            ("model_name", json!(""), "must not be empty"),
            ("temperature", json!(2.5), "between 0 and 2"),
            ("temperature", json!("planted"), "must be"),
            ("max_new_tokens", json!(0), "at least 1"),
            ("stream", json!("planted"), "must be true or false"),
            ("variables", json!("planted"), "must be"),
            ("historical_messages", json!({"planted": 1}), "must be"),
        ] {
            let error = conversation(name, value.clone()).err().unwrap();
            let (param, code, text) = told(&error);
            assert_eq!((param, code), (json!(name), json!("invalid_value")), "{name}: {value}");
            assert!(text.contains(message) && !text.contains("planted"), "{name}: {value}: {text}");
        }
        let error = read::<Conversation>(br#"{"model_name":"m","model":"m","user_last_statement":"x"}"#)
            .err()
            .unwrap();
        assert_eq!((told(&error).0, told(&error).1), (json!("model_name"), json!("invalid_value")));
        let error = read::<Conversation>(br#"{"model_name":"m"}"#).err().unwrap();
        assert_eq!(told(&error).0, json!("user_last_statement"));
        assert_eq!(told(&error).1, json!("missing_field"));
        let error = read::<Conversation>(br#"{"planted": "#).err().unwrap();
        assert_eq!(told(&error).1, json!("invalid_json"));
        assert!(!told(&error).2.contains("planted"));
    }

    #[test]
    fn generation_options_have_their_ranges() {
        for (name, value) in [
            ("top_p", json!(1.1)),
            ("top_k", json!(-1)),
            ("typical_p", json!(-0.1)),
            ("repetition_penalty", json!(0)),
            ("stop", json!(3)),
        ] {
            let error =
                read::<GenerationOptions>(json!({ name: value }).to_string().as_bytes()).err().unwrap();
            assert_eq!(told(&error).0, json!(name));
        }
        assert!(
            read::<GenerationOptions>(br#"{"top_k":0,"repetition_penalty":1.5,"stop":["a"],"model":"m"}"#)
                .is_ok()
        );
    }

    #[test]
    fn unknown_members_are_refused_and_those_of_others_named() {
        let ignored = |text: &'static str| {
            let known: &[&[&str]] = &[&["language"], &["prompt"]];
            let elsewhere: &[&[&str]] = &[&["top_k"], OF_OLDER_CLIENTS];
            only_known(&object(text.into()).unwrap(), known, elsewhere)
                .map_err(|error| Box::new(told(&error)))
        };
        assert_eq!(ignored(r#"{"prompt":1,"top_k":2,"mask_payload":3}"#).unwrap(), ["top_k", "mask_payload"]);
        for (text, param, message) in [
            (r#"{"prompt_name":1}"#, "prompt_name", "did you mean `prompt`?"),
            (r#"{"prompt":1,"langauge":2}"#, "langauge", "did you mean `language`?"),
            (r#"{"zzz":2}"#, "zzz", "known here are language, prompt"),
        ] {
            let (of, code, told) = *ignored(text).unwrap_err();
            assert_eq!((of, code), (json!(param), json!("invalid_value")), "{text}");
            assert!(told.ends_with(message), "{told}");
        }
    }
}
