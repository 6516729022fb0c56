//! Ollama's answers, line by line, as OpenAI's chunks. A whole answer is one line.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::llm::{Frames, LenientCount, RequestKind, Usage, read_within, unique_id, without_byte_order_mark};
use crate::wire::openai::{ChunkWriter, Delta};

/// Turns the lines of one answer into chunks.
#[derive(Debug)]
pub struct LineDecoder {
    writer: ChunkWriter,
    /// Tool calls so far: each has a position among them.
    tool_calls: usize,
}

/// A line that is no part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineFault {
    /// The server says that it failed, in these words.
    Reported(String),
    /// Not what the protocol has in this place.
    Unreadable(String),
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    message: Option<Message>,
    /// The text of `/api/generate`.
    #[serde(default)]
    response: Option<String>,
    /// The reasoning of `/api/generate`.
    #[serde(default)]
    thinking: Option<String>,
    #[serde(default)]
    logprobs: Option<Value>,
    #[serde(default)]
    done: bool,
    #[serde(default)]
    done_reason: Option<String>,
    #[serde(default)]
    prompt_eval_count: LenientCount,
    #[serde(default)]
    eval_count: LenientCount,
}

#[derive(Default, Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    thinking: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Deserialize)]
struct ToolCall {
    #[serde(default)]
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    arguments: Value,
}

impl LineDecoder {
    /// A decoder for the answer to a request of this kind by this model.
    pub fn new(kind: RequestKind, model: &str) -> Self {
        Self { writer: ChunkWriter::new(kind, model), tool_calls: 0 }
    }

    /// The chunks that a line means; `None` for one that means nothing.
    ///
    /// # Errors
    /// The line reports a failure, or cannot be read.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Frames>, LineFault> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let line: Line = read_within(without_byte_order_mark(line)).map_err(LineFault::Unreadable)?;
        if let Some(error) =
            line.error.filter(|error| !matches!(error, Value::Null | Value::Bool(false)) && error != "")
        {
            return Err(LineFault::Reported(error.to_string()));
        }
        let mut chunks = Vec::new();
        let message = line.message.unwrap_or_default();
        let content = message.content.or(line.response).filter(|text| !text.is_empty());
        let thinking = message.thinking.or(line.thinking).filter(|text| !text.is_empty());
        let tool_calls: Vec<Value> =
            message.tool_calls.unwrap_or_default().into_iter().map(|call| self.tool_call(call)).collect();
        if content.is_some() || thinking.is_some() || !tool_calls.is_empty() {
            let delta =
                Delta { content: content.as_deref(), reasoning_content: thinking.as_deref(), tool_calls };
            chunks.push(self.writer.delta(delta, line.logprobs.map(|tokens| json!({"content": tokens}))));
        }
        if line.done {
            chunks.push(self.writer.finish(self.finish_reason(line.done_reason.as_deref())));
            let usage = Usage::of_counts(line.prompt_eval_count.0, line.eval_count.0);
            chunks.extend(usage.map(|usage| self.writer.usage(&usage)));
        }
        Ok(joined(&chunks))
    }

    fn tool_call(&mut self, call: ToolCall) -> Value {
        let index = self.tool_calls;
        self.tool_calls += 1;
        let arguments = match call.function.arguments {
            Value::String(text) => text,
            Value::Null => "{}".to_owned(),
            arguments => arguments.to_string(),
        };
        json!({
            "index": index,
            "id": call.id.filter(|id| !id.is_empty()).unwrap_or_else(|| unique_id("call_")),
            "type": "function",
            "function": {"name": call.function.name, "arguments": arguments},
        })
    }

    fn finish_reason(&self, reason: Option<&str>) -> &'static str {
        match reason {
            Some("length") => "length",
            // Ollama says "stop" after a tool call, too.
            _ if self.tool_calls > 0 => "tool_calls",
            _ => "stop",
        }
    }
}

fn joined(chunks: &[Frames]) -> Option<Frames> {
    match chunks {
        [] => None,
        [one] => Some(one.clone()),
        several => {
            let mut bytes = BytesMut::with_capacity(several.iter().map(|chunk| chunk.bytes().len()).sum());
            several.iter().for_each(|chunk| bytes.put_slice(chunk.bytes()));
            Some(Frames::of_events(Bytes::from(bytes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(lines: &[&str]) -> Vec<Value> {
        let mut decoder = LineDecoder::new(RequestKind::Chat, "m");
        let frames = lines.iter().filter_map(|line| decoder.line(line.as_bytes()).unwrap());
        let chunks: Vec<Frames> = frames.collect();
        chunks.iter().flat_map(Frames::jsons).map(|json| serde_json::from_slice(json).unwrap()).collect()
    }

    #[test]
    fn text_thinking_end_and_usage_become_chunks() {
        let chunks = decoded(&[
            r#"{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}"#,
            r#"{"message":{"role":"assistant","content":"żółw"},"done":false,"logprobs":[{"token":"ż"}]}"#,
            "",
            r#"{"message":{"role":"assistant","content":""},"done":true,"done_reason":"length","prompt_eval_count":4.0,"eval_count":2}"#,
        ]);

        let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
        assert_eq!(*deltas[0], json!({"role": "assistant", "reasoning_content": "hm"}));
        assert_eq!(*deltas[1], json!({"content": "żółw"}));
        assert_eq!(chunks[1]["choices"][0]["logprobs"], json!({"content": [{"token": "ż"}]}));
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "length");
        assert_eq!(chunks[3]["usage"]["total_tokens"], 6);
        assert_eq!(chunks[3]["choices"], json!([]));
    }

    #[test]
    fn tool_calls_get_positions_ids_and_text_arguments() {
        let call = |id: &str| {
            format!(
                r#"{{"message":{{"content":"","tool_calls":[{{{id}"function":{{"name":"f","arguments":{{"a":1}}}}}}]}},"done":false}}"#
            )
        };
        let chunks = decoded(&[
            &call(r#""id":"call_x","#),
            &call(""),
            r#"{"message":{"content":""},"done":true,"done_reason":"stop"}"#,
        ]);

        let first = &chunks[0]["choices"][0]["delta"]["tool_calls"][0];
        assert_eq!(
            *first,
            json!({"index": 0, "id": "call_x", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}})
        );
        let second = &chunks[1]["choices"][0]["delta"]["tool_calls"][0];
        assert_eq!(second["index"], 1);
        assert!(second["id"].as_str().unwrap().starts_with("call_"));
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "tool_calls");
    }

    #[test]
    fn counts_that_are_not_told_are_not_zero() {
        let chunks = decoded(&[r#"{"message":{"content":"x"},"done":true}"#]);
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
        let chunks =
            decoded(&[r#"{"message":{"content":"x"},"done":true,"eval_count":7,"prompt_eval_count":null}"#]);
        assert_eq!(chunks[2]["usage"], json!({"completion_tokens": 7}));
    }

    #[test]
    fn a_reported_failure_is_no_chunk() {
        let mut decoder = LineDecoder::new(RequestKind::Chat, "m");
        assert_eq!(decoder.line(br#"{"error":"boom"}"#), Err(LineFault::Reported("\"boom\"".to_owned())));
        assert!(matches!(decoder.line(b"<html>"), Err(LineFault::Unreadable(_))));
    }

    #[test]
    fn generate_speaks_of_response() {
        let mut decoder = LineDecoder::new(RequestKind::Completion, "m");
        let frames = decoder.line(br#"{"response":"x","done":true,"done_reason":"stop"}"#).unwrap().unwrap();
        let first: Value = serde_json::from_slice(frames.jsons().next().unwrap()).unwrap();
        assert_eq!(
            (&first["object"], &first["choices"][0]["text"]),
            (&json!("text_completion"), &json!("x"))
        );
    }
}
