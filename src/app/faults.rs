//! What is wrong with the configuration: all of it at once, one fault a line.

use std::fmt;

use crate::config::{ConfigError, Fault};
use crate::prompts::LibraryError;

/// Everything that is wrong, one fault a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
