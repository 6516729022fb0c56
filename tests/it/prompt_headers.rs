//! A prompt of the library before a chat in OpenAI's dialect, asked for by headers.

use serde_json::{Value, json};

use crate::support::{Gateway, PATIENCE, Setup, Step, Upstream, answer, eventually, fixture, json_of};

const CHAT: &str = "/v1/chat/completions";
const ADMIN: &str = "an-admin-key-of-some-length";
const GREET: &str = "---\nversion: 2\ninput:\n  schema:\n    name: string\nconfig:\n  temperature: 0.3\n  max_tokens: 7\n---\nGreet {{name}}.";

async fn both() -> (Upstream, Gateway) {
    let upstream = Upstream::answering(Step::Send(fixture("openai/chat"))).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"])
        .env("PROMPTS_DIR", "prompts")
        .env("ADMIN_KEY", ADMIN)
        .file("prompts/en/greet.prompt", GREET)
        .file("prompts/pl/greet.prompt", "Powitaj: {{name}}.")
        .start();
    (upstream, gateway)
}

fn says(more: &Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": false});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn the_prompt_stands_before_what_the_caller_says() {
    let (upstream, gateway) = both().await;
    for path in [CHAT, "/api/v1/chat/completions", "/api/chat"] {
        let request = gateway.post(path, &says(&json!({"seed": 18_446_744_073_709_551_615_u64, "own": [1]})));
        let response = request
            .header("x-llm-prompt", "greet@2")
            .header("x-llm-language", "pl-PL")
            .header("x-llm-variables", "{\"name\": \"\u{141}ucja \\u017b\"}")
            .send()
            .await
            .unwrap();
        assert_eq!(response.headers()["x-llm-prompt"], "greet@2/pl", "{path}");
        assert_eq!(response.status(), 200);
        let sent = upstream.last();
        let messages = json!([{"role": "system", "content": "Powitaj: \u{141}ucja \u{17b}."}, {"role": "user", "content": "Hi"}]);
        assert_eq!(sent["messages"], messages, "{path}");
        // The translation has the settings of its source.
        assert_eq!((&sent["temperature"], &sent["max_tokens"]), (&json!(0.3), &json!(7)));
        assert_eq!((&sent["seed"], &sent["own"]), (&json!(18_446_744_073_709_551_615_u64), &json!([1])));
    }
    assert!(gateway.logged("Request").contains("greet@2/pl"));
    let told = "/admin/usage?group_by=prompt,outcome,endpoint";
    eventually("usage by prompt", async || {
        let told = answer(gateway.get(told).header("x-admin-key", ADMIN)).await.1;
        let of = |row: &Value| (row["prompt"] == "greet@2/pl") && (row["outcome"] == "completed");
        told["rows"].as_array().unwrap().iter().filter(|row| of(row)).count() == 3
    })
    .await;
}

#[tokio::test]
async fn what_the_caller_says_holds_before_what_the_prompt_suggests() {
    let (upstream, gateway) = both().await;
    let body = says(&json!({"temperature": 1.5, "max_completion_tokens": 9}));
    let request = gateway.post(CHAT, &body).header("x-llm-prompt", "greet");
    let response = request.header("x-llm-variables", "{\"name\":\"Ada\"}").send().await.unwrap();
    assert_eq!(response.headers()["x-llm-prompt"], "greet@2/en");
    let sent = upstream.last();
    assert_eq!((&sent["temperature"], &sent["max_completion_tokens"]), (&json!(1.5), &json!(9)));
    assert_eq!(sent["max_tokens"], Value::Null);

    gateway.ask(CHAT, &body).await;
    assert_eq!(upstream.last()["messages"], body["messages"], "without the header nothing is added");
}

#[tokio::test]
async fn headers_that_cannot_be_followed_are_named() {
    let (upstream, gateway) = both().await;
    for (headers, status, param, words) in [
        (vec![("x-llm-prompt", "gret")], 404, "x-llm-prompt", "`gret` does not exist"),
        (vec![("x-llm-prompt", "greet@9")], 404, "x-llm-prompt", "`9`"),
        (vec![("x-llm-prompt", " ")], 400, "x-llm-prompt", "must name a prompt"),
        (vec![("x-llm-prompt", "greet")], 400, "variables.name", "`name`"),
        (
            vec![("x-llm-prompt", "greet"), ("x-llm-variables", "{\"nmae\": \"Ada\"}")],
            400,
            "variables.name",
            "`nmae`",
        ),
        (
            vec![("x-llm-prompt", "greet"), ("x-llm-variables", "name=Ada")],
            400,
            "x-llm-variables",
            "JSON object",
        ),
        (vec![("x-llm-prompt", "greet"), ("x-llm-language", "?")], 400, "x-llm-language", "language tag"),
    ] {
        for path in [CHAT, "/api/explain"] {
            let request = gateway.post(path, &says(&json!({})));
            let request =
                headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let (told, error) = answer(request).await;
            let error = &error["error"];
            assert_eq!((told, error["param"].as_str()), (status, Some(param)), "{path} {headers:?}: {error}");
            assert!(error["message"].as_str().unwrap().contains(words), "{headers:?}: {error}");
        }
    }
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn what_has_no_place_for_a_prompt_says_so() {
    let gateway = Setup::new().start();
    for (path, body) in [
        ("/v1/completions", json!({"model": "echo", "prompt": "Hi"})),
        ("/v1/embeddings", json!({"model": "echo", "input": "Hi"})),
    ] {
        let request = gateway.post(path, &body).header("x-llm-prompt", "simplify-text");
        let response = request.timeout(PATIENCE).send().await.unwrap();
        assert_eq!(response.headers()["x-llm-ignored-options"], "x-llm-prompt", "{path}");
    }
    let explained = gateway
        .post("/api/explain", &json!({"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}));
    let explained = explained.header("x-llm-prompt", "simplify-text").header("x-llm-language", "pl");
    let explained = json_of(explained.send().await.unwrap()).await;
    assert_eq!(
        (&explained["prompt"]["name"], &explained["prompt"]["language"]),
        (&json!("simplify-text"), &json!("pl"))
    );
}
