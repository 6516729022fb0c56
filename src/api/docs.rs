//! The document: what poem-openapi makes of the operations, put right where it says too little or what is not so.

mod schemas;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use poem_openapi::types::Type;
use poem_openapi::{OpenApi, OpenApiService};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::schema::ErrorBody;
use super::{DocumentOnly, admin, documented, door, error};

const TITLE: &str = "llm-proxy-api";
const DESCRIPTION: &str = "One gateway between applications and language models: chat and conversations with prompts from a library, \
    over OpenAI-compatible servers, Ollama, vLLM and llama.cpp. The model `echo` answers without any of them, so every example here runs as it stands.";

/// The prefix under which the operations are declared.
pub(super) const DECLARED_PREFIX: &str = "/api";

/// A declared path, below the prefix that is configured.
pub(super) fn rebased(path: &str, prefix: &str) -> String {
    match path.strip_prefix(DECLARED_PREFIX) {
        Some(rest) if rest.starts_with('/') => format!("{prefix}{rest}"),
        _ => path.to_owned(),
    }
}

/// The document as JSON.
pub fn document(prefix: &str) -> String {
    let service =
        OpenApiService::new(documented(), TITLE, env!("CARGO_PKG_VERSION")).description(DESCRIPTION);
    let mut document: Value = serde_json::from_str(&service.spec()).unwrap_or_default();
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        let declared = std::mem::take(paths);
        paths.extend(
            declared
                .into_iter()
                .map(|(path, item)| (path_of(&path, prefix), narrowed(&path, with_parameters(&path, item)))),
        );
    }
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas::mend(schemas);
    }
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        components.insert("securitySchemes".into(), security_schemes());
    }
    if let Some(tags) = document.get_mut("tags").and_then(Value::as_array_mut) {
        tags.sort_by_key(place_of);
    }
    if let Some(root) = document.as_object_mut() {
        // Calls go to where the page came from.
        root.insert("servers".into(), json!([{"url": "/"}]));
    }
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// The page that shows the document: Swagger UI, whole, without anything from other hosts.
pub(super) fn page(prefix: &str) -> String {
    let service =
        OpenApiService::new(documented(), TITLE, env!("CARGO_PKG_VERSION")).description(DESCRIPTION);
    let html = service.swagger_ui_html().replacen(&service.spec(), &document(prefix), 1);
    // The empty icon keeps browsers from asking for one.
    let head = format!("<title>{TITLE}</title><link rel=\"icon\" href=\"data:,\">");
    html.replacen("<title>Swagger UI</title>", &head, 1)
}

/// What the page may do: run its own scripts, which are known by their digests, and ask this service. No other site may
/// show it within a page of its own: what is typed in there is a key.
pub(super) fn policy(page: &str) -> String {
    let (mut scripts, mut rest) = (String::new(), page);
    // A script ends where the first end of one stands, whatever else is written in it.
    while let Some((text, behind)) = rest
        .split_once("<script")
        .and_then(|(_, tag)| tag.split_once('>'))
        .and_then(|(_, text)| text.split_once("</script>"))
    {
        scripts += " 'sha256-";
        BASE64_STANDARD.encode_string(Sha256::digest(text), &mut scripts);
        scripts.push('\'');
        rest = behind;
    }
    format!(
        "default-src 'none'; script-src{scripts}; style-src 'unsafe-inline'; img-src data:; font-src data:; \
         media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The groups of operations in the order in which they are wanted: chat first. Those that are not named follow.
const GROUPS: [&str; 8] =
    ["OpenAI", "Facade", "Utilities", "Prompts", "Engines", "Operators", "Own", "Admin"];

fn place_of(tag: &Value) -> usize {
    let name = tag.get("name").and_then(Value::as_str);
    GROUPS.iter().position(|group| name == Some(*group)).unwrap_or(GROUPS.len())
}

/// A wildcard is a parameter for readers of the document.
fn path_of(path: &str, prefix: &str) -> String {
    let named: Vec<String> = rebased(path, prefix)
        .split('/')
        .map(|segment| {
            segment.strip_prefix('*').map_or_else(|| segment.to_owned(), |name| format!("{{{name}}}"))
        })
        .collect();
    named.join("/")
}

/// What a pattern of the router is called in the document, for logs and figures.
pub(super) fn documented_path(pattern: &str, prefix: &str) -> String {
    let is_variable = |segment: &str| segment.starts_with([':', '*', '{']);
    let is_same = |documented: &String| {
        let (one, other) = (documented.split('/'), pattern.split('/'));
        one.clone().count() == other.clone().count()
            && one.zip(other).all(|(one, other)| one == other || is_variable(one) && is_variable(other))
    };
    let paths = DocumentOnly::meta().into_iter().flat_map(|api| api.paths);
    let mut documented = paths.map(|path| path_of(&path.path, prefix));
    documented.find(is_same).unwrap_or_else(|| path_of(pattern, prefix))
}

/// Path parameters that the operations read by themselves.
fn with_parameters(path: &str, mut item: Value) -> Value {
    let segments = path.split('/');
    let by_itself = segments.filter_map(|segment| {
        let name = segment.strip_prefix('*').or_else(|| segment.strip_prefix('{')?.strip_suffix('}'))?;
        Some(name.to_owned())
    });
    for name in by_itself {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            add_parameter(operation, &name, path.starts_with(admin::ROOT));
        }
    }
    item.as_object_mut().into_iter().flat_map(Map::values_mut).for_each(add_examples);
    item
}

/// Something that is there on every machine, for parameters of paths that would be empty otherwise.
fn add_examples(operation: &mut Value) {
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten().filter_map(Value::as_object_mut) {
        let is_of_path = parameter.get("in").is_some_and(|place| place == "path");
        let example = match parameter.get("name").and_then(Value::as_str) {
            Some("model") => "echo",
            Some("name") => "chat-conversation-simple",
            _ => continue,
        };
        if is_of_path {
            parameter.entry("example").or_insert_with(|| example.into());
        }
    }
}

/// How keys are sent.
fn security_schemes() -> Value {
    json!({
        "CallerBearer": {"type": "http", "scheme": "bearer", "description": "A caller's key, where callers need one."},
        "CallerHeader": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "A caller's key, where callers need one."},
        "MetricsBearer": {"type": "http", "scheme": "bearer", "description": "The key of the figures, or the admin key."},
        "AdminBearer": {"type": "http", "scheme": "bearer", "description": "The admin key."},
        "AdminHeader": {"type": "apiKey", "in": "header", "name": "x-admin-key", "description": "The admin key."},
    })
}

/// Without the errors that an operation cannot have, and with the key that it asks for.
fn narrowed(path: &str, mut item: Value) -> Value {
    let asks_a_provider = [
        "chat",
        "conversation",
        "completions",
        "embeddings",
        "passthrough",
        "translate",
        "simplify_text",
        "generat",
        "article",
    ];
    let asks_a_provider = asks_a_provider.iter().any(|word| path.contains(word));
    let names_something = path.contains([':', '*', '{']);
    let is_admin = path.starts_with(admin::ROOT);
    let is_own = path.split('/').any(|segment| segment == "me");
    let keys = keys_of(path);
    for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let has_body = operation.get("requestBody").is_some();
        if let Some(operation) = operation.as_object_mut() {
            let security = keys.iter().map(|scheme| json!({*scheme: []}));
            operation.insert("security".into(), security.collect());
        }
        let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { continue };
        responses.retain(|status, _| match status.as_str() {
            "409" => path == admin::RELOAD,
            "408" | "413" | "415" => has_body,
            "400" | "404" => has_body || names_something || is_admin || is_own,
            "502" | "504" => asks_a_provider,
            _ => true,
        });
        // Of a page that may not call, every request is refused; a wrong key is refused later and later.
        let refusals: &[u16] = if keys.is_empty() { &[403] } else { &[401, 403, 429] };
        responses.retain(|status, _| !matches!(status.as_str(), "401" | "429") || !keys.is_empty());
        for (status, response) in refusals.iter().filter_map(|status| refusal_with(*status)) {
            responses.entry(status).or_insert(response);
        }
    }
    item
}

/// The keys that open a path, where keys are asked for at all.
fn keys_of(path: &str) -> &'static [&'static str] {
    match () {
        () if path.starts_with(admin::ROOT) || door::is_for_operators(path) => {
            &["AdminBearer", "AdminHeader"]
        }
        () if path == door::FIGURES => &["MetricsBearer", "AdminHeader"],
        () if door::is_open(path) => &[],
        () => &["CallerBearer", "CallerHeader"],
    }
}

/// What is said of a status where an operation has nothing to say of it by itself.
fn refusal_with(status: u16) -> Option<(String, Value)> {
    let description = error::description_of(status)?;
    let schema = format!("#/components/schemas/{}", ErrorBody::name());
    let content = json!({"application/json": {"schema": {"$ref": schema}}});
    Some((status.to_string(), json!({"description": description, "content": content})))
}

fn add_parameter(operation: &mut Value, name: &str, is_admin: bool) {
    let Some(operation) = operation.as_object_mut() else { return };
    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
    let Some(parameters) = parameters.as_array_mut() else { return };
    if !parameters.iter().any(|parameter| parameter.get("name").is_some_and(|known| known == name)) {
        let (description, example) = match name {
            "provider" => ("The provider's name.", "echo"),
            "path" => {
                ("The path at the provider, without the slash in front; it may hold slashes.", "v1/anything")
            }
            "id" => ("The model's name; it may hold slashes.", "echo"),
            "name" if is_admin => ("Any name of the model; it may hold slashes.", "echo"),
            _ => ("The prompt's name; it may hold slashes.", "translate"),
        };
        parameters.push(json!({"name": name, "in": "path", "required": true, "description": description,
            "example": example, "schema": {"type": "string"}}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_the_configured_prefix() {
        assert_eq!(rebased("/api/chat", "/llm"), "/llm/chat");
        assert_eq!(rebased("/api/chat", ""), "/chat");
        assert_eq!(rebased("/v1/models", "/llm"), "/v1/models");
        assert_eq!(rebased("/apis", "/llm"), "/apis");
    }

    #[test]
    fn wildcards_and_their_parameters_are_documented() {
        let document: Value = serde_json::from_str(&document("/llm")).unwrap();
        let operation = &document["paths"]["/llm/passthrough/{provider}/{path}"]["get"];
        let names: Vec<&str> =
            operation["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
        assert_eq!(names, ["provider", "path"]);
        assert!(document["paths"]["/v1/models/{id}"]["get"]["parameters"][0]["required"].as_bool().unwrap());
    }

    #[test]
    fn chat_comes_first_and_nothing_that_is_needed_is_empty() {
        let document: Value = serde_json::from_str(&document("/api")).unwrap();
        let tags = document["tags"].as_array().unwrap();
        let names: Vec<&str> = tags.iter().filter_map(|tag| tag["name"].as_str()).collect();
        assert_eq!(names, GROUPS);
        for (path, example) in [
            ("/api/prompts/{name}", "chat-conversation-simple"),
            ("/api/passthrough/{provider}/{path}", "echo"),
            ("/v1/models/{id}", "echo"),
            ("/api/engines/{model}/log", "echo"),
        ] {
            let parameter = &document["paths"][path]["get"]["parameters"][0];
            assert_eq!(parameter["example"], example, "{path}");
        }
    }

    #[test]
    fn raw_answers_have_types_that_generators_of_clients_know() {
        let document: Value = serde_json::from_str(&document("/api")).unwrap();
        for (path, method) in [("/api/passthrough", "post"), ("/api/passthrough/{provider}/{path}", "get")] {
            let content = &document["paths"][path][method]["responses"]["200"]["content"];
            let types: Vec<&String> = content.as_object().unwrap().keys().collect();
            assert_eq!(types, ["application/json", "application/octet-stream"], "{path}");
        }
        assert!(!document.to_string().contains("*/*"));
    }

    #[test]
    fn patterns_are_called_as_in_the_document() {
        for (pattern, prefix, name) in [
            ("/llm/prompts/:param0", "/llm", "/llm/prompts/{name}"),
            ("/prompts/:param0/render", "", "/prompts/{name}/render"),
            ("/api/passthrough/:param0/*path", "/api", "/api/passthrough/{provider}/{path}"),
            ("/v1/models/*id", "/api", "/v1/models/{id}"),
            ("/api/v1/models/*id", "/api", "/api/v1/models/{id}"),
            ("/metrics", "/api", "/metrics"),
        ] {
            assert_eq!(documented_path(pattern, prefix), name);
        }
    }

    #[test]
    fn a_chat_answer_has_three_media_types() {
        let document: Value = serde_json::from_str(&document("/api")).unwrap();
        for path in ["/api/chat", "/v1/chat/completions", "/api/conversation_with_model"] {
            let content = document["paths"][path]["post"]["responses"]["200"]["content"].as_object().unwrap();
            let types: Vec<&str> = content.keys().map(String::as_str).collect();
            assert_eq!(types, ["application/json", "text/event-stream", "application/x-ndjson"], "{path}");
        }
    }

    #[test]
    fn the_scripts_of_the_page_are_known_by_their_digests() {
        let policy = policy("<p><script a=\"b\">alert(1)</script><script></script>");
        assert!(
            policy.contains(
                "script-src 'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI=' \
             'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=';"
            ),
            "{policy}"
        );
        assert_eq!(super::policy(&page("/api")).matches("'sha256-").count(), 2);
    }

    #[test]
    fn the_page_holds_the_document_and_nothing_from_elsewhere() {
        let page = page("/llm");
        assert!(page.contains("/llm/chat") && !page.contains("\"/api/chat\""));
        assert!(!page.contains("src=\"http") && !page.contains("href=\"http"));
    }
}
