//! A file of our own form while it is put together, with where each part of it comes from.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Longer names are cut: they stand in headers.
const MOST_NAME: usize = 64;

/// Where the parts of a translated file stand in the older one.
#[derive(Debug, Default)]
pub(in crate::config) struct Origins {
    /// By the names of the providers.
    pub(in crate::config) providers: BTreeMap<String, ProviderOrigin>,
    /// The file of the adjustments, which is one beside.
    pub(in crate::config) adjustments: Option<String>,
}

/// Where a provider and its models stand.
#[derive(Debug, Default)]
pub(in crate::config) struct ProviderOrigin {
    pub(in crate::config) place: String,
    /// By their public names.
    pub(in crate::config) models: BTreeMap<String, String>,
}

/// The file.
#[derive(Debug, Default)]
pub(super) struct Ours {
    providers: Map<String, Value>,
    models: Map<String, Value>,
    routing: Map<String, Value>,
    adjustments: Map<String, Value>,
    origins: Origins,
}

impl Ours {
    /// Adds a provider under a name that is like the wanted one, and returns that.
    pub(super) fn add_provider(&mut self, wanted: &str, place: &str, settings: Map<String, Value>) -> String {
        let fit = fit(wanted);
        let mut name = fit.clone();
        let mut number = 2;
        while self.providers.contains_key(&name) {
            name = format!("{fit}-{number}");
            number += 1;
        }
        self.providers.insert(name.clone(), Value::Object(settings));
        let origin = ProviderOrigin { place: place.to_owned(), models: BTreeMap::new() };
        self.origins.providers.insert(name.clone(), origin);
        name
    }

    /// Adds a model to a provider that was added before.
    pub(super) fn add_model(
        &mut self,
        provider: &str,
        (name, place): (&str, &str),
        settings: Map<String, Value>,
    ) {
        let Some(Value::Object(members)) = self.providers.get_mut(provider) else { return };
        let models = members.entry("models").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(models) = models {
            models.insert(name.to_owned(), Value::Object(settings));
        }
        if let Some(origin) = self.origins.providers.get_mut(provider) {
            origin.models.insert(name.to_owned(), place.to_owned());
        }
    }

    /// In which order the deployments of a public model are asked.
    pub(super) fn set_strategy(&mut self, model: &str, strategy: &str) {
        let settings = Map::from_iter([("strategy".to_owned(), Value::from(strategy))]);
        self.models.insert(model.to_owned(), Value::Object(settings));
    }

    /// In which order the deployments are asked of models that do not say.
    pub(super) fn set_usual_strategy(&mut self, strategy: &str) {
        self.routing.insert("strategy".to_owned(), Value::from(strategy));
    }

    /// The points of models by their names, which stand in a file of their own.
    pub(super) fn set_adjustments(&mut self, file: &str, adjustments: Map<String, Value>) {
        self.adjustments = adjustments;
        self.origins.adjustments = Some(file.to_owned());
    }

    /// The whole file, and where its parts come from.
    pub(super) fn finish(self) -> (Value, Origins) {
        let mut file = Map::new();
        file.insert("providers".to_owned(), Value::Object(self.providers));
        for (key, members) in
            [("models", self.models), ("routing", self.routing), ("adjustments", self.adjustments)]
        {
            if !members.is_empty() {
                file.insert(key.to_owned(), Value::Object(members));
            }
        }
        (Value::Object(file), self.origins)
    }
}

/// A name as it can stand in headers and paths.
fn fit(wanted: &str) -> String {
    let sane = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let name: String =
        wanted.chars().take(MOST_NAME).map(|letter| if sane(letter) { letter } else { '-' }).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "provider".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_fit_and_no_two_are_the_same() {
        let mut ours = Ours::default();
        for (wanted, name) in [
            ("acme-a:7000", "acme-a-7000"),
            ("acme-a-7000", "acme-a-7000-2"),
            ("acme-a/7000", "acme-a-7000-3"),
            ("  ", "provider"),
            ("żółw box_1.x", "w-box_1.x"),
            ("::", "provider-2"),
        ] {
            assert_eq!(ours.add_provider(wanted, "", Map::new()), name, "{wanted}");
        }
        assert_eq!(ours.add_provider(&"x".repeat(500), "", Map::new()).len(), MOST_NAME);
    }
}
