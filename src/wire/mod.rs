//! The dialects: JSON of callers and providers, to and from the language of the house.
//!
//! Pure translation. Nothing here opens a connection or waits for one.

pub mod naming;
pub mod ollama;
pub mod openai;

use crate::llm::InvalidObject;

/// A request that cannot be accepted, in the caller's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// Where in the request, such as `messages[1].role`.
    pub param: Option<String>,
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people. It never quotes what the caller wrote.
    pub message: String,
}

impl Invalid {
    /// A member that is not what it must be.
    pub fn value(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), code: "invalid_value", message: message.into() }
    }

    /// A member that must be there and is not.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        Self { code: "missing_field", message: format!("`{param}` is missing"), param: Some(param) }
    }

    /// A body that is no JSON object.
    pub fn json(message: impl Into<String>) -> Self {
        Self { param: None, code: "invalid_json", message: message.into() }
    }

    /// Something right in itself that the provider behind the model has no way to do.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), code: "unsupported_value", message: message.into() }
    }
}

impl From<InvalidObject> for Invalid {
    fn from(error: InvalidObject) -> Self {
        match error {
            InvalidObject::Syntax(reason) => Self::json(format!("the body is not JSON: {reason}")),
            InvalidObject::NotAnObject => Self::json("the body must be a JSON object"),
            InvalidObject::Duplicate(name) => {
                let message = format!("`{name}` stands twice");
                Self::value(name, message)
            }
        }
    }
}
