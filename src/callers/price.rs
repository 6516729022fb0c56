//! What tokens cost: a price for a model holds from a day on, until a later one does.

use std::sync::Arc;

use super::pattern::matches;
use crate::llm::Usage;

/// What a model costs from a time on, in the one currency of all prices.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// A pattern of upstream or public names.
    pub model: String,
    /// Of one provider only, by its name.
    pub provider: Option<String>,
    /// In milliseconds since 1970.
    pub from_ms: i64,
    /// For a million tokens of prompts.
    pub input: f64,
    /// For a million tokens of answers.
    pub output: f64,
    /// For a million tokens of prompts that the provider had in its cache; as `input` if not said.
    pub cached_input: Option<f64>,
    /// For a raw request, besides its tokens: of images, speech and the like, whose answers report none. Such requests have no
    /// price without it.
    pub request: Option<f64>,
}

/// All prices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices(Vec<Arc<Price>>);

/// The prices of one model at one provider, in the course of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PriceHistory {
    /// For this provider. These go before those for all.
    own: Vec<Arc<Price>>,
    /// Whatever the provider.
    general: Vec<Arc<Price>>,
}

impl Prices {
    /// Of several for one model that hold from the same time on, the last in this order counts.
    pub fn new(mut prices: Vec<Price>) -> Self {
        // Stable, so that of equals the later in the file wins when looked at from behind.
        prices.sort_by_key(|price| price.from_ms);
        Self(prices.into_iter().map(Arc::new).collect())
    }

    /// All of them, those that hold from earlier on first.
    pub fn iter(&self) -> impl Iterator<Item = &Price> {
        self.0.iter().map(|price| &**price)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of a model, by any of its names.
    pub fn history(&self, provider: &str, names: [&str; 2]) -> PriceHistory {
        let fitting =
            self.0.iter().filter(|price| names.iter().any(|name| matches(&price.model, name))).cloned();
        let mut history = PriceHistory::default();
        for price in fitting {
            match price.provider.as_deref() {
                None => history.general.push(price),
                Some(own) if own == provider => history.own.push(price),
                Some(_) => {}
            }
        }
        history
    }
}

impl PriceHistory {
    /// The price now; `None` if there is none.
    pub fn now(&self) -> Option<&Arc<Price>> {
        let is_empty = self.own.is_empty() && self.general.is_empty();
        if is_empty { None } else { self.at(super::now_ms()) }
    }

    /// The price at a time; `None` if there is none.
    pub fn at(&self, now_ms: i64) -> Option<&Arc<Price>> {
        let holding = |prices: &'_ [Arc<Price>]| prices.iter().rposition(|price| price.from_ms <= now_ms);
        holding(&self.own)
            .and_then(|at| self.own.get(at))
            .or_else(|| self.general.get(holding(&self.general)?))
    }
}

impl Price {
    /// How many tokens an answer may have for so much money, after a prompt of so many; `None` if answers cost nothing.
    pub(super) fn answer_for(&self, money: f64, input_tokens: u64) -> Option<u64> {
        let rest = money - self.cost(&Usage { input_tokens, ..Usage::default() });
        // A sum that is a whole number of tokens stays one, however it is rounded.
        let tokens = (rest.max(0.0) * 1_000_000.0 / self.output + 1e-6).floor();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not below 0, and held by the type"
        )]
        (self.output > 0.0).then_some(tokens as u64)
    }

    /// What a request cost.
    pub fn cost(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_input_tokens.min(usage.input_tokens);
        let fresh = usage.input_tokens - cached;
        #[expect(clippy::cast_precision_loss, reason = "tokens of one request are far below 2^52")]
        let part = |tokens: u64, price: f64| tokens as f64 * price / 1_000_000.0;
        part(fresh, self.input)
            + part(cached, self.cached_input.unwrap_or(self.input))
            + part(usage.output_tokens, self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(model: &str, provider: Option<&str>, from_ms: i64, input: f64) -> Price {
        Price {
            model: model.to_owned(),
            provider: provider.map(str::to_owned),
            from_ms,
            input,
            output: 10.0,
            cached_input: None,
            request: None,
        }
    }

    #[test]
    fn the_price_of_the_time_and_of_the_provider_holds() {
        let prices = Prices::new(vec![
            price("gpt-4o", None, 2000, 3.0),
            price("gpt-4o", None, 0, 2.0),
            price("gpt-4o", Some("azure"), 0, 5.0),
            price("gpt-*", None, 0, 1.0),
        ]);
        let input = |provider: &str, name: &str, now| {
            prices.history(provider, [name, "public"]).at(now).map(|price| price.input)
        };
        assert_eq!(input("openai", "gpt-4o", 2000), Some(3.0));
        assert_eq!(input("azure", "gpt-4o", 3000), Some(5.0));
        assert_eq!(input("openai", "gpt-5", 3000), Some(1.0));
        assert_eq!(input("openai", "gpt-5", -1), None);
        assert_eq!(input("openai", "llama", 3000), None, "without a price, not for nothing");
    }

    #[test]
    fn cached_tokens_have_a_price_of_their_own() {
        let usage =
            Usage { input_tokens: 1000, output_tokens: 100, cached_input_tokens: 600, ..Usage::default() };
        let cheap = Price { cached_input: Some(1.0), ..price("m", None, 0, 2.0) };
        assert!((cheap.cost(&usage) - (400.0 * 2.0 + 600.0 + 1000.0) / 1e6).abs() < 1e-12);
        let plain = price("m", None, 0, 2.0);
        assert!((plain.cost(&usage) - (1000.0 * 2.0 + 1000.0) / 1e6).abs() < 1e-12);
    }
}
