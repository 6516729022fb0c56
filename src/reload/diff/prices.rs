//! What tokens cost: which prices are new, gone, or others.

use std::collections::HashMap;

use super::fields::Fields;
use crate::callers::{Price, Prices, moment_as_text};

/// What a price is for.
type Of<'a> = (&'a str, Option<&'a str>, i64);

/// What is different, in words, a price each.
pub(super) fn details(old: &Prices, new: &Prices) -> Vec<String> {
    let (before, after) = (holding(old), holding(new));
    let mut details = Vec::new();
    for price in new.iter().filter(|price| holds(&after, price)) {
        match before.get(&of(price)) {
            None => details.push(format!("{}: added", name(price))),
            Some(before) => {
                let mut fields = Fields::default();
                fields.shown("input", &before.input, &price.input);
                let cached = |price: &Price| price.cached_input;
                fields.shown_if_any("cached_input", cached(before).as_ref(), cached(price).as_ref());
                fields.shown("output", &before.output, &price.output);
                fields.shown_if_any("request", before.request.as_ref(), price.request.as_ref());
                details
                    .extend(fields.into_words().into_iter().map(|words| format!("{}: {words}", name(price))));
            }
        }
    }
    let gone = old.iter().filter(|price| holds(&before, price) && !after.contains_key(&of(price)));
    details.extend(gone.map(|price| format!("{}: removed", name(price))));
    details
}

fn of(price: &Price) -> Of<'_> {
    (&price.model, price.provider.as_deref(), price.from_ms)
}

/// The prices that count: of several for the same, the last one.
fn holding(prices: &Prices) -> HashMap<Of<'_>, &Price> {
    prices.iter().map(|price| (of(price), price)).collect()
}

fn holds(holding: &HashMap<Of<'_>, &Price>, price: &Price) -> bool {
    holding.get(&of(price)).is_some_and(|last| std::ptr::eq(*last, price))
}

fn name(price: &Price) -> String {
    let provider = price.provider.as_ref().map(|provider| format!(" of {provider}")).unwrap_or_default();
    let from = moment_as_text(price.from_ms);
    let from = if price.from_ms == i64::MIN { String::new() } else { format!(" from {from}") };
    format!("{}{provider}{from}", price.model)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(model: &str, provider: Option<&str>, from_ms: i64, output: f64) -> Price {
        let (model, provider) = (model.to_owned(), provider.map(str::to_owned));
        Price { model, provider, from_ms, input: 1.0, output, cached_input: None, request: None }
    }

    #[test]
    fn each_price_that_is_different_is_told() {
        let old =
            vec![price("a", None, i64::MIN, 2.0), price("b", Some("up"), 0, 3.0), price("c", None, 0, 4.0)];
        let mut new = old.clone();
        assert!(details(&Prices::new(old.clone()), &Prices::new(new.clone())).is_empty());
        new[0].output = 2.5;
        new[0].cached_input = Some(0.5);
        new[1].from_ms = 86_400_000;
        assert_eq!(
            details(&Prices::new(old), &Prices::new(new)),
            [
                "a: cached_input none → 0.5",
                "a: output 2 → 2.5",
                "b of up from 1970-01-02T00:00:00Z: added",
                "b of up from 1970-01-01T00:00:00Z: removed"
            ]
        );
    }

    #[test]
    fn of_several_for_the_same_the_last_one_is_compared() {
        let twice =
            |last: f64| Prices::new(vec![price("a", None, i64::MIN, 1.0), price("a", None, i64::MIN, last)]);
        let once = |output: f64| Prices::new(vec![price("a", None, i64::MIN, output)]);
        assert!(details(&twice(2.0), &twice(2.0)).is_empty(), "nothing is different");
        assert!(details(&twice(2.0), &once(2.0)).is_empty() && details(&once(2.0), &twice(2.0)).is_empty());
        assert_eq!(details(&twice(2.0), &twice(3.0)), ["a: output 2 → 3"]);
        assert_eq!(details(&once(1.0), &twice(3.0)), ["a: output 1 → 3"]);
        let none = Prices::default();
        assert_eq!(details(&none, &twice(2.0)), ["a: added"]);
        assert_eq!(details(&twice(2.0), &none), ["a: removed"]);
    }
}
