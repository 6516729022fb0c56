//! Engines that the gateway runs itself: what they are doing, what they say, and how they are started and stopped by
//! hand.
//!
//! Callers name public models here, as everywhere. What is shown is a picture from a moment ago.

mod steps;

use std::sync::Arc;

use poem::Request;
use poem_openapi::OpenApi;
use poem_openapi::param::Path;

use super::context::Context;
use super::error::ApiError;
use super::payload::{Json, StepsAnswer, TextAnswer, text_response};
use super::schema::{EngineBody, EngineList, EngineModelBody, EngineStep, EngineVariantBody};
use super::{Tag, record_of};
use crate::engine::{EngineError, EngineState, Pool};
use crate::gateway::{GatewayError, may_use};
use crate::providers::{ErrorKind, ProviderError};
use crate::router::{Deployment, Route};

/// Engines that the gateway runs itself.
pub(super) struct EnginesApi {
    pub(super) context: Arc<Context>,
}

/// A model that the gateway runs itself, and its provider's engines.
pub(super) struct Managed {
    pub(super) deployment: Arc<Deployment>,
    pub(super) pool: Arc<Pool>,
}

#[OpenApi(prefix_path = "/api", tag = "Tag::Engines")]
impl EnginesApi {
    /// Engines
    ///
    /// The models that the gateway runs itself, and what their engines are doing.
    #[oai(path = "/engines", method = "get", operation_id = "list_engines")]
    async fn list(&self, request: &Request) -> Result<Json<EngineList>, ApiError> {
        let state = self.context.gateway.state();
        let mut engines = Vec::new();
        let record = record_of(request);
        let caller = record.caller();
        // An engine of a model that is off may still run.
        for route in state.routes.on_and_off().iter().filter(|route| may_use(caller, route)) {
            for managed in all_managed(&self.context, route) {
                engines.push(managed.pictured(&route.model).await);
            }
        }
        Ok(Json(EngineList { engines }))
    }

    /// Steps of engines
    ///
    /// Begins with the present states, then tells each step as it happens. Who reads too slowly is told how many steps
    /// were missed, by `{"missed": 3}`, and then the present states again. Where callers need keys, this needs the admin key.
    #[oai(path = "/engines/events", method = "get", operation_id = "engine_events")]
    async fn events(&self, request: &Request) -> Result<StepsAnswer<EngineStep>, ApiError> {
        Ok(steps::response(&self.context, record_of(request).caller()).into())
    }

    /// Words of an engine
    ///
    /// What the last engine of a model has written, oldest line first; nothing if none has run. Where callers
    /// need keys, this needs the admin key.
    #[oai(path = "/engines/:model/log", method = "get", operation_id = "engine_log")]
    async fn log(
        &self,
        request: &Request,
        /// The model's name. A slash in it is written `%2F`.
        model: Path<String>,
    ) -> Result<TextAnswer, ApiError> {
        let (_, managed) = self.managed(&model.0, request)?;
        let lines = managed.pool.log(&managed.deployment.upstream_model).await.unwrap_or_default();
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        Ok(text_response("text/plain; charset=utf-8", text).into())
    }

    /// Start an engine
    ///
    /// Answers when the engine has loaded. One that runs already stays as it is. Where callers need keys, this
    /// needs the admin key.
    #[oai(path = "/engines/:model/load", method = "post", operation_id = "load_engine")]
    async fn load(
        &self,
        request: &Request,
        /// The model's name. A slash in it is written `%2F`.
        model: Path<String>,
    ) -> Result<Json<EngineModelBody>, ApiError> {
        self.context.gateway.state().route(&model.0, record_of(request).caller())?;
        let (route, managed) = self.managed(&model.0, request)?;
        let Deployment { provider_name, upstream_model, .. } = &*managed.deployment;
        let loaded = managed.pool.load(upstream_model).await;
        loaded.map_err(|error| ProviderError::no_engine(provider_name, error))?;
        Ok(Json(managed.pictured(&route.model).await))
    }

    /// Stop an engine
    ///
    /// Lets the engine end the answers that it is giving, and answers when it is gone. One that does not run is gone.
    /// Where callers need keys, this needs the admin key.
    #[oai(path = "/engines/:model/unload", method = "post", operation_id = "unload_engine")]
    async fn unload(
        &self,
        request: &Request,
        /// The model's name. A slash in it is written `%2F`.
        model: Path<String>,
    ) -> Result<Json<EngineModelBody>, ApiError> {
        let (route, managed) = self.managed(&model.0, request)?;
        managed.pool.unload(&managed.deployment.upstream_model).await;
        Ok(Json(managed.pictured(&route.model).await))
    }
}

impl EnginesApi {
    /// What is meant by a public name.
    fn managed(&self, model: &str, request: &Request) -> Result<(Arc<Route>, Managed), ApiError> {
        let route = self.context.gateway.state().on_or_off(model)?;
        if !may_use(record_of(request).caller(), &route) {
            return Err(GatewayError::NotAllowed(model.to_owned()).into());
        }
        let managed = all_managed(&self.context, &route).next();
        if let Some(managed) = managed {
            return Ok((route, managed));
        }
        let unknown = || GatewayError::UnknownModel { name: model.to_owned(), nearest: None };
        let deployment = route.all_deployments().next().ok_or_else(unknown)?;
        let provider = &deployment.provider_name;
        Err(if deployment.variants.is_empty() {
            ProviderError::new(provider, ErrorKind::Unsupported("engines that the gateway runs")).into()
        } else {
            // Another configuration takes the place of this one just now.
            ProviderError::no_engine(provider, EngineError::Gone).into()
        })
    }
}

/// The deployments of a route that the gateway runs itself, in the order in which they are asked.
fn all_managed<'a>(context: &'a Context, route: &'a Route) -> impl Iterator<Item = Managed> + 'a {
    route.all_deployments().filter_map(|deployment| managed(context, deployment))
}

/// The deployment of a route that is asked first, if the gateway runs it itself.
pub(super) fn first_managed(context: &Context, route: &Route) -> Option<Managed> {
    managed(context, route.deployments.first()?)
}

fn managed(context: &Context, deployment: &Arc<Deployment>) -> Option<Managed> {
    if deployment.variants.is_empty() {
        return None;
    }
    let pool = context.engines.pool_of(&deployment.provider_name)?;
    Some(Managed { deployment: deployment.clone(), pool })
}

/// What callers are told of the state of a route: of the deployment that is asked first.
pub(super) fn state_of(context: &Context, route: &Route) -> (&'static str, Option<Vec<u64>>) {
    // That of all deployments has no engine of its own.
    match first_managed(context, route).filter(|_| !route.is_auto()) {
        Some(managed) => (managed.state(), Some(managed.deployment.variants.clone())),
        None => ("available", None),
    }
}

impl Managed {
    /// The engine of the model, if there is one now.
    pub(super) fn engine(&self) -> Option<EngineState> {
        let states = self.pool.states();
        states.into_iter().find(|engine| *engine.model == *self.deployment.upstream_model)
    }

    fn state(&self) -> &'static str {
        self.engine().map_or("cold", |engine| engine.phase)
    }

    async fn pictured(&self, model: &str) -> EngineModelBody {
        let Deployment { provider_name, upstream_model, variants, .. } = &*self.deployment;
        let engine = self.engine();
        EngineModelBody {
            provider: provider_name.to_string(),
            model: model.to_owned(),
            state: engine.as_ref().map_or("cold", |engine| engine.phase).to_owned(),
            last_failure: self.pool.last_failure(upstream_model).await.map(|told| told.to_string()),
            variants: variants
                .iter()
                .map(|context_tokens| EngineVariantBody {
                    variant: format!("{upstream_model}@{context_tokens}"),
                    context_tokens: *context_tokens,
                })
                .collect(),
            engine: engine.map(|engine| EngineBody {
                variant: engine.variant.to_string(),
                state: engine.phase.to_owned(),
                context_tokens: engine.context_tokens,
                running: engine.running,
                slots: engine.slots,
                waiting: engine.waiting,
                pid: engine.pid,
                load_ms: engine.load_ms,
                progress: engine.progress,
                memory_mib: engine.memory_mib,
            }),
        }
    }
}
