//! Chunks of a streamed answer, for providers that speak another dialect.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::llm::{Frames, RequestKind, Usage, unique_id};

/// Writes the chunks of one answer: the same id, time and model in all of them.
#[derive(Debug)]
pub struct ChunkWriter {
    id: String,
    created: u64,
    model: String,
    kind: RequestKind,
    /// The first chunk of a chat says who speaks.
    role_is_due: bool,
}

#[derive(Serialize)]
struct Chunk<'a, C: Serialize> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [C],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

/// What all chunks of a stream have in common.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope {
    id: Option<String>,
    created: Option<u64>,
    model: Option<String>,
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    delta: Spoken<'a>,
    logprobs: Option<Value>,
    finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct TextChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<Value>,
    finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Spoken<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(flatten)]
    delta: Delta<'a>,
}

/// What one chunk adds to the message.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Delta<'a> {
    /// Text of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
    /// Text of the reasoning before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<&'a str>,
    /// Calls of tools, each with its position.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
}

impl ChunkWriter {
    /// A writer for the answer to a request of this kind by this model.
    pub fn new(kind: RequestKind, model: &str) -> Self {
        let prefix = match kind {
            RequestKind::Chat => "chatcmpl-",
            RequestKind::Completion => "cmpl-",
        };
        Self {
            id: unique_id(prefix),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model: model.to_owned(),
            kind,
            role_is_due: true,
        }
    }

    /// A writer that goes on with a stream of which `chunk` is one. What that does not say is made up.
    pub fn like(kind: RequestKind, chunk: &[u8], model: &str) -> Self {
        let said: Envelope = serde_json::from_slice(chunk).unwrap_or_default();
        let own = Self::new(kind, model);
        Self {
            id: said.id.unwrap_or(own.id),
            created: said.created.unwrap_or(own.created),
            model: said.model.unwrap_or(own.model),
            ..own
        }
    }

    /// Somebody has said already who speaks.
    pub fn has_begun(&mut self) {
        self.role_is_due = false;
    }

    /// The chunk that says why each of these choices ended.
    pub fn finish_each(&mut self, choices: &[u32], reason: &str) -> Frames {
        let (logprobs, finish_reason) = (None::<Value>, Some(reason));
        let role = self.role();
        match self.kind {
            RequestKind::Chat => {
                let of = |index: &u32| ChatChoice {
                    index: *index,
                    delta: Spoken { role, delta: Delta::default() },
                    logprobs: logprobs.clone(),
                    finish_reason,
                };
                self.chunk(&choices.iter().map(of).collect::<Vec<_>>(), None)
            }
            RequestKind::Completion => {
                let of = |index: &u32| TextChoice {
                    index: *index,
                    text: "",
                    logprobs: logprobs.clone(),
                    finish_reason,
                };
                self.chunk(&choices.iter().map(of).collect::<Vec<_>>(), None)
            }
        }
    }

    /// A chunk that adds to the answer.
    pub fn delta(&mut self, delta: Delta<'_>, logprobs: Option<Value>) -> Frames {
        match self.kind {
            RequestKind::Chat => {
                let delta = Spoken { role: self.role(), delta };
                self.chunk(&[ChatChoice { index: 0, delta, logprobs, finish_reason: None }], None)
            }
            RequestKind::Completion => {
                let text = delta.content.unwrap_or_default();
                self.chunk(&[TextChoice { index: 0, text, logprobs, finish_reason: None }], None)
            }
        }
    }

    /// A chunk that adds text.
    pub fn text(&mut self, text: &str) -> Frames {
        self.delta(Delta { content: Some(text), ..Delta::default() }, None)
    }

    /// The chunk that says why the answer ended.
    pub fn finish(&mut self, reason: &str) -> Frames {
        self.finish_each(&[0], reason)
    }

    /// The chunk that says what was used.
    pub fn usage(&self, usage: &Usage) -> Frames {
        self.chunk::<TextChoice<'_>>(&[], Some(usage.to_openai()))
    }

    fn role(&mut self) -> Option<&'static str> {
        std::mem::take(&mut self.role_is_due).then_some("assistant")
    }

    fn chunk<C: Serialize>(&self, choices: &[C], usage: Option<Value>) -> Frames {
        let object = match self.kind {
            RequestKind::Chat => "chat.completion.chunk",
            RequestKind::Completion => "text_completion",
        };
        let chunk = Chunk { id: &self.id, object, created: self.created, model: &self.model, choices, usage };
        // Texts, numbers and values always serialise.
        Frames::of_json(&serde_json::to_vec(&chunk).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::Fold;
    use serde_json::json;

    fn json(frames: &Frames) -> Value {
        serde_json::from_slice(frames.jsons().next().unwrap()).unwrap()
    }

    #[test]
    fn all_chunks_of_an_answer_have_one_id_and_the_first_has_the_role() {
        let mut writer = ChunkWriter::new(RequestKind::Chat, "m");

        let (one, two, end) =
            (json(&writer.text("a")), json(&writer.text("b")), json(&writer.finish("stop")));

        assert_eq!(one["choices"][0]["delta"], json!({"role": "assistant", "content": "a"}));
        assert_eq!(two["choices"][0]["delta"], json!({"content": "b"}));
        assert_eq!(end["choices"][0]["finish_reason"], "stop");
        assert!(one["id"].as_str().unwrap().starts_with("chatcmpl-"));
        assert_eq!((&one["id"], &one["created"]), (&end["id"], &end["created"]));
    }

    #[test]
    fn folded_they_are_a_whole_answer() {
        for kind in [RequestKind::Chat, RequestKind::Completion] {
            let mut writer = ChunkWriter::new(kind, "m");
            let mut fold = Fold::new(kind);
            let usage = Usage { input_tokens: 1, output_tokens: 2, ..Usage::default() };
            for frames in [writer.text("a "), writer.text("b"), writer.finish("stop"), writer.usage(&usage)] {
                fold.push(&frames).unwrap();
            }

            let whole = fold.finish().unwrap();

            assert_eq!(whole.usage, Some(usage));
            let body: Value = serde_json::from_slice(&whole.body).unwrap();
            let text = match kind {
                RequestKind::Chat => &body["choices"][0]["message"]["content"],
                RequestKind::Completion => &body["choices"][0]["text"],
            };
            assert_eq!(text, "a b");
            assert_eq!(body["choices"][0]["finish_reason"], "stop");
        }
    }
}
