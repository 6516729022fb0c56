//! The document and its page.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, answer, events_of};

const ADMIN_KEY: &str = "planted-admin-key-of-the-tests";

async fn document(gateway: &Gateway) -> Value {
    answer(gateway.get("/openapi.json")).await.1
}

/// All operations, with their path and method.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &'_ Value)| {
        let path = path.clone();
        item.as_object()
            .unwrap()
            .iter()
            .map(move |(method, _)| (path.clone(), method.clone()))
            .collect::<Vec<_>>()
    };
    let all: Vec<(String, String)> = paths.iter().flat_map(of_path).collect();
    all.into_iter()
        .map(|(path, method)| {
            let operation = &document["paths"][&path][&method];
            (path, method, operation)
        })
        .collect()
}

#[tokio::test]
async fn every_reference_leads_to_a_schema() {
    let gateway = Setup::new().start();
    let document = document(&gateway).await;
    let text = document.to_string();
    let references = text.split("\"$ref\":\"#").skip(1).map(|behind| behind.split('"').next().unwrap());
    let (known, unknown): (Vec<&str>, Vec<&str>) =
        references.partition(|reference| document.pointer(reference).is_some());
    assert!(known.len() > 100, "{}", known.len());
    assert_eq!(unknown, [] as [&str; 0]);
}

#[tokio::test]
async fn every_endpoint_is_documented_with_its_errors() {
    let gateway = Setup::new().start();
    let document = document(&gateway).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.0"));
    let all = operations(&document);
    for (path, method) in [
        ("/api/chat", "post"),
        ("/api/conversation_with_model", "post"),
        ("/api/extended_conversation_with_model", "post"),
        ("/api/translate", "post"),
        ("/api/simplify_text", "post"),
        ("/api/generate_questions", "post"),
        ("/api/generative_answer", "post"),
        ("/api/generate_article_from_text", "post"),
        ("/api/create_full_article_from_texts", "post"),
        ("/api/tags", "get"),
        ("/api/ping", "get"),
        ("/api/passthrough", "post"),
        ("/api/passthrough/{provider}/{path}", "get"),
        ("/api/prompts", "get"),
        ("/api/prompts/{name}", "get"),
        ("/api/prompts/{name}/render", "post"),
        ("/v1/chat/completions", "post"),
        ("/v1/completions", "post"),
        ("/v1/embeddings", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{id}", "get"),
        ("/api/engines", "get"),
        ("/api/engines/events", "get"),
        ("/api/engines/{model}/log", "get"),
        ("/livez", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
    ] {
        let (_, _, operation) = all
            .iter()
            .find(|(p, m, _)| p == path && m == method)
            .unwrap_or_else(|| panic!("{method} {path}"));
        assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{path}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.contains_key("200"));
        assert_eq!(operation.get("requestBody").is_some(), responses.contains_key("413"), "{path}");
        if method == "post" {
            for status in ["400", "403", "404", "408", "413", "415", "503"] {
                assert!(responses.contains_key(status), "{status} of {path}");
            }
        }
        for status in ["502", "504"] {
            let asks_a_provider =
                method == "post" && !path.ends_with("/render") || path.contains("passthrough");
            assert_eq!(responses.contains_key(status), asks_a_provider, "{status} of {path}");
        }
    }
    let ids: std::collections::HashSet<&str> =
        all.iter().filter_map(|(_, _, operation)| operation["operationId"].as_str()).collect();
    assert_eq!(ids.len(), all.len(), "ids are unique");
}

#[tokio::test]
async fn examples_run_as_they_stand() {
    let gateway = Setup::new().env("ADMIN_KEY", ADMIN_KEY).start();
    let document = document(&gateway).await;
    let created = gateway.post("/admin/keys", &json!({"name": "a"})).bearer_auth(ADMIN_KEY);
    let id = answer(created).await.1["id"].as_str().unwrap().to_owned();
    let mut tried = 0;
    for (path, method, operation) in operations(&document) {
        let content = &operation["requestBody"]["content"]["application/json"];
        // Who is asked for no key has none that could be rotated.
        if content.is_null() || path.ends_with("/me/rotate") {
            continue;
        }
        let example =
            example_of(&document, &content["schema"]).unwrap_or_else(|| panic!("{path} has no example"));
        let path = path
            .replace("/admin/models/{name}", "/admin/models/echo")
            .replace("{name}", "chat-conversation-simple")
            .replace("{provider}", "echo")
            .replace("{path}", "v1/x")
            .replace("{id}", &id);
        tried += 1;
        let url = format!("{}{path}", gateway.base());
        let request = gateway.http().request(method.to_uppercase().parse().unwrap(), url);
        let request = request.header("content-type", "application/json").bearer_auth(ADMIN_KEY);
        let request = request.body(example.to_string());
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert_eq!(status, 200, "{path}: {text}\n{example}");
    }
    assert!(tried >= 18, "{tried}");
}

/// The example of a schema, if need be through its name.
fn example_of(document: &Value, schema: &Value) -> Option<Value> {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.trim_start_matches('#'))?;
        return example_of(document, schema);
    }
    schema.get("example").cloned()
}

#[tokio::test]
async fn the_page_works_without_any_other_host() {
    let gateway = Setup::new().start();
    let response = gateway.get("/docs").send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    let page = response.text().await.unwrap();
    for other in ["src=\"http", "href=\"http", "src=\"//", "@import", "unpkg", "cdn."] {
        assert!(!page.contains(other), "{other}");
    }
    assert!(page.len() > 100_000, "its script is within");
}

#[tokio::test]
async fn a_stream_of_the_document_is_what_is_sent() {
    let gateway = Setup::new().start();
    let document = document(&gateway).await;
    let content = &document["paths"]["/api/chat"]["post"]["responses"]["200"]["content"];
    let chunk = document
        .pointer(
            content["text/event-stream"]["schema"]["items"]["$ref"].as_str().unwrap().trim_start_matches('#'),
        )
        .unwrap();
    let required: Vec<&str> =
        chunk["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": "x"}]});
    for event in events_of(gateway.post("/api/chat", &body)).await.iter().filter(|event| event.is_object()) {
        for name in &required {
            assert!(event.get(*name).is_some(), "{name} in {event}");
        }
    }
}

#[test]
fn the_command_prints_the_same_document() {
    let setup = Setup::new();
    let printed: Value = serde_json::from_str(&setup.run(&["openapi"]).stdout).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gateway = setup.start();
    assert_eq!(runtime.block_on(document(&gateway)), printed);
}
