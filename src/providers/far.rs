//! HTTP clients for servers behind encryption or a proxy, by reqwest.

use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use reqwest::redirect::Policy;
use reqwest::{Client, Request, Response};
use tokio::runtime::Handle;
use tower_layer::Layer;
use tower_service::Service;

use super::handover::Handover;

/// Clients by what sets them apart. Providers with the same needs share one, and with it the trust store.
#[derive(Debug, Default)]
pub struct Clients {
    made: Mutex<HashMap<Duration, Far>>,
}

/// A client, with the runtime that its connections run on: the one that it was made on, if there was one. All threads share
/// the connections, and none of them is to wait for another that serves a caller.
#[derive(Clone, Debug)]
pub(super) struct Far {
    client: Client,
    runtime: Option<Handle>,
}

/// Clouds keep idle connections for longer than a minute, and a new one costs a handshake.
const IDLE: Duration = Duration::from_secs(55);

impl Clients {
    /// A client that waits so long for a connection.
    pub(super) fn get(&self, connect_timeout: Duration) -> Result<Far, reqwest::Error> {
        // Held while a client is made, which does not wait for anything.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(far) = made.get(&connect_timeout) {
            return Ok(far.clone());
        }
        let far = Far { client: build(connect_timeout)?, runtime: Handle::try_current().ok() };
        made.insert(connect_timeout, far.clone());
        Ok(far)
    }
}

fn build(connect_timeout: Duration) -> Result<Client, reqwest::Error> {
    Client::builder()
        // A redirect could carry the key to another host.
        .redirect(Policy::none())
        .referer(false)
        // HTTP/2 servers bound the streams of a connection, often to 100; HTTP/1.1 has no such ceiling.
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(IDLE)
        // What may be sent again is decided in `send`.
        .retry(reqwest::retry::never())
        .connector_layer(NoteNew)
        .build()
}

impl Far {
    /// Sends a request; once more where the connection that was taken from the pool turns out to be closed, which
    /// says nothing about the server. `request` makes it, without its body.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> Request,
        body: Option<Bytes>,
    ) -> Result<Response, reqwest::Error> {
        let whole = || {
            let mut request = request();
            *request.body_mut() = body.clone().map(Noted::body);
            request
        };
        match noting_connection(self.execute(whole())).await {
            (Err(error), false) if is_closed(&error) => {
                Handover::note(false);
                self.execute(whole()).await
            }
            (sent, _) => sent,
        }
    }

    /// What is begun on the way, such as a connection, is begun on the runtime of all.
    async fn execute(&self, request: Request) -> Result<Response, reqwest::Error> {
        let mut executed = pin!(self.client.execute(request));
        std::future::poll_fn(|cx| {
            let _entered = self.runtime.as_ref().map(Handle::enter);
            executed.as_mut().poll(cx)
        })
        .await
    }
}

/// The body of a request, which notes when it is asked for: a connection, a new one or whichever came free first, has
/// taken the request then. Nobody else can tell: the client goes on elsewhere with connections that it began.
struct Noted {
    body: Full<Bytes>,
    /// Until it is noted.
    handover: Option<Handover>,
}

impl Noted {
    fn body(body: Bytes) -> reqwest::Body {
        reqwest::Body::wrap(Self { body: Full::new(body), handover: Some(Handover::current()) })
    }
}

impl Body for Noted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(handover) = self.handover.take() {
            handover.is_done(true);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether a connection was closed before a byte of an answer came.
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

tokio::task_local! {
    /// Whether a new connection was begun for the request that runs in this scope.
    static CONNECTED: Cell<bool>;
}

/// Runs a request, and says whether it may have gone out on a connection of its own.
async fn noting_connection<F: Future>(request: F) -> (F::Output, bool) {
    let scope = async {
        let output = request.await;
        (output, CONNECTED.with(Cell::get))
    };
    CONNECTED.scope(Cell::new(false), scope).await
}

/// Notes each new connection in the scope of the request that it is for.
#[derive(Clone, Copy, Debug)]
struct NoteNew;

#[derive(Clone, Debug)]
struct Noting<S>(S);

impl<S> Layer<S> for NoteNew {
    type Service = Noting<S>;

    fn layer(&self, inner: S) -> Noting<S> {
        Noting(inner)
    }
}

impl<S: Service<R>, R> Service<R> for Noting<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, destination: R) -> Self::Future {
        // Outside of a scope nobody wants to know.
        let _ = CONNECTED.try_with(|connected| connected.set(true));
        self.0.call(destination)
    }
}
