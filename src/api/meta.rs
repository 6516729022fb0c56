//! What operators and their machines ask: probes, figures, the document and its page.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use poem::endpoint::{BoxEndpoint, make_sync};
use poem::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, X_FRAME_OPTIONS};
use poem::http::{HeaderMap, HeaderValue};
use poem::{EndpointExt, Request, Response};
use poem_openapi::{ApiResponse, OpenApi};

use super::context::Context;
use super::payload::{Json, TextAnswer, json_response, text_response};
use super::schema::{Alive, Ready, RedisState, Reload, StoreHealth};
use super::{Tag, docs, standing};

/// The document and its page, made when they are first asked for: few ever are.
#[derive(Default)]
struct Pages {
    document: OnceLock<Bytes>,
    page: OnceLock<(Bytes, Option<HeaderValue>)>,
}

type Page = fn(&Context, &Pages) -> Response;

/// What is to be read at the paths that are not part of the API's document.
pub(super) fn pages(context: &Arc<Context>) -> Vec<(&'static str, BoxEndpoint<'static>)> {
    let pages: Arc<Pages> = Arc::default();
    let all: [(&str, Page); 3] = [
        ("/openapi.json", |context, pages| document(context, pages)),
        ("/docs", |context, pages| docs_page(context, pages)),
        ("/", |context, _| home(context)),
    ];
    all.into_iter()
        .map(|(path, page)| {
            let (context, pages) = (context.clone(), pages.clone());
            (path, make_sync(move |_| page(&context, &pages)).map_to_response().boxed())
        })
        .collect()
}

/// Probes and figures.
pub(super) struct OperatorsApi {
    pub(super) context: Arc<Context>,
}

#[OpenApi(tag = "Tag::Operators")]
impl OperatorsApi {
    /// Whether the process is alive
    #[oai(path = "/livez", method = "get", operation_id = "livez")]
    async fn livez(&self) -> Json<Alive> {
        Json(Alive { status: "alive".to_owned() })
    }

    /// Whether it should get requests
    #[oai(path = "/readyz", method = "get", operation_id = "readyz")]
    async fn readyz(&self) -> Readiness {
        let Context { health, gateway, .. } = &*self.context;
        let draining = health.is_draining();
        let state = gateway.state();
        let (refused, trouble) = (health.refused_reload(), health.troubled_store());
        let mut reasons = Vec::new();
        if draining {
            reasons.push("the service is shutting down".to_owned());
        }
        let ready = Ready {
            status: if draining { "draining" } else { "ready" }.to_owned(),
            reasons,
            models: state.routes.routes().len(),
            prompts: state.prompts.list().len(),
            reload: Reload { ok: refused.is_none(), error: refused },
            store: StoreHealth { ok: trouble.is_none(), error: trouble },
            redis: health.redis().map(|ok| RedisState { ok }),
        };
        if draining { Readiness::Draining(Json(ready), 1) } else { Readiness::Ready(Json(ready)) }
    }

    /// Figures
    ///
    /// For Prometheus: requests, errors, attempts at providers, times, tokens, open streams.
    #[oai(path = "/metrics", method = "get", operation_id = "metrics")]
    async fn metrics(&self, request: &Request) -> TextAnswer {
        metrics(&self.context, request.headers()).into()
    }
}

/// Whether the service should get requests.
#[derive(ApiResponse)]
enum Readiness {
    /// It should.
    #[oai(status = 200)]
    Ready(Json<Ready>),
    /// It is about to end.
    #[oai(status = 503)]
    Draining(Json<Ready>, #[oai(header = "retry-after")] u32),
}

fn metrics(context: &Context, headers: &HeaderMap) -> Response {
    let budgets = standing::budgets_left(context.gateway.gate(), &context.doorkeeper.ring);
    let _shown = context.metrics.show_budgets(&budgets);
    if wants(headers, "application/openmetrics-text") {
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        return text_response(content_type, context.metrics.render_open_metrics());
    }
    text_response("text/plain; version=0.0.4; charset=utf-8", context.metrics.render())
}

fn wants(headers: &HeaderMap, media_type: &str) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains(media_type))
}

fn document(context: &Context, pages: &Pages) -> Response {
    json_response(pages.document.get_or_init(|| docs::document(&context.prefix).into()).clone())
}

fn docs_page(context: &Context, pages: &Pages) -> Response {
    let (page, policy) = pages.page.get_or_init(|| {
        let page = docs::page(&context.prefix);
        let policy = HeaderValue::try_from(docs::policy(&page)).ok();
        (page.into(), policy)
    });
    let mut response = text_response("text/html; charset=utf-8", page.clone());
    let headers = response.headers_mut();
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if let Some(policy) = policy {
        headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    }
    response
}

fn home(context: &Context) -> Response {
    let prefix = &context.prefix;
    let text = format!("llm-proxy-api is running.\n\nManual: /docs\nModels: {prefix}/tags and /v1/models\n");
    text_response("text/plain; charset=utf-8", text)
}
