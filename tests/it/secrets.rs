//! Planted secrets: no key, prompt, answer or query string reaches a log, an error, a figure or a debug print.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, answer, json, sse};

const KEY: &str = "sk-planted-provider-key-4711";
const HEADER: &str = "planted-header-value-4712";
const PROMPT: &str = "planted-prompt-4713";
const ANSWER: &str = "planted-answer-4714";
const QUERY: &str = "planted-query-4715";
const CALLER: &str = "planted-caller-key-4716";
const VARIABLE: &str = "planted-variable-4717";
const ADMIN: &str = "planted-admin-key-4718";
const ADDRESS: &str = "127.9.8.7";

const ALL: [&str; 9] = [KEY, HEADER, PROMPT, ANSWER, QUERY, CALLER, VARIABLE, ADMIN, ADDRESS];

fn assert_clean(place: &str, text: &str) {
    for secret in ALL {
        assert!(!text.contains(secret), "{place} shows `{secret}`:\n{text}");
    }
}

async fn upstream() -> Upstream {
    Upstream::start(|seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        let leaky = json!({"error": {"message": format!("key {KEY} with {HEADER} refused at http://{ADDRESS}:81/x for {PROMPT}")}});
        match () {
            () if body.contains("make-500") => vec![json(500, "", &leaky)],
            () if body.contains("make-400") => vec![json(400, "", &json!({"error": {"message": format!("odd value; {KEY}")}}))],
            () if body.contains("make-401") => vec![json(401, "", &leaky)],
            () if body.contains("make-garbage") => vec![json(200, "", &json!({"text": format!("{ANSWER} {KEY}")}))],
            () if body.contains("make-cut") => vec![sse(&[&json!({"choices": [{"index": 0, "delta": {"content": ANSWER}}]}).to_string()]), Step::Close],
            () if body.contains("make-close") => vec![Step::Close],
            () => vec![json(200, "", &json!({"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}]}))],
        }
    })
    .await
}

fn setup(upstream: &Upstream) -> Setup {
    Setup::new()
        .variable("PLANTED_KEY", KEY)
        .variable("PLANTED_HEADER", HEADER)
        .env("ADMIN_KEY", ADMIN)
        .models(&json!({"providers": {
            "up": {"type": "openai", "base_url": upstream.v1(), "api_key": "${PLANTED_KEY}", "headers": {"x-team": "${PLANTED_HEADER}"}, "models": {"m": {}}},
            "dead": {"type": "vllm", "base_url": format!("http://{ADDRESS}:9/v1"), "api_key": "${PLANTED_KEY}", "models": {"dead": {}}}}}))
}

/// Everything that can go right or wrong, and the errors that callers got to read.
async fn exercise(gateway: &Gateway) -> Vec<String> {
    let mut errors = Vec::new();
    for kind in ["fine", "make-500", "make-400", "make-401", "make-garbage", "make-cut", "make-close"] {
        for (model, stream) in [("m", false), ("m", true), ("dead", false)] {
            let body = json!({"model": model, "stream": stream, "user": kind, "messages": [{"role": "user", "content": PROMPT}]});
            let request = gateway
                .post(&format!("/api/chat?token={QUERY}"), &body)
                .header("authorization", format!("Bearer {CALLER}"));
            let response = request.send().await.unwrap();
            let text = response.text().await.unwrap();
            let told = text.lines().filter(|line| line.contains("\"error\""));
            // An upstream may quote what the caller said to it; the caller knows that.
            errors.extend(told.map(|line| line.replace(PROMPT, "")));
        }
    }
    let broken = [
        ("/api/chat", format!("{{\"model\":\"m\",\"messages\":\"{PROMPT}\"}}")),
        ("/api/chat", format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"{PROMPT}\",\"content\":\"x\"}}]}}")),
        ("/api/chat", format!("{PROMPT} {{")),
        ("/api/conversation_with_model", json!({"model_name": "m", "user_last_statement": PROMPT, "variables": {"x": VARIABLE}, "prompt": "translate"}).to_string()),
        ("/api/translate", json!({"model_name": "m", "texts": [PROMPT], "target_language": VARIABLE}).to_string()),
        ("/api/generative_answer", json!({"model_name": "m", "question_str": PROMPT, "texts": PROMPT}).to_string()),
        ("/api/prompts/translate/render", json!({"variables": {"target_language": {"x": VARIABLE}}}).to_string()),
        ("/api/passthrough", json!({"provider": "up", "path": format!("/v1/../{QUERY}"), "body": PROMPT}).to_string()),
        ("/api/passthrough", json!({"provider": "dead", "path": "/v1/x", "query": {"q": QUERY}, "body": PROMPT}).to_string()),
        ("/v1/embeddings", json!({"model": "dead", "input": PROMPT}).to_string()),
    ];
    for (path, body) in broken {
        let request = gateway
            .http()
            .post(format!("{}{path}?q={QUERY}", gateway.base()))
            .header("content-type", "application/json");
        errors.push(request.body(body).send().await.unwrap().text().await.unwrap());
    }
    for (name, value) in [("x-admin-key", ADMIN.to_owned()), ("authorization", format!("Bearer {ADMIN}x"))] {
        for path in ["/admin/reload", "/admin/reload?dry_run=true"] {
            let request = gateway.http().post(format!("{}{path}", gateway.base())).header(name, &value);
            errors.push(request.send().await.unwrap().text().await.unwrap());
        }
    }
    errors
}

#[tokio::test]
async fn nothing_planted_is_found_again() {
    let upstream = upstream().await;
    for (format, level, debug) in [("text", "DEBUG", ""), ("json", "trace", "1"), ("text", "INFO", "1")] {
        let setup = setup(&upstream).env("LOG_FORMAT", format).env("LOG_LEVEL", level).env("IN_DEBUG", debug);
        let gateway = setup.env("LOG_FILENAME", "gateway.log").start();

        let errors = exercise(&gateway).await;
        // A panic's own words and whatever a reload says belong to the log, too.
        std::fs::write(
            gateway.folder.path().join("models.json"),
            format!("{{\"providers\": {{\"x\": {{\"type\": \"openai\", \"api_key\": \"{KEY}\" {PROMPT}"),
        )
        .unwrap();
        gateway.signal("HUP");
        gateway.logged("ERROR");
        let refused = gateway.post("/admin/reload", &json!({})).header("x-admin-key", ADMIN);
        assert_clean("a refused reload", &refused.send().await.unwrap().text().await.unwrap());

        assert!(errors.len() > 20, "{errors:?}");
        for error in &errors {
            assert_clean(&format!("an error at {level}"), error);
        }
        let metrics = gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
        assert_clean("/metrics", &metrics);
        for path in ["/readyz", "/api/tags", "/v1/models", "/openapi.json"] {
            assert_clean(path, &answer(gateway.get(path)).await.1.to_string());
        }
        assert_clean(&format!("the log at {level}"), &gateway.log());
        let files = std::fs::read_dir(gateway.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs: Vec<_> = files
            .filter(|path| {
                path.to_string_lossy().contains("gateway") && path.to_string_lossy().contains("log")
            })
            .collect();
        assert!(!logs.is_empty());
        for log in logs {
            let text = std::fs::read_to_string(&log).unwrap();
            assert!(text.len() > 500, "the file is written: {text}");
            assert_clean(&log.display().to_string(), &text);
        }
    }
}

#[test]
fn commands_do_not_show_keys_either() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let upstream = runtime.block_on(upstream());
    let setup = setup(&upstream);
    for command in ["check", "models", "openapi"] {
        let ended = setup.run(&[command]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_clean(command, &format!("{}{}", ended.stdout, ended.stderr));
    }
    let broken = format!(
        "{{\"providers\": {{\"up\": {{\"type\": \"openai\", \"api_key\": \"{KEY}\", \"modles\": {{}} }} }} }}"
    );
    let yaml = format!("providers:\n  up:\n    type: openai\n    api_key: {KEY}\n    modles: {{}}\n");
    for (name, text) in [("models.json", broken), ("models.yaml", yaml)] {
        let setup = Setup::new().file(name, &text).env("MODELS_CONFIG", name);
        let ended = setup.run(&["check"]);
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("modles"), "{}", ended.stderr);
        assert_clean(name, &ended.stderr);
    }
}

#[tokio::test]
async fn debug_prints_of_the_configuration_hide_keys() {
    use llm_proxy_api::config::{Catalog, Environment, Timeouts};
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("models.json");
    let value: Value = json!({"providers": {"up": {"type": "openai", "base_url": "http://h/v1", "api_key": KEY, "headers": {"x-a": HEADER}, "models": {"m": {}}}}});
    std::fs::write(&path, value.to_string()).unwrap();
    let environment = Environment::load(folder.path()).unwrap();
    let catalog = Catalog::load(&path, &environment, Timeouts::default(), false).unwrap();
    assert_clean("Debug", &format!("{catalog:?} {:#?}", catalog.providers));
}
