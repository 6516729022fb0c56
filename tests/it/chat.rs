//! `POST {p}/chat`: OpenAI's shape, streaming unless told otherwise.

use serde_json::{Value, json};

use crate::support::{Setup, Step, Upstream, events_of, fixture, json, json_of};

fn hello() -> Value {
    json!({"model": "echo", "messages": [{"role": "user", "content": "Hello there, world!"}]})
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

#[tokio::test]
async fn streams_unless_told_otherwise() {
    let gateway = Setup::new().start();

    let events = events_of(gateway.post("/api/chat", &hello())).await;

    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "Hello there, world!");
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"])
    );
    assert!(
        chunks.iter().all(|chunk| chunk.get("usage").is_none_or(Value::is_null)),
        "nobody asked for usage"
    );
}

#[tokio::test]
async fn answers_whole_when_asked_to() {
    let gateway = Setup::new().start();

    let (status, answer) = gateway.ask("/api/chat", &with(hello(), "stream", json!(false))).await;

    assert_eq!(status, 200);
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(
        answer["choices"][0]["message"],
        json!({"role": "assistant", "content": "Hello there, world!"})
    );
    assert_eq!(answer["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn shows_usage_to_those_who_ask() {
    let gateway = Setup::new().start();

    let asked = with(hello(), "stream_options", json!({"include_usage": true}));
    let events = events_of(gateway.post("/api/chat", &asked)).await;

    let usage = &events[events.len() - 2];
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn says_who_answered_in_its_headers() {
    let upstream = Upstream::start(|_| vec![Step::Send(fixture("openai/chat"))]).await;
    let setup = Setup::new().models(&json!({"providers": {"up": {
        "type": "openai", "base_url": upstream.v1(), "models": {"public": {"upstream": "org/model-7b"}}}}}));
    let gateway = setup.start();

    let body = json!({"model": "public", "stream": false, "messages": [{"role": "user", "content": "Hi"}]});
    let response = gateway.post("/api/chat", &body).header("x-request-id", "my-id.1").send().await.unwrap();

    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-request-id"), "my-id.1");
    assert_eq!(header("x-llm-provider"), "up");
    assert_eq!(header("x-llm-model"), "org/model-7b");
    assert_eq!(header("x-llm-attempts"), "1");
    let timing = header("server-timing");
    assert!(timing.starts_with("gateway;dur=") && timing.contains(", upstream;dur="), "{timing}");
    assert_eq!(upstream.last()["model"], "org/model-7b");
    assert_eq!(json_of(response).await["model"], "tiny-testkit", "the answer's bytes are not touched");
}

#[tokio::test]
async fn makes_a_request_id_where_the_callers_is_not_sane() {
    let gateway = Setup::new().start();
    for bad in ["a b", "x\"y", &"z".repeat(200)] {
        let response = gateway.get("/api/ping").header("x-request-id", bad).send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap();
        assert!(id.starts_with("req_") && id != bad, "{id}");
    }
}

#[tokio::test]
async fn carries_the_callers_own_bytes_to_an_openai_server() {
    let upstream = Upstream::start(|_| vec![Step::Send(fixture("openai/chat"))]).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    // Odd but valid JSON: order, spaces, escapes, big numbers and unknown members must arrive as they were sent.
    let body = "{ \"temperature\":1e0,\"x-new\" : {\"deep\":[1,2.50,\"\\u00e9\\ud83d\\ude00\",null]},\"seed\":123456789012345678901234567890,\n\
        \"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Zażółć\"},\
        {\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,AAAA\",\"detail\":\"low\"}}],\"name\":\"n\"}],\
        \"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"x-a\":1}}}],\
        \"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"s\",\"schema\":{}}},\"logprobs\":true,\"top_logprobs\":3,\
        \"model\":\"m\",\"stream\":false }";

    let request = gateway
        .http()
        .post(format!("{}/api/chat", gateway.base()))
        .header("content-type", "application/json");
    let response = request.body(body).send().await.unwrap();

    assert_eq!(response.status(), 200);
    assert_eq!(response.headers().get("x-llm-ignored-options"), None);
    let seen = upstream.seen();
    assert_eq!(String::from_utf8(seen[0].body.clone()).unwrap(), body);
    assert_eq!(seen[0].header("authorization"), Some("Bearer provider-key-1"));
    assert_eq!(seen[0].path, "/v1/chat/completions");
}

#[tokio::test]
async fn returns_an_openai_servers_bytes_untouched() {
    let recorded = fixture("vllm/chat_tools_required");
    let text = String::from_utf8(recorded.clone()).unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let upstream = Upstream::answering(Step::Send(recorded)).await;
    let gateway = Setup::upstream("vllm", &upstream.v1(), &["m"]).start();

    let asked = json!({"model": "m", "stream": false, "messages": [{"role": "user", "content": "Weather?"}]});
    let answer = gateway.post("/api/chat", &asked).send().await.unwrap().text().await.unwrap();

    assert_eq!(answer, body);
}

#[tokio::test]
async fn applies_the_models_defaults_and_overrides() {
    let upstream = Upstream::answering(Step::Send(fixture("openai/chat"))).await;
    let setup = Setup::new().models(&json!({"providers": {"up": {
        "type": "openai", "base_url": upstream.v1(), "models": {"m": {
            "defaults": {"temperature": 0.7, "max_tokens": 50}, "overrides": {"user": "gateway", "top_p": 0.5}}}}}}));
    let gateway = setup.start();

    let asked = json!({"model": "m", "stream": false, "max_tokens": 9, "top_p": 0.9, "messages": [{"role": "user", "content": "Hi"}]});
    let (status, _) = gateway.ask("/api/chat", &asked).await;

    assert_eq!(status, 200);
    let sent = upstream.last();
    assert_eq!(
        (&sent["temperature"], &sent["max_tokens"]),
        (&json!(0.7), &json!(9)),
        "defaults yield to the caller"
    );
    assert_eq!((&sent["user"], &sent["top_p"]), (&json!("gateway"), &json!(0.5)), "overrides do not");
}

#[tokio::test]
async fn takes_generation_options_of_ollamas_shape() {
    let upstream = Upstream::answering(Step::Send(fixture("ollama/chat"))).await;
    let gateway = Setup::upstream("ollama", &upstream.url(), &["m"]).start();

    let asked = json!({"model": "m", "stream": false, "keep_alive": "5m", "options": {"num_ctx": 2048, "temperature": 0.1},
        "messages": [{"role": "user", "content": "Hi"}]});
    let (status, answer) = gateway.ask("/api/chat", &asked).await;

    assert_eq!(status, 200, "{answer}");
    let sent = upstream.last();
    assert_eq!(sent["keep_alive"], "5m");
    assert_eq!(sent["options"], json!({"num_ctx": 2048, "temperature": 0.1}));
}

#[tokio::test]
async fn tells_which_options_a_provider_cannot_take() {
    let upstream = Upstream::answering(json(
        200,
        "",
        &json!({"id": "1", "object": "chat.completion", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}),
    ))
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();

    let asked = json!({"model_name": "m", "user_last_statement": "Hi", "stream": false, "top_k": 5, "typical_p": 0.9, "seed": 1});
    let response = gateway.post("/api/extended_conversation_with_model", &asked).send().await.unwrap();

    assert_eq!(response.status(), 200);
    let ignored = response.headers()["x-llm-ignored-options"].to_str().unwrap().to_owned();
    assert_eq!(ignored, "top_k, typical_p");
    let sent = upstream.last();
    assert_eq!((sent.get("top_k"), &sent["seed"]), (None, &json!(1)));
}

#[tokio::test]
async fn options_have_their_ranges_wherever_they_stand() {
    let gateway = Setup::new().start();
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": "Hi"}], "options": {"temperature": 9}});
    let (status, error) = gateway.ask("/api/chat", &body).await;
    assert_eq!((status, &error["error"]["param"]), (400, &json!("options.temperature")));
}
