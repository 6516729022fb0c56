//! The files of older systems, translated into the form of our own models file.
//!
//! There is one translation: what `llm-proxy-api import` prints is what the service reads when it is given the older
//! file itself. With it goes where everything stands in the older file, so that faults that are found later name a place
//! that the operator knows.

mod findings;
mod meta_providers;
mod models_config;
mod ours;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use self::findings::Findings;
pub(super) use self::ours::Origins;
use super::ConfigError;

/// A file in our own form that was another.
#[derive(Debug)]
pub(super) struct Translated {
    /// As a file of our own would have it.
    pub(super) file: Value,
    /// Where its parts come from.
    pub(super) origins: Origins,
    /// Things to tell the operator that are no errors.
    pub(super) warnings: Vec<String>,
}

/// The shapes of older files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// `models-config.json`: families of models, of which some are active.
    ModelsConfig,
    /// `meta-providers.yaml`: a list of providers, each to be asked for its models.
    MetaProviders,
}

/// Where the opinions on models stand that belong to a list of providers.
pub fn adjustments_beside(models: &Path) -> PathBuf {
    models.with_file_name("model-adjustments.yaml")
}

/// Translates a file, if it has the shape of an older one.
///
/// # Errors
/// All faults, by their places in the older file.
pub(super) fn translate(path: &Path, value: &Value) -> Option<Result<Translated, ConfigError>> {
    let top = value.as_object()?;
    let shape = shape(top)?;
    let file = path.display().to_string();
    let mut findings = Findings::new(&file);
    let ours = match shape {
        Shape::ModelsConfig => models_config::translate(top, &mut findings),
        Shape::MetaProviders => meta_providers::translate(top, path, &mut findings),
    };
    let (file, origins) = ours.finish();
    Some(findings.finish().map(|warnings| Translated { file, origins, warnings }))
}

/// Known by the content, whatever the file is called.
fn shape(top: &Map<String, Value>) -> Option<Shape> {
    const OURS: [&str; 6] = ["providers", "models", "routing", "adjustments", "leaderboard", "comment"];
    if top.contains_key("active_models") {
        return Some(Shape::ModelsConfig);
    }
    let lists_providers = top.get("providers").and_then(Value::as_array).is_some_and(|providers| {
        let has = |provider: &Value, key| provider.get(key).is_some();
        providers.iter().any(|provider| has(provider, "base_url") || has(provider, "api_key_env_var"))
    });
    if lists_providers {
        return Some(Shape::MetaProviders);
    }
    // One that has lost its `active_models` is told so, not taken for a file of ours with odd keys.
    let mut models = top.values().filter_map(Value::as_object).flat_map(Map::values);
    let is_older = |model: &Value| {
        ["api_host", "api_type"].iter().any(|key| model.get(key).is_some())
            || model.get("providers").is_some_and(Value::is_array)
    };
    (!OURS.iter().any(|key| top.contains_key(*key)) && models.any(is_older)).then_some(Shape::ModelsConfig)
}

#[cfg(test)]
mod tests;
