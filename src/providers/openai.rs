//! Every server that speaks OpenAI's API: bytes in, bytes out.
//!
//! The caller's own body goes on with the model's name replaced and, for streams, with usage asked for.
//! vLLM and llama.cpp speak the same with words of their own, which a [`Dialect`] lists.

mod counting;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::error::{ErrorKind, ProviderError};
use super::frames::{SseSplitter, are_events, without_done};
use super::stream::FrameStream;
use super::transport::Target;
use super::upstream::{STOPPED, Upstream};
use super::{Answer, Content, ModelCard, Provider, RawRequest, RawResponse, Shared, decode, listing};
use crate::config::{Fault, ProviderConfig};
use crate::engine::Place;
use crate::fairness;
use crate::llm::{
    Change, ChatRequest, Completion, Count, CountRequest, EmbedRequest, Embeddings, Ends, Fold, Mapped,
    RequestKind, TOO_DEEP, TroubleKind, Usage, is_too_deep, json_fault, read_within, repaired,
};

pub(super) use counting::Counts;

/// Who asks for a list of models does not want to wait for long.
const MODELS_TIMEOUT: Duration = Duration::from_secs(10);

/// What sets servers of the same API apart.
#[derive(Debug)]
pub(super) struct Dialect {
    /// The gateway's options, and what they are called here.
    pub(super) options: &'static [(&'static str, &'static str)],
    /// Whether whole answers are asked for as streams, because the server notices only in a
    /// stream that nobody listens any more.
    pub(super) folds_whole_answers: bool,
    /// Where the server says how it is, below its root; its list of models is asked for otherwise.
    pub(super) health_path: Option<&'static str>,
    /// By what it counts tokens, if it does so for nothing.
    pub(super) counts: Option<Counts>,
}

const OPENAI: Dialect = Dialect {
    options: &[
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("max_tokens", "max_tokens"),
        ("seed", "seed"),
        ("stop", "stop"),
        ("presence_penalty", "presence_penalty"),
        ("frequency_penalty", "frequency_penalty"),
    ],
    folds_whole_answers: false,
    health_path: None,
    counts: None,
};

/// A server that speaks OpenAI's API.
#[derive(Debug)]
pub(super) struct OpenAi {
    upstream: Arc<Upstream>,
    dialect: &'static Dialect,
    chat_target: Target,
    completions_target: Target,
    embeddings_target: Target,
    models_target: Target,
    /// Where the models are asked for, if that is elsewhere.
    models_upstream: Option<Upstream>,
}

pub(super) fn build(config: &ProviderConfig, shared: &Shared) -> Result<Arc<dyn Provider>, Fault> {
    Ok(Arc::new(OpenAi::new(config, shared, &OPENAI)?))
}

impl OpenAi {
    pub(super) fn new(
        config: &ProviderConfig,
        shared: &Shared,
        dialect: &'static Dialect,
    ) -> Result<Self, Fault> {
        let upstream = Upstream::new(config, shared, "/v1")?;
        Self::of(upstream, Upstream::of_models(config, shared)?, dialect)
    }

    /// An engine that the gateway runs itself, which `config` names by its address and its key.
    pub(super) fn of_engine(
        place: &Place,
        config: &ProviderConfig,
        dialect: &'static Dialect,
    ) -> Result<Self, Fault> {
        Self::of(Upstream::of_engine(place, config)?, None, dialect)
    }

    fn of(
        upstream: Upstream,
        models_upstream: Option<Upstream>,
        dialect: &'static Dialect,
    ) -> Result<Self, Fault> {
        Ok(Self {
            chat_target: upstream.target("chat/completions")?,
            completions_target: upstream.target("completions")?,
            embeddings_target: upstream.target("embeddings")?,
            models_target: models_upstream.as_ref().unwrap_or(&upstream).target("models")?,
            models_upstream,
            upstream: Arc::new(upstream),
            dialect,
        })
    }

    fn url(&self, kind: RequestKind) -> &Target {
        match kind {
            RequestKind::Chat => &self.chat_target,
            RequestKind::Completion => &self.completions_target,
        }
    }

    async fn stream(&self, url: &Target, body: Bytes) -> Result<FrameStream, ProviderError> {
        let started = Instant::now();
        let response = self.upstream.post(url, body).await?;
        let frames = decode::frames(self.upstream.clone(), response, SseSplitter::default());
        let (provider, redactor) = (self.upstream.provider.clone(), self.upstream.redactor.clone());
        Ok(FrameStream::new(frames, provider, redactor, &self.upstream.timeouts, started))
    }

    async fn whole(&self, url: &Target, body: Bytes, kind: RequestKind) -> Result<Completion, ProviderError> {
        let answer = self.upstream.ask(url, body).await?;
        let read = fairness::aside(answer.len(), move || Ok(completion(answer, kind))).await;
        self.upstream.understood(read)?.map_err(|fault| fault.into_error(&self.upstream))
    }

    /// Asks for a stream and puts it together.
    async fn folded(
        &self,
        url: &Target,
        body: Bytes,
        kind: RequestKind,
    ) -> Result<Completion, ProviderError> {
        fold(self.stream(url, body).await?, kind).await
    }
}

#[async_trait]
impl Provider for OpenAi {
    fn name(&self) -> &str {
        &self.upstream.provider
    }

    async fn chat(&self, model: &str, request: &ChatRequest) -> Result<Answer, ProviderError> {
        let Mapped { taken, ignored } = request.options.map(self.dialect.options, &request.body);
        let streams = request.stream || self.dialect.folds_whole_answers;
        let body = outgoing(model, request, streams, &taken);
        let url = self.url(request.kind);
        let content = match (request.stream, streams) {
            (true, _) => Content::Stream(self.stream(url, body).await?),
            (false, true) => Content::Whole(self.folded(url, body, request.kind).await?),
            (false, false) => Content::Whole(self.whole(url, body, request.kind).await?),
        };
        Ok(Answer { content, ignored_options: ignored, variant: None })
    }

    async fn models(&self) -> Result<Vec<ModelCard>, ProviderError> {
        let upstream = self.models_upstream.as_ref().unwrap_or(&self.upstream);
        let answer = upstream.get(&self.models_target, MODELS_TIMEOUT).await?;
        listing::read(&upstream.provider, &answer)
            .map_err(|reason| self.upstream.failed(ErrorKind::Protocol(reason)))
    }

    async fn probe(&self, path: Option<&str>, limit: Duration) -> Result<(), ProviderError> {
        self.upstream.probe(path.or(self.dialect.health_path), &self.models_target, limit).await
    }

    async fn embed(&self, model: &str, request: &EmbedRequest) -> Result<Embeddings, ProviderError> {
        let body = request.body.edit(&[Change::Set("model", Value::from(model).to_string().into())]);
        let answer = self.upstream.ask(&self.embeddings_target, body).await?;
        let read = fairness::aside(answer.len(), move || embeddings(&answer)).await;
        self.upstream.understood(read)
    }

    async fn count(&self, model: &str, request: &CountRequest) -> Result<Option<Count>, ProviderError> {
        self.counted(model, request).await
    }

    async fn forward(&self, request: RawRequest) -> Result<RawResponse, ProviderError> {
        self.upstream.forward(request).await
    }
}

/// The caller's body as it goes to the server.
fn outgoing(model: &str, request: &ChatRequest, streams: bool, options: &[(&'static str, Value)]) -> Bytes {
    let places = &request.places;
    let said = |place: &Option<Range<usize>>| place.clone().and_then(|place| request.body.text().get(place));
    // The same name needs no change, and then mostly nothing does.
    let model = (request.model != model).then(|| quoted(model));
    let stream = if streams { "true" } else { "false" };
    let stream =
        (said(&places.stream).unwrap_or(b"false") != stream.as_bytes()).then_some(Cow::Borrowed(stream));
    let stream_options =
        (streams && !request.include_usage).then(|| with_usage(said(&places.stream_options)));
    if options.is_empty()
        && let Some(body) = spliced(request, [&model, &stream, &stream_options])
    {
        return body;
    }
    let mut changes: Vec<Change<'_>> = Vec::with_capacity(3 + options.len());
    changes.extend(model.map(|value| Change::Set("model", value)));
    changes.extend(stream.map(|value| Change::Set("stream", value)));
    changes.extend(stream_options.map(|value| Change::Set("stream_options", value)));
    changes.extend(options.iter().map(|(name, value)| Change::Set(name, value.to_string().into())));
    request.body.edit(&changes)
}

/// The caller's body with other values for model, `stream` and `stream_options` where they stand, in one copy; the body
/// itself, if there are none. `None` where a value has no place yet; only the options of a stream may be added.
fn spliced(
    request: &ChatRequest,
    [model, stream, stream_options]: [&Option<Cow<'_, str>>; 3],
) -> Option<Bytes> {
    let (text, places) = (request.body.text(), &request.places);
    let mut edits: Vec<(&Range<usize>, &str)> = Vec::with_capacity(3);
    for (place, value) in [(&places.model, model), (&places.stream, stream)] {
        if let Some(value) = value {
            edits.push((place.as_ref()?, value));
        }
    }
    let mut added = None;
    match (&places.stream_options, stream_options) {
        (_, None) => {}
        (Some(place), Some(value)) => edits.push((place, value)),
        (None, Some(value)) => added = Some(value),
    }
    if edits.is_empty() && added.is_none() {
        return Some(text.clone());
    }
    edits.sort_unstable_by_key(|(place, _)| place.start);
    let growth: usize = edits.iter().map(|(_, value)| value.len()).sum();
    let mut out = Vec::with_capacity(text.len() + growth + 64);
    let mut copied = 0;
    for (place, value) in edits {
        out.extend_from_slice(text.get(copied..place.start)?);
        out.extend_from_slice(value.as_bytes());
        copied = place.end;
    }
    let end = memchr::memrchr(b'}', text)?;
    out.extend_from_slice(text.get(copied..end)?);
    if let Some(options) = added {
        // There are members before it: the model and the messages at least.
        out.extend_from_slice(b",\"stream_options\":");
        out.extend_from_slice(options.as_bytes());
    }
    out.extend_from_slice(text.get(end..)?);
    Some(out.into())
}

/// A name as JSON. Names of models hold nothing that needs an escape, nearly always.
fn quoted(name: &str) -> Cow<'static, str> {
    if name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')) {
        format!("\"{name}\"").into()
    } else {
        Value::from(name).to_string().into()
    }
}

/// The caller's `stream_options` with usage asked for.
fn with_usage(said: Option<&[u8]>) -> Cow<'static, str> {
    let said = said.and_then(|json| serde_json::from_slice::<Map<String, Value>>(json).ok());
    match said {
        None => r#"{"include_usage":true}"#.into(),
        Some(mut options) => {
            options.insert("include_usage".to_owned(), true.into());
            Value::Object(options).to_string().into()
        }
    }
}

/// A whole answer, whatever form it comes in: some servers always stream, or write the end of a stream behind it.
fn completion(answer: Bytes, kind: RequestKind) -> Result<Completion, decode::Fault> {
    if !are_events(&answer) {
        let whole = answer.slice_ref(without_done(&answer));
        return Completion::from_openai(whole).map_err(|reason| fault_of(&answer, reason));
    }
    let (mut splitter, mut runs) = (SseSplitter::default(), VecDeque::new());
    splitter.push(answer, &mut runs)?;
    splitter.finish(&mut runs)?;
    let (mut fold, mut ends) = (Fold::new(kind), Ends::default());
    for run in runs {
        let reading = run.read();
        if let Some(trouble) = reading.trouble {
            let fault = decode::Fault::of("it reported an error in its answer".to_owned());
            return Err(match trouble.kind {
                TroubleKind::Reported(words) => fault.with_words(words),
                TroubleKind::Unreadable(reason) => decode::Fault::of(reason),
            });
        }
        ends.add(reading.ends);
        fold.push(&run).map_err(decode::Fault::of)?;
    }
    if !ends.are_all() {
        return Err(decode::Fault::of("its answer ended without a finish reason".to_owned()));
    }
    fold.finish().map_err(decode::Fault::of)
}

/// Why an answer is none: for the error that it reports in its place, or for `reason`.
fn fault_of(answer: &[u8], reason: String) -> decode::Fault {
    let members: Map<String, Value> = read_within(without_done(answer)).unwrap_or_default();
    match members.get("error").filter(|error| !error.is_null()) {
        Some(error) => {
            decode::Fault::of("it reported an error in its answer".to_owned()).with_words(error.to_string())
        }
        None => decode::Fault::of(reason),
    }
}

/// Puts a streamed answer together.
pub(super) async fn fold(mut frames: FrameStream, kind: RequestKind) -> Result<Completion, ProviderError> {
    let provider: Arc<str> = frames.provider().clone();
    let unreadable = |reason: String| ProviderError::new(&provider, ErrorKind::Protocol(reason));
    let stopped = || unreadable(STOPPED.to_owned());
    let mut fold = Fold::new(kind);
    while let Some(item) = frames.next().await {
        let run = item?.frames;
        let pushed = fairness::aside(run.bytes().len(), move || {
            fold.push(&run)?;
            Ok(fold)
        });
        fold = pushed.await.ok_or_else(stopped)?.map_err(unreadable)?;
    }
    fairness::aside(fold.weight(), move || fold.finish()).await.ok_or_else(stopped)?.map_err(unreadable)
}

#[derive(Deserialize)]
struct EmbeddingsEnvelope<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

/// An answer with embeddings, repaired if it cannot be read as it is.
fn embeddings(answer: &Bytes) -> Result<Embeddings, String> {
    if is_too_deep(answer) {
        return Err(TOO_DEEP.to_owned());
    }
    embedding_usage(answer).map(|usage| Embeddings { body: answer.clone(), usage }).or_else(|fault| {
        let body: Bytes = repaired(answer).ok_or_else(|| fault.clone())?.into();
        let usage = embedding_usage(&body).map_err(|_| fault)?;
        Ok(Embeddings { body, usage })
    })
}

fn embedding_usage(answer: &[u8]) -> Result<Option<Usage>, String> {
    let envelope: EmbeddingsEnvelope<'_> =
        serde_json::from_slice(answer).map_err(|error| json_fault(&error))?;
    if envelope.data.is_empty() {
        return Err("no embeddings in the answer".to_owned());
    }
    let usage = envelope.usage.and_then(|usage| Usage::from_openai(usage.get().as_bytes()));
    Ok(usage.map(Usage::of_prompt_alone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::openai::chat_request;
    use serde_json::json;

    fn sent(body: &str, streams: bool) -> String {
        let request = chat_request(body.to_owned().into(), false).unwrap();
        String::from_utf8(outgoing("up", &request, streams, &[]).to_vec()).unwrap()
    }

    #[test]
    fn a_body_goes_on_with_the_model_replaced_in_place() {
        let body = r#"{ "messages": [{"role":"user","content":"hi"}], "model" : "public", "x": 1.10 }"#;
        assert_eq!(
            sent(body, false),
            r#"{ "messages": [{"role":"user","content":"hi"}], "model" : "up", "x": 1.10 }"#
        );
    }

    #[test]
    fn streams_always_ask_for_usage() {
        for (options, expected) in [
            (r"", r#","stream_options":{"include_usage":true}"#),
            (r#","stream_options":{"include_usage":true}"#, r#","stream_options":{"include_usage":true}"#),
            (
                r#","stream_options":{"x":1,"include_usage":false}"#,
                r#","stream_options":{"x":1,"include_usage":true}"#,
            ),
            (r#","stream_options":null"#, r#","stream_options":{"include_usage":true}"#),
        ] {
            let body = format!(
                r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"stream":true{options}}}"#
            );
            let expected = format!(
                r#"{{"model":"up","messages":[{{"role":"user","content":"hi"}}],"stream":true{expected}}}"#
            );
            assert_eq!(sent(&body, true), expected);
        }
    }

    #[test]
    fn the_default_of_a_facade_is_put_into_words() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        let value: Value = serde_json::from_str(&sent(body, true)).unwrap();
        assert_eq!(
            (&value["stream"], &value["stream_options"]),
            (&json!(true), &json!({"include_usage": true}))
        );
    }
}
