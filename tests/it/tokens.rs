//! How many tokens something has: asked of whoever counts for nothing, and of nobody else.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engine::fake_llama_server;
use crate::support::{Gateway, Setup, Step, Upstream, answer, json};

const COUNT: &str = "/api/tokenize/count";

/// What the answer says: how many, who counted, and of each.
async fn counted(gateway: &Gateway, body: &Value) -> Value {
    let (status, answer) = gateway.ask(COUNT, body).await;
    assert_eq!((status, &answer["model"]), (200, &body["model"]), "{answer}");
    json!([answer["count"], answer["source"], answer["detail"]])
}

fn texts(model: &str) -> Value {
    json!({"model": model, "input": ["12345678", "1"]})
}

fn conversation(model: &str) -> Value {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    json!({"model": model, "messages": [{"role": "user", "content": "one two"}], "tools": tools})
}

#[tokio::test]
async fn where_nobody_counts_for_nothing_it_is_an_estimate_and_nobody_is_asked() {
    for kind in ["openai", "ollama"] {
        let upstream = Upstream::answering(json(200, "", &json!({"count": 99, "tokens": [1]}))).await;
        let gateway = Setup::upstream(kind, &upstream.url(), &["m"]).start();
        assert_eq!(counted(&gateway, &texts("m")).await, json!([3, "estimated", [2, 1]]));
        assert_eq!(
            counted(&gateway, &json!({"model": "m", "input": "12345678"})).await,
            json!([2, "estimated", null])
        );
        let body = conversation("m");
        let bytes = body["messages"].to_string().len() + body["tools"].to_string().len();
        assert_eq!(counted(&gateway, &body).await, json!([bytes.div_ceil(4), "estimated", null]));
        let (status, answer) = gateway.ask("/extras/tokenize/count", &texts("m")).await;
        assert_eq!((status, &answer["count"], &answer["source"]), (200, &json!(3), &json!("estimated")));
        assert!(upstream.seen().is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn a_vllm_counts_itself() {
    let upstream = Upstream::start(|seen| {
        let counted = seen.json()["prompt"].as_str().map_or(40, str::len);
        vec![json(200, "", &json!({"count": counted, "max_model_len": 100, "tokens": []}))]
    })
    .await;
    let models = json!({"public": {"upstream": "real"}});
    let provider =
        json!({"type": "vllm", "base_url": upstream.v1(), "api_key": "provider-key-1", "models": models});
    let gateway = Setup::new().models(&json!({"providers": {"up": provider}})).start();

    assert_eq!(counted(&gateway, &texts("public")).await, json!([9, "provider", [8, 1]]));
    assert_eq!(counted(&gateway, &conversation("public")).await, json!([40, "provider", null]));

    let seen = upstream.seen();
    assert!(seen.iter().all(|seen| (seen.method.as_str(), seen.path.as_str()) == ("POST", "/tokenize")));
    assert!(seen.iter().all(|seen| seen.header("authorization") == Some("Bearer provider-key-1")));
    assert_eq!(seen[0].json(), json!({"prompt": "12345678", "model": "real"}));
    assert_eq!(seen[2].json(), conversation("real"));
}

#[tokio::test]
async fn a_llama_server_counts_itself_and_an_older_one_too() {
    for is_old in [false, true] {
        let upstream = Upstream::start(move |seen| match seen.path.as_str() {
            "/tokenize" => {
                let length = seen.json()["content"].as_str().unwrap().len();
                vec![json(200, "", &json!({"tokens": vec![7; length]}))]
            }
            "/apply-template" if is_old => vec![json(200, "", &json!({"prompt": "<user>x"}))],
            "/v1/chat/completions/input_tokens" if !is_old => {
                vec![json(200, "", &json!({"input_tokens": 33}))]
            }
            _ => vec![json(404, "", &json!({"error": {"message": "File Not Found", "code": 404}}))],
        })
        .await;
        let gateway = Setup::upstream("llamacpp", &upstream.v1(), &["m"]).start();
        assert_eq!(counted(&gateway, &texts("m")).await, json!([9, "provider", [8, 1]]));
        assert!(upstream.seen()[0].json()["add_special"].as_bool().unwrap(), "as a prompt begins");
        let expected = if is_old { 7 } else { 33 };
        assert_eq!(counted(&gateway, &conversation("m")).await, json!([expected, "provider", null]));
        let asked =
            upstream.seen().into_iter().find(|seen| seen.path.contains("input_tokens")).unwrap().json();
        assert_eq!(asked["tools"], conversation("m")["tools"]);
    }
}

#[tokio::test]
async fn who_does_not_say_in_time_or_at_all_is_not_waited_for() {
    let failing = Upstream::answering(json(500, "", &json!({"error": "x"}))).await;
    let odd = Upstream::answering(json(200, "", &json!({"tokens": "many"}))).await;
    let silent = Upstream::answering(Step::Hold).await;
    for upstream in [&failing, &odd, &silent] {
        let gateway = Setup::upstream("vllm", &upstream.v1(), &["m"]).start();
        let began = Instant::now();
        assert_eq!(counted(&gateway, &texts("m")).await, json!([3, "estimated", [2, 1]]));
        assert!(began.elapsed() < Duration::from_secs(4));
        assert_eq!(upstream.seen().len(), 1);
    }
}

#[tokio::test]
async fn the_next_deployment_counts_where_the_first_cannot() {
    let upstream = Upstream::answering(json(200, "", &json!({"count": 5}))).await;
    let first = json!({"type": "openai", "base_url": "http://127.0.0.1:9", "models": {"m": {"priority": 1}}});
    let second = json!({"type": "vllm", "base_url": upstream.v1(), "models": {"m": {"priority": 2}}});
    let gateway = Setup::new().models(&json!({"providers": {"a": first, "b": second}})).start();
    assert_eq!(counted(&gateway, &json!({"model": "m", "input": "x"})).await, json!([5, "provider", null]));
}

#[tokio::test]
async fn an_engine_counts_when_it_runs_and_is_not_started_for_it() {
    let setup = Setup::new();
    let runtime = setup.path(".").display().to_string();
    let local = json!({"type": "llamacpp", "binary": fake_llama_server(), "models": {"tiny": {"variants": [{"context": 1024}]}}});
    let gateway =
        setup.models(&json!({"providers": {"local": local}})).variable("XDG_RUNTIME_DIR", &runtime).start();
    let body = json!({"model": "tiny", "input": ["one two three", "one"]});
    assert_eq!(counted(&gateway, &body).await, json!([5, "estimated", [4, 1]]));
    let (_, engines) = answer(gateway.get("/api/engines")).await;
    assert_eq!(engines["engines"][0]["state"], "cold");

    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(gateway.ask("/v1/chat/completions", &chat).await.0, 200);

    assert_eq!(counted(&gateway, &body).await, json!([4, "engine", [3, 1]]));
    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": "one two three"}]});
    assert_eq!(counted(&gateway, &chat).await, json!([5, "engine", null]));
}

#[tokio::test]
async fn faults_are_told_with_their_place() {
    let gateway = Setup::new().start();
    for (body, status, param, code) in [
        (json!({"model": "nobody", "input": "x"}), 404, json!("model"), "model_not_found"),
        (json!({"input": "x"}), 400, json!("model"), "missing_field"),
        (json!({"model": "echo"}), 400, json!("input"), "missing_field"),
        (json!({"model": "echo", "input": 3}), 400, json!("input"), "invalid_value"),
        (
            json!({"model": "echo", "messages": [{"role": "boss"}]}),
            400,
            json!("messages[0].role"),
            "invalid_value",
        ),
        (json!([]), 400, Value::Null, "invalid_json"),
    ] {
        for path in [COUNT, "/extras/tokenize/count"] {
            let (told, error) = gateway.ask(path, &body).await;
            let error = &error["error"];
            assert_eq!((told, &error["param"], &error["code"]), (status, &param, &json!(code)), "{body}");
        }
    }
}
