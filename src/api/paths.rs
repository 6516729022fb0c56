//! Which path leads where.
//!
//! Almost every request goes to a path without variables, so those are found in a map; the rest, such as
//! `/v1/models/*id`, are left to poem's router.

use std::collections::HashMap;
use std::sync::Arc;

use poem::endpoint::BoxEndpoint;
use poem::http::Method;
use poem::{Endpoint, Request, Response, Route};

use super::context::Context;
use super::door::Door;
use super::{docs, error, record_of};
use crate::telemetry::EndpointMetrics;

/// What callers may post that is asked of no model, and so uses nothing.
const FREE: [&str; 6] = [
    "/api/explain",
    "/api/tokenize/count",
    "/extras/tokenize/count",
    "/api/prompts/:name/render",
    "/api/engines/:model/load",
    "/api/engines/:model/unload",
];

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
        match self.plain.get(request.uri().path()) {
            Some(path) => path.call(request).await,
            None => self.patterns.call(request).await,
        }
    }
}

struct Path {
    methods: Methods,
    /// For those who ask for another.
    allowed: String,
    metrics: Arc<EndpointMetrics>,
    door: Door,
}

impl Path {
    fn new(path: &str, methods: Methods, door: Door, context: &Context) -> Self {
        let mut allowed: Vec<&str> = methods.keys().map(Method::as_str).collect();
        allowed.sort_unstable();
        let name = docs::documented_path(path, &context.prefix);
        let is_free = FREE.iter().any(|free| docs::rebased(free, &context.prefix) == path);
        let is_for_callers = door.is_for_callers() && methods.contains_key(&Method::POST);
        let mut metrics = context.metrics.of_endpoint(&name);
        metrics.asks_models = is_for_callers && !is_free;
        let metrics = Arc::new(metrics);
        Self { allowed: allowed.join(", "), metrics, methods, door }
    }
}

impl Endpoint for Path {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        record_of(&request).facts().endpoint = Some(self.metrics.clone());
        self.door.admit(&request)?;
        if let Some(endpoint) = self.methods.get(request.method()) {
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
