//! What stands before everything that is said: a prompt of the library, or a text of the caller's.

use serde_json::{Map, Value, json};

use crate::llm::{Change, ChatRequest, Options, RawObject};
use crate::prompts::{PromptError, PromptLibrary, Rendered, Wanted};

/// Where the system prompt of a conversation comes from.
#[derive(Clone, Debug)]
pub enum Opening {
    /// The library.
    Prompt {
        /// `name` or `name@label`.
        name: String,
        /// For the prompt's template. The prompt must take all of them.
        variables: Map<String, Value>,
        /// The languages that would do.
        wanted: Wanted,
        /// What else the request can tell the prompt.
        offers: Vec<Offer>,
    },
    /// The caller.
    Text(String),
}

/// Something that a request says for whatever prompt is used, which may have a variable for it or not.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The variable's names: the usual one, and those that prompts of older systems have.
    pub names: &'static [&'static str],
    /// Its value. One of the caller's own variables of that name counts more.
    pub value: Value,
    /// Whether a prompt without such a variable gets the value as a text behind its own.
    pub or_behind: bool,
}

impl Offer {
    /// For prompts that have the variable, and for no others.
    pub fn variable(names: &'static [&'static str], value: impl Into<Value>) -> Self {
        Self { names, value: value.into(), or_behind: false }
    }

    /// A text that every prompt gets, in its variable or behind its own text.
    pub fn said(names: &'static [&'static str], text: &str) -> Self {
        Self { names, value: text.into(), or_behind: true }
    }
}

impl Opening {
    /// The text that the prompt is told for a variable, if it has that variable.
    pub fn told(&self, library: &PromptLibrary, variable: &str) -> Option<String> {
        let Self::Prompt { name, variables, offers, .. } = self else { return None };
        let takes = library.takes(name, variable).unwrap_or_default();
        let offered =
            || offers.iter().find(|offer| offer.names.contains(&variable)).map(|offer| &offer.value);
        let value = variables.get(variable).or_else(offered).filter(|_| takes)?;
        value.as_str().map(str::to_owned)
    }

    /// The prompt with its variables put in, if it is one of the library's.
    ///
    /// # Errors
    /// There is no such prompt, or the variables are not what it needs.
    pub(super) fn prompt(&self, library: &PromptLibrary) -> Result<Option<Rendered>, PromptError> {
        let Self::Prompt { name, variables, wanted, offers } = self else { return Ok(None) };
        if offers.is_empty() {
            return library.render(name, wanted, variables).map(Some);
        }
        let (mut all, mut behind) = (Map::new(), Vec::new());
        for offer in offers {
            let mut is_taken = false;
            for variable in offer.names {
                if library.takes(name, variable)? {
                    all.insert((*variable).to_owned(), offer.value.clone());
                    is_taken = true;
                }
            }
            behind.extend(offer.value.as_str().filter(|_| offer.or_behind && !is_taken));
        }
        all.extend(variables.clone());
        let mut rendered = library.render(name, wanted, &all)?;
        for text in behind {
            rendered.text.push_str("\n\n");
            rendered.text.push_str(text);
        }
        Ok(Some(rendered))
    }
}

/// A chat with the prompt as a system message before all others. What the prompt suggests holds where the caller says nothing.
pub(super) fn behind(prompt: Option<&Rendered>, mut request: ChatRequest) -> ChatRequest {
    let Some(prompt) = prompt else { return request };
    let said = request.body.get("messages").and_then(|json| std::str::from_utf8(json).ok());
    if let Some(said) = said.and_then(|json| json.strip_prefix('[')) {
        let system = json!({"role": "system", "content": prompt.text});
        // A body without messages was refused before.
        let messages = format!("[{system},{said}");
        let body = request.body.edit(&[Change::Set("messages", messages.into())]);
        request.replace_body(RawObject::known(body));
    }
    let mut options = Options::default();
    options.extend(prompt.config.clone());
    request.options.iter().for_each(|(name, value)| options.set(name, value.clone()));
    request.options = options;
    let most = || request.options.get("max_tokens").and_then(Value::as_u64);
    request.max_output_tokens = request.max_output_tokens.or_else(most);
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::Language;

    fn rendered(name: &str, variables: &Value, offers: Vec<Offer>) -> Result<String, PromptError> {
        let library = PromptLibrary::shipped(&Language::parse("en").unwrap()).unwrap();
        let variables = variables.as_object().cloned().unwrap();
        let opening = Opening::Prompt { name: name.to_owned(), variables, wanted: Wanted::default(), offers };
        opening.prompt(&library).map(|prompt| prompt.unwrap().text)
    }

    #[test]
    fn a_prompt_is_told_what_it_has_a_variable_for() {
        let offers = || {
            vec![
                Offer::variable(&["target_language"], "Klingon"),
                Offer::said(&["tone", "older_tone"], "Be warm."),
                Offer::variable(&["weather"], "Rain."),
            ]
        };
        let text = rendered("translate", &json!({}), offers()).unwrap();
        assert!(
            text.contains("Klingon") && text.ends_with("\n\nBe warm.") && !text.contains("Rain."),
            "{text}"
        );

        let text = rendered("translate", &json!({"target_language": "Elvish"}), offers()).unwrap();
        assert!(text.contains("Elvish") && !text.contains("Klingon"), "{text}");
    }

    #[test]
    fn a_callers_own_variables_stay_checked() {
        let error =
            rendered("translate", &json!({"tone": "x"}), vec![Offer::variable(&["target_language"], "x")]);
        assert!(matches!(error, Err(PromptError::InvalidVariable { .. })), "{error:?}");
        let error = rendered("nothing", &json!({}), vec![Offer::variable(&["target_language"], "x")]);
        assert!(matches!(error, Err(PromptError::Unknown { .. })), "{error:?}");
    }
}
