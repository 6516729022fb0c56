//! Ollama, by its native API.
//!
//! The crate `ollama-rs` lends its types. Its client is not used: it gives up a line whose characters the network
//! cuts in two, hides errors in a stream, and loses statuses, on which fail-over depends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ollama_rs::models::LocalModel;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::decode::{self, Lines};
use super::error::{ErrorKind, ProviderError};
use super::stream::FrameStream;
use super::transport::Target;
use super::upstream::Upstream;
use super::{Answer, Content, ModelCard, Provider, RawRequest, RawResponse, Shared};
use crate::config::{Fault, ProviderConfig};
use crate::fairness;
use crate::llm::{ChatRequest, Completion, EmbedRequest, Embeddings, Fold, Frames, RequestKind, json_fault};
use crate::wire::Invalid;
use crate::wire::ollama::{self as wire, LineDecoder};

const TAGS_TIMEOUT: Duration = Duration::from_secs(10);

/// An Ollama server.
#[derive(Debug)]
struct Ollama {
    upstream: Arc<Upstream>,
    chat: Target,
    generate: Target,
    embed: Target,
    tags: Target,
}

pub(super) fn build(config: &ProviderConfig, shared: &Shared) -> Result<Arc<dyn Provider>, Fault> {
    let mut config = config.clone();
    // Addresses are often copied with the API's own path behind them.
    config.base_url = config.base_url.map(|url| {
        let url = url.trim_end_matches('/');
        url.strip_suffix("/api").or_else(|| url.strip_suffix("/v1")).unwrap_or(url).to_owned()
    });
    let upstream = Upstream::new(&config, shared, "/")?;
    Ok(Arc::new(Ollama {
        chat: upstream.target("api/chat")?,
        generate: upstream.target("api/generate")?,
        embed: upstream.target("api/embed")?,
        tags: upstream.target("api/tags")?,
        upstream: Arc::new(upstream),
    }))
}

impl Ollama {
    fn untranslatable(&self, invalid: Invalid) -> ProviderError {
        self.upstream.failed(ErrorKind::Untranslatable(invalid.into()))
    }

    fn protocol(&self, reason: impl Into<String>) -> ProviderError {
        self.upstream.failed(ErrorKind::Protocol(reason.into()))
    }

    async fn stream(
        &self,
        target: &Target,
        body: Bytes,
        decoder: LineDecoder,
    ) -> Result<FrameStream, ProviderError> {
        let started = Instant::now();
        let response = self.upstream.post(target, body).await?;
        let frames = decode::frames(self.upstream.clone(), response, Lines::new(decoder));
        let (provider, redactor) = (self.upstream.provider.clone(), self.upstream.redactor.clone());
        Ok(FrameStream::new(frames, provider, redactor, &self.upstream.timeouts, started))
    }

    async fn whole(
        &self,
        target: &Target,
        body: Bytes,
        mut decoder: LineDecoder,
        request: &ChatRequest,
    ) -> Result<Completion, ProviderError> {
        let (answer, kind) = (self.upstream.ask(target, body).await?, request.kind);
        let read = fairness::aside(answer.len(), move || Ok(completion(&mut decoder, kind, &answer))).await;
        self.upstream.understood(read)?.map_err(|fault| fault.into_error(&self.upstream))
    }
}

/// The answer that is one line.
fn completion(
    decoder: &mut LineDecoder,
    kind: RequestKind,
    answer: &[u8],
) -> Result<Completion, decode::Fault> {
    let mut fold = Fold::new(kind);
    let frames = decoder.line(answer)?.unwrap_or(Frames::none());
    if !frames.is_empty() && !frames.read().ends.are_all() {
        return Err(decode::Fault::of("its answer ended without a finish reason".to_owned()));
    }
    fold.push(&frames).map_err(decode::Fault::of)?;
    fold.finish().map_err(decode::Fault::of)
}

#[async_trait]
impl Provider for Ollama {
    fn name(&self) -> &str {
        &self.upstream.provider
    }

    async fn chat(&self, model: &str, request: &ChatRequest) -> Result<Answer, ProviderError> {
        let translated =
            wire::generation_request(model, request).map_err(|invalid| self.untranslatable(invalid))?;
        if !translated.dropped.is_empty() {
            tracing::debug!(provider = %self.upstream.provider, fields = ?translated.dropped, "Fields that Ollama does not know are left out");
        }
        let target = match request.kind {
            RequestKind::Chat => &self.chat,
            RequestKind::Completion => &self.generate,
        };
        let decoder = LineDecoder::new(request.kind, model);
        let content = if request.stream {
            Content::Stream(self.stream(target, translated.body, decoder).await?)
        } else {
            Content::Whole(self.whole(target, translated.body, decoder, request).await?)
        };
        Ok(Answer { content, ignored_options: translated.ignored, variant: None })
    }

    async fn models(&self) -> Result<Vec<ModelCard>, ProviderError> {
        let answer = self.upstream.get(&self.tags, TAGS_TIMEOUT).await?;
        read_tags(&answer).map_err(|reason| self.protocol(reason))
    }

    async fn probe(&self, path: Option<&str>, limit: Duration) -> Result<(), ProviderError> {
        self.upstream.probe(path, &self.tags, limit).await
    }

    async fn embed(&self, model: &str, request: &EmbedRequest) -> Result<Embeddings, ProviderError> {
        let body = wire::embed_request(model, request).map_err(|invalid| self.untranslatable(invalid))?;
        let answer = self.upstream.ask(&self.embed, body).await?;
        wire::embed_answer(model, request, &answer).map_err(|reason| self.protocol(reason))
    }

    async fn forward(&self, request: RawRequest) -> Result<RawResponse, ProviderError> {
        self.upstream.forward(request).await
    }
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    models: Vec<Value>,
}

fn read_tags(answer: &[u8]) -> Result<Vec<ModelCard>, String> {
    let tags: Tags = serde_json::from_slice(answer).map_err(|error| json_fault(&error))?;
    tags.models.into_iter().map(read_tag).collect()
}

fn read_tag(tag: Value) -> Result<ModelCard, String> {
    let model: LocalModel = serde_json::from_value(tag.clone()).map_err(|error| json_fault(&error))?;
    let context_tokens = tag.pointer("/details/context_length").and_then(Value::as_u64);
    let mut details = Map::new();
    if let Value::Object(tag) = tag {
        details = tag.into_iter().filter(|(name, _)| !matches!(name.as_str(), "name" | "model")).collect();
    }
    Ok(ModelCard { id: model.name, context_tokens, details, ..ModelCard::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tags_become_cards_that_keep_what_clients_read() {
        let tags = json!({"models": [{"name": "a:latest", "model": "a:latest", "modified_at": "t", "size": 9, "digest": "d",
            "details": {"family": "llama", "context_length": 2048}}]});

        let cards = read_tags(tags.to_string().as_bytes()).unwrap();

        assert_eq!((cards[0].id.as_str(), cards[0].context_tokens), ("a:latest", Some(2048)));
        assert_eq!(cards[0].details["digest"], "d");
        assert!(read_tags(b"{\"models\":[{}]}").is_err());
    }
}
