//! Generation options in Ollama's words.

use serde_json::{Map, Value};

use crate::llm::Options;

/// OpenAI's and the gateway's names, and Ollama's, all of which go into `options`.
const NAMES: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("typical_p", "typical_p"),
    ("seed", "seed"),
    ("stop", "stop"),
    ("max_tokens", "num_predict"),
    ("max_completion_tokens", "num_predict"),
    ("max_new_tokens", "num_predict"),
    ("presence_penalty", "presence_penalty"),
    ("frequency_penalty", "frequency_penalty"),
    ("repetition_penalty", "repeat_penalty"),
    ("repeat_penalty", "repeat_penalty"),
    ("num_ctx", "num_ctx"),
];

/// Takes everything that belongs into Ollama's `options` out of a request: the member `options`, the
/// members that OpenAI has for the same, and what the gateway's own endpoints say. The latter win over
/// the former.
pub(super) fn collect(body: &mut Map<String, Value>, options: &Options) -> Map<String, Value> {
    let mut collected = match body.shift_remove("options") {
        Some(Value::Object(options)) => options,
        _ => Map::new(),
    };
    for (name, theirs) in NAMES {
        if let Some(value) = body.shift_remove(*name).filter(|value| !value.is_null()) {
            collected.insert((*theirs).to_owned(), value);
        }
    }
    for (name, value) in options.iter().filter(|(name, _)| *name != "keep_alive") {
        let theirs = NAMES.iter().find(|(ours, _)| *ours == name).map_or(name, |(_, theirs)| theirs);
        // What the caller says in the request's own words is the nearer to the caller.
        collected.entry(theirs).or_insert_with(|| value.clone());
    }
    if let Some(stop) = collected.get_mut("stop")
        && stop.is_string()
    {
        *stop = Value::Array(vec![stop.take()]);
    }
    collected
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_from_all_three_places_are_joined() {
        let mut body = json!({"model": "m", "temperature": 0.5, "max_tokens": 9, "stop": "x", "seed": null,
            "options": {"num_ctx": 4096, "temperature": 0.1, "mirostat": 1}});
        let mut options = Options::default();
        options.set("top_k", 3);
        options.set("temperature", 0.9);
        options.set("repetition_penalty", 1.1);
        options.set("keep_alive", "5m");
        options.set("num_gpu", 7);

        let collected = collect(body.as_object_mut().unwrap(), &options);

        assert_eq!(
            Value::Object(collected),
            json!({"num_ctx": 4096, "temperature": 0.5, "mirostat": 1, "stop": ["x"], "num_predict": 9,
                "top_k": 3, "repeat_penalty": 1.1, "num_gpu": 7})
        );
        assert_eq!(body, json!({"model": "m"}));
    }
}
