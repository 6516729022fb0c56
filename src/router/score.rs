//! What a deployment is worth, as one number: leaderboards, size, context and the operator's own opinion.
//!
//! Pure. A score that is not above zero leaves a deployment out wherever scores decide, unless it is zero because nothing
//! is known: many lists of models give names only.

use crate::config::ScoreScalars;

/// The parts of a score, each in points, and what they come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// For its place on the leaderboards.
    pub leaderboard: f64,
    /// For its size.
    pub param: f64,
    /// For its context.
    pub context: f64,
    /// As the operator says.
    pub adjustment: f64,
    /// All of them, times the provider's priority.
    pub overall: f64,
    /// Whether it is good enough to be asked.
    pub suffices: bool,
}

/// What is known of a deployment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Merits<'a> {
    /// The provider's name of the model.
    pub(super) model: &'a str,
    pub(super) context_tokens: Option<u64>,
    /// From 0 to 1; none if no leaderboard has it.
    pub(super) leaderboard: Option<f64>,
    pub(super) adjustment: f64,
    pub(super) base_priority: f64,
}

impl Score {
    pub(super) fn of(merits: &Merits<'_>, scalars: &ScoreScalars) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "contexts are far below 2^52")]
        let context_tokens = merits.context_tokens.unwrap_or(0) as f64;
        let parts = Self {
            leaderboard: merits.leaderboard.unwrap_or(0.0) * scalars.leaderboard,
            param: billions_in(merits.model).unwrap_or(0.0) * scalars.param,
            context: context_tokens * scalars.context,
            adjustment: merits.adjustment * scalars.adjustment,
            ..Self::default()
        };
        let stated = [parts.leaderboard, parts.param, parts.context, parts.adjustment];
        let overall = stated.iter().sum::<f64>() * merits.base_priority;
        let is_unknown = stated.iter().all(|part| part.abs() <= 0.0);
        Self { overall, suffices: overall > 0.0 || is_unknown && merits.base_priority > 0.0, ..parts }
    }
}

/// The size that a model's name tells, in thousand millions of parameters: `llama-3.1-70b`, `smollm2-360m`,
/// `mixtral-8x7b`. Of several the largest, for others tell what is active of it.
fn billions_in(name: &str) -> Option<f64> {
    let name = name.to_ascii_lowercase();
    let words = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    words.filter_map(size_of).max_by(f64::total_cmp)
}

/// The size that a word stands for, if it is one.
fn size_of(word: &str) -> Option<f64> {
    let (number, unit) = word.split_at_checked(word.len().checked_sub(1)?)?;
    let billions = match unit {
        "b" => 1.0,
        "m" => 0.001,
        "t" => 1000.0,
        _ => return None,
    };
    // Gemma 3n's `e4b` and the like: effective parameters. `a3b` tells what is active.
    let number = number.strip_prefix(['a', 'e']).unwrap_or(number);
    let (times, each) = number.split_once('x').unwrap_or(("1", number));
    let number = |text: &str| {
        let is_number =
            text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_digit());
        text.parse::<f64>().ok().filter(|_| is_number)
    };
    Some(number(times)? * number(each)? * billions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (name, billions) in [
            ("meta-llama/Llama-3.3-70B-Instruct:free", Some(70.0)),
            ("smollm2-350m", Some(0.35)),
            ("mixtral-8x7b-32768", Some(56.0)),
            ("qwen3-30b-a3b-instruct", Some(30.0)),
            ("gemma-3n-e4b-it", Some(4.0)),
            ("llama3.2:1.5b", Some(1.5)),
            ("kimi-k2-1t", Some(1000.0)),
            ("gpt-4o-mini", None),
            ("b", None),
            ("web-search", None),
            ("phi-4-mm", None),
        ] {
            let read = billions_in(name);
            let is_near = read.zip(billions).is_some_and(|(one, other)| (one - other).abs() < 1e-9);
            assert!(is_near || read == billions, "{name}: {read:?}");
        }
    }

    #[test]
    fn a_score_is_the_sum_of_its_parts_times_the_priority() {
        let merits = Merits {
            model: "m-405b",
            context_tokens: Some(2_000_000),
            leaderboard: Some(0.5),
            adjustment: 30.0,
            base_priority: 0.5,
        };
        let score = Score::of(&merits, &ScoreScalars::default());
        assert!((score.param - 100.0).abs() < 1e-9 && (score.context - 100.0).abs() < 1e-9);
        assert!((score.leaderboard - 50.0).abs() < 1e-9 && (score.adjustment - 60.0).abs() < 1e-9);
        assert!((score.overall - 155.0).abs() < 1e-9);
        let unloved = Score::of(&Merits { adjustment: -10_000.0, ..merits }, &ScoreScalars::default());
        assert!(unloved.overall < 0.0);
    }

    #[test]
    fn what_is_not_above_zero_does_not_suffice_unless_nothing_is_known() {
        let of = |merits: Merits<'_>| Score::of(&merits, &ScoreScalars::default()).suffices;
        let unknown = Merits { model: "chat", base_priority: 1.0, ..Merits::default() };
        assert!(of(unknown) && of(Merits { model: "chat-1b", ..unknown }));
        assert!(!of(Merits { adjustment: -1.0, ..unknown }) && !of(Merits { base_priority: 0.0, ..unknown }));
        assert!(!of(Merits { model: "chat-1b", base_priority: 0.0, ..unknown }));
        assert!(!of(Merits { model: "chat-1b", adjustment: -1.0, ..unknown }));
    }
}
