//! The API: the only part of the house that knows HTTP towards callers.
//!
//! `serve` accepts connections, `access` wraps every request, `openai`, `rest`, `utilities`, `tokens`, `prompts` and `passthrough` are
//! the documented operations, `engines` and `meta` are for operators, `own` for the holder of a key, `admin` for whoever has the admin key, and `client`
//! asks a service like this one. An endpoint is added as a method of one of these.

mod access;
mod admin;
mod answering;
mod body;
mod client;
mod connection;
mod context;
mod cors;
mod credentials;
mod docs;
mod door;
mod dto;
mod engines;
mod error;
mod guards;
mod guesses;
mod header_text;
mod host;
mod meta;
mod openai;
mod own;
mod passthrough;
mod paths;
mod payload;
mod peer;
mod prompt_headers;
mod prompts;
mod query;
mod refusal;
mod rejections;
mod reply;
mod request_id;
mod rest;
mod routes;
mod schema;
mod serve;
mod standing;
mod tokens;
mod unread;
mod usage;
mod utilities;

use std::collections::HashMap;
use std::sync::Arc;

use poem::endpoint::BoxEndpoint;
use poem::http::Method;
use poem::{Endpoint, Request, Response};
use poem_openapi::registry::Registry;
use poem_openapi::{OpenApi, Tags};

use self::context::Admitted;
use self::door::Door;
use self::paths::{Methods, Paths};
use self::peer::Peer;
use crate::telemetry::RequestRecord;

pub use client::{NoReport, rehearse};
pub use context::{Callers, Context, Limits};
pub use credentials::{Credentials, Renewed};
pub use docs::document;
pub use error::ApiError;
pub use schema::key_as_json;
pub use serve::{Listeners, Workers, check_serving, serve};
pub use usage::{UsageQuestion, usage_as_json};

/// The groups of operations in the document.
#[derive(Tags)]
enum Tag {
    /// Chat, conversations with prompts from the library, models.
    Facade,
    /// Tasks with texts, done with prompts from the library.
    Utilities,
    /// OpenAI's own API.
    #[oai(rename = "OpenAI")]
    OpenAi,
    /// The prompt library.
    Prompts,
    /// Engines that the gateway runs itself.
    Engines,
    /// Probes and figures.
    Operators,
    /// For the holder of a key, with that key.
    Own,
    /// For whoever has the admin key.
    Admin,
}

type Documented = (
    rest::FacadeApi,
    utilities::UtilitiesApi,
    tokens::TokensApi,
    openai::OpenAiApi,
    prompts::PromptsApi,
    passthrough::PassthroughApi,
    engines::EnginesApi,
    routes::RoutesApi,
    meta::OperatorsApi,
    own::OwnApi,
    admin::AdminApi,
    admin::KeysApi,
    admin::ModelsApi,
    admin::UsageApi,
);

/// All documented operations.
fn operations(context: &Arc<Context>) -> Documented {
    (
        rest::FacadeApi { context: context.clone() },
        utilities::UtilitiesApi { context: context.clone() },
        tokens::TokensApi { context: context.clone() },
        openai::OpenAiApi { context: context.clone() },
        prompts::PromptsApi { context: context.clone() },
        passthrough::PassthroughApi { context: context.clone() },
        engines::EnginesApi { context: context.clone() },
        routes::RoutesApi { context: context.clone() },
        meta::OperatorsApi { context: context.clone() },
        own::OwnApi { context: context.clone() },
        admin::AdminApi { context: context.clone() },
        admin::KeysApi { context: context.clone() },
        admin::ModelsApi { context: context.clone() },
        admin::UsageApi { context: context.clone() },
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
    let mut declared = HashMap::new();
    operations(context).add_routes(&mut declared);
    // Without a prefix, `{p}/v1/…` and `/v1/…` are the same place.
    let table: HashMap<String, (Methods, Door)> = declared
        .into_iter()
        .map(|(path, methods)| (docs::rebased(&path, &context.prefix), (methods, Door::of(&path, context))))
        .collect();
    let mut paths = Paths::default();
    for (path, (methods, door)) in table {
        paths = paths.add(&path, methods, door, context);
    }
    for (path, endpoint) in meta::pages(context) {
        paths = paths.add(path, HashMap::from([(Method::GET, endpoint)]), Door::of(path, context), context);
    }
    cors::Cors::new(access::Access::new(paths, context.clone()), context.clone())
}

/// The paths of listeners that have the figures, and probes.
pub fn figures_endpoint(
    context: &Arc<Context>,
    is_loopback: bool,
) -> impl Endpoint<Output = Response> + use<> {
    let mut declared = HashMap::new();
    meta::OperatorsApi { context: context.clone() }.add_routes(&mut declared);
    let mut paths = Paths::default();
    for (path, methods) in declared {
        let door = Door::of_figures(&path, context);
        paths = paths.add(&path, methods, door, context);
    }
    let pages = cors::Pages::new(Vec::new(), true, is_loopback);
    access::Access::new(paths, context.clone()).with_pages(pages)
}

/// The record of a request.
fn record_of(request: &Request) -> Arc<RequestRecord> {
    // `access` puts one into every request; a test that calls an endpoint by itself gets a new one.
    request
        .data::<Admitted>()
        .map_or_else(|| Arc::new(RequestRecord::new("")), |admitted| admitted.record.clone())
}

/// Where a request comes from.
fn peer_of(request: &Request) -> Peer {
    request.data::<Admitted>().map_or(Peer::Unix, |admitted| admitted.peer)
}

/// What a wildcard at the end of a path stands for, decoded.
fn rest_of_path(request: &Request) -> String {
    let values = request.path_params::<Vec<String>>().unwrap_or_default();
    values.into_iter().next_back().unwrap_or_default()
}
