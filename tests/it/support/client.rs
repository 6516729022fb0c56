//! Clients: one that reads events as they come, and one that sends whatever bytes it is told to.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// The events of a stream, one after the other.
pub(crate) struct Events {
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    ahead: Vec<u8>,
}

impl Events {
    pub(crate) fn of(response: reqwest::Response) -> Self {
        assert_eq!(response.status(), 200);
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        Self { body: Box::pin(response.bytes_stream()), ahead: Vec::new() }
    }

    /// The next event or comment, without the blank line behind it; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|window| window == b"\n\n") {
                let rest = self.ahead.split_off(end + 2);
                let event = std::mem::replace(&mut self.ahead, rest);
                return Some(String::from_utf8(event).unwrap().trim_end().to_owned());
            }
            let chunk = timeout(PATIENCE, self.body.next()).await.expect("the stream is silent");
            let Some(chunk) = chunk else {
                assert!(self.ahead.is_empty(), "the stream ends within an event");
                return None;
            };
            self.ahead.extend_from_slice(&chunk.unwrap());
        }
    }

    /// All data to the end.
    pub(crate) async fn rest(mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.extend(event.strip_prefix("data: ").map(str::to_owned));
        }
        all
    }
}

/// The data of all events that a request brings: JSON, but for `[DONE]`, which becomes a string.
pub(crate) async fn events_of(request: reqwest::RequestBuilder) -> Vec<Value> {
    let events = Events::of(request.send().await.unwrap()).rest().await;
    let value = |data: &String| {
        if data == "[DONE]" { Value::from("[DONE]") } else { serde_json::from_str(data).unwrap() }
    };
    events.iter().map(value).collect()
}

/// A connection to which bytes are written as they are.
pub(crate) struct Connection<S> {
    pub(crate) socket: S,
}

impl Connection<TcpStream> {
    pub(crate) async fn open(address: &str) -> Self {
        Self { socket: TcpStream::connect(address).await.unwrap() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) async fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until the other side has closed, or for so long.
    pub(crate) async fn read_to_end(&mut self, limit: Duration) -> Option<String> {
        let mut all = Vec::new();
        let end = timeout(limit, async {
            let mut piece = [0; 16 * 1024];
            // A reset is an end, too.
            while let Ok(read) = self.socket.read(&mut piece).await {
                if read == 0 {
                    break;
                }
                all.extend_from_slice(&piece[..read]);
            }
        });
        end.await.ok()?;
        Some(String::from_utf8_lossy(&all).into_owned())
    }

    /// Reads until these words have come.
    pub(crate) async fn until(&mut self, words: &str) -> String {
        let mut all = Vec::new();
        let reading = async {
            let mut piece = [0; 16 * 1024];
            while !String::from_utf8_lossy(&all).contains(words) {
                let read = self.socket.read(&mut piece).await.unwrap();
                assert!(read > 0, "it ended without `{words}`: {}", String::from_utf8_lossy(&all));
                all.extend_from_slice(&piece[..read]);
            }
        };
        timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("no `{words}`"));
        String::from_utf8(all).unwrap()
    }
}

/// A POST of JSON as bytes.
pub(crate) fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The JSON of an answer.
pub(crate) async fn json_of(response: reqwest::Response) -> Value {
    let text = response.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The one connection of a client that knows HTTP/2 beforehand.
pub(crate) struct Http2 {
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
}

impl Http2 {
    pub(crate) async fn open(address: &str) -> Self {
        Self::with_window(address, 1024 * 1024).await
    }

    /// With so many bytes that a stream may send before it is told to go on.
    pub(crate) async fn with_window(address: &str, bytes: u32) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let handshake = builder.initial_stream_window_size(bytes).handshake(TokioIo::new(socket));
        let (sender, driver) = handshake.await.unwrap();
        tokio::spawn(driver);
        Self { sender }
    }

    /// Asks by a stream of its own. Dropping what is returned resets that stream.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> impl Future<Output = hyper::Result<http::Response<Incoming>>> + Send + use<> {
        let request = http::Request::builder().method(method).uri(format!("http://localhost{path}"));
        let request = request.header("content-type", "application/json");
        self.sender.send_request(request.body(Full::from(body.to_owned())).unwrap())
    }
}
