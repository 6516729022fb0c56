//! What operators and their machines ask: probes, figures, the document and its page.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use poem::http::header::{ACCEPT, CONTENT_TYPE};
use poem::http::{HeaderMap, HeaderValue, StatusCode};
use poem::web::Data;
use poem::{EndpointExt, Request, Response, RouteMethod, get, handler};
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

/// The paths that are not part of the API's document.
pub(super) fn paths() -> Vec<(&'static str, RouteMethod)> {
    let pages: Arc<Pages> = Arc::default();
    let page = |path, endpoint| (path, endpoint);
    vec![
        page("/livez", get(livez)),
        page("/readyz", get(readyz)),
        page("/metrics", get(metrics)),
        page("/openapi.json", get(document.data(pages.clone()))),
        page("/docs", get(docs_page.data(pages))),
        page("/", get(home)),
    ]
}

#[handler]
fn livez() -> Response {
    json_response(Bytes::from_static(br#"{"status":"alive"}"#))
}

#[handler]
fn readyz(Data(context): Data<&Arc<Context>>) -> Response {
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

#[handler]
fn metrics(request: &Request, Data(context): Data<&Arc<Context>>) -> Response {
    let mut response = text_response("text/plain; version=0.0.4; charset=utf-8", context.metrics.render());
    if wants(request.headers(), "application/openmetrics-text") {
        let content_type =
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

fn wants(headers: &HeaderMap, media_type: &str) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains(media_type))
}

#[handler]
fn document(Data(context): Data<&Arc<Context>>, Data(pages): Data<&Arc<Pages>>) -> Response {
    json_response(pages.document.get_or_init(|| docs::document(&context.prefix).into()).clone())
}

#[handler]
fn docs_page(Data(context): Data<&Arc<Context>>, Data(pages): Data<&Arc<Pages>>) -> Response {
    let page = pages.page.get_or_init(|| docs::page(&context.prefix).into()).clone();
    text_response("text/html; charset=utf-8", page)
}

#[handler]
fn home(Data(context): Data<&Arc<Context>>) -> Response {
    let prefix = &context.prefix;
    let text = format!("llm-proxy-api is running.\n\nManual: /docs\nModels: {prefix}/tags and /v1/models\n");
    text_response("text/plain; charset=utf-8", text)
}
