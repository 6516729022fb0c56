//! Cuts what the network brings into whole events and whole lines.
//!
//! Bytes in, bytes out: a character that a network chunk cuts in two is put together again, because
//! nothing is decoded before an event is whole. Events that stand in the usual form are not copied.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};
use serde_json::value::RawValue;

use crate::llm::{Frames, chunks_of};

/// An event that is longer than this is no event. (Images in base64 come as one.)
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// An answer in one piece that is longer than this is none that should have been streamed.
const MAX_WHOLE_BYTES: usize = 4 * 1024 * 1024;

/// Why a stream cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unframed {
    /// An event or line has no end within reason.
    TooLong,
    /// The data of an event begins as a JSON object, and is none.
    NotAnObject,
    /// There are no events, but one piece, which cannot be read.
    OnePiece,
}

impl Unframed {
    /// The end of a sentence.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "an event of its stream is too long",
            Self::NotAnObject => "an event of its stream is no JSON object",
            Self::OnePiece => "it was asked for a stream and answers in one piece",
        }
    }
}

/// Cuts server-sent events.
#[derive(Debug, Default)]
pub struct SseSplitter {
    /// The beginning of an event whose end has not come.
    partial: BytesMut,
    scan: Scan,
    begun: bool,
    /// What has come are no events, but a JSON object or lines of them, whatever it is labelled.
    is_whole: bool,
    /// `[DONE]` came: what follows counts for nothing.
    done: bool,
}

/// How far the search for an event's end has come, so that nothing is searched twice.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    at: usize,
    line_start: usize,
}

impl Scan {
    /// Where the event ends that begins at `line_start`: behind its blank line. A `\r` at the very end
    /// waits for the next byte, which may be its `\n`.
    fn event_end(&mut self, text: &[u8]) -> Option<usize> {
        while let Some(found) = text.get(self.at..).and_then(|rest| memchr2(b'\n', b'\r', rest)) {
            let end_of_line = self.at + found;
            let width = match (text.get(end_of_line), text.get(end_of_line + 1)) {
                (Some(b'\r'), None) => {
                    self.at = end_of_line;
                    return None;
                }
                (Some(b'\r'), Some(b'\n')) => 2,
                _ => 1,
            };
            let is_blank = end_of_line == self.line_start;
            self.at = end_of_line + width;
            self.line_start = self.at;
            if is_blank {
                return Some(self.at);
            }
        }
        self.at = text.len();
        None
    }
}

impl SseSplitter {
    /// Whether the stream has said that it is over.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes a chunk of the network and adds the events that are whole now to `out`, as long runs.
    ///
    /// # Errors
    /// The stream cannot be cut; it is of no more use.
    pub fn push(&mut self, chunk: Bytes, out: &mut VecDeque<Frames>) -> Result<(), Unframed> {
        if self.done || chunk.is_empty() {
            return Ok(());
        }
        let text = if self.partial.is_empty() && self.begun {
            chunk
        } else {
            self.partial.extend_from_slice(&chunk);
            if !self.begun && !self.begin()? {
                return Ok(());
            }
            if self.is_whole {
                return if self.partial.len() > MAX_WHOLE_BYTES { Err(Unframed::OnePiece) } else { Ok(()) };
            }
            let mut scan = self.scan;
            if scan.event_end(&self.partial).is_none() {
                self.scan = scan;
                return if self.partial.len() > MAX_EVENT_BYTES { Err(Unframed::TooLong) } else { Ok(()) };
            }
            self.partial.split().freeze()
        };
        // What has been searched before was in one event, so the search for its end goes on from there.
        let scan = std::mem::take(&mut self.scan);
        self.cut(&text, scan, out)
    }

    /// Takes what is left when the stream has ended: an event that lacks its blank line.
    ///
    /// # Errors
    /// What is left is no event.
    pub fn finish(&mut self, out: &mut VecDeque<Frames>) -> Result<(), Unframed> {
        let rest = self.partial.split();
        self.scan = Scan::default();
        if self.done || rest.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        if self.is_whole {
            out.extend(objects(without_done(&rest)).ok_or(Unframed::OnePiece)?);
            return Ok(());
        }
        let mut text = rest;
        text.extend_from_slice(b"\n\n");
        self.cut(&text.freeze(), Scan::default(), out)
    }

    /// Looks at the first bytes, behind a byte order mark. False as long as they do not tell what comes.
    fn begin(&mut self) -> Result<bool, Unframed> {
        const MARK: &[u8] = b"\xEF\xBB\xBF";
        if self.partial.len() < MARK.len() && MARK.starts_with(&self.partial) {
            return Ok(false);
        }
        if self.partial.starts_with(MARK) {
            let _ = self.partial.split_to(MARK.len());
        }
        let Some(first) = self.partial.iter().find(|byte| !byte.is_ascii_whitespace()) else {
            return if self.partial.len() > MAX_EVENT_BYTES { Err(Unframed::TooLong) } else { Ok(false) };
        };
        self.begun = true;
        match first {
            b'<' => Err(Unframed::OnePiece),
            b'{' => {
                self.is_whole = true;
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    fn cut(&mut self, text: &Bytes, mut scan: Scan, out: &mut VecDeque<Frames>) -> Result<(), Unframed> {
        let mut start = 0;
        // The run of events in the usual form that has not been handed out. Any other event ends it.
        let mut run: Range<usize> = 0..0;
        while let Some(end) = scan.event_end(text) {
            let event = text.get(start..end).unwrap_or_default();
            if is_usual(event) {
                run = if run.is_empty() { start..end } else { run.start..end };
            } else {
                flush(text, std::mem::take(&mut run), out);
                match data_of(event).as_deref().map(<[u8]>::trim_ascii) {
                    // An event without data is a sign of life.
                    None | Some(b"") => {}
                    Some(b"[DONE]") => {
                        self.done = true;
                        return Ok(());
                    }
                    Some(data) => push_objects(data, out)?,
                }
            }
            start = end;
        }
        flush(text, run, out);
        self.partial.extend_from_slice(text.get(start..).unwrap_or_default());
        self.scan = Scan { at: scan.at - start, line_start: scan.line_start - start };
        Ok(())
    }
}

fn flush(text: &Bytes, run: Range<usize>, out: &mut VecDeque<Frames>) {
    if !run.is_empty() {
        out.push_back(Frames::of_events(text.slice(run)));
    }
}

/// Whether an event is `data: {…}` on one line and a blank line, with line feeds.
fn is_usual(event: &[u8]) -> bool {
    let json = event.strip_prefix(b"data: ").and_then(|rest| rest.strip_suffix(b"\n\n"));
    json.is_some_and(|json| {
        json.first() == Some(&b'{') && json.last() == Some(&b'}') && memchr2(b'\n', b'\r', json).is_none()
    })
}

/// The data of an event: its `data` lines, joined. `None` for a comment or an event without data.
fn data_of(event: &[u8]) -> Option<Vec<u8>> {
    let mut data: Option<Vec<u8>> = None;
    for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let value = match line {
            b"data" => &[],
            _ => match line.strip_prefix(b"data:") {
                Some(value) => value.strip_prefix(b" ").unwrap_or(value),
                None => continue,
            },
        };
        match &mut data {
            None => data = Some(value.to_vec()),
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
    }
    data
}

/// The objects in the data of an unusual event: one, or a list of them. Data that is anything else says nothing.
fn push_objects(data: &[u8], out: &mut VecDeque<Frames>) -> Result<(), Unframed> {
    match data.first() {
        Some(b'{') => out.push_back(one_line(data)?),
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_slice(data).unwrap_or_default();
            for item in items.iter().filter(|item| item.get().starts_with('{')) {
                out.push_back(one_line(item.get().as_bytes())?);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Puts the JSON of an unusual event on one line. Line ends in JSON can only be spacing.
fn one_line(data: &[u8]) -> Result<Frames, Unframed> {
    if data.last() != Some(&b'}') {
        return Err(Unframed::NotAnObject);
    }
    let json = data.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
    Ok(Frames::of_json(&json.collect::<Vec<u8>>()))
}

/// The chunks of an answer that is one object, or an object a line.
fn objects(text: &[u8]) -> Option<Vec<Frames>> {
    chunks_of(text).ok().or_else(|| {
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let chunks: Vec<Vec<Frames>> = lines.map(|line| chunks_of(line).ok()).collect::<Option<_>>()?;
        Some(chunks.into_iter().flatten().collect())
    })
}

/// An answer in one piece without the word that some servers write behind it.
pub(super) fn without_done(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_end();
    let before = text.strip_suffix(b"[DONE]").and_then(|rest| rest.trim_ascii_end().strip_suffix(b"data:"));
    before.unwrap_or(text)
}

/// Whether a text is a stream of events and not JSON.
pub(super) fn are_events(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    [b"data:".as_slice(), b"event:", b"id:", b"retry:", b":"].iter().any(|start| text.starts_with(start))
}

/// Cuts lines, as in NDJSON.
#[derive(Debug, Default)]
pub struct LineSplitter {
    partial: BytesMut,
    searched: usize,
}

impl LineSplitter {
    /// Takes a chunk of the network.
    pub fn push(&mut self, chunk: &[u8]) {
        self.partial.extend_from_slice(chunk);
    }

    /// The next whole line, without its end.
    ///
    /// # Errors
    /// A line has no end within reason.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, Unframed> {
        match self.partial.get(self.searched..).and_then(|rest| memchr(b'\n', rest)) {
            Some(found) => {
                let mut line = self.partial.split_to(self.searched + found + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                Ok(Some(line.freeze()))
            }
            None if self.partial.len() > MAX_EVENT_BYTES => Err(Unframed::TooLong),
            None => {
                self.searched = self.partial.len();
                Ok(None)
            }
        }
    }

    /// What is left when the stream has ended.
    pub fn rest(&mut self) -> Bytes {
        self.searched = 0;
        self.partial.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The JSON of all events, with the input in pieces of a given size, and whether `[DONE]` came.
    fn split(input: &[u8], size: usize) -> (Vec<String>, bool) {
        let mut splitter = SseSplitter::default();
        let mut out = VecDeque::new();
        for piece in input.chunks(size.max(1)) {
            splitter.push(Bytes::copy_from_slice(piece), &mut out).unwrap();
        }
        splitter.finish(&mut out).unwrap();
        let jsons = out.iter().flat_map(Frames::jsons).map(|json| String::from_utf8(json.to_vec()).unwrap());
        (jsons.collect(), splitter.is_done())
    }

    fn every_size(input: &str, expected: &[&str], done: bool) {
        for size in 1..=input.len() {
            assert_eq!(
                split(input.as_bytes(), size),
                (expected.iter().map(|s| (*s).to_owned()).collect(), done),
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn events_come_out_whole_whatever_the_pieces() {
        every_size(
            "data: {\"a\":\"żółw\"}\n\ndata: {\"b\":2}\n\ndata: [DONE]\n\n",
            &["{\"a\":\"żółw\"}", "{\"b\":2}"],
            true,
        );
    }

    #[test]
    fn unusual_forms_are_made_usual() {
        every_size(
            "data:{\"a\":1}\r\n\r\ndata: {\"b\":2}\r\rdata: {\n\ndata:[DONE]\n\n"
                .replace("data: {\n\n", "")
                .as_str(),
            &["{\"a\":1}", "{\"b\":2}"],
            true,
        );
        every_size("data:\n\ndata: {\"a\":1}\n\ndata\n\ndata:  \n\ndata: [DONE] \n\n", &["{\"a\":1}"], true);
        every_size("event: x\nid: 7\ndata: {\"a\":\ndata: 1}\n\n", &["{\"a\": 1}"], false);
        every_size(
            ": ping\n\n\n\ndata: {\"a\":1}\n\n: pong\n\nretry: 3\n\ndata: {\"b\":1}\n\n",
            &["{\"a\":1}", "{\"b\":1}"],
            false,
        );
        every_size("\u{feff}data: {\"a\":1}\n\n", &["{\"a\":1}"], false);
    }

    #[test]
    fn data_that_is_no_object_says_nothing() {
        every_size(
            "data: {\"a\":1}\n\ndata: null\n\ndata: ping\n\ndata: \"x\"\n\ndata: 7\n\ndata: []\n\ndata: {\"b\":1}\n\n",
            &["{\"a\":1}", "{\"b\":1}"],
            false,
        );
        every_size("data: [{\"a\":1}, null,{\"b\":1}]\n\n", &["{\"a\":1}", "{\"b\":1}"], false);
    }

    #[test]
    fn an_answer_in_one_piece_is_known_by_its_bytes() {
        let whole = r#"{"object":"chat.completion","choices":[{"message":{"content":"x"}}],"usage":{}}"#;
        let chunks = [
            r#"{"object":"chat.completion.chunk","choices":[{"delta":{"content":"x"}}]}"#,
            r#"{"object":"chat.completion.chunk","choices":[],"usage":{}}"#,
        ];
        every_size(&format!("\u{feff}\n{whole}\n\ndata: [DONE]\n\n"), &chunks, false);
        every_size(whole, &chunks, false);
        every_size("{\"a\":1}\r\n\n{\"b\":2}\n", &["{\"a\":1}", "{\"b\":2}"], false);
        let mut out = VecDeque::new();
        let refused = SseSplitter::default().push(Bytes::from_static(b" <html>"), &mut out);
        assert_eq!(refused, Err(Unframed::OnePiece));
        assert!(are_events(b"\n: ping\n") && are_events(b"data:{}") && !are_events(b"{\"data:\":1}"));
    }

    #[test]
    fn an_end_without_a_blank_line_is_an_end() {
        every_size("data: {\"a\":1}\n\ndata: [DONE]", &["{\"a\":1}"], true);
        every_size("data: {\"a\":1}\n\ndata: {\"b\":1}\n", &["{\"a\":1}", "{\"b\":1}"], false);
    }

    #[test]
    fn nothing_counts_after_done() {
        every_size("data: [DONE]\n\ndata: {\"a\":1}\n\n", &[], true);
    }

    #[test]
    fn usual_events_in_one_chunk_are_one_run_and_not_copied() {
        let chunk =
            Bytes::from_static(b": x\n\ndata: {\"a\":1}\n\ndata: {\"b\":1}\n\n: y\n\ndata: {\"c\":1}\n\n");
        let mut splitter = SseSplitter { begun: true, ..SseSplitter::default() };
        let mut out = VecDeque::new();

        splitter.push(chunk.clone(), &mut out).unwrap();

        let [first, second] = out.make_contiguous() else { panic!("two runs, not {}", out.len()) };
        assert_eq!(first.jsons().count(), 2);
        assert_eq!(second.jsons().count(), 1);
        assert_eq!(first.bytes().as_ptr(), chunk[5..].as_ptr());
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        let mut splitter = SseSplitter::default();
        let pushed = splitter.push(Bytes::from_static(b"data: {\"a\":1\n\n"), &mut VecDeque::new());
        assert_eq!(pushed, Err(Unframed::NotAnObject));
        let mut splitter = SseSplitter::default();
        let mut out = VecDeque::new();
        splitter.push(Bytes::from_static(b"data: {\"a\":"), &mut out).unwrap();
        assert_eq!(splitter.finish(&mut out), Err(Unframed::NotAnObject));
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut splitter = SseSplitter::default();
        let chunk = Bytes::from(vec![b'x'; 8 * 1024 * 1024]);
        let results: Vec<_> = (0..5).map(|_| splitter.push(chunk.clone(), &mut VecDeque::new())).collect();
        assert_eq!(results.last(), Some(&Err(Unframed::TooLong)));
    }

    #[test]
    fn a_long_event_in_small_pieces_takes_linear_time() {
        let mut splitter = SseSplitter::default();
        let mut out = VecDeque::new();
        let piece = Bytes::from(vec![b'x'; 16]);
        let started = std::time::Instant::now();
        splitter.push(Bytes::from_static(b"data: {"), &mut out).unwrap();
        for _ in 0..250_000 {
            splitter.push(piece.clone(), &mut out).unwrap();
        }
        // 4 MB; by squares this would take minutes.
        assert!(started.elapsed().as_secs() < 20);
    }

    #[test]
    fn lines_come_out_whole_whatever_the_pieces() {
        let input = "{\"a\":\"żółw\"}\n\n{\"b\":2}\r\nrest";
        for size in 1..=input.len() {
            let mut splitter = LineSplitter::default();
            let mut lines = Vec::new();
            for piece in input.as_bytes().chunks(size) {
                splitter.push(piece);
                while let Some(line) = splitter.next_line().unwrap() {
                    lines.push(line);
                }
            }
            lines.push(splitter.rest());
            assert_eq!(lines, ["{\"a\":\"żółw\"}", "", "{\"b\":2}\r", "rest"], "pieces of {size}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            parts in prop::collection::vec(prop_oneof![
                Just("data: {\"a\":1}\n\n"), Just("data:{}\r\n\r\n"), Just(": c\n\n"), Just("\n"), Just("\r"),
                Just("data: {\"ż\":\n"), Just("data: 1}\n\n"), Just("event: e\n"), Just("data: [DONE]\n\n"), Just("x"),
            ], 0..12),
            size in 1_usize..40,
        ) {
            let input: String = parts.concat();
            let whole = all(input.as_bytes(), usize::MAX);
            prop_assert_eq!(all(input.as_bytes(), size), whole);
        }

        #[test]
        fn no_input_panics(input in prop::collection::vec(any::<u8>(), 0..200), size in 1_usize..20) {
            all(&input, size);
            let mut lines = LineSplitter::default();
            for piece in input.chunks(size) {
                lines.push(piece);
                while let Ok(Some(_)) = lines.next_line() {}
            }
        }
    }

    /// Events until the first fault, and the fault.
    fn all(input: &[u8], size: usize) -> (Vec<Vec<u8>>, Option<Unframed>) {
        let mut splitter = SseSplitter::default();
        let mut out = VecDeque::new();
        let mut fault = None;
        for piece in input.chunks(size.min(input.len().max(1))) {
            if let Err(error) = splitter.push(Bytes::copy_from_slice(piece), &mut out) {
                fault = Some(error);
                break;
            }
        }
        if fault.is_none() {
            fault = splitter.finish(&mut out).err();
        }
        (out.iter().flat_map(Frames::jsons).map(<[u8]>::to_vec).collect(), fault)
    }
}
