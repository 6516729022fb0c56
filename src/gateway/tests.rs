//! Conversations become requests.

mod keyed;
mod lists;

use super::*;
use crate::prompts::{Language, Wanted};

fn conversation(opening: Opening) -> Conversation {
    let mut options = Options::default();
    options.set("temperature", 0.1);
    Conversation {
        model: "m".to_owned(),
        opening,
        history: vec![(Role::User, "a".to_owned()), (Role::Assistant, "b".to_owned())],
        statement: "c".to_owned(),
        stream: false,
        options,
    }
}

#[test]
fn prompt_history_and_statement_come_in_this_order() {
    let request = conversation(Opening::Text("Be brief.".to_owned())).into_request(None);
    let body: Value = serde_json::from_slice(request.body.text()).unwrap();
    assert_eq!(
        body["messages"],
        json!([
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},
        ])
    );
}

#[test]
fn a_prompts_own_options_yield_to_the_callers() {
    let language = Language::parse("en").unwrap();
    let config = json!({"temperature": 0.9, "maxOutputTokens": 7});
    let prompt = Rendered {
        text: "Hello".to_owned(),
        name: "p".to_owned(),
        label: None,
        language: language.clone(),
        requested_language: language,
        fallback: false,
        version: None,
        config: config.as_object().cloned().unwrap(),
    };
    let opening = Opening::Prompt {
        name: "p".to_owned(),
        variables: Map::new(),
        wanted: Wanted::default(),
        offers: Vec::new(),
    };

    let request = conversation(opening).into_request(Some(&prompt));

    assert_eq!(request.options.get("temperature"), Some(&json!(0.1)));
    assert_eq!(request.options.get("max_tokens"), Some(&json!(7)));
    assert_eq!(request.max_output_tokens, Some(7));
}
