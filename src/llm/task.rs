//! What a raw request is about, as far as somebody can tell who does not speak its dialect.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::settings::answers;
use super::{RawObject, Usage};

/// Ends of paths behind which text is generated, whoever's API it is.
const GENERATING: &[&str] =
    &["completions", "completion", "infill", "messages", "responses", "chat", "generate"];
/// Ends of paths behind which texts are only read.
const READING: &[&str] = &["embeddings", "embedding", "embed", "rerank", "reranking"];
/// What the limit of an answer is called, by whatever API.
const LIMITS: &[&str] =
    &["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "num_predict"];

/// A raw request, as far as it can be told from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTask {
    /// What it makes a model do.
    pub kind: TaskKind,
    /// Whether answers at its path report what was used.
    pub reports_usage: bool,
    /// The most tokens of all its answers together, if it says.
    pub output_tokens: Option<u64>,
    /// About so long is its body.
    input_tokens: u64,
}

/// What a raw request makes a model do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// It reads, and writes.
    Generates,
    /// It reads.
    Reads,
    /// Nothing, for all that is known.
    Other,
}

impl RawTask {
    /// Looks at a request. `last` is the last segment of its path, decoded; `is_post` says whether it may make anybody
    /// do anything; `object` is its body, if that is a JSON object.
    pub fn of(is_post: bool, last: &str, body: Option<&Bytes>, object: Option<&RawObject>) -> Self {
        let input_tokens = body.map_or(0, |body| Usage::estimated_prompt(body));
        let output_tokens = object.and_then(answer_limit);
        // Google's methods stand behind a colon.
        let is_any = |ends: &[&str]| ends.contains(&last) || last.ends_with("enerateContent");
        let reports_usage = is_post && (is_any(GENERATING) || READING.contains(&last));
        let kind = match is_post {
            true if is_any(GENERATING) || output_tokens.is_some() => TaskKind::Generates,
            true if READING.contains(&last) => TaskKind::Reads,
            _ => TaskKind::Other,
        };
        Self { kind, reports_usage, output_tokens, input_tokens }
    }

    /// What it may use, where answers of which nobody says how long they get take `usual`.
    pub fn expected(&self, usual: u64) -> Usage {
        let (input_tokens, output_tokens) = match self.kind {
            TaskKind::Generates => (self.input_tokens(), self.output_tokens.unwrap_or(usual)),
            TaskKind::Reads => (self.input_tokens(), 0),
            TaskKind::Other => (0, 0),
        };
        Usage { input_tokens, output_tokens, ..Usage::default() }
    }

    /// About so many tokens are read, if any are.
    pub fn input_tokens(&self) -> u64 {
        self.input_tokens
    }
}

fn answer_limit(body: &RawObject) -> Option<u64> {
    let number = |name: &str| serde_json::from_slice::<u64>(body.get(name)?).ok();
    let options =
        || body.get("options").and_then(|json| serde_json::from_slice::<Map<String, Value>>(json).ok());
    let of_all = LIMITS.iter().find_map(|name| number(name));
    let limit = of_all.or_else(|| options()?.get("num_predict")?.as_u64())?;
    Some(limit.saturating_mul(answers(body, number("n"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(last: &str, body: &str) -> RawTask {
        let body = Bytes::from(body.to_owned());
        RawTask::of(true, last, Some(&body), RawObject::parse(body.clone()).ok().as_ref())
    }

    #[test]
    fn the_end_of_a_path_tells_what_is_done() {
        for (last, kind) in [
            ("completions", TaskKind::Generates),
            ("responses", TaskKind::Generates),
            ("chat", TaskKind::Generates),
            ("gemini:streamGenerateContent", TaskKind::Generates),
            ("embed", TaskKind::Reads),
            ("files", TaskKind::Other),
            ("count_tokens", TaskKind::Other),
        ] {
            assert_eq!(task(last, "{}").kind, kind, "{last}");
        }
        assert_eq!(task("unheard_of", r#"{"max_tokens":5}"#).kind, TaskKind::Generates);
        assert_eq!(RawTask::of(false, "completions", None, None).kind, TaskKind::Other);
    }

    #[test]
    fn what_may_be_used_is_told_by_the_body() {
        let expected = |last: &str, body: &str| {
            let usage = task(last, body).expected(100);
            (usage.input_tokens, usage.output_tokens)
        };
        assert_eq!(expected("completions", r#"{"max_tokens":7,"n":3}"#), (6, 21));
        assert_eq!(expected("completions", r#"{"max_tokens":7,"n":3,"prompt":["a","b"]}"#).1, 42);
        assert_eq!(expected("chat", r#"{"options":{"num_predict":9}}"#), (8, 9));
        assert_eq!(expected("completion", r#"{"n_predict":-1}"#), (4, 100));
        assert_eq!(expected("embeddings", r#"{"input":"abcd"}"#), (4, 0));
        assert_eq!(expected("files", "abcdefgh"), (0, 0));
    }
}
