//! What tokens cost: which prices are new, gone, or others.

use super::fields::Fields;
use crate::callers::{Price, Prices, moment_as_text};

/// What is different, in words, a price each.
pub(super) fn details(old: &Prices, new: &Prices) -> Vec<String> {
    let mut details = Vec::new();
    for price in new.iter() {
        match old.iter().find(|other| is_for_the_same(price, other)) {
            None => details.push(format!("{}: added", name(price))),
            Some(before) => {
                let mut fields = Fields::default();
                fields.shown("input", &before.input, &price.input);
                let cached = |price: &Price| price.cached_input;
                fields.shown_if_any("cached_input", cached(before).as_ref(), cached(price).as_ref());
                fields.shown("output", &before.output, &price.output);
                details
                    .extend(fields.into_words().into_iter().map(|words| format!("{}: {words}", name(price))));
            }
        }
    }
    let gone = old.iter().filter(|price| !new.iter().any(|other| is_for_the_same(price, other)));
    details.extend(gone.map(|price| format!("{}: removed", name(price))));
    details
}

fn is_for_the_same(one: &Price, other: &Price) -> bool {
    (&one.model, &one.provider, one.from_ms) == (&other.model, &other.provider, other.from_ms)
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
        Price { model, provider, from_ms, input: 1.0, output, cached_input: None }
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
}
