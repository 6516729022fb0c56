//! The quick way through a chat request: one pass over the body, nothing copied but the model's name.
//!
//! It takes what is plainly right. Whatever it does not take goes the slow way, which says what is wrong; so this one
//! may be strict where the other is patient, and never the other way round. A property test holds the two together.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::messages::Message;
use crate::llm::{ChatRequest, Options, Places, RawObject, RequestKind, is_too_deep_around};

/// The members that have a rule, with their values checked as they are read.
#[derive(Deserialize)]
struct Chat<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    messages: Messages,
    #[serde(borrow, default, deserialize_with = "even_null")]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    stream_options: Option<&'a RawValue>,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default)]
    presence_penalty: Option<f64>,
    #[serde(default)]
    frequency_penalty: Option<f64>,
    #[serde(default)]
    top_logprobs: Option<u64>,
    #[serde(borrow, default)]
    logprobs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stop: Option<&'a RawValue>,
    #[serde(borrow, default)]
    logit_bias: Option<&'a RawValue>,
    #[serde(default, rename = "tools")]
    _tools: Option<List>,
    #[serde(borrow, default)]
    tool_choice: Option<&'a RawValue>,
    #[serde(default, rename = "parallel_tool_calls")]
    _parallel_tool_calls: Option<bool>,
    #[serde(borrow, default)]
    response_format: Option<&'a RawValue>,
    #[serde(borrow, default)]
    user: Option<&'a RawValue>,
}

/// A member that is null stands somewhere, too.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&'de RawValue>::deserialize(deserializer).map(Some)
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
    let chat: Chat<'_> = serde_json::from_slice(body).ok()?;
    if !chat.is_plain() || is_too_deep_around(body, &chat.messages.into_long_texts(body)) {
        return None;
    }
    let Name(model) = serde_json::from_str(chat.model.get()).ok()?;
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
        max_output_tokens: chat.max_completion_tokens.or(chat.max_tokens),
        n: chat.n,
        options: Options::default(),
        body: RawObject::known(body.clone()),
        patience: None,
        answer_at_most: None,
        places: Places {
            model: Some(place(chat.model)),
            stream: chat.stream.map(place),
            stream_options: chat.stream_options.map(place),
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
        let between =
            |value: Option<f64>, from: f64, to: f64| value.is_none_or(|value| (from..=to).contains(&value));
        let begins = |value: Option<&RawValue>, first: &[char]| {
            value.is_none_or(|value| value.get().starts_with(first))
        };
        between(self.temperature, 0.0, 2.0)
            && between(self.top_p, 0.0, 1.0)
            && between(self.presence_penalty, -2.0, 2.0)
            && between(self.frequency_penalty, -2.0, 2.0)
            && self.n.is_none_or(|n| (1..=128).contains(&n))
            && self.max_tokens.is_none_or(|tokens| tokens > 0)
            && self.max_completion_tokens.is_none_or(|tokens| tokens > 0)
            && self.top_logprobs.is_none_or(|count| count <= 20)
            && begins(self.logprobs, &['t', 'f'])
            && begins(self.stop, &['"', '['])
            && begins(self.logit_bias, &['{'])
            && begins(self.tool_choice, &['"', '{'])
            && begins(self.response_format, &['{'])
            && begins(self.user, &['"'])
            && begins(self.stream_options, &['{'])
    }
}

/// A text that is shorter is searched for brackets as fast as it is remembered.
const LONG_TEXT_BYTES: usize = 512;

/// Messages that are as they should be; reading any others fails.
///
/// Holds the addresses of contents that are long texts: a text adds no depth, however many brackets are in it.
#[derive(Default)]
struct Messages(Vec<Range<usize>>);

impl Messages {
    fn note(&mut self, message: &Message<'_>) {
        if let Some(text) = message.text().filter(|text| text.len() >= LONG_TEXT_BYTES) {
            let start = text.as_ptr().addr();
            self.0.push(start..start + text.len());
        }
    }

    /// Where the long texts stand in the body that they were read from.
    fn into_long_texts(self, body: &Bytes) -> Vec<Range<usize>> {
        let start = body.as_ptr().addr();
        self.0.into_iter().map(|text| text.start - start..text.end - start).collect()
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
