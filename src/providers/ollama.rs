//! Ollama, by its native API.
//!
//! The client of the crate `ollama-rs` is not used: it gives up a line whose characters the network
//! cuts in two, hides errors in a stream, and loses statuses, on which fail-over depends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ollama_rs::models::LocalModel;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::decode::{self, Lines};
use super::error::{ErrorKind, ProviderError};
use super::stream::FrameStream;
use super::transport::Target;
use super::upstream::Upstream;
use super::{Answer, Content, ModelCard, Provider, RawRequest, RawResponse, Shared, listing};
use crate::config::{Fault, ProviderConfig};
use crate::fairness;
use crate::llm::{ChatRequest, Completion, EmbedRequest, Embeddings, Ends, Fold, Frames, RequestKind};
use crate::wire::Invalid;
use crate::wire::ollama::{self as wire, LineDecoder, LineFault};

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

/// An answer in one line, or in several, as servers give it that always stream.
fn completion(
    decoder: &mut LineDecoder,
    kind: RequestKind,
    answer: &[u8],
) -> Result<Completion, decode::Fault> {
    let (mut fold, mut ends) = (Fold::new(kind), Ends::default());
    let mut push = |frames: Option<Frames>| {
        let Some(frames) = frames else { return Ok(()) };
        ends.add(frames.read().ends);
        fold.push(&frames).map_err(decode::Fault::of)
    };
    match decoder.line(answer) {
        Err(LineFault::Unreadable(_)) if answer.trim_ascii().contains(&b'\n') => {
            for line in answer.split(|byte| *byte == b'\n') {
                push(decoder.line(line)?)?;
            }
        }
        whole => push(whole?)?,
    }
    if !ends.are_all() {
        return Err(decode::Fault::of("its answer ended without a finish reason".to_owned()));
    }
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
        read_tags(&self.upstream.provider, &answer).map_err(|reason| self.protocol(reason))
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

fn read_tags(provider: &str, answer: &[u8]) -> Result<Vec<ModelCard>, String> {
    Ok(listing::cards(provider, listing::rows(answer, ["models", "data"])?, tag_card))
}

/// The card of a row, whose members stay as they are, but for those that every client of Ollama reads: they are there, and of
/// the right kind.
fn tag_card(mut tag: Map<String, Value>) -> Option<ModelCard> {
    let context = tag.get("details").and_then(|details| details.get("context_length"));
    let context_tokens = context.and_then(listing::tokens);
    let model = LocalModel {
        name: listing::name(&mut tag, ["name", "model"])?,
        modified_at: tag.get("modified_at").and_then(Value::as_str).unwrap_or_default().to_owned(),
        size: tag.get("size").and_then(listing::tokens).unwrap_or_default(),
    };
    tag.retain(|name, _| !matches!(name.as_str(), "name" | "model"));
    tag.insert("modified_at".to_owned(), model.modified_at.into());
    tag.insert("size".to_owned(), model.size.into());
    Some(ModelCard { id: model.name, context_tokens, details: tag, ..ModelCard::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tags_become_cards_that_keep_what_clients_read() {
        let tags = json!({"models": [{"name": "a:latest", "model": "a:latest", "modified_at": "t", "size": 9, "digest": "d",
            "details": {"family": "llama", "context_length": 2048}}]});

        let cards = read_tags("p", tags.to_string().as_bytes()).unwrap();

        assert_eq!((cards[0].id.as_str(), cards[0].context_tokens), ("a:latest", Some(2048)));
        assert_eq!(cards[0].details["digest"], "d");
    }

    #[test]
    fn one_odd_row_loses_no_list() {
        let tags = json!({"models": [{"name": "a", "model": "a", "size": "", "modified_at": ""}, {"model": "b", "size": 1},
            {"name": "c", "size": -1.5, "modified_at": 7, "details": null}, {}, null, {"name": " "}]});
        let cards = read_tags("p", tags.to_string().as_bytes()).unwrap();
        assert_eq!(cards.iter().map(|card| card.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        let read = |card: &ModelCard| [card.details["size"].clone(), card.details["modified_at"].clone()];
        assert_eq!(
            cards.iter().map(read).collect::<Vec<_>>(),
            [[json!(0), json!("")], [json!(1), json!("")], [json!(0), json!("")]]
        );
        assert!(read_tags("p", b"{\"models\":7}").is_err() && read_tags("p", b"<html>").is_err());
    }
}
