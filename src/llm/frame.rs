//! A run of stream events, as bytes in OpenAI's framing.
//!
//! Providers deliver answers as runs of `data: <JSON on one line>` events, as many at once as the
//! network brought. A run is passed on whole. It is looked into only where a search for three words
//! says that something stands in it that the gateway must know: usage, the end, or an error.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::{self, Finder};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::depth::has_deep_line;
use super::{TOO_DEEP, Usage, is_too_deep, json_fault};

const PREFIX: &[u8] = b"data: ";
const SUFFIX: &[u8] = b"\n\n";

/// One or more whole events, each `data: `, a JSON object on one line, and a blank line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    bytes: Bytes,
}

/// What a run of frames says beyond text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The last usage report in it.
    pub usage: Option<Usage>,
    /// Where the event stands that tells usage and nothing else.
    pub usage_only: Option<Range<usize>>,
    /// Which choices it speaks of, and which have ended.
    pub ends: Ends,
    /// The event that ends the stream badly. Nothing behind it has been read.
    pub trouble: Option<Box<Trouble>>,
}

/// Which choices of an answer there are, and which of them have said why they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    // A bit for each index; those beyond share the last one.
    seen: u64,
    ended: u64,
}

/// An event that is no chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// Where in the run it begins.
    pub at: usize,
    /// What it is instead.
    pub kind: TroubleKind,
}

/// What stands in the place of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// An `error`, as JSON.
    Reported(String),
    /// Nothing that can be read; the text says why.
    Unreadable(String),
}

impl Ends {
    /// So many choices are told apart.
    pub const MOST: u32 = 64;

    /// Those of a run without anything to read: it is the first choice's text.
    const FIRST: Self = Self { seen: 1, ended: 0 };

    /// Adds what another run says.
    pub fn add(&mut self, other: Self) {
        self.seen |= other.seen;
        self.ended |= other.ended;
    }

    /// Whether every choice that there is has said why it ended.
    pub fn are_all(self) -> bool {
        self.ended != 0 && self.seen & !self.ended == 0
    }

    /// Whether anything was said of a choice.
    pub fn is_seen(self, index: u32) -> bool {
        self.seen & Self::bit(index) != 0
    }

    /// Whether a choice has said why it ended.
    pub fn has_ended(self, index: u32) -> bool {
        self.ended & Self::bit(index) != 0
    }

    fn bit(index: u32) -> u64 {
        1 << index.min(Self::MOST - 1)
    }

    fn note(&mut self, index: u32, has_ended: bool) {
        let bit = Self::bit(index);
        self.seen |= bit;
        if has_ended {
            self.ended |= bit;
        }
    }
}

impl Frames {
    /// One event around a JSON object, which must stand on one line.
    pub fn of_json(json: &[u8]) -> Self {
        debug_assert!(!json.contains(&b'\n'), "a frame is one line");
        Self { bytes: [PREFIX, json, SUFFIX].concat().into() }
    }

    /// A run that stands in the framing already.
    pub fn of_events(bytes: Bytes) -> Self {
        debug_assert!(bytes.starts_with(PREFIX) && bytes.ends_with(SUFFIX), "whole events only");
        Self { bytes }
    }

    /// A sign of life without any event.
    pub fn none() -> Self {
        Self { bytes: Bytes::new() }
    }

    /// Whether there is no event in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The run up to the event that begins at `end`.
    #[must_use]
    pub fn up_to(&self, end: usize) -> Self {
        Self { bytes: self.bytes.slice(..end.min(self.bytes.len())) }
    }

    /// The same run in memory of its own.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes) }
    }

    /// The first events of the run, so many or as many as there are.
    #[must_use]
    pub fn first(&self, events: usize) -> Self {
        let end = match events.checked_sub(1) {
            None => 0,
            Some(last) => self.jsons().ranges().nth(last).map_or(self.bytes.len(), |(range, _)| range.end),
        };
        self.up_to(end)
    }

    /// The events as they stand.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The JSON of each event.
    pub fn jsons(&self) -> FrameIter<'_> {
        FrameIter { bytes: &self.bytes, at: 0 }
    }

    /// Looks for what the gateway must know.
    pub fn read(&self) -> Reading {
        let mut reading = Reading::default();
        let is_deep = has_deep_line(&self.bytes);
        if !is_deep && !self.may_tell() {
            reading.ends = Ends::FIRST;
            return reading;
        }
        for (range, json) in self.jsons().ranges() {
            let trouble = match serde_json::from_slice::<Chunk<'_>>(json) {
                _ if is_deep && is_too_deep(json) => Some(TroubleKind::Unreadable(TOO_DEEP.to_owned())),
                Ok(chunk) => reading.add(&chunk, range.clone()),
                Err(error) => Some(TroubleKind::Unreadable(json_fault(&error))),
            };
            if let Some(kind) = trouble {
                reading.trouble = Some(Box::new(Trouble { at: range.start, kind }));
                break;
            }
        }
        reading
    }

    /// Whether a choice says anything of its answer: text, reasoning, a tool call, or its end.
    /// The opening chunk, which names the role only, does not.
    pub fn has_content(&self) -> bool {
        self.jsons().any(|json| {
            serde_json::from_slice::<ContentChunk<'_>>(json)
                .is_ok_and(|chunk| chunk.choices.iter().any(ContentChoice::says_something))
        })
    }

    /// The run without the event at `range`; `None` when nothing is left.
    pub fn without(&self, range: &Range<usize>) -> Option<Self> {
        let before = self.bytes.get(..range.start).unwrap_or_default();
        let after = self.bytes.get(range.end..).unwrap_or_default();
        let bytes = match (before.is_empty(), after.is_empty()) {
            (true, true) => return None,
            (true, false) => self.bytes.slice(range.end..),
            (false, true) => self.bytes.slice(..range.start),
            (false, false) => [before, after].concat().into(),
        };
        Some(Self { bytes })
    }

    /// A cheap look that may say yes in vain, and never no in vain.
    fn may_tell(&self) -> bool {
        let values_of = |word: &'static LazyLock<Finder<'static>>| {
            word.find_iter(&self.bytes).map(|at| {
                let rest = self.bytes.get(at + word.needle().len()..).unwrap_or_default();
                rest.iter().find(|byte| !matches!(byte, b' ' | b':')).copied()
            })
        };
        // Reasons are null and choices are the first in nearly every chunk: each must be looked at, but not decoded.
        values_of(&FINISH_REASON).any(|value| value != Some(b'n'))
            || values_of(&INDEX).any(|value| value != Some(b'0'))
            || USAGE.find(&self.bytes).is_some()
            || ERROR.find(&self.bytes).is_some()
    }
}

static FINISH_REASON: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"finish_reason\""));
static INDEX: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"index\""));
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));

impl Reading {
    /// Takes what must be known out of a chunk; an `error` is none.
    fn add(&mut self, chunk: &Chunk<'_>, range: Range<usize>) -> Option<TroubleKind> {
        if let Some(error) = chunk.error.filter(|error| error.get() != "null") {
            return Some(TroubleKind::Reported(error.get().to_owned()));
        }
        for choice in &chunk.choices {
            self.ends.note(choice.index.unwrap_or(0), is_reason(choice.finish_reason.as_deref()));
        }
        let usage = chunk.usage.and_then(|usage| Usage::from_openai(usage.get().as_bytes()));
        if usage.is_some() && chunk.choices.is_empty() {
            self.usage_only = Some(range);
        }
        self.usage = usage.or(self.usage);
        None
    }
}

/// Some servers write an empty reason as long as there is none.
fn is_reason(reason: Option<&str>) -> bool {
    reason.is_some_and(|reason| !reason.is_empty())
}

/// The JSON texts of a run, one after the other.
#[derive(Clone, Debug)]
pub struct FrameIter<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> FrameIter<'a> {
    /// Each with the place of its whole event.
    fn ranges(mut self) -> impl Iterator<Item = (Range<usize>, &'a [u8])> {
        std::iter::from_fn(move || {
            let start = self.at;
            let json = self.next()?;
            Some((start..self.at, json))
        })
    }
}

impl<'a> Iterator for FrameIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let event = rest.get(..memmem::find(rest, SUFFIX)?)?;
        self.at += event.len() + SUFFIX.len();
        event.strip_prefix(PREFIX)
    }
}

/// What is read of a `chat.completion.chunk` or a `text_completion` chunk.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default, deserialize_with = "null_is_empty")]
    choices: Vec<Choice<'a>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ContentChunk<'a> {
    #[serde(borrow, default, deserialize_with = "null_is_empty")]
    choices: Vec<ContentChoice<'a>>,
}

#[derive(Deserialize)]
struct ContentChoice<'a> {
    #[serde(borrow, default)]
    delta: Option<BTreeMap<Cow<'a, str>, &'a RawValue>>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

impl ContentChoice<'_> {
    fn says_something(&self) -> bool {
        let filled = |value: &RawValue| !matches!(value.get(), "null" | "\"\"" | "[]" | "{}");
        let delta = self.delta.as_ref();
        is_reason(self.finish_reason.as_deref())
            || self.text.is_some_and(filled)
            || delta.is_some_and(|delta| delta.iter().any(|(name, value)| name != "role" && filled(value)))
    }
}

/// Some servers write `"choices": null` where others write an empty list.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(jsons: &[&str]) -> Frames {
        let events: String = jsons.iter().map(|json| format!("data: {json}\n\n")).collect();
        Frames::of_events(events.into())
    }

    const TEXT: &str = r#"{"choices":[{"index":0,"delta":{"content":"usage"},"finish_reason":null}]}"#;
    const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason": "stop"}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;

    #[test]
    fn iterates_over_each_json() {
        let run = frames(&[TEXT, STOP]);
        assert_eq!(run.jsons().collect::<Vec<_>>(), [TEXT.as_bytes(), STOP.as_bytes()]);
    }

    #[test]
    fn text_tells_nothing() {
        assert_eq!(frames(&[TEXT, TEXT]).read(), Reading { ends: Ends::FIRST, ..Reading::default() });
    }

    #[test]
    fn the_end_and_the_usage_are_seen_in_one_run() {
        let run = frames(&[TEXT, STOP, USAGE]);

        let reading = run.read();

        assert!(reading.ends.are_all());
        assert_eq!(reading.usage.map(|u| u.output_tokens), Some(2));
        let rest = run.without(&reading.usage_only.unwrap()).unwrap();
        assert_eq!(rest, frames(&[TEXT, STOP]));
    }

    #[test]
    fn usage_beside_a_choice_is_no_frame_of_its_own() {
        let both = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}"#;
        let reading = frames(&[both]).read();
        assert!(reading.usage.is_some() && reading.usage_only.is_none());
    }

    #[test]
    fn an_error_is_seen_and_a_null_error_is_not() {
        let error = frames(&[r#"{"error":{"message":"m"}}"#]).read();
        assert_eq!(error.trouble.unwrap().kind, TroubleKind::Reported(r#"{"message":"m"}"#.to_owned()));
        assert_eq!(frames(&[r#"{"error":null,"choices":[]}"#]).read().trouble, None);
    }

    #[test]
    fn a_broken_chunk_is_an_error_where_it_must_be_read() {
        let trouble = frames(&[r#"{"usage":"#]).read().trouble.unwrap();
        assert!(matches!(trouble.kind, TroubleKind::Unreadable(_)));
    }

    #[test]
    fn what_stands_before_an_error_is_kept_apart_from_it() {
        let run = frames(&[TEXT, STOP, r#"{"error":{}}"#, USAGE]);
        let reading = run.read();
        assert!(reading.ends.are_all() && reading.usage.is_none());
        assert_eq!(run.up_to(reading.trouble.unwrap().at), frames(&[TEXT, STOP]));
    }

    #[test]
    fn an_answer_has_ended_when_each_of_its_choices_has() {
        let second = r#"{"choices":[{"index": 1,"delta":{"content":"x"},"finish_reason":null}]}"#;
        let second_stop = r#"{"choices":[{"index":1,"delta":{},"finish_reason":"length"}]}"#;
        let ended = |runs: &[&str]| {
            let mut ends = Ends::default();
            runs.iter().for_each(|run| ends.add(frames(&[run]).read().ends));
            ends.are_all()
        };
        assert!(ended(&[TEXT, STOP]) && ended(&[STOP]) && ended(&[second, second_stop]));
        assert!(ended(&[TEXT, second, STOP, USAGE, second_stop]));
        assert!(!ended(&[TEXT]) && !ended(&[TEXT, second, STOP]) && !ended(&[TEXT, second, second_stop]));
        let unsaid = r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":""}]}"#;
        assert!(!ended(&[unsaid]) && ended(&[unsaid, STOP]));
    }

    #[test]
    fn removing_an_event_keeps_the_others() {
        let run = frames(&[USAGE, TEXT]);
        let range = run.read().usage_only.unwrap();
        assert_eq!(run.without(&range), Some(frames(&[TEXT])));

        let run = frames(&[TEXT, USAGE, STOP]);
        let range = run.read().usage_only.unwrap();
        assert_eq!(run.without(&range), Some(frames(&[TEXT, STOP])));

        let run = frames(&[USAGE]);
        let range = run.read().usage_only.unwrap();
        assert_eq!(run.without(&range), None);
    }

    #[test]
    fn content_is_all_but_the_role() {
        for (json, expected) in [
            (r#"{"choices":[{"delta":{"role":"assistant","content":null}}]}"#, false),
            (r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#, false),
            (r#"{"choices":[]}"#, false),
            (r#"{"choices":null}"#, false),
            (r#"{"choices":[{"delta":{"role":"assistant"},"finish_reason":""}]}"#, false),
            (r#"{"choices":[{"text":""}]}"#, false),
            (r#"{"choices":[{"delta":{"role":"assistant","content":"x"}}]}"#, true),
            (r#"{"choices":[{"delta":{"reasoning_content":"x"}}]}"#, true),
            (r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, true),
            (r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, true),
            (r#"{"choices":[{"text":"x"}]}"#, true),
        ] {
            assert_eq!(frames(&[json]).has_content(), expected, "{json}");
        }
    }
}
