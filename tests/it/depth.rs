//! JSON that is nested deeply ends programs that read it by recursion: servers behind the gateway, clients before it.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, answer, json as json_answer, sse};

/// Lists within each other, as text.
fn nested(depth: usize) -> String {
    format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
}

fn objects(depth: usize) -> String {
    format!("{}1{}", r#"{"properties":"#.repeat(depth), "}".repeat(depth))
}

async fn sent(gateway: &Gateway, path: &str, body: String) -> (u16, Value) {
    let request = gateway.http().post(format!("{}{path}", gateway.base()));
    answer(request.header("content-type", "application/json").body(body)).await
}

fn whole() -> Value {
    json!({"id": "c", "object": "chat.completion", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    ]})
}

/// An answer whose JSON is this text.
fn raw(text: &str) -> Step {
    let length = text.len();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
    Step::Send(format!("{head}: {length}\r\n\r\n{text}").into_bytes())
}

/// A chat whose `place` is taken by `value`.
fn chat(place: &str, value: &str) -> String {
    let user = r#"{"role":"user","content":"Hi"}"#;
    match place {
        "content" => format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"x","y":{value}}}]}}]}}"#
        ),
        "message" => {
            format!(
                r#"{{"model":"m","messages":[{{"role":"user","content":"{}","y":{value}}}]}}"#,
                "[".repeat(2000)
            )
        }
        member => format!(r#"{{"model":"m","messages":[{user}],"{member}":{value}}}"#),
    }
}

#[tokio::test]
async fn a_request_that_is_nested_too_deeply_reaches_no_upstream() {
    let upstream = Upstream::answering(json_answer(200, "", &whole())).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let mut bodies = Vec::new();
    for (place, value) in [
        ("response_format", objects(4000)),
        ("response_format", format!(r#"{{"schema":{}}}"#, objects(130))),
        ("chat_template_kwargs", nested(100_000)),
        ("unknown", nested(129)),
        ("unknown", format!("{}1{}", "[\n\t".repeat(150), " ]".repeat(150))),
        ("tools", format!("[{}]", objects(200))),
        ("tool_choice", objects(300)),
        ("stop", nested(200)),
        ("content", nested(1000)),
        ("message", nested(140)),
        ("logit_bias", format!(r#"{{"]]]]]]\\":{}}}"#, objects(128))),
    ] {
        bodies.push(("/v1/chat/completions", chat(place, &value)));
        bodies.push(("/api/chat", chat(place, &value)));
    }
    let deep = nested(5000);
    bodies.extend([
        ("/v1/embeddings", format!(r#"{{"model":"m","input":"x","y":{deep}}}"#)),
        ("/v1/completions", format!(r#"{{"model":"m","prompt":"x","y":{deep}}}"#)),
        (
            "/api/conversation_with_model",
            format!(r#"{{"model_name":"m","user_last_statement":"x","variables":{{"y":{deep}}}}}"#),
        ),
        (
            "/api/extended_conversation_with_model",
            format!(r#"{{"model_name":"m","user_last_statement":"x","y":{deep}}}"#),
        ),
        ("/api/explain", chat("unknown", &deep)),
        ("/api/tokenize/count", format!(r#"{{"model":"m","input":"x","tools":{deep}}}"#)),
        ("/api/translate", format!(r#"{{"model_name":"m","text":"x","y":{deep}}}"#)),
        ("/api/passthrough/up/v1/x", format!("  \n{deep}")),
        ("/api/passthrough", format!(r#"{{"provider":"up","method":"POST","path":"/v1/x","body":{deep}}}"#)),
    ]);
    for (path, body) in bodies {
        let begin: String = body.chars().take(150).collect();
        let (status, error) = sent(&gateway, path, body).await;
        assert_eq!(
            (status, &error["error"]["code"]),
            (400, &json!("invalid_json")),
            "{path} {begin} {error}"
        );
    }
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn brackets_in_texts_and_many_shallow_lists_pass() {
    let upstream = Upstream::answering(json_answer(200, "", &whole())).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let tool = format!(r#"{{"type":"function","function":{{"name":"f","parameters":{}}}}}"#, objects(100));
    for body in [
        chat("tools", &format!("[{}]", vec![tool; 20].join(","))),
        chat("unknown", &nested(127)),
        chat("message", "\"{{{{\""),
        chat("stop", &format!(r#"["{}\\\"["]"#, "[".repeat(500))),
    ] {
        let (status, error) = sent(&gateway, "/v1/chat/completions", body.clone()).await;
        assert_eq!(status, 200, "{body} {error}");
        assert_eq!(upstream.seen().last().unwrap().body, body.into_bytes(), "it went on unchanged");
    }
}

#[tokio::test]
async fn an_answer_that_is_nested_too_deeply_reaches_no_caller() {
    let deep = nested(200_000);
    let whole = whole().to_string().replacen('{', &format!(r#"{{"x":{deep},"#), 1);
    let list = format!(
        r#"{{"object":"list","data":[{{"index":0,"embedding":[1.0],"y":{}}}],"model":"m"}}"#,
        nested(150)
    );
    let chunk = format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"a"}},"x":{}}}]}}"#, objects(160));
    let first = r#"{"choices":[{"index":0,"delta":{"content":"first"}}]}"#;
    let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let stream = sse(&[first, &chunk, end, "[DONE]"]);
    let upstream = Upstream::start(move |seen| {
        let asked: Value = seen.json();
        match (seen.path.as_str(), &asked["stream"]) {
            ("/v1/embeddings", _) => vec![raw(&list)],
            (_, Value::Bool(true)) => vec![stream.clone(), Step::Close],
            _ => vec![raw(&whole)],
        }
    })
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["chat", "embed", "stream"]).start();

    // A model each: a failed deployment cools down.
    let asked = |model| json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
    let (status, error) = gateway.ask("/v1/chat/completions", &asked("chat")).await;
    assert_eq!((status, &error["error"]["code"]), (502, &json!("upstream_protocol")), "{error}");
    let (status, error) = gateway.ask("/v1/embeddings", &json!({"model": "embed", "input": "x"})).await;
    assert_eq!((status, &error["error"]["code"]), (502, &json!("upstream_protocol")), "{error}");

    let response = gateway.post("/api/chat", &asked("stream")).send().await.unwrap();
    let text = response.text().await.unwrap();
    assert!(text.contains("first") && text.contains("upstream_protocol"), "{text}");
    assert!(!text.contains("properties") && !text.contains("[DONE]"), "{text}");
}
