//! The rules for single members of a request.

use crate::llm::RawObject;
use crate::wire::Invalid;

/// What a member must be. `null` always passes: it means that the member is left out.
#[derive(Clone, Copy, Debug)]
pub(super) enum FieldRule {
    Text,
    Bool,
    /// `logprobs`: a switch in chats, a count in legacy completions and some servers.
    BoolOrCount,
    /// From, to.
    Number(f64, f64),
    /// At least, at most.
    Whole(u64, u64),
    List,
    Object,
    TextOrList,
    TextOrObject,
}

/// Checks the members of `body` that have a rule.
pub(super) fn check(body: &RawObject, rules: &[(&str, FieldRule)]) -> Result<(), Invalid> {
    for (name, value) in body.members() {
        let rule = rules.iter().find(|(known, _)| *known == name);
        if let Some((_, rule)) = rule
            && value != b"null"
            && let Err(must) = rule.check(value)
        {
            return Err(Invalid::value(name, format!("`{name}` must be {must}")));
        }
    }
    Ok(())
}

impl FieldRule {
    /// Whether the JSON text `value` keeps the rule; if not, what it must be.
    fn check(self, value: &[u8]) -> Result<(), String> {
        let first = value.first().copied().unwrap_or_default();
        let (holds, must) = match self {
            Self::Text => (first == b'"', "a text"),
            Self::Bool => (is_bool(value), "true or false"),
            Self::BoolOrCount => (is_bool(value) || first.is_ascii_digit(), "true or false"),
            Self::List => (first == b'[', "a list"),
            Self::Object => (first == b'{', "an object"),
            Self::TextOrList => (matches!(first, b'"' | b'['), "a text or a list"),
            Self::TextOrObject => (matches!(first, b'"' | b'{'), "a text or an object"),
            Self::Number(from, to) => return number(value, from, to),
            Self::Whole(least, most) => return whole(value, least, most),
        };
        if holds { Ok(()) } else { Err(must.to_owned()) }
    }
}

fn is_bool(value: &[u8]) -> bool {
    matches!(value, b"true" | b"false")
}

fn number(value: &[u8], from: f64, to: f64) -> Result<(), String> {
    let number: f64 = serde_json::from_slice(value).map_err(|_| "a number".to_owned())?;
    if (from..=to).contains(&number) { Ok(()) } else { Err(format!("between {from} and {to}")) }
}

fn whole(value: &[u8], least: u64, most: u64) -> Result<(), String> {
    let number: u64 = serde_json::from_slice(value).map_err(|_| {
        // Some servers read -1 as no limit.
        let none = if most == u64::MAX { "; leave it out for no limit" } else { "" };
        format!("a whole number, and not negative{none}")
    })?;
    match number {
        number if number < least => Err(format!("at least {least}")),
        number if number > most => Err(format!("at most {most}")),
        _ => Ok(()),
    }
}
