//! What is wrong with the configuration: all of it at once, one fault a line.

use std::fmt;

use crate::config::{ConfigError, Fault};
use crate::prompts::LibraryError;

/// Everything that is wrong, one fault a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub(super) Vec<String>);

impl Faults {
    /// The value, unless there are faults among these, too.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn beside<T>(others: Vec<Self>, value: Result<T, Self>) -> Result<T, Self> {
        let mut all: Vec<String> = others.into_iter().flat_map(|faults| faults.0).collect();
        match value {
            Ok(value) if all.is_empty() => return Ok(value),
            Ok(_) => {}
            Err(faults) => all.extend(faults.0),
        }
        Err(Self(all))
    }
}

impl Faults {
    /// The value, or else its faults behind these.
    pub(super) fn note<T, E: Into<Self>>(&mut self, value: Result<T, E>) -> Option<T> {
        value.map_err(|faults| self.0.extend(faults.into().0)).ok()
    }

    /// The value, or else its faults before these.
    pub(super) fn note_first<T>(&mut self, value: Result<T, Self>) -> Option<T> {
        value.map_err(|faults| drop(self.0.splice(0..0, faults.0))).ok()
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// There are some.
    pub fn none(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    /// All of them, one a line.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault.to_string()])
    }
}

impl From<ConfigError> for Faults {
    fn from(error: ConfigError) -> Self {
        Self(error.faults.iter().map(ToString::to_string).collect())
    }
}

impl From<LibraryError> for Faults {
    fn from(error: LibraryError) -> Self {
        Self(error.faults.iter().map(ToString::to_string).collect())
    }
}
