//! Ends a raw stream when a budget that ends answers is used up, where its chunks are those of OpenAI's API.
//!
//! Of other dialects nobody here could write the end, so they come to their own. Nothing but whole events passes, each as it
//! came.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::gateway::cut_off::CutOff;
use crate::llm::{Frames, RequestKind};
use crate::telemetry::RequestRecord;

/// A longer event is none of a chat.
const MOST_HELD: usize = 256 * 1024;
/// The word behind the last chunk.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// Watches a raw stream whose caller has such a budget.
#[derive(Debug)]
pub(super) struct RawCut {
    record: Arc<RequestRecord>,
    input_tokens: u64,
    /// What has come of an event that is not whole yet.
    held: BytesMut,
    /// This many bytes of it hold no end of an event.
    searched: usize,
    dialect: Dialect,
}

#[derive(Debug)]
enum Dialect {
    /// No chunk has come yet.
    Untold,
    /// OpenAI's.
    Chunks(Box<CutOff>),
    /// Any other.
    Other,
}

/// What may go on to the caller, and what behind it is the end.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) events: BytesMut,
    pub(super) end: Option<Bytes>,
}

/// A chunk, as far as it tells that it is one.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    object: Option<String>,
    #[serde(rename = "choices")]
    _choices: IgnoredAny,
}

impl RawCut {
    /// For the answer to a prompt of so many tokens; `None` if it may end by itself.
    pub(super) fn of(record: &Arc<RequestRecord>, input_tokens: u64) -> Option<Self> {
        let (held, dialect) = (BytesMut::new(), Dialect::Untold);
        CutOff::is_wanted(record).then(|| Self {
            record: record.clone(),
            input_tokens,
            held,
            searched: 0,
            dialect,
        })
    }

    /// Lets pass what is whole, and says what is left of the stream once it is ended.
    pub(super) fn pass(&mut self, piece: &[u8]) -> Passed {
        self.held.extend_from_slice(piece);
        let mut passed = Passed::default();
        while let Some(length) = first_event(&self.held, self.searched) {
            let event = self.held.split_to(length);
            self.searched = 0;
            if let Some((before, end)) = self.cut(&event) {
                passed.events.extend_from_slice(&before);
                passed.end = Some(end);
                return passed;
            }
            passed.events.unsplit(event);
        }
        // An end may have begun with the last bytes.
        self.searched = self.held.len().saturating_sub(LONGEST_END - 1);
        let is_too_long = self.held.len() > MOST_HELD;
        if is_too_long && matches!(self.dialect, Dialect::Untold) {
            self.dialect = Dialect::Other;
        }
        // The rest of an event that was too long to look at is none that could be looked at.
        if is_too_long || matches!(self.dialect, Dialect::Other) {
            passed.events.unsplit(self.held.split());
            self.searched = 0;
        }
        passed
    }

    /// What is left when the stream has ended by itself.
    pub(super) fn rest(self) -> Bytes {
        self.held.freeze()
    }

    /// If the answer ends with an event: what still passes of it, and the end.
    fn cut(&mut self, event: &[u8]) -> Option<(Bytes, Bytes)> {
        let json = json_of(event)?;
        let chunk = serde_json::from_slice::<Chunk>(json).ok();
        if matches!(self.dialect, Dialect::Untold) {
            self.dialect =
                chunk.as_ref().and_then(|chunk| self.watch(chunk)).map_or(Dialect::Other, Dialect::Chunks);
        }
        let Dialect::Chunks(watch) = &mut self.dialect else { return None };
        // An error, for example.
        chunk?;
        let frames = Frames::of_json(json);
        let rest = watch.pass(&frames, frames.read().ends)?;
        let before = if rest.frames.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(event) };
        let end = rest.into_end();
        Some((before, [end.bytes(), DONE].concat().into()))
    }

    fn watch(&self, chunk: &Chunk) -> Option<Box<CutOff>> {
        let kind = match chunk.object.as_deref() {
            Some("text_completion") => RequestKind::Completion,
            _ => RequestKind::Chat,
        };
        CutOff::of_raw(kind, self.input_tokens, &self.record).map(Box::new)
    }
}

/// The bytes of a blank line with the end of the line before it, at most.
const LONGEST_END: usize = 4;

/// The length of the first event that is whole, the blank line behind it included, which does not end in the bytes that
/// were searched before.
fn first_event(bytes: &[u8], searched: usize) -> Option<usize> {
    let rest = bytes.get(searched..)?;
    let ends = [b"\n\n".as_slice(), b"\r\n\r\n"];
    ends.iter().filter_map(|end| Some(searched + memmem::find(rest, end)? + end.len())).min()
}

/// The object that an event tells; `None` of a comment, of the word at the end, and of whatever is no object on one line.
fn json_of(event: &[u8]) -> Option<&[u8]> {
    let mut data =
        event.split(|byte| matches!(byte, b'\n' | b'\r')).filter_map(|line| line.strip_prefix(b"data:"));
    let json = data.next()?.trim_ascii();
    (data.next().is_none() && json.starts_with(b"{")).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_with_either_end_of_lines() {
        assert_eq!(first_event(b"data: 1\n\ndata: 2\r\n\r\n", 0), Some(9));
        assert_eq!(first_event(b"data: 1\r\n\r\ndata: 2\n\n", 0), Some(11));
        assert_eq!(
            [first_event(b"data: 1\n", 0), first_event(b"data: 1\r\n\r", 0), first_event(b"", 0)],
            [None; 3]
        );
    }

    #[test]
    fn only_objects_are_looked_at() {
        for event in
            ["data: {\"a\":1}\n\n", "data:{\"a\":1}\r\n\r\n", "event: x\nid: 1\ndata: {\"a\":1} \n\n"]
        {
            assert_eq!(json_of(event.as_bytes()), Some(b"{\"a\":1}".as_slice()), "{event:?}");
        }
        for event in ["data: [DONE]\n\n", ": keep-alive\n\n", "data: {\ndata: }\n\n", "\n\n"] {
            assert_eq!(json_of(event.as_bytes()), None, "{event:?}");
        }
    }

    #[test]
    fn what_was_searched_is_not_searched_again() {
        let text = b"data: 1\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(first_event(&text[..length], 0), None);
            let searched = length.saturating_sub(LONGEST_END - 1);
            assert_eq!(first_event(text, searched), Some(text.len()), "{length}");
        }
    }
}
