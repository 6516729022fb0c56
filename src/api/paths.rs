//! Which path leads where.
//!
//! Almost every request goes to a path without variables, so those are found in a map; the rest, such as
//! `/v1/models/*id`, are left to poem's router.

use std::collections::HashMap;
use std::sync::Arc;

use poem::endpoint::BoxEndpoint;
use poem::error::NotFoundError;
use poem::http::Method;
use poem::{Endpoint, Request, Response, Route};

use super::context::Context;
use super::door::Door;
use super::error::ApiError;
use super::{admin, docs, error, record_of};
use crate::callers::Gate;
use crate::gateway::GatewayError;
use crate::lint::nearest;
use crate::telemetry::EndpointMetrics;

/// What callers may post that is asked of no model, and so uses no tokens, as the document writes it. It takes time all the same, so it counts as a
/// request.
const UNMETERED: [&str; 4] =
    ["/api/explain", "/api/tokenize/count", "/extras/tokenize/count", "/api/prompts/{name}/render"];
/// What operators post.
const OPERATING: [&str; 2] = ["/api/engines/{model}/load", "/api/engines/{model}/unload"];

/// All paths of the service.
#[derive(Default)]
pub(super) struct Paths {
    plain: HashMap<String, Path>,
    patterns: Route,
}

/// What is to be had at a path, by method.
pub(super) type Methods = HashMap<Method, BoxEndpoint<'static>>;

impl Paths {
    /// Adds a path, which must be new.
    pub(super) fn add(mut self, path: &str, methods: Methods, door: Door, context: &Context) -> Self {
        let endpoint = Path::new(path, methods, door, context);
        if path.contains([':', '*', '<']) {
            self.patterns = self.patterns.at(path, endpoint);
        } else {
            self.plain.insert(path.to_owned(), endpoint);
        }
        self
    }
}

impl Endpoint for Paths {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        if let Some(path) = self.plain.get(request.uri().path()) {
            return path.call(request).await;
        }
        let asked = request.uri().clone();
        self.patterns.call(request).await.map_err(|error| match error.downcast_ref::<NotFoundError>() {
            Some(_) => ApiError::unknown_path(asked.path(), self.nearest(asked.path())).into(),
            None => error,
        })
    }
}

impl Paths {
    /// The path that was perhaps meant.
    fn nearest(&self, path: &str) -> Option<&str> {
        let shown = self.plain.keys().filter(|known| !known.starts_with(admin::ROOT));
        nearest(path, shown.map(String::as_str))
    }
}

struct Path {
    methods: Methods,
    /// For those who ask for another.
    allowed: String,
    metrics: Arc<EndpointMetrics>,
    door: Door,
    limits: Limited,
    gate: Arc<Gate>,
}

/// What is taken of a caller's limits before a request is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limited {
    /// Nothing.
    No,
    /// A request.
    Request,
    /// A place among the parallel requests. The rest is taken once it is known what is asked of which model.
    Place,
}

impl Path {
    fn new(path: &str, methods: Methods, door: Door, context: &Context) -> Self {
        let mut allowed: Vec<&str> = methods.keys().map(Method::as_str).collect();
        allowed.sort_unstable();
        let name = docs::documented_path(path, &context.prefix);
        let is_one_of = |paths: &[&str]| paths.iter().any(|one| docs::rebased(one, &context.prefix) == name);
        let is_for_callers = door.is_for_callers() && methods.contains_key(&Method::POST);
        let limits = match () {
            () if !is_for_callers || is_one_of(&OPERATING) => Limited::No,
            () if is_one_of(&UNMETERED) => Limited::Request,
            () => Limited::Place,
        };
        let mut metrics = context.metrics.of_endpoint(&name);
        metrics.asks_models = limits == Limited::Place;
        let metrics = Arc::new(metrics);
        let gate = context.gateway.gate().clone();
        Self { allowed: allowed.join(", "), metrics, methods, door, limits, gate }
    }

    /// # Errors
    /// Too many requests of the caller are under way, or have been made.
    async fn enter(&self, request: &Request) -> Result<(), ApiError> {
        let record = record_of(request);
        let place = match self.limits {
            Limited::No => return Ok(()),
            Limited::Request => self.gate.admit_unmetered(record.caller()).await,
            Limited::Place => self.gate.place(record.caller()),
        };
        if let Some(place) = place.map_err(GatewayError::from)? {
            record.facts().place = Some(place);
        }
        Ok(())
    }
}

impl Endpoint for Path {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        record_of(&request).facts().endpoint = Some(self.metrics.clone());
        self.door.admit(&request)?;
        if let Some(endpoint) = self.methods.get(request.method()) {
            self.enter(&request).await?;
            return endpoint.call(request).await;
        }
        let Some(endpoint) = self.methods.get(&Method::GET).filter(|_| request.method() == Method::HEAD)
        else {
            return Err(error::method_not_allowed().allow(&self.allowed).into());
        };
        request.set_method(Method::GET);
        let mut response = endpoint.call(request).await?;
        response.set_body(());
        Ok(response)
    }
}
