//! OpenAI's requests in Ollama's words.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::options;
use crate::llm::{ChatRequest, RequestKind, json_fault};
use crate::wire::Invalid;

/// A request for Ollama.
#[derive(Clone, Debug)]
pub struct Translated {
    /// Its body.
    pub body: Bytes,
    /// Options that Ollama cannot take, by OpenAI's names.
    pub ignored: Vec<String>,
    /// Other members that it does not know.
    pub dropped: Vec<String>,
}

/// Members that pass as they are.
const CARRIED: &[&str] = &[
    "tools",
    "keep_alive",
    "format",
    "think",
    "template",
    "truncate",
    "logprobs",
    "top_logprobs",
    "raw",
    "system",
    "suffix",
];

/// Members of OpenAI's that change the answer and that Ollama has no word for.
const OPTIONS: &[&str] = &[
    "n",
    "logit_bias",
    "tool_choice",
    "parallel_tool_calls",
    "modalities",
    "audio",
    "prediction",
    "verbosity",
    "web_search_options",
    "best_of",
    "echo",
    "service_tier",
    "store",
    "response_format",
];

/// Members that are done with, whatever they say.
const MEANINGLESS: &[&str] =
    &["model", "stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key"];

/// Puts a chat or completion request into Ollama's words. Streams are asked for as the caller wants.
///
/// # Errors
/// The request asks for what Ollama has no way to do.
pub fn generation_request(model: &str, request: &ChatRequest) -> Result<Translated, Invalid> {
    let mut rest: Map<String, Value> =
        serde_json::from_slice(request.body.text()).map_err(|error| Invalid::json(json_fault(&error)))?;
    let mut out = Map::new();
    out.insert("model".into(), model.into());
    match request.kind {
        RequestKind::Chat => {
            let messages = rest.shift_remove("messages").unwrap_or_default();
            out.insert("messages".into(), translated_messages(messages)?);
        }
        RequestKind::Completion => {
            out.insert("prompt".into(), single_prompt(rest.shift_remove("prompt"))?);
        }
    }
    out.insert("stream".into(), request.stream.into());
    let options = options::collect(&mut rest, &request.options);
    if !options.is_empty() {
        out.insert("options".into(), Value::Object(options));
    }
    if let Some(keep_alive) = request.options.get("keep_alive") {
        out.insert("keep_alive".into(), keep_alive.clone());
    }
    if let Some(format) = format_of(&mut rest)? {
        out.insert("format".into(), format);
    }
    if let Some(think) = rest.shift_remove("reasoning_effort").and_then(|effort| think_of(&effort)) {
        out.insert("think".into(), think);
    }
    if rest.get("tool_choice").is_some_and(|choice| choice == "none") {
        rest.shift_remove("tools");
    }
    for name in CARRIED {
        if let Some(value) = rest.shift_remove(*name).filter(|value| !value.is_null()) {
            out.insert((*name).to_owned(), value);
        }
    }
    let (ignored, dropped) = leftovers(rest);
    Ok(Translated { body: Value::Object(out).to_string().into(), ignored, dropped })
}

/// Sorts what is left of a request: options that would have changed the answer, and the rest.
fn leftovers(rest: Map<String, Value>) -> (Vec<String>, Vec<String>) {
    let matters = rest.into_iter().filter(|(name, value)| {
        let says_the_default = match name.as_str() {
            "n" | "best_of" => *value == 1,
            "tool_choice" => *value == "auto" || *value == "none",
            "parallel_tool_calls" => *value == true,
            "echo" | "store" => *value == false,
            _ => false,
        };
        !value.is_null() && !says_the_default && !MEANINGLESS.contains(&name.as_str())
    });
    matters.map(|(name, _)| name).partition(|name| OPTIONS.contains(&name.as_str()))
}

fn single_prompt(prompt: Option<Value>) -> Result<Value, Invalid> {
    match prompt {
        Some(Value::String(text)) => Ok(text.into()),
        Some(Value::Array(mut texts)) if texts.len() == 1 && texts.iter().all(Value::is_string) => {
            Ok(texts.pop().unwrap_or_default())
        }
        _ => Err(Invalid::unsupported("prompt", "this model takes one prompt, as a text")),
    }
}

/// `response_format` as Ollama's `format`. What is neither is left for the list of ignored options.
fn format_of(rest: &mut Map<String, Value>) -> Result<Option<Value>, Invalid> {
    let Some(wanted) = rest.get("response_format") else { return Ok(None) };
    let format = match wanted.get("type").and_then(Value::as_str) {
        Some("json_object") => Some("json".into()),
        Some("json_schema") => {
            let param = "response_format.json_schema.schema";
            let schema = wanted.pointer("/json_schema/schema").or_else(|| wanted.get("schema"));
            Some(schema.cloned().ok_or_else(|| Invalid::missing(param))?)
        }
        Some("text") => None,
        _ => return Ok(None),
    };
    rest.shift_remove("response_format");
    Ok(format)
}

fn think_of(effort: &Value) -> Option<Value> {
    match effort.as_str()? {
        "none" | "minimal" => Some(false.into()),
        level @ ("low" | "medium" | "high") => Some(level.into()),
        _ => None,
    }
}

fn translated_messages(messages: Value) -> Result<Value, Invalid> {
    let Value::Array(messages) = messages else { return Err(Invalid::missing("messages")) };
    let mut translated: Vec<Value> = Vec::with_capacity(messages.len());
    // Ollama wants the name of the tool that a result is from; OpenAI names the call.
    let mut calls: Vec<(String, String)> = Vec::new();
    for (index, message) in messages.into_iter().enumerate() {
        let Value::Object(message) = message else { continue };
        translated.push(translated_message(message, index, &mut calls)?);
    }
    Ok(Value::Array(translated))
}

fn translated_message(
    mut message: Map<String, Value>,
    index: usize,
    calls: &mut Vec<(String, String)>,
) -> Result<Value, Invalid> {
    let mut out = Map::new();
    let role = match message.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => "system",
        Some("tool" | "function") => "tool",
        Some("assistant") => "assistant",
        _ => "user",
    };
    out.insert("role".into(), role.into());
    let (text, images) = content_of(message.shift_remove("content").unwrap_or_default(), index)?;
    out.insert("content".into(), text.into());
    if !images.is_empty() {
        out.insert("images".into(), images.into());
    }
    let thinking = message.shift_remove("reasoning_content").or_else(|| message.shift_remove("reasoning"));
    if let Some(Value::String(thinking)) = thinking {
        out.insert("thinking".into(), thinking.into());
    }
    if let Some(Value::Array(made)) = message.shift_remove("tool_calls") {
        let made: Vec<Value> = made.iter().filter_map(|call| translated_call(call, calls)).collect();
        out.insert("tool_calls".into(), made.into());
    }
    if role == "tool" {
        let id = message.get("tool_call_id").and_then(Value::as_str);
        let known =
            calls.iter().rev().find(|(call, _)| Some(call.as_str()) == id).map(|(_, name)| name.as_str());
        if let Some(name) = known.or_else(|| message.get("name").and_then(Value::as_str)) {
            out.insert("tool_name".into(), name.into());
        }
        if let Some(id) = id {
            out.insert("tool_call_id".into(), id.into());
        }
    }
    Ok(Value::Object(out))
}

/// A call in the history: its arguments are an object at Ollama, a text at OpenAI.
fn translated_call(call: &Value, calls: &mut Vec<(String, String)>) -> Option<Value> {
    let function = call.get("function")?;
    let name = function.get("name")?.as_str()?;
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) => serde_json::from_str(text).ok().filter(Value::is_object),
        Some(Value::Object(object)) => Some(Value::Object(object.clone())),
        _ => None,
    };
    let mut out = Map::new();
    out.insert("function".into(), json!({"name": name, "arguments": arguments.unwrap_or_else(|| json!({}))}));
    if let Some(id) = call.get("id").and_then(Value::as_str) {
        calls.push((id.to_owned(), name.to_owned()));
        out.insert("id".into(), id.into());
    }
    Some(Value::Object(out))
}

/// The text of a message's content, and its images in base64.
fn content_of(content: Value, index: usize) -> Result<(String, Vec<String>), Invalid> {
    let parts = match content {
        Value::String(text) => return Ok((text, Vec::new())),
        Value::Array(parts) => parts,
        _ => return Ok((String::new(), Vec::new())),
    };
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for (part_index, part) in parts.into_iter().enumerate() {
        let place = format!("messages[{index}].content[{part_index}]");
        match part.get("type").and_then(Value::as_str) {
            None => texts.extend(part.as_str().map(str::to_owned)),
            Some("text" | "input_text" | "output_text" | "refusal") => {
                let text = part.get("text").or_else(|| part.get("refusal")).and_then(Value::as_str);
                texts.extend(text.map(str::to_owned));
            }
            Some("image_url" | "input_image") => {
                let url =
                    part.pointer("/image_url/url").or_else(|| part.get("image_url")).and_then(Value::as_str);
                images.push(inline_image(url.unwrap_or_default(), &place)?);
            }
            Some(_) => return Err(Invalid::unsupported(place, "this model takes text and images only")),
        }
    }
    Ok((texts.join("\n"), images))
}

fn inline_image(url: &str, place: &str) -> Result<String, Invalid> {
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    data.map(|(_, base64)| base64.to_owned()).ok_or_else(|| {
        Invalid::unsupported(place, "this model takes images only as data: URLs in base64, not by address")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::openai;

    fn translated(body: &Value) -> Result<(Value, Translated), Invalid> {
        let request = match body.get("prompt") {
            Some(_) => openai::completion_request(body.to_string().into()),
            None => openai::chat_request(body.to_string().into(), false),
        };
        let translated = generation_request("up", &request.unwrap())?;
        Ok((serde_json::from_slice(&translated.body).unwrap(), translated))
    }

    #[test]
    fn a_plain_chat_becomes_native() {
        let (body, translated) = translated(&json!({
            "model": "public", "stream": true, "stream_options": {"include_usage": true}, "user": "u",
            "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "temperature": 0.5, "max_completion_tokens": 9, "keep_alive": "5m", "logprobs": true, "top_logprobs": 2,
        }))
        .unwrap();

        assert_eq!(
            body,
            json!({
                "model": "up", "stream": true,
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
                "options": {"temperature": 0.5, "num_predict": 9}, "keep_alive": "5m", "logprobs": true, "top_logprobs": 2,
            })
        );
        assert!(translated.ignored.is_empty() && translated.dropped.is_empty());
    }

    #[test]
    fn tool_calls_and_results_keep_their_connection() {
        let (body, _) = translated(&json!({
            "model": "m",
            "messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\":\"Paris\"}"}},
                    {"id": "call_2", "type": "function", "function": {"name": "get_time", "arguments": ""}},
                ]},
                {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
                {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sun"}]},
            ],
            "tools": [{"type": "function", "function": {"name": "get_weather", "strict": true}}],
            "tool_choice": "auto",
        }))
        .unwrap();

        assert_eq!(
            body["messages"][1]["tool_calls"],
            json!([
                {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}, "id": "call_1"},
                {"function": {"name": "get_time", "arguments": {}}, "id": "call_2"},
            ])
        );
        assert_eq!(body["messages"][2]["tool_name"], "get_time");
        assert_eq!(
            body["messages"][3],
            json!({"role": "tool", "content": "sun", "tool_name": "get_weather", "tool_call_id": "call_1"})
        );
        assert_eq!(body["tools"][0]["function"]["strict"], true);
    }

    #[test]
    fn images_travel_inline_only() {
        let with = |url: &str| {
            translated(&json!({"model": "m", "messages": [{"role": "user", "content": [
                {"type": "text", "text": "What"}, {"type": "text", "text": "is it?"},
                {"type": "image_url", "image_url": {"url": url}}]}]}))
        };

        let (body, _) = with("data:image/png;base64,QUJD").unwrap();
        assert_eq!(
            body["messages"][0],
            json!({"role": "user", "content": "What\nis it?", "images": ["QUJD"]})
        );
        let error = with("https://example.org/x.png").unwrap_err();
        assert_eq!(error.param.as_deref(), Some("messages[0].content[2]"));
    }

    #[test]
    fn formats_and_reasoning_are_mapped() {
        let with = |name: &str, value: Value| {
            let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
            body[name] = value;
            translated(&body).unwrap().0
        };
        let schema = json!({"type": "object"});

        assert_eq!(with("response_format", json!({"type": "json_object"}))["format"], "json");
        let by_schema = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
        assert_eq!(with("response_format", by_schema)["format"], schema);
        assert_eq!(with("response_format", json!({"type": "text"})).get("format"), None);
        assert_eq!(with("reasoning_effort", json!("high"))["think"], "high");
        assert_eq!(with("reasoning_effort", json!("none"))["think"], false);
        assert_eq!(with("think", json!(true))["think"], true);
    }

    #[test]
    fn what_cannot_be_said_is_named() {
        let (body, translated) = translated(&json!({
            "model": "m", "messages": [{"role": "user", "content": "x"}],
            "n": 2, "logit_bias": {"1": 2}, "tool_choice": "required", "parallel_tool_calls": true,
            "store": false, "my_field": 1, "presence_penalty": 0.5,
        }))
        .unwrap();

        assert_eq!(translated.ignored, ["n", "logit_bias", "tool_choice"]);
        assert_eq!(translated.dropped, ["my_field"]);
        assert_eq!(body["options"], json!({"presence_penalty": 0.5}));
    }

    #[test]
    fn tools_are_not_offered_to_a_caller_who_wants_none() {
        let (body, _) = translated(&json!({"model": "m", "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function"}], "tool_choice": "none"}))
        .unwrap();
        assert_eq!(body.get("tools"), None);
    }

    #[test]
    fn completions_go_to_generate() {
        let (body, _) =
            translated(&json!({"model": "m", "prompt": ["Once"], "suffix": "end", "max_tokens": 3})).unwrap();
        assert_eq!(
            body,
            json!({"model": "up", "prompt": "Once", "stream": false, "options": {"num_predict": 3}, "suffix": "end"})
        );

        let request = openai::completion_request(r#"{"model":"m","prompt":["a","b"]}"#.into()).unwrap();
        assert_eq!(generation_request("up", &request).unwrap_err().param.as_deref(), Some("prompt"));
    }
}
