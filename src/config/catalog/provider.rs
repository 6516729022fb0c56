//! A provider of which nothing is said but what it is.

use std::time::Duration;

use super::{ModelSource, ProviderConfig};
use crate::config::{EngineSettings, Timeouts};

impl ProviderConfig {
    /// How often a provider is asked what models it has, if nobody says.
    pub const DISCOVER_EVERY: Duration = Duration::from_secs(30);

    /// A provider of a kind, with everything as it is where nobody says otherwise. It is asked what models it has.
    pub fn of(name: &str, kind: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            base_url: None,
            models_url: None,
            discover_every: Self::DISCOVER_EVERY,
            api_key: None,
            api_keys: Vec::new(),
            headers: Vec::new(),
            timeouts: Timeouts::default(),
            probe: None,
            raw_headers: Vec::new(),
            base_priority: 1.0,
            models: ModelSource::Discovered,
            engines: EngineSettings::default(),
            place: name.to_owned(),
        }
    }
}
