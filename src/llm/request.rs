//! A request for generated text.

use std::ops::Range;
use std::time::Duration;

use super::{Options, RawObject, SessionPlaces};

/// A request for a chat answer or a text completion, checked, in OpenAI's JSON.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// The public model name, as the caller wrote it.
    pub model: String,
    /// Which of OpenAI's two endpoints the body is for.
    pub kind: RequestKind,
    /// Whether the caller wants the answer as a stream.
    pub stream: bool,
    /// Whether the caller asked for the usage chunk of a stream.
    pub include_usage: bool,
    /// The most tokens that the caller wants for an answer.
    pub max_output_tokens: Option<u64>,
    /// How many answers the body asks for to each of its prompts, where it says so.
    pub n: Option<u64>,
    /// Options in the gateway's words, for the provider to map. Those in the body's own words,
    /// the caller's, are in `body`.
    pub options: Options,
    /// The request as OpenAI's JSON: the caller's own bytes, where they were that.
    pub body: RawObject,
    /// How long it may wait in an engine's queue while somebody else could answer; as long as need be, if none.
    pub patience: Option<Duration>,
    /// The most tokens of an answer that its caller can pay for, whatever else is said; without bounds, if none.
    pub answer_at_most: Option<u64>,
    /// A member of `body` that a server could take for the model, besides `model` itself.
    pub rival: Option<String>,
    /// Where in `body` the members stand that are replaced on the way.
    pub places: Places,
}

/// Where the values stand of the members that nearly every request has replaced, and of those that name its conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The model's name.
    pub model: Option<Range<usize>>,
    /// Whether to stream.
    pub stream: Option<Range<usize>>,
    /// What a stream should hold.
    pub stream_options: Option<Range<usize>>,
    /// What names the conversation.
    pub session: SessionPlaces,
}

/// OpenAI's two endpoints that generate text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// `chat/completions`: `messages` in, a `message` out.
    Chat,
    /// The legacy `completions`: `prompt` in, `text` out.
    Completion,
}

impl ChatRequest {
    /// Puts another body in the place of this one.
    pub fn replace_body(&mut self, body: RawObject) {
        self.places = Places::of(&body);
        self.n = answers_to_each(&body);
        self.body = body;
    }
}

/// How many answers a body asks for to each of its prompts, where it says so.
pub fn answers_to_each(body: &RawObject) -> Option<u64> {
    body.get("n").and_then(|json| serde_json::from_slice(json).ok())
}

impl Places {
    /// Finds them in a body.
    pub fn of(body: &RawObject) -> Self {
        Self {
            model: body.place("model"),
            stream: body.place("stream"),
            stream_options: body.place("stream_options"),
            session: SessionPlaces::of(body),
        }
    }
}
