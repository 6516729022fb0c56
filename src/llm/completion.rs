//! A whole answer: as an upstream gave it, or folded from the chunks of a stream.

mod answer_text;
mod choice;
mod split;
mod weight;

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Change, Frames, RawObject, RequestKind, TOO_DEEP, Usage, is_too_deep, json_fault, repaired};
use choice::Choice;

pub use answer_text::{AnswerText, text_bytes};
pub use split::chunks_of;
pub use weight::{MAX_ANSWER_BYTES, read_within};

/// After so many bytes of chunks it is looked at how much of them is kept.
const WEIGHED_AFTER: usize = 512 * 1024;

/// A whole answer in OpenAI's JSON (`chat.completion` or `text_completion`).
#[derive(Clone, Debug)]
pub struct Completion {
    /// The JSON; the upstream's own bytes where it speaks OpenAI's dialect.
    pub body: Bytes,
    /// What it took, if the provider said so.
    pub usage: Option<Usage>,
    /// How many bytes of text it has, for an estimate; 0 where the provider has counted.
    pub text_bytes: usize,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

impl Completion {
    /// Takes an upstream's answer as it is, after a look at its outermost members.
    ///
    /// # Errors
    /// It is not a JSON object in UTF-8 with a list of choices that are objects, each of which says why it ended; or it is
    /// nested too deeply.
    pub fn from_openai(body: Bytes) -> Result<Self, String> {
        if is_too_deep(&body) {
            return Err(TOO_DEEP.to_owned());
        }
        // What is skipped is not decoded, so all letters are checked here, in place of those of each text.
        let text = std::str::from_utf8(&body).map_err(|_| "its answer is not in UTF-8".to_owned())?;
        let fault = match envelope_of(text) {
            Ok(envelope) => {
                let usage = envelope.usage_of_answer()?;
                return Ok(Self::counted(body, usage));
            }
            Err(fault) => fault,
        };
        let repaired = repaired(&body).ok_or_else(|| fault.clone())?;
        let text = std::str::from_utf8(&repaired).map_err(|_| fault.clone())?;
        let usage = envelope_of(text).map_err(|_| fault)?.usage_of_answer()?;
        Ok(Self::counted(repaired.into(), usage))
    }

    /// Puts what it took into the place of the provider's own report.
    pub fn set_usage(&mut self, usage: Usage) {
        if let Ok(object) = RawObject::parse(self.body.clone()) {
            self.body = object.edit(&[Change::Set("usage", usage.to_openai().to_string().into())]);
        }
        self.usage = Some(usage);
    }

    /// An answer and the usage that its provider reports.
    fn counted(body: Bytes, usage: Option<Usage>) -> Self {
        let is_counted = usage.is_some_and(|usage| usage.missing.is_none());
        let text_bytes = if is_counted { 0 } else { text_bytes(&body) };
        Self { body, usage, text_bytes }
    }
}

fn envelope_of(text: &str) -> Result<Envelope<'_>, String> {
    serde_json::from_str(text).map_err(|error| json_fault(&error))
}

impl Envelope<'_> {
    /// What it took, if it is a whole answer.
    fn usage_of_answer(&self) -> Result<Option<Usage>, String> {
        let choices = self.choices.as_deref().unwrap_or_default();
        if choices.is_empty() {
            return Err("no choices in the answer".to_owned());
        }
        if choices.iter().any(|choice| !choice.has_ended) {
            return Err("its answer ended without a finish reason".to_owned());
        }
        Ok(self.usage.and_then(|usage| Usage::from_openai(usage.get().as_bytes())))
    }
}

/// Folds the chunks of a stream into the answer that would have come whole.
///
/// Text that comes in pieces (content, reasoning, arguments of tool calls) is joined, lists of log
/// probabilities are joined, and of everything else the last value counts, so that members this
/// gateway does not know survive.
///
/// What it keeps is bounded, whatever comes.
#[derive(Debug)]
pub struct Fold {
    kind: RequestKind,
    envelope: Map<String, Value>,
    choices: Vec<Folded>,
    usage: Option<Usage>,
    /// Bytes of chunks since it was last weighed.
    unweighed: usize,
}

/// A choice as far as it has come.
#[derive(Debug, Default)]
struct Folded {
    members: Map<String, Value>,
    /// The tool calls of its message, which has an empty list in their place.
    calls: Vec<Value>,
    /// Where the call with an index stands among them.
    places: HashMap<u64, usize>,
}

impl Fold {
    /// A fold for the answer to a request of this kind.
    pub fn new(kind: RequestKind) -> Self {
        Self { kind, envelope: Map::new(), choices: Vec::new(), usage: None, unweighed: 0 }
    }

    /// Adds the chunks of a run.
    ///
    /// # Errors
    /// One of them is not a chunk, or the answer has become too long.
    pub fn push(&mut self, frames: &Frames) -> Result<(), String> {
        for json in frames.jsons() {
            self.push_chunk(read_within(json)?);
        }
        self.unweighed += frames.bytes().len();
        if self.unweighed > WEIGHED_AFTER {
            self.unweighed = 0;
            if self.weight() > MAX_ANSWER_BYTES {
                return Err(weight::too_long());
            }
        }
        Ok(())
    }

    /// About how much memory it takes.
    pub fn weight(&self) -> usize {
        let of_choice = |choice: &Folded| {
            weight::of_members(&choice.members) + choice.calls.iter().map(weight::of).sum::<usize>()
        };
        weight::of_members(&self.envelope) + self.choices.iter().map(of_choice).sum::<usize>()
    }

    /// The whole answer.
    ///
    /// # Errors
    /// No choice came, or the answer is too long.
    pub fn finish(mut self) -> Result<Completion, String> {
        if self.choices.is_empty() {
            return Err("no choices in the answer".to_owned());
        }
        let choices = self.choices.into_iter().enumerate();
        let choices = choices.map(|(index, choice)| self.kind.complete(index, choice)).collect();
        let usage = self.envelope.shift_remove("usage");
        self.envelope.insert("choices".into(), Value::Array(choices));
        if let Some(usage) = usage {
            self.envelope.insert("usage".into(), usage);
        }
        Ok(Completion::counted(weight::written(&self.envelope)?, self.usage))
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
                    let told = Usage::from_openai(usage.to_string().as_bytes());
                    self.usage = told.map(|told| told.after(self.usage)).or(self.usage);
                    self.envelope.insert(name, usage);
                }
                (_, value) => {
                    self.envelope.insert(name, value);
                }
            }
        }
    }

    fn push_choice(&mut self, choice: Value) {
        let Value::Object(choice) = choice else {
            return;
        };
        let index = index_of(&choice).and_then(|index| usize::try_from(index).ok()).unwrap_or(0);
        // More choices than any `n` allows can only be nonsense; they must not take the memory.
        if index > 128 {
            return;
        }
        while self.choices.len() <= index {
            self.choices.push(Folded::default());
        }
        if let Some(whole) = self.choices.get_mut(index) {
            whole.push(choice);
        }
    }
}

impl Folded {
    fn push(&mut self, mut piece: Map<String, Value>) {
        let delta = piece.shift_remove("delta");
        piece.shift_remove("index");
        merge(&mut self.members, piece);
        let Some(Value::Object(mut delta)) = delta else { return };
        if let Some(Value::Array(pieces)) = delta.get_mut("tool_calls") {
            self.push_calls(std::mem::take(pieces));
        }
        let message = self.members.entry("message").or_insert_with(|| json!({}));
        if let Value::Object(message) = message {
            merge(message, delta);
        }
    }

    /// Pieces of a call have its index. One without an index is a call of its own.
    fn push_calls(&mut self, pieces: Vec<Value>) {
        for piece in pieces {
            let Value::Object(piece) = piece else { continue };
            let next = self.calls.len();
            let place = index_of(&piece).map_or(next, |index| *self.places.entry(index).or_insert(next));
            match self.calls.get_mut(place) {
                Some(Value::Object(call)) => merge(call, piece),
                _ => self.calls.push(Value::Object(piece)),
            }
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
    fn complete(self, index: usize, choice: Folded) -> Value {
        let Folded { members: mut folded, calls, .. } = choice;
        let mut whole = Map::new();
        whole.insert("index".into(), index.into());
        match self {
            Self::Chat => {
                let mut message = Map::new();
                message.insert("role".into(), "assistant".into());
                message.insert("content".into(), Value::Null);
                if let Some(Value::Object(said)) = folded.get_mut("message") {
                    message.extend(std::mem::take(said));
                }
                if let Some(Value::Array(place)) = message.get_mut("tool_calls") {
                    *place = without_indices(calls);
                }
                whole.insert("message".into(), Value::Object(message));
            }
            Self::Completion => {
                whole.insert("text".into(), "".into());
            }
        }
        whole.insert("logprobs".into(), Value::Null);
        whole.insert("finish_reason".into(), Value::Null);
        whole.extend(folded.into_iter().filter(|(name, _)| name != "message"));
        Value::Object(whole)
    }
}

/// The position of a tool call belongs to the chunks of a stream only.
fn without_indices(mut calls: Vec<Value>) -> Vec<Value> {
    for call in calls.iter_mut().filter_map(Value::as_object_mut) {
        call.shift_remove("index");
    }
    calls
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
            (Some(Value::Array(all)), Value::Array(more)) => all.extend(more),
            // Some models think in parts, and then speak in plain text.
            (Some(Value::Array(parts)), Value::String(more)) if joined => add_part(parts, &more),
            (Some(whole @ Value::String(_)), Value::Array(more)) if joined => {
                let mut parts = Vec::with_capacity(more.len() + 1);
                if let Value::String(text) = whole.take()
                    && !text.is_empty()
                {
                    add_part(&mut parts, &text);
                }
                parts.extend(more);
                *whole = Value::Array(parts);
            }
            (Some(Value::Object(members)), Value::Object(more)) => merge(members, more),
            (_, new) => {
                whole.insert(name, new);
            }
        }
    }
}

/// Adds a text to parts: to the last one, if that is a text.
fn add_part(parts: &mut Vec<Value>, more: &str) {
    if more.is_empty() {
        return;
    }
    let last = parts.last_mut().filter(|part| part.get("type").is_some_and(|kind| kind == "text"));
    match last.and_then(|part| part.get_mut("text")) {
        Some(Value::String(text)) => text.push_str(more),
        _ => parts.push(json!({"type": "text", "text": more})),
    }
}

fn index_of(map: &Map<String, Value>) -> Option<u64> {
    map.get("index").and_then(Value::as_u64)
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
    fn text_that_comes_in_parts_and_plain_is_all_there() {
        let chunk = |content: Value| json!({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": null}]});
        let chunks =
            ["Oh. ".into(), json!([{"type": "thinking", "thinking": []}]), "Hel".into(), "lo".into()]
                .map(chunk);
        let mut fold = Fold::new(RequestKind::Chat);
        for chunk in &chunks {
            fold.push(&Frames::of_json(chunk.to_string().as_bytes())).unwrap();
        }
        let answer = fold.finish().unwrap();
        assert_eq!(answer.answer_text().unwrap().text, "Oh. Hello");
        assert_eq!(answer.text_bytes, 9);
    }

    #[test]
    fn numbers_that_are_no_json_become_null() {
        let body =
            r#"{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop","logprobs":[-Infinity]}]}"#;
        let answer = Completion::from_openai(body.into()).unwrap();
        assert!(answer.body.ends_with(b"\"logprobs\":[null]}]}"));
        let as_it_is: Bytes =
            r#"{"choices":[{"message":{"content":"\ud83d"},"finish_reason":"stop"}],"x":1e400}"#.into();
        assert_eq!(Completion::from_openai(as_it_is.clone()).unwrap().body, as_it_is);
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

    /// Chunks of this choice until the fold takes no more, and why; how many bytes it has kept.
    fn pushed_until_full(choice: &dyn Fn(usize) -> Value) -> (String, usize) {
        let mut fold = Fold::new(RequestKind::Chat);
        for number in 0.. {
            let chunk = json!({"id": "c", "model": "m", "choices": [choice(number)]});
            if let Err(reason) = fold.push(&Frames::of_json(chunk.to_string().as_bytes())) {
                return (reason, fold.weight());
            }
        }
        unreachable!()
    }

    #[test]
    fn what_is_kept_is_bounded_whatever_comes() {
        let text = "x".repeat(100_000);
        let numbers = vec![0; 10_000];
        let of_text = |_| json!({"index": 0, "delta": {"content": text}});
        let of_list = |_| json!({"index": 3, "logprobs": {"content": numbers}});
        let of_names = |number: usize| json!({"index": 0, format!("{text}{number}"): 1});
        let of_calls = |number: usize| {
            let calls: Vec<Value> =
                (0..500).map(|call| json!({"index": number * 500 + call, "id": "x"})).collect();
            json!({"index": 0, "delta": {"tool_calls": calls}})
        };
        let kinds: [&dyn Fn(usize) -> Value; 4] = [&of_text, &of_list, &of_names, &of_calls];
        for choice in kinds {
            let (reason, weight) = pushed_until_full(choice);
            assert_eq!(reason, format!("its answer is longer than {MAX_ANSWER_BYTES} bytes"));
            assert!(weight < MAX_ANSWER_BYTES * 2, "{weight}");
        }
    }

    #[test]
    fn an_answer_that_becomes_longer_when_it_is_written_is_bounded() {
        let mut fold = Fold::new(RequestKind::Chat);
        let zeros =
            json!({"choices": [{"index": 0, "delta": {"content": "\0".repeat(1 << 20)}}]}).to_string();
        for _ in 0..20 {
            fold.push(&Frames::of_json(zeros.as_bytes())).unwrap();
        }
        assert!(fold.finish().unwrap_err().contains("longer than"));
    }

    #[test]
    fn values_in_strings_are_none() {
        let text = json!({"choices": [], "text": ",[{\\\",".repeat(200_000)}).to_string();
        assert!(read_within::<Value>(text.as_bytes()).is_ok());
        let list = format!("{{\"a\":[{}1]}}", "1,".repeat(1_000_000));
        assert!(read_within::<Value>(list.as_bytes()).is_err());
    }

    #[test]
    fn many_calls_in_pieces_take_linear_time() {
        let mut fold = Fold::new(RequestKind::Chat);
        let started = std::time::Instant::now();
        let count = 12_000;
        for round in 0..2 {
            // From the last to the first, so that a search would look at all of them.
            let calls: Vec<Value> = (0..count)
                .rev()
                .map(|index| json!({"index": index, "function": {"arguments": round.to_string()}}))
                .collect();
            for calls in calls.chunks(1000) {
                let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]});
                fold.push(&Frames::of_json(chunk.to_string().as_bytes())).unwrap();
            }
        }
        let answer: Value = serde_json::from_slice(&fold.finish().unwrap().body).unwrap();
        let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
        assert_eq!((calls.len(), &calls[0]), (count, &json!({"function": {"arguments": "01"}})));
        // By squares it takes several times as long.
        assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
    }

    #[test]
    fn a_call_without_an_index_is_one_of_its_own() {
        let calls = |calls: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]});
        let answer = folded(
            RequestKind::Chat,
            &[calls(json!(null)), calls(json!([{"id": "a"}, 1])), calls(json!([{"id": "b"}]))],
        );
        assert_eq!(answer["choices"][0]["message"]["tool_calls"], json!([{"id": "a"}, {"id": "b"}]));
    }

    #[test]
    fn choices_are_objects_that_say_why_they_end() {
        let of = |body: &'static str| Completion::from_openai(body.into());
        assert!(of(r#"{"choices":[{"finish_reason":"stop","message":{}}]}"#).is_ok());
        for body in [
            r#"{"choices":[["stop"]]}"#,
            r#"{"choices":[{}]}"#,
            r#"{"choices":[{"finish_reason":""}]}"#,
            r#"{"choices":[{"finish_reason":null}]}"#,
            r#"{"choices":[{"finish_reason":1}]}"#,
            r#"{"choices":{"finish_reason":"stop"}}"#,
        ] {
            assert!(of(body).is_err(), "{body}");
        }
        let cut = b"{\"choices\":[{\"finish_reason\":\"stop\",\"text\":\"\xc5\"}]}";
        assert!(Completion::from_openai(Bytes::from_static(cut)).is_err());
    }
}
