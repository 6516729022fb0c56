//! Providers: who is new, who is gone, and what is said of the others. Addresses, keys and headers are told by name only.

use secrecy::ExposeSecret;

use super::fields::Fields;
use super::{Change, How, What};
use crate::config::{EngineSettings, ModelSource, ProviderConfig, Timeouts};
use crate::router::Served;

pub(super) fn changes(old: &[Served], new: &[Served]) -> Vec<Change> {
    let of = |set: &[Served], name: &str| {
        set.iter().find(|served| served.config.name == name).map(|served| served.config.clone())
    };
    let mut changes = Vec::new();
    for Served { config, .. } in new {
        match of(old, &config.name) {
            None => {
                let details = vec![format!("type {}", config.kind)];
                changes.push(Change::new(What::Provider, &config.name, How::Added, details));
            }
            Some(before) => changes.extend(differences(&before, config)),
        }
    }
    let gone = old.iter().filter(|served| of(new, &served.config.name).is_none());
    changes.extend(
        gone.map(|served| Change::new(What::Provider, &served.config.name, How::Removed, Vec::new())),
    );
    changes
}

/// Taken apart whole, so that a new field cannot be forgotten here.
fn differences(old: &ProviderConfig, new: &ProviderConfig) -> Option<Change> {
    let ProviderConfig {
        name,
        kind,
        base_url,
        api_key,
        api_keys,
        headers,
        timeouts,
        probe,
        raw_headers,
        base_priority,
        models,
        models_url,
        discover_every,
        engines,
        // Only for messages.
        place: _,
    } = new;
    let mut fields = Fields::default();
    fields.shown("type", &old.kind, kind);
    fields.named("base_url", &old.base_url, base_url);
    let exposed = |key: &Option<secrecy::SecretString>| {
        key.as_ref().map(|key| key.expose_secret().to_owned()).filter(|key| !key.is_empty())
    };
    fields.named("api_key", &exposed(&old.api_key), &exposed(api_key));
    let all_exposed = |keys: &[secrecy::SecretString]| -> Vec<String> {
        keys.iter().map(|key| key.expose_secret().to_owned()).collect()
    };
    fields.named("api_keys", &all_exposed(&old.api_keys), &all_exposed(api_keys));
    fields.named("headers", &exposed_headers(&old.headers), &exposed_headers(headers));
    of_timeouts(&mut fields, &old.timeouts, timeouts);
    fields.named("probe", &old.probe, probe);
    fields.named("raw_headers", &old.raw_headers, raw_headers);
    fields.shown("base_priority", &old.base_priority, base_priority);
    fields.shown("models", &source(&old.models), &source(models));
    fields.named("models_url", &old.models_url, models_url);
    fields.seconds("discover_every", old.discover_every, *discover_every);
    of_engines(&mut fields, &old.engines, engines);
    fields.into_change(What::Provider, name)
}

fn exposed_headers(headers: &[(String, secrecy::SecretString)]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect()
}

fn source(models: &ModelSource) -> &'static str {
    match models {
        ModelSource::Listed(_) => "listed",
        ModelSource::Discovered => "discovered",
    }
}

fn of_timeouts(fields: &mut Fields, old: &Timeouts, new: &Timeouts) {
    let Timeouts { request, connect, first_token, stall } = *new;
    fields.seconds("timeout", old.request, request);
    fields.seconds("connect_timeout", old.connect, connect);
    fields.seconds("first_token_timeout", old.first_token, first_token);
    fields.seconds("stall_timeout", old.stall, stall);
}

fn of_engines(fields: &mut Fields, old: &EngineSettings, new: &EngineSettings) {
    let EngineSettings { memory_budget_mib, max_unfairness, queue_max, prompt_cache_dir, prompt_cache_mib } =
        new;
    fields.shown_if_any("memory_budget", old.memory_budget_mib.as_ref(), memory_budget_mib.as_ref());
    fields.seconds("max_unfairness", old.max_unfairness, *max_unfairness);
    fields.shown("queue_max", &old.queue_max, queue_max);
    fields.named("prompt_cache_dir", &old.prompt_cache_dir, prompt_cache_dir);
    fields.shown("prompt_cache_mib", &old.prompt_cache_mib, prompt_cache_mib);
}
