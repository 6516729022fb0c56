//! The bodies of `/chat/completions`, `/completions` and `/embeddings`.
//!
//! A body stays the caller's own bytes. Known members are checked one by one where they stand; unknown
//! ones are nobody's business here.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::{self, FieldRule};
use super::{messages, quick};
use crate::llm::{
    ChatRequest, EmbedRequest, Options, Places, RawObject, RequestKind, answers_to_each, rivals_model,
};
use crate::wire::Invalid;

/// Reads a chat request. `streams_by_default` says what a caller means who does not say.
///
/// # Errors
/// What is wrong with it, and where.
pub fn chat_request(body: Bytes, streams_by_default: bool) -> Result<ChatRequest, Invalid> {
    if let Some(request) = quick::chat_request(&body, streams_by_default) {
        return Ok(request);
    }
    // Member by member, to say what is wrong and where.
    let body = object(body)?;
    fields::check(&body, CHAT)?;
    let messages = body.get("messages").filter(|messages| *messages != b"null");
    messages::check(messages.ok_or_else(|| Invalid::missing("messages"))?)?;
    request(body, RequestKind::Chat, streams_by_default)
}

/// Reads a legacy text completion request.
///
/// # Errors
/// What is wrong with it, and where.
pub fn completion_request(body: Bytes) -> Result<ChatRequest, Invalid> {
    let body = object(body)?;
    fields::check(&body, COMPLETION)?;
    given(&body, "prompt").ok_or_else(|| Invalid::missing("prompt"))?;
    request(body, RequestKind::Completion, false)
}

/// Reads a request for embeddings.
///
/// # Errors
/// What is wrong with it, and where.
pub fn embed_request(body: Bytes) -> Result<EmbedRequest, Invalid> {
    let body = object(body)?;
    fields::check(&body, EMBEDDING)?;
    let input = given(&body, "input").ok_or_else(|| Invalid::missing("input"))?;
    if matches!(input, b"\"\"" | b"[]") {
        return Err(Invalid::value("input", "`input` must not be empty"));
    }
    Ok(EmbedRequest { model: model(&body)?, rival: rival(&body), body })
}

use FieldRule::{Bool, BoolOrCount, List, Number, Object, Text, TextOrList, TextOrObject, Whole};

const CHAT: &[(&str, FieldRule)] = &[
    ("model", Text),
    ("temperature", Number(0.0, 2.0)),
    ("top_p", Number(0.0, 1.0)),
    ("n", Whole(1, 128)),
    ("stream", Bool),
    ("stream_options", Object),
    ("stop", TextOrList),
    ("max_tokens", Whole(1, u64::MAX)),
    ("max_completion_tokens", Whole(1, u64::MAX)),
    ("presence_penalty", Number(-2.0, 2.0)),
    ("frequency_penalty", Number(-2.0, 2.0)),
    ("logit_bias", Object),
    ("logprobs", BoolOrCount),
    ("top_logprobs", Whole(0, 20)),
    ("tools", List),
    ("tool_choice", TextOrObject),
    ("parallel_tool_calls", Bool),
    ("response_format", Object),
    ("user", Text),
];

const COMPLETION: &[(&str, FieldRule)] = &[
    ("model", Text),
    ("prompt", TextOrList),
    ("suffix", Text),
    ("temperature", Number(0.0, 2.0)),
    ("top_p", Number(0.0, 1.0)),
    ("n", Whole(1, 128)),
    ("best_of", Whole(1, 128)),
    ("stream", Bool),
    ("stream_options", Object),
    ("stop", TextOrList),
    ("max_tokens", Whole(0, u64::MAX)),
    ("presence_penalty", Number(-2.0, 2.0)),
    ("frequency_penalty", Number(-2.0, 2.0)),
    ("logit_bias", Object),
    ("echo", Bool),
    ("user", Text),
];

const EMBEDDING: &[(&str, FieldRule)] = &[
    ("model", Text),
    ("input", TextOrList),
    ("dimensions", Whole(1, 1_000_000)),
    ("encoding_format", Text),
    ("user", Text),
];

pub(super) fn object(body: Bytes) -> Result<RawObject, Invalid> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Invalid::json("the request has no body; send a JSON object"));
    }
    Ok(RawObject::parse(body)?)
}

fn request(body: RawObject, kind: RequestKind, streams_by_default: bool) -> Result<ChatRequest, Invalid> {
    let model = model(&body)?;
    let stream = given(&body, "stream").map_or(streams_by_default, |value| value == b"true");
    let max_output_tokens =
        ["max_completion_tokens", "max_tokens"].iter().find_map(|name| whole(&body, name));
    Ok(ChatRequest {
        model,
        kind,
        stream,
        include_usage: include_usage(&body)?,
        max_output_tokens,
        n: answers_to_each(&body),
        options: Options::default(),
        patience: None,
        answer_at_most: None,
        rival: rival(&body),
        places: Places::of(&body),
        body,
    })
}

pub(super) fn model(body: &RawObject) -> Result<String, Invalid> {
    let model = given(body, "model").ok_or_else(|| Invalid::missing("model"))?;
    let model: String =
        serde_json::from_slice(model).map_err(|_| Invalid::value("model", "`model` must be a text"))?;
    if model.trim().is_empty() {
        return Err(Invalid::value("model", "`model` must not be empty"));
    }
    Ok(model)
}

/// The first member that a server could take for the model, besides `model` itself.
fn rival(body: &RawObject) -> Option<String> {
    body.names().find(|name| rivals_model(name)).map(str::to_owned)
}

#[derive(Deserialize)]
struct StreamOptions<'a> {
    #[serde(borrow, default)]
    include_usage: Option<&'a RawValue>,
}

fn include_usage(body: &RawObject) -> Result<bool, Invalid> {
    let Some(options) = given(body, "stream_options") else { return Ok(false) };
    let param = "stream_options.include_usage";
    let bad = || Invalid::value(param, format!("`{param}` must be true or false"));
    let options: StreamOptions<'_> = serde_json::from_slice(options).map_err(|_| bad())?;
    match options.include_usage.map(RawValue::get) {
        None | Some("null" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(bad()),
    }
}

/// A member that is there and is not null, which means the same as leaving it out.
pub(super) fn given<'a>(body: &'a RawObject, name: &str) -> Option<&'a [u8]> {
    body.get(name).filter(|value| *value != b"null")
}

fn whole(body: &RawObject, name: &str) -> Option<u64> {
    given(body, name).and_then(|value| serde_json::from_slice(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn chat(body: &Value) -> Result<ChatRequest, Invalid> {
        chat_request(body.to_string().into(), false)
    }

    fn with(name: &str, value: Value) -> Value {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body[name] = value;
        body
    }

    #[test]
    fn a_full_request_is_read_and_kept_as_it_is() {
        let text = r#"{ "model":"m", "messages":[{"role":"user","content":"hi"}], "stream":true,
            "stream_options":{"include_usage":true}, "max_completion_tokens":7, "seed": 18446744073709551616, "x":{} }"#;

        let request = chat_request(text.into(), false).unwrap();

        assert_eq!(request.model, "m");
        assert!(request.stream && request.include_usage);
        assert_eq!(request.max_output_tokens, Some(7));
        assert_eq!(request.body.text(), text);
    }

    #[test]
    fn ordinary_requests_go_the_quick_way() {
        for body in [
            json!({"model": "m", "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]}),
            json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
                "temperature": 0.5, "tools": [{"type": "function"}], "stop": ["a"], "seed": 3, "unknown": {"a": [1]}}),
        ] {
            assert!(quick::chat_request(&body.to_string().into(), false).is_some(), "{body}");
        }
    }

    #[test]
    fn what_is_unsaid_has_its_default() {
        let body = with("stream", Value::Null);
        assert!(!chat(&body).unwrap().stream);
        assert!(chat_request(body.to_string().into(), true).unwrap().stream);
    }

    /// A member, a bad value for it, the place named, and a word of the message.
    fn bad_members() -> Vec<(&'static str, Value, &'static str, &'static str)> {
        vec![
            ("model", json!(3), "model", "text"),
            ("model", json!(" "), "model", "empty"),
            ("model", Value::Null, "model", "missing"),
            ("messages", json!([]), "messages", "empty"),
            ("messages", json!("hi"), "messages", "list"),
            ("messages", Value::Null, "messages", "missing"),
            ("messages", json!([3]), "messages[0]", "object"),
            ("messages", json!([{"content": "x"}]), "messages[0].role", "missing"),
            ("messages", json!([{"role": 3, "content": "x"}]), "messages[0].role", "text"),
            (
                "messages",
                json!([{"role": "user", "content": "x"}, {"role": "boss", "content": "x"}]),
                "messages[1].role",
                "one of",
            ),
            ("messages", json!([{"role": "user"}]), "messages[0].content", "missing"),
            ("messages", json!([{"role": "user", "content": 3}]), "messages[0].content", "text"),
            ("messages", json!([{"role": "user", "content": {}}]), "messages[0].content", "text"),
            ("messages", json!([{"role": "user", "content": []}]), "messages[0].content", "empty"),
            (
                "messages",
                json!([{"role": "assistant", "content": [], "tool_calls": []}]),
                "messages[0].content",
                "empty",
            ),
            (
                "messages",
                json!([{"role": "user", "content": [{"text": "x"}]}]),
                "messages[0].content[0].type",
                "missing",
            ),
            ("messages", json!([{"role": "user", "content": [3]}]), "messages[0].content[0]", "object"),
            ("messages", json!([{"role": "assistant", "tool_calls": {}}]), "messages[0].tool_calls", "list"),
            ("temperature", json!(2.5), "temperature", "between 0 and 2"),
            ("temperature", json!("hot"), "temperature", "number"),
            ("top_p", json!(-0.1), "top_p", "between 0 and 1"),
            ("n", json!(0), "n", "at least 1"),
            ("n", json!(1.5), "n", "whole"),
            ("max_tokens", json!(0), "max_tokens", "at least 1"),
            ("max_completion_tokens", json!(-4), "max_completion_tokens", "whole"),
            ("max_tokens", json!(-1), "max_tokens", "leave it out for no limit"),
            ("stream", json!("yes"), "stream", "true or false"),
            ("stream_options", json!({"include_usage": 1}), "stream_options.include_usage", "true or false"),
            ("stop", json!(7), "stop", "text"),
            ("tools", json!({}), "tools", "list"),
            ("tool_choice", json!(1), "tool_choice", "text or an object"),
            ("response_format", json!("json"), "response_format", "object"),
            ("presence_penalty", json!(3), "presence_penalty", "between -2 and 2"),
        ]
    }

    #[test]
    fn an_assistant_that_calls_tools_may_say_nothing() {
        for content in [json!([]), json!(null), json!("")] {
            let call = json!({"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}});
            let turn = json!({"role": "assistant", "content": content, "tool_calls": [call]});
            assert!(chat(&with("messages", json!([turn]))).is_ok(), "{turn}");
        }
        let spaced = r#"{"model":"m","messages":[{"role":"assistant","content":[ ],"tool_calls":[ {} ]}]}"#;
        assert!(chat_request(spaced.into(), false).is_ok());
    }

    #[test]
    fn bad_members_are_named_by_their_place() {
        for (name, value, param, word) in bad_members() {
            let error = chat(&with(name, value.clone())).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{name}: {value}");
            assert!(error.message.contains(word), "{name}: {value}: {}", error.message);
            assert_eq!(error.code, if word == "missing" { "missing_field" } else { "invalid_value" });
        }
    }

    #[test]
    fn messages_never_quote_what_the_caller_wrote() {
        let error = chat(&with("messages", json!([{"role": "planted-secret", "content": "x"}]))).unwrap_err();
        assert!(!error.message.contains("planted"));
        let error = chat_request("{\"planted-secret\" 1}".into(), false).unwrap_err();
        assert!(!error.message.contains("planted"));
    }

    #[test]
    fn good_messages_of_all_shapes_pass() {
        let messages = json!([
            {"role": "developer", "content": "x"},
            {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "u"}}]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]},
            {"role": "assistant", "tool_calls": []},
            {"role": "tool", "tool_call_id": "1", "content": "x"},
            {"role": "assistant", "content": "", "reasoning_content": "hm"},
        ]);
        assert!(chat(&with("messages", messages)).is_ok());
    }

    #[test]
    fn broken_json_is_told_with_its_place() {
        for (body, hint) in
            [("", "no body"), ("{\"model\":", "line 1"), ("[1]", "object"), ("{} x", "line 1")]
        {
            let error = chat_request(body.into(), false).unwrap_err();
            assert_eq!((error.code, error.param), ("invalid_json", None));
            assert!(error.message.contains(hint), "{body}: {}", error.message);
        }
        let twice = chat_request(r#"{"model":"a","model":"b"}"#.into(), false).unwrap_err();
        assert_eq!(twice.param.as_deref(), Some("model"));
    }

    #[test]
    fn completions_and_embeddings_are_checked_too() {
        let completion = |body: Value| completion_request(body.to_string().into());
        assert_eq!(completion(json!({"model": "m", "prompt": "x"})).unwrap().kind, RequestKind::Completion);
        assert_eq!(completion(json!({"model": "m"})).unwrap_err().param.as_deref(), Some("prompt"));

        let embed = |body: Value| embed_request(body.to_string().into());
        assert_eq!(embed(json!({"model": "m", "input": [[1, 2]]})).unwrap().model, "m");
        for input in [json!(""), json!([]), json!(3), Value::Null] {
            let error = embed(json!({"model": "m", "input": input})).unwrap_err();
            assert_eq!(error.param.as_deref(), Some("input"));
        }
    }

    proptest! {
        #[test]
        fn the_quick_way_says_the_same_as_the_slow_one(
            model in "[a-z\\\\u0041é\"]{0,4}", stream in 0_usize..5, n in prop::option::of(-1_i64..3), max in prop::option::of(0_u64..3),
            temperature in prop::option::of(-1.0_f64..3.0), role in 0_usize..5, content in 0_usize..6, pretty in any::<bool>(),
        ) {
            let role = ["user", "assistant", "tool", "boss", ""][role];
            let mut body = json!({"model": model, "messages": [{"role": role}], "x": {"model": 1}});
            body["messages"][0]["content"] = [json!("hi\n"), json!(null), json!([{"type": "text"}]), json!([]), json!(3), json!(["a"])][content].clone();
            body["stream"] = [json!(true), json!(false), json!(null), json!("x"), json!(1)][stream].clone();
            body["stream_options"] = [json!({"include_usage": true}), json!(null), json!({}), json!({"include_usage": 1}), json!([])][stream].clone();
            body["n"] = json!(n);
            body["max_tokens"] = json!(max);
            body["temperature"] = json!(temperature);
            let text: Bytes = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) }.unwrap().into();

            let slow = object(text.clone()).and_then(|object| {
                fields::check(&object, CHAT)?;
                messages::check(object.get("messages").unwrap())?;
                request(object, RequestKind::Chat, true)
            });
            match (quick::chat_request(&text, true), slow) {
                (Some(quick), Ok(slow)) => {
                    // The places of the first messages are found by the quick way alone.
                    prop_assert_eq!(quick.session(), slow.session());
                    prop_assert_eq!(quick.model, slow.model);
                    prop_assert_eq!((quick.stream, quick.include_usage, quick.max_output_tokens), (slow.stream, slow.include_usage, slow.max_output_tokens));
                    prop_assert_eq!(quick.rival, slow.rival);
                    let mut places = quick.places;
                    places.session.opening = [None, None];
                    prop_assert_eq!(places, slow.places);
                    prop_assert_eq!(quick.n, slow.n);
                }
                (Some(_), Err(error)) => prop_assert!(false, "only the slow way refuses: {}", error),
                // What the quick way does not take, the slow one looks at.
                (None, _) => {}
            }
        }

        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = chat_request(body.clone().into(), true);
            let _ = completion_request(body.clone().into());
            let _ = embed_request(body.into());
        }

        #[test]
        fn no_value_of_a_member_panics(at in 0_usize..40, value in "[\\[\\]{}\",:0-9a-z.eE+-]{0,24}") {
            let name = CHAT.get(at).map_or("messages", |(name, _)| name);
            let body = format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":{value}}}],\"{name}_\":1,\"x\":{value}}}");
            let _ = chat_request(body.into(), true);
            let _ = chat_request(format!("{{\"{name}\":{value}}}").into(), true);
        }
    }
}
