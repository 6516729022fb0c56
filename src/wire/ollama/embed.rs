//! Embeddings by `/api/embed`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::llm::{EmbedRequest, Embeddings, LenientCount, Usage, json_fault, read_lenient};
use crate::wire::Invalid;

/// Puts a request for embeddings into Ollama's words.
///
/// # Errors
/// The input is not text, which is all that Ollama takes.
pub fn embed_request(model: &str, request: &EmbedRequest) -> Result<Bytes, Invalid> {
    let mut body: Map<String, Value> =
        serde_json::from_slice(request.body.text()).map_err(|error| Invalid::json(json_fault(&error)))?;
    let input = body.shift_remove("input").unwrap_or_default();
    let is_text = match &input {
        Value::String(_) => true,
        Value::Array(items) => items.iter().all(Value::is_string),
        _ => false,
    };
    if !is_text {
        return Err(Invalid::unsupported("input", "this model takes texts, not lists of tokens"));
    }
    let mut out = Map::new();
    out.insert("model".into(), model.into());
    out.insert("input".into(), input);
    for name in ["dimensions", "truncate", "keep_alive", "options"] {
        if let Some(value) = body.shift_remove(name).filter(|value| !value.is_null()) {
            out.insert(name.to_owned(), value);
        }
    }
    Ok(Value::Object(out).to_string().into())
}

#[derive(Deserialize)]
struct Answer {
    embeddings: Vec<Vec<f32>>,
    #[serde(default)]
    prompt_eval_count: LenientCount,
}

/// Puts Ollama's answer into OpenAI's words: with numbers, or in base64 where the caller wants that.
///
/// # Errors
/// It cannot be read.
pub fn embed_answer(model: &str, request: &EmbedRequest, answer: &[u8]) -> Result<Embeddings, String> {
    let answer: Answer = read_lenient(answer)?;
    let in_base64 = request.body.get("encoding_format") == Some(b"\"base64\"");
    let data: Vec<Value> = answer
        .embeddings
        .iter()
        .enumerate()
        .map(|(index, numbers)| embedding(index, numbers, in_base64))
        .collect();
    let estimate = || request.body.get("input").map_or(0, Usage::estimated_prompt);
    let tokens = answer.prompt_eval_count.0.unwrap_or_else(estimate);
    let body = json!({
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    });
    let usage = answer.prompt_eval_count.0.map(|input_tokens| Usage { input_tokens, ..Usage::default() });
    Ok(Embeddings { body: body.to_string().into(), usage })
}

/// One embedding in OpenAI's list.
pub(crate) fn embedding(index: usize, numbers: &[f32], in_base64: bool) -> Value {
    let numbers: Value = if in_base64 {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        STANDARD.encode(bytes).into()
    } else {
        json!(numbers)
    };
    json!({"object": "embedding", "index": index, "embedding": numbers})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::openai;

    fn request(body: &Value) -> EmbedRequest {
        openai::embed_request(body.to_string().into()).unwrap()
    }

    #[test]
    fn texts_pass_and_tokens_do_not() {
        let texts = request(&json!({"model": "m", "input": ["a", "b"], "dimensions": 8, "user": "u"}));
        let body: Value = serde_json::from_slice(&embed_request("up", &texts).unwrap()).unwrap();
        assert_eq!(body, json!({"model": "up", "input": ["a", "b"], "dimensions": 8}));

        let tokens = request(&json!({"model": "m", "input": [1, 2]}));
        assert_eq!(embed_request("up", &tokens).unwrap_err().param.as_deref(), Some("input"));
    }

    #[test]
    fn answers_come_as_numbers_or_in_base64() {
        let answer = br#"{"embeddings":[[0.5,-1.0]],"prompt_eval_count":3}"#;
        let read = |format: &str| {
            let request = request(&json!({"model": "m", "input": "a", "encoding_format": format}));
            let answer = embed_answer("up", &request, answer).unwrap();
            assert_eq!(answer.usage.map(|usage| usage.input_tokens), Some(3));
            serde_json::from_slice::<Value>(&answer.body).unwrap()
        };

        assert_eq!(
            read("float")["data"][0],
            json!({"object": "embedding", "index": 0, "embedding": [0.5, -1.0]})
        );
        assert_eq!(read("base64")["data"][0]["embedding"], "AAAAPwAAgL8=");
        assert_eq!(read("float")["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    }

    #[test]
    fn a_count_that_is_missing_is_estimated() {
        let request = request(&json!({"model": "m", "input": "four words of text"}));
        for count in ["", r#","prompt_eval_count":null"#, r#","prompt_eval_count":-3"#] {
            let answer = format!(r#"{{"embeddings":[[0.5]]{count}}}"#);
            let answer = embed_answer("up", &request, answer.as_bytes()).unwrap();
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(answer.usage, None, "{count}");
            assert_eq!(body["usage"]["prompt_tokens"], Usage::estimated_prompt(b"\"four words of text\""));
        }
    }
}
