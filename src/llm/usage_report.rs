//! A report of what was used, in whatever words and shapes: what can be read of it counts, and the rest is left out.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::usage::{Missing, Usage, UsageSource};

/// Counts as far as they are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) input: Option<u64>,
    pub(super) output: Option<u64>,
    pub(super) cached: Option<u64>,
    pub(super) reasoning: Option<u64>,
    /// Input and output together.
    pub(super) total: Option<u64>,
}

impl Counts {
    /// Takes over a later report, which takes precedence.
    pub(super) fn put(&mut self, later: Self) {
        self.input = later.input.or(self.input);
        self.output = later.output.or(self.output);
        self.cached = later.cached.or(self.cached);
        self.reasoning = later.reasoning.or(self.reasoning);
        self.total = later.total.or(self.total);
    }

    /// What was used, if one of the two counts is known, or their sum.
    pub(super) fn usage(self) -> Option<Usage> {
        let rest = |other: Option<u64>| self.total?.checked_sub(other?);
        let (input, output) =
            (self.input.or_else(|| rest(self.output)), self.output.or_else(|| rest(self.input)));
        let missing = match (input, output, self.total) {
            (None, None, None) => return None,
            (None, None, Some(_)) => Some(Missing::Split),
            (None, Some(_), _) => Some(Missing::Input),
            (Some(_), None, _) => Some(Missing::Output),
            (Some(_), Some(_), _) => None,
        };
        Some(Usage {
            input_tokens: input.unwrap_or(0),
            output_tokens: output.or(self.total.filter(|_| input.is_none())).unwrap_or(0),
            cached_input_tokens: self.cached.unwrap_or(0),
            reasoning_tokens: self.reasoning.unwrap_or(0),
            source: UsageSource::Provider,
            missing,
        })
    }
}

/// A `usage` object in the words of OpenAI's two APIs, of Anthropic's, or of those who write them in another case.
#[derive(Default)]
pub(super) struct Report {
    prompt: Option<u64>,
    completion: Option<u64>,
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    of_input: Details,
    of_output: Details,
    cache_read: Option<u64>,
    cache_creation: Option<u64>,
}

impl Report {
    pub(super) fn counts(&self) -> Counts {
        // Only Anthropic has these two, and does not count them among the others.
        let beside = self.cache_read.unwrap_or(0).saturating_add(self.cache_creation.unwrap_or(0));
        let input = self.input.map(|tokens| tokens.saturating_add(beside));
        // Where both names are there, one of them may be a 0 that stands for nothing.
        let either = |one: Option<u64>, other: Option<u64>| one.filter(|count| *count > 0).or(other).or(one);
        Counts {
            input: either(self.prompt, input),
            output: either(self.completion, self.output),
            cached: self.of_input.cached.or(self.cache_read),
            reasoning: self.of_output.reasoning,
            total: self.total,
        }
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    #[serde(alias = "promptTokens")]
    PromptTokens,
    #[serde(alias = "completionTokens")]
    CompletionTokens,
    #[serde(alias = "inputTokens")]
    InputTokens,
    #[serde(alias = "outputTokens")]
    OutputTokens,
    #[serde(alias = "totalTokens")]
    TotalTokens,
    #[serde(alias = "input_tokens_details")]
    PromptTokensDetails,
    #[serde(alias = "output_tokens_details")]
    CompletionTokensDetails,
    CacheReadInputTokens,
    CacheCreationInputTokens,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Report {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfReport)
    }
}

struct OfReport;

impl<'de> Visitor<'de> for OfReport {
    type Value = Report;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a report of usage")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Report, A::Error> {
        let mut report = Report::default();
        while let Some(name) = map.next_key()? {
            match name {
                Name::PromptTokensDetails => report.of_input = map.next_value()?,
                Name::CompletionTokensDetails => report.of_output = map.next_value()?,
                name => {
                    let LenientCount(count) = map.next_value()?;
                    report.put(&name, count);
                }
            }
        }
        Ok(report)
    }
}

impl Report {
    fn put(&mut self, name: &Name, count: Option<u64>) {
        let place = match name {
            Name::PromptTokens => &mut self.prompt,
            Name::CompletionTokens => &mut self.completion,
            Name::InputTokens => &mut self.input,
            Name::OutputTokens => &mut self.output,
            Name::TotalTokens => &mut self.total,
            Name::CacheReadInputTokens => &mut self.cache_read,
            Name::CacheCreationInputTokens => &mut self.cache_creation,
            Name::PromptTokensDetails | Name::CompletionTokensDetails | Name::Other => return,
        };
        *place = count.or(*place);
    }
}

#[derive(Clone, Copy, Default)]
struct Details {
    cached: Option<u64>,
    reasoning: Option<u64>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Detail {
    CachedTokens,
    ReasoningTokens,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Details {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfDetails)
    }
}

/// A count; `None` for whatever else stands in its place.
#[derive(Clone, Copy, Debug, Default)]
pub struct LenientCount(pub Option<u64>);

impl<'de> Deserialize<'de> for LenientCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Count)
    }
}

/// No request takes more: a larger count is a slip, and would use up every budget.
const MOST_TOKENS: u64 = 1_000_000_000_000;

/// Whole numbers, also with a decimal point or as a text.
pub(super) fn count_of(text: &str) -> Option<u64> {
    let text = text.trim();
    text.parse().ok().or_else(|| whole(text.parse().ok()?)).and_then(likely)
}

fn likely(count: u64) -> Option<u64> {
    (count <= MOST_TOKENS).then_some(count)
}

fn whole(number: f64) -> Option<u64> {
    let is_whole = number.is_finite() && number >= 0.0 && number.fract() == 0.0;
    is_whole.then(|| format!("{number:.0}").parse().ok())?
}

struct Count;

impl<'de> Visitor<'de> for Count {
    type Value = LenientCount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a count")
    }

    fn visit_u64<E>(self, count: u64) -> Result<LenientCount, E> {
        Ok(LenientCount(likely(count)))
    }

    fn visit_i64<E>(self, count: i64) -> Result<LenientCount, E> {
        Ok(LenientCount(count.try_into().ok().and_then(likely)))
    }

    fn visit_f64<E>(self, count: f64) -> Result<LenientCount, E> {
        Ok(LenientCount(whole(count).and_then(likely)))
    }

    fn visit_str<E>(self, text: &str) -> Result<LenientCount, E> {
        Ok(LenientCount(count_of(text)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<LenientCount, E> {
        Ok(LenientCount(None))
    }

    fn visit_unit<E>(self) -> Result<LenientCount, E> {
        Ok(LenientCount(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<LenientCount, A::Error> {
        passed_over(items)?;
        Ok(LenientCount(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<LenientCount, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(LenientCount(None))
    }
}

/// The counts of an object; anything else has none.
struct OfDetails;

impl<'de> Visitor<'de> for OfDetails {
    type Value = Details;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Details, A::Error> {
        let mut details = Details::default();
        while let Some((detail, LenientCount(count))) = map.next_entry()? {
            match detail {
                Detail::CachedTokens => details.cached = count,
                Detail::ReasoningTokens => details.reasoning = count,
                Detail::Other => {}
            }
        }
        Ok(details)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Details, A::Error> {
        passed_over(items)?;
        Ok(Details::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_unit<E>(self) -> Result<Details, E> {
        Ok(Details::default())
    }
}

fn passed_over<'de, A: SeqAccess<'de>>(mut items: A) -> Result<(), A::Error> {
    while items.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<(u64, u64, u64, Option<Missing>)> {
        let usage = serde_json::from_str::<Report>(json).ok()?.counts().usage()?;
        Some((usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.missing))
    }

    #[test]
    fn what_can_be_read_counts() {
        for (json, expected) in [
            (r#"{"prompt_tokens":3000.0,"completion_tokens":2e3}"#, Some((3000, 2000, 0, None))),
            (r#"{"prompt_tokens":"3000","completion_tokens":"2000.0"}"#, Some((3000, 2000, 0, None))),
            (r#"{"input_tokens":3,"output_tokens":2}"#, Some((3, 2, 0, None))),
            (r#"{"promptTokens":3,"completionTokens":2,"totalTokens":5}"#, Some((3, 2, 0, None))),
            (
                r#"{"prompt_tokens":0,"input_tokens":3,"output_tokens":2,"completion_tokens":0}"#,
                Some((3, 2, 0, None)),
            ),
            (r#"{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens":null}"#, Some((3, 2, 0, None))),
            (
                r#"{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":12.5},"completion_tokens_details":[]}"#,
                Some((3, 2, 0, None)),
            ),
            (
                r#"{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":"none","x":{"y":[1]}}"#,
                Some((3, 2, 0, None)),
            ),
            (
                r#"{"input_tokens":3,"output_tokens":2,"input_tokens_details":{"cached_tokens":"1"}}"#,
                Some((3, 2, 1, None)),
            ),
            (r#"{"prompt_tokens":3,"total_tokens":5}"#, Some((3, 2, 0, None))),
            (r#"{"completion_tokens":2,"total_tokens":5.0}"#, Some((3, 2, 0, None))),
            (r#"{"prompt_tokens":3,"completion_tokens":null}"#, Some((3, 0, 0, Some(Missing::Output)))),
            (r#"{"prompt_tokens":-1,"completion_tokens":2}"#, Some((0, 2, 0, Some(Missing::Input)))),
            (
                r#"{"prompt_tokens":18446744073709551615,"completion_tokens":2}"#,
                Some((0, 2, 0, Some(Missing::Input))),
            ),
            (r#"{"prompt_tokens":1e30,"completion_tokens":[2]}"#, None),
            (r#"{"total_tokens":5}"#, Some((0, 5, 0, Some(Missing::Split)))),
            ("[]", None),
            ("\"none\"", None),
        ] {
            assert_eq!(read(json), expected, "{json}");
        }
    }
}
