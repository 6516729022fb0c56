//! One source's rows, to be found by whatever name a model goes. Pure.
//!
//! In this order, and never further:
//!
//! 1. rows of the same kind and release;
//! 2. for a dated name: rows of the kind that have no date;
//! 3. for an undated name: the latest dated row of the kind, where that can be told. Several dates of which one lacks
//!    its year cannot be put in order, and then nothing is found.
//!
//! Several rows for the same thing are runs in different settings (effort, edit form, quantisation): the best counts.

use std::collections::HashMap;

use super::name::{ModelName, Release};

/// The rows of a source.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranking {
    by_kind: HashMap<String, Vec<Row>>,
    least: f64,
    most: f64,
}

/// A row of a source.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// What the source calls the model.
    pub(super) name: String,
    /// In the source's own unit.
    pub(super) figure: f64,
    release: Release,
}

impl Ranking {
    pub(super) fn new<'a>(rows: impl Iterator<Item = (&'a str, f64)>) -> Self {
        let mut ranking = Self { least: f64::INFINITY, most: f64::NEG_INFINITY, ..Self::default() };
        for (name, figure) in rows {
            let ModelName { kind, release } = ModelName::of(name);
            ranking.least = ranking.least.min(figure);
            ranking.most = ranking.most.max(figure);
            // A name of nothing but tags would be found by all others of the sort.
            if !kind.is_empty() {
                let row = Row { name: name.to_owned(), figure, release };
                ranking.by_kind.entry(kind).or_default().push(row);
            }
        }
        ranking
    }

    /// The row of a model, by any of its names.
    pub(super) fn find(&self, name: &str) -> Option<&Row> {
        let ModelName { kind, release } = ModelName::of(name);
        let rows = self.by_kind.get(&kind)?;
        let exact = best(rows.iter().filter(|row| row.release.agrees_with(release)));
        match release {
            Release::Any => exact.or_else(|| latest(rows)),
            _ => exact.or_else(|| best(rows.iter().filter(|row| row.release == Release::Any))),
        }
    }

    /// Whether a name has a row of its own, not only that of the model without its date.
    pub(super) fn knows(&self, name: &str) -> bool {
        let is_dated = ModelName::of(name).release != Release::Any;
        self.find(name).is_some_and(|row| !is_dated || row.release != Release::Any)
    }

    /// A figure of this source, from 0 for its worst to 1 for its best.
    pub(super) fn share(&self, figure: f64) -> f64 {
        let range = self.most - self.least;
        if range > 0.0 { ((figure - self.least) / range).clamp(0.0, 1.0) } else { 1.0 }
    }

    /// Its worst and its best figure.
    pub(super) fn range(&self) -> (f64, f64) {
        (self.least, self.most)
    }
}

fn best<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<&'a Row> {
    rows.max_by(|one, other| one.figure.total_cmp(&other.figure))
}

fn latest(rows: &[Row]) -> Option<&Row> {
    let first = rows.first()?.release;
    if rows.iter().all(|row| row.release == first) {
        return best(rows.iter());
    }
    let is_date = |release| matches!(release, Release::Date { .. });
    let in_order =
        rows.iter().all(|row| row.release.order().is_some() && is_date(row.release) == is_date(first));
    let newest = rows.iter().filter_map(|row| row.release.order()).max().filter(|_| in_order)?;
    best(rows.iter().filter(|row| row.release.order() == Some(newest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(names: &[&str]) -> Ranking {
        // Each name has a figure of its own, so that the figures say which row was found.
        Ranking::new(names.iter().zip(1..).map(|(name, figure)| (*name, f64::from(figure))))
    }

    fn found<'a>(ranking: &'a Ranking, name: &str) -> Option<&'a str> {
        ranking.find(name).map(|row| row.name.as_str())
    }

    #[test]
    fn a_deployments_name_finds_its_row_and_no_other() {
        let rows = ranking(&[
            "gpt-4o-2024-05-13",
            "gpt-4o-2024-08-06",
            "gpt-4o-mini",
            "claude-3-5-sonnet-20241022",
            "claude-3.5-sonnet-20240620",
            "llama-3.3-70b-instruct",
            "Llama-3-70B-Instruct",
            "Qwen3 30B A3B",
            "deepseek/deepseek-chat",
            "DeepSeek Chat V3 (prev)",
            "gpt-4-0314",
            "gpt-4-0613",
            "DeepSeek R1",
            "DeepSeek R1 (0528)",
            "gemini-1.5-pro-001",
            "gemini-1.5-pro-002",
            "ollama/codestral",
            "codestral-2405",
        ]);
        for (name, row) in [
            ("gpt-4o-2024-08-06", Some("gpt-4o-2024-08-06")),
            ("openai/gpt-4o", Some("gpt-4o-2024-08-06")),
            ("gpt-4o-2024-05-13", Some("gpt-4o-2024-05-13")),
            ("gpt-4o-2024-11-20", None),
            ("gpt-4o-mini-2024-07-18", Some("gpt-4o-mini")),
            ("gpt-4o-audio-preview", None),
            ("GPT_4o_mini", Some("gpt-4o-mini")),
            ("claude-3-5-sonnet-20241022", Some("claude-3-5-sonnet-20241022")),
            ("anthropic/claude-3.5-sonnet:beta", Some("claude-3-5-sonnet-20241022")),
            ("claude-3-5-sonnet-20240620", Some("claude-3.5-sonnet-20240620")),
            ("claude-3-5-haiku", None),
            ("meta-llama/Llama-3.3-70B-Instruct:free", Some("llama-3.3-70b-instruct")),
            ("llama3:70b", Some("Llama-3-70B-Instruct")),
            ("llama-3-8b-instruct", None),
            ("llama3.3", None),
            ("qwen3:30b-a3b", Some("Qwen3 30B A3B")),
            ("deepseek/deepseek-chat", Some("deepseek/deepseek-chat")),
            ("deepseek-chat", Some("deepseek/deepseek-chat")),
            ("deepseek-ai/DeepSeek-R1", Some("DeepSeek R1")),
            ("deepseek-r1-0528:free", Some("DeepSeek R1 (0528)")),
            ("gpt-4-0613", Some("gpt-4-0613")),
            // Years are missing: which one is the later?
            ("gpt-4", None),
            ("gemini-1.5-pro", Some("gemini-1.5-pro-002")),
            ("gemini-1.5-pro-latest", Some("gemini-1.5-pro-002")),
            ("codestral-latest", Some("ollama/codestral")),
            ("codestral-2501", Some("ollama/codestral")),
            ("free", None),
            ("", None),
        ] {
            assert_eq!(found(&rows, name), row, "{name}");
        }
    }

    #[test]
    fn a_name_is_known_by_more_than_its_model_without_a_date() {
        let rows = ranking(&["m-plus", "n-2024-01-01"]);
        assert!(rows.knows("m-plus") && rows.knows("n") && rows.knows("n-2024-01-01"));
        assert!(!rows.knows("m-plus-08-2024") && !rows.knows("o"));
    }

    #[test]
    fn of_several_runs_the_best_counts() {
        let rows = Ranking::new([("m-1 (low)", 3.0), ("m-1 (high)", 9.0), ("m-1", 5.0)].into_iter());
        assert_eq!(found(&rows, "m-1"), Some("m-1 (high)"));
        let dated = Ranking::new([("m-0613 (low)", 3.0), ("m-0613 (high)", 9.0)].into_iter());
        assert_eq!(found(&dated, "m"), Some("m-0613 (high)"), "the same date is in order with itself");
    }

    #[test]
    fn figures_are_told_as_shares_of_the_range() {
        let rows = Ranking::new([("a", 20.0), ("b", 60.0), ("c", 100.0)].into_iter());
        for (figure, share) in [(20.0, 0.0), (60.0, 0.5), (100.0, 1.0)] {
            assert!((rows.share(figure) - share).abs() < 1e-9, "{figure}");
        }
        assert!(
            (Ranking::new([("a", 7.0)].into_iter()).share(7.0) - 1.0).abs() < 1e-9,
            "the only one is the best"
        );
    }
}
