//! Which model a body is for: the member `model`, and the members that a server could read in its place.
//!
//! The gateway, the upstream and anything between them must agree on the model of a request. So a body names its model once,
//! as `model`, wherever it matters which model that is; every reader of bodies asks this file.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{InvalidObject, RawObject, is_invisible, shortened};

/// Members by which some servers choose a model: the member itself, lists of models that take over and what may hold such
/// lists (`OpenRouter`, `LiteLLM`, Vercel), and older names of it. Servers differ in whether they distinguish upper and lower case.
const MODEL_MEMBERS: &[&str] = &[
    "model",
    "models",
    "fallbacks",
    "route",
    "context_window_fallbacks",
    "content_policy_fallbacks",
    "model_list",
    "deployment_id",
    "engine",
    "preset",
    "plugins",
    "extra_body",
    "providerOptions",
    "provider_options",
    "user_config",
];

/// No name of [`MODEL_MEMBERS`] is longer.
const LONGEST: usize = 24;

/// What the words of a request say about its model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    /// The model, if there is one plain name.
    pub model: Option<String>,
    /// Why a server could take it for another one, or for none that is known.
    pub doubt: Option<Doubt>,
}

/// Why the model of a request is not certain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The path, or the method, is none of which it is known where its model is read.
    #[error("it is not known where a request with this method and path names its model")]
    Path,
    /// Path and body disagree.
    #[error("its path and its body name different models")]
    Disagreement,
    /// The query names one.
    #[error("its query must not name a model")]
    Query,
    /// The body is no JSON, or not said to be.
    #[error("its body must be a JSON object of the type `application/json`")]
    Body,
    /// A member twice: readers differ in which of them counts.
    #[error("its member `{0}` stands twice")]
    Twice(String),
    /// A member that could name another model.
    #[error("its member `{0}` could name another model")]
    Member(String),
    /// `model` is missing, or no text.
    #[error("its body must name the model, as the text `model`")]
    Unnamed,
}

impl Doubt {
    /// A doubt about a member of the body.
    pub fn of_member(name: &str) -> Self {
        Self::Member(shortened(name).into_owned())
    }

    /// The member that is at fault, or `model`.
    pub fn param(&self) -> &str {
        match self {
            Self::Twice(name) | Self::Member(name) => name,
            _ => "model",
        }
    }
}

impl Naming {
    /// What the members of a body say.
    pub fn of_body(body: &RawObject) -> Self {
        let mut rivals = body.names().filter(|name| rivals_model(name));
        let rival = rivals.next();
        let is_spelt_again = rival.into_iter().chain(rivals).any(|name| is_spelt(name, "model"));
        let named = body.get("model").and_then(|name| serde_json::from_slice::<String>(name).ok());
        let model = named.filter(|_| !is_spelt_again);
        let doubt = match rival {
            Some(rival) => Some(Doubt::of_member(rival)),
            None => nested_rival(body).or_else(|| model.is_none().then_some(Doubt::Unnamed)),
        };
        Self { model, doubt }
    }

    /// What can be said of a body that is not one JSON object.
    pub fn of_invalid(error: &InvalidObject) -> Self {
        let doubt = match error {
            InvalidObject::Duplicate(name) => Doubt::Twice(name.clone()),
            InvalidObject::Syntax(_) | InvalidObject::NotAnObject => Doubt::Body,
        };
        Self { model: None, doubt: Some(doubt) }
    }
}

/// Whether a server might choose a model by this member, which is not `model` itself.
pub fn rivals_model(member: &str) -> bool {
    if member == "model" {
        return false;
    }
    if member.bytes().all(|byte| byte.is_ascii_graphic()) {
        return member.len() <= LONGEST && MODEL_MEMBERS.iter().any(|name| name.eq_ignore_ascii_case(member));
    }
    let plain = folded(member);
    MODEL_MEMBERS.iter().any(|name| name.eq_ignore_ascii_case(&plain))
}

/// Whether this is a spelling of `name`, which is in lower case.
fn is_spelt(member: &str, name: &str) -> bool {
    folded(member) == name
}

/// A name as the most generous reader sees it: whatever the case of its letters, and without what cannot be seen (some
/// readers end a name at its first NUL).
fn folded(name: &str) -> String {
    let until_nul = name.split('\0').next().unwrap_or_default();
    let is_visible = |letter: &char| !is_invisible(*letter) && !letter.is_whitespace();
    // Both ways, because some letters (`ſ`, `K`) are another's other case without having it themselves.
    let letters =
        until_nul.chars().filter(is_visible).flat_map(char::to_uppercase).flat_map(char::to_lowercase);
    letters.take(LONGEST + 1).collect()
}

/// Tools that a server runs by itself, such as one that makes images, may have a model of their own.
pub fn nested_rival(body: &RawObject) -> Option<Doubt> {
    let tools = body.get("tools").filter(|tools| tools.starts_with(b"["))?;
    let Ok(tools) = serde_json::from_slice::<Vec<&RawValue>>(tools) else {
        return Some(Doubt::of_member("tools"));
    };
    let mut objects = tools.into_iter().map(RawValue::get).filter(|tool| tool.starts_with('{'));
    let is_doubtful = |tool: &str| match RawObject::parse(Bytes::copy_from_slice(tool.as_bytes())) {
        Ok(tool) => tool.names().any(|name| is_spelt(name, "model") || rivals_model(name)),
        Err(_) => true,
    };
    objects.any(is_doubtful).then(|| Doubt::Member("tools[].model".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(body: &str) -> Naming {
        match RawObject::parse(bytes::Bytes::copy_from_slice(body.as_bytes())) {
            Ok(object) => Naming::of_body(&object),
            Err(error) => Naming::of_invalid(&error),
        }
    }

    #[test]
    fn every_spelling_that_some_server_reads_as_a_model_is_known() {
        for name in [
            "Model",
            "MODEL",
            "mODel",
            "models",
            "Models",
            "modelſ",
            "fallbacks",
            "fallbacKs",
            "ROUTE",
            "model\0",
            "model\0x",
            "model ",
            "\u{feff}model",
            "mo\u{200b}del",
            "engine",
            "deployment_id",
            "Context_Window_Fallbacks",
        ] {
            assert!(rivals_model(name), "{name:?}");
        }
        for name in ["model", "messages", "modell", "model_kwargs", "router", "", "żółw", "\0model"] {
            assert!(!rivals_model(name), "{name:?}");
        }
    }

    #[test]
    fn only_one_reading_of_a_model_counts() {
        let plain = |model: &str| Naming { model: Some(model.to_owned()), doubt: None };
        assert_eq!(naming(r#"{"model":"a\u0062"}"#), plain("ab"));
        assert_eq!(naming(r#"{"mod\u0065l":"a","x":{"model":"b"},"metadata":{"models":[1]}}"#), plain("a"));
        for (body, model, param) in [
            (r#"{"model":"a","model":"b"}"#, None, "model"),
            (r#"{"model":"a","mod\u0065l":"b"}"#, None, "model"),
            (r#"{"model":"a","Model":"b"}"#, None, "Model"),
            (r#"{"model":"a","models":["b"]}"#, Some("a"), "models"),
            (r#"{"model":"a","\u0066allbacks":["b"]}"#, Some("a"), "fallbacks"),
            (
                r#"{"model":"a","tools":[{"type":"image_generation","Model":"b"}]}"#,
                Some("a"),
                "tools[].model",
            ),
            (r#"{"MODEL":"a"}"#, None, "MODEL"),
            (r#"{"model":["a"]}"#, None, "model"),
            (r#"{"model":{"a":1}}"#, None, "model"),
            (r#"{"model":null}"#, None, "model"),
            (r#"{"nested":{"model":"a"}}"#, None, "model"),
            ("\u{feff}{\"model\":\"a\"}", None, "model"),
            ("model=a", None, "model"),
        ] {
            let naming = naming(body);
            assert_eq!(naming.model.as_deref(), model, "{body}");
            assert_eq!(naming.doubt.as_ref().map(Doubt::param), Some(param), "{body}");
        }
    }

    #[test]
    fn a_tool_may_describe_a_parameter_that_is_called_model() {
        let body = r#"{"model":"a","tools":[{"type":"function","function":{"parameters":{"properties":{"model":{}}}}}]}"#;
        assert_eq!(naming(body).doubt, None);
    }
}
