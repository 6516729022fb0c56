//! Listeners and the accept loop.
//!
//! Not poem's own server: that goes on with a handler whose caller has left, never sets `TCP_NODELAY`, and spins
//! when the process runs out of files. Here a connection is one task, and when it ends, everything that was done for
//! it ends with it, the upstream request included.

mod aside;
mod expiry;
mod listen;
pub(super) mod tls;
mod workers;

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use poem::http::HeaderValue;
use poem::http::header::{CONNECTION, EXPECT};
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Body, Endpoint, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::coop;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use self::aside::Aside;
use self::listen::{Accepted, Listener};
use super::answering::{Streams, Tracked, Turn};
use super::connection::{Activity, Busy, Patience, Watched, sniff};
use super::credentials::Credentials;
use super::error::ApiError;
use super::refusal;
use super::unread::{self, Rest};
use crate::config::Serving;
use crate::telemetry::Metrics;

pub use listen::Listeners;
pub use workers::Workers;
pub(super) use workers::{Crew, Place};

/// The largest head of a request. (The default of most servers is a quarter of it.)
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection.
const HTTP2_STREAMS: u32 = 256;
/// What waits to be sent on one of them, so that all of a connection hold some MiB at most: with what was handed over
/// when there was room, a piece of an answer each.
const HTTP2_SEND_BYTES: usize = 16 * 1024;
/// Reading a body of this size takes about a millisecond.
const LONG_BODY_BYTES: u64 = 256 * 1024;
/// How often an HTTP/2 caller is asked whether it is still there.
const HTTP2_PING: Duration = Duration::from_secs(20);
/// How long answers have to say that they are cut off.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long to wait for files or sockets when there are none.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, then lets answers end until `kill`, when they have to say that they cannot. Comes back when the
/// last connection is gone.
pub async fn serve<E: Endpoint<Output = Response> + 'static>(
    listeners: Listeners,
    endpoint: E,
    (settings, credentials): (&Serving, Option<Arc<Credentials>>),
    (workers, metrics): (&Workers, Metrics),
    (stop, kill): (CancellationToken, CancellationToken),
) {
    let server = Arc::new(Server {
        endpoint,
        credentials,
        patience: Patience { header: settings.header_timeout, idle: settings.idle_timeout },
        places: Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS))),
        metrics,
        crew: workers.crew(),
        tasks: TaskTracker::new(),
        stop,
        kill,
        gone: CancellationToken::new(),
    });
    for listener in listeners.into_inner() {
        server.tasks.spawn(server.clone().accept(listener));
    }
    server.stop.cancelled().await;
    server.tasks.close();
    tokio::select! {
        () = server.tasks.wait() => return,
        () = server.kill.cancelled() => {}
    }
    if timeout(LAST_WORDS, server.tasks.wait()).await.is_err() {
        server.gone.cancel();
        server.tasks.wait().await;
    }
}

/// Whether callers could be served like this.
///
/// # Errors
/// The certificate or its key cannot be used.
pub fn check_serving(settings: &Serving) -> Result<Option<i64>, crate::config::Fault> {
    let Some(files) = &settings.tls else { return Ok(None) };
    tls::server(files)?;
    let ends =
        tls::certificates(files)?.iter().filter_map(|certificate| expiry::expires_ms(certificate)).min();
    Ok(ends)
}

struct Server<E> {
    endpoint: E,
    /// What encrypts; nothing does without it.
    credentials: Option<Arc<Credentials>>,
    patience: Patience,
    /// One a connection.
    places: Arc<Semaphore>,
    metrics: Metrics,
    crew: Crew,
    tasks: TaskTracker,
    stop: CancellationToken,
    kill: CancellationToken,
    /// Nobody is listened to any more.
    gone: CancellationToken,
}

impl<E: Endpoint<Output = Response> + 'static> Server<E> {
    async fn accept(self: Arc<Self>, listener: Listener) {
        loop {
            let next = async {
                // Nobody is accepted for whom there is no place: the others wait in the kernel's queue.
                let place = self.places.clone().acquire_owned().await;
                (listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                next = next => next,
            };
            match accepted {
                Ok(accepted) => {
                    let server = self.clone();
                    self.crew.spawn(&self.tasks, |at| async move {
                        server.metrics.connections_open.inc();
                        let _open = Open(&server.metrics);
                        server.connection(accepted, at).await;
                        drop(place);
                    });
                }
                Err(error) if listen::concerns_one_caller(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "No connection can be accepted");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }

    /// One connection, from its first byte to its last.
    async fn connection(self: &Arc<Self>, accepted: Accepted, at: Place) {
        let gone = pin!(self.gone.cancelled());
        let ended = tokio::select! {
            biased;
            () = Aside::new(gone) => return,
            ended = async {
                match accepted {
                    Accepted::Unix(socket, names) => {
                        self.converse(UnixStream::from_std(socket)?, (names, Scheme::HTTP), at).await
                    }
                    Accepted::Tcp(socket, names) => match self.credentials.as_ref().and_then(|it| it.acceptor()) {
                        None => self.converse(TcpStream::from_std(socket)?, (names, Scheme::HTTP), at).await,
                        // Boxed, and so is what is boxed below: what one kind of connection needs is not
                        // to be kept free in all others.
                        Some(tls) => {
                            Box::pin(self.encrypted(tls, TcpStream::from_std(socket)?, names, at)).await
                        }
                    },
                }
            } => ended,
        };
        if let Err(error) = ended {
            // Callers come and go; what they were told, or left unheard, is in the requests' own lines.
            tracing::debug!(%error, "A connection ended early");
        }
    }

    async fn encrypted(
        self: &Arc<Self>,
        tls: TlsAcceptor,
        socket: TcpStream,
        names: (Addr, Addr),
        at: Place,
    ) -> Result<(), BoxError> {
        let mut first = [0];
        match timeout(self.patience.header, socket.peek(&mut first)).await {
            Err(_) => return Ok(()),
            // What begins as a word is no encryption.
            Ok(peeked) => {
                if peeked? > 0 && first.iter().all(u8::is_ascii_uppercase) {
                    return Ok(refusal::of_plain_http(socket).await?);
                }
            }
        }
        match timeout(self.patience.header, tls.accept(socket)).await {
            Ok(socket) => self.converse(socket?, (names, Scheme::HTTPS), at).await,
            Err(_) => Ok(()),
        }
    }

    async fn converse<S>(
        self: &Arc<Self>,
        mut socket: S,
        (names, scheme): ((Addr, Addr), Scheme),
        at: Place,
    ) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let begun = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            begun = timeout(self.patience.header, sniff(&mut socket)) => begun,
        };
        let Ok(begun) = begun else { return Ok(()) };
        let (begun, is_http2) = begun?;
        let activity = Arc::new(Activity::new(!is_http2).served_at(at));
        let socket = Watched::new(socket, begun, activity.clone());
        let peers = Arc::new(Peers { local: LocalAddr(names.0), remote: RemoteAddr(names.1), scheme });
        if is_http2 {
            Box::pin(self.http2(TokioIo::new(socket), peers, activity)).await
        } else {
            Box::pin(self.http1(socket, peers, activity)).await
        }
    }

    async fn http1<S>(
        self: &Arc<Self>,
        socket: Watched<S>,
        peers: Arc<Peers>,
        activity: Arc<Activity>,
    ) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let watch = socket.watch();
        let service = service_fn(|request| self.answer(request, &peers, activity.begin()));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD_BYTES);
        let connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
        let serving = self.drive(connection, &activity, http1::Connection::graceful_shutdown);
        let mut serving = pin!(serving);
        // An answer that always has more uses up the turn, and its caller may leave all the same.
        let mut left = pin!(coop::unconstrained(std::future::poll_fn(|cx| watch.poll_left(cx))));
        std::future::poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Pending => left.as_mut().poll(cx).map(Ok),
            served @ Poll::Ready(_) => served,
        })
        .await
    }

    async fn http2<I>(
        self: &Arc<Self>,
        io: I,
        peers: Arc<Peers>,
        activity: Arc<Activity>,
    ) -> Result<(), BoxError>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let server = self.clone();
        let of_service = activity.clone();
        let service = service_fn(move |request| {
            let (server, peers, busy) = (server.clone(), peers.clone(), of_service.begin());
            async move { server.answer(request, &peers, busy).await }
        });
        // The streams of a connection are tasks of their own, and must not outlive it.
        let streams = Streams {
            crew: self.crew.clone(),
            tasks: self.tasks.clone(),
            patience: self.patience.idle,
            kill: self.kill.clone(),
            end: CancellationToken::new(),
        };
        let _end = streams.end.clone().drop_guard();
        let mut builder = http2::Builder::new(streams);
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING)
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_send_buf_size(HTTP2_SEND_BYTES)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
        let connection = pin!(builder.serve_connection(io, service));
        self.drive(connection, &activity, http2::Connection::graceful_shutdown).await
    }

    /// Serves a connection until it ends, has done nothing for too long, or is asked to end and has done so.
    async fn drive<C: Future<Output = hyper::Result<()>>>(
        &self,
        mut connection: Pin<&mut C>,
        activity: &Activity,
        end_gracefully: impl Fn(Pin<&mut C>),
    ) -> Result<(), BoxError> {
        let (mut stopping, mut killed) = (false, false);
        loop {
            // It is asked only when it has called, and then it is to be heard, whatever the answer has used up of the turn.
            let called = pin!(coop::unconstrained(self.called(activity, stopping, killed)));
            let called = tokio::select! {
                biased;
                ended = connection.as_mut() => return Ok(ended?),
                called = Aside::new(called) => called,
            };
            match called {
                Call::Exhausted => return Ok(()),
                Call::Stop => {
                    stopping = true;
                    end_gracefully(connection.as_mut());
                }
                // Looked at once more, the answers say that they must end.
                Call::Kill => killed = true,
            }
        }
    }

    /// Why a connection is to end, when it is, and has not been told that yet.
    async fn called(&self, activity: &Activity, is_stopping: bool, is_killed: bool) -> Call {
        tokio::select! {
            () = activity.exhausted(self.patience) => Call::Exhausted,
            () = self.stop.cancelled(), if !is_stopping => Call::Stop,
            () = self.kill.cancelled(), if !is_killed => Call::Kill,
        }
    }

    /// One request. Boxed, so that a connection that streams for hours does not hold the space of the handler.
    fn answer<'s>(
        self: &'s Arc<Self>,
        request: hyper::Request<Incoming>,
        peers: &'s Peers,
        busy: Busy,
    ) -> Answering<'s> {
        Box::pin(async move {
            let is_long = is_long(&request);
            let rest = busy.rest();
            let request = peers.introduce(request, rest);
            let mut response = if is_long {
                self.elsewhere(request).await
            } else {
                self.endpoint.get_response(request).await
            };
            if let Some(unread) = rest.and_then(|rest| rest.take())
                && !unread.read_if_little().await
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                busy.linger();
            }
            let response: hyper::Response<BoxBody<Bytes, std::io::Error>> = response.into();
            Ok(response.map(|body| Tracked::new(body, Turn::of_stream(), busy)))
        })
    }

    /// Has a request answered where it keeps no other caller waiting while it is read. Dropped, it ends there, too.
    async fn elsewhere(self: &Arc<Self>, request: poem::Request) -> Response {
        let server = self.clone();
        let answering = async move {
            let mut answering = pin!(server.endpoint.get_response(request));
            tokio::select! {
                response = answering.as_mut() => return response,
                () = server.kill.cancelled() => {}
            }
            // Looked at once more, it says that it must end.
            answering.await
        };
        let answering = AbortOnDropHandle::new(self.tasks.spawn_on(answering, self.crew.main()));
        answering.await.unwrap_or_else(|_| ApiError::internal().respond(false))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answering<'s> = Pin<
    Box<
        dyn Future<Output = Result<hyper::Response<Tracked<BoxBody<Bytes, std::io::Error>>>, Infallible>>
            + Send
            + 's,
    >,
>;

/// Whether it may take long to read a request's body. Of what comes in pieces nobody knows.
fn is_long(request: &hyper::Request<Incoming>) -> bool {
    request.body().size_hint().exact().is_none_or(|bytes| bytes > LONG_BODY_BYTES)
}

/// Why a connection is to end.
enum Call {
    /// It has done nothing for too long.
    Exhausted,
    /// The program ends: when its answers have ended.
    Stop,
    /// The program ends: at once.
    Kill,
}

/// Who is connected to whom.
struct Peers {
    local: LocalAddr,
    remote: RemoteAddr,
    scheme: Scheme,
}

impl Peers {
    /// The request as endpoints know it. What it leaves of its body is left there.
    fn introduce(&self, request: hyper::Request<Incoming>, rest: Option<&Arc<Rest>>) -> poem::Request {
        let (parts, incoming) = request.into_parts();
        let body = if incoming.is_end_stream() {
            Body::empty()
        } else {
            let is_held_back = parts.headers.contains_key(EXPECT);
            BoxBody::new(unread::Watched::new(incoming, rest.cloned(), is_held_back)).into()
        };
        let names = (self.local.clone(), self.remote.clone(), self.scheme.clone());
        poem::Request::from_parts((parts, names.0, names.1, names.2).into(), body)
    }
}

struct Open<'a>(&'a Metrics);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections_open.dec();
    }
}
