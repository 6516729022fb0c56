//! Bodies of requests: read once, within limits.

mod memory;

use std::marker::PhantomData;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body as _, Frame};
use poem::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use poem::http::{HeaderMap, StatusCode};
use poem::{Request, RequestBody};
use poem_openapi::registry::{self, MetaMediaType, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use tokio::time::{Instant, timeout_at};

use super::context::{Admitted, Limits};
use super::error::ApiError;
use memory::{Reserved, SMALL_BYTES};

pub(crate) use memory::BodyMemory;

/// A body that comes slower than this, beyond the time for a silence, holds its connection for nothing.
pub(super) const LEAST_BYTES_PER_SECOND: usize = 4096;
/// The same while others wait for the memory that it takes.
const LEAST_BYTES_PER_SECOND_IF_SHORT: usize = 64 * 1024;
/// How long nothing may come of a body while others wait for the memory that it takes.
const SILENCE_IF_SHORT: Duration = Duration::from_secs(3);
/// After so long it is looked at anew whether memory is short.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What some programs write before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// How long it takes until some of the bodies have ended.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(2);

/// The bytes of a JSON request, which the document describes as `T`.
#[derive(Debug)]
pub(super) struct JsonBody<T> {
    pub(super) bytes: Bytes,
    described: PhantomData<fn() -> T>,
    /// For as long as the request is worked on.
    _memory: Option<Reserved>,
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
        let body = read(request, body).await?;
        let mut bytes = body.bytes;
        if bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.advance(BYTE_ORDER_MARK.len());
        }
        Ok(Self { bytes, described: PhantomData, _memory: body.memory })
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

/// A body of any kind.
#[derive(Debug, Default)]
pub(super) struct AnyBody {
    pub(super) bytes: Bytes,
    /// To be kept for as long as the request is worked on.
    memory: Option<Reserved>,
}

/// Reads the whole body of a request within the limits.
pub(super) async fn read(request: &Request, body: &mut RequestBody) -> Result<AnyBody, ApiError> {
    let by_itself;
    let admitted = match request.data::<Admitted>() {
        Some(admitted) => admitted,
        None => {
            by_itself = Admitted::default();
            &by_itself
        }
    };
    let limits = admitted.limits;
    let headers = request.headers();
    let Ok(body) = body.take() else { return Ok(AnyBody::default()) };
    let mut body: BoxBody<Bytes, std::io::Error> = body.into();
    if body.is_end_stream() {
        return Ok(AnyBody::default());
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let announced = match announced.map(usize::try_from) {
        Some(Ok(length)) if length <= limits.max_body_bytes => Some(length),
        None => None,
        Some(_) => return Err(too_large(limits)),
    };
    // Of unknown length it may become as large as any.
    let most = announced.unwrap_or(limits.max_body_bytes);
    let reserved = admitted.bodies.reserve(most.min(SMALL_BYTES)).await.ok_or_else(full)?;
    let mut reading = Reading { admitted, first: None, all: BytesMut::new(), most, reserved, started: None };
    reading.read_on(&mut body).await?;
    let (bytes, memory) = reading.reserved.keep(reading.first.unwrap_or_else(|| reading.all.freeze()));
    Ok(AnyBody { bytes, memory })
}

/// A body that is being read.
struct Reading<'a> {
    admitted: &'a Admitted,
    /// Most bodies come in one piece, which need not be copied.
    first: Option<Bytes>,
    all: BytesMut,
    /// So large it may become.
    most: usize,
    /// The memory for what has come, and a little more.
    reserved: Reserved,
    started: Option<Instant>,
}

impl Reading<'_> {
    /// Reads to the end.
    async fn read_on(&mut self, body: &mut BoxBody<Bytes, std::io::Error>) -> Result<(), ApiError> {
        let limits = self.admitted.limits;
        while !body.is_end_stream() {
            let received = self.first.as_ref().map_or(0, Bytes::len) + self.all.len();
            // Mostly it is there already, and no clock is read.
            let frame = match body.frame().now_or_never() {
                Some(frame) => frame,
                None => self.in_time(received, body).await?,
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| broken_off())?;
            let Ok(data) = frame.into_data() else { continue };
            if received + data.len() > limits.max_body_bytes {
                return Err(too_large(limits));
            }
            let needed = received + data.len();
            if needed > self.reserved.bytes() {
                let ahead = needed.saturating_mul(2).min(self.most).max(needed);
                self.admitted.bodies.grow(&mut self.reserved, ahead).await.ok_or_else(full)?;
            }
            self.push(data);
        }
        Ok(())
    }

    /// The next piece of a body of which `received` bytes have come.
    async fn in_time(
        &mut self,
        received: usize,
        body: &mut BoxBody<Bytes, std::io::Error>,
    ) -> Result<Option<Result<Frame<Bytes>, std::io::Error>>, ApiError> {
        let silent_since = Instant::now();
        let started = *self.started.get_or_insert(silent_since);
        loop {
            let (rate, silence) = if self.admitted.bodies.is_short() {
                (LEAST_BYTES_PER_SECOND_IF_SHORT, SILENCE_IF_SHORT.min(self.admitted.limits.body_timeout))
            } else {
                (LEAST_BYTES_PER_SECOND, self.admitted.limits.body_timeout)
            };
            let slowest = Duration::from_secs((received / rate) as u64);
            let due = silent_since.min(started + slowest) + silence;
            // Memory may become short while this waits.
            match timeout_at(due.min(Instant::now() + LOOK_AGAIN), body.frame()).await {
                Ok(frame) => return Ok(frame),
                Err(_) if Instant::now() >= due => return Err(late()),
                Err(_) => {}
            }
        }
    }

    fn push(&mut self, data: Bytes) {
        match self.first.take() {
            None if self.all.is_empty() => self.first = Some(data),
            before => {
                if self.all.is_empty() {
                    // All at once: what grows by doubling takes more than it holds. Pages that are not written to
                    // take no memory.
                    self.all.reserve(self.most);
                }
                self.all.extend_from_slice(&before.unwrap_or_default());
                self.all.extend_from_slice(&data);
            }
        }
    }
}

fn broken_off() -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", "the body broke off before its end")
}

fn full() -> ApiError {
    let message = "the bodies of other requests take all of the memory for them; try again";
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "body_memory_full", message);
    error.retry_after(Some(FULL_RETRY_AFTER))
}

fn late() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body did not arrive in time")
}

fn too_large(limits: Limits) -> ApiError {
    let message = format!("the body is larger than {} bytes", limits.max_body_bytes);
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
}
