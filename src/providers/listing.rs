//! What servers say of a model in their lists, beyond its name. There is no common form: each of these is one that
//! servers in wide use have, and what none of them says stays unsaid.

use serde_json::{Map, Value};

use crate::llm::Abilities;

/// What a model can do, as its entry in a list says.
pub(super) fn abilities(model: &Map<String, Value>) -> Abilities {
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
}
