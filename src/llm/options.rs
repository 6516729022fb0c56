//! Generation options in the gateway's own names, which every provider maps to its own.
//!
//! The facade's endpoints take one set of names (`max_new_tokens`, `repetition_penalty` …) whatever
//! provider answers. A provider says in a table what it calls them; what it has no word for is left
//! out, and the caller is told.

use serde_json::{Map, Value};

use super::RawObject;

/// Options of one request, by their canonical names, in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(Map<String, Value>);

/// Options in a provider's words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapped {
    /// Name at the provider, and value.
    pub taken: Vec<(&'static str, Value)>,
    /// Canonical names of those that the provider cannot take.
    pub ignored: Vec<String>,
}

/// Other systems' names for the canonical ones.
const ALIASES: &[(&str, &str)] = &[
    ("num_predict", "max_tokens"),
    ("n_predict", "max_tokens"),
    ("max_new_tokens", "max_tokens"),
    ("max_completion_tokens", "max_tokens"),
    ("repeat_penalty", "repetition_penalty"),
    // Dotprompt's names.
    ("maxOutputTokens", "max_tokens"),
    ("topK", "top_k"),
    ("topP", "top_p"),
    ("stopSequences", "stop"),
];

/// Canonical names of the options that some provider takes and that change what is generated.
pub(super) const OF_ANSWERS: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "max_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "repeat_last_n",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
];

/// Those that do not: Ollama's own, for its engine.
const OF_ENGINES: &[&str] =
    &["keep_alive", "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap"];

/// All names of options that some provider takes, whichever system's they are.
pub fn option_names() -> impl Iterator<Item = &'static str> {
    OF_ANSWERS.iter().chain(OF_ENGINES).copied().chain(ALIASES.iter().map(|(alias, _)| *alias))
}

impl Options {
    /// Adds an option under its canonical name. `null` is no value.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        if !value.is_null() {
            self.0.insert(canonical(name).to_owned(), value);
        }
    }

    /// Adds every member of `options`, whichever system's names it uses.
    pub fn extend(&mut self, options: Map<String, Value>) {
        for (name, value) in options {
            self.set(&name, value);
        }
    }

    /// The value given for a canonical name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Takes an option away, by its canonical name.
    pub fn remove(&mut self, name: &str) {
        self.0.shift_remove(name);
    }

    /// Whether no option was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All options by their canonical names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Puts the options into the words of a provider: `table` pairs canonical names with the
    /// provider's. An option that `body` already states for itself is not repeated.
    pub fn map(&self, table: &[(&str, &'static str)], body: &RawObject) -> Mapped {
        let mut mapped = Mapped::default();
        for (name, value) in self.iter() {
            match table.iter().find(|(canonical, _)| *canonical == name) {
                Some((_, theirs)) if states(body, theirs) => {}
                Some((_, theirs)) => mapped.taken.push((theirs, value.clone())),
                None => mapped.ignored.push(name.to_owned()),
            }
        }
        mapped
    }
}

/// Whether the caller's own body gives a value for what `name` says.
fn states(body: &RawObject, name: &str) -> bool {
    let given = |name| body.get(name).is_some_and(|value| value != b"null");
    given(name) || (name == "max_tokens" && given("max_completion_tokens"))
}

/// Whether a name is not OpenAI's, and providers have different words for what it says.
pub(super) fn needs_mapping(name: &str) -> bool {
    const WORDS: &[&str] = &["repetition_penalty", "keep_alive"];
    const OPENAIS_OWN: &[&str] = &["max_completion_tokens"];
    !OPENAIS_OWN.contains(&name) && (WORDS.contains(&name) || ALIASES.iter().any(|(alias, _)| *alias == name))
}

/// The gateway's own name for an option, whichever system's name it is given by.
pub(super) fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, canonical)| canonical)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::json;

    #[test]
    fn an_option_without_a_word_at_the_provider_is_named() {
        let mut options = Options::default();
        options.set("max_new_tokens", 5);
        options.set("top_k", 3);
        options.set("seed", Value::Null);

        let mapped = options.map(&[("max_tokens", "max_tokens")], &RawObject::empty());

        assert_eq!(mapped.taken, [("max_tokens", json!(5))]);
        assert_eq!(mapped.ignored, ["top_k"]);
    }

    #[test]
    fn what_the_body_states_itself_wins() {
        let mut options = Options::default();
        options.set("num_predict", 5);
        options.set("temperature", 0.5);
        let body =
            RawObject::parse(Bytes::from(r#"{"max_completion_tokens":9,"temperature":null}"#)).unwrap();

        let table = [("max_tokens", "max_tokens"), ("temperature", "temperature")];
        let mapped = options.map(&table, &body);

        assert_eq!(mapped.taken, [("temperature", json!(0.5))]);
        assert!(mapped.ignored.is_empty());
    }
}
