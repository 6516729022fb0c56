//! What an operator says of a model: defaults that hold where a caller is silent, and overrides that hold in any case.
//!
//! The same option has more than one name (`max_tokens`, `max_completion_tokens`, `num_predict` …) and may stand in
//! more than one place. A setting is for the option, whatever the caller called it.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::options::{OF_ANSWERS, canonical, needs_mapping};
use super::{Change, ChatRequest, EmbedRequest, InvalidObject, Options, RawObject, RequestKind};

/// Members of a request that change what is generated, beside the options that do.
const OF_CHATS: &[&str] = &[
    "n",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "think",
];

/// Whether a member of a request is to change what is generated, whichever system's name it has. It makes no sense of an
/// embedding, so that a model's settings for chats do not spoil requests for those.
pub fn changes_answers(name: &str) -> bool {
    let name = canonical(name);
    OF_ANSWERS.contains(&name) || OF_CHATS.contains(&name)
}

impl ChatRequest {
    /// The request with `defaults` for what the caller left unsaid, and `overrides` in place of what was said.
    /// Objects in objects are merged member by member. What stands under `options` is put into the provider's words.
    ///
    /// # Errors
    /// The body turns out to be unfit for any change.
    pub fn with_settings(
        &self,
        defaults: &Map<String, Value>,
        overrides: &Map<String, Value>,
    ) -> Result<Cow<'_, Self>, InvalidObject> {
        if defaults.is_empty() && overrides.is_empty() {
            return Ok(Cow::Borrowed(self));
        }
        let mut settled = Settled::new(&self.body, self.options.clone());
        settled.fill_in(defaults);
        settled.put_over(overrides);
        let (body, options) = settled.finish()?;
        let mut request = self.clone();
        request.replace_body(body);
        request.options = options;
        let limit = |name| request.body.get(name).and_then(|json| serde_json::from_slice::<u64>(json).ok());
        request.max_output_tokens = limit("max_completion_tokens").or_else(|| limit("max_tokens"));
        Ok(Cow::Owned(request))
    }
}

/// How many answers a body asks for: so many, or one, to each of its prompts.
pub(super) fn answers(body: &RawObject, each: Option<u64>) -> u64 {
    each.unwrap_or(1).max(1).saturating_mul(prompts(body))
}

/// How many prompts a body has that need not be a conversation.
fn prompts(body: &RawObject) -> u64 {
    // A list of numbers is one prompt, as tokens.
    let is_prompt = |item: &Value| item.is_string() || item.is_array();
    let list = body.get("prompt").filter(|prompt| prompt.starts_with(b"["));
    let list = list.and_then(|prompts| serde_json::from_slice::<Vec<Value>>(prompts).ok());
    let prompts = list.map_or(1, |prompts| prompts.iter().filter(|item| is_prompt(item)).count());
    u64::try_from(prompts.max(1)).unwrap_or(u64::MAX)
}

impl ChatRequest {
    /// How many answers it asks for: `n` to each of its prompts.
    pub fn answers(&self) -> u64 {
        let each = self.n.or_else(|| self.options.get("n")?.as_u64());
        match self.kind {
            // One prompt, so that the body need not be looked into once more.
            RequestKind::Chat => each.unwrap_or(1).max(1),
            RequestKind::Completion => answers(&self.body, each),
        }
    }

    /// The request with an answer, or answers together, of no more than its caller can pay for.
    ///
    /// # Errors
    /// The body turns out to be unfit for any change.
    pub fn within_means(&self) -> Result<Cow<'_, Self>, InvalidObject> {
        let Some(most) = self.answer_at_most else { return Ok(Cow::Borrowed(self)) };
        let number = |json: &[u8]| serde_json::from_slice::<u64>(json).ok();
        let most = (most / self.answers()).max(1);
        let is_limit = |name: &str| canonical(name) == "max_tokens";
        let inner: Option<Map<String, Value>> =
            self.body.get("options").and_then(|json| serde_json::from_slice(json).ok());
        let in_body = self.body.members().filter(|(name, _)| is_limit(name));
        let in_inner = inner.iter().flatten().filter(|(name, _)| is_limit(name));
        let said = in_body
            .filter_map(|(_, value)| number(value))
            .chain(in_inner.filter_map(|(_, value)| value.as_u64()))
            .chain(self.options.get("max_tokens").and_then(Value::as_u64))
            .max();
        if said.is_some_and(|said| said <= most) {
            return Ok(Cow::Borrowed(self));
        }
        // Some models know the newer name only; whoever uses it knows that.
        let is_newer = self.body.get("max_completion_tokens").is_some_and(|value| value != b"null");
        let name = if is_newer { "max_completion_tokens" } else { "max_tokens" };
        let limit = Map::from_iter([(name.to_owned(), most.into())]);
        self.with_settings(&Map::new(), &limit)
    }
}

impl EmbedRequest {
    /// As [`ChatRequest::with_settings`], without the settings that are for chats only.
    ///
    /// # Errors
    /// The body turns out to be unfit for any change.
    pub fn with_settings(
        &self,
        defaults: &Map<String, Value>,
        overrides: &Map<String, Value>,
    ) -> Result<Cow<'_, Self>, InvalidObject> {
        let fitting = |settings: &Map<String, Value>| -> Map<String, Value> {
            let fitting = settings.iter().filter(|(name, _)| !changes_answers(name));
            fitting.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let mut changes = Vec::new();
        let (defaults, overrides) = (fitting(defaults), fitting(overrides));
        for (name, value) in &defaults {
            changes.extend(merged(&self.body, name, value, Wins::Caller));
        }
        for (name, value) in &overrides {
            changes.retain(|change| !is_for(change, |other| other == name));
            changes.extend(merged(&self.body, name, value, Wins::Setting));
        }
        if changes.is_empty() {
            return Ok(Cow::Borrowed(self));
        }
        Ok(Cow::Owned(Self {
            model: self.model.clone(),
            rival: self.rival.clone(),
            body: self.body.edited(&changes)?,
        }))
    }
}

/// A request while settings are put into it.
struct Settled<'a> {
    body: &'a RawObject,
    changes: Vec<Change<'a>>,
    /// The body's own member `options`, in Ollama's words.
    inner: Map<String, Value>,
    options: Options,
}

impl<'a> Settled<'a> {
    fn new(body: &'a RawObject, options: Options) -> Self {
        let inner = body.get("options").and_then(|json| serde_json::from_slice(json).ok());
        Self { body, changes: Vec::new(), inner: inner.unwrap_or_default(), options }
    }

    fn fill_in(&mut self, defaults: &'a Map<String, Value>) {
        for (name, value) in defaults {
            if let Some(options) = options_of(name, value) {
                self.fill_in_options(options);
            } else if needs_mapping(name) {
                self.fill_in_option(name, value);
            } else if self.body.get(name).is_some_and(|value| value != b"null") {
                self.changes.extend(merged(self.body, name, value, Wins::Caller));
            } else if !self.is_said(name) {
                self.changes.push(Change::Set(name, value.to_string().into()));
            }
        }
    }

    fn fill_in_options(&mut self, options: &Map<String, Value>) {
        options.iter().for_each(|(name, value)| self.fill_in_option(name, value));
    }

    fn fill_in_option(&mut self, name: &str, value: &Value) {
        if !self.is_said(name) {
            self.options.set(name, value.clone());
        }
    }

    fn put_over(&mut self, overrides: &'a Map<String, Value>) {
        for (name, value) in overrides {
            if let Some(options) = options_of(name, value) {
                options.iter().for_each(|(name, value)| self.put_over_option(name, value));
            } else if needs_mapping(name) {
                self.put_over_option(name, value);
            } else {
                self.forget(name, Some(name));
                self.changes.extend(merged(self.body, name, value, Wins::Setting));
            }
        }
    }

    fn put_over_option(&mut self, name: &str, value: &Value) {
        self.forget(name, None);
        self.options.set(name, value.clone());
    }

    /// Whether the caller gives the option, under whatever name and wherever.
    fn is_said(&self, name: &str) -> bool {
        let name = canonical(name);
        let in_body = |(other, value): (&str, &[u8])| value != b"null" && canonical(other) == name;
        self.body.members().any(in_body)
            || self.inner.iter().any(|(other, value)| !value.is_null() && canonical(other) == name)
            || self.options.get(name).is_some()
    }

    /// Takes the option away under all its names, but for the body's member `kept`.
    fn forget(&mut self, name: &str, kept: Option<&str>) {
        let name = canonical(name);
        self.changes.retain(|change| !is_for(change, |other| canonical(other) == name));
        let said = self.body.names().filter(|other| canonical(other) == name && Some(*other) != kept);
        self.changes.extend(said.map(Change::Remove));
        self.inner.retain(|other, _| canonical(other) != name);
        self.options.remove(name);
    }

    fn finish(mut self) -> Result<(RawObject, Options), InvalidObject> {
        let said: Option<Map<String, Value>> =
            self.body.get("options").and_then(|json| serde_json::from_slice(json).ok());
        if said.is_some_and(|said| said != self.inner) {
            self.changes.push(Change::Set("options", Value::Object(self.inner).to_string().into()));
        }
        Ok((self.body.edited(&self.changes)?, self.options))
    }
}

/// The members of the setting `options`.
fn options_of<'a>(name: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
    value.as_object().filter(|_| name == "options")
}

fn is_for(change: &Change<'_>, is_meant: impl Fn(&str) -> bool) -> bool {
    match change {
        Change::Set(name, _) | Change::Remove(name) => is_meant(name),
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
    use crate::llm::{Places, answers_to_each};
    use serde_json::json;

    fn request(body: &Value, options: &Value) -> ChatRequest {
        let mut given = Options::default();
        given.extend(options.as_object().unwrap().clone());
        let is_chat = body.get("prompt").is_none();
        let raw = RawObject::parse(body.to_string().into()).unwrap();
        ChatRequest {
            model: "m".to_owned(),
            kind: if is_chat { RequestKind::Chat } else { RequestKind::Completion },
            stream: false,
            include_usage: false,
            max_output_tokens: body.get("max_completion_tokens").and_then(Value::as_u64),
            n: answers_to_each(&raw),
            options: given,
            body: raw,
            patience: None,
            answer_at_most: None,
            rival: None,
            places: Places::default(),
        }
    }

    /// Body and options afterwards.
    fn settled(request: &ChatRequest, defaults: &Value, overrides: &Value) -> (Value, Value) {
        let settled = request.with_settings(defaults.as_object().unwrap(), overrides.as_object().unwrap());
        let settled = settled.unwrap();
        let options = settled.options.iter().map(|(name, value)| (name.to_owned(), value.clone()));
        (serde_json::from_slice(settled.body.text()).unwrap(), Value::Object(options.collect()))
    }

    #[test]
    fn options_of_engines_change_no_answers() {
        for name in ["temperature", "num_predict", "mirostat", "repeat_penalty", "n", "tools"] {
            assert!(changes_answers(name), "{name}");
        }
        for name in ["num_ctx", "keep_alive", "model", "user", "dimensions"] {
            assert!(!changes_answers(name), "{name}");
        }
    }

    #[test]
    fn defaults_fill_what_the_caller_left_unsaid() {
        let request = request(&json!({"temperature": 0.1, "top_p": null, "extra": {"a": 1}}), &json!({}));
        let defaults = json!({"temperature": 0.9, "top_p": 0.5, "seed": 3, "extra": {"a": 2, "b": 3}});
        assert_eq!(
            settled(&request, &defaults, &json!({})).0,
            json!({"temperature": 0.1, "top_p": 0.5, "extra": {"a": 1, "b": 3}, "seed": 3})
        );
    }

    #[test]
    fn several_prompts_and_several_answers_to_each_are_counted() {
        for (body, options, answers) in [
            (json!({}), json!({}), 1),
            (json!({"n": 3}), json!({}), 3),
            (json!({"n": null}), json!({"n": 2}), 2),
            (json!({"n": 0, "prompt": ["a", "b"]}), json!({}), 2),
            (json!({"n": 2, "prompt": [[1, 2], [3], []]}), json!({}), 6),
            (json!({"prompt": [1, 2, 3]}), json!({}), 1),
            (json!({"prompt": [], "n": "x"}), json!({}), 1),
        ] {
            assert_eq!(request(&body, &options).answers(), answers, "{body}");
        }
    }

    #[test]
    fn an_answer_is_no_longer_than_its_caller_can_pay_for() {
        let within = |body: Value, options: Value| {
            let request = ChatRequest { answer_at_most: Some(10), ..request(&body, &options) };
            let within = request.within_means().unwrap();
            let limit = within.options.get("max_tokens").cloned().unwrap_or_default();
            (serde_json::from_slice::<Value>(within.body.text()).unwrap(), limit, within.max_output_tokens)
        };
        let (newer, older) = ("max_completion_tokens", "max_tokens");
        assert_eq!(within(json!({}), json!({})), (json!({older: 10}), Value::Null, Some(10)));
        assert_eq!(within(json!({newer: 90}), json!({})), (json!({newer: 10}), Value::Null, Some(10)));
        assert_eq!(within(json!({older: 90}), json!({})), (json!({older: 10}), Value::Null, Some(10)));
        assert_eq!(within(json!({newer: 9}), json!({})).0, json!({newer: 9}), "the caller wants less");
        assert_eq!(within(json!({"n": 3}), json!({})).0, json!({"n": 3, older: 3}));
        assert_eq!(within(json!({}), json!({older: 90})), (json!({older: 10}), Value::Null, Some(10)));
        assert_eq!(within(json!({}), json!({older: 8})), (json!({}), json!(8), None));
        let inner = json!({"options": {"num_predict": 50, "seed": 1}});
        assert_eq!(within(inner, json!({})).0, json!({"options": {"seed": 1}, older: 10}));
        let free = request(&json!({older: 90}), &json!({}));
        assert!(matches!(free.within_means(), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn overrides_always_hold() {
        let request = request(&json!({"temperature": 0.1, "extra": {"a": 1, "b": 2}}), &json!({}));
        let overrides = json!({"temperature": 0.9, "store": false, "extra": {"a": 2}});
        assert_eq!(
            settled(&request, &json!({"store": true}), &overrides).0,
            json!({"temperature": 0.9, "extra": {"a": 2, "b": 2}, "store": false})
        );
    }

    #[test]
    fn a_default_yields_to_any_name_of_the_callers() {
        for (body, options) in [
            (json!({"max_completion_tokens": 5}), json!({})),
            (json!({"options": {"num_predict": 5}}), json!({})),
            (json!({}), json!({"max_new_tokens": 5})),
        ] {
            let request = request(&body, &options);
            for defaults in [json!({"max_tokens": 9}), json!({"options": {"num_predict": 9}})] {
                let (settled, options) = settled(&request, &defaults, &json!({}));
                assert_eq!(settled, body);
                assert_ne!(options["max_tokens"], 9);
            }
        }
    }

    #[test]
    fn an_override_leaves_no_other_name_of_the_option() {
        for (body, options) in [
            (json!({"max_completion_tokens": 5000}), json!({})),
            (json!({"max_tokens": 5000, "options": {"num_predict": 5000}}), json!({})),
            (json!({"n_predict": 5000}), json!({})),
            (json!({}), json!({"num_predict": 5000})),
        ] {
            let request = request(&body, &options);
            let (body, options) =
                settled(&request, &json!({"max_completion_tokens": 7}), &json!({"max_tokens": 100}));
            assert_eq!(body["max_tokens"], 100);
            assert!(!format!("{body}{options}").contains("5000") && !body.to_string().contains("completion"));
            for overrides in [json!({"options": {"num_predict": 100}}), json!({"max_new_tokens": 100})] {
                let (body, options) = settled(&request, &json!({}), &overrides);
                assert_eq!(options, json!({"max_tokens": 100}));
                assert!(!body.to_string().contains("5000"), "{body}");
            }
        }
    }

    #[test]
    fn options_are_filled_in_one_by_one() {
        let request = request(&json!({"temperature": 0.9}), &json!({"num_ctx": 2048}));
        let defaults = json!({"options": {"num_ctx": 16384, "temperature": 0.1, "mirostat": 1}});
        let (body, options) = settled(&request, &defaults, &json!({}));
        assert_eq!((body, options), (json!({"temperature": 0.9}), json!({"num_ctx": 2048, "mirostat": 1})));
    }

    #[test]
    fn words_that_providers_have_their_own_for_are_left_to_them() {
        let request = request(&json!({}), &json!({}));
        let (body, options) = settled(
            &request,
            &json!({"max_new_tokens": 5, "repeat_penalty": 1.1, "top_k": 3}),
            &json!({"keep_alive": "5m"}),
        );
        assert_eq!(body, json!({"top_k": 3}));
        assert_eq!(options, json!({"max_tokens": 5, "repetition_penalty": 1.1, "keep_alive": "5m"}));
    }

    #[test]
    fn an_odd_body_is_refused_and_not_passed_without_the_settings() {
        let mut request = request(&json!({}), &json!({}));
        request.body = RawObject::known(r#"{"max_tokens":5000,"zz":1,"zz":2}"#.into());
        let overrides = json!({"max_tokens": 100});
        let refused = request.with_settings(&Map::new(), overrides.as_object().unwrap()).unwrap_err();
        assert_eq!(refused, InvalidObject::Duplicate("zz".to_owned()));
    }

    #[test]
    fn embeddings_take_what_is_for_them() {
        let body = RawObject::parse(r#"{"model":"m","input":"a"}"#.into()).unwrap();
        let request = EmbedRequest { model: "m".to_owned(), rival: None, body };
        let (defaults, overrides) = (json!({"temperature": 1, "user": "u"}), json!({"dimensions": 256}));
        let settled =
            request.with_settings(defaults.as_object().unwrap(), overrides.as_object().unwrap()).unwrap();
        assert_eq!(settled.body.text(), r#"{"model":"m","input":"a","user":"u","dimensions":256}"#);
    }

    #[test]
    fn without_settings_nothing_is_copied() {
        let request = request(&json!({"temperature": 0.1}), &json!({}));
        let empty = Map::new();
        assert!(matches!(request.with_settings(&empty, &empty), Ok(Cow::Borrowed(_))));
    }
}
