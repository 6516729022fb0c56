//! The admin API.

use poem_openapi::Object;
use poem_openapi::types::Example;
use serde::{Deserialize, Serialize};
use validator::Validate;

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

/// What is to be different of how a model is switched. What is left out stays as it is.
#[derive(Deserialize, Validate, Object)]
#[serde(deny_unknown_fields)]
#[oai(rename = "ModelSwitch", example)]
pub(in crate::api) struct SwitchBody {
    /// Whether it is off: then no caller finds or reaches it, by none of its names, until it is switched on.
    pub(in crate::api) disabled: Option<bool>,
    /// Why, up to 2000 characters; null takes it away. One of the switch before goes with it.
    pub(in crate::api) note: Option<String>,
}

impl Example for SwitchBody {
    fn example() -> Self {
        Self { disabled: Some(false), note: None }
    }
}

/// A model, and how it is switched.
#[derive(Serialize, Object)]
#[oai(rename = "SwitchedModel")]
pub(in crate::api) struct SwitchedModel {
    /// The public name.
    pub(in crate::api) name: String,
    /// Further names for it.
    pub(in crate::api) aliases: Vec<String>,
    /// Whether it is off.
    pub(in crate::api) disabled: bool,
    /// When it was last switched off or on; null if it never was.
    pub(in crate::api) since: Option<String>,
    /// What whoever switched it wanted to be remembered.
    pub(in crate::api) note: Option<String>,
    /// Whether the configuration has it; if not, its switch is all there is of it.
    pub(in crate::api) served: bool,
    /// Who serves it, by priority; nobody if it is off and the configuration does not have it any more.
    pub(in crate::api) deployments: Vec<ServedBy>,
}

/// A deployment of a model.
#[derive(Serialize, Object)]
#[oai(rename = "ServedBy")]
pub(in crate::api) struct ServedBy {
    /// The provider.
    pub(in crate::api) provider: String,
    /// What the provider calls the model.
    pub(in crate::api) upstream: String,
    /// Lower is asked first.
    pub(in crate::api) priority: i32,
}

/// Models, and how they are switched.
#[derive(Serialize, Object)]
#[oai(rename = "SwitchedModels")]
pub(in crate::api) struct SwitchedModelList {
    /// In the order of the configuration, then those that are off and not part of it any more.
    pub(in crate::api) models: Vec<SwitchedModel>,
}
