//! A plain client, which reads whole answers and streams event by event.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use super::soon;

/// Asks one server.
pub(crate) struct Client {
    pub(crate) base: String,
    key: Option<String>,
    http: reqwest::Client,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// The body: JSON as such, anything else as a string.
    pub(crate) body: Value,
}

/// A stream, as it comes.
pub(crate) struct Events {
    pub(crate) headers: HeaderMap,
    body: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: Vec<u8>,
    events: VecDeque<Event>,
}

/// One event of a stream. Comments are passed over.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    Chunk(Value),
    Done,
}

/// A stream that has ended.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub(crate) headers: HeaderMap,
    pub(crate) chunks: Vec<Value>,
    /// Whether it ended with `[DONE]`.
    pub(crate) is_done: bool,
}

impl Client {
    pub(crate) fn new(base: String, key: Option<&str>) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { base, key: key.map(str::to_owned), http }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.posting(path, body)).await
    }

    /// The body of a good answer to a POST.
    pub(crate) async fn asked(&self, path: &str, body: &Value) -> Value {
        self.post(path, body).await.good()
    }

    /// Opens a stream.
    pub(crate) async fn open(&self, path: &str, body: &Value) -> Events {
        let response = soon("the head of a stream", self.posting(path, body).send()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_stream = status == 200 && kind.starts_with("text/event-stream");
        assert!(is_stream, "{status} {kind}: {}", soon("a body", response.text()).await.unwrap());
        Events { headers, body: response.bytes_stream().boxed(), text: Vec::new(), events: VecDeque::new() }
    }

    /// Reads a stream to its end.
    pub(crate) async fn stream(&self, path: &str, body: &Value) -> Streamed {
        self.open(path, body).await.rest().await
    }

    fn posting(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).header(CONTENT_TYPE, "application/json").body(body.to_string())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header(AUTHORIZATION, format!("Bearer {key}")),
            None => request,
        }
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    let response = soon("the head of an answer", request.send()).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = soon("the body of an answer", response.text()).await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}

impl Answer {
    /// The body, which must not be an error.
    pub(crate) fn good(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// Status and code of an error.
    pub(crate) fn fault(&self) -> (u16, &str) {
        (self.status, self.body["error"]["code"].as_str().unwrap_or_default())
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        header(&self.headers, name)
    }
}

/// A header as text, empty if it is not there.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl Events {
    /// The next event; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        while self.events.is_empty() {
            let piece = soon("the next piece of a stream", self.body.next()).await?;
            self.text.extend_from_slice(&piece.expect("the stream ends in good order"));
            self.split();
        }
        self.events.pop_front()
    }

    /// The next chunk.
    pub(crate) async fn chunk(&mut self) -> Value {
        match self.next().await {
            Some(Event::Chunk(chunk)) => chunk,
            other => panic!("{other:?} instead of a chunk"),
        }
    }

    /// Everything that is still to come.
    pub(crate) async fn rest(mut self) -> Streamed {
        let (mut chunks, mut is_done) = (Vec::new(), false);
        while let Some(event) = self.next().await {
            assert!(!is_done, "{event:?} after [DONE]");
            match event {
                Event::Chunk(chunk) => chunks.push(chunk),
                Event::Done => is_done = true,
            }
        }
        Streamed { headers: self.headers, chunks, is_done }
    }

    fn split(&mut self) {
        while let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = self.text.drain(..end + 2).collect();
            let event = String::from_utf8(event).expect("whole characters");
            match event.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => self.events.push_back(Event::Done),
                Some(json) => self.events.push_back(Event::Chunk(serde_json::from_str(json).unwrap())),
                None => assert!(event.starts_with(':'), "neither data nor a comment: {event}"),
            }
        }
    }
}

impl Streamed {
    /// The text of the first choice.
    pub(crate) fn text(&self) -> String {
        self.deltas().filter_map(|delta| delta["content"].as_str()).collect()
    }

    /// The deltas of the first choice.
    pub(crate) fn deltas(&self) -> impl Iterator<Item = &Value> {
        self.chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta"))
    }

    /// Why it ended, each time that this is told.
    pub(crate) fn finish_reasons(&self) -> Vec<&str> {
        self.chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/finish_reason")?.as_str()).collect()
    }
}
