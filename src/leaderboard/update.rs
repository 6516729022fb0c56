//! Fresh tables and former figures, put together. Pure.
//!
//! A source that failed keeps its former figures. One that is no longer asked for goes, and its figures with it. What is
//! said of a source is said of its address: one of the same name from elsewhere takes over nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::file::{Figures, Source};
use super::formats::Table;
use crate::config::LeaderboardSource;

/// What an asked source gave.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Who was asked.
    pub source: LeaderboardSource,
    /// What it has, or why there is nothing.
    pub table: Result<Table, String>,
}

/// What an update comes to.
#[derive(Clone, Debug)]
pub struct Update {
    /// The figures from now on.
    pub figures: Figures,
    /// What has changed.
    pub changes: Changes,
}

/// What an update changes, for whoever asked for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// A line for each source, in the order in which they were asked, and for those that are gone.
    pub sources: Vec<String>,
    /// How many sources gave nothing.
    pub failed: usize,
    /// Models that had no figure before.
    pub new: Vec<String>,
    /// Models that have none any more.
    pub gone: Vec<String>,
    /// Models with other figures.
    pub changed: Vec<String>,
}

/// So many names are told of each sort.
const MOST_TOLD: usize = 12;

impl Update {
    /// Puts together what was fetched on a day and what there was before.
    pub fn of(former: &Figures, fetched: Vec<Fetched>, today: &str) -> Self {
        let is_known = |source: &LeaderboardSource| former.sources.iter().any(|known| known.is_same(source));
        // They are on the sources that there were, their licences among it.
        let notes = former.notes.iter().filter(|_| fetched.iter().all(|fetched| is_known(&fetched.source)));
        let notes = notes.cloned().collect();
        let mut figures = Figures { date: today.to_owned(), notes, ..Figures::default() };
        let mut changes = Changes::default();
        for Fetched { source, table } in fetched {
            let before = former.sources.iter().find(|known| known.name == source.name);
            let same = before.filter(|before| before.is_same(&source));
            let rows_before = former.rows_of(&source.name).count();
            let table = table.and_then(|table| plausible(table, same.map_or(0, |_| rows_before)));
            match table {
                Ok(table) => {
                    let date = table.date.clone().unwrap_or_else(|| today.to_owned());
                    let since = match before {
                        Some(before) if same.is_some() => {
                            format!("before: {rows_before} of {}", before.date)
                        }
                        Some(before) => {
                            format!("before: {rows_before} of {} from another address", before.date)
                        }
                        None => "new".to_owned(),
                    };
                    let line = format!("{}: {} models of {date} ({since})", source.name, table.rows.len());
                    changes.sources.push(line);
                    figures.put(&source.name, table.rows);
                    figures.sources.push(described(source, date, same));
                }
                Err(why) => {
                    changes.failed += 1;
                    let kept = match before {
                        Some(before) => format!("its {rows_before} models of {} stay", before.date),
                        None => "it has no figures yet".to_owned(),
                    };
                    changes.sources.push(format!("{}: failed: {why}; {kept}", source.name));
                    if let Some(before) = before {
                        let rows = former.rows_of(&source.name);
                        figures.put(
                            &source.name,
                            rows.map(|(name, figure)| (name.to_owned(), figure)).collect(),
                        );
                        figures.sources.push(before.clone());
                    }
                }
            }
        }
        let is_gone = |source: &&Source| !figures.sources.iter().any(|known| known.name == source.name);
        for source in former.sources.iter().filter(is_gone) {
            changes.sources.push(format!("{}: gone, for it is not asked for any more", source.name));
        }
        changes.compare(former, &figures);
        Self { figures, changes }
    }
}

/// A table that has lost most of its rows is rather one that has lost its end.
fn plausible(table: Table, rows_before: usize) -> Result<Table, String> {
    let rows = table.rows.len();
    if rows * 2 < rows_before {
        return Err(format!("only {rows} rows came, where there were {rows_before}"));
    }
    Ok(table)
}

/// A source, with what was known of it before if it is still the same.
fn described(source: LeaderboardSource, date: String, same: Option<&Source>) -> Source {
    let licence = source.licence.or_else(|| same.and_then(|same| same.licence.clone()));
    Source {
        name: source.name,
        url: source.url,
        format: source.format.name().to_owned(),
        licence: Some(licence.unwrap_or_else(|| Source::UNKNOWN_LICENCE.to_owned())),
        date,
        measure: same.and_then(|same| same.measure.clone()),
        scale: same.and_then(|same| same.scale.clone()),
        // Not the former ones: they tell where the former figures came from.
        notes: source.notes,
    }
}

impl Figures {
    fn put(&mut self, source: &str, rows: BTreeMap<String, f64>) {
        for (model, figure) in rows {
            self.models.entry(model).or_default().insert(source.to_owned(), figure);
        }
    }
}

impl Changes {
    fn compare(&mut self, before: &Figures, after: &Figures) {
        let names: BTreeSet<&String> = before.models.keys().chain(after.models.keys()).collect();
        for name in names {
            match (before.models.get(name), after.models.get(name)) {
                (None, _) => self.new.push(name.clone()),
                (_, None) => self.gone.push(name.clone()),
                (one, other) if one != other => self.changed.push(name.clone()),
                _ => {}
            }
        }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [("new", &self.new), ("gone", &self.gone), ("changed", &self.changed)];
        let counts_in_words = counts.map(|(word, names)| format!("{} {word}", names.len()));
        write!(f, "models: {}", counts_in_words.join(", "))?;
        for line in &self.sources {
            write!(f, "\n  {line}")?;
        }
        for (word, names) in counts.iter().filter(|(_, names)| !names.is_empty()) {
            let told: Vec<&str> = names.iter().take(MOST_TOLD).map(String::as_str).collect();
            write!(f, "\n  {word}: {}", told.join(", "))?;
            if names.len() > MOST_TOLD {
                write!(f, " and {} more", names.len() - MOST_TOLD)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LeaderboardFormat;

    fn source(name: &str) -> LeaderboardSource {
        let url = format!("https://{name}.example");
        let format = LeaderboardFormat::Scores;
        LeaderboardSource { name: name.to_owned(), url, format, licence: None, notes: None }
    }

    fn fetched(name: &str, rows: &[(&str, f64)]) -> Fetched {
        let rows = rows.iter().map(|(name, figure)| ((*name).to_owned(), *figure)).collect();
        Fetched { source: source(name), table: Ok(Table { rows, date: None }) }
    }

    fn failed(name: &str) -> Fetched {
        Fetched { source: source(name), table: Err("it did not answer".to_owned()) }
    }

    fn former() -> Figures {
        let all =
            vec![fetched("one", &[("a", 1.0), ("b", 2.0)]), fetched("two", &[("a", 10.0), ("c", 30.0)])];
        let mut former = Update::of(&Figures::default(), all, "2025-01-01").figures;
        former.sources[0].licence = Some("MIT".to_owned());
        former
    }

    #[test]
    fn fresh_tables_take_the_place_of_former_ones() {
        let update = Update::of(
            &former(),
            vec![fetched("one", &[("a", 1.5), ("d", 4.0)]), fetched("two", &[("a", 10.0), ("c", 30.0)])],
            "2025-02-02",
        );
        let changes = &update.changes;
        assert_eq!(
            (&*changes.new, &*changes.gone, &*changes.changed),
            (&["d".to_owned()][..], &["b".to_owned()][..], &["a".to_owned()][..])
        );
        assert_eq!((update.figures.date.as_str(), changes.failed), ("2025-02-02", 0));
        assert_eq!(
            update.figures.sources[0].licence.as_deref(),
            Some("MIT"),
            "what is known of a source stays"
        );
        let told = changes.to_string();
        assert!(told.starts_with("models: 1 new, 1 gone, 1 changed\n"), "{told}");
        assert!(told.contains("one: 2 models of 2025-02-02 (before: 2 of 2025-01-01)"), "{told}");
    }

    #[test]
    fn a_source_that_fails_keeps_its_figures_and_its_date() {
        let update = Update::of(&former(), vec![failed("one"), fetched("two", &[("c", 31.0)])], "2025-02-02");
        let one: Vec<_> = update.figures.rows_of("one").collect();
        assert_eq!(
            (one, update.figures.sources[0].date.as_str()),
            (vec![("a", 1.0), ("b", 2.0)], "2025-01-01")
        );
        assert_eq!(update.figures.rows_of("two").collect::<Vec<_>>(), [("c", 31.0)]);
        assert_eq!(update.changes.failed, 1);
        let told = update.changes.to_string();
        assert!(told.contains("one: failed: it did not answer; its 2 models of 2025-01-01 stay"), "{told}");
    }

    #[test]
    fn a_new_source_that_fails_has_nothing_and_one_that_is_not_asked_for_goes() {
        let update = Update::of(
            &former(),
            vec![fetched("two", &[("a", 10.0), ("c", 30.0)]), failed("three")],
            "2025-02-02",
        );
        let names: Vec<&str> = update.figures.sources.iter().map(|source| source.name.as_str()).collect();
        assert_eq!((names, &*update.changes.gone), (vec!["two"], &["b".to_owned()][..]));
        let told = update.changes.to_string();
        assert!(told.contains("one: gone") && told.contains("three: failed"), "{told}");
    }

    #[test]
    fn a_source_from_elsewhere_takes_over_nothing_of_one_of_its_name() {
        let mut former = former();
        former.notes = vec!["All of them are under the MIT licence.".to_owned()];
        former.sources[1].notes = Some("From a page.".to_owned());
        let ours = |rows: &[(&str, f64)]| {
            let mut ours = fetched("one", rows);
            ours.source.url = "https://ours.example".to_owned();
            ours.source.notes = Some("Our own runs.".to_owned());
            ours
        };
        let two = || fetched("two", &[("a", 10.0), ("c", 30.0)]);
        let same = Update::of(&former, vec![fetched("one", &[("a", 1.0), ("b", 2.0)]), two()], "2025-02-02");
        assert_eq!(same.figures.notes, former.notes, "they hold as long as the sources are the same");

        // Less than half of the rows that another address had.
        let many: Vec<(String, f64)> = (0..9).map(|at| (format!("m{at}"), 1.0)).collect();
        let many: Vec<(&str, f64)> = many.iter().map(|(name, figure)| (name.as_str(), *figure)).collect();
        former.models.extend(Update::of(&former, vec![fetched("one", &many)], "d").figures.models);
        let update = Update::of(&former, vec![ours(&[("a", 5.0)]), two()], "2025-02-02");

        let Figures { notes, sources, .. } = &update.figures;
        assert!(notes.is_empty(), "{notes:?}");
        let one = (sources[0].url.as_str(), sources[0].licence.as_deref(), sources[0].notes.as_deref());
        assert_eq!(one, ("https://ours.example", Some("unknown"), Some("Our own runs.")));
        assert_eq!(sources[0].date, "2025-02-02");
        assert_eq!(sources[1].notes, None);
        let told = update.changes.to_string();
        assert!(
            told.contains("one: 1 models of 2025-02-02 (before: 11 of 2025-01-01 from another"),
            "{told}"
        );

        // Where it fails, the former figures stay, with where they came from.
        let failed = Fetched { table: Err("gone".to_owned()), ..ours(&[]) };
        let update = Update::of(&former, vec![failed, two()], "2025-02-02");
        assert_eq!(update.figures.sources[0], former.sources[0]);
    }

    #[test]
    fn a_table_that_lost_most_of_its_rows_is_not_taken() {
        let many: Vec<(String, f64)> = (0..10).map(|at| (format!("m{at}"), 1.0)).collect();
        let rows: Vec<(&str, f64)> = many.iter().map(|(name, figure)| (name.as_str(), *figure)).collect();
        let former = Update::of(&Figures::default(), vec![fetched("one", &rows)], "2025-01-01").figures;
        let update = Update::of(&former, vec![fetched("one", &rows[..4])], "2025-02-02");
        assert_eq!((update.changes.failed, update.figures.models.len()), (1, 10));
        assert_eq!(Update::of(&former, vec![fetched("one", &rows[..5])], "2025-02-02").changes.gone.len(), 5);
    }

    #[test]
    fn long_lists_are_cut() {
        let rows: Vec<(String, f64)> = (10..40).map(|at| (format!("m{at}"), 1.0)).collect();
        let rows: Vec<(&str, f64)> = rows.iter().map(|(name, figure)| (name.as_str(), *figure)).collect();
        let told =
            Update::of(&Figures::default(), vec![fetched("one", &rows)], "2025-01-01").changes.to_string();
        assert!(told.contains("m10") && told.ends_with("and 18 more"), "{told}");
    }
}
