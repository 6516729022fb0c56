//! Engines that the gateway runs itself: which of those that run would end, and which stay.

use super::fields::Fields;
use super::{Change, How, What};
use crate::config::{EngineEnvironment, EngineModel, EngineVariant, ModelSource};
use crate::router::Served;

/// What a running engine does when its definition changes.
const ENDS: &str = "one that runs ends with its answers";
/// What it does when only the rules for it change.
const STAYS: &str = "one that runs stays";

/// A model that the gateway runs, as `provider/model`.
type Managed<'a> = (String, &'a EngineModel);

/// What is different, and the engines that are the same.
pub(super) fn changes(old: &[Served], new: &[Served]) -> (Vec<Change>, Vec<String>) {
    let (old, new) = (managed(old), managed(new));
    let (mut changes, mut kept) = (Vec::new(), Vec::new());
    for (name, engine) in &new {
        let before = old.iter().find(|(known, _)| known == name).map(|(_, engine)| *engine);
        if let Some(before) = before {
            changes.extend(of_model(name, before, engine));
        }
        let known = before.map(|engine| engine.variants.as_slice()).unwrap_or_default();
        for variant in &engine.variants {
            let (change, stays) = of_variant(name, known, variant);
            changes.extend(change);
            kept.extend(stays.then(|| called(name, variant)));
        }
    }
    for (name, engine) in &old {
        let after = new.iter().find(|(known, _)| known == name).map(|(_, engine)| *engine);
        let after = after.map(|engine| engine.variants.as_slice()).unwrap_or_default();
        let is_there = |variant: &EngineVariant| {
            after.iter().any(|other| other.context_tokens == variant.context_tokens)
        };
        let gone = engine.variants.iter().filter(|variant| !is_there(variant));
        changes.extend(gone.map(|variant| {
            Change::new(What::Engine, called(name, variant), How::Removed, vec![ENDS.to_owned()])
        }));
    }
    (changes, kept)
}

fn called(name: &str, variant: &EngineVariant) -> String {
    format!("{name}@{}", variant.context_tokens)
}

fn managed(served: &[Served]) -> Vec<Managed<'_>> {
    let mut all: Vec<Managed<'_>> = Vec::new();
    for Served { config, .. } in served {
        let ModelSource::Listed(models) = &config.models else { continue };
        for model in models {
            let name = format!("{}/{}", config.name, model.upstream);
            // Two public names may stand for one engine.
            if let Some(engine) = &model.engine
                && !all.iter().any(|(known, _)| *known == name)
            {
                all.push((name, engine));
            }
        }
    }
    all
}

/// Taken apart whole, so that a new field cannot be forgotten here.
fn of_model(name: &str, old: &EngineModel, new: &EngineModel) -> Option<Change> {
    let EngineModel {
        variants: _,
        tokenization,
        default_output_reserve,
        is_pinned,
        is_preloaded,
        is_secondary,
        keeps_prompt_cache,
    } = new;
    let mut fields = Fields::default();
    fields.named("tokenization", &old.tokenization, tokenization);
    fields.shown("default_output_reserve", &old.default_output_reserve, default_output_reserve);
    fields.shown("pinned", &old.is_pinned, is_pinned);
    fields.shown("preload", &old.is_preloaded, is_preloaded);
    fields.shown("secondary", &old.is_secondary, is_secondary);
    fields.shown("keep_prompt_cache", &old.keeps_prompt_cache, keeps_prompt_cache);
    fields.into_change(What::Engine, name)
}

/// What is different of a variant, and whether one that runs stays.
fn of_variant(name: &str, known: &[EngineVariant], variant: &EngineVariant) -> (Option<Change>, bool) {
    let name = called(name, variant);
    let Some(before) = known.iter().find(|other| other.context_tokens == variant.context_tokens) else {
        return (Some(Change::new(What::Engine, name, How::Added, Vec::new())), false);
    };
    let EngineVariant { context_tokens: _, binary, args, address, memory_mib, timeouts, environment } =
        variant;
    let mut fields = Fields::default();
    fields.named("binary", &before.binary, binary);
    fields.named("args", &before.args, args);
    let exposed = |environment: &EngineEnvironment| -> Vec<(String, String)> {
        environment.exposed().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    fields.named("env", &exposed(&before.environment), &exposed(environment));
    fields.named("address", &before.address, address);
    fields.shown_if_any("memory", before.memory_mib.as_ref(), memory_mib.as_ref());
    fields.named("time-outs", &before.timeouts, timeouts);
    let stays = before.is_started_as(variant);
    if !fields.is_empty() {
        fields.note(if stays { STAYS } else { ENDS }.to_owned());
    }
    (fields.into_change(What::Engine, &name), stays)
}
