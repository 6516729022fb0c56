//! A request for generated text.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::{Map, Value};

use super::{Change, Options, RawObject};

/// A request for a chat answer or a text completion, checked, in OpenAI's JSON.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// The public model name, as the caller wrote it.
    pub model: String,
    /// Which of OpenAI's two endpoints the body is for.
    pub kind: RequestKind,
    /// Whether the caller wants the answer as a stream.
    pub stream: bool,
    /// Whether the caller asked for the usage chunk of a stream.
    pub include_usage: bool,
    /// The most tokens that the caller wants for an answer.
    pub max_output_tokens: Option<u64>,
    /// Options in the gateway's words, for the provider to map. Those in the body's own words,
    /// the caller's, are in `body`.
    pub options: Options,
    /// The request as OpenAI's JSON: the caller's own bytes, where they were that.
    pub body: RawObject,
    /// Where in `body` the members stand that are replaced on the way.
    pub places: Places,
}

/// Where the values stand of the members that nearly every request has replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The model's name.
    pub model: Option<Range<usize>>,
    /// Whether to stream.
    pub stream: Option<Range<usize>>,
    /// What a stream should hold.
    pub stream_options: Option<Range<usize>>,
}

/// OpenAI's two endpoints that generate text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// `chat/completions`: `messages` in, a `message` out.
    Chat,
    /// The legacy `completions`: `prompt` in, `text` out.
    Completion,
}

impl ChatRequest {
    /// The request with `defaults` for what the caller left unsaid, and `overrides` in place of
    /// what was said. Objects in objects are merged member by member.
    pub fn with_settings(
        &self,
        defaults: &Map<String, Value>,
        overrides: &Map<String, Value>,
    ) -> Cow<'_, Self> {
        let mut changes = Vec::new();
        for (name, value) in defaults {
            if self.options.get(name).is_none() && !self.limits_output_as(name) {
                changes.extend(merged(&self.body, name, value, Wins::Caller));
            }
        }
        for (name, value) in overrides {
            changes.retain(|change| !matches!(change, Change::Set(set, _) if *set == name.as_str()));
            changes.extend(merged(&self.body, name, value, Wins::Setting));
        }
        if changes.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut request = self.clone();
        request.replace_body(self.body.edited(&changes));
        Cow::Owned(request)
    }

    /// Puts another body in the place of this one.
    pub fn replace_body(&mut self, body: RawObject) {
        self.places = Places::of(&body);
        self.body = body;
    }

    /// Whether the caller has already said, under the field's other name, what `name` says.
    fn limits_output_as(&self, name: &str) -> bool {
        matches!(name, "max_tokens" | "max_completion_tokens") && self.max_output_tokens.is_some()
    }
}

impl Places {
    /// Finds them in a body.
    pub fn of(body: &RawObject) -> Self {
        Self {
            model: body.place("model"),
            stream: body.place("stream"),
            stream_options: body.place("stream_options"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wins {
    Caller,
    Setting,
}

/// The change that brings a setting into `body`, if one is needed.
fn merged<'a>(body: &RawObject, name: &'a str, setting: &Value, wins: Wins) -> Option<Change<'a>> {
    let given = body
        .get(name)
        .and_then(|value| serde_json::from_slice::<Value>(value).ok())
        .filter(|value| !value.is_null());
    let value = match (given, setting) {
        (Some(Value::Object(given)), Value::Object(setting)) => {
            let (mut under, over) = match wins {
                Wins::Caller => (setting.clone(), given),
                Wins::Setting => (given, setting.clone()),
            };
            under.extend(over);
            Value::Object(under)
        }
        (Some(_), _) if wins == Wins::Caller => return None,
        _ => setting.clone(),
    };
    Some(Change::Set(name, value.to_string().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(body: &Value) -> ChatRequest {
        ChatRequest {
            model: "m".to_owned(),
            kind: RequestKind::Chat,
            stream: false,
            include_usage: false,
            max_output_tokens: body.get("max_completion_tokens").and_then(Value::as_u64),
            options: Options::default(),
            body: RawObject::parse(body.to_string().into()).unwrap(),
            places: Places::default(),
        }
    }

    fn settled(body: &Value, defaults: &Value, overrides: &Value) -> Value {
        let request = request(body);
        let settled = request.with_settings(defaults.as_object().unwrap(), overrides.as_object().unwrap());
        serde_json::from_slice(settled.body.text()).unwrap()
    }

    #[test]
    fn defaults_fill_what_the_caller_left_unsaid() {
        assert_eq!(
            settled(
                &json!({"temperature": 0.1, "top_p": null, "options": {"num_ctx": 1}}),
                &json!({"temperature": 0.9, "top_p": 0.5, "seed": 3, "options": {"num_ctx": 2, "top_k": 4}}),
                &json!({}),
            ),
            json!({"temperature": 0.1, "top_p": 0.5, "options": {"num_ctx": 1, "top_k": 4}, "seed": 3})
        );
    }

    #[test]
    fn overrides_always_hold() {
        assert_eq!(
            settled(
                &json!({"temperature": 0.1, "options": {"num_ctx": 1, "seed": 2}}),
                &json!({"store": true}),
                &json!({"temperature": 0.9, "store": false, "options": {"num_ctx": 2}}),
            ),
            json!({"temperature": 0.9, "options": {"num_ctx": 2, "seed": 2}, "store": false})
        );
    }

    #[test]
    fn a_default_length_yields_to_either_name_of_the_callers() {
        assert_eq!(
            settled(&json!({"max_completion_tokens": 5}), &json!({"max_tokens": 9}), &json!({})),
            json!({"max_completion_tokens": 5})
        );
    }

    #[test]
    fn without_settings_nothing_is_copied() {
        let request = request(&json!({"temperature": 0.1}));
        let empty = Map::new();
        assert!(matches!(request.with_settings(&empty, &empty), Cow::Borrowed(_)));
    }
}
