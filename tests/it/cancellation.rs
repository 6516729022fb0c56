//! A caller who leaves cancels: the upstream request is gone within 100 ms, whatever it was doing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Http2, post};
use crate::support::{Connection, Gateway, Setup, Step, Upstream, eventually, sse};

const LIMIT: Duration = Duration::from_millis(100);
const WORD: &str = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"word "}}]}"#;

fn asked(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
}

/// Calls, leaves when `sign` holds, and returns how long the upstream request lived on.
async fn lived_on(
    upstream: &mut Upstream,
    gateway: &Gateway,
    request: &str,
    words: Option<&str>,
) -> Duration {
    let mut caller = Connection::open(gateway.address()).await;
    caller.send(request).await;
    let seen = upstream.seen().len();
    eventually("the upstream is asked", async || upstream.seen().len() > seen).await;
    if let Some(words) = words {
        caller.until(words).await;
    }
    let left = Instant::now();
    drop(caller);
    upstream.left().await.saturating_duration_since(left)
}

#[tokio::test]
async fn before_the_head_of_the_answer() {
    let mut upstream = Upstream::answering(Step::Hold).await;
    for kind in ["openai", "vllm", "llamacpp", "ollama"] {
        let base = if kind == "ollama" { upstream.url() } else { upstream.v1() };
        let gateway = Setup::upstream(kind, &base, &["m"]).start();
        let time = lived_on(&mut upstream, &gateway, &post("/api/chat", &asked(true)), None).await;
        assert!(time < LIMIT, "{kind}: {time:?}");
    }
}

#[tokio::test]
async fn whose_request_is_long() {
    let mut long = asked(true);
    long["messages"][0]["content"] = json!("long ".repeat(100_000));
    let mut silent = Upstream::answering(Step::Hold).await;
    let mut speaking = Upstream::start(|_| vec![sse(&[WORD]), Step::Hold]).await;
    for (upstream, words) in [(&mut silent, None), (&mut speaking, Some("word"))] {
        let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
        let time = lived_on(upstream, &gateway, &post("/api/chat", &long), words).await;
        assert!(time < LIMIT, "{words:?}: {time:?}");
    }
}

#[tokio::test]
async fn in_the_middle_of_a_stream() {
    let mut upstream = Upstream::start(|_| vec![sse(&[WORD]), Step::Hold]).await;
    for kind in ["openai", "vllm", "llamacpp"] {
        let gateway = Setup::upstream(kind, &upstream.v1(), &["m"]).start();
        let time = lived_on(&mut upstream, &gateway, &post("/api/chat", &asked(true)), Some("word")).await;
        assert!(time < LIMIT, "{kind}: {time:?}");
        eventually("it is counted", async || {
            gateway.figure("llm_proxy_cancelled_total", "/api/chat").await == 1.0
        })
        .await;
        assert_eq!(gateway.figure("llm_proxy_streams_open", "").await, 0.0);
    }
}

#[tokio::test]
async fn in_the_middle_of_an_ollama_stream() {
    let line = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n\
        {\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"word\"},\"done\":false}\n";
    let mut upstream = Upstream::start(move |_| vec![Step::Send(line.into()), Step::Hold]).await;
    let gateway = Setup::upstream("ollama", &upstream.url(), &["m"]).start();
    let time = lived_on(&mut upstream, &gateway, &post("/api/chat", &asked(true)), Some("word")).await;
    assert!(time < LIMIT, "{time:?}");
}

#[tokio::test]
async fn during_an_answer_that_is_not_a_stream() {
    let mut upstream = Upstream::answering(Step::Hold).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    for request in [
        post("/api/chat", &asked(false)),
        post("/v1/chat/completions", &asked(false)),
        post("/v1/completions", &json!({"model": "m", "prompt": "x"})),
        post("/v1/embeddings", &json!({"model": "m", "input": "x"})),
        post(
            "/api/conversation_with_model",
            &json!({"model_name": "m", "user_last_statement": "x", "stream": false}),
        ),
        post(
            "/api/passthrough",
            &json!({"provider": "up", "method": "POST", "path": "/v1/anything", "body": {}}),
        ),
        post("/api/passthrough/up/v1/anything", &json!({})),
    ] {
        let time = lived_on(&mut upstream, &gateway, &request, None).await;
        assert!(time < LIMIT, "{request}: {time:?}");
    }
}

#[tokio::test]
async fn when_the_head_of_a_whole_answer_has_come() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"id\":";
    let mut upstream = Upstream::start(move |_| vec![Step::Send(head.into()), Step::Hold]).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let mut caller = Connection::open(gateway.address()).await;
    caller.send(&post("/api/chat", &asked(false))).await;
    eventually("the upstream is asked", async || !upstream.seen().is_empty()).await;
    let left = Instant::now();
    drop(caller);
    let time = upstream.left().await.saturating_duration_since(left);
    assert!(time < LIMIT, "{time:?}");
}

#[tokio::test]
async fn in_the_middle_of_a_streamed_passthrough() {
    let mut upstream = Upstream::start(|_| vec![sse(&[WORD]), Step::Hold]).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let request = post("/api/passthrough/up/v1/chat/completions", &asked(true));
    let time = lived_on(&mut upstream, &gateway, &request, Some("word")).await;
    assert!(time < LIMIT, "{time:?}");
}

#[tokio::test]
async fn over_http2_by_a_reset_of_the_stream_alone() {
    let mut upstream = Upstream::answering(Step::Hold).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let mut client = Http2::open(gateway.address()).await;
    let calling = tokio::spawn(client.send("POST", "/api/chat", &asked(true).to_string()));
    eventually("the upstream is asked", async || !upstream.seen().is_empty()).await;

    let left = Instant::now();
    calling.abort();

    let time = upstream.left().await.saturating_duration_since(left);
    assert!(time < LIMIT, "{time:?}");
    // The connection lives, and serves others.
    let pong = client.send("GET", "/api/ping", "").await.unwrap();
    assert_eq!(pong.status(), 200);
}

#[tokio::test]
async fn a_caller_who_stops_listening_is_given_up_in_time() {
    // A stream without end, and a caller who takes nothing: neither is gathered in memory for ever.
    let many = format!("data: {WORD}\n\n").repeat(20_000);
    let mut upstream = Upstream::start(move |_| {
        let piece = Step::Send(many.clone().into_bytes());
        [vec![sse(&[WORD])], vec![piece; 200], vec![Step::Hold]].concat()
    })
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).env("IDLE_TIMEOUT", "1").start();
    let mut caller = Connection::open(gateway.address()).await;
    caller.send(&post("/api/chat", &asked(true))).await;
    upstream.left().await;
    drop(caller);
}

#[tokio::test]
async fn with_something_sent_behind_the_request() {
    let mut upstream = Upstream::answering(Step::Hold).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let request = post("/api/chat", &asked(false));
    for behind in ["\r\n", "GET /api/ping HTTP/1.1\r\nhost: localhost\r\n\r\n", &request.repeat(20)] {
        let time = lived_on(&mut upstream, &gateway, &format!("{request}{behind}"), None).await;
        assert!(time < LIMIT, "{time:?} with {} bytes behind", behind.len());
    }
}

#[tokio::test]
async fn a_caller_who_takes_nothing_over_http2_is_given_up_in_time() {
    let mut upstream = Upstream::start(|_| vec![sse(&[WORD]), Step::Hold]).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).env("IDLE_TIMEOUT", "1").start();
    // With a window of nothing, the answer can never be sent.
    let mut client = Http2::with_window(gateway.address(), 0).await;
    let began = Instant::now();
    let answer = client.send("POST", "/api/chat", &asked(true).to_string()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let left = upstream.left().await.duration_since(began);
    assert!(left > Duration::from_millis(900) && left < Duration::from_secs(4), "{left:?}");
    drop(answer);
}
