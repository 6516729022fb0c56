//! Streams: every piece at once, nothing lost, every end told.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Connection, Events, Setup, Step, Upstream, client, events_of, fixture, sse};

const ROLE: &str = r#"{"id":"c1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
const WORD: &str =
    r#"{"id":"c1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word "}}]}"#;
const END: &str = r#"{"id":"c1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"id":"c1","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

fn asked() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
}

fn data(event: &str) -> Step {
    Step::Send(format!("data: {event}\n\n").into_bytes())
}

async fn gateway(steps: Vec<Step>) -> (Upstream, crate::support::Gateway) {
    let upstream = Upstream::start(move |_| steps.clone()).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    (upstream, gateway)
}

#[tokio::test]
async fn headers_say_that_nobody_may_hold_it_back() {
    let (_upstream, gateway) = gateway(vec![sse(&[ROLE, WORD, END, "[DONE]"]), Step::Close]).await;

    let response =
        gateway.post("/api/chat", &asked()).header("accept-encoding", "gzip, br").send().await.unwrap();

    let headers = response.headers();
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    assert_eq!(
        (&headers["cache-control"], &headers["x-accel-buffering"]),
        (&"no-cache".parse().unwrap(), &"no".parse().unwrap())
    );
    assert!(headers.get("content-length").is_none() && headers.get("content-encoding").is_none());
}

#[tokio::test]
async fn every_piece_leaves_the_moment_it_comes() {
    let pause = Duration::from_millis(400);
    let (_upstream, gateway) = gateway(vec![
        sse(&[ROLE]),
        data(WORD),
        Step::Pause(pause),
        data(WORD),
        Step::Pause(pause),
        data(WORD),
        Step::Pause(pause),
        data(END),
        data("[DONE]"),
        Step::Close,
    ])
    .await;

    let started = Instant::now();
    let mut events = Events::of(gateway.post("/api/chat", &asked()).send().await.unwrap());
    let mut words = Vec::new();
    while let Some(event) = events.next().await {
        if event.contains("word") {
            words.push(started.elapsed());
        }
    }

    assert_eq!(words.len(), 3);
    for (index, at) in words.iter().enumerate() {
        let sent = pause * u32::try_from(index).unwrap();
        assert!(*at >= sent && *at < sent + pause, "word {index} came after {at:?}");
    }
}

#[tokio::test]
async fn an_openai_servers_events_are_not_touched() {
    let odd = r#"{ "choices" : [ {"index":0, "delta":{"content":"Zażółć ✓ \u00e9", "x_new":{"a":[1.0]}}, "logprobs":{"content":[{"token":"Z","logprob":-0.5e-1}]}} ], "x":1e2 }"#;
    let (_upstream, gateway) = gateway(vec![sse(&[ROLE, odd, END, "[DONE]"]), Step::Close]).await;
    let events = Events::of(gateway.post("/api/chat", &asked()).send().await.unwrap()).rest().await;
    assert_eq!(events, [ROLE, odd, END, "[DONE]"]);
}

#[tokio::test]
async fn usage_is_always_asked_for_and_shown_only_to_those_who_asked() {
    let (upstream, gateway) = gateway(vec![sse(&[ROLE, WORD, END, USAGE, "[DONE]"]), Step::Close]).await;

    let events = Events::of(gateway.post("/api/chat", &asked()).send().await.unwrap()).rest().await;
    assert_eq!(events, [ROLE, WORD, END, "[DONE]"]);
    assert_eq!(upstream.last()["stream_options"], json!({"include_usage": true}));

    let mut wants = asked();
    wants["stream_options"] = json!({"include_usage": true, "x": 1});
    let events = Events::of(gateway.post("/api/chat", &wants).send().await.unwrap()).rest().await;
    assert_eq!(events, [ROLE, WORD, END, USAGE, "[DONE]"]);
    assert_eq!(upstream.last()["stream_options"], json!({"include_usage": true, "x": 1}));

    assert_eq!(gateway.figure("llm_proxy_tokens_total", "direction=\"output\"").await, 4.0);
    assert_eq!(gateway.figure("llm_proxy_tokens_total", "direction=\"input\"").await, 6.0);
}

#[tokio::test]
async fn lines_come_where_they_are_asked_for() {
    let (_upstream, gateway) = gateway(vec![sse(&[ROLE, WORD, END, "[DONE]"]), Step::Close]).await;

    let response =
        gateway.post("/api/chat", &asked()).header("accept", "application/x-ndjson").send().await.unwrap();

    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    assert_eq!(response.text().await.unwrap(), format!("{ROLE}\n{WORD}\n{END}\n"));
}

#[tokio::test]
async fn a_cut_stream_ends_in_an_error_and_not_in_done() {
    for end in [Step::Close, Step::Reset] {
        let (_upstream, gateway) =
            gateway(vec![sse(&[ROLE, WORD]), Step::Pause(Duration::from_millis(30)), end]).await;
        let events = events_of(gateway.post("/api/chat", &asked())).await;
        let error = &events.last().unwrap()["error"];
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("upstream_error"), &json!("upstream_protocol")),
            "{events:?}"
        );
        assert!(!events.contains(&json!("[DONE]")));
    }
}

#[tokio::test]
async fn done_without_a_finish_reason_is_a_failure_too() {
    let (_upstream, gateway) = gateway(vec![sse(&[ROLE, WORD, "[DONE]"]), Step::Close]).await;
    let events = events_of(gateway.post("/api/chat", &asked())).await;
    assert!(events.last().unwrap()["error"]["code"].is_string(), "{events:?}");
}

#[tokio::test]
async fn a_finish_reason_without_done_is_a_success() {
    let (_upstream, gateway) = gateway(vec![sse(&[ROLE, WORD, END]), Step::Close]).await;
    let events = events_of(gateway.post("/api/chat", &asked())).await;
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn an_error_within_a_stream_is_passed_on_as_one() {
    let trouble = r#"{"error":{"message":"CUDA out of memory at http://10.1.2.3:8000/","type":"server_error","code":500}}"#;
    let (_upstream, gateway) =
        gateway(vec![sse(&[ROLE, WORD]), Step::Pause(Duration::from_millis(50)), data(trouble), Step::Close])
            .await;
    let events = events_of(gateway.post("/api/chat", &asked())).await;
    let error = &events.last().unwrap()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("500")));
    assert_eq!(error["message"], "CUDA out of memory at [address]");
}

#[tokio::test]
async fn what_fails_before_the_first_content_has_a_status_of_its_own() {
    for (steps, status, code) in [
        (vec![sse(&[ROLE]), Step::Close], 502, "upstream_protocol"),
        (vec![sse(&[]), Step::Close], 502, "upstream_protocol"),
        (vec![sse(&["{not json"]), Step::Close], 502, "upstream_protocol"),
        (vec![sse(&[r#"{"error":{"message":"loading"}}"#]), Step::Close], 502, "upstream_protocol"),
        (vec![Step::Close], 502, "upstream_unreachable"),
        (
            vec![Step::Send(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\r\n<html>hi</html>"
                    .to_vec(),
            )],
            502,
            "upstream_protocol",
        ),
        (vec![Step::Send(b"not http at all\r\n\r\n".to_vec()), Step::Close], 502, "upstream_unreachable"),
    ] {
        let (_upstream, gateway) = gateway(steps.clone()).await;
        let (got, error) = gateway.ask("/api/chat", &asked()).await;
        assert_eq!((got, error["error"]["code"].as_str()), (status, Some(code)), "{steps:?}: {error}");
    }
}

#[tokio::test]
async fn a_silent_upstream_is_told_in_time() {
    let held = vec![sse(&[ROLE, WORD]), Step::Hold];
    let upstream =
        Upstream::start(
            move |seen| if seen.json()["stream"] == true { held.clone() } else { vec![Step::Hold] },
        )
        .await;
    let setup = Setup::upstream("openai", &upstream.v1(), &["m"]);
    let gateway = setup.env("STALL_TIMEOUT", "1").env("TIMEOUT", "2").start();

    let events = events_of(gateway.post("/api/chat", &asked())).await;
    assert_eq!(events.last().unwrap()["error"]["code"], "upstream_timeout");

    let mut whole = asked();
    whole["stream"] = json!(false);
    let (status, error) = gateway.ask("/api/chat", &whole).await;
    assert_eq!((status, &error["error"]["code"]), (504, &json!("upstream_timeout")));
}

#[tokio::test]
async fn the_first_token_has_a_time_limit_of_its_own() {
    let (_upstream, _) = gateway(vec![]).await;
    let upstream = Upstream::start(|_| vec![sse(&[ROLE]), Step::Hold]).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).env("FIRST_TOKEN_TIMEOUT", "0.4").start();
    let started = Instant::now();
    let (status, error) = gateway.ask("/api/chat", &asked()).await;
    assert_eq!((status, &error["error"]["code"]), (504, &json!("upstream_timeout")));
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn another_deployment_takes_over_until_the_first_content() {
    let broken = Upstream::start(|_| vec![sse(&[ROLE]), Step::Close]).await;
    let good = Upstream::start(|_| vec![sse(&[ROLE, WORD, END, "[DONE]"]), Step::Close]).await;
    let cut = Upstream::start(|_| vec![sse(&[ROLE, WORD]), Step::Close]).await;
    let provider = |upstream: &Upstream, models: Value| json!({"type": "openai", "base_url": upstream.v1(), "models": models});
    let gateway = Setup::new()
        .models(&json!({"providers": {
        "broken": provider(&broken, json!({"m": {"priority": 1}})),
        "good": provider(&good, json!({"m": {"priority": 2}, "late": {"priority": 2}})),
        "cut": provider(&cut, json!({"late": {"priority": 1}}))}}))
        .start();

    let response = gateway.post("/api/chat", &asked()).send().await.unwrap();
    assert_eq!(
        (&response.headers()["x-llm-provider"], &response.headers()["x-llm-attempts"]),
        (&"good".parse().unwrap(), &"2".parse().unwrap())
    );
    assert_eq!(Events::of(response).rest().await, [ROLE, WORD, END, "[DONE]"]);

    let mut late = asked();
    late["model"] = json!("late");
    let events = events_of(gateway.post("/api/chat", &late)).await;
    assert!(events.last().unwrap()["error"].is_object(), "after content nobody takes over: {events:?}");
    assert_eq!(good.seen().len(), 1);
}

#[tokio::test]
async fn a_slow_beginning_is_bridged_by_signs_of_life() {
    // The first comment is due after 15 s, before any head of the upstream.
    let gateway = Setup::new().start();
    let mut slow = asked();
    slow["model"] = json!("echo");
    slow["echo"] = json!({"first_delay_ms": 16_000});
    let started = Instant::now();
    let mut events = Events::of(gateway.post("/api/chat", &slow).send().await.unwrap());
    assert_eq!(events.next().await.unwrap(), ": keep-alive");
    assert!(started.elapsed() > Duration::from_secs(14));
    let rest = events.rest().await;
    assert_eq!(rest.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_long_line_is_refused_and_not_gathered() {
    let endless = format!("data: {{\"x\":\"{}", "y".repeat(24 * 1024 * 1024));
    let (_upstream, gateway) =
        gateway(vec![sse(&[ROLE, WORD]), Step::Send(endless.into_bytes()), Step::Hold]).await;
    let events = events_of(gateway.post("/api/chat", &asked())).await;
    assert_eq!(events.last().unwrap()["error"]["code"], "upstream_protocol");
}

#[tokio::test]
async fn streams_pass_over_a_plain_connection_in_chunks() {
    // As the bytes stand on the wire, for a client that knows HTTP/1.1 and nothing else.
    let (_upstream, gateway) =
        gateway(vec![Step::Send(fixture("openai/chat_stream_usage")), Step::Close]).await;
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(&client::post("/api/chat", &asked())).await;
    let text = connection.until("\r\n0\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("transfer-encoding: chunked"));
    assert!(text.contains("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_stream_leaves_its_connection_to_the_next() {
    let chunk = |event: &str| format!("{:x}\r\ndata: {event}\n\n\r\n", event.len() + 8);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let stream = [head, &chunk(WORD), &chunk(END), &chunk("[DONE]")].concat();
    for pause in [Duration::ZERO, Duration::from_millis(100)] {
        // What ends the answer for HTTP comes with its last event, or later.
        let end = Step::Send(b"0\r\n\r\n".to_vec());
        let steps = vec![Step::Send(stream.clone().into_bytes()), Step::Pause(pause), end];
        let (upstream, gateway) = gateway(steps).await;
        for _ in 0..3 {
            let events = events_of(gateway.post("/api/chat", &asked())).await;
            assert_eq!(events.last().unwrap(), "[DONE]");
            tokio::time::sleep(pause * 2).await;
        }
        let connections: Vec<usize> = upstream.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(connections, [0, 0, 0]);
    }
}

#[tokio::test]
async fn silence_before_the_first_content_is_no_stall() {
    let slow = |beginning: Step| {
        vec![
            beginning,
            Step::Pause(Duration::from_millis(1500)),
            data(WORD),
            data(END),
            data("[DONE]"),
            Step::Close,
        ]
    };
    let comment = Step::Send(b": processing\n\n".to_vec());
    let mut lively = vec![sse(&[ROLE, WORD])];
    for _ in 0..5 {
        lively.extend([Step::Pause(Duration::from_millis(400)), comment.clone()]);
    }
    lively.extend([data(END), data("[DONE]"), Step::Close]);
    for steps in [slow(sse(&[ROLE])), slow(sse(&[])), lively] {
        let upstream = Upstream::start(move |_| steps.clone()).await;
        // A llama-server is asked for a stream in any case.
        for kind in ["openai", "llamacpp"] {
            let gateway = Setup::upstream(kind, &upstream.v1(), &["m"]).env("STALL_TIMEOUT", "1").start();
            let events = events_of(gateway.post("/api/chat", &asked())).await;
            assert_eq!(events.last().unwrap(), "[DONE]", "{events:?}");
            if kind == "llamacpp" {
                let mut whole = asked();
                whole["stream"] = json!(false);
                let (status, answer) = gateway.ask("/api/chat", &whole).await;
                assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!("word ")));
            }
        }
    }
}
