//! Which prompts are translated, and which translations are behind their source.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::document::Document;
use super::language::Language;
use super::library::{PromptLibrary, source_of};

/// Every prompt in every language of the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The languages, in the order of each row's states.
    pub languages: Vec<Language>,
    /// One row a prompt.
    pub rows: Vec<Row>,
}

/// One prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name, with a label behind `@`.
    pub name: String,
    /// The hash that up-to-date translations name in `source_hash`.
    pub hash: String,
    /// One state a language.
    pub states: Vec<State>,
}

/// What a prompt is in one language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The text that others translate.
    Source,
    /// Translated from the source as it is now.
    Current,
    /// Translated from an earlier source.
    Stale,
    /// Translated from an unknown source: it names no `source_hash`.
    Unknown,
    /// Not translated.
    Missing,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Current => "current",
            Self::Stale => "STALE",
            Self::Unknown => "UNKNOWN",
            Self::Missing => "MISSING",
        }
    }
}

impl Coverage {
    /// Looks at all prompts. The source of a prompt is its text in the default language, or else in
    /// the first language it has. Of an operator's own prompts, if there are any: those that come with the program
    /// are not theirs to translate.
    pub fn of(library: &PromptLibrary) -> Self {
        let is_shipped =
            |translations: &BTreeMap<Language, Document>| translations.values().any(|d| d.is_shipped);
        let all_shipped = library.listed().all(|(_, translations)| is_shipped(translations));
        let listed = || library.listed().filter(|(_, translations)| all_shipped || !is_shipped(translations));
        let languages: BTreeSet<&Language> =
            listed().flat_map(|(_, translations)| translations.keys()).collect();
        let languages: Vec<Language> = languages.into_iter().cloned().collect();
        let default = library.default_language();
        let rows = listed().filter_map(|((name, label), translations)| {
            let source = source_of(translations, default)?;
            let hash = source.hash();
            let state = |language: &Language| match translations.get(language) {
                None => State::Missing,
                Some(document) if document.place.language == source.place.language => State::Source,
                Some(document) => match &document.front.source_hash {
                    None => State::Unknown,
                    Some(named) if *named == hash => State::Current,
                    Some(_) => State::Stale,
                },
            };
            let label = label.as_ref().map_or_else(String::new, |label| format!("@{label}"));
            Some(Row { name: format!("{name}{label}"), states: languages.iter().map(state).collect(), hash })
        });
        Self { rows: rows.collect(), languages }
    }

    /// Whether every prompt is in every language, translated from its source as it is now.
    pub fn is_complete(&self) -> bool {
        let mut states = self.rows.iter().flat_map(|row| &row.states);
        states.all(|state| matches!(state, State::Source | State::Current))
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("prompt".len());
        write!(f, "{:width$}  {:19}", "prompt", "source_hash")?;
        for language in &self.languages {
            write!(f, "  {:8}", language.as_str())?;
        }
        for row in &self.rows {
            write!(f, "\n{:width$}  {:19}", row.name, row.hash)?;
            for state in &row.states {
                write!(f, "  {:8}", state.as_str())?;
            }
        }
        Ok(())
    }
}
