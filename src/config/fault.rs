//! What is wrong with a configuration, said so that it can be mended.

use std::fmt;

use crate::lint::Misread;

/// One fault: where it is, what it is, and what would mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// A variable, or a file with the place in it.
    pub place: String,
    /// What is wrong.
    pub problem: String,
    /// What would mend it.
    pub cure: String,
    /// Whether it is only that something is not there.
    pub(super) is_lack: bool,
}

impl Fault {
    /// A fault in three parts.
    pub fn new(place: impl Into<String>, problem: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into(), cure: cure.into(), is_lack: false }
    }

    /// The same, of which it is known that only something is not there: it may be what could not be read.
    #[must_use]
    pub fn of_lack(self) -> Self {
        Self { is_lack: true, ..self }
    }

    /// Why a file could not be read, with line and path.
    pub(super) fn misread(file: &str, misread: Misread) -> Self {
        let line = misread.line.map(|line| format!(": line {line}")).unwrap_or_default();
        let path = if misread.path.is_empty() { String::new() } else { format!(": {}", misread.path) };
        Self::new(format!("{file}{line}{path}"), misread.problem, misread.cure)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.problem, self.cure)
    }
}

/// A configuration that cannot be used, with all its faults.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let separator = if index > 0 { "\n" } else { "" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> Self {
        Self { faults: vec![fault] }
    }
}

impl From<Vec<Fault>> for ConfigError {
    fn from(faults: Vec<Fault>) -> Self {
        Self { faults }
    }
}
