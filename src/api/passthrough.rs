//! Raw requests to one provider, with the gateway's key and without the caller's.
//!
//! The caller says which provider, which path there, and what to send. It must not get to another host, out of
//! the provider's own paths, or past the headers that matter to an answer.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;
use poem::http::header::CONTENT_TYPE;
use poem::http::{HeaderMap, HeaderName, HeaderValue, Method};
use poem::{Body, Request, RequestBody, Response};
use poem_openapi::OpenApi;
use serde_json::{Map, Value};

use super::body::{self, JsonBody};
use super::context::Context;
use super::error::ApiError;
use super::payload::RawAnswer;
use super::schema::PassthroughBody;
use super::{Tag, dto, record_of};
use crate::llm::{Change, RawObject};
use crate::providers::{RawRequest, RawResponse};

/// Raw requests.
pub(super) struct PassthroughApi {
    pub(super) context: Arc<Context>,
}

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

/// Headers of an answer that stay: those that concern the upstream's connection, and those by which it would
/// speak to the caller's browser about this host.
const STAYING: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "set-cookie",
    "alt-svc",
    "strict-transport-security",
    "access-control-allow-origin",
    "access-control-allow-credentials",
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
        let wrapped: PassthroughBody = dto::read(object.text())?;
        // The body's own text travels, not what a parser made of it.
        let inner = object.get("body").filter(|body| *body != b"null").map(Bytes::copy_from_slice);
        let (provider, inner) = self.addressee(&wrapped, inner)?;
        let mut headers = travelling(&wrapped.headers.0)?;
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
        };
        self.forward(request, &provider, raw).await
    }

    /// Raw request, unwrapped
    ///
    /// The same for clients that cannot wrap a body: method, query and body are the request's own.
    #[oai(path = "/passthrough/:provider/*path", method = "get", operation_id = "passthrough_get")]
    async fn get(&self, request: &Request) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, None).await
    }

    /// Raw request, unwrapped
    #[oai(path = "/passthrough/:provider/*path", method = "post", operation_id = "passthrough_post")]
    async fn post(&self, request: &Request, body: RawBody) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, Some(body.0)).await
    }

    /// Raw request, unwrapped
    #[oai(path = "/passthrough/:provider/*path", method = "put", operation_id = "passthrough_put")]
    async fn put(&self, request: &Request, body: RawBody) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, Some(body.0)).await
    }

    /// Raw request, unwrapped
    #[oai(path = "/passthrough/:provider/*path", method = "patch", operation_id = "passthrough_patch")]
    async fn patch(&self, request: &Request, body: RawBody) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, Some(body.0)).await
    }

    /// Raw request, unwrapped
    #[oai(path = "/passthrough/:provider/*path", method = "delete", operation_id = "passthrough_delete")]
    async fn delete(&self, request: &Request, body: RawBody) -> Result<RawAnswer, ApiError> {
        self.unwrapped(request, Some(body.0)).await
    }
}

impl PassthroughApi {
    /// Who is meant. With a public model, the body's `model` becomes the provider's name for it.
    fn addressee(
        &self,
        wrapped: &PassthroughBody,
        body: Option<Bytes>,
    ) -> Result<(String, Option<Bytes>), ApiError> {
        match (&wrapped.provider, &wrapped.model) {
            (Some(provider), None) => Ok((provider.clone(), body)),
            (None, Some(model)) => {
                let deployment = self.context.gateway.first_deployment(model)?;
                let body = body.map(|body| with_model(body, model, &deployment.upstream_model));
                Ok((deployment.provider_name.to_string(), body))
            }
            (None, None) => Err(ApiError::from(crate::wire::Invalid::missing("provider"))),
            (Some(_), Some(_)) => Err(ApiError::invalid("model", "give either `provider` or `model`")),
        }
    }

    async fn unwrapped(&self, request: &Request, body: Option<Bytes>) -> Result<RawAnswer, ApiError> {
        let provider = request.raw_path_param("param0").unwrap_or_default().to_owned();
        // The path as it came: nothing of it has been decoded or put right.
        let own = format!("{}/passthrough/{provider}", self.context.prefix);
        let path = request.original_uri().path().strip_prefix(&own).unwrap_or_default();
        let headers = request.headers();
        let kept = TRAVELLING
            .iter()
            .filter_map(|name| Some((HeaderName::from_static(name), headers.get(*name)?.clone())));
        let raw = RawRequest {
            method: request.method().clone(),
            path: safe_path(path)?,
            query: request.original_uri().query().map(str::to_owned),
            headers: kept.collect(),
            body: body.filter(|body| !body.is_empty()),
        };
        self.forward(request, &provider, raw).await
    }

    async fn forward(
        &self,
        request: &Request,
        provider: &str,
        raw: RawRequest,
    ) -> Result<RawAnswer, ApiError> {
        let record = record_of(request);
        let answer = self.context.gateway.forward(provider, raw, &record).await?;
        Ok(as_it_came(answer, provider).into())
    }
}

fn as_it_came(answer: RawResponse, provider: &str) -> Response {
    let mut response = Response::default();
    response.set_status(answer.status);
    let headers = response.headers_mut();
    for (name, value) in &answer.headers {
        if !STAYING.contains(&name.as_str()) {
            headers.append(name, value.clone());
        }
    }
    if let Ok(provider) = HeaderValue::from_str(provider) {
        headers.insert("x-llm-provider", provider);
    }
    // After the head nothing can be told but that the answer broke off.
    let frames = answer.body.map_ok(Frame::data).map_err(std::io::Error::other);
    let body: BoxBody<Bytes, std::io::Error> =
        BoxBody::new(StreamBody::new(sync_wrapper::SyncStream::new(frames)));
    response.set_body(Body::from(body));
    response
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

/// A path that stays below the provider's root, whoever reads it and however often it is decoded.
fn safe_path(path: &str) -> Result<String, ApiError> {
    let refused = |why: &str| Err(ApiError::invalid("path", format!("`path` {why}")));
    let Some(segments) = path.strip_prefix('/') else {
        return refused("must begin with a slash, such as `/v1/audio/speech`");
    };
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return refused("must not hold an empty segment");
        }
        if !is_safe_segment(segment) {
            return refused("holds a segment that is not allowed");
        }
    }
    Ok(path.to_owned())
}

fn is_safe_segment(segment: &str) -> bool {
    let plain = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b':'
                    | b'@'
                    | b'%'
            )
    };
    if !segment.bytes().all(plain) {
        return false;
    }
    // What it may become when somebody decodes it, and when somebody decodes that.
    let mut decoded = segment.as_bytes().to_vec();
    for _ in 0..4 {
        let visible: Vec<u8> = decoded.iter().copied().filter(|b| *b != b' ').collect();
        let leads_up = matches!(visible.as_slice(), b"." | b"..");
        let forbidden =
            decoded.iter().any(|b| matches!(b, b'/' | b'\\' | b'?' | b'#') || b.is_ascii_control());
        if forbidden || leads_up {
            return false;
        }
        let Some(next) = percent_decoded(&decoded) else { return false };
        if next == decoded {
            return true;
        }
        decoded = next;
    }
    // Encoded so often for no good reason.
    false
}

/// `None` where a percent sign is not followed by two digits.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

fn query(query: &Map<String, Value>) -> Result<Option<String>, ApiError> {
    let mut pairs = Vec::new();
    for (name, value) in query {
        let values = match value {
            Value::Array(values) => values.iter().collect(),
            value => vec![value],
        };
        for value in values {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                _ => {
                    return Err(ApiError::invalid(
                        &format!("query.{name}"),
                        format!("`query.{name}` must be a text or a number"),
                    ));
                }
            };
            pairs.push(format!("{}={}", percent_encoded(name), percent_encoded(&value)));
        }
    }
    Ok((!pairs.is_empty()).then(|| pairs.join("&")))
}

fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn travelling(headers: &Map<String, Value>) -> Result<HeaderMap, ApiError> {
    let mut travelling = HeaderMap::new();
    for (name, value) in headers {
        let param = format!("headers.{name}");
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
pub(super) struct RawBody(Bytes);

impl<'a> poem::FromRequest<'a> for RawBody {
    async fn from_request(request: &'a Request, body: &mut RequestBody) -> poem::Result<Self> {
        let limits = request.data().copied().unwrap_or_default();
        Ok(Self(body::read(request.headers(), body, limits).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn ordinary_paths_pass() {
        for path in [
            "/v1/audio/speech",
            "/",
            "/v1/files/file-abc123/content",
            "/api/show",
            "/a%20b",
            "/v1/",
            "/models/gpt-4o:latest",
            "/x/.../y",
        ] {
            assert_eq!(safe_path(path).unwrap(), path);
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "",
            "v1/models",
            "//evil.example/x",
            "/v1//x",
            "/../x",
            "/v1/..",
            "/v1/.",
            "/./x",
            "/%2e%2e/x",
            "/%2E./x",
            "/.%2e",
            "/%252e%252e/x",
            "/%25252e%25252e",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "http://evil/x",
            "https://evil",
            "/x?y=1",
            "/x#y",
            "/x\r\nHost: evil",
            "/x%0d%0aHost:evil",
            "/x%00",
            "/%",
            "/%zz",
            "/ż",
            "/a b",
            "/%2",
            "/..%20",
        ] {
            assert!(safe_path(path).is_err(), "{path:?}");
        }
    }

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
    fn queries_are_encoded() {
        let encoded = query(json!({"a b": "c&d=ż", "n": 3, "l": ["x", true]}).as_object().unwrap()).unwrap();
        assert_eq!(encoded.as_deref(), Some("a%20b=c%26d%3D%C5%BC&n=3&l=x&l=true"));
        assert_eq!(query(&Map::new()).unwrap(), None);
        assert!(query(json!({"a": {}}).as_object().unwrap()).is_err());
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

    proptest! {
        #[test]
        fn whatever_passes_stays_below_the_root(path in "/[a./%2ef5cC\\\\?#:@ \r\n-]{0,16}") {
            if let Ok(path) = safe_path(&path) {
                let url = reqwest_like(&path);
                prop_assert!(url.starts_with("/base/"), "{path:?} became {url:?}");
            }
        }
    }

    /// The path as a URL parser sees it, dots resolved.
    fn reqwest_like(path: &str) -> String {
        let uri: poem::http::Uri = format!("http://host/base{path}").parse().unwrap();
        let mut kept: Vec<String> = Vec::new();
        for segment in uri.path().split('/').skip(1) {
            let decoded = percent_decoded(segment.as_bytes()).unwrap_or_default();
            match decoded.as_slice() {
                b".." => drop(kept.pop()),
                b"." => {}
                _ => kept.push(segment.to_owned()),
            }
        }
        format!("/{}", kept.join("/")) + if kept.len() == 1 { "/" } else { "" }
    }
}
