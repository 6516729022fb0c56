//! What the log, the figures and the errors say of failures, to those who have to mend them.

use serde_json::json;

use crate::support::{Setup, Step, Upstream, answer, fixture, json};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn each_kind_of_failed_attempt_is_a_warning_that_says_why_and_repeated_ones_are_not() {
    let good = Upstream::answering(Step::Send(fixture("openai/chat"))).await;
    let rejecting =
        Upstream::answering(json(401, "", &json!({"error": {"message": "words of the server"}}))).await;
    let failing =
        Upstream::answering(json(500, "", &json!({"error": {"message": "words of the server"}}))).await;
    for (url, word, told) in [
        ("http://127.0.0.1:1/v1".to_owned(), "unreachable", "Connection refused"),
        ("http://nowhere.invalid/v1".to_owned(), "unreachable", "nowhere.invalid"),
        (rejecting.v1(), "unauthorized", "rejected the key with 401"),
        (failing.v1(), "unavailable", "failed with status 500"),
    ] {
        let provider = |url: &str, priority: u8| json!({"type": "openai", "base_url": url, "models": {"m": {"priority": priority}, format!("alone{priority}"): {}}});
        let providers = json!({"bad": provider(&url, 1), "good": provider(&good.v1(), 2)});
        let gateway = Setup::new().models(&json!({"providers": providers})).start();
        let says =
            |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "private words"}]});
        let response = gateway.post(CHAT, &says("m")).header("x-request-id", "req-77").send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-llm-attempts"]),
            (200, &"2".parse().unwrap())
        );
        let line = gateway.logged("An attempt has failed");
        let line = line.lines().find(|line| line.contains("An attempt has failed")).unwrap();
        let host = url.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap();
        for part in ["WARN", "req-77", "bad", host, told, "cooldown_s"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!line.contains("private words") && !line.contains("words of the server"), "{line}");
        for figure in ["llm_proxy_cooldowns_total", "llm_proxy_failovers_total"] {
            let label = format!("provider=\"bad\",model=\"m\",cause=\"{word}\"");
            assert!(gateway.figure(figure, &label).await >= 1.0, "{figure} {label}");
        }

        let mut statuses = Vec::new();
        for _ in 0..5 {
            statuses.push(gateway.post(CHAT, &says("alone1")).send().await.unwrap().status().as_u16());
        }
        assert!(statuses.iter().all(|status| matches!(status, 502 | 503)), "{statuses:?}");
        gateway.logged("alone1");
        let log = gateway.log();
        let warned = log.lines().filter(|line| line.contains("An attempt has failed")).count();
        assert!((1..=3).contains(&warned), "one for each model, and another one after 10 s: {log}");
        let of_request = log.lines().filter(|line| line.contains("Request") && line.contains("status=50"));
        assert!(
            of_request.clone().count() >= 1 && of_request.into_iter().all(|line| line.contains("WARN")),
            "{log}"
        );
    }
}

#[tokio::test]
async fn paths_and_prompts_that_are_not_there_are_named_with_what_was_perhaps_meant() {
    let gateway = Setup::new().start();
    for (path, meant) in [
        ("/v1/chat/completion", Some("/v1/chat/completions")),
        ("/v1/embedding", Some("/v1/embeddings")),
        ("/api/rout", Some("/api/routes")),
        ("/zzz", None),
    ] {
        let (status, error) = answer(gateway.get(path)).await;
        let message = error["error"]["message"].as_str().unwrap();
        assert_eq!((status, &error["error"]["code"]), (404, &json!("unknown_path")), "{message}");
        assert!(message.contains(&format!("`{path}`")), "{message}");
        let suggested = meant.map(|meant| format!("did you mean `{meant}`?"));
        assert_eq!(message.contains("did you mean"), suggested.is_some(), "{message}");
        assert!(suggested.is_none_or(|suggested| message.contains(&suggested)), "{message}");
    }
    let (status, error) = answer(gateway.get("/api/prompts/chat-conversation-simpel")).await;
    let message = error["error"]["message"].as_str().unwrap();
    assert_eq!(status, 404, "{message}");
    assert!(message.contains("did you mean `chat-conversation-simple`?"), "{message}");
}
