//! The text of a whole answer, why it ended, and how long it is without the JSON around it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::{json_fault, read_lenient, repaired};
use super::{Completion, read_within};

/// What a model answers, and why it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerText {
    /// The text of the first choice, without reasoning that stands apart.
    pub text: String,
    /// Its finish reason.
    pub finish_reason: String,
}

/// An answer, of which only the text becomes a value: all of its values would take many times its length.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    choices: Vec<Members<'a>>,
}

// Not a struct: some servers write a name twice.
type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// A choice of an answer, or of a chunk of one.
#[derive(Default)]
struct Choice<'a> {
    message: Members<'a>,
    text: Option<&'a RawValue>,
    finish_reason: Option<&'a RawValue>,
}

impl Completion {
    /// Reads its text.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn answer_text(&self) -> Result<AnswerText, String> {
        with_choices(&self.body, |choices| {
            let choice = choices.first();
            let content = choice.and_then(|choice| choice.message.get("content"));
            let finish_reason = choice.and_then(|choice| choice.finish_reason);
            AnswerText {
                text: content.map(|content| text_of(content)).unwrap_or_default(),
                finish_reason: finish_reason.map(text_of).unwrap_or_default(),
            }
        })
    }
}

/// How many bytes of text and of tool calls there are in a whole answer, or in a chunk of one.
pub fn text_bytes(body: &[u8]) -> usize {
    with_choices(body, |choices| choices.iter().map(Choice::bytes).sum()).unwrap_or(0)
}

fn with_choices<R>(body: &[u8], look: impl FnOnce(&[Choice<'_>]) -> R) -> Result<R, String> {
    let fault = match choices_of(body) {
        Ok(choices) => return Ok(look(&choices)),
        Err(error) => json_fault(&error),
    };
    let repaired = repaired(body).ok_or_else(|| fault.clone())?;
    Ok(look(&choices_of(&repaired).map_err(|_| fault)?))
}

fn choices_of(body: &[u8]) -> serde_json::Result<Vec<Choice<'_>>> {
    let answer: Answer<'_> = serde_json::from_slice(body)?;
    answer.choices.iter().map(Choice::of).collect()
}

impl<'a> Choice<'a> {
    fn of(members: &Members<'a>) -> serde_json::Result<Self> {
        let is_object = |value: &&&RawValue| value.get().starts_with('{');
        let message = ["message", "delta"].iter().filter_map(|name| members.get(*name)).find(is_object);
        Ok(Self {
            message: message
                .map(|message| serde_json::from_str(message.get()))
                .transpose()?
                .unwrap_or_default(),
            text: members.get("text").copied(),
            finish_reason: members.get("finish_reason").copied(),
        })
    }

    fn bytes(&self) -> usize {
        let text = |name: &str| self.message.get(name).map_or(0, |value| text_of(value).len());
        // Some servers give the same reasoning under two names.
        let reasoning = ["reasoning_content", "reasoning", "thinking"].map(text).into_iter().max();
        let calls = ["tool_calls", "function_call"].into_iter().filter_map(|name| self.message.get(name));
        let calls: usize = calls.map(|calls| calls.get().len()).filter(|length| *length > "null".len()).sum();
        let own = self.text.map_or(0, |text| text_of(text).len());
        own + text("content") + text("refusal") + reasoning.unwrap_or(0) + calls
    }
}

/// The text of a content: a text, or parts of which some are texts.
fn text_of(content: &RawValue) -> String {
    let json = content.get().as_bytes();
    if json.first() == Some(&b'"') {
        return read_lenient(json).unwrap_or_default();
    }
    let mut text = String::new();
    add_text(&read_within(json).unwrap_or_default(), &mut text);
    text
}

fn add_text(content: &Value, text: &mut String) {
    match content {
        Value::String(plain) => text.push_str(plain),
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::Array(parts) => parts.iter().for_each(|part| add_text(part, text)),
        Value::Object(part) => {
            let kind = part.get("type").and_then(Value::as_str);
            let inner = ["text", "value"].into_iter().find_map(|name| part.get(name));
            match (kind, inner) {
                (Some(kind), _) if kind.contains("thinking") || kind.contains("reasoning") => {}
                (_, Some(inner)) => add_text(inner, text),
                // A part of another kind, such as a picture.
                (Some(_), None) => {}
                // An object that a model was asked for, and that its server has read.
                (None, None) => text.push_str(&content.to_string()),
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(choice: &str) -> Completion {
        let body = format!(r#"{{"choices":[{choice}],"x":"{}"}}"#, "x".repeat(4000));
        Completion::from_openai(body.into()).unwrap()
    }

    #[test]
    fn the_text_is_read_in_every_shape() {
        for (content, expected) in [
            (r#""Hello""#, "Hello"),
            (
                r#"[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"Hello"}]"#,
                "Hello",
            ),
            (r#"[{"type":"reasoning","text":"hm"},"Hel",{"type":"output_text","text":"lo"}]"#, "Hello"),
            (r#"{"type":"text","text":{"value":"Hello"}}"#, "Hello"),
            ("42", "42"),
            (r#"{"answer":[1]}"#, r#"{"answer":[1]}"#),
            (r#"[{"type":"image_url","image_url":{}},"Hello"]"#, "Hello"),
            ("null", ""),
            (r#""odd \ud83d end""#, "odd \u{fffd} end"),
            (r#"[{"text":"odd \udc00"}]"#, "odd \u{fffd}"),
            (r#""first","content":"Hello","\ud83d":1"#, "Hello"),
        ] {
            let read = answer(&format!(r#"{{"message":{{"content":{content}}},"finish_reason":"stop"}}"#))
                .answer_text()
                .unwrap();
            assert_eq!((read.text.as_str(), read.finish_reason.as_str()), (expected, "stop"), "{content}");
        }
    }

    #[test]
    fn the_length_of_a_chunk_is_that_of_its_text() {
        assert_eq!(
            text_bytes(br#"{"choices":[{"delta":{"role":"assistant","content":"Hello"}}],"usage":null}"#),
            5
        );
        assert_eq!(text_bytes(b"[]"), 0);
    }

    #[test]
    fn the_length_is_that_of_the_text() {
        for (choice, bytes) in [
            (
                r#"{"message":{"content":"Hello"},"finish_reason":"stop","logprobs":{"content":[{"token":"Hello"}]}}"#,
                5,
            ),
            (
                r#"{"message":{"content":"\u0928","reasoning":"hm","reasoning_content":"hm"},"finish_reason":"stop"}"#,
                5,
            ),
            (r#"{"text":"Hello","finish_reason":"stop"}"#, 5),
            (r#"{"message":{"content":null,"tool_calls":[{"id":1}]},"finish_reason":"tool_calls"}"#, 10),
            (r#"{"message":{"content":"","tool_calls":null},"finish_reason":"stop"}"#, 0),
        ] {
            assert_eq!(answer(choice).text_bytes, bytes, "{choice}");
        }
    }
}
