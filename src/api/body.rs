//! Bodies of requests: read once, within limits.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Body as _;
use poem::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use poem::http::{HeaderMap, StatusCode};
use poem::{Request, RequestBody};
use poem_openapi::registry::{self, MetaMediaType, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use tokio::time::{Instant, timeout_at};

use super::context::{Admitted, Limits};
use super::error::ApiError;

/// A body that comes slower than this, beyond the time for a silence, holds its connection for nothing.
pub(super) const LEAST_BYTES_PER_SECOND: usize = 4096;

/// The bytes of a JSON request, which the document describes as `T`.
#[derive(Debug)]
pub(super) struct JsonBody<T> {
    pub(super) bytes: Bytes,
    described: PhantomData<fn() -> T>,
}

impl<'a, T: Type> ApiExtractor<'a> for JsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<registry::MetaRequest> {
        Some(registry::MetaRequest {
            description: None,
            content: vec![MetaMediaType { content_type: "application/json", schema: T::schema_ref() }],
            required: T::IS_REQUIRED,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        require_json(request.headers())?;
        let bytes = read(request, body).await?;
        Ok(Self { bytes, described: PhantomData })
    }
}

/// A body that says it is something else than JSON is not guessed at; one that says nothing is.
fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported = |message: &str| {
        Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
    };
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return unsupported("the body must not be compressed");
    }
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json") {
        return Ok(());
    }
    unsupported("the body must be JSON; send the header `content-type: application/json`")
}

/// Reads the whole body of a request within the limits.
pub(super) async fn read(request: &Request, body: &mut RequestBody) -> Result<Bytes, ApiError> {
    let limits = request.data::<Admitted>().map_or_else(Limits::default, |admitted| admitted.limits);
    let headers = request.headers();
    let Ok(body) = body.take() else { return Ok(Bytes::new()) };
    let mut body: BoxBody<Bytes, std::io::Error> = body.into();
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits.max_body_bytes as u64) {
        return Err(too_large(limits));
    }
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    let mut started: Option<Instant> = None;
    while !body.is_end_stream() {
        let received = first.as_ref().map_or(0, Bytes::len) + all.len();
        // Mostly it is there already, and nobody needs to look at a clock.
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => {
                let now = Instant::now();
                let due = now.min(*started.get_or_insert(now) + slowest(received)) + limits.body_timeout;
                timeout_at(due, body.frame()).await.map_err(|_| late())?
            }
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", "the body broke off before its end")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if received + data.len() > limits.max_body_bytes {
            return Err(too_large(limits));
        }
        // Most bodies come in one piece, which need not be copied.
        match first.take() {
            None if all.is_empty() => first = Some(data),
            before => {
                all.extend_from_slice(&before.unwrap_or_default());
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

fn late() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body did not arrive in time")
}

/// How long so many bytes take at the slowest rate that is waited for.
fn slowest(bytes: usize) -> Duration {
    Duration::from_secs((bytes / LEAST_BYTES_PER_SECOND) as u64)
}

fn too_large(limits: Limits) -> ApiError {
    let message = format!("the body is larger than {} bytes", limits.max_body_bytes);
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
}
