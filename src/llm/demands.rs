//! What a request asks of a model beyond answering text with text, and what of that a model can do.

use memchr::memmem;
use serde_json::Value;

use super::{ChatRequest, Usage};

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// Tools that the model may call.
    pub tools: bool,
    /// An answer of a certain form.
    pub response_format: bool,
    /// Images that the model has to look at.
    pub images: bool,
    /// Room for an answer of so many tokens.
    pub output_tokens: Option<u64>,
    /// Room for about so many tokens before the answer.
    pub input_tokens: u64,
}

/// What a model can do. What nobody says of it, it is taken to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Whether it calls tools.
    pub tools: Option<bool>,
    /// Whether it keeps to a form.
    pub response_format: Option<bool>,
    /// Whether it looks at images.
    pub images: Option<bool>,
    /// Whether it reasons before it answers. Nothing that is asked for depends on it.
    pub reasoning: Option<bool>,
    /// The most tokens of an answer.
    pub output_tokens: Option<u64>,
}

impl ChatRequest {
    /// The most tokens that the caller wants for an answer, by whatever name.
    pub fn most_output_tokens(&self) -> Option<u64> {
        self.max_output_tokens.or_else(|| self.options.get("max_tokens").and_then(Value::as_u64))
    }

    /// What it asks for. Reads through the messages once.
    pub fn demands(&self) -> Demands {
        let given = |name: &str| self.body.get(name).filter(|value| !matches!(*value, b"null" | b"[]"));
        let asks_for_form = |value: &[u8]| {
            let form: Option<Value> = serde_json::from_slice(value).ok();
            form.is_none_or(|form| form.get("type").and_then(Value::as_str) != Some("text"))
        };
        // In a text the closing quote would be escaped.
        let shows_image = |messages: &[u8]| memmem::find(messages, br#""image_url""#).is_some();
        Demands {
            tools: given("tools").or_else(|| given("functions")).is_some(),
            response_format: given("response_format").is_some_and(asks_for_form),
            images: self.body.get("messages").is_some_and(shows_image),
            output_tokens: self.most_output_tokens(),
            input_tokens: Usage::estimated_prompt(self.body.text()),
        }
    }
}

impl Abilities {
    /// These, and of the others what these do not say.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            tools: self.tools.or(others.tools),
            response_format: self.response_format.or(others.response_format),
            images: self.images.or(others.images),
            reasoning: self.reasoning.or(others.reasoning),
            output_tokens: self.output_tokens.or(others.output_tokens),
        }
    }

    /// What is asked for and is known to be beyond it.
    pub fn lacks(&self, demands: &Demands) -> Option<&'static str> {
        let cannot = |asked: bool, can: Option<bool>| asked && can == Some(false);
        let most = self.output_tokens.unwrap_or(u64::MAX);
        [
            ("tools", cannot(demands.tools, self.tools)),
            ("response_format", cannot(demands.response_format, self.response_format)),
            ("images", cannot(demands.images, self.images)),
            ("so long an answer", demands.output_tokens.is_some_and(|wanted| wanted > most)),
        ]
        .into_iter()
        .find_map(|(word, is_lacking)| is_lacking.then_some(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{Options, Places, RawObject, RequestKind};
    use serde_json::json;

    fn demands(body: &Value) -> Demands {
        let body = RawObject::parse(body.to_string().into()).unwrap();
        let mut options = Options::default();
        options.set("max_new_tokens", 70);
        let request = ChatRequest {
            model: "m".to_owned(),
            kind: RequestKind::Chat,
            stream: false,
            include_usage: false,
            max_output_tokens: body.get("max_tokens").and_then(|json| serde_json::from_slice(json).ok()),
            n: None,
            options,
            patience: None,
            answer_at_most: None,
            rival: None,
            places: Places::of(&body),
            body,
        };
        request.demands()
    }

    #[test]
    fn a_request_tells_what_it_asks_for() {
        let plain =
            demands(&json!({"messages": [{"role": "user", "content": "an \"image_url\", \"tools\""}],
            "tools": [], "response_format": {"type": "text"}}));
        let expected =
            Demands { output_tokens: Some(70), input_tokens: plain.input_tokens, ..Demands::default() };
        assert_eq!(plain, expected);
        let image = json!({"type": "image_url", "image_url": {"url": "data:,"}});
        let all = demands(&json!({"messages": [{"role": "user", "content": [image]}], "max_tokens": 9,
            "tools": [{"type": "function"}], "response_format": {"type": "json_object"}}));
        assert!(all.tools && all.response_format && all.images);
        assert_eq!(all.output_tokens, Some(9));
    }

    #[test]
    fn an_image_is_not_as_long_as_its_bytes() {
        let url = format!("data:image/png;base64,{}", "iVBO".repeat(750_000));
        let image = json!({"type": "image_url", "image_url": {"url": url}});
        let demands = demands(&json!({"messages": [{"role": "user", "content": [image]}]}));
        assert!(demands.images && (1000..1100).contains(&demands.input_tokens), "{demands:?}");
    }

    #[test]
    fn only_what_is_known_to_be_beyond_a_model_counts() {
        let all = Demands {
            tools: true,
            response_format: true,
            images: true,
            output_tokens: Some(9),
            input_tokens: 1,
        };
        assert_eq!(Abilities::default().lacks(&all), None);
        let no = Some(false);
        for (abilities, word) in [
            (Abilities { tools: no, images: no, ..Abilities::default() }, "tools"),
            (Abilities { response_format: no, ..Abilities::default() }, "response_format"),
            (Abilities { images: no, ..Abilities::default() }, "images"),
            (Abilities { output_tokens: Some(8), ..Abilities::default() }, "so long an answer"),
        ] {
            assert_eq!(abilities.lacks(&all), Some(word));
            assert_eq!(abilities.lacks(&Demands::default()), None);
        }
        let stated = Abilities { tools: Some(true), ..Abilities::default() };
        let listed = Abilities { tools: no, images: no, ..Abilities::default() };
        assert_eq!(stated.or(listed), Abilities { tools: Some(true), images: no, ..Abilities::default() });
    }
}
