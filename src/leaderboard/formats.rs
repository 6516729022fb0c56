//! The forms in which leaderboards are published, read into rows. Pure.
//!
//! A row counts as soon as it can: one that lacks its figure is left out, a document without any row is refused.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ranking::Ranking;
use crate::config::LeaderboardFormat;
use crate::lint::{self, Misread, Syntax};

/// More rows than this are no leaderboard.
pub(super) const MOST_ROWS: usize = 5_000;
/// Longer names are none.
pub(super) const MOST_NAME_BYTES: usize = 256;

/// What a document says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Figures by the names that the source uses.
    pub rows: BTreeMap<String, f64>,
    /// The day of the newest row, if rows have days.
    pub date: Option<String>,
}

/// Why a document could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

impl From<Misread> for Unreadable {
    fn from(misread: Misread) -> Self {
        let line = misread.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let path = if misread.path.is_empty() { String::new() } else { format!("{}: ", misread.path) };
        Self(format!("{line}{path}{}", misread.problem))
    }
}

/// Reads a document.
///
/// # Errors
/// It has not the form, or no rows.
pub fn parse(format: LeaderboardFormat, document: &[u8]) -> Result<Table, Unreadable> {
    let text = std::str::from_utf8(document).map_err(|_| Unreadable("this is not UTF-8".to_owned()))?;
    let table = match format {
        LeaderboardFormat::Aider => aider(text)?,
        LeaderboardFormat::BigCodeBench => big_code_bench(text)?,
        LeaderboardFormat::Scores => Table { rows: lint::read(Syntax::Json, text)?, date: None },
    };
    let rows = table.rows.into_iter().map(|(name, figure)| (name.trim().to_owned(), figure));
    let rows: BTreeMap<String, f64> =
        rows.filter(|(name, figure)| figure.is_finite() && is_name(name)).take(MOST_ROWS + 1).collect();
    match rows.len() {
        0 => Err(Unreadable("there is no row with a figure in it".to_owned())),
        count if count > MOST_ROWS => Err(Unreadable(format!("there are more than {MOST_ROWS} rows"))),
        _ => Ok(Table { rows, ..table }),
    }
}

pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MOST_NAME_BYTES && !name.chars().any(char::is_control)
}

/// A run of Aider's benchmark. What else a run says is not read.
#[derive(Deserialize)]
struct AiderRun {
    model: Option<String>,
    /// Percent of the exercises that were solved at the first or second try.
    pass_rate_2: Option<f64>,
    /// A second model that does the editing.
    editor_model: Option<String>,
    test_cases: Option<u32>,
    date: Option<String>,
    command: Option<String>,
}

/// The lists of Aider: a run each. Runs of two models together are left out, for they rank neither, and so are runs of
/// less than half of the exercises.
///
/// Its names are for people, such as `DeepSeek-V3.2-Exp (Chat)`. The command of a run has the name that programs use,
/// such as `deepseek/deepseek-chat`: where no row can be found by that, the newest run counts as one of this name, too.
fn aider(text: &str) -> Result<Table, Unreadable> {
    let runs: Vec<AiderRun> = lint::read(Syntax::Yaml, text)?;
    let most = runs.iter().filter_map(|run| run.test_cases).max().unwrap_or(0);
    let counts = |run: &&AiderRun| {
        let is_whole = run.test_cases.is_none_or(|cases| cases.saturating_mul(2) >= most);
        let is_single = !run.model.as_deref().unwrap_or_default().contains(" + ");
        run.editor_model.is_none() && is_whole && is_single
    };
    let mut table = Table::default();
    let mut by_command: BTreeMap<&str, (&str, f64)> = BTreeMap::new();
    for run in runs.iter().filter(counts) {
        let (Some(model), Some(figure)) = (&run.model, run.pass_rate_2) else { continue };
        put_best(&mut table.rows, model, figure);
        let date = run.date.as_deref().filter(|date| is_date(date));
        table.date = table.date.max(date.map(str::to_owned));
        if let Some(name) = run.command.as_deref().and_then(model_of_command) {
            let this = (date.unwrap_or_default(), figure);
            let newest = by_command.entry(name).or_insert(this);
            if this.0 > newest.0 || this.0 == newest.0 && this.1 > newest.1 {
                *newest = this;
            }
        }
    }
    let ranking = Ranking::new(table.rows.iter().map(|(name, figure)| (name.as_str(), *figure)));
    let unknown: Vec<(&str, f64)> = by_command
        .into_iter()
        .filter(|(name, _)| !ranking.knows(name))
        .map(|(name, (_, figure))| (name, figure))
        .collect();
    table.rows.extend(unknown.into_iter().map(|(name, figure)| (name.to_owned(), figure)));
    Ok(table)
}

/// The model that a command line names, if it is a name and not one of Aider's short words for one.
fn model_of_command(command: &str) -> Option<&str> {
    let mut words = command.split_whitespace().skip_while(|word| *word != "--model").skip(1);
    let name = words.next()?.trim_matches(['"', '\'']);
    let is_name = name.contains('/') || name.contains('-') && name.bytes().any(|b| b.is_ascii_digit());
    is_name.then_some(name)
}

/// A model's entry on the page of `BigCodeBench`.
#[derive(Deserialize)]
struct BigCodeBenchEntry {
    #[serde(rename = "pass@1")]
    pass_at_1: PassAt1,
}

#[derive(Deserialize)]
struct PassAt1 {
    /// Percent of the tasks, told in words as people do; models that only complete text have none.
    instruct: Option<f64>,
}

fn big_code_bench(text: &str) -> Result<Table, Unreadable> {
    let entries: BTreeMap<String, BigCodeBenchEntry> = lint::read(Syntax::Json, text)?;
    let rows = entries.into_iter().filter_map(|(name, entry)| Some((name, entry.pass_at_1.instruct?)));
    Ok(Table { rows: rows.collect(), date: None })
}

/// Of several runs of one name the best counts.
fn put_best(rows: &mut BTreeMap<String, f64>, name: &str, figure: f64) {
    let best = rows.entry(name.to_owned()).or_insert(figure);
    *best = best.max(figure);
}

/// Whether a text is a day or a month: `2025-10-03`, `2025-10`.
pub(super) fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut number = |digits: usize| {
        parts.next().map(|part| {
            (part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.parse::<u32>().ok())
                .flatten()
        })
    };
    let (year, month, day) = (number(4), number(2), number(2));
    let in_range = |number: Option<Option<u32>>, most| matches!(number, Some(Some(number)) if (1..=most).contains(&number));
    in_range(year, 9999)
        && in_range(month, 12)
        && (day.is_none() || in_range(day, 31))
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(format: LeaderboardFormat, text: &str) -> Vec<(String, f64)> {
        parse(format, text.as_bytes()).unwrap().rows.into_iter().collect()
    }

    fn owned(rows: &[(&str, f64)]) -> Vec<(String, f64)> {
        rows.iter().map(|(name, figure)| ((*name).to_owned(), *figure)).collect()
    }

    #[test]
    fn runs_of_aider_become_rows() {
        let text = "
- model: alpha-1
  test_cases: 100
  commit_hash: 5318380
  pass_rate_1: 10.0
  pass_rate_2: 40.5
  date: 2025-01-02
  command: aider --model vendor/alpha-1
- model: alpha-1
  test_cases: 100
  pass_rate_2: 44.0 # another edit format
  date: 2025-01-03
- model: Beta Chat V2
  pass_rate_2: 20
  date: 2024-05-01
  command: aider --model beta/beta-chat
- model: Beta Chat V3
  pass_rate_2: 30
  date: 2025-05-01
  command: \"aider --model beta/beta-chat # by somebody\"
- model: gamma
  pass_rate_2: 99
  test_cases: 30
- model: delta + alpha-1
  pass_rate_2: 98
- model: epsilon
  editor_model: alpha-1
  pass_rate_2: 97
- model: zeta
  date: 2026-01-01
- model: theta
  pass_rate_2: 6
- model: Theta (08-24)
  pass_rate_2: 7
  command: aider --model theta-08-2024
- model: eta
  pass_rate_2: 5
  command: aider --sonnet --model sonnet
";
        let table = parse(LeaderboardFormat::Aider, text.as_bytes()).unwrap();
        assert_eq!(
            table.rows.into_iter().collect::<Vec<_>>(),
            owned(&[
                ("Beta Chat V2", 20.0),
                ("Beta Chat V3", 30.0),
                ("Theta (08-24)", 7.0),
                ("alpha-1", 44.0),
                ("beta/beta-chat", 30.0),
                ("eta", 5.0),
                ("theta", 6.0),
                ("theta-08-2024", 7.0)
            ])
        );
        assert_eq!(table.date.as_deref(), Some("2025-05-01"));
    }

    #[test]
    fn big_code_bench_ranks_what_follows_instructions() {
        let text = r#"{
            "One": {"link": "x", "pass@1": {"instruct": 36.2, "complete": 47.6}, "size": null},
            "One-Base": {"pass@1": {"instruct": null, "complete": 21.4}},
            "Two": {"pass@1": {"complete": 1.0}}}"#;
        assert_eq!(rows(LeaderboardFormat::BigCodeBench, text), owned(&[("One", 36.2)]));
    }

    #[test]
    fn plain_scores_are_read_as_they_are() {
        assert_eq!(
            rows(LeaderboardFormat::Scores, r#"{"b": -1, " a ": 1250.5, "": 3}"#),
            owned(&[("a", 1250.5), ("b", -1.0)])
        );
    }

    #[test]
    fn what_is_no_leaderboard_is_refused_in_words() {
        use LeaderboardFormat::{Aider, BigCodeBench, Scores};
        for (format, text, words) in [
            (Aider, "<html><body>Not found</body></html>", "not a list"),
            (Aider, "[]", "no row"),
            (Aider, "- model: x\n  pass_rate_2: much\n", "line 2"),
            (Aider, "- model: x\n   pass: [\n", "YAML"),
            (BigCodeBench, "{\"One\": {\"pass@1\"", "JSON"),
            (BigCodeBench, "{\"One\": {}}", "pass@1"),
            (Scores, "{\"a\": \"good\"}", "a: this is"),
            (Scores, "[1]", "not an object"),
            (Scores, "{}", "no row"),
            (Scores, "{\"a\": null}", "a: this is"),
        ] {
            let error = parse(format, text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(parse(Scores, b"\xff\xfe").unwrap_err().to_string().contains("UTF-8"));
        let many: BTreeMap<String, f64> = (0..=MOST_ROWS).map(|at| (format!("m{at}"), 1.0)).collect();
        let many = serde_json::to_vec(&many).unwrap();
        assert!(parse(Scores, &many).unwrap_err().to_string().contains("more than"));
    }

    #[test]
    fn dates_are_days_or_months() {
        for date in ["2025-10-03", "2024-06"] {
            assert!(is_date(date), "{date}");
        }
        for no_date in
            ["", "2025", "2025-13-01", "2025-1-1", "2025-10-32", "2025-10-03-01", "today", "2025-10-"]
        {
            assert!(!is_date(no_date), "{no_date}");
        }
    }
}
