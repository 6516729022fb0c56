//! One HTTP upstream: its address, its key, its time-outs, and what its statuses mean.

mod failure;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::{Request, Response, Url};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout};

use super::connect::{self, Needs};
use super::error::{ErrorKind, ProviderError};
use super::redact::Redactor;
use super::stream::Patience;
use super::{RawRequest, RawResponse, Shared};
use crate::config::{Fault, ProviderConfig, Timeouts};

/// A whole answer beyond this is refused. (A large batch of embeddings comes to tens of megabytes.)
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;

/// A connection to one provider's server.
#[derive(Debug)]
pub(super) struct Upstream {
    /// The provider's name.
    pub(super) provider: Arc<str>,
    client: reqwest::Client,
    base: Url,
    headers: HeaderMap,
    pub(super) redactor: Arc<Redactor>,
    pub(super) timeouts: Timeouts,
}

impl Upstream {
    /// Prepares, without connecting. `default_path` stands in where the address has no path.
    ///
    /// # Errors
    /// The address or a header cannot be used.
    pub(super) fn new(config: &ProviderConfig, shared: &Shared, default_path: &str) -> Result<Self, Fault> {
        let base = base_url(config, default_path)?;
        let host = base.host_str().unwrap_or_default();
        let bare_host = host.trim_start_matches('[').trim_end_matches(']');
        let needs = Needs {
            encrypted: base.scheme() == "https",
            local: host == "localhost"
                || bare_host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            connect_timeout: config.timeouts.connect,
        };
        let client = shared.clients.get(needs).map_err(|error| {
            let problem = format!("no HTTP client can be made: {}", error.without_url());
            Fault::new(&config.place, problem, "look at the machine's certificates")
        })?;
        let secrets = config.headers.iter().map(|(_, value)| value).chain(&config.api_key);
        let secrets = secrets.map(|secret| secret.expose_secret().to_owned());
        let authority = base.port().map(|port| format!("{host}:{port}"));
        // The host of this machine is no secret and too common a word.
        let host = (!needs.local).then(|| host.to_owned());
        let redactor = Redactor::new(secrets.chain(authority).chain(host));
        Ok(Self {
            provider: config.name.as_str().into(),
            client,
            headers: headers(config)?,
            base,
            redactor: Arc::new(redactor),
            timeouts: config.timeouts,
        })
    }

    /// The address of a path below the base address.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        url
    }

    /// The address of a path below the server's root: the base address without the version at its end.
    pub(super) fn root_url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/');
        let root = base.strip_suffix("/v1").unwrap_or(base).to_owned();
        url.set_path(&format!("{root}{path}"));
        url
    }

    /// Asks, and returns the answer's head once its status is a good one.
    ///
    /// # Errors
    /// No answer, or one with another status.
    pub(super) async fn post(&self, url: &Url, body: Bytes) -> Result<Response, ProviderError> {
        self.send(Method::POST, url, Some(body)).await
    }

    /// As [`Upstream::post`], without a body, and the whole answer, within `limit`.
    ///
    /// # Errors
    /// No answer, or one with another status.
    pub(super) async fn get(&self, url: &Url, limit: Duration) -> Result<Bytes, ProviderError> {
        let asked = async { self.whole(self.send(Method::GET, url, None).await?).await };
        timeout(limit, asked).await.unwrap_or_else(|_| Err(self.failed(ErrorKind::Timeout(limit))))
    }

    /// As [`Upstream::post`], and the whole answer.
    ///
    /// # Errors
    /// No answer, or one with another status.
    pub(super) async fn ask(&self, url: &Url, body: Bytes) -> Result<Bytes, ProviderError> {
        self.whole(self.post(url, body).await?).await
    }

    /// The bytes of an answer as they come.
    pub(super) fn bytes(
        self: &Arc<Self>,
        response: Response,
    ) -> impl Stream<Item = Result<Bytes, ProviderError>> + Send + use<> {
        let upstream = self.clone();
        response.bytes_stream().map(move |chunk| chunk.map_err(|error| upstream.broken_off(error)))
    }

    /// Sends a caller's own request on, and hands out whatever comes back.
    ///
    /// # Errors
    /// No answer came.
    pub(super) async fn forward(self: &Arc<Self>, request: RawRequest) -> Result<RawResponse, ProviderError> {
        let mut url = self.root_url(&request.path);
        url.set_query(request.query.as_deref());
        let same_host = (url.scheme(), url.host_str(), url.port())
            == (self.base.scheme(), self.base.host_str(), self.base.port());
        if !same_host || !url.username().is_empty() {
            return Err(self.failed(ErrorKind::Unsupported("a path that leads to another host")));
        }
        let mut outgoing = Request::new(request.method, url);
        *outgoing.headers_mut() = request.headers;
        self.add_own_headers(outgoing.headers_mut());
        *outgoing.body_mut() = request.body.map(Into::into);
        let started = Instant::now();
        let limit = self.timeouts.request;
        let sent = timeout(limit, self.execute(outgoing)).await;
        let response = sent.unwrap_or_else(|_| Err(self.failed(ErrorKind::Timeout(limit))))?;
        let (status, headers) = (response.status(), response.headers().clone());
        if matches!(status.as_u16(), 401 | 403) {
            return Err(self.failed(ErrorKind::Unauthorized { status: status.as_u16() }));
        }
        let body = self.timed(self.bytes(response).boxed(), started);
        Ok(RawResponse { status, headers, body: body.boxed() })
    }

    /// Ends a stream of bytes that falls silent.
    fn timed(
        self: &Arc<Self>,
        mut inner: futures_util::stream::BoxStream<'static, Result<Bytes, ProviderError>>,
        started: Instant,
    ) -> impl Stream<Item = Result<Bytes, ProviderError>> + Send + use<> {
        let upstream = self.clone();
        let mut patience = Patience::new(self.timeouts.stall, started + self.timeouts.request);
        let mut over = false;
        futures_util::stream::poll_fn(move |cx| {
            use std::task::{Poll, ready};
            if over {
                return Poll::Ready(None);
            }
            if let Poll::Ready(next) = Pin::new(&mut inner).poll_next(cx) {
                patience.progress();
                return Poll::Ready(next);
            }
            let limit = ready!(patience.poll_exhausted(cx));
            over = true;
            Poll::Ready(Some(Err(upstream.failed(ErrorKind::Timeout(limit)))))
        })
    }

    /// A failure of this provider.
    pub(super) fn failed(&self, kind: ErrorKind) -> ProviderError {
        ProviderError::new(&self.provider, kind)
    }

    async fn send(&self, method: Method, url: &Url, body: Option<Bytes>) -> Result<Response, ProviderError> {
        let mut request = Request::new(method, url.clone());
        if let Some(body) = body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(body.into());
        }
        self.add_own_headers(request.headers_mut());
        let response = self.execute(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.failure_of(response).await)
    }

    /// Sends a request; once more where the connection that was taken from the pool turns out to be
    /// closed, which says nothing about the server.
    async fn execute(&self, request: Request) -> Result<Response, ProviderError> {
        let again = request.try_clone();
        let (sent, on_own_connection) = connect::noting_connection(self.client.execute(request)).await;
        let error = match sent {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        match again {
            Some(again) if !on_own_connection && is_closed(&error) => {
                self.client.execute(again).await.map_err(|error| self.unreachable(error))
            }
            _ => Err(self.unreachable(error)),
        }
    }

    fn add_own_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
    }

    async fn whole(&self, response: Response) -> Result<Bytes, ProviderError> {
        self.read(response, MAX_ANSWER_BYTES).await
    }

    /// Reads an answer that is no longer than `limit`.
    async fn read(&self, mut response: Response, limit: usize) -> Result<Bytes, ProviderError> {
        let mut all = BytesMut::new();
        let mut first: Option<Bytes> = None;
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken_off(error))? {
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
        Ok(first.unwrap_or_else(|| all.freeze()))
    }

    fn unreachable(&self, error: reqwest::Error) -> ProviderError {
        let error = error.without_url();
        let kind = if error.is_timeout() {
            ErrorKind::Timeout(self.timeouts.connect)
        } else {
            ErrorKind::Unreachable
        };
        let detail = self.redactor.clean(&causes(&error));
        self.failed(kind).with_detail(detail).caused_by(error)
    }

    fn broken_off(&self, error: reqwest::Error) -> ProviderError {
        let error = error.without_url();
        let detail = self.redactor.clean(&causes(&error));
        self.failed(ErrorKind::Protocol("its answer broke off".to_owned()))
            .with_detail(detail)
            .caused_by(error)
    }
}

fn base_url(config: &ProviderConfig, default_path: &str) -> Result<Url, Fault> {
    let cure = "give \"base_url\": \"http://host:port\", or https";
    let text = config.base_url.as_deref().unwrap_or_default();
    if text.is_empty() {
        return Err(Fault::new(&config.place, "`base_url` is missing", cure));
    }
    // The address itself may hold a key, so it is not repeated.
    let mut url = Url::parse(text)
        .map_err(|error| Fault::new(&config.place, format!("`base_url` is no address: {error}"), cure))?;
    let sane = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none();
    if !sane {
        return Err(Fault::new(&config.place, "`base_url` is no address of an HTTP server", cure));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Fault::new(
            &config.place,
            "`base_url` holds a user name",
            "give the credentials as `api_key` or in `headers`",
        ));
    }
    if url.path() == "/" {
        url.set_path(default_path);
    }
    Ok(url)
}

fn headers(config: &ProviderConfig) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    let unusable = |what: &str| {
        Fault::new(
            &config.place,
            format!("{what} holds characters that a header cannot"),
            "look for spaces and line ends",
        )
    };
    if let Some(key) = config.api_key.as_ref().map(ExposeSecret::expose_secret).filter(|key| !key.is_empty())
    {
        let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| unusable("`api_key`"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    for (name, value) in &config.headers {
        let name_of_header = HeaderName::try_from(name.as_str())
            .map_err(|_| unusable(&format!("the name of the header `{name}`")))?;
        let mut value = HeaderValue::try_from(value.expose_secret())
            .map_err(|_| unusable(&format!("the header `{name}`")))?;
        value.set_sensitive(true);
        headers.insert(name_of_header, value);
    }
    Ok(headers)
}

/// Whether a connection from the pool was closed before a byte of an answer came.
fn is_closed(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
        {
            return true;
        }
        cause = error.source();
    }
    false
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
