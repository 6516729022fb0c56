//! A request over which an engine crashes ends one engine, and no other.

use serde_json::{Value, json};

use crate::engines::{CHAT, journal, one, says, setup, streams};
use crate::support::engine::fake_llama_server;
use crate::support::{Gateway, Setup, eventually};

fn tiny(args: &str) -> Gateway {
    setup(&json!({"tiny": one(&format!("-np 2 {args}"))}), &json!({})).start()
}

fn told(error: &Value) -> (&Value, &Value) {
    (&error["error"]["type"], &error["error"]["code"])
}

#[tokio::test]
async fn a_request_over_which_an_engine_crashes_is_not_tried_again() {
    let raw = "/api/passthrough/local/v1/chat/completions";
    for (path, body) in [
        (CHAT, says("tiny", "please crash now")),
        (CHAT, streams("tiny", "please crash now")),
        ("/api/chat", says("tiny", "one more crash")),
        (raw, says("tiny", "crash")),
    ] {
        let gateway = tiny("");
        let (status, error) = gateway.ask(path, &body).await;
        assert_eq!(
            (status, told(&error)),
            (502, (&json!("upstream_error"), &json!("upstream_protocol"))),
            "{error}"
        );
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("crashed over this request"), "{message}");
        assert_eq!(journal(&gateway, "start"), ["1024 start"], "{path}");
        // The next one is served, and nothing cools down.
        assert_eq!(gateway.ask(CHAT, &says("tiny", "answer=1")).await.0, 200);
        assert_eq!(journal(&gateway, "start").len(), 2);
    }
}

#[tokio::test]
async fn those_who_were_there_before_are_served_by_the_next_engine() {
    let gateway = tiny("--fake-token-ms 1500");
    assert_eq!(gateway.ask(CHAT, &says("tiny", "answer=1")).await.0, 200);
    let before = tokio::spawn(gateway.post(CHAT, &says("tiny", "i was first answer=2")).send());
    let running = async || journal(&gateway, "request").len() == 2;
    eventually("the first one is at work", running).await;
    let (status, error) = gateway.ask(CHAT, &says("tiny", "crash")).await;
    assert_eq!((status, told(&error).1), (502, &json!("upstream_protocol")), "{error}");
    assert_eq!(before.await.unwrap().unwrap().status(), 200, "it is tried again unseen");
    assert_eq!(journal(&gateway, "start").len(), 2);
}

/// Two providers with the same engine, and one without.
fn several() -> Setup {
    let base = Setup::new();
    let journal = base.path("journal").display().to_string();
    let local = |priority: u32| {
        json!({"type": "llamacpp", "binary": fake_llama_server(), "args": ["--fake-journal", journal],
            "models": {"m": {"priority": priority, "variants": [{"context": 1024}]}}})
    };
    let cloud = json!({"type": "echo", "models": {"m": {"priority": 3}}});
    let spare = json!({"type": "llamacpp", "binary": fake_llama_server(), "args": ["--fake-journal", journal],
        "models": {"spare": {"variants": [{"context": 1024}]}, "m2": {"variants": [{"context": 1024}]}}});
    let providers = json!({"one": local(1), "two": local(2), "cloud": cloud, "three": spare});
    let policies = json!({"m2": {"fallbacks": ["spare"]}});
    let runtime = base.path(".").display().to_string();
    base.models(&json!({"providers": providers, "models": policies})).variable("XDG_RUNTIME_DIR", &runtime)
}

#[tokio::test]
async fn no_other_engine_gets_it_but_another_kind_of_provider_may() {
    let gateway = several().start();
    let answer = gateway.post(CHAT, &says("m", "crash")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-llm-provider"], "cloud");
    assert_eq!(journal(&gateway, "start").len(), 1);
    let (status, error) = gateway.ask(CHAT, &says("m2", "crash")).await;
    assert_eq!((status, told(&error).1), (502, &json!("upstream_protocol")), "{error}");
    assert_eq!(journal(&gateway, "start").len(), 2, "its fallback is an engine as well");
}
