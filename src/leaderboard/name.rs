//! What model a name means: leaderboards and providers write the same one in many ways.
//!
//! A name becomes a *kind* (words and numbers in their order) and a *release* (a date or a revision, or nothing).
//! Left out is what says who sells it, how it is packed and how it was run:
//!
//! - the vendor: all before the last slash, `anthropic.`, `Meta-` before Llama;
//! - tags: `:free`, `:latest`, `-latest`; the revision of a cloud, `-v1:0`;
//! - quantisation and file form: `q4_K_M`, `fp8`, `AWQ`, `.gguf`. A quantised model counts as the model that it is made of;
//! - what an instruct model is called: `instruct`, `it`, `chat`, `versatile`. A name that does not say `base` means a model for
//!   conversations. `gpt-5-chat` is another model than `gpt-5`, so behind `gpt` the word stays;
//! - in brackets: effort, thinking and edit form, such as `(high)` or `(32k thinking tokens)`.
//!
//! Everything else has to be the same, sizes and versions and words such as `mini`, `turbo`, `preview` and `exp`
//! included: no score is better than the score of another model. `claude-3-5-sonnet` and `claude-3.5-sonnet`,
//! `llama3.1:8b` and `Llama-3.1-8B-Instruct`, `v3p1` and `3.1` are one.

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelName {
    /// What has to be the same.
    pub(super) kind: String,
    pub(super) release: Release,
}

/// Which one of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// Nothing is said.
    Any,
    /// `2024-08-06`, `20240806`, `2408`, `0806`: some parts may be unsaid.
    Date { year: Option<u16>, month: u8, day: Option<u8> },
    /// `001`.
    Revision(u16),
}

/// Behind a colon, where they say how a model is sold or run.
const TAGS: &[&str] =
    &["free", "latest", "beta", "nitro", "floor", "extended", "online", "exacto", "thinking", "cloud"];

/// In front of a dot.
const VENDORS: &[&str] = &[
    "us",
    "eu",
    "apac",
    "global",
    "anthropic",
    "amazon",
    "meta",
    "mistral",
    "cohere",
    "ai21",
    "deepseek",
    "openai",
    "qwen",
];

/// In brackets: how a model was run.
const RUNS: &[&str] = &[
    "high",
    "medium",
    "low",
    "minimal",
    "default",
    "no",
    "think",
    "thinking",
    "tokens",
    "diff",
    "whole",
    "udiff",
    "fenced",
    "architect",
    "deprecated",
    "8k",
    "16k",
    "24k",
    "32k",
    "64k",
];

/// What models for conversations are called, by their makers and by those who sell them.
const TUNED: &[&str] = &["instruct", "it", "chat", "versatile", "hf", "api"];

/// Contexts that stand in names.
const CONTEXTS: &[&str] = &["2048", "4096", "8192", "16384", "32768", "65536", "131072"];

impl ModelName {
    pub(super) fn of(name: &str) -> Self {
        let name = name.to_ascii_lowercase().replace('+', " plus ");
        let name = without_runs(without_vendor(name.trim()));
        let words = words(&name);
        let (words, release) = split_release(words);
        let mut tokens: Vec<String> = Vec::new();
        for word in words.iter().flat_map(|word| parts_of(word)) {
            let after_gpt = tokens.first().is_some_and(|first| first == "gpt");
            let is_tuned = TUNED.contains(&word.as_str()) && !(word == "chat" && after_gpt);
            if is_tuned || word == "latest" || CONTEXTS.contains(&word.as_str()) {
                continue;
            }
            // `3-5` is `3.5`: two bare numbers, the second of one digit.
            match tokens.last_mut() {
                Some(last) if is_bare(last, 2) && is_bare(&word, 1) => *last = format!("{last}.{word}"),
                // `v3` is `3`.
                Some(last) if last == "v" && word.starts_with(|c: char| c.is_ascii_digit()) => *last = word,
                _ => tokens.push(word),
            }
        }
        let is_llama = |word: &String| word == "llama" || word == "codellama";
        if tokens.first().is_some_and(|first| first == "meta") && tokens.get(1).is_some_and(is_llama) {
            tokens.remove(0);
        }
        Self { kind: tokens.join(" "), release }
    }
}

impl Release {
    /// Whether both say the same, as far as both say anything.
    pub(super) fn agrees_with(self, other: Self) -> bool {
        match (self, other) {
            (
                Self::Date { year, month, day },
                Self::Date { year: other_year, month: other_month, day: other_day },
            ) => {
                let agree = |one: Option<u16>, two: Option<u16>| one.is_none() || two.is_none() || one == two;
                month == other_month
                    && agree(year, other_year)
                    && agree(day.map(u16::from), other_day.map(u16::from))
                    && (year.is_some() && other_year.is_some() || day.is_some() && other_day.is_some())
            }
            _ => self == other,
        }
    }

    /// Where it stands among others, if that can be told: a date without its year could be of any.
    pub(super) fn order(self) -> Option<(u16, u8, u8)> {
        match self {
            Self::Any => None,
            Self::Date { year, month, day } => year.map(|year| (year, month, day.unwrap_or(0))),
            Self::Revision(number) => Some((number, 0, 0)),
        }
    }
}

/// The last part of a path, without what clouds put around it.
fn without_vendor(name: &str) -> &str {
    let name = name.rsplit(['/']).next().unwrap_or(name);
    let mut name = name.rsplit_once("--").map_or(name, |(_, name)| name);
    while let Some((vendor, rest)) = name.split_once('.') {
        if !VENDORS.contains(&vendor) {
            break;
        }
        name = rest;
    }
    let Some((before, tag)) = name.rsplit_once(':') else { return name };
    if TAGS.contains(&tag) {
        return before;
    }
    let is_number = !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_digit());
    match before.rsplit_once("-v") {
        Some((before, revision)) if is_number && is_bare(revision, 2) => before,
        _ => name,
    }
}

/// Without brackets that only say how a model was run.
fn without_runs(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, (within, behind))) =
        rest.split_once('(').and_then(|(before, rest)| Some((before, rest.split_once(')')?)))
    {
        out.push_str(before);
        let mut words = within.split([' ', '-', ',']).filter(|word| !word.is_empty());
        if !within.contains('=') && !words.all(|word| RUNS.contains(&word) || is_packing(word)) {
            out.push(' ');
            out.push_str(within);
            out.push(' ');
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// The words of a name, without those for quantisation and file form.
fn words(name: &str) -> Vec<&str> {
    let is_between = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_');
    let coarse = name.split(is_between).filter(|word| !word.is_empty() && !is_packing(word));
    let fine = coarse.flat_map(|word| word.split('_')).filter(|word| !word.is_empty());
    let words = fine.map(|word| word.strip_suffix(".gguf").unwrap_or(word).trim_matches('.'));
    words.filter(|word| !word.is_empty() && !is_packing(word)).collect()
}

/// Whether a word says how weights are stored: `q4_k_m`, `iq2_xs`, `fp16`, `w4a16`, `4bit`, `awq`, `gguf`.
fn is_packing(word: &str) -> bool {
    const WORDS: &[&str] =
        &["gguf", "ggml", "awq", "gptq", "exl2", "exl3", "mlx", "ud", "imatrix", "bnb", "quantized"];
    const NUMBERED: &[&str] = &["fp", "bf", "f", "int", "nf", "mxfp", "nvfp"];
    let word = word.strip_suffix(".gguf").unwrap_or(word);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if WORDS.contains(&word) || word.strip_suffix("bit").is_some_and(digits) {
        return true;
    }
    // Weights and activations.
    if word
        .strip_prefix('w')
        .and_then(|rest| rest.split_once('a'))
        .is_some_and(|(w, a)| digits(w) && digits(a))
    {
        return true;
    }
    let bits = NUMBERED.iter().find_map(|prefix| word.strip_prefix(prefix).filter(|rest| digits(rest)));
    if bits.is_some_and(|bits| matches!(bits, "4" | "8" | "16" | "32")) {
        return true;
    }
    let quant = word.strip_prefix("iq").or_else(|| word.strip_prefix('q'));
    quant.is_some_and(|rest| {
        let mut parts = rest.split('_');
        let bits = parts.next().unwrap_or_default();
        let is_form =
            |part: &str| matches!(part, "0" | "1" | "k" | "s" | "m" | "l" | "xs" | "xxs" | "xl" | "nl");
        bits.len() == 1 && digits(bits) && parts.all(is_form)
    })
}

/// Takes the date or the revision out of the words.
fn split_release(words: Vec<&str>) -> (Vec<&str>, Release) {
    for at in 0..words.len() {
        let rest = words.get(at..).unwrap_or_default();
        // A name does not begin with its date.
        let Some((release, length)) = release_at(rest).filter(|_| at > 0) else { continue };
        let others = words.iter().enumerate().filter(|(index, _)| !(at..at + length).contains(index));
        return (others.map(|(_, word)| *word).collect(), release);
    }
    (words, Release::Any)
}

/// The release with which these words begin, and how many words it takes.
fn release_at(words: &[&str]) -> Option<(Release, usize)> {
    let number = |at: usize, digits: usize| {
        let word = words.get(at).filter(|word| word.len() == digits)?;
        word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse::<u32>().ok())?
    };
    let date = |year: Option<u32>, month: u32, day: Option<u32>| {
        let in_range = year.is_none_or(|year| (2020..2040).contains(&year))
            && (1..=12).contains(&month)
            && day.is_none_or(|day| (1..=31).contains(&day));
        let small = |number: u32| u8::try_from(number).ok();
        let year = year.map(u16::try_from).transpose().ok()?;
        let day = day.map(u8::try_from).transpose().ok()?;
        in_range.then_some(Release::Date { year, month: small(month)?, day })
    };
    if let (Some(year), Some(month)) = (number(0, 4), number(1, 2)) {
        let whole = number(2, 2).and_then(|day| date(Some(year), month, Some(day)));
        if let Some(found) =
            whole.map(|whole| (whole, 3)).or_else(|| Some((date(Some(year), month, None)?, 2)))
        {
            return Some(found);
        }
    }
    if let (Some(month), Some(year)) = (number(0, 2), number(1, 4))
        && let Some(found) = date(Some(year), month, None)
    {
        return Some((found, 2));
    }
    if let (Some(month), Some(day)) = (number(0, 2), number(1, 2)) {
        return Some((date(None, month, Some(day))?, 2));
    }
    let word = *words.first()?;
    let found = match word.len() {
        8 => number(0, 8).and_then(|n| date(Some(n / 10_000), n / 100 % 100, Some(n % 100))),
        6 => number(0, 6).and_then(|n| date(Some(2000 + n / 10_000), n / 100 % 100, Some(n % 100))),
        4 => number(0, 4).and_then(|n| {
            // Years come before months where both can be told apart.
            date(Some(2000 + n / 100), n % 100, None).or_else(|| date(None, n / 100, Some(n % 100)))
        }),
        // `25.01`.
        5 => word.split_once('.').filter(|(year, month)| year.len() == 2 && month.len() == 2).and_then(
            |(year, month)| date(Some(2000 + year.parse::<u32>().ok()?), month.parse().ok()?, None),
        ),
        3 if word.starts_with('0') => {
            number(0, 3).and_then(|n| Some(Release::Revision(u16::try_from(n).ok()?)))
        }
        _ => None,
    };
    found.map(|found| (found, 1))
}

/// A word, split where letters are followed by digits: `llama3.1` is `llama` and `3.1`. `p` between digits is a point.
fn parts_of(word: &str) -> Vec<String> {
    let chars: Vec<char> = word.chars().collect();
    let digit_at = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(char::is_ascii_digit);
    let mut parts = vec![String::new()];
    let mut last = None;
    for (at, &c) in chars.iter().enumerate() {
        let is_point = c == 'p' && digit_at(at.checked_sub(1)) && digit_at(Some(at + 1));
        let c = if is_point { '.' } else { c };
        if c.is_ascii_digit() && last.is_some_and(|last: char| last.is_ascii_alphabetic()) {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
        last = Some(c);
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Whether a text is a whole number of at most so many digits.
fn is_bare(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> String {
        ModelName::of(name).kind
    }

    fn date(year: u16, month: u8, day: u8) -> Release {
        Release::Date { year: Some(year), month, day: Some(day) }
    }

    #[test]
    fn one_model_in_many_ways_is_one_model() {
        for names in [
            &[
                "llama-3.3-70b-instruct",
                "meta-llama/Llama-3.3-70B-Instruct:free",
                "Llama-3.3-70B-Instruct-Q4_K_M.gguf",
                "llama3.3:70b",
                "llama-3.3-70b-versatile",
                "llama3.3:70b-instruct-q8_0",
                "accounts/fireworks/models/llama-v3p3-70b-instruct",
                "us.meta.llama3-3-70b-instruct-v1:0",
                "nvidia/Llama-3.3-70B-Instruct-FP8",
                "unsloth/Llama-3.3-70B-Instruct-bnb-4bit",
            ][..],
            &["qwen3:30b-a3b", "Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b-instruct", "Qwen3 30B A3B"],
            &[
                "claude-3-5-sonnet-20241022",
                "anthropic/claude-3.5-sonnet",
                "claude-3-5-sonnet-latest",
                "claude-3-5-sonnet@20241022",
                "anthropic.claude-3-5-sonnet-20241022-v2:0",
                "anthropic/claude-3.5-sonnet:beta",
            ],
            &["DeepSeek V3 (0324)", "deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"],
            &["Command R+", "cohere/command-r-plus", "command-r-plus-08-2024"],
            &["Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct", "llama3-8b-8192", "llama3:8b"],
            &["gpt-5 (high)", "gpt-5 (low)", "openai/gpt-5", "GPT-5 (reasoning=high)"],
            &["Codestral-22B-v0.1-Q4_K_M", "mistralai/Codestral-22B-v0.1", "codestral:22b-v0.1-q8_0"],
            &["claude-opus-4-1", "Claude Opus 4.1", "claude-opus-4-1-20250805"],
            &[
                "Qwen2.5-Coder-32B-Instruct",
                "qwen-2.5-coder-32b-instruct",
                "qwen2.5-coder:32b",
                "Qwen2.5-Coder-32B-Instruct-AWQ",
            ],
            &["mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral:8x7b-v0.1"],
        ] {
            for name in names {
                assert_eq!(kind(name), kind(names[0]), "{name}");
            }
        }
    }

    #[test]
    fn other_models_are_others() {
        for (one, other) in [
            ("gpt-4o", "gpt-4o-mini"),
            ("gpt-4o", "chatgpt-4o-latest"),
            ("gpt-4", "gpt-4-turbo"),
            ("gpt-4", "gpt-4-1106-preview"),
            ("gpt-5", "gpt-5-chat-latest"),
            ("o1", "o1-preview"),
            ("o3", "o3-mini"),
            ("llama-3-8b", "llama-3-70b"),
            ("llama-3-8b", "llama-3.1-8b"),
            ("Llama-3-8B-Instruct", "Llama-3-8B-Base"),
            ("qwen3-30b-a3b", "qwen3-235b-a22b"),
            ("qwen2.5-32b", "qwen2.5-coder-32b"),
            ("mixtral-8x7b", "mixtral-8x22b"),
            ("gemini-2.0-flash", "gemini-2.0-flash-exp"),
            ("gemini-2.5-flash", "gemini-2.5-flash-lite"),
            ("mistral-medium", "mistral-small"),
            ("phi-3-medium-128k-instruct", "phi-3-small-128k-instruct"),
            ("deepseek-chat", "deepseek-coder"),
            ("claude-3-opus", "claude-3-sonnet"),
        ] {
            assert_ne!(kind(one), kind(other), "{one} and {other}");
        }
    }

    #[test]
    fn releases_are_read_in_all_their_forms() {
        for (name, release) in [
            ("gpt-4o-2024-08-06", date(2024, 8, 6)),
            ("claude-3-5-sonnet-20241022", date(2024, 10, 22)),
            ("mistral-large-2411", Release::Date { year: Some(2024), month: 11, day: None }),
            ("Codestral 25.01", Release::Date { year: Some(2025), month: 1, day: None }),
            ("command-r-plus-08-2024", Release::Date { year: Some(2024), month: 8, day: None }),
            ("gpt-4-0613", Release::Date { year: None, month: 6, day: Some(13) }),
            ("DeepSeek R1 (0528)", Release::Date { year: None, month: 5, day: Some(28) }),
            ("Gemini 2.5 Pro Preview 05-06", Release::Date { year: None, month: 5, day: Some(6) }),
            ("chatgpt-4o-latest (2025-03-29)", date(2025, 3, 29)),
            ("gemini-1.5-pro-002", Release::Revision(2)),
            ("doubao-pro-240628", date(2024, 6, 28)),
            ("llama3-70b-8192", Release::Any),
            ("gpt-4.1", Release::Any),
            ("claude-3-5-sonnet", Release::Any),
            ("gemma-3-27b-it", Release::Any),
            ("2024", Release::Any),
            ("", Release::Any),
        ] {
            assert_eq!(ModelName::of(name).release, release, "{name}");
        }
    }

    #[test]
    fn releases_agree_as_far_as_both_speak() {
        let month = Release::Date { year: Some(2024), month: 8, day: None };
        let without_year = Release::Date { year: None, month: 8, day: Some(6) };
        assert!(date(2024, 8, 6).agrees_with(month) && date(2024, 8, 6).agrees_with(without_year));
        assert!(!date(2024, 8, 6).agrees_with(date(2024, 8, 7)) && !month.agrees_with(without_year));
        assert!(!date(2024, 8, 6).agrees_with(Release::Any) && Release::Any.agrees_with(Release::Any));
        assert!(!Release::Revision(1).agrees_with(Release::Revision(2)));
    }

    #[test]
    fn any_text_is_a_name() {
        for name in ["", "/", ":", "((", "a)(b", "----", "::free", "é漢字-7b", "v", "p", "1p1", "-v:0", "."]
        {
            let _ = ModelName::of(name);
        }
    }
}
