//! Public models: names, order, who takes over, and the deployments behind them.

use super::fields::Fields;
use super::{Change, How, Set, What};
use crate::config::{ModelConfig, ModelSource};
use crate::router::{Deployment, Route, Served};

pub(super) fn changes(old: Set<'_>, new: Set<'_>) -> Vec<Change> {
    let of =
        |set: Set<'_>, model: &str| set.routes.routes().iter().find(|route| *route.model == *model).cloned();
    let mut changes = Vec::new();
    for route in new.routes.routes() {
        match of(old, &route.model) {
            None => {
                let details = vec![ids(route).join(", then ")];
                changes.push(Change::new(What::Model, &*route.model, How::Added, details));
            }
            Some(before) => {
                let mut fields = of_policy(&before, route);
                of_deployments(&mut fields, (&before, route), (old.served, new.served));
                changes.extend(fields.into_change(What::Model, &route.model));
            }
        }
    }
    let gone = old.routes.routes().iter().filter(|route| of(new, &route.model).is_none());
    changes.extend(gone.map(|route| Change::new(What::Model, &*route.model, How::Removed, Vec::new())));
    changes
}

/// The deployments in the order in which they are asked.
fn ids(route: &Route) -> Vec<&str> {
    route.candidates(None, None).into_iter().map(|deployment| &*deployment.id).collect()
}

fn of_policy(old: &Route, new: &Route) -> Fields {
    let mut fields = Fields::default();
    fields.shown("strategy", &old.strategy().name(), &new.strategy().name());
    fields.shown("affinity", &old.has_affinity(), &new.has_affinity());
    for (name, old, new) in [
        ("aliases", &old.aliases, &new.aliases),
        ("fallbacks", &old.fallbacks, &new.fallbacks),
        ("context_fallbacks", &old.context_fallbacks, &new.context_fallbacks),
    ] {
        let listed = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        fields.shown(name, &listed(old), &listed(new));
    }
    fields
}

fn of_deployments(fields: &mut Fields, (old, new): (&Route, &Route), sets: (&[Served], &[Served])) {
    let (before, after): (Vec<&Deployment>, Vec<&Deployment>) = (all(old).collect(), all(new).collect());
    let same = |one: &Deployment, others: &[&Deployment]| others.iter().any(|other| other.id == one.id);
    for deployment in after.iter().filter(|deployment| !same(deployment, &before)) {
        fields.note(format!("deployment {} added", deployment.id));
    }
    for deployment in before.iter().filter(|deployment| !same(deployment, &after)) {
        fields.note(format!("deployment {} removed", deployment.id));
    }
    let staying = |route: &Route, others: &[&Deployment]| {
        let others: Vec<&str> = others.iter().map(|other| &*other.id).collect();
        ids(route).into_iter().filter(|id| others.contains(id)).map(str::to_owned).collect::<Vec<_>>()
    };
    // How fast they have been so far is no matter of the configuration.
    if (old.strategy().name(), new.strategy().name()) != ("least_latency", "least_latency") {
        let order = |ids: Vec<String>| ids.join(", ");
        fields.shown("order", &order(staying(old, &after)), &order(staying(new, &before)));
    }
    for deployment in &after {
        let Some(before) = before.iter().find(|other| other.id == deployment.id) else { continue };
        for words in of_deployment((before, deployment), &new.model, sets) {
            fields.note(format!("{}: {words}", deployment.id));
        }
    }
}

fn all(route: &Route) -> impl Iterator<Item = &Deployment> {
    route.all_deployments().map(|deployment| &**deployment)
}

fn of_deployment(
    (old, new): (&Deployment, &Deployment),
    model: &str,
    (before, after): (&[Served], &[Served]),
) -> Vec<String> {
    let mut fields = Fields::default();
    fields.shown("priority", &old.priority, &new.priority);
    fields.shown("weight", &old.weight, &new.weight);
    fields.shown_if_any("context", old.context_tokens.as_ref(), new.context_tokens.as_ref());
    fields.named("languages", &old.languages, &new.languages);
    if let (Some(old), Some(new)) =
        (stated(before, &old.provider_name, model), stated(after, &new.provider_name, model))
    {
        of_statement(&mut fields, old, new);
    }
    fields.into_words()
}

/// What the models file says of a model at a provider.
fn stated<'a>(served: &'a [Served], provider: &str, model: &str) -> Option<&'a ModelConfig> {
    let served = served.iter().find(|served| served.config.name == provider)?;
    let ModelSource::Listed(models) = &served.config.models else { return None };
    models.iter().find(|stated| stated.public == model)
}

/// Taken apart whole, so that a new field cannot be forgotten here.
fn of_statement(fields: &mut Fields, old: &ModelConfig, new: &ModelConfig) {
    let ModelConfig {
        // Told with the deployment, the route or the engine.
        public: _,
        upstream: _,
        priority: _,
        weight: _,
        aliases: _,
        context_tokens: _,
        languages: _,
        engine: _,
        abilities,
        score_adjustment,
        defaults,
        overrides,
    } = new;
    fields.shown("score_adjustment", &old.score_adjustment, score_adjustment);
    fields.named("supports", &old.abilities, abilities);
    fields.named("defaults", &old.defaults, defaults);
    fields.named("overrides", &old.overrides, overrides);
}
