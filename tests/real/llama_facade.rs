//! The facade before a real llama-server: conversations in two languages, raw requests, and models that are
//! discovered.

use serde_json::{Value, json};

use crate::harness::{Claim, Need, claims};
use crate::support::{Client, Event, Gateway, LlamaServer, PATIENCE, eventually};

pub(crate) fn claims() -> Vec<Claim> {
    let mut claims = claims![&[Need::LlamaServer];
        a_conversation_begins_with_the_prompt_of_its_language,
        a_streamed_conversation_names_its_prompt,
        history_and_an_own_prompt_reach_the_model,
        a_raw_request_reaches_any_path_of_the_server,
        an_unwrapped_raw_request_is_answered_like_a_wrapped_one,
        a_raw_request_streams,
        discovered_models_are_listed_with_their_context,
    ];
    claims.extend(
        claims![&[Need::LlamaServer, Need::Port8000]; a_server_at_port_8000_is_found_without_any_file],
    );
    claims
}

async fn long() -> (LlamaServer, Gateway) {
    let server = LlamaServer::long().await;
    let gateway = Gateway::before(&server).await;
    (server, gateway)
}

/// How many tokens the server itself makes of messages.
async fn tokens_of(server: &LlamaServer, messages: Value) -> Value {
    let body = json!({"model": "tiny", "messages": messages});
    server.directly().asked("/v1/chat/completions/input_tokens", &body).await["input_tokens"].clone()
}

async fn rendered(gateway: &Client, language: &str) -> String {
    let preview =
        gateway.asked("/api/prompts/chat-conversation-simple/render", &json!({"language": language})).await;
    let text = ["text", "rendered", "prompt"].iter().find_map(|name| preview[name].as_str());
    text.unwrap_or_else(|| panic!("{preview}")).to_owned()
}

async fn a_conversation_begins_with_the_prompt_of_its_language() {
    let (server, gateway) = long().await;
    let mut counts = Vec::new();
    for language in ["en", "pl"] {
        for path in ["/api/conversation_with_model", "/api/extended_conversation_with_model"] {
            let body = json!({"model_name": "tiny", "user_last_statement": "Dzień dobry!", "language": language,
                "stream": false, "max_new_tokens": 5});
            let answer = gateway.post(path, &body).await;
            assert_eq!(answer.header("x-llm-prompt"), format!("chat-conversation-simple@1/{language}"));
            let answer = answer.good();
            assert!(!answer["response"].as_str().unwrap().is_empty());
            assert_eq!((&answer["model"], &answer["prompt"]["language"]), (&json!("tiny"), &json!(language)));
            assert!(answer["generation_time"].as_f64().unwrap() > 0.0);

            // What the model saw is the prompt of that language and the statement, to the byte.
            let prompt = rendered(&gateway, language).await;
            let messages =
                json!([{"role": "system", "content": prompt}, {"role": "user", "content": "Dzień dobry!"}]);
            assert_eq!(
                answer["usage"]["prompt_tokens"],
                tokens_of(&server, messages).await,
                "{path} {language}"
            );
        }
        counts.push(rendered(&gateway, language).await);
    }
    assert_ne!(counts[0], counts[1]);
}

async fn a_streamed_conversation_names_its_prompt() {
    let (_server, gateway) = long().await;
    for path in ["/api/conversation_with_model", "/api/extended_conversation_with_model"] {
        // A stream is what comes without being asked for.
        let body = json!({"model_name": "tiny", "user_last_statement": "Cześć", "language": "pl"});
        let stream = gateway.stream(path, &body).await;
        let name = stream.headers["x-llm-prompt"].to_str().unwrap();
        assert_eq!(name, "chat-conversation-simple@1/pl");
        assert!(stream.is_done && !stream.text().is_empty());
        assert_eq!(stream.finish_reasons(), ["stop"]);
    }
}

async fn history_and_an_own_prompt_reach_the_model() {
    let (server, gateway) = long().await;
    let body = json!({"model_name": "tiny", "user_last_statement": "And now?", "stream": false, "max_new_tokens": 5,
        "system_prompt": "Be brief.",
        "historical_messages": [{"user": "Hello", "assistant": "Hi."}, {"role": "user", "content": "Still there?"},
            {"role": "assistant", "content": "Yes."}]});
    let answer = gateway.asked("/api/extended_conversation_with_model", &body).await;
    assert_eq!(answer["prompt"], Value::Null);
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Still there?"},
        {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And now?"}]);
    assert_eq!(answer["usage"]["prompt_tokens"], tokens_of(&server, messages).await);
}

async fn a_raw_request_reaches_any_path_of_the_server() {
    let (_server, gateway) = long().await;
    for addressee in [json!({"provider": "local"}), json!({"provider": "cloud"}), json!({"model": "tiny"})] {
        let mut body = json!({"path": "/tokenize", "body": {"content": "gęś"}});
        body.as_object_mut().unwrap().extend(addressee.as_object().unwrap().clone());
        let answer = gateway.post("/api/passthrough", &body).await;
        // Every byte is a token.
        assert_eq!(answer.good()["tokens"].as_array().unwrap().len(), "gęś".len());
    }
    let slots = json!({"provider": "local", "method": "GET", "path": "/slots"});
    assert_eq!(gateway.asked("/api/passthrough", &slots).await.as_array().unwrap().len(), 2);
}

async fn an_unwrapped_raw_request_is_answered_like_a_wrapped_one() {
    let (_server, gateway) = long().await;
    let answer = gateway.asked("/api/passthrough/local/tokenize", &json!({"content": "abc"})).await;
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 3);
    let models = gateway.get("/api/passthrough/local/v1/models").await.good();
    assert_eq!(models["data"][0]["id"], "tiny");
    // Answers come as they are, errors too.
    let missing = gateway.get("/api/passthrough/local/no/such/path").await;
    assert_eq!((missing.status, &missing.body["error"]["type"]), (404, &json!("not_found_error")));
}

async fn a_raw_request_streams() {
    let (server, gateway) = long().await;
    let inner = json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true, "ignore_eos": true});
    let body = json!({"provider": "local", "path": "/v1/chat/completions", "body": inner, "stream": true});
    let mut events = gateway.open("/api/passthrough", &body).await;
    for _ in 0..20 {
        assert!(matches!(events.next().await, Some(Event::Chunk(_))));
    }
    assert_eq!(server.busy_slots().await, 1, "the answer arrives while it is being made");
    drop(events);
    server.has_busy_slots(0, PATIENCE).await;
}

async fn discovered_models_are_listed_with_their_context() {
    let server = LlamaServer::short().await;
    for kind in ["llamacpp", "openai", "vllm"] {
        let provider = json!({"type": kind, "base_url": server.base_url(), "api_key": "${TINY_KEY}", "models": "discover"});
        let gateway = Gateway::start(&json!({"providers": {"box": provider}})).await;
        lists_the_tiny_model(&gateway, "box").await;
    }
}

async fn a_server_at_port_8000_is_found_without_any_file() {
    let mut server = LlamaServer::to_be_found().await;
    let gateway = Gateway::with_what_it_finds().await;
    lists_the_tiny_model(&gateway, "llama-server").await;
    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]});
    assert_eq!(gateway.post("/v1/chat/completions", &chat).await.header("x-llm-provider"), "llama-server");

    // What was found once is still known when it is away for a moment.
    server.kill().await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat).await.fault(), (502, "upstream_unreachable"));
    server.restart().await;
    eventually("the server is back", PATIENCE, async || {
        gateway.post("/v1/chat/completions", &chat).await.status == 200
    })
    .await;
}

async fn lists_the_tiny_model(gateway: &Gateway, provider: &str) {
    let tags = gateway.get("/api/tags").await.good();
    let tag = tags["models"].as_array().unwrap().iter().find(|tag| tag["name"] == "tiny").unwrap();
    assert_eq!((&tag["provider"], &tag["context"]), (&json!(provider), &json!(512)), "{tag}");
    let models = gateway.get("/v1/models").await.good();
    let card = models["data"].as_array().unwrap().iter().find(|card| card["id"] == "tiny").unwrap();
    assert_eq!(card["context_length"], 512, "{card}");
    assert_eq!(gateway.get("/v1/models/tiny").await.good()["id"], "tiny");
}
