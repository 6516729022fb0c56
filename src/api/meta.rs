//! What operators and their machines ask: probes, figures, the document and its page.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use poem::endpoint::{BoxEndpoint, make_sync};
use poem::http::header::ACCEPT;
use poem::http::{HeaderMap, HeaderValue, StatusCode};
use poem::{EndpointExt, Request, Response};
use serde_json::json;

use super::context::Context;
use super::docs;
use super::payload::{json_response, text_response};

/// The document and its page, made when they are first asked for: few ever are.
#[derive(Default)]
struct Pages {
    document: OnceLock<Bytes>,
    page: OnceLock<Bytes>,
}

type Page = fn(&Context, &Pages, &Request) -> Response;

/// What is to be read at the paths that are not part of the API's document.
pub(super) fn pages(context: &Arc<Context>) -> Vec<(&'static str, BoxEndpoint<'static>)> {
    let pages: Arc<Pages> = Arc::default();
    let all: [(&str, Page); 6] = [
        ("/livez", |_, _, _| json_response(Bytes::from_static(br#"{"status":"alive"}"#))),
        ("/readyz", |context, _, _| readyz(context)),
        ("/metrics", |context, _, request| metrics(context, request.headers())),
        ("/openapi.json", |context, pages, _| document(context, pages)),
        ("/docs", |context, pages, _| docs_page(context, pages)),
        ("/", |context, _, _| home(context)),
    ];
    all.into_iter()
        .map(|(path, page)| {
            let (context, pages) = (context.clone(), pages.clone());
            (path, make_sync(move |request| page(&context, &pages, &request)).map_to_response().boxed())
        })
        .collect()
}

fn readyz(context: &Context) -> Response {
    let draining = context.health.is_draining();
    let state = context.gateway.state();
    let mut reasons = Vec::new();
    if draining {
        reasons.push("the service is shutting down".to_owned());
    }
    let refused = context.health.refused_reload();
    let body = json!({
        "status": if draining { "draining" } else { "ready" },
        "reasons": reasons,
        "models": state.routes.routes().len(),
        "prompts": state.prompts.list().len(),
        "reload": {"ok": refused.is_none(), "error": refused},
    });
    let mut response = json_response(body.to_string().into());
    if draining {
        response.set_status(StatusCode::SERVICE_UNAVAILABLE);
        response.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
    }
    response
}

fn metrics(context: &Context, headers: &HeaderMap) -> Response {
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
    let page = pages.page.get_or_init(|| docs::page(&context.prefix).into()).clone();
    text_response("text/html; charset=utf-8", page)
}

fn home(context: &Context) -> Response {
    let prefix = &context.prefix;
    let text = format!("llm-proxy-api is running.\n\nManual: /docs\nModels: {prefix}/tags and /v1/models\n");
    text_response("text/plain; charset=utf-8", text)
}
