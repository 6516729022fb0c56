//! The body of a question for a number of tokens: texts, or a conversation as a chat has it.

use bytes::Bytes;

use super::request::{chat_request, given, model, object};
use crate::llm::CountRequest;
use crate::wire::Invalid;

/// So many texts are counted at once.
const MOST_TEXTS: usize = 256;

/// Reads it.
///
/// # Errors
/// What is wrong with it, and where.
pub fn count_request(body: Bytes) -> Result<CountRequest, Invalid> {
    let object = object(body)?;
    let model = model(&object)?;
    let Some(input) = given(&object, "input") else {
        if given(&object, "messages").is_none() {
            return Err(Invalid::missing("input"));
        }
        let chat = chat_request(object.text().clone(), false)?;
        return Ok(CountRequest { model, prompts: vec![chat], is_list: false });
    };
    for beside in ["messages", "tools"] {
        if given(&object, beside).is_some() {
            let message =
                format!("give either `input` or `messages`, with which `tools` go; `{beside}` is too much");
            return Err(Invalid::value(beside, message));
        }
    }
    if let Ok(text) = serde_json::from_slice::<String>(input) {
        return Ok(CountRequest::of_texts(model, vec![text], false));
    }
    let must = |what: &str| Invalid::value("input", format!("`input` must {what}"));
    let texts: Vec<String> =
        serde_json::from_slice(input).map_err(|_| must("be a text or a list of texts"))?;
    if texts.is_empty() {
        return Err(must("not be empty"));
    }
    if texts.len() > MOST_TEXTS {
        return Err(must(&format!("hold at most {MOST_TEXTS} texts")));
    }
    Ok(CountRequest::of_texts(model, texts, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::RequestKind;
    use serde_json::{Value, json};

    fn read(body: &Value) -> Result<CountRequest, Invalid> {
        count_request(body.to_string().into())
    }

    #[test]
    fn texts_and_conversations_are_read() {
        let one = read(&json!({"model": "m", "input": "a", "messages": null})).unwrap();
        assert_eq!((one.model.as_str(), one.prompts.len(), one.is_list), ("m", 1, false));
        let some = read(&json!({"model": "m", "input": ["a", ""]})).unwrap();
        assert_eq!((some.prompts.len(), some.is_list), (2, true));
        let chat = read(&json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": []}))
            .unwrap();
        assert_eq!((chat.prompts[0].kind, chat.is_list), (RequestKind::Chat, false));
    }

    #[test]
    fn what_cannot_be_counted_is_named() {
        let message = json!({"role": "user", "content": "x"});
        for (body, param) in [
            (json!({"input": "a"}), "model"),
            (json!({"model": "m"}), "input"),
            (json!({"model": "m", "input": []}), "input"),
            (json!({"model": "m", "input": [1, 2]}), "input"),
            (json!({"model": "m", "input": vec![""; 257]}), "input"),
            (json!({"model": "m", "input": "a", "messages": [message]}), "messages"),
            (json!({"model": "m", "input": "a", "tools": []}), "tools"),
            (json!({"model": "m", "messages": []}), "messages"),
            (json!({"model": "m", "messages": [{"role": "boss"}]}), "messages[0].role"),
            (json!({"model": "m", "messages": [message], "tools": 3}), "tools"),
        ] {
            assert_eq!(read(&body).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
        assert!(read(&json!({"model": "m", "input": vec![""; 256]})).is_ok());
    }
}
