//! Refusals of requests whose body is still on its way, and of heads: that they are read, and what comes after them.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::Http2;
use crate::support::{Connection, Gateway, PATIENCE, Setup, Step, Upstream};

const LARGE: usize = 5 * 1024 * 1024;
const ADMIN: &str = "an-admin-key-of-some-length";

fn keyed() -> Gateway {
    Setup::new().env("AUTH", "keys").env("ADMIN_KEY", ADMIN).start()
}

fn head(first: &str, length: usize, more: &str) -> String {
    format!("{first} HTTP/1.1\r\nhost: localhost\r\n{more}content-length: {length}\r\n\r\n")
}

const JSON: &str = "content-type: application/json\r\n";

/// Sends all of a request, as clients do that look at the answer only then, and reads the answer to the connection's end.
async fn sent_whole(gateway: &Gateway, head: &str, body: &[u8]) -> String {
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(head).await;
    for piece in body.chunks(64 * 1024) {
        connection.socket.write_all(piece).await.unwrap_or_else(|error| panic!("{head}: {error}"));
    }
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, connection.socket.read_to_end(&mut all)).await;
    read.unwrap().unwrap_or_else(|error| panic!("{head}: {error}"));
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn a_refusal_of_a_large_body_is_read_whatever_its_status() {
    let gateway = keyed();
    let key = json!({"name": "k", "allowed_endpoints": ["/api/tags"]});
    let made = gateway.post("/admin/keys", &key).header("x-admin-key", ADMIN).send().await.unwrap();
    let key: serde_json::Value = serde_json::from_str(&made.text().await.unwrap()).unwrap();
    let own = format!("{JSON}x-api-key: {}\r\n", key["key"].as_str().unwrap());
    let foreign = format!("{JSON}origin: https://evil.example\r\n");
    let coded = "content-encoding: gzip\r\n";
    let body = vec![b'x'; LARGE];
    let open = Setup::new().env("MAX_BODY_BYTES", "1000000").start();
    for (gateway, first, more, status) in [
        (&gateway, "POST /v1/chat/completions", JSON, 401),
        (&gateway, "POST /v1/chat/completions", own.as_str(), 403),
        (&gateway, "POST /v1/chat/completions", foreign.as_str(), 403),
        (&gateway, "PUT /admin/keys", JSON, 401),
        (&gateway, "POST /nothing", JSON, 404),
        (&gateway, "DELETE /api/ping", JSON, 405),
        (&open, "POST /v1/chat/completions", JSON, 413),
        (&open, "POST /v1/chat/completions", coded, 415),
        // An answer that needs no body, too.
        (&gateway, "GET /api/ping", JSON, 200),
    ] {
        let answer = sent_whole(gateway, &head(first, LARGE, more), &body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{first}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{first}: {answer}");
    }
}

#[tokio::test]
async fn a_refusal_of_a_small_body_leaves_the_connection_as_it_is() {
    let gateway = keyed();
    let mut connection = Connection::open(gateway.address()).await;
    for length in [0, 2, 5_000, 60_000, 65_536].repeat(12) {
        let body = "x".repeat(length);
        connection.send(&head("POST /v1/chat/completions", length, JSON)).await;
        connection.send(&body).await;
        let answer = connection.until("}}").await;
        assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("connection: close"), "{answer}");
    }
    // In chunks, with what follows sent along.
    let chunked = "POST /nothing HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    connection.send(&chunked.repeat(3)).await;
    connection.send("GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let answers = connection.until("alive").await;
    assert!(
        answers.matches("unknown_path").count() == 3 && !answers.contains("connection: close"),
        "{answers}"
    );
}

#[tokio::test]
async fn one_that_is_slow_with_a_small_body_is_told_that_the_connection_ends() {
    let gateway = keyed();
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(&head("POST /v1/chat/completions", 100, JSON)).await;
    let answer = connection.until("}}").await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("connection: close"), "{answer}");
    // It may still send what it has announced.
    connection.socket.write_all(&[b'x'; 100]).await.unwrap();
    assert!(connection.read_to_end(PATIENCE).await.is_some());
}

#[tokio::test]
async fn one_that_asks_before_it_sends_is_refused_before_it_does() {
    let gateway = keyed();
    let mut connection = Connection::open(gateway.address()).await;
    connection
        .send(&head("POST /v1/chat/completions", 100, &format!("{JSON}expect: 100-continue\r\n")))
        .await;
    let answer = connection.read_to_end(PATIENCE).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_stream_of_http2_ends_and_its_connection_does_not() {
    let gateway = keyed();
    let socket = TcpStream::connect(gateway.address()).await.unwrap();
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, driver) = builder.handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(driver);
    for _ in 0..3 {
        let request = http::Request::post("http://localhost/v1/chat/completions");
        let request = request.header("content-type", "application/json");
        let answer = sender.send_request(request.body(Full::new(Bytes::from(vec![b'x'; LARGE]))).unwrap());
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!((answer.status(), answer.headers().get("connection")), (401.try_into().unwrap(), None));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8(body.into()).unwrap().contains("missing_api_key"));
    }
}

#[tokio::test]
async fn a_coding_that_is_not_known_is_refused_and_nothing_after_it_is_read() {
    let gateway = Setup::new().start();
    let post = |coding: &str| format!("POST /nothing HTTP/1.1\r\nhost: localhost\r\n{coding}\r\n");
    let behind = "GET /api/ping HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for (coding, status, code) in [
        ("transfer-encoding: gzip, chunked\r\n", 501, "unsupported_transfer_encoding"),
        ("transfer-encoding: chunked, chunked\r\n", 501, "unsupported_transfer_encoding"),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            501,
            "unsupported_transfer_encoding",
        ),
        (
            "transfer-encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            501,
            "unsupported_transfer_encoding",
        ),
        ("transfer-encoding: gzip\r\n", 400, "invalid_http"),
        ("transfer-encoding: chunked;q=1\r\n", 400, "invalid_http"),
        ("content-length: 1, 2\r\n", 400, "invalid_http"),
        ("content-length: 1\r\ncontent-length: 2\r\n", 400, "invalid_http"),
        ("content-length: -1\r\n", 400, "invalid_http"),
        ("content-length: 18446744073709551615\r\n", 413, "request_too_large"),
        ("content-length: 18446744073709551614\r\n", 413, "request_too_large"),
        ("content-length: 18446744073709551616\r\n", 400, "invalid_http"),
        ("content-length: 184467440737095516\r\n", 404, "unknown_path"),
    ] {
        let mut connection = Connection::open(gateway.address()).await;
        // A chunk that has not come to its end, so that nothing can be drained.
        connection.send(&format!("{}ffff\r\n{behind}", post(coding))).await;
        let answer = connection.read_to_end(PATIENCE).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(code),
            "{coding}: {answer}"
        );
        assert!(answer.contains("connection: close") && !answer.contains("pong"), "{coding}: {answer}");
    }
    // Two lengths: chunks count, and whatever another reader would take for the next request is none.
    for both in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
    ] {
        let mut connection = Connection::open(gateway.address()).await;
        connection.send(&format!("{}0\r\n\r\n{behind}", post(both))).await;
        let answer = connection.read_to_end(PATIENCE).await.unwrap();
        assert!(answer.contains("connection: close") && !answer.contains("pong"), "{both}: {answer}");
    }
}

const LINE: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

/// An upstream whose answer's head comes first, and then so many pieces, each with a write of its own.
async fn in_pieces(pieces: Vec<Vec<u8>>) -> Upstream {
    let length: usize = pieces.iter().map(Vec::len).sum();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n");
    let pause = Step::Pause(Duration::from_millis(10));
    let steps: Vec<Step> = std::iter::once(head.into_bytes())
        .chain(pieces)
        .flat_map(|piece| [Step::Send(piece), pause.clone()])
        .collect();
    Upstream::start(move |_| steps.clone()).await
}

#[tokio::test]
async fn an_answer_may_say_what_a_refusal_says_wherever_a_write_begins() {
    // Cut at each place of the line, so that a write begins with it again after each.
    let cut: Vec<Vec<u8>> = (0..LINE.len()).flat_map(|at| [LINE[..at].to_vec(), LINE.to_vec()]).collect();
    let expected = cut.concat();
    let upstream = in_pieces(cut.into_iter().filter(|piece| !piece.is_empty()).collect()).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let path = "/api/passthrough/up/v1/x";
    let body = gateway.get(path).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(body, expected);

    let mut http2 = Http2::open(gateway.address()).await;
    let answer = http2.send("GET", path, "").await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), expected);
}

#[tokio::test]
async fn an_answer_that_is_read_slowly_comes_whole() {
    let body = LINE.repeat(9 * 1024 * 1024 / LINE.len());
    let upstream = in_pieces(vec![body.clone()]).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let mut connection = Connection::open(gateway.address()).await;
    connection.send("GET /api/passthrough/up/v1/x HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let (mut all, mut piece) = (Vec::new(), vec![0; 50_000]);
    let reading = async {
        while !all.ends_with(LINE) || all.len() < body.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let read = connection.socket.read(&mut piece).await.unwrap();
            assert!(read > 0, "it ended after {} bytes", all.len());
            all.extend_from_slice(&piece[..read]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    assert!(all.ends_with(&body));
    // The head after it is judged as any.
    connection.send("BAD\r\n\r\n").await;
    assert!(connection.read_to_end(PATIENCE).await.unwrap().contains("invalid_http"));
}

#[tokio::test]
async fn a_streamed_answer_may_say_it_too() {
    let word = String::from_utf8(LINE.to_vec()).unwrap();
    let chunk = |content: &str, finish: serde_json::Value| {
        let delta = json!({"index": 0, "delta": {"content": content}, "finish_reason": finish});
        json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [delta]})
    };
    let events: Vec<String> = (0..50)
        .map(|_| chunk(&word, json!(null)).to_string())
        .chain([chunk("", json!("stop")).to_string()])
        .collect();
    let events: Vec<&str> = events.iter().map(String::as_str).chain(["[DONE]"]).collect();
    let upstream = Upstream::answering(crate::support::sse(&events)).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let events = crate::support::events_of(gateway.post("/v1/chat/completions", &body)).await;
    let said: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(said, word.repeat(50));
    assert_eq!(events.last().unwrap(), "[DONE]");
}
