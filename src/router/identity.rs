//! The names under which health is kept. What is configured otherwise has another name, so that whatever mends a fault need
//! not wait for the cooldown of what was there before.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use secrecy::{ExposeSecret, SecretString};

use super::keys::KeyRing;
use super::table::Served;
use crate::config::{ModelConfig, ModelSource, ProviderConfig};

/// A provider with all of its settings that may be the reason why it fails.
#[derive(Debug)]
pub(super) struct Identity {
    /// The same on all replicas with the same settings. No secret can be read in it.
    pub(super) name: String,
    keys: Vec<String>,
    settings: HashMap<String, DefaultHasher>,
}

impl Identity {
    pub(super) fn of(provider: &ProviderConfig) -> Self {
        let named = |key: Option<&SecretString>| {
            let mut hasher = DefaultHasher::new();
            (&provider.kind, &provider.base_url, key.map(ExposeSecret::expose_secret)).hash(&mut hasher);
            for (name, value) in &provider.headers {
                (name, value.expose_secret()).hash(&mut hasher);
            }
            format!("{:?}", provider.timeouts).hash(&mut hasher);
            format!("{} {:x}", provider.name, hasher.finish())
        };
        let several = provider.api_keys.iter().enumerate();
        let keys = several.map(|(at, key)| format!("{} key {}", named(Some(key)), at + 1)).collect();
        let settings = match &provider.models {
            ModelSource::Listed(models) => settings_of(models),
            ModelSource::Discovered => HashMap::new(),
        };
        Self { name: named(provider.api_key.as_ref()), keys, settings }
    }

    /// The keys of a provider that has several.
    pub(super) fn keys(&self, served: &Served) -> KeyRing {
        KeyRing::new(served.by_key.iter().cloned().zip(self.keys.iter().cloned()))
    }

    /// One of its models. Of several entries with the same name at the provider, all settings count: they fare alike.
    pub(super) fn of_model(&self, upstream: &str) -> String {
        match self.settings.get(upstream) {
            Some(settings) => format!("{} {upstream} {:x}", self.name, settings.finish()),
            None => format!("{} {upstream}", self.name),
        }
    }
}

/// The settings of models that have any, by their names at the provider.
fn settings_of(models: &[ModelConfig]) -> HashMap<String, DefaultHasher> {
    let mut all: HashMap<String, DefaultHasher> = HashMap::new();
    for model in models {
        let settings = [&model.defaults, &model.overrides];
        if settings.iter().any(|settings| !settings.is_empty()) {
            let texts = settings.map(|settings| serde_json::to_string(settings).unwrap_or_default());
            texts.hash(all.entry(model.upstream.clone()).or_default());
        }
    }
    all
}
