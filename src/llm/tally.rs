//! What a body tells of its usage while it passes: in whatever dialect, wherever in it, cut by the network wherever.
//!
//! Nothing is held but what a chunk has left unfinished. In a text every quote is escaped, so the names that are looked
//! for stand only where the body itself has them.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::Usage;
use super::usage_report::{Counts, Report, count_of};

/// A report longer than this is none. (OpenAI's takes some three hundred bytes.)
const MOST_HELD: usize = 4 * 1024;

/// What is looked for, and what stands behind it.
const NAMES: [(&str, Told); 5] = [
    ("\"usage\"", Told::Usage),
    // Ollama's, in the last line.
    ("\"prompt_eval_count\"", Told::Input),
    ("\"eval_count\"", Told::Output),
    // llama.cpp's own.
    ("\"tokens_evaluated\"", Told::Input),
    ("\"tokens_predicted\"", Told::Output),
];

static FINDERS: LazyLock<[(Finder<'static>, Told); 5]> =
    LazyLock::new(|| NAMES.map(|(name, told)| (Finder::new(name), told)));
static LONGEST: LazyLock<usize> =
    LazyLock::new(|| NAMES.iter().map(|(name, _)| name.len()).max().unwrap_or(0));
static DONE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("data: [DONE]"));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Usage,
    Input,
    Output,
}

/// What a body has told so far.
#[derive(Debug)]
pub struct Tally {
    /// The end of what has passed, as far as it is not understood yet.
    held: Vec<u8>,
    counts: Counts,
    bytes: usize,
    is_at_line_start: bool,
    events: u64,
    lines: u64,
    is_done: bool,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            counts: Counts::default(),
            bytes: 0,
            is_at_line_start: true,
            events: 0,
            lines: 0,
            is_done: false,
        }
    }
}

/// What stands behind a name.
enum Value {
    /// Nothing that counts.
    Nothing,
    Counts(Counts),
    /// The rest has not come yet.
    Unfinished,
}

impl Tally {
    /// Looks at what passes.
    pub fn push(&mut self, chunk: &[u8]) {
        self.bytes = self.bytes.saturating_add(chunk.len());
        self.count_lines(chunk);
        let mut window = std::mem::take(&mut self.held);
        if chunk.len() <= MOST_HELD {
            window.extend_from_slice(chunk);
            let from = self.look_into(&window);
            window.drain(..from);
        } else {
            // What began before ends in the first part of it; whatever is found twice is the same twice.
            window.extend(chunk.iter().take(MOST_HELD));
            self.look_into(&window);
            let from = self.look_into(chunk);
            window.clear();
            window.extend(chunk.iter().skip(from));
        }
        self.held = window;
    }

    /// What it has said of its usage, if it has.
    pub fn usage(&self) -> Option<Usage> {
        self.counts.usage()
    }

    /// How many bytes have passed.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many server-sent events have begun, the word at the end left out.
    pub fn events(&self) -> u64 {
        self.events.saturating_sub(u64::from(self.is_done))
    }

    /// How many lines have begun that are JSON objects.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Finds what a piece tells. Where the part begins that is to be looked at again with more behind it.
    fn look_into(&mut self, piece: &[u8]) -> usize {
        let latest = piece.len().saturating_sub(*LONGEST - 1);
        let mut from = latest;
        for (finder, told) in FINDERS.iter() {
            for at in finder.find_iter(piece) {
                let behind = piece.get(at + finder.needle().len()..).unwrap_or_default();
                match value(behind, *told) {
                    Value::Nothing => {}
                    Value::Counts(counts) => self.counts.put(counts),
                    Value::Unfinished => from = from.min(at),
                }
            }
        }
        self.is_done = self.is_done || DONE.find(piece).is_some();
        if piece.len() - from > MOST_HELD { latest } else { from }
    }

    fn count_lines(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        loop {
            if self.is_at_line_start {
                match rest.first() {
                    None => return,
                    Some(b'd') => self.events += 1,
                    Some(b'{') => self.lines += 1,
                    Some(_) => {}
                }
            }
            let end = memchr::memchr(b'\n', rest);
            self.is_at_line_start = end.is_some();
            let Some(end) = end else { return };
            rest = rest.get(end + 1..).unwrap_or_default();
        }
    }
}

/// What stands behind a name of a member.
fn value(behind: &[u8], told: Told) -> Value {
    let trimmed = behind.trim_ascii_start();
    let Some((colon, rest)) = trimmed.split_first() else { return Value::Unfinished };
    let rest = rest.trim_ascii_start();
    let Some(first) = rest.first() else { return Value::Unfinished };
    if *colon != b':' {
        return Value::Nothing;
    }
    if told == Told::Usage {
        if *first == b'{' { usage(rest) } else { Value::Nothing }
    } else {
        number(rest, told)
    }
}

fn number(text: &[u8], told: Told) -> Value {
    let is_of_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
    let Some(end) = text.iter().position(|byte| !is_of_number(byte)) else { return Value::Unfinished };
    let number = text.get(..end).and_then(|number| std::str::from_utf8(number).ok());
    let Some(count) = number.and_then(count_of) else { return Value::Nothing };
    Value::Counts(match told {
        Told::Output => Counts { output: Some(count), ..Counts::default() },
        Told::Input | Told::Usage => Counts { input: Some(count), ..Counts::default() },
    })
}

fn usage(text: &[u8]) -> Value {
    match serde_json::Deserializer::from_slice(text).into_iter::<Report>().next() {
        Some(Ok(report)) => Value::Counts(report.counts()),
        Some(Err(error)) if error.is_eof() => Value::Unfinished,
        _ => Value::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Input, output, cached.
    type Tokens = (u64, u64, u64);

    /// Bodies as servers send them, and what they tell.
    const TOLD: &[(&str, Option<Tokens>)] = &[
        (
            r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":99}"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":2,"audio_tokens":0}},"service_tier":"default"}"#,
            Some((7, 3, 2)),
        ),
        (
            "data: {\"choices\":[{\"delta\":{\"content\":\"usage\"}}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\" : { \"prompt_tokens\" : 12, \"completion_tokens\" : 34 } }\n\ndata: [DONE]\n\n",
            Some((12, 34, 0)),
        ),
        (
            "{\"message\":{\"content\":\"hi\"},\"done\":false}\n{\"done\":true,\"prompt_eval_count\":26,\"prompt_eval_duration\":1,\"eval_count\":298,\"eval_duration\":5}\n",
            Some((26, 298, 0)),
        ),
        ("{\"done\": true, \"eval_count\": 4}", Some((0, 4, 0))),
        (
            r#"{"object":"list","usage":{"prompt_tokens":5,"total_tokens":5},"data":[{"embedding":[0.5,0.25]}]}"#,
            Some((5, 0, 0)),
        ),
        (
            r#"{"content":"x","tokens_predicted":8,"tokens_evaluated":9,"timings":{"prompt_n":1}}"#,
            Some((9, 8, 0)),
        ),
        (
            "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":20,\"cache_read_input_tokens\":5,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"usage\":{\"output_tokens\":15}}\n\n",
            Some((25, 15, 5)),
        ),
        (
            r#"{"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":4},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":1}}}"#,
            Some((36, 87, 4)),
        ),
        ("{\"done\":true,\"prompt_eval_count\":26.0,\"eval_count\":3.0}\n", Some((26, 3, 0))),
        (
            r#"{"usage":{"prompt_tokens":7.0,"completion_tokens":"3","prompt_tokens_details":[]}}"#,
            Some((7, 3, 0)),
        ),
        (r#"{"usage":{"type":"duration","seconds":3},"text":"hi"}"#, None),
        (r#"{"usage":"none","eval_count":null,"prompt_eval_count":-1}"#, None),
        (r#"{"choices":[{"text":"\"eval_count\": 12 "}]}"#, None),
        ("no JSON at all", None),
    ];

    fn told(pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> Option<Tokens> {
        let mut tally = Tally::default();
        pieces.for_each(|piece| tally.push(piece.as_ref()));
        tally.usage().map(|usage| (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens))
    }

    #[test]
    fn every_dialect_is_understood_whole_and_byte_by_byte() {
        for (body, expected) in TOLD {
            assert_eq!(told([body].iter().map(|body| body.as_bytes())), *expected, "{body}");
            assert_eq!(told(body.as_bytes().chunks(1)), *expected, "byte by byte: {body}");
        }
    }

    #[test]
    fn a_report_is_found_wherever_a_large_body_is_cut() {
        let report = r#""usage":{"prompt_tokens":5,"completion_tokens":6}"#;
        let filler = "x".repeat(3 * MOST_HELD);
        let body = format!("{{\"data\":\"{filler}\",{report},\"more\":\"{filler}\"}}");
        let starts = filler.len() + 10..filler.len() + 10 + report.len() + 10;
        for at in starts {
            let (before, behind) = body.as_bytes().split_at(at);
            assert_eq!(told([before, behind].iter()), Some((5, 6, 0)), "cut at {at}");
            let small = before.chunks(1000).chain(behind.chunks(9000));
            assert_eq!(told(small), Some((5, 6, 0)), "cut at {at}, and again");
        }
    }

    #[test]
    fn little_is_held_whatever_comes() {
        let mut tally = Tally::default();
        let mut most = 0;
        let endless = "\"usage\":{\"a\":[".to_owned() + &"1,".repeat(20 * MOST_HELD);
        for piece in endless.as_bytes().chunks(512) {
            tally.push(piece);
            most = most.max(tally.held.len());
        }
        assert!(most <= MOST_HELD, "{most}");
        tally.push(b"]}, \"usage\":{\"prompt_tokens\":1}");
        assert_eq!(tally.usage().map(|usage| usage.input_tokens), Some(1));
    }

    #[test]
    fn events_and_lines_are_counted_wherever_they_are_cut() {
        let events = "data: {\"a\":1}\n\n: comment\n\nevent: x\ndata: {\"b\":2}\n\ndata: [DONE]\n\n";
        let lines = "{\"a\":\"d\"}\n{\"b\":2}\n{\"c\"";
        for size in 1..20 {
            let (mut of_events, mut of_lines) = (Tally::default(), Tally::default());
            events.as_bytes().chunks(size).for_each(|piece| of_events.push(piece));
            lines.as_bytes().chunks(size).for_each(|piece| of_lines.push(piece));
            assert_eq!((of_events.events(), of_events.bytes()), (2, events.len()), "{size}");
            assert_eq!(of_lines.lines(), 3, "{size}");
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(cuts in prop::collection::vec(1_usize..90, 1..12), which in 0..TOLD.len()) {
            let (body, expected) = TOLD[which];
            let mut rest = body.as_bytes();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            pieces.push(rest);
            prop_assert_eq!(told(pieces.iter()), expected);
        }
    }
}
