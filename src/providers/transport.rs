//! How a request gets to a server and its answer back: directly to one near by, by reqwest to one farther away.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Url;
use secrecy::ExposeSecret;

use super::Shared;
use super::far::Far;
use super::near::{Asked, Near, NearBody, NoAnswer, Origin};
use super::unpack::Unpacker;
use crate::config::{Fault, ProviderConfig};
use crate::engine::Place;
use crate::fairness;

/// The way to one server.
#[derive(Debug)]
pub(super) enum Transport {
    /// Plain HTTP, with nothing in between.
    Near(Arc<Near>),
    /// Encrypted, or by way of a proxy.
    Far(Far),
}

/// Where a request goes: an address, and the part of it that a server near by is asked for.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: Url,
    path: PathAndQuery,
}

/// An answer: its head, and its body as it comes.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: ResponseBody,
    /// What makes plain bytes of the body, if it may be compressed.
    unpacker: Option<Box<Unpacker>>,
}

enum ResponseBody {
    Near(NearBody),
    Far(BoxStream<'static, reqwest::Result<Bytes>>),
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResponseBody")
    }
}

/// In which way it went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No connection came about in time.
    ConnectTimeout,
    /// What came before the head of an answer had no end.
    Headless,
    /// The body is compressed, and not in a way that is known here.
    Packed,
    /// Anything else.
    Broken,
}

/// What went wrong on the way, without addresses.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    /// The cause, with its own causes, for operators.
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}

impl Target {
    /// `None` where the address cannot be asked for.
    pub(super) fn new(url: Url) -> Option<Self> {
        let text = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Some(Self { path: PathAndQuery::try_from(text).ok()?, url })
    }
}

impl Transport {
    /// The way to the server at `base`.
    pub(super) fn new(config: &ProviderConfig, shared: &Shared, base: &Url) -> Result<Self, Fault> {
        let host = base.host_str().unwrap_or_default();
        let bare_host = host.trim_start_matches('[').trim_end_matches(']');
        let is_local =
            host == "localhost" || bare_host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if base.scheme() == "http" && (is_local || !shared.has_proxy) {
            let port = base.port_or_known_default().unwrap_or(80);
            let authority = base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            let authority = HeaderValue::try_from(authority).map_err(|_| {
                Fault::new(
                    &config.place,
                    "`base_url` holds an odd host",
                    "use letters, digits, dots and dashes",
                )
            })?;
            let origin = Origin::Server(bare_host.to_owned(), port);
            return Ok(Self::Near(Arc::new(Near::new(origin, authority, config.timeouts.connect))));
        }
        let far = shared.clients.get(config.timeouts.connect).map_err(|error| {
            let problem = format!("no HTTP client can be made: {}", error.without_url());
            Fault::new(&config.place, problem, "look at the machine's certificates")
        })?;
        Ok(Self::Far(far))
    }

    /// The way to an engine that the gateway runs itself.
    pub(super) fn to_engine(place: &Place, config: &ProviderConfig) -> Result<Self, Fault> {
        let odd = |_| Fault::new(&config.place, "the engine has an odd address", "use 127.0.0.1");
        let authority = HeaderValue::try_from(place.authority()).map_err(odd)?;
        let near = Near::new(Origin::Engine(place.clone()), authority, config.timeouts.connect);
        Ok(Self::Near(Arc::new(near)))
    }

    /// Sends a request. It may go out twice, if a connection that was idle turns out to be closed.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &Target,
        headers: &HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response, Failure> {
        match self {
            Self::Near(near) => {
                let body = body.unwrap_or_default();
                let asked = Asked { method: &method, target: &target.path, headers, body: &body };
                let answer = near.ask(asked).await?;
                let (head, body) = answer.into_parts();
                Ok(Response::new(head.status, head.headers, ResponseBody::Near(body)))
            }
            Self::Far(far) => {
                let request = || {
                    let mut request = reqwest::Request::new(method.clone(), target.url.clone());
                    *request.headers_mut() = headers.clone();
                    request.headers_mut().remove(HOST);
                    request
                };
                let mut answer = far.send(request, body).await?;
                let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
                Ok(Response::new(status, headers, ResponseBody::Far(Box::pin(answer.bytes_stream()))))
            }
        }
    }
}

impl Response {
    fn new(status: StatusCode, headers: HeaderMap, body: ResponseBody) -> Self {
        Self { status, headers, body, unpacker: None }
    }

    /// The same with a body of plain bytes, whether it is compressed or not, once the first of them have come.
    ///
    /// # Errors
    /// It broke off before, or is compressed in a way that is not known here.
    pub(super) async fn unpacked(mut self) -> Result<Self, Failure> {
        self.unpacker = Some(Box::default());
        let first = self.chunk().await.transpose()?;
        if let (Some(unpacker), Some(first)) = (&mut self.unpacker, first) {
            unpacker.put_back(first);
        }
        Ok(self)
    }

    /// The next piece of the body.
    pub(super) async fn chunk(&mut self) -> Option<Result<Bytes, Failure>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Response {
    type Item = Result<Bytes, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(fairness::poll_turn(cx));
        let Self { body, unpacker, .. } = &mut *self;
        let chunk = match unpacker {
            None => ready!(body.poll_chunk(cx)),
            Some(unpacker) => ready!(unpacker.poll_piece(cx, |cx| body.poll_chunk(cx))),
        };
        fairness::spend(chunk.as_ref().and_then(|chunk| chunk.as_ref().ok()).map_or(0, Bytes::len));
        Poll::Ready(chunk)
    }
}

impl ResponseBody {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        Poll::Ready(match self {
            Self::Near(body) => ready!(body.poll_chunk(cx)).map(|chunk| chunk.map_err(Failure::from)),
            Self::Far(body) => ready!(body.as_mut().poll_next(cx)).map(|chunk| chunk.map_err(Failure::from)),
        })
    }
}

impl From<NoAnswer> for Failure {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::Connect(error) => Self { kind: FailureKind::Broken, source: error.into() },
            NoAnswer::ConnectTimeout => {
                Self { kind: FailureKind::ConnectTimeout, source: "no connection in time".into() }
            }
            NoAnswer::Headless(error) => Self { kind: FailureKind::Headless, source: error.into() },
            NoAnswer::Broken(error) => error.into(),
        }
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self { kind: FailureKind::Broken, source: error.into() }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        let kind = if error.is_timeout() { FailureKind::ConnectTimeout } else { FailureKind::Broken };
        Self { kind, source: error.without_url().into() }
    }
}

/// What must not be seen in words about this provider: its keys, and where it is.
pub(super) fn secrets(config: &ProviderConfig) -> Vec<String> {
    let keys = config.headers.iter().map(|(_, value)| value).chain(&config.api_key);
    let mut secrets: Vec<String> = keys.map(|secret| secret.expose_secret().to_owned()).collect();
    for text in [&config.base_url, &config.models_url].into_iter().flatten() {
        // One that is no address is a fault of its own.
        let Ok(url) = Url::parse(text) else { continue };
        let host = url.host_str().unwrap_or_default();
        secrets.extend(url.port().map(|port| format!("{host}:{port}")));
        // The names of this machine are no secret and too common as words.
        if !matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
            secrets.push(host.to_owned());
        }
    }
    secrets
}
