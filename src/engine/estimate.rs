//! How long a prompt will be, in tokens, before anybody has counted it.
//!
//! Only the decision between variants needs the number, so a bound is mostly enough. A guess is learned from: each
//! answer says how long its prompt was.

use std::sync::{Mutex, PoisonError};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::need::AnswerLength;
use crate::llm::{ChatRequest, RequestKind};

/// What the template puts around a message, at most.
const AROUND_MESSAGE: u64 = 24;
/// What the template puts around all, at most.
const AROUND_ALL: u64 = 64;
/// A picture, where nobody knows the model's way with pictures.
const PICTURE: u64 = 1024;
/// Tokens of ordinary text have about four bytes, those of code with its indentation more.
const MOST_BYTES_A_TOKEN: u64 = 12;
/// Shorter prompts are mostly template, and say little of longer ones.
const LEAST_TO_LEARN_FROM: u64 = 200;
/// How much a single answer changes what was learned.
const HASTE: f64 = 0.2;

/// What can be said of a prompt, or of a part of it, without counting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Guess {
    /// Probably so many.
    pub(super) tokens: u64,
    /// Never more.
    pub(super) at_most: u64,
    /// Hardly ever less.
    pub(super) at_least: u64,
    /// So many of them for pictures, about which nobody can be sure.
    pub(super) pictures: u64,
}

impl Guess {
    /// Both, one after the other.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            at_most: self.at_most + other.at_most,
            at_least: self.at_least + other.at_least,
            pictures: self.pictures + other.pictures,
        }
    }

    /// What tokenizers make of a text.
    fn of_text(text: &str) -> Self {
        let bytes = text.len() as u64;
        let wide = text.chars().filter(|c| !c.is_ascii()).count() as u64;
        let plain = text.bytes().filter(u8::is_ascii).count() as u64;
        Self {
            tokens: plain.div_ceil(3) + wide,
            // No tokenizer makes more tokens of a text than it has bytes.
            at_most: bytes,
            at_least: bytes / MOST_BYTES_A_TOKEN,
            pictures: 0,
        }
    }

    fn of_value(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::of_text(text),
            Value::Array(parts) => parts.iter().map(Self::of_value).fold(Self::default(), Self::and),
            Value::Object(part) if is_picture(part.get("type")) => {
                Self { tokens: PICTURE, at_most: PICTURE * 4, at_least: 0, pictures: PICTURE }
            }
            Value::Object(part) => part.values().map(Self::of_value).fold(Self::default(), Self::and),
            _ => Self { tokens: 1, at_most: 8, ..Self::default() },
        }
    }

    /// Tools go through the template with indentation, in some of them twice.
    fn of_tools(tools: &[u8]) -> Self {
        let bytes = tools.len() as u64;
        Self { tokens: bytes / 3, at_most: bytes * 2, at_least: bytes / MOST_BYTES_A_TOKEN, pictures: 0 }
    }
}

/// A request, as far as the length of its prompt matters.
#[derive(Debug)]
pub(super) struct Sketch<'r> {
    /// What stands for all messages in the prompt: the tools.
    pub(super) surroundings: &'r [u8],
    pub(super) messages: Vec<Message<'r>>,
    /// The whole prompt.
    pub(super) guess: Guess,
}

/// A message of a request.
#[derive(Debug)]
pub(super) struct Message<'r> {
    /// As it stands in the request.
    pub(super) raw: &'r [u8],
    pub(super) guess: Guess,
    pub(super) is_assistants: bool,
}

impl<'r> Sketch<'r> {
    pub(super) fn of(request: &'r ChatRequest) -> Self {
        let member = |name: &str| request.body.get(name).unwrap_or_default();
        let around = Guess { tokens: 4, at_most: AROUND_ALL, ..Guess::default() };
        match request.kind {
            RequestKind::Completion => {
                let prompt: Value = serde_json::from_slice(member("prompt")).unwrap_or_default();
                let guess = Guess::of_value(&prompt).and(around);
                Self { surroundings: &[], messages: Vec::new(), guess }
            }
            RequestKind::Chat => {
                let tools = member("tools");
                let messages: Vec<&RawValue> = serde_json::from_slice(member("messages")).unwrap_or_default();
                let messages: Vec<Message<'r>> = messages.into_iter().map(Message::of).collect();
                let whole = messages.iter().map(|message| message.guess);
                let guess = whole.fold(Guess::of_tools(tools).and(around), Guess::and);
                Self { surroundings: tools, messages, guess }
            }
        }
    }
}

impl<'r> Message<'r> {
    fn of(raw: &'r RawValue) -> Self {
        let message: Map<String, Value> = serde_json::from_str(raw.get()).unwrap_or_default();
        let said =
            message.iter().filter(|(name, _)| *name != "role").map(|(_, value)| Guess::of_value(value));
        let around = Guess { tokens: 8, at_most: AROUND_MESSAGE, ..Guess::default() };
        Self {
            raw: raw.get().as_bytes(),
            guess: said.fold(around, Guess::and),
            is_assistants: message.get("role").is_some_and(|role| role == "assistant"),
        }
    }
}

/// What a prompt has at most, without a look at its messages; `None` where they may hold more than text.
pub(super) fn at_most(request: &ChatRequest) -> Option<u64> {
    let member = |name: &str| request.body.get(name).unwrap_or_default();
    let text = match request.kind {
        RequestKind::Chat => member("messages"),
        RequestKind::Completion => member("prompt"),
    };
    let may_be_more = |what: &str| memchr::memmem::find(text, what.as_bytes()).is_some();
    let is_text = !["image", "audio", "video", "\\u"].into_iter().any(may_be_more);
    // What JSON puts around a message is as long as what templates put there.
    is_text.then(|| text.len() as u64 + member("tools").len() as u64 * 2 + AROUND_ALL)
}

/// What a model's prompts have turned out to be, against what was guessed.
#[derive(Debug)]
pub(super) struct Experience {
    // A std mutex: held for a multiplication.
    ratio: Mutex<f64>,
}

impl Default for Experience {
    fn default() -> Self {
        Self { ratio: Mutex::new(1.0) }
    }
}

impl Experience {
    /// A guess, put right by what was learned.
    pub(super) fn corrected(&self, guess: Guess) -> u64 {
        let ratio = *self.ratio.lock().unwrap_or_else(PoisonError::into_inner);
        scaled(guess.tokens, ratio * 1.05).min(guess.at_most)
    }

    /// A prompt was so long.
    pub(super) fn learn(&self, guess: Guess, counted: u64) {
        if guess.tokens < LEAST_TO_LEARN_FROM || counted == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "tokens are far below 2^52")]
        let seen = (counted as f64 / guess.tokens as f64).clamp(0.1, 10.0);
        let mut ratio = self.ratio.lock().unwrap_or_else(PoisonError::into_inner);
        *ratio += (seen - *ratio) * HASTE;
    }
}

fn scaled(tokens: u64, ratio: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "tokens are far below 2^52, and ratios are positive"
    )]
    let scaled = (tokens as f64 * ratio).ceil() as u64;
    scaled
}

/// How long the answer may become.
pub(super) fn answer_length(request: &ChatRequest, reserve: u64) -> AnswerLength {
    let in_options = || request.options.get("max_tokens").and_then(Value::as_u64);
    let asked = request.max_output_tokens.or_else(in_options);
    // Several answers to one prompt take their room beside each other.
    let answers =
        request.body.get("n").and_then(|json| serde_json::from_slice::<u64>(json).ok()).unwrap_or(1);
    let all = |tokens: u64| tokens.saturating_mul(answers.max(1));
    asked.map_or(AnswerLength::Open(all(reserve)), |tokens| AnswerLength::Asked(all(tokens)))
}

/// The longest text of a list of texts, in tokens at most.
pub(super) fn longest_text(input: &Value) -> u64 {
    let of = |text: &Value| match text {
        Value::String(text) => text.len() as u64,
        Value::Array(tokens) => tokens.len() as u64,
        _ => 1,
    };
    match input {
        Value::Array(texts) if !texts.iter().all(Value::is_number) => texts.iter().map(of).max().unwrap_or(0),
        text => of(text),
    }
}

/// All texts of a request one after the other, and the number of messages.
pub(super) fn text_of(request: &ChatRequest) -> (String, u64) {
    let member = |name: &str| {
        request.body.get(name).and_then(|json| serde_json::from_slice::<Value>(json).ok()).unwrap_or_default()
    };
    let mut text = String::new();
    let messages = match request.kind {
        RequestKind::Completion => {
            add_texts(&member("prompt"), &mut text);
            1
        }
        RequestKind::Chat => {
            let messages = member("messages");
            let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
            for message in messages {
                let said = message.as_object().into_iter().flatten().filter(|(name, _)| *name != "role");
                said.for_each(|(_, value)| add_texts(value, &mut text));
            }
            // They go through the template as text.
            if let tools @ Value::Array(_) = member("tools") {
                text += &tools.to_string();
            }
            messages.len() as u64
        }
    };
    (text, messages)
}

fn add_texts(value: &Value, text: &mut String) {
    match value {
        Value::String(more) => text.push_str(more),
        Value::Array(parts) => parts.iter().for_each(|part| add_texts(part, text)),
        Value::Object(part) if is_picture(part.get("type")) => {}
        Value::Object(part) => {
            part.iter().filter(|(name, _)| *name != "type").for_each(|(_, value)| add_texts(value, text));
        }
        _ => {}
    }
}

fn is_picture(kind: Option<&Value>) -> bool {
    kind.and_then(Value::as_str)
        .is_some_and(|kind| kind.contains("image") || kind.contains("audio") || kind.contains("video"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::openai;
    use serde_json::json;

    fn request(body: &Value) -> ChatRequest {
        openai::chat_request(body.to_string().into(), false).unwrap()
    }

    fn guess_of(request: &ChatRequest) -> Guess {
        Sketch::of(request).guess
    }

    #[test]
    fn the_bound_is_above_the_guess() {
        for content in ["Hi", "Zażółć gęślą jaźń", "你好，世界", &"word ".repeat(2000)] {
            let request = request(&json!({"model": "m", "messages": [{"role": "user", "content": content}]}));
            let guess = guess_of(&request);
            assert!(guess.at_most >= guess.tokens, "{guess:?}");
            assert!(guess.at_most >= content.len() as u64);
            assert!(at_most(&request).unwrap() >= guess.at_most);
        }
    }

    #[test]
    fn tools_and_pictures_count() {
        let plain = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
        let mut with_tools = plain.clone();
        with_tools["tools"] =
            json!([{"type": "function", "function": {"name": "f", "description": "x".repeat(3000)}}]);
        assert!(guess_of(&request(&with_tools)).tokens > guess_of(&request(&plain)).tokens + 900);
        let mut with_picture = plain.clone();
        with_picture["messages"][0]["content"] =
            json!([{"type": "image_url", "image_url": {"url": "data:x"}}]);
        assert!(guess_of(&request(&with_picture)).tokens >= 1024);
        assert!(at_most(&request(&plain)).is_some() && at_most(&request(&with_picture)).is_none());
    }

    #[test]
    fn the_longest_text_counts() {
        assert_eq!(longest_text(&json!("abc")), 3);
        assert_eq!(longest_text(&json!(["a", "abcd", "ab"])), 4);
        assert_eq!(longest_text(&json!([1, 2, 3])), 3);
        assert_eq!(longest_text(&json!([[1, 2], [1, 2, 3]])), 3);
    }

    #[test]
    fn answers_teach() {
        let experience = Experience::default();
        let guess = Guess { tokens: 1000, at_most: 10_000, at_least: 100, pictures: 0 };
        assert_eq!(experience.corrected(guess), 1050);
        for _ in 0..50 {
            experience.learn(guess, 600);
        }
        assert!((600..660).contains(&experience.corrected(guess)), "{}", experience.corrected(guess));
    }

    #[test]
    fn the_callers_limit_is_the_answers_length() {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
        assert_eq!(answer_length(&request(&body), 2048), AnswerLength::Open(2048));
        body["max_completion_tokens"] = json!(7);
        assert_eq!(answer_length(&request(&body), 2048), AnswerLength::Asked(7));
    }
}
