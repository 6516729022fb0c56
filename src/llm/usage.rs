//! Tokens used by one request.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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

/// OpenAI's `usage` object, as far as it counts here.
#[derive(Deserialize)]
struct WireUsage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

impl Usage {
    /// Reads OpenAI's `usage` object; `None` for `null` and for what has no counts.
    pub fn from_openai(json: &[u8]) -> Option<Self> {
        let wire: WireUsage = serde_json::from_slice(json).ok()?;
        if wire.prompt_tokens.is_none() && wire.completion_tokens.is_none() {
            return None;
        }
        Some(Self {
            input_tokens: wire.prompt_tokens.unwrap_or(0),
            output_tokens: wire.completion_tokens.unwrap_or(0),
            cached_input_tokens: wire.prompt_tokens_details.and_then(|d| d.cached_tokens).unwrap_or(0),
            reasoning_tokens: wire.completion_tokens_details.and_then(|d| d.reasoning_tokens).unwrap_or(0),
            source: UsageSource::Provider,
        })
    }

    /// OpenAI's `usage` object.
    pub fn to_openai(&self) -> Value {
        let mut usage = json!({
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens.saturating_add(self.output_tokens),
        });
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
    fn null_details_are_no_fault() {
        let usage =
            Usage::from_openai(br#"{"prompt_tokens":1,"total_tokens":1,"prompt_tokens_details":null}"#);
        assert_eq!(usage.map(|u| u.input_tokens), Some(1));
    }
}
