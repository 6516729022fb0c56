//! The lists of models that servers of OpenAI's API give, and what they say of a model beyond its name. There is no common
//! form: each of these is one that servers in wide use have, and what none of them says stays unsaid.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::ModelCard;
use crate::llm::{Abilities, json_fault};

/// OpenAI's object, one that calls the list otherwise, or the bare list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listing {
    Bare(Vec<Map<String, Value>>),
    Object {
        #[serde(default)]
        data: Option<Vec<Map<String, Value>>>,
        #[serde(default)]
        models: Option<Vec<Map<String, Value>>>,
    },
}

/// Reads a list of models.
///
/// # Errors
/// It is none; why not.
pub(super) fn read(answer: &[u8]) -> Result<Vec<ModelCard>, String> {
    // Read as JSON first: an untagged form would not say where a text stops to be JSON.
    let answer: Value = serde_json::from_slice(answer).map_err(|error| json_fault(&error))?;
    let models = match Listing::deserialize(answer) {
        Ok(Listing::Bare(models)) => models,
        Ok(Listing::Object { data, models }) => data.or(models).unwrap_or_default(),
        Err(_) => return Err("its list of models has no form that is known here".to_owned()),
    };
    Ok(models.into_iter().filter_map(card).collect())
}

fn card(mut model: Map<String, Value>) -> Option<ModelCard> {
    let (context_tokens, abilities) = (context_tokens(&model), abilities(&model));
    let Some(Value::String(id)) = model.shift_remove("id").or_else(|| model.shift_remove("name")) else {
        return None;
    };
    let details = model.into_iter().filter(|(name, _)| name == "owned_by").collect();
    Some(ModelCard { id, context_tokens, abilities, details })
}

/// The context size, under any of the names that servers give it.
fn context_tokens(model: &Map<String, Value>) -> Option<u64> {
    const NAMES: &[&str] =
        &["max_model_len", "context_length", "context_window", "max_context_length", "context_size"];
    // The size that an engine runs with goes before the one that its model was trained with.
    const OF_ENGINE: &[&str] = &["n_ctx", "n_ctx_train"];
    let size = |value: &Value| value.as_u64().filter(|tokens| *tokens > 0);
    let engine = model.get("meta");
    let stated = NAMES.iter().filter_map(|name| model.get(*name));
    let of_engine = OF_ENGINE.iter().filter_map(|name| engine?.get(*name));
    stated.chain(of_engine).find_map(size)
}

/// What a model can do, as its entry in a list says.
fn abilities(model: &Map<String, Value>) -> Abilities {
    by_parameters(model).or(by_capabilities(model)).or(Abilities {
        output_tokens: model
            .get("max_completion_tokens")
            .or_else(|| model.get("max_output_tokens"))
            .or_else(|| model.get("top_provider")?.get("max_completion_tokens"))
            .and_then(Value::as_u64)
            .filter(|tokens| *tokens > 0),
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
        output_tokens: None,
    }
}

/// Its capabilities as words, or each as a yes or no.
fn by_capabilities(model: &Map<String, Value>) -> Abilities {
    let can = |name: &str| match model.get("capabilities")? {
        Value::Object(each) => each.get(name)?.as_bool(),
        _ => None,
    };
    Abilities { tools: can("function_calling"), images: can("vision"), ..Abilities::default() }
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
        let expected = Abilities { tools: yes, response_format: no, images: no, output_tokens: Some(8192) };
        assert_eq!(read(by_parameters), expected);
        let by_capabilities = json!({"capabilities": {"function_calling": false, "vision": true}});
        assert_eq!(read(by_capabilities), Abilities { tools: no, images: yes, ..Abilities::default() });
        let unsaid = json!({"id": "m", "max_completion_tokens": 0, "capabilities": ["completion"]});
        assert_eq!(read(unsaid), Abilities::default());
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
            let cards = read(answer.to_string().as_bytes()).unwrap();
            let shown: Vec<_> = cards.iter().map(|card| (card.id.as_str(), card.context_tokens)).collect();
            assert_eq!(shown, sizes, "{answer}");
        }
        assert_eq!(read(b"{}").unwrap(), []);
        assert!(read(b"<html>").is_err() && read(b"7").is_err() && read(br#"{"data": 7}"#).is_err());
    }
}
