//! What a models file says of public models and of routing as such, whoever serves them: names, order, points, who takes
//! over.

use std::time::Duration;

use super::raw::{RawAdjustment, RawPolicy, RawRouting};
use super::{ModelPolicy, ModelSource, Reader};
use crate::config::{Adjustment, Fault, Routing, ScoreScalars, Strategy, nearest};
use crate::lint::Object;

/// More expressions than this are no opinion on models.
const MOST_PATTERNS: usize = 1000;

impl Reader<'_> {
    pub(super) fn policy(&mut self, model: String, raw: RawPolicy) {
        let place = format!("models.{model}");
        let strategy = raw.strategy.and_then(|name| self.strategy(&place, &name));
        for alias in &raw.aliases {
            self.check_model_name(&place, alias);
        }
        self.catalog.policies.push(ModelPolicy {
            model,
            aliases: raw.aliases,
            strategy,
            fallbacks: raw.fallbacks,
            context_fallbacks: raw.context_fallbacks,
            affinity: raw.affinity,
        });
    }

    fn strategy(&mut self, place: &str, name: &str) -> Option<Strategy> {
        let strategy = Strategy::of(name);
        if strategy.is_none() {
            let names = || Strategy::NAMES.iter().map(|(known, _)| *known);
            let cure = nearest(name, names()).map_or_else(
                || format!("known strategies are {}", names().collect::<Vec<_>>().join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            self.fault(place, &format!("the strategy `{name}` is unknown"), &cure);
        }
        strategy
    }

    pub(super) fn adjustments(&mut self, raw: Vec<(String, Object<RawAdjustment>)>) {
        let mut patterns = 0;
        for (name, Object(raw)) in raw {
            let place = format!("{}: adjustments.{name}", raw.file.as_deref().unwrap_or(self.file));
            let fault = |problem: &str, cure: &str| Fault::new(&place, problem, cure);
            let points = raw.priority.filter(|points| points.is_finite()).unwrap_or_else(|| {
                self.faults
                    .push(fault("`priority` is missing", "give points, such as 30 or -1000").of_lack());
                0.0
            });
            if raw.regex.is_empty() {
                let cure = "list expressions, such as [\"strong\"]";
                self.faults.push(fault("`regex` is missing", cure).of_lack());
            }
            patterns += raw.regex.len();
            if patterns > MOST_PATTERNS {
                let problem = format!("there are more than {MOST_PATTERNS} expressions");
                return self.faults.push(fault(&problem, "put several into one, with `|` between"));
            }
            match Adjustment::new(points, &raw.regex) {
                Ok(adjustment) => self.catalog.adjustments.push(adjustment),
                Err(unread) => {
                    for (pattern, reason) in unread {
                        let problem = format!("the regex `{pattern}` cannot be read: {reason}");
                        self.faults.push(fault(&problem, "write it in the syntax of Rust's regex"));
                    }
                }
            }
        }
    }

    pub(super) fn routing(&mut self, raw: RawRouting) {
        let default = Routing::default();
        let scalars = [
            ("model_leaderboard_score_scalar", raw.model_leaderboard_score_scalar),
            ("model_param_score_scalar", raw.model_param_score_scalar),
            ("model_ctx_score_scalar", raw.model_ctx_score_scalar),
            ("model_adjustment_scalar", raw.model_adjustment_scalar),
        ];
        for (key, value) in scalars {
            if let Some(value) = value.filter(|value| !value.is_finite() || *value < 0.0) {
                self.fault("routing", &format!("`{key}` is {value}"), "give a number, 0 or more");
            }
        }
        if let Some(budget) = raw.hedge_budget.filter(|budget| !(0.0..=1.0).contains(budget)) {
            self.fault("routing", &format!("`hedge_budget` is {budget}"), "give a number from 0 to 1");
        }
        let mut optional = |key: &str, value: Option<f64>| {
            value.map(|seconds| self.seconds("routing", key, Some(seconds), Duration::MAX))
        };
        let hedge_after = optional("hedge_after", raw.hedge_after);
        let overflow_after = optional("overflow_after", raw.overflow_after);
        self.catalog.routing = Routing {
            hedge_after,
            overflow_after,
            hedge_budget: raw.hedge_budget.unwrap_or(default.hedge_budget),
            max_wait: match raw.max_wait {
                Some(0.0) => Duration::ZERO,
                wait => self.seconds("routing", "max_wait", wait, default.max_wait),
            },
            max_cooldown: self.seconds("routing", "max_cooldown", raw.max_cooldown, default.max_cooldown),
            scalars: ScoreScalars {
                leaderboard: raw.model_leaderboard_score_scalar.unwrap_or(default.scalars.leaderboard),
                param: raw.model_param_score_scalar.unwrap_or(default.scalars.param),
                context: raw.model_ctx_score_scalar.unwrap_or(default.scalars.context),
                adjustment: raw.model_adjustment_scalar.unwrap_or(default.scalars.adjustment),
            },
            strategy: raw.strategy.and_then(|name| self.strategy("routing", &name)).unwrap_or_default(),
        };
    }

    /// Models that take over have to be there, and to be others.
    pub(super) fn check_fallbacks(&mut self, listed: &[String]) {
        for policy in self.catalog.policies.clone() {
            let place = format!("models.{}", policy.model);
            for name in policy.fallbacks.iter().chain(&policy.context_fallbacks) {
                let is_alias = self.catalog.policies.iter().any(|other| other.aliases.contains(name));
                if *name == policy.model {
                    self.fault(
                        &place,
                        &format!("`{name}` is to take over from itself"),
                        "name another model",
                    );
                } else if !is_alias && !listed.contains(name) {
                    let cure = nearest(name, listed.iter().map(String::as_str)).map_or_else(
                        || "name a model that a provider lists".to_owned(),
                        |near| format!("did you mean `{near}`?"),
                    );
                    self.fault(&place, &format!("no provider serves `{name}`, which is to take over"), &cure);
                }
            }
        }
    }

    /// What providers say of their models' names holds as if it stood with the public model. Several may say the same.
    pub(super) fn aliases_of_providers(&mut self) {
        let mut stated = Vec::new();
        for provider in &self.catalog.providers {
            let ModelSource::Listed(models) = &provider.models else { continue };
            for model in models {
                let place = format!("providers.{}.models.{}", provider.name, model.public);
                stated.extend(
                    model.aliases.iter().map(|alias| (place.clone(), model.public.clone(), alias.clone())),
                );
            }
        }
        for (place, model, alias) in stated {
            self.check_model_name(&place, &alias);
            match self.catalog.policies.iter_mut().find(|policy| policy.model == model) {
                Some(policy) if policy.aliases.contains(&alias) => {}
                Some(policy) => policy.aliases.push(alias),
                None => {
                    let policy = ModelPolicy { model, aliases: vec![alias], ..ModelPolicy::default() };
                    self.catalog.policies.push(policy);
                }
            }
        }
    }

    pub(super) fn unserved(&mut self, model: &str, listed: &[String]) {
        let cure = nearest(model, listed.iter().map(String::as_str)).map_or_else(
            || "list it under a provider's `models`".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        self.fault(&format!("models.{model}"), "no provider serves this model", &cure);
    }

    /// A name may belong to one model only.
    pub(super) fn refuse_ambiguous_names(&mut self, listed: &[String]) {
        let mut taken: Vec<(String, String)> =
            listed.iter().map(|model| (model.clone(), model.clone())).collect();
        let policies = self.catalog.policies.clone();
        let aliases =
            policies.iter().flat_map(|policy| policy.aliases.iter().map(|alias| (&policy.model, alias)));
        for (model, alias) in aliases {
            let is_own = alias == model || taken.iter().any(|taken| taken == &(alias.clone(), model.clone()));
            if is_own {
                let problem = format!("the alias `{alias}` is a name of this model already");
                self.fault(&format!("models.{model}"), &problem, "take it out");
            }
            let other = taken.iter().find(|(name, owner)| name == alias && owner != model);
            if let Some((_, owner)) = other {
                let problem = format!("the alias `{alias}` is already the name of `{owner}`");
                self.fault(&format!("models.{model}"), &problem, "choose another alias");
            }
            taken.push((alias.clone(), model.clone()));
        }
    }
}
