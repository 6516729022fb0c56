//! What the mock says and the load generator expects: texts, JSON, and the check of every answer.
//!
//! The model name alone says what comes, because that is the one thing every gateway passes on.

use std::io::Write;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;

/// The text of a whole answer: quotes, line ends, backslashes, and characters of one to four bytes.
pub const TEXT: &str = "Zażółć \"gęślą\" jaźń:\n\t1. Größe ≥ 5 €, 漢字 и кириллица;\n\t\
    2. C:\\temp\\a/b, 🦀 & <tag>;\n\t3. 'quoted', {\"json\": [1, 2]}, 100 % naïve café.\n\
    The rest is plain text, as nearly all answers are, up to a round size of bytes in all. :-)";
const _: () = assert!(TEXT.len() == 256);

/// The texts of content chunks, over and over.
const PIECES: [&str; 8] = [" The", " größ", "\n", " \"to", "ken\"", " 漢字", " \\n", " 🦀"];

const INPUT_TOKENS: u64 = 128;
const WHOLE_OUTPUT_TOKENS: u64 = 64;

/// How a streamed answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    pub chunks: usize,
    pub gap_ms: u64,
}

impl Pace {
    /// The pace that a model name asks for, or `None` where there is no such model.
    pub fn of_model(name: &str) -> Option<Pace> {
        if name == "whole" {
            return Some(Pace { chunks: 50, gap_ms: 0 });
        }
        let (chunks, gap_ms) = name.strip_prefix("chunks-")?.split_once("-gap-")?;
        Some(Pace { chunks: chunks.parse().ok()?, gap_ms: gap_ms.parse().ok()? })
    }
}

/// The body of a whole answer.
pub fn whole() -> Result<String> {
    let text = serde_json::to_string(TEXT)?;
    let usage = usage(WHOLE_OUTPUT_TOKENS);
    Ok(format!(
        r#"{{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench","choices":[{{"index":0,"message":{{"role":"assistant","content":{text}}},"logprobs":null,"finish_reason":"stop"}}],"usage":{usage}}}"#
    ))
}

/// A piece of a streamed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Role,
    /// Content with its number and the time it was sent at, which a gateway may have dropped.
    Content {
        number: usize,
        sent_ns: Option<u64>,
    },
    Finish,
    Usage {
        chunks: usize,
    },
    Done,
}

impl Event {
    /// Appends the event as it goes over the wire.
    pub fn write(self, output: &mut Vec<u8>) -> Result<()> {
        output.extend_from_slice(b"data: ");
        let (delta, finish) = match self {
            Event::Done => {
                output.extend_from_slice(b"[DONE]\n\n");
                return Ok(());
            }
            Event::Usage { chunks } => {
                start_chunk(output, None)?;
                write!(output, r#""choices":[],"usage":{}}}"#, usage(chunks as u64))?;
                output.extend_from_slice(b"\n\n");
                return Ok(());
            }
            Event::Role => (r#"{"role":"assistant","content":""}"#, "null"),
            Event::Content { number, .. } => (delta(number), "null"),
            Event::Finish => ("{}", r#""stop""#),
        };
        let sent_ns = if let Event::Content { sent_ns, .. } = self { sent_ns } else { None };
        start_chunk(output, sent_ns)?;
        write!(output, r#""choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#)?;
        output.extend_from_slice(b"\n\n");
        Ok(())
    }
}

fn start_chunk(output: &mut Vec<u8>, sent_ns: Option<u64>) -> Result<()> {
    output.extend_from_slice(br#"{"id":"chatcmpl-bench","object":"chat.completion.chunk","#);
    output.extend_from_slice(br#""created":1700000000,"model":"bench","#);
    if let Some(sent_ns) = sent_ns {
        write!(output, r#""sent_ns":{sent_ns},"#)?;
    }
    Ok(())
}

fn piece(number: usize) -> &'static str {
    PIECES.get(number % PIECES.len()).copied().unwrap_or_default()
}

/// The same as JSON, made once, because the mock must not be what limits.
fn delta(number: usize) -> &'static str {
    static DELTAS: LazyLock<[String; PIECES.len()]> =
        LazyLock::new(|| PIECES.map(|piece| json!({ "content": piece }).to_string()));
    DELTAS.get(number % PIECES.len()).map_or("{}", String::as_str)
}

fn usage(output_tokens: u64) -> String {
    let total = INPUT_TOKENS + output_tokens;
    format!(
        r#"{{"prompt_tokens":{INPUT_TOKENS},"completion_tokens":{output_tokens},"total_tokens":{total}}}"#
    )
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    sent_ns: Option<u64>,
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(alias = "delta")]
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

impl Usage {
    fn check(&self, output_tokens: u64) -> Result<()> {
        let right = self.prompt_tokens == INPUT_TOKENS
            && self.completion_tokens == output_tokens
            && self.total_tokens == INPUT_TOKENS + output_tokens;
        ensure!(right, "wrong usage");
        Ok(())
    }
}

/// Says what is wrong with a whole answer.
pub fn check_whole(body: &[u8]) -> Result<()> {
    let answer: Answer = serde_json::from_slice(body).context("not a chat completion")?;
    let [choice] = answer.choices.as_slice() else { bail!("not one choice") };
    ensure!(choice.message.content.as_deref() == Some(TEXT), "wrong text");
    ensure!(choice.finish_reason.as_deref() == Some("stop"), "wrong finish reason");
    answer.usage.context("no usage")?.check(WHOLE_OUTPUT_TOKENS)
}

/// Follows a streamed answer and says what is wrong with it.
pub struct StreamCheck {
    expected_chunks: usize,
    chunks: usize,
    finished: bool,
    counted: bool,
    done: bool,
}

impl StreamCheck {
    pub fn new(expected_chunks: usize) -> StreamCheck {
        StreamCheck { expected_chunks, chunks: 0, finished: false, counted: false, done: false }
    }

    /// Takes one line of the stream; `None` for those without data.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Event>> {
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(None) };
        ensure!(!self.done, "data behind the end mark");
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return Ok(Some(Event::Done));
        }
        let answer: Answer = serde_json::from_slice(data).context("not a chunk")?;
        if let Some(usage) = answer.usage {
            usage.check(self.expected_chunks as u64)?;
            self.counted = true;
        }
        match answer.choices.as_slice() {
            [] => Ok(Some(Event::Usage { chunks: self.chunks })),
            [choice] => self.choice(choice, answer.sent_ns).map(Some),
            _ => bail!("more than one choice"),
        }
    }

    fn choice(&mut self, choice: &Choice, sent_ns: Option<u64>) -> Result<Event> {
        if let Some(reason) = &choice.finish_reason {
            ensure!(reason == "stop" && !self.finished, "wrong finish reason");
            self.finished = true;
            return Ok(Event::Finish);
        }
        let text = choice.message.content.as_deref().unwrap_or_default();
        if text.is_empty() {
            return Ok(Event::Role);
        }
        let number = self.chunks;
        ensure!(text == piece(number) && !self.finished, "wrong text in chunk {number}");
        self.chunks += 1;
        Ok(Event::Content { number, sent_ns })
    }

    /// Says what is missing now that the stream has ended.
    pub fn end(&self) -> Result<()> {
        ensure!(self.chunks == self.expected_chunks, "{} chunks", self.chunks);
        ensure!(self.finished, "no finish reason");
        ensure!(self.counted, "no usage");
        ensure!(self.done, "no end mark");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(chunks: usize) -> Vec<Event> {
        let mut events = vec![Event::Role];
        events.extend((0..chunks).map(|number| Event::Content { number, sent_ns: Some(number as u64 + 7) }));
        events.extend([Event::Finish, Event::Usage { chunks }, Event::Done]);
        events
    }

    fn check(events: &[Event], chunks: usize) -> Result<Vec<Event>> {
        let mut text = Vec::new();
        events.iter().try_for_each(|event| event.write(&mut text))?;
        let mut check = StreamCheck::new(chunks);
        let mut seen = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            seen.extend(check.line(line)?);
        }
        check.end()?;
        Ok(seen)
    }

    #[test]
    fn a_right_stream_is_read_as_it_was_written() {
        assert_eq!(check(&stream(20), 20).unwrap(), stream(20));
    }

    #[test]
    fn every_piece_of_a_stream_is_missed() {
        for missing in 1..stream(9).len() {
            let mut events = stream(9);
            events.remove(missing);
            assert!(check(&events, 9).is_err(), "without event {missing}");
        }
        let mut events = stream(9);
        events.swap(2, 3);
        assert!(check(&events, 9).is_err());
        assert!(check(&stream(9), 8).is_err());
    }

    #[test]
    fn whole_answers_are_checked() {
        let body = whole().unwrap();
        check_whole(body.as_bytes()).unwrap();
        for (from, to) in [("漢", "汉"), ("stop", "length"), ("192", "193"), ("\"usage\"", "\"other\"")] {
            assert!(body.contains(from) && check_whole(body.replace(from, to).as_bytes()).is_err(), "{from}");
        }
    }

    #[test]
    fn model_names_give_the_pace() {
        assert_eq!(Pace::of_model("chunks-50-gap-20"), Some(Pace { chunks: 50, gap_ms: 20 }));
        assert!(["chunks-50", "chunks-x-gap-1", "gpt", ""].iter().all(|name| Pace::of_model(name).is_none()));
    }
}
