//! The mock upstream: OpenAI's chat completions, whole and streamed, at a pace that the model name gives.
//!
//! Written by hand on sockets, so that it costs little beside what is measured.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};

use crate::answer::{self, Event, Pace};
use crate::http1::Connection;
use crate::stats::now_ns;

const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
    cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
const MODELS: &str = r#"{"object":"list","data":[{"id":"whole","object":"model","created":1700000000,"owned_by":"bench"},{"id":"chunks-50-gap-20","object":"model","created":1700000000,"owned_by":"bench"}]}"#;

/// What a request says about its answer. The rest is not read.
#[derive(Deserialize)]
struct Request {
    model: String,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: StreamOptions,
}

#[derive(Deserialize, Default)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// Serves until the process ends.
pub async fn serve(port: u16) -> Result<()> {
    let address = (Ipv4Addr::LOCALHOST, port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("port {port}"))?;
    let whole: &str = Box::leak(response("200 OK", &answer::whole()?).into_boxed_str());
    loop {
        let (stream, _) = listener.accept().await?;
        let connection = Connection::new(stream)?;
        tokio::spawn(async move {
            // A caller who leaves in the middle loses the connection; whether that was right, it knows itself.
            let _ = converse(connection, whole).await;
        });
    }
}

async fn converse(mut connection: Connection, whole: &str) -> Result<()> {
    let mut body = Vec::new();
    while let Some(head) = connection.head().await? {
        connection.whole_body(head.body, &mut body).await?;
        if head.start_line.starts_with("GET /v1/models ") {
            connection.send(response("200 OK", MODELS).as_bytes()).await?;
            continue;
        }
        if !head.start_line.starts_with("POST /v1/chat/completions ") {
            connection.send(failure("404 Not Found", "no such path").as_bytes()).await?;
            continue;
        }
        let request = serde_json::from_slice::<Request>(&body).ok();
        let pace = request.as_ref().and_then(|request| Pace::of_model(&request.model));
        match (request, pace) {
            (Some(request), Some(pace)) if request.stream => {
                stream(&mut connection, pace, request.stream_options.include_usage).await?;
            }
            (Some(_), Some(_)) => connection.send(whole.as_bytes()).await?,
            (Some(_), None) => {
                connection.send(failure("404 Not Found", "no such model").as_bytes()).await?;
            }
            (None, _) => connection.send(failure("400 Bad Request", "not a request").as_bytes()).await?,
        }
    }
    Ok(())
}

/// Each event is a write of its own, as real servers send them.
async fn stream(connection: &mut Connection, pace: Pace, include_usage: bool) -> Result<()> {
    let start = Instant::now();
    let gap = Duration::from_millis(pace.gap_ms);
    let (mut event, mut frame) = (Vec::new(), Vec::new());
    connection.send(STREAM_HEAD).await?;
    chunk(&mut frame, &mut event, Event::Role)?;
    connection.send(&frame).await?;
    let mut due = start;
    for number in 0..pace.chunks {
        if number > 0 && pace.gap_ms > 0 {
            due += gap;
            sleep_until(due).await;
        }
        chunk(&mut frame, &mut event, Event::Content { number, sent_ns: Some(now_ns()) })?;
        connection.send(&frame).await?;
    }
    chunk(&mut frame, &mut event, Event::Finish)?;
    connection.send(&frame).await?;
    if include_usage {
        chunk(&mut frame, &mut event, Event::Usage { chunks: pace.chunks })?;
        connection.send(&frame).await?;
    }
    chunk(&mut frame, &mut event, Event::Done)?;
    frame.extend_from_slice(b"0\r\n\r\n");
    connection.send(&frame).await
}

/// Puts an event as a chunk of HTTP in place of what `frame` held.
fn chunk(frame: &mut Vec<u8>, event_text: &mut Vec<u8>, event: Event) -> Result<()> {
    event_text.clear();
    event.write(event_text)?;
    frame.clear();
    write!(frame, "{:x}\r\n", event_text.len())?;
    frame.extend_from_slice(event_text);
    frame.extend_from_slice(b"\r\n");
    Ok(())
}

fn response(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

fn failure(status: &str, message: &str) -> String {
    response(status, &format!(r#"{{"error":{{"message":"{message}","type":"invalid_request_error"}}}}"#))
}
