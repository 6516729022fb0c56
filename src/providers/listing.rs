//! The lists of models that servers of OpenAI's API give, and what they say of a model beyond its name. There is no common
//! form: each of these is one that servers in wide use have, and what none of them says stays unsaid.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::ModelCard;
use crate::llm::{Abilities, LenientCount, read_within};

/// Reads a list of models: OpenAI's object, one that calls the list otherwise, or the bare list. Rows that name no model are
/// left out.
///
/// # Errors
/// It is none; why not.
pub(super) fn read(provider: &str, answer: &[u8]) -> Result<Vec<ModelCard>, String> {
    Ok(cards(provider, rows(answer, ["data", "models"])?, card))
}

/// The rows of a list, which is an object's member under one of two names, or bare.
///
/// # Errors
/// There is no list.
pub(super) fn rows(answer: &[u8], names: [&str; 2]) -> Result<Vec<Value>, String> {
    let list = match read_within(answer)? {
        Value::Object(mut object) => {
            let mut list = |name: &str| object.shift_remove(name).filter(|list| !list.is_null());
            names.into_iter().find_map(&mut list).unwrap_or_else(|| Value::Array(Vec::new()))
        }
        other => other,
    };
    match list {
        Value::Array(rows) => Ok(rows),
        _ => Err("its list of models has no form that is known here".to_owned()),
    }
}

/// The cards of those rows that name a model. One warning is given for all of the others.
pub(super) fn cards(
    provider: &str,
    rows: Vec<Value>,
    card: impl Fn(Map<String, Value>) -> Option<ModelCard>,
) -> Vec<ModelCard> {
    let all = rows.len();
    let of_row = |row| match row {
        Value::Object(model) => card(model),
        // A bare name.
        Value::String(id) => Some(ModelCard { id, ..ModelCard::default() }),
        _ => None,
    };
    let cards: Vec<ModelCard> =
        rows.into_iter().filter_map(of_row).filter(|card| !card.id.trim().is_empty()).collect();
    if cards.len() < all {
        let left_out = all - cards.len();
        tracing::warn!(provider, left_out, "The list of models has rows that name none");
    }
    cards
}

/// The first of these members that is a text.
pub(super) fn name(model: &mut Map<String, Value>, names: [&str; 2]) -> Option<String> {
    names.into_iter().find_map(|name| match model.shift_remove(name)? {
        Value::String(text) if !text.trim().is_empty() => Some(text),
        _ => None,
    })
}

fn card(mut model: Map<String, Value>) -> Option<ModelCard> {
    let (context_tokens, abilities) = (context_tokens(&model), abilities(&model));
    let id = name(&mut model, ["id", "name"])?;
    let details = model.into_iter().filter(|(name, _)| name == "owned_by").collect();
    Some(ModelCard { id, context_tokens, abilities, details })
}

/// A number of tokens, also as a text or with a decimal point.
pub(super) fn tokens(value: &Value) -> Option<u64> {
    let LenientCount(tokens) = LenientCount::deserialize(value).ok()?;
    tokens.filter(|tokens| *tokens > 0)
}

/// The context size, under any of the names that servers give it.
fn context_tokens(model: &Map<String, Value>) -> Option<u64> {
    const NAMES: &[&str] =
        &["max_model_len", "context_length", "context_window", "max_context_length", "context_size"];
    // The size that an engine runs with goes before the one that its model was trained with.
    const OF_ENGINE: &[&str] = &["n_ctx", "n_ctx_train"];
    let (engine, provider) = (model.get("meta"), model.get("top_provider"));
    let stated = NAMES.iter().filter_map(|name| model.get(*name));
    let of_engine = OF_ENGINE.iter().filter_map(|name| engine?.get(*name));
    let of_provider = NAMES.iter().filter_map(|name| provider?.get(*name));
    stated.chain(of_engine).chain(of_provider).find_map(tokens)
}

/// What a model can do, as its entry in a list says.
fn abilities(model: &Map<String, Value>) -> Abilities {
    by_parameters(model).or(by_capabilities(model)).or(Abilities {
        output_tokens: model
            .get("max_completion_tokens")
            .or_else(|| model.get("max_output_tokens"))
            .or_else(|| model.get("top_provider")?.get("max_completion_tokens"))
            .and_then(tokens),
        ..Abilities::default()
    })
}

/// A list of the parameters that it takes, and one of what it reads.
fn by_parameters(model: &Map<String, Value>) -> Abilities {
    let takes = |names: &[&str]| Some(holds(model.get("supported_parameters")?, names));
    let reads = |names: &[&str]| Some(holds(model.get("architecture")?.get("input_modalities")?, names));
    Abilities {
        tools: takes(&["tools"]),
        response_format: takes(&["response_format", "structured_outputs"]),
        images: reads(&["image"]),
        reasoning: takes(&["reasoning", "include_reasoning", "reasoning_effort"]),
        output_tokens: None,
    }
}

/// Its capabilities as words, or each as a yes or no.
fn by_capabilities(model: &Map<String, Value>) -> Abilities {
    let can = |name: &str| match model.get("capabilities")? {
        Value::Object(each) => each.get(name)?.as_bool(),
        _ => None,
    };
    Abilities {
        tools: can("function_calling"),
        images: can("vision"),
        reasoning: can("reasoning"),
        ..Abilities::default()
    }
}

fn holds(list: &Value, names: &[&str]) -> bool {
    let mut words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    words.any(|word| names.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn abilities_are_read_from_the_forms_in_use() {
        let read = |model: Value| abilities(model.as_object().unwrap());
        let (yes, no) = (Some(true), Some(false));
        let by_parameters = json!({"supported_parameters": ["tools", "seed"],
            "architecture": {"input_modalities": ["text"]}, "top_provider": {"max_completion_tokens": 8192}});
        let expected = Abilities {
            tools: yes,
            response_format: no,
            images: no,
            reasoning: no,
            output_tokens: Some(8192),
        };
        assert_eq!(read(by_parameters), expected);
        let by_capabilities = json!({"capabilities": {"function_calling": false, "vision": true}});
        assert_eq!(read(by_capabilities), Abilities { tools: no, images: yes, ..Abilities::default() });
        let unsaid = json!({"id": "m", "max_completion_tokens": 0, "capabilities": ["completion"]});
        assert_eq!(read(unsaid), Abilities::default());
    }

    #[test]
    fn one_odd_row_loses_no_list() {
        for (list, names) in [
            (json!({"data": [{"id": "good"}, null, 7, [], {"id": 7}]}), vec!["good"]),
            (json!({"data": ["bare-one", "bare-two"]}), vec!["bare-one", "bare-two"]),
            (json!(["a", {"id": "b"}, "", " "]), vec!["a", "b"]),
            (json!({"data": null, "models": [{"name": "c"}]}), vec!["c"]),
            (json!([{"id": ""}, {"id": "  "}, {"id": "", "name": "d"}]), vec!["d"]),
        ] {
            let cards = read("p", list.to_string().as_bytes()).unwrap();
            assert_eq!(cards.iter().map(|card| card.id.as_str()).collect::<Vec<_>>(), names, "{list}");
        }
    }

    #[test]
    fn a_context_is_read_in_every_shape() {
        for model in [
            json!({"context_length": "131072"}),
            json!({"max_model_len": 131_072.0}),
            json!({"context_length": null, "top_provider": {"context_length": "131072.0"}}),
            json!({"context_window": {}, "meta": {"n_ctx": "131072"}}),
        ] {
            assert_eq!(context_tokens(model.as_object().unwrap()), Some(131_072), "{model}");
        }
        assert_eq!(context_tokens(json!({"context_length": "128k"}).as_object().unwrap()), None);
    }

    #[test]
    fn lists_of_models_are_read_with_their_context() {
        let list = json!([
            {"id": "vllm", "max_model_len": 512}, {"id": "llama", "meta": {"n_ctx_train": 2048, "n_ctx": 1024}},
            {"id": "trained", "meta": {"n_ctx_train": 2048}}, {"id": "router", "context_length": 9},
            {"id": "fast", "context_window": 8}, {"id": "other", "max_context_length": 7},
            {"id": "unknown", "context_length": 0, "context_window": 6}, {"id": "openai"}, {"object": "no id"},
            {"name": "named", "context_length": 5}]);
        let sizes = [
            ("vllm", Some(512)),
            ("llama", Some(1024)),
            ("trained", Some(2048)),
            ("router", Some(9)),
            ("fast", Some(8)),
            ("other", Some(7)),
            ("unknown", Some(6)),
            ("openai", None),
            ("named", Some(5)),
        ];
        let objects = [json!({"object": "list", "data": list}), json!({"models": list}), list.clone()];
        for answer in objects.iter().chain([&json!({"data": list, "models": [{"name": "other"}]})]) {
            let cards = read("p", answer.to_string().as_bytes()).unwrap();
            let shown: Vec<_> = cards.iter().map(|card| (card.id.as_str(), card.context_tokens)).collect();
            assert_eq!(shown, sizes, "{answer}");
        }
        assert_eq!(read("p", b"{}").unwrap(), []);
        assert!(
            read("p", b"<html>").is_err()
                && read("p", b"7").is_err()
                && read("p", br#"{"data": 7}"#).is_err()
        );
    }
}
