//! The question how many tokens something has, and its answer.

use poem_openapi::Object;
use poem_openapi::types::{Any, Example};
use serde::Serialize;
use serde_json::{Value, json};

/// What is to be counted: `input`, or `messages`. Other members do not matter.
#[derive(Object)]
#[oai(rename = "CountRequest", example)]
pub(in crate::api) struct CountBody {
    /// The model's public name.
    model: String,
    /// A text, or a list of up to 256 texts.
    input: Option<Any<Value>>,
    /// A conversation, as a chat has it.
    messages: Option<Vec<Any<Value>>>,
    /// The tools that go with the conversation.
    tools: Option<Vec<Any<Value>>>,
}

impl Example for CountBody {
    fn example() -> Self {
        let input = Some(Any(json!(["one text", "and another"])));
        Self { model: "echo".to_owned(), input, messages: None, tools: None }
    }
}

/// How many tokens there are.
#[derive(Serialize, Object)]
#[oai(rename = "CountAnswer")]
pub(in crate::api) struct CountAnswer {
    /// The model, as it was named.
    pub(in crate::api) model: String,
    /// How many there are, of all texts together. What the model puts before a prompt by itself is among them, and so is
    /// what its template puts around messages.
    pub(in crate::api) count: u64,
    /// Who counted: `engine`, `tokenizer` (the model's own file), `provider`, or `estimated` if nobody did.
    pub(in crate::api) source: String,
    /// With a list of texts: how many each of them has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub(in crate::api) detail: Option<Vec<u64>>,
}
