//! What an upstream says when it fails: the reason out of any shape that servers give it.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::frames::{SseSplitter, are_events};
use crate::llm::{read_lenient, without_byte_order_mark};

/// Errors within errors, at most.
const MOST_NESTED: usize = 6;
/// A text without blanks that was cut loses this many bytes of its end: no key is longer.
const LONGEST_WORD: usize = 2048;
/// More faults of one request say no more.
const MOST_LISTED: usize = 3;

/// An upstream's error, whatever its shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct UpstreamError {
    pub(super) message: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) code: Option<String>,
    /// The code if it is a number, which mostly is a status.
    pub(super) number: Option<u64>,
    pub(super) param: Option<String>,
    pub(super) needed_tokens: Option<u64>,
    pub(super) context_tokens: Option<u64>,
}

impl UpstreamError {
    /// Reads the body of an error, or an error within a stream. What is no JSON is the message itself, if it is a text; JSON in
    /// which no reason can be found may repeat the request, and says nothing.
    pub(super) fn read(body: &[u8]) -> Self {
        let body = without_byte_order_mark(body);
        let event = if are_events(body) { first_event(body) } else { None };
        let body = event.as_deref().unwrap_or(body);
        let value = read_lenient::<Value>(body).ok().or_else(|| read_lenient(&closed(body)?).ok());
        match value {
            Some(value) => Self::of(&value),
            None => Self { message: plain_text(body), ..Self::default() },
        }
    }

    /// Whether the prompt is too long for the model.
    pub(super) fn is_context_too_long(&self) -> bool {
        const CODES: [&str; 3] =
            ["context_length_exceeded", "exceed_context_size_error", "string_above_max_length"];
        // Of one API or another; each is enough.
        const PHRASES: [&str; 14] = [
            "maximum context length",
            "available context size",
            "maximum model length",
            "maximum prompt length",
            "exceeds the context",
            "exceed the context",
            "context window",
            "model's context length",
            "context length of only",
            "prompt is too long",
            "input is too long",
            "input token count",
            "number of tokens in the prompt",
            "`inputs` tokens + `max_new_tokens`",
        ];
        let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        let mut words = [&self.code, &self.kind].into_iter().flatten();
        words.any(|word| CODES.contains(&word.as_str()))
            || PHRASES.iter().any(|phrase| message.contains(phrase))
    }

    fn of(value: &Value) -> Self {
        let mut error = Self { message: reason(value, MOST_NESTED), ..Self::default() };
        error.add_facts(value, MOST_NESTED);
        error
    }

    /// What stands beside the reason, the innermost first.
    fn add_facts(&mut self, value: &Value, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        let unpacked = value.as_str().and_then(unpacked);
        let value = unpacked.as_ref().unwrap_or(value);
        if let Some(first) = value.get(0) {
            return self.add_facts(first, depth);
        }
        ["error", "errors", "detail"]
            .iter()
            .filter_map(|name| value.get(*name))
            .for_each(|inner| self.add_facts(inner, depth));
        let word = |name: &str| {
            value.get(name).and_then(Value::as_str).filter(|word| !word.trim().is_empty()).map(str::to_owned)
        };
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        self.kind = self.kind.take().or_else(|| word("type"));
        self.code = self.code.take().or_else(|| word("code"));
        self.number = self.number.or_else(|| number("code"));
        self.param = self.param.take().or_else(|| word("param"));
        self.needed_tokens = self.needed_tokens.or_else(|| number("n_prompt_tokens"));
        self.context_tokens = self.context_tokens.or_else(|| number("n_ctx"));
    }
}

/// The JSON of the first event, in a body that is a stream.
fn first_event(body: &[u8]) -> Option<Vec<u8>> {
    let (mut splitter, mut runs) = (SseSplitter::default(), VecDeque::new());
    splitter.push(body.to_vec().into(), &mut runs).ok()?;
    splitter.finish(&mut runs).ok()?;
    Some(runs.front()?.jsons().next()?.to_vec())
}

/// A body as a message; nothing if it is no text.
fn plain_text(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    let is_text = !text.contains(|letter: char| letter.is_control() && !letter.is_whitespace());
    (is_text && !text.is_empty()).then(|| text.to_owned())
}

/// JSON within a text: Ollama passes its engine's on like that.
fn unpacked(text: &str) -> Option<Value> {
    let is_json = text.trim_start().starts_with(['{', '[']);
    is_json.then(|| read_lenient(text.as_bytes()).ok())?
}

/// The reason that a value gives, or a value within it.
fn reason(value: &Value, depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => match unpacked(text) {
            Some(inner) => reason(&inner, depth),
            None => Some(text.trim().to_owned()),
        },
        Value::Array(items) => {
            let reasons: Vec<String> =
                items.iter().filter_map(|item| reason(item, depth)).take(MOST_LISTED).collect();
            (!reasons.is_empty()).then(|| reasons.join("; "))
        }
        Value::Object(object) => reason_of_object(object, depth),
        _ => None,
    }
}

fn reason_of_object(object: &Map<String, Value>, depth: usize) -> Option<String> {
    // The likeliest first. A text under `error` often is but the name of the status.
    const NAMES: [&str; 11] = [
        "message",
        "msg",
        "error_description",
        "detail",
        "details",
        "errors",
        "error_message",
        "error",
        "description",
        "reason",
        "title",
    ];
    let member = |wanted: &str| {
        object.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    };
    let inner = member("error").filter(|error| error.is_object() || error.is_array());
    let others = NAMES.iter().filter_map(|name| member(name));
    let found = inner.into_iter().chain(others).find_map(|value| reason(value, depth))?;
    Some(match member("loc").and_then(place) {
        Some(place) => format!("{place}: {found}"),
        None => found,
    })
}

/// Where in the request a fault is, as `FastAPI` says it.
fn place(loc: &Value) -> Option<String> {
    let word = |part: &Value| part.as_str().map_or_else(|| part.to_string(), str::to_owned);
    let parts: Vec<String> = loc.as_array()?.iter().map(word).filter(|part| part != "body").collect();
    (!parts.is_empty()).then(|| parts.join("."))
}

/// JSON that was cut, closed. The text in which it was cut ends before its last word, which may be half of a key.
fn closed(json: &[u8]) -> Option<Vec<u8>> {
    let mut open = Vec::new();
    let mut string: Option<usize> = None;
    let mut is_escaped = false;
    // Where the last whole member or item ended, and how many brackets were open there.
    let mut whole = (0, 0);
    for (at, byte) in json.iter().enumerate() {
        match (string, byte) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), b'\\') => is_escaped = true,
            (Some(_), b'"') => string = None,
            (None, b'"') => string = Some(at),
            (None, b'{') => open.push(b'}'),
            (None, b'[') => open.push(b']'),
            (None, b'}' | b']') => {
                open.pop()?;
            }
            (None, b',') => whole = (at, open.len()),
            _ => {}
        }
    }
    if open.is_empty() {
        return None;
    }
    let finished = |text: &[u8], end: &[u8], depth: usize| {
        let brackets = open.iter().take(depth).rev().copied();
        let mut out = [text, end].concat();
        out.extend(brackets);
        out
    };
    let (end, quote) = match string {
        Some(start) => (end_of_words(json, start), b"\"".as_slice()),
        None => (json.len(), b"".as_slice()),
    };
    let first = finished(json.get(..end)?, quote, open.len());
    if read_lenient::<serde::de::IgnoredAny>(&first).is_ok() {
        return Some(first);
    }
    let (end, depth) = whole;
    Some(finished(json.get(..end)?, b"", depth))
}

/// The end of the last whole word of the string that begins at `start`, for the next one may be half a key.
fn end_of_words(json: &[u8], start: usize) -> usize {
    let text = json.get(start + 1..).unwrap_or_default();
    // Not within a character.
    let whole = text.utf8_chunks().next().map(|chunk| chunk.valid()).unwrap_or_default();
    let words = whole.rfind(char::is_whitespace).unwrap_or(whole.len().saturating_sub(LONGEST_WORD));
    start + 1 + whole.floor_char_boundary(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> Option<String> {
        UpstreamError::read(body.as_bytes()).message
    }

    #[test]
    fn every_shape_of_error_is_read() {
        for (body, expected) in [
            (r#"{"error":{"message":"m","type":"t"}}"#, Some("m")),
            (r#"{"error":"m"}"#, Some("m")),
            (r#"{"detail":"m"}"#, Some("m")),
            (r#"{"message":"m"}"#, Some("m")),
            (r#"{"error":"{\"error\":{\"message\":\"m\"}}"}"#, Some("m")),
            (r#"[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}]"#, Some("m")),
            (
                r#"{"detail":[{"type":"missing","loc":["body","messages",0],"msg":"m","input":{"a":"secret"}}]}"#,
                Some("messages.0: m"),
            ),
            (r#"{"status":400,"error":"Bad Request","message":"m","path":"/v1"}"#, Some("m")),
            (
                r#"{"success":false,"errors":[{"code":7003,"message":"m"},{"message":"n"}],"result":null}"#,
                Some("m; n"),
            ),
            (r#"{"error":"invalid_request","error_description":"m"}"#, Some("m")),
            (r#"{"type":"about:blank","title":"t","status":400,"detail":"m"}"#, Some("m")),
            (r#"{"error":{"message":"","details":["m"]}}"#, Some("m")),
            (r#"{"error":{"message":{"text":1},"reason":"m"}}"#, Some("m")),
            (r#""m""#, Some("m")),
            (r#"{"Message":"m","__type":"ValidationException"}"#, Some("m")),
            ("\u{feff}{\"error\":\"m\"}", Some("m")),
            ("event: error\ndata: {\"error\":{\"message\":\"m\"}}\n\n", Some("m")),
            ("\u{1f}\u{0}\u{8}not a text", None),
            ("plain text", Some("plain text")),
            (r#"{"input":{"messages":"secret"}}"#, None),
            ("", None),
            ("null", None),
        ] {
            assert_eq!(message(body).as_deref(), expected, "{body}");
        }
        let error = UpstreamError::read(br#"[{"error":{"message":"m","type":"t","code":"c","param":"p"}}]"#);
        assert_eq!(
            (error.kind.as_deref(), error.code.as_deref(), error.param.as_deref()),
            (Some("t"), Some("c"), Some("p"))
        );
    }

    #[test]
    fn the_code_is_kept_as_a_number_too() {
        let error = UpstreamError::read(br#"{"error":{"message":"m","code":502,"type":null}}"#);
        assert_eq!((error.code, error.number, error.kind), (None, Some(502), None));
    }

    #[test]
    fn a_prompt_that_is_too_long_is_known_in_the_words_of_every_api() {
        for message in [
            "This model's maximum context length is 512 tokens. However, you requested 9.",
            "prompt is too long: 210000 tokens > 200000 maximum",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            "This model's maximum prompt length is 131072 but the request contains 150000 tokens.",
            "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
            "too many tokens: total number of tokens in the prompt cannot exceed 4081",
            "Input is too long for requested model.",
            "the model is loaded with context length of only 4096 tokens, which is not enough",
            "the input length exceeds the context length",
        ] {
            let bodies = [
                serde_json::json!({"error": {"message": message}}),
                serde_json::json!([{"error": {"code": 400, "message": message}}]),
                serde_json::json!({"detail": [{"msg": message}]}),
            ];
            for body in bodies {
                assert!(UpstreamError::read(body.to_string().as_bytes()).is_context_too_long(), "{body}");
            }
        }
        for message in ["Rate limit reached: too many tokens per minute", "max_tokens is too large"] {
            let body = serde_json::json!({"error": {"message": message}}).to_string();
            assert!(!UpstreamError::read(body.as_bytes()).is_context_too_long(), "{message}");
        }
    }

    #[test]
    fn what_was_cut_keeps_its_reason_and_no_half_of_a_word() {
        for (body, expected) in [
            (r#"{"error":{"message":"reason-a: xxxx"#, Some("reason-a:")),
            (r#"{"error":{"message":"a reason","input":"xx \"yy"#, Some("a reason")),
            (r#"{"error":{"message":"a reason","inp"#, Some("a reason")),
            (r#"{"error":{"message":"a reason","list":[1,2,{"a":tr"#, Some("a reason")),
            (r#"{"detail":[{"msg":"a reason","input":["#, Some("a reason")),
            ("{\"message\":\"ż ół", Some("ż")),
            (&format!(r#"{{"message":"{}"#, "语".repeat(4096)), Some(&"语".repeat(4096 - 683))),
        ] {
            assert_eq!(message(body).as_deref(), expected, "{body}");
        }
    }
}
