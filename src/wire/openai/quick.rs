//! The quick way through a chat request: one pass over the body, nothing copied but the model's name.
//!
//! It takes what is plainly right. Whatever it does not take goes the slow way, which says what is wrong; so this one
//! may be strict where the other is patient, and never the other way round. A property test holds the two together.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::messages::Message;
use crate::llm::{
    ChatRequest, Options, Places, RawObject, RequestKind, SessionPlaces, instructs, is_too_deep_around,
    is_user, rivals_model,
};

/// The members that have a rule, with their values checked as they are read. Numbers may be null, which stands for nothing.
#[derive(Default)]
struct Chat<'a> {
    model: Option<&'a RawValue>,
    messages: Option<Messages>,
    stream: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
    max_tokens: Maybe<u64>,
    max_completion_tokens: Maybe<u64>,
    temperature: Maybe<f64>,
    top_p: Maybe<f64>,
    n: Maybe<u64>,
    presence_penalty: Maybe<f64>,
    frequency_penalty: Maybe<f64>,
    top_logprobs: Maybe<u64>,
    logprobs: Option<&'a RawValue>,
    stop: Option<&'a RawValue>,
    logit_bias: Option<&'a RawValue>,
    tools: Maybe<List>,
    tool_choice: Option<&'a RawValue>,
    parallel_tool_calls: Maybe<bool>,
    response_format: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
    // These two have no rule: they name the conversation.
    prompt_cache_key: Option<&'a RawValue>,
    metadata: Option<&'a RawValue>,
    /// Of the members without a rule, the first one that a server could take for the model.
    rival: Option<String>,
}

/// A member that is missing, or null, or a value.
type Maybe<T> = Option<Option<T>>;

impl<'de> Deserialize<'de> for Chat<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Chat<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a chat request")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Chat<'de>, A::Error> {
                let mut chat = Chat::default();
                while let Some(Name(name)) = members.next_key::<Name<'de>>()? {
                    chat.take(&name, &mut members)?;
                }
                Ok(chat)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl<'de> Chat<'de> {
    fn take<A: MapAccess<'de>>(&mut self, name: &str, members: &mut A) -> Result<(), A::Error> {
        match name {
            "model" => once(&mut self.model, members),
            "messages" => once(&mut self.messages, members),
            "stream" => once(&mut self.stream, members),
            "stream_options" => once(&mut self.stream_options, members),
            "max_tokens" => once(&mut self.max_tokens, members),
            "max_completion_tokens" => once(&mut self.max_completion_tokens, members),
            "temperature" => once(&mut self.temperature, members),
            "top_p" => once(&mut self.top_p, members),
            "n" => once(&mut self.n, members),
            "presence_penalty" => once(&mut self.presence_penalty, members),
            "frequency_penalty" => once(&mut self.frequency_penalty, members),
            "top_logprobs" => once(&mut self.top_logprobs, members),
            "logprobs" => once(&mut self.logprobs, members),
            "stop" => once(&mut self.stop, members),
            "logit_bias" => once(&mut self.logit_bias, members),
            "tools" => once(&mut self.tools, members),
            "tool_choice" => once(&mut self.tool_choice, members),
            "parallel_tool_calls" => once(&mut self.parallel_tool_calls, members),
            "response_format" => once(&mut self.response_format, members),
            "user" => once(&mut self.user, members),
            "prompt_cache_key" => once(&mut self.prompt_cache_key, members),
            "metadata" => once(&mut self.metadata, members),
            other => {
                if self.rival.is_none() && rivals_model(other) {
                    self.rival = Some(other.to_owned());
                }
                members.next_value::<IgnoredAny>().map(drop)
            }
        }
    }
}

/// Reads a member that may stand once.
fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    place: &mut Option<T>,
    members: &mut A,
) -> Result<(), A::Error> {
    if place.is_some() {
        return Err(A::Error::custom("a member twice"));
    }
    *place = Some(members.next_value()?);
    Ok(())
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads a chat request, if it is plainly right.
pub(super) fn chat_request(body: &Bytes, streams_by_default: bool) -> Option<ChatRequest> {
    let mut chat: Chat<'_> = serde_json::from_slice(body).ok()?;
    let messages = chat.messages.take()?;
    let opening = messages.opening(body);
    if !chat.is_plain() || is_too_deep_around(body, &messages.into_long_texts(body)) {
        return None;
    }
    let model_text = chat.model?;
    let Name(model) = serde_json::from_str(model_text.get()).ok()?;
    if model.trim().is_empty() {
        return None;
    }
    let stream = match chat.stream.map(RawValue::get) {
        None => streams_by_default,
        Some("true") => true,
        Some("false") => false,
        Some(_) => return None,
    };
    let include_usage = match chat.stream_options.map(RawValue::get) {
        None => false,
        Some(options) => serde_json::from_str::<StreamOptions>(options).ok()?.include_usage.unwrap_or(false),
    };
    let place = |value: &RawValue| place(body, value);
    Some(ChatRequest {
        model: model.into_owned(),
        kind: RequestKind::Chat,
        stream,
        include_usage,
        max_output_tokens: chat.max_completion_tokens.flatten().or(chat.max_tokens.flatten()),
        n: chat.n.flatten(),
        options: Options::default(),
        body: RawObject::known(body.clone()),
        patience: None,
        answer_at_most: None,
        rival: chat.rival,
        places: Places {
            model: Some(place(model_text)),
            stream: chat.stream.map(place),
            stream_options: chat.stream_options.map(place),
            session: SessionPlaces {
                cache_key: chat.prompt_cache_key.map(place),
                metadata: chat.metadata.map(place),
                user: chat.user.map(place),
                opening,
            },
        },
    })
}

/// Where a value stands that was borrowed from the text.
fn place(text: &Bytes, value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + value.get().len()
}

impl Chat<'_> {
    fn is_plain(&self) -> bool {
        let between = |value: Maybe<f64>, from: f64, to: f64| {
            value.flatten().is_none_or(|value| (from..=to).contains(&value))
        };
        let begins = |value: Option<&RawValue>, first: &[char]| {
            value.is_none_or(|value| value.get().starts_with(first))
        };
        between(self.temperature, 0.0, 2.0)
            && between(self.top_p, 0.0, 1.0)
            && between(self.presence_penalty, -2.0, 2.0)
            && between(self.frequency_penalty, -2.0, 2.0)
            && self.n.flatten().is_none_or(|n| (1..=128).contains(&n))
            && self.max_tokens.flatten().is_none_or(|tokens| tokens > 0)
            && self.max_completion_tokens.flatten().is_none_or(|tokens| tokens > 0)
            && self.top_logprobs.flatten().is_none_or(|count| count <= 20)
            // `n` begins null.
            && begins(self.logprobs, &['t', 'f', 'n'])
            && begins(self.stop, &['"', '[', 'n'])
            && begins(self.logit_bias, &['{', 'n'])
            && begins(self.tool_choice, &['"', '{', 'n'])
            && begins(self.response_format, &['{', 'n'])
            && begins(self.user, &['"', 'n'])
            && begins(self.stream_options, &['{'])
    }
}

/// A text that is shorter is searched for brackets as fast as it is remembered.
const LONG_TEXT_BYTES: usize = 512;

/// Messages that are as they should be; reading any others fails.
///
/// Holds the addresses of contents that are long texts: a text adds no depth, however many brackets are in it. And those
/// of the contents by which the conversation is known: the first instructions, and what its user has said first.
#[derive(Default)]
struct Messages {
    long: Vec<Range<usize>>,
    opening: [Option<Range<usize>>; 2],
}

/// Where a text lies in memory.
fn address(text: &str) -> Range<usize> {
    let start = text.as_ptr().addr();
    start..start + text.len()
}

impl Messages {
    fn note(&mut self, message: &Message<'_>) {
        if let Some(text) = message.text().filter(|text| text.len() >= LONG_TEXT_BYTES) {
            self.long.push(address(text));
        }
        let [system, user] = &mut self.opening;
        if (system.is_none() || user.is_none())
            && let Some((role, content)) = message.said()
        {
            if user.is_none() && is_user(role) {
                *user = Some(address(content));
            } else if system.is_none() && instructs(role) {
                *system = Some(address(content));
            }
        }
    }

    /// Where the first instructions and the user's first words stand in the body that they were read from.
    fn opening(&self, body: &Bytes) -> [Option<Range<usize>>; 2] {
        let start = body.as_ptr().addr();
        self.opening.clone().map(|place| place.map(|text| text.start - start..text.end - start))
    }

    /// Where the long texts stand in the body that they were read from.
    fn into_long_texts(self, body: &Bytes) -> Vec<Range<usize>> {
        let start = body.as_ptr().addr();
        self.long.into_iter().map(|text| text.start - start..text.end - start).collect()
    }
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Messages;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut messages: A) -> Result<Messages, A::Error> {
                let (mut count, mut noted) = (0, Messages::default());
                while let Some(message) = messages.next_element::<Message<'de>>()? {
                    // The fault itself is told by the slow way.
                    message.check(count).map_err(|_| A::Error::custom("a message"))?;
                    count += 1;
                    noted.note(&message);
                }
                if count == 0 { Err(A::Error::custom("no messages")) } else { Ok(noted) }
            }
        }

        deserializer.deserialize_seq(All)
    }
}

/// Any list, passed over.
struct List;

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(List)
            }
        }

        deserializer.deserialize_seq(Any)
    }
}
