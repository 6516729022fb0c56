//! Which model a raw request is for: the one decision, from its method, path, query, type and body.
//!
//! The list of paths is short on purpose. It has those of which it is known where a server reads the model, and a dialect that
//! is added later adds its paths here. All others leave a doubt, which the gateway acts on where it matters.

use bytes::Bytes;
use http::Method;

use crate::lint::percent_decoded;
use crate::llm::{Doubt, InvalidObject, Naming, RawObject, rivals_model};

/// Paths whose model is the member `model` of a JSON body, behind [`BASES`].
const IN_BODY: &[&str] = &[
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "audio/speech",
    "images/generations",
    "rerank",
    // Ollama's.
    "api/chat",
    "api/generate",
    "api/embed",
    "api/embeddings",
];
/// Segments before such a path that say nothing about the model. Versions (`v1`, `v1beta`) are others.
const BASES: &[&str] = &["api", "openai"];
/// Segments behind which a path names a model, as `/openai/deployments/MODEL/chat/completions` does.
const BEFORE_MODEL: &[&str] = &["deployments", "engines", "models"];
/// Google's methods, as in `/v1beta/models/MODEL:generateContent`.
const METHODS: &[&str] = &["generateContent", "streamGenerateContent", "embedContent"];

/// A raw request, as far as it may name a model.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path at the server, as it is sent.
    pub path: &'a str,
    /// Its query, as it is sent.
    pub query: Option<&'a str>,
    /// Its `content-type`.
    pub content_type: Option<&'a str>,
    /// Its body.
    pub body: Option<&'a Bytes>,
}

/// What a path says.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The model that it names.
    model: Option<String>,
    /// Whether the server is known to read the model there, or in the body where the path names none.
    is_known: bool,
}

/// The model that a request is for. `object` is its body, read.
pub fn naming(parts: &Parts<'_>, object: Option<&Result<RawObject, InvalidObject>>) -> Naming {
    let Place { model: in_path, is_known } = place_of(parts.path);
    let in_body = match object {
        Some(Ok(object)) => Naming::of_body(object),
        Some(Err(error)) => Naming { model: form_model(parts), ..Naming::of_invalid(error) },
        None => Naming { model: None, doubt: Some(Doubt::Unnamed) },
    };
    let is_silent = !matches!(object, Some(Ok(object)) if object.get("model").is_some());
    let of_body = match in_body.doubt {
        // The path has named it.
        Some(Doubt::Unnamed) if in_path.is_some() && is_silent => None,
        doubt => doubt,
    };
    let (model, disagreement) = match (in_path, in_body.model) {
        (Some(in_path), Some(in_body)) if !is_same(&in_path, &in_body) => (None, Some(Doubt::Disagreement)),
        (in_path, in_body) => (in_path.or(in_body), None),
    };
    let doubts = [
        (!is_known || *parts.method != Method::POST).then_some(Doubt::Path),
        parts.query.is_some_and(query_names_model).then_some(Doubt::Query),
        (!parts.content_type.is_some_and(is_json)).then_some(Doubt::Body),
        of_body,
        disagreement,
    ];
    Naming { model, doubt: doubts.into_iter().flatten().next() }
}

/// Google's names may have their kind in front.
fn is_same(in_path: &str, in_body: &str) -> bool {
    in_path == in_body || in_body.strip_prefix("models/") == Some(in_path)
}

fn place_of(path: &str) -> Place {
    let unknown = |model| Place { model, is_known: false };
    let segments: Option<Vec<String>> = path.trim_matches('/').split('/').map(decoded).collect();
    let Some(segments) = segments else { return unknown(None) };
    let base = segments.iter().take_while(|segment| is_base(segment)).count();
    // Ollama's paths begin with a segment that is a base of others.
    let is_in_body = |from: usize| {
        let rest = segments.get(from..).unwrap_or_default();
        IN_BODY.contains(&rest.join("/").as_str())
    };
    if (0..=base).any(is_in_body) {
        return Place { model: None, is_known: true };
    }
    let named = segments.iter().position(|segment| BEFORE_MODEL.contains(&segment.as_str()));
    let Some((at, name)) = named.and_then(|at| Some((at, segments.get(at + 1)?))) else {
        return unknown(None);
    };
    let is_last = segments.len() == at + 2;
    match name.rsplit_once(':').filter(|(_, method)| METHODS.contains(method)) {
        Some((model, _)) => {
            let is_known = at == base && is_last && segments.get(at).is_some_and(|kind| kind == "models");
            Place { model: Some(model.to_owned()), is_known }
        }
        None => Place { model: Some(name.clone()), is_known: at == base && is_in_body(at + 2) },
    }
}

/// A segment as a server reads it; `None` where servers may differ in how they do.
fn decoded(segment: &str) -> Option<String> {
    let plain = String::from_utf8(percent_decoded(segment.as_bytes())?).ok()?;
    let is_clear = |letter: char| !matches!(letter, '%' | ';' | '/' | '\\') && !letter.is_control();
    plain.chars().all(is_clear).then_some(plain)
}

fn is_base(segment: &str) -> bool {
    let is_version = || {
        let version = segment.strip_prefix('v')?;
        let rest = version.trim_start_matches(|digit: char| digit.is_ascii_digit());
        Some(rest.len() < version.len() && matches!(rest, "" | "beta" | "alpha"))
    };
    BASES.contains(&segment) || is_version() == Some(true)
}

/// Whether a `content-type` is that of JSON, in the one encoding that all servers read alike.
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let is_utf8 = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        name.trim().eq_ignore_ascii_case("charset")
            && value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    };
    parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) && parts.all(is_utf8)
}

/// The names and values of a query or a form.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let plain = |text: &str| {
        let spaced = text.replace('+', " ");
        let bytes = percent_decoded(spaced.as_bytes()).unwrap_or_else(|| spaced.clone().into_bytes());
        String::from_utf8_lossy(&bytes).into_owned()
    };
    // Some servers end a pair at a semicolon, too.
    text.split(['&', ';']).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (plain(name), plain(value))
    })
}

fn query_names_model(query: &str) -> bool {
    pairs(query).any(|(name, _)| {
        // As in `model[]=x` and `model.name=x`.
        let name = name.split(['[', '.']).next().unwrap_or_default();
        name == "model" || rivals_model(name)
    })
}

/// The model that a form names, if it does so once.
fn form_model(parts: &Parts<'_>) -> Option<String> {
    let is_form =
        parts.content_type.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let text = std::str::from_utf8(parts.body.filter(|_| is_form)?).ok()?;
    let mut named = pairs(text).filter(|(name, _)| name == "model" || rivals_model(name));
    match (named.next(), named.next()) {
        (Some((name, model)), None) if name == "model" => Some(model),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Option<&str> = Some("application/json");

    fn of(path: &str, query: Option<&str>, content_type: Option<&str>, body: &str) -> Naming {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let object = (!body.is_empty()).then(|| RawObject::parse(bytes.clone()));
        let parts = Parts { method: &Method::POST, path, query, content_type, body: Some(&bytes) };
        naming(&parts, object.as_ref())
    }

    #[test]
    fn known_paths_name_their_model_in_one_place() {
        let body = r#"{"model":"a"}"#;
        for (path, body) in [
            ("/v1/chat/completions", body),
            ("/chat/completions", body),
            ("/openai/v1/completions", body),
            ("/v1/chat%2Dx/completions", ""),
            ("/v1/cha%74/completions/", body),
            ("/v1/embeddings", body),
            ("/v1/responses", body),
            ("/v1/messages", body),
            ("/v1/audio/speech", body),
            ("/v1/images/generations", body),
            ("/v2/rerank", body),
            ("/api/chat", body),
            ("/api/generate", body),
            ("/api/embed", body),
            ("/api/embeddings", body),
            ("/openai/deployments/a/chat/completions", "{}"),
            ("/openai/deployments/%61/chat/completions", body),
            ("/v1/engines/a/completions", "{}"),
            ("/v1beta/models/a:generateContent", "{}"),
            ("/v1beta/models/a:streamGenerateContent", r#"{"model":"models/a"}"#),
        ] {
            let naming = of(path, Some("api-version=1"), JSON, body);
            if body.is_empty() {
                assert_eq!(naming.doubt, Some(Doubt::Path), "{path}");
            } else {
                assert_eq!(naming, Naming { model: Some("a".to_owned()), doubt: None }, "{path}");
            }
        }
    }

    #[test]
    fn other_paths_leave_a_doubt() {
        for path in [
            "/v1/batches",
            "/v1/fine_tuning/jobs",
            "/api/copy",
            "/api/create",
            "/api/delete",
            "/api/pull",
            "/api/show",
            "/v1/files",
            "/v1/Chat/Completions",
            "/v1/chat;x=1/completions",
            "/v1/cha%2574/completions",
            "/v1/chat",
            "/x/v1/chat/completions",
            "/v1/chat/completions/x",
            "/v1/audio/transcriptions",
            "/v1/images/edits",
            "/",
            "/openai/deployments/a/audio/transcriptions",
            "/openai/deployments/a",
            "/v1/models/a",
            "/v1/models/a:predict",
            "/v1/tunedModels/a:generateContent",
            "/models/a/b:generateContent",
            "/v1beta/models/a:batchEmbedContents",
            "/v1/deployments/b/deployments/a/chat/completions",
            "/v1/chat%2fcompletions",
            "/v1/%ff/completions",
        ] {
            assert_eq!(of(path, None, JSON, r#"{"model":"a"}"#).doubt, Some(Doubt::Path), "{path}");
        }
        let parts = Parts {
            method: &Method::PUT,
            path: "/v1/completions",
            query: None,
            content_type: JSON,
            body: None,
        };
        assert_eq!(naming(&parts, None).doubt, Some(Doubt::Path));
    }

    #[test]
    fn another_model_in_query_form_or_path_leaves_a_doubt() {
        let body = r#"{"model":"a"}"#;
        let (chat, azure) = ("/v1/chat/completions", "/openai/deployments/b/chat/completions");
        for query in [
            "model=b",
            "x=1&Model=b",
            "mod%65l=b",
            "model[]=b",
            "models=b",
            "x=1;model=b",
            "model",
            "+model=b",
        ] {
            assert_eq!(of(chat, Some(query), JSON, body).doubt, Some(Doubt::Query), "{query}");
        }
        assert_eq!(of(chat, Some("modeling=1&x=model"), JSON, body).doubt, None);
        for kind in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some("multipart/form-data; boundary=x"),
            Some("application/json; charset=utf-16"),
            Some("application/json5"),
            Some("application/json, text/plain"),
        ] {
            assert_eq!(of(chat, None, kind, body).doubt, Some(Doubt::Body), "{kind:?}");
        }
        assert_eq!(of(chat, None, Some("Application/JSON; charset=\"UTF-8\""), body).doubt, None);
        let naming = of(azure, None, JSON, body);
        assert_eq!(naming, Naming { model: None, doubt: Some(Doubt::Disagreement) });
        assert_eq!(of("/v1beta/models/b:generateContent", None, JSON, body).doubt, Some(Doubt::Disagreement));
        assert_eq!(
            of(chat, None, JSON, r#"{"model":"a","models":["b"]}"#).doubt,
            Some(Doubt::of_member("models"))
        );
        assert_eq!(of(chat, None, JSON, "").doubt, Some(Doubt::Unnamed));
        assert_eq!(of(azure, None, JSON, r#"{"model":["a"]}"#).doubt, Some(Doubt::Unnamed));
        assert_eq!(of(azure, None, JSON, r#"{"Model":"b"}"#).doubt, Some(Doubt::of_member("Model")));
    }

    #[test]
    fn what_is_written_down_goes_by_path_form_or_body() {
        let form = Some("application/x-www-form-urlencoded");
        assert_eq!(of("/v1/x", None, form, "a=1&model=up%2Fb").model.as_deref(), Some("up/b"));
        assert_eq!(of("/v1/x", None, form, "model=a&Model=b").model, None);
        assert_eq!(of("/v1/images/edits", None, JSON, r#"{"model":"a"}"#).model.as_deref(), Some("a"));
        assert_eq!(
            of("/openai/deployments/b/audio/transcriptions", None, None, "").model.as_deref(),
            Some("b")
        );
        assert_eq!(
            of("/openai/deployments/b/audio/translations", None, JSON, r#"{"model":"a"}"#).model,
            None
        );
    }
}
