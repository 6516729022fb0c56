//! OpenAI's own endpoints, below `/v1` and below `{p}/v1`.

use serde_json::{Value, json};

use crate::support::{Setup, Step, Upstream, answer, events_of, fixture};

fn hello() -> Value {
    json!({"model": "echo", "messages": [{"role": "user", "content": "Hello there"}]})
}

#[tokio::test]
async fn chat_answers_whole_unless_asked_for_a_stream() {
    let gateway = Setup::new().start();
    for path in ["/v1/chat/completions", "/api/v1/chat/completions"] {
        let (status, answer) = gateway.ask(path, &hello()).await;
        assert_eq!(
            (status, &answer["choices"][0]["message"]["content"]),
            (200, &json!("Hello there")),
            "{path}"
        );

        let mut streamed = hello();
        streamed["stream"] = json!(true);
        let events = events_of(gateway.post(path, &streamed)).await;
        assert_eq!(events.last().unwrap(), "[DONE]");
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_a_request_is_passed_over() {
    let gateway = Setup::new().start();
    for (path, body) in [
        ("/v1/chat/completions", hello()),
        ("/v1/embeddings", json!({"model": "echo", "input": "x"})),
        (
            "/api/chat",
            json!({"model": "echo", "stream": false, "messages": [{"role": "user", "content": "x"}]}),
        ),
        ("/api/prompts/nothing/render", json!({})),
    ] {
        let plain = answer(gateway.post(path, &body)).await.0;
        let marked = gateway.post(path, &body).body(format!("\u{feff}{body}"));
        assert_eq!(answer(marked).await.0, plain, "{path}");
    }
}

#[tokio::test]
async fn completions_answer_whole_and_as_a_stream() {
    let gateway = Setup::new().start();
    let asked = json!({"model": "echo", "prompt": "Once upon a time"});

    let (status, whole) = gateway.ask("/v1/completions", &asked).await;
    assert_eq!(status, 200);
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["choices"][0]["text"], "Once upon a time");

    let events = events_of(
        gateway.post("/v1/completions", &json!({"model": "echo", "prompt": "Once upon", "stream": true})),
    )
    .await;
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "Once upon");
}

#[tokio::test]
async fn completions_pass_through_and_come_back_untouched() {
    let upstream = Upstream::answering(Step::Send(fixture("openai/completions"))).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();

    let asked = json!({"model": "m", "prompt": ["a", "b"], "suffix": "x", "echo": true, "best_of": 2});
    let (status, answer) = gateway.ask("/v1/completions", &asked).await;

    assert_eq!(status, 200, "{answer}");
    assert_eq!(upstream.seen()[0].path, "/v1/completions");
    assert_eq!(upstream.last(), asked);
}

#[tokio::test]
async fn embeddings_come_from_every_provider_that_has_them() {
    for (kind, recorded) in [
        ("openai", "openai/emb_embeddings"),
        ("vllm", "vllm/emb_embeddings"),
        ("llamacpp", "llamacpp/emb_embeddings"),
        ("ollama", "ollama/embmodel_embed"),
    ] {
        let upstream = Upstream::answering(Step::Send(fixture(recorded))).await;
        let base = if kind == "ollama" { upstream.url() } else { upstream.v1() };
        let gateway = Setup::upstream(kind, &base, &["m"]).start();

        let (status, answer) =
            gateway.ask("/v1/embeddings", &json!({"model": "m", "input": ["one", "two"]})).await;

        assert_eq!(status, 200, "{kind}: {answer}");
        assert_eq!(answer["data"].as_array().unwrap().len(), 2, "{kind}");
        for (index, entry) in answer["data"].as_array().unwrap().iter().enumerate() {
            assert_eq!((&entry["object"], &entry["index"]), (&json!("embedding"), &json!(index)), "{kind}");
            assert!(entry["embedding"].as_array().unwrap().len() > 10, "{kind}");
        }
        assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 0, "{kind}");
        assert_eq!(
            gateway.figure("llm_proxy_tokens_total", "direction=\"input\"").await,
            answer["usage"]["prompt_tokens"].as_f64().unwrap()
        );
    }
}

#[tokio::test]
async fn embeddings_come_as_base64_where_that_is_asked_for() {
    // What OpenAI's own clients ask for by default.
    let upstream = Upstream::answering(Step::Send(fixture("ollama/embmodel_embed"))).await;
    let gateway = Setup::upstream("ollama", &upstream.url(), &["m"]).start();

    let (_, plain) = gateway.ask("/v1/embeddings", &json!({"model": "m", "input": "one"})).await;
    let asked = json!({"model": "m", "input": "one", "encoding_format": "base64"});
    let (status, answer) = gateway.ask("/v1/embeddings", &asked).await;

    assert_eq!(status, 200);
    let floats = plain["data"][0]["embedding"].as_array().unwrap().len();
    let base64 = answer["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(base64.len(), (floats * 4).div_ceil(3) * 4);
}

#[tokio::test]
async fn models_are_listed_and_found_one_by_one() {
    let setup = Setup::new().models(&json!({
        "providers": {
            "echo": {"type": "echo", "models": {"org/echo": {"context": 4096}}},
            "second": {"type": "echo", "models": {"other": {}}}},
        "models": {"org/echo": {"aliases": ["small"]}}}));
    let gateway = setup.start();

    for prefix in ["", "/api"] {
        let (status, list) = answer(gateway.get(&format!("{prefix}/v1/models"))).await;
        assert_eq!((status, &list["object"]), (200, &json!("list")));
        let ids: Vec<&str> =
            list["data"].as_array().unwrap().iter().filter_map(|model| model["id"].as_str()).collect();
        assert_eq!(ids, ["org/echo", "other", "priority-auto"]);

        for path in ["org/echo", "org%2Fecho", "small"] {
            let (status, model) = answer(gateway.get(&format!("{prefix}/v1/models/{path}"))).await;
            assert_eq!(
                (status, &model["id"], &model["object"]),
                (200, &json!("org/echo"), &json!("model")),
                "{path}"
            );
            assert_eq!((&model["owned_by"], &model["context_length"]), (&json!("echo"), &json!(4096)));
        }
        let (status, error) = answer(gateway.get(&format!("{prefix}/v1/models/nobody"))).await;
        assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")));
    }
}

#[tokio::test]
async fn cards_say_what_is_known_of_a_model() {
    let supports = json!({"tools": true, "images": false, "reasoning": true, "max_output": 512});
    let setup = Setup::new().models(&json!({"providers": {
        "one": {"type": "echo", "models": {"known": {"context": 4096, "supports": supports}, "bare": {}}},
        "two": {"type": "echo", "models": {"known": {"context": 8192, "supports": {"images": true}}}}}}));
    let gateway = setup.start();
    let card = async |id: &str| answer(gateway.get(&format!("/v1/models/{id}"))).await.1;
    let known = card("known").await;
    assert_eq!((&known["context_length"], &known["max_output_tokens"]), (&json!(8192), &json!(512)));
    assert_eq!(known["supports"], json!({"tools": true, "images": true, "reasoning": true}));
    let bare = card("bare").await;
    for name in ["context_length", "max_output_tokens", "supports"] {
        assert!(bare.get(name).is_none(), "{name}: {bare}");
    }
    assert_eq!(card("priority-auto").await["context_length"], 8192);
    let (_, tags) = answer(gateway.get("/api/tags")).await;
    let last = tags["models"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["name"], &last["state"]), (&json!("priority-auto"), &json!("available")));
}

#[tokio::test]
async fn an_alias_leads_to_its_model() {
    let setup = Setup::new().models(&json!({
        "providers": {"echo": {"type": "echo", "models": {"echo": {}}}}, "models": {"echo": {"aliases": ["fast"]}}}));
    let gateway = setup.start();
    let mut asked = hello();
    asked["model"] = json!("fast");
    let (status, answer) = gateway.ask("/v1/chat/completions", &asked).await;
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!("Hello there")));
}

#[tokio::test]
async fn tags_are_readable_by_ollamas_clients() {
    let gateway = Setup::new().start();
    let (status, tags) = answer(gateway.get("/api/tags")).await;
    assert_eq!(status, 200);
    let model = &tags["models"][0];
    for member in ["name", "model", "modified_at", "size", "digest", "details"] {
        assert!(model.get(member).is_some(), "{member} in {tags}");
    }
    assert_eq!((&model["name"], &model["provider"]), (&json!("echo"), &json!("echo")));
    // The very type that a client of Ollama reads it with.
    let _: ollama_rs::models::LocalModel = serde_json::from_value(model.clone()).unwrap();
}

#[tokio::test]
async fn ping_answers_without_asking_anybody() {
    let upstream = Upstream::answering(Step::Hold).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let (status, pong) = answer(gateway.get("/api/ping")).await;
    assert_eq!((status, &pong["status"], &pong["body"]), (200, &json!(true), &json!("pong")));
    assert!(pong["response_time"].as_f64().unwrap() < 1.0);
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_prefix_of_ones_own_moves_the_facade_and_nothing_else() {
    for (prefix, chat, tags) in [("/llm/x", "/llm/x/chat", "/llm/x/tags"), ("", "/chat", "/tags")] {
        let gateway = Setup::new().env("EP_PREFIX", prefix).start();
        let mut asked = hello();
        asked["stream"] = json!(false);
        assert_eq!(gateway.ask(chat, &asked).await.0, 200);
        assert_eq!(answer(gateway.get(tags)).await.0, 200);
        assert_eq!(gateway.ask("/v1/chat/completions", &hello()).await.0, 200);
        assert_eq!(gateway.ask("/api/chat", &asked).await.0, 404);
        let document = answer(gateway.get("/openapi.json")).await.1;
        assert!(document["paths"].get(chat).is_some());
    }
}
