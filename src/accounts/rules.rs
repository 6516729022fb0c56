//! What the values of a key may be. Nothing here quotes a value.

use std::time::Duration;

use super::AccountError;
use crate::callers::{Budget, Change, Limits};
use crate::lint::is_language_tag;

/// Characters of a name or an owner.
const MOST_NAME: usize = 128;
/// Characters of a note.
const MOST_NOTE: usize = 2000;
/// Characters of a model's name: PostgreSQL looks up none of more than about 2700 bytes.
const MOST_MODEL: usize = 500;
/// Patterns in one list: each request is held against all of them.
const MOST_PATTERNS: usize = 100;
/// Characters of a pattern.
const MOST_PATTERN: usize = 200;
/// Far beyond what anybody uses; sums of such figures hold.
const MOST_COUNT: u64 = 1_000_000_000_000;
/// The same for money.
const MOST_MONEY: f64 = 1e12;
/// No secret that was replaced opens for longer.
const LONGEST_GRACE: Duration = Duration::from_secs(30 * 86_400);

/// # Errors
/// A value is not what it must be.
pub(super) fn check(change: &Change) -> Result<(), AccountError> {
    if let Some(name) = &change.name {
        check_name("name", name)?;
    }
    if let Some(Some(owner)) = &change.owner {
        check_name("owner", owner)?;
    }
    if let Some(patterns) = &change.allowed_models {
        check_patterns("allowed_models", patterns)?;
    }
    if let Some(patterns) = &change.allowed_endpoints {
        check_patterns("allowed_endpoints", patterns)?;
        check_paths("allowed_endpoints", patterns)?;
    }
    if let Some(Some(language)) = &change.language
        && !is_language_tag(language)
    {
        return Err(AccountError::invalid("language", "must be a language tag, such as pl or pt-BR"));
    }
    if let Some(limits) = &change.limits {
        check_limits(limits)?;
    }
    if let Some(Some(budget)) = &change.budget {
        check_budget(budget)?;
    }
    if let Some(Some(note)) = &change.note {
        check_note(note)?;
    }
    Ok(())
}

/// A key that never opened anything is a mistake. One that is there may be made to end at once.
///
/// # Errors
/// It would have expired already.
pub(super) fn check_beginning(change: &Change, now_ms: i64) -> Result<(), AccountError> {
    match change.expires_ms {
        Some(Some(expires_ms)) if expires_ms <= now_ms => {
            Err(AccountError::invalid("expires_at", "must be in the future"))
        }
        _ => Ok(()),
    }
}

fn check_name(param: &str, name: &str) -> Result<(), AccountError> {
    let length = name.chars().count();
    if (1..=MOST_NAME).contains(&length) && name.trim() == name && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let must = format!("must have 1 to {MOST_NAME} visible characters, and no space at its ends");
    Err(AccountError::invalid(param, &must))
}

fn check_patterns(param: &str, patterns: &[String]) -> Result<(), AccountError> {
    if patterns.len() > MOST_PATTERNS {
        return Err(AccountError::invalid(param, &format!("must have at most {MOST_PATTERNS} patterns")));
    }
    let is_pattern = |pattern: &String| {
        (1..=MOST_PATTERN).contains(&pattern.chars().count())
            && !pattern.contains(|c: char| c.is_control() || c.is_whitespace())
    };
    let must = format!("must have 1 to {MOST_PATTERN} characters without spaces; `*` stands for anything");
    all(param, patterns, is_pattern, &must)
}

fn check_paths(param: &str, patterns: &[String]) -> Result<(), AccountError> {
    let must = "must be a path with a slash in front, such as /v1/*";
    all(param, patterns, |pattern| pattern.starts_with(['/', '*', '?']), must)
}

fn all(
    param: &str,
    patterns: &[String],
    holds: impl Fn(&String) -> bool,
    must: &str,
) -> Result<(), AccountError> {
    match patterns.iter().position(|pattern| !holds(pattern)) {
        None => Ok(()),
        Some(index) => Err(AccountError::invalid(format!("{param}[{index}]"), must)),
    }
}

/// A limit of nothing is no limit but an end, and there is a better way to say that.
pub(super) fn check_limits(limits: &Limits) -> Result<(), AccountError> {
    for (name, limit) in [
        ("requests_per_minute", limits.requests_per_minute),
        ("tokens_per_minute", limits.tokens_per_minute),
        ("parallel_requests", limits.parallel_requests),
    ] {
        check_count(&format!("limits.{name}"), limit)?;
    }
    Ok(())
}

fn check_count(param: &str, count: Option<u64>) -> Result<(), AccountError> {
    match count {
        Some(0) => Err(AccountError::invalid(
            param,
            "must be at least 1; for no limit give none, and to let nothing pass disable the key",
        )),
        Some(count) if count > MOST_COUNT => {
            Err(AccountError::invalid(param, &format!("must be at most {MOST_COUNT}")))
        }
        _ => Ok(()),
    }
}

fn check_budget(budget: &Budget) -> Result<(), AccountError> {
    check_count("budget.tokens", budget.tokens)?;
    if budget.tokens.is_none() && budget.money.is_none() {
        return Err(AccountError::invalid("budget", "must name `tokens` or `money`"));
    }
    let is_sum = |money: f64| money > 0.0 && money <= MOST_MONEY;
    if budget.check().is_err() || budget.money.is_some_and(|money| !is_sum(money)) {
        return Err(AccountError::invalid("budget.money", "must be a sum of more than 0"));
    }
    Ok(())
}

/// The names of models are others' choice: what can be kept is taken.
pub(super) fn check_model(name: &str) -> Result<(), AccountError> {
    if (1..=MOST_MODEL).contains(&name.chars().count()) && !name.contains('\0') {
        return Ok(());
    }
    let must = format!("must be a name of 1 to {MOST_MODEL} characters to be switched");
    Err(AccountError::invalid("model", &must))
}

pub(super) fn check_note(note: &str) -> Result<(), AccountError> {
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    if note.chars().count() <= MOST_NOTE && note.chars().all(is_text) {
        return Ok(());
    }
    Err(AccountError::invalid("note", &format!("must be a text of at most {MOST_NOTE} characters")))
}

/// How long a replaced secret still opens, in milliseconds.
pub(super) fn grace_ms(grace: Duration) -> Result<i64, AccountError> {
    if grace > LONGEST_GRACE {
        let must = format!("must be between 0 and {}", LONGEST_GRACE.as_secs());
        return Err(AccountError::invalid("grace_seconds", &must));
    }
    Ok(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::Period;

    fn param(change: &Change) -> Option<String> {
        match check(change) {
            Ok(()) => None,
            Err(AccountError::Invalid { param, message }) => {
                assert!(message.starts_with(&format!("`{param}` must")), "{message}");
                Some(param)
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn of(change: impl FnOnce(&mut Change)) -> Change {
        let mut changed = Change::default();
        change(&mut changed);
        changed
    }

    #[test]
    fn names_are_visible_and_short() {
        for good in ["a", "My app", "Łódź", &"x".repeat(128)] {
            assert_eq!(param(&of(|c| c.name = Some(good.to_owned()))), None, "{good}");
            assert_eq!(param(&of(|c| c.owner = Some(Some(good.to_owned())))), None, "{good}");
        }
        for bad in ["", " ", " a", "a\nb", "a\u{7}", &"x".repeat(129)] {
            assert_eq!(param(&of(|c| c.name = Some(bad.to_owned()))).as_deref(), Some("name"), "{bad:?}");
            assert_eq!(param(&of(|c| c.owner = Some(Some(bad.to_owned())))).as_deref(), Some("owner"));
        }
        assert_eq!(param(&of(|c| c.owner = Some(None))), None);
    }

    #[test]
    fn patterns_are_bounded_in_number_and_length() {
        let list = |count: usize, text: &str| Some(vec![text.to_owned(); count]);
        assert_eq!(param(&of(|c| c.allowed_models = list(100, "gpt-*"))), None);
        assert_eq!(param(&of(|c| c.allowed_models = list(101, "a"))).as_deref(), Some("allowed_models"));
        for bad in ["", "a b", "a\n", &"x".repeat(201)] {
            let models = param(&of(|c| c.allowed_models = Some(vec!["a".to_owned(), bad.to_owned()])));
            assert_eq!(models.as_deref(), Some("allowed_models[1]"), "{bad:?}");
        }
        for (path, is_good) in [("/v1/*", true), ("*", true), ("chat", false)] {
            assert_eq!(param(&of(|c| c.allowed_endpoints = list(1, path))).is_none(), is_good, "{path}");
        }
    }

    #[test]
    fn nothing_is_no_limit_and_no_budget() {
        let limits = |limit| Limits { tokens_per_minute: limit, ..Limits::default() };
        for (limit, is_good) in [(None, true), (Some(1), true), (Some(0), false), (Some(u64::MAX), false)] {
            let told = param(&of(|c| c.limits = Some(limits(limit))));
            assert_eq!(told.as_deref(), (!is_good).then_some("limits.tokens_per_minute"), "{limit:?}");
        }
        let budget = |tokens, money| {
            let budget = Budget { tokens, money, period: Period::Day, cut_off: false };
            param(&of(|c| c.budget = Some(Some(budget))))
        };
        assert_eq!(budget(Some(5), None), None);
        assert_eq!(budget(None, Some(0.5)), None);
        assert_eq!(budget(None, None).as_deref(), Some("budget"));
        assert_eq!(budget(Some(0), None).as_deref(), Some("budget.tokens"));
        for money in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(budget(Some(5), Some(money)).as_deref(), Some("budget.money"), "{money}");
        }
    }

    #[test]
    fn languages_notes_and_grace_have_their_form() {
        assert_eq!(param(&of(|c| c.language = Some(Some("pt-BR".to_owned())))), None);
        assert_eq!(param(&of(|c| c.language = Some(Some("!".to_owned())))).as_deref(), Some("language"));
        assert_eq!(param(&of(|c| c.note = Some(Some("a\nb".to_owned())))), None);
        for bad in ["\u{0}", &"x".repeat(2001)] {
            assert_eq!(param(&of(|c| c.note = Some(Some(bad.to_owned())))).as_deref(), Some("note"));
        }
        assert_eq!(grace_ms(Duration::from_secs(30 * 86_400)).unwrap(), 2_592_000_000);
        assert!(grace_ms(Duration::from_secs(30 * 86_400 + 1)).is_err());
    }
}
