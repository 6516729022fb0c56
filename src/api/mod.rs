//! The API: the only part of the house that knows HTTP towards callers.
//!
//! `serve` accepts connections, `access` wraps every request, `openai`, `rest`, `prompts` and `passthrough` are
//! the documented operations, `meta` is for operators. An endpoint is added as a method of one of these.

mod access;
mod connection;
mod context;
mod cors;
mod docs;
mod dto;
mod error;
mod meta;
mod openai;
mod passthrough;
mod payload;
mod prompts;
mod reply;
mod rest;
mod schema;
mod serve;

use std::collections::HashMap;
use std::sync::Arc;

use poem::endpoint::BoxEndpoint;
use poem::http::Method;
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response, Route, RouteMethod};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{
    MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, OpenApi, Tags};

use crate::telemetry::{EndpointMetrics, RequestRecord};

pub use context::{Context, Limits};
pub use docs::document;
pub use error::ApiError;
pub use serve::{Listeners, serve};

/// The groups of operations in the document.
#[derive(Tags)]
enum Tag {
    /// Chat, conversations with prompts from the library, models.
    Facade,
    /// OpenAI's own API.
    #[oai(rename = "OpenAI")]
    OpenAi,
    /// The prompt library.
    Prompts,
}

type Documented = (rest::FacadeApi, openai::OpenAiApi, prompts::PromptsApi, passthrough::PassthroughApi);

/// All documented operations.
fn operations(context: &Arc<Context>) -> Documented {
    (
        rest::FacadeApi { context: context.clone() },
        openai::OpenAiApi { context: context.clone() },
        prompts::PromptsApi { context: context.clone() },
        passthrough::PassthroughApi { context: context.clone() },
    )
}

/// The operations, for the document only, which asks them nothing.
struct DocumentOnly;

impl OpenApi for DocumentOnly {
    fn meta() -> Vec<poem_openapi::registry::MetaApi> {
        Documented::meta()
    }

    fn register(registry: &mut Registry) {
        Documented::register(registry);
    }

    fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

fn documented() -> DocumentOnly {
    DocumentOnly
}

/// All paths, ready to be served.
pub fn endpoint(context: &Arc<Context>) -> impl Endpoint<Output = Response> + use<> {
    let mut table = HashMap::new();
    operations(context).add_routes(&mut table);
    let mut route = Route::new();
    for (path, methods) in table {
        let path = docs::rebased(&path, &context.prefix);
        let mut allowed: Vec<&str> = methods.keys().map(Method::as_str).collect();
        allowed.sort_unstable();
        let named = Named::new(&path, &allowed.join(", "), context);
        let methods = methods
            .into_iter()
            .fold(RouteMethod::new(), |all, (method, endpoint)| all.method(method, endpoint));
        route = route.at(path, named.around(methods));
    }
    for (path, methods) in meta::paths() {
        // The facade may have no prefix, and then its paths stand beside these.
        route = route.at(path, Named::new(path, "GET", context).around(methods));
    }
    let route = route.data(context.clone()).map_to_response();
    access::Access::new(cors::Cors::new(route, context.cors_origins.clone()), context.clone())
}

/// What is known of a path before any request comes to it.
struct Named {
    metrics: Arc<EndpointMetrics>,
    methods: String,
}

impl Named {
    fn new(path: &str, methods: &str, context: &Context) -> Self {
        Self { metrics: Arc::new(context.metrics.of_endpoint(path)), methods: methods.to_owned() }
    }

    fn with_methods(&self, error: poem::Error) -> poem::Error {
        if error.is::<poem::error::MethodNotAllowedError>() {
            return error::method_not_allowed().allow(&self.methods).into();
        }
        error
    }

    /// Notes which endpoint a request came to, and which methods it takes when it is asked for another.
    fn around(self, methods: RouteMethod) -> impl Endpoint<Output = Response> {
        let named = Arc::new(self);
        methods.around(move |endpoint, request| {
            let named = named.clone();
            async move {
                record_of(&request).facts().endpoint = Some(named.metrics.clone());
                endpoint.call(request).await.map_err(|error| named.with_methods(error))
            }
        })
    }
}

/// The record of a request.
fn record_of(request: &Request) -> Arc<RequestRecord> {
    // `access` puts one into every request; a test that calls an endpoint by itself gets a new one.
    request
        .data::<Arc<RequestRecord>>()
        .cloned()
        .unwrap_or_else(|| Arc::new(RequestRecord::new(String::new())))
}

/// What a wildcard at the end of a path stands for, decoded.
fn rest_of_path(request: &Request) -> String {
    request
        .path_params::<Vec<(String, String)>>()
        .ok()
        .and_then(|params| params.into_iter().next_back())
        .map(|(_, value)| value)
        .unwrap_or_default()
}

/// A JSON answer that comes from a provider, described as `T`.
struct EmbeddingsResponse<T> {
    response: Response,
    described: std::marker::PhantomData<fn() -> T>,
}

impl<T> From<Response> for EmbeddingsResponse<T> {
    fn from(response: Response) -> Self {
        Self { response, described: std::marker::PhantomData }
    }
}

impl<T: Send> IntoResponse for EmbeddingsResponse<T> {
    fn into_response(self) -> Response {
        self.response
    }
}

impl<T: Type> ApiResponse for EmbeddingsResponse<T> {
    fn meta() -> MetaResponses {
        answered(vec![MetaMediaType {
            content_type: payload::Json::<T>::CONTENT_TYPE,
            schema: T::schema_ref(),
        }])
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// An answer of any kind, as it came from a provider.
struct RawAnswer(Response);

impl From<Response> for RawAnswer {
    fn from(response: Response) -> Self {
        Self(response)
    }
}

impl IntoResponse for RawAnswer {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for RawAnswer {
    fn meta() -> MetaResponses {
        let anything = MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "binary")));
        answered(vec![MetaMediaType { content_type: "*/*", schema: anything }])
    }

    fn register(_: &mut Registry) {}
}

fn answered(content: Vec<MetaMediaType>) -> MetaResponses {
    MetaResponses {
        responses: vec![MetaResponse {
            description: "The provider's answer.",
            status: Some(200),
            status_range: None,
            content,
            headers: Vec::new(),
        }],
    }
}
