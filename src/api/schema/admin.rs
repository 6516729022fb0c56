//! The admin API.

use poem_openapi::Object;
use serde::Serialize;

/// What a reload has changed, or would change.
#[derive(Serialize, Object)]
#[oai(rename = "Reloaded")]
pub(in crate::api) struct ReloadBody {
    /// Always true: a configuration that is refused is an error.
    pub(in crate::api) status: bool,
    /// Whether this was only tried: then nothing is different yet.
    pub(in crate::api) dry_run: bool,
    /// How many models are served then.
    pub(in crate::api) models: usize,
    /// How many prompts there are then.
    pub(in crate::api) prompts: usize,
    /// What is different, by names. Values that may be secret are never told.
    pub(in crate::api) changes: Vec<ChangeBody>,
    /// Engines, as `provider/model@context`, that are the same before and after: those of them that run stay.
    pub(in crate::api) kept_engines: Vec<String>,
    /// Things to know that are no errors.
    pub(in crate::api) warnings: Vec<String>,
}

/// One thing that is different.
#[derive(Serialize, Object)]
#[oai(rename = "Change")]
pub(in crate::api) struct ChangeBody {
    /// `provider`, `model`, `engine`, `prompt`, `routing` or `listen`.
    pub(in crate::api) kind: String,
    /// Its name.
    pub(in crate::api) name: String,
    /// `added`, `removed` or `changed`.
    pub(in crate::api) change: String,
    /// What of it, in words.
    pub(in crate::api) details: Vec<String>,
}
