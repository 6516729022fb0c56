//! Raw requests to one provider, with the gateway's key and without the caller's.
//!
//! The caller says which provider, which path there, and what to send. It must not get to another host, out of
//! the provider's own paths, or past the headers that matter to an answer.

mod passing;
mod target;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;
use poem::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use poem::http::{HeaderMap, HeaderName, HeaderValue, Method};
use poem::{Body, Request, RequestBody, Response};
use poem_openapi::registry::{self, MetaMediaType, MetaSchema, MetaSchemaRef};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, OpenApi};
use serde_json::{Map, Value, json};

use super::body::{self, AnyBody, JsonBody};
use super::context::Context;
use super::error::{ApiError, ErrorLabel};
use super::payload::RawAnswer;
use super::schema::PassthroughBody;
use super::{Tag, dto, record_of};
use crate::callers::Caller;
use crate::llm::{Change, RawObject, TOO_DEEP, is_too_deep, shortened};
use crate::providers::{RawRequest, RawResponse};
use crate::wire::Invalid;
use passing::passing;
use target::{query, safe_path};

/// Raw requests.
pub(super) struct PassthroughApi {
    pub(super) context: Arc<Context>,
}

/// What a wrapped request may hold.
const MEMBERS: &[&str] = &["provider", "model", "method", "path", "query", "headers", "body", "stream"];

/// The header that names a public model.
const MODEL: &str = "x-llm-model";

/// Headers of a caller that travel. All others stay: credentials, cookies, and what concerns this connection only.
const TRAVELLING: &[&str] = &[
    "accept",
    "accept-language",
    "content-type",
    "openai-beta",
    "anthropic-version",
    "anthropic-beta",
    "idempotency-key",
    "range",
    "if-match",
    "if-none-match",
];

#[OpenApi(prefix_path = "/api", tag = "Tag::Facade")]
impl PassthroughApi {
    /// Raw request
    ///
    /// Sends a request to one provider as it is, with the provider's own key. Status, headers and bytes of the answer
    /// come as they come.
    #[oai(path = "/passthrough", method = "post", operation_id = "passthrough")]
    async fn wrapped(
        &self,
        request: &Request,
        body: JsonBody<PassthroughBody>,
    ) -> Result<RawAnswer, ApiError> {
        let object = dto::object(body.bytes)?;
        dto::only_known(&object, &[MEMBERS], &[])?;
        let wrapped: PassthroughBody = dto::read(object.text())?;
        // The body's own text travels, not what a parser made of it.
        let inner = object.get("body").filter(|body| *body != b"null").map(Bytes::copy_from_slice);
        let (provider, inner, model) = self.addressee(&wrapped, inner, record_of(request).caller())?;
        let mut headers = travelling(&wrapped.headers.0)?;
        let inner = inner.map(|body| in_its_type(body, &headers));
        if inner.is_some() && !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if wrapped.stream && !headers.contains_key("accept") {
            headers.insert("accept", HeaderValue::from_static("text/event-stream"));
        }
        let raw = RawRequest {
            method: method(&wrapped.method)?,
            path: safe_path(&wrapped.path)?,
            query: query(&wrapped.query.0)?,
            headers,
            body: inner,
            model,
        };
        self.forward(request, &provider, raw).await
    }

    /// Raw request, unwrapped
    ///
    /// The same for clients that cannot wrap a body: method, query and body are the request's own. Where a provider has a
    /// server for each model, the header `x-llm-model` names the model.
    #[oai(path = "/passthrough/:provider/*path", method = "get", operation_id = "passthrough_get")]
    async fn get(&self, request: &Request) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, None).await
    }

    /// Raw request, unwrapped
    #[oai(path = "/passthrough/:provider/*path", method = "head", operation_id = "passthrough_head")]
    async fn head(&self, request: &Request) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, None).await
    }

    /// Raw request, unwrapped
    #[oai(path = "/passthrough/:provider/*path", method = "post", operation_id = "passthrough_post")]
    async fn post(&self, request: &Request, body: RawBody) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, Some(body.0.bytes)).await
    }

    /// Raw request, unwrapped
    #[oai(path = "/passthrough/:provider/*path", method = "put", operation_id = "passthrough_put")]
    async fn put(&self, request: &Request, body: RawBody) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, Some(body.0.bytes)).await
    }

    /// Raw request, unwrapped
    #[oai(path = "/passthrough/:provider/*path", method = "patch", operation_id = "passthrough_patch")]
    async fn patch(&self, request: &Request, body: RawBody) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, Some(body.0.bytes)).await
    }

    /// Raw request, unwrapped
    #[oai(path = "/passthrough/:provider/*path", method = "delete", operation_id = "passthrough_delete")]
    async fn delete(&self, request: &Request, body: RawBody) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, Some(body.0.bytes)).await
    }
}

/// A provider's name, the body for it, and its name of the model, if one was named.
type Addressee = (String, Option<Bytes>, Option<Arc<str>>);

impl PassthroughApi {
    /// Who is meant. With a public model, the body's `model` becomes the provider's name for it.
    fn addressee(
        &self,
        wrapped: &PassthroughBody,
        body: Option<Bytes>,
        caller: Option<&Caller>,
    ) -> Result<Addressee, ApiError> {
        match (&wrapped.provider, &wrapped.model) {
            (Some(provider), None) => Ok((provider.clone(), body, None)),
            (None, Some(model)) => {
                let deployment = self.context.gateway.first_deployment(model, caller)?;
                let body = body.map(|body| with_model(body, model, &deployment.upstream_model));
                Ok((deployment.provider_name.to_string(), body, Some(deployment.upstream_model.clone())))
            }
            (None, None) => Err(ApiError::from(Invalid::missing("provider"))),
            (Some(_), Some(_)) => Err(ApiError::invalid("model", "give either `provider` or `model`")),
        }
    }

    /// What the provider calls the model that a header names, if one does.
    fn model_named(&self, provider: &str, request: &Request) -> Result<Option<Arc<str>>, ApiError> {
        let Some(name) = request.headers().get(MODEL) else { return Ok(None) };
        let record = record_of(request);
        let caller = record.caller();
        let route = self.context.gateway.state().route(name.to_str().unwrap_or_default(), caller)?;
        let mut deployments = route.all_deployments();
        let deployment = deployments.find(|deployment| *deployment.provider_name == *provider);
        let deployment = deployment.ok_or_else(|| {
            ApiError::invalid(MODEL, format!("the provider does not serve the model that `{MODEL}` names"))
        })?;
        Ok(Some(deployment.upstream_model.clone()))
    }

    async fn unwrapped(&self, request: &Request, body: Option<Bytes>) -> Result<RawAnswer, ApiError> {
        let provider = request.raw_path_param("param0").unwrap_or_default().to_owned();
        // The path as it came: nothing of it has been decoded or put right.
        let own = format!("{}/passthrough/{provider}", self.context.prefix);
        let path = request.original_uri().path().strip_prefix(&own).unwrap_or_default();
        let headers = request.headers();
        let model = self.model_named(&provider, request)?;
        let kept = TRAVELLING
            .iter()
            .filter_map(|name| Some((HeaderName::from_static(name), headers.get(*name)?.clone())));
        let raw = RawRequest {
            method: request.method().clone(),
            // Clients that fill in a parameter write the slashes within it so. What is checked and travels has none of these.
            path: safe_path(&path.replace("%2F", "/").replace("%2f", "/"))?,
            query: request.original_uri().query().map(str::to_owned),
            headers: kept.collect(),
            body: body.filter(|body| !body.is_empty()),
            model,
        };
        self.forward(request, &provider, raw).await
    }

    async fn forward(
        &self,
        request: &Request,
        provider: &str,
        raw: RawRequest,
    ) -> Result<RawAnswer, ApiError> {
        if is_deep_json(&raw) {
            return Err(Invalid::json(TOO_DEEP).into());
        }
        let record = record_of(request);
        let is_head = raw.method == Method::HEAD;
        let mut answer = self.context.gateway.forward(provider, raw, &record).await?;
        if is_head && request.method() != Method::HEAD {
            // It is the length of what would have come.
            answer.headers.remove(CONTENT_LENGTH);
        }
        let own = format!("{}/passthrough/{provider}", self.context.prefix);
        Ok(as_it_came(answer, record.caller(), (provider, &own)).into())
    }
}

/// The answer for the caller. `own` is the path at which the provider's root is found here.
fn as_it_came(answer: RawResponse, caller: Option<&Caller>, (provider, own): (&str, &str)) -> Response {
    let mut response = Response::default();
    response.set_status(answer.status);
    if answer.status.is_client_error() || answer.status.is_server_error() {
        // Its words are the provider's own; that it failed is for log, figures and ledger.
        response.extensions_mut().insert(ErrorLabel("upstream_rejected"));
    }
    let headers = response.headers_mut();
    headers.extend(passing(&answer.headers, &answer.more_headers));
    let location = answer.location.and_then(|path| HeaderValue::try_from(format!("{own}{path}")).ok());
    if let Some(location) = location {
        headers.insert(LOCATION, location);
    }
    if let Ok(provider) = HeaderValue::from_str(provider) {
        headers.insert("x-llm-provider", provider);
    }
    // After the head nothing can be told but that the answer broke off.
    let caller = caller.cloned();
    let frames = answer.body.map(move |piece| match piece {
        Ok(_) if caller.as_ref().is_some_and(|caller| caller.is_revoked()) => {
            Err(std::io::Error::other("the key has been disabled or deleted"))
        }
        piece => piece.map(Frame::data).map_err(std::io::Error::other),
    });
    let body: BoxBody<Bytes, std::io::Error> =
        BoxBody::new(StreamBody::new(sync_wrapper::SyncStream::new(frames)));
    response.set_body(Body::from(body));
    response
}

/// A body that is said to be something else than JSON, and is written as a text, is that text.
fn in_its_type(body: Bytes, headers: &HeaderMap) -> Bytes {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("json");
    if kind.to_ascii_lowercase().contains("json") {
        return body;
    }
    serde_json::from_slice::<String>(&body).map_or(body, Bytes::from)
}

/// Whether a body is nested too deeply for its reader: one that is said to be JSON in any form, and one that would be read
/// as JSON whatever it is said to be.
fn is_deep_json(raw: &RawRequest) -> bool {
    let Some(body) = raw.body.as_deref() else { return false };
    let kind = raw.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_said = kind.windows(4).any(|word| word.eq_ignore_ascii_case(b"json"));
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start();
    (is_said || matches!(text.first(), Some(b'{' | b'['))) && is_too_deep(text)
}

/// The body with the public model's name replaced, where it has one.
fn with_model(body: Bytes, public: &str, upstream: &str) -> Bytes {
    let Ok(object) = RawObject::parse(body.clone()) else { return body };
    let named = object.get("model").and_then(|name| serde_json::from_slice::<String>(name).ok());
    if named.as_deref() != Some(public) {
        return body;
    }
    object.edit(&[Change::Set("model", Value::from(upstream).to_string().into())])
}

fn method(name: &str) -> Result<Method, ApiError> {
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
    let method = known.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(name));
    method.ok_or_else(|| {
        ApiError::invalid("method", "`method` must be one of GET, POST, PUT, PATCH, DELETE, HEAD")
    })
}

fn travelling(headers: &Map<String, Value>) -> Result<HeaderMap, ApiError> {
    let mut travelling = HeaderMap::new();
    for (name, value) in headers {
        let param = format!("headers.{}", shortened(name));
        let lower = name.to_ascii_lowercase();
        if !TRAVELLING.contains(&lower.as_str()) {
            let message = format!("`{param}` is not allowed; allowed are {}", TRAVELLING.join(", "));
            return Err(ApiError::invalid(&param, message));
        }
        let value = value.as_str().and_then(|text| HeaderValue::from_str(text).ok());
        let name = HeaderName::try_from(lower).ok();
        let (Some(name), Some(value)) = (name, value) else {
            return Err(ApiError::invalid(&param, format!("`{param}` must be a text without line ends")));
        };
        travelling.insert(name, value);
    }
    Ok(travelling)
}

/// A body of any kind, within the limits.
pub(super) struct RawBody(AnyBody);

impl<'a> ApiExtractor<'a> for RawBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<registry::MetaRequest> {
        let any = |content_type, schema: MetaSchema| MetaMediaType {
            content_type,
            schema: MetaSchemaRef::Inline(Box::new(schema)),
        };
        Some(registry::MetaRequest {
            description: Some("Whatever the provider takes there."),
            content: vec![
                any(
                    "application/json",
                    MetaSchema { example: Some(json!({"input": "Hello!"})), ..MetaSchema::ANY },
                ),
                any("application/octet-stream", MetaSchema::new_with_format("string", "binary")),
            ],
            required: false,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self(body::read(request, body).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_that_matter_travel() {
        let good = json!({"Accept": "text/event-stream", "OpenAI-Beta": "assistants=v2"});
        assert_eq!(travelling(good.as_object().unwrap()).unwrap().len(), 2);
        for bad in [
            json!({"Authorization": "Bearer x"}),
            json!({"Cookie": "a"}),
            json!({"Host": "evil"}),
            json!({"Connection": "close"}),
            json!({"Transfer-Encoding": "chunked"}),
            json!({"Content-Length": "3"}),
            json!({"X-Forwarded-For": "1"}),
            json!({"Accept": "a\r\nHost: evil"}),
            json!({"Accept": 3}),
            json!({"api-key": "x"}),
            json!({"x-api-key": "x"}),
        ] {
            assert!(travelling(bad.as_object().unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_model_of_a_body_is_replaced_where_it_is_the_public_one() {
        let replaced = |body: &'static str| with_model(body.into(), "fast", "gpt-4o-mini");
        assert_eq!(
            replaced(r#"{"model": "fast", "input": "x"}"#),
            r#"{"model": "gpt-4o-mini", "input": "x"}"#
        );
        assert_eq!(replaced(r#"{"model":"tts-1"}"#), r#"{"model":"tts-1"}"#);
        assert_eq!(replaced("no json"), "no json");
    }
}
