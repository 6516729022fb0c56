//! Recorded answers of real servers, replayed whole and one byte at a time.

use serde_json::{Value, json};

use crate::support::{Events, Gateway, Setup, Step, Upstream, fixture, json};

/// Both ways in which a recorded answer may arrive.
fn ways(name: &str) -> [Step; 2] {
    [Step::Send(fixture(name)), Step::ByteWise(fixture(name))]
}

async fn replay(kind: &str, step: Step) -> (Upstream, Gateway) {
    let upstream = Upstream::start(move |_| vec![step.clone(), Step::Close]).await;
    let base = if kind == "ollama" { upstream.url() } else { upstream.v1() };
    let gateway = Setup::upstream(kind, &base, &["m"]).start();
    (upstream, gateway)
}

fn asked(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
}

/// The JSON of a recorded whole answer.
fn body_of(name: &str) -> Value {
    let text = String::from_utf8(fixture(name)).unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The events of a recorded stream: what stands behind `data: `, or every line of JSON.
fn recorded_events(name: &str) -> Vec<Value> {
    let text = String::from_utf8(fixture(name)).unwrap();
    let lines = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    lines.filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn streamed(gateway: &Gateway, body: &Value) -> Vec<Value> {
    let events = Events::of(gateway.post("/api/chat", body).send().await.unwrap()).rest().await;
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]", "{events:?}");
    chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect()
}

fn text_of(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn whole_answers_of_openai_servers_come_back_as_they_are() {
    for (kind, name) in [
        ("openai", "openai/chat"),
        ("openai", "openai/chat_length"),
        ("openai", "openai/chat_logprobs"),
        ("openai", "openai/chat_n2"),
        ("openai", "openai/chat_json_schema"),
        ("openai", "openai/chat_tools_required"),
        ("vllm", "vllm/chat"),
        ("vllm", "vllm/chat_logprobs"),
        ("vllm", "vllm/chat_tools_required"),
    ] {
        for step in ways(name) {
            let (_upstream, gateway) = replay(kind, step).await;
            let (status, answer) = gateway.ask("/api/chat", &asked(false)).await;
            assert_eq!((status, &answer), (200, &body_of(name)), "{name}");
            let tokens = answer["usage"]["completion_tokens"].as_f64().unwrap();
            assert_eq!(
                gateway.figure("llm_proxy_tokens_total", "direction=\"output\"").await,
                tokens,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn streams_of_openai_servers_come_back_event_by_event() {
    for (kind, name) in [
        ("openai", "openai/chat_stream_usage"),
        ("openai", "openai/chat_stream_n2"),
        ("openai", "openai/chat_tools_stream"),
        ("vllm", "vllm/chat_stream"),
        ("vllm", "vllm/chat_stream_usage"),
        ("vllm", "vllm/chat_stream_n2"),
        ("vllm", "vllm/chat_tools_stream"),
        ("vllm", "vllm/chat_stream_continuous_usage"),
        ("llamacpp", "llamacpp/chat_stream"),
        ("llamacpp", "llamacpp/chat_stream_usage"),
        ("llamacpp", "llamacpp/chat_stream_length"),
        ("llamacpp", "llamacpp/chat_stream_n2"),
        ("llamacpp", "llamacpp/chat_tools_stream"),
        ("llamacpp", "llamacpp/chat_timings_per_token"),
    ] {
        let all = recorded_events(name);
        let is_usage_only = |event: &Value| event["choices"] == json!([]) && event["usage"].is_object();
        let shown: Vec<Value> = all.iter().filter(|event| !is_usage_only(event)).cloned().collect();
        for step in ways(name) {
            let (_upstream, gateway) = replay(kind, step).await;
            assert_eq!(streamed(&gateway, &asked(true)).await, shown, "{name}");
            let mut wants = asked(true);
            wants["stream_options"] = json!({"include_usage": true});
            assert_eq!(streamed(&gateway, &wants).await, all, "{name}");
        }
    }
}

#[tokio::test]
async fn legacy_completions_come_back_too() {
    for (kind, name) in [("openai", "openai/completions"), ("vllm", "vllm/completions")] {
        let (_upstream, gateway) = replay(kind, Step::Send(fixture(name))).await;
        let (status, answer) = gateway.ask("/v1/completions", &json!({"model": "m", "prompt": "x"})).await;
        assert_eq!((status, answer), (200, body_of(name)));
    }
    for (kind, name) in [
        ("openai", "openai/completions_stream"),
        ("vllm", "vllm/completions_stream"),
        ("llamacpp", "llamacpp/completions_stream"),
    ] {
        for step in ways(name) {
            let (_upstream, gateway) = replay(kind, step).await;
            let body = json!({"model": "m", "prompt": "x", "stream": true});
            let events =
                Events::of(gateway.post("/v1/completions", &body).send().await.unwrap()).rest().await;
            let text = |events: &[Value]| {
                events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect::<String>()
            };
            let got: Vec<Value> = events
                .iter()
                .filter(|event| *event != "[DONE]")
                .map(|event| serde_json::from_str(event).unwrap())
                .collect();
            assert_eq!(text(&got), text(&recorded_events(name)), "{name}");
        }
    }
}

/// A choice of a whole answer is all that the events say of it.
fn assert_folded(choice: &Value, events: &[Value]) {
    let all = events.iter().flat_map(|event| event["choices"].as_array().unwrap());
    let of_choice: Vec<&Value> = all.filter(|other| other["index"] == choice["index"]).collect();
    let text: String = of_choice.iter().filter_map(|other| other["delta"]["content"].as_str()).collect();
    assert_eq!(choice["message"]["content"].as_str().unwrap_or_default(), text);
    let reason = of_choice.iter().rfind(|other| other["finish_reason"].is_string()).unwrap();
    assert_eq!(choice["finish_reason"], reason["finish_reason"]);
}

#[tokio::test]
async fn whole_answers_of_llamacpp_are_asked_for_as_streams() {
    // The server notices only then that its caller has left.
    for name in ["llamacpp/chat_stream_usage", "llamacpp/chat_tools_stream", "llamacpp/chat_stream_n2"] {
        for step in ways(name) {
            let (upstream, gateway) = replay("llamacpp", step).await;
            let (status, answer) = gateway.ask("/v1/chat/completions", &asked(false)).await;
            assert_eq!(status, 200, "{name}: {answer}");
            assert_eq!(upstream.last()["stream"], true);
            let events = recorded_events(name);
            assert_eq!(answer["object"], "chat.completion");
            assert_eq!((&answer["id"], &answer["model"]), (&events[0]["id"], &events[0]["model"]));
            answer["choices"].as_array().unwrap().iter().for_each(|choice| assert_folded(choice, &events));
        }
    }
    let (_upstream, gateway) = replay("llamacpp", Step::Send(fixture("llamacpp/chat_tools_stream"))).await;
    let (_, answer) = gateway.ask("/v1/chat/completions", &asked(false)).await;
    let call = &answer["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "get_weather");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments["city"], "Paris");
}

#[tokio::test]
async fn a_whole_answer_of_ollama_is_put_into_openais_words() {
    for name in ["ollama/chat", "ollama/chat_format_json"] {
        for step in ways(name) {
            let (_upstream, gateway) = replay("ollama", step).await;
            let (status, answer) = gateway.ask("/api/chat", &asked(false)).await;
            let recorded = body_of(name);
            assert_eq!(status, 200, "{answer}");
            assert_eq!(answer["choices"][0]["message"]["content"], recorded["message"]["content"]);
            assert_eq!(answer["choices"][0]["finish_reason"], recorded["done_reason"]);
            assert_eq!(answer["usage"]["prompt_tokens"], recorded["prompt_eval_count"]);
            assert_eq!(answer["usage"]["completion_tokens"], recorded["eval_count"]);
        }
    }
}

#[tokio::test]
async fn a_stream_of_ollama_becomes_chunks_with_one_id() {
    for step in ways("ollama/chat_stream") {
        let (_upstream, gateway) = replay("ollama", step).await;
        let mut wants = asked(true);
        wants["stream_options"] = json!({"include_usage": true});
        let chunks = streamed(&gateway, &wants).await;

        let recorded = recorded_events("ollama/chat_stream");
        let text: String = recorded.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
        assert_eq!(text_of(&chunks), text);
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["object"] == "chat.completion.chunk")
        );
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        assert!(chunks[1..].iter().all(|chunk| chunk["choices"][0]["delta"].get("role").is_none()));
        let [.., last, usage] = &chunks[..] else { panic!("{chunks:?}") };
        assert_eq!(last["choices"][0]["finish_reason"], recorded.last().unwrap()["done_reason"]);
        assert_eq!(usage["usage"]["completion_tokens"], recorded.last().unwrap()["eval_count"]);
    }
}

#[tokio::test]
async fn tool_calls_of_ollama_become_openais_whole_and_streamed() {
    let whole_recorded = body_of("ollama/chat_tools");
    for step in ways("ollama/chat_tools") {
        let (upstream, gateway) = replay("ollama", step).await;
        let mut body = asked(false);
        body["tools"] = json!([{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]);
        let (_, answer) = gateway.ask("/api/chat", &body).await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("get_weather")));
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert_eq!(arguments, whole_recorded["message"]["tool_calls"][0]["function"]["arguments"]);
        assert_eq!(upstream.last()["tools"], body["tools"]);
    }
    for step in ways("ollama/chat_tools_stream") {
        let (_upstream, gateway) = replay("ollama", step).await;
        let chunks = streamed(&gateway, &asked(true)).await;
        let calls: Vec<&Value> =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"].get("tool_calls")).collect();
        assert_eq!(calls.len(), 1, "{chunks:?}");
        let call = &calls[0][0];
        assert_eq!((&call["index"], &call["function"]["name"]), (&json!(0), &json!("get_weather")));
        assert!(call["id"].as_str().unwrap().len() > 4);
        assert!(call["function"]["arguments"].as_str().unwrap().contains("Paris"));
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    }
}

#[tokio::test]
async fn results_of_tools_reach_ollama_in_its_own_words() {
    let (upstream, gateway) = replay("ollama", Step::Send(fixture("ollama/chat"))).await;
    let body = json!({"model": "m", "stream": false, "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Weather "}, {"type": "text", "text": "here?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\":\"Paris\"}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]});

    let (status, answer) = gateway.ask("/api/chat", &body).await;

    assert_eq!(status, 200, "{answer}");
    let messages = &upstream.last()["messages"];
    assert_eq!(messages[0]["images"], json!(["iVBORw0KGgo="]));
    assert!(messages[0]["content"].as_str().unwrap().contains("Weather"));
    assert_eq!(
        messages[1]["tool_calls"][0]["function"],
        json!({"name": "get_weather", "arguments": {"city": "Paris"}})
    );
    assert_eq!(
        (&messages[2]["role"], &messages[2]["content"], &messages[2]["tool_name"]),
        (&json!("tool"), &json!("sunny"), &json!("get_weather"))
    );
}

#[tokio::test]
async fn thinking_of_ollama_becomes_reasoning_content() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n";
    let lines = [
        json!({"model": "m", "message": {"role": "assistant", "content": "", "thinking": "Let me "}, "done": false}),
        json!({"model": "m", "message": {"role": "assistant", "content": "", "thinking": "see."}, "done": false}),
        json!({"model": "m", "message": {"role": "assistant", "content": "Yes."}, "done": false}),
        json!({"model": "m", "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop", "prompt_eval_count": 2, "eval_count": 9}),
    ];
    let text = format!("{head}{}", lines.map(|line| format!("{line}\n")).concat());
    let (upstream, gateway) = replay("ollama", Step::ByteWise(text.into_bytes())).await;
    let mut body = asked(true);
    body["reasoning_effort"] = json!("high");
    let chunks = streamed(&gateway, &body).await;
    let reasoning: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["reasoning_content"].as_str())
        .collect();
    assert_eq!((reasoning.as_str(), text_of(&chunks).as_str()), ("Let me see.", "Yes."));
    assert_eq!(upstream.last()["think"], "high");
}

#[tokio::test]
async fn faults_of_real_servers_are_told_in_one_shape() {
    for (kind, name, status, code, words) in [
        ("openai", "openai/nokey_chat", 502, "upstream_credentials", ""),
        ("vllm", "vllm/nokey_chat", 502, "upstream_credentials", ""),
        ("openai", "openai/err_temperature_type", 400, "", "temperature"),
        ("vllm", "vllm/err_temperature_range", 400, "", "temperature"),
        ("vllm", "vllm/err_unknown_model", 404, "", "does not exist"),
        ("vllm", "vllm/err_image", 400, "", ""),
        ("llamacpp", "llamacpp/err_image", 502, "", ""),
        ("llamacpp", "llamacpp/loading_chat", 502, "upstream_unavailable", ""),
        ("ollama", "ollama/err_unknown_model", 404, "", "not found"),
        ("ollama", "ollama/embmodel_chat", 400, "", "does not support chat"),
    ] {
        for stream in [false, true] {
            let (_upstream, gateway) = replay(kind, Step::Send(fixture(name))).await;
            let (got, answer) = gateway.ask("/api/chat", &asked(stream)).await;
            let error = &answer["error"];
            assert_eq!(got, status, "{name}: {answer}");
            assert!(code.is_empty() || error["code"] == code, "{name}: {answer}");
            assert!(error["message"].as_str().unwrap().contains(words), "{name}: {answer}");
            assert!(error["type"].is_string() && error.get("param").is_some());
        }
    }
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_told_alike_by_all() {
    for (kind, name, numbers) in [
        ("openai", "openai/err_context", Some((10810, 1024))),
        ("llamacpp", "llamacpp/err_context", Some((10810, 1024))),
        ("llamacpp", "llamacpp/err_context_stream", Some((10810, 1024))),
        ("vllm", "vllm/err_context", None),
        ("vllm", "vllm/err_context_stream", None),
        ("ollama", "ollama/err_context_no_truncate", Some((10810, 256))),
    ] {
        for stream in [false, true] {
            let (_upstream, gateway) = replay(kind, Step::Send(fixture(name))).await;
            let (status, answer) = gateway.ask("/api/chat", &asked(stream)).await;
            let error = &answer["error"];
            assert_eq!(
                (status, &error["code"], &error["type"]),
                (400, &json!("context_length_exceeded"), &json!("invalid_request_error")),
                "{name}: {answer}"
            );
            if let Some((needed, context)) = numbers {
                let message = error["message"].as_str().unwrap();
                assert!(
                    message.contains(&needed.to_string()) && message.contains(&context.to_string()),
                    "{message}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_died_in_mid_stream_is_no_success() {
    for (kind, name) in [
        ("openai", "openai/killed_mid_stream"),
        ("llamacpp", "llamacpp/killed_mid_stream"),
        ("ollama", "ollama/killed_mid_stream"),
    ] {
        for step in ways(name) {
            let (_upstream, gateway) = replay(kind, step).await;
            let response = gateway.post("/api/chat", &asked(true)).send().await.unwrap();
            // With all of it in one piece the failure is known before anything was sent.
            if response.status() == 502 {
                continue;
            }
            let events = Events::of(response).rest().await;
            let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
            assert_eq!(last["error"]["type"], "upstream_error", "{name}: {events:?}");
        }
    }
    let (_upstream, gateway) = replay("llamacpp", Step::Send(fixture("llamacpp/killed_mid_stream"))).await;
    assert_eq!(gateway.ask("/api/chat", &asked(false)).await.0, 502);
}

#[tokio::test]
async fn embeddings_that_a_model_cannot_make_are_refused_clearly() {
    for (kind, name) in [("llamacpp", "llamacpp/embeddings"), ("ollama", "ollama/embed")] {
        let (_upstream, gateway) = replay(kind, Step::Send(fixture(name))).await;
        let (status, error) = gateway.ask("/v1/embeddings", &json!({"model": "m", "input": "x"})).await;
        assert!(status >= 400, "{status}: {error}");
        assert!(error["error"]["message"].as_str().unwrap().len() > 10);
    }
}

#[tokio::test]
async fn the_key_goes_to_its_provider_only() {
    let (upstream, gateway) = replay("vllm", Step::Send(fixture("vllm/chat"))).await;
    let request = gateway
        .post("/api/chat", &asked(false))
        .header("authorization", "Bearer callers-own")
        .header("x-api-key", "callers-too")
        .header("cookie", "a=b");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let seen = &upstream.seen()[0];
    assert_eq!(seen.header("authorization"), Some("Bearer provider-key-1"));
    assert_eq!((seen.header("x-api-key"), seen.header("cookie")), (None, None));
}

#[tokio::test]
async fn what_one_provider_cannot_serve_another_does() {
    let image = json!({"model": "m", "stream": false, "messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://images.example/cat.png"}}]}]});
    let whole = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": "A cat"}, "finish_reason": "stop"}]});
    let good = Upstream::answering(json(200, "", &whole)).await;
    let broke =
        Upstream::answering(json(402, "", &json!({"error": {"message": "Insufficient Balance"}}))).await;
    for (kind, base_url, alone) in [
        // It takes no addresses of images.
        ("ollama", broke.url(), (400, "unsupported_value")),
        // Its account has run dry, which is no caller's business.
        ("openai", broke.v1(), (429, "insufficient_quota")),
    ] {
        let first = json!({"type": kind, "base_url": base_url, "models": {"m": {}}});
        let gateway = Setup::new().models(&json!({"providers": {"first": first}})).start();
        let (status, error) = gateway.ask("/api/chat", &image).await;
        assert_eq!((status, error["error"]["code"].as_str().unwrap()), alone);
        assert!(!error.to_string().contains("Balance"));

        let second = json!({"type": "openai", "base_url": good.v1(), "models": {"m": {}}});
        let both = json!({"providers": {"first": first, "second": second}});
        let gateway = Setup::new().models(&both).start();
        let (status, answer) = gateway.ask("/api/chat", &image).await;
        assert_eq!((status, answer), (200, whole.clone()), "{kind}");
    }
}

/// A whole answer of these bytes.
async fn whole(kind: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    let (_upstream, gateway) = replay(kind, Step::Send([head.as_bytes(), body].concat())).await;
    let asked = match path {
        "/v1/completions" => json!({"model": "m", "prompt": "Hi"}),
        "/api/conversation_with_model" => {
            json!({"model_name": "m", "user_last_statement": "Hi", "stream": false})
        }
        _ => asked(false),
    };
    gateway.ask(path, &asked).await
}

#[tokio::test]
async fn a_whole_answer_is_choices_that_have_ended_in_utf_8() {
    let message = r#"{"role":"assistant","content":"Hi"}"#;
    let good = format!(r#"{{"choices":[{{"message":{message},"finish_reason":"length","x":[1]}}]}}"#);
    for path in ["/v1/chat/completions", "/api/chat", "/api/conversation_with_model"] {
        assert_eq!(whole("openai", path, good.as_bytes()).await.0, 200, "{path}");
    }
    let nested = format!(r#"{{"choices":[[["{}"]]]}}"#, "x".repeat(100_000));
    let in_order = format!(r#"{{"choices":[["stop"],{{"message":{message},"finish_reason":"stop"}}]}}"#);
    let bad: &[&[u8]] = &[
        nested.as_bytes(),
        in_order.as_bytes(),
        br#"{"choices":["a"]}"#,
        br#"{"choices":[{}]}"#,
        br#"{"choices":[{"message":{"content":"Hi"}}]}"#,
        br#"{"choices":[{"message":{"content":"Hi"},"finish_reason":null}]}"#,
        br#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"},{"message":{"content":"Hi"}}]}"#,
        b"{\"choices\":[{\"message\":{\"content\":\"a\xffb\"},\"finish_reason\":\"stop\"}]}",
        b"{\"choices\":[{\"text\":\"a\xc3\",\"finish_reason\":\"stop\"}]}",
    ];
    for body in bad {
        for path in ["/v1/chat/completions", "/v1/completions"] {
            let (status, told) = whole("openai", path, body).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            assert_eq!(
                (status, &told["error"]["code"]),
                (502, &json!("upstream_protocol")),
                "{shown}: {told}"
            );
        }
    }
    let unfinished = br#"{"message":{"role":"assistant","content":"Hi"},"done":false}"#;
    let (status, told) = whole("ollama", "/v1/chat/completions", unfinished).await;
    assert_eq!((status, &told["error"]["code"]), (502, &json!("upstream_protocol")), "{told}");
}
