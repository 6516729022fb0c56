//! What raw requests use: set aside before, read from what passes, noted however they end, and not a byte of it changed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Events, Gateway, Setup, Step, Upstream, answer, eventually, json};

const ADMIN: &str = "an-admin-key-of-some-length";

/// A provider `up` at this server, with the model `public`, which it calls `real`.
fn setup(upstream: &Upstream, limits: &Value) -> Setup {
    let provider =
        json!({"type": "openai", "base_url": upstream.v1(), "models": {"public": {"upstream": "real"}}});
    let prices = json!({"prices": [{"model": "real", "input": 1.0, "output": 2.0}]});
    Setup::new()
        .models(&json!({"providers": {"up": provider}, "limits": limits, "prices": "prices.json"}))
        .file("prices.json", &prices.to_string())
        .env("LOG_FORMAT", "json")
}

/// What the line of the last of so many requests says: model, tokens of both kinds, who counted, and how it ended.
async fn noted(gateway: &Gateway, count: usize) -> Value {
    let lines = || {
        let all = gateway.log();
        let lines = all.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == "Request").collect::<Vec<_>>()
    };
    eventually("it is written", async || lines().len() >= count).await;
    let line = lines().pop().unwrap();
    json!([
        line["gen_ai.request.model"],
        line["gen_ai.usage.input_tokens"],
        line["gen_ai.usage.output_tokens"],
        line["usage_source"],
        line["outcome"]
    ])
}

fn with_head(kind: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{body}").into_bytes()
}

/// Asks at this path, and returns the text of the answer.
async fn asked(gateway: &Gateway, path: &str, body: &Value) -> String {
    gateway.post(&format!("/api/passthrough/up{path}"), body).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn usage_is_read_from_every_form_and_no_byte_is_changed() {
    let cases = [
        (
            "/v1/chat/completions",
            "application/json",
            "{\"choices\":[{\"message\":{\"content\":\"zażółć\"}}],\n \"usage\": {\"prompt_tokens\": 11, \"completion_tokens\": 22}}",
            json!(["public", 11, 22, "provider", "completed"]),
        ),
        (
            "/v1/chat/completions",
            "text/event-stream",
            "data: {\"choices\":[{\"delta\":{\"content\":\"ż\"}}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n",
            json!(["public", 3, 1, "provider", "completed"]),
        ),
        (
            "/api/chat",
            "application/x-ndjson",
            "{\"message\":{\"content\":\"a\"},\"done\":false}\n{\"done\":true,\"prompt_eval_count\":5,\"eval_count\":6}\n",
            json!(["public", 5, 6, "provider", "completed"]),
        ),
        (
            "/v1/embeddings",
            "application/json",
            "{\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8},\"data\":[{\"embedding\":[0.25]}]}",
            json!(["public", 8, 0, "provider", "completed"]),
        ),
    ];
    for (path, kind, body, expected) in cases {
        for step in [Step::Send(with_head(kind, body)), Step::ByteWise(with_head(kind, body))] {
            let upstream = Upstream::start(move |_| vec![step.clone(), Step::Close]).await;
            let gateway = setup(&upstream, &json!({})).start();
            assert_eq!(asked(&gateway, path, &json!({"model": "real", "input": "x"})).await, body, "{path}");
            assert_eq!(noted(&gateway, 1).await, expected, "{path} as {kind}");
        }
    }
}

#[tokio::test]
async fn what_nobody_counts_is_estimated_where_something_is_generated() {
    let events = "data: {\"a\":1}\n\ndata: {\"b\":2}\n\ndata: [DONE]\n\n";
    let upstream = Upstream::start(move |seen| {
        let steps = |bytes: Vec<u8>| vec![Step::Send(bytes), Step::Close];
        match seen.path.as_str() {
            "/v1/chat/completions" => steps(with_head("text/event-stream", events)),
            "/v1/completions" => vec![json(200, "", &json!({"text": "x".repeat(29)}))],
            "/packed/completions" => {
                let head =
                    b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\ncontent-encoding: zstd\r\n\r\n".as_slice();
                steps([head, b"\x28\xb5\x2f\xfd\x04\x00"].concat())
            }
            "/v1/failing/completions" => vec![json(400, "", &json!({"usage": {"prompt_tokens": 1}}))],
            _ => vec![json(200, "", &json!({"usage": {"prompt_tokens": 1}}))],
        }
    });
    let upstream = upstream.await;
    let gateway = setup(&upstream, &json!({})).start();
    // 16 bytes.
    let body = json!({"model": "real"});

    asked(&gateway, "/v1/chat/completions", &body).await;
    assert_eq!(noted(&gateway, 1).await, json!(["public", 4, 2, "estimated", "completed"]));
    asked(&gateway, "/v1/completions", &body).await;
    assert_eq!(noted(&gateway, 2).await, json!(["public", 4, 10, "estimated", "completed"]));
    gateway
        .post("/api/passthrough/up/packed/completions", &body)
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(noted(&gateway, 3).await, json!(["public", null, null, null, "failed"]), "it cannot be read");
    asked(&gateway, "/v1/failing/completions", &body).await;
    assert_eq!(noted(&gateway, 4).await, json!(["public", null, null, null, "failed"]));
    gateway.get("/api/passthrough/up/v1/files").send().await.unwrap().bytes().await.unwrap();
    assert_eq!(noted(&gateway, 5).await, json!([null, null, null, null, "completed"]));

    let asks_for_plain_bytes =
        |seen: &crate::support::upstream::Seen| seen.header("accept-encoding") == Some("identity");
    assert!(upstream.seen().iter().all(asks_for_plain_bytes), "what is packed cannot be read");
    let tokens = gateway.figure("llm_proxy_tokens_total", "model=\"public\"").await;
    assert!(tokens >= 20.0, "they are among the figures: {tokens}");
}

#[tokio::test]
async fn what_has_passed_counts_when_the_caller_leaves_and_when_the_server_breaks_off() {
    let three = "data: {\"a\":1}\n\ndata: {\"a\":2}\n\ndata: {\"a\":3}\n\n";
    let mut upstream = Upstream::start(move |seen| match seen.path.as_str() {
        "/v1/chat/completions" => vec![Step::Send(with_head("text/event-stream", three)), Step::Hold],
        _ => vec![
            Step::Send(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 999\r\n\r\n".to_vec(),
            ),
            Step::Send(three.as_bytes().to_vec()),
            Step::Pause(Duration::from_millis(50)),
            Step::Reset,
        ],
    })
    .await;
    let gateway = setup(&upstream, &json!({})).start();
    let body = json!({"model": "real"});

    let request = gateway.post("/api/passthrough/up/v1/chat/completions", &body);
    let mut events = Events::of(request.send().await.unwrap());
    for _ in 0..3 {
        events.next().await.unwrap();
    }
    drop(events);
    upstream.left().await;
    assert_eq!(noted(&gateway, 1).await, json!(["public", 4, 3, "estimated", "cancelled"]));

    let broken = gateway.post("/api/passthrough/up/v1/responses", &body).send().await.unwrap();
    assert!(broken.bytes().await.is_err());
    let line = noted(&gateway, 2).await;
    assert_eq!((&line[1], &line[2], &line[3]), (&json!(4), &json!(3), &json!("estimated")));
}

#[tokio::test]
async fn limits_hold_for_raw_requests() {
    let upstream = Upstream::answering(json(200, "", &json!({"usage": {"prompt_tokens": 1}}))).await;
    let gateway = setup(&upstream, &json!({"gateway": {"requests_per_minute": 2}})).start();
    for _ in 0..2 {
        assert_eq!(gateway.ask("/api/passthrough/up/v1/embeddings", &json!({"model": "real"})).await.0, 200);
    }
    let wrapped = json!({"provider": "up", "method": "GET", "path": "/v1/files"});
    for request in [gateway.post("/api/passthrough", &wrapped), gateway.get("/api/passthrough/up/v1/files")] {
        let (status, refused) = answer(request).await;
        assert_eq!((status, &refused["error"]["code"]), (429, &json!("rate_limit_exceeded")), "{refused}");
    }
    assert_eq!(upstream.seen().len(), 2, "nobody else was asked");
}

#[tokio::test]
async fn what_a_raw_request_may_use_is_set_aside_until_it_has_ended() {
    let upstream = Upstream::start(|seen| match seen.json()["max_tokens"].as_u64() {
        Some(250) => vec![Step::Send(with_head("text/event-stream", "data: {}\n\n")), Step::Hold],
        _ => vec![json(200, "", &json!({"usage": {"prompt_tokens": 1}}))],
    })
    .await;
    let gateway = setup(&upstream, &json!({"models": {"public": {"tokens_per_minute": 300}}})).start();
    let path = "/api/passthrough/up/v1/chat/completions";
    let body = |most: u64| json!({"model": "real", "max_tokens": most});

    let mut first = Events::of(gateway.post(path, &body(250)).send().await.unwrap());
    first.next().await.unwrap();
    let (status, refused) = gateway.ask(path, &body(100)).await;
    assert_eq!((status, &refused["error"]["code"]), (429, &json!("rate_limit_exceeded")), "{refused}");
    let elsewhere = json!({"model": "another", "max_tokens": 100});
    assert_eq!(gateway.ask(path, &elsewhere).await.0, 200, "it is a limit of one model");
    drop(first);
    eventually("it is free again", async || gateway.ask(path, &body(100)).await.0 == 200).await;
}

/// Asks with a key whose budget of so many tokens ends answers, and returns the text of the answer.
async fn asked_within(gateway: &Gateway, tokens: u64, path: &str, body: &Value) -> String {
    let budget = json!({"tokens": tokens, "period": "day", "cut_off": true});
    let made = gateway
        .post("/admin/keys", &json!({"name": "k", "budget": budget, "allowed_endpoints": ["*"]}))
        .header("x-admin-key", ADMIN);
    let key = answer(made).await.1["key"].as_str().unwrap().to_owned();
    let asked = gateway.post(&format!("/api/passthrough/up{path}"), body).bearer_auth(key);
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

#[tokio::test]
async fn a_budget_ends_raw_streams_whose_end_is_known() {
    let chat = |word: &str| {
        format!(
            "{{\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":5,\"model\":\"real\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word}\"}},\"finish_reason\":null}}]}}"
        )
    };
    let (unix, windows) =
        (format!("data: {}\n\n", chat("ż ")), format!("event: x\r\ndata: {}\r\n\r\n", chat("ż ")));
    let text =
        "data: {\"object\":\"text_completion\",\"choices\":[{\"index\":0,\"text\":\"a\"}]}\n\n".to_owned();
    let body = json!({"model": "real", "stream": true, "input": "0123456789"});
    for (path, event, is_bytewise) in [
        ("/v1/chat/completions", unix.clone(), false),
        ("/v1/chat/completions", format!(": keep-alive\n\n{unix}"), true),
        ("/v1/chat/completions", windows, true),
        ("/v1/completions", text, false),
    ] {
        let all = with_head("text/event-stream", &event.repeat(60));
        let step = if is_bytewise { Step::ByteWise(all) } else { Step::Send(all) };
        let mut upstream = Upstream::start(move |_| vec![step.clone(), Step::Hold]).await;
        let gateway = setup(&upstream, &json!({})).env("AUTH", "keys").env("ADMIN_KEY", ADMIN).start();
        let told = asked_within(&gateway, 40, path, &body).await;
        if !is_bytewise {
            // It would be told of nothing but a hold.
            upstream.left().await;
        }

        let passed = told.matches(event.as_str()).count();
        let rest = told.get(event.repeat(passed).len()..).unwrap();
        let end: Vec<&str> = rest.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let [last, done] = end.as_slice() else { panic!("{path}: {rest}") };
        let last: Value = serde_json::from_str(last).unwrap();
        assert_eq!(
            (*done, &last["choices"][0]["finish_reason"]),
            ("[DONE]", &json!("length")),
            "{path}: {told}"
        );
        if path.contains("chat") {
            assert_eq!((&last["id"], &last["object"]), (&json!("c-1"), &json!("chat.completion.chunk")));
        } else {
            assert_eq!(last["object"], "text_completion");
        }
        let line = noted(&gateway, 2).await;
        assert_eq!((&line[4], &line[2]), (&json!("cut"), &json!(passed)), "{path}: {line}");
        assert_eq!(line[1].as_u64().unwrap() + line[2].as_u64().unwrap(), 40, "{path}: {line}");
    }
}

#[tokio::test]
async fn a_raw_stream_that_ends_within_its_budget_or_has_another_form_is_left_alone() {
    let chunk = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    let short = format!("{}data: [DONE]\n\n", chunk.repeat(3));
    let unended = format!("{chunk}data: {{\"error\"");
    let other = "event: response.output_text.delta\ndata: {\"delta\":\"a\"}\n\n".repeat(60);
    let lines = "{\"message\":{\"content\":\"a\"},\"done\":false}\n".repeat(60);
    for (kind, text) in [
        ("text/event-stream", short),
        ("text/event-stream", unended),
        ("text/event-stream", other),
        ("application/x-ndjson", lines),
    ] {
        let all = with_head(kind, &text);
        let upstream = Upstream::start(move |_| vec![Step::Send(all.clone()), Step::Close]).await;
        let gateway = setup(&upstream, &json!({})).env("AUTH", "keys").env("ADMIN_KEY", ADMIN).start();
        let body = json!({"model": "real"});
        assert_eq!(asked_within(&gateway, 40, "/v1/chat/completions", &body).await, text, "{kind}");
        assert_eq!(noted(&gateway, 2).await[4], "completed");
    }
}
