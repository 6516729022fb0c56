//! How many tokens something has: the question, and the answer.

use serde_json::Map;

use super::{ChatRequest, Places, RawObject, RequestKind, Usage};

/// What is to be counted.
#[derive(Clone, Debug)]
pub struct CountRequest {
    /// The public model name, as the caller wrote it.
    pub model: String,
    /// Prompts as they would be sent: each text by itself, or one conversation with its tools.
    pub prompts: Vec<ChatRequest>,
    /// Whether it was a list.
    pub is_list: bool,
}

/// How many tokens there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Of each prompt, in their order.
    pub tokens: Vec<u64>,
    /// Who counted.
    pub source: CountSource,
}

/// Who counted, beginning with the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountSource {
    /// An engine that the gateway runs.
    Engine,
    /// The vocabulary and the template of the model's own file.
    Tokenizer,
    /// The provider's server, which takes nothing for it.
    Provider,
    /// Nobody.
    Estimated,
}

impl CountSource {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Tokenizer => "tokenizer",
            Self::Provider => "provider",
            Self::Estimated => "estimated",
        }
    }
}

impl CountRequest {
    /// Texts, which are counted as prompts without a conversation.
    pub fn of_texts(model: String, texts: Vec<String>, is_list: bool) -> Self {
        let prompt = |text: String| {
            let body = RawObject::from_map(&Map::from_iter([("prompt".to_owned(), text.into())]));
            ChatRequest {
                model: model.clone(),
                kind: RequestKind::Completion,
                stream: false,
                include_usage: false,
                max_output_tokens: None,
                n: None,
                options: super::Options::default(),
                patience: None,
                answer_at_most: None,
                rival: None,
                places: Places::of(&body),
                body,
            }
        };
        let prompts: Vec<ChatRequest> = texts.into_iter().map(prompt).collect();
        Self { model, prompts, is_list }
    }

    /// What can be said of it when nobody counts.
    pub fn estimated(&self) -> Count {
        let of = |request: &ChatRequest| match request.kind {
            RequestKind::Chat => {
                let parts = ["messages", "tools"].into_iter().filter_map(|name| request.body.get(name));
                Usage::estimated_parts(parts)
            }
            RequestKind::Completion => {
                // As long as it is, not as JSON writes it.
                let text =
                    request.body.get("prompt").and_then(|json| serde_json::from_slice::<String>(json).ok());
                Usage::estimated_tokens(text.map_or(0, |text| text.len()))
            }
        };
        Count { tokens: self.prompts.iter().map(of).collect(), source: CountSource::Estimated }
    }
}

impl Count {
    /// Of all prompts together.
    pub fn total(&self) -> u64 {
        self.tokens.iter().fold(0, |sum, tokens| sum.saturating_add(*tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_takes_texts_as_long_as_they_are() {
        let texts = vec!["12345678".to_owned(), "\"\n\"".to_owned(), String::new()];
        let count = CountRequest::of_texts("m".to_owned(), texts, true).estimated();
        assert_eq!((count.tokens.as_slice(), count.total()), (&[2, 1, 0][..], 3));
        assert_eq!(count.source.as_str(), "estimated");
    }
}
