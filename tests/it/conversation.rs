//! `{p}/conversation_with_model` and `{p}/extended_conversation_with_model`: prompts from the library.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, events_of, fixture, json_of};

const PLAIN: &str = "/api/conversation_with_model";
const EXTENDED: &str = "/api/extended_conversation_with_model";

/// An upstream that answers, and a gateway before it.
async fn both() -> (Upstream, Gateway) {
    let upstream = Upstream::answering(Step::Send(fixture("openai/chat"))).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    (upstream, gateway)
}

fn asked(more: &Value) -> Value {
    let mut body = json!({"model_name": "m", "user_last_statement": "And now?", "stream": false});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn the_answer_says_everything_about_itself() {
    let (_upstream, gateway) = both().await;

    let response = gateway.post(PLAIN, &asked(&json!({"language": "pl-PL"}))).send().await.unwrap();

    assert_eq!(response.headers()["x-llm-prompt"], "chat-conversation-simple@1/pl");
    let answer = json_of(response).await;
    let recorded: Value = serde_json::from_str(
        std::str::from_utf8(&fixture("openai/chat")).unwrap().split_once("\r\n\r\n").unwrap().1,
    )
    .unwrap();
    assert_eq!(answer["response"], recorded["choices"][0]["message"]["content"]);
    assert_eq!(answer["finish_reason"], recorded["choices"][0]["finish_reason"]);
    assert_eq!(answer["model"], "m");
    assert!(answer["generation_time"].as_f64().unwrap() > 0.0);
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(answer["usage"][count], recorded["usage"][count]);
    }
    let prompt = json!({"name": "chat-conversation-simple", "language": "pl", "requested_language": "pl-PL",
        "fallback": true, "version": "1"});
    assert_eq!(answer["prompt"], prompt);
}

#[tokio::test]
async fn the_prompt_comes_first_then_history_then_the_statement() {
    let (upstream, gateway) = both().await;
    let history = json!([{"user": "One", "assistant": "Eins"}, {"role": "user", "content": "Two"}, {"role": "assistant", "content": "Zwei"}]);

    gateway.ask(PLAIN, &asked(&json!({"historical_messages": history, "language": "en"}))).await;

    let sent = upstream.last();
    let messages: Vec<(&str, &str)> = sent["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| (message["role"].as_str().unwrap(), message["content"].as_str().unwrap()))
        .collect();
    assert_eq!(messages[0].0, "system");
    assert!(!messages[0].1.is_empty());
    assert_eq!(
        messages[1..],
        [
            ("user", "One"),
            ("assistant", "Eins"),
            ("user", "Two"),
            ("assistant", "Zwei"),
            ("user", "And now?")
        ]
    );
}

#[tokio::test]
async fn the_language_comes_from_the_request_then_the_header_then_the_setting() {
    let upstream = Upstream::answering(Step::Send(fixture("openai/chat"))).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).env("DEFAULT_EP_LANGUAGE", "pl").start();
    for (field, header, language) in [
        (Some("en"), Some("pl"), "en"),
        (Some("en-GB"), None, "en"),
        (None, Some("de;q=0.9, en;q=0.8, pl;q=0.1"), "en"),
        (None, Some("de, fr;q=0.5"), "pl"),
        (None, Some("en;q=0, pl;q=0.2"), "pl"),
        (None, None, "pl"),
        (Some("ja"), None, "pl"),
    ] {
        let body = field.map_or_else(|| asked(&json!({})), |field| asked(&json!({"language": field})));
        let mut request = gateway.post(PLAIN, &body);
        if let Some(header) = header {
            request = request.header("accept-language", header);
        }
        let answer = json_of(request.send().await.unwrap()).await;
        assert_eq!(answer["prompt"]["language"], language, "{field:?} {header:?}");
    }
}

#[tokio::test]
async fn variables_fill_the_prompt_and_a_missing_one_is_named() {
    let (upstream, gateway) = both().await;

    let body =
        asked(&json!({"prompt": "translate", "variables": {"target_language": "German"}, "language": "en"}));
    let (status, answer) = gateway.ask(PLAIN, &body).await;
    assert_eq!(status, 200, "{answer}");
    assert!(upstream.last()["messages"][0]["content"].as_str().unwrap().contains("German"));

    let (status, error) = gateway.ask(PLAIN, &asked(&json!({"prompt": "translate"}))).await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!("prompt_variable_missing")), "{error}");
    assert_eq!(error["error"]["param"], "variables.target_language");
}

#[tokio::test]
async fn an_own_system_prompt_replaces_the_librarys() {
    let (upstream, gateway) = both().await;

    let response =
        gateway.post(EXTENDED, &asked(&json!({"system_prompt": "Be brief."}))).send().await.unwrap();

    assert!(response.headers().get("x-llm-prompt").is_none());
    assert_eq!(json_of(response).await["prompt"], Value::Null);
    assert_eq!(upstream.last()["messages"][0], json!({"role": "system", "content": "Be brief."}));
    // The plain endpoint has no such field, and says so.
    let response =
        gateway.post(PLAIN, &asked(&json!({"system_prompt": "Be brief.", "top_k": 3}))).send().await.unwrap();
    assert_eq!(response.headers()["x-llm-ignored-options"], "system_prompt, top_k");
    assert_ne!(upstream.last()["messages"][0]["content"], "Be brief.");
}

#[tokio::test]
async fn options_reach_each_provider_under_its_own_names() {
    let options = json!({"temperature": 0.5, "top_p": 0.9, "top_k": 40, "typical_p": 0.8, "repetition_penalty": 1.1, "max_new_tokens": 64, "seed": 7, "stop": ["END"]});
    let common = [
        ("temperature", json!(0.5)),
        ("top_p", json!(0.9)),
        ("seed", json!(7)),
        ("stop", json!(["END"])),
        ("max_tokens", json!(64)),
    ];

    for (kind, recorded, own, ignored) in [
        ("openai", "openai/chat", vec![], "top_k, typical_p, repetition_penalty"),
        ("vllm", "vllm/chat", vec![("top_k", json!(40)), ("repetition_penalty", json!(1.1))], "typical_p"),
        (
            "llamacpp",
            "llamacpp/chat_stream_usage",
            vec![("top_k", json!(40)), ("typical_p", json!(0.8)), ("repeat_penalty", json!(1.1))],
            "",
        ),
    ] {
        let upstream = Upstream::answering(Step::Send(fixture(recorded))).await;
        let gateway = Setup::upstream(kind, &upstream.v1(), &["m"]).start();
        let response = gateway.post(EXTENDED, &asked(&options)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{kind}");
        let named =
            response.headers().get("x-llm-ignored-options").map_or("", |value| value.to_str().unwrap());
        assert_eq!(named, ignored, "{kind}");
        let sent = upstream.last();
        for (name, value) in common.iter().chain(&own) {
            assert_eq!(&sent[*name], value, "{kind}: {name} in {sent}");
        }
    }

    let upstream = Upstream::answering(Step::Send(fixture("ollama/chat"))).await;
    let gateway = Setup::upstream("ollama", &upstream.url(), &["m"]).start();
    assert_eq!(gateway.ask(EXTENDED, &asked(&options)).await.0, 200);
    let expected = json!({"temperature": 0.5, "top_p": 0.9, "top_k": 40, "typical_p": 0.8, "repeat_penalty": 1.1, "num_predict": 64, "seed": 7, "stop": ["END"]});
    assert_eq!(upstream.last()["options"], expected);
}

#[tokio::test]
async fn model_is_another_name_for_model_name() {
    let (_upstream, gateway) = both().await;
    let body = json!({"model": "m", "user_last_statement": "Hi", "stream": false});
    assert_eq!(gateway.ask(PLAIN, &body).await.0, 200);
}

#[tokio::test]
async fn streams_by_default() {
    let gateway = Setup::new().start();
    let events = events_of(
        gateway.post(PLAIN, &json!({"model_name": "echo", "user_last_statement": "One two three"})),
    )
    .await;
    let text: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!((text.as_str(), events.last().unwrap()), ("One two three", &json!("[DONE]")));
}

#[tokio::test]
async fn faults_are_named_by_place() {
    let gateway = Setup::new().start();
    let base = |more: Value| {
        let mut body = json!({"model_name": "echo", "user_last_statement": "Hi", "stream": false});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (path, body, status, code, param) in [
        (PLAIN, json!({"user_last_statement": "Hi"}), 400, "missing_field", "model_name"),
        (PLAIN, json!({"model_name": "echo"}), 400, "missing_field", "user_last_statement"),
        (PLAIN, base(json!({"user_last_statement": ""})), 400, "invalid_value", "user_last_statement"),
        (PLAIN, base(json!({"user_last_statement": 7})), 400, "invalid_value", "user_last_statement"),
        (
            PLAIN,
            base(
                json!({"historical_messages": [{"user": "a", "assistant": "b"}, {"role": "judge", "content": "c"}]}),
            ),
            400,
            "invalid_value",
            "historical_messages[1].role",
        ),
        (
            PLAIN,
            base(json!({"historical_messages": [{"user": 7, "assistant": "b"}]})),
            400,
            "invalid_value",
            "historical_messages[0].user",
        ),
        (PLAIN, base(json!({"language": "not a tag!"})), 400, "invalid_value", "language"),
        (PLAIN, base(json!({"prompt": "no-such-prompt"})), 404, "prompt_not_found", "prompt"),
        (PLAIN, base(json!({"temperature": 2.5})), 400, "invalid_value", "temperature"),
        (EXTENDED, base(json!({"top_p": 1.5})), 400, "invalid_value", "top_p"),
        (EXTENDED, base(json!({"top_k": -1})), 400, "invalid_value", "top_k"),
        (EXTENDED, base(json!({"repetition_penalty": 0})), 400, "invalid_value", "repetition_penalty"),
        (EXTENDED, base(json!({"max_new_tokens": 0})), 400, "invalid_value", "max_new_tokens"),
        (EXTENDED, base(json!({"typical_p": 2})), 400, "invalid_value", "typical_p"),
        (PLAIN, base(json!({"model_name": "nobody"})), 404, "model_not_found", "model_name"),
    ] {
        let (got, error) = gateway.ask(path, &body).await;
        let error = &error["error"];
        assert_eq!((got, error["code"].as_str()), (status, Some(code)), "{body}: {error}");
        assert_eq!(error["param"], param, "{body}: {error}");
        assert!(error["message"].as_str().unwrap().len() > 5 && error["type"].is_string());
    }
}

#[tokio::test]
async fn a_misspelt_member_is_refused_with_the_one_that_was_meant() {
    let gateway = Setup::new().start();
    let article = json!({"model_name": "echo", "text": "One."});
    for (path, body, name, meant) in [
        (PLAIN, asked(&json!({})), "prompt_name", "prompt"),
        (PLAIN, asked(&json!({})), "langauge", "language"),
        (EXTENDED, asked(&json!({})), "max_new_token", "max_new_tokens"),
        ("/api/explain", asked(&json!({})), "historical_mesages", "historical_messages"),
        ("/api/generate_article_from_text", article, "languge", "language"),
        ("/api/prompts/translate/render", json!({}), "varables", "variables"),
        ("/api/passthrough", json!({"provider": "echo", "path": "/x"}), "methd", "method"),
    ] {
        let mut body = body;
        body[name] = json!("x");
        let (status, error) = gateway.ask(path, &body).await;
        let error = &error["error"];
        assert_eq!((status, &error["param"]), (400, &json!(name)), "{path}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&format!("did you mean `{meant}`?")), "{path}: {message}");
    }
    // What clients of older systems send does no harm.
    let body = asked(&json!({"model_name": "echo", "mask_payload": false, "typical_p": 1.0}));
    let response = gateway.post(PLAIN, &body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-llm-ignored-options"], "mask_payload, typical_p");
}
