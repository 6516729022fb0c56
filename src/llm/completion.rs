//! A whole answer: as an upstream gave it, or folded from the chunks of a stream.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Frames, RequestKind, TOO_DEEP, Usage, is_too_deep, json_fault};

/// A whole answer in OpenAI's JSON (`chat.completion` or `text_completion`).
#[derive(Clone, Debug)]
pub struct Completion {
    /// The JSON; the upstream's own bytes where it speaks OpenAI's dialect.
    pub body: Bytes,
    /// What it took, if the provider said so.
    pub usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    choices: Option<Vec<IgnoredAny>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

impl Completion {
    /// Takes an upstream's answer as it is, after a look at its outermost members.
    ///
    /// # Errors
    /// It is not a JSON object with a list of choices, or it is nested too deeply.
    pub fn from_openai(body: Bytes) -> Result<Self, String> {
        if is_too_deep(&body) {
            return Err(TOO_DEEP.to_owned());
        }
        let envelope: Envelope<'_> = serde_json::from_slice(&body).map_err(|error| json_fault(&error))?;
        if envelope.choices.is_none_or(|choices| choices.is_empty()) {
            return Err("no choices in the answer".to_owned());
        }
        let usage = envelope.usage.and_then(|usage| Usage::from_openai(usage.get().as_bytes()));
        Ok(Self { body, usage })
    }
}

/// Folds the chunks of a stream into the answer that would have come whole.
///
/// Text that comes in pieces (content, reasoning, arguments of tool calls) is joined, lists of log
/// probabilities are joined, and of everything else the last value counts, so that members this
/// gateway does not know survive.
#[derive(Debug)]
pub struct Fold {
    kind: RequestKind,
    envelope: Map<String, Value>,
    choices: Vec<Value>,
    usage: Option<Usage>,
}

impl Fold {
    /// A fold for the answer to a request of this kind.
    pub fn new(kind: RequestKind) -> Self {
        Self { kind, envelope: Map::new(), choices: Vec::new(), usage: None }
    }

    /// Adds the chunks of a run.
    ///
    /// # Errors
    /// One of them is not a chunk.
    pub fn push(&mut self, frames: &Frames) -> Result<(), String> {
        for json in frames.jsons() {
            let chunk: Map<String, Value> =
                serde_json::from_slice(json).map_err(|error| json_fault(&error))?;
            self.push_chunk(chunk);
        }
        Ok(())
    }

    /// The whole answer.
    ///
    /// # Errors
    /// No choice came.
    pub fn finish(mut self) -> Result<Completion, String> {
        if self.choices.is_empty() {
            return Err("no choices in the answer".to_owned());
        }
        for (index, choice) in self.choices.iter_mut().enumerate() {
            self.kind.complete(index, choice);
        }
        let usage = self.envelope.shift_remove("usage");
        self.envelope.insert("choices".into(), Value::Array(self.choices));
        if let Some(usage) = usage {
            self.envelope.insert("usage".into(), usage);
        }
        Ok(Completion { body: Value::Object(self.envelope).to_string().into(), usage: self.usage })
    }

    fn push_chunk(&mut self, chunk: Map<String, Value>) {
        for (name, value) in chunk {
            match (name.as_str(), value) {
                ("choices", Value::Array(choices)) => {
                    choices.into_iter().for_each(|choice| self.push_choice(choice));
                }
                ("object", _) => {
                    self.envelope.insert(name, self.kind.object().into());
                }
                ("usage", Value::Null) | ("choices", _) => {}
                ("usage", usage) => {
                    self.usage = Usage::from_openai(usage.to_string().as_bytes()).or(self.usage);
                    self.envelope.insert(name, usage);
                }
                (_, value) => {
                    self.envelope.insert(name, value);
                }
            }
        }
    }

    fn push_choice(&mut self, choice: Value) {
        let Value::Object(mut choice) = choice else {
            return;
        };
        let index = index_of(&choice).unwrap_or(0);
        // More choices than any `n` allows can only be nonsense; they must not take the memory.
        if index > 128 {
            return;
        }
        while self.choices.len() <= index {
            self.choices.push(json!({}));
        }
        let delta = choice.shift_remove("delta");
        choice.shift_remove("index");
        let Some(Value::Object(whole)) = self.choices.get_mut(index) else {
            return;
        };
        merge(whole, choice);
        if let Some(Value::Object(delta)) = delta
            && let Value::Object(message) = whole.entry("message").or_insert_with(|| json!({}))
        {
            merge(message, delta);
        }
    }
}

impl RequestKind {
    fn object(self) -> &'static str {
        match self {
            Self::Chat => "chat.completion",
            Self::Completion => "text_completion",
        }
    }

    /// Gives a folded choice the members that every whole choice has, in their usual order.
    fn complete(self, index: usize, choice: &mut Value) {
        let Value::Object(folded) = std::mem::take(choice) else {
            return;
        };
        let mut whole = Map::new();
        whole.insert("index".into(), index.into());
        match self {
            Self::Chat => {
                let mut message = Map::new();
                message.insert("role".into(), "assistant".into());
                message.insert("content".into(), Value::Null);
                if let Some(Value::Object(said)) = folded.get("message") {
                    message.extend(said.clone());
                }
                strip_call_indices(&mut message);
                whole.insert("message".into(), Value::Object(message));
            }
            Self::Completion => {
                whole.insert("text".into(), "".into());
            }
        }
        whole.insert("logprobs".into(), Value::Null);
        whole.insert("finish_reason".into(), Value::Null);
        whole.extend(folded.into_iter().filter(|(name, _)| name != "message"));
        *choice = Value::Object(whole);
    }
}

/// The position of a tool call belongs to the chunks of a stream only.
fn strip_call_indices(message: &mut Map<String, Value>) {
    let Some(Value::Array(calls)) = message.get_mut("tool_calls") else {
        return;
    };
    for call in calls.iter_mut().filter_map(Value::as_object_mut) {
        call.shift_remove("index");
    }
}

/// Members whose text comes in pieces.
const JOINED: &[&str] =
    &["content", "reasoning_content", "reasoning", "refusal", "text", "arguments", "thinking"];

fn merge(whole: &mut Map<String, Value>, piece: Map<String, Value>) {
    for (name, new) in piece {
        let joined = JOINED.contains(&name.as_str());
        match (whole.get_mut(&name), new) {
            (Some(_), Value::Null) => {}
            (Some(Value::String(text)), Value::String(more)) if joined => text.push_str(&more),
            (Some(Value::Array(calls)), Value::Array(more)) if name == "tool_calls" => {
                merge_calls(calls, more);
            }
            (Some(Value::Array(all)), Value::Array(more)) => all.extend(more),
            (Some(Value::Object(members)), Value::Object(more)) => merge(members, more),
            (_, Value::Array(more)) if name == "tool_calls" => {
                let mut calls = Vec::new();
                merge_calls(&mut calls, more);
                whole.insert(name, Value::Array(calls));
            }
            (_, new) => {
                whole.insert(name, new);
            }
        }
    }
}

fn merge_calls(calls: &mut Vec<Value>, pieces: Vec<Value>) {
    for piece in pieces {
        let Value::Object(piece) = piece else {
            continue;
        };
        let index = index_of(&piece);
        let same = calls
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .find(|call| index.is_some() && index_of(call) == index);
        match same {
            Some(call) => merge(call, piece),
            None => calls.push(Value::Object(piece)),
        }
    }
}

fn index_of(map: &Map<String, Value>) -> Option<usize> {
    map.get("index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(kind: RequestKind, chunks: &[Value]) -> Value {
        let mut fold = Fold::new(kind);
        for chunk in chunks {
            fold.push(&Frames::of_json(chunk.to_string().as_bytes())).unwrap();
        }
        serde_json::from_slice(&fold.finish().unwrap().body).unwrap()
    }

    #[test]
    fn text_and_reasoning_are_joined() {
        let chunk = |delta: Value| json!({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
        let answer = folded(
            RequestKind::Chat,
            &[
                chunk(json!({"role": "assistant", "content": null})),
                chunk(json!({"reasoning_content": "hm"})),
                chunk(json!({"reasoning_content": "m"})),
                chunk(json!({"content": "Dzień "})),
                chunk(json!({"content": "dobry"})),
                json!({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": null}),
                json!({"id": "c", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}, "timings": {"n": 1}}),
            ],
        );

        assert_eq!(
            answer,
            json!({
                "id": "c", "object": "chat.completion",
                "choices": [{
                    "index": 0, "logprobs": null, "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "Dzień dobry", "reasoning_content": "hmm"},
                }],
                "timings": {"n": 1},
                "usage": {"prompt_tokens": 2, "completion_tokens": 3},
            })
        );
    }

    #[test]
    fn tool_calls_are_joined_by_their_index() {
        let calls = |calls: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]});
        let answer = folded(
            RequestKind::Chat,
            &[
                calls(
                    json!([{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}]),
                ),
                calls(json!([{"index": 0, "function": {"arguments": "\"x\":1}"}}])),
                calls(
                    json!([{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]),
                ),
            ],
        );

        assert_eq!(
            answer["choices"][0]["message"]["tool_calls"],
            json!([
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ])
        );
    }

    #[test]
    fn several_choices_and_log_probabilities_stay_apart() {
        let piece = |index: u64, text: &str| json!({"choices": [{"index": index, "delta": {"content": text}, "logprobs": {"content": [{"token": text}]}}]});
        let answer = folded(RequestKind::Chat, &[piece(1, "b"), piece(0, "a"), piece(1, "c")]);

        assert_eq!(answer["choices"][0]["message"]["content"], "a");
        assert_eq!(answer["choices"][1]["message"]["content"], "bc");
        assert_eq!(answer["choices"][1]["logprobs"], json!({"content": [{"token": "b"}, {"token": "c"}]}));
    }

    #[test]
    fn legacy_completions_join_their_text() {
        let piece = |text: &str| json!({"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": null}]});
        let answer = folded(RequestKind::Completion, &[piece("a"), piece("b")]);

        assert_eq!(answer["choices"][0]["text"], "ab");
        assert_eq!(answer["object"], "text_completion");
    }

    #[test]
    fn an_answer_without_choices_is_refused() {
        assert!(Completion::from_openai("{}".into()).is_err());
        assert!(Completion::from_openai("{\"choices\":[]}".into()).is_err());
        assert!(Completion::from_openai("<html>".into()).is_err());
        assert!(Fold::new(RequestKind::Chat).finish().is_err());
    }

    #[test]
    fn a_choice_far_out_takes_no_memory() {
        let answer = folded(
            RequestKind::Chat,
            &[
                json!({"choices": [{"index": 4_000_000_000_u64, "delta": {}}, {"index": 0, "delta": {"content": "a"}}]}),
            ],
        );
        assert_eq!(answer["choices"].as_array().map(Vec::len), Some(1));
    }
}
