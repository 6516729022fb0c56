//! Answers in every shape that servers give them: read by their bytes, with what can be read of them, and the reason of
//! every failure kept.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, answer, events_of, sse};

const CHAT: &str = "/v1/chat/completions";

fn asked(more: &Value) -> Value {
    let mut body = json!({"model": "m", "stream": false, "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn whole(more: &str) -> String {
    format!(
        r#"{{"id":"c1","object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant","content":"Hello"}},"finish_reason":"stop"}}]{more}}}"#
    )
}

fn chunk(delta: &str, finish_reason: &str) -> String {
    format!(
        r#"{{"id":"c1","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish_reason}}}]}}"#
    )
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn bytes(status: u16, headers: &str, body: &[u8]) -> Step {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
    Step::Send([head.as_bytes(), body].concat())
}

async fn gateway(kind: &str, steps: Vec<Step>) -> (Upstream, Gateway) {
    let upstream = Upstream::start(move |_| steps.clone()).await;
    let url = if kind == "ollama" { upstream.url() } else { upstream.v1() };
    let gateway = Setup::upstream(kind, &url, &["m"]).start();
    (upstream, gateway)
}

#[tokio::test]
async fn a_compressed_answer_is_read_by_its_bytes() {
    let plain = whole("");
    let text = plain.as_bytes();
    for (headers, body) in [
        ("content-encoding: gzip\r\n", gzip(text)),
        ("content-encoding: deflate\r\n", zlib(text)),
        ("content-encoding: deflate\r\n", gzip(text)),
        ("content-encoding: gzip\r\n", text.to_vec()),
        ("content-encoding: br\r\ncontent-type: text/html\r\n", text.to_vec()),
    ] {
        let (_upstream, gateway) = gateway("openai", vec![bytes(200, headers, &body)]).await;
        let (status, answer) = gateway.ask(CHAT, &asked(&json!({}))).await;
        assert_eq!(
            (status, &answer["choices"][0]["message"]["content"]),
            (200, &json!("Hello")),
            "{headers}"
        );
        let raw = gateway.post("/api/passthrough/up/v1/x", &json!({})).send().await.unwrap();
        assert!(raw.headers().get("content-encoding").is_none());
        assert_eq!(raw.text().await.unwrap(), plain, "{headers}");
    }
}

#[tokio::test]
async fn a_compressed_stream_passes_event_by_event() {
    let events = [chunk(r#"{"content":"Hello"}"#, "null"), chunk("{}", "\"stop\""), "[DONE]".to_owned()];
    let text: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let body = gzip(text.as_bytes());
    let labels = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    let (_upstream, gateway) = gateway("openai", vec![bytes(200, labels, &body)]).await;
    let seen = events_of(gateway.post(CHAT, &asked(&json!({"stream": true})))).await;
    assert_eq!(seen.len(), 3);
    assert_eq!((&seen[0]["choices"][0]["delta"]["content"], &seen[2]), (&json!("Hello"), &json!("[DONE]")));
}

#[tokio::test]
async fn a_compression_that_is_not_known_is_a_failure_of_the_upstream() {
    let zstd = b"\x28\xb5\x2f\xfd\x04\x00\x29\x00";
    let (_upstream, gateway) = gateway("openai", vec![bytes(200, "content-encoding: zstd\r\n", zstd)]).await;
    let (status, error) = gateway.ask(CHAT, &asked(&json!({}))).await;
    assert_eq!((status, &error["error"]["code"]), (502, &json!("upstream_protocol")), "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("compressed"), "{error}");
    let (status, error) = gateway.ask("/api/passthrough/up/v1/x", &json!({})).await;
    assert_eq!((status, &error["error"]["code"]), (502, &json!("upstream_protocol")), "{error}");
}

#[tokio::test]
async fn the_reason_of_a_refusal_is_kept_whatever_it_is_packed_in() {
    let reason = r#"[{"error":{"message":"reason-a"}}]"#.as_bytes();
    let long = format!(
        r#"{{"detail":[{{"loc":["body","n"],"msg":"reason-a","input":"{}"}}]}}"#,
        "x".repeat(2 << 20)
    );
    for (headers, body) in [
        ("content-encoding: gzip\r\n", gzip(reason)),
        // Without a label.
        ("", gzip(reason)),
        ("content-encoding: gzip\r\n", reason.to_vec()),
        ("content-encoding: gzip\r\n", gzip(long.as_bytes())),
        ("content-type: text/plain\r\n", long.into_bytes()),
        ("", [b"\xEF\xBB\xBF", reason].concat()),
    ] {
        let (_upstream, gateway) = gateway("openai", vec![bytes(422, headers, &body)]).await;
        let (status, error) = gateway.ask(CHAT, &asked(&json!({}))).await;
        let message = error["error"]["message"].as_str().unwrap();
        assert!(status == 422 && message.ends_with("reason-a"), "{headers}: {error}");
    }
    let (_upstream, gateway) =
        gateway("openai", vec![bytes(400, "content-encoding: br\r\n", b"\x1b\x0a\x00")]).await;
    let (status, error) = gateway.ask(CHAT, &asked(&json!({}))).await;
    assert_eq!(
        (status, error["error"]["message"].as_str().unwrap()),
        (400, "the provider answered with status 400")
    );
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_keeps_message_type_and_code() {
    let first = chunk(r#"{"content":"Hel"}"#, "null");
    for (error, message, kind, code) in [
        (
            r#"{"error":{"message":"lost provider-key-1","type":"server_error","code":"overloaded"}}"#,
            "lost [redacted]",
            "server_error",
            "overloaded",
        ),
        (
            r#"{"error":{"code":502,"message":"Provider disconnected"}}"#,
            "Provider disconnected",
            "upstream_error",
            "502",
        ),
        (r#"{"error":"gone"}"#, "gone", "upstream_error", "upstream_protocol"),
    ] {
        let (_upstream, gateway) =
            gateway("openai", vec![sse(&[&first, error, "[DONE]"]), Step::Close]).await;
        let seen = events_of(gateway.post(CHAT, &asked(&json!({"stream": true})))).await;
        assert_eq!(seen.len(), 2, "{seen:?}");
        let told = &seen[1]["error"];
        assert_eq!(
            (&told["message"], &told["type"], &told["code"]),
            (&json!(message), &json!(kind), &json!(code)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_known_in_the_place_of_an_answer_too() {
    let error = r#"{"error":{"message":"prompt is too long: 9000 tokens > 8192 maximum","type":"invalid_request_error"}}"#;
    for (steps, stream) in [
        (vec![sse(&[error]), Step::Close], true),
        (vec![sse(&[error]), Step::Close], false),
        (vec![bytes(200, "", error.as_bytes())], false),
        (vec![bytes(400, "", error.as_bytes())], true),
    ] {
        let (_upstream, gateway) = gateway("openai", steps).await;
        let (status, error) = gateway.ask(CHAT, &asked(&json!({"stream": stream}))).await;
        assert_eq!((status, &error["error"]["code"]), (400, &json!("context_length_exceeded")), "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains("9000"), "{error}");
    }
}

#[tokio::test]
async fn a_count_that_the_provider_leaves_out_is_estimated_in_what_the_caller_sees() {
    let line = r#"{"message":{"content":"Hello"},"done":true,"done_reason":"stop","eval_count":7}"#;
    let (_upstream, gateway) = gateway("ollama", vec![bytes(200, "", line.as_bytes())]).await;
    let (status, answer) = gateway.ask(CHAT, &asked(&json!({}))).await;
    let counts = |usage: &Value| {
        let count = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("{name}: {usage}"));
        let (prompt, completion) = (count("prompt_tokens"), count("completion_tokens"));
        assert_eq!(count("total_tokens"), prompt + completion);
        (prompt > 0, completion)
    };
    assert_eq!((status, counts(&answer["usage"])), (200, (true, 7)));
    let with_usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    let seen = events_of(gateway.post(CHAT, &asked(&with_usage))).await;
    assert_eq!(counts(&seen[seen.len() - 2]["usage"]), (true, 7), "{seen:?}");
    let seen = events_of(gateway.post(CHAT, &asked(&json!({"stream": true})))).await;
    assert!(seen.iter().all(|event| event.get("usage").is_none()), "{seen:?}");
}

#[tokio::test]
async fn a_server_of_ollama_that_always_streams_is_understood() {
    let lines = "\u{feff}{\"message\":{\"content\":\"Hel\"},\"done\":false}\n{\"message\":{\"content\":\"lo\"},\"done\":true}\n";
    let (_upstream, gateway) = gateway("ollama", vec![bytes(200, "", lines.as_bytes())]).await;
    for stream in [false, true] {
        let request = gateway.post(
            "/api/conversation_with_model",
            &json!({"model_name": "m", "user_last_statement": "x", "stream": stream}),
        );
        let text = request.send().await.unwrap().text().await.unwrap();
        let is_there =
            if stream { text.contains("Hel") && text.contains("[DONE]") } else { text.contains("Hello") };
        assert!(is_there, "{text}");
    }
}

#[tokio::test]
async fn odd_json_is_read_everywhere_or_is_a_fault_of_the_upstream() {
    for (content, expected) in [(r"a\ud83d", "a\u{fffd}"), ("a\tb", "a\tb"), (r"\ud83d\ude00", "\u{1f600}")] {
        let body = format!(
            "\u{feff}{{\"choices\":[{{\"message\":{{\"content\":\"{content}\"}},\"logprobs\":[-Infinity],\"finish_reason\":\"stop\"}}],\"x\":1e400}}"
        );
        let (_upstream, gateway) = gateway("openai", vec![bytes(200, "", body.as_bytes())]).await;
        let facade = json!({"model_name": "m", "user_last_statement": "x", "stream": false});
        let (status, answer) = gateway.ask("/api/conversation_with_model", &facade).await;
        assert_eq!((status, &answer["response"]), (200, &json!(expected)));
        let (status, answer) = gateway.ask(CHAT, &asked(&json!({}))).await;
        assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!(expected)));
        let asked = json!({"model_name": "m", "texts": ["a"], "target_language": "pl"});
        let (status, answer) = gateway.ask("/api/translate", &asked).await;
        assert!(status == 200 && answer.to_string().contains(&json!(expected).to_string()), "{answer}");
    }
    let deep = whole(&format!(r#","x":{}{}"#, "[".repeat(200), "]".repeat(200)));
    let not_utf_8 = [whole("").trim_end_matches('}').as_bytes(), b",\"x\":\"caf\xE9\"}"].concat();
    for body in [deep.into_bytes(), not_utf_8] {
        let (_upstream, gateway) = gateway("openai", vec![bytes(200, "", &body)]).await;
        for (path, body) in [
            (CHAT, asked(&json!({}))),
            (
                "/api/conversation_with_model",
                json!({"model_name": "m", "user_last_statement": "x", "stream": false}),
            ),
        ] {
            let (status, error) = answer(gateway.post(path, &body)).await;
            assert_eq!((status, &error["error"]["code"]), (502, &json!("upstream_protocol")), "{error}");
        }
    }
}
