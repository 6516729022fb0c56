//! Variables that the models file sets for engines (`env`), and those that engines must not have.

use std::collections::BTreeSet;
use std::sync::Arc;

use secrecy::SecretString;

use super::super::{Catalog, ModelSource, Reader, checks};
use crate::config::EngineEnvironment;

/// What is for the gateway to say, by names or their beginnings, and why.
const REFUSED: &[(&str, &str)] = &[
    ("LLAMA_API_KEY", "each engine gets a key of its own from the gateway"),
    ("LLAMA_ARG_API_PREFIX", "the gateway expects the engine's own paths"),
    ("LLAMA_ARG_SSL_", "the gateway speaks plain HTTP to its engines"),
    ("LLAMA_SERVER_ROUTER_PORT", "the engine would take the gateway for a router of its own kind"),
    ("LLM_PROXY_API_", "these are the gateway's own settings"),
];

/// The environment with these variables.
pub(super) fn environment(env: Vec<(String, String)>) -> EngineEnvironment {
    let set = env.into_iter().map(|(name, value)| (name, SecretString::from(value)));
    EngineEnvironment { set: set.collect(), withheld: Arc::default() }
}

impl Reader<'_> {
    /// Names and values as they stand in the file.
    pub(super) fn check_env(&mut self, place: &str, env: &[(String, String)]) {
        for (name, value) in env {
            let is_first = |at: usize, byte: u8| at > 0 && byte.is_ascii_digit();
            let is_plain =
                |(at, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || is_first(at, byte);
            if name.is_empty() || !name.bytes().enumerate().all(is_plain) || value.contains('\0') {
                let problem = format!("`env` sets `{}`, which is no variable", name.escape_debug());
                self.fault_once(
                    place,
                    &problem,
                    "use letters, digits and underscores, and text without zero bytes",
                );
            }
            if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| name.starts_with(refused)) {
                self.fault_once(place, &format!("`env` sets `{name}`"), &format!("take it out: {reason}"));
            }
            if checks::is_literal_secret(name, value) {
                self.literal_secret_once(&format!("{place}.env.{name}"));
            }
        }
    }

    fn literal_secret_once(&mut self, place: &str) {
        if !self.catalog.warnings.iter().any(|warning| warning.contains(place)) {
            self.literal_secret(place);
        }
    }
}

impl Catalog {
    /// No engine inherits these variables, which the models file reads for something else.
    pub(in crate::config::catalog) fn withhold(&mut self, names: BTreeSet<String>) {
        let names = Arc::new(names);
        let models = self.providers.iter_mut().filter_map(|provider| match &mut provider.models {
            ModelSource::Listed(models) => Some(models),
            ModelSource::Discovered => None,
        });
        for engine in models.flatten().filter_map(|model| model.engine.as_mut()) {
            let of_variants = engine.variants.iter_mut().map(|variant| &mut variant.environment);
            let of_tokenizer = engine.tokenization.iter_mut().map(|program| &mut program.environment);
            of_variants.chain(of_tokenizer).for_each(|environment| environment.withheld = names.clone());
        }
    }
}
