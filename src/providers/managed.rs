//! llama.cpp's engines that the gateway runs itself: a lease, then a llama-server like any other.
//!
//! Whatever goes wrong before the first content is tried again unseen, once: on a larger engine when the prompt did not
//! fit, on a new one when the engine died, alone when others had filled the context that it shares with them. Only a
//! request over which an engine crashed is not: it would end the next engine as well, and the answers of all its callers.

mod raw;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::error::{ErrorKind, OVERFLOWED, ProviderError};
use super::handover::Handover;
use super::llamacpp::LLAMA_CPP;
use super::openai::OpenAi;
use super::{Answer, Content, ModelCard, Provider, RawRequest, RawResponse, Shared};
use crate::config::{EngineModel, Fault, ModelSource, ProviderConfig};
use crate::engine::{Arrival, Counting, Death, Lease, Need, Place, Pool, Thought};
use crate::llm::{ChatRequest, Count, CountRequest, EmbedRequest, Embeddings, Usage};
use crate::telemetry::EngineMetrics;
use raw::Allowed;

/// Servers of engines that have ended are forgotten beyond so many.
const MOST_SERVERS: usize = 16;
/// What an engine says when it turns a request away is short, in bytes.
const MOST_SAID: usize = 64 * 1024;
/// The end of a process is noticed a moment after its connections broke.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// An engine that has answered in full is most likely still there.
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
    let pool = shared.engines.pool(&config.name, &config.engines, engines.clone());
    let known = engines.iter().map(|(name, engine)| Known {
        metrics: shared.engines.metrics().of_engines(&provider, name),
        name: name.clone(),
        context_tokens: engine.variants.iter().map(|variant| variant.context_tokens).max().unwrap_or(0),
        counting: pool.counting(name, engine),
    });
    Ok(Arc::new(Managed { models: known.collect(), pool, config: config.clone(), servers: Mutex::default() }))
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

    /// With `patience` no longer than that, for then somebody else answers.
    async fn lease(
        &self,
        known: &Known,
        need: Need,
        patience: Option<Duration>,
    ) -> Result<(Lease, Arc<OpenAi>), ProviderError> {
        let asked = Instant::now();
        let lease = self.pool.lease(&known.name, need);
        let lease = timeout(patience.unwrap_or(Duration::MAX), lease).await;
        known.metrics.waited(asked.elapsed());
        let overflowed = ErrorKind::Overloaded { code: OVERFLOWED, retry_after: Duration::from_secs(1) };
        let lease = lease.map_err(|_| self.failed(overflowed))?;
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
        let server = OpenAi::of_engine(place, &config, &LLAMA_CPP)
            .map_err(|fault| self.failed(ErrorKind::Protocol(fault.problem)))?;
        let server = Arc::new(server);
        if servers.len() >= MOST_SERVERS {
            servers.remove(0);
        }
        servers.push((place.engine, server.clone()));
        Ok(server)
    }
}

/// What may still be tried before anybody has heard anything, each once.
struct Tries {
    larger: bool,
    alone: bool,
    again: bool,
}

impl Default for Tries {
    fn default() -> Self {
        Self { larger: true, alone: true, again: true }
    }
}

/// A request at an engine, until the engine has answered the first of it.
struct Attempt {
    arrival: Arrival,
    place: Place,
}

impl Attempt {
    fn at(lease: &Lease) -> Self {
        let place = lease.place().clone();
        Self { arrival: place.arrive(), place }
    }
}

impl Tries {
    /// Comes back where it is worth trying once more after a failure; what was learned from it goes into `need`.
    ///
    /// # Errors
    /// It is not.
    async fn after(
        &mut self,
        error: ProviderError,
        attempt: Attempt,
        need: &mut Need,
        (known, pool): (&Known, &Pool),
    ) -> Result<(), ProviderError> {
        let is_full = || error.detail.as_deref().is_some_and(|words| words.contains(SHARED_CONTEXT_FULL));
        let is_worth_it = match error.kind {
            ErrorKind::ContextTooLong { needed_tokens: Some(prompt_tokens), .. }
                if prompt_tokens > need.prompt_tokens =>
            {
                known.metrics.replanned();
                (need.prompt_tokens, need.prompt_at_most, need.is_counted) =
                    (prompt_tokens, prompt_tokens, true);
                std::mem::take(&mut self.larger)
            }
            ErrorKind::Unreachable | ErrorKind::Protocol(_) | ErrorKind::Unavailable { .. } if is_full() => {
                need.is_alone = true;
                std::mem::take(&mut self.alone)
            }
            ErrorKind::Unreachable | ErrorKind::Protocol(_) | ErrorKind::Unavailable { .. } => {
                return self.after_a_break(error, attempt, pool).await;
            }
            _ => false,
        };
        if is_worth_it { Ok(()) } else { Err(error) }
    }

    /// The engine may have died, or it may be there and say the same again.
    async fn after_a_break(
        &mut self,
        error: ProviderError,
        Attempt { arrival, place }: Attempt,
        pool: &Pool,
    ) -> Result<(), ProviderError> {
        // One that never reached the engine did nothing to it.
        let arrival = Some(arrival).filter(|_| !error.is_unsent());
        let is_answer = matches!(error.kind, ErrorKind::Unavailable { .. });
        let death = place.death(if is_answer { MOMENT } else { LAST_MOMENT }).await;
        let is_crash = death == Some(Death::Crash);
        if is_crash && arrival.is_some_and(|arrival| arrival.has_ended_the_engine()) {
            tracing::warn!(variant = %place.variant, "An engine has crashed over a request, which is not tried again");
            return Err(ProviderError { kind: ErrorKind::EngineCrashed, ..error });
        }
        // Otherwise the next attempt might be sent to the same process.
        let patience = if death.is_some() { LAST_MOMENT } else { Duration::ZERO };
        let is_gone = pool.is_gone(place.engine, patience).await;
        let is_worth_it = is_gone || error.kind == ErrorKind::Unreachable;
        if is_worth_it && std::mem::take(&mut self.again) { Ok(()) } else { Err(error) }
    }
}

/// What llama-server says when requests that share a context have filled it.
const SHARED_CONTEXT_FULL: &str = "Context size has been exceeded";

/// What an engine says when it turns away a request for its length, in the place of an answer; the answer otherwise.
async fn turned_away(mut answer: RawResponse, provider: &Arc<str>) -> Result<RawResponse, ProviderError> {
    if !matches!(answer.status.as_u16(), 400 | 500) {
        return Ok(answer);
    }
    let mut said = Vec::new();
    let mut rest = answer.body;
    while let Some(piece) = rest.next().await {
        said.extend_from_slice(&piece?);
        if said.len() > MOST_SAID {
            break;
        }
    }
    let error = serde_json::from_slice::<Value>(&said).unwrap_or_default();
    let number = |name: &str| error.pointer(&format!("/error/{name}")).and_then(Value::as_u64);
    if let Some(needed) = number("n_prompt_tokens") {
        return Err(ProviderError::new(
            provider,
            ErrorKind::ContextTooLong {
                needed_tokens: Some(needed),
                context_tokens: number("n_ctx"),
                message: "the prompt is longer than the context".to_owned(),
            },
        ));
    }
    let words = String::from_utf8_lossy(&said);
    if words.contains(SHARED_CONTEXT_FULL) {
        let kind = ErrorKind::Unavailable { status: 500, retry_after: None };
        return Err(ProviderError::new(provider, kind).with_detail(SHARED_CONTEXT_FULL));
    }
    let first = futures_util::stream::once(async move { Ok(Bytes::from(said)) });
    answer.body = first.chain(rest).boxed();
    Ok(answer)
}

#[async_trait]
impl Provider for Managed {
    fn name(&self) -> &str {
        &self.config.name
    }

    async fn chat(&self, model: &str, request: &ChatRequest) -> Result<Answer, ProviderError> {
        let known = self.known(model)?;
        let provider: Arc<str> = self.config.name.as_str().into();
        let counted = known.counting.need(&self.pool, request).await;
        let (mut need, thought) = counted.map_err(|error| ProviderError::no_engine(&provider, error))?;
        let mut tries = Tries::default();
        loop {
            // Whoever waits for an engine has handed over nothing.
            Handover::note(false);
            let (lease, server) = self.lease(known, need, request.patience).await?;
            let attempt = Attempt::at(&lease);
            let limited = lease.answer_limit().map(|limit| limited(request, limit));
            let asked = async {
                let mut answer = server.chat(model, limited.as_ref().unwrap_or(request)).await?;
                if let Content::Stream(frames) = &mut answer.content {
                    frames.until_content().await?;
                }
                Ok(answer)
            };
            let answer = self.in_time(request.stream, asked).await;
            let error = match answer {
                Ok(mut answer) => {
                    answer.variant = Some(attempt.place.variant);
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
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if matches!(error.kind, ErrorKind::Timeout(_) | ErrorKind::Overdue(_)) {
                lease.doubt();
            }
            drop(lease);
            tries.after(error, attempt, &mut need, (known, &self.pool)).await?;
        }
    }

    async fn models(&self) -> Result<Vec<ModelCard>, ProviderError> {
        let card = |known: &Known| ModelCard {
            id: known.name.to_string(),
            context_tokens: Some(known.context_tokens),
            ..ModelCard::default()
        };
        Ok(self.models.iter().map(card).collect())
    }

    async fn embed(&self, model: &str, request: &EmbedRequest) -> Result<Embeddings, ProviderError> {
        let known = self.known(model)?;
        let mut need = known.counting.need_of_texts(&request.body);
        let mut tries = Tries::default();
        loop {
            let (lease, server) = self.lease(known, need, None).await?;
            let attempt = Attempt::at(&lease);
            let error = match self.in_time(false, server.embed(model, request)).await {
                Err(error) if matches!(error.kind, ErrorKind::Unavailable { status: 501, .. }) => {
                    return Err(self.failed(ErrorKind::Unsupported("embeddings by this model")));
                }
                Err(error) => error,
                embeddings => return embeddings,
            };
            drop(lease);
            tries.after(error, attempt, &mut need, (known, &self.pool)).await?;
        }
    }

    async fn count(&self, model: &str, request: &CountRequest) -> Result<Option<Count>, ProviderError> {
        Ok(self.known(model)?.counting.count(&self.pool, request).await)
    }

    async fn forward(&self, request: RawRequest) -> Result<RawResponse, ProviderError> {
        let allowed = Allowed::of(&request).map_err(|refused| self.failed(refused))?;
        let request = allowed.applied(request);
        let model = match (&request.model, self.models.as_slice()) {
            (Some(model), _) => model.to_string(),
            (None, [only]) => only.name.to_string(),
            (None, _) => {
                return Err(self.failed(ErrorKind::Unsupported("raw requests that do not name a model")));
            }
        };
        let known = self.known(&model)?;
        let provider: Arc<str> = self.config.name.as_str().into();
        let (mut need, mut tries) = (allowed.need(&request), Tries::default());
        loop {
            let (lease, server) = self.lease(known, need, None).await?;
            let attempt = Attempt::at(&lease);
            let answered = async { turned_away(server.forward(request.clone()).await?, &provider).await };
            let error = match answered.await {
                Ok(mut answer) => {
                    answer.hold(lease);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            drop(lease);
            tries.after(error, attempt, &mut need, (known, &self.pool)).await?;
        }
    }
}

/// A request whose answer ends where it would harm others.
fn limited(request: &ChatRequest, tokens: u64) -> ChatRequest {
    let mut request = request.clone();
    request.options.set("max_tokens", tokens);
    request
}
