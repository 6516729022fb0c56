//! What is wrong with one file of the library.

/// What is wrong with a file, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DocumentFault {
    pub(super) line: Option<usize>,
    pub(super) problem: String,
}

impl DocumentFault {
    pub(super) fn new(line: Option<usize>, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }
}
