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
use super::{Change, LenientCount, RawObject, TOO_DEEP, Usage, is_too_deep, json_fault, repaired};

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
    /// Where the events stand that tell usage and nothing else, in order.
    pub usage_only: Vec<Range<usize>>,
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
            let trouble = if is_deep && is_too_deep(json) {
                Some(TroubleKind::Unreadable(TOO_DEEP.to_owned()))
            } else {
                reading.add(json, &range)
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
            let says = |json: &[u8]| {
                serde_json::from_slice::<ContentChunk<'_>>(json)
                    .map(|chunk| chunk.choices.iter().any(ContentChoice::says_something))
            };
            says(json).or_else(|fault| repaired(json).map_or(Err(fault), |json| says(&json))).unwrap_or(false)
        })
    }

    /// The run without the events at `ranges`, which are in order; `None` when nothing is left.
    pub fn without(&self, ranges: &[Range<usize>]) -> Option<Self> {
        let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
        let ends = ranges.iter().map(|range| range.start).chain([self.bytes.len()]);
        let mut kept = starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| start..end);
        let first = self.bytes.slice(kept.next()?);
        let Some(second) = kept.next() else { return Some(Self { bytes: first }) };
        let mut bytes = first.to_vec();
        for range in std::iter::once(second).chain(kept) {
            bytes.extend_from_slice(self.bytes.get(range).unwrap_or_default());
        }
        Some(Self { bytes: bytes.into() })
    }

    /// The run with `usage` in the last of the events at `ranges`, which tell usage alone, and without the others.
    #[must_use]
    pub fn with_usage(&self, ranges: &[Range<usize>], usage: &Usage) -> Self {
        let last = ranges
            .last()
            .and_then(|range| Some(Self { bytes: self.bytes.slice(range.clone()) }.jsons().next()?.to_vec()));
        let object = last.and_then(|json| RawObject::parse(json.into()).ok());
        let Some(object) = object else { return self.clone() };
        let json = object.edit(&[Change::Set("usage", usage.to_openai().to_string().into())]);
        let before = self.without(ranges).unwrap_or_else(Self::none);
        Self { bytes: [before.bytes.as_ref(), PREFIX, &json, SUFFIX].concat().into() }
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
    /// Takes what must be known out of the JSON of an event, repaired if it cannot be read as it is.
    fn add(&mut self, json: &[u8], range: &Range<usize>) -> Option<TroubleKind> {
        let fault = match serde_json::from_slice(json) {
            Ok(chunk) => return self.add_chunk(&chunk, range),
            Err(error) => TroubleKind::Unreadable(json_fault(&error)),
        };
        let repaired = repaired(json);
        match repaired.as_deref().and_then(|json| serde_json::from_slice(json).ok()) {
            Some(chunk) => self.add_chunk(&chunk, range),
            None => Some(fault),
        }
    }

    /// Takes what must be known out of a chunk; an `error` is none.
    fn add_chunk(&mut self, chunk: &Chunk<'_>, range: &Range<usize>) -> Option<TroubleKind> {
        if let Some(error) = chunk.reported() {
            return Some(TroubleKind::Reported(error.to_owned()));
        }
        let choices = chunk.choices.as_deref().unwrap_or_default();
        for choice in choices {
            let index = choice.index.0.and_then(|index| u32::try_from(index).ok());
            self.ends.note(index.unwrap_or(0), choice.finish_reason.as_deref().is_some_and(is_reason));
        }
        if let Some(report) = chunk.usage.filter(|usage| usage.get() != "null") {
            let usage = Usage::from_openai(report.get().as_bytes());
            self.usage = usage.map(|usage| usage.after(self.usage)).or(self.usage);
            // Whatever it says, a caller who did not ask for usage expects no such event.
            if choices.is_empty() {
                self.usage_only.push(range.clone());
            }
        }
        None
    }
}

/// Whether a finish reason is one. Some servers write an empty one as long as there is none, or the word for none.
pub(super) fn is_reason(reason: &str) -> bool {
    !(reason.is_empty() || reason.eq_ignore_ascii_case("null") || reason.eq_ignore_ascii_case("none"))
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
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl Chunk<'_> {
    /// The error that stands in it. An empty one beside choices is none.
    fn reported(&self) -> Option<&str> {
        let error = self.error?.get();
        let is_none = match error {
            "null" | "false" => true,
            "\"\"" | "{}" | "[]" | "0" => self.choices.is_some() || self.usage.is_some(),
            _ => false,
        };
        (!is_none).then_some(error)
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: LenientCount,
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
        self.finish_reason.as_deref().is_some_and(is_reason)
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
        let rest = run.without(&reading.usage_only).unwrap();
        assert_eq!(rest, frames(&[TEXT, STOP]));
    }

    #[test]
    fn usage_beside_a_choice_is_no_frame_of_its_own() {
        let both = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}"#;
        let reading = frames(&[both]).read();
        assert!(reading.usage.is_some() && reading.usage_only.is_empty());
    }

    #[test]
    fn an_error_is_seen_and_a_null_error_is_not() {
        let error = frames(&[r#"{"error":{"message":"m"}}"#]).read();
        assert_eq!(error.trouble.unwrap().kind, TroubleKind::Reported(r#"{"message":"m"}"#.to_owned()));
        assert_eq!(frames(&[r#"{"error":null,"choices":[]}"#]).read().trouble, None);
    }

    #[test]
    fn an_empty_error_beside_choices_is_none() {
        for json in [
            r#"{"error":"","choices":[]}"#,
            r#"{"error":{},"choices":[{"delta":{"content":"x"}}]}"#,
            r#"{"error":false}"#,
            r#"{"error":[],"choices":null,"usage":{"prompt_tokens":1}}"#,
        ] {
            assert_eq!(frames(&[json]).read().trouble, None, "{json}");
        }
        assert!(frames(&[r#"{"error":""}"#]).read().trouble.is_some());
    }

    #[test]
    fn every_chunk_of_usage_alone_is_found_whatever_it_says() {
        let odd = r#"{"choices":[],"usage":{"seconds":3}}"#;
        let run = frames(&[USAGE, TEXT, USAGE, odd]);
        let reading = run.read();
        assert_eq!(reading.usage.map(|usage| usage.output_tokens), Some(2));
        assert_eq!(run.without(&reading.usage_only), Some(frames(&[TEXT])));
        let none = frames(&[r#"{"choices":[],"usage":null}"#]);
        assert_eq!(none.without(&none.read().usage_only), Some(none));
    }

    #[test]
    fn a_report_is_completed_in_its_place() {
        let partial = r#"{"id":"c","choices":[],"usage":{"completion_tokens":2}}"#;
        let run = frames(&[USAGE, TEXT, partial]);
        let usage = Usage { input_tokens: 9, output_tokens: 2, ..Usage::default() };
        let completed =
            r#"{"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
        assert_eq!(run.with_usage(&run.read().usage_only, &usage), frames(&[TEXT, completed]));
        assert_eq!(run.with_usage(&[], &usage), run);
    }

    #[test]
    fn the_word_for_none_is_no_finish_reason() {
        for reason in ["null", "None", "NULL", ""] {
            let json = format!(
                r#"{{"choices":[{{"index":0,"delta":{{"content":"x"}},"finish_reason":"{reason}"}}]}}"#
            );
            assert!(!frames(&[&json]).read().ends.are_all(), "{reason}");
            assert!(frames(&[&json, STOP]).read().ends.are_all(), "{reason}");
        }
    }

    #[test]
    fn an_index_is_read_in_every_shape() {
        for (index, second) in [("1.0", true), ("\"1\"", true), ("null", false), ("-1", false), ("{}", false)]
        {
            let json = format!(r#"{{"choices":[{{"index":{index},"delta":{{}},"finish_reason":"stop"}}]}}"#);
            let reading = frames(&[&json]).read();
            assert!(reading.trouble.is_none() && reading.ends.has_ended(u32::from(second)), "{index}");
        }
    }

    #[test]
    fn numbers_that_are_no_json_are_no_fault() {
        let last =
            r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"stop","logprobs":[NaN,-Infinity]}]}"#;
        let reading = frames(&[last]).read();
        assert!(reading.ends.are_all() && reading.trouble.is_none());
        assert!(frames(&[last]).has_content());
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
        let ranges = run.read().usage_only;
        assert_eq!(run.without(&ranges), Some(frames(&[TEXT])));

        let run = frames(&[TEXT, USAGE, STOP]);
        let ranges = run.read().usage_only;
        assert_eq!(run.without(&ranges), Some(frames(&[TEXT, STOP])));

        let run = frames(&[USAGE]);
        let ranges = run.read().usage_only;
        assert_eq!(run.without(&ranges), None);
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
