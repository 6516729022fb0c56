//! Notes which fields of a thing are different: with both values where they are harmless, by name where not.

use std::fmt::Display;
use std::time::Duration;

use super::{Change, How, What};

/// The fields that are different, in words.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<String>);

impl Fields {
    /// A field whose values may be seen.
    pub(super) fn shown<T: PartialEq + Display>(&mut self, name: &str, old: &T, new: &T) {
        if old != new {
            self.0.push(format!("{name} {old} → {new}"));
        }
    }

    /// As [`Fields::shown`], where there may be none.
    pub(super) fn shown_if_any<T: PartialEq + Display>(
        &mut self,
        name: &str,
        old: Option<&T>,
        new: Option<&T>,
    ) {
        let text = |value: Option<&T>| value.map_or_else(|| "none".to_owned(), ToString::to_string);
        if old != new {
            self.0.push(format!("{name} {} → {}", text(old), text(new)));
        }
    }

    /// As [`Fields::shown`], for a time.
    pub(super) fn seconds(&mut self, name: &str, old: Duration, new: Duration) {
        if old != new {
            self.0.push(format!("{name} {} s → {} s", old.as_secs_f64(), new.as_secs_f64()));
        }
    }

    /// A field whose values say too much, or too little.
    pub(super) fn named<T: PartialEq + ?Sized>(&mut self, name: &str, old: &T, new: &T) {
        if old != new {
            self.0.push(format!("{name} changed"));
        }
    }

    /// Something else to say.
    pub(super) fn note(&mut self, words: String) {
        self.0.push(words);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is different of the whole thing, if anything is.
    pub(super) fn into_change(self, what: What, name: &str) -> Option<Change> {
        (!self.0.is_empty()).then(|| Change::new(what, name, How::Changed, self.0))
    }

    pub(super) fn into_words(self) -> Vec<String> {
        self.0
    }
}
