//! What the models file says of those who call: limits that are not those of one key, and prices.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Reader;
use super::raw::Pairs;
use crate::callers::{Budget, Limits, Period, Price, Prices, Rules, moment};
use crate::lint::{self, Object, Syntax};

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimits {
    gateway: Object<RawLimit>,
    models: Pairs<Object<RawLimit>>,
    owners: Pairs<Object<RawLimit>>,
    #[serde(rename = "comment")]
    _comment: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawLimit {
    #[serde(deserialize_with = "lint::count_from_one")]
    requests_per_minute: Option<u64>,
    #[serde(deserialize_with = "lint::count_from_one")]
    tokens_per_minute: Option<u64>,
    #[serde(deserialize_with = "lint::count_from_one")]
    parallel_requests: Option<u64>,
    budget: Option<Object<RawBudget>>,
    #[serde(rename = "comment")]
    _comment: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBudget {
    tokens: Option<u64>,
    money: Option<f64>,
    period: Period,
    #[serde(default)]
    cut_off: bool,
    #[serde(default, rename = "comment")]
    _comment: Option<IgnoredAny>,
}

/// A file of prices.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrices {
    #[serde(default)]
    prices: Vec<Object<RawPrice>>,
    /// When they were looked up; where; in which currency: for people.
    #[serde(default, rename = "date")]
    _date: Option<IgnoredAny>,
    #[serde(default, rename = "source")]
    _source: Option<IgnoredAny>,
    #[serde(default, rename = "currency")]
    _currency: Option<IgnoredAny>,
    #[serde(default, rename = "comment")]
    _comment: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrice {
    model: String,
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    input: Option<f64>,
    #[serde(default)]
    output: f64,
    #[serde(default)]
    cached_input: Option<f64>,
    #[serde(default)]
    request: Option<f64>,
    #[serde(default, rename = "comment")]
    _comment: Option<IgnoredAny>,
}

impl Reader<'_> {
    pub(super) fn limits(&mut self, raw: RawLimits, listed: &[String]) {
        let mut rules =
            Rules { gateway: self.limits_of("limits.gateway", &raw.gateway.0), ..Rules::default() };
        if raw.gateway.0.budget.is_some() {
            self.fault("limits.gateway", "only owners and keys have budgets", "take `budget` out");
        }
        for (model, Object(raw)) in raw.models.0 {
            let place = format!("limits.models.{model}");
            if raw.budget.is_some() {
                self.fault(&place, "only owners and keys have budgets", "take `budget` out");
            }
            let is_known = listed.is_empty() || listed.contains(&model);
            if !is_known {
                self.warn(&place, "no provider lists this model; its limits hold for nobody");
            }
            let limits = self.limits_of(&place, &raw);
            rules.models.insert(model, limits);
        }
        for (owner, Object(raw)) in raw.owners.0 {
            let limits = self.limits_of(&format!("limits.owners.{owner}"), &raw);
            rules.owners.insert(owner.clone(), limits);
            if let Some(Object(raw)) = raw.budget {
                let budget =
                    Budget { tokens: raw.tokens, money: raw.money, period: raw.period, cut_off: raw.cut_off };
                if let Err(problem) = budget.check() {
                    self.fault(&format!("limits.owners.{owner}.budget"), problem, "give `tokens` or `money`");
                }
                rules.owner_budgets.insert(owner, budget);
            }
        }
        self.catalog.rules = rules;
    }

    /// A limit of nothing is no limit but an end, which is said in another way.
    fn limits_of(&mut self, place: &str, raw: &RawLimit) -> Limits {
        let RawLimit { requests_per_minute, tokens_per_minute, parallel_requests, .. } = *raw;
        for (name, limit) in [
            ("requests_per_minute", requests_per_minute),
            ("tokens_per_minute", tokens_per_minute),
            ("parallel_requests", parallel_requests),
        ] {
            if limit == Some(0) {
                self.fault(
                    &format!("{place}.{name}"),
                    "a limit of 0 lets nothing pass",
                    "give 1 or more, or leave it out",
                );
            }
        }
        Limits { requests_per_minute, tokens_per_minute, parallel_requests }
    }

    /// Reads the file of prices, whose path is relative to the models file.
    pub(super) fn prices(&mut self, path: &str) {
        let path = Path::new(self.file).parent().map_or_else(|| path.into(), |folder| folder.join(path));
        let name = path.display().to_string();
        self.catalog.prices_file = Some(path.clone());
        let unread =
            |error: std::io::Error| (error.to_string(), "make it readable, or name another file".to_owned());
        let read = lint::read_text(&path).map_err(unread).and_then(|text| {
            let is_yaml = path.extension().is_some_and(|ending| ending != "json");
            let syntax = if is_yaml { Syntax::Yaml } else { Syntax::Json };
            let misread = |it: lint::Misread| {
                let line = it.line.map(|line| format!("line {line}: ")).unwrap_or_default();
                let place = if it.path.is_empty() { it.path } else { format!("{}: ", it.path) };
                (format!("{line}{place}{}", it.problem), it.cure)
            };
            lint::read::<Object<RawPrices>>(syntax, &text).map_err(misread)
        });
        let raw = match read {
            Ok(Object(raw)) => raw,
            Err((problem, cure)) => return self.fault(&format!("prices: {name}"), &problem, &cure),
        };
        let mut prices = Vec::new();
        for (at, Object(raw)) in raw.prices.into_iter().enumerate() {
            match price(raw) {
                Ok(price) => prices.push(price),
                Err((problem, cure)) => {
                    self.fault(&format!("prices: {name}: prices[{at}]"), &problem, cure);
                }
            }
        }
        self.catalog.prices = Prices::new(prices);
    }
}

fn price(raw: RawPrice) -> Result<Price, (String, &'static str)> {
    let from_ms = match &raw.from {
        None => i64::MIN,
        Some(text) => moment(text).ok_or_else(|| {
            (format!("`from` is `{text}`"), "give a day such as 2026-11-21, or leave it out")
        })?,
    };
    // What has a price for a request may have none for tokens; all else must say what a prompt costs.
    let input = raw.input.or(raw.request.map(|_| 0.0)).ok_or_else(|| {
        (
            "`input` is missing".to_owned(),
            "give what a million tokens of prompts cost, or `request`: what a raw request costs",
        )
    })?;
    let sums = [Some(input), Some(raw.output), raw.cached_input, raw.request];
    if let Some(sum) = sums.into_iter().flatten().find(|sum| !sum.is_finite() || *sum < 0.0) {
        return Err((
            format!("a price is {sum}"),
            "give what a million tokens, or a request, cost, 0 or more",
        ));
    }
    Ok(Price {
        model: raw.model,
        provider: raw.provider,
        from_ms,
        input,
        output: raw.output,
        cached_input: raw.cached_input,
        request: raw.request,
    })
}
