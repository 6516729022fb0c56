//! The ranges of request members, for those that an operator sets.

use serde_json::{Map, Value};

/// A member with its least and greatest number, and whether it has to be whole.
struct Range {
    member: &'static str,
    least: f64,
    greatest: f64,
    is_whole: bool,
}

const fn number(member: &'static str, least: f64, greatest: f64) -> Range {
    Range { member, least, greatest, is_whole: false }
}

const fn whole(member: &'static str, least: f64, greatest: f64) -> Range {
    Range { member, least, greatest, is_whole: true }
}

/// Those of OpenAI's API, and of the options that providers add to it.
const RANGES: &[Range] = &[
    number("temperature", 0.0, 2.0),
    number("top_p", 0.0, 1.0),
    number("typical_p", 0.0, 1.0),
    number("min_p", 0.0, 1.0),
    number("presence_penalty", -2.0, 2.0),
    number("frequency_penalty", -2.0, 2.0),
    number("repetition_penalty", 0.0, f64::INFINITY),
    number("repeat_penalty", 0.0, f64::INFINITY),
    whole("max_tokens", 1.0, f64::INFINITY),
    whole("max_completion_tokens", 1.0, f64::INFINITY),
    whole("max_new_tokens", 1.0, f64::INFINITY),
    whole("n", 1.0, 128.0),
    // Dotprompt's names.
    number("topP", 0.0, 1.0),
    whole("maxOutputTokens", 1.0, f64::INFINITY),
];

/// The members that no request may have like this: name, value, and what is allowed.
pub fn out_of_range(members: &Map<String, Value>) -> Vec<(String, String, String)> {
    let mut faults = Vec::new();
    for range in RANGES {
        let Some(value) = members.get(range.member).filter(|value| !value.is_null()) else { continue };
        let number = value.as_f64().filter(|n| (range.least..=range.greatest).contains(n));
        if number.is_none_or(|number| range.is_whole && number.fract() != 0.0) {
            faults.push((range.member.to_owned(), value.to_string(), range.allowed()));
        }
    }
    faults
}

impl Range {
    fn allowed(&self) -> String {
        let kind = if self.is_whole { "a whole number" } else { "a number" };
        if self.greatest.is_infinite() {
            format!("{kind} from {}", self.least)
        } else {
            format!("{kind} from {} to {}", self.least, self.greatest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_out_of_their_range_are_found() {
        let good = json!({"temperature": 2, "top_p": 0.5, "n": 128, "max_tokens": 1, "presence_penalty": -2, "other": "x", "min_p": null});
        assert!(out_of_range(good.as_object().unwrap()).is_empty());
        for (member, value, allowed) in [
            ("temperature", json!(9), "a number from 0 to 2"),
            ("temperature", json!("warm"), "a number from 0 to 2"),
            ("top_p", json!(-0.1), "a number from 0 to 1"),
            ("frequency_penalty", json!(2.1), "a number from -2 to 2"),
            ("max_tokens", json!(0), "a whole number from 1"),
            ("max_tokens", json!(1.5), "a whole number from 1"),
            ("n", json!(129), "a whole number from 1 to 128"),
        ] {
            let members = Map::from_iter([(member.to_owned(), value.clone())]);
            assert_eq!(out_of_range(&members), [(member.to_owned(), value.to_string(), allowed.to_owned())]);
        }
    }
}
