//! Tokens used by one request.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::lenient::read_lenient;
use super::usage_report::{Counts, Report};

/// How many tokens a request used. Cached and reasoning tokens are contained in the other two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer, its reasoning included.
    pub output_tokens: u64,
    /// Tokens of the prompt that the provider had in its cache.
    pub cached_input_tokens: u64,
    /// Tokens of the answer that were reasoning.
    pub reasoning_tokens: u64,
    /// Who counted.
    pub source: UsageSource,
    /// What the provider has left out of its report.
    pub missing: Option<Missing>,
}

/// What a report of usage lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The tokens of the prompt, which stand as 0.
    Input,
    /// The tokens of the answer, which stand as 0.
    Output,
    /// How the sum is split: all of it stands as tokens of the answer.
    Split,
}

/// Where a count comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsageSource {
    /// The provider counted.
    #[default]
    Provider,
    /// The provider said nothing; the gateway estimated.
    Estimated,
}

impl UsageSource {
    /// The word for logs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Estimated => "estimated",
        }
    }
}

impl Usage {
    /// Reads a `usage` object; `None` for `null` and for what has no counts.
    pub fn from_openai(json: &[u8]) -> Option<Self> {
        read_lenient::<Report>(json).ok()?.counts().usage()
    }

    /// The counts that a provider reports; `None` if it reports neither.
    pub fn of_counts(input: Option<u64>, output: Option<u64>) -> Option<Self> {
        Counts { input, output, ..Counts::default() }.usage()
    }

    /// The same, with the count that it lacks from an earlier report of the same answer.
    #[must_use]
    pub fn after(self, earlier: Option<Self>) -> Self {
        let Some(earlier) = earlier.filter(|earlier| earlier.missing != self.missing) else { return self };
        match (self.missing, earlier.missing) {
            (None, _) | (_, Some(Missing::Split)) => self,
            (Some(Missing::Input), _) => Self { input_tokens: earlier.input_tokens, missing: None, ..self },
            (Some(Missing::Output), _) => {
                Self { output_tokens: earlier.output_tokens, missing: None, ..self }
            }
            (Some(Missing::Split), _) => earlier,
        }
    }

    /// The same with the missing count from an estimate, which makes the whole an estimate.
    #[must_use]
    pub fn completed_by(self, estimate: &Self) -> Self {
        let estimated = Self { source: UsageSource::Estimated, missing: None, ..self };
        match self.missing {
            None => self,
            Some(Missing::Input) => Self { input_tokens: estimate.input_tokens, ..estimated },
            Some(Missing::Output) => Self { output_tokens: estimate.output_tokens, ..estimated },
            Some(Missing::Split) => {
                let input_tokens = estimate.input_tokens.min(self.output_tokens);
                Self { input_tokens, output_tokens: self.output_tokens - input_tokens, ..estimated }
            }
        }
    }

    /// The same for an answer that has no tokens of its own.
    #[must_use]
    pub fn of_prompt_alone(self) -> Self {
        match self.missing {
            Some(Missing::Split) => {
                Self { input_tokens: self.output_tokens, output_tokens: 0, missing: None, ..self }
            }
            Some(Missing::Output) => Self { missing: None, ..self },
            Some(Missing::Input) | None => self,
        }
    }

    /// OpenAI's `usage` object.
    pub fn to_openai(&self) -> Value {
        let mut usage = match self.missing {
            None => json!({
                "prompt_tokens": self.input_tokens,
                "completion_tokens": self.output_tokens,
                "total_tokens": self.input_tokens.saturating_add(self.output_tokens),
            }),
            Some(Missing::Input) => json!({"completion_tokens": self.output_tokens}),
            Some(Missing::Output) => json!({"prompt_tokens": self.input_tokens}),
            Some(Missing::Split) => json!({"total_tokens": self.output_tokens}),
        };
        if let Some(usage) = usage.as_object_mut() {
            if self.cached_input_tokens > 0 {
                usage.insert(
                    "prompt_tokens_details".into(),
                    json!({"cached_tokens": self.cached_input_tokens}),
                );
            }
            if self.reasoning_tokens > 0 {
                let details = json!({"reasoning_tokens": self.reasoning_tokens});
                usage.insert("completion_tokens_details".into(), details);
            }
        }
        usage
    }

    /// What two answers took together. An estimate in it makes the whole an estimate.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let is_estimated = [self.source, other.source].contains(&UsageSource::Estimated);
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cached_input_tokens: self.cached_input_tokens.saturating_add(other.cached_input_tokens),
            reasoning_tokens: self.reasoning_tokens.saturating_add(other.reasoning_tokens),
            source: if is_estimated { UsageSource::Estimated } else { UsageSource::Provider },
            missing: None,
        }
    }

    /// What `bytes` of text come to when nobody has counted: four bytes a token.
    pub fn estimated_tokens(bytes: usize) -> u64 {
        u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_all_counts() {
        let usage = Usage::from_openai(
            br#"{"prompt_tokens":19,"completion_tokens":8,"total_tokens":27,"extra":{},
                 "prompt_tokens_details":{"cached_tokens":18},"completion_tokens_details":{"reasoning_tokens":3}}"#,
        )
        .unwrap();

        assert_eq!((usage.input_tokens, usage.output_tokens), (19, 8));
        assert_eq!((usage.cached_input_tokens, usage.reasoning_tokens), (18, 3));
        assert_eq!(usage.to_openai()["total_tokens"], 27);
    }

    #[test]
    fn a_sum_with_an_estimate_is_one() {
        let counted = Usage {
            input_tokens: 1,
            output_tokens: 2,
            cached_input_tokens: 3,
            reasoning_tokens: 4,
            ..Usage::default()
        };
        let estimated = Usage { input_tokens: u64::MAX, source: UsageSource::Estimated, ..Usage::default() };

        let twice = counted.plus(counted);
        assert_eq!((twice.input_tokens, twice.output_tokens), (2, 4));
        assert_eq!((twice.cached_input_tokens, twice.reasoning_tokens), (6, 8));
        assert_eq!(twice.source, UsageSource::Provider);
        let both = counted.plus(estimated);
        assert_eq!((both.input_tokens, both.source), (u64::MAX, UsageSource::Estimated));
    }

    #[test]
    fn null_is_no_usage() {
        for json in ["null", "{}", "3", "{\"prompt_tokens\":null}"] {
            assert_eq!(Usage::from_openai(json.as_bytes()), None, "{json}");
        }
    }

    #[test]
    fn a_missing_count_comes_from_before_or_is_estimated() {
        let read = |json: &str| Usage::from_openai(json.as_bytes()).unwrap();
        let (input, output) = (read(r#"{"input_tokens":3}"#), read(r#"{"output_tokens":2}"#));
        let both = output.after(Some(input));
        assert_eq!((both.input_tokens, both.output_tokens, both.missing), (3, 2, None));
        assert_eq!(output.after(None), output);
        let estimate = Usage { output_tokens: 9, ..Usage::default() };
        let estimated = input.completed_by(&estimate);
        assert_eq!((estimated.input_tokens, estimated.output_tokens), (3, 9));
        assert_eq!(estimated.source, UsageSource::Estimated);
        assert_eq!(both.completed_by(&estimate), both);
        assert_eq!(output.to_openai(), json!({"completion_tokens": 2}));
        let sum = read(r#"{"total_tokens":5}"#);
        let estimate = |input_tokens| Usage { input_tokens, ..Usage::default() };
        for (input, expected) in [(3, (3, 2)), (9, (5, 0))] {
            let split = sum.completed_by(&estimate(input));
            assert_eq!((split.input_tokens, split.output_tokens), expected);
            assert_eq!(split.source, UsageSource::Estimated);
        }
        assert_eq!(
            (sum.after(Some(both)), both.after(Some(sum)), input.after(Some(sum))),
            (both, both, input)
        );
        assert_eq!(sum.to_openai(), json!({"total_tokens": 5}));
        for (usage, tokens) in [(sum, 5), (input, 3), (read(r#"{"prompt_tokens":3,"total_tokens":3}"#), 3)] {
            let alone = usage.of_prompt_alone();
            assert_eq!((alone.input_tokens, alone.output_tokens, alone.missing), (tokens, 0, None));
        }
    }

    #[test]
    fn null_details_are_no_fault() {
        let usage =
            Usage::from_openai(br#"{"prompt_tokens":1,"total_tokens":1,"prompt_tokens_details":null}"#);
        assert_eq!(usage.map(|u| u.input_tokens), Some(1));
    }
}
