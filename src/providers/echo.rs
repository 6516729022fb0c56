//! A model that is always there: it repeats the last user message, word by word.
//!
//! For trying the gateway without any server, and for testing how a client takes it when things go wrong. A
//! request may ask for trouble in a member `echo`:
//!
//! ```json
//! {"first_delay_ms": 500, "delay_ms": 20, "status": 503, "retry_after": 3, "hang": true, "cut_after": 2, "error_after": 2}
//! ```
//!
//! `status` fails before the answer, `cut_after` ends a stream without an end after so many words,
//! `error_after` reports an error in it, `hang` never answers. A raw request comes back as it would have gone out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::error::{ErrorKind, ProviderError, Rejection};
use super::handover::Handover;
use super::stream::{FrameStream, RawFrames};
use super::{Answer, Content, ModelCard, Provider, RawRequest, RawResponse, Shared, openai};
use crate::config::{Fault, ProviderConfig, Timeouts};
use crate::llm::{
    ChatRequest, EmbedRequest, Embeddings, Frames, RequestKind, Usage, changes_answers, json_fault,
};
use crate::wire::openai::ChunkWriter;

/// Length of the vectors that stand for embeddings.
const DIMENSIONS: usize = 8;

/// Bytes of the pieces of an answer that is not given word by word.
const PIECE_BYTES: usize = 32 * 1024;

#[derive(Debug)]
struct Echo {
    name: Arc<str>,
    timeouts: Timeouts,
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of the table")]
pub(super) fn build(config: &ProviderConfig, _shared: &Shared) -> Result<Arc<dyn Provider>, Fault> {
    Ok(Arc::new(Echo { name: config.name.as_str().into(), timeouts: config.timeouts }))
}

/// The trouble that a request asks for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Trouble {
    first_delay_ms: u64,
    delay_ms: u64,
    status: Option<u16>,
    retry_after: Option<u64>,
    hang: bool,
    cut_after: Option<usize>,
    error_after: Option<usize>,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    messages: Vec<Value>,
    #[serde(default)]
    prompt: Value,
    #[serde(default)]
    echo: Value,
}

impl Trouble {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[async_trait]
impl Provider for Echo {
    fn name(&self) -> &str {
        &self.name
    }

    async fn chat(&self, model: &str, request: &ChatRequest) -> Result<Answer, ProviderError> {
        let asked: Asked = serde_json::from_slice(request.body.text())
            .map_err(|error| self.rejected("body", &json_fault(&error)))?;
        let trouble = self.trouble(asked.echo.clone())?;
        Handover::note(true);
        let started = Instant::now();
        self.make(&trouble).await?;
        let frames = frames(model, request, &asked, &trouble);
        let frames = FrameStream::new(frames, self.name.clone(), Arc::default(), &self.timeouts, started);
        let content = if request.stream {
            Content::Stream(frames)
        } else {
            Content::Whole(openai::fold(frames, request.kind).await?)
        };
        Ok(Answer { content, ignored_options: ignored(request), variant: None })
    }

    async fn models(&self) -> Result<Vec<ModelCard>, ProviderError> {
        Ok(vec![ModelCard { id: "echo".to_owned(), ..ModelCard::default() }])
    }

    async fn embed(&self, model: &str, request: &EmbedRequest) -> Result<Embeddings, ProviderError> {
        let input: Value =
            request.body.get("input").and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        let in_base64 = request.body.get("encoding_format") == Some(b"\"base64\"");
        let texts = match input {
            Value::Array(items) if items.iter().all(|item| !item.is_number()) => items,
            one => vec![one],
        };
        let data: Vec<Value> = texts
            .iter()
            .enumerate()
            .map(|(index, text)| crate::wire::ollama::embedding(index, &vector(text), in_base64))
            .collect();
        let tokens: u64 = texts.iter().map(|text| text.as_str().map_or(1, words_in)).sum();
        let usage = Usage { input_tokens: tokens, ..Usage::default() };
        let body = json!({"object": "list", "data": data, "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens}});
        Ok(Embeddings { body: body.to_string().into(), usage: Some(usage) })
    }

    /// What would have travelled.
    async fn forward(&self, request: RawRequest) -> Result<RawResponse, ProviderError> {
        let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
        let headers = request.headers.iter();
        let headers: serde_json::Map<String, Value> =
            headers.map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
        let body = request.body.map(|body| serde_json::from_slice(&body).unwrap_or_else(|_| text(&body)));
        let echo = json!({"method": request.method.as_str(), "path": request.path, "query": request.query,
            "headers": headers, "body": body});
        let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let body = stream::iter([Ok(echo.to_string().into())]).boxed();
        Ok(RawResponse {
            status: StatusCode::OK,
            headers: json,
            more_headers: Arc::default(),
            location: None,
            body,
        })
    }
}

impl Echo {
    fn trouble(&self, echo: Value) -> Result<Trouble, ProviderError> {
        if !echo.is_object() {
            // The legacy completions have a switch of the same name.
            return Ok(Trouble::default());
        }
        serde_json::from_value(echo)
            .map_err(|_| self.rejected("echo", "`echo` asks for trouble that the model does not know"))
    }

    fn rejected(&self, param: &str, message: &str) -> ProviderError {
        let (code, param) = (Some("invalid_value".to_owned()), Some(param.to_owned()));
        let rejection = Rejection { status: 400, message: message.to_owned(), code, param };
        self.failed(ErrorKind::Rejected(Box::new(rejection)))
    }

    fn failed(&self, kind: ErrorKind) -> ProviderError {
        ProviderError::new(&self.name, kind)
    }

    /// The trouble that comes before an answer.
    async fn make(&self, trouble: &Trouble) -> Result<(), ProviderError> {
        if trouble.hang {
            std::future::pending::<()>().await;
        }
        let retry_after = trouble.retry_after.map(Duration::from_secs);
        let rejection = |status| {
            let message = "the echo model fails because it was asked to".to_owned();
            Box::new(Rejection { status, message, code: None, param: None })
        };
        match trouble.status {
            None | Some(200) => Ok(()),
            Some(429) => Err(self.failed(ErrorKind::RateLimited { retry_after, rejection: rejection(429) })),
            Some(401) => Err(self.failed(ErrorKind::Unauthorized { status: 401 })),
            Some(403) => Err(self.failed(ErrorKind::Forbidden(rejection(403)))),
            Some(status @ 400..=499) => Err(self.failed(ErrorKind::Rejected(rejection(status)))),
            Some(status) => Err(self.failed(ErrorKind::Unavailable { status, retry_after })),
        }
    }
}

/// What the request says of an answer and that changes nothing here: all but how long it may get. What says no more than
/// what holds anyway is no such thing.
fn ignored(request: &ChatRequest) -> Vec<String> {
    let in_options: Option<Map<String, Value>> =
        request.body.get("options").and_then(|json| serde_json::from_slice(json).ok());
    let said = |(name, value): (&str, &[u8])| {
        let is_default = value == b"null" || (name == "n" && value == b"1");
        let is_limit = ["max_tokens", "max_completion_tokens"].contains(&name);
        (changes_answers(name) && !is_default && !is_limit).then(|| name.to_owned())
    };
    let mut ignored: Vec<String> = request.body.members().filter_map(said).collect();
    let in_options = in_options.iter().flat_map(Map::keys).map(String::as_str);
    let set = request.options.iter().map(|(name, _)| name).filter(|name| *name != "max_tokens");
    for name in in_options.chain(set) {
        if !ignored.iter().any(|known| known == name) {
            ignored.push(name.to_owned());
        }
    }
    ignored
}

/// The frames of an answer, with the trouble that comes within it.
fn frames(model: &str, request: &ChatRequest, asked: &Asked, trouble: &Trouble) -> RawFrames {
    let (mut said, input_tokens) = heard(request.kind, asked);
    let limit =
        request.max_output_tokens.or_else(|| request.options.get("max_tokens").and_then(Value::as_u64));
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let (words, bytes) = said
        .split_inclusive(char::is_whitespace)
        .take(limit)
        .fold((0, 0), |(words, bytes), word| (words + 1, bytes + word.len()));
    let reason = if bytes < said.len() { "length" } else { "stop" };
    said.truncate(bytes);
    let usage = Usage { input_tokens, output_tokens: words, ..Usage::default() };
    // Of an answer that is put together again no words are seen, unless something happens between them.
    let texts = Texts { said, at: 0, are_words: request.stream || !trouble.is_none() };
    let after = trouble.cut_after.into_iter().chain(trouble.error_after).min().unwrap_or(usize::MAX);
    let error = trouble.error_after.map(|_| Step::Error);
    let steps = texts.map(Step::Text).chain([Step::Finish, Step::Usage]).take(after).chain(error);
    let mut writer = ChunkWriter::new(request.kind, model);
    let steps = steps.map(move |step| {
        Ok(match step {
            Step::Text(text) => writer.text(&text),
            Step::Finish => writer.finish(reason),
            Step::Usage => writer.usage(&usage),
            Step::Error => {
                Frames::of_json(br#"{"error":{"message":"the echo model fails because it was asked to"}}"#)
            }
        })
    });
    let (first_delay_ms, delay_ms) = (trouble.first_delay_ms, trouble.delay_ms);
    let paced = stream::iter(steps).enumerate().then(move |(index, step)| async move {
        let delay = if index == 0 { first_delay_ms } else { delay_ms };
        if delay > 0 {
            sleep(Duration::from_millis(delay)).await;
        }
        step
    });
    paced.boxed()
}

/// What an answer is made of.
enum Step {
    Text(String),
    Finish,
    Usage,
    Error,
}

/// What is said, word by word or in large pieces. Made when it is asked for: as words a long text takes much more memory.
struct Texts {
    said: String,
    at: usize,
    are_words: bool,
}

impl Iterator for Texts {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let rest = self.said.get(self.at..).filter(|rest| !rest.is_empty())?;
        let piece = if self.are_words {
            rest.split_inclusive(char::is_whitespace).next()?
        } else {
            rest.get(..rest.floor_char_boundary(PIECE_BYTES))?
        };
        self.at += piece.len();
        Some(piece.to_owned())
    }
}

/// What is to be repeated, and how many words were said in all.
fn heard(kind: RequestKind, asked: &Asked) -> (String, u64) {
    if kind == RequestKind::Completion {
        let prompt = match &asked.prompt {
            Value::Array(prompts) => prompts.first().map(text_of).unwrap_or_default(),
            prompt => text_of(prompt),
        };
        let words = words_in(&prompt);
        return (prompt, words);
    }
    let content = |message: &Value| text_of(message.get("content").unwrap_or(&Value::Null));
    let words = asked.messages.iter().map(|message| words_in(&content(message))).sum();
    let last =
        asked.messages.iter().rev().find(|message| message.get("role").is_some_and(|role| role == "user"));
    (last.map(content).unwrap_or_default(), words)
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part.as_str().or_else(|| part.get("text")?.as_str()));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn words_in(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// A vector of length 1 that depends on the text alone: the letters, counted by their remainder.
fn vector(text: &Value) -> Vec<f32> {
    let mut counts = [0.0_f32; DIMENSIONS];
    for byte in text.to_string().bytes() {
        if let Some(count) = counts.get_mut(usize::from(byte) % DIMENSIONS) {
            *count += 1.0;
        }
    }
    let length = counts.iter().map(|count| count * count).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    counts.iter().map(|count| count / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::openai::{chat_request, embed_request};

    fn echo() -> Echo {
        Echo { name: "echo".into(), timeouts: Timeouts::default() }
    }

    async fn asked(body: Value) -> Result<Value, ErrorKind> {
        let request = chat_request(body.to_string().into(), false).unwrap();
        let answer = echo().chat("echo", &request).await.map_err(|error| error.kind)?;
        let Content::Whole(completion) = answer.content else { panic!("asked for a whole answer") };
        Ok(serde_json::from_slice(&completion.body).unwrap())
    }

    fn body(echo: &Value) -> Value {
        json!({"model": "echo", "echo": echo, "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Zażółć  gęślą\njaźń"}]})
    }

    #[tokio::test]
    async fn the_last_user_message_comes_back_to_the_letter() {
        let answer = asked(body(&Value::Null)).await.unwrap();
        assert_eq!(answer["choices"][0]["message"]["content"], "Zażółć  gęślą\njaźń");
        assert_eq!(answer["usage"], json!({"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}));
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }

    #[tokio::test]
    async fn an_answer_can_be_cut_by_length() {
        let mut body = body(&Value::Null);
        body["max_tokens"] = json!(1);
        let answer = asked(body).await.unwrap();
        assert_eq!(answer["choices"][0]["message"]["content"], "Zażółć ");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }

    #[tokio::test]
    async fn options_that_change_nothing_are_named() {
        let ignored = async |more: Value| {
            let mut body = body(&Value::Null);
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let request = chat_request(body.to_string().into(), false).unwrap();
            echo().chat("echo", &request).await.unwrap().ignored_options
        };
        let nothing =
            json!({"max_tokens": 3, "max_completion_tokens": 3, "n": 1, "top_p": null, "user": "u", "x": 1});
        assert!(ignored(nothing).await.is_empty());
        let options = json!({"temperature": 0.5, "repeat_penalty": 1.1, "tools": [], "n": 2,
            "options": {"num_ctx": 16384, "temperature": 0.5}});
        let named = ["temperature", "repeat_penalty", "tools", "n", "num_ctx"];
        assert_eq!(ignored(options).await, named);
    }

    #[tokio::test]
    async fn trouble_comes_as_asked_for() {
        let kind = |echo: Value| async move { asked(body(&echo)).await.unwrap_err() };
        assert!(matches!(kind(json!({"status": 503})).await, ErrorKind::Unavailable { status: 503, .. }));
        let limited = kind(json!({"status": 429, "retry_after": 3})).await;
        assert!(
            matches!(limited, ErrorKind::RateLimited { retry_after: Some(wait), .. } if wait.as_secs() == 3)
        );
        assert!(matches!(
            kind(json!({"status": 404})).await,
            ErrorKind::Rejected(rejection) if rejection.status == 404
        ));
        assert!(matches!(kind(json!({"cut_after": 1})).await, ErrorKind::Protocol(_)));
        assert!(matches!(kind(json!({"error_after": 1})).await, ErrorKind::Protocol(_)));
        assert!(matches!(kind(json!({"surprise": 1})).await, ErrorKind::Rejected(_)));
    }

    #[tokio::test]
    async fn embeddings_depend_on_the_text_alone() {
        let embed = |input: Value| async move {
            let request = embed_request(json!({"model": "echo", "input": input}).to_string().into()).unwrap();
            let body = echo().embed("echo", &request).await.unwrap().body;
            serde_json::from_slice::<Value>(&body).unwrap()
        };
        let both = embed(json!(["a b", "c"])).await;
        assert_eq!(both["data"][0]["embedding"], embed(json!("a b")).await["data"][0]["embedding"]);
        assert_ne!(both["data"][0]["embedding"], both["data"][1]["embedding"]);
        assert_eq!(both["usage"]["prompt_tokens"], 3);
    }
}
