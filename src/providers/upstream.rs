//! One HTTP upstream: its address, its key, its time-outs, and what its statuses mean.

mod failure;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION,
    USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Url;
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{ErrorKind, ProviderError};
use super::mask::Mask;
use super::redact::Redactor;
use super::stream::Patience;
use super::transport::{self, Failure, FailureKind, Response, Target, Transport};
use super::{RawRequest, RawResponse, Shared};
use crate::config::{Fault, ProviderConfig, Timeouts};
use crate::engine::Place;
use crate::llm::{MAX_ANSWER_BYTES, is_invisible, without_byte_order_mark};

/// The process ends, or the reader of an answer has a fault.
pub(super) const STOPPED: &str = "its answer could not be read to its end";
const PACKED: &str = "its answer is compressed in a way that cannot be read";
/// The answer to a probe is not read beyond this.
const MAX_PROBE_BYTES: usize = 1024 * 1024;

/// A provider's server.
#[derive(Debug)]
pub(super) struct Upstream {
    /// The provider's name.
    pub(super) provider: Arc<str>,
    transport: Transport,
    base: Url,
    /// Of every request: the key, and what the operator adds.
    headers: HeaderMap,
    /// The same, with the type of a JSON body.
    json_headers: HeaderMap,
    pub(super) redactor: Arc<Redactor>,
    mask: Mask,
    raw_headers: Arc<[String]>,
    pub(super) timeouts: Timeouts,
}

impl Upstream {
    /// Prepares, without connecting. `default_path` stands in where the address has no path.
    ///
    /// # Errors
    /// The address or a header cannot be used.
    pub(super) fn new(config: &ProviderConfig, shared: &Shared, default_path: &str) -> Result<Self, Fault> {
        let base = address(config, ("base_url", config.base_url.as_deref()), default_path)?;
        let transport = Transport::new(config, shared, &base)?;
        Self::at(base, config, transport)
    }

    /// The same for an engine that the gateway runs itself, which `config` names by its address and its key.
    ///
    /// # Errors
    /// A header cannot be used.
    pub(super) fn of_engine(place: &Place, config: &ProviderConfig) -> Result<Self, Fault> {
        let base = address(config, ("base_url", config.base_url.as_deref()), "/v1")?;
        Self::at(base, config, Transport::to_engine(place, config)?)
    }

    /// Where a provider is asked what models it has, if that is elsewhere. Key, headers and time-outs are the same.
    ///
    /// # Errors
    /// The address or a header cannot be used.
    pub(super) fn of_models(config: &ProviderConfig, shared: &Shared) -> Result<Option<Self>, Fault> {
        let Some(url) = config.models_url.as_deref() else { return Ok(None) };
        let base = address(config, ("models_url", Some(url)), "/")?;
        let transport = Transport::new(config, shared, &base)?;
        Self::at(base, config, transport).map(Some)
    }

    fn at(base: Url, config: &ProviderConfig, transport: Transport) -> Result<Self, Fault> {
        let headers = headers(config)?;
        let mut json_headers = headers.clone();
        json_headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Self {
            provider: config.name.as_str().into(),
            transport,
            redactor: Arc::new(Redactor::new(transport::secrets(config))),
            mask: Mask::of(config),
            raw_headers: config.raw_headers.clone().into(),
            timeouts: config.timeouts,
            headers,
            json_headers,
            base,
        })
    }

    /// The place below the base address, for a path that is known beforehand.
    ///
    /// # Errors
    /// The base address does not lead to such a place.
    pub(super) fn target(&self, path: &str) -> Result<Target, Fault> {
        let unusable = || {
            Fault::new(
                self.provider.as_ref(),
                "`base_url` cannot be used",
                "give \"base_url\": \"http://host:port\"",
            )
        };
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        Target::new(url).ok_or_else(unusable)
    }

    /// The place below the server's root: the base address without the version at its end.
    fn root_target(&self, path: &str, query: Option<&str>) -> Option<Target> {
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/');
        let root = base.strip_suffix("/v1").unwrap_or(base).to_owned();
        url.set_path(&format!("{root}{path}"));
        url.set_query(query);
        let same_host = (url.scheme(), url.host_str(), url.port())
            == (self.base.scheme(), self.base.host_str(), self.base.port());
        let below_root = url.path().starts_with(&format!("{root}/"));
        Target::new(url).filter(|target| same_host && below_root && target.url.username().is_empty())
    }

    /// The path below the server's root that an answer from `asked` points to; `None` if it points elsewhere.
    fn own_path(&self, asked: &Target, location: &str) -> Option<String> {
        let url = asked.url.join(location).ok()?;
        let base = self.base.path().trim_end_matches('/');
        let root = base.strip_suffix("/v1").unwrap_or(base);
        let path = url.path().strip_prefix(root).filter(|path| path.starts_with('/'))?;
        let is_same_host = (url.scheme(), url.host_str(), url.port())
            == (self.base.scheme(), self.base.host_str(), self.base.port());
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        is_same_host.then(|| format!("{path}{query}"))
    }

    /// Asks, and returns the answer once its status is a good one.
    ///
    /// # Errors
    /// No answer, or one with another status.
    pub(super) async fn post(&self, target: &Target, body: Bytes) -> Result<Response, ProviderError> {
        let sent = self.transport.send(Method::POST, target, &self.json_headers, Some(body)).await;
        self.good(sent).await
    }

    /// As [`Upstream::post`], and the whole answer.
    ///
    /// # Errors
    /// No answer, or one with another status.
    pub(super) async fn ask(&self, target: &Target, body: Bytes) -> Result<Bytes, ProviderError> {
        self.read(self.post(target, body).await?, MAX_ANSWER_BYTES).await
    }

    /// As [`Upstream::ask`], at a path below the server's root.
    ///
    /// # Errors
    /// No answer, or one with another status.
    pub(super) async fn ask_below_root(&self, path: &str, body: Bytes) -> Result<Bytes, ProviderError> {
        match self.root_target(path, None) {
            Some(target) => self.ask(&target, body).await,
            None => Err(self.failed(ErrorKind::Unsupported("a path that leads elsewhere"))),
        }
    }

    /// As [`Upstream::ask`], without a body, within `limit`.
    ///
    /// # Errors
    /// No answer, or one with another status.
    pub(super) async fn get(&self, target: &Target, limit: Duration) -> Result<Bytes, ProviderError> {
        let asked = async {
            let sent = self.transport.send(Method::GET, target, &self.headers, None).await;
            self.read(self.good(sent).await?, MAX_ANSWER_BYTES).await
        };
        timeout(limit, asked).await.unwrap_or_else(|_| Err(self.failed(ErrorKind::Overdue(limit))))
    }

    /// Whether the server answers within `limit`, and not that it is broken: at `path` below its root, or at the usual
    /// place. A refusal is a sign of life, too.
    ///
    /// # Errors
    /// It does not.
    pub(super) async fn probe(
        &self,
        path: Option<&str>,
        usual: &Target,
        limit: Duration,
    ) -> Result<(), ProviderError> {
        let target = match path {
            Some(path) => self.root_target(path, None),
            None => Some(usual.clone()),
        };
        let Some(target) = target else {
            return Err(self.failed(ErrorKind::Unsupported("a path that leads elsewhere")));
        };
        let asked = async {
            let sent = self.transport.send(Method::GET, &target, &self.headers, None).await;
            let response = sent.map_err(|failure| self.unreachable(failure))?;
            let status = response.status;
            // Read to its end, the connection can be used again. What it says does not matter.
            let _ = self.read(response, MAX_PROBE_BYTES).await;
            if status.is_server_error() {
                return Err(
                    self.failed(ErrorKind::Unavailable { status: status.as_u16(), retry_after: None })
                );
            }
            Ok(())
        };
        timeout(limit, asked).await.unwrap_or_else(|_| Err(self.failed(ErrorKind::Overdue(limit))))
    }

    async fn good(&self, sent: Result<Response, Failure>) -> Result<Response, ProviderError> {
        let response = sent.map_err(|failure| self.unreachable(failure))?;
        if !response.status.is_success() {
            return Err(self.failure_of(response).await);
        }
        if !response.headers.contains_key(CONTENT_ENCODING) {
            return Ok(response);
        }
        // It was not asked for compressed.
        response.unpacked().await.map_err(|failure| self.broken_off(failure))
    }

    /// The bytes of an answer as they come.
    pub(super) fn bytes(
        self: &Arc<Self>,
        mut response: Response,
    ) -> impl Stream<Item = Result<Bytes, ProviderError>> + Send + use<> {
        let upstream = self.clone();
        // A stream may take hours; its head would keep the buffer that it was read into.
        drop(std::mem::take(&mut response.headers));
        response.map(move |chunk| chunk.map_err(|failure| upstream.broken_off(failure)))
    }

    /// Sends a caller's own request on, and hands out whatever comes back.
    ///
    /// # Errors
    /// No answer came.
    pub(super) async fn forward(self: &Arc<Self>, request: RawRequest) -> Result<RawResponse, ProviderError> {
        let Some(target) = self.root_target(&request.path, request.query.as_deref()) else {
            return Err(self.failed(ErrorKind::Unsupported("a path that leads elsewhere")));
        };
        let mut headers = request.headers;
        // What it has used is read from what passes.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in &self.headers {
            // What the caller accepts is the caller's to say; the key is not.
            if name != ACCEPT || !headers.contains_key(ACCEPT) {
                headers.insert(name, value.clone());
            }
        }
        let is_head = request.method == Method::HEAD;
        let started = Instant::now();
        let limit = self.timeouts.request;
        let sent = timeout(limit, self.transport.send(request.method, &target, &headers, request.body)).await;
        let sent = sent.map_err(|_| self.failed(ErrorKind::Overdue(limit)))?;
        let mut response = sent.map_err(|failure| self.unreachable(failure))?;
        let status = response.status;
        match status.as_u16() {
            401 => return Err(self.failed(ErrorKind::Unauthorized { status: 401 })),
            403 => return Err(self.failure_of(response).await),
            _ => {}
        }
        let mut headers = std::mem::take(&mut response.headers);
        // Of a compressed answer nothing could be read: not what it used, and not whether it holds a key.
        if headers.remove(CONTENT_ENCODING).is_some() && !is_head {
            headers.remove(CONTENT_LENGTH);
            let unpacked = timeout_at(started + limit, response.unpacked()).await;
            let unpacked = unpacked.map_err(|_| self.failed(ErrorKind::Overdue(limit)))?;
            response = unpacked.map_err(|failure| self.broken_off(failure))?;
        }
        self.mask.clean(&mut headers);
        let location = headers.get(LOCATION).and_then(|value| self.own_path(&target, value.to_str().ok()?));
        Ok(RawResponse {
            status,
            headers,
            more_headers: self.raw_headers.clone(),
            location,
            body: self.mask.over(self.timed(response, started)).boxed(),
        })
    }

    /// The bytes of an answer, until it falls silent after it has begun.
    fn timed(
        self: &Arc<Self>,
        response: Response,
        started: Instant,
    ) -> impl Stream<Item = Result<Bytes, ProviderError>> + Send + use<> {
        let upstream = self.clone();
        let mut inner = self.bytes(response).boxed();
        let mut patience = Patience::new(&self.timeouts, started);
        let mut over = false;
        futures_util::stream::poll_fn(move |cx| {
            if over {
                return Poll::Ready(None);
            }
            let exhausted = match Pin::new(&mut inner).poll_next(cx) {
                Poll::Ready(None) => return Poll::Ready(None),
                // A body that always has more is never waited for.
                Poll::Ready(next) => match patience.progress(true) {
                    Ok(()) => return Poll::Ready(next),
                    Err(late) => late,
                },
                Poll::Pending => ready!(patience.poll_exhausted(cx)),
            };
            over = true;
            Poll::Ready(Some(Err(upstream.failed(exhausted))))
        })
    }

    /// A failure of this provider.
    pub(super) fn failed(&self, kind: ErrorKind) -> ProviderError {
        ProviderError::new(&self.provider, kind)
    }

    /// What was read of an answer; `None` stands for work that did not end.
    ///
    /// # Errors
    /// It could not be read.
    pub(super) fn understood<T>(&self, read: Option<Result<T, String>>) -> Result<T, ProviderError> {
        let read = read.unwrap_or_else(|| Err(STOPPED.to_owned()));
        read.map_err(|reason| self.failed(ErrorKind::Protocol(reason)))
    }

    /// Reads an answer that is no longer than `limit`.
    async fn read(&self, mut response: Response, limit: usize) -> Result<Bytes, ProviderError> {
        let mut all = BytesMut::new();
        let mut first: Option<Bytes> = None;
        while let Some(chunk) = response.chunk().await {
            let chunk = chunk.map_err(|failure| self.broken_off(failure))?;
            if all.len() + first.as_ref().map_or(0, Bytes::len) + chunk.len() > limit {
                return Err(
                    self.failed(ErrorKind::Protocol(format!("its answer is longer than {limit} bytes")))
                );
            }
            // Most answers come in one piece, which need not be copied.
            match first.take() {
                None if all.is_empty() => first = Some(chunk),
                before => {
                    all.extend_from_slice(&before.unwrap_or_default());
                    all.extend_from_slice(&chunk);
                }
            }
        }
        let all = first.unwrap_or_else(|| all.freeze());
        Ok(all.slice_ref(without_byte_order_mark(&all)))
    }

    fn unreachable(&self, failure: Failure) -> ProviderError {
        let kind = match failure.kind {
            FailureKind::ConnectTimeout => ErrorKind::Timeout(self.timeouts.connect),
            FailureKind::Headless => ErrorKind::Protocol("its answer has no end of its head".to_owned()),
            FailureKind::Broken | FailureKind::Packed => ErrorKind::Unreachable,
        };
        let detail = self.redactor.clean(&causes(failure.source.as_ref()));
        self.failed(kind).with_detail(detail).caused_by(failure.source)
    }

    fn broken_off(&self, failure: Failure) -> ProviderError {
        let detail = self.redactor.clean(&causes(failure.source.as_ref()));
        let reason = if failure.kind == FailureKind::Packed { PACKED } else { "its answer broke off" };
        let failed = self.failed(ErrorKind::Protocol(reason.to_owned()));
        failed.with_detail(detail).caused_by(failure.source)
    }
}

fn address(
    config: &ProviderConfig,
    (key, text): (&str, Option<&str>),
    default_path: &str,
) -> Result<Url, Fault> {
    let cure = format!("give \"{key}\": \"http://host:port\", or https");
    let fault = |problem: &str| Fault::new(&config.place, format!("`{key}` {problem}"), &cure);
    let text = text.unwrap_or_default();
    if text.is_empty() {
        return Err(fault("is missing").of_lack());
    }
    // The address itself may hold a key, so it is not repeated.
    let mut url = Url::parse(text).map_err(|error| fault(&format!("is no address: {error}")))?;
    let sane = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none();
    if !sane {
        return Err(fault("is no address of an HTTP server"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let cure = "give the credentials as `api_key` or in `headers`";
        return Err(Fault::new(&config.place, format!("`{key}` holds a user name"), cure));
    }
    if url.path() == "/" {
        url.set_path(default_path);
    }
    Ok(url)
}

/// Whether a text can be a key: one without blanks, of visible characters that every server knows, and not in quotes.
fn is_key(text: &str) -> bool {
    let is_quoted = ['"', '\'']
        .into_iter()
        .any(|quote| text.starts_with(quote) && text.len() > 1 && text.ends_with(quote));
    text.bytes().all(|byte| byte.is_ascii_graphic()) && !is_quoted
}

/// Whether a text came from a page or a word processor, together with something that only these write.
fn is_pasted(text: &str) -> bool {
    text.chars().any(|letter| is_invisible(letter) || matches!(letter, '\u{2018}'..='\u{201f}'))
}

fn headers(config: &ProviderConfig) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers
        .insert(USER_AGENT, HeaderValue::from_static(concat!("llm-proxy-api/", env!("CARGO_PKG_VERSION"))));
    let unusable = |what: &str| {
        let problem = format!("{what} holds characters that a header cannot");
        let cure = "look for quotes, spaces, line ends and characters that cannot be seen, where the value comes from";
        Fault::new(&config.place, problem, cure)
    };
    if let Some(key) = config.api_key.as_ref().map(ExposeSecret::expose_secret).filter(|key| !key.is_empty())
    {
        if !is_key(key) {
            return Err(unusable("`api_key`"));
        }
        let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| unusable("`api_key`"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    for (name, value) in &config.headers {
        let name_of_header = HeaderName::try_from(name.as_str())
            .map_err(|_| unusable(&format!("the name of the header `{name}`")))?;
        let text = value.expose_secret();
        let mut value = Some(text)
            .filter(|text| !is_pasted(text))
            .and_then(|text| HeaderValue::try_from(text).ok())
            .ok_or_else(|| unusable(&format!("the header `{name}`")))?;
        value.set_sensitive(true);
        headers.insert(name_of_header, value);
    }
    Ok(headers)
}

/// An error with all that caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
