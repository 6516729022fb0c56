//! The steps of engines as a stream. Who listens slowly misses some and is told so; nobody waits for a listener.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;
use poem::Response;
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout};

use super::super::context::Context;
use super::super::payload::event_stream;
use super::super::schema::EngineStep;
use crate::callers::Caller;
use crate::engine::EngineEvent;
use crate::gateway::may_use;
use crate::router::Route;

/// How long the stream may be silent before a sign of life is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often it is looked whether the service is about to end, which this stream must not hold up.
const GLANCE: Duration = Duration::from_millis(250);

/// One who listens.
struct Listener {
    context: Arc<Context>,
    /// Whose key it has, if any: it hears of models that the key may use.
    caller: Option<Caller>,
    steps: broadcast::Receiver<EngineEvent>,
    /// What is to be sent.
    ahead: VecDeque<Bytes>,
    /// When something was last sent.
    heard: Instant,
}

/// The present states, then each step.
pub(super) fn response(context: &Arc<Context>, caller: Option<&Caller>) -> Response {
    // First the ear, then the eye: a step in between is told twice, and none is lost.
    let steps = context.engines.events();
    let ahead = VecDeque::from([Bytes::from_static(b": the engines as they are\n\n")]);
    let (context, caller) = (context.clone(), caller.cloned());
    let mut listener = Listener { context, caller, steps, ahead, heard: Instant::now() };
    listener.tell_states();
    let frames = stream::unfold(listener, async |mut listener| {
        let piece = listener.next().await?;
        Some((Ok::<_, std::io::Error>(Frame::data(piece)), listener))
    });
    event_stream(BoxBody::new(StreamBody::new(sync_wrapper::SyncStream::new(frames))))
}

impl Listener {
    /// What is to be sent next; `None` when the service is about to end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.ahead.pop_front() {
                self.heard = Instant::now();
                return Some(piece);
            }
            if self.context.health.is_draining() {
                return None;
            }
            match timeout(GLANCE, self.steps.recv()).await {
                Ok(Ok(step)) => self.tell(&step),
                Ok(Err(RecvError::Lagged(missed))) => {
                    self.ahead.push_back(event(&json!({ "missed": missed })));
                    self.tell_states();
                }
                Ok(Err(RecvError::Closed)) => return None,
                Err(_) if self.heard.elapsed() >= KEEP_ALIVE => {
                    self.ahead.push_back(Bytes::from_static(b": keep-alive\n\n"));
                }
                Err(_) => {}
            }
        }
    }

    fn tell_states(&mut self) {
        for (provider, pool) in self.context.engines.pools() {
            let provider: Arc<str> = provider.into();
            pool.states().iter().for_each(|state| self.tell(&state.step(&provider)));
        }
    }

    fn tell(&mut self, step: &EngineEvent) {
        let Some(model) = self.public_name(step) else { return };
        let told = EngineStep {
            provider: step.provider.to_string(),
            model,
            variant: step.variant.to_string(),
            state: step.phase.to_owned(),
            progress: step.progress,
            at_ms: step.at_ms,
        };
        self.ahead.push_back(event(&json!(told)));
    }

    /// What callers call the model, if the present configuration still knows it; `None` if this one may not use it.
    fn public_name(&self, step: &EngineEvent) -> Option<String> {
        let caller = self.caller.as_ref();
        let state = self.context.gateway.state();
        let is_of = |route: &Route| {
            route.all_deployments().any(|deployment| {
                deployment.provider_name == step.provider && deployment.upstream_model == step.model
            })
        };
        let mut routes = state.routes.on_and_off().iter().filter(|route| is_of(route)).peekable();
        if routes.peek().is_none() {
            // One that is gone from the configuration belongs to no key.
            let is_open = caller.is_none_or(|caller| caller.key.allowed_models.is_empty());
            return is_open.then(|| step.model.to_string());
        }
        routes.find(|route| may_use(caller, route)).map(|route| route.model.to_string())
    }
}

fn event(data: &serde_json::Value) -> Bytes {
    format!("data: {data}\n\n").into()
}
