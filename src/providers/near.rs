//! Plain HTTP/1.1 to servers near by: local engines, and whatever else needs no encryption and no proxy.
//! An engine that the gateway runs itself is asked for its connections: it listens on a unix socket, or on a port that
//! has to be its own each time.
//!
//! An engine on the same machine answers in microseconds, so what a client costs shows. This one keeps a pool of
//! hyper's connections, and runs each of them inside of the request that uses it: no task of its own, nothing that
//! is woken to wake something else, and no connection that outlives a caller who left. It knows for certain whether
//! a connection was used before, which decides whether a request may be sent again.

mod idle;
mod socket;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{self, Handle};
use tokio::time::timeout;

use super::handover::Handover;
use crate::engine::Place;
use crate::local::Socket;
use idle::Idle;
use socket::{Allowance, Counted, Headless};

/// vLLM and llama-server close a connection that is idle for 5 s. Ours must be gone before.
const LONGEST_IDLE: Duration = Duration::from_secs(4);
/// More idle connections than this help nobody.
const MOST_IDLE: usize = 512;
/// What hyper reads ahead of an answer, and the longest head. (It would take 400 KiB for each stream that is not read.)
const MOST_BUFFER_BYTES: usize = 64 * 1024;

/// A server near by, and the connections to it that are idle.
#[derive(Debug)]
pub(super) struct Near {
    origin: Origin,
    host_header: HeaderValue,
    connect_timeout: Duration,
    idle: Idle<Box<Line>>,
}

/// Where connections come from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A server by its name or address (without brackets) and port.
    Server(String, u16),
    /// An engine that the gateway runs itself.
    Engine(Place),
}

/// A connection. What it does, it does while somebody polls it.
#[derive(Debug)]
struct Line {
    /// Which runtime hears of what comes. Used from another, each piece would wake two threads.
    runtime: runtime::Id,
    sender: http1::SendRequest<Full<Bytes>>,
    /// Until it has ended.
    driver: Option<http1::Connection<TokioIo<Counted>, Full<Bytes>>>,
    allowance: Allowance,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// No connection came about.
    Connect(std::io::Error),
    /// No connection came about in time.
    ConnectTimeout,
    /// The connection broke before an answer came.
    Broken(hyper::Error),
    /// What came had no end before an answer.
    Headless(hyper::Error),
}

/// A request that may have to be made twice.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) target: &'a PathAndQuery,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
}

impl NoAnswer {
    fn of(error: hyper::Error) -> Self {
        let cause =
            std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
        let inner = cause.and_then(std::io::Error::get_ref);
        if inner.and_then(|inner| inner.downcast_ref::<Headless>()).is_some() {
            Self::Headless(error)
        } else {
            Self::Broken(error)
        }
    }
}

impl Near {
    /// A server, and what requests call it.
    pub(super) fn new(origin: Origin, host_header: HeaderValue, connect_timeout: Duration) -> Self {
        let idle = Idle::new(LONGEST_IDLE, MOST_IDLE);
        Self { origin, host_header, connect_timeout, idle }
    }

    /// Asks, and returns the answer's head.
    pub(super) async fn ask(self: &Arc<Self>, asked: Asked<'_>) -> Result<Response<NearBody>, NoAnswer> {
        let idle = match self.idle.take(|line| line.is_open()) {
            Some(line) => line.on_this_runtime().await,
            None => None,
        };
        if let Some(line) = idle {
            match self.exchange(line, &asked).await {
                // Closed while it was idle, which says nothing about the server: once more, on a new one.
                Err(error) if is_closed(&error) => Handover::note(false),
                answered => return answered.map_err(NoAnswer::of),
            }
        }
        let line = self.connect().await?;
        self.exchange(line, &asked).await.map_err(NoAnswer::of)
    }

    async fn exchange(
        self: &Arc<Self>,
        mut line: Box<Line>,
        asked: &Asked<'_>,
    ) -> hyper::Result<Response<NearBody>> {
        let mut request = Request::new(Full::new(asked.body.clone()));
        *request.method_mut() = asked.method.clone();
        *request.uri_mut() = Uri::from(asked.target.clone());
        *request.headers_mut() = asked.headers.clone();
        request.headers_mut().insert(HOST, self.host_header.clone());
        Handover::note(true);
        let response = line.send(request).await?;
        Ok(response.map(|incoming| NearBody { incoming, line: Some(line), near: self.clone() }))
    }

    async fn connect(&self) -> Result<Box<Line>, NoAnswer> {
        let connecting = async {
            let socket = match &self.origin {
                Origin::Server(host, port) => Socket::Tcp(TcpStream::connect((host.as_str(), *port)).await?),
                Origin::Engine(place) => place.connect().await?,
            };
            socket.set_nodelay()?;
            Ok(socket)
        };
        let socket = timeout(self.connect_timeout, connecting).await.map_err(|_| NoAnswer::ConnectTimeout)?;
        Line::new(socket.map_err(NoAnswer::Connect)?).await.map_err(NoAnswer::Broken)
    }
}

impl Line {
    async fn new(socket: Socket) -> hyper::Result<Box<Self>> {
        let (socket, allowance) = Counted::new(socket);
        let mut builder = http1::Builder::new();
        let handshake = builder.max_buf_size(MOST_BUFFER_BYTES).handshake(TokioIo::new(socket));
        let (sender, driver) = handshake.await?;
        Ok(Box::new(Self { runtime: Handle::current().id(), sender, driver: Some(driver), allowance }))
    }

    /// An idle one, with its socket at the runtime that asks; `None` if it cannot be brought there.
    async fn on_this_runtime(self: Box<Self>) -> Option<Box<Self>> {
        if self.runtime == Handle::current().id() {
            return Some(self);
        }
        let parts = self.driver?.into_parts();
        let socket = parts.io.into_inner().into_inner().on_this_runtime().ok()?;
        // Nothing was asked, so what has come all the same belongs to nothing.
        if parts.read_buf.is_empty() { Self::new(socket).await.ok() } else { None }
    }

    /// Sends a request and drives the connection until its answer begins.
    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let Self { sender, driver, allowance, .. } = self;
        allowance.begin();
        let mut answer = pin!(sender.send_request(request));
        std::future::poll_fn(|cx| {
            // The connection first: what it brings is then there for the answer. Only the connection can bring
            // anything, so only it needs to wake us.
            let ended = driver.as_mut().map_or(Poll::Ready(Ok(())), |driver| Pin::new(driver).poll(cx));
            match (answer.as_mut().poll(&mut unheard()), ended) {
                (Poll::Ready(answer), _) => Poll::Ready(answer),
                (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                (Poll::Pending, Poll::Pending) => Poll::Pending,
                // The server closed it before it had even taken the request: dropped, it says so.
                (Poll::Pending, Poll::Ready(Ok(()))) => {
                    *driver = None;
                    answer.as_mut().poll(&mut unheard())
                }
            }
        })
        .await
        .inspect(|_| allowance.end())
    }

    /// Whether it can take another request: the server has not closed it, and all of the last answer was read.
    fn is_open(&mut self) -> bool {
        let driver = self.driver.as_mut();
        driver.is_some_and(|driver| Pin::new(driver).poll(&mut unheard()).is_pending())
            && self.sender.is_ready()
    }
}

/// The body of an answer, and the connection on which it comes. Dropped before its end, it closes the connection.
#[derive(Debug)]
pub(super) struct NearBody {
    incoming: Incoming,
    line: Option<Box<Line>>,
    near: Arc<Near>,
}

impl NearBody {
    /// The next piece; `None` at the end.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Bytes>>> {
        loop {
            if let Some(driver) = self.line.as_mut().and_then(|line| line.driver.as_mut()) {
                // An error comes out of the body, too.
                let _ = Pin::new(driver).poll(cx);
            }
            match Pin::new(&mut self.incoming).poll_frame(&mut unheard()) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are of no use here.
                    let Ok(data) = frame.into_data() else { continue };
                    return Poll::Ready(Some(Ok(data)));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.line = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => {
                    self.give_back();
                    return Poll::Ready(None);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn give_back(&mut self) {
        if let Some(mut line) = self.line.take()
            && line.is_open()
        {
            self.near.idle.put(line);
        }
    }
}

/// For what is polled together with the connection that feeds it.
fn unheard() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Whether a connection was closed before a byte of an answer came.
fn is_closed(error: &hyper::Error) -> bool {
    let is_reset = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
    };
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || std::error::Error::source(error).and_then(|cause| cause.downcast_ref()).is_some_and(is_reset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn near(port: u16) -> Arc<Near> {
        let origin = Origin::Server("127.0.0.1".to_owned(), port);
        Arc::new(Near::new(origin, HeaderValue::from_static("h"), Duration::from_secs(5)))
    }

    /// Asks `server`, a script of one connection after the other, and returns the bodies.
    async fn bodies<F, Fut>(requests: usize, script: F) -> Vec<Result<String, String>>
    where
        F: FnOnce(TcpListener) -> Fut,
        Fut: Future<Output = ()>,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let near = near(port);
        let asking = async {
            let mut bodies = Vec::new();
            for _ in 0..requests {
                bodies.push(body(&near).await);
            }
            bodies
        };
        tokio::select! {
            bodies = asking => bodies,
            () = async { script(listener).await; std::future::pending().await } => unreachable!(),
        }
    }

    async fn body(near: &Arc<Near>) -> Result<String, String> {
        let asked = Asked {
            method: &Method::POST,
            target: &PathAndQuery::from_static("/x?y=1"),
            headers: &HeaderMap::new(),
            body: &Bytes::from_static(b"body"),
        };
        let mut response = near.ask(asked).await.map_err(|error| format!("{error:?}"))?;
        let mut text = Vec::new();
        while let Some(chunk) = std::future::poll_fn(|cx| response.body_mut().poll_chunk(cx)).await {
            text.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
        }
        Ok(String::from_utf8(text).unwrap())
    }

    async fn read_request(socket: &mut TcpStream) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"body") {
            let mut buffer = [0; 512];
            let read = socket.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the request broke off");
            text.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8(text).unwrap()
    }

    const ONE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none";

    #[tokio::test]
    async fn a_connection_serves_one_request_after_the_other() {
        let bodies = bodies(3, |listener| async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            for _ in 0..3 {
                let request = read_request(&mut socket).await;
                assert!(
                    request.starts_with("POST /x?y=1 HTTP/1.1\r\n") && request.contains("host: h\r\n"),
                    "{request}"
                );
                socket.write_all(ONE).await.unwrap();
            }
        })
        .await;
        assert_eq!(bodies, vec![Ok("one".to_owned()); 3]);
    }

    /// As the threads that serve are: two runtimes, of which either may find what the other has left.
    #[test]
    fn a_connection_comes_along_to_the_runtime_that_uses_it() {
        let runtime = || runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (server, one, other) = (runtime(), runtime(), runtime());
        let listener = server.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let near = near(listener.local_addr().unwrap().port());
        let serving = async {
            // One connection for all.
            let (mut socket, _) = listener.accept().await.unwrap();
            for _ in 0..3 {
                read_request(&mut socket).await;
                socket.write_all(ONE).await.unwrap();
            }
            assert_eq!(socket.read(&mut [0]).await.unwrap(), 0, "until it is closed");
        };
        std::thread::scope(|scope| {
            scope.spawn(|| server.block_on(serving));
            for runtime in [&one, &other, &one] {
                assert_eq!(runtime.block_on(body(&near)), Ok("one".to_owned()));
                let used = near.idle.take(|_| true).expect("it is idle");
                assert_eq!(used.runtime, runtime.handle().id());
                near.idle.put(used);
            }
            near.idle.take(|_| false);
        });
    }

    #[tokio::test]
    async fn pieces_come_as_they_are_sent() {
        let bodies = bodies(1, |listener| async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_request(&mut socket).await;
            for piece in [
                "HTTP/1.1 200 OK\r\ntransfer-enc",
                "oding: chunked\r\n\r\n",
                "3\r\none\r\n3\r\nt",
                "wo\r",
                "\n0\r\n\r\n",
            ] {
                socket.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(bodies, [Ok("onetwo".to_owned())]);
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_just_when_it_is_to_be_used_does_not_hang() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = near(listener.local_addr().unwrap().port());
        let line = near.connect().await.unwrap();
        drop(listener.accept().await.unwrap());
        // The end has come, and nobody has looked.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let asked = Asked {
            method: &Method::POST,
            target: &PathAndQuery::from_static("/"),
            headers: &HeaderMap::new(),
            body: &Bytes::from_static(b"body"),
        };
        let answered = timeout(Duration::from_secs(2), near.exchange(line, &asked)).await.expect("it hangs");
        assert!(is_closed(&answered.unwrap_err()));
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_is_replaced_unseen() {
        let bodies = bodies(2, |listener| async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_request(&mut socket).await;
            socket.write_all(ONE).await.unwrap();
            drop(socket);
            let (mut socket, _) = listener.accept().await.unwrap();
            read_request(&mut socket).await;
            socket.write_all(ONE).await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        assert_eq!(bodies, vec![Ok("one".to_owned()); 2]);
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error() {
        let bodies = bodies(1, |listener| async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_request(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\none").await.unwrap();
        })
        .await;
        assert!(bodies[0].is_err(), "{bodies:?}");
    }

    #[tokio::test]
    async fn a_body_that_is_dropped_closes_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let near = near(port);
        let serving = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_request(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\none").await.unwrap();
            socket.read(&mut [0; 8]).await.unwrap()
        };
        let asking = async {
            let asked = Asked {
                method: &Method::POST,
                target: &PathAndQuery::from_static("/"),
                headers: &HeaderMap::new(),
                body: &Bytes::from_static(b"body"),
            };
            let mut response = near.ask(asked).await.unwrap();
            std::future::poll_fn(|cx| response.body_mut().poll_chunk(cx)).await.unwrap().unwrap();
        };
        let (read, ()) = tokio::join!(serving, asking);
        assert_eq!(read, 0);
    }

    #[tokio::test]
    async fn nobody_there_is_told_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let near = near(port);
        assert!(body(&near).await.unwrap_err().starts_with("Connect("));
    }
}
