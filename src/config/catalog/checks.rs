//! What can be read in a models file and yet makes no sense.

use serde_json::{Map, Value};

use super::raw::RawModel;
use crate::lint::{is_language_tag, out_of_range};

/// Members of a request that no setting may touch.
const CALLERS_OWN: &[&str] = &["model", "messages", "prompt", "stream", "stream_options"];

/// What an address must not end in: the gateway adds these itself. The longest first.
const ENDPOINTS: &[&str] = &[
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/responses",
    "/messages",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/tags",
    "/chat",
    "/models",
];

/// Problem and cure of each fault in what a model says of requests and languages.
pub(super) fn of_members(model: &RawModel) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    for (key, settings) in [("defaults", &model.defaults), ("overrides", &model.overrides)] {
        for name in CALLERS_OWN.iter().filter(|name| settings.contains_key(**name)) {
            faults.push((format!("`{key}` sets `{name}`"), "leave it to the callers".to_owned()));
        }
        faults.extend(of_ranges(key, settings));
        if let Some(options) = settings.get("options").and_then(Value::as_object) {
            faults.extend(of_ranges(&format!("{key}.options"), options));
        }
    }
    for tag in model.languages.iter().filter(|tag| !is_language_tag(tag)) {
        faults.push((format!("`{tag}` is no language tag"), "give a tag such as en or pt-BR".to_owned()));
    }
    faults
}

fn of_ranges(key: &str, settings: &Map<String, Value>) -> impl Iterator<Item = (String, String)> {
    let faults = out_of_range(settings).into_iter();
    faults.map(move |(member, value, allowed)| {
        (format!("`{key}.{member}` is {value}"), format!("give {allowed}"))
    })
}

/// The endpoint in which an address ends by mistake.
pub(super) fn endpoint_at_the_end(key: &str, url: &str) -> Option<&'static str> {
    let url = url.trim_end_matches('/');
    let endpoints = if key == "models_url" { &["/models"] } else { ENDPOINTS };
    let before = |ending: &&str| url.strip_suffix(*ending);
    // On some servers all that there is lies at `/models`: a list of models has more before it.
    let is_root =
        |ending: &&str| key != "models_url" && *ending == "/models" && before(ending).is_some_and(is_server);
    endpoints.iter().copied().find(|ending| before(ending).is_some() && !is_root(ending))
}

/// Whether an address is one of a server, without a path.
fn is_server(url: &str) -> bool {
    url.split_once("://").is_some_and(|(_, rest)| !rest.contains('/'))
}

/// Whether a header, by its name, holds a secret that stands in the file itself.
pub(super) fn is_literal_secret(name: &str, value: &str) -> bool {
    const NAMES: &[&str] = &["authorization", "cookie", "key", "token", "secret", "password", "apikey"];
    let name = name.to_lowercase();
    let last = name.rsplit(['-', '_']).next().unwrap_or_default();
    NAMES.contains(&last) && is_literal(value)
}

/// Whether a text stands in the file itself, without any reference.
pub(super) fn is_literal(text: &str) -> bool {
    // `$${` is text, not a reference.
    !text.is_empty() && !text.replace("$${", "").contains("${")
}
