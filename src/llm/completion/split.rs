//! A whole answer as the chunks of a stream, for servers that do not stream though they were asked to.

use serde_json::{Map, Value};

use super::read_within;
use crate::llm::Frames;

/// The chunks that a whole answer comes to: one for its choices, and one for its usage. Whatever is no answer, an error
/// among others, is one chunk as it stands.
///
/// # Errors
/// It is no JSON object.
pub fn chunks_of(json: &[u8]) -> Result<Vec<Frames>, String> {
    let mut answer: Map<String, Value> = read_within(json)?;
    if let Some(object) = answer.get_mut("object")
        && object == "chat.completion"
    {
        *object = "chat.completion.chunk".into();
    }
    let choices = answer.get_mut("choices").and_then(Value::as_array_mut);
    choices.into_iter().flatten().filter_map(Value::as_object_mut).for_each(make_chunk);
    let usage = answer.shift_remove("usage").filter(|usage| !usage.is_null());
    let mut chunks = vec![framed(&answer)];
    if let Some(usage) = usage {
        answer.insert("choices".to_owned(), Value::Array(Vec::new()));
        answer.insert("usage".to_owned(), usage);
        chunks.push(framed(&answer));
    }
    Ok(chunks)
}

fn framed(chunk: &Map<String, Value>) -> Frames {
    // A map of values always serialises, on one line.
    Frames::of_json(&serde_json::to_vec(chunk).unwrap_or_default())
}

fn make_chunk(choice: &mut Map<String, Value>) {
    let Some(mut message) = choice.shift_remove("message") else { return };
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    let calls = calls.into_iter().flatten().filter_map(Value::as_object_mut);
    for (index, call) in calls.enumerate() {
        call.entry("index").or_insert_with(|| index.into());
    }
    choice.insert("delta".to_owned(), message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{Completion, Fold, RequestKind};
    use serde_json::json;

    #[test]
    fn folded_its_chunks_are_the_answer_again() {
        for (kind, choice) in [
            (
                RequestKind::Chat,
                json!({"index": 0, "message": {"role": "assistant", "content": "Hello",
                "tool_calls": [{"id": "a", "function": {"name": "f"}}, {"id": "b"}]}, "logprobs": null, "finish_reason": "stop"}),
            ),
            (
                RequestKind::Completion,
                json!({"index": 0, "text": "Hello", "logprobs": null, "finish_reason": "stop"}),
            ),
        ] {
            let object = if kind == RequestKind::Chat { "chat.completion" } else { "text_completion" };
            let answer = json!({"id": "c", "object": object, "choices": [choice],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2}});
            let mut fold = Fold::new(kind);
            let chunks = chunks_of(answer.to_string().as_bytes()).unwrap();
            assert_eq!(chunks.len(), 2);
            assert_eq!(chunks[1].read().usage_only.len(), 1);
            chunks.iter().for_each(|chunk| fold.push(chunk).unwrap());
            let Completion { body, .. } = fold.finish().unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), answer);
        }
    }

    #[test]
    fn an_error_stays_one() {
        let chunks = chunks_of(br#"{"error":{"message":"m"}}"#).unwrap();
        assert!(chunks.len() == 1 && chunks[0].read().trouble.is_some());
        assert!(chunks_of(b"<html>").is_err());
    }
}
