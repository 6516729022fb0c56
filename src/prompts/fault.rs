//! What is wrong with the files of a library, said so that it can be mended.

use std::fmt;

/// What is wrong with one file, as long as nobody has said which file it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DocumentFault {
    pub(super) line: Option<usize>,
    pub(super) problem: String,
    pub(super) cure: String,
}

impl DocumentFault {
    pub(super) fn new(line: Option<usize>, problem: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { line, problem: problem.into(), cure: cure.into() }
    }

    pub(super) fn in_file(self, file: &str) -> PromptFault {
        PromptFault { file: file.to_owned(), line: self.line, problem: self.problem, cure: self.cure }
    }
}

/// Files that do not make a library, with all that is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LibraryError {
    /// At least one.
    pub faults: Vec<PromptFault>,
}

/// What is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptFault {
    /// The file.
    pub file: String,
    /// Its line, where one can be named.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
    /// What would mend it.
    pub cure: String,
}

impl fmt::Display for PromptFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, problem, cure, .. } = self;
        match self.line {
            Some(line) => write!(f, "{file}: line {line}: {problem}; {cure}"),
            None => write!(f, "{file}: {problem}; {cure}"),
        }
    }
}

impl fmt::Display for LibraryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        f.write_str(&faults.join("\n"))
    }
}
