//! llama.cpp's engines that the gateway runs itself: a lease, then a llama-server like any other.
//!
//! Whatever goes wrong before the first content is tried again unseen, once: on a larger engine when the prompt did not
//! fit, on a new one when the engine died.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Map;
use tokio::time::{Instant, sleep, timeout};

use super::error::{ErrorKind, ProviderError};
use super::llamacpp::LLAMA_CPP;
use super::openai::OpenAi;
use super::{Answer, Content, ModelCard, Provider, RawRequest, RawResponse, Shared};
use crate::config::{EngineModel, Fault, ModelSource, ProviderConfig};
use crate::engine::{Counting, Lease, Need, Pool, Thought};
use crate::llm::{ChatRequest, EmbedRequest, Embeddings, Usage};
use crate::telemetry::EngineMetrics;

/// Servers of engines that have ended are forgotten beyond so many.
const MOST_SERVERS: usize = 16;
/// The end of a process is noticed a moment after its connections broke.
const MOMENT: Duration = Duration::from_millis(100);

/// A provider whose engines the gateway runs.
#[derive(Debug)]
pub(super) struct Managed {
    config: ProviderConfig,
    pool: Arc<Pool>,
    models: Vec<Known>,
    // A std mutex: held for a look into a short list.
    servers: Mutex<Vec<(u64, Arc<OpenAi>)>>,
}

#[derive(Debug)]
struct Known {
    name: Arc<str>,
    context_tokens: u64,
    counting: Arc<Counting>,
    metrics: EngineMetrics,
}

/// Kept with an answer until its end.
#[derive(Debug)]
struct Held {
    lease: Lease,
    counting: Arc<Counting>,
    thought: Option<Thought>,
}

impl super::stream::Held for Held {
    fn used(&self, usage: Usage) {
        self.counting.learn(self.thought, self.lease.place(), usage);
    }

    fn fell_silent(&self) {
        self.lease.doubt();
    }
}

pub(super) fn build(config: &ProviderConfig, shared: &Shared) -> Result<Arc<dyn Provider>, Fault> {
    let ModelSource::Listed(models) = &config.models else {
        return Err(Fault::new(
            &config.place,
            "there is nobody to ask for the models of engines that do not run yet",
            "list the models with their `variants`, or give the `base_url` of a running llama-server",
        ));
    };
    let engines: Vec<(Arc<str>, EngineModel)> = models
        .iter()
        .filter_map(|model| Some((model.upstream.as_str().into(), model.engine.clone()?)))
        .collect();
    let provider: Arc<str> = config.name.as_str().into();
    let known = engines.iter().map(|(name, engine)| {
        let metrics = shared.engines.metrics().of_engines(&provider, name);
        Known {
            name: name.clone(),
            context_tokens: engine.variants.iter().map(|variant| variant.context_tokens).max().unwrap_or(0),
            counting: Arc::new(Counting::new(name.clone(), engine, metrics.clone())),
            metrics,
        }
    });
    Ok(Arc::new(Managed {
        models: known.collect(),
        pool: shared.engines.pool(&config.name, &config.engines, engines),
        config: config.clone(),
        servers: Mutex::default(),
    }))
}

impl Managed {
    fn known(&self, model: &str) -> Result<&Known, ProviderError> {
        let known = self.models.iter().find(|known| *known.name == *model);
        known.ok_or_else(|| self.failed(ErrorKind::Unsupported("a model without an engine")))
    }

    /// The time for an answer begins with the lease: how long a caller may wait for that is the planner's to say.
    async fn in_time<T>(
        &self,
        stream: bool,
        asked: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        let (limit, late) = ErrorKind::late(&self.config.timeouts, stream);
        timeout(limit, asked).await.unwrap_or_else(|_| Err(self.failed(late)))
    }

    fn failed(&self, kind: ErrorKind) -> ProviderError {
        ProviderError::new(&self.config.name.as_str().into(), kind)
    }

    async fn lease(&self, known: &Known, need: Need) -> Result<(Lease, Arc<OpenAi>), ProviderError> {
        let asked = Instant::now();
        let lease = self.pool.lease(&known.name, need).await;
        known.metrics.waited(asked.elapsed());
        let lease =
            lease.map_err(|error| ProviderError::no_engine(&self.config.name.as_str().into(), error))?;
        let server = self.server(&lease)?;
        Ok((lease, server))
    }

    /// The server of a leased engine, with its connections.
    fn server(&self, lease: &Lease) -> Result<Arc<OpenAi>, ProviderError> {
        let place = lease.place();
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, server)) = servers.iter().find(|(engine, _)| *engine == place.engine) {
            return Ok(server.clone());
        }
        let config = ProviderConfig {
            base_url: Some(place.base_url()),
            api_key: Some(place.api_key().clone()),
            ..self.config.clone()
        };
        let server = OpenAi::new(&config, &Shared::default(), &LLAMA_CPP)
            .map_err(|fault| self.failed(ErrorKind::Protocol(fault.problem)))?;
        let server = Arc::new(server);
        if servers.len() >= MOST_SERVERS {
            servers.remove(0);
        }
        servers.push((place.engine, server.clone()));
        Ok(server)
    }
}

/// What may still be tried before anybody has heard anything.
struct Tries {
    larger: bool,
    again: u32,
}

/// What llama-server says when requests that share a context have filled it.
const SHARED_CONTEXT_FULL: &str = "Context size has been exceeded";

impl Tries {
    /// Whether it is worth trying once more after a failure; what was learned from it goes into `need`.
    async fn next(&mut self, error: &ProviderError, need: &mut Need, metrics: &EngineMetrics) -> bool {
        match error.kind {
            ErrorKind::ContextTooLong { needed_tokens: Some(prompt_tokens), .. }
                if self.larger && prompt_tokens > need.prompt_tokens =>
            {
                self.larger = false;
                metrics.replanned();
                (need.prompt_tokens, need.is_counted) = (prompt_tokens, true);
                true
            }
            ErrorKind::Unreachable | ErrorKind::Protocol(_) | ErrorKind::Unavailable { .. }
                if self.again > 0 =>
            {
                self.again -= 1;
                if error.detail.as_deref().is_some_and(|words| words.contains(SHARED_CONTEXT_FULL)) {
                    need.is_alone = true;
                } else {
                    // The engine has died.
                    sleep(MOMENT).await;
                }
                true
            }
            _ => false,
        }
    }
}

#[async_trait]
impl Provider for Managed {
    fn name(&self) -> &str {
        &self.config.name
    }

    async fn chat(&self, model: &str, request: &ChatRequest) -> Result<Answer, ProviderError> {
        let known = self.known(model)?;
        let (mut need, thought) = known.counting.need(&self.pool, request).await;
        let mut tries = Tries { larger: true, again: 2 };
        loop {
            let (lease, server) = self.lease(known, need).await?;
            let variant = lease.place().variant.clone();
            let asked = async {
                let mut answer = server.chat(model, request).await?;
                if let Content::Stream(frames) = &mut answer.content {
                    frames.until_content().await?;
                }
                Ok(answer)
            };
            let answer = self.in_time(request.stream, asked).await;
            let error = match answer {
                Ok(mut answer) => {
                    let held = Held { lease, counting: known.counting.clone(), thought };
                    match &mut answer.content {
                        Content::Stream(frames) => frames.hold(Box::new(held)),
                        Content::Whole(completion) => {
                            completion
                                .usage
                                .iter()
                                .for_each(|usage| super::stream::Held::used(&held, *usage));
                        }
                    }
                    answer.variant = Some(variant);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if matches!(error.kind, ErrorKind::Timeout(_) | ErrorKind::Overdue(_)) {
                lease.doubt();
            }
            drop(lease);
            if !tries.next(&error, &mut need, &known.metrics).await {
                return Err(error);
            }
        }
    }

    async fn models(&self) -> Result<Vec<ModelCard>, ProviderError> {
        let card = |known: &Known| ModelCard {
            id: known.name.to_string(),
            context_tokens: Some(known.context_tokens),
            details: Map::new(),
        };
        Ok(self.models.iter().map(card).collect())
    }

    async fn embed(&self, model: &str, request: &EmbedRequest) -> Result<Embeddings, ProviderError> {
        let known = self.known(model)?;
        let mut need = known.counting.need_of_texts(&request.body);
        let mut tries = Tries { larger: true, again: 2 };
        loop {
            let (lease, server) = self.lease(known, need).await?;
            let error = match self.in_time(false, server.embed(model, request)).await {
                Err(error) if matches!(error.kind, ErrorKind::Unavailable { status: 501, .. }) => {
                    return Err(self.failed(ErrorKind::Unsupported("embeddings by this model")));
                }
                Err(error) => error,
                embeddings => return embeddings,
            };
            drop(lease);
            if !tries.next(&error, &mut need, &known.metrics).await {
                return Err(error);
            }
        }
    }

    async fn forward(&self, request: RawRequest) -> Result<RawResponse, ProviderError> {
        let model = match (&request.model, self.models.as_slice()) {
            (Some(model), _) => model.to_string(),
            (None, [only]) => only.name.to_string(),
            (None, _) => {
                return Err(self.failed(ErrorKind::Unsupported("raw requests that do not name a model")));
            }
        };
        let known = self.known(&model)?;
        // Nobody knows what is in it; if it is text, a token of it has about four bytes.
        let bytes = request.body.as_ref().map_or(0, Bytes::len) as u64;
        let mut need = Need { prompt_tokens: bytes / 4, ..Need::NOTHING };
        let mut tries = Tries { larger: false, again: 1 };
        loop {
            let (lease, server) = self.lease(known, need).await?;
            let error = match server.forward(request.clone()).await {
                Ok(mut answer) => {
                    answer.hold(lease);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            drop(lease);
            if !tries.next(&error, &mut need, &known.metrics).await {
                return Err(error);
            }
        }
    }
}
