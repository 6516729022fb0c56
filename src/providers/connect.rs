//! HTTP clients for upstreams, and whether a request went out on a connection that was there before.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use reqwest::redirect::Policy;
use tower_layer::Layer;
use tower_service::Service;

/// Clients by what sets them apart. Providers with the same needs share one, and with it the trust store.
#[derive(Debug, Default)]
pub struct Clients {
    made: Mutex<HashMap<Needs, reqwest::Client>>,
}

/// What sets a client apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Needs {
    pub(super) encrypted: bool,
    /// On this machine: no proxy may come between.
    pub(super) local: bool,
    pub(super) connect_timeout: Duration,
}

/// vLLM and llama-server close a connection that is idle for 5 s. Ours must be gone before.
const IDLE_NEARBY: Duration = Duration::from_secs(4);
/// Clouds keep connections longer, and a new one costs a handshake.
const IDLE_FAR: Duration = Duration::from_secs(55);

impl Clients {
    /// A client for these needs.
    pub(super) fn get(&self, needs: Needs) -> Result<reqwest::Client, reqwest::Error> {
        // Held while a client is made, which does not wait for anything.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&needs) {
            return Ok(client.clone());
        }
        let client = build(needs)?;
        made.insert(needs, client.clone());
        Ok(client)
    }
}

fn build(needs: Needs) -> Result<reqwest::Client, reqwest::Error> {
    let mut builder = reqwest::Client::builder()
        // A redirect could carry the key to another host.
        .redirect(Policy::none())
        .referer(false)
        // HTTP/2 servers bound the streams of a connection, often to 100; HTTP/1.1 has no such ceiling.
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(needs.connect_timeout)
        .pool_idle_timeout(if needs.encrypted { IDLE_FAR } else { IDLE_NEARBY })
        // What may be sent again is decided in `upstream`, once.
        .retry(reqwest::retry::never())
        .user_agent(concat!("llm-proxy-api/", env!("CARGO_PKG_VERSION")))
        .connector_layer(NoteNew);
    if needs.local {
        builder = builder.no_proxy();
    }
    if !needs.encrypted {
        // Nothing will be encrypted, so the machine's trust store need not be read.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

tokio::task_local! {
    /// Whether a new connection was begun for the request that runs in this scope.
    static CONNECTED: Cell<bool>;
}

/// Runs a request, and says whether it may have gone out on a connection of its own.
pub(super) async fn noting_connection<F: Future>(request: F) -> (F::Output, bool) {
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

    fn call(&mut self, destination: R) -> S::Future {
        // Outside of a scope nobody wants to know.
        let _ = CONNECTED.try_with(|connected| connected.set(true));
        self.0.call(destination)
    }
}
