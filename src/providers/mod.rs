//! Providers: who can answer, and what they speak.
//!
//! To add a provider: write its file, implement [`Provider`], add its line to [`PROVIDERS`], and put recorded
//! answers of the real server into `tests/fixtures`. Nothing else needs to know.

mod decode;
mod echo;
mod error;
mod far;
mod frames;
mod handover;
mod listing;
mod llamacpp;
mod managed;
mod mask;
mod near;
mod ollama;
mod openai;
mod redact;
mod secret_forms;
mod stream;
mod transport;
mod unpack;
mod upstream;
mod upstream_error;
mod vllm;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value};

use crate::config::{Fault, ProviderConfig, nearest};
use crate::engine::Engines;
use crate::llm::{Abilities, ChatRequest, Completion, Count, CountRequest, EmbedRequest, Embeddings};

pub use error::{
    Cooldown, CoolingDown, ENGINE_START_FAILED, ErrorKind, Failover, INSUFFICIENT_QUOTA, OVERFLOWED,
    ProviderError, RESTING, Rejection,
};
pub use far::Clients;
pub use frames::{LineSplitter, SseSplitter, Unframed};
pub use handover::{Calls, Handover};
pub use redact::Redactor;
pub use stream::{FrameStream, Item, RawFrames};

/// Whoever can answer.
#[async_trait]
pub trait Provider: Debug + Send + Sync {
    /// Name in the catalog; the `provider` of every error, log line and figure.
    fn name(&self) -> &str;

    /// Asks `model`, the provider's own name for it. Dropping this future, or the answer, aborts the
    /// upstream request.
    ///
    /// # Errors
    /// The provider did not begin to answer.
    async fn chat(&self, model: &str, request: &ChatRequest) -> Result<Answer, ProviderError>;

    /// The models that it has now. Never costs anything.
    ///
    /// # Errors
    /// The provider did not answer.
    async fn models(&self) -> Result<Vec<ModelCard>, ProviderError>;

    /// Asks its server for a sign of life, within `limit`: at `path` below the server's root, or where servers of its
    /// kind have one. Whatever it answers but a 5xx is one. Never costs anything.
    ///
    /// # Errors
    /// There is no such sign.
    async fn probe(&self, _path: Option<&str>, _limit: Duration) -> Result<(), ProviderError> {
        Err(ProviderError::new(&self.name().into(), ErrorKind::Unsupported("probes")))
    }

    /// Embeds texts.
    ///
    /// # Errors
    /// The provider did not answer, or has no embeddings.
    async fn embed(&self, _model: &str, _request: &EmbedRequest) -> Result<Embeddings, ProviderError> {
        Err(ProviderError::new(&self.name().into(), ErrorKind::Unsupported("embeddings")))
    }

    /// Counts tokens; `None` if it has no way to. Never costs anything, and starts nothing.
    ///
    /// # Errors
    /// The provider did not answer.
    async fn count(&self, _model: &str, _request: &CountRequest) -> Result<Option<Count>, ProviderError> {
        Ok(None)
    }

    /// Sends a request on as it is, with the provider's own key.
    ///
    /// # Errors
    /// The provider did not answer, or has no server.
    async fn forward(&self, _request: RawRequest) -> Result<RawResponse, ProviderError> {
        Err(ProviderError::new(&self.name().into(), ErrorKind::Unsupported("raw requests")))
    }
}

/// A provider's answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// The answer itself.
    pub content: Content,
    /// Options of the request that the provider could not take, by their names in the request.
    pub ignored_options: Vec<String>,
    /// `<model>@<context>` of the engine that gives it, if the gateway runs that itself.
    pub variant: Option<Arc<str>>,
}

/// An answer's content, in the form that the request asked for.
#[derive(Debug)]
pub enum Content {
    /// In one piece.
    Whole(Completion),
    /// As it is generated.
    Stream(FrameStream),
}

/// A model as its provider describes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelCard {
    /// The provider's own name for it.
    pub id: String,
    /// Context size in tokens, if the provider says.
    pub context_tokens: Option<u64>,
    /// What it can do, as far as the provider says.
    pub abilities: Abilities,
    /// Whatever else clients of this provider know how to read (`size`, `digest`, `details` …).
    pub details: Map<String, Value>,
}

/// A caller's request that passes as it is.
#[derive(Clone, Debug)]
pub struct RawRequest {
    /// Its method.
    pub method: Method,
    /// Below the server's root, with a slash in front; checked.
    pub path: String,
    /// Without the question mark.
    pub query: Option<String>,
    /// Those that may travel.
    pub headers: HeaderMap,
    /// Its body, if it has one.
    pub body: Option<Bytes>,
    /// The provider's name of the model that was named, for providers that run a server for each.
    pub model: Option<Arc<str>>,
}

/// Whatever came back.
pub struct RawResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, all of them.
    pub headers: HeaderMap,
    /// Patterns of those that pass to callers besides the usual ones.
    pub more_headers: Arc<[String]>,
    /// The path at the provider, with its query, to which it sends the caller on, if it is one of the provider's.
    pub location: Option<String>,
    /// Its body as it comes. Dropping it aborts the upstream request.
    pub body: BoxStream<'static, Result<Bytes, ProviderError>>,
}

impl RawResponse {
    /// Keeps something until the body has ended.
    pub(self) fn hold(&mut self, held: impl Send + 'static) {
        let body = std::mem::replace(&mut self.body, futures_util::stream::empty().boxed());
        self.body = body
            .inspect(move |_| {
                let _ = &held;
            })
            .boxed();
    }
}

impl Debug for RawResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

/// What providers share.
#[derive(Debug, Default)]
pub struct Shared {
    /// HTTP clients.
    pub clients: Clients,
    /// Whether the environment names a proxy, which must not be passed by.
    pub has_proxy: bool,
    /// Engines that the gateway runs itself.
    pub engines: Engines,
}

type Build = fn(&ProviderConfig, &Shared) -> Result<Arc<dyn Provider>, Fault>;

/// Every kind of provider, by its `type` in the models file.
pub const PROVIDERS: &[(&str, Build)] = &[
    ("openai", openai::build),
    ("vllm", vllm::build),
    ("ollama", ollama::build),
    ("llamacpp", llamacpp::build),
    ("echo", echo::build),
];

/// Makes the provider that a configuration describes.
///
/// # Errors
/// There is no such type, or it needs something else to be configured.
pub fn build(config: &ProviderConfig, shared: &Shared) -> Result<Arc<dyn Provider>, Fault> {
    let known = || PROVIDERS.iter().map(|(kind, _)| *kind);
    let Some((_, build)) = PROVIDERS.iter().find(|(kind, _)| *kind == config.kind) else {
        let cure = nearest(&config.kind, known()).map_or_else(
            || format!("known types are {}", known().collect::<Vec<_>>().join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        return Err(Fault::new(&config.place, format!("the type `{}` is unknown", config.kind), cure));
    };
    if let (Some(_), Some(cure)) = (&config.probe, without_server(config)) {
        let problem = "`probe` asks a server, and this provider has none that could be asked";
        return Err(Fault::new(&config.place, problem, cure));
    }
    if config.models_url.is_some() && !matches!(config.kind.as_str(), "openai" | "vllm") {
        let problem = format!("`models_url` is nothing that the type `{}` can use", config.kind);
        return Err(Fault::new(&config.place, problem, "take it out, or write \"type\": \"openai\""));
    }
    build(config, shared)
}

/// Why a provider needs no probe, if it has no server of its own.
fn without_server(config: &ProviderConfig) -> Option<&'static str> {
    match config.kind.as_str() {
        "echo" => Some("take `probe` out; it answers always"),
        "llamacpp" if config.base_url.is_none() => {
            Some("take `probe` out; engines that are run here are watched")
        }
        _ => None,
    }
}
